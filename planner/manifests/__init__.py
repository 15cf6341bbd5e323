"""The pure half of a provider: from a resolved run to concrete objects, and what a change of them means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from flowplan.schemas.kinds import Kinds
from flowplan.schemas.pointers import keys_of
from flowplan.schemas.runs import Identity, Json, Objects, Origin, Rendered, digest
from flowplan.schemas.sources import Diagnostic, Path, dotted


@dataclass(frozen=True, slots=True)
class ResolvedRun:
    """One run (one cell of a matrix) with defaults merged, expressions evaluated, secrets turned into tokens.

    Attributes:
        fields: the run's fields as plain JSON in the spec's own words (``image``, ``command`` as a list, ``env`` as
            name -> string or None or {"secret_key_ref": ...}/{"config_map_key_ref": ...}, ``docker``: {...}...).
            ``from_env``/``from_file`` and everything sensitive are token strings already.
        connection: the provider entry (type, host, namespace...).
        spec_dir: absolute directory of the spec.
        files: path as written in the spec -> parsed content of a manifest, template or patch file it names
            (the planner reads no file; the loader did).
        origins: path inside ``fields`` -> where the value was written.
        template: the base job template that fields came from, as written in the spec; "" without one.
        drafts: what ``check`` made of the run; the first ``render`` takes and completes it instead of making another.
    """

    address: str
    group: str
    index: int
    provider: str
    type: str
    fields: Mapping[str, Any]
    connection: Mapping[str, Any] = field(default_factory=dict)
    spec_dir: str = ""
    files: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[Path, Origin] = field(default_factory=dict)
    template: str = ""
    drafts: list[Any] = field(default_factory=list, compare=False, repr=False)

    def origin(self, *path: str | int) -> Origin:
        """Return where the value at ``path`` inside ``fields`` was written; its nearest ancestor's, else ``default``."""
        for end in range(len(path), 0, -1):
            found = self.origins.get(tuple(path[:end]))
            if found:
                return found
        return Origin("default")

    def fault(self, path: Path, message: str, hint: str = "") -> Diagnostic:
        """Return a fault of the value at ``path`` inside ``fields``."""
        return Diagnostic(message, self.origin(*path).position, dotted(("runs", self.group, *path)), hint)


class Effect(NamedTuple):
    """What the engine does with a changed field: ``in_place`` or ``replace``, and its rule in one short clause."""

    effect: str
    rule: str


IN_PLACE = "in_place"
REPLACE = "replace"

CONTENT = "flowplan.dev/content"
"""The label that says what an object is: a digest of the rendered objects without it. With the run id it tells whether an
object on an engine is what this state asked for."""


def with_content(objects: Objects, places: Sequence[str]) -> Objects:
    """Set the content label of freshly rendered objects at each of ``places`` (JSON Pointers) that they have room for."""
    value = digest(objects).removeprefix("sha256:")[:40]
    for place in places:
        labels, key = _labels_at(objects, place)
        if labels is not None:
            labels[key] = value
    return objects


def content_of(objects: Objects, manifests: Manifests) -> str:
    """Return the content label that objects carry; "" for those of a provider, or of an older flowplan, without one."""
    for place in traits(manifests).CONTENT_LABELS:
        labels, key = _labels_at(objects, place)
        if labels is not None and key in labels:
            return str(labels[key])
    return ""


def _labels_at(objects: Objects, place: str) -> tuple[dict[str, Json] | None, str]:
    *parents, key = keys_of(place)
    labels: Json = objects
    for parent in parents:
        labels = labels.get(parent) if isinstance(labels, dict) else None
    return (labels if isinstance(labels, dict) else None), key


def over_already(before: float | None, after: float, progress: Mapping[str, float]) -> str:
    """Say that another time limit of a live run ends it at once, or that it may; "" when there is time left."""
    used = progress.get("seconds")
    if used is None:
        return f"the limit of {after:g} s may have passed already" if before is None or after < before else ""
    return f"the limit of {after:g} s has passed already" if after <= used else ""


class Manifests(Protocol):
    """What a provider type knows without an engine. Implementations are modules with these functions."""

    def check(self, run: ResolvedRun) -> list[Diagnostic]:
        """Return every fault of the run that can be seen without an engine; nothing when ``render`` will work.

        The subject of a fault is the dotted path (``runs.x.image``), its position that of the origin.
        """

    def render(self, run: ResolvedRun, identity: Identity) -> Rendered:
        """Return the concrete objects of one attempt."""

    def effect(self, path: str, before: Json, after: Json) -> Effect:
        """Return what changing the field at JSON Pointer ``path`` of the objects takes, by the engine's rules."""

    def comparable(self, applied: Objects) -> Objects:
        """Return the part of the applied objects that can drift on the engine, for comparison with ``Observed.live``."""

    def equal(self, path: str, one: Json, other: Json) -> bool:
        """Return whether two values of the field mean the same to the engine, as ``1000m`` and ``1`` do."""


class Traits(NamedTuple):
    """What a pure half may say beside its functions, by attributes of these names; the defaults are for what it leaves out.

    Attributes:
        CONTENT_LABELS: JSON Pointers to the content label, which ``render`` sets with ``with_content``.
        VARIABLES: JSON Pointers to lists of ``NAME=VALUE``, whose entries belong together by name.
        KEPT_BY_ENGINE: the settings (``timeout``, ``grace_period``) that the objects carry: a change of one of them is a
            change of the objects.
        KINDS: how people read the objects.
        ENGINE: what messages call the engine.
        EXAMPLE: the run, indented below ``runs:``, that ``flowplan init --provider`` writes.
        RETRY_DELAY: who keeps the ``retry_delay`` of a run: ``engine`` (or the pure half tells why not), ``flowplan``, which calls
            ``protocol.Retrier.again``, or nobody.
        KEEPS_FILES: whether the provider keeps files of attempts beside the state (``protocol.Keeper``).
        interrupts: what a change in place does to a live run that it ends, pauses or shrinks: path, before, after and
            ``Observed.progress`` -> words.
        while_pending: the rule by which a field changes in place as long as the run waits in the engine's queue, although it
            takes a replacement afterwards: path, before, after -> words; "" for all others.
        controlled_by: whether a field belongs to the controller that set it: path, manager -> bool.
        asked: what whoever made a live object has asked for, without defaults of the engine and values of variables, as
            far as the object tells it: live objects -> the part of them.
        together: whether cells of the run that can start at the same time are created in one call (``protocol.Gatherer``).
    """

    CONTENT_LABELS: tuple[str, ...] = ()
    VARIABLES: tuple[str, ...] = ()
    KEPT_BY_ENGINE: frozenset[str] = frozenset()
    KINDS: Kinds = MappingProxyType({})
    ENGINE: str = "engine"
    EXAMPLE: str = ""
    RETRY_DELAY: str = ""
    KEEPS_FILES: bool = False
    interrupts: Callable[[str, Json, Json, Mapping[str, float]], str] = lambda path, before, after, progress: ""
    while_pending: Callable[[str, Json, Json], str] = lambda path, before, after: ""
    controlled_by: Callable[[str, str], bool] = lambda path, manager: False
    asked: Callable[[Objects], Objects] = lambda live: {}
    together: Callable[[ResolvedRun], bool] = lambda run: False


def traits(manifests: Manifests) -> Traits:
    """Return what a pure half says of itself."""
    return Traits._make(getattr(manifests, name, default) for name, default in Traits._field_defaults.items())
