"""Secret values of a run: in what forms they may appear in its output, and how a live run tells them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from flowplan.schemas.secrets import TOKEN

_SHORTEST = 4
"""Characters below which only the value itself is looked for: its encodings would be found everywhere."""


def forms(value: str) -> set[str]:
    """The literal texts by which a secret may appear: itself, in JSON, base64 and URLs."""
    if len(value) < _SHORTEST:
        return {value} - {""}
    data = value.encode("utf-8", "surrogateescape")
    encoded = {base64.b64encode(data).decode().rstrip("="), base64.urlsafe_b64encode(data).decode().rstrip("=")}
    in_json = {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    in_urls = {quote(data), quote(data, safe=""), quote_plus(data)}
    return {value} | encoded | in_json | in_urls


def values_behind_tokens(recorded: Mapping[str, Any], live: Mapping[str, str]) -> list[str]:
    """The values that stand in ``live`` where ``recorded`` has tokens."""
    found: set[str] = set()
    for name, text in recorded.items():
        if isinstance(text, str) and name in live and TOKEN.search(text):
            match = re.fullmatch("(.*)".join(re.escape(part) for part in _around(text)), live[name], re.DOTALL)
            found |= set(match.groups()) if match else {live[name]}
    return sorted(found - {""})


def _around(text: str) -> list[str]:
    """The parts of a text between its tokens."""
    parts, end = [], 0
    for match in TOKEN.finditer(text):
        parts.append(text[end : match.start()])
        end = match.end()
    return [*parts, text[end:]]
