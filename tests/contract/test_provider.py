"""The promises of providers/protocol.py, kept by every provider on its real engine."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from case import Case

from flowplan.planner.manifests import content_of
from flowplan.providers.protocol import LogLine, Order, Provider
from flowplan.schemas.errors import ProviderError, Refused, StartFailed
from flowplan.schemas.runs import Observed, Recorded, Status

WAIT = ["sleep", "300"]
STUBBORN = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"]


@contextmanager
def patience(seconds: float) -> Iterator[threading.Event]:
    """Return an event that is set when time is over."""
    stop = threading.Event()
    timer = threading.Timer(seconds, stop.set)
    timer.start()
    try:
        yield stop
    finally:
        timer.cancel()
        timer.join()


def create(case: Case, provider: Provider, address: str, command: Sequence[str], **fields: Any) -> Recorded:
    order = case.order(address, command, **fields)
    return case.record_of(provider, order, provider.create(order))


def history(case: Case, provider: Provider, records: Sequence[Recorded]) -> list[Observed]:
    """Everything that watching yields until all records have ended."""
    with patience(case.patience) as stop:
        seen = [one for one in provider.watch(records, stop) if one]
        assert not stop.is_set(), f"not all of the runs ended within {case.patience} s: {seen}"
    return seen


def end(case: Case, provider: Provider, record: Recorded) -> Observed:
    return history(case, provider, [record])[-1]


def until(case: Case, provider: Provider, record: Recorded, status: Status) -> Observed:
    """Follow the record until it has a status."""
    with patience(case.patience) as stop:
        for seen in provider.watch([record], stop):
            if seen and seen.status is status:
                return seen
    raise AssertionError(f"{record.address} was not {status} within {case.patience} s")


def now(case: Case, provider: Provider, record: Recorded) -> Observed:
    return next(one for one in provider.observe([record]) if one.run_id == record.run_id)


def first_line(case: Case, provider: Provider, record: Recorded) -> LogLine:
    """Wait for the run to say something."""
    with patience(case.patience) as stop:
        return next(iter(provider.logs(record, follow=True, tail=None, stop=stop)))


# -- identity


def test_the_target_is_the_same_over_every_connection(case: Case, provider: Provider) -> None:
    other = case.connect()
    try:
        assert provider.target() == other.target()
        assert provider.target().type == case.type
        assert provider.target().id
    finally:
        other.close()


def test_an_empty_engine_holds_nothing_of_ours(provider: Provider) -> None:
    assert provider.observe([]) == []


# -- create


def test_create_starts_exactly_one(case: Case, provider: Provider) -> None:
    record = create(case, provider, "one", WAIT)
    seen = provider.observe([record])
    assert [one.run_id for one in seen] == [record.run_id]
    assert seen[0].exists
    assert record.handle
    assert record.infrastructure_id
    assert seen[0].status and seen[0].status.live


def test_a_started_run_is_seen_running(case: Case, provider: Provider) -> None:
    record = create(case, provider, "one", WAIT)
    seen = until(case, provider, record, Status.RUNNING)
    assert seen.attempts == 1
    assert seen.started_at
    assert seen.finished_at is None
    assert seen.exit_code is None


def test_creating_again_adopts(case: Case, provider: Provider) -> None:
    order = case.order("one", WAIT)
    first = provider.create(order)
    again = provider.create(order)
    assert dict(again.handle) == dict(first.handle)
    assert len(provider.observe([case.record_of(provider, order, first)])) == 1


def test_another_flowplan_adopts_too(case: Case, provider: Provider) -> None:
    order = case.order("one", WAIT)
    first = provider.create(order)
    other = case.connect()
    try:
        assert dict(other.create(order).handle) == dict(first.handle)
    finally:
        other.close()


def test_the_same_attempt_of_other_content_is_not_adopted(case: Case, provider: Provider) -> None:
    """A state that is older than the engine, or a copy, counts to the same attempt again."""
    order = case.order("one", WAIT)
    first = provider.create(order)
    with pytest.raises(Refused, match="other content") as refusal:
        provider.create(case.order("one", ["echo", "never"]))
    assert refusal.value.address == "one" and "state rebuild" in refusal.value.hint
    [seen] = provider.observe([case.record_of(provider, order)])
    assert seen.status is not None and seen.status.live and dict(seen.handle) == dict(first.handle)
    assert seen.content == content_of(order.objects, case.manifests) != ""


def test_creating_again_after_the_end_does_not_run_it_again(case: Case, provider: Provider) -> None:
    order = case.order("one", ["echo", "once"])
    record = case.record_of(provider, order, provider.create(order))
    end(case, provider, record)
    assert provider.create(order).status is Status.SUCCEEDED
    assert [line.text for line in provider.logs(record, follow=False, tail=None)] == ["once"]


def test_a_missing_executable_is_told_and_nothing_is_left(case: Case, provider: Provider) -> None:
    order = case.order("nope", ["no-such-program-here"])
    if not case.start_fails_in_create:
        pytest.skip(f"{case.type} starts after create")
    with pytest.raises(StartFailed, match="no-such-program-here") as failure:
        provider.create(order)
    assert failure.value.exit_code_of_run == 127
    assert provider.observe([]) == []


def test_ten_creates_at_once(case: Case, provider: Provider) -> None:
    orders = [case.order(f"many[n={n}]", WAIT) for n in range(10)]
    with ThreadPoolExecutor(10) as pool:
        seen = list(pool.map(provider.create, orders))
    assert len({str(one.handle) for one in seen}) == 10
    records = [case.record_of(provider, order, one) for order, one in zip(orders, seen, strict=True)]
    assert len(provider.observe(records)) == 10


def test_preflight_finds_nothing_wrong_and_creates_nothing(case: Case, provider: Provider) -> None:
    orders = [case.order("one", WAIT), case.order("two", ["true"])]
    assert [found for found in provider.preflight(orders) if found.severity == "error"] == []
    assert provider.observe([]) == []


# -- how runs end


@pytest.mark.parametrize(
    ("command", "status", "exit_code", "reason"),
    [
        (["true"], Status.SUCCEEDED, 0, "Completed"),
        (["sh", "-c", "exit 3"], Status.FAILED, 3, None),
        (["sh", "-c", "exit 137"], Status.FAILED, 137, None),
    ],
    ids=["success", "code 3", "code 137"],
)
def test_status_exit_code_and_reason(
    case: Case, provider: Provider, command: list[str], status: Status, exit_code: int, reason: str | None
) -> None:
    seen = end(case, provider, create(case, provider, "one", command))
    assert (seen.status, seen.exit_code) == (status, exit_code)
    assert seen.reason == reason if reason else seen.reason
    assert status is Status.SUCCEEDED or str(exit_code) in seen.message


def test_a_killed_run_has_failed(case: Case, provider: Provider) -> None:
    if case.kill is None:
        pytest.skip(f"nobody can kill a run of {case.type} from outside")
    record = create(case, provider, "one", WAIT)
    until(case, provider, record, Status.RUNNING)
    case.kill(record)
    seen = end(case, provider, record)
    assert seen.status is Status.FAILED
    assert seen.exit_code in case.killed
    assert not case.killed_reasons or seen.reason in case.killed_reasons


def test_start_and_end_have_times(case: Case, provider: Provider) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    seen = end(case, provider, create(case, provider, "one", ["sleep", "1"]))
    assert seen.started_at and seen.finished_at
    started, finished = (datetime.fromisoformat(text) for text in (seen.started_at, seen.finished_at))
    assert started.utcoffset() == finished.utcoffset() == timedelta(0)
    assert before <= started < finished <= datetime.now(UTC) + timedelta(seconds=2)


def test_the_end_is_told_again_when_asked_later(case: Case, provider: Provider) -> None:
    record = create(case, provider, "one", ["sh", "-c", "exit 3"])
    seen = end(case, provider, record)
    later = now(case, provider, record)
    assert (later.status, later.exit_code, later.finished_at) == (seen.status, seen.exit_code, seen.finished_at)


# -- env


def test_variables_reach_the_run_as_they_are(case: Case, provider: Provider) -> None:
    strange = "a b'c\"$HOME ${x} ü \\n"
    command = ["sh", "-c", 'printf "%s\\n" "$STRANGE" "<$EMPTY>"']
    record = create(case, provider, "one", command, env={"STRANGE": strange, "EMPTY": ""})
    end(case, provider, record)
    assert [line.text for line in provider.logs(record, follow=False, tail=None)] == [strange, "<>"]


def test_secrets_reach_the_run_and_nothing_else(case: Case, provider: Provider) -> None:
    secret = "hunter2-hunter2"
    command = ["sh", "-c", f'test "${{#PASSWORD}}" = {len(secret)} && exec sleep 300']
    order = case.order("one", command, secrets={"PASSWORD": secret})
    assert secret not in f"{order.objects} {order!r}"
    seen = provider.create(order)
    record = case.record_of(provider, order, seen)
    running = until(case, provider, record, Status.RUNNING)
    assert secret not in f"{seen} {running}"
    assert secret in provider.secret_values(record)


# -- output


def test_the_output_is_whole_and_in_order(case: Case, provider: Provider) -> None:
    record = create(case, provider, "one", ["sh", "-c", "for i in 1 2 3 4 5; do echo line $i; done; printf end"])
    end(case, provider, record)
    lines = [line.text for line in provider.logs(record, follow=False, tail=None)]
    assert lines == [*(f"line {i}" for i in range(1, 6)), "end"]


def test_the_tail_of_the_output(case: Case, provider: Provider) -> None:
    record = create(case, provider, "one", ["sh", "-c", "for i in 1 2 3 4 5; do echo line $i; done"])
    end(case, provider, record)
    assert [line.text for line in provider.logs(record, follow=False, tail=2)] == ["line 4", "line 5"]
    assert len(list(provider.logs(record, follow=False, tail=100))) == 5


def test_both_streams_are_in_the_output(case: Case, provider: Provider) -> None:
    record = create(case, provider, "one", ["sh", "-c", "echo out; echo err >&2"])
    end(case, provider, record)
    lines = list(provider.logs(record, follow=False, tail=None))
    assert {line.text for line in lines} == {"out", "err"}
    if case.splits_streams:
        assert {(line.text, line.stream) for line in lines} == {("out", "stdout"), ("err", "stderr")}


def test_following_goes_on_to_the_end(case: Case, provider: Provider) -> None:
    record = create(case, provider, "one", ["sh", "-c", "echo first; sleep 1; echo last"])
    with patience(case.patience) as stop:
        lines = [line.text for line in provider.logs(record, follow=True, tail=None, stop=stop)]
        assert not stop.is_set()
    assert lines == ["first", "last"]


def test_following_can_be_stopped(case: Case, provider: Provider) -> None:
    record = create(case, provider, "one", ["sh", "-c", "echo first; exec sleep 300"])
    first_line(case, provider, record)
    stop = threading.Event()
    timer = threading.Timer(0.5, stop.set)
    timer.start()
    before = time.monotonic()
    list(provider.logs(record, follow=True, tail=None, stop=stop))
    timer.join()
    assert time.monotonic() - before < case.patience


# -- watch


def test_watching_tells_the_present_first_then_the_end_and_stops(case: Case, provider: Provider) -> None:
    record = create(case, provider, "one", ["sleep", "3"])
    seen = history(case, provider, [record])
    assert seen[0].status and seen[0].status.live
    assert seen[-1].status is Status.SUCCEEDED
    assert {one.run_id for one in seen} == {record.run_id}


def test_watching_what_has_ended_stops_at_once(case: Case, provider: Provider) -> None:
    record = create(case, provider, "one", ["true"])
    end(case, provider, record)
    assert [one.status for one in history(case, provider, [record])] == [Status.SUCCEEDED]


def test_watching_nothing_stops_at_once(case: Case, provider: Provider) -> None:
    assert history(case, provider, []) == []


def test_watching_is_never_silent_and_stops_when_told(case: Case, provider: Provider) -> None:
    record = create(case, provider, "one", WAIT)
    until(case, provider, record, Status.RUNNING)
    stop = threading.Event()
    heard = []
    for seen in provider.watch([record], stop):
        heard.append((time.monotonic(), seen))
        if len([one for _, one in heard if one is None]) == 3:
            stop.set()
    gaps = [late[0] - early[0] for early, late in pairwise(heard)]
    assert max(gaps) < 2.0  # promised is one second; the machine may be busy


def test_watching_twenty_runs_tells_every_end(case: Case, provider: Provider) -> None:
    orders = [case.order(f"many[n={n}]", ["sh", "-c", f"exit {n % 2}"]) for n in range(20)]
    with ThreadPoolExecutor(10) as pool:
        records = [
            case.record_of(provider, o, s) for o, s in zip(orders, pool.map(provider.create, orders), strict=True)
        ]
    ends = {one.run_id: one.status for one in history(case, provider, records) if one.status and one.status.final}
    assert [ends[record.run_id] for record in records] == [Status.SUCCEEDED, Status.FAILED] * 10


# -- delete


def test_deleting_a_live_run_ends_it(case: Case, provider: Provider) -> None:
    record = create(case, provider, "one", ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"])
    until(case, provider, record, Status.RUNNING)
    before = time.monotonic()
    provider.delete(record, grace=60)
    assert time.monotonic() - before < 30
    assert not now(case, provider, record).exists


def test_a_run_that_ignores_term_is_killed(case: Case, provider: Provider) -> None:
    record = create(case, provider, "one", STUBBORN)
    first_line(case, provider, record)
    provider.delete(record, grace=1)
    assert not now(case, provider, record).exists
    assert provider.observe([]) == []


def test_deleting_an_ended_run(case: Case, provider: Provider) -> None:
    record = create(case, provider, "one", ["true"])
    end(case, provider, record)
    provider.delete(record, grace=1)
    assert not now(case, provider, record).exists


def test_deleting_twice_is_fine(case: Case, provider: Provider) -> None:
    record = create(case, provider, "one", WAIT)
    provider.delete(record, grace=0.2)
    provider.delete(record, grace=0.2)
    assert provider.observe([]) == []


def test_deleting_what_never_was_is_fine(case: Case, provider: Provider) -> None:
    provider.delete(case.record_of(provider, case.order("ghost", WAIT)), grace=0.2)


def test_deleting_spares_other_attempts(case: Case, provider: Provider) -> None:
    first = create(case, provider, "one", WAIT)
    second = create(case, provider, "one", WAIT, attempt=2)
    provider.delete(first, grace=0.2)
    seen = now(case, provider, second)
    assert seen.exists and seen.status and seen.status.live


def test_a_record_without_handle_is_found_by_its_identity(case: Case, provider: Provider) -> None:
    order: Order = case.order("one", WAIT)
    provider.create(order)
    record = case.record_of(provider, order)  # as after a crash between the engine's answer and the state
    assert now(case, provider, record).exists
    provider.delete(record, grace=0.2)
    assert provider.observe([]) == []


# -- what is not as recorded


def test_what_was_never_created_does_not_exist(case: Case, provider: Provider) -> None:
    record = case.record_of(provider, case.order("ghost", WAIT))
    assert not now(case, provider, record).exists


def test_a_run_removed_behind_our_back_does_not_exist(case: Case, provider: Provider) -> None:
    record = create(case, provider, "one", WAIT)
    until(case, provider, record, Status.RUNNING)
    case.vanish(record)
    seen = history(case, provider, [record])
    assert not seen[-1].exists
    assert seen[-1].status in (None, Status.LOST)
    assert seen[-1].exit_code is None


def test_what_no_record_names_is_reported(case: Case, provider: Provider) -> None:
    known = create(case, provider, "known", WAIT)
    unknown = create(case, provider, "unknown[day=2026-11-01]", WAIT, attempt=2)
    seen = {one.run_id: one for one in provider.observe([known])}
    assert set(seen) == {known.run_id, unknown.run_id}
    assert (seen[unknown.run_id].address, seen[unknown.run_id].attempt) == ("unknown[day=2026-11-01]", 2)
    assert seen[unknown.run_id].handle


def test_other_lineages_are_not_ours(case: Case, provider: Provider) -> None:
    create(case, provider, "one", WAIT)
    mine, case.lineage = case.lineage, "00000000-0000-4000-8000-000000000000"
    try:
        other = case.connect()
    finally:
        case.lineage = mine
    try:
        assert other.observe([]) == []
    finally:
        other.close()


# -- finding again


def test_find_tells_every_attempt_of_the_project_whatever_the_lineage(case: Case, provider: Provider) -> None:
    records = [create(case, provider, address, WAIT) for address in ("one", "two")]
    mine, case.lineage = case.lineage, str(uuid.uuid4())
    try:
        other = case.connect()
    finally:
        case.lineage = mine
    try:
        found = {
            one.seen.run_id: one
            for one in other.find("contract", [records[0].objects])
            if one.lineage == case.lineage and one.project == "contract"
        }
    finally:
        other.close()
    assert set(found) == {record.run_id for record in records}
    for record in records:
        seen = found[record.run_id].seen
        assert (seen.address, seen.attempt) == (record.address, 1)
        assert seen.infrastructure_id == record.infrastructure_id
        assert seen.status and seen.status.live


def test_find_does_not_tell_what_was_deleted(case: Case, provider: Provider) -> None:
    record = create(case, provider, "one", WAIT)
    provider.delete(record, 0.1)
    assert [one for one in provider.find("contract") if one.lineage == case.lineage] == []


def test_what_find_says_without_secrets_holds_none(case: Case, provider: Provider) -> None:
    create(case, provider, "one", WAIT, secrets={"PW": "c4n4ry-value"})
    [found] = [one for one in provider.find("contract") if one.lineage == case.lineage]
    assert "c4n4ry-value" not in json.dumps([found.bare, found.project, found.seen.handle])


def test_describe_refuses_what_is_not_there(provider: Provider) -> None:
    with pytest.raises(ProviderError):
        provider.describe("999999999")
