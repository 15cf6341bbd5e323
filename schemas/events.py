"""Event: one transition of one attempt, as stored, streamed and printed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One row of the history (design 5 and 9); times are RFC 3339 in UTC.

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
        return asdict(self)
