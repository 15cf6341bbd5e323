"""A small variant of what ``detached_rounds.py`` plays with hundreds of runs."""

from __future__ import annotations

from pathlib import Path

import own_docker
import pytest
from detached_rounds import play


@pytest.mark.parametrize(
    "engine",
    [
        "process",
        pytest.param(
            "docker",
            marks=[
                pytest.mark.docker,
                pytest.mark.skipif(bool(own_docker.missing()), reason=own_docker.missing() or "there is one"),
            ],
        ),
    ],
)
def test_a_detached_project_ends_as_in_the_foreground(engine: str, tmp_path: Path) -> None:
    play(engine, 12, tmp_path)
