"""`flowplan state prune`: what is old goes, with its output and files; nothing is started twice because of it."""

from __future__ import annotations

import signal

import pytest
from conftest import Project
from projects import until

SPEC = """\
flowplan: 1
project: demo
runs:
  a: {provider: process, command: [sh, -c, 'echo ran >> ran; echo of a']}
  b: {provider: process, command: [sleep, '600'], grace_period: 1s}
"""


def again(project: Project, times: int = 1) -> None:
    for _ in range(times):
        project.ok("apply", "--yes", "--rerun", "a", "--target", "a", "flowplan.yaml")


def attempts(project: Project, address: str = "a") -> list[int]:
    return [a["attempt"] for a in project.ok("state", "show", address).json["attempts"]]


def directories(project: Project) -> int:
    return sum(path.is_dir() for path in (project.directory / ".flowplan/state.runs").iterdir())


def test_old_attempts_go_and_the_newest_and_what_lives_stay(project: Project) -> None:
    project.write(SPEC)
    project.ok("apply", "--yes", "--detach", "--target", "b")
    again(project, 3)
    assert project.ok("state", "prune", "--older", "1h").out == ""
    assert project.ok("state", "prune", "--older", "0s", "--dry-run").out == "a: attempts 1 to 2\n"
    assert attempts(project) == [1, 2, 3]
    removed = project.ok("state", "prune", "--older", "0s")
    assert removed.out == "a: attempts 1 to 2\n" and "removed: 2 attempts" in removed.err
    assert attempts(project) == [3] and attempts(project, "b") == [1]
    assert directories(project) == 2
    assert project.statuses() == {"b": "running", "a": "succeeded"}
    assert project.ok("logs", "a").out == "of a\n"
    assert project.actions("--detailed-exitcode") == {"a": "no-op", "b": "no-op"}


def test_what_was_pruned_is_told_and_its_number_is_not_used_again(project: Project) -> None:
    project.write(SPEC)
    again(project, 2)
    project.ok("state", "prune", "--older", "0s")
    assert "attempt 1 not kept" in project.ok("state", "show", "a").err
    assert "attempt 1 was pruned" in project.ok("logs", "a", "--attempt", "1", code=7).err
    project.ok("destroy", "--yes")
    project.ok("state", "prune", "--older", "0s")
    assert "attempts 1 to 2 not kept" in project.ok("logs", "a", code=7).err
    again(project)
    assert attempts(project) == [3]
    sequence = [event["seq"] for event in project.events()]
    assert sequence == sorted(set(sequence)) and sequence[0] > 1


def test_after_a_destroy_the_files_go_and_the_end_of_the_output_stays(project: Project) -> None:
    project.write(SPEC)
    again(project, 2)
    project.ok("destroy", "--yes")
    assert directories(project) == 0
    shown = project.ok("logs", "a")
    assert shown.out == "of a\n" and "stored end" in shown.err
    assert (project.directory / "ran").read_text() == "ran\n" * 2


@pytest.mark.parametrize("point", ["state:prune:written", "state:prune:after", "process:discard:after"])
def test_a_prune_that_is_killed_is_finished_by_the_next(project: Project, point: str) -> None:
    project.write(SPEC)
    again(project, 4)
    killed = project.run("state", "prune", "--older", "0s", env={"FLOWPLAN_FAULT": point})
    assert killed.code == -signal.SIGKILL
    project.ok("plan", "--detailed-exitcode", "--target", "a")
    project.ok("state", "prune", "--older", "0s")
    assert attempts(project) == [4] and directories(project) == 1
    again(project)
    assert attempts(project) == [4, 5]
    assert (project.directory / "ran").read_text() == "ran\n" * 5


def test_the_state_gives_room_back(project: Project) -> None:
    project.write(SPEC.replace("echo of a", "head -c 60000 /dev/urandom | base64 -w 0"))
    again(project, 6)
    state = project.directory / ".flowplan/state.db"
    before = state.stat().st_size
    project.ok("state", "prune", "--older", "0s")
    assert state.stat().st_size < before / 2


def test_the_journal_of_processes_does_not_grow_for_ever(project: Project) -> None:
    project.write(SPEC)
    journal = project.directory / ".flowplan/state.runs/journal"
    project.ok("apply", "--yes", "--detach", "--target", "b")
    again(project, 3)
    watching = project.start("watch")
    try:
        until(lambda: journal.stat().st_size)
        project.ok("state", "prune", "--older", "0s")
        assert journal.stat().st_size == 0
        project.ok("destroy", "--yes", "--target", "b")
        assert len(journal.read_text().splitlines()) <= 1, "the end of b may be told after all is removed"
        out, err = watching.communicate(timeout=60)
        assert "b: destroyed" in out + err, (out, err)
    finally:
        watching.kill()
        watching.communicate()
