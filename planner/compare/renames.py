"""Renames that look like a destroy and a create: found by equal objects, offered as ``moved``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from flowplan.planner.manifests.names import is_label_of_attempt
from flowplan.schemas.plans import Action, Change
from flowplan.schemas.runs import Desired, Json, Recorded, canonical
from flowplan.schemas.sources import Diagnostic


def rename_suggestions(
    changes: Sequence[Change], desired: Mapping[str, Desired], recorded: Mapping[str, Recorded]
) -> Iterator[Diagnostic]:
    """Yield a suggestion for every destroy whose objects, but for the identity in them, equal those of a create."""
    created = [c for c in changes if c.action is Action.CREATE and c.after is not None]
    destroyed = [c for c in changes if c.action is Action.DESTROY and c.before is not None]
    if not created or not destroyed:
        return
    new = {_without_identity(c.after, c): c.address for c in reversed(created)}
    for change in destroyed:
        match = new.pop(_without_identity(change.before, change), None)
        if match:
            yield Diagnostic(
                f"has the same objects as {change.address}, which would be destroyed",
                subject=match,
                hint=f"if it was only renamed, add `moved: [{{from: {_quoted(change.address)}, to: {_quoted(match)}}}]`",
                severity="warning",
            )


def _without_identity(objects: Json, change: Change) -> str:
    """Return the canonical text of objects without our labels, the run id and the name."""
    text = canonical(_without_labels(objects))
    for word in (change.run_id, change.name):
        text = text.replace(word, "\0")
    return f"{change.type}:{text}"


def _without_labels(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _without_labels(item) for key, item in value.items() if not is_label_of_attempt(key)}
    return [_without_labels(item) for item in value] if isinstance(value, list) else value


def _quoted(address: str) -> str:
    return f'"{address}"' if "[" in address else address
