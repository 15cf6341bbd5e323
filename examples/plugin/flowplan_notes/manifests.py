"""The pure half: from a run of the spec to the object that would be made. No file, no clock, no engine."""

from __future__ import annotations

from flowplan.planner.manifests import REPLACE, Effect, ResolvedRun, with_content
from flowplan.schemas.kinds import Kind
from flowplan.schemas.runs import Identity, Json, Objects, Rendered
from flowplan.schemas.sources import Diagnostic

CONTENT_LABELS = ("/Note/labels/flowplan.dev~1content",)
"""Where the label stands that says what a note is."""

KINDS = {"Note": Kind(shorter=(("/Note/", ""),), name=("/Note/name",))}
"""How people read a note: ``text``, not ``Note.text``; no two have the same name."""

ENGINE = "directory"
"""What messages call the engine."""

EXAMPLE = """\
  hello:
    provider: notes
    notes: {text: "${var.greeting}"}
"""
"""What ``flowplan init --provider notes`` writes below ``runs:``."""


def check(run: ResolvedRun) -> list[Diagnostic]:
    """Return every fault of the run that can be seen offline."""
    text = (run.fields.get("notes") or {}).get("text")
    return [] if isinstance(text, str) else [Diagnostic("a note needs a text", subject=f"runs.{run.group}.notes.text")]


def render(run: ResolvedRun, identity: Identity) -> Rendered:
    """Return the object of one attempt; its name and the run id follow from the identity alone."""
    name = f"{identity.address}-{identity.attempt}"
    note = {"name": name, "text": run.fields["notes"]["text"], "labels": {}}
    origins = {"/Note/text": run.origin("notes", "text")}
    return Rendered(with_content({"Note": note}, CONTENT_LABELS), name, identity.run_id, identity.attempt, origins)


def effect(path: str, before: Json, after: Json) -> Effect:
    """Return what changing a field of the live object takes."""
    return Effect(REPLACE, "a note is written once")


def comparable(applied: Objects) -> Objects:
    """Return what can drift: the text. Names and labels are ours to give, and an imported note has others."""
    return {"Note": {"text": applied["Note"]["text"]}}


def equal(path: str, one: Json, other: Json) -> bool:
    """Return whether two values mean the same."""
    return bool(one == other)
