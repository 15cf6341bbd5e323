"""What the kernel tells of processes. Used by the supervisor, which stays small: imports next to nothing."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

CHUNK = 65536
RUN_ID = "FLOWPLAN_RUN_ID"
"""The variable by which all processes of a run are known: children inherit it."""
NONCE = "FLOWPLAN_NONCE"
"""The variable that tells by which supervisor a process was started: process numbers of two hosts may be alike."""
SUPERVISOR = "FLOWPLAN_SUPERVISOR"
"""The variable by which supervisors are known: one that a run started through flowplan outlives that run."""


def now() -> str:
    """Return this moment: RFC 3339, UTC, microseconds."""
    return rfc3339(time.time_ns())


def rfc3339(nanoseconds: int) -> str:
    """Return a moment given in nanoseconds since 1970 as text."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 1000:06d}Z"


def boot_id() -> str:
    """Return the kernel's id of this boot."""
    return _read("/proc/sys/kernel/random/boot_id").decode().strip()


def stat_of(pid: int) -> tuple[str, int, int] | None:
    """Return state letter, session id and start time (clock ticks since boot) of a process, or None."""
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except OSError:
        return None
    return (fields[0].decode(), int(fields[3]), int(fields[19])) if fields else None


def runs(pid: int) -> bool:
    """Tell whether there is such a process, and it has not ended."""
    found = stat_of(pid)
    return found is not None and found[0] not in "ZX"


def own_start_time() -> bytes:
    """Return what ``stat_of`` tells of this process; it touches little memory, which a child would have to copy."""
    fd = os.open("/proc/self/stat", os.O_RDONLY)
    fields = os.read(fd, CHUNK)
    os.close(fd)
    return fields[fields.rindex(b")") :].split(b" ", 21)[20]


def variables(pid: int, names: Iterable[str]) -> dict[str, str] | None:
    """Return those of the variables that a process was started with; None when that cannot be read."""
    try:
        environ = b"\0" + _read(f"/proc/{pid}/environ")
    except OSError:
        return None
    found = {}
    for name in names:
        start = environ.find(f"\0{name}=".encode())
        if start >= 0:
            start += len(name) + 2
            end = environ.find(b"\0", start)
            found[name] = os.fsdecode(environ[start : end if end >= 0 else len(environ)])
    return found


def children(pid: int) -> list[int]:
    """Return the processes whose parent is ``pid``, also those that have ended and are not reaped."""
    if not os.path.exists("/proc/thread-self/children"):  # noqa: PTH110 - a kernel without these lists
        return [child for child, parent in _parents() if parent == pid]
    try:
        lists = [_read(f"/proc/{pid}/task/{task}/children") for task in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208
    except OSError:
        return []
    return [int(child) for one in lists for child in one.split()]


def descendants(pids: Iterable[int]) -> set[int]:
    """Return all that the processes started, and what that started, as far as all processes in between are there."""
    found: set[int] = set()
    todo = list(pids)
    while todo:
        new = [child for child in children(todo.pop()) if child not in found]
        found.update(new)
        todo += new
    return found


def group_of(pid: int) -> int:
    """Return the process group of a process, 0 when there is no such process."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def signal_group(group: int, number: int) -> None:
    """Send a signal to a process group, if it is still there and ours."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return  # it ended before it became a group, or runs as another user now


def signal_each(pids: Iterable[int], number: int) -> None:
    """Send a signal to single processes, if they are still there and ours."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def _parents() -> list[tuple[int, int]]:
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208
        try:
            fields = _read(f"/proc/{name}/stat").rpartition(b")")[2].split() if name.isdigit() else []
        except OSError:
            continue
        if fields:
            found.append((int(name), int(fields[1])))
    return found


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - pathlib would double the memory
        return file.read()
