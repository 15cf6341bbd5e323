"""What engines answered: attempts that are gone, steps that are done, refusals, and runs that were stopped for a limit."""

from __future__ import annotations

from datetime import timedelta

from flowplan.planner.conduct import words
from flowplan.planner.conduct.following import fail, follow, record_and_tell, refresh, stop_following
from flowplan.planner.conduct.trying import tried
from flowplan.planner.conduct.words import Commands
from flowplan.planner.conduct.world import Care, Phase, Run, World, change_of
from flowplan.schemas.errors import EngineUnreachable, FlowplanError, ProviderError, StartFailed
from flowplan.schemas.runs import Status

ASK_AGAIN, ASK_AGAIN_AT_LATEST = timedelta(seconds=0.5), timedelta(seconds=60)
"""How long to wait before an engine that did not answer is asked again, doubled with each try."""


def pause(tries: int) -> timedelta:
    """Return how long to wait after so many tries; a power of many tries has no place in a timedelta."""
    return min(ASK_AGAIN * float(2 ** min(tries, 10)), ASK_AGAIN_AT_LATEST)


def removed(world: World, answer: words.Answered) -> Commands:
    """Record which attempts a command removed; those that were live were cancelled."""
    if answer.outputs:
        yield words.Keep(answer.outputs)
    command, gone = answer.command, {r.run_id for r in answer.removed}
    attempts = command.attempts if isinstance(command, words.Remove) else getattr(command, "former", ())
    world.removing -= {r.run_id for r in attempts} - gone
    for record in answer.removed:
        if record.status.live and not (isinstance(command, words.Remove) and command.limit):
            end, why = world.engine_time(record.provider), world.stop.get(record.address, "")
            yield from record_and_tell(
                world, words.Finish(record.run_id, Status.CANCELLED, "Stopped", why, finished_at=end)
            )
    if gone:
        yield words.Absent(tuple(r.run_id for r in answer.removed))


def settle(world: World, answer: words.Answered) -> Commands:
    """Finish the step that an engine answered."""
    command, error = answer.command, answer.error
    if isinstance(command, words.Again):
        yield from tried(world, world.run_at(command.record.address), answer)
        return
    run = world.run_at(command.address if isinstance(command, words.Remove) else command.change.address)
    if isinstance(command, words.Remove) and command.limit:
        yield from _stopped(world, run, answer)
    elif run.phase is not Phase.CALLING:  # leftovers were removed, which belong to no step
        if error:
            yield from fail(world, run.address, error)
    elif error:
        yield from _failed(world, run, answer, error)
    elif isinstance(command, words.Remove):
        run_ids = {r.run_id for r in answer.removed} | {change_of(run).run_id}
        yield from record_and_tell(world, words.Destroyed(run.address, tuple(sorted(run_ids))))
        world.drop(run.address)
        world.finished(run)
    else:
        if not command.change.action.starts:
            yield words.Applied(command.change)
            yield from refresh(world, [run.address])
        world.finished(run)
        if run.record and run.record.status.live:
            yield from follow(world, [run.record])


def _failed(world: World, run: Run, answer: words.Answered, error: FlowplanError) -> Commands:
    """End a step without success.

    A refusal ends the attempt, too. Without an answer it stays ``creating``, and the next command asks the engine, or this
    one when it is patient. An attempt that was started before its former one could not be removed (``start_first``) goes on.
    """
    if world.manner.patient and isinstance(error, EngineUnreachable):
        command = answer.command
        asked = command.attempts if isinstance(command, words.Remove) else getattr(command, "former", ())
        done_with = {r.run_id for r in (*answer.removed, *([run.record] if run.record else []))}
        run.former = [record for record in asked if record.run_id not in done_with]
        run.known, run.tries = True, run.tries + 1
        world.postpone(run, world.moment.now + pause(run.tries))
        return
    world.done(run)
    change = change_of(run)
    refused = isinstance(error, ProviderError) and not isinstance(error, EngineUnreachable)
    if change.action.starts and run.record and refused and not answer.seen:
        started = isinstance(error, StartFailed)
        reason = getattr(error, "reason", "") or ("StartFailed" if started else "Refused")
        status = Status.TIMED_OUT if reason == "StartTimeout" else Status.FAILED
        code = error.exit_code_of_run if isinstance(error, StartFailed) else None
        yield from record_and_tell(world, words.Finish(run.record.run_id, status, reason, error.message, code))
        yield from refresh(world, [run.address])
    if isinstance(error, StartFailed):
        run.failed = error.message
        if error.hint:
            yield words.Note(f"{run.address}: {error.hint}")
    else:
        yield from fail(world, run.address, error)


def _stopped(world: World, run: Run, answer: words.Answered) -> Commands:
    """Record the end of a run that passed a time limit, now that its object is gone and can never start after all."""
    command, record = answer.command, run.record
    assert isinstance(command, words.Remove)
    run.stops = run.stops + 1 if answer.error and not answer.removed else 0
    if not answer.removed:  # the engine refused, or the run had just moved on
        run.limit, run.care = "", Care.FOLLOWED
        if answer.error:
            run.stop_again = world.moment.now + pause(run.stops)
            away = world.manner.patient and isinstance(answer.error, EngineUnreachable)
            if run.stops == 1 and not away:  # that an engine is away is told by who watches it
                yield from fail(world, run.address, answer.error)
        return
    [stopped] = command.attempts
    before = answer.before
    why = (before.message if before else "") or stopped.message
    message = f"{command.limit}: {why}" if why else command.limit
    reason = "DeadlineExceeded" if stopped.status is Status.RUNNING else ""
    reason = reason or (before.reason if before else "") or stopped.reason or "StartTimeout"
    end = world.engine_time(stopped.provider)
    events = yield words.Finish(stopped.run_id, Status.TIMED_OUT, reason, message, finished_at=end)
    yield from refresh(world, [run.address])
    yield from stop_following(world, stopped, events)
    if record is not None and record.run_id == stopped.run_id:
        run.failed = f"timed out: {message}"
