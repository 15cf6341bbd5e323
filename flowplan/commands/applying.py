"""The commands that change something or follow what runs: apply, destroy and watch."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flowplan import interruption, notifying
from flowplan.commands import last_plan
from flowplan.commands.arguments import check_directory, check_format
from flowplan.commands.places import env_option, place, settled, shown
from flowplan.commands.planning import Shown, at, show_plan
from flowplan.commands.refusals import (
    allowed,
    planning_options,
    refuse_findings,
    refuse_violations,
    told_findings,
    usable,
)
from flowplan.engines import read_spec
from flowplan.left import carried, followed_by, steps_left
from flowplan.outcome import Options
from flowplan.output import JsonSink, Output, Sink
from flowplan.planner.compare.plan import has_changes
from flowplan.planning import Planned, check_targets, nothing_planned, plan_again, plan_destroy, plan_spec
from flowplan.project import Project, Request, open_state, writing
from flowplan.render.units import duration
from flowplan.reviewing import check_reviewed, sealed_plan
from flowplan.schemas.accepted import Accepted, packed, steps_of
from flowplan.schemas.errors import FlowplanError, InvalidInput, PlanStale, Refused, StateError
from flowplan.schemas.files import is_directory, is_file, is_stream, read_bounded
from flowplan.schemas.plan_documents import MOST_BYTES, sealed_json
from flowplan.schemas.plans import Action, Plan
from flowplan.schemas.runs import PROBLEMS, Status
from flowplan.schemas.secrets import is_common, tokens_in
from flowplan.showing import shown as as_shown
from flowplan.state.acceptance import accept, drop, leave
from flowplan.state.holder import about_me
from flowplan.state.location import Location, Lock
from flowplan.state.ownership import claim_project
from flowplan.state.store import Store
from flowplan.terminal import approved, can_ask, can_draw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowplan.outcome import Outcome


@dataclass(frozen=True, slots=True)
class How(Options):
    """How to apply, from the command line; times in seconds."""

    yes: bool = False
    format: str = "text"
    json_into: Path | None = None
    max_age: float | None = None
    strict: bool = False


def apply(what: Path | None, state: str | None, environment: str | None, request: Request, how: How) -> int:
    """Apply a saved plan, a spec, or without either the last plan if nothing that it was made from has changed."""
    check_format(how.format, ("text", "json"))
    check_directory("--json-into", how.json_into)
    if what is None:
        return _apply_last(at(request, settled(place(state, environment=environment))), how)
    if is_plan(what):
        return _apply_plan(what, at(request, settled(place(state, environment=environment))), how)
    return _apply_spec(at(request, place(state, what, environment)), how)


def _apply_last(request: Request, how: How) -> int:
    """Apply the last plan when it still counts; else plan anew, from the spec that it was made of."""
    state = request.state
    made = last_plan.recall(state.beside)
    if made is None or not made.spec or not state.exists():
        return _apply_spec(request, how)
    spec = shown(Path(made.directory if is_directory(made.directory) else state.beside.parent, made.spec))
    request = request._replace(spec=spec)
    path = last_plan.plan_file(state.beside)
    try:
        reviewed = _last_reviewed(made, path, request, how)
        with Project.of_plan(request, reviewed) as project:
            for step in steps_left(project.store, reviewed.digest):
                if step.status == "skipped":
                    raise PlanStale(f"{step.address} cannot start by the last plan: {step.reason}")
            plan = check_reviewed(reviewed, plan_again(project, request, reviewed).plan, project.store)
            if changes := not _nothing_to_do(plan, project.store):
                Output().note(
                    f"Applying the last plan, of {made.made_at}; {spec} and the files it names are unchanged."
                )
                if not _agreed(plan, project, how):
                    return 1
    except PlanStale as stale:
        if made.usable:
            Output().note(f"Planning {spec} anew: {stale.message}.")
        return _apply_spec(request, how)
    if not changes:
        return _apply_spec(request, how)
    last_plan.supersede(state.beside, path)
    return _apply_reviewed(reviewed, request, how)


def _last_reviewed(made: last_plan.LastPlan, path: Path, request: Request, how: How) -> Plan:
    """Read the last plan.

    Raises:
        PlanStale: it does not count any more.
    """
    with closing(request.state.open()) as store:
        digest = read_spec(request.spec, request.environment).digest
        last_plan.check(made, request.state.beside, request.given, store.key, digest)
    if options := planning_options(request):
        raise PlanStale(f"another plan is asked for by {' and '.join(options)}")
    reviewed = sealed_plan(path, request.state, request.environment)
    allowed(reviewed, request, how.max_age)
    return reviewed


def is_plan(path: Path) -> bool:
    """Return whether a file is a plan: by its content, else by its name, so that a broken plan is not read as a spec."""
    try:
        text = read_bounded(path, MOST_BYTES, pipes=True).decode()
    except (OSError, ValueError):
        return path.suffix == ".json"
    if not text.lstrip().startswith("{"):
        return path.suffix == ".json"
    try:
        document = json.loads(text)
    except ValueError:
        return path.suffix == ".json" or '"format_version"' in text
    return not (isinstance(document, dict) and "flowplan" in document and "changes" not in document)


def _apply_plan(path: Path, request: Request, how: How) -> int:
    reviewed = sealed_plan(path, request.state, request.environment)
    usable(reviewed, path, request, how.max_age)
    with Project.of_plan(request, reviewed) as project:
        plan = check_reviewed(reviewed, plan_again(project, request, reviewed).plan, project.store)
        if _nothing_to_do(plan, project.store):
            words = f"Nothing is left to do: {path} was carried out before, or changes nothing."
            return _done_already(plan, project, how, words)
        if not _agreed(plan, project, how):
            return 1
    last_plan.supersede(request.state.beside, path)
    return _apply_reviewed(reviewed, request, how)


def _apply_spec(request: Request, how: How) -> int:
    """Plan, show, ask, and do it; with --yes the plan is made under the lock, so that nothing can come between."""
    with writing(request.state, "apply") as lock:

        def take_lock() -> None:
            if how.yes:
                lock.acquire(how.lock_timeout)

        with Project.of_spec(request, take_lock) as project:
            planned = plan_spec(project, request)
            plan = planned.plan
            last_plan.keep(plan, project, request.given)
            refuse_violations(plan)
            _require_secrets(plan, project)
            if not (has_changes(plan.changes) or plan.partial):
                drop(project.store, None, "the spec wants nothing that is not there")
            if _nothing_to_do(plan, project.store):
                return _done_already(plan, project, how, "No changes. All runs match the spec.")
            if not _agreed(plan, project, how):
                return 1
            if how.yes:
                return _carry_out(planned, project, how, lock)
    return _apply_reviewed(plan, request, how)


def _apply_reviewed(reviewed: Plan, request: Request, how: How) -> int:
    """Plan again with the lock in hand, for time has passed while people read, and do only what was reviewed."""
    with writing(request.state, "apply") as lock:
        lock.acquire(how.lock_timeout)
        with Project.of_plan(request, reviewed) as project:
            planned = plan_again(project, request._replace(preflight=False), reviewed)
            plan = check_reviewed(reviewed, planned.plan, project.store)
            return _carry_out(planned._replace(plan=plan), project, how, lock, reviewed)


def _require_secrets(plan: Plan, project: Project) -> None:
    """Check that every secret is there before anything starts."""
    from flowplan.resolve import unresolvable

    missing = {token: source for token, source in plan.secrets.items() if token not in project.secrets}
    faults = [unresolvable(token, source, plan.changes) for token, source in missing.items()]
    if faults:
        raise InvalidInput(faults)


def _nothing_to_do(plan: Plan, store: Store) -> bool:
    """Return whether a plan changes nothing, and nothing that it plans runs or is left to be removed."""
    alive = {address for address, record in store.records().items() if record.status.live}
    busy = alive.union(record.address for record in store.leftovers())
    return not has_changes(plan.changes) and busy.isdisjoint(change.address for change in plan.changes)


def _done_already(plan: Plan, project: Project, how: How, words: str) -> int:
    """Say that nothing would change and nothing runs."""
    from flowplan.schemas.plan_documents import write_plan

    if how.json_into:
        write_plan(plan, how.json_into, project.store.key)
    if how.format == "text":
        project.output().note(words)
    return 6 if any(c.skipped for c in plan.changes) else 0


def _agreed(plan: Plan, project: Project, how: How) -> bool:
    """Show the plan and ask; return whether it was approved.

    Raises:
        FlowplanError: there is no terminal to ask on.
        Refused: a part of it would fail, and ``--strict`` was given.
    """
    from flowplan.schemas.plan_documents import write_plan

    if how.strict:
        refuse_findings(plan)
    if how.json_into:
        write_plan(plan, how.json_into, project.store.key)
    if not has_changes(plan.changes):
        return True
    output = Output()  # a plan holds tokens only, and a text that hid a guess would confirm it
    if how.format == "text":
        show_plan(plan, output, Shown(), "", to_stderr=True)
    elif told := told_findings(plan):
        output.note(told)
    if how.yes:
        return True
    if not can_ask():
        raise FlowplanError(
            "this plan needs approval, and there is no terminal to ask on",
            hint="read it with `flowplan show`, then apply it with --yes",
        )
    if approved("Carry out this plan?"):
        return True
    last_plan.spend(project.store.location.beside)
    output.note("Not applied.")
    return False


def destroy(
    spec: Path | None, state: str | None, environment: str | None, request: Request, how: How, *, if_exists: bool
) -> int:
    """Destroy everything recorded; the spec is not needed, and is only checked to be of the same project.

    Args:
        if_exists: a state that is not there is no error.

    Raises:
        StateError: there is no state, or it cannot be used.
    """
    check_format(how.format, ("text", "json"))
    if spec and not is_file(spec) and not is_stream(spec):
        raise InvalidInput(f"{spec}: there is no such file")
    request = at(request, settled(place(state, spec, environment)))
    if not request.state.exists():
        missing = f"there is no state {request.state.named()}, so nothing is known that could be destroyed"
        if not if_exists:
            hint = "work in the directory of the project, or name its spec or --state; --if-exists makes this no error"
            raise StateError(missing, hint=hint)
        Output().note(f"Nothing to destroy: {missing}.")
        return 0
    with writing(request.state, "destroy") as lock:
        lock.acquire(how.lock_timeout)
        with closing(open_state(request.state)) as store, Project.of_state(store, all_secrets=True) as project:
            planned = plan_destroy(project, request)
            if spec and store.project not in (None, project_of := read_spec(spec, request.environment).spec.project):
                raise Refused(f"{spec} is project {project_of}, but the state belongs to project {store.project}")
            if not has_changes(planned.plan.changes):
                if not planned.plan.partial:
                    drop(store, None, "everything was destroyed")
                Output().note(
                    f"Nothing to destroy: the state {request.state.named()} records no run. Runs of another state "
                    "are destroyed with that one (--state); those of a lost one after `flowplan state rebuild`."
                )
                return 0
            if not _agreed(planned.plan, project, how):
                return 1
            last_plan.spend(request.state.beside)
            return _carry_out(planned, project, replace(how, detach=True), lock)


def watch(state: Location, addresses: Sequence[str], how: How) -> int:
    """Follow what runs and what an apply elsewhere starts, without changing anything; tell what waits."""
    from flowplan import documents
    from flowplan.commands.reading import opened
    from flowplan.refreshing import refresh

    check_format(how.format, ("text", "json"))
    with closing(opened(state)) as store, Project.of_state(store) as project:
        store.check_home()
        document, _ = documents.status(store, addresses)
        if any(run["status"] == Status.LOST for run in document["runs"]):
            refresh(project)  # an engine may have them after all
        live, expected = _tell_what_waits(store, addresses, how)
        outcome, code = None, 0
        if live or expected:
            with writing(state, "watch") as lock:
                outcome = _run(Planned(nothing_planned(store), ()), project, how, lock, live, expected)
            code = _report(outcome, project, how)
            _tell_what_waits(store, addresses, how)
        else:
            refresh(project)
            Output().note("Nothing that is recorded runs.")
        ill = (*PROBLEMS, *(() if outcome and outcome.timed_out else (Status.CREATING,)))
        document, _ = documents.status(store, addresses)
        bad = [run["address"] for run in document["runs"] if run["status"] in ill]
    return code if code else 3 if bad else 0


_SHOWN_WAITING = 20
"""Runs of which ``watch`` tells what they wait for."""


def _tell_what_waits(store: Store, addresses: Sequence[str], how: How) -> tuple[list[str], list[str]]:
    """Tell what has not begun, why, and what begins it; return the addresses of what runs, and of what an apply starts later."""
    from flowplan import documents

    document, plans = documents.status(store, addresses)
    steps = document["not_started"]
    if steps and how.format == "json":
        told = ("format_version", "not_started", "plans")
        Output().document({name: document[name] for name in told}, indent=None)
    elif steps:
        output = Output()
        for step in steps[:_SHOWN_WAITING]:
            why = f"{' ' if step['reason'].startswith('for ') else ': '}{step['reason']}" if step["reason"] else ""
            output.note(f"{step['address']}: {step['status']}{why}")
        if len(steps) > _SHOWN_WAITING:
            output.note(f"and {len(steps) - _SHOWN_WAITING} more; `flowplan status` has them all")
        for remark in filter(None, (plan.remark(*env_option(store.environment)) for plan in plans)):
            output.note(remark)
    live = [run["address"] for run in document["runs"] if Status(run["status"]).live]
    by_others = carried(store)
    return live, [step["address"] for step in steps if step["address"] in by_others]


def _carry_out(planned: Planned, project: Project, how: How, lock: Lock, reviewed: Plan | None = None) -> int:
    """Carry a plan out; the lock is held already.

    Args:
        reviewed: the plan as it was approved, where a part of it may be done already.
    """
    plan, store = planned.plan, project.store
    check_targets(project.engines, plan)
    claim_project(store, plan.project, plan.environment)
    if plan.mode != "destroy":
        project.remember("" if is_stream(Path(plan.spec_path)) else Path(plan.spec_path).name)
        notifying.record(store, plan.notify or ())
    with _accepted(plan, reviewed or plan, store):
        outcome = _run(planned, project, how, lock)
    if not outcome.waiting and not outcome.unanswered:
        last_plan.spend(store.location.beside)
    if plan.mode == "destroy":
        # The files of runs that are not managed any more go, the ends of outputs stay in the state.
        managed, attempts = store.records(), store.attempts()
        kept = {a.run_id for a in attempts if a.address in managed or a.present or not a.status.final}
        project.engines.discard({a.provider for a in attempts}, kept)
    code = _report(outcome, project, how)
    if how.format != "json" and (needed := _given_here(plan, outcome.waiting)):
        project.output().note(
            f"they need the value of {needed} again, which is not kept; FLOWPLAN_VAR_<name> gives it there"
        )
    return code


@contextmanager
def _accepted(plan: Plan, reviewed: Plan, store: Store) -> Iterator[None]:
    """Record what is left of a plan as accepted, before anything else is done, and in the end that this process leaves it."""
    steps = steps_of(plan.changes) if plan.mode != "refresh_only" else ()
    if not steps:
        yield
        return
    does = replace(reviewed, changes=tuple(change for change in reviewed.changes if change.effective))
    document = packed(sealed_json(does, store.key))
    by = about_me("destroy" if plan.mode == "destroy" else "apply")
    given = {
        name: known["value"]
        for name, known in reviewed.variables.items()
        if not known["origin"].startswith("default") and not tokens_in(known["value"])
    }
    accepted = Accepted(plan.digest, by, str(Path.cwd()), plan.mode, given, document=document, steps=steps)
    there = [c.address for c in reviewed.changes if c.action not in (Action.DESTROY, Action.FORGET)]
    accept(store, accepted, whole=not plan.partial, order=() if plan.partial else there)
    try:
        yield
    finally:
        leave(store, accepted)


def _run(
    planned: Planned, project: Project, how: How, lock: Lock, follow: Sequence[str] = (), expected: Sequence[str] = ()
) -> Outcome:
    from flowplan.apply import Beside, carry_out

    plan = planned.plan
    detach = how.detach or plan.mode == "refresh_only"  # which only records: there is nothing of its own to follow
    followed = not detach and not followed_by(project.store)
    with (
        interruption.finishing() as interrupted,
        _sink(project.output(), how) as sink,
        notifying.telling(project.store.location, sink.note) if followed else nullcontext(),
    ):
        sent = tokens_in([change.after for change in plan.changes if change.effective])
        sent &= {*plan.secrets} & {*project.secrets}
        # A plan does not tell which secrets cannot be redacted well: it may be public.
        if common := {plan.secrets[shown].label for shown in sent if is_common(project.secrets[shown])}:
            sink.note(
                f"warning: {', '.join(sorted(common))}: too short or too common a word to be redacted safely; what runs print "
                "may show it inside other words, or be hard to read"
            )
        return carry_out(
            plan,
            project.store,
            project.engines,
            lock,
            sink,
            replace(how, detach=detach),
            secrets=project.secrets,
            interrupted=interrupted,
            beside=Beside(follow, expected, planned.observed),
        )


@contextmanager
def _sink(output: Output, how: How) -> Iterator[Sink]:
    """Yield where progress goes: JSON lines, a live picture on a terminal, or plain lines."""
    if how.format == "json":
        yield JsonSink(output)
    elif can_draw(sys.stderr):
        from flowplan.live import live

        with live(output) as sink:
            yield sink
    else:
        yield Sink(output)


_DONE = {
    "adopt": "adopted",
    "create": "created",
    "destroy": "destroyed",
    "forget": "forgotten",
    "move": "moved",
    "replace": "replaced",
    "rerun": "started again",
    "update": "updated in place",
}


_LAST_LINES = 5
"""Lines of the output of a run that failed which are shown once more."""
_SHOWN_ENDS = 20
"""Failed runs of which they are shown."""


def _counts(outcome: Outcome) -> str:
    """Return what was done, and how the runs ended; "" for neither."""
    done = ", ".join(f"{n} {_DONE.get(action, action)}" for action, n in sorted(outcome.carried_out.items()))
    ends = {**outcome.ends, "skipped": len(outcome.skipped)}
    ended = ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in ends.items() if n)
    told = [*([f"Applied: {done}"] if done else []), *([f"{ended} ({duration(outcome.took)})"] if outcome.ends else [])]
    return "; ".join(told) + "." if told else ""


def _report(outcome: Outcome, project: Project, how: How) -> int:
    """Print what was done, what failed and how to go on; return the exit code."""
    output = project.output()
    if how.format == "json":
        return outcome.exit_code
    if counts := _counts(outcome):
        output.note(counts)
    for address, why in outcome.left_out.items():
        output.note(f"left out: {address}: {why}")
    shown_ends = 0
    for address, why in outcome.failed.items():
        record = project.store.record(address)
        see = f"; see `{_command(project, 'logs', address)}`" if record and record.started_at else ""
        output.note(f"{address}: {why}{see}", failure=True)
        if record and record.settings.stream_output and shown_ends < _SHOWN_ENDS:
            lines = record.output_tail.splitlines()[-_LAST_LINES:]
            shown_ends += bool(lines)
            for line in lines:
                output.note(f"  | {as_shown(line)}")
    if outcome.waiting:
        follower = followed_by(project.store)
        who = f"the follower of {follower}" if follower else f"the next `{_command(project, 'apply')}`"
        output.note(f"not started yet: {_some(outcome.waiting)}; {who} starts them")
    if outcome.unanswered:
        output.note(
            f"start not confirmed: {_some(outcome.unanswered)}; the next `{_command(project, 'apply')}` asks the engine first, "
            "and starts nothing twice"
        )
    if outcome.live and (outcome.interrupted or outcome.timed_out or outcome.errors or how.detach):
        left = "1 run is" if len(outcome.live) == 1 else f"{len(outcome.live)} runs are"
        output.note(f"{left} still running; follow with `{_command(project, 'watch')}`")
    return outcome.exit_code


def _command(project: Project, word: str, address: str = "") -> str:
    """Return a command to go on with, which names the environment where there is one."""
    quoted = f"'{address}'" if "[" in address else address
    return " ".join(["flowplan", word, *filter(None, [quoted]), *env_option(project.store.environment)])


def _given_here(plan: Plan, addresses: Sequence[str]) -> str:
    """Return the sensitive variables that runs need, whose values no state keeps."""
    waiting = set(addresses)
    used = tokens_in([change.after for change in plan.changes if change.address in waiting])
    return ", ".join(sorted({name for token in used & {*plan.secrets} for name in plan.secrets[token].variables}))


def _some(addresses: Sequence[str]) -> str:
    shown = ", ".join(addresses[:5])
    return shown + (f" and {len(addresses) - 5} more" if len(addresses) > 5 else "")
