"""The writes of which the state's transactions are made; each is one statement over many rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from flowplan.schemas.events import Event
from flowplan.schemas.lifecycle import Progress
from flowplan.schemas.runs import Recorded, Status
from flowplan.state import rows

PLANS_KEPT = 100
"""Of how many plans the state remembers what they did already."""


class Draft(NamedTuple):
    """An event before it has its number and time."""

    address: str
    run_id: str
    attempt: int
    status: Status
    reason: str = ""
    message: str = ""
    engine_at: str | None = None


def put(db: sqlite3.Connection, items: Sequence[Recorded]) -> None:
    """Insert or replace attempts, each the newest at its address."""
    db.executemany(
        "INSERT INTO attempts (run_id, address, attempt, status, present, outcome, progress, applied)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run_id) DO UPDATE SET address = excluded.address,"
        " status = excluded.status, present = excluded.present, outcome = excluded.outcome,"
        " progress = excluded.progress, applied = excluded.applied",
        [rows.encode(item) for item in items],
    )
    db.executemany(
        "INSERT INTO records (address, run_id) VALUES (?, ?) ON CONFLICT (address) DO UPDATE SET run_id = excluded.run_id",
        [(item.address, item.run_id) for item in items],
    )
    count(db, [(item.address, item.attempt) for item in items])


def count(db: sqlite3.Connection, used: Iterable[tuple[str, int]]) -> None:
    """Remember that attempt numbers have been used at addresses."""
    db.executemany(
        "INSERT INTO counters VALUES (?, ?) ON CONFLICT (address) DO UPDATE SET attempt = excluded.attempt"
        " WHERE excluded.attempt > counters.attempt",
        used,
    )


def save(db: sqlite3.Connection, changed: Mapping[str, Progress]) -> None:
    """Write the progress of attempts."""
    db.executemany(
        "UPDATE attempts SET status = ?, present = ?, outcome = ?, progress = ? WHERE run_id = ?",
        [
            (str(p.status), int(p.present), p.outcome or None, rows.encode_progress(p), run_id)
            for run_id, p in changed.items()
        ],
    )


def append(db: sqlite3.Connection, drafts: Sequence[Draft]) -> list[Event]:
    """Number events and write them; returns them."""
    (last,) = db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
    at = rows.now()
    events = [
        Event(
            n,
            at,
            d.engine_at,
            d.address,
            d.run_id,
            d.attempt,
            str(d.status),
            *map(rows.clean, (d.reason, d.message)),
        )
        for n, d in enumerate(drafts, start=last + 1)
    ]
    db.executemany(
        f"INSERT INTO events ({rows.EVENT_COLUMNS}, run) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(*rows.event_row(event), rows.run_of(event.address)) for event in events],
    )
    return events


def unmanage(db: sqlite3.Connection, run_ids: Iterable[str]) -> None:
    """Delete the records whose newest attempt is among these; the attempts stay."""
    db.executemany("DELETE FROM records WHERE run_id = ?", [(run_id,) for run_id in run_ids])


def carried_out(db: sqlite3.Connection, plan_digest: str, addresses: Sequence[str]) -> None:
    """Remember that a plan's changes of these addresses are done; without a digest, nothing happens."""
    if not plan_digest or not addresses:
        return
    db.execute("INSERT OR IGNORE INTO plans (digest) VALUES (?)", (plan_digest,))
    (plan,) = db.execute("SELECT id FROM plans WHERE digest = ?", (plan_digest,)).fetchone()
    db.executemany("INSERT OR IGNORE INTO progress VALUES (?, ?)", [(plan, address) for address in addresses])
    oldest = "SELECT coalesce(max(id), 0) - ? FROM plans"
    db.execute(f"DELETE FROM progress WHERE plan <= ({oldest})", (PLANS_KEPT,))
    db.execute(f"DELETE FROM plans WHERE id <= ({oldest})", (PLANS_KEPT,))


def put_tails(db: sqlite3.Connection, texts: Mapping[str, str]) -> None:
    """Write the ends of outputs; run ids that nobody knows are ignored."""
    db.executemany(
        "INSERT OR REPLACE INTO tails SELECT run_id, ? FROM attempts WHERE run_id = ?",
        [(rows.tail(text), run_id) for run_id, text in texts.items()],
    )
