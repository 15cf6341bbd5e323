"""`flowplan apply` alone: the last plan while everything that it was made from is as it was, else the spec."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from conftest import Project, until

SPEC = """\
flowplan: 1
project: demo
variables:
  word: {type: string, default: one}
runs:
  a: {provider: process, command: [sh, -c, 'echo ${var.word} >> said']}
"""


def said(project: Project) -> list[str]:
    path = project.directory / "said"
    return path.read_text().split() if path.exists() else []


def test_the_last_plan_is_applied_and_named(project: Project) -> None:
    project.write(SPEC)
    project.ok("plan", "--var", "word=planned")
    assert "Applying the last plan" in project.ok("apply", "--yes").err
    assert said(project) == ["planned"]


def test_it_is_applied_once(project: Project) -> None:
    project.write(SPEC)
    project.ok("plan", "--var", "word=planned")
    project.ok("apply", "--yes")
    assert "Applying the last plan" not in project.ok("apply", "--yes").err
    assert said(project) == ["planned", "one"]


def test_an_edited_spec_is_planned_anew(project: Project) -> None:
    project.write(SPEC)
    project.ok("plan")
    project.write(SPEC.replace("echo ${var.word}", "echo edited"))
    assert "Planning flowplan.yaml anew: the spec" in project.ok("apply", "--yes").err
    assert said(project) == ["edited"]
    project.write(SPEC.replace("echo ${var.word}", "echo again"))
    project.ok("apply", "--yes")
    assert said(project) == ["edited", "again"]


@pytest.mark.parametrize("planned", [True, False])
def test_a_broken_or_missing_spec_is_an_error(project: Project, planned: bool) -> None:
    project.write(SPEC)
    project.ok("plan")
    if not planned:
        project.ok("apply", "--yes")
    before = said(project)
    spec = project.write("garbage: [")
    project.ok("apply", "--yes", code=7)
    spec.unlink()
    assert "flowplan.yaml" in project.ok("apply", "--yes", code=7).err
    assert said(project) == before


def test_what_always_runs_again_does_each_time(project: Project) -> None:
    project.write(SPEC.replace("process,", "process, rerun: always,"))
    project.ok("plan")
    for times in range(1, 4):
        project.ok("apply", "--yes")
        assert len(said(project)) == times


@pytest.mark.parametrize("mode", ["--destroy", "--refresh-only"])
def test_looking_at_another_kind_of_plan_arms_nothing(project: Project, mode: str) -> None:
    project.write(SPEC)
    project.ok("apply", "--yes")
    project.ok("plan", mode)
    for _ in range(2):
        project.ok("apply", "--yes")
        assert project.statuses() == {"a": "succeeded"}
    project.write(SPEC.replace("echo ${var.word}", "echo edited"))
    project.ok("plan", mode)
    project.ok("apply", "--yes")
    assert said(project) == ["one", "edited"]


def test_a_plan_that_changes_nothing_is_not_kept_for_later(project: Project) -> None:
    project.write(SPEC)
    project.ok("apply", "--yes")
    project.ok("plan")
    project.ok("apply", "--yes", "--rerun", "a")
    assert len(said(project)) == 2


def test_a_file_that_the_spec_names_counts(project: Project) -> None:
    project.write(SPEC + "policies: [policy.yaml]\n")
    policy = "policies: [{name: there, schema: {required: [Process]}}]\n"
    project.write(policy, "policy.yaml")
    project.ok("plan", "--var", "word=planned")
    project.write(policy + "# changed\n", "policy.yaml")
    assert "anew" in project.ok("apply", "--yes").err
    assert said(project) == ["one"]


def test_a_secret_counts_wherever_it_comes_from(project: Project) -> None:
    project.write(SPEC.replace("process,", "process, env: {F: {from_file: secret}, E: {from_env: SECRET}},"))
    for name, change in (("file", {}), ("environment", {"SECRET": "another value"})):
        project.write("a first value", "secret")
        env = {"SECRET": "what was there before"}
        project.ok("plan", "--var", f"word={name}", env=env)
        if name == "file":
            project.write("a second value", "secret")
        assert "anew" in project.ok("apply", "--yes", env={**env, **change}).err
    assert said(project) == ["one", "one"]


@pytest.mark.parametrize("way", ["option", "file", "environment"])
def test_variables_that_are_given_otherwise_are_planned_anew(project: Project, way: str) -> None:
    project.write(SPEC)
    project.write("word: other\n", "values.yaml")
    options = {"option": ["--var", "word=other"], "file": ["--var-file", "values.yaml"]}.get(way, [])
    env = {"FLOWPLAN_VAR_word": "other"} if way == "environment" else {}
    project.ok("plan", "--var", "word=planned")
    assert "anew" in project.ok("apply", "--yes", *options, env=env).err
    assert said(project) == ["other"]
    project.ok("plan")
    assert "anew" in project.ok("apply", "--yes", "--var", "word=third").err
    assert said(project) == ["other", "third"]


def test_the_same_variables_again_are_no_change(project: Project) -> None:
    project.write(SPEC.replace("default: one", "sensitive: true"))
    project.ok("plan", "--var", "word=planned")
    assert "Applying the last plan" in project.ok("apply", "--yes", "--var", "word=planned").err
    assert said(project) == ["planned"]


@pytest.mark.parametrize("option", [["--rerun", "a"], ["--target", "a"], ["--exclude", "a"]], ids=" ".join)
def test_options_of_planning_plan_anew(project: Project, option: list[str]) -> None:
    project.write(SPEC)
    project.ok("plan", "--var", "word=planned")
    assert "anew" in project.ok("apply", "--yes", *option).err
    assert said(project) == ([] if option[0] == "--exclude" else ["one"])


def test_a_later_apply_supersedes_it(project: Project) -> None:
    project.write(SPEC)
    project.ok("plan", "--var", "word=first", "--out", "first.json")
    project.ok("plan", "--var", "word=second")
    project.ok("apply", "--yes", "first.json")
    assert "Applying the last plan" not in project.ok("apply", "--yes", "flowplan.yaml").err
    assert said(project) == ["first", "one"]


def test_it_is_applied_from_below_and_its_spec_is_remembered(project: Project) -> None:
    project.write(SPEC, "other.yaml")
    project.ok("plan", "other.yaml", "--var", "word=planned")
    below = project.directory / "below"
    below.mkdir()
    Project(below, project.env).ok("apply", "--yes")
    project.ok("apply", "--yes")
    assert said(project) == ["planned", "one"]


def test_a_stale_last_plan_is_planned_anew(project: Project) -> None:
    project.write(SPEC.replace("echo ${var.word} >> said", "echo $$ >> said; exec sleep 600"))
    project.ok("apply", "--yes", "--detach")
    project.ok("plan", "--rerun", "a", "--var", "word=second")
    pid = int(until(lambda: said(project))[0])
    os.kill(pid, signal.SIGKILL)
    project.await_status("a", "failed")
    assert "anew" in project.ok("apply", "--yes", "--detach").err
    until(lambda: len(said(project)) == 2)


def test_what_an_interrupted_apply_did_not_start_is_started_next(project: Project) -> None:
    project.write("""\
flowplan: 1
project: demo
runs:
  first: {provider: process, rerun: always, command: [sh, -c, 'echo ran >> first; until [ -e go ]; do sleep 0.05; done']}
  then: {provider: process, command: [sh, -c, 'echo ran >> then'], needs: [first]}
""")
    project.ok("apply", "--yes", "--wait-timeout", "1s", code=8)
    (project.directory / "go").touch()
    project.await_status("first", "succeeded")
    assert "Applying the last plan" in project.ok("apply", "--yes").err
    assert (project.directory / "first").read_text() == (project.directory / "then").read_text() == "ran\n"


def test_a_last_plan_that_was_edited_is_not_applied(project: Project) -> None:
    project.write(SPEC)
    project.ok("plan")
    kept = Path(project.directory / ".flowplan/plan.json")
    kept.write_text(kept.read_text().replace("echo one", "echo no"))
    assert "anew" in project.ok("apply", "--yes").err
    assert said(project) == ["one"]
