"""A state in a database, as commands know it: which project, how to open it, and its lock."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from flowplan.schemas.errors import InvalidInput, Refused, StateError
from flowplan.state.location import WRITE, Location
from flowplan.state.postgres import address, lease, schema
from flowplan.state.postgres.session import Session

if TYPE_CHECKING:
    from flowplan.state.postgres.store import PostgresStore


class StateRow(NamedTuple):
    """What the server says of a state, and of what this user may do with it.

    Attributes:
        moved_to: "" while it is here; writes, sees_key: whether the user may; frozen: nobody may write on this server.
    """

    id: int
    lineage: str
    moved_to: str
    writes: bool
    sees_key: bool
    frozen: bool


_ROW = """
SELECT id, lineage, coalesce(moved_to, ''),
  has_table_privilege('flowplan.attempts', 'INSERT'), has_table_privilege('flowplan.keys', 'SELECT'),
  pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean
FROM flowplan.states WHERE project = %s AND environment = %s
"""


class DatabaseLocation(Location):
    """The state of one project in a database. The session and the lease are those of the whole command.

    Args:
        beside: see ``Location``.
        spec: where the project is read, unless the URL says it or ``belongs_to`` does.
        environment: the one that the command line names, "" for none.

    Raises:
        Refused: the URL says another environment.
    """

    def __init__(self, url: str, beside: Path, spec: Path | None = None, environment: str = "") -> None:
        self.beside = beside
        self._url = url
        self.address = address.read(url)
        self.secrets = self.address.secrets
        self.session = Session(self.address)
        self.lease: lease.Lease | None = None
        self._spec = spec
        self._project = self.address.project
        self._environment = environment or self.address.environment
        if self.address.environment not in ("", self._environment):
            raise Refused(
                f"the state {self} is that of environment {self.address.environment}, not {environment}",
                hint="correct environment= in the URL, or leave it out",
            )
        self._format: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        return self.address.shown()

    @property
    def runs_dir(self) -> Path:
        """Return one directory of this user for all checkouts, which may share the state: XDG_STATE_HOME, or that of the account."""
        home = os.environ.get("XDG_STATE_HOME", "")
        if not home.startswith("/"):
            try:
                home = f"{pwd.getpwuid(os.getuid()).pw_dir}/.local/state"
            except KeyError:  # a user id without a name, as in containers
                return self.beside.absolute().with_suffix(".runs")
        return Path(home, "flowplan", f"{quote('@'.join(filter(None, self.key)), safe='@')}.runs")

    @property
    def key(self) -> lease.Key:
        """Return project and environment.

        Raises:
            InvalidInput: nothing says which project is meant, and the database has not just one.
        """
        if not self._project:
            self._project = self._of_spec() or self._only()
        return self._project, self._environment

    def belongs_to(self, project: str, environment: str) -> None:
        if self._environment != environment:
            raise Refused(
                f"the state {self} is that of environment {self._environment or '(none)'}, not {environment or '(none)'}",
                hint="name the same one with --env and in the URL",
            )
        if self._project not in ("", project):
            raise Refused(
                f"the state {self} is that of project {self._project}, not {project}",
                hint="correct project= in the URL, or leave it out",
            )
        self._project = project

    def exists(self) -> bool:
        return self._tables() is not None and self.row() is not None

    def open(
        self,
        *,
        create: bool = False,
        read_only: bool = False,
        born: tuple[str, bytes] | None = None,
        anywhere: bool = False,
    ) -> PostgresStore:
        from flowplan.state.postgres.store import PostgresStore, make

        if not self._tables():
            if not create:
                raise self._missing()
            schema.upgrade(self.session)
            self._format = None
        schema.check(self.session, self._tables() or (0, 0, 0), writes=not read_only)
        row = self.row()
        if row is None:
            if not create:
                raise self._missing()
            make(self, born)
            row = self.row()
        if row is None:
            raise self._missing()
        store = PostgresStore(self, row, read_only=read_only)
        if not (anywhere or read_only):
            store.check_home()
        return store

    def writable(self) -> bool:
        found = self._tables()
        return found is None or schema.known_to_write(found)  # what this user may do, the store knows once it is open

    def lock(self, command: str, purpose: str = WRITE) -> lease.Lease:
        lock = lease.Lease(self, command, purpose)
        if purpose == WRITE:
            self.lease = lock
        return lock

    def holder(self, purpose: str = WRITE) -> Mapping[str, Any] | None:
        return lease.holder(self.session, self.key, purpose) if self._tables() else None

    def break_lock(self) -> Mapping[str, Any] | None:
        return lease.take_away(self.session, self.key) if self._tables() else None

    def upgrade(self) -> tuple[int, int]:
        self._format = None
        return schema.upgrade(self.session)

    def grants(self, roles: Mapping[str, str]) -> list[str]:
        return schema.grants(roles)

    def named(self) -> str:
        return self.address.shown(project=self.key[0], environment=self.key[1])

    def anew(self) -> DatabaseLocation:
        again = DatabaseLocation(self._url, self.beside, self._spec, self._environment)
        again._project = self._project
        return again

    def same(self, other: Location) -> bool:
        return isinstance(other, DatabaseLocation) and self.address == other.address

    def another(self, name: str) -> str:
        return "give each spec a project of its own"

    def close(self) -> None:
        self.session.close()

    def prepare(self) -> None:
        """Make the tables where there are none, for what has to be written before there is a state.

        Raises:
            StateError: they cannot be made by this user, or are of another format.
        """
        if not self._tables():
            schema.upgrade(self.session)
            self._format = None
        schema.check(self.session, self._tables() or (0, 0, 0), writes=True)

    def _tables(self) -> tuple[int, int, int] | None:
        """Return the format of the tables and what it asks for; None where there are none."""
        if self._format is None:
            self._format = schema.version(self.session)
        return self._format if self._format[0] else None

    def row(self) -> StateRow | None:
        """Return the row of the state, None where there is none."""
        return next((StateRow(*row) for row in self.session.ask(_ROW, *self.key)), None)

    def _missing(self) -> StateError:
        return StateError(
            f"there is no state of project {self.key[0]} in {self}",
            hint="`flowplan plan` makes one; --state or FLOWPLAN_STATE names another",
        )

    def _of_spec(self) -> str:
        """Return the project of the spec that is there, "" without one that can be read."""
        from flowplan.schemas.documents import parse, read_text

        try:
            found = parse(read_text(self._spec), str(self._spec)).value if self._spec else None
        except InvalidInput:
            return ""
        project = found.get("project") if isinstance(found, Mapping) else None
        return project if isinstance(project, str) else ""

    def _only(self) -> str:
        found = self.session.ask("SELECT DISTINCT project FROM flowplan.states ORDER BY 1") if self._tables() else []
        if len(found) == 1:
            return str(found[0][0])
        known = f"it has those of {', '.join(name for (name,) in found)}" if found else "it has none yet"
        raise InvalidInput(
            f"which project's state in {self} is meant is not clear; {known}",
            hint=f"work in the directory of its spec, or write --state '{self.address.shown(project='NAME')}'",
        )
