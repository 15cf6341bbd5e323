"""Runs that flowplan itself tries again: when their next try begins, and what became of it."""

from __future__ import annotations

from flowplan.planner.conduct import words
from flowplan.planner.conduct.following import advance, follow, replace_record
from flowplan.planner.conduct.words import Commands
from flowplan.planner.conduct.world import ASK_AGAIN, LOOK_AT_LIMITS, Care, Run, World
from flowplan.schemas import lifecycle


def try_again(world: World) -> Commands:
    """Start the runs again whose wait after a failure is over, unless another flowplan is writing, or was faster.

    Each try is counted before its engine is asked for it, so that a crash in between allows no further one.
    """
    if not world.retrying or (world.retries_due and world.moment.now < world.retries_due):
        return
    world.retries_due = world.moment.now + LOOK_AT_LIMITS
    over = [run for run in world.retrying.values() if _is_due(world, run)]
    if not over or (not world.locked and (yield words.AskOthers())):
        return
    records = yield words.Reload(tuple(run.address for run in over))
    for run in over:
        yield from replace_record(world, run.address, records.get(run.address))
        if run.record and _is_due(world, run):
            if lifecycle.ASKED not in run.record.handle:
                yield from advance(world, [lifecycle.asked(run.record, world.moment.wall)])
            run.care = Care.TRYING
            world.calls += 1
            yield words.Again(run.record)


def _is_due(world: World, run: Run) -> bool:
    """Return whether the next try of a run is to begin now; what is being removed, or is still to be adopted, is left alone."""
    record = run.record
    if record is None or not run.wanted or run.care is not Care.FOLLOWED or world.step_is_pending(run):
        return False
    begins = None if record.run_id in world.removing else lifecycle.next_try_at(record)
    if begins is None:
        return False
    late = world.passed(record, begins.isoformat(), world.engine_time(record.provider))
    return late is not None and late >= 0


def tried(world: World, run: Run, answer: words.Answered) -> Commands:
    """Follow a run that was started again; one whose engine does not answer is tried again later."""
    if run.care is Care.TRYING:
        run.care = Care.FOLLOWED
    if answer.error:
        world.retries_due = world.moment.now + ASK_AGAIN
        yield words.Note(f"warning: {run.address}: {answer.error}")
    elif run.record and run.live:
        yield from follow(world, [run.record])
