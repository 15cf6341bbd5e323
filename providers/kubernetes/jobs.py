"""Creating, changing and deleting Jobs and their Secrets: one Job per attempt, whatever breaks in between."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from flowplan.providers.kubernetes.reading import (
    ADDRESS,
    ATTEMPT,
    CONTENT,
    CREATED_FROM,
    LINEAGE,
    RUN_ID,
    has_ended,
    label,
    oldest_first,
)
from flowplan.providers.kubernetes.requests import MANAGER, Api, unless_refused
from flowplan.providers.protocol import Order, of_other_content
from flowplan.schemas.errors import EngineUnreachable, ProviderError, Refused, StartFailed
from flowplan.schemas.faults import point
from flowplan.schemas.plans import ABSENT, FieldChange
from flowplan.schemas.pointers import keys_of
from flowplan.schemas.runs import Json, Recorded
from flowplan.schemas.secrets import reveal

SUFFIXES = 5
"""Number of other names that are tried when a foreign object has the wanted one."""

_NAME_LIMIT = 63
_REMOVAL_TIMEOUT = 120.0
"""Seconds after the grace period in which a Job and its pods have to be gone."""


def jobs_path(namespace: str, name: str = "") -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs" + (f"/{name}" if name else "")


def core_path(namespace: str, kind: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/{kind}" + (f"/{name}" if name else "")


def pods_of(api: Api, job: Json) -> list[Any]:
    """Return the pods that the job controller made for this Job."""
    meta = job["metadata"]
    return api.items(core_path(meta["namespace"], "pods"), labelSelector=f"controller-uid={meta['uid']}")


def pods_of_run(api: Api, record: Recorded, namespace: str) -> list[Any]:
    """Return the pods of a run, oldest first, also where its Job is gone or carries none of our labels."""
    uid = record.handle.get("uid")
    selector = f"controller-uid={uid}" if uid else f"{RUN_ID}={record.run_id}"
    return oldest_first(api.items(core_path(namespace, "pods"), labelSelector=selector))


def manifest(order: Order, namespace: str) -> Json:
    """Return the Job as it is posted, secrets still as tokens; missing identity labels are added."""
    job, identity = dict(order.objects["Job"]), order.identity
    meta = _own(job, "metadata")
    meta.setdefault("name", order.name)
    meta.setdefault("namespace", namespace)
    labels = {RUN_ID: identity.run_id, LINEAGE: identity.lineage}
    for part in (meta, _own(_own(_own(job, "spec"), "template"), "metadata")):
        part["labels"] = {**labels, **(part.get("labels") or {})}
    notes = {ADDRESS: identity.address, ATTEMPT: str(identity.attempt)}
    meta["annotations"] = {**notes, **(meta.get("annotations") or {})}
    return job


def _own(parent: dict[str, Any], key: str) -> dict[str, Any]:
    """Replace the mapping at ``key`` by a copy, and return that; the original is not changed."""
    parent[key] = dict(parent.get(key) or {})
    mine: dict[str, Any] = parent[key]
    return mine


def create(api: Api, order: Order, namespace: str, created_from: str = "") -> Json:
    """Return the live Job of this order: created, or adopted when it carries our run id and content already.

    Raises:
        StartFailed: the server refused, and nothing of the attempt is left.
        Refused: an object of the attempt is there, of other content; it is left alone.
        EngineUnreachable: the server did not answer; the Job may or may not exist under its name.
    """
    job = _marked(manifest(order, namespace), created_from)
    namespace = job["metadata"]["namespace"]
    secret = _marked(order.objects["Secret"], created_from) if "Secret" in order.objects else None
    held, made = "", False
    try:
        live = None if order.fresh else _earlier(api, job, order)
        if secret and live is None:
            held, made = _ensure_secret(api, secret, order, namespace)
            job = reading_secret(job, secret, held)
        elif secret:
            there = find_secret(api, secret, namespace, order.identity.run_id)
            held = str(there["metadata"]["name"]) if there else ""
        point("kubernetes:secret:after")
        live = live or _post(api, reveal(job, order.secrets), order)
        point("kubernetes:job:after")
    except EngineUnreachable:
        raise
    except Refused:
        if made:
            _drop(api, core_path(namespace, "secrets", held))
        raise
    except ProviderError as error:
        message = error.message
        try:
            live = _accepted(api, job, order)
            there = find_secret(api, secret, namespace, order.identity.run_id) if secret and live is None else None
            if there is not None:  # a Secret of the attempt, whichever order made it
                _drop(api, core_path(namespace, "secrets", there["metadata"]["name"]), there["metadata"]["uid"])
        except EngineUnreachable:
            raise
        except ProviderError as second:  # a role that may not look: the first refusal stands
            live, message = None, f"{message}; what may be left of it was not looked for: {second.message}"
        if live is None:
            raise StartFailed(message, hint=error.hint, address=order.identity.address, reason=error.reason) from None
    if held:
        _make_owner(api, namespace, held, live)
        point("kubernetes:owner:after")
    return live


def _accepted(api: Api, job: Json, order: Order) -> Json | None:
    """Return the Job of an order that was refused, where there is one: the refusal may be that of a repetition.

    Raises:
        EngineUnreachable: it is not known whether there is one.
    """
    return unless_refused(lambda: _earlier(api, job, order), None)  # who may not list Jobs is told the first refusal


def _marked(item: Json, created_from: str) -> Json:
    """Return the object with a note that says where it was made."""
    meta = item["metadata"]
    notes = {**(meta.get("annotations") or {}), **({CREATED_FROM: created_from} if created_from else {})}
    return {**item, "metadata": {**meta, "annotations": notes}}


def names_of(wanted: str) -> list[str]:
    """Return the names that an object may get: the wanted one, and those tried when others hold it."""
    return [wanted, *(f"{wanted[: _NAME_LIMIT - 2]}-{number}" for number in range(1, SUFFIXES + 1))]


def reading_secret(job: Json, secret: Json, name: str) -> Json:
    """Return the Job with its references to the run's own Secret leading to ``name``."""
    keys, names = secret["stringData"].keys(), names_of(secret["metadata"]["name"])

    def led(value: Json) -> Json:
        if isinstance(value, Mapping):
            if value.get("key") in keys and value.get("name") in names:
                return {**value, "name": name}
            return {key: led(child) for key, child in value.items()}
        return [led(child) for child in value] if isinstance(value, list) else value

    return led(job)


def find_secret(api: Api, secret: Json, namespace: str, run_id: str) -> Json | None:
    """Return the live Secret of an attempt, whatever name it got."""
    for name in names_of(secret["metadata"]["name"]):
        there = api.find(core_path(namespace, "secrets", name))
        if there is None or label(there, RUN_ID) == run_id:
            return there
    return None


def _refuse_other_content(there: Json, wanted: Json, order: Order) -> None:
    if label(there, CONTENT) != label(wanted, CONTENT):
        kind, meta = wanted["kind"], there["metadata"]
        raise of_other_content(f'the {kind} "{meta["namespace"]}/{meta["name"]}"', order.identity.address)


def _post(api: Api, job: Json, order: Order) -> Json:
    """Create the Job under its name, or a numbered one when a foreign Job has it."""
    namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
    for tried in names_of(name):
        body = {**job, "metadata": {**job["metadata"], "name": tried}}
        try:
            return api.call("POST", jobs_path(namespace), {"fieldManager": MANAGER}, body)
        except ProviderError as error:
            if error.reason != "AlreadyExists":
                raise
        there = api.find(jobs_path(namespace, tried))
        if there is not None and label(there, RUN_ID) == order.identity.run_id:
            _refuse_other_content(there, job, order)
            return there
    raise ProviderError(
        f'a Job "{name}" that is not ours exists in namespace "{namespace}", and so do {name}-1 to -{SUFFIXES}',
        hint="set another name, or delete the old Jobs",
        reason="AlreadyExists",
    )


def _earlier(api: Api, job: Json, order: Order) -> Json | None:
    """Return the Job that carries this run id already, whatever its name."""
    path = jobs_path(job["metadata"]["namespace"])
    found = api.items(path, labelSelector=f"{RUN_ID}={order.identity.run_id}")
    if not found:
        return None
    _refuse_other_content(found[0], job, order)
    # The items of a list come without apiVersion and kind.
    return {"apiVersion": "batch/v1", "kind": "Job", **found[0]}


def _ensure_secret(api: Api, secret: Json, order: Order, namespace: str) -> tuple[str, bool]:
    """Create the run's Secret under its name or, where that is taken, a numbered one; or fill ours again.

    Values are revealed here only.

    Returns:
        The name, and False when the Secret existed before this order.
    """
    body = copy.deepcopy(secret)
    meta = body.setdefault("metadata", {})
    meta.setdefault("namespace", namespace)
    identity = order.identity
    meta["labels"] = {RUN_ID: identity.run_id, LINEAGE: identity.lineage, **(meta.get("labels") or {})}
    body.setdefault("apiVersion", "v1")
    body.setdefault("kind", "Secret")
    body = reveal(body, order.secrets)
    wanted = meta["name"]
    for name in names_of(wanted):
        body["metadata"]["name"] = name
        try:
            api.call("POST", core_path(namespace, "secrets"), {"fieldManager": MANAGER}, body)
            return name, True
        except ProviderError as error:
            if error.reason != "AlreadyExists":
                raise
        path = core_path(namespace, "secrets", name)
        there = api.find(path)
        if there is not None and label(there, RUN_ID) == identity.run_id:
            _refuse_other_content(there, body, order)
            _patch(api, path, {"stringData": body.get("stringData") or {}})
            return name, order.fresh  # then it is what a request made whose answer was lost
    raise ProviderError(
        f'a Secret "{wanted}" that is not ours exists in namespace "{namespace}", and so do {wanted}-1 to -{SUFFIXES}',
        hint="set another name, or delete the old Secrets",
        reason="AlreadyExists",
    )


def _make_owner(api: Api, namespace: str, name: str, job: Json) -> None:
    """Make the Job the owner of the Secret, so that both are deleted together; on failure ``delete`` removes it."""
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": job["metadata"]["name"],
        "uid": job["metadata"]["uid"],
    }
    path, body = core_path(namespace, "secrets", name), {"metadata": {"ownerReferences": [owner]}}
    unless_refused(lambda: _patch(api, path, body), None)


def _patch(api: Api, path: str, body: Json) -> Json:
    return api.call("PATCH", path, {"fieldManager": MANAGER}, body, content="application/merge-patch+json")


def update(api: Api, record: Recorded, order: Order, fields: Sequence[FieldChange], namespace: str) -> Json:
    """Change the given fields of the live Job. Its Secret stays: pods read it when they start, so a change of it replaces.

    Raises:
        ProviderError: it is gone, is another Job by now, or the server refused the change.
    """
    job = order.objects["Job"]
    namespace = record.handle.get("namespace") or job["metadata"].get("namespace") or namespace
    name = record.handle.get("name") or record.name
    patch: dict[str, Any] = {"metadata": {"uid": record.handle["uid"]} if record.handle.get("uid") else {}}
    for field in fields:
        if field.path.startswith("/Job/"):
            _put(patch, keys_of(field.path)[1:], _wanted(order.objects, field))
    return _patch(api, jobs_path(namespace, name), reveal(patch, order.secrets))


def _wanted(objects: Mapping[str, Any], field: FieldChange) -> Json:
    value: Any = objects
    for step in keys_of(field.path):
        if not isinstance(value, Mapping) or step not in value:
            return None if field.after is ABSENT else field.after
        value = value[step]
    return value


def _put(patch: dict[str, Any], steps: Sequence[str], value: Json) -> None:
    """Set a field in a merge patch, where null removes."""
    for step in steps[:-1]:
        patch = patch.setdefault(step, {})
    patch[steps[-1]] = value


def delete(api: Api, record: Recorded, grace: float, namespace: str, lineage: str) -> None:
    """Stop and remove everything of the attempt, and return when it is gone; missing is success.

    Args:
        grace: seconds, where the Job itself does not say how many.

    Raises:
        ProviderError: the server refused, or the pods do not end (their node is away).
    """
    namespace = record.handle.get("namespace") or record.objects["Job"]["metadata"].get("namespace") or namespace
    pod = ((record.objects["Job"].get("spec") or {}).get("template") or {}).get("spec") or {}
    own = pod.get("terminationGracePeriodSeconds")
    for job in _ours(api, record, namespace, lineage):
        _remove(api, job, grace if own is None else own)
    point("kubernetes:delete:gone")
    secret = record.objects.get("Secret")
    if secret:
        there = find_secret(api, secret, namespace, record.run_id)
        if there is not None and label(there, LINEAGE) == lineage:
            meta = there["metadata"]
            _drop(api, core_path(namespace, "secrets", meta["name"]), meta["uid"])


def _ours(api: Api, record: Recorded, namespace: str, lineage: str) -> list[Json]:
    """Return the Jobs of this attempt, found by its run id or, imported ones, by the recorded uid."""
    selector = f"{RUN_ID}={record.run_id},{LINEAGE}={lineage}"
    found = api.items(jobs_path(namespace), labelSelector=selector)
    if found or not record.handle.get("uid"):
        return found
    there = api.find(jobs_path(namespace, str(record.handle.get("name") or record.name)))
    return [there] if there is not None and there["metadata"]["uid"] == record.handle["uid"] else []


def _remove(api: Api, job: Json, grace: float) -> None:
    meta = job["metadata"]
    path = jobs_path(meta["namespace"], meta["name"])
    # A Job that makes no further pods need not wait for the cluster's garbage collector, only for its pods.
    quiet = has_ended(job) or (job.get("spec") or {}).get("parallelism") == 0
    _drop(api, path, meta["uid"], policy="Background" if quiet else "Foreground")
    point("kubernetes:delete:asked")
    _shorten_grace(api, job, grace)
    deadline = time.monotonic() + grace + _REMOVAL_TIMEOUT
    pause = 0.05
    while _is_there(api, path, meta["uid"]) or (quiet and pods_of(api, job)):
        if time.monotonic() > deadline:
            pods = pods_of(api, job)
            nodes = sorted({str((pod.get("spec") or {}).get("nodeName") or "no node") for pod in pods})
            what = f"{len(pods)} pods on {', '.join(nodes)}" if pods else "its finalizers"
            raise ProviderError(
                f'Job "{meta["name"]}" is being deleted, but {what} did not end in time',
                hint="check the node; run destroy again when it is back",
                reason="Terminating",
            )
        time.sleep(pause)
        pause = min(pause * 1.5, 1.0)
        if pause == 1.0:  # a kubelet may take half a minute to delete a pod whose containers have ended
            for pod in filter(_pod_ended, pods_of(api, job)):
                _drop_pod(api, pod, 0)


def _is_there(api: Api, path: str, uid: str) -> bool:
    there = api.find(path)
    return there is not None and there["metadata"]["uid"] == uid


def _shorten_grace(api: Api, job: Json, grace: float) -> None:
    """Delete the pods of a Job that have another grace period than ``grace``: deleting the Job keeps theirs."""
    seconds = max(math.ceil(grace), 1)  # 0 would forget the pod while its container may still run
    for pod in pods_of(api, job):
        if _pod_ended(pod):
            _drop_pod(api, pod, 0)
        elif (pod.get("spec") or {}).get("terminationGracePeriodSeconds") != seconds:
            _drop_pod(api, pod, seconds)


def _pod_ended(pod: Json) -> bool:
    status = pod.get("status") or {}
    running = [s for s in status.get("containerStatuses") or [] if (s.get("state") or {}).get("running")]
    return status.get("phase") in ("Succeeded", "Failed") and not running


def _drop_pod(api: Api, pod: Json, grace: int) -> None:
    """Delete a pod; without the right to do so, the cluster collects it later."""
    meta = pod["metadata"]
    try:
        _drop(api, core_path(meta["namespace"], "pods", meta["name"]), meta["uid"], grace=grace)
    except ProviderError as error:
        if error.reason != "Forbidden":
            raise


def _drop(api: Api, path: str, uid: str = "", *, policy: str = "Background", grace: int | None = None) -> None:
    """Delete exactly that object; one that is gone (or is another one by now) is success.

    An answer that does not come within some seconds is not waited for, and a refusal may be an answer that was cut: the
    object itself says whether it is being deleted.
    """
    body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy}
    if uid:
        body["preconditions"] = {"uid": uid}
    if grace is not None:
        body["gracePeriodSeconds"] = grace
    try:
        try:
            api.impatient().call("DELETE", path, body=body)
        except (EngineUnreachable, ProviderError) as error:
            if error.reason in ("NotFound", "Conflict"):
                return
            meta = (api.find(path) or {}).get("metadata") or {}
            later = grace is not None and int(meta.get("deletionGracePeriodSeconds") or 0) > grace
            if meta and (later or not meta.get("deletionTimestamp")):
                api.call("DELETE", path, body=body)
    except ProviderError as error:
        if error.reason not in ("NotFound", "Conflict"):
            raise
