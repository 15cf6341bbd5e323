"""What exit codes mean, in words for people; those above 128 are signals, as shells report them."""

from __future__ import annotations

import signal

_MEANINGS = {
    -9: "killed (SIGKILL), by hand or for lack of memory",
    -15: "stopped by SIGTERM",
    1: "a general error; see the output",
    2: "often wrong usage of the command; see the output",
    125: "a container could not be run",
    126: "a command could not be executed",
    127: "a command was not found",
    137: "killed (SIGKILL), likely out of memory",
    143: "stopped by SIGTERM",
    247: "likely out of memory",
}


def meaning(code: int) -> str:
    """Return ``exited with code 137: killed (SIGKILL), likely out of memory``; negative codes are signals."""
    if code == 0:
        return "exited cleanly"
    known = _MEANINGS.get(code)
    if code < 0:
        return known or f"ended by {_signal(-code)}"
    if known is None and 128 < code < 128 + signal.NSIG:
        known = f"likely ended by {_signal(code - 128)}"
    return f"exited with code {code}" + (f": {known}" if known else "")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
