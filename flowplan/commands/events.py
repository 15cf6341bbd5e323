"""The command that prints what happened, event by event, from the state alone."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from flowplan.commands.arguments import check_format
from flowplan.commands.reading import opened
from flowplan.documents import unknown_address
from flowplan.output import Output, reader_gone
from flowplan.planner.compare.plan import names
from flowplan.schemas.events import Event
from flowplan.schemas.runs import PROBLEMS
from flowplan.schemas.times import timestamp
from flowplan.state.location import Location
from flowplan.state.store import Store
from flowplan.terminal import use_colour

INTERVAL = 0.5
"""Seconds between two looks at the state with ``follow``."""
WINDOW = 1000
"""Of how many events the newest ones are looked for at first."""


@dataclass(frozen=True)
class Wanted:
    """Which events to print.

    Attributes:
        after: only with higher numbers. since: only that were recorded since then. failed: only ends that are problems.
        last: only so many, the newest. follow: go on with those that come.
    """

    after: int = 0
    since: datetime | None = None
    failed: bool = False
    last: int | None = None
    follow: bool = False


def events(state: Location, address: str | None, wanted: Wanted, format: str) -> None:
    """Print events, oldest first."""
    check_format(format, ("text", "json"))
    output = Output()
    with closing(opened(state)) as store:
        if address and not store.attempts(address):
            known = {r.address: r.settings.group for r in store.attempts()}
            if not any(names(address, one, group) for one, group in known.items()):
                raise unknown_address(address, known)
        found = _following(store, address, wanted) if wanted.follow else iter(_found(store, address, wanted))
        if format == "json":
            for event in found:
                output.document(event.document(), indent=None)
        else:
            from flowplan.render.tables import event_lines

            documents = (event.document() for event in found)
            output.lines(event_lines(documents, colour=use_colour(sys.stdout)))


def _found(store: Store, address: str | None, wanted: Wanted) -> Iterator[Event] | list[Event]:
    """Return the wanted events; of the newest ones no more is read than it takes to find them."""

    def matching(after: int) -> Iterator[Event]:
        return (e for e in store.events(address, after=after) if not wanted.failed or e.status in PROBLEMS)

    newest = store.last_seq()
    first = max(wanted.after, _last_before(store, wanted.since, newest) if wanted.since else 0)
    if wanted.last is None:
        return matching(first)
    window = WINDOW
    while True:
        after = max(first, newest - window)
        found = list(matching(after))
        if len(found) >= wanted.last or after == first:
            return found[len(found) - wanted.last :] if wanted.last < len(found) else found
        window *= 8


def _last_before(store: Store, moment: datetime, newest: int) -> int:
    """Return a number after which the events since a moment begin: they were recorded in the order of their numbers."""
    since = timestamp(moment)

    def is_later(seq: int) -> bool:
        return all(event.at >= since for event in islice(store.events(after=seq, limit=1), 1))

    return bisect_left(range(newest), True, key=is_later)


def _following(store: Store, address: str | None, wanted: Wanted) -> Iterator[Event]:
    """Yield the wanted events, then those that come, until the reader of the output disconnects."""
    gone, seen = reader_gone(sys.stdout), max(store.last_seq(), wanted.after)
    found = iter(_found(store, address, wanted))
    while True:
        for event in found:
            seen = max(seen, event.seq)
            yield event
        if gone.wait(INTERVAL):
            return
        newest = store.last_seq()
        found = iter(_found(store, address, Wanted(seen, failed=wanted.failed)) if newest > seen else ())
        seen = max(seen, newest)
