"""Bytes as a run writes them, cut into lines and pieces of lines that are written over and over, as progress bars are."""

from __future__ import annotations

from collections.abc import Iterator

from flowplan.providers.protocol import LogLine

LONGEST = 1 << 16
"""Bytes after which a line is passed on in pieces."""


class Pieces:
    """One stream of a run that is read while it is written.

    Args:
        stream: name of the stream in the lines.
        prefix: text before each line, and before each state of a line that is written over and over.
    """

    def __init__(self, stream: str, prefix: str = "") -> None:
        self._stream, self._prefix = stream, prefix.encode()
        self._rest = b""
        self._fresh = True

    def feed(self, data: bytes) -> Iterator[LogLine]:
        """Yield the lines that end in ``data``; of the last one a piece, when it goes back to its beginning."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            yield self._line(line)
            self._fresh = True
        if not self._fresh or b"\r" in self._rest.rstrip(b"\r") or len(self._rest) > LONGEST:
            # A carriage return at the end may belong to a newline that has not come yet.
            end = len(self._rest[: whole_characters(self._rest)].rstrip(b"\r"))
            piece, self._rest = self._rest[:end], self._rest[end:]
            if piece:
                yield self._line(piece, goes_on=True)
                self._fresh = False

    def _line(self, data: bytes, *, goes_on: bool = False) -> LogLine:
        if not goes_on:
            data = data.removesuffix(b"\r")
        if self._prefix:
            data = (self._prefix if self._fresh else b"") + data.replace(b"\r", b"\r" + self._prefix)
        return LogLine(data.decode("utf-8", "replace"), self._stream, goes_on=goes_on)


def whole_characters(data: bytes) -> int:
    """Return where an incomplete character at the end of UTF-8 begins; the length if there is none."""
    for at in range(len(data) - 1, max(-1, len(data) - 4), -1):
        if data[at] >= 0xC0:
            needed = 2 if data[at] < 0xE0 else 3 if data[at] < 0xF0 else 4
            return at if len(data) - at < needed else len(data)
        if data[at] < 0x80:
            break
    return len(data)
