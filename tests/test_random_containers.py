"""Random options of containers on the real Engine: what was planned is what the Engine has, and the plan after is empty."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from engines import docker_api
from projects import Project, clear

from flowplan.providers.docker.containers import left_out
from flowplan.schemas.docker_api import CONFIG, HOST_CONFIG, Field

pytestmark = pytest.mark.docker

FLAGS = [True, False]
LISTS: list[Any] = [[]]
VALUES: dict[str, list[Any]] = {
    "Hostname": ["a", "web-1"],
    "Domainname": ["x.example"],
    "User": ["0", 1000, "1000:1000", ""],
    "AttachStdin": FLAGS,
    "AttachStdout": FLAGS,
    "AttachStderr": FLAGS,
    "ExposedPorts": [["80", "53/udp"], {"81": None}, []],
    "Tty": FLAGS,
    "OpenStdin": FLAGS,
    "StdinOnce": FLAGS,
    "Healthcheck": [
        {"test": "true", "interval": "30s"},
        {"Test": ["CMD", "true"], "StartPeriod": "1m30s", "retries": 2},
        {"disable": True},
        {"test": ["CMD-SHELL", "true"], "timeout": 0, "interval": "1500ms"},
    ],
    "NetworkDisabled": [False],
    "OnBuild": LISTS,
    "StopSignal": ["SIGTERM", "SIGINT"],
    "StopTimeout": [0, 5, "1m"],
    "Shell": [["/bin/sh", "-c"], []],
    "CpuShares": [0, 2, 512],
    "BlkioWeight": [0, 300],
    "CpuPeriod": [0, 50_000],
    "CpuQuota": [-1, 0, 20_000],
    "CpuRealtimePeriod": [0],
    "CpuRealtimeRuntime": [0],
    "CpusetCpus": ["0", 0, ""],
    "CpusetMems": ["0", ""],
    "Devices": [["/dev/null:/dev/x:r"], [{"PathOnHost": "/dev/zero"}], []],
    "DeviceCgroupRules": [["c 1:3 mr"], []],
    "DeviceRequests": LISTS,
    "KernelMemory": [0],
    "MemoryReservation": ["8m", "16Mi", 0],
    "MemorySwappiness": [-1, 0, 60],
    "OomKillDisable": [False],
    "Init": FLAGS,
    "PidsLimit": [-1, 0, 100],
    "Ulimits": [["nofile=1024:2048", "memlock=-1"], {"nofile": 512, "core": {"soft": 0, "hard": 0}}, []],
    "LogConfig": [{"type": "json-file", "config": {"max-size": "1m"}}, {"driver": "json-file"}, {"Type": "none"}],
    "PortBindings": [{"80": None}, [], ["127.0.0.1::81/udp"]],
    "Mounts": [
        [{"type": "tmpfs", "target": "/scratch", "tmpfs_size": "1m", "tmpfs_mode": "0700"}],
        [{"target": "/data", "no_copy": True, "labels": {"team": "etl"}}],
        [{"type": "bind", "source": "/tmp", "target": "/t", "read_only": True, "propagation": "rprivate"}],
        [],
    ],
    "Annotations": [{"a": "b"}, {}],
    "CapAdd": [["SYS_PTRACE"], ["CAP_NET_ADMIN", "chown"], []],
    "CapDrop": [["ALL"], ["mknod"]],
    "CgroupnsMode": ["host", ""],
    "Dns": ["1.1.1.1", ["8.8.8.8", "::1"], []],
    "DnsOptions": [["ndots:2"], []],
    "DnsSearch": ["a.example", ["b.example"], []],
    "GroupAdd": [["1", 2], []],
    "IpcMode": ["none", "private", "shareable", "host", ""],
    "OomScoreAdj": [0, 100],
    "PidMode": ["host", ""],
    "PublishAllPorts": FLAGS,
    "ReadonlyRootfs": FLAGS,
    "SecurityOpt": [["no-new-privileges"], []],
    "StorageOpt": [{}],
    "Tmpfs": ["/run", ["/r:size=1m"], {}],
    "UsernsMode": ["host", ""],
    "ShmSize": [0, "64m", "1e8"],
    "Sysctls": [["net.core.somaxconn=1024"], {"net.ipv4.ip_forward": 1}, {}],
    "Runtime": ["runc"],
    "Isolation": ["default", ""],
    "MaskedPaths": [["/proc/kcore"], []],
    "ReadonlyPaths": [["/proc/bus"], []],
}
"""Field -> values that people give it; the others need devices, kernels or systems that are not everywhere."""


def fields() -> dict[str, Field]:
    return {**CONFIG, **HOST_CONFIG}


def spelled(chance: random.Random, name: str) -> str:
    """Draw one of the spellings of a field."""
    return chance.choice([name, *fields()[name].names.split()])


def run(chance: random.Random) -> dict[str, Any]:
    """Draw a run with a few random options, among them limits."""
    names = chance.sample(sorted(VALUES), chance.randint(1, 6))
    options = {spelled(chance, name): chance.choice(VALUES[name]) for name in names}
    docker: dict[str, Any] = {"create_options": options, "network_mode": "bridge"}
    found: dict[str, Any] = {"docker": docker}
    if chance.random() < 0.5:
        memory = chance.choice(["32m", "64Mi", 10**8, "1e8"])
        docker["mem_limit"] = memory
        if chance.random() < 0.6:
            docker["memswap_limit"] = chance.choice([-1, 0, "1g"])
    if chance.random() < 0.4 and not {"CpuQuota", "CpuPeriod"} & set(names):
        found["resources"] = {"cpu": chance.choice([1, "500m", "0.25"])}
    if chance.random() < 0.3:
        found["retries"] = chance.choice([0, 2])
    return found


def spec(seed: int, name: str, size: int) -> str:
    chance = random.Random(seed)
    runs = {f"r{number}": run(chance) for number in range(size)}
    base = {"provider": "docker", "image": "busybox:1.35", "command": ["sleep", "600"], "grace_period": 0}
    return yaml.safe_dump({"flowplan": 1, "project": name, "defaults": base, "runs": runs}, sort_keys=False)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path, {"NO_COLOR": "1"})
    yield made
    clear(made)


SPECS = 100 if os.environ.get("FLOWPLAN_EXAMPLES") else 2


@pytest.mark.parametrize("seed", range(SPECS))
def test_what_was_planned_is_what_the_engine_has(project: Project, seed: int) -> None:
    project.write(spec(seed, f"random-{uuid.uuid4().hex[:8]}", 20))
    planned = {change["address"]: change["after"]["Container"] for change in project.plan()["changes"]}
    applied = project.run("apply", "--yes", "--detach", timeout=180)
    status = project.status("--no-refresh")
    running = {address: one for address, one in status.items() if one["status"] == "running"}
    assert len(running) >= 15, f"the Engine refuses too many of these options: {applied.err}"
    api = docker_api()
    try:
        for address, one in running.items():
            found = api.inspect_container(one["infrastructure_id"].rpartition(":")[2])
            without = left_out(planned[address]["Config"], found, one["remarks"])
            assert not without, f"{address}: {[(place, planned[address]['Config']) for place in without]}"
    finally:
        api.close()
    first, second = (project.run("plan", "--format", "json", *(f"--target={a}" for a in running)).out for _ in "12")
    assert first == second
    actions = {
        change["address"]: change["action"] for change in project.plan()["changes"] if change["address"] in running
    }
    assert set(actions.values()) == {"no-op"}, {
        a: project.plan("--target", a)["changes"] for a, c in actions.items() if c != "no-op"
    }
