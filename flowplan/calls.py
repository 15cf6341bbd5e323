"""What workers do for one command: one engine call after another. They use no state; what they return is a fact."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from flowplan.engines import Engines
from flowplan.outputs import redacted, tail_of, tail_text
from flowplan.planner.conduct.words import Again, Answered, Remove, Start, Update
from flowplan.providers.protocol import LogLine, Order, Retrier
from flowplan.schemas.errors import FlowplanError
from flowplan.schemas.faults import point
from flowplan.schemas.lifecycle import after, progress_of, told
from flowplan.schemas.runs import Observed, Recorded
from flowplan.schemas.secrets import Redactor

_LAST_LINES = 100
_PATIENCE = 0.5
"""Seconds that the last output of a run may take to arrive after its removal."""


def start(engines: Engines, redactor: Redactor, command: Start, order: Order, kept: Collection[str] = ()) -> Answered:
    """Create an attempt; remove the objects of former attempts before it, or after it when ``first``.

    Args:
        kept: see ``Removed``.
    """
    gone, seen = Removed(engines, redactor, kept), None
    try:
        if not command.first:
            gone.remove(command.former)
        point("engine:create:before")
        seen = engines.provider(command.change.provider).create(order)
        point("engine:create:after")
        if command.first:
            gone.remove(command.former)
    except FlowplanError as error:
        return gone.answer(command, seen=seen, error=error)
    return gone.answer(command, seen=seen)


def update(engines: Engines, command: Update, order: Order) -> Answered:
    """Change a live object in place. Settings that flowplan keeps itself are not sent."""
    sent = [f for f in command.fields if not f.path.startswith("/Run/")]
    point("engine:update:before")
    try:
        seen = engines.provider(command.record.provider).update(command.record, order, sent) if sent else None
    except FlowplanError as error:
        return Answered(command, error=error)
    point("engine:update:after")
    return Answered(command, seen)


def again(engines: Engines, command: Again) -> Answered:
    """Start the object of an attempt again whose wait is over."""
    record = command.record
    try:
        engines.check_target(record.provider, record.target, record.address)
        point("engine:again:before")
        seen = cast("Retrier", engines.provider(record.provider)).again(record)
        point("engine:again:after")
    except FlowplanError as error:
        return Answered(command, error=error)
    return Answered(command, seen)


def remove(
    engines: Engines, redactor: Redactor, command: Remove, kept: Collection[str] = (), before: Observed | None = None
) -> Answered:
    """Stop and remove the objects of attempts.

    Args:
        kept: see ``Removed``.
    """
    gone = Removed(engines, redactor, kept)
    try:
        gone.remove(command.attempts)
    except FlowplanError as error:
        return gone.answer(command, before=before, error=error)
    return gone.answer(command, before=before)


def expire(engines: Engines, redactor: Redactor, command: Remove, kept: Collection[str] = ()) -> Answered:
    """Stop and remove a run that passed a time limit which its engine does not keep, unless its status has changed."""
    [record] = command.attempts
    try:
        engines.check_target(record.provider, record.target, record.address)
        [seen] = [s for s in engines.provider(record.provider).observe([record]) if s.run_id == record.run_id]
    except FlowplanError as error:
        return Answered(command, error=error)
    if seen.exists and after(progress_of(record), told(record, seen)).status is not record.status:
        return Answered(command, seen)
    return remove(engines, redactor, command, kept, before=seen)


@dataclass(slots=True)
class Removed:
    """The attempts that were removed so far, and the end of their outputs by run id.

    Attributes:
        kept: the run ids of attempts whose end of the output is stored, and need not be read before they go.
    """

    engines: Engines
    redactor: Redactor
    kept: Collection[str] = ()
    records: list[Recorded] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)

    def remove(self, attempts: Sequence[Recorded]) -> None:
        """Stop and remove the objects of attempts, one after another, until an engine refuses."""
        for record in attempts:
            self.engines.check_target(record.provider, record.target, record.address)
            known = record.run_id in self.kept
            end = "" if known else tail_of(self.engines, record, self.redactor, _LAST_LINES)
            with _listening(self.engines, record) as heard:
                point("engine:delete:before")
                self.engines.provider(record.provider).delete(record, record.settings.grace_period)
                point("engine:delete:after")
            if not known:
                end = tail_text(redacted(heard.copy(), self.redactor)) or end
                self.outputs |= {record.run_id: end} if end else {}
            self.records.append(record)

    def answer(
        self,
        command: Start | Remove,
        *,
        seen: Observed | None = None,
        before: Observed | None = None,
        error: FlowplanError | None = None,
    ) -> Answered:
        """Return the answer to a command, with what was removed for it."""
        return Answered(command, seen, tuple(self.records), self.outputs, error, before)


@contextmanager
def _listening(engines: Engines, record: Recorded) -> Iterator[deque[LogLine]]:
    """Read the output of a live run while it is removed: what it prints between TERM and its end is there afterwards."""
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
            return  # what was heard until now is kept

    listener = threading.Thread(target=listen, name=f"last output of {record.address}", daemon=True)
    listener.start()
    try:
        yield heard
        listener.join(_PATIENCE)
    finally:
        stop.set()
        listener.join(_PATIENCE)
