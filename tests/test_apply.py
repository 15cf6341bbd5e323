"""The loop of an apply on the engine in memory: whole runs from their plan to their end, in a moment."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from in_memory import InMemory

from flowplan.providers.fake import FakeEngine, Line, Script
from flowplan.schemas.plans import Action
from flowplan.schemas.runs import Status

SCRIPTS = {
    "well": Script((Line("hello"),)),
    "badly": Script((Line("oh"),), exit_code=3),
    "endless": Script((Line("begun"),), math.inf),
    "stubborn": Script(seconds=math.inf, heeds_term=False),
    "missing": Script(cannot_start="missing: not found"),
}


def play(command: Sequence[str], env: Mapping[str, str]) -> Script:
    return SCRIPTS[command[0].partition("[")[0]]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[InMemory]:
    made = InMemory(tmp_path, FakeEngine(play))
    yield made
    made.store.close()


class Meanwhile:
    """Steps of a test while an apply goes on: each is taken once its condition holds."""

    def __init__(self, *steps: tuple[Callable[[], bool], Callable[[], object]]) -> None:
        self._steps = steps
        self._thread = threading.Thread(target=self._go, daemon=True)
        self.missed: list[int] = []

    def _go(self) -> None:
        for number, (condition, step) in enumerate(self._steps):
            until = time.monotonic() + 20
            while not condition() and time.monotonic() < until:
                time.sleep(0.01)
            if not condition():
                self.missed.append(number)
            step()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join(30)
        assert not self.missed


def runs(project: InMemory) -> Callable[[], bool]:
    return lambda: ("endless", "running") in project.told.statuses


def test_runs_are_followed_to_their_ends(project: InMemory) -> None:
    outcome = project.apply([project.change("well"), project.change("badly")], stream=True)
    assert outcome.exit_code == 3 and list(outcome.failed) == ["badly"]
    assert sorted(project.told.lines) == ["badly: oh", "well: hello"]
    records = project.store.records()
    assert {a: (r.status, r.exit_code) for a, r in records.items()} == {
        "well": (Status.SUCCEEDED, 0),
        "badly": (Status.FAILED, 3),
    }
    assert project.store.tails([r.run_id for r in records.values()])[records["badly"].run_id] == "oh"


def test_what_cannot_be_started_is_told_and_what_needs_it_is_skipped(project: InMemory) -> None:
    outcome = project.apply([project.change("missing"), project.change("well", needs=("missing",))])
    assert list(outcome.failed) + list(outcome.errors) == ["missing"]
    assert list(outcome.skipped) == ["well"]
    assert project.did("create") == []


def test_a_time_limit_is_kept_by_the_clock_of_the_engine(project: InMemory) -> None:
    project.apply([project.change("endless", timeout=3600.0)], detach=True)
    project.engine.clock.sleep(3601)
    project.apply([], follow=["endless"])
    assert project.store.records()["endless"].status is Status.TIMED_OUT
    assert project.did("delete") == ["endless"]


@pytest.mark.parametrize("hours", [1, -1])
def test_an_engine_whose_clock_is_set_ends_no_run_early_or_late(project: InMemory, hours: int) -> None:
    started = time.monotonic()
    seen, jump = (runs(project), lambda: time.sleep(1.0)), lambda: project.engine.clock.sleep(3600.0 * hours)
    with Meanwhile(seen, (lambda: True, jump)):
        project.apply([project.change("endless", timeout=3.0)])
    assert project.store.records()["endless"].status is Status.TIMED_OUT
    assert time.monotonic() - started >= 3.0


def test_a_grace_period_passes_before_a_run_is_killed(project: InMemory) -> None:
    project.apply([project.change("stubborn")], detach=True)
    before = project.engine.clock.now()
    project.apply([project.change("stubborn", Action.DESTROY, grace_period=30.0)])
    assert (project.engine.clock.now() - before).total_seconds() >= 30
    assert not project.engine.runs


def test_an_engine_that_falls_silent_is_told_once_and_followed_again(project: InMemory) -> None:
    engine = project.engine

    def silent() -> None:
        engine.silent = "fake does not answer"

    def well() -> None:
        engine.silent = ""

    def end() -> None:
        run = next(iter(engine.runs.values()))
        run.script = SCRIPTS["well"]

    told = project.told.notes
    with Meanwhile(
        (runs(project), silent),
        (lambda: any("does not answer" in note for note in told), well),
        (lambda: len(told) > 1, end),
    ):
        project.apply([project.change("endless")])
    assert sum("fake does not answer" in note for note in told) == 1
    assert project.store.records()["endless"].status is Status.SUCCEEDED


def test_an_interruption_leaves_runs_alone(project: InMemory) -> None:
    with Meanwhile((runs(project), project.interrupted.set)):
        outcome = project.apply([project.change("endless"), project.change("well", needs=("endless",))])
    assert outcome.interrupted and outcome.live == ["endless"] and outcome.waiting == ["well"]
    assert project.did("create") == ["endless"] and project.did("delete") == []


def test_a_run_that_vanishes_is_lost(project: InMemory) -> None:
    with Meanwhile((runs(project), project.engine.runs.clear)):
        outcome = project.apply([project.change("endless")])
    assert outcome.exit_code == 3
    assert project.store.records()["endless"].status is Status.LOST
