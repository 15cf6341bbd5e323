"""What is true of processes only: one start whoever is killed, time limits, retries, groups, redaction, identity."""

from __future__ import annotations

import base64
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from flowplan.planner.manifests import ResolvedRun, process
from flowplan.providers.process import output, pump
from flowplan.providers.process.kernel import stat_of
from flowplan.providers.process.provider import ProcessProvider
from flowplan.providers.process.redaction import known_to, values_behind_tokens
from flowplan.providers.process.runfiles import RunFiles
from flowplan.providers.protocol import Context, Order
from flowplan.schemas.errors import FlowplanError, ProviderError, Refused, StartFailed
from flowplan.schemas.exit_codes import explained
from flowplan.schemas.runs import Identity, Observed, Recorded, Settings, Status
from flowplan.schemas.secrets import SecretSource, token

PATIENCE = 10.0


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until a condition holds, and give what it gave."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE:.0f} s"
        time.sleep(0.01)
    return found


def alive(pid: int) -> bool:
    found = stat_of(pid)
    return found is not None and found[0] not in "ZX"


@dataclass
class Host:
    """A runs directory and a provider on it."""

    home: Path
    lineage: str = field(default_factory=lambda: str(uuid.uuid4()))

    def __post_init__(self) -> None:
        self.runs = self.home / "state" / "runs"
        self.provider = self.connect()

    def connect(self) -> ProcessProvider:
        return ProcessProvider(Context(self.lineage, self.runs, spec_dir=self.home))

    def order(self, *argv: str, secrets: dict[str, str] | None = None, attempt: int = 1, **fields: Any) -> Order:
        tokens = {name: token(SecretSource("from_env", name), b"key", value) for name, value in (secrets or {}).items()}
        fields["env"] = {**fields.get("env", {}), **tokens}
        run = ResolvedRun("r", "r", 0, "process", "process", {"command": list(argv), **fields}, {}, str(self.home))
        identity = Identity("test", self.lineage, "r", attempt)
        made = process.render(run, identity)
        values = {tokens[name]: value for name, value in (secrets or {}).items()}
        return Order(identity, made.name, made.objects, Settings(), values)

    def sh(self, script: str, **fields: Any) -> Order:
        return self.order("sh", "-c", script, **fields)

    def record(self, order: Order, seen: Observed | None = None) -> Recorded:
        return Recorded(
            address="r",
            provider="process",
            type="process",
            target=self.provider.target().document(),
            attempt=order.identity.attempt,
            run_id=order.identity.run_id,
            name=order.name,
            objects=order.objects,
            settings=order.settings,
            status=Status.RUNNING,
            handle=dict(seen.handle) if seen else {},
        )

    def start(self, order: Order) -> Recorded:
        return self.record(order, self.provider.create(order))

    def look(self, record: Recorded) -> Observed:
        return next(one for one in self.provider.observe([record]) if one.run_id == record.run_id)

    def end(self, record: Recorded) -> Observed:
        """Watch it to its end."""
        stop = threading.Event()
        timer = threading.Timer(PATIENCE, stop.set)
        timer.start()
        seen = [one for one in self.provider.watch([record], stop) if one]
        timer.cancel()
        timer.join()
        assert not stop.is_set(), f"it did not end: {seen}"
        return seen[-1]

    def run(self, order: Order) -> Observed:
        return self.end(self.start(order))

    def file(self, record: Recorded, name: str) -> Path:
        return self.runs / record.run_id / name

    def started(self, record: Recorded) -> dict[str, Any]:
        found = RunFiles(self.file(record, ""), record.run_id).started()
        assert found
        return found

    def forge(self, record: Recorded, **identity: Any) -> None:
        """Make the process of a run another one."""
        file = self.file(record, "started.json")
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        forged = [{**line, **identity} if "pid" in line else line for line in lines]
        file.write_text("".join(json.dumps(line) + "\n" for line in forged))

    def kill_keepers(self, record: Recorded, *which: str) -> None:
        """Kill the supervisor of a run, or who stands by for it; both without ``which``."""
        started = self.started(record)
        pids = [started[name]["pid"] for name in which or ("guard", "supervisor")]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not any(map(alive, pids)), "the end of the supervisor")

    def ending(self, record: Recorded) -> dict[str, Any]:
        """Return how it ended, as its record says; {} before."""
        found = RunFiles(self.file(record, ""), record.run_id).record()
        return (found and found.end) or {}

    def text(self, record: Recorded) -> str:
        return "\n".join(line.text for line in self.provider.logs(record, follow=False, tail=None))

    def clean(self) -> None:
        self.provider.close()
        for path in self.runs.glob("*/started.json"):
            started = RunFiles(path.parent, "").started()
            if started and alive(started["pid"]):
                os.killpg(started["pid"], signal.SIGKILL)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    try:
        yield made
    finally:
        made.clean()


# -- exactly once


@pytest.mark.parametrize(
    ("point", "starts"),
    [
        ("supervisor:after_claim", 1),
        ("supervisor:after_fork", 1),
        ("child:before_started", 1),
        ("child:after_started", 0),  # killed after it was announced: it may have begun, so it is not begun again
        ("supervisor:before_exit_record", 1),
    ],
)
def test_killed_at_the_worst_moment_it_starts_once(
    host: Host, monkeypatch: pytest.MonkeyPatch, point: str, starts: int
) -> None:
    monkeypatch.setattr("flowplan.providers.process.provider.START_TIMEOUT", 0.2)
    order = host.sh("echo x >> marks")
    monkeypatch.setenv("FLOWPLAN_FAULT", point)
    try:
        host.provider.create(order)
    except ProviderError:
        assert point in ("supervisor:after_claim", "child:before_started")
    host.provider.close()
    monkeypatch.delenv("FLOWPLAN_FAULT")
    host.provider = host.connect()
    record = host.record(order, host.provider.create(order))
    seen = host.end(record)
    marks = host.home / "marks"
    assert (marks.read_text() if marks.exists() else "") == "x\n" * starts
    if point in ("supervisor:after_claim", "child:before_started"):
        assert seen.status is Status.SUCCEEDED


def test_many_flowplans_at_once_start_it_once(host: Host) -> None:
    order = host.sh("echo x >> marks; sleep 0.2")
    providers = [host.connect() for _ in range(5)]
    handles: list[Any] = []
    threads = [threading.Thread(target=lambda p=p: handles.append(p.create(order).handle["pid"])) for p in providers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for provider in providers:
        provider.close()
    assert len(handles) == 5
    assert len(set(handles)) == 1
    host.end(host.record(order))
    assert (host.home / "marks").read_text() == "x\n"


FLOWPLAN = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_supervisor import Host
host = Host(Path({home!r}), {lineage!r})
host.provider.create(host.sh("sleep 0.7; echo done; exit 5"))
print("started", flush=True)
time.sleep(60)
"""


def test_runs_outlive_a_killed_flowplan_and_their_end_is_recorded(host: Host) -> None:
    script = FLOWPLAN.format(tests=str(Path(__file__).parent), home=str(host.home), lineage=host.lineage)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as flowplan:
        assert flowplan.stdout
        assert flowplan.stdout.readline() == b"started\n"
        flowplan.kill()
    record = host.record(host.sh("sleep 0.7; echo done; exit 5"))
    assert host.look(record).status is Status.RUNNING
    supervisor = host.started(record)["supervisor"]["pid"]
    seen = host.end(record)
    assert (seen.status, seen.exit_code) == (Status.FAILED, 5)
    assert host.text(record) == "done"
    until(lambda: not alive(supervisor), "the end of the supervisor")


def test_a_supervisor_ends_with_the_last_run_after_flowplan_hung_up(host: Host) -> None:
    record = host.start(host.order("sleep", "0.5"))
    supervisor = host.started(record)["supervisor"]["pid"]
    host.provider.close()
    assert alive(supervisor)
    assert host.end(record).status is Status.SUCCEEDED
    until(lambda: not alive(supervisor), "the end of the supervisor")


def test_a_ctrl_c_reaches_neither_run_nor_supervisor(host: Host) -> None:
    record = host.start(host.order("sleep", "30"))
    supervisor = host.started(record)["supervisor"]["pid"]
    sessions = {os.getsid(0), os.getsid(record.handle["pid"]), os.getsid(supervisor)}
    assert len(sessions) == 3
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        os.kill(supervisor, number)
    assert host.provider.create(host.sh("exit 0", attempt=2)).exists
    assert alive(supervisor)


def test_without_its_supervisor_a_run_goes_on_but_its_end_is_unknown(host: Host) -> None:
    record = host.start(host.order("sleep", "0.6"))
    host.kill_keepers(record)
    assert host.look(record).status is Status.RUNNING
    until(lambda: not alive(record.handle["pid"]), "the end of the run")
    seen = host.look(record)
    assert not seen.exists
    assert "supervisor" in seen.message
    assert seen.exit_code is None


def test_a_removed_directory_harms_no_other_run(host: Host) -> None:
    gone = host.start(host.order("sleep", "0.3"))
    other = host.start(host.order("sleep", "0.6", attempt=2))
    host.file(gone, "started.json").unlink()
    host.file(gone, "").rmdir()
    assert host.look(gone).status is Status.RUNNING  # the handle still finds it
    assert host.end(other).status is Status.SUCCEEDED


@pytest.mark.parametrize("broken_off", ["", '{"pid": 1, "start'])
def test_a_start_that_was_not_recorded_was_none(host: Host, broken_off: str) -> None:
    """Kill a child before its line is whole: then the program never ran."""
    order = host.sh("echo x >> marks")
    directory = host.runs / order.identity.run_id
    directory.mkdir(parents=True)
    (directory / "started.json").write_text(broken_off)
    assert not host.look(host.record(order)).exists
    assert host.run(order).status is Status.SUCCEEDED
    assert host.run(order).status is Status.SUCCEEDED
    assert (host.home / "marks").read_text() == "x\n"


def test_the_newest_of_many_executions_counts(host: Host) -> None:
    record = host.start(host.order("true"))
    lines = "".join(json.dumps({**host.started(record), "executions": n}) + "\n" for n in range(1, 1001))
    host.file(record, "started.json").write_text(lines + '{"pid": 1, "exec')
    assert host.started(record)["executions"] == 1000


# -- a supervisor that is killed


CHATTY = 'i=0; until [ -e go ]; do sleep 0.02; done; while [ $i -lt 3000 ]; do echo "$i $PW $PW $PW $PW"; i=$((i+1)); done; exit 4'


@pytest.mark.parametrize("which", ["supervisor", "guard"])
@pytest.mark.parametrize("secrets", [{}, {"PW": "hunter2-hunter2"}], ids=["plain", "secret"])
def test_who_kills_one_of_the_two_changes_nothing(host: Host, which: str, secrets: dict[str, str]) -> None:
    record = host.start(host.order("sh", "-c", CHATTY, secrets=secrets))
    host.kill_keepers(record, which)
    (host.home / "go").touch()
    seen = host.end(record)
    assert (seen.status, seen.exit_code) == (Status.FAILED, 4)
    lines = host.text(record).splitlines()
    assert [line.split()[0] for line in lines] == [str(n) for n in range(3000)]
    assert not secrets or {line.split(" ", 1)[1] for line in lines} == {
        "(sensitive) (sensitive) (sensitive) (sensitive)"
    }


def test_what_was_on_its_way_when_the_supervisor_was_killed_shows_no_part_of_a_secret(host: Host) -> None:
    script = "printf 'first\\nhunter2-'; until [ -e go ]; do sleep 0.02; done; printf 'hunter2 | rest\\nlast\\n'"
    record = host.start(host.order("sh", "-c", script, secrets={"PW": "hunter2-hunter2"}))
    until(lambda: host.text(record).startswith("first"), "output")
    host.kill_keepers(record, "supervisor")
    (host.home / "go").touch()
    assert host.end(record).status is Status.SUCCEEDED
    assert "hunter2" not in host.text(record)
    assert host.text(record).splitlines() == [
        "first",
        "[flowplan: 15 bytes of output were not kept: the supervisor was killed]",
        "last",
    ]


def test_the_time_limit_and_the_tries_are_kept_after_the_supervisor_was_killed(host: Host) -> None:
    limited = host.start(host.order("sleep", "60", timeout=1))
    failing = host.start(host.sh("echo x >> marks; until [ -e go ]; do sleep 0.02; done; exit 1", retries=1, attempt=2))
    host.kill_keepers(limited, "supervisor")
    (host.home / "go").touch()
    assert host.end(limited).status is Status.TIMED_OUT
    seen = host.end(failing)
    assert (seen.status, seen.attempts) == (Status.FAILED, 2)
    assert (host.home / "marks").read_text() == "x\nx\n"


def test_without_both_a_run_writes_on_and_nobody_claims_to_keep_its_limit(host: Host) -> None:
    script = "until [ -e go ]; do sleep 0.02; done; echo on; echo $PW > wrote"
    record = host.start(host.order("sh", "-c", script, secrets={"PW": "hunter2-hunter2"}, timeout=60))
    assert host.provider.keeps_timeout(record)
    host.kill_keepers(record)
    assert not host.provider.keeps_timeout(record)
    (host.home / "go").touch()
    until((host.home / "wrote").exists, "what the run does after it has written")


def test_a_renamed_directory_takes_its_runs_along(host: Host) -> None:
    record = host.start(host.sh("until [ -e go ]; do sleep 0.02; done; echo done; exit 3"))
    host.provider.close()
    moved = host.home / "moved"
    (host.home / "state").rename(moved)
    (host.home / "go").touch()
    there = Host(host.home, host.lineage)
    there.runs = moved / "runs"
    there.provider = ProcessProvider(Context(host.lineage, there.runs))
    seen = there.end(record)
    assert (seen.status, seen.exit_code) == (Status.FAILED, 3)
    assert there.text(record) == "done"


# -- limits, retries, groups


def test_the_time_limit_is_kept_and_told(host: Host) -> None:
    seen = host.run(host.order("sleep", "30", timeout=0.3))
    assert (seen.status, seen.reason, seen.exit_code) == (Status.TIMED_OUT, "DeadlineExceeded", -15)
    assert "time limit" in seen.message


def test_a_run_that_ignores_term_is_killed_after_its_grace(host: Host) -> None:
    seen = host.run(host.sh("trap '' TERM; while :; do sleep 0.1; done", timeout=0.3, grace_period=0.3))
    assert (seen.status, seen.exit_code) == (Status.TIMED_OUT, -9)


def test_the_time_limit_is_kept_without_flowplan(host: Host) -> None:
    record = host.start(host.order("sleep", "30", timeout=0.4))
    host.provider.close()
    assert host.end(record).status is Status.TIMED_OUT


def test_a_failed_run_is_started_again(host: Host) -> None:
    record = host.start(host.sh("echo x >> marks; test $(wc -l < marks) -ge 2", retries=3))
    seen = host.end(record)
    assert (seen.status, seen.attempts, seen.exit_code) == (Status.SUCCEEDED, 2, 0)


def test_retries_come_to_an_end(host: Host) -> None:
    seen = host.run(host.sh("echo again; exit 4", retries=1))
    assert (seen.status, seen.attempts, seen.exit_code) == (Status.FAILED, 2, 4)
    [retry] = seen.tries
    assert (retry.number, retry.of, retry.before) == (2, 2, "exit code 4")
    assert retry.began_at and seen.started_at < retry.began_at < seen.finished_at


def test_between_two_tries_a_run_is_not_lost_and_can_be_stopped(host: Host) -> None:
    record = host.start(host.sh("echo x >> marks; exit 1", retries=5))
    until(lambda: not alive(host.started(record)["pid"]), "the first failure")
    assert host.look(record).status is Status.RUNNING
    host.provider.delete(record, 1)
    assert not host.look(record).exists
    until(lambda: host.ending(record), "the supervisor's word")
    assert (host.home / "marks").read_text() == "x\n"


def pauses(host: Host, record: Recorded) -> list[float]:
    """Return the seconds between the executions of a run that writes when it begins and ends into ``times``."""
    times = [float(line) for line in (host.home / "times").read_text().split()]
    return [begin - end for end, begin in zip(times[1::2], times[2::2], strict=False)]


TIMED = "date +%s.%N >> times; date +%s.%N >> times; exit 3"


def test_no_try_begins_before_its_delay(host: Host) -> None:
    record = host.start(host.sh(TIMED, retries=3, retry_delay={"initial": 0.3, "factor": 3, "max": 0.8}))
    waiting = until(lambda: (seen := host.look(record)).reason == "RetryDelay" and seen, "a wait")
    assert waiting.status is Status.RUNNING and waiting.message.startswith("exit code 3; try ")
    assert host.end(record).attempts == 4
    assert all(pause >= delay for pause, delay in zip(pauses(host, record), (0.3, 0.8, 0.8), strict=True))


def test_a_wait_goes_on_when_the_supervisor_is_killed_and_ends_when_the_run_is_removed(host: Host) -> None:
    record = host.start(host.sh(TIMED, retries=1, retry_delay=1.5))
    until(lambda: host.look(record).reason == "RetryDelay", "a wait")
    host.kill_keepers(record, "supervisor")
    assert host.end(record).attempts == 2
    assert pauses(host, record)[0] >= 1.5
    long = host.start(host.sh("exit 3", retries=1, retry_delay="1h", attempt=2))
    until(lambda: host.look(long).reason == "RetryDelay", "a wait")
    host.provider.delete(long, 1)
    assert host.ending(long), "at once, not after an hour"


def test_a_time_limit_ends_the_tries(host: Host) -> None:
    seen = host.run(host.sh("exit 1", retries=50, timeout=0.3))
    assert seen.status is Status.TIMED_OUT


def test_what_a_run_leaves_in_its_group_ends_with_it(host: Host) -> None:
    record = host.start(host.sh("sleep 60 & echo $!; exit 0"))
    assert host.end(record).status is Status.SUCCEEDED
    child = int(host.text(record))
    until(lambda: not alive(child), "the end of the rest")


def test_a_deleted_run_takes_its_group_along(host: Host) -> None:
    record = host.start(host.sh("sleep 60 & echo $!; wait"))
    child = int(until(lambda: host.text(record), "output"))
    host.provider.delete(record, 5)
    assert not alive(child)
    ended = host.ending(record)
    assert (ended["status"], ended["reason"]) == ("cancelled", "SIGTERM")


def test_a_deleted_run_without_supervisor_takes_its_group_along(host: Host) -> None:
    record = host.start(host.sh("trap '' TERM; sh -c 'trap \"\" TERM; echo ready; sleep 60' & wait"))
    until(lambda: host.text(record), "output")
    host.kill_keepers(record)
    os.kill(record.handle["pid"], signal.SIGKILL)
    until(lambda: not alive(record.handle["pid"]), "the end of the leader")
    host.provider.delete(record, 0.2)
    rest = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]
    until(
        lambda: not [p for p in rest if (s := stat_of(p)) and s[1] == record.handle["pid"] and s[0] != "Z"], "its end"
    )


DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        {more}
        for fd in (0, 1, 2): os.close(fd)
        with open("daemon", "w") as file: file.write(str(os.getpid()))
        time.sleep(60)
    os._exit(0)
os.wait()
while not os.path.exists("daemon") or not open("daemon").read(): time.sleep(0.01)
{then}
"""
NAMELESS = 'os.execvpe("sh", ["sh", "-c", "printf $$ > daemon; exec sleep 60"], {"PATH": os.environ["PATH"]})'


def daemon(host: Host) -> int:
    path = host.home / "daemon"
    return int(until(lambda: path.exists() and path.read_text(), "a daemon"))


@pytest.mark.parametrize("more", ["", NAMELESS], ids=["marked", "nameless"])
@pytest.mark.parametrize("how", ["ends", "is deleted", "times out"])
def test_what_left_the_session_ends_with_the_run(host: Host, how: str, more: str) -> None:
    then = "" if how == "ends" else "time.sleep(60)"
    limit = {"timeout": 2} if how == "times out" else {}
    record = host.start(host.order(sys.executable, "-c", DAEMON.format(more=more, then=then), **limit))
    pid = daemon(host)
    if how == "is deleted":
        host.provider.delete(record, 5)
    else:
        host.end(record)
    assert not alive(pid)


def test_what_goes_on_after_everybody_was_killed_is_told_and_ended(host: Host) -> None:
    record = host.start(host.order(sys.executable, "-c", DAEMON.format(more="", then="time.sleep(60)")))
    pid = daemon(host)
    host.kill_keepers(record)
    os.kill(record.handle["pid"], signal.SIGKILL)
    until(lambda: not alive(record.handle["pid"]), "the end of its own process")
    seen = host.look(record)
    assert seen.status is Status.RUNNING
    assert f"process {pid}" in seen.message
    host.provider.delete(record, 1)
    assert not alive(pid)


def test_what_cannot_be_told_whose_it_is_is_named(host: Host) -> None:
    other = host.start(host.order("sleep", "60", attempt=2))
    record = host.start(host.order(sys.executable, "-c", DAEMON.format(more=NAMELESS, then="")))
    pid = daemon(host)
    seen = host.end(record)
    assert f"process {pid}, which it may have started, goes on" in seen.message
    with pytest.raises(ProviderError, match=f"{pid}.*end it by hand"):
        host.provider.delete(record, 1)
    host.provider.delete(record, 1)
    host.provider.delete(other, 1)
    until(lambda: not alive(pid), "its end with the last run")


def test_the_output_stays_after_delete(host: Host) -> None:
    record = host.start(host.sh("echo kept; sleep 60"))
    until(lambda: host.text(record), "output")
    host.provider.delete(record, 1)
    assert host.text(record) == "kept"


# -- identity


def test_a_reused_pid_is_never_signalled(host: Host) -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as stranger:
        record = host.start(host.order("true"))
        host.end(record)
        host.kill_keepers(record)
        host.forge(record, pid=stranger.pid)
        *starts, _ = host.file(record, "started.json").read_text().splitlines(keepends=True)
        host.file(record, "started.json").write_text("".join(starts))  # without its end
        assert not host.look(record).exists
        host.provider.delete(record, 0.1)
        assert alive(stranger.pid)
        stranger.kill()


@pytest.mark.parametrize(
    ("identity", "where"),
    [
        ({"boot_id": "00000000-0000-0000-0000-000000000000", "host": "mars"}, "mars"),
        ({"pid_namespace": "pid:[1]", "host": "mars"}, "mars"),
        ({"boot_id": "00000000-0000-0000-0000-000000000000"}, "before it was started anew"),
        ({"uid": os.geteuid() + 1}, f"as user {os.geteuid() + 1}"),
    ],
    ids=["another-host", "another-container", "restarted", "another-user"],
)
def test_a_run_of_another_host_is_told_as_such_and_left_alone(host: Host, identity: dict[str, Any], where: str) -> None:
    record = host.start(host.order("sleep", "60"))
    ended = host.start(host.sh("exit 3", attempt=2))
    host.end(ended)
    for one in (record, ended):
        host.forge(one, **identity)
    seen = host.look(record)
    assert (seen.exists, seen.status) == (True, Status.RUNNING)
    assert where in seen.elsewhere
    assert "last seen 20" in seen.message
    assert host.provider.keeps_timeout(record)
    with pytest.raises(Refused, match="it runs on ") as refusal:
        host.provider.delete(record, 0.1)
    assert "flowplan state rm r" in (refusal.value.hint or "")
    assert alive(record.handle["pid"])
    assert host.look(ended).exit_code == 3  # what its files tell is known everywhere
    host.forge(record, boot_id=record.handle["boot_id"], pid_namespace=record.handle["pid_namespace"])


def test_a_run_of_another_host_without_files_is_told_as_such(host: Host) -> None:
    foreign = replace(host.record(host.order("true")), target={"type": "process", "id": "0" * 32, "label": "mars"})
    assert host.look(foreign).elsewhere == "mars"
    with pytest.raises(Refused, match="it runs on mars; this is"):
        host.provider.delete(foreign, 0.1)
    with pytest.raises(Refused, match="it runs on mars; this is"):
        host.provider.logs(foreign, follow=False, tail=None)


def test_equal_process_numbers_of_two_hosts_are_told_apart(host: Host) -> None:
    record = host.start(host.order("sleep", "60"))
    nonce = host.started(record)["nonce"]
    host.forge(record, nonce="f" * 32)
    with subprocess.Popen(["sleep", "0"]) as gone:
        pass
    for keeper in ("supervisor", "guard"):
        host.forge(record, **{keeper: {"pid": gone.pid, "start_time": 1}})
    assert "goes on" in host.look(record).message  # it has our marks, and is not the one that was recorded
    host.forge(record, nonce=nonce)
    assert host.look(record).message == ""


def test_a_stopped_attempt_is_never_started_again(host: Host) -> None:
    order = host.order("true")
    record = host.start(order)
    host.end(record)
    host.provider.delete(record, 0)
    assert not host.provider.create(order).exists
    ghost = host.order("true", attempt=7)
    host.file(host.record(ghost), "").mkdir()
    host.provider.delete(host.record(ghost), 0)
    with pytest.raises(ProviderError, match="stopped or removed"):
        host.provider.create(ghost)


def test_a_process_cannot_be_updated(host: Host) -> None:
    order = host.order("true")
    with pytest.raises(ProviderError, match="cannot be changed once started"):
        host.provider.update(host.record(order), order, [])


# -- starting


def failed(host: Host, order: Order) -> StartFailed:
    with pytest.raises(StartFailed) as failure:
        host.provider.create(order)
    with pytest.raises(StartFailed):
        host.provider.create(order)  # the answer stays the same
    (finding,) = host.provider.preflight([order])
    assert finding.severity == "error"
    assert finding.message == failure.value.message
    seen = host.look(host.record(order))
    assert (seen.status, seen.exit_code, seen.reason) == (
        Status.FAILED,
        failure.value.exit_code_of_run,
        failure.value.reason,
    )
    return failure.value


def test_a_missing_executable(host: Host) -> None:
    error = failed(host, host.order("nope-nope", env={"PATH": "/bin:/nowhere"}))
    assert str(error).startswith('r: executable "nope-nope" was not found in PATH (/bin:/nowhere)')
    assert (error.exit_code_of_run, error.reason) == (127, "ExecutableNotFound")


def test_a_missing_path(host: Host) -> None:
    error = failed(host, host.order("./nope"))
    assert f'executable "{host.home}/nope" does not exist' in str(error)
    assert error.exit_code_of_run == 127


def test_a_file_that_is_not_executable(host: Host) -> None:
    (host.home / "tool").write_text("#!/bin/sh\n")
    error = failed(host, host.order("./tool"))
    assert "is not executable" in str(error)
    assert (error.exit_code_of_run, error.reason) == (126, "NotExecutable")


def test_a_directory_is_not_executable(host: Host) -> None:
    (host.home / "tool").mkdir()
    assert failed(host, host.order("./tool")).exit_code_of_run == 126


@pytest.mark.parametrize(("make", "word"), [(None, "does not exist"), ("file", "is not a directory")])
def test_a_bad_working_directory(host: Host, make: str | None, word: str) -> None:
    if make:
        (host.home / "there").touch()
    error = failed(host, host.order("true", working_dir="there"))
    assert word in str(error)
    assert (error.exit_code_of_run, error.reason) == (127, "WorkingDirectoryMissing")


@pytest.mark.parametrize(
    ("first", "words"),
    [("#!/no/such/interpreter", "/no/such/interpreter, does not exist"), ("#!/bin/sh\r", "the line ends of Windows")],
)
def test_a_script_whose_interpreter_is_not_there(host: Host, first: str, words: str) -> None:
    script = host.home / "tool"
    script.write_text(f"{first}\n")
    script.chmod(0o755)
    order = host.order("./tool")
    assert [words in finding.message for finding in host.provider.preflight([order])] == [True]
    with pytest.raises(StartFailed) as failure:
        host.provider.create(order)
    assert words in str(failure.value)
    assert failure.value.exit_code_of_run == 127


def test_the_executable_is_looked_for_in_the_runs_own_path_and_directory(host: Host) -> None:
    for place in ("bin", "here"):
        (host.home / place).mkdir()
        tool = host.home / place / "tool"
        tool.write_text(f"#!/bin/sh\necho {place}\n")
        tool.chmod(0o755)
    by_path = host.order("tool", env={"PATH": f"{host.home}/bin:/bin:/usr/bin"})
    by_directory = host.order("./tool", working_dir="here", attempt=2)
    assert host.provider.preflight([by_path, by_directory]) == []
    for order, text in ((by_path, "bin"), (by_directory, "here")):
        record = host.start(order)
        host.end(record)
        assert host.text(record) == text


@pytest.mark.parametrize(
    ("inherit", "expected"),
    [(True, "theirs mine"), (False, "mine"), (["KEPT"], "theirs mine"), (["OTHER"], "mine")],
)
def test_the_environment_is_inherited_as_told(
    host: Host, monkeypatch: pytest.MonkeyPatch, inherit: Any, expected: str
) -> None:
    monkeypatch.setenv("KEPT", "theirs")
    monkeypatch.setenv("DROPPED", "never")
    env = {"OWN": "mine", "DROPPED": None}
    order = host.order("/bin/sh", "-c", "echo $KEPT $OWN $DROPPED", env=env, process={"inherit_env": inherit})
    record = host.start(order)
    host.end(record)
    assert host.text(record) == expected


def test_no_shell_no_input_and_the_limits_of_the_caller(host: Host) -> None:
    code = (
        "import os,sys,resource; open_files = len(os.listdir('/proc/self/fd'))\n"
        "print(sys.argv[1], repr(sys.stdin.read()), resource.getrlimit(resource.RLIMIT_NOFILE)[0], open_files)"
    )
    record = host.start(host.order(sys.executable, "-c", code, "$HOME; *"))
    host.end(record)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert host.text(record) == f"$HOME; * '' {soft} 4"  # the fourth lists the directory


def test_files_are_private(host: Host) -> None:
    record = host.start(host.order("true"))
    host.end(record)
    assert host.runs.stat().st_mode & 0o777 == 0o700
    assert host.file(record, "").stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in host.runs.rglob("*") if p.is_file()} == {0o600}


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    host = Host(tmp_path)
    with pytest.raises(FlowplanError, match="cannot be written"):
        host.provider.create(host.order("true"))


def test_a_hundred_runs_share_one_small_supervisor(host: Host) -> None:
    records = [host.start(host.order("sleep", "60", attempt=n)) for n in range(1, 101)]
    supervisors = {host.started(record)["supervisor"]["pid"] for record in records}
    (one,) = supervisors
    status = dict(line.split(":", 1) for line in Path(f"/proc/{one}/status").read_text().splitlines())
    assert int(status["VmRSS"].split()[0]) < 16_000
    for record in records:
        os.kill(record.handle["pid"], signal.SIGKILL)
    assert {host.end(record).reason for record in records} == {"SIGKILL"}


def test_the_end_is_told_soon(host: Host) -> None:
    record = host.start(host.order("sleep", "0.5"))
    for seen in host.provider.watch([record], threading.Event()):
        if seen and seen.finished_at:
            ended = host.ending(record)["finished_at"]
            assert seen.finished_at == ended
            late = time.time() - host.file(record, "started.json").stat().st_mtime
            assert late < 1.0  # 0.1 s between looks; the rest is for a busy machine


# -- secrets


SECRET = 's3cr3t/with "quotes"+& ünïcode'


def test_no_secret_reaches_the_disk_or_the_process_list(host: Host) -> None:
    in_base64 = base64.b64encode(SECRET.encode()).decode()
    code = (
        "import os,sys,json,base64,time; s=os.environ['PW']\n"
        "for c in 'a'+s+'b\\n': print(c,end='',flush=True)\n"
        "print(json.dumps({'p':s})); print(base64.b64encode(s.encode()).decode()); print(s,file=sys.stderr)\n"
        "print('tail',end=''); sys.stdout.flush(); time.sleep(0.3)"
    )
    record = host.start(host.order(sys.executable, "-c", code, secrets={"PW": SECRET}))
    assert host.provider.secret_values(record) == [SECRET]
    supervisor = host.started(record)["supervisor"]["pid"]
    for file in ("environ", "cmdline"):
        assert b"s3cr3t" not in Path(f"/proc/{supervisor}/{file}").read_bytes()
    assert host.end(record).status is Status.SUCCEEDED
    text = host.text(record)
    assert text.splitlines()[0] == "a(sensitive)b"
    assert text.splitlines()[-2:] == ["(sensitive)", "tail"]  # in the order of writing
    for path in host.runs.rglob("*"):
        if path.is_file():
            content = path.read_text()
            assert "s3cr3t" not in content
            assert in_base64.rstrip("=") not in content


def test_a_secret_in_the_program_name_is_not_in_the_error(host: Host) -> None:
    order = host.order("x")
    hidden = token(SecretSource("from_env", "PW"), b"key", "hunter2")
    order.objects["Process"]["argv"] = [f"/nowhere/{hidden}"]
    order = replace(order, secrets={hidden: "hunter2"})
    (finding,) = host.provider.preflight([order])
    with pytest.raises(StartFailed) as failure:
        host.provider.create(order)
    assert "hunter2" not in f"{failure.value} {finding}"


def test_a_run_may_print_what_it_inherits() -> None:
    assert known_to(["url://pw-one@db"], ["used"], ["pw-one", "pw-two", "url"]) == {"used", "pw-one"}


def test_values_behind_tokens() -> None:
    one, two = (token(SecretSource("from_env", name), b"key", "x") for name in "AB")
    recorded = {"URL": f"pg://{one}:{two}@db", "PLAIN": "p", "GONE": one, "ODD": f"a{one}"}
    assert values_behind_tokens(recorded, {"URL": "pg://me:pw@db", "PLAIN": "p", "ODD": "z"}) == ["me", "pw", "z"]


# -- output


def test_both_streams_are_one_in_the_order_of_writing(host: Host) -> None:
    record = host.start(host.sh("for i in 1 2 3; do echo out $i; echo err $i >&2; echo more $i > /dev/stderr; done"))
    host.end(record)
    assert host.text(record).splitlines() == [f"{word} {n}" for n in (1, 2, 3) for word in ("out", "err", "more")]


def test_tries_are_told_apart(host: Host) -> None:
    record = host.start(host.sh("printf again; exit 4", retries=2))
    host.end(record)
    assert host.text(record).splitlines() == ["again", "[flowplan: try 2]", "again", "[flowplan: try 3]", "again"]


def test_of_a_chatty_run_the_end_is_kept_and_told_what_was_dropped(host: Host) -> None:
    lines = 40_000
    record = host.start(host.sh(f"seq {lines}; echo the end", process={"log_limit": "128Ki"}))
    host.end(record)
    kept = sum(path.stat().st_size for path in host.file(record, "").glob("output*"))
    assert 64 * 1024 <= kept <= 128 * 1024
    first, *rest = host.text(record).splitlines()
    whole = sum(len(f"{n}\n") for n in range(1, lines + 1)) + len("the end\n")
    assert first == f"[flowplan: {whole - kept} bytes of output were dropped, see log_limit]"
    assert rest[1:] == [*(str(n) for n in range(int(rest[1]), lines + 1)), "the end"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_run_that_fills_the_disk_is_told_and_hides_no_end(tmp_path: Path) -> None:
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "flowplan-test", tmp_path], check=False)
    if made.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    host = Host(tmp_path)
    try:
        quiet = host.start(host.sh("until [ -e go ]; do sleep 0.05; done; exit 5"))
        loud = host.start(host.sh("head -c 9000000 /dev/zero; until [ -e go ]; do sleep 0.05; done; exit 4", attempt=2))
        news = host.provider.watch([loud], threading.Event())
        told = next(one for one in news if isinstance(one, ProviderError))
        assert "full" in told.message
        (host.home / "go").mkdir()  # takes no block
        assert {host.end(one).exit_code for one in (quiet, loud)} == {4, 5}
    finally:
        host.clean()
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_line_without_end_takes_little_memory(host: Host) -> None:
    record = host.start(host.sh("head -c 30000000 /dev/zero | tr '\\0' x", process={"log_limit": "20Mi"}))
    host.end(record)
    tracemalloc.start()
    try:
        size = sum(len(line.text) for line in host.provider.logs(record, follow=False, tail=1))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 10 << 20 <= size <= 20 << 20
    assert peak < 2 << 20


def test_an_ended_run_keeps_one_small_file_and_its_output_with_times(host: Host) -> None:
    silent, loud = host.start(host.order("true")), host.start(host.order("echo", "x", attempt=2))
    for record in (silent, loud):
        host.end(record)
        host.provider.delete(record, 1)
    assert [path.name for path in host.file(silent, "").iterdir()] == ["started.json"]
    assert sorted(path.name for path in host.file(loud, "").iterdir()) == ["output", "started.json", "times"]
    assert host.file(silent, "started.json").stat().st_size < 4096


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("block", [1, 3, 1000])
@pytest.mark.parametrize("cut", [0, 4, 5])
def test_the_tail_of_an_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, end: str, block: int, cut: int
) -> None:
    monkeypatch.setattr(output, "BLOCK", block)
    lines = ["one", "", "three", "four"]
    text = "\n".join(lines) + end
    (tmp_path / "output").write_text(text[:cut] if cut else text)
    if cut:
        (tmp_path / f"output.{cut}").write_text(text[cut:])
    tail = text[output.Kept(tmp_path).start_of_tail(count) :].removesuffix("\n")
    assert tail == "\n".join(lines[max(len(lines) - count, 0) :])


def test_bytes_that_are_no_text_and_lines_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LONGEST_LINE", 8)
    monkeypatch.setattr(output, "BLOCK", 10)
    (tmp_path / "output").write_bytes(b"\xff\r\n" + b"x" * 17)
    lines = output.read(tmp_path, tail=None, ended=lambda: True, follow=False, stop=threading.Event())
    texts = [line.text for line in lines]
    assert texts[0] == "\ufffd"
    assert "".join(texts[1:]) == "x" * 17


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exit code 0"),
        (-9, "killed (SIGKILL)"),
        (-15, "SIGTERM"),
        (-11, "ended by SIGSEGV"),
        (3, "exit code 3"),
        (126, "could not be executed"),
        (127, "was not found"),
        (137, "out of memory"),
        (139, "likely ended by SIGSEGV"),
        (143, "SIGTERM"),
    ],
)
def test_what_exit_codes_mean(code: int, words: str) -> None:
    assert words in explained(code)


# -- marks


def test_a_live_process_is_found_without_its_files(host: Host) -> None:
    record = host.start(host.order("sleep", "60"))
    for path in sorted(host.file(record, "").rglob("*")):
        path.unlink()
    host.file(record, "").rmdir()
    (seen,) = [one for one in host.provider.observe([]) if one.run_id == record.run_id]
    assert (seen.status, seen.address, seen.attempt, seen.lineage) == (Status.RUNNING, "r", 1, "")
    assert seen.handle["pid"] == record.handle["pid"]
    (found,) = [one for one in host.provider.find("test") if one.seen.run_id == record.run_id]
    assert found.lineage == host.lineage
    host.provider.delete(replace(record, handle=seen.handle), 1)
    assert not alive(record.handle["pid"])


def test_a_live_process_of_the_same_project_and_another_lineage_is_told(host: Host) -> None:
    record = host.start(host.order("sleep", "60"))
    other = ProcessProvider(Context(str(uuid.uuid4()), host.home / "other" / "runs", project="test"))
    (seen,) = [one for one in other.observe([]) if one.run_id == record.run_id]
    assert (seen.lineage, seen.address) == (host.lineage, "r")
    strange = ProcessProvider(Context(str(uuid.uuid4()), host.home / "other" / "runs", project="different"))
    assert not [one for one in strange.observe([]) if one.run_id == record.run_id]


def test_the_times_of_an_output_are_kept_by_the_second_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "MOST_TIMES", 500)
    clock = iter(range(1_700_000_000 * pump.SECOND, 1 << 62, pump.SECOND // 2))
    monkeypatch.setattr(pump.time, "time_ns", lambda: next(clock))
    written = pump.Output(str(tmp_path), 1 << 20, None)
    for _ in range(400):
        written.say("x")
    times = output.Times(tmp_path)
    times.look()
    assert (tmp_path / pump.TIMES).stat().st_size <= 600
    assert times.at(0) == "2023-11-14T22:13:20Z" and times.at(2 * 399) == "2023-11-14T22:16:39Z"
    (tmp_path / pump.TIMES).write_bytes(b"\n5 17000\n9 1700000000000000000\n")
    times.look()
    assert (times.at(8), times.at(9)) == (None, "2023-11-14T22:13:20Z")
