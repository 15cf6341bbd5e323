"""Observing all runs of a lineage at once: a constant number of lists per namespace, whatever the number of runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from flowplan.providers.kubernetes.comparing import as_recorded
from flowplan.providers.kubernetes.jobs import core_path, jobs_path, pods_of
from flowplan.providers.kubernetes.reading import (
    LINEAGE,
    PROJECT,
    RUN_ID,
    has_ended,
    in_environment,
    label,
    observed,
    owner,
)
from flowplan.providers.kubernetes.requests import Api
from flowplan.providers.protocol import IMPORTED
from flowplan.schemas.errors import EngineUnreachable, ProviderError
from flowplan.schemas.runs import Objects, Observed, Recorded, Status
from flowplan.schemas.times import seconds_between

Object = Mapping[str, Any]

DELETED = "the Job was deleted"


def namespace_of(record: Recorded, default: str) -> str:
    """Return the namespace of the record's Job."""
    written = ((record.objects.get("Job") or {}).get("metadata") or {}).get("namespace")
    return str(record.handle.get("namespace") or written or default)


def by_namespace(records: Iterable[Recorded], default: str) -> dict[str, list[Recorded]]:
    """Return the records of each namespace."""
    groups: dict[str, list[Recorded]] = defaultdict(list)
    for record in records:
        groups[namespace_of(record, default)].append(record)
    return dict(groups)


def observe(
    api: Api,
    records: Sequence[Recorded],
    lineage: str,
    default: str,
    cluster: str,
    wanted: Iterable[Objects] | None = None,
    environment: str = "",
) -> list[Observed]:
    """Return one Observed per record, then one per Job of our lineage that no record names, then those of others."""
    groups = by_namespace(records, default)
    projects = {label(record.objects["Job"], PROJECT) for record in records if "Job" in record.objects}
    for objects in wanted or ():
        groups.setdefault(str(objects["Job"]["metadata"].get("namespace") or default), [])
        projects.add(label(objects["Job"], PROJECT))
    groups = groups or {default: []}
    found = [
        seen for namespace, some in groups.items() for seen in _in_namespace(api, namespace, some, lineage, cluster)
    ]
    known = sorted(projects - {""})
    if wanted is not None and known:
        selector = f"{PROJECT} in ({','.join(known)}),{in_environment(environment)},{LINEAGE},{LINEAGE}!={lineage}"
        for namespace in groups:
            others = api.items(jobs_path(namespace), labelSelector=selector)
            found += [replace(observed(job, (), cluster), lineage=label(job, LINEAGE)) for job in others]
    return found


def _in_namespace(api: Api, namespace: str, records: Sequence[Recorded], lineage: str, cluster: str) -> list[Observed]:
    selector = f"{LINEAGE}={lineage}"
    jobs = {label(job, RUN_ID): job for job in api.items(jobs_path(namespace), labelSelector=selector)}
    known = {record.run_id: record for record in records}
    imported = {record.handle["uid"] for record in records if record.handle.get(IMPORTED)}
    for record in records:  # an imported Job has none of our labels: it is known by name and uid
        if record.run_id not in jobs and record.handle.get(IMPORTED) and record.present:
            meta = {"namespace": namespace, "name": record.name, **record.handle}
            if (job := same_job(api, meta)) is not None:
                jobs[record.run_id] = job
    jobs |= _unlabelled(api, namespace, [r for r in records if r.run_id not in jobs])
    interesting = any(run not in known or not known[run].status.settled for run in jobs)
    pods = by_owner(api.items(core_path(namespace, "pods"), labelSelector=selector)) if interesting else {}
    gone = [r for r in records if r.run_id not in jobs]
    ends = ended_by_events(api, namespace, gone)
    events = _events_if_needed(api, namespace, jobs.values(), pods)

    def look(job: Object) -> Observed:
        uid = job["metadata"]["uid"]
        own = pods.get(uid, []) if uid not in imported else pods_of(api, job)
        return observed(job, own, cluster, events)

    found = [
        as_recorded(look(jobs[r.run_id]), r) if r.run_id in jobs else absent(r, ends.get(r.run_id)) for r in records
    ]
    return found + [look(job) for run_id, job in jobs.items() if run_id not in known]


def _events_if_needed(api: Api, namespace: str, jobs: Iterable[Object], pods: Mapping[str, list[Any]]) -> list[Any]:
    """Return warnings, when a Job waits for longer than a start takes and neither it nor its pods say why."""
    for job in jobs:
        if has_ended(job):
            continue
        seen = observed(job, pods.get(job["metadata"]["uid"], []), "")
        created = job["metadata"].get("creationTimestamp")
        waits = seen.status is Status.PENDING and not seen.reason
        if waits and (seconds_between(created, datetime.now(UTC)) or 0.0) > _SLOW_START:
            return events_of(api, namespace, "type=Warning")
    return []


_SLOW_START = 5.0


def _unlabelled(api: Api, namespace: str, records: Sequence[Recorded]) -> dict[str, Any]:
    """Return the Jobs that lost our labels, by run id: they are known by their uid.

    This takes one list, and only where runs seem to be gone that were there before.
    """
    wanted = {str(r.handle["uid"]): r.run_id for r in records if r.present and r.handle.get("uid")}
    if not wanted:
        return {}
    found = [job["metadata"] for job in api.items(jobs_path(namespace), partial=True)]
    there = {wanted[meta["uid"]]: same_job(api, meta) for meta in found if meta["uid"] in wanted}
    return {run_id: job for run_id, job in there.items() if job is not None}


def same_job(api: Api, meta: Mapping[str, Any]) -> Any:
    """Return the Job with this name and uid, or None."""
    job = api.find(jobs_path(meta["namespace"], meta["name"]))
    return job if job is not None and job["metadata"]["uid"] == meta["uid"] else None


def by_owner(pods: Iterable[Any]) -> dict[str, list[Any]]:
    """Return pods by the uid of the Job that controls them."""
    groups: dict[str, list[Any]] = defaultdict(list)
    for pod in pods:
        groups[owner(pod)].append(pod)
    return groups


def absent(record: Recorded, end: Observed | None = None) -> Observed:
    """Return the observation of a Job that is not there; ``end`` is how it ended, when an event still tells."""
    if end is not None:
        return end
    message = DELETED if record.status.live and record.handle else ""
    return Observed(
        record.run_id, False, record.address, record.attempt, message=message, handle=record.handle, name=record.name
    )


_ENDS = {
    "Completed": Status.SUCCEEDED,
    "BackoffLimitExceeded": Status.FAILED,
    "DeadlineExceeded": Status.TIMED_OUT,
}


def ended_by_events(api: Api, namespace: str, records: Sequence[Recorded]) -> dict[str, Observed]:
    """Return how Jobs ended that a TTL removed before they were observed, from events that are kept for an hour.

    One list, and only when a run that was live is gone. A Job without a TTL is gone because it was deleted.
    """

    def has_ttl(record: Recorded) -> bool:
        return ((record.objects.get("Job") or {}).get("spec") or {}).get("ttlSecondsAfterFinished") is not None

    lost = {str(r.handle["uid"]): r for r in records if r.status.live and r.handle.get("uid") and has_ttl(r)}
    if not lost:
        return {}
    ends: dict[str, Observed] = {}
    for event in events_of(api, namespace, "involvedObject.kind=Job"):
        record = lost.get((event.get("involvedObject") or {}).get("uid") or "")
        status = _ENDS.get(event.get("reason") or "")
        if record is not None and status is not None:
            ends[record.run_id] = _end(record, status, event)
    return ends


def _end(record: Recorded, status: Status, event: Object) -> Observed:
    moment = event.get("lastTimestamp") or event["metadata"].get("creationTimestamp")
    reason = str(event.get("reason"))
    return Observed(
        record.run_id,
        exists=True,
        address=record.address,
        attempt=record.attempt,
        status=status,
        reason=reason,
        message=str(event.get("message") or ""),
        attempts=max(record.attempts, 1),
        handle=record.handle,
        infrastructure_id=record.infrastructure_id,
        name=record.name,
        started_at=record.started_at,
        finished_at=moment,
        at=moment,
    )


def events_of(api: Api, namespace: str, fields: str) -> list[Any]:
    """Return recent core/v1 Events, at most a few pages; [] without the right to read them."""
    found: list[Any] = []
    try:
        for page, _ in api.pages(core_path(namespace, "events"), fieldSelector=fields):
            found += page
            if len(found) >= _EVENTS_LIMIT:
                break
    except EngineUnreachable:
        raise
    except ProviderError:
        return found
    return found


_EVENTS_LIMIT = 5000
