"""Fields that an API server does not know and drops: noted once, when the Job is made, so that they are no drift (A5)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flowplan.schemas.plans import FieldChange
from flowplan.schemas.pointers import escape, keys_of, member
from flowplan.schemas.runs import Json, Observed, Recorded

NOTE = "dropped"
"""Where the handle of a record keeps the pointers into the Job."""


def dropped(posted: Any, returned: Any, at: str = "") -> Iterator[str]:
    """JSON Pointers of fields that were sent but did not come back.

    Empty values are left out by servers and mean nothing.
    """
    if posted == returned:
        return
    if isinstance(posted, Mapping):
        there = returned if isinstance(returned, Mapping) else {}
        for key, value in posted.items():
            pointer = f"{at}/{escape(key)}"
            if key in there:
                yield from dropped(value, there[key], pointer)
            elif value not in (None, "", 0, False) and value != {} and value != []:
                yield pointer
    elif isinstance(posted, list) and isinstance(returned, list):
        for index, (one, other) in enumerate(zip(posted, returned, strict=False)):
            yield from dropped(one, other, f"{at}/{index}")


def noted(seen: Observed, posted: Json, returned: Json, fields: Sequence[FieldChange] | None = None) -> Observed:
    """``seen`` with a note of what was dropped of the Job, or only of the fields that were changed."""
    lost = [pointer for part in ("metadata", "spec") for pointer in _dropped_of(part, posted, returned)]
    if fields is not None:
        changed = [field.path.removeprefix("/Job") for field in fields]
        lost = [pointer for pointer in lost if any(f"{pointer}/".startswith(f"{path}/") for path in changed)]
        lost = sorted({*lost, *seen.handle.get(NOTE, ())})
    return replace(seen, handle={**seen.handle, NOTE: lost}) if lost else seen


def _dropped_of(part: str, posted: Json, returned: Json) -> Iterator[str]:
    return dropped(posted.get(part), returned.get(part), f"/{part}")


def as_if_kept(seen: Observed, record: Recorded) -> Observed:
    """``seen`` with the note of its record, and with the dropped fields in the live Job as if the server had them."""
    lost = record.handle.get(NOTE)
    if not lost:
        return seen
    live = copy.deepcopy(seen.live)
    for pointer in lost if live else ():
        _put(live["Job"] if live else None, record.objects.get("Job"), keys_of(pointer))
    return replace(seen, handle={**seen.handle, NOTE: lost}, live=live)


def _put(live: Any, applied: Any, steps: Sequence[str]) -> None:
    """Copy the value at ``steps`` where the live Job lacks it."""
    for step in steps[:-1]:
        live, applied = member(live, step), member(applied, step)
    if isinstance(live, dict) and isinstance(applied, Mapping) and steps[-1] in applied:
        live.setdefault(steps[-1], applied[steps[-1]])
