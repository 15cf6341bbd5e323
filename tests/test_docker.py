"""What the docker provider promises beyond the contract suite, on a real Engine."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
from engines import connected, create_file, docker_api, docker_process
from faulty_proxy import FaultyProxy, in_network_of

from flowplan.planner.manifests import ResolvedRun
from flowplan.planner.manifests import docker as manifests
from flowplan.providers.docker import connect
from flowplan.providers.protocol import Context, Order, Provider
from flowplan.schemas.errors import EngineUnreachable, ProviderError, Refused, StartFailed
from flowplan.schemas.plans import FieldChange
from flowplan.schemas.runs import Identity, Observed, Recorded, Settings, Status
from flowplan.schemas.secrets import SecretSource, token

pytestmark = pytest.mark.docker

REGISTRY = "127.0.0.1:5000"
REMOTE = f"{REGISTRY}/library/busybox:1.35"
LOGIN = {"username": "robot", "password": "robot-password"}


class Engine:
    """A lineage of its own on the real Engine, and what a person would see and do there."""

    def __init__(self, path: Path) -> None:
        self.lineage = str(uuid.uuid4())
        self.context = Context(self.lineage, path)
        self.provider: Provider = connect(self.context)
        self.raw = docker_api()
        self.networks: list[str] = []

    def order(self, address: str, command: list[str], *, attempt: int = 1, secrets: Any = None, **fields: Any) -> Order:
        everything = {"image": "busybox:1.35", "command": command, **fields}
        run = ResolvedRun(address, address, 0, "docker", "docker", everything)
        assert manifests.check(run) == []
        identity = Identity("tests", self.lineage, address, attempt)
        rendered = manifests.render(run, identity)
        return Order(identity, rendered.name, rendered.objects, Settings(), secrets or {})

    def record(self, order: Order, seen: Observed | None = None) -> Recorded:
        return Recorded(
            address=order.identity.address,
            provider="docker",
            type="docker",
            target=self.provider.target().document(),
            attempt=order.identity.attempt,
            run_id=order.identity.run_id,
            name=seen.name if seen else order.name,
            objects=order.objects,
            settings=order.settings,
            status=(seen.status if seen else None) or Status.CREATING,
            handle=seen.handle if seen else {},
        )

    def start(self, address: str, command: list[str], **fields: Any) -> Recorded:
        order = self.order(address, command, **fields)
        return self.record(order, self.provider.create(order))

    def end(self, record: Recorded) -> Observed:
        return self.until(record, lambda seen: not seen.exists or (seen.status is not None and seen.status.final))

    def until(self, record: Recorded, wanted: Callable[[Observed], bool]) -> Observed:
        stop, deadline = threading.Event(), time.monotonic() + 20
        for seen in self.provider.watch([record], stop):
            if isinstance(seen, Observed) and wanted(seen):
                return seen
            assert time.monotonic() < deadline, seen
        raise AssertionError("the watch ended early")

    def inspect(self, record: Recorded) -> dict[str, Any]:
        return dict(self.raw.inspect_container(record.handle["id"]))

    def ours(self) -> list[dict[str, Any]]:
        return list(self.raw.containers(all=True, filters={"label": f"dev.flowplan.lineage={self.lineage}"}))

    def network(self) -> str:
        name = f"flowplan-test-{uuid.uuid4().hex[:8]}"
        self.raw.create_network(name)
        self.networks.append(name)
        return name

    def close(self) -> None:
        for found in self.ours():
            with contextlib.suppress(docker.errors.APIError):  # auto_remove is faster
                self.raw.remove_container(found["Id"], force=True, v=True)
        for name in self.networks:
            self.raw.remove_network(name)
        self.provider.close()
        self.raw.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    try:
        made = Engine(tmp_path)
    except docker.errors.DockerException as error:
        if os.environ.get("FLOWPLAN_REQUIRE_ENGINES") == "1":
            raise
        pytest.skip(f"no Docker Engine: {error}")
    yield made
    made.close()


def change(path: str) -> FieldChange:
    return FieldChange(path, None, None, "in_place", "")


# -- ends ---------------------------------------------------------------------------------------------------------------


def test_a_signal_from_outside_is_the_reason(engine: Engine) -> None:
    record = engine.start("killed", ["sleep", "60"])
    engine.raw.kill(record.handle["id"], "SIGKILL")
    seen = engine.end(record)
    assert (seen.status, seen.exit_code, seen.reason) == (Status.FAILED, 137, "SIGKILL")


def test_lack_of_memory_is_the_reason(engine: Engine) -> None:
    hog = ["sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=60"]
    limits = {"mem_limit": "16m", "memswap_limit": "16m", "create_options": {"shm_size": "100m"}}
    seen = engine.end(engine.start("hog", hog, docker=limits))
    assert (seen.status, seen.reason) == (Status.FAILED, "OOMKilled")


def test_pausing_is_running(engine: Engine) -> None:
    record = engine.start("paused", ["sleep", "60"])
    engine.raw.pause(record.handle["id"])
    seen = engine.until(record, lambda seen: seen.reason == "Paused")
    assert seen.status == Status.RUNNING
    engine.provider.delete(record, 1)
    assert engine.ours() == []


@pytest.mark.parametrize(("code", "status"), [(0, Status.SUCCEEDED), (3, Status.FAILED)])
def test_auto_remove_with_its_exit_code(engine: Engine, code: int, status: Status) -> None:
    record = engine.start("gone", ["sh", "-c", f"sleep 0.3; exit {code}"], docker={"auto_remove": True})
    seen = engine.end(record)
    assert (seen.status, seen.exit_code) == (status, code)


def test_a_container_that_was_made_again_is_not_taken_for_the_one_before(engine: Engine) -> None:
    record = engine.start("again", ["sh", "-c", "until test -e /done; do sleep 0.1; done"])
    was = engine.inspect(record)
    engine.raw.remove_container(was["Id"], force=True)
    config = {**was["Config"], "HostConfig": was["HostConfig"]}
    again = engine.raw.create_container_from_config(config, was["Name"].lstrip("/"))["Id"]
    engine.raw.start(again)
    [seen] = engine.provider.observe([record])
    assert (seen.status, seen.handle["id"]) == (Status.RUNNING, again)
    # The watch reads the events of the container before as well, with its end.
    record = replace(record, handle={**seen.handle, "created": record.handle["created"]}, started_at=seen.started_at)
    told: list[Status | None] = []

    def ends(seen: Observed) -> bool:
        told.append(seen.status)
        if told == [Status.RUNNING]:
            create_file(engine.raw, again, "done")
        return seen.over

    assert engine.until(record, ends).status == Status.SUCCEEDED
    assert told == [Status.RUNNING, Status.SUCCEEDED]


def test_auto_remove_that_ended_unwatched_is_told_by_old_events(engine: Engine) -> None:
    record = engine.start("gone", ["sh", "-c", "exit 4"], docker={"auto_remove": True})
    assert engine.provider.observe([record])[0].status != Status.SUCCEEDED
    seen = engine.end(record)
    assert (seen.status, seen.exit_code) == (Status.FAILED, 4)


def test_a_container_that_is_gone_is_never_a_success(engine: Engine) -> None:
    record = replace(engine.record(engine.order("never", ["true"])), handle={"id": "0" * 64})
    assert not engine.end(record).exists
    assert not engine.provider.observe([record])[0].exists


def test_the_engine_repeats_and_counts_failures(engine: Engine) -> None:
    record = engine.start("again", ["sh", "-c", "exit 5"], retries=2)
    seen = engine.end(record)
    assert (seen.status, seen.exit_code, seen.attempts) == (Status.FAILED, 5, 3)
    [newest] = seen.tries
    assert (newest.number, newest.of) == (3, 3) and newest.began_at


# -- creating -----------------------------------------------------------------------------------------------------------


def test_foreign_names_are_left_alone(engine: Engine) -> None:
    name = f"flowplan-test-{uuid.uuid4().hex[:8]}"
    first = engine.start("one", ["sleep", "60"], name=name)
    second = engine.start("two", ["sleep", "60"], name=name)
    assert (first.name, second.name) == (name, f"{name}-1")
    again = engine.provider.create(engine.order("two", ["sleep", "60"], name=name))
    assert again.handle["id"] == second.handle["id"]
    engine.raw.remove_container(first.handle["id"], force=True)
    again = engine.provider.create(engine.order("two", ["sleep", "60"], name=name))
    assert again.handle["id"] == second.handle["id"], "the freed name must not make it start twice"


def test_names_that_are_all_taken_are_an_error(engine: Engine) -> None:
    name = f"flowplan-test-{uuid.uuid4().hex[:8]}"
    for number in range(6):
        engine.start(f"run{number}", ["sleep", "60"], name=name)
    with pytest.raises(StartFailed, match="belong to other containers"):
        engine.start("last", ["sleep", "60"], name=name)


def test_what_was_created_but_never_started_is_started_once(engine: Engine) -> None:
    order = engine.order("half", ["sh", "-c", "sleep 60"])
    container = order.objects["Container"]
    made = engine.raw.create_container_from_config(container["Config"], container["Name"])
    assert engine.provider.observe([engine.record(order)])[0].status == Status.CREATING
    seen = engine.provider.create(order)
    assert (seen.handle["id"], seen.status) == (made["Id"], Status.RUNNING)
    assert len(engine.ours()) == 1


def test_several_networks_are_joined_before_the_start(engine: Engine) -> None:
    one, two = engine.network(), engine.network()
    record = engine.start(
        "wired", ["sh", "-c", "ip addr | grep -c 'scope global'; sleep 60"], docker={"networks": [one, two]}
    )
    assert set(engine.inspect(record)["NetworkSettings"]["Networks"]) == {one, two}
    assert [line.text for line in engine.provider.logs(record, follow=True, tail=1, stop=_soon())] in (["2"], ["0"])
    live = engine.provider.observe([record])[0].live
    assert live is not None
    assert live["Container"]["Networks"] == [one, two]
    engine.provider.delete(record, 0)


def _soon() -> threading.Event:
    stop = threading.Event()
    threading.Timer(1.5, stop.set).start()
    return stop


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"command": ["nosuch"]}, 127, "nosuch"),
        ({"command": ["/etc"]}, 126, "/etc"),
        ({"docker": {"networks": ["nosuch"]}}, 125, "nosuch"),
        ({"docker": {"networks": ["bridge", "nosuch"]}}, 125, "nosuch"),
        ({"docker": {"network_mode": "container:nosuch"}}, 125, "nosuch"),
        ({"docker": {"mem_limit": "1m"}}, 125, "(?i)memory"),
        ({"docker": {"volumes": ["x:y"]}}, 125, r"\by\b"),
        ({"image": "flowplan-nosuch:1", "image_pull_policy": "Never"}, 125, "image_pull_policy is Never"),
    ],
)
def test_a_failed_start_leaves_nothing(engine: Engine, fields: dict[str, Any], code: int, words: str) -> None:
    order = engine.order("bad", **{"command": ["true"], **fields})
    with pytest.raises(StartFailed, match=words) as caught:
        engine.provider.create(order)
    assert caught.value.exit_code_of_run == code
    assert caught.value.address == "bad"
    assert engine.ours() == []


def test_a_device_that_the_host_does_not_have_is_told_with_what_that_means(engine: Engine) -> None:
    order = engine.order("bad", ["true"], docker={"create_options": {"devices": ["/dev/nosuch:/dev/nosuch"]}})
    with pytest.raises(StartFailed) as caught:
        engine.provider.create(order)
    assert caught.value.hint == "the device is not on the Engine's host"


def test_the_engine_shows_what_was_planned(engine: Engine) -> None:
    order = engine.order(
        "full",
        ["sleep", "60"],
        env={"A": "1", "HOME": None},
        labels={"team.acme/x": "data"},
        resources={"cpu": "500m", "memory": "64Mi"},
        docker={
            "volumes": ["/tmp:/host:ro", "/anonymous"],
            "extra_hosts": {"db": "10.0.0.7"},
            "create_options": {
                "user": "0",
                "ulimits": ["nofile=64:64"],
                "HostConfig": {"PidsLimit": 9},
                "StopTimeout": 3,
            },
        },
    )
    found = engine.inspect(engine.record(order, engine.provider.create(order)))
    config = order.objects["Container"]["Config"]
    for name in set(config) - {"HostConfig", "NetworkingConfig", "Env", "Labels"}:
        assert found["Config"][name] == config[name], name
    for name, value in config["HostConfig"].items():
        assert found["HostConfig"][name] == value, name
    assert set(config["Env"]) <= set(found["Config"]["Env"])
    assert config["Labels"].items() <= found["Config"]["Labels"].items()


def test_a_variable_that_is_null_is_taken_away(engine: Engine) -> None:
    record = engine.start("bare", ["/bin/sh", "-c", "/bin/busybox env"], env={"PATH": None, "A": ""})
    assert engine.end(record).exit_code == 0
    lines = [line.text for line in engine.provider.logs(record, follow=False, tail=None)]
    assert "A=" in lines
    assert not [line for line in lines if line.startswith("PATH=/usr")]


# -- secrets ------------------------------------------------------------------------------------------------------------


def test_secrets_reach_the_container_and_no_message(engine: Engine) -> None:
    word = token(SecretSource("from_env", "WORD"), b"key", "s3cret-value")
    order = engine.order("secret", ["sleep", "60"], env={"WORD": f"<{word}>"}, secrets={word: "s3cret-value"})
    record = engine.record(order, engine.provider.create(order))
    assert "WORD=<s3cret-value>" in engine.inspect(record)["Config"]["Env"]
    assert engine.provider.secret_values(record) == ["s3cret-value"]
    bad = engine.order("bad", [word], secrets={word: "s3cret-value"})
    with pytest.raises(StartFailed) as caught:
        engine.provider.create(bad)
    assert "s3cret-value" not in str(caught.value)
    assert "s3cret-value" not in repr(engine.provider.observe([record])[0])


# -- changes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "name", "value"),
    [
        ({"docker": {"mem_limit": "32m"}}, {"docker": {"mem_limit": "128m"}}, "Memory", 128 << 20),
        ({"resources": {"cpu": 1}}, {"resources": {"cpu": "500m"}}, "NanoCpus", 500_000_000),
        ({}, {"resources": {"cpu": 1}}, "NanoCpus", 10**9),
        ({}, {"docker": {"create_options": {"pids_limit": 20}}}, "PidsLimit", 20),
        ({}, {"docker": {"create_options": {"cpu_shares": 200}}}, "CpuShares", 200),
        ({}, {"retries": 3}, "RestartPolicy", {"Name": "on-failure", "MaximumRetryCount": 3}),
        ({"retries": 3}, {}, "RestartPolicy", {"Name": "no", "MaximumRetryCount": 0}),
    ],
    ids=["memory", "cpu", "cpu from none", "pids", "shares", "restart policy", "no restart policy"],
)
def test_updates_in_place(engine: Engine, before: Any, after: Any, name: str, value: Any) -> None:
    record = engine.start("changed", ["sleep", "60"], **before)
    pid = engine.inspect(record)["State"]["Pid"]
    order = engine.order("changed", ["sleep", "60"], **after)
    path = f"/Container/Config/HostConfig/{name}"
    wanted = order.objects["Container"]["Config"]["HostConfig"].get(name)
    assert manifests.effect(path, None, wanted).effect == "in_place"
    seen = engine.provider.update(record, order, [change(path)])
    found = engine.inspect(record)
    assert found["HostConfig"][name] == value
    assert (found["State"]["Pid"], seen.status) == (pid, Status.RUNNING)
    fact = engine.provider.observe([replace(record, objects=order.objects)])[0]
    assert fact.live is not None
    for field, want in manifests.comparable(order.objects)["Container"].get("Config", {}).get("HostConfig", {}).items():
        assert manifests.equal(f"/{field}", want, fact.live["Container"]["Config"]["HostConfig"][field])


def test_name_and_networks_in_place(engine: Engine) -> None:
    one, two, three = engine.network(), engine.network(), engine.network()
    record = engine.start("moved", ["sleep", "60"], docker={"networks": [one, two]})
    name = f"flowplan-test-{uuid.uuid4().hex[:8]}"
    order = engine.order("moved", ["sleep", "60"], name=name, docker={"networks": [one, three]})
    changes = [change("/Container/Name"), change("/Container/Networks/1")]
    for _ in range(2):
        seen = engine.provider.update(record, order, changes)
    assert seen.name == name
    assert set(engine.inspect(record)["NetworkSettings"]["Networks"]) == {one, three}


def test_a_refused_update_is_in_the_engines_words(engine: Engine) -> None:
    record = engine.start("small", ["sleep", "60"])
    order = engine.order("small", ["sleep", "60"], docker={"mem_limit": "1m"})
    with pytest.raises(ProviderError, match=r"(?i)memory"):
        engine.provider.update(record, order, [change("/Container/Config/HostConfig/Memory")])


def test_drift_is_seen(engine: Engine) -> None:
    record = engine.start("drifted", ["sleep", "60"], docker={"mem_limit": "64m"})
    engine.raw.update_container(record.handle["id"], mem_limit="96m", memswap_limit="192m")
    live = engine.provider.observe([record])[0].live
    assert live is not None
    assert live["Container"]["Config"]["HostConfig"]["Memory"] == 96 << 20


def test_another_engine_is_refused(engine: Engine) -> None:
    record = replace(engine.start("mine", ["sleep", "60"]), target={"type": "docker", "id": "OTHER", "label": "other"})
    with pytest.raises(Refused, match="another Engine"):
        engine.provider.delete(record, 0)
    assert len(engine.ours()) == 1


# -- output -------------------------------------------------------------------------------------------------------------


def test_long_lines_come_in_one_piece(engine: Engine) -> None:
    record = engine.start("long", ["sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; echo; echo end"])
    engine.end(record)
    lines = [line.text for line in engine.provider.logs(record, follow=False, tail=None)]
    assert lines == ["x" * 100000, "end"]


def test_a_terminal_has_one_stream(engine: Engine) -> None:
    record = engine.start("tty", ["sh", "-c", "echo one; echo two >&2"], docker={"create_options": {"tty": True}})
    engine.end(record)
    assert [line.text for line in engine.provider.logs(record, follow=False, tail=None)] == ["one", "two"]


def test_output_of_a_container_that_is_gone_is_empty(engine: Engine) -> None:
    record = replace(engine.record(engine.order("never", ["true"])), handle={"id": "0" * 64})
    assert list(engine.provider.logs(record, follow=True, tail=None)) == []


# -- preflight ----------------------------------------------------------------------------------------------------------


def test_preflight_tells_what_create_would_trip_over(engine: Engine, tmp_path: Path) -> None:
    engine.start("holder", ["sleep", "60"], name="flowplan-test-holder")
    bad = engine.order(
        "bad",
        ["true"],
        name="flowplan-test-holder",
        image="flowplan-nosuch:1",
        image_pull_policy="Never",
        resources={"cpu": 4096},
        docker={
            "networks": ["nosuch"],
            "mem_limit": "1m",
            "volumes": [f"{tmp_path}/nosuch:/x"],
            "create_options": {"runtime": "nosuch"},
        },
    )
    checks = {finding.check: finding.severity for finding in engine.provider.preflight([bad])}
    assert checks == {
        "image": "error",
        "network": "error",
        "memory": "error",
        "cpu": "error",
        "runtime": "error",
        "name": "warning",
        "volume": "warning",
    }
    assert len(engine.ours()) == 1
    assert engine.provider.preflight([engine.order("good", ["true"])]) == []


def test_more_than_the_machine_has_is_told(engine: Engine) -> None:
    big = engine.order("big", ["true"], resources={"memory": "4000Gi"})
    assert [(f.severity, f.check) for f in engine.provider.preflight([big])] == [("warning", "memory")]
    if "nvidia" in engine.raw.info()["Runtimes"]:
        pytest.skip("this Engine has GPUs")
    gpus = engine.order("gpus", ["true"], resources={"gpu": 2})
    [found] = engine.provider.preflight([gpus])
    assert found.check == "gpu" and "NVIDIA container toolkit" in found.hint
    with pytest.raises(StartFailed):
        engine.provider.create(gpus)


ABSENT = f"{REGISTRY}/library/busybox:no-such-tag"
PULLED = {"image": REMOTE, "image_pull_policy": "Always"}
WRONG = {"registry_credentials": {**LOGIN, "password": "wrong-password"}}


@pytest.mark.registry
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({**PULLED, "docker": {"registry_credentials": LOGIN}}, []),
        ({"image": ABSENT, "docker": {"registry_credentials": LOGIN}}, [("error", "image", f"does not have {ABSENT}")]),
        ({**PULLED, "docker": WRONG}, [("error", "login", f"registry {REGISTRY} refuses {REMOTE}")]),
        (PULLED, [("error", "login", f"registry {REGISTRY} refuses {REMOTE}")]),
        ({"image": "127.0.0.1:9/a:1"}, [("warning", "image", "of registry 127.0.0.1:9 can be pulled is not known")]),
        ({"image_pull_policy": "Always", "image": "127.0.0.1:9/a:1"}, [("warning", "image", "is not known")]),
        ({"image": "busybox:1.35"}, []),
    ],
    ids=["there", "no such tag", "wrong password", "no login", "unreachable", "always", "on the Engine"],
)
def test_an_image_is_asked_for_without_pulling_it(
    engine: Engine, fields: dict[str, Any], expected: list[tuple[str, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", "/nonexistent")
    asked = requests_of_the_client(monkeypatch)
    found = engine.provider.preflight([engine.order("a", ["true"], **fields)])
    assert [(f.severity, f.check) for f in found] == [(severity, check) for severity, check, _ in expected]
    for finding, (_, _, words) in zip(found, expected, strict=True):
        assert words in finding.message and "wrong-password" not in str(finding)
    assert not [path for path in asked if "/images/create" in path]


def requests_of_the_client(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the addresses that are asked from now on."""
    asked: list[str] = []
    original = docker.APIClient.request
    monkeypatch.setattr(docker.APIClient, "request", lambda *a, **o: (asked.append(a[2]), original(*a, **o))[1])
    return asked


@pytest.mark.registry
def test_a_thousand_runs_of_an_image_ask_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = requests_of_the_client(monkeypatch)
    orders = [
        engine.order(f"a{n}", ["true"], image=ABSENT, docker={"registry_credentials": LOGIN}) for n in range(1000)
    ]
    assert len(engine.provider.preflight(orders)) == 1000
    assert len([path for path in asked if "/distribution/" in path]) == 1
    assert len(asked) < 10


def test_an_engine_that_asks_no_registry_leaves_it_unknown(engine: Engine, tmp_path: Path) -> None:
    proxy = FaultyProxy(os.environ["DOCKER_HOST"], tmp_path / "sock")
    body = b'{"message": "Path /v1.41/distribution/a:1/json is not supported"}'
    proxy.play("answer", "GET", "/distribution/", status=404, body=body)
    provider = connect(engine.context._replace(settings={"host": proxy.host}))
    try:
        [found] = provider.preflight([engine.order("a", ["true"], image="127.0.0.1:9/a:1")])
    finally:
        provider.close()
        proxy.close()
    assert found.severity == "warning" and "only when it pulls" in found.message


def test_a_registry_that_never_answers_holds_nothing_up(engine: Engine) -> None:
    with in_network_of(docker_process()):
        silent = socket.create_server(("127.0.0.1", 0))
    with silent:
        registry = f"127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        found = engine.provider.preflight(
            [engine.order(f"a{n}", ["true"], image=f"{registry}/a:{n}") for n in range(50)]
        )
        assert time.monotonic() - begun < 15
    assert {f.severity for f in found} == {"warning"} and len(found) == 50
    assert len({f.message for f in found}) == 1 and registry in found[0].message


# -- connection ---------------------------------------------------------------------------------------------------------


def test_an_engine_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nosuch.sock")
    provider = connect(Context(str(uuid.uuid4()), tmp_path))
    with pytest.raises(EngineUnreachable, match="no such socket") as caught:
        provider.target()
    assert f"{tmp_path}/nosuch.sock" in str(caught.value)
    assert "DOCKER_HOST" in caught.value.hint


def test_a_refused_and_a_silent_engine_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CLIENT_TIMEOUT", "0.3")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        provider = connect(Context(str(uuid.uuid4()), tmp_path, {"host": f"tcp://127.0.0.1:{port}"}))
        with pytest.raises(EngineUnreachable, match="no answer in time"):
            provider.observe([])
    with pytest.raises(EngineUnreachable, match="connection refused"):
        provider.observe([])


def test_wrong_settings_are_errors_for_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProviderError, match='no docker context "nosuch"'):
        connect(Context(str(uuid.uuid4()), tmp_path, {"context": "nosuch"})).target()
    monkeypatch.setenv("DOCKER_CLIENT_TIMEOUT", "soon")
    with pytest.raises(ProviderError, match="not a timeout"):
        connect(Context(str(uuid.uuid4()), tmp_path)).target()


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("ftp://nowhere", "write unix:///path, tcp://host:port or ssh://user@host"),
        ("ssh://", "write ssh://user@host:port"),
        ("ssh://u:secret-word@h", "write ssh://user@host:port"),
        ("ssh://-oProxyCommand=touch", "write ssh://user@host:port"),
        ("ssh://deploy@127.0.0.1:1", "ssh ssh://deploy@127.0.0.1:1`"),
    ],
)
def test_a_host_that_cannot_be_used_is_told_with_what_to_write(tmp_path: Path, host: str, words: str) -> None:
    context = Context(str(uuid.uuid4()), tmp_path, {"host": host})
    with pytest.raises(ProviderError) as caught, contextlib.closing(connect(context)) as provider:
        provider.target()
    assert words in caught.value.hint and "secret-word" not in str(caught.value)


def test_ssh_that_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProviderError, match="needs the program ssh, which is not installed"):
        connect(Context(str(uuid.uuid4()), tmp_path, {"host": "ssh://h"})).target()


def test_contexts_of_the_docker_cli_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    home = tmp_path / "config"
    meta = (
        home / "contexts" / "meta" / "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    )  # sha256("test")
    meta.mkdir(parents=True)
    endpoint = f'{{"Host": "unix://{tmp_path}/elsewhere.sock", "SkipTLSVerify": false}}'
    (meta / "meta.json").write_text(f'{{"Name": "test", "Metadata": {{}}, "Endpoints": {{"docker": {endpoint}}}}}')
    (home / "config.json").write_text('{"currentContext": "test"}')
    monkeypatch.setenv("DOCKER_CONFIG", str(home))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    with pytest.raises(EngineUnreachable, match=r"elsewhere\.sock"):
        connect(engine.context).target()
    with pytest.raises(EngineUnreachable, match=r"elsewhere\.sock"):
        connect(engine.context._replace(settings={"context": "test"})).target()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets that docker-py leaves open
def test_a_watch_outlives_an_engine_that_does_not_answer(tmp_path: Path, engine: Engine) -> None:
    """Put the Engine behind a socket of ours, which goes away and comes back."""
    path = tmp_path / "proxy.sock"
    proxy = Proxy(path)
    provider = connect(engine.context._replace(settings={"host": f"unix://{path}"}))
    record = engine.start("followed", ["sh", "-c", "sleep 2; exit 6"])
    seen: list[Observed] = []
    silent = time.monotonic()
    for fact in provider.watch([record], threading.Event()):
        assert time.monotonic() - silent < 2
        silent = time.monotonic()
        if isinstance(fact, Observed):
            seen.append(fact)
            if len(seen) == 1:
                proxy.close()
                threading.Timer(3, lambda: seen and setattr(engine, "proxy", Proxy(path))).start()
    provider.close()
    engine.proxy.close()  # type: ignore[attr-defined]
    gc.collect()
    assert [(fact.status, fact.exit_code) for fact in seen] == [(Status.RUNNING, None), (Status.FAILED, 6)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets that docker-py leaves open
def test_followed_output_loses_and_repeats_nothing_over_a_broken_connection(tmp_path: Path, engine: Engine) -> None:
    path = tmp_path / "proxy.sock"
    proxy = Proxy(path)
    provider = connect(engine.context._replace(settings={"host": f"unix://{path}"}))
    script = "i=0; while [ $i -lt 40 ]; do echo $i; echo $i >&2; i=$((i+1)); sleep 0.05; done"
    record = engine.start("chatty", ["sh", "-c", script])
    lines = []
    for line in provider.logs(record, follow=True, tail=None):
        lines.append(line)
        if len(lines) == 20:
            proxy.close()
            proxy = Proxy(path)
    provider.close()
    proxy.close()
    gc.collect()
    for stream in ("stdout", "stderr"):
        assert [line.text for line in lines if line.stream == stream] == [str(number) for number in range(40)]


class Proxy:
    """A socket that passes everything on to the Engine until it is closed."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._sockets: list[socket.socket] = []
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._path = path
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = connected(os.environ["DOCKER_HOST"])
            self._sockets += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        for each in [self._server, *self._sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


# -- pulling ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def registry(engine: Engine) -> Iterator[None]:
    try:
        socket.create_connection(("127.0.0.1", 5000), timeout=1).close()
    except OSError:
        if os.environ.get("FLOWPLAN_REQUIRE_ENGINES") == "1":
            raise
        pytest.skip("no test registry on 127.0.0.1:5000")
    _forget(engine)
    yield
    for found in engine.ours():
        engine.raw.remove_container(found["Id"], force=True)
    _forget(engine)


def _forget(engine: Engine) -> None:
    try:
        engine.raw.remove_image(REMOTE)
    except docker.errors.ImageNotFound:
        return


@pytest.mark.registry
@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("policy", ["Always", "IfNotPresent", None])
def test_a_missing_image_is_pulled_with_the_password_and_nothing_is_kept(engine: Engine, policy: str | None) -> None:
    fields: dict[str, Any] = {"image": REMOTE, "image_pull_policy": policy, "docker": {"registry_credentials": LOGIN}}
    assert engine.end(engine.start("pulled", ["true"], **fields)).exit_code == 0
    _forget_containers(engine)
    _forget(engine)
    with pytest.raises(StartFailed, match="pulling"):
        engine.start("unnamed", ["true"], image=REMOTE)


def _forget_containers(engine: Engine) -> None:
    for found in engine.ours():
        engine.raw.remove_container(found["Id"], force=True)


@pytest.mark.registry
@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("image", "login"),
    [
        (REMOTE, {"username": "robot", "password": "wrong-password"}),
        (f"{REGISTRY}/library/nosuch:1", LOGIN),
        (REMOTE, {**LOGIN, "registry_url": "registry.acme.dev"}),
    ],
    ids=["wrong password", "missing image", "credentials of another registry"],
)
def test_a_failed_pull_is_told_in_the_registrys_words(engine: Engine, image: str, login: dict[str, str]) -> None:
    with pytest.raises(StartFailed, match=f"pulling {image} failed: .+") as caught:
        engine.start("bad", ["true"], image=image, docker={"registry_credentials": login})
    assert caught.value.reason == "ErrImagePull"
    assert login["password"] not in str(caught.value)
    assert engine.ours() == []


@pytest.mark.registry
@pytest.mark.usefixtures("registry")
def test_ten_threads_need_one_pull(engine: Engine) -> None:
    start = time.time()
    orders = [
        engine.order(
            f"run{n}", ["true"], image=REMOTE, image_pull_policy="Always", docker={"registry_credentials": LOGIN}
        )
        for n in range(10)
    ]
    together = threading.Barrier(len(orders))

    def create(order: Order) -> None:
        together.wait(30)
        engine.provider.create(order)

    threads = [threading.Thread(target=create, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = engine.raw.events(since=int(start) - 1, until=int(time.time()) + 1, filters={"event": "pull"}, decode=True)
    assert len(engine.ours()) == 10
    assert len([event for event in events if event["id"] == REMOTE and event["timeNano"] >= start * 1e9]) <= 3
