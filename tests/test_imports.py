"""What each command may load: the start of flowplan is the sum of what it imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "docker",
    "kubernetes",
    "kubernetes_validate",
    "deepdiff",
    "rich",
    "jsonschema",
    "jsonpatch",
    "requests",
    "urllib3",
    "asyncio",
    "numpy",
}
PROBE = """
import sys
from flowplan.__main__ import main
sys.argv = ["flowplan", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
finally:
    print("\\nLOADED", *sorted(sys.modules))
"""
SPEC = 'flowplan: 1\nproject: p\nruns:\n  a: {provider: process, command: ["true"]}\n'
ON = "flowplan: 1\nproject: p\nruns:\n  a: {provider: %s, image: busybox:1.35, command: [echo, a]}\n"


def loaded(directory: Path, *arguments: str) -> set[str]:
    """Return the modules in memory after a command."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        check=False,
        cwd=directory,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return set(done.stdout.rpartition("LOADED ")[2].split())


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("pydantic", "validate"),
        ("yaml", "plan"),
        ("typer", "--help"),
        ("sqlite_utils", "plan"),
        ("filelock", "apply --yes"),
    ],
)
def test_a_missing_module_is_named(directory: Path, module: str, command: str) -> None:
    hidden = directory / "hidden"
    hidden.mkdir()
    (hidden / f"{module}.py").write_text(f"raise ModuleNotFoundError('No module named {module}', name='{module}')\n")
    done = subprocess.run(
        [Path(sys.executable).with_name("flowplan"), *command.split()],
        check=False,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(hidden)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    told = f"the installation of flowplan is not complete: the module {module} is missing; install flowplan again for "
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == f"error: {told}{sys.executable}"
    assert "Traceback" not in done.stderr and "defect" not in done.stderr


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "flowplan.yaml").write_text(SPEC)
    return tmp_path


def test_validating_loads_no_state_no_decisions_and_no_renderer(directory: Path) -> None:
    parts = (
        "flowplan.state.store",
        "flowplan.state.sqlite",
        "flowplan.render",
        "flowplan.providers",
        "flowplan.project",
        "flowplan.apply",
    )
    found = loaded(directory, "validate")
    assert not [m for m in found if m.startswith(parts)]
    assert not found & {"typer", "pydantic.plugin._loader", "importlib.metadata", "email", "jsonschema"}
    assert not found & {
        "flowplan.planner.compare.decide",
        "flowplan.planner.desired.template",
        "sqlite3",
        "concurrent.futures",
    }


def test_planning_loads_nothing_that_only_applying_needs(directory: Path) -> None:
    loaded(directory, "apply", "--yes")
    found = loaded(directory, "plan")
    assert "flowplan.planner.compare.decide" in found
    assert not found & {"flowplan.apply", "flowplan.calls", "flowplan.following", "flowplan.commands.applying"}
    assert not found & {"filelock", "sqlite_utils", "flowplan.state.transfer", "flowplan.planner.desired.template"}
    assert not found & {"typer", "concurrent.futures", "logging", "email", "rich", "docker", "kubernetes", "urllib3"}


@pytest.mark.parametrize("command", ["status", "events", "show", "logs a", "state list", "destroy --yes"])
def test_no_command_on_processes_loads_what_other_engines_need(directory: Path, command: str) -> None:
    loaded(directory, "apply", "--yes")
    found = loaded(directory, *command.split())
    assert not found & {"typer", "sqlite_utils", "rich", "docker", "kubernetes", "urllib3", "jsonschema"}
    assert not found & {"pydantic", "yaml"}


@pytest.mark.docker
def test_a_plan_of_containers_loads_no_client_of_kubernetes(directory: Path) -> None:
    (directory / "flowplan.yaml").write_text(SPEC.replace("process", "docker, image: busybox:1.35"))
    found = loaded(directory, "plan")
    assert "docker" in found
    assert not found & {"kubernetes", "flowplan.providers.kubernetes", "paramiko", "jsonschema", "typer"}


@pytest.mark.kubernetes
def test_a_plan_of_jobs_loads_urllib3_and_not_the_client_package(directory: Path) -> None:
    (directory / "flowplan.yaml").write_text(SPEC.replace("process", "kubernetes, image: busybox:1.35"))
    found = loaded(directory, "plan")
    assert "urllib3" in found
    assert not found & {"kubernetes", "docker", "requests", "jsonschema", "typer", "flowplan.providers.kubernetes.logs"}


def test_no_plugins_of_pydantic_are_looked_for_and_no_child_hears_of_it(directory: Path) -> None:
    (directory / "flowplan.yaml").write_text(SPEC.replace('["true"]', "[sh, -c, 'env | grep PYDANTIC || echo none']"))
    loaded(directory, "apply", "--yes")
    done = subprocess.run(
        [sys.executable, "-m", "flowplan", "logs", "a"], check=True, cwd=directory, capture_output=True, text=True
    )
    assert done.stdout.strip() == "none"


@pytest.mark.parametrize("wrong", ["plna", "stat"])
def test_building_one_command_keeps_suggestions(directory: Path, wrong: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flowplan", wrong], check=False, cwd=directory, capture_output=True, text=True
    )
    assert done.returncode == 7
    assert "Did you mean" in done.stderr


def test_the_version_loads_nothing(directory: Path) -> None:
    assert not loaded(directory, "--version") & (HEAVY | {"typer", "pydantic", "yaml", "sqlite3", "sqlite_utils"})


def test_validating_loads_no_client_and_no_renderer(directory: Path) -> None:
    assert not loaded(directory, "validate") & (HEAVY | {"sqlite_utils"})


@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_planning_processes_loads_no_client_and_no_renderer(directory: Path, again: bool) -> None:
    if again:
        loaded(directory, "plan")
    assert not loaded(directory, "plan") & HEAVY


def test_a_whole_life_of_a_process_loads_no_client(directory: Path) -> None:
    for command in (["apply", "--yes"], ["status"], ["events"], ["logs", "a"], ["destroy", "--yes"]):
        assert not loaded(directory, *command) & {"docker", "kubernetes", "kubernetes_validate", "deepdiff"}, command


@pytest.mark.parametrize("provider", ["docker", "kubernetes"])
def test_planning_offline_loads_no_client(tmp_path: Path, provider: str) -> None:
    (tmp_path / "flowplan.yaml").write_text(ON % provider)
    assert not loaded(tmp_path, "plan", "--no-refresh") & {"docker", "kubernetes", "deepdiff", "rich"}


@pytest.mark.docker
def test_planning_containers_loads_no_kubernetes(tmp_path: Path) -> None:
    (tmp_path / "flowplan.yaml").write_text(ON % "docker")
    assert not loaded(tmp_path, "plan") & {"kubernetes", "kubernetes_validate", "deepdiff", "rich"}


@pytest.mark.kubernetes
def test_planning_jobs_loads_no_docker(tmp_path: Path) -> None:
    (tmp_path / "flowplan.yaml").write_text(ON % "kubernetes")
    assert not loaded(tmp_path, "plan") & {"docker", "deepdiff", "rich"}
