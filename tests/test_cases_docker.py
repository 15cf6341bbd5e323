"""Options of containers as people write them: what a plan shows is what the Engine has, or the place of what is wrong."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import docker
import pytest
from projects import Project

Case = Callable[..., Project]


@pytest.fixture
def api() -> Iterator[Any]:
    client = docker.APIClient(version="auto")
    yield client
    client.close()


def inspected(api: Any, project: Project) -> dict[str, Any]:
    """The one container of a project."""
    [run] = project.status().values()
    answer: dict[str, Any] = api.inspect_container(run["infrastructure_id"].rpartition(":")[2])
    return answer


def planned(project: Project, *arguments: str) -> dict[str, Any]:
    """The config of the one container that a plan creates."""
    [change] = project.plan(*arguments)["changes"]
    config: dict[str, Any] = change["after"]["Container"]["Config"]
    return config


@pytest.mark.docker
def test_durations_of_a_health_check(case_project: Case, api: Any) -> None:
    project = case_project("08-health-durations")
    project.ok("apply", "--yes")
    second = 10**9
    wanted = {"Test": ["CMD", "true"], "Interval": 30 * second, "Timeout": 5 * second, "Retries": 3}
    assert inspected(api, project)["Config"]["Healthcheck"] == {**wanted, "StartPeriod": 10 * second}
    assert project.actions() == {"job": "no-op"}


@pytest.mark.docker
def test_members_of_mounts(case_project: Case, api: Any) -> None:
    volume = f"case-09-{uuid.uuid4().hex[:8]}"
    project = case_project("09-mount-options", {"case-09-vol": volume})
    try:
        project.ok("apply", "--yes")
        size, mode, files = project.ok("logs", "job").out.splitlines()
        assert size.split()[1] == "16" and mode.startswith("drwx------") and files == "0"
        assert api.inspect_volume(volume)["Labels"] == {"team": "etl"}
        assert project.actions() == {"job": "no-op"}
        project.ok("destroy", "--yes")
    finally:
        api.remove_volume(volume, force=True)


def test_a_flag_of_the_docker_command_is_told_what_to_use(case_project: Case) -> None:
    result = case_project("17-gpu-flag").ok("validate", code=7)
    assert "flowplan.yaml:8:" in result.err and "use resources.gpu" in result.err


@pytest.mark.docker
def test_gpus_as_compose_writes_them(case_project: Case) -> None:
    project = case_project("17-gpu-flag")
    [request] = planned(project, "compose.yaml")["HostConfig"]["DeviceRequests"]
    assert request == {"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu"]]}
    [request] = planned(project, "right.yaml")["HostConfig"]["DeviceRequests"]
    assert (request["Count"], request["Capabilities"]) == (-1, [["gpu"]])


@pytest.mark.docker
def test_all_gpus_for_a_training(case_project: Case) -> None:
    project = case_project("41-gpu-training-run")
    host = planned(project)["HostConfig"]
    [request] = host["DeviceRequests"]
    assert (request["Count"], request["Capabilities"]) == (-1, [["gpu"]])
    assert host["Ulimits"][0] == {"Name": "memlock", "Soft": -1, "Hard": -1}
    assert project.ok("apply", "--yes", "nogpu.yaml").out.count("train | trained") == 1


def test_all_gpus_are_nothing_that_kubernetes_gives(case_project: Case) -> None:
    project = case_project("41-gpu-training-run", {"provider: docker": "provider: kubernetes"})
    assert 'runs.train.resources.gpu: Kubernetes cannot give "all" GPUs' in project.ok("validate", code=7).err


@pytest.mark.docker
def test_kernel_parameters_as_a_list_and_as_a_mapping(case_project: Case, api: Any) -> None:
    project = case_project("43-sysctl-and-privileges")
    project.ok("apply", "--yes", "list.yaml")
    assert inspected(api, project)["HostConfig"]["Sysctls"] == {"net.core.somaxconn": "1024"}
    other = case_project("43-sysctl-and-privileges")
    other.ok("apply", "--yes", "unprivileged.yaml")
    assert other.ok("logs", "db").out.splitlines() == ["500\t1024000\t200\t4096", "segment-1", "/home", "key"]


@pytest.mark.docker
def test_what_the_runtime_refuses_is_no_missing_command(case_project: Case) -> None:
    """The Engine notes 127 for each error that ends in "no such file or directory"."""
    project = case_project("43-sysctl-and-privileges", {"net.core.somaxconn=1024": "net.core.nosuch=1"})
    project.ok("apply", "--yes", "list.yaml", code=3)
    run = project.status()["db"]
    assert (run["reason"], run["exit_code"]) == ("StartFailed", 125)
    missing = case_project(
        "43-sysctl-and-privileges", {"[id], docker: {create_options: {sysctls: [net.core.somaxconn=1024]}}": "[nosuch]"}
    )
    missing.ok("apply", "--yes", "list.yaml", code=3)
    assert (missing.status()["db"]["reason"], missing.status()["db"]["exit_code"]) == ("CommandNotFound", 127)
