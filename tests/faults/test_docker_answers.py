"""The answer to every write is cut, falsified or lost: nothing counts as failed that was done, nothing is done twice,
and nothing is left behind.

A few bytes of each answer in a normal run, every byte of its header with FLOWPLAN_EXAMPLES (``make nightly``).
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import docker.errors
import pytest
from engines import docker_api
from faulty_proxy import Fault, FaultyProxy

from flowplan.planner.manifests import ResolvedRun
from flowplan.planner.manifests import docker as manifests
from flowplan.providers.docker import connect
from flowplan.providers.protocol import Context, Order, Provider
from flowplan.schemas.errors import EngineUnreachable, ProviderError
from flowplan.schemas.plans import FieldChange
from flowplan.schemas.runs import Identity, Observed, Recorded, Settings, Status

pytestmark = pytest.mark.docker

ENGINES_OWN = b'{"message": "a fault is played"}'
FALSE: tuple[dict[str, Any], ...] = (
    {"what": "lose"},
    {"what": "hide", "status": 500, "body": ENGINES_OWN},
    {"what": "hide", "status": 400, "body": ENGINES_OWN},
    {"what": "hide", "status": 502, "body": b"no upstream"},
    {"what": "hide", "status": 404, "body": b"<html>no such page</html>"},
    {"what": "hide", "status": 200, "body": b"OK"},
    {"what": "hide", "status": 201, "body": b'{"Id": "0123'},
)
"""What a network and the things in it make of the answer to something that was done."""

NOTED = "echo $ID >> /host/starts; trap 'exit 0' TERM; sleep 600 & wait"


class World:
    """One lineage on the Engine, spoken to through a proxy; its containers write down each of their starts."""

    def __init__(self, directory: Path) -> None:
        self.lineage, self.directory = str(uuid.uuid4()), directory
        self.proxy = FaultyProxy(os.environ["DOCKER_HOST"], directory / "sock")
        settings = {"host": self.proxy.host, "timeout": 20}
        self.provider: Provider = connect(Context(self.lineage, directory / "runs", settings, directory))
        self.api = docker_api()
        self.networks = [f"fp-{self.lineage[:8]}-{n}" for n in "ab"]
        self.number = 0
        self.pulled = f"{os.environ.get('REGISTRY')}/faults/{self.lineage[:8]}:1"
        self.provider.target()

    def order(self, **fields: Any) -> Order:
        """Return an order of a run that is new, or the same again with other fields after ``self.number`` was kept."""
        blocks = {"volumes": [f"{self.directory}:/host"], "network_mode": "none", **fields.pop("docker", {})}
        given = {"image": "busybox:1.35", "command": ["sh", "-c", NOTED], "docker": blocks, **fields}
        identity = Identity("answers", self.lineage, f"r{self.number}", 1)
        given["env"] = {"ID": identity.run_id}
        blocks = {key: value for key, value in blocks.items() if value is not None}
        run = ResolvedRun(identity.address, "r", 0, "docker", "docker", {**given, "docker": blocks}, {}, "/")
        found = manifests.render(run, identity)
        return Order(identity, found.name, found.objects, Settings(grace_period=0.2), {})

    def record(self, order: Order, seen: Observed | None) -> Recorded:
        handle = dict(seen.handle) if seen else {}
        target = self.provider.target().document()
        return Recorded(
            order.identity.address, "docker", "docker", target, 1, order.identity.run_id, order.name, order.objects,
            order.settings, Status.RUNNING if seen else Status.CREATING, handle=handle,
        )  # fmt: skip

    def containers(self, order: Order) -> list[dict[str, Any]]:
        wanted = {"label": f"dev.flowplan.run-id={order.identity.run_id}"}
        return [self.api.inspect_container(c["Id"]) for c in self.api.containers(all=True, filters=wanted)]

    def starts(self, order: Order) -> int:
        path = self.directory / "starts"
        return path.read_text().split().count(order.identity.run_id) if path.exists() else 0

    def clear(self) -> None:
        self.proxy.heal()
        for found in self.api.containers(all=True, filters={"label": f"dev.flowplan.lineage={self.lineage}"}):
            self.api.remove_container(found["Id"], force=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("w"))
    for network in made.networks:
        made.api.create_network(network)
    yield made
    made.clear()
    for network in made.networks:
        made.api.remove_network(network)
    made.provider.close()
    made.proxy.close()
    made.api.close()


Play = Callable[[World, Callable[[], None]], None]


def tried(action: Callable[[], object]) -> None:
    """Do it; that its outcome is unknown is the one thing that may be said besides that it was done."""
    with contextlib.suppress(EngineUnreachable):
        action()


def created(world: World, fault: Callable[[], None], **fields: Any) -> None:
    order = world.order(**fields)
    fault()
    tried(lambda: world.provider.create(order))
    world.proxy.heal()
    seen = world.provider.create(order)
    [found] = world.containers(order)
    assert found["State"]["Running"] and seen.handle["id"] == found["Id"]
    assert set(found["NetworkSettings"]["Networks"]) >= set(order.objects["Container"]["Networks"])
    world.provider.delete(world.record(order, seen), 0)
    assert world.starts(order) <= 1 and not world.containers(order)


def pulled(world: World, fault: Callable[[], None], policy: str) -> None:
    """Return a pull that the Engine finished although its answer did not arrive."""
    login = {"registry_credentials": LOGIN}
    with contextlib.suppress(docker.errors.ImageNotFound):
        world.api.remove_image(world.pulled)
    created(world, fault, image=world.pulled, image_pull_policy=policy, docker=login)


def connected(world: World, fault: Callable[[], None]) -> None:
    created(world, fault, docker={"network_mode": None, "networks": world.networks})


def deleted(world: World, fault: Callable[[], None], *, paused: bool = False) -> None:
    order = world.order()
    record = world.record(order, world.provider.create(order))
    if paused:
        world.api.pause(record.handle["id"])
    fault()
    tried(lambda: world.provider.delete(record, 0.2))
    world.proxy.heal()
    world.provider.delete(record, 0.2)
    assert not world.containers(order)


def updated(world: World, fault: Callable[[], None], path: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    order = world.order(**before)
    seen = world.provider.create(order)
    record, wanted = world.record(order, seen), world.order(**after)
    fields = [FieldChange(path, None, None, "in_place", "")]
    fault()
    tried(lambda: world.provider.update(record, wanted, fields))
    world.proxy.heal()
    world.provider.update(record, wanted, fields)
    [found] = world.containers(order)
    asked = wanted.objects["Container"]
    assert found["Name"] == f"/{asked['Name']}" and found["State"]["Running"]
    assert found["HostConfig"]["Memory"] == asked["Config"]["HostConfig"].get("Memory", 0)
    assert not asked["Networks"] or set(found["NetworkSettings"]["Networks"]) == set(asked["Networks"])
    world.provider.delete(record, 0)


def limited(world: World, fault: Callable[[], None]) -> None:
    path = "/Container/Config/HostConfig/Memory"
    updated(world, fault, path, {"resources": {"memory": "32Mi"}}, {"resources": {"memory": "64Mi"}})


def renamed(world: World, fault: Callable[[], None]) -> None:
    updated(world, fault, "/Container/Name", {}, {"name": f"fp-answers-{world.lineage[:8]}-{world.number}"})


def moved(world: World, fault: Callable[[], None], *, out: bool) -> None:
    both, one = [{"docker": {"network_mode": None, "networks": world.networks[:count]}} for count in (2, 1)]
    updated(world, fault, "/Container/Networks", *((both, one) if out else (one, both)))


WRITES: dict[str, tuple[str, str, Play]] = {
    "create": ("POST", "/containers/create", created),
    "start": ("POST", "/start", created),
    "connect-new": ("POST", "/connect", connected),
    "update": ("POST", "/update", limited),
    "rename": ("POST", "/rename", renamed),
    "connect": ("POST", "/connect", lambda world, fault: moved(world, fault, out=False)),
    "disconnect": ("POST", "/disconnect", lambda world, fault: moved(world, fault, out=True)),
    "unpause": ("POST", "/unpause", lambda world, fault: deleted(world, fault, paused=True)),
    "stop": ("POST", "/stop", deleted),
    "delete": ("DELETE", "/containers/", deleted),
    "pull": ("POST", "/images/create", partial(pulled, policy="Always")),
    "pull-missing": ("POST", "/images/create", partial(pulled, policy="IfNotPresent")),
}
PULLS = ("pull", "pull-missing")
MADE = [pytest.param(write, marks=[pytest.mark.registry] if write in PULLS else []) for write in WRITES]
LOGIN = {"username": "robot", "password": "robot-password"}
"""Write -> its method and path, and what makes it and sees that it was made once."""


def play(world: World, write: str, **fault: Any) -> Fault:
    """Make a write whose answer suffers from one fault."""
    method, path, scenario = WRITES[write]
    world.number += 1
    played: list[Fault] = []
    scenario(world, lambda: played.append(world.proxy.play(method=method, path=path, times=1, **fault)))
    assert played[0].hits == 1, f"{write} was never asked"
    return played[0]


@pytest.fixture(scope="module")
def image(world: World) -> Iterator[None]:
    """Return the image that pulls are about, in the registry."""
    world.api.tag("busybox:1.35", *world.pulled.rsplit(":", 1))
    answer = world.api.push(*world.pulled.rsplit(":", 1), auth_config=LOGIN)
    assert "errorDetail" not in answer, answer
    yield
    world.api.remove_image(world.pulled)


def prepared(request: pytest.FixtureRequest, write: str) -> None:
    if write in PULLS:
        request.getfixturevalue("image")


@pytest.mark.parametrize("write", MADE)
def test_an_answer_that_is_cut_at_any_byte(world: World, write: str, request: pytest.FixtureRequest) -> None:
    prepared(request, write)
    said = play(world, write, what="clip", after=1 << 20).said
    header = said.index(b"\r\n\r\n") + 4
    body = {header + (len(said) - header) * part // 4 for part in range(4)} if len(said) > header else set[int]()
    few = {0, len(b"HTTP/1.1 2"), len(b"HTTP/1.1 201"), header // 2, header - 2, len(said) - 1}
    few |= body if write in PULLS else set()
    every = bool(os.environ.get("FLOWPLAN_EXAMPLES"))
    for number, after in enumerate(sorted({*range(header), *body} if every else few)):
        for what in ("clip", "clipend") if every else (("clip", "clipend")[number % 2],):
            play(world, write, what=what, after=after)


@pytest.mark.parametrize("write", MADE)
def test_an_answer_that_is_false(world: World, write: str, request: pytest.FixtureRequest) -> None:
    prepared(request, write)
    for fault in FALSE:
        if write == "pull" and fault.get("body") == ENGINES_OWN:
            continue  # how the Engine says that it could not pull
        play(world, write, **fault)


def test_a_change_that_the_engine_only_claims_is_an_error_or_told(world: World) -> None:
    world.number += 1
    order = world.order(resources={"memory": "32Mi"})
    record, wanted = world.record(order, world.provider.create(order)), world.order(resources={"memory": "64Mi"})
    place = "/Container/Config/HostConfig/Memory"
    fields = [FieldChange(place, None, None, "in_place", "")]
    world.proxy.play("answer", "POST", "/update", status=200, body=b'{"Warnings": null}', times=1)
    with pytest.raises(ProviderError, match=f"changed Memory, which still is {32 << 20}"):
        world.provider.update(record, wanted, fields)
    said = b'{"Warnings": ["Your kernel does not support this. Memory discarded."]}'
    world.proxy.play("answer", "POST", "/update", status=200, body=said, times=1)
    assert world.provider.update(record, wanted, fields).remarks == {
        place: "Your kernel does not support this. Memory discarded."
    }
    assert world.provider.update(record, wanted, fields).remarks == {}
    world.provider.delete(record, 0)
