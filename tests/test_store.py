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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import dumped, full, record, shown, started

from flowplan.schemas.errors import FlowplanError, Refused, StateError
from flowplan.schemas.runs import Observed, Settings, Status, run_id
from flowplan.state import acceptance, ownership, rows, transfer
from flowplan.state.sqlite import migrations
from flowplan.state.sqlite.store import SqliteStore
from flowplan.state.store import Store

STATES = Path(__file__).parent / "fixtures" / "states"
ROOT = os.geteuid() == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".flowplan" / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = SqliteStore.open(path, create=True)
    yield opened
    opened.close()


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
        store = SqliteStore.open(path, create=True)
        ownership.claim_project(store, "p")
        assert {mode(p) for p in path.parent.iterdir()} == {0o600}
        assert mode(path.parent) == 0o700
        store.close()
    finally:
        os.umask(before)


def test_a_new_state_is_empty_and_has_an_identity(store: Store, path: Path, tmp_path: Path) -> None:
    with contextlib.closing(SqliteStore.open(tmp_path / "other.db", create=True)) as other:
        assert len(store.key) == 32
        assert (store.lineage, store.key) != (other.lineage, other.key)
    assert (store.serial, store.project, store.records(), store.last_seq()) == (0, None, {}, 0)
    assert (list(store.events()), store.leftovers(), store.attempts(), store.history()) == ([], [], [], {})
    with contextlib.closing(SqliteStore.open(path, create=True)) as again:
        assert (again.lineage, again.key) == (store.lineage, store.key)


def test_exists_says_whether_something_is_there(path: Path) -> None:
    assert not SqliteStore.exists(path)
    SqliteStore.open(path, create=True).close()
    assert SqliteStore.exists(path)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_missing_state_is_told_with_the_way_to_make_one(path: Path, read_only: bool) -> None:
    with pytest.raises(StateError, match=r"there is no state .*state\.db .*flowplan plan"):
        SqliteStore.open(path, read_only=read_only)
    assert not path.parent.exists()


def test_a_symbolic_link_is_not_followed_when_creating_or_writing(tmp_path: Path) -> None:
    target, link = tmp_path / "target.db", tmp_path / "link.db"
    link.symlink_to(target)
    with pytest.raises(StateError, match="symbolic link"):
        SqliteStore.open(link, create=True)
    assert not target.exists()
    SqliteStore.open(target, create=True).close()
    with pytest.raises(StateError, match="symbolic link"):
        SqliteStore.open(link)
    SqliteStore.open(link, read_only=True).close()


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
            SqliteStore.open(path, **options)
    assert not path.is_file() or path.read_bytes() == before


def test_a_damaged_file_is_told_with_the_way_back(store: Store, path: Path) -> None:
    store.intend([record(store, f"a[i={i}]") for i in range(300)])
    store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 8192))
    with pytest.raises(StateError, match=r"damaged.*rebuild"):
        SqliteStore.open(path).records()


def test_a_truncated_file_is_told(store: Store, path: Path) -> None:
    store.intend([record(store, f"a[i={i}]") for i in range(300)])
    store.close()
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StateError, match=r"damaged|not a database"):
        SqliteStore.open(path).records()


def test_a_vanished_directory_loses_nothing_silently(store: Store, path: Path) -> None:
    shutil.rmtree(path.parent)
    with pytest.raises(StateError, match="vanished"):
        store.intend([record(store, "a")])


def test_a_replaced_file_is_noticed(store: Store, path: Path) -> None:
    path.rename(path.with_name("old.db"))
    SqliteStore.open(path, create=True).close()
    with pytest.raises(StateError, match=r"vanished or was replaced|damaged|cannot"):
        ownership.claim_project(store, "p")


@pytest.mark.parametrize("create", [False, True])
def test_a_parent_that_is_a_file_is_told(tmp_path: Path, create: bool) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError):
        SqliteStore.open(tmp_path / "file" / "state.db", create=create)


def test_read_only_refuses_to_write(path: Path) -> None:
    SqliteStore.open(path, create=True).close()
    with contextlib.closing(SqliteStore.open(path, read_only=True)) as reader:
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
        store = SqliteStore.open(disk / "state.db", create=True)
        written = 0
        with pytest.raises(StateError, match=r"full|disk"):
            for written in range(2000):
                store.intend([record(store, f"a[i={written}]", objects={"Process": {"argv": ["x" * 2000]}})])
        assert written > 3
        assert len(store.records()) == written
        store.close()
        with contextlib.closing(SqliteStore.open(disk / "state.db", read_only=True)) as reader:
            assert len(reader.records()) == written


def test_creating_on_a_full_disk_leaves_nothing() -> None:
    with mounted("size=64k") as disk:
        with contextlib.suppress(OSError):
            (disk / "filler").write_bytes(b"x" * 60_000)
        with pytest.raises(StateError):
            SqliteStore.open(disk / "state.db", create=True)
        assert [p.name for p in disk.iterdir()] == ["filler"]


@pytest.mark.parametrize("crashed", [False, True])
def test_a_state_on_a_read_only_disk_can_be_read(crashed: bool) -> None:
    with mounted("size=4m") as disk:
        path = disk / "state.db"
        if crashed:
            kill_writer(path, after=2)
            assert path.with_name("state.db-wal").stat().st_size
        else:
            with contextlib.closing(SqliteStore.open(path, create=True)) as store:
                store.intend([record(store, f"w[i={i}]") for i in range(30)])
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with contextlib.closing(SqliteStore.open(path, read_only=True)) as reader:
            assert len(reader.records()) >= 30
        with pytest.raises(StateError, match="read-only"):
            SqliteStore.open(path)


def test_one_project_owns_the_records(store: Store) -> None:
    ownership.claim_project(store, "one")
    ownership.claim_project(store, "two")
    item = started(store, "a")
    ownership.claim_project(store, "two")
    with pytest.raises(Refused, match="belongs to project two, not to project three"):
        ownership.claim_project(store, "three")
    store.destroyed([item.run_id])
    ownership.claim_project(store, "three")
    assert store.project == "three"


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
    with contextlib.closing(SqliteStore.open(format_one(tmp_path / "state.db"))) as store:
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
        assert acceptance.begun(store, "sha256:d") == {"extract[day=1]", "load", "old"}
        assert store.last_attempts() == {"extract[day=1]": 1, "load": 2, "old": 1}


def test_an_older_format_is_upgraded_behind_a_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = format_one(tmp_path / "state.db")
    with_steps(monkeypatch, one_more)
    with pytest.raises(StateError, match="older format 1"):
        SqliteStore.open(path, read_only=True)
    with contextlib.closing(SqliteStore.open(path)) as store:
        assert list(store.records()) == ["extract[day=1]", "load"]
        assert migrations.format_of(store._connection, path) == 5
    monkeypatch.undo()
    backup = path.with_name("state.db.backup-1")
    assert mode(backup) == 0o600
    with contextlib.closing(SqliteStore.open(backup)) as old:
        assert list(old.records()) == ["extract[day=1]", "load"]
    with pytest.raises(StateError, match=r"newer flowplan \(format 5, this one knows 4\).*upgrade"):
        SqliteStore.open(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state.db", "state.db.backup-1", "state.db.backup-1.backup-1"]


def test_directories_of_processes_become_relative_to_the_spec(tmp_path: Path) -> None:
    path = format_one(tmp_path / "state.db")
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("INSERT INTO notes VALUES ('spec', ?)", (json.dumps({"directory": "/srv"}),))
        db.execute("UPDATE attempts SET applied = replace(applied, '/srv', '/srv/data') WHERE address = 'load'")
        db.execute("UPDATE attempts SET applied = replace(applied, '/srv', '/elsewhere') WHERE address = 'old'")
        db.commit()
    with contextlib.closing(SqliteStore.open(path)) as store:
        found = {one.address: one.objects["Process"]["cwd"] for one in store.attempts()}
    assert found == {"extract[day=1]": ".", "old": "/elsewhere", "load": "data"}


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = format_one(tmp_path / "state.db")
    with_steps(monkeypatch, one_more, broken)
    with pytest.raises(StateError):
        SqliteStore.open(path)
    monkeypatch.undo()
    with contextlib.closing(SqliteStore.open(path)) as store:
        assert store.serial == 7


def test_each_step_is_recorded(store: Store) -> None:
    found = store._connection.execute("SELECT migration_set, name FROM _sqlite_migrations").fetchall()
    assert found == [("flowplan", "001"), ("flowplan", "002"), ("flowplan", "003"), ("flowplan", "004")]


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = SqliteStore.open(tmp_path_factory.mktemp("filled") / "state.db", create=True)
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
from flowplan.state.sqlite.store import SqliteStore
store, name = SqliteStore.open(Path(sys.argv[1]), create=True), sys.argv[2]
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
    with contextlib.closing(SqliteStore.open(path)) as store:
        records = store.records()
        assert len(records) % 10 == 0
        assert len(records) >= (done + 1) * 10, "what was said to be committed is there"
        assert acceptance.begun(store, "d") == set(records)
        assert [e.seq for e in store.events()] == list(range(1, store.last_seq() + 1))
        last: dict[str, str] = {e.address: e.status for e in store.events()}
        assert last == {a: str(r.status) for a, r in records.items()}
        assert store._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_two_writers_and_a_reader_at_once(path: Path) -> None:
    store = SqliteStore.open(path, create=True)
    writers = [writer(path, name, 20) for name in ("a", "b")]
    reader = SqliteStore.open(path, read_only=True)
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
    with contextlib.closing(SqliteStore.open(path)) as store:
        assert len(store.records()) == 40
    assert [p.name for p in path.parent.iterdir()] == ["state.db"]


def test_a_reader_does_not_wait_for_a_writer(store: Store, path: Path) -> None:
    store.intend([record(store, "a")])
    store._connection.execute("BEGIN IMMEDIATE")
    store._connection.execute("DELETE FROM records")
    begun = time.monotonic()
    with contextlib.closing(SqliteStore.open(path, read_only=True)) as reader:
        assert list(reader.records()) == ["a"]
    assert time.monotonic() - begun < 5
    with contextlib.closing(SqliteStore.open(path)) as idle:
        assert idle.observe([Observed("unknown", status=Status.FAILED)]) == []
    store._connection.execute("ROLLBACK")


def test_a_writer_waits_for_another_instead_of_failing(store: Store, path: Path) -> None:
    done: list[int] = []

    def other() -> None:
        with contextlib.closing(SqliteStore.open(path)) as mine:
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
    "begun": lambda s, n: acceptance.begun(s, "d"),
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
    store.records(), store.leftovers(), store.history(), acceptance.begun(store, "d"), store.last_attempts()
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
    SqliteStore.open(path, create=True).close()
    code = (
        "import sys; from pathlib import Path; from flowplan.state.sqlite.store import SqliteStore\n"
        f"s = SqliteStore.open(Path({str(path)!r}), read_only=True); s.records(); s.history(); list(s.events())\n"
        "assert 'sqlite_utils' not in sys.modules and 'filelock' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
