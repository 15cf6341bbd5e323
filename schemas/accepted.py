"""An accepted plan as the state remembers it: who applied it, when and from where, and how far each of its steps is."""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from flowplan.schemas.plans import Action, Change


class StepPhase(StrEnum):
    """How far a step is; what came of one that has started is told by the attempt that it created."""

    WAITING = "waiting"
    STARTED = "started"
    DONE = "done"
    SKIPPED = "skipped"
    DROPPED = "dropped"

    @property
    def open(self) -> bool:
        """Return whether the step has not begun, and no later plan or command has put an end to it."""
        return self in (StepPhase.WAITING, StepPhase.SKIPPED)


class Held(NamedTuple):
    """What holds a step back that cannot be derived from what is recorded of runs.

    Attributes:
        why: in words, "" where it can be derived; until: it waits for this time (RFC 3339 UTC), None for no time.
    """

    phase: StepPhase
    why: str = ""
    until: str | None = None


class Step(NamedTuple):
    """What an accepted plan does at one address; the last fields say what it waits for, and are empty once it has begun.

    Attributes:
        place: among the steps of the plan, in the order in which they are carried out.
        action, attempt, run_id: of the change. group, needs, max_parallel, replace: of its settings.
    """

    address: str
    place: int
    phase: StepPhase = StepPhase.WAITING
    why: str = ""
    until: str | None = None
    action: Action = Action.NO_OP
    attempt: int = 0
    run_id: str = ""
    group: str = ""
    needs: tuple[str, ...] = ()
    max_parallel: int | None = None
    replace: str = ""


class Accepted(NamedTuple):
    """A plan that was applied.

    Attributes:
        by: the process that carries it out, as the writer's lock names it: command, user, host, pid, since...
        directory: where the command was given. mode: as in the plan.
        variables: the values that were given, by name; sensitive ones are left out.
        left_at: when that process stopped working on it while steps were still open; None otherwise.
        document: the sealed text of the plan, with the changes that do something, as ``packed`` makes it; "" where it was
            not asked for.
    """

    digest: str
    by: Mapping[str, Any] = {}
    directory: str = ""
    mode: str = "normal"
    variables: Mapping[str, Any] = {}
    left_at: str | None = None
    document: str = ""
    steps: tuple[Step, ...] = ()


def steps_of(changes: Sequence[Change]) -> tuple[Step, ...]:
    """Return the steps of changes that are about to be carried out."""
    return tuple(
        Step(
            change.address,
            place,
            action=change.action,
            attempt=change.attempt,
            run_id=change.run_id,
            group=change.settings.group,
            needs=change.settings.needs,
            max_parallel=change.settings.max_parallel,
            replace=change.settings.replace,
        )
        for place, change in enumerate(changes)
        if change.effective
    )


def packed(text: str) -> str:
    """Return a document as it is kept: compressed, in ASCII."""
    return b64encode(zlib.compress(text.encode(), 1)).decode()


def unpacked(kept: str) -> str:
    """Return a document that was kept."""
    try:
        return zlib.decompress(b64decode(kept)).decode()
    except zlib.error as error:
        raise ValueError(str(error)) from error
