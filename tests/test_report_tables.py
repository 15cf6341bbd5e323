"""The tables of the page: nothing is lost in them, whatever objects hold and however a state was edited."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import stores
from hypothesis import given
from hypothesis import strategies as st

from flowplan.report_tables import Known, Tables
from flowplan.reporting import LADDER
from flowplan.schemas.pointers import keys_of
from flowplan.schemas.report import Report
from flowplan.schemas.runs import Recorded
from flowplan.state.store import Store

LINEAGE = cast("Store", SimpleNamespace(lineage="6e0f4c1c-6d0f-4a52-9a3e-0d6a2d1f7c10"))
SCALARS = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, "", "a", "a/b~c"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b/c", "d~"]), inner, max_size=3),
    max_leaves=6,
)


def document(*attempts: Recorded) -> Report:
    ends = [{"status": str(one.status), "plan": ""} for one in attempts]
    known = Known("p", "", 1, attempts=attempts, history={"applies": [], "attempts": ends})
    return Tables(known, (), LADDER[0]).document(None)


def objects(report: Report, row: int) -> Any:
    """Return the objects of an attempt as the page makes them."""
    place = report.attempts.objects[row]
    assert place is not None
    base, *changes = report.objects.rows[place]
    found = {"": copy.deepcopy(report.objects.bases[base])}
    for pointer, value in zip(changes[::2], changes[1::2], strict=True):
        inner: Any = found
        *above, last = ["", *keys_of(report.strings[pointer])]
        for key in above:
            inner = inner[int(key)] if isinstance(inner, list) else inner[key]
        if isinstance(inner, list):
            inner[int(last)] = value
        else:
            inner[last] = value
    return found[""]


@given(st.lists(st.dictionaries(st.sampled_from(["Job", "Secret"]), VALUES, min_size=1, max_size=2), max_size=6))
def test_the_objects_of_every_attempt_can_be_made_again(sent: list[dict[str, Any]]) -> None:
    made = [replace(stores.record(LINEAGE, f"r{n}"), objects=one) for n, one in enumerate(sent)]
    report = document(*made)
    assert [json.dumps(objects(report, n), sort_keys=True) for n in range(len(sent))] == [
        json.dumps(one, sort_keys=True) for one in sent
    ]


def test_a_time_that_is_none_is_not_known() -> None:
    report = document(
        stores.record(LINEAGE, "a", created_at="yesterday", started_at="2026-11-01T00:00:00.000Z"),
        stores.record(LINEAGE, "b", created_at="2026-11-01T00:00:01.500Z"),
    )
    assert report.attempts.created == (None, 500) and report.attempts.started == (-1000, None)
    assert report.epoch == "2026-11-01T00:00:01.000Z"
