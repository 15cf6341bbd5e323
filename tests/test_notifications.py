"""The recipes of docs/notifications.md tell a webhook, which is a server of this test, and nothing where all is well."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import consoles
import pytest
import yaml
from projects import Project, until

PAGE = consoles.ROOT / "docs" / "notifications.md"
FILES = {b.option.removeprefix("file: "): b.text for b in consoles.blocks(PAGE) if b.option.startswith("file: ")}
GOOD = "echo loaded"

pytestmark = pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq (not installed)"
)


class Webhook:
    """A server that keeps what is posted to it; while ``broken`` it answers 503."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.broken = False
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.headers["Content-Type"] == "application/json"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not webhook.broken:
                    webhook.bodies.append(body)
                self.send_response(503 if webhook.broken else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
                webhook.bodies.append(self.path.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def texts(self) -> list[str]:
        return [json.loads(body)["text"] for body in self.bodies]


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    made = Webhook()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def project(tmp_path: Path, webhook: Webhook) -> Iterator[Project]:
    """Return the project of the page, with its scripts, in which the webhook is this test's."""
    made = Project(tmp_path)
    address = f"http://127.0.0.1:{webhook.server.server_port}/hook"
    for name, text in FILES.items():
        text = text.replace("https://chat.example.com/hooks/T0001/B0002", address).replace(
            "/home/ada/nightly", str(tmp_path)
        )
        made.write(text.replace("retry = 3\n", ""), name)
    (tmp_path / "webhook").chmod(0o600)
    yield made
    made.run("destroy", "--yes", "--if-exists")


def load(project: Project, script: str) -> None:
    """Write the spec with another script of the run ``load``."""
    broken = """'echo "no such table: rates"; exit 1'"""
    assert broken in FILES["flowplan.yaml"]
    project.write(FILES["flowplan.yaml"].replace(broken, json.dumps(script)))


def sh(project: Project, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{project.directory}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-c", script],
        check=False,
        cwd=project.directory,
        env={"PATH": path, "HOME": str(project.directory), **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_bad_night_is_told_and_a_good_one_is_not(project: Project, webhook: Webhook) -> None:
    load(project, GOOD)
    assert sh(project, "sh nightly.sh").returncode == 0
    assert webhook.bodies == []
    project.write(FILES["flowplan.yaml"])
    done = sh(project, "sh nightly.sh")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    (text,) = webhook.texts
    assert text.startswith("nightly ended with exit code 3\n") and "no such table: rates" in text
    assert "1 failed" in text
    project.write("flowplan: 1\n")
    assert sh(project, "sh nightly.sh").returncode == 7
    assert "exit code 7" in webhook.texts[1] and "project: is missing" in webhook.texts[1]


def test_each_failure_is_told_once(project: Project, webhook: Webhook) -> None:
    load(project, GOOD)
    project.ok("apply", "--yes")
    command = ["sh", "tell.sh"]
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, cwd=project.directory, env=env, start_new_session=True, stderr=subprocess.DEVNULL
        )

    teller = start()
    try:
        load(project, "exit 4")
        project.ok("apply", "--yes", code=3)
        until(lambda: webhook.bodies)
        until(lambda: (project.directory / "told").exists() and (project.directory / "told").read_text())
        assert "load, attempt 2: failed. " in webhook.texts[0]
        os.killpg(teller.pid, signal.SIGTERM)
        teller.wait(30)
        load(project, "exit 5")
        project.ok("apply", "--yes", code=3)
        webhook.broken = True
        teller = start()
        assert teller.wait(30) != 0, "a webhook that does not answer ends it"
        webhook.broken = False
        teller = start()
        until(lambda: len(webhook.bodies) == 2)
        assert "load, attempt 3: failed. " in webhook.texts[1]
    finally:
        os.killpg(teller.pid, signal.SIGTERM)
        teller.wait(30)


def test_the_mail_of_the_morning_has_what_failed(project: Project) -> None:
    (project.directory / "bin").mkdir()
    mail = project.directory / "bin" / "mail"
    mail.write_text("#!/bin/sh\ncat > mail.txt\n")
    mail.chmod(0o755)
    load(project, GOOD)
    project.ok("apply", "--yes")
    assert sh(project, "sh morning.sh").returncode == 0
    assert (project.directory / "mail.txt").read_text() == "", "mail -E sends nothing"
    project.write(FILES["flowplan.yaml"])
    project.ok("apply", "--yes", code=3)
    assert sh(project, "sh morning.sh").returncode == 0
    (line,) = (project.directory / "mail.txt").read_text().splitlines()
    assert line.split("  ")[1:3] == ["load", "failed"]


def test_the_monitor_is_called_after_a_good_night_only(project: Project, webhook: Webhook) -> None:
    (project.directory / "monitor").write_text(f'url = "http://127.0.0.1:{webhook.server.server_port}/ping"\nsilent\n')
    command = (project.directory / "crontab").read_text().splitlines()[-1].split(maxsplit=5)[5]
    assert sh(project, command).returncode == 3
    assert webhook.bodies == []
    load(project, GOOD)
    assert sh(project, command).returncode == 0
    assert webhook.bodies == [b"/ping"]


def test_the_steps_of_github_and_gitlab_do_what_they_say(project: Project, webhook: Webhook) -> None:
    project.ok("apply", "--yes", code=3)
    steps = yaml.safe_load(FILES["steps.yml"])
    assert [step["if"] for step in steps] == ["failure()"] * 2
    script = "\n".join(step["run"] for step in steps).replace("/etc/flowplan/webhook", "webhook")
    done = sh(project, script, GITHUB_STEP_SUMMARY="summary.md", RUN="https://example.com/1")
    assert done.returncode == 0, done.stderr
    assert "load" in (project.directory / "summary.md").read_text()
    assert webhook.texts == ["nightly failed: https://example.com/1"]

    (job,) = yaml.safe_load(FILES["gitlab-ci.yml"]).values()
    assert sh(project, "\n".join(job["script"])).returncode == 3
    assert sh(project, "\n".join(job["after_script"])).returncode == 0
    assert [r["address"] for r in json.loads((project.directory / "failed.json").read_text())["runs"]] == ["load"]
