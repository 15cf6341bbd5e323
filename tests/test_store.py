"""The state: what it remembers, what it refuses, and that no crash, disk or reader harms it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowplan.schemas import lifecycle
from flowplan.schemas.errors import FlowplanError, InvalidInput, Refused, StateError
from flowplan.schemas.runs import Observed, Recorded, Settings, Status, Try, run_id
from flowplan.state import migrations, ownership, pruning, rows, transfer
from flowplan.state.journal import PLANS_KEPT
from flowplan.state.store import FORGOTTEN, Store


def dumped(store: Store, *, with_key: bool = False) -> Any:
    """Parse what `flowplan state pull` prints."""
    return json.loads("".join(transfer.dump(store, with_key=with_key)))


STATES = Path(__file__).parent / "fixtures" / "states"
ROOT = os.geteuid() == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".flowplan" / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store.open(path, create=True)
    yield opened
    opened.close()


def record(store: Store, address: str, attempt: int = 1, **changes: Any) -> Recorded:
    known: dict[str, Any] = {
        "address": address,
        "provider": "process",
        "type": "process",
        "target": {"type": "process", "id": "host/boot", "label": "host"},
        "attempt": attempt,
        "run_id": run_id(store.lineage, address, attempt),
        "name": f"p-{address}-{attempt}",
        "objects": {"Process": {"argv": ["true"], "env": {"Ä": "ö\ud800"}}},
        "settings": Settings(group=rows.run_of(address), needs=("a",), timeout=6.5, triggers={"k": "v"}),
        "status": Status.CREATING,
    }
    return Recorded(**known | changes)


def started(store: Store, address: str, attempt: int = 1, status: Status = Status.RUNNING, **facts: Any) -> Recorded:
    item = record(store, address, attempt)
    store.intend([item])
    store.observe([Observed(item.run_id, status=status, **facts)])
    return item


def now(store: Store, run: str) -> Recorded:
    [found] = store.attempts(run_id=run)
    return found


def told(store: Store, address: str | None = None) -> list[tuple[str, str]]:
    return [(event.status, event.reason) for event in store.events(address)]


# --- the file -----------------------------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_creating_makes_private_files(store: Store, path: Path) -> None:
    store.intend([record(store, "a")])
    assert mode(path.parent) == 0o700
    assert {p.name for p in path.parent.iterdir()} == {"state.db", "state.db-wal", "state.db-shm"}
    assert {mode(p) for p in path.parent.iterdir()} == {0o600}


def test_modes_do_not_depend_on_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        store = Store.open(path, create=True)
        ownership.claim_project(store, "p")
        assert {mode(p) for p in path.parent.iterdir()} == {0o600}
        assert mode(path.parent) == 0o700
        store.close()
    finally:
        os.umask(before)


def test_a_new_state_is_empty_and_has_an_identity(store: Store, path: Path, tmp_path: Path) -> None:
    with contextlib.closing(Store.open(tmp_path / "other.db", create=True)) as other:
        assert len(store.key) == 32
        assert (store.lineage, store.key) != (other.lineage, other.key)
    assert (store.serial, store.project, store.records(), store.last_seq()) == (0, None, {}, 0)
    assert (list(store.events()), store.leftovers(), store.attempts(), store.history()) == ([], [], [], {})
    with contextlib.closing(Store.open(path, create=True)) as again:
        assert (again.lineage, again.key) == (store.lineage, store.key)


def test_exists_says_whether_something_is_there(path: Path) -> None:
    assert not Store.exists(path)
    Store.open(path, create=True).close()
    assert Store.exists(path)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_missing_state_is_told_with_the_way_to_make_one(path: Path, read_only: bool) -> None:
    with pytest.raises(StateError, match=r"there is no state .*state\.db .*flowplan plan"):
        Store.open(path, read_only=read_only)
    assert not path.parent.exists()


def test_a_symbolic_link_is_not_followed_when_creating_or_writing(tmp_path: Path) -> None:
    target, link = tmp_path / "target.db", tmp_path / "link.db"
    link.symlink_to(target)
    with pytest.raises(StateError, match="symbolic link"):
        Store.open(link, create=True)
    assert not target.exists()
    Store.open(target, create=True).close()
    with pytest.raises(StateError, match="symbolic link"):
        Store.open(link)
    Store.open(link, read_only=True).close()


@pytest.mark.parametrize("kind", ["text", "empty", "directory", "fifo", "foreign"])
def test_a_file_that_is_no_state_is_refused_and_left_as_it_is(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "state.db"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "foreign":
        with contextlib.closing(sqlite3.connect(path)) as foreign:
            foreign.execute("CREATE TABLE t (x)")
    else:
        path.write_bytes(b"" if kind == "empty" else b"flowplan: 1\n" * 100)
    before = path.read_bytes() if path.is_file() else b""
    for options in ({}, {"create": True}, {"read_only": True}):
        with pytest.raises(StateError, match=r"state\.db"):
            Store.open(path, **options)
    assert not path.is_file() or path.read_bytes() == before


def test_a_damaged_file_is_told_with_the_way_back(store: Store, path: Path) -> None:
    store.intend([record(store, f"a[i={i}]") for i in range(300)])
    store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 8192))
    with pytest.raises(StateError, match=r"damaged.*rebuild"):
        Store.open(path).records()


def test_a_truncated_file_is_told(store: Store, path: Path) -> None:
    store.intend([record(store, f"a[i={i}]") for i in range(300)])
    store.close()
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StateError, match=r"damaged|not a database"):
        Store.open(path).records()


def test_a_vanished_directory_loses_nothing_silently(store: Store, path: Path) -> None:
    shutil.rmtree(path.parent)
    with pytest.raises(StateError, match="vanished"):
        store.intend([record(store, "a")])


def test_a_replaced_file_is_noticed(store: Store, path: Path) -> None:
    path.rename(path.with_name("old.db"))
    Store.open(path, create=True).close()
    with pytest.raises(StateError, match=r"vanished or was replaced|damaged|cannot"):
        ownership.claim_project(store, "p")


@pytest.mark.parametrize("create", [False, True])
def test_a_parent_that_is_a_file_is_told(tmp_path: Path, create: bool) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError):
        Store.open(tmp_path / "file" / "state.db", create=create)


def test_read_only_refuses_to_write(path: Path) -> None:
    Store.open(path, create=True).close()
    with contextlib.closing(Store.open(path, read_only=True)) as reader:
        with pytest.raises(StateError, match="reading only"):
            ownership.claim_project(reader, "p")
        assert reader.project is None


@contextlib.contextmanager
def mounted(options: str) -> Iterator[Path]:
    """Mount a small file system of our own."""
    if not ROOT:
        pytest.skip("mounting a small tmpfs needs root")
    place = Path(tempfile.mkdtemp())
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "flowplan-test", place], capture_output=True, check=False
    )
    if made.returncode:
        place.rmdir()
        pytest.skip(f"a tmpfs cannot be mounted here: {made.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)
        place.rmdir()


def test_a_full_disk_is_told_and_what_was_committed_stays() -> None:
    with mounted("size=600k") as disk:
        store = Store.open(disk / "state.db", create=True)
        written = 0
        with pytest.raises(StateError, match=r"full|disk"):
            for written in range(2000):
                store.intend([record(store, f"a[i={written}]", objects={"Process": {"argv": ["x" * 2000]}})])
        assert written > 3
        assert len(store.records()) == written
        store.close()
        with contextlib.closing(Store.open(disk / "state.db", read_only=True)) as reader:
            assert len(reader.records()) == written


def test_creating_on_a_full_disk_leaves_nothing() -> None:
    with mounted("size=64k") as disk:
        with contextlib.suppress(OSError):
            (disk / "filler").write_bytes(b"x" * 60_000)
        with pytest.raises(StateError):
            Store.open(disk / "state.db", create=True)
        assert [p.name for p in disk.iterdir()] == ["filler"]


@pytest.mark.parametrize("crashed", [False, True])
def test_a_state_on_a_read_only_disk_can_be_read(crashed: bool) -> None:
    with mounted("size=4m") as disk:
        path = disk / "state.db"
        if crashed:
            kill_writer(path, after=2)
            assert path.with_name("state.db-wal").stat().st_size
        else:
            with contextlib.closing(Store.open(path, create=True)) as store:
                store.intend([record(store, f"w[i={i}]") for i in range(30)])
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with contextlib.closing(Store.open(path, read_only=True)) as reader:
            assert len(reader.records()) >= 30
        with pytest.raises(StateError, match="read-only"):
            Store.open(path)


# --- formats ------------------------------------------------------------------------------------------------------


def one_more(db: Any) -> None:
    db.execute("ALTER TABLE meta ADD COLUMN note TEXT")


def broken(db: Any) -> None:
    one_more(db)
    db.execute("INSERT INTO nowhere VALUES (1)")


def with_steps(monkeypatch: pytest.MonkeyPatch, *steps: migrations.Step) -> None:
    monkeypatch.setattr(migrations, "STEPS", (*migrations.STEPS, *steps))


def format_one(path: Path) -> Path:
    """Return the stored state of format 1."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript((STATES / "format-1.sql").read_text())
    return path


def test_the_stored_state_of_format_1_is_understood(tmp_path: Path) -> None:
    with contextlib.closing(Store.open(format_one(tmp_path / "state.db"))) as store:
        assert store.lineage == "6f1c2a34-5b6d-4e7f-8a9b-0c1d2e3f4a5b"
        assert (store.project, store.key, store.serial) == ("nightly", bytes(range(32)), 7)
        records = store.records()
        assert {a: r.status for a, r in records.items()} == {
            "extract[day=1]": Status.SUCCEEDED,
            "load": Status.RUNNING,
        }
        assert store.record("extract[day=1]").output_tail == "done\n"  # type: ignore[union-attr]
        assert records["load"].settings == Settings(group="load", needs=("extract[day=1]",), timeout=60.0)
        assert [e.status for e in store.events("extract")] == ["creating", "running", "succeeded"]
        assert store.history() == {"extract[day=1]": [("succeeded", 2.5)], "old": [("failed", 1.0)]}
        assert store.plan_progress("sha256:d") == {"extract[day=1]", "load", "old"}
        assert store.last_attempts() == {"extract[day=1]": 1, "load": 2, "old": 1}


def test_an_older_format_is_upgraded_behind_a_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = format_one(tmp_path / "state.db")
    with_steps(monkeypatch, one_more)
    with pytest.raises(StateError, match="older format 1"):
        Store.open(path, read_only=True)
    with contextlib.closing(Store.open(path)) as store:
        assert list(store.records()) == ["extract[day=1]", "load"]
        assert migrations.format_of(store._connection, path) == 5
    monkeypatch.undo()
    backup = path.with_name("state.db.backup-1")
    assert mode(backup) == 0o600
    with contextlib.closing(Store.open(backup)) as old:
        assert list(old.records()) == ["extract[day=1]", "load"]
    with pytest.raises(StateError, match=r"newer flowplan \(format 5, this one knows 4\).*upgrade"):
        Store.open(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state.db", "state.db.backup-1", "state.db.backup-1.backup-1"]


def test_directories_of_processes_become_relative_to_the_spec(tmp_path: Path) -> None:
    path = format_one(tmp_path / "state.db")
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("INSERT INTO notes VALUES ('spec', ?)", (json.dumps({"directory": "/srv"}),))
        db.execute("UPDATE attempts SET applied = replace(applied, '/srv', '/srv/data') WHERE address = 'load'")
        db.execute("UPDATE attempts SET applied = replace(applied, '/srv', '/elsewhere') WHERE address = 'old'")
        db.commit()
    with contextlib.closing(Store.open(path)) as store:
        found = {one.address: one.objects["Process"]["cwd"] for one in store.attempts()}
    assert found == {"extract[day=1]": ".", "old": "/elsewhere", "load": "data"}


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = format_one(tmp_path / "state.db")
    with_steps(monkeypatch, one_more, broken)
    with pytest.raises(StateError):
        Store.open(path)
    monkeypatch.undo()
    with contextlib.closing(Store.open(path)) as store:
        assert store.serial == 7


def test_each_step_is_recorded(store: Store) -> None:
    found = store._connection.execute("SELECT migration_set, name FROM _sqlite_migrations").fetchall()
    assert found == [("flowplan", "001"), ("flowplan", "002"), ("flowplan", "003"), ("flowplan", "004")]


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
    assert store.plan_progress("sha256:x") == {"a"}


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
    assert store.plan_progress("d") == {"a"}
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
    store.applied(item.run_id, objects={"Job": {}}, settings=Settings(rerun="always"), plan_digest="d", name="n")
    kept = store.records()["a"]
    assert (kept.objects, kept.settings.rerun, kept.plan_digest, kept.name) == ({"Job": {}}, "always", "d", "n")
    assert (kept.status, kept.target) == (Status.RUNNING, item.target)
    serial = store.serial
    store.applied(item.run_id, objects={"Job": {}}, settings=Settings(rerun="always"), plan_digest="d", name="n")
    assert store.serial == serial


def test_the_tail_is_bounded_and_only_where_it_is_asked_for(store: Store) -> None:
    item = started(store, "a")
    store.set_tails({item.run_id: "ä" * rows.TAIL_BYTES + "\ud800end"})
    text = store.record("a").output_tail  # type: ignore[union-attr]
    assert text.endswith("?end")
    assert rows.TAIL_BYTES - 4 < len(text.encode()) <= rows.TAIL_BYTES
    assert store.records()["a"].output_tail == ""
    assert store.tails([item.run_id, "x"]) == {item.run_id: text}
    store.set_tails({"unknown": "x"})
    assert store.tails(["unknown"]) == {}


def test_one_project_owns_the_records(store: Store) -> None:
    ownership.claim_project(store, "one")
    ownership.claim_project(store, "two")
    item = started(store, "a")
    ownership.claim_project(store, "two")
    with pytest.raises(Refused, match="belongs to project two, not three"):
        ownership.claim_project(store, "three")
    store.destroyed([item.run_id])
    ownership.claim_project(store, "three")
    assert store.project == "three"


def test_the_serial_grows_with_every_change_and_only_then(store: Store) -> None:
    item = record(store, "a")
    store.intend([item])
    store.observe([Observed(item.run_id, status=Status.RUNNING)])
    store.set_tails({item.run_id: "x"})
    assert store.serial == 3
    store.observe([Observed(item.run_id, status=Status.RUNNING), Observed("unknown", status=Status.FAILED)])
    store.absent([])
    store.forget([], plan_digest="d")
    assert store.finish(item.run_id, Status.CANCELLED) != []
    assert store.finish(item.run_id, Status.FAILED) == []
    store.forget(["b"])
    assert store.serial == 4


def test_plan_progress_forgets_old_plans(store: Store) -> None:
    for number in range(PLANS_KEPT + 3):
        store.forget(["a", "b"], plan_digest=f"d{number}")
    store.forget(["c"], plan_digest="d50")
    assert store.plan_progress("d0") == set()
    assert store.plan_progress("d50") == {"a", "b", "c"}
    assert store.plan_progress(f"d{PLANS_KEPT + 2}") == {"a", "b"}


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
    [event] = store.finish(item.run_id, Status.TIMED_OUT, reason="DeadlineExceeded", message="ran 6 s")
    assert (event.status, event.reason) == ("timed_out", "DeadlineExceeded")
    assert store.observe([Observed(item.run_id, status=Status.FAILED, exit_code=143)]) == []
    kept = store.records()["a"]
    assert (kept.status, kept.exit_code, kept.message) == (Status.TIMED_OUT, 143, "ran 6 s")
    assert kept.finished_at is not None


def test_a_start_that_failed_is_an_end_with_nothing_left(store: Store) -> None:
    item = record(store, "a")
    store.intend([item])
    store.finish(item.run_id, Status.FAILED, reason="StartFailed", exit_code=127, present=False)
    kept = store.records()["a"]
    assert (kept.status, kept.exit_code, kept.present) == (Status.FAILED, 127, False)


@pytest.mark.parametrize("call", ["finish", "applied"])
def test_an_unknown_run_is_told(store: Store, call: str) -> None:
    with pytest.raises(StateError, match="knows no run x"):
        if call == "finish":
            store.finish("x", Status.FAILED)
        else:
            store.applied("x", objects={}, settings=Settings())


# --- moving a state -----------------------------------------------------------------------------------------------


def full(store: Store) -> None:
    ownership.claim_project(store, "p")
    item = started(store, "a[i=1]", status=Status.FAILED, exit_code=3)
    store.set_tails({item.run_id: "tail"})
    store.destroyed([started(store, "b", status=Status.SUCCEEDED).run_id])
    started(store, "a[i=1]", 2)


def shown(store: Store) -> tuple[Any, ...]:
    identity = (store.lineage, store.key, store.project)
    return (*identity, store.records(), store.attempts(), list(store.events()), store.history(), store.last_attempts())


def test_a_dump_is_plain_json_and_comes_back_whole(store: Store, tmp_path: Path) -> None:
    full(store)
    document = dumped(store, with_key=True)
    with contextlib.closing(Store.open(tmp_path / "other.db", create=True)) as other:
        transfer.load(other, transfer.checked(document))
        assert shown(other) == shown(store)
        assert other.serial > store.serial
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
    with contextlib.closing(Store.open(tmp_path / "other.db", create=True)) as other:
        started(other, "x")
        with pytest.raises(Refused, match="lineage"):
            transfer.load(other, transfer.checked(old))
        assert list(other.records()) == ["x"]


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store.open(tmp_path_factory.mktemp("filled") / "state.db", create=True)
    full(store)
    yield store
    store.close()


@pytest.fixture(scope="module")
def whole(filled: Store) -> str:
    return json.dumps(dumped(filled, with_key=True))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_broken_dump_changes_nothing(filled: Store, whole: str, data: st.DataObject) -> None:
    document = json.loads(whole) | {"serial": filled.serial}
    place: Any = document
    keys = [data.draw(st.sampled_from(sorted(document)))]
    while isinstance(place[keys[-1]], dict | list) and place[keys[-1]] and data.draw(st.booleans()):
        place = place[keys[-1]]
        keys.append(data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place)))))
    place[keys[-1]] = data.draw(junk)
    before = shown(filled)
    try:
        transfer.load(filled, transfer.checked(document))
    except FlowplanError:
        assert shown(filled) == before
    else:
        transfer.load(filled, transfer.checked(json.loads(whole) | {"serial": filled.serial}))


@settings(max_examples=60, deadline=None)
@given(column=st.sampled_from(["progress", "applied", "status", "outcome"]), value=junk, raw=st.booleans())
def test_hostile_rows_are_damage_not_a_traceback(filled: Store, column: str, value: Any, raw: bool) -> None:
    db = filled._connection
    db.execute("BEGIN")
    try:
        text = rows.clean(value if raw and isinstance(value, str) else json.dumps(value))
        db.execute(f"UPDATE attempts SET {column} = ?", (text,))
        for read in (filled.records, filled.attempts, filled.leftovers, filled.history):
            with contextlib.suppress(StateError):
                read()
    finally:
        db.execute("ROLLBACK")


# --- crashes, other processes, size -------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from flowplan.schemas.runs import *
from flowplan.state.store import Store
store, name = Store.open(Path(sys.argv[1]), create=True), sys.argv[2]
def item(i):
    return Recorded(address=f"{name}[i={i}]", provider="process", type="process", target={}, attempt=1,
        run_id=run_id(store.lineage, f"{name}[i={i}]", 1), name="n", objects={"Process": {"argv": ["x" * 500]}},
        settings=Settings(), status=Status.CREATING)
for n in range(int(sys.argv[3])):
    items = [item(i) for i in range(n * 10, n * 10 + 10)]
    store.intend(items, plan_digest="d")
    print(n, flush=True)
    store.observe([Observed(i.run_id, status=Status.RUNNING) for i in items])
"""


def writer(path: Path, name: str, rounds: int) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", WRITER, str(path), name, str(rounds)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def kill_writer(path: Path, after: int) -> int:
    """Kill a writer once it has said that round ``after`` is committed; returns the last round that it said."""
    process = writer(path, "w", 100_000)
    assert process.stdout
    done = -1
    for line in process.stdout:
        done = int(line)
        if done == after:
            process.kill()
    process.wait()
    process.stdout.close()
    return done


@pytest.mark.parametrize("after", [0, 3, 9, 20])
def test_a_killed_writer_leaves_whole_transactions(path: Path, after: int) -> None:
    done = kill_writer(path, after)
    with contextlib.closing(Store.open(path)) as store:
        records = store.records()
        assert len(records) % 10 == 0
        assert len(records) >= (done + 1) * 10, "what was said to be committed is there"
        assert store.plan_progress("d") == set(records)
        assert [e.seq for e in store.events()] == list(range(1, store.last_seq() + 1))
        last: dict[str, str] = {e.address: e.status for e in store.events()}
        assert last == {a: str(r.status) for a, r in records.items()}
        assert store._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_two_writers_and_a_reader_at_once(path: Path) -> None:
    store = Store.open(path, create=True)
    writers = [writer(path, name, 20) for name in ("a", "b")]
    reader = Store.open(path, read_only=True)
    while any(w.poll() is None for w in writers):
        seen = len(reader.records())
        assert seen % 10 == 0
        numbers = [e.seq for e in reader.events()]
        assert numbers == list(range(1, len(numbers) + 1))
    assert [w.wait() for w in writers] == [0, 0]
    for process in writers:
        assert process.stdout
        process.stdout.close()
    assert len(reader.records()) == 400
    assert store.last_seq() == 800
    assert store.serial == 80
    reader.close()
    store.close()


def test_processes_that_create_at_once_agree(path: Path) -> None:
    writers = [writer(path, f"w{n}", 1) for n in range(4)]
    assert [w.wait() for w in writers] == [0] * 4
    for process in writers:
        assert process.stdout
        process.stdout.close()
    with contextlib.closing(Store.open(path)) as store:
        assert len(store.records()) == 40
    assert [p.name for p in path.parent.iterdir()] == ["state.db"]


def test_a_reader_does_not_wait_for_a_writer(store: Store, path: Path) -> None:
    store.intend([record(store, "a")])
    store._connection.execute("BEGIN IMMEDIATE")
    store._connection.execute("DELETE FROM records")
    begun = time.monotonic()
    with contextlib.closing(Store.open(path, read_only=True)) as reader:
        assert list(reader.records()) == ["a"]
    assert time.monotonic() - begun < 5
    with contextlib.closing(Store.open(path)) as idle:
        assert idle.observe([Observed("unknown", status=Status.FAILED)]) == []
    store._connection.execute("ROLLBACK")


def test_a_writer_waits_for_another_instead_of_failing(store: Store, path: Path) -> None:
    done: list[int] = []

    def other() -> None:
        with contextlib.closing(Store.open(path)) as mine:
            mine.intend([record(mine, "b")])
            done.append(mine.serial)

    store._connection.execute("BEGIN IMMEDIATE")
    thread = threading.Thread(target=other)
    thread.start()
    thread.join(0.2)
    assert not done
    store._connection.execute("ROLLBACK")
    thread.join(20)
    assert done == [1]


def queries(store: Store, call: Any) -> int:
    seen: list[str] = []
    store._connection.set_trace_callback(seen.append)
    try:
        call()
    finally:
        store._connection.set_trace_callback(None)
    return len([q for q in seen if not q.startswith("--")])


READS = {
    "records": lambda s, n: s.records(),
    "some records": lambda s, n: s.records([f"a[i={i}]" for i in range(n)]),
    "leftovers": lambda s, n: s.leftovers(),
    "history": lambda s, n: s.history([f"a[i={i}]" for i in range(n)]),
    "plan_progress": lambda s, n: s.plan_progress("d"),
    "observe nothing new": lambda s, n: s.observe(
        [Observed(run_id(s.lineage, f"a[i={i}]", 1), status=Status.RUNNING) for i in range(n)]
    ),
}


@pytest.mark.parametrize("read", READS)
def test_the_number_of_queries_does_not_grow(store: Store, read: str) -> None:
    counts = []
    for size in (10, 500):
        items = [record(store, f"a[i={i}]") for i in range(size)]
        store.intend([i for i in items if i.address not in store.records()], plan_digest="d")
        store.observe([Observed(i.run_id, status=Status.RUNNING) for i in items])
        counts.append(queries(store, lambda n=size: READS[read](store, n)))
    assert counts[0] == counts[1] <= 2


def test_a_long_history_costs_only_those_who_read_it(store: Store) -> None:
    """Expect plan and status to read no event, and reads of one address to go through an index."""
    db = store._connection
    seen: list[str] = []
    db.set_trace_callback(seen.append)
    store.records(), store.leftovers(), store.history(), store.plan_progress("d"), store.last_attempts()
    assert not [q for q in seen if "events" in q]
    seen.clear()
    store.last_seq(), list(store.events("a")), list(store.events("a[i=1]")), list(store.events(after=7))
    db.set_trace_callback(None)
    for query in seen:
        steps = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}")]
        assert all(step.startswith("SEARCH") for step in steps), (query, steps)


def test_leftovers_do_not_scan_what_is_gone(store: Store) -> None:
    seen: list[str] = []
    store._connection.set_trace_callback(seen.append)
    store.leftovers()
    store._connection.set_trace_callback(None)
    plan = " ".join(row[3] for row in store._connection.execute(f"EXPLAIN QUERY PLAN {seen[0]}"))
    assert "attempts_present" in plan


def test_reading_does_not_load_sqlite_utils(path: Path) -> None:
    Store.open(path, create=True).close()
    code = (
        "import sys; from pathlib import Path; from flowplan.state.store import Store\n"
        f"s = Store.open(Path({str(path)!r}), read_only=True); s.records(); s.history(); list(s.events())\n"
        "assert 'sqlite_utils' not in sys.modules and 'filelock' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
