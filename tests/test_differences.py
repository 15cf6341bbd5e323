"""Every leaf that differs between two objects is told, at its path and in the order of the objects, and no other."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowplan.planner.compare.diff import differences
from flowplan.schemas.plans import ABSENT
from flowplan.schemas.pointers import unescape

KEYS = st.text(alphabet="ab/~0. -_'\"[]", max_size=3)
LEAVES = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "1", "true", "one\ntwo", "__"])
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def at(document: Any, path: str) -> Any:
    """Return the value at a JSON Pointer; ABSENT where there is none."""
    for part in path.split("/")[1:]:
        if isinstance(document, list):
            document = document[int(part)] if int(part) < len(document) else ABSENT
        else:
            document = document.get(unescape(part), ABSENT) if isinstance(document, dict) else ABSENT
    return document


def put(document: Any, path: str, value: Any) -> Any:
    """Return a copy of a document with another value at a JSON Pointer."""
    if not path:
        return value
    holder, _, last = path.rpartition("/")
    document = copy.deepcopy(document)
    inner = at(document, holder)
    if isinstance(inner, list):
        inner[int(last)] = value
    elif value is ABSENT:
        del inner[unescape(last)]
    else:
        inner[unescape(last)] = value
    return document


def places(before: Any, after: Any, path: str = "") -> list[str]:
    """Return every place of two documents in order: the keys that were there before the new ones."""
    found = [path]
    sides = [dict(enumerate(side)) if isinstance(side, list) else side for side in (before, after)]
    keys = dict.fromkeys(key for side in sides if isinstance(side, dict) for key in side)
    for key in keys:
        one, other = (side.get(key, ABSENT) if isinstance(side, dict) else ABSENT for side in sides)
        found += places(one, other, f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}")
    return found


def check(before: Any, after: Any) -> None:
    told = differences(before, after)
    made = before
    for path, old, new in told:
        assert (at(before, path), at(after, path)) == (old, new)
        assert old != new or isinstance(old, bool) != isinstance(new, bool)
        assert not (isinstance(old, dict) and isinstance(new, dict)), "two mappings are compared key by key"
        assert not (isinstance(old, list) and isinstance(new, list) and len(old) == len(new)), "and lists item by item"
        made = put(made, path, new)
    assert json.dumps(made, sort_keys=True) == json.dumps(after, sort_keys=True)
    paths = [path for path, _, _ in told]
    assert [path for path in places(before, after) if path in paths] == paths


@settings(deadline=None)
@given(DOCUMENTS, DOCUMENTS)
def test_two_documents(before: Any, after: Any) -> None:
    check(before, after)


@settings(deadline=None)
@given(DOCUMENTS, st.data())
def test_a_document_and_itself_with_one_change(before: Any, data: st.DataObject) -> None:
    after = copy.deepcopy(before)
    holders = [after]
    for holder in holders:
        if isinstance(holder, dict | list):
            values = holder.values() if isinstance(holder, dict) else holder
            holders += [value for value in values if isinstance(value, dict | list)]
    holder = data.draw(st.sampled_from(holders))
    if isinstance(holder, dict):
        holder[data.draw(KEYS)] = data.draw(LEAVES)
    elif isinstance(holder, list):
        holder.append(data.draw(LEAVES))
    check(before, after)
    assert len(differences(before, after)) <= 1


@settings(deadline=None)
@given(DOCUMENTS)
def test_a_document_and_itself(document: Any) -> None:
    assert differences(document, copy.deepcopy(document)) == []


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"a": None}, {}, [("/a", None, ABSENT)]),
        ({}, {"a": None}, [("/a", ABSENT, None)]),
        ({"a": 1}, {"a": True}, [("/a", 1, True)]),
        ({"a": [0]}, {"a": [False]}, [("/a/0", 0, False)]),
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1}, {"a": "1"}, [("/a", 1, "1")]),
        ({"a": [1, 2]}, {"a": [2, 1]}, [("/a/0", 1, 2), ("/a/1", 2, 1)]),
        ({"a": [1, 2]}, {"a": [2]}, [("/a", [1, 2], [2])]),
        ({"a": {"x": 1}}, {"a": [1]}, [("/a", {"x": 1}, [1])]),
        ({"a": {"x": 1, "y": 2, "z": 3}}, {"a": {"q": 1}}, [*((f"/a/{k}", v, ABSENT) for k, v in zip("xyz", (1, 2, 3), strict=True)), ("/a/q", ABSENT, 1)]),
        ({"__a": 1, "root['b']": 1, 'c".d': 1}, {"__a": 2, "root['b']": 2, 'c".d': 2}, [("/__a", 1, 2), ("/root['b']", 1, 2), ('/c".d', 1, 2)]),
        ({"0": 1}, {"0": 2}, [("/0", 1, 2)]),
        ({"a": "(sensitive env:A unresolved)"}, {"a": "(sensitive env:A 0123456789abcdef)"}, []),
        ({"a": "(sensitive env:A 0123456789abcdef)"}, {"a": "(sensitive env:A untracked)"}, []),
        ({"a": "(sensitive env:A untracked)"}, {"a": "(sensitive file:A untracked)"}, [("/a", "(sensitive env:A untracked)", "(sensitive file:A untracked)")]),
        ({"a": "(sensitive env:A unresolved)"}, {"a": "(sensitive env:B 0123456789abcdef)"}, [("/a", "(sensitive env:A unresolved)", "(sensitive env:B 0123456789abcdef)")]),
    ],
)  # fmt: skip
def test_traps(before: Any, after: Any, told: list[tuple[str, Any, Any]]) -> None:
    found = differences(before, after)
    assert found == told
    assert [type(value) for one in found for value in one] == [type(value) for one in told for value in one]


def test_the_path_of_the_values_themselves() -> None:
    assert differences({"a/b": 1}, {"a/b": 2}, "/Run/triggers") == [("/Run/triggers/a~1b", 1, 2)]


def test_many_differences_are_found_in_linear_work() -> None:
    before = {f"k{n}": n for n in range(3000)}
    after = {f"k{n}": n + 1 for n in reversed(range(3000))}
    assert [path for path, _, _ in differences(before, after)] == [f"/k{n}" for n in range(3000)]
