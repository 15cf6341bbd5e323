"""Approved is applied: compare what was reviewed with what would happen now, and say only the difference."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from flowplan.planner.compare.replay import deviations
from flowplan.schemas.errors import InvalidInput, PlanStale, Refused
from flowplan.schemas.plan_documents import read_plan, unsealed
from flowplan.schemas.plans import Change, Plan
from flowplan.schemas.runs import Status
from flowplan.schemas.text import shortened
from flowplan.state.acceptance import begun
from flowplan.state.location import Location
from flowplan.state.store import Store


def sealed_plan(path: Path, state: Location, environment: str) -> Plan:
    """Read a plan file that was made with this state. Nothing that the plan says is acted upon before.

    Args:
        environment: the one that the command line names, "" for none.

    Raises:
        InvalidInput, StateError: there is no such plan or state, or the environment of the plan is not named.
        PlanStale: the plan was edited, forged, or made with another state.
        Refused: the plan is for another environment.
    """
    file = read_plan(path)
    if (planned := file.plan.environment) != environment:
        message = f"{path} is a plan for {f'environment {planned}' if planned else 'a project without environments'}"
        if not environment:
            raise InvalidInput(message, hint=f"name it with --env {planned}")
        raise Refused(f"{message}, not for {environment}; nothing was done")
    with closing(state.open()) as store:
        fault = unsealed(file, path, store.lineage, store.key)
    if fault:
        raise PlanStale(
            fault, hint="make it with this state, by `flowplan plan --out FILE`, or name its own with --state"
        )
    return file.plan


def check_reviewed(reviewed: Plan, planned: Plan, store: Store) -> Plan:
    """Return what is left to do of a reviewed plan: its own changes, as they stand now.

    What an earlier apply of the same plan did already counts as reviewed; an intent of it that was not carried out
    is finished.

    Raises:
        PlanStale: something that was reviewed would not happen the same way any more.
    """
    done = begun(store, reviewed.digest)
    now = {c.address: c for c in planned.changes}
    if differing := deviations(reviewed.changes, now, done):
        lines = [f"the plan is stale: {len(differing)} of its changes no longer match what was reviewed"]
        for change, today in differing[:20]:
            lines.append(f"  {change.address}")
            lines.append(f"    reviewed: {_essence(change)}")
            lines.append(
                f"    now:      {_essence(today) if today else 'nothing, the run is neither recorded nor wanted'}"
            )
        if len(differing) > 20:
            lines.append(f"  and {len(differing) - 20} more")
        raise PlanStale("\n".join(lines), hint="nothing was written; plan and review again")
    changes = [_left(change, now.get(change.address), change.address in done) for change in reviewed.changes]
    return replace(reviewed, changes=tuple(c for c in changes if c is not None), serial=planned.serial)


def _left(reviewed: Change, now: Change | None, done: bool) -> Change | None:
    if not reviewed.effective:
        return reviewed
    if not done:
        return now
    unfinished = now is not None and now.run is not None and now.run.status == Status.CREATING
    return now if unfinished or (now is not None and not now.effective) else None


def _essence(change: Change) -> str:
    status = f", the run is {change.run.status}" if change.run else ""
    fields = "".join(f"\n      {f.path}: {_short(f.before)} -> {_short(f.after)}" for f in change.fields[:5])
    skipped = f" ({change.skipped})" if change.skipped else ""
    return f"{change.action} attempt {change.attempt}{skipped}: {'; '.join(change.reasons)}{status}{fields}"


def _short(value: object) -> str:
    return shortened(json.dumps(value, ensure_ascii=False, default=lambda _: "(absent)"), 60)
