"""All that an apply knows: each address with its step and its recorded attempt, and which steps wait for what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from heapq import heappop, heappush

from flowplan.planner.conduct.words import Manner, Moment
from flowplan.schemas.errors import FlowplanError
from flowplan.schemas.plans import Action, Change, Plan
from flowplan.schemas.runs import Observed, Recorded, Status

LOOK_AT_LIMITS = timedelta(seconds=0.2)
"""How often time limits are looked at; a thousand runs that have one double it."""
LOOK_AT_THEIRS = timedelta(seconds=0.5)
"""How often the state is asked whether another flowplan has started what it was about to start."""
SHOWN_WITHIN = timedelta(seconds=5)
"""How long the output of an ended run may take to be shown before its end is read all the same."""


class Phase(Enum):
    """How far the step of a run is."""

    NONE = auto()
    WAITING = auto()
    CALLING = auto()
    DONE = auto()
    SKIPPED = auto()


class Care(Enum):
    """Who looks after the recorded attempt of a run."""

    UNSEEN = auto()
    FOLLOWED = auto()
    STOPPING = auto()  # a time limit has passed, and we are ending it
    THEIRS = auto()  # another flowplan is starting it
    UNWATCHED = auto()  # its engine refuses to be watched
    AWAY = auto()  # its host cannot be seen from here


@dataclass(slots=True)
class Run:
    """One address: its step in the plan, and the attempt that is recorded.

    Attributes:
        former: earlier attempts whose objects may still be on the engine; they go before anything new is created.
        after: addresses whose steps have to be done before this one begins.
        met: how many of its needs, from the first one, are known to have succeeded.
        known: True when the run id of the step was intended by an earlier apply.
        limit: the time limit that passed, while the attempt is being stopped for it.
    """

    address: str
    place: int = 0
    change: Change | None = None
    phase: Phase = Phase.NONE
    record: Recorded | None = None
    care: Care = Care.UNSEEN
    wanted: bool = False
    former: list[Recorded] = field(default_factory=list)
    after: frozenset[str] = frozenset()
    met: int = 0
    known: bool = False
    limit: str = ""
    skipped: str = ""
    failed: str = ""
    error: FlowplanError | None = None

    @property
    def live(self) -> bool:
        """Whether the recorded attempt may still do work."""
        return self.record is not None and self.record.status.live


class World:
    """All that an apply knows; ``begin`` and ``react`` change it, nothing else does."""

    def __init__(
        self,
        plan: Plan,
        records: Mapping[str, Recorded],
        *,
        manner: Manner,
        leftovers: Sequence[Recorded] = (),
        follow: Iterable[str] = (),
        locked: bool = False,
    ) -> None:
        self.plan, self.manner, self.locked = plan, manner, locked
        self.runs: dict[str, Run] = {}
        self.address_of: dict[str, str] = {}
        self.live: dict[str, Run] = {}
        self.limited: dict[str, Run] = {}
        self.groups: dict[str, set[str]] = {}
        self.waiting: dict[str, Run] = {}
        self.due: list[int] = []
        self.aside: dict[str, list[int]] = {}
        self.steps: list[Run] = []
        self.theirs: set[str] = set()
        self.removing: set[str] = set()
        self.ending: dict[str, tuple[Recorded, datetime]] = {}
        self.disputed: list[Observed] = []
        self.calls = 0
        self.ended = 0
        self.carried_out: dict[str, int] = {}
        self.interrupted = self.late = False
        self.said_locked = self.lock_was_away = False
        self.theirs_due: datetime | None = None
        self.limits_due: datetime | None = None
        self.moment: Moment
        for record in records.values():
            self.keep(record)
        for record in leftovers:
            self.run_at(record.address).former.append(record)
        self._take_steps()
        needed = {need for run in self.waiting.values() for need in run.change.settings.needs}  # type: ignore[union-attr]
        for address in {c.address for c in plan.changes} | needed | set(follow):
            if address in self.runs:
                self.runs[address].wanted = True

    def _take_steps(self) -> None:
        chosen = [c for c in self.plan.changes if c.effective]
        dependents: dict[str, set[str]] = {}
        for change in chosen:
            if change.action is Action.DESTROY:
                for need in change.settings.needs:
                    dependents.setdefault(need, set()).add(change.address)
        for place, change in enumerate(chosen):
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
        """Whether calls or readings are under way."""
        return bool(self.calls or self.ending)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do or to wait for."""
        if self.working:
            return False
        return self.interrupted or self.manner.detach or self.late or not self._anything_left()

    def _anything_left(self) -> bool:
        return bool(self.waiting) or any(self.goes_on(run) for run in self.live.values())

    def running(self, group: str) -> set[str]:
        """Return the addresses of a group whose runs count for ``max_parallel``."""
        return {a for a in self.groups.get(group, ()) if not self.only_meant(self.runs[a])}

    def only_meant(self, run: Run) -> bool:
        """Whether the record is an intent of an earlier apply, of which the engine has nothing and which is not being started."""
        if run.record is None or run.record.status is not Status.CREATING or run.care is Care.THEIRS:
            return False
        return run.phase is Phase.WAITING or not run.record.present

    def enters(self, run: Run) -> bool:
        """Whether a step adds a live run to its group; an attempt that replaces a live one takes its place."""
        change = change_of(run)
        there = run.address in self.groups.get(change.settings.group, ()) and not self.only_meant(run)
        return change.action.starts and not there

    def first_its_step(self, run: Run) -> bool:
        """Whether a step about the very attempt that is recorded is still to be carried out."""
        pending = run.phase in (Phase.WAITING, Phase.CALLING)
        return pending and run.record is not None and change_of(run).run_id == run.record.run_id

    def goes_on(self, run: Run) -> bool:
        """Whether a live run is followed to its end; not an intent that no flowplan carries out any more."""
        followed = run.wanted and run.care in (Care.FOLLOWED, Care.STOPPING, Care.THEIRS)
        return followed and not self.unborn(run)

    def unborn(self, run: Run) -> bool:
        """Whether the record is an intent that no flowplan works on; the next apply resolves it."""
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
        action = "move" if change_of(run).action is Action.NO_OP else str(change_of(run).action)
        self.carried_out[action] = self.carried_out.get(action, 0) + 1
        self.done(run)

    def done(self, run: Run) -> None:
        self.waiting.pop(run.address, None)
        run.phase = Phase.DONE
        self.wake(run.address)

    def destroying(self, address: str) -> bool:
        change = self.runs[address].change
        return change is not None and change.action is Action.DESTROY

    def engine_time(self, provider: str) -> datetime:
        return self.moment.engine(provider) or self.moment.now

    def run_at(self, address: str) -> Run:
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
        self.wake(run.address)

    def drop(self, address: str) -> None:
        """Forget the record of an address."""
        run = self.runs.get(address)
        if run is not None:
            self._leave_group(run)
            run.record = None
            self.wake(address)

    def _leave_group(self, run: Run) -> None:
        """Take a run that is not live any more out of its group, where the first that waits may have its place."""
        if run.record is None or self.live.pop(run.address, None) is None:
            return
        self.limited.pop(run.address, None)
        self.theirs.discard(run.address)
        group = run.record.settings.group
        self.groups[group].discard(run.address)
        self.wake_one(group_key(group))

    def wake(self, until: str) -> None:
        for place in self.aside.pop(until, ()):
            heappush(self.due, place)

    def wake_one(self, until: str) -> None:
        aside = self.aside.get(until)
        while aside:
            place = heappop(aside)
            if self.steps[place].phase is Phase.WAITING:
                heappush(self.due, place)
                return


def how_it_ended(record: Recorded) -> str:
    """Return how a run ended, in words: ``failed (exit code 3): Error``."""
    code = f" (exit code {record.exit_code})" if record.exit_code is not None else ""
    reason = f": {record.reason}" if record.reason else ""
    return f"{str(record.status).replace('_', ' ')}{code}{reason}"


def change_of(run: Run) -> Change:
    assert run.change is not None
    return run.change


def group_key(name: str) -> str:
    """Return what steps wait for that ``max_parallel`` holds back; no address is like it."""
    return f"\0{name}"


def seconds(since: str | None, now: datetime | None) -> float | None:
    return (now - datetime.fromisoformat(since)).total_seconds() if since and now else None


def timestamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
