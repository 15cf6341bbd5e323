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
from flowplan.schemas.runs import Identity, Json, Objects, Observed, Recorded, Settings, Target


class Context(NamedTuple):
    """What a provider knows about the flowplan that uses it.

    Attributes:
        lineage: of the state; objects of other lineages are not ours.
        runs_dir: private directory where the process provider keeps its runs' files.
        settings: the provider entry of the spec (docker ``host``; kubernetes ``kubeconfig``, ``context``...), with
            secret values filled in and paths made absolute; {} for the defaults.
        spec_dir: directory of the spec, absolute.
        created_from: ``user@host:path`` of the state; ``create`` puts it on its objects, for people who find them.
        project: of the spec, or of the state; "" while it is not known. Its objects of other lineages are told by ``observe``.
        environment: of the project, "" where it has none; objects of the project in other ones are none of ours, and are
            neither told by ``observe`` nor found by ``find``.
    """

    lineage: str
    runs_dir: Path
    settings: Mapping[str, Any] = {}
    spec_dir: Path = Path()
    project: str = ""
    created_from: str = ""
    environment: str = ""


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
    A whole line after which another whole one of the same stream comes without any waiting may say so (``more``): secrets
    are looked for in all of these at once.
    """

    text: str
    stream: str = "stdout"
    at: str | None = None
    goes_on: bool = False
    more: bool = False


@runtime_checkable
class ProgressReader(Protocol):
    """An optional part of a provider: progress bars while they are drawn, for people at a terminal.

    Engines keep an output line by line, so that ``logs`` has a line once its newline was written. What comes this way is
    shown beside the run until then, and is kept nowhere: ``logs`` remains the output.
    """

    def progress(self, record: Recorded, stop: threading.Event) -> Iterator[LogLine]:
        """Yield the lines of a live run as they are written, and pieces of them that ``goes_on``, until ``stop`` is set.

        Output from before the call is left out. Nothing is yielded when the engine refuses. The run is never slowed down:
        a reader that is too slow gets no more lines.
        """


IMPORTED = "imported"
"""Key of ``Recorded.handle`` that is true for an imported object, which flowplan did not create: it carries none of our
labels, so it is found by its handle alone, and its name and labels are not drift."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object on the engine, created by flowplan or not.

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
"""What a watch yields: an observation that differs from the last one, the engine's error while it lasts, or None."""


@runtime_checkable
class Timekeeper(Protocol):
    """An optional part of a provider: its engine's own time. Without it this computer's time is used."""

    def now(self) -> datetime | None:
        """Return the engine's time without a request; None while it is unknown."""


@runtime_checkable
class Roaming(Protocol):
    """An optional part of a provider whose runs may be on another host than this command: ``observe`` says of such a run
    that it is ``elsewhere``, and ``delete`` refuses it. For other providers an engine that is not the recorded one is
    refused as a whole.
    """

    tells_elsewhere: bool


@runtime_checkable
class TimeoutKeeper(Protocol):
    """An optional part of a provider whose engine ends runs at their ``timeout``."""

    def keeps_timeout(self, record: Recorded) -> bool:
        """Return whether it does so for this run; else the command that follows it stops it."""


@runtime_checkable
class ContainerReader(Protocol):
    """An optional part of a provider whose runs may have further containers beside the one that is the run."""

    def logs_of(
        self, record: Recorded, container: str, *, follow: bool, tail: int | None, stop: threading.Event | None = None
    ) -> Iterator[LogLine]:
        """Yield the output of one container of the attempt, as ``logs`` does.

        Raises:
            ProviderError: it has no container of that name.
        """


@runtime_checkable
class Catalogue(Protocol):
    """An optional part of a provider that can list what runs could be made of, whoever made it."""

    def catalogue(self, selector: str) -> list[Json]:
        """Return the objects that a selector of labels matches, all for "", as the engine's API has them."""


class Retrier(Protocol):
    """A part of a provider whose engine keeps no delay between two tries; its pure half says ``RETRY_DELAY``."""

    def again(self, record: Recorded) -> Observed:
        """Start the object of an attempt again that has ended; the new execution is counted already.

        Nothing is started when the execution that ended is another one than the handle says (``lifecycle.ENDED``): somebody
        else was faster. An engine that refuses makes it one more try that failed.

        Raises:
            EngineUnreachable: it may have been started, or not; calling this again is safe.
        """


class Gatherer(Protocol):
    """A part of a provider that can create several attempts in one call; its pure half says ``together``."""

    def gather(self, orders: Sequence[Order]) -> None:
        """Note attempts of which each is about to be passed to ``create``, the first of which may create them all.

        Nothing is sent. What was created for an attempt whose own ``create`` never comes has not started, and is adopted
        or removed as what a crash left.
        """


class Keeper(Protocol):
    """A part of a provider that keeps files of attempts after their end; its pure half says ``KEEPS_FILES``."""

    def discard(self, known: Collection[str]) -> int:
        """Remove the files of removed attempts, except of the ``known`` run ids; return their size in bytes.

        Called only after the state has committed the removal, so that none of these attempts is started again.
        """


class Provider(Protocol):
    """One connection to one engine. Every method may be called from several threads at once.

    All of them raise EngineUnreachable when the engine does not answer and ProviderError when it refuses; foreign
    exceptions never get out. Nothing but ``create``, ``update`` and ``delete`` changes anything.
    """

    def target(self) -> Target:
        """Return the identity of the engine. The first call may connect."""

    def observe(self, records: Sequence[Recorded], wanted: Iterable[Objects] | None = None) -> list[Observed]:
        """Return one Observed for every record, and one for every object of our lineage that no record names.

        A record without an object has ``exists=False``, with the status ``lost`` when the engine knows that there was
        one. The number of requests is constant, whatever the number of records.

        Args:
            wanted: given while planning: rendered objects that may be created. The places of these are looked at too, and
                objects of the project that another lineage made are returned with that ``lineage``.
        """

    def preflight(self, orders: Sequence[Order]) -> list[Finding]:
        """Return the problems that would make ``create`` fail, in bulk, without changing anything."""

    def create(self, order: Order) -> Observed:
        """Create and start the attempt; adopt an object that carries its run id and the content label of ``order``.

        An adopted object is started if it never was. Calling this twice, or from two places at once, creates one object.
        When a step fails, nothing is left behind. A name that a foreign object has gets a suffix, ``-1``, ``-2``, up to
        a limit, or is an error.

        Raises:
            StartFailed: the engine could not start it.
            Refused: an object has this run id and another content label; it is left alone (``of_other_content``).
        """

    def update(self, record: Recorded, order: Order, fields: Sequence[FieldChange]) -> Observed:
        """Change the in-place ``fields`` of the live object to what ``order`` wants."""

    def delete(self, record: Recorded, grace: float) -> None:
        """End the attempt (TERM, ``grace`` seconds, KILL), remove everything that was created for it, and return then.

        An object that is missing is success. One with another identity is never touched.
        """

    def watch(self, records: Sequence[Recorded], stop: threading.Event) -> Iterator[News]:
        """Yield the current Observed of each record, then one whenever something changed, until all of them have ended or
        ``stop`` is set.

        There is one stream for the engine, not one for each run. A lost connection is made again and is no status. When
        there is nothing new, None is yielded at least every second, and the error while the engine cannot be asked.
        """

    def logs(
        self, record: Recorded, *, follow: bool, tail: int | None, stop: threading.Event | None = None
    ) -> Iterator[LogLine]:
        """Yield the output of the attempt, oldest first: its last ``tail`` lines; with ``follow`` until its end."""

    def secret_values(self, record: Recorded) -> list[str]:
        """Return the secret values that the attempt was given, as far as the engine tells, for the redactor."""

    def find(self, project: str, wanted: Sequence[Objects] = ()) -> list[Found]:
        """Return the objects of a project by their labels, of all lineages, oldest attempt first.

        Args:
            wanted: rendered objects; where permissions do not allow to list everything, their places are listed.
        """

    def describe(self, object_id: str) -> Found:
        """Return the object that a user names: a container's id or name, ``namespace/job``, a pid.

        Its handle has the key ``IMPORTED``, and finds it again without labels.

        Raises:
            ProviderError: there is none, or it cannot be a run.
        """

    def close(self) -> None:
        """Release connections."""
