"""The writer's lock: one writer, named when it is busy, and never in the way once its holder is dead."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowplan.schemas.errors import Refused, StateError, StateLocked
from flowplan.state.sqlite import lock
from flowplan.state.sqlite.lock import WriterLock, break_lock, holder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".flowplan" / "state.db"


def note_file(path: Path) -> Path:
    return path.with_name("state.db.lock")


HOLDER = """
import sys, time
from pathlib import Path
from flowplan.state.sqlite.lock import WriterLock
lock = WriterLock(Path(sys.argv[1]), "apply")
lock.acquire()
print("locked", flush=True)
sys.stdin.readline()
lock.release()
"""


@contextlib.contextmanager
def held(lock: WriterLock) -> Iterator[None]:
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def other(path: Path, code: str = HOLDER, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start another process that holds the lock until it reads a line."""
    argv = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options) as process:
        assert process.stdout
        assert process.stdout.readline() == "locked\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_free_lock_is_taken_and_given_back(path: Path) -> None:
    mine = WriterLock(path, "apply")
    assert holder(path) is None
    for _ in range(2):
        mine.acquire()
        assert mine.held
        mine.release()
        assert not mine.held
    mine.release()
    with held(mine):
        assert mine.held
    assert not mine.held
    assert holder(path) is None


def test_files_are_private(path: Path) -> None:
    before = os.umask(0)
    try:
        with held(WriterLock(path)):
            assert stat.S_IMODE(note_file(path).stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)


def test_a_busy_lock_names_its_holder(path: Path) -> None:
    with other(path) as process:
        with pytest.raises(StateLocked) as caught:
            WriterLock(path, "destroy").acquire()
        found = holder(path)
        assert found is not None
        assert (found["command"], found["pid"]) == ("apply", process.pid)
        shown = f"is locked by apply of {found['user']} on {found['host']} (pid {process.pid}) since {found['since']}"
        assert str(path) in caught.value.message
        assert shown in caught.value.message
        assert "--lock-timeout" in caught.value.hint
        assert caught.value.exit_code == 5


def test_the_note_tells_no_arguments(path: Path) -> None:
    with held(WriterLock(path, "apply")):
        note = json.loads(note_file(path).read_text())
    assert set(note) == {"command", "user", "host", "pid", "start", "boot", "namespace", "since"}


def test_the_lock_dies_with_its_holder(path: Path) -> None:
    with other(path) as process:
        process.kill()
        process.wait()
        assert holder(path) is None
        with held(WriterLock(path, "apply")):
            found = holder(path)
            assert found is not None
            assert found["pid"] == os.getpid()


def test_who_waits_gets_it(path: Path) -> None:
    with other(path) as process:
        assert process.stdin
        timer = threading.Timer(0.2, lambda: process.communicate("\n"))
        timer.start()
        mine = WriterLock(path)
        mine.acquire(timeout=30)
        assert mine.held
        mine.release()
        timer.join()


def test_waiting_ends(path: Path) -> None:
    with other(path):
        begun = time.monotonic()
        with pytest.raises(StateLocked):
            WriterLock(path).acquire(timeout=0.5)
        assert 0.4 < time.monotonic() - begun < 10


def test_one_process_has_it_once(path: Path) -> None:
    with held(WriterLock(path, "apply")), pytest.raises(StateLocked, match=rf"apply .*pid {os.getpid()}"):
        WriterLock(path, "apply").acquire()


def test_a_lock_taken_in_one_thread_is_given_back_in_another(path: Path) -> None:
    mine = WriterLock(path)
    thread = threading.Thread(target=mine.acquire)
    thread.start()
    thread.join()
    mine.release()
    with held(WriterLock(path)):
        pass


def test_only_one_of_many_writers_is_in(path: Path) -> None:
    code = """
import sys, os
from pathlib import Path
from flowplan.state.sqlite.lock import WriterLock
inside = Path(sys.argv[1]).with_name("inside")
for _ in range(20):
    lock = WriterLock(Path(sys.argv[1]))
    lock.acquire(timeout=60)
    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
    inside.unlink()
    lock.release()
"""
    argv = [sys.executable, "-c", code, str(path)]
    processes = [subprocess.Popen(argv) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pid": "x"}', '{"command": "apply"}', "\x00" * 5000])
def test_a_holder_without_a_sensible_note_is_still_a_holder(path: Path, text: str) -> None:
    with other(path):
        note_file(path).write_text(text)
        assert holder(path) == {}
        with pytest.raises(StateLocked, match="locked by another process"):
            WriterLock(path).acquire()
        with pytest.raises(Refused):
            break_lock(path)


def test_a_symbolic_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    target = tmp_path / "target"
    target.write_text("precious")
    note_file(path).symlink_to(target)
    with pytest.raises(StateError, match=r"state\.db\.lock cannot be used"):
        WriterLock(path).acquire()
    assert target.read_text() == "precious"


def test_a_place_where_no_lock_can_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError):
        WriterLock(tmp_path / "file" / "state.db").acquire()


# --- unlock -------------------------------------------------------------------------------------------------------


def test_unlocking_a_free_lock_changes_nothing(path: Path) -> None:
    assert break_lock(path) is None
    assert not path.parent.exists()
    with held(WriterLock(path)):
        pass
    assert break_lock(path) is None


def test_a_living_holder_is_not_robbed(path: Path) -> None:
    with other(path) as process:
        with pytest.raises(Refused, match=rf"pid {process.pid}.*not known to be dead"):
            break_lock(path)
        found = holder(path)
        assert found is not None


INHERITED = """
import os, subprocess, sys
from pathlib import Path
from flowplan.state.sqlite.lock import WriterLock
lock = WriterLock(Path(sys.argv[1]), "apply")
lock.acquire()
kept = [int(p.name) for p in Path("/proc/self/fd").iterdir() if str(os.path.realpath(p)).endswith(".lock")]
subprocess.Popen(["cat"], pass_fds=kept, stdout=subprocess.DEVNULL)
print("locked", flush=True)
os._exit(0)
"""


def test_a_lock_that_outlives_its_holder_can_be_broken(path: Path) -> None:
    with other(path, INHERITED) as process:
        process.wait()
        found = holder(path)
        assert found is not None
        assert found["pid"] == process.pid
        with pytest.raises(StateLocked):
            WriterLock(path).acquire()
        assert break_lock(path) == found
        with held(WriterLock(path, "apply")):
            pass


@pytest.mark.parametrize("key", ["host", "boot", "namespace"])
def test_nobody_is_called_dead_from_afar(path: Path, key: str) -> None:
    with other(path, INHERITED) as process:
        process.wait()
        note = json.loads(note_file(path).read_text()) | {key: "elsewhere"}
        note_file(path).write_text(json.dumps(note))
        with pytest.raises(Refused):
            break_lock(path)


def test_a_pid_used_again_is_not_the_holder(path: Path) -> None:
    with held(WriterLock(path)):
        note = json.loads(note_file(path).read_text())
    assert lock.alive(note) is not False
    assert lock.alive(note | {"start": note["start"] + 1}) is False
