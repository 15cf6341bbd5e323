"""A connection to the server: made when it is needed, made again when it is lost, and its errors in words for the user."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from flowplan.schemas.errors import InvalidInput, StateError, StateFull
from flowplan.state.postgres.address import Address, psycopg

if TYPE_CHECKING:
    from psycopg import Connection, Cursor, Error, Pipeline

Row = tuple[Any, ...]
Statement = tuple[str, Sequence[Any]]

PATIENCE = 30.0
"""Seconds during which a server that answered before is tried again: it restarts, or the network is away."""
TRY_EVERY = 0.5

DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
"""Parameters of connections that a URL may set otherwise: a network that is gone is noticed within seconds."""
BOUNDS = (
    "SELECT set_config('idle_in_transaction_session_timeout', '15s', true), set_config('lock_timeout', '30s', true)",
    (),
)
"""The first statement of each transaction that writes: the server ends it when its client is gone, so that nobody waits."""

_ENDED = ("25P03", "57P01", "57P02", "57P05")
"""What a server says as it ends a connection: it is of no use any more, although this side has not seen its end yet."""


class Again(Enum):
    """What became of a transaction whose connection was lost."""

    COMMITTED = "committed"
    LOST = "lost"


@dataclass
class _Inside:
    """A transaction that goes on.

    Attributes:
        opening: its first statements; again: see ``Session.transaction``.
        done: the statements that were answered since, which changed ``changes`` rows; waiting: those to be sent next.
    """

    opening: Sequence[Statement]
    again: Callable[[list[list[Row]]], Again] | None
    done: list[Statement] = field(default_factory=list)
    waiting: list[Statement] = field(default_factory=list)
    changes: int = 0


class Session:
    """One connection. It has no state of its own on the server outside of a transaction.

    Statements are sent as a pipeline, which is never left: psycopg sends a flush as it leaves one, and a server that hears
    anything after the end of a round trip looks no more at how long the client is silent (``BOUNDS``).
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._connection: Connection[Row] | None = None
        self._pipeline: Pipeline
        self._entered: contextlib.AbstractContextManager[Pipeline]
        self._answered = False
        self._inside: _Inside | None = None

    def close(self) -> None:
        """Close the connection, where there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg().Error):
                connection.close()

    def ask(self, query: str, *values: Any) -> list[Row]:
        """Return the rows of one statement, which is repeated when the connection is lost meanwhile: it must be such that this does no harm."""
        return self.ask_all((query, values))[0]

    def ask_all(self, *statements: Statement) -> list[list[Row]]:
        """Return the rows of each of some statements, in one round trip. Each is of its own moment."""
        if self._inside is None:
            return self._reaching(statements)
        return self._within(statements)

    def do(self, query: str, *values: Any) -> list[Row]:
        """Carry out one statement that changes something, once, and return its rows."""
        with self._explained():
            return self._together([(query, values)])[0]

    @contextlib.contextmanager
    def transaction(
        self, *first: Statement, begin: str = "BEGIN", again: Callable[[list[list[Row]]], Again] | None = None
    ) -> Iterator[list[list[Row]]]:
        """Make one transaction: all of it or nothing; yield the rows of its first statements, which take one round trip.

        A connection that is lost is made anew, and what was sent is sent again, as far as ``again`` allows that.

        Args:
            again: says from the rows of the first statements, in a new transaction, whether the former one was committed.
                Without it, only what comes before the first statements may be lost.

        Raises:
            StateError: it failed. When the connection was lost in its midst, nothing of it happened, or all of it.
        """
        opening = [(begin, ()), *first]
        rows = self._reaching(opening)[1:]
        self._inside = _Inside(opening, again)
        try:
            yield rows
            self._within([("COMMIT", ())])
        except BaseException:
            self._undo()
            raise
        finally:
            self._inside = None

    def queue(self, query: str, many: Iterable[Sequence[Any]]) -> int:
        """Send a statement for each of many rows, inside of a transaction, together with the next that is asked.

        Returns:
            The number of rows.
        """
        assert self._inside is not None
        before = len(self._inside.waiting)
        self._inside.waiting += [(query, row) for row in many]
        return len(self._inside.waiting) - before

    def changes(self) -> int:
        """Return how many rows this transaction has changed so far; the server is asked."""
        assert self._inside is not None
        self._within([])
        return self._inside.changes

    def _within(self, statements: Sequence[Statement]) -> list[list[Row]]:
        """Send what waits, and then statements of which the rows are returned, in the transaction that goes on."""
        inside, deadline = self._inside, time.monotonic() + PATIENCE
        assert inside is not None
        with self._explained("writing"):
            while True:
                assert self._connection is not None
                try:
                    sent = [_sent(self._connection, one) for one in inside.waiting]
                    asked = [_sent(self._connection, one) for one in statements]
                    self._sync()
                    break
                except psycopg().Error as error:  # also the end of a transaction in which this process was frozen
                    if inside.again is None or not self._lost(error) or time.monotonic() > deadline:
                        raise
                if self._begun_again(inside, inside.again) is Again.COMMITTED:
                    return []
        inside.changes += sum(max(cursor.rowcount, 0) for cursor in sent)
        inside.done += inside.waiting
        inside.waiting = []
        return [cursor.fetchall() if cursor.description else [] for cursor in asked]

    def _begun_again(self, inside: _Inside, again: Callable[[list[list[Row]]], Again]) -> Again:
        """Begin the transaction again in a new connection, and let all that was sent be sent once more.

        Raises:
            StateError: the state has changed meanwhile, so that this would be wrong.
        """
        self.close()
        found = again(self._reaching(inside.opening)[1:])
        if found is Again.COMMITTED:
            self._undo()
        inside.waiting, inside.done, inside.changes = inside.done + inside.waiting, [], 0
        return found

    def _lost(self, error: Error) -> bool:
        """Return whether an error is that of a connection, which is of no use any more."""
        connection, code = self._connection, error.sqlstate
        return (
            connection is None
            or connection.closed
            or code in _ENDED
            or (code is None and isinstance(error, psycopg().OperationalError))
        )

    def _undo(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            connection.rollback()
        except psycopg().Error:
            self.close()

    def _open(self) -> Connection[Row]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg().connect(
                **{**DEFAULTS, **self.address.given},
                autocommit=True,
                prepare_threshold=None,
                fallback_application_name="flowplan",
                client_encoding="UTF8",
            )
            self._answered = True
            self._entered = self._connection.pipeline()
            self._pipeline = self._entered.__enter__()
        return self._connection

    def _together(self, statements: Sequence[Statement]) -> list[list[Row]]:
        """Return the rows of each of some statements, in one round trip."""
        connection = self._open()
        cursors = [_sent(connection, statement) for statement in statements]
        self._sync()
        return [cursor.fetchall() if cursor.description else [] for cursor in cursors]

    def _sync(self) -> None:
        """Wait for all answers; what is left of them after the first error belongs to nobody."""
        try:
            self._pipeline.sync()
        except psycopg().Error:
            with contextlib.suppress(psycopg().Error):
                self._pipeline.sync()
            raise

    def _reaching(self, statements: Sequence[Statement]) -> list[list[Row]]:
        """Send statements that may be repeated, and return the rows of each; a server that answered before is waited for."""
        deadline, pause = time.monotonic() + PATIENCE, 0.0
        with self._explained():
            while True:
                known = self._answered
                try:
                    return self._together(statements)
                except psycopg().OperationalError as error:
                    if not (known and self._lost(error) and time.monotonic() < deadline):
                        self._undo()
                        raise
                    self.close()
                    time.sleep(pause)
                    pause = TRY_EVERY
                except psycopg().Error:
                    self._undo()
                    raise

    @contextlib.contextmanager
    def _explained(self, during: str = "") -> Iterator[None]:
        try:
            yield
        except psycopg().Error as error:
            if isinstance(error, psycopg().DataError | psycopg().IntegrityError):
                raise InvalidInput(f"a value is none that a database takes: {_said(self.address, error)}") from None
            raise explained(self.address, error, self._connection, during=during) from None


def _sent(connection: Connection[Row], statement: Statement) -> Cursor[Row]:
    query, values = statement
    return connection.execute(query, [_storable(value) for value in values])


def _storable(value: Any) -> Any:
    """Return a value that the server takes: no text of it may have a zero character, or bytes that are no text."""
    if isinstance(value, str) and not (value.isascii() and "\0" not in value):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return value


# --- errors ---------------------------------------------------------------------------------------------------------

AGAIN = "give the same command again once it answers; what was recorded is kept"
_NO_CONNECTION = (
    "has no connection left for this user",
    "end connections that are idle, or put a pooler in front of it",
)
_BY_STATE = {
    "42501": ("refuses this user", "`flowplan state grants` prints what each role needs; --state names another user"),
    "42P01": (
        "has not the tables that this flowplan knows",
        "`flowplan state upgrade` makes them, given by the owner of the database",
    ),
    "42703": (
        "has not the tables that this flowplan knows",
        "`flowplan state upgrade` makes them, given by the owner of the database",
    ),
    "3F000": ("has no tables of flowplan", "`flowplan state upgrade` makes them, given by the owner of the database"),
    "25006": (
        "is read-only: the server is a replica, or in recovery, or set so",
        "name the primary server with --state",
    ),
    "57P01": ("was told to shut down", AGAIN),
    "57P02": ("crashed, or was stopped at once", AGAIN),
    "57P03": ("does not accept connections now", AGAIN),
    "53300": _NO_CONNECTION,
    "25P03": ("ended the transaction, because this process was frozen", "give the same command again"),
    "55P03": ("was busy for 30 s", "another process writes; see who in pg_stat_activity"),
    "22021": ("takes no UTF-8", "make the database with ENCODING 'UTF8'"),
}
_FULL = ("53100", "58030")
_BY_WORD = (
    ("too many", *_NO_CONNECTION),  # "for role ..." may follow
    ("connection slots", *_NO_CONNECTION),
    (
        "password authentication failed",
        "refuses the password",
        "set PGPASSWORD, or write the right one into ~/.pgpass (PGPASSFILE)",
    ),
    ("no password supplied", "wants a password", "set PGPASSWORD, or write one into ~/.pgpass (PGPASSFILE)"),
    ("certificate", "cannot be trusted", "correct sslrootcert and sslmode in the URL, or the server's certificate"),
    ("ssl", "and this host do not agree about TLS", "correct sslmode and sslrootcert in the URL"),
    ("pg_hba.conf", "refuses this user from this host", "the server's pg_hba.conf says who may come from where"),
    ('role "', "does not know this user", "correct the user in the URL, or PGUSER"),
    ("definition of service", "is not known", "correct the service in the URL, or PGSERVICEFILE"),
    ('database "', "has no database of this name", "correct the name in the URL, or PGDATABASE"),
    ("recovery", "is in recovery", AGAIN),
    ("shutting down", "is shutting down", AGAIN),
    ("starting up", "is starting", AGAIN),
)


def explained(address: Address, error: Error, connection: Any = None, *, during: str = "") -> StateError:
    """Return the StateError for an error of psycopg; the server's words are in it, without any secret."""
    where, said, code = f"the state {address.shown()}", _said(address, error), error.sqlstate or ""
    if code in _FULL:
        return StateFull(f"{where} cannot be written: the server has no room, or its disk fails ({said})", hint=AGAIN)
    if code in _BY_STATE:
        what, hint = _BY_STATE[code]
        return StateError(f"{where} cannot be used: the database {what} ({said})", hint=hint)
    if during and connection is not None and connection.closed:
        return StateError(
            f"the connection to {where} was lost while something was written: {said}",
            hint="give the same command again: it goes on from what is recorded, and starts nothing twice",
        )
    for word, what, hint in _BY_WORD:
        if not code and word in said.lower():
            return StateError(f"{where} cannot be used: the server {what} ({said})", hint=hint)
    if not code:
        return StateError(f"{where} cannot be reached: {said}", hint="see that the server runs and the URL is right")
    return StateError(f"{where} cannot be used: {said}", hint=f"the database says {code}")


def _said(address: Address, error: Error) -> str:
    text = (
        " ".join(str(error).split("\n")[0].split())
        .removeprefix("connection failed: ")
        .removeprefix("connection is bad: ")
    )
    for secret in address.secrets:
        text = text.replace(secret, "(password)")
    return text or type(error).__name__
