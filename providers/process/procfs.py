"""This host and its processes, as /proc tells of them."""

from __future__ import annotations

import functools
import hashlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flowplan.providers.process import kernel
from flowplan.providers.process.kernel import boot_id, stat_of
from flowplan.schemas.errors import ProviderError
from flowplan.schemas.times import timestamp

_SHORTEST, _LONGEST = 0.005, 0.1
"""Seconds between two looks at a group that is ending."""


def require_linux() -> None:
    """Raise ProviderError where processes cannot be told apart safely."""
    if not Path("/proc/self/stat").exists():
        raise ProviderError(
            "the process provider needs Linux with /proc, by which it tells its processes from all others",
            hint="use the docker provider on this host",
        )


@functools.cache
def host_id() -> str:
    """Return the host's identity, the same after a reboot: a digest of its machine id, or its name without one."""
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
    """Return the namespace in which the pids that we see count: a container has its own."""
    return os.readlink("/proc/self/ns/pid")  # noqa: PTH115


def alive(identity: Mapping[str, Any]) -> bool:
    """Return whether the very process ``{pid, start_time, boot_id}`` runs: a reused pid has another start time.

    Where two hosts have all of that in common, what their supervisors gave their processes tells them apart.
    """
    if identity.get("boot_id") != this_boot():
        return False
    pid = int(identity["pid"])
    found = stat_of(pid)
    if found is None or found[0] in "ZX" or found[2] != identity["start_time"]:
        return False
    nonce = (kernel.variables(pid, (kernel.NONCE,)) or {}).get(kernel.NONCE)
    return nonce is None or identity.get("nonce") in (None, nonce)


def elsewhere(identity: Mapping[str, Any]) -> str:
    """Return the host on which a process was started, when that is another one, or this one before a restart; else "".

    Another user of this host counts as another one: the files that tell how a run ends are that user's. A machine id alone says little: containers and clones have their image's. The process numbers of a container count in
    the container only.
    """
    host = str(identity.get("host") or "whose name was not recorded")
    if identity.get("boot_id") == this_boot() and identity.get("pid_namespace") in (None, pid_namespace()):
        owner = identity.get("uid")
        return "" if owner in (None, os.geteuid()) else f"{host}, as user {owner}"
    restarted = identity.get("boot_id") != this_boot() and host == host_name()
    return f"{host} before it was started anew" if restarted else host


def supervised(identity: Mapping[str, Any]) -> bool:
    """Return whether the supervisor of a process runs, or its guard."""
    keepers = [identity[word] for word in ("supervisor", "guard") if identity.get(word)]
    return any(alive({**one, "boot_id": identity["boot_id"]}) for one in keepers)


def end_group(identity: Mapping[str, Any], grace: float) -> bool:
    """Send TERM to a group and to what its members started, KILL after ``grace`` seconds; return whether all ended.

    Raises:
        ProviderError: the group belongs to another user.
    """
    leader = int(identity["pid"])
    members: set[int] = set()
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        members |= kernel.descendants([leader])
        others = [pid for pid in members if kernel.group_of(pid) not in (0, leader)]
        if not _signalled(leader, number) and not others:
            return True
        kernel.signal_each(others, number)
        if _gone_within(lambda others=others: group_alive(identity) or any(map(kernel.runs, others)), patience):  # type: ignore[misc]
            return True
    return False


def end_rest(found: Callable[[], Sequence[int]], grace: float) -> Sequence[int]:
    """Send TERM to processes, KILL after ``grace`` seconds; return those that are still there then."""
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        left = found()
        kernel.signal_each(left, number)
        if not left or _gone_within(lambda left=left: any(map(kernel.runs, left)), patience):  # type: ignore[misc]
            break
    return found()


def end_process(identity: Mapping[str, Any], grace: float) -> bool:
    """Send TERM to one process that leads no group, KILL after ``grace`` seconds; return whether it ended."""
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        try:
            os.kill(int(identity["pid"]), number)
        except ProcessLookupError:
            return True
        except PermissionError as error:
            raise ProviderError(f"process {identity['pid']} belongs to another user; it was not stopped") from error
        if _gone_within(lambda: alive(identity), patience):
            return True
    return False


def leads_group(pid: int) -> bool:
    """Return whether the process leads a process group, so that all of it can be signalled."""
    return kernel.group_of(pid) == pid


def started_at(start_time: int) -> str:
    """Return the start of a process, from clock ticks since boot, as RFC 3339 in UTC."""
    found = [line.split()[1] for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime ")]
    seconds = int(found[0]) + start_time / os.sysconf("SC_CLK_TCK")
    return timestamp(datetime.fromtimestamp(seconds, UTC))


def time_of(seconds: float) -> str:
    """Return a time since 1970 as RFC 3339 in UTC."""
    return timestamp(datetime.fromtimestamp(seconds, UTC), "seconds")


def _signalled(group: int, number: int) -> bool:
    """Send a signal to a group; return False when there is no such group."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise ProviderError(f"process group {group} belongs to another user; it was not stopped") from error
    return True


def _gone_within(there: Callable[[], bool], seconds: float) -> bool:
    deadline, pause = time.monotonic() + seconds, _SHORTEST
    while there():
        if time.monotonic() >= deadline:
            return False
        time.sleep(min(pause, max(deadline - time.monotonic(), 0)))
        pause = min(pause * 1.5, _LONGEST)
    return True


def group_alive(identity: Mapping[str, Any]) -> bool:
    """Return whether the leader or anything of its group runs."""
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
    every = (stat_of(int(name)) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
    return any(one[0] not in "ZX" and one[1] == leader for one in every if one)


def environment(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with; {} when it cannot be read."""
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.partition(b"=") for entry in data.split(b"\0") if entry)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
