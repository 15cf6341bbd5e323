"""A live Job as it is compared with the manifest it was made from: what the server changed by itself is no drift.

That is what it dropped because it does not know it, what it spells its own way in fields that nobody can change, and the
name that a Job or its Secret got because another object had theirs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flowplan.providers.kubernetes.jobs import reading_secret
from flowplan.providers.kubernetes.reading import RUN_ID
from flowplan.providers.protocol import IMPORTED
from flowplan.schemas import arguments
from flowplan.schemas.plans import FieldChange
from flowplan.schemas.pointers import escape, keys_of, member
from flowplan.schemas.runs import Json, Observed, Recorded, Status

DROPPED = "dropped"
"""Key of a handle: JSON Pointers into the Job of the fields that the server did not keep when it was made."""

TOO_LONG = "too_long"
"""Key of a handle: which argument or variable of the run is longer than Linux takes, and how long it is."""

_MUTABLE = frozenset(
    ("parallelism", "suspend", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished", "completions")
)
"""Fields of a Job's spec that anybody can change once it is there."""

_OWN = ("flowplan.dev/", "app.kubernetes.io/managed-by")


def as_recorded(seen: Observed, record: Recorded) -> Observed:
    """Complete what the engine says with what only the record knows.

    An end that is recorded is not told anew with less: its pods may be gone by now.
    """
    kept = {key: record.handle[key] for key in (DROPPED, TOO_LONG, IMPORTED) if record.handle.get(key)}
    if seen.live:
        seen = replace(seen, live={**seen.live, "Job": _compared(seen.live["Job"], seen, record)})
    seen = replace(
        seen,
        run_id=record.run_id,
        address=record.address,
        attempt=record.attempt,
        handle={**seen.handle, **kept},
    )
    why = record.handle.get(TOO_LONG)
    if why and seen.status is Status.FAILED and seen.exit_code in arguments.EXEC_FAILED:
        # Docker tells in the output alone that a command could not be executed.
        seen = replace(seen, reason=arguments.REASON, message=f"exit code {seen.exit_code}: {why}")
    if seen.status is None or seen.status.live or seen.status is not record.status:
        return seen
    return replace(
        seen,
        reason=record.reason,
        message=record.message,
        exit_code=record.exit_code if seen.exit_code is None else seen.exit_code,
        attempts=max(seen.attempts, record.attempts),
        started_at=seen.started_at or record.started_at,
    )


def _compared(job: Json, seen: Observed, record: Recorded) -> Json:
    """Return the live Job without what is no difference from the recorded one."""
    applied: Mapping[str, Any] = record.objects.get("Job") or {}
    job = _with_dropped(job, applied, record.handle.get(DROPPED) or ())
    wanted = (applied.get("metadata") or {}).get("name")
    if wanted and seen.name != wanted:  # it got a suffix because another Job had its name, or was imported
        job = {**job, "metadata": {**job["metadata"], "name": wanted}}
    if secret := record.objects.get("Secret"):
        job = reading_secret(job, secret, secret["metadata"]["name"])
    if applied.get("spec") and seen.handle.get("uid") == record.handle.get("uid"):
        made = {key: value for key, value in applied["spec"].items() if key not in _MUTABLE}
        job = {**job, "spec": {**job["spec"], **made}}
    return _with_our_labels(job, applied) if record.handle.get(IMPORTED) else job


def _with_dropped(job: Json, applied: Mapping[str, Any], lost: Sequence[str]) -> Json:
    """Return the Job with the fields that the server dropped, as they were sent."""
    job = copy.deepcopy(job) if lost else job
    for pointer in lost:
        *parents, last = keys_of(pointer)
        there: Any = job
        sent: Any = applied
        for step in parents:
            there, sent = member(there, step), member(sent, step)
        if isinstance(there, dict) and isinstance(sent, Mapping) and last in sent:
            there.setdefault(last, sent[last])
    return job


def _with_our_labels(job: Json, applied: Mapping[str, Any]) -> Json:
    """Return an imported Job with the labels and annotations that it lacks because flowplan did not make it."""
    job = copy.deepcopy(job)
    template = (applied.get("spec") or {}).get("template") or {}
    for live, own in ((job, applied), (job["spec"]["template"], template)):
        for kind in ("labels", "annotations"):
            wanted = (own.get("metadata") or {}).get(kind) or {}
            ours = {k: v for k, v in wanted.items() if k.startswith(_OWN) or v == wanted.get(RUN_ID)}
            if ours:
                meta = live.setdefault("metadata", {})
                meta[kind] = {**(meta.get(kind) or {}), **ours}
    return job


def noted(seen: Observed, posted: Json, returned: Json, fields: Sequence[FieldChange] | None = None) -> Observed:
    """Note what the server dropped of a Job that was made, or of the fields of it that were changed."""
    lost = [
        pointer
        for part in ("metadata", "spec")
        for pointer in dropped(posted.get(part), returned.get(part), f"/{part}")
    ]
    if fields is not None:
        changed = [field.path.removeprefix("/Job") for field in fields]
        lost = [pointer for pointer in lost if any(f"{pointer}/".startswith(f"{path}/") for path in changed)]
        lost = sorted({*lost, *seen.handle.get(DROPPED, ())})
    return replace(seen, handle={**seen.handle, DROPPED: lost}) if lost else seen


def dropped(posted: Any, returned: Any, at: str = "") -> Iterator[str]:
    """Yield the JSON Pointers of fields that were sent but did not come back.

    Empty values are left out by servers and mean nothing.
    """
    if posted == returned:
        return
    if isinstance(posted, Mapping):
        there = returned if isinstance(returned, Mapping) else {}
        for key, value in posted.items():
            pointer = f"{at}/{escape(key)}"
            if key in there:
                yield from dropped(value, there[key], pointer)
            elif value not in (None, "", 0, False) and value != {} and value != []:
                yield pointer
    elif isinstance(posted, list) and isinstance(returned, list):
        for index, (one, other) in enumerate(zip(posted, returned, strict=False)):
            yield from dropped(one, other, f"{at}/{index}")
