"""The pure half of the docker provider: from a run to the body of the Engine's create call, and what its changes take.

``{"Container": {Name, PullPolicy, Networks, Config[, Registry][, Platform]}}``; annotations become labels, which is all
that containers have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from flowplan.planner.manifests import IN_PLACE, REPLACE, Effect, ResolvedRun, with_content
from flowplan.planner.manifests.docker_options import Options
from flowplan.planner.manifests.docker_values import hosts, parse_volume
from flowplan.planner.manifests.names import (
    docker_label_key,
    docker_name,
    docker_run_name,
    environment_label,
    is_docker_name,
)
from flowplan.schemas.docker_api import UNORDERED, UPDATABLE, meaning
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.images import PULL_POLICIES, parse_image
from flowplan.schemas.kinds import Kind
from flowplan.schemas.plans import ABSENT
from flowplan.schemas.pointers import escape
from flowplan.schemas.quantities import cpus, memory, quantity, size
from flowplan.schemas.runs import Identity, Json, Objects, Origin, Rendered
from flowplan.schemas.sources import Diagnostic, Path

VARIABLES = ("/Container/Config/Env",)
CONTENT_LABELS = ("/Container/Config/Labels/dev.flowplan.content",)
_ORDER = """
Name Image PullPolicy Platform Entrypoint Cmd Env WorkingDir User Hostname Domainname Tty OpenStdin StdinOnce
AttachStdin AttachStdout AttachStderr ExposedPorts Volumes Labels Healthcheck StopSignal StopTimeout Config
Memory MemorySwap MemoryReservation NanoCpus CpuShares CpuPeriod CpuQuota CpusetCpus CpusetMems DeviceRequests
RestartPolicy AutoRemove NetworkMode PortBindings Dns ExtraHosts Binds VolumesFrom Type Source Target ReadOnly
Mounts Tmpfs ShmSize LogConfig HostConfig NetworkingConfig Networks
Test Interval Timeout StartPeriod StartInterval Retries
"""
"""Fields of a container: what it runs first, then with what; as in ``docker run`` and most compose files."""
KINDS = {
    "Container": Kind(
        shorter=(("/Container/Config/", ""), ("/Container/", "")),
        name=("/Container/Name",),
        retries="/Container/Config/HostConfig/RestartPolicy/MaximumRetryCount",
        units=(
            ("StopTimeout", "seconds"),
            ("NanoCpus", "nanocpus"),
            *((name, "bytes") for name in ("Memory", "MemorySwap", "MemoryReservation", "KernelMemory")),
            *((name, "bytes") for name in ("ShmSize", "SizeBytes")),
            *((name, "nanoseconds") for name in ("Interval", "Timeout", "StartPeriod", "StartInterval")),
        ),
        order=_ORDER,
    )
}
RETRY_DELAY = "flowplan"
ENGINE = "Docker engine"
EXAMPLE = """\
  hello:
    provider: docker
    image: busybox:1.35
    command: [echo, "${var.greeting}"]
"""

_REMOVABLE = frozenset({"PidsLimit", "RestartPolicy"})
SHORTEST_NAME = 2
"""Characters of a container's name."""
_GATEWAY_HOST = "host.docker.internal"
_HOST = ("Config", "HostConfig")
_ENDPOINTS = ("Config", "NetworkingConfig", "EndpointsConfig")


@dataclass
class _Build:
    """A container in the making, with the origin of every field and every fault found on the way."""

    run: ResolvedRun
    container: dict[str, Any] = field(default_factory=lambda: {"Config": {"HostConfig": {}}})
    origins: dict[str, Origin] = field(default_factory=dict)
    faults: list[Diagnostic] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def put(self, place: tuple[str, ...], value: Json, *source: str | int) -> None:
        """Set one field of the container; ``source`` is the path in the run's fields that it comes from."""
        inner = self.container
        for key in place[:-1]:
            inner = inner.setdefault(key, {})
        inner[place[-1]] = value
        if source:
            self.origins["/Container/" + "/".join(escape(key) for key in place)] = self.run.origin(*source)

    def fault(self, path: Path, message: str, hint: str = "") -> None:
        self.faults.append(self.run.fault(path, message, hint))

    def attempt(self, path: Path, parse: Callable[[], Json]) -> Json:
        """Return what ``parse`` returns, or None and note a fault at ``path`` when it raises ValueError."""
        try:
            return parse()
        except ValueError as error:
            self.fault(path, str(error))
            return None

    def docker(self, name: str) -> Json:
        return (self.run.fields.get("docker") or {}).get(name)


def check(run: ResolvedRun) -> list[Diagnostic]:
    """Return every fault of the run that can be seen without an engine."""
    build = _built(run)
    run.drafts[:] = [build]
    return build.faults


def render(run: ResolvedRun, identity: Identity) -> Rendered:
    """Return the container of one attempt, complete.

    Raises:
        InvalidInput: when ``check`` finds faults.
    """
    build: _Build = run.drafts.pop() if run.drafts else _built(run)
    if build.faults:
        raise InvalidInput(build.faults)
    name = docker_run_name(identity, run.fields.get("name"))
    build.put(("Name",), name, *(("name",) if run.fields.get("name") else ()))
    _identify(build, identity)
    container = build.container
    for unset in [key for key, value in container["Config"].items() if value == {}]:
        del container["Config"][unset]
    order = ("Name", "PullPolicy", "Registry", "Platform", "Networks", "Config")
    container = {key: container[key] for key in order if key in container}
    objects = with_content({"Container": container}, CONTENT_LABELS)
    return Rendered(objects, name, identity.run_id, identity.attempt, build.origins, tuple(build.warnings))


def effect(path: str, before: Json, after: Json) -> Effect:
    """Return what changing the field takes on a live container, by the rules of docker update, rename and network connect."""
    parts = path.split("/")[1:]
    if parts[:1] == ["Container"] and len(parts) > 1:
        if parts[1] == "Name":
            return Effect(IN_PLACE, "docker rename changes it on the live container")
        if parts[1] in ("PullPolicy", "Registry"):
            return Effect(IN_PLACE, "used only when the image is pulled")
        if parts[1] == "Networks":
            return Effect(IN_PLACE, "docker network connect and disconnect change it on the live container")
        if parts[1:3] == list(_HOST) and len(parts) > 3 and parts[3] in UPDATABLE:
            if (after is None or after is ABSENT) and parts[3] not in _REMOVABLE:
                return Effect(REPLACE, f"docker update cannot take {parts[3]} away from a container that has it")
            return Effect(IN_PLACE, "docker update changes it on the live container")
    return Effect(REPLACE, _replace_rule(parts))


def comparable(applied: Objects) -> Objects:
    """Return what can drift on a live container: its name, its networks, and what ``docker update`` can change."""
    container = applied.get("Container", {})
    host = container.get("Config", {}).get("HostConfig", {})
    drifting: dict[str, Any] = {"Name": container.get("Name")}
    if container.get("Networks"):
        drifting["Networks"] = list(container["Networks"])
    resources = {key: value for key, value in host.items() if key in UPDATABLE}
    if resources:
        drifting["Config"] = {"HostConfig": resources}
    return {"Container": drifting}


_OF_ENGINE = {
    "CgroupnsMode": ("host", "private"),
    "IpcMode": ("private", "shareable"),
    "LogConfig": (),
    "MaskedPaths": (),
    "NetworkMode": ("default", "bridge"),
    "ReadonlyPaths": (),
    "RestartPolicy": ({"Name": "no", "MaximumRetryCount": 0}, {"Name": "", "MaximumRetryCount": 0}),
    "OomScoreAdj": (),
    "PidsLimit": (-1, 2048),
    "Runtime": (),
    "ShmSize": (64 * 2**20,),
    "Ulimits": (),
}
"""Field of a HostConfig -> what Docker and Podman fill in, () for what depends on how the host is set up."""


def asked(live: Objects) -> Objects:
    """Return what a live container was asked to have of its host; the rest of it may come from its image."""
    host = live["Container"]["Config"]["HostConfig"]
    kept = {
        key: value
        for key, value in host.items()
        if value not in (None, "", [], {}, 0, [0, 0], *_OF_ENGINE.get(key, ()))
        and _OF_ENGINE.get(key) != ()
        and not (key == "MemorySwap" and value == 2 * host.get("Memory", 0))
    }
    return {"Container": {"Config": {"HostConfig": kept}}}


def equal(path: str, one: Json, other: Json) -> bool:
    """Return whether the engine treats both values alike: no limit however written, lists whose order means nothing."""
    name = path.rpartition("/")[2]
    if path == f"/Container/Config/HostConfig/{name}" and name in UPDATABLE:
        one, other = (None if value is ABSENT else value for value in (one, other))
        return bool(meaning(name, one) == meaning(name, other))
    if isinstance(one, list) and isinstance(other, list) and name in UNORDERED:
        return bool(meaning(name, one) == meaning(name, other))
    return bool(one == other)


def _replace_rule(parts: list[str]) -> str:
    named = [part for part in parts[1:] if part not in ("Config", "HostConfig") and not part.isdigit()]
    subject = {"Env": "environment", "Cmd": "command", "Binds": "mounts"}.get(named[0], named[0]) if named else "kind"
    return f"the Engine fixes a container's {subject} when it is created"


def _built(run: ResolvedRun) -> _Build:
    build = _Build(run)
    for step in (_name, _image, _command, _env, _labels, _resources, _volumes, _networks, _switches, _options):
        step(build)
    return build


def _name(build: _Build) -> None:
    """Refuse a name of one character, as the Engine does; warn of another that has to be made legal."""
    given = build.run.fields.get("name")
    if not given or is_docker_name(given):
        return
    legal = docker_name(given)
    if len(legal) < SHORTEST_NAME:
        build.fault(
            ("name",), f'"{given}" is not a name of a container', "the Engine wants two letters or digits, or more"
        )
    else:
        build.warnings.append(f'"{given}" is not a name that the Engine takes; the container is called {legal}')


def _image(build: _Build) -> None:
    fields = build.run.fields
    image, policy = fields.get("image"), fields.get("image_pull_policy")
    if policy is not None and policy not in PULL_POLICIES:
        build.fault(("image_pull_policy",), f'"{policy}" is not a pull policy', "one of " + ", ".join(PULL_POLICIES))
    if not image:
        build.fault(("image",) if "image" in fields else (), "image is missing", "every container needs an image")
        return
    try:
        reference = parse_image(str(image))
    except InvalidInput as error:
        build.fault(("image",), error.diagnostics[0].message, error.diagnostics[0].hint)
        return
    if reference.digest_is_short:
        build.warnings.append(f"the digest of {image} is too short; the engine will refuse it")
    build.put(("PullPolicy",), policy or reference.pull_policy, *(("image_pull_policy",) if policy else ()))
    build.put(("Config", "Image"), str(image), "image")
    _registry(build)


def _registry(build: _Build) -> None:
    """Put in the credentials of the registry, which are used only for a pull."""
    given = build.docker("registry_credentials")
    if not given:
        return
    for name in ("username", "password"):
        if not given.get(name):
            build.fault(("docker", "registry_credentials"), f"{name} is missing")
    document = {
        "Username": given.get("username"),
        "Password": given.get("password"),
        "URL": given.get("registry_url") or "",
        "Reauth": given.get("reauth") is not False,
    }
    build.put(("Registry",), document, "docker", "registry_credentials")


def _command(build: _Build) -> None:
    fields = build.run.fields
    entrypoint, command = fields.get("entrypoint"), fields.get("command")
    if command is not None and not command and not entrypoint:
        build.fault(("command",), "command is empty", "leave it out to run the image's own command")
    if entrypoint is not None:
        build.put(("Config", "Entrypoint"), list(entrypoint) or [""], "entrypoint")
    if command:
        build.put(("Config", "Cmd"), list(command), "command")
    directory = fields.get("working_dir")
    if directory:
        if not str(directory).startswith(("/", "(sensitive ")) and str(directory)[1:3] != ":\\":
            build.fault(("working_dir",), f'"{directory}" must be an absolute path in the container')
        build.put(("Config", "WorkingDir"), directory, "working_dir")


def _env(build: _Build) -> None:
    """Put in the variables, sorted; a name without ``=`` takes a variable of the image away."""
    entries = []
    for name, value in (build.run.fields.get("env") or {}).items():
        if not name or "=" in name or "\0" in name:
            build.fault(("env", name), f'"{name}" is not a name of a variable')
        elif isinstance(value, Mapping):
            kind = next(iter(value), "")
            build.fault(
                ("env", name), f"{kind} is a reference that only Kubernetes resolves", "use from_env or from_file"
            )
        else:
            entries.append(name if value is None else f"{name}={value}")
    if entries:
        build.put(("Config", "Env"), sorted(entries), "env")
        for index, entry in enumerate(sorted(entries)):
            pointer = f"/Container/Config/Env/{index}"
            build.origins[pointer] = build.run.origin("env", entry.partition("=")[0])


def _labels(build: _Build) -> None:
    """Put in labels and annotations as labels with Docker's keys; labels win."""
    for kind in ("annotations", "labels"):
        for key, value in (build.run.fields.get(kind) or {}).items():
            if key.startswith("flowplan.dev/") or docker_label_key(key).startswith("dev.flowplan."):
                build.fault((kind, key), f'"{key}" is one of flowplan\'s own keys')
            elif value is not None:
                build.put(("Config", "Labels", docker_label_key(key)), str(value), kind, key)


def _identify(build: _Build, identity: Identity) -> None:
    labels = {
        "flowplan.dev/project": identity.project,
        **environment_label(identity),
        "flowplan.dev/run-id": identity.run_id,
        "flowplan.dev/lineage": identity.lineage,
        "flowplan.dev/address": identity.address,
        "flowplan.dev/attempt": str(identity.attempt),
        "app.kubernetes.io/managed-by": "flowplan",
    }
    own = build.container["Config"].setdefault("Labels", {})
    own.update({docker_label_key(key): value for key, value in labels.items()})


def _resources(build: _Build) -> None:
    resources = build.run.fields.get("resources") or {}
    wanted, limit = resources.get("memory"), build.docker("mem_limit")
    if wanted is not None and limit is not None:
        build.fault(("docker", "mem_limit"), "mem_limit and resources.memory are both set", "keep one of them")
    amount: int | None = None
    if limit is not None:
        amount = build.attempt(("docker", "mem_limit"), lambda: size(limit))
        build.put((*_HOST, "Memory"), amount, "docker", "mem_limit")
    elif wanted is not None:
        amount = build.attempt(("resources", "memory"), lambda: memory(wanted))
        build.put((*_HOST, "Memory"), amount, "resources", "memory")
    _swap(build, amount)
    if resources.get("cpu") is not None:
        amount = build.attempt(("resources", "cpu"), lambda: cpus(resources["cpu"]))
        build.put((*_HOST, "NanoCpus"), amount, "resources", "cpu")
    if resources.get("gpu") is not None:
        _gpu(build, resources["gpu"])


def _swap(build: _Build, memory: int | None) -> None:
    """Put in the sum of memory and swap, which needs a memory limit and is not below it; -1 is without limit."""
    limit = build.docker("memswap_limit")
    if limit is None:
        return
    path = ("docker", "memswap_limit")
    swap = -1 if str(limit) == "-1" else build.attempt(path, lambda: size(limit))
    if swap is not None and swap > 0 and memory is None:
        build.fault(path, "memswap_limit needs mem_limit", "it is the sum of memory and swap")
    elif swap is not None and memory is not None and 0 < swap < memory:
        build.fault(path, "memswap_limit is below mem_limit", "it is the sum of memory and swap")
    build.put((*_HOST, "MemorySwap"), swap, *path)


def _gpu(build: _Build, wanted: Json) -> None:
    """Ask for GPUs as ``docker run --gpus`` does: a number of devices, or -1 for all."""
    try:
        count = Decimal(-1) if wanted == "all" else quantity(wanted)
    except ValueError:
        count = Decimal("NaN")
    if not count.is_finite() or count != count.to_integral_value():
        build.fault(("resources", "gpu"), f'"{wanted}" is not a number of GPUs', 'write a whole number or "all"')
    elif count:
        request = {"Driver": "", "Count": int(count), "Capabilities": [["gpu"]]}
        build.put((*_HOST, "DeviceRequests"), [request], "resources", "gpu")


def _volumes(build: _Build) -> None:
    binds: list[str] = []
    targets: set[str] = set()
    for index, text in enumerate(build.docker("volumes") or []):
        path = ("docker", "volumes", index)
        volume = build.attempt(path, lambda text=text: parse_volume(str(text), build.run.spec_dir))  # type: ignore[misc]
        if volume is None:
            continue
        if volume.target in targets:
            build.fault(path, f'"{volume.target}" is mounted twice')
        targets.add(volume.target)
        if volume.remark:
            build.warnings.append(f"{text}: {volume.remark}; the engine will refuse it")
        if volume.bind:
            build.origins[f"/Container/Config/HostConfig/Binds/{len(binds)}"] = build.run.origin(*path)
            binds.append(volume.bind)
        else:
            build.put(("Config", "Volumes", volume.target), {}, *path)
    if binds:
        build.put((*_HOST, "Binds"), binds, "docker", "volumes")


def _networks(build: _Build) -> None:
    """Put in the networks; ``NetworkMode`` is never inferred."""
    networks, mode = [str(name) for name in build.docker("networks") or []], build.docker("network_mode")
    if networks and mode:
        build.fault(("docker", "network_mode"), "network_mode and networks exclude each other", "keep one of them")
    if len(set(networks)) < len(networks):
        build.fault(("docker", "networks"), "a network is named twice")
    build.put(("Networks",), networks, *(("docker", "networks") if networks else ()))
    if networks:
        build.put((*_HOST, "NetworkMode"), networks[0], "docker", "networks", 0)
        build.put(("Config", "NetworkingConfig", "EndpointsConfig", networks[0]), {}, "docker", "networks", 0)
    elif mode:
        build.put((*_HOST, "NetworkMode"), str(mode), "docker", "network_mode")
    _hosts(build, str(mode or ""))


def _hosts(build: _Build, mode: str) -> None:
    """Put in names of hosts; ``host.docker.internal`` is the host wherever the container has a network of its own."""
    given = build.docker("extra_hosts")
    table = build.attempt(("docker", "extra_hosts"), lambda: hosts(given or {}))
    if table is None:
        return
    shared = mode in ("host", "none") or mode.startswith("container:")
    if not shared and _GATEWAY_HOST not in table:
        table[_GATEWAY_HOST] = "host-gateway"
    if table:
        entries = sorted(f"{host}:{address}" for host, address in table.items())
        build.put((*_HOST, "ExtraHosts"), entries, *(("docker", "extra_hosts") if given else ()))


def _switches(build: _Build) -> None:
    retries = build.run.fields.get("retries")
    if build.docker("privileged") is not None:
        build.put((*_HOST, "Privileged"), bool(build.docker("privileged")), "docker", "privileged")
    if build.docker("auto_remove") is not None:
        build.put((*_HOST, "AutoRemove"), bool(build.docker("auto_remove")), "docker", "auto_remove")
    if retries:
        if build.docker("auto_remove"):
            build.fault(("docker", "auto_remove"), "auto_remove and retries exclude each other", "keep one of them")
        if build.run.fields.get("retry_delay") is None:  # else flowplan starts it again: the Engine knows no such wait
            build.put((*_HOST, "RestartPolicy"), {"Name": "on-failure", "MaximumRetryCount": int(retries)}, "retries")


def _options(build: _Build) -> None:
    base: Path = ("docker", "create_options")
    options = Options(build.docker("create_options") or {}, build.run.spec_dir)
    for fault in options.faults:
        build.fault((*base, *fault.path), fault.message, fault.hint)
    for place, (value, path) in options.placed.items():
        if place[:-1] == _ENDPOINTS:
            _endpoint(build, place, value, (*base, *path))
        else:
            _option(build, place, value, (*base, *path))
    for inner, path in options.origins.items():
        pointer = "/Container/" + "/".join(escape(str(key)) for key in inner)
        build.origins.setdefault(pointer, build.run.origin(*base, *path))


def _option(build: _Build, place: tuple[str, ...], value: Json, path: Path) -> None:
    pointer = "/Container/" + "/".join(place)
    if pointer in build.origins:
        build.fault(path, f"{place[-1]} is set twice", "another field or option sets it too")
        return
    if place[-1] in ("CpuQuota", "CpuPeriod") and "NanoCpus" in build.container["Config"]["HostConfig"]:
        build.fault(path, f"{place[-1]} and resources.cpu exclude each other", "keep one of them")
    build.put(place, value, *path)


def _endpoint(build: _Build, place: tuple[str, ...], value: Json, path: Path) -> None:
    """Put in the settings of the container in one of its networks; without networks it is in the default one."""
    host = build.container["Config"]["HostConfig"]
    networks = build.container["Networks"] or [str(host.get("NetworkMode", "bridge"))]
    if place[-1] not in networks:
        build.fault(path, f"the run does not join the network {place[-1]}", "list it in docker.networks")
        return
    build.put(place, value, *path)
