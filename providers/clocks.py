"""An engine's own time, from the dates of its answers: this computer's clock may differ from it."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

from flowplan.schemas.times import in_utc

JUMP = 5.0
"""Seconds by which an answer is not late, and its date not rounded."""


class EngineClock:
    """A clock that an engine's answers set, and that runs with this computer's monotonic time between them."""

    def __init__(self) -> None:
        self._set: tuple[datetime, float] | None = None

    def hear(self, date: str | None) -> None:
        """Set the clock by a valid ``Date``: the first one, and one that shows that the engine's clock was set meanwhile."""
        try:
            moment = in_utc(parsedate_to_datetime(date or ""))
        except ValueError:
            return
        known = self.now()
        if known is None or abs((moment - known).total_seconds()) > JUMP:
            self._set = moment, _since_boot()

    def now(self) -> datetime | None:
        """Return the engine's time, at most two seconds behind it; None before its first answer."""
        if self._set is None:
            return None
        moment, heard = self._set
        return moment + timedelta(seconds=_since_boot() - heard)


def _since_boot() -> float:
    """Return the seconds since this computer was started, including sleep; this clock cannot be set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
