"""A writer that was frozen for longer than its lock lasts writes and starts nothing more: others have gone on meanwhile."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_rounds import COMMANDS, Tally, compare
from fault_world import PATIENCE, WORLDS, World
from own_postgres import OwnPostgres, programs

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.docker,
    pytest.mark.skipif(programs() is None, reason="a PostgreSQL of one's own needs root and its programs"),
]

POINTS = ("engine:create:before", "state:intend:before@2", "state:intend:written")
"""With a call to be made, with a second intent to be written, and in the midst of a transaction."""


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[list[tuple[World, str]]]:
    """Return a project on each engine for each point."""
    server = OwnPostgres()
    made = [
        (WORLDS[name](tmp_path / f"{name}{n}", server), p)
        for name in ("process", "docker")
        for n, p in enumerate(POINTS)
    ]
    yield made
    for world, _ in made:
        world.clean()
    server.remove()


@pytest.fixture
def frozen(worlds: list[tuple[World, str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """Return an apply of each project that holds its lock and is frozen."""
    for world, _ in worlds:
        world.spec("short")
    made = [world.freeze("apply", "--yes", fault=point) for world, point in worlds]
    yield made
    for process in made:
        process.kill()
        process.communicate()


def test_it_writes_and_starts_nothing_more(
    worlds: list[tuple[World, str]], frozen: list[subprocess.Popen[str]]
) -> None:
    others = [(world, world.start("apply", "--yes", "--lock-timeout", "90s")) for world, _ in worlds]
    for world, other in others:
        said = other.communicate(timeout=PATIENCE)
        assert other.returncode == 0, said
        assert {run["status"] for run in world.status().values()} == {"succeeded"}
    before = [(world.events(), world.starts()) for world, _ in worlds]
    for first in frozen:
        first.send_signal(signal.SIGCONT)
    for first in frozen:
        said = first.communicate(timeout=PATIENCE)
        assert first.returncode == 5, said
        assert "the lock of the state" in said[1] and "was lost" in said[1]
    assert [(world.events(), world.starts()) for world, _ in worlds] == before
    for world, _ in worlds:
        assert list(compare(world, COMMANDS[0], Tally(world.provider, "apply"))) == []
