"""What accepted plans have left to do: the steps that have not begun, why, who carries them out, and which command does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flowplan.planner.conduct.waiting import NotStarted, not_started
from flowplan.schemas.accepted import Accepted, StepPhase
from flowplan.schemas.codec import encode
from flowplan.schemas.runs import Recorded
from flowplan.schemas.text import harmless
from flowplan.state import acceptance
from flowplan.state.holder import alive
from flowplan.state.location import FOLLOW
from flowplan.state.store import Store


class Left(NamedTuple):
    """What is left of an accepted plan.

    Attributes:
        accepted_at, user, host, pid, directory: when it was applied, by whom and from where.
        applying: whether that process still carries it out; None where that cannot be seen from here.
        follower: who carries accepted plans on, ``USER on HOST (pid N)``; "" when no follower does.
        steps: those that have not begun.
    """

    digest: str
    mode: str
    accepted_at: str
    user: str
    host: str
    pid: int
    directory: str
    applying: bool | None
    follower: str
    steps: tuple[NotStarted, ...]

    def document(self) -> dict[str, Any]:
        """Return the JSON object of the plan, with the numbers of its steps."""
        counts = Counter(step.status for step in self.steps)
        return {**encode(self), "steps": {"waiting": counts["waiting"], "skipped": counts["skipped"]}}

    def remark(self, *where: str) -> str:
        """Return who begins what waits, or that nobody does and which command would; "" when nothing waits.

        Args:
            where: what the command needs to be about this state.
        """
        counts = Counter(step.status for step in self.steps)
        word, begins, does = ("destroy", "goes", "removes") if self.mode == "destroy" else ("apply", "starts", "starts")
        command = f"`{' '.join(('flowplan', word, *where))}`"
        who = f"{command} of {harmless(self.user)} on {harmless(self.host)}"
        if self.applying or self.follower:
            carrier = f"{who} (pid {self.pid})" if self.applying else f"the follower of {harmless(self.follower)}"
            return f"{counts['waiting']} waiting: {carrier} goes on" if counts["waiting"] else ""
        told = ", ".join(f"{n} {status}" for status, n in sorted(counts.items(), reverse=True))
        if self.applying is None:
            return f"{told}: whether {who} goes on cannot be seen from here; if it ended, {command} {does} them"
        return f"{told}: none {begins} by itself; {command} {does} them"


def left(store: Store, records: Mapping[str, Recorded]) -> list[Left]:
    """Return what is left of the plans that were accepted, oldest first."""
    found: dict[str, list[NotStarted]] = {}
    for step in not_started(acceptance.unbegun(store), records):
        found.setdefault(step.plan, []).append(step)
    plans = acceptance.accepted(store, found)
    follower = followed_by(store) if found else ""
    return [_left(plans[digest], steps, follower) for digest, steps in found.items() if digest in plans]


def followed_by(store: Store) -> str:
    """Return who carries the accepted plans of a state on without a terminal: ``USER on HOST (pid N)``, "" for nobody."""
    by = store.location.holder(FOLLOW)
    if by is None:
        return ""
    return f"{by['user']} on {by['host']} (pid {by['pid']})" if by else "another process"


def carried(store: Store) -> set[str]:
    """Return the addresses of what waits, and is started by another flowplan that is known to run."""
    waiting = [(digest, step) for digest, step in acceptance.unbegun(store) if step.phase is StepPhase.WAITING]
    plans = acceptance.accepted(store, {digest for digest, _ in waiting})
    followed = bool(waiting) and bool(followed_by(store))
    here = {digest for digest, plan in plans.items() if followed or _applying(plan)}
    return {step.address for digest, step in waiting if digest in here}


def _applying(plan: Accepted) -> bool | None:
    """Return whether the process that accepted a plan still carries it out; None where that cannot be seen from here."""
    return False if plan.left_at else alive(plan.by)


def steps_left(store: Store, digest: str) -> tuple[NotStarted, ...]:
    """Return the steps of one plan that have not begun."""
    return next((plan.steps for plan in left(store, store.records()) if plan.digest == digest), ())


def _left(plan: Accepted, steps: Sequence[NotStarted], follower: str) -> Left:
    by = plan.by
    return Left(
        plan.digest,
        plan.mode,
        str(by.get("since", "")),
        str(by.get("user", "")),
        str(by.get("host", "")),
        int(by.get("pid", 0)),
        plan.directory,
        _applying(plan),
        follower,
        tuple(steps),
    )
