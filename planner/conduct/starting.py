"""Steps that begin: which of them can, in what order; their intents are recorded before any engine is called."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any

from flowplan.planner.conduct import words
from flowplan.planner.conduct.following import fail, follow, record_and_tell, refresh, tell
from flowplan.planner.conduct.words import Commands
from flowplan.planner.conduct.world import Care, Phase, Run, World, change_of, end_of, group_key, how_it_ended
from flowplan.schemas.errors import ProviderError
from flowplan.schemas.plans import Action
from flowplan.schemas.runs import Recorded, Settings, Status
from flowplan.schemas.times import timestamp


def dispatch(world: World) -> Commands:
    """Begin the steps that can begin now. Their intents are recorded together, before any engine is called."""
    if world.manner.until is not None and world.moment.now > world.manner.until:
        world.timed_out = True
    if not (world.interrupted or (world.timed_out and not world.working)):
        ready = yield from _ready(world)
        if ready and not world.locked and not (yield from take_lock(world)):
            for run in ready:
                heappush(world.due, run.place)
            ready = []
        if any(run.checked < world.away or run.tries for run in ready):
            ready = yield from _still_as_planned(world, ready)
        yield from _intend(world, [run for run in ready if change_of(run).action.starts])
        for run in ready:
            yield from _call(world, run)
    if world.locked and not world.working and not world.manner.detach:
        world.locked = False
        yield words.Unlock()


def _ready(world: World) -> Generator[words.Command, Any, list[Run]]:
    """Take the steps that can begin; set the others aside until what holds them back has changed, or give them up."""
    ready: list[Run] = []
    skipped: list[Run] = []
    starting: dict[str, int] = {}
    calls: set[str] = set()  # cells that start together take the room of one
    while world.later and world.later[0][0] <= world.moment.now:
        heappush(world.due, heappop(world.later)[1])
    while world.due:
        run = world.steps[world.due[0]]
        settings = run.change.settings if run.change else Settings()
        group, call = settings.group, group_key(settings.group) if settings.together else run.address
        if len(calls) >= world.moment.room and call not in calls:
            break
        heappop(world.due)
        if run.phase is not Phase.WAITING:
            continue
        until, never = held_back(world, run, starting)
        if never:
            run.skipped, run.phase = never, Phase.SKIPPED
            del world.waiting[run.address]
            world.wake(run.address)
            skipped.append(run)
        elif until:
            heappush(world.aside.setdefault(until, []), run.place)
        else:
            ready.append(run)
            calls.add(call)
            starting[group] = starting.get(group, 0) + world.adds_to_group(run)
            continue
        if until != group_key(group):  # it may have been woken as the one of its group that there is room for
            world.wake_one(group_key(group))
    if skipped:
        yield words.Skip({run.address: run.skipped for run in skipped})
    for run in skipped:
        yield words.Note(f"{run.address}: skipped: {run.skipped}")
        if world.locked:
            yield from _remove_former(world, run)
    return ready


def held_back(world: World, run: Run, starting: Mapping[str, int]) -> tuple[str, str]:
    """Return what has to change before a step can begin, and why it never will; "" for neither."""
    change = change_of(run)
    for address in run.after:
        if world.runs[address].phase is not Phase.DONE and world.runs[address].change:
            return address, ""
    if not change.action.starts:
        return "", ""
    for need in change.settings.needs[run.met :]:
        met, never = need_met(world, need)
        if not met:
            return need, never
        run.met += 1
    if change.settings.replace == "after_finish" and change.action is Action.REPLACE and run.live:
        return run.address, ""
    most, group = change.settings.max_parallel, change.settings.group
    if most is not None and world.adds_to_group(run) and len(world.running(group)) + starting.get(group, 0) >= most:
        return group_key(group), ""
    return "", ""


def need_met(world: World, need: str) -> tuple[bool, str]:
    """Return whether a needed run has succeeded, and why it never will."""
    other = world.runs.get(need)
    if other is not None and other.skipped:
        return False, f"{need} was skipped"
    if other is not None and (other.phase in (Phase.WAITING, Phase.CALLING) or need in world.untold):
        return False, ""
    if other is None or other.record is None:
        return False, f"{need} has never run"
    if other.record.status is Status.SUCCEEDED:
        return True, ""
    if other.live and other.care in (Care.UNWATCHED, Care.ELSEWHERE):
        return False, f"{need} is not followed any more"
    if other.live and other.error is None:
        return False, ""
    return False, f"{need} {'could not start' if other.live else end_of(other.record)}"


def take_lock(world: World, *, wait: bool = False) -> Generator[words.Command, Any, bool]:
    """Take the writer's lock; a run that becomes ready later waits for it without blocking others."""
    holder = yield words.Lock(wait)
    if holder:
        if not world.said_locked:
            yield words.Note(f"waiting: {holder}")
        world.said_locked = True
        return False
    world.locked, world.said_locked = True, False
    world.away += not wait
    return True


def _still_as_planned(world: World, ready: list[Run]) -> Generator[words.Command, Any, list[Run]]:
    """Leave out the runs that another flowplan changed, or whose steps it dropped, while this one did not have the lock."""
    records = yield words.Reload(tuple(run.address for run in ready))
    dropped = yield words.AskDropped(tuple(run.address for run in ready))
    left = []
    for run in ready:
        run.checked = world.away
        if run.address in dropped:
            world.done(run)
            world.wake_one(group_key(change_of(run).settings.group))  # it takes no room
            yield words.Note(f"{run.address}: left alone: {dropped[run.address]}")
            continue
        change, record = change_of(run), records.get(run.address)
        started = record and record.run_id == change.run_id and record.status is not Status.CREATING
        same = (record.run_id if record else None) == (run.record.run_id if run.record else None)
        if same and not (started and change.action.starts):
            left.append(run)
            continue
        world.done(run)
        world.wake_one(group_key(change.settings.group))
        if record and record.run_id == change.run_id and record.objects == change.after:
            yield words.Note(f"{run.address}: started by another flowplan")
            world.keep(record)
            run.wanted = True
            if record.status.live:
                yield from follow(world, [record])
            elif record.status is not Status.SUCCEEDED:
                run.failed = how_it_ended(record)
        else:
            error = ProviderError("another apply changed this run meanwhile; it was left alone")
            yield from fail(world, run.address, error)
    for run in ready:
        if run.phase is Phase.DONE:  # it may have left room in its group, which others were set aside for
            world.wake_one(group_key(change_of(run).settings.group))
    return left


def _intend(world: World, starting: Sequence[Run]) -> Commands:
    """Record what is about to be created, before any engine is called (write-ahead)."""
    if not starting:
        return
    records = [
        Recorded(
            address=change.address,
            provider=change.provider,
            type=change.type,
            target=world.plan.targets.get(change.provider, {}),
            attempt=change.attempt,
            run_id=change.run_id,
            name=change.name,
            objects=change.after or {},
            settings=change.settings,
            status=Status.CREATING,
            plan_digest=world.digest_of(change.address),
            created_at=timestamp(world.moment.wall),
        )
        for change in map(change_of, starting)
    ]
    for run, record in zip(starting, records, strict=True):
        if run.record is None or run.record.run_id == record.run_id:
            continue
        if run.care is Care.ELSEWHERE:  # it is not ours to end
            yield words.Absent((run.record.run_id,))
        elif run.record.present:
            run.former.append(run.record)
        run.care = Care.NOBODY
    events = yield words.Intend(tuple(records))
    for run, record in zip(starting, records, strict=True):
        world.keep(record)
        run.wanted, run.failed = True, ""
    yield from tell(world, events)


def _call(world: World, run: Run) -> Commands:
    """Ask an engine for what the step does; a change that needs no engine is done at once."""
    change = change_of(run)
    del world.waiting[run.address]
    run.phase = Phase.CALLING
    born_as = run.record.born_as if run.record and not change.action.starts else ""
    if change.action is Action.FORGET:
        yield from record_and_tell(world, words.Forget(run.address))
        world.drop(run.address)
        world.finished(run)
        return
    if change.action is Action.ADOPT and run.record and run.record.status not in (Status.CREATING, Status.PENDING):
        # It was seen to have started. A call would create it again if it has been removed since.
        yield words.Applied((change,))
        yield from refresh(world, [run.address])
        world.finished(run)
        yield from _remove_former(world, run)
        return
    world.calls += 1
    if change.action is Action.DESTROY:
        attempts = world.take_attempts(run)
        world.removing |= {r.run_id for r in attempts}
        yield words.Remove(run.address, tuple(attempts))
    elif change.action is Action.UPDATE and run.record:
        fields = () if world.plan.mode == "refresh_only" else change.fields
        yield words.Update(change, run.record, fields, born_as)
    else:
        former, run.former = tuple(run.former), []
        world.removing |= {r.run_id for r in former}
        first = change.settings.replace == "start_first"
        yield words.Start(change, former, first, fresh=change.action.starts and not run.known, born_as=born_as)


def clear_away(world: World) -> Commands:
    """Remove replaced attempts that an interrupted or refused replacement left, where no step removes them."""
    for address in dict.fromkeys(c.address for c in world.plan.changes):
        run = world.runs.get(address)
        if run is None:
            continue
        action = run.change.action if run.change and run.phase is Phase.WAITING else Action.NO_OP
        if action.starts or action in (Action.DESTROY, Action.ADOPT):
            continue
        yield from _remove_former(world, run)


def _remove_former(world: World, run: Run) -> Commands:
    """Remove the attempts that came before the newest one at an address, and are still there.

    They stay while that one has not started, or could not: they are all that runs there.
    """
    newest = run.record
    if newest and newest.not_started:
        for left in (former for former in run.former if former.status.live):
            yield words.Note(f"{run.address}: attempt {left.attempt} goes on: attempt {newest.attempt} has not started")
    elif run.former:
        attempts, run.former = tuple(run.former), []
        world.removing |= {r.run_id for r in attempts}
        world.calls += 1
        yield words.Remove(run.address, attempts)


def move(world: World) -> Commands:
    """Rename addresses in the state, as ``moved`` in the spec says, before anything else."""
    for run in list(world.waiting.values()):
        change = change_of(run)
        if not change.moved_from:
            continue
        yield words.Move(change.moved_from, change.address)
        world.drop(change.moved_from)
        records = yield words.Reload((change.address,))
        if change.address in records:
            world.keep(records[change.address])
            run.wanted = True
        yield words.Note(f"{change.moved_from} is now {change.address}")
        if change.action is Action.NO_OP:
            del world.waiting[run.address]
            world.finished(run)
