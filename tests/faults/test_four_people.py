"""Four people share a state: no run is started twice, none is lost, every refusal is explained (`four_people.py` is longer)."""

from __future__ import annotations

from pathlib import Path

import pytest
from four_people import work
from own_postgres import OwnPostgres, programs

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(programs() is None, reason="a PostgreSQL of one's own needs root and its programs"),
]


def test_four_people_work_at_random(tmp_path: Path) -> None:
    server = OwnPostgres()
    try:
        done, faults = work(server, tmp_path, seconds=20, seed=3)
    finally:
        server.remove()
    assert faults == []
    assert done["apply 0"] > 0, done
