"""The server of a shared state restarts, crashes or is cut off during an apply: every run starts once, and none is lost."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

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
