"""``docker.create_options``: any other field of the Engine's create call, in its own names or those of docker-py."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flowplan.planner.manifests.docker_values import docker_size
from flowplan.schemas.runs import Json
from flowplan.schemas.sources import did_you_mean

Place = tuple[str, ...]
"""Where an option lands in the container: ("Config", "User"), ("Config", "HostConfig", "ShmSize"), ("Platform",)."""

OWNED = {
    "Image": "image", "Cmd": "command", "Entrypoint": "entrypoint", "Env": "env", "Labels": "labels",
    "WorkingDir": "working_dir", "Volumes": "docker.volumes", "Binds": "docker.volumes", "Memory": "docker.mem_limit",
    "MemorySwap": "docker.memswap_limit", "NetworkMode": "docker.network_mode", "ExtraHosts": "docker.extra_hosts",
    "Privileged": "docker.privileged", "AutoRemove": "docker.auto_remove", "RestartPolicy": "retries",
    "NanoCpus": "resources.cpu",
    "image": "image", "command": "command", "entrypoint": "entrypoint", "environment": "env", "labels": "labels",
    "working_dir": "working_dir", "name": "name", "volumes": "docker.volumes", "mem_limit": "docker.mem_limit",
    "memswap_limit": "docker.memswap_limit", "network": "docker.networks", "network_mode": "docker.network_mode",
    "extra_hosts": "docker.extra_hosts", "privileged": "docker.privileged", "auto_remove": "docker.auto_remove",
    "restart_policy": "retries", "nano_cpus": "resources.cpu",
}  # fmt: skip
"""Names that a field of the run stands for, and that field."""

_CONFIG = {
    "Hostname": "str", "Domainname": "str", "User": "str", "AttachStdin": "bool", "AttachStdout": "bool",
    "AttachStderr": "bool", "ExposedPorts": "map", "Tty": "bool", "OpenStdin": "bool", "StdinOnce": "bool",
    "Healthcheck": "map", "ArgsEscaped": "bool", "NetworkDisabled": "bool", "MacAddress": "str", "OnBuild": "list",
    "StopSignal": "str", "StopTimeout": "int", "Shell": "list",
}  # fmt: skip

_HOST_CONFIG = {
    "CpuShares": "int", "CgroupParent": "str", "BlkioWeight": "int", "BlkioWeightDevice": "list",
    "BlkioDeviceReadBps": "list", "BlkioDeviceWriteBps": "list", "BlkioDeviceReadIOps": "list",
    "BlkioDeviceWriteIOps": "list", "CpuPeriod": "int", "CpuQuota": "int", "CpuRealtimePeriod": "int",
    "CpuRealtimeRuntime": "int", "CpusetCpus": "str", "CpusetMems": "str", "Devices": "list",
    "DeviceCgroupRules": "list", "DeviceRequests": "list", "KernelMemory": "size", "KernelMemoryTCP": "size",
    "MemoryReservation": "size", "MemorySwappiness": "int", "OomKillDisable": "bool", "Init": "bool",
    "PidsLimit": "int", "Ulimits": "list", "CpuCount": "int", "CpuPercent": "int", "IOMaximumIOps": "int",
    "IOMaximumBandwidth": "int", "ContainerIDFile": "str", "LogConfig": "map", "PortBindings": "map",
    "VolumeDriver": "str", "VolumesFrom": "list", "Mounts": "list", "CapAdd": "list", "CapDrop": "list",
    "CgroupnsMode": "str", "Dns": "list", "DnsOptions": "list", "DnsSearch": "list", "GroupAdd": "list",
    "IpcMode": "str", "Cgroup": "str", "Links": "list", "OomScoreAdj": "int", "PidMode": "str",
    "PublishAllPorts": "bool", "ReadonlyRootfs": "bool", "SecurityOpt": "list", "StorageOpt": "map", "Tmpfs": "map",
    "UTSMode": "str", "UsernsMode": "str", "ShmSize": "size", "Sysctls": "map", "Runtime": "str",
    "ConsoleSize": "list", "Isolation": "str", "MaskedPaths": "list", "ReadonlyPaths": "list", "Annotations": "map",
}  # fmt: skip

_DOCKER_PY = {
    "hostname": "Hostname", "domainname": "Domainname", "user": "User", "stdin_open": "OpenStdin", "tty": "Tty",
    "healthcheck": "Healthcheck", "network_disabled": "NetworkDisabled", "mac_address": "MacAddress",
    "stop_signal": "StopSignal", "stop_timeout": "StopTimeout", "cpu_shares": "CpuShares",
    "cgroup_parent": "CgroupParent", "blkio_weight": "BlkioWeight", "blkio_weight_device": "BlkioWeightDevice",
    "device_read_bps": "BlkioDeviceReadBps", "device_write_bps": "BlkioDeviceWriteBps",
    "device_read_iops": "BlkioDeviceReadIOps", "device_write_iops": "BlkioDeviceWriteIOps", "cpu_period": "CpuPeriod",
    "cpu_quota": "CpuQuota", "cpu_rt_period": "CpuRealtimePeriod", "cpu_rt_runtime": "CpuRealtimeRuntime",
    "cpuset_cpus": "CpusetCpus", "cpuset_mems": "CpusetMems", "devices": "Devices",
    "device_cgroup_rules": "DeviceCgroupRules", "device_requests": "DeviceRequests", "kernel_memory": "KernelMemory",
    "mem_reservation": "MemoryReservation", "mem_swappiness": "MemorySwappiness",
    "oom_kill_disable": "OomKillDisable", "init": "Init", "pids_limit": "PidsLimit", "ulimits": "Ulimits",
    "cpu_count": "CpuCount", "cpu_percent": "CpuPercent", "log_config": "LogConfig", "volume_driver": "VolumeDriver",
    "volumes_from": "VolumesFrom", "mounts": "Mounts", "cap_add": "CapAdd", "cap_drop": "CapDrop",
    "cgroupns": "CgroupnsMode", "dns": "Dns", "dns_opt": "DnsOptions", "dns_search": "DnsSearch",
    "group_add": "GroupAdd", "ipc_mode": "IpcMode", "links": "Links", "oom_score_adj": "OomScoreAdj",
    "pid_mode": "PidMode", "publish_all_ports": "PublishAllPorts", "read_only": "ReadonlyRootfs",
    "security_opt": "SecurityOpt", "storage_opt": "StorageOpt", "tmpfs": "Tmpfs", "uts_mode": "UTSMode",
    "userns_mode": "UsernsMode", "shm_size": "ShmSize", "sysctls": "Sysctls", "runtime": "Runtime",
    "isolation": "Isolation", "platform": "Platform", "ports": "PortBindings",
}  # fmt: skip

_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a string"),
    "int": ((int,), "a whole number"),
    "bool": ((bool,), "true or false"),
    "list": ((list,), "a list"),
    "map": ((dict,), "a mapping"),
}


def place_option(name: str, value: Json) -> list[tuple[Place, Json]]:
    """Where one entry of ``create_options`` goes, as (place, value) pairs; ``HostConfig`` gives one for each member.

    Raises:
        ValueError: with the reason: unknown (with a suggestion), of the wrong type, or a field of the run has it.
    """
    if name == "HostConfig":
        return [
            pair for key, item in _typed(name, value, "map").items() for pair in _place(key, item, _HOST_CONFIG, name)
        ]
    if name == "NetworkingConfig":
        return [(("Config", "NetworkingConfig"), _typed(name, value, "map"))]
    known = {**_CONFIG, **_HOST_CONFIG, "Platform": "str", **dict.fromkeys(_DOCKER_PY, "")}
    return _place(name, value, known, "")


def _place(name: str, value: Json, known: Mapping[str, str], inside: str) -> list[tuple[Place, Json]]:
    if name in OWNED:
        raise ValueError(f'"{name}" is a field of the run: use {OWNED[name]}')
    if name not in known:
        hint = did_you_mean(name, [*known, *OWNED]) or "names are those of the Engine API or of docker-py"
        raise ValueError(f'unknown option "{f"{inside}." if inside else ""}{name}"; {hint}')
    field = _DOCKER_PY.get(name, name)
    convert = _CONVERTERS.get(field)
    converted = convert(value) if convert else value
    if name == "ports":
        exposed: dict[str, Json] = {port: {} for port in converted}
        return [(("Config", "ExposedPorts"), exposed), (("Config", "HostConfig", field), converted)]
    return [(_place_of(field), _typed(name, converted, _kind(field)))]


def _place_of(field: str) -> Place:
    if field == "Platform":
        return ("Platform",)
    return ("Config", field) if field in _CONFIG else ("Config", "HostConfig", field)


def _kind(field: str) -> str:
    return _CONFIG.get(field) or _HOST_CONFIG.get(field, "str")


def _typed(name: str, value: Json, kind: str) -> Json:
    if kind == "size":
        return docker_size(value)
    types, words = _KINDS[kind]
    if not isinstance(value, types) or (kind == "int" and isinstance(value, bool)):
        raise ValueError(f'"{name}" must be {words}')
    return value


def _camel(names: Mapping[str, str]) -> Callable[[Json], Json]:
    """A converter that turns docker-py's member names into the Engine's; members it does not know stay as they are."""

    def convert(value: Json) -> Json:
        return {names.get(key, key): item for key, item in value.items()} if isinstance(value, Mapping) else value

    return convert


def _each(convert: Callable[[Json], Json]) -> Callable[[Json], Json]:
    return lambda value: [convert(item) for item in value] if isinstance(value, list) else value


def _device(value: Json) -> Json:
    """``/dev/a[:/dev/b[:rwm]]`` as the Engine wants it."""
    if not isinstance(value, str):
        return value
    host, _, rest = value.partition(":")
    inside, _, permissions = rest.partition(":")
    if not inside.startswith("/"):
        inside, permissions = host, inside or permissions
    return {"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": permissions or "rwm"}


def _ulimit(value: Json) -> Json:
    """``nofile=1024[:2048]`` or docker-py's {name, soft, hard} as the Engine wants it."""
    if not isinstance(value, str):
        return _camel({"name": "Name", "soft": "Soft", "hard": "Hard"})(value)
    name, _, limits = value.partition("=")
    soft, _, hard = limits.partition(":")
    if not (soft.lstrip("-").isdigit() and (hard or soft).lstrip("-").isdigit()):
        raise ValueError(f'"{value}" is not a limit: write nofile=1024:2048')
    return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}


def _ports(value: Json) -> Json:
    """``{"80/tcp": 8080}`` as the Engine's PortBindings; entries in the Engine's own form stay."""
    if not isinstance(value, Mapping):
        return value
    return {str(port) if "/" in str(port) else f"{port}/tcp": _bindings(host) for port, host in value.items()}


def _bindings(host: Json) -> Json:
    if host is None:
        return [{"HostPort": ""}]
    items = host if isinstance(host, list) and not (len(host) == 2 and isinstance(host[0], str)) else [host]
    return [_binding(item) for item in items]


def _binding(item: Json) -> Json:
    if isinstance(item, Mapping):
        return dict(item)
    if isinstance(item, list):
        return {"HostIp": str(item[0]), "HostPort": str(item[1])}
    address, _, port = str(item).rpartition(":")
    return {"HostIp": address, "HostPort": port} if address else {"HostPort": port}


def _text_map(value: Json) -> Json:
    if isinstance(value, list):  # tmpfs: ["/run:size=1m", "/tmp"]
        return {item.partition(":")[0]: item.partition(":")[2] for item in map(str, value)}
    if isinstance(value, Mapping):
        return {key: "" if item is None else str(item) for key, item in value.items()}
    return value


def _links(value: Json) -> Json:
    return [f"{name}:{alias or name}" for name, alias in value.items()] if isinstance(value, Mapping) else value


def _text_list(value: Json) -> Json:
    return [str(item) for item in value] if isinstance(value, list) else value


_CONVERTERS: dict[str, Callable[[Json], Json]] = {
    "Devices": _each(_device),
    "Ulimits": _each(_ulimit),
    "LogConfig": _camel({"type": "Type", "config": "Config"}),
    "PortBindings": _ports,
    "Tmpfs": _text_map,
    "Sysctls": _text_map,
    "StorageOpt": _text_map,
    "Links": _links,
    "GroupAdd": _text_list,
    "Mounts": _each(
        _camel({"type": "Type", "source": "Source", "target": "Target", "read_only": "ReadOnly"}),
    ),
    "Healthcheck": _camel(
        {"test": "Test", "interval": "Interval", "timeout": "Timeout", "retries": "Retries"}
        | {"start_period": "StartPeriod"}
    ),
    "DeviceRequests": _each(
        _camel(
            {"driver": "Driver", "count": "Count", "device_ids": "DeviceIDs", "capabilities": "Capabilities"}
            | {"options": "Options"}
        )
    ),
}
