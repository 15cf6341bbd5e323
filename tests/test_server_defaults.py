"""What an API server makes of a Job (defaults, its own spelling) is no difference: the plan after an apply is empty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from projects import Project

from flowplan.planner.compare.diff import drifted_fields
from flowplan.planner.manifests import ResolvedRun, kubernetes
from flowplan.providers.kubernetes.comparing import as_recorded, noted
from flowplan.providers.kubernetes.connection import endpoint
from flowplan.providers.kubernetes.jobs import jobs_path
from flowplan.providers.kubernetes.reading import observed
from flowplan.providers.kubernetes.requests import Api
from flowplan.schemas.runs import Identity, Recorded, Settings, Status

pytestmark = pytest.mark.kubernetes
IDENTITY = Identity("defaults", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "a", 1)
TEXT = st.sampled_from(["", "x", "a=b", " "])
AMOUNT = st.sampled_from(["1", "1000m", "0.5", 2, 1.5, "1e3", "100u", "0", 0])
SIZE = st.sampled_from(["64Mi", "0.0625Gi", 67108864, "67108864", "128974848000m", "1e8"])


def mapping(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


PROBE = mapping(
    timeoutSeconds=st.sampled_from([0, 1]),
    periodSeconds=st.sampled_from([0, 5]),
    successThreshold=st.sampled_from([0, 1]),
    failureThreshold=st.sampled_from([0, 3]),
    initialDelaySeconds=st.sampled_from([0, 2]),
).map(lambda probe: {"httpGet": {"port": 80, "scheme": "", "path": ""}, **probe})
CONTAINER = mapping(
    env=st.lists(TEXT, max_size=2).map(lambda v: [{"name": f"E{n}", "value": text} for n, text in enumerate(v)]),
    ports=st.just([{"containerPort": 80, "protocol": "", "hostPort": 0, "name": ""}]),
    resources=mapping(
        limits=st.fixed_dictionaries({"cpu": AMOUNT, "memory": SIZE}),
        requests=st.sampled_from([{}, None, {"cpu": 0}, {"memory": "1Mi"}]),
    ),
    livenessProbe=PROBE,
    terminationMessagePath=st.just(""),
    workingDir=TEXT,
    tty=st.booleans(),
    securityContext=st.sampled_from([{}, None, {"privileged": False}, {"runAsUser": 0}]),
    volumeMounts=st.just([]),
    args=st.sampled_from([[], ["a", ""]]),
)
POD = mapping(
    restartPolicy=st.sampled_from(["Never", "OnFailure"]),
    terminationGracePeriodSeconds=st.sampled_from([0, 30, 60]),
    dnsPolicy=st.sampled_from(["", "ClusterFirst", "Default"]),
    schedulerName=st.just(""),
    serviceAccount=st.just("default"),
    hostNetwork=st.just(False),
    nodeSelector=st.sampled_from([{}, None, {"a": ""}]),
    securityContext=st.sampled_from([{}, None]),
    tolerations=st.sampled_from([[], [{"operator": "Exists"}], [{"key": "a", "value": "", "effect": ""}]]),
    imagePullSecrets=st.sampled_from([[], [{"name": "x"}]]),
    volumes=st.sampled_from(
        [[], [{"name": "v", "emptyDir": None}], [{"name": "v", "emptyDir": {"sizeLimit": "0.5Gi"}}]]
    ),
)
SPEC = mapping(
    parallelism=st.sampled_from([None, 0, 1, 3]),
    completions=st.sampled_from([None, 1, 3]),
    backoffLimit=st.sampled_from([None, 0, 6]),
    activeDeadlineSeconds=st.sampled_from([None, 1, 600]),
    ttlSecondsAfterFinished=st.sampled_from([None, 0, 5]),
    suspend=st.sampled_from([None, False, True]),
    manualSelector=st.just(False),
)
METADATA = mapping(
    labels=st.dictionaries(st.sampled_from(["a", "b.c/d"]), st.sampled_from(["", "x"])),
    annotations=st.dictionaries(st.sampled_from(["a", "b.c/d"]), TEXT),
    creationTimestamp=st.sampled_from([None, "2020-01-01T00:00:00Z"]),
    finalizers=st.just(["example.com/hold"]),
)


@pytest.fixture(scope="module")
def api() -> Api:
    return Api(endpoint({}, Path("/")))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(METADATA, SPEC, POD, CONTAINER)
def test_nothing_is_drift_that_only_the_server_did(
    api: Api, meta: dict[str, Any], spec: dict[str, Any], pod: dict[str, Any], container: dict[str, Any]
) -> None:
    pod = {**pod, "containers": [{"name": "c", "image": "busybox:1.35", **container}]}
    job = {"metadata": meta, "spec": {**spec, "template": {"spec": pod}}}
    fields = {"kubernetes": {"job": job, "namespace": "default"}}
    rendered = kubernetes.render(ResolvedRun("a", "a", 0, "k", "kubernetes", fields), IDENTITY)
    sent = rendered.objects["Job"]
    live = api.call("POST", jobs_path("default"), {"dryRun": "All", "fieldManager": "flowplan"}, sent)
    created = noted(observed(live, [], "cluster"), sent, live)
    record = Recorded(
        "a", "k", "kubernetes", {}, 1, IDENTITY.run_id, rendered.name, rendered.objects, Settings(), Status.PENDING
    )
    again = as_recorded(observed(live, [], "cluster"), replace(record, handle=created.handle))
    assert again.live is not None
    assert drifted_fields(rendered.objects, again.live, kubernetes, managers=again.managers) == ()


def test_the_plan_after_an_apply_is_empty(case_project: Callable[..., Project], namespace: str) -> None:
    project = case_project("03-onfailure-output", {"ha-x": namespace})
    project.write(
        f"""
flowplan: 1
project: {project.name}
runs:
  a:
    provider: kubernetes
    image: busybox:1.35
    image_pull_policy: Never
    command: [sleep, "600"]
    resources: {{cpu: 0.01, memory: 16m}}
    kubernetes:
      namespace: {namespace}
      job:
        metadata: {{creationTimestamp: null, annotations: {{note: ""}}}}
        spec:
          suspend: false
          template:
            spec:
              dnsPolicy: ""
              containers: [{{name: c, terminationMessagePath: "", env: [{{name: A, value: ""}}], ports: [{{containerPort: 1, protocol: ""}}]}}]
"""
    )
    project.ok("apply", "--yes", "--detach")
    assert project.actions() == {"a": "no-op"}
    project.await_status("a", "running")
    assert project.actions() == {"a": "no-op"}
