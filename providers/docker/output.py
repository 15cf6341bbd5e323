"""The output of one container as lines: streams told apart, resumed after a broken connection, in flat memory."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import requests
import urllib3

from flowplan.providers.docker import containers
from flowplan.providers.docker.attaching import Frames
from flowplan.providers.docker.connection import Engine
from flowplan.providers.docker.refusals import Refusal
from flowplan.providers.docker.streams import Stream
from flowplan.providers.protocol import LogLine
from flowplan.schemas.errors import EngineUnreachable, ProviderError

LINE_LIMIT = 1 << 20
"""Bytes after which a line without end is handed out in pieces."""

SILENCE_LIMIT = 45.0
"""Seconds without output after which the Engine is asked whether it and the container are still there."""

OUTAGE_LIMIT = 60.0
"""Seconds that an Engine may be away while its output is followed."""

START_LIMIT = 60.0
"""Seconds that a container may take to be created and started while its output is followed."""

_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z) ")


@dataclass
class _Reader:
    """Puts messages together to lines and remembers where it was.

    In a log every message begins with its time; a long line comes as several messages, and only the last ends with a
    newline.

    Args:
        stamped: False where messages have no times, and end anywhere.
    """

    tty: bool
    stamped: bool = True
    last: bytes = b""
    seen: int = 0
    skip: int = 0
    _position: int = 0
    _known: int = 0
    _frames: Frames = field(init=False)
    _lines: dict[str, bytearray] = field(default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()})
    _at: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._frames = Frames(self.tty)

    def resume(self, *, from_start: bool) -> None:
        """Skip what was seen: a new connection begins with all messages of the last second.

        Args:
            from_start: it begins with the first byte, where messages have no times.
        """
        self._frames = Frames(self.tty)
        self.skip = self.seen
        self._position, self._known = 0, self._known if from_start else 0

    def feed(self, data: bytes) -> Iterator[LogLine]:
        """Yield the lines that end in ``data``."""
        if self.tty:
            self._position += len(data)
            new = max(0, self._position - self._known)
            data, self._known = data[len(data) - min(new, len(data)) :], max(self._known, self._position)
        for stream, message in self._frames.feed(data):
            yield from self._message(stream, message) if self.stamped and not self.tty else self._text(stream, message)

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
        """Yield the last lines, which had no newline."""
        for stream, pending in self._lines.items():
            if pending:
                yield self._line(stream, bytes(pending))
                pending.clear()


def _at(stamp: bytes) -> str:
    """Return a time of the Engine with six digits after the point; it has up to nine, without zeros at the end."""
    if len(stamp) == 30:
        return f"{stamp[:26].decode()}Z"
    return f"{stamp[:19].decode()}.{stamp[20:26].rstrip(b'Z').decode():0<6}Z"


class Output:
    """Reads the output of one container.

    Args:
        container: returns its id, None while there is no such container.
        tty: the container has a terminal: its output is one stream then, without times.
        starting: the container may not have been created yet.
        held: what it wrote since before its start, where that is held.
        retries: how often flowplan may start it again after it has failed.
    """

    def __init__(
        self,
        engine: Engine,
        container: Callable[[], str | None],
        *,
        tty: bool,
        starting: bool = False,
        held: Stream | None = None,
        retries: int = 0,
    ) -> None:
        self._retries = retries
        self._failures: set[str] = set()
        self._engine = engine
        self._container = container
        self._starting = starting
        self._held = held
        self._reader = _Reader(tty)

    def lines(self, tail: int | None, follow: bool, stop: threading.Event | None) -> Iterator[LogLine]:
        """Yield lines, oldest first; with ``follow`` until the container has ended or ``stop`` is set.

        Raises:
            EngineUnreachable: the Engine does not answer (with ``follow`` only after a minute of trying).
            ProviderError: the Engine cannot read the log; with ``follow``: no container was started within a minute.
        """
        stop = stop or threading.Event()
        given: Counter[str] = Counter()
        try:
            try:
                for line in self._followed(tail, stop) if follow else self._whole(tail):
                    given[line.stream] += 1
                    yield line
            except EngineUnreachable:
                raise
            except ProviderError as error:  # the log goes before the container does
                if self._starting or not self._is_going():
                    raise ProviderError(error.message, hint=error.hint, reason=error.reason) from None
            if self._held and not stop.is_set() and (follow or self._is_going()):
                yield from self._rest_of(self._held, given, tail, stop)
            else:
                yield from self._reader.rest()
        finally:
            if self._held:
                self._held.close()

    def _rest_of(self, held: Stream, given: Counter[str], tail: int | None, stop: threading.Event) -> Iterator[LogLine]:
        """Yield the lines that were held and did not come from the log, because the container was gone too soon."""
        reader, lines = _Reader(self._reader.tty, stamped=False), list[LogLine]()
        try:
            while (data := held.poll(0.5)) is not None:
                lines += reader.feed(data) if data else ()
                if stop.is_set():
                    return
            complete = not held.overrun
        except ConnectionError:
            complete = False
        if given and (tail is not None or not complete):
            yield from self._reader.rest()
            return
        missing = list[LogLine]()
        for line in (*lines, *reader.rest()):
            given[line.stream] -= 1
            missing += [line] if given[line.stream] < 0 else []
        yield from missing if tail is None else deque(missing, maxlen=tail)
        if not complete:
            yield LogLine("[flowplan: the rest of the output was not read before the Engine removed the container]")

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
        begun = time.monotonic()
        while not stop.is_set():
            try:
                answer = self._open(tail, follow=True)
                if answer is not None:
                    broken = None
                    yield from self._stream(Stream(answer), stop)
                elif not self._starting:
                    return
                state, was_starting = self._state(), self._starting
                self._starting = was_starting and state.get("Status", "created") == "created"
                if not was_starting and not self._goes_on(state):  # else its log has begun since it was opened
                    return
                if self._starting and time.monotonic() - begun > START_LIMIT:
                    raise ProviderError(
                        f"no container was started within {START_LIMIT:g}s", hint="follow it again later"
                    )
            except (EngineUnreachable, ConnectionError) as error:
                broken = broken or time.monotonic()
                if time.monotonic() - broken > OUTAGE_LIMIT:
                    raise self._engine.unreachable(error) from None
            self._reader.resume(from_start=tail is None)
            tail = tail if not self._reader.last else None
            stop.wait(1.0 if self._failures else 0.3)

    def _stream(self, stream: Stream, stop: threading.Event) -> Iterator[LogLine]:
        heard = time.monotonic()
        try:
            while not stop.is_set() and (data := stream.poll(0.5)) is not None:
                if data:
                    heard = time.monotonic()
                    yield from self._reader.feed(data)
                elif time.monotonic() - heard > min(SILENCE_LIMIT, self._engine.timeout):
                    if not self._goes_on(self._state()):  # the rest of its output did not come this way
                        raise ConnectionError("the stream went silent before its end")
                    heard = time.monotonic()
        finally:
            stream.close()

    def _state(self) -> dict[str, Any]:
        """Return the state of the container as the Engine tells it, {} where there is none."""
        container = self._container()
        found = self._engine.inspect(container) if container else None
        return dict(found["State"]) if found else {}

    def _goes_on(self, state: dict[str, Any]) -> bool:
        """Return whether the container runs, or will be started again after it has failed."""
        if state.get("Running") or state.get("Restarting"):
            return True
        if state.get("Status") != "exited" or not state.get("ExitCode"):
            return False
        self._failures.add(str(state.get("FinishedAt")))
        return len(self._failures) <= self._retries

    def _is_going(self) -> bool:
        """Return whether the container is gone or being removed."""
        return self._state().get("Status", "dead") in ("removing", "dead")

    def _open(self, tail: int | None, *, follow: bool) -> requests.Response | None:
        """Return the Engine's answer; None when the container is not there, or about to be removed."""
        container, tty = self._container(), self._reader.tty
        if container is None:
            return None
        parameters: dict[str, Any] = {"stdout": 1, "stderr": 1, "timestamps": int(not tty), "follow": int(follow)}
        parameters["tail"] = "all" if tail is None else tail
        if self._reader.last:
            parameters["since"] = _since(self._reader.last)
        try:
            return self._engine.request("GET", f"/containers/{container}/logs", params=parameters, stream=True)
        except Refusal as error:
            if error.status in (404, 409):
                return None
            raise


def _since(stamp: bytes) -> str:
    """Return the whole second of a time stamp, which is as precise as every log driver is."""
    moment = containers.engine_time(stamp.decode())
    return str(int(containers.seconds(moment))) if moment else "0"
