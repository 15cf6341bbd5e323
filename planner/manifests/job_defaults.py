"""What the API server adds to a Job: its defaults, and what it and its controllers write; a Job without these means the same."""

from __future__ import annotations

import re
from collections.abc import Mapping

from flowplan.planner.manifests.job_draft import POD, value_at
from flowplan.planner.manifests.job_drift import OF_SERVER
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.images import parse_image
from flowplan.schemas.pointers import escape
from flowplan.schemas.runs import Json, Objects

_POD, _CONTAINER, _VOLUME = "/spec/template/spec", "/spec/template/spec/*ontainers/*", "/spec/template/spec/volumes/*"
_PROBE = f"{_CONTAINER}/*Probe"
_DEFAULTS: dict[str, Json] = {
    "/spec/completionMode": "NonIndexed",
    "/spec/manualSelector": False,
    "/spec/podFailurePolicy/rules/*/onPodConditions/*/status": "True",
    "/spec/suspend": False,
    f"{_POD}/dnsPolicy": "ClusterFirst",
    f"{_POD}/enableServiceLinks": True,
    f"{_POD}/hostIPC": False,
    f"{_POD}/hostNetwork": False,
    f"{_POD}/hostPID": False,
    f"{_POD}/schedulerName": "default-scheduler",
    f"{_POD}/terminationGracePeriodSeconds": 30,
    f"{_CONTAINER}/stdin": False,
    f"{_CONTAINER}/terminationMessagePath": "/dev/termination-log",
    f"{_CONTAINER}/terminationMessagePolicy": "File",
    f"{_CONTAINER}/tty": False,
    f"{_CONTAINER}/env/*/value": "",
    f"{_CONTAINER}/env/*/valueFrom/fieldRef/apiVersion": "v1",
    f"{_CONTAINER}/ports/*/protocol": "TCP",
    f"{_CONTAINER}/lifecycle/*/httpGet/path": "/",
    f"{_CONTAINER}/lifecycle/*/httpGet/scheme": "HTTP",
    f"{_PROBE}/failureThreshold": 3,
    f"{_PROBE}/httpGet/path": "/",
    f"{_PROBE}/httpGet/scheme": "HTTP",
    f"{_PROBE}/periodSeconds": 10,
    f"{_PROBE}/successThreshold": 1,
    f"{_PROBE}/timeoutSeconds": 1,
    f"{_VOLUME}/configMap/defaultMode": 0o644,
    f"{_VOLUME}/downwardAPI/defaultMode": 0o644,
    f"{_VOLUME}/downwardAPI/items/*/fieldRef/apiVersion": "v1",
    f"{_VOLUME}/ephemeral/volumeClaimTemplate/spec/volumeMode": "Filesystem",
    f"{_VOLUME}/hostPath/type": "",
    f"{_VOLUME}/projected/defaultMode": 0o644,
    f"{_VOLUME}/projected/sources/*/downwardAPI/items/*/fieldRef/apiVersion": "v1",
    f"{_VOLUME}/projected/sources/*/serviceAccountToken/expirationSeconds": 3600,
    f"{_VOLUME}/secret/defaultMode": 0o644,
}
"""Place -> default of the API (``SetDefaults_*`` in pkg/apis/*/v1/defaults.go of Kubernetes), and what is as good as nothing."""
_EMPTY = {
    *("/metadata/annotations", "/metadata/labels", "/spec/template/metadata", f"{_POD}/nodeSelector"),
    *("/spec/template/metadata/annotations", "/spec/template/metadata/labels", f"{_POD}/securityContext"),
    *(f"{_CONTAINER}/{name}" for name in ("resources", "resources/limits", "resources/requests", "securityContext")),
}
"""Mappings that mean nothing when they are empty; an empty list never does."""

_BY_CONTROLLERS = re.compile(
    r"(?:batch\.kubernetes\.io/)?(?:controller-uid|job-name)|batch\.kubernetes\.io/(?:job-tracking|cronjob-scheduled-timestamp)"
    r"|cronjob\.kubernetes\.io/instantiate|kubectl\.kubernetes\.io/.*|kubernetes\.io/change-cause"
)
"""Labels and annotations of controllers and of kubectl."""


def _compiled(places: Mapping[str, Json]) -> dict[str, list[tuple[re.Pattern[str], Json]]]:
    found: dict[str, list[tuple[re.Pattern[str], Json]]] = {}
    for place, value in places.items():
        pattern = re.compile(re.escape(place).replace(r"\*", "[^/]*"))
        found.setdefault(place.rpartition("/")[2], []).append((pattern, value))
    return found


_BY_NAME = _compiled({**_DEFAULTS, **{place: {} for place in _EMPTY}})


def without_defaults(job: Mapping[str, Json]) -> dict[str, Json]:
    """Return a Job as its author would have written it, without what the API server fills in, in the same order."""
    bare: dict[str, Json] = _bare({key: value for key, value in job.items() if key != "status"}, "")
    for place in (("metadata",), ("spec", "template", "metadata")):
        meta = value_at(bare, place)
        if isinstance(meta, dict):
            for key in [key for key in meta if key in OF_SERVER]:
                del meta[key]
    spec, pod = value_at(bare, ("spec",)), value_at(bare, POD)
    if isinstance(spec, dict):
        _of_spec(spec)
    if isinstance(pod, dict):
        if pod.get("serviceAccount") in (None, pod.get("serviceAccountName")):
            pod.pop("serviceAccount", None)
        containers = [
            c for kind in ("initContainers", "containers") for c in pod.get(kind) or () if isinstance(c, dict)
        ]
        for container in containers:
            _without_policy(container)
    labels, of_pods = (value_at(bare, (*path, "labels")) for path in (("metadata",), ("spec", "template", "metadata")))
    if labels and labels == of_pods:  # the API server gives a Job without labels those of its pods
        del bare["metadata"]["labels"]
    return bare


def asked(live: Objects) -> Objects:
    """Return a live Job as its author may have written it, without its names and the values of its variables."""
    job = without_defaults(live["Job"])
    for key in ("name", "namespace", "generateName"):
        job.get("metadata", {}).pop(key, None)
    for kind in ("initContainers", "containers"):
        for container in value_at(job, (*POD, kind)) or ():
            if "env" in container:
                container["env"] = [{"name": entry["name"]} for entry in container["env"]]
    return {"Job": job}


def _bare(value: Json, place: str) -> Json:
    if isinstance(value, list):
        return [_bare(child, f"{place}/{index}") for index, child in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    found = {}
    labelled = place.endswith(("/metadata/labels", "/metadata/annotations"))
    for key, child in value.items():
        if (child is None and key != "emptyDir") or (labelled and _BY_CONTROLLERS.fullmatch(key)):
            continue
        at = f"{place}/{escape(key)}"
        kept = _bare({} if child is None else child, at)
        if kept == [] or any(
            kept == default and type(kept) is type(default) and pattern.fullmatch(at)
            for pattern, default in _BY_NAME.get(key, ())
        ):
            continue
        found[key] = kept
    return found


_NO_LIMIT_OF_ALL = 2**31 - 1
_RETRIES = 6


def _of_spec(spec: dict[str, Json]) -> None:
    """Remove the defaults of a Job's spec that depend on other fields of it."""
    completions, parallelism = spec.get("completions"), spec.get("parallelism")
    if completions is not None and parallelism == 1:
        del spec["parallelism"]
    if completions == 1 and parallelism in (None, 1):
        del spec["completions"]
    if spec.get("backoffLimit") == (_RETRIES if spec.get("backoffLimitPerIndex") is None else _NO_LIMIT_OF_ALL):
        del spec["backoffLimit"]
    if spec.get("podReplacementPolicy") == ("Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed"):
        del spec["podReplacementPolicy"]
    if not spec.get("manualSelector"):
        spec.pop("selector", None)


def _without_policy(container: dict[str, Json]) -> None:
    try:
        if container.get("imagePullPolicy") == parse_image(str(container.get("image", ""))).pull_policy:
            del container["imagePullPolicy"]
    except InvalidInput:
        pass  # an image that is none is told where the Job is checked
