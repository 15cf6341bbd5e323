"""The installed command beside engines that fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from projects import Project, clear


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Return an empty project; whatever it still runs afterwards is destroyed."""
    made = Project(tmp_path, {"NO_COLOR": "1"})
    yield made
    clear(made)
