"""What is said of a plan and its changes, in text and in Markdown alike."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from flowplan.render.differences import Shown, View, shown
from flowplan.render.groups import Group, is_shown
from flowplan.render.objects import leaf_count, place, scalar
from flowplan.render.signs import COUNTED, TIME, ago, to_the_second
from flowplan.render.units import Units, duration, in_units, units_of
from flowplan.render.varying import words_of_needs
from flowplan.schemas.kinds import Kinds
from flowplan.schemas.plans import ABSENT, Action, Change, FieldChange, Plan
from flowplan.schemas.pointers import nearest
from flowplan.schemas.runs import Status
from flowplan.schemas.text import counted, harmless
from flowplan.schemas.times import seconds_between

_LIVE = frozenset(status.value for status in Status if status.live)


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
    live = change.run is not None and change.run.status in _LIVE
    if not live or change.skipped or change.action not in (Action.REPLACE, Action.DESTROY):
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


def few(words: Sequence[str]) -> str:
    """Return the first three of some names, and how many more there are."""
    more = len(words) - 3
    return ", ".join(map(harmless, words[:3])) + (f" and {more} more" if more > 0 else "")


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
