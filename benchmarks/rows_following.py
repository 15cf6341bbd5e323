"""Following many runs: what it costs while nothing changes, how soon an end is recorded, and what it keeps in memory."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import specs
from measuring import FLOWPLAN, Result, environment, run
from rows_starting import applied, namespace

SETTLED = 10.0
"""Seconds until a watch has looked at everything once."""
QUIET = 20.0
"""Seconds during which nothing changes."""


@contextmanager
def watching(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A ``flowplan watch`` that has settled."""
    errors = (directory / "watch.txt").open("wb")
    process = subprocess.Popen(
        [FLOWPLAN, "watch"],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env=environment(),
    )
    try:
        time.sleep(SETTLED)
        yield process
    finally:
        process.terminate()
        process.wait()
        errors.close()


def _cpu(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(process: subprocess.Popen[bytes]) -> float:
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def _load(process: subprocess.Popen[bytes]) -> float:
    """Percent of one core, while nothing changes."""
    before, start = _cpu(process), time.perf_counter()
    time.sleep(QUIET)
    return 100 * (_cpu(process) - before) / (time.perf_counter() - start)


def _at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _events(directory: Path) -> list[dict[str, str]]:
    run([FLOWPLAN, "events", "--format", "json"], directory, output=directory / "events.jsonl")
    return [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def processes(scratch: Path) -> list[Result]:
    """1,000 processes that sleep, 100 of which then end one after another."""
    ending = 'provider: process\ncommand: [sh, -c, "while ! [ -e go ]; do sleep 1; done; sleep 0.${each.n}"]\ngrace_period: 1s'
    runs = specs.matrix(900, specs.SLEEPING_PROCESS) + specs.matrix(99, ending).replace("  cell:", "  ending:")
    directory = specs.write(scratch / "following", runs)
    with applied(directory, "--detach"):
        with watching(directory) as process:
            load, memory = _load(process), _resident(process)
            (directory / "go").touch()
            time.sleep(6.0)
            grown = _resident(process) - memory
        late = [_at(e["at"]) - _at(e["engine_at"]) for e in _events(directory) if e["status"] == "succeeded"]
    assert len(late) == 99, len(late)
    return [
        Result("following 1,000 process runs: processor", "one core", load, 5, "%"),
        Result(
            "following 1,000 process runs: an end is recorded",
            "its time",
            _p95(late),
            0.5,
            "s",
            note=f"memory +{grown:.1f} MiB",
        ),
    ]


def jobs(scratch: Path) -> list[Result]:
    """200 Jobs without pods, and 10 that end while they are watched."""
    with namespace() as name:
        runs = specs.matrix(190, specs.job(name))
        ending = specs.job(name, parallelism=1, command='["sh", "-c", "sleep 3${each.n}"]')
        directory = specs.write(
            scratch / "following-jobs", runs + specs.matrix(10, ending).replace("  cell:", "  ending:")
        )
        with applied(directory, "--detach"), _ends(name) as ended:
            with watching(directory) as process:
                load = _load(process)
                deadline = time.monotonic() + 90
                while len(ended) < 10 and time.monotonic() < deadline:
                    time.sleep(0.2)
                time.sleep(3.0)
            told = {e["address"]: _at(e["at"]) for e in _events(directory) if e["status"] == "succeeded"}
            late = [told[address] - ended[address] for address in ended if address in told]
    return [
        Result("following 200 Jobs: processor", "one core", load, 5, "%"),
        Result(
            "following 200 Jobs: an end is recorded",
            "a raw watch sees it",
            _p95(late),
            0.5,
            "s",
            note=f"{len(late)} ends",
        ),
    ]


@contextmanager
def _ends(namespace: str) -> Iterator[dict[str, float]]:
    """When a raw watch of the API saw each Job complete, by address."""
    ended: dict[str, float] = {}
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    version = specs.api().get(path, limit=1)["metadata"]["resourceVersion"]
    response = specs.api().stream(path, 300.0, watch="true", resourceVersion=version)

    def read() -> None:
        rest = b""
        for block in response.stream(65536):
            *lines, rest = (rest + block).split(b"\n")
            for line in filter(None, lines):
                job = json.loads(line)["object"]
                if (job.get("status") or {}).get("completionTime"):
                    ended.setdefault(job["metadata"]["annotations"]["flowplan.dev/address"], time.time())

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield ended
    finally:
        response.shutdown()
        thread.join(5.0)
