"""The supervisor's end of the pipes to flowplan: requests are lines of JSON on stdin, replies lines of JSON on stdout."""

from __future__ import annotations

import json
import os
import select

from flowplan.providers.process.kernel import CHUNK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from flowplan.providers.process.child import Run
    from flowplan.providers.process.loop import Loop

STDIN, STDOUT = 0, 1


class Client:
    """The flowplan command that started the supervisor; it may end at any time, and the supervisor goes on.

    Args:
        null: /dev/null, which takes the place of both pipes after that.
        requested: called with all requests that came together.
    """

    def __init__(self, loop: Loop, null: int, requested: Callable[[list[dict[str, Any]]], None]) -> None:
        self._loop, self._null, self._requested = loop, null, requested
        self._inbox, self._outbox = b"", b""
        self.connected = False

    def listen(self) -> None:
        """Accept requests."""
        self.connected = True
        os.set_blocking(STDIN, False)
        os.set_blocking(STDOUT, False)
        self._loop.listen(STDIN, self._receive)

    def _receive(self) -> None:
        try:
            data = os.read(STDIN, CHUNK)
        except BlockingIOError:
            return
        if data:
            *lines, self._inbox = (self._inbox + data).split(b"\n")
            self._requested([json.loads(line) for line in lines])
            return
        for fd in (STDIN, STDOUT):
            self._loop.forget(fd)
            os.dup2(self._null, fd)
        self.connected, self._outbox = False, b""

    def reply(self, run: Run, state: str) -> None:
        """Answer the request for a run, once."""
        if run.replied or not self.connected:
            return
        run.replied = True
        self._outbox += json.dumps({"id": run.id, "state": state}).encode() + b"\n"
        self._send()

    def _send(self) -> None:
        try:
            self._outbox = self._outbox[os.write(STDOUT, self._outbox) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._outbox = b""
        if self._outbox:
            self._loop.listen(STDOUT, self._send, select.EPOLLOUT)
        else:
            self._loop.forget(STDOUT)
