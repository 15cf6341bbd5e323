"""What cannot be judged while variables have no value: everything that depends on one."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from flowplan.planner.desired.evaluation import leaves
from flowplan.schemas.load import LoadedSpec
from flowplan.schemas.pointers import walk
from flowplan.schemas.sources import Path, Position, SourceMap

_VARIABLE = re.compile(r"(?<!\$)\$\{var\.([A-Za-z_][A-Za-z0-9_-]*)")
_FIELD = {"defaults": 2, "providers": 3, "runs": 3}
"""Steps of the path of a field, by the part of the spec."""


def depends_on(node: Any, unset: Collection[str]) -> bool:
    """Return whether a compiled tree refers to a variable without a value."""
    return bool(unset) and any(
        reference.namespace == "var" and reference.steps[0] in unset
        for leaf in leaves(node)
        for reference in leaf.template.references
    )


def unsure_places(loaded: LoadedSpec, unset: Collection[str]) -> frozenset[Position]:
    """Return the places of texts that depend on variables without a value, and of what holds them up to their field."""
    if not unset:
        return frozenset()
    found: set[Position] = set()
    for path in _dependent(loaded.tree, unset):
        found.update(_places(loaded.sources, path, _FIELD.get(str(path[0]), 1)))
    for document in loaded.files.values():
        for path in _dependent(document.value, unset):
            found.update(_places(document.sources, path, 0))
    return frozenset(found)


def _places(sources: SourceMap, path: Path, shortest: int) -> Iterator[Position]:
    for length in range(shortest, len(path) + 1):
        yield sources.value(path[:length])
        yield sources.key(path[:length])


def _dependent(value: Any, unset: Collection[str]) -> Iterator[Path]:
    """Yield the paths of the strings that refer to one of these variables."""
    for path, text in walk(value):
        if isinstance(text, str) and any(name in unset for name in _VARIABLE.findall(text)):
            yield path
