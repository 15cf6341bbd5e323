"""Variables in compose files, ``${TAG:-latest}``, as variables of a spec.

The grammar: https://github.com/compose-spec/compose-spec/blob/main/12-interpolation.md
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowplan.planner.desired import expressions
from flowplan.planner.importing import VARIABLE, Expression, Hidden, Secret
from flowplan.planner.importing.secrets import looks_secret
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.runs import Json
from flowplan.schemas.sources import Path, SourceMap

_FOUND = re.compile(r"\$(?:(\$)|([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-?])([^${}]*))?\}|(\{))")
_IN_QUOTES = re.compile(r"(?m)^[ \t]*(?:export[ \t]+)?([\w.-]+)[ \t]*=[ \t]*'")
_STAND_IN = "1"
"""The value of a variable without one, for the comparison."""


def as_they_are(text: str) -> frozenset[str]:
    """Return the names in a file of variables whose values are in single quotes, in which ``$`` stands for itself."""
    return frozenset(_IN_QUOTES.findall(text))


def filled_in(text: str, values: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the values of ``.env`` with those of its earlier lines filled in; None for what comes from elsewhere."""
    quoted, found = as_they_are(text), dict[str, str | None]()

    def value(match: re.Match[str]) -> str:
        given = found.get(match[2] or match[3] or "")
        if match[6] or (given is None and not match[1] and match[4] not in ("-", ":-")):
            raise LookupError
        return "$" if match[1] else match[5] if given is None or (given == "" and match[4] == ":-") else given

    for name, written in values.items():
        try:
            found[name] = written if written is None or name in quoted else _FOUND.sub(value, written)
        except LookupError:
            found[name] = None
    return found


@dataclass(slots=True)
class Variables:
    """The variables that a file was found to use.

    Attributes:
        given: those of the file ``.env``; None for one whose value is not known.
        declared: name -> declaration in the spec; values: name -> value for the comparison.
        secrets: variables whose value is one.
    """

    sources: SourceMap
    given: Mapping[str, str | None]
    declared: dict[str, dict[str, Json]] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    secrets: dict[Secret, Hidden] = field(default_factory=dict)

    def both(self, value: Json, path: Path) -> tuple[Any, Json]:
        """Return a value as the spec writes it, with expressions, and as it is in the end.

        Raises:
            InvalidInput: something in it is no variable.
        """
        if isinstance(value, dict):
            pairs = {key: self.both(child, (*path, key)) for key, child in value.items()}
            return {key: one for key, (one, _) in pairs.items()}, {key: other for key, (_, other) in pairs.items()}
        if isinstance(value, list):
            items = [self.both(child, (*path, index)) for index, child in enumerate(value)]
            return [one for one, _ in items], [other for _, other in items]
        if not isinstance(value, str) or "$" not in value:
            return value, value
        written = final = ""
        end = 0
        for found in _FOUND.finditer(value):
            text = value[end : found.start()]
            end = found.end()
            name = found[2] or found[3]
            if found[6]:
                hint = "`docker compose config | flowplan import -` takes it with all variables filled in"
                message = "a variable in the default of another one, or a replacement, is not taken over"
                raise InvalidInput([self.sources.at_value(path, message, hint)])
            written += expressions.escape(text) + ("$" if found[1] else f"${{var.{name}}}")
            final += text + ("$" if found[1] else self._value(name, found[4] or "", found[5] or "", path))
        written, final = written + expressions.escape(value[end:]), final + value[end:]
        return Expression(written), final

    def _value(self, name: str, sign: str, text: str, path: Path) -> str:
        """Declare a variable, and return its value here.

        A default that is not the one of another place makes the two unequal: a variable of the spec has one.
        """
        default = self.given.get(name)
        if default is None or (default == "" and sign == ":-"):
            default = text if sign in ("-", ":-") else None
        value = _STAND_IN if default is None else default
        if looks_secret(name, default or "x"):
            self.declared[name] = {"sensitive": True}
            value = self.values[name] = value or _STAND_IN
            if default:
                self.secrets[Secret(VARIABLE, name)] = Hidden(default, f"${{{name}}}", self.sources.value(path))
        elif name not in self.declared or (default is not None and "default" not in self.declared[name]):
            self.declared[name] = {} if default is None else {"default": default}
            self.values[name] = value
        return self.values[name] if default is None else value
