"""What workers do: one engine call after another for one step; they touch no state."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from flowplan.engines import Engines
from flowplan.following import redacted, tail_of, tail_text
from flowplan.providers.protocol import LogLine, Order
from flowplan.schemas.errors import FlowplanError
from flowplan.schemas.faults import point
from flowplan.schemas.plans import Change, FieldChange
from flowplan.schemas.runs import Identity, Observed, Recorded
from flowplan.schemas.secrets import Redactor

_LAST_LINES = 100
_PATIENCE = 0.5
"""Seconds that the last output of a run may take to arrive once the run is gone."""


@dataclass(slots=True)
class Done:
    """What became of a step on the engine.

    Attributes:
        seen: the object afterwards; attempts: those that were to be removed; removed: those whose objects are gone now;
        tails: run id -> last output; before: the object as it was before it was removed for a time limit.
    """

    address: str
    seen: Observed | None = None
    attempts: tuple[Recorded, ...] = ()
    removed: list[Recorded] = field(default_factory=list)
    tails: dict[str, str] = field(default_factory=dict)
    error: FlowplanError | None = None
    before: Observed | None = None


def order_of(
    change: Change, *, project: str, lineage: str, secrets: Mapping[str, str], born_as: str = "", fresh: bool = False
) -> Order:
    """The order for the attempt that a change creates or updates."""
    identity = Identity(project, lineage, born_as or change.address, change.attempt)
    return Order(identity, change.name, change.after or {}, change.settings, secrets, fresh)


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
    done = Done(address, attempts=tuple(former))
    try:
        if not first:
            _remove(engines, redactor, done)
        point("engine:create:before")
        done.seen = engines.provider(provider).create(order)
        point("engine:create:after")
        if first:
            _remove(engines, redactor, done)
    except FlowplanError as error:
        done.error = error
    return done


def update(engines: Engines, record: Recorded, order: Order, fields: Sequence[FieldChange]) -> Done:
    """Change a live object in place; settings that flowplan keeps need no engine."""
    sent = [f for f in fields if not f.path.startswith("/Run/")]
    point("engine:update:before")
    try:
        seen = engines.provider(record.provider).update(record, order, sent) if sent else None
    except FlowplanError as error:
        return Done(record.address, error=error)
    point("engine:update:after")
    return Done(record.address, seen)


def destroy(engines: Engines, redactor: Redactor, address: str, attempts: Sequence[Recorded]) -> Done:
    """Stop and remove the objects of all attempts at an address."""
    done = Done(address, attempts=tuple(attempts))
    try:
        _remove(engines, redactor, done)
    except FlowplanError as error:
        done.error = error
    return done


def _remove(engines: Engines, redactor: Redactor, done: Done) -> None:
    for record in done.attempts:
        engines.check_target(record.provider, record.target, record.address)
        tail = record.output_tail or tail_of(engines, record, redactor, _LAST_LINES)
        with _listening(engines, record) as heard:
            point("engine:delete:before")
            engines.provider(record.provider).delete(record, record.settings.grace_period)
            point("engine:delete:after")
        tail = "" if record.output_tail else tail_text(redacted(heard.copy(), redactor)) or tail
        if tail:
            done.tails[record.run_id] = tail
        done.removed.append(record)


@contextmanager
def _listening(engines: Engines, record: Recorded) -> Iterator[deque[LogLine]]:
    """The end of the output of a live run, with what it says between TERM and its end; complete afterwards."""
    heard: deque[LogLine] = deque(maxlen=_LAST_LINES)
    stop = threading.Event()
    if record.status.final:
        yield heard
        return

    def listen() -> None:
        try:
            for line in engines.provider(record.provider).logs(record, follow=True, tail=_LAST_LINES, stop=stop):
                heard.append(line)
        except FlowplanError:
            return  # the end of the run is what matters; what was heard until now is kept

    listener = threading.Thread(target=listen, name=f"last words of {record.address}", daemon=True)
    listener.start()
    try:
        yield heard
        listener.join(_PATIENCE)
    finally:
        stop.set()
        listener.join(_PATIENCE)


def expire(engines: Engines, redactor: Redactor, record: Recorded) -> Done:
    """Stop and remove a run that passed a time limit which its engine does not keep; not one that has moved on."""
    try:
        engines.check_target(record.provider, record.target, record.address)
        [seen] = [s for s in engines.provider(record.provider).observe([record]) if s.run_id == record.run_id]
    except FlowplanError as error:
        return Done(record.address, attempts=(record,), error=error)
    if seen.exists and seen.status is not record.status:
        return Done(record.address, seen, attempts=(record,))
    done = destroy(engines, redactor, record.address, [record])
    done.before = seen
    return done
