"""Every provider with an engine at hand, as the parameter ``case`` of the contract suite.

A provider takes part by a module ``<name>_case.py`` beside this file, or anywhere else with FLOWPLAN_CONTRACT_CASE naming
its file. It has ``available() -> str | None`` (why its engine cannot be used) and ``case(tmp_path) -> Case``. Without its
engine it is skipped, saying so; with FLOWPLAN_REQUIRE_ENGINES=1 that is a failure.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from case import Case
from engines import ENGINES

from flowplan.providers.protocol import Provider

FILES = sorted(Path(__file__).parent.glob("*_case.py"))


def _cases() -> Iterator[pytest.ParameterSet]:
    own = os.environ.get("FLOWPLAN_CONTRACT_CASE")
    for path in [Path(own)] if own else FILES:
        name = path.stem.removesuffix("_case")
        yield pytest.param(path, id=name, marks=[getattr(pytest.mark, name)] if name in ENGINES else [])


def _missing(why: str) -> None:
    if os.environ.get("FLOWPLAN_REQUIRE_ENGINES") == "1":
        pytest.fail(f"an engine is required, but {why}")
    pytest.skip(why)


@pytest.fixture(params=_cases())
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """Return a provider with a lineage of its own; what it leaves behind is removed afterwards."""
    spec = importlib.util.spec_from_file_location(request.param.stem, request.param)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
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
