"""The page of the docs that shows the figures: written by `benchmarks/run.py --write-docs`, never by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"

LIMITS = {
    "version": "the start of the interpreter",
    "validate": "importing: pydantic (half of it), the YAML parser, flowplan's own modules",
    "plan-process": "importing, as for `validate`, and the state",
    "plan-docker": "importing the docker package, which imports requests",
    "plan-kubernetes": "importing urllib3 and TLS, and two requests to the API server",
    "plan-1000": "rendering and comparing each run in Python",
    "plan-10000": "as for 1,000 runs; it is linear",
    "first-plan": "one pass over the YAML, and writing the plan",
    "apply-1000": "for each run a fork (pages of memory to copy), an exec, and five small files, one of them synced",
    "containers": "the Engine; `sleep` ends only with its grace period of 1 s, which `docker rm -f` does not give",
    "jobs": "applying: the API server, importing, and a preflight of a dozen requests; destroying: the API server",
    "refresh-jobs": "the API server's answer and parsing it",
    "diff-jobs": "importing, then rendering and comparing each run in Python",
    "follow-processes": "one look at a file, and at each streamed output, ten times a second",
    "follow-jobs": "one watch of the namespace",
    "watch-memory": "the newest observation of each run is kept, and no event",
    "logs": "the Engine, which sends each line by itself",
    "output-secrets": "each block of output is looked through in the supervisor, and again in `apply`, at 3 GB/s",
    "history": "nothing of it is read: indexes",
    "shared-plan": "importing psycopg, connecting, and about twenty round trips, whatever the number of runs",
    "shared-apply": "some round trips for each turn of the loop, in which many runs begin and end",
    "shared-history": "as for `history`",
}
"""Row -> what its time is spent on."""


def page(document: dict[str, Any]) -> str:
    """Return the page: the table, what limits each row, and where it was measured."""
    rows = "\n".join(_row(result) for result in document["results"])
    left_out = "".join(f"\nNot measured: {name} ({why}).\n" for name, why in document["not_measured"].items())
    where = "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in document["machine"].items())
    measured = dict.fromkeys(result["row"] for result in document["results"])
    limits = "\n".join(f"- `{row}`: {LIMITS[row]}" for row in measured)
    return f"""# Performance

What flowplan adds to the time of an engine, and how it grows: measured side by side, in turn, with what one would use
instead. The figures are ratios of medians of one run of `make bench`; `n` is the number of measurements of flowplan.
Every measurement proves that the work was done. One row alone: `make bench ROWS="plan-1000"`; all of them, and this page:
`python benchmarks/run.py --write-docs`. Rows whose engine or tool is missing are skipped.

No test depends on a clock; that the work grows with the runs and not faster is what `tests/test_scaling.py` counts.

| row | what | against | measured | bar | medians | n |
|---|---|---|---|---|---|---|
{rows}
{left_out}
What limits each:

{limits}

Measured with:

{where}
"""


def _row(result: dict[str, Any]) -> str:
    times = f"{seconds(result['ours'])} : {seconds(result['theirs'])}" if result["ours"] is not None else ""
    note = f" ({result['note']})" if result["note"] else ""
    unit = result["unit"] if result["unit"] in "x%" else " " + result["unit"]
    measured = f"{result['value']:.2f}{unit}" + ("" if result["met"] else " (missed)")
    cells = (
        f"`{result['row']}`",
        f"{result['what']}{note}",
        result["against"],
        measured,
        f"{result['bar']:g}{unit}",
        times,
        str(result["runs"]),
    )
    return f"| {' | '.join(cells)} |"


def seconds(value: float | None) -> str:
    """Return a time in words, ``""`` for none."""
    return "" if value is None else f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"
