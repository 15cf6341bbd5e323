"""A team's state in PostgreSQL: the installed command, from several directories, roles and networks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from projects import Project, clear
from stores import sql

pytestmark = pytest.mark.postgres

SPEC = """\
flowplan: 1
project: team
runs:
  a: {provider: process, command: [sh, -c, "echo hello from a; sleep 0.3"]}
  b: {provider: process, command: [echo, b], needs: [a]}
"""


def url(user: str = "owner", **more: str) -> str:
    """Return the URL of the database for a role, without its password."""
    parts = urlsplit(os.environ["POSTGRES"])
    query = "&".join(f"{name}={value}" for name, value in more.items())
    return f"postgresql://{user}@{parts.hostname}:{parts.port}{parts.path}{'?' if query else ''}{query}"


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Project]:
    """Return a project whose state is in the database; its password comes from the environment."""
    password = urlsplit(os.environ["POSTGRES"]).password or ""
    project = Project(tmp_path, {"NO_COLOR": "1", "FLOWPLAN_STATE": url(), "PGPASSWORD": password})
    project.write(SPEC)
    yield project
    clear(project)
    if sql("SELECT to_regclass('flowplan.states') IS NOT NULL")[0][0]:
        sql("DELETE FROM flowplan.states WHERE project = %s", project.name)
        sql("DELETE FROM flowplan.leases WHERE project = %s", project.name)


def colleague(of: Project, directory: Path, **env: str) -> Project:
    """Return a checkout of the same project in another directory."""
    directory.mkdir()
    (directory / "flowplan.yaml").write_text((of.directory / "flowplan.yaml").read_text())
    return Project(directory, {**of.env, **env}, suffix=of.suffix)


def test_people_share_one_state(team: Project, tmp_path: Path) -> None:
    done = team.ok("apply", "--yes")
    assert "a: succeeded" in done.err and not (team.directory / ".flowplan/state.db").exists()
    other = colleague(team, tmp_path / "other")
    assert set(other.actions().values()) == {"no-op"}, "nothing is done a second time"
    assert other.statuses() == {"a": "succeeded", "b": "succeeded"}
    other.ok("apply", "--yes", "--rerun", "b")
    assert [run["attempt"] for run in team.status().values()] == [1, 2]
    assert team.ok("state", "pull").out == other.ok("state", "pull").out


@pytest.mark.skipif("PGBOUNCER" not in os.environ, reason="PGBOUNCER is not set)")
def test_a_pooler_that_gives_each_transaction_another_connection(team: Project) -> None:
    port = urlsplit(os.environ["PGBOUNCER"]).port
    team.env["FLOWPLAN_STATE"] = f"postgresql://owner@127.0.0.1:{port}{urlsplit(os.environ['PGBOUNCER']).path}"
    team.ok("apply", "--yes")
    assert team.statuses() == {"a": "succeeded", "b": "succeeded"}
    assert "not locked" in team.ok("state", "unlock").err


@pytest.mark.skipif("POSTGRES_TLS_CA" not in os.environ, reason="POSTGRES_TLS_CA is not set)")
def test_the_certificate_of_the_server_is_verified(team: Project) -> None:
    right, wrong = os.environ["POSTGRES_TLS_CA"], team.directory / "other.crt"
    team.env["FLOWPLAN_STATE"] = url(sslmode="verify-full", sslrootcert=right)
    team.ok("plan")
    wrong.write_text("no certificate")
    team.env["FLOWPLAN_STATE"] = url(sslmode="verify-full", sslrootcert=str(wrong))
    assert "cannot be trusted" in team.ok("status", code=1).err


@pytest.mark.parametrize(
    ("state", "env", "said"),
    [
        ("postgresql://owner@127.0.0.1:1/flowplan", {}, "cannot be reached"),
        ("{}", {"PGPASSWORD": "not-this-one"}, "refuses the password"),
        ("{}-not-there", {}, "has no database of this name"),
        ("postgresql:///?service=not-there", {}, "service"),
        ("postgresql://owner@h/d?sslmodus=x", {}, "none that PostgreSQL's library takes"),
        ("postgresql://owner:not%sthis-one@h/d", {}, "none that PostgreSQL's library takes"),
        ("postgresql://owner:not@this-one@h/d", {}, "no host and port where they have to be"),
        ("postgresql://owner:this-one/not@h/d", {}, "no host and port where they have to be"),
        ("postgresql://owner:7/this-one@h/d", {}, "no host and port where they have to be"),
    ],
)
def test_a_database_that_cannot_be_used_is_told(team: Project, state: str, env: dict[str, str], said: str) -> None:
    done = team.run("status", "--state", state.format(url()), env=env)
    assert done.code in (1, 7) and said in done.err and "this-one" not in done.err


@pytest.mark.parametrize(
    ("state", "env"),
    [
        ("postgresql:///?service=ml", {}),
        ("postgresql:///", {"PGSERVICE": "ml"}),
        ("postgresql://owner@127.0.0.1:1,{host}:{port}/{database}", {}),
        ("postgresql://{host}:{port}", {"PGUSER": "owner", "PGDATABASE": "{database}"}),
    ],
)
def test_the_ways_of_the_library_to_name_a_server(team: Project, state: str, env: dict[str, str]) -> None:
    """A service file, a file of passwords, several hosts and variables are read as other clients read them."""
    parts = urlsplit(os.environ["POSTGRES"])
    known = {"host": parts.hostname, "port": parts.port, "database": parts.path.strip("/")}
    service, passwords = team.directory / "service", team.directory / "passwords"
    service.write_text("[ml]\nhost={host}\nport={port}\ndbname={database}\nuser=owner\n".format(**known))
    passwords.write_text("{host}:{port}:*:owner:".format(**known) + f"{team.env.pop('PGPASSWORD')}\n")
    passwords.chmod(0o600)
    team.env |= {"PGSERVICEFILE": str(service), "PGPASSFILE": str(passwords)}
    team.env |= {name: value.format(**known) for name, value in env.items()}
    team.env["FLOWPLAN_STATE"] = state.format(**known)
    team.ok("plan")
    assert "there is no state" in team.ok("status", "--state", url(project="another"), code=1).err
    assert team.ok("state", "list").code == 0
    passwords.write_text("")
    assert "wants a password" in team.ok("status", code=1).err


def test_a_password_in_the_url_is_never_shown(team: Project) -> None:
    team.env["FLOWPLAN_STATE"] = os.environ["POSTGRES"]
    password = str(urlsplit(os.environ["POSTGRES"]).password)
    team.write(SPEC.replace("hello from a", "it is $$FLOWPLAN_STATE"))
    told = [team.run(*words) for words in (["plan"], ["apply", "--yes"], ["status"], ["state", "pull"], ["logs", "a"])]
    assert not [done for done in told if password in done.out + done.err]
    kept = [path for path in (team.directory / ".flowplan").glob("*.json") if password in path.read_text()]
    assert kept == []


def test_each_role_does_what_it_may(team: Project) -> None:
    team.ok("apply", "--yes")
    reader, writer = url("reader"), url("writer")
    tables = "ALL TABLES IN SCHEMA flowplan"

    def give(*roles: str) -> None:
        sql(f"REVOKE ALL ON {tables} FROM reader, writer")
        for line in team.ok("state", "grants", *roles).out.splitlines():
            sql(line)

    give("--writer", "writer", "--reader", "reader")
    assert "hello from a" in team.ok("logs", "a", "--state", reader).out
    assert "succeeded" in team.ok("status", "--state", reader).out and team.ok("history", "--state", reader).out
    assert len(team.ok("report", "--format", "json", "--state", reader).json["attempts"]["run"]) == 2
    for words in (["plan"], ["state", "pull", "--with-key"]):
        assert "a key that this user may not read" in team.ok(*words, "--state", reader, code=1).err
    for words in (["apply", "--yes", "--rerun", "a"], ["state", "rm", "a"], ["state", "unlock"], ["state", "upgrade"]):
        assert team.run(*words, "--state", reader).code in (0 if words[1] == "upgrade" else 1,)
    team.ok("apply", "--yes", "--rerun", "a", "--state", writer)
    give("--planner", "reader")
    assert "1 to rerun" in team.ok("plan", "--rerun", "a", "--out", "p.json", "--state", reader).out
    assert "refuses this user" in team.ok("state", "rm", "a", "--state", reader, code=1).err
    team.ok("apply", "p.json", "--yes")
    assert team.status()["a"]["attempt"] == 3


def test_environments_of_a_project_are_states_of_their_own(team: Project) -> None:
    team.write(SPEC + "environments:\n  dev: {runs: {b: null}}\n  prod:\n")
    assert "environments dev, prod; name one" in team.ok("status", code=7).err
    team.ok("apply", "--yes", "--env", "dev")
    assert "there is no state" in team.ok("status", "--env", "prod", code=1).err
    team.ok("apply", "--yes", "--env", "prod")
    assert (set(team.status("--env", "dev")), set(team.status("--env", "prod"))) == ({"a"}, {"a", "b"})
    assert (
        "is that of environment prod, not dev"
        in team.ok("plan", "--env", "dev", "--state", url(environment="prod"), code=6).err
    )
    for name in ("dev", "prod"):
        team.ok("destroy", "--yes", "--env", name)


# --- moving a state -------------------------------------------------------------------------------------------------


def whole(team: Project, state: str) -> str:
    return team.ok("state", "pull", "--with-key", "--state", state).out


def test_a_state_moves_into_the_database_and_back(team: Project) -> None:
    shared, file = team.env.pop("FLOWPLAN_STATE"), ".flowplan/state.db"
    team.ok("apply", "--yes")
    before = whole(team, file)
    team.ok("state", "migrate", "--from", file, "--to", shared)
    assert whole(team, shared) == before, "nothing is lost"
    for words in (["plan"], ["apply", "--yes"], ["state", "rm", "a"]):
        refused = team.ok(*words, code=6).err
        assert "was moved to" in refused and f"--state '{shared}" in refused
    assert "hello from a" in team.ok("logs", "a", "--state", shared).out, "the files of processes are where they were"
    team.ok("apply", "--yes", "--rerun", "a", "--state", shared)
    after = whole(team, shared)
    team.ok("state", "migrate", "--from", shared, "--to", "back.db")
    assert whole(team, "back.db") == after
    assert "was moved to" in team.ok("apply", "--yes", "--state", shared, code=6).err
    assert set(team.actions("--state", "back.db").values()) == {"no-op"}


@pytest.mark.parametrize(
    ("point", "into"),
    [
        ("state:load_dump:before", "database"),
        ("state:load_dump:after", "database"),
        ("state:migrate:copied", "database"),
        ("state:migrate:written", "database"),
        ("state:migrate:after", "database"),
        ("state:load_dump:before", "file"),
        ("state:migrate:copied", "file"),
        ("state:migrate:after", "file"),
    ],
)
def test_a_move_that_was_killed_is_done_again(team: Project, point: str, into: str) -> None:
    places = {"database": team.env.pop("FLOWPLAN_STATE"), "file": "local.db"}
    target = places.pop(into)
    [source] = places.values()
    team.ok("apply", "--yes", "--state", source)
    before = whole(team, source)
    words = ("state", "migrate", "--from", source, "--to", target)
    assert team.run(*words, env={"FLOWPLAN_FAULT": point}).code == -9
    sql("UPDATE flowplan.leases SET until = clock_timestamp() WHERE project = %s", team.name)
    team.ok(*words)
    assert whole(team, target) == before
    assert "was moved to" in team.ok("plan", "--state", source, code=6).err
    assert set(team.actions("--state", target).values()) == {"no-op"}
