"""``docker.create_options`` in the spellings of docker-py, compose and the Engine: one body, or a fault with its place."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest

from flowplan.planner.manifests import ResolvedRun, docker
from flowplan.schemas import docker_api
from flowplan.schemas.docker_api import Field, Items, Members, Named, Scalar, Texts, unheard
from flowplan.schemas.runs import Identity, Origin

IDENTITY = Identity("nightly", str(uuid.UUID(int=5)), "extract", 1)
SECOND = 10**9


def run(options: dict[str, Any], networks: tuple[str, ...] = (), **fields: Any) -> ResolvedRun:
    block: dict[str, Any] = {"create_options": options} | ({"networks": list(networks)} if networks else {})
    given = {"image": "busybox:1.35", "docker": block, **fields}
    origins = {("docker", "create_options"): Origin("spec.yaml:3", "spec.yaml", 3, 1)}
    return ResolvedRun("extract", "extract", 0, "docker", "docker", given, {}, "/spec", {}, origins)


def config(options: dict[str, Any], **rest: Any) -> dict[str, Any]:
    found: dict[str, Any] = docker.render(run(options, **rest), IDENTITY).objects["Container"]["Config"]
    return found


def host(**options: Any) -> dict[str, Any]:
    found: dict[str, Any] = config(options)["HostConfig"]
    return found


def faults(options: dict[str, Any]) -> list[str]:
    found = docker.check(run(options))
    assert all(fault.position for fault in found)
    return [
        f"{fault.subject.removeprefix('runs.extract.docker.create_options')}: {fault.message}; {fault.hint}"
        for fault in found
    ]


@pytest.mark.parametrize(
    ("engine", "others"),
    [
        ({"User": "1000"}, [{"user": 1000}]),
        ({"ShmSize": 64 << 20}, [{"shm_size": "64m"}, {"ShmSize": "64Mi"}, {"HostConfig": {"ShmSize": "64m"}}]),
        ({"CapAdd": ["SYS_PTRACE"]}, [{"cap_add": ["SYS_PTRACE"]}, {"host_config": {"CapAdd": ["SYS_PTRACE"]}}]),
        ({"Dns": ["1.1.1.1"]}, [{"dns": "1.1.1.1"}, {"dns": ["1.1.1.1"]}]),
        ({"PidMode": "host"}, [{"pid_mode": "host"}, {"pid": "host"}]),
        ({"CpuRealtimeRuntime": 400_000}, [{"cpu_rt_runtime": "400ms"}, {"cpu_rt_runtime": 400_000}, {"cpu_rt_runtime": "400000"}]),
        ({"CpuRealtimePeriod": 1400}, [{"cpu_rt_period": "1400us"}, {"cpu_rt_period": 1400}]),
        ({"StopTimeout": 90}, [{"stop_timeout": 90}, {"stop_grace_period": "1m30s"}]),
        ({"Sysctls": {"a.b": "1 2"}}, [{"sysctls": ["a.b=1 2"]}, {"sysctls": {"a.b": "1 2"}}]),
        ({"Sysctls": {"a.b": "1"}}, [{"sysctls": {"a.b": 1}}]),
        ({"Tmpfs": {"/run": "size=1m", "/t": ""}}, [{"tmpfs": ["/run:size=1m", "/t"]}, {"tmpfs": {"/run": "size=1m", "/t": None}}]),
        ({"Tmpfs": {"/run": ""}}, [{"tmpfs": "/run"}]),
        ({"CpusetCpus": "0"}, [{"cpuset": 0}, {"cpuset_cpus": "0"}]),
        ({"BlkioWeight": 300}, [{"blkio_weight": 300}, {"blkio_config": {"weight": 300}}]),
        (
            {"BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 1 << 20}]},
            [
                {"device_read_bps": ["/dev/sda:1mb"]},
                {"device_read_bps": [{"Path": "/dev/sda", "Rate": 1 << 20}]},
                {"blkio_config": {"device_read_bps": [{"path": "/dev/sda", "rate": "1mb"}]}},
            ],
        ),
        (
            {"Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 30 * SECOND, "StartPeriod": 90 * SECOND}},
            [{"healthcheck": {"test": "true", "interval": "30s", "start_period": "1m30s"}}],
        ),
        ({"Healthcheck": {"Test": ["NONE"]}}, [{"healthcheck": {"disable": True}}]),
        ({"Healthcheck": {"Timeout": 1_500_000_000}}, [{"healthcheck": {"timeout": "1.5s"}}, {"healthcheck": {"timeout": "1500ms"}}]),
        (
            {"LogConfig": {"Type": "json-file", "Config": {"max-file": "3"}}},
            [
                {"log_config": {"type": "json-file", "config": {"max-file": 3}}},
                {"logging": {"driver": "json-file", "options": {"max-file": "3"}}},
            ],
        ),
        (
            {"Ulimits": [{"Name": "memlock", "Soft": -1, "Hard": -1}]},
            [
                {"ulimits": ["memlock=-1"]},
                {"ulimits": ["memlock=-1:-1"]},
                {"ulimits": {"memlock": -1}},
                {"ulimits": {"memlock": {"soft": -1, "hard": -1}}},
                {"ulimits": [{"name": "memlock", "soft": -1}]},
            ],
        ),
        (
            {"Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}]},
            [{"devices": ["/dev/null:/dev/x:r"]}, {"devices": [{"source": "/dev/null", "target": "/dev/x", "permissions": "r"}]}],
        ),
        (
            {"DeviceRequests": [{"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu"]]}]},
            [
                {"device_requests": [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]},
                {"device_requests": [{"Driver": "nvidia", "Count": "-1", "Capabilities": [["gpu"]]}]},
            ],
        ),
        (
            {"Mounts": [{"Type": "tmpfs", "Target": "/s", "TmpfsOptions": {"SizeBytes": 16 << 20, "Mode": 0o700}}]},
            [
                {"mounts": [{"type": "tmpfs", "target": "/s", "tmpfs_size": "16m", "tmpfs_mode": 0o700}]},
                {"mounts": [{"type": "tmpfs", "target": "/s", "tmpfs": {"size": "16m", "mode": "0700"}}]},
            ],
        ),
        (
            {"Mounts": [{"Type": "volume", "Target": "/d", "Source": "v", "VolumeOptions": {"NoCopy": True, "Labels": {"team": "etl"}}}]},
            [
                {"mounts": [{"target": "/d", "source": "v", "no_copy": True, "labels": {"team": "etl"}}]},
                {"mounts": [{"type": "volume", "target": "/d", "source": "v", "volume": {"nocopy": True}, "labels": ["team=etl"]}]},
            ],
        ),
        (
            {"Mounts": [{"Type": "bind", "Target": "/d", "Source": "/spec/x", "ReadOnly": True, "BindOptions": {"Propagation": "rshared"}}]},
            [{"mounts": [{"type": "bind", "target": "/d", "source": "./x", "read_only": True, "propagation": "rshared"}]}],
        ),
        (
            {"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}, "ExposedPorts": {"80/tcp": {}}},
            [{"ports": {80: 8080}}, {"ports": {"80/tcp": "8080"}}, {"ports": ["8080:80"]}, {"ports": [{"target": 80, "published": 8080}]}],
        ),
        (
            {"PortBindings": {"53/udp": [{"HostIp": "127.0.0.1", "HostPort": "5353"}]}},
            [{"ports": {"53/udp": ["127.0.0.1", 5353]}}, {"ports": ["127.0.0.1:5353:53/udp"]}],
        ),
        ({"ExposedPorts": {"80/tcp": {}, "81/tcp": {}}}, [{"expose": ["80", 81]}, {"expose": ["80-81"]}]),
        ({"Links": ["db:d"]}, [{"links": {"db": "d"}}, {"links": ["db:d"]}]),
    ],
)  # fmt: skip
def test_every_spelling_gives_the_engines(engine: dict[str, Any], others: list[dict[str, Any]]) -> None:
    wanted = config(engine)
    for name, value in engine.items():
        assert {**wanted, **wanted["HostConfig"]}[name] == value
    for other in others:
        assert config(other) == wanted, other


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"mounts": [{"target": "/s", "tmpfs_siz": 1}]}, '.mounts[0].tmpfs_siz: unknown member.*"tmpfs_size"'),
        ({"mounts": [{"source": "x"}]}, r".mounts\[0\]: a mount needs a target"),
        ({"mounts": [{"target": "/s", "source": "v", "tmpfs_size": 1}]}, "of type tmpfs, this one is of type volume"),
        ({"mounts": [{"type": "bind", "target": "/s", "source": "x"}]}, "write /path, or ./path"),
        ({"mounts": [{"type": "disk", "target": "/s"}]}, ".mounts[0].type: must be one of"),
        ({"mounts": ["v:/x"]}, ".mounts[0]: must be a mapping"),
        ({"mounts": {"target": "/s"}}, ".mounts: must be a list"),
        ({"mounts": [{"target": "/s", "no_copy": "yes"}]}, ".mounts[0].no_copy: must be true or false"),
        ({"healthcheck": {"test": ["true"]}}, ".healthcheck.test: begins with"),
        ({"healthcheck": {"interval": 30}}, '.healthcheck.interval: 30 is nanoseconds.*"30s"'),
        ({"healthcheck": {"interval": "soon"}}, ".healthcheck.interval: must be a duration"),
        ({"healthcheck": {"every": "1s"}}, '.healthcheck.every: unknown member "every" of Healthcheck'),
        ({"log_config": {"driver": "a", "type": "b"}}, "Type is set twice"),
        ({"log_config": "json-file"}, ".log_config: must be a mapping"),
        ({"device_requests": [{"count": "some"}]}, ".device_requests[0].count: must be a whole number"),
        ({"device_requests": [{"count": 1, "device_ids": ["0"]}]}, "exclude each other"),
        ({"device_requests": [{"capabilities": {"gpu": 1}}]}, ".capabilities: must be a list"),
        ({"ulimits": ["nofile"]}, "is not a limit"),
        ({"ulimits": ["nofiles=1"]}, ".ulimits[0].Name: must be one of|.ulimits"),
        ({"ulimits": ["nofile=3:2"]}, "soft limit 3 is above"),
        ({"ulimits": {"nofile": "many"}}, "must be a whole number"),
        ({"sysctls": ["net.core.somaxconn"]}, ".sysctls: .*name=value"),
        ({"sysctls": "a=b"}, ".sysctls: must be a mapping"),
        ({"sysctls": {"a": ["b"]}}, ".sysctls.a: must be a string"),
        ({"dns": ["resolver"]}, ".dns[0]: must be an IP address"),
        ({"devices": ["null"]}, "is not a device"),
        ({"devices": ["/dev/null:/dev/x:q"]}, "are not permissions"),
        ({"ports": ["80:81:82:83:x"]}, "is not a port"),
        ({"ports": {"80/icmp": 1}}, "the protocol is"),
        ({"ports": {80: 99999}}, "is not a port"),
        ({"cap_add": "SYS_PTRACE"}, ".cap_add: must be a list"),
        ({"tty": "yes"}, ".tty: must be true or false"),
        ({"pids_limit": True}, ".pids_limit: must be a whole number"),
        ({"mem_swappiness": 101}, "must be from -1 to 100, not the number 101"),
        ({"shm_size": "much"}, ".shm_size: must be a size"),
        ({"ipc_mode": "container"}, ".ipc_mode: must be one of"),
        ({"user": ["a"]}, ".user: must be a string"),
        (
            {"HostConfig": {"Mounts": [{"Target": 3}, {"Target": "/x", "Typ": "bind"}]}},
            '.HostConfig.Mounts[1].Typ: .*"Type"',
        ),
        ({"stop_grace_period": "1.5s"}, "whole seconds"),
        (
            {"NetworkingConfig": {"EndpointsConfig": {"bridge": {"Alias": []}}}},
            '.EndpointsConfig.bridge.Alias: .*"Aliases"',
        ),
        ({"networking_config": {"other": {}}}, "does not join the network other"),
        ({"--gpus": "all"}, ".--gpus: .*flag of the docker command.*use resources.gpu"),
        ({"gpus": "all"}, ".gpus: .*use resources.gpu"),
        ({"--volume": "a:b"}, "use docker.volumes"),
        ({"--ulimit": "a"}, "use ulimits"),
        ({"--security-opt": "a"}, "use security_opt"),
        ({"cpus": 2}, "use resources.cpu"),
        ({"User": "a", "user": "b"}, ".user: User is set twice"),
    ],
)
def test_faults_have_their_place_and_say_what_to_do(options: dict[str, Any], wanted: str) -> None:
    [fault] = faults(options)
    assert re.search(wanted.replace("[0]", r"\[0\]").replace("[1]", r"\[1\]"), fault), fault


def test_ends_in_networks_and_where_members_come_from() -> None:
    settings = {"aliases": ["x"], "ipv4_address": "10.0.0.5"}
    engine = {"EndpointsConfig": {"two": {"Aliases": ["x"], "IPAMConfig": {"IPv4Address": "10.0.0.5"}}}}
    found = config({"networking_config": {"two": settings}}, networks=("one", "two"))
    assert found["NetworkingConfig"]["EndpointsConfig"] == {"one": {}, **engine["EndpointsConfig"]}
    assert found == config({"NetworkingConfig": engine}, networks=("one", "two"))
    assert config({"networking_config": {"bridge": {"mac_address": "02:42:ac:11:00:09"}}})["NetworkingConfig"]


def test_a_sensitive_value_can_be_a_text_only() -> None:
    token = "(sensitive env:X 0123456789abcdef)"
    assert config({"user": token, "sysctls": {"a": token}})["User"] == token
    assert "sensitive" in faults({"pids_limit": token})[0]


def test_null_unsets_an_option() -> None:
    assert config({"user": None, "mounts": [{"target": "/x", "source": None}]})["HostConfig"]["Mounts"] == [
        {"Target": "/x", "Type": "volume"}
    ]


def test_what_an_engine_of_a_version_does_not_take() -> None:
    body = config(
        {
            "kernel_memory": "8m",
            "annotations": {"a": "b"},
            "healthcheck": {"test": "true", "start_interval": "1s"},
            "mounts": [{"target": "/x"}, {"target": "/y", "source": "v", "subpath": "s"}],
        }
    )
    assert [path for path, _ in unheard(body, (1, 41))] == [
        "/Healthcheck/StartInterval",
        "/HostConfig/Mounts/1/VolumeOptions/Subpath",
        "/HostConfig/Annotations",
    ]
    assert list(unheard(body, (1, 51))) == [("/HostConfig/KernelMemory", "is ignored from API version 1.42 on")]


def _spellings(shape: Any) -> None:
    if isinstance(shape, Members):
        spelled = [name for key, field in shape.fields.items() for name in {key, *field.names.split()}]
        assert len(spelled) == len(set(spelled)), f"{shape.name} spells two members alike"
        for field in shape.fields.values():
            assert isinstance(field, Field)
            _spellings(field.shape)
        for target in shape.inner.values():
            first, second = target.split(".")
            assert second in shape.fields[first].shape.fields
    elif isinstance(shape, Items | Named):
        _spellings(shape.of)
    else:
        assert isinstance(shape, Scalar | Texts)


def test_the_table_says_each_name_once() -> None:
    _spellings(docker_api.CREATE)
    names = [
        n for table in (docker_api.CONFIG, docker_api.HOST_CONFIG) for f in table.values() for n in f.names.split()
    ]
    assert len(names) == len(set(names))
