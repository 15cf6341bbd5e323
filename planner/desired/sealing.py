"""Tokens for secrets: what stands in plans and state where a secret value would, and how to get the value again."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from flowplan.planner.desired import expressions
from flowplan.schemas.documents import parse as parse_document
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.runs import Json
from flowplan.schemas.secrets import SecretSource, token

_DOLLAR = "${$}"
_PIECE = re.compile(r"\$\$\{|\$\{\$\}|\$\{var\.[^}]*\}")


class Sealer:
    """Gives each secret its token, and remembers in memory which token means what.

    Args:
        key: of the state, for fingerprints.
        lookup: resolves ``from_env`` and ``from_file`` on this machine; None when it cannot.

    Attributes:
        secrets: token -> where its value comes from.
        values: token -> value, of those that could be resolved. Never written anywhere.
    """

    def __init__(self, key: bytes, lookup: Callable[[SecretSource], str | None]) -> None:
        self._key = key
        self._lookup = lookup
        self._known: dict[tuple[SecretSource, str | None], str] = {}
        self.secrets: dict[str, SecretSource] = {}
        self.values: dict[str, str] = {}

    def token_for(self, source: SecretSource, value: str | None = None) -> str:
        """Return the token of a secret.

        Args:
            value: the secret if it is known; else it is looked up, once. A token without value ends in ``unresolved``.
        """
        known = self._known.get((source, value))
        if known is not None:
            return known
        found = self._lookup(source) if value is None and source.kind != "template" else value
        sealed = token(source, self._key, found)
        self._known[(source, value)] = sealed
        self.secrets[sealed] = source
        if found is not None:
            self.values[sealed] = found
        return sealed

    def seal_template(self, pieces: list[str | expressions.Reference], value: str) -> str:
        """Return one token for a whole string that sensitive variables touch.

        Args:
            pieces: literal text, and references to sensitive variables; value: the finished string.
        """
        written = "".join(_literal(piece) if isinstance(piece, str) else piece.text for piece in pieces)
        names = sorted({str(piece.steps[0]) for piece in pieces if not isinstance(piece, str)})
        return self.token_for(SecretSource("template", written, tuple(names)), value)


def _literal(text: str) -> str:
    """Return literal text inside a template; a ``$`` at its end must not join the ``${`` that may follow."""
    escaped = expressions.escape(text)
    return escaped[:-1] + _DOLLAR if escaped.endswith("$") else escaped


def evaluate_template(source: SecretSource, values: Mapping[str, Any]) -> str:
    """Return the secret string of a source of kind ``template``.

    Args:
        values: sensitive variable -> its value; lists and maps may be given as the text that ``--var`` takes.

    Raises:
        InvalidInput: a variable has no value, or not the part that is asked for. Never shows a value.
    """
    return _PIECE.sub(lambda match: _filled(match.group(0), values), source.value)


def pieces(source: SecretSource, values: Mapping[str, Any]) -> list[str]:
    """Return what each sensitive variable puts into the string of a template, which is a secret wherever it appears.

    Raises:
        InvalidInput: as ``evaluate_template``.
    """
    found = (match.group(0) for match in _PIECE.finditer(source.value))
    return [_filled(piece, values) for piece in found if piece.startswith("${var.")]


def _filled(piece: str, values: Mapping[str, Any]) -> str:
    if piece == "$${":
        return "${"
    if piece == _DOLLAR:
        return "$"
    template = expressions.parse(piece)
    reference = template.whole if template else None
    if reference is None or reference.steps[0] not in values:
        raise InvalidInput(
            f"{piece}: the variable has no value", hint="give it with --var, --var-file or the environment"
        )
    name = str(reference.steps[0])
    value = _structured(values[name]) if len(reference.steps) > 1 else values[name]
    try:
        return expressions.inserted(expressions.Scope(var={name: value}).value(reference), reference)
    except expressions.ExpressionError as error:
        raise InvalidInput(error.message, hint=error.hint) from None


def _structured(value: Json) -> Json:
    return parse_document(value, "variable").value if isinstance(value, str) else value
