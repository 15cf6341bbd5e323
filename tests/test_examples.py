"""Every example is planned, applied, found unchanged, and destroyed, as a user would do it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLOWPLAN = str(Path(sys.executable).with_name("flowplan"))
EXAMPLES = Path(__file__).parents[1] / "examples"
SECRETS = {"ETL_PGPASSWORD": "a-password-of-the-example", "FLOWPLAN_VAR_token": "a-token-of-the-example"}
ENVIRONMENT = {"05-secrets": SECRETS, "14-environments": {"FLOWPLAN_ENV": "prod"}}
EXPECTED = {"06-timeouts-and-retries": {"slow": "timed_out", "broken": "failed"}}
"""Examples whose runs do not all succeed, and their final status; all others end with exit code 0 and no changes."""


def specs() -> list[Path]:
    """Yield every example's spec: a numbered file, or the flowplan.yaml of a numbered folder."""
    return sorted([*EXAMPLES.glob("[0-9]*.yaml"), *EXAMPLES.glob("[0-9]*/flowplan.yaml")])


def title(spec: Path) -> str:
    return spec.parent.name if spec.name == "flowplan.yaml" else spec.stem


def marked(spec: Path) -> object:
    """Return the spec as a test parameter, with the engine that it needs."""
    text = spec.read_text()
    marks = [
        getattr(pytest.mark, e)
        for e in ("docker", "kubernetes", "slurm")
        if re.search(rf"(provider|type): {e}\b", text)
    ]
    marks += [pytest.mark.xdist_group("volumes")] if "flowplan-example-" in text else []
    return pytest.param(spec, marks=marks, id=title(spec))


class Example:
    """A copy of an example in a directory of its own."""

    def __init__(self, spec: Path, directory: Path) -> None:
        if spec.name == "flowplan.yaml":
            shutil.copytree(spec.parent, directory)
        else:
            directory.mkdir()
            shutil.copy(spec, directory / "flowplan.yaml")
        self.directory = directory
        self.env = {**os.environ, "NO_COLOR": "1", **ENVIRONMENT.get(title(spec), {})}

    def run(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [FLOWPLAN, *arguments],
            check=False,
            cwd=self.directory,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, f"flowplan {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def statuses(self) -> dict[str, str]:
        """Return address -> status of everything recorded."""
        if not (self.directory / ".flowplan").exists():
            return {}
        document = json.loads(self.run("status", "--format", "json"))
        return {run["address"]: run["status"] for run in document["runs"]}


@pytest.fixture
def example(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Example]:
    made = Example(request.param, tmp_path / "example")
    yield made
    if made.statuses():
        made.run("destroy", "--yes", "--allow-interrupt", "*")
    remove_volumes(request.param)


every_example = pytest.mark.parametrize("example", [marked(s) for s in specs()], indirect=True)


@every_example
def test_from_plan_to_destroy(example: Example, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id
    expected = EXPECTED.get(name)
    example.run("validate")
    assert example.run("plan") == example.run("plan"), "the same inputs give the same bytes"
    example.run("apply", "--yes", code=3 if expected else 0)
    statuses = example.statuses()
    assert statuses == expected or (not expected and set(statuses.values()) == {"succeeded"})
    example.run("plan", "--detailed-exitcode", code=2 if expected else 0)
    example.run("destroy", "--yes")
    assert example.statuses() == {}
    assert "destroyed" in example.run("events"), "the history stays"


def test_no_secret_of_the_example_is_kept(tmp_path: Path) -> None:
    example = Example(EXAMPLES / "05-secrets" / "flowplan.yaml", tmp_path / "example")
    shown = example.run("apply", "--yes") + example.run("plan", "--explain", "--full") + example.run("logs", "load")
    kept = b"".join(p.read_bytes() for p in (tmp_path / "example" / ".flowplan").rglob("*") if p.is_file())
    for secret in SECRETS.values():
        assert secret not in shown
        assert secret.encode() not in kept
    example.run("destroy", "--yes")


@pytest.mark.docker
@pytest.mark.xdist_group("volumes")
@pytest.mark.parametrize("spec", [s for s in specs() if "docker" in s.name], ids=title)
def test_nothing_stays_on_the_engine(spec: Path, tmp_path: Path) -> None:
    example = Example(spec, tmp_path / "example")
    lineage = json.loads(example.run("plan", "--format", "json"))["state"]["lineage"]
    example.run("apply", "--yes")
    assert containers(lineage)
    example.run("destroy", "--yes")
    assert not containers(lineage)
    remove_volumes(spec)


def remove_volumes(spec: Path) -> None:
    """Remove the example's named volumes, which flowplan leaves to their owner."""
    for name in re.findall(r'"(flowplan-example-\w+):/', spec.read_text()):
        with engine() as client:
            client.volumes.get(name).remove()


@contextlib.contextmanager
def engine() -> Iterator[Any]:
    """Return a client of the Docker Engine."""
    import docker

    client = docker.DockerClient.from_env()
    try:
        yield client
    finally:
        client.close()


def containers(lineage: str) -> list[str]:
    """Return the ids of the containers of a state, whatever they do."""
    with engine() as client:
        found = client.containers.list(all=True, filters={"label": f"dev.flowplan.lineage={lineage}"})
        return [container.id for container in found]


def test_each_example_has_a_number_of_its_own() -> None:
    names = [p.name for p in EXAMPLES.iterdir() if p.name[0].isdigit()]
    assert len({n[:2] for n in names}) == len(names), "two examples have the same number"


def test_the_demo_of_the_readme() -> None:
    demo = EXAMPLES / "demo.sh"
    done = subprocess.run(
        ["sh", str(demo), FLOWPLAN, str(EXAMPLES / "01-process.yaml")],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "hello from extract" in done.stdout
    assert "No changes. 2 runs are as wanted in nightly." in done.stdout
