"""The workflows of examples/github-actions: every command in them is run, against a GitHub of one pull request."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import FLOWPLAN

from flowplan.schemas.documents import parse
from flowplan.schemas.plan_documents import plan_digest, read_plan, sealed_json
from flowplan.state.sqlite.store import SqliteStore

EXAMPLE = Path(__file__).parents[2] / "examples" / "github-actions"
PULL_REQUEST = {
    "github.repository": "acme/nightly",
    "github.event.pull_request.number": "7",
    "github.event.pull_request.merge_commit_sha": "f" * 40,
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
elif words[:2] == ["run", "list"]:
    wanted = {"workflow": option("--workflow"), "event": option("--event"), "headSha": option("--commit")}
    assert None not in wanted.values() and option("--limit") == "1", words
    runs = json.loads((hub / "runs.json").read_text())[::-1]
    newest = [r for r in runs if all(r[key] == value for key, value in wanted.items())][:1]
    subprocess.run(["jq", "--raw-output", option("--jq")], input=json.dumps(newest), text=True, check=True)
else:
    assert words[:2] == ["run", "download"] and words[3] == "--name", words  # no run id: any run's artifact would do
    shutil.copy(hub / "artifacts" / words[2] / words[4] / "plan.json", "plan.json")
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
        (self.hub / "runs.json").write_text("[]")
        self.head = "0" * 40
        (self.bin / "gh").write_text(GH % (sys.executable, str(self.hub)))
        (self.bin / "gh").chmod(0o755)
        (self.bin / "flowplan").symlink_to(FLOWPLAN)
        self.project = f"nightly{uuid.uuid4().hex[:8]}"  # no other test may have runs of the same project on this host
        text = (EXAMPLE / "flowplan.yaml").read_text()
        assert "project: nightly\n" in text
        (self.work / "flowplan.yaml").write_text(text.replace("project: nightly\n", f"project: {self.project}\n"))

        self.make_state()

    def make_state(self) -> None:
        """Make the state once, as the README says."""
        command = [FLOWPLAN, "plan", "flowplan.yaml", "--state", self.directory / "state.db"]
        subprocess.run(command, cwd=self.work, capture_output=True, check=True)

    @property
    def comments(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.hub / "comments.json").read_text())
        return found

    @property
    def runs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.hub / "runs.json").read_text())
        return found

    def begin(self, name: str, **facts: Any) -> int:
        """Make a run of a workflow, as the list of runs shows it; return its id."""
        run = {"databaseId": 1000 + len(self.runs), "workflow": name, "event": "pull_request", "headSha": self.head}
        (self.hub / "runs.json").write_text(json.dumps([*self.runs, {**run, "conclusion": "", **facts}]))
        return int(run["databaseId"])

    def artifact(self, run: int, name: str = "flowplan-plan") -> Path:
        place = self.hub / "artifacts" / str(run) / name / "plan.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def run(self, name: str) -> dict[str, int]:
        """Run a workflow as GitHub does; step -> exit code. A step that fails ends it, unless the step says otherwise."""
        self.number = self.begin(name)
        codes, outcome = self._steps(name)
        runs = self.runs
        runs[self.number - 1000]["conclusion"] = outcome
        (self.hub / "runs.json").write_text(json.dumps(runs))
        return codes

    def _steps(self, name: str) -> tuple[dict[str, int], str]:
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
        return codes, outcome

    def _step(self, step: dict[str, Any], env: dict[str, str]) -> int:
        if step.get("uses", "").startswith("actions/upload-artifact@"):
            shutil.copy(self.work / step["with"]["path"], self.artifact(self.number, step["with"]["name"]))
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
            [
                "bash",
                "-e",
                "-o",
                "pipefail",
                "-c",
                self._filled(step["run"]).replace("project=nightly ", f"project={self.project} "),
            ],
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
        known = {**PULL_REQUEST, "github.event.pull_request.head.sha": self.head, **self.outputs}
        return re.sub(r"\$\{\{ *(.+?) *\}\}", lambda match: known[match[1]], text)

    def edit(self, old: str, new: str) -> None:
        """Push another version of the spec."""
        self.head = f"{int(self.head, 16) + 1:040x}"
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


def test_a_lost_state_is_not_made_anew(hub: Hub) -> None:
    (hub.directory / "state.db").unlink()
    assert hub.run("plan.yml")["Plan"] == 6
    [comment] = hub.comments
    assert "nothing can be applied" in comment["body"]
    assert not (hub.directory / "state.db").exists()


def test_from_the_pull_request_to_the_merge(hub: Hub) -> None:
    assert set(hub.run("plan.yml").values()) == {0}
    [comment] = hub.comments
    assert "2 to create" in comment["body"]
    first = comment["body"].splitlines()[1]
    hub.edit('default: "1.4"', 'default: "1.5"')
    hub.run("plan.yml")
    [comment] = hub.comments
    assert comment["id"] == 100 and comment["body"].splitlines()[1] != first, "the same comment, another digest"
    assert (hub.directory / "summary.md").read_text().count(f"<!-- flowplan:project={hub.project}") == 2
    assert set(hub.run("apply.yml").values()) == {0}
    assert hub.statuses() == {"extract": "succeeded", "report": "succeeded"}
    assert "a-token-of-the-example" not in (hub.work / "plan.json").read_text() + comment["body"]


def test_what_changed_since_the_approval_is_not_applied(hub: Hub) -> None:
    hub.run("plan.yml")
    text = (hub.work / "flowplan.yaml").read_text()
    (hub.work / "other.yaml").write_text(text.replace("extracted with", "meanwhile with"))
    elsewhere = [FLOWPLAN, "apply", "--yes", "other.yaml", "--state", str(hub.directory / "state.db")]
    subprocess.run(elsewhere, cwd=hub.work, check=True, env={**os.environ, "REPORT_TOKEN": "x"}, capture_output=True)
    codes = hub.run("apply.yml")
    assert codes["Apply"] == 4 and codes["How everything stands"] == 0


def test_a_comment_that_somebody_else_wrote_is_not_trusted(hub: Hub) -> None:
    planted = {
        "id": 1,
        "user": {"login": "mallory"},
        "body": marked(hub, "0" * 64),
    }
    (hub.hub / "comments.json").write_text(json.dumps([planted]))
    hub.run("plan.yml")
    assert len(hub.comments) == 2 and hub.comments[0] == planted
    assert set(hub.run("apply.yml").values()) == {0}


# -- attacks --------------------------------------------------------------------------------------------------------------


def marked(hub: Hub, digest: str) -> str:
    first = f"<!-- flowplan:nightly head={hub.head} -->"
    return f"{first}\n<!-- flowplan:project={hub.project} digest=sha256:{digest} -->\n### Plan"


def nothing_is_applied(hub: Hub, step: str = "The approved plan") -> None:
    codes = hub.run("apply.yml")
    assert codes[step] != 0 and codes["How everything stands"] == 0
    assert "Apply" not in codes or codes["Apply"] == 4
    assert hub.statuses() == {}


def forged(genuine: Path) -> str:
    """Return the reviewed plan with another command, the reviewed digest and the reviewed seal."""
    text = genuine.read_text()
    assert "extracted with" in text
    return text.replace("extracted with", "owned with")


def with_its_own_digest(hub: Hub) -> tuple[str, str]:
    """Return a plan by somebody who knows the program but has another key, and its digest."""
    plan = read_plan(hub.artifact(1000)).plan
    argv = [
        replace(c, after={"Process": {**(c.after or {})["Process"], "argv": ["sh", "-c", "id"]}}) for c in plan.changes
    ]
    made = replace(plan, changes=tuple(argv))
    made = replace(made, digest=plan_digest(made))
    return sealed_json(made, b"mallory"), made.digest.removeprefix("sha256:")


def test_an_artifact_of_another_run_is_not_taken(hub: Hub) -> None:
    hub.run("plan.yml")
    other = hub.begin("mallory.yml", conclusion="success")
    hub.artifact(other).write_text(forged(hub.artifact(1000)))
    assert set(hub.run("apply.yml").values()) == {0}
    assert hub.statuses() == {"extract": "succeeded", "report": "succeeded"}


def test_an_artifact_that_was_replaced_in_its_own_run_is_refused(hub: Hub) -> None:
    hub.run("plan.yml")
    hub.artifact(1000).write_text(forged(hub.artifact(1000)))
    nothing_is_applied(hub, "Apply")


def test_a_replaced_artifact_with_a_comment_to_match_is_refused_by_its_seal(hub: Hub) -> None:
    hub.run("plan.yml")
    text, digest = with_its_own_digest(hub)
    hub.artifact(1000).write_text(text)
    bot = {"id": 100, "user": {"login": "github-actions[bot]"}, "body": marked(hub, digest)}
    (hub.hub / "comments.json").write_text(json.dumps([bot]))
    nothing_is_applied(hub, "Apply")


@pytest.mark.parametrize("login", ["mallory", "github-actions[bot]"])
def test_a_second_comment_makes_no_other_plan_be_applied(hub: Hub, login: str) -> None:
    hub.run("plan.yml")
    planted = {"id": 1, "user": {"login": login}, "body": marked(hub, "0" * 64)}
    (hub.hub / "comments.json").write_text(json.dumps([*hub.comments, planted]))
    if login == "mallory":
        assert set(hub.run("apply.yml").values()) == {0}
    else:
        nothing_is_applied(hub)


def test_the_plan_of_an_earlier_push_is_not_applied(hub: Hub) -> None:
    hub.run("plan.yml")
    hub.edit("extracted with", "extracted: with")
    nothing_is_applied(hub)


@pytest.mark.parametrize("conclusion", ["", "failure", "cancelled", "skipped"])
def test_a_plan_of_the_last_push_that_did_not_succeed_is_not_replaced_by_an_older_one(
    hub: Hub, conclusion: str
) -> None:
    hub.run("plan.yml")
    hub.begin("plan.yml", conclusion=conclusion)
    nothing_is_applied(hub)


def test_a_push_without_a_plan_leaves_no_old_plan_in_the_comment(hub: Hub) -> None:
    hub.run("plan.yml")
    hub.edit("runs:\n", "runs: [\n")
    assert hub.run("plan.yml")["Plan"] == 7
    [comment] = hub.comments
    assert "no plan for this push" in comment["body"] and hub.head in comment["body"]
    nothing_is_applied(hub)


def test_what_is_merged_is_what_was_planned(hub: Hub) -> None:
    hub.run("plan.yml")
    head = hub.head
    hub.edit("extracted with", "merged with")
    hub.head = head
    nothing_is_applied(hub)


def test_a_marker_inside_a_plan_is_only_text(hub: Hub) -> None:
    hub.edit("runs:\n", "runs:\n" + MARKER_IN_A_RUN.format("0" * 40, hub.project, "1" * 64))
    hub.run("plan.yml")
    hub.head = "0" * 40
    hub.begin("plan.yml", conclusion="success")
    nothing_is_applied(hub)


MARKER_IN_A_RUN = """\
  evil:
    provider: process
    command:
      - "true"
      - |
        <!-- flowplan:nightly head={} -->
        <!-- flowplan:project={} digest=sha256:{} -->
"""


def test_an_old_plan_is_not_applied_however_new_its_artifact_is(hub: Hub) -> None:
    hub.run("plan.yml")
    store = SqliteStore.open(hub.directory / "state.db", read_only=True)
    old = replace(read_plan(hub.artifact(1000)).plan, made_at="2020-01-01T00:00:00.000Z")
    hub.artifact(1000).write_text(sealed_json(old, store.key))
    store.close()
    nothing_is_applied(hub, "Apply")


def test_a_violated_policy_is_in_the_comment_and_fails_the_check(hub: Hub) -> None:
    hub.edit(
        "runs:\n", "policies: [{name: no-echo, schema: {properties: {Process: {properties: {argv: false}}}}}]\nruns:\n"
    )
    codes = hub.run("plan.yml")
    assert codes["Plan"] == 6 and list(codes.values())[-1] == 6
    assert "no-echo" in hub.comments[0]["body"]
    nothing_is_applied(hub)


def test_every_flowplan_command_of_the_workflows_is_one_that_exists() -> None:
    text = (EXAMPLE / "plan.yml").read_text() + (EXAMPLE / "apply.yml").read_text()
    assert sorted(re.findall(r"^ +(?:run: )?flowplan (\w+)", text, re.MULTILINE)) == ["apply", "plan", "plan", "status"]
