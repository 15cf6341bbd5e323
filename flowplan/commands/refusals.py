"""What speaks against a saved plan before anything is planned again: its age, options it cannot follow, policies."""

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
from flowplan.schemas.plans import Finding, Plan
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
        InvalidInput: options or variables are given that only a new plan could follow.
        PlanStale: it is too old.
        Refused: it violates a policy.
    """
    if given := planning_options(request):
        hint = f"plan again with it, or name the spec: flowplan apply {DEFAULT_SPEC} {given[0]} ..."
        raise InvalidInput(f"{' and '.join(given)} cannot be combined with the saved plan {path}", hint=hint)
    _refuse_fixed_variables(request, reviewed)
    allowed(reviewed, request, max_age)


def allowed(reviewed: Plan, request: Request, max_age: float | None = None) -> None:
    """Check age and policies of a saved plan, as ``usable`` does."""
    if reviewed.expires_at and reviewed.expires_at < clock.now():
        raise PlanStale(f"the plan expired at {reviewed.expires_at}", hint="plan and review again")
    age = seconds_between(reviewed.made_at, datetime.now(UTC))
    if max_age is not None and (age is None or age > max_age):
        made = f"was made {age:.0f}s ago" if age is not None else "does not say when it was made"
        raise PlanStale(f"the plan {made}, --max-age allows {max_age:.0f}s", hint="plan and review again")
    refuse_violations(reviewed, policies_of(request.policies))


def planning_options(request: Request) -> list[str]:
    """Return the options of a command line that only a new plan can follow."""
    names = ("target", "exclude", "rerun", "allow_interrupt")
    return [f"--{name.replace('_', '-')}" for name in names if getattr(request.options, name)]


def _refuse_fixed_variables(request: Request, reviewed: Plan) -> None:
    """Refuse variables that are fixed in the plan; only sensitive ones are given again."""
    again = {name for source in reviewed.secrets.values() for name in source.variables}
    again |= {name for name, shown in reviewed.variables.items() if tokens_in(shown)}
    faults = [
        Diagnostic("is fixed in the saved plan", None, f"--var {name}", "plan again to change it")
        for name in request.given.pairs
        if name not in again
    ]
    if faults:
        raise InvalidInput(faults)


def refuse_violations(plan: Plan, rules: Sequence[Rule] = ()) -> None:
    """Refuse a plan that violates a policy; nothing of it is done.

    Args:
        rules: further policies than those that it was planned with.
    """
    changes = plan.changes
    if rules:
        from flowplan.planner.compare.policies import checked

        changes = checked(changes, rules)
    if found := [f for c in changes for f in c.preflight if f.check == "policy" and f.severity == "error"]:
        raise Refused(_listed("policies forbid this plan (%s); nothing was done", "violation", found))


def refuse_findings(plan: Plan) -> None:
    """Refuse a plan of which a part would fail, as ``--strict`` asks."""
    if found := _failing(plan):
        raise Refused(_listed("--strict: apply would fail (%s); nothing was done", "problem", found))


def told_findings(plan: Plan) -> str:
    """Return what is said of a plan of which a part would fail, before it is carried out; "" where none would."""
    found = _failing(plan)
    return _listed("Apply would fail: %s found beforehand.", "problem", found) if found else ""


def _failing(plan: Plan) -> list[Finding]:
    return [f for change in plan.changes for f in change.preflight if f.severity == "error"]


def _listed(title: str, noun: str, found: Sequence[Finding]) -> str:
    lines = [f"  {f.address}: {f.message}" + (f" ({f.hint})" if f.hint else "") for f in found[:_SHOWN]]
    lines += [f"  and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return "\n".join([title % counted(len(found), noun), *lines])
