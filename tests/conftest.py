"""Engines of the whole suite: a test that needs one is skipped where there is none, saying so, or fails when it must not."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from browser import PROGRAMS, Browser
from engines import ENGINES, without_engine
from filelock import FileLock
from projects import Project, clear, copy_case, make_namespace


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to run without an engine when FLOWPLAN_REQUIRE_ENGINES=1, as in continuous integration."""
    if os.environ.get("FLOWPLAN_REQUIRE_ENGINES") == "1" and (why := without_engine(list(ENGINES))):
        raise pytest.UsageError(f"FLOWPLAN_REQUIRE_ENGINES=1, but the suite {why}")
    if os.environ.get("FLOWPLAN_EXAMPLES"):  # `make nightly`
        from hypothesis import settings

        settings.register_profile("nightly", max_examples=10_000, deadline=None)
        settings.load_profile(os.environ["FLOWPLAN_EXAMPLES"])


@pytest.fixture(autouse=True)
def _as_many_suggestions_as_a_command_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count comparisons anew: a command stops suggesting after many, and all tests of a worker share one process."""
    monkeypatch.setattr("flowplan.schemas.sources._comparisons", 0)


@pytest.fixture(scope="session", autouse=True)
def _a_home_of_their_own_for_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the files of processes of states in a database out of this user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let the tests of an ``xdist_group`` run one after another, whichever worker has them, and whichever suite of this host.

    A worker has whole modules; this is for groups of several modules, and for two suites at once. What a module's fixtures
    set up is set up with the lock held, too.
    """
    mark = item.get_closest_marker("xdist_group")
    if mark is None:
        return (yield)
    with FileLock(Path(tempfile.gettempdir()) / f"flowplan-tests-{mark.args[0]}.lock"):
        return (yield)


@pytest.fixture
def case_project(tmp_path: Path) -> Iterator[Callable[..., Project]]:
    """Return a function that makes the project of a case; whatever the projects still run afterwards is destroyed.

    ::

        @pytest.mark.docker
        def test_the_size_of_shared_memory(case_project: Callable[..., Project]) -> None:
            project = case_project("09-mount-options")        # a copy of tests/cases/09-mount-options
            result = project.run("plan", "flowplan.yaml")     # result.code, result.out, result.err, result.json
            assert result.code == 7 and "9:14: runs.a.docker" in result.err
            project.ok("apply", "--yes", code=3)              # the same, and the exit code is checked

    ``case_project("20-big-variable", {"ha-x": namespace})`` replaces texts of the YAML files, here by the namespace of
    the fixture ``namespace``. ``project.name`` is the unique name of the project, ``project.env`` holds variables for
    its commands, and ``projects.py`` has the rest: plans, statuses, events as JSON, and ``until`` for waiting.
    """
    made: list[Project] = []

    def make(case: str, replace: dict[str, str] | None = None) -> Project:
        made.append(copy_case(case, tmp_path / f"{len(made)}-{case}", replace))
        return made[-1]

    yield make
    for project in made:
        clear(project)


@pytest.fixture(scope="session")
def need() -> Callable[..., None]:
    """Return a function that skips the test where a program is not installed, and fails where nothing may be missing."""

    def check(*programs: str) -> None:
        if missing := [name for name in programs if shutil.which(name) is None]:
            why = f"needs {' and '.join(missing)} (not installed)"
            if os.environ.get("FLOWPLAN_REQUIRE_ENGINES") == "1":
                pytest.fail(why)
            pytest.skip(why)

    return check


@pytest.fixture(scope="module")
def browser(need: Callable[..., None]) -> Iterator[Browser]:
    """Start a browser for the tests of a module."""
    need(*PROGRAMS)
    made = Browser()
    made.resize(1280, 800)
    yield made
    made.close()


@pytest.fixture(scope="session")
def namespace() -> Iterator[str]:
    """Make a namespace on the cluster of KUBECONFIG, and return its name; it is removed at the end of the session."""
    from flowplan.providers.kubernetes.connection import endpoint
    from flowplan.providers.kubernetes.requests import Api

    name = f"fp-cases-{uuid.uuid4().hex[:8]}"
    api = Api(endpoint({}, Path("/")))
    make_namespace(api, name)
    yield name
    api.call("DELETE", f"/api/v1/namespaces/{name}")
    api.close()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if why := without_engine([name for name in ENGINES if item.get_closest_marker(name)]):
        pytest.skip(why)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    for sign, remedy in {
        "is not set)": f"an engine; set {', '.join(ENGINES.values())} to run them",
        "(not installed)": "zsh, fish, npm, curl, jq, chromium or chromedriver; install them to run these",
    }.items():
        if count := sum(sign in reason for reason in reasons):
            terminalreporter.write_line(f"{count} tests were skipped for want of {remedy}", yellow=True)
