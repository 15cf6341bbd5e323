"""An engine's own time, from the dates of its answers: this computer's clock may differ from it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime


class EngineClock:
    """A clock that the first answer of an engine sets, and that then runs with this computer's monotonic time."""

    def __init__(self) -> None:
        self._set: tuple[datetime, float] | None = None

    def hear(self, date: str | None) -> None:
        """Set the clock by the ``Date`` of the first answer that has a valid one."""
        if self._set is None and date:
            try:
                moment = parsedate_to_datetime(date)
            except ValueError:
                return
            self._set = (moment if moment.tzinfo else moment.replace(tzinfo=UTC), _since_boot())

    def now(self) -> datetime | None:
        """Return the engine's time, at most two seconds behind it; None before its first answer."""
        if self._set is None:
            return None
        moment, heard = self._set
        return moment + timedelta(seconds=_since_boot() - heard)


def _since_boot() -> float:
    """Return the seconds since this computer was started, including sleep; this clock cannot be set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
