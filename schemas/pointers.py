"""JSON documents: pointers into them (RFC 6901), walks through them, and copies of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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


def members(value: Any) -> Iterable[tuple[Any, Any]]:
    """Return the keys and members of an object, or the indexes and items of a list; nothing for a scalar."""
    return value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()


def walk(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield every value of a document with its path, each before its members."""
    yield path, value
    for key, child in members(value):
        yield from walk(child, (*path, key))


def copied(value: Any) -> Any:
    """Return a copy of a JSON value that shares nothing with it, in its order."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {key: copied(child) for key, child in value.items()}
    return [copied(child) for child in value] if isinstance(value, list | tuple) else value


def nearest(values: Mapping[str, Value], pointer: str) -> Value | None:
    """Return what ``values`` holds of a pointer or of its nearest ancestor below the whole document, or None."""
    while pointer:
        found = values.get(pointer)
        if found:
            return found
        pointer = pointer.rpartition("/")[0]
    return None
