"""The JSON documents of what a state knows: commands print them, and the follower serves them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from flowplan.left import Left, left
from flowplan.planner.compare.plan import names
from flowplan.schemas.accepted import Accepted, StepPhase
from flowplan.schemas.codec import encode
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.plans import FORMAT_VERSION
from flowplan.schemas.runs import PROBLEMS, Recorded, Status
from flowplan.schemas.sources import did_you_mean
from flowplan.schemas.times import in_utc, seconds_between
from flowplan.state.acceptance import applied_plans, plan_text
from flowplan.state.store import Store

Document = dict[str, Any]


def chosen(records: Mapping[str, Recorded], addresses: Sequence[str]) -> dict[str, Recorded]:
    """Return the records that addresses, run names or globs mean; all without any.

    Raises:
        InvalidInput: one means nothing.
    """
    found = _meant({address: (address, record.settings.group) for address, record in records.items()}, addresses)
    return {address: record for address, record in records.items() if address in found}


def _meant(known: Mapping[str, tuple[str, str]], patterns: Sequence[str]) -> set[str]:
    """Return the keys of what addresses, run names or globs mean; all without any.

    Args:
        known: key -> an address, and the name of its run.
    """
    found: set[str] = set()
    for pattern in patterns:
        matches = {key for key, (address, group) in known.items() if names(pattern, address, group)}
        if not matches:
            raise unknown_address(pattern, dict.fromkeys(address for address, _ in known.values()))
        found |= matches
    return found if patterns else set(known)


def unknown_address(address: str, known: Iterable[str]) -> InvalidInput:
    """Return the error for an address that nothing is recorded at."""
    hint = did_you_mean(address, known) or "`flowplan state list` shows the addresses"
    return InvalidInput(f"nothing is recorded at {address}", hint=hint)


_RUN = (
    "address", "provider", "target", "name", "run_id", "attempt", "status", "reason", "message", "exit_code", "attempts",
    "created_at", "started_at", "finished_at", "infrastructure_id", "image", "remarks",
)  # fmt: skip
"""The parts of a record that a status document has, in this order."""


def _head(store: Store) -> Document:
    """Return how each document begins: with its format, and with the project, and its environment if it has some."""
    environment = {"environment": store.environment} if store.environment else {}
    return {"format_version": FORMAT_VERSION, "project": store.project, **environment}


def status(store: Store, addresses: Sequence[str] = (), only: Collection[str] = ()) -> tuple[Document, list[Left]]:
    """Return what ``status --format json`` prints, and the plans that have something left to do there.

    Args:
        addresses: the runs that are asked for; none for all. only: the statuses that are; none for all.
    """
    now = datetime.now(UTC)
    records = store.records()
    plans = left(store, records)
    steps = {step.address: step for plan in plans for step in plan.steps}
    known = {address: (address, record.settings.group) for address, record in records.items()}
    known |= {address: (address, step.group) for address, step in steps.items()}
    meant = _meant(known, addresses)
    of_spec = {address: n for n, address in enumerate(store.recall("order").get("addresses", ()))}
    ordered = sorted(known, key=lambda address: of_spec.get(address, len(of_spec)))
    runs, unbegun = [], []
    for place, address in enumerate(address for address in ordered if address in meant):
        record, step = records.get(address), steps.get(address)
        if record and (not only or record.status in only):
            document = encode(record)
            runs.append({**{name: document[name] for name in _RUN}, "overdue": _overdue(record, now), "place": place})
        if step and (not only or step.status in only):
            unbegun.append({**encode(step), "place": place})
    shown = {step["plan"] for step in unbegun}
    plans = [plan for plan in plans if plan.digest in shown]
    head = {**_head(store), "serial": store.serial}
    return {**head, "runs": runs, "not_started": unbegun, "plans": [plan.document() for plan in plans]}, plans


def _overdue(record: Recorded, now: datetime) -> Document | None:
    """Return the limit that a live run has passed, and by how many seconds; None when it has passed none.

    A limit that is enforced ends the run within the grace period; one that has passed by more is not enforced.
    """
    started = record.status is Status.RUNNING
    name, since = ("timeout", record.started_at) if started else ("start_timeout", record.created_at)
    limit: float | None = getattr(record.settings, name)
    passed = seconds_between(since, now)
    live = started or record.status is Status.PENDING
    if not live or limit is None or passed is None or passed <= limit + record.settings.grace_period:
        return None
    return {"setting": name, "limit": limit, "passed_by": round(passed - limit, 3)}


def history(
    store: Store,
    addresses: Sequence[str] = (),
    *,
    since: datetime | None = None,
    failed: bool = False,
    attempts: Sequence[Recorded] | None = None,
) -> Document:
    """Return what ``history --format json`` prints: every apply, and every attempt with the plan that made it.

    Args:
        since: only attempts that live, or of which something happened since then, and what was applied since then.
        failed: only attempts that failed, timed out or are lost.
        attempts: all of them, where they have been read already.

    Raises:
        InvalidInput: an address means nothing.
    """
    plans = applied_plans(store)
    records = store.attempts() if attempts is None else attempts
    known = store.known(one.run_id for one in records)
    wanted = _meant({one.run_id: (one.address, one.settings.group) for one in records}, addresses)
    made_by = _makers(plans)
    everything = [_attempt(one, known[one.run_id].progress.outcome or one.status, made_by(one)) for one in records]
    shown = [
        told
        for told, record in zip(everything, records, strict=True)
        if record.run_id in wanted
        and (since is None or record.status.live or _is_since(record.finished_at or record.created_at, since))
        and (not failed or told["status"] in PROBLEMS)
    ]
    made = {one["plan"] for one in shown}
    alone = not addresses and not failed  # an apply that made none of the wanted attempts is shown as well
    applies = [
        apply
        for apply in _applies(plans, everything)
        if apply["plan"] in made or (alone and (since is None or _is_since(apply["at"], since)))
    ]
    return {**_head(store), "applies": applies, "attempts": shown}


def _is_since(time: str | None, since: datetime) -> bool:
    return time is not None and datetime.fromisoformat(time) >= in_utc(since)


def _makers(plans: Sequence[Accepted]) -> Callable[[Recorded], str]:
    """Return a function from an attempt to the digest of the plan that it was created by, as far as that is known.

    The plan that a record names may be one that changed it later, in place.
    """
    began: dict[str, list[Accepted]] = defaultdict(list)
    for plan in sorted((plan for plan in plans if plan.by), key=lambda plan: plan.by["since"]):
        for step in plan.steps:
            if step.phase is StepPhase.STARTED:
                began[step.address].append(plan)

    def made_by(record: Recorded) -> str:
        at_hand = began.get(record.address, [])
        if any(plan.digest == record.plan_digest for plan in at_hand):
            return record.plan_digest
        before = [plan.digest for plan in at_hand if plan.by["since"] <= (record.created_at or "")]
        return before[-1] if before else record.plan_digest

    return made_by


def _attempt(record: Recorded, end: str, plan: str) -> Document:
    from flowplan.planner.desired.matrix import parse_address  # takes YAML along, which `status` does without

    try:
        values = parse_address(record.address)[1] or {}
    except ValueError:  # of a state that was edited by hand
        values = {}
    return {
        "address": record.address,
        "values": values,
        "attempt": record.attempt,
        "run_id": record.run_id,
        "plan": plan,
        "status": str(end),
        "exit_code": record.exit_code,
        "reason": record.reason,
        "message": record.message,
        "tries": record.attempts,
        "created_at": record.created_at,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "seconds": seconds_between(record.started_at, record.finished_at),
    }


def _applies(plans: Sequence[Accepted], attempts: Sequence[Document]) -> list[Document]:
    """Return what was applied and when, oldest first; of a plan that is not kept any more, only what its attempts tell."""
    made: dict[str, list[Document]] = defaultdict(list)
    for one in attempts:
        made[one["plan"]].append(one)
    kept = {plan.digest: plan for plan in plans if plan.by}
    found = []
    for digest in dict.fromkeys([*made, *kept]):
        plan, rows = kept.get(digest, Accepted(digest, mode="")), made.get(digest, [])
        addresses = {row["address"] for row in rows}
        steps = Counter(str(step.phase) for step in plan.steps if step.address not in addresses)
        found.append(
            {
                "plan": digest,
                "mode": plan.mode,
                "at": plan.by.get("since")
                or min((row["created_at"] for row in rows if row["created_at"]), default=None),
                **{name: plan.by.get(name) for name in ("command", "user", "host")},
                "directory": plan.directory or None,
                "variables": dict(plan.variables),
                "left_at": plan.left_at,
                "ends": dict(Counter(row["status"] for row in rows)),
                "steps": {phase: n for phase, n in steps.items() if phase != StepPhase.STARTED},
            }
        )
    return sorted(found, key=lambda apply: apply["at"] or "")


def run(store: Store, address: str) -> Document | None:
    """Return what ``state show`` prints of a run: all attempts, newest last; None when nothing is recorded there."""
    attempts = store.attempts(address)
    tails = store.tails([one.run_id for one in attempts])
    documents = [{**encode(one), "output_tail": tails.get(one.run_id, "")} for one in attempts]
    return {"address": address, "attempts": documents} if attempts else None


def plans(store: Store) -> Document:
    """Return the plans that were applied, newest first: who applied them, and how far each of their steps is."""
    found = [encode(plan) for plan in reversed(applied_plans(store))]
    return {**_head(store), "plans": [{k: v for k, v in plan.items() if k != "document"} for plan in found]}


def plan(store: Store, digest: str) -> Document | None:
    """Return an applied plan as it was approved; None when it is not kept."""
    text = plan_text(store, digest)
    document: Document = json.loads(text) if text else {}
    document.pop("seal", None)
    return document or None
