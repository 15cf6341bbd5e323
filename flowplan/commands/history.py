"""The command that shows every apply and every recorded attempt, from the state alone."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from flowplan.commands.arguments import check_format
from flowplan.commands.reading import opened, unknown_address
from flowplan.output import Output
from flowplan.planner.compare.plan import names
from flowplan.planner.desired.matrix import parse_address
from flowplan.schemas.accepted import Accepted, StepPhase
from flowplan.schemas.plans import FORMAT_VERSION
from flowplan.schemas.runs import PROBLEMS, Recorded
from flowplan.schemas.times import in_utc, seconds_between
from flowplan.state.acceptance import applied_plans
from flowplan.state.location import Location
from flowplan.terminal import use_colour, width

Document = dict[str, Any]


def history(state: Location, addresses: Sequence[str], since: datetime | None, failed: bool, format: str) -> None:
    """Print a block for each apply with a row for each attempt that it made, oldest first; no engine is asked.

    Args:
        since: only attempts that live, or of which something happened since then, and what was applied since then.
        failed: only attempts that failed, timed out or are lost.
    """
    from flowplan.render.tables import history_table

    check_format(format, ("text", "json"))
    with closing(opened(state)) as store:
        plans = applied_plans(store)
        records, project = store.attempts(), store.project
        known = store.known(one.run_id for one in records)
    wanted = _chosen(records, addresses)
    made_by = _makers(plans)
    everything = [_attempt(one, known[one.run_id].progress.outcome or one.status, made_by(one)) for one in records]
    attempts = [
        told
        for told, record in zip(everything, records, strict=True)
        if record.run_id in wanted
        and (since is None or record.status.live or _is_since(record.finished_at or record.created_at, since))
        and (not failed or told["status"] in PROBLEMS)
    ]
    made = {one["plan"] for one in attempts}
    alone = not addresses and not failed  # an apply that made none of the wanted attempts is shown as well
    applies = [
        apply
        for apply in _applies(plans, everything)
        if apply["plan"] in made or (alone and (since is None or _is_since(apply["at"], since)))
    ]
    output = Output()
    if format == "json":
        head = {"format_version": FORMAT_VERSION, "project": project}
        output.document({**head, "applies": applies, "attempts": attempts})
        return
    columns = width(sys.stdout) if sys.stdout.isatty() else None
    output.lines(history_table(applies, attempts, width=columns, colour=use_colour(sys.stdout), now=datetime.now(UTC)))


def _chosen(attempts: Sequence[Recorded], addresses: Sequence[str]) -> set[str]:
    """Return the run ids of the attempts at some addresses, of all without any.

    Raises:
        InvalidInput: an address means nothing.
    """
    found = {
        pattern: {a.run_id for a in attempts if names(pattern, a.address, a.settings.group)} for pattern in addresses
    }
    if unknown := next((pattern for pattern, run_ids in found.items() if not run_ids), None):
        raise unknown_address(unknown, {one.address for one in attempts})
    return set().union(*found.values()) if found else {one.run_id for one in attempts}


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
                "left_at": plan.left_at,
                "ends": dict(Counter(row["status"] for row in rows)),
                "steps": {phase: n for phase, n in steps.items() if phase != StepPhase.STARTED},
            }
        )
    return sorted(found, key=lambda apply: apply["at"] or "")
