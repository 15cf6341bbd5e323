"""Whether a step of an apply may start now: what it comes after, what it needs, and how many of its matrix may run at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from flowplan.ledger import Ledger, group_key
from flowplan.outcome import Outcome
from flowplan.schedule import Step
from flowplan.schemas.plans import Action
from flowplan.schemas.runs import Recorded, Status


class Gate:
    """Opens for steps; ``given_up`` are the addresses of runs that are not followed any more."""

    def __init__(self, steps: Mapping[str, Step], waiting: Collection[str], ledger: Ledger, outcome: Outcome) -> None:
        self._steps, self._waiting, self._ledger, self._outcome = steps, waiting, ledger, outcome
        self.given_up: set[str] = set()

    def verdict(self, step: Step, starting: dict[str, int]) -> tuple[str, str]:
        """``go``, "" for not yet and what has to change first, or why it will never start."""
        change, settings = step.change, step.change.settings
        for address in step.after:
            if address in self._steps and self._steps[address].state != "done":
                return "", address
        if not change.action.starts:
            return "go", ""
        for need in settings.needs[step.met :]:
            blocked = self._need(need)
            if blocked is not None:
                return blocked, need
            step.met += 1
        if (
            settings.replace == "after_finish"
            and change.action is Action.REPLACE
            and change.address in self._ledger.live
        ):
            return "", change.address
        if settings.max_parallel is not None:
            live = sum(1 for address in self._ledger.groups.get(settings.group, ()) if address not in self._waiting)
            if live + starting.get(settings.group, 0) >= settings.max_parallel:
                return "", group_key(settings.group)
        return "go", ""

    def _need(self, need: str) -> str | None:
        """None when the needed run has succeeded; "" while it may; else why it never will."""
        if need in self._outcome.skipped:
            return f"{need}, which it needs, did not start"
        step = self._steps.get(need)
        if step and step.state != "done":
            return ""
        record = self._ledger.records.get(need)
        if record is None:
            return f"{need}, which it needs, has never run"
        if record.status is Status.SUCCEEDED:
            return None
        if record.status.live and need not in self._outcome.errors and need not in self.given_up:
            return ""
        if need in self.given_up:
            return f"{need}, which it needs, is not followed any more"
        return f"{need}, which it needs, {'could not start' if record.status.live else how_it_ended(record)}"


def how_it_ended(record: Recorded) -> str:
    """How a run ended, in words."""
    code = f" (exit code {record.exit_code})" if record.exit_code is not None else ""
    reason = f": {record.reason}" if record.reason else ""
    return f"{str(record.status).replace('_', ' ')}{code}{reason}"
