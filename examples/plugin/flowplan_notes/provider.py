"""The doing half: notes are files of a directory. What is written at once has ended at once, and well."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowplan.providers.polling import watch_by_looking
from flowplan.providers.protocol import IMPORTED, Context, Found, LogLine, News, Order, of_other_content
from flowplan.schemas.errors import ProviderError
from flowplan.schemas.plans import FieldChange, Finding
from flowplan.schemas.runs import Objects, Observed, Recorded, Status, Target

Note = dict[str, Any]
"""What a file holds: ``text`` and ``labels``, and of what run it is, unless flowplan did not write it."""


def connect(context: Context) -> Notes:
    """Return one connection; ``context.settings`` is the entry in ``providers:``."""
    directory = context.spec_dir / context.settings.get("directory", "notes")
    return Notes(directory, context.lineage, context.project, context.environment)


class Notes:
    """Notes in a directory; a file knows the run that it belongs to."""

    def __init__(self, directory: Path, lineage: str, project: str, environment: str) -> None:
        self._directory = directory
        self._lineage = lineage
        self._project = project
        self._environment = environment

    def target(self) -> Target:
        return Target("notes", str(self._directory), str(self._directory))

    def observe(self, records: Sequence[Recorded], wanted: Iterable[Objects] | None = None) -> list[Observed]:
        there = self._there()
        seen = [self._seen_as(record, there.pop(_id_of(record), None)) for record in records]
        for note in there.values():
            ours = note.get("lineage") == self._lineage
            of_project = self._is_here(note, self._project) and wanted is not None
            if ours or ("lineage" in note and of_project):
                seen.append(self._seen(note))
        return seen

    def preflight(self, orders: Sequence[Order]) -> list[Finding]:
        if self._directory.exists() and not self._directory.is_dir():
            words = f"{self._directory} is not a directory"
            return [Finding(o.identity.address, "error", "directory", words, "name another one") for o in orders]
        return []

    def create(self, order: Order) -> Observed:
        identity = order.identity
        there = self._there().get(identity.run_id)
        if there and _content(there) != _content(order.objects["Note"]):
            raise of_other_content(f"the note {order.name}", identity.address)
        note = {
            **order.objects["Note"],
            "name": order.name,
            "run_id": identity.run_id,
            "project": identity.project,
            "environment": identity.environment,
            "lineage": identity.lineage,
            "address": identity.address,
            "attempt": identity.attempt,
        }
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            draft = self._file(order.name).with_suffix(".new")
            draft.write_text(json.dumps(note), encoding="utf-8")
            draft.replace(self._file(order.name))  # whole or not at all: others may be reading
        except OSError as error:
            words = f"cannot write into {self._directory}: {error.strerror}"
            raise ProviderError(words, address=identity.address) from error
        return self._seen(note)

    def update(self, record: Recorded, order: Order, fields: Sequence[FieldChange]) -> Observed:
        raise ProviderError("a note is written once; it must be replaced", address=record.address)

    def delete(self, record: Recorded, grace: float) -> None:
        note = self._there().get(_id_of(record))
        if note:
            self._file(note["name"]).unlink(missing_ok=True)

    def watch(self, records: Sequence[Recorded], stop: threading.Event) -> Iterator[News]:
        return watch_by_looking(records, stop, self.observe)

    def logs(
        self, record: Recorded, *, follow: bool, tail: int | None, stop: threading.Event | None = None
    ) -> Iterator[LogLine]:
        note = self._there().get(_id_of(record))
        if note is None:
            raise ProviderError(f"there is no note {record.name}", address=record.address)
        lines = note["text"].splitlines()
        yield from (LogLine(line) for line in (lines if tail is None else lines[max(0, len(lines) - tail) :]))

    def secret_values(self, record: Recorded) -> list[str]:
        return []

    def find(self, project: str, wanted: Sequence[Objects] = ()) -> list[Found]:
        notes = [note for note in self._there().values() if self._is_here(note, project)]
        return [self._found(note) for note in sorted(notes, key=lambda note: int(note["attempt"]))]

    def describe(self, object_id: str) -> Found:
        for note in self._there().values():
            if note["name"] == object_id:
                found = self._found(note)
                return replace(found, seen=replace(found.seen, handle={**found.seen.handle, IMPORTED: True}))
        raise ProviderError(f"there is no note {object_id} in {self._directory}", reason="NotFound")

    def close(self) -> None:
        pass

    def _is_here(self, note: Note, project: str) -> bool:
        return (note.get("project"), note.get("environment", "")) == (project, self._environment)

    def _file(self, name: str) -> Path:
        return self._directory / f"{name}.json"

    def _there(self) -> dict[str, Note]:
        """Return all notes, those of runs by their run ids, others by their names."""
        notes = []
        for path in sorted(self._directory.glob("*.json")):
            with contextlib.suppress(FileNotFoundError):  # another thread has just removed it
                notes.append({"labels": {}, **json.loads(path.read_text(encoding="utf-8")), "name": path.stem})
        return {note.get("run_id", note["name"]): note for note in notes}

    def _seen_as(self, record: Recorded, note: Note | None) -> Observed:
        """Return the observation of a record; an imported note does not have the identity that its record has."""
        seen = self._seen(note) if note else Observed(record.run_id, exists=False)
        return replace(seen, run_id=record.run_id, address=record.address, attempt=record.attempt)

    def _seen(self, note: Note) -> Observed:
        lineage = note.get("lineage", "")
        return Observed(
            note.get("run_id", ""),
            address=note.get("address", ""),
            attempt=note.get("attempt", 0),
            status=Status.SUCCEEDED,
            reason="Written",
            exit_code=0,
            attempts=1,
            handle={"name": note["name"]},
            name=note["name"],
            infrastructure_id=note["name"],
            live=_objects(note),
            content=_content(note),
            lineage="" if lineage == self._lineage else lineage,
        )

    def _found(self, note: Note) -> Found:
        objects = _objects(note)
        known = (note.get("project", ""), note.get("lineage", ""))
        return Found(self._seen(note), *known, objects=objects, bare=objects, applied=objects if known[1] else None)


def _id_of(record: Recorded) -> str:
    return str(record.handle["name"]) if record.handle.get(IMPORTED) else record.run_id


def _objects(note: Note) -> Objects:
    return {"Note": {key: note[key] for key in ("name", "text", "labels")}}


def _content(note: Note) -> str:
    return str(note["labels"].get("flowplan.dev/content", ""))
