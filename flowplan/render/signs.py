"""The signs and words of actions, colours, times in words, and the one function that makes any text harmless."""

from __future__ import annotations

import re
from datetime import datetime

from flowplan.render.units import duration
from flowplan.schemas.plans import Action
from flowplan.schemas.times import seconds_between

SIGNS = {
    Action.CREATE: "+",
    Action.UPDATE: "~",
    Action.REPLACE: "-/+",
    Action.RERUN: ">",
    Action.DESTROY: "-",
    Action.ADOPT: "&",
    Action.FORGET: ".",
    Action.NO_OP: "=",
}
MEANINGS = {
    Action.CREATE: "create",
    Action.UPDATE: "update in place",
    Action.REPLACE: "replace (stop and create)",
    Action.RERUN: "rerun (create again)",
    Action.DESTROY: "destroy",
    Action.ADOPT: "adopt (it exists already)",
    Action.FORGET: "forget (it stays on the engine)",
    Action.NO_OP: "unchanged",
}
WORDS = {action: meaning.partition(" (")[0] for action, meaning in MEANINGS.items()}
COUNTED = {
    Action.REPLACE: "to replace",
    Action.DESTROY: "to destroy",
    Action.UPDATE: "to update in place",
    Action.RERUN: "to rerun",
    Action.CREATE: "to create",
    Action.ADOPT: "to adopt",
    Action.FORGET: "to forget",
}
"""In the order in which a verdict counts them: what can hurt comes first."""

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "magenta": "35", "cyan": "36", "dim": "2", "bold": "1"}
COLOUR_OF = {
    Action.CREATE: "green",
    Action.UPDATE: "yellow",
    Action.REPLACE: "magenta",
    Action.RERUN: "cyan",
    Action.DESTROY: "red",
    Action.ADOPT: "cyan",
    Action.FORGET: "dim",
    Action.NO_OP: "dim",
}
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
