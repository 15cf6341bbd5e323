"""The output of one container as lines: streams told apart, resumed after a broken connection, in flat memory."""

from __future__ import annotations

import re
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import requests
import urllib3

from flowplan.providers.docker import facts
from flowplan.providers.docker.connection import Engine, Refusal, Stream
from flowplan.providers.protocol import LogLine
from flowplan.schemas.errors import EngineUnreachable, ProviderError

LINE_LIMIT = 1 << 20
"""Bytes after which a line without end is handed out in pieces."""

SILENCE = 45.0
"""Seconds without output after which the Engine is asked whether it and the container are still there."""

OUTAGE = 60.0
"""Seconds that an Engine may be away while its output is followed."""

_HEADER = struct.Struct(">BxxxL")
_STREAMS = {1: "stdout", 2: "stderr"}
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z) ")


@dataclass
class _Reader:
    """Cuts the Engine's frames into lines and remembers where it was.

    Every frame is one message with its time in front; a long line comes as several messages, of which only the last
    ends with a newline.
    """

    tty: bool
    last: bytes = b""
    seen: int = 0
    skip: int = 0
    _bytes: bytearray = field(default_factory=bytearray)
    _lines: dict[str, bytearray] = field(default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()})
    _at: dict[str, bytes] = field(default_factory=dict)

    def resume(self) -> None:
        """A new connection begins with the messages of the last second seen: those seen are skipped."""
        self._bytes.clear()
        self.skip = self.seen

    def feed(self, data: bytes) -> Iterator[LogLine]:
        self._bytes += data
        if self.tty:
            yield from self._text("stdout", bytes(self._bytes))
            self._bytes.clear()
            return
        whole, size, start = bytes(self._bytes), len(self._bytes), 0
        while size - start >= _HEADER.size:
            kind, length = _HEADER.unpack_from(whole, start)
            end = start + _HEADER.size + length
            if end > size:
                break
            yield from self._message(_STREAMS.get(kind, "stdout"), whole[start + _HEADER.size : end])
            start = end
        del self._bytes[:start]

    def _message(self, stream: str, data: bytes) -> Iterable[LogLine]:
        match = _STAMP.match(data)
        stamp = match[1] if match else b""
        if self.skip and stamp <= self.last:
            if stamp == self.last:
                self.skip -= 1
            return ()
        self.skip = 0
        self.seen = self.seen + 1 if stamp == self.last else 1
        self.last = stamp
        text = data[match.end() :] if match else data
        if not self._lines[stream]:
            self._at[stream] = stamp
            if text and text.find(b"\n") == len(text) - 1 < LINE_LIMIT:  # a whole line, as nearly every message is
                return (self._line(stream, text[:-1]),)
        return self._text(stream, text)

    def _text(self, stream: str, data: bytes) -> Iterator[LogLine]:
        pending = self._lines[stream]
        pending += data
        while (cut := pending.find(b"\n")) >= 0:
            yield self._line(stream, bytes(pending[:cut]))
            del pending[: cut + 1]
        while len(pending) >= LINE_LIMIT:
            yield self._line(stream, bytes(pending[:LINE_LIMIT]))._replace(goes_on=True)
            del pending[:LINE_LIMIT]

    def _line(self, stream: str, data: bytes) -> LogLine:
        stamp = self._at.get(stream)
        at = _at(stamp) if stamp else None
        return LogLine(data.removesuffix(b"\r").decode("utf-8", "replace"), stream, at)

    def rest(self) -> Iterator[LogLine]:
        """The last lines, which had no newline."""
        for stream, pending in self._lines.items():
            if pending:
                yield self._line(stream, bytes(pending))
                pending.clear()


def _at(stamp: bytes) -> str:
    """A time of the Engine, which has nine digits or those of them that are not zero, with six."""
    if len(stamp) == 30:
        return f"{stamp[:26].decode()}Z"
    return f"{stamp[:19].decode()}.{stamp[20:26].rstrip(b'Z').decode():0<6}Z"


class Output:
    """Reads the output of one container.

    Args:
        tty: whether the container has a terminal: its output is one stream then, without times.
    """

    def __init__(self, engine: Engine, container: str, *, tty: bool) -> None:
        self._engine = engine
        self._container = container
        self._reader = _Reader(tty)

    def lines(self, tail: int | None, follow: bool, stop: threading.Event | None) -> Iterator[LogLine]:
        """Lines, oldest first; with ``follow`` until the container has ended or ``stop`` is set.

        Raises:
            EngineUnreachable: when the Engine does not answer (with ``follow`` only after a minute of trying).
        """
        if follow:
            yield from self._followed(tail, stop or threading.Event())
        else:
            yield from self._whole(tail)
        yield from self._reader.rest()

    def _whole(self, tail: int | None) -> Iterator[LogLine]:
        answer = self._open(tail, follow=False)
        if answer is None:
            return
        try:
            while data := answer.raw.read(65536, decode_content=False):
                yield from self._reader.feed(data)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise self._engine.unreachable(error) from None
        finally:
            answer.close()

    def _followed(self, tail: int | None, stop: threading.Event) -> Iterator[LogLine]:
        broken: float | None = None
        while not stop.is_set():
            try:
                answer = self._open(tail, follow=True)
                if answer is None:
                    return
                broken = None
                yield from self._stream(Stream(answer), stop)
                if stop.is_set() or not self._runs():
                    return
            except (EngineUnreachable, ConnectionError) as error:
                broken = broken or time.monotonic()
                if time.monotonic() - broken > OUTAGE:
                    raise self._engine.unreachable(error) from None
            self._reader.resume()
            tail = tail if not self._reader.last else None
            stop.wait(0.3)

    def _stream(self, stream: Stream, stop: threading.Event) -> Iterator[LogLine]:
        heard = time.monotonic()
        try:
            while not stop.is_set() and (data := stream.poll(0.5)) is not None:
                if data:
                    heard = time.monotonic()
                    yield from self._reader.feed(data)
                elif time.monotonic() - heard > min(SILENCE, self._engine.timeout):
                    if not self._runs():  # the rest of its output did not come this way
                        raise ConnectionError("the output ended without a word")
                    heard = time.monotonic()
        finally:
            stream.close()

    def _runs(self) -> bool:
        found = self._engine.find(f"/containers/{self._container}/json")
        return bool(found and (found["State"].get("Running") or found["State"].get("Restarting")))

    def _open(self, tail: int | None, *, follow: bool) -> requests.Response | None:
        """The Engine's answer; None when the container is gone or about to be removed (D38)."""
        tty = self._reader.tty
        parameters: dict[str, Any] = {"stdout": 1, "stderr": 1, "timestamps": int(not tty), "follow": int(follow)}
        parameters["tail"] = "all" if tail is None else tail
        if self._reader.last:
            parameters["since"] = _since(self._reader.last)
        try:
            return self._engine.request("GET", f"/containers/{self._container}/logs", params=parameters, stream=True)
        except Refusal as error:
            if error.status in (404, 409):
                return None
            raise ProviderError(error.message, reason=error.reason) from None


def _since(stamp: bytes) -> str:
    """The whole second of a time stamp, which is as precise as every log driver is."""
    moment = facts.engine_time(stamp.decode())
    return str(int(facts.seconds(moment))) if moment else "0"
