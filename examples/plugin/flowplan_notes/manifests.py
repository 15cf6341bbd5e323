"""The pure half: from a run of the spec to the object that would be made. No file, no clock, no engine."""

from __future__ import annotations

from flowplan.planner.manifests import REPLACE, Effect, ResolvedRun, with_content
from flowplan.schemas.runs import Identity, Json, Objects, Rendered
from flowplan.schemas.sources import Diagnostic

CONTENT_LABELS = ("/Note/labels/flowplan.dev~1content",)
"""Where the label stands that says what a note is."""


def check(run: ResolvedRun) -> list[Diagnostic]:
    """Every fault of the run that can be seen offline."""
    text = (run.fields.get("notes") or {}).get("text")
    return [] if isinstance(text, str) else [Diagnostic("a note needs a text", subject=f"runs.{run.group}.notes.text")]


def render(run: ResolvedRun, identity: Identity) -> Rendered:
    """The object of one attempt; its name and the run id follow from the identity alone."""
    name = f"{identity.address}-{identity.attempt}"
    note = {"name": name, "text": run.fields["notes"]["text"], "labels": {}}
    origins = {"/Note/text": run.origin("notes", "text")}
    return Rendered(with_content({"Note": note}, CONTENT_LABELS), name, identity.run_id, identity.attempt, origins)


def effect(path: str, before: Json, after: Json) -> Effect:
    """What changing a field of the live object takes."""
    return Effect(REPLACE, "a note is written once")


def comparable(applied: Objects) -> Objects:
    """What can drift."""
    return applied


def equal(path: str, one: Json, other: Json) -> bool:
    """Whether two values mean the same."""
    return bool(one == other)
