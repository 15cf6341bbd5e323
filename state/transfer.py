"""The whole state as one JSON document, out and in: `flowplan state pull` and `push`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from flowplan.schemas.accepted import Accepted
from flowplan.schemas.codec import Misfit, decode, encode
from flowplan.schemas.errors import InvalidInput, Refused, StateError
from flowplan.schemas.events import Event
from flowplan.schemas.faults import point
from flowplan.schemas.runs import Recorded
from flowplan.state import acceptance, rows
from flowplan.state.store import Store

FORMAT = 1
KEY_BYTES = 32


class Dump(NamedTuple):
    """Everything that a state holds.

    Attributes:
        records: the newest attempts at managed addresses: pairs of address and run id.
        counters: address -> the highest attempt that was ever used there.
        outcomes: run id -> how it ended, which the status of a destroyed attempt does not say.
        notes: name -> the JSON text of what ``Store.remember`` keeps.
        plans: those that were applied, with what each of them did and left, see ``acceptance``.
        key: in hexadecimal digits, "" where the dump does not hold it.
    """

    flowplan_state: int
    lineage: Annotated[str, uuid.UUID]
    serial: int
    project: str | None
    records: tuple[tuple[str, str], ...]
    counters: Mapping[str, int]
    outcomes: Mapping[str, str]
    attempts: tuple[Recorded, ...]
    events: tuple[Event, ...]
    notes: Mapping[str, str] = {}
    plans: tuple[Accepted, ...] = ()
    key: Annotated[str, bytes.fromhex] = ""


def dump(store: Store, *, with_key: bool = False) -> Iterator[str]:
    """Return everything in a state at one moment, as lines of one JSON document; the key only when asked for.

    Attempts and events are read one after the other, so that the size of the state does not matter.
    """
    with store.snapshot():
        heads = {
            "flowplan_state": FORMAT,
            "lineage": store.lineage,
            "serial": store.serial,
            "project": store.scope,
            **({"key": store.key.hex()} if with_key else {}),
            "records": store.all("SELECT address, run_id FROM records ORDER BY id"),
            "counters": dict(sorted(store.last_attempts().items())),
            "outcomes": dict(store.all("SELECT run_id, outcome FROM attempts WHERE outcome IS NOT NULL ORDER BY id")),
            "notes": dict(sorted(store.all("SELECT name, document FROM notes"))),
        }
        yield "{"
        yield from (f" {json.dumps(name)}: {json.dumps(value)}," for name, value in heads.items())
        yield from _list("plans", acceptance.all_plans(store))
        yield ","
        yield from _list("attempts", store.attempts_with_tails())
        yield ","
        yield from _list("events", store.events())
        yield "}"


def _list(name: str, items: Iterable[object]) -> Iterator[str]:
    yield f" {json.dumps(name)}: ["
    separator = ""
    for item in items:
        yield f"{separator}{json.dumps(encode(item))}"
        separator = ","
    yield " ]"


def checked(document: Mapping[str, Any]) -> Dump:
    """Return a dump that was read, once it is known to be whole.

    Raises:
        InvalidInput: it is not a dump, or of another format.
    """
    version = document.get("flowplan_state")
    if version is not None and version != FORMAT:
        raise InvalidInput(f"this dump has format {version!r}, this flowplan knows {FORMAT}", hint="upgrade flowplan")
    try:
        found = decode(Dump, document)
        run_ids = [attempt.run_id for attempt in found.attempts]
        for place, keys in (
            ("/attempts", run_ids),
            ("/records", [address for address, _ in found.records]),
            ("/records", [run_id for _, run_id in found.records]),
            ("/events", [event.seq for event in found.events]),
            ("/plans", [plan.digest for plan in found.plans]),
        ):
            if len(set(keys)) < len(keys):
                raise Misfit("something is there twice", place)
        if not {run_id for _, run_id in found.records} <= set(run_ids):
            raise Misfit("a record without its attempt", "/records")
        if len(bytes.fromhex(found.key)) not in (0, KEY_BYTES):
            raise Misfit(f"must have {2 * KEY_BYTES} hexadecimal digits", "/key")
        return found
    except rows.UNREADABLE as error:
        raise _no_dump(error) from error


def _no_dump(error: Exception) -> InvalidInput:
    return InvalidInput(f"this is not a dump of a state ({error})", hint="`flowplan state pull` writes one")


def load(store: Store, dump: Dump) -> None:
    """Replace everything in a state by a dump.

    Raises:
        InvalidInput: a value in it is none that a database takes.
        Refused: it is of another lineage (unless this state is empty) or older than this state.
    """
    lineage = str(uuid.UUID(dump.lineage))
    with store.changing("load_dump") as journal:
        if lineage != store.lineage and store.run_ids():
            raise Refused(
                f"the dump is of lineage {lineage}, the state {store.location} of {store.lineage}",
                hint="push it to an empty state",
            )
        if lineage == store.lineage and dump.serial < store.serial:
            raise Refused(
                f"the dump has serial {dump.serial}, the state {store.location} has {store.serial} and is newer",
                hint="pull again and repeat the change",
            )
        for table in ("records", "attempts", "tails", "counters", "events", "steps", "plans", "notes"):
            journal.db.execute(f"DELETE FROM {table}")
        key = bytes.fromhex(dump.key) or store.key
        try:
            journal.put_attempts(dump.attempts)
            journal.put_outcomes(dump.outcomes)
            journal.put_tails({a.run_id: a.output_tail for a in dump.attempts if a.output_tail})
            journal.manage(dump.records)
            journal.count(dump.counters.items())
            journal.note(dump.notes)
            for plan in dump.plans:
                journal.put_plan(plan)
            journal.put_events(dump.events)
            journal.identify(lineage=lineage, key=key, project=dump.project, serial=max(dump.serial - 1, store.serial))
        except rows.UNREADABLE + store.misfits as error:
            raise _no_dump(error) from error
    store.identify()


def migrate(source: Store, target: Store) -> None:
    """Make the target what the source is, and the source a tombstone that says where it went; both are locked by now.

    After a crash at any point it is done again: what the target has of the source by then is replaced, or found to be
    all of it.

    Raises:
        Refused: the target holds something else, or something newer.
        StateError: it could not be made the same; the source stays what it was.
    """
    whole = list(dump(source, with_key=True))
    if list(dump(target, with_key=True)) != whole:
        load(target, checked(rows.parsed("\n".join(whole))))
    point("state:migrate:copied")
    if list(dump(target, with_key=True)) != whole:
        raise StateError(
            f"the state {target.location} is not the same as {source.location}, which stays in use",
            hint="compare what `flowplan state pull` prints of both",
        )
    with source.changing("migrate") as journal:
        journal.identify(**source.gone(target.location.named()))
