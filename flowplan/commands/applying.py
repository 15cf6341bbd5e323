"""The commands that change something or follow what runs: apply, destroy and watch."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flowplan import interruption
from flowplan.commands import last_plan
from flowplan.commands.arguments import check_format
from flowplan.commands.places import place, shown
from flowplan.commands.planning import Shown, at, show_plan
from flowplan.commands.refusals import allowed, planning_options, refuse_findings, refuse_violations, usable
from flowplan.gather import (
    Gathered,
    Request,
    gather_destroy,
    gather_plan,
    gather_spec,
    remember_connections,
    same_engines,
)
from flowplan.output import JsonSink, Output, Sink
from flowplan.planner.compare.plan import has_changes
from flowplan.reviewing import check_reviewed, sealed_plan
from flowplan.schemas.errors import FlowplanError, InvalidInput, PlanStale, StateError
from flowplan.schemas.files import is_directory, is_file, is_stream, read_bounded
from flowplan.schemas.plan_documents import MOST_BYTES
from flowplan.schemas.plans import Plan
from flowplan.schemas.runs import Status
from flowplan.schemas.secrets import is_common, tokens_in
from flowplan.state.lock import WriterLock
from flowplan.state.store import Store
from flowplan.terminal import approved, can_ask, can_draw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowplan.outcome import Outcome


@dataclass(frozen=True, slots=True)
class How:
    """How to apply, from the command line; times in seconds."""

    yes: bool = False
    detach: bool = False
    parallelism: int = 10
    wait_timeout: float | None = None
    lock_timeout: float = 0.0
    format: str = "text"
    stream: bool = True
    json_into: Path | None = None
    max_age: float | None = None
    strict: bool = False


def apply(what: Path | None, state: Path | None, request: Request, how: How) -> int:
    """Apply a saved plan, a spec, or without either the last plan if nothing that it was made from has changed."""
    check_format(how.format, ("text", "json"))
    if what is None:
        found = place(state)
        return _apply_last(found.spec, at(request, found), how)
    if is_plan(what):
        return _apply_plan(what, at(request, place(state)), how)
    return _apply_spec(what, at(request, place(state, what)), how)


def _apply_last(spec: Path, request: Request, how: How) -> int:
    """Apply the last plan when it still counts; else plan anew, from the spec that it was made of.

    Args:
        spec: when there was no plan yet.
    """
    from flowplan.engines import read_spec

    state = request.state_path
    made = last_plan.recall(state)
    if made is None or not made.spec or not Store.exists(state):
        return _apply_spec(shown(spec), request, how)
    spec = shown(Path(made.directory if is_directory(made.directory) else state.parent, made.spec))
    path = last_plan.plan_file(state)
    try:
        with closing(Store.open(state)) as store:
            last_plan.check(made, state, request.given, store.key, read_spec(spec).digest)
        if options := planning_options(request):
            raise PlanStale(f"{' and '.join(options)} ask for another plan")
        reviewed = sealed_plan(path, state)
        allowed(reviewed, request, how.max_age)
        gathered, plan = _still_so(request, reviewed)
    except PlanStale as stale:
        if made.usable:
            Output().note(f"Planning {spec} anew: {stale.message}.")
        return _apply_spec(spec, request, how)
    if _nothing_to_do(plan, gathered):
        gathered.close()
        return _apply_spec(spec, request, how)
    Output().note(f"Applying the last plan, of {made.made_at}; {spec} and the files it names are unchanged.")
    return _apply_gathered(gathered, plan, reviewed, path, request, how)


def _still_so(request: Request, reviewed: Plan) -> tuple[Gathered, Plan]:
    """What is left to do of a reviewed plan, with what it rests on now.

    Raises:
        PlanStale: it is not what would be done any more.
    """
    gathered = gather_plan(request, reviewed)
    try:
        return gathered, check_reviewed(reviewed, gathered)
    except BaseException:
        gathered.close()
        raise


def is_plan(path: Path) -> bool:
    """True for a plan file; by what is in it, else by its name, so that a broken plan is not read as a spec."""
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
    reviewed = sealed_plan(path, request.state_path)
    usable(reviewed, path, request, how.max_age)
    gathered, plan = _still_so(request, reviewed)
    if not _nothing_to_do(plan, gathered):
        return _apply_gathered(gathered, plan, reviewed, path, request, how)
    return _done_already(
        plan, gathered, how, f"Nothing is left to do: {path} was carried out before, or changes nothing."
    )


def _apply_gathered(gathered: Gathered, plan: Plan, reviewed: Plan, path: Path, request: Request, how: How) -> int:
    """Show what is left of a reviewed plan, ask, and do it."""
    try:
        if not _agreed(plan, gathered, how, path):
            return 1
        last_plan.supersede(request.state_path, path)
    except BaseException:
        gathered.close()
        raise
    return _again_under_lock(reviewed, gathered, request, how, WriterLock(request.state_path, "apply"))


def _apply_spec(path: Path, request: Request, how: How) -> int:
    """Plan, show, ask, and do it; with --yes the plan is made under the lock, so that nothing can come between."""
    lock = WriterLock(request.state_path, "apply")

    def sound() -> None:  # a broken spec is refused before the state or its lock is made
        if how.yes and not lock.held:
            lock.acquire(how.lock_timeout)

    try:
        gathered = gather_spec(request, path, sound)
    except BaseException:
        lock.release()
        raise
    try:
        last_plan.keep(gathered.plan, request.state_path, request.given, gathered.store.key, gathered.spec_dir)
        refuse_violations(gathered.plan)
        _require_secrets(gathered)
        if _nothing_to_do(gathered.plan, gathered):
            lock.release()
            return _done_already(gathered.plan, gathered, how, "No changes. Everything is as the spec wants it.")
        if not _agreed(gathered.plan, gathered, how, None):
            return 1
    except BaseException:
        lock.release()
        gathered.close()
        raise
    if not how.yes:
        return _again_under_lock(gathered.plan, gathered, request, how, lock)
    return _carry_out(gathered.plan, gathered, how, lock)


def _again_under_lock(reviewed: Plan, before: Gathered, request: Request, how: How, lock: WriterLock) -> int:
    """Time has passed while people read: plan again with the lock in hand, and do only what was reviewed."""
    before.close()
    lock.acquire(how.lock_timeout)
    try:
        gathered = gather_plan(replace(request, preflight=False), reviewed)
    except BaseException:
        lock.release()
        raise
    try:
        plan = check_reviewed(reviewed, gathered)
    except BaseException:
        lock.release()
        gathered.close()
        raise
    return _carry_out(plan, gathered, how, lock)


def _require_secrets(gathered: Gathered) -> None:
    """Every secret must be there before anything starts.

    Raises:
        InvalidInput: all those that cannot be resolved.
    """
    from flowplan.resolve import unresolvable

    plan = gathered.plan
    missing = {token: source for token, source in plan.secrets.items() if token not in gathered.secrets}
    faults = [unresolvable(token, source, plan.changes) for token, source in missing.items()]
    if faults:
        raise InvalidInput(faults)


def _live(gathered: Gathered) -> list[str]:
    return [a for a, r in gathered.store.records().items() if r.status.live]


def _nothing_to_do(plan: Plan, gathered: Gathered) -> bool:
    addresses = {c.address for c in plan.changes}
    left = {r.address for r in gathered.store.leftovers()}
    return not has_changes(plan.changes) and not addresses.intersection({*_live(gathered), *left})


def _done_already(plan: Plan, gathered: Gathered, how: How, words: str) -> int:
    """Say that nothing would change and nothing runs."""
    from flowplan.schemas.plan_documents import write_plan

    if how.json_into:
        write_plan(plan, how.json_into, gathered.store.key)
    output = Output(gathered.redactor)
    if how.format == "text":
        output.note(words)
    left_out = any(c.skipped for c in plan.changes)
    gathered.close()
    return 6 if left_out else 0


def _agreed(plan: Plan, gathered: Gathered, how: How, path: Path | None) -> bool:
    """Show the plan and ask; True when it was approved.

    Raises:
        FlowplanError: nobody can answer.
        Refused: a part of it would fail, and ``--strict`` was given.
    """
    from flowplan.schemas.plan_documents import write_plan

    if how.strict:
        refuse_findings(plan)
    if how.json_into:
        write_plan(plan, how.json_into, gathered.store.key)
    if not has_changes(plan.changes):
        return True
    output = Output()  # a plan holds tokens only, and a text that hid a guess would confirm it
    if how.format == "text":
        show_plan(plan, output, Shown(), "", to_stderr=True)
    if how.yes:
        return True
    if not can_ask():
        raise FlowplanError(
            "this plan needs approval, and there is no terminal to ask on",
            hint="read it with `flowplan show`, then apply it with --yes",
        )
    if approved("Carry out this plan?"):
        return True
    last_plan.spend(gathered.store.path)
    output.note("Not applied.")
    gathered.close()
    return False


def destroy(spec: Path | None, state: Path | None, request: Request, how: How, *, if_exists: bool) -> int:
    """Destroy everything recorded; the spec is not needed, and is only checked to be of the same project.

    Args:
        if_exists: a state that is not there is no error.

    Raises:
        StateError: there is no state, or it cannot be used.
    """
    check_format(how.format, ("text", "json"))
    if spec and not is_file(spec) and not is_stream(spec):
        raise InvalidInput(f"{spec}: there is no such file")
    request = at(request, place(state, spec))
    if not Store.exists(request.state_path):
        missing = f"there is no state {request.state_path.absolute()}, so nothing is known that could be destroyed"
        if not if_exists:
            hint = "work in the directory of the project, or name its spec or --state; --if-exists makes this no error"
            raise StateError(missing, hint=hint)
        Output().note(f"Nothing to destroy: {missing}.")
        return 0
    lock = WriterLock(request.state_path, "destroy")
    lock.acquire(how.lock_timeout)
    try:
        gathered = gather_destroy(request)
    except BaseException:
        lock.release()
        raise
    try:
        if spec:
            _same_project(spec, gathered)
        if not has_changes(gathered.plan.changes):
            Output().note(f"Nothing to destroy: the state {request.state_path.absolute()} records no run.")
            gathered.close()
            lock.release()
            return 0
        if not _agreed(gathered.plan, gathered, how, None):
            lock.release()
            return 1
        last_plan.spend(request.state_path)
    except BaseException:
        lock.release()
        gathered.close()
        raise
    return _carry_out(gathered.plan, gathered, replace(how, detach=True), lock)


def _same_project(spec: Path, gathered: Gathered) -> None:
    from flowplan.engines import read_spec
    from flowplan.schemas.errors import Refused

    project = read_spec(spec).spec.project
    if gathered.store.project not in (None, project):
        raise Refused(f"{spec} is project {project}, but the state belongs to project {gathered.store.project}")


def watch(state: Path, addresses: Sequence[str], how: How) -> int:
    """Follow what runs, without changing anything."""
    from flowplan.commands.reading import chosen, opened, refresh_statuses
    from flowplan.gather import engines_of

    check_format(how.format, ("text", "json"))
    store = opened(state)
    store.check_home()
    if any(r.status is Status.LOST for r in chosen(store.records(), addresses).values()):
        refresh_statuses(store, state, Output())  # an engine may have them after all
    engines, redactor = engines_of(store, state)
    records = chosen(store.records(), addresses)
    live = [a for a, r in records.items() if r.status.live]
    plan = Plan(store.project or "", "", store.lineage, store.serial, "", "", ())
    gathered = Gathered(plan, store, engines, redactor, {})
    outcome = _run(plan, gathered, how, WriterLock(state, "watch"), follow=live) if live else None
    ill = ("failed", "timed_out", "lost", *(() if outcome and outcome.timed_out else ("creating",)))
    bad = {a: r for a, r in chosen(store.records(), addresses).items() if r.status in ill}
    code = _report(outcome, gathered, how) if outcome else 0
    if not live:
        refresh_statuses(store, state, Output())
        Output().note("Nothing that is recorded runs.")
    gathered.close()
    return code if code else 3 if bad else 0


def _carry_out(plan: Plan, gathered: Gathered, how: How, lock: WriterLock) -> int:
    """Do it, under a lock that is held already."""
    try:
        same_engines(gathered.engines, plan)
        gathered.store.claim_project(plan.project)
        if plan.mode != "destroy":
            spec = "" if is_stream(Path(plan.spec_path)) else Path(plan.spec_path).name
            directory = gathered.spec_dir
            remember_connections(gathered.store, plan.providers, plan.secrets, directory, gathered.fingerprints, spec)
        outcome = _run(plan, gathered, how, lock)
        if not outcome.waiting and not outcome.unanswered:
            last_plan.spend(gathered.store.path)
        if plan.mode == "destroy":
            _discard(gathered)
        return _report(outcome, gathered, how)
    finally:
        lock.release()
        gathered.close()


def _discard(gathered: Gathered) -> None:
    """Remove the files of runs that are not managed any more; the ends of their outputs stay in the state."""
    managed = gathered.store.records()
    attempts = gathered.store.attempts()
    kept = {a.run_id for a in attempts if a.address in managed or a.present or not a.status.final}
    gathered.engines.discard({a.provider for a in attempts}, kept)


def _run(plan: Plan, gathered: Gathered, how: How, lock: WriterLock, follow: Sequence[str] = ()) -> Outcome:
    from flowplan.apply import carry_out
    from flowplan.outcome import Options

    output = Output(gathered.redactor)
    detach = how.detach or plan.mode == "refresh_only"  # which only records: there is nothing of its own to follow
    options = Options(how.parallelism, detach, how.wait_timeout, how.lock_timeout, how.stream)
    with interruption.finishing() as interrupted, _sink(output, how) as sink:
        if common := _common_secrets(plan, gathered.secrets):
            sink.note(
                f"warning: {', '.join(common)}: too short or too common a word to be redacted safely; what runs print "
                "may show it inside other words, or be hard to read"
            )
        return carry_out(
            plan,
            gathered.store,
            gathered.engines,
            lock,
            sink,
            options,
            secrets=gathered.secrets,
            interrupted=interrupted,
            follow=follow,
            observed=gathered.observed,
        )


def _common_secrets(plan: Plan, values: Mapping[str, str]) -> list[str]:
    """Return the sources of secrets that cannot be redacted well. A plan does not tell: it may be public."""
    used = tokens_in([change.after for change in plan.changes if change.effective]) & {*plan.secrets} & {*values}
    return sorted({plan.secrets[shown].label for shown in used if is_common(values[shown])})


@contextmanager
def _sink(output: Output, how: How) -> Iterator[Sink]:
    """Where progress goes: JSON lines, a live picture on a terminal, or plain lines."""
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


def _report(outcome: Outcome, gathered: Gathered, how: How) -> int:
    """The last words: what was done, what failed, how to come back."""
    output = Output(gathered.redactor)
    if how.format == "json":
        return outcome.exit_code
    if outcome.carried_out:
        done = ", ".join(f"{n} {_DONE.get(action, action)}" for action, n in sorted(outcome.carried_out.items()))
        output.note(f"Applied: {done}.")
    for address, why in outcome.left_out.items():
        output.note(f"left out: {address}: {why}")
    for address, why in outcome.failed.items():
        record = gathered.store.record(address)
        see = f"; see `flowplan logs {_quoted(address)}`" if record and record.started_at else ""
        output.note(f"{address}: {why}{see}")
    if outcome.waiting:
        output.note(f"not started yet: {_some(outcome.waiting)}; the next `flowplan apply` starts them")
    if outcome.unanswered:
        output.note(
            f"whether it started is not known: {_some(outcome.unanswered)}; the next `flowplan apply` finds out, "
            "and starts nothing twice"
        )
    if outcome.live and (outcome.interrupted or outcome.timed_out or outcome.errors or how.detach):
        goes = "1 run goes" if len(outcome.live) == 1 else f"{len(outcome.live)} runs go"
        output.note(f"{goes} on; come back with `flowplan watch`")
    return outcome.exit_code


def _quoted(address: str) -> str:
    return f"'{address}'" if "[" in address else address


def _some(addresses: Sequence[str]) -> str:
    shown = ", ".join(addresses[:5])
    return shown + (f" and {len(addresses) - 5} more" if len(addresses) > 5 else "")
