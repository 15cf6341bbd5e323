"""The document of the page, ``schemas/report.py``, made of what a state knows and of a plan."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any, NamedTuple

from flowplan import __version__, documents
from flowplan.left import followed_by
from flowplan.planner.manifests.names import is_own_label
from flowplan.render.objects import leaves
from flowplan.schemas import report
from flowplan.schemas.accepted import Step
from flowplan.schemas.plans import Change
from flowplan.schemas.report import PlanView, Report
from flowplan.schemas.runs import PROBLEMS, Json, Recorded
from flowplan.schemas.times import in_utc, timestamp
from flowplan.state.acceptance import unbegun
from flowplan.state.store import Store

MOST_EVENTS = 20_000
"""The newest events that a document has."""
WITH_OBJECTS = 2
"""The newest attempts of a run whose objects a document has."""
_PAST, _ENOUGH = 10, 3
_SLOWER, _AT_LEAST = 1.5, 1000
_UPSTREAM = 5


class _Strings:
    """Texts that are named by their place."""

    def __init__(self) -> None:
        self._places = {"": 0}

    def __call__(self, text: str | None) -> int:
        return self._places.setdefault(text or "", len(self._places))

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(self._places)


class _Known(NamedTuple):
    """What was read of a state, at one moment."""

    status: Mapping[str, Any]
    history: Mapping[str, Any]
    attempts: Sequence[Recorded]
    steps: Mapping[str, Step]
    events: Sequence[Any]
    last_seq: int


def report_of(
    store: Store,
    *,
    plan: PlanView | None = None,
    planned: Sequence[Change] = (),
    logs: str = "failed",
    left_out: Sequence[str] = (),
) -> Report:
    """Return the document of a state.

    Args:
        plan: what the page shows of a plan; planned: the changes of one that is not applied yet.
        logs: which outputs are in it: ``all``, ``failed`` or ``none``.
        left_out: what it tells to be missing, beside what is found to be here.
    """
    with store.snapshot():
        attempts = store.attempts()
        last = store.last_seq()
        known = _Known(
            documents.status(store)[0],
            documents.history(store, attempts=attempts),
            attempts,
            {step.address: step for _, step in unbegun(store)},
            list(store.events(after=max(last - MOST_EVENTS, 0))),
            last,
        )
        return _Builder(store, known, planned).document(plan, logs, left_out)


def report_of_plan(plan: PlanView) -> Report:
    """Return the document of a plan alone."""
    now = timestamp(datetime.now(UTC))
    none: tuple[Any, ...] = ()
    return Report(
        format_version=report.FORMAT_VERSION,
        flowplan_version=__version__,
        project=plan.project,
        environment=plan.environment,
        made_at=now,
        serial=None,
        last_seq=0,
        follower="",
        epoch=now,
        strings=("",),
        groups=none,
        needs=(none,),
        labels=({},),
        runs=report.Runs(*[none] * 12),
        attempts=report.Attempts(*[none] * 13),
        applies=none,
        not_started=report.NotStarted(*[none] * 8),
        overdue=none,
        slow=none,
        events=report.Events(*[none] * 7),
        objects=report.Objects(none, none),
        outputs=none,
        left_out=none,
        plan=plan,
    )


class _Builder:
    """Makes the tables; each row of a table is known by its place."""

    def __init__(self, store: Store, known: _Known, planned: Sequence[Change]) -> None:
        self._store, self._known = store, known
        self._now = datetime.now(UTC)
        self._text = _Strings()
        self._labels: dict[tuple[tuple[str, str], ...], int] = {(): 0}
        self._planned = {change.address: change for change in planned if change.after is not None}
        managed = sorted([*known.status["runs"], *known.status["not_started"]], key=lambda one: one["place"])
        self._managed = dict.fromkeys(one["address"] for one in managed) | dict.fromkeys(self._planned)
        self._runs = self._managed | dict.fromkeys(one.address for one in known.attempts)
        self._row = {address: n for n, address in enumerate(self._runs)}
        self._newest = {one.address: n for n, one in enumerate(known.attempts)}
        self._apply = {apply["plan"]: n for n, apply in enumerate(known.history["applies"])}
        times = (one.created_at or one.started_at for one in known.attempts)
        moments = [*(time for time in times if time), *(a["at"] for a in known.history["applies"] if a["at"])]
        self._epoch = min(map(_moment, moments), default=self._now).replace(microsecond=0)

    def document(self, plan: PlanView | None, logs: str, left_out: Sequence[str]) -> Report:
        """Return the document."""
        store, known = self._store, self._known
        needs = _Lists()
        runs = self._runs_table(needs)
        attempts, objects = self._attempts_table()
        return Report(
            format_version=report.FORMAT_VERSION,
            flowplan_version=__version__,
            project=store.project,
            environment=store.environment,
            made_at=timestamp(self._now),
            serial=known.status["serial"],
            last_seq=known.last_seq,
            follower=followed_by(store),
            epoch=timestamp(self._epoch),
            groups=self._groups(runs, needs),
            needs=needs.all,
            labels=tuple(dict(labels) for labels in self._labels),
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
            outputs=tuple(self._outputs(logs)),
            left_out=tuple(left_out),
            plan=plan,
            strings=self._text.all,
        )

    # -- times and rows -------------------------------------------------------------------------------------------------

    def _time(self, time: str | None) -> int | None:
        return round((_moment(time) - self._epoch).total_seconds() * 1000) if time else None

    def _groups_of_runs(self) -> dict[str, str]:
        found = {one.address: one.settings.group for one in self._known.attempts}
        found |= {address: step.group for address, step in self._known.steps.items()}
        return found | {address: change.settings.group for address, change in self._planned.items()}

    def _needs_of(self, address: str) -> Sequence[str]:
        if step := self._known.steps.get(address):
            return step.needs
        newest = self._newest.get(address)
        if newest is not None:
            return self._known.attempts[newest].settings.needs
        return self._planned[address].settings.needs if address in self._planned else ()

    # -- tables ---------------------------------------------------------------------------------------------------------

    def _runs_table(self, needs: _Lists) -> report.Runs:
        text, attempts = self._text, self._known.attempts
        recorded = {run["address"]: run for run in self._known.status["runs"]}
        waiting = {step["address"]: step["status"] for step in self._known.status["not_started"]}
        named = self._groups_of_runs()
        names = dict.fromkeys(named.get(address) or address.partition("[")[0] for address in self._runs)
        self._names = list(names)
        group_row = {name: n for n, name in enumerate(names)}
        rows = []
        for address in self._runs:
            newest = self._newest.get(address)
            record = attempts[newest] if newest is not None else None
            change = self._planned.get(address)
            if address in recorded:
                status = recorded[address]["status"]
            elif address in self._managed:
                status = waiting.get(address, "planned")
            else:
                status = self._known.history["attempts"][newest]["status"] if newest is not None else ""
            image = record.image.get("digest") or record.image.get("id") if record else ""
            rows.append(
                (
                    address,
                    group_row[named.get(address) or address.partition("[")[0]],
                    text(record.provider if record else change.provider if change else ""),
                    text(status),
                    int(address in self._managed),
                    newest,
                    needs(self._row[need] for need in self._needs_of(address) if need in self._row),
                    record.run_id if record else "",
                    record.infrastructure_id if record else "",
                    text(image),
                    text(record.target.get("label") if record else ""),
                    self._labels.setdefault(_labels(record.objects) if record else (), len(self._labels)),
                )
            )
        return report.Runs(*_columns(rows, 12))

    def _attempts_table(self) -> tuple[report.Attempts, report.Objects]:
        text, objects = self._text, _Objects(self._text)
        seen: Counter[str] = Counter()
        with_objects = set()
        for n in range(len(self._known.attempts) - 1, -1, -1):
            seen[self._known.attempts[n].address] += 1
            if seen[self._known.attempts[n].address] <= WITH_OBJECTS:
                with_objects.add(n)
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
        return report.Attempts(*_columns(rows, 13)), report.Objects(tuple(objects.bases), tuple(objects.rows))

    def _not_started(self) -> report.NotStarted:
        text, row = self._text, self._row
        return report.NotStarted(
            *_columns(
                [
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
                ],
                8,
            )
        )

    def _events(self) -> report.Events:
        text = self._text
        return report.Events(
            *_columns(
                [
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
                ],
                7,
            )
        )

    def _groups(self, runs: report.Runs, needs: _Lists) -> tuple[report.Group, ...]:
        states: list[Counter[str]] = [Counter() for _ in self._names]
        needed: list[dict[int, None]] = [{} for _ in self._names]
        first: dict[int, str] = {}
        texts, lists = self._text.all, needs.all
        for n, (address, group) in enumerate(zip(runs.address, runs.group, strict=True)):
            if not runs.managed[n]:
                continue
            first.setdefault(group, address)
            states[group][texts[runs.status[n]]] += 1
            needed[group] |= dict.fromkeys(runs.group[need] for need in lists[runs.needs[n]])
        problem = [any(count[status] for status in PROBLEMS) for count in states]
        edges = [tuple(need for need in found if need != n) for n, found in enumerate(needed)]
        upstream = _upstream(edges, problem)
        found = []
        for n, name in enumerate(self._names):
            settings = self._settings_of(first[n]) if n in first else None
            found.append(
                report.Group(
                    name=name,
                    needs=edges[n],
                    states=dict(states[n]),
                    matrix="[" in first.get(n, ""),
                    problem=problem[n],
                    upstream=upstream[n],
                    max_parallel=settings.max_parallel if settings else None,
                    description=settings.description if settings else "",
                )
            )
        return tuple(found)

    def _settings_of(self, address: str) -> Any:
        newest = self._newest.get(address)
        if newest is not None:
            return self._known.attempts[newest].settings
        return self._planned[address].settings if address in self._planned else None

    def _applies(self) -> Iterator[report.Apply]:
        for one in self._known.history["applies"]:
            yield report.Apply(
                plan=one["plan"],
                mode=one["mode"],
                at=self._time(one["at"]),
                command=one["command"],
                user=one["user"],
                host=one["host"],
                variables=one["variables"],
                left_at=self._time(one["left_at"]),
                ends=one["ends"],
                steps=one["steps"],
            )

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

    def _outputs(self, logs: str) -> Iterator[report.Output]:
        if logs == "none":
            return
        wanted = {
            one.run_id: n
            for n, one in enumerate(self._known.attempts)
            if logs == "all" or self._known.history["attempts"][n]["status"] in PROBLEMS
        }
        for run_id, text in self._store.tails(wanted).items():
            yield report.Output(wanted[run_id], text, 0)


class _Lists:
    """Lists that many rows share, named by their place."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, ...], int] = {(): 0}

    def __call__(self, items: Iterable[int]) -> int:
        return self._places.setdefault(tuple(items), len(self._places))

    @property
    def all(self) -> tuple[tuple[int, ...], ...]:
        return tuple(self._places)


class _Objects:
    """Objects that differ in a few leaves, see ``report.Objects``."""

    def __init__(self, text: _Strings) -> None:
        self._text = text
        self._bases: dict[tuple[str, ...], tuple[int, list[Json]]] = {}
        self._places: dict[tuple[Any, ...], int] = {}
        self.bases: list[Json] = []

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        return list(self._places)

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
        return self._places.setdefault(tuple(row), len(self._places))


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


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[tuple[Any, ...]]:
    """Return the columns of rows, which may be none."""
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _moment(time: str) -> datetime:
    return in_utc(datetime.fromisoformat(time))
