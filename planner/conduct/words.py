"""The words of conduct: what an apply is told (facts) and what it asks for (commands)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flowplan.schemas.errors import FlowplanError
from flowplan.schemas.events import Event
from flowplan.schemas.lifecycle import End
from flowplan.schemas.plans import Change, FieldChange
from flowplan.schemas.runs import Observed, Recorded

# commands -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lock:
    """Take the writer's lock. Answer: "" when it is held, else who holds it. ``wait``: as long as the user allows."""

    wait: bool = False


@dataclass(frozen=True, slots=True)
class Unlock:
    """Give the writer's lock back."""


@dataclass(frozen=True, slots=True)
class AskOthers:
    """Answer whether another flowplan holds the writer's lock."""


@dataclass(frozen=True, slots=True)
class Intend:
    """Record that these attempts are about to be created. Answer: the events."""

    records: tuple[Recorded, ...]


@dataclass(frozen=True, slots=True)
class Advance:
    """Record what engines said of these attempts.

    Answer: the events, among them those that another flowplan recorded meanwhile while this one did not have the lock, and
    the newest record of each address.
    """

    seen: tuple[tuple[Recorded, Observed], ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """Record the ends that flowplan itself gave attempts. Answer: the events."""

    ends: tuple[End, ...]


@dataclass(frozen=True, slots=True)
class Absent:
    """Record that the objects of these attempts are gone."""

    run_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Destroyed:
    """Record that attempts were destroyed on purpose: address -> run ids. Answer: the events."""

    attempts: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Applied:
    """Record what is in force at addresses after updates or adoptions."""

    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Forget:
    """Stop managing an address. Answer: the events."""

    address: str


@dataclass(frozen=True, slots=True)
class Move:
    """Rename an address in the state."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Skip:
    """Record that steps never begin, and why, by address."""

    why: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Keep:
    """Store the ends of outputs, by run id."""

    outputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AskDropped:
    """Answer at which of these addresses the step was dropped: cancelled, or superseded by a plan that was accepted since."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AskCarried:
    """Answer the addresses of the steps that have not begun and that another flowplan carries out."""


@dataclass(frozen=True, slots=True)
class Reload:
    """Answer the newest record of each of these addresses, by address; one that has none is left out."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """Create an attempt; ``former`` attempts are removed before, or after it when ``first``."""

    change: Change
    former: tuple[Recorded, ...] = ()
    first: bool = False
    fresh: bool = False
    born_as: str = ""


@dataclass(frozen=True, slots=True)
class Update:
    """Change fields of a live object in place."""

    change: Change
    record: Recorded
    fields: tuple[FieldChange, ...]
    born_as: str = ""
    former: tuple[Recorded, ...] = ()


@dataclass(frozen=True, slots=True)
class Remove:
    """Stop and remove attempts. ``limit`` is the time limit that passed, and then an attempt that moved on is spared."""

    address: str
    attempts: tuple[Recorded, ...]
    limit: str = ""


@dataclass(frozen=True, slots=True)
class Again:
    """Start the object of an attempt again: it failed, and the wait before its next try is over, which is counted."""

    record: Recorded


@dataclass(frozen=True, slots=True)
class Follow:
    """Watch attempts until they end."""

    records: tuple[Recorded, ...]


@dataclass(frozen=True, slots=True)
class Show:
    """Read the output of an attempt as it is written, once, to keep its end; ``aloud``: show it to the user as well."""

    record: Recorded
    aloud: bool


@dataclass(frozen=True, slots=True)
class Unfollow:
    """Watch an attempt no longer. Answer whether its output is still being shown."""

    record: Recorded


@dataclass(frozen=True, slots=True)
class ReadEnd:
    """Read the end of the output of an attempt."""

    record: Recorded


@dataclass(frozen=True, slots=True)
class Tell:
    """Show an event to the user."""

    event: Event
    record: Recorded | None


@dataclass(frozen=True, slots=True)
class Note:
    """Say something to the user."""

    text: str


Command = (
    Lock | Unlock | AskOthers | Intend | Advance | Finish | Absent | Destroyed | Applied | Forget | Move | Skip | Keep | AskDropped
    | AskCarried | Reload | Start | Update | Remove | Again | Follow | Show | Unfollow | ReadEnd | Tell | Note
)  # fmt: skip
Commands = Generator[Command, Any, None]


# facts ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answered:
    """What an engine made of a command.

    Attributes:
        seen: the object afterwards; removed: the attempts whose objects are gone; outputs: run id -> end of output;
        before: the object as it was before it was removed for a time limit.
    """

    command: Start | Update | Remove | Again
    seen: Observed | None = None
    removed: tuple[Recorded, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    error: FlowplanError | None = None
    before: Observed | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """An engine said something of an attempt."""

    what: Observed


@dataclass(frozen=True, slots=True)
class Shown:
    """The output of an attempt has been shown to its end."""

    run_id: str


@dataclass(frozen=True, slots=True)
class EndRead:
    """The end of the output of an attempt; "" when the engine has none."""

    run_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """An engine does not answer, or something else is wrong there; its runs go on."""

    provider: str
    error: FlowplanError


@dataclass(frozen=True, slots=True)
class Well:
    """The trouble of an engine is over."""

    provider: str
    error: FlowplanError


@dataclass(frozen=True, slots=True)
class Unwatchable:
    """An engine has refused for long to be watched."""

    provider: str
    error: FlowplanError


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The user wants flowplan to end, not the runs."""


Fact = Answered | Seen | Shown | EndRead | Trouble | Well | Unwatchable | Interrupted


@dataclass(frozen=True, slots=True)
class Moment:
    """The time when facts are taken in.

    Attributes:
        now: by a clock that nobody sets; wall: by this computer's; engine: provider entry -> the time by its engine's clock, None while unknown;
        room: how many more engine calls may be asked for; keeps_timeout: whether the engine of a run ends it by itself
        when its ``timeout`` passes.
    """

    now: datetime
    wall: datetime
    engine: Callable[[str], datetime | None]
    room: int
    keeps_timeout: Callable[[Recorded], bool]


@dataclass(frozen=True, slots=True)
class Manner:
    """How a plan is to be carried out.

    Attributes:
        output_first: the end of a run is told after its output, since both go to one place.
        until: when to stop waiting; the runs go on.
        patient: an engine that does not answer is asked again until it does, and the lock is never waited for.
    """

    detach: bool = False
    stream: bool = True
    output_first: bool = True
    until: datetime | None = None
    patient: bool = False
