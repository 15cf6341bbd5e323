"""The workflows of examples/github-actions: every command in them is run, against a GitHub of one pull request."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import FLOWPLAN

from flowplan.schemas.documents import parse

EXAMPLE = Path(__file__).parents[2] / "examples" / "github-actions"
PULL_REQUEST = {
    "github.repository": "acme/nightly",
    "github.event.pull_request.number": "7",
    "github.token": "token",
    "secrets.REPORT_TOKEN": "a-token-of-the-example",
}

GH = """\
#!%s
import json, pathlib, shutil, subprocess, sys
hub = pathlib.Path(%r)
comments = json.loads((hub / "comments.json").read_text())
words = sys.argv[1:]
option = lambda name: words[words.index(name) + 1] if name in words else None
if words[0] == "api" and "--method" not in words:
    assert "repos/acme/nightly/issues/7/comments" in words, words
    subprocess.run(["jq", "--raw-output", option("--jq")], input=json.dumps(comments), text=True, check=True)
elif words[0] == "api":
    body = pathlib.Path(option("--field").removeprefix("body=@")).read_text()
    path = next(word for word in words if word.startswith("repos/"))
    if option("--method") == "POST":
        assert path == "repos/acme/nightly/issues/7/comments"
        comments.append({"id": 100 + len(comments), "user": {"login": "github-actions[bot]"}, "body": body})
    else:
        [found] = [c for c in comments if path == f"repos/acme/nightly/issues/comments/{c['id']}"]
        found["body"] = body
    (hub / "comments.json").write_text(json.dumps(comments))
else:
    assert words[:3] == ["run", "download", "--name"], words
    shutil.copy(hub / words[3] / "plan.json", "plan.json")
"""


def workflow(name: str) -> dict[str, Any]:
    path = EXAMPLE / name
    document: dict[str, Any] = parse(path.read_text(), str(path)).value
    return document


@dataclass
class Hub:
    """One repository with one pull request, and the runner that its workflows run on."""

    directory: Path
    outputs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hub, self.bin, self.work = (self.directory / name for name in ("hub", "bin", "work"))
        for directory in (self.hub, self.bin, self.work):
            directory.mkdir()
        (self.hub / "comments.json").write_text("[]")
        (self.bin / "gh").write_text(GH % (sys.executable, str(self.hub)))
        (self.bin / "gh").chmod(0o755)
        (self.bin / "flowplan").symlink_to(FLOWPLAN)
        shutil.copy(EXAMPLE / "flowplan.yaml", self.work)

    @property
    def comments(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.hub / "comments.json").read_text())
        return found

    def run(self, name: str) -> dict[str, int]:
        """Run a workflow as GitHub does; step -> exit code. A step that fails ends it, unless the step says otherwise."""
        [job] = workflow(name)["jobs"].values()
        codes: dict[str, int] = {}
        outcome = "success"
        for step in job["steps"]:
            condition = step.get("if", "")
            if condition == "steps.plan.outcome == 'failure'" and not codes["Plan"]:
                continue
            if outcome == "failure" and condition != "always()":
                continue
            code = self._step(step, job["env"])
            codes[step.get("name") or step["uses"]] = code
            if code and not step.get("continue-on-error"):
                outcome = "failure"
        return codes

    def _step(self, step: dict[str, Any], env: dict[str, str]) -> int:
        if step.get("uses", "").startswith("actions/upload-artifact@"):
            target = self.hub / self._filled(step["with"]["name"])
            target.mkdir(exist_ok=True)
            shutil.copy(self.work / step["with"]["path"], target)
            return 0
        if "uses" in step:
            assert step["uses"].startswith("actions/checkout@")
            return 0
        (self.directory / "output").write_text("")
        given = {k: self._filled(v) for k, v in {**env, **step.get("env", {})}.items()}
        given["FLOWPLAN_STATE"] = str(self.directory / "state.db")
        runner = {
            "GITHUB_STEP_SUMMARY": str(self.directory / "summary.md"),
            "GITHUB_OUTPUT": str(self.directory / "output"),
        }
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", self._filled(step["run"])],
            cwd=self.work,
            env={"PATH": f"{self.bin}:{os.environ['PATH']}", "HOME": str(self.directory), **given, **runner},
            capture_output=True,
            text=True,
            check=False,
        )
        print(step.get("name"), done.stdout, done.stderr)
        for line in (self.directory / "output").read_text().splitlines():
            name, _, value = line.partition("=")
            self.outputs[f"steps.{step['id']}.outputs.{name}"] = value
        return done.returncode

    def _filled(self, text: str) -> str:
        """``${{ }}`` filled in; an unknown expression is a mistake of the workflow."""
        return re.sub(r"\$\{\{ *(.+?) *\}\}", lambda match: {**PULL_REQUEST, **self.outputs}[match[1]], text)

    def edit(self, old: str, new: str) -> None:
        path = self.work / "flowplan.yaml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def statuses(self) -> dict[str, str]:
        done = subprocess.run(
            [FLOWPLAN, "status", "--format", "json", "--state", str(self.directory / "state.db")],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return {run["address"]: run["status"] for run in json.loads(done.stdout)["runs"]}


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    if not shutil.which("jq"):
        pytest.skip("jq is not installed")
    return Hub(tmp_path)


@pytest.mark.parametrize("name", ["plan.yml", "apply.yml"])
def test_the_workflows_are_well_formed(name: str) -> None:
    document = workflow(name)
    assert set(document) == {"name", "on", "permissions", "concurrency", "jobs"}
    [job] = document["jobs"].values()
    assert "head.repo.full_name == github.repository" in job["if"], "no code of forks on one's own runner"
    for step in job["steps"]:
        assert ("uses" in step) != ("run" in step)
        for expression in re.findall(r"\$\{\{(.+?)\}\}", step.get("run", "")):
            raise AssertionError(f"{expression} inside a command could be code; pass it through env")


def test_from_the_pull_request_to_the_merge(hub: Hub) -> None:
    assert set(hub.run("plan.yml").values()) == {0}
    [comment] = hub.comments
    assert "2 to create" in comment["body"]
    first = comment["body"].splitlines()[0]
    hub.edit('default: "1.4"', 'default: "1.5"')
    hub.run("plan.yml")
    [comment] = hub.comments
    assert comment["id"] == 100 and comment["body"].splitlines()[0] != first, "the same comment, another digest"
    assert (hub.directory / "summary.md").read_text().count("<!-- flowplan:project=nightly") == 2
    assert set(hub.run("apply.yml").values()) == {0}
    assert hub.statuses() == {"extract": "succeeded", "report": "succeeded"}
    assert "a-token-of-the-example" not in (hub.work / "plan.json").read_text() + comment["body"]


def test_what_changed_since_the_approval_is_not_applied(hub: Hub) -> None:
    hub.run("plan.yml")
    hub.edit("extracted with", "meanwhile with")
    elsewhere = [FLOWPLAN, "apply", "--yes", "flowplan.yaml", "--state", str(hub.directory / "state.db")]
    subprocess.run(elsewhere, cwd=hub.work, check=True, env={**os.environ, "REPORT_TOKEN": "x"}, capture_output=True)
    codes = hub.run("apply.yml")
    assert codes["Apply"] == 4 and codes["How everything stands"] == 0


def test_a_comment_that_somebody_else_wrote_is_not_trusted(hub: Hub) -> None:
    planted = {
        "id": 1,
        "user": {"login": "mallory"},
        "body": f"<!-- flowplan:project=nightly digest=sha256:{'0' * 64} -->",
    }
    (hub.hub / "comments.json").write_text(json.dumps([planted]))
    hub.run("plan.yml")
    assert len(hub.comments) == 2 and hub.comments[0] == planted
    assert set(hub.run("apply.yml").values()) == {0}


def test_a_violated_policy_is_in_the_comment_and_fails_the_check(hub: Hub) -> None:
    hub.edit(
        "runs:\n", "policies: [{name: no-echo, schema: {properties: {Process: {properties: {argv: false}}}}}]\nruns:\n"
    )
    codes = hub.run("plan.yml")
    assert codes["Plan"] == 6 and codes["A violated policy fails the check"] == 6
    assert "no-echo" in hub.comments[0]["body"]
    assert hub.run("apply.yml")["Apply"] == 6
    assert hub.statuses() == {}


def test_every_flowplan_command_of_the_workflows_is_one_that_exists() -> None:
    text = (EXAMPLE / "plan.yml").read_text() + (EXAMPLE / "apply.yml").read_text()
    assert sorted(re.findall(r"run: flowplan (\w+)", text)) == ["apply", "plan", "status"]
    assert sum("flowplan " in line and "run:" in line for line in text.splitlines()) == 3
