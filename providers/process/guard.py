"""The guard: a second process that knows of every run what is needed to go on with it when the supervisor is killed.

The supervisor tells it of a run before that is started, together with the reading end of the run's pipe, over a socket.
"""

from __future__ import annotations

import _socket
import json
import mmap
import os
import select

from flowplan.providers.process.kernel import CHUNK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from flowplan.providers.process.loop import Loop

SLOTS = 1 << 16
"""Runs with secrets at once for which ``UnwrittenOutput`` has room."""


class UnwrittenOutput:
    """Which runs have output that was read from their pipe and is not in its file yet: a byte of shared memory for each.

    Only runs with secrets need one. If the supervisor is killed, the guard must know whether the next bytes may be the
    rest of a secret whose beginning is lost.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, SLOTS)
        self._used, self._free = 0, list[int]()

    def take_slot(self) -> int | None:
        """Return a free slot, None when there is none."""
        if self._free:
            return self._free.pop()
        if self._used == SLOTS:
            return None
        self._used += 1
        return self._used - 1

    def free_slot(self, slot: int) -> None:
        """Give a slot back."""
        self[slot] = False
        self._free.append(slot)

    def __getitem__(self, slot: int) -> bool:
        return bool(self._memory[slot])

    def __setitem__(self, slot: int, unwritten: bool) -> None:
        self._memory[slot] = unwritten


class GuardLink:
    """The supervisor's end of the socket to the guard; without a guard (``None``), telling it does nothing."""

    def __init__(self, loop: Loop, channel: _socket.socket | None) -> None:
        self._loop, self._channel = loop, channel
        self._queue: list[tuple[bytes, int]] = []
        if channel:
            loop.listen(channel.fileno(), self._ready, select.EPOLLRDHUP)

    def __bool__(self) -> bool:
        return self._channel is not None

    def tell(self, document: dict[str, Any], fd: int = -1) -> None:
        """Send a document, with a descriptor if there is one to hand over; what a slow guard does not take yet is kept."""
        if self._channel:
            self._queue.append((json.dumps(document).encode() + b"\n", os.dup(fd) if fd >= 0 else -1))
            if len(self._queue) == 1:
                self._send(self._channel)

    def _ready(self) -> None:
        """Send more, unless the guard was killed: it never says anything, so all there is to read is the end."""
        assert self._channel
        try:
            gone = not self._channel.recv(1, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            gone = False
        except OSError:
            gone = True
        if gone:
            self._close(self._channel)
        else:
            self._send(self._channel)

    def _send(self, channel: _socket.socket) -> None:
        events = select.EPOLLRDHUP
        while self._queue:
            data, fd = self._queue[0]
            handed = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, "little"))] if fd >= 0 else []
            try:
                sent = channel.sendmsg([data], handed, _socket.MSG_DONTWAIT)
            except BlockingIOError:
                events |= select.EPOLLOUT
                break
            except OSError:
                self._close(channel)
                return
            if fd >= 0:
                os.close(fd)
            self._queue[0] = data[sent:], -1
            if sent == len(data):
                del self._queue[0]
        self._loop.listen(channel.fileno(), self._ready, events)

    def _close(self, channel: _socket.socket) -> None:
        self._loop.forget(channel.fileno())
        channel.close()
        self._channel = None
        for _, fd in self._queue:
            if fd >= 0:
                os.close(fd)
        self._queue.clear()


class Guard:
    """The guard itself; it does nothing until the supervisor is gone."""

    def __init__(self, channel: _socket.socket) -> None:
        self._channel = channel
        self._known: dict[str, dict[str, Any]] = {}

    def stand_by(self) -> dict[str, dict[str, Any]]:
        """Return the runs that are not over when the supervisor ends; ``reader`` is the reading end of each one's pipe."""
        inbox, fds = b"", []
        while True:
            data, handed, _, _ = self._channel.recvmsg(CHUNK, _socket.CMSG_SPACE(4 * 64), _socket.MSG_CMSG_CLOEXEC)
            for _, _, numbers in handed:
                fds += [int.from_bytes(numbers[at : at + 4], "little") for at in range(0, len(numbers), 4)]
            if not data:
                self._channel.close()
                return self._known
            *lines, inbox = (inbox + data).split(b"\n")
            for line in lines:
                self._note(json.loads(line), fds)

    def _note(self, document: dict[str, Any], fds: list[int]) -> None:
        before = self._known.pop(document["id"], None)
        if "waiting" in document and before:
            self._known[document["id"]] = {**before, "waiting": document["waiting"]}
            return
        if before:
            os.close(before["reader"])
        if "over" not in document:
            self._known[document["id"]] = {**document, "reader": fds.pop(0)}
