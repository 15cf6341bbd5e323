"""The doing half: notes are files of a directory. What is written at once has ended at once, and well."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flowplan.providers.protocol import Context, LogLine, Order, of_other_content
from flowplan.schemas.errors import ProviderError
from flowplan.schemas.plans import FieldChange, Finding
from flowplan.schemas.runs import Objects, Observed, Recorded, Status, Target


def connect(context: Context) -> Notes:
    """One connection; ``context.settings`` is the entry in ``providers:``."""
    return Notes(context.spec_dir / context.settings.get("directory", "notes"), context.lineage)


class Notes:
    """Notes in a directory; a file knows the run that it belongs to."""

    def __init__(self, directory: Path, lineage: str) -> None:
        self._directory = directory
        self._lineage = lineage

    def target(self) -> Target:
        return Target("notes", str(self._directory), str(self._directory))

    def observe(self, records: Sequence[Recorded], wanted: Iterable[Objects] | None = None) -> list[Observed]:
        there = {note["run_id"]: _observed(note) for note in self._ours()}
        known = [there.pop(r.run_id, Observed(r.run_id, exists=False, address=r.address)) for r in records]
        return [*known, *there.values()]

    def preflight(self, orders: Sequence[Order]) -> list[Finding]:
        if self._directory.exists() and not self._directory.is_dir():
            words = f"{self._directory} is not a directory"
            return [Finding(o.identity.address, "error", "directory", words, "name another one") for o in orders]
        return []

    def create(self, order: Order) -> Observed:
        known = {"run_id": order.identity.run_id, "lineage": order.identity.lineage}
        note = {**order.objects["Note"], **known, "address": order.identity.address, "attempt": order.identity.attempt}
        if any(n["run_id"] == note["run_id"] and n["labels"] != note["labels"] for n in self._ours()):
            raise of_other_content(f"the note {order.name}", order.identity.address)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            draft = self._file(order.name).with_suffix(".new")
            draft.write_text(json.dumps(note), encoding="utf-8")
            draft.replace(self._file(order.name))  # whole or not at all: others may be reading
        except OSError as error:
            raise ProviderError(
                f"cannot write into {self._directory}: {error.strerror}", address=note["address"]
            ) from error
        return _observed(note)

    def update(self, record: Recorded, order: Order, fields: Sequence[FieldChange]) -> Observed:
        return self.create(order)

    def delete(self, record: Recorded, grace: float) -> None:
        if any(note["run_id"] == record.run_id for note in self._ours()):
            self._file(record.name).unlink(missing_ok=True)

    def watch(self, records: Sequence[Recorded], stop: threading.Event) -> Iterator[Observed | None]:
        yield from self.observe(records)

    def logs(
        self, record: Recorded, *, follow: bool, tail: int | None, stop: threading.Event | None = None
    ) -> Iterator[LogLine]:
        lines = [line for note in self._ours() if note["run_id"] == record.run_id for line in note["text"].splitlines()]
        yield from (LogLine(line) for line in (lines if tail is None else lines[len(lines) - tail :]))

    def secret_values(self, record: Recorded) -> list[str]:
        return []

    def close(self) -> None:
        pass

    def _file(self, name: str) -> Path:
        return self._directory / f"{name}.json"

    def _ours(self) -> list[dict[str, Any]]:
        notes = []
        for path in sorted(self._directory.glob("*.json")):
            with contextlib.suppress(FileNotFoundError):  # another thread has just removed it
                notes.append(json.loads(path.read_text(encoding="utf-8")))
        return [note for note in notes if note["lineage"] == self._lineage]


def _observed(note: dict[str, Any]) -> Observed:
    return Observed(
        note["run_id"],
        address=note["address"],
        attempt=note["attempt"],
        status=Status.SUCCEEDED,
        reason="Written",
        exit_code=0,
        attempts=1,
        name=note["name"],
        infrastructure_id=note["name"],
        live={"Note": {"name": note["name"], "text": note["text"], "labels": note["labels"]}},
        content=note["labels"].get("flowplan.dev/content", ""),
    )
