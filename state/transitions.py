"""What an observation does to an attempt: pure rules that only ever move forward (design 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flowplan.schemas.runs import Json, Observed, Recorded, Status

REMOVED = "Removed"
GONE = "the object is gone and nobody knows how it ended"

_RANK = {Status.CREATING: 0, Status.PENDING: 1, Status.RUNNING: 2}


@dataclass(frozen=True, slots=True)
class Progress:
    """The part of a Recorded that changes while the attempt lives; the fields mean what they mean there.

    ``outcome`` is how the attempt ended, which its status no longer says once it is destroyed; "" while unknown.
    """

    status: Status
    present: bool = True
    outcome: str = ""
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    attempts: int = 0
    handle: Mapping[str, Json] = field(default_factory=dict)
    infrastructure_id: str = ""
    name: str = ""
    plan_digest: str = ""
    created_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    image: Mapping[str, str] = field(default_factory=dict)
    remarks: Mapping[str, str] = field(default_factory=dict)


def progress_of(record: Recorded) -> Progress:
    """The changing part of a record."""
    return Progress(
        status=record.status,
        present=record.present,
        outcome=outcome(record.status),
        reason=record.reason,
        message=record.message,
        exit_code=record.exit_code,
        attempts=record.attempts,
        handle=record.handle,
        infrastructure_id=record.infrastructure_id,
        name=record.name,
        plan_digest=record.plan_digest,
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        image=record.image,
        remarks=record.remarks,
    )


def outcome(status: Status) -> str:
    """The status as an outcome, "" for one that is none."""
    return str(status) if status.final and status is not Status.DESTROYED else ""


def observed(now: Progress, seen: Observed) -> Progress:
    """The attempt after an observation.

    A final status stays, except that ``lost`` gives way to a real end that the engine tells later; ``running`` never
    goes back to ``pending``; ``destroyed`` changes in nothing. An attempt of which the engine has no object is
    ``lost`` if it had been created, stays ``creating`` if nobody knows that it ever was (the next apply decides; an
    engine that knows says ``lost``), and is only not present any more if it had ended (collected).
    """
    if now.status is Status.DESTROYED:
        return now if seen.exists else replace(now, present=False)
    if not seen.exists and seen.status in (None, Status.LOST):
        return _gone(now, seen)
    status = seen.status if _moves(now.status, seen.status) else None
    changes = _filled(now, seen)
    if status is not None:
        changes |= _moved(now, seen, status)
    return replace(now, **changes)


def _gone(now: Progress, seen: Observed) -> Progress:
    if now.status.final or (now.status is Status.CREATING and seen.status is not Status.LOST):
        return replace(now, present=False)
    return replace(
        now,
        present=False,
        status=Status.LOST,
        outcome=str(Status.LOST),
        reason=seen.reason or REMOVED,
        message=seen.message or GONE,
        finished_at=seen.finished_at,
    )


def _moves(now: Status, seen: Status | None) -> bool:
    """True when the status that the engine tells is taken, be it the same one with another reason."""
    if seen is None or seen is Status.DESTROYED:
        return False
    if now is Status.LOST:
        return seen.final and seen is not Status.LOST
    return now.live and _RANK.get(seen, 3) >= _RANK[now]


def _moved(now: Progress, seen: Observed, status: Status) -> dict[str, Any]:
    changes: dict[str, Any] = {"status": status, "reason": seen.reason, "message": seen.message}
    if status.final:
        changes |= {
            "outcome": str(status),
            "exit_code": seen.exit_code,
            "finished_at": seen.finished_at or now.finished_at,
        }
    if status in (Status.RUNNING, Status.SUCCEEDED):
        changes["attempts"] = max(now.attempts, seen.attempts, 1)
    return changes


def _filled(now: Progress, seen: Observed) -> dict[str, Any]:
    """Facts that were unknown; who and where may still change while the attempt lives."""
    live = now.status.live
    changes: dict[str, Any] = {"present": seen.exists, "attempts": max(now.attempts, seen.attempts)}
    for key in ("handle", "infrastructure_id", "name", "image"):
        told = getattr(seen, key)
        if told and (live or not getattr(now, key)):
            changes[key] = told if isinstance(told, str) else dict(told)
    if seen.remarks is not None:
        changes["remarks"] = dict(seen.remarks)
    if now.started_at is None:
        changes["started_at"] = seen.started_at
    if now.status.final and now.finished_at is None:
        changes["finished_at"] = seen.finished_at
    if now.status.final and now.exit_code is None:
        changes["exit_code"] = seen.exit_code
    return changes


def engine_time(seen: Observed) -> str | None:
    """When the engine says that it happened."""
    if seen.status is not None and seen.status.final:
        return seen.finished_at or seen.at
    if seen.status is Status.RUNNING:
        return seen.started_at or seen.at
    return seen.at


def finished(now: Progress, status: Status, **facts: Any) -> Progress:
    """The attempt after flowplan's own verdict; one that has ended already keeps its end, ``lost`` gives way."""
    if now.status.final and (now.status is not Status.LOST or status is Status.LOST):
        present = facts.get("present")
        return now if present is None else replace(now, present=present)
    known = {key: value for key, value in facts.items() if value is not None}
    return replace(now, status=status, outcome=outcome(status), **known)
