"""The docker provider for the contract suite: containers on the Engine of DOCKER_HOST, or on another one."""

from __future__ import annotations

import contextlib
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


def available(host: str = "") -> str | None:
    """Why the engine cannot be used here; None when it can."""
    try:
        docker_api(host).close()
    except docker.errors.DockerException as error:
        return f"no Docker Engine: {error}"
    return None


def case(tmp_path: Path, host: str = "") -> Case:
    lineage = str(uuid.uuid4())

    def vanish(record: Recorded) -> None:
        api = docker_api(host)
        api.remove_container(record.handle["id"], force=True)
        api.close()

    def cleanup() -> None:
        api = docker_api(host)
        wanted = {"label": f"dev.flowplan.lineage={lineage}"}
        for found in api.containers(all=True, filters=wanted):
            with contextlib.suppress(docker.errors.APIError):  # it has ended meanwhile
                api.kill(found["Id"])  # Podman's removal waits for the end, ten seconds long
            api.remove_container(found["Id"], force=True, v=True)
        api.close()

    made = Case(
        type="docker",
        manifests=cast(Manifests, docker_manifests),
        connect=lambda: connect(
            Context(
                lineage=made.lineage,
                runs_dir=tmp_path / "runs",
                spec_dir=tmp_path,
                settings={"host": host} if host else {},
            )
        ),
        vanish=vanish,
        fields={"image": "busybox:1.35"},
        cleanup=cleanup,
        lineage=lineage,
        spec_dir=str(tmp_path),
        patience=60.0,
        killed=frozenset({137}),
        killed_reasons=frozenset({"SIGKILL"}),
    )
    return made
