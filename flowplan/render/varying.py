"""What differs between the runs of a group: found leaf by leaf, told completely, and shortly only where that is exact."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import NamedTuple

from flowplan.render.objects import place, scalar
from flowplan.render.presented import presented, run_settings
from flowplan.render.units import in_units, units_of
from flowplan.schemas.kinds import Kinds
from flowplan.schemas.plans import ABSENT, Change
from flowplan.schemas.pointers import escape, keys_of
from flowplan.schemas.runs import Json
from flowplan.schemas.text import harmless

_MOST_VALUES = 2000
"""Values that a group may have before those that follow from the address are told by their rule alone."""

NAME = "name on the engine"


class Varying(NamedTuple):
    """One place where the runs of a group differ, and the value of each of them there."""

    where: str
    values: tuple[str, ...]


# --- finding ---------------------------------------------------------------------------------------------------------


def document(change: Change, shows_objects: bool, kinds: Kinds) -> Json:
    """Return everything of a change that a plan shows and that may differ between runs, as one JSON value."""
    shown: dict[str, Json] = {}
    if change.action.starts:
        shown["Run"] = run_settings(change, kinds) | {"needs": list(change.settings.needs)}
    if shows_objects:
        return shown | presented(change, kinds)
    for number, field in enumerate(change.fields):
        sides = {"before": field.before, "after": field.after, "applied": field.recorded if field.drift else ABSENT}
        shown[str(number)] = {side: value for side, value in sides.items() if value is not ABSENT}
    return shown


def compare(one: Json, other: Json, path: str, found: dict[str, None]) -> bool:
    """Collect the places of the differing leaves of two values of the same shape; return False when the shapes differ."""
    if one is other or (one == other and type(one) is type(other)):
        return True
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if one.keys() != other.keys():
            return False
        return all(compare(one[k], other[k], f"{path}/{escape(k)}", found) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(compare(a, b, f"{path}/{i}", found) for i, (a, b) in enumerate(pairs))
    found[path] = None
    return not isinstance(one, Mapping | list) and not isinstance(other, Mapping | list)


def varying(
    changes: Sequence[Change], documents: Sequence[Json], paths: Sequence[str], kinds: Kinds
) -> tuple[Varying, ...]:
    """Return the places ``paths`` with the values of every run; all that hold the run's name are one place."""
    found, named, units = [], False, units_of(kinds)
    for path in paths:
        values = [_at(one, path) for one in documents]
        if all(value == change.name for value, change in zip(values, changes, strict=True)):
            named = True
        else:
            where, pointer = _where(path, changes[0], kinds)
            written = [in_units(pointer, value, units) for value in values]
            found.append(Varying(where, tuple(written if all(written) else map(scalar, values))))
    return (*found, *([Varying(NAME, tuple(scalar(c.name) for c in changes))] if named else []))


def _where(path: str, first: Change, kinds: Kinds) -> tuple[str, str]:
    """Return a place of ``document`` as people name it, and as a JSON Pointer into the objects."""
    number, _, rest = path[1:].partition("/")
    if not number.isdigit():
        return place(path, first.after, kinds=kinds), path
    side, _, inside = rest.partition("/")
    pointer = first.fields[int(number)].path + (f"/{inside}" if inside else "")
    where = place(pointer, first.after, kinds=kinds)
    return where if side == "after" else f"{where} ({side})", pointer


def _at(value: Json, path: str) -> Json:
    for key in keys_of(path):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


# --- telling ---------------------------------------------------------------------------------------------------------


class Told(NamedTuple):
    """What differs, in words.

    Attributes:
        rules: places whose values follow from the addresses, exactly.
        rows: for each run, one line or several, with its values at all other places; the first is the head of a table.
    """

    rules: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def told(changes: Sequence[Change], places: Sequence[Varying], width: int, short: Sequence[str] = ()) -> Told:
    """Return every value of every run.

    Args:
        short: what the runs are called, in their order; default their addresses.
    """
    many = len(changes) * len(places) > _MOST_VALUES
    rules = {p.where: rule(p, changes) for p in places if many or p.where == NAME}
    rest = [p for p in places if not rules.get(p.where)]
    sentences = tuple(f"{where}: {text}" for where, text in rules.items() if text)
    if not rest:
        return Told(sentences, ())
    names = [harmless(name) for name in short or [c.address for c in changes]]
    heads = ("run", *(p.where for p in rest))
    rows = [heads, *zip(names, *(p.values for p in rest), strict=True)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(heads))]
    if sum(widths) + 2 * len(heads) <= width:
        return Told(sentences, tuple((_aligned(row, widths),) for row in rows))
    blocks = ((row[0], *(f"  {where}: {v}" for where, v in zip(heads[1:], row[1:], strict=True))) for row in rows[1:])
    return Told(sentences, ((), *blocks))


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def rule(what: Varying, changes: Sequence[Change]) -> str:
    """Return the values as one text with ``${each.AXIS}`` in it, "" when not every value is exactly that."""
    cells = [cell_of(change.address) for change in changes]
    axes = sorted((axis for axis, value in cells[0].items() if value), key=lambda axis: -len(cells[0][axis]))
    if not axes or any(cell.keys() != cells[0].keys() for cell in cells):
        return ""
    names = {cells[0][axis]: f"${{each.{axis}}}" for axis in reversed(axes)}
    for pattern in (r"(?<![\w.])(?:{})(?![\w.])", r"(?:{})"):
        values = re.compile(pattern.format("|".join(re.escape(cells[0][axis]) for axis in axes)))
        text = values.sub(lambda match: names[match[0]], what.values[0])
        made = (_filled(text, cell) for cell in cells)
        if all(one == value for one, value in zip(made, what.values, strict=True)):
            return text
    return ""


def _filled(text: str, cell: Mapping[str, str]) -> str:
    return re.sub(r"\$\{each\.([^}]+)\}", lambda match: cell.get(match[1], match[0]), text)


# --- addresses -------------------------------------------------------------------------------------------------------


def cell_of(address: str) -> dict[str, str]:
    """Return the axes of a matrix cell: ``{"day": "2026-11-01"}`` for ``extract[day=2026-11-01]``."""
    inside = address.partition("[")[2].removesuffix("]")
    return dict(axis.partition("=")[::2] for axis in inside.split(",") if "=" in axis)


def as_ranges(addresses: Sequence[str]) -> str:
    """Return ``load: day 2026-11-01 to 2026-11-30, shard 1 to 8`` for all those cells; "" when they are not exactly that."""
    names = {address.partition("[")[0] for address in addresses}
    cells = [cell_of(address) for address in addresses]
    name = addresses[0].partition("[")[0]
    if len(names) > 1 or not cells[0] or any(cell.keys() != cells[0].keys() for cell in cells):
        return ""
    whole = (f"{name}[{','.join(f'{axis}={value}' for axis, value in cell.items())}]" for cell in cells)
    if any(made != address for made, address in zip(whole, addresses, strict=True)):
        return ""
    axes = {axis: list(dict.fromkeys(cell[axis] for cell in cells)) for axis in cells[0]}
    product = 1
    for values in axes.values():
        product *= len(values)
    if product != len({tuple(cell.values()) for cell in cells}) or product != len(addresses):
        return ""
    return f"{harmless(name)}: " + ", ".join(f"{harmless(axis)} {_range(values)}" for axis, values in axes.items())


def _range(values: Sequence[str]) -> str:
    for step in (_next_number, _next_day):
        if len(values) > 3 and all(step(one) == other for one, other in pairwise(values)):
            return f"{harmless(values[0])} to {harmless(values[-1])}"
    return ", ".join(map(harmless, values))


def _next_number(text: str) -> str:
    return str(int(text) + 1) if re.fullmatch(r"0|-?[1-9]\d{0,17}", text) else ""


def _next_day(text: str) -> str:
    try:
        return (date.fromisoformat(text) + timedelta(days=1)).isoformat()
    except (ValueError, OverflowError):
        return ""


def words_of_needs(needs: Sequence[str], known: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield every need; all cells of a run that has more than eight as one.

    Args:
        known: name of a run -> the addresses of all its cells.
    """
    left = set(needs)
    for need in needs:
        if need not in left:
            continue
        cells = known.get(need.partition("[")[0], ()) if "[" in need else ()
        if len(cells) > 8 and left.issuperset(cells):
            left.difference_update(cells)
            yield f"all {len(cells)} cells of {harmless(need.partition('[')[0])}"
        else:
            left.discard(need)
            yield harmless(need)
