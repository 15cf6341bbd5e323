"""Documents of typed values: what is written is read again, and what does not fit is refused with its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import pytest

from flowplan.schemas.codec import Member, Misfit, decode, encode, like


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    x: int
    y: float = 0


@dataclass(frozen=True)
class Thing:
    name: str
    colour: Colour
    first: Annotated[int, Member(within="where", name="at")] = 1
    points: tuple[Point, ...] = ()
    pair: tuple[int, int] = (0, 0)
    tags: Mapping[str, str] = field(default_factory=dict)
    best: Point | None = None
    limit: float | None = None
    old: Annotated[Any, Member(absent=..., last=True)] = ...
    sure: Annotated[bool, Member(required=True)] = True
    more: Annotated[Mapping[str, Any], like(Mapping[str, Point])] = field(default_factory=dict)


FULL = Thing(
    "a", Colour.BLUE, 3, (Point(1), Point(2, 2.5)), (4, 5), {"k": "v"}, Point(9), 6, None, False, {"p": {"x": 1}}
)
DOCUMENT = {
    "name": "a", "colour": "blue", "points": [{"x": 1, "y": 0}, {"x": 2, "y": 2.5}], "pair": [4, 5], "tags": {"k": "v"},
    "best": {"x": 9, "y": 0}, "limit": 6, "sure": False, "more": {"p": {"x": 1}}, "old": None, "where": {"at": 3},
}  # fmt: skip


def test_a_document_has_a_member_for_each_field_in_their_order() -> None:
    assert encode(FULL) == DOCUMENT
    assert list(encode(FULL)) == list(DOCUMENT)


def test_a_document_comes_back_as_the_value() -> None:
    assert decode(Thing, DOCUMENT) == FULL
    assert decode(Thing, {"name": "a", "colour": "red", "sure": True}) == Thing("a", Colour.RED)


def test_a_member_is_left_out_where_it_says_nothing() -> None:
    assert "old" not in encode(Thing("a", Colour.RED))


@pytest.mark.parametrize(
    ("change", "place", "said"),
    [
        ({"name": 3}, "/name", "text"),
        ({"colour": "green"}, "/colour", "red, blue"),
        ({"colour": []}, "/colour", "red, blue"),
        ({"points": [{"x": 1}, {"x": "1"}]}, "/points/1/x", "whole number"),
        ({"points": [{"x": True}]}, "/points/0/x", "whole number"),
        ({"points": {}}, "/points", "list"),
        ({"points": [{}]}, "/points/0", "must have x"),
        ({"points": [{"x": 1, "z": 1}]}, "/points/0", "must not have z"),
        ({"pair": [1]}, "/pair", "list of 2"),
        ({"tags": {"a/b": 1}}, "/tags/a~1b", "text"),
        ({"best": 3}, "/best", "object"),
        ({"limit": "1"}, "/limit", "a number or null"),
        ({"limit": True}, "/limit", "a number or null"),
        ({"where": {"at": "x"}}, "/where/at", "whole number"),
        ({"more": {"p": {"x": None}}}, "/more/p/x", "whole number"),
        ({"new": 1}, "", "must not have new"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(change: dict[str, Any], place: str, said: str) -> None:
    with pytest.raises(Misfit) as caught:
        decode(Thing, DOCUMENT | change)
    assert caught.value.place == place and said in caught.value.problem


@pytest.mark.parametrize("missing", ["name", "colour", "sure"])
def test_a_missing_member_is_named(missing: str) -> None:
    with pytest.raises(Misfit, match=f"must have {missing}"):
        decode(Thing, {key: value for key, value in DOCUMENT.items() if key != missing})


def test_an_extensible_document_may_have_members_of_a_later_version() -> None:
    assert decode(Thing, DOCUMENT | {"new": 1}, extensible=True) == FULL
