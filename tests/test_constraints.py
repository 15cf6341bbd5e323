"""constraints.txt: one version of every distribution that flowplan is developed, tested and installed with."""

from __future__ import annotations

import os
import re
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_packaging import ROOT, SETUP

LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINS = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES)}
AGAIN = "`make constraints` writes it anew"
WANTED = [*SETUP["project"]["dependencies"], *SETUP["dependency-groups"]["dev"], *SETUP["build-system"]["requires"]]


def test_a_line_is_a_name_and_a_version() -> None:
    assert [line for line in LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line)] == []
    assert len(PINS) == len(LINES)


@pytest.mark.parametrize("wanted", WANTED)
def test_every_dependency_of_the_project_is_satisfied(wanted: str) -> None:
    requirement = Requirement(wanted)
    assert PINS.get(canonicalize_name(requirement.name), "") in requirement.specifier, AGAIN


@pytest.mark.parametrize("wanted", WANTED)
def test_ranges_stay_open_upwards(wanted: str) -> None:
    assert {one.operator for one in Requirement(wanted).specifier} <= {">=", "!="}


@pytest.mark.skipif(
    os.environ.get("FLOWPLAN_VERSIONS") == "newest",
    reason="these are the newest versions, which need not be in constraints.txt",
)
def test_every_installed_distribution_is_in_it() -> None:
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in metadata.distributions()}
    assert set(installed) - set(PINS) - {"flowplan"} == set(), AGAIN
    assert {n: v for n, v in installed.items() if n != "flowplan" and PINS[n] != v} == {}, "run `make install`"
