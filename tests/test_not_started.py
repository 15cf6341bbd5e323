"""Why steps of accepted plans have not begun: the rules of conduct, asked of what is recorded."""

from __future__ import annotations

from typing import Any

import pytest

from flowplan.planner.conduct.waiting import not_started
from flowplan.schemas.accepted import Step, StepPhase
from flowplan.schemas.plans import Action
from flowplan.schemas.runs import Recorded, Settings, Status


def told(*steps: Step, **statuses: str) -> dict[str, tuple[str, str]]:
    """Return the status and reason of each step; the keywords are recorded runs, ``a="failed"``."""
    records = {
        address: Recorded(
            address, "p", "process", {}, 1, f"{address}#1", address, {}, Settings(address), Status(status),
            exit_code=3 if status == "failed" else None,
        )
        for address, status in statuses.items()
    }  # fmt: skip
    return {one.address: (one.status, one.reason) for one in not_started([("d", step) for step in steps], records)}


def step(address: str, *needs: str, **facts: Any) -> Step:
    group = address.partition("[")[0]
    return Step(address, 0, action=facts.pop("action", Action.CREATE), group=group, needs=needs, **facts)


def test_what_is_needed_is_named() -> None:
    cells = [step(f"m[n={n}]", "x", max_parallel=1) for n in (1, 2)]
    assert told(*cells, x="running") == dict.fromkeys(("m[n=1]", "m[n=2]"), ("waiting", "for x"))
    assert told(cells[0], step("z", "m[n=1]"), x="pending")["z"] == ("waiting", "for m[n=1]")
    many = step("z", "m[n=1]", "m[n=2]", "x", "y", "v", "done")
    waiting = {"x": "running", "y": "running", "v": "pending", "done": "succeeded"}
    assert told(*cells, many, **waiting)["z"] == ("waiting", "for m (2 cells), x, y and 1 more")


@pytest.mark.parametrize(("status", "why"), [
    ("failed", "a failed (exit code 3)"), ("timed_out", "a timed out"), ("cancelled", "a cancelled"),
])  # fmt: skip
def test_a_failed_need_skips_whatever_follows(status: str, why: str) -> None:
    assert told(step("b", "a"), step("c", "b"), a=status) == {"b": ("skipped", why), "c": ("skipped", "b was skipped")}


def test_what_was_skipped_stays_so_with_its_reason() -> None:
    skipped = step("b", "a", phase=StepPhase.SKIPPED, why="a failed (exit code 9)")
    assert told(skipped, step("c", "b"), a="succeeded") == {
        "b": ("skipped", "a failed (exit code 9)"), "c": ("skipped", "b was skipped"),
    }  # fmt: skip


def test_room_times_and_the_present_attempt_hold_back() -> None:
    assert told(step("m[n=2]", max_parallel=1), step("m[n=3]", max_parallel=1)) == dict.fromkeys(
        ("m[n=2]", "m[n=3]"), ("waiting", "")
    )
    replaced = step("r", action=Action.REPLACE, replace="after_finish")
    assert told(replaced, r="running") == {"r": ("waiting", "for the present attempt to end")}
    assert told(step("t", until="2026-11-27T00:00:00.000Z"), t="failed")["t"] == (
        "waiting", "for a retry at 2026-11-27T00:00:00.000Z",
    )  # fmt: skip
    assert told(step("d", action=Action.DESTROY), d="running") == {"d": ("waiting", "")}
    assert told(step("e", action=Action.NO_OP), e="running") == {"e": ("waiting", "")}
