"""The removal of old attempts and plans for good; numbers that were used stay used."""

from __future__ import annotations

from typing import NamedTuple

from flowplan.schemas.runs import Status
from flowplan.state import rows
from flowplan.state.journal import AT_REST
from flowplan.state.store import Store


class Pruned(NamedTuple):
    """What was removed, or would be.

    Attributes:
        attempts: address -> attempt numbers; events, plans: their numbers; bytes: size of the outputs and plans.
    """

    attempts: dict[str, list[int]]
    events: int
    plans: int
    bytes: int


def prune(store: Store, before: str, *, dry_run: bool = False) -> Pruned:
    """Remove attempts of which nothing happened since ``before`` for good, and plans that were applied before.

    An attempt stays while it lives, while its object may be on an engine, and while it is the newest of a managed address.
    The counters of attempts stay too, so that no run id is ever given twice, and so does the newest event, after which
    the next one is numbered. A plan stays while something waits. The room of what was removed is given back to the disk.

    Args:
        before: RFC 3339, UTC.
    """
    with store.changing("prune") as journal:
        ended = rows.dumps([str(status) for status in Status if status.final])
        found = journal.db.execute(
            "SELECT a.run_id, a.address, a.attempt FROM attempts a"
            " WHERE a.present = 0 AND a.status IN (SELECT value FROM json_each(?))"
            " AND a.run_id NOT IN (SELECT run_id FROM records)"
            " AND coalesce((SELECT max(e.at) FROM events e WHERE e.run_id = a.run_id),"
            " json_extract(a.progress, '$.created_at'), '') < ? ORDER BY a.address, a.attempt",
            (ended, before),
        ).fetchall()
        numbers: dict[str, list[int]] = {}
        for _, address, attempt in found:
            numbers.setdefault(address, []).append(attempt)
        gone = (rows.dumps([run_id for run_id, _, _ in found]),)
        among = "run_id IN (SELECT value FROM json_each(?))"
        old_events = f"{among} AND seq < (SELECT max(seq) FROM events)"
        (events,) = journal.db.execute(f"SELECT count(*) FROM events WHERE {old_events}", gone).fetchone()
        (size,) = journal.db.execute(f"SELECT coalesce(sum(length(text)), 0) FROM tails WHERE {among}", gone).fetchone()
        applied_before = "json_extract(accepted, '$.by.since') < ?"
        (plans, documents) = journal.db.execute(
            f"SELECT count(*), coalesce(sum(length(document)), 0) FROM plans WHERE {applied_before} AND {AT_REST}",
            (before,),
        ).fetchone()
        if not dry_run and plans:
            journal.forget_plans(applied_before, before)
        if not dry_run and found:
            journal.db.execute(f"DELETE FROM events WHERE {old_events}", gone)
            journal.db.execute(f"DELETE FROM tails WHERE {among}", gone)
            journal.db.execute(f"DELETE FROM attempts WHERE {among}", gone)
    if (found or plans) and not dry_run:
        store.compact()
    return Pruned(numbers, events, plans, size + documents)
