"""A saved plan planned again: its wanted objects as Desired runs, and what differs from what was reviewed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from flowplan.planner.compare.diff import patched
from flowplan.schemas.plans import Action, Change, Plan
from flowplan.schemas.runs import Desired, Rendered

_WANTED = (Action.CREATE, Action.UPDATE, Action.REPLACE, Action.RERUN, Action.ADOPT, Action.NO_OP)


def desired_runs(plan: Plan) -> tuple[Desired, ...]:
    """Return the runs as the plan wants them; no spec is read."""
    return tuple(_desired(c) for c in plan.changes if c.action in _WANTED and c.after is not None)


def _desired(change: Change) -> Desired:
    def render(attempt: int, address: str = "") -> Rendered:
        objects = change.after or {}
        known = change.run.attempt if change.run else None
        if attempt != change.attempt and attempt == known and change.before is not None:
            run = change.run
            assert run is not None
            return Rendered(patched(change.before, change.fields), run.name, run.run_id, attempt)
        return Rendered(objects, change.name, change.run_id, change.attempt, warnings=change.warnings)

    return Desired(change.address, change.provider, change.type, change.settings, render)


def forgotten(plan: Plan) -> tuple[str, ...]:
    """Return the addresses that the plan forgets."""
    return tuple(c.address for c in plan.changes if c.action is Action.FORGET)


def deviations(
    reviewed: Sequence[Change], now: Mapping[str, Change], done: Collection[str] = ()
) -> list[tuple[Change, Change | None]]:
    """Return (reviewed, now) for every reviewed change that would not be the same any more.

    ``done`` are the addresses whose change of this very plan was carried out already: they count as reviewed.
    Runs that the plan leaves alone may have moved on meanwhile.
    """
    found: list[tuple[Change, Change | None]] = []
    for change in reviewed:
        if change.effective and change.address not in done:
            today = now.get(change.address)
            if today is None or essence(today) != essence(change):
                found.append((change, today))
    return found


def essence(change: Change) -> tuple[object, ...]:
    """Return what a change would do and what that rests on, without when and where."""
    objects = change.before if change.action in (Action.DESTROY, Action.FORGET) else change.after
    return (change.action, change.attempt, objects, change.live, bool(change.skipped), change.moved_from)
