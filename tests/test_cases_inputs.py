"""Files of variables, and arguments that are too long: what a spec says is what a run gets, or the plan says why not."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from projects import Project

from flowplan.planner.compare.argument_lengths import long_arguments
from flowplan.schemas.plans import Action, Change

SECRET = "correct-horse"
ARRIVED = """[sh, -c, 'test "$PGHOST/${#PGPASSWORD}/$GREETING" = "db/13/hello world"']"""


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


LIMIT = 131_071
TOKEN = "(sensitive env:B 0123456789abcdef)"
MAIN = "/Job/spec/template/spec/containers/0"


def job(container: dict[str, Any]) -> dict[str, Any]:
    return {"Job": {"spec": {"template": {"spec": {"containers": [{"name": "main", **container}]}}}}}


@pytest.mark.parametrize(
    ("kind", "objects", "pointers"),
    [
        ("process", {"Process": {"argv": ["a", "x" * LIMIT], "env": {}}}, []),
        ("process", {"Process": {"argv": ["a", "x" * (LIMIT + 1)], "env": {}}}, ["/Process/argv/1"]),
        ("process", {"Process": {"argv": ["ä" * 65_536], "env": {}}}, ["/Process/argv/0"]),
        ("process", {"Process": {"argv": ["a"], "env": {"B": "x" * (LIMIT - 2)}}}, []),
        ("process", {"Process": {"argv": ["a"], "env": {"B/C": "x" * LIMIT}}}, ["/Process/env/B~1C"]),
        ("process", {"Process": {"argv": ["a"], "env": {"B": TOKEN, "C": None}}}, ["/Process/env/B"]),
        ("docker", {"Container": {"Config": {"Cmd": ["x" * 200_000]}}}, ["/Container/Config/Cmd/0"]),
        ("docker", {"Container": {"Config": {"Env": ["A=" + "x" * LIMIT, "B=x"]}}}, ["/Container/Config/Env/0"]),
        ("docker", {"Container": {"Config": {"Labels": {"a": "x" * 200_000}}}}, []),
        ("kubernetes", job({"env": [{"name": "A", "value": "x" * LIMIT}]}), [f"{MAIN}/env/0"]),
        ("kubernetes", job({"env": [{"name": "A", "valueFrom": {}}], "args": ["x" * 200_000]}), [f"{MAIN}/args/0"]),
        ("kubernetes", {"Secret": {"stringData": {"B": TOKEN}}}, ["/Secret/stringData/B"]),
    ],
)
def test_every_argument_that_is_too_long_is_found(kind: str, objects: dict[str, Any], pointers: list[str]) -> None:
    change = Change("a", kind, kind, Action.CREATE, ("new",), before=None, after=objects)
    [told] = long_arguments([change], {TOKEN: "x" * LIMIT})
    assert [(f.severity, f.message.split()[0]) for f in told.preflight] == [("error", p) for p in pointers]
    assert "xxxxx" not in str(told.preflight)
    [left] = long_arguments([replace(change, action=Action.NO_OP)], {TOKEN: "x" * LIMIT})
    assert left.preflight == ()


@pytest.mark.docker
@pytest.mark.kubernetes
def test_an_argument_that_is_too_long(case_project: Callable[..., Project], namespace: str) -> None:
    project = case_project("20-big-variable", {"ha-x": namespace})
    given = ("--var-file", "vars.yaml")
    changes = {c["address"]: c for c in project.plan(*given)["changes"]}
    for address in "pdk":
        [finding] = [f for f in changes[address]["preflight"] if f["check"] == "arguments"]
        assert finding["severity"] == "error" and "has 140,004 bytes" in finding["message"], finding
    assert "has 140,004 bytes" in project.ok("plan", *given).out
    told = project.ok("apply", "flowplan.yaml", *given, "--yes", code=3)
    ends = project.status()
    assert {a: ends[a]["reason"] for a in "pdk"} == dict.fromkeys("pdk", "ArgumentsTooLong"), told.err
    assert all("has 140,004 bytes" in ends[a]["message"] for a in "pdk")


@pytest.mark.parametrize("provider", ["process", pytest.param("docker", marks=pytest.mark.docker)])
def test_a_secret_that_is_too_long(case_project: Callable[..., Project], provider: str) -> None:
    project = case_project("11-env-file", {"[env]": "['true']"})
    (project.directory / ".env").write_text("PGPASSWORD=" + "s" * LIMIT)
    text = project.ok("plan", "--target", provider[0]).out
    assert "131,082 bytes" in text and "sssss" not in text
    project.ok("apply", "--yes", "flowplan.yaml", "--target", provider[0], code=3)
    assert project.status()[provider[0]]["reason"] == "ArgumentsTooLong"


@pytest.mark.kubernetes
def test_a_secret_that_is_too_long_for_a_pod(case_project: Callable[..., Project], namespace: str) -> None:
    """Expect the container's reason, also where a runtime tells it in the output alone."""
    place = f"provider: kubernetes, kubernetes: {{namespace: {namespace}}}"
    project = case_project("11-env-file", {"[env]": "['true']", "provider: docker": place})
    (project.directory / ".env").write_text("PGPASSWORD=" + "s" * LIMIT)
    project.ok("apply", "--yes", "flowplan.yaml", "--target", "d", code=3)
    end = project.status()["d"]
    assert end["reason"] in ("ArgumentsTooLong", "StartError"), end
    assert "131,082 bytes" in end["message"] or "argument list too long" in end["message"]
    assert "sssss" not in str(end) and project.status("--no-refresh")["d"]["reason"] == end["reason"]


def test_arguments_that_are_too_long_together(tmp_path: Path) -> None:
    project = Project(tmp_path, {"NO_COLOR": "1"}, before=("prlimit", "--stack=262144"))
    words = ", ".join(["x" * 10_000] * 20)
    project.write(f"flowplan: 1\nproject: p\nruns:\n  a: {{provider: process, command: [echo, {words}]}}\n")
    project.ok("apply", "--yes", code=3)
    end = project.status()["a"]
    assert end["reason"] == "ArgumentsTooLong" and "together" in end["message"]
