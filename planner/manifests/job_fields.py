"""The run's own fields as a layer of its Job: metadata, Job spec, pod, first container."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from flowplan.planner.manifests.job_draft import FIRST, POD, Draft, pointer
from flowplan.planner.manifests.names import is_label_key, is_label_value, kubernetes_label_key, kubernetes_label_value
from flowplan.schemas.documents import scalar_text
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.images import parse_image
from flowplan.schemas.pointers import copied
from flowplan.schemas.quantities import duration, memory, quantity
from flowplan.schemas.runs import Json, Origin
from flowplan.schemas.sources import Path

DEFAULT_GRACE = 30
"""Seconds; also what Kubernetes uses when nothing is said."""

_DNS_SUBDOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_ENV_REFERENCES = {"secret_key_ref": "secretKeyRef", "config_map_key_ref": "configMapKeyRef"}
_METADATA: tuple[Path, ...] = (("metadata",), ("spec", "template", "metadata"))


def run_layer(draft: Draft) -> None:
    """Put the run's fields over the manifest."""
    for layer in (_metadata, _job_fields, _pod_fields, _container_fields):
        layer(draft)


def _metadata(draft: Draft) -> None:
    """Put in the name, the namespace, and labels and annotations, which the Job and its pods have."""
    fields, block = draft.run.fields, draft.block
    if fields.get("name"):
        draft.put(("metadata", "name"), fields["name"], "name")
    _foreign_namespace(draft)
    if block.get("namespace"):
        draft.put(("metadata", "namespace"), block["namespace"], "kubernetes", "namespace")
    default_namespace(draft)
    for key, value in (fields.get("labels") or {}).items():
        _label(draft, key, value)
    for key, value in (fields.get("annotations") or {}).items():
        _everywhere(draft, "annotations", key, None if value is None else scalar_text(value))


def default_namespace(draft: Draft) -> None:
    """Fill in the provider entry's namespace, else ``default``, where none was given."""
    if not draft.job["metadata"].get("namespace"):
        draft.job["metadata"]["namespace"] = draft.run.connection.get("namespace") or "default"


def _foreign_namespace(draft: Draft) -> None:
    """Say that the namespace of a manifest or of a template counts, where the provider names another one."""
    written, wanted = draft.job["metadata"].get("namespace"), draft.run.connection.get("namespace")
    where = draft.origin_at("/Job/metadata/namespace")
    if draft.block.get("namespace"):
        written, where = draft.block["namespace"], draft.run.origin("kubernetes", "namespace")
        if not draft.run.template or where.file != draft.run.template:
            return  # the run itself says so
    if wanted and written and written != wanted:
        draft.warnings.append(
            f'the namespace is "{written}" ({where.text}), not "{wanted}" of the provider {draft.run.provider}'
        )


def _label(draft: Draft, key: str, value: Json) -> None:
    written = None if value is None else scalar_text(value)
    text = None if written is None else kubernetes_label_value(written)
    if text is not None and not is_label_value(text):
        draft.fault(
            f'"{text}" has nothing that a label value may hold', "labels", key, hint="use letters, digits, - _ ."
        )
        return
    if written != text:
        draft.warnings.append(f'the value "{written}" of the label {key} is not legal on Kubernetes: "{text}" is sent')
    _everywhere(draft, "labels", key, text)


def _everywhere(draft: Draft, kind: str, key: str, value: str | None) -> None:
    """Put in a label or annotation of the Job and of its pods; None removes the manifest's."""
    legal = kubernetes_label_key(key)
    if not is_label_key(legal):
        what = kind.removesuffix("s")
        draft.fault(
            f'"{key}" has nothing that the key of a {what} may hold', kind, key, hint="use letters, digits, - _ ."
        )
        return
    if legal != key:
        draft.warnings.append(f'the key "{key}" of {kind} is not legal on Kubernetes: "{legal}" is sent')
    for place in _METADATA:
        if value is None:
            draft.at((*place, kind)).pop(legal, None)
        else:
            draft.put((*place, kind, legal), value, kind, key)


def _job_fields(draft: Draft) -> None:
    """Put in fields of the Job's own spec: retries, time limit, TTL; 0 counts as given."""
    fields, block = draft.run.fields, draft.block
    if fields.get("retries") is not None:
        draft.put(("spec", "backoffLimit"), int(fields["retries"]), "retries")
    if fields.get("retry_delay") is not None:
        draft.warnings.append(
            "retry_delay is not kept: Kubernetes waits 10s before the first retry, twice as long before each further "
            "one, up to 6m, and takes no other delay; leave retry_delay out"
        )
    if fields.get("timeout") is not None:
        draft.put(("spec", "activeDeadlineSeconds"), math.ceil(duration(fields["timeout"])), "timeout")
    if block.get("finished_job_ttl") is not None:
        seconds = math.ceil(duration(block["finished_job_ttl"]))
        draft.put(("spec", "ttlSecondsAfterFinished"), seconds, "kubernetes", "finished_job_ttl")


def _pod_fields(draft: Draft) -> None:
    """Put in fields of the pod: service account, pull secrets, grace period."""
    fields, block = draft.run.fields, draft.block
    if block.get("service_account_name"):
        source = ("kubernetes", "service_account_name")
        draft.put((*POD, "serviceAccountName"), block["service_account_name"], *source)
        if not _DNS_SUBDOMAIN.fullmatch(name := block["service_account_name"]):
            draft.fault(f'"{name}" is not a name of Kubernetes', *source, hint="lower-case letters, digits and - only")
    if block.get("image_pull_secrets"):
        given = draft.job["spec"]["template"]["spec"].get("imagePullSecrets")
        kept = list(given) if isinstance(given, list) else []
        known = {entry.get("name") for entry in kept if isinstance(entry, dict)}
        added = [{"name": name} for name in block["image_pull_secrets"] if name not in known]
        draft.put((*POD, "imagePullSecrets"), kept + added, "kubernetes", "image_pull_secrets")
    grace = fields.get("grace_period")
    own = draft.job["spec"]["template"]["spec"].get("terminationGracePeriodSeconds")
    if grace is not None and duration(grace) != (DEFAULT_GRACE if own is None else own):
        draft.put((*POD, "terminationGracePeriodSeconds"), math.ceil(duration(grace)), "grace_period")


def _container_fields(draft: Draft) -> None:
    """Put the run's fields on the first container: ``entrypoint`` is its command, ``command`` its args."""
    fields = draft.run.fields
    _warn_of_sidecar(draft)
    named = (("image", "image"), ("image_pull_policy", "imagePullPolicy"), ("working_dir", "workingDir"))
    for source, target in named:
        if fields.get(source):
            draft.put((*FIRST, target), fields[source], source)
    draft.policy_is_default = default_policy(draft)
    for source, target in (("entrypoint", "command"), ("command", "args")):
        if fields.get(source) is not None:
            draft.put((*FIRST, target), [scalar_text(part) for part in fields[source]], source)
            for path, origin in draft.run.origins.items():
                if len(path) == 2 and path[0] == source:
                    draft.origins[pointer((*FIRST, target, path[1]))] = origin
    _resources(draft)
    _env(draft)


def _warn_of_sidecar(draft: Draft) -> None:
    """Warn where a sidecar that stands first would get the run's image."""
    container, image = draft.container, draft.run.fields.get("image")
    containers = draft.job["spec"]["template"]["spec"]["containers"]
    if image and len(containers) > 1 and container.get("image") not in (None, image):
        draft.warnings.append(
            f'the run\'s image replaces {container["image"]} of the first container "{container["name"]}"; '
            "if that is a sidecar, put the run's container first"
        )


def _resources(draft: Draft) -> None:
    """Put in cpu and memory as request and limit, gpu as a limit; as written where Kubernetes can read it."""
    for name, value in (draft.run.fields.get("resources") or {}).items():
        if value is None:
            continue
        try:
            amount = _amount(name, value)
        except ValueError as error:
            draft.fault(str(error), "resources", name)
            continue
        if name == "gpu":
            draft.put((*FIRST, "resources", "limits", "nvidia.com/gpu"), amount, "resources", "gpu")
            continue
        for kind in ("requests", "limits"):
            draft.put((*FIRST, "resources", kind, name), amount, "resources", name)


def _amount(name: str, value: Any) -> str:
    text = scalar_text(value)
    if name == "gpu" and text == "all":
        raise ValueError('Kubernetes cannot give "all" GPUs of a node: write a whole number')
    if name != "memory":
        amount = quantity(text)
        if name == "gpu" and amount != amount.to_integral_value():
            raise ValueError(f'"{text}" is not a number of GPUs: write a whole number')
        return text
    size = memory(value)
    try:
        if quantity(text) == size:
            return text
    except ValueError:
        pass  # a Docker size such as 2g: Kubernetes spells it differently
    return f"{size // 2**20}Mi" if size % 2**20 == 0 else str(size)


def _env(draft: Draft) -> None:
    """Merge the variables by name: the run's win in place, ``null`` removes, ``valueFrom`` entries stay."""
    wanted = draft.run.fields.get("env") or {}
    base = pointer((*FIRST, "env"))
    given = draft.container.setdefault("env", [])
    if not wanted or not isinstance(given, list) or not all(isinstance(e, dict) and "name" in e for e in given):
        return
    entries = {str(entry["name"]): entry for entry in given}
    old = {str(e["name"]): draft.origin_at(f"{base}/{i}") for i, e in enumerate(given)} if given else {}
    for name, value in wanted.items():
        if value is None:
            entries.pop(name, None)
        elif isinstance(value, Mapping):
            sources = {_ENV_REFERENCES[key]: copied(ref) for key, ref in value.items() if key in _ENV_REFERENCES}
            entries[name] = {"name": name, "valueFrom": sources}
        else:
            entries[name] = {"name": name, "value": scalar_text(value)}
    draft.container["env"] = list(entries.values())
    for path in [p for p in draft.origins if p.startswith(base)] if old else ():
        del draft.origins[path]
    for index, name in enumerate(entries):
        draft.origins[f"{base}/{index}"] = draft.run.origin("env", name) if name in wanted else old[name]


def default_policy(draft: Draft) -> bool:
    """Fill in the pull policy that the image asks for, where none was given; return whether it was filled in."""
    container = draft.container
    image = container.get("image")
    if not isinstance(image, str) or not image or container.get("imagePullPolicy"):
        return False
    try:
        container["imagePullPolicy"] = parse_image(image).pull_policy
    except InvalidInput:
        return False  # told with the other faults of the image
    draft.origins[pointer((*FIRST, "imagePullPolicy"))] = Origin("default")
    return True
