"""Plan: the document that people review and machines trust; Change and FieldChange are its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

from flowplan.schemas.codec import Member, like
from flowplan.schemas.notifications import Channel
from flowplan.schemas.runs import Json, Objects, Settings
from flowplan.schemas.secrets import SecretSource
from flowplan.schemas.sources import Diagnostic

FORMAT_VERSION = "1.0"


class Action(StrEnum):
    """What a plan does at an address."""

    CREATE = "create"
    UPDATE = "update"
    REPLACE = "replace"
    RERUN = "rerun"
    DESTROY = "destroy"
    ADOPT = "adopt"
    FORGET = "forget"
    NO_OP = "no-op"

    @property
    def starts(self) -> bool:
        """Return whether the action creates a new object on the engine."""
        return self in (Action.CREATE, Action.REPLACE, Action.RERUN)


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Any = _Absent()
"""The value of a field that is not there (JSON null is a value)."""
_VALUE = Member(absent=ABSENT, last=True)


class FieldChange(NamedTuple):
    """One changed field of the objects.

    Attributes:
        path: JSON Pointer into the objects (``/Job/spec/template/spec/containers/0/image``).
        before, after: JSON values; the sentinel ``ABSENT`` where the field is not there.
        effect: ``in_place`` or ``replace``.
        rule: the engine's rule that makes it so.
        origin: where the wanted value was written ("spec.yaml:12"), or "".
        drift: True when ``before`` is the live value, which was changed on the engine and not by flowplan.
        recorded: for drift, the value that was applied.
        manager: for drift, who changed it, "" where the engine does not know; None without drift.
    """

    path: str
    before: Annotated[Json, _VALUE]
    after: Annotated[Json, _VALUE]
    effect: str
    rule: str
    origin: str = ""
    drift: Annotated[bool, Member(absent=False)] = False
    recorded: Annotated[Json, _VALUE] = ABSENT
    manager: Annotated[str | None, Member(absent=None)] = None


class Finding(NamedTuple):
    """One result of a preflight: a problem that would make apply fail.

    Attributes:
        severity: ``error`` (apply would fail) or ``warning``.
        check: short name of what was checked (``image``, ``executable``, ``namespace``...).
        message: the engine's words; hint: what to do.
    """

    address: str
    severity: str
    check: str
    message: str
    hint: str = ""


class RunFacts(NamedTuple):
    """The run as it stood when the plan was made; None fields where nothing is known. Times RFC 3339 UTC."""

    status: str
    attempt: int
    run_id: str
    name: str = ""
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    started_at: str | None = None
    finished_at: str | None = None


class _History(NamedTuple):
    last: tuple[str, ...] = ()
    durations: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """What the plan does at one address, and why.

    Attributes:
        before: the recorded objects, None where there are none; after: what would be on the engine afterwards.
        fields: changed fields between what is recorded (or live, for drift) and what is wanted.
        run: the run as it stands; None where there is none.
        attempt: attempt number of ``after`` (that of ``before`` for destroy and forget).
        interrupts: True when carrying it out stops something that runs now.
        skipped: not "" when a rule leaves the change out (protect), in words; it is not carried out.
        live: fingerprint of the live facts that the decision rests on; part of the plan's digest.
    """

    address: str
    provider: str
    type: str
    action: Action
    reasons: tuple[str, ...]
    _: KW_ONLY
    name: str = ""
    run_id: str = ""
    attempt: Annotated[int, Member(required=True)] = 1
    interrupts: bool = False
    skipped: str = ""
    moved_from: str = ""
    live: str = ""
    before: Objects | None
    after: Objects | None
    fields: tuple[FieldChange, ...] = ()
    run: RunFacts | None = None
    warnings: tuple[str, ...] = ()
    preflight: tuple[Finding, ...] = ()
    settings: Annotated[Settings, Member(required=True)] = field(default_factory=Settings)
    history: Annotated[Mapping[str, Any], like(_History)] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def effective(self) -> bool:
        """Return whether the plan would do something at this address."""
        return not self.skipped and (self.action is not Action.NO_OP or bool(self.moved_from))


class _Entry(NamedTuple):
    type: str


Entries = Annotated[Mapping[str, Any], like(Mapping[str, _Entry])]
"""Provider entry name -> what is said of it; the entries have a ``type``, and other members as it pleases."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole plan; ``schemas/plan_documents.py`` turns it to and from JSON (``plan.schema.json``).

    Attributes:
        providers: provider entry name -> {"type": ..., connection settings with tokens for secrets}.
        targets: provider entry name -> target document, for the providers that were asked.
        variables: name -> {"value", "origin"}; sensitive ones have a token as value.
        secrets: token -> SecretSource: how apply gets the value again.
        diagnostics: warnings and remarks about the plan as a whole.
        mode: ``normal``, ``destroy`` or ``refresh_only``.
        expires_at: apply refuses the plan after this time (RFC 3339 UTC); None for never.
        made_at: time of planning (RFC 3339 UTC); only in plan files, so that the same plan is printed the same.
        partial: ``--target`` or ``--exclude`` left runs out, so that it says nothing of them.
        environment: of the project, "" where it has none.
        notify: who is told of what happens to the runs; None for nobody.
    """

    project: str
    digest: str
    lineage: Annotated[str, Member(within="state")]
    serial: Annotated[int, Member(within="state")]
    spec_path: Annotated[str, Member(within="spec", name="path")]
    spec_digest: Annotated[str, Member(within="spec", name="digest")]
    changes: tuple[Change, ...]
    variables: Mapping[str, Any] = field(default_factory=dict)
    providers: Entries = field(default_factory=dict)
    targets: Entries = field(default_factory=dict)
    secrets: Mapping[str, SecretSource] = field(default_factory=dict)
    diagnostics: tuple[Diagnostic, ...] = ()
    mode: str = "normal"
    refreshed: bool = True
    flowplan_version: str = ""
    expires_at: str | None = None
    made_at: str = ""
    partial: Annotated[bool, Member(absent=False)] = False
    environment: Annotated[str, Member(absent="")] = ""
    notify: Annotated[tuple[Channel, ...] | None, Member(absent=None)] = None
