"""Preflight: what would make ``create`` fail on this Engine, found without changing anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from flowplan.providers import registries
from flowplan.providers.docker import containers, podman
from flowplan.providers.docker.connection import Engine
from flowplan.providers.docker.pulling import Images, never_pulled
from flowplan.providers.protocol import Order
from flowplan.providers.registries import THERE, Answer
from flowplan.schemas.docker_api import api_version, unheard
from flowplan.schemas.files import is_missing
from flowplan.schemas.plans import Finding
from flowplan.schemas.secrets import reveal, tokens_in
from flowplan.schemas.sources import dotted

SMALLEST_MEMORY = 6 << 20
"""Bytes below which the Engine refuses a memory limit."""

_LOOKERS = 8
"""Threads that ask the Engine for images."""

_BUILT_IN_NETWORKS = frozenset({"default", "bridge", "host", "none", "nat"})


class Checks:
    """One preflight: asks for images, networks and containers once for all orders."""

    def __init__(self, engine: Engine, images: Images, lineage: str) -> None:
        self._engine = engine
        self._images = images
        self._lineage = lineage

    def findings(self, orders: Sequence[Order]) -> list[Finding]:
        """Return the findings of all orders, in their order."""
        if not orders:
            return []
        pulls = [_pull(order) for order in orders]
        answers = self._answers(set(pulls))
        networks = self._networks(orders)
        items = self._engine.get("/containers/json", all=1)
        holders = {str(name).lstrip("/"): item for item in items for name in item.get("Names") or []}
        return [
            finding
            for order, pull in zip(orders, pulls, strict=True)
            for finding in (
                *_image(order, pull, answers[pull]),
                *self._network(order, networks, holders),
                *self._name(order, holders),
                *self._paths(order),
                *self._resources(order),
                *self._features(order),
            )
        ]

    def _networks(self, orders: Sequence[Order]) -> set[str]:
        if not any(_network_names(order) for order in orders):
            return set()
        found = self._engine.get("/networks")
        names = {str(network[key]) for network in found for key in ("Name", "Id")}
        return names | {self._engine.network(name) for name in names}

    def _answers(self, pulls: Collection[_Pull]) -> dict[_Pull, Answer]:
        """Return what is known of each image: from the Engine where it has it and need not pull, else from its registry."""
        kept = sorted({pull.image for pull in pulls if pull.policy != "Always"})
        with ThreadPoolExecutor(_LOOKERS, "docker-images") as pool:
            present = {image for image, there in zip(kept, pool.map(self._images.present, kept), strict=True) if there}
        held = {pull: THERE for pull in pulls if pull.policy != "Always" and pull.image in present}
        held |= {pull: Answer("missing") for pull in pulls if pull.policy == "Never" and pull not in held}
        ask = [pull for pull in pulls if pull not in held]
        return held | registries.asked(ask, lambda pull: pull.image, self._asked)

    def _asked(self, pull: _Pull) -> Answer:
        if tokens_in(pull.login):
            return Answer("unknown", "the password of its registry_credentials is not known here")
        return self._images.known(pull.image, json.loads(pull.login))

    def _network(self, order: Order, networks: set[str], holders: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
        for name in _network_names(order):
            if name not in networks:
                yield _error(order, "network", f"network {name} not found", f"`docker network create {name}`")
        mode = str(_host(order).get("NetworkMode", ""))
        other = mode.removeprefix("container:")
        ids = [str(item["Id"]) for item in holders.values()]
        if mode != other and other not in holders and not any(found.startswith(other) for found in ids):
            yield _error(order, "network", f"No such container: {other}", "network_mode names it; start it first")

    def _name(self, order: Order, holders: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
        holder = holders.get(_container(order)["Name"])
        labels = (holder or {}).get("Labels") or {}
        if holder is not None and labels.get(containers.RUN_ID) != order.identity.run_id:
            ours = labels.get(containers.LINEAGE) == self._lineage
            owner = "an earlier run of this project" if ours else "another container"
            message = f'the name "{_container(order)["Name"]}" belongs to {owner} ({str(holder["Id"])[:12]})'
            yield Finding(order.identity.address, "warning", "name", message, "the new one will get a number appended")

    def _paths(self, order: Order) -> Iterator[Finding]:
        if not self._engine.local:
            return
        for bind in _host(order).get("Binds") or []:
            source = str(bind).partition(":")[0]
            if source.startswith("/") and is_missing(source):
                message = f"{source} does not exist on this machine"
                yield Finding(
                    order.identity.address, "warning", "volume", message, "the Engine will create a directory"
                )

    def _resources(self, order: Order) -> Iterator[Finding]:
        host = _host(order)
        if 0 < (host.get("Memory") or SMALLEST_MEMORY) < SMALLEST_MEMORY:
            yield _error(order, "memory", "Minimum memory limit allowed is 6MB", "raise docker.mem_limit")
        info = self._engine.info()
        total, most = info.get("MemTotal") or 0, max(host.get("Memory") or 0, host.get("MemoryReservation") or 0)
        if 0 < total < most:
            message = f"asks for {most / 2**30:.1f} GiB of memory, and the Engine's machine has {total / 2**30:.1f} GiB"
            hint = "it is started, and killed when the machine has no more: lower resources.memory"
            yield Finding(order.identity.address, "warning", "memory", message, hint)
        yield from self._gpus(order, info)
        cpus = info.get("NCPU") or 0
        if cpus and (host.get("NanoCpus") or 0) > cpus * 10**9:
            message = f"Range of CPUs is from 0.01 to {cpus:.2f}, as there are only {cpus} CPUs available"
            yield _error(order, "cpu", message, "lower resources.cpu")

    def _gpus(self, order: Order, info: Mapping[str, Any]) -> Iterator[Finding]:
        """Yield what is known of GPUs: an Engine finds NVIDIA's hook on its PATH, and tells only of its runtimes and CDI."""
        requests = _host(order).get("DeviceRequests") or []
        wanted = any("gpu" in together for one in requests for together in one.get("Capabilities") or [])
        if not wanted or "nvidia" in (info.get("Runtimes") or {}) or info.get("DiscoveredDevices"):
            return
        hint = "install the NVIDIA container toolkit there, or take another Engine"
        if not self._engine.local:
            yield Finding(order.identity.address, "warning", "gpu", "whether this Engine has GPUs is not known", hint)
        elif not shutil.which("nvidia-container-runtime-hook"):
            yield _error(order, "gpu", "asks for GPUs, and the Engine has no driver for them", hint)

    def _features(self, order: Order) -> Iterator[Finding]:
        host = _host(order)
        gateway = any(str(entry).endswith(":host-gateway") for entry in host.get("ExtraHosts") or [])
        if gateway and api_version(self._engine.api_version) < (1, 41):
            version = self._engine.info().get("ServerVersion", "")
            message = f"host.docker.internal could not be resolved: Docker Engine {version} has no host-gateway"
            yield Finding(order.identity.address, "warning", "extra_hosts", message, "needs Engine 20.10")
        for path, why in unheard(_config(order), api_version(self._engine.api_version)):
            spoken = self._engine.api_version
            message = f"{dotted(tuple(path.split('/')[1:]))} {why}; this Engine speaks {spoken} and leaves it out"
            yield Finding(order.identity.address, "warning", "option", message, "use another Engine, or take it out")
        for message in podman.warnings(self._engine.info(), host) if self._engine.podman else ():
            yield Finding(order.identity.address, "warning", "podman", message, "use another Engine, or take it out")
        runtime = host.get("Runtime")
        if runtime and runtime not in (self._engine.info().get("Runtimes") or {}):
            yield _error(order, "runtime", f"Unknown runtime specified {runtime}", "`docker info` lists the runtimes")


class _Pull(NamedTuple):
    """What an answer about an image depends on: ``login`` is the run's credentials as JSON, ``null`` where there are none."""

    image: str
    policy: str
    login: str


def _pull(order: Order) -> _Pull:
    container = _container(order)
    login = reveal(container.get("Registry"), order.secrets)
    return _Pull(_config(order)["Image"], container["PullPolicy"], json.dumps(login, sort_keys=True))


def _image(order: Order, pull: _Pull, answer: Answer) -> Iterator[Finding]:
    if pull.policy == "Never" and answer is not THERE:
        error = never_pulled(pull.image)
        yield _error(order, "image", error.message, error.hint)
    elif found := registries.finding(order.identity.address, pull.image, answer):
        yield found


def _container(order: Order) -> Mapping[str, Any]:
    container: Mapping[str, Any] = order.objects["Container"]
    return container


def _config(order: Order) -> Mapping[str, Any]:
    config: Mapping[str, Any] = _container(order)["Config"]
    return config


def _host(order: Order) -> Mapping[str, Any]:
    host: Mapping[str, Any] = _config(order).get("HostConfig") or {}
    return host


def _network_names(order: Order) -> list[str]:
    """Return the networks that must exist, without those that every Engine has."""
    mode = str(_host(order).get("NetworkMode") or "")
    names = [*_container(order)["Networks"], *([] if ":" in mode else [mode])]
    return sorted({name for name in names if name and name not in _BUILT_IN_NETWORKS})


def _error(order: Order, check: str, message: str, hint: str) -> Finding:
    return Finding(order.identity.address, "error", check, message, hint)
