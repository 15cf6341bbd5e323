"""Making objects on the engines known to the state again (rebuild), or for the first time (import)."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from flowplan import clock
from flowplan.engines import ManifestsByType
from flowplan.planner.compare.diff import changed_fields
from flowplan.planner.compare.takeover import Takeover, with_all
from flowplan.planner.manifests import content_of, traits
from flowplan.project import Project, Request
from flowplan.providers.protocol import Found
from flowplan.schemas.errors import InvalidInput, Refused
from flowplan.schemas.runs import Desired, Recorded, Rendered, Settings, Status, run_id
from flowplan.schemas.secrets import token, tokens_in
from flowplan.schemas.sources import did_you_mean
from flowplan.state.ownership import claim_project, take_lineage
from flowplan.state.store import Store

# --- rebuild ---------------------------------------------------------------------------------------------------------


def rebuild(request: Request, lineage: str, before_state: Callable[[], None]) -> list[Recorded]:
    """Record every object of the spec's project that the state does not know, or knows as something else.

    A state without attempts takes the lineage of the objects.

    Args:
        lineage: which one, when the engines hold objects of several.
        before_state: see ``Project.of_spec``.

    Returns:
        What was recorded, oldest attempt first.

    Raises:
        Refused: the objects are of several lineages, or of another one than the state's records.
        InvalidInput, ProviderError: the spec is not valid, an engine does not answer.
    """
    with Project.of_spec(request, before_state) as project:
        found = _found_everywhere(project)
        chosen = _lineage(project.store, [one for _, one in found], lineage)
        claim_project(project.store, project.engines.project, project.engines.environment)
        if chosen == project.store.lineage:
            return _recorded(project, found)
        take_lineage(project.store, chosen)
    with Project.of_spec(request) as project:  # names and run ids are other ones under another lineage
        return _recorded(project, found)


def _recorded(project: Project, found: Sequence[tuple[str, Found]]) -> list[Recorded]:
    """Record the objects of the state's lineage that it does not know."""
    project.remember()
    known = {record.run_id: record for record in project.store.attempts()}
    ours = [(name, one) for name, one in found if one.lineage == project.store.lineage]
    records = []
    for name, one in ours:
        record = known.get(one.seen.run_id)
        if record is not None:
            intended = content_of(record.objects, ManifestsByType()[record.type])
            if record.status is not Status.CREATING or one.seen.content == intended:
                continue
        # It is not known, or not what the state meant to create under this run id.
        records.append(_again(project, name, one))
    project.store.add(records)
    return records


def _found_everywhere(project: Project) -> list[tuple[str, Found]]:
    """Return (provider entry, object) of the project, each object once, under the entry that its run has in the spec."""
    wanted = project.wanted
    by_provider: dict[str, list[Desired]] = {name: [] for name in project.providers}
    for run in wanted.runs.values():
        by_provider.setdefault(run.provider, []).append(run)
    found: dict[tuple[str, str], tuple[str, Found]] = {}
    for name, runs in by_provider.items():
        objects = [run.render(1).objects for run in runs]
        for one in project.engines.provider(name).find(wanted.expansion.project, objects):
            key = (one.lineage, one.seen.run_id)
            named = wanted.runs.get(one.seen.address)
            if one.seen.exists and one.seen.run_id and (key not in found or (named and named.provider == name)):
                found[key] = (name, one)
    return sorted(found.values(), key=lambda pair: (pair[1].seen.address, pair[1].seen.attempt))


def _lineage(store: Store, found: Sequence[Found], wished: str) -> str:
    """Return the lineage to rebuild: that of the state's own records, the wished one, or the only one that there is."""
    there = Counter(one.lineage for one in found if _is_uuid(one.lineage))
    if wished:
        if wished not in there:
            raise InvalidInput(f"nothing on the engines has lineage {wished}", hint=_choices(there))
        return wished
    if store.run_ids() or not there or store.lineage in there:
        return store.lineage
    if len(there) > 1:
        raise Refused(
            f"the engines hold runs of this project from {len(there)} states",
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


def _again(project: Project, name: str, found: Found) -> Recorded:
    """Return the record of an object that this lineage made: what ran, never what the spec wants by now.

    What cannot be known counts as not done: such a record holds only what is certain, so that the next plan differs.
    """
    seen = found.seen
    wanted = project.wanted
    desired = wanted.runs.get(seen.address)
    at_home = seen.run_id == run_id(project.store.lineage, seen.address, seen.attempt)
    if desired is None or not at_home or desired.type != project.engines.type_of(name):
        settings = Settings(seen.address.partition("[")[0])
        return _record(project, name, found, Rendered(found.bare, seen.name, seen.run_id, seen.attempt), settings)
    rendered, manifests = desired.render(seen.attempt), ManifestsByType()[desired.type]
    settings = replace(desired.settings, triggers={})  # no engine knows what they were
    if seen.content and seen.content == content_of(rendered.objects, manifests):
        ran = rendered
    elif found.applied is not None:
        known = Takeover(rendered, manifests, wanted.sealer.values)
        ran = rendered._replace(objects=known.resealed(found.applied, found.objects))
    else:
        ran = _taken(project, desired, rendered, found)
        hidden = not changed_fields(ran.objects, rendered.objects, manifests)
        if seen.content and hidden and not tokens_in(rendered.objects):
            ran = rendered._replace(objects=found.bare)  # it was made of something else, in a way that cannot be seen
    return _record(project, name, found, ran, settings)


# --- import ----------------------------------------------------------------------------------------------------------


def import_object(project: Project, address: str, object_id: str) -> Recorded:
    """Record an object that flowplan did not make as the next attempt at ``address``; it is not touched.

    Raises:
        InvalidInput: the spec has no such run, or one is recorded there.
        Refused: the object is managed already, by this state or another.
        ProviderError: there is no such object.
    """
    store = project.store
    desired = _importable(project, address)
    found = project.engines.provider(desired.provider).describe(object_id)
    _refuse_managed(store, found)
    claim_project(store, project.engines.project, project.engines.environment)
    taken = _taken(project, desired, desired.render(store.last_attempts().get(address, 0) + 1), found)
    if found.objects is not None:  # what the spec does not say is a difference too
        asked = traits(ManifestsByType()[desired.type]).asked(found.objects)
        taken = taken._replace(objects={k: with_all(one, asked.get(k)) for k, one in taken.objects.items()})
    record = _record(project, desired.provider, found, taken, desired.settings, address)
    project.remember()
    store.add([record])
    return record


def _importable(project: Project, address: str) -> Desired:
    wanted = project.wanted
    desired = wanted.runs.get(address)
    if desired is None:
        cells = [known for known in wanted.runs if known.startswith(f"{address}[")]
        hint = f"name one cell, for example '{cells[0]}'" if cells else did_you_mean(address, wanted.runs)
        raise InvalidInput(
            f"{wanted.loaded.path} has no run {address}", hint=hint or "write the run first, then import the object"
        )
    if project.store.record(address):
        raise InvalidInput(
            f"something is recorded at {address} already", hint=f"`flowplan state rm {address}` forgets it"
        )
    return desired


def _refuse_managed(store: Store, found: Found) -> None:
    seen = found.seen
    if found.lineage == store.lineage:
        raise Refused(
            f"{seen.name} was made by this state, as {seen.address}", hint="`flowplan state rebuild` records it again"
        )
    if found.lineage:
        raise Refused(
            f"{seen.name} belongs to another state (project {found.project}, lineage {found.lineage})",
            hint="destroy it there, or forget it there and remove its labels",
        )
    for record in store.records().values():
        if record.infrastructure_id == seen.infrastructure_id and record.present:
            raise Refused(f"{seen.name} is managed already, at {record.address}")


# --- both ------------------------------------------------------------------------------------------------------------


def _taken(project: Project, desired: Desired, rendered: Rendered, found: Found) -> Rendered:
    """Return the rendered attempt with the live values where they differ."""

    def sealed(shown: str, value: str) -> str:
        return token(project.sources[shown], project.store.key, value)

    takeover = Takeover(rendered, ManifestsByType()[desired.type], project.wanted.sealer.values, sealed)
    return rendered._replace(objects=takeover.objects(found.objects))


def _record(
    project: Project, name: str, found: Found, rendered: Rendered, settings: Settings, address: str = ""
) -> Recorded:
    seen = found.seen
    return Recorded(
        address=address or seen.address,
        provider=name,
        type=project.engines.type_of(name),
        target=project.engines.target(name).document(),
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
        created_at=seen.started_at or clock.now(),
        started_at=seen.started_at,
        finished_at=seen.finished_at,
        image=seen.image,
    )
