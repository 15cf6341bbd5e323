"""Commands ask a state in a database the same number of times for many runs as for one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cuttable_proxy import CuttableProxy
from projects import Project, clear
from stores import sql

pytestmark = pytest.mark.postgres

SPEC = """\
flowplan: 1
project: trips
runs:
  cell: {{provider: process, command: ["true"], matrix: {{n: {{from: 1, to: {}}}}}}}
"""
COMMANDS = (
    ("plan",),
    ("apply", "--yes"),
    ("status",),
    ("history",),
    ("events", "--after", "1"),
    ("logs", "cell[n=1]"),
    ("state", "list"),
)


@pytest.fixture
def network() -> Iterator[CuttableProxy]:
    parts = urlsplit(os.environ["POSTGRES"])
    made = CuttableProxy(str(parts.hostname), int(parts.port or 5432))
    yield made
    made.close()


def asked(directory: Path, network: CuttableProxy, count: int) -> dict[str, int]:
    """Return how many round trips each command takes when ``count`` runs are as they are wanted."""
    parts = urlsplit(os.environ["POSTGRES"])
    state = f"postgresql://{parts.username}@127.0.0.1:{network.port}{parts.path}"
    env = {"NO_COLOR": "1", "FLOWPLAN_STATE": state, "PGPASSWORD": parts.password or ""}
    directory.mkdir()
    project = Project(directory, env)
    project.write(SPEC.format(count))
    try:
        project.ok("apply", "--yes", "--no-stream")
        found = {}
        for words in COMMANDS:
            before = network.asked
            project.ok(*words)
            found[" ".join(words)] = network.asked - before
        project.ok("destroy", "--yes")
    finally:
        clear(project)
        for table in ("states", "leases"):
            sql(f"DELETE FROM flowplan.{table} WHERE project = %s", project.name)
    return found


def test_round_trips_do_not_grow_with_the_runs(tmp_path: Path, network: CuttableProxy) -> None:
    few, many = asked(tmp_path / "few", network, 1), asked(tmp_path / "many", network, 200)
    assert few["plan"] <= 30 and few["apply --yes"] <= 60
    # A few more: of many events a second page is read, and who has the lock renews it every 8 s.
    assert {name: (few[name], many[name]) for name in few if many[name] > few[name] + 5} == {}
