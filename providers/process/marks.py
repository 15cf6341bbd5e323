"""The marks by which a process and all that it starts are known: variables of the environment, which children inherit."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from flowplan.providers.process.kernel import RUN_ID, stat_of
from flowplan.schemas.runs import Identity

PROJECT = "FLOWPLAN_PROJECT"
ENVIRONMENT = "FLOWPLAN_ENVIRONMENT"
LINEAGE = "FLOWPLAN_LINEAGE"
ADDRESS = "FLOWPLAN_ADDRESS"
ATTEMPT = "FLOWPLAN_ATTEMPT"
MAX_AGE = 1.0
"""Seconds for which a look counts as new, where it only tells whether something is still there."""
CREATED_FROM = "FLOWPLAN_CREATED_FROM"
MARKS = (RUN_ID, PROJECT, LINEAGE, ADDRESS, ATTEMPT, CREATED_FROM)


class Marked(NamedTuple):
    """A live process that carries the marks of a run."""

    pid: int
    start_time: int
    session: int
    run_id: str
    project: str
    lineage: str
    address: str
    attempt: int
    created_from: str = ""
    environment: str = ""


def variables(identity: Identity, created_from: str) -> dict[str, str]:
    """Return the variables that every process of an attempt is given."""
    known = (identity.run_id, identity.project, identity.lineage, identity.address, str(identity.attempt), created_from)
    environment = {ENVIRONMENT: identity.environment} if identity.environment else {}
    return {**dict(zip(MARKS, known, strict=True)), **environment}


def scan() -> list[Marked]:
    """Look once at every process whose variables we may read (ours; all when we are root), and return the marked ones."""
    found = [_marked(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
    return [one for one in found if one]


class Scans:
    """The newest look at all processes, for several who want to know at about the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: list[Marked] = []
        self._until = 0.0

    def all(self) -> list[Marked]:
        """Look anew, and return all that is marked."""
        seen = scan()
        with self._lock:
            self._seen, self._until = seen, time.monotonic() + MAX_AGE
        return seen

    def of(self, run_id: str) -> list[int]:
        """Return what a moment ago was there of a run."""
        with self._lock:
            seen = self._seen if time.monotonic() < self._until else None
        return [one.pid for one in (self.all() if seen is None else seen) if one.run_id == run_id]


def leaders(processes: Iterable[Marked]) -> Iterator[Marked]:
    """Return one process of each run: the one that leads its session, else the oldest."""
    runs: dict[str, list[Marked]] = {}
    for one in processes:
        runs.setdefault(one.run_id, []).append(one)
    for members in runs.values():
        yield min(members, key=lambda one: (one.pid != one.session, one.start_time, one.pid))


def _marked(pid: str) -> Marked | None:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            environ = file.read()
    except OSError:
        return None
    if RUN_ID.encode() not in environ:
        return None
    ours = (entry for entry in environ.split(b"\0") if entry.startswith(b"FLOWPLAN_"))
    known: dict[str, Any] = dict(os.fsdecode(entry).partition("=")[::2] for entry in ours)
    stat = stat_of(int(pid))
    if RUN_ID not in known or stat is None or stat[0] in "ZX":
        return None
    run_id, project, lineage, address, attempt, created_from, environment = (
        known.get(name, "") for name in (*MARKS, ENVIRONMENT)
    )
    number = int(attempt) if attempt.isdigit() else 0
    return Marked(int(pid), stat[2], stat[1], run_id, project, lineage, address, number, created_from, environment)
