"""The cells of a matrix, and the addresses that name them: ``backfill[date=2026-11-01,shard=3]``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from itertools import product
from typing import Any, NamedTuple

from flowplan.schemas.documents import number, scalar_text
from flowplan.schemas.quantities import duration
from flowplan.schemas.runs import Json
from flowplan.schemas.sources import did_you_mean

MAX_CELLS = 100_000
MAX_WORK = 2_000_000
"""Cells that all entries of ``include`` together may look at and change."""
_BARE = re.compile(r"[^\s,=\[\]\"\x00-\x1f\x7f]+")
_PAIR = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*)=(\"(?:[^\"\\]|\\.)*\"|[^\s,=\[\]\"]+)(?:,|$)")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")

Cell = Mapping[str, Json]


class MatrixError(ValueError):
    """A matrix is not valid; ``path`` is the place inside it."""

    def __init__(self, message: str, path: tuple[str | int, ...] = (), hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.hint = hint


class MatrixCell(NamedTuple):
    """One cell: all its values, and the names of those that its address shows."""

    values: Cell
    shown: tuple[str, ...]


def address(group: str, cell: Cell, shown: Sequence[str] | None = None) -> str:
    """Return the address of a cell; values that hold ``,=[]"``, spaces or nothing at all are JSON strings.

    Args:
        shown: axes in order; default all of the cell.
    """
    names = cell if shown is None else shown
    pairs = ",".join(f"{name}={_quoted(scalar_text(cell[name]))}" for name in names)
    return f"{group}[{pairs}]"


def _quoted(text: str) -> str:
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def parse_address(text: str) -> tuple[str, dict[str, str] | None]:
    """Return the run's name and the values of its cell as texts (None for an address without a cell).

    Raises:
        ValueError: not an address.
    """
    group, bracket, rest = text.partition("[")
    if not bracket:
        return group, None
    if not rest.endswith("]") or not group:
        raise ValueError(f'"{text}" is not an address such as train or backfill[date=2026-11-01]')
    body, position = rest[:-1], 0
    values: dict[str, str] = {}
    while position < len(body):
        found = _PAIR.match(body, position)
        if not found:
            raise ValueError(f'"{text}" is not an address such as train or backfill[date=2026-11-01]')
        name, value = found.groups()
        values[name] = json.loads(value) if value.startswith('"') else value
        position = found.end()
    return group, values


def cells(matrix: Mapping[str, Any]) -> list[MatrixCell]:
    """Return all cells of a matrix whose expressions are evaluated, in order: the last axis changes fastest.

    ``exclude`` leaves out every cell that has all of an entry's values; then each entry of ``include`` is added to the
    cells whose axes it does not contradict, or becomes a cell of its own (as in GitHub Actions).

    Raises:
        MatrixError: an axis without values, an empty matrix, more than 100,000 cells.
    """
    axes = {name: _values(name, values) for name, values in matrix.items() if name not in ("include", "exclude")}
    size = math.prod(len(values) for values in axes.values()) if axes else 0
    if size > MAX_CELLS:
        raise MatrixError(f"has {size:,} cells, more than {MAX_CELLS:,}")
    shown = tuple(axes)
    made = [dict(zip(shown, values, strict=True)) for values in product(*axes.values())] if axes else []
    made = _excluded(made, matrix.get("exclude") or (), axes)
    found = [MatrixCell(cell, shown) for cell in made]
    found += _included(tuple(found), matrix.get("include") or (), shown)
    if not found:
        raise MatrixError("has no cells", (), "give an axis at least one value, or leave the matrix out")
    if len(found) > MAX_CELLS:
        raise MatrixError(f"has {len(found):,} cells, more than {MAX_CELLS:,}")
    return found


def _values(name: str, values: Any) -> Sequence[Json]:
    if isinstance(values, Mapping):
        try:
            return _range(values)
        except ValueError as error:
            raise MatrixError(str(error), (name,)) from None
    if not isinstance(values, list | tuple):
        raise MatrixError(f"must be a list or a range, not {scalar_text(values)}", (name,))
    if not values:
        raise MatrixError("the axis has no values", (name,))
    for index, value in enumerate(values):
        if value is None or isinstance(value, Mapping | list | tuple):
            raise MatrixError("must be a string, a number or a boolean", (name, index))
    return values


def _range(values: Mapping[str, Any]) -> Sequence[Json]:
    first, last, step = values.get("from"), values.get("to"), values.get("step")
    if _DATE.fullmatch(scalar_text(first)) and _DATE.fullmatch(scalar_text(last)):
        return _dates(_date(first), _date(last), step)
    return _numbers(
        _decimal(first, "from"), _decimal(last, "to"), Decimal(1) if step is None else _decimal(step, "step")
    )


def _date(value: Json) -> date:
    try:
        return date.fromisoformat(scalar_text(value))
    except ValueError:
        raise ValueError(f"{scalar_text(value)} is not a date of the calendar") from None


def _decimal(value: Json, name: str) -> Decimal:
    found = number(scalar_text(value)) if not isinstance(value, bool) else None
    if found is None or not math.isfinite(found):
        raise ValueError(f"{name} must be a number, or from and to dates such as 2026-11-01, not {scalar_text(value)}")
    return Decimal(found) if isinstance(found, int) else Decimal(scalar_text(found))


def _count(distance: Decimal | int, step: Decimal | int) -> int:
    if step == 0:
        raise ValueError("the step of a range must not be 0")
    if distance and (distance < 0) != (step < 0):
        raise ValueError("the range has no values: its step leads away from its end")
    try:
        count = int(distance // step) + 1
    except ArithmeticError:
        raise ValueError(f"the range has more than {MAX_CELLS:,} values") from None
    if count > MAX_CELLS:
        raise ValueError(f"the range has {count:,} values, more than {MAX_CELLS:,}")
    return count


def _numbers(first: Decimal, last: Decimal, step: Decimal) -> list[Json]:
    count = _count(last - first, step)
    return [number(f"{first + step * index:f}") for index in range(count)]


def _dates(first: date, last: date, step: Any) -> list[Json]:
    days = _days(step)
    return [(first + timedelta(days * index)).isoformat() for index in range(_count((last - first).days, days))]


def _days(step: Any) -> int:
    if step is None:
        return 1
    found = number(scalar_text(step)) if not isinstance(step, bool) else None
    if isinstance(found, int):
        return int(found)
    try:
        seconds = duration(step)
    except ValueError:
        seconds = 0.5
    if seconds % 86400:
        raise ValueError(f"the step of a range of dates must be whole days such as 7 or 1d, not {scalar_text(step)}")
    return int(seconds // 86400)


def _indexed(found: Sequence[MatrixCell], names: tuple[str, ...]) -> dict[tuple[str, ...], list[MatrixCell]]:
    """Return the cells by their values of some axes, as texts."""
    index: dict[tuple[str, ...], list[MatrixCell]] = {}
    for cell in found:
        index.setdefault(tuple(scalar_text(cell.values[name]) for name in names), []).append(cell)
    return index


def _excluded(made: list[dict[str, Json]], entries: Sequence[Cell], axes: Mapping[str, Any]) -> list[dict[str, Json]]:
    unwanted: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for index, entry in enumerate(entries):
        for name in entry:
            if name not in axes:
                raise MatrixError("the matrix has no such axis", ("exclude", index, name), did_you_mean(name, axes))
        unwanted.setdefault(tuple(entry), set()).add(tuple(map(scalar_text, entry.values())))
    for names, texts in unwanted.items():
        made = [cell for cell in made if tuple(scalar_text(cell[name]) for name in names) not in texts]
    return made


def _included(found: Sequence[MatrixCell], entries: Sequence[Cell], shown: tuple[str, ...]) -> Iterator[MatrixCell]:
    """Yield new cells; values for existing cells are put into these."""
    indexes: dict[tuple[str, ...], dict[tuple[str, ...], list[MatrixCell]]] = {}
    work = 0
    for entry in entries:
        own = tuple(name for name in shown if name in entry)
        if shown and own not in indexes:
            indexes[own] = _indexed(found, own)
            work += len(found)
        matching = indexes[own].get(tuple(scalar_text(entry[name]) for name in own), []) if shown else []
        work += len(matching)
        if work > MAX_WORK:
            raise MatrixError("changes too many cells too often", ("include",), "put these values into an axis")
        for cell in matching:
            cell.values.update({k: v for k, v in entry.items() if k not in shown})  # type: ignore[attr-defined]
        if not matching:
            yield MatrixCell(dict(entry), (*own, *(name for name in entry if name not in shown)))
