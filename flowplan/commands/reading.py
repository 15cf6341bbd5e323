"""The command that reads the state and asks engines: status; and how reading commands open a state and find runs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from flowplan.commands.arguments import check_format
from flowplan.output import Output
from flowplan.planner.compare.plan import names
from flowplan.project import Project
from flowplan.refreshing import refresh
from flowplan.schemas.codec import encode
from flowplan.schemas.errors import InvalidInput, Refused, StateFull
from flowplan.schemas.plans import FORMAT_VERSION
from flowplan.schemas.runs import PROBLEMS, Recorded, Status
from flowplan.schemas.sources import did_you_mean
from flowplan.schemas.times import seconds_between
from flowplan.state.location import Location
from flowplan.state.store import Store
from flowplan.terminal import use_colour, width


def opened(state: Location) -> Store:
    """Return the state, for reading; it must be there, and need not be writable, nor its disk have any room.

    A copy of a state may be read, and is not written to.
    """
    if state.writable():
        try:
            return state.open()
        except StateFull:
            pass
        except Refused as error:
            store = state.open(read_only=True)
            Output().note(f"warning: {error.message} ({error.hint})")
            return store
    return state.open(read_only=True)


def chosen(records: Mapping[str, Recorded], addresses: Sequence[str]) -> dict[str, Recorded]:
    """Return the records that addresses, run names or globs mean; all without any.

    Raises:
        InvalidInput: one means nothing.
    """
    if not addresses:
        return dict(records)
    found: dict[str, Recorded] = {}
    for pattern in addresses:
        matches = {a: r for a, r in records.items() if names(pattern, a, r.settings.group)}
        if not matches:
            raise unknown_address(pattern, records)
        found.update(matches)
    return found


def unknown_address(address: str, known: Iterable[str]) -> InvalidInput:
    """Return the error for an address that nothing is recorded at."""
    hint = did_you_mean(address, known) or "`flowplan state list` shows the addresses"
    return InvalidInput(f"nothing is recorded at {address}", hint=hint)


def status(state: Location, addresses: Sequence[str], ask: bool, format: str, *, failed: bool, running: bool) -> None:
    """Show how every run stands, or only those that failed or run; with ``ask`` the engines are asked first."""
    from flowplan.render.tables import status_table

    check_format(format, ("text", "json"))
    only = [s for s in Status if (failed and s in PROBLEMS) or (running and s.live) or not (failed or running)]
    with closing(opened(state)) as store:
        if ask:
            with Project.of_state(store) as project:
                refresh(project)
        wanted = chosen(store.records(), addresses)
        document = status_document(store, {a: r for a, r in wanted.items() if r.status in only})
    output = Output()
    if format == "json":
        output.document(document)
        return
    columns = width(sys.stdout) if sys.stdout.isatty() else None
    output.lines(status_table(document["runs"], width=columns, colour=use_colour(sys.stdout), now=datetime.now(UTC)))
    for run in document["runs"]:
        if late := run["overdue"]:
            limit = f"{late['setting']} of {late['limit']:g}s passed {late['passed_by']:.0f}s ago"
            output.note(
                f"warning: {run['address']}: {limit}, and nothing enforces it: flowplan does while it follows the run "
                "(`flowplan watch` ends it)"
            )


_RUN = (
    *(
        "address",
        "provider",
        "target",
        "name",
        "run_id",
        "attempt",
        "status",
        "reason",
        "message",
        "exit_code",
        "attempts",
    ),
    *("created_at", "started_at", "finished_at", "infrastructure_id", "image", "remarks"),
)
"""The parts of a record that a status document has, in this order."""


def status_document(store: Store, records: Mapping[str, Recorded]) -> dict[str, Any]:
    """Return what ``status --format json`` prints."""
    now = datetime.now(UTC)
    runs = []
    for record in records.values():
        known = encode(record)
        runs.append({**{name: known[name] for name in _RUN}, "overdue": _overdue(record, now)})
    return {"format_version": FORMAT_VERSION, "project": store.project, "serial": store.serial, "runs": runs}


def _overdue(record: Recorded, now: datetime) -> dict[str, Any] | None:
    """Return the limit that a live run has passed, and by how many seconds; None when it has passed none.

    A limit that is enforced ends the run within the grace period; one that has passed by more is not enforced.
    """
    started = record.status is Status.RUNNING
    name, since = ("timeout", record.started_at) if started else ("start_timeout", record.created_at)
    limit: float | None = getattr(record.settings, name)
    passed = seconds_between(since, now)
    live = started or record.status is Status.PENDING
    if not live or limit is None or passed is None or passed <= limit + record.settings.grace_period:
        return None
    return {"setting": name, "limit": limit, "passed_by": round(passed - limit, 3)}
