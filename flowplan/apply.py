"""Carry out a plan: wait for facts, ask ``planner.conduct`` what follows from them, perform its commands in order."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from flowplan.clock import SteadyClock
from flowplan.engines import Engines
from flowplan.following import REFUSED, LogStreams, Watches
from flowplan.outcome import Options, Outcome, outcome_of
from flowplan.output import Sink
from flowplan.performing import Performer
from flowplan.planner import conduct
from flowplan.planner.conduct.words import Commands, Fact, Interrupted, Manner, Moment
from flowplan.planner.conduct.world import World
from flowplan.schemas.plans import Plan
from flowplan.schemas.runs import Observed
from flowplan.state.location import Lock
from flowplan.state.store import Store
from flowplan.workers import Workers

WAITING_TOGETHER = 4
"""Multiplies ``--parallelism`` while destroying: most of that time is spent waiting for grace periods."""
TICK = 0.2
"""Seconds between looks at time limits and signals."""


class Beside(NamedTuple):
    """What an apply is told beside its plan.

    Attributes:
        follow: addresses of further runs to follow; expected: those that another flowplan is to start.
        observed: what engines said while the plan was made. digests: address -> digest of the accepted plan, where the steps
            of several are carried out as one plan.
        stop: addresses of live runs to stop, and what their record says of it.
        heard: called with the facts of each turn, before anything follows from them.
        clock, began: the steady clock, and what is known by it of when runs began, of who carries out one plan after another.
    """

    follow: Sequence[str] = ()
    expected: Sequence[str] = ()
    observed: Sequence[Observed] = ()
    digests: Mapping[str, str] = {}
    stop: Mapping[str, str] = {}
    heard: Callable[[Sequence[Fact]], None] = lambda facts: None
    clock: SteadyClock | None = None
    began: dict[str, dict[str, datetime]] | None = None


def carry_out(
    plan: Plan,
    store: Store,
    engines: Engines,
    lock: Lock,
    sink: Sink,
    options: Options,
    *,
    secrets: dict[str, str],
    interrupted: threading.Event,
    beside: Beside,
) -> Outcome:
    """Carry out a plan, follow its runs to their end, and return the outcome.

    Only the thread that calls this uses the state; workers only call engines.

    Raises:
        StateLocked: another writer holds the state and ``lock_timeout`` passed.
        LockLost: this one held it, and lost it; nothing more was started.
        StateError: the state cannot be written.
    """
    clock = beside.clock or SteadyClock()
    begun, seen_until = clock.now(), store.last_seq()
    world = _world(plan, store, sink, options, beside, begun, locked=lock.held)
    together = WAITING_TOGETHER if plan.mode == "destroy" and options.parallelism > 1 else 1
    workers = Workers(options.parallelism * together)
    watches = Watches(engines, workers.inbox, patience=math.inf if options.patient else REFUSED)
    draw = sink.progress if sink.draws else None
    tails = {record.run_id: options.tail for record in store.records().values()}
    logs = LogStreams(engines, workers.inbox, sink.log, sink.redactor, draw=draw, tails=tails)
    performer = Performer(world, store, engines, lock, sink, options, workers, watches, logs, secrets, seen_until)

    def perform(commands: Commands) -> None:
        answer = None
        try:
            while True:
                answer = performer.perform(commands.send(answer))
        except StopIteration:
            return

    def moment() -> Moment:
        return Moment(clock.now(), datetime.now(UTC), engines.now, workers.room(), engines.keeps_timeout)

    with workers.working():
        try:
            perform(conduct.begin(world, beside.observed, moment()))
            while not world.over:
                lock.check()
                watches.refresh(complete=not (world.calls or world.waiting))
                facts: list[Fact] = workers.facts(TICK)
                if interrupted.is_set() and not world.interrupted:
                    facts.append(Interrupted())
                beside.heard(facts)
                perform(conduct.react(world, facts, moment()))
        finally:
            watches.close()
            lock.release()
    logs.close()
    return replace(outcome_of(world), took=(clock.now() - begun).total_seconds())


def _world(
    plan: Plan, store: Store, sink: Sink, options: Options, beside: Beside, begun: datetime, *, locked: bool
) -> World:
    """Return all that the apply knows to begin with."""
    manner = Manner(
        detach=options.detach,
        stream=options.stream,
        output_first=sink.in_order,
        until=None if options.wait_timeout is None else begun + timedelta(seconds=options.wait_timeout),
        patient=options.patient,
    )
    return World(
        plan,
        store.records(),
        manner=manner,
        leftovers=store.leftovers(),
        follow=beside.follow,
        expected=beside.expected,
        locked=locked,
        digests=beside.digests,
        stop=beside.stop,
        began=beside.began,
    )
