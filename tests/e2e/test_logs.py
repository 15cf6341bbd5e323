"""The command ``logs``: the output of several runs, since when, and with times."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from conftest import Project, until

from flowplan.commands.arguments import moment
from flowplan.commands.logs import Wanted, _Printer
from flowplan.output import Bursts, Output
from flowplan.providers.protocol import LogLine
from flowplan.schemas.errors import InvalidInput

SPEC = """\
flowplan: 1
project: demo
runs:
  cell: {provider: process, command: [echo, 'I am ${each.n}'], matrix: {n: [1, 2]}}
  late: {provider: process, command: [sh, -c, 'until [ -e go ]; do sleep 0.1; done; echo went']}
"""

LATER = """\
flowplan: 1
project: demo
runs:
  late: {provider: process, command: [sh, -c, 'seq 3; until [ -e go ]; do sleep 0.1; done; echo went']}
"""

PODS = """\
flowplan: 1
project: pods
defaults: {provider: kubernetes, image: "busybox:1.35", grace_period: 1s, kubernetes: {namespace: SPACE}}
runs:
  job:
    command: [echo, main]
    kubernetes:
      job:
        spec:
          template:
            spec:
              initContainers: [{name: prepare, image: "busybox:1.35", command: [echo, prepared]}]
              containers: [{name: main}, {name: aside, image: "busybox:1.35", command: [sh, -c, "echo side; echo two"]}]
  second: {command: ["true"]}
"""


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def printed(wanted: Wanted, *lines: LogLine, many: bool = False) -> str:
        with Bursts(Output()) as bursts:
            printer = _Printer(bursts, wanted, many)
            for line in lines:
                printer("a[n=1]", line)
        return capsys.readouterr().out + "".join(f"untimed {address}\n" for address in printer.untimed())

    return printed


def at(second: int, text: str) -> LogLine:
    return LogLine(text, at=f"2026-10-07T02:00:0{second}.123456Z")


def test_older_lines_are_left_out(printed: Callable[..., str]) -> None:
    since = datetime(2026, 10, 7, 2, 0, 2, 123456, UTC)
    lines = at(1, "old"), at(2, "at once"), LogLine("of no time"), at(3, "new")
    assert printed(Wanted(since=since), *lines) == "at once\nof no time\nnew\n"


def test_times_and_addresses_stand_before_lines(printed: Callable[..., str]) -> None:
    assert printed(Wanted(timestamps=True), at(1, "x")) == "2026-10-07T02:00:01.123456Z x\n"
    assert printed(Wanted(timestamps=True), at(1, "x"), many=True) == "a[n=1] | 2026-10-07T02:00:01.123456Z x\n"
    assert printed(Wanted(timestamps=True), LogLine("x")) == "x\nuntimed a[n=1]\n"
    assert json.loads(printed(Wanted(form="json"), at(1, "x"), many=True))["address"] == "a[n=1]"


def test_a_moment_is_a_time_or_a_duration_ago() -> None:
    assert moment("--since", None) is None
    assert moment("--since", "2026-10-07T02:00:00Z") == datetime(2026, 10, 7, 2, tzinfo=UTC)
    assert moment("--since", "2026-10-07") == datetime(2026, 10, 7).astimezone()
    ago = moment("--since", "2h30m")
    assert ago and abs(datetime.now(UTC) - timedelta(hours=2.5) - ago) < timedelta(seconds=10)
    with pytest.raises(InvalidInput, match="yesterday"):
        moment("--since", "yesterday")


def test_several_runs_at_once(project: Project) -> None:
    project.write(SPEC)
    project.ok("apply", "--yes", "--detach")
    project.await_status("cell[n=1]", "succeeded")
    project.await_status("cell[n=2]", "succeeded")
    assert project.ok("logs", "cell").out == "cell[n=1] | I am 1\ncell[n=2] | I am 2\n"
    assert project.ok("logs", "cell[n=2]").out == "I am 2\n"
    written = [moment("", line.split()[2]) for line in project.ok("logs", "cell", "--timestamps").out.splitlines()]
    assert len(written) == 2 and all(time and abs(datetime.now(UTC) - time) < timedelta(minutes=1) for time in written)
    assert project.ok("logs", "cell", "--since", "1h").out.count("I am") == 2
    assert project.ok("logs", "cell", "--since", "0s").out == ""
    project.ok("destroy", "--yes", "--target", "cell")
    assert "the lines of 2 runs (cell[n=1], ...) have no times" in project.ok("logs", "cell", "--timestamps").err
    project.ok("apply", "--yes", "--detach")
    project.await_status("cell[n=1]", "succeeded")
    project.await_status("cell[n=2]", "succeeded")
    assert "--container needs" in project.ok("logs", "cell[n=1]", "-c", "aside", code=7).err
    assert "--raw prints one run" in project.ok("logs", "cell", "--raw", code=7).err
    with project.start("logs", "late", "cell*", "--follow") as following:
        assert following.stdout
        assert [next(following.stdout) for _ in "12"] == ["cell[n=1] | I am 1\n", "cell[n=2] | I am 2\n"]
        (project.directory / "go").touch()
        out, _ = following.communicate(timeout=20)
        assert (out, following.returncode) == ("late | went\n", 0)
    project.await_status("late", "succeeded")


def test_watch_does_not_print_all_again(project: Project) -> None:
    project.write(LATER)
    project.ok("apply", "--yes", "--detach")
    until(lambda: "3" in project.ok("logs", "late").out)
    with project.start("watch", "--tail", "1") as watching:
        assert watching.stdout and next(watching.stdout) == "late | 3\n"
        (project.directory / "go").touch()
        out, _ = watching.communicate(timeout=20)
        assert (out, watching.returncode) == ("late | went\n", 0)
    assert project.ok("logs", "late").out == "1\n2\n3\nwent\n"
    project.ok("destroy", "--yes")
    kept = project.ok("logs", "late")
    assert kept.out == "1\n2\n3\nwent\n" and "(4 lines, 10 bytes)" in kept.err


@pytest.mark.kubernetes
def test_containers_of_pods(project: Project, namespace: str) -> None:
    project.write(PODS.replace("SPACE", namespace))
    project.ok("apply", "--yes", "--no-stream")
    assert project.ok("logs", "job").out == "main\n"
    assert project.ok("logs", "job", "-c", "main", "--follow").out == "main\n"
    assert project.ok("logs", "job", "-c", "aside", "--tail", "1").out == "two\n"
    assert project.ok("logs", "job", "-c", "aside", "--follow").out == "side\ntwo\n"
    line = project.ok("logs", "job", "--container", "prepare", "--timestamps", "--since", "1h").out
    assert datetime.fromisoformat(line.split(" ")[0]) and line.endswith(" prepared\n")
    assert project.ok("logs", "job", "--since", "2100-01-01").out == ""
    assert "known: prepare, main, aside" in project.ok("logs", "job", "-c", "none", code=1).err
    refused = project.ok("logs", "job", "second", "-c", "prepare", code=1)
    assert refused.out == "job | prepared\n" and refused.err.startswith("error: second: ")
    refused = project.ok("logs", "job", "second", "-c", "none", code=1).err.splitlines()
    assert [line.partition(" the pods")[0] for line in refused] == ["error: job:", "error: second:"]
