"""The events of a state as they happen, for any number of readers: the state is asked once for all of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from itertools import islice

from flowplan.schemas.errors import FlowplanError
from flowplan.schemas.events import Event
from flowplan.state.store import Store

LOOK = 0.5
"""Seconds between looks for new events, while somebody reads."""
KEPT = 10_000
"""The newest events, which are kept in memory; a reader that is further behind reads from the state."""
PAGE = 500
"""Events that are read at a time."""


class Feed:
    """The events of a state, in their order. Belongs to one event loop.

    Args:
        opened: opens the state for reading.

    Attributes:
        readers: how many there are.
    """

    def __init__(self, opened: Callable[[], Store]) -> None:
        self._opened = opened
        self._newest: deque[Event] = deque(maxlen=KEPT)
        self._last = -1
        self._changed = asyncio.Condition()
        self.readers = 0
        self._ended = False
        self._task: asyncio.Task[None] | None = None

    def end(self) -> None:
        """Let every reader come to its end; for any thread."""
        self._ended = True

    async def start(self, after: int | None) -> int:
        """Return the number that a reader follows from: the one it has read until, or that of the newest event.

        A number that is not reached yet is of another state, and counts as that of the newest event.

        Raises:
            FlowplanError: the state cannot be read.
        """
        newest = await asyncio.to_thread(self._last_seq)
        if self._last < 0 or not self.readers:
            self._last = newest
            self._newest.clear()
        return newest if after is None else min(after, newest)

    async def follow(self, seen: int) -> AsyncIterator[list[Event]]:
        """Yield the events above a number that ``start`` returned, in pages; [] when nothing happened."""
        self.readers += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())
        try:
            yield []
            while not self._ended:
                page = await self._page(seen)
                if page:
                    seen = page[-1].seq
                    yield page
                elif not await self._news(seen):
                    yield []
        finally:
            self.readers -= 1

    async def _page(self, after: int) -> list[Event]:
        if self._last <= after:
            return []
        if self._newest and self._newest[0].seq <= after + 1:
            return list(islice((event for event in self._newest if event.seq > after), PAGE))
        with suppress(FlowplanError):
            return await asyncio.to_thread(self._read, after, PAGE)
        return []

    async def _news(self, after: int) -> bool:
        """Wait for news, for some seconds; return whether there are any."""
        with suppress(TimeoutError):
            async with asyncio.timeout(15), self._changed:
                await self._changed.wait_for(lambda: self._last > after or self._ended)
            return True
        return False

    async def _look(self) -> None:
        """Look for new events until nobody reads any more."""
        while self.readers:
            with suppress(FlowplanError):  # the state is away: those who read wait for it
                while page := await asyncio.to_thread(self._read, self._last, PAGE):
                    self._newest.extend(page)
                    self._last = page[-1].seq
                    async with self._changed:
                        self._changed.notify_all()
            if self._ended:
                async with self._changed:
                    self._changed.notify_all()
            await asyncio.sleep(LOOK)

    def _read(self, after: int, limit: int) -> list[Event]:
        with closing(self._opened()) as store:
            return list(store.events(after=after, limit=limit))

    def _last_seq(self) -> int:
        with closing(self._opened()) as store:
            return store.last_seq()
