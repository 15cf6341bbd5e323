"""Every provider with an engine at hand, as the parameter ``case`` of the contract suite.

A provider takes part by a module ``<name>_case.py`` beside this file, with ``available() -> str | None`` (why
its engine cannot be used) and ``case(tmp_path) -> Case``. Without its engine it is skipped, saying so; with
FLOWPLAN_REQUIRE_ENGINES=1 that is a failure.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from case import Case

from flowplan.providers.protocol import Provider

PROVIDERS = [
    pytest.param("fake", id="fake"),
    pytest.param("process", id="process"),
    pytest.param("docker", id="docker", marks=pytest.mark.docker),
    pytest.param("kubernetes", id="kubernetes", marks=pytest.mark.kubernetes),
]


def _missing(why: str) -> None:
    if os.environ.get("FLOWPLAN_REQUIRE_ENGINES") == "1":
        pytest.fail(f"an engine is required, but {why}")
    pytest.skip(why)


@pytest.fixture(params=PROVIDERS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """A provider with a lineage of its own; what it leaves behind is removed afterwards."""
    if not Path(__file__).with_name(f"{request.param}_case.py").exists():
        _missing(f"{request.param} has no contract case")
    module = importlib.import_module(f"{request.param}_case")
    why = module.available()
    if why:
        _missing(why)
    made: Case = module.case(tmp_path)
    try:
        yield made
    finally:
        made.cleanup()


@pytest.fixture
def provider(case: Case) -> Iterator[Provider]:
    """One connection to the case's engine."""
    connection = case.connect()
    try:
        yield connection
    finally:
        connection.close()
