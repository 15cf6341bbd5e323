"""One line on the terminal that says what a command is doing, once it does so for longer than a second."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from flowplan.terminal import can_draw

DELAY = 1.0
"""Seconds without output before the line appears."""
INTERVAL = 0.5
"""Seconds between two drawings."""

_CLEAR = "\r\x1b[K"
_stage = ""
_depth = 0


def stage(words: str) -> None:
    """Set what the command is doing from now on."""
    global _stage
    _stage = words


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Show on stderr, if it is a terminal, what the command is doing; erase it afterwards."""
    global _depth
    if _depth or not can_draw(sys.stderr):
        yield
        return
    _depth += 1
    over = threading.Event()
    drawing = threading.Thread(target=_draw, args=(over,), daemon=True)
    drawing.start()
    try:
        yield
    finally:
        over.set()
        drawing.join()
        _depth -= 1


def _draw(over: threading.Event) -> None:
    """Draw until ``over`` is set or the terminal is closed; no one else writes to it meanwhile."""
    begun, drawn = time.monotonic(), False
    pause = DELAY
    with contextlib.suppress(OSError, ValueError):
        while not over.wait(pause):
            sys.stderr.write(f"{_CLEAR}{_stage} ... {time.monotonic() - begun:.0f}s")
            sys.stderr.flush()
            drawn, pause = True, INTERVAL
        if drawn:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()
