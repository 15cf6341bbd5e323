"""The main job on a real Docker Engine, through the installed command (issue of the main job, parts 5 to 8)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
from conftest import FLOWPLAN, Project, until
from engines import docker_api, docker_process
from faulty_proxy import in_network_of

pytestmark = pytest.mark.docker

REGISTRY = os.environ.get("REGISTRY", "127.0.0.1:5000")
IMAGE = "busybox:1.35"


class Engine:
    """What a person sees on the Engine of the containers of one project."""

    def __init__(self, project: Project) -> None:
        self.api = docker_api()
        self.project = project
        self.name = f"e2e-{uuid.uuid4().hex[:8]}"

    def spec(self, runs: str, head: str = "") -> str:
        """Return a spec of a project that no other test has; ``runs`` is the body of ``runs:``."""
        text = f"flowplan: 1\nproject: {self.name}\n{head}runs:\n{runs}"
        self.project.write(text)
        return text

    def ours(self) -> list[dict[str, Any]]:
        """Our containers as listed, whatever their state."""
        found: list[dict[str, Any]] = self.api.containers(
            all=True, filters={"label": f"dev.flowplan.project={self.name}"}
        )
        return found

    def running(self) -> int:
        return sum(c["State"] == "running" for c in self.ours())

    def inspect(self, address: str) -> dict[str, Any]:
        [found] = [c for c in self.ours() if c["Labels"]["dev.flowplan.address"] == address]
        inspected: dict[str, Any] = self.api.inspect_container(found["Id"])
        return inspected

    def close(self) -> None:
        for container in self.ours():
            self.api.remove_container(container["Id"], force=True, v=True)
        self.api.close()


@pytest.fixture
def engine(project: Project) -> Iterator[Engine]:
    made = Engine(project)
    yield made
    made.close()


def run(command: str, *fields: str, name: str = "hello") -> str:
    """One docker run of the spec: flow-style fields."""
    return f"  {name}: {{{', '.join(['provider: docker', f'image: {IMAGE!r}', f'command: {command}', *fields])}}}\n"


SLEEP = '[sleep, "600"]'
QUICK = "grace_period: 1s"


# -- from the spec to the end and back -----------------------------------------------------------------------------


def test_from_the_spec_to_the_end_and_back(project: Project, engine: Engine) -> None:
    engine.spec(run("[echo, hello world]"))
    assert project.actions() == {"hello": "create"}
    assert engine.ours() == []
    applied = project.ok("apply", "--yes")
    assert "hello | hello world" in applied.out
    status = project.status()["hello"]
    assert (status["status"], status["exit_code"], status["attempt"]) == ("succeeded", 0, 1)
    assert status["infrastructure_id"].endswith(engine.inspect("hello")["Id"])
    assert project.actions() == {"hello": "no-op"}
    project.ok("plan", "--detailed-exitcode")
    project.ok("destroy", "--yes")
    assert engine.ours() == []
    assert project.status() == {}
    events = [e["status"] for e in project.events("hello")]
    assert events[0] == "creating" and events[-1] == "destroyed" and "succeeded" in events
    assert project.ok("logs", "hello").out == "hello world\n"


def test_plan_prints_the_same_bytes_twice(project: Project, engine: Engine) -> None:
    engine.spec(run("[echo, hi]", "env: {B: '2', A: '1'}", "labels: {z: '1', a: '2'}"))
    outs = [project.ok("plan", "--format", "json").out for _ in range(2)]
    assert outs[0] == outs[1]
    assert project.ok("plan").out == project.ok("plan").out


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    else:
        yield path, value


EVERYTHING = """\
  first: {provider: docker, image: "busybox:1.35", command: ["true"]}
  all:
    provider: docker
    description: every common field, and every field of the block
    image: busybox:1.35
    image_pull_policy: IfNotPresent
    entrypoint: [sh, -c]
    command: ["pwd; echo $GREETING; hostname; cat /proc/self/oom_score_adj; sleep ${var.seconds}"]
    env: {GREETING: hello, EMPTY: "", FLAG: true, NUMBER: 1.10, PATH: null}
    labels: {team: data, example.com/x: "1"}
    annotations: {note: all of it}
    name: PROJECT-named
    working_dir: /tmp
    resources: {cpu: 500m}
    needs: [first]
    timeout: 5m
    start_timeout: 2m
    retries: 2
    grace_period: 1s
    stream_output: true
    rerun: on_failure
    replace: stop_first
    protect: false
    ignore_changes: [/Container/Config/Labels/team]
    triggers: {schema: "1"}
    docker:
      networks: [PROJECT-one, PROJECT-two]
      extra_hosts: {db.local: 10.1.2.3}
      volumes: ["PROJECT-data:/data", "DIRECTORY:/here:ro", /anonymous]
      mem_limit: 64m
      memswap_limit: 128m
      privileged: false
      auto_remove: false
      registry_credentials: {username: robot, password: {from_env: E2E_PASSWORD}, registry_url: "127.0.0.1:5000"}
      create_options:
        pids_limit: 50
        shm_size: 8m
        hostname: box
        user: "0:0"
        cap_drop: [NET_RAW]
        oom_score_adj: 500
        ulimits: [{Name: nofile, Soft: 512, Hard: 1024}]
        tmpfs: {/scratch: size=1m}
        Init: true
        StopSignal: SIGTERM
        log_config: {Type: json-file, Config: {max-size: 1m}}
        dns: [10.0.0.1]
        ports: {"80/tcp": []}
"""


@pytest.fixture
def everything(project: Project, engine: Engine) -> Iterator[Engine]:
    for suffix in ("one", "two"):
        engine.api.create_network(f"{engine.name}-{suffix}")
    runs = EVERYTHING.replace("PROJECT", engine.name).replace("DIRECTORY", str(project.directory))
    engine.spec(runs, "variables: {seconds: {type: number, default: 0}}\n")
    project.env["E2E_PASSWORD"] = "robot-password"
    yield engine
    for container in engine.ours():
        engine.api.remove_container(container["Id"], force=True, v=True)
    for suffix in ("one", "two"):
        engine.api.remove_network(f"{engine.name}-{suffix}")
    engine.api.remove_volume(f"{engine.name}-data")


@pytest.mark.parametrize("seconds", ["0", "600"])
def test_a_plan_right_after_an_apply_is_empty_with_every_field(
    project: Project, everything: Engine, seconds: str
) -> None:
    """Of a run that ended, and of one that runs."""
    variables = ("--var", f"seconds={seconds}")
    project.ok("apply", "--yes", "flowplan.yaml", *variables, *(["--detach"] if seconds != "0" else []))
    if seconds != "0":
        project.ok("apply", "--yes", "--detach", "flowplan.yaml", *variables)  # what needed the first to end
        project.await_status("all", "running")
    assert set(project.statuses()) == {"first", "all"}
    after = project.plan("flowplan.yaml", *variables, "--detailed-exitcode")
    assert {c["address"]: (c["action"], c["fields"]) for c in after["changes"]} == {
        "first": ("no-op", []),
        "all": ("no-op", []),
    }
    assert project.ok("plan", "flowplan.yaml", *variables).out.startswith("No changes")
    project.ok("plan", "flowplan.yaml", *variables, "--no-refresh", "--detailed-exitcode")


def test_the_plan_is_what_the_engine_shows(project: Project, everything: Engine) -> None:
    [planned] = [c for c in project.plan()["changes"] if c["address"] == "all"]
    container = planned["after"]["Container"]
    project.ok("apply", "--yes")
    live = everything.inspect("all")
    assert live["Name"] == f"/{container['Name']}"
    assert set(live["NetworkSettings"]["Networks"]) == set(container["Networks"])
    config = dict(container["Config"])
    host = config.pop("HostConfig")
    config.pop("NetworkingConfig")
    names = [entry.partition("=")[0] for entry in config.pop("Env")]
    assert set(names) - {"PATH"} == {"GREETING", "EMPTY", "FLAG", "NUMBER"}
    assert {"GREETING=hello", "EMPTY=", "FLAG=true", "NUMBER=1.10"} <= set(live["Config"]["Env"])
    for expected, actual in ((config, live["Config"]), (host, live["HostConfig"])):
        for path, value in leaves(expected):
            found: Any = actual
            for key in path:
                found = found[key]
            if path[-1] == "Ulimits":
                value, found = [sorted(u.items()) for u in value], [sorted(u.items()) for u in found]
            elif path[-1] == "Image":  # Podman says the whole name
                found = found.removeprefix("docker.io/library/")
            assert found == value or (not found and not value), path
    out = project.ok("logs", "all").out.splitlines()
    assert out == ["/tmp", "hello", "box", "500"]


# -- every end is told as it was -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "fields", "code", "status", "exit_code", "reason"),
    [
        ("[sh, -c, 'exit 0']", (), 0, "succeeded", 0, None),
        ("[sh, -c, 'exit 3']", (), 3, "failed", 3, None),
        ("[sh, -c, 'kill -9 $$']", ("docker: {create_options: {init: true}}",), 3, "failed", 137, "SIGKILL"),
        (
            "[sh, -c, 'tail /dev/zero; code=$?; sleep 0.5; exit $code']",
            ("docker: {mem_limit: 16m, memswap_limit: 16m}",),
            3,
            "failed",
            137,
            "OOMKilled",
        ),
        ("[no-such-executable]", (), 3, "failed", 127, None),
        ("[/etc/passwd]", (), 3, "failed", 126, None),
        ("[echo]", ("image_pull_policy: Never", "name: x"), 0, "succeeded", 0, None),
    ],
)
def test_every_end_is_told_as_it_was(
    project: Project,
    engine: Engine,
    command: str,
    fields: tuple[str, ...],
    code: int,
    status: str,
    exit_code: int,
    reason: str | None,
) -> None:
    fields = tuple(f.replace("name: x", f"name: {engine.name}-x") for f in fields)
    engine.spec(run(command, *fields))
    project.ok("apply", "--yes", code=code)
    found = project.status()["hello"]
    assert (found["status"], found["exit_code"]) == (status, exit_code)
    assert reason is None or found["reason"] == reason
    assert found["reason"] and found["finished_at"]
    last = project.events("hello")[-1]
    assert (last["status"], last["reason"]) == (status, found["reason"])
    assert project.actions() == {"hello": "no-op" if status == "succeeded" else "rerun"}
    if exit_code in (126, 127):
        assert engine.ours() == []


def test_a_container_that_is_killed_while_it_is_followed(project: Project, engine: Engine) -> None:
    engine.spec(run(SLEEP, QUICK))
    applying = project.start("apply", "--yes")
    until(lambda: engine.running() == 1)
    engine.api.kill(engine.inspect("hello")["Id"])
    _, err = applying.communicate(timeout=20)
    assert applying.returncode == 3
    found = project.status("--no-refresh")["hello"]
    assert (found["status"], found["exit_code"], found["reason"]) == ("failed", 137, "SIGKILL")
    assert "hello: failed (exit code 137)" in err


@pytest.mark.parametrize(
    ("image", "policy", "reason", "word"),
    [
        ("e2e-no-such-image:1", "Never", None, "Never"),
        ("127.0.0.1:1/nobody/nothing:1", "IfNotPresent", "ErrImagePull", "127.0.0.1:1"),
    ],
)
def test_an_image_that_is_not_to_be_had(
    project: Project, engine: Engine, image: str, policy: str, reason: str | None, word: str
) -> None:
    engine.spec(f"  hello: {{provider: docker, image: '{image}', image_pull_policy: {policy}, command: [echo]}}\n")
    if policy == "Never":
        [change] = project.plan()["changes"]
        assert [f["severity"] for f in change["preflight"]] == ["error"]
    result = project.ok("apply", "--yes", code=3)
    assert word in result.err and image in result.err
    found = project.status()["hello"]
    assert found["status"] == "failed" and found["reason"]
    assert reason is None or found["reason"] == reason
    assert engine.ours() == []
    assert project.actions() == {"hello": "rerun"}


def test_a_timeout_is_kept_for_containers(project: Project, engine: Engine) -> None:
    engine.spec(run("[sh, -c, 'echo before; sleep 600']", "timeout: 1s", QUICK))
    result = project.ok("apply", "--yes", code=3)
    found = project.status()["hello"]
    assert (found["status"], found["reason"]) == ("timed_out", "DeadlineExceeded")
    assert engine.ours() == []
    assert "before" in project.ok("logs", "hello").out
    assert "timed out" in result.err
    assert project.events("hello")[-1]["status"] == "timed_out"
    assert project.actions() == {"hello": "rerun"}


@pytest.mark.parametrize("point", ["docker:stop:after", "engine:delete:after", "state:finish:before"])
def test_a_run_that_was_stopped_at_its_limit_is_timed_out_whatever_killed_flowplan_then(
    project: Project, engine: Engine, point: str
) -> None:
    engine.spec(run("[sleep, '600']", "timeout: 1s", QUICK))
    project.ok("apply", "--yes", env={"FLOWPLAN_FAULT": point}, code=-signal.SIGKILL)
    found = project.status()["hello"]
    assert (found["status"], found["reason"]) == ("timed_out", "DeadlineExceeded")
    assert found["message"] == "timeout of 1s passed"
    assert project.actions() == {"hello": "rerun"}


def test_a_start_timeout_ends_a_pull_that_hangs(project: Project, engine: Engine) -> None:
    with in_network_of(docker_process()):
        silent = socket.create_server(("127.0.0.1", 0))  # connections wait in its queue, nobody answers
    with silent:
        image = f"127.0.0.1:{silent.getsockname()[1]}/x/y:1"
        engine.spec(f"  hello: {{provider: docker, image: '{image}', command: [echo], start_timeout: 1s}}\n")
        before = time.monotonic()
        result = project.ok("apply", "--yes", "--no-preflight", code=3)
        assert time.monotonic() - before < 45, "the pull alone would take longer than the Engine may"
    assert "start_timeout of 1s passed" in result.err
    found = project.status()["hello"]
    assert (found["status"], found["reason"], found["exit_code"]) == ("timed_out", "StartTimeout", None)
    assert engine.ours() == []
    assert project.actions() == {"hello": "rerun"}


def test_removed_behind_the_back_is_lost_and_run_again(project: Project, engine: Engine) -> None:
    engine.spec(run(SLEEP, QUICK))
    project.ok("apply", "--yes", "--detach")
    engine.api.remove_container(engine.inspect("hello")["Id"], force=True)
    [change] = project.plan()["changes"]
    assert change["action"] == "rerun"
    found = project.await_status("hello", "lost")
    assert found["exit_code"] is None
    assert project.events("hello")[-1]["status"] == "lost"
    project.ok("apply", "--yes", "--detach", "flowplan.yaml")
    assert project.status()["hello"]["attempt"] == 2
    assert engine.running() == 1


def test_removed_while_it_is_followed_is_lost(project: Project, engine: Engine) -> None:
    engine.spec(run(SLEEP, QUICK))
    applying = project.start("apply", "--yes")
    until(lambda: engine.running() == 1)
    until(lambda: project.statuses().get("hello") == "running")
    engine.api.remove_container(engine.inspect("hello")["Id"], force=True)
    applying.communicate(timeout=20)
    assert applying.returncode == 3
    assert project.status("--no-refresh")["hello"]["status"] == "lost"


def test_a_finished_container_that_was_removed_is_collected_not_drift(project: Project, engine: Engine) -> None:
    engine.spec(run("[echo, hi]"))
    project.ok("apply", "--yes")
    engine.api.remove_container(engine.inspect("hello")["Id"])
    project.ok("plan", "--detailed-exitcode")
    assert project.statuses() == {"hello": "succeeded"}
    assert project.ok("logs", "hello").out == "hi\n"


@pytest.mark.parametrize(
    ("command", "code", "status"), [("[echo, hi]", 0, "succeeded"), ("[sh, -c, 'exit 4']", 3, "failed")]
)
def test_auto_remove_knows_how_it_ended(project: Project, engine: Engine, command: str, code: int, status: str) -> None:
    engine.spec(run(command, "docker: {auto_remove: true}"))
    project.ok("apply", "--yes", code=code)
    found = project.status()["hello"]
    assert (found["status"], found["exit_code"]) == (status, 0 if code == 0 else 4)
    until(lambda: engine.ours() == [])
    assert project.actions() == {"hello": "no-op" if code == 0 else "rerun"}


def test_auto_remove_that_ended_unwatched_is_no_false_success(project: Project, engine: Engine) -> None:
    engine.spec(run("[sh, -c, 'sleep 0.5; exit 4']", "docker: {auto_remove: true}"))
    project.ok("apply", "--yes", "--detach")
    until(lambda: engine.ours() == [])
    assert project.statuses()["hello"] in ("failed", "lost")


def test_retries_are_counted(project: Project, engine: Engine) -> None:
    engine.spec(run("[sh, -c, 'echo try; exit 5']", "retries: 2"))
    project.ok("apply", "--yes", code=3)
    found = project.status()["hello"]
    assert (found["status"], found["exit_code"], found["attempt"], found["attempts"]) == ("failed", 5, 1, 3)
    assert project.ok("logs", "hello").out.count("try") == 3


def test_a_delay_between_tries_is_kept_through_interruptions(project: Project, engine: Engine) -> None:
    script = "echo begins $(date +%s); sleep 0.3; echo ends $(date +%s); exit 3"
    run = f"  a: {{provider: docker, image: '{IMAGE}', command: [sh, -c, '{script}'], retries: 2, retry_delay: 3s}}\n"
    engine.spec(run)
    assert "retries: 2, retry_delay: 3s" in project.ok("plan").out
    applying = project.start("apply", "--yes")
    assert applying.stderr and next(line for line in applying.stderr if "RetryDelay" in line)
    applying.send_signal(signal.SIGINT)
    applying.communicate()
    assert applying.returncode == 130
    shown = project.ok("status").out
    assert "running" in shown and "exit code 3; try 2 begins at " in shown
    assert project.actions() == {"a": "no-op"}, "it goes on by itself"
    applied = project.ok("apply", "--yes", "flowplan.yaml", code=3)
    assert "try 3 of 3; the one before ended with exit code 3" in applied.err
    assert len(engine.ours()) == 1, "one container is started again"
    lines = project.ok("logs", "a").out.splitlines()
    begins, ends = ([int(line.split()[1]) for line in lines if line.startswith(word)] for word in ("begins", "ends"))
    assert len(begins) == 3 and all(b - e >= 3 for e, b in zip(ends, begins[1:], strict=False))
    assert applied.out.splitlines()[-1].endswith(f"ends {ends[-1]}"), "the output goes on with each try"
    [tried] = project.ok("history", "a", "--format", "json").json["attempts"]
    assert (tried["status"], tried["tries"]) == ("failed", 3), tried


@pytest.mark.parametrize("point", ["engine:again:before", "docker:again:after"])
def test_no_try_is_lost_or_added_when_flowplan_is_killed(project: Project, engine: Engine, point: str) -> None:
    engine.spec(run("[sh, -c, 'echo try; exit 3']", "retries: 2, retry_delay: 1s"))
    project.ok("apply", "--yes", env={"FLOWPLAN_FAULT": point}, code=-signal.SIGKILL)
    project.ok("apply", "--yes", "flowplan.yaml", code=3)
    assert project.ok("logs", "hello").out.count("try") == 3


def test_a_run_that_waits_for_its_next_try_is_stopped_at_once(project: Project, engine: Engine) -> None:
    engine.spec(f"  a: {{provider: docker, image: '{IMAGE}', command: ['false'], retries: 1, retry_delay: 1h}}\n")
    project.ok("apply", "--yes", "--wait-timeout", "2s", code=8)
    assert "RetryDelay" in project.ok("status").out
    project.ok("destroy", "--yes")
    assert engine.ours() == []


def test_retries_end_with_the_first_success(project: Project, engine: Engine) -> None:
    engine.spec(run("[sh, -c, 'test -e /tmp/again && exit 0; touch /tmp/again; exit 1']", "retries: 3"))
    project.ok("apply", "--yes")
    found = project.status()["hello"]
    assert (found["status"], found["attempts"]) == ("succeeded", 2)
    project.ok("plan", "--detailed-exitcode")


# -- changes -------------------------------------------------------------------------------------------------------


def test_resources_change_in_place(project: Project, engine: Engine) -> None:
    fields = ("resources: {cpu: '0.5'}", "retries: 1", QUICK)
    engine.spec(run(SLEEP, *fields, "docker: {mem_limit: 32m, create_options: {pids_limit: 30}}"))
    project.ok("apply", "--yes", "--detach")
    before = engine.inspect("hello")
    changed = ("resources: {cpu: '0.25'}", "retries: 3", QUICK)
    engine.spec(run(SLEEP, *changed, "docker: {mem_limit: 48m, create_options: {pids_limit: 40}}"))
    [change] = project.plan()["changes"]
    assert change["action"] == "update"
    assert {f["effect"] for f in change["fields"]} == {"in_place"}
    assert all(f["rule"] for f in change["fields"])
    project.ok("apply", "--yes", "--detach", "flowplan.yaml")
    after = engine.inspect("hello")
    assert after["Id"] == before["Id"] and after["State"]["StartedAt"] == before["State"]["StartedAt"]
    host = after["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["PidsLimit"]) == (250_000_000, 48 << 20, 40)
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert project.status()["hello"]["attempt"] == 1
    project.ok("plan", "--detailed-exitcode")


@pytest.mark.parametrize(
    "changed",
    [
        run('[sleep, "601"]', QUICK),
        run(SLEEP, QUICK, "env: {A: '1'}"),
        run(SLEEP, QUICK).replace("busybox:1.35", "busybox"),
    ],
)
def test_the_rest_replaces(project: Project, engine: Engine, changed: str) -> None:
    engine.api.tag(IMAGE, "busybox", "latest")
    engine.spec(run(SLEEP, QUICK))
    project.ok("apply", "--yes", "--detach")
    before = engine.inspect("hello")
    engine.spec(changed.replace("provider: docker", "provider: docker, image_pull_policy: IfNotPresent"))
    [change] = project.plan()["changes"]
    assert change["action"] == "replace"
    assert change["interrupts"] or "running" in project.ok("plan").out
    project.ok("apply", "--yes", "--detach", "flowplan.yaml")
    after = engine.inspect("hello")
    assert after["Id"] != before["Id"] and len(engine.ours()) == 1
    assert project.status()["hello"]["attempt"] == 2
    project.ok("plan", "--detailed-exitcode")


def test_drift_is_named_and_put_back(project: Project, engine: Engine) -> None:
    engine.spec(run(SLEEP, QUICK, "docker: {mem_limit: 32m}"))
    project.ok("apply", "--yes", "--detach")
    container = engine.inspect("hello")["Id"]
    engine.api.update_container(container, mem_limit="64m", memswap_limit="128m")
    [change] = project.plan()["changes"]
    assert change["action"] == "update"
    [field] = [f for f in change["fields"] if f["path"].endswith("/Memory")]
    assert (field["before"], field["after"]) == (64 << 20, 32 << 20)
    project.ok("apply", "--yes", "--detach", "flowplan.yaml")
    assert engine.inspect("hello")["HostConfig"]["Memory"] == 32 << 20
    project.ok("plan", "--detailed-exitcode")


# -- many ----------------------------------------------------------------------------------------------------------


def test_max_parallel_is_never_passed(project: Project, engine: Engine) -> None:
    engine.spec(run('[sleep, "0.3"]', "matrix: {n: {from: 1, to: 15}}", "max_parallel: 5", "stream_output: false"))
    most, stop = Counter[str](), threading.Event()

    def count() -> None:
        while not stop.is_set():
            most["running"] = max(most["running"], engine.running())

    counter = threading.Thread(target=count)
    counter.start()
    project.ok("apply", "--yes")
    stop.set()
    counter.join()
    assert 1 <= most["running"] <= 5
    intervals = [
        (c["State"]["StartedAt"], c["State"]["FinishedAt"])
        for c in (engine.api.inspect_container(o["Id"]) for o in engine.ours())
    ]
    assert len(intervals) == 15
    for start, _ in intervals:
        assert sum(s <= start < e for s, e in intervals) <= 5
    assert set(project.statuses().values()) == {"succeeded"}


@pytest.mark.parametrize("moment", [3, 11])
def test_kill_9_in_the_middle_of_an_apply_neither_loses_nor_repeats_a_run(
    project: Project, engine: Engine, moment: int
) -> None:
    engine.spec(
        run(
            "[sh, -c, 'echo started >> /here/starts-$0; sleep 1', '${each.n}']",
            "matrix: {n: {from: 1, to: 20}}",
            f"docker: {{volumes: ['{project.directory}:/here']}}",
        )
    )
    killed = project.start("apply", "--yes", "--parallelism", "4")
    until(lambda: len(engine.ours()) >= moment)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    project.ok("apply", "--yes", "flowplan.yaml")
    starts = {p.name: p.read_text() for p in project.directory.glob("starts-*")}
    assert starts == {f"starts-{n}": "started\n" for n in range(1, 21)}
    assert set(project.statuses().values()) == {"succeeded"}
    assert len(engine.ours()) == 20
    project.ok("plan", "--detailed-exitcode")


def test_detach_and_watch(project: Project, engine: Engine) -> None:
    engine.spec(
        run(
            "[sh, -c, 'until test -e /here/go; do sleep 0.1; done; echo bye; exit 7']",
            f"docker: {{volumes: ['{project.directory}:/here']}}",
        )
    )
    project.ok("apply", "--yes", "--detach")
    assert project.statuses() == {"hello": "running"}
    watching = project.start("watch")
    time.sleep(0.5)
    (project.directory / "go").touch()
    out, _ = watching.communicate(timeout=20)
    assert watching.returncode == 3
    assert "hello | bye" in out
    assert project.status("--no-refresh")["hello"]["exit_code"] == 7
    project.ok("apply", "--yes", "flowplan.yaml", "--detach")
    assert project.status()["hello"]["attempt"] == 2


def test_what_another_flowplan_replaces_and_destroys_is_no_end_of_its_own(project: Project, engine: Engine) -> None:
    engine.spec(run("[sh, -c, 'sleep 600']", QUICK))
    following = project.start("apply", "--yes", "flowplan.yaml")
    until(lambda: engine.running() == 1)
    engine.spec(run("[sh, -c, 'sleep 500']", QUICK))
    project.ok("apply", "--yes", "--detach", "flowplan.yaml")
    until(lambda: project.status()["hello"]["attempt"] == 2)
    project.ok("destroy", "--yes")
    _, err = following.communicate(timeout=20)
    assert following.returncode == 0
    assert "attempt 2 was started by another flowplan" in err and "destroyed by another flowplan" in err
    told = [(e["attempt"], e["status"]) for e in project.events("hello")]
    assert (1, "cancelled") in told and (2, "cancelled") in told
    assert not {"lost", "failed"} & {status for _, status in told}


def test_needs_wait_for_containers(project: Project, engine: Engine) -> None:
    volume = f"docker: {{volumes: ['{project.directory}:/here']}}"
    engine.spec(
        run("[sh, -c, 'sleep 0.5; echo made > /here/made']", volume, name="one")
        + run("[cat, /here/made]", volume, "needs: [one]", name="two")
        + run("['false']", name="bad")
        + run("[echo]", "needs: [bad]", name="never")
    )
    result = project.ok("apply", "--yes", code=3)
    assert "two | made" in result.out
    assert project.statuses() == {"one": "succeeded", "two": "succeeded", "bad": "failed"}


def test_destroy_stops_and_leaves_nothing(project: Project, engine: Engine) -> None:
    engine.spec(run(SLEEP, QUICK, "docker: {volumes: [/anonymous]}") + run("[echo, hi]", name="done"))
    project.ok("apply", "--yes", "--detach")
    volumes = [m["Name"] for m in engine.inspect("hello")["Mounts"]]
    project.ok("destroy", "--yes")
    assert engine.ours() == []
    known = {v["Name"] for v in engine.api.volumes()["Volumes"] or []}
    assert volumes and not known.intersection(volumes)
    assert [e["status"] for e in project.events("hello")][-2:] == ["cancelled", "destroyed"]


def test_what_a_container_says_after_term_is_in_its_stored_output(project: Project, engine: Engine) -> None:
    body = "trap 'echo saving; sleep 0.5; echo saved; exit' TERM; echo up; while true; do sleep 0.1; done"
    engine.spec(f'  hello: {{provider: docker, image: "{IMAGE}", command: [sh, -c, "{body}"]}}\n')
    project.ok("apply", "--yes", "--detach")
    until(lambda: "up" in project.ok("logs", "hello").out)
    project.ok("destroy", "--yes")
    assert engine.ours() == []
    assert project.ok("logs", "hello").out == "up\nsaving\nsaved\n"


def test_a_change_that_the_engine_would_refuse_is_told_at_plan_time(project: Project, engine: Engine) -> None:
    text = engine.spec(f'  hello: {{provider: docker, image: "{IMAGE}", command: [sleep, "600"], grace_period: 1s}}\n')
    limited = text.replace("grace_period", "resources: {memory: 64Mi}, grace_period")
    project.write(limited)
    project.ok("apply", "--yes", "--detach")
    project.write(limited.replace("64Mi", "5Mi"))
    [change] = project.plan()["changes"]
    assert change["action"] == "update"
    assert [(f["severity"], f["check"]) for f in change["preflight"]] == [("error", "memory")]
    project.write(limited.replace("64Mi", "65Mi"))
    [change] = project.plan()["changes"]
    assert (change["action"], change["preflight"]) == ("update", [])


def test_logs_of_a_running_container(project: Project, engine: Engine) -> None:
    engine.spec(run("[sh, -c, 'seq 1 500; echo problem >&2; sleep 600']", QUICK))
    project.ok("apply", "--yes", "--detach")
    until(lambda: "problem" in project.ok("logs", "hello").out)
    assert len(project.ok("logs", "hello").out.splitlines()) == 501
    assert (
        project.ok("logs", "hello", "--tail", "2").out.splitlines()[-1:] == ["problem"]
        or "500" in project.ok("logs", "hello", "--tail", "2").out
    )
    lines = [json.loads(line) for line in project.ok("logs", "hello", "--format", "json").out.splitlines()]
    assert {line["stream"] for line in lines} == {"stdout", "stderr"}
    following = project.start("logs", "hello", "--follow")
    time.sleep(0.5)
    engine.api.kill(engine.inspect("hello")["Id"])
    out, _ = following.communicate(timeout=20)
    assert len(out.splitlines()) == 501


# -- engines, registries and secrets -------------------------------------------------------------------------------


def test_an_unreachable_engine_is_told_with_its_endpoint(project: Project, engine: Engine) -> None:
    engine.spec(run("[echo, hi]"))
    nowhere = {"DOCKER_HOST": "tcp://127.0.0.1:1"}
    project.ok("validate", env=nowhere)
    project.ok("plan", "--no-refresh", env=nowhere)
    for command in (["plan"], ["apply", "--yes", "flowplan.yaml"]):
        result = project.ok(*command, code=1, env=nowhere)
        assert "127.0.0.1:1" in result.err
        assert "DOCKER_HOST" in result.err
    assert project.status() == {}


def test_an_engine_that_goes_away_makes_no_run_lost(project: Project, engine: Engine) -> None:
    engine.spec(run(SLEEP, QUICK))
    project.ok("apply", "--yes", "--detach")
    result = project.ok("status", env={"DOCKER_HOST": "tcp://127.0.0.1:1"})
    assert "running" in result.out and "127.0.0.1:1" in result.err
    assert project.statuses() == {"hello": "running"}


def test_two_provider_entries(project: Project, engine: Engine) -> None:
    host = os.environ["DOCKER_HOST"]
    head = f"providers:\n  docker: {{host: '{host}'}}\n  other: {{type: docker, host: '{host}'}}\n"
    engine.spec(
        run("[echo, one]", name="one") + run("[echo, two]", name="two").replace("provider: docker", "provider: other"),
        head,
    )
    project.ok("apply", "--yes", env={"DOCKER_HOST": "tcp://127.0.0.1:1"})
    assert {a: r["provider"] for a, r in project.status().items()} == {"one": "docker", "two": "other"}
    project.ok("plan", "--detailed-exitcode", env={"DOCKER_HOST": "tcp://127.0.0.1:1"})
    (project.directory / "flowplan.yaml").unlink()
    project.ok("destroy", "--yes", env={"DOCKER_HOST": "tcp://127.0.0.1:1"})
    assert engine.ours() == []


@pytest.fixture
def private_image(engine: Engine) -> Iterator[str]:
    """Return an image of the registry that is not on the Engine."""
    repository = f"{REGISTRY}/e2e/{engine.name}"
    login = {"username": "robot", "password": "robot-password"}
    try:
        engine.api.tag(IMAGE, repository, "1")
        answer = engine.api.push(repository, "1", auth_config=login)
    except docker.errors.APIError as error:
        pytest.skip(f"no registry: {error}")
    finally:
        engine.api.remove_image(f"{repository}:1")
    if "errorDetail" in answer:
        pytest.skip(f"no registry at {REGISTRY}")
    yield f"{repository}:1"
    for container in engine.ours():
        engine.api.remove_container(container["Id"], force=True)
    if engine.api.images(f"{repository}"):
        engine.api.remove_image(f"{repository}:1", force=True)


@pytest.mark.registry
def test_a_wrong_registry_password(project: Project, engine: Engine, private_image: str) -> None:
    login = "docker: {registry_credentials: {username: robot, password: {from_env: E2E_PASSWORD}}}"
    engine.spec(f"  hello: {{provider: docker, image: '{private_image}', command: [echo, hi], {login}}}\n")
    told = project.ok("plan", "--strict", code=6, env={"E2E_PASSWORD": "wr0ng-canary"})
    assert "error: login: " in told.out and "wr0ng-canary" not in told.out + told.err
    result = project.ok("apply", "--yes", code=3, env={"E2E_PASSWORD": "wr0ng-canary"})
    assert private_image in result.err and "wr0ng-canary" not in result.err + result.out
    found = project.status()["hello"]
    assert (found["status"], found["reason"]) == ("failed", "ErrImagePull")
    assert engine.ours() == []
    assert project.actions(env={"E2E_PASSWORD": "wr0ng-canary"}) == {"hello": "rerun"}
    project.ok("apply", "--yes", "flowplan.yaml", env={"E2E_PASSWORD": "robot-password"})
    assert project.statuses() == {"hello": "succeeded"}


@pytest.mark.registry
@pytest.mark.parametrize(
    "password", ["robot-password", "{from_env: E2E_PASSWORD}", "{from_file: password.txt}", "'${var.password}'"]
)
def test_the_registry_password_is_nowhere(project: Project, engine: Engine, private_image: str, password: str) -> None:
    (project.directory / "password.txt").write_text("robot-password\n")
    login = f"docker: {{registry_credentials: {{username: robot, password: {password}}}}}"
    spec = f"  hello: {{provider: docker, image: '{private_image}', command: [echo, hi], {login}}}\n"
    engine.spec(spec, "variables: {password: {type: string, sensitive: true, default: ''}}\n")
    env = {"E2E_PASSWORD": "robot-password", "FLOWPLAN_VAR_password": "robot-password"}
    nowhere_but(project, ["robot-password"], env, {"flowplan.yaml", "password.txt"})
    assert project.statuses() == {"hello": "succeeded"}


def nowhere_but(project: Project, secrets: list[str], env: dict[str, str], allowed: set[str]) -> str:
    """Plan and apply; no secret is in what was printed, written, or in a process list. Returns what was printed."""
    lists: list[bytes] = []
    texts = [
        project.ok("plan", *form, env=env)
        for form in ((), ("--format", "json"), ("--format", "markdown"), ("--explain",), ("--full",))
    ]
    applying = subprocess.Popen(
        [FLOWPLAN, "apply", "--yes", "flowplan.yaml"],
        cwd=project.directory, env={**os.environ, **project.env, **env},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while applying.poll() is None:
        lists.append(b"".join(read(p) for p in Path("/proc").glob("[0-9]*/cmdline")))
        time.sleep(0.05)
    out, err = applying.communicate()
    assert applying.returncode == 0, err
    for command in (["logs", "hello"], ["events"], ["state", "pull"], ["state", "show", "hello"], ["show"], ["status"]):
        texts.append(project.ok(*command))
    everything = "".join([*(t.out + t.err for t in texts), out, err]).encode() + b"".join(lists)
    for path in project.directory.rglob("*"):
        everything += path.read_bytes() if path.is_file() and path.name not in allowed else b""
    for secret in secrets:
        assert secret.encode() not in everything
    return out


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_secrets_reach_the_container_and_nothing_else(project: Project, engine: Engine) -> None:
    canary = 'c4n4ry-"value"/+=&x'
    engine.spec(
        """\
  hello:
    provider: docker
    image: busybox:1.35
    command: [sh, -c, 'echo "$DIRECT"; echo "$FILE"; echo "$MIXED"; printf %s "$DIRECT" | wc -c']
    env:
      DIRECT: {from_env: E2E_SECRET}
      FILE: {from_file: secret.txt}
      MIXED: "https://user:${var.token}@host/"
""",
        "variables: {token: {type: string, sensitive: true}}\n",
    )
    (project.directory / "secret.txt").write_text("f1le-canary\n")
    env = {"E2E_SECRET": canary, "FLOWPLAN_VAR_token": "v4r-canary"}
    secrets = [canary, "f1le-canary", "v4r-canary", json.dumps(canary)[1:-1]]
    out = nowhere_but(project, secrets, env, {"flowplan.yaml", "secret.txt"})
    assert f"hello | {len(canary)}" in out
    live = engine.inspect("hello")["Config"]["Env"]
    assert {f"DIRECT={canary}", "FILE=f1le-canary", "MIXED=https://user:v4r-canary@host/"} <= set(live)
    project.ok("plan", "--detailed-exitcode", env=env)
    assert project.actions(env=env | {"E2E_SECRET": "another"}) == {"hello": "replace"}
