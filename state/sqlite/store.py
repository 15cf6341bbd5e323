"""The state of one project in a file of SQLite, behind the interface of ``Store``."""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from flowplan.schemas.errors import StateError
from flowplan.schemas.faults import point
from flowplan.schemas.runs import Recorded
from flowplan.state import rows
from flowplan.state.journal import Journal
from flowplan.state.location import FileLocation
from flowplan.state.sqlite import files, home, migrations
from flowplan.state.store import Store, moved_away, new_identity


class SqliteStore(Store):
    """An opened state in a file. One thread, one connection; commits are durable."""

    misfits = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, OverflowError)

    def __init__(self, path: Path, connection: sqlite3.Connection, *, read_only: bool) -> None:
        self.path = path
        self.location = FileLocation(path)
        self.read_only = read_only
        self._connection = connection
        self._file = files.identity(path)
        self._unsettled = False
        self.identify()

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def all(self, query: str, *values: Any) -> list[Any]:
        with files.explained(self.path):
            return self._connection.execute(query, values).fetchall()

    def identify(self) -> None:
        lineage, key, place = self.one("SELECT lineage, key, home FROM meta")
        [(self.lineage, self.key)] = self.decoded(lambda row: (str(uuid.UUID(row[0])), bytes(row[1])), [(lineage, key)])
        self.moved_to = (home.recorded(place) or home.Home("")).moved_to

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        with files.explained(self.path):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("ROLLBACK")

    def attempts_with_tails(self) -> Iterator[Recorded]:
        query = f"SELECT {rows.COLUMNS}, t.text FROM attempts a LEFT JOIN tails t USING (run_id) ORDER BY a.id"
        with files.explained(self.path):
            for row in self._connection.execute(query):
                yield from self.decoded(rows.decode, [row])

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        create: bool = False,
        read_only: bool = False,
        born: tuple[str, bytes] | None = None,
        anywhere: bool = False,
    ) -> SqliteStore:
        """Open the state at ``path``, see ``Location.open``; one that is made has the mode 0600, its directory 0700."""
        path = Path(path)
        if create and not cls.exists(path):
            with files.explained(path, new=True):
                files.make(path, partial(_empty, path, *(born or new_identity())))
        with files.explained(path):
            files.check(path, read_only=read_only)
            connection = files.connect(path, read_only=read_only)
            try:
                migrations.ready(connection, path, read_only=read_only)
                store = cls(path, connection, read_only=read_only)
                if not (anywhere or read_only):
                    store.check_home()
                return store
            except BaseException:
                connection.close()
                raise

    @classmethod
    def upgrade(cls, path: Path) -> tuple[int, int]:
        """Bring the file to the newest format, behind a backup; return the format before and after."""
        with files.explained(path):
            files.check(path, read_only=False)
            with contextlib.closing(files.connect(path, read_only=True)) as connection:
                before = migrations.format_of(connection, path)
        cls.open(path, anywhere=True).close()
        return before, len(migrations.STEPS)

    @staticmethod
    def exists(path: Path) -> bool:
        """Return whether there is something at ``path``, be it usable or not.

        Raises:
            StateError: this user may not look.
        """
        with files.explained(path):
            try:
                path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def check_home(self) -> None:
        known = home.recorded(self.one("SELECT home FROM meta")[0])
        if self.moved_to:
            raise moved_away(self.location, self.moved_to)
        self.moved_from = home.moved_from(known, self.path, self.lineage)
        self._unsettled = known != home.here(self.path)

    def here(self) -> dict[str, str | None]:
        return {"home": home.here(self.path).text()}

    def gone(self, place: str) -> dict[str, str | None]:
        return {"home": home.here(self.path)._replace(moved_to=place).text()}

    def compact(self) -> None:
        with files.explained(self.path):
            self._connection.execute("VACUUM")

    @contextlib.contextmanager
    def changing(self, what: str, run_ids: Collection[str] = ()) -> Iterator[Journal]:
        if self.read_only:
            raise StateError(f"the state {self.path} is open for reading only")
        point(f"state:{what}:before")
        with files.explained(self.path), _transaction(self._connection) as db:
            before, journal = db.total_changes, Journal(db)
            yield journal
            if db.total_changes != before:
                db.execute("UPDATE meta SET serial = serial + 1")
                if self._unsettled:
                    journal.identify(**self.here())
            if files.identity(self.path) != self._file:
                raise StateError(f"the state {self.path} has vanished or was replaced", hint=rows.REBUILD)
            point(f"state:{what}:written")
        point(f"state:{what}:after")


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All or nothing, durable at its end, with the write lock from its beginning."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        db.rollback()  # nothing happens where the error has undone the transaction already
        raise


def _empty(path: Path, lineage: str, key: bytes, connection: sqlite3.Connection) -> None:
    db = migrations.database(connection)
    draft = Path(connection.execute("PRAGMA database_list").fetchone()[2])  # it keeps its inode when it gets its name
    with db.atomic():
        migrations.run_steps(db, migrations.STEPS)
        connection.execute(
            "INSERT INTO meta (id, lineage, key, serial, created_at, home) VALUES (1, ?, ?, 0, ?, ?)",
            (lineage, key, rows.now(), home.here(draft, path).text()),
        )
    # Only now: a log that cannot be copied into the file, because the disk is full, must not be left out of it.
    db.execute("PRAGMA journal_mode = WAL")
