"""flowplan is ended by SIGKILL at named points, and the next command finds every run once (`make faults` plays all points)."""

from __future__ import annotations

from pathlib import Path

import fault_rounds
import pytest
from fault_rounds import COMMANDS, Command, Tally

KEEP = {"process": 10, "docker": 14, "kubernetes": 25, "slurm": 40}
"""Every n-th point is played here; which ones differs from command to command."""
PLAYED = {
    "process": [command.name for command in COMMANDS if command.name != "follower, an apply beside it"],
    "docker": [
        "apply",
        "apply, pulling",
        "destroy",
        "replace",
        "update",
        "restored backup",
        "copied directory",
        "second lineage",
        "apply, an answer is lost",
    ],
    "kubernetes": ["apply again after a crash", "destroy", "replace, start first", "restored backup, runs live"],
    "slurm": ["apply again after a crash", "destroy"],
}
"""The commands that are played here: a round takes a second on processes, five on a cluster or on Slurm."""


def _cases() -> list[object]:
    needed = {"process": [], **{name: [getattr(pytest.mark, name)] for name in ("docker", "kubernetes", "slurm")}}
    cases = []
    for provider, marks in needed.items():
        for number, command in enumerate(COMMANDS):
            if provider in command.providers and command.name in PLAYED[provider]:
                own = [*marks, *([pytest.mark.registry] if command.name == "apply, pulling" else [])]
                cases.append(pytest.param(provider, command, number, id=f"{provider}-{command.name}", marks=own))
    return cases


@pytest.mark.parametrize(("provider", "command", "number"), _cases())
def test_a_killed_command_is_taken_up_by_the_next(provider: str, command: Command, number: int, tmp_path: Path) -> None:
    tally = Tally(provider, command.name)
    points = fault_rounds.points_of(command, provider, tmp_path / "trace", 1)
    every = KEEP[provider]
    for turn, point in enumerate(points[number % min(every, len(points)) :: every]):
        fault_rounds.play(command, provider, point, tmp_path / str(turn), tally)
    assert tally.faults == []
    assert tally.killed > 0


def test_a_run_is_started_once_however_often_the_applies_are_killed(tmp_path: Path) -> None:
    tally = fault_rounds.random_rounds("process", seed=20, rounds=25, runs=20, directory=tmp_path)
    assert tally.faults == []
    assert tally.killed > 10


def test_a_fault_is_seen_by_the_comparison(tmp_path: Path) -> None:
    """The harness itself can fail: runs that were started twice, of which nobody knows, or of other content."""
    world = fault_rounds.WORLDS["process"](tmp_path)
    world.spec("short")
    world.ok("apply", "--yes")
    command, tally = COMMANDS[0], Tally("process", "apply")
    assert list(fault_rounds.compare(world, command, tally)) == []
    started = tmp_path / "starts"
    lines = started.read_text().splitlines()
    started.write_text("\n".join([*lines, lines[0], "nobody 99999999 one", lines[1].replace(" one", " two"), ""]))
    (tmp_path / "note").write_text(world.canary)
    faults = "\n".join(fault_rounds.compare(world, command, tally))
    assert "was started 2 times" in faults and "nobody was started" in faults and "a secret is in note" in faults
    assert "what ran was two, not one" in faults
    assert (tally.repeated, tally.orphans, tally.leaks, tally.untrue) == (2, 1, 1, 1)
