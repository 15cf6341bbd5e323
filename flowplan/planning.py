"""From an open project to a plan: look at the engines, decide, check ahead. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flowplan import __version__, clock
from flowplan.engines import Engines, ManifestsByType
from flowplan.planner.compare.argument_lengths import long_arguments
from flowplan.planner.compare.plan import Options, Situation, make_changes
from flowplan.planner.compare.replay import desired_runs, forgotten
from flowplan.progress import shown, stage
from flowplan.project import Project, Request, bases
from flowplan.resolve import warnings_of
from flowplan.schemas.accepted import StepPhase
from flowplan.schemas.errors import ProviderError
from flowplan.schemas.notifications import channels_of
from flowplan.schemas.plan_documents import plan_digest
from flowplan.schemas.plans import Action, Change, Finding, Plan
from flowplan.schemas.runs import Desired, Identity, Observed, Recorded, Rendered
from flowplan.schemas.secrets import Redactor, SecretSource, tokens_in
from flowplan.schemas.sources import Diagnostic
from flowplan.schemas.text import by_run
from flowplan.schemas.times import seconds_between
from flowplan.state.acceptance import accepted, unbegun
from flowplan.state.store import Store

if TYPE_CHECKING:
    from flowplan.planner.compare.policies import Rule

_ABOUT_UPDATES = frozenset({"permission", "dry-run", "memory", "cpu", "network"})
"""Checks of a preflight that concern objects that are there already."""


class Planned(NamedTuple):
    """A plan, and what the engines said that it rests on; apply records that first."""

    plan: Plan
    observed: tuple[Observed, ...]


@shown()
def plan_spec(project: Project, request: Request) -> Planned:
    """Plan what the spec of a project wants."""
    wanted = project.wanted
    loaded, expansion = wanted.loaded, wanted.expansion
    options = request.options._replace(
        moved=tuple((m.from_, m.to) for m in loaded.spec.moved),
        removed=tuple(loaded.spec.removed),
        spec_name=loaded.path.name,
    )
    variables = wanted.variables.document(wanted.sealer)
    decided = _decide(project, request, options, expansion.desired, wanted.rules)
    secrets = _sent(decided.changes, project.sources, expansion.providers)
    absent = {token: source for token, source in secrets.items() if token not in project.secrets}
    diagnostics = (
        *_about_state(project.store, loaded.path),
        *expansion.diagnostics,
        *decided.diagnostics,
        *warnings_of(absent, decided.changes),
    )
    plan = replace(
        _plan(project, request, options.mode, decided, secrets),
        project=expansion.project,
        environment=loaded.environment,
        spec_path=_portable(request),
        spec_digest=loaded.digest,
        notify=channels_of(loaded.spec.notify) or None,
        variables=variables,
        diagnostics=diagnostics,
    )
    return _planned(project.store, decided, plan)


@shown()
def plan_destroy(project: Project, request: Request) -> Planned:
    """Plan the destruction of everything recorded."""
    decided = _decide(project, request, request.options._replace(mode="destroy"), desired=())
    secrets = _sent((), project.sources, project.providers)
    return _planned(project.store, decided, _plan(project, request, "destroy", decided, secrets))


@shown()
def plan_again(project: Project, request: Request, reviewed: Plan) -> Planned:
    """Plan what a saved plan wants: its objects, with the state and the engines as they are now.

    Raises:
        Refused: an engine is not the one that the plan was made for.
    """
    if request.refresh and request.asked is None:
        check_targets(project.engines, reviewed)
    options = request.options._replace(
        mode=reviewed.mode,
        removed=forgotten(reviewed),
        moved=tuple((c.moved_from, c.address) for c in reviewed.changes if c.moved_from),
        rerun=tuple(c.address for c in reviewed.changes if any("requested by --rerun" in r for r in c.reasons)),
        allow_interrupt=tuple(c.address for c in reviewed.changes if c.effective),
        spec_name=Path(reviewed.spec_path).name,
    )
    decided = _decide(project, request, options, desired_runs(reviewed))
    plan = replace(reviewed, changes=decided.changes, serial=project.store.serial, targets=decided.targets)
    return Planned(replace(plan, digest=plan_digest(plan)), decided.observed)


def nothing_planned(store: Store) -> Plan:
    """Return a plan without changes, for what follows or stops runs without one."""
    return Plan(store.project or "", "", store.lineage, store.serial, "", "", ())


def check_targets(engines: Engines, reviewed: Plan) -> None:
    """Refuse engines that are not those that a plan was made for."""
    for name, target in reviewed.targets.items():
        engines.check_target(name, target, planned=True)


# --- what a plan says beside its changes ---------------------------------------------------------------------------


def _portable(request: Request) -> str:
    """Return how a plan names its spec: relative to its project, so that the plan is the same in another checkout."""
    if request.spec == Path("-"):
        return "-"
    spec = request.spec.parent.resolve() / request.spec.name
    base = next((base for base in bases(request.state) if spec.is_relative_to(base)), None)
    return str(spec.relative_to(base) if base else spec)


def _about_state(store: Store, spec: Path) -> list[Diagnostic]:
    """Remark that a state is new, and warn when another spec was applied to it last: its runs are planned as removed."""
    if not store.last_attempts():  # until something is recorded, so that each plan says the same
        return [Diagnostic(f"New state: {store.location.named()}", severity="info")]
    last = store.recall("spec").get("name", spec.name)
    if last == spec.name or str(spec) == "<stdin>" or not store.records():
        return []
    message = f"this state was last applied from {last}; runs that only {last} has are planned as removed"
    hint = store.location.another(spec.stem)
    return [Diagnostic(message, None, spec.name, hint, "warning")]


def _superseded(store: Store, plan: Plan) -> Iterator[Diagnostic]:
    """Remark what waits of other plans, and is dropped when this one is applied; warn of what it does not start itself."""
    mine = {change.address: change.action.starts for change in plan.changes if change.effective}
    dropped: dict[str, list[str]] = {}
    for digest, step in unbegun(store) if plan.mode != "refresh_only" else ():
        waits = step.phase is StepPhase.WAITING and digest != plan.digest
        if waits and (step.address in mine or not plan.partial):
            dropped.setdefault(digest, []).append(step.address)
    for digest, other in accepted(store, dropped).items():
        who = f"by {other.by.get('user')} on {other.by.get('host')} at {other.by.get('since')}"
        named = f"plan {digest[7:19]} (applied {who})"
        gone = [address for address in dropped[digest] if not mine.get(address)]
        kept = [address for address in dropped[digest] if mine.get(address)]
        if kept:
            yield Diagnostic(
                f"takes the place of {named}, which has not begun {', '.join(by_run(kept))}", severity="info"
            )
        if gone:
            yield Diagnostic(f"drops what has not begun of {named}: {', '.join(by_run(gone))}", severity="warning")


def _sent(
    changes: Iterable[Change], sources: Mapping[str, SecretSource], providers: Mapping[str, Any]
) -> dict[str, SecretSource]:
    """Return the secrets that a plan would send to an engine."""
    used = tokens_in(providers)
    for change in changes:
        if change.action in (Action.CREATE, Action.UPDATE, Action.REPLACE, Action.RERUN, Action.ADOPT):
            used |= tokens_in(change.after)
    return {token: source for token, source in sorted(sources.items()) if token in used}


# --- deciding --------------------------------------------------------------------------------------------------------


class _Decided(NamedTuple):
    changes: tuple[Change, ...]
    diagnostics: tuple[Diagnostic, ...]
    targets: dict[str, Any]
    observed: tuple[Observed, ...]


def _plan(
    project: Project, request: Request, mode: str, decided: _Decided, secrets: Mapping[str, SecretSource]
) -> Plan:
    """Return a plan of what was decided, as one without a spec."""
    return Plan(
        project=project.store.project or "",
        environment=project.store.environment,
        digest="",
        lineage=project.store.lineage,
        serial=project.store.serial,
        spec_path="",
        spec_digest="",
        changes=decided.changes,
        providers=dict(project.providers),
        targets=decided.targets,
        secrets=secrets,
        diagnostics=decided.diagnostics,
        mode=mode,
        refreshed=request.refresh,
        flowplan_version=__version__,
        made_at=clock.now(),
        partial=bool(request.options.target or request.options.exclude),
    )


def _planned(store: Store, decided: _Decided, plan: Plan) -> Planned:
    plan = replace(plan, digest=plan_digest(plan))
    return Planned(replace(plan, diagnostics=(*plan.diagnostics, *_superseded(store, plan))), decided.observed)


def _decide(
    project: Project, request: Request, options: Options, desired: Sequence[Desired], rules: Sequence[Rule] = ()
) -> _Decided:
    engines = project.engines
    situation = _situation(project, desired, options, request)
    decided = make_changes(situation)
    changes = decided.changes
    if request.refresh:
        for name in {
            c.provider for c in changes if c.effective and (request.asked is None or c.provider in request.asked)
        }:
            engines.target(name)  # so that the plan says where it would be carried out
        if request.preflight and options.mode == "normal":
            stage("checking for what would make apply fail")
            changes = _preflighted(project, changes)
    if request.preflight:
        changes = long_arguments(changes, project.secrets)
    if rules:
        from flowplan.planner.compare.policies import checked

        changes = checked(changes, rules)
    changes = tuple(_without_secrets(change, project.redactor) for change in _with_history(project.store, changes))
    targets = {name: target.document() for name, target in sorted(engines.targets().items())}
    return _Decided(changes, decided.diagnostics, targets, tuple(situation.observed.values()))


def _situation(project: Project, desired: Sequence[Desired], options: Options, request: Request) -> Situation:
    """Read the state, and unless the request is to plan without them ask the engines."""
    stage("reading the state")
    records, attempts = project.store.records(), project.store.last_attempts()
    desired = [run._replace(render=lru_cache(maxsize=2)(run.render)) for run in desired]
    observed: Mapping[str, Observed] = {}
    strangers: Sequence[Observed] = ()
    if request.refresh:
        stage(f"asking the engines about {len(records):,} runs")
        new = [
            (run.provider, partial(run.render, attempts.get(run.address, 0) + 1))
            for run in desired
            if run.address not in records
        ]
        there = records
        if request.asked is not None:
            there = {address: record for address, record in records.items() if record.provider in request.asked}
            new = [(name, render) for name, render in new if name in request.asked]
        observed, strangers = observe(project, there, new)
    stage(f"comparing {max(len(desired), len(records)):,} runs")
    return Situation(
        project=project.engines.project,
        lineage=project.store.lineage,
        desired=desired,
        recorded=records,
        manifests=ManifestsByType(),
        observed=observed,
        strangers=strangers,
        attempts=attempts,
        targets=project.engines.targets(),
        options=options,
        leftovers=project.store.leftovers(),
    )


def _with_history(store: Store, changes: Sequence[Change]) -> Iterable[Change]:
    """Return the changes with ``{"last": ["succeeded", ...], "durations": [seconds, ...]}``, newest last."""
    history = store.history([c.address for c in changes if c.before is not None]) if changes else {}
    for change in changes:
        ends = history.get(change.address)
        if ends:
            seconds = [duration for _, duration in ends if duration is not None]
            change = replace(change, history={"last": [status for status, _ in ends], "durations": seconds})
        yield change


def _without_secrets(change: Change, redactor: Redactor) -> Change:
    """Return a change whose words and values from an engine hold no secret.

    What comes from the spec is left as it is: it holds tokens, and a plan that hid a guess would confirm it.
    """
    run = change.run._replace(message=redactor(change.run.message)) if change.run and change.run.message else change.run
    fields = tuple(f._replace(before=redactor.tree(f.before)) if f.drift else f for f in change.fields)
    return change if (run, fields) == (change.run, change.fields) else replace(change, run=run, fields=fields)


# --- looking at the engines ------------------------------------------------------------------------------------------


def observe(
    project: Project, records: Mapping[str, Recorded], new: Sequence[tuple[str, Callable[[], Rendered]]] | None = None
) -> tuple[dict[str, Observed], list[Observed]]:
    """Look once at every engine: run id -> Observed, and the objects that this state never intended.

    Args:
        new: while planning, provider and rendering of every run that has no record yet.

    Raises:
        Refused: an engine is not the one that the runs were started on.
    """
    recorded: dict[str, list[Recorded]] = {}
    for record in records.values():
        recorded.setdefault(record.provider, []).append(record)
    unborn: dict[str, list[Callable[[], Rendered]]] = {}
    for name, render in new or ():
        unborn.setdefault(name, []).append(render)
    looks: list[tuple[str, Observed]] = []
    for name in dict.fromkeys([*recorded, *unborn]):
        places = None if new is None else unborn.get(name, ())
        looks += ((name, one) for one in _looks(project, name, recorded.get(name, ()), places))
    # Asked after the engines: another flowplan may be starting runs, and records each before its engine has it.
    known, attempts = (project.store.run_ids(), project.store.last_attempts()) if looks else (set(), {})
    seen: dict[str, Observed] = {}
    strangers: list[Observed] = []
    for name, one in looks:
        if one.run_id in known and not one.lineage:
            seen[one.run_id] = _with_time(one, partial(project.engines.now, name))
        elif one.exists and (one.lineage or not 0 < one.attempt <= attempts.get(one.address, 0)):
            strangers.append(one)
    return seen, strangers


def _looks(
    project: Project, name: str, recorded: Sequence[Recorded], unborn: Iterable[Callable[[], Rendered]] | None
) -> Iterable[Observed]:
    """Ask one engine for what is live of the ``recorded`` runs, and for what lies where the ``unborn`` ones would be."""
    live = [r for r in recorded if not r.status.settled or r.image]  # the tag of an image may have moved
    for record in (live or recorded)[:1]:
        project.engines.check_target(name, record.target, record.address)
    places = None if unborn is None else (render().objects for render in unborn)
    try:
        return project.engines.provider(name).observe(live, places)
    except ProviderError as error:
        if error.reason != "Forbidden" or recorded:
            raise
        # Nothing of this state is there yet, and the preflight names each permission that is missing.
        project.output().note(
            f"warning: provider {name}: whether another state has runs of this project is not known: {error}"
        )
        return ()


def _with_time(seen: Observed, now: Callable[[], datetime | None]) -> Observed:
    """Return ``seen`` with the seconds of its time limit that are used up, by the engine's clock."""
    if not (seen.status and seen.status.live):
        return seen
    seconds = seconds_between(seen.counts_from or seen.started_at, now())
    if seconds is None:
        return seen
    return replace(seen, progress={**seen.progress, "seconds": max(seconds, 0.0)})


# --- preflight -------------------------------------------------------------------------------------------------------


def _preflighted(project: Project, changes: tuple[Change, ...]) -> tuple[Change, ...]:
    """Return the changes with what would make apply fail, asked of each engine in bulk."""
    from flowplan.providers.protocol import Order

    orders: dict[str, list[Order]] = {}
    for change in changes:
        if (change.action.starts or change.action in (Action.ADOPT, Action.UPDATE)) and not change.skipped:
            engines, lineage = project.engines, project.store.lineage
            identity = Identity(engines.project, lineage, change.address, change.attempt, engines.environment)
            order = Order(
                identity, change.name, change.after or {}, change.settings, project.secrets, change.action.starts
            )
            orders.setdefault(change.provider, []).append(order)
    for name in orders:
        project.engines.target(name)

    def ask(name: str) -> list[Finding]:
        return project.engines.provider(name).preflight(orders[name])

    told: Iterable[list[Finding]] = map(ask, orders)
    if len(orders) > 1:  # so that the registries of all engines are waited for at once
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(len(orders), "preflight") as pool:
            told = list(pool.map(ask, orders))
    found: dict[str, list[Finding]] = {}
    existing = {change.address for change in changes if change.action in (Action.ADOPT, Action.UPDATE)}
    redactor = project.redactor
    for finding in chain.from_iterable(told):
        live = finding.address in existing  # it has its image and its name already, and a quota counts it already
        hinders = finding.check in _ABOUT_UPDATES and finding.severity == "error" and "quota" not in finding.message
        if not live or hinders:
            hidden = finding._replace(message=redactor(finding.message), hint=redactor(finding.hint))
            found.setdefault(finding.address, []).append(hidden)
    return tuple(replace(c, preflight=tuple(found[c.address])) if c.address in found else c for c in changes)
