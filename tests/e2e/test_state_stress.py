"""The state under stress: full disks, vanished and damaged files, crowds, sudden ends in the middle of writing."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from projects import FLOWPLAN, PATIENCE, Project, Result, until

COUNTED = """\
flowplan: 1
project: demo
runs:
  cell: {provider: process, command: [sh, -c, 'echo x >> "starts-$0"; echo hello', "${run.id}"], matrix: {n: {from: 1, to: 4}}}
  after: {provider: process, command: [sh, -c, 'echo x >> "starts-$0"', "${run.id}"], needs: [cell]}
"""
LONG = """\
flowplan: 1
project: demo
runs:
  long: {provider: process, command: [sh, -c, 'echo $$ >> pids; exec sleep 600']}
"""
ALL = ("apply", "flowplan.yaml", "--yes")


def state_of(project: Project) -> Path:
    return project.directory / ".flowplan/state.db"


def told(result: Result) -> Result:
    """Check that a failure is told in a sentence."""
    assert result.code == 1, f"exit {result.code}\n{result.out}\n{result.err}"
    assert result.err.splitlines()[-1].startswith("error: ") and "defect" not in result.err, result.err
    return result


def whole(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as db:
        return bool(db.execute("PRAGMA integrity_check").fetchone() == ("ok",))


# -- full disks ----------------------------------------------------------------------------------------------------


class Disk:
    """A small file system, on which as much is free as a test wants."""

    def __init__(self, place: Path) -> None:
        self._filler = place / "filler"

    def leave(self, free: int) -> None:
        fd = os.open(self._filler, os.O_WRONLY | os.O_CREAT)
        try:
            while os.write(fd, b"x" * 4096) == 4096:
                pass
        except OSError:
            os.ftruncate(fd, max(0, os.fstat(fd).st_size - free))
        finally:
            os.close(fd)

    def clear(self) -> None:
        self._filler.unlink(missing_ok=True)


@pytest.fixture
def disk(project: Project) -> Iterator[Disk]:
    """Mount a disk of its own as the directory of the state, of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    place = project.directory / ".flowplan"
    place.mkdir(mode=0o700)
    mounting = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "flowplan-test", str(place)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield Disk(place)
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("free", [0, 60, 116, 136, 176, 240, 272, 304, 360])
def test_a_disk_that_gets_full_in_the_middle_of_an_apply_loses_and_repeats_nothing(
    project: Project, disk: Disk, free: int
) -> None:
    project.write(COUNTED)
    disk.leave(free * 1024)
    failed = project.run(*ALL)
    if failed.code not in (0, 3) or free < 200:  # with more room it may be the output of a run that finds none
        assert "full" in told(failed).err or os.strerror(errno.ENOSPC) in failed.err
    disk.clear()
    for _ in range(2):  # what failed by itself, because its own output had no room, is run again
        again = project.run(*ALL)
        if again.code == 0:
            break
    assert again.code == 0, again.err
    assert set(project.statuses().values()) == {"succeeded"} and len(project.statuses()) == 5
    assert {p.read_text() for p in project.directory.glob("starts-*")} == {"x\n"}
    assert whole(state_of(project))


def test_a_destroy_on_a_full_disk_is_told_and_done_later(project: Project, disk: Disk) -> None:
    project.write(LONG)
    project.ok(*ALL, "--detach")
    disk.leave(0)
    assert "full" in told(project.run("destroy", "--yes")).err
    assert "long" in project.ok("status", "--no-refresh").out
    disk.clear()
    project.ok("destroy", "--yes")
    assert project.status() == {}


# -- sudden ends ---------------------------------------------------------------------------------------------------

WRITER = """
import sqlite3, sys, threading
from pathlib import Path
from flowplan.schemas.runs import *
from flowplan.state.sqlite.store import SqliteStore
path, name = Path(sys.argv[1]), sys.argv[2]
store = SqliteStore.open(path, create=True)
def checkpoints():
    db = sqlite3.connect(path, timeout=30)
    while True:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
threading.Thread(target=checkpoints, daemon=True).start()
for n in range(1000):
    items = [Recorded(address=f"{name}[i={n}{i}]", provider="process", type="process", target={}, attempt=1,
        run_id=run_id(store.lineage, f"{name}[i={n}{i}]", 1), name="n", objects={"Process": {"argv": ["x" * 40000]}},
        settings=Settings(), status=Status.CREATING) for i in range(10)]
    store.intend(items)
    print(n, flush=True)
"""


def test_kills_during_checkpoints_leave_whole_transactions(tmp_path: Path) -> None:
    path, chance, committed = tmp_path / "state.db", random.Random(7), 0
    for number in range(8):
        argv = [sys.executable, "-c", WRITER, str(path), f"w{number}"]
        writer = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert writer.stdout
        until(writer.stdout.readline)
        time.sleep(chance.uniform(0.0, 0.25))
        writer.kill()
        said = 1 + len(writer.communicate()[0].splitlines())
        with closing(sqlite3.connect(path)) as db:
            found = db.execute("SELECT count(*) FROM attempts").fetchone()[0]
            assert db.execute("SELECT count(*) FROM events").fetchone()[0] == found
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert found % 10 == 0 and found >= committed + 10 * said, "what was said to be committed is there"
        committed = found


def test_the_lock_of_a_killed_holder_holds_nobody(project: Project) -> None:
    project.write(COUNTED.replace("to: 4", "to: 60"))
    holding = project.start(*ALL, "--parallelism", "1")
    until(lambda: state_of(project).exists() and any(project.directory.glob("starts-*")))
    holding.send_signal(signal.SIGSTOP)
    refused = project.run(*ALL)
    holding.kill()
    holding.communicate()
    assert refused.code == 5, refused.err
    assert "is locked by apply of " in refused.err and f"(pid {holding.pid})" in refused.err
    project.ok(*ALL)
    starts = [p.read_text() for p in project.directory.glob("starts-*")]
    assert starts == ["x\n"] * 61


# -- files that vanish or are damaged --------------------------------------------------------------------------------


def test_a_directory_that_vanishes_in_the_middle_of_an_apply(project: Project) -> None:
    project.write(LONG)
    applying = project.start(*ALL)
    pids = project.directory / "pids"
    until(lambda: pids.exists() and pids.read_text().endswith("\n"))
    shutil.rmtree(project.directory / ".flowplan")
    pid = int(pids.read_text())
    os.kill(pid, signal.SIGTERM)
    applying.send_signal(signal.SIGINT)
    _, err = applying.communicate(timeout=30)
    assert applying.returncode in (1, 130) and "Traceback" not in err and "defect" not in err, err
    assert "there is no state" in told(project.run("status")).err
    assert project.actions() == {"long": "create"}


@pytest.mark.docker
def test_runs_of_a_directory_that_vanished_are_found_again_and_destroyed(project: Project) -> None:
    project.write(
        f"flowplan: 1\nproject: gone-{uuid.uuid4().hex[:8]}\nruns:\n"
        "  a: {provider: docker, image: 'busybox:1.35', image_pull_policy: IfNotPresent, grace_period: 1s,"
        " entrypoint: [sleep], command: ['600']}\n"
    )
    applying = project.start(*ALL)
    until(lambda: state_of(project).exists() and project.statuses().get("a") == "running")
    shutil.rmtree(project.directory / ".flowplan")
    stopped = project.run("destroy", "--yes")
    assert "there is no state" in stopped.err
    project.ok("state", "rebuild")
    run = project.status()["a"]
    assert run["status"] == "running"
    applying.send_signal(signal.SIGINT)
    _, err = applying.communicate(timeout=30)
    assert "Traceback" not in err and "defect" not in err, err
    project.ok("destroy", "--yes")
    assert project.status() == {}


@contextmanager
def instead(path: Path, kind: str) -> Iterator[None]:
    """Something else in place of a file."""
    kept = path.with_name("kept")
    path.rename(kept)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(kept if kind == "link" else "nowhere")
    yield
    path.rmdir() if kind == "directory" else path.unlink()
    kept.rename(path)


COMMANDS = (("status",), ("plan",), ("destroy", "--yes"))


@pytest.mark.parametrize("kind", ["pipe", "directory", "link", "dangling link"])
def test_what_is_no_file_is_told_and_never_waited_for(project: Project, kind: str) -> None:
    project.write(COUNTED)
    project.ok(*ALL)
    with closing(sqlite3.connect(state_of(project))) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with instead(state_of(project), kind):
        for command in COMMANDS:
            said = told(project.run(*command, timeout=20)).err
            assert "is not a regular file" in said or "is a symbolic link" in said or "there is no state" in said, said
    project.ok("status")


def test_damage_anywhere_is_told_with_the_way_back_or_does_no_harm(project: Project) -> None:
    project.write(COUNTED)
    project.ok(*ALL)
    path, chance = state_of(project), random.Random(11)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    good = path.read_bytes()
    bad = [good[: chance.randrange(1, len(good))] for _ in range(3)]
    places = [0, 16, 40, 100, *(chance.randrange(len(good) - 200) for _ in range(8))]
    bad += [good[:at] + chance.randbytes(200) + good[at + 200 :] for at in places]
    ways = []
    for content in bad:
        for part in ("-wal", "-shm"):
            Path(f"{path}{part}").unlink(missing_ok=True)
        path.write_bytes(content)
        result = project.run("state", "pull")
        if result.code:
            told(result)
            ways.append(result.err)
        else:
            json.loads(result.out)
    assert len(ways) > 5
    assert [said for said in ways if not any(way in said for way in ("rebuild", "--state", "upgrade"))] == []
    for part in ("-wal", "-shm"):
        Path(f"{path}{part}").unlink(missing_ok=True)
    path.write_bytes(good)
    project.ok("status")


# -- crowds ----------------------------------------------------------------------------------------------------------


def test_two_applies_and_twenty_readers_at_once(project: Project) -> None:
    project.write(COUNTED.replace("to: 4", "to: 60"))
    project.ok("plan")
    with tempfile.TemporaryFile("w+") as said:
        commands = (("plan",), ("status",), ("events", "--format", "json"), ("status", "--no-refresh"))
        crowd = [(*ALL, "--lock-timeout", "60s")] * 2 + [commands[n % 4] for n in range(20)]
        running = [
            subprocess.Popen([FLOWPLAN, *c], cwd=project.directory, stdout=subprocess.DEVNULL, stderr=said)
            for c in crowd
        ]
        codes = [process.wait(PATIENCE) for process in running]
        said.seek(0)
        words = said.read()
    assert codes == [0] * 22, words
    assert "Traceback" not in words and "defect" not in words
    assert set(project.statuses().values()) == {"succeeded"}
    assert [p.read_text() for p in project.directory.glob("starts-*")] == ["x\n"] * 61
    sequence = [e["seq"] for e in project.events()]
    assert sequence == list(range(1, len(sequence) + 1))
