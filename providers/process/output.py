"""The output of a run, from its files ``stdout`` and ``stderr``.

The two are written by the run itself, without a clock between them. Following therefore yields the lines in the
order in which they appear; reading afterwards yields all of stdout, then all of stderr.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from flowplan.providers.protocol import LogLine

BLOCK = 1 << 16
LONGEST_LINE = 1 << 20
"""Bytes after which a line without an end is passed on all the same."""
INTERVAL = 0.1
"""Seconds between two looks for more."""
VANISHED = 2.0
"""Seconds between two looks whether a run is over that left no record of its end: they read several files."""


class _Stream:
    """One file that may still grow, read from ``position`` on."""

    def __init__(self, path: Path, position: int = 0) -> None:
        self.path, self.name, self.position = path, path.name, position
        self._file = str(path)
        self._rest = b""

    def grown(self) -> bool:
        """Whether there is more than was read."""
        return _size(self._file) > self.position

    def lines(self, *, final: bool = False) -> Iterator[LogLine]:
        """The complete lines that are new; with ``final`` also what follows the last newline."""
        for block in self._blocks():
            *whole, self._rest = (self._rest + block).split(b"\n")
            for line in whole:
                yield self._line(line)
            if len(self._rest) > LONGEST_LINE:
                yield self._take_rest()
        if final and self._rest:
            yield self._take_rest()

    def _blocks(self) -> Iterator[bytes]:
        if not self.grown():
            return
        try:
            with self.path.open("rb") as file:
                file.seek(self.position)
                while block := file.read(BLOCK):
                    self.position += len(block)
                    yield block
        except FileNotFoundError:
            return

    def _take_rest(self) -> LogLine:
        rest, self._rest = self._rest, b""
        return self._line(rest)

    def _line(self, data: bytes) -> LogLine:
        return LogLine(data.decode("utf-8", "replace").removesuffix("\r"), self.name)


def read(
    directory: Path, *, tail: int | None, ended: Callable[[], bool], follow: bool, stop: threading.Event
) -> Iterator[LogLine]:
    """The lines of both files; ``ended`` says whether the run is over, so that following ends."""
    streams = [_Stream(directory / name) for name in ("stdout", "stderr")]
    if tail is not None:
        for stream in streams:
            stream.position = start_of_tail(stream.path, tail)
        over = not follow or ended()
        yield from _last([list(stream.lines(final=over)) for stream in streams], tail)
    record, due = str(directory / "exit.json"), 0.0
    while follow and not stop.is_set():
        over = False
        if (now := time.monotonic()) >= due or _size(record) >= 0:
            over, due = ended(), now + VANISHED
        for stream in streams:
            if over or stream.grown():
                yield from stream.lines(final=over)
        if over or stop.wait(INTERVAL):
            return
    if not follow:
        for stream in streams:
            yield from stream.lines(final=True)


def _size(path: str) -> int:
    """Bytes in a file, -1 where there is none."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - many runs are looked at ten times a second
    except OSError:
        return -1


def _last(lines: list[list[LogLine]], count: int) -> list[LogLine]:
    """The last lines of both together: stderr gets half of the room, and whatever stdout does not need."""
    out, err = lines
    kept = min(len(err), max((count + 1) // 2, count - len(out)))
    err = err[len(err) - kept :]
    return out[max(len(out) - (count - kept), 0) :] + err


def start_of_tail(path: Path, count: int) -> int:
    """Where the last ``count`` lines of a file start; reads no more of it than they take."""
    if not _size(str(path)) > 0:
        return 0
    try:
        with path.open("rb") as file:
            position = file.seek(0, 2)
            wanted = count
            end = position
            while position > 0:
                size = min(BLOCK, position)
                position -= size
                file.seek(position)
                block = file.read(size)
                if position + size == end and block.endswith(b"\n"):
                    block = block[:-1]
                found = block.count(b"\n")
                if found >= wanted:
                    return position + _nth_from_end(block, wanted) if wanted else end
                wanted -= found
            return 0 if count else end
    except FileNotFoundError:
        return 0


def _nth_from_end(block: bytes, count: int) -> int:
    """The offset just after the ``count``-th newline from the end."""
    at = len(block)
    for _ in range(count):
        at = block.rindex(b"\n", 0, at)
    return at + 1
