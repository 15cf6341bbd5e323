"""The Job API of each Kubernetes version, distilled: the types that a Job manifest reaches, and what their fields hold.

``job_api.json`` holds, for each type, its schema as from the version in which it changed (null: the type is gone).
``docs/distill_job_api.py`` writes it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

JOB = "io.k8s.api.batch.v1.Job"
FILE = Path(__file__).with_name("job_api.json")


@functools.cache
def _document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return document


def versions() -> tuple[str, ...]:
    """Return the versions of Kubernetes that are known, such as ``1.37``, oldest first."""
    return tuple(_document()["versions"])


@functools.cache
def definitions(version: str = "") -> Mapping[str, Any]:
    """Return the types of a known version by their full names; those of the newest version without one.

    A type has ``properties``, ``required``, ``additionalProperties`` or ``type``; ``$ref`` is the full name of another.
    """
    order = versions()
    upto = frozenset(order[: order.index(version or order[-1]) + 1])
    found = {}
    for name, changes in _document()["types"].items():
        schema = next((changes[v] for v in reversed(changes) if v in upto), None)
        if schema is not None:
            found[name] = schema
    return found
