"""Runs of one plan whose objects have the same name on the same engine: an engine lets only one of them have it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from flowplan.planner.manifests import Manifests, traits
from flowplan.schemas.kinds import field_at
from flowplan.schemas.plans import Action, Change
from flowplan.schemas.sources import Diagnostic

_STARTING = (Action.CREATE, Action.REPLACE, Action.RERUN)
_SHOWN = 5


def name_collisions(changes: Iterable[Change], manifests: Mapping[str, Manifests]) -> Iterator[Diagnostic]:
    """Yield a warning for every name that several runs have, at least one of which is about to start."""
    bearers: dict[tuple[str, ...], list[Change]] = {}
    for change in changes:
        place = _place(change, manifests)
        if place:
            bearers.setdefault(place, []).append(change)
    for place, found in bearers.items():
        if len(found) > 1 and any(change.action in _STARTING for change in found):
            shown = ", ".join(change.address for change in found[:_SHOWN])
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            yield Diagnostic(
                f"{len(found)} runs have the name {place[-1]}: {shown}{more}; all but one of them will get a number",
                subject=found[0].address,
                hint="give each of them a `name`",
                severity="warning",
            )


def _place(change: Change, manifests: Mapping[str, Manifests]) -> tuple[str, ...]:
    """Return where the object of a change has its name, and the name; () when nothing else can take it."""
    after = change.after or {}
    if change.action in (Action.DESTROY, Action.FORGET):
        return ()
    kinds = traits(manifests[change.type]).KINDS
    for kind in after:
        if kind in kinds and kinds[kind].name:
            return (change.provider, *(str(field_at(after, pointer)) for pointer in kinds[kind].name))
    return ()
