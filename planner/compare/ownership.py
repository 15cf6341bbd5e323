"""Refusal to plan where the engines hold objects of another state, or objects that this state never asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flowplan.planner.manifests import Manifests, content_of
from flowplan.schemas.errors import Refused
from flowplan.schemas.runs import Observed, Recorded, Status

SHOWN = 5
"""How many objects a refusal names."""


def refuse_strangers(
    project: str,
    strangers: Iterable[Observed],
    recorded: Mapping[str, Recorded],
    observed: Mapping[str, Observed],
    manifests: Mapping[str, Manifests],
    *,
    beside_others: bool = False,
) -> None:
    """Refuse a plan when the engines hold objects that this state never asked for.

    Args:
        strangers: objects of the project that are of another lineage, or whose run id this state never intended.
        beside_others: True when objects of another lineage do not matter.

    Raises:
        Refused: there are some; the message names them, and the ways out.
    """
    there = [one for one in strangers if one.exists]
    ours = [one for one in there if not one.lineage]
    ours += [
        seen
        for record in recorded.values()
        if (seen := observed.get(record.run_id)) and _is_other_content(record, seen, manifests[record.type])
    ]
    if ours:
        raise Refused(
            f"this state is older than the engines: they hold {_listed(ours)} of its lineage, of which it knows nothing; "
            "it was restored from a backup, or another copy of it was used",
            hint="`flowplan state rebuild` records what ran; or restore the newest copy of the state",
        )
    lineages = sorted({one.lineage for one in there if one.lineage})
    if lineages and not beside_others:
        states = [_state_of([one for one in there if one.lineage == lineage]) for lineage in lineages]
        raise Refused(
            f"project {project} is managed by another state: {'; '.join(states)}",
            hint="work with that state; or, if it is lost, take over what it made into an empty state: "
            f"`flowplan state rebuild --lineage {lineages[0]}`; or give this project another name; or destroy there",
        )


def _is_other_content(record: Recorded, seen: Observed, manifests: Manifests) -> bool:
    """Return whether the object of an interrupted intent has other content than was intended."""
    return record.status is Status.CREATING and seen.exists and seen.content != content_of(record.objects, manifests)


def _listed(objects: Sequence[Observed]) -> str:
    """Return the number of objects, and the first of them by name, address, attempt and status."""
    named = []
    for one in objects[:SHOWN]:
        parts = [one.address, f"attempt {one.attempt}" if one.attempt else "", str(one.status or "")]
        told = ", ".join(part for part in parts if part)
        named.append(f"{one.name or one.infrastructure_id or one.run_id} ({told})")
    more = f" and {len(objects) - SHOWN} more" if len(objects) > SHOWN else ""
    count = "1 object" if len(objects) == 1 else f"{len(objects)} objects"
    return f"{count}, {', '.join(named)}{more},"


def _state_of(objects: Sequence[Observed]) -> str:
    newest = max(objects, key=lambda one: one.created_at or one.started_at or "")
    when = newest.created_at or newest.started_at
    acted = f" last acted at {when}" if when else " acted at a time that is not known"
    where = f" from {newest.created_from}" if newest.created_from else ""
    return f"lineage {newest.lineage}, which{acted}{where} and has {_listed(objects).rstrip(',')}"
