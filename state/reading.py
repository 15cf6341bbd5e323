"""What can be asked of the state; every answer is a constant number of queries, whatever the number of runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from flowplan.schemas.events import Event
from flowplan.schemas.runs import Recorded, Status
from flowplan.schemas.times import seconds_between
from flowplan.state import rows
from flowplan.state.location import Location
from flowplan.state.transitions import Known

T = TypeVar("T")

PAGE = 1000
"""Events read at a time, so that a slow reader holds no transaction."""


KNOWN = "SELECT address, run_id, attempt, status, present, outcome, progress FROM attempts WHERE run_id"


def asked_of(query: str, values: Iterable[str]) -> tuple[str, str]:
    """Return a query that ends in a column as one for the rows in which that has one of these values, and its parameter."""
    return f"{query} IN (SELECT value FROM json_each(?))", rows.dumps(list(values))


class Reading(ABC):
    """The readable side of an opened state. One thread, one connection.

    Every method raises StateError when the state is damaged, gone or unreadable.
    """

    location: Location
    lineage: str
    key: bytes
    has_key: bool = True
    """Whether this user may read the key."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection; what was committed stays."""

    @abstractmethod
    def all(self, query: str, *values: Any) -> list[Any]:
        """Return the rows of a query."""

    @abstractmethod
    def identify(self) -> None:
        """Read the lineage and the key of the state, which a write may have changed."""

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[None]:
        """Let everything that is read inside be of one moment."""

    @abstractmethod
    def attempts_with_tails(self) -> Iterator[Recorded]:
        """Return every attempt with the end of its output, one after the other, oldest first."""

    @property
    def serial(self) -> int:
        """Return the counter that grows with every change of the state."""
        return int(self.one("SELECT serial FROM meta")[0])

    @property
    def scope(self) -> str | None:
        """Return what the state belongs to, see ``schemas.runs.scope``; None while it belongs to nothing."""
        name: str | None = self.one("SELECT project FROM meta")[0]
        return name

    def records(self, addresses: Collection[str] | None = None) -> dict[str, Recorded]:
        """Return the newest attempt at each managed address, in the order in which the addresses were first recorded.

        ``output_tail`` is left empty here and in all lists; ``record`` and ``tails`` have it.

        Args:
            addresses: the ones that are asked for; None for all.
        """
        wanted = "" if addresses is None else "WHERE r.address IN (SELECT value FROM json_each(?))"
        values = [] if addresses is None else [rows.dumps(list(addresses))]
        found = self.all(
            f"SELECT {rows.COLUMNS} FROM records r JOIN attempts a USING (run_id) {wanted} ORDER BY r.id", *values
        )
        return {record.address: record for record in self.decoded(rows.decode, found)}

    def addresses(self) -> list[str]:
        """Return every managed address, in the order in which they were first recorded."""
        return [address for (address,) in self.all("SELECT address FROM records ORDER BY id")]

    def record(self, address: str) -> Recorded | None:
        """Return the newest attempt at one managed address, with the tail of its output."""
        found = self.all(
            f"SELECT {rows.COLUMNS}, t.text FROM records r JOIN attempts a USING (run_id)"
            " LEFT JOIN tails t USING (run_id) WHERE r.address = ?",
            address,
        )
        return next(iter(self.decoded(rows.decode, found)), None)

    def attempts(self, address: str | None = None, *, run_id: str | None = None) -> list[Recorded]:
        """Return every attempt ever, the destroyed ones too, oldest first."""
        given = {column: value for column, value in (("address", address), ("run_id", run_id)) if value is not None}
        where = " AND ".join(f"a.{column} = ?" for column in given) or "true"
        found = self.all(f"SELECT {rows.COLUMNS} FROM attempts a WHERE {where} ORDER BY a.id", *given.values())
        return self.decoded(rows.decode, found)

    def leftovers(self) -> list[Recorded]:
        """Return the replaced attempts whose object may still be on the engine: its deletion is still to come.

        Forgotten attempts are none of these: their objects are left alone on purpose.
        """
        found = self.all(
            f"SELECT {rows.COLUMNS} FROM attempts a WHERE a.present = 1 AND a.status <> ?"
            " AND a.run_id NOT IN (SELECT run_id FROM records) ORDER BY a.id",
            str(Status.DESTROYED),
        )
        return self.decoded(rows.decode, found)

    def last_attempts(self) -> dict[str, int]:
        """Return the highest attempt ever used at each address; destroying or moving a record does not free its number."""
        return dict(self.all("SELECT address, attempt FROM counters"))

    def missing_attempts(self, address: str) -> list[int]:
        """Return the attempt numbers that were used at an address and are not recorded any more."""
        found = self.all("SELECT attempt FROM attempts WHERE address = ?", address)
        used = self.all("SELECT attempt FROM counters WHERE address = ?", address)
        known = {number for (number,) in found}
        return [number for (last,) in used for number in range(1, last + 1) if number not in known]

    def tails(self, run_ids: Collection[str]) -> dict[str, str]:
        """Return the stored ends of the output of some attempts, where there are any."""
        return dict(self.among("SELECT run_id, text FROM tails WHERE run_id", run_ids))

    def with_tails(self, run_ids: Collection[str]) -> set[str]:
        """Return which of some attempts have a stored end of their output."""
        return {run_id for (run_id,) in self.among("SELECT run_id FROM tails WHERE run_id", run_ids)}

    def run_ids(self) -> set[str]:
        """Return the run ids of all attempts there ever were."""
        return {run_id for (run_id,) in self.all("SELECT run_id FROM attempts")}

    def recall(self, name: str) -> dict[str, Any]:
        """Return the document kept by ``remember``; {} when there is none."""
        found = self.all("SELECT document FROM notes WHERE name = ?", name)
        documents = self.decoded(lambda row: rows.note(name, row[0]), found)
        return documents[0] if documents else {}

    def last_seq(self) -> int:
        """Return the number of the newest event, 0 when there is none."""
        return int(self.one("SELECT coalesce(max(seq), 0) FROM events")[0])

    def events(self, address: str | None = None, *, after: int = 0, limit: int | None = None) -> Iterator[Event]:
        """Return the events with numbers above ``after``, oldest first; a run's name stands for all its cells."""
        values = [] if address is None else [address]
        where = "true" if address is None else "address = ?" if "[" in address else "run = ?"
        query = f"SELECT {rows.EVENT_COLUMNS} FROM events WHERE {where} AND seq > ? ORDER BY seq LIMIT ?"
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page = self.all(query, *values, after, size)
            yield from (Event(*row) for row in page)
            if len(page) < size:
                return
            after, left = page[-1][0], None if left is None else left - size

    def history(
        self, addresses: Collection[str] | None = None, *, last: int = 5
    ) -> dict[str, list[tuple[str, float | None]]]:
        """Return the last outcomes at each address, newest last: (status, seconds from start to end or None)."""
        wanted = "" if addresses is None else "AND address IN (SELECT value FROM json_each(?))"
        values = [] if addresses is None else [rows.dumps(list(addresses))]
        found = self.all(
            "SELECT address, outcome, json_extract(progress, '$.started_at'), json_extract(progress, '$.finished_at') FROM ("
            " SELECT id, address, outcome, progress, row_number() OVER (PARTITION BY address ORDER BY id DESC) AS n"
            f" FROM attempts WHERE outcome IS NOT NULL {wanted}) latest WHERE n <= ? ORDER BY address, id",
            *values,
            last,
        )
        outcomes: dict[str, list[tuple[str, float | None]]] = {}
        for address, outcome, start, end in found:
            took = seconds_between(start, end)
            outcomes.setdefault(address, []).append((outcome, None if took is None else max(took, 0.0)))
        return outcomes

    def known(self, run_ids: Iterable[str]) -> dict[str, Known]:
        """Return what is known of attempts, by run id; those that are not recorded are left out."""
        found = self.all(*asked_of(KNOWN, run_ids))
        known = self.decoded(lambda row: Known(row[0], row[1], row[2], rows.decode_progress(*row[3:])), found)
        return {one.run_id: one for one in known}

    def among(self, query: str, values: Iterable[str]) -> list[Any]:
        """Return the rows of a query that ends in a column, which has one of these values."""
        return self.all(*asked_of(query, values))

    def one(self, query: str, *values: Any) -> tuple[Any, ...]:
        """Return the only row of a query, which must be there."""
        found = self.all(query, *values)
        if not found:
            raise rows.damaged(self.location, "it has no identity")
        row: tuple[Any, ...] = found[0]
        return row

    def decoded(self, decode: Callable[[rows.Row], T], found: list[Any]) -> list[T]:
        """Return what rows say, which must be what flowplan writes."""
        try:
            return [decode(row) for row in found]
        except rows.UNREADABLE as error:
            raise rows.damaged(self.location, f"a row cannot be read ({error})") from error
