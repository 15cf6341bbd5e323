"""Manifests that are no Job but hold the parts of one: a CronJob's jobTemplate, a Pod."""

from __future__ import annotations

from typing import Any, NamedTuple

from flowplan.planner.manifests.job_draft import POD, Draft, pointer, value_at
from flowplan.schemas.fields import kind_of
from flowplan.schemas.pointers import copied
from flowplan.schemas.sources import Path, did_you_mean


class _Kind(NamedTuple):
    """Where the parts of a Job lie in another kind of object.

    Attributes:
        versions: its apiVersions; needed: the part without which it is nothing.
        parts: (place in the object, place in the Job); told: what the plan says.
    """

    versions: tuple[str, ...]
    needed: Path
    parts: tuple[tuple[Path, Path], ...]
    told: str


_NAMED: tuple[tuple[Path, Path], ...] = tuple((("metadata", k), ("metadata", k)) for k in ("name", "namespace"))
_OF_POD: tuple[tuple[Path, Path], ...] = tuple(
    (("metadata", k), ("spec", "template", "metadata", k)) for k in ("labels", "annotations")
)
_KINDS = {
    "CronJob": _Kind(
        ("batch/v1", "batch/v1beta1"),
        ("spec", "jobTemplate", "spec"),
        (*_NAMED, (("spec", "jobTemplate", "metadata"), ("metadata",)), (("spec", "jobTemplate", "spec"), ("spec",))),
        "is a CronJob: its spec.jobTemplate is taken; the schedule and what goes with it are not used",
    ),
    "Pod": _Kind(
        ("v1",),
        ("spec",),
        (*_NAMED, *_OF_POD, (("spec",), POD)),
        "is a Pod: it is taken as the spec.template of a Job",
    ),
}


def as_job(draft: Draft) -> bool:
    """Make a Job of the draft's manifest, where it is another kind that holds one; False when it is none."""
    kind = draft.job.get("kind", "Job")
    if kind == "Job":
        return True
    known = _KINDS.get(kind) if isinstance(kind, str) else None
    if known is None:
        draft.fault_at("/Job/kind", f"must be Job, not {kind_of(kind)}", _hint(draft, kind))
        return False
    version = draft.job.get("apiVersion", known.versions[0])
    if version not in known.versions:
        draft.fault_at("/Job/apiVersion", f"must be {known.versions[0]}, not {kind_of(version)}")
    if not isinstance(value_at(draft.job, known.needed), dict):
        place = pointer(known.needed).removeprefix("/Job")
        draft.fault_at("/Job/kind", f"the {kind} has no {place}", "write a Job, or fill it in")
    if draft.faults:
        return False
    written = draft.block.get("job")
    draft.warnings.append(f"{written if isinstance(written, str) else 'kubernetes.job'} {known.told}")
    _carry_over(draft, known)
    return True


def _carry_over(draft: Draft, kind: _Kind) -> None:
    """Put the parts, and where they were written, into their places in a Job."""
    source, origins = draft.job, draft.origins
    draft.job, draft.origins = {"apiVersion": "batch/v1", "kind": "Job"}, {}
    for place, target in kind.parts:
        value = value_at(source, place)
        if value is None:
            continue
        held: dict[str, Any] = draft.job
        for part in target[:-1]:
            held = held.setdefault(str(part), {})
        last = str(target[-1])
        held[last] = {**held.get(last, {}), **copied(value)} if isinstance(value, dict) else value
        old, new = pointer(place), pointer(target)
        draft.origins |= {new + p[len(old) :]: o for p, o in origins.items() if f"{p}/".startswith(f"{old}/")}


def _hint(draft: Draft, kind: object) -> str:
    items = draft.job.get("items")
    if kind == "List" and isinstance(items, list):
        shown = [
            f"{item.get('kind')} {(item.get('metadata') or {}).get('name', '')}"
            for item in items[:5]
            if isinstance(item, dict)
        ]
        return f"it holds {', '.join(shown) or 'nothing'}; give the Job a file of its own"
    return did_you_mean(str(kind), ("Job", *_KINDS)) or "write a Job, a CronJob or a Pod"
