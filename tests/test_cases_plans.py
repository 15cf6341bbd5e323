"""Plans are the whole truth and authentic: cases that once showed something else than what was done."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from projects import Project

from flowplan.schemas.plan_documents import plan_digest, plan_json, read_plan, sealed_json
from flowplan.schemas.plans import Plan

sys.path.append(str(Path(__file__).parent / "faults"))
from own_docker import OwnDocker, missing

CaseProject = Callable[..., Project]


# -- what is applied is what this state planned -------------------------------------------------------------------------


def forged(plan: Plan, directory: Path) -> Plan:
    """Let an innocent plan connect by a kubeconfig that runs a program of the forger's."""
    exec_plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "sh",
        "interactiveMode": "Never",
        "args": ["-c", f"id > {directory}/pwned; exit 1"],
    }
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443", "insecure-skip-tls-verify": True}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"exec": exec_plugin}}],
    }
    return replace(plan, providers={"process": {"type": "kubernetes", "kubeconfig": kubeconfig}})


def with_the_old_seal(forgery: Plan, genuine: str) -> str:
    return plan_json(forgery).removesuffix("\n}\n") + genuine[genuine.rindex(',\n "seal": ') :]


FORGERIES: dict[str, Callable[[Plan, str], str]] = {
    "the reviewed digest and seal": with_the_old_seal,
    "a digest of its own and the old seal": lambda p, text: with_the_old_seal(replace(p, digest=plan_digest(p)), text),
    "the seal of another key": lambda p, text: sealed_json(replace(p, digest=plan_digest(p)), b"forger"),
    "no seal": lambda p, text: plan_json(replace(p, digest=plan_digest(p))),
}


@pytest.mark.parametrize("how", FORGERIES)
def test_a_forged_plan_is_refused_before_anything_of_it_is_acted_upon(case_project: CaseProject, how: str) -> None:
    project = case_project("rs-04-forged-kubeconfig")
    project.ok("plan", "--out", "plan.json")
    genuine = project.directory / "plan.json"
    forgery = FORGERIES[how](forged(read_plan(genuine).plan, project.directory), genuine.read_text())
    project.write(forgery, "forged.json")
    for command in (["plan", "--check", "forged.json"], ["apply", "--yes", "--max-age", "7d", "forged.json"]):
        assert "forged.json: " in project.ok(*command, code=4).err
    for form in ("text", "markdown", "json"):
        shown = project.ok("show", "forged.json", "--format", form, code=4)
        assert "edited" in shown.out + shown.err or "no seal" in shown.out + shown.err
    assert not (project.directory / "pwned").exists()
    assert project.status() == {}
    project.ok("plan", "--check", "plan.json")
    project.ok("apply", "--yes", "plan.json")


def test_a_forged_last_plan_is_refused_too(case_project: CaseProject) -> None:
    project = case_project("rs-04-forged-kubeconfig")
    project.ok("plan")
    last = project.directory / ".flowplan" / "plan.json"
    text = last.read_text()
    last.write_text(with_the_old_seal(forged(read_plan(last).plan, project.directory), text))
    project.run("apply", "--yes")
    assert not (project.directory / "pwned").exists()


def test_a_plan_of_another_state_is_refused_and_shown_as_not_verified(case_project: CaseProject) -> None:
    project, other = case_project("rs-04-forged-kubeconfig"), case_project("rs-04-forged-kubeconfig")
    project.ok("plan", "--out", "plan.json")
    other.ok("plan")
    foreign = str(project.directory / "plan.json")
    assert "another state" in other.ok("apply", "--yes", foreign, code=4).err
    assert "not verified" in other.ok("show", foreign).out
    assert "not verified" in other.ok("show", foreign, "--state", "nowhere/state.db").out
    assert not (other.directory / "nowhere").exists()


def test_a_plan_is_the_same_bytes_but_for_its_time_and_seal(case_project: CaseProject) -> None:
    project = case_project("rs-04-forged-kubeconfig")
    for name in ("one.json", "two.json"):
        project.ok("plan", "--out", name)
    one, two = (json.loads((project.directory / name).read_text()) for name in ("one.json", "two.json"))
    assert {key for key in one if one[key] != two[key]} == {"made_at", "seal"}
    assert project.ok("plan", "--format", "json").out == project.ok("plan", "--format", "json").out


def test_a_plan_is_applied_in_another_checkout_of_the_same_state(case_project: CaseProject, tmp_path: Path) -> None:
    """The spec is named relative to the project, and the files that it names are looked up beside it."""
    one, two = case_project("rs-04-forged-kubeconfig"), case_project("rs-04-forged-kubeconfig")
    text = "flowplan: 1\nproject: case\nruns:\n  a: {provider: process, command: [sh, -c, 'test $S = x'], working_dir: /, env: {S: {from_file: s}}}\n"
    for checkout in (one, two):
        checkout.write(text)
        checkout.write("x", "s")
        checkout.env["FLOWPLAN_STATE"] = str(tmp_path / "shared" / "state.db")
    one.ok("plan", "--out", str(tmp_path / "plan.json"))
    assert json.loads((tmp_path / "plan.json").read_text())["spec"]["path"] == "flowplan.yaml"
    (one.directory / "s").unlink()
    two.ok("plan", "--check", str(tmp_path / "plan.json"))
    two.ok("apply", "--yes", str(tmp_path / "plan.json"))
    assert two.statuses() == {"a": "succeeded"}


# -- where it is done ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def second_engine() -> Iterator[str]:
    """Start a Docker Engine beside that of DOCKER_HOST, and return its address."""
    if why := missing():
        pytest.skip(why)
    engine = OwnDocker()
    engine.start()
    yield engine.host
    engine.close()


@pytest.mark.docker
def test_a_plan_is_refused_on_another_engine(case_project: CaseProject, second_engine: str) -> None:
    project = case_project("rs-06-other-engine")
    host = os.environ["DOCKER_HOST"]
    for form in ("text", "markdown", "json"):
        assert host in project.ok("plan", "--format", form, "--out", "plan.json").out, "the plan names its engine"
    other: dict[str, Any] = {"env": {"DOCKER_HOST": second_engine}}
    for command in (["apply", "--yes", "plan.json"], ["plan", "--check", "plan.json"]):
        refused = project.ok(*command, code=6, **other)
        assert host in refused.err and second_engine in refused.err
    assert project.status() == {}
    project.ok("plan", "--check", "plan.json")
