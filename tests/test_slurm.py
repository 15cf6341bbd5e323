"""The slurm provider on a real cluster: what the contract suite does not ask of every engine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from projects import Project, clear, until

from flowplan.planner.manifests import ResolvedRun
from flowplan.planner.manifests import slurm as manifests
from flowplan.providers.protocol import Context, Order
from flowplan.providers.slurm import jobs
from flowplan.providers.slurm.listing import Look
from flowplan.providers.slurm.provider import SlurmProvider
from flowplan.schemas.errors import EngineUnreachable, ProviderError, StartFailed
from flowplan.schemas.runs import Identity, Observed, Recorded, Settings, Status
from flowplan.schemas.secrets import SecretSource, token

pytestmark = pytest.mark.slurm
WAIT = ["sleep", "300"]


ENVIRONMENT = dict(os.environ)
"""As it was before a test changed it."""


def asked(*command: str) -> str:
    return subprocess.run(
        command,
        check=True, capture_output=True, text=True, timeout=60, env=ENVIRONMENT,
    ).stdout  # fmt: skip


class Cluster:
    """Orders and records of one lineage, and connections of which each command is noted."""

    def __init__(self, base: Path) -> None:
        self.base, self.lineage = base, str(uuid.uuid4())
        self.project = f"slurm-test-{self.lineage[:8]}"
        self.settings: dict[str, Any] = {"directory": str(base / "jobs")}
        self.commands: list[str] = []

    def connect(self) -> SlurmProvider:
        provider = SlurmProvider(
            Context(self.lineage, self.base / "runs", self.settings, self.base, project=self.project)
        )
        run = provider._commands.output_of

        def noted(script: str, *args: str, data: bytes = b"") -> bytes:
            self.commands.append(script)
            return run(script, *args, data=data)

        provider._commands.output_of = noted  # type: ignore[method-assign]
        return provider

    def order(self, command: list[str], address: str = "one", **fields: Any) -> Order:
        secrets = fields.pop("secrets", {})
        run = ResolvedRun(
            address, address, 0, "slurm", "slurm", {"command": command, "resources": {"memory": "20Mi"}, **fields}
        )
        assert manifests.check(run) == []
        rendered = manifests.render(run, Identity(self.project, self.lineage, address, 1))
        identity = Identity(self.project, self.lineage, address, 1)
        return Order(identity, rendered.name, rendered.objects, Settings(), secrets)

    def record(self, order: Order, seen: Observed | None = None, **known: Any) -> Recorded:
        return Recorded(
            order.identity.address, "slurm", "slurm", {}, 1, order.identity.run_id, order.name, order.objects,
            order.settings, (seen.status if seen else None) or Status.CREATING, handle=dict(seen.handle) if seen else {}, **known,
        )  # fmt: skip

    def ids(self) -> list[str]:
        lines = asked("squeue", "--noheader", "--states=PENDING,RUNNING", "--format=%i %k").splitlines()
        return [line.split()[0] for line in lines if self.lineage in line]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    if left := made.ids():
        asked("scancel", *left)


def seen_as(provider: SlurmProvider, record: Recorded, wanted: Callable[[Observed], bool]) -> Observed:
    found: list[Observed] = []

    def look() -> bool:
        found[:] = provider.observe([record])
        return wanted(found[0])

    until(look)
    return found[0]


# -- exactly once


def test_of_two_that_submit_at_once_one_job_starts(cluster: Cluster) -> None:
    orders = [cluster.order(["sh", "-c", f"echo x >> {cluster.base}/starts-{n}; sleep 300"], f"r{n}") for n in range(4)]
    providers = [cluster.connect() for _ in range(3)]
    gate = threading.Barrier(3 * len(orders))

    def create(provider: SlurmProvider, order: Order) -> Observed:
        gate.wait(60)
        return provider.create(order)

    with ThreadPoolExecutor(3 * len(orders)) as pool:
        found = [(o, pool.submit(create, p, o)) for o in orders for p in providers]
    handles = {order.identity.address: set[str]() for order in orders}
    for order, answer in found:
        handles[order.identity.address].add(str(answer.result().handle["job"]))
    assert [len(ids) for ids in handles.values()] == [1] * len(orders)
    assert sorted(cluster.ids()) == sorted(str(*ids) for ids in handles.values())
    until(lambda: len(list(cluster.base.glob("starts-*"))) == len(orders))
    assert [path.read_text() for path in cluster.base.glob("starts-*")] == ["x\n"] * len(orders)


def test_a_job_that_was_left_on_hold_is_released_by_the_next(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    order, provider = cluster.order(WAIT), cluster.connect()
    monkeypatch.setattr(provider._submitter, "_adopt", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        provider.create(order)
    held = cluster.ids()
    other = cluster.connect()
    assert [one.status for one in other.observe([cluster.record(order)])] == [Status.CREATING]
    seen = other.create(order)
    assert [seen.handle["job"]] == held == cluster.ids()
    seen_as(other, cluster.record(order, seen), lambda one: one.status is Status.RUNNING)


def test_what_slurm_refuses_leaves_nothing(cluster: Cluster) -> None:
    provider = cluster.connect()
    order = cluster.order(WAIT, slurm={"partition": "no-such-partition"})
    [finding] = provider.preflight([order, cluster.order(WAIT, "fits")])
    assert (finding.address, finding.severity) == ("one", "error") and "partition" in finding.message
    with pytest.raises(StartFailed, match="partition"):
        provider.create(order)
    assert cluster.ids() == [] and provider.observe([]) == [] and not list((cluster.base / "jobs").iterdir())


def test_a_cluster_that_does_not_answer_is_no_status(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = cluster.connect()
    record = cluster.record(cluster.order(WAIT), provider.create(cluster.order(WAIT)))
    away = cluster.base / "slurm.conf"
    text = Path(os.environ["SLURM_CONF"]).read_text()
    lines = ["SlurmctldPort=1" if line.startswith("SlurmctldPort=") else line for line in text.splitlines()]
    away.write_text("\n".join([*lines, "MessageTimeout=2", ""]))
    monkeypatch.setenv("SLURM_CONF", str(away))
    with pytest.raises(EngineUnreachable):
        provider.observe([record])
    with pytest.raises(EngineUnreachable):
        cluster.connect().target()


# -- one question for all


def test_any_number_of_records_takes_one_command(cluster: Cluster) -> None:
    provider = cluster.connect()
    orders = [cluster.order(WAIT, f"r[n={n}]") for n in range(12)]
    records = [cluster.record(order, provider.create(order)) for order in orders]
    cluster.commands.clear()
    assert len(provider.observe(records)) == 12
    assert len(cluster.commands) == 1


# -- how jobs end


def test_who_cancelled_a_job_is_told(cluster: Cluster) -> None:
    provider = cluster.connect()
    record = cluster.record(cluster.order(WAIT), provider.create(cluster.order(WAIT)))
    asked("scancel", record.handle["job"])
    seen = seen_as(provider, record, lambda one: "by user" in one.message)  # accounting may be later
    assert (seen.reason, seen.message) == ("CANCELLED", f"it was cancelled by user {os.getuid()}")


def test_a_job_that_slurm_starts_again_is_a_try(cluster: Cluster) -> None:
    provider = cluster.connect()
    order = cluster.order(["sh", "-c", "echo ready; exec sleep 300"], slurm={"requeue": True})
    record = cluster.record(order, provider.create(order))

    def printed() -> list[str]:
        return [line.text for line in provider.logs(record, follow=False, tail=None)]

    until(lambda: printed() == ["ready"])
    asked("scontrol", "requeue", record.handle["job"])
    command = ["scontrol", "update", f"JobId={record.handle['job']}", "StartTime=now"]  # not in two minutes

    def again(seen: Observed) -> bool:
        if seen.reason == "BeginTime":
            subprocess.run(command, check=False, capture_output=True, timeout=60)
        return seen.status is Status.RUNNING and seen.attempts == 2

    seen = seen_as(provider, record, again)
    assert [one.number for one in seen.tries] == [2]
    until(lambda: printed().count("ready") == 2)  # the output of the first try is kept


def forgetful(provider: SlurmProvider) -> SlurmProvider:
    """Let the controller forget all jobs that have ended, as it does after MinJobAge."""
    look = provider._listing.look

    def without(*, everybody: bool = False) -> Look:
        seen = look(everybody=everybody)
        left = [job for job in seen.jobs if not job.over]
        return Look(left, seen.kept, provider._context.lineage, provider._commands.site.user)

    provider._listing.look = without  # type: ignore[method-assign]
    return provider


def test_an_end_that_the_controller_has_forgotten_is_in_accounting(cluster: Cluster) -> None:
    provider = cluster.connect()
    order = cluster.order(["sh", "-c", "exit 7"])
    record = cluster.record(order, provider.create(order))
    seen_as(provider, record, lambda one: one.status is Status.FAILED)
    late = forgetful(cluster.connect())
    seen = seen_as(late, record, lambda one: one.status is Status.FAILED)
    assert (seen.exit_code, seen.reason, seen.exists) == (7, "Error", True)
    lost = seen_as(late, cluster.record(order), lambda one: one.status is not None)  # without a handle, by its note
    assert (lost.exit_code, lost.handle) == (7, seen.handle)
    [found] = [one for one in late.find(cluster.project) if one.lineage == cluster.lineage]
    assert (found.seen.exit_code, found.applied) == (7, order.objects)


def test_without_accounting_a_forgotten_end_is_not_known(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = cluster.connect()
    order = cluster.order(["true"])
    record = cluster.record(order, provider.create(order))
    seen_as(provider, record, lambda one: one.status is Status.SUCCEEDED)
    late = forgetful(cluster.connect())
    monkeypatch.setattr(jobs, "SACCT", "echo Slurm accounting storage is disabled >&2; exit 1; exec true")
    [seen] = late.observe([record])
    assert (seen.exists, seen.status, seen.reason) == (False, Status.LOST, "Forgotten")
    [seen] = late.observe([cluster.record(order, seen)])
    assert seen.status is Status.LOST
    done = Recorded(**{**{f: getattr(record, f) for f in record.__slots__}, "status": Status.SUCCEEDED})
    [seen] = late.observe([done])
    assert (seen.exists, seen.status) == (True, Status.SUCCEEDED)


# -- secrets


def test_a_secret_is_in_one_file_of_the_user_alone_and_gone_with_the_end(cluster: Cluster) -> None:
    value, source = f"c4n4ry '{uuid.uuid4()}'", SecretSource("from_env", "PW")
    told = token(source, b"key", value)
    provider = cluster.connect()
    command = [
        "sh",
        "-c",
        f'test "$PW" = "$1" && test "$1" = "{value}" && echo same; while [ ! -e {cluster.base}/go ]; do sleep 0.1; done',
    ]
    order = cluster.order(
        [command[0], command[1], command[2].replace(value, "$2"), "x", told, told],
        env={"PW": told},
        secrets={told: value},
    )
    record = cluster.record(order, provider.create(order))
    place = cluster.base / "jobs" / record.run_id
    assert next(iter(provider.logs(record, follow=True, tail=None))).text == "same"
    assert provider.secret_values(record) == [value]
    holding = [path.name for path in place.iterdir() if value.split("'")[1] in path.read_text()]
    assert holding == ["secrets"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()} == {0o600}
    batch = asked("scontrol", "write", "batch_script", str(record.handle["job"]), "-")
    assert told in batch and value.split("'")[1] not in batch + asked(
        "scontrol", "show", "job", str(record.handle["job"])
    )
    (cluster.base / "go").touch()
    seen_as(provider, record, lambda one: one.status is Status.SUCCEEDED)
    assert not (place / "secrets").exists() and provider.secret_values(record) == []


# -- over ssh


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a real sshd on a port of its own, with keys made here; ``login.test`` is it, with another home directory."""
    home, place, port = tmp_path / "home", tmp_path / "ssh", free_port()
    home.mkdir()
    place.mkdir()
    for name in ("host", "key"):
        asked("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name))
    login = place / "login"
    login.write_text(
        f'export HOME={home} SLURM_CONF={os.environ["SLURM_CONF"]}; cd; eval exec "$SSH_ORIGINAL_COMMAND"\n'
    )
    keys = place / "authorized_keys"
    keys.write_text(f'command="sh {login}" {(place / "key.pub").read_text()}')
    (place / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {place}/host\nAuthorizedKeysFile {keys}\nPidFile none\n"
        "StrictModes no\nPasswordAuthentication no\nUsePAM no\nPermitRootLogin yes\n"
    )
    (place / "config").write_text(
        f"Host login.test\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {place}/key\n  UserKnownHostsFile {place}/known\n"
        "  StrictHostKeyChecking accept-new\n"
    )
    near = tmp_path / "bin" / "ssh"
    near.parent.mkdir()
    near.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >> {place}/commands\nexec {shutil.which("ssh")} -F {place}/config "$@"\n'
    )
    near.chmod(0o755)
    monkeypatch.setenv("PATH", f"{near.parent}:{os.environ['PATH']}")
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it there
    sshd = subprocess.Popen(
        [str(shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.environ["PATH"])), "-D", "-f", str(place / "sshd_config")],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: subprocess.run(["ssh", "login.test", "true"], check=False, capture_output=True).returncode == 0)
        yield
    finally:
        sshd.terminate()
        sshd.wait(60)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.usefixtures("ssh")
def test_all_of_it_works_over_ssh(project: Project) -> None:
    directory, secret = project.directory, f"c4n4ry-{uuid.uuid4().hex}"
    project.env["TOKEN"] = secret
    command = f'pwd; echo ünï "$Q"; test "$SECRET" && while [ ! -e {directory}/go ]; do sleep 0.2; done; echo done'
    fields = {"command": ["sh", "-c", command], "env": {"Q": "it's", "SECRET": {"from_env": "TOKEN"}}}
    run = {"provider": "hpc", **fields, "resources": {"memory": "20Mi"}}
    head = "flowplan: 1\nproject: slurm-over-ssh\nproviders: {hpc: {type: slurm, ssh: login.test}}\n"
    project.write(f"{head}runs: {json.dumps({'one': run})}\n")
    project.ok("apply", "--yes", "--detach", timeout=300)  # each command is a login
    project.await_status("one", "running")
    until(lambda: project.run("logs", "one").out == f"{directory}/home\nünï it's\n")
    assert project.actions() == {"one": "no-op"}
    (directory / "go").touch()
    project.await_status("one", "succeeded")
    assert project.ok("logs", "one").out.endswith("\ndone\n")
    said = (directory / "ssh/commands").read_text()
    assert "sbatch" in said and secret not in said
    project.ok("destroy", "--yes")
    assert not list((directory / "home/.local/share/flowplan/slurm").iterdir())


def test_a_host_without_slurm_is_told(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    few = cluster.base / "few"
    few.mkdir()
    for name in ("sh", "id"):
        (few / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(few))
    with pytest.raises(ProviderError, match="not on this host") as error:
        cluster.connect().target()
    assert error.value.reason == "NotInstalled"


# -- the command


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path, {"NO_COLOR": "1"})
    yield made
    clear(made)


SPEC = """\
flowplan: 1
project: slurm-commands
providers: {slurm: {directory: DIRECTORY}}
runs:
  long:
    provider: slurm
    command: [sh, -c, 'echo begun; exec sleep 300']
    labels: {team: data}
    resources: {memory: 20Mi}
    timeout: 9m
"""


def test_a_change_in_place_a_drift_and_a_lost_state(project: Project) -> None:
    spec = SPEC.replace("DIRECTORY", str(project.directory / "jobs"))
    project.write(spec)
    project.ok("apply", "--yes", "--detach")
    number = project.await_status("long", "running")["infrastructure_id"].partition(":")[2]
    project.write(spec.replace("9m", "11m").replace("team: data", "team: physics"))
    assert project.actions() == {"long": "update"}
    project.ok("apply", "--yes", "--detach")
    told = asked("squeue", "--noheader", f"--jobs={number}", "--format=%l %k")
    assert told.startswith("11:00 ") and "team=physics" in told
    assert project.actions() == {"long": "no-op"}

    asked("scontrol", "update", f"JobId={number}", "TimeLimit=5")
    [change] = project.plan()["changes"]
    drift = [field for field in change["fields"] if field["drift"]]
    assert [(field["path"], field["before"], field["after"]) for field in drift] == [("/SlurmJob/time_limit", 300, 660)]
    project.ok("apply", "--yes", "--detach")
    assert asked("squeue", "--noheader", f"--jobs={number}", "--format=%l").strip() == "11:00"

    for path in (project.directory / ".flowplan").glob("state.db*"):
        path.unlink()
    project.ok("plan", code=6)
    project.ok("state", "rebuild")
    assert project.actions() == {"long": "no-op"}
    assert project.ok("logs", "long").out == "begun\n"
    project.ok("destroy", "--yes")
    assert asked("squeue", "--noheader", "--states=PENDING,RUNNING,COMPLETING", f"--jobs={number}", "--format=%i") == ""
    assert list((project.directory / "jobs").iterdir()) == []


def test_a_job_that_waits_keeps_its_place_when_it_changes(project: Project) -> None:
    spec = SPEC.replace("DIRECTORY", str(project.directory / "jobs")).replace(
        "timeout: 9m", "slurm: {options: {begin: now+1hour}}"
    )
    project.write(spec)
    project.ok("apply", "--yes", "--detach")
    number = project.await_status("long", "pending")["infrastructure_id"].partition(":")[2]
    project.write(spec.replace("memory: 20Mi", "memory: 30Mi, cpu: 2"))
    assert project.actions() == {"long": "update"}
    project.ok("apply", "--yes", "--detach")
    assert asked("squeue", "--noheader", f"--jobs={number}", "--format=%C %m").split() == ["2", "30M"]
    assert project.actions() == {"long": "no-op"}
    asked("scontrol", "update", f"JobId={number}", "StartTime=now")
    project.await_status("long", "running")
    project.write(spec.replace("memory: 20Mi", "memory: 40Mi, cpu: 2"))
    assert project.actions() == {"long": "replace"}


def test_a_job_that_a_killed_apply_left_on_hold_is_released_although_it_was_looked_at(project: Project) -> None:
    project.write(SPEC.replace("DIRECTORY", str(project.directory / "jobs")).replace("exec sleep 300", "true"))
    assert project.run("apply", "--yes", env={"FLOWPLAN_FAULT": "slurm:release:before"}).code == -9
    assert project.statuses() == {"long": "creating"}
    project.ok("apply", "--yes")
    assert project.statuses() == {"long": "succeeded"}


def test_a_job_of_somebody_else_becomes_a_run(project: Project) -> None:
    project.write(SPEC.replace("DIRECTORY", str(project.directory / "jobs")))
    output = project.directory / "%x-%j.txt"
    submitted = (
        "sbatch",
        "--parsable",
        "--time=9",
        "--mem=20M",
        f"--output={output}",
        "--wrap=echo before; exec sleep 300",
    )
    number = asked(*submitted).strip()
    try:
        project.ok("state", "import", "long", number)
        assert project.actions() == {"long": "no-op"}
        project.await_status("long", "running")
        until(lambda: project.run("logs", "long").out == "before\n")
        project.ok("destroy", "--yes")
        assert asked("squeue", "--noheader", "--states=PENDING,RUNNING", f"--jobs={number}", "--format=%i") == ""
    finally:
        asked("scancel", number)


# -- arrays

MATRIX = """\
flowplan: 1
project: slurm-arrays
providers: {slurm: {directory: DIRECTORY}}
runs:
  cell:
    provider: slurm
    matrix: {n: [0, 1, 2, 3]}
    command: [sh, -c, 'echo start >> BASE/starts-$N; echo "out $TOKEN" | rev; echo err-$N >&2; while [ ! -e BASE/go ]; do sleep 0.2; done']
    env: {N: "${each.n}", TOKEN: {from_env: CELL_TOKEN}}
    grace_period: 2s
    resources: {memory: 20Mi}
    slurm: {array: true}
"""


@pytest.fixture
def matrix(project: Project) -> Project:
    project.env["CELL_TOKEN"] = f"c4n4ry-{uuid.uuid4().hex}"
    jobs_at = str(project.directory / "jobs")
    project.write(MATRIX.replace("DIRECTORY", jobs_at).replace("BASE", str(project.directory)))
    return project


def numbers(project: Project) -> dict[str, str]:
    return {run["address"]: run["infrastructure_id"].partition(":")[2] for run in project.status().values()}


def live(lineage: str) -> list[str]:
    lines = asked("squeue", "--noheader", "--array", "--states=PENDING,RUNNING", "--format=%i %k").splitlines()
    return sorted(line.split()[0] for line in lines if lineage in line)


def test_the_cells_of_a_matrix_are_the_tasks_of_one_array(matrix: Project) -> None:
    matrix.ok("apply", "--yes", "--detach")
    lineage = matrix.ok("state", "pull").json["lineage"]
    for n in range(4):
        matrix.await_status(f"cell[n={n}]", "running")
    tasks = numbers(matrix)
    [array] = {number.partition("_")[0] for number in tasks.values()}
    assert sorted(tasks.values()) == [f"{array}_{n}" for n in range(4)] == live(lineage)
    assert matrix.actions() == dict.fromkeys(tasks, "no-op")
    until(lambda: len(list(matrix.directory.glob("starts-*"))) == 4)
    printed = matrix.ok("logs", "cell[n=2]").out
    assert "err-2" in printed and "err-1" not in printed and matrix.env["CELL_TOKEN"] not in printed
    script = asked("scontrol", "write", "batch_script", array, "-")
    assert matrix.env["CELL_TOKEN"] not in script + asked("scontrol", "show", "job", array)

    matrix.ok("destroy", "--yes", "--target", "cell[n=1]")
    assert live(lineage) == [f"{array}_{n}" for n in (0, 2, 3)]
    (matrix.directory / "go").touch()
    matrix.ok("watch")
    assert matrix.statuses() == dict.fromkeys([f"cell[n={n}]" for n in (0, 2, 3)], "succeeded")
    for path in (matrix.directory / ".flowplan").glob("state.db*"):
        path.unlink()
    matrix.ok("state", "rebuild")
    assert numbers(matrix) == {f"cell[n={n}]": f"{array}_{n}" for n in (0, 2, 3)}
    matrix.ok("destroy", "--yes")
    assert live(lineage) == [] and list((matrix.directory / "jobs").iterdir()) == []


@pytest.mark.parametrize("fault", ["slurm:submit:after", "slurm:release:before@3", "slurm:release:after@2"])
def test_an_array_that_was_left_half_started_is_carried_on(matrix: Project, fault: str) -> None:
    (matrix.directory / "go").touch()
    killed = matrix.run("apply", "--yes", "--parallelism", "1", env={"FLOWPLAN_FAULT": fault})
    assert killed.code == -9
    matrix.ok("apply", "--yes")
    assert set(matrix.statuses().values()) == {"succeeded"}
    assert len({number.partition("_")[0] for number in numbers(matrix).values()}) == 1
    assert [path.read_text() for path in matrix.directory.glob("starts-*")] == ["start\n"] * 4
    assert set(matrix.actions().values()) == {"no-op"}
    assert live(matrix.ok("state", "pull").json["lineage"]) == []
