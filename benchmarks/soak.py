"""Let a follower carry on short runs for a long time, and print what it takes: memory, time of a core, files, the state.

``python benchmarks/soak.py --minutes 60`` applies the same project again each minute, detached; the follower starts its runs,
reads their output and records their ends. A line a minute, and in the end whether every run ran once and ended well.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FLOWPLAN = str(Path(sys.executable).with_name("flowplan"))
SPEC = """\
flowplan: 1
project: soak
runs:
  work:
    provider: process
    command: [sh, -c, 'echo ${{run.id}} >> starts; echo line $$; sleep 1']
    matrix: {{n: [{cells}]}}
    max_parallel: {together}
    timeout: 5m
"""
TICK = os.sysconf("SC_CLK_TCK")


def flowplan(directory: Path, *arguments: str) -> str:
    """Run a command; it must do well."""
    done = subprocess.run([FLOWPLAN, *arguments], cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"flowplan {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")
    return done.stdout


def left(directory: Path) -> int:
    """Return how many runs wait or run."""
    document = json.loads(flowplan(directory, "status", "--format", "json"))
    live = sum(run["status"] in ("creating", "pending", "running") for run in document["runs"])
    return live + len(document["not_started"])


def sizes(pid: int, directory: Path) -> dict[str, float]:
    """Return what a follower takes: MiB of memory, seconds of a core, open files, threads, MiB of the state's files."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    state = sum(path.stat().st_size for path in (directory / ".flowplan").glob("state.db*") if path.is_file())
    return {
        "memory": int(status["VmRSS"].split()[0]) / 1024,
        "core": (int(words[11]) + int(words[12])) / TICK,
        "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": int(status["Threads"]),
        "state": state / 2**20,
    }


def soak(directory: Path, minutes: int, rate: int) -> int:
    """Return the exit code: 0 when every run ran once and ended well."""
    cells = rate * 60
    spec = SPEC.format(cells=", ".join(map(str, range(cells))), together=2 * rate)
    (directory / "flowplan.yaml").write_text(spec)
    flowplan(directory, "apply", "--yes", "--detach", "flowplan.yaml")
    with (directory / "serve.log").open("w") as log:
        follower = subprocess.Popen([FLOWPLAN, "serve", "--listen", "127.0.0.1:0"], cwd=directory, stderr=log)
    try:
        begun = time.monotonic()
        for minute in range(1, minutes + 1):
            while left(directory):
                time.sleep(2)
            time.sleep(max(0.0, begun + 60 * minute - time.monotonic()))
            if follower.poll() is not None:
                raise SystemExit(
                    f"the follower ended: {follower.returncode}\n{(directory / 'serve.log').read_text()[-2000:]}"
                )
            told = sizes(follower.pid, directory)
            figures = ", ".join(f"{name} {figure:.1f}" for name, figure in told.items())
            print(f"{(time.monotonic() - begun) / 60:.1f} min, {minute * cells} runs: {figures}", flush=True)
            if minute < minutes:
                flowplan(directory, "apply", "--yes", "--detach", "--rerun", "work", "flowplan.yaml")
    finally:
        follower.send_signal(signal.SIGTERM)
        follower.wait(60)
    print((directory / "serve.log").read_text()[-2000:])
    starts = (directory / "starts").read_text().split()
    history = json.loads(flowplan(directory, "history", "--format", "json"))["attempts"]
    well = sum(one["status"] == "succeeded" for one in history)
    wanted = minutes * cells
    print(f"wanted {wanted}, started {len(starts)}, once {len(set(starts))}, succeeded {well}")
    return 0 if len(starts) == len(set(starts)) == well == wanted else 1


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=int, default=60)
    options.add_argument("--rate", type=int, default=5, help="runs a second")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        return soak(Path(name), given.minutes, given.rate)


if __name__ == "__main__":
    sys.exit(main())
