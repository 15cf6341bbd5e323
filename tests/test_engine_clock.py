"""An engine's own time, from the dates of its answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from flowplan.providers.clocks import EngineClock

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def heard(clock: EngineClock, moment: datetime) -> float:
    """Let an answer of this date come; return by how many seconds the clock differs from it then."""
    clock.hear(format_datetime(moment, usegmt=True))
    now = clock.now()
    assert now is not None
    return (now - moment).total_seconds()


def test_it_is_set_by_the_first_valid_date_and_again_when_the_engine_s_clock_was() -> None:
    clock = EngineClock()
    for nothing in (None, "", "yesterday"):
        clock.hear(nothing)
        assert clock.now() is None
    assert 0 <= heard(clock, NOON) < 1
    assert heard(clock, NOON + timedelta(seconds=2)) < 0  # dates are rounded, and answers late
    for hours in (1, -1, 5000):
        assert 0 <= heard(clock, NOON + timedelta(hours=hours)) < 1
