"""JSON Pointers (RFC 6901): how they are written, and what is found with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

Value = TypeVar("Value")


def escape(key: str | int) -> str:
    """Return a key as one reference token of a JSON Pointer."""
    return str(key).replace("~", "~0").replace("/", "~1")


def unescape(part: str) -> str:
    """Return the key that a reference token stands for."""
    return part.replace("~1", "/").replace("~0", "~")


def pointer_to(path: Iterable[str | int]) -> str:
    """Return the pointer with these keys and indexes; "" for the whole document."""
    return "".join(f"/{escape(key)}" for key in path)


def keys_of(pointer: str) -> list[str]:
    """Return the keys and indexes of a pointer; none for the whole document."""
    return [unescape(part) for part in pointer.split("/")[1:]]


def member(value: Any, key: str, missing: Any = None) -> Any:
    """Return the member of an object, or the item of a list, with this key; ``missing`` where there is none."""
    if isinstance(value, Mapping):
        return value.get(key, missing)
    if isinstance(value, list) and key.isdigit() and int(key) < len(value):
        return value[int(key)]
    return missing


def mapping_in(value: Any, key: str) -> Mapping[str, Any]:
    """Return the mapping that an object has at a key; an empty one where there is none."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def nearest(values: Mapping[str, Value], pointer: str) -> Value | None:
    """Return what ``values`` holds of a pointer or of its nearest ancestor below the whole document, or None."""
    while pointer:
        found = values.get(pointer)
        if found:
            return found
        pointer = pointer.rpartition("/")[0]
    return None
