"""The document of the page, ``schemas/report.py``, made of what a state knows and of a plan."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from statistics import median
from typing import Any, NamedTuple

from flowplan import __version__, documents, webpage
from flowplan.left import followed_by
from flowplan.planner.manifests.names import is_own_label
from flowplan.render.objects import leaves
from flowplan.render.plan_page import DETAILS
from flowplan.schemas import report
from flowplan.schemas.accepted import Step
from flowplan.schemas.codec import encode
from flowplan.schemas.events import Event
from flowplan.schemas.plans import Change
from flowplan.schemas.report import PlanView, Report
from flowplan.schemas.runs import PROBLEMS, Json, Recorded
from flowplan.schemas.times import in_utc, timestamp
from flowplan.state.acceptance import unbegun
from flowplan.state.store import Store


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


LADDER = (
    Limits(20_000, 1 << 30, 2, DETAILS),
    Limits(2000, 1 << 30, 1, 200),
    Limits(0, 20, 0, 50),
    Limits(0, 5, 0, 0),
    Limits(0, 1, 0, 0),
)
"""What is tried until a document fits."""
SHORT = 2000
"""Characters of each output that have precedence over the whole output of others."""
_AT_A_TIME = 200
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

    def newest(self, limits: Limits) -> _Known:
        """Return the newest of it."""
        kept = _newest(self.attempts, limits.attempts)
        told = self.history["attempts"]
        return self._replace(
            attempts=[self.attempts[n] for n in kept],
            history={**self.history, "attempts": [told[n] for n in kept]},
            events=self.events[len(self.events) - min(limits.events, len(self.events)) :],
        )


def report_of(
    store: Store,
    *,
    plan: PlanView | None = None,
    planned: Sequence[Change] = (),
    logs: str = "failed",
    most: int = webpage.MAX_SIZE,
    left_out: Sequence[str] = (),
) -> Report:
    """Return the document of a state, which says itself what it leaves out.

    Args:
        plan: what the page shows of a plan; planned: the changes of one that is not applied yet.
        logs: which outputs are in it: ``all``, ``failed`` or ``none``.
        most: bytes of a page with it.
        left_out: what it tells to be missing, beside what is found to be here.
    """
    with store.snapshot():
        attempts = store.attempts()
        last = store.last_seq()
        known = _Known(
            store.project or (plan.project if plan else None),
            store.environment,
            store.serial,
            followed_by(store),
            documents.status(store)[0],
            documents.history(store, attempts=attempts),
            attempts,
            {step.address: step for _, step in unbegun(store)},
            list(store.events(after=max(last - LADDER[0].events, 0))),
            last,
        )
        found, builder, room = _fitted(known, plan, planned, most)
        found = replace(found, left_out=(*left_out, *found.left_out))
        return _with_outputs(found, store, builder.outputs_wanted(logs), logs, room)


def report_of_plan(plan: PlanView, planned: Sequence[Change], most: int = webpage.MAX_SIZE) -> Report:
    """Return the document of a plan alone: what it would leave running, and start."""
    return _fitted(_Known(plan.project, plan.environment), plan, planned, most)[0]


def _fitted(known: _Known, plan: PlanView | None, planned: Sequence[Change], most: int) -> tuple[Report, _Builder, int]:
    """Return the document with as much as there is room for, but for outputs; what made it; and the bytes that are left."""
    room = webpage.room(most)
    for limits in LADDER:
        builder = _Builder(known, planned, limits)
        found = builder.document(plan and _shortened(plan, limits.details))
        if (taken := webpage.size(encode(found), most)) <= room:
            break
    return found, builder, room - taken


def _shortened(plan: PlanView, details: int) -> PlanView:
    """Return a plan with the whole objects of its first groups only."""
    return replace(
        plan,
        groups=(*plan.groups[:details], *(replace(one, objects=(), explained=()) for one in plan.groups[details:])),
    )


class _Builder:
    """Makes the tables; each row of a table is known by its place."""

    def __init__(self, everything: _Known, planned: Sequence[Change], limits: Limits) -> None:
        self._limits, self._all = limits, len(everything.attempts)
        self._known = known = everything.newest(limits)
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

    def document(self, plan: PlanView | None) -> Report:
        """Return the document, without outputs."""
        known = self._known
        needs = _Lists()
        runs = self._runs_table(needs)
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
            outputs=(),
            left_out=tuple(self._left_out(plan)),
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
                if change and change.run and not change.action.starts and self._known.serial is None:
                    status = change.run.status
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


def _with_outputs(document: Report, store: Store, wanted: Mapping[str, int], logs: str, room: int) -> Report:
    """Return the document with as much of the wanted outputs as there is room for: the end of each first."""
    kept: dict[str, report.Output] = {}
    for whole in (False, True):
        for run_id, text in _tails(store, wanted):
            known = kept.get(run_id)
            if whole and (known is None or not known.cut):
                continue
            shown = text if whole else text[-SHORT:]
            room -= webpage.packed_size(shown) - (webpage.packed_size(known.text) if known else 0)
            if room < 0:
                break
            kept[run_id] = report.Output(wanted[run_id], shown, len(text) - len(shown))
    there = len(store.with_tails(wanted))
    told = list(document.left_out)
    if logs != "all":
        which = "No output is here" if logs == "none" else "Only output of attempts that failed is here"
        told.append(f"{which}; `flowplan report --logs all` takes all, `flowplan logs ADDR` shows one.")
    if missing := there - len(kept):
        told.append(f"The output of {missing} of {there} attempts is not here; --max-size makes room for more.")
    if cut := sum(output.cut > 0 for output in kept.values()):
        told.append(f"Of {cut} outputs only the last lines are here; --max-size makes room for more.")
    return replace(document, left_out=tuple(told), outputs=tuple(kept.values()))


def _tails(store: Store, wanted: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the stored ends of outputs by run id, in the order of the run ids, read a few at a time."""
    ids = list(wanted)
    for start in range(0, len(ids), _AT_A_TIME):
        found = store.tails(ids[start : start + _AT_A_TIME])
        yield from ((run_id, found[run_id]) for run_id in ids[start : start + _AT_A_TIME] if run_id in found)


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
