"""The pure half of ``kubernetes``: a run as the Job (and Secret) that is posted, and what a change of them takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowplan.planner.manifests import (
    IN_PLACE,
    REPLACE,
    Effect,
    ResolvedRun,
    job_defaults,
    job_drift,
    over_already,
    with_content,
)
from flowplan.planner.manifests.job_draft import Draft
from flowplan.planner.manifests.job_layers import layered
from flowplan.planner.manifests.names import (
    environment_label,
    is_kubernetes_name,
    kubernetes_label_value,
    kubernetes_run_name,
)
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.kinds import Kind
from flowplan.schemas.pointers import escape
from flowplan.schemas.runs import Identity, Json, Objects, Origin, Rendered
from flowplan.schemas.sources import Diagnostic

comparable, equal, controlled_by = job_drift.comparable, job_drift.equal, job_drift.controlled_by
asked = job_defaults.asked

KEPT_BY_ENGINE = frozenset({"timeout", "grace_period"})
"""Settings that the Job itself carries: activeDeadlineSeconds, terminationGracePeriodSeconds."""

RETRY_DELAY = "engine"
CONTENT_LABELS = tuple(f"/{kind}/metadata/labels/flowplan.dev~1content" for kind in ("Job", "Secret"))
_SECONDS = (
    *("activeDeadlineSeconds", "terminationGracePeriodSeconds", "ttlSecondsAfterFinished", "tolerationSeconds"),
    *("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "expirationSeconds"),
)
_ORDER = """
apiVersion kind metadata name generateName namespace labels annotations
type immutable data stringData
parallelism completions completionMode backoffLimit backoffLimitPerIndex maxFailedIndexes activeDeadlineSeconds
ttlSecondsAfterFinished suspend podFailurePolicy successPolicy podReplacementPolicy managedBy selector template spec
initContainers containers restartPolicy serviceAccountName
image command args workingDir envFrom env value valueFrom ports resources requests limits volumeMounts
mountPath subPath readOnly livenessProbe readinessProbe startupProbe lifecycle imagePullPolicy securityContext
volumes imagePullSecrets terminationGracePeriodSeconds nodeName nodeSelector affinity tolerations
"""
"""Fields of a Job, its pods and their containers, as the API's reference and most manifests have them."""
KINDS = {
    "Job": Kind(
        shorter=(("/Job/spec/template/spec/", "pod."), ("/Job/", "")),
        name=("/Job/metadata/namespace", "/Job/metadata/name"),
        retries="/Job/spec/backoffLimit",
        no_retries=None,
        units=tuple((name, "seconds") for name in _SECONDS),
        order=_ORDER,
    ),
    "Secret": Kind(order=_ORDER),
}
ENGINE = "cluster"
EXAMPLE = """\
  hello:
    provider: kubernetes
    image: busybox:1.35
    command: [echo, "${var.greeting}"]
    kubernetes: {namespace: default}
"""

RUN_ID_LABELS = ("identifier", "flow_run_id", "prefect.io/identifier", "prefect.io/flow_run_id")
"""Label keys that are filled with the run id where the user's manifest has them."""

_DEFAULT = Origin("default")
_UNUSED = ("docker", "process")


def check(run: ResolvedRun) -> list[Diagnostic]:
    """Return every fault of the run's manifest, fields and customizations."""
    draft = layered(run)
    run.drafts[:] = [draft]
    return draft.faults


def render(run: ResolvedRun, identity: Identity) -> Rendered:
    """Return the ``Job`` of one attempt, complete as it is posted, and its ``Secret`` where it has secret values.

    Raises:
        InvalidInput: with every fault, when ``check`` finds any.
    """
    draft: Draft = run.drafts.pop() if run.drafts else layered(run)
    if draft.faults:
        raise InvalidInput(draft.faults)
    name = _identify(draft, identity)
    objects: Objects = {"Job": draft.job}
    if draft.secrets.data:
        for reference in draft.secrets.refs:
            reference["name"] = name
        objects["Secret"] = _secret(draft, identity, name)
        for key, place in draft.secrets.places.items():
            draft.origins[f"/Secret/stringData/{escape(key)}"] = draft.origin_at("/Job" + place)
    unused = [f"the {block} block is not used by the kubernetes provider" for block in _UNUSED if run.fields.get(block)]
    return Rendered(
        objects=with_content(objects, CONTENT_LABELS),
        name=name,
        run_id=identity.run_id,
        attempt=identity.attempt,
        origins=draft.origins,
        warnings=(*draft.warnings, *unused),
    )


def _identify(draft: Draft, identity: Identity) -> str:
    """Put name, labels and address of the attempt into the Job, over everything else; return the name.

    A name of the manifest (not of the run's ``name`` field) is shared by all cells of a matrix and gets the cell's
    values behind it, so that no two runs have one name.
    """
    metadata = draft.job["metadata"]
    given = str(metadata.get("name") or "")
    if given and not is_kubernetes_name(given):
        draft.warnings.append(f'"{given}" is not a legal name of a Job: a legal one is made of it')
    if given and given != draft.run.fields.get("name"):
        cell = identity.address.partition("[")[2].rstrip("]")
        given = f"{given}-{cell}" if cell else given
    name = kubernetes_run_name(identity, given or None)
    metadata["name"] = name
    if not metadata["labels"]:  # the server's own default, which our labels would keep from
        labels = metadata["labels"] = dict(_pod_metadata(draft.job)["labels"])
        for key in labels:
            place = f"/metadata/labels/{escape(key)}"
            draft.origins[f"/Job{place}"] = draft.origin_at(f"/Job/spec/template{place}")
    beginning = metadata.pop("generateName", None)
    if beginning and not given and not draft.run.template:  # templates of Prefect all have one
        draft.warnings.append(f"generateName is not used, names are known beforehand: the Job is called {name}")
    for place, meta in (("/Job/metadata", metadata), ("/Job/spec/template/metadata", _pod_metadata(draft.job))):
        for key in RUN_ID_LABELS:
            if key in meta["labels"]:
                meta["labels"][key] = identity.run_id
        for kind, values in (("labels", identity_labels(identity)), ("annotations", identity_annotations(identity))):
            meta[kind].update(values)
            for key in values:
                draft.origins[f"{place}/{kind}/{escape(key)}"] = _DEFAULT
    if not given:
        draft.origins["/Job/metadata/name"] = _DEFAULT
    return name


def _pod_metadata(job: Mapping[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = job["spec"]["template"]["metadata"]
    return metadata


def identity_labels(identity: Identity) -> dict[str, str]:
    """Return the labels by which flowplan finds its objects again."""
    return {
        "app.kubernetes.io/managed-by": "flowplan",
        "flowplan.dev/project": kubernetes_label_value(identity.project),
        **environment_label(identity),
        "flowplan.dev/lineage": identity.lineage,
        "flowplan.dev/run-id": identity.run_id,
    }


def identity_annotations(identity: Identity) -> dict[str, str]:
    """Return the part of the identity that label values cannot hold, or that nothing selects by."""
    return {"flowplan.dev/address": identity.address, "flowplan.dev/attempt": str(identity.attempt)}


def _secret(draft: Draft, identity: Identity, name: str) -> dict[str, Json]:
    metadata = {
        "name": name,
        "namespace": draft.job["metadata"]["namespace"],
        "labels": identity_labels(identity),
        "annotations": identity_annotations(identity),
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "Opaque",
        "stringData": dict(draft.secrets.data),
    }


_CHANGEABLE = {
    "parallelism": "the parallelism of a Job can be changed",
    "suspend": "a Job can be suspended and resumed",
    "activeDeadlineSeconds": "the deadline of a Job can be changed",
    "backoffLimit": "the retries of a Job can be changed",
    "ttlSecondsAfterFinished": "the time to live of a Job can be changed",
}
_IMMUTABLE = {
    "template": "the pod template of a Job is immutable",
    "selector": "the selector of a Job is immutable",
    "completions": "completions of a Job are immutable (but of an Indexed Job, together with parallelism)",
    "completionMode": "the completion mode of a Job is immutable",
    "podFailurePolicy": "the pod failure policy of a Job is immutable",
    "successPolicy": "the success policy of a Job is immutable",
    "backoffLimitPerIndex": "the retries per index of a Job are immutable",
    "managedBy": "the controller of a Job is immutable",
    "manualSelector": "the selector of a Job is immutable",
}
_METADATA = ("labels", "annotations", "finalizers", "ownerReferences")
_DEFAULT_RETRIES = 6


def effect(path: str, before: Json, after: Json) -> Effect:
    """Return what a changed field takes by the rules of the API server (ValidateJobSpecUpdate in its source).

    A field that is not known to be changeable replaces the Job.
    """
    parts = path.split("/")[1:]
    if parts[0] == "Secret":
        return Effect(REPLACE, "pods read their Secret when they start")
    section, name = (*parts[1:3], "", "")[:2]
    if section == "spec":
        if name in _CHANGEABLE:
            return Effect(IN_PLACE, _CHANGEABLE[name])
        return Effect(REPLACE, _IMMUTABLE.get(name, "not among the fields of a Job that can be changed"))
    if section == "metadata":
        if name in _METADATA:
            return Effect(IN_PLACE, f"the {name} of a Job can be changed")
        return Effect(REPLACE, "another name or namespace is another Job")
    return Effect(REPLACE, "another kind of object")


def interrupts(path: str, before: Json, after: Json, progress: Mapping[str, float]) -> str:
    """Say what a change in place does to a live Job that it ends, pauses or shrinks; "" for any other.

    Args:
        before, after: None where the field is not there; progress: as in ``Observed``, {} when nobody asked the cluster.
    """
    field = path.removeprefix("/Job/spec/")
    if field == "suspend" and after is True:
        return "suspend stops its pods"
    if field == "parallelism":
        wanted = 1 if after is None else after
        running = progress.get("active", 1 if before is None else before)
        return f"parallelism {wanted} ends some of its {running:g} pods" if wanted < running else ""
    if field == "activeDeadlineSeconds" and after is not None:
        return over_already(before, after, progress)
    if field == "backoffLimit":
        allowed = _DEFAULT_RETRIES if after is None else after
        failed = progress.get("failed", 0)
        return f"{failed:g} of its pods failed already, and {allowed} may" if failed > allowed else ""
    return ""
