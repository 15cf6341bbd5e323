"""How long to wait before a run is tried again. The supervisor of processes uses this too, which imports next to nothing."""

from __future__ import annotations

LONGEST = 366 * 86400.0
"""Seconds that no wait is longer than, whatever its factor has made of it."""
STEPEST = 10.0
"""The largest factor."""


def wait_after(executions: int, initial: float, factor: float = 1.0, most: float | None = None) -> float:
    """Return the seconds between the end of an execution that failed and the next one.

    Args:
        executions: how many there were: after the first one it is ``initial``, after each further one ``factor`` times
            as long.
        most: no wait is longer.
    """
    wait = initial * min(factor, STEPEST) ** min(executions - 1, 64)
    return min(wait, LONGEST if most is None else most)
