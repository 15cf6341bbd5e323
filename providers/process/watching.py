"""Follows many runs by one file: the journal that supervisors append to whenever a run starts or ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from flowplan.schemas.errors import ProviderError
from flowplan.schemas.runs import Observed, Recorded

INTERVAL = 0.1
"""Seconds between two looks at the journal."""
FULL_BELOW = 1 << 16
"""Bytes with which a disk counts as full: one block of output has no room."""
PULSE = 0.5
"""Seconds without news after which None is yielded."""
FULL_SCAN_INTERVAL = 5.0
"""Seconds between two looks at every run: a process may vanish together with its supervisor, which no journal tells."""
FULL_SCAN_PAUSE = 250.0
"""How many times as long as such a look takes no other one follows, so that many runs cost no more than 0.4 % of a core."""


class Journal:
    """The run ids appended since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = self._size()
        self._rest = b""

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def news(self) -> set[str]:
        size = self._size()
        if size == self._position:
            return set()
        if size < self._position:
            self._position, self._rest = 0, b""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return set()
        self._position += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return {line.rpartition(b" ")[2].decode() for line in lines}


def watch(
    journal: Path, records: Sequence[Recorded], look: Callable[[Recorded], Observed], stop: threading.Event
) -> Iterator[Observed | ProviderError | None]:
    """Yield an Observed of each record, then each that differs from the one before, until all have ended.

    While the disk is full, that is yielded instead of None.
    """
    tail = Journal(journal)  # before the first look, so that nothing falls between
    waiting = {record.run_id: record for record in records}
    last: dict[str, Observed] = {}
    due, heard = 0.0, time.monotonic()
    while waiting and not stop.is_set():
        news = tail.news()
        began = time.monotonic()
        everything = began >= due
        if everything:
            news = set(waiting)
        for record in [waiting[run_id] for run_id in waiting if run_id in news]:
            seen = look(record)
            if seen != last.get(record.run_id):
                last[record.run_id], heard = seen, time.monotonic()
                yield seen
            if seen.over:
                del waiting[record.run_id]
        if everything:
            due = began + max(FULL_SCAN_INTERVAL, FULL_SCAN_PAUSE * (time.monotonic() - began))
        if waiting and time.monotonic() - heard >= PULSE:
            heard = time.monotonic()
            yield _full_disk(journal.parent)
        if waiting:
            stop.wait(INTERVAL)


def _full_disk(directory: Path) -> ProviderError | None:
    """Return the error to tell when runs have no room left for their output, else None."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return None
    free = found.f_bfree if os.geteuid() == 0 else found.f_bavail
    if free * found.f_frsize >= FULL_BELOW:
        return None
    return ProviderError(f"the disk of {directory} is full: what the runs print is not kept", reason="DiskFull")
