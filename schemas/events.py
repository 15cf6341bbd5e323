"""Event: one transition of one attempt, as stored, streamed and printed."""

from __future__ import annotations

from typing import Any, NamedTuple

from flowplan.schemas.codec import encode


class Event(NamedTuple):
    """One row of the history; times are RFC 3339 in UTC.

    ``at`` is our time, ``engine_at`` the engine's (None when it did not say).
    """

    seq: int
    at: str
    engine_at: str | None
    address: str
    run_id: str
    attempt: int
    status: str
    reason: str = ""
    message: str = ""

    def document(self) -> dict[str, Any]:
        """Return the JSON document (``event.schema.json``)."""
        document: dict[str, Any] = encode(self)
        return document
