"""The output of containers: nothing is lost because a reader comes too early or too late, and progress bars are live."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engines import create_file, docker_api
from faulty_proxy import FaultyProxy
from projects import Project, until

from flowplan.outputs import drawing
from flowplan.planner.manifests import ResolvedRun, docker
from flowplan.providers.docker import connect
from flowplan.providers.docker.output import Output
from flowplan.providers.protocol import Context, LogLine, Order, Provider
from flowplan.schemas.errors import ProviderError
from flowplan.schemas.runs import Identity, Observed, Recorded, Settings, Status
from flowplan.schemas.secrets import Redactor
from flowplan.showing import Progress

pytestmark = pytest.mark.docker


class World:
    """One lineage on the Engine, spoken to through a proxy."""

    def __init__(self, directory: Path) -> None:
        self.lineage = str(uuid.uuid4())
        self.proxy = FaultyProxy(os.environ["DOCKER_HOST"], directory / "sock")
        settings = {"host": self.proxy.host, "timeout": 20}
        self.provider: Provider = connect(Context(self.lineage, directory / "runs", settings, directory))
        self.api = docker_api()

    def order(self, script: str, **options: Any) -> Order:
        options = {"network_mode": "none", **options}
        fields = {"image": "busybox:1.35", "command": ["sh", "-c", script], "docker": options}
        identity = Identity("output", self.lineage, "r", 1)
        found = docker.render(ResolvedRun("r", "r", 0, "docker", "docker", fields, {}, "/"), identity)
        return Order(identity, found.name, found.objects, Settings(grace_period=0), {})

    def record(self, order: Order, seen: Observed | None = None) -> Recorded:
        handle, target = dict(seen.handle) if seen else {}, self.provider.target().document()
        status = Status.RUNNING if seen else Status.CREATING
        identity = order.identity
        return Recorded(
            "r", "docker", "docker", target, 1, identity.run_id, order.name, order.objects, order.settings, status, handle=handle
        )  # fmt: skip

    def ours(self) -> list[dict[str, Any]]:
        wanted = {"label": f"dev.flowplan.lineage={self.lineage}"}
        return list(self.api.containers(all=True, filters=wanted))

    def lines(self, record: Recorded, *, follow: bool = True, tail: int | None = None) -> list[LogLine]:
        return list(self.provider.logs(record, follow=follow, tail=tail))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.proxy.heal()
    for found in made.ours():
        made.api.remove_container(found["Id"], force=True)
    made.provider.close()
    made.proxy.close()
    made.api.close()


BOTH = "echo one; echo two >&2; printf 'no newline'"


def told(lines: list[LogLine]) -> dict[str, list[str]]:
    return {name: [line.text for line in lines if line.stream == name] for name in ("stdout", "stderr")}


@pytest.mark.parametrize("tail", [None, 1])
def test_output_of_a_container_that_was_removed_before_anybody_read_it(world: World, tail: int | None) -> None:
    order = world.order(BOTH, auto_remove=True)
    record = world.record(order, world.provider.create(order))
    until(lambda: not world.ours())
    lines = told(world.lines(record, tail=tail))
    if tail is None:
        assert lines == {"stdout": ["one", "no newline"], "stderr": ["two"]}
    else:
        assert [*lines["stdout"], *lines["stderr"]] == ["no newline"]
    assert world.lines(record) == [], "it is held until it is read"


def test_output_of_a_terminal_that_was_removed_before_anybody_read_it(world: World) -> None:
    order = world.order("echo 2026-01-01T00:00:00Z one; echo two >&2", auto_remove=True, create_options={"tty": True})
    record = world.record(order, world.provider.create(order))
    until(lambda: not world.ours())
    assert [line.text for line in world.lines(record)] == ["2026-01-01T00:00:00Z one", "two"]


def test_output_until_now_does_not_wait_for_the_end(world: World) -> None:
    order = world.order("echo one; sleep 600", auto_remove=True)
    record = world.record(order, world.provider.create(order))
    until(lambda: world.api.logs(record.handle["id"]))
    assert [line.text for line in world.lines(record, follow=False)] == ["one"]


FRAME = b"\x03\x00\x00\x00\x00\x00\x00\x07broken\n"


@pytest.mark.parametrize(
    "fault",
    [
        {"what": "answer", "status": 500, "body": b'{"message": "open /x-json.log: no such file or directory"}'},
        {"what": "answer", "status": 404, "body": b'{"message": "No such container"}'},
        {"what": "say", "body": b""},
        {"what": "say", "body": FRAME},
        {"what": "say", "body": b"\x01\x00\x00\x00\x00\x00\x00\x232026-01-01T00:00:00.000000000Z one\n" + FRAME},
    ],
)
def test_a_log_that_goes_before_its_container_loses_no_output(world: World, fault: dict[str, Any]) -> None:
    order = world.order(BOTH, auto_remove=True)
    record = world.record(order, world.provider.create(order))
    until(lambda: not world.ours())
    world.proxy.play(method="GET", path="/logs", **fault)
    assert told(world.lines(record)) == {"stdout": ["one", "no newline"], "stderr": ["two"]}


@pytest.mark.parametrize("follow", [True, False])
def test_a_log_that_cannot_be_read_is_an_error_while_its_container_is_there(world: World, follow: bool) -> None:
    order = world.order("echo one; sleep 60")
    record = world.record(order, world.provider.create(order))
    world.proxy.play("say", "GET", "/logs", body=FRAME)
    with pytest.raises(ProviderError, match="the Engine cannot read the output: broken"):
        world.lines(record, follow=follow)


def test_what_is_held_is_bounded_and_slows_no_container_down(world: World) -> None:
    order = world.order("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end", auto_remove=True)
    record = world.record(order, world.provider.create(order))
    until(lambda: not world.ours())
    lines = world.lines(record)
    assert 0 < sum(len(line.text) for line in lines) < 1 << 19 and "was not read" in lines[-1].text


def test_who_reads_before_the_start_gets_all_of_the_output(world: World) -> None:
    order, lines = world.order(BOTH), list[LogLine]()
    reader = threading.Thread(target=lambda: lines.extend(world.lines(world.record(order))))
    reader.start()
    until(lambda: world.proxy.count("GET", "/containers/json"))
    fault = world.proxy.play("slow", "POST", "/start", seconds=1.5)
    world.provider.create(order)
    reader.join(20)
    assert fault.hits and told(lines) == {"stdout": ["one", "no newline"], "stderr": ["two"]}
    assert world.proxy.count("GET", "/logs") > 1, "it was asked for between create and start"


@pytest.mark.parametrize("tty", [False, True])
def test_a_stream_that_breaks_loses_and_repeats_nothing(world: World, tty: bool) -> None:
    script = "i=0; while [ $i -lt 60 ]; do echo $i; i=$((i+1)); sleep 0.03; done"
    order = world.order(script, create_options={"tty": tty})
    record = world.record(order, world.provider.create(order))
    cut = world.proxy.play("cut", "GET", "/logs", after=40 if tty else 600, times=3)
    assert [line.text for line in world.lines(record)] == [str(number) for number in range(60)]
    assert cut.hits > 1


def test_a_log_that_was_opened_just_before_a_short_run_is_opened_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container begins and ends between the look at its log and the look at its state."""
    order, lines, look = world.order(BOTH), list[LogLine](), Output._state

    def late(output: Output) -> dict[str, Any]:
        until(lambda: world.ours()[0]["State"] == "exited")
        return look(output)

    monkeypatch.setattr(Output, "_state", late)
    reader = threading.Thread(target=lambda: lines.extend(world.lines(world.record(order))))
    start = world.proxy.play("hang", "POST", "/start", times=1)
    creator = threading.Thread(target=lambda: world.provider.create(order))
    creator.start()
    until(lambda: start.hits)
    reader.start()
    until(lambda: world.proxy.count("GET", "/logs"))
    world.api.start(world.ours()[0]["Id"])
    reader.join(20)
    world.proxy.heal()
    creator.join(20)
    assert told(lines) == {"stdout": ["one", "no newline"], "stderr": ["two"]}


def test_a_start_that_does_not_come_is_waited_for_in_bounds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowplan.providers.docker.output.START_LIMIT", 1.0)
    with pytest.raises(ProviderError, match="no container was started within 1s"):
        world.lines(world.record(world.order("true")))


def test_logs_that_are_followed_from_before_the_start_have_no_secrets(tmp_path: Path, world: World) -> None:
    name = f"output-{world.lineage[:8]}"
    project = Project(tmp_path, {"DOCKER_HOST": world.proxy.host, "TOKEN": "t0ps3cret-value"})
    project.write(f"""\
flowplan: 1
project: {name}
runs:
  a:
    provider: docker
    image: busybox:1.35
    command: [sh, -c, 'sleep 1; echo "it is $TOKEN"; sleep 2']
    env: {{TOKEN: {{from_env: TOKEN}}}}
    docker: {{network_mode: none}}
""")
    fault = world.proxy.play("slow", "POST", "/create", seconds=3)
    with project.start("apply", "--yes") as apply:
        until(lambda: fault.hits)
        assert "there is no output yet" in project.ok("logs", "a").err
        followed = project.ok("logs", "-f", "a")
        apply.communicate(timeout=60)
    assert followed.out == "it is (sensitive)\n"
    project.ok("destroy", "--yes")


# -- progress bars ------------------------------------------------------------------------------------------------------

BAR = r"""
i=0; while [ $i -lt 3 ]; do i=$((i+1)); printf '\r %s0%% t0ps' $i; sleep 0.2; printf '3cret'; sleep 0.2; done
until [ -e /go ]; do sleep 0.1; done; echo ' done'; echo >&2 end
"""


@pytest.mark.parametrize("tty", [False, True])
def test_a_progress_bar_is_live_and_has_no_secrets(world: World, tty: bool) -> None:
    order = world.order(BAR, create_options={"tty": tty})
    record = world.record(order, world.provider.create(order))
    drawn, progress, lines = list[str](), Progress(), list[LogLine]()
    reader = threading.Thread(target=lambda: lines.extend(world.lines(record)))
    with drawing(world.provider, record, Redactor(["t0ps3cret"]), lambda line: drawn.append(progress("r", line).text)):
        reader.start()
        until(lambda: any(state.endswith("30% (sensitive)") for state in drawn))
        assert lines == [], "the log has a line when it is complete"
        create_file(world.api, record.handle["id"], "go")
        reader.join(20)
    assert not any("t0ps" in state or "Z " in state for state in drawn)
    assert sorted(line.text.rpartition("\r")[2] for line in lines) == [" 30% t0ps3cret done", "end"]
    assert all((line.at is None) is tty for line in lines)


def test_progress_of_a_container_that_is_started_again_goes_on(world: World) -> None:
    order = world.order("while :; do printf '\\r 10%%'; sleep 0.2; done")
    record, over = replace(world.record(order), status=Status.RUNNING), threading.Event()
    pieces = list[LogLine]()

    def read() -> None:
        for piece in world.provider.progress(record, over):  # type: ignore[attr-defined]
            pieces.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    seen = world.provider.create(order)
    until(lambda: pieces)
    world.api.restart(seen.handle["id"], timeout=0)
    pieces.clear()
    until(lambda: len(pieces) > 3)
    over.set()
    reader.join(10)
    assert not reader.is_alive() and {piece.text for piece in pieces} == {"\r 10%"}
