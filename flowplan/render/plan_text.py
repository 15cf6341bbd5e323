"""A plan as text for a terminal: verdict, dangers, each change once, verdict and next command again."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from flowplan.render import groups, sentences, varying
from flowplan.render.differences import LONGEST, Line, line_differences, one_line, whole_differences
from flowplan.render.groups import Group
from flowplan.render.objects import leaves, place, scalar
from flowplan.render.presented import lines_of, run_line
from flowplan.render.signs import COLOUR_OF, COLOUR_OF_MARK, MEANINGS, SIGNS, WORDS, paint
from flowplan.render.varying import as_ranges
from flowplan.schemas.kinds import Kinds
from flowplan.schemas.plans import Action, Change, Plan
from flowplan.schemas.text import counted, harmless

_LISTED = 40
_INDENT = "    "
_MARGIN = 6


class _Style(NamedTuple):
    """How a plan is written: see ``plan_text``."""

    colour: bool
    full: bool
    context: int
    width: int
    explain: bool
    now: datetime | None
    cells: Mapping[str, Sequence[str]]
    kinds: Kinds

    def paint(self, text: str, colour: str) -> str:
        return paint(text, colour, self.colour)


def plan_text(
    plan: Plan,
    kinds: Kinds,
    *,
    colour: bool,
    full: bool = False,
    context: int = 0,
    width: int = 80,
    explain: bool = False,
    now: datetime | None = None,
    apply_command: str = "flowplan apply",
) -> Iterator[str]:
    """Yield the lines of a plan, without newlines.

    Args:
        kinds: how people read the objects.
        colour: paint with ANSI codes; colour is never the only sign.
        full: show every object of every run whole, with its changes marked, and unchanged runs.
        context: unchanged lines around each changed one; more than 0 shows changes inside their objects.
        width: columns; lines are broken at words where that is possible.
        explain: tell the origin of every field of the objects.
        now: when given, times are also told relative to it.
        apply_command: what to run next; "" where it is being carried out already.
    """
    style = _Style(colour, full, context, max(width, 40), explain, now, sentences.cells(plan), kinds)
    shown_groups = groups.grouped(plan.changes, kinds, whole=full)
    yield from _verdict(plan, style)
    for engine in sentences.engines(plan):
        yield from _wrapped(f"on {engine}", "", style)
    yield from _dangers(plan, style)
    for group in shown_groups:
        yield ""
        yield from _group(group, style)
    yield from _rest(plan, style)
    yield from _diagnostics(plan, style)
    if shown_groups:
        yield ""
        used = {group.action for group in shown_groups}
        legend = [f"{SIGNS[action]} {MEANINGS[action]}" for action in Action if action in used]
        yield from (style.paint(line, "dim") for line in _filled(legend, style, "", "   "))
        yield from _verdict(plan, style)
    yield from _next(plan, style, apply_command)


# --- what comes before and after the changes -------------------------------------------------------------------------


def _verdict(plan: Plan, style: _Style) -> Iterator[str]:
    yield from (style.paint(line, "bold") for line in _wrapped(sentences.verdict(plan), "", style))


def _dangers(plan: Plan, style: _Style) -> Iterator[str]:
    for sentence, hurting in sentences.dangers(plan):
        yield style.paint(f"! {sentence}:", "red")
        for change in hurting:
            yield from _wrapped(f"{harmless(change.address)}  {sentences.standing(change, style.now)}", _INDENT, style)
    skipped = [change for change in plan.changes if change.skipped]
    if skipped:
        yield style.paint(f"! Leaves out {counted(len(skipped), 'run')} (apply exits with 6):", "red")
        for change in skipped:
            yield from _wrapped(f"{harmless(change.address)}  {harmless(change.skipped)}", _INDENT, style)
    errors = sentences.problems(plan)
    if errors:
        yield style.paint(f"! Apply would fail: {counted(errors, 'problem')} found beforehand, see below.", "red")
    if sentences.only_records(plan):
        yield from _wrapped(sentences.only_records(plan), "", style)
    if not plan.refreshed:
        yield "! Planned offline: no engine was asked what runs now."


def _rest(plan: Plan, style: _Style) -> Iterator[str]:
    words = sentences.unchanged_words(plan)
    if not words:
        return
    yield ""
    yield style.paint(f"=   {words}", "dim")
    if style.full:
        for change in plan.changes:
            if not groups.is_shown(change):
                reason = sentences.why(Group((change,)), style.now)
                yield from _wrapped(f"{harmless(change.address)}: {reason}", _INDENT, style)
                yield from _marked(
                    ((" ", line) for line in lines_of(change, change.after, style.kinds, whole=True)), style
                )
    for severity, sentence, addresses in sentences.remarks(
        Group(tuple(c for c in plan.changes if not groups.is_shown(c)))
    ):
        yield from _wrapped(f"! {severity}: {sentence} ({sentences.few(addresses)})", _INDENT, style)


def _diagnostics(plan: Plan, style: _Style) -> Iterator[str]:
    if plan.diagnostics:
        yield ""
    for remark in plan.diagnostics:
        severity = getattr(remark, "severity", "warning")
        colour = "red" if severity == "error" else "yellow"
        said = "" if severity == "info" else f"{severity}: "
        first, *others = _wrapped(f"{said}{harmless(str(remark))}", "", style, "  ")
        yield style.paint(first, colour) if said else first
        yield from others


def _next(plan: Plan, style: _Style, apply_command: str) -> Iterator[str]:
    if any(groups.is_shown(change) and not change.skipped for change in plan.changes):
        if apply_command:
            yield f"To do exactly this: {harmless(apply_command)}"
        yield style.paint(f"Digest: {harmless(plan.digest)}", "dim")


# --- one group -------------------------------------------------------------------------------------------------------


def _group(group: Group, style: _Style) -> Iterator[str]:
    yield _headline(group, style)
    yield from _wrapped(sentences.why(group, style.now), _INDENT, style)
    yield from _facts(group, style)
    yield from _runs(group, style)
    for severity, sentence, addresses in sentences.remarks(group):
        where = f" ({sentences.few(addresses)})" if len(group.changes) > 1 else ""
        first, *others = _wrapped(f"! {severity}: {sentence}{where}", _INDENT, style)
        yield style.paint(first, "red" if severity == "error" else "yellow")
        yield from others
    yield from _body(group, style)


def _headline(group: Group, style: _Style) -> str:
    change, many = group.first, len(group.changes)
    sign = f"{SIGNS[group.action]:<3}"
    name = harmless(change.address) if many == 1 else f"{many} runs{_common_name(group)}"
    what = WORDS[group.action]
    if change.skipped:
        sign, what = "!  ", f"left out: would {what}"
    if change.action is Action.NO_OP and change.moved_from:
        what = "moved"
    head = style.paint(f"{sign} {name}", COLOUR_OF[group.action])
    return f"{head}  {what} ({harmless(change.provider)})"


def _common_name(group: Group) -> str:
    names = {change.address.partition("[")[0] for change in group.changes}
    return f" of {harmless(names.pop())}" if len(names) == 1 else ""


def _facts(group: Group, style: _Style) -> Iterator[str]:
    change = group.first
    said = [sentences.live_sentence(change)]
    if change.interrupts and len(group.changes) == 1:
        said[0] += f": {sentences.standing(change, style.now)}"
    if change.skipped:
        said = [harmless(change.skipped)]
    if change.moved_from and len(group.changes) == 1:
        said.append(f"moved from {harmless(change.moved_from)}")
    if change.action is Action.FORGET:
        said.append("it stays on the engine, the state forgets it")
    if needed := sentences.needed(group, style.cells):
        said.append(f"after {', '.join(needed)}")
    said.append(sentences.past(group))
    for sentence in filter(None, said):
        yield from _wrapped(sentence, _INDENT, style)


def _runs(group: Group, style: _Style) -> Iterator[str]:
    """Name every run of the group, and show every value in which they differ."""
    if len(group.changes) == 1:
        return
    common = _common_name(group)
    names = []
    for change in group.changes:
        _, bracket, cell = change.address.partition("[")
        name = bracket + cell if common and bracket else change.address  # the cell alone where all share their name
        names.append(harmless(f"{change.moved_from} -> {change.address}" if change.moved_from else name))
    told = varying.told(group.changes, group.varying, style.width - len(_INDENT), names)
    for row in told.rows:
        yield from (_INDENT + line for line in row)
    if not told.rows:
        hurts = group.action in (Action.DESTROY, Action.REPLACE)
        ranges = as_ranges([c.address for c in group.changes]) if len(names) > _LISTED and not hurts else ""
        words = [ranges] if ranges else [f"{name}," for name in names[:-1]] + names[-1:]
        yield from _filled(words, style, _INDENT, " ")
    for rule in told.rules:
        yield f"{_INDENT}{rule}"


def _filled(words: Sequence[str], style: _Style, pad: str, between: str) -> Iterator[str]:
    """Put as many words on a line as fit, none of them broken; linear, which textwrap is not."""
    line = ""
    for word in words:
        if line and len(pad) + len(line) + len(between) + len(word) > style.width:
            yield pad + line
            line = ""
        line += between + word if line else word
    yield pad + line


# --- the body of a group: fields, or objects -------------------------------------------------------------------------


def _body(group: Group, style: _Style) -> Iterator[str]:
    change = group.first
    whole = (style.full or style.context > 0) and change.before is not None and change.after is not None
    if change.fields:
        yield from _fields(change, style)
    if change.action.starts and (style.full or groups.shows_objects(change)) and len(group.changes) == 1:
        yield from _marked([("+", run_line(change, style.kinds))], style)
    if whole and groups.is_shown(change):
        yield f"{_INDENT}the objects of {harmless(change.address)}, before and after:"
        yield from _marked(_object_differences(change, style), style)
    elif groups.shows_objects(change):
        if len(group.changes) > 1:
            yield f"{_INDENT}the objects of {harmless(change.address)}:"
            yield from _marked([("+", run_line(change, style.kinds))], style)
        mark = SIGNS[Action.CREATE] if change.action.starts else " "
        lines = lines_of(change, change.after, style.kinds, whole=style.full)
        yield from _marked(((mark, line) for line in lines), style)
    elif style.full and groups.is_shown(change):
        gone = change.action in (Action.DESTROY, Action.FORGET)
        lines = lines_of(change, change.before if gone else change.after, style.kinds, whole=True)
        yield from _marked((("-" if gone else " ", line) for line in lines), style)
    if style.explain and change.after is not None:
        yield from _explained(change, style)


def _marked(lines: Iterable[Line], style: _Style, pad: str = _INDENT) -> Iterator[str]:
    for mark, text in lines:
        line = f"{mark} {text}".rstrip()
        yield pad + (style.paint(line, COLOUR_OF_MARK[mark]) if mark in COLOUR_OF_MARK else line)


def _object_differences(change: Change, style: _Style) -> Iterator[Line]:
    old, new = (list(lines_of(change, one, style.kinds, whole=True)) for one in (change.before, change.after))
    if style.full or max(len(old), len(new)) > LONGEST:
        yield from whole_differences(old, new)
    else:
        yield from line_differences(old, new, style.context)


def _fields(change: Change, style: _Style) -> Iterator[str]:
    fields = sentences.changed_fields(change, style.kinds, max(style.context, 1))
    widest = max((len(field.name) for field in fields if len(field.name) <= 36), default=0)
    for field in fields:
        yield from _field(field, widest, style)
    rest = sentences.unchanged_fields(change)
    if rest and not style.full:
        yield style.paint(f"{_INDENT}  {rest}", "dim")


def _field(field: sentences.ChangedField, widest: int, style: _Style) -> Iterator[str]:
    name, how, words = field.name, field.how, f"  # {field.words}"
    mark = "~" if how.lines else "+" if how.before is None else "-" if how.after is None else "~"
    colour = COLOUR_OF_MARK[mark]
    text = one_line(how)
    for line in (f"{_INDENT}{mark} {name + ':':<{widest + 1}} {text}", f"{_INDENT}{mark} {name}: {text}"):
        if text and len(line) <= style.width:
            yield from _with_words(line, words, colour, style)
            return
    yield from _with_words(f"{_INDENT}{mark} {name}:", words, colour, style)
    if text and len(text) + _MARGIN + 2 <= style.width:
        yield style.paint(" " * (_MARGIN + 2) + text, colour)
    else:
        sides = [(mark, side) for mark, side in (("-", how.before), ("+", how.after)) if side is not None]
        yield from _marked(how.lines or sides, style, " " * (_MARGIN + 2))


def _with_words(line: str, words: str, colour: str, style: _Style) -> Iterator[str]:
    """Yield ``line`` with its effect behind it, or below it where there is no room."""
    if len(line) + len(words) <= style.width:
        yield style.paint(line, colour) + words
        return
    yield style.paint(line, colour)
    yield from _wrapped(words.strip(), " " * (_MARGIN + 2), style, " " * (_MARGIN + 4))


def _explained(change: Change, style: _Style) -> Iterator[str]:
    yield f"{_INDENT}where each field comes from:"
    for path, value in leaves(change.after):
        where = place(path, change.after, kinds=style.kinds)
        yield f"{_INDENT}  {where}: {scalar(value)}  # {harmless(sentences.origin_of(change, path))}"


def _wrapped(text: str, pad: str, style: _Style, later: str = "") -> Iterator[str]:
    """Yield ``text`` in lines of at most the width; a word that is longer stays whole."""
    if len(pad) + len(text) <= style.width:
        yield pad + text
        return
    yield from textwrap.wrap(
        text,
        style.width,
        initial_indent=pad,
        subsequent_indent=pad + (later or "  "),
        break_long_words=False,
        break_on_hyphens=False,
    )
