"""The supervisor of runs: requests, starts, ends, output and time limits in one loop, and a second process that stands by.

Requests and replies are lines of JSON on stdin and stdout; secrets travel nowhere else. When flowplan ends, the pipes
close, and the supervisor goes on until its last run is recorded. It works in RUNS_DIR, its current directory, which may be
renamed while it does.

How a run is started exactly once, whoever is killed whenever:

1. The supervisor makes the record in the run's directory and takes an exclusive flock on it, the claim. If a start is in
   it, it stops.
2. It forks. The child shares the lock, becomes a session of its own, and writes its identity durably, as one line of
   that file; then it becomes the program. The file is close-on-exec: exec or death releases the claim.

Hence, with the claim free, the record says whether the program was started. Without such a line in it, nobody did and
nobody will; with one, it is never started again. Retries add lines; the last one counts.

A run is over when its own process has ended, as a container is: whatever else it started and is still there is killed then.
Processes whose parent has ended become children of the supervisor, and are known by the variables that they inherited.

A second process, the guard, is the supervisor's parent and stands by. It is told of every run before that is started and
holds its pipe, so that it goes on with everything when the supervisor is killed: the runs become its children then.
``RUNS_DIR/journal`` gets one line per start and end.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import gc
import heapq
import json
import mmap
import os
import resource
import select
import signal
import time

from flowplan.providers.process import kernel, record
from flowplan.providers.process.child import Child, Run, end_of, fault, look_up
from flowplan.providers.process.hiding import hiding
from flowplan.providers.process.kernel import CHUNK, signal_each, signal_group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

OURS = tuple(signal.Signals[f"SIG{name}"] for name in ("HUP", "INT", "QUIT", "TERM", "CHLD", "PIPE", "XFSZ"))
"""Signals that we, or whoever started us, may treat in a way that a program does not expect. They get handlers that do
nothing, which exec takes away: what is ignored would stay so in the program."""
FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 30.0
FULL = frozenset({errno.EAGAIN, errno.ENOMEM})
"""What fork says when the host gives no further process."""
NO_ROOM = 11
"""The exit code of a supervisor that could not even leave its caller."""
ENDING = 2.0
"""Seconds that what a run has left may take to end once it is killed; then it is named."""
CLAIMS = 5.0
"""Seconds that a guard waits for starts that were under way when the supervisor was killed."""
SLOTS = 1 << 16
"""Runs with secrets at once of which the guard knows whether part of their output was on its way."""


class Supervisor:
    """The event loop: requests, ends of children, their output, and timers.

    Args:
        guard: the end of the socket to the process that stands by; None without one.
        uncertain: memory that is shared with it, see ``Output``.
        identity: what the identities of all runs have in common.
    """

    def __init__(self, guard: _socket.socket | None, uncertain: mmap.mmap, limits: tuple[int, int]) -> None:
        self.guard, self.uncertain, self.limits = guard, uncertain, limits
        self.slots, self.free_slots = 0, list[int]()
        self.poll = select.epoll()
        self.handlers: dict[int, Callable[[], None]] = {}
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self.runs: dict[str, Run] = {}
        self.by_pid: dict[int, Run] = {}
        self.inbox, self.outbox = b"", b""
        self.told: list[tuple[bytes, int]] = []
        self.connected = True
        self.sequence = 0
        self.null = os.open(os.devnull, os.O_RDWR)
        self.journal = os.open("journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.nonce = os.urandom(16).hex()
        self.identity = self._who_am_i()

    def _who_am_i(self) -> bytes:
        """What the identities of all runs have in common: the end of a JSON object."""
        known = {
            "boot_id": kernel.boot_id(),
            "host": os.uname().nodename,
            "pid_namespace": os.readlink("/proc/self/ns/pid"),  # noqa: PTH115
            "nonce": self.nonce,
            **({"guard": _identity(os.getppid())} if self.guard else {}),
            "supervisor": _identity(os.getpid()),
        }
        return json.dumps(known)[1:].encode()

    def serve(self) -> None:
        """Until flowplan is gone and every run is recorded."""
        wakeup, alarm = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
        self._listen(wakeup, lambda: self._woken(wakeup))
        if self.connected:
            os.set_blocking(0, False)
            os.set_blocking(1, False)
            self._listen(0, self._receive)
        if self.guard:
            self._listen(self.guard.fileno(), self._guard_ready, select.EPOLLRDHUP)
        self._reap()
        while self.connected or self.runs:
            for fd, _ in self.poll.poll(self._patience()):
                handler = self.handlers.get(fd)
                if handler:
                    handler()
            self._ring()

    # -- the loop's own means

    def _listen(self, fd: int, handler: Callable[[], None], events: int = select.EPOLLIN) -> None:
        self.handlers[fd] = handler
        self.poll.register(fd, events)

    def _forget(self, fd: int) -> None:
        if self.handlers.pop(fd, None):
            self.poll.unregister(fd)

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self.sequence += 1
        heapq.heappush(self.timers, (time.monotonic() + seconds, self.sequence, action))

    def _patience(self) -> float:
        return max(0.0, min(self.timers[0][0] - time.monotonic(), 3600.0)) if self.timers else -1.0

    def _ring(self) -> None:
        while self.timers and self.timers[0][0] <= time.monotonic():
            heapq.heappop(self.timers)[2]()

    # -- talking with flowplan

    def _receive(self) -> None:
        try:
            data = os.read(0, CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._hang_up()
            return
        *lines, self.inbox = (self.inbox + data).split(b"\n")
        self._requested([json.loads(line) for line in lines])

    def _hang_up(self) -> None:
        self._forget(0)
        self._forget(1)
        os.dup2(self.null, 0)
        os.dup2(self.null, 1)
        self.connected, self.outbox = False, b""

    def _reply(self, run: Run, **answer: Any) -> None:
        if run.replied or not self.connected:
            return
        run.replied = True
        self.outbox += json.dumps({"id": run.id, **answer}).encode() + b"\n"
        self._send()

    def _send(self) -> None:
        try:
            self.outbox = self.outbox[os.write(1, self.outbox) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self.outbox = b""
        waiting = 1 in self.handlers
        if self.outbox and not waiting:
            self._listen(1, self._send, select.EPOLLOUT)
        elif waiting and not self.outbox:
            self._forget(1)

    def _requested(self, requests: list[dict[str, Any]]) -> None:
        runs = [Run(request) for request in requests]
        look_up(runs)
        states = [self._request(run) for run in runs]  # one fork after the other, see ``child``
        for run, state in zip(runs, states, strict=True):
            if state == "starting":
                self._adopt(run)
            else:
                self._reply(run, state=state)

    def _request(self, run: Run) -> str:
        if run.id in self.runs:
            return "started"
        state = self._start(run)
        if state == "starting":
            self.runs[run.id] = run
        return state

    # -- telling the guard

    def _tell(self, document: dict[str, Any], fd: int = -1) -> None:
        """Tell the guard, with a descriptor if there is one to hand over; nothing is lost when it is slow."""
        if not self.guard:
            return
        self.told.append((json.dumps(document).encode() + b"\n", os.dup(fd) if fd >= 0 else -1))
        if len(self.told) == 1:
            self._tell_more()

    def _guard_ready(self) -> None:
        assert self.guard
        try:
            gone = not self.guard.recv(1, _socket.MSG_DONTWAIT)  # it never says anything
        except BlockingIOError:
            gone = False
        except OSError:
            gone = True
        if gone:
            self._guard_gone()
        else:
            self._tell_more()

    def _tell_more(self) -> None:
        while self.guard and self.told:
            data, fd = self.told[0]
            handed = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, "little"))] if fd >= 0 else []
            try:
                sent = self.guard.sendmsg([data], handed, _socket.MSG_DONTWAIT)
            except BlockingIOError:
                self.poll.modify(self.guard.fileno(), select.EPOLLRDHUP | select.EPOLLOUT)
                return
            except OSError:
                self._guard_gone()
                return
            if fd >= 0:
                os.close(fd)
            self.told[0] = data[sent:], -1
            if sent == len(data):
                del self.told[0]
        if self.guard:
            self.poll.modify(self.guard.fileno(), select.EPOLLRDHUP)

    def _guard_gone(self) -> None:
        """It was killed, and we go on without."""
        assert self.guard
        self._forget(self.guard.fileno())
        self.guard.close()
        self.guard = None
        _close(*(fd for _, fd in self.told if fd >= 0))
        self.told.clear()

    # -- starting

    def _start(self, run: Run) -> str:
        """Fork the run if nobody ever did: ``starting``; else ``busy``, ``started``, ``stopped``, ``refused: ...``, or
        ``full`` where the host gives no further process."""
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
        run.env[kernel.NONCE] = self.nonce
        self._hide(run)  # before the clock of the run: the first one loads a library
        run.first_start = run.first_start or time.time_ns()
        run.clock = run.clock or time.clock_gettime(time.CLOCK_BOOTTIME)
        if run.executions > max(1, run.told):
            run.output.say(f"[flowplan: try {run.executions}]")
            run.told = run.executions
        try:
            output = run.output.open()
            self._tell(run.announcement(), run.output.reader)
            child = Child(run, claim, report, output, self.null, self.limits, self.identity)
            run.pid = os.fork()
            if run.pid == 0:
                child.become()
        except OSError:
            run.executions -= 1
            errors, run.errors = run.errors, -1
            _close(errors)
            run.output.close()
            self._told_over(run)
            raise
        finally:
            _close(report, *([output] if output >= 0 else []))
        fault("supervisor:after_fork")

    def _hide(self, run: Run) -> None:
        """Take the secrets of a run out of its output; the guard knows by a byte whether some of it is on its way."""
        if run.output.hiding:
            return
        run.output.hiding = hiding(run.request.get("redact", {}))
        if run.output.hiding and self.guard and (self.free_slots or self.slots < SLOTS):
            if not self.free_slots:
                self.free_slots.append(self.slots)
                self.slots += 1
            slot = run.request["slot"] = self.free_slots.pop()
            run.output.uncertain = lambda is_so: self.uncertain.__setitem__(slot, is_so)

    def _adopt(self, run: Run) -> None:
        self.by_pid[run.pid] = run
        run.phase = "running"
        if run.executions > run.retries:
            run.argv, run.env = [], {}  # a thousand environments are megabytes, and it will not be started again
            run.request = {name: run.request[name] for name in ("slot",) if name in run.request}
        if run.errors >= 0:
            self._listen(run.errors, lambda: self._began(run))
        self._listen(run.output.reader, lambda: self._output(run))
        if run.timeout is not None and run.executions == 1:
            self._after(run.timeout, lambda: self._time_out(run))

    def _began(self, run: Run) -> None:
        """The child became the program (nothing but the end of the pipe), or says why it could not."""
        if run.errors < 0:
            return
        try:
            said = os.read(run.errors, CHUNK)
        except BlockingIOError:
            return
        self._forget(run.errors)
        os.close(run.errors)
        run.errors = -1
        if said:
            run.failure = json.loads(said)
        elif (known := run.read()) and known.started:  # else the child was killed before it became a run
            self._journal("start", run)
            self._reply(run, state="started")

    def _output(self, run: Run) -> None:
        if not run.output.take():
            self._forget(run.output.reader)

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
        self._after(run.grace, lambda: self._signal(run, signal.SIGKILL))

    def _signal(self, run: Run, number: int) -> None:
        """To all that the run consists of."""
        if run.pid:
            members = {*kernel.descendants([run.pid]), *self._left_by(run, run.pid, self._strangers())}
            signal_group(run.pid, number)
            signal_each((pid for pid in members if _group(pid) != run.pid), number)

    # -- ends

    def _woken(self, wakeup: int) -> None:
        os.read(wakeup, CHUNK)
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            self._ended(ended.si_pid)

    def _ended(self, pid: int) -> None:
        run = self.by_pid.pop(pid, None)
        if run:  # the leader is not reaped yet, so its number still means its group and nobody else's
            signal_group(pid, signal.SIGKILL)
        _, code = os.waitpid(pid, 0)
        if run:
            run.pid, run.code, run.phase = 0, os.waitstatus_to_exitcode(code), "ending"
            self._began(run)
            self._end_rest(run, pid, time.monotonic() + ENDING)

    def _end_rest(self, run: Run, leader: int, until: float) -> None:
        """Kill what the run has left until nothing is left of it, then go on with its end."""
        strangers = self._strangers()
        left = self._left_by(run, leader, strangers)
        if left and time.monotonic() < until:
            signal_each({*left, *kernel.descendants(left)}, signal.SIGKILL)
            self._after(0.01, lambda: self._end_rest(run, leader, until))
            return
        run.left = left + [pid for pid, whose in strangers.items() if not whose and pid not in left]
        self._forget(run.output.reader)
        run.output.drain()
        known = run.read()
        run.stopped = known is not None and known.stopped
        if not run.failure and (known is None or not known.started):
            self._give_up(run)
        elif self._deserves_retry(run):
            self._retry_later(run, min(FIRST_BACKOFF * 2 ** (run.executions - 1), LONGEST_BACKOFF))
        else:
            self._finish(run)

    def _strangers(self) -> dict[int, str]:
        """Our living children that are not runs: pid -> the run whose variables it has, "" without any.

        They were started by runs, and what started them has ended.
        """
        found = {}
        for pid in kernel.children(os.getpid()):
            if pid in self.by_pid or not kernel.runs(pid):
                continue
            known = kernel.variables(pid, (kernel.RUN_ID, kernel.SUPERVISOR))
            if known is not None and kernel.SUPERVISOR not in known:
                found[pid] = known.get(kernel.RUN_ID, "")
        return found

    def _left_by(self, run: Run, leader: int, strangers: dict[int, str]) -> list[int]:
        """What a run has left: with its variables, of its session, or nameless while no other one can have left it."""
        left = [pid for pid, whose in strangers.items() if whose == run.id or (not whose and _of(pid, leader))]
        if not all(strangers.values()) and all(
            other is run or other.phase != "running" for other in self.runs.values()
        ):
            left += [pid for pid, whose in strangers.items() if not whose and pid not in left]
        return left

    def _give_up(self, run: Run) -> None:
        """Somebody killed the child before it became a run: nothing was started, and it may be tried again."""
        self._over(run)
        self._reply(run, state="died")

    def _deserves_retry(self, run: Run) -> bool:
        over = run.code == 0 or run.timed_out or run.failure or run.stopped
        return not over and run.executions <= run.retries

    def _retry_later(self, run: Run, seconds: float) -> None:
        run.phase = "waiting"
        self._tell({"id": run.id, "waiting": True})
        self._after(seconds, lambda: self._retry(run))

    def _retry(self, run: Run) -> None:
        if run.id not in self.runs:
            return
        look_up([run])
        state = self._start(run)
        if state == "starting":
            self._adopt(run)
        elif state in ("busy", "full"):
            self._retry_later(run, 0.05 if state == "busy" else 1.0)
        else:
            run.stopped = state == "stopped"
            self._finish(run)

    def _finish(self, run: Run) -> None:
        """Record the end; a full disk delays that, a directory that somebody removed ends it."""
        run.output.done()
        fault("supervisor:before_exit_record")
        self._record(run, {"end": end_of(run)})
        self._reply(run, state="failed" if run.failure else "started")

    def _record(self, run: Run, line: dict[str, Any]) -> None:
        try:
            record.add(run.path, line)
        except FileNotFoundError:
            pass
        except OSError:
            self._after(1.0, lambda: self._record(run, line))
            return
        self._over(run)
        self._journal("end", run)

    def _over(self, run: Run) -> None:
        del self.runs[run.id]
        if "slot" in run.request:
            self.uncertain[run.request["slot"]] = False
            self.free_slots.append(run.request["slot"])
        self._told_over(run)

    def _told_over(self, run: Run) -> None:
        self._tell({"id": run.id, "over": True})

    def _journal(self, word: str, run: Run) -> None:
        try:
            os.write(self.journal, f"{word} {run.id}\n".encode())
        except OSError:
            return  # whoever watches looks at every run from time to time anyway

    # -- going on for a supervisor that was killed

    def take_over(self, known: dict[str, dict[str, Any]]) -> None:
        """Go on with the runs that the guard was told of."""
        self.connected = False
        until = time.monotonic() + CLAIMS
        for document in known.values():
            run = Run(document)
            while _is_claimed(run) and time.monotonic() < until:
                time.sleep(0.01)
            self._hide(run)
            torn = bool(self.uncertain[document["slot"]]) if "slot" in document else bool(run.output.hiding)
            run.output.take_over(document["reader"], torn)
            self.runs[run.id] = run
            self._go_on(run, document)

    def _go_on(self, run: Run, document: dict[str, Any]) -> None:
        found = run.read()
        started = found.started if found else None
        ours = started is not None and started["pid"] in kernel.children(os.getpid())
        if run.timeout is not None and run.executions:
            spent = time.clock_gettime(time.CLOCK_BOOTTIME) - run.clock
            self._after(max(0.0, run.timeout - spent), lambda: self._time_out(run))
        if started and ours and started.get("executions") == run.executions:
            run.pid = started["pid"]
            self.by_pid[run.pid] = run
            run.phase, run.replied = "running", True
            self._listen(run.output.reader, lambda: self._output(run))
            return
        run.output.drain()
        if found is None or found.over:
            self._over(run)
        elif document.get("waiting") or (started and started.get("executions", 0) < run.executions):
            run.executions = started.get("executions", 0) if started else 0
            self._retry_later(run, FIRST_BACKOFF)
        elif started is None:
            self._over(run)  # it was never started, and is not by us: whoever wanted it asks again
        else:
            run.output.done()
            self._record(run, {"lost": True})


class Guard:
    """Stands by: knows of every run what is needed to go on with it, and does nothing until the supervisor is gone."""

    def __init__(self, channel: _socket.socket) -> None:
        self.channel = channel
        self.known: dict[str, dict[str, Any]] = {}

    def stand_by(self) -> dict[str, dict[str, Any]]:
        """Return the runs that are not over when the supervisor ends; each has the reading end of its pipe."""
        inbox, fds = b"", []
        while True:
            data, handed, _, _ = self.channel.recvmsg(CHUNK, _socket.CMSG_SPACE(4 * 64), _socket.MSG_CMSG_CLOEXEC)
            for _, _, numbers in handed:
                fds += [int.from_bytes(numbers[at : at + 4], "little") for at in range(0, len(numbers), 4)]
            if not data:
                return self.known
            *lines, inbox = (inbox + data).split(b"\n")
            for line in lines:
                self._heard(json.loads(line), fds)

    def _heard(self, document: dict[str, Any], fds: list[int]) -> None:
        before = self.known.pop(document["id"], None)
        if "waiting" in document and before:
            self.known[document["id"]] = {**before, "waiting": True}
            return
        if before:
            os.close(before["reader"])
        if "over" not in document:
            self.known[document["id"]] = {**document, "reader": fds.pop(0)}


def _identity(pid: int) -> dict[str, int]:
    found = kernel.stat_of(pid)
    return {"pid": pid, "start_time": found[2] if found else 0}


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def _of(pid: int, leader: int) -> bool:
    """True when a process is of the session that a run's own process led."""
    found = kernel.stat_of(pid)
    return found is not None and found[1] == leader


def _is_claimed(run: Run) -> bool:
    """True while a child is between being forked and becoming the program."""
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


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def _raise_limit() -> tuple[int, int]:
    """Take all file descriptors we may have; the answer is what the runs shall have, as before."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    return before


def _inherit_orphans() -> None:
    """Become the parent of whatever the runs started and left (PR_SET_CHILD_SUBREAPER)."""
    import ctypes

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def main(runs_dir: str) -> None:
    """Leave the caller's terminal, session and process tree, then serve, with a second process that stands by."""
    try:
        if os.fork():
            os._exit(0)
    except OSError as error:
        os._exit(NO_ROOM if error.errno in FULL else 1)
    for number in OURS:
        signal.signal(number, lambda *_: None)
    os.chdir(runs_dir)
    limits, uncertain = _raise_limit(), mmap.mmap(-1, SLOTS)
    _inherit_orphans()
    gc.freeze()  # what a collection does not look at stays shared with the children
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        serving = os.fork()
    except OSError:
        Supervisor(None, uncertain, limits).serve()  # no room for a second one
        return
    if serving == 0:
        ours.close()
        os.setsid()  # whoever kills one of the two by its group does not kill the other
        _inherit_orphans()
        Supervisor(theirs, uncertain, limits).serve()
        return
    theirs.close()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    known = Guard(ours).stand_by()
    os.waitpid(serving, 0)  # what it leaves is ours once it is gone
    if known:
        ours.close()
        alone = Supervisor(None, uncertain, limits)
        alone.take_over(known)
        alone.serve()
