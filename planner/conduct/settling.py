"""What came of the commands to engines."""

from __future__ import annotations

from flowplan.planner.conduct import words
from flowplan.planner.conduct.following import fail, follow, refresh, tell
from flowplan.planner.conduct.words import Commands
from flowplan.planner.conduct.world import Care, Phase, Run, World, change_of
from flowplan.schemas.errors import EngineUnreachable, FlowplanError, ProviderError, StartFailed
from flowplan.schemas.runs import Status


def removed(world: World, answer: words.Answered) -> Commands:
    """Attempts whose objects are gone; those that were live were cancelled."""
    if answer.outputs:
        yield words.Keep(answer.outputs)
    command, gone = answer.command, {r.run_id for r in answer.removed}
    attempts = command.attempts if isinstance(command, words.Remove) else getattr(command, "former", ())
    world.removing -= {r.run_id for r in attempts} - gone
    for record in answer.removed:
        if record.status.live and not (isinstance(command, words.Remove) and command.limit):
            yield from tell(
                world,
                (
                    yield words.Finish(
                        record.run_id, Status.CANCELLED, "Stopped", finished_at=world.engine_time(record.provider)
                    )
                ),
            )
    if gone:
        yield words.Absent(tuple(r.run_id for r in answer.removed))


def settle(world: World, answer: words.Answered) -> Commands:
    command = answer.command
    if isinstance(command, words.Remove):
        run = world.run_at(command.address)
        if command.limit:
            yield from _stopped(world, run, answer)
        elif run.phase is not Phase.CALLING:  # leftovers, which are nobody's step
            if answer.error:
                yield from fail(world, command.address, answer.error)
        elif answer.error:
            yield from _failed(world, run, answer, answer.error)
        else:
            run_ids = {r.run_id for r in answer.removed} | {change_of(run).run_id}
            yield from tell(world, (yield words.Destroyed(tuple(sorted(run_ids)))))
            world.drop(run.address)
            world.finished(run)
        return
    run = world.run_at(command.change.address)
    if answer.error:
        yield from _failed(world, run, answer, answer.error)
        return
    if not command.change.action.starts:
        yield words.Applied(command.change)
        yield from refresh(world, [run.address])
    world.finished(run)
    if run.record and run.record.status.live:
        yield from follow(world, [run.record])


def _failed(world: World, run: Run, answer: words.Answered, error: FlowplanError) -> Commands:
    """A refusal ends the attempt; no answer leaves it ``creating``, for the next command to find out.

    An attempt that was started before its former one could not be removed (``start_first``) goes on.
    """
    world.done(run)
    change = change_of(run)
    refused = isinstance(error, ProviderError) and not isinstance(error, EngineUnreachable)
    if change.action.starts and run.record and refused and not answer.seen:
        started = isinstance(error, StartFailed)
        reason = getattr(error, "reason", "") or ("StartFailed" if started else "Refused")
        status = Status.TIMED_OUT if reason == "StartTimeout" else Status.FAILED
        code = error.exit_code_of_run if isinstance(error, StartFailed) else None
        yield from tell(world, (yield words.Finish(run.record.run_id, status, reason, error.message, code)))
        yield from refresh(world, [run.address])
    if isinstance(error, StartFailed):
        run.failed = error.message
        if error.hint:
            yield words.Note(f"{run.address}: {error.hint}")
    else:
        yield from fail(world, run.address, error)


def _stopped(world: World, run: Run, answer: words.Answered) -> Commands:
    """The object is removed first, then the end is reported: it can never start after all."""
    command, record = answer.command, run.record
    assert isinstance(command, words.Remove)
    if not answer.removed:  # the engine refused, or the run had just moved on
        run.limit, run.care = "", Care.FOLLOWED
        if answer.error:
            yield from fail(world, run.address, answer.error)
        return
    [stopped] = command.attempts
    before = answer.before
    why = (before.message if before else "") or stopped.message
    message = f"{command.limit}: {why}" if why else command.limit
    reason = "DeadlineExceeded" if stopped.status is Status.RUNNING else ""
    reason = reason or (before.reason if before else "") or stopped.reason or "StartTimeout"
    end = world.engine_time(stopped.provider)
    yield from tell(world, (yield words.Finish(stopped.run_id, Status.TIMED_OUT, reason, message, finished_at=end)))
    yield from refresh(world, [run.address])
    yield words.Unfollow(stopped)
    if record is not None and record.run_id == stopped.run_id:
        run.failed = f"timed out: {message}"
