"""Differences between two sets of objects, as JSON Pointers with the engine's effect and rule for each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flowplan.planner.manifests import IN_PLACE, REPLACE, Manifests, content_labels
from flowplan.schemas.plans import ABSENT, FieldChange
from flowplan.schemas.pointers import escape, unescape
from flowplan.schemas.runs import Json, Objects, Origin, Settings
from flowplan.schemas.secrets import TOKEN

_UNRESOLVED = re.compile(r"\(sensitive ([^()\s]+) unresolved\)")


def differences(before: Json, after: Json, path: str = "") -> Iterator[tuple[str, Json, Json]]:
    """Yield (JSON Pointer, before, after) of every changed leaf; ABSENT where a side has nothing.

    Mappings are compared key by key, lists of equal length item by item; a list that grew or shrank is one change,
    because positions in it no longer mean the same.
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in [*before, *(k for k in after if k not in before)]:
            yield from differences(before.get(key, ABSENT), after.get(key, ABSENT), f"{path}/{escape(key)}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, f"{path}/{index}")
    elif not _same(before, after):
        yield path, before, after


def _same(one: Json, other: Json) -> bool:
    if one is ABSENT or other is ABSENT:
        return one is other
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    if one == other:
        return True
    return _same_secret(one, other)


def _same_secret(one: Json, other: Json) -> bool:
    """A secret that could not be resolved here cannot be seen to differ from the one that was."""
    if not (isinstance(one, str) and isinstance(other, str)):
        return False
    if not (_UNRESOLVED.search(one) or _UNRESOLVED.search(other)):
        return False
    return TOKEN.sub(r"(\1)", one) == TOKEN.sub(r"(\1)", other)


def changed_fields(
    before: Objects,
    after: Objects,
    manifests: Manifests,
    *,
    origins: Mapping[str, Origin] | None = None,
    ignore: Sequence[str] = (),
) -> tuple[FieldChange, ...]:
    """The fields that differ between what is recorded and what is wanted, with effect, rule and origin.

    Args:
        ignore: JSON Pointers (``ignore_changes``) whose subtrees are left out.
    """
    if before == after:
        return ()
    ignore = (*ignore, *content_labels(manifests))
    found = []
    for path, old, new in differences(before, after):
        if _ignored(path, ignore) or manifests.equal(path, old, new):
            continue
        effect = manifests.effect(path, None if old is ABSENT else old, None if new is ABSENT else new)
        found.append(FieldChange(path, old, new, effect.effect, effect.rule, origin_at(origins or {}, path)))
    return tuple(found)


def _ignored(path: str, ignore: Sequence[str]) -> bool:
    return any(path == i or path.startswith(i.rstrip("/") + "/") for i in ignore)


def origin_at(origins: Mapping[str, Origin], path: str) -> str:
    """The origin of the field at ``path``: its own, or that of its nearest ancestor."""
    while path:
        found = origins.get(path)
        if found:
            return found.text
        path = path.rpartition("/")[0]
    return ""


def drifted_fields(
    recorded: Objects,
    live: Objects,
    manifests: Manifests,
    *,
    managers: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
) -> tuple[FieldChange, ...]:
    """Fields that flowplan set and somebody else changed on the engine; what flowplan did not set is not compared (A4).

    A field that a controller took over is its own from then on, until the spec gives it another value.
    """
    ignore = (*ignore, *content_labels(manifests))
    controlled = getattr(manifests, "controlled_by", lambda path, manager: False)
    found = []
    for path, applied, now in _owned_differences(manifests.comparable(recorded), live):
        if _ignored(path, ignore) or TOKEN.search(str(applied)) or manifests.equal(path, applied, now):
            continue
        if controlled(path, (managers or {}).get(path, "")):
            continue
        effect = manifests.effect(path, None if now is ABSENT else now, applied)
        change = FieldChange(path, now, applied, effect.effect, effect.rule, drift=True, recorded=applied)
        found.append(replace(change, manager=(managers or {}).get(path, "")))
    return tuple(found)


def _owned_differences(applied: Json, live: Json, path: str = "") -> Iterator[tuple[str, Json, Json]]:
    """Like ``differences``, but only at the places that ``applied`` has."""
    if isinstance(applied, Mapping) and isinstance(live, Mapping):
        for key, value in applied.items():
            yield from _owned_differences(value, live.get(key, ABSENT), f"{path}/{escape(key)}")
    elif isinstance(applied, list) and isinstance(live, list) and len(applied) == len(live):
        for index, (one, other) in enumerate(zip(applied, live, strict=True)):
            yield from _owned_differences(one, other, f"{path}/{index}")
    elif not _same(applied, live) and not (live is ABSENT and _empty(applied)):
        yield path, applied, live


def _empty(value: Json) -> bool:
    """Engines leave out empty values: nothing set and set to nothing are the same to them."""
    return value is None or value == "" or value == [] or value == {} or value is False or value == 0


def settings_fields(before: Settings, after: Settings, kept_by_engine: frozenset[str]) -> tuple[FieldChange, ...]:
    """Changed settings that flowplan itself keeps; those the engine keeps show in its objects already.

    They are those that count for a run after it was started; ``destroy`` and ``watch`` know them from the state alone.
    """
    found = []
    for name in ("timeout", "start_timeout", "grace_period", "max_parallel", "needs", "stream_output", "protect"):
        old, new = getattr(before, name), getattr(after, name)
        old, new = (list(value) if isinstance(value, tuple) else value for value in (old, new))
        if name == "protect":
            old, new = old or False, new or False  # as a spec says it
        if name not in kept_by_engine and old != new:
            rule = "kept by flowplan, nothing is sent to the engine"
            found.append(FieldChange(f"/Run/{name}", old, new, IN_PLACE, rule))
    for path, old, new in differences(dict(before.triggers), dict(after.triggers), "/Run/triggers"):
        found.append(FieldChange(path, old, new, REPLACE, "a trigger of the run changed"))
    return tuple(found)


def patched(objects: Objects, fields: Sequence[FieldChange]) -> Objects:
    """A copy of ``objects`` with the wanted values of ``fields`` put in; drift and settings are left out."""
    copy: Any = _copy(objects)
    for field in fields:
        if not field.drift and not field.path.startswith("/Run/"):
            _put(copy, [unescape(part) for part in field.path.split("/")[1:]], field.after)
    return copy  # type: ignore[no-any-return]


def _copy(value: Json) -> Json:
    if isinstance(value, Mapping):
        return {k: _copy(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_copy(v) for v in value]
    return value


def _put(target: Any, parts: list[str], value: Json) -> None:
    for part in parts[:-1]:
        target = target[int(part)] if isinstance(target, list) else target.setdefault(part, {})
    last: Any = int(parts[-1]) if isinstance(target, list) else parts[-1]
    if value is ABSENT:
        target.pop(last, None)
    else:
        target[last] = _copy(value)
