"""The pure half of ``process``: a run as the argv, directory and environment of a local process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flowplan.planner.manifests import REPLACE, Effect, ResolvedRun, program, with_content
from flowplan.planner.manifests.names import docker_run_name, environment_label
from flowplan.schemas.kinds import Kind
from flowplan.schemas.quantities import backoff, duration, size
from flowplan.schemas.runs import Identity, Json, Objects, Origin, Rendered
from flowplan.schemas.secrets import tokens_in
from flowplan.schemas.sources import Diagnostic

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


def check(run: ResolvedRun) -> list[Diagnostic]:
    """Return every fault of the run: an empty argv, references that only Kubernetes resolves, impossible values."""
    return program.faults(run, "a process", _wrong_name)


def _wrong_name(name: str) -> tuple[str, str] | None:
    if name in RESERVED:
        return f"{name} is set by flowplan, which knows the run's processes by it", ""
    if not name or "=" in name or "\0" in name:
        return "not a name that an environment can hold", 'it must not be empty or hold "=" or NUL'
    return None


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
    process = {**program.body(run, labels), **_behaviour(run)}
    return Rendered(
        objects=with_content({"Process": process}, CONTENT_LABELS),
        name=docker_run_name(identity, run.fields.get("name")),
        run_id=identity.run_id,
        attempt=identity.attempt,
        origins=_origins(run),
        warnings=_warnings(run, process),
    )


def _behaviour(run: ResolvedRun) -> dict[str, Json]:
    """Return what differs from the defaults in how the process is started, limited and stopped."""
    fields, block = run.fields, run.fields.get("process") or {}
    wanted = {
        "inherit_env": (block.get("inherit_env"), True),
        "timeout": (_read(duration, fields.get("timeout")), None),
        "retries": (fields.get("retries"), 0),
        "retry_delay": (_read(backoff, fields.get("retry_delay")), None),
        "log_limit": (_read(size, block.get("log_limit")), None),
        "grace_period": (_read(duration, fields.get("grace_period")), DEFAULT_GRACE),
    }
    return {key: value for key, (value, default) in wanted.items() if value is not None and value != default}


def _read(read: Callable[[Json], Json], value: Json) -> Json:
    return None if value is None else read(value)


def _origins(run: ResolvedRun) -> dict[str, Origin]:
    origins = program.origins(run, "Process")
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
