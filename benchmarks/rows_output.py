"""What hiding secrets costs a process that prints much: its own time, as the state has it, and that of a whole apply."""

from __future__ import annotations

import json
import subprocess
from datetime import datetime
from pathlib import Path

import specs
from measuring import FLOWPLAN, Failed, Result, Sample, environment, ratio, run, scaled

OUTPUT = scaled(60_000_000)
RUNS = scaled(9)
SECRET = "very+secret/value with 'quotes'"


def secrets(scratch: Path) -> list[Result]:
    """Compare a process with a secret and one without, in turn, each under a supervisor of its own."""
    script = f"yes some line of text with nothing to hide in it 0123456789 2>/dev/null | head -c {OUTPUT}"
    fields = f"provider: process\nrerun: always\ncommand: [sh, -c, {json.dumps(script)}]\nenv: "
    env = {"BENCH_SECRET": SECRET}
    hiding = specs.write(
        scratch / "secret", f"  a:\n{specs.indented(fields + '{SECRET: {from_env: BENCH_SECRET}}')}", "bench-secret"
    )
    plain = specs.write(scratch / "plain", f"  a:\n{specs.indented(fields + '{SECRET: something}')}", "bench-plain")
    pairs = [(*_seconds(hiding, env), *_seconds(plain, env)) for _ in range(RUNS + 1)][1:]
    whole, own, plain_whole, plain_own = zip(*pairs, strict=True)
    what = f"a process that prints {OUTPUT // 1_000_000} MB and has a secret, from start to end"
    return [
        ratio(what, "the same without", 1.5, own, plain_own),
        ratio("apply of that process", "the same without", 1.5, whole, plain_whole),
    ]


def _seconds(directory: Path, env: dict[str, str]) -> tuple[Sample, Sample]:
    """Apply, and return how long that took and how long the process ran."""
    whole = run([FLOWPLAN, "apply", "--yes", "--no-stream"], directory, env=env)
    status = subprocess.run(
        [FLOWPLAN, "status", "--format", "json"], cwd=directory, env=environment(), capture_output=True, check=True
    )
    (found,) = json.loads(status.stdout)["runs"]
    if found["status"] != "succeeded":
        raise Failed(f"the run is {found['status']}")
    began, ended = (datetime.fromisoformat(found[when]) for when in ("started_at", "finished_at"))
    return whole, Sample((ended - began).total_seconds())
