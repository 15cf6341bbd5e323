"""A project that is applied detached in a terminal which goes away, and carried to its end by a follower.

Meanwhile its engine fails twice and the follower is killed once; every run has to end as it would have in the foreground,
having been started once. ``python tests/faults/detached_rounds.py --engine docker --runs 300`` plays a large one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from typing import Any

from faulty_proxy import FaultyProxy
from own_docker import IMAGE, OwnDocker, busybox
from projects import FLOWPLAN, Project, until

SPEC = """\
flowplan: 1
project: detached
defaults: {provider: PROVIDER, grace_period: 1s, image: IMAGE, DEFAULTS}
runs:
  first: {ENTRY: [sh, -c, 'NOTE; sleep 1'], matrix: {n: [MANY]}, max_parallel: 10}
  second: {ENTRY: [sh, -c, 'NOTE; sleep 1'], matrix: {n: [MANY]}, needs: [first], max_parallel: 10}
  tried: {ENTRY: [sh, -c, 'NOTE; exit 5'], matrix: {n: [FEW]}, retries: 1, RETRY max_parallel: 5}
  limited: {ENTRY: [sleep, "600"], matrix: {n: [FEW]}, timeout: 3s, max_parallel: 5}
  fails: {ENTRY: [sh, -c, 'NOTE; exit 3'], matrix: {n: [FEW]}, needs: [first]}
  after: {ENTRY: [sh, -c, 'NOTE'], matrix: {n: [FEW]}, needs: [fails]}
"""
ENDS = {"first": "succeeded", "second": "succeeded", "tried": "failed", "limited": "timed_out", "fails": "failed"}
TRIES = {"first": 1, "second": 1, "tried": 2, "fails": 1}
PATIENCE = 120.0
"""Seconds for each of some 10 runs."""


class Engine(ABC):
    """An engine that can fail without disturbing anybody."""

    provider = ""
    entry = "entrypoint"
    defaults = retry = note = ""

    def __init__(self, directory: Path) -> None:
        self.directory, self.env = directory, dict[str, str]()
        self.starts = directory / "starts"

    @abstractmethod
    def fail(self, follower: subprocess.Popen[bytes]) -> None:
        """Go away and come back; what runs goes on."""

    def close(self) -> None:  # noqa: B027 (there may be nothing)
        """Remove what belongs to it."""


class Processes(Engine):
    """Local processes, of which each one's supervisor is killed."""

    provider, entry, retry = "process", "command", "retry_delay: 1s,"
    note = "echo ${run.id} >> starts"

    def fail(self, follower: subprocess.Popen[bytes]) -> None:
        for record in self.directory.glob(".flowplan/*.runs/*/started.json"):
            for line in map(json.loads, record.read_text().splitlines()):
                if "supervisor" in line:
                    self._kill(line["supervisor"]["pid"])

    def _kill(self, pid: int) -> None:
        """Kill a supervisor, unless its number belongs to something else by now."""
        with contextlib.suppress(OSError):
            if (
                str(self.directory)
                in str(Path(f"/proc/{pid}/cwd").readlink()) + Path(f"/proc/{pid}/cmdline").read_text()
            ):
                os.kill(pid, signal.SIGKILL)


class Docker(Engine):
    """A Docker Engine of its own, whose daemon is stopped and started again."""

    provider, retry = "docker", "retry_delay: 1s,"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._engine = OwnDocker("--live-restore")
        self._engine.start()
        self._engine.load(busybox())
        self.env["DOCKER_HOST"] = self._engine.host
        self.defaults = f"docker: {{network_mode: none, volumes: ['{directory}:/out']}}"
        self.note = "echo ${run.id} >> /out/starts"

    def fail(self, follower: subprocess.Popen[bytes]) -> None:
        # Not while a container begins or ends: how one ended meanwhile Docker 20.10 does not know afterwards (exit code 255).
        follower.send_signal(signal.SIGSTOP)
        time.sleep(3)  # what was asked for has come that far
        until(lambda: not self._busy(), PATIENCE)
        self._engine.stop()
        self._engine.start()
        follower.send_signal(signal.SIGCONT)

    def _busy(self) -> bool:
        """Return whether a container runs that will end by itself, or one that has not begun has a shim already."""
        with self._engine.api() as api:
            found = api.containers(all=True)
        programs = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True).stdout
        starting = any(one["Id"] in programs for one in found if one["State"] == "created")
        return starting or any(one["State"] == "running" and "sleep 600" not in one["Command"] for one in found)

    def close(self) -> None:
        self._engine.close()


class Kubernetes(Engine):
    """The cluster, behind a proxy that is cut off for some seconds."""

    provider = "kubernetes"

    def __init__(self, directory: Path) -> None:
        from flowplan.providers.kubernetes.connection import endpoint

        super().__init__(directory)
        there = endpoint({}, Path("/"))
        self._proxy = FaultyProxy(there.server)
        token = there.credentials.header().removeprefix("Bearer ")
        config = {
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": self._proxy.url}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }
        (directory / "kubeconfig").write_text(json.dumps(config))
        self.env["KUBECONFIG"] = str(directory / "kubeconfig")
        self.note = "true"

    def fail(self, follower: subprocess.Popen[bytes]) -> None:
        self._proxy.play("reset")
        self._proxy.cut()
        time.sleep(5)
        self._proxy.heal()

    def close(self) -> None:
        self._proxy.close()


ENGINES: dict[str, type[Engine]] = {"process": Processes, "docker": Docker, "kubernetes": Kubernetes}


def play(name: str, runs: int, directory: Path) -> None:
    """Carry a project of about so many runs to its end; what is not as it has to be is an AssertionError."""
    engine = ENGINES[name](directory)
    project = Project(directory, {"NO_COLOR": "1", **engine.env})
    project.write(_spec(engine, runs))
    many = sum(address.startswith("first") for address in project.actions())  # and there is a state
    follower = _follow(project)
    try:
        _apply_in_a_terminal(project)
        _until_ended(project, many // 2, runs)
        engine.fail(follower)
        _until_ended(project, many + many // 4, runs)
        follower.kill()
        follower.wait()
        follower = _follow(project)
        engine.fail(follower)
        until(lambda: _over(project), PATIENCE * (1 + runs / 10))
        _compare(project, engine)
    finally:
        follower.terminate()
        follower.wait(60)
        project.run("destroy", "--yes", timeout=PATIENCE * (1 + runs / 10))
        engine.close()
    told = (directory / "serve.log").read_text()
    assert "Traceback" not in told and "defect" not in told, told


def _spec(engine: Engine, runs: int) -> str:
    texts = {
        "PROVIDER": engine.provider, "IMAGE": f'"{IMAGE}"', "DEFAULTS": engine.defaults, "ENTRY": engine.entry, "RETRY": engine.retry,
        "NOTE": engine.note,
        "MANY": ", ".join(map(str, range(max(3 * runs // 10, 4)))), "FEW": ", ".join(map(str, range(max(runs // 10, 1)))),
    }  # fmt: skip
    spec = SPEC.replace("image: IMAGE, ", "") if engine.provider == "process" else SPEC
    for word, text in texts.items():
        spec = spec.replace(word, text)
    return spec


def _follow(project: Project) -> subprocess.Popen[bytes]:
    with (project.directory / "serve.log").open("ab") as log:
        return subprocess.Popen(
            [FLOWPLAN, "serve", "--listen", "none"], cwd=project.directory, env={**os.environ, **project.env},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def _apply_in_a_terminal(project: Project) -> None:
    """Apply, detached, in a terminal that goes away when the first runs have started."""
    ours, theirs = pty.openpty()
    apply = subprocess.Popen(
        ["setsid", "--ctty", "--wait", FLOWPLAN, "apply", "--yes", "--detach", "flowplan.yaml"], cwd=project.directory,
        env={**os.environ, **project.env}, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs)
    until(lambda: _recorded(project)["runs"] or apply.poll() is not None, PATIENCE)
    os.close(ours)
    apply.wait(PATIENCE)


def _recorded(project: Project) -> dict[str, Any]:
    """Return what the follower has recorded; no engine is asked."""
    document: dict[str, Any] = project.ok("status", "--no-refresh", "--format", "json", timeout=PATIENCE).json
    return document


def _ended(project: Project) -> int:
    return sum(run["status"] in ("succeeded", "failed", "timed_out") for run in _recorded(project)["runs"])


def _until_ended(project: Project, number: int, runs: int) -> None:
    until(lambda: _ended(project) >= number, PATIENCE * (1 + runs / 10))


def _over(project: Project) -> bool:
    document = _recorded(project)
    live = any(run["status"] in ("creating", "pending", "running") for run in document["runs"])
    return not live and all(step["status"] == "skipped" for step in document["not_started"])


def _compare(project: Project, engine: Engine) -> None:
    document = _recorded(project)
    wrong: list[Any] = []
    for run in document["runs"]:
        group = run["address"].partition("[")[0]
        tries = TRIES.get(group, run["attempts"])
        if (run["status"], run["attempt"], run["attempts"]) != (ENDS[group], 1, tries):
            wrong.append({key: run[key] for key in ("address", "status", "attempt", "attempts", "reason", "message")})
    assert wrong == [], wrong
    skipped = Counter(step["address"].partition("[")[0] for step in document["not_started"])
    assert list(skipped) == ["after"], skipped
    begun = Counter(event["run_id"] for event in project.events() if event["status"] == "creating")
    assert set(begun.values()) == {1}, begun
    if engine.note != "true":
        started = Counter(engine.starts.read_text().split())
        tried = {
            run["run_id"]: TRIES[group]
            for run in document["runs"]
            if (group := run["address"].partition("[")[0]) in TRIES
        }
        assert started == tried, (started - Counter(tried), Counter(tried) - started)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--engine", choices=ENGINES, default="process")
    options.add_argument("--runs", type=int, default=300)
    given = options.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="detached-") as name:
        play(given.engine, given.runs, Path(name))
    print(f"{given.engine}: {given.runs} runs ended as in the foreground, after {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
