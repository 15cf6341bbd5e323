"""How one changed value is shown: on one line, line by line, word by word, or part by part."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from flowplan.render.objects import object_lines, scalar
from flowplan.render.units import OF_SETTINGS, Units, in_units
from flowplan.schemas.plans import ABSENT
from flowplan.schemas.runs import Json, canonical
from flowplan.schemas.text import harmless

Line = tuple[str, str]
"""A mark (``+``, ``-``, ``~`` or a space) and a harmless text without its newline."""

LONGEST = 4000
"""Lines of two texts beyond which they are shown whole, one after the other."""
_LARGEST = 2000
"""Lines or words beyond which a value is shown as removed and added: alignment is quadratic at worst."""


class View(NamedTuple):
    """How differences are shown.

    Attributes:
        context: unchanged lines around changed ones in line by line differences.
        units: of the numbers.
    """

    context: int = 1
    units: Units = OF_SETTINGS


_PLAIN = View()


class Shown(NamedTuple):
    """One changed value: ``before`` and ``after`` on one line each, or ``lines`` where that says less than a diff.

    ``before`` is None for something new, ``after`` for something that goes away.
    """

    before: str | None = None
    after: str | None = None
    lines: tuple[Line, ...] = ()


def shown(before: Json, after: Json, view: View = _PLAIN, path: str = "") -> Shown:
    """Return how the change from ``before`` to ``after`` (either may be ABSENT) is shown.

    Args:
        view: how much is shown around, and the units of numbers.
        path: a JSON Pointer, or its last part: numbers whose unit is known are shown in it, when both sides can be.
    """
    sides = (before, after)
    units = [in_units(path, value, view.units) for value in sides]
    if any(units) and all(unit or value in (None, ABSENT) for unit, value in zip(units, sides, strict=True)):
        old, new = (None if value is ABSENT else unit or "none" for unit, value in zip(units, sides, strict=True))
        return Shown(old, new)
    if before is ABSENT or after is ABSENT:
        value, mark = (after, "+") if before is ABSENT else (before, "-")
        if not _flat(value):
            return Shown(lines=tuple(_marked(mark, value, view)))
        return Shown(after=scalar(value)) if mark == "+" else Shown(before=scalar(value))
    if isinstance(before, str) and isinstance(after, str):
        return _strings(before, after, view)
    if isinstance(before, list) and isinstance(after, list):
        if all(isinstance(word, str) and "\n" not in word for word in (*before, *after)):
            return Shown(lines=(("~", _words([_word(w) for w in before], [_word(w) for w in after])),))
        return Shown(lines=tuple(_parts(before, after, view)))
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return Shown(lines=tuple(_parts(before, after, view)))
    if _flat(before) and _flat(after):
        return Shown(scalar(before), scalar(after))
    return Shown(lines=(*_marked("-", before, view), *_marked("+", after, view)))


def one_line(how: Shown) -> str:
    """Return the change on one line; "" when it takes several."""
    if how.lines:
        return how.lines[0][1] if len(how.lines) == 1 and how.lines[0][0] == "~" else ""
    if how.before is not None and how.after is not None:
        return f"{how.before} -> {how.after}"
    return how.after if how.before is None and how.after is not None else how.before or ""


def _flat(value: Json) -> bool:
    """Return whether a value reads well on one line: scalars, empty collections, short lists of scalars."""
    if isinstance(value, str):
        return value.count("\n") == 0
    if isinstance(value, list):
        return all(not isinstance(item, list | Mapping) for item in value) and len(scalar(value)) <= 60
    return not isinstance(value, Mapping) or not value


def _marked(mark: str, value: Json, view: View) -> Iterator[Line]:
    return ((mark, line) for line in object_lines(value, view.units))


def _strings(before: str, after: str, view: View) -> Shown:
    one, other = _parsed(before), _parsed(after)
    if one is not None and other is not None and type(one) is type(other) and one != other:
        return Shown(lines=tuple(_parts(one, other, view)))
    if "\n" in before or "\n" in after:
        if before.endswith("\n") and after.endswith("\n"):  # else what follows the last newline is a line of its own
            before, after = before[:-1], after[:-1]
        return Shown(lines=tuple(line_differences(before.split("\n"), after.split("\n"), view.context)))
    old, new = before.split(" "), after.split(" ")
    if min(len(old), len(new)) >= 4 and len(before) + len(after) > 50:
        text = _words([harmless(w) for w in old], [harmless(w) for w in new])
        if len(text) < len(before) + len(after):
            return Shown(lines=(("~", text),))
    return Shown(scalar(before), scalar(after))


def _word(text: str) -> str:
    """Return a word of a command line, quoted where its ends could not be seen."""
    return text if re.fullmatch(r"[^\s'\"]+", text) and harmless(text) == text else json.dumps(harmless(text))


def _parsed(text: str) -> Json:
    """Return the mapping or list that a string holds as JSON; None when it says more than what it parses to.

    Keys that occur twice, comments and spellings of numbers would not be seen in the parsed value.
    """
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        value = json.loads(text)
        spellings = [json.dumps(value, ensure_ascii=ascii) for ascii in (False, True)] if value else []
    except (ValueError, RecursionError):
        return None
    return value if "".join(text.split()) in ("".join(one.split()) for one in spellings) else None


def _words(old: list[str], new: list[str]) -> str:
    """Return both lists in one line, with ``[-removed-]`` and ``{+added+}`` words, as git shows them."""
    text = []
    for tag, i, j, k, m in _opcodes(old, new):
        if tag == "equal":
            same = old[i:j] if j - i <= 12 else [*old[i : i + 5], f"...({j - i - 10} more)...", *old[j - 5 : j]]
            text.append(" ".join(same))
            continue
        removed, added = " ".join(old[i:j]), " ".join(new[k:m])
        text.append((f"[-{removed}-]" if j > i else "") + (f"{{+{added}+}}" if m > k else ""))
    return " ".join(text)


def _opcodes(old: list[str], new: list[str]) -> Sequence[tuple[str, int, int, int, int]]:
    if max(len(old), len(new)) > _LARGEST:
        return [("replace", 0, len(old), 0, len(new))]
    return difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()


def line_differences(old: list[str], new: list[str], context: int) -> Iterator[Line]:
    """Yield the changed lines with ``context`` unchanged ones around them; what is left out is counted."""
    last = max(len(old), len(new))
    for tag, i, j, k, m in _opcodes(old, new):
        if tag != "equal":
            yield from (("-", harmless(line)) for line in old[i:j])
            yield from (("+", harmless(line)) for line in new[k:m])
            continue
        head = context if i else 0
        tail = context if j < last and (j, m) != (len(old), len(new)) else 0
        if j - i <= head + tail + 1:
            yield from ((" ", harmless(line)) for line in old[i:j])
            continue
        yield from ((" ", harmless(line)) for line in old[i : i + head])
        yield " ", f"... {j - i - head - tail} unchanged lines"
        yield from ((" ", harmless(line)) for line in old[j - tail : j])


def whole_differences(old: list[str], new: list[str]) -> Iterator[Line]:
    """Yield all lines of two texts, those that are in both once; one text after the other where they are too long."""
    if max(len(old), len(new)) > LONGEST:
        yield from (("-", line) for line in old)
        yield from (("+", line) for line in new)
        return
    for tag, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        yield from ((" " if tag == "equal" else "-", line) for line in old[i:j])
        yield from (("+", line) for line in new[k:m] if tag != "equal")


def _parts(before: Json, after: Json, view: View, path: str = "") -> Iterator[Line]:
    """Yield the changed parts of two collections; list items are aligned by their ``name``, or by being equal."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in [*before, *(k for k in after if k not in before)]:
            name = f"{path}.{harmless(str(key))}" if path else harmless(str(key))
            yield from _part(before.get(key, ABSENT), after.get(key, ABSENT), view, name)
    elif isinstance(before, list) and isinstance(after, list):
        yield from _items(before, after, view, path)
    else:
        yield from _part(before, after, view, path)


def _items(before: list[Json], after: list[Json], view: View, path: str) -> Iterator[Line]:
    old, new = _named(before), _named(after)
    if old is not None and new is not None:
        for name in [*old, *(n for n in new if n not in old)]:
            yield from _part(old.get(name, ABSENT), new.get(name, ABSENT), view, f"{path}[{harmless(name)}]")
        return
    for tag, i, j, k, m in _opcodes([canonical(v) for v in before], [canonical(v) for v in after]):
        if tag == "replace" and j - i == m - k:
            for number in range(j - i):
                yield from _part(before[i + number], after[k + number], view, f"{path}[{i + number}]")
        elif tag != "equal":
            for mark, items, first in (("-", before[i:j], i), ("+", after[k:m], k)):
                for number, item in enumerate(items, first):
                    yield from _whole(mark, f"{path}[{number}]", item, view)


def _named(items: list[Json]) -> dict[str, Json] | None:
    """Return the items by their ``name``; None unless every one has a name of its own."""
    names = [item.get("name") if isinstance(item, Mapping) else None for item in items]
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        return None
    return {str(name): item for name, item in zip(names, items, strict=True)}


def _part(before: Json, after: Json, view: View, path: str) -> Iterator[Line]:
    if before is not ABSENT and after is not ABSENT and type(before) is type(after):
        if before == after:
            return
        if isinstance(before, Mapping | list):
            yield from _parts(before, after, view, path)
            return
    how = shown(before, after, view, path.rpartition(".")[2])
    if how.lines:
        yield "+" if before is ABSENT else "-" if after is ABSENT else "~", f"{path}:"
        yield from ((mark, f"  {text}") for mark, text in how.lines)
    elif how.before is not None and how.after is not None:
        yield "~", f"{path}: {how.before} -> {how.after}"
    else:
        yield ("+", f"{path}: {how.after}") if how.before is None else ("-", f"{path}: {how.before}")


def _whole(mark: str, path: str, value: Json, view: View) -> Iterator[Line]:
    lines = list(object_lines(value, view.units))
    if len(lines) == 1:
        yield mark, f"{path}: {lines[0]}"
        return
    yield mark, f"{path}:"
    yield from ((mark, f"  {line}") for line in lines)
