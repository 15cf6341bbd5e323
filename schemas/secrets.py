"""Secrets as the documents show them: tokens with a fingerprint in place of values, and the one redactor."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, quote_plus

TOKEN = re.compile(r"\(sensitive ([^()\s]+) ([0-9a-f]{16}|unresolved)\)")
"""What stands where a secret value would: ``(sensitive env:PGPASSWORD 3f9a1c2b7d405e11)``."""


@dataclass(frozen=True, slots=True)
class SecretSource:
    """Where a secret value comes from.

    Attributes:
        kind: ``from_env`` (``value`` is a variable of the environment of the machine that applies), ``from_file``
            (``value`` is a path, absolute or relative to the spec's directory), ``from_spec`` (the secret is written
            out in the spec; ``value`` is the spec's name in its directory, ``#`` and a JSON Pointer) or ``template``
            (``value`` is a string with ``${var.x}`` of sensitive variables; everything else in it is filled in).
        variables: names of the sensitive variables in a template.
    """

    kind: str
    value: str
    variables: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What a token shows of the source: ``env:NAME``, ``file:PATH``, ``spec:NAME#/a/b``, ``var.token``; no spaces or parentheses."""
        words = {"from_env": "env", "from_file": "file", "from_spec": "spec"}
        shown = f"{words[self.kind]}:{self.value}" if self.kind in words else ""
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
    """Replaces secret values, in all the forms they may take in a text, by ``(sensitive)``.

    Known forms are the value itself, JSON-, URL- and shell-escaped, base64 (both alphabets, at each of the three offsets
    it may have inside a longer encoded text), and each line of at least 6 characters of a value of several lines.
    Values of 2 or 3 characters are replaced only where they stand as words of their own, a single character never: a
    secret ``1`` would destroy every number of the output and hide nothing. May be used by several threads at once.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self._lock = threading.Lock()
        self._stale = False
        self.add(values)

    def add(self, values: Iterable[str]) -> None:
        """Learn more secret values."""
        with self._lock:
            new = {value for value in values if len(value) > 1} - self._values
            if new:
                self._values |= new
                self._stale = True

    def __call__(self, text: str) -> str:
        """``text`` without any secret value."""
        if self._stale:
            self._compile()
        pattern = self._pattern
        return pattern.sub(REDACTED, text) if pattern is not None else text

    def _compile(self) -> None:
        with self._lock:
            forms = {form for value in self._values for form in _forms(value) if form}
            self._pattern = re.compile(_alternation(forms))
            self._stale = False


REDACTED = "(sensitive)"
_SHORT = 4
_LINE = 6


def _forms(value: str) -> set[str]:
    lines = {line.strip() for line in value.splitlines()} if len(value.splitlines()) > 1 else set()
    whole = {value, value.strip()} | {line for line in lines if len(line) >= _LINE}
    forms = set(whole)
    for text in whole:
        forms |= {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]}
        forms |= {text.replace("'", "'\"'\"'"), text.replace("\n", "\r\n")}
        data = text.encode("utf-8", "surrogateescape")
        for quoted in (quote(data, safe=""), quote(data), quote_plus(data)):
            forms |= {quoted, re.sub(r"%[0-9A-F]{2}", lambda found: found.group().lower(), quoted)}
        forms |= _encoded(data)
    return {form for form in forms if len(form) > 1}


def _encoded(data: bytes) -> set[str]:
    """What is certain to appear in the base64 of any text that holds ``data``, for each offset."""
    if len(data) < _SHORT:
        return set()
    found = {base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()}
    found.add(base64.b64encode(data + b"\n").decode())
    for offset in range(3):
        text = base64.b64encode(b"\0" * offset + data).decode()
        first = (0, 2, 3)[offset]
        last = (len(data) + offset) * 8 // 6
        middle = text[first:last]
        found |= {middle, middle.translate(str.maketrans("+/", "-_"))}
    return {form for form in found if len(form) >= _SHORT}


def _alternation(forms: set[str]) -> str:
    """One expression for all forms, the longest winning; common beginnings are shared, so many cost little more."""
    long = sorted(form for form in forms if len(form) >= _SHORT)
    short = sorted((re.escape(form) for form in forms if len(form) < _SHORT), key=len, reverse=True)
    words = rf"(?<!\w)(?:{'|'.join(short)})(?!\w)" if short else ""
    return "|".join(part for part in (_shared(long, 0) if long else "", words) if part)


def _shared(forms: list[str], start: int) -> str:
    """The expression for sorted ``forms`` that are equal up to ``start``."""
    if len(forms) == 1:
        return re.escape(forms[0][start:])
    branches: dict[str, list[str]] = {}
    for form in forms:
        branches.setdefault(form[start : start + 1], []).append(form)
    ends = branches.pop("", None) is not None
    parts = [_branch(members, start) for members in branches.values()]
    joined = parts[0] if len(parts) == 1 and not ends else f"(?:{'|'.join(parts)})"
    return f"{joined}?" if ends else joined


def _branch(members: list[str], start: int) -> str:
    first, last = members[0], members[-1]
    differing = (index for index, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1])
    common = first[: next(differing, min(len(first), len(last)))]
    return re.escape(common[start:]) + (_shared(members, len(common)) if len(members) > 1 else "")
