"""The supervisor of runs: requests, starts, ends, retries and time limits in one loop.

Requests and replies are lines of JSON on stdin and stdout; secrets travel nowhere else. When flowplan ends, the pipes
close, and the supervisor goes on until the end of its last run is recorded. It works in RUNS_DIR, its current directory,
which may be renamed meanwhile. ``RUNS_DIR/journal`` gets one line per start and end.

A run is over when its own process has ended, as a container is: whatever else it started and is still there is killed then.
Processes whose parent has ended become children of the supervisor, and are known by the variables that they inherited.

The parts: ``loop`` waits, ``client`` talks with flowplan, ``starting`` forks what ``child`` becomes, ``pump`` takes its
output, ``members`` finds what a run has left, ``guard`` stands by, and ``daemon`` sets all this up.
"""

from __future__ import annotations

import json
import os
import signal
import time

from flowplan.providers.process import kernel, record
from flowplan.providers.process.child import Run, end_of, fault, look_up
from flowplan.providers.process.client import Client
from flowplan.providers.process.guard import GuardLink
from flowplan.providers.process.kernel import CHUNK
from flowplan.providers.process.loop import Loop
from flowplan.providers.process.members import left_by, orphans, signal_all
from flowplan.providers.process.starting import Starter, is_claimed
from flowplan.schemas.backoff import wait_after

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any

    from flowplan.providers.process.guard import UnwrittenOutput

OWN_DELAY = {"initial": 0.5, "factor": 2.0, "max": 30.0}
"""The ``retry_delay`` of a run that says none."""
LOOK = 0.5
"""Seconds between looks at whether a run that waits for its next try was stopped."""
ENDING = 2.0
"""Seconds that what a run has left may take to end once it is killed; then it is named."""
CLAIMS = 5.0
"""Seconds that a guard waits for starts that were under way when the supervisor was killed."""


class Supervisor:
    """What happens to each run, from its request to its recorded end.

    Args:
        channel: the end of the socket to the guard; None without one.
        unwritten: shared with the guard.
        limits: of open files, for the runs.
    """

    def __init__(self, channel: _socket.socket | None, unwritten: UnwrittenOutput, limits: tuple[int, int]) -> None:
        self.loop = Loop()
        self.guard = GuardLink(self.loop, channel)
        null = os.open(os.devnull, os.O_RDWR)
        self.client = Client(self.loop, null, self._requested)
        self.starter = Starter(self.guard, unwritten, limits, null)
        self.unwritten = unwritten
        self.runs: dict[str, Run] = {}
        self.by_pid: dict[int, Run] = {}
        self.journal = os.open("journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def serve(self) -> None:
        """Work until flowplan is gone and every run is recorded."""
        wakeup, alarm = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)

        def woken() -> None:
            os.read(wakeup, CHUNK)
            self._reap()

        self.loop.listen(wakeup, woken)
        self._reap()
        while self.client.connected or self.runs:
            self.loop.turn()

    # -- starts

    def _requested(self, requests: list[dict[str, Any]]) -> None:
        runs = [Run(request) for request in requests]
        look_up(runs)
        states = []
        for run in runs:  # one fork after the other, see ``child``
            states.append("started" if run.id in self.runs else self.starter.start(run))
            if states[-1] == "starting":
                self.runs[run.id] = run
        for run, state in zip(runs, states, strict=True):
            if state == "starting":
                self._follow(run)
            else:
                self.client.reply(run, state)

    def _follow(self, run: Run) -> None:
        """Follow a process that was just forked."""
        self.by_pid[run.pid] = run
        run.phase = "running"
        if run.executions > run.retries:
            # It will not start again, and a thousand environments are megabytes.
            run.argv, run.env, run.request = [], {}, {}
        if run.errors >= 0:
            self.loop.listen(run.errors, lambda: self._began(run))
        self._listen_to_output(run)
        if run.timeout is not None and run.executions == 1:
            self.loop.after(run.timeout, lambda: self._time_out(run))

    def _listen_to_output(self, run: Run) -> None:
        def ready() -> None:
            if not run.output.take():
                self.loop.forget(run.output.reader)

        self.loop.listen(run.output.reader, ready)

    def _began(self, run: Run) -> None:
        """Note that the child became the program (nothing but the end of the pipe), or why it could not."""
        if run.errors < 0:
            return
        try:
            said = os.read(run.errors, CHUNK)
        except BlockingIOError:
            return
        self.loop.forget(run.errors)
        os.close(run.errors)
        run.errors = -1
        if said:
            run.failure = json.loads(said)
        elif (known := run.read()) and known.started:  # else the child was killed before it became a run
            self._journal("start", run)
            self.client.reply(run, "started")

    # -- time limits

    def _time_out(self, run: Run) -> None:
        if run.id not in self.runs or run.phase == "ending":
            return
        run.timed_out = True
        if run.phase == "waiting":
            self._finish(run)
            return
        # Before it has become the program it would not hear of a gentle end: its handlers are still ours.
        self._signal(run, signal.SIGTERM if run.errors < 0 else signal.SIGKILL)
        self.loop.after(run.grace, lambda: self._signal(run, signal.SIGKILL))

    def _signal(self, run: Run, number: int) -> None:
        if run.pid:
            signal_all(run, left_by(run, run.pid, orphans(self.by_pid), self.runs.values()), number)

    # -- ends

    def _reap(self) -> None:
        """Take note of every child that has ended."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            run = self.by_pid.pop(ended.si_pid, None)
            if run:  # it is not reaped yet, so its pid cannot mean another group
                kernel.signal_group(run.pid, signal.SIGKILL)
            _, code = os.waitpid(ended.si_pid, 0)
            if run:
                run.pid, run.code, run.phase = 0, os.waitstatus_to_exitcode(code), "ending"
                self._began(run)
                self._end_rest(run, ended.si_pid, time.monotonic() + ENDING)

    def _end_rest(self, run: Run, leader: int, until: float) -> None:
        """Kill what the run has left until nothing of it is there, then go on with its end."""
        found = orphans(self.by_pid)
        left = left_by(run, leader, found, self.runs.values())
        if left and time.monotonic() < until:
            kernel.signal_each({*left, *kernel.descendants(left)}, signal.SIGKILL)
            self.loop.after(0.01, lambda: self._end_rest(run, leader, until))
            return
        run.left = left + [pid for pid, run_id in found.items() if not run_id and pid not in left]
        self.loop.forget(run.output.reader)
        run.output.drain()
        known = run.read()
        run.stopped = known is not None and known.stopped
        if not run.failure and (known is None or not known.started):
            self._over(run)  # the child was killed before it became a run: nothing was started, it may be tried again
            self.client.reply(run, "died")
        elif run.deserves_retry():
            self._wait_for_next_try(run)
        else:
            self._finish(run)

    def _wait_for_next_try(self, run: Run) -> None:
        delay = run.request.get("retry_delay") or OWN_DELAY
        seconds = wait_after(run.executions, delay["initial"], delay.get("factor", 1.0), delay.get("max"))
        if run.request.get("retry_delay"):
            self._tell_wait(run, seconds)
        self._retry_later(run, seconds)

    def _tell_wait(self, run: Run, seconds: float) -> None:
        """Record when the next try begins, for whoever looks; a full disk only keeps that from being told."""
        try:
            record.add(run.path, {"wait": {"until_ns": time.time_ns() + int(seconds * 1e9), "code": run.code}})
        except OSError:
            return
        self._journal("wait", run)

    def _retry_later(self, run: Run, seconds: float) -> None:
        run.phase = "waiting"
        run.due = time.clock_gettime(time.CLOCK_BOOTTIME) + seconds
        self.guard.tell({"id": run.id, "waiting": run.due})
        self._wait(run)

    def _wait(self, run: Run) -> None:
        """Try again when it is time, unless the run was stopped or its directory removed meanwhile."""
        left = run.due - time.clock_gettime(time.CLOCK_BOOTTIME)
        if left <= 0 or run.id not in self.runs:
            self._retry(run)
            return
        known = run.read()
        if known is None or known.stopped:
            run.stopped = True
            self._finish(run)
        else:
            self.loop.after(min(left, LOOK), lambda: self._wait(run))

    def _retry(self, run: Run) -> None:
        if run.id not in self.runs:
            return
        look_up([run])
        state = self.starter.start(run)
        if state == "starting":
            self._follow(run)
        elif state in ("busy", "full"):
            self._retry_later(run, 0.05 if state == "busy" else 1.0)
        else:
            run.stopped = state == "stopped"
            self._finish(run)

    # -- records

    def _finish(self, run: Run) -> None:
        """Record the end."""
        run.output.done()
        fault("supervisor:before_exit_record")
        self._record(run, {"end": end_of(run)})
        self.client.reply(run, "failed" if run.failure else "started")

    def _record(self, run: Run, line: dict[str, Any]) -> None:
        """Add the last line to a record; a full disk delays it, and a directory that was removed needs none."""
        try:
            record.add(run.path, line)
        except FileNotFoundError:
            pass
        except OSError:
            self.loop.after(1.0, lambda: self._record(run, line))
            return
        self._over(run)
        self._journal("end", run)

    def _over(self, run: Run) -> None:
        del self.runs[run.id]
        if run.slot is not None:
            self.unwritten.free_slot(run.slot)
        self.guard.tell({"id": run.id, "over": True})

    def _journal(self, word: str, run: Run) -> None:
        try:
            os.write(self.journal, f"{word} {run.id}\n".encode())
        except OSError:
            return  # whoever watches looks at every run from time to time anyway

    # -- going on for a supervisor that was killed

    def take_over(self, known: dict[str, dict[str, Any]]) -> None:
        """Go on with the runs that the guard was told of."""
        until = time.monotonic() + CLAIMS
        for document in known.values():
            run = Run(document)
            while is_claimed(run) and time.monotonic() < until:
                time.sleep(0.01)
            self.starter.hide_secrets(run)
            torn = bool(run.output.hiding) if run.slot is None else self.unwritten[run.slot]
            run.output.take_over(document["reader"], torn)
            self.runs[run.id] = run
            self._go_on(run, document.get("waiting"))

    def _go_on(self, run: Run, due: float | None) -> None:
        found = run.read()
        started = found.started if found else None
        executions: int = started.get("executions", 0) if started else 0
        if run.timeout is not None and run.executions:
            spent = time.clock_gettime(time.CLOCK_BOOTTIME) - run.clock
            self.loop.after(max(0.0, run.timeout - spent), lambda: self._time_out(run))
        if started and executions == run.executions and started["pid"] in kernel.children(os.getpid()):
            run.pid, run.phase, run.replied = started["pid"], "running", True
            self.by_pid[run.pid] = run
            self._listen_to_output(run)
            return
        run.output.drain()
        if found is None or found.over:
            self._over(run)
        elif due is not None:
            run.executions = executions
            self._retry_later(run, due - time.clock_gettime(time.CLOCK_BOOTTIME))
        elif started and executions < run.executions:
            run.executions = executions
            self._wait_for_next_try(run)
        elif started is None:
            self._over(run)  # it was never started, and is not by us: whoever wanted it asks again
        else:
            run.output.done()
            self._record(run, {"lost": True})
