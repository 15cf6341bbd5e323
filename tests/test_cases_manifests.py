"""Manifests, templates and names that reach the cluster as they were written, or are refused in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from projects import Project

Make = Callable[..., Project]


def jobs(project: Project, *arguments: str) -> dict[str, Any]:
    """Return address -> Job of a plan that asks no cluster."""
    plan = project.plan("--no-refresh", *arguments)
    return {change["address"]: change["after"]["Job"] for change in plan["changes"] if "Job" in change["after"]}


def test_file_modes_are_octal(case_project: Make) -> None:
    project = case_project("01-octal-mode")
    (job,) = jobs(project).values()
    assert job["spec"]["template"]["spec"]["volumes"][0]["secret"]["defaultMode"] == 256
    file = project.directory / "job.yaml"
    file.write_text(file.read_text().replace("0400", "0755, items: [{key: k, path: p, mode: 0644}]") + "\n---\n# end\n")
    secret = jobs(project)["sync"]["spec"]["template"]["spec"]["volumes"][0]["secret"]
    assert (secret["defaultMode"], secret["items"][0]["mode"]) == (0o755, 0o644)
    file.write_text(file.read_text().replace("0755", '"0755"'))
    assert 'must be an integer, not "0755"; write 493, or 0o755' in project.ok("validate", code=7).err


def test_no_retries_of_ours_beside_retries_per_index(case_project: Make) -> None:
    project = case_project("04-per-index-retries")
    assert "backoffLimit" not in jobs(project)["shards"]["spec"]
    spec = project.directory / "flowplan.yaml"
    spec.write_text(spec.read_text().replace("    image:", "    retries: 2\n    image:"))
    assert jobs(project)["shards"]["spec"]["backoffLimit"] == 2


def test_legal_names_and_labels_are_sent_as_written(case_project: Make) -> None:
    project = case_project("25-double-dash")
    plan = project.plan("--no-refresh")
    after = {change["address"]: change["after"] for change in plan["changes"]}
    meta = after["k"]["Job"]["metadata"]
    assert meta["name"] == "team--a"
    wanted = {"kueue.x-k8s.io/queue-name": "team--a", "version": "v1--hotfix", "a--b": "x", "under__score": "x"}
    assert {key: meta["labels"].get(key) for key in wanted} == wanted
    assert meta["annotations"]["note--x"] == "a--b"
    names = {change["address"]: change["name"] for change in plan["changes"]}
    assert names["d"] == "team--a"
    warnings = [w for change in plan["changes"] for w in change["warnings"]]
    assert warnings == ['the value "_x" of the label under__score is not legal on Kubernetes: "x" is sent']


def test_expressions_in_files_are_those_of_the_spec(case_project: Make) -> None:
    project = case_project("34-expressions-in-a-file")
    found = jobs(project)
    for day in ("2026-11-01", "2026-11-02"):
        container = found[f"migrate[day={day}]"]["spec"]["template"]["spec"]["containers"][0]
        assert container["args"] == ["echo", f"day {day} to s3://lake"]
    job = project.directory / "job.yaml"
    text = job.read_text()
    job.write_text(
        text.replace("${var.bucket}", "$${var.bucket} ${HOME}").replace("backoffLimit: 1", "parallelism: ${var.nodes}")
    )
    spec = jobs(project)["migrate[day=2026-11-01]"]["spec"]
    assert spec["template"]["spec"]["containers"][0]["args"][1] == "day 2026-11-01 to ${var.bucket} ${HOME}"
    assert spec["parallelism"] == 2
    job.write_text(text.replace("${var.bucket}", "${var.buckt}"))
    (told,) = project.ok("validate", code=7).err.splitlines()[:1]
    assert told.startswith("error: job.yaml:10:24: ") and 'did you mean "bucket"?' in told


def test_expressions_in_customizations_and_templates(case_project: Make) -> None:
    project = case_project("34-expressions-in-a-file")
    plan = project.plan("customizations.yaml", "--no-refresh")
    after = {change["address"]: change["after"] for change in plan["changes"]}
    assert after["a[day=2026-11-01]"]["Job"]["metadata"]["annotations"]["day"] == "2026-11-01"
    assert after["b[day=2026-11-01]"]["Process"]["env"]["DAY"] == "2026-11-01"
    template = project.directory / "t.yaml"
    template.write_text(template.read_text().replace("${each.day}", "$${each.day} ${each.dy}"))
    told = project.ok("validate", "customizations.yaml", code=7).err
    assert told.startswith("error: t.yaml:1:58: ") and "the axis dy is not known" in told


def test_a_cronjob_is_its_job_template(case_project: Make) -> None:
    project = case_project("39-cronjob")
    job = jobs(project)["backup"]
    assert (job["apiVersion"], job["kind"], job["metadata"]["name"]) == ("batch/v1", "Job", "storage-backup")
    assert job["spec"]["backoffLimit"] == 4 and "schedule" not in job["spec"]
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["ls", "/mnt/"]
    assert "cronjob.yaml is a CronJob: its spec.jobTemplate is taken" in project.ok("plan", "--no-refresh").out


@pytest.mark.parametrize(
    ("address", "namespace", "told"),
    [
        ("a", "hc-prod", ""),
        ("b", "hc-prod", ""),
        ("c", "own", ""),
        ("d", "constant", 'the namespace is "constant" (constant.yaml:1), not "hc-prod" of the provider prod'),
        ("e", "written", 'the namespace is "written" (flowplan.yaml:9), not "hc-prod" of the provider prod'),
        ("f", "given", ""),
    ],
)
def test_the_namespace_of_a_provider_beats_the_default_of_a_template(
    case_project: Make, address: str, namespace: str, told: str
) -> None:
    changes = {c["address"]: c for c in case_project("r4-template-namespace").plan("--no-refresh")["changes"]}
    assert changes[address]["after"]["Job"]["metadata"]["namespace"] == namespace
    assert "\n".join(changes[address]["warnings"]) == told
