"""Ctrl-C, SIGTERM, a closed terminal and a reader that goes away: runs go on, and the next command needs nothing special."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import socket
import subprocess
import termios
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from projects import FLOWPLAN, PATIENCE, Project, until

ENDLESS = """\
flowplan: 1
project: demo
runs:
  a: {provider: process, command: [sh, -c, 'echo first; while sleep 0.1; do echo tick; done']}
"""
MANY = """\
flowplan: 1
project: demo
runs:
  cell:
    provider: process
    command: [sh, -c, 'echo started >> "starts-$0"; sleep 0.2', "${each.n}"]
    matrix: {n: {from: 1, to: 24}}
"""
SHOWN, HIDDEN = "\x1b[?25h", "\x1b[?25l"
CAUGHT = 1 << (signal.SIGALRM - 1)
SOON = 10.0
"""Seconds within which a command that was told to end has ended, also on a machine that is busy."""


class Running:
    """A command under way, on a terminal of its own or without one, and what it has said so far."""

    def __init__(self, project: Project, *arguments: str, terminal: bool = False) -> None:
        self._read, theirs = pty.openpty() if terminal else os.pipe()
        env = {**os.environ, **project.env, "TERM": "xterm"}
        env.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            [FLOWPLAN, *arguments],
            cwd=project.directory,
            env=env,
            stdin=theirs if terminal else subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=terminal,
            preexec_fn=(lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) if terminal else None,  # noqa: PLW1509
        )
        os.close(theirs)
        self._said: list[bytes] = []
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def _listen(self) -> None:
        with suppress(OSError):  # a terminal whose other end is gone is an error
            while not self._closing.is_set() and (data := os.read(self._read, 65536)):
                self._said.append(data)

    @property
    def said(self) -> str:
        return b"".join(self._said).decode(errors="replace")

    def ready(self) -> None:
        """Wait until Python is up and flowplan in charge: what comes before cannot be told how to end."""
        path = Path(f"/proc/{self.process.pid}/status")

        def caught() -> bool:
            lines = dict(line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line)
            return self.process.poll() is not None or bool(int(lines.get("SigCgt", "0"), 16) & CAUGHT)

        until(caught)

    def press(self, keys: bytes) -> None:
        os.write(self._read, keys)

    def close_terminal(self) -> None:
        self._closing.set()
        self.press(b" ")  # which is echoed, so that the reader looks up
        self._reader.join(SOON)
        os.close(self._read)

    def end(self) -> int:
        """Return the exit code; nothing that was said is a traceback, and the cursor is there again."""
        try:
            code = self.process.wait(SOON)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"it does not end: {self.said[-2000:]}") from None
        if not self._closing.is_set():
            self._reader.join(SOON)
            os.close(self._read)
            assert self.said.rfind(SHOWN) >= self.said.rfind(HIDDEN), "the cursor is left hidden"
        for bad in ("Traceback", "Exception", "defect", "Fatal Python"):
            assert bad not in self.said, self.said
        return code


INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
MOMENTS: tuple[tuple[float, tuple[signal.Signals, ...]], ...] = (
    (0.0, (INT,)),
    (0.08, (INT, INT)),
    (0.16, (TERM,)),
    (0.24, (INT,)),
    (0.32, (HUP,)),
    (0.45, (INT, INT)),
)
"""Seconds after which these signals come."""


def interrupted(project: Project, *arguments: str, terminal: bool, moment: int, done: int = 0) -> None:
    """Return a command that gets the signals of a moment; it may have been faster, and is done then."""
    seconds, signals = MOMENTS[moment]
    running = Running(project, *arguments, terminal=terminal)
    running.ready()
    time.sleep(seconds)
    for number in signals:
        if terminal and number is INT:
            running.press(b"\x03")
        else:
            running.process.send_signal(number)
        time.sleep(0.03)
    # Ended by the signal itself: while the interpreter starts or leaves; a shell calls both 128 + number.
    assert running.end() in (done, 128 + signals[0], -signals[0])


on_and_off = pytest.mark.parametrize("terminal", [False, True], ids=["no-terminal", "terminal"])


@on_and_off
def test_an_apply_that_is_interrupted_again_and_again_starts_every_run_once(project: Project, terminal: bool) -> None:
    project.write(MANY)
    for moment in range(len(MOMENTS)):
        interrupted(project, "apply", "flowplan.yaml", "--yes", "--parallelism", "1", terminal=terminal, moment=moment)
        if (project.directory / ".flowplan/state.db").exists():
            project.ok("status")
    project.ok("apply", "flowplan.yaml", "--yes")
    assert set(project.statuses().values()) == {"succeeded"}
    starts = {p.name: p.read_text() for p in project.directory.glob("starts-*")}
    assert starts == {f"starts-{n}": "started\n" for n in range(1, 25)}
    sequence = [e["seq"] for e in project.events()]
    assert sequence == list(range(1, len(sequence) + 1))


@pytest.mark.parametrize("command", [("plan",), ("watch",), ("logs", "a", "--follow")], ids=lambda c: c[0])
def test_what_only_looks_can_be_interrupted_at_any_time(project: Project, command: tuple[str, ...]) -> None:
    project.write(ENDLESS)
    project.ok("apply", "--yes", "--detach")
    for moment in range(len(MOMENTS)):
        interrupted(project, *command, terminal=bool(moment % 2), moment=moment)
    assert project.statuses() == {"a": "running"}
    assert project.actions() == {"a": "no-op"}


def test_a_destroy_that_is_interrupted_is_finished_by_the_next(project: Project) -> None:
    project.write(MANY.replace("sleep 0.2", "exec sleep 600").replace("24", "6"))
    project.ok("apply", "flowplan.yaml", "--yes", "--detach")
    for moment in (2, 3, 4):
        interrupted(project, "destroy", "--yes", "--parallelism", "1", terminal=bool(moment % 2), moment=moment)
        project.ok("status")
    project.ok("destroy", "--yes")
    assert project.status() == {}
    ends = [e["address"] for e in project.events() if e["status"] == "destroyed"]
    assert sorted(ends) == sorted(f"cell[n={n}]" for n in range(1, 7))


def test_two_interruptions_leave_at_once_though_something_is_under_way(project: Project) -> None:
    project.write(
        ENDLESS.replace("'echo first;", '\'trap "" TERM; echo first;').replace("']}", "'], grace_period: 60}")
    )
    project.ok("apply", "--yes", "--detach")
    until(lambda: project.ok("logs", "a").out)
    destroying = Running(project, "destroy", "--yes", terminal=True)
    until(lambda: any('"stop"' in p.read_text() for p in project.directory.glob(".flowplan/state.runs/*/started.json")))
    try:
        destroying.press(b"\x03")
        until(lambda: "finishing what is under way" in destroying.said)
        assert destroying.process.poll() is None
        destroying.press(b"\x03")
        assert destroying.end() == 130
        assert project.statuses() == {"a": "running"}
    finally:
        os.killpg(int(project.status()["a"]["infrastructure_id"].rpartition(":")[2]), signal.SIGKILL)
    project.ok("destroy", "--yes")
    assert project.status() == {}


# -- terminals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("apply", "flowplan.yaml", "--yes"), ("watch",)], ids=lambda c: c[0])
def test_a_closed_terminal_is_an_interruption(project: Project, command: tuple[str, ...]) -> None:
    project.write(ENDLESS)
    if command == ("watch",):
        project.ok("apply", "--yes", "--detach")
    running = Running(project, *command, terminal=True)
    until(lambda: "a | tick" in running.said)
    running.close_terminal()
    assert running.end() == 128 + HUP
    assert project.statuses() == {"a": "running"}
    assert project.actions() == {"a": "no-op"}


def test_under_nohup_a_closed_terminal_ends_nothing(project: Project) -> None:
    project.write(ENDLESS.replace("while sleep 0.1; do echo tick; done", "until [ -e go ]; do sleep 0.05; done"))
    process = subprocess.Popen(
        ["nohup", FLOWPLAN, "apply", "flowplan.yaml", "--yes"],
        cwd=project.directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    until(lambda: (project.directory / ".flowplan/state.db").exists() and project.statuses().get("a") == "running")
    process.send_signal(HUP)
    (project.directory / "go").touch()
    said, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "interrupted" in said) == (0, False)
    assert project.statuses() == {"a": "succeeded"}


@pytest.mark.parametrize(
    ("answer", "code"), [(b"\x03", 130), (b"\x04", 1), (b"no\n", 1), (b"", 128 + HUP)], ids=["^C", "^D", "no", "closed"]
)
def test_whatever_is_no_yes_applies_nothing(project: Project, answer: bytes, code: int) -> None:
    project.write(ENDLESS)
    asking = Running(project, "apply", "flowplan.yaml", terminal=True)
    until(lambda: "Only 'yes' is accepted" in asking.said)
    if answer:
        asking.press(answer)
    else:
        asking.close_terminal()
    assert asking.end() == code
    assert project.status() == {} and project.events() == []
    project.ok("apply", "flowplan.yaml", "--yes", "--detach")


# -- readers that go away ------------------------------------------------------------------------------------------


def piped(project: Project, line: str) -> list[int]:
    """Return the exit codes of a pipeline whose reader leaves after one line."""
    done = subprocess.run(
        ["bash", "-c", f'fp() {{ "{FLOWPLAN}" "$@"; }}; {line} | head -1 >&2; echo "${{PIPESTATUS[@]}}"'],
        cwd=project.directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "Traceback" not in done.stderr and "Broken" not in done.stderr and "error" not in done.stderr, done.stderr
    return [int(code) for code in done.stdout.split()]


def test_logs_that_nobody_reads_any_more_end_though_the_run_is_silent(project: Project) -> None:
    project.write(ENDLESS.replace("while sleep 0.1; do echo tick; done", "echo second; exec sleep 600"))
    project.ok("apply", "--yes", "--detach")
    until(lambda: len(project.ok("logs", "a").out.splitlines()) == 2)
    assert piped(project, "fp logs a --follow") == [0, 0]
    assert piped(project, "fp events") == [0, 0]
    assert project.statuses() == {"a": "running"}


def test_an_apply_that_nobody_reads_goes_on_to_the_end(project: Project) -> None:
    project.write(MANY.replace("echo started", "echo; echo; echo started"))
    assert piped(project, "fp apply flowplan.yaml --yes --parallelism 2") == [0, 0]
    assert set(project.statuses().values()) == {"succeeded"}


# -- engines -------------------------------------------------------------------------------------------------------


@contextmanager
def silent_engine() -> Iterator[str]:
    """Return an address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


def test_an_engine_that_hangs_holds_nobody(project: Project) -> None:
    project.write("flowplan: 1\nproject: p\nruns: {a: {provider: docker, image: 'busybox:1.35'}}\n")
    with silent_engine() as address:
        project.env["DOCKER_HOST"] = address
        planning = Running(project, "plan")
        until(lambda: (project.directory / ".flowplan/state.db").exists())
        time.sleep(0.5)
        planning.process.send_signal(INT)
        assert planning.end() == 130


@pytest.mark.parametrize("provider", [pytest.param(p, marks=getattr(pytest.mark, p)) for p in ("docker", "kubernetes")])
def test_runs_on_engines_go_on_too(project: Project, provider: str) -> None:
    extra = ", image_pull_policy: IfNotPresent, grace_period: 1s"
    project.write(
        f"flowplan: 1\nproject: inter-{uuid.uuid4().hex[:8]}\nruns:\n"
        f"  a: {{provider: {provider}, image: 'busybox:1.35', entrypoint: [sh, -c], command: ['sleep 5']{extra}}}\n"
    )
    applying = Running(project, "apply", "flowplan.yaml", "--yes", terminal=True)
    until(lambda: "a: running" in applying.said)
    applying.process.send_signal(TERM)
    assert applying.end() == 128 + TERM
    before = project.status()["a"]
    watching = Running(project, "watch", terminal=True)
    until(lambda: HIDDEN in watching.said)  # it draws, so it follows
    watching.close_terminal()
    assert watching.end() == 128 + HUP
    project.ok("watch")
    after = project.status()["a"]
    assert (after["status"], after["attempt"], after["run_id"]) == ("succeeded", 1, before["run_id"])
