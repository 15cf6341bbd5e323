"""Moments as text (RFC 3339), and the seconds between them. No clock is read here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal


def timestamp(moment: datetime, digits: Literal["seconds", "milliseconds", "microseconds"] = "milliseconds") -> str:
    """Return a moment as every document writes it, in UTC: ``2026-11-01T08:00:00.000Z``."""
    return in_utc(moment).isoformat(timespec=digits).replace("+00:00", "Z")


def in_utc(moment: datetime) -> datetime:
    """Return the same moment in UTC; one without a time zone is taken for UTC."""
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def seconds_between(start: str | None, end: str | datetime | None) -> float | None:
    """Return the seconds from an RFC 3339 time to another moment; None where one is missing or is no time."""
    if not start or not end:
        return None
    try:
        until = end if isinstance(end, datetime) else datetime.fromisoformat(end)
        since = datetime.fromisoformat(start)
    except ValueError:
        return None
    return (in_utc(until) - in_utc(since)).total_seconds()
