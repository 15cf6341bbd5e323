"""Starts runs, outlives flowplan, keeps their time limits and records how they end.

One such process serves one flowplan command, whatever the number of runs. It is started as
``python -I -S -E supervisor.py RUNS_DIR LIBRARY...`` and imports nothing but a few modules of the standard library, so
that it stays small; where a run's output must be redacted, also what does that, from one of the libraries. Requests and replies are lines of JSON on its stdin and stdout; secrets travel nowhere else. When flowplan
ends, the pipes close, and the supervisor goes on until its last run is recorded.

How a run is started exactly once, whoever is killed whenever:

1. The supervisor makes ``started.json`` in the run's directory and takes an exclusive flock on it, the claim. If there
   is a line in it, it stops.
2. It forks. The child shares the lock, becomes a session of its own, and writes its identity durably, as one line of
   that file; then it becomes the program. The file is close-on-exec: exec or death releases the claim.

Hence, with the claim free, ``started.json`` says whether the program was started. Without a line in it, nobody did and
nobody will; with one, it is never started again. Retries add lines; the last one counts.

Files of a run, in ``RUNS_DIR/<run id>/``: ``started.json``, ``exit.json``, ``stdout``, ``stderr``, and ``stop``, by which
flowplan forbids every further start. ``RUNS_DIR/journal`` gets one line per start and end.

A fork marks every page of memory to be copied when next written to, by the child or by the supervisor, and that is most
of what starting a run costs. Hence what can be done for several runs together, or before the fork, is.
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import gc
import heapq
import json
import os
import resource
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from flowplan.schemas.redaction import Matcher, Stream

CHUNK = 65536
PIPE = 1 << 20
"""Bytes that a pipe holds whose content is redacted, where the host allows it: a run seldom waits for us."""
MOST_KNOWN = 64
MOST_CHUNKS = 16
"""More than a pipe can hold."""
OURS = tuple(signal.Signals[f"SIG{name}"] for name in ("HUP", "INT", "QUIT", "TERM", "CHLD", "PIPE", "XFSZ"))
"""Signals that we, or whoever started us, may treat in a way that a program does not expect. They get handlers that do
nothing, which exec takes away: what is ignored would stay so in the program."""
FAULT = os.environ.get("FLOWPLAN_FAULT")
"""The point at which a test wants an end."""
FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 30.0
DEFAULT_PATH = "/bin:/usr/bin"
FULL = frozenset({errno.EAGAIN, errno.ENOMEM})
"""What fork says when the host gives no further process."""
NO_ROOM = 11
"""The exit code of a supervisor that could not even leave its caller."""
_REASONS = {"chdir": "WorkingDirectoryMissing", "search": "ExecutableNotFound"}


def now() -> str:
    """This moment: RFC 3339, UTC, microseconds."""
    return rfc3339(time.time_ns())


def rfc3339(nanoseconds: int) -> str:
    """A moment given in nanoseconds since 1970."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 1000:06d}Z"


def boot_id() -> str:
    """The kernel's id of this boot."""
    with open("/proc/sys/kernel/random/boot_id") as file:  # noqa: PTH123 - pathlib would double the memory
        return file.read().strip()


def stat_of(pid: int) -> tuple[str, int, int] | None:
    """State letter, session id and start time (clock ticks since boot: field 22) of a process, or None."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0].decode(), int(fields[3]), int(fields[19])


def _own_start_time() -> bytes:
    """As in ``stat_of``; without a context manager and the like, for a child that has to copy what it touches."""
    fd = os.open("/proc/self/stat", os.O_RDONLY)
    fields = os.read(fd, CHUNK)
    os.close(fd)
    return fields[fields.rindex(b")") :].split(b" ", 21)[20]


def write_json(path: str, document: dict[str, Any]) -> None:
    """Write a file of mode 0600 so that readers see all of it or nothing."""
    temporary = f"{path}.{_thread.get_native_id()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _write(fd, json.dumps(document).encode())
    finally:
        os.close(fd)
    os.rename(temporary, path)  # noqa: PTH104


def _has_line(fd: int) -> bool:
    return b"\n" in os.pread(fd, CHUNK, 0)


def _is_missing(file: str) -> bool:
    """True when there is no such file; what cannot be told is for the child to find out."""
    try:
        os.stat(file)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def _look_up(runs: list[Run]) -> None:
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


def last_line(content: bytes) -> bytes:
    """The last line that is complete, b"" when there is none."""
    return content[: content.rfind(b"\n") + 1].rstrip(b"\n").rpartition(b"\n")[2]


def candidates(name: str, path: str | None) -> list[str]:
    """The files that ``name`` may mean: itself if it has a slash, else one in each directory of PATH."""
    if "/" in name:
        return [name]
    places = DEFAULT_PATH if path is None else path
    return [f"{place or '.'}/{name}" for place in places.split(":")]


def _fault(point: str) -> None:
    """Die here, for the tests of what happens then."""
    if point == FAULT:
        os.kill(os.getpid(), signal.SIGKILL)


_known: dict[str, Matcher] = {}


def _matcher(redact: dict[str, list[str]]) -> Matcher | None:
    """What to look for in a run's output; runs with the same secrets share it. What it takes is loaded when needed."""
    if not any(redact.values()):
        return None
    from flowplan.schemas.redaction import Matcher

    key = json.dumps(redact)
    if key not in _known:
        if len(_known) >= MOST_KNOWN:
            _known.clear()
        _known[key] = Matcher(**{kind: map(os.fsencode, forms) for kind, forms in redact.items()})
    return _known[key]


class Run:
    """One attempt under supervision."""

    def __init__(self, request: dict[str, Any], directory: str) -> None:
        self.id: str = request["id"]
        self.directory = directory
        self.argv: list[str] = request["argv"]
        self.cwd: str = request["cwd"]
        self.env: dict[str, str] = request["env"]
        self.timeout: float | None = request.get("timeout")
        self.grace: float = request.get("grace", 30.0)
        self.retries: int = request.get("retries", 0)
        self.core: int | None = request.get("core")
        self.secrets = _matcher(request.get("redact", {}))
        self.files: list[str] = []
        self.pid = 0
        self.code = 0
        self.executions = 0
        self.timed_out = False
        self.replied = False
        self.failure: dict[str, Any] | None = None
        self.first_start = 0
        self.clock = 0.0
        self.errors = -1
        self.pipes: dict[int, tuple[int, Stream]] = {}

    def path(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def has(self, name: str) -> bool:
        return os.access(self.path(name), os.F_OK)

    def started(self) -> bool:
        """True when a child of it has written its line: without one it was killed before it became the run."""
        try:
            fd = os.open(self.path("started.json"), os.O_RDONLY)
        except OSError:
            return False
        try:
            return _has_line(fd)
        finally:
            os.close(fd)


class Child:
    """What happens between fork and exec, in the process that becomes the run."""

    def __init__(self, run: Run, supervisor: Supervisor, claim: int, errors: int, streams: list[int]) -> None:
        self.run, self.claim, self.errors = run, claim, errors
        self.wires = ((supervisor.null, 0), (streams[0], 1), (streams[1], 2))
        self.limits = supervisor.limits if supervisor.limits[0] != supervisor.limits[1] else None
        self.identity = b'"started_at": "%b", "executions": %d, %b\n' % (
            rfc3339(run.first_start).encode(),
            run.executions,
            supervisor.identity,
        )

    def become(self) -> None:
        """Never returns: this process becomes the program, or says why not and ends."""
        try:
            os.setsid()
            self._write_identity()
            _fault("child:after_started")
            self._limit()
            for fd, target in self.wires:
                os.dup2(fd, target)
            self._enter()
            self._execute()
        except OSError as error:
            self._fail("prepare", error.errno)
        except ValueError:
            self._fail("prepare", errno.EINVAL)
        finally:
            os._exit(127)

    def _write_identity(self) -> None:
        """One line of the claimed file: with it the run counts as started, so all of it has to be there, or nothing."""
        _fault("child:before_started")
        line = b'{"pid": %d, "start_time": %b, %b' % (os.getpid(), _own_start_time(), self.identity)
        written = os.write(self.claim, line)
        if written < len(line):
            os.ftruncate(self.claim, os.fstat(self.claim).st_size - written)
            raise OSError(errno.ENOSPC, "")
        os.fsync(self.claim)
        directory = os.open(self.run.directory, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def _limit(self) -> None:
        if self.limits:
            resource.setrlimit(resource.RLIMIT_NOFILE, self.limits)
        if self.run.core is not None:
            resource.setrlimit(resource.RLIMIT_CORE, (self.run.core, resource.getrlimit(resource.RLIMIT_CORE)[1]))

    def _enter(self) -> None:
        try:
            os.chdir(self.run.cwd)
        except OSError as error:
            self._fail("chdir", error.errno)

    def _execute(self) -> None:
        """Try every place of the run's own PATH; the most telling error is reported."""
        stage, worst = "search", errno.ENOENT
        for file in self.run.files:
            try:
                os.execve(file, self.run.argv, self.run.env)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR) or os.access(file, os.F_OK):
                    stage, worst = "exec", error.errno or 0
        self._fail(stage, worst)

    def _fail(self, stage: str, number: int | None) -> None:
        os.write(self.errors, json.dumps({"stage": stage, "errno": number or 0}).encode())
        os._exit(127)


class Supervisor:
    """The event loop: requests, ends of children, their output, and timers."""

    def __init__(self, runs_dir: str) -> None:
        self.runs_dir = runs_dir
        self.poll = select.epoll()
        self.handlers: dict[int, Callable[[], None]] = {}
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self.runs: dict[str, Run] = {}
        self.by_pid: dict[int, Run] = {}
        self.inbox, self.outbox = b"", b""
        self.connected = True
        self.sequence = 0
        self.limits = _raise_limit()
        self.null = os.open(os.devnull, os.O_RDWR)
        self.journal = os.open(f"{runs_dir}/journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.identity = self._who_am_i()

    def _who_am_i(self) -> bytes:
        """What the identities of all runs have in common: the end of a JSON object."""
        found = stat_of(os.getpid())
        assert found
        known = {
            "boot_id": boot_id(),
            "host": os.uname().nodename,
            "pid_namespace": os.readlink("/proc/self/ns/pid"),  # noqa: PTH115
            "supervisor": {"pid": os.getpid(), "start_time": found[2]},
        }
        return json.dumps(known)[1:].encode()

    def serve(self) -> None:
        """Until flowplan is gone and every run is recorded."""
        wakeup, alarm = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
        self._listen(wakeup, lambda: self._children_ended(wakeup))
        os.set_blocking(0, False)
        os.set_blocking(1, False)
        self._listen(0, self._receive)
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
        del self.handlers[fd]
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
        if 1 in self.handlers:
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
        runs = [Run(request, f"{self.runs_dir}/{request['id']}") for request in requests]
        _look_up(runs)
        states = [self._request(run) for run in runs]  # one fork after the other, see above
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

    # -- starting

    def _start(self, run: Run) -> str:
        """Fork the run if nobody ever did: ``starting``; else ``busy``, ``started``, ``stopped``, ``refused: ...``, or
        ``full`` where the host gives no further process."""
        try:
            claim = os.open(run.path("started.json"), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            return f"refused: {run.directory}: {error.strerror}"
        try:
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return "busy"
            if run.has("stop"):
                return "stopped"
            if run.executions == 0 and (_has_line(claim) or run.has("exit.json")):
                return "started"
            if run.executions == 0:
                os.ftruncate(claim, 0)  # a line that was broken off by a full disk and a kill
            _fault("supervisor:after_claim")
            self._fork(run, claim)
            return "starting"
        except OSError as error:
            return "full" if error.errno in FULL else f"refused: {error.strerror}"
        finally:
            os.close(claim)

    def _fork(self, run: Run, claim: int) -> None:
        run.errors, report = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        writers: list[int] = []
        run.executions += 1
        run.first_start = run.first_start or time.time_ns()
        run.clock = run.clock or time.clock_gettime(time.CLOCK_BOOTTIME)
        try:
            for name in ("stdout", "stderr"):
                writers.append(self._stream(run, name))
            child = Child(run, self, claim, report, writers)
            run.pid = os.fork()
            if run.pid == 0:
                child.become()
        except OSError:
            run.executions -= 1
            errors, run.errors = run.errors, -1
            _close(errors, *run.pipes, *(file for file, _ in run.pipes.values()))
            run.pipes.clear()
            raise
        finally:
            _close(report, *writers)
        _fault("supervisor:after_fork")

    def _stream(self, run: Run, name: str) -> int:
        """Where the run writes: its file, or a pipe to us when secrets must be taken out first."""
        file = os.open(run.path(name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        if run.secrets is None:
            return file
        try:
            reader, writer = os.pipe2(os.O_CLOEXEC)
        except OSError:
            os.close(file)
            raise
        from flowplan.schemas.redaction import Stream

        _widen(reader)
        run.pipes[reader] = (file, Stream(run.secrets))
        return writer

    def _adopt(self, run: Run) -> None:
        self.by_pid[run.pid] = run
        if run.executions > run.retries:
            run.argv, run.env = [], {}  # a thousand environments are megabytes, and it will not be started again
        self._listen(run.errors, lambda: self._began(run))
        for reader in run.pipes:
            self._listen(reader, lambda fd=reader: self._output(run, fd))  # type: ignore[misc]
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
        elif run.started():  # else the child was killed before it became a run
            self._journal("start", run)
            self._reply(run, state="started")

    # -- output that must be redacted

    def _output(self, run: Run, fd: int) -> None:
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return
        if data:
            file, stream = run.pipes[fd]
            _write_output(file, stream.feed(data))
        else:
            self._close_output(run, fd)

    def _close_output(self, run: Run, fd: int) -> None:
        file, stream = run.pipes.pop(fd)
        _write_output(file, stream.flush())
        self._forget(fd)
        os.close(fd)
        os.close(file)

    def _drain(self, run: Run) -> None:
        """Everything written so far. A process that left the group may hold the pipe open: it is not waited for."""
        for fd in list(run.pipes):
            for _ in range(MOST_CHUNKS):
                if fd in run.pipes:
                    self._output(run, fd)
            if fd in run.pipes:
                self._close_output(run, fd)

    # -- time limits

    def _time_out(self, run: Run) -> None:
        if run.id not in self.runs:
            return
        run.timed_out = True
        if not run.pid:
            self._finish(run)
            return
        # Before it has become the program it would not hear of a gentle end: its handlers are still ours.
        _signal_group(run.pid, signal.SIGTERM if run.errors < 0 else signal.SIGKILL)
        self._after(run.grace, lambda: self._kill(run))

    def _kill(self, run: Run) -> None:
        if run.pid:
            _signal_group(run.pid, signal.SIGKILL)

    # -- ends

    def _children_ended(self, wakeup: int) -> None:
        os.read(wakeup, CHUNK)
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            self._ended(ended.si_pid)

    def _ended(self, pid: int) -> None:
        # The leader is not reaped yet, so its number still means its group and nobody else's.
        _signal_group(pid, signal.SIGKILL)
        _, code = os.waitpid(pid, 0)
        run = self.by_pid.pop(pid)
        run.pid, run.code = 0, os.waitstatus_to_exitcode(code)
        self._began(run)
        self._drain(run)
        if not run.failure and not run.started():
            self._give_up(run)
        elif self._deserves_retry(run):
            self._retry_later(run, min(FIRST_BACKOFF * 2 ** (run.executions - 1), LONGEST_BACKOFF))
        else:
            self._finish(run)

    def _give_up(self, run: Run) -> None:
        """Somebody killed the child before it became a run: nothing was started, and it may be tried again."""
        del self.runs[run.id]
        self._reply(run, state="died")

    def _deserves_retry(self, run: Run) -> bool:
        over = run.code == 0 or run.timed_out or run.failure or run.has("stop")
        return not over and run.executions <= run.retries

    def _retry_later(self, run: Run, seconds: float) -> None:
        self._after(seconds, lambda: self._retry(run))

    def _retry(self, run: Run) -> None:
        if run.id not in self.runs:
            return
        _look_up([run])
        state = self._start(run)
        if state == "starting":
            self._adopt(run)
        elif state in ("busy", "full"):
            self._retry_later(run, 0.05 if state == "busy" else 1.0)
        else:
            self._finish(run)

    def _finish(self, run: Run) -> None:
        """Record the end; a full disk delays that, a directory that somebody removed ends it."""
        _fault("supervisor:before_exit_record")
        record = self._end_of(run)
        self._record(run, record)
        self._reply(run, state="failed" if run.failure else "started")

    def _record(self, run: Run, record: dict[str, Any]) -> None:
        try:
            write_json(run.path("exit.json"), record)
        except FileNotFoundError:
            pass
        except OSError:
            self._after(1.0, lambda: self._record(run, record))
            return
        del self.runs[run.id]
        self._journal("end", run)

    def _end_of(self, run: Run) -> dict[str, Any]:
        seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - run.clock
        status, reason = _verdict(run)
        return {
            "status": status,
            "reason": reason,
            "exit_code": _failure_code(run.failure) if run.failure else run.code,
            "failure": run.failure,
            "started_at": rfc3339(run.first_start),
            "finished_at": rfc3339(run.first_start + int(seconds * 1e9)),
            "seconds": round(seconds, 6),
            "executions": run.executions,
        }

    def _journal(self, word: str, run: Run) -> None:
        try:
            os.write(self.journal, f"{word} {run.id}\n".encode())
        except OSError:
            return  # whoever watches looks at every run from time to time anyway


def _verdict(run: Run) -> tuple[str, str]:
    """Status and reason of an ended run."""
    word = _signal_name(-run.code) if run.code < 0 else "Error" if run.code else "Completed"
    if run.timed_out:
        return "timed_out", "DeadlineExceeded"
    if run.failure and run.failure["stage"] == "prepare":
        return "failed", "CannotStart"
    if run.failure:
        missing = run.failure["errno"] in (errno.ENOENT, errno.ENOTDIR)
        return "failed", _REASONS.get(run.failure["stage"] if missing else "", "NotExecutable")
    if run.has("stop"):
        return "cancelled", word
    return ("succeeded" if run.code == 0 else "failed"), word


def _failure_code(failure: dict[str, Any]) -> int:
    """What a shell would report: 127 for what is missing, 126 for what cannot be executed (E6)."""
    return 127 if failure["errno"] in (errno.ENOENT, errno.ENOTDIR) else 126


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return  # it ended before it became a group, or runs as somebody else now


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _widen(reader: int) -> None:
    os.set_blocking(reader, False)
    try:
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, PIPE)
    except OSError:
        return  # this user's pipes hold as much as they may


def _write_output(fd: int, data: bytes) -> None:
    try:
        _write(fd, data)
    except OSError:
        return  # a full disk loses output, never the run


def _raise_limit() -> tuple[int, int]:
    """Take all file descriptors we may have; the answer is what the runs shall have, as before."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    return before


def main(runs_dir: str) -> None:
    """Leave the caller's terminal, session and process tree, then serve."""
    try:
        if os.fork():
            os._exit(0)
    except OSError as error:
        os._exit(NO_ROOM if error.errno in FULL else 1)
    for number in OURS:
        signal.signal(number, lambda *_: None)
    os.chdir("/")
    gc.freeze()  # what a collection does not look at stays shared with the children
    Supervisor(runs_dir).serve()


if __name__ == "__main__":
    sys.path += sys.argv[2:]
    main(sys.argv[1])
