"""The commands that look into the state and repair it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flowplan.commands.arguments import check_format, seconds
from flowplan.commands.logs import numbered
from flowplan.commands.places import Place, place
from flowplan.commands.reading import opened
from flowplan.documents import chosen, unknown_address
from flowplan.given import Given
from flowplan.output import Output, harmless_json
from flowplan.project import Project, Request, open_state, writing
from flowplan.schemas.codec import encode
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.files import Unreadable, read_bounded
from flowplan.schemas.text import harmless
from flowplan.schemas.times import timestamp
from flowplan.state import ownership, pruning, transfer
from flowplan.state.location import Location
from flowplan.state.rows import parsed
from flowplan.state.store import Store

MOST_BYTES = 4 << 30
"""Of a dump."""


@contextmanager
def _writing(state: Location, lock_timeout: str, *, create: bool = False, anywhere: bool = False) -> Iterator[Store]:
    """Open a state with the writer's lock in hand, and announce a new one."""
    new = create and not state.exists()
    with closing(open_state(state, create=create, anywhere=anywhere)) as store:
        if new:
            _announce(state)
        with writing(state, "state") as lock:
            lock.acquire(seconds("--lock-timeout", lock_timeout) or 0.0)
            yield store


def _announce(state: Location) -> None:
    Output().note(f"New state: {state.named()}")


def list_(state: Location, format: str) -> None:
    """Print the managed addresses, in the order of their creation."""
    check_format(format, ("text", "json"))
    output = Output()
    with closing(opened(state)) as store:
        records = store.records()
    if format == "json":
        output.document(list(records))
    else:
        output.lines(map(harmless, records))


def show(state: Location, address: str) -> None:
    """Print everything recorded about a run: all attempts, newest last."""
    with closing(opened(state)) as store:
        attempts = store.attempts(address)
        if not attempts:
            raise unknown_address(address, {r.address for r in store.attempts()})
        if missing := store.missing_attempts(address):
            Output().note(f"{address}: {numbered(missing)} not kept: pruned, or older than a rebuilt state")
    Output().document({"address": address, "attempts": [encode(record) for record in attempts]})


def move(state: Location, old: str, new: str, lock_timeout: str) -> None:
    """Rename an address; the name of a matrix renames all its cells.

    Raises:
        InvalidInput: ``new`` is none, nothing is recorded at ``old``, or something is at ``new``.
    """
    _check_address(new)
    output = Output()
    with _writing(state, lock_timeout) as store:
        records = store.records()
        cells = [a for a in records if a.startswith(f"{old}[")] if old not in records and "[" not in new else []
        moves = {address: new + address[len(old) :] for address in cells or [old]}
        store.move(moves)
        for address, now in moves.items():
            output.note(f"{address} is now {now}")


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


def remove(state: Location, addresses: Sequence[str], lock_timeout: str) -> None:
    """Forget runs."""
    with _writing(state, lock_timeout) as store:
        found = list(chosen(store.records(), addresses))
        store.forget(found)
    Output().note(f"forgotten: {', '.join(found)}; what they have on an engine stays there")


def pull(state: Location, with_key: bool) -> None:
    """Print the whole state."""
    with closing(opened(state)) as store:
        Output().lines(map(harmless_json, transfer.dump(store, with_key=with_key)))


def push(state: Location, file: Path, lock_timeout: str) -> None:
    """Replace the state with the output of ``state pull``."""
    try:
        dump = transfer.checked(parsed(read_bounded(file, MOST_BYTES, pipes=True).decode()))
    except OSError as error:
        raise InvalidInput(f"cannot read {file}: {error.strerror}") from error
    except Unreadable as error:
        raise InvalidInput(f"{file} {error}", hint="give what `flowplan state pull` printed") from error
    except ValueError as error:
        raise InvalidInput(f"{file} is not JSON: {error}", hint="give what `flowplan state pull` printed") from error
    with _writing(state, lock_timeout, create=True) as store:
        transfer.load(store, dump)
    Output().note(f"{state} now has serial {dump.serial}")


def prune(state: Location, older: str, dry_run: bool, lock_timeout: str) -> None:
    """Remove attempts that nothing happened to for a time, with their output and files, and tell which."""
    age = seconds("--older", older) or 0.0
    output = Output()
    with _writing(state, lock_timeout) as store:
        providers = {record.provider for record in store.attempts()}
        pruned = pruning.prune(store, timestamp(datetime.now(UTC) - timedelta(seconds=age)), dry_run=dry_run)
        size = pruned.bytes
        if not dry_run:
            with Project.of_state(store) as project:
                size += project.engines.discard(providers, store.run_ids())
    for address, attempts in pruned.attempts.items():
        output.data(f"{harmless(address)}: {numbered(attempts)}")
    count = sum(map(len, pruned.attempts.values()))
    done = "would be removed" if dry_run else "removed"
    output.note(
        f"{done}: {count} attempts, {pruned.events} events, {pruned.plans} plans, {size:,} bytes of output and files"
    )


def unlock(state: Location) -> None:
    """Remove the lock of a dead holder."""
    found = state.break_lock()
    if found is None:
        Output().note("the state is not locked")
    else:
        Output().note(f"removed the lock of {found.get('command')} (pid {found.get('pid')})")


def migrate(source: Location, to: str, lock_timeout: str) -> None:
    """Move a state elsewhere, as it is, and leave a tombstone that says where it went."""
    wait = seconds("--lock-timeout", lock_timeout) or 0.0
    with closing(source.open(anywhere=True)) as old:
        target = place(to, environment=old.environment or None).state
        if source.same(target):
            raise InvalidInput("--from and --to are the same state")
        if old.project:
            target.belongs_to(old.project, old.environment)
        if old.moved_to not in ("", target.named()):
            old.check_home()
        with writing(source, "state migrate") as lock:
            lock.acquire(wait)
            with _writing(target, lock_timeout, create=True) as new:
                if not old.moved_to:
                    transfer.migrate(old, new)
    output = Output()
    output.note(f"{source} is now {target.named()}; what was here is kept, and is not used any more")
    runs = [place.runs_dir for place in (source, target)]
    if runs[0] != runs[1] and runs[0].is_dir():
        output.note(
            f"note: the files of its processes are in {runs[0]}; move them to {runs[1]} while none of them runs"
        )


def upgrade(state: Location) -> None:
    """Bring a state to the newest format."""
    before, now = state.upgrade()
    done = (
        f"has format {now} already"
        if before == now
        else f"has format {now} now" + (f", {before} before" if before else "")
    )
    Output().note(f"{state} {done}")


def grants(state: Location, writer: Sequence[str], planner: Sequence[str], reader: Sequence[str]) -> None:
    """Print what the owner of a database has to give for each role."""
    roles = {
        name: kind for kind, names in (("writer", writer), ("planner", planner), ("reader", reader)) for name in names
    }
    if not roles:
        raise InvalidInput("name at least one role of the database with --writer, --planner or --reader")
    Output().lines(state.grants(roles))


def moved(state: Location, lock_timeout: str) -> None:
    """Declare that the place where this state was before holds it no more."""
    with _writing(state, lock_timeout, anywhere=True) as store:
        ownership.settle(store)
    Output().note(f"the state is at home at {state.named()} now; a copy that is left elsewhere must not be used")


def new_lineage(state: Location, lock_timeout: str) -> None:
    """Make a copy of a state one of its own."""
    with _writing(state, lock_timeout, anywhere=True) as store:
        managed = ownership.start_lineage(store)
    output = Output()
    output.note(f"the state {state} is one of its own now, lineage {store.lineage}")
    if managed:
        output.note(f"not managed any more, they belong to the state that it was copied from: {', '.join(managed)}")


def rebuild(place: Place, given: Given, lineage: str, lock_timeout: str) -> None:
    """Record again what the engines have of this project."""
    from flowplan import rebuilding

    with _ready(place.state, lock_timeout) as ready:
        found = rebuilding.rebuild(
            Request(place.state, place.spec, given=given, environment=place.environment), lineage, ready
        )
    for record in found:
        Output().note(f"{record.address}: attempt {record.attempt} is {record.status}")
    Output().note(f"{len(found)} runs recorded again")


def import_(place: Place, address: str, object_id: str, given: Given, lock_timeout: str) -> None:
    """Record an object that exists already as the run that the spec wants."""
    from flowplan.rebuilding import import_object

    request = Request(place.state, place.spec, given=given, environment=place.environment)
    with _ready(place.state, lock_timeout) as ready, Project.of_spec(request, ready) as project:
        record = import_object(project, address, object_id)
    Output().note(f"{record.address} is now {record.infrastructure_id or record.name} ({record.status})")


@contextmanager
def _ready(state: Location, lock_timeout: str) -> Iterator[Callable[[], None]]:
    """Yield what takes the writer's lock and announces a new state, once the spec is known to have no fault."""
    with writing(state, "state") as lock:

        def ready() -> None:
            lock.acquire(seconds("--lock-timeout", lock_timeout) or 0.0)
            if not state.exists():
                _announce(state)

        yield ready
