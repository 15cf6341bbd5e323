"""The time now, as every document writes it, and a clock that does not follow changes of the system's time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from flowplan.schemas.times import timestamp


def now() -> str:
    """Return this moment as every document writes it: ``2026-11-01T08:00:00.000Z``."""
    return timestamp(datetime.now(UTC))


def moment_of(text: str) -> datetime:
    """Return the moment that a text means: a duration before now, or a date or time, local unless it says its zone.

    Raises:
        ValueError: it is neither.
    """
    from flowplan.schemas.quantities import duration

    try:
        return datetime.now(UTC) - timedelta(seconds=duration(text))
    except (ValueError, OverflowError):
        pass
    try:
        return datetime.fromisoformat(text).astimezone()
    except OverflowError as error:
        raise ValueError(str(error)) from error


class SteadyClock:
    """This computer's time as it was when this was made, running on whatever its clock is set to meanwhile."""

    def __init__(self) -> None:
        self._from, self._since = datetime.now(UTC), time.clock_gettime(time.CLOCK_BOOTTIME)

    def now(self) -> datetime:
        """Return the time by it."""
        return self._from + timedelta(seconds=time.clock_gettime(time.CLOCK_BOOTTIME) - self._since)
