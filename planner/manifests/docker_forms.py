"""Options of containers that docker-py, compose or the docker command write in another form than the Engine, as the Engine's.

Three tables, by the Engine's name of the field: ``RESHAPED``, values whose whole form differs; ``SHORT``, objects that may be written
as a text; ``COMPLETED``, what is checked and filled in when an object is whole. A value that is wrong raises ValueError with the reason.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from typing import Any

from flowplan.planner.manifests.docker_values import OPTIONS
from flowplan.planner.manifests.docker_words import must_be
from flowplan.schemas.fields import kind_of
from flowplan.schemas.runs import Json

# -- values whose whole form differs between the spellings


def healthcheck(value: Json) -> Json:
    """Read compose's ``disable: true``."""
    if not isinstance(value, Mapping) or "disable" not in value:
        return value
    if not isinstance(value["disable"], bool):
        raise must_be("a mapping whose disable is true or false", value)
    rest = {key: item for key, item in value.items() if key != "disable"}
    return {"Test": ["NONE"]} if value["disable"] else rest


def health_test(value: Json) -> Json:
    """Read the command of a health check, which a text runs in a shell."""
    if isinstance(value, str):
        return ["CMD-SHELL", value]
    if isinstance(value, list) and value and value[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise ValueError(
            f"begins with {kind_of(value[0])}: write a text, or a list that begins with CMD, CMD-SHELL or NONE"
        )
    return value


def capabilities(value: Json) -> Json:
    """Return a list of lists, of which one must be met; a flat list is one of them."""
    flat = [value] if isinstance(value, str) else value
    return [flat] if isinstance(flat, list) and flat and all(isinstance(one, str) for one in flat) else flat


def ulimits(value: Json) -> Json:
    """Read compose's mapping of limits: ``nofile: 1024`` or ``nofile: {soft: 1024, hard: 2048}``."""
    if not isinstance(value, Mapping):
        return value
    return [{"Name": k, **v} if isinstance(v, Mapping) else {"Name": k, "Soft": v} for k, v in value.items()]


def links(value: Json) -> Json:
    """Read docker-py's mapping of containers to aliases."""
    return [f"{name}:{alias or name}" for name, alias in value.items()] if isinstance(value, Mapping) else value


def exposed(value: Json) -> Json:
    """Read a list or a mapping of ports, with ranges."""
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


def bindings(value: Json) -> Json:
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


RESHAPED: dict[str, Callable[[Json], Json]] = {
    "Healthcheck": healthcheck,
    "Test": health_test,
    "Capabilities": capabilities,
    "Ulimits": ulimits,
    "Links": links,
    "ExposedPorts": exposed,
    "PortBindings": bindings,
}
"""Fields that the other spellings write in another form, and what makes the Engine's of it."""


# -- objects that may be written as a text


def short_device(text: str) -> Json:
    """Read ``/dev/a[:/dev/b[:rwm]]``."""
    host, _, rest = text.partition(":")
    if not host.startswith("/"):
        raise ValueError(f'"{text}" is not a device: write /dev/name[:/dev/name[:rwm]]')
    inside, _, permissions = rest.partition(":")
    if not inside.startswith("/"):
        inside, permissions = host, inside or permissions
    return {"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": permissions or "rwm"}


def short_ulimit(text: str) -> Json:
    """Read ``nofile=1024[:2048]``."""
    name, _, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    if not soft:
        raise ValueError(f'"{text}" is not a limit: write nofile=1024:2048')
    return {"Name": name, "Soft": soft, "Hard": hard or soft}


def short_rate(text: str) -> Json:
    """Read ``/dev/sda:1mb``, as the docker command takes it."""
    path, _, rate = text.rpartition(":")
    if not path:
        raise ValueError(f'"{text}" is not a rate: write /dev/sda:1mb, or path and rate')
    return {"Path": path, "Rate": rate}


SHORT: dict[str, Callable[[str], Json]] = {
    "Devices": short_device,
    "Ulimits": short_ulimit,
    "rate": short_rate,
}


# -- what the Engine would refuse or leave out in silence


def ulimit(found: dict[str, Any]) -> Json:
    """Fill in the one of the soft and the hard limit that is missing."""
    if "Name" not in found or not found.keys() & {"Soft", "Hard"}:
        raise ValueError("a limit needs a name and soft or hard")
    soft, hard = found.get("Soft", found.get("Hard", -1)), found.get("Hard", found.get("Soft", -1))
    if hard != -1 and (soft == -1 or soft > hard):
        raise ValueError(f"the soft limit {soft} is above the hard one {hard}")
    return {"Name": found["Name"], "Soft": soft, "Hard": hard}


def device(found: dict[str, Any]) -> Json:
    """Fill in the path in the container and the permissions of a device."""
    if not found.get("PathOnHost"):
        raise ValueError("a device needs its path on the host")
    permissions = found.get("CgroupPermissions", "rwm")
    if not permissions or set(permissions) - set("rwm"):
        raise ValueError(f'"{permissions}" are not permissions of a device: write r, w and m')
    return {"PathInContainer": found["PathOnHost"], **found, "CgroupPermissions": permissions}


def device_request(found: dict[str, Any]) -> Json:
    """Refuse a number of devices together with their ids."""
    if found.get("Count") and found.get("DeviceIDs"):
        raise ValueError("count and device_ids exclude each other")
    return found


def mount(found: dict[str, Any], directory: str) -> Json:
    """Fill in the type of a mount, and make a source beside the spec absolute; refuse what does not fit the type."""
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


COMPLETED: dict[str, Callable[[dict[str, Any]], Json]] = {
    "Ulimits": ulimit,
    "Devices": device,
    "DeviceRequests": device_request,
}
