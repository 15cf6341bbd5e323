"""The time now, as every document writes it, and a clock that does not follow changes of the system's time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta


def timestamp(moment: datetime | None = None) -> str:
    """Return a moment as RFC 3339 in UTC with milliseconds: ``2026-11-01T08:00:00.000Z``."""
    return (moment or datetime.now(UTC)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_between(text: str | None, now: datetime | None) -> float | None:
    """Return the seconds from an RFC 3339 time to ``now``; None where one is unknown."""
    if not text or now is None:
        return None
    return (now - datetime.fromisoformat(text)).total_seconds()


class SteadyClock:
    """This computer's time as it was when this was made, running on whatever its clock is set to meanwhile."""

    def __init__(self) -> None:
        self._from, self._since = datetime.now(UTC), time.clock_gettime(time.CLOCK_BOOTTIME)

    def now(self) -> datetime:
        """Return the time by it."""
        return self._from + timedelta(seconds=time.clock_gettime(time.CLOCK_BOOTTIME) - self._since)
