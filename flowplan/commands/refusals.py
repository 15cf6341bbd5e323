"""What speaks against a saved plan before anything is planned again: its age, options it cannot heed, policies."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flowplan import clock
from flowplan.given import policies_of
from flowplan.project import Request
from flowplan.schemas.errors import InvalidInput, PlanStale, Refused
from flowplan.schemas.places import DEFAULT_SPEC
from flowplan.schemas.plans import Change, Finding, Plan
from flowplan.schemas.secrets import tokens_in
from flowplan.schemas.sources import Diagnostic
from flowplan.schemas.text import counted
from flowplan.schemas.times import seconds_between

if TYPE_CHECKING:
    from flowplan.planner.compare.policies import Rule

_SHOWN = 50


def usable(reviewed: Plan, path: Path, request: Request, max_age: float | None = None) -> None:
    """Check that a saved plan may be carried out as it is.

    Args:
        max_age: the most seconds since it was planned; None for no limit.

    Raises:
        InvalidInput: options or variables are given that only a new plan could heed.
        PlanStale: it is too old.
        Refused: it violates a policy.
    """
    _refuse_planning_options(request, path)
    _refuse_fixed_variables(request, reviewed)
    allowed(reviewed, request, max_age)


def allowed(reviewed: Plan, request: Request, max_age: float | None = None) -> None:
    """Check age and policies of a saved plan, as ``usable`` does.

    Raises:
        PlanStale, Refused: as there.
    """
    _check_age(reviewed, max_age)
    refuse_violations(reviewed, policies_of(request.policies))


def planning_options(request: Request) -> list[str]:
    """The options of a command line that only a new plan can heed."""
    names = ("target", "exclude", "rerun", "allow_interrupt")
    return [f"--{name.replace('_', '-')}" for name in names if getattr(request.options, name)]


def _refuse_planning_options(request: Request, path: Path) -> None:
    given = planning_options(request)
    if given:
        hint = f"plan again with it, or name the spec: flowplan apply {DEFAULT_SPEC} {given[0]} ..."
        raise InvalidInput(f"{path} is a plan that was made already, {' and '.join(given)} cannot change it", hint=hint)


def _refuse_fixed_variables(request: Request, reviewed: Plan) -> None:
    """Only sensitive variables are given again; all others were decided when the plan was made."""
    again = {name for source in reviewed.secrets.values() for name in source.variables}
    again |= {name for name, shown in reviewed.variables.items() if tokens_in(shown)}
    faults = [
        Diagnostic("was decided when the plan was made", None, f"--var {name}", "plan again to change it")
        for name in request.given.pairs
        if name not in again
    ]
    if faults:
        raise InvalidInput(faults)


def _check_age(plan: Plan, max_age: float | None) -> None:
    if plan.expires_at and plan.expires_at < clock.now():
        raise PlanStale(f"the plan expired at {plan.expires_at}", hint="plan and review again")
    age = seconds_between(plan.made_at, datetime.now(UTC))
    if max_age is not None and (age is None or age > max_age):
        made = f"was made {age:.0f}s ago" if age is not None else "does not say when it was made"
        raise PlanStale(f"the plan {made}, --max-age allows {max_age:.0f}s", hint="plan and review again")


def _checked(changes: Sequence[Change], rules: Sequence[Rule]) -> Sequence[Change]:
    if not rules:
        return changes
    from flowplan.planner.compare.policies import checked

    return checked(changes, rules)


def refuse_violations(plan: Plan, rules: Sequence[Rule] = ()) -> None:
    """Refuse a plan that violates a policy; nothing of it is done.

    Args:
        rules: further policies than those that it was planned with.

    Raises:
        Refused: with every violation.
    """
    found = [
        f for c in _checked(plan.changes, rules) for f in c.preflight if f.check == "policy" and f.severity == "error"
    ]
    _refuse("policies forbid this plan", "violation", found)


def refuse_findings(plan: Plan) -> None:
    """Refuse a plan of which a part would fail, as ``--strict`` asks.

    Raises:
        Refused: with every finding.
    """
    found = [f for change in plan.changes for f in change.preflight if f.severity == "error"]
    _refuse("--strict: apply would fail", "problem", found)


def _refuse(why: str, noun: str, found: Sequence[Finding]) -> None:
    if not found:
        return
    lines = [f"  {f.address}: {f.message}" + (f" ({f.hint})" if f.hint else "") for f in found[:_SHOWN]]
    lines += [f"  and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    raise Refused("\n".join([f"{why} ({counted(len(found), noun)}); nothing was done", *lines]))
