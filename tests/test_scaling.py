"""Nothing grows faster than the runs do: counted in operations, never in seconds."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from flowplan.apply import Runner
from flowplan.engines import Engines
from flowplan.outcome import Options
from flowplan.output import Output, Sink
from flowplan.providers.protocol import LogLine, Order
from flowplan.schedule import Schedule, Step, steps_of
from flowplan.schemas.plans import Action, Change, Plan
from flowplan.schemas.runs import Observed, Recorded, Settings, Status, Target, run_id
from flowplan.state.lock import WriterLock
from flowplan.state.store import Store


class Quick:
    """A provider whose runs succeed while they are created; it knows how many were in the making at once."""

    def __init__(self, failing: frozenset[str] = frozenset()) -> None:
        self.failing = failing
        self.created: list[str] = []
        self.removed: list[str] = []
        self._lock = threading.Lock()

    def target(self) -> Target:
        return Target("process", "here")

    def create(self, order: Order) -> Observed:
        address = order.identity.address
        with self._lock:
            self.created.append(address)
        status = Status.FAILED if address in self.failing else Status.SUCCEEDED
        return Observed(order.identity.run_id, address=address, attempt=1, status=status, exit_code=0)

    def delete(self, record: Recorded, grace: float) -> None:
        with self._lock:
            self.removed.append(record.address)

    def watch(self, records: Sequence[Recorded], stop: threading.Event) -> Iterator[Observed | None]:
        return iter(())

    def logs(self, record: Recorded, **options: Any) -> Iterator[LogLine]:
        return iter(())

    def close(self) -> None:
        return


class Silent(Sink):
    def event(self, event: object, record: object) -> None:
        return

    def note(self, text: str) -> None:
        return


def change(lineage: str, address: str, action: Action = Action.CREATE, **settings: Any) -> Change:
    return Change(
        address,
        "process",
        "process",
        action,
        (),
        None,
        {"Process": {"argv": ["true"]}},
        settings=Settings(group=address.partition("[")[0], **settings),
        name=address,
        run_id=run_id(lineage, address, 1),
    )


class World:
    """A state and an engine of wood; statements of SQLite and looks at steps are counted."""

    def __init__(self, directory: Path, engine: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = Store.open(directory / "state.db", create=True)
        self.engine = engine
        self.counts: Counter[str] = Counter()
        self._lock = WriterLock(directory / "state.db", "apply")
        self._engines = Engines({}, lineage=self.store.lineage, runs_dir=directory, spec_dir=directory)
        self._engines._providers["process"] = engine  # type: ignore[assignment]
        take = Schedule.next

        def counted(schedule: Schedule) -> Step | None:
            step = take(schedule)
            self.counts["looks"] += step is not None
            return step

        monkeypatch.setattr(Schedule, "next", counted)
        self.store._connection.set_trace_callback(lambda statement: self.counts.update(["statements"]))

    def apply(self, changes: Sequence[Change]) -> Runner:
        plan = Plan("p", "sha256:0", self.store.lineage, self.store.serial, "", "", tuple(changes))
        runner = Runner(
            plan,
            self.store,
            self._engines,
            self._lock,
            Silent(Output()),
            Options(stream=False, wait_timeout=60.0),
            secrets={},
            interrupted=threading.Event(),
        )
        runner.run()
        assert not runner.outcome.timed_out
        return runner


@pytest.fixture
def worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    made: list[World] = []

    def make(engine: Quick | None = None) -> World:
        directory = tmp_path / str(len(made))
        directory.mkdir()
        made.append(World(directory, engine or Quick(), monkeypatch))
        return made[-1]

    yield make
    for world in made:
        world.store.close()


def cells(world: World, count: int, **settings: Any) -> list[Change]:
    return [change(world.store.lineage, f"cell[n={n}]", **settings) for n in range(count)]


def test_statements_grow_with_the_runs_and_not_faster(worlds: Any) -> None:
    few, many = worlds(), worlds()
    few.apply(cells(few, 50))
    many.apply(cells(many, 400))
    assert len(many.engine.created) == 400
    assert many.counts["statements"] / 400 <= 1.2 * few.counts["statements"] / 50


@pytest.mark.parametrize("limit", [1, 3])
def test_cells_that_wait_for_their_turn_are_not_looked_at_again_and_again(worlds: Any, limit: int) -> None:
    world = worlds()
    world.apply(cells(world, 300, max_parallel=limit))
    assert len(world.engine.created) == 300
    assert world.counts["looks"] <= 4 * 300


def test_runs_that_wait_for_needs_are_looked_at_once_for_each_of_them_at_most(worlds: Any) -> None:
    world = worlds()
    lineage = world.store.lineage
    first = [change(lineage, f"first[n={n}]") for n in range(40)]
    needs = tuple(c.address for c in first)
    world.apply([*(change(lineage, f"last[n={n}]", needs=needs) for n in range(40)), *first])
    assert len(world.engine.created) == 80
    assert set(world.engine.created[:40]) == set(needs)
    assert world.counts["looks"] <= 40 * 40 + 2 * 80


def test_a_long_chain_is_started_link_by_link(worlds: Any) -> None:
    world = worlds()
    lineage = world.store.lineage
    chain = [change(lineage, f"r{n}", needs=(f"r{n + 1}",) if n < 199 else ()) for n in range(200)]
    world.apply(chain)
    assert world.engine.created == [f"r{n}" for n in reversed(range(200))]
    assert world.counts["looks"] <= 3 * 200


def test_what_needs_a_failed_run_is_skipped_to_the_end_of_the_chain(worlds: Any) -> None:
    world = worlds(Quick(frozenset({"r0"})))
    lineage = world.store.lineage
    runner = world.apply([change(lineage, f"r{n}", needs=(f"r{n - 1}",) if n else ()) for n in range(100)])
    assert world.engine.created == ["r0"]
    assert len(runner.outcome.skipped) == 99
    assert not runner.waiting


def test_a_skipped_cell_gives_its_turn_to_the_next(worlds: Any) -> None:
    """A group whose woken cell cannot start must not stand still."""
    world = worlds(Quick(frozenset({"bad"})))
    lineage = world.store.lineage
    group = [change(lineage, f"cell[n={n}]", max_parallel=1, needs=("bad",) if n % 2 else ("good",)) for n in range(60)]
    runner = world.apply([change(lineage, "good"), change(lineage, "bad"), *group])
    assert len(world.engine.created) == 2 + 30
    assert len(runner.outcome.skipped) == 30


def test_dependents_are_destroyed_first(worlds: Any) -> None:
    world = worlds()
    lineage = world.store.lineage
    chain = [change(lineage, f"r{n}", needs=(f"r{n - 1}",) if n else ()) for n in range(50)]
    world.apply(chain)
    world.apply([change(lineage, c.address, Action.DESTROY, needs=c.settings.needs) for c in chain])
    assert world.engine.removed == [f"r{n}" for n in reversed(range(50))]


def test_the_schedule_keeps_the_order_of_the_plan() -> None:
    steps = steps_of([change("00000000-0000-4000-8000-000000000000", f"r{n}") for n in range(5)])
    schedule = Schedule(steps)
    taken: list[Step] = [step for step in iter(schedule.next, None) if step is not None]
    for step in reversed(taken):
        schedule.set_aside(step, "x")
    assert schedule.next() is None
    schedule.wake_one("x")
    assert schedule.next() is taken[0]
    schedule.wake("x")
    assert [schedule.next() for _ in range(4)] == taken[1:]
