"""The docker provider for the contract suite: containers on the Engine of the environment."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import cast

import docker
import docker.errors
from case import Case
from engines import docker_api

from flowplan.planner.manifests import Manifests
from flowplan.planner.manifests import docker as docker_manifests
from flowplan.providers.docker import connect
from flowplan.providers.protocol import Context
from flowplan.schemas.runs import Recorded


def available() -> str | None:
    """Why the engine cannot be used here; None when it can."""
    try:
        docker_api().close()
    except docker.errors.DockerException as error:
        return f"no Docker Engine: {error}"
    return None


def case(tmp_path: Path) -> Case:
    lineage = str(uuid.uuid4())

    def vanish(record: Recorded) -> None:
        api = docker_api()
        api.remove_container(record.handle["id"], force=True)
        api.close()

    def cleanup() -> None:
        api = docker_api()
        wanted = {"label": f"dev.flowplan.lineage={lineage}"}
        for found in api.containers(all=True, filters=wanted):
            api.remove_container(found["Id"], force=True, v=True)
        api.close()

    made = Case(
        type="docker",
        manifests=cast(Manifests, docker_manifests),
        connect=lambda: connect(Context(lineage=made.lineage, runs_dir=tmp_path / "runs", spec_dir=tmp_path)),
        vanish=vanish,
        fields={"image": "busybox:1.35"},
        cleanup=cleanup,
        lineage=lineage,
        spec_dir=str(tmp_path),
        killed=frozenset({137}),
        killed_reasons=frozenset({"SIGKILL"}),
    )
    return made
