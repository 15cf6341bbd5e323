"""An open project: what it closes, and that no error that leaves it holds a secret."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flowplan.given import Given
from flowplan.planning import plan_spec
from flowplan.project import Project, Request
from flowplan.schemas.errors import FlowplanError, InvalidInput, ProviderError
from flowplan.state.location import FileLocation
from flowplan.state.sqlite.store import SqliteStore

SECRET = "hunter2-of-the-tests"
SPEC = """\
flowplan: 1
project: p
variables: {token: {type: string, sensitive: true}}
runs:
  a: {provider: process, command: ["true"], env: {TOKEN: "${var.token}", FILE: {from_env: FROM_ENV}}}
"""


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    (tmp_path / "flowplan.yaml").write_text(SPEC)
    return Request(
        FileLocation(tmp_path / ".flowplan/state.db"), tmp_path / "flowplan.yaml", given=Given({"token": SECRET})
    )


def test_no_error_that_leaves_a_project_holds_a_secret(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_ENV", "another-secret-of-the-tests")
    with pytest.raises(ProviderError) as found, Project.of_spec(request_):
        raise ProviderError(f"refused {SECRET}", hint="not another-secret-of-the-tests", address=SECRET)
    told = f"{found.value} {found.value!r} {found.value.message} {found.value.hint} {found.value.address}"
    assert SECRET not in told and "another-secret" not in told and "refused (sensitive)" in told


def test_an_error_of_opening_a_project_holds_no_secret(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any, **more: Any) -> Any:
        raise InvalidInput(f"nothing is called {SECRET}")

    monkeypatch.setattr("flowplan.planner.desired.expand.expand", broken)
    with pytest.raises(InvalidInput) as found, Project.of_spec(request_):
        pass
    assert SECRET not in f"{found.value} {found.value.diagnostics}"
    assert not request_.state.exists(), "a spec with faults makes no state"


def test_an_error_of_closing_a_project_holds_no_secret(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any) -> None:
        raise ProviderError(f"cannot close {SECRET}")

    monkeypatch.setattr("flowplan.engines.Engines.close", broken)
    with pytest.raises(FlowplanError) as found, Project.of_spec(request_):
        pass
    assert str(found.value) == "cannot close (sensitive)"


@pytest.mark.parametrize("failing", [False, True])
def test_a_project_closes_its_state_and_its_engines(
    request_: Request, monkeypatch: pytest.MonkeyPatch, failing: bool
) -> None:
    closed: list[str] = []
    monkeypatch.setattr("flowplan.engines.Engines.close", lambda self: closed.append("engines"))
    close = SqliteStore.close
    monkeypatch.setattr(SqliteStore, "close", lambda self: (closed.append("state"), close(self))[0])
    try:
        with Project.of_spec(request_) as project:
            assert not closed
            if failing:
                raise KeyError
    except KeyError:
        assert failing
    assert closed == ["engines", "state"]
    assert project.wanted.runs.keys() == {"a"}


def test_a_saved_plan_and_a_state_open_the_same_engines(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_ENV", "x")
    with Project.of_spec(request_) as project:
        plan = plan_spec(project, request_).plan
        project.remember("flowplan.yaml")
    with Project.of_plan(request_, plan) as again:
        assert SECRET in again.secrets.values()
        assert again.directory == project.directory
        assert again.engines.target("process") == plan_target(project)
    with closing(request_.state.open()) as store, Project.of_state(store) as recorded:
        assert recorded.directory == project.directory
        assert recorded.engines.target("process") == plan_target(project)


def plan_target(project: Project) -> object:
    return project.engines.target("process")
