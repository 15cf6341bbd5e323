"""The provider types and the open connections: every engine is connected to once, when it is first needed."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flowplan.clock import SteadyClock
from flowplan.schemas.errors import InvalidInput, Refused
from flowplan.schemas.runs import Recorded, Target
from flowplan.schemas.secrets import reveal
from flowplan.schemas.sources import did_you_mean

if TYPE_CHECKING:
    from flowplan.planner.manifests import Manifests
    from flowplan.providers.protocol import Provider
    from flowplan.schemas.load import LoadedSpec

BUILT_IN = ("process", "docker", "kubernetes")
ENTRY_POINTS = "flowplan.providers"


class ManifestsByType(Mapping[str, "Manifests"]):
    """Provider type -> its pure half, imported when it is first asked for."""

    def __init__(self) -> None:
        self._loaded: dict[str, Manifests] = {}

    def __getitem__(self, type_name: str) -> Manifests:
        if type_name not in self._loaded:
            self._loaded[type_name] = _manifests(type_name)
        return self._loaded[type_name]

    def __contains__(self, type_name: object) -> bool:
        return type_name in BUILT_IN or type_name in plugins()

    def __iter__(self) -> Iterator[str]:
        return iter((*BUILT_IN, *plugins()))

    def __len__(self) -> int:
        return len(BUILT_IN) + len(plugins())


def _manifests(type_name: str) -> Manifests:
    if type_name in BUILT_IN:
        return cast("Manifests", importlib.import_module(f"flowplan.planner.manifests.{type_name}"))
    return cast("Manifests", _plugin(type_name).manifests)


_plugins: dict[str, Any] | None = None


def plugins() -> dict[str, Any]:
    """Entry point name -> entry point, of the providers that users installed."""
    global _plugins
    if _plugins is None:
        from importlib.metadata import entry_points

        _plugins = {e.name: e for e in entry_points(group=ENTRY_POINTS) if e.name not in BUILT_IN}
    return _plugins


def read_spec(path: Path) -> LoadedSpec:
    """A spec, also with the blocks of installed providers; they are looked for only when it is not valid without them.

    Raises:
        InvalidInput: every fault at once.
    """
    from flowplan.schemas.load import load_spec

    try:
        return load_spec(path)
    except InvalidInput:
        if not plugins():
            raise
        return load_spec(path, provider_types=dict.fromkeys(plugins()))


def _plugin(type_name: str) -> Any:
    """The object of a third party: it has ``manifests`` (the pure half) and ``connect`` (the doing half).

    Raises:
        InvalidInput: no such provider type is installed.
    """
    found = plugins()
    if type_name not in found:
        known = [*BUILT_IN, *found]
        hint = did_you_mean(type_name, known) or f"known types are {', '.join(known)}"
        raise InvalidInput(f'unknown provider type "{type_name}"', hint=hint)
    return found[type_name].load()


def _connect(type_name: str) -> Any:
    if type_name in BUILT_IN:
        return importlib.import_module(f"flowplan.providers.{type_name}").connect
    return _plugin(type_name).connect


class Engines:
    """The engines of one project, by provider entry name.

    Args:
        entries: entry name -> {"type": ..., connection settings}; secrets in them as tokens.
        secrets: token -> value.
        project: of the spec or the state, "" while it is not known.
        created_from: what the objects made here say of where they come from.
    """

    def __init__(
        self,
        entries: Mapping[str, Mapping[str, Any]],
        *,
        lineage: str,
        runs_dir: Path,
        spec_dir: Path,
        secrets: Mapping[str, str] | None = None,
        project: str = "",
        created_from: str = "",
    ) -> None:
        self.project = project
        self._created_from = created_from
        self._entries = dict(entries)
        self._lineage = lineage
        self._runs_dir = runs_dir
        self._spec_dir = spec_dir
        self._secrets = secrets or {}
        self._providers: dict[str, Provider] = {}
        self._targets: dict[str, Target] = {}
        self._lock = threading.Lock()
        self._clock = SteadyClock()

    def __contains__(self, name: str) -> bool:
        return name in self._entries or name in BUILT_IN

    def type_of(self, name: str) -> str:
        """The provider type of an entry."""
        return str(self._entries.get(name, {}).get("type", name))

    def provider(self, name: str) -> Provider:
        """The connection of an entry; made at the first call."""
        from flowplan.providers.protocol import Context

        with self._lock:
            if name not in self._providers:
                settings = {k: v for k, v in self._entries.get(name, {}).items() if k != "type"}
                context = Context(
                    self._lineage,
                    self._runs_dir,
                    reveal(settings, self._secrets),
                    self._spec_dir,
                    self.project,
                    self._created_from,
                )
                self._providers[name] = _connect(self.type_of(name))(context)
            return self._providers[name]

    def target(self, name: str) -> Target:
        """The identity of the engine behind an entry; asked once."""
        if name not in self._targets:
            self._targets[name] = self.provider(name).target()
        return self._targets[name]

    def now(self, name: str) -> datetime | None:
        """The time by the clock of the engine behind an entry, without asking it; None while nobody knows."""
        from flowplan.providers.protocol import Timekeeper

        provider = self._providers.get(name)
        return provider.now() if isinstance(provider, Timekeeper) else self._clock.now()

    def targets(self) -> dict[str, Target]:
        """The identities that were asked for."""
        return dict(self._targets)

    def check_target(self, name: str, known: Mapping[str, str], address: str = "", *, planned: bool = False) -> None:
        """Refuse an engine that is not the one that a record was made on, or that a plan was made for.

        Raises:
            Refused: the identities differ.
        """
        from flowplan.providers.protocol import Roaming

        now = self.target(name)
        if not planned and isinstance(self.provider(name), Roaming):
            return  # it tells of each run where that is
        if known and known.get("id") not in (None, "", now.id):
            hint = "point the provider at the engine of the run, or give the new engine an entry of its own under `providers:`"
            raise Refused(
                f"provider {name} is now {now.label or now.id}, but "
                f"{'the plan was made for' if planned else 'the run was started on'} "
                f"{known.get('label') or known.get('id')}, which is another {_engine_word(now.type)}",
                hint="nothing was done; point the provider at that engine, or plan and review again"
                if planned
                else hint,
                address=address,
            )

    def keeps_timeout(self, record: Recorded) -> bool:
        """True when the engine of a run ends it at its ``timeout``; what it does not, whoever follows the run has to."""
        from flowplan.providers.protocol import TimeoutKeeper

        provider = self._providers.get(record.provider)
        kept: frozenset[str] = getattr(_manifests(record.type), "KEPT_BY_ENGINE", frozenset())
        return "timeout" in kept and (not isinstance(provider, TimeoutKeeper) or provider.keeps_timeout(record))

    def discard(self, names: Iterable[str], known: Collection[str]) -> int:
        """Remove the files that providers keep of removed attempts, except of the ``known`` run ids; return the bytes of it."""
        from flowplan.providers.protocol import Keeper

        kept = (
            self.provider(name)
            for name in sorted(set(names))
            if self.type_of(name) == "process" or name in self._providers
        )
        return sum(provider.discard(known) for provider in kept if isinstance(provider, Keeper))

    def close(self) -> None:
        """Release all connections."""
        for provider in self._providers.values():
            provider.close()


def _engine_word(type_name: str) -> str:
    return {"process": "host", "docker": "Docker engine", "kubernetes": "cluster"}.get(type_name, "engine")
