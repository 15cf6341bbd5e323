"""Tables of what a file may hold at its places, and what of a file is otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flowplan.schemas.runs import Json
from flowplan.schemas.sources import Diagnostic, Path, SourceMap

Shapes = Mapping[str, tuple[Any, str]]
"""Place, such as ``services/*/image`` in which ``*`` is any key or index -> types that may be there, and words for them."""


def faults(tree: Json, sources: SourceMap, shapes: Shapes) -> list[Diagnostic]:
    """Return every value that is of another type than its place takes; a null is as good as nothing, but in a list."""
    return [
        sources.at_value(path, f"must be {words}")
        for shape, (kinds, words) in shapes.items()
        for path, value in _at(tree, tuple(shape.split("/")))
        if not isinstance(value, kinds) and (value is not None or isinstance(path[-1], int) or shape.endswith("*"))
    ]


def _at(value: Json, shape: Path, path: Path = ()) -> Iterator[tuple[Path, Json]]:
    if not shape:
        yield path, value
        return
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in pairs:
        if shape[0] in ("*", key):
            yield from _at(child, shape[1:], (*path, key))
