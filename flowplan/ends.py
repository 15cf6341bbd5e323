"""The end of what each followed run was heard to say: kept, because it may be gone from the engine when the run is over."""

from __future__ import annotations

import threading
from collections import deque

from flowplan.providers.protocol import LogLine

KEPT = 64 * 1024
"""Characters that are kept of each run; the state keeps as many bytes."""


class Ends:
    """What was heard of each run; safe to use from several threads."""

    def __init__(self) -> None:
        self._heard: dict[str, deque[str]] = {}
        self._sizes: dict[str, int] = {}
        self._complete: set[str] = set()
        self._lock = threading.Lock()

    def hear(self, run_id: str, line: LogLine) -> None:
        """Keep a line, or a piece of one, that has no secrets any more."""
        text = (line.text if line.goes_on else f"{line.text}\n")[-KEPT:]
        with self._lock:
            held = self._heard.setdefault(run_id, deque())
            held.append(text)
            size = self._sizes.get(run_id, 0) + len(text)
            while size - len(held[0]) >= KEPT:
                size -= len(held.popleft())
            self._sizes[run_id] = size

    def complete(self, run_id: str) -> None:
        """Note that all of an output has been heard."""
        with self._lock:
            self._complete.add(run_id)

    def heard(self, run_id: str) -> bool:
        """Return whether anything was heard of a run."""
        return run_id in self._heard

    def take(self, run_id: str) -> tuple[str, bool]:
        """Return and forget the end of what was heard, and whether it is the end of all there was."""
        with self._lock:
            text = "".join(self._heard.pop(run_id, ()))[-KEPT:].removesuffix("\n")
            self._sizes.pop(run_id, None)
            complete = run_id in self._complete
            self._complete.discard(run_id)
        return text, complete
