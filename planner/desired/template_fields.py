"""What the settings of a filled base job template are called in a run, for each type of provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flowplan.planner.desired.fields import FieldError, words_of
from flowplan.schemas.documents import scalar_text
from flowplan.schemas.images import PULL_POLICIES
from flowplan.schemas.runs import Json
from flowplan.schemas.sources import Path, did_you_mean

Fault = tuple[Path, str, str]
"""Path in the configuration, message, hint."""


class FieldFault(Exception):
    """A configuration that is not one of the provider's; internal, turned into InvalidInput by the caller."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(faults)
        self.faults = faults


_COMMON: dict[str, Path] = {
    name: (name,) for name in ("command", "env", "labels", "name", "stream_output", "image", "image_pull_policy")
}
_PLACES: dict[str, dict[str, Path]] = {
    "process": {name: (name,) for name in ("command", "env", "labels", "name", "stream_output", "working_dir")},
    "docker": _COMMON
    | {
        name: ("docker", name)
        for name in (
            "networks",
            "network_mode",
            "auto_remove",
            "volumes",
            "mem_limit",
            "memswap_limit",
            "privileged",
            "registry_credentials",
            "extra_hosts",
        )
    }
    | {"container_create_kwargs": ("docker", "create_options"), "working_dir": ("working_dir",)},
    "kubernetes": _COMMON
    | {name: ("kubernetes", name) for name in ("namespace", "service_account_name", "finished_job_ttl")}
    | {
        "job_manifest": ("kubernetes", "job"),
        "job_watch_timeout_seconds": ("timeout",),
        "pod_watch_timeout_seconds": ("start_timeout",),
        "backoff_limit": ("retries",),
        "annotations": ("annotations",),
    },
}
"""Setting of a job configuration -> field of a run."""

_WITHOUT_COUNTERPART = {
    "cluster_config": "say which cluster in `providers:` (kubeconfig, context)",
}
_POLICIES = {policy.replace("-", "").upper(): policy for policy in PULL_POLICIES}


def run_fields(type: str, configuration: Mapping[str, Json]) -> dict[str, Json]:
    """Return the fields of a run that say what a job configuration says; null means not given.

    Args:
        type: ``kubernetes``, ``docker`` or ``process``.

    Raises:
        FieldFault: settings that the provider does not know, or with values that cannot be meant.
    """
    places = _PLACES.get(type)
    if places is None:
        raise FieldFault([((), f"the provider type {type} knows no base job templates", "")])
    fields: dict[str, Json] = {}
    faults: list[Fault] = []
    for name, value in configuration.items():
        if value is None:
            continue
        if name in _WITHOUT_COUNTERPART and type == "kubernetes":
            faults.append(((name,), "a run has no cluster of its own", _WITHOUT_COUNTERPART[name]))
        elif name not in places:
            faults.append(((name,), f"not a setting of {type} runs", did_you_mean(name, places)))
        else:
            convert = _CONVERSIONS.get(name)
            _put(fields, places[name], convert(value, (name,), faults) if convert else value)
    if faults:
        raise FieldFault(faults)
    _move_hosts(fields)
    return fields


def field_path(type: str, path: Path) -> Path | None:
    """Return where the value at a path of the configuration ends up in the run."""
    place = _PLACES.get(type, {}).get(str(path[0])) if path else None
    return (*place, *path[1:]) if place else None


def _put(fields: dict[str, Json], place: Path, value: Json) -> None:
    target = fields if len(place) == 1 else fields.setdefault(str(place[0]), {})
    target[str(place[-1])] = value


def _move_hosts(fields: dict[str, Json]) -> None:
    """Move ``extra_hosts`` from the create options, which cannot have them, to the extra hosts."""
    options = (fields.get("docker") or {}).get("create_options")
    if isinstance(options, dict) and "extra_hosts" in options:
        fields["docker"].setdefault("extra_hosts", options["extra_hosts"])
        fields["docker"]["create_options"] = {key: value for key, value in options.items() if key != "extra_hosts"}


def _command(value: Json, path: Path, faults: list[Fault]) -> Json:
    """Return a command as a list; a string is split as a shell would."""
    if isinstance(value, list):
        return [scalar_text(part) for part in value]
    if not isinstance(value, str):
        faults.append((path, "a command must be a string or a list", ""))
        return None
    try:
        return words_of(value, path)
    except FieldError as error:
        faults.append((error.path, error.message, ""))
        return None


def _policy(value: Json, path: Path, faults: list[Fault]) -> Json:
    """Return a pull policy as Kubernetes writes it; older versions wrote ``IF_NOT_PRESENT``."""
    policy = _POLICIES.get(str(value).replace("_", "").upper())
    if policy is None:
        faults.append((path, f'"{value}" is not a pull policy', f"use one of {', '.join(PULL_POLICIES)}"))
    return policy


def _env(value: Json, path: Path, faults: list[Fault]) -> Json:
    """Return variables by name, also from the list of a container."""
    if isinstance(value, Mapping):
        return {key: None if item is None else _reference(item) for key, item in value.items()}
    if isinstance(value, list) and all(isinstance(entry, dict) and "name" in entry for entry in value):
        return {str(e["name"]): _reference(e["valueFrom"]) if "valueFrom" in e else e.get("value", "") for e in value}
    faults.append((path, "env must be a mapping of names to values", ""))
    return None


def _reference(value: Json) -> Json:
    names = {"secretKeyRef": "secret_key_ref", "configMapKeyRef": "config_map_key_ref"}
    if isinstance(value, Mapping):
        return {names.get(key, key): child for key, child in value.items()}
    return scalar_text(value)


def _labels(value: Json, path: Path, faults: list[Fault]) -> Json:
    if isinstance(value, Mapping):
        return {key: scalar_text(child) for key, child in value.items() if child is not None}
    faults.append((path, "must be a mapping of names to values", ""))
    return None


def _manifest(value: Json, path: Path, faults: list[Fault]) -> Json:
    """Return a Job manifest as Kubernetes takes it: env as a list, args split, parallelism in its place."""
    if not isinstance(value, dict):
        faults.append((path, "a Job manifest must be a mapping", ""))
        return value
    spec = value.get("spec")
    template = spec.get("template") if isinstance(spec, dict) else None
    pod = template.get("spec") if isinstance(template, dict) else None
    if not isinstance(spec, dict) or not isinstance(pod, dict):
        return value  # what is wrong with it is told when it is checked as a Job
    for name in ("parallelism", "completions"):
        if name in pod:
            spec.setdefault(name, pod.pop(name))
    for kind in ("initContainers", "containers"):
        containers = pod.get(kind)
        for index, container in enumerate(containers if isinstance(containers, list) else ()):
            if isinstance(container, dict):
                place = (*path, "spec", "template", "spec", kind, index)
                _container(container, place, faults)
    return value


def _container(container: dict[str, Any], path: Path, faults: list[Fault]) -> None:
    env = container.get("env")
    if isinstance(env, Mapping):
        kept = {key: value for key, value in env.items() if value is not None}
        container["env"] = [{"name": key, "value": scalar_text(value)} for key, value in kept.items()]
    for part in ("command", "args"):
        if isinstance(container.get(part), str):
            container[part] = _command(container[part], (*path, part), faults)


_CONVERSIONS: dict[str, Callable[[Json, Path, list[Fault]], Json]] = {
    "command": _command,
    "image_pull_policy": _policy,
    "env": _env,
    "labels": _labels,
    "annotations": _labels,
    "job_manifest": _manifest,
}
