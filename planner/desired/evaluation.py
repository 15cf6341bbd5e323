"""Trees of values with expressions in them: compiled once for a run, evaluated for each of its cells."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flowplan.planner.desired import expressions
from flowplan.planner.desired.expressions import ExpressionError, Reference, Scope, Template
from flowplan.planner.desired.sealing import Sealer
from flowplan.schemas.pointers import members
from flowplan.schemas.runs import Json
from flowplan.schemas.sources import Path

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
OnError = Callable[[Path, ExpressionError], None]
"""Told of every expression that is wrong: where, and why."""


class Leaf(NamedTuple):
    """A string with expressions."""

    template: Template
    path: Path


class Branch(NamedTuple):
    """A mapping or list; ``parts`` are its members that hold expressions, all others are shared as they are."""

    base: dict[str, Any] | list[Any]
    parts: tuple[tuple[Any, Leaf | Branch], ...]


def compiled(value: Json, path: Path, wrong: OnError) -> Json | Leaf | Branch:
    """Return ``value`` itself when nothing in it is an expression, else a tree to be built for each cell."""
    if isinstance(value, str):
        return _leaf(value, path, wrong)
    made = ((key, compiled(child, (*path, key), wrong)) for key, child in members(value))
    changed = [(key, member) for key, member in made if member is not value[key]]
    if not changed:
        return value
    base: Any = dict(value) if isinstance(value, dict) else list(value)
    for key, member in changed:
        base[key] = member if not isinstance(member, Leaf | Branch) else None
    return Branch(base, tuple((k, m) for k, m in changed if isinstance(m, Leaf | Branch)))


def _leaf(text: str, path: Path, wrong: OnError) -> str | Leaf:
    if "${" not in text:
        return text
    try:
        template = expressions.parse(text)
    except ExpressionError as error:
        wrong(path, error)
        return text
    return text if template is None else Leaf(template, path)


def leaves(node: Any) -> Iterator[Leaf]:
    """Yield every string with expressions in a compiled tree."""
    if isinstance(node, Leaf):
        yield node
    elif isinstance(node, Branch):
        for _, part in node.parts:
            yield from leaves(part)


@dataclass(slots=True)
class Evaluator:
    """Evaluates compiled trees; strings that a sensitive variable enters become tokens.

    Args:
        sensitive: names of the sensitive variables; wrong: told of every fault, the value is then None.
    """

    scope: Scope
    sensitive: frozenset[str]
    sealer: Sealer
    wrong: OnError
    failed: bool = field(default=False)

    def build(self, node: Any) -> Json:
        """Return the plain value of a compiled tree (or of a plain value)."""
        if isinstance(node, Leaf):
            return self._text(node)
        if isinstance(node, Branch):
            made: Any = node.base.copy()
            for key, part in node.parts:
                made[key] = self.build(part)
            return made
        return node

    def _text(self, leaf: Leaf) -> Json:
        template = leaf.template
        try:
            if self.sensitive and any(self._is_sensitive(r) for r in template.references):
                return self._sealed(template)
            return expressions.evaluate(template, self.scope.value)
        except ExpressionError as error:
            self.failed = True
            self.wrong(leaf.path, error)
            return None

    def _is_sensitive(self, reference: Reference) -> bool:
        return reference.namespace == "var" and reference.steps[0] in self.sensitive

    def _sealed(self, template: Template) -> Json:
        whole = template.whole
        if whole is not None:
            return self._sealed_value(whole, self.scope.value(whole))
        pieces: list[str | Reference] = []
        text = ""
        for part in template.parts:
            shown = part if isinstance(part, str) else expressions.inserted(self.scope.value(part), part)
            secret = isinstance(part, Reference) and self._is_sensitive(part)
            pieces.append(part if secret else shown)
            text += shown
        return self.sealer.seal_template(_joined(pieces), text)

    def _sealed_value(self, reference: Reference, value: Json) -> Json:
        """Return a token for every leaf of a sensitive list or map."""
        if isinstance(value, Mapping):
            return {k: self._sealed_value(_part(reference, k), v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self._sealed_value(_part(reference, i), v) for i, v in enumerate(value)]
        return self.sealer.seal_template([reference], expressions.inserted(value, reference))


def _joined(pieces: list[str | Reference]) -> list[str | Reference]:
    joined: list[str | Reference] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def _part(reference: Reference, step: str | int) -> Reference:
    if isinstance(step, str) and set(step) & set('"}'):
        raise ExpressionError(f"{reference.text}: a sensitive map must not have the key {step}")
    written = f"[{step}]" if isinstance(step, int) else f".{step}" if _NAME.fullmatch(step) else f'["{step}"]'
    return Reference(reference.namespace, (*reference.steps, step), f"{reference.text[:-1]}{written}}}")
