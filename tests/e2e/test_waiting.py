"""What an apply had not begun is shown with why, whatever became of the apply; nothing waits that no plan wants any more."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import Any

from projects import Project, until

from flowplan.schemas.plan_documents import schema_faults

CHAIN = """\
flowplan: 1
project: demo
defaults: {provider: process}
runs:
  report: {command: [echo, done], needs: [load]}
  extract: {command: [sh, -c, 'until [ -e go ]; do sleep 0.05; done; exit "$(cat go)"']}
  load: {command: [echo, loaded], needs: [extract]}
"""
PARALLEL = """\
flowplan: 1
project: demo
runs:
  cell:
    provider: process
    command: [sh, -c, 'until [ -e go ]; do sleep 0.05; done']
    matrix: {n: [1, 2, 3]}
    max_parallel: 2
"""


def waiting(project: Project, *arguments: str) -> dict[str, tuple[str, str]]:
    """Return address -> status and reason of what has not begun; the document is as its schema says."""
    document = project.ok("status", "--format", "json", *arguments).json
    assert schema_faults(document, "status") == []
    return {step["address"]: (step["status"], step["reason"]) for step in document["not_started"]}


def let_go(project: Project, code: int = 0) -> None:
    (project.directory / "new").write_text(str(code))
    (project.directory / "new").rename(project.directory / "go")


def plans(project: Project) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = project.ok("status", "--format", "json").json["plans"]
    return found


def test_after_detach_runs_wait_in_the_order_of_the_spec(project: Project) -> None:
    project.write(CHAIN)
    project.ok("apply", "--yes", "--detach")
    assert waiting(project) == {"load": ("waiting", "for extract"), "report": ("waiting", "for load")}
    told = project.ok("status")
    assert [line.split()[:2] for line in told.out.splitlines()[1:-1]] == [
        ["extract", "running"], ["load", "waiting"], ["report", "waiting"],
    ]  # fmt: skip
    assert told.out.splitlines()[-1] == "2 of 3 runs: 2 waiting"
    assert "2 waiting: none starts by itself; `flowplan apply` starts them" in told.err
    assert list(waiting(project, "load")) == ["load"] and waiting(project, "--running") == {}
    let_go(project)
    watched = project.ok("watch")
    assert watched.err.count("load: waiting for extract\n") == 1 and "load: waiting\n" in watched.err
    project.ok("apply", "--yes")
    assert (waiting(project), plans(project)) == ({}, [])


def test_what_needs_a_failed_run_is_skipped(project: Project) -> None:
    project.write(CHAIN)
    let_go(project, 3)
    project.ok("apply", "--yes", code=3)
    skipped = {"load": ("skipped", "extract failed (exit code 3)"), "report": ("skipped", "load was skipped")}
    assert waiting(project) == waiting(project, "--failed") == skipped
    assert project.ok("status").out.splitlines()[-1] == "3 of 3 runs: 1 failed, 2 skipped"
    told = json.loads(project.ok("watch", "--format", "json", code=3).out)
    assert [step["address"] for step in told["not_started"]] == ["load", "report"]
    let_go(project)
    project.ok("apply", "--yes")
    assert waiting(project) == {}


def test_of_a_killed_apply_everything_is_known(project: Project) -> None:
    project.write(CHAIN)
    project.ok("plan")
    killed = project.start("apply", "--yes")
    project.await_status("extract", "running")
    [plan] = plans(project)
    assert (plan["applying"], plan["pid"], plan["steps"]) == (True, killed.pid, {"waiting": 2, "skipped": 0})
    assert f"(pid {killed.pid}) goes on" in project.ok("status").err
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    [plan] = plans(project)
    assert plan["applying"] is False and waiting(project)["load"] == ("waiting", "for extract")
    let_go(project, 4)
    project.await_status("extract", "failed")
    assert waiting(project)["load"] == ("skipped", "extract failed (exit code 4)")
    let_go(project)
    project.ok("apply", "--yes")
    assert set(project.statuses().values()) == {"succeeded"} and waiting(project) == {}


def test_a_full_group_is_what_its_cells_wait_for(project: Project) -> None:
    project.write(PARALLEL)
    project.ok("apply", "--yes", "--detach")
    assert waiting(project) == {"cell[n=3]": ("waiting", "max_parallel 2")}
    assert "cell[n=3]  waiting" in project.ok("status", "cell").out
    let_go(project)
    until(lambda: project.statuses()["cell[n=1]"] == "succeeded")
    assert waiting(project) == {"cell[n=3]": ("waiting", "")}


def test_nothing_waits_that_no_plan_wants_any_more(project: Project) -> None:
    project.write(CHAIN)
    project.ok("apply", "--yes", "--detach")
    project.write(CHAIN.replace("  report: {command: [echo, done], needs: [load]}\n", ""))
    project.ok("apply", "--yes", "--detach")
    assert list(waiting(project)) == ["load"]
    let_go(project)
    project.await_status("extract", "succeeded")
    project.write("".join(CHAIN.splitlines(keepends=True)[i] for i in (0, 1, 2, 3, 5)))
    project.ok("apply", "--yes")
    assert waiting(project) == {}
    project.write(CHAIN)
    project.ok("apply", "--yes", "--detach", "--target", "report")
    project.ok("destroy", "--yes")
    assert waiting(project) == {} and project.statuses() == {}


def test_a_plan_says_what_it_supersedes(project: Project) -> None:
    project.write(CHAIN)
    project.ok("apply", "--yes", "--detach")
    [first] = plans(project)
    project.write(CHAIN.replace("[echo, loaded]", "[echo, again]").replace("report:", "other:"))
    told = {one["severity"]: one["message"] for one in project.plan()["diagnostics"]}
    assert all(first["digest"][7:19] in message for message in told.values())
    assert told["info"].endswith(" load") and told["warning"].endswith(": report")
    for form in ("text", "markdown"):
        words = " ".join(project.ok("plan", "--format", form).out.split())
        assert all(f"{message.partition(' (')[0]} (applied by" in words for message in told.values())
    assert project.plan("--target", "extract")["diagnostics"] == []
    project.ok("apply", "--yes", "--detach")
    assert list(waiting(project)) == ["load", "other"] and project.plan()["diagnostics"] == []


def test_the_accepted_plan_is_in_the_state_before_anything_runs(project: Project) -> None:
    project.write(CHAIN)
    assert project.run("apply", "--yes", env={"FLOWPLAN_FAULT": "state:accept:after"}).code == -signal.SIGKILL
    assert waiting(project)["extract"] == ("waiting", "") and project.statuses() == {}


def test_what_a_killed_apply_was_about_to_start_is_not_waited_for(project: Project) -> None:
    """An apply that waits for a run ends when another one replaced that run and was killed before it had started the new one."""
    project.write(CHAIN)
    project.ok("plan")
    applying = project.start("apply", "--yes")
    project.await_status("extract", "running")
    project.write(CHAIN.replace("extract: {", "extract: {env: {NEW: content}, "))
    assert project.run("apply", "--yes", env={"FLOWPLAN_FAULT": "engine:create:before"}).code == -signal.SIGKILL
    err = applying.communicate(timeout=120)[1]
    assert applying.returncode == 1 and "load: skipped: extract could not start" in err, err
    assert "error: extract: attempt 2 was not started: whoever was about to start it has ended" in err
    let_go(project)
    project.ok("apply", "--yes")
    assert project.statuses() == dict.fromkeys(("extract", "load", "report"), "succeeded")


def watch(project: Project) -> subprocess.Popen[str]:
    """Return a watch that has told what waits."""
    watching = project.start("watch")
    assert watching.stderr and any(" goes on" in line for line in iter(watching.stderr.readline, ""))
    return watching


def test_a_watch_follows_what_an_apply_elsewhere_starts(project: Project) -> None:
    project.write(CHAIN)
    project.ok("plan")
    applying = project.start("apply", "--yes")
    project.await_status("extract", "running")
    watching = watch(project)
    let_go(project)
    out, err = watching.communicate()
    assert watching.returncode == 0 and sorted(out.splitlines()) == ["load | loaded", "report | done"]
    ends = [line.partition(" ")[2] for line in err.splitlines() if ": succeeded after" in line]
    assert [end.partition(":")[0] for end in ends] == ["extract", "load", "report"]
    applying.communicate()


def test_a_watch_ends_when_nobody_starts_what_waits(project: Project) -> None:
    project.write(CHAIN)
    project.ok("plan")
    killed = project.start("apply", "--yes")
    project.await_status("extract", "running")
    watching = watch(project)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    let_go(project)
    _, err = watching.communicate()
    assert watching.returncode == 0 and "2 waiting: none starts by itself" in err.splitlines()[-1]
