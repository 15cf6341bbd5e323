"""The words of a plan: why something would happen, and the run as it stands."""

from __future__ import annotations

from collections.abc import Sequence

from flowplan.schemas.plans import FieldChange, RunFacts
from flowplan.schemas.runs import Observed, Recorded, Status


def current(record: Recorded, seen: Observed | None) -> RunFacts:
    """The run as it stands: the newest of what is recorded and what the engine says.

    A final record stays as it is, except that ``lost`` gives way to an end that the engine tells after all.
    """
    known = RunFacts(
        status=record.status,
        attempt=record.attempt,
        run_id=record.run_id,
        reason=record.reason,
        message=record.message,
        exit_code=record.exit_code,
        started_at=record.started_at,
        finished_at=record.finished_at,
        name=record.name,
    )
    if seen is None or (record.status.final and record.status is not Status.LOST):
        return known
    if not seen.exists and seen.status in (None, Status.LOST):
        never = record.status is Status.CREATING and seen.status is not Status.LOST
        return known if never or record.status is Status.LOST else _lost(record, seen)
    if seen.status is None:
        return known
    return RunFacts(
        status=seen.status,
        attempt=record.attempt,
        run_id=record.run_id,
        reason=seen.reason,
        message=seen.message,
        exit_code=seen.exit_code,
        started_at=seen.started_at or record.started_at,
        finished_at=seen.finished_at,
        name=seen.name or record.name,
    )


def _lost(record: Recorded, seen: Observed) -> RunFacts:
    message = seen.message or "the object is gone and nobody knows how it ended"
    return RunFacts(
        status=Status.LOST,
        attempt=record.attempt,
        run_id=record.run_id,
        reason=seen.reason or "Removed",
        message=message,
        started_at=record.started_at,
        name=record.name,
    )


def facts_of(seen: Observed) -> RunFacts:
    """The facts of an object that the state does not know yet."""
    return RunFacts(
        status=seen.status or Status.PENDING,
        attempt=seen.attempt,
        run_id=seen.run_id,
        reason=seen.reason,
        message=seen.message,
        exit_code=seen.exit_code,
        started_at=seen.started_at,
        finished_at=seen.finished_at,
        name=seen.name,
    )


def how_it_ended(facts: RunFacts) -> str:
    """``failed with exit code 3: Error`` and the like; no times relative to now, so that a plan has the same bytes twice."""
    words = str(facts.status).replace("_", " ")
    code = f" with exit code {facts.exit_code}" if facts.exit_code is not None else ""
    reason = f": {facts.reason}" if facts.reason else ""
    when = f" at {facts.finished_at}" if facts.finished_at else ""
    return f"{words}{code}{reason}{when}"


def field_name(path: str) -> str:
    """The part of a JSON Pointer that people would name: ``image``, ``env``, ``memory``."""
    parts = [p.replace("~1", "/").replace("~0", "~") for p in path.split("/") if p]
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
    """``image changed`` or ``image, env LR and 2 more changed``; drift is told apart."""
    names = list(dict.fromkeys(field_name(f.path) for f in fields))
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    if all(f.drift and f.after == f.recorded for f in fields):
        managers = sorted({f.manager for f in fields if f.manager})
        by = f" by {', '.join(managers)}" if managers else ""
        return f"{shown} changed on the engine{by}"
    return f"{shown} changed"
