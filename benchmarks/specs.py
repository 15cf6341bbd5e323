"""The specs that are measured, and what says the same to other tools."""

from __future__ import annotations

import json
import os
import uuid
from functools import cache
from pathlib import Path
from typing import Any

from measuring import Skipped

IMAGE = "busybox:1.35"


def write(directory: Path, runs: str, project: str = "bench") -> Path:
    """Write a spec with these runs, in YAML, as ``flowplan.yaml`` of a new directory."""
    directory.mkdir(parents=True)
    (directory / "flowplan.yaml").write_text(f"flowplan: 1\nproject: {project}\nruns:\n{runs}", encoding="utf-8")
    return directory


def matrix(count: int, fields: str) -> str:
    """Return one run with ``count`` cells."""
    return f"  cell:\n    matrix: {{n: {{from: 1, to: {count}}}}}\n{indented(fields)}"


def indented(fields: str) -> str:
    """Return the fields of a run, indented as in a spec."""
    return "".join(f"    {line}\n" for line in fields.strip().splitlines())


PROCESS = 'provider: process\ncommand: ["true"]\nenv: {N: "${each.n}"}'
SLEEPING_PROCESS = 'provider: process\ncommand: [sleep, "3600"]\ngrace_period: 1s'
CONTAINER = f'provider: docker\nimage: {IMAGE}\ncommand: [sleep, "3600"]\ngrace_period: 1s'


def job(namespace: str, *, parallelism: int = 0, command: str = '["true"]') -> str:
    """Return a Job that creates no pods unless ``parallelism`` says so."""
    return (
        f"provider: kubernetes\nimage: {IMAGE}\ncommand: {command}\ngrace_period: 1s\n"
        f"kubernetes: {{namespace: {namespace}, job: {{spec: {{parallelism: {parallelism}}}}}}}"
    )


def different_runs(count: int) -> str:
    """Return ``count`` runs that have nothing in common."""
    return "".join(
        f'  run-{n}:\n    provider: process\n    command: [echo, "{n}"]\n    env: {{N: "{n}", M: x{n}}}\n'
        for n in range(count)
    )


def terraform(directory: Path, text: str) -> Path:
    """Write a terraform configuration in a new directory."""
    directory.mkdir(parents=True)
    (directory / "main.tf").write_text(text, encoding="utf-8")
    return directory


def terraform_matrix(count: int) -> str:
    return f'resource "terraform_data" "cell" {{\n  count = {count}\n  input = {{ command = "true", n = count.index }}\n}}\n'


def different_resources(count: int) -> str:
    return "".join(
        f'resource "terraform_data" "run-{n}" {{\n  input = {{ command = "echo {n}", N = "{n}", M = "x{n}" }}\n}}\n'
        for n in range(count)
    )


def jobs(namespace: str, count: int, label: str) -> list[dict[str, Any]]:
    """Return manifests of the size of flowplan's own."""
    return [_job(namespace, f"{label}-{n}", label) for n in range(1, count + 1)]


def _job(namespace: str, name: str, label: str) -> dict[str, Any]:
    labels = {"bench": label, "app.kubernetes.io/managed-by": "bench", "run-id": str(uuid.uuid4())}
    container = {"name": "main", "image": IMAGE, "args": ["true"], "imagePullPolicy": "IfNotPresent"}
    template = {"metadata": {"labels": labels}, "spec": {"restartPolicy": "Never", "containers": [container]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": {"bench/address": name}},
        "spec": {"parallelism": 0, "completions": 1, "backoffLimit": 0, "template": template},
    }


def manifests(path: Path, documents: list[dict[str, Any]]) -> Path:
    """Write a file for kubectl."""
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}), encoding="utf-8")
    return path


@cache
def api() -> Any:
    """Return the API of the cluster that KUBECONFIG names.

    Raises:
        Skipped: there is none.
    """
    from flowplan.providers.kubernetes.connection import endpoint
    from flowplan.providers.kubernetes.requests import Api
    from flowplan.schemas.errors import ProviderError

    if not os.environ.get("KUBECONFIG"):
        raise Skipped("KUBECONFIG names no cluster")
    found = Api(endpoint({}, Path("/")))
    try:
        found.call("GET", "/version")
    except ProviderError as error:
        raise Skipped(str(error)) from error
    return found


@cache
def docker() -> Any:
    """Return a client of the Docker Engine, which has the image that is used.

    Raises:
        Skipped: there is none.
    """
    import docker as package

    try:
        client = package.from_env()
        client.images.get(IMAGE)
    except package.errors.DockerException as error:
        raise Skipped(f"no Docker Engine with {IMAGE}: {error}") from error
    return client
