"""The doing half of a provider: what every backend promises, whatever its engine."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from flowplan.schemas.errors import ProviderError, Refused
from flowplan.schemas.plans import FieldChange, Finding
from flowplan.schemas.runs import Identity, Objects, Observed, Recorded, Settings, Target


@dataclass(frozen=True, slots=True)
class Context:
    """What a provider knows about the flowplan that uses it.

    Attributes:
        lineage: of the state; objects of other lineages are not ours.
        runs_dir: private directory beside the state where the process provider keeps its runs' files.
        settings: the provider entry of the spec (docker ``host``; kubernetes ``kubeconfig``, ``context``...), with
            secret values filled in and paths made absolute; {} for the defaults.
        spec_dir: directory of the spec, absolute.
        created_from: ``user@host:path`` of the state; ``create`` puts it on its objects, for people who find them.
        project: of the spec, or of the state; "" while it is not known. Its objects of other lineages are told by ``observe``.
    """

    lineage: str
    runs_dir: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    spec_dir: Path = Path()
    project: str = ""
    created_from: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """Everything needed to create one attempt.

    Attributes:
        objects: the concrete objects with tokens, as in the plan.
        secrets: token -> value, for ``schemas.secrets.reveal``; never stored, logged or put into an argument list.
        fresh: True when nothing can have been created for this attempt before, so that ``create`` need not look for it
            by its run id first. An object may have another name than planned, when a foreign one held that name.
    """

    identity: Identity
    name: str
    objects: Objects
    settings: Settings
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    fresh: bool = False


CUT = "... [truncated]"
"""Ends a line that is too long to be passed on whole."""


def of_other_content(what: str, address: str) -> Refused:
    """Return the refusal to adopt an object that has an attempt's run id and was made of other content."""
    return Refused(
        f"{what} has the identity of this attempt, but is of other content; it was left alone",
        hint="the state is older than the engine, or a copy: `flowplan state rebuild` records what is there",
        address=address,
    )


class LogLine(NamedTuple):
    """One line of a run's output, without its newline. ``stream`` is ``stdout`` or ``stderr``.

    A very long line ends with ``CUT``, or comes in pieces of which all but the last one say that it ``goes_on``.
    """

    text: str
    stream: str = "stdout"
    at: str | None = None
    goes_on: bool = False


@runtime_checkable
class ProgressReader(Protocol):
    """What a provider may offer as well: progress bars while they are drawn, for people at a terminal.

    Engines keep an output line by line, so that ``logs`` has a line once its newline was written. What comes this way is
    shown beside the run until then, and is kept nowhere: ``logs`` remains the output.
    """

    def progress(self, record: Recorded, stop: threading.Event) -> Iterator[LogLine]:
        """Yield the lines of a live run as they are written, and pieces of them that ``goes_on``, until ``stop`` is set.

        Of output from before the call there is nothing, and nothing at all where the engine refuses. A run is never
        slowed down: who takes the lines too slowly gets no more of them.
        """


IMPORTED = "imported"
"""Key of ``Recorded.handle`` that is true for an object that somebody else made: it carries none of our labels, so it is
found by its handle alone, and its name and labels are no drift."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object on the engine, whoever made it.

    Attributes:
        seen: what the engine says of it; ``run_id``, ``address`` and ``attempt`` by its labels, where it has them.
        project, lineage: by its labels, "" where it has none.
        objects: all of it, in the shape of rendered objects; None where the engine does not tell. It may hold secret
            values: compared in memory, never stored as it is.
        bare: the part of it that holds no secret and is enough to manage it.
        applied: exactly what was sent, with tokens, where the engine keeps that; else None.
    """

    seen: Observed
    project: str = ""
    lineage: str = ""
    objects: Objects | None = None
    bare: Objects = field(default_factory=dict)
    applied: Objects | None = None


News = Observed | ProviderError | None
"""What a watch yields: something new of a run, the engine's refusal or silence while it lasts, or nothing."""


@runtime_checkable
class Timekeeper(Protocol):
    """What a provider may offer as well: its engine's own time. Without it this computer's time is taken for it."""

    def now(self) -> datetime | None:
        """The engine's time without asking it; None while nobody knows."""


@runtime_checkable
class Roaming(Protocol):
    """What a provider may offer as well, whose runs need not be where this command is: ``observe`` says of each that it
    is ``elsewhere``, and ``delete`` refuses it. With other providers an engine that is not the recorded one is refused.
    """

    tells_elsewhere: bool


@runtime_checkable
class TimeoutKeeper(Protocol):
    """What a provider may offer as well, whose engine ends runs at their ``timeout``."""

    def keeps_timeout(self, record: Recorded) -> bool:
        """Return whether it does so for this run; else whoever follows it has to."""


class Keeper(Protocol):
    """What a provider offers as well that keeps files of attempts after their end: its pure half says ``KEEPS_FILES``."""

    def discard(self, known: Collection[str]) -> int:
        """Remove what is kept of attempts that were removed, except of the ``known`` run ids; return the bytes of it.

        Only for attempts whose removal the state has committed: nobody starts them any more.
        """


class Provider(Protocol):
    """One connection to one engine. Every method may be called from several threads at once.

    All of them raise EngineUnreachable when the engine does not answer and ProviderError when it refuses; foreign
    exceptions never get out. Nothing but ``create``, ``update`` and ``delete`` changes anything.
    """

    def target(self) -> Target:
        """The identity of the engine. The first call may connect."""

    def observe(self, records: Sequence[Recorded], wanted: Iterable[Objects] | None = None) -> list[Observed]:
        """Return one Observed for every record (``exists=False`` when the engine has no such object, with the status
        ``lost`` when it knows that there was one), and one for every object of our lineage that no record names. A
        constant number of requests, whatever the number of records.

        Args:
            wanted: given while planning: rendered objects that may be created. The places of these are looked at too, and
                objects of the project that another lineage made are returned with that ``lineage``.
        """

    def preflight(self, orders: Sequence[Order]) -> list[Finding]:
        """What ``create`` would trip over, in bulk, without changing anything."""

    def create(self, order: Order) -> Observed:
        """Create and start the attempt. Idempotent: an object that carries this run id and the content label of
        ``order`` is adopted (and started if it never was), never created twice. When a step fails nothing is left behind
        and StartFailed is raised. A foreign object of the same name gets a bounded number of ``-1``, ``-2`` suffixes, or
        an error.

        Raises:
            Refused: an object has this run id and another content label; it is left alone (``of_other_content``).
        """

    def update(self, record: Recorded, order: Order, fields: Sequence[FieldChange]) -> Observed:
        """Change the in-place ``fields`` of the live object to what ``order`` wants."""

    def delete(self, record: Recorded, grace: float) -> None:
        """TERM, wait ``grace`` seconds, KILL, remove everything that was created for the attempt. Missing is success.
        Returns when it is gone. The identity of the object is checked first: never somebody else's."""

    def watch(self, records: Sequence[Recorded], stop: threading.Event) -> Iterator[News]:
        """Yield an Observed whenever something changed (the current one of each record first), until every record has
        ended or ``stop`` is set. One stream per engine, not one per run. A lost connection is a reconnect and a new
        look, never a status. Yields None at least every second when there is nothing new; while the engine cannot be
        asked, the error instead, so that people are told.
        """

    def logs(
        self, record: Recorded, *, follow: bool, tail: int | None, stop: threading.Event | None = None
    ) -> Iterator[LogLine]:
        """The output of the attempt, oldest first; ``tail`` limits to the last lines; ``follow`` goes on to its end."""

    def secret_values(self, record: Recorded) -> list[str]:
        """The secret values that the attempt was given, as far as the engine still tells; for the redactor."""

    def find(self, project: str, wanted: Sequence[Objects] = ()) -> list[Found]:
        """Every object of a project by its labels, of whatever lineage, oldest attempt first.

        Args:
            wanted: rendered objects; where the engine does not let us look everywhere, their places are looked at.
        """

    def describe(self, object_id: str) -> Found:
        """The object that a person names: a container's id or name, ``namespace/job``, a pid.

        Raises:
            ProviderError: there is none, or it is nothing that a run can be.
        """

    def close(self) -> None:
        """Release connections."""
