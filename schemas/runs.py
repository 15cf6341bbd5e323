"""A run in its stages: Rendered (what would be sent), Desired, Recorded (what was), Observed (what the engine says)."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

from flowplan.schemas.codec import Member
from flowplan.schemas.pointers import keys_of
from flowplan.schemas.sources import Position

Json = Any
"""A plain JSON value."""

Objects = dict[str, Json]
"""Concrete objects keyed by kind: ``{"Job": {...}, "Secret": {...}}``."""


class Status(StrEnum):
    """The status of an attempt."""

    CREATING = "creating"
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"
    DESTROYED = "destroyed"

    @property
    def live(self) -> bool:
        """Return whether the attempt may still do work."""
        return self in (Status.CREATING, Status.PENDING, Status.RUNNING)

    @property
    def final(self) -> bool:
        """Return whether the attempt has ended, however."""
        return not self.live

    @property
    def settled(self) -> bool:
        """Return whether no observation changes it any more: what is lost may turn out to be there."""
        return self.final and self is not Status.LOST


ENDS = frozenset((Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT, Status.CANCELLED))
"""How an attempt ends, where its end was seen."""


PROBLEMS = (Status.FAILED, Status.TIMED_OUT, Status.LOST)
"""The statuses that ask for attention."""


def canonical(value: Json) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Json) -> str:
    """``sha256:<64 hex>`` of the canonical JSON of ``value``."""
    return "sha256:" + hashlib.sha256(canonical(value).encode()).hexdigest()


@lru_cache(maxsize=1024)
def run_id(lineage: str, address: str, attempt: int) -> str:
    """Return the run id: UUIDv5 of (state lineage, address, attempt)."""
    return str(uuid.uuid5(uuid.UUID(lineage), f"{address}#{attempt}"))


def scope(project: str, environment: str) -> str:
    """Return what a state belongs to: ``nightly``, or ``nightly/prod`` in an environment; no name holds a ``/``."""
    return f"{project}/{environment}" if environment else project


class Identity(NamedTuple):
    """What names and labels of an attempt are made of."""

    project: str
    lineage: str
    address: str
    attempt: int
    environment: str = ""

    @property
    def run_id(self) -> str:
        return run_id(self.lineage, self.address, self.attempt)


class Retry(NamedTuple):
    """How flowplan itself tries a run again: how often, and how long it waits before (``backoff.wait_after``)."""

    retries: int
    initial: float
    factor: float = 1.0
    max: float | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """What flowplan itself does with a run; durations in seconds, None where there is no limit.

    Attributes:
        group: the run's name in the spec, which all cells of a matrix share; needs: addresses.
        rerun: ``on_failure|on_change|always|never``; rerun_with: ``""|needs``; keep: ``""|finished``.
        replace: ``stop_first|start_first|after_finish``; protect: ``""|active|always``.
        retry_delay: None where flowplan does not try again itself; the engine may.
        ignore_changes: JSON Pointers into the objects.
        together: the provider creates cells that can start at the same time in one call (``protocol.Gatherer``).
    """

    group: str = ""
    needs: tuple[str, ...] = ()
    max_parallel: int | None = None
    timeout: float | None = None
    start_timeout: float | None = None
    grace_period: float = 30.0
    stream_output: bool = True
    rerun: str = "on_failure"
    replace: str = "stop_first"
    protect: str = ""
    ignore_changes: tuple[str, ...] = ()
    description: str = ""
    triggers: Mapping[str, str] = field(default_factory=dict)
    rerun_with: Annotated[str, Member(absent="")] = ""
    keep: Annotated[str, Member(absent="")] = ""
    retry_delay: Annotated[Retry | None, Member(absent=None)] = None
    together: Annotated[bool, Member(absent=False)] = False


class Origin(NamedTuple):
    """Where a field of an object came from: ``spec.yaml:12``, ``customizations[0] (spec.yaml:40)``, ``default``...

    ``text`` is complete for people; ``file``, ``line`` and ``column`` (from 1, 0 where there is none) are for machines.
    """

    text: str
    file: str = ""
    line: int = 0
    column: int = 0

    @property
    def position(self) -> Position | None:
        """Return the place in the file, for complaints; None where there is no file."""
        return Position(self.file, self.line or 1, self.column or 1) if self.file else None


class Rendered(NamedTuple):
    """The concrete objects of one attempt.

    Attributes:
        objects: complete, plain JSON; secret values appear as tokens (schemas.secrets).
        name: the object's name on the engine.
        origins: JSON Pointer -> Origin, for leaves (or subtrees) whose origin is known; a pointer without an entry
            takes that of its nearest ancestor, else ``default``.
        warnings: remarks for the plan, e.g. "resources are not enforced by the process provider".
    """

    objects: Objects
    name: str
    run_id: str
    attempt: int
    origins: Mapping[str, Origin] = {}
    warnings: tuple[str, ...] = ()


class Desired(NamedTuple):
    """One run as the spec (or a saved plan) wants it, renderable for any attempt.

    Attributes:
        provider: the provider entry's name in the spec (``docker``, ``gpu``).
        type: the provider type (``process``, ``docker``, ``kubernetes``).
        render: ``render(attempt, address="")`` -> Rendered; pure. ``address`` is given for a run that was moved: its
            objects on the engine keep the identity that they were born with.
    """

    address: str
    provider: str
    type: str
    settings: Settings
    render: Callable[..., Rendered]


@dataclass(frozen=True, slots=True)
class Recorded:
    """The newest attempt at an address, as the state remembers it.

    Attributes:
        objects: what was last applied, with tokens for secrets.
        handle: what the provider needs to find the object again (container id; uid; pid, start time, boot id); {} until
            the engine answered.
        target: identity of the engine: ``{"type": "docker", "id": "...", "label": "..."}``.
        attempts: executions the engine counted within this attempt (pods, restarts); at least 1 once started.
        present: False when the object is known to be gone from the engine (collected, destroyed, never created).
        plan_digest: digest of the plan under which this attempt was created or last changed.
        image: what ran, where the engine says it: ``id`` of the image, ``digest`` of the registry.
        remarks: as ``Observed.remarks``.
        born_as: the address that names and labels were made of, when the record was moved since; else "".
        Times are RFC 3339 in UTC, or None.
    """

    address: str
    provider: str
    type: str
    target: Mapping[str, str]
    attempt: int
    run_id: str
    name: str
    objects: Objects
    settings: Settings
    status: Status
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    attempts: int = 0
    handle: Mapping[str, Json] = field(default_factory=dict)
    infrastructure_id: str = ""
    present: bool = True
    plan_digest: str = ""
    created_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    output_tail: str = ""
    born_as: str = ""
    image: Mapping[str, str] = field(default_factory=dict)
    remarks: Mapping[str, str] = field(default_factory=dict)

    @property
    def not_started(self) -> bool:
        """Return whether it is an intent of which nothing was seen, or could not be started."""
        return self.status is Status.CREATING or (self.status is Status.FAILED and not self.present)


class Try(NamedTuple):
    """One execution of an attempt by its engine, after the first.

    Attributes:
        number: 2 is the first retry.
        of: how many there are at most; None without a limit, or where it is not known.
        began_at: RFC 3339 in UTC, or None.
        before: how the execution before it ended, as ``exit code 3``; "" where that is not known.
    """

    number: int
    of: int | None = None
    began_at: str | None = None
    before: str = ""

    @property
    def words(self) -> str:
        """Return a sentence: ``try 2 of 3; the one before ended with exit code 3``."""
        most = f" of {self.of}" if self.of and self.of >= self.number else ""
        return f"try {self.number}{most}" + (f"; the one before ended with {self.before}" if self.before else "")


@dataclass(frozen=True, slots=True)
class Observed:
    """What the engine says about one attempt now.

    Attributes:
        exists: False when the engine answered that there is no such object. An engine that does not answer raises
            EngineUnreachable instead; nothing is guessed.
        status: None when ``exists`` is False.
        live: the comparable part of the live object, same shape as the recorded objects (kinds and paths that
            flowplan set; extra fields are ignored by the comparison), or None when the provider cannot read it.
        managers: JSON Pointer -> who changed it last, where the engine knows (managedFields).
        at: the engine's time of this fact (RFC 3339 UTC), or None.
        content: the content label that the object was created with, "" where the engine does not tell.
        lineage: of the state that made the object, where that is another one than ours; "" for our own.
        created_at: when the object was created by the engine's clock, or None.
        created_from: who created it and where the state lies, ``user@host:path``, "" where that is not known.
        image: ``id`` and ``digest`` of the image that ran; {} where the engine does not say it here.
        tag_now: id of the image that the run's reference means by now; "" where that is not known.
        remarks: JSON Pointer into the objects -> why the engine left the field out, "" -> what it says of the object;
            None where nothing new is said.
        elsewhere: the host on which it was started, where it cannot be seen from here; the other fields are then what was last
            known. "" otherwise.
        progress: how far a live attempt is, as far as it is known: ``seconds`` since its time limit began to count, and
            ``active`` and ``failed`` executions.
        counts_from: when its time limit began to count, where that is not ``started_at``.
        tries: the executions after the first that the engine knows of, as far as it does; the newest is among them.
    """

    run_id: str
    exists: bool = True
    address: str = ""
    attempt: int = 0
    status: Status | None = None
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    attempts: int = 0
    handle: Mapping[str, Json] = field(default_factory=dict)
    infrastructure_id: str = ""
    name: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    at: str | None = None
    live: Objects | None = None
    managers: Mapping[str, str] = field(default_factory=dict)
    progress: Mapping[str, float] = field(default_factory=dict)
    counts_from: str | None = None
    image: Mapping[str, str] = field(default_factory=dict)
    tag_now: str = ""
    remarks: Mapping[str, str] | None = None
    content: str = ""
    lineage: str = ""
    created_at: str | None = None
    created_from: str = ""
    elsewhere: str = ""
    tries: tuple[Try, ...] = ()

    @property
    def gone(self) -> bool:
        """Return whether the engine has no such object, and does not tell how the attempt ended."""
        return not self.exists and self.status not in ENDS

    @property
    def over(self) -> bool:
        """Return whether the attempt has ended, or the engine has no such object."""
        return not self.exists or (self.status is not None and self.status.final)


def remark(place: str, words: str) -> str:
    """Return a remark of an engine as a sentence; ``place`` is a JSON Pointer into the objects, or "" for all of them."""
    parts = keys_of(place)[1:]
    return (
        f"the engine left out {'.'.join(parts).removeprefix('Config.')}: {words}"
        if place
        else f"the engine says: {words}"
    )


class Target(NamedTuple):
    """The engine itself, by identity: docker engine id, UID of namespace kube-system, host name + boot id.

    ``label`` is for people (an endpoint, a context, a host name); it takes no part in comparisons.
    """

    type: str
    id: str
    label: str = ""

    def document(self) -> dict[str, str]:
        return {"type": self.type, "id": self.id, "label": self.label}
