"""Options of containers as people write them: what a plan shows is what the Engine has, or the place of what is wrong."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import docker
import docker.utils
import pytest
from engines import create_file, docker_api
from projects import Project, until

Case = Callable[..., Project]


@pytest.fixture
def api() -> Iterator[Any]:
    client = docker_api()
    yield client
    client.close()


def inspected(api: Any, project: Project) -> dict[str, Any]:
    """Inspect the one container of a project."""
    [run] = project.status().values()
    answer: dict[str, Any] = api.inspect_container(run["infrastructure_id"].rpartition(":")[2])
    return answer


def planned(project: Project, *arguments: str) -> dict[str, Any]:
    """Return the config of the one container that a plan creates."""
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
    """Expect no word of a missing command: the Engine notes 127 for each "no such file or directory"."""
    project = case_project("43-sysctl-and-privileges", {"net.core.somaxconn=1024": "net.core.nosuch=1"})
    project.ok("apply", "--yes", "list.yaml", code=3)
    run = project.status()["db"]
    assert (run["reason"], run["exit_code"]) == ("StartFailed", 125)
    missing = case_project(
        "43-sysctl-and-privileges", {"[id], docker: {create_options: {sysctls: [net.core.somaxconn=1024]}}": "[nosuch]"}
    )
    missing.ok("apply", "--yes", "list.yaml", code=3)
    assert (missing.status()["db"]["reason"], missing.status()["db"]["exit_code"]) == ("CommandNotFound", 127)


@pytest.mark.docker
def test_an_engine_over_ssh(case_project: Case) -> None:
    """Use the case's program in place of ssh; the other end is the Engine of the tests."""
    project = case_project("12-engine-over-ssh")
    stand_in = project.directory / "bin" / "ssh"
    stand_in.write_text(f"#!/bin/sh\nexec env DOCKER_HOST={os.environ['DOCKER_HOST']} docker system dial-stdio\n")
    project.env["PATH"] = f"{stand_in.parent}:{os.environ['PATH']}"
    done = project.ok("apply", "--yes")
    assert [line for line in done.out.splitlines() if line.startswith("job | ")] == ["job | hi", "job | bye"]
    assert "Traceback" not in done.err
    assert project.actions() == {"job": "no-op"}
    stand_in.write_text("#!/bin/sh\necho 'Permission denied (publickey).' >&2\nexit 255\n")
    failed = project.ok("plan", code=1)
    assert "ssh://deploy@127.0.0.1:2222 does not answer: Permission denied (publickey)." in failed.err
    stand_in.write_text(f"#!/bin/sh\nexec env DOCKER_HOST={os.environ['DOCKER_HOST']} docker system dial-stdio\n")


@pytest.mark.docker
@pytest.mark.registry
@pytest.mark.parametrize(
    ("helper", "words"),
    [
        (None, "docker-credential-fp not installed"),
        ("#!/bin/sh\necho 'the keychain is locked'\nexit 1\n", "the keychain is locked"),
        ("#!/bin/sh\necho 'no JSON, secret-word'\n", "no login"),
    ],
)
def test_what_a_credential_helper_says_reaches_the_user(case_project: Case, helper: str | None, words: str) -> None:
    image = f"{os.environ['REGISTRY']}/nothing/here:1"
    project = case_project("18-moved-tag", {"case-18-app:latest": image, "Never": "Always"})
    home = project.directory / "config"
    home.mkdir()
    (home / "config.json").write_text('{"credsStore": "fp"}')
    project.env |= {"DOCKER_CONFIG": str(home), "PATH": f"{home}:{os.environ['PATH']}"}
    if helper is not None:
        (home / "docker-credential-fp").write_text(helper)
        (home / "docker-credential-fp").chmod(0o755)
    [[found]] = [change["preflight"] for change in project.plan()["changes"]]
    assert (found["check"], found["address"]) == ("login", "job") and words in found["message"]
    failed = project.ok("apply", "--yes", code=3)
    assert f"pulling {image} failed" in failed.err and words in failed.err and "secret-word" not in failed.err
    assert "Warning" not in failed.err


@pytest.mark.docker
def test_a_tag_that_is_another_image_now(case_project: Case, api: Any) -> None:
    name = f"case-18-{uuid.uuid4().hex[:8]}"
    project = case_project("18-moved-tag", {"case-18-app:latest": f"{name}:latest"})

    spec = project.directory / "flowplan.yaml"

    def build(value: str) -> str:
        dockerfile = io.BytesIO(f"FROM busybox:1.35\nRUN echo {value} > /v\n".encode())
        list(api.build(fileobj=dockerfile, tag=f"{name}:latest", rm=True))
        return str(api.inspect_image(f"{name}:latest")["Id"])

    try:
        first = build("one")
        project.ok("apply", "--yes")
        assert project.ok("logs", "job").out == "one\n"
        assert project.status()["job"]["image"] == {"name": f"{name}:latest", "id": first}
        assert first in project.ok("state", "show", "job").out
        assert project.actions() == {"job": "no-op"}
        second = build("two")
        [change] = project.plan()["changes"]
        assert (change["action"], [f["after"] for f in change["fields"]]) == ("replace", [second])
        spec.write_text(spec.read_text().replace("on_change", "on_failure"))
        told = project.ok("plan")
        assert "No changes" in told.out and f"{name}:latest is another image now" in " ".join(
            (told.out + told.err).split()
        )
        spec.write_text(spec.read_text().replace("on_failure", "on_change"))
        project.ok("apply", "--yes", "flowplan.yaml")
        assert project.ok("logs", "job").out == "two\n"
        assert project.actions() == {"job": "no-op"}
        project.ok("destroy", "--yes")
    finally:
        api.remove_image(f"{name}:latest", force=True)


@pytest.mark.docker
def test_what_the_engine_leaves_out_is_told_and_is_no_change(case_project: Case, api: Any) -> None:
    """Ask for fields of a later API, and for some that the create call answers a warning for."""
    if docker.utils.version_gte(api.version()["ApiVersion"], "1.43"):
        pytest.skip("this Engine takes annotations")
    project = case_project(
        "08-health-durations", {"healthcheck: {": "annotations: {a: b}\n        healthcheck: {start_interval: 1s, "}
    )
    place = "HostConfig.Annotations needs API version 1.43"
    assert place in " ".join(project.ok("plan").out.split())
    applied = project.ok("apply", "--yes")
    assert "warning: job: the engine left out HostConfig.Annotations" in applied.err
    assert "warning: job: the engine left out Healthcheck.StartInterval" in applied.err
    assert set(project.status()["job"]["remarks"]) == {
        "/Container/Config/HostConfig/Annotations",
        "/Container/Config/Healthcheck/StartInterval",
    }
    after = project.ok("plan")
    assert "No changes" in after.out and "the engine left out HostConfig.Annotations" in " ".join(
        (after.out + after.err).split()
    )


@pytest.mark.docker
def test_a_limit_that_has_passed_and_that_nobody_keeps_is_told(case_project: Case) -> None:
    project = case_project("16-container-time-limit", {"timeout: 4s": "timeout: 1s"})
    project.ok("apply", "--yes", "--detach")
    late = until(lambda: project.status()["job"]["overdue"])
    assert (late["setting"], late["limit"]) == ("timeout", 1.0) and late["passed_by"] > 1
    told = project.ok("status")
    assert "running" in told.out and "timeout of 1s passed" in told.err and "flowplan watch" in told.err
    project.ok("watch", code=3)
    assert project.status()["job"]["status"] == "timed_out" and project.status()["job"]["overdue"] is None


def taken_away_and_restored(api: Any, project: Project) -> Callable[[], None]:
    """Remove the container of ``job``, let that be recorded, and make it again; return what lets it end well."""
    project.ok("apply", "--yes", "--detach")
    project.await_status("job", "running")
    name = project.status()["job"]["infrastructure_id"].rpartition(":")[2]
    was = api.inspect_container(name)
    api.remove_container(name, force=True)
    project.await_status("job", "lost")
    config = {**was["Config"], "HostConfig": was["HostConfig"]}
    again = api.create_container_from_config(config, was["Name"].lstrip("/"))["Id"]
    assert project.status()["job"]["status"] == "lost"  # it was not started yet
    api.start(again)

    def let_it_end() -> None:
        create_file(api, again, "done")

    return let_it_end


@pytest.mark.docker
@pytest.mark.parametrize("command", ["status", "watch", "apply"])
def test_a_lost_container_that_is_there_again_runs(case_project: Case, api: Any, command: str) -> None:
    project = case_project("lost-and-back")
    let_it_end = taken_away_and_restored(api, project)
    changes = {change["address"]: change for change in project.plan()["changes"]}
    assert {address: change["action"] for address, change in changes.items()} == {"job": "no-op", "after": "create"}
    assert changes["job"]["run"]["status"] == "running"
    if command == "status":
        assert project.status()["job"]["status"] == "running"
        let_it_end()
        project.await_status("job", "succeeded")
    else:
        following = project.start(command, *(["--yes"] if command == "apply" else []))
        until(lambda: project.status("--no-refresh")["job"]["status"] == "running")
        let_it_end()
        out, err = following.communicate(timeout=60)
        assert following.returncode == 0, (out, err)
    told = [event["status"] for event in project.events("job")]
    assert told == ["creating", "running", "lost", "running", "succeeded"]
    assert project.status()["job"]["attempt"] == 1
    assert project.status().get("after", {}).get("status") == ("succeeded" if command == "apply" else None)
    project.ok("destroy", "--yes")
    assert api.containers(all=True, filters={"label": f"flowplan.dev/project={project.name}"}) == []
