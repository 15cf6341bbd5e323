"""The benchmarks still measure what they say: a few rows with next to nothing in them; their figures mean nothing here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "benchmarks" / "run.py"
ROWS = ("version", "plan-process", "watch-memory", "history")


@pytest.mark.parametrize(
    ("rows", "results"), [(ROWS, len(ROWS)), pytest.param(("shared-plan",), 2, marks=pytest.mark.postgres)]
)
def test_rows_measure_something(tmp_path: Path, rows: tuple[str, ...], results: int) -> None:
    written = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, RUN, "--installed", "--into", written, *rows],
        check=False,
        env={**os.environ, "FLOWPLAN_BENCH_SCALE": "0.002"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    document = json.loads(written.read_text())
    assert document["not_measured"] == {}, done.stderr
    assert len(document["results"]) == results
    assert all(result["runs"] for result in document["results"])
    assert done.returncode == (0 if all(result["met"] for result in document["results"]) else 1)


def test_a_row_that_nobody_knows_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, RUN, "--installed", "nope"], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "no such row: nope" in done.stderr
