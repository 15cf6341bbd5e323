"""Perform the commands of an apply: those to the state at once, those to engines by workers, whose answers are facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from flowplan import calls
from flowplan.engines import Engines
from flowplan.following import LogStreams, Watches
from flowplan.left import carried
from flowplan.outcome import Options
from flowplan.output import Sink
from flowplan.outputs import tail_of, without_secrets_of_runs
from flowplan.planner.conduct import words
from flowplan.planner.conduct.words import EndRead, Fact
from flowplan.planner.conduct.world import World
from flowplan.providers.protocol import Gatherer, Order
from flowplan.schemas.accepted import Held, StepPhase
from flowplan.schemas.errors import StateLocked
from flowplan.schemas.events import Event
from flowplan.schemas.lifecycle import progressed
from flowplan.schemas.plans import Change
from flowplan.schemas.runs import Identity, Recorded
from flowplan.state.acceptance import dropped, hold
from flowplan.state.location import Lock
from flowplan.state.store import Store
from flowplan.workers import Workers

T = TypeVar("T")


class Performer:
    """The hands of an apply: it knows how each kind of command is performed, and decides nothing."""

    def __init__(
        self,
        world: World,
        store: Store,
        engines: Engines,
        lock: Lock,
        sink: Sink,
        options: Options,
        workers: Workers,
        watches: Watches,
        logs: LogStreams,
        secrets: Mapping[str, str],
        seen_until: int,
    ) -> None:
        self._plan, self._store, self._engines, self._lock, self._sink = world.plan, store, engines, lock, sink
        self._options, self._workers, self._watches, self._logs = options, workers, watches, logs
        self._secrets = secrets
        self._world, self._digest_of = world, world.digest_of
        self._seen_until, self._own = seen_until, set[int]()
        self._kept: set[str] | None = None
        self._table: dict[type, Callable[[Any], Any]] = {
            words.Lock: self._take_lock,
            words.Unlock: lambda c: lock.release(),
            words.AskOthers: lambda c: store.location.holder() is not None,
            words.Intend: self._intend,
            words.Advance: self._advance,
            words.Finish: self._finish,
            words.Absent: lambda c: store.absent(c.run_ids),
            words.Destroyed: self._destroyed,
            words.Applied: self._applied,
            words.Forget: lambda c: store.forget([c.address], plan_digest=self._digest_of(c.address)),
            words.Move: lambda c: store.move({c.old: c.new}, plan_digest=self._digest_of(c.new)),
            words.Skip: self._skip,
            words.AskDropped: lambda c: dropped(store, {a: self._digest_of(a) for a in c.addresses}),
            words.AskCarried: lambda c: carried(store),
            words.Keep: self._keep,
            words.Reload: lambda c: store.records(c.addresses),
            words.Start: self._start,
            words.Update: self._update,
            words.Remove: self._remove,
            words.Again: lambda c: workers.submit(calls.again, engines, c),
            words.Follow: lambda c: watches.add(c.records),
            words.Show: lambda c: logs.start(c.record, shown=c.aloud),
            words.Unfollow: self._unfollow,
            words.ReadEnd: lambda c: workers.submit(self._read_end, c.record),
            words.Tell: lambda c: sink.event(c.event, c.record),
            words.Note: lambda c: sink.note(c.text),
        }

    def perform(self, command: words.Command) -> Any:
        """Perform a command; return its answer, None where it has none.

        Raises:
            StateLocked: the writer's lock was to be waited for, and the user's time for it has passed.
            StateError: the state cannot be written.
        """
        answer = self._table[type(command)](command)
        if isinstance(command, words.Intend | words.Finish | words.Destroyed | words.Forget):
            self._own.update(event.seq for event in answer)
        return answer

    # -- the state -------------------------------------------------------------------------------------------------

    def _take_lock(self, command: words.Lock) -> str:
        self._kept = None  # another flowplan may have stored ends meanwhile
        try:
            self._lock.acquire(self._options.lock_timeout if command.wait else 0)
        except StateLocked as error:
            if command.wait:
                raise
            return error.message
        return ""

    def _intend(self, command: words.Intend) -> list[Event]:
        found = {record.address: record for record in command.records}
        together = self._by_plan(found).items()
        events = [e for digest, some in together for e in self._store.intend(list(some.values()), plan_digest=digest)]
        gathered: dict[str, list[Order]] = {}
        for record in command.records:
            change = self._world.runs[record.address].change
            if record.settings.together and change:
                gathered.setdefault(record.provider, []).append(self._order(change, ""))
        for provider, orders in gathered.items():
            cast("Gatherer", self._engines.provider(provider)).gather(orders)
        return events

    def _by_plan(self, what: Mapping[str, T]) -> dict[str, dict[str, T]]:
        """Return what is to be recorded at addresses, by the digest of their accepted plan."""
        together: dict[str, dict[str, T]] = {}
        for address, one in what.items():
            together.setdefault(self._digest_of(address), {})[address] = one
        return together

    def _skip(self, command: words.Skip) -> None:
        for digest, why in self._by_plan(command.why).items():
            hold(self._store, digest, {address: Held(StepPhase.SKIPPED, text) for address, text in why.items()})

    def _advance(self, command: words.Advance) -> tuple[list[Event], dict[str, Recorded]]:
        redactor = self._sink.redactor
        known = [
            without_secrets_of_runs(self._engines, record, seen, redactor, self._secrets)
            for record, seen in command.seen
        ]
        events, changed = self._store.advance(known, at_once=self._lock.held)
        self._own.update(event.seq for event in events)
        records = [record for record, _ in command.seen]
        if not self._lock.held:  # another flowplan may have written as well
            events = sorted([*events, *self._of_others()], key=lambda event: event.seq)
            addresses = [record.address for record in records] + [event.address for event in events]
            return events, self._store.records(addresses) if addresses else {}
        return events, {r.address: progressed(r, changed[r.run_id]) if r.run_id in changed else r for r in records}

    def _of_others(self) -> list[Event]:
        """Return what another flowplan has recorded of the runs here since this was asked last."""
        fresh = list(self._store.events(after=self._seen_until))
        self._seen_until = fresh[-1].seq if fresh else self._seen_until
        others = [event for event in fresh if event.seq not in self._own]
        self._own = {seq for seq in self._own if seq > self._seen_until}
        return [event for event in others if (run := self._world.runs.get(event.address)) and run.wanted]

    def _finish(self, command: words.Finish) -> list[Event]:
        return self._store.finish([end._replace(message=self._sink.redactor(end.message)) for end in command.ends])

    def _destroyed(self, command: words.Destroyed) -> list[Event]:
        together = self._by_plan(command.attempts).items()
        return [
            event
            for digest, some in together
            for event in self._store.destroyed([r for ids in some.values() for r in ids], plan_digest=digest)
        ]

    def _applied(self, command: words.Applied) -> None:
        for digest, changes in self._by_plan({change.address: change for change in command.changes}).items():
            in_force = {one.run_id: (one.after or {}, one.settings) for one in changes.values()}
            self._store.applied(in_force, plan_digest=digest)

    def _keep(self, command: words.Keep) -> None:
        self._store.set_tails(command.outputs)
        if self._kept is not None:
            self._kept.update(command.outputs)

    # -- the engines -----------------------------------------------------------------------------------------------

    def _start(self, command: words.Start) -> None:
        order = self._order(command.change, command.born_as, fresh=command.fresh)
        kept = self._with_ends(command.former)
        self._submit(calls.start, self._engines, self._sink.redactor, command, order, kept)

    def _update(self, command: words.Update) -> None:
        self._submit(calls.update, self._engines, command, self._order(command.change, command.born_as))

    def _remove(self, command: words.Remove) -> None:
        work = calls.expire if command.limit else calls.remove
        self._submit(work, self._engines, self._sink.redactor, command, self._with_ends(command.attempts))

    def _submit(self, work: Callable[..., Fact], *args: Any) -> None:
        """Let a worker change something on an engine, unless the lock was lost until it comes to that."""

        def unless_lost() -> Fact:
            self._lock.check()
            return work(*args)

        self._workers.submit(unless_lost)

    def _order(self, change: Change, born_as: str, *, fresh: bool = False) -> Order:
        plan = self._plan
        identity = Identity(plan.project, plan.lineage, born_as or change.address, change.attempt, plan.environment)
        return Order(identity, change.name, change.after or {}, change.settings, self._secrets, fresh)

    def _with_ends(self, records: Sequence[Recorded]) -> frozenset[str]:
        """Return the run ids of which the end of the output is stored already, so that it is not read again before a removal."""
        if self._kept is None and records:
            runs = self._world.runs.values()
            former = [record.run_id for run in runs for record in run.former]
            newest = [run.record.run_id for run in runs if run.record]
            self._kept = self._store.with_tails([*former, *newest, *(record.run_id for record in records)])
        return frozenset(record.run_id for record in records if self._kept and record.run_id in self._kept)

    def _unfollow(self, command: words.Unfollow) -> bool:
        self._watches.ended(command.record)
        return self._logs.showing(command.record.run_id)

    def _read_end(self, record: Recorded) -> EndRead:
        """Return the end of an output as it was heard, else as the engine still has it."""
        heard, complete = self._logs.ends.take(record.run_id)
        text = heard if complete and heard else tail_of(self._engines, record, self._sink.redactor) or heard
        self._logs.forget(record.run_id)
        return EndRead(record.run_id, text)
