"""Three projects of a new user, from an empty folder, with the words of docs/ alone.

A nightly backfill of thirty days, a training that goes from Docker to Kubernetes, and a pipeline that brings the base job
template of a Prefect work pool. Each was once full of surprises; each test follows a day at work.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Project, until
from engines import docker_api

TEMPLATES = Path(__file__).parents[1] / "fixtures" / "templates"

BACKFILL = """\
# yaml-language-server: $schema=spec.schema.json
flowplan: 1
project: backfill
defaults: {provider: process}
runs:
  extract:
    command: [sh, -c, 'mkdir -p data && echo days > data/source']
  backfill:
    needs: extract
    matrix: {day: {from: "2026-10-01", to: "2026-10-30"}}
    keep: finished
    max_parallel: 10
    timeout: 1s
    env_file: etl.env
    env:
      SESSION: {from_env: AWS_SESSION_TOKEN, track: false}
    command: [./load.sh, --day, "${each.day}"]
  report:
    needs: [backfill]
    rerun_with: needs
    command: [sh, -c, 'echo "$(ls data | grep -c loaded) days"']
"""
LOAD = """\
#!/bin/sh
if [ ! -e repaired ]; then
  case "$2" in
    2026-10-07|2026-10-21) echo "connecting with $PGPASSWORD and $SESSION"; echo "relation rates_$2 does not exist" >&2; exit 2 ;;
    2026-10-13) sleep 60 ;;
  esac
fi
echo > "data/loaded-$2"
echo "loaded $2"
"""
SECRETS = {"PGPASSWORD": "the-password-of-etl", "AWS_SESSION_TOKEN": "the-token-of-today"}


def test_a_backfill_of_thirty_days(project: Project) -> None:
    project.ok("init")
    project.write(BACKFILL)
    load = project.directory / "load.sh"
    load.write_text(LOAD)
    load.chmod(0o755)
    (project.directory / "etl.env").write_text(f"PGPASSWORD={SECRETS['PGPASSWORD']}\n")
    project.env["AWS_SESSION_TOKEN"] = SECRETS["AWS_SESSION_TOKEN"]
    assert "32 runs" in project.ok("validate").out
    shown = project.ok("plan", "--out", "night.json").out
    assert "32 to create" in shown and "[day=2026-10-30]" in shown

    # The night: three days are not well. The log says which, how, and their last lines.
    night = project.ok("apply", "night.json", "--yes", code=3)
    assert "28 succeeded, 2 failed, 1 timed out, 1 skipped" in night.err
    assert "relation rates_2026-10-07 does not exist" in night.err

    # The morning: one command finds the failures, none of them looks like another.
    failed = {
        run["address"]: run["status"] for run in project.ok("status", "--failed", "--format", "json").json["runs"]
    }
    days = {"07": "failed", "13": "timed_out", "21": "failed"}
    assert failed == {f"backfill[day=2026-10-{day}]": status for day, status in days.items()}
    table = project.ok("status", "--failed").out
    assert all(f"backfill[day=2026-10-{day}]  " in table for day in days)
    assert "does not exist" in project.ok("logs", "backfill[day=2026-10-07]").out

    # A new token and a repaired warehouse: only what failed runs again, from any directory.
    project.env["AWS_SESSION_TOKEN"] = "the-token-of-tomorrow"
    (project.directory / "repaired").touch()
    again = {"rerun": [*failed], "create": ["report"]}
    actions = project.actions()
    assert {a: [address for address in actions if actions[address] == a] for a in again} == again
    elsewhere = Project(project.directory.parent, project.env)
    assert "4 succeeded" in elsewhere.ok("apply", f"{project.directory}/flowplan.yaml", "--yes").err
    assert project.ok("logs", "report").out == "30 days\n"
    project.env["AWS_SESSION_TOKEN"] = "the-token-of-next-week"
    project.ok("plan", "--detailed-exitcode")

    # The window moves by a day: the oldest day stays, the report runs again, every attempt is in the history.
    moved = BACKFILL.replace("10-01", "10-02").replace("10-30", "10-31")
    project.write(moved)
    changes = {address: action for address, action in project.actions().items() if action != "no-op"}
    assert changes == {"backfill[day=2026-10-31]": "create", "report": "rerun"}
    project.ok("apply", "--yes")
    assert project.ok("logs", "report", "backfill[day=2026-10-01]").out.splitlines() == [
        "report | 31 days",
        "backfill[day=2026-10-01] | loaded 2026-10-01",
    ]
    attempts = project.ok("history", "backfill[day=2026-10-07]", "--format", "json").json["attempts"]
    assert [(a["attempt"], a["status"]) for a in attempts] == [(1, "failed"), (2, "succeeded")]
    project.ok("destroy", "--yes")
    assert project.statuses() == {}
    assert kept(project.directory, *SECRETS.values(), apart_from="etl.env") == []


TRAINING = """\
flowplan: 1
project: training
variables:
  memory: {type: string, default: 64m}
  gpu: {type: number, default: 0}
providers:
  cluster: {type: kubernetes, namespace: NAMESPACE}
runs:
  prepare:
    provider: docker
    image: REPOSITORY/library/busybox:1.35
    image_pull_policy: Always
    command: [sh, -c, 'echo 1,2,3 > /data/set.csv; echo prepared']
    docker:
      volumes: ["VOLUME:/data"]
      registry_credentials: {username: robot, password: {from_env: REGISTRY_PASSWORD}}
  train:
    provider: cluster
    needs: prepare
    image: busybox:1.35
    command: [sh, -c, 'echo "epoch $EPOCHS"; echo "loss 0.1"']
    env: {EPOCHS: "3"}
    resources: {cpu: 50m, memory: 16Mi, gpu: "${var.gpu}"}
    timeout: 2m
  serve:
    provider: docker
    needs: [prepare, train]
    image: busybox:1.35
    command: [sh, -c, 'trap "exit 0" TERM; cat /data/set.csv; sleep 600 & wait']
    grace_period: 1s
    docker: {volumes: ["VOLUME:/data"], mem_limit: "${var.memory}"}
"""


@pytest.fixture
def volume() -> Iterator[str]:
    api = docker_api()
    name = str(api.create_volume(f"fp-training-{uuid.uuid4().hex[:8]}")["Name"])
    yield name
    api.remove_volume(name)
    api.close()


@pytest.mark.docker
@pytest.mark.kubernetes
@pytest.mark.registry
def test_a_training_on_docker_and_kubernetes(volume: str, namespace: str, project: Project) -> None:
    text = (
        TRAINING.replace("NAMESPACE", namespace).replace("VOLUME", volume).replace("REPOSITORY", os.environ["REGISTRY"])
    )
    project.write(text)

    # What apply would trip over is told beforehand: a wrong password, and a GPU that no node has.
    project.env["REGISTRY_PASSWORD"] = "wrong-password"
    refused = project.ok("plan", "--strict", "--var", "gpu=1", "--format", "json", code=6).json
    told = {
        c["address"]: [f["message"] for f in c["preflight"] if f["severity"] == "error"] for c in refused["changes"]
    }
    assert f"registry {os.environ['REGISTRY']} refuses" in "\n".join(told["prepare"]), told
    assert "no node has nvidia.com/gpu: 1" in "\n".join(told["train"]), told

    # Data from Docker, training on the cluster, then a service that goes on while nobody follows it.
    project.env["REGISTRY_PASSWORD"] = "robot-password"
    done = project.ok("apply", "--yes", "--strict", "--detach")
    assert "still" in done.err, "what waits for another run is not started by itself"
    project.ok("apply", "--yes", "--detach")
    until(lambda: project.ok("apply", "--yes", "--detach") and project.statuses().get("serve") == "running")
    assert project.statuses() == {"prepare": "succeeded", "train": "succeeded", "serve": "running"}
    assert project.ok("logs", "train").out == "epoch 3\nloss 0.1\n"
    assert project.ok("logs", "serve").out == "1,2,3\n"

    # More memory is a change in place: what serves is not interrupted, and what was trained is not trained again.
    shown = project.ok("plan", "--var", "memory=96m").out
    assert "1 to update in place; 2 unchanged" in shown and "64m -> 96m" in shown
    container = project.status()["serve"]["infrastructure_id"]
    project.ok("apply", "--yes", "--var", "memory=96m", "--detach")
    assert project.status()["serve"]["infrastructure_id"] == container
    api = docker_api()
    assert api.inspect_container(container.rpartition(":")[2])["HostConfig"]["Memory"] == 96 * 2**20
    api.close()

    # A colleague with a checkout of his own is told whose runs these are, instead of running them a second time.
    other = Project(project.directory / "checkout", project.env)
    other.directory.mkdir()
    shutil.copy(project.directory / "flowplan.yaml", other.directory)
    refusal = other.ok("apply", "--yes", code=6)
    assert "is managed by another state" in refusal.err and str(project.directory) in refusal.err
    project.ok("destroy", "--yes")
    assert kept(project.directory, "robot-password", "wrong-password") == []


PIPELINE = """\
flowplan: 1
project: pipeline
providers:
  cluster: {type: kubernetes, namespace: NAMESPACE}
policies: [no-latest.yaml]
runs:
  extract:
    provider: process
    command: [echo, 100 rows]
  transform:
    provider: cluster
    needs: extract
    template: work-pool.json
    image: busybox:1.35
    command: [sh, -c, 'echo "$STAGE with ${#TOKEN} characters"']
    env: {STAGE: transform, TOKEN: {from_env: API_TOKEN}}
    variables: {finished_job_ttl: 600}
  load:
    provider: process
    needs: transform
    command: [echo, loaded]
"""
NO_LATEST = """\
name: no-latest
description: Images have a version.
types: [kubernetes]
schema:
  properties:
    Job: {properties: {spec: {properties: {template: {properties: {spec: {properties: {containers: {items: {properties:
      {image: {pattern: ":[0-9]"}}}}}}}}}}}}
"""


@pytest.mark.kubernetes
def test_a_pipeline_with_the_template_of_a_work_pool(namespace: str, project: Project) -> None:
    template = json.loads((TEMPLATES / "kubernetes-old.json").read_text())
    main = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"][0]
    main["env"] = [{"name": "POOL", "value": "etl"}]  # the pool's own, which are no Secrets of this cluster
    (project.directory / "work-pool.json").write_text(json.dumps(template))
    (project.directory / "no-latest.yaml").write_text(NO_LATEST)
    project.write(PIPELINE.replace("NAMESPACE", namespace))
    project.env["API_TOKEN"] = "the-token-of-the-api"

    # The plan goes into a pull request: the whole Job, in the namespace of this project, without the secret.
    project.ok("plan", "--out", "plan.json", "--summary-file", "comment.md")
    comment = (project.directory / "comment.md").read_text()
    assert "3 to create" in comment and f"namespace {namespace}" in comment
    (change,) = (c for c in project.plan()["changes"] if c["address"] == "transform")
    job = change["after"]["Job"]
    assert job["metadata"]["namespace"] == namespace, "the template's own default is another one"
    assert job["spec"]["ttlSecondsAfterFinished"] == 600
    project.write(PIPELINE.replace("NAMESPACE", namespace).replace("busybox:1.35", "busybox:latest"))
    assert "no-latest" in project.ok("plan", code=6).out

    # What was reviewed is what is applied, not what the spec says by now.
    project.ok("apply", "plan.json", "--yes")
    assert project.ok("logs", "transform").out == "transform with 20 characters\n"
    assert set(project.statuses().values()) == {"succeeded"}
    project.write(PIPELINE.replace("NAMESPACE", namespace))
    project.ok("plan", "--detailed-exitcode")

    # A variable that the template does not know is told with its place.
    project.write(PIPELINE.replace("NAMESPACE", namespace).replace("finished_job_ttl", "finished_jobs_ttl"))
    wrong = project.ok("plan", code=7)
    assert "flowplan.yaml:17" in wrong.err and 'did you mean "finished_job_ttl"' in wrong.err
    project.write(PIPELINE.replace("NAMESPACE", namespace))
    project.ok("destroy", "--yes")
    assert kept(project.directory, "the-token-of-the-api") == []


def kept(directory: Path, *secrets: str, apart_from: str = "") -> list[str]:
    """Return the files below a directory that hold one of these secrets."""
    files = [p for p in directory.rglob("*") if stat.S_ISREG(p.lstat().st_mode) and p.name != apart_from]
    return [str(p) for p in files if any(secret.encode() in p.read_bytes() for secret in secrets)]
