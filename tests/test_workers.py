"""What orchestrates an apply: how much work is handed out ahead, and when the end of an output is read."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flowplan import tails, workers
from flowplan.following import LogStreams
from flowplan.schemas.secrets import Redactor
from flowplan.tails import Tails
from flowplan.workers import Workers


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time, in seconds."""
    now = SimpleNamespace(seconds=100.0)
    for module in (workers, tails):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.seconds, sleep=lambda _: None))
    return now


def test_each_worker_has_one_job_more_than_it_does(clock: SimpleNamespace) -> None:
    clock.seconds += 1
    pool = Workers(10)
    clock.seconds += 1
    assert pool.room() == 20
    pool.busy = 15
    assert pool.room() == 5


def test_quick_jobs_are_handed_out_for_a_tenth_of_a_second(clock: SimpleNamespace) -> None:
    pool = Workers(10)
    pool.busy = 1000
    clock.seconds += 2
    pool.answered(1000)
    assert pool.busy == 0
    assert pool.room() == 10 + 50


def test_slow_jobs_are_not_piled_up(clock: SimpleNamespace) -> None:
    pool = Workers(2)
    pool.busy = 4
    clock.seconds += 60
    pool.answered(4)
    assert pool.room() == 4


def test_results_and_defects_come_back_as_messages() -> None:
    pool = Workers(2)
    with pool.working():
        pool.submit("done", lambda: 7)
        pool.submit("done", lambda: 1 // 0)
    said = pool.messages(5)
    [defect] = [what for kind, what in said if kind == "defect"]
    assert isinstance(defect, ZeroDivisionError)
    assert ("done", 7) in said
    assert pool.busy == 2
    pool.answered(2)
    assert pool.busy == 0


def test_jobs_run_at_once_up_to_the_number_of_workers() -> None:
    pool, met = Workers(3), threading.Barrier(3)
    with pool.working():
        for _ in range(3):
            pool.submit("done", met.wait, 10)
    assert sorted(what for _, what in pool.messages(1)) == [0, 1, 2]


class Asked:
    """Workers that only note what they are asked for."""

    def __init__(self) -> None:
        self.kinds: list[tuple[str, str]] = []

    def submit(self, kind: str, work: object, record: Any) -> None:
        self.kinds.append((kind, record.run_id))


def tails_of(showing: set[str]) -> tuple[Tails, Asked]:
    asked = Asked()
    logs = SimpleNamespace(showing=lambda run_id: run_id in showing)
    made = Tails(cast(Any, None), cast(LogStreams, logs), cast(Workers, asked), Redactor(()))
    return made, asked


def record(run_id: str) -> Any:
    return SimpleNamespace(run_id=run_id)


def test_the_end_of_an_output_is_read_once_all_of_it_has_been_shown(clock: SimpleNamespace) -> None:
    ends, asked = tails_of({"a"})
    ends.ended(record("a"))
    assert ends
    assert asked.kinds == []
    ends.shown("a")
    ends.shown("a")
    assert not ends
    assert asked.kinds == [("tail", "a")]


def test_an_output_that_nobody_shows_is_read_at_once(clock: SimpleNamespace) -> None:
    ends, asked = tails_of(set())
    ends.ended(record("a"))
    ends.shown("b")  # of a run that goes on: its stream broke
    assert not ends
    assert asked.kinds == [("tail", "a")]


def test_an_output_that_takes_its_time_is_not_waited_for_any_longer(clock: SimpleNamespace) -> None:
    ends, asked = tails_of({"a", "b"})
    ends.ended(record("a"))
    clock.seconds += tails.SHOWN_WITHIN - 1
    ends.ended(record("b"))
    ends.hurry()
    assert asked.kinds == []
    clock.seconds += 2
    ends.hurry()
    assert asked.kinds == [("tail", "a")]
    assert ends
