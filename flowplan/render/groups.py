"""Equal changes of many runs as one group, so that people read each change once; and the words of a verdict."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import NamedTuple

from flowplan.render.differences import Shown, View, shown
from flowplan.render.objects import leaf_count, place, scalar
from flowplan.render.signs import COUNTED, TIME, ago, to_the_second
from flowplan.render.units import Units, duration, in_units, units_of
from flowplan.render.varying import Varying, cell_of, compare, document, varying, words_of_needs
from flowplan.schemas.kinds import Kinds
from flowplan.schemas.plans import ABSENT, Action, Change, FieldChange, Plan
from flowplan.schemas.pointers import nearest
from flowplan.schemas.runs import Json, Status
from flowplan.schemas.text import counted, harmless
from flowplan.schemas.times import seconds_between

_MOST_VARYING = 24
_MOST_KINDS = 8

_LIVE = frozenset(status.value for status in Status if status.live)


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


def is_live(change: Change) -> bool:
    """Return whether the run was live when the plan was made."""
    return change.run is not None and change.run.status in _LIVE


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


def cells(plan: Plan) -> dict[str, list[str]]:
    """Return the name of each run with a matrix -> the addresses of all its cells that the plan wants."""
    found: dict[str, list[str]] = {}
    for change in plan.changes:
        name, bracket, _ = change.address.partition("[")
        if bracket and change.after is not None:
            found.setdefault(name, []).append(change.address)
    return found


def needed(group: Group, known: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what the runs of a group start after, when all need the same; else that is among what differs.

    Args:
        known: name of a run -> the addresses of all its cells.
    """
    needs = group.first.settings.needs
    alike = group.action.starts and all(change.settings.needs == needs for change in group.changes)
    return list(words_of_needs(needs, known)) if alike else []


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


# --- words -----------------------------------------------------------------------------------------------------------


def verdict(plan: Plan) -> str:
    """Return the plan in one sentence: what would happen, how often."""
    done = Counter(c.action for c in plan.changes if not c.skipped and is_shown(c))
    left_out = sum(1 for c in plan.changes if c.skipped)
    moved = done.pop(Action.NO_OP, 0)
    unchanged = sum(1 for c in plan.changes if not is_shown(c))
    words_of = COUNTED | {Action.UPDATE: "to record"} if plan.mode == "refresh_only" else COUNTED
    counts = [f"{done[action]} {words}" for action, words in words_of.items() if done[action]]
    counts += [f"{moved} moved"] if moved else []
    rest = [f"{unchanged} unchanged"] if unchanged else []
    rest += [f"{left_out} left out"] if left_out else []
    tail = f"; {', '.join(rest)}" if rest else ""
    if not counts:
        return _nothing(plan, unchanged, left_out)
    return f"{_title(plan)}: {', '.join(counts)}{tail}."


def _title(plan: Plan) -> str:
    words = {"destroy": "Plan to destroy", "refresh_only": "Changed outside of flowplan in"}
    return f"{words.get(plan.mode, 'Plan for')} {whose(plan)}"


def whose(plan: Plan) -> str:
    """Return the project of a plan, with its environment: ``nightly (prod)``."""
    return harmless(plan.project) + (f" ({harmless(plan.environment)})" if plan.environment else "")


def engines(plan: Plan) -> list[str]:
    """Return a sentence for each provider entry of the plan: which engine it is, or how it is set where none was asked."""
    names = {change.provider for change in plan.changes if is_shown(change)} | plan.targets.keys()
    return [f"{harmless(name)}: {_engine(plan, name)}" for name in sorted(names)]


def _engine(plan: Plan, name: str) -> str:
    target = plan.targets.get(name)
    if target:
        return harmless(str(target.get("label") or target.get("id") or "unknown"))
    entry = plan.providers.get(name, {})
    known = [f"{key} {entry[key]}" for key in ("host", "context", "namespace") if isinstance(entry.get(key), str)]
    return harmless(", ".join([*known, "not asked"]))


def only_records(plan: Plan) -> str:
    """Say what applying a plan of changes on the engine does; "" for other plans, and where there are none."""
    if plan.mode != "refresh_only" or not any(map(is_shown, plan.changes)):
        return ""
    return "Applying this plan records what is there now; nothing on an engine is touched."


def _nothing(plan: Plan, unchanged: int, left_out: int) -> str:
    runs = f"{counted(unchanged, 'run')} {'is' if unchanged == 1 else 'are'}"
    if left_out:
        return f"No changes in {whose(plan)} but {left_out} left out; {unchanged} unchanged."
    if not unchanged:
        return f"No changes. There is nothing to do in {whose(plan) or 'this state'}."
    how = "as recorded" if plan.mode == "refresh_only" else "as wanted"
    return f"No changes. {runs} {how} in {whose(plan)}."


def dangers(plan: Plan) -> list[tuple[str, list[Change]]]:
    """Return what is done to live runs, in words, with the changes that do it, in the order of the plan."""
    hurting = [change for change in plan.changes if change.interrupts and not change.skipped]
    stopped = [change for change in hurting if change.action is not Action.UPDATE]
    changed = [change for change in hurting if change.action is Action.UPDATE]
    told = (("Stops", stopped), ("Ends, pauses or shrinks in place", changed))
    return [
        (f"{verb} {counted(len(found), 'run')} that {'is' if len(found) == 1 else 'are'} live", found)
        for verb, found in told
        if found
    ]


def standing(change: Change, now: datetime | None) -> str:
    """Return what the run is doing: ``running since 2026-11-01T08:00:00Z (3h 12m)``; "" where there is none."""
    if change.run is None:
        return ""
    words = harmless(change.run.status.replace("_", " "))
    if change.run.started_at:
        words += f" since {harmless(to_the_second(change.run.started_at))}"
        passed = seconds_between(change.run.started_at, now)
        words += f" ({duration(passed)})" if passed is not None else ""
    return words


def why(group: Group, now: datetime | None) -> str:
    """Return the reasons of a group in one sentence."""
    words = []
    for index, reason in enumerate(group.first.reasons):
        alike = all(change.reasons[index] == reason for change in group.changes)
        words.append(harmless(ago(reason, now) if alike else re.sub(rf" at {TIME.pattern}", "", reason)))
    return "; ".join(words)


def live_sentence(change: Change) -> str:
    """Say what a change does to a live run, or ""."""
    if change.action is Action.UPDATE and change.interrupts and not change.skipped:
        return "interrupts the live attempt"
    if not is_live(change) or change.skipped or change.action not in (Action.REPLACE, Action.DESTROY):
        return ""
    if not change.interrupts:
        return "the live attempt ends first" if change.action is Action.REPLACE else ""
    if change.action is Action.REPLACE and change.settings.replace == "start_first":
        return "the new attempt starts, then the live one is stopped"
    return "stops the live attempt" + (", then starts anew" if change.action is Action.REPLACE else "")


def unchanged_fields(change: Change) -> str:
    """Say how many leaves of the objects none of the changed fields touches, or ""."""
    if not change.fields or not change.after:
        return ""
    touched = (f.after for f in change.fields if f.after is not ABSENT and not f.path.startswith("/Run/"))
    rest = leaf_count(change.after) - sum(map(leaf_count, touched))
    return f"({counted(rest, 'unchanged field')} not shown)" if rest > 0 else ""


def few(words: Sequence[str], limit: int = 3) -> str:
    """Return the first of some names, and how many more there are."""
    more = len(words) - limit
    return ", ".join(map(harmless, words[:limit])) + (f" and {more} more" if more > 0 else "")


def origin_of(change: Change, path: str) -> str:
    """Return the origin of the field at a JSON Pointer: its own, that of its nearest ancestor, or ``default``."""
    return nearest(change.origins, path) or "default"


class ChangedField(NamedTuple):
    """A changed field as people read it: what it is called, old and new, and what the engine makes of it."""

    name: str
    how: Shown
    words: str
    in_place: bool


def changed_fields(change: Change, kinds: Kinds, context: int = 1) -> list[ChangedField]:
    """Return the changed fields of a run, with ``context`` unchanged lines around those of a text."""
    view = View(context, units_of(kinds))
    return [
        ChangedField(
            place(field.path, change.after, change.before, kinds=kinds),
            shown(field.before, field.after, view, field.path),
            _effect(field, view.units),
            field.effect != "replace",
        )
        for field in change.fields
    ]


def _effect(field: FieldChange, units: Units) -> str:
    """Return ``in place`` or ``forces replacement: <the engine's rule>``, and who changed a drifted field on the engine."""
    words = "in place"
    if field.effect == "replace":
        words = "forces replacement" + (f": {harmless(field.rule)}" if field.rule else "")
    if not field.drift:
        return words
    by = f" by {harmless(field.manager)}" if field.manager else ""
    recorded = in_units(field.path, field.recorded, units) or scalar(field.recorded)
    applied = f", applied was {recorded}" if field.recorded != field.after else ""
    return f"{words}; changed on the engine{by}{applied}"


def past(group: Group) -> str:
    """Return what history knows: ``last 5: 4 succeeded, 1 failed; 12m to 15m``, or ""."""
    ends: Counter[str] = Counter()
    times: list[float] = []
    for change in group.changes:
        ends.update(str(status) for status in change.history.get("last") or ())
        times += [float(t) for t in change.history.get("durations") or ()]
    if not ends:
        return ""
    words = ", ".join(f"{n} {harmless(status.replace('_', ' '))}" for status, n in sorted(ends.items(), key=_by_count))
    return f"last {sum(ends.values())}: {words}" + (f"; {_span(times)}" if times else "")


def _by_count(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _span(times: Sequence[float]) -> str:
    low, high = duration(min(times)), duration(max(times))
    return low if low == high else f"{low} to {high}"


def remarks(group: Group) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (severity, sentence, addresses) of every distinct preflight finding and warning, errors first."""
    found: dict[tuple[str, str], list[str]] = {}
    for change in group.changes:
        for finding in change.preflight:
            check = f"{harmless(finding.check)}: " if finding.check else ""
            hint = f" ({harmless(finding.hint)})" if finding.hint else ""
            key = (finding.severity, f"{check}{harmless(finding.message)}{hint}")
            found.setdefault(key, []).append(change.address)
        for warning in change.warnings:
            found.setdefault(("warning", harmless(warning)), []).append(change.address)
    for (severity, sentence), addresses in sorted(found.items(), key=lambda item: item[0][0] != "error"):
        yield harmless(severity), sentence, addresses


def problems(plan: Plan) -> int:
    """Count the preflight errors, at which apply would fail."""
    return sum(f.severity == "error" for change in plan.changes for f in change.preflight)


def unchanged_words(plan: Plan) -> str:
    """Return ``12 unchanged: 10 succeeded, 2 running``, or ""."""
    rest = [c for c in plan.changes if not is_shown(c)]
    if not rest:
        return ""
    counts = Counter(c.run.status if c.run else "not started" for c in rest)
    words = ", ".join(f"{n} {harmless(s.replace('_', ' '))}" for s, n in sorted(counts.items(), key=_by_count))
    return f"{len(rest)} unchanged: {words}"
