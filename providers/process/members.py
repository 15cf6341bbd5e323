"""Which processes belong to a run, as the supervisor sees it, which becomes the parent of whatever the runs leave behind."""

from __future__ import annotations

import os

from flowplan.providers.process import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from flowplan.providers.process.child import Run


def inherit_orphans() -> None:
    """Become the parent of what the runs started and left (``PR_SET_CHILD_SUBREAPER``, see prctl(2))."""
    import ctypes

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def orphans(leaders: Container[int]) -> dict[int, str]:
    """Return our living children that lead no run: pid -> the run whose variables it has, "" without any.

    They were started by runs, and their own parents have ended.
    """
    found = {}
    for pid in kernel.children(os.getpid()):
        if pid in leaders or not kernel.runs(pid):
            continue
        known = kernel.variables(pid, (kernel.RUN_ID, kernel.SUPERVISOR))
        if known is not None and kernel.SUPERVISOR not in known:
            found[pid] = known.get(kernel.RUN_ID, "")
    return found


def left_by(run: Run, leader: int, found: dict[int, str], runs: Iterable[Run]) -> list[int]:
    """Return the orphans that a run has left.

    These have its variables, or none and its session, or none while no other run could have left them.

    Args:
        leader: the pid of the run's own process, which may have ended.
        found: see ``orphans``; runs: all that there are.
    """
    nameless = [pid for pid, run_id in found.items() if not run_id]
    if nameless and any(other is not run and other.phase == "running" for other in runs):
        nameless = [pid for pid in nameless if (stat := kernel.stat_of(pid)) and stat[1] == leader]
    return [pid for pid, run_id in found.items() if run_id == run.id] + nameless


def signal_all(run: Run, orphaned: list[int], number: int) -> None:
    """Send a signal to the group of a run, to what its members started, and to orphans of it."""
    kernel.signal_group(run.pid, number)
    members = {*kernel.descendants([run.pid]), *orphaned}
    kernel.signal_each((pid for pid in members if kernel.group_of(pid) != run.pid), number)
