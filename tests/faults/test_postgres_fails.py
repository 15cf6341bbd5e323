"""The server of a shared state restarts, crashes or is cut off during an apply: every run starts once, and none is lost."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cuttable_proxy import CuttableProxy
from fault_rounds import COMMANDS, Place, Tally, play, points_of
from own_postgres import OwnPostgres, programs
from projects import Project, until
from stores import sql

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(programs() is None, reason="a PostgreSQL of one's own needs root and its programs"),
]

RUNS = 8
SPEC = f"""\
flowplan: 1
project: p
runs:
  s:
    provider: process
    command: [sh, -c, "echo ${{each.i}} >> log; sleep 0.3"]
    matrix: {{i: {{from: 1, to: {RUNS}}}}}
    max_parallel: 2
"""


@pytest.fixture(scope="module")
def server() -> Iterator[OwnPostgres]:
    made = OwnPostgres()
    yield made
    made.remove()


@pytest.fixture
def team(server: OwnPostgres, project: Project) -> Project:
    project.env["FLOWPLAN_STATE"] = server.url()
    project.write(SPEC)
    return project


def started(team: Project) -> list[str]:
    log = team.directory / "log"
    return log.read_text().split() if log.exists() else []


def applying(team: Project) -> subprocess.Popen[str]:
    """Return an apply that has started some of the runs, and has more to start."""
    apply = team.start("apply", "--yes", "--lock-timeout", "60s")
    until(lambda: len(started(team)) >= 2)
    return apply


def finished(team: Project, apply: subprocess.Popen[str]) -> None:
    """Check that the apply went on to the end, and that each run was started once."""
    said = apply.communicate(timeout=90)[1]
    assert apply.returncode == 0, said
    assert Counter(started(team)) == Counter(map(str, range(1, RUNS + 1)))
    assert Counter(team.statuses().values()) == {"succeeded": RUNS}
    assert set(team.actions().values()) == {"no-op"}


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_server_that_restarts_is_waited_for(team: Project, server: OwnPostgres, how: str) -> None:
    apply = applying(team)
    server.stop(how)
    server.start()
    finished(team, apply)


def test_connections_that_are_ended_again_and_again(team: Project, server: OwnPostgres) -> None:
    apply, ended = applying(team), 0
    while apply.poll() is None and ended < 20:
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'flowplan'"
        ended += len(sql(query, url=server.url("postgres")))
    finished(team, apply)
    assert ended > 3


def test_a_network_that_comes_back(team: Project, server: OwnPostgres) -> None:
    network = CuttableProxy("127.0.0.1", server.port)
    team.env["FLOWPLAN_STATE"] = server.url(port=network.port)
    apply = applying(team)
    network.mode = "refuse"
    network.cut()
    before = network.accepted
    until(lambda: network.accepted > before + 2)
    network.mode = "open"
    finished(team, apply)
    network.close()


def test_a_killed_apply_leaves_a_lock_that_ends(team: Project, server: OwnPostgres) -> None:
    first = applying(team)
    first.kill()
    first.communicate()
    sql("UPDATE flowplan.leases SET until = least(until, clock_timestamp() + interval '2 s')", url=server.url())
    finished(team, applying(team))


def test_two_applies_and_readers_at_once(team: Project) -> None:
    team.ok("plan")
    applies = [team.start("apply", "--yes", "--lock-timeout", "60s") for _ in range(2)]
    readers = [team.start("status", "--no-refresh") for _ in range(4)]
    ends = [process.communicate(timeout=90)[1] for process in [*applies, *readers]]
    assert [process.returncode for process in [*applies, *readers]] == [0] * 6, ends
    assert Counter(started(team)) == Counter(map(str, range(1, RUNS + 1)))


def test_thirty_readers_beside_an_apply(team: Project) -> None:
    apply = applying(team)
    readers = [team.start(*words) for words in (["status"], ["plan"], ["events"]) for _ in range(10)]
    ends = [reader.communicate(timeout=300)[1] for reader in readers]
    assert [reader.returncode for reader in readers] == [0] * 30, ends
    finished(team, apply)


def test_a_server_without_a_free_connection_is_told(team: Project, server: OwnPostgres) -> None:
    import psycopg

    team.ok("plan")
    with contextlib.ExitStack() as held:
        with pytest.raises(psycopg.OperationalError):
            while True:
                held.enter_context(psycopg.connect(server.url()))
        refused = team.ok("status", code=1).err
    assert "has no connection left for this user" in refused and "pooler" in refused, refused


def test_a_replica_can_be_read_and_nothing_else(team: Project, server: OwnPostgres) -> None:
    replica = OwnPostgres(replica_of=server)
    try:
        team.ok("apply", "--yes")
        here = ("--state", replica.url())
        until(lambda: "succeeded" in team.run("status", "s[i=1]", *here).out)  # it follows the primary
        until(lambda: team.ok("state", "pull", *here).out == team.ok("state", "pull").out)
        shown = team.ok("status", "--format", "json", *here).json["runs"]
        assert Counter(run["status"] for run in shown) == {"succeeded": RUNS}
        for words in (["logs", "s[i=1]"], ["history"], ["events"], ["state", "list"], ["plan"]):
            team.ok(*words, *here)
        for words in (["apply", "--yes", "--rerun", "s"], ["state", "rm", "s[i=1]"], ["state", "unlock"]):
            refused = team.ok(*words, *here, code=1).err
            assert "replica, or in recovery" in refused and "name the primary" in refused, refused
    finally:
        replica.remove()


def test_a_database_that_takes_no_writes_can_be_read(team: Project, server: OwnPostgres) -> None:
    team.ok("apply", "--yes")
    sql("ALTER DATABASE flowplan SET default_transaction_read_only = on", url=server.url("postgres"))
    try:
        assert Counter(team.statuses().values()) == {"succeeded": RUNS}
        assert "read-only" in team.ok("apply", "--yes", "--rerun", "s", code=1).err
    finally:
        sql("ALTER DATABASE flowplan RESET default_transaction_read_only", url=server.url("postgres"))


def test_a_server_that_is_away_is_told_at_once(team: Project, server: OwnPostgres) -> None:
    server.stop()
    try:
        assert "cannot be reached" in team.ok("status", code=1).err
    finally:
        server.start()


def test_a_server_without_a_connection_to_spare_is_told(team: Project, server: OwnPostgres) -> None:
    sql("CREATE ROLE many LOGIN CONNECTION LIMIT 0", url=server.url())
    told = team.ok("status", "--state", server.url().replace("owner@", "many@"), code=1).err
    assert "no connection left for this user" in told, told


def test_a_database_that_is_restored_from_yesterday_repeats_nothing(
    team: Project, server: OwnPostgres, tmp_path: Path
) -> None:
    team.write(SPEC.replace("; sleep 0.3", "; until [ -e go ]; do sleep 0.05; done").replace(f"to: {RUNS}", "to: 2"))
    team.ok("apply", "--yes", "--detach", "--target", "s[i=1]")
    until(lambda: started(team) == ["1"])
    server.run("pg_dump", "--format=custom", "--file", tmp_path / "yesterday", server.url())
    team.ok("apply", "--yes", "--detach", "flowplan.yaml")
    until(lambda: started(team) == ["1", "2"])
    server.run("pg_restore", "--clean", "--dbname", server.url(), tmp_path / "yesterday")
    for words in (["plan"], ["apply", "--yes", "flowplan.yaml"]):
        refused = team.ok(*words, code=6).err
        assert "state rebuild" in refused and "s[i=2]" in refused, refused
    assert "s[i=2]: attempt 1 is running" in team.ok("state", "rebuild").err
    assert set(team.actions().values()) == {"no-op"}
    (team.directory / "go").touch()
    team.ok("apply", "--yes", "flowplan.yaml")
    assert set(team.statuses().values()) == {"succeeded"} and started(team) == ["1", "2"]


def test_a_network_that_stays_away_ends_an_apply_and_loses_nothing(team: Project, server: OwnPostgres) -> None:
    network = CuttableProxy("127.0.0.1", server.port)
    team.env["FLOWPLAN_STATE"] = server.url(port=network.port)
    apply = applying(team)
    team.env["FLOWPLAN_STATE"] = server.url()
    network.mode = "refuse"
    network.cut()
    said = apply.communicate(timeout=180)[1]
    network.close()
    assert apply.returncode in (1, 5) and "the state postgresql://" in said, said
    assert "lost" in said or "cannot be reached" in said, said
    finished(team, team.start("apply", "--yes", "--lock-timeout", "90s"))


@pytest.fixture
def small(server: OwnPostgres) -> Iterator[tuple[str, Path]]:
    """Return the URL of a database that lies on a small disk, and that disk."""
    disk = Path(tempfile.mkdtemp(prefix="fpd-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", disk], check=False)
    if mounted.returncode:
        disk.rmdir()
        pytest.skip("a small disk cannot be mounted here")
    try:
        disk.chmod(0o755)
        place = disk / "tablespace"
        place.mkdir()
        shutil.chown(place, "postgres", "postgres")
        sql(f"CREATE TABLESPACE small LOCATION '{place}'", url=server.url("postgres"))
        sql("CREATE DATABASE small TABLESPACE small", url=server.url("postgres"))
        yield server.url("small"), disk
        sql("DROP DATABASE small WITH (FORCE)", url=server.url("postgres"))
        sql("DROP TABLESPACE small", url=server.url("postgres"))
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
        disk.rmdir()


def fill(disk: Path) -> Path:
    """Leave no room on a disk; return the file that takes it."""
    path = disk / "filler"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(2**16)):
            pass
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while file.write(b"0"):
            pass
    return path


def test_a_database_without_room_starts_nothing_that_it_cannot_record(team: Project, small: tuple[str, Path]) -> None:
    team.env["FLOWPLAN_STATE"], disk = small
    team.ok("plan")
    filler = fill(disk)
    assert "has no room" in team.ok("apply", "--yes", code=1).err
    assert started(team) == []
    filler.unlink()
    apply = applying(team)
    filler = fill(disk)
    said = apply.communicate(timeout=180)[1]
    assert apply.returncode in (0, 1) and ("has no room" in said or apply.returncode == 0), said
    filler.unlink()
    finished(team, team.start("apply", "--yes", "--lock-timeout", "90s"))


@pytest.fixture
def pooler(server: OwnPostgres) -> Iterator[Pooler]:
    made = Pooler(server)
    yield made
    made.stop()
    made.remove()


class Pooler:
    """PgBouncer before a server; each transaction has any connection."""

    def __init__(self, server: OwnPostgres) -> None:
        if not shutil.which("pgbouncer"):
            pytest.skip("pgbouncer (not installed)")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._file = Path(tempfile.mkdtemp(prefix="fpp-")) / "pgbouncer.ini"
        shutil.chown(self._file.parent, "postgres", "postgres")
        users = self._file.with_name("users")
        users.write_text('"owner" ""\n')
        self._file.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {users}\npool_mode = transaction\n"
        )
        for path in (users, self._file):
            path.chmod(0o644)
        self.start()

    def start(self) -> None:
        user = ("setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups")
        self._process = subprocess.Popen([*user, "pgbouncer", "-q", self._file], stderr=subprocess.DEVNULL)
        until(self._answers)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def remove(self) -> None:
        shutil.rmtree(self._file.parent)


def test_a_pooler_that_restarts_is_waited_for(team: Project, server: OwnPostgres, pooler: Pooler) -> None:
    team.env["FLOWPLAN_STATE"] = server.url(port=pooler.port)
    apply = applying(team)
    pooler.stop()
    pooler.start()
    finished(team, apply)


@pytest.mark.parametrize(("breaks", "which"), [("", 9), ("ended", 14), ("immediate", 19)])
def test_what_happens_at_a_point_is_survived(server: OwnPostgres, tmp_path: Path, breaks: str, which: int) -> None:
    """Play one point; `fault_rounds.py --postgres` plays them all."""
    place, tally = Place(server, breaks), Tally("process", "apply")
    [command] = [command for command in COMMANDS if command.name == "apply"]
    points = points_of(command, "process", tmp_path / "trace", 1, place)
    play(command, "process", points[which], tmp_path / "round", tally, place)
    assert tally.faults == []
    assert tally.killed == 1, points[which]
