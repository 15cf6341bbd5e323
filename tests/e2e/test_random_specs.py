"""Random specs of processes: what was planned is what ran, twice the same plan, and nothing is left to do afterwards."""

from __future__ import annotations

import json
import os
import random
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from projects import Project

SPECS = 500 if os.environ.get("FLOWPLAN_EXAMPLES") == "nightly" else 20
"""How many specs are tried; each is a seed, which names the test that failed."""

TOLD = """
import json, os, pathlib, sys
words = pathlib.Path("/proc/self/cmdline").read_bytes().decode("utf-8", "surrogateescape").split("\\0")[:-1]
told = {"argv": words, "cwd": os.getcwd(), "env": dict(os.environ)}
(pathlib.Path(__file__).parent / "told" / f"{os.getpid()}.json").write_text(json.dumps(told))
sys.exit(int(os.environ.get("CODE", "0")))
"""
"""A program that writes down what it was started with."""

TEXTS = [
    "",
    " ",
    "a",
    "ünï",
    "$HOME",
    "$${var.x}",
    "a b",
    "q\"uo'te",
    "back\\slash",
    "-x",
    "=",
    "new\nline",
    "~",
    "#",
    "*",
    "null",
    "0400",
    "☃",
]


def random_spec(seed: int) -> dict[str, Any]:
    """Return a spec of one to six runs whose settings are drawn at random."""
    rng = random.Random(seed)
    runs: dict[str, Any] = {}
    for number in range(rng.randint(1, 6)):
        run: dict[str, Any] = {
            "provider": "process",
            "command": [sys.executable, "TOLD", *rng.choices(TEXTS, k=rng.randint(0, 4))],
        }
        for key, values in {
            "env": [{f"V{i}": rng.choice([*TEXTS, 7, 1.5, "1e3"]) for i in range(rng.randint(0, 3))}],
            "working_dir": ["sub", "sub/../sub", "."],
            "labels": [{"team": "a--b"}, {"x/y": "z"}],
            "timeout": [30, "30s", "1m", 0.5 * 60],
            "grace_period": [1, "1s", "0s"],
            "retries": [0, 1, 2],
            "rerun": ["on_failure", "on_change", "never"],
            "matrix": [{"i": [1, 2]}, {"i": {"from": 1, "to": 3}}, {"i": ["a", "b"], "j": [True, False]}],
            "max_parallel": [1, 2],
            "stream_output": [True, False],
            "process": [{"inherit_env": False}, {"inherit_env": True}],
            "needs": [[f"r{i}"] for i in range(number)] or [[]],
            "triggers": [{"day": "1"}],
        }.items():
            if rng.random() < 0.3:
                run[key] = rng.choice(values)
        if "max_parallel" in run and "matrix" not in run:
            del run["max_parallel"]
        if "matrix" in run and rng.random() < 0.7:
            run["command"].append("cell ${each.i} of ${each.index}")
        runs[f"r{number}"] = run
    return {"flowplan": 1, "project": f"random-{uuid.uuid4().hex[:8]}", "runs": runs}


@pytest.mark.parametrize("seed", range(SPECS))
def test_what_was_planned_is_what_ran(project: Project, seed: int) -> None:
    told = project.directory / "told"
    told.mkdir()
    (project.directory / "sub").mkdir()
    program = project.write(TOLD, "tell.py")
    text = json.dumps(random_spec(seed), ensure_ascii=False).replace('"TOLD"', json.dumps(str(program)))
    project.write(text)
    planned = project.ok("plan", "--format", "json").out
    assert project.ok("plan", "--format", "json").out == planned, "the same plan has other bytes the second time"
    project.ok("apply", "--yes")
    again = project.plan("--detailed-exitcode")
    assert {c["action"] for c in again["changes"]} == {"no-op"}
    assert planned_processes(json.loads(planned), project.directory) == sorted(
        seen(json.loads(p.read_text())) for p in told.iterdir()
    )


def planned_processes(plan: dict[str, Any], spec_dir: Path) -> list[str]:
    """Return what the plan says of each process, as text that can be compared and sorted."""
    processes = [c["after"]["Process"] for c in plan["changes"]]
    return sorted(seen(p | {"cwd": os.path.normpath(spec_dir.resolve() / p["cwd"])}) for p in processes)


def seen(process: dict[str, Any]) -> str:
    """Return the arguments, directory and own variables of a process as text."""
    own = {k: v for k, v in process["env"].items() if k.startswith("V")}
    return json.dumps([process["argv"][1:], process["cwd"], own], sort_keys=True)
