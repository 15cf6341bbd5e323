"""The types of what the state keeps: a row or a dump that something else wrote is found here, and not where it is used."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

_TEXT, _NUMBER, _MAPPING = (str,), (int, float), (dict,)
_MAYBE_TEXT, _MAYBE_NUMBER, _MAYBE_COUNT = (str, type(None)), (int, float, type(None)), (int, type(None))

_KINDS: dict[str, tuple[type, ...]] = {
    # of a record
    "address": _TEXT,
    "provider": _TEXT,
    "type": _TEXT,
    "target": _MAPPING,
    "attempt": (int,),
    "run_id": _TEXT,
    "name": _TEXT,
    "objects": _MAPPING,
    "reason": _TEXT,
    "message": _TEXT,
    "exit_code": _MAYBE_COUNT,
    "attempts": (int,),
    "handle": _MAPPING,
    "infrastructure_id": _TEXT,
    "plan_digest": _TEXT,
    "created_at": _MAYBE_TEXT,
    "started_at": _MAYBE_TEXT,
    "finished_at": _MAYBE_TEXT,
    "output_tail": _TEXT,
    "born_as": _TEXT,
    "image": _MAPPING,
    "remarks": _MAPPING,
    # of settings
    "group": _TEXT,
    "needs": (list, tuple),
    "max_parallel": _MAYBE_COUNT,
    "timeout": _MAYBE_NUMBER,
    "start_timeout": _MAYBE_NUMBER,
    "grace_period": _NUMBER,
    "stream_output": (bool,),
    "rerun": _TEXT,
    "replace": _TEXT,
    "protect": _TEXT,
    "ignore_changes": (list, tuple),
    "description": _TEXT,
    "triggers": _MAPPING,
    # of an event
    "seq": (int,),
    "at": _TEXT,
    "engine_at": _MAYBE_TEXT,
}
_OF_TEXTS = frozenset(["target", "image", "remarks", "needs", "ignore_changes", "triggers"])


def checked(plain: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same, of which every value that is known has the type that it must have.

    Raises:
        ValueError: one has not.
    """
    for name, value in plain.items():
        kinds = _KINDS.get(name)
        if kinds is None:
            continue
        if value.__class__ not in kinds:
            raise ValueError(f"{name} is {type(value).__name__}")
        if name in _OF_TEXTS:
            held: Any = value
            if not all(isinstance(text, str) for text in (held.values() if isinstance(held, dict) else held)):
                raise ValueError(f"{name} holds something else than text")
    return plain


def parsed(text: str) -> dict[str, Any]:
    """A JSON object of a row or a dump.

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


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


_DECODER = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)


def noted(name: str, document: dict[str, Any]) -> dict[str, Any]:
    """A note as it is, when it is what a note of this name must be.

    Raises:
        ValueError: it is not.
    """
    if name in ("providers", "provider_secrets") and not all(isinstance(entry, dict) for entry in document.values()):
        raise ValueError(f"the note {name} holds no entries")
    texts = list(document.values()) if name == "spec" else []
    if name == "providers":
        texts += [entry.get("type", "") for entry in document.values()]
    if name == "provider_secrets":
        for entry in document.values():
            texts += [entry["kind"], entry["value"], *entry["variables"]]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"the note {name} holds something else than text")
    return document
