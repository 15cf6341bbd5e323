"""Making objects on the engines known to the state again (rebuild), or for the first time (import)."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flowplan.clock import timestamp
from flowplan.engines import Engines, ManifestsByType, read_spec
from flowplan.gather import origin_of, remember_connections, runs_directory
from flowplan.given import Given, variables_of
from flowplan.planner.compare.diff import changed_fields
from flowplan.planner.compare.takeover import Takeover
from flowplan.planner.manifests import content_of
from flowplan.providers.protocol import Found
from flowplan.resolve import lookup
from flowplan.schemas.errors import InvalidInput, Refused
from flowplan.schemas.runs import Desired, Recorded, Rendered, Settings, Status, run_id
from flowplan.schemas.secrets import token, tokens_in
from flowplan.schemas.sources import did_you_mean
from flowplan.state.store import Store

if TYPE_CHECKING:
    from flowplan.planner.desired.expand import Expansion
    from flowplan.planner.desired.sealing import Sealer
    from flowplan.schemas.load import LoadedSpec


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the spec wants under the lineage that the state has, and the engines it is on."""

    store: Store
    loaded: LoadedSpec
    expansion: Expansion
    sealer: Sealer
    engines: Engines

    @property
    def desired(self) -> dict[str, Desired]:
        return {one.address: one for one in self.expansion.desired}


def _wanted(store: Store, state_path: Path, spec_path: Path, given: Given) -> _Wanted:
    from flowplan.planner.desired.expand import expand
    from flowplan.planner.desired.sealing import Sealer

    loaded = read_spec(spec_path)
    variables = variables_of(loaded.spec, given, loaded.sources)
    sealer = Sealer(store.key, lambda source: lookup(source, loaded.directory))
    expansion = expand(loaded, variables, sealer, ManifestsByType(), lineage=store.lineage)
    entries = {**store.recall("providers"), **expansion.providers}
    engines = Engines(
        entries,
        lineage=store.lineage,
        runs_dir=runs_directory(state_path),
        spec_dir=loaded.directory,
        secrets=sealer.values,
        project=expansion.project,
        created_from=origin_of(state_path),
    )
    return _Wanted(store, loaded, expansion, sealer, engines)


# --- rebuild ---------------------------------------------------------------------------------------------------------


def rebuild_records(store: Store, state_path: Path, spec_path: Path, given: Given, lineage: str = "") -> list[Recorded]:
    """Record every object of the spec's project that the state does not know, or knows as something else; an empty state
    takes their lineage.

    Args:
        lineage: which one, when the engines hold objects of several.

    Returns:
        What was recorded, oldest attempt first.

    Raises:
        Refused: the objects are of several lineages, or of another one than the state's records.
        InvalidInput, ProviderError: the spec is not valid, an engine does not answer.
    """
    wanted = _wanted(store, state_path, spec_path, given)
    try:
        found = _found_everywhere(wanted)
        chosen = _lineage(store, [one for _, one in found], lineage)
        store.claim_project(wanted.expansion.project)
        if chosen != store.lineage:
            store.take_lineage(chosen)
            wanted.engines.close()
            wanted = _wanted(store, state_path, spec_path, given)
        _remember(wanted)
        known = {record.run_id: record for record in store.attempts()}
        ours = [
            (name, one) for name, one in found if one.lineage == chosen and _is_new(one, known.get(one.seen.run_id))
        ]
        records = [_again(wanted, name, one) for name, one in ours]
        for record in records:
            store.add(record)
        return records
    finally:
        wanted.engines.close()


def _is_new(found: Found, known: Recorded | None) -> bool:
    """Return True for an object that the state knows nothing of, and for one that is not what the state meant to create."""
    if known is None or known.status is not Status.CREATING:
        return known is None
    return found.seen.content != content_of(known.objects, ManifestsByType()[known.type])


def _found_everywhere(wanted: _Wanted) -> list[tuple[str, Found]]:
    """(provider entry, object) of the project, each object once, under the entry that its run has in the spec."""
    desired = wanted.desired
    by_provider: dict[str, list[Desired]] = {name: [] for name in wanted.expansion.providers}
    for run in desired.values():
        by_provider.setdefault(run.provider, []).append(run)
    found: dict[tuple[str, str], tuple[str, Found]] = {}
    for name, runs in by_provider.items():
        objects = [run.render(1).objects for run in runs]
        for one in wanted.engines.provider(name).find(wanted.expansion.project, objects):
            key = (one.lineage, one.seen.run_id)
            named = desired.get(one.seen.address)
            if one.seen.exists and one.seen.run_id and (key not in found or (named and named.provider == name)):
                found[key] = (name, one)
    return sorted(found.values(), key=lambda pair: (pair[1].seen.address, pair[1].seen.attempt))


def _lineage(store: Store, found: Sequence[Found], wished: str) -> str:
    """The lineage to rebuild: that of the state's own records, the wished one, or the only one that there is."""
    there = Counter(one.lineage for one in found if _is_uuid(one.lineage))
    if wished:
        if wished not in there:
            raise InvalidInput(f"nothing on the engines has lineage {wished}", hint=_choices(there))
        return wished
    if store.run_ids() or not there or store.lineage in there:
        return store.lineage
    if len(there) > 1:
        raise Refused(
            f"the engines hold runs of this project from {len(there)} states, which are not to be mixed",
            hint=f"choose one with --lineage: {_choices(there)}",
        )
    return next(iter(there))


def _choices(there: Mapping[str, int]) -> str:
    shown = ", ".join(f"{lineage} ({n} runs)" for lineage, n in sorted(there.items(), key=lambda item: -item[1]))
    return shown or "there are none of this project"


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _again(wanted: _Wanted, name: str, found: Found) -> Recorded:
    """Return the record of an object that this lineage made: what ran, never what the spec wants by now.

    What cannot be known counts as not done: such a record holds only what is certain, so that the next plan differs.
    """
    seen = found.seen
    desired = wanted.desired.get(seen.address)
    at_home = desired is not None and _is_at(wanted.store.lineage, found)
    if desired is None or not at_home or desired.type != wanted.engines.type_of(name):
        settings = Settings(seen.address.partition("[")[0])
        return _record(wanted, name, found, Rendered(found.bare, seen.name, seen.run_id, seen.attempt), settings)
    rendered, manifests = desired.render(seen.attempt), ManifestsByType()[desired.type]
    settings = replace(desired.settings, triggers={})  # no engine knows what they were
    if seen.content and seen.content == content_of(rendered.objects, manifests):
        ran = rendered
    elif found.applied is not None:
        known = Takeover(rendered, manifests, wanted.sealer.values)
        ran = rendered._replace(objects=known.resealed(found.applied, found.objects))
    else:
        ran = _taken(wanted, desired, rendered, found)
        hidden = not changed_fields(ran.objects, rendered.objects, manifests)
        if seen.content and hidden and not tokens_in(rendered.objects):
            ran = rendered._replace(objects=found.bare)  # it was made of something else, in a way that cannot be seen
    return _record(wanted, name, found, ran, settings)


def _is_at(lineage: str, found: Found) -> bool:
    return found.seen.run_id == run_id(lineage, found.seen.address, found.seen.attempt)


# --- import ----------------------------------------------------------------------------------------------------------


def import_object(
    store: Store, state_path: Path, spec_path: Path, given: Given, address: str, object_id: str
) -> Recorded:
    """Record an object that somebody else made as the next attempt at ``address``; it is not touched.

    Raises:
        InvalidInput: the spec has no such run, or one is recorded there.
        Refused: the object is managed already, by this state or another.
        ProviderError: there is no such object.
    """
    wanted = _wanted(store, state_path, spec_path, given)
    try:
        desired = _importable(wanted, address)
        found = wanted.engines.provider(desired.provider).describe(object_id)
        _refuse_managed(wanted, found)
        store.claim_project(wanted.expansion.project)
        attempt = store.last_attempts().get(address, 0) + 1
        taken = _taken(wanted, desired, desired.render(attempt), found)
        record = _record(wanted, desired.provider, found, taken, desired.settings, address)
        _remember(wanted)
        store.add(record)
        return record
    finally:
        wanted.engines.close()


def _importable(wanted: _Wanted, address: str) -> Desired:
    desired = wanted.desired.get(address)
    if desired is None:
        cells = [known for known in wanted.desired if known.startswith(f"{address}[")]
        hint = f"name one cell, for example '{cells[0]}'" if cells else did_you_mean(address, wanted.desired)
        raise InvalidInput(
            f"{wanted.loaded.path} has no run {address}", hint=hint or "write the run first, then import the object"
        )
    if wanted.store.record(address):
        raise InvalidInput(
            f"something is recorded at {address} already", hint=f"`flowplan state rm {address}` forgets it"
        )
    return desired


def _refuse_managed(wanted: _Wanted, found: Found) -> None:
    seen = found.seen
    if found.lineage == wanted.store.lineage:
        raise Refused(
            f"{seen.name} was made by this state, as {seen.address}", hint="`flowplan state rebuild` records it again"
        )
    if found.lineage:
        raise Refused(
            f"{seen.name} belongs to another state (project {found.project}, lineage {found.lineage})",
            hint="destroy it there, or forget it there and remove its labels",
        )
    for record in wanted.store.records().values():
        if record.infrastructure_id == seen.infrastructure_id and record.present:
            raise Refused(f"{seen.name} is managed already, at {record.address}")


# --- both ------------------------------------------------------------------------------------------------------------


def _taken(wanted: _Wanted, desired: Desired, rendered: Rendered, found: Found) -> Rendered:
    """The rendered attempt with the live values where they differ."""

    def sealed(shown: str, value: str) -> str:
        return token(wanted.sealer.secrets[shown], wanted.store.key, value)

    manifests = ManifestsByType()[desired.type]
    return rendered._replace(objects=Takeover(rendered, manifests, wanted.sealer.values, sealed).objects(found.objects))


def _record(
    wanted: _Wanted, name: str, found: Found, rendered: Rendered, settings: Settings, address: str = ""
) -> Recorded:
    seen = found.seen
    return Recorded(
        address=address or seen.address,
        provider=name,
        type=wanted.engines.type_of(name),
        target=wanted.engines.target(name).document(),
        attempt=rendered.attempt,
        run_id=rendered.run_id,
        name=seen.name or rendered.name,
        objects=rendered.objects,
        settings=settings,
        status=seen.status or Status.PENDING,
        reason=seen.reason,
        exit_code=seen.exit_code,
        attempts=seen.attempts,
        handle=seen.handle,
        infrastructure_id=seen.infrastructure_id,
        created_at=seen.started_at or timestamp(),
        started_at=seen.started_at,
        finished_at=seen.finished_at,
        image=seen.image,
    )


def _remember(wanted: _Wanted) -> None:
    remember_connections(wanted.store, wanted.expansion.providers, wanted.sealer.secrets, wanted.loaded.directory)
