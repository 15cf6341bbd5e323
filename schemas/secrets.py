"""Secrets as the documents show them: tokens with a fingerprint in place of values, and the one redactor."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

TOKEN = re.compile(r"\(sensitive ([^()\s]+) ([0-9a-f]{16}|unresolved)\)")
"""What stands where a secret value would: ``(sensitive env:PGPASSWORD 3f9a1c2b7d405e11)``."""


@dataclass(frozen=True, slots=True)
class SecretSource:
    """Where a secret value comes from.

    Attributes:
        kind: ``from_env`` (``value`` is a variable of the environment of the machine that applies), ``from_file``
            (``value`` is a path, absolute or relative to the spec's directory) or ``template`` (``value`` is a string
            with ``${var.x}`` of sensitive variables; everything else in it is already filled in).
        variables: names of the sensitive variables in a template.
    """

    kind: str
    value: str
    variables: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What a token shows of the source: ``env:NAME``, ``file:PATH``, ``var.token``; no spaces or parentheses."""
        shown = {"from_env": f"env:{self.value}", "from_file": f"file:{self.value}"}.get(self.kind)
        text = shown or "+".join(f"var.{name}" for name in self.variables)
        return re.sub(r"[()\s]", "_", text)


def fingerprint(key: bytes, value: str) -> str:
    """The first 16 hex digits of HMAC-SHA256(key, value): shows that a secret changed, not what it is."""
    return hmac.new(key, value.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:16]


def token(source: SecretSource, key: bytes, value: str | None) -> str:
    """The token for a secret; ``value`` None means that it could not be resolved on this machine."""
    mark = "unresolved" if value is None else fingerprint(key, value)
    return f"(sensitive {source.label} {mark})"


def tokens_in(value: Any) -> set[str]:
    """All tokens inside a JSON value."""
    if isinstance(value, str):
        return {m.group(0) for m in TOKEN.finditer(value)} if "(sensitive " in value else set()
    if isinstance(value, Mapping):
        return {t for k, v in value.items() for t in tokens_in(v) | tokens_in(k)}
    if isinstance(value, list | tuple):
        return {t for v in value for t in tokens_in(v)}
    return set()


def reveal(value: Any, values: Mapping[str, str]) -> Any:
    """A copy of a JSON value with every token that ``values`` knows replaced by its secret value."""
    if isinstance(value, str):
        if "(sensitive " not in value:
            return value
        return TOKEN.sub(lambda m: values.get(m.group(0), m.group(0)), value)
    if isinstance(value, Mapping):
        return {k: reveal(v, values) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [reveal(v, values) for v in value]
    return value


class Redactor:
    """Replaces secret values, in all the forms they may take in a text, by ``(sensitive)``."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.add(values)

    def add(self, values: Iterable[str]) -> None:
        """Learn more secret values."""
        raise NotImplementedError

    def __call__(self, text: str) -> str:
        """``text`` without any secret value."""
        raise NotImplementedError
