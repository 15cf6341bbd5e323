"""The layers of a Job manifest, lowest first: base, the user's manifest, the run's fields, customizations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from flowplan.planner.manifests import ResolvedRun
from flowplan.planner.manifests.job_draft import FIRST, POD, Draft, pointer, value_at
from flowplan.planner.manifests.job_fields import default_namespace, default_policy, run_layer
from flowplan.planner.manifests.job_kinds import as_job
from flowplan.planner.manifests.job_patch import customize
from flowplan.planner.manifests.job_secrets import LEAK, hide_secrets, leaks
from flowplan.planner.manifests.names import is_label_key, is_label_value, kubernetes_label_value
from flowplan.schemas.documents import Document
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.fields import kind_of
from flowplan.schemas.images import parse_image
from flowplan.schemas.pointers import copied, walk
from flowplan.schemas.runs import Json, Origin, canonical
from flowplan.schemas.secrets import tokens_in
from flowplan.schemas.sources import Path, Position

CONTAINER_NAME = "main"
"""Name of the container of a run without a manifest of its own."""

_SECTIONS: tuple[Path, ...] = (
    ("metadata",),
    ("metadata", "labels"),
    ("metadata", "annotations"),
    ("spec",),
    ("spec", "template"),
    ("spec", "template", "metadata"),
    ("spec", "template", "metadata", "labels"),
    ("spec", "template", "metadata", "annotations"),
    POD,
)
_OWN_BACKOFF = ("backoffLimitPerIndex", "successPolicy")
"""Fields of a Job with which the API has another default for ``backoffLimit``, or with which 0 defeats them."""

_LABELLED = tuple(path for path in _SECTIONS if path[-1] in ("labels", "annotations"))

_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def layered(run: ResolvedRun) -> Draft:
    """Build a run's Job from all its layers, without an identity; ``faults`` holds everything that is wrong with it."""
    draft = Draft(run)
    if not _manifest(draft):
        return draft
    if _sections(draft):
        _default_backoff(draft)
        run_layer(draft)
        before = draft.container.get("image")
        customize(draft)
        if _sections(draft):
            default_namespace(draft)
            _engine_backoff(draft)
            if draft.policy_is_default and draft.container.get("image") != before:
                draft.container.pop("imagePullPolicy", None)
                default_policy(draft)
    _last_checks(draft)
    return draft


def _manifest(draft: Draft) -> bool:
    """Take the user's manifest, inline or from the file that ``kubernetes.job`` names; return whether it is a Job."""
    wanted = draft.block.get("job")
    if wanted is None:
        return True
    draft.custom = True
    if isinstance(wanted, str):
        name, wanted = wanted, draft.run.files.get(wanted)
        draft.origins["/Job"] = Origin(name, name)
        if isinstance(wanted, Document):
            draft.origins = {
                pointer(path): _written_at(name, wanted.sources.key(path)) for path, _ in walk(wanted.value)
            }
            wanted = wanted.value
    else:
        base = ("kubernetes", "job")
        for path, origin in draft.run.origins.items():
            if path[:2] == base:
                draft.origins[pointer(path[2:])] = origin
    if not isinstance(wanted, Mapping):
        draft.fault(f"a Job manifest must be a mapping, not {kind_of(wanted)}", "kubernetes", "job")
        return False
    draft.job = copied(wanted)
    return as_job(draft)


@lru_cache(maxsize=4096)  # the same few places for every run that names the file
def _written_at(file: str, at: Position) -> Origin:
    return Origin(f"{file}:{at.line}", file, at.line, at.column)


def _sections(draft: Draft) -> bool:
    """Fill in missing sections, behind what is there; what has the wrong type is a fault.

    Returns:
        whether every section is what it should be, so that the next layer can be put on it.
    """
    job, faults = draft.job, len(draft.faults)
    _fill(draft, job, (), "apiVersion", "batch/v1")
    _fill(draft, job, (), "kind", "Job")
    if not draft.custom and "spec" not in job:
        job["metadata"] = {"name": "", "namespace": ""}
        job["spec"] = {"backoffLimit": 0}
    for path in _SECTIONS:
        parent = value_at(job, path[:-1])
        if isinstance(parent, dict):
            if parent.get(path[-1]) is None:  # to the API server null is the same as nothing
                parent[path[-1]] = {}
            if not isinstance(section := parent[path[-1]], dict):
                draft.fault_at(
                    pointer(path), f"must be a mapping, not {kind_of(section)}", "leave it out, or fill it in"
                )
    pod = value_at(job, POD)
    if isinstance(pod, dict):
        _fill(draft, pod, POD, "restartPolicy", "Never")
        _containers(draft, pod)
    if isinstance(job.get("metadata"), dict):
        job["metadata"].setdefault("name", "")
    return len(draft.faults) == faults


def _default_backoff(draft: Draft) -> None:
    """Have nothing tried again unless the user says so, or the API's default depends on other fields."""
    spec = draft.job["spec"]
    if "backoffLimit" not in spec and not any(spec.get(key) is not None for key in _OWN_BACKOFF):
        _fill(draft, spec, ("spec",), "backoffLimit", 0)


def _engine_backoff(draft: Draft) -> None:
    """Take our default away again, where customizations brought a field that the API's default depends on."""
    spec = draft.job["spec"]
    ours = spec.get("backoffLimit") == 0 and draft.origin_at("/Job/spec/backoffLimit").text == "default"
    if ours and any(spec.get(key) is not None for key in _OWN_BACKOFF):
        del spec["backoffLimit"]


def _fill(draft: Draft, section: dict[str, Json], path: Path, key: str, value: Json) -> None:
    """Fill in a default that the manifest goes without; the section's own origin is not the value's."""
    if section.get(key) in (None, ""):
        section[key] = value
        if draft.custom:
            draft.origins[pointer((*path, key))] = Origin("default")


def _containers(draft: Draft, pod: dict[str, Json]) -> None:
    _fill(draft, pod, POD, "containers", [{"name": CONTAINER_NAME}])
    containers = pod["containers"]
    where = pointer((*POD, "containers"))
    if not isinstance(containers, list):
        draft.fault_at(where, f"must be a list of containers, not {kind_of(containers)}")
    elif not containers:
        draft.fault_at(where, "must hold at least one container", "leave it out, or describe the run's container")
    else:
        for index, container in enumerate(containers):
            if not isinstance(container, dict):
                draft.fault_at(f"{where}/{index}", f"a container must be a mapping, not {kind_of(container)}")
        if isinstance(containers[0], dict):
            _fill(draft, containers[0], FIRST, "name", CONTAINER_NAME)


def _last_checks(draft: Draft) -> None:
    """Check what only the whole manifest shows, and move secrets out of it."""
    job = draft.job
    for key, value in (("apiVersion", "batch/v1"), ("kind", "Job")):  # customizations may have changed them
        if job.get(key) != value:
            draft.fault_at(f"/Job/{key}", f"must be {value}, not {kind_of(job.get(key))}")
    container, pod, metadata = value_at(job, FIRST), value_at(job, POD), job.get("metadata")
    if isinstance(container, dict):
        if container.get("env") == []:
            del container["env"]
        _image_faults(draft, container.get("image"))
    if isinstance(pod, dict) and pod.get("restartPolicy") not in ("Never", "OnFailure"):
        shown = kind_of(pod.get("restartPolicy"))
        draft.fault_at(pointer((*POD, "restartPolicy")), f"must be Never or OnFailure for a Job, not {shown}")
    namespace = metadata.get("namespace") if isinstance(metadata, dict) else None
    if namespace and not (isinstance(namespace, str) and _DNS_LABEL.fullmatch(namespace)):
        hint = "lower-case letters, digits and - only"
        draft.fault_at("/Job/metadata/namespace", f"{kind_of(namespace)} is not the name of a namespace", hint)
    if draft.custom:
        for labelled in _LABELLED:
            _label_faults(draft, labelled)
    text = canonical(job)
    if draft.custom:
        _schema_faults(draft, text)
    if "(sensitive " in text and not draft.faults:
        draft.secrets = hide_secrets(job)
        for path in leaks(job):
            draft.fault_at("/Job" + path, LEAK, "give it in env, entrypoint or command")


def _label_faults(draft: Draft, path: Path) -> None:
    """Refuse illegal labels and annotations of a manifest or of customizations; those of the run's fields are legal by now."""
    held = value_at(draft.job, path)
    for key, value in held.items() if isinstance(held, dict) else ():
        if not is_label_key(key):
            hint = "letters, digits, - _ and . only, at most 63, with a domain and / before them if you like"
            draft.fault_at(pointer((*path, key)), f'"{key}" is not a legal key', hint)
        elif path[-1] == "labels" and isinstance(value, str) and not is_label_value(value) and not tokens_in(value):
            legal = kubernetes_label_value(value)
            hint = f'"{legal}" would be' if is_label_value(legal) else ""
            draft.fault_at(pointer((*path, key)), f'"{value}" is not a legal value of a label', hint)


def _image_faults(draft: Draft, image: Json) -> None:
    where = pointer((*FIRST, "image"))
    if not image:
        hint = "set `image`, or the image of the manifest's first container"
        draft.fault("a Job needs an image", "image", hint=hint)
    elif not isinstance(image, str):
        draft.fault_at(where, f"an image must be a string, not {kind_of(image)}")
    elif "(sensitive " not in image:
        try:
            parse_image(image)
        except InvalidInput as error:
            first = error.diagnostics[0]
            draft.fault_at(where, first.message, first.hint)


def _schema_faults(draft: Draft, text: str) -> None:
    from flowplan.planner.manifests.job_check import problems

    told = set(draft.faulted)
    for problem in problems(draft.job, text):
        if problem.severity == "error":
            if "/Job" + problem.pointer not in told:
                draft.fault_at("/Job" + problem.pointer, problem.message, problem.hint)
        else:
            draft.warnings.append(f"{problem.pointer}: {problem.message}")
