"""Processes in a state that two hosts share: what each may see and do of the other's."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from projects import Project, clear, until
from stores import sql

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="other host names need root"),
]

SPEC = """\
flowplan: 1
project: hosts
defaults: {provider: process, grace_period: 1s}
runs:
  far: {command: [sh, -c, 'echo begun; until [ -e go ]; do sleep 0.05; done']}
  near: {command: [sh, -c, 'echo near >> ran']}
"""


def host(directory: Path, name: str) -> Project:
    """Return a checkout on a host of that name: with a boot, a machine id, a home and files of its own."""
    directory.mkdir()
    (directory / "machine-id").write_text(f"{name.encode().hex():0<32}\n")
    (directory / "boot").write_text(f"{uuid.uuid5(uuid.NAMESPACE_DNS, name)}\n")
    mounted = "{ [ ! -e /etc/machine-id ] || mount --bind machine-id /etc/machine-id; } && mount --bind boot /proc/sys/kernel/random/boot_id"
    become = f'{mounted} && hostname "$0" && exec "$@"'
    env = {"NO_COLOR": "1", "FLOWPLAN_STATE": os.environ["POSTGRES"], "HOME": str(directory)}
    env["XDG_STATE_HOME"] = str(directory / "state")
    return Project(directory, env, ("unshare", "--uts", "--mount", "sh", "-c", become, name))


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Project, Project]]:
    venus, mars = (host(tmp_path / name, name) for name in ("venus", "mars"))
    venus.write(SPEC)
    shutil.copy(venus.directory / "flowplan.yaml", mars.directory)
    yield venus, mars
    for one in (venus, mars):
        (one.directory / "go").touch()
        one.run("destroy", "--yes", "--allow-interrupt", "*")
        clear(one)
    sql("DELETE FROM flowplan.states WHERE project = %s", venus.name)
    sql("DELETE FROM flowplan.leases WHERE project = %s", venus.name)


def test_what_runs_on_another_host_is_shown_and_left_alone(hosts: tuple[Project, Project]) -> None:
    venus, mars = hosts
    mars.ok("apply", "--yes", "--detach", "--target", "far")
    mars.await_status("far", "running")
    seen = venus.status()["far"]
    assert seen["status"] == "running" and seen["message"].startswith("on host mars, last seen 20")
    assert "on host mars" in venus.ok("status").out
    # What does not touch it goes on; it is neither followed nor started again.
    assert venus.actions() == {"far": "no-op", "near": "create"}
    done = venus.ok("apply", "--yes")
    assert "far" in done.err and "not followed" in done.err
    assert venus.statuses() == {"far": "running", "near": "succeeded"}
    # What would touch it is refused, with the name of its host.
    venus.write(SPEC.replace("echo begun", "echo anew"))
    for words in (
        ["apply", "flowplan.yaml", "--yes"],
        ["destroy", "--yes", "--allow-interrupt", "far", "--target", "far"],
    ):
        refused = venus.run(*words)
        assert refused.code == 6 and "mars" in refused.err + refused.out, refused
    venus.write(SPEC)
    assert "mars" in venus.run("logs", "far").err
    assert mars.ok("logs", "far").out == "begun\n"
    # Its own host sees its end, and records it for all.
    (mars.directory / "go").touch()
    until(lambda: mars.statuses()["far"] == "succeeded")
    mars.ok("apply", "--yes")
    assert venus.statuses() == {"far": "succeeded", "near": "succeeded"}
    assert mars.actions() == venus.actions() == {"far": "no-op", "near": "no-op"}


def test_two_checkouts_of_one_host_see_the_same_runs(tmp_path: Path) -> None:
    env = {"FLOWPLAN_STATE": os.environ["POSTGRES"], "XDG_STATE_HOME": str(tmp_path / "state")}
    one, other = (Project(tmp_path / name, {**env, "HOME": str(tmp_path / name)}) for name in ("one", "other"))
    for project in (one, other):
        project.directory.mkdir()
    text = one.write(SPEC).read_text()
    other.write(text)
    try:
        one.ok("apply", "--yes", "--detach", "--target", "far")
        other.await_status("far", "running")
        (one.directory / "go").touch()
        other.await_status("far", "succeeded")
        assert other.ok("logs", "far").out == "begun\n"
        assert other.actions() == {"far": "no-op", "near": "create"}
    finally:
        one.ok("destroy", "--yes", "--allow-interrupt", "*")
        sql("DELETE FROM flowplan.states WHERE project = %s", one.name)
        sql("DELETE FROM flowplan.leases WHERE project = %s", one.name)
