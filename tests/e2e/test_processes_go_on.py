"""Cases of processes: what outlives whom, what is found again, and what another host may say, with the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from projects import Project

from flowplan.providers.process.kernel import runs

SPEC = """flowplan: 1
project: {name}
runs:
"""


def run(name: str, script: str, **fields: Any) -> str:
    return f"  {name}: " + json.dumps({"provider": "process", "command": ["sh", "-c", script], **fields}) + "\n"


@pytest.fixture
def processes(project: Project) -> Iterator[Project]:
    """Return a project whose processes are ended in the end, whatever became of its state."""
    yield project
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            marked = f"FLOWPLAN_PROJECT={name_of(project)}".encode() in path.read_bytes()
        except OSError:
            continue
        if marked:
            os.kill(int(path.parent.name), signal.SIGKILL)


def name_of(project: Project) -> str:
    return "case-" + project.directory.name.strip("_").replace("_", "-")[-30:].strip("-")


def write(project: Project, *lines: str) -> None:
    project.write(SPEC.format(name=name_of(project)) + "".join(lines))


def record_of(project: Project, run_id: str) -> Path:
    (found,) = project.directory.glob(f"**/*.runs/{run_id}/started.json")
    return found


def started(project: Project, address: str) -> dict[str, Any]:
    lines = record_of(project, project.status()[address]["run_id"]).read_text().splitlines()
    return [line for line in map(json.loads, lines) if "pid" in line][-1]  # type: ignore[no-any-return]


@pytest.mark.parametrize("secret", [False, True])
def test_a_run_goes_on_when_its_supervisor_is_killed(processes: Project, secret: bool) -> None:
    fields = {"env": {"S": {"from_env": "HDS"}}} if secret else {}
    write(processes, run("a", "echo one $S; until [ -e go ]; do sleep 0.05; done; echo two $S; exit 3", **fields))
    processes.env["HDS"] = "verysecretvalue"
    processes.ok("apply", "--yes", "--detach")
    os.kill(started(processes, "a")["supervisor"]["pid"], signal.SIGKILL)
    (processes.directory / "go").touch()
    ended = processes.await_status("a", "failed")
    assert ended["exit_code"] == 3
    shown = " (sensitive)" if secret else ""
    assert processes.ok("logs", "a").out == f"one{shown}\ntwo{shown}\n"


def test_who_follows_keeps_the_time_limit_when_nobody_else_does(processes: Project) -> None:
    write(processes, run("a", "trap '' TERM; while :; do sleep 0.1; done", timeout="3s", grace_period="1s"))
    processes.ok("apply", "--yes", "--detach")
    keepers = started(processes, "a")
    for word in ("guard", "supervisor"):
        os.kill(keepers[word]["pid"], signal.SIGKILL)
    watched = processes.run("watch")
    assert watched.code == 3
    assert processes.status()["a"]["status"] == "timed_out"
    assert not runs(keepers["pid"])


def test_a_renamed_directory_loses_no_end_and_repeats_nothing(processes: Project) -> None:
    here = processes.directory
    project = Project(here / "old", processes.env)
    project.directory.mkdir()
    script = (
        f"echo started >> {here}/starts; until [ -e {here}/go ]; do sleep 0.05; done; echo finished >> {here}/starts"
    )
    write(project, run("migrate", script, working_dir="/tmp"))
    project.ok("apply", "--yes", "--detach")
    moved = Project(project.directory.rename(here / "new"), processes.env)
    (here / "go").touch()
    moved.await_status("migrate", "succeeded")
    moved.ok("apply", "flowplan.yaml", "--yes")
    assert (here / "starts").read_text() == "started\nfinished\n"


def test_a_run_of_another_host_blocks_nothing_else(processes: Project) -> None:
    write(processes, run("far", "sleep 600"), run("near", "exit 0"))
    processes.ok("apply", "--yes", "--detach")
    far = started(processes, "far")
    record = record_of(processes, processes.status()["far"]["run_id"])
    record.write_text(
        record.read_text()
        .replace(far["pid_namespace"], "pid:[1]")
        .replace(f'"host": "{far["host"]}"', '"host": "mars"')
    )
    status = processes.status()
    assert status["far"]["status"] == "running"
    assert status["far"]["message"].startswith("on host mars, last seen 20")
    planned = processes.ok("plan")
    assert "on host mars" in planned.out + planned.err
    applied = processes.ok("apply", "flowplan.yaml", "--yes", "--rerun", "near")
    assert processes.status()["near"]["attempt"] == 2
    assert "far" in applied.err and "not followed" in applied.err
    write(processes, run("far", "sleep 601"), run("near", "exit 1"))
    changed = processes.run("apply", "flowplan.yaml", "--yes")
    assert changed.code in (3, 6)
    assert "flowplan state rm far" in changed.out + changed.err
    assert processes.status()["near"]["exit_code"] == 1
    again = processes.run("apply", "flowplan.yaml", "--yes", "--rerun", "far", "--detach")
    assert again.code in (0, 3), again.err
    assert processes.status()["far"]["attempt"] == 2
    assert runs(far["pid"])


IN_A_CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc")


def test_a_container_that_is_replaced_blocks_only_its_own_run(processes: Project) -> None:
    """The first command of a new pid namespace is its first process: when it ends, all processes in there do."""
    if subprocess.run([*IN_A_CONTAINER, "true"], capture_output=True, check=False).returncode:
        pytest.skip("pid namespaces cannot be made here")
    write(processes, run("far", "sleep 600"), run("near", "exit 0"))
    Project(processes.directory, processes.env, IN_A_CONTAINER).ok("apply", "--yes", "--detach")
    far = processes.status()["far"]
    assert far["status"] == "running"
    assert "cannot be seen from here" in far["message"]
    assert processes.actions() == {"far": "no-op", "near": "no-op"}
    processes.ok("apply", "flowplan.yaml", "--yes", "--rerun", "near")
    destroyed = processes.run("destroy", "--yes")
    assert destroyed.code == 6
    assert "flowplan state rm far" in destroyed.err
    processes.ok("state", "rm", "far")
    processes.ok("destroy", "--yes")


def test_a_run_that_an_older_state_does_not_know_is_told_recorded_and_ended(processes: Project) -> None:
    write(processes, run("first", "exit 0"))
    processes.ok("apply", "--yes")
    state = processes.directory / ".flowplan/state.db"
    backup = state.read_bytes()
    write(processes, run("first", "exit 0"), run("train", "sleep 600"))
    processes.ok("apply", "flowplan.yaml", "--yes", "--detach")
    pid = started(processes, "train")["pid"]
    state.write_bytes(backup)
    for command in (("plan",), ("destroy", "--yes")):
        refused = processes.run(*command)
        assert refused.code == 6
        assert "train" in refused.err
    processes.ok("state", "rebuild")
    processes.ok("destroy", "--yes")
    assert not runs(pid)


def test_what_runs_goes_on_until_its_replacement_has_started(processes: Project) -> None:
    fields = {"replace": "start_first", "grace_period": "1s"}
    write(processes, run("a", "exec sleep 600", **fields))
    processes.ok("apply", "--yes", "--detach")
    pid = started(processes, "a")["pid"]
    write(processes, run("a", "true", **fields).replace('"sh"', '"no-such-program"'))
    for _ in range(2):
        processes.ok("apply", "flowplan.yaml", "--yes", "--detach", code=3)
        assert runs(pid)
    told = " ".join(processes.ok("plan").out.split())
    assert "attempt 1, which was to be replaced, is recorded as running; it is stopped once" in told
    write(processes, run("a", "exec sleep 601", **fields))
    processes.ok("apply", "flowplan.yaml", "--yes", "--detach")
    assert not runs(pid) and processes.statuses() == {"a": "running"}
