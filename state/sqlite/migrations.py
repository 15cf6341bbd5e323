"""The format of the state's database: numbered steps, each recorded, applied at once behind a backup."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from flowplan.schemas.errors import StateError
from flowplan.state.rows import UNREADABLE
from flowplan.state.sqlite import files

if TYPE_CHECKING:
    from sqlite_utils import Database

APPLICATION_ID = 0x666C6F77
"""``flow``: the mark in the file's header that makes it a state of flowplan."""


def first(db: Database) -> None:
    """Format 1: meta, records, attempts, tails, counters, events, plans and their progress, notes."""
    db.table("meta").create(
        {"id": int, "lineage": str, "key": bytes, "project": str, "serial": int, "created_at": str},
        pk="id",
        not_null={"lineage", "key", "serial", "created_at"},
        strict=True,
    )
    db.table("records").create(
        {"id": int, "address": str, "run_id": str}, pk="id", not_null={"address", "run_id"}, strict=True
    )
    db.table("records").create_index(["address"], unique=True)
    db.table("records").create_index(["run_id"], unique=True)
    attempt = {"address": str, "run_id": str, "attempt": int, "status": str, "present": int}
    db.table("attempts").create(
        {"id": int, **attempt, "outcome": str, "progress": str, "applied": str},
        pk="id",
        not_null={*attempt, "progress", "applied"},
        strict=True,
    )
    db.table("attempts").create_index(["run_id"], unique=True)
    db.table("attempts").create_index(["address", "id"])
    db.execute("CREATE INDEX attempts_present ON attempts(id) WHERE present = 1")
    db.table("tails").create({"run_id": str, "text": str}, pk="run_id", not_null={"text"}, strict=True)
    db.table("counters").create({"address": str, "attempt": int}, pk="address", not_null={"attempt"}, strict=True)
    _events(db)
    db.table("plans").create({"id": int, "digest": str}, pk="id", not_null={"digest"}, strict=True)
    db.table("plans").create_index(["digest"], unique=True)
    db.table("progress").create({"plan": int, "address": str}, pk=("plan", "address"), strict=True)
    db.table("notes").create({"name": str, "document": str}, pk="name", not_null={"document"}, strict=True)


def _events(db: Database) -> None:
    event = {"at": str, "address": str, "run": str, "run_id": str, "attempt": int, "status": str}
    db.table("events").create(
        {"seq": int, "engine_at": str, **event, "reason": str, "message": str},
        pk="seq",
        not_null={*event, "reason", "message"},
        strict=True,
    )
    db.table("events").create_index(["address", "seq"])
    db.table("events").create_index(["run", "seq"])
    db.table("events").create_index(["run_id", "seq"])


def second(db: Database) -> None:
    """Format 2: the state knows its home, see ``state/home.py``."""
    db.table("meta").add_column("home", str)


def third(db: Database) -> None:
    """Format 3: the directory of a process is relative to its spec, unless the spec says an absolute one."""
    note = db.execute("SELECT document FROM notes WHERE name = 'spec'").fetchone()
    for number, text in db.execute("SELECT id, applied FROM attempts").fetchall() if note else ():
        with contextlib.suppress(*UNREADABLE):  # told by the command that needs it
            document = json.loads(text)
            process = document["objects"]["Process"]
            within = PurePosixPath(process["cwd"]).relative_to(json.loads(note[0])["directory"])
            process["cwd"] = str(within)
            db.execute("UPDATE attempts SET applied = ? WHERE id = ?", (json.dumps(document), number))


def fourth(db: Database) -> None:
    """Format 4: applied plans are kept whole, with how far each of their steps is, see ``state/acceptance.py``."""
    for column in ("accepted", "left_at", "document"):
        db.table("plans").add_column(column, str)
    db.table("steps").create(
        {"plan": int, "address": str, "place": int, "phase": str, "why": str, "until": str, "step": str},
        pk=("plan", "address"),
        not_null={"place", "phase", "why", "step"},
        defaults={"place": 0, "why": "", "step": "{}"},
        strict=True,
    )
    db.execute("CREATE INDEX steps_open ON steps(plan, place) WHERE phase IN ('waiting', 'skipped')")
    db.execute("INSERT INTO steps (plan, address, phase) SELECT plan, address, 'done' FROM progress")
    db.table("progress").drop()


Step = Callable[["Database"], None]

STEPS: tuple[Step, ...] = (first, second, third, fourth)
"""The steps from format n-1 to format n, n from 1; a published step never changes."""


def database(connection: sqlite3.Connection) -> Database:
    """Return the sqlite-utils view of a connection; imported here because reading does without it and it takes 45 ms."""
    from sqlite_utils import Database

    return Database(connection, execute_plugins=False, recursive_triggers=False)


def format_of(connection: sqlite3.Connection, path: Path) -> int:
    """Return the format of an opened state.

    Raises:
        StateError: it is a database of something else.
    """
    mark = connection.execute("PRAGMA application_id").fetchone()[0]
    if mark != APPLICATION_ID:
        raise StateError(f"the database {path} is not a state of flowplan", hint="--state names another file")
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return found


def ready(connection: sqlite3.Connection, path: Path, *, read_only: bool, steps: Sequence[Step] | None = None) -> None:
    """Bring a state to the newest format, with a backup copy ``<state>.backup-<format>`` before.

    Raises:
        StateError: its format is newer than this flowplan, or older and the state was opened for reading only.
    """
    steps = STEPS if steps is None else steps
    found, newest = format_of(connection, path), len(steps)
    if found > newest:
        raise StateError(
            f"the state {path} was written by a newer flowplan (format {found}, this one knows {newest})",
            hint="upgrade flowplan",
        )
    if found == newest:
        return
    if read_only:
        raise StateError(
            f"the state {path} has the older format {found}",
            hint="`flowplan apply` upgrades it and keeps a backup copy",
        )
    upgrade(connection, path, steps)


def upgrade(connection: sqlite3.Connection, path: Path, steps: Sequence[Step]) -> None:
    """Apply the missing steps in one transaction; other processes see the old format or the new one."""
    db = database(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = format_of(connection, path)
        if 0 < found < len(steps):
            backup(path, found)
        run_steps(db, steps)
        connection.execute("COMMIT")
    except BaseException:
        db.rollback()
        raise


def run_steps(db: Database, steps: Sequence[Step]) -> None:
    """Apply and record the steps that are missing, then write the format into the header."""
    from sqlite_utils import Migrations

    migrations = Migrations("flowplan")
    for number, step in enumerate(steps, start=1):
        migrations(name=f"{number:03d}")(step)
    migrations.apply(db)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {len(steps)}")


def backup(path: Path, number: int) -> Path:
    """Copy what is committed to ``<state>.backup-<number>`` (0600), whole or not at all."""
    import tempfile

    copy = path.with_name(f"{path.name}.backup-{number}")
    descriptor, name = tempfile.mkstemp(prefix=f".{copy.name}.", dir=path.parent)
    try:
        source, target = files.connect(path, read_only=True), sqlite3.connect(name)
        with contextlib.closing(source), contextlib.closing(target):
            source.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")
        os.fsync(descriptor)
        Path(name).replace(copy)
    finally:
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)
    files.sync_directory(path.parent)
    return copy
