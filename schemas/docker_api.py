"""The shape of the Docker Engine's create call: its fields at every depth, other spellings of them, and since when.

Facts of the Engine's public API reference (``api/docs/v1.25.yaml`` to ``v1.55.yaml`` of github.com/moby/moby); the other
spellings are those of docker-py and of compose files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from flowplan.schemas.pointers import escape

Shape = Any
"""A Scalar, Items, Texts or Members."""


class Scalar(NamedTuple):
    """One value.

    Attributes:
        kind: ``text``, ``whole`` (a number), ``flag``, ``size`` (bytes), ``time`` (nanoseconds), ``microseconds``,
            ``seconds``, ``mode`` (of a file), ``count`` (of devices), ``address`` (of the internet protocol).
        words: the texts that are allowed, all when empty; one that ends in ``:`` is the beginning of a text.
        low, high: the smallest and the largest number.
    """

    kind: str
    words: tuple[str, ...] = ()
    low: int | None = None
    high: int | None = None


class Items(NamedTuple):
    """A list; ``alone`` says that one item may stand without a list."""

    of: Shape
    alone: bool = False


class Texts(NamedTuple):
    """A mapping of texts, also written as a list of ``name=value`` (or with another ``sign``)."""

    sign: str = "="


class Named(NamedTuple):
    """A mapping of names that the user chooses to values of one shape."""

    of: Shape


class Field(NamedTuple):
    """One member.

    Attributes:
        shape: what its value is.
        names: other spellings, separated by spaces.
        since: the version of the API that it came with, where that is after 1.24.
        until: the version of the API from which on it is ignored.
    """

    shape: Shape
    names: str = ""
    since: str = ""
    until: str = ""


class Members(NamedTuple):
    """An object of the API.

    Attributes:
        name: what it is called in complaints.
        fields: its members by the Engine's names.
        inner: flat spellings of what is a level deeper: ``no_copy`` -> ``VolumeOptions.NoCopy``.
    """

    name: str
    fields: Mapping[str, Field]
    inner: Mapping[str, str] = {}


TEXT, FLAG, WHOLE, SIZE = Scalar("text"), Scalar("flag"), Scalar("whole"), Scalar("size", low=0)
TIME, COUNT, ADDRESS = Scalar("time", low=0), Scalar("count", low=-1), Scalar("address")
TEXTS, LINES = Texts(), Items(TEXT)


def _words(*words: str) -> Scalar:
    return Scalar("text", words)


def _between(low: int, high: int | None = None) -> Scalar:
    return Scalar("whole", (), low, high)


HEALTHCHECK = Members(
    "Healthcheck",
    {
        "Test": Field(LINES, "test"),
        "Interval": Field(TIME, "interval"),
        "Timeout": Field(TIME, "timeout"),
        "Retries": Field(_between(0), "retries"),
        "StartPeriod": Field(TIME, "start_period", "1.29"),
        "StartInterval": Field(TIME, "start_interval", "1.44"),
    },
)

_RATE = {"Path": Field(TEXT, "path")}
_BYTES_A_SECOND = Items(Members("rate", {**_RATE, "Rate": Field(SIZE, "rate")}))
_CALLS_A_SECOND = Items(Members("rate", {**_RATE, "Rate": Field(_between(0), "rate")}))

DEVICE_REQUEST = Members(
    "DeviceRequests",
    {
        "Driver": Field(TEXT, "driver"),
        "Count": Field(COUNT, "count"),
        "DeviceIDs": Field(LINES, "device_ids"),
        "Capabilities": Field(Items(LINES), "capabilities"),
        "Options": Field(TEXTS, "options"),
    },
)

_PROPAGATION = _words("private", "rprivate", "shared", "rshared", "slave", "rslave")

MOUNT = Members(
    "Mounts",
    {
        "Type": Field(_words("bind", "volume", "tmpfs", "npipe", "cluster", "image"), "type"),
        "Source": Field(TEXT, "source src"),
        "Target": Field(TEXT, "target destination dst"),
        "ReadOnly": Field(FLAG, "read_only readonly"),
        "Consistency": Field(_words("default", "consistent", "cached", "delegated"), "consistency", "1.29"),
        "BindOptions": Field(
            Members(
                "BindOptions",
                {
                    "Propagation": Field(_PROPAGATION, "propagation"),
                    "NonRecursive": Field(FLAG, "non_recursive", "1.40"),
                    "CreateMountpoint": Field(FLAG, "create_mountpoint create_host_path", "1.42"),
                    "ReadOnlyNonRecursive": Field(FLAG, "read_only_non_recursive", "1.44"),
                    "ReadOnlyForceRecursive": Field(FLAG, "read_only_force_recursive", "1.44"),
                },
            ),
            "bind",
        ),
        "VolumeOptions": Field(
            Members(
                "VolumeOptions",
                {
                    "NoCopy": Field(FLAG, "no_copy nocopy"),
                    "Labels": Field(TEXTS, "labels"),
                    "DriverConfig": Field(
                        Members("DriverConfig", {"Name": Field(TEXT, "name"), "Options": Field(TEXTS, "options")}),
                        "driver_config",
                    ),
                    "Subpath": Field(TEXT, "subpath", "1.45"),
                },
            ),
            "volume",
        ),
        "ImageOptions": Field(Members("ImageOptions", {"Subpath": Field(TEXT, "subpath", "1.48")}), "image", "1.48"),
        "TmpfsOptions": Field(
            Members(
                "TmpfsOptions",
                {
                    "SizeBytes": Field(SIZE, "size size_bytes"),
                    "Mode": Field(Scalar("mode", low=0, high=0o7777), "mode"),
                    "Options": Field(Items(LINES), "options", "1.46"),
                },
            ),
            "tmpfs",
        ),
    },
    {
        "propagation": "BindOptions.Propagation",
        "no_copy": "VolumeOptions.NoCopy",
        "labels": "VolumeOptions.Labels",
        "driver_config": "VolumeOptions.DriverConfig",
        "subpath": "VolumeOptions.Subpath",
        "tmpfs_size": "TmpfsOptions.SizeBytes",
        "tmpfs_mode": "TmpfsOptions.Mode",
    },
)

_LIMITS = (
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime",
    "sigpending", "stack",
)  # fmt: skip

ULIMIT = Members(
    "Ulimits",
    {"Name": Field(_words(*_LIMITS), "name"), "Soft": Field(_between(-1), "soft"), "Hard": Field(_between(-1), "hard")},
)

DEVICE = Members(
    "Devices",
    {
        "PathOnHost": Field(TEXT, "source path_on_host"),
        "PathInContainer": Field(TEXT, "target path_in_container"),
        "CgroupPermissions": Field(TEXT, "permissions cgroup_permissions"),
    },
)

LOG_CONFIG = Members("LogConfig", {"Type": Field(TEXT, "type driver"), "Config": Field(TEXTS, "config options")})

_BINDING = Members("PortBindings", {"HostIp": Field(TEXT, "host_ip"), "HostPort": Field(TEXT, "host_port published")})

ENDPOINT = Members(
    "EndpointsConfig",
    {
        "IPAMConfig": Field(
            Members(
                "IPAMConfig",
                {
                    "IPv4Address": Field(ADDRESS, "ipv4_address"),
                    "IPv6Address": Field(ADDRESS, "ipv6_address"),
                    "LinkLocalIPs": Field(Items(ADDRESS), "link_local_ips"),
                },
            ),
            "ipam_config",
        ),
        "Links": Field(LINES, "links"),
        "Aliases": Field(LINES, "aliases"),
        "MacAddress": Field(TEXT, "mac_address", "1.44"),
        "DriverOpts": Field(TEXTS, "driver_opt driver_opts", "1.32"),
        "GwPriority": Field(WHOLE, "gw_priority", "1.48"),
    },
    {
        "ipv4_address": "IPAMConfig.IPv4Address",
        "ipv6_address": "IPAMConfig.IPv6Address",
        "link_local_ips": "IPAMConfig.LinkLocalIPs",
    },
)

CONFIG: dict[str, Field] = {
    "Hostname": Field(TEXT, "hostname"),
    "Domainname": Field(TEXT, "domainname"),
    "User": Field(TEXT, "user"),
    "AttachStdin": Field(FLAG),
    "AttachStdout": Field(FLAG),
    "AttachStderr": Field(FLAG),
    "ExposedPorts": Field(Named(Members("ExposedPorts", {})), "expose exposed_ports"),
    "Tty": Field(FLAG, "tty"),
    "OpenStdin": Field(FLAG, "stdin_open open_stdin"),
    "StdinOnce": Field(FLAG, "stdin_once"),
    "Healthcheck": Field(HEALTHCHECK, "healthcheck"),
    "ArgsEscaped": Field(FLAG),
    "NetworkDisabled": Field(FLAG, "network_disabled"),
    "MacAddress": Field(TEXT, "mac_address", until="1.52"),
    "OnBuild": Field(LINES),
    "StopSignal": Field(TEXT, "stop_signal"),
    "StopTimeout": Field(Scalar("seconds"), "stop_timeout stop_grace_period"),
    "Shell": Field(LINES, "shell"),
}
"""The members of ContainerConfig that no field of a run stands for."""

HOST_CONFIG: dict[str, Field] = {
    "CpuShares": Field(_between(0), "cpu_shares"),
    "CgroupParent": Field(TEXT, "cgroup_parent"),
    "BlkioWeight": Field(_between(0, 1000), "blkio_weight"),
    "BlkioWeightDevice": Field(
        Items(Members("rate", {**_RATE, "Weight": Field(_between(0, 1000), "weight")})), "blkio_weight_device"
    ),
    "BlkioDeviceReadBps": Field(_BYTES_A_SECOND, "device_read_bps"),
    "BlkioDeviceWriteBps": Field(_BYTES_A_SECOND, "device_write_bps"),
    "BlkioDeviceReadIOps": Field(_CALLS_A_SECOND, "device_read_iops"),
    "BlkioDeviceWriteIOps": Field(_CALLS_A_SECOND, "device_write_iops"),
    "CpuPeriod": Field(_between(0, 1_000_000), "cpu_period"),
    "CpuQuota": Field(WHOLE, "cpu_quota"),
    "CpuRealtimePeriod": Field(Scalar("microseconds", low=0), "cpu_rt_period"),
    "CpuRealtimeRuntime": Field(Scalar("microseconds", low=0), "cpu_rt_runtime"),
    "CpusetCpus": Field(TEXT, "cpuset_cpus cpuset"),
    "CpusetMems": Field(TEXT, "cpuset_mems"),
    "Devices": Field(Items(DEVICE), "devices"),
    "DeviceCgroupRules": Field(LINES, "device_cgroup_rules", "1.28"),
    "DeviceRequests": Field(Items(DEVICE_REQUEST), "device_requests", "1.40"),
    "KernelMemory": Field(SIZE, "kernel_memory", until="1.42"),
    "KernelMemoryTCP": Field(SIZE, "kernel_memory_tcp", "1.40", "1.52"),
    "MemoryReservation": Field(SIZE, "mem_reservation"),
    "MemorySwappiness": Field(_between(-1, 100), "mem_swappiness"),
    "OomKillDisable": Field(FLAG, "oom_kill_disable"),
    "Init": Field(FLAG, "init"),
    "PidsLimit": Field(_between(-1), "pids_limit"),
    "Ulimits": Field(Items(ULIMIT), "ulimits"),
    "CpuCount": Field(_between(0), "cpu_count"),
    "CpuPercent": Field(_between(0, 100), "cpu_percent"),
    "IOMaximumIOps": Field(_between(0)),
    "IOMaximumBandwidth": Field(SIZE),
    "ContainerIDFile": Field(TEXT),
    "LogConfig": Field(LOG_CONFIG, "log_config logging"),
    "PortBindings": Field(Named(Items(_BINDING)), "ports port_bindings"),
    "VolumeDriver": Field(TEXT, "volume_driver"),
    "VolumesFrom": Field(LINES, "volumes_from"),
    "Mounts": Field(Items(MOUNT), "mounts"),
    "ConsoleSize": Field(Items(_between(0))),
    "Annotations": Field(TEXTS, "annotations", "1.43"),
    "CapAdd": Field(LINES, "cap_add"),
    "CapDrop": Field(LINES, "cap_drop"),
    "CgroupnsMode": Field(_words("", "private", "host"), "cgroupns cgroup", "1.41"),
    "Dns": Field(Items(ADDRESS, alone=True), "dns"),
    "DnsOptions": Field(LINES, "dns_opt"),
    "DnsSearch": Field(Items(TEXT, alone=True), "dns_search"),
    "GroupAdd": Field(LINES, "group_add"),
    "IpcMode": Field(_words("", "none", "private", "shareable", "host", "container:"), "ipc_mode ipc"),
    "Cgroup": Field(TEXT),
    "Links": Field(LINES, "links"),
    "OomScoreAdj": Field(_between(-1000, 1000), "oom_score_adj"),
    "PidMode": Field(_words("", "host", "container:"), "pid_mode pid"),
    "PublishAllPorts": Field(FLAG, "publish_all_ports"),
    "ReadonlyRootfs": Field(FLAG, "read_only"),
    "SecurityOpt": Field(LINES, "security_opt"),
    "StorageOpt": Field(TEXTS, "storage_opt"),
    "Tmpfs": Field(Texts(":"), "tmpfs"),
    "UTSMode": Field(_words("", "host"), "uts_mode uts"),
    "UsernsMode": Field(_words("", "host"), "userns_mode"),
    "ShmSize": Field(SIZE, "shm_size"),
    "Sysctls": Field(TEXTS, "sysctls"),
    "Runtime": Field(TEXT, "runtime"),
    "Isolation": Field(_words("", "default", "process", "hyperv"), "isolation"),
    "MaskedPaths": Field(LINES, "", "1.38"),
    "ReadonlyPaths": Field(LINES, "", "1.38"),
}
"""The members of HostConfig that no field of a run stands for."""

ENDPOINTS = Named(ENDPOINT)

CREATE = Members(
    "the create call",
    {
        **CONFIG,
        "HostConfig": Field(Members("HostConfig", HOST_CONFIG), "host_config"),
        "NetworkingConfig": Field(
            Members("NetworkingConfig", {"EndpointsConfig": Field(ENDPOINTS)}), "networking_config"
        ),
    },
)
"""The body of ``POST /containers/create``, without what the run's own fields stand for."""


def unheard(value: Any, version: tuple[int, ...], shape: Shape = CREATE, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield what an Engine of this API version does not take from a create body: (JSON Pointer in it, why not)."""
    if isinstance(shape, Members) and isinstance(value, Mapping):
        for name, field in shape.fields.items():
            if name not in value:
                continue
            place = f"{path}/{name}"
            if field.since and version < api_version(field.since):
                yield place, f"needs API version {field.since}"
            elif field.until and version >= api_version(field.until):
                yield place, f"is ignored from API version {field.until} on"
            else:
                yield from unheard(value[name], version, field.shape, place)
    elif isinstance(shape, Items) and isinstance(value, list):
        for index, item in enumerate(value):
            yield from unheard(item, version, shape.of, f"{path}/{index}")
    elif isinstance(shape, Named) and isinstance(value, Mapping):
        for name, item in value.items():
            yield from unheard(item, version, shape.of, f"{path}/{escape(name)}")


def api_version(text: str) -> tuple[int, ...]:
    """Return ``1.41`` as numbers that compare; () where it is none."""
    parts = text.split(".")
    return tuple(map(int, parts)) if all(part.isdigit() for part in parts) else ()


UPDATABLE = frozenset([
    "BlkioWeight", "CpuPeriod", "CpuQuota", "CpuRealtimePeriod", "CpuRealtimeRuntime", "CpuShares", "CpusetCpus",
    "CpusetMems", "KernelMemory", "Memory", "MemoryReservation", "MemorySwap", "NanoCpus", "PidsLimit",
    "RestartPolicy",
])  # fmt: skip
"""The HostConfig fields that ``docker update`` changes on a live container."""

UNORDERED = frozenset({"Env", "Binds", "ExtraHosts", "CapAdd", "CapDrop", "SecurityOpt", "GroupAdd", "Networks"})
"""Lists whose order means nothing."""

_NO_LIMIT = {"PidsLimit": (0, -1), "CpuQuota": (0, -1), "MemorySwappiness": (-1,)}
"""Numbers that mean the same as none."""


def meaning(name: str, value: Any) -> Any:
    """Return the value of a field as the Engine takes it: what it treats as not set is None."""
    if name == "RestartPolicy" and isinstance(value, Mapping):
        policy = str(value.get("Name") or "no"), int(value.get("MaximumRetryCount") or 0)
        return None if policy == ("no", 0) else policy
    if name in ("CapAdd", "CapDrop") and isinstance(value, list):
        value = [str(one).upper().removeprefix("CAP_") for one in value]
    if name in UNORDERED and isinstance(value, list):
        value = sorted(map(str, value))
    if value in _NO_LIMIT.get(name, ()):
        return None
    empty = not value and (name != "MemorySwappiness" or value is False)
    return None if empty else value


def same(name: str, asked: Any, host: Mapping[str, Any]) -> bool:
    """Return whether the field ``name`` of a live HostConfig is what was asked for, by the Engine's meaning."""
    found = host.get(name)
    if name == "MemorySwap" and not asked and (memory := host.get("Memory")):
        return found in (2 * memory, -1, 0, None)  # its own default
    return bool(meaning(name, asked) == meaning(name, found))
