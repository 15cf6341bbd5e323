"""Secret values of a run: which of them it may print, and how a live run tells them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from flowplan.schemas.secrets import TOKEN

_TELLING = 4
"""Characters that a value must have to be found inside others: shorter ones are everywhere."""


def known_to(given: Iterable[str], used: Iterable[str], secrets: Iterable[str]) -> set[str]:
    """Return the secrets that a run may print: those it uses, and those inside what it is given or inherits.

    Args:
        given: its arguments and the values of its environment; used: the secrets behind its own tokens.
        secrets: all that this flowplan knows.
    """
    everything = "\0".join(given)
    return {*used, *(value for value in secrets if len(value) >= _TELLING and value in everything)}


def values_behind_tokens(recorded: Mapping[str, Any], live: Mapping[str, str]) -> list[str]:
    """Return the values that stand in ``live`` where ``recorded`` has tokens."""
    found: set[str] = set()
    for name, text in recorded.items():
        if isinstance(text, str) and name in live and TOKEN.search(text):
            match = re.fullmatch("(.*)".join(re.escape(part) for part in _around(text)), live[name], re.DOTALL)
            found |= set(match.groups()) if match else {live[name]}
    return sorted(found - {""})


def _around(text: str) -> list[str]:
    """Return the parts of a text between its tokens."""
    parts, end = [], 0
    for match in TOKEN.finditer(text):
        parts.append(text[end : match.start()])
        end = match.end()
    return [*parts, text[end:]]
