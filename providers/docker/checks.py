"""Preflight: what would make ``create`` fail on this Engine, found without changing anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flowplan.providers.docker import containers
from flowplan.providers.docker.connection import Engine
from flowplan.providers.docker.pulling import Images
from flowplan.providers.protocol import Order
from flowplan.schemas.docker_api import api_version, unheard
from flowplan.schemas.files import is_missing
from flowplan.schemas.plans import Finding
from flowplan.schemas.sources import dotted

SMALLEST_MEMORY = 6 << 20
"""Bytes below which the Engine refuses a memory limit."""

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
        pinned = {_config(order)["Image"] for order in orders if _container(order)["PullPolicy"] == "Never"}
        absent = {image for image in pinned if not self._images.present(image)}
        networks = self._networks(orders)
        items = self._engine.get("/containers/json", all=1)
        holders = {str(name).lstrip("/"): item for item in items for name in item.get("Names") or []}
        return [
            finding
            for order in orders
            for finding in (
                *self._image(order, absent),
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
        return {str(network[key]) for network in found for key in ("Name", "Id")}

    def _image(self, order: Order, absent: set[str]) -> Iterator[Finding]:
        image = _config(order)["Image"]
        if _container(order)["PullPolicy"] == "Never" and image in absent:
            message = f"image {image} is not present and image_pull_policy is Never"
            yield _error(order, "image", message, "pull or load it on the Engine, or use another policy")

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
        cpus = self._engine.info().get("NCPU") or 0
        if cpus and (host.get("NanoCpus") or 0) > cpus * 10**9:
            message = f"Range of CPUs is from 0.01 to {cpus:.2f}, as there are only {cpus} CPUs available"
            yield _error(order, "cpu", message, "lower resources.cpu")

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
        runtime = host.get("Runtime")
        if runtime and runtime not in (self._engine.info().get("Runtimes") or {}):
            yield _error(order, "runtime", f"Unknown runtime specified {runtime}", "`docker info` lists the runtimes")


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
