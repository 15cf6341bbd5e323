"""Times whole processes side by side: in turn, so that a machine that speeds up or slows down changes both alike."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FLOWPLAN = str(Path(sys.executable).with_name("flowplan"))
"""The command that was installed beside this interpreter."""
PYTHON = sys.executable
SCALE = float(os.environ.get("FLOWPLAN_BENCH_SCALE", "1"))
"""What the numbers of runs and repetitions are multiplied by: less than 1 only to see that the rows still work."""


def scaled(number: int) -> int:
    """Return a number of runs or repetitions at this scale, at least 2."""
    return max(2, round(number * SCALE))


@dataclass(frozen=True)
class Sample:
    """One run of something: wall clock and processor seconds, peak memory in MiB (0 where it was not measured)."""

    wall: float
    cpu: float = 0.0
    peak: float = 0.0


@dataclass
class Result:
    """A row of the table: what was measured, against what, and whether the bar is met.

    Attributes:
        value, bar: in ``unit``; the row meets its bar when ``value <= bar``.
        ours, theirs: medians of the wall clock in seconds; cpu: the same of processor time.
        runs: of how many measurements of ours it is the median; note: what else was measured, in words;
            row: the name by which it is measured alone.
    """

    what: str
    against: str
    value: float
    bar: float
    unit: str = "x"
    ours: float | None = None
    theirs: float | None = None
    cpu: tuple[float, float] | None = None
    runs: int = 0
    note: str = ""
    row: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        return self.value <= self.bar

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


class Skipped(Exception):
    """A row that cannot be measured here, and why."""


class Failed(Exception):
    """A measured command did not do what it should."""


def need(program: str) -> str:
    """Return the path of a program to compare with.

    Raises:
        Skipped: it is not installed.
    """
    found = shutil.which(program)
    if not found:
        raise Skipped(f"{program} is not installed")
    return found


def run(
    command: Sequence[str],
    cwd: Path,
    *,
    output: Path | None = None,
    env: Mapping[str, str] | None = None,
    codes: tuple[int, ...] = (0,),
) -> Sample:
    """Run a command to its end and measure it with its children; stdout goes to ``output`` or nowhere."""
    errors = cwd / "stderr.txt"
    with (output or Path(os.devnull)).open("wb") as out, errors.open("wb") as err:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment(env)
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in codes:
        raise Failed(f"{' '.join(command)}: exit {process.returncode}\n{errors.read_text()[-2000:]}")
    return Sample(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this environment without variables that change what commands print or where they look."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FLOWPLAN_", "TF_"))}
    return {**kept, "NO_COLOR": "1", "CHECKPOINT_DISABLE": "1", **(more or {})}


Measured = Callable[[], Sample]


def in_turn(ours: Measured, theirs: Measured, runs: int, *, warm: bool = True) -> tuple[list[Sample], list[Sample]]:
    """Measure A B A B ...; with ``warm`` the first pair is not counted."""
    pairs = [(ours(), theirs()) for _ in range(runs + warm)][warm:]
    return [a for a, _ in pairs], [b for _, b in pairs]


def median(samples: Sequence[Sample], what: str = "wall") -> float:
    return statistics.median(getattr(s, what) for s in samples)


def compared(what: str, against: str, bar: float, ours: Measured, theirs: Measured, runs: int, **more: Any) -> Result:
    """Measure two things in turn and return the ratio of their medians."""
    warm = more.pop("warm", True)
    a, b = in_turn(ours, theirs, runs, warm=warm)
    return ratio(what, against, bar, a, b, **more)


def ratio(what: str, against: str, bar: float, a: Sequence[Sample], b: Sequence[Sample], **more: Any) -> Result:
    """Return the ratio of the medians of two lists of samples."""
    peak = max(s.peak for s in a)
    return Result(
        what,
        against,
        median(a) / median(b),
        bar,
        ours=median(a),
        theirs=median(b),
        cpu=(median(a, "cpu"), median(b, "cpu")),
        runs=len(a),
        details={"peak_mib": peak, "ours": [s.wall for s in a], "theirs": [s.wall for s in b]},
        **more,
    )


def timed(work: Callable[[], object]) -> Sample:
    """Time something that is done in this process."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return Sample(time.perf_counter() - start, time.process_time() - cpu)
