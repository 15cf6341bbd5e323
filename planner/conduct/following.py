"""Live runs: who follows them, what engines say of them, which time limits have passed, and how their output is kept."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from flowplan.planner.conduct import words
from flowplan.planner.conduct.words import Commands
from flowplan.planner.conduct.world import (
    LOOK_AT_LIMITS,
    LOOK_AT_LIMITS_AT_LATEST,
    LOOK_AT_THEIRS,
    SHOWN_WITHIN,
    Care,
    Phase,
    World,
    group_key,
    how_it_ended,
)
from flowplan.schemas import lifecycle
from flowplan.schemas.errors import FlowplanError, ProviderError
from flowplan.schemas.events import Event
from flowplan.schemas.runs import Observed, Recorded, Status


def follow(world: World, records: Sequence[Recorded]) -> Commands:
    """Follow attempts, unless the user wants to go on with something else (``--detach``)."""
    for record in records:
        world.runs[record.address].care = Care.FOLLOWED
    world.limits_rest = None
    if world.manner.detach:
        return
    yield words.Follow(tuple(records))
    for record in records:
        if record.status in (Status.PENDING, Status.RUNNING):
            yield from _show(world, record)


def _show(world: World, record: Recorded) -> Commands:
    if not world.manner.detach:
        yield words.Show(record, aloud=world.manner.stream and record.settings.stream_output)


def follow_live(world: World) -> Commands:
    """Follow the runs that are live at the beginning; those that another flowplan is starting are looked at later."""
    open_ = [run for run in world.live.values() if run.wanted and run.care is not Care.ELSEWHERE]
    others = bool(open_) and not world.locked and (yield words.AskOthers())
    for run in open_:
        assert run.record
        if run.record.status is not Status.CREATING or (not others and run.phase is not Phase.WAITING):
            yield from follow(world, [run.record])
        elif others:
            run.care = Care.THEIRS
            world.theirs.add(run.address)


def stop(world: World) -> Commands:
    """Stop the live runs that are not to go on, for which the lock is held."""
    for run in [world.runs[address] for address in world.stop if address in world.live]:
        run.care = Care.STOPPING
        attempts = world.take_attempts(run)
        world.removing |= {r.run_id for r in attempts}
        world.calls += 1
        yield words.Remove(run.address, tuple(attempts))


def look_at_others(world: World) -> Commands:
    """Look at what another flowplan does: follow the runs that it has started, or that it was starting when it ended."""
    if not (world.theirs or world.expected) or (world.theirs_due and world.moment.now < world.theirs_due):
        return
    world.theirs_due = world.moment.now + LOOK_AT_THEIRS * (1 + len(world.expected) / 1000)
    still = (yield words.AskCarried()) if world.expected else set()
    others = bool(world.theirs) and (yield words.AskOthers())
    addresses = sorted(world.theirs)
    records = (yield words.Reload(tuple(addresses))) if addresses else {}
    for address in addresses:
        record, run = records.get(address), world.runs[address]
        if others and record and record.status is Status.CREATING:
            continue
        same = record is not None and run.record is not None and run.record.run_id == record.run_id
        run.care = Care.NOBODY
        world.theirs.discard(address)
        yield from replace_record(world, address, record)
        if record and record.status.live and same:
            yield from follow(world, [record])
    yield from _take_in(world, *(yield words.Advance(())))  # ends that were recorded before those were followed
    world.expected &= still


def advance(world: World, seen: Sequence[Observed], *, catching_up: bool = False) -> Commands:
    """Record what engines said, and tell what has changed.

    Objects that are being removed here go away for that reason; their ends are recorded when the removal is answered.

    Args:
        catching_up: True for what was seen while planning, whose output is not shown.
    """
    told = [_meant(world, s) for s in seen if s.run_id in world.address_of and s.run_id not in world.removing]
    told = [s for s in told if not (s.gone and world.destroying(world.address_of[s.run_id]))]
    if told and not world.locked:
        # Another flowplan that writes may be stopping these runs; it tells of them itself, as cancelled.
        ends = [s for s in told if s.over]
        if ends and (yield words.AskOthers()):
            world.disputed, told = ends, [s for s in told if not s.over]
    pairs = [(record, s) for s in told if (record := world.runs[world.address_of[s.run_id]].record)]
    if not pairs:
        return
    for record, away in pairs:
        if away.elsewhere:  # how it ends cannot be seen from here
            run = world.runs[record.address]
            if run.care is not Care.ELSEWHERE and run.wanted:
                yield words.Note(f"{run.address}: {away.message}, and is not followed")
                world.wake(run.address)
            run.care = Care.ELSEWHERE
            yield words.Unfollow(record)
    events, records = yield words.Advance(tuple(pairs))
    yield from _take_in(world, events, records, [record.address for record, _ in pairs], catching_up=catching_up)
    for run in [world.runs[record.address] for record, away in pairs if away.gone]:
        if run.care is Care.FOLLOWED and run.record and not run.error and world.abandoned(run):
            why = f"attempt {run.record.attempt} was not started: whoever was about to start it has ended"
            yield from fail(world, run.address, ProviderError(why, hint="`flowplan apply` goes on from there"))
            world.wake_one(group_key(run.record.settings.group))


def _take_in(
    world: World,
    events: Sequence[Event],
    records: Mapping[str, Recorded],
    addresses: Sequence[str] = (),
    *,
    catching_up: bool = False,
) -> Commands:
    """Take in what was recorded at addresses, and tell the events; those of another flowplan as well."""
    others = [event.address for event in events if event.address in world.runs]
    for address in dict.fromkeys((*addresses, *others)):
        yield from replace_record(world, address, records.get(address))
    for event in events:
        record = world.runs[event.address].record if event.address in world.runs else None
        if record and record.run_id == event.run_id and record.status.final and event.status == record.status:
            yield from _end(world, record, event, catching_up)
        else:
            yield from tell(world, [event])


def _meant(world: World, seen: Observed) -> Observed:
    """Return what an observation means for the newest attempt at its address."""
    record = world.runs[world.address_of[seen.run_id]].record
    return lifecycle.told(record, seen) if record and record.run_id == seen.run_id else seen


def _end(world: World, record: Recorded, event: Event, catching_up: bool) -> Commands:
    """Stop following an attempt that ended; its end is told, and the end of its output read, when that has been shown."""
    run = world.runs[record.address]
    world.ended += 1
    world.succeeded += run.wanted and record.status is Status.SUCCEEDED and not world.destroying(run.address)
    if record.status is not Status.SUCCEEDED and run.wanted and not world.destroying(run.address):
        run.failed = how_it_ended(record)
    if record.status is not Status.LOST and not catching_up:
        yield from _show(world, record)
    showing = yield from stop_following(world, record, [event])
    world.ending[record.run_id] = record, world.moment.now + SHOWN_WITHIN
    if not showing:
        yield from read_end(world, record.run_id)


def stop_following(world: World, record: Recorded, events: Sequence[Event]) -> Generator[words.Command, Any, bool]:
    """Watch an attempt that ended no more; return whether its output is still being shown, and its end is told later."""
    showing: bool = yield words.Unfollow(record)
    if showing and world.manner.output_first and world.manner.stream and record.settings.stream_output:
        world.untold[record.address] = [*events], world.moment.now + SHOWN_WITHIN
    else:
        yield from tell(world, events)
    return showing


def tell_end(world: World, address: str) -> Commands:
    """Tell how the run at an address ended, if that was put off; steps that need it may begin then."""
    events, _ = world.untold.pop(address, ((), None))
    if events:
        world.wake(address)
        yield from tell(world, events)


def read_end(world: World, run_id: str) -> Commands:
    """Read the end of the output of an attempt that ended, once."""
    record, _ = world.ending.pop(run_id, (None, None))
    if record:
        world.calls += 1
        yield words.ReadEnd(record)


def enforce_limits(world: World) -> Commands:
    """Stop the runs that passed a time limit which their engine does not keep; look again when the next one may have.

    That they are to be stopped is recorded first, so that why they ended is known whatever becomes of this flowplan.
    """
    if any(until and world.moment.now < until for until in (world.limits_due, world.limits_rest)):
        return
    soonest, over = LOOK_AT_LIMITS_AT_LATEST, []
    for run in list(world.limited.values()):
        record = run.record
        if record is None or not run.wanted or run.care is not Care.FOLLOWED or world.step_is_pending(run):
            continue  # an adoption that is still to come would create it again
        if run.stops and run.stop_again and world.moment.now < run.stop_again:
            soonest = 0.0
        elif (left := _time_left(world, record)) < 0:
            over.append(run)
        else:
            soonest = min(soonest, left)
    world.limits_due = world.moment.now + LOOK_AT_LIMITS * (1 + len(world.limited) / 1000)
    world.limits_rest = world.moment.now + timedelta(seconds=soonest)
    yield from advance(world, [lifecycle.expired(run.record) for run in over if run.record])
    for run in over:
        record = run.record
        if record is None or not record.status.live or lifecycle.LIMIT not in record.handle:
            continue  # another flowplan has recorded its end meanwhile
        run.care, run.limit = Care.STOPPING, lifecycle.limit_passed(record)
        world.removing.add(record.run_id)
        world.calls += 1
        if not run.stops:
            yield words.Note(f"{record.address}: {run.limit}, stopping it")
        yield words.Remove(record.address, (record,), run.limit)


def _time_left(world: World, record: Recorded) -> float:
    """Return the seconds that are left of a run's time limit; where it has none of ours, until limits are looked at again.

    Whether the engine keeps the limit is asked only when it has passed: that takes files of the run.
    """
    moment, (_, limit) = world.moment, lifecycle.limit_of(record)
    if limit is None:
        return LOOK_AT_LIMITS_AT_LATEST
    if record.status is Status.PENDING:
        passed = world.passed(record, record.created_at, moment.wall)
    else:
        passed = world.passed(record, record.started_at, moment.engine(record.provider))
    left = 0.0 if passed is None else limit - passed
    if left <= 0 and record.status is Status.RUNNING and moment.keeps_timeout(record):
        return LOOK_AT_LIMITS_AT_LATEST
    return left


def refresh(world: World, addresses: Sequence[str]) -> Commands:
    """Reload the records of addresses from the state."""
    records = yield words.Reload(tuple(addresses))
    for address in addresses:
        yield from replace_record(world, address, records.get(address))


def replace_record(world: World, address: str, record: Recorded | None) -> Commands:
    """Take in the newest record of an address, which may be that of another flowplan's next attempt."""
    former = world.run_at(address).record
    if record:
        world.keep(record)
    else:
        world.drop(address)
    if former is None:
        if record is not None and record.status.live and address in world.expected:
            yield from _follow_theirs(world, record)
        return
    if record is not None and record.run_id == former.run_id:
        run = world.runs[address]
        if former.status is Status.LOST and run.live and run.care is Care.FOLLOWED:
            run.failed = ""
            yield from follow(world, [record])
        return
    yield words.Unfollow(former)
    if record is None:
        yield words.Note(f"{address}: destroyed by another flowplan")
    elif record.status.live:
        yield words.Note(f"{address}: attempt {record.attempt} was started by another flowplan")
        yield from _follow_theirs(world, record)


def _follow_theirs(world: World, record: Recorded) -> Commands:
    """Follow an attempt of another flowplan, as soon as that has started it."""
    if record.status is Status.CREATING:
        world.runs[record.address].care = Care.THEIRS
        world.theirs.add(record.address)
    else:
        yield from follow(world, [record])


def record_and_tell(world: World, command: words.Finish | words.Destroyed | words.Forget) -> Commands:
    """Have the state record an end, and tell the events that it answers."""
    yield from tell(world, (yield command))


def tell(world: World, events: Sequence[Event]) -> Commands:
    """Show events to the user, those of a run after the end of what it needs."""
    for event in events:
        yield from tell_end(world, event.address)
        run = world.runs.get(event.address)
        record = run.record if run else None
        if first := next((need for need in world.untold if record and need in record.settings.needs), ""):
            world.untold[first][0].append(event)
        else:
            yield words.Tell(event, record)


def give_up(world: World, provider: str, error: FlowplanError) -> Commands:
    """Follow the runs of an engine no more that refuses to be watched; they go on, and are not lost."""
    runs = [run for run in world.live.values() if run.wanted and run.record and run.record.provider == provider]
    if runs:
        yield words.Note(f"error: {error}; its runs are not followed any more")
    for run in runs:
        run.care = Care.UNWATCHED
        run.error = run.error or error
        world.wake(run.address)


def fail(world: World, address: str, error: FlowplanError) -> Commands:
    """Note what went wrong with the step at an address."""
    world.run_at(address).error = error
    world.wake(address)
    yield words.Note(f"error: {error if error.address else f'{address}: {error}'}")
