"""A Job manifest in the making: the values, where each was written, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from flowplan.planner.manifests import ResolvedRun
from flowplan.planner.manifests.job_secrets import HiddenSecrets
from flowplan.schemas.fields import kind_of
from flowplan.schemas.pointers import nearest, pointer_to
from flowplan.schemas.runs import Json, Origin
from flowplan.schemas.sources import Diagnostic, Path, dotted

POD: Path = ("spec", "template", "spec")
FIRST: Path = (*POD, "containers", 0)
"""The first container, the only one that the run's fields change."""


@lru_cache(maxsize=4096)  # the same few paths for every run
def pointer(path: Path) -> str:
    """Return the JSON Pointer into the objects of a path in the Job: ``/Job/spec/template``."""
    return "/Job" + pointer_to(path)


@dataclass(slots=True)
class Draft:
    """A Job manifest in the making; it has no identity yet.

    Attributes:
        job: the manifest.
        origins: JSON Pointer (``/Job/...``) -> where the value was written.
        faulted: JSON Pointers that a fault was told of.
        custom: True when a manifest or customizations of the user went into it.
        policy_is_default: True when no pull policy was given, so that it follows the image.
        secrets: what goes into the run's Secret.
    """

    run: ResolvedRun
    job: dict[str, Json] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    faults: list[Diagnostic] = field(default_factory=list)
    faulted: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    custom: bool = False
    policy_is_default: bool = False
    secrets: HiddenSecrets = field(default_factory=HiddenSecrets)

    @property
    def block(self) -> Mapping[str, Any]:
        """Return the run's ``kubernetes:`` block."""
        return self.run.fields.get("kubernetes") or {}

    @property
    def container(self) -> dict[str, Json]:
        """Return the first container, the only one that the run's fields change."""
        first: dict[str, Json] = self.job["spec"]["template"]["spec"]["containers"][0]
        return first

    def at(self, path: Path) -> Any:
        """Return the value at a path that is there."""
        place: Any = self.job
        for part in path:
            place = place[part]
        return place

    def put(self, path: Path, value: Json, *source: str | int) -> None:
        """Set a value and remember that ``source`` of the run's fields gave it."""
        place: Any = self.job
        for depth, part in enumerate(path[:-1]):
            child = place[part] if isinstance(part, int) else place.get(part)
            if child is None:
                child = place[part] = {}
            if not isinstance(child, dict | list):
                self.fault_at(pointer(path[: depth + 1]), f"must be a mapping, not {kind_of(child)}")
                return
            place = child
        place[path[-1]] = value
        self.origins[pointer(path)] = self.run.origin(*source)

    def fault(self, message: str, *source: str | int, hint: str = "") -> None:
        """Note a fault of the run's own fields."""
        self.faults.append(self.run.fault(source, message, hint))

    def fault_at(self, path: str, message: str, hint: str = "") -> None:
        """Note a fault at a JSON Pointer of the manifest, at the place in the file that gave it."""
        origin = self.origin_at(path)
        self.faulted.add(path)
        shown = path.removeprefix("/Job") or "/"
        subject = f"{dotted(('runs', self.run.group))}: {shown}"
        self.faults.append(Diagnostic(message, origin.position, subject, hint))

    def origin_at(self, path: str) -> Origin:
        """Return the origin of the value at a pointer, or of its nearest ancestor."""
        return nearest(self.origins, path) or Origin("default")


def value_at(value: Json, path: Path) -> Json:
    """Return the value at a path, None where there is none."""
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return None
    return value
