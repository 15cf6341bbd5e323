"""``docker.create_options``: from the spellings of docker-py, compose and the Engine to the body of its create call."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flowplan.planner.manifests.docker_values import OPTIONS
from flowplan.planner.manifests.docker_words import FLAGS, OWNED, must_be, scalar
from flowplan.schemas import docker_api as api
from flowplan.schemas.docker_api import Field, Items, Members, Named, Scalar, Shape, Texts
from flowplan.schemas.fields import kind_of
from flowplan.schemas.runs import Json
from flowplan.schemas.sources import Path, did_you_mean

Place = tuple[str, ...]
"""Where a value is in the container: ("Config", "User"), ("Config", "HostConfig", "ShmSize"), ("Platform",)."""

_HOST: Place = ("Config", "HostConfig")
_ENDPOINTS: Place = ("Config", "NetworkingConfig", "EndpointsConfig")
_COMPOSE_GROUPS = {
    "blkio_config": {"weight": "blkio_weight", "weight_device": "blkio_weight_device"}
    | {name: name for name in ("device_read_bps", "device_write_bps", "device_read_iops", "device_write_iops")}
}
"""Mappings of compose files whose members are fields of their own here."""


class Fault(NamedTuple):
    """What is wrong at a path inside ``create_options``."""

    path: Path
    message: str
    hint: str = ""


class Options:
    """The options of one run, converted.

    Attributes:
        placed: place in the container -> value, and the path inside ``create_options`` that it comes from.
        origins: place of a member further down -> path inside ``create_options``.
        faults: everything that is wrong with them.
    """

    def __init__(self, given: Mapping[str, Json], directory: str) -> None:
        self.placed: dict[Place, tuple[Json, Path]] = {}
        self.origins: dict[tuple[str | int, ...], Path] = {}
        self.faults: list[Fault] = []
        self._directory = directory
        for name, value in given.items():
            if value is not None:
                self._option(name, value, (name,))

    def _option(
        self, name: str, value: Json, path: Path, known: Mapping[str, tuple[Place, Field]] | None = None
    ) -> None:
        if name in ("HostConfig", "host_config") and known is None:
            for inner, item in self._mapping(value, path).items():
                self._option(inner, item, (*path, inner), _IN_HOST_CONFIG)
        elif name in ("NetworkingConfig", "networking_config"):
            self._endpoints(value, path)
        elif name in _COMPOSE_GROUPS:
            for inner, item in self._mapping(value, path).items():
                self._option(_COMPOSE_GROUPS[name].get(inner, inner), item, (*path, inner))
        elif (found := (known or _EVERYWHERE).get(name)) is None:
            self.faults.append(_unknown(name, path, known or _EVERYWHERE))
        else:
            place, field = found
            self._put(place, self._member(place[-1], field, value, path, place), path)

    def _put(self, place: Place, value: Json, path: Path) -> None:
        if value is None:
            return
        if place in self.placed and place[-1] != "ExposedPorts":
            self.faults.append(Fault(path, f"{place[-1]} is set twice", "keep one of the two spellings"))
            return
        earlier = self.placed[place][0] if place in self.placed else {}
        self.placed[place] = ({**earlier, **value} if earlier else value, path)
        if place[-1] == "PortBindings":
            self._put(("Config", "ExposedPorts"), {port: {} for port in value}, path)

    def _endpoints(self, value: Json, path: Path) -> None:
        """Take the Engine's ``EndpointsConfig``, or docker-py's mapping of networks without that level."""
        given = self._mapping(value, path)
        if "EndpointsConfig" in given:
            for name in given.keys() - {"EndpointsConfig"}:
                self.faults.append(Fault((*path, name), "unknown option", "only EndpointsConfig can stand beside it"))
            path = (*path, "EndpointsConfig")
        for network, settings in self._mapping(given.get("EndpointsConfig", given), path).items():
            place = (*_ENDPOINTS, network)
            self._put(place, self._shape(api.ENDPOINT, settings or {}, (*path, network), place), (*path, network))

    def _mapping(self, value: Json, path: Path) -> Mapping[str, Json]:
        if isinstance(value, Mapping):
            return value
        self.faults.append(Fault(path, f"must be a mapping, not {kind_of(value)}"))
        return {}

    # -- the shapes of the API; each returns None where there is a fault

    def _member(self, name: str, field: Field, value: Json, path: Path, place: tuple[str | int, ...]) -> Json:
        try:
            value = _RESHAPED[name](value) if name in _RESHAPED else value
        except ValueError as error:
            self.faults.append(Fault(path, str(error)))
            return None
        self.origins[place] = path
        return self._shape(field.shape, value, path, place)

    def _shape(self, shape: Shape, value: Json, path: Path, place: tuple[str | int, ...]) -> Json:
        try:
            if isinstance(shape, Scalar):
                return scalar(shape, value)
            if isinstance(shape, Items):
                return self._items(shape, value, path, place)
            if isinstance(shape, Texts):
                return self._texts(shape, value, path)
            if isinstance(shape, Named):
                pairs = self._mapping(value, path).items()
                return {str(k): self._shape(shape.of, v, (*path, k), (*place, k)) for k, v in pairs}
            return self._members(shape, value, path, place)
        except ValueError as error:
            self.faults.append(Fault(path, str(error)))
            return None

    def _items(self, shape: Items, value: Json, path: Path, place: tuple[str | int, ...]) -> Json:
        given = [value] if shape.alone and not isinstance(value, list) else value
        if not isinstance(given, list):
            raise must_be("a list", value)
        return [self._shape(shape.of, item, (*path, n), (*place, n)) for n, item in enumerate(given)]

    def _texts(self, shape: Texts, value: Json, path: Path) -> Json:
        optional = shape.sign == ":"
        given = [value] if optional and isinstance(value, str) else value
        if isinstance(given, list):
            bad = [item for item in given if not isinstance(item, str) or not (optional or shape.sign in item)]
            if bad:
                raise ValueError(f"{kind_of(bad[0])} must be written as name{shape.sign}value")
            given = dict(item.partition(shape.sign)[::2] for item in given)
        pairs = self._mapping(given, path).items()
        return {str(key): "" if item is None else self._text(item, (*path, key)) for key, item in pairs}

    def _text(self, value: Json, path: Path) -> Json:
        """Return a text of a mapping, where true and false may be written as such (``icc: true``)."""
        return str(value).lower() if isinstance(value, bool) else self._shape(api.TEXT, value, path, ())

    def _members(self, shape: Members, value: Json, path: Path, place: tuple[str | int, ...]) -> Json:
        if isinstance(value, str) and shape.name in _SHORT:
            value = _SHORT[shape.name](value)
        if not isinstance(value, Mapping):
            raise must_be("a mapping", value)
        known, result, before = _known(shape), dict[str, Any](), len(self.faults)
        for key, item in value.items():
            if item is None:
                continue
            if key not in known:
                near = did_you_mean(str(key), known) or f"{shape.name} takes {', '.join(shape.fields) or 'nothing'}"
                self.faults.append(Fault((*path, key), f'unknown member "{key}" of {shape.name}', near))
                continue
            steps, field = known[key]
            converted = self._member(steps[-1], field, item, (*path, key), (*place, *steps))
            holder = result.setdefault(steps[0], {}) if len(steps) > 1 else result
            if isinstance(earlier := holder.get(steps[-1]), dict) and isinstance(converted, dict):
                converted = {**earlier, **converted}
            elif earlier is not None:
                self.faults.append(Fault((*path, key), f"{steps[-1]} is set twice", "keep one of the two spellings"))
            holder[steps[-1]] = converted
        if shape.name == "Mounts" and len(self.faults) == before:
            return _mount(result, self._directory)
        return _COMPLETED[shape.name](result) if shape.name in _COMPLETED and len(self.faults) == before else result


def _known(shape: Members) -> dict[str, tuple[tuple[str, ...], Field]]:
    """Return every spelling of the members -> where it goes."""
    known: dict[str, tuple[tuple[str, ...], Field]] = {}
    for key, field in shape.fields.items():
        known |= dict.fromkeys((key, *field.names.split()), ((key,), field))
    for flat, target in shape.inner.items():
        first, second = target.split(".")
        known[flat] = ((first, second), shape.fields[first].shape.fields[second])
    return known


def _everywhere(fields: Mapping[str, Field], place: Place) -> dict[str, tuple[Place, Field]]:
    return {
        name: ((*place, key), field) for key, field in fields.items() for name in (key, *field.names.split()) if name
    }


_IN_HOST_CONFIG = _everywhere(api.HOST_CONFIG, _HOST)
_EVERYWHERE = (
    _IN_HOST_CONFIG | _everywhere(api.CONFIG, ("Config",)) | _everywhere({"Platform": Field(api.TEXT, "platform")}, ())
)


def _unknown(name: str, path: Path, known: Mapping[str, Any]) -> Fault:
    if name in OWNED:
        return Fault(path, f'"{name}" is a field of the run', f"use {OWNED[name]}")
    bare = name.lstrip("-").partition("=")[0].replace("-", "_")
    meant = FLAGS.get(bare) or OWNED.get(bare) or next((k for k in (bare, f"{bare}s") if k in known), "")
    if name.startswith("-") or (meant and bare != name):
        hint = f"use {meant}" if meant else "options have the names of the Engine's API, docker-py or compose"
        return Fault(path, f'"{name}" is a flag of the docker command, not an option', hint)
    if meant:
        return Fault(path, f'unknown option "{name}"', f"use {meant}")
    near = did_you_mean(name, [*known, *OWNED]) or "options have the names of the Engine's API, docker-py or compose"
    return Fault(path, f'unknown option "{name}"', near)


# -- values whose whole form differs between the spellings


def _healthcheck(value: Json) -> Json:
    if not isinstance(value, Mapping) or "disable" not in value:
        return value
    if not isinstance(value["disable"], bool):
        raise must_be("a mapping whose disable is true or false", value)
    rest = {key: item for key, item in value.items() if key != "disable"}
    return {"Test": ["NONE"]} if value["disable"] else rest


def _test(value: Json) -> Json:
    if isinstance(value, str):
        return ["CMD-SHELL", value]
    if isinstance(value, list) and value and value[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise ValueError(
            f"begins with {kind_of(value[0])}: write a text, or a list that begins with CMD, CMD-SHELL or NONE"
        )
    return value


def _capabilities(value: Json) -> Json:
    """Return a list of lists, of which one must be met; a flat list is one of them."""
    flat = [value] if isinstance(value, str) else value
    return [flat] if isinstance(flat, list) and flat and all(isinstance(one, str) for one in flat) else flat


def _ulimits(value: Json) -> Json:
    if not isinstance(value, Mapping):
        return value
    return [{"Name": k, **v} if isinstance(v, Mapping) else {"Name": k, "Soft": v} for k, v in value.items()]


def _links(value: Json) -> Json:
    return [f"{name}:{alias or name}" for name, alias in value.items()] if isinstance(value, Mapping) else value


def _exposed(value: Json) -> Json:
    if not isinstance(value, Mapping | list):
        raise must_be("a list or a mapping of ports", value)
    return {port: {} for text in value for port in _ports_of(str(text))}


def _ports_of(text: str) -> list[str]:
    """Return ``80``, ``80/udp`` or ``80-82/tcp`` as the Engine's ports."""
    numbers, _, protocol = text.partition("/")
    if protocol not in ("", "tcp", "udp", "sctp"):
        raise ValueError(f'"{text}" is not a port: the protocol is tcp, udp or sctp')
    return [f"{number}/{protocol or 'tcp'}" for number in _range(numbers, text)]


def _range(numbers: str, text: str) -> list[int]:
    first, _, last = numbers.partition("-")
    if not (first.isdigit() and (last or first).isdigit() and 0 <= int(first) <= int(last or first) <= 65535):
        raise ValueError(f'"{text}" is not a port: write 80, 8080:80 or 127.0.0.1:8080:80/udp')
    return list(range(int(first), int(last or first) + 1))


def _bindings(value: Json) -> Json:
    """Return the Engine's form of docker-py's mapping of ports, compose's list of texts or mappings, or the Engine's own form."""
    if isinstance(value, Mapping):
        return {port: _host_ports(host) for text, host in value.items() for port in _ports_of(str(text))}
    if not isinstance(value, list):
        raise must_be("a list or a mapping of ports", value)
    bound: dict[str, list[Json]] = {}
    for item in value:
        for port, binding in _binding_long(item) if isinstance(item, Mapping) else _binding_short(str(item)):
            bound.setdefault(port, []).append(binding)
    return bound


def _host_ports(host: Json) -> list[Json]:
    if host is None:
        return [{"HostPort": ""}]
    items = host if isinstance(host, list) and not (len(host) == 2 and isinstance(host[0], str)) else [host]
    return [_host_port(item) for item in items]


def _host_port(item: Json) -> Json:
    if isinstance(item, Mapping):
        return item
    address, _, port = (":".join(map(str, item)) if isinstance(item, list) else str(item)).rpartition(":")
    if port:
        _range(port, port)
    return {"HostIp": address, "HostPort": port} if address else {"HostPort": port}


def _binding_short(text: str) -> list[tuple[str, Json]]:
    """Read ``[[address:]published:]target[/protocol]``, with ranges of equal length."""
    published, _, target = text.rpartition(":")
    address, _, published = published.rpartition(":")
    targets = _ports_of(target)
    hosts = [str(number) for number in _range(published, text)] if published else [""] * len(targets)
    if len(hosts) != len(targets):
        raise ValueError(f'"{text}" publishes {len(targets)} ports at {len(hosts)}')
    where = {"HostIp": address.strip("[]")} if address else {}
    return [(port, {**where, "HostPort": host}) for port, host in zip(targets, hosts, strict=True)]


def _binding_long(item: Mapping[str, Json]) -> list[tuple[str, Json]]:
    unknown = sorted(item.keys() - {"target", "published", "host_ip", "protocol", "mode", "name", "app_protocol"})
    if unknown or "target" not in item:
        what = f'unknown member "{unknown[0]}" of a port' if unknown else "a port needs target"
        raise ValueError(f"{what}: write target, published, host_ip, protocol")
    prefix = f"{item['host_ip']}:" if item.get("host_ip") else ""
    published = item.get("published", "")
    return _binding_short(f"{prefix}{published}:{item['target']}/{item.get('protocol', 'tcp')}")


_RESHAPED: dict[str, Callable[[Json], Json]] = {
    "Healthcheck": _healthcheck,
    "Test": _test,
    "Capabilities": _capabilities,
    "Ulimits": _ulimits,
    "Links": _links,
    "ExposedPorts": _exposed,
    "PortBindings": _bindings,
}
"""Fields that the other spellings write in another form, and what makes the Engine's of it."""


# -- objects that may be written as a text


def _short_device(text: str) -> Json:
    """Read ``/dev/a[:/dev/b[:rwm]]``."""
    host, _, rest = text.partition(":")
    if not host.startswith("/"):
        raise ValueError(f'"{text}" is not a device: write /dev/name[:/dev/name[:rwm]]')
    inside, _, permissions = rest.partition(":")
    if not inside.startswith("/"):
        inside, permissions = host, inside or permissions
    return {"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": permissions or "rwm"}


def _short_ulimit(text: str) -> Json:
    """Read ``nofile=1024[:2048]``."""
    name, _, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    if not soft:
        raise ValueError(f'"{text}" is not a limit: write nofile=1024:2048')
    return {"Name": name, "Soft": soft, "Hard": hard or soft}


def _short_rate(text: str) -> Json:
    """Read ``/dev/sda:1mb``, as the docker command takes it."""
    path, _, rate = text.rpartition(":")
    if not path:
        raise ValueError(f'"{text}" is not a rate: write /dev/sda:1mb, or path and rate')
    return {"Path": path, "Rate": rate}


_SHORT: dict[str, Callable[[str], Json]] = {
    "Devices": _short_device,
    "Ulimits": _short_ulimit,
    "rate": _short_rate,
}


# -- what the Engine would refuse or leave out in silence


def _ulimit(found: dict[str, Any]) -> Json:
    if "Name" not in found or not found.keys() & {"Soft", "Hard"}:
        raise ValueError("a limit needs a name and soft or hard")
    soft, hard = found.get("Soft", found.get("Hard", -1)), found.get("Hard", found.get("Soft", -1))
    if hard != -1 and (soft == -1 or soft > hard):
        raise ValueError(f"the soft limit {soft} is above the hard one {hard}")
    return {"Name": found["Name"], "Soft": soft, "Hard": hard}


def _device(found: dict[str, Any]) -> Json:
    if not found.get("PathOnHost"):
        raise ValueError("a device needs its path on the host")
    permissions = found.get("CgroupPermissions", "rwm")
    if not permissions or set(permissions) - set("rwm"):
        raise ValueError(f'"{permissions}" are not permissions of a device: write r, w and m')
    return {"PathInContainer": found["PathOnHost"], **found, "CgroupPermissions": permissions}


def _device_request(found: dict[str, Any]) -> Json:
    if found.get("Count") and found.get("DeviceIDs"):
        raise ValueError("count and device_ids exclude each other")
    return found


def _mount(found: dict[str, Any], directory: str) -> Json:
    kind = found.setdefault("Type", "volume")
    if not found.get("Target"):
        raise ValueError("a mount needs a target, the path in the container")
    for wanted, options in OPTIONS.items():
        if options in found and kind != wanted:
            raise ValueError(f"{options} are for mounts of type {wanted}, this one is of type {kind}")
    source = str(found.get("Source") or "")
    if kind == "tmpfs" and source:
        raise ValueError("a tmpfs has no source")
    if kind in ("bind", "npipe", "image", "cluster") and not source:
        raise ValueError(f"a mount of type {kind} needs a source")
    if kind == "bind" and (source in (".", "..") or source.startswith(("./", "../"))):
        found["Source"] = posixpath.normpath(posixpath.join(directory, source))
    elif kind == "bind" and not source.startswith(("/", "(sensitive ")) and source[1:3] not in (":\\", ":/"):
        raise ValueError(f'"{source}" is not a path of the host: write /path, or ./path beside the spec')
    return found


_COMPLETED: dict[str, Callable[[dict[str, Any]], Json]] = {
    "Ulimits": _ulimit,
    "Devices": _device,
    "DeviceRequests": _device_request,
}
