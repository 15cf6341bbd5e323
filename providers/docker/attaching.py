"""What containers write, as they write it: a log has a line when it is complete, and goes with its container."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from flowplan.providers.docker.connection import Engine
from flowplan.providers.docker.streams import Stream
from flowplan.providers.pieces import Pieces
from flowplan.providers.protocol import LogLine
from flowplan.schemas.errors import ProviderError

HELD = 256
"""Containers of which the output is held at once until it is read."""

_HEADER = struct.Struct(">BxxxL")
_STREAMS = {0: "stdout", 1: "stdout", 2: "stderr"}


@dataclass
class Frames:
    """Cuts what the Engine sends of a container into messages; with a terminal there is one stream without frames.

    The format: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach
    """

    tty: bool
    _bytes: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """Yield the stream and the bytes of each complete message.

        Raises:
            ProviderError: the Engine cannot read the log, in its words.
        """
        if self.tty:
            yield "stdout", data
            return
        self._bytes += data
        whole, size, start = bytes(self._bytes), len(self._bytes), 0
        while size - start >= _HEADER.size:
            kind, length = _HEADER.unpack_from(whole, start)
            end = start + _HEADER.size + length
            if end > size:
                break
            message = whole[start + _HEADER.size : end]
            if kind not in _STREAMS:  # the fourth stream has the Engine's own errors
                raise ProviderError(f"the Engine cannot read the output: {message.decode('utf-8', 'replace').strip()}")
            yield _STREAMS[kind], message
            start = end
        del self._bytes[:start]


class Attachments:
    """What containers write from before their start on, for those that the Engine removes together with their log.

    Such a container may be gone before its output is read. `docker run --rm` attaches before the start as well.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._held: dict[str, Stream] = {}
        self._lock = threading.Lock()

    def hold(self, container: str) -> None:
        """Keep what a container writes until ``take``, up to a limit; where that fails, the log alone has it."""
        with suppress(ProviderError):
            stream = attached(self._engine, container)
            with self._lock:
                self._held[container] = stream
                oldest = self._held.pop(next(iter(self._held))) if len(self._held) > HELD else None
            if oldest:
                oldest.close()

    def take(self, container: str) -> Stream | None:
        """Return what is held of a container, once; the caller closes it."""
        with self._lock:
            return self._held.pop(container, None)


def attached(engine: Engine, container: str) -> Stream:
    """Return what a container writes from now on, as it writes it. It is never slowed down: unread output is dropped.

    Raises:
        ProviderError: as ``Engine.request``.
    """
    wanted = {"stream": 1, "stdout": 1, "stderr": 1}
    answer = engine.request("POST", f"/containers/{container}/attach", params=wanted, stream=True)
    return Stream(answer, waits=False)


def progress(
    engine: Engine, container: Callable[[], str | None], stop: threading.Event, *, tty: bool
) -> Iterator[LogLine]:
    """Yield lines and pieces of lines as a container writes them, until ``stop`` is set; see ``ProgressReader``."""
    while not stop.is_set():
        with suppress(ProviderError, ConnectionError):  # not started yet, paused, or gone: ``logs`` tells
            if found := container():
                yield from _written(attached(engine, found), Frames(tty), stop)
        stop.wait(1.0)


def _written(stream: Stream, frames: Frames, stop: threading.Event) -> Iterator[LogLine]:
    pieces = {name: Pieces(name) for name in _STREAMS.values()}
    try:
        while not stop.is_set() and (data := stream.poll(0.5)) is not None:
            for name, message in frames.feed(data) if data else ():
                yield from pieces[name].feed(message)
    finally:
        stream.close()
