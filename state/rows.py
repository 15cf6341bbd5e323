"""Rows of the database and the documents that they hold: a record is its keys, its progress and what was applied."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flowplan.schemas import codec
from flowplan.schemas.accepted import Accepted, Step
from flowplan.schemas.errors import StateError
from flowplan.schemas.events import Event
from flowplan.schemas.lifecycle import Progress, progress_of
from flowplan.schemas.runs import Objects, Recorded, Settings
from flowplan.schemas.times import timestamp

TAIL_BYTES = 64 * 1024
"""How much of a run's output is kept."""

COLUMNS = "a.run_id, a.address, a.attempt, a.status, a.present, a.outcome, a.progress, a.applied"
EVENT_COLUMNS = "seq, at, engine_at, address, run_id, attempt, status, reason, message"
"""The fields of an Event, in their order."""

STEP_COLUMNS = "s.address, s.place, s.phase, s.why, s.until, s.step"

OPEN_STEPS = "phase IN ('waiting', 'skipped')"
"""The condition of steps that have not begun."""

UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, RecursionError)
"""What decoding a row raises that something else than flowplan wrote."""

REBUILD = (
    "restore a copy of it, or move it away and run `flowplan state rebuild`, which finds the live objects by label"
)

_IN_COLUMNS = ("status", "present", "outcome")
_APPLIED = ("provider", "type", "target", "objects", "settings")

Row = tuple[Any, ...]


def now() -> str:
    """Return our time, RFC 3339 in UTC with milliseconds."""
    return timestamp(datetime.now(UTC))


def run_of(address: str) -> str:
    """Return the run's name in the spec, shared by all cells of a matrix."""
    return address.partition("[")[0]


def clean(text: str) -> str:
    """Return text that a database takes: bytes that are no text (surrogates) become question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def tail(text: str) -> str:
    """Return the last 64 KiB of a text, cut between characters."""
    data = text.encode("utf-8", "replace")
    return data[-TAIL_BYTES:].decode("utf-8", "ignore")


def damaged(where: object, what: str) -> StateError:
    """Return the StateError for a row that is not what flowplan writes."""
    return StateError(f"the state {where} is damaged: {what}", hint=REBUILD)


# --- JSON -----------------------------------------------------------------------------------------------------------


def dumps(value: Any) -> str:
    """Return a value as JSON in ASCII, so that any text goes through a database."""
    return _ENCODER.encode(value)


def parsed(text: str) -> dict[str, Any]:
    """Return the JSON object of a row or a dump.

    Raises:
        ValueError: it is none, or holds a number that JSON does not know.
    """
    try:
        found = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if isinstance(found, dict):
        return found
    raise ValueError("no object")


def note(name: str, text: str) -> dict[str, Any]:
    """Return the document of a note, which is what a note of this name must be; raises one of UNREADABLE."""
    from flowplan.schemas.plans import Entries
    from flowplan.schemas.secrets import SecretSource

    kinds: dict[str, Any] = {
        "providers": Entries,
        "provider_secrets": Mapping[str, SecretSource],
        "spec": Mapping[str, str],
        "order": Mapping[str, tuple[str, ...]],
    }
    document = parsed(text)
    codec.decode(kinds.get(name, Any), document)
    return document


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


_ENCODER = json.JSONEncoder(separators=(",", ":"))
_DECODER = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)


# --- rows -----------------------------------------------------------------------------------------------------------


def encode(record: Recorded) -> Row:
    """Return the row of COLUMNS for a record; the tail has its own table."""
    progress, document = progress_of(record), codec.encode(record)
    applied = {name: document[name] for name in _APPLIED}
    if record.born_as:
        applied["born_as"] = record.born_as
    columns = (str(record.status), int(record.present), progress.outcome or None)
    return (record.run_id, record.address, record.attempt, *columns, encode_progress(progress), dumps(applied))


def decode(row: Row) -> Recorded:
    """Return the record in a row of COLUMNS (and the tail, when it was asked for); raises one of UNREADABLE."""
    run_id, address, attempt, status, present, _outcome, progress, applied = row[:8]
    columns = {"run_id": run_id, "address": address, "attempt": attempt, "status": status, "present": bool(present)}
    end = {"output_tail": row[8]} if len(row) > 8 and row[8] else {}
    return codec.decode(Recorded, {"name": "", **parsed(applied), **parsed(progress), **columns, **end})


def encode_progress(progress: Progress) -> str:
    """Return the JSON of a progress, without what has its own column."""
    known = codec.encode(progress).items()
    return dumps({name: value for name, value in known if name not in _IN_COLUMNS and (value or value == 0)})


def decode_progress(status: str, present: int, outcome: str | None, text: str) -> Progress:
    """Return the progress in a row; raises one of UNREADABLE."""
    columns = {"status": status, "present": bool(present), "outcome": outcome or ""}
    return codec.decode(Progress, {**parsed(text), **columns})


def moved(text: str, born_as: str) -> str:
    """Return the JSON of what was applied, remembering the address that names and labels were made of."""
    document = parsed(text)
    return dumps({**document, "born_as": document.get("born_as") or born_as})


def reapplied(text: str, objects: Objects, settings: Settings) -> str:
    """Return the JSON of what was applied, with other objects and settings."""
    return dumps({**parsed(text), "objects": objects, "settings": codec.encode(settings)})


def event_row(event: Event) -> Row:
    """Return the row of EVENT_COLUMNS for an event, and its run's name."""
    return (*codec.encode(event).values(), run_of(event.address))


# --- accepted plans -------------------------------------------------------------------------------------------------


def step_row(step: Step) -> Row:
    """Return the row of STEP_COLUMNS for a step; what only an open one needs is one JSON document."""
    document = codec.encode(step)
    columns = [document.pop(name) for name in ("address", "place", "phase", "why", "until")]
    return (*columns, dumps(document if step.phase.open else {}))


def step(row: Row) -> Step:
    """Return the step in a row of STEP_COLUMNS; raises one of UNREADABLE."""
    address, place, phase, why, until, document = row
    columns = {"address": address, "place": place, "phase": phase, "why": why, "until": until}
    return codec.decode(Step, {**parsed(document), **columns})


def acceptance(plan: Accepted) -> str:
    """Return the JSON of who applied a plan, and from where."""
    return dumps({name: getattr(plan, name) for name in ("by", "directory", "mode", "variables")})


def accepted(row: Row) -> Accepted:
    """Return the plan in a row of digest, acceptance and the time when it was left; raises one of UNREADABLE."""
    digest, text, left_at = row
    return codec.decode(Accepted, {**parsed(text or "{}"), "digest": digest, "left_at": left_at})
