"""What flowplan calls a difference is what DeepDiff, which shares no code with it, calls one."""

from __future__ import annotations

import copy
from typing import Any

from deepdiff import DeepDiff
from hypothesis import given
from hypothesis import strategies as st

from flowplan.planner.compare.diff import differences
from flowplan.schemas.plans import ABSENT
from flowplan.schemas.pointers import escape

KEYS = st.text(alphabet="ab/~0. -", min_size=1, max_size=3)
LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "1", "true", "one\ntwo"])
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


def judged(before: Any, after: Any) -> set[str]:
    """The JSON Pointers of DeepDiff's differences; a list that grew or shrank is one."""
    found = set()
    for kind in DeepDiff(before, after, view="tree", threshold_to_diff_deeper=0).values():
        for level in kind:
            found.add(_pointer(level))
    return found


def _pointer(level: Any) -> str:
    path, node, steps = "", level.all_up, level.path(output_format="list")
    for step in steps:
        one, other = node.t1, node.t2
        if isinstance(one, list) and isinstance(other, list) and len(one) != len(other):
            return path
        path += f"/{escape(str(step))}"
        node = node.down
    return path


@given(DOCUMENTS, DOCUMENTS)
def test_two_documents(before: Any, after: Any) -> None:
    assert {path for path, _, _ in differences(before, after)} == judged(before, after)


@given(DOCUMENTS, st.data())
def test_a_document_and_itself_with_one_change(before: Any, data: st.DataObject) -> None:
    after = copy.deepcopy(before)
    holders = [after]
    for holder in holders:
        holders += (
            [v for v in (holder.values() if isinstance(holder, dict) else holder) if isinstance(v, dict | list)]
            if (isinstance(holder, dict | list))
            else []
        )
    holder = data.draw(st.sampled_from(holders))
    if isinstance(holder, dict):
        holder[data.draw(KEYS)] = data.draw(LEAVES)
    elif isinstance(holder, list):
        holder.append(data.draw(LEAVES))
    assert {path for path, _, _ in differences(before, after)} == judged(before, after)


def test_what_is_not_there_is_not_null() -> None:
    assert list(differences({"a": None}, {})) == [("/a", None, ABSENT)]
    assert judged({"a": None}, {}) == {"/a"}
