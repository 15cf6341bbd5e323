"""Steps of accepted plans that have not begun, and why: the rules of ``starting``, asked without carrying anything out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flowplan.planner.conduct.starting import held_back, need_met
from flowplan.planner.conduct.words import Manner
from flowplan.planner.conduct.world import Phase, World, group_key
from flowplan.schemas.accepted import Step, StepPhase
from flowplan.schemas.plans import Action, Change, Plan
from flowplan.schemas.runs import Recorded, Settings
from flowplan.schemas.text import by_run

NAMED = 3
"""How many of the runs that one waits for are named."""


class NotStarted(NamedTuple):
    """A step that has not begun.

    Attributes:
        status: ``waiting``, or ``skipped`` when it can never begin.
        reason: in words: ``for extract``, ``max_parallel 2``, ``extract failed (exit code 3)``; "" when nothing is in its way.
        waits_for: the addresses whose end it waits for. until: the time it waits for (RFC 3339 UTC), None for no time.
        action, attempt, run_id: what it is about. group: the run's name in the spec. plan: the digest of its plan.
    """

    address: str
    status: str
    reason: str
    waits_for: tuple[str, ...]
    until: str | None
    action: Action
    attempt: int
    run_id: str
    group: str
    plan: str


def not_started(steps: Sequence[tuple[str, Step]], records: Mapping[str, Recorded]) -> list[NotStarted]:
    """Return the steps of plans that have not begun, with what holds each of them back.

    A step whose need has failed since its plan was left is skipped, as whoever goes on with that plan would skip it.

    Args:
        steps: the digest of a plan and an open step of it, needs before what needs them.
        records: the newest attempt at each address.
    """
    world = World(Plan("", "", "", 0, "", "", tuple(_change(step) for _, step in steps)), records, manner=Manner())
    met: dict[str, bool] = {}
    found = []
    for run, (digest, step) in zip(world.steps, steps, strict=True):
        until, never = "", step.why
        if step.phase is StepPhase.WAITING:
            until, never = held_back(world, run, {})
        if never:
            run.skipped, run.phase = never, Phase.SKIPPED
            waits_for: tuple[str, ...] = ()
        elif until in step.needs:
            met |= {need: need_met(world, need)[0] for need in step.needs if need not in met}
            waits_for = tuple(need for need in step.needs if not met[need])
        else:
            waits_for = () if until in ("", group_key(step.group)) else (until,)
        status = "skipped" if never else "waiting"
        reason = never or step.why or _reason(step, until, waits_for)
        facts = step.until, step.action, step.attempt, step.run_id, step.group, digest
        found.append(NotStarted(step.address, status, reason, waits_for, *facts))
    return found


def _reason(step: Step, until: str, waits_for: Sequence[str]) -> str:
    """Return in words what a step waits for."""
    if step.until:
        return f"for a retry at {step.until}"
    if until == group_key(step.group):
        return f"max_parallel {step.max_parallel}"
    if until == step.address:
        return "for the present attempt to end"
    named = by_run(waits_for)
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    return f"for {', '.join(named[:NAMED])}{more}" if named else ""


def _change(step: Step) -> Change:
    """Return the change of a step, as far as it matters for whether the step may begin."""
    return Change(
        step.address,
        "",
        "",
        step.action,
        (),
        run_id=step.run_id,
        attempt=step.attempt,
        moved_from=step.address if step.action is Action.NO_OP else "",  # nothing else is a step without an action
        before=None,
        after=None,
        settings=Settings(step.group, step.needs, step.max_parallel, replace=step.replace),
    )
