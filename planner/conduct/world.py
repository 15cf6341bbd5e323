"""All that an apply knows: each address with its step and its recorded attempt, and which steps wait for what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from heapq import heappop, heappush

from flowplan.planner.conduct.words import Manner, Moment
from flowplan.schemas.errors import FlowplanError
from flowplan.schemas.events import Event
from flowplan.schemas.lifecycle import next_try_at
from flowplan.schemas.plans import Action, Change, Plan
from flowplan.schemas.runs import Observed, Recorded, Status
from flowplan.schemas.times import seconds_between

LOOK_AT_LIMITS = timedelta(seconds=0.2)
"""How often time limits are looked at, while some may pass; a thousand runs that have one double it."""
LOOK_AT_LIMITS_AT_LATEST = 5.0
"""Seconds until they are looked at again although none is near: the clock of an engine may be set."""
ASK_AGAIN = timedelta(seconds=5)
"""How long an engine that did not answer is left alone before a run is tried again."""
LOOK_AT_THEIRS = timedelta(seconds=0.5)
"""How often the state is asked whether another flowplan has started what it was about to start."""
SHOWN_WITHIN = timedelta(seconds=5)
"""How long the output of an ended run may take to be shown before its end is told, and read, all the same."""


class Phase(Enum):
    """How far the step of a run is: what the plan does at its address."""

    NONE = auto()  # the plan does nothing there
    WAITING = auto()
    CALLING = auto()  # an engine was asked, and has not answered
    DONE = auto()  # also after an error
    SKIPPED = auto()  # it can never begin: what it needs failed


class Care(Enum):
    """Who looks after the recorded attempt of a run."""

    NOBODY = auto()  # not yet, or not any more
    FOLLOWED = auto()
    TRYING = auto()  # its engine was asked to start it again
    STOPPING = auto()  # a time limit has passed, and this flowplan is ending it
    THEIRS = auto()  # another flowplan is starting it
    UNWATCHED = auto()  # its engine refuses to be watched
    ELSEWHERE = auto()  # it is on a host that cannot be seen from here


@dataclass(slots=True)
class Run:
    """One address: its step in the plan, and the attempt that is recorded.

    Attributes:
        place: of its step among all steps of the plan.
        change, phase: its step, and how far that is; no change for runs that the plan leaves alone.
        record, care: the newest attempt in the state, and who looks after it.
        wanted: whether the user is told of it: it is in the plan, needed by what is, or asked for.
        former: earlier attempts whose objects may still be on the engine; they go before anything new is created.
        after: addresses whose steps have to be done before this one begins.
        met: how many of its needs, from the first one, are known to have succeeded.
        known: whether an earlier apply, or an earlier try, intended the attempt that the step creates.
        tries: how often its engine was asked in vain.
        checked: what ``World.away`` was when the step was last found to be as planned.
        limit: the time limit that passed, while the attempt is being stopped for it.
        stops, stop_again: how often that was asked for in vain, and when it is asked for again.
        skipped, failed: why the step did not begin, and how the run ended without success, in words; "" for neither.
        error: what went wrong with the step itself.
    """

    address: str
    place: int = 0
    change: Change | None = None
    phase: Phase = Phase.NONE
    record: Recorded | None = None
    care: Care = Care.NOBODY
    wanted: bool = False
    former: list[Recorded] = field(default_factory=list)
    after: frozenset[str] = frozenset()
    met: int = 0
    known: bool = False
    tries: int = 0
    checked: int = 0
    limit: str = ""
    stops: int = 0
    stop_again: datetime | None = None
    skipped: str = ""
    failed: str = ""
    error: FlowplanError | None = None

    @property
    def live(self) -> bool:
        """Return whether the recorded attempt may still do work."""
        return self.record is not None and self.record.status.live


class World:
    """All that an apply knows; ``begin`` and ``react`` change it, nothing else does.

    The work of one fact does not grow with the plan, so there is an index for each question that is asked often.

    Attributes:
        digests: address -> digest of the accepted plan, where the steps of several are carried out as one plan.
        stop: addresses of live runs to stop, and what their record says of it.
        began: run id -> times of its record, and the moments that they were by the clock that nobody sets.
        locked: whether this process holds the writer's lock. away: how often it was given back and taken again, so that
            another flowplan may have changed what was planned. said_locked: whether the user knows who holds it.
        runs: by address. address_of: by run id, of every attempt seen here.
        live, limited, retrying: the runs whose attempt may still do work, and those of them that have a time limit, or wait for
            their next try.
        groups: group -> addresses of its live runs, for ``max_parallel``.
        waiting: the runs whose step has not begun.
        steps: the runs of the plan, in its order. due: the places among them to look at (a heap). aside: what has to change
            (an address, or a group that is full) -> the places of steps that wait for it (heaps).
        later: times and the places of steps that wait for them (a heap).
        theirs: addresses that another flowplan is starting; expected: those that it starts later. theirs_due: when to look
            at them again.
        limits_due, retries_due: when to look at time limits, and at waits, again. limits_rest: until when no limit can pass,
            unless something changes.
        removing: run ids whose objects are being removed here, so that it is no loss when they go away.
        ending: run id -> the attempt that ended, and until when its output may take to be shown.
        untold: address -> the events of an end that is told when the output has been shown, and of what needs that run; and
            until when that may take. Steps that need the run wait for it, so that what is told is in order.
        disputed: ends that engines told of while another flowplan, which may be the cause, had the lock.
        calls: how many engine calls and readings are under way. ended: how many runs ended,
            and succeeded: how many of those did.
        carried_out: action -> how many steps of it are done.
        interrupted: the user wants flowplan to end. timed_out: the time that the user gave has passed.
        moment: when the facts at hand were taken in.
    """

    def __init__(
        self,
        plan: Plan,
        records: Mapping[str, Recorded],
        *,
        manner: Manner,
        leftovers: Sequence[Recorded] = (),
        follow: Iterable[str] = (),
        expected: Iterable[str] = (),
        locked: bool = False,
        digests: Mapping[str, str] | None = None,
        stop: Mapping[str, str] | None = None,
        began: dict[str, dict[str, datetime]] | None = None,
    ) -> None:
        self.plan, self.manner, self.locked = plan, manner, locked
        self.digests, self.stop = digests or {}, stop or {}
        self.began = {} if began is None else began
        self.runs: dict[str, Run] = {}
        self.address_of: dict[str, str] = {}
        self.live: dict[str, Run] = {}
        self.limited: dict[str, Run] = {}
        self.retrying: dict[str, Run] = {}
        self.groups: dict[str, set[str]] = {}
        self.waiting: dict[str, Run] = {}
        self.due: list[int] = []
        self.aside: dict[str, list[int]] = {}
        self.later: list[tuple[datetime, int]] = []
        self.steps: list[Run] = []
        self.theirs: set[str] = set()
        self.expected = set(expected)
        self.removing: set[str] = set()
        self.ending: dict[str, tuple[Recorded, datetime]] = {}
        self.untold: dict[str, tuple[list[Event], datetime]] = {}
        self.disputed: list[Observed] = []
        self.calls = 0
        self.ended = 0
        self.succeeded = 0
        self.carried_out: dict[str, int] = {}
        self.interrupted = self.timed_out = False
        self.said_locked = False
        self.away = 0
        self.theirs_due: datetime | None = None
        self.limits_due: datetime | None = None
        self.limits_rest: datetime | None = None
        self.retries_due: datetime | None = None
        self.moment: Moment
        for record in records.values():
            self.keep(record)
        for record in leftovers:
            self.run_at(record.address).former.append(record)
        self._add_steps([change for change in plan.changes if change.effective])
        needed = {need for run in self.waiting.values() for need in run.change.settings.needs}  # type: ignore[union-attr]
        for address in self.expected:
            self.run_at(address)
        for address in {c.address for c in plan.changes} | needed | self.expected | set(follow):
            if address in self.runs:
                self.runs[address].wanted = True

    def _add_steps(self, changes: Sequence[Change]) -> None:
        """Take in the steps of the plan. What is destroyed waits until everything that needs it is destroyed."""
        dependents: dict[str, set[str]] = {}
        for change in changes:
            if change.action is Action.DESTROY:
                for need in change.settings.needs:
                    dependents.setdefault(need, set()).add(change.address)
        for place, change in enumerate(changes):
            run = self.run_at(change.address)
            run.change, run.phase, run.place = change, Phase.WAITING, place
            if change.action is Action.DESTROY:
                run.after = frozenset(dependents.get(change.address, ()))
            run.known = run.record is not None and run.record.status is Status.CREATING
            self.steps.append(run)
            self.due.append(place)
            self.waiting[change.address] = run

    @property
    def working(self) -> bool:
        """Return whether calls or readings are under way."""
        return bool(self.calls or self.ending or self.untold)

    @property
    def over(self) -> bool:
        """Return whether nothing is left to do or to wait for."""
        if self.working:
            return False
        left = bool(self.waiting or self.expected) or any(self.is_followed(run) for run in self.live.values())
        return self.interrupted or self.manner.detach or self.timed_out or not left

    def running(self, group: str) -> set[str]:
        """Return the addresses of a group whose runs count for ``max_parallel``."""
        return {a for a in self.groups.get(group, ()) if not self.merely_intended(self.runs[a])}

    def merely_intended(self, run: Run) -> bool:
        """Return whether the record is only an intent of an earlier apply: no object exists, and none is being created."""
        if run.record is None or run.record.status is not Status.CREATING or run.care is Care.THEIRS:
            return False
        return not run.tries and (run.phase is Phase.WAITING or not run.record.present)

    def adds_to_group(self, run: Run) -> bool:
        """Return whether a step adds a live run to its group; an attempt that replaces a live one takes its place."""
        change = change_of(run)
        there = run.address in self.groups.get(change.settings.group, ()) and not self.merely_intended(run)
        return change.action.starts and not there

    def step_is_pending(self, run: Run) -> bool:
        """Return whether the step of a run is about the very attempt that is recorded, and not done yet."""
        pending = run.phase in (Phase.WAITING, Phase.CALLING)
        return pending and run.record is not None and change_of(run).run_id == run.record.run_id

    def is_followed(self, run: Run) -> bool:
        """Return whether a live run is followed to its end; an abandoned intent is not."""
        followed = run.wanted and run.care in (Care.FOLLOWED, Care.TRYING, Care.STOPPING, Care.THEIRS)
        return followed and not self.abandoned(run)

    def abandoned(self, run: Run) -> bool:
        """Return whether the record is an intent that no flowplan works on; the next apply resolves it."""
        record = run.record
        if record is None or record.status is not Status.CREATING:
            return False
        return run.error is not None or not (record.present or run.care is Care.THEIRS)

    def take_attempts(self, run: Run) -> list[Recorded]:
        """Return all attempts whose objects may still be on the engine, newest last.

        An intent that nothing was seen of is among them: what was asked for may still be on its way.
        """
        newest = [run.record] if run.record and (run.record.present or run.record.status is Status.CREATING) else []
        former, run.former = run.former, []
        return [*former, *newest]

    def finished(self, run: Run) -> None:
        """Count a step as carried out."""
        action = "move" if change_of(run).action is Action.NO_OP else str(change_of(run).action)
        self.carried_out[action] = self.carried_out.get(action, 0) + 1
        self.done(run)

    def done(self, run: Run) -> None:
        """Mark a step as done, well or not; what waits for it is looked at again."""
        self.waiting.pop(run.address, None)
        run.phase = Phase.DONE
        self.wake(run.address)

    def postpone(self, run: Run, until: datetime) -> None:
        """Let a step wait for a time."""
        run.phase = Phase.WAITING
        self.waiting[run.address] = run
        heappush(self.later, (until, run.place))

    def digest_of(self, address: str) -> str:
        """Return the digest of the accepted plan of a step."""
        return self.digests.get(address, self.plan.digest)

    def destroying(self, address: str) -> bool:
        """Return whether the plan destroys the run at an address."""
        change = self.runs[address].change
        return change is not None and change.action is Action.DESTROY

    def engine_time(self, provider: str) -> datetime:
        """Return the time by the clock of an engine, or by ours while that is not known."""
        return self.moment.engine(provider) or self.moment.now

    def passed(self, record: Recorded, since: str | None, now: datetime | None) -> float | None:
        """Return the seconds since a time of a record, None while that or the time by its clock is not known.

        How long ago it was is asked once, by the clock that wrote it, and runs on steadily from there: clocks may be set.
        """
        known = self.began.setdefault(record.run_id, {})
        if since and since not in known and (age := seconds_between(since, now)) is not None:
            known[since] = self.moment.now - timedelta(seconds=age)
        return (self.moment.now - known[since]).total_seconds() if since in known else None

    def run_at(self, address: str) -> Run:
        """Return the run at an address, which is a new one the first time."""
        return self.runs.setdefault(address, Run(address))

    def keep(self, record: Recorded) -> None:
        """Take in the newest record of an address; what waited for a change of it is looked at again."""
        run = self.run_at(record.address)
        self.address_of[record.run_id] = record.address
        if run.record is not None and (not record.status.live or record.settings.group != run.record.settings.group):
            self._leave_group(run)
        run.record = record
        if record.status.live:
            self.live[run.address] = run
            self.groups.setdefault(record.settings.group, set()).add(run.address)
            if record.settings.start_timeout is not None or record.settings.timeout is not None:
                self.limited[run.address] = run
                self.limits_rest = None
        if next_try_at(record):
            self.retrying[run.address] = run
        else:
            self.retrying.pop(run.address, None)
        self.wake(run.address)

    def drop(self, address: str) -> None:
        """Forget the record of an address."""
        run = self.runs.get(address)
        if run is not None:
            self._leave_group(run)
            self.retrying.pop(address, None)
            run.record = None
            self.wake(address)

    def _leave_group(self, run: Run) -> None:
        """Take a run that is not live any more out of its group; the first step that waits for room there is looked at."""
        if run.record is None or self.live.pop(run.address, None) is None:
            return
        self.limited.pop(run.address, None)
        self.began.pop(run.record.run_id, None)
        self.theirs.discard(run.address)
        group = run.record.settings.group
        self.groups[group].discard(run.address)
        self.wake_one(group_key(group))

    def wake(self, until: str) -> None:
        """Look again at the steps that wait for a change of an address."""
        for place in self.aside.pop(until, ()):
            heappush(self.due, place)

    def wake_one(self, until: str) -> None:
        """Look again at the first of the steps that wait for room in a group."""
        aside = self.aside.get(until)
        while aside:
            place = heappop(aside)
            if self.steps[place].phase is Phase.WAITING:
                heappush(self.due, place)
                return


def end_of(record: Recorded) -> str:
    """Return how a run ended, without why: ``failed (exit code 3)``."""
    code = f" (exit code {record.exit_code})" if record.exit_code and record.status is Status.FAILED else ""
    return f"{str(record.status).replace('_', ' ')}{code}"


def how_it_ended(record: Recorded) -> str:
    """Return how a run ended, in words: ``failed (exit code 137): OOMKilled``."""
    end = end_of(record)
    return end if not record.reason or (end.endswith(")") and record.reason == "Error") else f"{end}: {record.reason}"


def change_of(run: Run) -> Change:
    """Return the change of a run that is a step of the plan."""
    assert run.change is not None
    return run.change


def group_key(name: str) -> str:
    """Return the key of ``World.aside`` for steps that ``max_parallel`` holds back; no address is like it."""
    return f"\0{name}"
