"""Four people with a home and a checkout of their own work at random on one project whose state they share.

``python tests/faults/four_people.py --seconds 300`` lets them work for as long on a server of its own, and says what they did.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from own_postgres import OwnPostgres
from projects import Project

RUNS = 6
SPEC = """\
flowplan: 1
project: {project}
variables:
  tag: {{default: one}}
runs:
  load: {{provider: process, command: [sh, -c, "echo $ID >> {log}; sleep 0.2"], env: {{ID: "${{run.id}}", TAG: "${{var.tag}}"}}}}
  cell:
    provider: process
    command: [sh, -c, "echo $ID >> {log}; sleep 0.$PAUSE"]
    env: {{ID: "${{run.id}}", PAUSE: "${{each.i}}", TAG: "${{var.tag}}"}}
    matrix: {{i: {{from: 1, to: {runs}}}}}
    max_parallel: 3
    needs: [load]
"""
REFUSALS = (1, 3, 4, 5, 6)
"""Exit codes of commands that were refused, whose plan is stale, or whose runs were stopped by somebody else."""
PATIENCE = 180.0


@dataclass
class Person:
    """Somebody with a home, who gives one command after the other, and what became of them."""

    project: Project
    chance: random.Random
    done: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def works(self, until: float) -> None:
        """Give commands until a time by the monotonic clock."""
        while time.monotonic() < until:
            try:
                self.one()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told in the end
                self.faults.append(repr(error))

    def one(self) -> None:
        """Give one command; now and then interrupt it, or kill it."""
        tag = ("--var", f"tag={self.chance.choice(('one', 'two', 'three'))}")
        wait = ("--lock-timeout", self.chance.choice(("0s", "2s", "60s")))
        words = self.chance.choices(
            (
                ("plan", *tag),
                ("plan", *tag, "--out", "plan.json"),
                ("apply", "plan.json", "--yes", *wait),
                ("apply", "--yes", *tag, *wait),
                ("apply", "--yes", "--rerun", f"cell[i={self.chance.randint(1, RUNS)}]", *wait),
                ("status",),
                ("events", "--last", "5"),
                ("logs", "load"),
                ("destroy", "--yes", *wait),
            ),
            weights=(3, 2, 3, 6, 3, 3, 1, 1, 0.5),
        )[0]
        if "plan.json" in words and words[0] == "apply" and not (self.project.directory / "plan.json").exists():
            return
        with self.project.start(*words) as process:
            ends = self.chance.choices((None, signal.SIGINT, signal.SIGKILL), weights=(12, 2, 1))[0]
            if ends and words[0] == "apply":
                time.sleep(self.chance.uniform(0.3, 3.0))
                process.send_signal(ends)
            try:
                out, err = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:  # else the end of this block would wait for it
                process.kill()
                raise
        code = process.returncode
        self.done[f"{words[0]} {code}"] += 1
        interrupted = ends and code in (-ends, 128 + ends)
        explained = code in REFUSALS and any(line.startswith(("error:", "warning:")) for line in err.splitlines())
        if (
            "Traceback" in err
            or "defect of flowplan" in err
            or not (code == 0 or interrupted or explained or code == 3)
        ):
            self.faults.append(f"{' '.join(words)}: exit {code}\n{out[-500:]}\n{err[-1500:]}")


def work(server: OwnPostgres, directory: Path, seconds: float, seed: int) -> tuple[Counter[str], list[str]]:
    """Let four people work; return how often each command ended with each code, and what is wrong with the result."""
    log, name = directory / "log", f"people-{uuid.uuid4().hex[:8]}"
    people = []
    for number in range(4):
        home = directory / f"home{number}"
        home.mkdir(parents=True)
        env = {"NO_COLOR": "1", "HOME": str(home), "FLOWPLAN_STATE": server.url(), "PGAPPNAME": name}
        people.append(Person(Project(home, env), random.Random(f"{seed}/{number}")))
        (home / "flowplan.yaml").write_text(SPEC.format(project=name, log=log, runs=RUNS))
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=person.works, args=(until,)) for person in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    faults = [fault for person in people for fault in person.faults]
    server.expire(name)
    faults += _checked(people[0].project, log)
    return sum((person.done for person in people), Counter()), faults


def _checked(project: Project, log: Path) -> list[str]:
    """Let one of them bring it to an end; return what is repeated, lost or unknown."""
    for _ in range(4):  # a run of another checkout that nobody followed to its end is lost here, and is run again
        if project.run("apply", "--yes", "--lock-timeout", "60s", timeout=PATIENCE).code == 0:
            break
    state = json.loads(project.ok("state", "pull").out)
    started = Counter(log.read_text().split())
    recorded = {attempt["run_id"]: attempt for attempt in state["attempts"]}
    faults = [f"{run_id} was started {count} times" for run_id, count in started.items() if count > 1]
    faults += [f"{run_id} was started, and is not recorded" for run_id in started.keys() - recorded.keys()]
    ended = {run_id for run_id, outcome in state["outcomes"].items() if outcome == "succeeded"}
    faults += [f"{run_id} has succeeded, and was never started" for run_id in ended - started.keys()]
    statuses = Counter(project.statuses().values())
    if statuses != {"succeeded": RUNS + 1}:
        faults.append(f"in the end: {dict(statuses)}")
    project.ok("destroy", "--yes", timeout=PATIENCE)
    return faults


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=300)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    server = OwnPostgres()
    try:
        with tempfile.TemporaryDirectory(prefix="people-") as directory:
            done, faults = work(server, Path(directory), given.seconds, given.seed)
    finally:
        server.remove()
    for what, count in sorted(done.items()):
        print(f"{count:5} {what}")
    print(*faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
