"""The time now, as every document writes it."""

from __future__ import annotations

from datetime import UTC, datetime


def timestamp(moment: datetime | None = None) -> str:
    """RFC 3339 in UTC with milliseconds: ``2026-11-01T08:00:00.000Z``."""
    return (moment or datetime.now(UTC)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_since(text: str | None) -> float | None:
    """Seconds from an RFC 3339 time to now; None for None."""
    if not text:
        return None
    return (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()
