"""Who is told of what happens to runs: what a plan and the state keep of ``notify`` in a spec."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from flowplan.schemas.quantities import duration
from flowplan.schemas.secrets import SecretSource

if TYPE_CHECKING:
    from flowplan.schemas.spec import Notification

NOTIFIED_OF = {
    "failed": "A run failed.",
    "timed_out": "A run passed a time limit.",
    "lost": "A run is gone from its engine, and how it ended is not known.",
    "recovered": "A run succeeded whose last attempt had not.",
    "waiting": "An approved run has not started for long.",
    "applied": "A plan was applied.",
}

USUAL = ("failed", "timed_out", "lost", "recovered")
"""What a channel is told of that does not say."""
LONG = 3600.0
"""Seconds that an approved run may wait by default before it is told."""


class Channel(NamedTuple):
    """Where messages go.

    Attributes:
        kind: ``webhook`` or ``apprise``. url, secret: where its address and the key of its signature come from; an address
            that is written out in the spec has the kind ``literal``.
        on: what it is told of, of ``NOTIFIED_OF``. waiting: seconds after which an approved run that has not started is told.
    """

    kind: str
    url: SecretSource
    secret: SecretSource | None = None
    on: tuple[str, ...] = USUAL
    waiting: float = LONG

    @property
    def name(self) -> str:
        """Return a name that holds no secret, the same in each process."""
        told = f"{self.kind} {self.url.kind}:{self.url.value}"
        return f"{self.kind}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def channels_of(notifications: Iterable[Notification]) -> tuple[Channel, ...]:
    """Return the channels that a spec names."""
    return tuple(
        Channel(
            "webhook" if one.webhook is not None else "apprise",
            _source(one.webhook if one.webhook is not None else one.apprise),
            None if one.secret is None else _source(one.secret),
            tuple(USUAL if one.on is None else one.on),
            LONG if one.waiting_longer_than is None else duration(one.waiting_longer_than),
        )
        for one in notifications
    )


def _source(given: Any) -> SecretSource:
    if isinstance(given, str):
        return SecretSource("literal", given)
    return SecretSource("from_env", given.from_env) if given.from_env else SecretSource("from_file", given.from_file)
