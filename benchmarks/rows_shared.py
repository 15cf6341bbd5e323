"""A state in PostgreSQL: against one in a file, beside the server and over a network with a round-trip time of 5 ms."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import specs
from measuring import FLOWPLAN, Failed, Result, Sample, Skipped, compared, run
from rows_planning import EVENTS, FEW, MATRIX, RUNS
from slow_network import slow_network

ROUND_TRIP = 0.005


class Place:
    """A project whose state is in the database, or beside its spec where there is no ``port``."""

    def __init__(self, directory: Path, port: int = 0, runs: str = MATRIX) -> None:
        self.project = f"bench-{uuid.uuid4().hex[:8]}"
        self.directory = specs.write(directory, runs, self.project)
        parts = _server()
        self._env = {"PGPASSWORD": parts.password or ""}
        if port:
            self._env["FLOWPLAN_STATE"] = f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"

    def flowplan(self, *words: str) -> Sample:
        return run([FLOWPLAN, *words], self.directory, env=self._env)

    def applied(self) -> Sample:
        """Apply the spec, and prove that all has succeeded."""
        sample = self.flowplan("apply", "flowplan.yaml", "--yes", "--no-stream")
        told = self.directory / "status.json"
        run([FLOWPLAN, "status", "--no-refresh", "--format", "json"], self.directory, env=self._env, output=told)
        if {one["status"] for one in json.loads(told.read_text())["runs"]} != {"succeeded"}:
            raise Failed("not every run has succeeded")
        return sample

    def remove(self) -> None:
        for table in ("states", "leases"):
            _sql(f"DELETE FROM flowplan.{table} WHERE project = %s", self.project)


def _server() -> SplitResult:
    """Return the parts of the URL of the server.

    Raises:
        Skipped: there is none.
    """
    if not os.environ.get("POSTGRES"):
        raise Skipped("POSTGRES names no database")
    return urlsplit(os.environ["POSTGRES"])


def _sql(query: str, *values: object) -> list[tuple[object, ...]]:
    import psycopg

    with psycopg.connect(os.environ["POSTGRES"], autocommit=True) as connection:
        cursor = connection.execute(query, values)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def _ports() -> Iterator[dict[str, int]]:
    """Yield the ports that lead to the server: at once, and over a network."""
    parts = _server()
    host, port = str(parts.hostname), int(parts.port or 5432)
    with slow_network(host, port, ROUND_TRIP) as far:
        yield {"": port, ", 5 ms away": far}


def plan(scratch: Path) -> list[Result]:
    """Measure a plan without a change."""
    found = []
    with _ports() as ports:
        for (how, port), bar in zip(ports.items(), (1.5, 2.5), strict=True):
            ours, theirs = Place(scratch / f"postgres-{port}", port), Place(scratch / f"sqlite-{port}")
            try:
                for place in (ours, theirs):
                    place.applied()
                    place.flowplan("plan", "--detailed-exitcode")
                found.append(
                    compared(
                        f"plan, {FEW:,} process runs, no change; state in PostgreSQL{how}",
                        "the state in SQLite",
                        bar,
                        lambda p=ours: p.flowplan("plan"),
                        lambda p=theirs: p.flowplan("plan"),
                        RUNS,
                    )
                )
            finally:
                ours.remove()
    return found


def apply(scratch: Path) -> list[Result]:
    """Measure an apply; each round has a directory and a project of its own."""
    found, rounds = [], count()
    with _ports() as ports:
        for (how, port), bar in zip(ports.items(), (1.3, 2.0), strict=True):

            def ours(port: int = port) -> Sample:
                place = Place(scratch / f"postgres-{next(rounds)}", port)
                try:
                    return place.applied()
                finally:
                    place.remove()

            found.append(
                compared(
                    f"apply, {FEW:,} process runs of true; state in PostgreSQL{how}",
                    "the state in SQLite",
                    bar,
                    ours,
                    lambda: Place(scratch / f"sqlite-{next(rounds)}").applied(),
                    RUNS,
                    warm=False,
                )
            )
    return found


def history(scratch: Path) -> Result:
    """Measure the slowest of plan, status and the newest events with a long history."""
    port = int(_server().port or 5432)
    short, long = (Place(scratch / name, port, specs.matrix(10, specs.PROCESS)) for name in ("short", "long"))
    try:
        newest = {}
        for place, number in ((short, FEW), (long, EVENTS)):
            place.applied()
            newest[place] = _grow(place.project, number)
        found = []
        for command in ("plan", "status", "events"):

            def measured(place: Place, command: str = command) -> Sample:
                after = ["--after", str(newest[place] - 100)] if command == "events" else []
                return place.flowplan(command, *after)

            found.append(compared(command, "", 1.5, lambda m=measured: m(long), lambda m=measured: m(short), RUNS))
    finally:
        short.remove()
        long.remove()
    worst = max(found, key=lambda result: result.value)
    worst.note = ", ".join(f"{r.what} {r.value:.2f}x" for r in found)
    worst.what = f"plan, status, newest events; {EVENTS:,} events in PostgreSQL"
    worst.against = f"the same with {FEW:,} events"
    return worst


def _grow(project: str, events: int) -> int:
    """Repeat the newest event until there are ``events``; return the newest number."""
    columns = "at, engine_at, address, run_id, attempt, status, reason, message, run"
    _sql(
        f"INSERT INTO flowplan.all_events (state, seq, {columns}) SELECT e.state, e.seq + n, {columns}"
        " FROM (SELECT * FROM flowplan.all_events WHERE state = (SELECT id FROM flowplan.states WHERE project = %s)"
        " ORDER BY seq DESC LIMIT 1) e, generate_series(1, %s - e.seq) n",
        project,
        events,
    )
    _sql("ANALYZE flowplan.all_events")
    query = "SELECT max(seq) FROM flowplan.all_events JOIN flowplan.states s ON s.id = state WHERE s.project = %s"
    return int(str(_sql(query, project)[0][0]))
