"""The writer's lock: an OS lock beside the state that dies with its holder, who is named when it is busy."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowplan.schemas.errors import Refused, StateError, StateLocked
from flowplan.schemas.faults import point
from flowplan.schemas.places import make_private, refuse_foreign
from flowplan.state.holder import about_me, alive, understood, words
from flowplan.state.location import Lock

if TYPE_CHECKING:
    from filelock import UnixFileLock

POLL_SECONDS = 0.05
SETTLE_SECONDS = 0.3
"""How long even a writer without a timeout tries again: another process may only be asking who holds the lock."""

_FULL_NOTE = 4096


class WriterLock(Lock):
    """The lock of a state in a file.

    Args:
        path: the state; the lock is the file ``<path>.lock`` (0600), which stays.
        command: the flowplan command's word, shown to others: ``apply``. Never arguments.
    """

    def __init__(self, path: Path, command: str = "flowplan") -> None:
        self.path = Path(path)
        self.command = command
        self._lock: UnixFileLock | None = None

    def acquire(self, timeout: float = 0) -> None:
        from filelock import Timeout

        try:
            lock = _os_lock(self.path)
            lock.acquire(timeout=max(timeout, SETTLE_SECONDS), poll_interval=POLL_SECONDS)
        except Timeout:
            raise StateLocked(
                _busy(self.path), hint="wait for it with --lock-timeout, e.g. --lock-timeout 10m"
            ) from None
        except OSError as error:
            raise _unusable(self.path, error) from error
        self._lock = lock
        point("lock:acquire:after")
        _write_note(self.path, about_me(self.command))

    def release(self) -> None:
        if self._lock is None:
            return
        _write_note(self.path, {})
        lock, self._lock = self._lock, None
        point("lock:release:before")
        lock.release()
        point("lock:release:after")

    def check(self) -> None:
        pass  # it is lost only with this process

    @property
    def held(self) -> bool:
        return self._lock is not None


def holder(path: Path) -> dict[str, Any] | None:
    """Return who has the lock of the state at ``path``: command, user, host, pid, since...; None when it is free.

    A holder that left no note gives ``{}``.
    """
    if not _lock_file(path).exists():
        return None
    return _read_note(path) if _taken(path) else None


def break_lock(path: Path) -> dict[str, Any] | None:
    """Remove the lock of a holder that is provably dead; return its note, None when the lock was free.

    The lock dies with its holder by itself; this is for a lock that something else keeps alive, such as an
    inherited descriptor or a file server that missed the end of its client.

    Raises:
        Refused: the holder is alive, or runs where that cannot be seen from here.
    """
    found = holder(path)
    if found is None:
        return None
    if alive(found) is not False:
        raise Refused(f"{_busy(path)}, which is not known to be dead", hint="end that process first")
    try:
        # A waiting process opens the file anew at each attempt, and so finds the new one.
        _lock_file(path).unlink(missing_ok=True)
    except OSError as error:
        raise _unusable(path, error) from error
    return found


def _lock_file(path: Path) -> Path:
    if path.is_dir():
        raise StateError(f"the state {path} is not a regular file", hint="--state names another file")
    return path.with_name(path.name + ".lock")


def _os_lock(path: Path) -> UnixFileLock:
    from filelock import UnixFileLock

    make_private(path.parent)
    refuse_foreign(_lock_file(path))
    # Taken in one thread and given back in another: the lock is the process's.
    return UnixFileLock(str(_lock_file(path)), mode=0o600, thread_local=False)


def _taken(path: Path) -> bool:
    from filelock import Timeout

    try:
        lock = _os_lock(path)
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError as error:
        raise _unusable(path, error) from error
    lock.release()
    return False


def _unusable(path: Path, error: OSError) -> StateError:
    return StateError(
        f"the lock {_lock_file(path)} cannot be used: {error.strerror or error}",
        hint="make the file and its directory writable for you",
    )


def _busy(path: Path) -> str:
    note = _read_note(path)
    deadline = time.monotonic() + SETTLE_SECONDS
    while not note and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)  # the holder has just got it and is about to sign
        note = _read_note(path)
    return f"the state {path} is locked by {words(note)}"


def _write_note(path: Path, note: Mapping[str, Any]) -> None:
    """Sign the lock's file. The note only informs: a full disk must not keep flowplan from working."""
    with suppress(OSError):
        descriptor = os.open(_lock_file(path), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(note).encode() if note else b"")
        finally:
            os.close(descriptor)


def _read_note(path: Path) -> dict[str, Any]:
    """Return the note in the lock's file, {} when there is none that makes sense."""
    try:
        descriptor = os.open(_lock_file(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        return understood(os.read(descriptor, _FULL_NOTE))
    except OSError:
        return {}
    finally:
        os.close(descriptor)
