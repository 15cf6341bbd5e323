"""The supervisor's event loop: files that are ready to be read or written, and timers."""

from __future__ import annotations

import heapq
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_WAIT = 3600.0


class Loop:
    """Calls a handler when its file is ready, and an action when its time has come."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0

    def listen(self, fd: int, handler: Callable[[], None], events: int = select.EPOLLIN) -> None:
        """Call the handler whenever one of the events happens on a file."""
        if fd in self._handlers:
            self._poll.modify(fd, events)
        else:
            self._poll.register(fd, events)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """Stop listening to a file, if anything did."""
        if self._handlers.pop(fd, None):
            self._poll.unregister(fd)

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Call an action once, after so many seconds."""
        self._sequence += 1  # keeps the order of equal times, and actions from being compared
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._sequence, action))

    def turn(self) -> None:
        """Wait for the next event or timer, then call everything that is due."""
        wait = max(0.0, min(self._timers[0][0] - time.monotonic(), LONGEST_WAIT)) if self._timers else -1.0
        for fd, _ in self._poll.poll(wait):
            handler = self._handlers.get(fd)  # an earlier handler of this turn may have forgotten it
            if handler:
                handler()
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()
