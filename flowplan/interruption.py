"""Ctrl-C, SIGTERM and a closed terminal: what they end, how soon, and with which exit code."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager, suppress

TYPE_CHECKING = False  # typing itself takes a while to import, at every start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from sys import UnraisableHookArgs
    from threading import Event
    from types import FrameType
    from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LEAVE_TIMEOUT = 2
"""Seconds after which a command that was told to end leaves whatever still holds it, such as an engine that hangs."""
SHOW_CURSOR = b"\x1b[?25h\n"

_code = 0
_finishing: Event | None = None
_drawing = False


class Interrupted(BaseException):
    """The command was told to end. No ``KeyboardInterrupt``: the command line's library has an exit code for that."""


def install() -> None:
    """Let a signal end the command as ``Interrupted`` from here on, and a second one end it at once.

    What is ignored stays ignored: under ``nohup`` a closed terminal ends nothing.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    signal.signal(signal.SIGALRM, lambda number, frame: leave())
    sys.unraisablehook = _unraisable


def code() -> int:
    """Return the exit code of a command that was interrupted: 128 and the signal's number, as shells count."""
    return _code or 128 + signal.SIGINT


def told() -> bool:
    """Return whether a signal has come: an error that is raised then may be caused by the interruption."""
    return _code != 0


def leave() -> NoReturn:
    """End this process now. The state is whole at any moment, and its lock dies with its holder."""
    if _drawing:
        with suppress(OSError):
            os.write(2, SHOW_CURSOR)
    os._exit(code())


@contextmanager
def finishing() -> Iterator[Event]:
    """Let the first signal only set the event, while things are under way on engines: finish them, then leave."""
    global _finishing
    import threading

    event = threading.Event()
    _finishing = event
    try:
        yield event
    finally:
        _finishing = None


@contextmanager
def drawing() -> Iterator[None]:
    """Show the cursor again even at a sudden end, while it is hidden."""
    global _drawing
    _drawing = True
    try:
        yield
    finally:
        _drawing = False


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _code
    if _code and number == signal.SIGHUP:
        return  # the terminal and the shell both tell that it was closed: that is one interruption
    if _code:
        leave()
    _code = 128 + number
    if _finishing is None:
        signal.alarm(LEAVE_TIMEOUT)
        raise Interrupted
    _finishing.set()
    # Not through the output: the thread that is interrupted here may hold its lock.
    with suppress(OSError):  # the terminal may be what went away
        os.write(2, b"\ninterrupted: finishing what is under way; runs go on (again to leave at once)\n")


def _unraisable(what: UnraisableHookArgs) -> None:
    """Leave when an interruption came in a place that cannot pass it on, such as a finalizer."""
    if what.exc_type is Interrupted:
        leave()
    sys.__unraisablehook__(what)
