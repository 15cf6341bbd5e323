"""Carry out a plan and follow its runs: intents first, then the engines, then what came of it; it decides nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from flowplan import jobs
from flowplan.clock import SteadyClock, timestamp
from flowplan.engines import Engines
from flowplan.following import LogStreams, Watches, last_seen, undisputed, without_secrets_of_runs
from flowplan.gate import Gate, how_it_ended
from flowplan.ledger import Ledger, group_key
from flowplan.outcome import Options, Outcome
from flowplan.output import Sink
from flowplan.schedule import Schedule, Step, steps_of
from flowplan.schemas.errors import EngineUnreachable, FlowplanError, ProviderError, StartFailed, StateLocked
from flowplan.schemas.events import Event
from flowplan.schemas.plans import Action, Change, Plan
from flowplan.schemas.runs import Observed, Recorded, Status, remark
from flowplan.state.lock import WriterLock, others_write
from flowplan.state.rows import progressed
from flowplan.state.store import Store
from flowplan.tails import Tails
from flowplan.time_limits import TimeLimits
from flowplan.workers import Message, Workers

BIRTHS_EVERY = 0.5
"""Seconds between looks whether another flowplan has started what it was about to start."""
WAITING_TOGETHER = 4
"""How many times as many runs as ``--parallelism`` says are destroyed at once: they wait for their grace periods."""
TICK = 0.2
"""Seconds between looks at time limits and signals."""
ANSWERS = ("done", "cleared", "tail")
"""The messages of workers; the others come from those who listen to engines."""


class Runner:
    """Carries out one plan. Only the thread that calls ``run`` uses the state; workers only call engines."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        engines: Engines,
        lock: WriterLock,
        sink: Sink,
        options: Options,
        *,
        secrets: dict[str, str],
        interrupted: threading.Event,
        follow: Sequence[str] = (),
        observed: Sequence[Observed] = (),
    ) -> None:
        self.plan, self.store, self.engines, self.lock, self.sink = plan, store, engines, lock, sink
        self.options, self.secrets, self.interrupted = options, secrets, interrupted
        self.outcome = Outcome(left_out={c.address: c.skipped for c in plan.changes if c.skipped})
        together = WAITING_TOGETHER if plan.mode == "destroy" and options.parallelism > 1 else 1
        self.workers = Workers(options.parallelism * together)
        self.steps = steps_of(plan.changes)
        self.schedule = Schedule(self.steps)
        self.waiting = self.schedule.waiting
        self.ledger = Ledger(self.schedule)
        self.gate = Gate(self.steps, self.waiting, self.ledger, self.outcome)
        self.clock = SteadyClock()
        self.limits = TimeLimits(self.ledger, engines, self.clock)
        self.births_due = 0.0
        for record in store.records().values():
            self.ledger.keep(record)
        self.intended_before = self.ledger.creating()
        wanted = {c.address for c in plan.changes} | {n for s in self.waiting.values() for n in s.change.settings.needs}
        self.followed = (wanted & self.ledger.records.keys()) | set(follow)
        self.watches = Watches(engines, self.workers.inbox)
        self.logs = LogStreams(engines, self.workers.inbox, sink.log, sink.redactor)
        self.tails = Tails(engines, self.logs, self.workers, sink.redactor)
        self.former: dict[str, list[Recorded]] = {}
        for record in self._with_tails(store.leftovers()):
            if record.status is not Status.DESTROYED:  # what was forgotten is left alone
                self.former.setdefault(record.address, []).append(record)
        self.observed = observed
        self.catching_up = True
        self.stopping: set[str] = set()
        self.elsewhere: set[str] = set()
        self.disputed: list[Observed] = []
        self.said_locked = False
        self.lock_was_away = False

    def run(self) -> Outcome:
        """Carry out every step whose needs are met, follow the runs to their end, and return what came of it.

        Raises:
            StateLocked: another writer holds the state and ``lock_timeout`` passed.
            StateError: the state cannot be written.
        """
        if self.waiting and not self.lock.held:
            self.lock.acquire(self.options.lock_timeout)
        self.deadline = time.monotonic() + self.options.wait_timeout if self.options.wait_timeout is not None else None
        with self.workers.working():
            try:
                self._move()
                self._observed(self.observed)
                self.catching_up = False
                self._clear_away()
                self._follow_open()
                while self._unfinished():
                    self._absorb(self.workers.messages(TICK))
                    self._enforce_limits()
                    self._follow_births()
                    self.tails.hurry()
            finally:
                self.watches.close()
                self.lock.release()
        self.logs.close()
        self._sum_up()
        return self.outcome

    def _with_tails(self, records: Sequence[Recorded]) -> list[Recorded]:
        """The records with the stored end of their output, so that it is not fetched again before a removal."""
        tails = self.store.tails([r.run_id for r in records]) if records else {}
        return [replace(r, output_tail=tails[r.run_id]) if r.run_id in tails else r for r in records]

    # -- the loop -----------------------------------------------------------------------------------------------

    def _unfinished(self) -> bool:
        """Dispatch what can start; False when there is nothing left to do or to wait for."""
        if self.interrupted.is_set():
            self.outcome.interrupted = True
            return self._working()
        if self.deadline is not None and time.monotonic() > self.deadline and not self._working():
            self.outcome.timed_out = self._anything_left()
            return False
        self._dispatch()
        self.watches.refresh(complete=not (self.workers.busy or self.waiting))
        if self._working():
            return True
        if self.options.detach:
            return False
        self.lock.release()
        return self._anything_left()

    def _working(self) -> bool:
        return bool(self.workers.busy or self.tails)

    def _anything_left(self) -> bool:
        followed = self.followed - self.gate.given_up
        return bool(self.waiting) or any(a in followed and not self._unborn(r) for a, r in self.ledger.live.items())

    def _unborn(self, record: Recorded) -> bool:
        """An intent that nobody carries out now: the next apply finds out what became of it, and goes on from there."""
        if record.status is not Status.CREATING:
            return False
        return record.address in self.outcome.errors or not (record.present or others_write(self.lock.path))

    def _absorb(self, messages: Sequence[Message]) -> None:
        """Commit what was said, in one transaction for each kind."""
        done: list[jobs.Done] = [m for kind, m in messages if kind == "done"]
        cleared: list[jobs.Done] = [m for kind, m in messages if kind == "cleared"]
        seen: list[Observed] = [*self.disputed, *(m for kind, m in messages if kind == "seen")]
        self.disputed = []
        self.workers.answered(sum(1 for kind, _ in messages if kind in ANSWERS))
        for one in [*done, *cleared]:
            self._settle_removed(one)
        self._observed(last_seen([*(d.seen for d in done if d.seen), *seen]))
        for one in done:
            for place, words in ((one.seen and one.seen.remarks) or {}).items():
                self.sink.note(f"warning: {one.address}: {remark(place, words)}")
            self._settle(one)
        for one in cleared:
            if one.error:
                self._error(one.address, one.error)
        for kind, message in messages:
            if kind == "defect":
                raise message
            if kind == "tail":
                self._store_tail(*message)
            elif kind == "shown":
                self.tails.shown(message)
            elif kind == "trouble":
                self.sink.note(f"warning: {message[1]}; what runs there goes on, and is followed when it answers again")
            elif kind == "well":
                self.sink.note(f"provider {message} answers again")
            elif kind == "refused":
                self._give_up(*message)

    # -- starting -----------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Hand out what can be done now: up to the parallelism, intents of a batch in one transaction."""
        ready = self._ready()
        if not ready:
            return
        if not self._locked():
            self.schedule.put_back(ready)
            return
        ready = self._still_as_planned(ready)
        starting = [s for s in ready if s.change.action.starts]
        self._intend(starting)
        for step in ready:
            self._hand_out(step)

    def _ready(self) -> list[Step]:
        """Take what can be done now; what cannot is set aside until what holds it back changes."""
        room = self.workers.room()
        ready: list[Step] = []
        starting: dict[str, int] = {}
        while len(ready) < room and (step := self.schedule.next()):
            verdict, until = self.gate.verdict(step, starting)
            group = step.change.settings.group
            if verdict == "go":
                ready.append(step)
                starting[group] = starting.get(group, 0) + step.change.action.starts
                continue
            if verdict:
                self._skip(step.change.address, verdict)
            else:
                self.schedule.set_aside(step, until)
            if until != group_key(group):  # it may have been woken as the one of its group that has room
                self.schedule.wake_one(group_key(group))
        return ready

    def _skip(self, address: str, why: str) -> None:
        self.outcome.skipped[address] = why
        self._done(self.waiting.pop(address))
        self.sink.note(f"{address}: skipped: {why}")

    def _done(self, step: Step) -> None:
        step.state = "done"
        self.schedule.wake(step.change.address)

    def _locked(self) -> bool:
        """True once the writer's lock is ours; a run that becomes ready later waits for it without blocking others."""
        if self.lock.held:
            return True
        try:
            self.lock.acquire(0)
        except StateLocked as error:
            if not self.said_locked:
                self.sink.note(f"waiting: {error.message}")
                self.said_locked = True
            return False
        self.said_locked = False
        self.lock_was_away = True
        return True

    def _still_as_planned(self, ready: list[Step]) -> list[Step]:
        """After the lock was away: leave out runs that somebody else changed meanwhile."""
        if not self.lock_was_away:
            return ready
        self.lock_was_away = False
        left = []
        for step in ready:
            address = step.change.address
            record, ours = self.store.record(address), self.ledger.records.get(address)
            if (record.run_id if record else None) == (ours.run_id if ours else None):
                left.append(step)
            elif record and record.run_id == step.change.run_id and record.objects == step.change.after:
                self._started_elsewhere(step, record)
            else:
                self._done(self.waiting.pop(address))
                self._error(address, ProviderError("another apply changed this run meanwhile; it was left alone"))
        return left

    def _started_elsewhere(self, step: Step, record: Recorded) -> None:
        """Another flowplan, which wanted the same, was faster: its attempt is the one that is followed."""
        self.sink.note(f"{record.address}: started by another flowplan")
        self.ledger.keep(record)
        self.followed.add(record.address)
        self._done(self.waiting.pop(record.address))
        if record.status.live:
            self._follow([record])
        elif record.status is not Status.SUCCEEDED:
            self.outcome.failed[record.address] = how_it_ended(record)

    def _intend(self, starting: Sequence[Step]) -> None:
        """Commit the intents before any engine is called (write-ahead)."""
        items = []
        for step in starting:
            change = step.change
            old = self.ledger.records.get(change.address)
            if old and old.run_id in self.elsewhere:
                self.store.absent([old.run_id])  # it is not ours to end
            elif old and old.present and old.run_id != change.run_id:
                self.former.setdefault(change.address, []).extend(self._with_tails([old]))
            items.append(self._intended(change))
        if not items:
            return
        self._tell(self.store.intend(items, plan_digest=self.plan.digest))
        for item in items:
            self.ledger.keep(item)
            self.followed.add(item.address)
            self.outcome.failed.pop(item.address, None)
            self.gate.given_up.discard(item.address)

    def _intended(self, change: Change) -> Recorded:
        return Recorded(
            address=change.address,
            provider=change.provider,
            type=change.type,
            target=self.engines.target(change.provider).document(),
            attempt=change.attempt,
            run_id=change.run_id,
            name=change.name,
            objects=change.after or {},
            settings=change.settings,
            status=Status.CREATING,
            plan_digest=self.plan.digest,
            created_at=timestamp(self.clock.now()),
        )

    def _hand_out(self, step: Step) -> None:
        change = self.waiting.pop(step.change.address).change
        step.state = "working"
        record = self.ledger.records.get(change.address)
        if change.action is Action.DESTROY:
            attempts = self._attempts(change.address, record)
            self._stop(attempts)
            self.workers.submit("done", jobs.destroy, self.engines, self.sink.redactor, change.address, attempts)
        elif change.action is Action.UPDATE and record:
            fields = () if self.plan.mode == "refresh_only" else change.fields
            self.workers.submit("done", jobs.update, self.engines, record, self._order(change), fields)
        elif change.action.starts or change.action is Action.ADOPT:
            former = self.former.pop(change.address, [])
            self._stop(former)
            first = change.settings.replace == "start_first" and change.action is Action.REPLACE
            self.workers.submit(
                "done",
                jobs.start,
                self.engines,
                self.sink.redactor,
                change.address,
                change.provider,
                self._order(change),
                former,
                first=first,
            )
        else:
            self._forget(step)

    def _stop(self, attempts: Sequence[Recorded]) -> None:
        self.stopping |= {r.run_id for r in attempts}

    def _attempts(self, address: str, record: Recorded | None) -> list[Recorded]:
        """All attempts whose objects may still be on the engine, newest last."""
        # An intent that nothing was seen of is deleted all the same: what was asked for may still be on its way.
        newest = [record] if record and (record.present or record.status is Status.CREATING) else []
        return [*self.former.pop(address, []), *self._with_tails(newest)]

    def _order(self, change: Change) -> Any:
        record = self.ledger.records.get(change.address)
        return jobs.order_of(
            change,
            project=self.plan.project,
            lineage=self.plan.lineage,
            secrets=self.secrets,
            born_as=record.born_as if record and not change.action.starts else "",
            fresh=change.action.starts and change.run_id not in self.intended_before,
        )

    def _clear_away(self) -> None:
        """Remove replaced attempts that an interrupted or refused replacement left behind, where no step does it."""
        if not self.lock.held:
            return
        for address in [c.address for c in self.plan.changes if c.address in self.former]:
            step = self.steps.get(address)
            if step and (step.change.action.starts or step.change.action in (Action.DESTROY, Action.ADOPT)):
                continue
            attempts = self.former.pop(address)
            self._stop(attempts)
            self.workers.submit("cleared", jobs.destroy, self.engines, self.sink.redactor, address, attempts)

    def _move(self) -> None:
        for step in list(self.waiting.values()):
            change = step.change
            if change.moved_from:
                self.store.move(change.moved_from, change.address)
                record = self.store.record(change.address)
                self.ledger.drop(change.moved_from)
                if record:
                    self.ledger.keep(record)
                self.store.note_plan(self.plan.digest, [change.address])
                self.sink.note(f"{change.moved_from} is now {change.address}")
                if change.action is Action.NO_OP:
                    self._finished(step)

    def _forget(self, step: Step) -> None:
        self._tell(self.store.forget([step.change.address], plan_digest=self.plan.digest))
        self.ledger.drop(step.change.address)
        self._finished(step)

    def _finished(self, step: Step) -> None:
        self.waiting.pop(step.change.address, None)
        self._done(step)
        action = "move" if step.change.action is Action.NO_OP else str(step.change.action)
        self.outcome.carried_out[action] = self.outcome.carried_out.get(action, 0) + 1

    # -- what came of it ----------------------------------------------------------------------------------------

    def _settle_removed(self, done: jobs.Done) -> None:
        """Former attempts that are gone: cancelled when they were live."""
        if done.tails:
            self.store.set_tails(done.tails)
        gone = {r.run_id for r in done.removed}
        self.stopping -= {r.run_id for r in done.attempts if r.run_id not in gone}
        for record in done.removed:
            if record.status.live and not self.limits.expired(record.run_id):
                end = self._engine_time(record)
                stopped = self.store.finish(
                    record.run_id, Status.CANCELLED, reason="Stopped", finished_at=end, present=False
                )
                self._tell(stopped)
        if done.removed:
            self.store.absent([r.run_id for r in done.removed])

    def _settle(self, done: jobs.Done) -> None:
        step = self.steps.get(done.address)
        record = self.ledger.records.get(done.address)
        if step is None or step.state != "working":
            self._settle_expired(done, record)
        elif done.error:
            self._settle_error(step, done, record)
        elif step.change.action is Action.DESTROY:
            self._destroyed(step, done)
        else:
            self._applied(step)

    def _destroyed(self, step: Step, done: jobs.Done) -> None:
        run_ids = {r.run_id for r in done.removed} | {step.change.run_id}
        self._tell(self.store.destroyed(sorted(run_ids), plan_digest=self.plan.digest))
        self.ledger.drop(step.change.address)
        self._finished(step)

    def _applied(self, step: Step) -> None:
        change = step.change
        if not change.action.starts:
            self.store.applied(
                change.run_id, objects=change.after or {}, settings=change.settings, plan_digest=self.plan.digest
            )
            if record := self.store.record(change.address):
                self.ledger.keep(record)
        record = self.ledger.records.get(change.address)
        if record and record.status.live:
            self._follow([record])
        self._finished(step)

    def _settle_error(self, step: Step, done: jobs.Done, record: Recorded | None) -> None:
        """A refusal ends the attempt; no answer leaves it ``creating``, for the next command to find out.

        An attempt that was started before its former one could not be removed (``start_first``) goes on.
        """
        self._done(step)
        change, error = step.change, done.error or FlowplanError("")
        refused = isinstance(error, ProviderError) and not isinstance(error, EngineUnreachable)
        if change.action.starts and record and refused and not done.seen:
            self._failed_to_start(record, error)
        if isinstance(error, StartFailed):
            self.outcome.failed[change.address] = error.message
            if error.hint:
                self.sink.note(f"{change.address}: {error.hint}")
        else:
            self._error(change.address, error)

    def _failed_to_start(self, record: Recorded, error: FlowplanError) -> None:
        code = error.exit_code_of_run if isinstance(error, StartFailed) else None
        reason = getattr(error, "reason", "") or ("StartFailed" if isinstance(error, StartFailed) else "Refused")
        message = self.sink.redactor(error.message)
        status = Status.TIMED_OUT if reason == "StartTimeout" else Status.FAILED
        ended = self.store.finish(record.run_id, status, reason=reason, message=message, exit_code=code, present=False)
        self._tell(ended)
        self._refreshed(record.address)

    def _error(self, address: str, error: FlowplanError) -> None:
        self.outcome.errors[address] = error
        self.schedule.wake(address)
        self.sink.note(f"error: {error if error.address else f'{address}: {error}'}")

    def _give_up(self, provider: str, error: FlowplanError) -> None:
        """The engine refuses to be watched: its runs go on without us, and are neither lost nor well."""
        addresses = [a for a, r in self.ledger.live.items() if r.provider == provider and a in self.followed]
        if addresses:
            self.sink.note(f"error: {error}; its runs are not followed any more")
        for address in addresses:
            self.gate.given_up.add(address)
            self.outcome.errors.setdefault(address, error)
            self.schedule.wake(address)

    def _refreshed(self, address: str) -> None:
        """Take from the state what became of the run at an address."""
        record, former = self.store.record(address), self.ledger.records.get(address)
        if record:
            self.ledger.keep(record)
        else:
            self.ledger.drop(address)
        if former and (record is None or record.run_id != former.run_id):
            self._taken_over(former, record)

    def _taken_over(self, former: Recorded, record: Recorded | None) -> None:
        """Another flowplan destroyed a run that is followed, or started its next attempt, which is followed then."""
        self.watches.ended(former)
        if record is None:
            self.sink.note(f"{former.address}: destroyed by another flowplan")
        elif record.status.live:
            self.sink.note(f"{former.address}: attempt {record.attempt} was started by another flowplan")
            self._follow([record])

    # -- following ----------------------------------------------------------------------------------------------

    def _follow(self, records: Sequence[Recorded]) -> None:
        if self.options.detach:
            return
        self.watches.add(records)
        for record in records:
            if record.status in (Status.PENDING, Status.RUNNING):
                self._show_output(record)

    def _follow_open(self) -> None:
        """Follow what is open already.

        A look at what is only being started says nothing: what it does not find may be there when that is recorded.
        """
        others = not self.lock.held and others_write(self.lock.path)
        for address, record in self.ledger.records.items():
            if address not in self.followed or not record.status.live or record.run_id in self.elsewhere:
                continue
            if record.status is not Status.CREATING:
                self._follow([record])
            elif others:
                self.ledger.unborn.add(address)
            elif address not in self.waiting:
                self._follow([record])

    def _follow_births(self) -> None:
        """Follow what another flowplan was starting once it has started, or once nobody is at it any more."""
        now = time.monotonic()
        if not self.ledger.unborn or now < self.births_due:
            return
        self.births_due = now + BIRTHS_EVERY
        others, records = others_write(self.lock.path), self.store.records()
        for address in sorted(self.ledger.unborn):
            record = records.get(address)
            if others and record and record.status is Status.CREATING:
                continue
            self.ledger.unborn.discard(address)
            known = self.ledger.records.get(address)
            self._refreshed(address)
            if record and record.status.live and known and known.run_id == record.run_id:
                self._follow([record])

    def _show_output(self, record: Recorded) -> None:
        """Stream a run's output; also of one that ended before anybody looked."""
        if not self.options.detach:
            self.logs.start(record, shown=self.options.stream and record.settings.stream_output)

    def _observed(self, seen: Sequence[Observed]) -> None:
        """Store what the engines said; a run that ended gives its last output."""
        redactor = self.sink.redactor
        # What is being stopped goes away because of us: its end is told by what stopped it.
        told = [s for s in seen if s.run_id in self.ledger.by_run and s.run_id not in self.stopping]
        told = [s for s in told if not self._removed_before(s)]
        if not self.lock.held:
            told, self.disputed = undisputed(told, self.lock.path)
        records = [self.ledger.records.get(self.ledger.by_run[s.run_id]) for s in told]
        pairs = zip(records, told, strict=True)
        known = [without_secrets_of_runs(self.engines, r, s, redactor, self.secrets) for r, s in pairs]
        if not known:
            return
        self._leave_out([one for one in known if one.elsewhere])
        events, changed = self.store.advance(known)
        for address in dict.fromkeys(self.ledger.by_run[one.run_id] for one in known):
            record = self.ledger.records.get(address)
            if record is None or not self.lock.held:
                self._refreshed(address)
            elif record.run_id in changed:  # nobody else writes while the lock is ours
                self.ledger.keep(progressed(record, changed[record.run_id]))
        self._tell(events)
        for event in events:
            record = self.ledger.records.get(event.address)
            if record and record.run_id == event.run_id and record.status.final and event.status == record.status:
                self._ended(record)

    def _leave_out(self, seen: Sequence[Observed]) -> None:
        """Runs of another host go on without us: nobody here can see how they end."""
        for one in seen:
            address = self.ledger.by_run[one.run_id]
            if one.run_id not in self.elsewhere and address in self.followed:
                self.sink.note(f"{address}: {one.message}, and is not followed")
                self.schedule.wake(address)
            self.elsewhere.add(one.run_id)
            self.gate.given_up.add(address)
            self.watches.ended(self.ledger.records[address])

    def _removed_before(self, seen: Observed) -> bool:
        """What is to be destroyed and is gone was removed by a destroy that was interrupted: it is not lost."""
        return (
            not seen.exists and seen.status in (None, Status.LOST) and self._destroying(self.ledger.by_run[seen.run_id])
        )

    def _destroying(self, address: str) -> bool:
        step = self.steps.get(address)
        return step is not None and step.change.action is Action.DESTROY

    def _ended(self, record: Recorded) -> None:
        self.watches.ended(record)
        self.outcome.ended += 1
        if (
            record.status is not Status.SUCCEEDED
            and record.address in self.followed
            and not self._destroying(record.address)
        ):
            self.outcome.failed[record.address] = how_it_ended(record)
        if record.status is not Status.LOST and not self.catching_up:
            self._show_output(record)
        if record.status is not Status.LOST or self.logs.ends.heard(record.run_id):
            self.tails.ended(record)

    def _store_tail(self, run_id: str, text: str) -> None:
        self.logs.forget(run_id)
        if text:
            self.store.set_tail(run_id, text)

    def _enforce_limits(self) -> None:
        for record, told in self.limits.passed(self.followed):
            self._stop([record])
            self.sink.note(f"{record.address}: {told}, stopping it")
            self.workers.submit("done", jobs.expire, self.engines, self.sink.redactor, record)

    def _settle_expired(self, done: jobs.Done, record: Recorded | None) -> None:
        """The object is gone first, then the end is reported: it can never start after all (L2)."""
        if record is None or not self.limits.expired(record.run_id):
            return
        if not done.removed:
            self.limits.spare(record.run_id)
            if done.error:
                self._error(record.address, done.error)
            return
        reason, message = self.limits.verdict(record, done.before or Observed(record.run_id))
        end = self._engine_time(record)
        ended = self.store.finish(
            record.run_id, Status.TIMED_OUT, reason=reason, message=message, finished_at=end, present=False
        )
        self._tell(ended)
        self._refreshed(record.address)
        self.watches.ended(record)
        self.outcome.failed[record.address] = f"timed out: {message}"

    def _engine_time(self, record: Recorded) -> str:
        """The time now by the clock that told when the run began."""
        return timestamp(self.engines.now(record.provider) or self.clock.now())

    def _tell(self, events: Iterable[Event]) -> None:
        for event in events:
            self.sink.event(event, self.ledger.records.get(event.address))

    def _sum_up(self) -> None:
        followed = [r for a, r in self.ledger.records.items() if a in self.ledger.live and a in self.followed]
        self.outcome.live = [r.address for r in followed if not self._unborn(r)]
        unborn = [r.address for r in followed if self._unborn(r)]
        self.outcome.unanswered = [a for a in unborn if a in self.outcome.errors]
        self.outcome.waiting = [*self.waiting, *(a for a in unborn if a not in self.outcome.errors)]
