"""The end of the output of runs that are over: as it was heard, else read when it is all there, and kept in the state."""

from __future__ import annotations

import time

from flowplan.engines import Engines
from flowplan.following import LogStreams, tail_of
from flowplan.schemas.runs import Recorded
from flowplan.schemas.secrets import Redactor
from flowplan.workers import Workers

SHOWN_WITHIN = 5.0
"""Seconds after which the end of an output is read, though not all of it has been shown."""


class Tails:
    """Asks workers for the ends of outputs; each comes back as ``("tail", (run id, text))``."""

    def __init__(self, engines: Engines, logs: LogStreams, workers: Workers, redactor: Redactor) -> None:
        self._engines, self._logs, self._workers, self._redactor = engines, logs, workers, redactor
        self._waiting: dict[str, tuple[Recorded, float]] = {}

    def __bool__(self) -> bool:
        """True while an output is being shown whose end is to be read."""
        return bool(self._waiting)

    def ended(self, record: Recorded) -> None:
        """A run is over."""
        self._waiting[record.run_id] = record, time.monotonic() + SHOWN_WITHIN
        if not self._logs.showing(record.run_id):
            self.shown(record.run_id)

    def shown(self, run_id: str) -> None:
        """All of an output has been shown: read its end, if its run is over."""
        record, _ = self._waiting.pop(run_id, (None, 0.0))
        if record:
            self._workers.submit("tail", self._read, record)

    def hurry(self) -> None:
        """Wait no longer for outputs that take their time."""
        now = time.monotonic()
        for run_id in [run_id for run_id, (_, until) in self._waiting.items() if until < now]:
            self.shown(run_id)

    def _read(self, record: Recorded) -> tuple[str, str]:
        heard, complete = self._logs.ends.take(record.run_id)
        if complete and heard:
            return record.run_id, heard
        return record.run_id, tail_of(self._engines, record, self._redactor) or heard
