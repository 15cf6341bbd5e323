"""Equal changes of many runs as one group, so that people read each change once."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Sequence
from itertools import chain
from typing import NamedTuple

from flowplan.render.signs import TIME
from flowplan.render.varying import Varying, cell_of, compare, document, varying
from flowplan.schemas.kinds import Kinds
from flowplan.schemas.plans import ABSENT, Action, Change
from flowplan.schemas.runs import Json

_MOST_VARYING = 24
_MOST_KINDS = 8


class Group(NamedTuple):
    """Runs with the same change.

    Attributes:
        changes: at least one, in the order of the plan.
        varying: every place where what is shown of them differs, apart from flowplan's own labels, with all values.
    """

    changes: tuple[Change, ...]
    varying: tuple[Varying, ...] = ()

    @property
    def first(self) -> Change:
        return self.changes[0]

    @property
    def action(self) -> Action:
        """Return what is done; nothing where a rule leaves the change out."""
        return self.first.action


def is_shown(change: Change) -> bool:
    """Return whether a change is shown: runs that stay as they are are only counted."""
    return change.action is not Action.NO_OP or bool(change.skipped or change.moved_from)


def grouped(changes: Sequence[Change], kinds: Kinds, *, whole: bool = False) -> list[Group]:
    """Return the groups of all changes that are shown: what hurts first, else in the order of the plan.

    Cells of one run share a group when they differ in a few values, which are all told. Runs of other names share one
    only when nothing but their names differs.

    Args:
        kinds: how people read the objects; whole: every change is a group of its own.
    """
    growing: dict[Hashable, list[_Growing]] = {}
    order: list[_Growing] = []
    for change in filter(is_shown, changes):
        shown = document(change, shows_objects(change), kinds)
        key = _key(change, shown)
        alike = [(key, text) for text in _changed(change)]
        others = growing.get(key, [])
        candidates = [
            *chain(*(growing.get(one, [])[:1] for one in alike)),
            *(others if len(others) >= _MOST_KINDS else []),
        ]
        if not whole and any(one.takes(change, shown) for one in candidates[: _MOST_KINDS + 2]):
            continue
        order.append(_Growing(change, shown))
        for one in (key, *alike):
            growing.setdefault(one, []).append(order[-1])
    return [group.group(kinds) for group in sorted(order, key=lambda g: _rank(g.members[0]))]


def _rank(change: Change) -> int:
    if change.interrupts and not change.skipped:
        return 0
    ranks = (Action.DESTROY, Action.REPLACE, Action.UPDATE, Action.RERUN, Action.FORGET, Action.ADOPT, Action.CREATE)
    return 2 + ranks.index(change.action) if change.action in ranks else 1 if change.skipped else len(ranks) + 2


def _key(change: Change, shown: Json) -> Hashable:
    """Return what runs must have in common to share a group."""
    same = (change.action, change.type, change.provider, change.interrupts, change.skipped, bool(change.moved_from))
    reasons = tuple(TIME.sub("...", reason) for reason in change.reasons)
    kinds = tuple((f.path, f.effect, f.rule, f.drift, f.manager) for f in change.fields)
    family: Hashable = change.address.partition("[")[0]
    if "[" not in change.address:
        family = json.dumps(_without_name(shown, change.name), sort_keys=True)
    return (*same, reasons, kinds, "[" in change.address, family)


def _changed(change: Change) -> tuple[str, ...]:
    """Return the changed values, and the same without those of the matrix cell: what changes alike is a group first."""
    if not change.fields:
        return ("",)
    values = [[None if v is ABSENT else [v] for v in (f.before, f.after)] for f in change.fields]
    text = json.dumps(values, sort_keys=True)
    cell = sorted((v for v in cell_of(change.address).values() if v and v in text), key=len, reverse=True)
    words = "|".join(map(re.escape, cell))
    return (text, re.sub(rf"(?<![\w.])(?:{words})(?![\w.])", "\1", text)) if cell else (text,)


def _without_name(value: Json, name: str) -> Json:
    if isinstance(value, dict):
        return {key: _without_name(item, name) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_name(item, name) for item in value]
    return ["name"] if value == name and name else value


def shows_objects(change: Change) -> bool:
    """Return whether people need the complete objects: they are new, or of another kind than those before."""
    if change.after is None or change.fields or change.skipped:
        return False
    if change.action in (Action.CREATE, Action.ADOPT):
        return change.before is None
    return change.action is Action.REPLACE and change.before is not None and change.before.keys() != change.after.keys()


class _Growing:
    """A group while it is collected."""

    def __init__(self, change: Change, shown: Json) -> None:
        self.members = [change]
        self._documents = [shown]
        self._places: dict[str, None] = {}

    def takes(self, change: Change, shown: Json) -> bool:
        """Add ``change`` when what is shown of it has the shape of the first and differs in a few values only."""
        found: dict[str, None] = {}
        if not compare(self._documents[0], shown, "", found) or len(found | self._places) > _MOST_VARYING:
            return False
        self.members.append(change)
        self._documents.append(shown)
        self._places |= found
        return True

    def group(self, kinds: Kinds) -> Group:
        return Group(tuple(self.members), varying(self.members, self._documents, list(self._places), kinds))
