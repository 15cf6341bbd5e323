"""The kubernetes provider for the contract suite: Jobs on the cluster of KUBECONFIG, in a namespace of the suite's own."""

from __future__ import annotations

import atexit
import functools
import os
import uuid
from pathlib import Path
from typing import cast

from case import Case
from projects import make_namespace

from flowplan.planner.manifests import Manifests
from flowplan.planner.manifests import kubernetes as kubernetes_manifests
from flowplan.providers.kubernetes import connect
from flowplan.providers.kubernetes.connection import endpoint
from flowplan.providers.kubernetes.jobs import core_path, jobs_path
from flowplan.providers.kubernetes.requests import Api
from flowplan.providers.protocol import Context
from flowplan.schemas.errors import ProviderError
from flowplan.schemas.runs import Recorded

NAMESPACE = f"fp-contract-{uuid.uuid4().hex[:8]}"


def available() -> str | None:
    """Why the cluster cannot be used here; None when it can."""
    if not os.environ.get("KUBECONFIG"):
        return "KUBECONFIG names no cluster"
    try:
        _namespace()
    except ProviderError as error:
        return str(error)
    return None


def _api() -> Api:
    return Api(endpoint({}, Path("/")))


@functools.cache
def _namespace() -> None:
    api = _api()
    make_namespace(api, NAMESPACE)
    api.close()
    atexit.register(_remove)


def _remove() -> None:
    api = _api()
    api.call("DELETE", f"/api/v1/namespaces/{NAMESPACE}")
    api.close()


def case(tmp_path: Path) -> Case:
    lineage = str(uuid.uuid4())

    def vanish(record: Recorded) -> None:
        api = _api()
        path = jobs_path(NAMESPACE, record.handle["name"])
        api.call("DELETE", path, body={"propagationPolicy": "Background"})
        api.close()

    def cleanup() -> None:
        api = _api()
        for path in (jobs_path(NAMESPACE), core_path(NAMESPACE, "pods"), core_path(NAMESPACE, "secrets")):
            body = {"propagationPolicy": "Background", "gracePeriodSeconds": 1}
            api.call("DELETE", path, {"labelSelector": f"flowplan.dev/lineage={lineage}"}, body)
        api.close()

    made = Case(
        type="kubernetes",
        manifests=cast(Manifests, kubernetes_manifests),
        connect=lambda: connect(
            Context(lineage=made.lineage, runs_dir=tmp_path / "runs", settings={"namespace": NAMESPACE})
        ),
        vanish=vanish,
        fields={"image": "busybox:1.35"},
        connection={"namespace": NAMESPACE},
        cleanup=cleanup,
        lineage=lineage,
        spec_dir=str(tmp_path),
        patience=60.0,
        start_fails_in_create=False,
        splits_streams=False,
    )
    return made
