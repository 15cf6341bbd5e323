"""The state of one project in a database, behind the interface of ``Store``.

Reads and writes are the statements of ``reading``, ``journal`` and their like, which both databases take but for a few
words, see ``Dialect``. Each runs in a transaction that says first which state it is about: the views of ``schema`` show
the rows of that one alone.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from flowplan.schemas.errors import Refused, StateError
from flowplan.schemas.events import Event
from flowplan.schemas.faults import point
from flowplan.schemas.runs import Recorded, scope
from flowplan.state import rows
from flowplan.state.journal import Journal
from flowplan.state.postgres.session import AGAIN, BOUNDS, Again, Row, Session, Statement
from flowplan.state.reading import KNOWN, asked_of
from flowplan.state.store import Store, moved_away, new_identity

if TYPE_CHECKING:
    from flowplan.state.postgres.location import DatabaseLocation, StateRow

PAGE = 200
"""Attempts that are read at a time while a state is dumped."""
AT_ONCE = 100
"""Rows that are written by one statement."""

_WORDS = (
    (re.compile("%"), "%%"),
    # An array is looked up in an index, whatever the server believes of the size of a table that has just grown.
    (re.compile(r"IN (\(SELECT value FROM json_each\(\?\)\))"), r"= ANY (ARRAY\1)"),
    (re.compile(r"\(SELECT value FROM json_each\(\?\)\)"), "(SELECT json_array_elements_text(%s::json) AS value)"),
    # A field of a document is found as text: the server takes no JSON in which a text has a zero character, and splitting
    # takes a tenth of the time of a regular expression.
    (
        re.compile(r"json_extract\(([\w.]+), '\$(?:\.\w+)*\.(\w+)'\)"),
        r"""NULLIF(split_part(split_part(\1, '"\2":"', 2), '"', 1), '')""",
    ),
    (re.compile(r"ON CONFLICT \("), "ON CONFLICT (state, "),
    (re.compile(r"\?"), "%s"),
)


@cache
def _spoken(query: str) -> str:
    """Return a statement as PostgreSQL takes it."""
    for known, word in _WORDS:
        query = known.sub(word, query)
    return query


class PostgresStore(Store):
    """An opened state in a database. Reads take one round trip each, a change two or three, whatever the number of rows."""

    def __init__(self, location: DatabaseLocation, row: StateRow, *, read_only: bool) -> None:
        self.location: DatabaseLocation = location
        self._session: Session = location.session
        self._id = row.id
        self.read_only = read_only or not row.writes or row.frozen
        self._why = "the server is a replica, or in recovery" if row.frozen else "this user may only read it"
        self._about: Statement = (
            "SELECT set_config('flowplan.state', %s, true), set_config('search_path', 'flowplan', true)",
            (str(self._id),),
        )
        self._inside = False
        self._answered: dict[Statement, list[Row]] = {}  # what was asked with the beginning of a transaction
        self._serial = -1
        self.moved_from = ""
        self._take(row)

    @property
    def scope(self) -> str:
        return scope(*self.location.key)

    def close(self) -> None:
        """Leave the state; the connection is the command's."""

    def identify(self) -> None:
        """Read the lineage and the key of the state, which a write may have changed."""
        row = self.location.row()
        if row is None:
            raise rows.damaged(self.location, "it has no identity")
        self._take(row)

    def _take(self, row: StateRow) -> None:
        self.lineage, self.moved_to = str(uuid.UUID(row.lineage)), row.moved_to
        found = self._session.ask("SELECT key FROM flowplan.keys WHERE state = %s", row.id) if row.sees_key else []
        self._key = bytes(found[0][0]) if found else None
        self.has_key = self._key is not None

    @property
    def key(self) -> bytes:  # type: ignore[override]
        """Return the key of fingerprints.

        Raises:
            StateError: this user may not read it.
        """
        if self._key is None:
            raise StateError(
                f"the state {self.location} has a key that this user may not read, and this command needs it",
                hint="give it as a planner or writer, see `flowplan state grants`",
            )
        return self._key

    def check_home(self) -> None:
        if self.moved_to:
            raise moved_away(self.location, self.moved_to)

    def here(self) -> dict[str, str | None]:
        return {"moved_to": None}

    def gone(self, place: str) -> dict[str, str | None]:
        return {"moved_to": place}

    def all(self, query: str, *values: Any) -> list[Any]:
        """Return the rows of a query."""
        statement = _spoken(query), values
        if statement in self._answered:
            return self._answered.pop(statement)
        if self._inside:
            return self._session.ask_all(statement)[0]
        return self._session.ask_all(("BEGIN READ ONLY", ()), self._about, statement, ("COMMIT", ()))[2]

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let everything that is read inside be of one moment."""
        with self._session.transaction(self._about, begin="BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"):
            self._inside = True
            try:
                yield
            finally:
                self._inside = False

    def attempts_with_tails(self) -> Iterator[Recorded]:
        """Return every attempt with the end of its output, one after the other, oldest first."""
        last = 0
        query = (
            f"SELECT {rows.COLUMNS}, t.text, a.id FROM attempts a LEFT JOIN tails t USING (run_id)"
            " WHERE a.id > ? ORDER BY a.id LIMIT ?"
        )
        while page := self.all(query, last, PAGE):
            last = page[-1][-1]
            yield from self.decoded(lambda row: rows.decode(row[:-1]), page)

    def compact(self) -> None:
        pass  # the server takes the room of removed rows back by itself

    @contextlib.contextmanager
    def changing(self, what: str, run_ids: Collection[str] = ()) -> Iterator[Journal]:
        """Make one transaction, which waits for other writers at its beginning, and grows the serial if rows changed.

        Raises:
            LockLost: this process had the writer's lock, and has it no more.
        """
        if self.read_only:
            raise StateError(f"the state {self.location} is open for reading only", hint=self._why)
        point(f"state:{what}:before")
        held = self.location.lease if self.location.lease and self.location.lease.held else None
        if held:
            held.check()
        fence = [held.fence()] if held else []
        first = (BOUNDS, self._about, (_OURS, (self._id,)), ("SELECT coalesce(max(seq), 0) FROM events", ()), *fence)
        query, *values = asked_of(KNOWN, run_ids)
        known = [(_spoken(query), tuple(values))] if run_ids else []
        mine = str(uuid.uuid4())

        def again(answers: list[list[Row]]) -> Again:
            _, _, state, _, *fenced = answers
            if state[0][2] == mine:
                return Again.COMMITTED
            if held:
                held.fenced(fenced[0])
            if state[0][0] != self._serial:
                raise StateError(f"the state {self.location} was changed by another process meanwhile", hint=AGAIN)
            return Again.LOST

        with self._session.transaction(*first, *known, again=again) as answers:
            if held:
                held.fenced(answers[4])
            self._serial, moved_to, _ = answers[2][0]
            if (moved_to or "") != self.moved_to:  # it went while this process had it open
                raise moved_away(self.location, moved_to)
            self._inside, self._answered = True, dict(zip(known, answers[len(first) :], strict=True))
            try:
                journal = PostgresJournal(self, answers[3][0][0])
                yield journal
                if journal.changed():
                    grow = "UPDATE flowplan.states SET serial = serial + 1, last_write = %s WHERE id = %s"
                    self._session.queue(grow, [(mine, self._id)])
            finally:
                self._inside, self._answered = False, {}
            point(f"state:{what}:written")
        point(f"state:{what}:after")


_OURS = "SELECT serial, moved_to, last_write FROM flowplan.states WHERE id = %s FOR UPDATE"


def make(location: DatabaseLocation, born: tuple[str, bytes] | None) -> None:
    """Make an empty state, unless another process was faster."""
    lineage, key = born or new_identity()
    with location.session.transaction(BOUNDS):
        location.session.queue(
            "WITH made AS (INSERT INTO flowplan.states (project, environment, lineage, created_at) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT (project, environment) DO NOTHING RETURNING id)"
            " INSERT INTO flowplan.keys (state, key) SELECT id, %s FROM made",
            [(*location.key, lineage, rows.now(), key)],
        )


class _Answer:
    """What a statement answered."""

    def __init__(self, found: list[Row]) -> None:
        self._found = found

    def fetchall(self) -> list[Row]:
        return self._found

    def fetchone(self) -> Row | None:
        return self._found[0] if self._found else None


_INSERT = re.compile(r"(INSERT INTO \w+ \([^)]*\) VALUES )(\([?, ]*\))(.*)", re.DOTALL)
_UPDATE = re.compile(r"UPDATE (\w+) SET ((?:\w+ = \?(?:, )?)+) WHERE (\w+) = \?")


def _for_many(query: str, many: list[Sequence[Any]]) -> Iterator[tuple[str, list[Sequence[Any]]]]:
    """Yield statements for many rows, each for up to ``AT_ONCE`` of them: the server plans a statement anew each time.

    What is found by a key is changed once only in a statement, so rows of which several have one key stay apart.
    """
    insert, update = _INSERT.fullmatch(query), _UPDATE.fullmatch(query)
    key = 0 if insert else -1
    if len(many) < 2 or not (insert or update) or len({row[key] for row in many}) < len(many):
        yield query, many
        return
    for start in range(0, len(many), AT_ONCE):
        some = many[start : start + AT_ONCE]
        marks = f"({', '.join('?' * len(some[0]))})"
        values = ", ".join([marks] * len(some))
        if insert:
            statement = f"{insert[1]}{values}{insert[3]}"
        elif update:
            names = [*re.findall(r"\w+(?= = \?)", update[2]), update[3]]
            changes = ", ".join(f"{name} = v.{name}" for name in names[:-1])
            statement = f"UPDATE {update[1]} t SET {changes} FROM (VALUES {values}) v ({', '.join(names)}) WHERE t.{update[3]} = v.{update[3]}"
        yield statement, [[value for row in some for value in row]]


class Queue:
    """A transaction as ``Journal`` uses a connection of SQLite: what reads is answered, what writes only sent."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._sent = 0
        self._surely = False

    def execute(self, query: str, values: Sequence[Any] = ()) -> _Answer:
        if query.startswith("SELECT"):
            return _Answer(self._session.ask(_spoken(query), *values))
        self.executemany(query, [values])
        return _Answer([])

    def executemany(self, query: str, many: Iterable[Sequence[Any]]) -> None:
        sent = 0
        for statement, rows_ in _for_many(query, list(many)):
            sent += self._session.queue(_spoken(statement), rows_)
        self._sent += sent
        # An insertion without a condition changes something: there is no need to wait for the server to say so.
        self._surely |= bool(sent) and query.startswith("INSERT INTO") and not re.search("SELECT|WHERE|NOTHING", query)

    def changed(self) -> bool:
        """Return whether something was changed; unless that is sure, the server is asked."""
        return self._surely or bool(self._sent and self._session.changes())


class PostgresJournal(Journal):
    """The writing side of one transaction in a database."""

    def __init__(self, store: PostgresStore, last_seq: int) -> None:
        self._store, self._last = store, last_seq
        self._queue = Queue(store._session)
        super().__init__(self._queue)

    def changed(self) -> bool:
        """Return whether something was changed."""
        return self._queue.changed()

    def last_seq(self) -> int:
        return self._last

    def append(self, events: Sequence[Event]) -> list[Event]:
        numbered = super().append(events)
        self._last += len(numbered)
        return numbered

    def identify(self, **columns: object) -> None:
        project = columns.pop("project", None)
        mine = self._store.scope
        if project not in (None, mine):
            raise Refused(f"the state {self._store.location} is that of project {mine}, not {project}")
        key = columns.pop("key", None)
        session, number = self._store._session, self._store._id
        if key is not None:
            session.queue("UPDATE flowplan.keys SET key = %s WHERE state = %s", [(key, number)])
        if columns:
            terms = ", ".join(f"{column} = %s" for column in columns)
            session.queue(f"UPDATE flowplan.states SET {terms} WHERE id = %s", [(*columns.values(), number)])
