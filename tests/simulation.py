"""Random plans carried out on a random engine, with a crash between any two commands; no thread, no clock, no file.

``simulate(seed)`` applies one random project again and again, changing what is wanted now and then, until nothing is
left to do, and checks on the way that no run starts twice, none starts before what it needs, and ``max_parallel`` is
kept; somebody takes running objects away now and then, and puts some of them back between two applies; at the end, that nothing is left on the engine that the state does not know and that everything has ended.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from flowplan.planner import conduct
from flowplan.planner.conduct import words
from flowplan.planner.conduct.words import Answered, EndRead, Fact, Interrupted, Manner, Moment, Seen
from flowplan.planner.conduct.world import World
from flowplan.schemas import lifecycle
from flowplan.schemas.backoff import wait_after
from flowplan.schemas.errors import EngineUnreachable, ProviderError, StartFailed
from flowplan.schemas.events import Event
from flowplan.schemas.lifecycle import Progress, after, finished, progress_of, progressed
from flowplan.schemas.plans import Action, Change, Plan
from flowplan.schemas.runs import Observed, Recorded, Retry, Settings, Status

START = datetime(2026, 1, 1, tzinfo=UTC)
TROUBLED, CALM = 6, 4
"""How many applies may crash and fail, and how many more, in which nothing does, a project may take to come to rest."""


Called = words.Start | words.Update | words.Remove | words.Again | words.ReadEnd
"""The commands that an engine answers."""


class Crash(Exception):
    """flowplan is killed."""


@dataclass
class Engine:
    """Runs by run id; it remembers what it started, what was removed, and what was taken away by hand."""

    rng: random.Random
    objects: dict[str, Status] = field(default_factory=dict)
    content: dict[str, Any] = field(default_factory=dict)
    since: dict[str, datetime] = field(default_factory=dict)
    started: dict[str, int] = field(default_factory=dict)
    ended: dict[str, datetime] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    away: dict[str, Status] = field(default_factory=dict)

    def create(self, change: Change, now: datetime) -> None:
        if change.run_id in self.objects:
            return
        self.objects[change.run_id] = Status.RUNNING
        self.content[change.run_id] = change.after
        self.since[change.run_id] = now
        self.started[change.run_id] = self.started.get(change.run_id, 0) + 1

    def remove(self, run_id: str) -> None:
        self.objects.pop(run_id, None)
        self.removed.add(run_id)

    def put_back(self, run_ids: Iterable[str]) -> None:
        for run_id in run_ids:
            if run_id in self.away.keys() - self.removed and self.rng.random() < 0.5:
                self.objects[run_id] = self.away.pop(run_id)

    def look(self, run_id: str) -> Observed:
        status = self.objects.get(run_id)
        if status is None:
            return Observed(run_id, exists=False)
        ended = self.ended[run_id].isoformat() if status.final else None
        handle = {"id": run_id}
        started = self.since[run_id].isoformat()
        return Observed(run_id, status=status, attempts=1, started_at=started, finished_at=ended, handle=handle)

    def end(self, run_id: str, now: datetime) -> None:
        self.objects[run_id] = self.rng.choice([Status.SUCCEEDED] * 4 + [Status.FAILED])
        self.ended[run_id] = now
        self.failures[run_id] = self.failures.get(run_id, 0) + (self.objects[run_id] is Status.FAILED)

    def again(self, record: Recorded, now: datetime) -> Observed:
        """Start a run again, as ``protocol.Retrier`` says; no try begins before its delay or beyond the last one."""
        seen = self.look(record.run_id)
        if seen.status is not Status.FAILED or seen.finished_at != record.handle.get(lifecycle.ENDED):
            return seen
        retry, failures = record.settings.retry_delay, self.failures[record.run_id]
        assert retry is not None and failures <= retry.retries, f"{record.run_id} is tried {failures + 1} times"
        passed = (now - self.ended[record.run_id]).total_seconds()
        assert passed >= wait_after(failures, *retry[1:]), f"{record.run_id} is tried again after {passed} s"
        self.objects[record.run_id], self.since[record.run_id] = Status.RUNNING, now
        assert record.attempts == failures + 1, f"execution {failures + 1} of {record.run_id} is not counted"
        return self.look(record.run_id)

    def live(self) -> list[str]:
        return [run_id for run_id, status in self.objects.items() if status.live]


@dataclass
class State:
    """What is remembered: every attempt, and the newest one at each address."""

    attempts: dict[str, Recorded] = field(default_factory=dict)
    newest: dict[str, str] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)

    def records(self) -> dict[str, Recorded]:
        return {address: self.attempts[run_id] for address, run_id in self.newest.items()}

    def leftovers(self) -> list[Recorded]:
        newest = set(self.newest.values())
        return [r for r in self.attempts.values() if r.present and r.run_id not in newest]

    def perform(self, command: words.Command) -> Any:
        match command:
            case words.Intend(records):
                for record in records:
                    self.attempts[record.run_id] = replace(record, present=True)
                    self.newest[record.address] = record.run_id
                    self.last[record.address] = max(record.attempt, self.last.get(record.address, 0))
                return [_event(record) for record in records]
            case words.Advance(seen):
                events = []
                for _, one in seen:
                    if one.run_id in self.attempts:
                        events += self._change(one.run_id, after(progress_of(self.attempts[one.run_id]), one))
                newest = self.records()
                return events, {r.address: newest[r.address] for r, _ in seen if r.address in newest}
            case words.Finish(ends):
                events = []
                for end in ends:
                    before = progress_of(self.attempts[end.run_id])
                    then = finished(before, end.status, reason=end.reason, present=False)
                    events += self._change(end.run_id, then)
                return events
            case words.Absent(run_ids):
                for run_id in run_ids:
                    self.attempts[run_id] = replace(self.attempts[run_id], present=False)
            case words.Destroyed(attempts):
                run_ids = [run_id for some in attempts.values() for run_id in some]
                for run_id in run_ids:
                    if run_id in self.attempts:
                        self.attempts[run_id] = replace(self.attempts[run_id], status=Status.DESTROYED, present=False)
                self.newest = {a: r for a, r in self.newest.items() if r not in run_ids}
                return []
            case words.Forget(address):
                run_id = self.newest.pop(address)
                self.attempts[run_id] = replace(self.attempts[run_id], status=Status.DESTROYED)
                return [_event(self.attempts[run_id])]
            case words.Move(old, new):
                run_id = self.newest[new] = self.newest.pop(old)
                self.attempts[run_id] = replace(self.attempts[run_id], address=new)
                self.last[new] = max(self.last.get(old, 0), self.last.get(new, 0))
            case words.Applied(changes):
                for change in changes:
                    self.attempts[change.run_id] = replace(self.attempts[change.run_id], objects=change.after or {})
            case words.Reload(addresses):
                return {a: r for a, r in self.records().items() if a in addresses}
            case words.AskDropped():
                return {}
            case words.Lock() | words.AskOthers():
                return ""
        return None

    def _change(self, run_id: str, then: Progress) -> list[Event]:
        before = self.attempts[run_id]
        self.attempts[run_id] = progressed(before, then)
        return [_event(self.attempts[run_id])] if then.status is not before.status else []


def _event(record: Recorded) -> Event:
    return Event(1, "", None, record.address, record.run_id, record.attempt, str(record.status))


@dataclass(frozen=True)
class Wish:
    """One run as the spec wants it."""

    content: int
    settings: Settings


def random_wishes(rng: random.Random) -> dict[str, Wish]:
    """Return what a random spec wants, by address."""
    wishes: dict[str, Wish] = {}
    for number in range(rng.randint(1, 9)):
        group = rng.choice("gh")
        wishes[f"r{number}"] = Wish(
            rng.randint(0, 1),
            Settings(
                group=group,
                needs=tuple(f"r{n}" for n in rng.sample(range(number), min(number, rng.choice([0, 0, 1, 2])))),
                max_parallel={"g": None, "h": 2}[group],
                timeout=rng.choice([None, 20.0]),
                retry_delay=rng.choice([None, Retry(2, 3.0, 2.0), Retry(1, 0.0)]),
                replace=rng.choice(["stop_first", "start_first", "after_finish"]),
                grace_period=1.0,
            ),
        )
    return wishes


def plan_of(wishes: dict[str, Wish], state: State, engine: Engine) -> tuple[Plan, list[Observed]]:
    """Return the plan that makes these wishes true, and what the engine said of the recorded runs."""
    changes = []
    looks = {run_id: engine.look(run_id) for run_id in state.newest.values()}
    records = state.records()
    for address, wish in wishes.items():
        record, after = records.get(address), {"Thing": wish.content}
        attempt, action = state.last.get(address, 0) + 1, Action.CREATE
        if record is not None:
            seen = looks[record.run_id]
            if record.status is Status.CREATING and record.objects == after:
                attempt, action = record.attempt, Action.ADOPT if seen.exists else Action.CREATE
            elif record.status is Status.CREATING and not seen.exists:
                attempt, action = record.attempt, Action.CREATE
            elif record.objects != after:
                action = Action.REPLACE
            else:
                attempt, action = record.attempt, Action.NO_OP
        changes.append(_change(address, action, attempt, after, wish.settings))
    for address, record in records.items():
        if address not in wishes:
            changes.append(_change(address, Action.DESTROY, record.attempt, None, record.settings))
    plan = Plan("p", "sha256:0", "", 0, "", "", tuple(changes), targets={"fake": {}})
    return plan, list(looks.values())


def _change(address: str, action: Action, attempt: int, after: Any, settings: Settings) -> Change:
    return Change(
        address=address,
        provider="fake",
        type="fake",
        action=action,
        reasons=(),
        before=None,
        after=after,
        settings=settings,
        run_id=f"{address}#{attempt}",
        attempt=attempt,
    )


def simulate(seed: int, state_type: type[State] = State) -> int:
    """Apply one random project until nothing is left to do; return how often flowplan crashed on the way.

    Raises:
        AssertionError: a promise was broken.
    """
    rng = random.Random(seed)
    engine, state, crashes = Engine(rng), state_type(), 0
    wishes, now = random_wishes(rng), START
    for number in range(TROUBLED + CALM):
        if number < TROUBLED / 2 and rng.random() < 0.4:  # somebody edits the spec
            wishes = random_wishes(rng)
        # Not where ``max_parallel`` counts: objects that are put back by hand may exceed it.
        engine.put_back(r.run_id for r in state.records().values() if r.settings.max_parallel is None)
        plan, looks = plan_of(wishes, state, engine)
        statuses = [(state.attempts[look.run_id].status, look) for look in looks]
        ended = all(status.settled or (status is Status.LOST and look.gone) for status, look in statuses)
        at_rest = ended and not any(c.effective for c in plan.changes) and not state.leftovers()
        if number > TROUBLED / 2 and at_rest:
            break
        apply = Apply(rng, engine, state, plan, now, calm=number >= TROUBLED)
        try:
            apply.run(looks)
        except Crash:
            crashes += 1
            apply.leave_calls()
        now = apply.now + timedelta(seconds=1)
    _check_the_end(engine, state, plan)
    return crashes


@dataclass
class Apply:
    """One apply of a plan; ``calm``: nothing fails in it, so that it comes to its end."""

    rng: random.Random
    engine: Engine
    state: State
    plan: Plan
    now: datetime
    calm: bool
    calls: list[Called] = field(default_factory=list)
    performed: int = 0

    def __post_init__(self) -> None:
        self.crash_at = None if self.calm else self.rng.choice([None, self.rng.randint(1, 80)])
        self.parallel = self.rng.choice([1, 2, 10])
        leftovers = self.state.leftovers()
        manner = Manner(patient=self.rng.random() < 0.3)
        self.world = World(self.plan, self.state.records(), manner=manner, leftovers=leftovers, locked=True)

    def run(self, looks: Sequence[Observed]) -> None:
        self.perform(conduct.begin(self.world, looks, self.moment()))
        for _ in range(5000):
            if self.world.over:
                return
            self.now += timedelta(seconds=self.rng.random())
            facts = [fact for fact in (self.fact() for _ in range(self.rng.randint(0, 3))) if fact]
            self.perform(conduct.react(self.world, facts, self.moment()))
        raise AssertionError("the apply does not end")

    def moment(self) -> Moment:
        room = max(0, self.parallel - len(self.calls))
        return Moment(self.now, self.now, lambda provider: self.now, room, lambda record: False)

    def perform(self, commands: words.Commands) -> None:
        answer = None
        while True:
            try:
                command = commands.send(answer)
            except StopIteration:
                return
            self.performed += 1
            if self.performed == self.crash_at:
                raise Crash
            answer = self.state.perform(command)
            if isinstance(command, Called):
                self.calls.append(command)
            elif isinstance(command, words.Unfollow):
                answer = self.rng.random() < 0.3  # its output is never heard to end

    def fact(self) -> Fact | None:
        """Return something that happens next: an answer, an end, an interruption, or nothing but time."""
        roll = self.rng.random()
        if self.calls and roll < 0.6:
            return self.answer(self.calls.pop(self.rng.randrange(len(self.calls))))
        live = self.engine.live()
        if live and roll < 0.9:
            run_id = self.rng.choice(live)
            if not self.calm and roll > 0.89 and self.state.attempts[run_id].status is not Status.CREATING:
                self.engine.away[run_id] = self.engine.objects.pop(run_id)
            elif not self.endless(run_id):
                self.engine.end(run_id, self.now)
            return Seen(self.engine.look(run_id))
        if not self.calm and roll > 0.995:
            return Interrupted()
        return None

    def endless(self, run_id: str) -> bool:
        """Return whether a run ends only by its time limit."""
        record = self.state.attempts.get(run_id)
        return record is not None and record.settings.timeout is not None and sum(run_id.encode()) % 3 == 0

    def answer(self, command: Called) -> Fact:
        match command:
            case words.ReadEnd(record):
                return EndRead(record.run_id, "")
            case words.Remove(_, attempts, limit):
                before = self.engine.look(attempts[0].run_id) if limit else None
                if before and before.exists and lifecycle.told(attempts[0], before).status is not attempts[0].status:
                    return Answered(command, before)
                if not self.calm and self.rng.random() < 0.05:
                    return Answered(command, error=EngineUnreachable("no answer"))
                for record in attempts:
                    self.engine.remove(record.run_id)
                return Answered(command, removed=attempts, before=before)
            case words.Start(change, former, first):
                return self.start(command, change, former, first)
            case words.Update(change):
                return Answered(command, self.engine.look(change.run_id))
            case words.Again(record):
                if not self.calm and self.rng.random() < 0.05:
                    return Answered(command, error=EngineUnreachable("no answer"))
                return Answered(command, self.engine.again(record, self.now))

    def start(self, command: words.Start, change: Change, former: tuple[Recorded, ...], first: bool) -> Answered:
        roll = 1.0 if self.calm else self.rng.random()
        if roll < 0.09 and change.run_id in self.engine.objects:
            roll = 1.0  # an earlier try was accepted after all: it is looked up by its name, and found
        removed: tuple[Recorded, ...] = ()
        if not first:
            removed = self.remove_all(former)
        if roll < 0.06:
            return Answered(command, removed=removed, error=StartFailed("no such image"))
        if roll < 0.09:
            return Answered(command, removed=removed, error=ProviderError("forbidden"))
        if roll < 0.15:
            if roll < 0.12:
                self.create(change)
            return Answered(command, removed=removed, error=EngineUnreachable("no answer"))
        self.create(change)
        if first:
            removed = self.remove_all(former)
        return Answered(command, self.engine.look(change.run_id), removed)

    def remove_all(self, former: tuple[Recorded, ...]) -> tuple[Recorded, ...]:
        for record in former:
            self.engine.remove(record.run_id)
        return former

    def create(self, change: Change) -> None:
        """Let the engine create an attempt, and check that it was allowed to begin."""
        intended = self.state.attempts.get(change.run_id)
        assert intended is not None, f"{change.run_id} is created without an intent"
        if change.run_id not in self.engine.objects and change.action is not Action.ADOPT:
            for need in change.settings.needs:
                needed = self.state.records().get(need)
                assert needed and needed.status is Status.SUCCEEDED, f"{change.address} begins before {need} succeeded"
            most = change.settings.max_parallel
            if most is not None:
                others = [
                    r
                    for r in self.state.records().values()
                    if r.settings.group == change.settings.group
                    and r.run_id in self.engine.live()
                    and r.address != change.address
                ]
                assert len(others) < most, f"{len(others) + 1} of group {change.settings.group} run, {most} may"
        self.engine.create(change, self.now)
        assert self.engine.started.get(change.run_id, 1) == 1, f"{change.run_id} is started twice"

    def leave_calls(self) -> None:
        """Decide the outcome of the calls that were under way when flowplan was killed."""
        for command in self.calls:
            if isinstance(command, words.Start) and self.rng.random() < 0.5:
                if not command.first:
                    self.remove_all(command.former)
                self.create(command.change)
            elif isinstance(command, words.Remove) and self.rng.random() < 0.5:
                self.remove_all(command.attempts)
            elif isinstance(command, words.Again) and self.rng.random() < 0.5:
                self.engine.again(command.record, self.now)


def _check_the_end(engine: Engine, state: State, plan: Plan) -> None:
    known = {*state.newest.values(), *(record.run_id for record in state.leftovers())}
    orphans = [run_id for run_id in engine.objects if run_id not in known]
    assert not orphans, f"left on the engine: {orphans}"
    for record in state.leftovers():
        if record.run_id in engine.objects:
            newest = state.newest.get(record.address, "")
            failed = newest in state.attempts and state.attempts[newest].status is Status.FAILED
            why = f"the newest attempt is {newest or 'gone'}"
            skipped = newest in state.attempts and state.attempts[newest].status is Status.CREATING
            started = newest in engine.started
            assert (failed or skipped) and not started, f"{record.run_id} was left, and {why}"
    for record in state.records().values():
        skipped = record.status is Status.CREATING and record.run_id not in engine.objects
        assert record.status.final or skipped, f"{record.address} is {record.status} at the end"
        lost = record.status is Status.LOST
        taken = record.run_id in engine.removed or record.run_id in engine.away
        assert not lost or taken, f"{record.address} is lost, and nothing removed it"
    assert {c.address for c in plan.changes if c.action is not Action.DESTROY} >= set(state.newest)
