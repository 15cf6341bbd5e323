"""Exactly the intended content, once: restored backups, copied directories, second checkouts and names that are taken."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from projects import Project, clear

ENGINES = [
    "process",
    pytest.param("docker", marks=pytest.mark.docker),
    pytest.param("kubernetes", marks=pytest.mark.kubernetes),
]
CONTAINERS = ENGINES[1:]


def spec(kind: str, command: str = '[sh, -c, "echo this is day ${var.day}"]', more: str = "") -> str:
    image = "" if kind == "process" else "    image: busybox:1.35\n    image_pull_policy: Never\n"
    return (
        "flowplan: 1\nproject: once\nvariables: {day: {type: string, default: '1'}}\nruns:\n"
        f"  a:\n    provider: {kind}\n{image}    grace_period: 1s\n    command: {command}\n{more}"
    )


def day(project: Project, number: int, code: int = 0) -> str:
    return project.ok("apply", "flowplan.yaml", "--yes", "--var", f"day={number}", code=code).err


def files_of_state(project: Project) -> list[Path]:
    return list((project.directory / ".flowplan").glob("state.db*"))


def copied(project: Project, place: Path) -> Project:
    """``cp -r`` of the whole directory."""
    shutil.copytree(project.directory, place)
    return replace(project, directory=place)


@pytest.fixture
def checkouts(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Project]]:
    """Two checkouts of one project, each with a state of its own."""
    other = replace(project, directory=tmp_path_factory.mktemp("other"))
    yield project, other
    clear(other)


# -- a state that is older than the engine


@pytest.mark.parametrize("kind", ENGINES)
def test_a_restored_backup_is_refused_and_a_rebuild_mends_it(project: Project, kind: str) -> None:
    project.write(spec(kind))
    day(project, 1)
    [state] = [path for path in files_of_state(project) if path.name == "state.db"]
    backup = state.read_bytes()
    day(project, 2)
    for path in files_of_state(project):
        path.unlink()
    state.write_bytes(backup)
    project.write(spec(kind).replace("default: '1'", "default: '3'"))
    for command in (("plan",), ("apply", "flowplan.yaml", "--yes"), ("destroy", "--yes"), ("plan", "--refresh-only")):
        told = project.ok(*command, code=6).err
        assert "older than the engines" in told and "state rebuild" in told and "a, attempt 2, succeeded" in told
    assert project.statuses() == {"a": "succeeded"}, "reading goes on"
    project.ok("state", "rebuild", "flowplan.yaml", "--var", "day=3")
    shown = project.ok("state", "show", "a").json["attempts"]
    assert "this is day 2" in str(shown[-1]["objects"]) and "this is day 3" not in str(shown)
    assert [one["attempt"] for one in shown] == [1, 2]
    assert project.actions("--var", "day=2") == {"a": "no-op"}
    day(project, 3)
    assert "this is day 3" in project.ok("logs", "a").out
    assert [one["attempt"] for one in project.ok("state", "show", "a").json["attempts"]] == [1, 2, 3]


@pytest.mark.parametrize("kind", ENGINES)
def test_what_an_older_state_does_not_know_is_told_by_what_only_looks(project: Project, kind: str) -> None:
    project.write(spec(kind, '[sh, -c, "echo day ${var.day}; sleep 300"]'))
    project.ok("apply", "--yes", "--detach")
    [state] = [path for path in files_of_state(project) if path.name == "state.db"]
    backup = state.read_bytes()
    project.ok("apply", "flowplan.yaml", "--yes", "--detach", "--var", "day=2")
    newest = state.read_bytes()
    state.write_bytes(backup)
    for command in (("status",), ("watch",)):
        told = project.run(*command).err
        assert "older than the engines" in told and "a, attempt 2," in told, command
    if kind == "docker":  # its first container went with what it printed
        assert "no output is kept" in project.run("logs", "a").err
    assert "records no run" not in project.ok("destroy", "--yes", code=6).err
    state.write_bytes(newest)
    project.ok("destroy", "--yes")
    told = project.ok("destroy", "--yes").err
    assert f"the state {state} records no run" in told and "--state" in told and "state rebuild" in told


@pytest.mark.parametrize("kind", ENGINES)
def test_what_runs_is_not_started_again_from_a_restored_backup(project: Project, kind: str) -> None:
    project.write(spec(kind, "[sleep, '600']"))
    project.ok("plan")
    [state] = [path for path in files_of_state(project) if path.name == "state.db"]
    backup = state.read_bytes()
    project.ok("apply", "--yes", "--detach")
    project.await_status("a", "running")
    before = project.status()["a"]["infrastructure_id"]
    for path in files_of_state(project):
        path.unlink()
    state.write_bytes(backup)
    assert "older than the engines" in project.ok("apply", "flowplan.yaml", "--yes", code=6).err
    project.ok("state", "rebuild")
    assert project.status()["a"]["infrastructure_id"] == before
    assert project.actions() == {"a": "no-op"}


# -- a copy, and a state that was moved


@pytest.mark.parametrize("kind", ENGINES)
def test_a_copied_directory_is_refused_until_it_is_declared(project: Project, tmp_path: Path, kind: str) -> None:
    inside = tmp_path / "first"
    inside.mkdir()
    project = replace(project, directory=inside)
    project.write(spec(kind, "[sleep, '600']"))
    project.ok("apply", "--yes", "--detach")
    running = project.await_status("a", "running")
    copy = copied(project, tmp_path / "copy")
    for command in (
        ("plan",),
        ("apply", "--yes"),
        ("destroy", "--yes"),
        ("watch",),
        ("state", "rm", "a"),
        ("state", "rebuild"),
    ):
        told = copy.ok(*command, code=6).err
        assert "is a copy" in told and str(inside) in told and "state moved" in told and "state new-lineage" in told
    assert "is a copy" in copy.ok("status").err
    assert copy.status()["a"]["run_id"] == running["run_id"]
    copy.ok("events")
    told = copy.ok("state", "new-lineage").err
    assert "not managed any more" in told and "a" in told
    assert copy.status() == {}
    refused = copy.ok("apply", "flowplan.yaml", "--yes", code=6).err
    assert "managed by another state" in refused, "the first one still manages the project"
    copy.write(spec(kind).replace("project: once", "project: twice"))
    day(copy, 7)
    assert "this is day 7" in copy.ok("logs", "a").out
    copy.ok("destroy", "--yes")
    assert project.status()["a"]["status"] == "running", "nothing of the original was touched"
    project.ok("destroy", "--yes")


def test_a_state_that_was_moved_is_at_home_where_it_is(project: Project, tmp_path: Path) -> None:
    first, second, third = tmp_path / "first", tmp_path / "second", tmp_path / "third"
    first.mkdir()
    project = replace(project, directory=first)
    project.write(spec("process"))
    day(project, 1)
    first.rename(second)
    project = replace(project, directory=second)
    assert "moved" not in project.ok("plan", "--var", "day=1").err, "renamed: the file is the same"
    day(project, 2)
    shutil.copytree(second, third)
    shutil.rmtree(second)
    project = replace(project, directory=third)
    assert f"moved here from {second}" in project.ok("plan", "--var", "day=2").err
    assert "moved here" in day(project, 3)
    assert "moved here" not in project.ok("plan", "--var", "day=3").err, "told once, then it is at home"


def test_another_name_of_a_state_is_refused(project: Project, tmp_path: Path) -> None:
    """Two names have two journals, see https://www.sqlite.org/howtocorrupt.html#_multiple_links_to_the_same_file."""
    project.write(spec("process"))
    day(project, 1)
    [state] = [path for path in files_of_state(project) if path.name == "state.db"]
    other = tmp_path / "other.db"
    other.hardlink_to(state)
    told = project.ok("plan", "--state", str(other), code=6).err
    assert "hard link" in told and str(state) in told
    state.unlink()
    project.ok("plan", "--state", str(other))


def test_a_copy_whose_original_is_elsewhere_can_be_declared_moved(project: Project, tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.mkdir()
    project = replace(project, directory=first)
    project.write(spec("process"))
    day(project, 1)
    copy = copied(project, tmp_path / "copy")
    copy.ok("plan", code=6)
    copy.ok("state", "moved")
    copy.ok("plan")
    assert copy.statuses() == {"a": "succeeded"}


def test_a_restored_copy_at_its_own_place_is_at_home(project: Project) -> None:
    project.write(spec("process"))
    day(project, 1)
    [state] = [path for path in files_of_state(project) if path.name == "state.db"]
    data = state.read_bytes()
    state.unlink()
    state.write_bytes(data)
    assert project.actions() == {"a": "no-op"}


# -- a second state of the same project


@pytest.mark.parametrize("kind", ENGINES)
def test_a_second_checkout_is_refused_beside_what_the_first_one_runs(
    checkouts: tuple[Project, Project], kind: str
) -> None:
    first, second = checkouts
    secret = "    env: {TOKEN: {from_env: TOKEN}}\n"
    env = {"TOKEN": "a-token-of-this-test"}
    text = spec(kind, "[sleep, '600']", secret)
    for one in checkouts:
        one.write(text)
    first.ok("apply", "--yes", "--detach", env=env)
    first.await_status("a", "running")
    lineage = first.ok("state", "pull").json["lineage"]
    for command in (("plan",), ("apply", "flowplan.yaml", "--yes"), ("plan", "--refresh-only")):
        told = second.ok(*command, env=env, code=6).err
        assert "managed by another state" in told and lineage in told
        assert f"@{os.uname().nodename}:{first.directory}" in told and "last acted at 20" in told
        assert f"state rebuild --lineage {lineage}" in told and "another name" in told
    assert second.status() == {}
    shutil.rmtree(first.directory / ".flowplan")  # the first one is lost
    second.ok("state", "rebuild", "--lineage", lineage, env=env)
    assert second.statuses() == {"a": "running"}
    assert second.actions(env=env) == ({"a": "no-op"} if kind != "process" else {"a": "replace"})
    second.ok("destroy", "--yes", env=env)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_second_checkout_is_refused_beside_what_has_ended(checkouts: tuple[Project, Project], kind: str) -> None:
    first, second = checkouts
    for one in checkouts:
        one.write(spec(kind))
    day(first, 1)
    assert "managed by another state" in second.ok("apply", "flowplan.yaml", "--yes", code=6).err
    first.ok("destroy", "--yes")
    day(second, 1)
    second.ok("destroy", "--yes")


# -- what a rebuild records


def test_a_rebuild_records_what_ran_and_not_what_is_wanted(project: Project) -> None:
    project.write(spec("process"))
    day(project, 1)
    for path in files_of_state(project):
        path.unlink()
    (project.directory / ".flowplan" / "plan.json").unlink()
    project.ok("state", "rebuild", "flowplan.yaml", "--var", "day=2")
    assert "this is day 1" in str(project.ok("state", "show", "a").json)
    assert "this is day 2" not in str(project.ok("state", "show", "a").json)
    assert project.actions("--var", "day=1") == {"a": "no-op"}
    assert project.actions("--var", "day=2") == {"a": "replace"}


# -- names that are taken


@pytest.fixture
def taken() -> Iterator[str]:
    name = f"taken-{uuid.uuid4().hex[:8]}"
    run = ["docker", "run", "-d", "--network", "none", "--name", name, "busybox:1.35", "sleep", "600"]
    subprocess.run(run, check=True, capture_output=True)
    yield name
    subprocess.run(["docker", "rm", "-f", name], check=True, capture_output=True)


@pytest.mark.docker
def test_the_plan_is_empty_after_a_container_got_another_name(project: Project, taken: str) -> None:
    project.write(spec("docker", "[sleep, '600']", f"    name: {taken}\n    docker: {{network_mode: none}}\n"))
    project.ok("apply", "--yes", "--detach")
    assert project.status()["a"]["name"] == f"{taken}-1"
    project.ok("plan", "--detailed-exitcode")
    assert "Applied" not in project.ok("apply", "flowplan.yaml", "--yes", "--detach").err
    assert project.status()["a"]["name"] == f"{taken}-1"


@pytest.mark.kubernetes
def test_the_plan_is_empty_after_a_job_and_its_secret_got_another_name(project: Project) -> None:
    env = {"TOKEN": "a-token-of-this-test"}
    project.write(spec("kubernetes", "[sleep, '600']", "    env: {TOKEN: {from_env: TOKEN}}\n"))
    name = f"{project.name}-a-1"
    kubectl("create", "secret", "generic", name, "--from-literal=x=y")
    kubectl("create", "job", name, "--image=busybox:1.35", "--", "true")
    try:
        project.ok("apply", "--yes", "--detach", env=env)
        project.await_status("a", "running")
        assert project.status()["a"]["name"] == f"{name}-1"
        project.ok("plan", "--detailed-exitcode", env=env)
        assert "Applied" not in project.ok("apply", "flowplan.yaml", "--yes", "--detach", env=env).err
        project.ok("destroy", "--yes", timeout=180)
        assert kubectl("get", "secret", name, "-o", "name").strip() == f"secret/{name}", "that of somebody else stays"
        assert kubectl("get", "secret", f"{name}-1", "--ignore-not-found", "-o", "name") == ""
    finally:
        kubectl("delete", "secret,job", name, "--ignore-not-found")


def kubectl(*arguments: str) -> str:
    done: Any = subprocess.run(["kubectl", *arguments], check=True, capture_output=True, text=True)
    return str(done.stdout)
