"""How much work is handed out ahead, and how its results come back."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from flowplan import workers
from flowplan.planner.conduct.words import EndRead
from flowplan.workers import Workers


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the time in seconds."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: now.seconds, sleep=lambda _: None))
    return now


def test_each_worker_has_one_job_more_than_it_does(clock: SimpleNamespace) -> None:
    clock.seconds += 1
    pool = Workers(10)
    clock.seconds += 1
    assert pool.room() == 20
    pool.busy = 15
    assert pool.room() == 5


def end(number: int) -> EndRead:
    return EndRead(str(number), "")


def test_quick_jobs_are_handed_out_for_a_tenth_of_a_second(clock: SimpleNamespace) -> None:
    pool = Workers(10)
    pool.busy = 1000
    for number in range(1000):
        pool.inbox.put(end(number))
    clock.seconds += 2
    assert len(pool.facts(1)) == 1000
    assert pool.busy == 0
    assert pool.room() == 10 + 50


def test_slow_jobs_are_not_piled_up(clock: SimpleNamespace) -> None:
    pool = Workers(2)
    pool.busy = 4
    for number in range(4):
        pool.inbox.put(end(number))
    clock.seconds += 60
    pool.facts(1)
    assert pool.room() == 4


def test_what_workers_return_are_facts_and_defects_are_raised() -> None:
    pool = Workers(2)
    with pool.working():
        pool.submit(end, 7)
    assert pool.facts(5) == [end(7)]
    assert pool.busy == 0
    with pool.working():
        pool.submit(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    with pytest.raises(ZeroDivisionError):
        pool.facts(5)


def test_jobs_run_at_once_up_to_the_number_of_workers() -> None:
    pool, met = Workers(3), threading.Barrier(3)
    with pool.working():
        for _ in range(3):
            pool.submit(lambda: end(met.wait(10)))
    assert sorted(fact.run_id for fact in pool.facts(1) if isinstance(fact, EndRead)) == ["0", "1", "2"]
