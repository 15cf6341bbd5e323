"""The pure half of ``process``: a run as the argv, directory and environment of a local process."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from flowplan.planner.manifests import REPLACE, Effect, ResolvedRun, with_content
from flowplan.planner.manifests.names import docker_run_name, environment_label
from flowplan.schemas.kinds import Kind
from flowplan.schemas.pointers import escape
from flowplan.schemas.quantities import backoff, duration, size
from flowplan.schemas.runs import Identity, Json, Objects, Origin, Rendered
from flowplan.schemas.secrets import tokens_in
from flowplan.schemas.sources import Diagnostic, Path, dotted

KEPT_BY_ENGINE = frozenset({"timeout", "grace_period"})
"""Settings that are part of the objects: the supervisor keeps them."""

RESERVED = frozenset(
    f"FLOWPLAN_{name}"
    for name in ("RUN_ID", "PROJECT", "ENVIRONMENT", "LINEAGE", "ADDRESS", "ATTEMPT", "CREATED_FROM", "NONCE")
)
"""Variables that every process of a run is given."""

CONTENT_LABELS = ("/Process/labels/flowplan.dev~1content",)
KINDS = {
    "Process": Kind(
        shorter=(("/Process/", ""),),
        retries="/Process/retries",
        units=(("log_limit", "bytes"),),
        order="argv cwd env inherit_env timeout retries retry_delay log_limit labels",
    )
}
ENGINE = "host"
RETRY_DELAY = "engine"
KEEPS_FILES = True
EXAMPLE = """\
  hello:
    provider: process
    command: [echo, "${var.greeting}"]
"""

DEFAULT_GRACE = 30.0
"""Seconds between TERM and KILL when the run does not say."""

_UNUSED = {
    "image": "the process provider runs programs of this host; image is not used",
    "image_pull_policy": "the process provider pulls no images; image_pull_policy is not used",
    "resources": "resources are not enforced by the process provider",
    "annotations": "annotations are not used by the process provider",
    "docker": "the docker block is not used by the process provider",
    "kubernetes": "the kubernetes block is not used by the process provider",
}
_REFERENCES = ("secret_key_ref", "config_map_key_ref")


def check(run: ResolvedRun) -> list[Diagnostic]:
    """Return every fault of the run: an empty argv, references that only Kubernetes resolves, impossible values."""
    faults = []
    argv = _argv(run)
    if not any(text for _, text in argv):
        faults.append(_fault(run, ("command",), "a process needs a command; entrypoint and command are both empty"))
    elif not argv[0][1]:
        faults.append(_fault(run, argv[0][0], "the program to start is empty"))
    for path, text in argv:
        if "\0" in text:
            faults.append(_fault(run, path, "an argument cannot hold a NUL character"))
    for name, value in (run.fields.get("env") or {}).items():
        faults += _env_faults(run, name, value)
    return faults


def _env_faults(run: ResolvedRun, name: str, value: Json) -> list[Diagnostic]:
    path = ("env", name)
    if isinstance(value, Mapping):
        kind = next((k for k in _REFERENCES if k in value), "this reference")
        hint = "use from_env or from_file"
        return [_fault(run, path, f"{kind} is resolved by Kubernetes only; a process cannot use it", hint)]
    if name in RESERVED:
        return [_fault(run, path, f"{name} is set by flowplan, which knows the run's processes by it")]
    if not name or "=" in name or "\0" in name:
        return [_fault(run, path, "not a name that an environment can hold", 'it must not be empty or hold "=" or NUL')]
    if isinstance(value, str) and "\0" in value:
        return [_fault(run, path, "an environment variable cannot hold a NUL character")]
    return []


def _fault(run: ResolvedRun, path: Path, message: str, hint: str = "") -> Diagnostic:
    return Diagnostic(message, run.origin(*path).position, dotted(("runs", run.group, *path)), hint)


def render(run: ResolvedRun, identity: Identity) -> Rendered:
    """Return the ``Process`` object of one attempt: what is started, complete but for the inherited environment."""
    labels = {
        "app.kubernetes.io/managed-by": "flowplan",
        "flowplan.dev/address": identity.address,
        "flowplan.dev/lineage": identity.lineage,
        "flowplan.dev/project": identity.project,
        "flowplan.dev/run-id": identity.run_id,
        **environment_label(identity),
    }
    process: dict[str, Json] = {
        "argv": [text for _, text in _argv(run)],
        # what is relative to the spec stays so, wherever the project lies
        "cwd": posixpath.normpath(run.fields.get("working_dir") or ""),
        "env": dict(sorted((run.fields.get("env") or {}).items())),
        "labels": {**(run.fields.get("labels") or {}), **labels},
        **_behaviour(run),
    }
    return Rendered(
        objects=with_content({"Process": process}, CONTENT_LABELS),
        name=docker_run_name(identity, run.fields.get("name")),
        run_id=identity.run_id,
        attempt=identity.attempt,
        origins=_origins(run),
        warnings=_warnings(run, process),
    )


def _argv(run: ResolvedRun) -> list[tuple[Path, str]]:
    """Return the argv with the path of each item: the entrypoint, then the command."""
    return [
        ((part, index), str(text))
        for part in ("entrypoint", "command")
        for index, text in enumerate(run.fields.get(part) or ())
    ]


def _behaviour(run: ResolvedRun) -> dict[str, Json]:
    """Return what differs from the defaults in how the process is started, limited and stopped."""
    fields, block = run.fields, run.fields.get("process") or {}
    wanted = {
        "inherit_env": (block.get("inherit_env"), True),
        "timeout": (_seconds(fields.get("timeout")), None),
        "retries": (fields.get("retries"), 0),
        "retry_delay": (_backoff(fields.get("retry_delay")), None),
        "log_limit": (_bytes(block.get("log_limit")), None),
        "grace_period": (_seconds(fields.get("grace_period")), DEFAULT_GRACE),
    }
    return {key: value for key, (value, default) in wanted.items() if value is not None and value != default}


def _bytes(value: Json) -> int | None:
    return None if value is None else size(value)


def _backoff(value: Json) -> Json:
    return None if value is None else backoff(value)


def _seconds(value: Json) -> float | None:
    return None if value is None else duration(value)


def _origins(run: ResolvedRun) -> dict[str, Origin]:
    origins = {f"/Process/argv/{index}": run.origin(*path) for index, (path, _) in enumerate(_argv(run))}
    for name in run.fields.get("env") or {}:
        origins[f"/Process/env/{escape(name)}"] = run.origin("env", name)
    for name in run.fields.get("labels") or {}:
        origins[f"/Process/labels/{escape(name)}"] = run.origin("labels", name)
    origins["/Process/cwd"] = run.origin("working_dir")
    for key in _behaviour(run):
        path = ("process", key) if key in ("inherit_env", "log_limit") else (key,)
        origins[f"/Process/{key}"] = run.origin(*path)
    return origins


def _warnings(run: ResolvedRun, process: Mapping[str, Any]) -> tuple[str, ...]:
    remarks = [text for name, text in _UNUSED.items() if run.fields.get(name)]
    if tokens_in(process["argv"]):
        remarks.append("a sensitive value in the command can be read in this host's process list; give it in env")
    return tuple(remarks)


def effect(path: str, before: Json, after: Json) -> Effect:
    """Return a replacement, always."""
    return Effect(REPLACE, "a process cannot be changed once started")


def comparable(applied: Objects) -> Objects:
    """Return nothing: a process may rewrite its own argv, directory and environment, so none of them can drift."""
    return {}


def equal(path: str, one: Json, other: Json) -> bool:
    """Return whether two JSON values are equal."""
    return bool(one == other)
