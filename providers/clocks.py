"""The time by an engine's own clock, from what its answers say: this computer's clock may be another one, and wrong."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime


class EngineClock:
    """A clock that is set by an engine once, and then runs on as steadily as this computer's time since its start."""

    def __init__(self) -> None:
        self._set: tuple[datetime, float] | None = None

    def hear(self, date: str | None) -> None:
        """Take the ``Date`` of an answer; the first one counts. What is no date is ignored."""
        if self._set is None and date:
            try:
                moment = parsedate_to_datetime(date)
            except ValueError:
                return
            self._set = (moment if moment.tzinfo else moment.replace(tzinfo=UTC), _since_boot())

    def now(self) -> datetime | None:
        """The engine's time, at most two seconds behind it; None before it has answered anything."""
        if self._set is None:
            return None
        moment, heard = self._set
        return moment + timedelta(seconds=_since_boot() - heard)


def _since_boot() -> float:
    """Seconds since this computer was started, asleep or not: nobody can set them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
