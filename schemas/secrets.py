"""Secrets as the documents show them: tokens with a fingerprint in place of values, and the one redactor."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote

from flowplan.schemas.codec import Member
from flowplan.schemas.forms import as_bytes, forms_of, is_secret
from flowplan.schemas.redaction import Matcher

TOKEN = re.compile(r"\(sensitive ([^()\s]+) ([0-9a-f]{16}|unresolved|untracked)\)")
"""What stands where a secret value would: ``(sensitive env:PGPASSWORD 3f9a1c2b7d405e11)``."""


class SecretSource(NamedTuple):
    """Where a secret value comes from.

    Attributes:
        kind: ``from_env`` (``value`` is a variable of the environment of the machine that applies), ``from_file``
            (``value`` is a path, absolute or relative to the spec's directory), ``env_file`` (``value`` is such a path,
            ``#`` and the name of a variable in that file), ``from_spec`` (the secret is written
            out in the spec; ``value`` is the spec's name in its directory, ``#`` and a JSON Pointer), ``template``
            (``value`` is a string with ``${var.x}`` of sensitive variables; everything else in it is filled in) or
            ``part`` (see ``PART``).
        variables: names of the sensitive variables in a template.
        tracked: whether another value is a change of the run (``track``).
    """

    kind: str
    value: str
    variables: tuple[str, ...] = ()
    tracked: Annotated[bool, Member(absent=True)] = True

    @property
    def label(self) -> str:
        """Return what a token shows of the source: ``env:NAME``, ``file:PATH``; no spaces or parentheses."""
        words = {"from_env": "env", "from_file": "file", "env_file": "env_file", "from_spec": "spec"}
        shown = f"{words[self.kind]}:{self.value}" if self.kind in words else ""
        text = shown or "+".join(f"var.{name}" for name in self.variables)
        if self.tracked:
            return re.sub(r"[()\s]", "_", text)
        return re.sub(r"[()\s%]", lambda match: quote(match[0]), text)  # nothing else tells two sources apart


def fingerprint(key: bytes, source: SecretSource, value: str) -> str:
    """Return 16 hex digits that show that a secret changed, not what it is.

    The source is part of it: who can plan a spec, with guesses as other secrets, must not find an equal fingerprint.
    """
    data = json.dumps([source.kind, source.value]).encode() + b"\0" + as_bytes(value)  # JSON holds no zero byte
    return hmac.new(key, data, hashlib.sha256).hexdigest()[:16]


PART = SecretSource("part", "")
"""The source of what a variable puts into a longer secret; its fingerprints are in the state, and in no plan."""
SAFE = 6
"""Characters from which on a secret is unlikely to be part of other words."""
COMMON = frozenset([
    "action", "address", "changed", "container", "create", "created", "default", "delete", "destroy", "enabled",
    "disabled", "failed", "format_version", "image", "localhost", "message", "password", "process", "production",
    "provider", "replace", "running", "secret", "status", "succeeded", "success", "update", "username", "version",
])  # fmt: skip
"""Longer words that stand in most outputs."""


def is_common(value: str) -> bool:
    """Return whether hiding a value hides other things than the secret: it is very short, or a common word."""
    return len(value.strip()) < SAFE or value.strip().lower() in COMMON


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
        """Return the parts of a value that are secrets by themselves."""
        known = {part for part in tuple(self._found) if part in value}
        if known or not self._wanted or len(value) > MOST_SEARCHED:
            return known
        ends = range(len(value) + 1)
        parts = {value[start:end] for start in ends for end in ends[start + 2 :]} - {value}
        found = {part for part in parts if fingerprint(self._key, PART, part) in self._wanted}
        self._found |= found
        return found


def token(source: SecretSource, key: bytes, value: str | None) -> str:
    """Return the token for a secret; ``value`` None means that it could not be resolved on this machine."""
    mark = "untracked" if not source.tracked else "unresolved" if value is None else fingerprint(key, source, value)
    return f"(sensitive {source.label} {mark})"


def tokens_in(value: Any) -> set[str]:
    """Return all tokens inside a JSON value."""
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


def with_strings(value: Any, change: Callable[[str], str]) -> Any:
    """Return a copy of a JSON value with each of its strings changed; keys stay as they are."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, (dict, Mapping)):
        return {k: with_strings(v, change) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [with_strings(v, change) for v in value]
    return value


def reveal(value: Any, values: Mapping[str, str]) -> Any:
    """Return a copy of a JSON value with every token that ``values`` knows replaced by its secret value."""

    def revealed(text: str) -> str:
        return TOKEN.sub(lambda m: values.get(m[0], m[0]), text) if "(sensitive " in text else text

    return with_strings(value, revealed)


class Redactor:
    """Replaces secret values, in all the forms they may take in a text, by ``(sensitive)``.

    ``schemas.forms`` makes the forms. Values of 2 or 3 characters are replaced only where they stand as words of their
    own, a single character never: a secret ``1`` would destroy every number of the output and hide nothing. May be used
    by several threads at once.
    """

    def __init__(self, values: Iterable[str] = (), *, inside: Callable[[str], Iterable[str]] | None = None) -> None:
        """Take the values; ``inside`` tells which parts of a value are secrets by themselves."""
        self._inside = inside
        self._values: set[str] = set()
        self._matcher: Matcher | None = None
        self._lock = threading.Lock()
        self._stale = False
        self.add(values)

    def add(self, values: Iterable[str]) -> None:
        """Learn more secret values."""
        with self._lock:
            new = {value for value in values if is_secret(value)} - self._values
            if self._inside:
                new |= {part for value in new for part in self._inside(value) if is_secret(part)}
            if new:
                self._values |= new
                self._stale = True

    @property
    def matcher(self) -> Matcher | None:
        """Return what finds the values in UTF-8, for ``redaction.Stream``; None without any."""
        if self._stale:
            with self._lock:
                self._matcher = Matcher(*([encoded(text) for text in kind] for kind in forms_of(self._values)))
                self._stale = False
        return self._matcher

    def __call__(self, text: str) -> str:
        """Return ``text`` without any secret value."""
        matcher = self.matcher
        return text if matcher is None else decoded(matcher(encoded(text)))

    def tree(self, value: Any) -> Any:
        """Return a JSON value whose strings hold no secret value: unlike the redacted text of it, JSON all the same."""
        return value if self.matcher is None else with_strings(value, self)


def encoded(text: str) -> bytes:
    """Return a text as the bytes in which ``Redactor.matcher`` looks."""
    return text.encode("utf-8", "surrogatepass")


def decoded(data: bytes) -> str:
    """Return the text of such bytes."""
    return data.decode("utf-8", "surrogatepass")
