"""What an attempt is after an observation, for every recorded status and everything that an engine can say."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowplan.schemas import lifecycle
from flowplan.schemas.lifecycle import (
    GONE,
    REMOVED,
    RETRY_DELAY,
    Progress,
    after,
    asked,
    finished,
    next_try_at,
    outcome,
    progress_of,
    progressed,
)
from flowplan.schemas.runs import Observed, Recorded, Retry, Settings, Status
from flowplan.schemas.times import timestamp

LIVE = (Status.CREATING, Status.PENDING, Status.RUNNING)
ENDS = (Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT, Status.CANCELLED)

SAID: dict[str, list[tuple[bool, Status | None]]] = {
    "no object": [(False, s) for s in (None, *LIVE, Status.DESTROYED)],
    "lost": [(False, Status.LOST)],
    "object": [(True, s) for s in (None, Status.CREATING, Status.DESTROYED)],
    "pending": [(True, Status.PENDING)],
    "running": [(True, Status.RUNNING)],
    "given up": [(True, Status.LOST)],
    "end": [(exists, end) for exists in (True, False) for end in ENDS],
}
"""What engines say, as (exists, status). ``object``: there is one, and it says nothing of a start or an end."""

TABLE = """
recorded   | no object | lost | object | pending | running | given up | end
creating   | -         | lost | -      | pending | running | lost     | end
pending    | lost      | lost | -      | -       | running | lost     | end
running    | lost      | lost | -      | -       | -       | lost     | end
lost       | -         | -    | -      | pending | running | -        | end
succeeded  | -         | -    | -      | -       | -       | -        | -
failed     | -         | -    | -      | -       | -       | -        | -
timed_out  | -         | -    | -      | -       | -       | -        | -
cancelled  | -         | -    | -      | -       | -       | -        | -
destroyed  | -         | -    | -      | -       | -       | -        | -
"""
"""The status after it; ``-``: as recorded, ``end``: the end that was told."""

HEAD, *ROWS = [[cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines()]
CELLS = [(row[0], said, cell) for row in ROWS for said, cell in zip(HEAD[1:], row[1:], strict=True)]


@pytest.mark.parametrize(("recorded", "said", "wanted"), CELLS)
def test_status(recorded: str, said: str, wanted: str) -> None:
    for (exists, told), present in product(SAID[said], (True, False)):
        now = Progress(Status(recorded), present, outcome(Status(recorded)), "Before", "as it was")
        then = after(now, Observed("r", exists, status=told, reason="Word", message="of the engine"))
        status = {"-": now.status, "end": told}.get(wanted) or Status(wanted)
        kept = present if recorded == "destroyed" and exists else exists
        assert (then.status, then.present) == (status, kept), (exists, told)
        assert then.outcome == (outcome(status)), (exists, told)


def test_the_table_is_complete() -> None:
    assert sorted(row[0] for row in ROWS) == sorted(Status)
    assert {one for some in SAID.values() for one in some} == set(product((True, False), (None, *Status)))


DONE = Progress(Status.FAILED, True, "failed", "OOMKilled", "exit code 137", 137, 2, {"id": "1"}, name="n")


def test_the_newest_word_counts_while_it_lives() -> None:
    pending = after(
        Progress(Status.PENDING, reason="Unschedulable"), Observed("r", status=Status.PENDING, reason="Pulling")
    )
    assert (pending.status, pending.reason) == (Status.PENDING, "Pulling")
    paused = after(Progress(Status.RUNNING), Observed("r", status=Status.PENDING, reason="Suspended", message="by us"))
    assert (paused.status, paused.reason, paused.message) == (Status.RUNNING, "Suspended", "by us")


def test_an_object_that_says_nothing_changes_no_word() -> None:
    now = Progress(Status.RUNNING, reason="Suspended", message="by us", attempts=1)
    assert after(now, Observed("r")) == now


def test_what_is_lost_says_why() -> None:
    now = Progress(Status.RUNNING, reason="Suspended", message="by us", started_at="2026-11-01T00:00:00Z")
    lost = after(now, Observed("r", exists=False))
    assert (lost.reason, lost.message, lost.started_at, lost.exit_code) == (REMOVED, GONE, now.started_at, None)
    told = after(now, Observed("r", exists=False, status=Status.LOST, message="the supervisor was killed"))
    assert (told.reason, told.message) == (REMOVED, "the supervisor was killed")


def test_what_is_back_is_as_the_engine_says_now() -> None:
    lost = Progress(
        Status.LOST,
        False,
        "lost",
        REMOVED,
        GONE,
        exit_code=9,
        handle={"id": "old"},
        started_at="2026-11-01T00:00:00Z",
        finished_at="2026-11-01T00:01:00Z",
        attempts=3,
    )
    back = after(lost, Observed("r", status=Status.RUNNING, handle={"id": "new"}, started_at="2026-11-02T00:00:00Z"))
    assert (back.reason, back.message, back.exit_code, back.finished_at, back.outcome) == ("", "", None, None, "")
    assert (back.handle, back.started_at, back.attempts) == ({"id": "new"}, "2026-11-02T00:00:00Z", 3)
    assert after(lost, Observed("r", status=Status.RUNNING)).started_at == lost.started_at
    ended = after(lost, Observed("r", status=Status.FAILED, exit_code=1, finished_at="2026-11-02T00:02:00Z"))
    assert (ended.exit_code, ended.finished_at, ended.outcome) == (1, "2026-11-02T00:02:00Z", "failed")
    assert after(back, Observed("r", exists=False)).status is Status.LOST


def test_an_end_is_only_completed() -> None:
    seen = Observed(
        "r",
        status=Status.RUNNING,
        reason="Word",
        message="of the engine",
        exit_code=1,
        attempts=3,
        handle={"id": "2"},
        infrastructure_id="new",
        name="m",
        started_at="2026-11-01T00:00:00Z",
        finished_at="2026-11-01T00:01:00Z",
    )
    completed = DONE._replace(
        attempts=3, infrastructure_id="new", started_at=seen.started_at, finished_at=seen.finished_at
    )
    assert after(DONE, seen) == completed
    assert (
        after(completed, replace(seen, started_at="2026-11-09T00:00:00Z", finished_at=None, exit_code=2)) == completed
    )


def test_what_runs_or_succeeded_has_been_executed() -> None:
    for status in (Status.RUNNING, Status.SUCCEEDED):
        assert after(Progress(Status.CREATING), Observed("r", status=status)).attempts == 1
    assert after(Progress(Status.CREATING), Observed("r", status=Status.FAILED)).attempts == 0


@pytest.mark.parametrize(("recorded", "verdict"), list(product(Status, (*ENDS, Status.LOST))))
def test_flowplans_own_verdict(recorded: Status, verdict: Status) -> None:
    now = DONE._replace(status=recorded, outcome=outcome(recorded))
    then = finished(now, verdict, reason="Stopped", exit_code=None, present=False)
    if recorded in LIVE or (recorded is Status.LOST and verdict is not Status.LOST):
        assert then == now._replace(status=verdict, outcome=str(verdict), reason="Stopped", present=False)
    else:
        assert then == now._replace(present=False)


def test_a_record_and_its_progress_are_the_same_facts() -> None:
    record = Recorded("a", "p", "docker", {}, 2, "r", "n", {}, Settings("a"), Status.FAILED, "Error", exit_code=3)
    assert progress_of(record).outcome == "failed"
    assert progressed(record, progress_of(record)) == record
    changed = progressed(record, progress_of(record)._replace(message="why", present=False))
    assert changed == replace(record, message="why", present=False)


observations = st.builds(
    Observed,
    run_id=st.just("r"),
    exists=st.booleans(),
    status=st.none() | st.sampled_from(Status),
    reason=st.sampled_from(["", "A", "B"]),
    exit_code=st.none() | st.integers(0, 255),
    attempts=st.integers(0, 4),
    started_at=st.none() | st.just("2026-11-01T00:00:00Z"),
    finished_at=st.none() | st.just("2026-11-01T00:01:00Z"),
    name=st.sampled_from(["", "n"]),
)


@given(st.lists(observations, max_size=12))
def test_no_stage_is_gone_back_to(seen: list[Observed]) -> None:
    now = Progress(Status.CREATING)
    for one in seen:
        then = after(now, one)
        if now.status.live and then.status.live:
            assert LIVE.index(then.status) >= LIVE.index(now.status)
        if now.status.settled:
            assert then.status is now.status
            assert now.exit_code is None or then.exit_code == now.exit_code
        if then.status is Status.SUCCEEDED and now.status is not Status.SUCCEEDED:
            assert one.status is Status.SUCCEEDED
        assert then.status.final or (then.outcome, then.exit_code, then.finished_at) == ("", None, None)
        assert then.attempts >= now.attempts
        assert then.outcome == outcome(then.status)
        assert then.status is not Status.DESTROYED
        assert after(then, one) == then, "the same fact twice is one fact"
        now = then


RETRY = Settings("a", retry_delay=Retry(2, 10.0, 2.0, 15.0))


def tried(**fields: Any) -> Recorded:
    return Recorded("a", "p", "docker", {}, 1, "r", "n", {}, RETRY, Status.RUNNING, **fields)


def failure(second: int) -> Observed:
    at = f"2026-11-07T08:00:{second:02}Z"
    return Observed("r", status=Status.FAILED, exit_code=3, attempts=1, finished_at=at, handle={"id": "c"})


def test_a_failed_run_that_flowplan_tries_again_waits() -> None:
    record = tried(attempts=1)
    for begins, number in (("08:00:15Z", 2), ("08:00:35Z", 3)):
        seen = lifecycle.told(record, failure(5 if number == 2 else 20))
        waiting = progressed(record, after(progress_of(record), seen))
        assert (waiting.status, waiting.reason, waiting.exit_code) == (Status.RUNNING, RETRY_DELAY, None)
        assert waiting.message == f"exit code 3; try {number} begins at 2026-11-07T{begins}"
        assert timestamp(next_try_at(waiting), "seconds").endswith(begins)
        assert lifecycle.told(waiting, failure(5 if number == 2 else 20)).reason == RETRY_DELAY, "the same end again"
        ask = asked(waiting, next_try_at(waiting))
        assert [(one.number, one.of, one.before) for one in ask.tries] == [(number, 3, "exit code 3")]
        record = progressed(waiting, after(progress_of(waiting), lifecycle.told(waiting, ask)))
        assert record.attempts == number and next_try_at(record), "it is counted before its engine is asked"
        assert lifecycle.told(record, failure(5 if number == 2 else 20)).status is Status.RUNNING
        goes = replace(failure(0), status=Status.RUNNING, exit_code=None, finished_at=None)
        record = progressed(record, after(progress_of(record), lifecycle.told(record, goes)))
        assert next_try_at(record) is None
        late = lifecycle.told(record, failure(5 if number == 2 else 20))
        assert (late.status, late.reason) == (Status.RUNNING, ""), "an end that is known is no news"
    assert lifecycle.told(record, failure(50)).status is Status.FAILED, "there is no further try"
    ended = replace(record, status=Status.FAILED)
    assert lifecycle.told(ended, failure(50)) == failure(50)
