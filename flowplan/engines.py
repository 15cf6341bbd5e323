"""Provider types, and the connections of a project: each engine is connected once, when it is first needed."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from flowplan.planner.manifests import traits
from flowplan.schemas.errors import InvalidInput, Refused
from flowplan.schemas.kinds import Kind, Kinds
from flowplan.schemas.runs import Recorded, Target
from flowplan.schemas.secrets import reveal
from flowplan.schemas.sources import did_you_mean

if TYPE_CHECKING:
    from flowplan.planner.manifests import Manifests
    from flowplan.providers.protocol import Keeper, Provider
    from flowplan.schemas.composition import SpecFiles
    from flowplan.schemas.load import LoadedSpec

ENTRY_POINTS = "flowplan.providers"
"""The group of entry points of installed providers."""


class ProviderType(NamedTuple):
    """The places of the two halves of a provider type, each as ``module`` or ``module:attribute``."""

    manifests: str
    connect: str


BUILT_IN = {
    "process": ProviderType("flowplan.planner.manifests.process", "flowplan.providers.process:connect"),
    "docker": ProviderType("flowplan.planner.manifests.docker", "flowplan.providers.docker:connect"),
    "kubernetes": ProviderType("flowplan.planner.manifests.kubernetes", "flowplan.providers.kubernetes:connect"),
    "slurm": ProviderType("flowplan.planner.manifests.slurm", "flowplan.providers.slurm:connect"),
}
"""The types that come with flowplan. They are no entry points, because reading those takes 40 ms at each start."""


@cache
def installed() -> dict[str, ProviderType]:
    """Return the provider types that users installed; the names of the built-in ones are taken."""
    from importlib.metadata import entry_points

    found = {}
    for point in entry_points(group=ENTRY_POINTS):
        at = f"{point.module}:{point.attr}." if point.attr else f"{point.module}:"
        found[point.name] = ProviderType(f"{at}manifests", f"{at}connect")
    return {name: where for name, where in found.items() if name not in BUILT_IN}


def provider_type(name: str) -> ProviderType:
    """Return a provider type by its name."""
    found = BUILT_IN.get(name) or installed().get(name)
    if found is None:
        known = [*BUILT_IN, *installed()]
        hint = did_you_mean(name, known) or f"known types are {', '.join(known)}"
        raise InvalidInput(f'unknown provider type "{name}"', hint=hint)
    return found


@cache
def _load(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    try:
        found = importlib.import_module(module)
        return attrgetter(attribute)(found) if attribute else found
    except (ImportError, AttributeError) as error:
        raise InvalidInput(f"the provider {reference} cannot be loaded: {error}", hint="install it anew") from error


class ManifestsByType(Mapping[str, "Manifests"]):
    """Provider type -> its pure half, imported on first use."""

    def __getitem__(self, name: str) -> Manifests:
        return cast("Manifests", _load(provider_type(name).manifests))

    def __contains__(self, name: object) -> bool:
        return name in BUILT_IN or name in installed()

    def __iter__(self) -> Iterator[str]:
        return iter((*BUILT_IN, *installed()))

    def __len__(self) -> int:
        return len(BUILT_IN) + len(installed())


def kinds_of(types: Iterable[str]) -> Kinds:
    """Return how people read the objects of provider types; those of a type that is not installed here are left out."""
    manifests, kinds = ManifestsByType(), dict[str, Kind]()
    for name in sorted(set(types)):
        if name in manifests:
            kinds |= traits(manifests[name]).KINDS
    return kinds


def read_spec(path: Path, environment: str = "") -> LoadedSpec:
    """Return a spec in an environment, see ``composed``."""
    from flowplan.schemas.composition import read_files

    return composed(read_files(path), environment)


def composed(read: SpecFiles, environment: str) -> LoadedSpec:
    """Return a spec that was read, also with the blocks of installed providers, which are looked for when it is not valid
    without.

    Raises:
        InvalidInput: every fault at once; or the environment is none of the spec's, or missing.
    """
    from flowplan.schemas.load import load

    try:
        return load(read, environment=environment)
    except InvalidInput:
        if not installed():
            raise
        return load(read, environment=environment, provider_types=dict.fromkeys(installed()))


@dataclass(eq=False, repr=False)
class Engines:
    """The engines of one project, by provider entry name.

    Attributes:
        entries: entry name -> {"type": ..., connection settings}; secrets in them as tokens.
        secrets: token -> value.
        project: of the spec or the state, "" while it is not known; environment: "" where there is none.
        created_from: ``user@host:path`` of the state, for ``Context``.
        connected: the connections that there are, by entry name.
    """

    entries: Mapping[str, Mapping[str, Any]]
    _: KW_ONLY
    lineage: str
    runs_dir: Path
    spec_dir: Path
    secrets: Mapping[str, str] = field(default_factory=dict)
    project: str = ""
    environment: str = ""
    created_from: str = ""
    connected: dict[str, Provider] = field(default_factory=dict)
    _targets: dict[str, Target] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _manifests: ManifestsByType = field(default_factory=ManifestsByType, init=False)

    def __contains__(self, name: str) -> bool:
        return name in self.entries or name in BUILT_IN

    def type_of(self, name: str) -> str:
        """Return the provider type of an entry."""
        return str(self.entries.get(name, {}).get("type", name))

    def provider(self, name: str) -> Provider:
        """Return the connection of an entry, made at the first call."""
        from flowplan.providers.protocol import Context

        with self._lock:
            if name not in self.connected:
                settings = {k: v for k, v in self.entries.get(name, {}).items() if k != "type"}
                told = reveal(settings, self.secrets)
                whose = self.project, self.created_from, self.environment
                context = Context(self.lineage, self.runs_dir, told, self.spec_dir, *whose)
                self.connected[name] = _load(provider_type(self.type_of(name)).connect)(context)
            return self.connected[name]

    def target(self, name: str) -> Target:
        """Return the identity of the engine behind an entry; it is asked once."""
        if name not in self._targets:
            self._targets[name] = self.provider(name).target()
        return self._targets[name]

    def now(self, name: str) -> datetime | None:
        """Return the time by the clock of the engine behind an entry, without a request; None while it is unknown."""
        from flowplan.providers.protocol import Timekeeper

        provider = self.connected.get(name)
        return provider.now() if isinstance(provider, Timekeeper) else datetime.now(UTC)

    def targets(self) -> dict[str, Target]:
        """Return the identities that were asked for."""
        return dict(self._targets)

    def check_target(self, name: str, known: Mapping[str, str], address: str = "", *, planned: bool = False) -> None:
        """Refuse an engine that is not the one that a record was made on, or that a plan was made for."""
        from flowplan.providers.protocol import Roaming

        now = self.target(name)
        if not planned and isinstance(self.provider(name), Roaming):
            return  # ``observe`` says of each run where it is
        if not known or known.get("id") in (None, "", now.id):
            return
        if planned:
            made = "the plan was made for"
            hint = "nothing was done; point the provider at that engine, or plan and review again"
        else:
            made = "the run was started on"
            hint = "point the provider at the engine of the run, or give the new engine an entry of its own under `providers:`"
        word = traits(self._manifests[self.type_of(name)]).ENGINE
        other = f"{known.get('label') or known.get('id')}, which is another {word}"
        raise Refused(f"provider {name} is now {now.label or now.id}, but {made} {other}", hint=hint, address=address)

    def keeps_timeout(self, record: Recorded) -> bool:
        """Return whether the engine of a run ends it at its ``timeout``; else whoever follows the run has to.

        No run of an engine that is not connected yet is ended from here: nothing has been seen of it.
        """
        from flowplan.providers.protocol import TimeoutKeeper

        provider = self.connected.get(record.provider)
        return provider is None or (isinstance(provider, TimeoutKeeper) and provider.keeps_timeout(record))

    def discard(self, names: Iterable[str], known: Collection[str]) -> int:
        """Remove the files that providers keep of removed attempts, except of the ``known`` run ids; return their bytes.

        An engine whose provider keeps none is not connected for that.
        """
        size = 0
        for name in filter(self.keeps_files, sorted(set(names))):
            size += cast("Keeper", self.provider(name)).discard(known)
        return size

    def keeps_files(self, name: str) -> bool:
        """Return whether the output of a run can be read after its end, whatever becomes of the run."""
        type_name = self.type_of(name)
        return type_name in self._manifests and traits(self._manifests[type_name]).KEEPS_FILES

    def close(self) -> None:
        """Release all connections."""
        for provider in self.connected.values():
            provider.close()
