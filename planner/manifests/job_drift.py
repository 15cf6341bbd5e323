"""What counts as drift of a Job: the differences between the Job that was applied and the live one that are told.

- Only fields that flowplan set are compared; the defaults of the API server and of admission webhooks are not drift.
- Not compared: the Secret, whose values are not read back; apiVersion, kind and status, which lists of the API leave out;
  metadata that the server and its controllers write.
- null and empty values are as good as none: the server drops them.
- Quantities compare by value: ``1000m``, ``1`` and ``"1"`` are the same.
- A field that a controller has taken over (Kueue, an autoscaler) belongs to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal

from flowplan.schemas.quantities import quantity
from flowplan.schemas.runs import Json, Objects

OF_SERVER = frozenset(
    (
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "finalizers",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    )
)
"""Metadata that the server and its controllers write."""
_QUANTITIES = re.compile(r"/(?:limits|requests|overhead|capacity)/[^/]+$|/(?:sizeLimit|divisor)$")
_NANO = Decimal("1e-9")

_PEOPLE = ("kubectl", "curl", "python-requests", "OpenAPI-Generator", "Mozilla", "okhttp", "Go-http-client", "unknown")
"""What the names of field managers begin with that are tools in people's hands."""
_CONTROLLER = re.compile(
    r"controller|operator|manager|scheduler|scaler|queue|kueue|keda|volcano|yunikorn|webhook", re.IGNORECASE
)
_CONTROLLED = ("/Job/spec/suspend", "/Job/spec/parallelism")
"""Fields of a Job that exist for controllers to set: whoever has set one, and is not a person's tool, is a controller."""


def controlled_by(path: str, manager: str) -> bool:
    """Return whether a field belongs to a controller (Kueue, an autoscaler) that set it last."""
    if not manager or manager.startswith((*_PEOPLE, "flowplan")):
        return False
    return path in _CONTROLLED or bool(_CONTROLLER.search(manager))


def comparable(applied: Objects) -> Objects:
    """Return the part of the applied objects that can drift."""
    job = applied.get("Job")
    if not isinstance(job, Mapping):
        return {}
    kept = {key: value for key, value in job.items() if key not in ("apiVersion", "kind", "status")}
    meta = kept.get("metadata")
    if isinstance(meta, Mapping):
        kept["metadata"] = {key: value for key, value in meta.items() if key not in OF_SERVER}
    return {"Job": _without_null(kept)}


def _without_null(value: Json) -> Json:
    if isinstance(value, Mapping):
        return {key: _without_null(child) for key, child in value.items() if child is not None}
    if isinstance(value, list):
        return [_without_null(child) for child in value]
    return value


def equal(path: str, one: Json, other: Json) -> bool:
    """Return whether two values mean the same to the API server: quantities compare by value."""
    if one == other and isinstance(one, bool) == isinstance(other, bool):
        return True
    if not _QUANTITIES.search(path):
        return False
    try:
        # the server rounds up to the next nano
        return quantity(one).quantize(_NANO, ROUND_CEILING) == quantity(other).quantize(_NANO, ROUND_CEILING)
    except (ValueError, TypeError, IndexError):
        return False
