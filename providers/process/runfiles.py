"""The directory of one attempt: what flowplan and the supervisor wrote about it, read as an Observed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from flowplan.providers.process import pump
from flowplan.providers.process import record as records
from flowplan.providers.process.procfs import alive, elsewhere, host_id, supervised, time_of
from flowplan.providers.process.record import Record
from flowplan.providers.protocol import IMPORTED, of_other_content
from flowplan.schemas import exit_codes
from flowplan.schemas.errors import ProviderError
from flowplan.schemas.faults import point
from flowplan.schemas.lifecycle import RETRY_DELAY
from flowplan.schemas.places import make_private
from flowplan.schemas.runs import Identity, Objects, Observed, Recorded, Status, Try

CONTENT = "flowplan.dev/content"

CLAIM_TIMEOUT = 30.0
"""Seconds to wait while a supervisor is between claiming a run and starting it."""
HANDLE = ("pid", "start_time", "boot_id", "host", "pid_namespace", "uid", "nonce", IMPORTED)
"""What the state keeps of a process, to find it again."""

Rest = Callable[[str], Sequence[int]]
"""The processes of a run id that are still there, by the variables that they inherited."""


class RunFiles(NamedTuple):
    """The files of one attempt in ``directory``; any of them may be missing."""

    directory: Path
    run_id: str

    def record(self) -> Record | None:
        """Read the record, None where there is none.

        Raises:
            ProviderError: it is there and cannot be read.
        """
        path = self.path(records.NAME)
        try:
            return records.read(path)
        except (OSError, ValueError) as error:
            raise ProviderError(f"{path} cannot be read: {error}") from error

    def started(self) -> dict[str, Any] | None:
        """Return the process of the newest execution, None when none was ever started."""
        found = self.record()
        return found.started if found else None

    def path(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def open(self, identity: Identity, name: str, objects: Objects) -> Record:
        """Make the directory and the record: the owner and what will run; ``objects`` hold tokens instead of secrets.

        Raises:
            Refused: the attempt was started with other content.
        """
        content = objects["Process"].get("labels", {}).get(CONTENT, "")
        found = self.record() or Record(b"")
        same = bool(found.owner) and found.owner.get("content", "") == content
        if found.owner and not same and (found.destroyed or (found.end or {}).get("failure")):
            shutil.rmtree(
                self.directory
            )  # an attempt of a later state than this one, of which nothing is left to manage
            found = Record(b"")
        elif found.owner and not same and (found.started or found.over):
            raise of_other_content(f"the process of run {self.run_id}", identity.address)
        try:
            os.mkdir(self.directory, 0o700)  # noqa: PTH102 - the place of all runs is known to be ours
        except (FileNotFoundError, FileExistsError):
            make_private(self.directory)
        point("process:directory:after")
        if not same:  # none, or an intent that was changed before its start
            owner = {key: getattr(identity, key) for key in ("project", "lineage", "address", "attempt")}
            owner |= {"environment": identity.environment} if identity.environment else {}
            start = {"name": name, "host_id": host_id(), "content": content, "objects": objects}
            with self.claimed() as fd:
                found = records.claimed(fd)
                records.write_line(fd, _line({"run": {**owner, **start}}))
            point("process:identity:after")
        return found

    def add(self, document: Mapping[str, Any]) -> None:
        """Add a line to the record."""
        fd = os.open(self.path(records.NAME), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            records.write_line(fd, _line(document))
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[int]:
        """Hold the claim, so that the run cannot be started meanwhile; wait for a supervisor that is starting it.

        Raises:
            ProviderError: it stays taken.
        """
        fd = os.open(self.path(records.NAME), os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + CLAIM_TIMEOUT
            while not _locked(fd):
                if time.monotonic() > deadline:
                    raise ProviderError(f"run {self.run_id} has been starting for {CLAIM_TIMEOUT:.0f} s")
                time.sleep(0.01)
            yield fd
        finally:
            os.close(fd)

    def starting(self) -> bool:
        """Return whether a supervisor is between claiming the run and starting it."""
        try:
            fd = os.open(self.path(records.NAME), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return not _locked(fd, fcntl.LOCK_SH)
        finally:
            os.close(fd)

    def last_change(self) -> str | None:
        """Return when the run was last seen to do something: when its record or its output was written to."""
        names = [records.NAME, *(name for _, name in pump.parts(str(self.directory)))]
        times = []
        for name in names:
            with contextlib.suppress(OSError):
                times.append(os.stat(self.path(name)).st_mtime)  # noqa: PTH116
        return time_of(max(times)) if times else None


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _locked(fd: int, how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def identity_of(known: Record | None, recorded: Recorded | None) -> dict[str, Any] | None:
    """Return the process of the attempt, as recorded on start or in the state's handle; None if it never started."""
    started = known.started if known else None
    if started is None and recorded and recorded.handle.get("pid"):
        return dict(recorded.handle)
    return started


def look(files: RunFiles, recorded: Recorded | None, rest: Rest, known: Record | None = None) -> Observed:
    """Observe the attempt, of which the files may be ``known`` already."""
    known = known or files.record()
    if known and known.destroyed:
        removed = _absent(files, "it was removed", Status.LOST)
        return replace(_observed(files, recorded, known), exists=False) if known.end else removed
    if known and known.end:
        return _observed(files, recorded, known)
    started = identity_of(known, recorded)
    if where := _elsewhere(started, recorded):
        if recorded and recorded.status is Status.LOST:
            return _absent(files, recorded.message, Status.LOST)
        return _unseen(files, recorded, known, where)
    if started is None:
        return _never_started(files, recorded, known, rest)
    if alive(started) or (supervised(started) and not (known and known.lost)):
        return _observed(files, recorded, known)
    again = files.record()
    if again and again.over and not (known and known.over):  # it was written between the two looks
        return look(files, recorded, rest)
    if left := rest(files.run_id):
        told = f"its own process {started['pid']} has ended, its exit code is unknown; what it started goes on ({_pids(left)})"
        return replace(_observed(files, recorded, known), message=told)
    why = f"process {started['pid']} is gone, and so is its supervisor; its exit code is unknown"
    if started.get(IMPORTED):
        why = f"process {started['pid']} has ended; flowplan did not start it, so its exit code is unknown"
    return _absent(files, why, Status.LOST)


def _never_started(files: RunFiles, recorded: Recorded | None, known: Record | None, rest: Rest) -> Observed:
    if files.starting():
        return _observed(files, recorded, known)
    again = files.record()
    if again and (again.started or again.over):
        return look(files, recorded, rest)  # it was started between two looks
    if again and again.stopped:
        return _absent(files, "it was stopped before it was started", Status.LOST)
    return _absent(files, "it was never started")


def _elsewhere(started: Mapping[str, Any] | None, recorded: Recorded | None) -> str:
    """Return the host on which it was started, when that is not this one as it is now; else ""."""
    if started:
        return elsewhere(started)
    # What is recorded as being created on another host may have been started there.
    target = recorded.target if recorded and recorded.status.live else {}
    return str(target.get("label") or target["id"]) if target.get("id") not in (None, "", host_id()) else ""


def _unseen(files: RunFiles, recorded: Recorded | None, known: Record | None, where: str) -> Observed:
    """Return what is recorded of a run of another host, or of this one before a restart: it cannot be seen from here."""
    seen = files.last_change() or (recorded.started_at or recorded.created_at if recorded else None)
    told = f"on host {where}, last seen {seen or 'never'}; it cannot be seen from here"
    found = _observed(files, recorded, known)
    return replace(found, status=recorded.status if recorded else found.status, message=told, elsewhere=where)


def _pids(pids: Sequence[int]) -> str:
    return ("process " if len(pids) == 1 else "processes ") + ", ".join(map(str, pids))


def _absent(files: RunFiles, message: str, status: Status | None = None) -> Observed:
    """Return that there is no process; ``lost`` when there will be none and its end was not seen."""
    return Observed(files.run_id, exists=False, status=status, message=message)


def _observed(files: RunFiles, recorded: Recorded | None, known: Record | None) -> Observed:
    started = identity_of(known, recorded)
    facts: dict[str, Any] = {"status": Status.RUNNING if started else Status.PENDING}
    if started:
        facts |= {
            "handle": {key: started[key] for key in HANDLE if key in started},
            "infrastructure_id": f"{started['host']}:{started['pid']}",
            "attempts": started.get("executions", 1),
            "started_at": started.get("started_at"),
            "at": started.get("started_at"),
        }
    if known and facts.get("attempts", 1) > 1:
        facts["tries"] = _tries(known, recorded)
    if known and known.wait:
        begins = time_of(known.wait["until_ns"] / 1e9)
        said = exit_codes.next_try(exit_codes.explained(known.wait["code"]), facts.get("attempts", 1) + 1, begins)
        facts |= {"reason": RETRY_DELAY, "message": said}
    if known and known.end:
        end = known.end
        facts |= {key: end[key] for key in ("reason", "exit_code", "started_at", "finished_at")}
        facts |= {"attempts": end["executions"], "at": end["finished_at"]}
        facts |= {"status": Status(end["status"]), "message": _message(end)}
    owner = known.owner if known and (recorded is None or recorded.status is Status.CREATING) else {}
    named = {key: owner[key] for key in ("address", "attempt", "name", "content") if key in owner}
    if recorded:
        named |= {"address": recorded.address, "attempt": recorded.attempt, "name": recorded.name}
    return Observed(files.run_id, **named, **facts)


def _tries(known: Record, recorded: Recorded | None) -> tuple[Try, ...]:
    """Return the retries that are not recorded yet."""
    retries = recorded.objects.get("Process", {}).get("retries") if recorded else None
    return tuple(
        Try(
            start["executions"],
            None if retries is None else retries + 1,
            start.get("began_at"),
            exit_codes.explained(code) if (code := start.get("code_before")) else "",
        )
        for start in known.starts(after=max(recorded.attempts, 1) if recorded else 1)
    )


def _message(ended: Mapping[str, Any]) -> str:
    left = f"; {left_over(ended)}" if ended.get("left") else ""
    if ended["failure"]:
        return f"it could not be started: {os.strerror(ended['failure']['errno'])}{left}"
    if ended["status"] == Status.TIMED_OUT:
        return f"it was stopped after {ended['seconds']:.1f} s because its time limit was over{left}"
    code = ended["exit_code"]
    return (exit_codes.explained(code) if code else "exited cleanly") + left


def left_over(ended: Mapping[str, Any]) -> str:
    """Return a sentence about what a run may have left."""
    pids = ended["left"]
    return f"{_pids(pids)}, which it may have started, {'goes' if len(pids) == 1 else 'go'} on"
