"""A plan as Markdown for pull requests: one table, folded differences, never longer than what a comment may hold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flowplan.render import groups
from flowplan.render.differences import Line, shown
from flowplan.render.groups import Group
from flowplan.render.objects import object_lines, place
from flowplan.render.plan_text import drift_words, effect_words
from flowplan.render.signs import MEANINGS, SIGNS, counted, harmless
from flowplan.schemas.plans import Action, Change, FieldChange, Plan

_LONGEST_BLOCK = 12_000
_LONGEST_LINE = 400
_LONGEST_REMARKS = 6_000
_LISTED = 20
_NODES, _EDGES = 40, 120
_TABLE = "| | action | runs | provider | why |\n|---|---|---|---|---|\n"

_ALWAYS = 0
_DROPPED_LAST = {Action.DESTROY: 1, Action.REPLACE: 2, Action.RERUN: 4, Action.CREATE: 5, Action.UPDATE: 6}
_HURTING = frozenset({Action.DESTROY, Action.REPLACE})
_GRAPH, _UNCHANGED = 7, 8


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of the document; parts with a high ``rank`` are dropped first, those with rank 0 never."""

    text: str
    rank: int = _ALWAYS
    what: str = ""

    @property
    def size(self) -> int:
        return len(self.text.encode())


def plan_markdown(plan: Plan, *, budget: int = 60_000, apply_command: str | None = None) -> str:
    """The Markdown of a plan, byte for byte the same for the same plan.

    Args:
        budget: the most bytes; what is dropped to keep it is said, rows of destroys and replaces go last of all.
        apply_command: the exact command that applies this plan.
    """
    shown_groups = groups.grouped(plan.changes)
    head, foot = _head(plan), _foot(plan, apply_command)
    left = budget - len((head + foot).encode()) - 400
    rows = _table(shown_groups, left)
    left -= sum(part.size for part in rows)
    parts, dropped = _fitting(_details(plan, shown_groups), left)
    return head + "".join(p.text for p in rows) + "\n" + "".join(p.text for p in parts) + _said(dropped) + foot


def marker(plan: Plan) -> str:
    """The hidden first line by which a bot finds its comment and sees whether the plan is another one."""
    return f"<!-- flowplan:project={_in_comment(plan.project)} digest={_in_comment(plan.digest)} -->"


def _in_comment(text: str) -> str:
    return re.sub(r"[^\w.:/]", lambda m: f"%{ord(m[0]):02x}", text[:200], flags=re.ASCII)


# --- safe text -------------------------------------------------------------------------------------------------------


def _entities(text: str) -> str:
    """Text that is nothing but text in HTML, in a table and in Markdown; mentions and links stay silent."""
    quiet = re.sub(r"(@|#|www\.|://)", lambda m: f"{m[0][0]}\u200b{m[0][1:]}", harmless(text))
    return re.sub(r"[^\w .,:;/=()%+\u200b-]|_", lambda m: f"&#{ord(m[0])};", quiet)


def _code(text: str) -> str:
    """A name as code, wherever it stands."""
    return "<code>" + re.sub(r"[^\w .,:;/=()%+-]|_", lambda m: f"&#{ord(m[0])};", harmless(text)) + "</code>"


def _span(text: str) -> str:
    """Return one line of text as a code span that its content cannot end; not for tables, whose cells a ``|`` ends."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _fenced(lines: Sequence[str], language: str) -> str:
    """A fence that its content cannot close."""
    runs = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, runs + 1)
    return f"{fence}{language}\n" + "".join(f"{line}\n" for line in lines) + f"{fence}\n"


def _folded(title: str, body: str) -> str:
    """A fold; ``title`` is safe HTML, and the blank lines make ``body`` Markdown again."""
    return f"<details><summary>{title}</summary>\n\n{body}\n</details>\n\n"


# --- head and foot ---------------------------------------------------------------------------------------------------


def _head(plan: Plan) -> str:
    text = f"{marker(plan)}\n### {_entities(_cut(groups.verdict(plan)))}\n\n"
    text += "".join(f"- **{line}**\n" for line in _warnings(plan))
    text += "".join(f"- on {_span(engine)}\n" for engine in groups.engines(plan))
    room = _LONGEST_REMARKS
    for number, remark in enumerate(plan.diagnostics):
        line = f"- {_entities(_cut(str(remark)))}\n"
        room -= len(line.encode())
        if room < 0:
            return text + f"- and {len(plan.diagnostics) - number} more remarks\n\n"
        text += line
    return text + "\n"


def _warnings(plan: Plan) -> Iterator[str]:
    stopped = len(groups.dangers(plan))
    if stopped:
        yield f"Stops {counted(stopped, 'run')} that {'is' if stopped == 1 else 'are'} live."
    skipped = sum(1 for change in plan.changes if change.skipped)
    if skipped:
        yield f"Leaves out {counted(skipped, 'run')}: protected."
    if groups.problems(plan):
        yield f"Apply would fail: {counted(groups.problems(plan), 'problem')} found beforehand."
    if groups.only_records(plan):
        yield groups.only_records(plan)
    if not plan.refreshed:
        yield "Planned offline: no engine was asked what runs now."


def _foot(plan: Plan, apply_command: str | None) -> str:
    if not any(groups.is_shown(change) and not change.skipped for change in plan.changes):
        return f"Digest {_code(plan.digest)}\n"
    command = _fenced([harmless(apply_command or "flowplan apply plan.json")], "sh")
    return f"To do exactly this:\n\n{command}\nApproved is what has the digest {_code(plan.digest)}.\n"


def _cut(text: str, length: int = _LONGEST_LINE) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


# --- the table -------------------------------------------------------------------------------------------------------


def _table(shown_groups: Sequence[Group], left: int) -> list[_Part]:
    """The rows, what hurts first. Where not all fit, the names of what hurts stay, and the rest is counted."""
    if not shown_groups:
        return []
    parts = [_Part(_TABLE)]
    left -= parts[0].size + 500
    names = [sum(map(_name_size, group.changes)) if _hurts(group) else 0 for group in shown_groups]
    reserved = sum(names)
    squeezed: list[Group] = []
    for group, size in zip(shown_groups, names, strict=True):
        reserved -= size
        row = _Part(_row(group, left - reserved))
        if row.size + reserved > left or (squeezed and not _hurts(group)):
            squeezed.append(group)
            left -= size
        else:
            left -= row.size
            parts.append(row)
    return parts + [_Part(row) for row in _squeezed_rows(squeezed, left + sum(map(_names_size, squeezed)))]


def _names_size(group: Group) -> int:
    return sum(map(_name_size, group.changes)) if _hurts(group) else 0


def _name_size(change: Change) -> int:
    return len(_code(change.address).encode()) + 2


def _squeezed_rows(squeezed: Sequence[Group], room: int) -> Iterator[str]:
    """One row for each action of the groups that have no row of their own."""
    for action in dict.fromkeys(group.action for group in squeezed):
        changes = [change for group in squeezed if group.action is action for change in group.changes]
        names: list[str] = []
        for change in changes if action in _HURTING else ():
            room -= _name_size(change)
            if room < 0:
                break
            names.append(_code(change.address))
        more = len(changes) - len(names)
        names += [f"{'and ' if names else ''}{more} more"] if more else []
        word = MEANINGS[action].partition(" (")[0]
        yield f"| {_code(SIGNS[action])} | {word} | {', '.join(names)} | | |\n"


def _hurts(group: Group) -> bool:
    return group.action in _HURTING


def _row(group: Group, room: int) -> str:
    change = group.first
    word = MEANINGS[group.action].partition(" (")[0]
    action = "left out" if change.skipped else "moved" if group.action is Action.NO_OP else word
    action = f"**{action}**" if _hurts(group) else action
    why = [_entities(_cut(groups.why(group, None)))]
    live = groups.live_sentence(change)
    if live:
        why.append(f"**{_entities(live)}**" + (f" ({_entities(_standing(group))})" if change.interrupts else ""))
    why += [_entities(_cut(change.skipped))] if change.skipped else []
    errors = sum(f.severity == "error" for c in group.changes for f in c.preflight)
    why += [f"**{counted(errors, 'problem')}**"] if errors else []
    sign = "!" if change.skipped else SIGNS[group.action]
    return f"| {_code(sign)} | {action} | {_runs(group, room)} | {_code(change.provider)} | {'; '.join(why)} |\n"


def _standing(group: Group) -> str:
    times = sorted(groups.standing(change, None) for change in group.changes)
    return times[0] if len(times) == 1 else f"the first {times[0]}"


def _runs(group: Group, room: int) -> str:
    """The addresses; every one where the action hurts, as long as there is room."""
    limit = len(group.changes) if _hurts(group) else 3
    names: list[str] = []
    room -= 1000
    for change in group.changes[:limit]:
        name = _code(change.address) + (f" (was {_code(change.moved_from)})" if change.moved_from else "")
        room -= len(name.encode()) + 2
        if room < 0 and names:
            break
        names.append(name)
    more = len(group.changes) - len(names)
    count = f"{len(group.changes)} runs: " if len(group.changes) > 1 else ""
    return count + ", ".join(names) + (f" and {more} more" if more else "")


# --- the details -----------------------------------------------------------------------------------------------------


def _details(plan: Plan, shown_groups: Sequence[Group]) -> list[_Part]:
    """All parts below the table, in reading order."""
    parts = [_Part(graph, _GRAPH, "the graph") for graph in [_graph(plan)] if graph]
    for group in shown_groups:
        body = _body(group)
        if body:
            rank = _DROPPED_LAST.get(group.action, 3)
            parts.append(_Part(_folded(_title(group), body), rank, f"details of {MEANINGS[group.action]}"))
    words = groups.unchanged_words(plan)
    if words:
        rest = [harmless(change.address) for change in plan.changes if not groups.is_shown(change)]
        parts.append(_Part(_folded(_entities(words), _fenced(_bounded(rest), "")), _UNCHANGED, "the unchanged runs"))
    return parts


def _fitting(parts: Sequence[_Part], left: int) -> tuple[list[_Part], Counter[str]]:
    """The parts that fit, in their order, and how many of each kind do not; the least important go first."""
    dropped: Counter[str] = Counter()
    kept = set()
    for rank in sorted({part.rank for part in parts}):
        for number, part in enumerate(parts):
            if part.rank != rank:
                continue
            if part.size <= left:
                left -= part.size
                kept.add(number)
            else:
                dropped[part.what] += 1
    return [part for number, part in enumerate(parts) if number in kept], dropped


def _said(dropped: Counter[str]) -> str:
    if not dropped:
        return ""
    words = ", ".join(what if what.startswith("the ") else f"{count} {what}" for what, count in sorted(dropped.items()))
    return f"_Left out to keep this short: {_entities(words)}. <code>flowplan show --full</code> shows everything._\n\n"


def _title(group: Group) -> str:
    change, count = group.first, len(group.changes)
    name = _code(change.address) if count == 1 else f"{counted(count, 'run')} such as {_code(change.address)}"
    return f"{_code(SIGNS[group.action])} {name}: {_entities(_cut(groups.why(group, None), 120))}"


def _body(group: Group) -> str:
    change = group.first
    text = "".join(f"- {line}\n" for line in _remarks(group))
    lines = list(_diff(change))
    text += ("\n" if text else "") + _fenced(_bounded(lines), "diff") if lines else ""
    if len(group.changes) > 3 and not _hurts(group):
        names = _fenced(_bounded([harmless(c.address) for c in group.changes]), "")
        text += "\n" + _folded(f"all {len(group.changes)} runs", names).rstrip("\n") + "\n"
    return text


def _remarks(group: Group) -> Iterator[str]:
    change = group.first
    if change.settings.needs and change.action.starts:
        yield "after " + ", ".join(_code(need) for need in change.settings.needs[:_LISTED])
    past = groups.past(group)
    if past:
        yield _entities(past)
    for severity, sentence, addresses in list(groups.remarks(group))[:_LISTED]:
        where = f" ({counted(len(addresses), 'run')})" if len(group.changes) > 1 else ""
        yield f"**{_entities(severity)}**: {_entities(_cut(sentence))}{where}"
    for what, values in group.varying.items():
        few = ", ".join(_code(_cut(value, 60)) for value in values[:4])
        more = f" and {len(values) - 4} more" if len(values) > 4 else ""
        yield f"differs: {_code(what)}: {few}{more}"


def _diff(change: Change) -> Iterator[str]:
    """Lines for a diff fence: markers in column 0, ``!`` for what changes in place."""
    if groups.shows_objects(change):
        mark = "+" if change.action.starts else " "
        yield from (f"{mark} {line}" for line in object_lines(change.after))
    for field in change.fields:
        yield from _field(place(field.path, change.after, change.before), field)
    rest = groups.unchanged_fields(change)
    if rest:
        yield f"  ({rest} unchanged {'field' if rest == 1 else 'fields'} not shown)"


def _field(name: str, field: FieldChange) -> Iterator[str]:
    how = shown(field.before, field.after)
    words = "  # " + "; ".join(filter(None, (effect_words(field), drift_words(field))))
    in_place = field.effect != "replace"
    if how.lines:
        yield f"@@ {name} @@{words}"
        yield from map(_marked, how.lines)
    elif how.before is not None and how.after is not None:
        if in_place and len(how.before) + len(how.after) < 60:
            yield f"! {name}: {how.before} -> {how.after}{words}"
            return
        yield f"- {name}: {how.before}"
        yield f"+ {name}: {how.after}{words}"
    else:
        yield f"+ {name}: {how.after}{words}" if how.before is None else f"- {name}: {how.before}{words}"


def _marked(line: Line) -> str:
    mark, text = line
    return f"{'!' if mark == '~' else mark} {text}".rstrip()


def _bounded(lines: Sequence[str]) -> list[str]:
    """The first lines of a block, cut to a size that leaves room for others; what is missing is counted."""
    kept: list[str] = []
    left = _LONGEST_BLOCK
    for number, line in enumerate(lines):
        line = _cut(line)
        left -= len(line.encode()) + 1
        if left < 0:
            return [*kept, f"  ... {len(lines) - number} more lines"]
        kept.append(line)
    return kept


# --- the graph -------------------------------------------------------------------------------------------------------


def _graph(plan: Plan) -> str:
    """The needs between the runs that change, all cells of a matrix as one node; "" when none needs another."""
    names = {change.address: change.settings.group or change.address.partition("[")[0] for change in plan.changes}
    touched = {names[c.address] for c in plan.changes if groups.is_shown(c)}
    edges = {
        (names.get(need, need), names[change.address])
        for change in plan.changes
        for need in change.settings.needs
        if names[change.address] in touched and names.get(need, need) != names[change.address]
    }
    if not edges or len(edges) > _EDGES:
        return ""
    nodes = {name: f"n{number}" for number, name in enumerate(sorted({name for edge in edges for name in edge}))}
    if len(nodes) > _NODES:
        return ""
    signs = _signs(plan, names)
    lines = ["graph LR"]
    lines += [f'  {node}["{_label(name, signs.get(name, ""))}"]' for name, node in nodes.items()]
    lines += [f"  {nodes[one]} --> {nodes[other]}" for one, other in sorted(edges)]
    return _folded("What needs what", _fenced(lines, "mermaid"))


def _signs(plan: Plan, names: dict[str, str]) -> dict[str, str]:
    found: dict[str, dict[str, None]] = {}
    for change in plan.changes:
        found.setdefault(names[change.address], {})[MEANINGS[change.action].partition(" ")[0]] = None
    return {name: ", ".join(actions) for name, actions in found.items()}


def _label(name: str, action: str) -> str:
    """A node's text: nothing in it that mermaid could read as its own."""
    text = re.sub(r"[^\w .,=/-]", "?", harmless(name)[:60])
    return f"{text}: {action}" if action else text
