"""A project as a command has it open: its state, the engines of its runs, its secrets, and its spec where there is one."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from flowplan.engines import Engines, read_spec
from flowplan.given import Given, given_strings
from flowplan.output import Output
from flowplan.planner.compare.plan import Options
from flowplan.progress import shown, stage
from flowplan.resolve import lookup, resolve
from flowplan.schemas.errors import FlowplanError, InvalidInput, PlanStale, Refused, concealing
from flowplan.schemas.files import is_stream
from flowplan.schemas.plans import Plan
from flowplan.schemas.runs import scope
from flowplan.schemas.secrets import PART, Parts, Redactor, SecretSource, token, tokens_in
from flowplan.state.location import FileLocation, Location, Lock
from flowplan.state.ownership import refuse_other
from flowplan.state.store import Store, new_identity
from flowplan.wanted import Wanted

MOST_FINGERPRINTS = 1000
"""Of variables inside secrets, that a state keeps; the newest."""


class Request(NamedTuple):
    """What a command wants planned, and where.

    Attributes:
        spec: path of the spec, where one is read.
        other_state: one that is found from the working directory, while ``state`` lies beside a spec elsewhere.
        require_state: refuse to make a new state.
        environment: the one that is named, "" for none.
        asked: the provider entries whose engines are asked; None for all that matter.
    """

    state: Location = FileLocation(Path(".flowplan/state.db"))
    spec: Path = Path("flowplan.yaml")
    options: Options = Options()
    given: Given = Given()
    refresh: bool = True
    preflight: bool = True
    policies: tuple[Path, ...] = ()
    other_state: Location | None = None
    require_state: bool = False
    environment: str = ""
    asked: Collection[str] | None = None


@dataclass(frozen=True, slots=True)
class Project:
    """An open project. ``of_spec``, ``of_plan`` and ``of_state`` open one, for a ``with`` statement.

    No error that leaves the ``with`` statement holds a secret of the project.

    Attributes:
        redactor: hides the secrets, in whatever is shown.
        directory: where relative paths of secrets and connections start.
        providers: entries of the spec, the plan or the state: name -> {"type": ..., settings with tokens for secrets}.
        sources: token -> where its secret comes from; secrets: token -> value, of those that are there.
        parts: the same of variables that are only parts of secrets.
    """

    store: Store
    engines: Engines
    redactor: Redactor
    directory: Path
    providers: Mapping[str, Mapping[str, Any]]
    sources: Mapping[str, SecretSource]
    secrets: dict[str, str]
    parts: Mapping[str, str] = field(default_factory=dict)
    _wanted: Wanted | None = None

    @classmethod
    @contextmanager
    def of_spec(cls, request: Request, before_state: Callable[[], None] = lambda: None) -> Iterator[Project]:
        """Open the project of a spec; its state is made if there is none.

        Args:
            before_state: called once the spec is known to have no fault, before the state is made and anything in it or
                on an engine is looked at; a writer takes the lock then.

        Raises:
            InvalidInput, StateError, Refused: the spec, a variable, a secret or the state is not as it must be.
        """
        redactor = Redactor(request.state.secrets)
        with concealing(redactor):
            with shown():
                stage(f"reading {request.spec.name}")
                loaded = read_spec(request.spec, request.environment)
                request.state.belongs_to(loaded.spec.project, request.environment)
                born = _identity(request.state)
                wanted = Wanted.of(loaded, request.given, redactor, *born, policies=request.policies)
                if not request.state.exists():
                    _check_new(request, wanted.expansion.project)
                stage("waiting for the state")
                before_state()
            with closing(open_state(request.state, create=True, born=born)) as store:
                if (store.lineage, store.key) != born:  # another flowplan has just made or replaced it
                    identity = store.lineage, store.key
                    wanted = Wanted.of(loaded, request.given, redactor, *identity, policies=request.policies)
                project, providers, sealer = wanted.expansion.project, wanted.expansion.providers, wanted.sealer
                refuse_other(store, project, request.environment)
                parts = _parts(sealer.secrets, wanted.variables.values, store.key)
                secrets = {**parts, **sealer.values}
                redactor.add(secrets.values())
                whose = (project, request.environment)
                with closing(_engines(store, providers, loaded.directory, secrets, whose)) as engines:
                    yield cls(
                        store, engines, redactor, loaded.directory, providers, sealer.secrets, secrets, parts, wanted
                    )

    @classmethod
    @contextmanager
    def of_plan(cls, request: Request, reviewed: Plan) -> Iterator[Project]:
        """Open the project of a saved plan, with the secrets that it needs; no spec is read.

        Raises:
            PlanStale: the plan belongs to another state, or a secret is not the reviewed one.
            InvalidInput: a secret is not there.
        """
        with closing(open_state(request.state)) as store:
            if store.lineage != reviewed.lineage:
                raise PlanStale(
                    f"the plan was made for another state (lineage {reviewed.lineage}, this one is {store.lineage})",
                    hint="give the right one with --state, or plan again",
                )
            directory = _directory_of(reviewed, store)
            given = given_strings(request.given)
            sensitive = {name for source in reviewed.secrets.values() for name in source.variables}
            redactor = Redactor((given[name] for name in sensitive if name in given), inside=_recorded_parts(store))
            redactor.add(request.state.secrets)
            with concealing(redactor):
                secrets = _secrets_of(reviewed, given, directory, store.key)
                parts = _parts(reviewed.secrets, given, store.key)
                secrets = {**parts, **secrets}
                redactor.add(secrets.values())
                with closing(_engines(store, reviewed.providers, directory, secrets)) as engines:
                    yield cls(store, engines, redactor, directory, reviewed.providers, reviewed.secrets, secrets, parts)

    @classmethod
    @contextmanager
    def of_state(cls, store: Store, *, all_secrets: bool = False) -> Iterator[Project]:
        """Open the engines of what is recorded, without a spec; whoever opened ``store`` closes it.

        Args:
            all_secrets: every secret of a connection must be there; else engines that need a missing one do not answer.

        Raises:
            InvalidInput: secrets are not there.
            PlanStale: they are not what they were.
        """
        providers = store.recall("providers")
        sources = {shown: SecretSource(**source) for shown, source in store.recall("provider_secrets").items()}
        directory = Path(store.recall("spec").get("directory", "."))
        if all_secrets:
            secrets = resolve(sources, directory=directory, key=store.key)
        else:
            found = {shown: lookup(source, directory) for shown, source in sources.items()}
            secrets = {shown: value for shown, value in found.items() if value is not None}
        redactor = Redactor((*secrets.values(), *store.location.secrets), inside=_recorded_parts(store))
        with concealing(redactor), closing(_engines(store, providers, directory, secrets)) as engines:
            yield cls(store, engines, redactor, directory, providers, sources, secrets)

    @property
    def wanted(self) -> Wanted:
        """Return what the spec wants, of a project that ``of_spec`` opened."""
        assert self._wanted is not None
        return self._wanted

    def output(self) -> Output:
        """Return the streams of the command, which show no secret of the project."""
        return Output(self.redactor)

    def remember(self, spec: str = "") -> None:
        """Keep in the state what later commands need to reach the engines; of secrets only where they come from.

        Args:
            spec: the name of the spec's file, "" to keep the name that is known.
        """
        known = self.store.recall("fingerprints")
        # Of variables inside longer secrets, so that later commands find them in what runs print.
        marks = {shown.rstrip(")").rpartition(" ")[2] for shown in self.parts}
        if new := dict.fromkeys(sorted(marks.difference(known)), True):
            self.store.remember("fingerprints", dict(list({**known, **new}.items())[-MOST_FINGERPRINTS:]))
        entries = {**self.store.recall("providers"), **self.providers}
        used = tokens_in(entries)
        sources = {**self.store.recall("provider_secrets"), **{t: s._asdict() for t, s in self.sources.items()}}
        self.store.remember("providers", entries)
        self.store.remember("provider_secrets", {t: source for t, source in sources.items() if t in used})
        self.store.remember("spec", {"directory": str(self.directory), **({"name": spec} if spec else {})})


def open_state(state: Location, **how: Any) -> Store:
    """Open a state, see ``Location.open``, and say so when it was moved."""
    store = state.open(**how)
    if store.moved_from:
        Output().note(f"note: the state was moved here from {store.moved_from}")
    return store


@contextmanager
def writing(state: Location, command: str) -> Iterator[Lock]:
    """Yield the writer's lock of a state, not acquired yet; release it in the end, if it was.

    Args:
        command: what others are told of who has it.
    """
    lock = state.lock(command)
    try:
        yield lock
    finally:
        lock.release()


def _identity(state: Location) -> tuple[str, bytes]:
    """Return lineage and key of the state, or those that it will have."""
    if not state.exists():
        return new_identity()
    with closing(state.open()) as store:
        return store.lineage, store.key


def _check_new(request: Request, project: str) -> None:
    """Check that a state may be made where there is none.

    Raises:
        Refused: the user wants none, or the project has one in the working directory.
    """
    if request.require_state:
        raise Refused(
            f"there is no state {request.state.named()}, and --require-state (FLOWPLAN_REQUIRE_STATE) forbids to make one",
            hint="correct --state, restore the state, or make it once with `flowplan plan` without that option",
        )
    if request.other_state is None:
        return
    with closing(request.other_state.open(read_only=True)) as other:
        theirs, managed = other.scope, bool(other.records())
    here = request.state.named()
    if theirs == scope(project, request.environment):
        raise Refused(
            f"project {project} has a state already, {request.other_state.named()}; the state beside the spec, "
            f"{here}, would be a new one and start everything again",
            hint=f"go on with it: --state {request.other_state}; or move its directory to {request.state.beside.parent.absolute()}",
        )
    if theirs == project and managed:
        raise Refused(
            f"project {project} has a state from before it had environments, {request.other_state.named()}; that of "
            f"{request.environment}, {here}, would be a new one and start everything again",
            hint=f"`flowplan destroy --state {request.other_state}` removes what it manages; or move the file away, and its "
            "runs are left alone",
        )


def _engines(
    store: Store,
    providers: Mapping[str, Mapping[str, Any]],
    directory: Path,
    secrets: Mapping[str, str],
    whose: tuple[str, str] | None = None,
) -> Engines:
    """Return the engines of a state and of further provider entries; project and environment are the state's own, unless
    they are given.
    """
    project, environment = whose or (store.project or "", store.environment)
    return Engines(
        {**store.recall("providers"), **providers},
        lineage=store.lineage,
        runs_dir=store.location.runs_dir,
        spec_dir=directory,
        secrets=secrets,
        project=project,
        environment=environment,
        created_from=_origin_of(store.location),
    )


def _origin_of(state: Location) -> str:
    """Return ``user@host:path`` of a state, which every object that is made from it carries."""
    import getpass

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        user = str(os.getuid())
    return f"{user}@{os.uname().nodename}:{state.named()}"


def _parts(sources: Mapping[str, SecretSource], values: Mapping[str, Any], key: bytes) -> dict[str, str]:
    """Return token -> value of the variables inside longer secret strings."""
    from flowplan.planner.desired.sealing import pieces

    longer = [s for s in sources.values() if s.kind == "template"]
    found = {(piece, source.variables) for source in longer for piece in pieces(source, values)}
    return {token(PART._replace(variables=names), key, piece): piece for piece, names in found}


def _recorded_parts(store: Store) -> Parts:
    """Return what finds parts of secrets in outputs; nothing for a user who may not read the key."""
    return Parts(store.key, store.recall("fingerprints")) if store.has_key else Parts(b"", ())


def _secrets_of(reviewed: Plan, given: Mapping[str, str], directory: Path, key: bytes) -> dict[str, str]:
    """Return token -> value for every secret of a saved plan; sensitive variables are given again."""
    from flowplan.planner.desired.sealing import evaluate_template

    def template(source: SecretSource) -> str | None:
        return evaluate_template(source, given) if all(name in given for name in source.variables) else None

    return resolve(reviewed.secrets, directory=directory, key=key, template=template, changes=reviewed.changes)


def unavailable(plan: Plan, given: Given, store: Store) -> dict[str, str]:
    """Return why secrets of a plan cannot be had here, by token; those that can are left out."""
    directory, strings = _directory_of(plan, store), given_strings(given)
    missing = {}
    for token_, source in plan.secrets.items():
        try:
            _secrets_of(replace(plan, secrets={token_: source}, changes=()), strings, directory, store.key)
        except FlowplanError as error:
            faults = error.diagnostics if isinstance(error, InvalidInput) else ()
            missing[token_] = "; ".join(fault.message for fault in faults) or error.message
    return missing


def bases(state: Location) -> list[Path]:
    """Return the directories that a plan's path of a spec may be relative to: that of the state's project, and this."""
    place = state.beside.parent.resolve()
    return [*([place.parent] if place.name == ".flowplan" else []), Path.cwd()]


def _directory_of(plan: Plan, store: Store) -> Path:
    """Return the directory that the plan's relative paths start from.

    Raises:
        InvalidInput: it cannot be known, because the state lies elsewhere and the spec is not here.
    """
    last = Path(store.recall("spec").get("directory", "."))
    if not plan.spec_path:
        return last
    places = [base / plan.spec_path for base in bases(store.location)]
    known = next((place for place in [*places, last / Path(plan.spec_path).name] if place.exists()), None)
    if known is None and len(places) == 1 and not is_stream(Path(plan.spec_path)):
        raise InvalidInput(
            f"the plan's spec {plan.spec_path} is not here, and what the plan starts is relative to it",
            hint="give the command in the directory where the plan was made",
        )
    return (known or places[0]).parent
