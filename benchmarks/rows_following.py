"""Following many runs: what it costs while nothing changes, how soon an end is recorded, and what it keeps in memory."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import specs
from measuring import FLOWPLAN, Failed, Result, environment, run, scaled
from rows_starting import applied, namespace
from urllib3.exceptions import HTTPError

SETTLED = 10.0
"""Seconds until a watch has looked at everything once."""
QUIET = 20.0
"""Seconds during which nothing changes."""
PROCESSES, ENDING_PROCESSES = scaled(901), scaled(99)
JOBS, ENDING_JOBS = scaled(190), 10


@contextmanager
def watching(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a ``flowplan watch`` and wait until it has settled."""
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
    """Return the percentage of one core that is used while nothing changes."""
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
    """Follow 1,000 processes that sleep, 99 of which then end one after another."""
    ending = 'provider: process\ncommand: [sh, -c, "while ! [ -e go ]; do sleep 1; done; sleep 0.${each.n}"]\ngrace_period: 1s'
    runs = specs.matrix(PROCESSES, specs.SLEEPING_PROCESS) + specs.matrix(ENDING_PROCESSES, ending).replace(
        "  cell:", "  ending:"
    )
    directory = specs.write(scratch / "following", runs)
    with applied(directory, "--detach"):
        with watching(directory) as process:
            load, memory = _load(process), _resident(process)
            (directory / "go").touch()
            time.sleep(6.0)
            grown = _resident(process) - memory
        late = [_at(e["at"]) - _at(e["engine_at"]) for e in _events(directory) if e["status"] == "succeeded"]
    if len(late) != ENDING_PROCESSES:
        raise Failed(f"{len(late)} ends were recorded, not {ENDING_PROCESSES}")
    number = PROCESSES + ENDING_PROCESSES
    return [
        Result(f"following {number:,} process runs while nothing changes", "one core", load, 5, "%", runs=1),
        Result(
            f"following {number:,} process runs: p95 until an end is recorded",
            "the time of the end",
            _p95(late),
            0.5,
            "s",
            runs=len(late),
            note=f"memory grew by {grown:.1f} MiB",
        ),
    ]


def jobs(scratch: Path) -> list[Result]:
    """Follow 200 Jobs without pods, and 10 that end meanwhile."""
    with namespace() as name:
        runs = specs.matrix(JOBS, specs.job(name))
        ending = specs.job(name, parallelism=1, command='["sh", "-c", "sleep $((40 + ${each.n}))"]')
        directory = specs.write(
            scratch / "following-jobs", runs + specs.matrix(ENDING_JOBS, ending).replace("  cell:", "  ending:")
        )
        with applied(directory, "--detach"), _ends(name) as ended:
            with watching(directory) as process:
                load = _load(process)
                deadline = time.monotonic() + 90
                while len(ended) < ENDING_JOBS and time.monotonic() < deadline:
                    time.sleep(0.2)
                time.sleep(3.0)
            told = {e["address"]: _at(e["at"]) for e in _events(directory) if e["status"] == "succeeded"}
            late = [told[address] - ended[address] for address in ended if address in told]
    if len(late) != ENDING_JOBS:
        raise Failed(f"{len(ended)} Jobs ended, and {len(told)} ends were recorded, not {ENDING_JOBS}")
    return [
        Result(f"following {JOBS + ENDING_JOBS} Jobs while nothing changes", "one core", load, 5, "%", runs=1),
        Result(
            f"following {JOBS + ENDING_JOBS} Jobs: p95 until an end is recorded",
            "a raw watch sees it",
            _p95(late),
            0.5,
            "s",
            runs=len(late),
        ),
    ]


@contextmanager
def _ends(namespace: str) -> Iterator[dict[str, float]]:
    """Return when a raw watch of the API saw each Job complete, by address."""
    ended: dict[str, float] = {}
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    version = specs.api().get(path, limit=1)["metadata"]["resourceVersion"]
    response = specs.api().stream(path, 300.0, watch="true", resourceVersion=version)

    def read() -> None:
        rest = b""
        with suppress(HTTPError, OSError):  # it is ended from outside
            for block in response.stream(65536):
                *lines, rest = (rest + block).split(b"\n")
                for job in [json.loads(line)["object"] for line in lines if line]:
                    if (job.get("status") or {}).get("completionTime"):
                        ended.setdefault(job["metadata"]["annotations"]["flowplan.dev/address"], time.time())

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield ended
    finally:
        response.shutdown()
        thread.join(5.0)
