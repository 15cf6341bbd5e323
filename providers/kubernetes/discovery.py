"""Discovery of Jobs: those of a project by their labels, and any other by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flowplan.providers.kubernetes.jobs import jobs_path, pods_of
from flowplan.providers.kubernetes.reading import LINEAGE, PROJECT, in_environment, label, observed
from flowplan.providers.kubernetes.requests import Api
from flowplan.providers.protocol import IMPORTED, Found
from flowplan.schemas.errors import ProviderError
from flowplan.schemas.runs import Json, Objects


def of_project(
    api: Api, project: str, wanted: Sequence[Objects], default: str, cluster: str, environment: str = ""
) -> list[Found]:
    """Return every Job of the project in an environment, of any lineage, oldest attempt first."""
    labels = (label(one["Job"], PROJECT) for one in wanted if "Job" in one)
    selector = f"{PROJECT}={next(filter(None, labels), project)},{in_environment(environment)}"
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
    """Return the Job ``namespace/name`` or ``name``, whether flowplan made it or not.

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


def listed(api: Api, selector: str, namespace: str) -> list[Json]:
    """Return the Jobs and CronJobs of a namespace, with their kinds; the API's Status for CronJobs that may not be listed."""
    jobs = api.items(jobs_path(namespace), labelSelector=selector)
    found = [{"apiVersion": "batch/v1", "kind": "Job", **job} for job in jobs]  # lists of the API leave both out
    for version in ("batch/v1", "batch/v1beta1"):  # Kubernetes before 1.21 has them as a beta
        try:
            cronjobs = api.items(f"/apis/{version}/namespaces/{namespace}/cronjobs", labelSelector=selector)
        except ProviderError as error:
            if error.reason not in ("NotFound", "Forbidden"):
                raise
            if error.reason == "Forbidden":
                return [*found, {"apiVersion": "v1", "kind": "Status", "message": error.message}]
        else:
            return found + [{"apiVersion": version, "kind": "CronJob", **one} for one in cronjobs]
    return found


def _found(api: Api, live: Json, cluster: str) -> Found:
    seen = observed(live, pods_of(api, live), cluster)
    if not seen.run_id:
        seen = replace(seen, handle={**seen.handle, IMPORTED: True})
    return Found(seen, label(live, PROJECT), label(live, LINEAGE), seen.live, {"Job": _bare(live)})


def _bare(live: Mapping[str, Any]) -> Json:
    """Return what is enough to find, read and delete the Job; no environment, no arguments."""
    meta, spec = live["metadata"], live["spec"]["template"]["spec"]
    kept = {key: meta[key] for key in ("name", "namespace", "labels") if key in meta}
    containers = [{key: one[key] for key in ("name", "image") if key in one} for one in spec.get("containers") or []]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": kept,
        "spec": {"template": {"spec": {"containers": containers}}},
    }
