"""One project on one real engine for the fault harness: its spec, its commands, and what an onlooker sees on the engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FLOWPLAN = str(Path(sys.executable).with_name("flowplan"))
PATIENCE = 120.0
IMAGE = "busybox:1.35"
TRACER = """
import sys, flowplan.schemas.faults as faults
passed = open(sys.argv.pop(1), "a", buffering=1)
faults.point = lambda name: passed.write(name + "\\n")
from flowplan.__main__ import main
main()
"""
"""The command with every point written down instead of looked at."""


@dataclass
class Result:
    """What a command returned and printed; ``killed`` when it was ended by SIGKILL."""

    code: int
    out: str
    err: str

    @property
    def killed(self) -> bool:
        return self.code == -9


class World:
    """A project of three runs: ``a`` and ``b`` stand alone, ``c`` needs ``a``. Subclasses are the engines."""

    provider = ""
    needs_long = 600

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.project = f"fault-{uuid.uuid4().hex[:8]}"
        self.canary = f"canary-{uuid.uuid4().hex}"
        self.printed: list[str] = []
        self.pulls = False
        directory.mkdir(parents=True, exist_ok=True)

    # -- the spec

    def spec(self, kind: str, *, tag: str = "one", memory: int = 64, replace: str = "stop_first") -> None:
        """Write the spec: runs that end at once (``short``), ``failing``, in a moment (``soon``), or not (``long``)."""
        runs = "".join(
            f"  {name}:\n    provider: {self.provider}\n    grace_period: 1s\n    replace: {replace}\n"
            f"    env: {{TAG: {tag}, ID: '${{run.id}}', CANARY: {{from_env: FAULT_CANARY}}}}\n"
            f"{needs}{self.fields(kind, memory)}"
            for name, needs in (("a", ""), ("b", ""), ("c", "" if kind in ("long", "soon") else "    needs: [a]\n"))
        )
        (self.directory / "flowplan.yaml").write_text(f"flowplan: 1\nproject: {self.project}\nruns:\n{runs}")

    def fields(self, kind: str, memory: int) -> str:
        raise NotImplementedError

    def script(self, kind: str) -> str:
        ends = {"short": "true", "failing": "test $TAG = two", "soon": f"sleep {self.soon}", "long": "exec sleep 600"}
        return ends[kind]

    soon = 0.5

    # -- commands

    def flowplan(
        self, *arguments: str, fault: str = "", trace: Path | None = None, patience: float = PATIENCE
    ) -> Result:
        """Run a command, ended at a point or with its points written down."""
        command = [sys.executable, "-c", TRACER, str(trace)] if trace else [FLOWPLAN]
        process = self.start(*arguments, fault=fault, command=command)
        try:
            out, err = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{arguments} hangs: {out}\n{err}") from None
        assert "Traceback" not in err and "defect of flowplan" not in err, err
        self.printed += [out, err]
        return Result(process.returncode, out, err)

    def start(self, *arguments: str, fault: str = "", command: list[str] | None = None) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "NO_COLOR": "1",
            "FLOWPLAN_DEBUG": "1",
            "FAULT_CANARY": self.canary,
            **({"FLOWPLAN_FAULT": fault} if fault else {}),
        }
        return subprocess.Popen(
            [*(command or [FLOWPLAN]), *arguments],
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ok(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> Result:
        result = self.flowplan(*arguments)
        assert result.code in codes, f"{arguments}: exit {result.code}\n{result.out}\n{result.err}"
        return result

    def status(self) -> dict[str, dict[str, Any]]:
        return {r["address"]: r for r in json.loads(self.ok("status", "--format", "json").out)["runs"]}

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.ok("events", "--format", "json").out.splitlines()]

    @property
    def has_state(self) -> bool:
        return (self.directory / ".flowplan" / "state.db").exists()

    def leaks(self) -> list[str]:
        """Where the secret is that every run has in its environment: files of the project, and what was printed."""
        kept = [path for path in self.directory.rglob("*") if path.is_file()]
        found = [str(path.relative_to(self.directory)) for path in kept if self.canary.encode() in path.read_bytes()]
        return found + ["output"] * any(self.canary in text for text in self.printed)

    # -- what an onlooker sees

    def objects(self) -> dict[str, bool]:
        """Run id -> whether it runs, of every object on the engine."""
        raise NotImplementedError

    def starts(self) -> Counter[str]:
        """Run id -> how often it was started, ever."""
        raise NotImplementedError

    def clean(self) -> None:
        """Remove whatever is left."""
        raise NotImplementedError


class ProcessWorld(World):
    """Each start of a process leaves a line with its run id and its pid."""

    provider = "process"

    def fields(self, kind: str, memory: int) -> str:
        script = f"echo $ID $$ >> starts; {self.script(kind)}"
        return f"    start_timeout: {memory}m\n    command: [sh, -c, {json.dumps(script)}]\n"

    def _started(self) -> list[tuple[str, str]]:
        try:
            text = (self.directory / "starts").read_text()
        except FileNotFoundError:
            return []
        return [(line.split()[0], line.split()[1]) for line in text.splitlines()]

    def objects(self) -> dict[str, bool]:
        found = {}
        for run_id, pid in self._started():
            try:
                environment = Path(f"/proc/{pid}/environ").read_bytes()
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if f"ID={run_id}".encode() in environment and state not in "ZX":
                found[run_id] = True
        return found

    def starts(self) -> Counter[str]:
        return Counter(run_id for run_id, _ in self._started())

    def clean(self) -> None:
        live = self.objects()
        for run_id, pid in self._started():
            if run_id in live:
                subprocess.run(["kill", "-9", pid], check=False, stderr=subprocess.DEVNULL)


class DockerWorld(World):
    """The Engine's own events tell how often each container was started."""

    provider = "docker"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.since = str(int(time.time()) - 1)
        self._docker("network", "create", "--internal", self.project)

    def fields(self, kind: str, memory: int) -> str:
        image = f"{os.environ['REGISTRY']}/library/{IMAGE}" if self.pulls else IMAGE
        login = "registry_credentials: {username: robot, password: robot-password}, " if self.pulls else ""
        return (
            f"    image: {image}\n    image_pull_policy: {'Always' if self.pulls else 'IfNotPresent'}\n"
            f"    entrypoint: [sh, -c]\n    command: [{json.dumps(self.script(kind))}]\n"
            f"    docker: {{mem_limit: {memory}m, memswap_limit: {memory * 2}m, {login}"
            f"networks: [bridge, {self.project}]}}\n"
        )

    def _docker(self, *arguments: str) -> list[str]:
        done = subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True, timeout=60)
        return done.stdout.splitlines()

    def objects(self) -> dict[str, bool]:
        lines = self._docker(
            "ps", "-a", "--filter", f"label=dev.flowplan.project={self.project}",
            "--format", '{{.Label "dev.flowplan.run-id"}} {{.State}}',
        )  # fmt: skip
        assert len(lines) == len({line.split()[0] for line in lines}), f"two containers of one attempt: {lines}"
        return {line.split()[0]: line.split()[1] == "running" for line in lines}

    def starts(self) -> Counter[str]:
        lines = self._docker(
            "events", "--since", self.since, "--until", str(int(time.time()) + 1), "--filter", "event=start",
            "--filter", f"label=dev.flowplan.project={self.project}",
            "--format", '{{index .Actor.Attributes "dev.flowplan.run-id"}}',
        )  # fmt: skip
        return Counter(lines)

    def clean(self) -> None:
        for container in self._docker("ps", "-aq", "--filter", f"label=dev.flowplan.project={self.project}"):
            self._docker("rm", "-fv", container)
        self._docker("network", "rm", self.project)


class KubernetesWorld(World):
    """A watch of the namespace's Jobs tells how many there ever were of each attempt."""

    provider = "kubernetes"
    soon = 2

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.namespace = self.project
        self._kubectl("create", "namespace", self.namespace)
        deadline = time.monotonic() + 30
        while not self._kubectl("get", "serviceaccounts", "-o", "name", "--field-selector=metadata.name=default"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        self._seen = directory / "jobs"
        with self._seen.open("w") as file:
            self._watch = subprocess.Popen(
                [
                    "kubectl", "-n", self.namespace, "get", "jobs", "-w", "-o",
                    r'jsonpath={.metadata.labels.flowplan\.dev/run-id} {.metadata.uid}{"\n"}',
                ],
                stdout=file,
            )  # fmt: skip

    def fields(self, kind: str, memory: int) -> str:
        return (
            f"    image: {IMAGE}\n    entrypoint: [sh, -c]\n    command: [{json.dumps(self.script(kind))}]\n"
            f"    kubernetes:\n      namespace: {self.namespace}\n      finished_job_ttl: {memory * 60}\n"
        )

    def _kubectl(self, *arguments: str) -> list[str]:
        command = ["kubectl", *(() if "namespace" in arguments else ("-n", self.namespace)), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=90).stdout.splitlines()

    def objects(self) -> dict[str, bool]:
        form = r'jsonpath={range .items[*]}{.metadata.labels.flowplan\.dev/run-id} {.status.active}{"\n"}{end}'
        lines = self._kubectl("get", "jobs", "-o", form)
        assert len(lines) == len({line.split()[0] for line in lines}), f"two Jobs of one attempt: {lines}"
        return {line.split()[0]: line.split()[1:] == ["1"] for line in lines}

    def starts(self) -> Counter[str]:
        pairs = {line for line in self._seen.read_text().splitlines() if line.strip()}
        return Counter(pair.split()[0] for pair in pairs)

    def clean(self) -> None:
        self._watch.kill()
        self._watch.wait()
        subprocess.run(
            ["kubectl", "delete", "namespace", self.namespace, "--wait=false"], check=True, capture_output=True
        )


WORLDS: dict[str, Callable[[Path], World]] = {
    "process": ProcessWorld,
    "docker": DockerWorld,
    "kubernetes": KubernetesWorld,
}
