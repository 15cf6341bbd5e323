"""flowplan's end of the pipe to its supervisor: started when the first run is, left alone when flowplan ends."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import queue
import subprocess
import sys
import threading
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

import ahocorasick_rs

import flowplan
from flowplan.providers.process.kernel import SUPERVISOR
from flowplan.providers.process.starting import FULL, NO_ROOM
from flowplan.schemas.errors import EngineUnreachable, ProviderError
from flowplan.schemas.faults import point

ANSWER_TIMEOUT = 60.0
"""Seconds to wait for an answer."""
ATTEMPTS = 3
"""Supervisors to try when one is killed before it answers; repeating is safe, a run is claimed before it starts."""


class Supervision:
    """One supervisor, started lazily. Safe for many threads."""

    def __init__(self, runs_dir: Path) -> None:
        self._runs_dir = runs_dir
        self._lock = threading.Lock()
        self._pipe: _Pipe | None = None

    def start(self, request: dict[str, Any]) -> str:
        """Ask a supervisor to start a run; return its answer: ``started``, ``failed``, ``busy``, ``stopped``...

        Raises:
            ProviderError: no supervisor can be started.
            EngineUnreachable: none answers; the run may be started or not.
        """
        for _ in range(ATTEMPTS):
            answer = self._connected().ask(request)
            if answer is not None:
                return answer
        raise EngineUnreachable(
            "the supervisor of the processes was ended before it answered",
            hint=f"see {self._runs_dir / 'supervisor.log'}; applying again is safe",
        )

    def _connected(self) -> _Pipe:
        with self._lock:
            if self._pipe is None or self._pipe.closed:
                if self._pipe:
                    self._pipe.close()
                self._pipe = _Pipe(self._runs_dir)
            return self._pipe

    def close(self) -> None:
        """Hang up. The supervisor goes on until its last run is recorded."""
        with self._lock:
            if self._pipe:
                self._pipe.close()
            self._pipe = None


class _Pipe:
    """A running supervisor; a thread hands its answers to whoever asked."""

    def __init__(self, runs_dir: Path) -> None:
        self._process = _spawn(runs_dir)
        self._asking: dict[str, deque[queue.SimpleQueue[str | None]]] = defaultdict(deque)
        self._lock = threading.Lock()
        self.closed = False
        self._reader = threading.Thread(target=self._read, name="flowplan-supervisor", daemon=True)
        self._reader.start()

    def ask(self, request: dict[str, Any]) -> str | None:
        """Return the state that the supervisor answers; None when it was ended first."""
        answer: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        assert self._process.stdin
        with self._lock:
            if self.closed:
                return None
            self._asking[request["id"]].append(answer)
            try:
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
                self._process.stdin.flush()
                point("process:ask:after")
            except (BrokenPipeError, ValueError):
                return None
        try:
            return answer.get(timeout=ANSWER_TIMEOUT)
        except queue.Empty:
            raise EngineUnreachable(
                f"the supervisor of the processes did not answer within {ANSWER_TIMEOUT:.0f} s"
            ) from None

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            answer = json.loads(line)
            with self._lock:
                waiting = self._asking[answer["id"]]
                asker = waiting.popleft() if waiting else None
                if not waiting:
                    del self._asking[answer["id"]]
            if asker:
                asker.put(answer["state"])
        with self._lock:
            self.closed = True
            left, self._asking = self._asking, defaultdict(deque)
        for asker in [one for waiting in left.values() for one in waiting]:
            asker.put(None)

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:
            self.closed = True
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._reader.join(timeout=10)
        self._process.stdout.close()


def _spawn(runs_dir: Path) -> subprocess.Popen[bytes]:
    """Start a supervisor in a session of its own, with an empty environment and nothing of ours open."""
    script = Path(__file__).with_name("supervisor.py")
    libraries = {Path(file).parents[1] for file in (flowplan.__file__, ahocorasick_rs.__file__)}  # what redacts output
    # A fault point is for the tests of sudden ends; no other variable of ours is of use to it.
    environment = {SUPERVISOR: "1"} | {name: os.environ[name] for name in ("FLOWPLAN_FAULT",) if name in os.environ}
    try:
        log = os.open(runs_dir / "supervisor.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-E", str(script), str(runs_dir), *map(str, libraries)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(log)
    except OSError as error:
        if error.errno in FULL:
            raise full() from error
        raise ProviderError(f"the supervisor of the processes cannot be started: {error}") from error
    if process.wait() == NO_ROOM:  # it forks, and its child lives on
        raise full()
    return process


def full() -> ProviderError:
    """Return the error for a host that gives no further process: nothing was started."""
    return ProviderError(
        f"no further process can be started on this host: {os.strerror(errno.EAGAIN)}",
        hint="its process table, or this user's part of it (ulimit -u), is full: end some, then apply again",
        reason="ProcessTableFull",
    )
