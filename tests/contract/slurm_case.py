"""The slurm provider for the contract suite: jobs on the cluster of SLURM_CONF."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import uuid
from pathlib import Path
from typing import cast

from case import Case
from projects import until

from flowplan.planner.manifests import Manifests, slurm
from flowplan.providers.protocol import Context
from flowplan.providers.slurm.commands import Commands
from flowplan.providers.slurm.provider import SlurmProvider
from flowplan.schemas.errors import ProviderError
from flowplan.schemas.runs import Recorded


def available() -> str | None:
    """Why the engine cannot be used here; None when it can."""
    try:
        assert Commands({}).site
    except ProviderError as error:
        return f"no Slurm cluster: {error}"
    return None


def asked(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def case(tmp_path: Path) -> Case:
    lineage, directory = str(uuid.uuid4()), tmp_path / "jobs"

    def kill(record: Recorded) -> None:
        """Kill the command of the job, which is the child of its script and may be about to be started."""

        def command() -> int:
            for path in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
                    if re.search(
                        rf"/job0*{record.handle['job']}/slurm_script", Path(f"/proc/{parent}/cmdline").read_text()
                    ):
                        return int(path.name)
            return 0

        os.kill(until(command), signal.SIGKILL)

    def vanish(record: Recorded) -> None:
        for path in sorted((directory / record.run_id).iterdir()):
            path.unlink()
        (directory / record.run_id).rmdir()
        asked("scancel", record.handle["job"])

    def cleanup() -> None:
        for line in asked("squeue", "--noheader", "--format=%i %k").splitlines():
            if lineage in line:
                asked("scancel", line.split()[0])

    def connected() -> SlurmProvider:
        settings = {"directory": str(directory)}
        provider = SlurmProvider(Context(made.lineage, tmp_path / "runs", settings, tmp_path))
        provider.every = 0.3  # the cluster is the tests' own
        return provider

    made = Case(
        type="slurm",
        manifests=cast(Manifests, slurm),
        connect=connected,
        vanish=vanish,
        fields={"resources": {"memory": "20Mi"}},
        cleanup=cleanup,
        kill=kill,
        lineage=lineage,
        spec_dir=str(tmp_path),
        patience=90.0,
        killed=frozenset({137}),
        killed_reasons=frozenset({"SIGKILL"}),
        start_fails_in_create=False,
        splits_streams=False,
    )
    return made
