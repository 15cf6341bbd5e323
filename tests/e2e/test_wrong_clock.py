"""This computer's clock is wrong, or jumps: runs keep their time limits, durations make sense, and nothing waits for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from datetime import datetime
from pathlib import Path

import pytest
from projects import PATIENCE, Project, Result, until
from stores import sql

SHIFTED = """
import datetime, os, sys, time
shift, jumped = float(os.environ["CLOCK_SHIFT"]), os.environ.get("CLOCK_JUMPED", "")
def ahead(): return shift if not jumped or os.path.exists(jumped) else 0.0
true = time.time
time.time = lambda: true() + ahead()
time.time_ns = lambda: int(time.time() * 1e9)
class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None): return cls.fromtimestamp(time.time(), tz)
datetime.datetime = Shifted
from flowplan.__main__ import main
main()
"""
"""The command with another clock: ahead by so many seconds, at once or from when a file exists."""

YEARS = 10 * 365 * 86400.0
HOURS = 2 * 3600.0
HOUR = 3600.0


def start(project: Project, shift: float, *arguments: str, jumped: Path | None = None) -> subprocess.Popen[str]:
    clock = {"CLOCK_SHIFT": str(shift), **({"CLOCK_JUMPED": str(jumped)} if jumped else {})}
    return subprocess.Popen(
        [sys.executable, "-c", SHIFTED, *arguments],
        cwd=project.directory,
        env={**os.environ, **project.env, **clock, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], code: int = 0) -> Result:
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
    return Result(code, out, err)


def seconds(run: dict[str, str]) -> float:
    """How long a run took, by its record."""
    start, end = (datetime.fromisoformat(run[key]) for key in ("started_at", "finished_at"))
    return (end - start).total_seconds()


def spec(project: Project, provider: str, script: str, more: str = "") -> None:
    image = "" if provider == "process" else "image: 'busybox:1.35', image_pull_policy: IfNotPresent, "
    project.write(
        f"flowplan: 1\nproject: clock-{uuid.uuid4().hex[:8]}\nruns:\n"
        f'  a: {{provider: {provider}, {image}entrypoint: [sh, -c], command: ["{script}"], grace_period: 1s{more}}}\n'
    )


@pytest.mark.parametrize("shift", [YEARS, -YEARS], ids=["ahead", "behind"])
def test_a_whole_life_under_a_wrong_clock(project: Project, shift: float) -> None:
    spec(project, "process", "echo hello; sleep 0.3", ", timeout: 10m, start_timeout: 10m")
    ended(start(project, shift, "apply", "flowplan.yaml", "--yes", "--lock-timeout", "5s"))
    run = project.status()["a"]
    assert run["status"] == "succeeded" and 0.2 < seconds(run) < 30
    assert " -" not in ended(start(project, shift, "status")).out
    assert ended(start(project, shift, "plan", "--detailed-exitcode")).out
    assert ended(start(project, shift, "logs", "a")).out == "hello\n"
    ended(start(project, shift, "destroy", "--yes"))
    assert [e["seq"] for e in project.events()] == list(range(1, len(project.events()) + 1))


@pytest.mark.parametrize("shift", [YEARS, -YEARS], ids=["forward", "backward"])
def test_a_clock_that_jumps_while_a_run_is_followed(project: Project, shift: float) -> None:
    spec(project, "process", "until [ -e go ]; do sleep 0.05; done", ", timeout: 10m, start_timeout: 10m")
    jumped = project.directory / "jumped"
    applying = start(project, shift, "apply", "flowplan.yaml", "--yes", "--wait-timeout", "5m", jumped=jumped)
    until(lambda: (project.directory / ".flowplan/state.db").exists() and project.statuses().get("a") == "running")
    watching = start(project, shift, "watch", jumped=jumped)
    jumped.touch()
    assert " -" not in ended(start(project, shift, "status")).out
    (project.directory / "go").touch()
    ended(applying)
    ended(watching)
    run = project.status()["a"]
    assert run["status"] == "succeeded" and 0 < seconds(run) < 60


@pytest.mark.docker
@pytest.mark.parametrize("shift", [HOURS, -HOURS], ids=["ahead", "behind"])
def test_the_time_limit_of_a_container_is_kept_by_the_clock_of_its_engine(project: Project, shift: float) -> None:
    spec(project, "docker", "sleep 1", ", timeout: 1h, start_timeout: 1h")
    ended(start(project, shift, "apply", "flowplan.yaml", "--yes"))
    assert project.statuses() == {"a": "succeeded"}
    spec(project, "docker", "sleep 600", ", timeout: 2s")
    (project.directory / ".flowplan/state.db").rename(project.directory / ".flowplan/former.db")
    ended(start(project, shift, "apply", "flowplan.yaml", "--yes"), code=3)
    run = project.status()["a"]
    assert (run["status"], run["reason"]) == ("timed_out", "DeadlineExceeded")
    assert 0 < seconds(run) < 30
    project.ok("destroy", "--yes", "--state", ".flowplan/former.db")


GATED = """\
flowplan: 1
project: {name}
defaults: {{provider: kubernetes, image: "busybox:1.35", image_pull_policy: IfNotPresent, command: ["true"], needs: [gate]}}
runs:
  gate: {{provider: process, image: null, image_pull_policy: null, command: [sh, -c, "until [ -e go ]; do sleep 0.05; done"], needs: []}}
  starts: {{start_timeout: 10m}}
  waits: {{start_timeout: 2s, image: "none.invalid/none:1", image_pull_policy: Never}}
"""


@pytest.mark.kubernetes
@pytest.mark.parametrize("shift", [HOUR, -HOUR], ids=["forward", "backward"])
def test_a_clock_that_jumps_under_the_follower_ends_no_run_early_or_late(project: Project, shift: float) -> None:
    project.write(GATED.format(name=f"clock-{uuid.uuid4().hex[:8]}"))
    jumped = project.directory / "jumped"
    project.ok("apply", "--yes", "--detach")
    serving = start(project, shift, "serve", "--listen", "none", jumped=jumped)
    until(lambda: project.statuses().get("gate") == "running")
    jumped.touch()
    (project.directory / "go").touch()
    # A kubelet may take a minute to remove a pod.
    over = {"gate": "", "starts": "succeeded", "waits": "timed_out"}
    until(lambda: {**project.statuses(), "gate": ""} == over, patience=3 * PATIENCE)
    serving.send_signal(signal.SIGTERM)
    ended(serving)
    project.ok("destroy", "--yes")


@pytest.mark.postgres
def test_clients_whose_clocks_differ_share_one_state(project: Project) -> None:
    """Expect the lock to go by the clock of the server: neither takes it from the other, and neither loses it."""
    project.env["FLOWPLAN_STATE"] = os.environ["POSTGRES"]
    spec(project, "process", "echo a >> log; sleep 1", ", matrix: {i: {from: 1, to: 4}}, max_parallel: 1")
    try:
        applies = [
            start(project, shift, "apply", "flowplan.yaml", "--yes", "--lock-timeout", "60s") for shift in (HOUR, -HOUR)
        ]
        for apply in applies:
            assert "was lost" not in ended(apply).err
        assert (project.directory / "log").read_text().split() == ["a"] * 4
        assert set(project.statuses().values()) == {"succeeded"}
        ended(start(project, -HOUR, "destroy", "--yes"))
    finally:
        for table in ("states", "leases"):
            sql(f"DELETE FROM flowplan.{table} WHERE project = %s", project.name)
