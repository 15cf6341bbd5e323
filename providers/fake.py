"""An engine in memory for tests, and a model for a provider of one's own: it keeps every promise of ``protocol``.

    engine = FakeEngine(lambda command, env: Script(lines=(Line("hello"),), seconds=3))
    provider = engine.connect(Context(lineage, runs_dir))
    provider.create(order)
    engine.clock.sleep(3)  # now it has ended, and well

What a run does is a ``Script``. Time stands still until a test moves it. The pure half is ``planner.manifests.fake``.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from flowplan.providers.polling import watch_by_looking
from flowplan.providers.protocol import IMPORTED, Context, Found, LogLine, News, Order, of_other_content
from flowplan.schemas.errors import EngineUnreachable, ProviderError, StartFailed
from flowplan.schemas.plans import FieldChange, Finding
from flowplan.schemas.runs import Identity, Objects, Observed, Recorded, Status, Target
from flowplan.schemas.secrets import reveal

CONTENT = "flowplan.dev/content"
LOOK = 0.02
"""Seconds between two looks at a run that is followed."""


class Line(NamedTuple):
    """A line that a run prints, so many seconds after its start."""

    text: str
    after: float = 0.0
    stream: str = "stdout"


class Script(NamedTuple):
    """What a run does.

    Attributes:
        seconds: how long it runs; ``math.inf`` until it is stopped.
        heeds_term: whether TERM ends it; else it is killed when its grace period is over.
        cannot_start: why it cannot be started; "" when it can.
    """

    lines: tuple[Line, ...] = ()
    seconds: float = 0.0
    exit_code: int = 0
    heeds_term: bool = True
    cannot_start: str = ""


class End(NamedTuple):
    """How a run ended."""

    at: datetime
    exit_code: int
    reason: str


class Clock:
    """The engine's time, which stands still. What would have to wait moves it on instead."""

    def __init__(self, at: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._at = at

    def now(self) -> datetime:
        """Return the engine's time."""
        return self._at

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self._at += timedelta(seconds=seconds)


@dataclass(slots=True)
class FakeRun:
    """An object on the engine.

    Attributes:
        identity: None for a run that flowplan did not create.
        objects: as they were sent, with tokens in the place of ``secrets`` (token -> value).
        stopped: how it was ended from outside.
    """

    id: str
    name: str
    objects: Objects
    script: Script
    started: datetime
    identity: Identity | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    stopped: End | None = None

    def end(self, now: datetime) -> End | None:
        """Return how it has ended by ``now``."""
        if self.stopped or math.isinf(self.script.seconds):
            return self.stopped
        at = self.started + timedelta(seconds=self.script.seconds)
        return End(at, self.script.exit_code, "Error" if self.script.exit_code else "Completed") if at <= now else None

    def printed(self, now: datetime) -> list[LogLine]:
        """Return what it has printed by ``now``."""
        end = self.end(now)
        seconds = ((end.at if end else now) - self.started).total_seconds()
        return [LogLine(line.text, line.stream) for line in self.script.lines if line.after <= seconds]


class FakeEngine:
    """What runs, for all connections to it.

    Args:
        script: says what a run does from its command and its variables, secret values among them.

    Attributes:
        runs: id -> run; a test may remove one, or set how one was ``stopped``.
        history: what was done, in its order: ("create" or "delete", address or name).
        silent: why the engine does not answer; "" while it does.
    """

    def __init__(
        self,
        script: Callable[[Sequence[str], Mapping[str, str]], Script] = lambda command, env: Script(),
        clock: Clock | None = None,
        *,
        name: str = "fake",
    ) -> None:
        self.clock = clock or Clock()
        self.name = name
        self.runs: dict[str, FakeRun] = {}
        self.history: list[tuple[str, str]] = []
        self.silent = ""
        self.lock = threading.Lock()
        self._script = script

    def connect(self, context: Context) -> FakeProvider:
        """Return one more connection, as the ``connect`` of a provider type does."""
        return FakeProvider(self, context)

    def script_of(self, objects: Objects, secrets: Mapping[str, str]) -> Script:
        """Return what a run of these objects does."""
        fake = reveal(objects["Fake"], secrets)
        return self._script(fake["command"], fake["env"])

    def start(
        self, name: str, objects: Objects, identity: Identity | None = None, secrets: Mapping[str, str] = {}
    ) -> FakeRun:
        """Start a run of ``objects``; without an identity it is one that flowplan did not create."""
        run_id = identity.run_id if identity else name
        script = self.script_of(objects, secrets)
        self.runs[run_id] = FakeRun(run_id, name, objects, script, self.clock.now(), identity, secrets)
        self.history.append(("create", identity.address if identity else name))
        return self.runs[run_id]


class FakeProvider:
    """One connection, for one state."""

    def __init__(self, engine: FakeEngine, context: Context) -> None:
        self._engine = engine
        self._context = context

    def target(self) -> Target:
        """Return the engine's identity."""
        return Target("fake", self._engine.name, self._engine.name)

    def now(self) -> datetime:
        """Return the engine's time."""
        return self._engine.clock.now()

    def observe(self, records: Sequence[Recorded], wanted: Iterable[Objects] | None = None) -> list[Observed]:
        """Return the runs of the records, and the other ones of our lineage; while planning, of our project."""
        there = self._there()
        seen = [self._seen_as(record, there.pop(_id_of(record), None)) for record in records]
        for run in there.values():
            ours = run.identity is not None and run.identity.lineage == self._context.lineage
            if ours or (self._is_here(run, self._context.project) and wanted is not None):
                seen.append(self._seen(run))
        return seen

    def preflight(self, orders: Sequence[Order]) -> list[Finding]:
        """Return which orders cannot be started."""
        self._there()
        scripts = {o.identity.address: self._engine.script_of(o.objects, o.secrets) for o in orders}
        return [Finding(a, "error", "command", s.cannot_start, "") for a, s in scripts.items() if s.cannot_start]

    def create(self, order: Order) -> Observed:
        """Start an attempt, or adopt it where it was started already."""
        address = order.identity.address
        with self._engine.lock:
            run = self._there().get(order.identity.run_id)
            if run is None:
                script = self._engine.script_of(order.objects, order.secrets)
                if script.cannot_start:
                    raise StartFailed(script.cannot_start, address=address, reason="NotStarted", exit_code_of_run=127)
                run = self._engine.start(order.name, order.objects, order.identity, order.secrets)
            elif _content(run.objects) != _content(order.objects):
                raise of_other_content(f"{run.name} on {self._engine.name}", address)
        return self._seen(run)

    def update(self, record: Recorded, order: Order, fields: Sequence[FieldChange]) -> Observed:
        """Change the labels; the one that says what was created stays."""
        run = self._there()[_id_of(record)]
        labels = {**order.objects["Fake"]["labels"], CONTENT: _content(run.objects)}
        run.objects = {"Fake": {**run.objects["Fake"], "labels": labels}}
        return self._seen_as(record, run)

    def delete(self, record: Recorded, grace: float) -> None:
        """End and remove a run; what is not there is removed already."""
        run = self._there().get(_id_of(record))
        if run is not None and run.end(self.now()) is None:
            if not run.script.heeds_term:
                self._engine.clock.sleep(grace)
            run.stopped = End(self.now(), 143 if run.script.heeds_term else 137, "Stopped")
        if self._engine.runs.pop(_id_of(record), None):
            self._engine.history.append(("delete", record.address))

    def watch(self, records: Sequence[Recorded], stop: threading.Event) -> Iterator[News]:
        """Poll the runs; where an engine has a stream of events, that is better."""
        return watch_by_looking(records, stop, self.observe, every=LOOK)

    def logs(
        self, record: Recorded, *, follow: bool, tail: int | None, stop: threading.Event | None = None
    ) -> Iterator[LogLine]:
        """Yield what a run prints."""
        stop = stop or threading.Event()
        run = self._there().get(_id_of(record))
        if run is None:
            raise ProviderError(f"{record.name} is not on {self._engine.name}", address=record.address)
        told = max(0, len(run.printed(self.now())) - tail) if tail is not None else 0
        while True:
            now = self.now()
            lines = run.printed(now)
            yield from lines[told:]
            told = len(lines)
            if not follow or run.end(now) or stop.wait(LOOK):
                return

    def secret_values(self, record: Recorded) -> list[str]:
        """Return the values that the run was given."""
        run = self._there().get(_id_of(record))
        return list(run.secrets.values()) if run else []

    def find(self, project: str, wanted: Sequence[Objects] = ()) -> list[Found]:
        """Return the runs of a project."""
        runs = [run for run in self._there().values() if self._is_here(run, project)]
        return [self._found(run) for run in sorted(runs, key=lambda run: self._seen(run).attempt)]

    def describe(self, object_id: str) -> Found:
        """Return the object of that id or name."""
        for run in self._there().values():
            if object_id in (run.id, run.name):
                found = self._found(run)
                return replace(found, seen=replace(found.seen, handle={**found.seen.handle, IMPORTED: True}))
        raise ProviderError(f"there is no {object_id} on {self._engine.name}", reason="NotFound")

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _is_here(self, run: FakeRun, project: str) -> bool:
        known = run.identity
        return known is not None and (known.project, known.environment) == (project, self._context.environment)

    def _there(self) -> dict[str, FakeRun]:
        """Return the runs on the engine, by id.

        Raises:
            EngineUnreachable: the test made it ``silent``.
        """
        if self._engine.silent:
            raise EngineUnreachable(self._engine.silent)
        return dict(self._engine.runs)

    def _seen_as(self, record: Recorded, run: FakeRun | None) -> Observed:
        """Return the observation of a record; an imported object does not have the identity that its record has."""
        seen = self._seen(run) if run else Observed(record.run_id, exists=False)
        return replace(seen, run_id=record.run_id, address=record.address, attempt=record.attempt)

    def _seen(self, run: FakeRun) -> Observed:
        end = run.end(self.now())
        lineage = run.identity.lineage if run.identity else ""
        return Observed(
            run.identity.run_id if run.identity else "",
            address=run.identity.address if run.identity else "",
            attempt=run.identity.attempt if run.identity else 0,
            status=Status.RUNNING if end is None else Status.FAILED if end.exit_code else Status.SUCCEEDED,
            reason=end.reason if end else "Running",
            message=f"exit code {end.exit_code}" if end and end.exit_code else "",
            exit_code=end.exit_code if end else None,
            attempts=1,
            handle={"id": run.id},
            infrastructure_id=run.id,
            name=run.name,
            started_at=run.started.isoformat(),
            finished_at=end.at.isoformat() if end else None,
            live=run.objects,
            content=_content(run.objects),
            lineage="" if lineage == self._context.lineage else lineage,
        )

    def _found(self, run: FakeRun) -> Found:
        known = (run.identity.project, run.identity.lineage) if run.identity else ("", "")
        bare = {"Fake": {**run.objects["Fake"], "env": {}}}
        return Found(self._seen(run), *known, objects=reveal(run.objects, run.secrets), bare=bare, applied=run.objects)


def _id_of(record: Recorded) -> str:
    return str(record.handle["id"]) if record.handle.get(IMPORTED) else record.run_id


def _content(objects: Objects) -> str:
    return str(objects["Fake"]["labels"].get(CONTENT, ""))
