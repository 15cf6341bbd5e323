"""The tables of the page's document, ``schemas/report.py``: what was read of a state, as columns whose rows know each other."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from statistics import median
from typing import Any, Generic, NamedTuple, TypeVar

from flowplan import __version__
from flowplan.planner.manifests.names import is_own_label
from flowplan.render.objects import leaves
from flowplan.schemas import report
from flowplan.schemas.accepted import Step
from flowplan.schemas.events import Event
from flowplan.schemas.plans import Change
from flowplan.schemas.report import PlanView, Report
from flowplan.schemas.runs import PROBLEMS, Json, Recorded, Settings
from flowplan.schemas.times import in_utc, timestamp

T = TypeVar("T")

_PAST, _ENOUGH = 10, 3
_SLOWER, _AT_LEAST = 1.5, 1000
_UPSTREAM = 5


class Limits(NamedTuple):
    """How much of what there is a document has.

    Attributes:
        events: the newest ones. attempts: of each run, the newest. objects: of how many of these.
        details: how many groups of the plan have their whole objects.
    """

    events: int
    attempts: int
    objects: int
    details: int


class Known(NamedTuple):
    """What was read of a state, at one moment.

    Attributes:
        serial: None where there is no state. status, history: as ``documents`` has them. steps: those that have not begun, by address.
    """

    project: str | None
    environment: str
    serial: int | None = None
    follower: str = ""
    status: Mapping[str, Any] = {"runs": (), "not_started": ()}
    history: Mapping[str, Any] = {"applies": (), "attempts": ()}
    attempts: Sequence[Recorded] = ()
    steps: Mapping[str, Step] = {}
    events: Sequence[Event] = ()
    last_seq: int = 0

    def newest(self, limits: Limits) -> Known:
        """Return the newest of it."""
        kept = _newest(self.attempts, limits.attempts)
        told = self.history["attempts"]
        return self._replace(
            attempts=[self.attempts[n] for n in kept],
            history={**self.history, "attempts": [told[n] for n in kept]},
            events=self.events[len(self.events) - min(limits.events, len(self.events)) :],
        )


class _Places(Generic[T]):
    """Values that many rows share, named by their place."""

    def __init__(self, *first: T) -> None:
        self._of = {value: n for n, value in enumerate(first)}

    def __call__(self, value: T) -> int:
        return self._of.setdefault(value, len(self._of))

    @property
    def all(self) -> tuple[T, ...]:
        return tuple(self._of)


class Tables:
    """Makes the tables; each row of a table is known by its place."""

    def __init__(self, everything: Known, planned: Sequence[Change], limits: Limits) -> None:
        self._limits, self._all = limits, len(everything.attempts)
        self._known = known = everything.newest(limits)
        self._now = datetime.now(UTC)
        self._text = _Places("")
        self._labels = _Places[tuple[tuple[str, str], ...]](())
        self._needs = _Places[tuple[int, ...]](())
        self._planned = {change.address: change for change in planned if change.after is not None}
        managed = sorted([*known.status["runs"], *known.status["not_started"]], key=lambda one: one["place"])
        self._managed = dict.fromkeys(one["address"] for one in managed) | dict.fromkeys(self._planned)
        self._runs = self._managed | dict.fromkeys(one.address for one in known.attempts)
        self._row = {address: n for n, address in enumerate(self._runs)}
        self._newest = {one.address: n for n, one in enumerate(known.attempts)}
        self._settings = {address: change.settings for address, change in self._planned.items()}
        self._settings |= {one.address: one.settings for one in known.attempts}
        for address, step in known.steps.items():
            known_so_far = self._settings.get(address, Settings())
            self._settings[address] = replace(
                known_so_far, group=step.group, needs=step.needs, max_parallel=step.max_parallel
            )
        names = (self._settings[address].group or address.partition("[")[0] for address in self._runs)
        self._names = _Places(*dict.fromkeys(names))
        self._apply = {apply["plan"]: n for n, apply in enumerate(known.history["applies"])}
        times = [
            *(one.created_at or one.started_at for one in known.attempts),
            *(a["at"] for a in known.history["applies"]),
        ]
        self._epoch = min(filter(None, map(_moment, times)), default=self._now).replace(microsecond=0)

    def document(self, plan: PlanView | None) -> Report:
        """Return the document, without outputs."""
        known = self._known
        runs = self._runs_table()
        attempts, objects = self._attempts_table()
        return Report(
            format_version=report.FORMAT_VERSION,
            flowplan_version=__version__,
            project=known.project,
            environment=known.environment,
            made_at=timestamp(self._now),
            serial=known.serial,
            last_seq=known.last_seq,
            follower=known.follower,
            epoch=timestamp(self._epoch),
            groups=tuple(self._groups(runs)),
            needs=self._needs.all,
            labels=tuple(dict(labels) for labels in self._labels.all),
            runs=runs,
            attempts=attempts,
            applies=tuple(self._applies()),
            not_started=self._not_started(),
            overdue=tuple(
                report.Overdue(self._row[run["address"]], **late)
                for run in known.status["runs"]
                if (late := run["overdue"])
            ),
            slow=tuple(self._slow(attempts)),
            events=self._events(),
            objects=objects,
            outputs=(),
            left_out=tuple(self._left_out(plan)),
            plan=plan,
            strings=self._text.all,
        )

    def _time(self, time: str | None) -> int | None:
        moment = _moment(time)
        return round((moment - self._epoch).total_seconds() * 1000) if moment else None

    def _runs_table(self) -> report.Runs:
        text, attempts = self._text, self._known.attempts
        recorded = {run["address"]: run for run in self._known.status["runs"]}
        waiting = {step["address"]: step["status"] for step in self._known.status["not_started"]}
        rows = []
        for address in self._runs:
            newest = self._newest.get(address)
            record = attempts[newest] if newest is not None else None
            change, settings = self._planned.get(address), self._settings[address]
            if address in recorded:
                status = recorded[address]["status"]
            elif address in self._managed:
                status = waiting.get(address, "planned")
                if change and change.run and not change.action.starts and self._known.serial is None:
                    status = change.run.status
            else:
                status = self._known.history["attempts"][newest]["status"] if newest is not None else ""
            image = record.image.get("digest") or record.image.get("id") if record else ""
            rows.append(
                (
                    address,
                    self._names(settings.group or address.partition("[")[0]),
                    text(record.provider if record else change.provider if change else ""),
                    text(status),
                    int(address in self._managed),
                    newest,
                    self._needs(tuple(self._row[need] for need in settings.needs if need in self._row)),
                    record.run_id if record else "",
                    record.infrastructure_id if record else "",
                    text(image or ""),
                    text((record.target.get("label") or "") if record else ""),
                    self._labels(_labels(record.objects) if record else ()),
                )
            )
        return _table(report.Runs, rows)

    def _attempts_table(self) -> tuple[report.Attempts, report.Objects]:
        text, objects = self._text, _Objects(self._text)
        with_objects = set(_newest(self._known.attempts, self._limits.objects))
        rows = []
        for n, (one, told) in enumerate(zip(self._known.attempts, self._known.history["attempts"], strict=True)):
            rows.append(
                (
                    self._row[one.address],
                    one.attempt,
                    text(told["status"]),
                    text(one.reason),
                    text(one.message),
                    one.exit_code,
                    one.attempts,
                    self._apply.get(told["plan"]),
                    self._time(one.created_at),
                    self._time(one.started_at),
                    self._time(one.finished_at),
                    text(one.name),
                    objects(one.objects) if n in with_objects else None,
                )
            )
        return _table(report.Attempts, rows), report.Objects(tuple(objects.bases), tuple(objects.rows))

    def _not_started(self) -> report.NotStarted:
        text, row = self._text, self._row
        rows = [
            (
                row[step["address"]],
                text(step["status"]),
                text(step["reason"]),
                tuple(row[address] for address in step["waits_for"] if address in row),
                self._time(step["until"]),
                text(step["action"]),
                step["attempt"],
                self._apply.get(step["plan"]),
            )
            for step in self._known.status["not_started"]
        ]
        return _table(report.NotStarted, rows)

    def _events(self) -> report.Events:
        text = self._text
        rows = [
            (
                event.seq,
                self._time(event.at),
                self._row[event.address],
                event.attempt,
                text(event.status),
                text(event.reason),
                text(event.message),
            )
            for event in self._known.events
            if event.address in self._row
        ]
        return _table(report.Events, rows)

    def _groups(self, runs: report.Runs) -> Iterator[report.Group]:
        names, texts, lists = self._names.all, self._text.all, self._needs.all
        cells: list[list[int]] = [[] for _ in names]
        for n, group in enumerate(runs.group):
            if runs.managed[n]:
                cells[group].append(n)
        states = [Counter(texts[runs.status[n]] for n in own) for own in cells]
        problem = [any(count[status] for status in PROBLEMS) for count in states]
        needed = [dict.fromkeys(runs.group[need] for n in own for need in lists[runs.needs[n]]) for own in cells]
        edges = [tuple(need for need in found if need != n) for n, found in enumerate(needed)]
        upstream = _upstream(edges, problem)
        for n, name in enumerate(names):
            first = runs.address[cells[n][0]] if cells[n] else ""
            settings = self._settings.get(first, Settings())
            yield report.Group(
                name=name,
                needs=edges[n],
                states=dict(states[n]),
                matrix="[" in first,
                problem=problem[n],
                upstream=upstream[n],
                max_parallel=settings.max_parallel,
                description=settings.description,
            )

    def _applies(self) -> Iterator[report.Apply]:
        for one in self._known.history["applies"]:
            told = {name: value for name, value in one.items() if name != "directory"}
            yield report.Apply(**told | {"at": self._time(one["at"]), "left_at": self._time(one["left_at"])})

    def _slow(self, attempts: report.Attempts) -> Iterator[int]:
        """Yield the attempts that took longer than is usual."""
        before: dict[int, list[int]] = defaultdict(list)
        until = self._time(timestamp(self._now)) or 0
        succeeded = self._text("succeeded")
        for n, run in enumerate(attempts.run):
            start, end = attempts.started[n], attempts.finished[n]
            live = self._known.attempts[n].status.live
            took = None if start is None else (until if live and end is None else end or start) - start
            past = before[run][-_PAST:]
            if took is not None and len(past) >= _ENOUGH:
                usual = median(past)
                if took > _SLOWER * usual and took - usual > _AT_LEAST:
                    yield n
            if took is not None and attempts.status[n] == succeeded:
                before[run].append(took)

    def outputs_wanted(self, logs: str) -> dict[str, int]:
        """Return run id -> row of the attempts whose output is wanted, what matters most first."""
        ends = self._known.history["attempts"]
        meant = [n for n, end in enumerate(ends) if logs == "all" or (logs == "failed" and end["status"] in PROBLEMS)]
        stands = {n for address, n in self._newest.items() if address in self._managed}
        ordered = sorted(meant, key=lambda n: (ends[n]["status"] not in PROBLEMS, n not in stands, -n))
        return {self._known.attempts[n].run_id: n for n in ordered}

    def _left_out(self, plan: PlanView | None) -> Iterator[str]:
        """Yield what is not in the tables, and not in the plan."""
        kept, limits = self._known.attempts, self._limits
        if plan and len(plan.groups) > limits.details:
            some = f"the first {limits.details} of {len(plan.groups)}" if limits.details else "no"
            yield f"Whole objects are here of {some} changes of the plan; `flowplan show --full` shows all."
        if len(kept) < self._all:
            yield f"Of {self._all} attempts {len(kept)} are here: the newest of each run; `flowplan history` shows all."
        if len(kept) > len(_newest(kept, limits.objects)):
            whose = f"the newest {limits.objects} attempts of each run" if limits.objects else "no attempts"
            yield f"Objects are here of {whose}; `flowplan state show ADDR` shows all."
        if self._known.last_seq > limits.events:
            number = f"The newest {len(self._known.events)}" if self._known.events else "No"
            yield f"{number} events are here; `flowplan events` shows all."


def _newest(attempts: Sequence[Recorded], limit: int) -> list[int]:
    """Return the places of the newest attempts at each address, in their order."""
    seen: Counter[str] = Counter()
    kept = []
    for n in range(len(attempts) - 1, -1, -1):
        seen[attempts[n].address] += 1
        if seen[attempts[n].address] <= limit:
            kept.append(n)
    return kept[::-1]


class _Objects:
    """Objects that differ in a few leaves, see ``report.Objects``."""

    def __init__(self, text: _Places[str]) -> None:
        self._text = text
        self._bases: dict[tuple[str, ...], tuple[int, list[Json]]] = {}
        self._places: dict[str, int] = {}  # by JSON, where 1, 1.0 and true are three values
        self.bases: list[Json] = []
        self.rows: list[tuple[Any, ...]] = []

    def __call__(self, objects: Json) -> int:
        shown = _without_own(objects)
        found = list(leaves(shown))
        shape = tuple(pointer for pointer, _ in found)
        values = [value for _, value in found]
        if shape not in self._bases:
            self._bases[shape] = len(self.bases), values
            self.bases.append(shown)
        base, first = self._bases[shape]
        row: list[Any] = [base]
        for pointer, value, other in zip(shape, values, first, strict=True):
            if value != other or type(value) is not type(other):
                row += [self._text(pointer), value]
        key = json.dumps(row)
        if key not in self._places:
            self._places[key] = len(self.rows)
            self.rows.append(tuple(row))
        return self._places[key]


def _without_own(value: Json) -> Json:
    """Return objects without the labels that flowplan itself sets."""
    if isinstance(value, list):
        return [_without_own(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _without_own(item) for key, item in value.items() if not is_own_label(key)}
    return value


def _labels(objects: Json) -> tuple[tuple[str, str], ...]:
    """Return the labels that a user gave to a run: those of the outermost object that has some."""
    level = [objects]
    while level:
        for value in level:
            for key in ("labels", "Labels"):
                if isinstance(found := value.get(key), Mapping):
                    return tuple((name, str(text)) for name, text in found.items() if not is_own_label(name))
        level = [item for value in level for item in value.values() if isinstance(item, Mapping)]
    return ()


def _upstream(edges: Sequence[Sequence[int]], problem: Sequence[bool]) -> list[tuple[int, ...]]:
    """Return for each group the first few with a problem that it needs, directly or through others."""
    from graphlib import CycleError, TopologicalSorter

    found: list[tuple[int, ...]] = [() for _ in edges]
    try:
        order = list(TopologicalSorter(dict(enumerate(edges))).static_order())
    except CycleError:  # of cells that are left from another spec
        order = list(range(len(edges)))
    for n in order:
        above = [one for need in edges[n] for one in ((need,) if problem[need] else found[need])]
        found[n] = tuple(dict.fromkeys(above))[:_UPSTREAM]
    return found


def _table(kind: Callable[..., T], rows: Sequence[tuple[Any, ...]]) -> T:
    """Return a table, which has a field for each column, from its rows."""
    return kind(*(zip(*rows, strict=True) if rows else [()] * len(kind.__annotations__)))


def _moment(time: str | None) -> datetime | None:
    """Return an RFC 3339 time; None where it is missing or, in a state that was edited by hand, none."""
    try:
        return in_utc(datetime.fromisoformat(time)) if time else None
    except ValueError:
        return None
