"""Differences between two sets of objects, as JSON Pointers with the engine's effect and rule for each.

DeepDiff finds what differs; paths, effects, rules and words are added here. It takes about as long for equal parts as for others,
so it is given the unequal ones only. `flowplan plan --no-refresh` of 1,000 changed process runs takes 1.4 times the CPU time
(1.1 s) that it took with a comparison of our own, 0.1 s of it for the import; a plan without changes imports nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from flowplan.planner.manifests import IN_PLACE, REPLACE, Manifests, traits
from flowplan.schemas.plans import ABSENT, FieldChange
from flowplan.schemas.pointers import copied, keys_of, nearest, pointer_to
from flowplan.schemas.runs import Json, Objects, Origin, Retry, Settings, canonical
from flowplan.schemas.secrets import TOKEN

_OPEN = re.compile(r"\(sensitive [^()\s]+ (?:unresolved|untracked)\)")
"""A secret of which the value is not known, or does not matter."""


def differences(before: Json, after: Json, path: str = "") -> list[tuple[str, Json, Json]]:
    """Return (JSON Pointer, before, after) of every changed leaf, in the order of the objects; ABSENT for what is missing.

    Mappings are compared key by key, lists of equal length item by item. A list that grew or shrank is one change,
    because positions in it no longer mean the same. Numbers are equal by value; a boolean is not a number.

    Args:
        path: the JSON Pointer of the two values themselves.
    """
    from deepdiff import DeepDiff  # takes 0.1 s, which a plan without changes does not pay

    tree = DeepDiff(
        before,
        after,
        view="tree",
        threshold_to_diff_deeper=0,  # however little two mappings have in common
        ignore_private_variables=False,  # keys that begin with "__"
        custom_operators=[_Unequal()],
    )
    ranks: dict[tuple[str | int, ...], dict[str | int, int]] = {}
    found = []
    for level in (level for levels in tree.values() for level in levels):
        old, new = (ABSENT if type(side).__name__ == "NotPresent" else side for side in (level.t1, level.t2))
        if _same(old, new):
            continue
        steps, above, place = tuple(level.path(output_format="list")), level.all_up, []
        for depth, step in enumerate(steps):
            if steps[:depth] not in ranks:
                ranks[steps[:depth]] = {key: n for n, key in enumerate(dict.fromkeys([*above.t1, *above.t2]))}
            place.append(ranks[steps[:depth]][step])
            above = above.down
        found.append((place, path + pointer_to(steps), old, new))
    return [(pointer, old, new) for _, pointer, old, new in sorted(found, key=lambda one: one[0])]


class _Unequal:
    """An operator for DeepDiff: compare only the unequal entries of mappings and lists.

    Texts, which DeepDiff would compare line by line, and lists of different lengths are one change each.
    """

    def match(self, level: Any) -> bool:
        """Return whether this operator applies to a pair of values."""
        return isinstance(level.t1, str | list | dict) and type(level.t1) is type(level.t2)

    def give_up_diffing(self, level: Any, diff_instance: Any) -> bool:
        """Return whether DeepDiff is to leave the pair alone."""
        one, other = level.t1, level.t2
        if isinstance(one, str) or (isinstance(one, list) and len(one) != len(other)):
            if one != other:
                diff_instance.custom_report_result("values_changed", level)
            return True
        one, other = (dict(enumerate(side)) if isinstance(side, list) else side for side in (one, other))
        equal = {key for key, value in one.items() if key in other and _identical(value, other[key])}
        level.t1, level.t2 = ({k: v for k, v in side.items() if k not in equal} for side in (one, other))
        return False


def _identical(one: Json, other: Json) -> bool:
    """Return whether two values have the same JSON text; ``==`` takes True for 1."""
    return bool(one == other) and (isinstance(one, str) or canonical(one) == canonical(other))


def _same(one: Json, other: Json) -> bool:
    """Return whether two leaves count as equal. An open secret equals any value of the same source."""
    if one is ABSENT or other is ABSENT:
        return one is other
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    if isinstance(one, str) and isinstance(other, str) and (_OPEN.search(one) or _OPEN.search(other)):
        return bool(TOKEN.sub(r"(\1)", one) == TOKEN.sub(r"(\1)", other))
    return bool(one == other)


def changed_fields(
    before: Objects,
    after: Objects,
    manifests: Manifests,
    *,
    origins: Mapping[str, Origin] | None = None,
    ignore: Sequence[str] = (),
) -> tuple[FieldChange, ...]:
    """Return the fields that differ between what is recorded and what is wanted, with effect, rule and origin.

    Args:
        ignore: JSON Pointers (``ignore_changes``) whose subtrees are left out.
    """
    if before == after:  # as their content labels are, which are digests
        return ()
    ignore = (*ignore, *traits(manifests).CONTENT_LABELS)
    found = []
    sides = {kind: (before.get(kind, ABSENT), after.get(kind, ABSENT)) for kind in {**before, **after}}
    unequal = (differences(*pair, pointer_to([kind])) for kind, pair in sides.items() if not _identical(*pair))
    for path, old, new in chain.from_iterable(unequal):
        if _ignored(path, ignore) or manifests.equal(path, old, new):
            continue
        effect = manifests.effect(path, None if old is ABSENT else old, None if new is ABSENT else new)
        found.append(FieldChange(path, old, new, effect.effect, effect.rule, origin_at(origins or {}, path)))
    return tuple(found)


def _ignored(path: str, ignore: Sequence[str]) -> bool:
    return any(path == i or path.startswith(i.rstrip("/") + "/") for i in ignore)


def origin_at(origins: Mapping[str, Origin], path: str) -> str:
    """Return the origin of the field at ``path``: its own, or that of its nearest ancestor."""
    origin = nearest(origins, path)
    return origin.text if origin else ""


def drifted_fields(
    recorded: Objects,
    live: Objects,
    manifests: Manifests,
    *,
    managers: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
) -> tuple[FieldChange, ...]:
    """Return the fields that flowplan set and that were changed on the engine since; other fields are not compared.

    A field that a controller took over belongs to the controller, until the spec gives it another value.
    """
    owned = manifests.comparable(recorded)
    live = _part(live, owned)
    if _identical(live, owned):
        return ()
    ignore = (*ignore, *traits(manifests).CONTENT_LABELS)
    controlled = traits(manifests).controlled_by
    found = []
    for path, applied, now in differences(owned, live):
        if _ignored(path, ignore) or TOKEN.search(str(applied)) or manifests.equal(path, applied, now):
            continue
        if controlled(path, (managers or {}).get(path, "")):
            continue
        effect = manifests.effect(path, None if now is ABSENT else now, applied)
        change = FieldChange(path, now, applied, effect.effect, effect.rule, drift=True, recorded=applied)
        found.append(change._replace(manager=(managers or {}).get(path, "")))
    return tuple(found)


def _part(live: Json, owned: Json) -> Json:
    """Return ``live`` at the places that ``owned`` has. Engines leave out empty values, which are taken as they are."""
    if isinstance(owned, Mapping) and isinstance(live, Mapping):
        return {
            key: _part(live[key], value) if key in live else value
            for key, value in owned.items()
            if key in live or is_empty(value)
        }
    if isinstance(owned, list) and isinstance(live, list) and len(owned) == len(live):
        return [_part(one, other) for one, other in zip(live, owned, strict=True)]
    return live


def is_empty(value: Json) -> bool:
    """Return whether a value means to engines that nothing is set."""
    return value is None or value == "" or value == [] or value == {} or value is False or value == 0


def settings_fields(before: Settings, after: Settings, kept_by_engine: frozenset[str]) -> tuple[FieldChange, ...]:
    """Return the changed settings that flowplan itself keeps; those that the engine keeps show in its objects.

    They are the ones that count after a run was started: ``destroy`` and ``watch`` know them from the state alone.
    """
    if before == after:
        return ()
    found = []
    for name in (
        "timeout",
        "start_timeout",
        "grace_period",
        "max_parallel",
        "needs",
        "stream_output",
        "protect",
        "retry_delay",
    ):
        old, new = (v._asdict() if isinstance(v, Retry) else v for v in (getattr(before, name), getattr(after, name)))
        old, new = (list(value) if isinstance(value, tuple) else value for value in (old, new))
        if name == "protect":
            old, new = old or False, new or False  # as a spec says it
        if name not in kept_by_engine and old != new:
            rule = "kept by flowplan, nothing is sent to the engine"
            found.append(FieldChange(f"/Run/{name}", old, new, IN_PLACE, rule))
    if before.triggers != after.triggers:
        for path, old, new in differences(dict(before.triggers), dict(after.triggers), "/Run/triggers"):
            found.append(FieldChange(path, old, new, REPLACE, "a trigger of the run changed"))
    return tuple(found)


def patched(objects: Objects, fields: Sequence[FieldChange]) -> Objects:
    """Return a copy of ``objects`` with the wanted values of ``fields``; drift and settings are left out."""
    copy: Any = copied(objects)
    for field in fields:
        if not field.drift and not field.path.startswith("/Run/"):
            _put(copy, keys_of(field.path), field.after)
    return copy  # type: ignore[no-any-return]


def _put(target: Any, parts: list[str], value: Json) -> None:
    for part in parts[:-1]:
        target = target[int(part)] if isinstance(target, list) else target.setdefault(part, {})
    last: Any = int(parts[-1]) if isinstance(target, list) else parts[-1]
    if value is ABSENT:
        target.pop(last, None)
    else:
        target[last] = copied(value)
