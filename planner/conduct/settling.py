"""What engines answered: attempts that are gone, steps that are done, refusals, and runs that were stopped for a limit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from flowplan.planner.conduct import words
from flowplan.planner.conduct.following import fail, follow, record_and_tell, refresh, stop_following, tell
from flowplan.planner.conduct.trying import tried
from flowplan.planner.conduct.words import Commands
from flowplan.planner.conduct.world import Care, Phase, Run, World, change_of
from flowplan.schemas.errors import EngineUnreachable, FlowplanError, ProviderError, StartFailed
from flowplan.schemas.events import Event
from flowplan.schemas.lifecycle import End
from flowplan.schemas.plans import Change
from flowplan.schemas.runs import Recorded, Status
from flowplan.schemas.times import timestamp

ASK_AGAIN, ASK_AGAIN_AT_LATEST = timedelta(seconds=0.5), timedelta(seconds=60)
"""How long to wait before an engine that did not answer is asked again, doubled with each try."""


def pause(tries: int) -> timedelta:
    """Return how long to wait after so many tries; a power of many tries has no place in a timedelta."""
    return min(ASK_AGAIN * float(2 ** min(tries, 10)), ASK_AGAIN_AT_LATEST)


def removed(world: World, answers: Sequence[words.Answered]) -> Commands:
    """Record which attempts were removed; those that were live were cancelled."""
    if outputs := {run_id: text for answer in answers for run_id, text in answer.outputs.items()}:
        yield words.Keep(outputs)
    ends: list[End] = []
    for answer in answers:
        command, gone = answer.command, {r.run_id for r in answer.removed}
        attempts = command.attempts if isinstance(command, words.Remove) else getattr(command, "former", ())
        world.removing -= {r.run_id for r in attempts} - gone
        if not (isinstance(command, words.Remove) and command.limit):
            ends += [_cancelled(world, record) for record in answer.removed if record.status.live]
    if ends:
        yield from record_and_tell(world, words.Finish(tuple(ends)))
    if run_ids := [record.run_id for answer in answers for record in answer.removed]:
        yield words.Absent(tuple(run_ids))


def _cancelled(world: World, record: Recorded) -> End:
    end, why = timestamp(world.engine_time(record.provider)), world.stop.get(record.address, "")
    return End(record.run_id, Status.CANCELLED, "Stopped", why, finished_at=end)


def settle(world: World, answers: Sequence[words.Answered]) -> Commands:
    """Finish the steps that engines answered; what is to be recorded of them is recorded together."""
    ends: list[tuple[words.Answered, End | None]] = []
    destroyed: dict[str, tuple[str, ...]] = {}
    done: list[Change] = []
    for answer in answers:
        command, error = answer.command, answer.error
        if isinstance(command, words.Again):
            yield from tried(world, world.run_at(command.record.address), answer)
            continue
        run = _run_of(world, answer)
        if isinstance(command, words.Remove) and command.limit:
            if answer.removed:
                ends.append((answer, _stopped(world, answer)))
            else:
                yield from _not_stopped(world, run, answer)
        elif run.phase is not Phase.CALLING:  # leftovers were removed, which belong to no step
            if error:
                yield from fail(world, run.address, error)
        elif error:
            if not _asked_again(world, run, answer, error):
                ends.append((answer, _refused(world, run, answer, error)))
        elif isinstance(command, words.Remove):
            run_ids = {r.run_id for r in answer.removed} | {change_of(run).run_id}
            destroyed[run.address] = tuple(sorted(run_ids))
        else:
            done.append(command.change)
    yield from _ended(world, ends)
    if destroyed:
        yield from record_and_tell(world, words.Destroyed(destroyed))
    for address in destroyed:
        world.drop(address)
        world.finished(world.run_at(address))
    if applied := [change for change in done if not change.action.starts]:
        yield words.Applied(tuple(applied))
        yield from refresh(world, [change.address for change in applied])
    for change in done:
        run = world.run_at(change.address)
        world.finished(run)
        if run.record and run.record.status.live:
            yield from follow(world, [run.record])


def _run_of(world: World, answer: words.Answered) -> Run:
    command = answer.command
    if isinstance(command, words.Remove):
        return world.run_at(command.address)
    return world.run_at((command.record if isinstance(command, words.Again) else command.change).address)


def _asked_again(world: World, run: Run, answer: words.Answered, error: FlowplanError) -> bool:
    """Return whether a step is put off that its engine did not answer, or refused for the credentials; one that is not patient leaves it to the next command."""
    if not (world.manner.patient and isinstance(error, ProviderError) and error.passing):
        return False
    command = answer.command
    asked = command.attempts if isinstance(command, words.Remove) else getattr(command, "former", ())
    done_with = {r.run_id for r in (*answer.removed, *([run.record] if run.record else []))}
    run.former = [record for record in asked if record.run_id not in done_with]
    run.known, run.tries = True, run.tries + 1
    world.postpone(run, world.moment.now + pause(run.tries))
    return True


def _refused(world: World, run: Run, answer: words.Answered, error: FlowplanError) -> End | None:
    """Return how the attempt ended whose step an engine refused; None when it did not.

    Without an answer it stays ``creating``, and the next command asks the engine. An attempt that was started before its
    former one could not be removed (``start_first``) goes on.
    """
    world.done(run)
    refused = isinstance(error, ProviderError) and not isinstance(error, EngineUnreachable)
    if not (change_of(run).action.starts and run.record and refused and not answer.seen):
        return None
    started = isinstance(error, StartFailed)
    reason = getattr(error, "reason", "") or ("StartFailed" if started else "Refused")
    status = Status.TIMED_OUT if reason == "StartTimeout" else Status.FAILED
    code = error.exit_code_of_run if isinstance(error, StartFailed) else None
    return End(run.record.run_id, status, reason, error.message, code)


def _stopped(world: World, answer: words.Answered) -> End:
    """Return the end of a run that passed a time limit, now that its object is gone and can never start after all."""
    command, before = answer.command, answer.before
    assert isinstance(command, words.Remove)
    [stopped] = command.attempts
    run = world.run_at(command.address)
    why = (before.message if before else "") or stopped.message
    message = f"{command.limit}: {why}" if why else command.limit
    reason = "DeadlineExceeded" if stopped.status is Status.RUNNING else ""
    reason = reason or (before.reason if before else "") or stopped.reason or "StartTimeout"
    run.stops = 0
    if run.record is not None and run.record.run_id == stopped.run_id:
        run.failed = f"timed out: {message}"
    end = timestamp(world.engine_time(stopped.provider))
    return End(stopped.run_id, Status.TIMED_OUT, reason, message, finished_at=end)


def _not_stopped(world: World, run: Run, answer: words.Answered) -> Commands:
    """Go on with a run that passed a time limit, but whose engine refused to stop it, or that had just moved on."""
    run.stops = run.stops + 1 if answer.error else 0
    run.limit, run.care, world.limits_rest = "", Care.FOLLOWED, None
    if answer.error:
        run.stop_again = world.moment.now + pause(run.stops)
        away = world.manner.patient and isinstance(answer.error, ProviderError) and answer.error.passing
        if run.stops == 1 and not away:  # that an engine is away is told by who watches it
            yield from fail(world, run.address, answer.error)


def _ended(world: World, ends: Sequence[tuple[words.Answered, End | None]]) -> Commands:
    """Record how attempts ended, and tell of each, and of the steps that failed without such an end."""
    events: list[Event] = []
    if found := tuple(end for _, end in ends if end):
        events = yield words.Finish(found)
        yield from refresh(world, [_run_of(world, answer).address for answer, end in ends if end])
    for answer, end in ends:
        run, command, error = _run_of(world, answer), answer.command, answer.error
        told = [event for event in events if end and event.run_id == end.run_id]
        if isinstance(command, words.Remove) and command.limit:
            [stopped] = command.attempts
            yield from stop_following(world, stopped, told)
            continue
        yield from tell(world, told)
        if isinstance(error, StartFailed):
            run.failed = error.message
            if error.hint:
                yield words.Note(f"{run.address}: {error.hint}")
        elif error:
            yield from fail(world, run.address, error)
