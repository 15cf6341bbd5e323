"""What a plan says of a changed field (in place, replace, nothing) is what the real engine then does, field by field."""

from __future__ import annotations

import copy
import getpass
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engines import docker_api
from projects import until

from flowplan.planner.compare.diff import changed_fields, drifted_fields
from flowplan.planner.manifests import ResolvedRun
from flowplan.planner.manifests import docker as docker_manifests
from flowplan.planner.manifests import kubernetes as kubernetes_manifests
from flowplan.planner.manifests import slurm as slurm_manifests
from flowplan.providers.protocol import Context, Order, Provider
from flowplan.providers.slurm import connect as slurm_connect
from flowplan.schemas.errors import ProviderError
from flowplan.schemas.plans import ABSENT, FieldChange
from flowplan.schemas.runs import Identity, Recorded, Rendered, Settings, Status

LINEAGE = str(uuid.uuid4())
IDENTITY = Identity(f"mutability-{LINEAGE[:6]}", LINEAGE, "run", 1)  # workers of one test run meet on one engine
Change = tuple[str, Any]


def changed(fields: dict[str, Any], change: Change) -> dict[str, Any]:
    """Return the fields with one of them, named by a dotted path, set to another value; None takes it away."""
    copied = copy.deepcopy(fields)
    place = copied
    *path, last = change[0].split(".")
    for part in path:
        place = place.setdefault(part, {})
    if change[1] is None:
        place.pop(last)
    else:
        place[last] = change[1]
    return copied


def says(fields: tuple[FieldChange, ...]) -> str:
    """Return what the plan would do: ``none``, ``in_place`` or ``replace``."""
    effects = {field.effect for field in fields}
    return "replace" if "replace" in effects else "in_place" if effects else "none"


# -- docker ---------------------------------------------------------------------------------------------------------------

CONTAINER: dict[str, Any] = {
    "image": "busybox:1.35",
    "image_pull_policy": "IfNotPresent",
    "command": ["sleep", "600"],
    "env": {"A": "1", "B": "2"},
    "labels": {"team": "data"},
    "working_dir": "/tmp",
    "resources": {"cpu": "0.5"},
    "retries": 1,
    "docker": {
        "mem_limit": "64m",
        "memswap_limit": "256m",
        "networks": ["NETWORK-1"],
        "volumes": ["/scratch"],
        "extra_hosts": {"db": "10.0.0.1"},
        "create_options": {"cpu_shares": 512, "pids_limit": 100, "mem_reservation": "32m", "cpuset_cpus": "0"},
    },
}

IN_PLACE_OF_A_CONTAINER: list[Change] = [
    ("docker.mem_limit", "80m"),
    ("docker.memswap_limit", "300m"),
    ("resources.cpu", "0.75"),
    ("resources.cpu", "250m"),
    ("docker.create_options.cpu_shares", 256),
    ("docker.create_options.pids_limit", 50),
    ("docker.create_options.pids_limit", None),
    ("docker.create_options.mem_reservation", "16m"),
    ("docker.create_options.cpuset_cpus", "0-1"),
    ("retries", 3),
    ("retries", None),
    ("docker.create_options.cpu_shares", 1024),
    ("docker.networks", ["NETWORK-1", "NETWORK-2"]),
    ("name", "mutability-other-name"),
    ("image_pull_policy", "Never"),
]
REPLACED_CONTAINER: list[Change] = [
    ("image", "busybox:latest"),
    ("command", ["sleep", "601"]),
    ("entrypoint", ["/bin/sh"]),
    ("env.A", "2"),
    ("env.C", "3"),
    ("env.B", None),
    ("labels.team", "other"),
    ("labels.more", "x"),
    ("annotations.more", "x"),
    ("working_dir", "/"),
    ("docker.volumes", ["/other"]),
    ("docker.volumes", ["/scratch", "/var/cache:/cache:ro"]),
    ("docker.extra_hosts.db", "10.0.0.2"),
    ("docker.privileged", True),
    ("docker.create_options.user", "1000"),
    ("docker.create_options.hostname", "other"),
    ("docker.create_options.tty", True),
    ("docker.create_options.stdin_open", True),
    ("docker.create_options.stop_signal", "SIGINT"),
    ("docker.create_options.shm_size", "16m"),
    ("docker.create_options.cap_add", ["NET_ADMIN"]),
    ("docker.create_options.cap_drop", ["CHOWN"]),
    ("docker.create_options.read_only", True),
    ("docker.create_options.tmpfs", {"/run": "size=1m"}),
    ("docker.create_options.ulimits", ["nofile=1024:2048"]),
    ("docker.create_options.dns", ["10.0.0.53"]),
    ("docker.create_options.init", True),
    ("docker.create_options.oom_score_adj", 100),
    ("docker.create_options.ipc_mode", "private"),
    ("docker.create_options.group_add", ["100"]),
    ("docker.create_options.security_opt", ["no-new-privileges"]),
]
SAME_CONTAINER: list[Change] = [
    ("docker.mem_limit", 67108864),
    ("docker.mem_limit", "65536k"),
    ("resources.cpu", "500m"),
    ("resources.cpu", "0.50"),
    ("docker.create_options.mem_reservation", 33554432),
    ("env", {"B": "2", "A": "1"}),
]


class Engine:
    """One live container of the base fields, on which every change is tried."""

    def __init__(self, directory: Path) -> None:

        from flowplan.providers.docker import connect

        self.api = docker_api()
        self.networks = [f"mutability-{uuid.uuid4().hex[:6]}-{n}" for n in (1, 2)]
        for name in self.networks:
            self.api.create_network(name)
        self.provider: Provider = connect(Context(LINEAGE, directory))
        self.base = self.rendered(CONTAINER)
        seen = self.provider.create(self.order(self.base))
        self.id = str(seen.handle["id"])
        target = self.provider.target().document()
        self.record = Recorded(
            "run", "docker", "docker", target, 1, IDENTITY.run_id, seen.name, self.base.objects, Settings(),
            Status.RUNNING, handle=seen.handle,
        )  # fmt: skip

    def rendered(self, fields: dict[str, Any]) -> Rendered:
        fields = copy.deepcopy(fields)
        if "networks" in fields["docker"]:
            fields["docker"]["networks"] = [self.networks[int(n[-1]) - 1] for n in fields["docker"]["networks"]]
        run = ResolvedRun("run", "run", 0, "docker", "docker", fields)
        return docker_manifests.render(run, IDENTITY)

    def order(self, rendered: Rendered) -> Order:
        return Order(IDENTITY, rendered.name, rendered.objects, Settings())

    def facts(self) -> dict[str, Any]:
        """Return everything about the container that a run's fields decide."""
        found = self.api.inspect_container(self.id)
        host = {k: v for k, v in found["HostConfig"].items() if v not in (None, [], {}, "", 0, False)}
        return {
            "Config": found["Config"],
            "HostConfig": host,
            "Name": found["Name"],
            "Networks": sorted(found["NetworkSettings"]["Networks"]),
            "Running": found["State"]["Running"],
            "Started": found["State"]["StartedAt"],
        }

    def apply(self, before: Rendered, after: Rendered) -> None:
        fields = changed_fields(before.objects, after.objects, docker_manifests)
        self.provider.update(self.record, self.order(after), fields)

    def close(self) -> None:
        self.api.remove_container(self.id, force=True, v=True)
        for name in self.networks:
            self.api.remove_network(name)
        self.provider.close()
        self.api.close()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    made = Engine(tmp_path_factory.mktemp("runs"))
    yield made
    made.close()


def label(change: Change) -> str:
    return f"{change[0]}={change[1]}"


@pytest.mark.docker
@pytest.mark.parametrize("change", IN_PLACE_OF_A_CONTAINER, ids=label)
def test_a_container_takes_what_is_called_in_place(engine: Engine, change: Change) -> None:
    after = engine.rendered(changed(CONTAINER, change))
    assert says(changed_fields(engine.base.objects, after.objects, docker_manifests)) == "in_place"
    before = engine.facts()
    engine.apply(engine.base, after)
    live = engine.facts()
    assert (live["Running"], live["Started"]) == (True, before["Started"]), "the run was not touched"
    if change[0] != "image_pull_policy":
        assert live != before, "the Engine has it"
    wanted = after.objects["Container"]
    assert live["Name"] == f"/{wanted['Name']}" and live["Networks"] == sorted(wanted["Networks"])
    for name, value in wanted["Config"]["HostConfig"].items():
        if name in docker_manifests.UPDATABLE and name != "RestartPolicy":
            assert live["HostConfig"].get(name) == value, name
    engine.apply(after, engine.base)
    assert engine.facts() == before, "and takes it back"


@pytest.mark.docker
@pytest.mark.parametrize("change", REPLACED_CONTAINER, ids=label)
def test_a_container_does_not_take_what_is_called_a_replacement(engine: Engine, change: Change) -> None:
    after = engine.rendered(changed(CONTAINER, change))
    fields = changed_fields(engine.base.objects, after.objects, docker_manifests)
    assert says(fields) == "replace" and all(field.rule for field in fields)
    before = engine.facts()
    config = after.objects["Container"]["Config"]
    body = {**config, **config["HostConfig"], "HostConfig": config["HostConfig"]}
    # This leaves only what the Engine is not said to change, and the policy, which Podman takes away where none is said.
    for name in docker_manifests.UPDATABLE - {"RestartPolicy"}:
        body.pop(name, None)
    url = engine.api._url("/containers/{0}/update", engine.id)
    engine.api._post_json(url, data=body)
    assert engine.facts() == before, "the Engine's only call for changes leaves it as it was created"


@pytest.mark.docker
@pytest.mark.parametrize("change", SAME_CONTAINER, ids=label)
def test_a_value_written_otherwise_is_no_change_of_a_container(engine: Engine, change: Change) -> None:
    after = engine.rendered(changed(CONTAINER, change))
    assert says(changed_fields(engine.base.objects, after.objects, docker_manifests)) == "none"


def test_there_are_forty_changes_of_each_kind_of_object() -> None:
    assert len(IN_PLACE_OF_A_CONTAINER) + len(REPLACED_CONTAINER) + len(SAME_CONTAINER) >= 40
    assert len(IN_PLACE_OF_A_JOB) + len(REPLACED_JOB) + len(SAME_JOB) >= 40
    assert len(PROCESS_CHANGES) >= 40
    batch = (IN_PLACE_OF_A_BATCH_JOB, WHILE_A_BATCH_JOB_WAITS, REPLACED_BATCH_JOB, SAME_BATCH_JOB)
    assert sum(map(len, batch)) >= 40


# -- kubernetes -----------------------------------------------------------------------------------------------------------

POD = "/spec/template/spec"
JOB: dict[str, Any] = {
    "image": "busybox:1.35",
    "image_pull_policy": "IfNotPresent",
    "command": ["sleep", "600"],
    "env": {"A": "1", "B": "2"},
    "labels": {"team": "data"},
    "annotations": {"note": "x"},
    "working_dir": "/tmp",
    "resources": {"cpu": "100m", "memory": "64Mi"},
    "timeout": 600,
    "retries": 1,
    "grace_period": 1,
    "kubernetes": {"finished_job_ttl": 600, "customizations": []},
}


def patch(path: str, value: Any) -> Change:
    return ("kubernetes.customizations", [{"op": "add", "path": path, "value": value}])


IN_PLACE_OF_A_JOB: list[Change] = [
    ("timeout", 700),
    ("timeout", None),
    ("retries", 3),
    ("retries", None),
    ("kubernetes.finished_job_ttl", 700),
    ("kubernetes.finished_job_ttl", None),
    patch("/spec/parallelism", 2),
    patch("/spec/parallelism", 0),
    patch("/metadata/labels/more", "x"),
    patch("/metadata/annotations/more", "x"),
    patch("/metadata/annotations/note", "y"),
]
REPLACED_JOB: list[Change] = [
    ("image", "busybox:1.36"),
    ("image_pull_policy", "Always"),
    ("command", ["sleep", "601"]),
    ("entrypoint", ["/bin/sh", "-c"]),
    ("env.A", "2"),
    ("env.C", "3"),
    ("env.B", None),
    ("labels.more", "x"),
    ("working_dir", "/"),
    ("resources.cpu", "200m"),
    ("resources.memory", "65Mi"),
    ("grace_period", 2),
    ("kubernetes.service_account_name", "other"),
    ("kubernetes.image_pull_secrets", ["other"]),
    patch("/spec/completions", 2),
    patch("/spec/template/metadata/labels/more", "x"),
    patch("/spec/template/metadata/annotations/more", "x"),
    patch(f"{POD}/restartPolicy", "OnFailure"),
    patch(f"{POD}/nodeSelector", {"disk": "ssd"}),
    patch(f"{POD}/tolerations", [{"key": "a", "operator": "Exists"}]),
    patch(f"{POD}/hostNetwork", True),
    patch(f"{POD}/dnsPolicy", "Default"),
    patch(f"{POD}/hostname", "other"),
    patch(f"{POD}/subdomain", "other"),
    patch(f"{POD}/schedulerName", "other"),
    patch(f"{POD}/priorityClassName", "system-node-critical"),
    patch(f"{POD}/automountServiceAccountToken", False),
    patch(f"{POD}/enableServiceLinks", False),
    patch(f"{POD}/shareProcessNamespace", True),
    patch(f"{POD}/securityContext", {"runAsUser": 1000}),
    patch(f"{POD}/hostAliases", [{"ip": "10.0.0.1", "hostnames": ["db"]}]),
    patch(f"{POD}/volumes", [{"name": "v", "emptyDir": {}}]),
    patch(f"{POD}/initContainers", [{"name": "i", "image": "busybox:1.35"}]),
    patch(f"{POD}/activeDeadlineSeconds", 60),
    patch(f"{POD}/containers/-", {"name": "sidecar", "image": "busybox:1.35"}),
    patch(f"{POD}/containers/0/ports", [{"containerPort": 80}]),
    patch(f"{POD}/containers/0/tty", True),
    patch(f"{POD}/containers/0/securityContext", {"privileged": False, "runAsUser": 1}),
    patch(f"{POD}/containers/0/lifecycle", {"preStop": {"exec": {"command": ["true"]}}}),
]
SAME_JOB: list[Change] = [
    ("resources.cpu", "0.1"),
    ("resources.memory", "67108864"),
    ("resources.memory", "65536Ki"),
]


class Cluster:
    """One live Job of the base fields; every change is sent to the API server as a dry run."""

    def __init__(self) -> None:
        from flowplan.providers.kubernetes.connection import endpoint
        from flowplan.providers.kubernetes.requests import Api

        self.api = Api(endpoint({}, Path("/")))
        self.namespace = f"mutability-{uuid.uuid4().hex[:6]}"
        self.api.call("POST", "/api/v1/namespaces", body={"metadata": {"name": self.namespace}})
        self.base = self.rendered(JOB)
        self.path = f"/apis/batch/v1/namespaces/{self.namespace}/jobs"
        self.live = self.api.call("POST", self.path, body=self.base.objects["Job"])

    def rendered(self, fields: dict[str, Any]) -> Rendered:
        run = ResolvedRun("run", "run", 0, "kubernetes", "kubernetes", fields, {"namespace": self.namespace})
        assert kubernetes_manifests.check(run) == []
        return kubernetes_manifests.render(run, IDENTITY)

    def try_(self, after: Rendered) -> Any:
        """Return the Job that the server would have, by a server-side dry run of the whole wanted Job."""
        body = merge_patch(self.base.objects["Job"], after.objects["Job"])
        path = f"{self.path}/{self.base.name}"
        return self.api.call("PATCH", path, {"dryRun": "All"}, body, content="application/merge-patch+json")

    def close(self) -> None:
        self.api.call("DELETE", f"/api/v1/namespaces/{self.namespace}")
        self.api.close()


def merge_patch(before: Any, after: Any) -> Any:
    """Return what turns ``before`` into ``after`` (RFC 7386); null removes."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    found = {key: merge_patch(before.get(key), value) for key, value in after.items() if before.get(key) != value}
    return found | {key: None for key in before if key not in after}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.close()


@pytest.mark.kubernetes
@pytest.mark.parametrize("change", IN_PLACE_OF_A_JOB, ids=label)
def test_a_job_takes_what_is_called_in_place(cluster: Cluster, change: Change) -> None:
    after = cluster.rendered(changed(JOB, change))
    assert says(changed_fields(cluster.base.objects, after.objects, kubernetes_manifests)) == "in_place"
    job = cluster.try_(after)
    wanted = after.objects["Job"]
    assert job["metadata"]["uid"] == cluster.live["metadata"]["uid"]
    for name in ("activeDeadlineSeconds", "backoffLimit", "parallelism", "ttlSecondsAfterFinished"):
        if name in wanted["spec"]:
            assert job["spec"].get(name) == wanted["spec"][name], name
    assert wanted["metadata"]["labels"].items() <= job["metadata"]["labels"].items()
    assert wanted["metadata"]["annotations"].items() <= job["metadata"]["annotations"].items()


@pytest.mark.kubernetes
@pytest.mark.parametrize("change", REPLACED_JOB, ids=label)
def test_a_job_refuses_what_is_called_a_replacement(cluster: Cluster, change: Change) -> None:
    after = cluster.rendered(changed(JOB, change))
    fields = changed_fields(cluster.base.objects, after.objects, kubernetes_manifests)
    assert says(fields) == "replace" and all(field.rule for field in fields)
    with pytest.raises(ProviderError, match="immutable"):
        cluster.try_(after)


@pytest.mark.kubernetes
@pytest.mark.parametrize("change", SAME_JOB, ids=label)
def test_a_value_written_otherwise_is_no_change_of_a_job(cluster: Cluster, change: Change) -> None:
    after = cluster.rendered(changed(JOB, change))
    assert says(changed_fields(cluster.base.objects, after.objects, kubernetes_manifests)) == "none"
    assert cluster.try_(after)["metadata"]["uid"] == cluster.live["metadata"]["uid"], "to the server it is none either"


# -- slurm ----------------------------------------------------------------------------------------------------------------

BATCH_JOB: dict[str, Any] = {
    "command": ["sleep", "600"],
    "env": {"A": "1", "B": "2"},
    "labels": {"team": "data"},
    "working_dir": "/tmp",
    "name": "mutability",
    "resources": {"cpu": 1, "memory": "20Mi"},
    "timeout": "10m",
    "slurm": {"partition": "main", "account": "ACCOUNT-1", "qos": "QOS-1", "options": {"nice": 5}},
}

IN_PLACE_OF_A_BATCH_JOB: list[Change] = [
    *(("timeout", value) for value in ("11m", "9m", "1h", "10m30s", "2d")),
    *(("name", value) for value in ("other", "a b")),
    *(("labels.team", value) for value in ("physics", "a=b c|d ü", None)),
    ("labels.tier", "x"),
]

WHILE_A_BATCH_JOB_WAITS: list[Change] = [
    *(("resources.cpu", value) for value in (2, "1500m", 3)),
    *(("resources.memory", value) for value in ("21Mi", "64Mi", "0.1Gi")),
    ("slurm.account", "ACCOUNT-2"),
    ("slurm.qos", "QOS-2"),
]

REPLACED_BATCH_JOB: list[Change] = [
    *(("command", value) for value in (["sleep", "601"], ["sleep"], "true")),
    ("entrypoint", ["env"]),
    *((f"env.{name}", value) for name in "AB" for value in ("3", None)),
    ("env.C", "1"),
    *(("working_dir", value) for value in ("/", "/var", None)),
    ("timeout", None),
    ("resources.cpu", None),
    ("resources.memory", None),
    ("resources.gpu", 1),
    *((f"slurm.{name}", None) for name in ("partition", "account", "qos")),
    ("slurm.requeue", True),
    *((f"slurm.options.{name}", value) for name, value in {"nice": 6, "nodes": 1, "exclusive": True}.items()),
]

SAME_BATCH_JOB: list[Change] = [
    *(("timeout", value) for value in (600, "600s", "9m1s")),
    *(("resources.cpu", value) for value in ("1", "500m", "1000m")),
    *(("resources.memory", value) for value in ("20971520", "20480Ki", "19.5Mi")),
    ("slurm.account", "account-1"),
    ("slurm.partition", "other,main"),
    ("grace_period", "1s"),
]


class Queue:
    """A job that waits, another one of the same fields that runs, and two accounts and qualities of service for them."""

    def __init__(self, base: Path) -> None:
        self.names = {
            f"{kind}-{n}": f"fp{LINEAGE[:6]}{kind[0].lower()}{n}" for kind in ("ACCOUNT", "QOS") for n in (1, 2)
        }
        for n in (1, 2):
            self._manage("add", "account", self.names[f"ACCOUNT-{n}"])
            self._manage("add", "qos", self.names[f"QOS-{n}"])
        served = ",".join(self.names[f"QOS-{n}"] for n in (1, 2))
        for n in (1, 2):
            account = self.names[f"ACCOUNT-{n}"]
            self._manage("add", "user", getpass.getuser(), f"account={account}", f"qos+={served}")
        context = Context(lineage=LINEAGE, runs_dir=base, settings={"directory": str(base)}, spec_dir=base)
        self.provider = slurm_connect(context)
        self.base = self.rendered(BATCH_JOB)
        self.waiting = self._create("waiting", self.rendered({**BATCH_JOB, "slurm": self._later()}, "waiting"))
        self.running = self._create("running", self.rendered(BATCH_JOB, "running"))
        until(lambda: self.provider.observe([self.running])[0].status is Status.RUNNING)

    def _later(self) -> dict[str, Any]:
        return {**BATCH_JOB["slurm"], "options": {"nice": 5, "begin": "now+1hour"}}

    def _manage(self, *words: str) -> None:
        subprocess.run(["sacctmgr", "-i", *words], check=True, capture_output=True, timeout=60)

    def rendered(self, fields: dict[str, Any], address: str = "run") -> Rendered:
        text = json.dumps(fields)
        for name, real in self.names.items():
            text = text.replace(name, real).replace(name.lower(), real.upper())
        run = ResolvedRun(address, address, 0, "slurm", "slurm", json.loads(text))
        assert slurm_manifests.check(run) == []
        return slurm_manifests.render(run, IDENTITY._replace(address=address))

    def _order(self, address: str, rendered: Rendered) -> Order:
        return Order(IDENTITY._replace(address=address), rendered.name, rendered.objects, Settings())

    def _create(self, address: str, rendered: Rendered) -> Recorded:
        seen = self.provider.create(self._order(address, rendered))
        return Recorded(
            address, "slurm", "slurm", {}, 1, rendered.run_id, rendered.name, rendered.objects, Settings(),
            Status.PENDING, handle=dict(seen.handle),
        )  # fmt: skip

    def takes(self, record: Recorded, change: Change) -> None:
        """Change one of the two jobs and look whether it has what is wanted; then change it back."""
        first, then = (self.rendered(f, record.address) for f in (BATCH_JOB, changed(BATCH_JOB, change)))
        known = self.provider.observe([record])[0].live
        for before, after in ((first, then), (then, first)):
            fields = changed_fields(before.objects, after.objects, slurm_manifests)
            seen = self.provider.update(record, self._order(record.address, after), fields)
            assert seen.live is not None and seen.handle == record.handle
            assert drifted_fields(after.objects, seen.live, slurm_manifests) == (), "Slurm has it"
            assert seen.live != known, "and had not before"
            known = seen.live

    def close(self) -> None:
        for record in (self.waiting, self.running):
            self.provider.delete(record, 0)
        for n in (1, 2):
            self._manage("delete", "user", getpass.getuser(), f"account={self.names[f'ACCOUNT-{n}']}")
            self._manage("delete", "account", self.names[f"ACCOUNT-{n}"])
            self._manage("delete", "qos", self.names[f"QOS-{n}"])


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    made = Queue(tmp_path_factory.mktemp("jobs"))
    yield made
    made.close()


@pytest.mark.slurm
@pytest.mark.parametrize("change", [*IN_PLACE_OF_A_BATCH_JOB, *WHILE_A_BATCH_JOB_WAITS], ids=label)
def test_a_batch_job_that_waits_takes_what_is_called_in_place(queue: Queue, change: Change) -> None:
    after = queue.rendered(changed(BATCH_JOB, change))
    fields = changed_fields(queue.base.objects, after.objects, slurm_manifests)
    if change in IN_PLACE_OF_A_BATCH_JOB:
        assert says(fields) == "in_place"
    else:
        assert says(fields) == "replace"
        assert all(slurm_manifests.while_pending(f.path, f.before, f.after) for f in fields)
    queue.takes(queue.waiting, change)


@pytest.mark.slurm
@pytest.mark.parametrize("change", IN_PLACE_OF_A_BATCH_JOB, ids=label)
def test_a_batch_job_that_runs_takes_what_is_called_in_place(queue: Queue, change: Change) -> None:
    queue.takes(queue.running, change)


@pytest.mark.slurm
@pytest.mark.parametrize("change", WHILE_A_BATCH_JOB_WAITS, ids=label)
def test_a_batch_job_that_runs_refuses_what_it_takes_while_it_waits(queue: Queue, change: Change) -> None:
    with pytest.raises(ProviderError, match="pending"):
        queue.takes(queue.running, change)


@pytest.mark.slurm
@pytest.mark.parametrize("change", REPLACED_BATCH_JOB, ids=label)
def test_no_other_change_of_a_batch_job_is_called_in_place(queue: Queue, change: Change) -> None:
    after = queue.rendered(changed(BATCH_JOB, change))
    fields = changed_fields(queue.base.objects, after.objects, slurm_manifests)
    assert says(fields) == "replace" and all(field.rule for field in fields)
    assert not any(
        slurm_manifests.while_pending(f.path, f.before, None if f.after is ABSENT else f.after) for f in fields
    )


@pytest.mark.slurm
@pytest.mark.parametrize("change", SAME_BATCH_JOB, ids=label)
def test_a_value_written_otherwise_is_no_change_of_a_batch_job(queue: Queue, change: Change) -> None:
    after = queue.rendered(changed(BATCH_JOB, change))
    assert says(changed_fields(queue.base.objects, after.objects, slurm_manifests)) == "none"


# -- process --------------------------------------------------------------------------------------------------------------

PROCESS: dict[str, Any] = {
    "provider": "process",
    "command": ["sleep", "600"],
    "env": {"A": "1", "B": "2", "C": "3"},
    "labels": {"team": "data", "tier": "x"},
    "working_dir": "/tmp",
    "timeout": "600s",
    "retries": 1,
    "grace_period": "5s",
    "process": {"inherit_env": ["PATH", "HOME"]},
}
PROCESS_CHANGES: list[tuple[Change, str]] = [
    *(((f"env.{name}", value), "replace") for name in "ABC" for value in ("9", "", None)),
    *(((f"env.{name}", "new"), "replace") for name in ("D", "E_F", "path", "LC_ALL")),
    *((("command", command), "replace") for command in (["sleep", "601"], ["sleep", "600", "1"], ["/bin/sleep", "600"])),
    *((("entrypoint", entry), "replace") for entry in (["env"], ["nice", "-n1"])),
    *((("working_dir", place), "replace") for place in ("/", "/var", None)),
    *(((f"labels.{key}", value), "replace") for key in ("team", "tier") for value in ("other", None)),
    (("labels.more", "x"), "replace"),
    *((("timeout", value), "replace") for value in ("601s", "1h", None)),
    *((("retries", value), "replace") for value in (0, 2)),
    *((("grace_period", value), "replace") for value in ("6s", "1m")),
    *((("process.inherit_env", value), "replace") for value in (["PATH"], True, ["PATH", "HOME", "LANG"])),
    *((("timeout", same), "none") for same in ("10m", 600)),
    (("grace_period", 5), "none"),
    (("command", "sleep 600"), "none"),
    (("description", "for people"), "none"),
    (("rerun", "never"), "none"),
]  # fmt: skip


def test_every_change_of_a_process_starts_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apply one run for each change: what was said to be replaced has another pid, all else has the same."""
    from flowplan.cli import run
    from flowplan.state.sqlite.store import SqliteStore

    monkeypatch.chdir(tmp_path)
    before = {f"r{n}": PROCESS for n in range(len(PROCESS_CHANGES))}
    after = {f"r{n}": changed(PROCESS, change) for n, (change, _) in enumerate(PROCESS_CHANGES)}

    def apply(runs: dict[str, Any]) -> tuple[dict[str, str], dict[str, int]]:
        (tmp_path / "flowplan.yaml").write_text(json.dumps({"flowplan": 1, "project": "p", "runs": runs}))
        assert run(["apply", "--yes", "--detach", "--json-into", "plan.json", "flowplan.yaml"]) == 0
        plan = json.loads((tmp_path / "plan.json").read_text())
        store = SqliteStore.open(tmp_path / ".flowplan/state.db")
        pids = {address: int(record.handle["pid"]) for address, record in store.records().items()}
        store.close()
        return {c["address"]: c["action"] for c in plan["changes"]}, pids

    try:
        _, first = apply(before)
        actions, second = apply(after)
        for n, (change, said) in enumerate(PROCESS_CHANGES):
            address = f"r{n}"
            assert actions[address] == {"replace": "replace", "none": "no-op"}[said], change
            assert (second[address] != first[address]) == (said == "replace"), change
            assert Path(f"/proc/{second[address]}").exists(), change
            if said == "replace":
                assert not os.path.exists(f"/proc/{first[address]}"), change  # noqa: PTH110
    finally:
        run(["destroy", "--yes"])
