"""The main job on local processes: write a spec, plan, apply, follow, plan again, change, destroy."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from conftest import Project, until

HELLO = """\
flowplan: 1
project: demo
runs:
  hello:
    provider: process
    command: [echo, "hello world"]
"""


def test_from_the_spec_to_the_end_and_back(project: Project) -> None:
    project.write(HELLO)
    assert project.actions() == {"hello": "create"}
    applied = project.ok("apply", "--yes")
    assert "hello | hello world" in applied.out
    run = project.status()["hello"]
    assert (run["status"], run["exit_code"], run["attempt"]) == ("succeeded", 0, 1)
    assert project.actions() == {"hello": "no-op"}
    project.ok("plan", "--detailed-exitcode")
    project.ok("destroy", "--yes")
    assert project.status() == {}
    events = [e["status"] for e in project.events("hello")]
    assert events[0] == "creating" and events[-1] == "destroyed" and "succeeded" in events
    assert project.ok("logs", "hello").out == "hello world\n"


def test_plan_prints_the_same_bytes_twice_and_writes_only_the_plan(project: Project) -> None:
    project.write(HELLO)
    outs = [project.ok("plan", "--format", "json", "--out", name).out for name in ("a.json", "b.json")]
    assert outs[0] == outs[1]
    saved = [json.loads((project.directory / name).read_text()) for name in ("a.json", "b.json")]
    for document in saved:
        assert document.pop("made_at") and document.pop("seal")  # only these tell when and where it was made
    assert saved[0] == saved[1]
    assert project.ok("plan").out == project.ok("plan").out
    assert project.status() == {} and project.events() == []


def test_detailed_exit_code(project: Project) -> None:
    project.write(HELLO)
    project.ok("plan", "--detailed-exitcode", code=2)
    project.ok("plan")


def test_what_was_planned_is_what_runs(project: Project) -> None:
    project.write(
        HELLO.replace(
            '[echo, "hello world"]', '[sh, -c, \'pwd; echo $K; echo "$1"\', zero, "a  b"]\n    env: {K: 1.10}'
        )
    )
    [change] = project.plan()["changes"]
    process = change["after"]["Process"]
    assert process["argv"] == ["sh", "-c", 'pwd; echo $K; echo "$1"', "zero", "a  b"]
    assert (process["cwd"], process["env"]) == (".", {"K": "1.10"})
    out = project.ok("apply", "--yes").out.splitlines()
    assert out == [f"hello | {project.directory.resolve()}", "hello | 1.10", "hello | a  b"]


@pytest.mark.parametrize(
    ("command", "code", "status", "exit_code", "reason"),
    [
        ("[sh, -c, 'exit 0']", 0, "succeeded", 0, None),
        ("[sh, -c, 'exit 3']", 3, "failed", 3, None),
        ("[sh, -c, 'kill -9 $$']", 3, "failed", -9, "SIGKILL"),
        ("[no-such-executable]", 3, "failed", 127, "ExecutableNotFound"),
    ],
)
def test_every_end_is_told_as_it_was(
    project: Project, command: str, code: int, status: str, exit_code: int, reason: str | None
) -> None:
    project.write(HELLO.replace('[echo, "hello world"]', command))
    project.ok("apply", "--yes", code=code)
    run = project.status()["hello"]
    assert (run["status"], run["exit_code"]) == (status, exit_code)
    assert reason is None or run["reason"] == reason
    assert project.events("hello")[-1]["status"] == status
    assert project.actions() == {"hello": "no-op" if status == "succeeded" else "rerun"}


def test_a_timeout_is_kept(project: Project) -> None:
    project.write(HELLO.replace('[echo, "hello world"]', "[sleep, '600']\n    timeout: 1s\n    grace_period: 1s"))
    project.ok("apply", "--yes", code=3)
    run = project.status()["hello"]
    assert (run["status"], run["reason"]) == ("timed_out", "DeadlineExceeded")


def test_runs_outlive_flowplan_and_their_end_is_recorded(project: Project) -> None:
    project.write(HELLO.replace('[echo, "hello world"]', "[sh, -c, 'until [ -e go ]; do sleep 0.05; done; exit 7']"))
    project.ok("apply", "--yes", "--detach")
    assert project.statuses() == {"hello": "running"}
    (project.directory / "go").touch()
    run = project.await_status("hello", "failed")
    assert run["exit_code"] == 7
    assert run["started_at"] < run["finished_at"]


def test_a_second_apply_does_not_start_it_again(project: Project) -> None:
    project.write(HELLO.replace('[echo, "hello world"]', "[sh, -c, 'echo ran >> ran']"))
    project.ok("apply", "--yes")
    project.ok("apply", "--yes")
    assert (project.directory / "ran").read_text() == "ran\n"


def test_needs_are_kept_and_one_failure_stops_only_what_needs_it(project: Project) -> None:
    project.write("""\
flowplan: 1
project: demo
runs:
  bad: {provider: process, command: [sh, -c, 'exit 1']}
  after_bad: {provider: process, command: ['true'], needs: [bad]}
  good: {provider: process, command: [sh, -c, 'sleep 0.3; touch made']}
  after_good: {provider: process, command: [cat, made], needs: [good]}
""")
    result = project.ok("apply", "--yes", code=3)
    assert project.statuses() == {"bad": "failed", "good": "succeeded", "after_good": "succeeded"}
    assert "after_bad: skipped: bad failed" in result.err


def test_max_parallel_is_never_passed(project: Project) -> None:
    project.write("""\
flowplan: 1
project: demo
runs:
  cell:
    provider: process
    command: [sh, -c, 'touch running/$0; ls running | wc -l >> counts; sleep 0.2; rm running/$0', "${each.index}"]
    matrix: {n: {from: 1, to: 30}}
    max_parallel: 5
""")
    (project.directory / "running").mkdir()
    project.ok("apply", "--yes")
    counts = [int(line) for line in (project.directory / "counts").read_text().split()]
    assert len(counts) == 30
    assert max(counts) <= 5


def test_two_hundred_runs_in_one_go(project: Project) -> None:
    project.write("""\
flowplan: 1
project: demo
runs:
  cell:
    provider: process
    command: ['true']
    matrix: {n: {from: 1, to: 200}}
""")
    project.ok("apply", "--yes")
    assert set(project.statuses().values()) == {"succeeded"}
    assert len(project.statuses()) == 200


@pytest.mark.parametrize("moment", [0.3, 0.6, 0.9])
def test_kill_9_in_the_middle_of_an_apply_neither_loses_nor_repeats_a_run(project: Project, moment: float) -> None:
    project.write("""\
flowplan: 1
project: demo
runs:
  cell:
    provider: process
    command: [sh, -c, 'echo started >> "starts-$0"; sleep 1', "${each.n}"]
    matrix: {n: {from: 1, to: 20}}
""")
    killed = project.start("apply", "--yes", "--parallelism", "2")
    try:
        killed.wait(moment)
    except Exception:  # noqa: BLE001 - it is still at work, as wanted
        os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    project.ok("apply", "--yes")
    starts = {p.name: p.read_text() for p in project.directory.glob("starts-*")}
    assert starts == {f"starts-{n}": "started\n" for n in range(1, 21)}
    assert set(project.statuses().values()) == {"succeeded"}


def test_a_run_killed_with_its_supervisor_and_guard_is_lost_and_run_again(project: Project) -> None:
    project.write(HELLO.replace('[echo, "hello world"]', "[sh, -c, 'echo $$ > pid; exec sleep 600']"))
    project.ok("apply", "--yes", "--detach")
    pid = int(until(lambda: (p := project.directory / "pid").exists() and p.read_text().strip()))
    supervisor = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    guard = int(Path(f"/proc/{supervisor}/stat").read_text().rpartition(")")[2].split()[1])
    for each in (guard, supervisor, pid):
        os.kill(each, signal.SIGKILL)
    run = project.await_status("hello", "lost")
    assert run["exit_code"] is None
    assert project.actions() == {"hello": "rerun"}


def test_ctrl_c_detaches(project: Project) -> None:
    project.write(HELLO.replace('[echo, "hello world"]', "[sleep, '600']"))
    applying = project.start("apply", "--yes")
    until(lambda: (project.directory / ".flowplan/state.db").exists() and project.statuses().get("hello") == "running")
    applying.send_signal(signal.SIGINT)
    _, err = applying.communicate(timeout=20)
    assert applying.returncode == 130
    assert "flowplan watch" in err
    assert project.statuses() == {"hello": "running"}


def test_watch_comes_back_and_tells_the_end(project: Project) -> None:
    project.write(HELLO.replace('[echo, "hello world"]', "[sh, -c, 'until [ -e go ]; do sleep 0.05; done; exit 7']"))
    project.ok("apply", "--yes", "--detach")
    watching = project.start("watch")
    (project.directory / "go").touch()
    watching.communicate(timeout=20)
    assert watching.returncode == 3
    assert project.status()["hello"]["exit_code"] == 7


def test_a_failure_while_nobody_looked_does_not_fail_the_apply_that_runs_it_again(project: Project) -> None:
    once = "[sh, -c, 'until [ -e go ]; do sleep 0.05; done; echo attempt; [ -e again ] || { touch again; exit 4; }']"
    project.write(HELLO.replace('[echo, "hello world"]', once))
    project.ok("apply", "--yes", "--detach")
    (project.directory / "go").touch()
    until(lambda: any('"end"' in p.read_text() for p in (project.directory / ".flowplan").rglob("started.json")))
    applied = project.ok("apply", "--yes", "flowplan.yaml")
    assert applied.out == "hello | attempt\n"
    ends = [(e["attempt"], e["status"]) for e in project.events("hello") if e["status"] in ("failed", "succeeded")]
    assert ends == [(1, "failed"), (2, "succeeded")]


def test_wait_timeout(project: Project) -> None:
    project.write(HELLO.replace('[echo, "hello world"]', "[sleep, '600']"))
    project.ok("apply", "--yes", "--wait-timeout", "1s", code=8)
    assert project.statuses() == {"hello": "running"}


def test_destroy_stops_what_runs(project: Project) -> None:
    project.write(HELLO.replace('[echo, "hello world"]', "[sh, -c, 'echo $$ > pid; sleep 600']"))
    project.ok("apply", "--yes", "--detach")
    pid = int(until(lambda: (p := project.directory / "pid").exists() and p.read_text().strip()))
    project.ok("destroy", "--yes")
    assert not Path(f"/proc/{pid}").exists()
    assert [e["status"] for e in project.events()][-2:] == ["cancelled", "destroyed"]


def test_a_changed_command_replaces_and_says_so(project: Project) -> None:
    project.write(HELLO)
    project.ok("apply", "--yes")
    project.write(HELLO.replace("hello world", "good bye"))
    [change] = project.plan()["changes"]
    assert change["action"] == "replace"
    [field] = change["fields"]
    assert (field["path"], field["before"], field["after"]) == ("/Process/argv/1", "hello world", "good bye")
    assert field["effect"] == "replace" and field["rule"]
    assert "good bye" in project.ok("apply", "--yes").out
    assert project.status()["hello"]["attempt"] == 2


def test_a_saved_plan_is_applied_once_and_refused_when_it_is_stale(project: Project) -> None:
    project.write(HELLO)
    project.ok("plan", "--out", "plan.json")
    project.ok("apply", "plan.json", "--yes")
    project.ok("apply", "plan.json", "--yes")
    assert project.status()["hello"]["attempt"] == 1
    project.write(HELLO.replace("hello world", "two"))
    project.ok("plan", "--out", "two.json")
    project.write(HELLO.replace("hello world", "three"))
    project.ok("apply", "--yes", "flowplan.yaml")
    stale = project.ok("apply", "two.json", "--yes", code=4)
    assert "reviewed" in stale.err and "now" in stale.err


def test_an_edited_plan_is_refused(project: Project) -> None:
    project.write(HELLO)
    project.ok("plan", "--out", "plan.json")
    text = (project.directory / "plan.json").read_text()
    (project.directory / "plan.json").write_text(text.replace("hello world", "rm -rf"))
    project.ok("apply", "plan.json", "--yes", code=4)
    assert project.status() == {}


def test_apply_without_approval_and_without_a_terminal_stops(project: Project) -> None:
    project.write(HELLO)
    result = project.ok("apply", "flowplan.yaml", code=1)
    assert "--yes" in result.err
    assert project.status() == {}


def test_a_second_writer_is_refused_and_the_first_is_named(project: Project) -> None:
    project.write(HELLO.replace('[echo, "hello world"]', "[sleep, '600']"))
    project.ok("apply", "--yes", "--detach")
    holder = f"""
import sys, time
from pathlib import Path
from flowplan.state.sqlite.lock import WriterLock
lock = WriterLock(Path({str(project.directory / ".flowplan/state.db")!r}), "apply")
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""
    import subprocess
    import sys

    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as held:
        assert held.stdout is not None and held.stdout.readline() == "held\n"
        project.write(HELLO)
        refused = project.ok("apply", "--yes", "flowplan.yaml", code=5)
        assert f"pid {held.pid}" in refused.err
        project.ok("status")
        project.ok("plan")
        held.communicate("")
    project.ok("apply", "--yes", "flowplan.yaml")


def test_secrets_reach_the_run_and_nothing_else(project: Project) -> None:
    canary = 'c4n4ry-"value"/+=&x'
    project.write("""\
flowplan: 1
project: demo
variables:
  token: {type: string, sensitive: true}
runs:
  hello:
    provider: process
    command: [sh, -c, 'echo "$DIRECT"; echo "$FILE"; echo "$MIXED"; printf %s "$DIRECT" | wc -c']
    env:
      DIRECT: {from_env: THE_SECRET}
      FILE: {from_file: secret.txt}
      MIXED: "https://user:${var.token}@host/"
""")
    (project.directory / "secret.txt").write_text("f1le-canary\n")
    env = {"THE_SECRET": canary, "FLOWPLAN_VAR_token": "v4r-canary"}
    texts = [
        project.ok("plan", *form, env=env)
        for form in ((), ("--format", "json"), ("--format", "markdown"), ("--explain",))
    ]
    texts.append(project.ok("apply", "--yes", "flowplan.yaml", env=env))
    assert f"hello | {len(canary)}" in texts[-1].out
    (project.directory / "secret.txt").unlink()
    texts += [project.ok("logs", "hello"), project.ok("events"), project.ok("state", "pull"), project.ok("show")]
    everything = "".join(t.out + t.err for t in texts).encode()
    for path in project.directory.rglob("*"):
        everything += path.read_bytes() if path.is_file() and path.name != "flowplan.yaml" else b""
    for secret in (canary, "f1le-canary", "v4r-canary", json.dumps(canary)[1:-1]):
        assert secret.encode() not in everything
    assert project.actions(env=env | {"THE_SECRET": "another"}) == {"hello": "replace"}


def test_a_secret_that_cannot_be_resolved_stops_before_anything_starts(project: Project) -> None:
    project.write(
        HELLO + "    env: {A: {from_env: NOT_SET_ANYWHERE}}\n  other: {provider: process, command: [touch, made]}\n"
    )
    project.ok("plan")
    result = project.ok("apply", "--yes", code=7)
    assert "NOT_SET_ANYWHERE" in result.err
    assert not (project.directory / "made").exists()
    assert project.status() == {}


def test_usage_errors_are_7(project: Project) -> None:
    for arguments in (
        ["plan", "--nonsense"],
        ["nonsense"],
        ["plan", "--format", "yaml"],
        ["logs"],
        ["apply", "--parallelism", "x"],
    ):
        assert project.run(*arguments).code == 7, arguments
