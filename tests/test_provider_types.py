"""Where provider types are found: the built-in ones and installed ones alike, and what is told when one is not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from flowplan import engines
from flowplan.engines import BUILT_IN, Engines, ManifestsByType, kinds_of
from flowplan.planner.manifests import fake, traits
from flowplan.providers.fake import FakeEngine
from flowplan.schemas.errors import InvalidInput, Refused
from flowplan.schemas.spec import BUILT_IN_TYPES

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install entry points, name=value, instead of those that there are."""

    def installed(**points: str) -> None:
        found = [EntryPoint(name, value, engines.ENTRY_POINTS) for name, value in points.items()]
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found)
        engines.installed.cache_clear()

    yield installed
    monkeypatch.undo()
    engines.installed.cache_clear()


def connections(**entries: str) -> Engines:
    settings = {name: {"type": type_name} for name, type_name in entries.items()}
    return Engines(settings, lineage="l", runs_dir=Path(), spec_dir=Path())


def test_every_type_that_specs_know_is_in_the_table() -> None:
    assert tuple(BUILT_IN) == BUILT_IN_TYPES
    for name in BUILT_IN:
        assert traits(ManifestsByType()[name]).EXAMPLE.startswith("  hello:\n")


def test_an_entry_point_is_a_module_or_an_object_in_one(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    module = SimpleNamespace(
        manifests=fake, connect=engine.connect, inside=SimpleNamespace(manifests=fake, connect=engine.connect)
    )
    monkeypatch.setitem(sys.modules, "somewhere", module)  # type: ignore[arg-type]
    install(one="somewhere", two="somewhere:inside")
    for name in ("one", "two"):
        assert ManifestsByType()[name] is fake
        assert connections(board=name).target("board") == ("fake", "fake", "fake")
    assert set(kinds_of(["one", "docker", "unheard-of"])) == {"Fake", "Container"}


def test_the_names_of_built_in_types_are_taken(install: Install) -> None:
    install(docker="no_such_module")
    assert engines.installed() == {}
    assert "Container" in kinds_of(["docker"])


def test_a_type_that_is_not_installed_is_told_with_those_that_are(install: Install) -> None:
    install(notes="no_such_module")
    with pytest.raises(InvalidInput, match=r'unknown provider type "nodes".*did you mean "notes"'):
        ManifestsByType()["nodes"]


def test_a_package_that_cannot_be_imported_is_told_in_one_sentence(install: Install) -> None:
    install(notes="no_such_module")
    with pytest.raises(InvalidInput, match="the provider no_such_module:connect cannot be loaded"):
        connections(board="notes").provider("board")


def test_another_engine_is_called_what_its_type_calls_it() -> None:
    fakes = Engines(
        {"box": {"type": "docker"}},
        lineage="l",
        runs_dir=Path(),
        spec_dir=Path(),
        connected={"box": SimpleNamespace(target=lambda: engines.Target("docker", "b", "laptop"))},  # type: ignore[dict-item]
    )
    with pytest.raises(
        Refused, match="is now laptop, but the run was started on server, which is another Docker engine"
    ):
        fakes.check_target("box", {"id": "a", "label": "server"})
