"""The signs and words of actions, colours, times in words, and the one function that makes any text harmless."""

from __future__ import annotations

import re
from datetime import datetime

from flowplan.render.units import duration
from flowplan.schemas.plans import Action
from flowplan.schemas.times import seconds_between

_LOOKS = {
    Action.REPLACE: ("-/+", "replace (stop and create)", "to replace", "magenta"),
    Action.DESTROY: ("-", "destroy", "to destroy", "red"),
    Action.UPDATE: ("~", "update in place", "to update in place", "yellow"),
    Action.RERUN: (">", "rerun (create again)", "to rerun", "cyan"),
    Action.CREATE: ("+", "create", "to create", "green"),
    Action.ADOPT: ("&", "adopt (it exists already)", "to adopt", "cyan"),
    Action.FORGET: (".", "forget (it stays on the engine)", "to forget", "dim"),
    Action.NO_OP: ("=", "unchanged", "", "dim"),
}
"""Sign, meaning, words in a verdict and colour of each action; a verdict counts what can hurt first."""
SIGNS = {action: sign for action, (sign, _, _, _) in _LOOKS.items()}
MEANINGS = {action: meaning for action, (_, meaning, _, _) in _LOOKS.items()}
WORDS = {action: meaning.partition(" (")[0] for action, meaning in MEANINGS.items()}
COUNTED = {action: counted for action, (_, _, counted, _) in _LOOKS.items() if counted}
COLOUR_OF = {action: colour for action, (_, _, _, colour) in _LOOKS.items()}

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "magenta": "35", "cyan": "36", "dim": "2", "bold": "1"}
COLOUR_OF_MARK = {"+": "green", "-": "red", "~": "yellow", "!": "yellow"}

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)")


def paint(text: str, colour: str, on: bool) -> str:
    """Return ``text`` in a colour (red, green, yellow, magenta, cyan) or style (bold, dim), when ``on``."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if on and text else text


def to_the_second(time: str) -> str:
    """Return an RFC 3339 time without the fraction of a second."""
    return re.sub(r"\.\d+", "", time)


def ago(text: str, now: datetime | None) -> str:
    """Return ``text`` with `` at TIME`` as `` 3h 12m ago``; without ``now`` only the fractions of seconds go away."""
    if now is None:
        return TIME.sub(lambda m: to_the_second(m[0]), text)

    def relative(match: re.Match[str]) -> str:
        passed = seconds_between(match[1], now)
        return match[0] if passed is None else f" {duration(passed)} ago"

    return re.sub(f" at ({TIME.pattern})", relative, text)
