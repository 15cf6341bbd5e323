"""Arguments and variables of a command that are longer than Linux takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flowplan.schemas.pointers import escape
from flowplan.schemas.secrets import reveal

LONGEST = 131_071
"""Bytes of one argument, or of one ``NAME=value``, that Linux takes with pages of 4 KiB."""

REASON = "ArgumentsTooLong"
EXEC_FAILED = frozenset({1, 126, 255})
"""How a container ends whose command could not be executed once it had been started."""

_LISTS = frozenset({"argv", "command", "args", "Cmd", "Entrypoint"})
_VARIABLES = frozenset({"env", "Env", "stringData"})


def too_long(
    objects: Any, secrets: Mapping[str, str], pointer: str = "", longest: int = LONGEST
) -> Iterator[tuple[str, int]]:
    """Yield the JSON Pointer and the length in bytes of every argument and variable that is too long.

    Args:
        objects: of a run as rendered, or as an engine shows them.
        secrets: token -> value, of those that are known.
        longest: bytes that the engine's kernel takes, where its size of a page is known.
    """
    if isinstance(objects, Mapping):
        for key, value in objects.items():
            place = f"{pointer}/{escape(key)}"
            if key in _LISTS or key in _VARIABLES:
                yield from _measured(value, secrets, place, longest)
            else:
                yield from too_long(value, secrets, place, longest)
    elif isinstance(objects, list):
        for index, item in enumerate(objects):
            yield from too_long(item, secrets, f"{pointer}/{index}", longest)


def _measured(value: Any, secrets: Mapping[str, str], pointer: str, longest: int) -> Iterator[tuple[str, int]]:
    """Yield what is too long of a list of arguments, or of variables: ``A=b``, {name, value}, or name -> value."""
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value if isinstance(value, list) else ())
    for key, item in pairs:
        name = f"{key}=" if isinstance(value, Mapping) else ""
        if isinstance(item, Mapping):
            name, item = f"{item.get('name')}=", item.get("value")
        text = name + reveal(item, secrets) if isinstance(item, str) else ""
        if len(text) * 4 > longest:  # a character is at most 4 bytes
            size = len(text.encode("utf-8", "surrogatepass"))
            if size > longest:
                yield f"{pointer}/{escape(key)}", size


def explanation(pointer: str, size: int, longest: int = LONGEST) -> str:
    """Return what is said of one that is too long."""
    return f"{pointer} has {size:,} bytes; one argument or variable can have {longest:,}"
