"""The commands that show a project at a glance: report and graph."""

from __future__ import annotations

import json
import sys
from collections.abc import Hashable
from contextlib import closing
from pathlib import Path

from flowplan.commands import last_plan, planning
from flowplan.commands.arguments import check_directory, check_format
from flowplan.commands.places import state_of
from flowplan.commands.reading import ask_engines, opened
from flowplan.engines import kinds_of
from flowplan.output import Output
from flowplan.render.plan_page import plan_view
from flowplan.reporting import report_of, report_of_plan
from flowplan.schemas.codec import encode
from flowplan.schemas.errors import FlowplanError, InvalidInput, PlanStale
from flowplan.schemas.places import write_named
from flowplan.schemas.plan_documents import parse_plan, read_plan
from flowplan.schemas.plans import Plan
from flowplan.schemas.quantities import quantity
from flowplan.schemas.report import PlanSource, PlanView, Report
from flowplan.state import acceptance
from flowplan.state.store import Store
from flowplan.terminal import use_colour, width
from flowplan.webpage import MAX_SIZE, json_text, page


def report(
    path: Path | None,
    named_state: str | None,
    environment: str | None,
    out: Path | None,
    format: str,
    logs: str,
    max_size: str,
    ask: bool,
) -> None:
    """Write the page of a state, or the document in it, to a file or to stdout; with ``ask`` the engines are asked first."""
    check_format(format, ("html", "json"))
    check_format(logs, ("all", "failed", "none"), "--logs")
    check_directory("--out", out)
    most = _most(max_size)
    if out is None and format == "html" and sys.stdout.isatty():
        raise InvalidInput("the page is no use on a terminal", hint="write it to a file with --out report.html")
    state = state_of(named_state, environment)
    with closing(opened(state)) as store:
        if ask:
            ask_engines(store)
        document = encode(document_of(store, path, logs=logs, most=most))
    text = page(document, most) if format == "html" else json_text(document) + "\n"
    if out is None:
        Output().data(text, "")
        return
    try:
        write_named(out, text, "report")
    except OSError as error:
        raise FlowplanError(f"the page cannot be written to {out}: {error.strerror}") from error


def graph(path: Path | None, named_state: str | None, environment: str | None, format: str, ask: bool) -> None:
    """Draw what needs what, on a terminal or for what renders mermaid; with ``ask`` the engines are asked first."""
    from flowplan.render.graph import graph_lines, mermaid

    check_format(format, ("text", "mermaid"))
    with closing(opened(state_of(named_state, environment))) as store:
        if ask:
            ask_engines(store)
        groups = document_of(store, path, logs="none").groups
    terminal = sys.stdout.isatty()
    text = graph_lines(groups, width=width(sys.stdout), whole=not terminal, colour=use_colour(sys.stdout))
    Output().lines(mermaid(groups) if format == "mermaid" else text)


def document_of(store: Store, path: Path | None = None, *, logs: str = "failed", most: int = MAX_SIZE) -> Report:
    """Return the document of a state, with the plan in a file, or else the pending plan or the last one that was applied."""
    if path:
        plan, command, _ = planning.looked_at(read_plan(path), path, store.location)
        return report_of(store, plan=_view(plan, "file", command), planned=plan.changes, logs=logs, most=most)
    try:
        pending, command = _pending(store)
        if pending:
            return report_of(
                store, plan=_view(pending, "pending", command), planned=pending.changes, logs=logs, most=most
            )
        text = acceptance.last_applied(store)
        view = _view(parse_plan(json.loads(text), "the last plan"), "applied", "") if text else None
    except (InvalidInput, PlanStale) as error:
        return report_of(store, logs=logs, most=most, left_out=(f"The plan cannot be shown: {error}",))
    return report_of(store, plan=view, logs=logs, most=most)


def _most(text: str) -> int:
    """Return the bytes that ``--max-size`` says: 5MB are 5,000,000, as for a file that is sent; 5MiB are more."""
    try:
        found = int(quantity(text.strip().rstrip("bB")))
    except ValueError:
        found = 0
    if found < 1:
        raise InvalidInput(f'must be a size such as 5MB or 500k, not "{text}"', subject="--max-size")
    return found


def mark_of(store: Store) -> Hashable:
    """Return what differs once a state, or what is planned for it, has changed."""
    file = last_plan.plan_file(store.location.beside)
    return store.lineage, store.serial, file.stat().st_mtime_ns if file.exists() else 0


def _pending(store: Store) -> tuple[Plan | None, str]:
    """Return the last plan, where it may be applied and was not, and the command that does."""
    state = store.location
    made, file = last_plan.recall(state.beside), last_plan.plan_file(state.beside)
    if not made or not made.usable or not file.exists():
        return None, ""
    plan, command, _ = planning.looked_at(read_plan(file), file, state)
    return (None, "") if acceptance.accepted(store, [plan.digest]) else (plan, command)


def plan_page(plan: Plan, command: str) -> str:
    """Return the page of a plan alone."""
    return page(encode(report_of_plan(_view(plan, "file", command), plan.changes)))


def _view(plan: Plan, source: PlanSource, command: str) -> PlanView:
    return plan_view(plan, kinds_of(change.type for change in plan.changes), source, command)
