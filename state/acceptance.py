"""Accepted plans: recorded before anything is done, with their steps; what has not begun waits until a plan says otherwise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from flowplan.schemas.accepted import Accepted, Held, Step, StepPhase, unpacked
from flowplan.state import rows
from flowplan.state.store import Store


def accept(store: Store, plan: Accepted, *, whole: bool, order: Sequence[str] = ()) -> None:
    """Record a plan that is about to be carried out, before anything is asked of an engine.

    Of a plan that was accepted before, the document and the steps that have begun stay as they are. What other plans
    wanted to do at the same addresses is dropped.

    Args:
        whole: the plan is about every run, so that nothing else waits any more.
        order: the addresses of all runs as the spec has them, kept for the commands that list them.
    """
    with store.changing("accept") as journal:
        journal.drop(None if whole else [step.address for step in plan.steps], f"superseded by plan {plan.digest[:19]}")
        journal.put_plan(plan)
        if order:
            journal.note({"order": rows.dumps({"addresses": order})})


def hold(store: Store, digest: str, held: Mapping[str, Held]) -> None:
    """Record why steps of a plan, by address, do not begin; one that has begun or was dropped meanwhile stays so."""
    with store.changing("hold") as journal:
        journal.hold(digest, held)


def drop(store: Store, addresses: Collection[str] | None, why: str) -> list[str]:
    """Put an end to what waits at these addresses, or at all; return where that was."""
    with store.changing("drop") as journal:
        waiting = {step.address for _, step in unbegun(store)}
        journal.drop(addresses, why)
        return sorted(waiting - {step.address for _, step in unbegun(store)})


def dropped(store: Store, steps: Mapping[str, str]) -> dict[str, str]:
    """Return why steps were dropped, by address, of those that were.

    Args:
        steps: address -> digest of the plan.
    """
    found = store.among(
        "SELECT s.address, p.digest, s.why FROM steps s JOIN plans p ON p.id = s.plan"
        " WHERE s.phase = 'dropped' AND s.address",
        steps,
    )
    return {address: why for address, digest, why in found if steps[address] == digest}


def leave(store: Store, plan: Accepted) -> None:
    """Record that the process that accepted a plan works on it no more, unless all of its steps have begun."""
    with store.changing("leave") as journal:
        journal.leave(plan)


def unbegun(store: Store) -> list[tuple[str, Step]]:
    """Return the digest of the plan and the step for every step that has not begun, in the order of the plans."""
    found = store.all(
        f"SELECT p.digest, {rows.STEP_COLUMNS} FROM steps s JOIN plans p ON p.id = s.plan WHERE s.{rows.OPEN_STEPS}"
        " ORDER BY s.plan, s.place"
    )
    return store.decoded(lambda row: (row[0], rows.step(row[1:])), found)


def begun(store: Store, digest: str) -> set[str]:
    """Return the addresses whose change of a plan has begun, or has been carried out already."""
    query = (
        "SELECT s.address FROM steps s JOIN plans p ON p.id = s.plan"
        " WHERE p.digest = ? AND s.phase IN ('started', 'done')"
    )
    return {address for (address,) in store.all(query, digest)}


def open_plans(store: Store) -> dict[str, str]:
    """Return which plans have steps that have not begun, oldest first: digest -> by whom and when it was applied last."""
    return dict(
        store.all(
            "SELECT digest, coalesce(accepted, '') FROM plans p WHERE EXISTS"
            f" (SELECT 1 FROM steps s WHERE s.plan = p.id AND s.phase = '{StepPhase.WAITING}') ORDER BY id"
        )
    )


def accepted(store: Store, digests: Collection[str]) -> dict[str, Accepted]:
    """Return who applied these plans, by digest, without their documents and steps."""
    found = store.among("SELECT digest, accepted, left_at FROM plans WHERE accepted IS NOT NULL AND digest", digests)
    return {plan.digest: plan for plan in store.decoded(rows.accepted, found)}


def plan_text(store: Store, digest: str) -> str:
    """Return the sealed document of an accepted plan, "" when it is not kept."""
    found = store.all("SELECT document FROM plans WHERE digest = ? AND document IS NOT NULL", digest)
    return next(iter(store.decoded(lambda row: unpacked(row[0]), found)), "")


def last_applied(store: Store) -> str:
    """Return the sealed document of the plan that was applied last, "" when none is kept."""
    found = store.all(
        "SELECT document FROM plans WHERE document IS NOT NULL AND accepted IS NOT NULL"
        " ORDER BY json_extract(accepted, '$.by.since') DESC, id DESC LIMIT 1"
    )
    return next(iter(store.decoded(lambda row: unpacked(row[0]), found)), "")


def applied_plans(store: Store) -> list[Accepted]:
    """Return every plan that is kept with its steps, without the documents, oldest first."""
    steps: dict[int, list[Step]] = defaultdict(list)
    found = store.all(f"SELECT s.plan, {rows.STEP_COLUMNS} FROM steps s ORDER BY s.plan, s.place")
    for number, step in store.decoded(lambda row: (row[0], rows.step(row[1:])), found):
        steps[number].append(step)
    plans = store.all("SELECT id, digest, accepted, left_at FROM plans ORDER BY id")
    return store.decoded(lambda row: rows.accepted(row[1:])._replace(steps=tuple(steps[row[0]])), plans)


def all_plans(store: Store) -> Iterator[Accepted]:
    """Return every plan that is kept, whole, oldest first."""
    for number, document, *row in store.all("SELECT id, document, digest, accepted, left_at FROM plans ORDER BY id"):
        steps = store.all(f"SELECT {rows.STEP_COLUMNS} FROM steps s WHERE s.plan = ?", number)
        [plan] = store.decoded(rows.accepted, [row])
        # Sorted here: each database has an order of texts of its own.
        found = sorted(store.decoded(rows.step, steps), key=lambda step: (step.place, step.address))
        yield plan._replace(document=document or "", steps=tuple(found))
