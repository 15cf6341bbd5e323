"""What every kind of state does, in a file and in a database: records, what engines say, dumps, pruning."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from stores import KINDS, dumped, fresh, full, record, shown, started, told

from flowplan.schemas import lifecycle
from flowplan.schemas.accepted import Accepted
from flowplan.schemas.errors import InvalidInput, Refused, StateError
from flowplan.schemas.lifecycle import End
from flowplan.schemas.runs import Observed, Settings, Status, Try
from flowplan.state import acceptance, pruning, rows, transfer
from flowplan.state.journal import PLANS_KEPT
from flowplan.state.sqlite.store import SqliteStore
from flowplan.state.store import FORGOTTEN, Store


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with fresh(request.param, tmp_path) as opened:
        yield opened


# --- records ------------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_went_in(store: Store) -> None:
    item = record(
        store, "a", handle={"pid": 3}, infrastructure_id="h:3", exit_code=None, created_at="2026-01-01T00:00:00Z"
    )
    store.intend([item])
    assert store.records() == {"a": item}
    assert store.record("a") == item
    assert store.record("b") is None


def test_an_intent_is_an_event_with_our_time(store: Store) -> None:
    [event] = store.intend([record(store, "a")], plan_digest="sha256:x")
    assert (event.seq, event.address, event.attempt, event.status, event.engine_at) == (1, "a", 1, "creating", None)
    assert event.at.endswith("Z")
    assert list(store.events()) == [event]
    kept = store.records()["a"]
    assert (kept.plan_digest, kept.created_at is not None, kept.present) == ("sha256:x", True, True)
    assert acceptance.begun(store, "sha256:x") == {"a"}


def test_intending_again_replaces_the_objects_silently(store: Store) -> None:
    store.intend([record(store, "a")])
    created_at = store.records()["a"].created_at
    assert store.intend([record(store, "a", objects={"Process": {"argv": ["false"]}})]) == []
    assert store.records()["a"].objects == {"Process": {"argv": ["false"]}}
    assert store.records()["a"].created_at == created_at
    assert len(store.attempts()) == 1


def test_a_started_attempt_is_not_intended_again(store: Store) -> None:
    item = started(store, "a")
    serial = store.serial
    with pytest.raises(Refused, match="running already"):
        store.intend([record(store, "b"), item])
    assert (list(store.records()), store.serial) == (["a"], serial)


def test_records_are_the_newest_attempts_in_the_order_of_their_addresses(store: Store) -> None:
    store.intend([record(store, a) for a in ("b", "a", "c")])
    store.intend([record(store, "b", 2)])
    assert [(a, r.attempt) for a, r in store.records().items()] == [("b", 2), ("a", 1), ("c", 1)]
    assert [r.attempt for r in store.attempts("b")] == [1, 2]
    assert store.last_attempts() == {"a": 1, "b": 2, "c": 1}


def test_some_records_are_those_of_the_addresses_that_are_recorded(store: Store) -> None:
    store.intend([record(store, address) for address in ("b", "a", "c")])
    assert list(store.records(["c", "unknown", "b"])) == ["b", "c"]
    assert store.records([]) == {}


def test_leftovers_are_older_attempts_that_may_still_be_there(store: Store) -> None:
    first = started(store, "a")
    gone = started(store, "b")
    store.intend([record(store, "a", 2), record(store, "b", 2)])
    store.absent([gone.run_id])
    assert [r.run_id for r in store.leftovers()] == [first.run_id]
    store.destroyed([first.run_id])
    assert store.leftovers() == []
    assert store.records()["a"].attempt == 2


def test_destroyed_keeps_the_history(store: Store) -> None:
    item = started(store, "a", status=Status.FAILED, exit_code=3, reason="Error", message="exit code 3")
    [event] = store.destroyed([item.run_id], reason="Replaced", plan_digest="d")
    assert (event.status, event.reason) == ("destroyed", "Replaced")
    assert store.records() == {}
    [kept] = store.attempts("a")
    assert (kept.status, kept.exit_code, kept.present) == (Status.DESTROYED, 3, False)
    assert told(store, "a") == [("creating", ""), ("failed", "Error"), ("destroyed", "Replaced")]
    assert store.history() == {"a": [("failed", None)]}
    assert acceptance.begun(store, "d") == {"a"}
    assert store.destroyed([item.run_id, "unknown"]) == []


def test_a_forgotten_object_is_left_alone_and_known(store: Store) -> None:
    item = started(store, "a")
    [event] = store.forget(["a", "unknown"])
    assert (event.status, event.reason) == ("destroyed", FORGOTTEN)
    assert store.records() == {}
    assert store.leftovers() == []
    [left] = store.attempts()
    assert (left.run_id, left.status, left.reason, left.present) == (item.run_id, Status.DESTROYED, FORGOTTEN, True)
    store.observe([Observed(item.run_id, exists=False)])
    assert not store.attempts()[0].present


def test_a_forgotten_object_can_be_added_again(store: Store) -> None:
    item = started(store, "a")
    store.forget(["a"])
    store.add([replace(item, status=Status.RUNNING, output_tail="x")])
    assert store.record("a") == replace(item, status=Status.RUNNING, output_tail="x", created_at=None)
    assert told(store)[-1] == ("running", "")


def test_a_number_is_never_used_twice(store: Store) -> None:
    store.destroyed([started(store, "a", 1).run_id])
    started(store, "a", 2)
    store.move({"a": "b"})
    assert store.last_attempts() == {"a": 2, "b": 2}


def test_move_renames_record_and_history(store: Store) -> None:
    item = started(store, "a")
    store.intend([record(store, "c")])
    store.move({"a": "b[x=1]"})
    assert {a: r.run_id for a, r in store.records().items()}["b[x=1]"] == item.run_id
    assert list(store.records()) == ["b[x=1]", "c"]
    assert [e.status for e in store.events("b")] == ["creating", "running"]
    assert (list(store.events("a")), store.attempts("a")) == ([], [])


@pytest.mark.parametrize(("old", "new"), [("x", "y"), ("a", "c"), ("a", "a")])
def test_a_move_that_makes_no_sense_is_refused(store: Store, old: str, new: str) -> None:
    store.intend([record(store, "a"), record(store, "c")])
    with pytest.raises(InvalidInput):
        store.move({old: new})
    assert list(store.records()) == ["a", "c"]


def test_applied_changes_what_is_in_force(store: Store) -> None:
    item = started(store, "a")
    store.applied({item.run_id: ({"Job": {}}, Settings(rerun="always"))}, plan_digest="d")
    kept = store.records()["a"]
    assert (kept.objects, kept.settings.rerun, kept.plan_digest) == ({"Job": {}}, "always", "d")
    assert (kept.status, kept.target) == (Status.RUNNING, item.target)
    serial = store.serial
    store.applied({item.run_id: ({"Job": {}}, Settings(rerun="always"))}, plan_digest="d")
    assert store.serial == serial


def test_the_tail_is_bounded_and_only_where_it_is_asked_for(store: Store) -> None:
    item = started(store, "a")
    store.set_tails({item.run_id: "ä" * rows.TAIL_BYTES + "\ud800end"})
    text = store.record("a").output_tail  # type: ignore[union-attr]
    assert text.endswith("?end")
    assert rows.TAIL_BYTES - 4 < len(text.encode()) <= rows.TAIL_BYTES
    assert store.records()["a"].output_tail == ""
    assert store.tails([item.run_id, "x"]) == {item.run_id: text}
    assert store.with_tails([item.run_id, "x"]) == {item.run_id}
    store.set_tails({"unknown": "x"})
    assert store.tails(["unknown"]) == {}


def test_the_serial_grows_with_every_change_and_only_then(store: Store) -> None:
    item = record(store, "a")
    store.intend([item])
    store.observe([Observed(item.run_id, status=Status.RUNNING)])
    store.set_tails({item.run_id: "x"})
    assert store.serial == 3
    store.observe([Observed(item.run_id, status=Status.RUNNING), Observed("unknown", status=Status.FAILED)])
    store.absent([])
    store.forget([], plan_digest="d")
    assert store.finish([End(item.run_id, Status.CANCELLED)]) != []
    assert store.finish([End(item.run_id, Status.FAILED)]) == []
    store.forget(["b"])
    assert store.serial == 4


def test_what_has_begun_of_old_plans_is_forgotten(store: Store) -> None:
    for number in range(PLANS_KEPT + 3):
        store.forget(["a", "b"], plan_digest=f"d{number}")
    store.forget(["c"], plan_digest="d50")
    acceptance.accept(store, Accepted("new"), whole=True)  # which forgets what is too old
    assert acceptance.begun(store, "d0") == set()
    assert acceptance.begun(store, "d50") == {"a", "b", "c"}
    assert acceptance.begun(store, f"d{PLANS_KEPT + 2}") == {"a", "b"}


def test_events_are_found_by_cell_by_run_and_after_a_number(store: Store) -> None:
    store.intend([record(store, a) for a in ("a[i=1]", "a[i=2]", "ab", "a2[i=1]")])
    assert [e.address for e in store.events("a")] == ["a[i=1]", "a[i=2]"]
    assert [e.address for e in store.events("a[i=2]")] == ["a[i=2]"]
    assert [e.seq for e in store.events(after=2)] == [3, 4]
    assert [e.seq for e in store.events(limit=2)] == [1, 2]
    assert list(store.events(limit=0)) == []


def test_all_events_come_through_pages(store: Store) -> None:
    store.intend([record(store, f"a[i={i}]") for i in range(2500)])
    assert [e.seq for e in store.events("a")] == list(range(1, 2501))
    assert len(list(store.events("a", limit=1500))) == 1500


def test_history_gives_the_last_outcomes_and_durations(store: Store) -> None:
    for attempt in range(1, 5):
        started(
            store,
            "a",
            attempt,
            status=Status.SUCCEEDED if attempt % 2 else Status.FAILED,
            started_at="2026-11-01T00:00:00.123456789Z",
            finished_at=f"2026-11-01T00:0{attempt}:00Z",
        )
    started(store, "a", 5)
    started(store, "b", status=Status.TIMED_OUT)
    shown = store.history(last=2)
    assert [(s, round(d or 0)) for s, d in shown["a"]] == [("succeeded", 180), ("failed", 240)]
    assert shown["b"] == [("timed_out", None)]
    assert list(store.history(["b", "c"])) == ["b"]
    assert store.history([]) == {}


def test_clock_jumps_make_no_negative_durations(store: Store) -> None:
    started(store, "a", status=Status.FAILED, started_at="2026-11-01T00:00:10Z", finished_at="2026-11-01T00:00:00Z")
    assert store.history(["a"]) == {"a": [("failed", 0.0)]}


# --- what engines say ----------------------------------------------------------------------------------------------


def test_a_run_is_followed_to_its_end(store: Store) -> None:
    item = record(store, "a")
    store.intend([item])
    steps = [
        Observed(item.run_id, status=Status.PENDING, reason="ImagePullBackOff", message="back-off 1"),
        Observed(item.run_id, status=Status.PENDING, reason="ImagePullBackOff", message="back-off 2"),
        Observed(item.run_id, status=Status.RUNNING, handle={"uid": "u"}, started_at="2026-11-01T00:00:00Z"),
        Observed(item.run_id, status=Status.PENDING),
        Observed(
            item.run_id,
            status=Status.FAILED,
            reason="OOMKilled",
            exit_code=137,
            attempts=2,
            finished_at="2026-11-01T00:00:09Z",
        ),
        Observed(item.run_id, status=Status.RUNNING),
        Observed(item.run_id, exists=False),
    ]
    for step in steps:
        store.observe([step])
    assert told(store) == [
        ("creating", ""),
        ("pending", "ImagePullBackOff"),
        ("running", ""),
        ("failed", "OOMKilled"),
    ]
    kept = store.records()["a"]
    assert (kept.status, kept.exit_code, kept.attempts, kept.present) == (Status.FAILED, 137, 2, False)
    assert (kept.started_at, kept.finished_at) == ("2026-11-01T00:00:00Z", "2026-11-01T00:00:09Z")
    assert kept.handle == {"uid": "u"}
    assert [e.engine_at for e in store.events()][-2:] == ["2026-11-01T00:00:00Z", "2026-11-01T00:00:09Z"]


def test_each_retry_is_an_event_once(store: Store) -> None:
    item = started(store, "a", attempts=1)
    again, last = Try(2, 3, "2026-11-01T00:00:05Z", "exit code 1"), Try(3, 3)
    twice = Observed(item.run_id, status=Status.RUNNING, attempts=2, tries=(again,))
    [event] = [*store.observe([twice]), *store.observe([twice])]
    assert (event.status, event.reason, event.engine_at) == ("running", "Retried", again.began_at)
    assert event.message == "try 2 of 3; the one before ended with exit code 1"
    [waits] = store.observe([replace(twice, reason="RetryDelay", started_at="2026-11-01T00:00:00Z")])
    assert (waits.reason, waits.engine_at) == ("RetryDelay", None), "it began long ago, and waits since now"
    ended = Observed(item.run_id, status=Status.FAILED, attempts=3, exit_code=1, tries=(again, last))
    assert [(e.status, e.message) for e in store.observe([ended])] == [("running", "try 3 of 3"), ("failed", "")]


def test_a_batch_may_tell_a_run_several_times(store: Store) -> None:
    item = record(store, "a")
    store.intend([item])
    seen = [Observed(item.run_id, status=s) for s in (Status.PENDING, Status.RUNNING, Status.SUCCEEDED)]
    assert [e.status for e in store.observe(seen)] == ["pending", "running", "succeeded"]
    assert store.serial == 2


def test_a_created_object_that_is_gone_is_lost_until_it_is_there_again(store: Store) -> None:
    item = started(store, "a")
    store.observe([Observed(item.run_id, exists=False)])
    lost = store.records()["a"]
    assert (lost.status, lost.reason, lost.message) == (Status.LOST, lifecycle.REMOVED, lifecycle.GONE)
    assert (lost.present, lost.exit_code) == (False, None)
    assert store.history() == {"a": [("lost", None)]}
    [event] = store.observe([Observed(item.run_id, status=Status.RUNNING)])
    assert (event.status, store.records()["a"].present, store.history()) == ("running", True, {})
    store.observe([Observed(item.run_id, status=Status.SUCCEEDED, exit_code=0)])
    assert (store.records()["a"].status, store.records()["a"].exit_code) == (Status.SUCCEEDED, 0)
    assert store.history() == {"a": [("succeeded", None)]}


def test_an_intent_without_an_object_stays_an_intent(store: Store) -> None:
    item = record(store, "a")
    store.intend([item])
    assert store.observe([Observed(item.run_id, exists=False)]) == []
    assert (store.records()["a"].status, store.records()["a"].present) == (Status.CREATING, False)
    store.intend([item])
    assert store.records()["a"].present


def test_flowplans_verdict_stays_and_takes_the_exit_code_later(store: Store) -> None:
    item = started(store, "a")
    [event] = store.finish([End(item.run_id, Status.TIMED_OUT, "DeadlineExceeded", "ran 6 s")])
    assert (event.status, event.reason) == ("timed_out", "DeadlineExceeded")
    assert store.observe([Observed(item.run_id, status=Status.FAILED, exit_code=143)]) == []
    kept = store.records()["a"]
    assert (kept.status, kept.exit_code, kept.message) == (Status.TIMED_OUT, 143, "ran 6 s")
    assert kept.finished_at is not None


def test_a_start_that_failed_is_an_end_with_nothing_left(store: Store) -> None:
    item = record(store, "a")
    store.intend([item])
    store.finish([End(item.run_id, Status.FAILED, "StartFailed", exit_code=127)])
    kept = store.records()["a"]
    assert (kept.status, kept.exit_code, kept.present) == (Status.FAILED, 127, False)


@pytest.mark.parametrize("call", ["finish", "applied"])
def test_an_unknown_run_is_told(store: Store, call: str) -> None:
    with pytest.raises(StateError, match="knows no run x"):
        if call == "finish":
            store.finish([End("x", Status.FAILED)])
        else:
            store.applied({"x": ({}, Settings())})


# --- moving a state -----------------------------------------------------------------------------------------------


def test_a_dump_is_plain_json_and_comes_back_whole(store: Store, tmp_path: Path) -> None:
    full(store)
    document = dumped(store, with_key=True)
    with contextlib.closing(SqliteStore.open(tmp_path / "other.db", create=True)) as other:
        transfer.load(other, transfer.checked(document))
        assert shown(other) == shown(store)
        assert dumped(other, with_key=True) == document
    transfer.load(store, transfer.checked(document))
    assert store.records()["a[i=1]"].attempt == 2


def test_a_dump_takes_no_more_memory_for_more_attempts(store: Store) -> None:
    def peak(number: int) -> int:
        items = [record(store, f"a[i={number + i}]") for i in range(number)]
        store.intend(items)
        store.set_tails({item.run_id: "x" * 10_000 for item in items})
        tracemalloc.start()
        for _ in transfer.dump(store):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(1000) < 2 * peak(500) < 1000 * 10_000


# -- pruning ---------------------------------------------------------------------------------------------------------


NEVER = "9999-01-01T00:00:00.000Z"


def test_pruning_keeps_what_lives_is_the_newest_or_may_be_on_an_engine(store: Store) -> None:
    replaced = started(store, "a", 1, Status.SUCCEEDED)
    still_there = started(store, "a", 2, Status.FAILED)
    started(store, "a", 3, Status.SUCCEEDED)
    started(store, "b", 1, Status.RUNNING)
    store.destroyed([replaced.run_id])
    forgotten = started(store, "c", 1, Status.SUCCEEDED)
    store.forget(["c"])
    assert pruning.prune(store, NEVER).attempts == {"a": [1]}
    assert {(r.address, r.attempt) for r in store.attempts()} == {("a", 2), ("a", 3), ("b", 1), ("c", 1)}
    store.absent([still_there.run_id, forgotten.run_id])
    assert pruning.prune(store, NEVER).attempts == {"a": [2], "c": [1]}
    assert store.missing_attempts("a") == [1, 2]
    assert store.last_attempts() == {"a": 3, "b": 1, "c": 1}


def test_pruning_looks_at_the_last_event_and_numbers_go_on(store: Store) -> None:
    item = started(store, "a", 1, Status.SUCCEEDED)
    store.destroyed([item.run_id])
    before, last = store.serial, store.last_seq()
    assert pruning.prune(store, "2000-01-01T00:00:00.000Z").attempts == {}
    assert pruning.prune(store, NEVER, dry_run=True).attempts == {"a": [1]}
    assert store.serial == before
    pruning.prune(store, NEVER)
    assert store.attempts() == [] and store.last_seq() == last
    started(store, "a", 2)
    assert [event.seq for event in store.events()][-1] == last + 2


def test_the_key_is_only_in_a_dump_that_asks_for_it(store: Store) -> None:
    assert store.key.hex() not in json.dumps(dumped(store))
    assert dumped(store, with_key=True)["key"] == store.key.hex()


def test_another_lineage_or_an_older_serial_is_refused(store: Store, tmp_path: Path) -> None:
    full(store)
    old = dumped(store)
    started(store, "new")
    with pytest.raises(Refused, match="newer"):
        transfer.load(store, transfer.checked(old))
    with contextlib.closing(SqliteStore.open(tmp_path / "other.db", create=True)) as other:
        started(other, "x")
        with pytest.raises(Refused, match="lineage"):
            transfer.load(other, transfer.checked(old))
        assert list(other.records()) == ["x"]
