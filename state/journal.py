"""The writes of which the state's transactions are made; each is one statement over many rows, whatever their number."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from flowplan.schemas.events import Event
from flowplan.schemas.runs import Recorded
from flowplan.state import rows
from flowplan.state.transitions import Written

PLANS_KEPT = 100
"""Of how many plans the state remembers what they did already."""


class Journal:
    """The writing side of one transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def put(self, items: Sequence[Recorded]) -> None:
        """Insert or replace attempts, each the newest at its address."""
        self.put_attempts(items)
        self.manage((item.address, item.run_id) for item in items)
        self.count((item.address, item.attempt) for item in items)

    def put_attempts(self, items: Iterable[Recorded]) -> None:
        """Insert or replace attempts."""
        self.db.executemany(
            "INSERT INTO attempts (run_id, address, attempt, status, present, outcome, progress, applied)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run_id) DO UPDATE SET address = excluded.address,"
            " status = excluded.status, present = excluded.present, outcome = excluded.outcome,"
            " progress = excluded.progress, applied = excluded.applied",
            map(rows.encode, items),
        )

    def put_outcomes(self, outcomes: Mapping[str, str]) -> None:
        """Write how attempts ended, by run id."""
        self.db.executemany(
            "UPDATE attempts SET outcome = ? WHERE run_id = ?", [(ended, run_id) for run_id, ended in outcomes.items()]
        )

    def manage(self, newest: Iterable[tuple[str, str]]) -> None:
        """Make attempts the newest at addresses: pairs of address and run id."""
        self.db.executemany(
            "INSERT INTO records (address, run_id) VALUES (?, ?)"
            " ON CONFLICT (address) DO UPDATE SET run_id = excluded.run_id",
            newest,
        )

    def unmanage(self, run_ids: Iterable[str]) -> None:
        """Delete the records whose newest attempt is among these; the attempts stay."""
        self.db.executemany("DELETE FROM records WHERE run_id = ?", [(run_id,) for run_id in run_ids])

    def count(self, used: Iterable[tuple[str, int]]) -> None:
        """Remember that attempt numbers have been used at addresses."""
        self.db.executemany(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT (address) DO UPDATE SET attempt = excluded.attempt"
            " WHERE excluded.attempt > counters.attempt",
            used,
        )

    def write(self, change: Written) -> list[Event]:
        """Write the progress of attempts, and append its events; return these."""
        self.db.executemany(
            "UPDATE attempts SET status = ?, present = ?, outcome = ?, progress = ? WHERE run_id = ?",
            [
                (str(p.status), int(p.present), p.outcome or None, rows.encode_progress(p), run_id)
                for run_id, p in change.progress.items()
            ],
        )
        return self.append(change.events)

    def append(self, events: Sequence[Event]) -> list[Event]:
        """Write events behind those that are there; return them with their numbers and time."""
        (last,) = self.db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
        at = rows.now()
        numbered = [
            replace(event, seq=seq, at=at, reason=rows.clean(event.reason), message=rows.clean(event.message))
            for seq, event in enumerate(events, start=last + 1)
        ]
        self.put_events(numbered)
        return numbered

    def put_events(self, events: Iterable[Event]) -> None:
        """Insert events as they are."""
        self.db.executemany(
            f"INSERT INTO events ({rows.EVENT_COLUMNS}, run) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            map(rows.event_row, events),
        )

    def put_tails(self, texts: Mapping[str, str]) -> None:
        """Write the ends of outputs; run ids that are not recorded are ignored."""
        self.db.executemany(
            "INSERT OR REPLACE INTO tails SELECT run_id, ? FROM attempts WHERE run_id = ?",
            [(rows.tail(text), run_id) for run_id, text in texts.items()],
        )

    def apply(self, texts: Mapping[str, str]) -> None:
        """Write what was applied, as JSON by run id."""
        self.db.executemany(
            "UPDATE attempts SET applied = ? WHERE run_id = ?", [(text, run_id) for run_id, text in texts.items()]
        )

    def absent(self, run_ids: Iterable[str]) -> None:
        """Write that the objects of attempts are not on their engine."""
        self.db.executemany(
            "UPDATE attempts SET present = 0 WHERE run_id = ? AND present = 1", [(run_id,) for run_id in run_ids]
        )

    def move(self, moves: Mapping[str, str]) -> None:
        """Give records, attempts and events another address, and count the numbers of the old one there."""
        renamed = [(new, old) for old, new in moves.items()]
        self.db.executemany("UPDATE records SET address = ? WHERE address = ?", renamed)
        self.db.executemany("UPDATE attempts SET address = ? WHERE address = ?", renamed)
        self.db.executemany(
            "UPDATE events SET address = ?, run = ? WHERE address = ?",
            [(new, rows.run_of(new), old) for new, old in renamed],
        )
        self.db.executemany(
            "INSERT INTO counters SELECT ?, attempt FROM counters WHERE address = ?"
            " ON CONFLICT (address) DO UPDATE SET attempt = max(counters.attempt, excluded.attempt)",
            renamed,
        )

    def carried_out(self, plan_digest: str, addresses: Sequence[str]) -> None:
        """Remember that a plan's changes of these addresses are done; without a digest, nothing happens."""
        if not plan_digest or not addresses:
            return
        self.db.execute("INSERT OR IGNORE INTO plans (digest) VALUES (?)", (plan_digest,))
        (plan,) = self.db.execute("SELECT id FROM plans WHERE digest = ?", (plan_digest,)).fetchone()
        self.db.executemany("INSERT OR IGNORE INTO progress VALUES (?, ?)", [(plan, address) for address in addresses])
        oldest = "SELECT coalesce(max(id), 0) - ? FROM plans"
        self.db.execute(f"DELETE FROM progress WHERE plan <= ({oldest})", (PLANS_KEPT,))
        self.db.execute(f"DELETE FROM plans WHERE id <= ({oldest})", (PLANS_KEPT,))

    def note(self, texts: Mapping[str, str]) -> None:
        """Keep JSON documents under names; one that is there already stays as it is."""
        self.db.executemany("DELETE FROM notes WHERE name = ? AND document <> ?", texts.items())
        self.db.executemany("INSERT OR IGNORE INTO notes (name, document) VALUES (?, ?)", texts.items())

    def identify(self, **columns: object) -> None:
        """Write what the state is: its lineage, key, project, serial or home."""
        terms = ", ".join(f"{column} = ?" for column in columns)
        self.db.execute(f"UPDATE meta SET {terms}", tuple(columns.values()))
