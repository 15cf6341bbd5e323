"""People are told of what happens to runs: at least once, signed, without a secret in sight."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from projects import Project, until
from test_follower import follower, told

SPEC = """\
flowplan: 1
project: demo
notify:
  - {webhook: {from_file: hook}, secret: {from_file: key}}
  - {webhook: {from_file: all}, on: [applied, waiting], waiting_longer_than: 1s}
runs:
  load:
    provider: process
    command: [sh, -c, 'echo "no such table: $T"; exit "$(cat code)"']
    env: {T: {from_file: secret}}
    rerun: always
  after: {provider: process, command: [echo, hi], needs: [load], rerun: always}
"""


class Hooks(ThreadingHTTPServer):
    """Takes webhooks; ``refuse`` makes it answer 503."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hook)
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.refuse = False

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(body) for path, _, body in self.got if path == "/secret-path"]

    @property
    def others(self) -> list[dict[str, Any]]:
        return [json.loads(body) for path, _, body in self.got if path == "/all"]


class Hook(BaseHTTPRequestHandler):
    server: Hooks

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.server.refuse:
            self.server.got.append((self.path, dict(self.headers), body))
        self.send_response(503 if self.server.refuse else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    with Hooks() as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def prepared(project: Project, hooks: Hooks) -> None:
    project.write(SPEC)
    base = f"http://127.0.0.1:{hooks.server_address[1]}"
    texts = {
        "hook": f"{base}/secret-path\n",
        "all": f"{base}/all",
        "key": "signing-key",
        "secret": "secret-of-run",
        "code": "3",
    }
    for name, text in texts.items():
        (project.directory / name).write_text(text)


def test_apply_tells_of_failures_and_recoveries(project: Project, hooks: Hooks) -> None:
    prepared(project, hooks)
    project.ok("apply", "--yes", code=3)
    [failed] = hooks.documents
    assert (failed["kind"], failed["address"], failed["status"], failed["exit_code"]) == ("failed", "load", "failed", 3)
    assert failed["last_lines"] == ["no such table: (sensitive)"]
    assert "load failed (exit code 3)" in failed["text"]
    _, headers, body = next(one for one in hooks.got if one[0] == "/secret-path")
    assert headers["X-Flowplan-Signature-256"] == "sha256=" + hmac.new(b"signing-key", body, hashlib.sha256).hexdigest()
    assert headers["X-Flowplan-Event"] == failed["id"]
    [applied] = hooks.others
    assert applied["kind"] == "applied"
    (project.directory / "code").write_text("0")
    project.ok("apply", "--yes", "flowplan.yaml")
    assert [one["kind"] for one in hooks.documents] == ["failed", "recovered"]
    assert len(hooks.others) == 2
    everything = b"".join(body for *_, body in hooks.got).decode()
    assert "secret-of-run" not in everything
    kept = (project.directory / ".flowplan/state.db").read_bytes() + project.ok("plan", "--format", "json").out.encode()
    assert b"secret-path" not in kept
    assert b"signing-key" not in kept


def test_what_was_not_taken_is_told_by_the_follower(project: Project, hooks: Hooks) -> None:
    prepared(project, hooks)
    hooks.refuse = True
    done = project.ok("apply", "--yes", code=3)
    assert "the webhook answered 503" in done.err
    assert "secret-path" not in done.err
    hooks.refuse = False
    with follower(project):
        until(lambda: [one["kind"] for one in hooks.documents] == ["failed"])
    with follower(project):
        until(lambda: told(project).count("following") == 2)
    assert len(hooks.documents) == 1


def test_a_run_that_waits_for_long_is_told_once(project: Project, hooks: Hooks) -> None:
    prepared(project, hooks)
    project.write(SPEC.replace('exit "$(cat code)"', "until [ -e go ]; do sleep 0.05; done"))
    project.ok("apply", "--yes", "--detach")
    with follower(project):
        until(lambda: [one for one in hooks.others if one["kind"] == "waiting"])
        waiting = [one for one in hooks.others if one["kind"] == "waiting"]
        assert [one["address"] for one in waiting] == ["after"]
        assert "waiting for" in waiting[0]["text"]
    (project.directory / "go").touch()


def test_any_service_that_apprise_knows(project: Project, hooks: Hooks) -> None:
    prepared(project, hooks)
    project.write(
        SPEC.replace(
            "webhook: {from_file: all}, on: [applied, waiting], waiting_longer_than: 1s", "apprise: {from_file: all}"
        )
    )
    (project.directory / "all").write_text(f"json://127.0.0.1:{hooks.server_address[1]}/all")
    project.ok("apply", "--yes", code=3)
    [told_] = hooks.others
    assert "load failed" in told_["title"]
    assert told_["message"] == "  | no such table: (sensitive)"


def test_a_channel_is_checked_with_its_place(project: Project) -> None:
    project.write(SPEC.replace("{webhook: {from_file: hook}, secret", "{webhooc: {from_file: hook}, secret"))
    assert "flowplan.yaml:4" in project.ok("validate", code=7).err
    project.write(SPEC.replace("on: [applied, waiting]", "on: [aplied]"))
    assert 'did you mean "applied"' in project.ok("validate", code=7).err
