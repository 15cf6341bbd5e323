"""The layers of a Job manifest, lowest first: base, the user's manifest, the run's fields, customizations."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flowplan.planner.diff import escape
from flowplan.planner.images import parse_image, pull_policy
from flowplan.planner.manifests import ResolvedRun
from flowplan.planner.manifests.job_patch import customize
from flowplan.planner.manifests.job_secrets import LEAK, HiddenSecrets, hide_secrets, leaks
from flowplan.planner.names import kubernetes_label_key, kubernetes_label_value
from flowplan.schemas.documents import Document, scalar_text
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.quantities import duration, memory, quantity
from flowplan.schemas.runs import Json, Origin
from flowplan.schemas.sources import Diagnostic, Path, Position, dotted

CONTAINER_NAME = "main"
"""Name of the container of a run without a manifest of its own."""

DEFAULT_GRACE = 30
"""Seconds; also what Kubernetes uses when nothing is said."""

_POD = ("spec", "template", "spec")
_FIRST = (*_POD, "containers", 0)
_SECTIONS: tuple[Path, ...] = (
    ("metadata",),
    ("metadata", "labels"),
    ("metadata", "annotations"),
    ("spec",),
    ("spec", "template"),
    ("spec", "template", "metadata"),
    ("spec", "template", "metadata", "labels"),
    ("spec", "template", "metadata", "annotations"),
    _POD,
)
_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(
    r"(?:[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", re.IGNORECASE
)
_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_ENV_REFERENCES = {"secret_key_ref": "secretKeyRef", "config_map_key_ref": "configMapKeyRef"}


def pointer(path: Path) -> str:
    """The JSON Pointer into the objects of a path in the Job: ``/Job/spec/template``."""
    return "/Job" + "".join(f"/{escape(part)}" for part in path)


@dataclass(slots=True)
class Draft:
    """A Job manifest in the making; it has no identity yet.

    Attributes:
        job: the manifest.
        origins: JSON Pointer (``/Job/...``) -> where the value was written.
        custom: True when a manifest or customizations of the user went into it.
        policy_is_default: True when nobody gave a pull policy, so that it follows the image (D3).
        secrets: what goes into the run's Secret.
    """

    run: ResolvedRun
    job: dict[str, Json] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    faults: list[Diagnostic] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    custom: bool = False
    policy_is_default: bool = False
    secrets: HiddenSecrets = field(default_factory=HiddenSecrets)

    @property
    def block(self) -> Mapping[str, Any]:
        """The run's ``kubernetes:`` block."""
        return self.run.fields.get("kubernetes") or {}

    @property
    def container(self) -> dict[str, Json]:
        """The first container, the only one that the run's fields change."""
        first: dict[str, Json] = self.job["spec"]["template"]["spec"]["containers"][0]
        return first

    def put(self, path: Path, value: Json, *source: str | int) -> None:
        """Set a value and remember that ``source`` of the run's fields gave it."""
        place: Any = self.job
        for part in path[:-1]:
            place = place[part] if isinstance(part, int) else place.setdefault(part, {})
        place[path[-1]] = value
        self.origins[pointer(path)] = self.run.origin(*source)

    def fault(self, message: str, *source: str | int, hint: str = "") -> None:
        """A fault of the run's own fields."""
        subject = dotted(("runs", self.run.group, *source))
        self.faults.append(Diagnostic(message, _position(self.run.origin(*source)), subject, hint))

    def fault_at(self, path: str, message: str, hint: str = "") -> None:
        """A fault at a JSON Pointer of the manifest, at the place in the file that gave it."""
        origin = self.origin_at(path)
        shown = path.removeprefix("/Job") or "/"
        subject = f"{dotted(('runs', self.run.group))}: {shown}"
        self.faults.append(Diagnostic(message, _position(origin), subject, hint))

    def origin_at(self, path: str) -> Origin:
        """The origin of the value at a pointer, or of its nearest ancestor."""
        while path:
            found = self.origins.get(path)
            if found:
                return found
            path = path.rpartition("/")[0]
        return Origin("default")


def _position(origin: Origin) -> Position | None:
    return Position(origin.file, origin.line or 1, 1) if origin.file else None


def layered(run: ResolvedRun) -> Draft:
    """All layers of a run's Job but its identity; ``faults`` holds everything that is wrong with it."""
    draft = Draft(run)
    _manifest(draft)
    _sections(draft)
    if draft.faults:
        return draft
    for layer in (_metadata, _job_fields, _pod_fields, _container_fields):
        layer(draft)
    before = draft.container.get("image")
    customize(draft)
    if not draft.faults and _sections_survived(draft):
        if draft.policy_is_default and draft.container.get("image") != before:
            draft.container.pop("imagePullPolicy", None)
            _default_policy(draft)
        _last_checks(draft)
    return draft


def _manifest(draft: Draft) -> None:
    """The user's manifest: inline, or the content of the file that ``kubernetes.job`` names (J1)."""
    wanted = draft.block.get("job")
    if wanted is None:
        return
    draft.custom = True
    if isinstance(wanted, str):
        wanted = _manifest_file(draft, wanted)
    else:
        base = ("kubernetes", "job")
        for path, origin in draft.run.origins.items():
            if path[:2] == base:
                draft.origins[pointer(path[2:])] = origin
    if not isinstance(wanted, Mapping):
        draft.fault(f"a Job manifest must be a mapping, not {kind_of(wanted)}", "kubernetes", "job")
        return
    draft.job = copied(wanted)
    for key, value in (("apiVersion", "batch/v1"), ("kind", "Job")):
        given = draft.job.setdefault(key, value)
        if given != value:
            draft.fault_at(f"/Job/{key}", f"must be {value}, not {scalar_shown(given)}")


def _manifest_file(draft: Draft, name: str) -> Json:
    content = draft.run.files.get(name)
    if isinstance(content, Document):
        draft.origins.update(_document_origins(content))
        return content.value
    draft.origins["/Job"] = Origin(name, name)
    return content


_known_documents: dict[int, tuple[Document, dict[str, Origin]]] = {}


def _document_origins(document: Document) -> dict[str, Origin]:
    """The origin of every value of a file; worked out once for a file that many runs share."""
    known = _known_documents.get(id(document))
    if known is None or known[0] is not document:
        file = document.sources.file
        places = {p: document.sources.key(p).line for p in paths_of(document.value)}
        origins = {pointer(p): Origin(f"{file}:{line}", file, line) for p, line in places.items()}
        if len(_known_documents) > 64:
            _known_documents.clear()
        known = _known_documents[id(document)] = (document, origins)
    return known[1]


def paths_of(value: Json, path: Path = ()) -> Iterator[Path]:
    """The paths of a value and of everything in it."""
    yield path
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from paths_of(child, (*path, key))


def copied(value: Json) -> Json:
    """A copy of a JSON value that shares nothing with it, in its order."""
    if isinstance(value, Mapping):
        return {key: copied(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [copied(child) for child in value]
    return value


def kind_of(value: Json) -> str:
    """What a JSON value is, for messages."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "a mapping"}
    return next((name for kind, name in names.items() if isinstance(value, kind)), "something else")


def scalar_shown(value: Json) -> str:
    """A value for messages: scalars as written, else what it is."""
    return f'"{scalar_text(value)}"' if isinstance(value, str | int | float) else kind_of(value)


def _sections(draft: Draft) -> None:
    """Missing sections are filled in at the end of what is there (J2); what has the wrong type is a fault."""
    job = draft.job
    job.setdefault("apiVersion", "batch/v1")
    job.setdefault("kind", "Job")
    if not draft.custom:
        job["metadata"] = {"name": "", "namespace": ""}
        job["spec"] = {"backoffLimit": 0}
    for path in _SECTIONS:
        _section(draft, path)
    pod = _at(job, _POD)
    if isinstance(pod, dict):
        pod.setdefault("restartPolicy", "Never")
        _containers(draft, pod)
    if isinstance(job.get("spec"), dict):
        job["spec"].setdefault("backoffLimit", 0)
    if isinstance(job.get("metadata"), dict):
        job["metadata"].setdefault("name", "")


def _section(draft: Draft, path: Path) -> None:
    parent = _at(draft.job, path[:-1])
    if not isinstance(parent, dict):
        return
    section = parent.setdefault(path[-1], {})
    if not isinstance(section, dict):
        draft.fault_at(pointer(path), f"must be a mapping, not {kind_of(section)}", "leave it out, or fill it in")


def _containers(draft: Draft, pod: dict[str, Json]) -> None:
    containers = pod.setdefault("containers", [{"name": CONTAINER_NAME}])
    where = pointer((*_POD, "containers"))
    if not isinstance(containers, list):
        draft.fault_at(where, f"must be a list of containers, not {kind_of(containers)}")
    elif not containers:
        draft.fault_at(where, "must hold at least one container", "leave it out, or describe the run's container")
    else:
        for index, container in enumerate(containers):
            if not isinstance(container, dict):
                draft.fault_at(f"{where}/{index}", f"a container must be a mapping, not {kind_of(container)}")
        if isinstance(containers[0], dict):
            containers[0].setdefault("name", CONTAINER_NAME)


def _at(value: Json, path: Path) -> Json:
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return None
    return value


def _sections_survived(draft: Draft) -> bool:
    """Customizations may have put anything anywhere."""
    for path in _SECTIONS:
        _section(draft, path)
    pod = _at(draft.job, _POD)
    if not draft.faults and isinstance(pod, dict):
        _containers(draft, pod)
    for key, value in (("apiVersion", "batch/v1"), ("kind", "Job")):
        if draft.job.get(key) != value:
            draft.fault_at(f"/Job/{key}", f"must be {value}, not {scalar_shown(draft.job.get(key))}")
    return not draft.faults


def _metadata(draft: Draft) -> None:
    """Name, namespace, and labels and annotations on the Job and on its pods (K16, K17, W17)."""
    fields, block = draft.run.fields, draft.block
    if fields.get("name"):
        draft.put(("metadata", "name"), fields["name"], "name")
    if block.get("namespace"):
        draft.put(("metadata", "namespace"), block["namespace"], "kubernetes", "namespace")
    elif not draft.job["metadata"].get("namespace"):
        draft.job["metadata"]["namespace"] = draft.run.connection.get("namespace") or "default"
    for key, value in (fields.get("labels") or {}).items():
        _label(draft, key, kubernetes_label_value(scalar_text(value)))
    for key, value in (fields.get("annotations") or {}).items():
        for place in (("metadata",), ("spec", "template", "metadata")):
            draft.put((*place, "annotations", kubernetes_label_key(key)), scalar_text(value), "annotations", key)


def _label(draft: Draft, key: str, value: str) -> None:
    legal = kubernetes_label_key(key)
    if not _LABEL_KEY.fullmatch(legal):
        draft.fault(f'"{key}" has nothing that a label key may hold', "labels", key, hint="use letters, digits, - _ .")
    elif not _LABEL_VALUE.fullmatch(value):
        draft.fault(
            f'"{value}" has nothing that a label value may hold', "labels", key, hint="use letters, digits, - _ ."
        )
    else:
        for place in (("metadata",), ("spec", "template", "metadata")):
            draft.put((*place, "labels", legal), value, "labels", key)


def _job_fields(draft: Draft) -> None:
    """Fields of the Job's own spec: retries, time limit, TTL; 0 counts (W19)."""
    fields, block = draft.run.fields, draft.block
    if fields.get("retries") is not None:
        draft.put(("spec", "backoffLimit"), int(fields["retries"]), "retries")
    if fields.get("timeout") is not None:
        draft.put(("spec", "activeDeadlineSeconds"), math.ceil(duration(fields["timeout"])), "timeout")
    if block.get("finished_job_ttl") is not None:
        seconds = math.ceil(duration(block["finished_job_ttl"]))
        draft.put(("spec", "ttlSecondsAfterFinished"), seconds, "kubernetes", "finished_job_ttl")


def _pod_fields(draft: Draft) -> None:
    fields, block = draft.run.fields, draft.block
    if block.get("service_account_name"):
        source = ("kubernetes", "service_account_name")
        draft.put((*_POD, "serviceAccountName"), block["service_account_name"], *source)
        _legal_name(draft, block["service_account_name"], _DNS_SUBDOMAIN, *source)
    if block.get("image_pull_secrets"):
        _pull_secrets(draft, block["image_pull_secrets"])
    grace = fields.get("grace_period")
    if grace is not None and duration(grace) != DEFAULT_GRACE:
        draft.put((*_POD, "terminationGracePeriodSeconds"), math.ceil(duration(grace)), "grace_period")


def _legal_name(draft: Draft, name: str, form: re.Pattern[str], *source: str) -> None:
    if not form.fullmatch(name):
        draft.fault(f'"{name}" is not a name of Kubernetes', *source, hint="lower-case letters, digits and - only")


def _pull_secrets(draft: Draft, wanted: list[str]) -> None:
    pod = draft.job["spec"]["template"]["spec"]
    given = pod.get("imagePullSecrets")
    kept = list(given) if isinstance(given, list) else []
    known = {entry.get("name") for entry in kept if isinstance(entry, dict)}
    added = [{"name": name} for name in wanted if name not in known]
    draft.put((*_POD, "imagePullSecrets"), kept + added, "kubernetes", "image_pull_secrets")


def _container_fields(draft: Draft) -> None:
    """The run's fields on the first container (K9, K10): ``entrypoint`` is its command, ``command`` its args."""
    fields = draft.run.fields
    _warn_of_sidecar(draft)
    named = (("image", "image"), ("image_pull_policy", "imagePullPolicy"), ("working_dir", "workingDir"))
    for source, target in named:
        if fields.get(source):
            draft.put((*_FIRST, target), fields[source], source)
    draft.policy_is_default = _default_policy(draft)
    for source, target in (("entrypoint", "command"), ("command", "args")):
        if fields.get(source) is not None:
            draft.put((*_FIRST, target), [scalar_text(part) for part in fields[source]], source)
            _list_origins(draft, source, target)
    _resources(draft)
    _env(draft)


def _list_origins(draft: Draft, source: str, target: str) -> None:
    for path, origin in draft.run.origins.items():
        if len(path) == 2 and path[0] == source:
            draft.origins[pointer((*_FIRST, target, path[1]))] = origin


def _warn_of_sidecar(draft: Draft) -> None:
    """A sidecar put first would get the run's image (1.12.17)."""
    container, image = draft.container, draft.run.fields.get("image")
    containers = draft.job["spec"]["template"]["spec"]["containers"]
    if image and len(containers) > 1 and container.get("image") not in (None, image):
        draft.warnings.append(
            f'the run\'s image replaces {container["image"]} of the first container "{container["name"]}"; '
            "if that is a sidecar, put the run's container first"
        )


def _resources(draft: Draft) -> None:
    """cpu and memory as request and limit, gpu as a limit; as written where Kubernetes can read it."""
    for name, value in (draft.run.fields.get("resources") or {}).items():
        if value is None:
            continue
        try:
            amount = _amount(name, value)
        except ValueError as error:
            draft.fault(str(error), "resources", name)
            continue
        if name == "gpu":
            draft.put((*_FIRST, "resources", "limits", "nvidia.com/gpu"), amount, "resources", "gpu")
            continue
        for kind in ("requests", "limits"):
            draft.put((*_FIRST, "resources", kind, name), amount, "resources", name)


def _amount(name: str, value: Any) -> str:
    text = scalar_text(value)
    if name != "memory":
        quantity(text)
        return text
    size = memory(value)
    try:
        if quantity(text) == size:
            return text
    except ValueError:
        pass  # a Docker size such as 2g: Kubernetes spells it differently
    return f"{size // 2**20}Mi" if size % 2**20 == 0 else str(size)


def _env(draft: Draft) -> None:
    """One entry a name: the run's win in place, ``null`` removes, ``valueFrom`` entries stay (C18, W5, K20)."""
    wanted = draft.run.fields.get("env") or {}
    base = pointer((*_FIRST, "env"))
    given = draft.container.setdefault("env", [])
    if not wanted or not isinstance(given, list) or not all(isinstance(e, dict) and "name" in e for e in given):
        return
    entries = {str(entry["name"]): entry for entry in given}
    old = {str(e["name"]): draft.origin_at(f"{base}/{i}") for i, e in enumerate(given)} if given else {}
    for name, value in wanted.items():
        if value is None:
            entries.pop(name, None)
        else:
            entries[name] = _env_entry(name, value)
    draft.container["env"] = list(entries.values())
    for path in [p for p in draft.origins if p.startswith(base)] if old else ():
        del draft.origins[path]
    for index, name in enumerate(entries):
        draft.origins[f"{base}/{index}"] = draft.run.origin("env", name) if name in wanted else old[name]


def _env_entry(name: str, value: Json) -> dict[str, Json]:
    if isinstance(value, Mapping):
        sources = {_ENV_REFERENCES[key]: copied(ref) for key, ref in value.items() if key in _ENV_REFERENCES}
        return {"name": name, "valueFrom": sources}
    return {"name": name, "value": scalar_text(value)}


def _default_policy(draft: Draft) -> bool:
    """The pull policy that the image asks for, where nobody gave one (D3); True when it was set."""
    container = draft.container
    image = container.get("image")
    if not isinstance(image, str) or not image or container.get("imagePullPolicy"):
        return False
    try:
        container["imagePullPolicy"] = pull_policy(image, None)
    except InvalidInput:
        return False  # told with the other faults of the image
    draft.origins[pointer((*_FIRST, "imagePullPolicy"))] = Origin("default")
    return True


def _last_checks(draft: Draft) -> None:
    """What only the whole manifest shows, and the secrets' way out of it."""
    container, pod = draft.container, draft.job["spec"]["template"]["spec"]
    if container.get("env") == []:
        del container["env"]
    _image_faults(draft, container.get("image"))
    policy = pod.get("restartPolicy")
    if policy not in ("Never", "OnFailure"):
        where = pointer((*_POD, "restartPolicy"))
        draft.fault_at(where, f"must be Never or OnFailure for a Job, not {scalar_shown(policy)}")
    namespace = draft.job["metadata"].get("namespace")
    if not isinstance(namespace, str) or not _DNS_LABEL.fullmatch(namespace):
        hint = "lower-case letters, digits and - only"
        draft.fault_at("/Job/metadata/namespace", f"{scalar_shown(namespace)} is not the name of a namespace", hint)
    if draft.custom:
        _schema_faults(draft)
    draft.secrets = hide_secrets(draft.job)
    for path in leaks(draft.job):
        draft.fault_at("/Job" + path, LEAK, "give it in env, entrypoint or command")


def _image_faults(draft: Draft, image: Json) -> None:
    where = pointer((*_FIRST, "image"))
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


def _schema_faults(draft: Draft) -> None:
    from flowplan.planner.manifests.job_check import problems

    for problem in problems(draft.job):
        if problem.severity == "error":
            draft.fault_at("/Job" + problem.pointer, problem.message, problem.hint)
        else:
            draft.warnings.append(f"{problem.pointer}: {problem.message}")
