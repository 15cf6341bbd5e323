"""Text for people: without characters that would deceive them, counted, and shortened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

_UNSEEN = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u2800\u3164\uffa0"
    + "".join(map(chr, range(0xFE00, 0xFE10)))
    + "".join(map(chr, range(0xE0100, 0xE01F0)))
)
"""Characters that count as printable though a reader does not see them: fillers and variation selectors."""


def harmless(text: str) -> str:
    """Return text on one line, with everything spelled out that a terminal obeys or a reader does not see.

    Controls, marks of direction, odd spaces and fillers become escapes such as ``\\x1b``. This is for names, values and
    messages; the output of runs keeps its tabs, and everything that is printed (``without_controls``).
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() and c not in _UNSEEN else _spelled(c) for c in text)


def without_controls(text: str) -> str:
    """Return a line of a run's output with only what a terminal would obey spelled out."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\t" else _spelled(c) for c in text)


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode()


def counted(count: int, noun: str) -> str:
    """Return ``1 run`` or ``3 runs``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def shortened(text: str, longest: int) -> str:
    """Return text of at most ``longest`` characters; what is cut off is told by dots."""
    return text if len(text) <= longest else text[: longest - 3] + "..."


def by_run(addresses: Collection[str]) -> list[str]:
    """Return addresses as people are told them: several cells of a run as one, ``load (3 cells)``."""
    alone = {address.partition("[")[0]: address for address in addresses}
    cells = Counter(address.partition("[")[0] for address in addresses)
    return [alone[name] if count == 1 else f"{name} ({count} cells)" for name, count in cells.items()]
