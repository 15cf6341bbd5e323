"""The commands that look into the state and repair it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flowplan.clock import timestamp
from flowplan.commands.arguments import check_format, seconds
from flowplan.commands.places import Place
from flowplan.commands.reading import chosen, numbered, opened, unknown_address
from flowplan.gather import open_state
from flowplan.given import Given
from flowplan.output import Output, harmless_json
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.files import Unreadable, read_bounded
from flowplan.schemas.runs import Recorded, Settings
from flowplan.showing import harmless
from flowplan.state.lock import WriterLock, break_lock
from flowplan.state.shapes import parsed
from flowplan.state.store import Store

MOST_BYTES = 4 << 30
"""Of a dump."""


@contextmanager
def _writing(state: Path, lock_timeout: str, *, create: bool = False, anywhere: bool = False) -> Iterator[Store]:
    """The state, with the writer's lock in hand; a new one is announced."""
    new = create and not Store.exists(state)
    store = open_state(state, create=create, anywhere=anywhere)
    if new:
        Output().note(f"New state: {store.path.absolute()}")
    lock = WriterLock(state, "state")
    lock.acquire(seconds("--lock-timeout", lock_timeout) or 0.0)
    try:
        yield store
    finally:
        lock.release()
        store.close()


def list_(state: Path, format: str) -> None:
    """The managed addresses, in the order of their creation."""
    check_format(format, ("text", "json"))
    store = opened(state)
    output = Output()
    records = store.records()
    if format == "json":
        output.document(list(records))
    else:
        output.lines(map(harmless, records))
    store.close()


def show(state: Path, address: str) -> None:
    """Everything recorded about a run: all attempts, newest last."""
    store = opened(state)
    attempts = store.attempts(address)
    if not attempts:
        raise unknown_address(address, {r.address for r in store.attempts()})
    if missing := store.missing_attempts(address):
        Output().note(f"{address}: {numbered(missing)} not kept: pruned, or older than a rebuilt state")
    Output().document({"address": address, "attempts": [_document(r) for r in attempts]})
    store.close()


def _document(record: Recorded) -> dict[str, object]:
    return {**asdict(replace(record, settings=Settings())), "settings": asdict(record.settings)}


def move(state: Path, old: str, new: str, lock_timeout: str) -> None:
    """Rename an address; the name of a matrix renames all its cells.

    Raises:
        InvalidInput: ``new`` is none, nothing is recorded at ``old``, or something is at ``new``.
    """
    _check_address(new)
    output = Output()
    with _writing(state, lock_timeout) as store:
        records = store.records()
        cells = [a for a in records if a.startswith(f"{old}[")] if old not in records and "[" not in new else []
        for address in cells or [old]:
            store.move(address, new + address[len(old) :])
            output.note(f"{address} is now {new + address[len(old) :]}")


def _check_address(address: str) -> None:
    import re

    from flowplan.planner.desired.matrix import parse_address
    from flowplan.schemas.spec import NAME_PATTERN

    try:
        sound = re.search(NAME_PATTERN, parse_address(address)[0])
    except ValueError:
        sound = None
    if not sound:
        hint = "write a run's name, or one cell such as 'backfill[day=2026-11-01]'"
        raise InvalidInput(f'"{address}" is not an address', hint=hint)


def remove(state: Path, addresses: Sequence[str], lock_timeout: str) -> None:
    """Forget runs."""
    with _writing(state, lock_timeout) as store:
        found = list(chosen(store.records(), addresses))
        store.forget(found)
    Output().note(f"forgotten, still on the engine if they were: {', '.join(found)}")


def pull(state: Path, with_key: bool) -> None:
    """Print the whole state."""
    store = opened(state)
    with closing(store):
        Output().lines(map(harmless_json, store.dump(with_key=with_key)))


def push(state: Path, file: Path, lock_timeout: str) -> None:
    """Replace the state by a pulled one."""
    try:
        document = parsed(read_bounded(file, MOST_BYTES, pipes=True).decode())
    except OSError as error:
        raise InvalidInput(f"cannot read {file}: {error.strerror}") from error
    except Unreadable as error:
        raise InvalidInput(f"{file} {error}", hint="give what `flowplan state pull` printed") from error
    except ValueError as error:
        raise InvalidInput(f"{file} is not JSON: {error}", hint="give what `flowplan state pull` printed") from error
    with _writing(state, lock_timeout, create=True) as store:
        store.load_dump(document)
    Output().note(f"{state} now has serial {document['serial']}")


def prune(state: Path, older: str, dry_run: bool, lock_timeout: str) -> None:
    """Remove attempts that nothing happened to for a time, with their output and files, and tell which."""
    from flowplan.gather import engines_of

    age = seconds("--older", older) or 0.0
    output = Output()
    with _writing(state, lock_timeout) as store:
        providers = {record.provider for record in store.attempts()}
        pruned = store.prune(timestamp(datetime.now(UTC) - timedelta(seconds=age)), dry_run=dry_run)
        size = pruned.bytes
        if not dry_run:
            engines, _ = engines_of(store, state)
            with closing(engines):
                size += engines.discard(providers, store.run_ids())
    for address, attempts in pruned.attempts.items():
        output.data(f"{harmless(address)}: {numbered(attempts)}")
    count = sum(map(len, pruned.attempts.values()))
    done = "would be removed" if dry_run else "removed"
    output.note(f"{done}: {count} attempts, {pruned.events} events, {size:,} bytes of output and files")


def unlock(state: Path) -> None:
    """Remove the lock of a dead holder."""
    found = break_lock(state)
    if found is None:
        Output().note("the state is not locked")
    else:
        Output().note(f"removed the lock of {found.get('command')} (pid {found.get('pid')})")


def moved(state: Path, lock_timeout: str) -> None:
    """Declare that the place where this state was before holds it no more."""
    with _writing(state, lock_timeout, anywhere=True) as store:
        store.settle()
    Output().note(f"the state is at home at {state.absolute()} now; a copy that is left elsewhere must not be used")


def new_lineage(state: Path, lock_timeout: str) -> None:
    """Make a copy of a state one of its own."""
    with _writing(state, lock_timeout, anywhere=True) as store:
        managed = store.start_lineage()
    output = Output()
    output.note(f"the state {state} is one of its own now, lineage {store.lineage}")
    if managed:
        output.note(f"not managed any more, they belong to the state that it was copied from: {', '.join(managed)}")


def rebuild(place: Place, given: Given, lineage: str, lock_timeout: str) -> None:
    """Record again what the engines have of this project."""
    from flowplan.rebuilding import rebuild_records

    with _writing(place.state, lock_timeout, create=True) as store:
        found = rebuild_records(store, place.state, place.spec, given, lineage)
    for record in found:
        Output().note(f"{record.address}: attempt {record.attempt} is {record.status}")
    Output().note(f"{len(found)} runs recorded again")


def import_(place: Place, address: str, object_id: str, given: Given, lock_timeout: str) -> None:
    """Record an object that exists already as the run that the spec wants."""
    from flowplan.rebuilding import import_object

    with _writing(place.state, lock_timeout, create=True) as store:
        record = import_object(store, place.state, place.spec, given, address, object_id)
    Output().note(f"{record.address} is now {record.infrastructure_id or record.name} ({record.status})")
