"""Files that flowplan writes: private whatever the umask, whole or not there, and nothing of another user's is used."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from projects import Project

HELLO = """\
flowplan: 1
project: demo
runs:
  hello: {provider: process, command: [sh, -c, 'echo hello; sleep 0.1'], env: {TOKEN: {from_env: TOKEN}}}
"""
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o027])
def test_everything_written_is_private_whatever_the_umask(project: Project, umask: int) -> None:
    project.write(HELLO)
    project.env["TOKEN"] = "hush"
    former = os.umask(umask)
    try:
        (project.directory / "deep").mkdir(mode=0o700)
        (project.directory / "plans").mkdir(mode=0o700)
        state = ("--state", "deep/state.db")
        project.ok("plan", "--out", "plans/today.json", "--json-into", "also.json", *state)
        project.ok("apply", "plans/today.json", "--yes", *state)
        project.ok("apply", "flowplan.yaml", "--rerun", "hello", "--yes", *state)
        made = [project.directory / name for name in ("also.json", "deep", "plans")]
        made += [p for top in made if top.is_dir() for p in top.rglob("*")]
        wrong = {str(p): oct(mode(p)) for p in made if mode(p) != (0o700 if p.is_dir() else 0o600)}
        project.ok("destroy", "--yes", *state)
    finally:
        os.umask(former)
    assert {p.name for p in made} >= {"state.db", "state.db.lock", "plan.json", "output", "started.json", "journal"}
    assert wrong == {}


# -- another user --------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(project: Project) -> Project:
    """Return a project in a directory like /tmp, where another user may have been first."""
    project.write(HELLO.replace("${", "$${"))
    project.env["TOKEN"] = "hush"
    project.directory.chmod(0o1777)
    return project


def directory(path: Path) -> None:
    path.mkdir(parents=True)
    path.chmod(0o777)


def file(path: Path) -> None:
    path.touch()
    path.chmod(0o666)


def link(path: Path) -> None:
    target = path.parent / "elsewhere"
    target.mkdir()
    path.symlink_to(target)


@needs_root
@pytest.mark.parametrize(
    ("make", "planted", "arguments"),
    [
        (directory, ".flowplan", ()),
        (link, ".flowplan", ()),
        (file, "own.db", ("--state", "own.db")),
        (file, "own.db.lock", ("--state", "own.db")),
        (file, "own.db-wal", ("--state", "own.db")),
        (directory, "own.runs", ("--state", "own.db")),
        (directory, "place", ("--state", "place/own.db")),
    ],
)
def test_what_another_user_prepared_is_refused(
    shared: Project, make: Callable[[Path], None], planted: str, arguments: tuple[str, ...]
) -> None:
    path = shared.directory / planted
    make(path)
    os.lchown(path, NOBODY, NOBODY)
    before = sorted(p.name for p in path.rglob("*"))
    result = shared.ok("apply", "flowplan.yaml", "--yes", *arguments, code=6)
    assert f"{path} belongs to nobody" in result.err and "everybody may write" in result.err
    assert sorted(p.name for p in path.rglob("*")) == before
    os.lchown(path, 0, 0)
    if make is directory:
        shared.ok("apply", "flowplan.yaml", "--yes", *arguments)


@needs_root
@pytest.mark.parametrize("option", ["--out", "--json-into", "--summary-file"])
def test_a_planted_link_is_never_written_through(shared: Project, option: str) -> None:
    victim, planted = shared.directory / "victim", shared.directory / "plan.json"
    victim.write_text("precious")
    planted.symlink_to(victim)
    os.lchown(planted, NOBODY, NOBODY)
    assert "belongs to nobody" in shared.ok("plan", option, "plan.json", code=6).err
    assert victim.read_text() == "precious"


@needs_root
def test_the_last_plan_of_another_user_is_not_applied(shared: Project) -> None:
    shared.ok("plan", "--state", "own.db")
    plan = shared.directory / "own.plan.json"
    os.chown(plan, NOBODY, NOBODY)
    for command in (["apply", "--yes"], ["show"]):
        assert "own.plan.json belongs to nobody" in shared.ok(*command, "--state", "own.db", code=6).err


@needs_root
def test_the_project_of_another_user_is_their_own_risk_and_works_for_root(project: Project) -> None:
    project.write(HELLO)
    project.env["TOKEN"] = "hush"
    os.chown(project.directory, NOBODY, NOBODY)
    project.directory.chmod(0o777)
    (project.directory / ".flowplan").mkdir(mode=0o700)
    os.chown(project.directory / ".flowplan", NOBODY, NOBODY)
    project.ok("apply", "flowplan.yaml", "--yes")


# -- links and kills -----------------------------------------------------------------------------------------------


def test_a_link_of_ones_own_is_replaced_and_its_target_left_alone(project: Project) -> None:
    project.write(HELLO)
    victim, own = project.directory / "victim", project.directory / "plan.json"
    victim.write_text("precious")
    own.symlink_to(victim)
    project.ok("plan", "--out", "plan.json", env={"TOKEN": "hush"})
    assert victim.read_text() == "precious"
    assert own.is_file() and not own.is_symlink() and mode(own) == 0o600


def test_a_state_directory_may_be_a_link_of_ones_own(project: Project) -> None:
    project.write(HELLO)
    (project.directory / "disk").mkdir()
    (project.directory / ".flowplan").symlink_to("disk")
    project.ok("apply", "flowplan.yaml", "--yes", env={"TOKEN": "hush"})
    assert mode(project.directory / "disk/state.db") == 0o600


@pytest.mark.parametrize("point", ["file:plan:before", "file:state:begun", "file:state:before"])
def test_a_kill_while_a_file_is_written_leaves_the_old_or_the_new(project: Project, point: str) -> None:
    project.write(HELLO)
    env = {"TOKEN": "hush"}
    assert project.run("plan", "--out", "plan.json", env={**env, "FLOWPLAN_FAULT": point}).code == -signal.SIGKILL
    assert not (project.directory / "plan.json").exists()
    assert (project.directory / ".flowplan/state.db").exists() == (point == "file:plan:before")
    project.ok("plan", "--out", "plan.json", env=env)
    old = (project.directory / "plan.json").read_bytes()
    project.write(HELLO.replace("echo hello", "echo changed"))
    if point == "file:plan:before":
        killed = project.run("plan", "--out", "plan.json", env={**env, "FLOWPLAN_FAULT": f"{point}@2"})
        assert killed.code == -signal.SIGKILL
        assert (project.directory / "plan.json").read_bytes() == old
    project.ok("apply", "plan.json", "--yes", env=env)
