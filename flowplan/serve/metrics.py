"""The numbers of a follower in the format of Prometheus. Labels are names of runs, never cells or run ids: their number is
that of the spec's runs, however many cells and attempts there are."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator
from contextlib import closing
from threading import Lock

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from flowplan import __version__
from flowplan.left import left
from flowplan.schemas.errors import FlowplanError
from flowplan.schemas.runs import ENDS, Status
from flowplan.schemas.times import seconds_between
from flowplan.serve.health import Health
from flowplan.state.store import Store

CONTENT_TYPE = CONTENT_TYPE_LATEST
BUCKETS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600)
"""Seconds: runs take from a moment to days."""
_ENDED = frozenset({*map(str, ENDS), str(Status.LOST)})


class Metrics:
    """The numbers of one follower.

    Args:
        opened: opens the state for reading.
    """

    def __init__(self, opened: Callable[[], Store], health: Health) -> None:
        self._opened, self._health = opened, health
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._ended = Counter(
            "flowplan_runs_ended",
            "Runs that ended since the follower began.",
            ["run", "outcome"],
            registry=self._registry,
        )
        self._took = Histogram(
            "flowplan_run_duration_seconds",
            "Seconds from start to end of runs that ended since the follower began.",
            ["run"],
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._lag = Histogram(
            "flowplan_record_lag_seconds",
            "Seconds from the end of a run by its engine's clock until it was recorded.",
            buckets=(0.1, 0.5, 1, 2, 5, 15, 60, 300),
            registry=self._registry,
        )
        self._registry.register(self)
        self._seq: int | None = None
        self._serial = -1
        self._runs: Tally[tuple[str, str]] = Tally()
        self._waiting: Tally[str] = Tally()
        self._readable = True
        self._lock = Lock()

    def text(self) -> bytes:
        """Return all numbers, as Prometheus reads them."""
        with self._lock:
            try:
                self._read()
                self._readable = True
            except FlowplanError:
                self._readable = False
            return generate_latest(self._registry)

    def begin(self) -> None:
        """Count what ends from now on."""
        with self._lock, closing(self._opened()) as store:
            self._seq = store.last_seq()

    def _read(self) -> None:
        with closing(self._opened()) as store:
            serial = store.serial
            if serial == self._serial:
                return
            if self._seq is None:
                self._seq = store.last_seq()
            records = store.records()
            self._waiting = Tally(step.status for plan in left(store, records) for step in plan.steps)
            self._runs = Tally((r.settings.group, str(r.status)) for r in records.values())
            ended = {}
            for event in store.events(after=self._seq):
                self._seq = event.seq
                if event.status in _ENDED:
                    ended[event.run_id] = event
            known = store.known(ended)
            self._serial = serial
        for run_id, event in ended.items():
            name = event.address.partition("[")[0]
            self._ended.labels(name, event.status).inc()
            progress = known[run_id].progress if run_id in known else None
            if progress and (took := seconds_between(progress.started_at, progress.finished_at)) is not None:
                self._took.labels(name).observe(max(took, 0.0))
            if progress and (lag := seconds_between(progress.finished_at, event.at)) is not None:
                self._lag.observe(max(lag, 0.0))

    def collect(self) -> Iterator[Metric]:
        """Yield the numbers that are of this moment; the registry asks for them."""
        build = GaugeMetricFamily("flowplan_build_info", "The version of flowplan.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        runs = GaugeMetricFamily("flowplan_runs", "Recorded runs by status.", labels=["run", "status"])
        for (run, status), number in sorted(self._runs.items()):
            runs.add_metric([run, status], number)
        yield runs
        waiting = GaugeMetricFamily("flowplan_waiting_runs", "Approved runs that have not begun.", labels=["status"])
        for status in ("waiting", "skipped"):
            waiting.add_metric([status], self._waiting[status])
        yield waiting
        yield GaugeMetricFamily(
            "flowplan_follower_active", "1 for the follower that works, 0 for one that stands by.",
            value=self._health.role == "active",
        )  # fmt: skip
        problems = self._health.problems
        state = self._readable and "state" not in problems
        yield GaugeMetricFamily("flowplan_state_up", "Whether the state can be used.", value=state)
        engines = GaugeMetricFamily("flowplan_engine_up", "Whether an engine answers.", labels=["provider"])
        for name in sorted(self._health.engines):
            engines.add_metric([name], name not in problems)
        yield engines
        yield GaugeMetricFamily("flowplan_last_event_seq", "The number of the newest event.", value=self._seq or 0)
