"""The command that reads the state and asks engines: status; and how reading commands open a state and find runs."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from flowplan.commands.arguments import check_format
from flowplan.left import Left, left
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
    found = _meant({address: record.settings.group for address, record in records.items()}, addresses)
    return {address: record for address, record in records.items() if address in found}


def _meant(groups: Mapping[str, str], addresses: Sequence[str]) -> set[str]:
    """Return which addresses, given with the name of their run, are meant.

    Raises:
        InvalidInput: one means nothing.
    """
    found: set[str] = set()
    for pattern in addresses:
        matches = {address for address, group in groups.items() if names(pattern, address, group)}
        if not matches:
            raise unknown_address(pattern, groups)
        found |= matches
    return found if addresses else set(groups)


def unknown_address(address: str, known: Iterable[str]) -> InvalidInput:
    """Return the error for an address that nothing is recorded at."""
    hint = did_you_mean(address, known) or "`flowplan state list` shows the addresses"
    return InvalidInput(f"nothing is recorded at {address}", hint=hint)


def status(state: Location, addresses: Sequence[str], ask: bool, format: str, *, failed: bool, running: bool) -> None:
    """Show how every run stands, or only those that failed or run; with ``ask`` the engines are asked first."""
    from flowplan.render.tables import status_table

    check_format(format, ("text", "json"))
    only = [*((*PROBLEMS, "skipped") if failed else ()), *((s for s in Status if s.live) if running else ())]
    with closing(opened(state)) as store:
        if ask:
            with Project.of_state(store) as project:
                refresh(project)
        document, plans = status_document(store, addresses, only)
    output = Output()
    if format == "json":
        output.document(document)
        return
    columns = width(sys.stdout) if sys.stdout.isatty() else None
    colour, now = use_colour(sys.stdout), datetime.now(UTC)
    output.lines(status_table(document["runs"], document["not_started"], width=columns, colour=colour, now=now))
    for run in document["runs"]:
        if late := run["overdue"]:
            limit = f"{late['setting']} of {late['limit']:g}s passed {late['passed_by']:.0f}s ago"
            output.note(
                f"warning: {run['address']}: {limit}, and nothing enforces it: flowplan does while it follows the run "
                "(`flowplan watch` ends it)"
            )
    for remark in filter(None, (plan.remark() for plan in plans)):
        output.note(remark)


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


def status_document(
    store: Store, addresses: Sequence[str] = (), only: Collection[str] = ()
) -> tuple[dict[str, Any], list[Left]]:
    """Return what ``status --format json`` prints, and the plans that have something left to do there.

    Args:
        addresses: the runs that are asked for; none for all. only: the statuses that are; none for all.
    """
    now = datetime.now(UTC)
    records = store.records()
    plans = left(store, records)
    steps = {step.address: step for plan in plans for step in plan.steps}
    groups = {address: record.settings.group for address, record in records.items()}
    groups |= {address: step.group for address, step in steps.items()}
    meant = _meant(groups, addresses)
    of_spec = {address: n for n, address in enumerate(store.recall("order").get("addresses", ()))}
    ordered = sorted(groups, key=lambda address: of_spec.get(address, len(of_spec)))
    runs, unbegun = [], []
    for place, address in enumerate(address for address in ordered if address in meant):
        record, step = records.get(address), steps.get(address)
        if record and (not only or record.status in only):
            document = encode(record)
            runs.append({**{name: document[name] for name in _RUN}, "overdue": _overdue(record, now), "place": place})
        if step and (not only or step.status in only):
            unbegun.append({**encode(step), "place": place})
    plans = [plan for plan in plans if any(step.address in meant for step in plan.steps)]
    head = {"format_version": FORMAT_VERSION, "project": store.project, "serial": store.serial}
    return {**head, "runs": runs, "not_started": unbegun, "plans": [plan.document() for plan in plans]}, plans


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
