"""The pure half of ``providers.fake``, and the shortest that is complete: labels change in place, all else replaces."""

from __future__ import annotations

from collections.abc import Mapping

from flowplan.planner.manifests import CONTENT, IN_PLACE, REPLACE, Effect, ResolvedRun, with_content
from flowplan.schemas.kinds import Kind
from flowplan.schemas.runs import Identity, Json, Objects, Rendered
from flowplan.schemas.sources import Diagnostic

CONTENT_LABELS = ("/Fake/labels/flowplan.dev~1content",)
KINDS = {"Fake": Kind(shorter=(("/Fake/", ""),))}
ENGINE = "fake engine"


def check(run: ResolvedRun) -> list[Diagnostic]:
    """Return the faults of variables that refer to objects of a cluster, of which this engine has none."""
    return [
        run.fault(("env", name), f"{name} refers to an object of a cluster")
        for name, value in (run.fields.get("env") or {}).items()
        if isinstance(value, Mapping)
    ]


def render(run: ResolvedRun, identity: Identity) -> Rendered:
    """Return the one object of an attempt: its command, variables and labels."""
    fields = run.fields
    command = [*(fields.get("entrypoint") or ()), *(fields.get("command") or ())]
    env = {name: value for name, value in (fields.get("env") or {}).items() if value is not None}
    objects: Objects = {"Fake": {"command": command, "env": env, "labels": dict(fields.get("labels") or {})}}
    origins = {f"/Fake/{name}": run.origin(name) for name in ("command", "env", "labels")}
    name = fields.get("name") or f"{identity.address}-{identity.attempt}"
    return Rendered(with_content(objects, CONTENT_LABELS), name, identity.run_id, identity.attempt, origins)


def effect(path: str, before: Json, after: Json) -> Effect:
    """Return what a change of the field takes."""
    if path.startswith("/Fake/labels"):
        return Effect(IN_PLACE, "labels may be changed")
    return Effect(REPLACE, "what a run does is settled when it starts")


def comparable(applied: Objects) -> Objects:
    """Return all but flowplan's own label, which an imported run does not have."""
    fake = applied["Fake"]
    labels = {name: value for name, value in fake["labels"].items() if name != CONTENT}
    return {"Fake": {**fake, "labels": labels}}


def equal(path: str, one: Json, other: Json) -> bool:
    """Return whether two values mean the same."""
    return bool(one == other)
