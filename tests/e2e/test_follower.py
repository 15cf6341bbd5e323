"""Approved runs go on without a terminal: whatever becomes of who applied them, and of the follower itself."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from projects import FLOWPLAN, Project, until

import flowplan.serve.follower as follower_module
from flowplan.commands.places import place
from flowplan.serve.health import Health

WORK = """\
flowplan: 1
project: demo
variables: {token: {type: string, sensitive: true, default: ""}}
defaults: {provider: process}
runs:
  first: {command: [sh, -c, 'until [ -e go ]; do sleep 0.05; done; echo first >> log']}
  second: {command: [sh, -c, 'echo second >> log'], needs: [first]}
  cell: {command: [sh, -c, 'echo cell${each.n} >> log; sleep 0.2'], matrix: {n: [1, 2, 3]}, max_parallel: 1, needs: [first]}
  limited: {command: [sleep, "600"], timeout: 1s, grace_period: 1s, needs: [first]}
  fails: {command: [sh, -c, 'echo broken; exit 3'], needs: [first]}
  after: {command: [echo, never], needs: [fails]}
"""
ENDS = {
    "first": "succeeded", "second": "succeeded", "cell[n=1]": "succeeded", "cell[n=2]": "succeeded", "cell[n=3]": "succeeded",
    "limited": "timed_out", "fails": "failed",
}  # fmt: skip


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def follower(project: Project, *options: str, **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a follower in the background; it must end well when it is told to."""
    with (project.directory / "serve.log").open("a") as log:
        process = subprocess.Popen(
            [*project.before, FLOWPLAN, "serve", *(options or ("--listen", "none"))],
            cwd=project.directory,
            env={**os.environ, **project.env, **settings.get("env", {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            text=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) in settings.get("codes", (0, -signal.SIGKILL)), told(project)
        assert "Traceback" not in told(project), told(project)


def told(project: Project) -> str:
    """Return what the followers of a project printed."""
    return (project.directory / "serve.log").read_text()


def logged(project: Project) -> list[str]:
    """Return what the runs wrote, in order."""
    return sorted((project.directory / "log").read_text().split())


def let_go(project: Project) -> None:
    (project.directory / "go").touch()


def not_started(project: Project) -> dict[str, str]:
    return {s["address"]: s["reason"] for s in project.ok("status", "--format", "json").json["not_started"]}


def test_what_was_approved_goes_on_without_a_terminal(project: Project) -> None:
    project.write(WORK)
    with follower(project, codes=(1,)) as process:
        assert process.wait(10) == 1  # there is no state yet
    assert "flowplan plan" in told(project)
    project.ok("apply", "--yes", "--detach")
    with follower(project):
        until(lambda: "following" in told(project))
        assert "the follower of" in project.ok("status").err
        let_go(project)
        until(lambda: project.statuses() == ENDS and not set(not_started(project)) - {"after"})
    assert logged(project) == ["cell1", "cell2", "cell3", "first", "second"]
    assert not_started(project) == {"after": "fails failed (exit code 3)"}
    assert project.ok("logs", "fails").out == "broken\n"
    assert project.statuses() == ENDS


def test_a_plan_that_is_applied_while_it_follows_goes_on_as_well(project: Project) -> None:
    project.write(WORK)
    project.ok("apply", "--yes", "--detach", "--target", "second")
    with follower(project):
        until(lambda: "following" in told(project))
        done = project.ok("apply", "--yes", "--detach", "flowplan.yaml")
        assert "the follower of" in done.err
        until(lambda: "superseded by plan" in told(project))
        let_go(project)
        until(lambda: project.statuses() == ENDS)
    assert logged(project) == ["cell1", "cell2", "cell3", "first", "second"]


def test_a_foreground_apply_and_the_follower_share_the_work(project: Project) -> None:
    project.write(WORK)
    project.ok("plan")
    project.ok("apply", "--yes", "--detach", "--target", "first")
    with follower(project):
        until(lambda: "following" in told(project))
        apply = project.start("apply", "--yes", "flowplan.yaml")
        until(lambda: len(not_started(project)) > 3)
        let_go(project)
        out, err = apply.communicate(timeout=60)
        assert apply.returncode == 3, out + err
    assert logged(project) == ["cell1", "cell2", "cell3", "first", "second"]
    assert project.statuses() == ENDS


CELLS = """\
flowplan: 1
project: demo
runs:
  cell: {provider: process, command: [sh, -c, 'echo cell${each.n} >> log; sleep 0.5'], matrix: {n: [1, 2, 3]}, max_parallel: 1}
"""


def test_what_an_apply_begins_while_a_round_does_is_not_given_up(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = project.write(CELLS)
    project.ok("plan", "--out", "p.json")
    killed = project.run("apply", "p.json", "--yes", env={"FLOWPLAN_FAULT": "state:accept:after"})
    assert killed.code == -signal.SIGKILL
    real, applies = follower_module.plan_again, iter([("apply", "p.json", "--yes", "--detach")])

    def meanwhile(*arguments: Any) -> Any:
        for words in applies:
            project.ok(*words)
        return real(*arguments)

    monkeypatch.setattr(follower_module, "plan_again", meanwhile)
    stop = threading.Event()
    following = follower_module.Follower(lambda: place(None, spec, None).state, Health(), stop)
    thread = threading.Thread(target=following.run)
    thread.start()
    try:
        until(lambda: list(project.statuses().values()) == ["succeeded"] * 3)
        assert not_started(project) == {}
    finally:
        stop.set()
        thread.join(60)
    assert logged(project) == ["cell1", "cell2", "cell3"]


def test_a_killed_follower_is_replaced_by_the_one_that_stands_by(project: Project) -> None:
    project.write(WORK)
    project.ok("apply", "--yes", "--detach")
    with follower(project) as first:
        until(lambda: "following" in told(project))
        with follower(project):
            until(lambda: "standby" in told(project))
            first.kill()
            let_go(project)
            until(lambda: project.statuses() == ENDS)
    assert logged(project) == ["cell1", "cell2", "cell3", "first", "second"]


def test_an_altered_plan_is_not_carried_out_and_the_others_go_on(project: Project) -> None:
    from flowplan.schemas.accepted import packed, unpacked

    project.write(WORK)
    project.ok("apply", "--yes", "--detach", "--target", "second")
    with closing(sqlite3.connect(project.directory / ".flowplan" / "state.db")) as state, state:
        [(number, document)] = state.execute("SELECT id, document FROM plans").fetchall()
        altered = packed(unpacked(document).replace("echo second", "echo evil"))
        state.execute("UPDATE plans SET document = ? WHERE id = ?", (altered, number))
    project.ok("apply", "--yes", "--detach", "--target", "cell")
    let_go(project)
    with follower(project):
        until(lambda: list(project.statuses().values()).count("succeeded") == 4)
        assert "edited" in not_started(project)["second"]
    assert logged(project) == ["cell1", "cell2", "cell3", "first"]
    assert "second: waits" in told(project)


def test_a_state_that_goes_away_and_comes_back_is_told_once(project: Project) -> None:
    project.write(WORK)
    project.ok("apply", "--yes", "--detach", "--target", "first")
    port, home = free_port(), project.directory / ".flowplan"
    with follower(project, "--listen", f"127.0.0.1:{port}"):
        until(lambda: "following" in told(project))
        home.rename(project.directory / "away")
        until(lambda: get(port, "/readyz")[0] == 503)
        assert get(port, "/api/v1/events", Accept="text/event-stream")[0] == 503
        (project.directory / "away").rename(home)
        until(lambda: get(port, "/readyz")[0] == 200)
        ahead = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/v1/events",
            headers={"Accept": "text/event-stream", "Last-Event-ID": "9" * 18},
        )
        with urllib.request.urlopen(ahead, timeout=30) as stream:  # of another state: it hears what happens from now on
            assert stream.readline().startswith(b"retry")
            let_go(project)
            event = next(json.loads(line[5:]) for line in stream if line.startswith(b"data:"))
        assert (event["address"], event["status"]) == ("first", "succeeded")
        login = urllib.request.Request(f"http://127.0.0.1:{port}/login", data=b"token=%ff%00")
        with urllib.request.urlopen(login, timeout=10) as answer:  # no token is wanted, so anything lets in
            assert answer.url == f"http://127.0.0.1:{port}/"
    assert told(project).count("tried again until it is well") == 1


SECRET = """\
flowplan: 1
project: demo
variables: {token: {type: string, sensitive: true, default: ""}}
runs:
  first: {provider: process, command: [sh, -c, 'until [ -e go ]; do sleep 0.05; done']}
  second: {provider: process, command: [sh, -c, 'echo "$T"'], needs: [first], env: {T: {from_file: secret.txt}}}
  third: {provider: process, command: [sh, -c, 'echo "$T"'], needs: [first], env: {T: "${var.token}"}}
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_is_waited_out_and_told_once(project: Project) -> None:
    project.write(WORK)
    place, port = project.directory / ".flowplan", free_port()
    place.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "flowplan-test", place], check=True)
    try:
        project.ok("apply", "--yes", "--detach")
        with follower(project, "--listen", f"127.0.0.1:{port}"):
            until(lambda: "following" in told(project))
            with contextlib.suppress(OSError), (place / "fill").open("wb", buffering=0) as fill:
                while True:
                    fill.write(b"x" * 4096)
            let_go(project)
            until(lambda: "disk is full" in get(port, "/readyz")[1])
            shown = project.ok("status", "--format", "json")
            assert "showing what was recorded before" in shown.err
            assert {run["address"]: run["status"] for run in shown.json["runs"]} == {"first": "running"}
            (place / "fill").unlink()
            until(lambda: project.statuses() == ENDS)
        assert told(project).count("cannot be written: the disk is full") == 1
        assert logged(project) == ["cell1", "cell2", "cell3", "first", "second"]
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_run_whose_secret_is_missing_or_another_waits_for_it(project: Project) -> None:
    project.write(SECRET)
    secret = project.directory / "secret.txt"
    secret.write_text("the-approved-one")
    done = project.ok("apply", "--yes", "--detach", "--var", "token=hidden-value")
    assert "token" in done.err
    assert "FLOWPLAN_VAR_" in done.err
    secret.write_text("another-value")
    with follower(project):
        until(lambda: "second" in (reasons := not_started(project)) and "secret" in reasons["second"])
        assert "token" in not_started(project)["third"]
        let_go(project)
        until(lambda: project.statuses() == {"first": "succeeded"})
        assert "secret" in not_started(project)["second"]
        secret.write_text("the-approved-one")
        until(lambda: project.statuses().get("second") == "succeeded")
        assert "hidden-value" not in told(project)
    with follower(project, env={"FLOWPLAN_VAR_token": "hidden-value"}):
        until(lambda: project.statuses().get("third") == "succeeded")
    assert "hidden-value" not in told(project) + project.ok("logs", "third").out


def test_a_reason_that_is_mended_is_not_shown_any_longer(project: Project) -> None:
    project.write(SECRET)
    secret = project.directory / "secret.txt"
    secret.write_text("the-approved-one")
    project.ok("apply", "--yes", "--detach")
    secret.unlink()
    with follower(project):
        until(lambda: "secret" in not_started(project)["second"])
        secret.write_text("the-approved-one")
        until(lambda: not_started(project)["second"] == "for first")
        let_go(project)
        until(lambda: project.statuses().get("second") == "succeeded")
    assert told(project).count("second: waits") == 1


def test_cancel_drops_what_has_not_started(project: Project) -> None:
    project.write(WORK)
    project.ok("apply", "--yes", "--detach")
    assert "cell[n=2]" in project.ok("cancel", "cell[n=2]", "after").err
    assert project.ok("cancel", "first", code=7).err.count("started") == 1
    project.ok("cancel", "nonsense", code=7)
    project.ok("cancel", code=7)
    with follower(project):
        let_go(project)
        until(
            lambda: (
                set(project.statuses()) == set(ENDS) - {"cell[n=2]"} and "running" not in project.statuses().values()
            )
        )
    assert logged(project) == ["cell1", "cell3", "first", "second"]


RUNNING = """\
flowplan: 1
project: demo
defaults: {provider: PROVIDER}
runs:
  a: {command: [sh, -c, 'trap "echo told; exit 3" TERM; echo begun; while :; do sleep 0.1; done'], grace_period: 10s}
  b: {command: ["true"], needs: [a]}
  kept: {command: [sleep, "600"], protect: active, grace_period: 1s}
"""


@pytest.mark.parametrize(
    "provider", ["process", pytest.param('docker, image: "busybox:1.35"', marks=pytest.mark.docker, id="docker")]
)
def test_cancel_stop_ends_what_runs_and_the_record_says_so(project: Project, provider: str) -> None:
    project.write(RUNNING.replace("PROVIDER", provider))
    project.ok("apply", "--yes", "--detach")
    with follower(project):
        until(lambda: project.statuses() == {"a": "running", "kept": "running"})
        until(lambda: "begun" in project.ok("logs", "a").out)
        assert "--stop" in project.ok("cancel", "a", code=7).err
        refused = project.ok("cancel", "a", "kept", "--stop", code=6)
        assert "protect" in refused.err and "--allow-interrupt" in refused.err
        assert project.statuses() == {"a": "running", "kept": "running"}
        project.ok("cancel", "a", "--stop")
        until(lambda: not_started(project) == {"b": "a cancelled"})
        [plan] = project.ok("status", "--format", "json").json["plans"]
        project.ok("cancel", "--plan", plan["digest"], "--stop", "--allow-interrupt", "kept")
    assert project.statuses() == {"a": "cancelled", "kept": "cancelled"}
    assert not_started(project) == {}
    assert project.status()["a"]["message"].startswith("by ")
    history = project.ok("history", "--format", "json").json["attempts"]
    assert {one["address"]: one["status"] for one in history} == project.statuses()
    assert "told" in project.ok("logs", "a").out
    assert "status" in project.ok("cancel", "a", "--stop", code=7).err


def get(port: int, path: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_it_answers_what_the_commands_print(project: Project) -> None:
    from flowplan.schemas.plan_documents import schema_faults

    project.write(WORK)
    project.ok("apply", "--yes", "--detach")
    port = free_port()
    with follower(project, "--listen", f"127.0.0.1:{port}"):
        until(lambda: "following" in told(project))
        until(lambda: get(port, "/readyz")[0] == 200)
        assert get(port, "/livez") == (200, "ok\n")
        let_go(project)
        until(lambda: project.statuses() == ENDS)
        status = json.loads(get(port, "/api/v1/status")[1])
        assert schema_faults(status, "status") == []
        assert {run["address"]: run["status"] for run in status["runs"]} == ENDS
        [digest] = [plan["digest"] for plan in json.loads(get(port, "/api/v1/plans")[1])["plans"]]
        assert schema_faults(json.loads(get(port, f"/api/v1/plans/{digest}")[1]), "plan") == []
        run = json.loads(get(port, "/api/v1/runs/cell%5Bn=1%5D")[1])
        assert [attempt["status"] for attempt in run["attempts"]] == ["succeeded"]
        history = json.loads(get(port, "/api/v1/history?failed=true&since=1h")[1])
        assert {one["address"] for one in history["attempts"]} == {"limited", "fails"}
        events = json.loads(get(port, "/api/v1/events?after=2")[1])["events"]
        assert events == project.events("--after", "2")
        numbers = get(port, "/metrics")[1].splitlines()
        assert 'flowplan_runs_ended_total{outcome="failed",run="fails"} 1.0' in numbers
        assert 'flowplan_runs{run="cell",status="succeeded"} 3.0' in numbers
        assert "flowplan_follower_active 1.0" in numbers
        for path in ("/api/v1/nothing", "/api/v1/plans/x", "/api/v1/runs/x", "/static/../../etc/passwd"):
            assert get(port, path)[0] == 404
        for path in (
            "/api/v1/events?after=x",
            "/api/v1/history?since=x",
            "/api/v1/history?failed=x",
            "/api/v1/status?address=x",
        ):
            assert get(port, path)[0] == 400, path


def test_it_answers_as_its_openapi_document_says(project: Project) -> None:
    project.write(WORK)
    let_go(project)
    project.ok("apply", "--yes", code=3)
    port = free_port()
    with follower(project, "--listen", f"127.0.0.1:{port}"):
        until(lambda: "following" in told(project))
        asked = subprocess.run(
            [
                str(Path(FLOWPLAN).with_name("schemathesis")), "run", f"http://127.0.0.1:{port}/api/v1/openapi.json",
                "--phases=coverage,fuzzing", "--max-examples=15", "--generation-deterministic", "--request-timeout=30",
                "--checks=not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
                "--warnings=off", "--no-color",
            ],
            check=False, cwd=project.directory, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert asked.returncode == 0, asked.stdout + asked.stderr
        assert " 0 generated" not in asked.stdout and get(port, "/livez")[0] == 200


def test_events_are_streamed_and_resumed(project: Project) -> None:
    project.write(WORK)
    project.ok("apply", "--yes", "--detach")
    port = free_port()
    with follower(project, "--listen", f"127.0.0.1:{port}"):
        until(lambda: "following" in told(project))
        headers = {"Accept": "text/event-stream", "Last-Event-ID": "1"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/v1/events", headers=headers)
        with urllib.request.urlopen(request, timeout=30) as stream:
            let_go(project)
            seen: list[dict[str, Any]] = []
            for line in stream:
                if line.startswith(b"data:"):
                    seen.append(json.loads(line[5:]))
                if seen and seen[-1]["address"] == "limited" and seen[-1]["status"] == "timed_out":
                    break
        assert [event["seq"] for event in seen] == list(range(2, seen[-1]["seq"] + 1))
        until(lambda: project.statuses() == ENDS)


def test_only_who_has_the_token_reads(project: Project) -> None:
    project.write(WORK)
    project.ok("apply", "--yes", "--detach", "--target", "first")
    let_go(project)
    token = project.directory / "token"
    token.write_text("0123456789abcdef\n")
    port = free_port()
    refused = project.run("serve", "--listen", f"0.0.0.0:{port}")
    assert refused.code == 7
    assert "--token-file" in refused.err
    token.chmod(0o644)
    assert "chmod 600" in project.ok("serve", "--token-file", "token", code=7).err
    token.chmod(0o600)
    with follower(project, "--listen", f"127.0.0.1:{port}", "--token-file", "token"):
        until(lambda: "following" in told(project))
        assert [get(port, path)[0] for path in ("/livez", "/readyz")] == [200, 200]
        for path in ("/api/v1/status", "/api/v1/report", "/metrics", "/api/v1/events"):
            assert get(port, path)[0] == 401
            assert get(port, path, Authorization="Bearer 0123456789abcdeX")[0] == 401
        assert get(port, "/api/v1/status", Authorization="Bearer 0123456789abcdef")[0] == 200
        assert get(port, "/api/v1/status", Cookie="flowplan_token=0123456789abcdef")[0] == 200
        assert get(port, "/livez", Host="evil.example")[0] == 421
        assert get(port, "/livez", Host="localhost:1")[0] == 200
    assert "0123456789abcdef" not in told(project)


@pytest.mark.docker
def test_limits_and_ends_of_containers_are_kept(project: Project) -> None:
    project.write(
        """\
flowplan: 1
project: demo
defaults: {provider: docker, image: "busybox:1.35"}
runs:
  short: {command: [echo, said], docker: {auto_remove: true}, needs: [first]}
  first: {command: ["true"]}
  limited: {command: [sleep, "600"], timeout: 2s, grace_period: 1s, needs: [first]}
"""
    )
    project.ok("apply", "--yes", "--detach")
    with follower(project):
        until(lambda: project.statuses() == {"first": "succeeded", "short": "succeeded", "limited": "timed_out"})
    assert project.ok("logs", "short").out == "said\n"


@pytest.mark.kubernetes
def test_ends_and_output_of_jobs_are_kept_that_go_at_once(project: Project) -> None:
    project.write(
        """\
flowplan: 1
project: demo
defaults: {provider: kubernetes, image: "busybox:1.35", kubernetes: {finished_job_ttl: 0}}
runs:
  first: {command: ["true"]}
  fails: {command: [sh, -c, 'echo begun; sleep 4; echo said; exit 4'], needs: [first]}
  never: {command: [sleep, "600"], needs: [first], start_timeout: 5s, kubernetes: {job: {spec: {template: {spec: {nodeSelector: {no: such}}}}}}}
"""
    )
    project.ok("apply", "--yes", "--detach", "--no-preflight")
    with follower(project):
        ends = {"first": "succeeded", "fails": "failed", "never": "timed_out"}
        until(lambda: project.statuses() == ends, 150)
    # The cluster removes the pod within 30 ms of its end: its exit code may be missed, and is then not known.
    assert project.status()["fails"]["exit_code"] in (4, None)
    assert project.ok("logs", "fails").out == "begun\nsaid\n"
