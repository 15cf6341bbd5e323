"""How the output of runs is shown: a terminal gets colours and nothing else that it obeys; progress is its last state."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from flowplan.schemas.text import without_controls

if TYPE_CHECKING:
    from flowplan.providers.protocol import LogLine

_COLOUR = re.compile(r"(\x1b\[[0-9;:]{0,40}m)")
_SEQUENCE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # CSI: colours, moves, erasing
    r"|[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # OSC, DCS and the like: titles, links
    r"|[ -/]+[0-~]|[0-OQ-WYZ\\`-~])"  # character sets and other short ones
)
_COMMAND = re.compile(r"^((?:\s|\x1b\[[0-9;:]*m)*:)(?=:)|##(?=\[)")
"""What GitHub Actions would obey in the output of a step."""


def shown(text: str, *, colour: bool = False) -> str:
    """Return a line of a run's output as it is shown: the last state of it where it was written over and over.

    Args:
        colour: keep colours, which end with the line. All other escape sequences are left out, other control
            characters are shown as ``\\x07``.
    """
    if not text.isprintable():
        parts = _COLOUR.split(last_state(text))  # text and codes by turns
        parts[::2] = [without_controls(_SEQUENCE.sub("", part)) for part in parts[::2]]
        text = "".join([*parts, "\x1b[0m"] if colour and len(parts) > 1 else parts[::2])
    return _COMMAND.sub(lambda m: m[0] + "\u200b", text) if os.environ.get("GITHUB_ACTIONS") else text


def last_state(text: str) -> str:
    """Return what a terminal shows of a line that goes back to its beginning, as a progress bar does."""
    return text.rstrip("\r").rpartition("\r")[2]


class Shown(NamedTuple):
    """What is to be shown of a run's output: a whole line, or what the present line looks like until more comes."""

    text: str
    unfinished: bool


class Progress:
    """Puts lines together that come in pieces because they are written over and over."""

    def __init__(self) -> None:
        self._begun: dict[tuple[str, str], str] = {}

    def __call__(self, address: str, line: LogLine) -> Shown:
        """Return what is to be shown after a further line or piece; long pieces of other lines are lines."""
        key = address, line.stream
        text = self._begun.pop(key, "") + line.text
        if line.goes_on and "\r" in text:
            self._begun[key] = "\r" + last_state(text) + ("\r" if text.endswith("\r") else "")
            return Shown(last_state(text), True)
        return Shown(text, False)


class Bars:
    """The lines that runs are writing at present: one for each stream, and for each of several pods."""

    def __init__(self) -> None:
        self._progress = Progress()
        self._drawn: dict[str, dict[str, str]] = {}

    def __call__(self, address: str, line: LogLine) -> str:
        """Return the lines that a run has begun, side by side, after a further line or piece; "" when it has none."""
        text, unfinished = self._progress(address, line)
        drawn = self._drawn.setdefault(address, {})
        if unfinished:
            drawn[line.stream] = shown(text)
        else:
            drawn.pop(line.stream, None)
        return "  ".join(drawn.values())
