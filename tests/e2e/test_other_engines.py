"""The main job on other engines than the Docker of DOCKER_HOST, through the installed command: their identity, ends and limits."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from conftest import Project
from engines import ENGINES, docker_api

SPEC = """\
flowplan: 1
project: others
defaults: {provider: docker, image: "busybox:1.35", grace_period: 1s}
runs:
  done: {command: [echo, done], docker: {networks: [bridge], mem_limit: 64m, memswap_limit: -1}}
  tries: {command: [sh, -c, "echo try; [ -e /two ] || { [ -e /one ] && : > /two; : > /one; exit 4; }"], retries: 2}
  after: {needs: [tries], command: [echo, after], resources: {cpu: "0.5", memory: 32Mi}}
  live: {command: [sleep, "600"]}
  missing: {command: [no-such-program-here]}
"""


@pytest.fixture(params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("docker_current", "podman")])
def elsewhere(request: pytest.FixtureRequest, project: Project) -> Iterator[Project]:
    """Return a project whose commands use another engine."""
    project.env["DOCKER_HOST"] = os.environ[ENGINES[request.param]]
    project.write(SPEC)
    yield project
    api = docker_api(project.env["DOCKER_HOST"])
    for container in api.containers(all=True, filters={"label": f"dev.flowplan.project={project.name}"}):
        api.remove_container(container["Id"], force=True, v=True)
    api.close()


def test_the_main_job_from_the_plan_to_nothing_left(elsewhere: Project) -> None:
    project = elsewhere
    parts = [f"--target={address}" for address in ("done", "tries", "after", "missing")]
    applied = project.ok("apply", "--yes", *parts, code=3)
    assert "no-such-program-here" in applied.out + applied.err
    project.ok("apply", "--yes", "--detach", "--target=live")
    status = project.status()
    ends = {address: (one["status"], one["exit_code"], one["attempts"]) for address, one in status.items()}
    assert ends["tries"] == ("succeeded", 0, 3)
    assert ends["done"] == ends["after"] == ("succeeded", 0, 1)
    assert ends["missing"][:2] == ("failed", 127)
    assert ends["live"][0] == "running"
    assert project.ok("logs", "tries").out == "try\ntry\ntry\n"
    assert project.actions() == dict.fromkeys(("done", "tries", "after", "live"), "no-op") | {"missing": "rerun"}
    project.ok("destroy", "--yes")
    assert project.status() == {}
    api = docker_api(project.env["DOCKER_HOST"])
    assert not api.containers(all=True, filters={"label": f"dev.flowplan.project={project.name}"})
    api.close()


def test_one_engine_is_not_taken_for_another(elsewhere: Project) -> None:
    project = elsewhere
    project.write(SPEC.partition("  tries:")[0])
    project.ok("apply", "--yes")
    there = project.env["DOCKER_HOST"]
    for other in {os.environ[name] for name in ("DOCKER_CURRENT", "PODMAN") if os.environ.get(name)} - {there}:
        refused = project.run("status", env={"DOCKER_HOST": other})
        assert (refused.code, "another Docker engine" in refused.err) == (6, True), refused
    assert project.status()["done"]["status"] == "succeeded"
