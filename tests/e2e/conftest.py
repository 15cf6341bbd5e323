"""The installed command, run as a user runs it, each test in a directory of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from projects import FLOWPLAN, PATIENCE, Project, Result, clear, until

__all__ = ["FLOWPLAN", "PATIENCE", "Project", "Result", "until"]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Return an empty project; whatever it still runs afterwards is destroyed."""
    made = Project(tmp_path, {"NO_COLOR": "1"})
    yield made
    clear(made)
