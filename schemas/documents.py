"""YAML 1.2 core documents by a safe loader that remembers where every key and value was written."""

from __future__ import annotations

import gc
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import yaml

from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.files import MAX_BYTES, Unreadable, is_file, read_bounded
from flowplan.schemas.places import DEFAULT_SPEC
from flowplan.schemas.runs import Json
from flowplan.schemas.sources import Diagnostic, Path, Position, SourceMap, dotted

MAX_DEPTH = 100
MAX_NODES = 1_000_000
MAX_ALIASED = 100_000
"""How many nodes aliases may add to those that are written: a bomb of nine lines adds billions."""

_ASCII_CONTROL = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f]")
_UNPRINTABLE = "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
_SURROGATES = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,99})")
_BASED = re.compile(r"0o[0-7]{1,99}|0x[0-9a-fA-F]{1,99}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NUMBER_STARTS = frozenset("0123456789+-.")
_QUOTED_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'', re.DOTALL)
_NESTED = f"is nested deeper than {MAX_DEPTH} levels"

_PLAIN, _QUOTED, _SEQ, _MAP = "plain", "quoted", "seq", "map"
_STANDARD = "tag:yaml.org,2002:"


class SourceInt(int):
    """An integer that was not written in its canonical form (``0x1F``); ``text`` is what was written."""

    text: str


class SourceFloat(float):
    """A float that was not written in its canonical form (``1.10``, ``1e3``); ``text`` is what was written."""

    text: str


class Document(NamedTuple):
    """One YAML document as plain JSON values, and the positions of its parts."""

    value: Json
    sources: SourceMap


def scalar_text(value: Json) -> str:
    """Return a scalar as it was written: ``true`` not ``True``, ``1.10`` not ``1.1``, null as the empty string."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(getattr(value, "text", None) or value)


def number(text: str) -> int | float | None:
    """Return the number that a plain scalar is in YAML 1.2 core, keeping its text; None when it is not one.

    Numbers with a leading zero (``010``, ``007.5``) are not numbers: YAML versions disagree about them. Nor are those
    that JSON cannot hold, which all objects become: ``.inf``, ``.nan``, ``1e999``.
    """
    if _INT.fullmatch(text):
        return _kept(text, int(text))
    if _BASED.fullmatch(text):
        return _kept(text, int(text, 0))
    if _FLOAT.fullmatch(text) and not math.isinf(float(text)):
        return _kept(text, float(text))
    return None


def _kept(text: str, value: float) -> float:
    """Return a number that remembers how it was written, where that is not as it would be written."""
    if text == repr(value):
        return value
    kept = SourceInt(value) if isinstance(value, int) else SourceFloat(value)
    kept.text = text
    return kept


def _plain(text: str) -> Json:
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in _NUMBER_STARTS:
        found = number(text)
        return text if found is None else found
    return text


_KUBECTL_WORDS = {
    **_WORDS,
    **{word: True for name in ("y", "yes", "on") for word in (name, name.title(), name.upper())},
}
_KUBECTL_WORDS |= {word: False for name in ("n", "no", "off") for word in (name, name.title(), name.upper())}
_KUBECTL_INT = re.compile(
    r"([-+]?)(?:0[xX]([0-9a-fA-F]{1,99})|0[bB]([01]{1,99})|0[oO]?([0-7]{1,99})|(0|[1-9][0-9]{0,99}))"
)
_KUBECTL_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")


def _kubectl_plain(text: str) -> Json:
    """Return a plain scalar as kubectl reads it, which takes booleans and numbers of YAML 1.1 (``0400`` is 256).

    As there, ``1_000`` is 1000, ``08`` and ``2.0`` are whole numbers, and times and ``1:30`` are text.
    """
    if text in _KUBECTL_WORDS:
        return _KUBECTL_WORDS[text]
    if text[0] not in _NUMBER_STARTS:
        return text
    digits = text.replace("_", "")
    if found := _KUBECTL_INT.fullmatch(digits):
        sign, *written = found.groups()
        base, part = next((b, w) for b, w in zip((16, 2, 8, 10), written, strict=True) if w is not None)
        return _kept(text, int(sign + part, base))
    if _KUBECTL_FLOAT.fullmatch(digits) and not math.isinf(value := float(digits)):
        return _kept(text, int(value)) if value.is_integer() and abs(value) < 1e21 else _kept(text, value)
    return text


_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _compose_plain(text: str) -> Json:
    """Return a plain scalar as docker compose reads it: the numbers of kubectl, not its words, as Go prints them.

    ``022`` is 18, ``1.50`` is 1.5, a date is midnight of it, and ``yes`` is text.
    """
    if text in _WORDS:
        return _WORDS[text]
    value = text if text in _KUBECTL_WORDS else _kubectl_plain(text)
    if isinstance(value, str):
        return f"{text} 00:00:00 +0000 UTC" if _DATE.fullmatch(text) else text
    if isinstance(value, int):
        return int(value) if abs(value) < 2**63 else float(value)
    return float(value)


def _pyyaml_plain(text: str) -> Json:
    """Return a plain scalar as tools in Python read it: YAML 1.1, of which dates are texts and what is no JSON stays text."""
    value = yaml.safe_load(text)
    if isinstance(value, float) and not math.isfinite(value):
        return text
    return value if isinstance(value, bool | int | float | str | None) else text


KUBECTL, COMPOSE, PYYAML = "kubectl", "compose", "pyyaml"
_SCALARS: dict[str, Callable[[str], Json]] = {
    "": _plain,
    KUBECTL: _kubectl_plain,
    COMPOSE: _compose_plain,
    PYYAML: _pyyaml_plain,
}


class _Limits:
    """Replaces PyYAML's resolver: says only whether a scalar was plain, and stops endless documents early."""

    _depth = 0
    _count = 0

    def descend_resolver(self, parent: Any, index: Any) -> None:
        self._depth += 1
        self._count += 1
        if self._depth > MAX_DEPTH or self._count > MAX_NODES:
            what = _NESTED if self._depth > MAX_DEPTH else "has too many values"
            mark = parent.start_mark if parent is not None else None
            raise yaml.MarkedYAMLError(problem=what, problem_mark=mark)

    def ascend_resolver(self) -> None:
        self._depth -= 1

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return _PLAIN if implicit[0] else _QUOTED
        return _SEQ if kind is yaml.SequenceNode else _MAP


def _composer() -> type[Any]:
    if yaml.__with_libyaml__:
        from yaml.cyaml import CParser  # type: ignore[attr-defined]

        return type("FastComposer", (_Limits, CParser), {})
    from yaml.composer import Composer
    from yaml.parser import Parser
    from yaml.reader import Reader
    from yaml.scanner import Scanner

    class PureComposer(_Limits, Reader, Scanner, Parser, Composer):
        def __init__(self, text: str) -> None:
            Reader.__init__(self, text)
            Scanner.__init__(self)
            Parser.__init__(self)
            Composer.__init__(self)

    return PureComposer


_Composer = _composer()


def read_text(path: FilePath, shown: str = "", *, pipes: bool = True) -> str:
    """Return the text of a file of at most 10 MB; that of the standard input for ``-``.

    Args:
        shown: how the user wrote the path; default ``path``. pipes: read also what comes through a pipe.

    Raises:
        InvalidInput: missing, a directory, a device, not readable, too big, or not UTF-8.
    """
    name = shown or str(path)
    if name == "-":
        return _decoded(_standard_input(), "<stdin>")
    try:
        data = read_bounded(path, MAX_BYTES, pipes=pipes)
    except FileNotFoundError:
        hint = "name your spec, or write a first one with `flowplan init`" if path.name == DEFAULT_SPEC else ""
        if hint and is_file(other := path.with_suffix(".yml")):
            hint = f"there is {other}: `flowplan plan {other}`"
        raise _fault(name, "there is no such file", hint) from None
    except IsADirectoryError:
        inside = path / DEFAULT_SPEC
        raise _fault(name, "is a directory, not a file", f"write {inside}" if is_file(inside) else "") from None
    except PermissionError:
        raise _fault(name, "may not be read by this user (permission denied)") from None
    except Unreadable as error:
        raise _fault(name, str(error)) from None
    except (OSError, ValueError) as error:
        raise _fault(name, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return _decoded(data, name)


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        position = _end_of(data[: error.start].decode("utf-8", "replace"), name)
        raise InvalidInput(f"is not UTF-8 text (byte 0x{data[error.start]:02x})", at=position) from None


def _end_of(text: str, file: str) -> Position:
    """Return where that is which follows the beginning of a file."""
    return Position(file, text.count("\n") + 1, len(text) - text.rfind("\n"))


@lru_cache(maxsize=1)
def _standard_input() -> bytes:
    """Read once, for a spec may be looked at twice."""
    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise _fault("<stdin>", f"is bigger than {MAX_BYTES // 1_000_000} MB")
    return data


def _fault(name: str, message: str, hint: str = "") -> InvalidInput:
    return InvalidInput(message, subject=name, hint=hint)


def parse(text: str, file: str, dialect: str = "") -> Document:
    """Read exactly one YAML 1.2 core document (JSON is one too); documents without content beside it do not count.

    Args:
        dialect: KUBECTL, COMPOSE or PYYAML to read plain scalars as these do; kubectl takes whole numbers for keys too.

    Raises:
        InvalidInput: as ``parse_all``; or there is a second document.
    """
    return _parsed(text, file, dialect, one=True)[0]


def parse_all(text: str, file: str, dialect: str = "") -> list[Document]:
    """Read all YAML documents of a file that have content, at least one.

    Raises:
        InvalidInput: every duplicate or non-string key and unknown tag; or the first syntax error; an empty file,
            control characters, an alias that refers to itself or blows the document up.
    """
    return _parsed(text, file, dialect, one=False)


def _parsed(text: str, file: str, dialect: str, *, one: bool) -> list[Document]:
    text = text.removeprefix("\ufeff")
    bad = _ASCII_CONTROL.search(text) if text.isascii() else re.search(_UNPRINTABLE, text)
    if bad:
        position = _end_of(text[: bad.start()], file)
        raise InvalidInput(f"holds the control character U+{ord(bad.group()):04X}", at=position)
    with _no_collection():
        nodes, count = _compose(text, file)
        if one and len(nodes) > 1:
            message = f"holds {len(nodes)} YAML documents: {', '.join(map(_title, nodes[:5]))}"
            raise InvalidInput(message, at=_at(nodes[1].start_mark, file), hint="give each a file of its own")
        conversion = _Conversion(file, count + MAX_ALIASED, dialect)
        values = [conversion.convert(node, (), 0) for node in nodes]
    if conversion.faults:
        raise InvalidInput(
            sorted(conversion.faults, key=lambda fault: fault.position[1:] if fault.position else (0, 0))
        )
    places = (_Places(file, node, conversion.merged) for node in nodes)
    maps = (SourceMap(file, partial(place.start, 0), partial(place.start, 1)) for place in places)
    return [Document(value, sources) for value, sources in zip(values, maps, strict=True)]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Stop the cyclic garbage collector, which would look through a growing document again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _compose(text: str, file: str) -> tuple[list[Any], int]:
    """Return the nodes of the documents that have content, and how many nodes were written."""
    nodes = []
    try:
        composer = _Composer(text)
        while composer.check_node():
            nodes.append(composer.get_node())
    except yaml.MarkedYAMLError as error:
        if _SURROGATES.search(text):
            return _compose(_SURROGATES.sub(_joined, text), file)
        raise InvalidInput([_syntax_fault(error, text, file)]) from None
    except RecursionError:
        raise InvalidInput(f"is not YAML: {_NESTED}", at=Position(file, 1, 1)) from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise InvalidInput(f"is not YAML: {error}", at=Position(file, 1, 1)) from None
    held = [node for node in nodes if not (node.tag == _PLAIN and node.value in ("", "~", "null"))]
    if not held:
        raise InvalidInput("the file is empty", at=Position(file, 1, 1))
    return held, composer._count


def _title(node: Any) -> str:
    """Return ``Job "sync" (line 3)``, as far as a document says what it is."""
    value = _Conversion("", MAX_ALIASED).convert(node, (), 0)
    kind = value.get("kind") if isinstance(value, dict) else None
    metadata = value.get("metadata") if isinstance(value, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    told = f'{kind or "one"} "{name}"' if name else str(kind or "one")
    return f"{told} (line {node.start_mark.line + 1})"


def _joined(pair: re.Match[str]) -> str:
    """Return the one escape that YAML has for a character (an emoji) that JSON writes as two."""
    high, low = int(pair.group(2), 16), int(pair.group(3), 16)
    return f"{pair.group(1)}\\U{0x10000 + ((high - 0xD800) << 10) + low - 0xDC00:08x}"


def _syntax_fault(error: yaml.MarkedYAMLError, text: str, file: str) -> Diagnostic:
    mark = error.problem_mark or error.context_mark
    line = "".join(text.split("\n")[mark.line : mark.line + 1]) if mark else ""
    tab = line.find("\t", 0, len(line) - len(line.lstrip()))
    if mark and tab >= 0:
        message = "is not YAML: a tab indents this line"
        return Diagnostic(message, Position(file, mark.line + 1, tab + 1), hint="use spaces")
    words, hint = ", ".join(part for part in (error.context, error.problem) if part), ""
    if mark and _flow_depth(text[: mark.index]) > MAX_DEPTH:  # the parser has a limit of its own
        words = _NESTED
    elif mark and re.match(r":(?:\s|$)", text[mark.index :][:2]) and ": " in text[: mark.index].rpartition("\n")[2]:
        words, hint = 'a second ": " in this line', 'put a value that holds ": " in quotes'
    elif mark and "${" in text[: mark.index + 1].rpartition("\n")[2] and _flow_depth(text[: mark.index]):
        hint = 'quote an expression inside [ ] or { }: "${var.tag}"'
    return Diagnostic(f"is not YAML: {words}", _at(mark, file) if mark else Position(file, 1, 1), hint=hint)


def _flow_depth(text: str) -> int:
    """Return how many brackets and braces are open at the end of a text."""
    plain = _QUOTED_TEXT.sub("", text)
    return sum(plain.count(sign) for sign in "[{") - sum(plain.count(sign) for sign in "]}")


def _at(mark: Any, file: str) -> Position:
    return Position(file, mark.line + 1, mark.column + 1)


@dataclass(slots=True)
class _Conversion:
    """Turns composed nodes into plain values and collects every fault on the way."""

    file: str
    budget: int
    dialect: str = ""
    faults: list[Diagnostic] = field(default_factory=list)
    merged: dict[int, list[tuple[Any, Any]]] = field(default_factory=dict)
    active: set[int] = field(default_factory=set)

    def convert(self, node: Any, path: Path, depth: int) -> Json:
        self.budget -= 1
        if self.budget < 0:
            where = _at(node.start_mark, self.file)
            raise InvalidInput("its aliases repeat too many values (an alias bomb?)", at=where)
        if node.__class__ is yaml.ScalarNode:
            return self._scalar(node, path)
        if id(node) in self.active or depth > MAX_DEPTH:
            raise InvalidInput("an alias refers to itself", at=_at(node.start_mark, self.file))
        self.active.add(id(node))
        value = (
            self._sequence(node, path, depth) if node.__class__ is yaml.SequenceNode else self._map(node, path, depth)
        )
        self.active.discard(id(node))
        return value

    def fault(self, node: Any, path: Path, message: str, hint: str = "") -> None:
        self.faults.append(Diagnostic(message, _at(node.start_mark, self.file), dotted(path), hint))

    def _scalar(self, node: Any, path: Path) -> Json:
        text: str = node.value
        tag = node.tag
        if "\0" in text:
            self.fault(node, path, "holds a NUL character")
        if tag == _PLAIN:
            return _SCALARS[self.dialect](text)
        if tag == _QUOTED:
            return text
        name = tag.removeprefix(_STANDARD) if tag.startswith(_STANDARD) else ""
        if name == "str":
            return text
        value = _SCALARS[self.dialect](text)
        wanted = {"int": int, "float": (int, float), "bool": bool, "null": type(None)}.get(name)
        if wanted is None:
            self._unknown_tag(node, path)
        elif not isinstance(value, wanted) or (isinstance(value, bool) and name != "bool"):  # type: ignore[arg-type]
            self.fault(node, path, f'"{text}" is not of the YAML type !!{name}')
        return value

    def _unknown_tag(self, node: Any, path: Path) -> None:
        shown = node.tag.replace(_STANDARD, "!!")
        self.fault(node, path, f"has the unknown YAML tag {shown}", "write plain values only")

    def _sequence(self, node: Any, path: Path, depth: int) -> list[Json]:
        if node.tag not in (_SEQ, _STANDARD + "seq"):
            self._unknown_tag(node, path)
        return [self.convert(item, (*path, i), depth + 1) for i, item in enumerate(node.value)]

    def _map(self, node: Any, path: Path, depth: int) -> dict[str, Json]:
        if node.tag not in (_MAP, _STANDARD + "map"):
            self._unknown_tag(node, path)
        result: dict[str, Json] = {}
        first: dict[str, Any] = {}
        merges = []
        for key_node, value_node in node.value:
            if key_node.value == "<<" and key_node.tag == _PLAIN:
                merges.append(value_node)
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            if key in first:
                line = first[key].start_mark.line + 1
                self.fault(key_node, (*path, key), f"duplicate key; it is set in line {line} already")
                continue
            first[key] = key_node
            result[key] = self.convert(value_node, (*path, key), depth + 1)
        if merges:
            self._merge(node, merges, result, path, depth)
        return result

    def _key(self, node: Any, path: Path) -> str | None:
        if node.__class__ is not yaml.ScalarNode:
            self.fault(node, path, "a key must be a string", "quote text that starts with { or [")
            return None
        key = self._scalar(node, path)
        if type(key) is int and (
            self.dialect == KUBECTL or "create_options" in path
        ):  # docker-py takes ports: {80: 8080}
            return str(key)
        if not isinstance(key, str):
            self.fault(node, path, "a key must be a string", f'write "{node.value}" in quotes')
            return None
        return key

    def _merge(self, node: Any, merges: list[Any], result: dict[str, Json], path: Path, depth: int) -> None:
        """Put the keys of ``<<`` into a mapping: its own win, then earlier merged mappings over later ones."""
        pairs = [(k, v) for k, v in node.value if not (k.value == "<<" and k.tag == _PLAIN)]
        for merge in merges:
            for source in merge.value if merge.__class__ is yaml.SequenceNode else [merge]:
                if source.__class__ is not yaml.MappingNode:
                    self.fault(source, path, "<< must be given a mapping, or a list of mappings")
                    continue
                value = self.convert(source, path, depth + 1)
                for key_node, value_node in self.merged.get(id(source), list(source.value)):
                    if key_node.value in value and key_node.value not in result:
                        result[key_node.value] = value[key_node.value]
                        pairs.append((key_node, value_node))
        self.merged[id(node)] = pairs


@dataclass(slots=True)
class _Places:
    """Finds the nodes at a path; indexes a mapping only when it is asked for."""

    file: str
    root: Any
    merged: dict[int, list[tuple[Any, Any]]]
    index: dict[int, dict[str, tuple[Any, Any]]] = field(default_factory=dict)

    def start(self, which: int, path: Path) -> Position | None:
        """Return where the key (0) or the value (1) at a path starts; a list item and the root have no key, and start once."""
        pair: tuple[Any, Any] | None = (self.root, self.root)
        for part in path:
            if pair is None:
                return None
            node = pair[1]
            if isinstance(part, str):
                pair = self.children(node).get(part) if node.__class__ is yaml.MappingNode else None
            else:
                inside = node.__class__ is yaml.SequenceNode and 0 <= part < len(node.value)
                pair = (node.value[part], node.value[part]) if inside else None
        return _at(pair[which].start_mark, self.file) if pair else None

    def children(self, node: Any) -> dict[str, tuple[Any, Any]]:
        known = self.index.get(id(node))
        if known is None:
            pairs = self.merged.get(id(node), node.value)
            known = self.index[id(node)] = {k.value: (k, v) for k, v in pairs}
        return known
