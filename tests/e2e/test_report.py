"""The page: one file made of the state alone, and what stands in the document that it carries."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from projects import Project, clear, until
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
    assert document["serial"] is None and document["attempts"]["run"] == []
    assert {run["status"] for run in rows(document, "runs")} == {"planned"} and len(document["runs"]["address"]) == 6
    assert [document["groups"][n]["name"] for n in document["groups"][2]["needs"]] == ["check"]
    assert document["plan"]["verdict"] == f"Plan for {project.name}: 6 to create."
    assert document["plan"]["command"] == "flowplan apply tonight.json"
    assert document["plan"]["digest"] == project.ok("show", "tonight.json", "--format", "json").json["digest"]
    [extract] = [group for group in document["plan"]["groups"] if len(group["addresses"]) > 1]
    assert extract["varying"] and all(len(values) == 2 for values in extract["values"])


def test_wrong_options_of_the_report(failed: Project) -> None:
    assert 'unknown choice "every"' in failed.ok("report", "--logs", "every", code=7).err
    assert "its directory does not exist" in failed.ok("report", "--out", "none/such.html", code=7).err


HOSTILE = """\
flowplan: 1
project: nightly
runs:
  loud:
    provider: process
    description: '</script><script>alert("description")</script>'
    labels: {note: '</SCRIPT ><img src=x onerror=alert(1)>'}
    matrix: {name: ['</script><script>alert("cell")</script>', '<!--<script>', "\\u202etxt.exe"]}
    command: [sh, -c, 'printf "</script><script>alert(2)</script>\\u2028\\033]0;title\\007\\n"; head -c 1000000 /dev/zero | tr "\\0" "<"; exit 3']
"""


class Elements(HTMLParser):
    """The elements of a page, as a browser would find them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(" ".join([tag, *(name for name, _ in attrs)]))


def test_what_runs_say_and_are_called_stays_data(project: Project) -> None:
    project.write(HOSTILE)
    project.ok("apply", "--yes", code=3)
    plain = in_page_elements(project, "--logs", "none")
    page = project.ok("report", "--logs", "all").out
    assert Elements(page).found == plain and page.isascii()
    document = in_page(page)
    assert document["runs"]["address"][0] == 'loud[name="</script><script>alert(\\"cell\\")</script>"]'
    assert document["groups"][0]["description"].startswith("</script>")
    assert min(len(output["text"]) for output in document["outputs"]) > 60_000
    assert plain.count("script") == 1 and plain.count("script id type") == 1  # the code and the data
    project.ok("plan", "--rerun", "loud")
    assert Elements(project.ok("show", "--format", "html").out).found == plain


def in_page_elements(project: Project, *options: str) -> list[str]:
    """Return the elements of a page of another project, where nothing is hostile."""
    other = Project(project.directory / "other", {"NO_COLOR": "1"})
    other.directory.mkdir()
    other.write("flowplan: 1\nproject: other\nruns: {a: {provider: process, command: [echo, a]}}\n")
    other.ok("apply", "--yes")
    return Elements(other.ok("report", *options).out).found


def test_a_state_that_is_only_readable(failed: Project, tmp_path: Path) -> None:
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root overlooks permissions, and there is no setpriv")
    copy = tmp_path / "state.db"
    shutil.copy(failed.directory / ".flowplan/state.db", copy)
    copy.chmod(0o444)
    tmp_path.chmod(0o555)
    bound = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    document = Project(tmp_path, before=bound).ok("report", "--state", str(copy), "--format", "json").json
    assert len(document["runs"]["address"]) == 6
    assert sorted(tmp_path.iterdir()) == [copy]


def test_a_damaged_last_plan_is_told_and_the_rest_is_shown(project: Project) -> None:
    project.write(SPEC)
    project.ok("apply", "--yes", "--target", "extract")
    project.write(SPEC.replace("echo day", "echo of day"))
    project.ok("plan")
    file = project.directory / ".flowplan/plan.json"
    file.write_text(file.read_text().replace("echo of day", "echo no day"))
    document = project.ok("report", "--format", "json").json
    assert document["plan"] is None and len(document["attempts"]["run"]) == 2
    assert any("The plan cannot be shown: " in said and "edited or damaged" in said for said in document["left_out"])


def test_what_is_left_out_is_told(failed: Project) -> None:
    def told(*options: str) -> str:
        return " ".join(failed.ok("report", "--format", "json", *options).json["left_out"])

    assert "Only output of attempts that failed is here" in told()
    assert "No output is here" in told("--logs", "none")
    assert told("--logs", "all") == ""
    assert all(
        "such as 5MB" in failed.ok("report", "--max-size", said, code=7).err for said in ("huge", "-1", "0", "5m")
    )


def test_the_graph_on_a_terminal_and_for_pages_that_draw_it(failed: Project) -> None:
    assert failed.ok("graph").out.splitlines() == [
        "extract: 2 cells: succeeded",
        "├── check: failed",
        "│   └── load: skipped ! check failed",
        "└── train: running",
        "    └── smoke: waiting",
    ]
    drawn = failed.ok("graph", "--format", "mermaid").out.splitlines()
    assert drawn[0] == "flowchart LR" and '  n1["check: failed"]:::red' in drawn and "  n1 --> n3" in drawn


def test_what_ended_while_nothing_followed_it_is_shown_as_ended(project: Project) -> None:
    project.write(
        "flowplan: 1\nproject: nightly\nruns:\n  a: {provider: process, command: [sh, -c, 'until [ -e over ]; do sleep 0.1; done']}\n"
    )

    def shown(*options: str) -> str:
        [run] = rows(project.ok("report", "--format", "json", *options).json, "runs")
        return str(run["status"])

    project.ok("apply", "--yes", "--detach")
    until(lambda: shown() == "running")
    (project.directory / "over").touch()
    assert shown("--no-refresh") == "running"
    until(lambda: shown() == "succeeded")
    assert shown("--no-refresh") == "succeeded"


def test_a_pipe_is_written_to_and_not_replaced(failed: Project, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    failed.ok("report", "--no-refresh", "--format", "json", "--out", str(pipe))
    assert len(json.loads(os.read(reading, 1 << 16))["runs"]["address"]) == 6 and pipe.is_fifo()
    os.close(reading)
