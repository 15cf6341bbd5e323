"""What needs what, drawn: every run once, also in a circle, however deep, whatever it is called."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowplan.render.graph import graph_lines, mermaid
from flowplan.schemas.report import Group


def group(name: str, *needs: int, states: dict[str, int] | None = None, upstream: tuple[int, ...] = ()) -> Group:
    counts = {"succeeded": 1} if states is None else states
    problem = "failed" in counts
    return Group(name, needs, counts, sum(counts.values()) > 1, problem, upstream, None, "")


def lines(*groups: Group, width: int = 80, whole: bool = True) -> list[str]:
    return list(graph_lines(groups, width=width, whole=whole))


def test_a_run_stands_whole_below_the_first_that_it_needs() -> None:
    drawn = lines(
        group("extract", states={"succeeded": 3, "failed": 1}),
        group("flaky"),
        group("load", 0, 1, states={"skipped": 1}, upstream=(0,)),
        group("train", 0, states={"running": 1}, upstream=(0,)),
        group("gone", states={}),
    )
    assert drawn == [
        "extract: 4 cells: 3 succeeded, 1 failed",
        "├── load: skipped ! extract failed",
        "└── train: running ! extract failed",
        "flaky: succeeded",
        "└── load *",
        "* shown above",
    ]


def test_what_is_too_deep_goes_on_further_down() -> None:
    chain = [group("r0"), *(group(f"r{n}", n - 1) for n in range(1, 3000))]
    drawn = lines(*chain)
    assert max(map(len, drawn)) <= 80
    assert sum(line.endswith(": succeeded") for line in drawn) == 3000
    assert sum(line.endswith(": further down") for line in drawn) == len(drawn) - 3000 > 0


def test_a_terminal_cuts_what_is_too_long() -> None:
    assert lines(group("x" * 100), width=60, whole=False) == ["x" * 57 + "..."]
    assert lines(group("x" * 100), width=60) == ["x" * 100 + ": succeeded"]


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=10, max_size=10))
def test_every_run_is_drawn_whole_once(needs: list[list[int]]) -> None:
    groups = [group(f"r{n}", *dict.fromkeys(one)) for n, one in enumerate(needs)]
    drawn = [line.lstrip("│├└─ ") for line in lines(*groups)]
    assert sorted(line for line in drawn if ": succeeded" in line) == sorted(f"r{n}: succeeded" for n in range(10))
    assert sum(" --> " in line for line in mermaid(groups)) == sum(len(one.needs) for one in groups)


def test_no_name_is_obeyed() -> None:
    name = 'a"]; click n0 "javascript:alert(1)"\n<b>\x1b[31m\u202e'
    [_, node, *_] = mermaid([group(name, states={"failed": 1})])
    assert node.count('"') == 2 and not set("<>[];(\x1b\u202e") & set(node.partition('["')[2].partition('"]')[0])
    [line] = lines(group(name))
    assert "\x1b" not in line and "\u202e" not in line and "\n" not in line
