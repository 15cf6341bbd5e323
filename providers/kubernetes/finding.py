"""Finding Jobs again: those of a project by their labels, and any other by its name; and what makes a foreign one ours."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flowplan.providers.kubernetes.jobs import jobs_path, pods_of
from flowplan.providers.kubernetes.reading import LINEAGE, PROJECT, RUN_ID, label, observed
from flowplan.providers.kubernetes.requests import Api
from flowplan.providers.protocol import IMPORTED, Found
from flowplan.schemas.errors import ProviderError
from flowplan.schemas.runs import Json, Objects, Observed, Recorded

_OWN = ("flowplan.dev/", "app.kubernetes.io/managed-by")


def of_project(api: Api, project: str, wanted: Sequence[Objects], default: str, cluster: str) -> list[Found]:
    """Every Job of the project, of whatever lineage, oldest attempt first."""
    labels = (label(one["Job"], PROJECT) for one in wanted if "Job" in one)
    selector = f"{PROJECT}={next(filter(None, labels), project)}"
    try:
        jobs = api.items("/apis/batch/v1/jobs", labelSelector=selector)
    except ProviderError as error:
        if error.reason != "Forbidden":
            raise
        places = {default} | {str(one["Job"]["metadata"]["namespace"]) for one in wanted if "Job" in one}
        jobs = [job for place in sorted(places) for job in api.items(jobs_path(place), labelSelector=selector)]
    found = [_found(api, job, cluster) for job in jobs]
    return sorted(found, key=lambda one: (one.seen.address, one.seen.attempt))


def job(api: Api, object_id: str, default: str, cluster: str) -> Found:
    """The Job ``namespace/name`` or ``name``, whoever made it.

    Raises:
        ProviderError: there is none.
    """
    namespace, _, name = object_id.strip("/").rpartition("/")
    namespace = namespace or default
    there = api.find(jobs_path(namespace, name)) if name else None
    if there is None:
        raise ProviderError(
            f'there is no Job "{name}" in namespace "{namespace}"', hint="name it as NAMESPACE/JOB", reason="NotFound"
        )
    return _found(api, there, cluster)


def _found(api: Api, live: Json, cluster: str) -> Found:
    seen = observed(live, pods_of(api, live), cluster)
    if not seen.run_id:
        seen = replace(seen, handle={**seen.handle, IMPORTED: True})
    return Found(seen, label(live, PROJECT), label(live, LINEAGE), seen.live, {"Job": _bare(live)})


def _bare(live: Mapping[str, Any]) -> Json:
    """What is enough to find, read and delete the Job; no environment, no arguments."""
    meta, spec = live["metadata"], live["spec"]["template"]["spec"]
    kept = {key: meta[key] for key in ("name", "namespace", "labels") if key in meta}
    containers = [{key: one[key] for key in ("name", "image") if key in one} for one in spec.get("containers") or []]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": kept,
        "spec": {"template": {"spec": {"containers": containers}}},
    }


def taken_over(seen: Observed, record: Recorded) -> Observed:
    """A Job that somebody else made, seen as ours: that it lacks our labels and has its own name is no drift."""
    handle = {**seen.handle, IMPORTED: True}
    if seen.live is None or "Job" not in seen.live:
        return replace(seen, handle=handle)
    live, applied = copy.deepcopy(dict(seen.live)), record.objects.get("Job") or {}
    live["Job"]["metadata"]["name"] = (applied.get("metadata") or {}).get("name")
    _label(live["Job"], applied)
    _label(live["Job"]["spec"]["template"], (applied.get("spec") or {}).get("template") or {})
    return replace(seen, handle=handle, live=live)


def _label(live: Json, applied: Mapping[str, Any]) -> None:
    for kind in ("labels", "annotations"):
        own = (applied.get("metadata") or {}).get(kind) or {}
        ours = {key: value for key, value in own.items() if key.startswith(_OWN) or value == own.get(RUN_ID)}
        if ours:
            meta = live.setdefault("metadata", {})
            meta[kind] = {**(meta.get(kind) or {}), **ours}
