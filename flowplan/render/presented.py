"""Objects and settings as people read them: keys in the usual order, flowplan's own labels aside, values in units."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from flowplan.render.objects import leaf_count, object_lines, scalar
from flowplan.render.units import OF_SETTINGS, in_units, units_of
from flowplan.schemas.kinds import Kind, Kinds, field_at
from flowplan.schemas.plans import Change
from flowplan.schemas.runs import Json, Objects, Retry, Settings

_LABELS = frozenset({"labels", "Labels", "annotations"})
_OWN = re.compile(
    r"(?:flowplan\.dev/|dev\.flowplan\.|(?:app\.kubernetes\.io/|io\.kubernetes\.app\.)(?=managed-by))(.+)"
)


def ordered(objects: Objects | None, kinds: Kinds) -> Objects:
    """Return objects with their fields in the order in which people read them."""
    return {name: _ordered(value, _ranks(kinds.get(name, Kind()).order)) for name, value in (objects or {}).items()}


def presented(change: Change, kinds: Kinds, objects: Objects | None = None) -> Objects:
    """Return the objects of a change as they are shown: fields in order, without flowplan's own labels."""
    shown: Objects = _without_own(change.after if objects is None else objects, change)
    return ordered(shown, kinds)


def lines_of(change: Change, objects: Objects | None, kinds: Kinds, *, whole: bool = False) -> Iterator[str]:
    """Yield objects of a change as YAML, without flowplan's own labels, saying so, unless they are shown ``whole``."""
    shown = ordered(objects, kinds) if whole else presented(change, kinds, objects)
    yield from object_lines(shown, units_of(kinds))
    if leaf_count(shown) < leaf_count(objects):
        yield "# flowplan's own labels are not shown; --full shows them"


def _without_own(value: Json, change: Change) -> Json:
    if isinstance(value, list):
        return [_without_own(item, change) for item in value]
    if not isinstance(value, Mapping):
        return value
    kept = {}
    for key, item in value.items():
        if key in _LABELS and isinstance(item, Mapping):
            item = {name: text for name, text in item.items() if not is_own(name, text, change)}
            if not item:
                continue
        kept[key] = _without_own(item, change)
        if key == "metadata" and item and not kept[key]:
            del kept[key]
    return kept


def is_own(name: str, value: Json, change: Change) -> bool:
    """Return True for a label that flowplan puts on every object, with the very value that it gives to this run."""
    match = _OWN.fullmatch(name)
    if not match or not isinstance(value, str):
        return False
    values: dict[str, bool] = {
        "address": value in (change.address, change.moved_from),
        "run-id": value == change.run_id,
        "attempt": value == str(change.attempt),
        "lineage": bool(re.fullmatch(r"[0-9a-f-]{36}", value)),
        "content": bool(re.fullmatch(r"[0-9a-f]{40}", value)),
        "project": bool(re.fullmatch(r"[\w.-]{1,253}", value)),
        "environment": bool(re.fullmatch(r"[\w.-]{1,63}", value)),
        "managed-by": value == "flowplan",
    }
    return values.get(match[1], False)


@lru_cache(maxsize=64)
def _ranks(order: str) -> Mapping[str, int]:
    return {name: number for number, name in enumerate(order.split())}


def _ordered(value: Json, ranks: Mapping[str, int]) -> Json:
    if isinstance(value, list):
        return [_ordered(item, ranks) for item in value]
    if not isinstance(value, Mapping):
        return value
    keys = sorted(value, key=lambda key: ranks.get(key, len(ranks)))
    return {key: value[key] if key in _LABELS else _ordered(value[key], ranks) for key in keys}


# --- settings --------------------------------------------------------------------------------------------------------


def run_settings(change: Change, kinds: Kinds) -> dict[str, Json]:
    """Return what flowplan and the engine keep about a run beside its objects, by the words of the spec."""
    settings = change.settings
    found: dict[str, Json] = {
        "timeout": settings.timeout,
        "start_timeout": settings.start_timeout,
        "grace_period": settings.grace_period,
    }
    others: dict[str, Json] = {"retries": _retries(change, kinds), "max_parallel": settings.max_parallel}
    if settings.retry_delay:
        others |= {"retries": settings.retry_delay.retries, "retry_delay": _delay(settings.retry_delay)}
    plain = Settings()
    for name in ("rerun", "rerun_with", "replace", "keep", "protect", "ignore_changes", "triggers"):
        value = getattr(settings, name)
        others[name] = None if value == getattr(plain, name) else list(value) if isinstance(value, tuple) else value
    return found | {name: value for name, value in others.items() if value is not None}


def run_line(change: Change, kinds: Kinds) -> str:
    """Return ``Run: {timeout: 10s, start_timeout: none, grace_period: 30s, retries: 2}``."""
    told = {name: "none" if value is None else value for name, value in run_settings(change, kinds).items()}
    words = (f"{name}: {in_units(name, value, OF_SETTINGS) or scalar(value)}" for name, value in told.items())
    return f"Run: {{{', '.join(words)}}}"


def _delay(retry: Retry) -> Json:
    """Return a constant delay in seconds, or how it grows, in words."""
    if retry.factor == 1:
        return retry.initial
    initial, most = (in_units("retry_delay", seconds or 0, OF_SETTINGS) for seconds in (retry.initial, retry.max))
    return f"{initial}, then {retry.factor:g} times as long" + (f", at most {most}" if retry.max is not None else "")


def _retries(change: Change, kinds: Kinds) -> Json:
    """Return how often the engine tries again, where the objects say it: each engine has its own field for it."""
    objects = change.after or {}
    for kind in (kinds[name] for name in objects if name in kinds and kinds[name].retries):
        told = field_at(objects, kind.retries)
        return kind.no_retries if told is None else told
    return None
