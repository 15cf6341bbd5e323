"""Where a value was written: positions in files, and complaints that point at them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Annotated, NamedTuple

from flowplan.schemas.codec import Member

Path = tuple[str | int, ...]
"""A path into a YAML document: mapping keys and list indexes."""


class Position(NamedTuple):
    """A place in a file; ``line`` and ``column`` count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


Find = Callable[[Path], Position | None]


class SourceMap(NamedTuple):
    """The positions of every key and value of one document.

    ``find_key(path)`` is where the key (or list item) at ``path`` starts, ``find_value(path)`` where its value starts, None
    where there is none. Of a document that is composed of several, ``place(path)`` is the path in the file that says it,
    and ``names`` what files are called.
    """

    file: str
    find_key: Find = lambda path: None
    find_value: Find = lambda path: None
    place: Callable[[Path], Path] = lambda path: path
    names: Mapping[str, str] = {}

    def key(self, path: Path) -> Position:
        """Return the position of the key at ``path``, or of its nearest known ancestor."""
        return self._nearest(self.find_key, path)

    def value(self, path: Path) -> Position:
        """Return the position of the value at ``path``, or of its nearest known ancestor."""
        return self._nearest(self.find_value, path)

    def subject(self, path: Path) -> str:
        """Return what a complaint about ``path`` calls it, as its own file writes it."""
        return dotted(self.place(path))

    def at_value(self, path: Path, message: str, hint: str = "") -> Diagnostic:
        """Return a complaint about the value at ``path``."""
        return Diagnostic(message, self.value(path), self.subject(path), hint)

    def at_key(self, path: Path, message: str, hint: str = "") -> Diagnostic:
        """Return a complaint about the key at ``path``."""
        return Diagnostic(message, self.key(path), self.subject(path), hint)

    def placed(self, faults: Iterable[Diagnostic], path: Path) -> list[Diagnostic]:
        """Return what is wrong with a file that the value at ``path`` names; what has no place in the file stands there."""
        return [fault if fault.position else self.at_value(path, str(fault)) for fault in faults]

    def told(self, path: Path, where: Position) -> str:
        """Return a place of the value at ``path`` as origins tell it: ``common.yaml:12``, ``spec.yaml:9 in environments.dev``."""
        own = self.place(path)
        within = f" in environments.{own[1]}" if own[0] == "environments" else ""
        return f"{self.names.get(where.file) or PurePath(where.file).name}:{where.line}{within}"

    def _nearest(self, find: Find, path: Path) -> Position:
        found = (find(path[:end]) for end in range(len(path), -1, -1))
        return next(filter(None, found), Position(self.file, 1, 1))


class Diagnostic(NamedTuple):
    """One complaint or remark: where, about what, what is wrong, and what to do.

    ``subject`` is a dotted path of the document (``runs.train.timeot``) or an address; ``severity`` is
    ``error``, ``warning`` or ``info``.
    """

    message: str
    position: Position | None = None
    subject: str = ""
    hint: str = ""
    severity: Annotated[str, Member(required=True)] = "error"

    def __str__(self) -> str:
        where = f"{self.position}: " if self.position else ""
        subject = f"{self.subject}: " if self.subject else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{where}{subject}{self.message}{hint}"


LONGEST_WORD = 80
MOST_COMPARISONS = 10_000
"""After which nothing is suggested any more: in a file with thousands of wrong names it would take minutes."""
_comparisons = 0


def dotted(path: Path) -> str:
    """Return ``("runs", "train", "command", 0)`` as people write it: ``runs.train.command[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean "timeout"?`` for the nearest other word that is known, or "" when none is near."""
    global _comparisons
    if len(word) > LONGEST_WORD or _comparisons > MOST_COMPARISONS:
        return ""
    others = [other for other in known if other != word and len(other) <= LONGEST_WORD]
    _comparisons += len(others)
    import difflib

    near = difflib.get_close_matches(word, others, n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else ""
