"""The state: records, attempts, events and settings of one project, in SQLite behind one narrow interface."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowplan.schemas.errors import InvalidInput, Refused, StateError
from flowplan.schemas.events import Event
from flowplan.schemas.faults import point
from flowplan.schemas.lifecycle import Progress, after, finished
from flowplan.schemas.runs import Objects, Observed, Recorded, Settings, Status
from flowplan.state import files, home, journal, migrations, rows
from flowplan.state.reading import Reading

if TYPE_CHECKING:
    from flowplan.state.pruning import Pruned

FORGOTTEN = "Forgotten"
"""The reason of an attempt that is not managed any more and whose object was left alone."""


class Store(Reading):
    """An opened state. Every method that changes something is one durable transaction and grows the serial.

    All methods raise StateError, and change nothing, when the state cannot be written.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, *, read_only: bool) -> None:
        super().__init__(path, connection)
        self.read_only = read_only
        self._file = files.identity(path)
        self.moved_from = ""
        """Where the state was when it was last used, if it was moved since."""
        self._unsettled = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        create: bool = False,
        read_only: bool = False,
        born: tuple[str, bytes] | None = None,
        anywhere: bool = False,
    ) -> Store:
        """Open the state at ``path``; with ``create`` make an empty one (0600, directory 0700) where there is none.

        Args:
            born: lineage and key of the state if it is made now, see ``new_identity``.
            anywhere: True to open a copy of a state, too; what is opened for reading only may be one.

        Raises:
            StateError: there is none; it is no state, damaged, of a newer format, or not writable and not
                ``read_only``; the message says the way back.
            Refused: it is a copy of a state that may still be used.
        """
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

    @staticmethod
    def exists(path: Path) -> bool:
        """True when there is something at ``path``, be it usable or not.

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
        """Find out whether the state is where it is at home; where it was moved, ``moved_from`` says from where.

        Raises:
            Refused: it is a copy of a state that may still be used.
        """
        known = home.recorded(self._one("SELECT home FROM meta")[0])
        self.moved_from = home.moved_from(known, self.path, self.lineage)
        self._unsettled = known != home.here(self.path)

    def settle(self) -> None:
        """Make this place the home of the state, wherever it was before."""
        with self._changing("settle") as db:
            db.execute("UPDATE meta SET home = ?", (home.here(self.path).text(),))

    def start_lineage(self) -> list[str]:
        """Make the state one of its own, with a new lineage and a new key, at home here.

        Its history stays. What it managed carries the labels of the old lineage, and is not managed any more.

        Returns:
            The addresses that were managed.
        """
        managed = list(self.records())
        self.forget(managed)
        with self._changing("start_lineage") as db:
            db.execute("UPDATE attempts SET present = 0")
            db.execute("DELETE FROM notes")  # what is in them was made with the old key
            lineage, key = new_identity()
            db.execute("UPDATE meta SET lineage = ?, key = ?", (lineage, key))
            db.execute("UPDATE meta SET home = ?", (home.here(self.path).text(),))
        self.lineage, self.key = self._identity()
        return managed

    def claim_project(self, project: str) -> None:
        """Make the state belong to ``project``.

        Raises:
            Refused: it has records of another project.
        """
        owner = self.project
        if owner == project:
            return
        with self._changing("claim_project") as db:
            owner, used = db.execute("SELECT project, EXISTS (SELECT 1 FROM records) FROM meta").fetchone()
            if owner is not None and owner != project and used:
                raise Refused(
                    f"the state {self.path} belongs to project {owner}, not {project}",
                    hint="--state names another file; `flowplan destroy` first gives this one free",
                )
            db.execute("UPDATE meta SET project = ?", (project,))

    def take_lineage(self, lineage: str) -> None:
        """Give an empty state the lineage of one that was lost, so that what carries its labels is its own again.

        Raises:
            Refused: attempts are recorded under the lineage that the state has.
        """
        with self._changing("take_lineage") as db:
            if lineage != self.lineage and db.execute("SELECT EXISTS (SELECT 1 FROM attempts)").fetchone()[0]:
                raise Refused(
                    f"the state {self.path} has records of lineage {self.lineage}, not of {lineage}",
                    hint="rebuild into an empty state, named with --state",
                )
            db.execute("UPDATE meta SET lineage = ? WHERE lineage <> ?", (lineage, lineage))
        self.lineage, self.key = self._identity()

    def intend(self, items: Sequence[Recorded], *, plan_digest: str = "") -> list[Event]:
        """Write down what is about to be created, before the engine is called (design 8); one event each.

        The address's newest attempt is this one from now on. An intent that is written down already and still
        ``creating`` takes the given objects without another event.

        Raises:
            Refused: an attempt of the same run id has gone beyond ``creating``.
        """
        with self._changing("intend") as db:
            known = self._progress(item.run_id for item in items)
            for item in items:
                self._still_creating(item, known.get(item.run_id))
            fresh = [_intent(item, known.get(item.run_id), plan_digest) for item in items]
            journal.put(db, fresh)
            journal.carried_out(db, plan_digest, [item.address for item in items])
            new = [item for item in items if item.run_id not in known]
            return journal.append(db, [journal.Draft(i.address, i.run_id, i.attempt, Status.CREATING) for i in new])

    def observe(self, seen: Sequence[Observed]) -> list[Event]:
        """Record what the engine says, by ``lifecycle.after``; returns an event for each new (status, reason).

        Run ids that the state does not know are ignored. Writes nothing, and waits for nobody, when nothing is new.
        """
        return self.advance(seen)[0]

    def advance(self, seen: Sequence[Observed]) -> tuple[list[Event], dict[str, Progress]]:
        """As ``observe``; returns also what has changed, by run id."""
        version = self._version()
        changed, drafts = self._advanced(seen)
        if not changed:
            return [], {}
        with self._changing("observe") as db:
            if self._version() != version:  # somebody else has written since
                changed, drafts = self._advanced(seen)
            journal.save(db, changed)
            return journal.append(db, drafts), changed

    def finish(
        self,
        run_id: str,
        status: Status,
        *,
        reason: str = "",
        message: str = "",
        exit_code: int | None = None,
        started_at: str | None = None,
        finished_at: str | None = None,
        engine_at: str | None = None,
        present: bool | None = None,
    ) -> list[Event]:
        """Record flowplan's own verdict (start failed, timed out, cancelled); an attempt that has ended keeps its end."""
        with self._changing("finish") as db:
            address, attempt, before = self._known(run_id)
            then = finished(
                before,
                status,
                reason=reason,
                message=message,
                exit_code=exit_code,
                started_at=started_at,
                finished_at=finished_at or rows.now(),
                present=present,
            )
            if then == before:
                return []
            journal.save(db, {run_id: then})
            draft = journal.Draft(address, run_id, attempt, then.status, then.reason, then.message, engine_at)
            return journal.append(db, [draft] if then.status is not before.status else [])

    def applied(
        self,
        run_id: str,
        *,
        objects: Objects,
        settings: Settings,
        plan_digest: str = "",
        name: str | None = None,
    ) -> None:
        """Record what is in force now, after an update, an adoption or a refresh."""
        with self._changing("applied") as db:
            address, _attempt, before = self._known(run_id)
            changes: dict[str, Any] = {"plan_digest": plan_digest or before.plan_digest}
            then = replace(before, **changes if name is None else changes | {"name": name})
            text = db.execute("SELECT applied FROM attempts WHERE run_id = ?", (run_id,)).fetchone()[0]
            [now_applied] = self._decoded(lambda row: rows.reapplied(row[0], objects, settings), [(text,)])
            if then != before or now_applied != text:
                journal.save(db, {run_id: then})
                db.execute("UPDATE attempts SET applied = ? WHERE run_id = ?", (now_applied, run_id))
            journal.carried_out(db, plan_digest, [address])

    def set_tail(self, run_id: str, text: str) -> None:
        """Keep the end of a run's output (64 KiB), which the caller has redacted."""
        self.set_tails({run_id: text})

    def set_tails(self, texts: Mapping[str, str]) -> None:
        """Keep the ends of the output of several runs, by run id."""
        with self._changing("set_tails") as db:
            journal.put_tails(db, texts)

    def absent(self, run_ids: Sequence[str]) -> None:
        """Record that the objects of these attempts are known to be removed; their status stays."""
        with self._changing("absent") as db:
            db.executemany(
                "UPDATE attempts SET present = 0 WHERE run_id = ? AND present = 1", [(run_id,) for run_id in run_ids]
            )

    def destroyed(self, run_ids: Sequence[str], *, reason: str = "", plan_digest: str = "") -> list[Event]:
        """Record that these objects were removed on purpose; how the runs ended stays in their history.

        An address whose newest attempt is among them is not managed any more.
        """
        with self._changing("destroyed") as db:
            known = self._progress(run_ids)
            journal.unmanage(db, run_ids)
            journal.carried_out(db, plan_digest, [address for address, _, _ in known.values()])
            return self._end(db, known, reason=reason, present=False)

    def forget(self, addresses: Sequence[str], *, plan_digest: str = "") -> list[Event]:
        """Stop managing these addresses and leave their objects alone; the event's reason is ``Forgotten``."""
        with self._changing("forget") as db:
            found = db.execute(
                "SELECT run_id FROM records WHERE address IN (SELECT value FROM json_each(?))",
                (rows.dumps(list(addresses)),),
            ).fetchall()
            known = self._progress(run_id for (run_id,) in found)
            journal.unmanage(db, known)
            journal.carried_out(db, plan_digest, addresses)
            message = "no longer managed; the object was left alone"
            return self._end(db, known, reason=FORGOTTEN, message=message)

    def move(self, old: str, new: str) -> None:
        """Rename an address in its record and its history; the run and its run id stay as they are.

        Raises:
            InvalidInput: nothing is recorded at ``old``, or something is at ``new``.
        """
        with self._changing("move") as db:
            managed = {a for (a,) in db.execute("SELECT address FROM records WHERE address IN (?, ?)", (old, new))}
            if old not in managed:
                raise InvalidInput(f"nothing is recorded at {old}", hint="`flowplan state list` shows the addresses")
            if new in managed:
                raise InvalidInput(f"there is a record at {new} already", hint="destroy, remove or move that one first")
            db.execute("UPDATE records SET address = ? WHERE address = ?", (new, old))
            found = db.execute("SELECT applied, run_id FROM attempts WHERE address = ?", (old,)).fetchall()
            born = self._decoded(lambda row: (rows.moved(row[0], old), row[1]), found)
            db.executemany("UPDATE attempts SET applied = ? WHERE run_id = ?", born)
            db.execute("UPDATE attempts SET address = ? WHERE address = ?", (new, old))
            db.execute("UPDATE events SET address = ?, run = ? WHERE address = ?", (new, rows.run_of(new), old))
            journal.count(
                db, [(new, n) for (n,) in db.execute("SELECT attempt FROM counters WHERE address = ?", (old,))]
            )

    def add(self, record: Recorded) -> list[Event]:
        """Record an object that exists already (import, rebuild); it becomes its address's newest attempt."""
        with self._changing("add") as db:
            journal.put(db, [record])
            if record.output_tail:
                journal.put_tails(db, {record.run_id: record.output_tail})
            draft = journal.Draft(
                record.address, record.run_id, record.attempt, record.status, record.reason, record.message
            )
            return journal.append(db, [draft])

    def note_plan(self, plan_digest: str, addresses: Sequence[str]) -> None:
        """Remember that the plan's changes of these addresses have been carried out.

        ``intend``, ``applied``, ``destroyed`` and ``forget`` do it in their own transaction when given the digest.
        """
        with self._changing("note_plan") as db:
            journal.carried_out(db, plan_digest, addresses)

    def remember(self, name: str, document: Mapping[str, Any]) -> None:
        """Keep a JSON document under a name, for later commands; it never holds a secret value."""
        text = rows.dumps(document)
        with self._changing("remember") as db:
            db.execute("DELETE FROM notes WHERE name = ? AND document <> ?", (name, text))
            db.execute("INSERT OR IGNORE INTO notes (name, document) VALUES (?, ?)", (name, text))

    def prune(self, before: str, *, dry_run: bool = False) -> Pruned:
        """Remove old attempts for good, by ``pruning.prune``, and give their room back to the disk."""
        from flowplan.state import pruning

        with self._changing("prune") as db:
            pruned = pruning.prune(db, before, dry_run=dry_run)
        if pruned.attempts and not dry_run:
            with files.explained(self.path):
                self._connection.execute("VACUUM")
        return pruned

    def dump(self, *, with_key: bool = False) -> Iterator[str]:
        """The whole state as lines of a JSON document; the fingerprint key only when asked for."""
        from flowplan.state import transfer

        with files.explained(self.path):
            yield from transfer.dump(self, self._connection, with_key=with_key)

    def load_dump(self, document: Mapping[str, Any]) -> None:
        """Replace everything by a dump.

        Raises:
            InvalidInput: it is not a dump.
            Refused: it is of another lineage (unless this state is empty) or older than this state.
        """
        from flowplan.state import transfer

        with self._changing("load_dump") as db:
            transfer.load(self, db, document)
        self.lineage, self.key = self._identity()

    @contextlib.contextmanager
    def _changing(self, what: str) -> Iterator[sqlite3.Connection]:
        """One transaction, which has the write lock from its beginning and grows the serial if rows changed."""
        if self.read_only:
            raise StateError(f"the state {self.path} is open for reading only")
        point(f"state:{what}:before")
        with files.explained(self.path), _transaction(self._connection) as db:
            before = db.total_changes
            yield db
            if db.total_changes != before:
                db.execute("UPDATE meta SET serial = serial + 1")
                if self._unsettled:
                    db.execute("UPDATE meta SET home = ?", (home.here(self.path).text(),))
            if files.identity(self.path) != self._file:
                raise StateError(f"the state {self.path} has vanished or was replaced", hint=files.REBUILD)
            point(f"state:{what}:written")
        point(f"state:{what}:after")

    def _version(self) -> int:
        """Another one when another connection has changed the state."""
        return int(self._one("PRAGMA data_version")[0])

    def _known(self, run_id: str) -> tuple[str, int, Progress]:
        try:
            return self._progress([run_id])[run_id]
        except KeyError:
            raise StateError(f"the state {self.path} knows no run {run_id}") from None

    def _still_creating(self, item: Recorded, known: tuple[str, int, Progress] | None) -> None:
        if known is not None and known[2].status is not Status.CREATING:
            raise Refused(
                f"attempt {item.attempt} is recorded as {known[2].status} already",
                hint="another flowplan was faster; plan again",
                address=item.address,
            )

    def _advanced(self, seen: Sequence[Observed]) -> tuple[dict[str, Progress], list[journal.Draft]]:
        """The attempts that observations change, and the events of it, in the order of the observations."""
        known = self._progress(one.run_id for one in seen)
        changed: dict[str, Progress] = {}
        drafts = []
        for one in (one for one in seen if one.run_id in known):
            address, attempt, before = known[one.run_id]
            then = after(before, one)
            if then == before:
                continue
            known[one.run_id], changed[one.run_id] = (address, attempt, then), then
            if (then.status, then.reason) != (before.status, before.reason):
                happened = one.finished_at if one.over else one.started_at if one.status is Status.RUNNING else None
                drafts.append(
                    journal.Draft(
                        address, one.run_id, attempt, then.status, then.reason, then.message, happened or one.at
                    )
                )
        return changed, drafts

    def _end(
        self,
        db: sqlite3.Connection,
        known: Mapping[str, tuple[str, int, Progress]],
        *,
        reason: str,
        message: str = "",
        present: bool | None = None,
    ) -> list[Event]:
        """Make attempts ``destroyed``; those that are already only learn whether their object is still there."""
        ended, drafts = {}, []
        for run_id, (address, attempt, before) in known.items():
            shown = before.present if present is None else present
            ended[run_id] = replace(before, status=Status.DESTROYED, present=shown)
            if before.status is not Status.DESTROYED:
                ended[run_id] = replace(ended[run_id], reason=reason, message=message)
                drafts.append(journal.Draft(address, run_id, attempt, Status.DESTROYED, reason, message))
        journal.save(db, {run_id: p for run_id, p in ended.items() if p != known[run_id][2]})
        return journal.append(db, drafts)


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


def new_identity() -> tuple[str, bytes]:
    """A new lineage, and a new key for fingerprints."""
    import secrets
    import uuid

    return str(uuid.uuid4()), secrets.token_bytes(32)


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


def _intent(item: Recorded, known: tuple[str, int, Progress] | None, plan_digest: str) -> Recorded:
    """The record of an intent; whether its object exists is open until the engine has answered."""
    created_at = (known[2].created_at if known else None) or item.created_at or rows.now()
    return replace(
        item,
        status=Status.CREATING,
        present=True,
        plan_digest=plan_digest or item.plan_digest,
        created_at=created_at,
    )
