"""Secrets as the documents show them: tokens with a fingerprint in place of values, and the one redactor."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple
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
    data = value.encode("utf-8", "surrogateescape" if _from_bytes(value) else "surrogatepass")
    return hmac.new(key, data, hashlib.sha256).hexdigest()[:16]


MOST_SEARCHED = 400
"""Characters of a value that is searched for parts: there are 80,000 parts of so many."""


class Parts:
    """Finds the values of variables inside the strings that they entered, knowing no more than their fingerprints.

    Commands that were not given the variables redact the output of runs with it. May be used by several threads.
    """

    def __init__(self, key: bytes, fingerprints: Iterable[str]) -> None:
        self._key = key
        self._wanted = frozenset(fingerprints)
        self._found: set[str] = set()

    def __call__(self, value: str) -> set[str]:
        """The parts of a value that are secrets by themselves."""
        known = {part for part in tuple(self._found) if part in value}
        if known or not self._wanted or len(value) > MOST_SEARCHED:
            return known
        ends = range(len(value) + 1)
        parts = {value[start:end] for start in ends for end in ends[start + 2 :]} - {value}
        found = {part for part in parts if fingerprint(self._key, part) in self._wanted}
        self._found |= found
        return found


def token(source: SecretSource, key: bytes, value: str | None) -> str:
    """The token for a secret; ``value`` None means that it could not be resolved on this machine."""
    mark = "unresolved" if value is None else fingerprint(key, value)
    return f"(sensitive {source.label} {mark})"


def tokens_in(value: Any) -> set[str]:
    """All tokens inside a JSON value."""
    found: set[str] = set()
    _collect(value, found)
    return found


def _collect(value: Any, found: set[str]) -> None:
    if isinstance(value, str):
        if "(sensitive " in value:
            found.update(m.group(0) for m in TOKEN.finditer(value))
    elif isinstance(value, (dict, Mapping)):  # dict first: asking an abstract class takes longer than all the rest
        for key, child in value.items():
            _collect(key, found)
            _collect(child, found)
    elif isinstance(value, list | tuple):
        for child in value:
            _collect(child, found)


def reveal(value: Any, values: Mapping[str, str]) -> Any:
    """A copy of a JSON value with every token that ``values`` knows replaced by its secret value."""
    if isinstance(value, str):
        if "(sensitive " not in value:
            return value
        return TOKEN.sub(lambda m: values.get(m.group(0), m.group(0)), value)
    if isinstance(value, (dict, Mapping)):
        return {k: reveal(v, values) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [reveal(v, values) for v in value]
    return value


class Forms(NamedTuple):
    """The literal texts by which secrets may appear; ``words`` count only where they stand as words of their own."""

    anywhere: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()


class Redactor:
    """Replaces secret values, in all the forms they may take in a text, by ``(sensitive)``.

    Known forms are the value itself, JSON-, URL- and shell-escaped, base64 (both alphabets, at each of the three offsets
    it may have inside a longer encoded text; broken into lines of 64 or 76), and each line of at least 6 characters of a
    value of several lines.
    Values of 2 or 3 characters are replaced only where they stand as words of their own, a single character never: a
    secret ``1`` would destroy every number of the output and hide nothing. May be used by several threads at once.
    """

    def __init__(self, values: Iterable[str] = (), *, inside: Callable[[str], Iterable[str]] | None = None) -> None:
        """``inside`` tells which parts of a value are secrets by themselves."""
        self._inside = inside
        self._values: set[str] = set()
        self._forms: set[str] = set()
        self._find: Callable[[str], Iterator[tuple[int, int]]] | None = None
        self._lock = threading.Lock()
        self._stale = False
        self._longest = 0
        self.add(values)

    def add(self, values: Iterable[str]) -> None:
        """Learn more secret values."""
        with self._lock:
            new = {value for value in values if _is_secret(value)} - self._values
            if self._inside:
                new |= {part for value in new for part in self._inside(value) if _is_secret(part)}
            if new:
                self._values |= new
                self._stale = True

    def __call__(self, text: str) -> str:
        """``text`` without any secret value."""
        if self._stale:
            self._compile()
        find = self._find
        return _replaced(text, find(text)) if find is not None else text

    def tree(self, value: Any) -> Any:
        """A JSON value whose strings hold no secret value: unlike the redacted text of it, JSON all the same."""
        if self._find is None and not self._stale:
            return value
        if isinstance(value, str):
            return self(value)
        if isinstance(value, Mapping):
            return {self(k) if isinstance(k, str) else k: self.tree(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.tree(v) for v in value]
        return value

    def split(self, text: str) -> tuple[str, str]:
        """The part of an unfinished text that can be shown already, redacted, and its end, which may begin a secret."""
        if self._stale:
            self._compile()
        end = max(0, len(text) - self._longest + 1) if self._longest else len(text)
        for start, stop in self._find(text) if self._find else ():
            if start < end < stop:
                end = stop
        return self(text[:end]), text[end:]

    def _compile(self) -> None:
        with self._lock:
            self._forms = set().union(*map(_forms, self._values))
            self._longest = max(map(len, self._forms), default=0)
            self._find = _finder(self._forms)
            self._stale = False


def forms_of(values: Iterable[str]) -> Forms:
    """Every form of every value, for those who must find them without a Redactor."""
    forms = {form for value in values if _is_secret(value) for form in _forms(value)}
    long = frozenset(form for form in forms if len(form) >= _SHORT)
    return Forms(long, frozenset(forms - long))


REDACTED = "(sensitive)"
_SHORT = 4
_LINE = 6
_SIMPLE = re.compile(r"[A-Za-z0-9_.-]+")
"""Texts that are written the same in JSON, URLs and shells."""
_WIDTHS = (64, 76)
"""Where programs break the lines of base64."""
_MANY = 400
"""Forms of which no expression is compiled any more: that of a key ring of 1 MB would take a minute."""


def _is_secret(value: str) -> bool:
    return len(value.strip()) > 1


def _replaced(text: str, places: Iterable[tuple[int, int]]) -> str:
    parts, end = [], 0
    for start, stop in places:
        parts += [text[end:start], REDACTED]
        end = stop
    return "".join([*parts, text[end:]]) if parts else text


def _finder(forms: set[str]) -> Callable[[str], Iterator[tuple[int, int]]]:
    """What yields the places of forms in a text, in order, the longest winning."""
    if len(forms) <= _MANY:
        pattern = re.compile(_alternation(forms))
        return lambda text: (found.span() for found in pattern.finditer(text))
    words = re.compile(_alternation({form for form in forms if len(form) < _SHORT}) or "(?!)")
    table: dict[str, list[str]] = {}
    for form in sorted(forms, key=len, reverse=True):
        if len(form) >= _SHORT:
            table.setdefault(form[:_SHORT], []).append(form)
    return lambda text: _looked_up(text, table, words)


def _looked_up(text: str, table: Mapping[str, list[str]], words: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    found = [m.span() for m in words.finditer(text)]
    for start in [i for i in range(len(text) - _SHORT + 1) if text[i : i + _SHORT] in table]:
        form = next((f for f in table[text[start : start + _SHORT]] if text.startswith(f, start)), None)
        if form is not None:
            found.append((start, start + len(form)))
    end = 0
    for start, stop in sorted(found, key=lambda place: (place[0], -place[1])):
        if start >= end:
            yield start, stop
            end = stop


@lru_cache(maxsize=64)
def _forms(value: str) -> frozenset[str]:
    lines = {line.strip() for line in value.splitlines()} if len(value.splitlines()) > 1 else set()
    whole = {value, value.strip()} | {line for line in lines if len(line) >= _LINE}
    forms = set(whole)
    for text in whole:
        if _SIMPLE.fullmatch(text):
            forms |= _encoded(text.encode())
            continue
        forms |= {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]}
        forms |= {text.replace("'", "'\"'\"'"), text.replace("'", "'\\''"), text.replace("\n", "\r\n")}
        data = text.encode("utf-8", "surrogateescape" if _from_bytes(text) else "replace")
        for quoted in (quote(data, safe=""), quote(data), quote_plus(data)):
            forms |= {quoted, re.sub(r"%[0-9A-F]{2}", lambda found: found.group().lower(), quoted)}
        forms |= _encoded(data)
        forms.add(data.decode("utf-8", "replace"))
    return frozenset(form for form in forms if _is_secret(form))


def _from_bytes(text: str) -> bool:
    """True when the text's lone surrogates stand for bytes that are no UTF-8, as those of an environment do."""
    return not any("\ud800" <= c <= "\udfff" and not "\udc80" <= c <= "\udcff" for c in text)


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
    whole = base64.b64encode(data).decode()
    for width in _WIDTHS if len(whole) > min(_WIDTHS) else ():
        found |= {whole[at : at + width] for at in range(0, len(whole), width) if len(whole) - at >= _LINE}
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
