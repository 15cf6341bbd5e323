"""Empty states of each kind, for the tests that all of them have to pass, and what tests write into them."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowplan.schemas.runs import Observed, Recorded, Settings, Status, run_id
from flowplan.state import ownership, rows, transfer
from flowplan.state.location import located
from flowplan.state.sqlite.store import SqliteStore
from flowplan.state.store import Store

KINDS = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@contextlib.contextmanager
def fresh(kind: str, directory: Path) -> Iterator[Store]:
    """Open an empty state of a kind; that in a database is one of its own project, which is removed afterwards."""
    if kind == "sqlite":
        with contextlib.closing(SqliteStore.open(directory / "state.db", create=True)) as store:
            yield store
        return
    project = f"contract-{uuid.uuid4().hex[:8]}"
    location = located(f"{os.environ['POSTGRES']}?project={project}", directory / "state.db")
    try:
        with contextlib.closing(location.open(create=True)) as store:
            yield store
    finally:
        sql("DELETE FROM flowplan.states WHERE project = %s", project)
        location.close()


def sql(query: str, *values: object, url: str = "") -> list[tuple[Any, ...]]:
    """Carry a statement out as the owner of the database, in a connection of its own."""
    import psycopg

    with psycopg.connect(url or os.environ["POSTGRES"], autocommit=True) as connection:
        cursor = connection.execute(query, values)
        return cursor.fetchall() if cursor.description else []


def dumped(store: Store, *, with_key: bool = False) -> Any:
    """Parse what `flowplan state pull` prints."""
    return json.loads("".join(transfer.dump(store, with_key=with_key)))


def record(store: Store, address: str, attempt: int = 1, **changes: Any) -> Recorded:
    known: dict[str, Any] = {
        "address": address,
        "provider": "process",
        "type": "process",
        "target": {"type": "process", "id": "host/boot", "label": "host"},
        "attempt": attempt,
        "run_id": run_id(store.lineage, address, attempt),
        "name": f"p-{address}-{attempt}",
        "objects": {"Process": {"argv": ["true"], "env": {"Ä": "ö\ud800"}}},
        "settings": Settings(group=rows.run_of(address), needs=("a",), timeout=6.5, triggers={"k": "v"}),
        "status": Status.CREATING,
    }
    return Recorded(**known | changes)


def started(store: Store, address: str, attempt: int = 1, status: Status = Status.RUNNING, **facts: Any) -> Recorded:
    item = record(store, address, attempt)
    store.intend([item])
    store.observe([Observed(item.run_id, status=status, **facts)])
    return item


def now(store: Store, run: str) -> Recorded:
    [found] = store.attempts(run_id=run)
    return found


def told(store: Store, address: str | None = None) -> list[tuple[str, str]]:
    return [(event.status, event.reason) for event in store.events(address)]


def full(store: Store) -> None:
    ownership.claim_project(store, store.project or "p")
    item = started(store, "a[i=1]", status=Status.FAILED, exit_code=3)
    store.set_tails({item.run_id: "tail"})
    store.destroyed([started(store, "b", status=Status.SUCCEEDED).run_id])
    started(store, "a[i=1]", 2)


def shown(store: Store) -> tuple[Any, ...]:
    identity = (store.lineage, store.key, store.project)
    return (*identity, store.records(), store.attempts(), list(store.events()), store.history(), store.last_attempts())
