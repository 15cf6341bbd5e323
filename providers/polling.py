"""Watching by polling: for engines without a stream of events, and for imported runs, which carry none of the labels that
streams are filtered by."""

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
Observe = Callable[[Sequence[Recorded]], list[Observed]]


def watch_by_looking(
    records: Sequence[Recorded], stop: threading.Event, observe: Observe, *, every: float = EVERY
) -> Iterator[News]:
    """Yield as ``Provider.watch`` promises, from calls of ``observe`` ``every`` so many seconds."""
    return _Looks(records, observe, every).until_all_ended(stop)


def watch(records: Sequence[Recorded], stop: threading.Event, stream: Stream, observe: Observe) -> Iterator[News]:
    """Yield as ``Provider.watch`` promises, from ``stream`` for runs with our labels and by polling for imported ones."""
    own = [record for record in records if not record.handle.get(IMPORTED)]
    looks = _Looks([record for record in records if record.handle.get(IMPORTED)], observe, EVERY)
    for seen in stream(own, stop) if own else ():
        yield seen
        yield from looks.due()
    yield from looks.until_all_ended(stop)


class _Looks:
    """The runs that have not ended, and what was last seen of each."""

    def __init__(self, records: Sequence[Recorded], observe: Observe, every: float) -> None:
        self._waiting = {record.run_id: record for record in records}
        self._observe, self._every = observe, every
        self._next = 0.0
        self._trouble: EngineUnreachable | None = None
        self._last: dict[str, Observed] = {}

    def until_all_ended(self, stop: threading.Event) -> Iterator[News]:
        while self._waiting and not stop.is_set():
            yield from self.due()
            yield self._trouble
            stop.wait(self._every / 2)

    def due(self) -> Iterator[Observed]:
        """Yield what is new, when it is time for the next look. An engine that does not answer changes no run."""
        if not self._waiting or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every
        try:
            found = self._observe(list(self._waiting.values()))
        except EngineUnreachable as error:
            self._trouble = error
            return
        self._trouble = None
        for seen in found:
            if seen.run_id in self._waiting and self._last.get(seen.run_id) != seen:
                self._last[seen.run_id] = seen
                yield seen
            if seen.over:
                self._waiting.pop(seen.run_id, None)
