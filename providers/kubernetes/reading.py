"""From a live Job and its pods to an Observed: its status comes from conditions and is never guessed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from flowplan.providers.kubernetes.diagnosis import (
    complete_condition,
    failed_condition,
    failure_cause,
    waiting_cause,
)
from flowplan.schemas import arguments, exit_codes
from flowplan.schemas.pointers import escape
from flowplan.schemas.runs import Json, Observed, Status, Try

Object = Mapping[str, Any]

PROJECT = "flowplan.dev/project"
ENVIRONMENT = "flowplan.dev/environment"
RUN_ID = "flowplan.dev/run-id"
LINEAGE = "flowplan.dev/lineage"
ADDRESS = "flowplan.dev/address"
ATTEMPT = "flowplan.dev/attempt"
CONTENT = "flowplan.dev/content"
INDEX = "batch.kubernetes.io/job-completion-index"
"""Annotation of the pods of an Indexed Job."""
CREATED_FROM = "flowplan.dev/created-from"


def label(item: Object, key: str) -> str:
    """Return a label of an object, or ""."""
    return str(((item.get("metadata") or {}).get("labels") or {}).get(key) or "")


def in_environment(environment: str) -> str:
    """Return the label selector of what is made in an environment, or in none."""
    return f"{ENVIRONMENT}={environment}" if environment else f"!{ENVIRONMENT}"


def main_container(job: Object) -> str:
    """Return the name of the container that is the run: the first one of the pod template."""
    spec = ((job.get("spec") or {}).get("template") or {}).get("spec") or {}
    return str(((spec.get("containers") or [{}])[0]).get("name") or "")


def oldest_first(pods: Iterable[Object]) -> list[Object]:
    """Return pods in the order of their creation."""
    return sorted(pods, key=lambda pod: (pod["metadata"].get("creationTimestamp") or "", pod["metadata"]["name"]))


def line_prefix(pod: Object) -> str:
    """Return what tells the lines of a pod from those of the others of its Job: its index, else its name."""
    index = (pod["metadata"].get("annotations") or {}).get(INDEX)
    return f"[{pod['metadata']['name'] if index is None else index}] "


def owner(pod: Object) -> str:
    """Return the uid of the Job that controls a pod, or ""."""
    owners = (pod.get("metadata") or {}).get("ownerReferences") or []
    return next((str(o["uid"]) for o in owners if o.get("controller")), "")


def observed(job: Object, pods: Sequence[Object], cluster: str, events: Iterable[Object] = ()) -> Observed:
    """Return what a live Job says now.

    Args:
        pods: the pods of this Job that are known; cluster: the identity of the target.
        events: recent core/v1 Events, for causes that only they tell.
    """
    pods = oldest_first(pods)
    if complete := complete_condition(job):
        return _succeeded(job, pods, cluster, complete)
    failed = failed_condition(job)
    if failed and has_ended(job):
        return _failed(job, pods, cluster, failed, events)
    started = started_at(job, pods)
    cause = waiting_cause(job, pods, events)
    return _base(
        job,
        pods,
        cluster,
        status=Status.RUNNING if started else Status.PENDING,
        reason=cause.reason if cause else "",
        message=cause.message if cause else "",
        started_at=started,
        at=started or job["metadata"].get("creationTimestamp"),
    )


def has_ended(job: Object) -> bool:
    """Return whether the Job has ended, other than by its deletion.

    A deletion in the foreground ends the pods first, which the job controller counts as a failure.
    """
    failed, deleted = failed_condition(job), job["metadata"].get("deletionTimestamp")
    by_deletion = failed and deleted and str(failed.get("lastTransitionTime") or "") >= str(deleted)
    return bool(complete_condition(job) or (failed and not by_deletion))


def _succeeded(job: Object, pods: Sequence[Object], cluster: str, condition: Object) -> Observed:
    finished = (job.get("status") or {}).get("completionTime") or condition.get("lastTransitionTime")
    return _base(
        job,
        pods,
        cluster,
        status=Status.SUCCEEDED,
        reason="Completed",
        exit_code=exit_code(job, pods, "Succeeded"),
        started_at=started_at(job, pods) or _accepted(job),
        finished_at=finished,
        at=finished,
    )


def _failed(job: Object, pods: Sequence[Object], cluster: str, condition: Object, events: Iterable[Object]) -> Observed:
    timed_out = condition.get("reason") == "DeadlineExceeded"
    cause = failure_cause(job, pods, events)
    code = exit_code(job, pods, "Failed")
    explained = exit_codes.explained(code)
    main = "/spec/template/spec/containers/0"
    if code in arguments.EXEC_FAILED and not timed_out:
        for place, size in arguments.too_long(job["spec"]["template"]["spec"]["containers"][0], {}, main):
            cause = replace(cause, reason=arguments.REASON)
            explained = exit_codes.explained(code, arguments.explanation(place, size))
    prefix = f"{explained}; " if code is not None and not timed_out else ""
    return _base(
        job,
        pods,
        cluster,
        status=Status.TIMED_OUT if timed_out else Status.FAILED,
        reason=condition.get("reason", "") if timed_out else cause.reason,
        message=prefix + cause.message,
        exit_code=code,
        started_at=started_at(job, pods),
        finished_at=condition.get("lastTransitionTime"),
        at=condition.get("lastTransitionTime"),
    )


def _base(job: Object, pods: Sequence[Object], cluster: str, **facts: Any) -> Observed:
    meta = job["metadata"]
    notes = meta.get("annotations") or {}
    attempt = str(notes.get(ATTEMPT) or "")
    return Observed(
        run_id=label(job, RUN_ID),
        address=notes.get(ADDRESS) or "",
        attempt=int(attempt) if attempt.isdigit() else 0,
        attempts=attempts(job, pods),
        handle={"uid": meta["uid"], "namespace": meta["namespace"], "name": meta["name"]},
        infrastructure_id=f"{cluster}:{meta['namespace']}:{meta['name']}",
        name=meta["name"],
        live={"Job": comparable(job)},
        managers=managers(job),
        content=label(job, CONTENT),
        created_at=meta.get("creationTimestamp"),
        created_from=str(notes.get(CREATED_FROM) or ""),
        progress={key: float((job.get("status") or {}).get(key) or 0) for key in ("active", "failed")},
        counts_from=_accepted(job),
        image=_image(job, pods),
        tries=tries(job, pods),
        **facts,
    )


def _image(job: Object, pods: Sequence[Object]) -> dict[str, str]:
    """Return the image of the newest pod: ``name`` as in the Job, ``id`` and, from a registry, ``digest``."""
    main = main_container(job)
    ids = [str(status["imageID"]) for pod in pods if (status := container_status(pod, main)) and status.get("imageID")]
    if not ids:
        return {}
    image = ids[-1].removeprefix("docker-pullable://").removeprefix("docker://")
    name = str(job["spec"]["template"]["spec"]["containers"][0].get("image") or "")
    return {"name": name, "id": image, **({"digest": image} if "@" in image else {})}


def comparable(job: Object) -> Json:
    """Return the Job without fields that only the server writes."""
    meta = {k: v for k, v in job["metadata"].items() if k not in ("managedFields", "resourceVersion", "generation")}
    return {
        "apiVersion": job.get("apiVersion") or "batch/v1",
        "kind": job.get("kind") or "Job",
        "metadata": meta,
        "spec": job.get("spec") or {},
    }


def pods_wanted(spec: Object) -> int:
    """Return how many pods a Job takes when none fails."""
    completions, parallelism = spec.get("completions"), spec.get("parallelism")
    if completions is None:
        return 1 if parallelism is None else int(parallelism)
    return int(completions)


def attempts(job: Object, pods: Sequence[Object]) -> int:
    """Return how many times the engine tried.

    Once, once more for every pod beyond those that the Job takes, and for every restart inside a pod.
    """
    main = main_container(job)
    status = job.get("status") or {}
    counted = max(sum(int(status.get(key) or 0) for key in ("active", "succeeded", "failed")), len(pods))
    restarts = sum(number_of_restarts(pod, main) for pod in pods)
    wanted = max(pods_wanted(job.get("spec") or {}), 1)
    return min(counted, 1) + max(counted - wanted, 0) + restarts


def tries(job: Object, pods: Sequence[Object]) -> tuple[Try, ...]:
    """Return the executions after the first; of a Job that takes several pods at once only the newest, by its number.

    A pod follows another one that failed. Of the restarts inside a pod only the last is told.
    """
    counted, spec, main = attempts(job, pods), job.get("spec") or {}, main_container(job)
    if counted < 2:
        return ()
    single = pods_wanted(spec) == 1
    most = int(spec["backoffLimit"]) + 1 if single and spec.get("backoffLimit") is not None else None
    if not single or not pods or any(number_of_restarts(pod, main) for pod in pods[:-1]):
        return (Try(counted, most),)
    if number_of_restarts(pods[-1], main):
        status = container_status(pods[-1], main) or {}
        now, last = ((status.get(key) or {}) for key in ("state", "lastState"))
        began = next((now[key].get("startedAt") for key in ("running", "terminated") if now.get(key)), None)
        return (Try(counted, most, began, _ended_with(last.get("terminated"))),)
    first = counted - len(pods) + 1  # others may be gone already
    return tuple(
        Try(number, most, pod["metadata"].get("creationTimestamp"), _ended_with(terminated(before, main)))
        for number, (before, pod) in enumerate(pairwise(pods), start=first + 1)
    )


def number_of_restarts(pod: Object, container: str) -> int:
    """Return how often a container was started again inside its pod."""
    return int((container_status(pod, container) or {}).get("restartCount") or 0)


def _ended_with(end: Object | None) -> str:
    return exit_codes.explained(int(end["exitCode"])) if end and end.get("exitCode") is not None else ""


def exit_code(job: Object, pods: Sequence[Object], phase: str) -> int | None:
    """Return the exit code of the main container in the newest pod of that phase, else in the newest pod.

    None when the engine does not say.
    """
    wanted = [pod for pod in pods if (pod.get("status") or {}).get("phase") == phase] or list(pods)
    if not wanted:
        return None
    ended = terminated(wanted[-1], main_container(job))
    return int(ended["exitCode"]) if ended and ended.get("exitCode") is not None else None


def terminated(pod: Object, container: str) -> Object | None:
    """Return how the container ended: its present state, or the one before a restart that is still awaited."""
    status = container_status(pod, container) or {}
    now = (status.get("state") or {}).get("terminated")
    if now or (status.get("state") or {}).get("running"):
        return now or None
    return (status.get("lastState") or {}).get("terminated") or None


def container_status(pod: Object, container: str) -> Object | None:
    """Return the status of a container or init container, or None before the kubelet has told it."""
    status = pod.get("status") or {}
    statuses = [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]
    return next((s for s in statuses if s.get("name") == container), None)


def is_running(pod: Object, container: str) -> bool:
    """Return whether a container runs."""
    return bool(((container_status(pod, container) or {}).get("state") or {}).get("running"))


def started_at(job: Object, pods: Sequence[Object]) -> str | None:
    """Return when the main container first started, or None while it never did."""
    main = main_container(job)
    times = [moment for pod in pods if (status := container_status(pod, main)) for moment in _starts(status)]
    if times:
        return min(times)
    counted = (job.get("status") or {}).get("succeeded") or (job.get("status") or {}).get("failed")
    return _accepted(job) if counted and not pods else None


def _starts(status: Object) -> Iterator[str]:
    for state in (status.get("state") or {}, status.get("lastState") or {}):
        for kind in ("running", "terminated"):
            if moment := (state.get(kind) or {}).get("startedAt"):
                yield str(moment)


def _accepted(job: Object) -> str | None:
    return (job.get("status") or {}).get("startTime")


def managers(job: Object) -> dict[str, str]:
    """Return JSON Pointer -> field manager, for the fields that others than flowplan set (managedFields)."""
    found: dict[str, str] = {}
    entries = [e for e in job["metadata"].get("managedFields") or [] if e.get("manager") != "flowplan"]
    for entry in sorted(entries, key=lambda e: e.get("time") or ""):
        fields = {k: v for k, v in (entry.get("fieldsV1") or {}).items() if k != "f:status"}
        for pointer in _pointers(fields, job, "/Job") if fields else ():
            found[pointer] = str(entry.get("manager") or "")
    return found


def _pointers(fields: Object, live: Any, at: str) -> Iterator[str]:
    children = {k: v for k, v in fields.items() if k != "."}
    if not children:
        yield at
    for key, below in children.items():
        step, value = _step(key, live)
        if step is not None:
            yield from _pointers(below, value, f"{at}/{step}")


def _step(key: str, live: Any) -> tuple[str | None, Any]:
    """Return the key and the live value of a step of fieldsV1: ``f:name``, or ``k:{"name":"x"}`` of a list."""
    if key.startswith("f:"):
        name = key[2:]
        return escape(name), live.get(name) if isinstance(live, Mapping) else None
    if key.startswith("k:") and isinstance(live, list):
        wanted = json.loads(key[2:])
        for index, item in enumerate(live):
            if isinstance(item, Mapping) and all(item.get(k) == v for k, v in wanted.items()):
                return str(index), item
    return None, None
