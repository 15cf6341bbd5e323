"""What needs what, as a tree of lines and as a flowchart of mermaid: each run of the spec once, with how its cells stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flowplan.render.markdown import node_text
from flowplan.render.signs import paint
from flowplan.render.tables import COLOUR_OF, cut
from flowplan.schemas.report import Group
from flowplan.schemas.text import harmless

_FIRST = ("failed", "timed_out", "lost", "running", "pending", "creating", "skipped", "cancelled", "waiting", "planned")
"""The states of single cells that decide how a run looks, the first that there is."""
_STYLES = {
    "red": "fill:#ffebe9,stroke:#cf222e,color:#82071e",
    "green": "fill:#dafbe1,stroke:#1a7f37,color:#044f1e",
    "cyan": "fill:#ddf4ff,stroke:#0969da,color:#0a3069",
    "yellow": "fill:#fff8c5,stroke:#9a6700,color:#4d2d00",
    "dim": "fill:#f6f8fa,stroke:#6e7781,color:#24292f,stroke-dasharray:4",
}
_ROOM = 40
"""Columns that are left for what a line says, however deep it stands."""


def graph_lines(groups: Sequence[Group], *, width: int, whole: bool = True, colour: bool = False) -> Iterator[str]:
    """Yield a tree in which each run stands below what it needs; where it needs several, below each, but whole only once.

    What stands too deep for the width is shown further down, from the left again.

    Args:
        groups: all runs; those without cells are not shown. whole: do not cut what is longer than the width.
        colour: paint with ANSI codes.
    """
    below = _needed_by(groups)
    there = [n for n, group in enumerate(groups) if group.states]
    needing = {n for needed in below for n in needed}
    queue, shown, again = [n for n in there if n not in needing], set[int](), False
    while len(shown) < len(there):
        queue = queue or [n for n in there if n not in shown][:1]  # of a circle, which cells of an older spec may make
        for root in queue:  # grows by what is too deep
            if root in shown:
                continue
            stack = [(root, "", "")]
            while stack:
                n, lead, indent = stack.pop()
                text = harmless(groups[n].name)
                if n in shown:
                    again = True
                    text += " *"
                elif len(indent) > max(width - _ROOM, 0):
                    text += ": further down"
                    queue.append(n)
                else:
                    shown.add(n)
                    text += f": {_stands(groups[n])}"
                    text += "".join(
                        f" ! {harmless(groups[one].name)} {_first(groups[one])}" for one in groups[n].upstream
                    )
                    branches = [(child, "├── ", "│   ") for child in below[n][:-1]]
                    branches += [(child, "└── ", "    ") for child in below[n][-1:]]
                    stack += [(child, indent + branch, indent + bar) for child, branch, bar in reversed(branches)]
                text = text if whole else cut(text, width - len(lead))
                yield lead + paint(text, _colour(groups[n]), colour)
        queue = []
    if again:
        yield "* shown above"


def mermaid(groups: Sequence[Group]) -> Iterator[str]:
    """Yield the lines of a flowchart, with the colours of GitHub."""
    there = [n for n, group in enumerate(groups) if group.states]
    yield "flowchart LR"
    for n in there:
        above = "".join(f" ! {node_text(groups[one].name)} {_first(groups[one])}" for one in groups[n].upstream)
        yield f'  n{n}["{node_text(groups[n].name)}: {_stands(groups[n])}{above}"]:::{_colour(groups[n])}'
    for need, needing in enumerate(_needed_by(groups)):
        yield from (f"  n{need} --> n{n}" for n in needing)
    used = {_colour(groups[n]) for n in there}
    yield from (f"  classDef {name} {style}" for name, style in _STYLES.items() if name in used)


def _needed_by(groups: Sequence[Group]) -> list[list[int]]:
    """Return for each run those that need it, without what has no cells."""
    found: list[list[int]] = [[] for _ in groups]
    for n, group in enumerate(groups):
        for need in group.needs if group.states else ():
            if groups[need].states:
                found[need].append(n)
    return found


def _stands(group: Group) -> str:
    """Return ``failed``, or ``4 cells: 3 succeeded, 1 failed``."""
    states = sorted(group.states.items(), key=lambda item: (-item[1], item[0]))
    words = [(count, harmless(state.replace("_", " "))) for state, count in states]
    if not group.matrix:
        return words[0][1]
    number = sum(group.states.values())
    cells = f"{number} cell{'s' if number > 1 else ''}"
    return f"{cells}: " + ", ".join(f"{count} {word}" if len(words) > 1 else word for count, word in words)


def _first(group: Group) -> str:
    """Return how a run looks: the state of some of its cells."""
    return next((state for state in _FIRST if state in group.states), "succeeded").replace("_", " ")


def _colour(group: Group) -> str:
    return COLOUR_OF.get(_first(group).replace(" ", "_"), "dim")
