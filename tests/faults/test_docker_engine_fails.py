"""Docker Engines that stop, hang, fail and lie: no run is lost, none is started twice, and people are told."""

from __future__ import annotations

import io
import os
import signal
import tarfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from engines import docker_api
from faulty_proxy import FaultyProxy
from following import Following, watched
from own_docker import IMAGE, OwnDocker, busybox, missing
from projects import Project, until

pytestmark = pytest.mark.docker

own_engine = pytest.mark.skipif(bool(missing()), reason=missing())
slow = pytest.mark.skipif(os.environ.get("FLOWPLAN_DISRUPT") != "1", reason="takes minutes: FLOWPLAN_DISRUPT=1")

HEAD = """\
flowplan: 1
project: {name}
defaults: {{provider: docker, image: "busybox:1.35", grace_period: 1s, docker: {{network_mode: none, volumes: ["{directory}:/host"]}}}}
runs:
"""
NOTED = "echo $ID >> /host/starts; "
"""Every start leaves a line behind, which nobody removes with the container."""
LONG = f"""[sh, -c, "{NOTED}trap 'exit 9' TERM; sleep 600 & wait"]"""
ID = "env: {ID: '${run.id}'}"


class World:
    """A project whose containers write down their starts, and the Engine that it uses."""

    def __init__(self, project: Project, host: str) -> None:
        self.project = project
        self.name = f"fails-{uuid.uuid4().hex[:8]}"
        project.env |= {"DOCKER_HOST": host, "DOCKER_CLIENT_TIMEOUT": "30"}
        self.host = project.directory / "host"
        self.host.mkdir()

    def spec(self, *runs: str) -> None:
        """Write runs as ``name: fields``."""
        lines = "".join(f"  {name}: {{{ID}, {rest}\n" for name, _, rest in (run.partition(": {") for run in runs))
        self.project.write(HEAD.format(name=self.name, directory=self.host) + lines)

    def starts(self) -> Counter[str]:
        """Run id -> how often it was started."""
        path = self.host / "starts"
        return Counter(path.read_text().split() if path.exists() else ())

    def follow(self, *arguments: str) -> Following:
        return Following(self.project.start(*(arguments or ("apply", "--yes", "flowplan.yaml"))))

    def told(self) -> dict[str, str]:
        """Address -> status as recorded, without asking the Engine."""
        if not (self.project.directory / ".flowplan" / "state.db").exists():
            return {}
        return {a: r["status"] for a, r in self.project.status("--no-refresh").items()}

    def await_told(self, wanted: dict[str, str]) -> None:
        until(lambda: wanted.items() <= self.told().items())


@pytest.fixture(scope="module")
def image() -> bytes:
    return busybox()


@pytest.fixture
def own(image: bytes, request: pytest.FixtureRequest) -> Iterator[OwnDocker]:
    """Return an Engine of this test's own; options of dockerd as its parameter."""
    made = OwnDocker(*getattr(request, "param", ()))
    try:
        made.start()
        made.load(image)
        yield made
    finally:
        made.close()


@pytest.fixture
def world(project: Project, own: OwnDocker) -> World:
    return World(project, own.host)


@pytest.fixture
def shared(project: Project) -> Iterator[tuple[World, FaultyProxy]]:
    """Yield the shared Engine behind a proxy that plays faults."""
    proxy = FaultyProxy(os.environ["DOCKER_HOST"], project.directory / "sock")
    made = World(project, proxy.host)
    yield made, proxy
    proxy.heal()
    project.run("destroy", "--yes")
    project.env["DOCKER_HOST"] = os.environ["DOCKER_HOST"]
    proxy.close()
    assert ours(made) == [], "something was left on the Engine"


def ours(world: World) -> list[dict[str, Any]]:
    """Return the containers of the world's project on the shared Engine."""
    api = docker_api()
    try:
        wanted = {"label": f"dev.flowplan.project={world.name}"}
        return [api.inspect_container(c["Id"]) for c in api.containers(all=True, filters=wanted)]
    finally:
        api.close()


def the_container(world: World) -> str:
    [found] = ours(world)
    return str(found["Id"])


# -- the daemon stops and starts -----------------------------------------------------------------------------------------


@own_engine
@pytest.mark.parametrize(
    ("own", "number"),
    [
        pytest.param((), signal.SIGTERM, id="stopped"),
        pytest.param((), signal.SIGKILL, id="killed"),
        pytest.param(("--live-restore",), signal.SIGTERM, id="live-restore-stopped", marks=slow),
        pytest.param(("--live-restore",), signal.SIGKILL, id="live-restore-killed", marks=slow),
    ],
    indirect=["own"],
)
def test_a_daemon_that_is_started_again_while_runs_are_followed(
    world: World, own: OwnDocker, number: int, request: pytest.FixtureRequest
) -> None:
    """What the Engine says afterwards is recorded, and nothing in between; what it starts again by itself goes on."""
    world.spec(
        f"stays: {{command: {LONG}}}",
        f"comes_back: {{command: {LONG}, retries: 3}}",
        'ends: {command: [sh, -c, "sleep 3; exit 3"]}',
    )
    following = world.follow()
    world.await_told(dict.fromkeys(("stays", "comes_back", "ends"), "running"))
    until(lambda: sum(world.starts().values()) == 2)
    own.stop(number)
    err = following.said("does not answer")
    assert own.host in err and "DOCKER_HOST" in err
    assert set(world.project.status()) == {"stays", "comes_back", "ends"} and "lost" not in world.told().values()
    own.start()
    following.said("answers again")
    live = "live-restore" in request.node.name
    world.await_told({"stays": "running" if live else "failed", "comes_back": "running", "ends": "failed"})
    until(lambda: own.running() == {a for a, status in world.told().items() if status == "running"})
    assert {len(some) for some in own.containers().values()} == {1}
    assert set(world.starts().values()) <= ({1} if live else {1, 2})
    assert all(e["status"] != "lost" for e in world.project.events())
    _, err = following.end(130, interrupt=True)
    told = [line for line in err.splitlines() if "does not answer" in line]
    assert len(told) <= 2, "told once; a daemon that starts may accept a connection and break it"
    world.project.ok("destroy", "--yes")
    assert own.containers() == {}


@own_engine
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=slow)])
def test_a_daemon_that_goes_away_in_the_middle_of_an_apply(world: World, own: OwnDocker, number: int) -> None:
    world.spec(f"a: {{command: {LONG}, matrix: {{n: {{from: 1, to: 12}}}}}}")
    following = world.follow("apply", "--yes", "--detach", "--parallelism", "2", "flowplan.yaml")
    until(lambda: len(own.containers()) >= 3)
    own.stop(number)
    _, err = following.end(1)
    assert own.host in err and "next `flowplan apply`" in err
    assert "lost" not in world.told().values()
    own.start()
    # What died with the daemon is run again by the first. An Engine that was killed while it started a container may
    # refuse to start it ("task already exists"): that one is taken away, and run again by the second.
    first = world.project.run("apply", "--yes", "--detach", "flowplan.yaml")
    assert first.code == 0 or (number == signal.SIGKILL and "already exists" in first.err), first.err
    world.project.ok("apply", "--yes", "--detach", "flowplan.yaml")
    assert len(own.running()) == 12
    assert sum(c["State"]["Running"] for some in own.containers().values() for c in some) == 12
    assert set(world.starts().values()) == {1}, "each attempt once"
    world.project.ok("plan", "--detailed-exitcode")
    world.project.ok("destroy", "--yes")
    assert own.containers() == {}


@own_engine
def test_a_start_that_a_restart_cuts_off_before_it_began_is_made_once(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Docker 20.10 can never start such a container again: "task ...: already exists"."""
    place = tmp_path_factory.mktemp("runtime")
    runtime, held = place / "runtime", place / "held"
    runtime.write_text(
        f"#!/bin/sh\ncase \"$*\" in *' create '*) mkdir {held} 2>/dev/null && while [ -e {held} ]; do sleep 0.2; done;; esac\n"
        'exec runc "$@"\n'
    )
    runtime.chmod(0o755)
    engine = OwnDocker("--live-restore", "--add-runtime", f"held={runtime}", "--default-runtime=held")
    try:
        engine.start()
        engine.load(busybox())
        world = World(project, engine.host)
        world.spec(f"a: {{command: [sh, -c, '{NOTED}true']}}")
        apply = project.start("apply", "--yes", "flowplan.yaml")
        until(held.exists)  # the runtime has been called, and makes no process
        engine.stop(signal.SIGKILL)
        apply.communicate(timeout=120)
        engine.start()
        assert set(world.starts().values()) == set()
        project.ok("apply", "--yes", "flowplan.yaml")
        assert (project.statuses(), set(world.starts().values())) == ({"a": "succeeded"}, {1})
        project.ok("destroy", "--yes")
        assert engine.containers() == {}
    finally:
        held.rmdir()
        engine.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=slow)])
def test_a_daemon_that_goes_away_in_the_middle_of_a_destroy(world: World, own: OwnDocker, number: int) -> None:
    slowly = LONG.replace("exit 9", "sleep 0.5; exit 9")
    world.spec(f"a: {{command: {slowly}, retries: 2, matrix: {{n: {{from: 1, to: 6}}}}}}")
    world.project.ok("apply", "--yes", "--detach")
    until(lambda: sum(world.starts().values()) == 6)
    destroying = world.follow("destroy", "--yes", "--parallelism", "1")
    until(lambda: len(own.containers()) < 6)
    own.stop(number)
    _, err = destroying.end(1)
    assert own.host in err
    own.start()
    world.project.ok("destroy", "--yes")
    assert own.containers() == {} and world.project.status() == {}
    ends = Counter((e["address"], e["status"]) for e in world.project.events() if e["status"] in ("destroyed", "lost"))
    assert ends == Counter({(f"a[n={n}]", "destroyed"): 1 for n in range(1, 7)})


@own_engine
@pytest.mark.parametrize(
    "own",
    [pytest.param((), id="killed"), pytest.param(("--live-restore",), id="live-restore-killed", marks=slow)],
    indirect=True,
)
def test_a_daemon_that_is_killed_while_runs_are_watched_and_read(
    world: World, own: OwnDocker, request: pytest.FixtureRequest
) -> None:
    """Both go on when it is back, no line is lost that the Engine has, and both end with the run."""
    count = f"{NOTED}i=0; while [ $i -lt 200 ]; do echo $i; i=$((i+1)); sleep 0.1; done; exit 3"
    world.spec(f'a: {{command: [sh, -c, "{count}"]}}')
    world.project.ok("apply", "--yes", "--detach")
    watching, reading = world.follow("watch"), world.follow("logs", "-f", "a")
    until(lambda: "20\n" in reading.out())
    own.stop(signal.SIGKILL)
    for command in (watching, reading):
        assert own.host in command.said("does not answer")
    own.start()
    watching.said("answers again")
    out, err = reading.end(0)
    assert err.count("does not answer") == 1
    watching.end(3)
    lines = [int(line) for line in out.split()]
    assert lines == list(range(len(lines)))
    assert len(lines) == 200 if "live-restore" in request.node.name else len(lines) >= 20
    seen = world.project.status()["a"]
    assert (seen["status"], "lost" in {e["status"] for e in world.project.events()}) == ("failed", False)
    assert set(world.starts().values()) == {1}
    assert world.project.ok("logs", "a").out.split() == out.split()


@own_engine
def test_a_daemon_that_hangs_is_told_in_time_and_waited_for(world: World, own: OwnDocker) -> None:
    world.spec(f"""a: {{command: [sh, -c, "{NOTED}echo one; sleep 4; echo two; exit 3"]}}""")
    world.project.env["DOCKER_CLIENT_TIMEOUT"] = "3"
    following = world.follow()
    world.await_told({"a": "running"})
    own.freeze()
    for command, code in (
        (("plan",), 1), (("apply", "--yes", "flowplan.yaml"), 1), (("logs", "a"), 1), (("status",), 0),
    ):  # fmt: skip
        begun = time.monotonic()
        said = world.project.ok(*command, code=code).err
        assert time.monotonic() - begun < 20
        assert "no answer in time" in said and own.host in said
    assert "no answer in time" in following.said("does not answer")
    own.thaw()
    following.said("answers again")
    out, _ = following.end(3)
    assert out.splitlines() == ["a | one", "a | two"]
    assert [e["status"] for e in world.project.events()] == ["creating", "running", "failed"]
    assert world.project.status()["a"]["exit_code"] == 3 and set(world.starts().values()) == {1}


# -- every command, every way not to answer ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("gone", "no such socket"),
        ("hang", "no answer in time"),
        ("answer", "HTTP 500: a fault is played"),
        pytest.param("reset", "does not answer", marks=slow),
        pytest.param("say", "does not answer like a Docker Engine", marks=slow),
    ],
)
def test_every_command_says_which_engine_does_not_answer(
    shared: tuple[World, FaultyProxy], what: str, words: str
) -> None:
    world, proxy = shared
    project = world.project
    world.spec(f"a: {{command: {LONG}}}")
    project.ok("apply", "--yes", "--detach")
    before, address = dict(project.env), proxy.host
    project.env["DOCKER_CLIENT_TIMEOUT"] = "0.5"
    if what == "gone":
        address = f"unix://{project.directory}/nowhere"
        project.env["DOCKER_HOST"] = address
    else:
        proxy.play(what, body=b"<html>hello</html>") if what == "say" else proxy.play(what)
    for command in (("plan",), ("apply", "--yes", "flowplan.yaml"), ("destroy", "--yes"), ("logs", "a")):
        failed = project.ok(*command, code=1)
        assert words in failed.err and address in failed.err and "(" in failed.err, "what, where, what to do"
        assert failed.err.count("\n") == 1
    status = project.ok("status")
    assert "running" in status.out and words in status.err and address in status.err
    err = watched(project, words)
    assert err.count(words) == 1 and address in err, "told once"
    proxy.heal()
    project.env |= before
    assert project.statuses() == {"a": "running"} and len(project.events()) == 2


# -- one request goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["/containers/create", "/start"])
@pytest.mark.parametrize("what", ["hide", "lose", "hang", *(pytest.param(w, marks=slow) for w in ("answer", "reset"))])
def test_a_start_that_goes_wrong_is_found_again_and_started_once(
    shared: tuple[World, FaultyProxy], call: str, what: str
) -> None:
    world, proxy = shared
    world.spec(f"a: {{command: {LONG}}}")
    fault = proxy.play(what, "POST", call, times=1)
    done, failed = what in ("hide", "lose"), what == "answer"  # the Engine is looked at, and tells that it was done
    soon = {"DOCKER_CLIENT_TIMEOUT": "3"} if what == "hang" else {}
    result = world.project.ok("apply", "--yes", "--detach", code=0 if done else 3 if failed else 1, env=soon)
    assert fault.hits == 1
    if failed:
        assert ours(world) == [] and "a fault is played" in result.err
    elif not done:
        assert "start not confirmed: a" in result.err and proxy.host in result.err
    world.project.ok("apply", "--yes", "--detach", "flowplan.yaml")
    assert world.project.status()["a"]["attempt"] == (2 if failed else 1)
    until(lambda: sum(world.starts().values()) >= 1)
    [found] = ours(world)
    assert found["State"]["Running"] and set(world.starts().values()) == {1}
    assert not any(e["status"] == "lost" for e in world.project.events())


@pytest.mark.parametrize("what", ["hide", "lose", *(pytest.param(w, marks=slow) for w in ("answer", "reset", "hang"))])
@pytest.mark.parametrize("call", ["POST .*/stop", "DELETE .*/containers/"])
def test_a_removal_that_goes_wrong_is_done_at_the_latest_by_the_next_destroy(
    shared: tuple[World, FaultyProxy], call: str, what: str
) -> None:
    world, proxy = shared
    world.spec(f"a: {{command: {LONG}}}")
    world.project.ok("apply", "--yes", "--detach")
    method, _, path = call.partition(" ")
    proxy.play(what, method, path, times=1)
    soon = {"DOCKER_CLIENT_TIMEOUT": "3"} if what == "hang" else {}
    done = what in ("hide", "lose")
    first = world.project.ok("destroy", "--yes", code=0 if done else 1, env=soon)
    assert done or (proxy.host in first.err and first.err.count("error: a: ") == 1)
    world.project.ok("destroy", "--yes")
    assert ours(world) == []
    assert [e["status"] for e in world.project.events()][-1] == "destroyed"
    assert not any(e["status"] == "lost" for e in world.project.events())


@pytest.mark.parametrize("what", ["answer", "lose"])
def test_a_change_in_place_that_goes_wrong_is_made_at_the_latest_by_the_next_apply(
    shared: tuple[World, FaultyProxy], what: str
) -> None:
    world, proxy = shared
    world.spec(f"a: {{command: {LONG}, resources: {{memory: 32Mi}}}}")
    world.project.ok("apply", "--yes", "--detach")
    world.spec(f"a: {{command: {LONG}, resources: {{memory: 64Mi}}}}")
    proxy.play(what, "POST", "/update", times=1)
    first = world.project.ok("apply", "--yes", "--detach", "flowplan.yaml", code=0 if what == "lose" else 1)
    assert what == "lose" or proxy.host in first.err
    world.project.ok("apply", "--yes", "--detach", "flowplan.yaml")
    [found] = ours(world)
    assert found["HostConfig"]["Memory"] == 64 << 20 and set(world.starts().values()) == {1}
    world.project.ok("plan", "--detailed-exitcode")


# -- streams that end in the middle --------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["cut", "end"])
def test_streams_that_end_in_the_middle_lose_and_repeat_nothing(shared: tuple[World, FaultyProxy], what: str) -> None:
    world, proxy = shared
    count = f"{NOTED}i=0; while [ $i -lt 60 ]; do echo $i; i=$((i+1)); sleep 0.05; done; exit 3"
    world.spec(f'a: {{command: [sh, -c, "{count}"]}}', f'b: {{command: [sh, -c, "{count}"]}}')
    logs = proxy.play(what, "GET", "/logs.*follow=1", after=300, times=6)
    events = proxy.play(what, "GET", "/events", after=200, times=4)
    result = world.project.ok("apply", "--yes", code=3)
    assert logs.hits and events.hits
    for address in "ab":
        lines = [line for line in result.out.splitlines() if line.startswith(f"{address} | ")]
        assert lines == [f"{address} | {i}" for i in range(60)]
        assert [e["status"] for e in world.project.events(address)] == ["creating", "running", "failed"]
        assert world.project.ok("logs", address).out.split() == [str(i) for i in range(60)]
    assert set(world.starts().values()) == {1}


# -- people at work ------------------------------------------------------------------------------------------------------


def test_a_container_that_somebody_pauses_and_renames(shared: tuple[World, FaultyProxy]) -> None:
    world, _ = shared
    world.spec(f'a: {{command: [sh, -c, "{NOTED}sleep 2; exit 3"]}}')
    following = world.follow()
    world.await_told({"a": "running"})
    api = docker_api()
    api.pause(the_container(world))
    until(lambda: world.project.status("--no-refresh")["a"]["reason"] == "Paused")
    api.rename(the_container(world), f"{world.name}-other")
    [change] = world.project.plan()["changes"]
    assert (change["action"], change["run"]["reason"]) == ("update", "Paused")
    [field] = change["fields"]
    assert (field["path"], field["before"], field["drift"]) == ("/Container/Name", f"{world.name}-other", True)
    assert "Paused" in world.project.ok("status").out
    api.unpause(the_container(world))
    api.close()
    following.end(3)
    told = [e["status"] for e in world.project.events()]
    assert (told[:3], told[-1], set(told[3:-1]) - {"running"}) == (["creating", "running", "running"], "failed", set())
    assert (world.project.status()["a"]["exit_code"], set(world.starts().values())) == (3, {1})


@pytest.mark.parametrize(
    ("how", "code", "reason"),
    [("stop", 9, "Error"), pytest.param("kill", 137, "SIGKILL", marks=slow), ("restart", 9, "Error")],
)
def test_a_container_that_somebody_stops(shared: tuple[World, FaultyProxy], how: str, code: int, reason: str) -> None:
    """Stopped by hand is an end, with retries as without; the next apply runs it again as another attempt."""
    world, _ = shared
    world.spec(f"a: {{command: {LONG}}}", f"r: {{command: {LONG}, retries: 3}}")
    following = world.follow()
    world.await_told({"a": "running", "r": "running"})
    until(lambda: sum(world.starts().values()) == 2)
    api = docker_api()
    for one in ours(world):
        getattr(api, how)(one["Id"])
    if how == "restart":  # for the Engine it goes on, under the same id
        for one in ours(world):
            api.stop(one["Id"])
    api.close()
    following.end(3)
    for found in world.project.status().values():
        assert (found["status"], found["exit_code"], found["reason"]) == ("failed", code, reason)
    changes = {c["address"]: c for c in world.project.plan()["changes"]}
    assert {c["action"] for c in changes.values()} == {"rerun"}
    assert all(f"last attempt failed with exit code {code}" in c["reasons"][0] for c in changes.values())


def test_a_tag_that_is_moved_to_another_image_changes_no_container(shared: tuple[World, FaultyProxy]) -> None:
    world, _ = shared
    api = docker_api()
    mine = f"{world.name}:1"
    api.tag(IMAGE, world.name, "1")
    try:
        world.spec(f'a: {{image: "{mine}", command: {LONG}}}')
        world.project.ok("apply", "--yes", "--detach")
        until(lambda: world.starts())
        api.remove_image(mine, force=True)
        world.project.ok("plan", "--detailed-exitcode")
        assert world.project.statuses() == {"a": "running"}
    finally:
        if api.images(mine):
            api.remove_image(mine, force=True)
        api.close()


# -- a registry that stops in a pull -------------------------------------------------------------------------------------

LOGIN = {"username": "robot", "password": "robot-password"}


@pytest.fixture(scope="module")
def pushed() -> Iterator[str]:
    """``repository:tag`` in the registry of an image that only a pull brings."""
    registry, name = os.environ.get("REGISTRY", ""), f"faults/{uuid.uuid4().hex[:8]}"
    api = docker_api()
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:  # a layer that no Engine has
        for path, data in (("Dockerfile", f"FROM {IMAGE}\nCOPY blob /blob\n".encode()), ("blob", os.urandom(1 << 20))):
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    context.seek(0)
    try:
        for _ in api.build(fileobj=context, custom_context=True, tag=f"{registry}/{name}:1", rm=True):
            pass
        answer = api.push(f"{registry}/{name}", "1", auth_config=LOGIN)
        assert "errorDetail" not in answer, answer
        yield f"{name}:1"
    finally:
        api.remove_image(f"{registry}/{name}:1")
        api.close()


@pytest.fixture
def registry(own: OwnDocker) -> Iterator[FaultyProxy]:
    """Return the registry behind a proxy that plays faults, as our own Engine sees it."""
    proxy = FaultyProxy(f"http://{os.environ['REGISTRY']}", network_of=own.network())
    yield proxy
    proxy.close()


@own_engine
@pytest.mark.registry
@pytest.mark.parametrize("own", [("--max-download-attempts=1",)], indirect=True, ids=["once"])
@pytest.mark.parametrize(
    ("what", "path", "words"),
    [
        ("cut", "/blobs/", "EOF"),
        ("hang", "/blobs/", "start_timeout of 2s passed while pulling"),
        pytest.param("answer", "/manifests/", "500", marks=slow),
        pytest.param("reset", "", "EOF", marks=slow),
    ],
)
def test_a_registry_that_stops_in_a_pull(
    world: World, own: OwnDocker, registry: FaultyProxy, pushed: str, what: str, path: str, words: str
) -> None:
    """A clear error and no half state: the run never started, nothing is left, and the next apply pulls anew."""
    login = "registry_credentials: {username: robot, password: {from_env: PULL_PASSWORD}}"
    world.project.env["PULL_PASSWORD"] = LOGIN["password"]
    reference = f"{registry.url.removeprefix('http://')}/{pushed}"
    wanted = f'a: {{image: "{reference}", command: {LONG}, docker: {{network_mode: none, {login}}}START}}'
    world.spec(wanted.replace("START", ", start_timeout: 2s" if what == "hang" else ""))
    volume = f'volumes: ["{world.host}:/host"], '
    path_of_spec = world.project.directory / "flowplan.yaml"
    path_of_spec.write_text(path_of_spec.read_text().replace(login, volume + login))
    registry.play(what, "GET", path, after=100_000)
    failed = world.project.ok("apply", "--yes", "--detach", code=3)
    assert words in failed.err and reference in failed.err and LOGIN["password"] not in failed.err
    run = world.project.status()["a"]
    assert (run["status"], run["reason"]) == (
        ("timed_out", "StartTimeout") if what == "hang" else ("failed", "ErrImagePull")
    )
    assert own.containers() == {} and not world.starts()
    registry.heal()
    world.spec(wanted.replace("START", ""))
    path_of_spec.write_text(path_of_spec.read_text().replace(login, volume + login))
    world.project.ok("apply", "--yes", "--detach", "flowplan.yaml")
    until(lambda: world.starts())
    assert own.running() == {"a"} and set(world.starts().values()) == {1}


@own_engine
@pytest.mark.registry
@pytest.mark.parametrize("how", ["stopped", pytest.param("frozen", marks=slow), "cut"])
def test_an_engine_that_stops_in_a_pull(
    world: World, own: OwnDocker, registry: FaultyProxy, pushed: str, how: str
) -> None:
    """Not an end of the run: nobody knows how far it came, and the next apply goes on with the same attempt."""
    world.project.env["PULL_PASSWORD"] = LOGIN["password"]
    reference = f"{registry.url.removeprefix('http://')}/{pushed}"
    fields = f'volumes: ["{world.host}:/host"], registry_credentials: {{username: robot, password: {{from_env: PULL_PASSWORD}}}}'
    world.spec(f'a: {{image: "{reference}", command: {LONG}, docker: {{network_mode: none, {fields}}}}}')
    proxy = FaultyProxy(own.host, world.project.directory / "sock")
    world.project.env["DOCKER_HOST"] = proxy.host
    if how == "cut":
        proxy.play("cut", "POST", "/images/create", after=10)
    else:
        registry.play("hang", "GET", "/blobs/")
    if how == "frozen":
        world.project.env["DOCKER_CLIENT_TIMEOUT"] = "3"
    applying = world.follow("apply", "--yes", "--detach", "--no-preflight", "flowplan.yaml")
    if how != "cut":
        until(lambda: registry.count("GET", "/blobs/"))
        own.stop() if how == "stopped" else own.freeze()
    _, err = applying.end(1)
    assert proxy.host in err and "start not confirmed: a" in err
    registry.heal()
    proxy.heal()
    own.start() if how == "stopped" else own.thaw()
    assert world.told() == {"a": "creating"}
    world.project.env["DOCKER_CLIENT_TIMEOUT"] = "30"
    world.project.ok("apply", "--yes", "--detach", "flowplan.yaml")
    until(lambda: world.starts())
    assert world.project.status()["a"]["attempt"] == 1 and set(world.starts().values()) == {1}
    world.project.ok("destroy", "--yes")
    proxy.close()
