"""Bodies of streamed answers, whose reader may stop at any time."""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from typing import Any

import docker.errors
import docker.types
import requests

from flowplan.providers.docker.refusals import BROKEN

READ_AHEAD = 1 << 18
"""Bytes of a stream that are kept for a reader who is slower than the Engine."""
PART = 1 << 16
"""Bytes that are read at once at most."""


class Stream:
    """The body of a streamed answer, read by a thread of its own, so that its user can stop in between.

    Args:
        response: a streamed answer.
        waits: make the Engine wait for a slow reader; else the stream ends when too much is unread (``overrun``).
    """

    def __init__(self, response: requests.Response, *, waits: bool = True) -> None:
        self._response = response
        self._waits = waits
        self.overrun = False
        self._unread = bytearray()
        self._ended = False
        self._end: BaseException | None = None
        self._changed = threading.Condition()
        self._closed = threading.Event()
        threading.Thread(target=self._read, name="docker-stream", daemon=True).start()

    def poll(self, timeout: float) -> bytes | None:
        """Return the next bytes; b"" when none came within ``timeout`` seconds, None at the end of a complete answer.

        Raises:
            ConnectionError: when the connection broke.
        """
        with self._changed:
            if not self._unread and not self._ended:
                self._changed.wait(timeout)
            data = bytes(self._unread)
            self._unread.clear()
            if len(data) >= READ_AHEAD:
                self._changed.notify_all()
            if data or not self._ended:
                return data
        if self._end:
            raise ConnectionError(str(self._end))
        return None

    def close(self) -> None:
        """Close the connection; the thread ends."""
        self._closed.set()
        with contextlib.suppress(OSError, AttributeError, docker.errors.DockerException):
            docker.types.CancellableStream(iter(()), self._response).close()
        with self._changed:
            self._unread.clear()
            self._changed.notify_all()

    def _read(self) -> None:
        end: BaseException | None = None
        raw = self._response.raw
        try:
            chunks = raw.read_chunked(decode_content=False) if raw.chunked else iter(partial(raw.read1, PART), b"")
            for chunk in chunks:
                if not self._put(chunk):
                    break
        except (*BROKEN, ValueError, AttributeError) as error:  # ValueError, AttributeError: ``close``
            end = error
        if self.overrun:
            self._response.close()
        with self._changed:
            self._end, self._ended = end, True
            self._changed.notify_all()

    def _put(self, chunk: bytes) -> bool:
        """Take in what came, and wait while too much is unread; return whether more is wanted."""
        with self._changed:
            if not self._waits and len(self._unread) + len(chunk) > READ_AHEAD:
                self.overrun = True
                return False
            while len(self._unread) >= READ_AHEAD and not self._closed.is_set():
                self._changed.wait(0.5)
            if not self._unread:
                self._changed.notify_all()
            self._unread += chunk
        return not self._closed.is_set()


def without_timeout(answer: requests.Response) -> None:
    """Disable the socket timeout of a stream that has begun; its reader detects a silent Engine."""
    inside: Any = answer.raw
    with contextlib.suppress(AttributeError, OSError):  # a socket of another kind: its silence is a broken connection
        inside._fp.fp.raw._sock.settimeout(None)
