"""Rows of the database and the documents that they hold: a record is its keys, its progress and what was applied."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from flowplan.schemas.events import Event
from flowplan.schemas.lifecycle import Progress, progress_of
from flowplan.schemas.runs import Objects, Recorded, Settings, Status
from flowplan.state.shapes import checked, parsed

TAIL_BYTES = 64 * 1024
"""How much of a run's output is kept."""

COLUMNS = "a.run_id, a.address, a.attempt, a.status, a.present, a.outcome, a.progress, a.applied"
EVENT_COLUMNS = "seq, at, engine_at, address, run_id, attempt, status, reason, message"
"""The fields of an Event, in their order."""

UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, RecursionError)
"""What decoding a row raises that something else than flowplan wrote."""

_IN_COLUMNS = ("status", "present", "outcome")
_PROGRESS = tuple(f.name for f in fields(Progress) if f.name not in _IN_COLUMNS)
_EVENT = tuple(f.name for f in fields(Event))
_SETTINGS = tuple(f.name for f in fields(Settings))
_TUPLES = ("needs", "ignore_changes")

Row = tuple[Any, ...]


def now() -> str:
    """Our time, RFC 3339 in UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_between(start: str | None, end: str | None) -> float | None:
    """Seconds from one RFC 3339 time to another, None when one is unknown; never negative."""
    if not start or not end:
        return None
    try:
        return max(0.0, (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds())
    except (ValueError, TypeError):
        return None


def run_of(address: str) -> str:
    """The run's name in the spec, shared by all cells of a matrix."""
    return address.partition("[")[0]


def clean(text: str) -> str:
    """Text that SQLite takes: bytes that are no text (surrogates) become question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def tail(text: str) -> str:
    """The last 64 KiB of a text, cut between characters."""
    data = text.encode("utf-8", "replace")
    return data[-TAIL_BYTES:].decode("utf-8", "ignore")


_ENCODER = json.JSONEncoder(separators=(",", ":"))


def dumps(value: Any) -> str:
    """JSON in ASCII, so that any text goes through SQLite."""
    return _ENCODER.encode(value)


def encode_progress(progress: Progress) -> str:
    """The JSON of a progress, without what has its own column."""
    known = {name: getattr(progress, name) for name in _PROGRESS}
    return dumps({k: dict(v) if isinstance(v, Mapping) else v for k, v in known.items() if v or v == 0})


def decode_progress(status: str, present: int, outcome: str | None, text: str) -> Progress:
    """The progress in a row; raises one of UNREADABLE."""
    return Progress(status=Status(status), present=bool(present), outcome=outcome or "", **checked(parsed(text)))


def encode_settings(settings: Settings) -> dict[str, Any]:
    """Settings as plain JSON."""
    plain = {name: getattr(settings, name) for name in _SETTINGS}
    return plain | {"triggers": dict(settings.triggers)}


def decode_settings(plain: Mapping[str, Any]) -> Settings:
    """Settings from plain JSON; raises one of UNREADABLE."""
    return Settings(**{**checked(plain), **{name: tuple(plain.get(name, ())) for name in _TUPLES}})


def encode_applied(record: Recorded) -> str:
    """The JSON of what was applied: provider, target, objects, settings."""
    document = {
        "provider": record.provider,
        "type": record.type,
        "target": dict(record.target),
        "objects": record.objects,
        "settings": encode_settings(record.settings),
    }
    return dumps(document | ({"born_as": record.born_as} if record.born_as else {}))


def moved(text: str, born_as: str) -> str:
    """The JSON of what was applied, remembering the address that names and labels were made of."""
    document = parsed(text)
    return dumps({**document, "born_as": document.get("born_as") or born_as})


def reapplied(text: str, objects: Objects, settings: Settings) -> str:
    """The JSON of what was applied, with other objects and settings."""
    return dumps({**parsed(text), "objects": objects, "settings": encode_settings(settings)})


def encode(record: Recorded) -> Row:
    """The row of COLUMNS for a record; the tail has its own table."""
    progress = progress_of(record)
    return (
        record.run_id,
        record.address,
        record.attempt,
        str(record.status),
        int(record.present),
        progress.outcome or None,
        encode_progress(progress),
        encode_applied(record),
    )


def decode(row: Row) -> Recorded:
    """The record in a row of COLUMNS (and the tail, when it was asked for); raises one of UNREADABLE."""
    run_id, address, attempt, status, present, _outcome, progress, applied = row[:8]
    plain = dict(checked(parsed(applied)))
    plain["settings"] = decode_settings(plain["settings"])
    return Recorded(
        run_id=run_id,
        address=address,
        attempt=attempt,
        status=Status(status),
        present=bool(present),
        output_tail=row[8] or "" if len(row) > 8 else "",
        **{"name": "", **checked(parsed(progress))},
        **plain,
    )


def event(row: Row) -> Event:
    """The event in a row of EVENT_COLUMNS."""
    return Event(*row)


def event_row(event: Event) -> Row:
    """The row of EVENT_COLUMNS for an event."""
    return tuple(getattr(event, name) for name in _EVENT)
