"""Equal changes of many runs as one group, so that people read each change once; and the words of a verdict."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from flowplan.render.objects import leaf_count, place
from flowplan.render.signs import COUNTED, TIME, ago, counted, duration, harmless, seconds_between, to_the_second
from flowplan.schemas.plans import ABSENT, Action, Change, Plan
from flowplan.schemas.runs import Json, Status, canonical

_MOST_VARYING = 12
_MOST_KINDS = 8

_CONTENT = ("flowplan.dev~1content", "dev.flowplan.content")
"""The labels that are another one for any other content: they say nothing that the content does not."""
_CONTENT_TEXT = re.compile(r'("(?:flowplan\.dev/|dev\.flowplan\.)content":)"[0-9a-f]*"')

_LIVE = frozenset(status.value for status in Status if status.live)


class Group(NamedTuple):
    """Runs with the same change.

    Attributes:
        changes: at least one, in the order of the plan.
        varying: what differs between their objects, apart from names and ids: place -> the distinct values.
    """

    changes: tuple[Change, ...]
    varying: Mapping[str, tuple[str, ...]] = {}

    @property
    def first(self) -> Change:
        return self.changes[0]

    @property
    def action(self) -> Action:
        """What is done; nothing where a rule leaves the change out."""
        return self.first.action


def is_shown(change: Change) -> bool:
    """False for runs that stay as they are, which are only counted."""
    return change.action is not Action.NO_OP or bool(change.skipped or change.moved_from)


def is_live(change: Change) -> bool:
    """True when the run was live when the plan was made."""
    return change.run is not None and change.run.status in _LIVE


def grouped(changes: Sequence[Change]) -> list[Group]:
    """The groups of all changes that are shown: what hurts first, else in the order of the plan."""
    kinds: dict[Hashable, list[_Growing]] = {}
    order: list[_Growing] = []
    for change in changes:
        if not is_shown(change):
            continue
        keys = _keys(change)
        if any(kind.takes(change) for key in keys for kind in kinds.get(key, ())[:_MOST_KINDS]):
            continue
        order.append(_Growing(change))
        for key in keys:
            kinds.setdefault(key, []).append(order[-1])
    return [growing.group() for growing in sorted(order, key=lambda g: _rank(g.members[0]))]


def _rank(change: Change) -> int:
    if change.interrupts and not change.skipped:
        return 0
    ranks = (Action.DESTROY, Action.REPLACE, Action.UPDATE, Action.RERUN, Action.FORGET, Action.ADOPT, Action.CREATE)
    return 2 + ranks.index(change.action) if change.action in ranks else 1 if change.skipped else len(ranks) + 2


def _keys(change: Change) -> list[Hashable]:
    """Changes with a common key may share a group; the strictest key first."""
    same: tuple[Hashable, ...] = (change.action, change.type, change.provider, change.interrupts, change.skipped)
    same += (bool(change.moved_from), *(_timeless(reason) for reason in change.reasons))
    if change.fields:
        kinds = tuple((f.path, f.effect, f.rule, f.drift, f.manager) for f in change.fields)
        text = _without_identity(canonical([[_value(f.before), _value(f.after)] for f in change.fields]), change)
        return list(dict.fromkeys((*same, kinds, key) for key in (text, _without_cell(text, change))))
    if not shows_objects(change):
        return [same]
    if "[" in change.address:
        return [(*same, change.settings.group or change.address.partition("[")[0])]
    return [(*same, _without_identity(canonical(change.after), change))]


def _value(value: Json) -> Json:
    return ["absent"] if value is ABSENT else [value]


def shows_objects(change: Change) -> bool:
    """True where people need the complete objects: they are new, or of another kind than those before."""
    if change.after is None or change.fields or change.skipped:
        return False
    if change.action in (Action.CREATE, Action.ADOPT):
        return change.before is None
    return change.action is Action.REPLACE and change.before is not None and change.before.keys() != change.after.keys()


def _timeless(text: str) -> str:
    return TIME.sub("...", text)


def _without_identity(text: str, change: Change) -> str:
    """Canonical JSON with run ids, names and the address taken out."""
    run = change.run
    for word in (change.run_id, change.name, change.address, run.run_id if run else "", run.name if run else ""):
        text = text.replace(word, "\0") if word else text
    return _CONTENT_TEXT.sub(r"\1", text)


def _without_cell(text: str, change: Change) -> str:
    """Canonical JSON with the values of the matrix cell taken out where they stand as words of their own."""
    cell = [value for value in cell_of(change.address).values() if value and value in text]
    if not cell:
        return text
    words = "|".join(re.escape(value) for value in sorted(cell, key=len, reverse=True))
    return re.sub(rf"(?<![\w.])(?:{words})(?![\w.])", "\1", text)


def cell_of(address: str) -> dict[str, str]:
    """The axes of a matrix cell: ``{"day": "2026-11-01"}`` for ``extract[day=2026-11-01]``."""
    inside = address.partition("[")[2].removesuffix("]")
    return dict(axis.partition("=")[::2] for axis in inside.split(",") if "=" in axis)


class _Growing:
    """A group while it is collected."""

    def __init__(self, change: Change) -> None:
        self.members = [change]
        self._varying: dict[str, dict[str, None]] = {}

    def takes(self, change: Change) -> bool:
        """Add ``change`` when its objects are those of the first but for its identity and a few values."""
        found: dict[str, tuple[Json, Json]] = {}
        if not self._same_shape(change, found) or not self._learn(change, found):
            return False
        self.members.append(change)
        return True

    def _same_shape(self, change: Change, found: dict[str, tuple[Json, Json]]) -> bool:
        first = self.members[0]
        if shows_objects(first):
            return _compare(first.after, change.after, "", found)
        pairs = zip(first.fields, change.fields, strict=True)
        return all(
            _compare(a.before, b.before, a.path, {}) and _compare(a.after, b.after, a.path, found) for a, b in pairs
        )

    def _learn(self, change: Change, found: Mapping[str, tuple[Json, Json]]) -> bool:
        first = self.members[0]
        differing = {
            path: (one, other)
            for path, (one, other) in found.items()
            if _without_identity(canonical(one), first) != _without_identity(canonical(other), change)
        }
        if len(differing.keys() | self._varying.keys()) > _MOST_VARYING:
            return False
        for path, (one, other) in differing.items():
            values = self._varying.setdefault(path, {canonical(one): None})
            values[canonical(other)] = None
        return True

    def group(self) -> Group:
        first = self.members[0]
        varying = {place(path, first.after): tuple(values) for path, values in self._varying.items()}
        return Group(tuple(self.members), varying)


def _compare(one: Json, other: Json, path: str, found: dict[str, tuple[Json, Json]]) -> bool:
    """Collect the differing leaves of two values of the same shape; False when the shapes differ."""
    if one is other or (one == other and type(one) is type(other)) or path.endswith(_CONTENT):
        return True
    if one is ABSENT or other is ABSENT:
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return False
        return all(_compare(one[k], other[k], f"{path}/{_escaped(k)}", found) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_compare(a, b, f"{path}/{i}", found) for i, (a, b) in enumerate(pairs))
    found[path] = (one, other)
    return not isinstance(one, dict | list) and not isinstance(other, dict | list)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


# --- words -----------------------------------------------------------------------------------------------------------


def verdict(plan: Plan) -> str:
    """The plan in one sentence: what would happen, how often."""
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
    return f"{words.get(plan.mode, 'Plan for')} {harmless(plan.project)}"


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
    """What applying a plan does that only looked for changes; "" for any other plan, and where there is none."""
    if plan.mode != "refresh_only" or not any(map(is_shown, plan.changes)):
        return ""
    return "Applying this plan records what is there now; nothing on an engine is touched."


def _nothing(plan: Plan, unchanged: int, left_out: int) -> str:
    runs = f"{counted(unchanged, 'run')} {'is' if unchanged == 1 else 'are'}"
    if left_out:
        return f"No changes in {harmless(plan.project)} but {left_out} left out; {unchanged} unchanged."
    if not unchanged:
        return f"No changes. There is nothing to do in {harmless(plan.project) or 'this state'}."
    how = "as recorded" if plan.mode == "refresh_only" else "as wanted"
    return f"No changes. {runs} {how} in {harmless(plan.project)}."


def dangers(plan: Plan) -> list[Change]:
    """The changes that stop a run that is live, in the order of the plan."""
    return [change for change in plan.changes if change.interrupts and not change.skipped]


def standing(change: Change, now: datetime | None) -> str:
    """What the run is doing: ``running since 2026-11-01T08:00:00Z (3h 12m)``; "" where there is none."""
    if change.run is None:
        return ""
    words = harmless(change.run.status.replace("_", " "))
    if change.run.started_at:
        words += f" since {harmless(to_the_second(change.run.started_at))}"
        passed = seconds_between(change.run.started_at, now)
        words += f" ({duration(passed)})" if passed is not None else ""
    return words


def why(group: Group, now: datetime | None) -> str:
    """The reasons of a group in one sentence."""
    return "; ".join(harmless(_reason(group, index, now)) for index in range(len(group.first.reasons)))


def _reason(group: Group, index: int, now: datetime | None) -> str:
    reason = group.first.reasons[index]
    if len(group.changes) > 1 and any(c.reasons[index] != reason for c in group.changes):
        return re.sub(rf" at {TIME.pattern}", "", reason)
    return ago(reason, now)


def live_sentence(change: Change) -> str:
    """What replacing or destroying does to a live run, or ""."""
    if not is_live(change) or change.skipped or change.action not in (Action.REPLACE, Action.DESTROY):
        return ""
    if not change.interrupts:
        return "the live attempt ends first" if change.action is Action.REPLACE else ""
    if change.action is Action.REPLACE and change.settings.replace == "start_first":
        return "the new attempt starts, then the live one is stopped"
    return "stops the live attempt" + (", then starts anew" if change.action is Action.REPLACE else "")


def unchanged_fields(change: Change) -> int:
    """How many leaves of the objects are not touched by any of the changed fields."""
    if not change.fields or not change.after:
        return 0
    touched = (f.after for f in change.fields if f.after is not ABSENT and not f.path.startswith("/Run/"))
    return max(0, leaf_count(change.after) - sum(map(leaf_count, touched)))


def past(group: Group) -> str:
    """What history knows: ``last 5: 4 succeeded, 1 failed; 12m to 15m``, or ""."""
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
    """(severity, sentence, addresses) of every distinct preflight finding and warning in the group, errors first."""
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
    """How many preflight errors there are: what apply would trip over."""
    return sum(f.severity == "error" for change in plan.changes for f in change.preflight)


def unchanged_words(plan: Plan) -> str:
    """``12 unchanged: 10 succeeded, 2 running``, or ""."""
    rest = [c for c in plan.changes if not is_shown(c)]
    if not rest:
        return ""
    counts = Counter(c.run.status if c.run else "not started" for c in rest)
    words = ", ".join(f"{n} {harmless(s.replace('_', ' '))}" for s, n in sorted(counts.items(), key=_by_count))
    return f"{len(rest)} unchanged: {words}"
