"""The words of a plan: why something would happen, and the run as it stands."""

from __future__ import annotations

from collections.abc import Sequence

from flowplan.schemas.lifecycle import after, progress_of, told
from flowplan.schemas.plans import FieldChange, RunFacts
from flowplan.schemas.pointers import keys_of
from flowplan.schemas.runs import Observed, Recorded


def standing(record: Recorded, seen: Observed | None) -> RunFacts:
    """Return the run as it stands: what is recorded, after what the engine says."""
    now = after(progress_of(record), told(record, seen)) if seen else progress_of(record)
    return RunFacts(
        status=now.status,
        attempt=record.attempt,
        run_id=record.run_id,
        reason=now.reason,
        message=now.message,
        exit_code=now.exit_code,
        started_at=now.started_at,
        finished_at=now.finished_at,
        name=now.name,
    )


def how_it_ended(facts: RunFacts) -> str:
    """Return how a run stands, such as ``failed with exit code 3: Error``; without times relative to now, which would change the plan."""
    words = str(facts.status).replace("_", " ")
    code = f" with exit code {facts.exit_code}" if facts.exit_code is not None else ""
    reason = f": {facts.reason}" if facts.reason else ""
    when = f" at {facts.finished_at}" if facts.finished_at else ""
    return f"{words}{code}{reason}{when}"


def field_name(path: str) -> str:
    """Return the part of a JSON Pointer that people would name: ``image``, ``env``, ``memory``."""
    parts = [key for key in keys_of(path) if key]
    named = [p for p in parts if not p.isdigit()]
    if not named:
        return path
    if len(named) > 1 and parts[-1].isdigit():
        return named[-1]
    if named[-1] in ("value", "name", "valueFrom", "key") and len(named) > 1:
        return named[-2]
    if len(named) > 2 and named[-2] in ("env", "labels", "annotations", "Labels", "limits", "requests", "triggers"):
        return f"{named[-2]} {named[-1]}"
    return named[-1]


def changed_sentence(fields: Sequence[FieldChange]) -> str:
    """Return a sentence such as ``image, env LR and 2 more changed``, or that it changed on the engine."""
    names = list(dict.fromkeys(field_name(f.path) for f in fields))
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    if all(f.drift and f.after == f.recorded for f in fields):
        managers = sorted({f.manager for f in fields if f.manager})
        by = f" by {', '.join(managers)}" if managers else ""
        return f"{shown} changed on the engine{by}"
    return f"{shown} changed"
