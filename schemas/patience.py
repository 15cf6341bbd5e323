"""A limit to what a user's own pattern or schema may cost: some expressions take longer than the universe lasts."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from flowplan.schemas.errors import InvalidInput

SECONDS = 1.0


@contextmanager
def patience(what: str) -> Iterator[None]:
    """Allow at most a second for a check; only in the main thread, where it can be interrupted.

    Raises:
        InvalidInput: it took longer; ``what`` names the pattern or schema.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(number: int, frame: FrameType | None) -> None:
        raise InvalidInput(f"{what} takes longer than {SECONDS:g} s to check", hint="write it in a simpler way")

    former = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
