"""The document of the page: read from a state at one moment, and made smaller until it fits."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from flowplan import documents, webpage
from flowplan.left import followed_by
from flowplan.render.plan_page import DETAILS
from flowplan.report_tables import Known, Limits, Tables
from flowplan.schemas import report
from flowplan.schemas.codec import encode
from flowplan.schemas.plans import Change
from flowplan.schemas.report import PlanView, Report
from flowplan.state.acceptance import unbegun
from flowplan.state.store import Store

LADDER = (
    Limits(20_000, 1 << 30, 2, DETAILS),
    Limits(2000, 1 << 30, 1, 200),
    Limits(0, 20, 0, 50),
    Limits(0, 5, 0, 0),
    Limits(0, 1, 0, 0),
)
"""What is tried until a document fits."""
SHORT = 2000
"""Characters of each output that have precedence over the whole output of others."""
_AT_A_TIME = 200


def report_of(
    store: Store,
    *,
    plan: PlanView | None = None,
    planned: Sequence[Change] = (),
    logs: str = "failed",
    most: int = webpage.MAX_SIZE,
    left_out: Sequence[str] = (),
) -> Report:
    """Return the document of a state, which says itself what it leaves out.

    Args:
        plan: what the page shows of a plan; planned: the changes of one that is not applied yet.
        logs: which outputs are in it: ``all``, ``failed`` or ``none``.
        most: bytes of a page with it.
        left_out: what it tells to be missing, beside what is found to be here.
    """
    with store.snapshot():
        attempts = store.attempts()
        last = store.last_seq()
        known = Known(
            store.project or (plan.project if plan else None),
            store.environment,
            store.serial,
            followed_by(store),
            documents.status(store)[0],
            documents.history(store, attempts=attempts),
            attempts,
            {step.address: step for _, step in unbegun(store)},
            list(store.events(after=max(last - LADDER[0].events, 0))),
            last,
        )
        found, tables, room = _fitted(known, plan, planned, most)
        found = replace(found, left_out=(*left_out, *found.left_out))
        return _with_outputs(found, store, tables.outputs_wanted(logs), logs, room)


def report_of_plan(plan: PlanView, planned: Sequence[Change], most: int = webpage.MAX_SIZE) -> Report:
    """Return the document of a plan alone: what it would leave running, and start."""
    return _fitted(Known(plan.project, plan.environment), plan, planned, most)[0]


def _fitted(known: Known, plan: PlanView | None, planned: Sequence[Change], most: int) -> tuple[Report, Tables, int]:
    """Return the document with as much as there is room for, but for outputs; what made it; and the bytes that are left."""
    room = webpage.room(most)
    for limits in LADDER:
        tables = Tables(known, planned, limits)
        found = tables.document(plan and _shortened(plan, limits.details))
        if (taken := webpage.size(encode(found), most)) <= room:
            break
    return found, tables, room - taken


def _shortened(plan: PlanView, details: int) -> PlanView:
    """Return a plan with the whole objects of its first groups only."""
    return replace(
        plan,
        groups=(*plan.groups[:details], *(replace(one, objects=(), explained=()) for one in plan.groups[details:])),
    )


def _with_outputs(document: Report, store: Store, wanted: Mapping[str, int], logs: str, room: int) -> Report:
    """Return the document with as much of the wanted outputs as there is room for: the end of each first."""
    kept: dict[str, report.Output] = {}
    for whole in (False, True):
        for run_id, text in _tails(store, wanted):
            known = kept.get(run_id)
            if whole and (known is None or not known.cut):
                continue
            shown = text if whole else text[-SHORT:]
            room -= webpage.packed_size(shown) - (webpage.packed_size(known.text) if known else 0)
            if room < 0:
                break
            kept[run_id] = report.Output(wanted[run_id], shown, len(text) - len(shown))
    there = len(store.with_tails(wanted))
    told = list(document.left_out)
    if logs != "all":
        which = "No output is here" if logs == "none" else "Only output of attempts that failed is here"
        told.append(f"{which}; `flowplan report --logs all` takes all, `flowplan logs ADDR` shows one.")
    if missing := there - len(kept):
        told.append(f"The output of {missing} of {there} attempts is not here; --max-size makes room for more.")
    if cut := sum(output.cut > 0 for output in kept.values()):
        told.append(f"Of {cut} outputs only the last lines are here; --max-size makes room for more.")
    return replace(document, left_out=tuple(told), outputs=tuple(kept.values()))


def _tails(store: Store, wanted: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the stored ends of outputs by run id, in the order of the run ids, read a few at a time."""
    ids = list(wanted)
    for start in range(0, len(ids), _AT_A_TIME):
        found = store.tails(ids[start : start + _AT_A_TIME])
        yield from ((run_id, found[run_id]) for run_id in ids[start : start + _AT_A_TIME] if run_id in found)
