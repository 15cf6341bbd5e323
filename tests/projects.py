"""A project in a directory of its own and the installed command to run in it, as a user does."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLOWPLAN = str(Path(sys.executable).with_name("flowplan"))
CASES = Path(__file__).with_name("cases")
"""Inputs that were once handled wrongly, one directory for each."""
PATIENCE = 60.0
"""Seconds that a command may take before the test fails."""


@dataclass
class Result:
    """What a command returned and printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Project:
    """A directory with a spec, and flowplan to run in it; ``before`` is what stands before it (prlimit, setpriv...).

    The specs that it writes get a project name that no other test has: one project is managed by one state, also when
    several suites run on one host at the same time.
    """

    directory: Path
    env: dict[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    suffix: str = field(default_factory=lambda: f"-{uuid.uuid4().hex[:8]}")

    @property
    def name(self) -> str:
        """Return the name of the project, as the spec says it."""
        [name] = re.findall(r"(?m)^project: *([^\s#]+)", (self.directory / "flowplan.yaml").read_text(encoding="utf-8"))
        return str(name)

    def write(self, text: str, name: str = "flowplan.yaml") -> Path:
        path = self.directory / name
        path.write_text(self.unique(text), encoding="utf-8")
        return path

    def unique(self, text: str) -> str:
        """Return the spec with the suffix of this test at the name of its project, unless it is unique already."""
        found = re.search(r"(?m)^project: *[A-Za-z][^\s#]*", text)
        if found is None or re.search("[0-9a-f]{8}$", found[0]):
            return text
        return text[: found.end()] + self.suffix + text[found.end() :]

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.before, FLOWPLAN, *arguments],
            cwd=self.directory,
            env={**os.environ, **self.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = PATIENCE) -> Result:
        done = subprocess.run(
            [*self.before, FLOWPLAN, *arguments],
            check=False,
            cwd=self.directory,
            env={**os.environ, **self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Result(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str, code: int = 0, **options: Any) -> Result:
        """Run and check the exit code."""
        result = self.run(*arguments, **options)
        assert result.code == code, f"exit {result.code}\n{result.out}\n{result.err}"
        return result

    def plan(self, *arguments: str, **options: Any) -> dict[str, Any]:
        """Return the JSON of a plan."""
        document: dict[str, Any] = self.ok("plan", "--format", "json", *arguments, **options).json
        return document

    def actions(self, *arguments: str, **options: Any) -> dict[str, str]:
        """Return address -> action of a plan."""
        return {c["address"]: c["action"] for c in self.plan(*arguments, **options)["changes"]}

    def status(self, *arguments: str) -> dict[str, dict[str, Any]]:
        """Return address -> run of ``status --format json``."""
        return {r["address"]: r for r in self.ok("status", "--format", "json", *arguments).json["runs"]}

    def statuses(self) -> dict[str, str]:
        """Return address -> status."""
        return {address: run["status"] for address, run in self.status().items()}

    def events(self, *arguments: str) -> list[dict[str, Any]]:
        """Return ``events --format json``."""
        return [json.loads(line) for line in self.ok("events", "--format", "json", *arguments).out.splitlines()]

    def await_status(self, address: str, status: str) -> dict[str, Any]:
        """Wait until a run has a status."""
        return until(lambda: (run := self.status().get(address)) and run["status"] == status and run)


def copy_case(case: str, directory: Path, replace: Mapping[str, str] | None = None) -> Project:
    """Copy ``tests/cases/CASE`` into ``directory`` as a project whose name no other test has.

    Args:
        replace: further texts to replace in the YAML files, such as a namespace that the test has made.
    """
    shutil.copytree(CASES / case, directory, dirs_exist_ok=True)
    for path in directory.rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        for old, new in (replace or {}).items():
            text = text.replace(old, new)
        path.write_text(re.sub(r"(?m)^(project: *[^\s#]+)", rf"\1-{uuid.uuid4().hex[:8]}", text), encoding="utf-8")
    return Project(directory, {"NO_COLOR": "1"})


def until(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Wait for a condition; fail when it does not come true."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"did not come true within {patience:g} s: {condition}")


def make_namespace(api: Any, name: str) -> None:
    """Make a namespace in which pods can be created."""
    api.call("POST", "/api/v1/namespaces", body={"metadata": {"name": name}})
    until(lambda: api.find(f"/api/v1/namespaces/{name}/serviceaccounts/default"))  # no pod can be created before


def end_jobs(*, project: str = "", namespace: str = "") -> None:
    """Remove the Jobs of a project or a namespace and their pods at once, without a grace period, where there is a cluster."""
    if "KUBECONFIG" not in os.environ:
        return
    from flowplan.providers.kubernetes.connection import endpoint
    from flowplan.providers.kubernetes.requests import Api
    from flowplan.schemas.errors import FlowplanError

    query = {"labelSelector": f"flowplan.dev/project={project}"} if project else {}
    within = f"/namespaces/{namespace}" if namespace else ""
    # What cannot be removed so, `flowplan destroy` removes.
    with contextlib.suppress(FlowplanError), contextlib.closing(Api(endpoint({}, Path("/")))) as api:
        for group, kind, how in (
            ("/apis/batch/v1", "jobs", {"propagationPolicy": "Background"}),
            ("/api/v1", "pods", {"gracePeriodSeconds": 0}),
        ):
            for one in api.get(f"{group}{within}/{kind}", **query)["items"]:
                place = f"{group}/namespaces/{one['metadata']['namespace']}/{kind}/{one['metadata']['name']}"
                with contextlib.suppress(FlowplanError):  # it is gone by now
                    api.call("DELETE", place, body=how)


def clear(project: Project, *, at_once: bool = True) -> None:
    """Destroy whatever a project still runs, and end the processes that it wrote down in ``pids``.

    Args:
        at_once: Jobs are removed beforehand, so that nothing is waited for; otherwise all is left to `flowplan destroy`.
    """
    specs = [
        path.read_text(encoding="utf-8", errors="replace")
        for path in project.directory.rglob("*.yaml")
        if path.is_file()
    ]
    if at_once and any("kubernetes" in text for text in specs):
        for name in {name for text in specs for name in re.findall(r"(?m)^project: *([\w-]+)", text)}:
            end_jobs(project=name)
    if (project.directory / ".flowplan" / "state.db").exists():
        project.run("destroy", "--yes", "--allow-interrupt", "*", timeout=3 * PATIENCE)  # a busy kubelet takes its time
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        for pid in (project.directory / "pids").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
