"""Measures flowplan side by side with what people would use instead: `python benchmarks/run.py [ROW...]`.

What is measured is this tree as users have it: installed with pip into a new environment. Every row makes what it needs
and removes it again, proves that the work was done, and can be measured alone. A row whose engine or rival is not here
is skipped, and says so. Prints a table, and writes benchmarks/results/<time>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rows_engines
import rows_following
import rows_memory
import rows_output
import rows_planning
import rows_shared
import rows_starting
from measuring import FLOWPLAN, Failed, Result, Skipped, environment
from page import PAGE, page, seconds

Row = Callable[[Path], Result | list[Result]]
ROWS: dict[str, Row] = {
    "version": rows_starting.version,
    "validate": rows_starting.validate,
    "plan-process": rows_starting.plan_process,
    "plan-docker": rows_starting.plan_docker,
    "plan-kubernetes": rows_starting.plan_kubernetes,
    "plan-1000": rows_planning.plan_1000,
    "plan-10000": rows_planning.plan_10000,
    "first-plan": rows_planning.first_plan_1000,
    "apply-1000": rows_planning.apply_1000,
    "containers": rows_engines.containers,
    "jobs": rows_engines.jobs,
    "refresh-jobs": rows_engines.refresh_jobs,
    "diff-jobs": rows_engines.diff_jobs,
    "follow-processes": rows_following.processes,
    "follow-jobs": rows_following.jobs,
    "watch-memory": rows_memory.watch_memory,
    "logs": rows_engines.logs,
    "output-secrets": rows_output.secrets,
    "history": rows_planning.history,
    "shared-plan": rows_shared.plan,
    "shared-apply": rows_shared.apply,
    "shared-history": rows_shared.history,
}
HERE = Path(__file__).parent


def main() -> int:
    """Install this tree and measure it; return 1 when a row failed or missed its bar."""
    options = _options()
    return _measure(options) if options.installed else _measure_installed(sys.argv[1:])


def _measure_installed(arguments: list[str]) -> int:
    """Run this file again in a new environment with the tree installed, its modules compiled."""
    print("installing this tree into a new environment ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="flowplan-bench-") as name:
        directory = Path(name)
        shutil.copytree(HERE.parent, directory / "tree", ignore=_not_installed)
        python = directory / "environment/bin/python"
        subprocess.run([sys.executable, "-m", "venv", directory / "environment"], check=True)
        pip = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, f"{directory / 'tree'}[postgres]"], check=True)
        return subprocess.run([python, __file__, "--installed", *arguments], check=False).returncode


def _not_installed(directory: str, names: list[str]) -> set[str]:
    """Return the names that ``pip install`` does not need."""
    left = {"__pycache__", "build", "dist", "tests", "docs", "examples", "benchmarks"}
    return {n for n in names if n in left or n.startswith(".") or n.endswith(".egg-info")}


def _measure(options: argparse.Namespace) -> int:
    """Measure the rows that were named, or all."""
    results: list[Result] = []
    problems: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="flowplan-bench-") as scratch:
        for name in options.rows or ROWS:
            results += _measured(name, Path(scratch) / name, problems)
    document = {"machine": machine(), "results": [r.document() for r in results], "not_measured": problems}
    _write(document, options.into)
    if options.write_docs:
        PAGE.write_text(page(document), encoding="utf-8")
    for name, why in problems.items():
        print(f"NOT MEASURED {name}: {why}", file=sys.stderr)
    return 1 if any(not r.met for r in results) or any(p.startswith("failed") for p in problems.values()) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; default all")
    parser.add_argument("--installed", action="store_true", help="measure the flowplan beside this interpreter")
    parser.add_argument("--into", type=Path, metavar="FILE", help="write the JSON here; default benchmarks/results/")
    parser.add_argument("--write-docs", action="store_true", help="write docs/performance.md from these figures")
    options = parser.parse_args()
    if unknown := set(options.rows) - ROWS.keys():
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    return options


def _measured(name: str, scratch: Path, problems: dict[str, str]) -> list[Result]:
    scratch.mkdir()
    print(f"measuring {name} ...", file=sys.stderr, flush=True)
    try:
        found = ROWS[name](scratch)
    except Skipped as why:
        problems[name] = f"skipped: {why}"
    except (Failed, AssertionError, subprocess.SubprocessError) as why:
        problems[name] = f"failed: {why}"
    else:
        results = found if isinstance(found, list) else [found]
        for result in results:
            result.row = name
            print(line(result), flush=True)
        return results
    print(f"{name}: {problems[name]}", flush=True)
    return []


def line(result: Result) -> str:
    """Return one row of the table for a terminal."""
    mark = "ok  " if result.met else "MISS"
    times = f"{seconds(result.ours)} : {seconds(result.theirs)}" if result.ours is not None else ""
    head = f"{mark} {result.what:<62} {result.value:8.2f}{result.unit:<3} bar {result.bar:g}{result.unit}"
    note = f"; {result.note}" if result.note else ""
    return f"{head:<94} {times:<20} {result.against} (n={result.runs}){note}"


def machine() -> dict[str, Any]:
    """Return where and with what it was measured."""
    model = [
        x.partition(":")[2].strip()
        for x in Path("/proc/cpuinfo").read_text().splitlines()
        if x.startswith("model name")
    ]
    return {
        "at": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": f"{len(os.sched_getaffinity(0))} x {model[0] if model else platform.machine()}",
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "flowplan": _first_line([FLOWPLAN, "--version"]),
        "terraform": _first_line(["terraform", "version"]),
        "kubectl": _first_line(["kubectl", "version", "--client"]),
        "docker": _first_line(["docker", "--version"]),
    }


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment(), timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "not installed"
    return (done.stdout.splitlines() or [""])[0]


def _write(document: dict[str, Any], into: Path | None) -> None:
    path = into or HERE / "results" / time.strftime("%Y%m%dT%H%M%SZ.json", time.gmtime())
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"written to {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
