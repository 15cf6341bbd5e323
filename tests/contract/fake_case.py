"""The engine in memory for the contract suite: its time goes on by itself, and it plays what the suite's commands do."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from case import Case

from flowplan.planner.manifests import Manifests, fake
from flowplan.providers.fake import Clock, End, FakeEngine, Line, Script
from flowplan.providers.protocol import Context
from flowplan.schemas.runs import Recorded


class RealClock(Clock):
    """This computer's time."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


FIVE = tuple(Line(f"line {i}") for i in range(1, 6))
SHELL = {
    "for i in 1 2 3 4 5; do echo line $i; done": Script(FIVE),
    "for i in 1 2 3 4 5; do echo line $i; done; printf end": Script((*FIVE, Line("end"))),
    "echo out; echo err >&2": Script((Line("out"), Line("err", stream="stderr"))),
    "echo first; sleep 1; echo last": Script((Line("first"), Line("last", after=1.0)), seconds=1.0),
    "echo first; exec sleep 300": Script((Line("first"),), math.inf),
    "trap 'exit 0' TERM; while :; do sleep 0.1; done": Script(seconds=math.inf),
    "trap '' TERM; echo ready; while :; do sleep 1; done": Script((Line("ready"),), math.inf, heeds_term=False),
}
"""What the shell commands of the suite do."""


def play(command: Sequence[str], env: Mapping[str, str]) -> Script:
    """Play a command of the suite."""
    program, *arguments = command
    if program == "no-such-program-here":
        return Script(cannot_start=f"{program}: not found")
    if program == "sleep":
        return Script(seconds=float(arguments[0]))
    if program == "echo":
        return Script((Line(" ".join(arguments)),))
    if program == "true":
        return Script()
    if "STRANGE" in env:
        return Script((Line(env["STRANGE"]), Line(f"<{env['EMPTY']}>")))
    if "PASSWORD" in env:
        return Script(seconds=math.inf if f"= {len(env['PASSWORD'])} " in arguments[-1] else 0.0)
    shell = arguments[-1]
    return Script(exit_code=int(shell.removeprefix("exit "))) if shell.startswith("exit ") else SHELL[shell]


def available() -> str | None:
    """Why the engine cannot be used here; None when it can."""
    return None


def case(tmp_path: Path) -> Case:
    engine = FakeEngine(play, RealClock())

    def kill(record: Recorded) -> None:
        engine.runs[record.run_id].stopped = End(engine.clock.now(), 137, "SIGKILL")

    made = Case(
        type="fake",
        manifests=cast(Manifests, fake),
        connect=lambda: engine.connect(Context(lineage=made.lineage, runs_dir=tmp_path)),
        vanish=lambda record: engine.runs.__delitem__(record.run_id),
        kill=kill,
        killed_reasons=frozenset({"SIGKILL"}),
    )
    return made
