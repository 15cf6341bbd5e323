"""Files of variables, and arguments that are too long: what a spec says is what a run gets, or the plan says why not."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable

import pytest
from projects import Project

SECRET = "correct-horse"
ARRIVED = """[sh, -c, 'test "$PGHOST/$PGPASSWORD/$GREETING" = "db/correct-horse/hello world"']"""


def test_cases_are_projects_of_their_own(case_project: Callable[..., Project]) -> None:
    one, two = case_project("20-big-variable"), case_project("20-big-variable", {"ha-x": "another"})
    assert one.name != two.name and one.name.startswith("case-20-")
    assert "another" in (two.directory / "flowplan.yaml").read_text()
    assert one.ok("validate", "--var-file", "vars.yaml").err == ""


def without_secret(project: Project, *shown: str) -> None:
    kept = b"".join(p.read_bytes() for p in (project.directory / ".flowplan").rglob("*") if p.is_file())
    assert SECRET not in "".join(shown) and SECRET.encode() not in kept


@pytest.mark.docker
def test_variables_from_a_file(case_project: Callable[..., Project]) -> None:
    project = case_project("11-env-file")
    planned = [project.ok("plan", "--format", form).out for form in ("text", "markdown", "json")]
    assert all("env_file:.env#PGPASSWORD" in text for text in planned)
    applied = project.ok("apply", "--yes")
    assert {f"{a} | {n}=(sensitive)" for a in "dp" for n in ("PGHOST", "PGPASSWORD", "GREETING")} <= set(
        applied.out.splitlines()
    )
    without_secret(project, *planned, applied.out, applied.err, project.ok("logs", "p").out)
    project.ok("plan", "--detailed-exitcode")


@pytest.mark.parametrize("provider", ["process", pytest.param("docker", marks=pytest.mark.docker)])
def test_the_values_arrive(case_project: Callable[..., Project], provider: str) -> None:
    project = case_project("11-env-file", {"[env]": ARRIVED})
    project.ok("apply", "--yes", "flowplan.yaml", "--target", provider[0])


@pytest.mark.parametrize("provider", ["process", pytest.param("docker", marks=pytest.mark.docker)])
def test_no_list_of_processes_has_the_values(case_project: Callable[..., Project], provider: str) -> None:
    secret = f"canary-{uuid.uuid4().hex}"
    project = case_project("11-env-file", {"[env]": "[sleep, '300'], grace_period: 0s"})
    (project.directory / ".env").write_text(f"PGPASSWORD={secret}\n")
    project.ok("apply", "--yes", "--detach", "--target", provider[0])
    listed = subprocess.run(["ps", "-eo", "args", "-ww"], check=True, capture_output=True, text=True).stdout
    assert "sleep 300" in listed and secret not in listed


@pytest.mark.kubernetes
def test_the_values_arrive_in_a_pod(case_project: Callable[..., Project], namespace: str) -> None:
    run = f'{{provider: kubernetes, image: "busybox:1.35", kubernetes: {{namespace: {namespace}}}'
    project = case_project("11-env-file", {'{provider: docker, image: "busybox:1.35"': run, "[env]": ARRIVED})
    planned = project.ok("plan").out
    applied = project.ok("apply", "--yes", "flowplan.yaml", "--target", "d")
    without_secret(project, planned, applied.out, applied.err)
