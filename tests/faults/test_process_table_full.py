"""A host that gives no further process or thread: said so, nothing recorded that did not start, and the next apply goes on."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from projects import Project, clear

USER = 54321
"""A user whom nobody else is: the limit counts all processes of a user."""

CAPABILITIES = "+dac_override,+dac_read_search"
"""To read this Python wherever it is installed; without those of root, whom no such limit binds."""

SPEC = """\
flowplan: 1
project: full
runs:
  a:
    provider: process
    command: [sh, -c, "echo $ID >> starts; exec sleep 0.3"]
    env: {ID: "${run.id}"}
    matrix: {n: [1, 2]}
"""


def missing() -> str:
    if os.geteuid() != 0:
        return "only root can be another user"
    absent = [program for program in ("setpriv", "prlimit") if not shutil.which(program)]
    return f"needs {', '.join(absent)}" if absent else ""


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


AS_USER = (
    "setpriv",
    f"--reuid={USER}",
    "--clear-groups",
    f"--inh-caps={CAPABILITIES}",
    f"--ambient-caps={CAPABILITIES}",
)


@pytest.fixture
def project() -> Iterator[Project]:
    """Return a project of that user."""
    directory = Path(tempfile.mkdtemp(prefix="fp-full-"))
    made = Project(directory, {"NO_COLOR": "1"}, AS_USER)
    os.chown(made.write(SPEC).parent, USER, USER)
    yield made
    clear(made)
    shutil.rmtree(directory)


def test_a_full_process_table_is_told_and_the_next_apply_goes_on(project: Project) -> None:
    """From one process to as many as are needed: wherever it fails, each attempt is started once at most."""
    refused = 0
    for processes in range(1, 10):
        limited = Project(project.directory, project.env, (*AS_USER, "prlimit", f"--nproc={processes}"))
        result = limited.run("apply", "--yes", "--rerun", "*", "flowplan.yaml")
        assert "defect" not in result.err, (processes, result.err)
        if result.code:
            refused += 1
            told = "no further process can be started" in result.err or "no further thread can be started" in result.err
            assert result.code in (1, 3) and told, (processes, result.err)
        for run in project.status().values():
            assert run["status"] in ("creating", "running", "succeeded", "failed"), (processes, run)
            assert run["status"] != "failed" or run["reason"] == "ProcessTableFull", (processes, run)
    assert refused >= 5, "the limit was never felt"
    project.ok("apply", "--yes", "flowplan.yaml")
    assert project.statuses() == {"a[n=1]": "succeeded", "a[n=2]": "succeeded"}
    starts = Counter((project.directory / "starts").read_text().split())
    assert set(starts.values()) == {1}
    ended = {e["run_id"] for e in project.events() if e["status"] == "succeeded"}
    assert set(starts) == ended, "all that was started is told, and nothing else"
    project.ok("plan", "--detailed-exitcode")
