"""Objects as YAML lines that cannot harm a terminal, and JSON Pointers as people name places in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from flowplan.render.units import OF_SETTINGS, Units, in_units
from flowplan.schemas.kinds import Kind, Kinds
from flowplan.schemas.plans import ABSENT
from flowplan.schemas.pointers import escape, member, unescape
from flowplan.schemas.runs import Json
from flowplan.schemas.text import harmless

_PLAIN = re.compile(r"(?![-.]?\d|- |\.nan|\.inf)[A-Za-z_/.(-][\w ./=+()@:%~-]*(?<![ :])")
_WORDS = frozenset(["true", "false", "null", "yes", "no", "on", "off", "y", "n", ".", "-", "---", "..."])
_OF_FLOWPLAN = Kind(shorter=(("/Run/", ""),))
"""The settings that flowplan keeps: they belong to no object."""


def scalar(value: Json) -> str:
    """Return a scalar, an empty collection or any other value on one line, quoted only where it must be."""
    if value is ABSENT:
        return "(none)"
    if isinstance(value, str):
        return value if _is_plain(value) else harmless(json.dumps(value, ensure_ascii=False))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(k)}: {_item(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_item, value)) + "]"
    return harmless(json.dumps(value))


def _item(value: Json) -> str:
    """Return a value inside a one-line collection."""
    return harmless(json.dumps(value, ensure_ascii=False)) if isinstance(value, str) and "," in value else scalar(value)


def _is_plain(text: str) -> bool:
    if not _PLAIN.fullmatch(text) or text.lower() in _WORDS or text.lower().startswith((".nan", ".inf", "-.inf")):
        return False
    return ": " not in text and harmless(text) == text


def object_lines(value: Json, units: Units = OF_SETTINGS, indent: int = 0, path: str = "") -> Iterator[str]:
    """Yield the lines of a JSON value as YAML, with numbers also in the units that people write.

    Args:
        units: of the fields; indent: in spaces; path: JSON Pointer of the value.
    """
    pad = " " * indent
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _entry(f"{pad}{scalar(str(key))}:", item, units, indent + 2, f"{path}/{key}")
    elif isinstance(value, list | tuple) and value:
        for item in value:
            yield from _list_item(pad, item, units, indent, f"{path}/0")
    elif isinstance(value, str) and _as_block(value):
        yield from _block(pad, value, indent)
    else:
        yield pad + scalar(value)


def _list_item(pad: str, item: Json, units: Units, indent: int, path: str) -> Iterator[str]:
    if isinstance(item, Mapping | list | tuple) and item:
        for number, line in enumerate(object_lines(item, units, indent + 2, path)):
            yield line if number else f"{pad}- {line[indent + 2 :]}"
    else:
        yield from _entry(f"{pad}-", item, units, indent + 2, path)


def _entry(head: str, value: Json, units: Units, indent: int, path: str) -> Iterator[str]:
    if isinstance(value, Mapping | list | tuple) and value:
        yield head
        yield from object_lines(value, units, indent, path)
    elif isinstance(value, str) and _as_block(value):
        yield from _block(f"{head} ", value, indent)
    else:
        unit = in_units(path, value, units)
        yield f"{head} {scalar(value)}" + (f"  # {unit}" if unit else "")


def _as_block(text: str) -> bool:
    """Return whether a text has several lines that a YAML block can hold as they are."""
    lines = text.split("\n")
    if len(lines) < 2 or not lines[0].strip() or lines[0][0] == " " or text.endswith("\n\n"):
        return False
    return all(harmless(line) == line.rstrip() for line in lines)


def _block(head: str, text: str, indent: int) -> Iterator[str]:
    yield head + ("|" if text.endswith("\n") else "|-")
    pad = " " * (indent or 2)
    for line in text.removesuffix("\n").split("\n"):
        yield (pad + line) if line else ""


def leaves(value: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Yield (JSON Pointer, value) of every scalar and every empty collection."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from leaves(item, f"{path}/{escape(key)}")
    elif isinstance(value, list | tuple) and value:
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}/{index}")
    else:
        yield path, value


def leaf_count(value: Json) -> int:
    """Count what ``leaves`` would yield."""
    if isinstance(value, Mapping) and value:
        return sum(map(leaf_count, value.values()))
    if isinstance(value, list | tuple) and value:
        return sum(map(leaf_count, value))
    return 1


def place(path: str, *objects: Json, kinds: Kinds) -> str:
    """Return a JSON Pointer as people name it: ``pod.containers[train].env[LR].value``.

    Args:
        objects: where the names of list items are looked up, best first.
        kinds: how people read the objects.
    """
    name = path[1:].partition("/")[0]
    kind = _OF_FLOWPLAN if name == "Run" else kinds.get(name, Kind())
    fitting = ((short, path[len(long) :]) for long, short in kind.shorter if path.startswith(long))
    prefix, rest = next(fitting, ("", path[1:]))
    here = [_at(o, path[: len(path) - len(rest)]) for o in objects if o is not None]
    text = prefix.rstrip(".")
    for key in map(unescape, rest.split("/") if rest else ()):
        here = [member(value, key, ABSENT) for value in here]
        text += _step(key, here, text)
    return harmless(text) or "(all)"


def _step(key: str, here: list[Any], text: str) -> str:
    if key.isdigit():
        names = (value.get("name") for value in here if isinstance(value, Mapping))
        return f"[{next((n for n in names if isinstance(n, str)), key)}]"
    if not re.fullmatch(r"[\w-]+", key):
        return f"[{key}]"
    return f".{key}" if text else key


def _at(value: Json, path: str) -> Json:
    for part in path.strip("/").split("/") if path.strip("/") else ():
        value = member(value, part, ABSENT)
    return value
