"""This host and its processes, as /proc tells of them."""

from __future__ import annotations

import functools
import hashlib
import os
import signal
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flowplan.providers.process.supervisor import boot_id, stat_of
from flowplan.schemas.errors import ProviderError

_SHORTEST, _LONGEST = 0.005, 0.1
"""Seconds between two looks at a group that is ending."""


def require_linux() -> None:
    """Raises ProviderError where processes cannot be told apart safely."""
    if not Path("/proc/self/stat").exists():
        raise ProviderError(
            "the process provider needs Linux with /proc, by which it tells its processes from all others",
            hint="use the docker provider on this host",
        )


@functools.cache
def host_id() -> str:
    """The host's identity, the same after a reboot: a digest of its machine id, or its name where it has none."""
    try:
        machine = Path("/etc/machine-id").read_text().strip()
    except OSError:
        machine = ""
    return hashlib.sha256(f"flowplan:{machine}".encode()).hexdigest()[:32] if machine else host_name()


def host_name() -> str:
    return os.uname().nodename


@functools.cache
def this_boot() -> str:
    return boot_id()


@functools.cache
def pid_namespace() -> str:
    """Where the process numbers that we see count: a container has its own."""
    return os.readlink("/proc/self/ns/pid")  # noqa: PTH115


def alive(identity: Mapping[str, Any]) -> bool:
    """True while the very process ``{pid, start_time, boot_id}`` runs: a reused pid has another start time (P8)."""
    if identity.get("boot_id") != this_boot():
        return False
    found = stat_of(int(identity["pid"]))
    return found is not None and found[0] not in "ZX" and found[2] == identity["start_time"]


def end_group(identity: Mapping[str, Any], grace: float) -> bool:
    """TERM to the process group, KILL after ``grace`` seconds; True once all of it is gone.

    Raises:
        ProviderError: the group belongs to another user.
    """
    leader = int(identity["pid"])
    return (_signalled(leader, signal.SIGTERM) and _gone_within(identity, grace)) or (
        _signalled(leader, signal.SIGKILL) and _gone_within(identity, 10.0)
    )


def end_process(identity: Mapping[str, Any], grace: float) -> bool:
    """TERM to one process that leads no group of its own, KILL after ``grace`` seconds; True once it is gone."""
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        try:
            os.kill(int(identity["pid"]), number)
        except ProcessLookupError:
            return True
        except PermissionError as error:
            raise ProviderError(f"process {identity['pid']} belongs to another user; it was not stopped") from error
        if _ended_within(identity, patience):
            return True
    return False


def _ended_within(identity: Mapping[str, Any], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(identity):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_SHORTEST)
    return True


def leads_group(pid: int) -> bool:
    """True when the process leads a process group, so that all of it can be signalled."""
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


def started_at(start_time: int) -> str:
    """The start of a process, from clock ticks since boot, as RFC 3339 in UTC."""
    found = [line.split()[1] for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime ")]
    seconds = int(found[0]) + start_time / os.sysconf("SC_CLK_TCK")
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _signalled(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return True
    except PermissionError as error:
        raise ProviderError(f"process group {group} belongs to another user; it was not stopped") from error
    return True


def _gone_within(identity: Mapping[str, Any], seconds: float) -> bool:
    deadline, pause = time.monotonic() + seconds, _SHORTEST
    while group_alive(identity):
        if time.monotonic() >= deadline:
            return False
        time.sleep(min(pause, max(deadline - time.monotonic(), 0)))
        pause = min(pause * 1.5, _LONGEST)
    return True


def group_alive(identity: Mapping[str, Any]) -> bool:
    """True while the leader or anything of its group runs."""
    leader = int(identity["pid"])
    found = stat_of(leader)
    if found and found[2] != identity["start_time"]:
        return False
    if found and found[0] not in "ZX":
        return True
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return any(state not in "ZX" and session == leader for state, session, _ in _all_processes())


def _all_processes() -> list[tuple[str, int, int]]:
    found = (stat_of(int(name)) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
    return [one for one in found if one]


def stragglers(leader: int, directory: Path) -> list[int]:
    """Processes of a dead leader's session that surely are the run's: they hold its output files open.

    A pid alone proves nothing once its leader is gone, and somebody else's process is never signalled.
    """
    ours = []
    for name in os.listdir("/proc"):  # noqa: PTH208
        found = stat_of(int(name)) if name.isdigit() else None
        if found and found[1] == leader and found[0] not in "ZX" and _writes_into(int(name), directory):
            ours.append(int(name))
    return ours


def _writes_into(pid: int, directory: Path) -> bool:
    try:
        links = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (1, 2)}  # noqa: PTH115
    except OSError:
        return False
    return bool(links & {str(directory / "stdout"), str(directory / "stderr")})


def kill(pids: list[int]) -> None:
    """KILL single processes."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def environment(pid: int) -> dict[str, str]:
    """The environment that a process was started with; {} when it cannot be read."""
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.partition(b"=") for entry in data.split(b"\0") if entry)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
