"""The command that shows every recorded attempt, from the state alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from flowplan.commands.arguments import check_format, seconds
from flowplan.commands.reading import opened, unknown_address
from flowplan.output import Output
from flowplan.planner.compare.plan import names
from flowplan.planner.desired.matrix import parse_address
from flowplan.schemas.plans import FORMAT_VERSION
from flowplan.schemas.runs import PROBLEMS, Recorded
from flowplan.schemas.times import seconds_between
from flowplan.state.location import Location
from flowplan.state.store import Store
from flowplan.terminal import use_colour, width


def history(state: Location, addresses: Sequence[str], since: str | None, failed: bool, format: str) -> None:
    """Print a row for each attempt, oldest first; no engine is asked.

    Args:
        since: only attempts that live, or of which something happened within this time.
        failed: only attempts that failed, timed out or are lost.
    """
    from flowplan.render.tables import history_table

    check_format(format, ("text", "json"))
    age, now = seconds("--since", since), datetime.now(UTC)
    with closing(opened(state)) as store:
        found = [_document(record, end) for record, end in _attempts(store, addresses) if _recent(record, age, now)]
        attempts = [one for one in found if not failed or one["status"] in PROBLEMS]
        document = {"format_version": FORMAT_VERSION, "project": store.project, "attempts": attempts}
    output = Output()
    if format == "json":
        output.document(document)
        return
    columns = width(sys.stdout) if sys.stdout.isatty() else None
    output.lines(history_table(attempts, width=columns, colour=use_colour(sys.stdout), now=now))


def _attempts(store: Store, addresses: Sequence[str]) -> list[tuple[Recorded, str]]:
    """Return the attempts at some addresses, all without any, each with how it ended, or its status while it has not.

    Raises:
        InvalidInput: an address means nothing.
    """
    attempts = store.attempts()
    for pattern in addresses:
        if not any(names(pattern, one.address, one.settings.group) for one in attempts):
            raise unknown_address(pattern, {one.address for one in attempts})
    known = store.known(one.run_id for one in attempts)
    return [
        (one, known[one.run_id].progress.outcome or one.status)
        for one in attempts
        if not addresses or any(names(pattern, one.address, one.settings.group) for pattern in addresses)
    ]


def _recent(record: Recorded, age: float | None, now: datetime) -> bool:
    passed = seconds_between(record.finished_at or record.started_at or record.created_at, now)
    return age is None or record.status.live or (passed is not None and passed <= age)


def _document(record: Recorded, end: str) -> dict[str, Any]:
    try:
        values = parse_address(record.address)[1] or {}
    except ValueError:  # of a state that was edited by hand
        values = {}
    return {
        "address": record.address,
        "values": values,
        "attempt": record.attempt,
        "run_id": record.run_id,
        "status": str(end),
        "exit_code": record.exit_code,
        "reason": record.reason,
        "message": record.message,
        "created_at": record.created_at,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "seconds": seconds_between(record.started_at, record.finished_at),
    }
