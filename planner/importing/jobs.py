"""Jobs, CronJobs and Pods of Kubernetes as runs: common fields become those of the run, the rest stays a manifest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from flowplan.planner.importing import (
    ENVIRONMENT,
    NO_SCHEDULE,
    VARIABLE,
    Around,
    Hidden,
    Imported,
    Remark,
    Secret,
    Source,
    run_name,
)
from flowplan.planner.importing.secrets import looks_secret
from flowplan.planner.manifests import ResolvedRun
from flowplan.planner.manifests.job_check import problems
from flowplan.planner.manifests.job_defaults import without_defaults
from flowplan.planner.manifests.job_draft import FIRST, POD, Draft, pointer, value_at
from flowplan.planner.manifests.job_kinds import as_job
from flowplan.planner.manifests.names import is_kubernetes_name, is_own_label
from flowplan.schemas.documents import Document
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.pointers import copied, escape, nearest, walk
from flowplan.schemas.quantities import written_duration
from flowplan.schemas.runs import Json, Objects, Origin
from flowplan.schemas.sources import Path, Position

PROVIDER = "kubernetes"
KINDS = ("Job", "CronJob", "Pod")

_OF_CRONJOB = {
    "schedule": NO_SCHEDULE,
    "timeZone": "set it where the schedule is",
    "concurrencyPolicy": "a run that is still live is never started a second time",
    "startingDeadlineSeconds": "it belongs to the schedule",
    "suspend": "leave the schedule out while it is to rest",
    "successfulJobsHistoryLimit": "the state keeps the history; `flowplan state prune` makes it shorter",
    "failedJobsHistoryLimit": "the state keeps the history; `flowplan state prune` makes it shorter",
}
"""Fields of a CronJob that say when Jobs are made of it, and what stands for them here."""
_FILLED_IN = {
    "concurrencyPolicy": "Allow",
    "suspend": False,
    "successfulJobsHistoryLimit": 3,
    "failedJobsHistoryLimit": 1,
}
"""What the API server fills in there."""


_MANAGED_BY = "app.kubernetes.io/managed-by"


class _Item(NamedTuple):
    """An object, and where its parts were written: nowhere for one that comes from a cluster."""

    value: dict[str, Json]
    places: Mapping[Path, Position] = MappingProxyType({})

    @property
    def title(self) -> str:
        return f'{self.value.get("kind")} "{_name(self.value)}"'

    def at(self, *path: str | int) -> Position | None:
        """Return where a part of it was written, or what holds that."""
        found = (self.places.get(path[:end]) for end in range(len(path), -1, -1))
        return next(filter(None, found), None)


def is_manifest(value: Json) -> bool:
    """Return whether a document is an object of Kubernetes, or a list of some."""
    return isinstance(value, dict) and isinstance(value.get("kind"), str) and "apiVersion" in value


def imported(documents: Sequence[Document], around: Around) -> Source:
    """Return the runs of all Jobs, CronJobs and Pods; every other object is a remark.

    Raises:
        InvalidInput: one of them is not valid, or there is none.
    """
    items = [
        item
        for document in documents
        for item in _items(document.value, {path: document.sources.key(path) for path, _ in walk(document.value)}, "")
    ]
    wanted = [item for item in items if item.value.get("kind") in KINDS]
    if not wanted:
        found = ", ".join(f"{item.title} (line {item.places[()].line})" for item in items[:5])
        raise InvalidInput(f"holds no Job, CronJob or Pod: {found or 'nothing'}", at=documents[0].sources.value(()))
    hint = "it is left to whoever applies it today; the runs refer to it by its name"
    others = [Remark(item.title, "is no run", hint, item.at(), lost=False) for item in items if item not in wanted]
    return Source([_run(item) for item in wanted], others)


def of_cluster(objects: Sequence[Json]) -> Source:
    """Return the runs of Jobs and CronJobs that the API server has listed; what flowplan or a CronJob made is a remark."""
    items = [_Item(one) for one in objects]
    cronjobs = {item.value["metadata"].get("uid"): item.title for item in items if item.value["kind"] == "CronJob"}
    runs, remarks = [], []
    for item in items:
        if item.value["kind"] == "Status":
            remarks.append(Remark("CronJobs", item.value["message"], "import their manifests", lost=False))
        elif "flowplan.dev/lineage" in (item.value["metadata"].get("labels") or {}):
            remarks.append(Remark(item.title, "was made by flowplan", "the spec that made it has the run", lost=False))
        elif owners := cronjobs.keys() & {one.get("uid") for one in item.value["metadata"].get("ownerReferences", ())}:
            made_by = cronjobs[owners.pop()]
            remarks.append(Remark(item.title, f"was made by {made_by}, which becomes a run", lost=False))
        else:
            runs.append(_run(item))
    return Source(runs, remarks)


def _items(value: Json, places: Mapping[Path, Position], subject: str) -> Iterator[_Item]:
    """Yield the objects of a document, or of a list of some."""
    items = value.get("items") if isinstance(value, dict) else None
    if isinstance(value, dict) and str(value.get("kind", "")).endswith("List") and isinstance(items, list):
        of_list = {"apiVersion": value.get("apiVersion"), "kind": value["kind"].removesuffix("List")}
        typed = {} if value["kind"] == "List" else of_list  # the API leaves them out in a JobList
        inside: dict[str | int, dict[Path, Position]] = {}
        for path, at in places.items():
            if len(path) > 1 and path[0] == "items":
                inside.setdefault(path[1], {})[path[2:]] = at
        for index, item in enumerate(items):
            whole = {**typed, **item} if isinstance(item, dict) else item
            yield from _items(whole, inside[index], f"items[{index}]")
    elif is_manifest(value):
        yield _Item(value, places)
    else:
        message, hint = "is no object of Kubernetes", "it needs apiVersion and kind"
        raise InvalidInput(message, at=places[()], subject=subject, hint=hint)


def _name(value: Mapping[str, Json]) -> str:
    metadata = value.get("metadata")
    held = metadata if isinstance(metadata, dict) else {}
    return str(held.get("name") or str(held.get("generateName") or "").rstrip("-") or "")


def _run(item: _Item) -> Imported:
    """Return the run of a Job, or of what holds one."""
    remarks = list(_beside(item))
    draft = _job(item, remarks)
    source = without_defaults(draft.job)
    at = partial(_position, draft.origins)
    name = _name(item.value)
    run = Imported(run_name(name or "job"), item.title, {}, {"Job": source}, partial(plain, source), at, remarks)
    _Lifting(run, copied(source)).lift()
    if item.value["kind"] == "CronJob":
        del run.fields["provider"]
        run.fields = {
            "provider": PROVIDER,
            "description": f"CronJob {name}: {item.value['spec'].get('schedule')}",
            **run.fields,
            "rerun": "always",  # each night again, unlike a Job
        }
    return run


def _beside(item: _Item) -> Iterator[Remark]:
    """Yield what of a CronJob is not part of its Jobs: when they are made."""
    spec = item.value.get("spec")
    if item.value["kind"] != "CronJob" or not isinstance(spec, dict):
        return
    for key, value in spec.items():
        if key != "jobTemplate" and value is not None and value != _FILLED_IN.get(key):
            lost, instead = key not in _OF_CRONJOB, _OF_CRONJOB.get(key, "")
            yield Remark(f"spec.{key}", "is no part of a Job", instead, item.at("spec", key), lost, value)


def _job(item: _Item, remarks: list[Remark]) -> Draft:
    """Return the Job of an object as a draft, which knows where each value was written.

    Raises:
        InvalidInput: it is none that the API server would take.
    """
    value = copied(item.value)
    origins = {
        pointer(path): Origin(f"{at.file}:{at.line}", at.file, at.line, at.column) for path, at in item.places.items()
    }
    draft = Draft(ResolvedRun("", "", 0, PROVIDER, PROVIDER, {}), value, origins)
    spec = value.get("spec")
    if value["kind"] == "Pod" and isinstance(spec, dict) and spec.get("restartPolicy", "Always") == "Always":
        spec.pop("restartPolicy", None)
        told = "a Job tries again by `retries`"
        remarks.append(Remark("spec.restartPolicy", "a run comes to an end", told, item.at(), value="Always"))
    if as_job(draft):
        _check(draft)
    if draft.faults:
        raise InvalidInput([f._replace(subject=f"{item.title}: {f.subject.rpartition(': ')[2]}") for f in draft.faults])
    metadata = value_at(draft.job, ("metadata",)) or {}
    if value["kind"] == "CronJob":
        metadata.pop("name", None)  # Jobs of a CronJob have names of their own
    elif generated := metadata.pop("generateName", None):
        told = "the Job is called by project, run and attempt; `name` gives it another name"
        at = draft.origin_at("/Job/metadata/generateName").position
        remarks.append(Remark("metadata.generateName", "names are known beforehand", told, at, False, generated))
    for place in (("metadata", "labels"), ("spec", "template", "metadata", "labels")):
        labels = value_at(draft.job, place) or {}
        if (manager := labels.pop(_MANAGED_BY, None)) and place[0] == "metadata":
            at = draft.origin_at(f"/Job/metadata/labels/{escape(_MANAGED_BY)}").position
            remarks.append(
                Remark(f"labels.{_MANAGED_BY}", "it is flowplan that manages it now", "", at, False, manager)
            )
    pod = value_at(draft.job, POD)
    if not pod.get("restartPolicy"):
        pod["restartPolicy"] = "Never"
        if value["kind"] != "Pod":
            why = "is missing, which the API server refuses; Never is sent"
            remarks.append(Remark("spec.template.spec.restartPolicy", why, "", item.at(), False))
    return draft


def _check(draft: Draft) -> None:
    """Note what is wrong with a Job, at the places of its file."""
    if draft.job.get("apiVersion") != "batch/v1":
        draft.fault_at("/Job/apiVersion", f'must be batch/v1, not "{draft.job.get("apiVersion")}"')
    first = value_at(draft.job, FIRST)
    if not isinstance(first, dict):
        hint = "a part of a Job is for `kubernetes.job` of a run that has the rest"
        draft.fault_at("/Job/spec/template/spec/containers", "there is no container", hint)
        return
    if not first.get("image"):
        draft.fault_at("/Job/spec/template/spec/containers/0/image", "is missing")
    for problem in problems(draft.job):
        if problem.severity == "error":
            draft.fault_at("/Job" + problem.pointer, problem.message, problem.hint)
    if value_at(draft.job, (*POD, "restartPolicy")) not in (None, "", "Never", "OnFailure"):
        draft.fault_at("/Job/spec/template/spec/restartPolicy", "must be Never or OnFailure for a Job")


def _position(origins: Mapping[str, Origin], at: str) -> Position | None:
    """Return where the value at a pointer was written, or what holds it."""
    found = nearest(origins, at)
    return found.position if found else None


def plain(source: Mapping[str, Any], rendered: Objects) -> Objects:
    """Return the Job of rendered objects as its source would have it.

    It has no marks of flowplan, no defaults, no name and no namespace where the source has none, and secrets stand where
    they were written out.
    """
    job = copied(rendered["Job"])
    for key in {"name", "namespace"} - source.get("metadata", {}).keys():
        job["metadata"].pop(key, None)
    for path in (("metadata",), ("spec", "template", "metadata")):
        meta = value_at(job, path) or {}
        for kind in ("labels", "annotations"):
            for key in [key for key in meta.get(kind) or {} if is_own_label(key)]:
                if key.startswith("flowplan.dev/") or meta[kind][key] == "flowplan":
                    del meta[kind][key]
    data = rendered.get("Secret", {}).get("stringData", {})
    for kind in ("initContainers", "containers"):
        for container in value_at(job, (*POD, kind)) or ():
            _reveal(container, rendered["Job"]["metadata"]["name"], data)
    bare = without_defaults(job)
    return {"Job": {key: value for key, value in bare.items() if value or key in source}}


def _reveal(container: dict[str, Any], secret: str, data: Mapping[str, str]) -> None:
    """Put the values of a run's own Secret back where they were in the container."""
    for part in ("command", "args"):
        for index, text in enumerate(container.get(part) or ()):
            container[part][index] = re.sub(
                r"\$\((FLOWPLAN_SENSITIVE_\d+)\)", lambda found: data.get(found[1], found[0]), text
            )
    kept = []
    for entry in container.get("env") or ():
        reference = (entry.get("valueFrom") or {}).get("secretKeyRef") or {}
        if reference.get("name") != secret or reference.get("key") not in data:
            kept.append(entry)
        elif not entry["name"].startswith("FLOWPLAN_SENSITIVE_"):
            kept.append({"name": entry["name"], "value": data[reference["key"]]})
    if kept:
        container["env"] = kept
    else:
        container.pop("env", None)


# --- the run ---------------------------------------------------------------------------------------------------------

_SECONDS = ("activeDeadlineSeconds", "terminationGracePeriodSeconds", "ttlSecondsAfterFinished")
_FIELDS: dict[Path, Path] = {
    (*FIRST, "image"): ("image",),
    (*FIRST, "imagePullPolicy"): ("image_pull_policy",),
    (*FIRST, "command"): ("entrypoint",),
    (*FIRST, "args"): ("command",),
    (*FIRST, "workingDir"): ("working_dir",),
    (*FIRST, "env"): ("env",),
    (*FIRST, "resources"): ("resources",),
    ("spec", "template", "metadata", "labels"): ("labels",),
    ("spec", "template", "metadata", "annotations"): ("annotations",),
    ("metadata", "name"): ("name",),
    ("spec", "activeDeadlineSeconds"): ("timeout",),
    ("spec", "backoffLimit"): ("retries",),
    (*POD, "terminationGracePeriodSeconds"): ("grace_period",),
    ("metadata", "namespace"): ("kubernetes", "namespace"),
    (*POD, "serviceAccountName"): ("kubernetes", "service_account_name"),
    (*POD, "imagePullSecrets"): ("kubernetes", "image_pull_secrets"),
    ("spec", "ttlSecondsAfterFinished"): ("kubernetes", "finished_job_ttl"),
}
"""Places in a Job, and the fields of a run that put a value there; in the order of the spec."""
_REFERENCES = {"secretKeyRef": "secret_key_ref", "configMapKeyRef": "config_map_key_ref"}
_RETRIES = 6


class _Lifting:
    """Moves what a run has fields for out of a Job; what remains stays its manifest."""

    def __init__(self, run: Imported, job: dict[str, Json]) -> None:
        self.run, self.job = run, job

    def lift(self) -> None:
        """Fill in the fields of the run."""
        spec, first = self.job["spec"], value_at(self.job, FIRST)
        if not any(spec.get(key) is not None for key in ("backoffLimit", "backoffLimitPerIndex", "successPolicy")):
            spec["backoffLimit"] = _RETRIES  # flowplan's own default is another one
        self._hide()
        special = {"env": self._env, "resources": self._resources, "labels": self._labels, "annotations": self._labels}
        special |= {"imagePullSecrets": self._pull_secrets}
        fields: dict[str, Any] = {"provider": PROVIDER}
        for place, target in _FIELDS.items():
            holder, key = value_at(self.job, place[:-1]), str(place[-1])
            if not isinstance(holder, dict) or holder.get(key) is None:
                continue
            value = special.get(key, self._whole)(holder, key)
            if value not in (None, {}):
                block = fields if len(target) == 1 else fields.setdefault(str(target[0]), {})
                block[str(target[-1])] = value
        self.run.fields = fields
        if first == {"name": "main"}:
            del self.job["spec"]["template"]["spec"]["containers"]
        if manifest := self._rest():
            fields.setdefault("kubernetes", {})["job"] = manifest

    def _whole(self, holder: dict[str, Json], key: str) -> Json:
        """Take a value that the field of the run can have, so that exactly it comes out again."""
        value = holder[key]
        unfit = not is_kubernetes_name(value) if key == "name" else key == "activeDeadlineSeconds" and value <= 0
        if unfit or value == "":
            return None
        del holder[key]
        return written_duration(value) if key in _SECONDS else value

    def _rest(self) -> Json:
        """Return what remains of the Job, without what is filled in anyway."""
        job = self.job
        for key in ("apiVersion", "kind"):
            job.pop(key, None)
        pod = value_at(job, POD)
        if pod.get("restartPolicy") == "Never":
            del pod["restartPolicy"]
        for path in (POD, ("spec", "template", "metadata"), ("spec", "template"), ("spec",), ("metadata",)):
            holder = value_at(job, path[:-1])
            if isinstance(holder, dict) and holder.get(path[-1]) == {}:
                del holder[path[-1]]
        return job

    def _labels(self, of_pods: dict[str, Json], key: str) -> Json:
        """Take what the Job and its pods have alike, which is where the run's labels go.

        A Job without labels has those of its pods.
        """
        of_job = self.job.get("metadata") or {}
        if key == "labels" and not of_job.get(key):
            return of_pods.pop(key)
        alike = {k: v for k, v in of_pods[key].items() if k in (of_job.get(key) or {}) and of_job[key][k] == v}
        for holder in (of_job, of_pods):
            left = {k: v for k, v in (holder.pop(key, None) or {}).items() if k not in alike}
            holder |= {key: left} if left else {}
        return alike

    def _pull_secrets(self, holder: dict[str, Json], key: str) -> Json:
        names = [entry.get("name") for entry in holder[key] if isinstance(entry, dict) and entry.keys() == {"name"}]
        if len(names) != len(holder[key]) or len(set(names)) != len(names):
            return None
        del holder[key]
        return names

    def _resources(self, holder: dict[str, Json], key: str) -> Json:
        """Take cpu and memory that are requested and limited alike, and GPUs that are limited only."""
        requests, limits = (holder[key].get(part) or {} for part in ("requests", "limits"))
        gpu = "nvidia.com/gpu"
        found = {n: limits[n] for n in ("cpu", "memory") if n in limits and str(requests.get(n)) == str(limits[n])}
        if gpu in limits and gpu not in requests:
            found["gpu"] = limits.pop(gpu)
        for name in found.keys() - {"gpu"}:
            del requests[name], limits[name]
        holder[key] = {part: value for part, value in holder[key].items() if value}
        if not holder[key]:
            del holder[key]
        return found

    def _env(self, holder: dict[str, Json], key: str) -> Json:
        """Take the variables of the first container, all or none, for their order counts; secrets are taken anyway."""
        entries = holder[key]
        names = [entry["name"] for entry in entries]
        taken = {entry["name"]: self._variable(entry) for entry in entries}
        if len(set(names)) == len(names) and all(value is not None for value in taken.values()):
            del holder[key]
            return taken
        hidden = {name: value for name, value in taken.items() if isinstance(value, Secret)}
        for entry in entries:
            if entry["name"] in hidden:
                entry.pop("value", None)
        return hidden

    def _variable(self, entry: Mapping[str, Any]) -> Json:
        """Return a variable as the spec writes it, None where it cannot."""
        value = entry.get("value")
        if isinstance(value, Secret):
            return value
        if "valueFrom" not in entry:
            return value or ""
        if len(entry["valueFrom"]) != 1:
            return None
        (kind, reference), *_ = entry["valueFrom"].items()
        if kind in _REFERENCES and isinstance(reference, dict) and reference.keys() == {"name", "key"}:
            return {_REFERENCES[kind]: reference}
        return None

    def _hide(self) -> None:
        """Put references in place of variables that look like secrets, in all containers."""
        for kind in ("containers", "initContainers"):
            for index, container in enumerate(value_at(self.job, (*POD, kind)) or ()):
                for number, entry in enumerate(container.get("env") or ()):
                    name, value = str(entry.get("name")), entry.get("value")
                    if not isinstance(value, str) or not looks_secret(name, value):
                        continue
                    secret = Secret(ENVIRONMENT, name)
                    if (kind, index) != ("containers", 0):  # only the first one has the variables of the run
                        secret = Secret(VARIABLE, re.sub(r"\W", "_", f"{container.get('name')}_{name}").lower())
                    at = self.run.at(f"/Job/spec/template/spec/{kind}/{index}/env/{number}")
                    place = f"spec.template.spec.{kind}[{index}].env[{number}] ({name})"
                    self.run.secrets[secret] = Hidden(value, place, at)
                    entry["value"] = secret
