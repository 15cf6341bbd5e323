"""Nothing grows faster than the runs do: counted in operations, never in seconds."""

from __future__ import annotations

import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from in_memory import InMemory
from rendered import plan_text

from flowplan.planner import conduct
from flowplan.planner.conduct import starting, words
from flowplan.planning import plan_spec
from flowplan.project import Project, Request
from flowplan.providers.fake import FakeEngine, Script
from flowplan.providers.kubernetes.observing import observe
from flowplan.providers.kubernetes.reading import LINEAGE, RUN_ID
from flowplan.providers.kubernetes.requests import Api
from flowplan.schemas.errors import ProviderError
from flowplan.schemas.plan_documents import plan_json
from flowplan.schemas.plans import Action, Change, Plan
from flowplan.schemas.runs import Observed, Recorded, Settings, Status, run_id
from flowplan.state import acceptance
from flowplan.state.location import FileLocation
from flowplan.state.ownership import claim_project
from flowplan.state.sqlite.store import SqliteStore


def scripted(failing: frozenset[str] = frozenset()) -> FakeEngine:
    """Make an engine whose runs end while they are created, all of them well but the ``failing`` ones."""
    return FakeEngine(lambda command, env: Script(exit_code=int(command[0] in failing)))


class World(InMemory):
    """Statements of SQLite and looks at steps are counted."""

    def __init__(self, directory: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(directory, engine)
        self.counts: Counter[str] = Counter()
        look = starting.held_back

        def counted(*arguments: Any) -> tuple[str, str]:
            self.counts["looks"] += 1
            return look(*arguments)

        monkeypatch.setattr(starting, "held_back", counted)
        self.store._connection.set_trace_callback(lambda statement: self.counts.update(["statements"]))


@pytest.fixture
def worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    made: list[World] = []

    def make(engine: FakeEngine | None = None) -> World:
        directory = tmp_path / str(len(made))
        directory.mkdir()
        made.append(World(directory, engine or scripted(), monkeypatch))
        return made[-1]

    yield make
    for world in made:
        world.store.close()


def cells(world: World, count: int, **settings: Any) -> list[Change]:
    return [world.change(f"cell[n={n}]", **settings) for n in range(count)]


def test_statements_grow_with_the_runs_and_not_faster(worlds: Any) -> None:
    few, many = worlds(), worlds()
    few.apply(cells(few, 50))
    many.apply(cells(many, 400))
    assert len(many.did("create")) == 400
    # How many are written together is a matter of threads; what grows with the square is eight times as much.
    assert many.counts["statements"] / 400 <= 3 * few.counts["statements"] / 50


@pytest.mark.parametrize("limit", [1, 3])
def test_cells_that_wait_for_their_turn_are_not_looked_at_again_and_again(worlds: Any, limit: int) -> None:
    world = worlds()
    world.apply(cells(world, 300, max_parallel=limit))
    assert len(world.did("create")) == 300
    assert world.counts["looks"] <= 4 * 300


def test_runs_that_wait_for_needs_are_looked_at_once_for_each_of_them_at_most(worlds: Any) -> None:
    world = worlds()
    first = [world.change(f"first[n={n}]") for n in range(40)]
    needs = tuple(c.address for c in first)
    world.apply([*(world.change(f"last[n={n}]", needs=needs) for n in range(40)), *first])
    assert len(world.did("create")) == 80
    assert set(world.did("create")[:40]) == set(needs)
    assert world.counts["looks"] <= 40 * 40 + 2 * 80


def test_a_long_chain_is_started_link_by_link(worlds: Any) -> None:
    world = worlds()
    chain = [world.change(f"r{n}", needs=(f"r{n + 1}",) if n < 199 else ()) for n in range(200)]
    world.apply(chain)
    assert world.did("create") == [f"r{n}" for n in reversed(range(200))]
    assert world.counts["looks"] <= 3 * 200


def test_what_needs_a_failed_run_is_skipped_to_the_end_of_the_chain(worlds: Any) -> None:
    world = worlds(scripted(frozenset({"r0"})))
    outcome = world.apply([world.change(f"r{n}", needs=(f"r{n - 1}",) if n else ()) for n in range(100)])
    assert world.did("create") == ["r0"]
    assert len(outcome.skipped) == 99
    assert not outcome.waiting


def test_a_skipped_cell_gives_its_turn_to_the_next(worlds: Any) -> None:
    """Expect the rest of a group to go on when a cell whose turn it is cannot start."""
    world = worlds(scripted(frozenset({"bad"})))
    group = [world.change(f"cell[n={n}]", max_parallel=1, needs=("bad",) if n % 2 else ("good",)) for n in range(60)]
    outcome = world.apply([world.change("good"), world.change("bad"), *group])
    assert len(world.did("create")) == 2 + 30
    assert len(outcome.skipped) == 30


def test_dependents_are_destroyed_first(worlds: Any) -> None:
    world = worlds()
    chain = [world.change(f"r{n}", needs=(f"r{n - 1}",) if n else ()) for n in range(50)]
    world.apply(chain)
    world.apply([world.change(c.address, Action.DESTROY, needs=c.settings.needs) for c in chain])
    assert world.did("delete") == [f"r{n}" for n in reversed(range(50))]


RECORDING = (words.Keep, words.Finish, words.Absent, words.Destroyed, words.Applied, words.Intend, words.Advance)


def recorded_for(action: Action, error: ProviderError | None, count: int) -> list[str]:
    """Return the commands to the state that follow when an engine answers ``count`` steps at once."""
    settings, state, lineage = Settings(group="cell"), {"Fake": {"command": ["a"]}}, str(uuid.uuid4())
    changes = [
        Change(
            f"c{n}",
            "fake",
            "fake",
            action,
            (),
            before=state,
            after=state,
            settings=settings,
            name=f"c{n}",
            run_id=run_id(lineage, f"c{n}", 1),
        )
        for n in range(count)
    ]
    records = {
        c.address: Recorded(c.address, "fake", "fake", {}, 1, c.run_id, c.name, state, settings, Status.RUNNING)
        for c in changes
        if not action.starts
    }
    plan = Plan("p", "sha256:0", lineage, 1, "", "", tuple(changes))
    world = conduct.World(plan, records, manner=words.Manner(detach=True), locked=True)
    moment = words.Moment(datetime.now(UTC), datetime.now(UTC), lambda provider: None, count, lambda record: False)
    answers: dict[type, Any] = {words.Lock: "", words.Advance: ([], {}), words.Reload: {}, words.Unfollow: False}
    asked: list[words.Command] = []

    def perform(commands: words.Commands) -> None:
        answer = None
        with suppress(StopIteration):
            while True:
                asked.append(commands.send(answer))
                answer = answers.get(type(asked[-1]), [])

    perform(conduct.begin(world, (), moment))
    calls = [command for command in asked if isinstance(command, words.Start | words.Update | words.Remove)]
    assert len(calls) == count
    facts = [
        words.Answered(
            command,
            removed=tuple(command.attempts) if isinstance(command, words.Remove) and not error else (),
            outputs={record.run_id: "end" for record in getattr(command, "attempts", ())},
            error=error,
        )
        for command in calls
    ]
    perform(conduct.react(world, facts, moment))
    assert not world.calls
    return [type(command).__name__ for command in asked if isinstance(command, RECORDING)]


@pytest.mark.parametrize("error", [None, ProviderError("refused")])
@pytest.mark.parametrize("action", [Action.CREATE, Action.UPDATE, Action.DESTROY])
def test_what_many_steps_come_to_is_recorded_together(action: Action, error: ProviderError | None) -> None:
    one, many = recorded_for(action, error, 1), recorded_for(action, error, 50)
    assert one == many
    assert one or (action is Action.UPDATE and error)


def calls(work: Callable[[], object]) -> int:
    """Count the functions written in Python that are called."""
    count = 0

    def probe(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(probe)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def grows_linearly(work: Callable[[int], int]) -> None:
    """Assert that twice as many cost no more than twice as much for each further one, whatever the beginning costs."""
    work(10)  # what is done once for all
    few, some, many = work(40), work(80), work(160)
    assert (many - some) / 80 <= 1.1 * (some - few) / 40


def spec_of(directory: Path, runs: str) -> Path:
    directory.mkdir(parents=True)
    path = directory / "flowplan.yaml"
    path.write_text(f"flowplan: 1\nproject: p\nruns:\n{runs}")
    return path


@contextmanager
def opened(spec: Path, *, refresh: bool = True) -> Iterator[tuple[Project, Plan]]:
    request = Request(FileLocation(spec.parent / ".flowplan/state.db"), spec, refresh=refresh)
    with Project.of_spec(request) as project:
        yield project, plan_spec(project, request).plan


def shown(plan: Plan) -> None:
    assert plan_json(plan)
    assert list(plan_text(plan, colour=False))


KINDS = {
    "process": '{{provider: process, command: [echo, "{n}"], env: {{N: "{n}"}}, needs: {needs}}}',
    "docker": '{{provider: docker, image: busybox:1.35, command: [echo, "{n}"], labels: {{n: "{n}"}}}}',
    "kubernetes": '{{provider: kubernetes, image: busybox:1.35, command: [echo, "{n}"], kubernetes: {{namespace: x}}}}',
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_costs_the_same_for_each_further_run(tmp_path: Path, kind: str) -> None:
    def planned(number: int) -> int:
        lines = [f"  r{n}: " + KINDS[kind].format(n=n, needs=[f"r{n - 1}"] if n else []) for n in range(number)]
        spec = spec_of(tmp_path / str(number), "\n".join(lines))

        def work() -> None:
            with opened(spec, refresh=False) as (_, plan):
                assert len(plan.changes) == number
                shown(plan)

        return calls(work)

    grows_linearly(planned)


def test_a_plan_of_what_is_there_costs_the_same_for_each_further_cell(tmp_path: Path) -> None:
    def planned(number: int) -> int:
        cells = f'  c: {{provider: process, command: ["true"], matrix: {{n: {{from: 1, to: {number}}}}}}}'
        spec = spec_of(tmp_path / str(number), cells)
        record_all(spec)

        def work() -> None:
            with opened(spec) as (_, plan):
                assert {c.action for c in plan.changes} == {Action.NO_OP}
                shown(plan)

        return calls(work)

    grows_linearly(planned)


def test_a_plan_costs_the_same_for_each_further_field(tmp_path: Path) -> None:
    def planned(number: int) -> int:
        env = ", ".join(f'V{n}: "{n}"' for n in range(number))
        spec = spec_of(tmp_path / str(number), f'  r: {{provider: process, command: ["true"], env: {{{env}}}}}')

        def work() -> None:
            with opened(spec) as (_, plan):
                shown(plan)

        return calls(work)

    grows_linearly(planned)


def record_all(spec: Path) -> None:
    """Record everything that a plan would start, as if it had succeeded."""
    with opened(spec) as (project, plan):
        target = project.engines.target("process").document()
        items = [
            Recorded(
                c.address,
                c.provider,
                c.type,
                target,
                c.attempt,
                c.run_id,
                c.name,
                c.after or {},
                c.settings,
                Status.CREATING,
            )
            for c in plan.changes
        ]
        claim_project(project.store, "p")
        project.store.intend(items)
        project.store.observe([Observed(item.run_id, status=Status.SUCCEEDED, exit_code=0) for item in items])


def test_no_question_to_the_state_looks_through_the_history(tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "p", '  r: {provider: process, command: ["true"], matrix: {n: {from: 1, to: 3}}}')
    record_all(spec)
    store = SqliteStore.open(spec.parent / ".flowplan/state.db")
    asked: list[str] = []
    store._connection.set_trace_callback(asked.append)
    address = next(iter(store.records()))
    store.record(address), store.attempts(address), store.leftovers(), store.tails([]), store.last_seq()
    store.history([address]), acceptance.begun(store, "x"), store.run_ids()
    for whose in (None, "r", address):
        list(store.events(whose, after=store.last_seq() - 1))
    store.observe([Observed(store.records()[address].run_id, status=Status.SUCCEEDED, message="again")])
    store._connection.set_trace_callback(None)
    steps = [
        step
        for statement in asked
        if statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))
        for *_, step in store._connection.execute(f"EXPLAIN QUERY PLAN {statement}")
    ]
    store.close()
    assert len(asked) > 12
    assert not [step for step in steps if "SCAN events" in step]


class Lists:
    """An API server of wood: it lists Jobs without pods, and counts how often it is asked."""

    def __init__(self, records: Sequence[Recorded], lineage: str) -> None:
        self.asked: list[str] = []
        self._jobs = [
            {
                "metadata": {
                    "name": r.name,
                    "namespace": "x",
                    "uid": r.run_id,
                    "labels": {RUN_ID: r.run_id, LINEAGE: lineage},
                    "creationTimestamp": "2026-01-01T00:00:00Z",
                },
                "spec": r.objects["Job"]["spec"],
                "status": {},
            }
            for r in records
        ]

    def items(self, path: str, **query: Any) -> list[Any]:
        self.asked.append(path)
        return self._jobs if path.endswith("/jobs") else []

    def pages(self, path: str, **query: Any) -> Iterator[tuple[list[Any], str]]:
        yield self.items(path), ""


@pytest.mark.parametrize("number", [1, 700])
def test_all_jobs_of_a_namespace_are_observed_with_a_few_lists(number: int) -> None:
    lineage = "00000000-0000-4000-8000-000000000000"
    job = {"Job": {"metadata": {"namespace": "x"}, "spec": {"template": {"spec": {"containers": [{}]}}}}}
    records = [
        Recorded(a, "kubernetes", "kubernetes", {}, 1, run_id(lineage, a, 1), a, job, Settings(), Status.PENDING)
        for a in (f"r{n}" for n in range(number))
    ]
    api = Lists(records, lineage)
    seen = observe(cast(Api, api), records, lineage, "x", "cluster")
    assert [one.run_id for one in seen] == [record.run_id for record in records]
    assert len(api.asked) == len(set(api.asked)) == 3  # Jobs, pods, and events for what waits without a reason
