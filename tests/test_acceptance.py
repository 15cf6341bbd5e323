"""Accepted plans in the state: what waits, what has begun, and what a later plan or command puts an end to."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from stores import KINDS, fresh

from flowplan.schemas.accepted import Accepted, Held, Step, StepPhase, packed
from flowplan.schemas.plans import Action
from flowplan.schemas.runs import Recorded, Settings, Status, run_id
from flowplan.state import acceptance, ownership, pruning, transfer
from flowplan.state.journal import PLANS_KEPT
from flowplan.state.sqlite.store import SqliteStore
from flowplan.state.store import Store

BY = {"command": "apply", "user": "ann", "host": "h", "pid": 1, "since": "2026-01-01T00:00:00.000Z"}


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with fresh(request.param, tmp_path) as opened:
        yield opened


def plan(digest: str, *addresses: str) -> Accepted:
    steps = [Step(a, n, action=Action.CREATE, attempt=1, group=a, needs=("x",)) for n, a in enumerate(addresses)]
    return Accepted(digest, BY, "/srv", document=packed(f"text of {digest}"), steps=tuple(steps))


def accept(store: Store, digest: str, *addresses: str, whole: bool = True) -> None:
    acceptance.accept(store, plan(digest, *addresses), whole=whole)


def waiting(store: Store) -> list[tuple[str, str, str]]:
    return [(digest, step.address, str(step.phase)) for digest, step in acceptance.unbegun(store)]


def intend(store: Store, address: str, digest: str) -> None:
    store.intend([recorded(store, address)], plan_digest=digest)


def recorded(store: Store, address: str) -> Recorded:
    one = run_id(store.lineage, address, 1)
    return Recorded(address, "p", "process", {}, 1, one, address, {}, Settings(address), Status.CREATING)


def dumped(store: Store) -> dict[str, object]:
    return json.loads("".join(transfer.dump(store)))


def test_what_was_accepted_waits_until_it_begins(store: Store) -> None:
    accept(store, "d1", "b", "a", "c")
    assert waiting(store) == [("d1", "b", "waiting"), ("d1", "a", "waiting"), ("d1", "c", "waiting")]
    [(_, step), *_] = acceptance.unbegun(store)
    assert step == plan("d1", "b").steps[0]
    intend(store, "b", "d1")
    acceptance.hold(store, "d1", {"c": Held(StepPhase.SKIPPED, "b failed"), "a": Held(StepPhase.WAITING, until="2026")})
    assert waiting(store) == [("d1", "a", "waiting"), ("d1", "c", "skipped")]
    assert [(step.why, step.until) for _, step in acceptance.unbegun(store)] == [("", "2026"), ("b failed", None)]
    assert acceptance.begun(store, "d1") == {"b"}
    assert acceptance.plan_text(store, "d1") == "text of d1"
    assert acceptance.accepted(store, ["d1", "d2"]) == {"d1": Accepted("d1", BY, "/srv")}


def test_applied_again_a_plan_waits_for_what_it_has_not_begun(store: Store) -> None:
    accept(store, "d1", "a", "b", "c")
    intend(store, "a", "d1")
    acceptance.hold(store, "d1", {"b": Held(StepPhase.SKIPPED, "a failed")})
    acceptance.accept(store, plan("d1", "b", "c")._replace(document=packed("what is left")), whole=True)
    assert waiting(store) == [("d1", "b", "waiting"), ("d1", "c", "waiting")]
    assert acceptance.begun(store, "d1") == {"a"}
    assert acceptance.plan_text(store, "d1") == "text of d1"


def test_a_whole_plan_supersedes_all_and_a_partial_one_its_addresses(store: Store) -> None:
    accept(store, "d1", "a", "b", "c")
    accept(store, "d2", "b", whole=False)
    assert waiting(store) == [("d1", "a", "waiting"), ("d1", "c", "waiting"), ("d2", "b", "waiting")]
    acceptance.hold(store, "d1", {"b": Held(StepPhase.SKIPPED, "late")})
    accept(store, "d3", "c")
    assert waiting(store) == [("d3", "c", "waiting")]


def test_what_is_not_managed_any_more_does_not_wait(store: Store) -> None:
    accept(store, "d1", "a", "b", "c", "d")
    for address in "ab":
        store.add([recorded(store, address)])
    accept(store, "d2", "a", "b", "c", "d", whole=False)
    store.forget(["a"])
    store.move({"b": "e"})
    assert [address for _, address, _ in waiting(store)] == ["c", "d"]
    assert acceptance.drop(store, ["c", "x"], "cancelled") == ["c"]
    assert acceptance.drop(store, None, "cancelled") == ["d"]
    assert acceptance.drop(store, None, "cancelled") == []


def test_who_left_a_plan_with_open_steps_is_known(store: Store) -> None:
    accept(store, "d1", "a")
    serial = store.serial
    acceptance.leave(store, plan("d1")._replace(by={**BY, "pid": 2}))  # it was taken over meanwhile
    assert (acceptance.accepted(store, ["d1"])["d1"].left_at, store.serial) == (None, serial)
    acceptance.leave(store, plan("d1"))
    assert acceptance.accepted(store, ["d1"])["d1"].left_at
    accept(store, "d1", "a")
    intend(store, "a", "d1")
    acceptance.leave(store, plan("d1"))
    assert acceptance.accepted(store, ["d1"])["d1"].left_at is None


def test_a_dump_holds_the_plans(store: Store, tmp_path: Path) -> None:
    accept(store, "d1", "a", "b", "c")
    intend(store, "a", "d1")
    acceptance.hold(store, "d1", {"b": Held(StepPhase.SKIPPED, "a failed")})
    acceptance.leave(store, plan("d1"))
    document = dumped(store)
    with contextlib.closing(SqliteStore.open(tmp_path / "other.db", create=True)) as other:
        transfer.load(other, transfer.checked(document))
        assert dumped(other) == {**document, "serial": other.serial}
        assert acceptance.unbegun(other) == acceptance.unbegun(store)
        assert acceptance.begun(other, "d1") == {"a"}


def test_old_plans_go_unless_something_waits(store: Store) -> None:
    accept(store, "d1", "a", "b")
    assert pruning.prune(store, "2099").plans == 0
    intend(store, "a", "d1")
    intend(store, "b", "d1")
    assert pruning.prune(store, "2000").plans == 0
    assert pruning.prune(store, "2099", dry_run=True).plans == 1
    assert pruning.prune(store, "2099").plans == 1
    assert (acceptance.plan_text(store, "d1"), list(acceptance.all_plans(store))) == ("", [])
    accept(store, "d2", "waits")
    for number in range(PLANS_KEPT + 2):
        accept(store, f"e{number}", "c", whole=False)
        intend(store, "c", f"e{number}")
    assert len(list(acceptance.all_plans(store))) == PLANS_KEPT + 1
    assert waiting(store) == [("d2", "waits", "waiting")]


def test_a_state_of_its_own_holds_no_plan_of_the_other(store: Store) -> None:
    accept(store, "d1", "a")
    ownership.start_lineage(store)
    assert (acceptance.unbegun(store), list(acceptance.all_plans(store))) == ([], [])
