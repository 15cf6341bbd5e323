"""How long a command takes that has next to nothing to do: against an interpreter that does nothing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import specs
from measuring import FLOWPLAN, PYTHON, Result, compared, run, scaled

RUNS = scaled(21)
NOTHING = [PYTHON, "-c", "pass"]


def _against_nothing(what: str, arguments: list[str], bar: float, directory: Path) -> Result:
    command = [FLOWPLAN, *arguments]
    return compared(what, "python -c pass", bar, lambda: run(command, directory), lambda: run(NOTHING, directory), RUNS)


def version(scratch: Path) -> Result:
    return _against_nothing("--version", ["--version"], 4, specs.write(scratch / "version", f"  a: {{{_PROCESS}}}\n"))


def validate(scratch: Path) -> Result:
    directory = specs.write(scratch / "validate", f"  a: {{{_PROCESS}}}\n")
    return _against_nothing("validate, 1 run", ["validate"], 14, directory)


_PROCESS = 'provider: process, command: ["true"]'


def plan_process(scratch: Path) -> Result:
    with applied(specs.write(scratch / "one-process", f"  a: {{{_PROCESS}}}\n")) as directory:
        unchanged(directory)
        return _against_nothing("plan, 1 process run, no change", ["plan"], 17, directory)


def plan_docker(scratch: Path) -> Result:
    specs.docker()
    runs = f'  a: {{provider: docker, image: "{specs.IMAGE}", command: ["true"]}}\n'
    with applied(specs.write(scratch / "one-container", runs, f"bench-{uuid.uuid4().hex[:8]}")) as directory:
        unchanged(directory)
        return _against_nothing("plan, 1 docker run, no change", ["plan"], 24, directory)


def plan_kubernetes(scratch: Path) -> Result:
    with namespace() as name:
        directory = specs.write(scratch / "one-job", f"  a:\n{specs.indented(specs.job(name))}")
        with applied(directory, "--detach"):
            unchanged(directory)
            return _against_nothing("plan, 1 kubernetes run, no change", ["plan"], 40, directory)


def unchanged(directory: Path) -> None:
    """Raise Failed unless the plan of a spec is empty; so a row that says so measures that."""
    run([FLOWPLAN, "plan", "--detailed-exitcode"], directory)


@contextmanager
def applied(directory: Path, *options: str) -> Iterator[Path]:
    """Apply a spec, and destroy it afterwards."""
    run([FLOWPLAN, "apply", "--yes", *options], directory)
    try:
        yield directory
    finally:
        run([FLOWPLAN, "destroy", "--yes"], directory)


@contextmanager
def namespace() -> Iterator[str]:
    """Make a namespace, which is removed in the background afterwards."""
    api = specs.api()
    name = f"fp-bench-{uuid.uuid4().hex[:8]}"
    api.call("POST", "/api/v1/namespaces", body={"metadata": {"name": name}})
    try:
        yield name
    finally:
        api.call("DELETE", f"/api/v1/namespaces/{name}")
