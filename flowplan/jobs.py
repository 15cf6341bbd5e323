"""What workers do: one engine call after another for one step; they touch no state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flowplan.engines import Engines
from flowplan.following import tail_of
from flowplan.providers.protocol import Order
from flowplan.schemas.errors import FlowplanError
from flowplan.schemas.plans import Change, FieldChange
from flowplan.schemas.runs import Identity, Observed, Recorded
from flowplan.schemas.secrets import Redactor


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a step on the engine.

    Attributes:
        seen: the object afterwards; removed: attempts whose objects are gone now; tails: run id -> last output.
    """

    address: str
    seen: Observed | None = None
    removed: tuple[Recorded, ...] = ()
    tails: Mapping[str, str] = field(default_factory=dict)
    error: FlowplanError | None = None


def order_of(change: Change, *, project: str, lineage: str, secrets: Mapping[str, str], born_as: str = "") -> Order:
    """The order for the attempt that a change creates or updates."""
    identity = Identity(project, lineage, born_as or change.address, change.attempt)
    return Order(identity, change.name, change.after or {}, change.settings, secrets)


def start(
    engines: Engines,
    redactor: Redactor,
    address: str,
    provider: str,
    order: Order,
    former: Sequence[Recorded],
    *,
    first: bool,
) -> Done:
    """Create an attempt; the objects of former attempts go before it, or after it when ``first``."""
    removed: tuple[Recorded, ...] = ()
    tails: dict[str, str] = {}
    seen = None
    try:
        if not first:
            removed = _remove(engines, redactor, former, tails)
        seen = engines.provider(provider).create(order)
        if first:
            removed = _remove(engines, redactor, former, tails)
    except FlowplanError as error:
        return Done(address, seen, removed, tails, error)
    return Done(address, seen, removed, tails)


def update(engines: Engines, record: Recorded, order: Order, fields: Sequence[FieldChange]) -> Done:
    """Change a live object in place; settings that flowplan keeps need no engine."""
    sent = [f for f in fields if not f.path.startswith("/Run/")]
    try:
        seen = engines.provider(record.provider).update(record, order, sent) if sent else None
    except FlowplanError as error:
        return Done(record.address, error=error)
    return Done(record.address, seen)


def destroy(engines: Engines, redactor: Redactor, address: str, attempts: Sequence[Recorded]) -> Done:
    """Stop and remove the objects of all attempts at an address."""
    tails: dict[str, str] = {}
    removed: tuple[Recorded, ...] = ()
    try:
        removed = _remove(engines, redactor, attempts, tails)
    except FlowplanError as error:
        return Done(address, None, removed, tails, error)
    return Done(address, None, removed, tails)


def _remove(
    engines: Engines, redactor: Redactor, attempts: Sequence[Recorded], tails: dict[str, str]
) -> tuple[Recorded, ...]:
    removed = []
    for record in attempts:
        engines.check_target(record.provider, record.target, record.address)
        if not record.output_tail:
            tail = tail_of(engines, record, redactor)
            tails.update({record.run_id: tail} if tail else {})
        engines.provider(record.provider).delete(record, record.settings.grace_period)
        removed.append(record)
    return tuple(removed)


def expire(engines: Engines, redactor: Redactor, record: Recorded) -> Done:
    """Stop and remove a run that passed a time limit which its engine does not keep."""
    return destroy(engines, redactor, record.address, [record])
