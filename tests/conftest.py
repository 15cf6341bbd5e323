"""Engines of the whole suite: a test that needs one is skipped where there is none, saying so, or fails when it must not."""

from __future__ import annotations

import os

import pytest

ENGINES = {"docker": "DOCKER_HOST", "kubernetes": "KUBECONFIG", "registry": "REGISTRY"}
"""Marker -> the environment variable that says where the engine is."""


def without_engine(needed: list[str]) -> str:
    """Why tests that need these engines cannot run here; "" when they can."""
    missing = [f"{name} ({ENGINES[name]} is not set)" for name in needed if not os.environ.get(ENGINES[name])]
    return f"needs {' and '.join(missing)}" if missing else ""


def pytest_configure(config: pytest.Config) -> None:
    """With FLOWPLAN_REQUIRE_ENGINES=1, as in continuous integration, no engine may be missing."""
    if os.environ.get("FLOWPLAN_REQUIRE_ENGINES") == "1" and (why := without_engine(list(ENGINES))):
        raise pytest.UsageError(f"FLOWPLAN_REQUIRE_ENGINES=1, but the suite {why}")
    if os.environ.get("FLOWPLAN_EXAMPLES"):  # `make nightly`
        from hypothesis import settings

        settings.register_profile("nightly", max_examples=10_000, deadline=None)
        settings.load_profile(os.environ["FLOWPLAN_EXAMPLES"])


@pytest.fixture(autouse=True)
def _as_many_suggestions_as_a_command_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command stops suggesting after very many comparisons; all tests of a worker share one process."""
    monkeypatch.setattr("flowplan.schemas.sources._comparisons", 0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if why := without_engine([name for name in ENGINES if item.get_closest_marker(name)]):
        pytest.skip(why)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if "is not set)" in str(r.longrepr)]
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} tests were skipped for want of an engine; set DOCKER_HOST, KUBECONFIG and REGISTRY to run them",
            yellow=True,
        )
