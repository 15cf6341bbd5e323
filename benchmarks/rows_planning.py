"""Planning and applying many local runs: against terraform with as many resources that need no provider."""

from __future__ import annotations

import json
import sqlite3
from itertools import count
from pathlib import Path

import specs
from measuring import FLOWPLAN, Failed, Result, Sample, compared, need, run, scaled
from rows_starting import applied, unchanged

RUNS, RUNS_OF_10000 = scaled(5), scaled(3)
FEW, MANY = scaled(1000), scaled(10_000)
EVENTS = scaled(1_000_000)
MATRIX = specs.matrix(FEW, specs.PROCESS)


def _terraform(directory: Path, *, applied: bool) -> str:
    terraform = need("terraform")
    run([terraform, "init", "-input=false"], directory)
    if applied:
        run([terraform, "apply", "-auto-approve", "-input=false"], directory)
    return terraform


def plan_1000(scratch: Path) -> Result:
    theirs = specs.terraform(scratch / "terraform-1000", specs.terraform_matrix(FEW))
    terraform = _terraform(theirs, applied=True)
    with applied(specs.write(scratch / "process-1000", MATRIX), "--no-stream") as ours:
        _expect(ours, "succeeded", FEW)
        unchanged(ours)
        return compared(
            f"plan, {FEW:,} process runs, no change",
            "terraform plan, as many terraform_data",
            0.35,
            lambda: run([FLOWPLAN, "plan"], ours),
            lambda: run([terraform, "plan", "-input=false"], theirs),
            RUNS,
        )


def plan_10000(scratch: Path) -> Result:
    many = specs.write(scratch / "process-10000", specs.matrix(MANY, specs.PROCESS))
    few = specs.write(scratch / "process-1000-again", MATRIX)
    with applied(many, "--no-stream"), applied(few, "--no-stream"):
        _expect(many, "succeeded", MANY)
        unchanged(many)
        result = compared(
            f"plan, {MANY:,} process runs, no change",
            f"flowplan plan, {FEW:,}",
            11,
            lambda: run([FLOWPLAN, "plan"], many),
            lambda: run([FLOWPLAN, "plan"], few),
            RUNS_OF_10000,
        )
    result.note = f"peak memory {result.details['peak_mib']:.0f} MiB (at most 500)"
    return result


def first_plan_1000(scratch: Path) -> Result:
    ours = specs.write(scratch / "different", specs.different_runs(FEW))
    theirs = specs.terraform(scratch / "terraform-different", specs.different_resources(FEW))
    terraform = _terraform(theirs, applied=False)
    shell = f"{terraform} plan -input=false -out=p > plan.txt && {terraform} show -json p > plan.json"
    return compared(
        f"first plan of {FEW:,} different runs, text and JSON",
        "terraform plan -out, and show -json",
        1.0,
        lambda: run([FLOWPLAN, "plan", "--json-into", "plan.json"], ours, output=ours / "plan.txt"),
        lambda: run(["sh", "-c", shell], theirs),
        RUNS,
    )


def apply_1000(scratch: Path) -> Result:
    theirs = specs.terraform(scratch / "terraform-apply", specs.terraform_matrix(FEW))
    terraform = _terraform(theirs, applied=False)
    rounds = count()

    def apply() -> Sample:
        # A directory of its own for each round, and nothing is deleted: ext4 is slow to make files after that.
        ours = specs.write(scratch / f"apply-{next(rounds)}", MATRIX)
        sample = run([FLOWPLAN, "apply", "flowplan.yaml", "--yes"], ours)
        _expect(ours, "succeeded", FEW)
        return sample

    def terraform_apply() -> Sample:
        (theirs / "terraform.tfstate").unlink(missing_ok=True)
        told = theirs / "stdout.txt"
        sample = run([terraform, "apply", "-auto-approve", "-input=false"], theirs, output=told)
        if f"Resources: {FEW} added" not in told.read_text():
            raise Failed(f"terraform did not create {FEW} resources")
        return sample

    return compared(
        f"apply, {FEW:,} process runs of true",
        "terraform apply, as many terraform_data",
        0.25,
        apply,
        terraform_apply,
        RUNS,
        warm=False,
    )


def _expect(directory: Path, status: str, count: int) -> None:
    """Raise Failed unless exactly ``count`` runs of a state have this status."""
    told = directory / "status.json"
    run([FLOWPLAN, "status", "--no-refresh", "--format", "json"], directory, output=told)
    found = sum(1 for one in json.loads(told.read_text())["runs"] if one["status"] == status)
    if found != count:
        raise Failed(f"{found} runs are {status}, not {count}")


def history(scratch: Path) -> Result:
    """Measure the slowest of plan, status and the newest events with a long history."""
    runs = specs.matrix(10, specs.PROCESS)
    short, long = (specs.write(scratch / name, runs) for name in ("history-1000", "history-1000000"))
    with applied(short), applied(long):
        newest = {
            directory: _grow(directory / ".flowplan/state.db", number)
            for directory, number in ((short, FEW), (long, EVENTS))
        }
        found = []
        for command in (["plan"], ["status"], ["events"]):
            last = command == ["events"]

            def measured(directory: Path, command: list[str] = command, last: bool = last) -> Sample:
                after = ["--after", str(newest[directory] - 100)] if last else []
                return run([FLOWPLAN, *command, *after], directory)

            found.append(compared(command[0], "", 1.5, lambda m=measured: m(long), lambda m=measured: m(short), RUNS))
    worst = max(found, key=lambda result: result.value)
    worst.note = ", ".join(f"{r.what} {r.value:.2f}x" for r in found)
    worst.what, worst.against = f"plan, status, newest events; {EVENTS:,} events", f"the same with {FEW:,} events"
    return worst


def _grow(state: Path, events: int) -> int:
    """Repeat the existing events until there are ``events``; return the newest number."""
    database = sqlite3.connect(state)
    columns = [row[1] for row in database.execute("PRAGMA table_info(events)") if row[1] != "seq"]
    listed = ", ".join(columns)
    while (have := database.execute("SELECT count(*) FROM events").fetchone()[0]) < events:
        query = f"INSERT INTO events ({listed}) SELECT {listed} FROM events ORDER BY seq LIMIT ?"
        database.execute(query, (min(have, events - have),))
    newest = int(database.execute("SELECT max(seq) FROM events").fetchone()[0])
    database.commit()
    database.close()
    return newest
