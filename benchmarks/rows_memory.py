"""What following keeps: the loop that records what engines say, fed with 10,000 changes of 1,000 runs by a fake engine.

It is measured in a process of its own, which this file is the program of.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import specs
from measuring import FLOWPLAN, PYTHON, Failed, Result, run, scaled

from flowplan.apply import Beside, carry_out
from flowplan.engines import Engines
from flowplan.outcome import Options
from flowplan.output import Output, Sink
from flowplan.providers.protocol import Provider
from flowplan.schemas.plans import Plan
from flowplan.schemas.runs import Observed, Recorded, Status
from flowplan.state.sqlite.lock import WriterLock
from flowplan.state.sqlite.store import SqliteStore

RUNS = scaled(1000)
EVENTS = 10 * RUNS


def _resident() -> float:
    gc.collect()
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


class Talkative:
    """A provider whose runs are pending for another reason eleven times each; what memory was after the first is kept."""

    def __init__(self, done: threading.Event) -> None:
        self.done = done
        self.at_first = 0.0

    def watch(self, records: Sequence[Recorded], stop: threading.Event) -> Iterator[Observed | None]:
        for number in range(EVENTS // len(records) + 1):
            for record in records:
                yield Observed(record.run_id, address=record.address, status=Status.PENDING, reason=f"Reason{number}")
            time.sleep(1.0 if number == 0 else 0.1)
            self.at_first = self.at_first or _resident()
        self.done.set()
        while not stop.wait(0.2):
            yield None


class Quiet(Sink):
    """Says nothing."""

    def event(self, event: object, record: object) -> None:
        return


def watch_memory(scratch: Path) -> Result:
    directory = specs.write(scratch / "memory", specs.matrix(RUNS, specs.PROCESS))
    run([FLOWPLAN, "plan"], directory)
    told = directory / "told.json"
    run([PYTHON, __file__], directory, output=told)
    found = json.loads(told.read_text())
    if found["events"] < EVENTS:
        raise Failed(f"{found['events']} events were recorded, not {EVENTS}")
    what = f"memory of watch on {RUNS:,} runs, after {EVENTS:,} events"
    return Result(what, "after one event of each run", found["grown"], 10, "MiB", runs=1)


def _watch(directory: Path) -> dict[str, float]:
    """Follow a fake engine to its last event; return by how many MiB memory grew, and the number of events."""
    store = SqliteStore.open(directory / ".flowplan/state.db")
    store.intend([_record(n) for n in range(RUNS)])
    done, interrupted = threading.Event(), threading.Event()
    provider = Talkative(done)
    engines = Engines(
        {}, lineage=store.lineage, runs_dir=directory / "runs", spec_dir=directory,
        connected={"process": cast(Provider, provider)},
    )  # fmt: skip
    plan = Plan("bench", "", store.lineage, store.serial, "", "", ())
    threading.Thread(target=lambda: (done.wait(120), time.sleep(2.0), interrupted.set()), daemon=True).start()
    carry_out(
        plan, store, engines, WriterLock(directory / ".flowplan/state.db", "watch"), Quiet(Output()), Options(stream=False),
        secrets={}, interrupted=interrupted, beside=Beside(list(store.records())),
    )  # fmt: skip
    grown = _resident() - provider.at_first
    recorded = store.last_seq()
    store.close()
    return {"grown": grown, "events": recorded}


def _record(number: int) -> Recorded:
    from flowplan.schemas.runs import Settings

    return Recorded(
        address=f"cell[n={number}]", provider="process", type="process", target={}, attempt=1, run_id=f"{number:032x}",
        name=f"cell-{number}", objects={"Process": {"argv": ["true"]}}, settings=Settings(group="cell"), status=Status.CREATING,
    )  # fmt: skip


if __name__ == "__main__":
    json.dump(_watch(Path.cwd()), sys.stdout)
