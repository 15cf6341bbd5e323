"""Which steps of a plan come next: one that has to wait is set aside until what holds it back has changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from flowplan.planner.replay import effective
from flowplan.schemas.plans import Action, Change


@dataclass(slots=True)
class Step:
    """One change on its way: ``waiting``, ``working`` or ``done``.

    Attributes:
        after: addresses whose steps must be done before; place: its place in the plan's order;
        met: how many of the run's needs, from the first one, are known to have succeeded.
    """

    change: Change
    after: frozenset[str] = frozenset()
    state: str = "waiting"
    place: int = 0
    met: int = 0


def steps_of(changes: Iterable[Change]) -> dict[str, Step]:
    """Address -> step for everything that the plan would do; what is destroyed waits for what needs it."""
    chosen = [c for c in changes if effective(c)]
    dependents: dict[str, set[str]] = {}
    for change in chosen:
        if change.action is Action.DESTROY:
            for need in change.settings.needs:
                dependents.setdefault(need, set()).add(change.address)
    return {
        c.address: Step(
            c, frozenset(_before(c, dependents)) if c.action is Action.DESTROY else frozenset(), place=place
        )
        for place, c in enumerate(chosen)
    }


def _before(change: Change, dependents: dict[str, set[str]]) -> set[str]:
    return dependents.get(change.address, set())


class Schedule:
    """The steps that wait, in the plan's order. No step is looked at again before there is a reason to.

    Attributes:
        waiting: address -> step, also of those that are set aside.
    """

    def __init__(self, steps: dict[str, Step]) -> None:
        self.waiting = dict(steps)
        self._steps = sorted(steps.values(), key=lambda step: step.place)
        self._due = list(range(len(self._steps)))
        self._index = {step.change.address: n for n, step in enumerate(self._steps)}
        self._aside: dict[str, list[int]] = {}

    def next(self) -> Step | None:
        """Take the first step that nothing is known to hold back; None when there is none."""
        while self._due:
            step = self._steps[heappop(self._due)]
            if step.change.address in self.waiting:
                return step
        return None

    def put_back(self, steps: Iterable[Step]) -> None:
        """These were taken, and did not start after all."""
        for step in steps:
            heappush(self._due, self._index[step.change.address])

    def set_aside(self, step: Step, until: str) -> None:
        """Leave a step that was taken alone until ``until`` is woken."""
        heappush(self._aside.setdefault(until, []), self._index[step.change.address])

    def wake(self, until: str) -> None:
        """Look again at all steps that were set aside for this."""
        aside = self._aside.pop(until, None)
        if aside:
            self._due += aside
            heapify(self._due)

    def wake_one(self, until: str) -> None:
        """Look again at the first step that was set aside for this."""
        aside = self._aside.get(until)
        while aside:
            place = heappop(aside)
            if self._steps[place].change.address in self.waiting:
                heappush(self._due, place)
                return
