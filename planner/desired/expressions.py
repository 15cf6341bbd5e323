"""Expressions: ``${var.x}``, ``${each.axis}``, ``${run.address|id|attempt}``, ``${project}``, ``${environment}``.

``$${`` is a literal ``${``.

Everything else in braces, such as ``${HOME}`` in a shell command, is not ours and stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import islice
from typing import NamedTuple

from flowplan.schemas.documents import scalar_text
from flowplan.schemas.runs import Json
from flowplan.schemas.sources import did_you_mean
from flowplan.schemas.text import shortened

_FOUND = re.compile(
    r"\$\$\{"
    r"|\$\{(?:(var|each|run)\.([^}]*)|(project|environment))\}"
    r"|(\$\{(?:var|each|run)\.[^}]*|\$\{\s+(?:var|each|run)\.[^}]*\}?)"
)
_STEPS = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*)|\[(-?[0-9]+)\]|\[\"([^\"]*)\"\]")


class ExpressionError(ValueError):
    """An expression cannot be evaluated; the message says why, the hint what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Reference(NamedTuple):
    """One expression: ``${var.m.key}`` is ``("var", ("m", "key"))``; ``text`` is as written."""

    namespace: str
    steps: tuple[str | int, ...]
    text: str


class Template(NamedTuple):
    """A string that holds expressions, split into literal pieces and references."""

    parts: tuple[str | Reference, ...]
    text: str

    @property
    def whole(self) -> Reference | None:
        """Return the only reference of a string that is nothing but one expression."""
        only = self.parts[0] if len(self.parts) == 1 else None
        return only if isinstance(only, Reference) else None

    @property
    def references(self) -> tuple[Reference, ...]:
        return tuple(part for part in self.parts if isinstance(part, Reference))

    @property
    def literal(self) -> str | None:
        """Return the text of a string without any reference, else None."""
        return None if self.references else "".join(str(part) for part in self.parts)


def parse(text: str) -> Template | None:
    """Return the template of a string, or None when nothing in it is ours.

    Raises:
        ExpressionError: an expression of ours is not well formed.
    """
    if "${" not in text:
        return None
    parts: list[str | Reference] = []
    end = 0
    for match in _FOUND.finditer(text):
        if match.start() > end:
            parts.append(text[end : match.start()])
        parts.append(_part(match))
        end = match.end()
    if not parts:
        return None
    if end < len(text):
        parts.append(text[end:])
    return Template(tuple(parts), text)


def _part(match: re.Match[str]) -> str | Reference:
    if match.group(0) == "$${":
        return "${"
    if match.group(4):
        return _meant(match.group(4))
    if match.group(3):
        return Reference(match.group(3), (), match.group(0))
    return Reference(match.group(1), _steps(match.group(2), match.group(0)), match.group(0))


def _meant(text: str) -> Reference:
    """Raise for what is no expression, but can only be meant as one: never closed, or with blanks.

    Raises:
        ExpressionError: always.
    """
    shown = shortened(text, 43)
    if "}" in text:
        raise ExpressionError(f"{shown} holds blanks", "write ${var.name} without them; $${ is a literal ${")
    raise ExpressionError(f"{shown} is not closed", "write ${var.name} with a }; $${ is a literal ${")


def _steps(text: str, whole: str) -> tuple[str | int, ...]:
    steps: list[str | int] = []
    position = 0
    while position < len(text):
        if steps and text[position] == ".":
            position += 1
        found = _STEPS.match(text, position)
        bracket = position < len(text) and text[position] == "["
        if not found or (bracket and not steps) or (steps and not bracket and text[position - 1] != "."):
            break
        name, index, quoted = found.groups()
        steps.append(int(index) if index is not None else name if name is not None else quoted)
        position = found.end()
    if not steps or position < len(text) or text.endswith("."):
        hint = "write ${var.name}, ${var.map.key} or ${var.list[0]}; $${ is a literal ${"
        raise ExpressionError(f"{whole} is not an expression", hint)
    return tuple(steps)


def escape(text: str) -> str:
    """Return the string that evaluates to ``text``: every ``${`` of it as ``$${``."""
    return text.replace("${", "$${")


class Scope(NamedTuple):
    """What the namespaces hold. ``each`` is None for a run without a matrix; ``run`` may lack what is known later."""

    var: Mapping[str, Json] = {}
    each: Mapping[str, Json] | None = None
    run: Mapping[str, Json] = {}
    project: str = ""
    environment: str = ""

    def value(self, reference: Reference) -> Json:
        """Return the value of one expression.

        Raises:
            ExpressionError: unknown name, or a step into something that does not have it.
        """
        if reference.namespace == "project":
            return self.project
        if reference.namespace == "environment":
            return self.environment or reference.text  # without environments it is text like any other
        names = self._names(reference)
        first, *rest = reference.steps
        if first not in names:
            known = ", ".join(sorted(islice(names, 20))) or "none"
            hint = did_you_mean(str(first), names) or f"known: {known}"
            raise ExpressionError(f"{reference.text}: {_WHAT[reference.namespace]} {first} is not known", hint)
        value = names[str(first)]
        for step in rest:
            value = _step(value, step, reference)
        return value

    def _names(self, reference: Reference) -> Mapping[str, Json]:
        if reference.namespace == "var":
            return self.var
        if reference.namespace == "run":
            return self.run
        if self.each is None:
            raise ExpressionError(f"{reference.text}: the run has no matrix", "each.* is for runs with a matrix")
        return self.each


_WHAT = {"var": "the variable", "each": "the axis", "run": "the field of a run"}


def _step(value: Json, step: str | int, reference: Reference) -> Json:
    if isinstance(value, Mapping):
        if step in value:
            return value[str(step)]
        raise ExpressionError(f"{reference.text}: there is no key {step}", did_you_mean(str(step), value))
    if isinstance(value, list | tuple):
        if isinstance(step, int) and -len(value) <= step < len(value):
            return value[step]
        raise ExpressionError(f"{reference.text}: there is no item {step} in a list of {len(value)}")
    raise ExpressionError(f"{reference.text}: has no parts, it is not a map or a list")


def evaluate(template: Template, value_of: Callable[[Reference], Json]) -> Json:
    """Return the value of a template: of any type when it is one expression, else a string.

    Raises:
        ExpressionError: unknown names; a list or map inside a longer string.
    """
    whole = template.whole
    if whole is not None:
        return value_of(whole)
    return "".join(part if isinstance(part, str) else inserted(value_of(part), part) for part in template.parts)


def inserted(value: Json, reference: Reference) -> str:
    """Return a value as it appears inside a longer string: ``true``, the number as written, null as nothing."""
    if isinstance(value, Mapping | list | tuple):
        kind = "map" if isinstance(value, Mapping) else "list"
        hint = "use it alone, or one of its parts"
        raise ExpressionError(f"{reference.text} is a {kind} and cannot stand inside a longer string", hint)
    return scalar_text(value)
