"""Environments: dev and prod are one spec with two states that cannot be mixed up, on every engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from projects import Project, clear, until

SPEC = """\
flowplan: 1
project: envs
include: shared/common.yaml
variables: {tag: {default: "1.4"}}
defaults: {labels: {team: data}, grace_period: 1s}
runs:
  train: {extends: base, command: [sh, -c, 'echo "${environment} ${var.tag}"; until [ -e go ]; do sleep 0.05; done']}
  report: {extends: base, needs: train}
environments:
  dev: {variables: {tag: latest}, runs: {report: null}}
  prod: {runs: {train: {timeout: 6h}}}
"""
COMMON = "runs:\n  base: {provider: process, command: [echo, base], labels: {kind: job}}\n"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path, {"NO_COLOR": "1"})
    (tmp_path / "shared").mkdir()
    made.write(SPEC)
    made.write(COMMON, "shared/common.yaml")
    yield made
    clear(made)
    for state in sorted((tmp_path / ".flowplan").glob("*.db")):
        made.run("destroy", "--yes", "--allow-interrupt", "*", "--state", str(state), timeout=180)


def test_two_environments_side_by_side_on_one_host(project: Project) -> None:
    """Each has its state, its last plan and its names; a live run of one is nothing to the other."""
    assert project.ok("validate").out == "flowplan.yaml (dev): valid, 2 runs\nflowplan.yaml (prod): valid, 3 runs\n"
    shown = project.ok("plan", "--env", "dev").out
    assert shown.startswith(f"Plan for {project.name} (dev): 2 to create.\n")
    assert "To do exactly this: flowplan apply --env dev\n" in shown and "latest" in shown and "report" not in shown
    explained = project.ok("plan", "--env", "dev", "--explain").out
    assert "var.tag: environments.dev (flowplan.yaml:10)" in explained
    assert "labels.kind: job  # shared/common.yaml:2" in explained
    project.ok("apply", "--env", "dev", "--yes", "--detach")
    assert project.ok("plan", "--env", "prod").out.startswith(f"Plan for {project.name} (prod): 3 to create.\n")
    schema = json.loads((Path(__file__).parents[2] / "schemas/plan.schema.json").read_text())
    jsonschema.validate(project.plan("--env", "prod"), schema)
    (project.directory / "go").touch()
    done = project.ok("apply", "--env", "prod", "--yes")
    assert "Applying the last plan" in done.err and "train | prod 1.4" in done.out
    assert set(project.status("--env", "prod")) == {"base", "train", "report"}
    assert set(project.status("--env", "dev")) == {"base", "train"}
    project.ok("watch", "--env", "dev")
    status = project.ok("status", "--format", "json", env={"FLOWPLAN_ENV": "dev"}).json
    assert (status["project"], status["environment"]) == (project.name, "dev")
    assert {run["name"] for run in status["runs"]} == {f"{project.name}-dev-base-1", f"{project.name}-dev-train-1"}
    assert project.ok("logs", "train", "--env", "dev").out == "dev latest\n"
    assert {event["status"] for event in project.events("--env", "dev")} >= {"running", "succeeded"}
    assert {one["address"] for one in project.ok("history", "--env", "prod", "--format", "json").json["attempts"]} == {
        "base", "train", "report",
    }  # fmt: skip
    assert sorted(path.name for path in (project.directory / ".flowplan").glob("*.json")) == [
        "state.dev.plan.json", "state.dev.plan.made.json", "state.prod.plan.json", "state.prod.plan.made.json",
    ]  # fmt: skip
    project.ok("destroy", "--env", "dev", "--yes")
    assert project.actions("--env", "prod") == dict.fromkeys(["base", "train", "report"], "no-op")


def test_markdown_has_a_section_for_each_environment_and_says_once_what_is_alike(project: Project) -> None:
    project.write(SPEC.replace("needs: train", 'needs: train, command: [echo, "${environment}"]'))
    both = ("--env", "dev", "--env", "prod")
    made = project.ok("plan", *both, "--out", "plan.json", "--format", "markdown", "--summary-file", "summary.md").out
    digests = [json.loads((project.directory / f"plan.{env}.json").read_text())["digest"] for env in ("dev", "prod")]
    assert made.splitlines()[:2] == [
        f"<!-- flowplan:project={project.name} environment={env} digest={digest} -->"
        for env, digest in zip(("dev", "prod"), digests, strict=True)
    ]
    sections = re.split("(?m)^#### ", made)[1:]
    assert [section.partition("\n")[0] for section in sections] == [
        "<code>dev</code> and <code>prod</code>",
        f"Plan for {project.name} (dev): 2 to create.",
        f"Plan for {project.name} (prod): 3 to create.",
    ]
    listed = [set(re.findall(r"create \| <code>(\w+)", section)) for section in sections]
    assert listed == [{"base"}, {"train"}, {"train", "report"}]
    assert "latest" in sections[1] and "timeout: 6h" in sections[2]
    assert all("1 run changes as told above." in section for section in sections[1:])
    assert (project.directory / "summary.md").read_text().strip() == made.strip()
    told = project.ok("plan", env={"FLOWPLAN_ENV": "dev prod"}).out
    assert re.findall(r"(?m)^Digest: (.*)", told) == digests
    (project.directory / "go").touch()
    project.ok("apply", "plan.dev.json", "--env", "dev", "--yes")
    assert project.ok("plan", *both, "--detailed-exitcode", code=2).out.count("No changes.") == 1
    for wrong in (["--format", "json"], ["--env", "dev"], ["--state", "one.db"], ["--check", "plan.dev.json"]):
        assert project.run("plan", *both, *wrong).code == 7, wrong
    refused = project.ok("plan", "--env", "dev", "--env", "prd", code=7).err
    assert refused.startswith("environment prd:\n")


def test_the_environment_is_named_at_each_command(project: Project) -> None:
    (project.directory / "go").touch()
    named = "environments dev, prod; name one with --env or FLOWPLAN_ENV"
    for command in (
        ["plan"], ["apply", "--yes"], ["destroy", "--yes"], ["status"], ["watch"], ["history"], ["logs", "train"], ["events"],
        ["show"], ["state", "list"], ["state", "pull"], ["state", "rebuild"], ["plan", "--destroy"],
    ):  # fmt: skip
        assert named in project.ok(*command, code=7).err, command
    for command in (["plan"], ["status"], ["destroy"]):
        assert 'no environment "prd", only dev, prod; did you mean "prod"?' in project.ok(
            *command, "--env", "prd", code=7
        ).err.replace(" (did", "; did").replace("?)", "?")
    assert "--env is given twice" in project.ok("apply", "--env", "dev", "--env=prod", "--yes", code=7).err
    assert "is no name of an environment" in project.ok("status", "--env", "../x", code=7).err
    assert not (project.directory / ".flowplan").exists()
    plain = Project(project.directory / "plain")
    plain.directory.mkdir()
    plain.write("flowplan: 1\nproject: plain\nruns:\n  a: {provider: process, command: [echo, '${environment}']}\n")
    assert "has no environments; leave --env and FLOWPLAN_ENV out" in plain.ok(
        "plan", "--env", "dev", code=7
    ).err.replace(" (leave", "; leave")
    assert plain.plan()["changes"][0]["after"]["Process"]["argv"] == ["echo", "${environment}"]


def test_states_and_plans_of_another_environment_are_refused(project: Project) -> None:
    (project.directory / "go").touch()
    project.ok("apply", "--env", "dev", "--yes")
    for command in (["plan"], ["apply", "--yes"], ["status"], ["destroy", "--yes"]):
        refused = project.ok(*command, "--env", "prod", "--state", ".flowplan/state.dev.db", code=6)
        assert "belongs to environment dev" in refused.err
    project.ok("plan", "--env", "dev", "--rerun", "train", "--out", "plan.json")
    assert json.loads((project.directory / "plan.json").read_text())["environment"] == "dev"
    assert (
        "is a plan for environment dev, not for prod"
        in project.ok("apply", "plan.json", "--env", "prod", "--yes", code=6).err
    )
    assert project.ok("apply", "plan.json", "--yes", code=7).err.count("--env") == 1
    assert project.ok("show", "plan.json").out.startswith(f"Plan for {project.name} (dev): 1 to rerun")
    project.ok("plan", "--check", "plan.json", "--env", "dev")
    project.ok("apply", "plan.json", "--env", "dev", "--yes")
    # What is recorded goes with the state, and comes back with it.
    dump = project.ok("state", "pull", "--env", "dev").out
    (project.directory / "dump.json").write_text(dump)
    shutil.rmtree(project.directory / ".flowplan")
    project.ok("state", "push", "dump.json", "--state", "moved.db")
    assert "belongs to environment dev" in project.ok("plan", "--env", "prod", "--state", "moved.db", code=6).err


def test_each_environment_has_files_of_its_own(project: Project) -> None:
    fields = "env_file: ['${environment}.env', own.env], command: [env]"
    project.write(COMMON.replace("command: [echo, base]", fields), "shared/common.yaml")
    project.write(
        SPEC.replace("{extends: base, command: [sh", "{extends: base, template: '${environment}.json', command: [sh")
    )
    for name in ("dev", "prod"):
        project.write(f"WHERE={name}\n", f"shared/{name}.env")
        project.write('{"job_configuration": {"command": "true"}, "variables": {}}', f"{name}.json")
    project.write("OWN=1\n", "shared/own.env")
    project.ok("validate")
    files = set()
    for name in ("dev", "prod"):
        [base] = project.plan("--env", name, "--target", "base")["changes"]
        files.add(base["after"]["Process"]["env"]["WHERE"].split("#")[0])
    assert files == {"(sensitive env_file:shared/dev.env", "(sensitive env_file:shared/prod.env"}
    (project.directory / "shared/prod.env").unlink()
    told = project.ok("validate", code=7).err
    assert "runs.base.env_file[0]: shared/prod.env: there is no such file" in told and "dev.env" not in told


def test_a_changed_included_file_outdates_the_last_plan(project: Project) -> None:
    (project.directory / "go").touch()
    project.ok("plan", "--env", "dev")
    project.write(COMMON.replace("echo, base", "echo, other"), "shared/common.yaml")
    done = project.ok("apply", "--env", "dev", "--yes")
    assert "the spec, or a file that it names, changed since the last plan" in done.err and "base | other" in done.out


def test_a_project_that_gets_environments_starts_nothing_again(project: Project) -> None:
    project.write("flowplan: 1\nproject: envs\nruns:\n  a: {provider: process, command: ['true']}\n")
    project.ok("apply", "--yes")
    project.write(
        "flowplan: 1\nproject: envs\nruns:\n  a: {provider: process, command: ['true']}\nenvironments: {prod: {}}\n"
    )
    assert "--state .flowplan/state.db" in project.ok("status", code=7).err
    refused = project.ok("plan", "--env", "prod", code=6)
    assert "has a state from before it had environments" in refused.err
    project.ok("destroy", "--state", ".flowplan/state.db", "--yes")
    assert project.actions("--env", "prod") == {"a": "create"}


def test_faults_of_all_environments_are_told_once(project: Project) -> None:
    project.write(
        "flowplan: 1\nproject: envs\nruns:\n  a: {provider: process, comand: [x]}\n  b: {provider: process, command: [x]}\n"
        "environments:\n  dev: {runs: {b: {timeout: x}}}\n  prod: {runs: {b: {needs: c}}}\n"
    )
    told = project.ok("validate", code=7).err
    assert (
        told.count("comand") == 1
        and "environments.dev.runs.b.timeout" in told
        and "environments.prod.runs.b.needs" in told
    )
    assert "prod" not in project.ok("validate", "--env", "dev", code=7).err


def test_what_differs_between_two_environments(project: Project) -> None:
    project.write(
        "flowplan: 1\nproject: envs\nvariables: {tag: {default: a}, token: {sensitive: true, default: hunter2-x}}\nruns:\n"
        "  train: {provider: process, command: [echo, '${var.tag} ${environment}'], env: {T: '${var.token}'}}\n"
        "  web: {provider: docker, image: 'i:${var.tag}', timeout: 5m}\n  same: {provider: docker, image: i}\n"
        "  smoke: {extends: same}\nenvironments:\n  dev: {variables: {token: hunter2-y}}\n"
        "  prod: {variables: {tag: b}, runs: {smoke: null, web: {timeout: 9m}}}\n"
    )
    told = project.ok("diff", "--env", "dev", "--env", "prod").out
    assert told.splitlines() == [
        f"{project.name}, dev -> prod: 2 runs differ, 1 only in dev, 1 the same.",
        "",
        "-   smoke  only in dev",
        "",
        "~   train",
        "    ~ argv[1]: a dev -> b prod",
        "        dev: flowplan.yaml:5 (var.tag: default (flowplan.yaml:3))",
        "        prod: flowplan.yaml:5 (var.tag: environments.prod (flowplan.yaml:11))",
        "    ~ env.T: (sensitive var.token), another value in prod",
        "        dev: flowplan.yaml:5 (var.token: environments.dev (flowplan.yaml:10))",
        "        prod: flowplan.yaml:5 (var.token: default (flowplan.yaml:3))",
        "",
        "~   web",
        "    ~ Image: i:a -> i:b",
        "        dev: flowplan.yaml:6 (var.tag: default (flowplan.yaml:3))",
        "        prod: flowplan.yaml:6 (var.tag: environments.prod (flowplan.yaml:11))",
        "    ~ timeout: 5m -> 9m",
        "        dev: flowplan.yaml:6",
        "        prod: flowplan.yaml:11 in environments.prod",
    ]
    document = project.ok("diff", "--env", "prod", "--env", "dev", "--format", "json").json
    assert (document["environments"], document["only"]["dev"], document["same"]) == (
        ["prod", "dev"],
        ["smoke"],
        ["same"],
    )
    assert "hunter2" not in told + json.dumps(document)
    assert "diff compares two environments" in project.ok("diff", "--env", "dev", code=7).err
    assert not (project.directory / ".flowplan").exists()


@pytest.mark.docker
def test_containers_of_two_environments(project: Project) -> None:
    spec = SPEC.replace("until [ -e go ]; do sleep 0.05; done", "sleep 300")
    project.write(spec)
    project.write(COMMON.replace("provider: process", 'provider: docker, image: "busybox:1.35"'), "shared/common.yaml")
    project.ok("apply", "--env", "dev", "--yes", "--detach")
    project.ok("apply", "--env", "prod", "--yes", "--detach", "--target", "train")
    listed = subprocess.run(
        ["docker", "ps", "-a", "--format", "{{.Names}} {{.Label \"dev.flowplan.environment\"}}", "--filter", f"label=dev.flowplan.project={project.name}"],
        check=True, capture_output=True, text=True,
    ).stdout.split("\n")  # fmt: skip
    assert {f"{project.name}-dev-train-1 dev", f"{project.name}-prod-train-1 prod"} <= set(listed)
    # A lost state is rebuilt from the objects of its environment alone.
    for path in (project.directory / ".flowplan").glob("state.prod.*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "is managed by another state" in project.ok("plan", "--env", "prod", code=6).err
    rebuilt = project.ok("state", "rebuild", "--env", "prod").err
    assert "train: attempt 1 is running" in rebuilt and "base" not in rebuilt
    assert project.actions("--env", "prod", "--target", "train") == {"train": "no-op"}


@pytest.mark.kubernetes
def test_jobs_of_two_environments(project: Project, namespace: str) -> None:
    project.write(SPEC.replace("until [ -e go ]; do sleep 0.05; done", "sleep 300"))
    block = f'provider: kubernetes, image: "busybox:1.35", image_pull_policy: IfNotPresent, kubernetes: {{namespace: {namespace}}}'
    project.write(COMMON.replace("provider: process", block), "shared/common.yaml")
    project.ok("apply", "--env", "dev", "--yes", "--detach", "--target", "train")
    project.ok("apply", "--env", "prod", "--yes", "--detach", "--target", "train")
    names = {env: until(lambda env=env: project.status("--env", env)["train"]["name"]) for env in ("dev", "prod")}
    assert names == {"dev": f"{project.name}-dev-train-1", "prod": f"{project.name}-prod-train-1"}
    assert project.actions("--env", "dev", "--target", "train") == {"train": "no-op"}
    shutil.rmtree(project.directory / ".flowplan")
    assert "is managed by another state" in project.ok("plan", "--env", "prod", "--target", "train", code=6).err
    project.ok("state", "rebuild", "--env", "prod")
    project.ok("state", "rebuild", "--env", "dev")
    assert project.actions("--env", "prod", "--target", "train") == {"train": "no-op"}
