"""The time limits that no engine keeps: ``start_timeout``, and ``timeout`` where nobody else is there to keep it."""

from __future__ import annotations

import time
from collections.abc import Container, Iterator

from flowplan.clock import SteadyClock, seconds_between
from flowplan.engines import Engines
from flowplan.ledger import Ledger
from flowplan.schemas.runs import Observed, Recorded, Status

EVERY = 0.2
"""Seconds between looks at the limits; a thousand runs that have one double it."""


class TimeLimits:
    """Says which runs have passed a limit, once each, and why they are ended."""

    def __init__(self, ledger: Ledger, engines: Engines, clock: SteadyClock) -> None:
        self._ledger, self._engines, self._clock = ledger, engines, clock
        self._due = 0.0
        self._expired: dict[str, tuple[str, str]] = {}

    def passed(self, followed: Container[str]) -> Iterator[tuple[Recorded, str]]:
        """The runs among those followed whose limit has passed since the last look, and which limit it was."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + EVERY * (1 + len(self._ledger.limited) / 1000)
        for record in [r for a, r in self._ledger.limited.items() if a in followed]:
            limit, since, name = _limit(record)
            # When it was created we know by our clock, when it began to run by the engine's.
            pending = record.status is Status.PENDING
            passed = seconds_between(since, self._clock.now() if pending else self._engines.now(record.provider))
            if limit is None or passed is None or passed <= limit or record.run_id in self._expired:
                continue
            if name == "timeout" and self._engines.keeps_timeout(record):
                continue
            word = "DeadlineExceeded" if record.status is Status.RUNNING else ""
            told = f"{name} of {limit:g}s passed"
            self._expired[record.run_id] = (word, told)
            yield record, told

    def expired(self, run_id: str) -> bool:
        """True when a run is being ended because of a limit."""
        return run_id in self._expired

    def spare(self, run_id: str) -> None:
        """It was not ended after all: the engine refused, or the run had just moved on."""
        self._expired.pop(run_id, None)

    def verdict(self, record: Recorded, before: Observed) -> tuple[str, str]:
        """Reason and message for a run that was ended; ``before`` is what it was when its limit passed."""
        word, message = self._expired[record.run_id]
        why = before.message or record.message
        return word or before.reason or record.reason or "StartTimeout", f"{message}: {why}" if why else message


def _limit(record: Recorded) -> tuple[float | None, str | None, str]:
    """The limit that flowplan keeps for a run in its status: (seconds, since when, its name)."""
    settings = record.settings
    if record.status is Status.PENDING:
        return settings.start_timeout, record.created_at, "start_timeout"
    if record.status is Status.RUNNING:
        return settings.timeout, record.started_at, "timeout"
    return None, None, ""
