"""The whole state as one JSON document, out and in: `flowplan state pull` and `push`."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from flowplan.schemas.errors import InvalidInput, Refused
from flowplan.schemas.events import Event
from flowplan.schemas.runs import Recorded, Status
from flowplan.state import rows
from flowplan.state.shapes import checked

if TYPE_CHECKING:
    from flowplan.state.store import Store

FORMAT = 1
KEY_BYTES = 32
_NAMES = tuple(f.name for f in fields(Recorded))


def dump(store: Store, db: sqlite3.Connection, *, with_key: bool) -> Iterator[str]:
    """Everything in the state at one moment, as lines of one JSON document; the key only when asked for.

    Attempts and events are read one after the other, so that the size of the state does not matter.
    """
    db.execute("BEGIN")
    try:
        heads = {
            "flowplan_state": FORMAT,
            "lineage": store.lineage,
            "serial": store.serial,
            "project": store.project,
            **({"key": store.key.hex()} if with_key else {}),
            "records": db.execute("SELECT address, run_id FROM records ORDER BY id").fetchall(),
            "counters": store.last_attempts(),
            "outcomes": dict(db.execute("SELECT run_id, outcome FROM attempts WHERE outcome IS NOT NULL").fetchall()),
            "notes": dict(db.execute("SELECT name, document FROM notes").fetchall()),
        }
        yield "{"
        yield from (f" {json.dumps(name)}: {json.dumps(value)}," for name, value in heads.items())
        yield from _list("attempts", map(_plain, _with_tails(store, db)))
        yield ","
        yield from _list("events", (event.document() for event in store.events()))
        yield "}"
    finally:
        db.execute("ROLLBACK")


def _list(name: str, items: Iterable[dict[str, Any]]) -> Iterator[str]:
    yield f" {json.dumps(name)}: ["
    separator = ""
    for item in items:
        yield f"{separator}{json.dumps(item)}"
        separator = ","
    yield " ]"


def load(store: Store, db: sqlite3.Connection, document: Mapping[str, Any]) -> None:
    """Replace everything inside the caller's transaction.

    Raises:
        InvalidInput: it is not a dump.
        Refused: it is of another lineage (unless this state is empty) or older than this state.
    """
    try:
        lineage, serial = str(uuid.UUID(document["lineage"])), int(document["serial"])
        _check(store, db, lineage, serial, document)
        _replace(db, document)
        key = _key(document) or store.key
        db.execute(
            "UPDATE meta SET lineage = ?, key = ?, project = ?, serial = ?",
            (lineage, key, document["project"], max(serial, store.serial)),
        )
    except (
        *rows.UNREADABLE,
        sqlite3.IntegrityError,
        sqlite3.ProgrammingError,
        sqlite3.InterfaceError,
        OverflowError,
    ) as error:
        raise InvalidInput(
            f"this is not a dump of a state ({error})", hint="`flowplan state pull` writes one"
        ) from error


def _key(document: Mapping[str, Any]) -> bytes:
    key = bytes.fromhex(document.get("key", ""))
    if len(key) not in (0, KEY_BYTES):
        raise ValueError(f"a key of {len(key)} bytes")
    return key


def _check(store: Store, db: sqlite3.Connection, lineage: str, serial: int, document: Mapping[str, Any]) -> None:
    if document["flowplan_state"] != FORMAT:
        raise InvalidInput(
            f"this dump has format {document['flowplan_state']!r}, this flowplan knows {FORMAT}",
            hint="upgrade flowplan",
        )
    used = db.execute("SELECT EXISTS (SELECT 1 FROM attempts)").fetchone()[0]
    if lineage != store.lineage and used:
        raise Refused(
            f"the dump is of lineage {lineage}, the state {store.path} of {store.lineage}",
            hint="push it to an empty state",
        )
    if lineage == store.lineage and serial < store.serial:
        raise Refused(
            f"the dump has serial {serial}, the state {store.path} has {store.serial} and is newer",
            hint="pull again and repeat the change",
        )


def _replace(db: sqlite3.Connection, document: Mapping[str, Any]) -> None:
    for table in ("records", "attempts", "tails", "counters", "events", "progress", "plans", "notes"):
        db.execute(f"DELETE FROM {table}")
    attempts = [_recorded(plain) for plain in document["attempts"]]
    outcomes = document["outcomes"]
    db.executemany(
        "INSERT INTO attempts (run_id, address, attempt, status, present, outcome, progress, applied)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [(*row[:5], outcomes.get(row[0]), *row[6:]) for row in map(rows.encode, attempts)],
    )
    tails = [(a.run_id, rows.tail(a.output_tail)) for a in attempts if a.output_tail]
    db.executemany("INSERT INTO tails VALUES (?, ?)", tails)
    known = {a.run_id for a in attempts}
    if not all(run_id in known for _address, run_id in document["records"]):
        raise ValueError("a record without its attempt")
    db.executemany("INSERT INTO records (address, run_id) VALUES (?, ?)", document["records"])
    db.executemany("INSERT INTO counters VALUES (?, ?)", list(document["counters"].items()))
    db.executemany("INSERT INTO notes VALUES (?, ?)", list(document.get("notes", {}).items()))
    events = [Event(**checked(plain)) for plain in document["events"]]
    db.executemany(
        f"INSERT INTO events ({rows.EVENT_COLUMNS}, run) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(*rows.event_row(event), rows.run_of(event.address)) for event in events],
    )


def _with_tails(store: Store, db: sqlite3.Connection) -> Iterator[Recorded]:
    query = f"SELECT {rows.COLUMNS}, t.text FROM attempts a LEFT JOIN tails t USING (run_id) ORDER BY a.id"
    for row in db.execute(query):
        yield from store._decoded(rows.decode, [row])


def _plain(record: Recorded) -> dict[str, Any]:
    plain = {name: getattr(record, name) for name in _NAMES}
    return plain | {
        "status": str(record.status),
        "settings": rows.encode_settings(record.settings),
        "target": dict(record.target),
        **{name: dict(getattr(record, name)) for name in ("handle", "image", "remarks")},
    }


def _recorded(plain: Mapping[str, Any]) -> Recorded:
    settings = rows.decode_settings(plain["settings"])
    return Recorded(**{**checked(plain), "status": Status(plain["status"]), "settings": settings})
