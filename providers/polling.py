"""Following runs that carry none of our labels, which no stream of an engine tells about: they are looked at now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from flowplan.providers.protocol import IMPORTED, News
from flowplan.schemas.errors import EngineUnreachable
from flowplan.schemas.runs import Observed, Recorded

EVERY = 1.0
"""Seconds between two looks."""

Stream = Callable[[Sequence[Recorded], threading.Event], Iterator[News]]


def watch(
    records: Sequence[Recorded],
    stop: threading.Event,
    stream: Stream,
    observe: Callable[[Sequence[Recorded]], list[Observed]],
) -> Iterator[News]:
    """As ``Provider.watch``: ``stream`` for the runs that carry our labels, and looks at the imported ones."""
    own = [record for record in records if not record.handle.get(IMPORTED)]
    looks = _Looks([record for record in records if record.handle.get(IMPORTED)], observe)
    for seen in stream(own, stop) if own else ():
        yield seen
        yield from looks.due()
    while looks.waiting and not stop.is_set():
        yield from looks.due()
        yield looks.word
        stop.wait(EVERY / 2)


class _Looks:
    def __init__(self, records: Sequence[Recorded], observe: Callable[[Sequence[Recorded]], list[Observed]]) -> None:
        self.waiting = {record.run_id: record for record in records}
        self._observe = observe
        self._next = 0.0
        self.word: EngineUnreachable | None = None
        self._last: dict[str, Observed] = {}

    def due(self) -> Iterator[Observed]:
        """What is new, when it is time to look; an engine that does not answer says nothing about any run."""
        if not self.waiting or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY
        try:
            found = self._observe(list(self.waiting.values()))
        except EngineUnreachable as error:
            self.word = error
            return
        self.word = None
        for seen in found:
            if seen.run_id in self.waiting:
                yield from self._told(seen)

    def _told(self, seen: Observed) -> Iterator[Observed]:
        if self._last.get(seen.run_id) != seen:
            self._last[seen.run_id] = seen
            yield seen
        if seen.over:
            del self.waiting[seen.run_id]
