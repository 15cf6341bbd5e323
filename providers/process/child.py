"""A run under supervision, and what happens between fork and exec in the process that becomes it.

A fork marks every page of memory to be copied when next written to, by the child or by the supervisor, and that is most
of what starting a run costs. Hence what can be done for several runs together, or before the fork, is.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import time

from flowplan.providers.process import kernel, record
from flowplan.providers.process.pump import DEFAULT_LIMIT, Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FAULT = os.environ.get("FLOWPLAN_FAULT")
"""The point at which a test wants an end."""
DEFAULT_PATH = "/bin:/usr/bin"
DEFAULT_GRACE = 30.0
MISSING = frozenset({errno.ENOENT, errno.ENOTDIR})
"""What exec and chdir say when there is no such file."""


def fault(point: str) -> None:
    """Die here, for the tests of what happens then."""
    if point == FAULT:
        os.kill(os.getpid(), signal.SIGKILL)


class Run:
    """One attempt under supervision; its files are in a directory of the current one.

    Attributes:
        executions, first_start, clock: how often it was started, and when the first time, by the two clocks.
        errors: where the child says why it could not become the program; -1 once it has, or has ended.
        announced: the newest execution whose number is in the output.
        slot: its byte of ``UnwrittenOutput``.
        phase: ``running``, ``ending`` (it has ended, what it left is being ended), or ``waiting`` for its next try.
        due: when the next try begins, by the clock of ``clock``.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.id: str = request["id"]
        self.argv: list[str] = request.get("argv", [])
        self.cwd: str = request.get("cwd", "/")
        self.env: dict[str, str] = request.get("env", {})
        self.timeout: float | None = request.get("timeout")
        self.grace: float = request.get("grace", DEFAULT_GRACE)
        self.retries: int = request.get("retries", 0)
        self.executions: int = request.get("executions", 0)
        self.first_start: int = request.get("first_start", 0)
        self.clock: float = request.get("clock", 0.0)
        self.files: list[str] = []
        self.output = Output(self.id, request.get("log_limit") or DEFAULT_LIMIT, None)
        self.pid = 0
        self.code = 0
        self.errors = -1
        self.phase = "running"
        self.due = 0.0
        self.announced = 0
        self.slot: int | None = request.get("slot")
        self.timed_out = self.stopped = self.replied = False
        self.failure: dict[str, Any] | None = None
        self.left: list[int] = []

    @property
    def path(self) -> str:
        """Return where the record is."""
        return f"{self.id}/{record.NAME}"

    def read(self) -> record.Record | None:
        """Read the record; None when it is gone, or no record any more."""
        try:
            return record.read(self.path)
        except (OSError, ValueError):
            return None

    def announcement(self) -> dict[str, Any]:
        """Return what another supervisor must know to go on with this run."""
        again = ("argv", "env", "cwd", "core") if self.retries >= self.executions else ()
        names = ("id", "timeout", "grace", "retries", "retry_delay", "log_limit", "redact", *again)
        known = {name: self.request[name] for name in names if name in self.request}
        known |= {"executions": self.executions, "first_start": self.first_start, "clock": self.clock}
        return known if self.slot is None else known | {"slot": self.slot}

    def deserves_retry(self) -> bool:
        """Return whether an execution that has ended is to be followed by another one."""
        over = self.code == 0 or self.timed_out or self.failure or self.stopped
        return not over and self.executions <= self.retries


def look_up(runs: list[Run]) -> None:
    """Find the files that the commands of runs may mean; those that want the same share the answer.

    A place without it is passed by without making up an environment first. Relative ones count from the run's directory.
    """
    found: dict[tuple[str, str | None], list[str]] = {}
    for run in runs:
        wanted = (run.argv[0], run.env.get("PATH")) if run.argv else ("", "")
        if wanted not in found:
            named = candidates(*wanted) if run.argv else []
            found[wanted] = [file for file in named if file[0] != "/" or not _is_missing(file)]
        run.files = found[wanted]


def candidates(name: str, path: str | None) -> list[str]:
    """Return the files that ``name`` may mean: itself if it has a slash, else one in each directory of PATH."""
    if "/" in name:
        return [name]
    places = DEFAULT_PATH if path is None else path
    return [f"{place or '.'}/{name}" for place in places.split(":")]


def _is_missing(file: str) -> bool:
    """Return whether there is no such file; where that cannot be told, False: the child finds out."""
    try:
        os.stat(file)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


class Child:
    """The process that becomes a run.

    Args:
        claim: the record, with its lock; errors: see ``Run``; output: where the run writes; null: where it reads.
        limits: of open files, as they were before the supervisor took all it may have.
        common: what the identities of all runs of this supervisor have in common: the end of a JSON object.
    """

    def __init__(
        self, run: Run, claim: int, errors: int, output: int, null: int, limits: tuple[int, int], common: bytes
    ) -> None:
        self.run, self.claim, self.errors = run, claim, errors
        self.wires = ((null, 0), (output, 1), (output, 2))
        self.limits = limits if limits[0] != limits[1] else None
        self.core: int | None = run.request.get("core")
        again = b""
        if run.executions > 1:  # after a failure, so that a code of 0 is one that another supervisor has seen
            again = b'"began_at": "%b", "code_before": %d, ' % (kernel.rfc3339(time.time_ns()).encode(), run.code)
        self.identity = b'"started_at": "%b", "executions": %d, %b%b\n' % (
            kernel.rfc3339(run.first_start).encode(),
            run.executions,
            again,
            common,
        )

    def become(self) -> None:
        """Become the program, or report why not and end; never returns."""
        try:
            os.setsid()
            self._write_identity()
            fault("child:after_started")
            self._limit()
            for fd, target in self.wires:
                os.dup2(fd, target)
            try:
                os.chdir(self.run.cwd)
            except OSError as error:
                self._fail("chdir", error.errno)
            self._execute()
        except OSError as error:
            self._fail("prepare", error.errno)
        except ValueError:
            self._fail("prepare", errno.EINVAL)
        finally:
            os._exit(127)

    def _write_identity(self) -> None:
        """Write one line into the claimed file, whole or not at all: with it the run counts as started."""
        fault("child:before_started")
        line = b'{"pid": %d, "start_time": %b, %b' % (os.getpid(), kernel.own_start_time(), self.identity)
        record.write_line(self.claim, line)
        os.fsync(self.claim)
        directory = os.open(self.run.id, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def _limit(self) -> None:
        if self.limits:
            resource.setrlimit(resource.RLIMIT_NOFILE, self.limits)
        if self.core is not None:
            resource.setrlimit(resource.RLIMIT_CORE, (self.core, resource.getrlimit(resource.RLIMIT_CORE)[1]))

    def _execute(self) -> None:
        """Try every place of the run's own PATH; the most telling error is reported."""
        stage, worst = "search", errno.ENOENT
        for file in self.run.files:
            try:
                os.execve(file, self.run.argv, self.run.env)
            except OSError as error:
                if error.errno not in MISSING or os.access(file, os.F_OK):
                    stage, worst = "exec", error.errno or 0
        self._fail(stage, worst)

    def _fail(self, stage: str, number: int | None) -> None:
        os.write(self.errors, json.dumps({"stage": stage, "errno": number or 0}).encode())
        os._exit(127)


_REASONS = {"chdir": "WorkingDirectoryMissing", "search": "ExecutableNotFound"}


def end_of(run: Run) -> dict[str, Any]:
    """Return how a run ended, for its record."""
    seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - run.clock
    status, reason = _verdict(run)
    code = run.code
    if run.failure:  # what a shell would report: 127 for what is missing, 126 for what cannot be executed
        code = 127 if run.failure["errno"] in MISSING else 126
    return {
        "status": status,
        "reason": reason,
        "exit_code": code,
        "failure": run.failure,
        "started_at": kernel.rfc3339(run.first_start),
        "finished_at": kernel.rfc3339(run.first_start + int(seconds * 1e9)),
        "seconds": round(seconds, 6),
        "executions": run.executions,
        **({"left": run.left} if run.left else {}),
    }


def _verdict(run: Run) -> tuple[str, str]:
    """Return status and reason of a run that has ended."""
    word = _signal_name(-run.code) if run.code < 0 else "Error" if run.code else "Completed"
    if run.timed_out:
        return "timed_out", "DeadlineExceeded"
    if run.failure and run.failure["stage"] == "prepare":
        return "failed", "CannotStart"
    if run.failure:
        if run.failure["errno"] == errno.E2BIG:
            return "failed", "ArgumentsTooLong"
        missing = run.failure["errno"] in MISSING
        return "failed", _REASONS.get(run.failure["stage"] if missing else "", "NotExecutable")
    if run.stopped:
        return "cancelled", word
    return ("succeeded" if run.code == 0 else "failed"), word


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
