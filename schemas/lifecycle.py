"""The life of an attempt, in one place: what is true of it after an observation, and after flowplan's own verdict.

::

    creating -> pending -> running -> succeeded | failed | timed_out | cancelled
    any of the first three -> lost        the engine has no such object, and its end was not seen
    lost -> pending | running | any end   the engine turns out to have it after all
    any -> destroyed                      removed on purpose; the record and its history stay

A stage may be left out; none is returned to. ``creating`` is an intent: as long as no engine has had the object, its
absence says nothing. The plan, the state, an apply and the providers ask ``after``; nothing else says what a status may
become.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, NamedTuple

from flowplan.schemas import exit_codes
from flowplan.schemas.backoff import wait_after
from flowplan.schemas.quantities import written_duration
from flowplan.schemas.runs import ENDS, Json, Observed, Recorded, Status, Try
from flowplan.schemas.times import seconds_between, timestamp

REMOVED = "Removed"
RETRIED = "Retried"
"""The reason of the event of a further execution within an attempt; its status is ``running``."""
RETRY_DELAY = "RetryDelay"
"""The reason of a run that has failed and waits for its next try; its status is ``running``."""
ENDED = "ended"
"""Key of a handle: when the execution ended (RFC 3339) after which the run waits, or was last tried again."""
ASKED = "asked"
"""Key of a handle: the next try is counted, and its engine is asked for it; gone once it was seen to run."""
LIMIT = "limit"
"""Key of a handle: the seconds of the time limit that has passed; recorded before the run is stopped for it."""
GONE = "the object is gone and how it ended is not known"

_NEXT = {
    Status.CREATING: ENDS | {Status.PENDING, Status.RUNNING, Status.LOST},
    Status.PENDING: ENDS | {Status.RUNNING, Status.LOST},
    Status.RUNNING: ENDS | {Status.LOST},
    Status.LOST: ENDS | {Status.PENDING, Status.RUNNING},
}
"""What an observation may make of a status; the others stay as they are."""


class Progress(NamedTuple):
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
    handle: Mapping[str, Json] = {}
    infrastructure_id: str = ""
    name: str = ""
    plan_digest: str = ""
    created_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    image: Mapping[str, str] = {}
    remarks: Mapping[str, str] = {}


class End(NamedTuple):
    """An end that flowplan itself gives an attempt, whose object is gone; it is at ``finished_at`` (RFC 3339), or now."""

    run_id: str
    status: Status
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    finished_at: str | None = None


_RECORDED = tuple(name for name in Progress._fields if name != "outcome")
_recorded = attrgetter(*_RECORDED)


def progress_of(record: Recorded) -> Progress:
    """Return the changing part of a record."""
    return Progress(outcome=outcome(record.status), **dict(zip(_RECORDED, _recorded(record), strict=True)))


def progressed(record: Recorded, progress: Progress) -> Recorded:
    """Return the record with this progress."""
    return replace(record, **{name: getattr(progress, name) for name in _RECORDED})


def outcome(status: Status) -> str:
    """Return the status as an outcome, "" for one that is none."""
    return str(status) if status.final and status is not Status.DESTROYED else ""


def after(now: Progress, seen: Observed) -> Progress:
    """Return the attempt after an observation.

    While it may still change, the newest word of the engine counts. Once it has ended, only what was unknown is filled in.
    """
    if now.status is Status.DESTROYED:
        return now if seen.exists else now._replace(present=False)
    told = seen.status
    if seen.gone:
        told = None if now.status is Status.CREATING and told is not Status.LOST else Status.LOST
    status = told if told is not None and told in _NEXT.get(now.status, ()) else now.status
    changing = now.status.live or status is not now.status
    if changing and now.status is Status.LOST:
        now = now._replace(exit_code=None, finished_at=None, started_at=seen.started_at or now.started_at)
    changes: dict[str, Any] = {"status": status, "present": seen.exists, "attempts": max(now.attempts, seen.attempts)}
    if changing and told is not None:
        reason, message = (REMOVED, GONE) if seen.gone else ("", "")
        changes |= {"reason": seen.reason or reason, "message": seen.message or message, "outcome": outcome(status)}
        if status in (Status.RUNNING, Status.SUCCEEDED):
            changes["attempts"] = max(changes["attempts"], 1)
    for key in ("handle", "infrastructure_id", "name", "image"):
        if (value := getattr(seen, key)) and (changing or not getattr(now, key)):
            changes[key] = value if isinstance(value, str) else dict(value)
    if seen.remarks is not None:
        changes["remarks"] = dict(seen.remarks)
    if now.started_at is None:
        changes["started_at"] = seen.started_at
    if status.final and now.finished_at is None:
        changes["finished_at"] = seen.finished_at
    if status.final and now.exit_code is None:
        changes["exit_code"] = seen.exit_code
    return now._replace(**changes)


def limit_of(record: Recorded) -> tuple[str, float | None]:
    """Return the time limit that an attempt is under: its name in specs and its seconds, None where there is none."""
    if record.status is Status.PENDING:
        return "start_timeout", record.settings.start_timeout
    return "timeout", record.settings.timeout if record.status is Status.RUNNING else None


def limit_passed(record: Recorded) -> str:
    """Return in words that the time limit of an attempt has passed."""
    name, limit = limit_of(record)
    return f"{name} of {written_duration(limit or 0)} passed"


def expired(record: Recorded) -> Observed:
    """Return what is recorded of an attempt before it is stopped for its time limit; a crash in between hides no reason."""
    handle = {**record.handle, LIMIT: limit_of(record)[1]}
    return Observed(record.run_id, status=record.status, reason=record.reason, message=record.message, handle=handle)


def _stopped(record: Recorded, seen: Observed) -> Observed:
    """Return what an observation means for an attempt that was to be stopped for its time limit: if it failed later, it is why.

    One that succeeded, or ended before its limit by its engine's clock, or has begun after all, is as it is seen.
    """
    limit, running = limit_of(record)[1], record.status is Status.RUNNING
    if limit is None or record.handle.get(LIMIT) != limit:
        return seen
    if not seen.over:
        same = seen.status is record.status and seen.handle
        return replace(seen, handle={**seen.handle, LIMIT: limit}) if same else seen
    passed = seconds_between(record.started_at, seen.finished_at) if running else None
    if not seen.gone and (seen.status is not Status.FAILED or passed is None or passed < limit):
        return seen
    reason = "DeadlineExceeded" if running else record.reason or "StartTimeout"
    message = ": ".join(filter(None, (limit_passed(record), record.message)))
    return replace(seen, status=Status.TIMED_OUT, reason=reason, message=message)


def told(record: Recorded, seen: Observed) -> Observed:
    """Return what an observation means for a run that flowplan itself stops for a time limit, or tries again (``retry_delay``).

    Others mean what they say. After a failure a run that is tried again waits for its next try. A failure that is no newer
    than the one that it has been tried again after is the same one, seen late.
    """
    seen = _stopped(record, seen)
    retry, before, tries = record.settings.retry_delay, record.handle.get(ENDED), max(record.attempts, seen.attempts, 1)
    if retry is None or record.status.settled:
        return seen
    if before and seen.handle:
        seen = replace(seen, handle={ENDED: before, **seen.handle})
    if seen.status is not Status.FAILED or not (seen.exists and seen.finished_at):
        return seen
    goes_on = replace(seen, status=Status.RUNNING, reason="", message="", exit_code=None, finished_at=None)
    ended, passed = seen.finished_at, seconds_between(before, seen.finished_at)
    if before and passed is not None and passed <= 0:
        if record.handle.get(ASKED):
            return replace(goes_on, handle={**seen.handle, ENDED: before, ASKED: True})
        if record.reason != RETRY_DELAY:
            return goes_on
        ended = before
    if tries > retry.retries:
        return seen
    begins = datetime.fromisoformat(ended) + timedelta(seconds=wait_after(tries, *retry[1:]))
    why = seen.message if seen.exit_code is None else exit_codes.explained(seen.exit_code)
    words = exit_codes.next_try(why, tries + 1, timestamp(begins, "seconds"))
    return replace(goes_on, reason=RETRY_DELAY, message=words, handle={**seen.handle, ENDED: ended})


def next_try_at(record: Recorded) -> datetime | None:
    """Return when the next try of a run begins that flowplan tries again; None when it waits for none."""
    retry, ended = record.settings.retry_delay, record.handle.get(ENDED)
    if retry is None or not ended or not record.status.live:
        return None
    if record.handle.get(ASKED):
        return datetime.fromisoformat(ended)  # it was due when it was asked for
    wait = timedelta(seconds=wait_after(max(record.attempts, 1), *retry[1:]))
    return datetime.fromisoformat(ended) + wait if record.reason == RETRY_DELAY else None


def asked(record: Recorded, now: datetime) -> Observed:
    """Return what is recorded of a run before its engine is asked for its next try, which counts from then on."""
    number, retry = max(record.attempts, 1) + 1, record.settings.retry_delay
    further = Try(number, retry.retries + 1 if retry else None, timestamp(now), record.message.partition("; try ")[0])
    handle = {**record.handle, ASKED: True}
    return Observed(record.run_id, status=Status.RUNNING, attempts=number, handle=handle, tries=(further,))


def finished(now: Progress, status: Status, **facts: Any) -> Progress:
    """Return the attempt after flowplan's own verdict; one that has ended keeps its end, ``lost`` gives way to another."""
    if now.status.settled or now.status is status is Status.LOST:
        present = facts.get("present")
        return now if present is None else now._replace(present=present)
    known = {key: value for key, value in facts.items() if value is not None}
    return now._replace(status=status, outcome=outcome(status), **known)
