"""Starts runs, each exactly once, whoever is killed whenever.

1. The supervisor makes the record in the run's directory and takes an exclusive flock on it, the claim. If a start is in
   it, it stops.
2. It forks. The child shares the lock, becomes a session of its own, and writes its identity durably, as one line of
   that file; then it becomes the program. The file is close-on-exec: exec or death releases the claim.

Hence, while the claim is free, the record says whether the program was started. Without such a line it was not, and no
process is about to start it; with one, it is never started again. Retries add lines; the last one counts.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time

from flowplan.providers.process import kernel, record
from flowplan.providers.process.child import Child, Run, fault
from flowplan.providers.process.hiding import hiding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from flowplan.providers.process.guard import GuardLink, UnwrittenOutput

FULL = frozenset({errno.EAGAIN, errno.ENOMEM})
"""What fork says when the host gives no further process."""
NO_ROOM = 11
"""The exit code of a supervisor that could not even leave its caller."""


class Starter:
    """Claims runs and forks their processes.

    Args:
        limits: of open files (soft, hard), for the runs; null: /dev/null, from which they read.
    """

    def __init__(self, guard: GuardLink, unwritten: UnwrittenOutput, limits: tuple[int, int], null: int) -> None:
        self._guard, self._unwritten, self._limits, self._null = guard, unwritten, limits, null
        self._nonce = os.urandom(16).hex()
        common = {
            "boot_id": kernel.boot_id(),
            "host": os.uname().nodename,
            "pid_namespace": os.readlink("/proc/self/ns/pid"),  # noqa: PTH115
            "uid": os.geteuid(),
            "nonce": self._nonce,
            **({"guard": _identity(os.getppid())} if guard else {}),
            "supervisor": _identity(os.getpid()),
        }
        self._identity = json.dumps(common)[1:].encode()

    def start(self, run: Run) -> str:
        """Fork the run unless it was started before.

        Returns:
            ``starting``; else ``busy``, ``started``, ``stopped``, ``refused: ...``, or ``full`` where the host gives no
            further process.
        """
        try:
            claim = os.open(run.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            return f"refused: {run.id}: {error.strerror}"
        try:
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return "busy"
            known = record.claimed(claim)
            if known.stopped:
                return "stopped"
            if run.executions == 0 and (known.started or known.over):
                return "started"
            fault("supervisor:after_claim")
            self._fork(run, claim)
            return "starting"
        except OSError as error:
            return "full" if error.errno in FULL else f"refused: {error.strerror}"
        except ValueError as error:
            return f"refused: {run.path}: {error}"
        finally:
            os.close(claim)

    def _fork(self, run: Run, claim: int) -> None:
        run.errors, report = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        output = -1
        run.executions += 1
        run.env[kernel.NONCE] = self._nonce
        self.hide_secrets(run)  # before the clock of the run: the first one loads a library
        run.first_start = run.first_start or time.time_ns()
        run.clock = run.clock or time.clock_gettime(time.CLOCK_BOOTTIME)
        if run.executions > max(1, run.announced):
            run.output.say(f"[flowplan: try {run.executions}]")
            run.announced = run.executions
        try:
            output = run.output.open()
            self._guard.tell(run.announcement(), run.output.reader)
            child = Child(run, claim, report, output, self._null, self._limits, self._identity)
            run.pid = os.fork()
            if run.pid == 0:
                child.become()
        except OSError:
            run.executions -= 1
            os.close(run.errors)
            run.errors = -1
            run.output.close()
            self._guard.tell({"id": run.id, "over": True})
            raise
        finally:
            os.close(report)
            if output >= 0:
                os.close(output)
        fault("supervisor:after_fork")

    def hide_secrets(self, run: Run) -> None:
        """Take the secrets of a run out of its output, and let the guard know whether some of that is on its way."""
        if run.output.hiding:
            return
        run.output.hiding = hiding(run.request.get("redact", {}))
        if run.output.hiding and self._guard:
            slot = run.slot = self._unwritten.take_slot()
            if slot is not None:
                run.output.uncertain = lambda unwritten: self._unwritten.__setitem__(slot, unwritten)


def _identity(pid: int) -> dict[str, int]:
    found = kernel.stat_of(pid)
    return {"pid": pid, "start_time": found[2] if found else 0}


def is_claimed(run: Run) -> bool:
    """Return whether a child is between being forked and becoming the program."""
    try:
        fd = os.open(run.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
