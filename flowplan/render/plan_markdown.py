"""A plan as Markdown for pull requests: one table, folded differences, never longer than what a comment may hold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from flowplan.render import groups, sentences, varying
from flowplan.render.differences import Line
from flowplan.render.groups import Group
from flowplan.render.markdown import alert, code, cut, entities, fenced, folded, node_text, span
from flowplan.render.presented import lines_of, run_line
from flowplan.render.signs import MEANINGS, SIGNS, WORDS
from flowplan.render.varying import as_ranges
from flowplan.schemas.kinds import Kinds
from flowplan.schemas.plans import Action, Change, Plan
from flowplan.schemas.text import counted, harmless

COMMENT = 65_536
"""The most bytes of a comment on GitHub, which counts characters."""

SUMMARY = 1_048_576
"""The most bytes of a job's summary on GitHub."""

_LONGEST_REMARKS = 6_000
_LISTED = 20
_WIDTH = 120
_IN_A_ROW = 3
_PROBLEMS = 5
_IN_A_CELL = 120
"""Characters of a change that a cell of the table shows."""
_NODES, _EDGES = 40, 120
_TABLE = "| | action | runs | provider | why |\n|---|---|---|---|---|\n"

_LINE = re.compile(r"(.+?):(\d{1,9})(?: .*)?", re.DOTALL)
"""An origin that is a line of a file."""
_OF_MANY = re.compile(r"/(?:metadata|labels|Labels)/")
"""Places that often say the same for all runs."""

_ALWAYS = 0
_DROPPED_LAST = {Action.DESTROY: 1, Action.REPLACE: 2, Action.RERUN: 4, Action.CREATE: 5, Action.UPDATE: 6}
_HURTING = frozenset({Action.DESTROY, Action.REPLACE})
_GRAPH, _UNCHANGED = 7, 8


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of the document; parts with a high ``rank`` are dropped first, those with rank 0 never.

    Attributes:
        what: its name where it is left out; runs: those whose details it has.
        blocks: what it says, fold by fold, so that a part that does not fit whole can be cut, saying so.
    """

    text: str
    rank: int = _ALWAYS
    what: str = ""
    runs: tuple[str, ...] = ()
    shorter: Callable[[int], str] = lambda room: ""

    @property
    def size(self) -> int:
        return len(self.text.encode())


def plan_markdown(
    plan: Plan,
    kinds: Kinds,
    *,
    budget: int = COMMENT,
    apply_command: str | None = None,
    link: Callable[[str, str], str] = lambda file, line: "",
) -> str:
    """Return the Markdown of a plan, byte for byte the same for the same plan and links.

    Args:
        kinds: how people read the objects.
        budget: the most bytes; what is left out or cut to keep it is said, rows of destroys and replaces go last of all.
        apply_command: the exact command that applies this plan.
        link: the address of a line of a file of the spec; "" where there is none.
    """
    shown_groups = groups.grouped(plan.changes, kinds)
    head, foot = f"{marker(plan)}\n{_head(plan)}", _foot(plan, apply_command)
    return _section(head, shown_groups, _details(plan, shown_groups, kinds), foot, budget, kinds, link)


def plans_markdown(
    plans: Sequence[Plan],
    kinds: Kinds,
    *,
    budget: int = COMMENT,
    apply_commands: Sequence[str],
    link: Callable[[str, str], str] = lambda file, line: "",
) -> str:
    """Return the Markdown of the plans of several environments: a section for each, after those of what changes alike in several.

    The arguments are as for ``plan_markdown``. The first lines are the markers of all plans.
    """
    grouped = [groups.grouped(plan.changes, kinds) for plan in plans]
    alike: dict[str, dict[int, Group]] = {}
    for number, plan in enumerate(plans):
        for group in grouped[number]:
            neutral = group._replace(changes=tuple(_neutral(change, plan.environment) for change in group.changes))
            fold = _body(neutral, sentences.cells(plan), kinds).folded(_title(neutral))
            alike.setdefault(_row(neutral, budget, kinds, link) + fold, {})[number] = neutral
    shared: dict[tuple[int, ...], list[Group]] = {}
    for by_plan in alike.values():
        if len(by_plan) > 1:
            shared.setdefault(tuple(by_plan), []).append(next(iter(by_plan.values())))
    names = [code(plan.environment) for plan in plans]
    text = "".join(f"{marker(plan)}\n" for plan in plans)
    text += f"### Plans for {entities(harmless(plans[0].project))}: {', '.join(names)}\n\n"
    left, sections = budget - len(text.encode()), len(shared) + len(plans)
    for numbers, common in shared.items():
        head = f"#### {' and '.join(names[number] for number in numbers)}\n\n"
        folds = _folds(plans[numbers[0]], common, kinds)
        text += (section := _section(head, common, folds, "", left // sections, kinds, link))
        left, sections = left - len(section.encode()), sections - 1
    for number, plan in enumerate(plans):
        told = {c.address for numbers, common in shared.items() if number in numbers for g in common for c in g.changes}
        own = [group for group in grouped[number] if group.first.address not in told]
        count = sum(len(group.changes) for group in grouped[number]) - sum(len(group.changes) for group in own)
        above = f"{counted(count, 'run')} {'changes' if count == 1 else 'change'} as told above.\n\n" if count else ""
        head = _head(plan, "####") + above
        details, foot = _details(plan, own, kinds), _foot(plan, apply_commands[number])
        text += (section := _section(head, own, details, foot + "\n", left // sections, kinds, link))
        left, sections = left - len(section.encode()), sections - 1
    return text


def _section(
    head: str,
    shown_groups: Sequence[Group],
    details: Sequence[_Part],
    foot: str,
    budget: int,
    kinds: Kinds,
    link: Callable[[str, str], str],
) -> str:
    """Return a table with its details, between a head and a foot."""
    left = budget - len((head + foot).encode()) - 1000
    rows = _table(shown_groups, left, partial(_row, kinds=kinds, link=link))
    left -= sum(part.size for part in rows)
    parts, dropped = _fitting(details, left)
    return head + "".join(p.text for p in rows) + "\n" + "".join(p.text for p in parts) + _said(dropped) + foot


def _neutral(change: Change, environment: str) -> Change:
    """Return a change in whose name the environment is ``${environment}``, so that those of several can be equal."""
    name = change.name.replace(f"-{environment}-", "-${environment}-", 1)
    after = json.loads(json.dumps(change.after).replace(json.dumps(change.name), json.dumps(name)))
    return replace(change, name=name, after=after) if change.name else change


def marker(plan: Plan) -> str:
    """Return the hidden first line by which a bot finds its comment and sees whether the plan is another one."""
    where = f" environment={_in_comment(plan.environment)}" if plan.environment else ""
    return f"<!-- flowplan:project={_in_comment(plan.project)}{where} digest={_in_comment(plan.digest)} -->"


def _in_comment(text: str) -> str:
    return re.sub(r"[^\w.:/-]|-(?=-)", lambda m: f"%{ord(m[0]):02x}", text[:200], flags=re.ASCII)


# --- head and foot ---------------------------------------------------------------------------------------------------


def _head(plan: Plan, level: str = "###") -> str:
    text = f"{level} {entities(cut(sentences.verdict(plan)))}\n\n"
    text += alert("WARNING", [f"**{sentence}.**" for sentence, _ in sentences.dangers(plan)])
    text += alert("CAUTION", _failing(plan))
    text += "".join(f"- **{line}**\n" for line in _warnings(plan))
    text += "".join(f"- on {span(engine)}\n" for engine in sentences.engines(plan))
    room = _LONGEST_REMARKS
    for number, remark in enumerate(plan.diagnostics):
        line = f"- {entities(cut(str(remark)))}\n"
        room -= len(line.encode())
        if room < 0:
            return text + f"- and {len(plan.diagnostics) - number} more remarks\n\n"
        text += line
    return text + "\n"


def _failing(plan: Plan) -> list[str]:
    """Say at what apply would fail: the first few problems, whose details have all of them."""
    count = sentences.problems(plan)
    if not count:
        return []
    found = sentences.remarks(Group(plan.changes))
    told = [
        f"{entities(cut(said))} ({entities(cut(sentences.few(runs)))})"
        for severity, said, runs in found
        if severity == "error"
    ]
    more = len(told) - _PROBLEMS
    lines = [f"- {line}" for line in (*told[:_PROBLEMS], *([f"and {more} more"] if more > 0 else []))]
    return [f"**Apply would fail: {counted(count, 'problem')} found beforehand.**", *lines]


def _warnings(plan: Plan) -> Iterator[str]:
    skipped = sum(1 for change in plan.changes if change.skipped)
    if skipped:
        yield f"Leaves out {counted(skipped, 'run')}: protected."
    if sentences.only_records(plan):
        yield sentences.only_records(plan)
    if not plan.refreshed:
        yield "Planned offline: no engine was asked what runs now."


def _foot(plan: Plan, apply_command: str | None) -> str:
    if not any(groups.is_shown(change) and not change.skipped for change in plan.changes):
        return f"Digest {code(plan.digest)}\n"
    command = fenced([harmless(apply_command or "flowplan apply plan.json")], "sh")
    return f"To do exactly this:\n\n{command}\nApproved is what has the digest {code(plan.digest)}.\n"


# --- the table -------------------------------------------------------------------------------------------------------


def _table(shown_groups: Sequence[Group], left: int, row_of: Callable[[Group, int], str]) -> list[_Part]:
    """Return the rows, what hurts first. Where not all fit, the names of what hurts stay, and the rest is counted."""
    if not shown_groups:
        return []
    parts = [_Part(_TABLE)]
    left -= parts[0].size + 500
    names = list(map(_names_size, shown_groups))
    reserved = sum(names)
    squeezed: list[Group] = []
    for group, size in zip(shown_groups, names, strict=True):
        reserved -= size
        row = _Part(row_of(group, left - reserved))
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
    return len(code(change.address).encode()) + 2


def _squeezed_rows(squeezed: Sequence[Group], room: int) -> Iterator[str]:
    """Yield one row for each action of the groups that have no row of their own."""
    for action in dict.fromkeys(group.action for group in squeezed):
        changes = [change for group in squeezed if group.action is action for change in group.changes]
        names: list[str] = []
        for change in changes if action in _HURTING else ():
            room -= _name_size(change)
            if room < 0:
                break
            names.append(code(change.address))
        more = len(changes) - len(names)
        names += [f"{'and ' if names else ''}{more} more"] if more else []
        word = WORDS[action]
        yield f"| {code(SIGNS[action])} | {word} | {', '.join(names)} | | |\n"


def _hurts(group: Group) -> bool:
    return group.action in _HURTING or group.first.interrupts


def _row(group: Group, room: int, kinds: Kinds, link: Callable[[str, str], str]) -> str:
    change = group.first
    word = WORDS[group.action]
    action = "left out" if change.skipped else "moved" if group.action is Action.NO_OP else word
    action = f"**{action}**" if _hurts(group) else action
    first, _, more = sentences.why(group, None).partition("; ")
    file, line = _line_of_spec(change, link)
    if file and first == f"new in {file}":
        why, line = [f"new in {line}"], ""
    else:
        only = _only_change(group, kinds)
        why = [entities(cut(first)) + (f": {only}" if only and "changed" in first else "")]
        why += [only] if only and "changed" not in first else []
    why += [entities(cut(more))] if more else []
    live = sentences.live_sentence(change)
    if live:
        times = sorted(sentences.standing(one, None) for one in group.changes)
        since = times[0] if len(times) == 1 else f"the first {times[0]}"
        why.append(f"**{entities(live)}**" + (f" ({entities(since)})" if change.interrupts else ""))
    why += [entities(cut(change.skipped))] if change.skipped else []
    errors = sum(f.severity == "error" for c in group.changes for f in c.preflight)
    why += [f"**{counted(errors, 'problem')}**"] if errors else []
    why += [line] if line else []
    sign = "!" if change.skipped else SIGNS[group.action]
    return f"| {code(sign)} | {action} | {_runs(group, room)} | {code(change.provider)} | {'; '.join(why)} |\n"


def _only_change(group: Group, kinds: Kinds) -> str:
    """Return ``old -> new`` where one field changes, in all runs alike, and both are short."""
    fields = [field for change in group.changes for field in change.fields]
    alike = all((f.path, f.before, f.after) == (fields[0].path, fields[0].before, fields[0].after) for f in fields)
    if not fields or not alike:
        return ""
    how = sentences.changed_fields(group.first, kinds)[0].how
    sides = ["none" if side is None else side for side in how[:2]]
    if how.lines or sum(map(len, sides)) > _IN_A_CELL:
        return code(how.lines[0][1]) if len(how.lines) == 1 and len(how.lines[0][1]) <= _IN_A_CELL else ""
    return " -&#62; ".join(map(code, sides))


def _line_of_spec(change: Change, link: Callable[[str, str], str]) -> tuple[str, str]:
    """Return the file and the line that say what changes, or what is new, as a link where that is known; "" without one."""
    places: Iterable[str] = (field.path for field in change.fields if not field.drift)
    if groups.shows_objects(change):
        places = (path for path in change.origins if not _OF_MANY.search(path))
    lines = (_LINE.fullmatch(sentences.origin_of(change, path)) for path in places)
    found = next(filter(None, lines), None)
    if found is None:
        return "", ""
    text, address = code(cut(f"{found[1]}:{found[2]}", _IN_A_CELL)), link(found[1], found[2])
    return found[1], f"[{text}]({address})" if address else text


def _runs(group: Group, room: int) -> str:
    """Return the addresses; every one where the action hurts, as long as there is room."""
    limit = len(group.changes) if _hurts(group) else _IN_A_ROW
    names: list[str] = []
    room -= 1000
    for change in group.changes[:limit]:
        name = code(change.address) + (f" (was {code(change.moved_from)})" if change.moved_from else "")
        room -= len(name.encode()) + 2
        if room < 0 and names:
            break
        names.append(name)
    more = len(group.changes) - len(names)
    count = f"{len(group.changes)} runs: " if len(group.changes) > 1 else ""
    return count + ", ".join(names) + (f" and {more} more" if more else "")


# --- the details -----------------------------------------------------------------------------------------------------


def _details(plan: Plan, shown_groups: Sequence[Group], kinds: Kinds) -> list[_Part]:
    """Return all parts below the table, in reading order."""
    parts = [_Part(graph, _GRAPH, "the graph") for graph in [_graph(plan)] if graph]
    parts += _folds(plan, shown_groups, kinds)
    words = sentences.unchanged_words(plan)
    if words:
        rest = [harmless(change.address) for change in plan.changes if not groups.is_shown(change)]
        parts.append(_Part(folded(entities(words), fenced(rest, "")), _UNCHANGED, "the unchanged runs"))
    return parts


def _folds(plan: Plan, shown_groups: Sequence[Group], kinds: Kinds) -> list[_Part]:
    """Return the details of each group."""
    parts = []
    known = sentences.cells(plan)
    for group in shown_groups:
        body = _body(group, known, kinds)
        if body.remarks or body.diff or body.told:
            rank = _DROPPED_LAST.get(group.action, 3)
            title = _title(group)
            runs = tuple(change.address for change in group.changes)
            parts.append(_Part(body.folded(title), rank, "", runs, partial(body.shortened, title)))
    return parts


def _fitting(parts: Sequence[_Part], left: int) -> tuple[list[_Part], list[_Part]]:
    """Return the parts that fit, in their order, some of them cut, and those that do not; the least important go first."""
    kept: dict[int, _Part] = {}
    for rank in sorted({part.rank for part in parts}):
        for number, part in enumerate(parts):
            if part.rank != rank:
                continue
            fits = part if part.size <= left else replace(part, text=part.shorter(left))
            if fits.text:
                left -= fits.size
                kept[number] = fits
    return [kept[n] for n in sorted(kept)], [part for number, part in enumerate(parts) if number not in kept]


def _said(dropped: Sequence[_Part]) -> str:
    """Return which details are left out, and where they are shown."""
    if not dropped:
        return ""
    words = [entities(part.what) for part in dropped if part.what]
    runs = [run for part in dropped for run in part.runs]
    if runs:
        names = ", ".join(code(cut(run, 60)) for run in runs[:5])
        more = f" and {len(runs) - 5} more" if len(runs) > 5 else ""
        words.append(f"the details of {counted(len(runs), 'run')}: {names}{more}")
    return f"**Not shown, there is no room: {'; '.join(words)}.** <code>flowplan show --full PLAN</code> shows everything.\n\n"


@dataclass(frozen=True, slots=True)
class _Body:
    """What a fold has: remarks, the lines of the difference, and what differs between the runs."""

    remarks: tuple[str, ...]
    diff: tuple[str, ...]
    told: tuple[tuple[str, ...], ...]
    runs: tuple[str, ...]

    def folded(self, title: str) -> str:
        """Return all of it."""
        text = "".join(f"- {line}\n" for line in self.remarks) + ("\n" if self.remarks else "")
        text += fenced(self.diff, "diff") if self.diff else ""
        rows = [line for row in self.told for line in row]
        if rows:
            text += f"\nWhat differs between the {len(self.runs)} runs:\n\n" + fenced(rows, "")
        return folded(title, text)

    def shortened(self, title: str, room: int) -> str:
        """Return as much of it as fits, saying what is cut; "" when there is no room for anything that helps."""
        for longest in (2000, 400, 120):
            less = replace(
                self,
                diff=tuple(cut(line, longest) for line in self.diff),
                told=tuple(tuple(cut(line, longest) for line in row) for row in self.told),
            )
            if len((text := less.folded(title)).encode()) <= room:
                return text
        low, high = 0, len(less.told)
        while low < high:  # the most rows of the table that fit
            middle = (low + high + 1) // 2
            fits = len(less._with_rows(middle).folded(title).encode()) <= room
            low, high = (middle, high) if fits else (low, middle - 1)
        return less._with_rows(low).folded(title) if low > 1 else ""

    def _with_rows(self, number: int) -> _Body:
        missing = self.runs[max(0, number - 1) :]
        note = f"... not shown, there is no room: {counted(len(missing), 'run')}, {harmless(missing[0])} to {harmless(missing[-1])}"
        return replace(self, told=(*self.told[:number], (note,)))


def _title(group: Group) -> str:
    change, count = group.first, len(group.changes)
    name = code(change.address) if count == 1 else f"{counted(count, 'run')} such as {code(change.address)}"
    return f"{code(SIGNS[group.action])} {name}: {entities(cut(sentences.why(group, None), 120))}"


def _body(group: Group, known: Mapping[str, Sequence[str]], kinds: Kinds) -> _Body:
    told = varying.told(group.changes, group.varying, _WIDTH)
    rows = [*told.rows, *((rule,) for rule in told.rules)]
    runs = tuple(change.address for change in group.changes)
    if not told.rows and len(runs) > _IN_A_ROW and not _hurts(group):
        ranges = as_ranges(runs) if len(runs) > _LISTED else ""
        rows += [(ranges,)] if ranges else [(harmless(run),) for run in runs]
    return _Body(tuple(_remarks(group, known)), tuple(_diff(group, kinds)), tuple(rows), runs)


def _remarks(group: Group, known: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if needed := sentences.needed(group, known):
        yield "after " + ", ".join(map(code, needed))
    past = sentences.past(group)
    if past:
        yield entities(past)
    remarks = list(sentences.remarks(group))
    for severity, sentence, addresses in remarks[:_LISTED]:
        where = f" ({counted(len(addresses), 'run')})" if len(group.changes) > 1 else ""
        yield f"**{entities(severity)}**: {entities(cut(sentence))}{where}"
    if len(remarks) > _LISTED:
        yield f"and {counted(len(remarks) - _LISTED, 'more remark')}"


def _diff(group: Group, kinds: Kinds) -> Iterator[str]:
    """Yield lines for a diff fence: markers in column 0, ``!`` for what changes in place."""
    change = group.first
    if groups.shows_objects(change):
        mark = "+" if change.action.starts else " "
        if len(group.changes) > 1:
            yield f"@@ {harmless(change.address)} @@"
        yield f"{mark} {run_line(change, kinds)}"
        yield from (f"{mark} {line}" for line in lines_of(change, change.after, kinds))
    for field in sentences.changed_fields(change, kinds):
        yield from _field(field)
    rest = sentences.unchanged_fields(change)
    if rest:
        yield f"  {rest}"


def _field(field: sentences.ChangedField) -> Iterator[str]:
    name, how, words = field.name, field.how, f"  # {field.words}"
    if how.lines:
        yield f"@@ {name} @@{words}"
        yield from map(_marked, how.lines)
    elif how.before is not None and how.after is not None:
        if field.in_place and len(how.before) + len(how.after) < 60:
            yield f"! {name}: {how.before} -> {how.after}{words}"
            return
        yield f"- {name}: {how.before}"
        yield f"+ {name}: {how.after}{words}"
    else:
        yield f"+ {name}: {how.after}{words}" if how.before is None else f"- {name}: {how.before}{words}"


def _marked(line: Line) -> str:
    mark, text = line
    return f"{'!' if mark == '~' else mark} {text}".rstrip()


# --- the graph -------------------------------------------------------------------------------------------------------


def _graph(plan: Plan) -> str:
    """Draw the needs between the runs that change, all cells of a matrix as one node; "" when none needs another."""
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
    actions: dict[str, dict[str, None]] = {}
    for change in plan.changes:
        actions.setdefault(names[change.address], {})[MEANINGS[change.action].partition(" ")[0]] = None
    lines = ["graph LR"]
    for name, node in nodes.items():
        done = ", ".join(actions.get(name, ()))
        lines.append(f'  {node}["{node_text(name)}{f": {done}" if done else ""}"]')
    lines += [f"  {nodes[one]} --> {nodes[other]}" for one, other in sorted(edges)]
    return folded("What needs what", fenced(lines, "mermaid"))
