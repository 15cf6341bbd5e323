"""How a plan is to be carried out, and what came of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from flowplan import interruption
from flowplan.planner.conduct.world import World
from flowplan.schemas.errors import FlowplanError


@dataclass(slots=True)
class Outcome:
    """What came of an apply.

    Attributes:
        carried_out: number of changes by action; failed: address -> how its run ended, when not well;
        errors: engine errors by address; skipped: address -> why it did not start; left_out: protected runs;
        waiting: what could not start yet (detached or interrupted); unanswered: what was asked for without an answer, so
        that it may have started or not; ended: runs that were followed to their end; ends: number of runs by how they
        ended, those that succeeded first; took: seconds.
    """

    carried_out: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    errors: dict[str, FlowplanError] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    live: list[str] = field(default_factory=list)
    ended: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    took: float = 0.0
    timed_out: bool = False
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """Return the exit code: the strongest reason first."""
        if self.interrupted:
            return interruption.code()
        if self.errors:
            return max(e.exit_code for e in self.errors.values())
        if self.left_out:
            return 6
        if self.failed or self.skipped:
            return 3
        return 8 if self.timed_out else 0


def outcome_of(world: World) -> Outcome:
    """Return what came of an apply that is over."""
    live = [run for run in world.live.values() if run.wanted]
    unborn = [run for run in live if world.abandoned(run)]
    ill = Counter(str(run.record.status) for run in world.runs.values() if run.failed and run.record)
    return Outcome(
        carried_out=world.carried_out,
        failed={a: run.failed for a, run in world.runs.items() if run.failed},
        errors={a: run.error for a, run in world.runs.items() if run.error},
        skipped={a: run.skipped for a, run in world.runs.items() if run.skipped},
        left_out={c.address: c.skipped for c in world.plan.changes if c.skipped},
        waiting=[*world.waiting, *(run.address for run in unborn if not run.error)],
        unanswered=[run.address for run in unborn if run.error],
        live=[run.address for run in live if not world.abandoned(run)],
        ended=world.ended,
        ends={status: n for status, n in {"succeeded": world.succeeded, **ill}.items() if n},
        timed_out=world.timed_out,
        interrupted=world.interrupted,
    )


@dataclass(frozen=True, slots=True)
class Options:
    """How to carry a plan out; times in seconds, ``wait_timeout`` None is without limit.

    Attributes:
        patient: ask engines that do not answer again, until they do.
        tail: how many lines to show of what runs printed before; None for all.
    """

    parallelism: int = 10
    detach: bool = False
    wait_timeout: float | None = None
    lock_timeout: float = 0.0
    stream: bool = True
    patient: bool = False
    tail: int | None = None
