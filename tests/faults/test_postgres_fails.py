"""The server of a shared state restarts, crashes or is cut off during an apply: every run starts once, and none is lost."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator

import pytest
from cuttable_proxy import CuttableProxy
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


def test_a_server_that_takes_no_writes_can_be_read(team: Project, server: OwnPostgres) -> None:
    team.ok("apply", "--yes")
    sql("ALTER DATABASE flowplan SET default_transaction_read_only = on", url=server.url("postgres"))
    try:
        assert Counter(team.statuses().values()) == {"succeeded": RUNS}
        assert team.ok("logs", "s[i=1]").code == team.ok("history").code == 0
        assert "read-only" in team.ok("apply", "--yes", "--rerun", "s", code=1).err
    finally:
        sql("ALTER DATABASE flowplan RESET default_transaction_read_only", url=server.url("postgres"))


def test_a_server_that_is_away_is_told_at_once(team: Project, server: OwnPostgres) -> None:
    server.stop()
    try:
        assert "cannot be reached" in team.ok("status", code=1).err
    finally:
        server.start()
