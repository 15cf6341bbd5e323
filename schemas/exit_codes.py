"""What exit codes of runs mean, in words for people; those above 128 are signals, as shells report them."""

from __future__ import annotations

import signal

_MEANINGS = {
    125: "a container could not be run",
    126: "a command could not be executed",
    127: "a command was not found",
    137: "killed (SIGKILL), by hand or out of memory",
    143: "stopped by SIGTERM",
    247: "likely out of memory",
}


def meaning(code: int) -> str:
    """Return what an exit code usually means, or ""; negative ones are the signal that ended a process."""
    known = _MEANINGS.get(128 - code if code < 0 else code)
    if known:
        return known
    if code < 0:
        return f"ended by {_signal(-code)}"
    return f"likely ended by {_signal(code - 128)}" if 128 < code < 128 + signal.NSIG else ""


def explained(code: int | None, cause: str = "") -> str:
    """Return ``exit code 127: a command was not found``; ``cause`` is said instead of the usual meaning."""
    words = cause or (meaning(code) if code else "")
    return f"exit code {code}" + (f": {words}" if words else "")


def next_try(ended: str, number: int, begins: str) -> str:
    """Say how an execution ended that is tried again: ``exit code 3; try 2 begins at 2026-11-01T08:00:30Z``."""
    return f"{ended}; try {number} begins at {begins}"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
