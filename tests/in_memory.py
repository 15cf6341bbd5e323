"""An apply in this process: a state in a directory, the engine in memory, and what was told on the way."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowplan.apply import Beside, carry_out
from flowplan.engines import Engines
from flowplan.outcome import Options, Outcome
from flowplan.output import Output, Sink
from flowplan.planner.manifests import with_content
from flowplan.planner.manifests.fake import CONTENT_LABELS
from flowplan.providers.fake import FakeEngine
from flowplan.providers.protocol import Context, LogLine
from flowplan.schemas.events import Event
from flowplan.schemas.plans import Action, Change, Plan
from flowplan.schemas.runs import Objects, Recorded, Settings, run_id
from flowplan.state.sqlite.lock import WriterLock
from flowplan.state.sqlite.store import SqliteStore


class Told(Sink):
    """Keeps what an apply tells instead of printing it: statuses, lines of outputs, notes."""

    def __init__(self) -> None:
        super().__init__(Output())
        self.statuses: list[tuple[str, str]] = []
        self.lines: list[str] = []
        self.notes: list[str] = []

    def event(self, event: Event, record: Recorded | None) -> None:
        self.statuses.append((event.address, event.status))

    def log(self, address: str, line: LogLine) -> None:
        self.lines.append(f"{address}: {line.text}")

    def note(self, text: str) -> None:
        self.notes.append(text)


class InMemory:
    """A project of runs on one engine. The command of each run is its address, unless a change says another one."""

    def __init__(self, directory: Path, engine: FakeEngine) -> None:
        self.store = SqliteStore.open(directory / "state.db", create=True)
        self.engine = engine
        self.told = Told()
        self.interrupted = threading.Event()
        self._lock = WriterLock(directory / "state.db", "apply")
        fake = engine.connect(Context(self.store.lineage, directory))
        self._engines = Engines(
            {}, lineage=self.store.lineage, runs_dir=directory, spec_dir=directory, connected={"fake": fake}
        )

    def change(self, address: str, action: Action = Action.CREATE, **settings: Any) -> Change:
        objects: Objects = {"Fake": {"command": [address], "env": {}, "labels": {}}}
        return Change(
            address,
            "fake",
            "fake",
            action,
            (),
            before=None,
            after=with_content(objects, CONTENT_LABELS),
            settings=Settings(group=address.partition("[")[0], **settings),
            name=address,
            run_id=run_id(self.store.lineage, address, 1),
        )

    def apply(self, changes: Sequence[Change], *, follow: Sequence[str] = (), **options: Any) -> Outcome:
        """Carry the changes out, for a minute at most."""
        plan = Plan("p", "sha256:0", self.store.lineage, self.store.serial, "", "", tuple(changes))
        outcome = carry_out(
            plan,
            self.store,
            self._engines,
            self._lock,
            self.told,
            Options(**{"stream": False, "wait_timeout": 60.0, **options}),
            secrets={},
            interrupted=self.interrupted,
            beside=Beside(follow),
        )
        assert not outcome.timed_out
        return outcome

    def did(self, what: str) -> list[str]:
        """Return what was created or removed on the engine (``create``, ``delete``), in its order, by address."""
        return [address for done, address in self.engine.history if done == what]
