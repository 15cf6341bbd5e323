"""The workflows of examples/github-actions: every command in them is run, against a GitHub of one pull request."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from own_postgres import programs
from pipelines import (
    EXAMPLES,
    FLOWPLAN_TO_INSTALL,
    Repository,
    document,
    forged,
    installer,
    of_another_day,
    team_database,
    with_its_own_digest,
)

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(programs() is None, reason="a PostgreSQL of one's own needs root and its programs"),
    pytest.mark.skipif(not shutil.which("jq"), reason="needs jq (not installed)"),
]

EXAMPLE = EXAMPLES / "github-actions"
PULL_REQUEST = {
    "github.repository": "acme/nightly",
    "github.event.pull_request.number": "7",
    "github.token": "token",
    "vars.FLOWPLAN": FLOWPLAN_TO_INSTALL,
    "secrets.REPORT_TOKEN": "a-token-of-the-example",
    "secrets.PLANNER_PASSWORD": "for-tests-only",
    "secrets.WRITER_PASSWORD": "for-tests-only",
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


class Hub:
    """One repository with one pull request on GitHub, and the hosted runners of its workflows: each job has a new one."""

    def __init__(self, directory: Path, repository: Repository, kubeconfig: str = "") -> None:
        self.directory, self.repository, self.kubeconfig = directory, repository, kubeconfig
        self.hub = directory / "hub"
        self.hub.mkdir()
        (self.hub / "comments.json").write_text("[]")
        (self.hub / "runs.json").write_text("[]")
        repository.program("gh", GH % (sys.executable, str(self.hub)))
        repository.program("pipx", installer())
        self.outputs: dict[str, str] = {}

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
        number, head = 1000 + len(self.runs), self.repository.head
        run = {"databaseId": number, "workflow": name, "event": "pull_request", "headSha": head, "conclusion": ""}
        (self.hub / "runs.json").write_text(json.dumps([*self.runs, {**run, **facts}]))
        return number

    def artifact(self, run: int = 1000, name: str = "flowplan-plan") -> Path:
        place = self.hub / "artifacts" / str(run) / name / "plan.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def run(self, name: str) -> dict[str, int]:
        """Run a workflow as GitHub does, on a new runner; step -> exit code. A step that fails ends it, unless it says otherwise."""
        number, merged = self.begin(name), self.repository.merge() if name == "apply.yml" else ""
        self.outputs = {
            **PULL_REQUEST,
            "vars.FLOWPLAN_STATE": self.repository.state,
            "secrets.KUBECONFIG": self.kubeconfig,
            "github.event.pull_request.head.sha": self.repository.head,
            "github.event.pull_request.merge_commit_sha": merged,
        }
        [job] = document(EXAMPLE / name)["jobs"].values()
        work = self.repository.clone(merged or "change")
        given = {key: self._filled(value) for key, value in job["env"].items()}
        for variable in ("ENV", "OUTPUT", "STEP_SUMMARY"):
            given[f"GITHUB_{variable}"] = str(work.with_name(f"{variable}-{work.name}"))
        given["RUNNER_TEMP"] = str(self.directory)
        codes: dict[str, int] = {}
        outcome = "success"
        for step in job["steps"]:
            condition = step.get("if", "")
            if condition == "steps.plan.outcome == 'failure'" and not codes["Plan"]:
                continue
            if outcome == "failure" and condition != "always()":
                continue
            code = self._step(step, number, work, given)
            codes[step.get("name") or step["uses"]] = code
            if code and not step.get("continue-on-error"):
                outcome = "failure"
        self.summary = Path(given["GITHUB_STEP_SUMMARY"])
        runs = self.runs
        runs[number - 1000]["conclusion"] = outcome
        (self.hub / "runs.json").write_text(json.dumps(runs))
        return codes

    def _step(self, step: dict[str, Any], run: int, work: Path, given: dict[str, str]) -> int:
        if step.get("uses", "").startswith("actions/upload-artifact@"):
            file, there = Path(step["with"]["path"]), (work / step["with"]["path"]).exists()
            assert there or step["with"].get("if-no-files-found") == "ignore"
            address = f"https://github.com/acme/nightly/artifacts/{run}-{step['with']['name']}"
            self.outputs[f"steps.{step.get('id')}.outputs.artifact-url"] = address if there else ""
            if there:
                shutil.copy(work / file, self.artifact(run, step["with"]["name"]).with_name(file.name))
            return 0
        if "uses" in step:
            assert step["uses"].startswith("actions/checkout@")
            return 0
        env = {key: self._filled(value) for key, value in step.get("env", {}).items()}
        code = self.repository.bash(self._filled(step["run"]), work, {**given, **env})
        variables = Path(given["GITHUB_ENV"])
        for line in variables.read_text().splitlines() if variables.exists() else ():
            name, _, value = line.partition("=")
            given[name] = value
        return code

    def _filled(self, text: str) -> str:
        """``${{ }}`` filled in; an unknown expression is a mistake of the workflow."""
        return re.sub(r"\$\{\{ *(.+?) *\}\}", lambda match: self.outputs[match[1]], text)

    def edit(self, old: str, new: str, *, pushed: bool = True) -> None:
        self.repository.edit(old, new, pushed=pushed)

    def statuses(self) -> dict[str, str]:
        return self.repository.statuses()


@pytest.fixture(scope="module")
def new_repository() -> Iterator[Callable[..., Repository]]:
    with team_database() as database:
        yield lambda directory, **options: Repository(directory, "github-actions", database, **options)


@pytest.fixture
def hub(tmp_path: Path, new_repository: Callable[..., Repository]) -> Hub:
    return Hub(tmp_path, new_repository(tmp_path))


@pytest.mark.kubernetes
def test_hosted_runners_start_jobs_on_a_cluster(
    tmp_path: Path, new_repository: Callable[..., Repository], namespace: str
) -> None:
    kubeconfig = Path(os.environ["KUBECONFIG"]).read_text()
    hub = Hub(tmp_path, new_repository(tmp_path, namespace=namespace), kubeconfig)
    try:
        assert set(hub.run("plan.yml").values()) == {0}
        assert set(hub.run("apply.yml").values()) == {0}
        assert hub.statuses() == {"extract": "succeeded", "report": "succeeded"}
    finally:
        hub.repository.person.ok("destroy", "--yes", timeout=180)


def test_the_comment_links_the_page_of_its_plan(hub: Hub) -> None:
    hub.run("plan.yml")
    [comment] = hub.comments
    assert "[The plan as a page](https://github.com/acme/nightly/artifacts/1000-flowplan-page)" in comment["body"]
    page = hub.artifact(name="flowplan-page").with_name("plan.html").read_text()
    assert json.loads(hub.artifact().read_text())["digest"] in page


def test_the_planner_of_a_pull_request_may_write_nothing(hub: Hub) -> None:
    assert hub.run("plan.yml")["Plan"] == 0
    refused = hub.repository.person.ok("apply", "--yes", env={"PGUSER": "planner"}, code=1)
    assert "refuses this user" in refused.err and hub.statuses() == {}


@pytest.mark.parametrize("name", ["plan.yml", "apply.yml"])
def test_the_workflows_are_well_formed(name: str) -> None:
    found = document(EXAMPLE / name)
    assert set(found) == {"name", "on", "permissions", "concurrency", "jobs"}
    [job] = found["jobs"].values()
    assert job["runs-on"].startswith("ubuntu-"), "a runner of GitHub's, which keeps nothing"
    assert "head.repo.full_name == github.repository" in job["if"], "nothing of a fork sees a secret"
    for step in job["steps"]:
        assert ("uses" in step) != ("run" in step)
        for expression in re.findall(r"\$\{\{(.+?)\}\}", step.get("run", "")):
            raise AssertionError(f"{expression} inside a command could be code; pass it through env")


def test_a_lost_state_is_not_made_anew(hub: Hub) -> None:
    hub.repository.lose_state()
    assert hub.run("plan.yml")["Plan"] == 6
    [comment] = hub.comments
    assert "nothing can be applied" in comment["body"]
    assert "there is no state" in hub.repository.person.ok("status", code=1).err


def test_from_the_pull_request_to_the_merge(hub: Hub) -> None:
    assert set(hub.run("plan.yml").values()) == {0}
    [comment] = hub.comments
    assert "2 to create" in comment["body"]
    first = comment["body"].splitlines()[1]
    hub.edit('default: "1.4"', 'default: "1.5"')
    hub.run("plan.yml")
    [comment] = hub.comments
    assert comment["id"] == 100 and comment["body"].splitlines()[1] != first, "the same comment, another digest"
    assert hub.summary.read_text().startswith(f"<!-- flowplan:project={hub.repository.project} digest=sha256:")
    assert set(hub.run("apply.yml").values()) == {0}
    assert hub.statuses() == {"extract": "succeeded", "report": "succeeded"}
    page = hub.artifact(1002, "flowplan-report").with_name("report.html").read_text()
    assert "extracted with 1.5" in page
    assert "a-token-of-the-example" not in hub.artifact(1001).read_text() + comment["body"] + page


def test_what_changed_since_the_approval_is_not_applied(hub: Hub) -> None:
    hub.run("plan.yml")
    hub.repository.apply_something_else()
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
    first = f"<!-- flowplan:nightly head={hub.repository.head} -->"
    return f"{first}\n<!-- flowplan:project={hub.repository.project} digest=sha256:{digest} -->\n### Plan"


def nothing_is_applied(hub: Hub, step: str = "The approved plan") -> None:
    codes = hub.run("apply.yml")
    assert codes[step] != 0 and codes["How everything stands"] == 0
    assert "Apply" not in codes or codes["Apply"] == 4
    assert hub.statuses() == {}


def test_an_artifact_of_another_run_is_not_taken(hub: Hub) -> None:
    hub.run("plan.yml")
    other = hub.begin("mallory.yml", conclusion="success")
    hub.artifact(other).write_text(forged(hub.artifact()))
    assert set(hub.run("apply.yml").values()) == {0}
    assert hub.statuses() == {"extract": "succeeded", "report": "succeeded"}


def test_an_artifact_that_was_replaced_in_its_own_run_is_refused(hub: Hub) -> None:
    hub.run("plan.yml")
    hub.artifact().write_text(forged(hub.artifact()))
    nothing_is_applied(hub, "Apply")


def test_a_replaced_artifact_with_a_comment_to_match_is_refused_by_its_seal(hub: Hub) -> None:
    hub.run("plan.yml")
    text, digest = with_its_own_digest(hub.artifact())
    hub.artifact().write_text(text)
    bot = {"id": 100, "user": {"login": "github-actions[bot]"}, "body": marked(hub, digest)}
    (hub.hub / "comments.json").write_text(json.dumps([bot]))
    nothing_is_applied(hub, "Apply")


def test_a_second_comment_of_the_bot_makes_no_other_plan_be_applied(hub: Hub) -> None:
    hub.run("plan.yml")
    planted = {"id": 1, "user": {"login": "github-actions[bot]"}, "body": marked(hub, "0" * 64)}
    (hub.hub / "comments.json").write_text(json.dumps([*hub.comments, planted]))
    nothing_is_applied(hub)


def test_the_plan_of_an_earlier_push_is_not_applied(hub: Hub) -> None:
    hub.run("plan.yml")
    hub.edit("extracted with", "extracted: with")
    nothing_is_applied(hub)


@pytest.mark.parametrize("conclusion", ["", "failure"])
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
    assert "no plan for this push" in comment["body"] and hub.repository.head in comment["body"]
    nothing_is_applied(hub)


def test_what_is_merged_is_what_was_planned(hub: Hub) -> None:
    hub.run("plan.yml")
    hub.edit("extracted with", "merged with", pushed=False)
    nothing_is_applied(hub)


def test_a_marker_inside_a_plan_is_only_text(hub: Hub) -> None:
    hub.edit("runs:\n", "runs:\n" + MARKER_IN_A_RUN.format("0" * 40, hub.repository.project, "1" * 64))
    hub.run("plan.yml")
    hub.repository.head = "0" * 40
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
    hub.artifact().write_text(of_another_day(hub.artifact(), hub.repository))
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
    assert sorted(re.findall(r"^ +(?:run: )?(?:\".*\|\| )?flowplan (\w+)", text, re.MULTILINE)) == [
        "apply", "plan", "plan", "report", "show", "status",
    ]  # fmt: skip
