"""One project on one real engine for the fault harness: its spec, its commands, and what an onlooker sees on the engine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faulty_proxy import FaultyProxy
from own_postgres import OwnPostgres
from projects import make_namespace
from stores import sql

FLOWPLAN = str(Path(sys.executable).with_name("flowplan"))
PATIENCE = 180.0
"""Seconds for a command; longer than flowplan itself waits for an engine that does not get on."""
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


class World(ABC):
    """A project of three runs: ``a`` and ``b`` stand alone, ``c`` needs ``a``. Subclasses are the engines.

    Attributes:
        base: where all is; directory: the checkout in which commands run, ``base/first`` until ``enter``.
        tag: what tells the content that the spec wants now from that before.
        lineage: of a state that was lost; it stands for LINEAGE in the arguments of commands.
        proxy: what stands between flowplan and the engine, when a round plays with that.
        server: has the state, which else is in a file.
    """

    provider = ""

    def __init__(self, base: Path, server: OwnPostgres | None = None) -> None:
        self.base, self.directory = base, base / "first"
        self.project = f"fault-{uuid.uuid4().hex[:8]}"
        self.canary = f"canary-{uuid.uuid4().hex}"
        self.env = {"NO_COLOR": "1", "FLOWPLAN_DEBUG": "1", "FAULT_CANARY": self.canary}
        self.printed: list[str] = []
        self.pulls = False
        self.tag = self.lineage = ""
        self.proxy: FaultyProxy | None = None
        self.server = server
        if server:
            self.env |= {"FLOWPLAN_STATE": server.url(), "PGAPPNAME": self.project}
        self.directory.mkdir(parents=True, exist_ok=True)

    def enter(self, name: str) -> None:
        """From now on commands run in another checkout."""
        self.directory = self.base / name
        self.directory.mkdir(exist_ok=True)

    # -- the spec

    def spec(self, kind: str, *, tag: str = "one", memory: int = 64, replace: str = "stop_first") -> None:
        """Write the spec: runs that end at once (``short``), ``failing``, in a moment (``soon``), or not (``long``).

        Of ``kept`` ones a prints much, b has a time limit, and c leaves a process in a session of its own.
        """
        self.tag = tag
        runs = "".join(
            f"  {name}:\n    provider: {self.provider}\n    grace_period: 1s\n    replace: {replace}\n"
            f"    env: {{TAG: {tag}, ID: '${{run.id}}', CANARY: {{from_env: FAULT_CANARY}}}}\n"
            f"{more}{self.fields(kind if kind != 'kept' else name, memory)}"
            for name, more in self._differences(kind)
        )
        (self.directory / "flowplan.yaml").write_text(f"flowplan: 1\nproject: {self.project}\nruns:\n{runs}")

    def _differences(self, kind: str) -> tuple[tuple[str, str], ...]:
        if kind in ("long", "soon"):
            return ("a", ""), ("b", ""), ("c", "")
        if kind == "kept":
            return ("a", ""), ("b", "    timeout: 2s\n"), ("c", "")
        return ("a", ""), ("b", ""), ("c", "    needs: [a]\n")

    @abstractmethod
    def fields(self, kind: str, memory: int) -> str:
        """Return the fields of a run, as lines of its spec."""

    def script(self, kind: str) -> str:
        return {
            "short": "true",
            "failing": "test $TAG = two",
            "soon": f"sleep {self.soon}",
            "long": "exec sleep 600",
            "a": "sleep 1; i=0; while [ $i -lt 5000 ]; do echo $i $CANARY $CANARY; i=$((i+1)); done",
            "b": "exec sleep 600",
            "c": f"setsid sh -c 'echo $ID $$ $TAG >> {self.base}/children; exec sleep 600' & sleep 1",
        }[kind]

    soon = 0.5

    # -- commands

    def flowplan(
        self, *arguments: str, fault: str = "", trace: Path | None = None, patience: float = PATIENCE
    ) -> Result:
        """Run a command, ended at a point or with its points written down."""
        command = [sys.executable, "-c", TRACER, str(trace)] if trace else [FLOWPLAN]
        process = self.start(*arguments, fault=fault, command=command)
        if arguments[0] == "serve":
            self._end_when_done(process)
        try:
            out, err = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{arguments} hangs: {out}\n{err}") from None
        assert "Traceback" not in err and "defect of flowplan" not in err, err
        self.printed += [out, err]
        result = Result(process.returncode, out, err)
        if result.killed and self.server:
            self.server.expire(self.project)
        return result

    def _end_when_done(self, follower: subprocess.Popen[str]) -> None:
        """Tell a follower to end when all runs have succeeded, or after a minute."""
        deadline = time.monotonic() + 60
        while follower.poll() is None and time.monotonic() < deadline and not self._all_done():
            time.sleep(0.2)
        follower.terminate()

    def _all_done(self) -> bool:
        found = json.loads(self.ok("status", "--format", "json").out)
        return not found["not_started"] and all(r["status"] == "succeeded" for r in found["runs"])

    def start(
        self, *arguments: str, fault: str = "", command: list[str] | None = None, more: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        words = [self.lineage if argument == "LINEAGE" else argument for argument in arguments]
        return subprocess.Popen(
            [*(command or [FLOWPLAN]), *words],
            cwd=self.directory,
            env={**os.environ, **self.env, **({"FLOWPLAN_FAULT": fault} if fault else {}), **(more or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def freeze(self, *arguments: str, fault: str) -> subprocess.Popen[str]:
        """Return a command that is frozen at a point (``SIGSTOP``), or has ended without passing it."""
        process = self.start(*arguments, fault=fault, more={"FLOWPLAN_FAULT_SIGNAL": "SIGSTOP"})
        while process.poll() is None and not _is_stopped(process.pid):
            if arguments[0] == "serve" and self._all_done() and not _is_stopped(process.pid):
                process.terminate()  # it came to its end without passing the point
                process.wait(PATIENCE)
            time.sleep(0.01)
        return process

    def frozen(self, *arguments: str, fault: str, meanwhile: Callable[[], object]) -> bool:
        """Run a command that is frozen at a point, and goes on after something has happened; return whether it was."""
        process = self.freeze(*arguments, fault=fault)
        frozen = process.poll() is None
        if frozen:
            meanwhile()
            process.send_signal(signal.SIGCONT)
        if arguments[0] == "serve":
            self._end_when_done(process)
        out, err = process.communicate(timeout=PATIENCE)
        assert "Traceback" not in err and "defect of flowplan" not in err, err
        self.printed += [out, err]
        return frozen

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
        if self.server is None:
            return self.state_file().exists()
        there = sql("SELECT to_regclass('flowplan.states') IS NOT NULL", url=self.server.url())[0][0]
        query = "SELECT 1 FROM flowplan.states WHERE project = %s"
        return bool(there and sql(query, self.project, url=self.server.url()))

    def leaks(self) -> list[str]:
        """Where the secret is that every run has in its environment: files of the project, and what was printed."""
        kept = [path for path in self.base.rglob("*") if path.is_file()]
        found = [str(path.relative_to(self.base)) for path in kept if self.canary.encode() in path.read_bytes()]
        if self.server and self.has_state and self.canary in self.server.texts(self.project):
            found.append("the database")
        return found + ["output"] * any(self.canary in text for text in self.printed)

    # -- what an onlooker sees

    @abstractmethod
    def objects(self) -> dict[str, bool]:
        """Return run id -> whether it runs, of every object on the engine."""

    @abstractmethod
    def starts(self) -> Counter[str]:
        """Return run id -> how often it was started, ever."""

    @abstractmethod
    def contents(self) -> dict[str, str]:
        """Return run id -> the tag of what ran, where it can still be seen."""

    def clean(self) -> None:
        """Remove whatever is left."""
        if self.proxy:
            self.proxy.close()
        if self.server and self.has_state:
            for table in ("states", "leases"):
                sql(f"DELETE FROM flowplan.{table} WHERE project = %s", self.project, url=self.server.url())

    # -- what is done to it

    def copy(self) -> None:
        """``cp -r`` of the checkout; its spec wants the same."""
        shutil.copytree(self.directory, self.base / "second")

    def state_file(self) -> Path:
        return self.directory / ".flowplan" / "state.db"

    def between(self) -> FaultyProxy:
        """Put a proxy between flowplan and the engine."""
        raise NotImplementedError

    def kill_keepers(self, which: str) -> None:
        """Kill the ``supervisor`` of the runs, its ``guard``, or ``both``."""
        raise NotImplementedError


class ProcessWorld(World):
    """Each start of a process leaves a line with its run id and its pid."""

    provider = "process"

    def fields(self, kind: str, memory: int) -> str:
        script = f"echo $ID $$ $TAG >> {self.base}/starts; {self.script(kind)}"
        return f"    start_timeout: {memory}m\n    command: [sh, -c, {json.dumps(script)}]\n"

    def _noted(self, name: str) -> list[list[str]]:
        try:
            return [line.split() for line in (self.base / name).read_text().splitlines()]
        except FileNotFoundError:
            return []

    def objects(self) -> dict[str, bool]:
        found = {}
        for run_id, pid, *_ in self._noted("starts") + self._noted("children"):
            try:
                environment = Path(f"/proc/{pid}/environ").read_bytes()
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if f"ID={run_id}".encode() in environment and state not in "ZX":
                found[run_id] = True
        return found

    def starts(self) -> Counter[str]:
        return Counter(words[0] for words in self._noted("starts"))

    def contents(self) -> dict[str, str]:
        return {run_id: tag for run_id, _, tag in self._noted("starts")}

    def kill_keepers(self, which: str) -> None:
        pids = set()
        for record in self.base.glob("first/.flowplan/*.runs/*/started.json"):
            for line in map(json.loads, record.read_text().splitlines()):
                pids |= {line[who]["pid"] for who in ("supervisor", "guard") if which in (who, "both") and who in line}
        assert pids, f"no {which} is recorded"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def clean(self) -> None:
        super().clean()
        live = self.objects()
        for run_id, pid, *_ in self._noted("starts") + self._noted("children"):
            if run_id in live:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


class DockerWorld(World):
    """The Engine's own events tell how often each container was started.

    It keeps the newest few hundred only, so they are listened to from the beginning; the last ones may be on their way.
    """

    provider = "docker"

    def __init__(self, base: Path, server: OwnPostgres | None = None) -> None:
        super().__init__(base, server)
        self.since = str(int(time.time()) - 1)
        self._seen = base / "started"
        with self._seen.open("w") as file:
            self._listener = subprocess.Popen(["docker", *self._started()], stdout=file)
        self._docker("network", "create", "--internal", self.project)

    def _started(self) -> list[str]:
        return [
            "events", "--since", self.since, "--filter", "event=start", "--filter", f"label=dev.flowplan.project={self.project}",
            "--format", '{{index .Actor.Attributes "dev.flowplan.run-id"}}',
        ]  # fmt: skip

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
        newest = self._docker(*self._started(), "--until", str(int(time.time()) + 1))
        return Counter(self._seen.read_text().split()) | Counter(newest)

    def contents(self) -> dict[str, str]:
        listed = self._docker("ps", "-aq", "--filter", f"label=dev.flowplan.project={self.project}")
        found = json.loads("\n".join(self._docker("inspect", *listed))) if listed else []
        configs = [one["Config"] for one in found]
        return {c["Labels"]["dev.flowplan.run-id"]: _tag(c["Env"]) for c in configs}

    def between(self) -> FaultyProxy:
        self.proxy = FaultyProxy(os.environ["DOCKER_HOST"], self.base / "sock")
        self.env["DOCKER_HOST"] = self.proxy.host
        return self.proxy

    def clean(self) -> None:
        super().clean()
        for container in self._docker("ps", "-aq", "--filter", f"label=dev.flowplan.project={self.project}"):
            self._docker("rm", "-fv", container)
        self._docker("network", "rm", self.project)
        self._listener.kill()
        self._listener.wait()


class KubernetesWorld(World):
    """A watch of the namespace's Jobs tells how many there ever were of each attempt."""

    provider = "kubernetes"
    soon = 2

    def __init__(self, base: Path, server: OwnPostgres | None = None) -> None:
        from flowplan.providers.kubernetes.connection import endpoint
        from flowplan.providers.kubernetes.requests import Api

        super().__init__(base, server)
        self.namespace = self.project
        with contextlib.closing(Api(endpoint({}, Path("/")))) as api:
            make_namespace(api, self.namespace)
        self._seen = base / "jobs"
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

    def contents(self) -> dict[str, str]:
        found = json.loads("\n".join(self._kubectl("get", "jobs", "-o", "json")))["items"]
        env = {one["metadata"]["labels"]["flowplan.dev/run-id"]: _container(one)["env"] for one in found}
        return {run_id: _tag(f"{v['name']}={v.get('value')}" for v in some) for run_id, some in env.items()}

    def between(self) -> FaultyProxy:
        from flowplan.providers.kubernetes.connection import endpoint

        there = endpoint({}, Path("/"))
        self.proxy = FaultyProxy(there.server)
        token = there.credentials.header().removeprefix("Bearer ")
        config = {
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": self.proxy.url}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }
        path = self.base / "kubeconfig"
        path.write_text(json.dumps(config))
        self.env["KUBECONFIG"] = str(path)
        return self.proxy

    def clean(self) -> None:
        super().clean()
        self._watch.kill()
        self._watch.wait()
        subprocess.run(
            ["kubectl", "delete", "namespace", self.namespace, "--wait=false"], check=True, capture_output=True
        )


class SlurmWorld(World):
    """Each start of a job leaves a line with its run id; the job's files lie beside the project."""

    provider = "slurm"
    soon = 2

    def __init__(self, base: Path, server: OwnPostgres | None = None) -> None:
        super().__init__(base, server)
        self.jobs = base.with_name(f"{base.name}-jobs")
        settings = dict(line.split("=", 1) for line in self._told("scontrol", "show", "config") if "=" in line)
        wanted = ("StateSaveLocation", "SlurmdSpoolDir")
        self._kept = [Path(value.strip()) for name, value in settings.items() if name.strip() in wanted]

    def spec(self, kind: str, *, tag: str = "one", memory: int = 64, replace: str = "stop_first") -> None:
        super().spec(kind, tag=tag, memory=memory, replace=replace)
        with (self.directory / "flowplan.yaml").open("a") as file:
            file.write(f"providers: {{slurm: {{directory: {self.jobs}}}}}\n")

    def fields(self, kind: str, memory: int) -> str:
        script = f"echo $ID $TAG >> {self.base}/starts; {self.script(kind)}"
        return f"    timeout: {memory}m\n    command: [sh, -c, {json.dumps(script)}]\n    resources: {{memory: 20Mi}}\n"

    def _told(self, *command: str) -> list[str]:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()

    def _queue(self) -> list[tuple[str, str, str]]:
        lines = self._told("squeue", "--noheader", "--states=all", "--format=%i %T %k")
        words = [line.split() for line in lines if f"flowplan.dev/project={self.project} " in f"{line} "]
        runs = [
            next(word.partition("=")[2] for word in line if word.startswith("flowplan.dev/run-id=")) for line in words
        ]
        return [(line[0], line[1], run) for line, run in zip(words, runs, strict=True)]

    def objects(self) -> dict[str, bool]:
        live = [(run, state) for _, state, run in self._queue() if state in ("PENDING", "RUNNING")]
        assert len(live) == len(dict(live)), f"two jobs of one attempt: {live}"
        kept = {path.name: False for path in self.jobs.iterdir()} if self.jobs.is_dir() else {}
        return kept | dict.fromkeys(dict(live), True)

    def _noted(self) -> list[list[str]]:
        """Return the notes of jobs; Slurm says that a job runs a moment before its command does, so these are waited for."""
        path, deadline = self.base / "starts", time.monotonic() + PATIENCE
        while True:
            noted = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
            running = {run for _, state, run in self._queue() if state == "RUNNING"}
            if running <= {run_id for run_id, _ in noted} or time.monotonic() > deadline:
                return noted
            time.sleep(0.1)

    def starts(self) -> Counter[str]:
        return Counter(run_id for run_id, _ in self._noted())

    def contents(self) -> dict[str, str]:
        return dict(self._noted())

    def leaks(self) -> list[str]:
        """Look into the files of the jobs, but for that of their secrets, and into those of Slurm itself, too."""
        canary = self.canary.encode()
        files = [path for place in (self.jobs, *self._kept) if place.is_dir() for path in place.rglob("*")]
        with contextlib.suppress(FileNotFoundError):  # Slurm removes the files of jobs that end
            return super().leaks() + [
                str(path) for path in files if path.is_file() and path.name != "secrets" and canary in path.read_bytes()
            ]
        return self.leaks()

    def clean(self) -> None:
        super().clean()
        if live := [job for job, state, _ in self._queue() if state in ("PENDING", "RUNNING")]:
            self._told("scancel", *live)
        shutil.rmtree(self.jobs, ignore_errors=True)


def _container(job: dict[str, Any]) -> dict[str, Any]:
    [found] = job["spec"]["template"]["spec"]["containers"]
    return dict(found)


def _tag(env: Iterable[str]) -> str:
    [tag] = [one.partition("=")[2] for one in env if one.startswith("TAG=")]
    return tag


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (FileNotFoundError, ProcessLookupError):
        return False


WORLDS: dict[str, Callable[[Path, OwnPostgres | None], World]] = {
    "process": ProcessWorld,
    "docker": DockerWorld,
    "kubernetes": KubernetesWorld,
    "slurm": SlurmWorld,
}
