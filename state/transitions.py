"""What is written when something happens to attempts: pure, over what was known of them; ``lifecycle`` has the rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from flowplan.schemas.errors import Refused
from flowplan.schemas.events import Event
from flowplan.schemas.lifecycle import RETRIED, End, Progress, after, finished
from flowplan.schemas.runs import Observed, Recorded, Status

FORGOTTEN = "Forgotten"
"""The reason of an attempt that is not managed any more and whose object was left alone."""


class Known(NamedTuple):
    """What is recorded of an attempt before something happens to it."""

    address: str
    run_id: str
    attempt: int
    progress: Progress

    def event(self, then: Progress, engine_at: str | None = None) -> Event:
        """Return the event of a new progress; its number and time come when it is written."""
        return event(self.address, self.run_id, self.attempt, then.status, then.reason, then.message, engine_at)


class Written(NamedTuple):
    """The progress to be written, by run id, and the events that tell of it, in their order."""

    progress: dict[str, Progress]
    events: list[Event]


def event(
    address: str,
    run_id: str,
    attempt: int,
    status: Status,
    reason: str = "",
    message: str = "",
    engine_at: str | None = None,
) -> Event:
    """Return an event without its number and time, which it gets when it is written."""
    return Event(0, "", engine_at, address, run_id, attempt, str(status), reason, message)


def intended(items: Sequence[Recorded], known: Mapping[str, Known], plan_digest: str, now: str) -> list[Recorded]:
    """Return the records of intents; whether their objects exist is open until the engine has answered.

    Raises:
        Refused: an attempt of the same run id has gone beyond ``creating``.
    """
    found = []
    for item in items:
        before = known[item.run_id].progress if item.run_id in known else None
        if before and before.status is not Status.CREATING:
            raise Refused(
                f"attempt {item.attempt} is recorded as {before.status} already",
                hint="another flowplan was faster; plan again",
                address=item.address,
            )
        created_at = (before.created_at if before else None) or item.created_at or now
        digest = plan_digest or item.plan_digest
        found.append(replace(item, status=Status.CREATING, present=True, plan_digest=digest, created_at=created_at))
    return found


def advanced(seen: Iterable[Observed], known: Mapping[str, Known]) -> Written:
    """Return what observations change, with an event for each new (status, reason); unknown runs are ignored."""
    now, changed, events = dict(known), {}, []
    for one in (one for one in seen if one.run_id in now):
        item = now[one.run_id]
        before, then = item.progress, after(item.progress, one)
        if then == before:
            continue
        now[one.run_id], changed[one.run_id] = item._replace(progress=then), then
        told = [
            item.event(then._replace(status=Status.RUNNING, reason=RETRIED, message=further.words), further.began_at)
            for further in one.tries
            if further.number > before.attempts and not before.status.settled
        ]
        if then.status is not before.status:
            happened = one.finished_at if one.over else one.started_at if one.status is Status.RUNNING else None
            own = item.event(then, happened or one.at)
            told = [*told, own] if then.status.final else [own, *told]
        elif then.reason if told else then.reason != before.reason:
            told.append(item.event(then))  # engines tell when something began or ended, not since when a reason holds
        events += told
    return Written(changed, events)


def concluded(ends: Iterable[End], known: Mapping[str, Known], now: str) -> Written:
    """Return what flowplan's own verdicts change; there is an event only for another status."""
    changed, events = {}, []
    for end in ends:
        item = known[end.run_id]
        then = finished(
            item.progress,
            end.status,
            reason=end.reason,
            message=end.message,
            exit_code=end.exit_code,
            finished_at=end.finished_at or now,
            present=False,
        )
        if then != item.progress:
            changed[end.run_id] = then
        if then.status is not item.progress.status:
            events.append(item.event(then))
    return Written(changed, events)


def destroyed(known: Iterable[Known], *, reason: str, message: str = "", present: bool | None = None) -> Written:
    """Return the attempts as ``destroyed``; those that are already only learn whether their object is still there."""
    changed, events = {}, []
    for item in known:
        before = item.progress
        then = before._replace(status=Status.DESTROYED, present=before.present if present is None else present)
        if before.status is not Status.DESTROYED:
            then = then._replace(reason=reason, message=message)
            events.append(item.event(then))
        if then != before:
            changed[item.run_id] = then
    return Written(changed, events)
