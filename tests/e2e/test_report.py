"""The page: one file made of the state alone, and what stands in the document that it carries."""

from __future__ import annotations

import base64
import gzip
import json
import re
import stat
from collections.abc import Iterator
from typing import Any

import pytest
from projects import Project, clear
from test_cli import valid

SPEC = """\
flowplan: 1
project: nightly
variables: {tag: {type: string, default: "1.4"}}
defaults: {provider: process, grace_period: 1s, labels: {team: data}}
runs:
  extract: {command: [sh, -c, 'echo day ${each.day}'], matrix: {day: ["2026-11-01", "2026-11-02"]}, description: Reads a day.}
  check: {needs: [extract], command: [sh, -c, 'printf "row 1\\n<script>alert(1)</script>\\n" >&2; exit 2']}
  load: {needs: [check], command: [echo, loaded]}
  train: {needs: [extract], command: [sleep, '600']}
  smoke: {needs: [train], command: [echo, 'smoke ${var.tag}']}
"""


def in_page(page: str) -> dict[str, Any]:
    """Return the document that a page carries."""
    kind, data = re.findall(r'<script id="report" type="application/([^"]*)">([^<]*)</script>', page)[0]
    found: dict[str, Any] = json.loads(data if kind == "json" else gzip.decompress(base64.b64decode(data)))
    return found


def rows(document: dict[str, Any], table: str) -> list[dict[str, Any]]:
    """Return the rows of a table, with their texts."""
    texts = {"status", "reason", "message", "provider", "action", "target", "name"}
    columns = document[table]
    return [
        {name: document["strings"][value] if name in texts else value for name, value in zip(columns, row, strict=True)}
        for row in zip(*columns.values(), strict=True)
    ]


def night(project: Project) -> Project:
    """Make a check that failed, what is skipped for it, a run that goes on, and one that waits for it."""
    project.write(SPEC)
    project.ok("apply", "--yes", "--target", "load", code=3)
    project.ok("apply", "--yes", "--target", "smoke", "--detach")
    project.await_status("train", "running")
    return project


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Return a project to look at."""
    made = night(Project(tmp_path_factory.mktemp("night"), {"NO_COLOR": "1"}))
    yield made
    clear(made)


def test_the_page_of_a_failed_night(failed: Project) -> None:
    failed.ok("report", "--out", "report.html")
    file = failed.directory / "report.html"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    page = file.read_text(encoding="ascii")
    document = in_page(page)
    valid("report", document)
    assert "<script>alert" not in page
    runs = {run["address"]: run for run in rows(document, "runs")}
    assert {address: run["status"] for address, run in runs.items()} == {
        "extract[day=2026-11-01]": "succeeded",
        "extract[day=2026-11-02]": "succeeded",
        "check": "failed",
        "load": "skipped",
        "train": "running",
        "smoke": "waiting",
    }
    assert document["labels"][runs["check"]["labels"]] == {"team": "data"}
    attempts = rows(document, "attempts")
    failure = attempts[runs["check"]["attempt"]]
    assert failure["exit_code"] == 2 and failure["created"] <= failure["started"] <= failure["finished"]
    [output] = document["outputs"]
    assert attempts[output["attempt"]] is failure
    assert output["text"] == "row 1\n<script>alert(1)</script>"
    steps = {list(runs)[step["run"]]: step["reason"] for step in rows(document, "not_started")}
    assert steps == {"load": "check failed (exit code 2)", "smoke": "for train"}
    groups = {group["name"]: group for group in document["groups"]}
    assert groups["extract"]["states"] == {"succeeded": 2} and groups["extract"]["description"] == "Reads a day."
    assert [document["groups"][n]["name"] for n in groups["load"]["upstream"]] == ["check"]
    assert document["applies"][failure["apply"]]["ends"] == {"succeeded": 2, "failed": 1}
    assert document["plan"]["source"] == "applied"
    assert [event["status"] for event in rows(document, "events") if event["run"] == failure["run"]][-1] == "failed"


def test_a_pending_plan_and_what_it_would_start_are_shown(project: Project) -> None:
    night(project).write(
        SPEC.replace('"1.4"', '"1.5"').replace("'600'", "'601'") + "  last: {needs: [smoke], command: [echo, x]}\n"
    )
    project.ok("plan")
    document = project.ok("report", "--format", "json").json
    valid("report", document)
    plan = document["plan"]
    assert plan["source"] == "pending" and plan["command"] == "flowplan apply"
    assert [remark["addresses"] for remark in plan["dangers"]] == [["train"]]
    first = plan["groups"][0]
    assert (
        first["addresses"] == ["train"] and first["interrupts"] and first["live"].startswith("stops the live attempt")
    )
    [field] = first["fields"]
    assert (field["name"], field["before"], field["after"], field["effect"]) == ("argv[1]", '"600"', '"601"', "replace")
    assert field["rule"] and field["origin"] == "flowplan.yaml:9"
    assert ["-", '    - "600"'] in first["objects"] and ["+", '    - "601"'] in first["objects"]
    assert {"name": "argv[1]", "value": '"601"', "origin": "flowplan.yaml:9"} in first["explained"]
    assert {run["address"]: run["status"] for run in rows(document, "runs")}["last"] == "planned"


def test_the_objects_of_an_attempt_are_a_base_and_what_differs(failed: Project) -> None:
    document = failed.ok("report", "--format", "json").json
    commands = {}
    for attempt in rows(document, "attempts"):
        base, *changes = document["objects"]["rows"][attempt["objects"]]
        argv = list(document["objects"]["bases"][base]["Process"]["argv"])
        for pointer, value in zip(changes[::2], changes[1::2], strict=True):
            *_, name, place = document["strings"][pointer].split("/")
            assert name == "argv"
            argv[int(place)] = value
        commands[document["runs"]["address"][attempt["run"]]] = argv
    assert commands["extract[day=2026-11-02]"] == ["sh", "-c", "echo day 2026-11-02"]
    assert commands["train"] == ["sleep", "600"]


@pytest.mark.parametrize(("logs", "outputs"), [("all", 3), ("failed", 1), ("none", 0)])
def test_which_outputs_are_in_it(failed: Project, logs: str, outputs: int) -> None:
    assert len(failed.ok("report", "--format", "json", "--logs", logs).json["outputs"]) == outputs


def test_the_page_of_a_plan_alone(project: Project) -> None:
    project.write(SPEC)
    project.ok("plan", "--out", "tonight.json")
    document = in_page(project.ok("show", "tonight.json", "--format", "html").out)
    valid("report", document)
    assert document["runs"]["address"] == [] and document["serial"] is None
    assert document["plan"]["verdict"] == f"Plan for {project.name}: 6 to create."
    assert document["plan"]["command"] == "flowplan apply tonight.json"
    assert document["plan"]["digest"] == project.ok("show", "tonight.json", "--format", "json").json["digest"]
    [extract] = [group for group in document["plan"]["groups"] if len(group["addresses"]) > 1]
    assert extract["varying"] and all(len(values) == 2 for values in extract["values"])


def test_wrong_options_of_the_report(failed: Project) -> None:
    assert 'unknown choice "every"' in failed.ok("report", "--logs", "every", code=7).err
    assert "its directory does not exist" in failed.ok("report", "--out", "none/such.html", code=7).err
