"""From files, state and engines to a plan: reads everything that a plan is decided from, and writes nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flowplan import __version__
from flowplan.clock import timestamp
from flowplan.engines import Engines, ManifestsByType, read_spec
from flowplan.given import Given, given_strings, policies_of, variables_of
from flowplan.output import Output, concealed
from flowplan.planner.compare.argument_lengths import long_arguments
from flowplan.planner.compare.plan import Options, Situation, make_changes
from flowplan.planner.compare.replay import desired_runs, forgotten
from flowplan.progress import shown, stage
from flowplan.resolve import Secrets, lookup, resolve, warnings_of
from flowplan.schemas.errors import InvalidInput, PlanStale, ProviderError, Refused
from flowplan.schemas.files import is_stream
from flowplan.schemas.plan_documents import plan_digest
from flowplan.schemas.plans import Action, Change, Finding, Plan
from flowplan.schemas.runs import Desired, Identity, Observed, Recorded, Rendered
from flowplan.schemas.secrets import PART, Parts, Redactor, SecretSource, token, tokens_in
from flowplan.schemas.sources import Diagnostic
from flowplan.state.store import Store, new_identity

if TYPE_CHECKING:
    from flowplan.planner.compare.policies import Rule


_ABOUT_UPDATES = frozenset({"permission", "dry-run", "memory", "cpu", "network"})
"""Checks of a preflight that concern objects that are there already."""

MOST_FINGERPRINTS = 1000
"""Of variables inside secrets, that a state keeps; the newest."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a command wants planned.

    Attributes:
        other_state: one that is found from the working directory, while ``state_path`` lies beside a spec elsewhere.
        require_state: refuse to make a new state.
    """

    state_path: Path = Path(".flowplan/state.db")
    options: Options = field(default_factory=Options)
    given: Given = field(default_factory=Given)
    refresh: bool = True
    preflight: bool = True
    policies: tuple[Path, ...] = ()
    other_state: Path | None = None
    require_state: bool = False


@dataclass(slots=True)
class Gathered:
    """A plan with what it was made from, ready to be shown or carried out.

    Attributes:
        secrets: token -> value, in memory only; also of variables that are only parts of secrets.
        fingerprints: of those parts.
        spec_dir: what relative paths of secrets and connections start from.
        observed: what the engines said; the plan rests on it, and apply records it first.
    """

    plan: Plan
    store: Store
    engines: Engines
    redactor: Redactor
    secrets: dict[str, str]
    observed: Sequence[Observed] = ()
    fingerprints: frozenset[str] = frozenset()
    spec_dir: Path = Path()

    def close(self) -> None:
        """Release the state and the engines."""
        self.engines.close()
        self.store.close()


def runs_directory(state_path: Path) -> Path:
    """Where the process provider keeps its runs' files: beside the state."""
    return state_path.absolute().with_suffix(".runs")


def open_state(path: Path, **how: Any) -> Store:
    """Open a state, see ``Store.open``, and say so when it was moved."""
    store = Store.open(path, **how)
    if store.moved_from:
        Output().note(f"note: the state was moved here from {store.moved_from}")
    return store


def origin_of(state_path: Path) -> str:
    """Return ``user@host:path`` of a state, which every object that is made from it carries."""
    import getpass

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        user = str(os.getuid())
    return f"{user}@{os.uname().nodename}:{state_path.absolute()}"


@shown()
def gather_spec(request: Request, spec_path: Path, sound: Callable[[], None] = lambda: None) -> Gathered:
    """Plan a spec.

    Args:
        sound: called once the spec is known to have no fault, before the state is made, and before it and the engines
            are asked what there is; a writer takes the lock then.

    Raises:
        InvalidInput, StateError, Refused, ProviderError: as the parts say.
    """
    from flowplan.planner.desired.expand import expand
    from flowplan.planner.desired.sealing import Sealer
    from flowplan.planner.desired.variables import value_text

    stage(f"reading {spec_path.name}")
    loaded = read_spec(spec_path)
    variables = variables_of(loaded.spec, request.given, loaded.sources)
    redactor = concealed(Redactor(value_text(v.value) for v in variables.by_name.values() if v.sensitive))
    lineage, key = _identity(request.state_path)
    secrets_of = Secrets(loaded, lambda value: redactor.add([value]))  # whatever goes wrong from now on, it is not told
    sealer = Sealer(key, secrets_of)
    expansion = expand(loaded, variables, sealer, ManifestsByType(), lineage=lineage)
    secrets_of.check()
    rules = policies_of(request.policies, loaded)
    if not Store.exists(request.state_path):
        _check_new(request, expansion.project)
    stage("waiting for the state")
    sound()
    store = open_state(request.state_path, create=True, born=(lineage, key))  # a spec with faults makes no state
    if (store.lineage, store.key) != (lineage, key):  # another flowplan has just made or replaced it
        store.close()
        return gather_spec(request, spec_path, sound)
    where = Diagnostic(f"New state: {request.state_path.absolute()}", severity="info")
    _check_project(store, expansion.project)
    parts = _parts(sealer.secrets, variables.values, key)
    shown_variables = variables.document(sealer)
    secrets = {**parts, **sealer.values}
    redactor.add(secrets.values())
    entries = {**store.recall("providers"), **expansion.providers}
    engines = _engines(entries, store, request.state_path, loaded.directory, sealer.values, project=expansion.project)
    options = request.options._replace(
        moved=tuple((m.from_, m.to) for m in loaded.spec.moved),
        removed=tuple(loaded.spec.removed),
        spec_name=loaded.path.name,
    )
    decided = _decide(
        store, engines, expansion.desired, replace(request, options=options), rules, redactor, sealer.values
    )
    needed = _secrets_in(decided.changes, sealer.secrets, expansion.providers)
    absent = {shown: source for shown, source in needed.items() if shown not in sealer.values}
    plan = Plan(
        project=expansion.project,
        digest="",
        lineage=store.lineage,
        serial=store.serial,
        spec_path=_portable(spec_path, request.state_path),
        spec_digest=loaded.digest,
        changes=decided.changes,
        variables=shown_variables,
        providers=dict(expansion.providers),
        targets=decided.targets,
        secrets=needed,
        diagnostics=(
            *([] if store.last_attempts() else [where]),  # until something is recorded, so that each plan says the same
            *_other_spec(store, loaded.path),
            *expansion.diagnostics,
            *decided.diagnostics,
            *warnings_of(absent, decided.changes),
        ),
        mode=options.mode,
        refreshed=request.refresh,
        flowplan_version=__version__,
        made_at=timestamp(),
    )
    marks = _marks(parts)
    return Gathered(_digested(plan), store, engines, redactor, secrets, decided.observed, marks, loaded.directory)


def _portable(spec_path: Path, state_path: Path) -> str:
    """Return how a plan names its spec: relative to its project, so that the plan is the same in another checkout."""
    if spec_path == Path("-"):
        return "-"
    spec = spec_path.parent.resolve() / spec_path.name
    base = next((base for base in _bases(state_path) if spec.is_relative_to(base)), None)
    return str(spec.relative_to(base) if base else spec)


def _bases(state_path: Path) -> list[Path]:
    """Return the directories that a plan's path of a spec may be relative to: that of the state's project, and this."""
    place = state_path.parent.resolve()
    return [*([place.parent] if place.name == ".flowplan" else []), Path.cwd()]


def _spec_directory(plan: Plan, store: Store, state_path: Path) -> Path:
    """Return the directory that the plan's relative paths start from.

    Raises:
        InvalidInput: it cannot be known, because the state lies elsewhere and the spec is not here.
    """
    last = Path(store.recall("spec").get("directory", "."))
    if not plan.spec_path:
        return last
    places = [base / plan.spec_path for base in _bases(state_path)]
    known = next((place for place in [*places, last / Path(plan.spec_path).name] if place.exists()), None)
    if known is None and len(places) == 1 and not is_stream(Path(plan.spec_path)):
        raise InvalidInput(
            f"the plan's spec {plan.spec_path} is not here, and what the plan starts is relative to it",
            hint="give the command in the directory where the plan was made",
        )
    return (known or places[0]).parent


def _check_new(request: Request, project: str) -> None:
    """A state may be made where there is none.

    Raises:
        Refused: none is wanted, or the project has one where it lay formerly, in the working directory.
    """
    if request.require_state:
        raise Refused(
            f"there is no state {request.state_path.absolute()}, and --require-state (FLOWPLAN_REQUIRE_STATE) forbids to make one",
            hint="correct --state, restore the state, or make it once with `flowplan plan` without that option",
        )
    if request.other_state is None:
        return
    other = Store.open(request.other_state, read_only=True)
    with contextlib.closing(other):
        if other.project == project:
            raise Refused(
                f"project {project} has a state already, {request.other_state.absolute()}; the state beside the spec, "
                f"{request.state_path.absolute()}, would be a new one and start everything again",
                hint=f"go on with it: --state {request.other_state}; or move its directory to {request.state_path.parent.absolute()}",
            )


def _other_spec(store: Store, spec: Path) -> list[Diagnostic]:
    """A warning when another spec was applied to the state last: its runs are planned as removed."""
    last = store.recall("spec").get("name", spec.name)
    if last == spec.name or str(spec) == "<stdin>" or not store.records():
        return []
    message = f"this state was last applied from {last}; runs that only {last} has are planned as removed"
    hint = f"give each spec a state of its own, such as --state {store.path.with_name(spec.stem + '.db')}"
    return [Diagnostic(message, None, spec.name, hint, "warning")]


def _identity(state: Path) -> tuple[str, bytes]:
    """Lineage and key of the state, or those that it will have."""
    if not Store.exists(state):
        return new_identity()
    store = Store.open(state)
    try:
        return store.lineage, store.key
    finally:
        store.close()


@shown()
def gather_destroy(request: Request) -> Gathered:
    """Plan the destruction of everything recorded; needs no spec."""
    store = open_state(request.state_path)
    options = request.options._replace(mode="destroy")
    entries = store.recall("providers")
    sources = {t: SecretSource(**s) for t, s in store.recall("provider_secrets").items()}
    directory = Path(store.recall("spec").get("directory", "."))
    secrets = _provider_secrets(sources, directory, store.key)
    needed = tokens_in(entries)
    redactor = concealed(Redactor(secrets.values(), inside=_recorded_parts(store)))
    engines = _engines(entries, store, request.state_path, directory, secrets)
    decided = _decide(store, engines, (), replace(request, options=options), (), redactor, {})
    plan = Plan(
        project=store.project or "",
        digest="",
        lineage=store.lineage,
        serial=store.serial,
        spec_path="",
        spec_digest="",
        changes=decided.changes,
        providers=entries,
        targets=decided.targets,
        secrets={shown: source for shown, source in sorted(sources.items()) if shown in needed},
        diagnostics=decided.diagnostics,
        mode="destroy",
        refreshed=request.refresh,
        flowplan_version=__version__,
        made_at=timestamp(),
    )
    return Gathered(_digested(plan), store, engines, redactor, secrets, decided.observed, spec_dir=directory)


@shown()
def gather_plan(request: Request, reviewed: Plan) -> Gathered:
    """Plan again what a saved plan wants: its objects, today's state and engines. Reads no spec.

    Raises:
        PlanStale: the plan belongs to another state, or a secret is not the reviewed one.
        Refused: an engine is not the one that the plan was made for.
    """
    store = open_state(request.state_path)
    if store.lineage != reviewed.lineage:
        raise PlanStale(
            f"the plan was made for another state (lineage {reviewed.lineage}, this one is {store.lineage})",
            hint="give the right one with --state, or plan again",
        )
    directory = _spec_directory(reviewed, store, request.state_path)
    secrets, parts = _resolve_plan(reviewed, request.given, directory, store.key)
    secrets = {**parts, **secrets}
    redactor = concealed(Redactor(secrets.values(), inside=_recorded_parts(store)))
    entries = {**store.recall("providers"), **reviewed.providers}
    engines = _engines(entries, store, request.state_path, directory, secrets)
    if request.refresh:
        same_engines(engines, reviewed)
    options = request.options._replace(
        mode=reviewed.mode,
        removed=forgotten(reviewed),
        moved=tuple((c.moved_from, c.address) for c in reviewed.changes if c.moved_from),
        rerun=_forced(reviewed),
        allow_interrupt=tuple(c.address for c in reviewed.changes if c.effective),
        spec_name=Path(reviewed.spec_path).name,
    )
    desired = desired_runs(reviewed)
    decided = _decide(store, engines, desired, replace(request, options=options), (), redactor, {})
    plan = replace(reviewed, changes=decided.changes, serial=store.serial, targets=decided.targets)
    return Gathered(_digested(plan), store, engines, redactor, secrets, decided.observed, _marks(parts), directory)


def same_engines(engines: Engines, reviewed: Plan) -> None:
    """Refuse engines that are not those that a plan was made for.

    Raises:
        Refused: what is done would be done elsewhere than reviewed.
    """
    for name, target in reviewed.targets.items():
        engines.check_target(name, target, planned=True)


def _parts(sources: Mapping[str, SecretSource], values: Mapping[str, Any], key: bytes) -> dict[str, str]:
    """Token -> value of the variables inside longer secret strings."""
    from flowplan.planner.desired.sealing import pieces

    longer = [s for s in sources.values() if s.kind == "template"]
    found = {(piece, source.variables) for source in longer for piece in pieces(source, values)}
    return {token(replace(PART, variables=names), key, piece): piece for piece, names in found}


def _marks(parts: Mapping[str, str]) -> frozenset[str]:
    return frozenset(shown.rstrip(")").rpartition(" ")[2] for shown in parts)


def _recorded_parts(store: Store) -> Parts:
    return Parts(store.key, store.recall("fingerprints"))


def _check_project(store: Store, project: str) -> None:
    if store.project not in (None, project) and store.records():
        raise Refused(
            f"the state {store.path} belongs to project {store.project}, not {project}",
            hint="name another state with --state",
        )


def _forced(reviewed: Plan) -> tuple[str, ...]:
    return tuple(c.address for c in reviewed.changes if "requested by --rerun" in c.reasons)


def _digested(plan: Plan) -> Plan:
    return replace(plan, digest=plan_digest(plan))


def _resolve_plan(reviewed: Plan, given: Given, directory: Path, key: bytes) -> tuple[dict[str, str], dict[str, str]]:
    from flowplan.planner.desired.sealing import evaluate_template

    values = given_strings(given)
    concealed(Redactor(values[name] for name in _sensitive(reviewed) if name in values))

    def template(source: SecretSource) -> str | None:
        known = {name: values.get(name) for name in source.variables}
        return evaluate_template(source, known) if None not in known.values() else None

    changes = reviewed.changes
    secrets = resolve(reviewed.secrets, directory=directory, key=key, known={}, template=template, changes=changes)
    return secrets, _parts(reviewed.secrets, values, key)


def _sensitive(plan: Plan) -> set[str]:
    """The names of the sensitive variables that a plan rests on."""
    return {name for source in plan.secrets.values() for name in source.variables}


def _provider_secrets(sources: Mapping[str, SecretSource], directory: Path, key: bytes) -> dict[str, str]:
    return resolve(sources, directory=directory, key=key, known={}, template=lambda source: None)


def _engines(
    entries: Mapping[str, Any],
    store: Store,
    state_path: Path,
    directory: Path,
    secrets: Mapping[str, str],
    project: str | None = None,
) -> Engines:
    """Return the engines as this state sees them; the project is the state's own, unless it is given."""
    return Engines(
        entries,
        lineage=store.lineage,
        runs_dir=runs_directory(state_path),
        spec_dir=directory,
        secrets=secrets,
        project=project or store.project or "",
        created_from=origin_of(state_path),
    )


def _secrets_in(
    changes: Iterable[Change], secrets: Mapping[str, SecretSource], entries: Mapping[str, Any]
) -> dict[str, SecretSource]:
    """Only the secrets that this plan would send."""
    needed = tokens_in(dict(entries))
    for change in changes:
        if change.action in (Action.CREATE, Action.UPDATE, Action.REPLACE, Action.RERUN, Action.ADOPT):
            needed |= tokens_in(change.after)
    return {t: s for t, s in sorted(secrets.items()) if t in needed}


class _Decided(NamedTuple):
    changes: tuple[Change, ...]
    diagnostics: tuple[Diagnostic, ...]
    targets: dict[str, Any]
    observed: tuple[Observed, ...]


def _decide(
    store: Store,
    engines: Engines,
    desired: Sequence[Desired],
    request: Request,
    rules: Sequence[Rule],
    redactor: Redactor,
    secrets: Mapping[str, str],
) -> _Decided:
    stage("reading the state")
    records = store.records()
    if request.refresh:
        stage(f"asking the engines about {len(records):,} runs")
    attempts = store.last_attempts()
    desired = [run._replace(render=lru_cache(maxsize=2)(run.render)) for run in desired]
    new = [
        (run.provider, partial(run.render, attempts.get(run.address, 0) + 1))
        for run in desired
        if run.address not in records
    ]
    observed, strangers = observe(store, engines, records, new) if request.refresh else ({}, [])
    stage(f"comparing {max(len(desired), len(records)):,} runs")
    situation = Situation(
        project=engines.project,
        lineage=store.lineage,
        desired=desired,
        recorded=records,
        manifests=ManifestsByType(),
        observed=observed,
        strangers=strangers,
        attempts=attempts,
        targets=engines.targets(),
        options=request.options,
        leftovers=store.leftovers(),
    )
    decided = make_changes(situation)
    changes = decided.changes
    if request.refresh:
        for name in {change.provider for change in changes if change.effective}:
            engines.target(name)  # so that the plan says where it would be carried out
    if request.refresh and request.preflight and request.options.mode == "normal":
        stage("looking for what apply would trip over")
        changes = _preflighted(store, engines, changes, redactor)
    if request.preflight:
        changes = long_arguments(changes, secrets)
    if rules:
        from flowplan.planner.compare.policies import checked

        changes = checked(changes, rules)
    history = store.history([c.address for c in changes if c.before is not None]) if changes else {}
    changes = tuple(replace(c, history=_history(history[c.address])) if history.get(c.address) else c for c in changes)
    changes = tuple(_without_secrets(change, redactor) for change in changes)
    targets = {name: target.document() for name, target in sorted(engines.targets().items())}
    return _Decided(changes, decided.diagnostics, targets, tuple(observed.values()))


def _without_secrets(change: Change, redactor: Redactor) -> Change:
    """Return a change whose words and values from an engine hold no secret.

    What comes from the spec is left as it is: it holds tokens, and a plan that hid a guess would confirm it.
    """
    run = change.run._replace(message=redactor(change.run.message)) if change.run else None
    fields = (replace(f, before=redactor.tree(f.before)) if f.drift else f for f in change.fields)
    return replace(change, run=run, fields=tuple(fields))


def _history(ends: Sequence[tuple[str, float | None]]) -> dict[str, Any]:
    """``{"last": ["succeeded", ...], "durations": [seconds, ...]}``, newest last."""
    return {"last": [status for status, _ in ends], "durations": [d for _, d in ends if d is not None]}


def observe(
    store: Store,
    engines: Engines,
    records: Mapping[str, Recorded],
    new: Sequence[tuple[str, Callable[[], Rendered]]] | None = None,
) -> tuple[dict[str, Observed], list[Observed]]:
    """Look once at every engine: run id -> Observed, and the objects that this state never intended.

    Args:
        new: while planning, provider and rendering of every run that has no record yet.

    Raises:
        Refused: an engine is not the one that the runs were started on.
    """
    by_provider: dict[str, list[Recorded]] = {}
    for record in records.values():
        if not record.status.settled or record.image:  # whose tag may have moved
            by_provider.setdefault(record.provider, []).append(record)
        else:
            by_provider.setdefault(record.provider, [])
    places: dict[str, list[Callable[[], Rendered]]] = {}
    for name, render in new or ():
        by_provider.setdefault(name, [])
        places.setdefault(name, []).append(render)
    seen: dict[str, Observed] = {}
    strangers: list[Observed] = []
    looks: list[tuple[str, Observed]] = []
    for name, live in by_provider.items():
        for record in live[:1] or [r for r in records.values() if r.provider == name][:1]:
            engines.check_target(name, record.target, record.address)
        wanted = None if new is None else (render().objects for render in places.get(name, ()))
        try:
            looks += ((name, one) for one in engines.provider(name).observe(live, wanted))
        except ProviderError as error:
            if error.reason != "Forbidden" or any(r.provider == name for r in records.values()):
                raise
            # Nothing of ours is there yet. The preflight tells each permission that is missing.
            Output().note(
                f"warning: provider {name}: whether another state has runs of this project is not known: {error}"
            )
    # Asked after the engines: another flowplan may be starting runs, and records each before its engine has it.
    known, counted = (store.run_ids(), store.last_attempts()) if looks else (set(), {})
    for name, one in looks:
        if one.run_id in known and not one.lineage:
            seen[one.run_id] = _with_time(one, engines.now(name))
        elif one.exists and (one.lineage or not 0 < one.attempt <= counted.get(one.address, 0)):
            strangers.append(one)
    return seen, strangers


def _with_time(seen: Observed, now: datetime | None) -> Observed:
    """``seen`` with the seconds of its time limit that are used up, by the engine's clock."""
    began = seen.counts_from or seen.started_at
    if now is None or not began or not (seen.status and seen.status.live):
        return seen
    seconds = (now - datetime.fromisoformat(began)).total_seconds()
    return replace(seen, progress={**seen.progress, "seconds": max(seconds, 0.0)})


def _preflighted(store: Store, engines: Engines, changes: tuple[Change, ...], redactor: Redactor) -> tuple[Change, ...]:
    """The changes with what apply would trip over, asked of each engine in bulk."""
    from flowplan.providers.protocol import Order

    orders: dict[str, list[Order]] = {}
    for change in changes:
        if (change.action.starts or change.action in (Action.ADOPT, Action.UPDATE)) and not change.skipped:
            identity = Identity(store.project or "", store.lineage, change.address, change.attempt)
            order = Order(identity, change.name, change.after or {}, change.settings)
            orders.setdefault(change.provider, []).append(order)
    found: dict[str, list[Finding]] = {}
    updated = {change.address for change in changes if change.action is Action.UPDATE}
    for name, batch in orders.items():
        engines.target(name)
        for finding in engines.provider(name).preflight(batch):
            if finding.address in updated and not _hinders_updates(finding):
                continue
            told = finding._replace(message=redactor(finding.message), hint=redactor(finding.hint))
            found.setdefault(finding.address, []).append(told)
    return tuple(replace(c, preflight=tuple(found[c.address])) if c.address in found else c for c in changes)


def _hinders_updates(finding: Finding) -> bool:
    """What a live object trips over when it is changed; an image or a name it has already, a quota counts it already."""
    return finding.check in _ABOUT_UPDATES and finding.severity == "error" and "quota" not in finding.message


def remember_connections(
    store: Store,
    providers: Mapping[str, Any],
    secrets: Mapping[str, SecretSource],
    directory: Path,
    fingerprints: Iterable[str] = (),
    spec: str = "",
) -> None:
    """Keep what later commands need to reach the engines without the spec; of secrets only where they come from.

    Args:
        fingerprints: of variables inside longer secrets, so that later commands find them in what runs print.
        spec: the name of its file in ``directory``.
    """
    known = store.recall("fingerprints")
    if new := {mark: True for mark in sorted(fingerprints) if mark not in known}:
        store.remember("fingerprints", dict(list({**known, **new}.items())[-MOST_FINGERPRINTS:]))
    entries = {**store.recall("providers"), **providers}
    sources = {**store.recall("provider_secrets"), **{t: asdict(s) for t, s in secrets.items()}}
    used = tokens_in(entries)
    store.remember("providers", entries)
    store.remember("provider_secrets", {t: source for t, source in sources.items() if t in used})
    store.remember("spec", {"directory": str(directory), **({"name": spec} if spec else {})})


def engines_of(store: Store, state_path: Path) -> tuple[Engines, Redactor]:
    """The engines of what is recorded, without a spec; secrets of connections are resolved as far as they can be."""
    sources = {t: SecretSource(**s) for t, s in store.recall("provider_secrets").items()}
    directory = Path(store.recall("spec").get("directory", "."))
    found = {t: lookup(s, directory) for t, s in sources.items()}
    secrets = {t: v for t, v in found.items() if v is not None}
    redactor = concealed(Redactor(secrets.values(), inside=_recorded_parts(store)))
    engines = _engines(store.recall("providers"), store, state_path, directory, secrets)
    return engines, redactor
