"""Carry out a plan, as a function: facts in, commands out. No thread, clock, file, engine or print.

``World`` is all that an apply knows. ``begin`` and ``react`` are generators of commands: whoever drives them (``flowplan/apply.py``,
or a test) performs each command before asking for the next, and sends back what the state answered. Engines answer later, with a fact.
A command is durable before the next one is asked for, so a crash can only fall between two commands.

Two things are told apart for each run::

    its step      WAITING -> CALLING -> DONE            what the plan does here; SKIPPED when it can never begin
    its attempt   NOBODY  -> FOLLOWED -> STOPPING       who looks after the attempt that is recorded; THEIRS, UNWATCHED
                                                        and ELSEWHERE are attempts that others follow, or nobody can

To read it: ``words`` (the commands and facts), ``react`` below, then ``starting`` (which steps begin, and what is asked of the
engine), ``settling`` (what its answer means), ``following`` (live runs, to their end) and ``trying`` (those that wait for
their next try). ``world`` holds the data and the questions about it. Each file of ``tests/transcripts`` shows one rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flowplan.planner.conduct import words
from flowplan.planner.conduct.following import (
    advance,
    enforce_limits,
    follow_live,
    give_up,
    look_at_others,
    read_end,
    stop,
    tell_end,
)
from flowplan.planner.conduct.settling import removed, settle
from flowplan.planner.conduct.starting import clear_away, dispatch, move, take_lock
from flowplan.planner.conduct.trying import try_again
from flowplan.planner.conduct.words import Commands
from flowplan.planner.conduct.world import World
from flowplan.schemas.errors import EngineUnreachable
from flowplan.schemas.runs import Observed, remark


def begin(world: World, observed: Sequence[Observed], moment: words.Moment) -> Commands:
    """Begin an apply: moved addresses, what engines said while planning, leftovers, live runs, the first steps."""
    world.moment = moment
    if world.waiting and not world.locked:
        yield from take_lock(world, wait=not world.manner.patient)
    yield from move(world)
    yield from advance(world, observed, catching_up=True)
    if world.locked:
        yield from clear_away(world)
    yield from follow_live(world)
    yield from stop(world)
    yield from dispatch(world)


def react(world: World, facts: Sequence[words.Fact], moment: words.Moment) -> Commands:
    """Return what follows from facts; without any, time has passed.

    Removals come first, so that an object which went away because of them is not taken for lost. Then what was seen is
    recorded, then answered steps are finished; new steps begin last, when all that they depend on is known. What many
    facts have to be recorded for is one command: the number of commands to the state does not grow with the runs.
    """
    world.moment = moment
    answers = [fact for fact in facts if isinstance(fact, words.Answered)]
    world.calls -= len(answers) + sum(isinstance(fact, words.EndRead) for fact in facts)
    yield from removed(world, answers)
    disputed, world.disputed = world.disputed, []
    seen = [a.seen for a in answers if a.seen] + [fact.what for fact in facts if isinstance(fact, words.Seen)]
    yield from advance(world, _newest([*disputed, *seen]))
    for answer in answers:
        if answer.seen:
            for place, what in (answer.seen.remarks or {}).items():
                yield words.Note(f"warning: {world.address_of[answer.seen.run_id]}: {remark(place, what)}")
    yield from settle(world, answers)
    if ends := {fact.run_id: fact.text for fact in facts if isinstance(fact, words.EndRead) and fact.text}:
        yield words.Keep(ends)
    for fact in facts:
        yield from _take(world, fact)
    yield from enforce_limits(world)
    yield from try_again(world)
    yield from look_at_others(world)
    for address, (_, until) in list(world.untold.items()):
        if until < moment.now:
            yield from tell_end(world, address)
    for run_id, (_, until) in list(world.ending.items()):
        if until < moment.now:
            yield from read_end(world, run_id)
    yield from dispatch(world)


def _take(world: World, fact: words.Fact) -> Commands:
    """Take in one fact that is neither an answer nor an observation."""
    match fact:
        case words.Shown(run_id):
            yield from tell_end(world, world.address_of[run_id])
            yield from read_end(world, run_id)
        case words.Trouble(_, EngineUnreachable() as error):
            yield words.Note(f"warning: {error}; runs there continue, and following resumes when the engine answers")
        case words.Trouble(_, error):
            yield words.Note(f"warning: {error}; the runs continue")
        case words.Well(provider, EngineUnreachable()):
            yield words.Note(f"provider {provider} answers again")
        case words.Well(_, error):
            yield words.Note(f"no longer: {error.message}")
        case words.Unwatchable(provider, error):
            yield from give_up(world, provider, error)
        case words.Interrupted():
            world.interrupted = True


def _newest(seen: Sequence[Observed]) -> list[Observed]:
    """Return only the newest of several looks at the same attempt, in order; remarks of earlier ones are kept."""
    newest: dict[str, Observed] = {}
    for one in seen:
        before = newest.get(one.run_id)
        said = before.remarks if before and one.remarks is None else one.remarks
        newest[one.run_id] = replace(one, remarks=said) if said is not one.remarks else one
    return list(newest.values())
