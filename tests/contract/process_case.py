"""The process provider for the contract suite: runs on this very host."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from pathlib import Path
from typing import cast

from case import Case

from flowplan.planner.manifests import Manifests, process
from flowplan.providers.process import connect
from flowplan.providers.process.runfiles import RunFiles
from flowplan.providers.protocol import Context
from flowplan.schemas.runs import Recorded


def available() -> str | None:
    """Why the engine cannot be used here; None when it can."""
    return None if sys.platform == "linux" else "processes need Linux"


def case(tmp_path: Path) -> Case:
    lineage = str(uuid.uuid4())
    runs_dir = tmp_path / "runs"

    def started() -> list[dict[str, object]]:
        found = (RunFiles(path.parent, "").started() for path in runs_dir.glob("*/started.json"))
        return [one for one in found if one]

    def vanish(record: Recorded) -> None:
        """Kill the supervisor and its guard, then the run: nobody is left who could tell how it ended."""
        for one in started():
            if one["pid"] == record.handle["pid"]:
                for keeper in ("guard", "supervisor"):
                    os.kill(one[keeper]["pid"], signal.SIGKILL)  # type: ignore[index]
                os.killpg(record.handle["pid"], signal.SIGKILL)

    def cleanup() -> None:
        for one in started():
            try:
                os.killpg(cast(int, one["pid"]), signal.SIGKILL)
            except ProcessLookupError:
                continue

    made = Case(
        type="process",
        manifests=cast(Manifests, process),
        connect=lambda: connect(Context(lineage=made.lineage, runs_dir=runs_dir, spec_dir=tmp_path)),
        vanish=vanish,
        cleanup=cleanup,
        kill=lambda record: os.kill(record.handle["pid"], signal.SIGKILL),
        lineage=lineage,
        spec_dir=str(tmp_path),
        patience=10.0,
        killed=frozenset({-9}),
        splits_streams=False,
        killed_reasons=frozenset({"SIGKILL"}),
    )
    return made
