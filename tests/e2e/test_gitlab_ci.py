"""The jobs of examples/gitlab-ci: every command in them is run, against a GitLab of one merge request."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

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
    pytest.mark.skipif(not (shutil.which("jq") and shutil.which("curl")), reason="needs jq and curl (not installed)"),
]

EXAMPLE = EXAMPLES / "gitlab-ci" / ".gitlab-ci.yml"
BOT = 42


class GitLab:
    """The API of GitLab, as far as the jobs use it, and its runners: each job has a new clone and a new home."""

    def __init__(self, repository: Repository, port: int) -> None:
        self.repository, self.port = repository, port
        repository.program("apt-get", "#!/bin/sh\n")
        repository.program("python", installer())
        self.directory = repository.directory
        self.notes: list[dict[str, Any]] = []
        self.pipelines: list[dict[str, Any]] = []
        self.merged: list[dict[str, Any]] = []

    def answer(self, method: str, path: str, body: str) -> Any:
        """Answer a request as GitLab does; bytes are a file, None is 404."""
        parts = path.removeprefix("/api/v4/").split("/")
        request = ["projects", "9", "merge_requests", "7"]
        match [method, *parts]:
            case ["GET", "user"]:
                return {"id": BOT}
            case ["GET", *rest] if rest == [*request, "notes"]:
                return self.notes
            case ["POST", *rest] if rest == [*request, "notes"]:
                self.note(BOT, body)
                return self.notes[-1]
            case ["PUT", *rest, number] if rest == [*request, "notes"]:
                [found] = [note for note in self.notes if str(note["id"]) == number]
                found["body"] = body
                return found
            case ["GET", *rest] if rest == [*request, "pipelines"]:
                return self.pipelines[::-1]
            case ["GET", "projects", "9", "repository", "commits", commit, "merge_requests"]:
                return [one for one in self.merged if one["commit"] == commit]
            case ["GET", "projects", "9", "pipelines", number, "jobs"]:
                return [{"name": "plan", "id": int(number) + 1000}]
            case ["GET", "projects", "9", "jobs", job, "artifacts", "plan.json"]:
                return self.artifact(int(job) - 1000).read_bytes()
        return None

    def note(self, author: int, body: str) -> None:
        self.notes.append({"id": 100 + len(self.notes), "author": {"id": author}, "body": body})

    def artifact(self, pipeline: int = 1) -> Path:
        return self.directory / f"artifact-{pipeline}.json"

    def plan(self, **facts: Any) -> int:
        """Run the pipeline of the merge request, or make one as it is in the list of pipelines; return its exit code."""
        number = len(self.pipelines) + 1
        head = self.repository.head
        pipeline = {"id": number, "sha": head, "source": "merge_request_event", "status": "running"}
        self.pipelines.append({**pipeline, **facts})
        if facts:
            return 0
        code, work = self._job("plan", self.repository.clone("change"), head)
        if not code:
            shutil.copy(work / "plan.json", self.artifact(number))
        self.pipelines[-1]["status"] = "failed" if code else "success"
        return code

    def merge(self) -> int:
        """Merge, and run the pipeline of the main branch; return the exit code of its job."""
        commit = self.repository.merge()
        self.merged.append({"iid": 7, "state": "merged", "sha": self.repository.head, "commit": commit})
        return self._job("apply", self.repository.clone(commit), commit)[0]

    def _job(self, name: str, work: Path, commit: str) -> tuple[int, Path]:
        example = document(EXAMPLE)
        variables = {
            "CI_API_V4_URL": f"http://127.0.0.1:{self.port}/api/v4",
            "CI_PROJECT_ID": "9",
            "CI_MERGE_REQUEST_IID": "7",
            "CI_COMMIT_SHA": commit,
            "BOT_TOKEN": "for-tests-only",
            "PLANNER_PASSWORD": "for-tests-only",
            "WRITER_PASSWORD": "for-tests-only",
            "REPORT_TOKEN": "a-token-of-the-example",
            "FLOWPLAN": FLOWPLAN_TO_INSTALL,
            "FLOWPLAN_STATE": self.repository.state,
            **example["variables"],
        }
        job = example[name]
        own = {
            key: re.sub(r"\$(\w+)", lambda match: variables[match[1]], text) for key, text in job["variables"].items()
        }
        script = "\n".join([*example["default"]["before_script"], *job["script"]])
        code = self.repository.bash(script, work, {**variables, **own})
        if after := job.get("after_script"):
            assert self.repository.bash("\n".join(after), work, {**variables, **own}) == 0
            assert job["artifacts"]["when"] == "always" and (work / job["artifacts"]["paths"][0]).exists()
        return code, work


@pytest.fixture(scope="module")
def new_repository() -> Iterator[Callable[[Path], Repository]]:
    with team_database() as database:
        yield lambda directory: Repository(directory, "gitlab-ci", database)


@pytest.fixture
def lab(tmp_path: Path, new_repository: Callable[[Path], Repository]) -> Iterator[GitLab]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            assert self.headers["PRIVATE-TOKEN"] == "for-tests-only"
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            body = parse_qs(sent, strict_parsing=bool(sent)).get("body", [""])[0]
            found = made.answer(self.command, urlsplit(self.path).path, body)
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(found if isinstance(found, bytes) else json.dumps(found).encode())

        do_GET = do_POST = do_PUT = _answer

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = GitLab(new_repository(tmp_path), server.server_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


def nothing_is_applied(lab: GitLab, code: int = 1) -> None:
    assert lab.merge() == code
    assert lab.repository.statuses() == {}


def test_from_the_merge_request_to_the_merge(lab: GitLab) -> None:
    assert lab.plan() == 0
    [note] = lab.notes
    first = note["body"].splitlines()[1]
    assert "2 to create" in note["body"]
    lab.repository.edit('default: "1.4"', 'default: "1.5"')
    assert lab.plan() == 0
    [note] = lab.notes
    assert note["id"] == 100 and note["body"].splitlines()[1] != first, "the same note, another digest"
    lab.note(7, f"<!-- flowplan:nightly head={lab.repository.head} -->\n{first}")  # of somebody else
    assert "a-token-of-the-example" not in lab.artifact(2).read_text() + note["body"]
    assert lab.merge() == 0
    assert lab.repository.statuses() == {"extract": "succeeded", "report": "succeeded"}


def test_what_changed_since_the_approval_is_not_applied(lab: GitLab) -> None:
    lab.plan()
    lab.repository.apply_something_else()
    assert lab.merge() == 4


@pytest.mark.parametrize("replaced", ["forged", "with a note to match", "old"])
def test_an_artifact_that_was_replaced_is_refused(lab: GitLab, replaced: str) -> None:
    lab.plan()
    if replaced == "forged":
        text = forged(lab.artifact())
    elif replaced == "old":
        text = of_another_day(lab.artifact(), lab.repository)
    else:
        text, digest = with_its_own_digest(lab.artifact())
        lab.notes[0]["body"] = re.sub("digest=sha256:[0-9a-f]{64}", f"digest=sha256:{digest}", lab.notes[0]["body"])
    lab.artifact().write_text(text)
    nothing_is_applied(lab, code=4)


def test_the_plan_of_an_earlier_push_is_not_applied(lab: GitLab) -> None:
    lab.plan()
    lab.repository.edit("extracted with", "extracted: with")
    nothing_is_applied(lab)


@pytest.mark.parametrize("status", ["running", "failed"])
def test_a_pipeline_that_did_not_succeed_is_not_replaced_by_an_older_one(lab: GitLab, status: str) -> None:
    lab.plan()
    lab.plan(status=status)
    nothing_is_applied(lab)


def test_what_is_merged_is_what_was_planned(lab: GitLab) -> None:
    lab.plan()
    lab.repository.edit("extracted with", "merged with", pushed=False)
    nothing_is_applied(lab)


def test_a_violated_policy_is_in_the_note_and_fails_the_job(lab: GitLab) -> None:
    lab.repository.edit(
        "runs:\n", "policies: [{name: no-echo, schema: {properties: {Process: {properties: {argv: false}}}}}]\nruns:\n"
    )
    assert lab.plan() == 6
    assert "no-echo" in lab.notes[0]["body"]
    nothing_is_applied(lab)


def test_a_commit_without_a_merge_request_is_not_applied(lab: GitLab) -> None:
    lab.plan()
    commit = lab.repository.merge()
    assert lab._job("apply", lab.repository.clone(commit), commit)[0] == 1
    assert lab.repository.statuses() == {}


def test_only_the_planner_and_the_writer_are_known_to_the_jobs() -> None:
    found = document(EXAMPLE)
    users = {name: job["variables"]["PGUSER"] for name, job in found.items() if name in ("plan", "apply")}
    assert users == {"plan": "planner", "apply": "writer"} and found["apply"]["environment"] == "production"
    assert "CI_MERGE_REQUEST_SOURCE_PROJECT_ID == $CI_PROJECT_ID" in found["plan"]["rules"][0]["if"], "no fork"
