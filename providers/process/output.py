"""The output of a run as lines, from the files that ``pump`` writes: stdout and stderr in the order of their writing."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from flowplan.providers.pieces import whole_characters
from flowplan.providers.process import pump, record
from flowplan.providers.protocol import LogLine
from flowplan.schemas.times import timestamp

BLOCK = 1 << 16
LONGEST_LINE = 1 << 16
"""Bytes after which a line is passed on in pieces."""
_TIME = re.compile(rb"(?m)^(\d+) (\d{19})$")
"""A line of times; one that a full disk broke off is none."""
_NEVER = sys.maxsize
INTERVAL, SLOWEST = 0.1, 0.3
"""Seconds between two looks for more; they grow while nothing comes, for many runs are followed at once."""
VANISHED = 2.0
"""Seconds between two looks whether a run is over that left no record of its end: they read several files."""


class Kept:
    """The bytes of an output that are kept: all of it is numbered from 0, and its beginning may be gone."""

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        self._parts: list[tuple[int, str]] = []

    def look(self) -> tuple[int, int]:
        """Look which files there are; return where what is kept begins and ends."""
        self._parts = pump.parts(self._directory)
        if not self._parts:
            return 0, 0
        last = self._parts[-1][0]
        return self._parts[0][0], last + max(_size(self._path(last)), 0)

    def grown(self, position: int) -> bool:
        """Return whether there may be more after ``position``; costs little, also ten times a second."""
        start = next((start for start, _ in reversed(self._parts) if start <= position), 0)
        size = _size(self._path(start))
        if size < 0 and self._parts:
            return True  # it was dropped, others are there
        return start + size > position or (position > start and _size(self._path(position)) >= 0)

    def read(self, position: int, size: int) -> bytes:
        """Read at most ``size`` bytes, from one file; b"" at the end and where nothing is kept."""
        start = next((start for start, _ in reversed(self._parts) if start <= position), None)
        if start is None:
            return b""
        try:
            with open(self._path(start), "rb") as file:  # noqa: PTH123
                file.seek(position - start)
                return file.read(size)
        except FileNotFoundError:
            return b""

    def blocks(self, position: int) -> Iterator[bytes]:
        """Read on from ``position`` to the end."""
        _, end = self.look()
        while position < end and (block := self.read(position, min(BLOCK, end - position))):
            position += len(block)
            yield block

    def start_of_tail(self, count: int) -> int:
        """Find where the last ``count`` lines start; reads no more than they take."""
        first, end = self.look()
        position, wanted = end, count
        while position > first and wanted:
            size = min(BLOCK, position - max(first, max(s for s, _ in self._parts if s < position)))
            block = self.read(position - size, size)
            if position == end and block.endswith(b"\n"):
                block = block[:-1]
            found = block.count(b"\n")
            if found >= wanted:
                at = len(block)
                for _ in range(wanted):
                    at = block.rindex(b"\n", 0, at)
                return position - size + at + 1
            wanted -= found
            position -= size
        return end if not count else first

    def _path(self, start: int) -> str:
        return f"{self._directory}/{pump.part_at(start)}"


class Times:
    """When which part of an output was written, as far as it was written down."""

    def __init__(self, directory: Path) -> None:
        self._path = f"{directory}/{pump.TIMES}"
        self._known: list[tuple[int, int]] = []
        self._read = 0
        self._texts: dict[int, str] = {}

    def look(self) -> None:
        """Read what is new; of a file that became shorter, all of it."""
        if (size := _size(self._path)) == self._read:
            return
        if size < self._read:
            self._known, self._read = [], 0
        try:
            with open(self._path, "rb") as file:  # noqa: PTH123
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return
        self._read += len(data)
        self._known += [(int(position), int(moment)) for position, moment in _TIME.findall(data)]

    def at(self, position: int) -> str | None:
        """Return when the byte at ``position`` was written, to the second; None where it is not known."""
        place = bisect_right(self._known, (position, _NEVER)) - 1
        if place < 0:
            return None
        second = self._known[place][1] // pump.SECOND
        if second not in self._texts:
            self._texts = {second: timestamp(datetime.fromtimestamp(second, UTC), "seconds")}
        return self._texts[second]


class _Lines:
    """The lines of an output that may still grow, from a position on."""

    def __init__(self, kept: Kept, times: Times, position: int) -> None:
        self._kept, self._times, self._position = kept, times, position
        self._rest = b""

    def grown(self) -> bool:
        """Return whether there may be more than was read."""
        return self._kept.grown(self._position)

    def new(self, *, final: bool = False, live: bool = False) -> Iterator[LogLine]:
        """Yield the complete lines that are new; with ``final`` also what follows the last newline.

        Args:
            live: also a piece of a line that is written over and over, as it looks now.
        """
        first, _ = self._kept.look()
        self._times.look()
        if self._position < first:
            if self._rest:
                yield self._line(self._rest)
            yield LogLine(f"[flowplan: {first - self._position} bytes of output were dropped, see log_limit]")
            self._position, self._rest = first, b""
        for block in self._kept.blocks(self._position):
            begin = self._position - len(self._rest)
            self._position += len(block)
            *whole, self._rest = (self._rest + block).split(b"\n")
            last = len(whole) - 1
            for number, line in enumerate(whole):
                text = line.decode("utf-8", "replace").removesuffix("\r")
                yield LogLine(text, at=self._times.at(begin), more=number < last)
                begin += len(line) + 1
            while len(self._rest) > LONGEST_LINE:
                yield self._piece(whole_characters(self._rest[:LONGEST_LINE]))
        if final and self._rest:
            yield self._line(self._rest)
            self._rest = b""
        elif live and b"\r" in self._rest.rstrip(b"\r"):
            yield self._piece(whole_characters(self._rest))

    def _line(self, data: bytes) -> LogLine:
        """Return a line of which nothing more is expected; it is what was read last."""
        return LogLine(
            data.decode("utf-8", "replace").removesuffix("\r"), at=self._times.at(self._position - len(data))
        )

    def _piece(self, size: int) -> LogLine:
        """Take the beginning of a line that goes on."""
        at = self._times.at(self._position - len(self._rest))
        piece, self._rest = self._rest[:size], self._rest[size:]
        return LogLine(piece.decode("utf-8", "replace"), at=at, goes_on=True)


def read(
    directory: Path, *, tail: int | None, ended: Callable[[], bool], follow: bool, stop: threading.Event
) -> Iterator[LogLine]:
    """Yield the lines of an output; following ends when ``ended`` says that the run is over."""
    kept = Kept(directory)
    lines = _Lines(kept, Times(directory), 0 if tail is None else kept.start_of_tail(tail))
    path, due, seen, pause = f"{directory}/{record.NAME}", 0.0, -2, INTERVAL
    while follow and not stop.is_set():
        over = False
        size = _size(path)
        if (now := time.monotonic()) >= due or size != seen:
            over, due, seen = ended(), now + VANISHED, size
        pause = min(pause * 1.1, SLOWEST)
        if over or lines.grown():
            pause = INTERVAL
            yield from lines.new(final=over, live=True)
        if over or stop.wait(pause):
            return
    if not follow:
        yield from lines.new(final=True)


def _size(path: str) -> int:
    """Return the bytes of a file, -1 where there is none."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - many runs are looked at ten times a second
    except OSError:
        return -1
