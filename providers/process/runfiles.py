"""The directory of one attempt: what flowplan and the supervisor wrote about it, read as an Observed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from flowplan.providers.process.exits import meaning
from flowplan.providers.process.procfs import alive, host_id, pid_namespace, this_boot
from flowplan.providers.process.supervisor import last_line, write_json
from flowplan.providers.protocol import IMPORTED, of_other_content
from flowplan.schemas.errors import ProviderError, Refused
from flowplan.schemas.faults import point
from flowplan.schemas.places import make_private
from flowplan.schemas.runs import Identity, Objects, Observed, Recorded, Status

CONTENT = "flowplan.dev/content"

CLAIM_PATIENCE = 30.0
"""Seconds to wait while somebody is between claiming a run and starting it."""


class RunFiles(NamedTuple):
    """The files of one attempt in ``directory``; any of them may be missing."""

    directory: Path
    run_id: str

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the run, None where there is none.

        Raises:
            ProviderError: it is there and cannot be read.
        """
        return _document(self.path(name))

    def started(self) -> dict[str, Any] | None:
        """The process of the newest execution, None when none was ever started.

        Raises:
            ProviderError: as ``read``.
        """
        return _document(self.path("started.json"), last_line)

    def has(self, name: str) -> bool:
        return os.path.exists(self.path(name))  # noqa: PTH110 - a thousand runs are looked at again and again

    def path(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def open(self, identity: Identity, name: str, objects: Objects) -> None:
        """Make the directory and write down whose it is and what will run; ``objects`` hold tokens instead of secrets.

        Raises:
            Refused: the attempt was started with other content.
        """
        try:
            os.mkdir(self.directory, 0o700)  # noqa: PTH102 - the place of all runs is known to be ours
        except (FileNotFoundError, FileExistsError):
            make_private(self.directory)
        point("process:directory:after")
        content = objects["Process"].get("labels", {}).get(CONTENT, "")
        before = self.read("run.json")
        if before is not None and before.get("content", "") != content and (self.started() or self.has("exit.json")):
            raise of_other_content(f"the process of run {self.run_id}", identity.address)
        if before is None or before.get("content", "") != content:  # an intent that was changed before its start
            whose = {key: getattr(identity, key) for key in ("project", "lineage", "address", "attempt")}
            start = {"name": name, "host_id": host_id(), "content": content, "objects": objects}
            write_json(self.path("run.json"), {**whose, **start})
            point("process:identity:after")

    def mark(self, name: str) -> None:
        """Leave a mark (``stop``, ``destroyed``)."""
        (self.directory / name).touch(mode=0o600)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the claim, so that nobody starts the run meanwhile; waits for whoever is just starting it.

        Raises:
            ProviderError: it stays taken.
        """
        fd = os.open(self.path("started.json"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + CLAIM_PATIENCE
            while not _locked(fd):
                if time.monotonic() > deadline:
                    raise ProviderError(f"run {self.run_id} has been starting for {CLAIM_PATIENCE:.0f} s")
                time.sleep(0.01)
            yield
        finally:
            os.close(fd)

    def starting(self) -> bool:
        """True while somebody is between claiming the run and starting it."""
        try:
            fd = os.open(self.path("started.json"), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return not _locked(fd, fcntl.LOCK_SH)
        finally:
            os.close(fd)


def _document(path: str, part: Callable[[bytes], bytes] = bytes) -> dict[str, Any] | None:
    """The JSON object in (a part of) a file; None where there is no file, or no such part."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = part(os.read(fd, os.fstat(fd).st_size + 1))
        finally:
            os.close(fd)
        content = json.loads(text) if text or part is bytes else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ProviderError(f"{path} cannot be read: {error}") from error
    return content if isinstance(content, dict) else None


def _locked(fd: int, how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def identity_of(files: RunFiles, record: Recorded | None) -> dict[str, Any] | None:
    """The process of the attempt: as recorded on start, else from the state's handle; None when it never started."""
    started = files.started()
    if started is None and record and record.handle.get("pid"):
        return dict(record.handle)
    return started


def look(files: RunFiles, record: Recorded | None) -> Observed:
    """What is true of the attempt now.

    Raises:
        Refused: the process was started on another host (P8).
    """
    started = identity_of(files, record)
    ended = files.read("exit.json")
    if files.has("destroyed"):
        removed = _absent(files, "it was removed", Status.LOST)
        return replace(_observed(files, record, started, ended), exists=False) if ended else removed
    if ended is None and started and not _runs(started):
        ended = files.read("exit.json")  # it may have been written between the two looks
        if ended is None:
            return _absent(files, _why_gone(started), Status.LOST)
    if ended is None and started is None and not files.starting():
        return _never_started(files, record)
    return _observed(files, record, started, ended)


def _never_started(files: RunFiles, record: Recorded | None) -> Observed:
    if files.started() or files.has("exit.json"):
        return look(files, record)  # it was started between two looks
    if files.has("stop"):
        return _absent(files, "it was stopped before it was started", Status.LOST)
    return _absent(files, "it was never started")


def _runs(started: Mapping[str, Any]) -> bool:
    """True while the process runs, or its supervisor is about to record its end or to start it again."""
    refuse_elsewhere(started)
    supervisor = started.get("supervisor")
    return alive(started) or bool(supervisor and alive({**supervisor, "boot_id": started["boot_id"]}))


def refuse_elsewhere(started: Mapping[str, Any]) -> None:
    """Raises Refused when the process was started on this machine, but where other process numbers count."""
    elsewhere = started.get("pid_namespace") not in (None, pid_namespace())
    if elsewhere and started.get("boot_id") == this_boot():
        message = f"process {started['pid']} runs on a different host ({started['host']}); nothing was done to it"
        raise Refused(message, hint="it was started inside or outside of a container; use flowplan there")


def _why_gone(started: Mapping[str, Any]) -> str:
    if started.get("boot_id") != this_boot():
        return "the host was restarted while it ran; nobody knows how it ended"
    if started.get(IMPORTED):
        return f"process {started['pid']} has ended; it was started by somebody else, so nobody knows how"
    return f"process {started['pid']} is gone, and so is its supervisor; nobody knows how it ended"


def _absent(files: RunFiles, message: str, status: Status | None = None) -> Observed:
    """There is no process; ``lost`` when none will ever be, and nobody knows how it ended."""
    return Observed(files.run_id, exists=False, status=status, message=message)


def _observed(
    files: RunFiles, record: Recorded | None, started: Mapping[str, Any] | None, ended: Mapping[str, Any] | None
) -> Observed:
    known = _whose(files) if record is None or record.status is Status.CREATING else {}
    if record:
        known |= {"address": record.address, "attempt": record.attempt, "name": record.name}
    facts: dict[str, Any] = {"status": Status.RUNNING if started else Status.PENDING}
    if started:
        handle = {key: started[key] for key in ("pid", "start_time", "boot_id", "host", IMPORTED) if key in started}
        facts |= {
            "handle": handle,
            "infrastructure_id": f"{started['host']}:{started['pid']}",
            "attempts": started.get("executions", 1),
            "started_at": started.get("started_at"),
            "at": started.get("started_at"),
        }
    if ended:
        facts |= _ending(ended)
    return Observed(files.run_id, **known, **facts)


def _whose(files: RunFiles) -> dict[str, Any]:
    found = files.read("run.json") or {}
    return {key: found[key] for key in ("address", "attempt", "name", "content") if key in found}


def _ending(ended: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "status": Status(ended["status"]),
        "reason": ended["reason"],
        "message": _message(ended),
        "exit_code": ended["exit_code"],
        "attempts": ended["executions"],
        "started_at": ended["started_at"],
        "finished_at": ended["finished_at"],
        "at": ended["finished_at"],
    }


def _message(ended: Mapping[str, Any]) -> str:
    if ended["failure"]:
        return f"it could not be started: {os.strerror(ended['failure']['errno'])}"
    if ended["status"] == Status.TIMED_OUT:
        return f"it was stopped after {ended['seconds']:.1f} s because its time limit was over"
    return meaning(ended["exit_code"])
