"""The writes of which the state's transactions are made; each is one statement over many rows, whatever their number."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from flowplan.schemas.accepted import Accepted, Held, StepPhase
from flowplan.schemas.events import Event
from flowplan.schemas.runs import Recorded
from flowplan.state import rows
from flowplan.state.transitions import Written

PLANS_KEPT = 100
"""How many plans the state keeps, with what they did already."""

AT_REST = f"NOT EXISTS (SELECT 1 FROM steps WHERE plan = plans.id AND {rows.OPEN_STEPS})"
"""The condition of plans of which nothing waits."""


class Database(Protocol):
    """What a transaction needs of a connection, which one of SQLite has."""

    def execute(self, query: str, values: Sequence[Any] = (), /) -> Any:
        """Carry a statement out; return a cursor of its rows, with ``fetchone`` and ``fetchall``."""

    def executemany(self, query: str, many: Iterable[Sequence[Any]], /) -> Any:
        """Carry a statement out for each of many rows."""


class Journal:
    """The writing side of one transaction. Its statements are such that SQLite and PostgreSQL take them."""

    def __init__(self, db: Database) -> None:
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
            "INSERT INTO counters (address, attempt) VALUES (?, ?) ON CONFLICT (address) DO UPDATE SET attempt = excluded.attempt"
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
        last, at = self.last_seq(), rows.now()
        numbered = [
            event._replace(seq=seq, at=at, reason=rows.clean(event.reason), message=rows.clean(event.message))
            for seq, event in enumerate(events, start=last + 1)
        ]
        self.put_events(numbered)
        return numbered

    def last_seq(self) -> int:
        """Return the number of the newest event, 0 when there is none."""
        return int(self.db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0])

    def put_events(self, events: Iterable[Event]) -> None:
        """Insert events as they are."""
        self.db.executemany(
            f"INSERT INTO events ({rows.EVENT_COLUMNS}, run) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            map(rows.event_row, events),
        )

    def put_tails(self, texts: Mapping[str, str]) -> None:
        """Write the ends of outputs; run ids that are not recorded are ignored."""
        self.db.executemany(
            "INSERT INTO tails (run_id, text) SELECT run_id, ? FROM attempts WHERE run_id = ?"
            " ON CONFLICT (run_id) DO UPDATE SET text = excluded.text",
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
            "INSERT INTO counters (address, attempt) SELECT ?, attempt FROM counters WHERE address = ?"
            " ON CONFLICT (address) DO UPDATE SET attempt = excluded.attempt WHERE excluded.attempt > counters.attempt",
            renamed,
        )

    def put_plan(self, plan: Accepted) -> None:
        """Insert a plan with its steps; of one that is there already, document and begun steps stay as they are."""
        self.db.execute(
            "INSERT INTO plans (digest, accepted, left_at, document) VALUES (?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE"
            " SET accepted = excluded.accepted, left_at = excluded.left_at,"
            " document = coalesce(plans.document, excluded.document)",
            (plan.digest, rows.acceptance(plan) if plan.by else None, plan.left_at, plan.document or None),
        )
        [number] = self.db.execute("SELECT id FROM plans WHERE digest = ?", (plan.digest,)).fetchone()
        self.db.executemany(
            "INSERT INTO steps (address, place, phase, why, until, step, plan) VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (plan, address) DO UPDATE SET place = excluded.place, phase = excluded.phase,"
            " why = excluded.why, until = excluded.until, step = excluded.step"
            " WHERE steps.phase NOT IN ('started', 'done')",
            ((*rows.step_row(step), number) for step in plan.steps),
        )
        self.forget_plans("id NOT IN (SELECT id FROM plans ORDER BY id DESC LIMIT ?)", PLANS_KEPT)

    def hold(self, plan_digest: str, held: Mapping[str, Held]) -> None:
        """Write what holds the steps of a plan back, by address; one that has begun or was dropped stays as it is."""
        self.db.executemany(
            f"UPDATE steps SET phase = ?, why = ?, until = ? WHERE address = ? AND {rows.OPEN_STEPS}"
            " AND plan = (SELECT id FROM plans WHERE digest = ?)",
            [(str(h.phase), rows.clean(h.why), h.until, address, plan_digest) for address, h in held.items()],
        )

    def drop(self, addresses: Collection[str] | None, why: str) -> None:
        """End what has not begun at these addresses, None for all."""
        among = "" if addresses is None else " AND address IN (SELECT value FROM json_each(?))"
        values = [] if addresses is None else [rows.dumps(list(addresses))]
        self.db.execute(f"UPDATE steps SET phase = 'dropped', why = ? WHERE {rows.OPEN_STEPS}{among}", (why, *values))

    def leave(self, plan: Accepted) -> None:
        """Write that whoever accepted a plan works on it no more, unless all of its steps have begun."""
        self.db.execute(
            f"UPDATE plans SET left_at = ? WHERE digest = ? AND accepted = ? AND NOT ({AT_REST})",
            (rows.now(), plan.digest, rows.acceptance(plan)),
        )

    def carried_out(self, plan_digest: str, addresses: Sequence[str], phase: StepPhase = StepPhase.DONE) -> None:
        """Remember that a plan's changes of these addresses have begun, or are done; without a digest, nothing happens."""
        if not plan_digest or not addresses:
            return
        self.db.execute("INSERT INTO plans (digest) VALUES (?) ON CONFLICT DO NOTHING", (plan_digest,))
        self.db.execute(
            "INSERT INTO steps (plan, address, phase)"
            " SELECT id, value, ? FROM plans, (SELECT value FROM json_each(?)) a WHERE digest = ?"
            " ON CONFLICT (plan, address) DO UPDATE"
            " SET phase = excluded.phase, why = '', until = NULL, step = '{}' WHERE steps.phase <> excluded.phase",
            (str(phase), rows.dumps(list(dict.fromkeys(addresses))), plan_digest),
        )

    def forget_plans(self, which: str, value: object) -> None:
        """Delete the plans that a condition is about; one of which something waits stays."""
        for table, column in (("steps", "plan"), ("plans", "id")):
            self.db.execute(
                f"DELETE FROM {table} WHERE {column} IN (SELECT id FROM plans WHERE {which} AND {AT_REST})", (value,)
            )

    def note(self, texts: Mapping[str, str]) -> None:
        """Keep JSON documents under names; one that is there already stays as it is."""
        self.db.executemany("DELETE FROM notes WHERE name = ? AND document <> ?", texts.items())
        self.db.executemany("INSERT INTO notes (name, document) VALUES (?, ?) ON CONFLICT DO NOTHING", texts.items())

    def identify(self, **columns: object) -> None:
        """Write what the state is: its lineage, key, project, serial or home."""
        terms = ", ".join(f"{column} = ?" for column in columns)
        self.db.execute(f"UPDATE meta SET {terms}", tuple(columns.values()))
