"""The state: records, attempts, events and settings of one project, and what is written when something happens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from flowplan.schemas.accepted import StepPhase
from flowplan.schemas.errors import InvalidInput, Refused, StateError
from flowplan.schemas.events import Event
from flowplan.schemas.lifecycle import End, Progress
from flowplan.schemas.runs import Objects, Observed, Recorded, Settings, Status
from flowplan.state import rows, transitions
from flowplan.state.journal import Journal
from flowplan.state.location import Location
from flowplan.state.reading import Reading
from flowplan.state.transitions import FORGOTTEN


class Store(Reading):
    """An opened state. Every method that changes something is one durable transaction and grows the serial.

    All methods raise StateError, and change nothing, when the state cannot be written.

    Attributes:
        read_only: nothing can be written.
        moved_from: where the state was when it was last used, if it was moved since; else "".
        moved_to: where the state is by now, if this is only its tombstone; else "".
        misfits: what is raised for values that the database does not take.
    """

    read_only: bool
    moved_from: str = ""
    moved_to: str = ""
    misfits: tuple[type[Exception], ...] = ()

    @property
    def project(self) -> str | None:
        """Return the project that the state belongs to, None while it belongs to none."""
        found = self.scope
        return None if found is None else found.partition("/")[0]

    @property
    def environment(self) -> str:
        """Return the environment that the state belongs to, "" for none."""
        return (self.scope or "").partition("/")[2]

    @abstractmethod
    def check_home(self) -> None:
        """Find out whether the state is where it is at home; where it was moved, ``moved_from`` says from where.

        Raises:
            Refused: it is a copy of a state that may still be used.
        """

    @abstractmethod
    def here(self) -> dict[str, str | None]:
        """Return the columns that say where the state is now, for ``Journal.identify``."""

    @abstractmethod
    def gone(self, place: str) -> dict[str, str | None]:
        """Return the columns that say that the state was moved elsewhere, and is not written here any more."""

    @abstractmethod
    def changing(self, what: str, run_ids: Collection[str] = ()) -> AbstractContextManager[Journal]:
        """Make one transaction, which keeps other writers away from its beginning, and grows the serial if rows changed.

        Args:
            what: the name of the fault points of tests.
            run_ids: of which ``known`` is asked in it: a database answers that together with its beginning.

        Raises:
            LockLost: this process had the writer's lock, and has it no more.
        """

    @abstractmethod
    def compact(self) -> None:
        """Give the room of what was removed back to the disk."""

    def intend(self, items: Sequence[Recorded], *, plan_digest: str = "") -> list[Event]:
        """Write down what is about to be created, before the engine is called; one event each.

        The address's newest attempt is this one from now on. An intent that is written down already and still
        ``creating`` takes the given objects without another event.

        Raises:
            Refused: an attempt of the same run id has gone beyond ``creating``.
        """
        run_ids = [item.run_id for item in items]
        with self.changing("intend", run_ids) as journal:
            known = self.known(run_ids)
            journal.put(transitions.intended(items, known, plan_digest, rows.now()))
            journal.carried_out(plan_digest, [item.address for item in items], StepPhase.STARTED)
            new = [item for item in items if item.run_id not in known]
            return journal.append([transitions.event(i.address, i.run_id, i.attempt, Status.CREATING) for i in new])

    def observe(self, seen: Sequence[Observed]) -> list[Event]:
        """Record what the engine says, by ``lifecycle.after``; return an event for each new (status, reason) and each retry.

        Run ids that the state does not know are ignored. Writes nothing, and waits for no lock, when nothing is new.
        """
        return self.advance(seen)[0]

    def advance(self, seen: Sequence[Observed], *, at_once: bool = False) -> tuple[list[Event], dict[str, Progress]]:
        """As ``observe``; return also what has changed, by run id.

        Args:
            at_once: do not look first whether something is new: it is likely, and no other writer is to be waited for.
        """
        run_ids = [one.run_id for one in seen]
        if not at_once and not transitions.advanced(seen, self.known(run_ids)).progress:
            return [], {}
        with self.changing("observe", run_ids) as journal:
            change = transitions.advanced(seen, self.known(run_ids))
            return journal.write(change) if change.progress else [], change.progress

    def finish(self, ends: Sequence[End]) -> list[Event]:
        """Record flowplan's own verdicts (start failed, timed out, cancelled); an attempt that has ended keeps its end."""
        run_ids = [end.run_id for end in ends]
        with self.changing("finish", run_ids) as journal:
            return journal.write(transitions.concluded(ends, self._known(run_ids), rows.now()))

    def applied(self, in_force: Mapping[str, tuple[Objects, Settings]], *, plan_digest: str = "") -> None:
        """Record what is in force now, after an update, an adoption or a refresh: run id -> objects and settings."""
        with self.changing("applied", in_force) as journal:
            known = self._known(in_force)
            found = self.among("SELECT run_id, applied FROM attempts WHERE run_id", in_force)
            texts = self.decoded(lambda row: (row[0], row[1], rows.reapplied(row[1], *in_force[row[0]])), found)
            changed = {run_id: now for run_id, before, now in texts if now != before}
            digests = {one.run_id: plan_digest or one.progress.plan_digest for one in known.values()}
            then = {one.run_id: one.progress._replace(plan_digest=digests[one.run_id]) for one in known.values()}
            journal.write(transitions.Written({r: p for r, p in then.items() if p != known[r].progress}, []))
            journal.apply(changed)
            journal.carried_out(plan_digest, [one.address for one in known.values()])

    def set_tails(self, texts: Mapping[str, str]) -> None:
        """Keep the ends of the output of runs (64 KiB), which the caller has redacted, by run id."""
        with self.changing("set_tails") as journal:
            journal.put_tails(texts)

    def absent(self, run_ids: Sequence[str]) -> None:
        """Record that the objects of these attempts are known to be removed; their status stays."""
        with self.changing("absent") as journal:
            journal.absent(run_ids)

    def destroyed(self, run_ids: Sequence[str], *, reason: str = "", plan_digest: str = "") -> list[Event]:
        """Record that these objects were removed on purpose; how the runs ended stays in their history.

        An address whose newest attempt is among them is not managed any more.
        """
        with self.changing("destroyed", run_ids) as journal:
            known = self.known(run_ids).values()
            journal.unmanage(run_ids)
            journal.carried_out(plan_digest, [one.address for one in known])
            return journal.write(transitions.destroyed(known, reason=reason, present=False))

    def forget(self, addresses: Sequence[str], *, plan_digest: str = "") -> list[Event]:
        """Stop managing these addresses and leave their objects alone; the event's reason is ``Forgotten``."""
        with self.changing("forget") as journal:
            known = self.known(run_id for address, run_id in self._newest(addresses))
            journal.unmanage(known)
            journal.carried_out(plan_digest, addresses)
            journal.drop(addresses, "no longer managed")
            message = "no longer managed; the object was left alone"
            return journal.write(transitions.destroyed(known.values(), reason=FORGOTTEN, message=message))

    def move(self, moves: Mapping[str, str], *, plan_digest: str = "") -> None:
        """Rename addresses, old to new, in their records and history; the runs and their run ids stay as they are.

        Raises:
            InvalidInput: nothing is recorded at an old address, or something is at a new one.
        """
        with self.changing("move") as journal:
            managed = {address for address, _ in self._newest([*moves, *moves.values()])}
            for old, new in moves.items():
                if old not in managed:
                    hint = "`flowplan state list` shows the addresses"
                    raise InvalidInput(f"nothing is recorded at {old}", hint=hint)
                if new in managed:
                    hint = "destroy, remove or move that one first"
                    raise InvalidInput(f"there is a record at {new} already", hint=hint)
            found = self.among("SELECT run_id, applied, address FROM attempts WHERE address", moves)
            journal.apply(dict(self.decoded(lambda row: (row[0], rows.moved(row[1], row[2])), found)))
            journal.move(moves)
            journal.drop(moves, "moved")
            journal.carried_out(plan_digest, list(moves.values()))

    def add(self, records: Sequence[Recorded]) -> list[Event]:
        """Record objects that exist already (import, rebuild); each becomes its address's newest attempt."""
        with self.changing("add") as journal:
            journal.put(records)
            journal.drop([r.address for r in records], "recorded by another command")
            journal.put_tails({r.run_id: r.output_tail for r in records if r.output_tail})
            return journal.append(
                [transitions.event(r.address, r.run_id, r.attempt, r.status, r.reason, r.message) for r in records]
            )

    def remember(self, name: str, document: Mapping[str, Any]) -> None:
        """Keep a JSON document under a name, for later commands; it never holds a secret value."""
        with self.changing("remember") as journal:
            journal.note({name: rows.dumps(document)})

    def _known(self, run_ids: Collection[str]) -> dict[str, transitions.Known]:
        known = self.known(run_ids)
        if unknown := [run_id for run_id in run_ids if run_id not in known]:
            raise StateError(f"the state {self.location} knows no run {', '.join(unknown)}")
        return known

    def _newest(self, addresses: Iterable[str]) -> list[tuple[str, str]]:
        """Return address and run id of the newest attempts at some addresses."""
        return self.among("SELECT address, run_id FROM records WHERE address", addresses)


def moved_away(location: Location, place: str) -> Refused:
    """Return the error for a state that was moved elsewhere."""
    return Refused(
        f"the state {location} was moved to {place}, and is not used here any more",
        hint=f"name that one: --state '{place}'; `flowplan state moved` makes this one usable again",
    )


def new_identity() -> tuple[str, bytes]:
    """Return a new lineage, and a new key for fingerprints."""
    import secrets
    import uuid

    return str(uuid.uuid4()), secrets.token_bytes(32)
