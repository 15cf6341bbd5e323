"""Keys as parts of a JSON Pointer (RFC 6901)."""

from __future__ import annotations


def escape(key: str | int) -> str:
    """One reference token of a JSON Pointer (RFC 6901)."""
    return str(key).replace("~", "~0").replace("/", "~1")


def unescape(part: str) -> str:
    """The key that a reference token stands for."""
    return part.replace("~1", "/").replace("~0", "~")
