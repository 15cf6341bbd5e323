"""The commands that show how runs stand and stood: status and history; and how reading commands open a state."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime

from flowplan import documents
from flowplan.commands.arguments import check_format
from flowplan.commands.places import env_option
from flowplan.output import Output
from flowplan.project import Project
from flowplan.refreshing import refresh
from flowplan.render.units import duration
from flowplan.schemas.errors import Refused, StateFull
from flowplan.schemas.quantities import written_duration
from flowplan.schemas.runs import PROBLEMS, Status
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


def ask_engines(store: Store) -> None:
    """Record how the runs of a state stand on their engines now; an engine that does not answer is told."""
    with Project.of_state(store) as project:
        refresh(project)


def status(state: Location, addresses: Sequence[str], ask: bool, format: str, *, failed: bool, running: bool) -> None:
    """Show how every run stands, or only those that failed or run; with ``ask`` the engines are asked first."""
    from flowplan.render.tables import status_table

    check_format(format, ("text", "json"))
    only = [*((*PROBLEMS, "skipped") if failed else ()), *((s for s in Status if s.live) if running else ())]
    with closing(opened(state)) as store:
        if ask:
            ask_engines(store)
        document, plans = documents.status(store, addresses, only)
        where = env_option(store.environment)
    output = Output()
    if format == "json":
        output.document(document)
        return
    columns = width(sys.stdout) if sys.stdout.isatty() else None
    colour, now = use_colour(sys.stdout), datetime.now(UTC)
    output.lines(status_table(document["runs"], document["not_started"], width=columns, colour=colour, now=now))
    for run in document["runs"]:
        if late := run["overdue"]:
            limit = f"{late['setting']} of {written_duration(late['limit'])} passed {duration(late['passed_by'])} ago"
            output.note(
                f"warning: {run['address']}: {limit}, and nothing enforces it: flowplan does while it follows the run "
                "(`flowplan watch` ends it)"
            )
    for remark in filter(None, (plan.remark(*where) for plan in plans)):
        output.note(remark)


def history(state: Location, addresses: Sequence[str], since: datetime | None, failed: bool, format: str) -> None:
    """Print a block for each apply with a row for each attempt that it made, oldest first; no engine is asked.

    Args:
        since: only attempts that live, or of which something happened since then, and what was applied since then.
        failed: only attempts that failed, timed out or are lost.
    """
    from flowplan.render.tables import history_table

    check_format(format, ("text", "json"))
    with closing(opened(state)) as store:
        document = documents.history(store, addresses, since=since, failed=failed)
    output = Output()
    if format == "json":
        output.document(document)
        return
    columns, now = width(sys.stdout) if sys.stdout.isatty() else None, datetime.now(UTC)
    output.lines(
        history_table(document["applies"], document["attempts"], width=columns, colour=use_colour(sys.stdout), now=now)
    )
