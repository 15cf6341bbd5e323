"""Output of pods that are several, gone or long-winded, and answers that never came, on a real cluster."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import FaultyProxy
from projects import Project, until

from flowplan.providers.kubernetes.connection import endpoint
from flowplan.providers.kubernetes.jobs import core_path, jobs_path
from flowplan.providers.kubernetes.requests import Api

pytestmark = pytest.mark.kubernetes
Make = Callable[..., Project]
MERGE = "application/merge-patch+json"
LINE = "cannot reach the database"


@pytest.fixture
def api() -> Api:
    return Api(endpoint({}, Path("/")))


def edit(project: Project, old: str, new: str) -> None:
    path = project.directory / "flowplan.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("shown", [True, False])
def test_output_of_pods_that_the_back_off_limit_deleted(case_project: Make, namespace: str, shown: bool) -> None:
    project = case_project("03-onfailure-output", {"ha-x": namespace})
    if not shown:
        edit(project, "    retries: 1", "    retries: 1\n    stream_output: false")
    applied = project.ok("apply", "--yes", code=3)
    assert (LINE in applied.out) is shown
    assert LINE in project.ok("logs", "job").out.splitlines()
    run = project.status()["job"]
    assert (run["exit_code"], run["reason"]) == (7, "BackoffLimitExceeded")


def test_output_of_a_pod_that_the_deadline_deleted(case_project: Make, namespace: str) -> None:
    project = case_project("03-onfailure-output", {"ha-x": namespace})
    edit(project, "sleep 1; exit 7'", "sleep 60'")
    edit(project, "    retries: 1", "    timeout: 3s")
    project.ok("apply", "--yes", code=3)
    assert project.status()["job"]["status"] == "timed_out"
    assert project.ok("logs", "job").out.splitlines() == [LINE]


def test_nothing_kept_is_said(case_project: Make, namespace: str, api: Api) -> None:
    project = case_project("03-onfailure-output", {"ha-x": namespace})
    edit(project, "sleep 1; exit 7'", "true'")
    project.ok("apply", "--yes", "--detach")
    selector = f"flowplan.dev/project={project.name}"
    until(lambda: (api.items(jobs_path(namespace), labelSelector=selector)[0].get("status") or {}).get("succeeded"))
    (pod,) = api.items(core_path(namespace, "pods"), labelSelector=selector)
    api.call("DELETE", core_path(namespace, "pods", pod["metadata"]["name"]))
    told = project.run("logs", "job")
    assert told.code == 1 and told.out == "" and "are gone, and their output with them" in told.err


def test_output_of_a_job_that_was_deleted_while_it_ran(case_project: Make, namespace: str, api: Api) -> None:
    project = case_project("03-onfailure-output", {"ha-x": namespace})
    edit(project, "sleep 1; exit 7'", "sleep 300'")
    with project.start("apply", "--yes") as apply:
        until(lambda: (project.directory / ".flowplan" / "state.db").exists())
        project.await_status("job", "running")
        assert apply.stdout and next(apply.stdout) == f"job | {LINE}\n"
        name = project.status()["job"]["infrastructure_id"].rpartition(":")[2]
        api.call("DELETE", jobs_path(namespace, name), body={"propagationPolicy": "Background"})
        apply.communicate(timeout=90)
        assert apply.returncode == 3
    assert project.status()["job"]["status"] == "lost"
    assert project.ok("logs", "job").out.splitlines() == [LINE]


def test_lines_of_several_pods_carry_their_names_as_they_come(case_project: Make, namespace: str) -> None:
    project = case_project("05-parallel-pods", {"ha-x": namespace})
    out = project.ok("apply", "--yes").out.splitlines()
    assert "more | one is enough" in out
    lines = [
        re.fullmatch(r"job \| \[(\S+)\] worker (\S+) (starts|ends)", line) for line in out if line.startswith("job")
    ]
    found = [(m[1], m[2], m[3]) for m in lines if m]
    assert len(found) == 6 and all(pod == host for pod, host, _ in found) and len({pod for pod, _, _ in found}) == 3
    assert [what for _, _, what in found][:2] == ["starts", "starts"]
    assert len(project.ok("logs", "job").out.splitlines()) == 6
    assert len(project.ok("logs", "job", "--tail", "2").out.splitlines()) == 2
    assert project.ok("logs", "more").out == "one is enough\n"
    assert {run["attempts"] for run in project.status().values()} == {1}


@pytest.mark.docker
def test_a_long_line_is_the_same_everywhere(case_project: Make, namespace: str) -> None:
    project = case_project("07-long-lines", {"ha-x": namespace})
    out = project.ok("apply", "--yes").out
    for run in "dkp":
        (live,) = re.findall(rf"(?m)^{run} \| (.*)$", out)
        assert len(json.loads(live)["k"]) == 32_768
        assert len(json.loads(project.ok("logs", run).out)["k"]) == 32_768
        (line,) = project.ok("logs", run, "--format", "json").out.splitlines()
        assert len(json.loads(json.loads(line)["text"])["k"]) == 32_768


def test_a_secret_across_the_parts_of_a_line_is_found(case_project: Make) -> None:
    project = case_project("rs-23-secret-across-time-stamp")
    project.env["HDS"] = "correct-horse-battery"
    out = project.ok("apply", "--yes").out
    logs = project.ok("logs", "k").out
    state = b"".join(p.read_bytes() for p in project.directory.rglob("*") if p.is_file() and p.suffix != ".yaml")
    for place in (out.encode(), logs.encode(), state):
        assert b"battery" not in place and b"corre" not in place
    assert "xxx" in logs and logs.endswith(" and more\n")


@pytest.mark.parametrize("kind", ["secrets", "jobs"])
@pytest.mark.parametrize("fault", ["hide", "lose"])
def test_what_an_unknown_answer_made_is_found_and_removed(
    case_project: Make, api: Api, kind: str, fault: str, tmp_path: Path
) -> None:
    project = case_project("rs-19-cut-answer-secret")
    config = Path(os.environ["KUBECONFIG"]).read_text()
    proxy = FaultyProxy(endpoint({}, Path("/")).server)
    try:
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(config.replace(endpoint({}, Path("/")).server, proxy.url))
        project.env |= {"KUBECONFIG": str(kubeconfig), "HDPW": "correct-horse-battery"}
        played = proxy.play(fault, "POST", rf"/{kind}\?(?!.*dryRun)", times=1)
        project.ok("apply", "--yes")
        assert played.hits == 1 and project.statuses() == {"migrate": "succeeded"}
        project.ok("destroy", "--yes")
    finally:
        proxy.close()
    assert left(api, project) == []


def left(api: Api, project: Project) -> list[Any]:
    selector = f"flowplan.dev/project={project.name}"
    return [
        one["metadata"]["name"]
        for path in (jobs_path("default"), core_path("default", "secrets"))
        for one in api.items(path, labelSelector=selector)
    ]


def test_a_controllers_field_is_left_alone_and_shrinking_is_an_interruption(
    case_project: Make, namespace: str, api: Api
) -> None:
    project = case_project("05-parallel-pods", {"ha-x": namespace})
    text = f"""
flowplan: 1
project: {project.name}
runs:
  job:
    provider: kubernetes
    image: busybox:1.35
    command: [sleep, "600"]
    protect: active
    kubernetes: {{namespace: {namespace}, job: {{spec: {{parallelism: 3, completions: 3}}}}}}
"""
    project.write(text)
    project.ok("apply", "--yes", "--detach")
    run = project.await_status("job", "running")
    path = jobs_path(namespace, run["infrastructure_id"].rpartition(":")[2])
    patch = {"spec": {"parallelism": 2}}
    until(lambda: api.get(path)["status"].get("active") == 3)

    api.call("PATCH", path, {"fieldManager": "keda-operator"}, patch, content=MERGE)
    assert project.actions() == {"job": "no-op"}
    api.call("PATCH", path, {"fieldManager": "kubectl-edit"}, {"spec": {"parallelism": 4}}, content=MERGE)
    until(lambda: api.get(path)["status"].get("active") == 3)
    assert project.actions() == {"job": "update"}

    project.write(text.replace("parallelism: 3", "parallelism: 1"))
    (change,) = project.plan()["changes"]
    assert change["action"] == "update" and change["interrupts"] and "protect: active" in change["skipped"]
    assert "parallelism 1 ends some of its 3 pods" in change["reasons"]
    project.ok("apply", "flowplan.yaml", "--yes", "--detach", code=6)
    assert api.get(path)["spec"]["parallelism"] == 4
    project.ok("apply", "flowplan.yaml", "--yes", "--detach", "--allow-interrupt", "job")
    assert api.get(path)["spec"]["parallelism"] == 1
    assert project.actions() == {"job": "no-op"}

    project.write(text.replace("parallelism: 3", "parallelism: 1").replace("    image:", "    timeout: 1s\n    image:"))
    (change,) = project.plan()["changes"]
    assert change["interrupts"] and "the limit of 1 s has passed already" in change["reasons"]


def test_the_image_that_ran_is_recorded(case_project: Make, namespace: str) -> None:
    project = case_project("03-onfailure-output", {"ha-x": namespace})
    edit(project, "sleep 1; exit 7'", "true'")
    project.ok("apply", "--yes")
    image = project.status()["job"]["image"]
    assert image["name"] == "busybox:1.35" and re.search(r"sha256:[0-9a-f]{64}$", image["id"])
