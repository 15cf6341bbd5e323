"""The pure half of the kubernetes provider: manifests, faults, effects."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowplan.planner.manifests import ResolvedRun, job_check, kubernetes
from flowplan.schemas.documents import parse
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.plans import ABSENT
from flowplan.schemas.runs import Identity, Origin
from flowplan.schemas.secrets import tokens_in
from flowplan.schemas.sources import Path as SourcePath

FIXTURES = Path(__file__).parent / "fixtures" / "manifests"
LINEAGE = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
IDENTITY = Identity("nightly", LINEAGE, "train", 1)
TOKEN = "(sensitive env:PGPASSWORD 0123456789abcdef)"
TOKEN_2 = "(sensitive var.token fedcba9876543210)"


def run_of(connection: dict[str, str] | None = None, files: dict[str, Any] | None = None, **fields: Any) -> ResolvedRun:
    fields = {"image": "etl:1", **fields}
    origins: dict[SourcePath, Origin] = {
        (key,): Origin(f"spec.yaml:{line}", "spec.yaml", line) for line, key in enumerate(fields, 3)
    }
    for index, _ in enumerate((fields.get("kubernetes") or {}).get("customizations") or ()):
        origins[("kubernetes", "customizations", index)] = Origin(f"spec.yaml:{40 + index}", "spec.yaml", 40 + index)
    return ResolvedRun(
        "train", "train", 0, "k", "kubernetes", fields, connection or {}, files=files or {}, origins=origins
    )


def with_job(job: Any, *customizations: Any, **fields: Any) -> ResolvedRun:
    block = {"job": job, **({"customizations": list(customizations)} if customizations else {})}
    return run_of(kubernetes=block, **fields)


def from_file(**fields: Any) -> ResolvedRun:
    document = parse((FIXTURES / "job.yaml").read_text(), "/somewhere/job.yaml")
    return run_of(files={"job.yaml": document}, kubernetes={"job": "job.yaml"}, **fields)


def job_of(run: ResolvedRun, identity: Identity = IDENTITY) -> dict[str, Any]:
    job: dict[str, Any] = kubernetes.render(run, identity).objects["Job"]
    return job


def pod_of(run: ResolvedRun) -> dict[str, Any]:
    pod: dict[str, Any] = job_of(run)["spec"]["template"]["spec"]
    return pod


def container_of(run: ResolvedRun) -> dict[str, Any]:
    container: dict[str, Any] = pod_of(run)["containers"][0]
    return container


def faults_of(run: ResolvedRun) -> str:
    return "\n".join(str(fault) for fault in kubernetes.check(run))


def golden(name: str, found: Any) -> None:
    assert found == json.loads((FIXTURES / name).read_text())


# ---------------------------------------------------------------------- base


def test_a_plain_run() -> None:
    run = run_of(command=["python", "-m", "etl"], env={"A": "1"}, labels={"team": "data"})
    golden("plain.json", kubernetes.render(run, IDENTITY).objects)


def test_parallelism_and_completions_are_set_only_when_given() -> None:
    assert sorted(job_of(run_of())["spec"]) == ["backoffLimit", "template"]


def test_rendering_twice_gives_equal_distinct_objects_and_changes_no_input() -> None:
    run = with_job({"metadata": {"labels": {"a": "b"}}}, {"op": "add", "path": "/spec/suspend", "value": True})
    before = copy.deepcopy(run.fields)
    one, two = job_of(run), job_of(run)
    assert one == two
    one["metadata"]["labels"]["a"] = "changed"
    assert two["metadata"]["labels"]["a"] == "b"
    assert run.fields == before


@pytest.mark.parametrize(
    ("block", "connection", "job", "expected"),
    [
        ({}, {}, None, "default"),
        ({}, {"namespace": "entry"}, None, "entry"),
        ({}, {"namespace": "entry"}, {"metadata": {"namespace": "manifest"}}, "manifest"),
        ({"namespace": "block"}, {"namespace": "entry"}, {"metadata": {"namespace": "manifest"}}, "block"),
    ],
)
def test_namespace(block: dict[str, Any], connection: dict[str, str], job: Any, expected: str) -> None:
    block = block if job is None else {**block, "job": job}
    assert job_of(run_of(connection, kubernetes=block))["metadata"]["namespace"] == expected


# --------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("infra-run", "infra-run"),
        ("_infra_run", "infra-run"),
        ("...infra_run", "infra-run"),
        ("._-infra_run", "infra-run"),
        ("-infra.run", "infra-run"),
        ("infra*run", "infra-run"),
        ("9infra-run", "9infra-run"),
        ("infra9.-foo_bar^x", "infra9-foo-bar-x"),
        ("ÜBER Größe", "uber-grosse"),
        ("\N{ROCKET}", "nightly-train-1"),
    ],
)
def test_names_are_legal(name: str, expected: str) -> None:
    assert job_of(run_of(name=name))["metadata"]["name"] == expected


@given(st.text(), st.integers(1, 99999), st.text(min_size=1))
def test_any_name_is_a_legal_one(name: str, attempt: int, address: str) -> None:
    identity = Identity("nightly", LINEAGE, address, attempt)
    rendered = kubernetes.render(run_of(name=name or None), identity)
    assert rendered.name == rendered.objects["Job"]["metadata"]["name"]
    assert 0 < len(rendered.name) <= 63
    part = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
    assert re.fullmatch(rf"{part}(?:\.{part})*", rendered.name)


def test_the_manifests_name_is_unique_for_every_attempt_and_cell() -> None:
    run = with_job({"metadata": {"name": "trainer", "generateName": "x-"}})
    cells = [Identity("p", LINEAGE, f"train[day={day}]", 1) for day in ("2026-11-01", "2026-11-02")]
    jobs = [job_of(run), job_of(run, Identity("p", LINEAGE, "train", 2)), *(job_of(run, cell) for cell in cells)]
    names = [job["metadata"]["name"] for job in jobs]
    assert names == ["trainer", "trainer-2", "trainer-day-2026-11-01", "trainer-day-2026-11-02"]
    assert all("generateName" not in job["metadata"] for job in jobs)


@pytest.mark.parametrize(
    ("job", "pods", "labels"),
    [
        (None, {"app": "x"}, {"app": "x"}),
        ({}, {"app": "x"}, {"app": "x"}),
        ({"a": "b"}, {"app": "x"}, {"a": "b"}),
        ({}, {}, {}),
    ],
)
def test_a_job_without_labels_has_those_of_its_pods_as_the_server_would_give_it(
    job: Any, pods: dict[str, str], labels: dict[str, str]
) -> None:
    made = job_of(with_job({"metadata": {"labels": job}, "spec": {"template": {"metadata": {"labels": pods}}}}))
    own = ("flowplan.dev/", "app.kubernetes.io/managed-by")
    assert {k: v for k, v in made["metadata"]["labels"].items() if not k.startswith(own)} == labels


def test_a_name_to_be_generated_is_not_left_out_silently() -> None:
    identity = Identity("p", LINEAGE, "train", 1)
    rendered = kubernetes.render(with_job({"metadata": {"generateName": "x-"}}), identity)
    assert rendered.warnings == ("generateName is not used, names are known beforehand: the Job is called p-train-1",)
    assert kubernetes.render(with_job({"metadata": {"generateName": "x-"}}, name="mine"), identity).warnings == ()


def test_a_customization_may_name_the_job() -> None:
    run = with_job({}, {"op": "replace", "path": "/metadata/name", "value": "My Job"})
    assert job_of(run)["metadata"]["name"] == "my-job"


# -------------------------------------------------------------------- labels


def test_identity_is_on_job_and_pods() -> None:
    job = job_of(run_of())
    assert job["metadata"]["labels"].pop("flowplan.dev/content")
    for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
        assert metadata["labels"] == {
            "app.kubernetes.io/managed-by": "flowplan",
            "flowplan.dev/project": "nightly",
            "flowplan.dev/lineage": LINEAGE,
            "flowplan.dev/run-id": IDENTITY.run_id,
        }
        assert metadata["annotations"] == {"flowplan.dev/address": "train", "flowplan.dev/attempt": "1"}


def test_identity_survives_customizations() -> None:
    run = with_job({}, {"op": "replace", "path": "/metadata/labels", "value": {"only": "this"}})
    labels = job_of(run)["metadata"]["labels"]
    assert labels["only"] == "this" and labels["flowplan.dev/run-id"] == IDENTITY.run_id


@pytest.mark.parametrize(
    ("key", "value", "legal_key", "legal_value"),
    [
        ("team", "data", "team", "data"),
        ("a/b/c", "x", "a/b-c", "x"),
        ("started", "2023-01-01T00:00:00+00:00", "started", "2023-01-01T00-00-00-00-00"),
        ("_x_", "", "x", ""),
        ("n", "v" * 100, "n", "v" * 63),
        ("n", True, "n", "true"),
    ],
)
def test_labels_are_made_legal(key: str, value: Any, legal_key: str, legal_value: str) -> None:
    job = job_of(run_of(labels={key: value}))
    for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
        assert metadata["labels"][legal_key] == legal_value


def test_labels_without_anything_legal_are_faults() -> None:
    told = faults_of(run_of(labels={"--": "x", "ok": "\N{ROCKET}"}))
    assert "runs.train.labels.--" in told and "runs.train.labels.ok" in told


def test_null_removes_a_label_of_the_manifest() -> None:
    assert "a" not in job_of(with_job({"metadata": {"labels": {"a": "b"}}}, labels={"a": None}))["metadata"]["labels"]


def test_annotations_are_free_text_on_job_and_pods() -> None:
    text = '{"a": "b c"} ' + "x" * 500
    job = job_of(run_of(annotations={"example.com/note": text}))
    assert job["metadata"]["annotations"]["example.com/note"] == text
    assert job["spec"]["template"]["metadata"]["annotations"]["example.com/note"] == text


def test_identifier_labels_of_the_manifest_are_filled() -> None:
    job = job_of(from_file())
    assert job["metadata"]["labels"]["identifier"] == IDENTITY.run_id
    assert job["metadata"]["labels"]["prefect.io/flow_run_id"] == IDENTITY.run_id
    assert job["spec"]["template"]["metadata"]["labels"]["flow_run_id"] == IDENTITY.run_id
    assert "identifier" not in job["spec"]["template"]["metadata"]["labels"]


# -------------------------------------------------------------------- fields


def test_a_whole_manifest_with_everything() -> None:
    run = from_file(
        image="train:2",
        command=["train.py", "--fast"],
        env={"LEVEL": "info", "NEW": "yes", "FIRST": None, "KEY": {"secret_key_ref": {"name": "s", "key": "k"}}},
        retries=1,
        timeout="6h",
        grace_period="2m",
        resources={"cpu": 4, "memory": "16Gi", "gpu": 1},
    )
    golden("whole.json", kubernetes.render(run, IDENTITY).objects)


def test_what_flowplan_does_not_know_survives_in_its_order() -> None:
    wanted = parse((FIXTURES / "job.yaml").read_text(), "job.yaml").value
    job = job_of(from_file())
    assert [key for key in job if key in wanted] == list(wanted)
    assert [key for key in job["spec"] if key in wanted["spec"]] == list(wanted["spec"])
    assert job["spec"]["podFailurePolicy"] == wanted["spec"]["podFailurePolicy"]
    pod = job["spec"]["template"]["spec"]
    for key in ("initContainers", "volumes", "tolerations"):
        assert json.dumps(pod[key]) == json.dumps(wanted["spec"]["template"]["spec"][key])
    assert pod["containers"][1] == wanted["spec"]["template"]["spec"]["containers"][1]


@pytest.mark.parametrize(
    "job",
    [
        {},
        {"spec": {}},
        {"metadata": {}},
        {"spec": {"template": {}}},
        {"spec": {"template": {"spec": {}}}},
        {"spec": {"template": {"spec": {"containers": [{}]}}}},
        {"apiVersion": "batch/v1", "kind": "Job"},
    ],
)
def test_missing_sections_are_filled_in(job: Any) -> None:
    assert job_of(with_job(job)) == job_of(run_of())


def test_entrypoint_is_command_and_command_is_args() -> None:
    container = container_of(run_of(entrypoint=["/bin/sh", "-c"], command=["echo $HOME"]))
    assert (container["command"], container["args"]) == (["/bin/sh", "-c"], ["echo $HOME"])
    assert "command" not in container_of(run_of(command=["x"]))


@pytest.mark.parametrize(
    ("image", "wanted", "expected"),
    [
        ("a", None, "Always"),
        ("a:latest", None, "Always"),
        ("a:1", None, "IfNotPresent"),
        ("a@sha256:" + "0" * 64, None, "IfNotPresent"),
        ("a:latest", "Never", "Never"),
    ],
)
def test_pull_policy_is_explicit(image: str, wanted: str | None, expected: str) -> None:
    assert container_of(run_of(image=image, image_pull_policy=wanted))["imagePullPolicy"] == expected


def test_pull_policy_follows_a_customized_image_and_the_manifests_wins() -> None:
    path = "/spec/template/spec/containers/0/image"
    assert container_of(with_job({}, {"op": "replace", "path": path, "value": "b"}))["imagePullPolicy"] == "Always"
    container = {"name": "c", "image": "a", "imagePullPolicy": "Never"}
    run = with_job({"spec": {"template": {"spec": {"containers": [container]}}}}, image=None)
    assert container_of(run)["imagePullPolicy"] == "Never"


@pytest.mark.parametrize(
    ("fields", "job", "expected"),
    [
        ({}, {}, 0),
        ({"retries": 2}, {}, 2),
        ({}, {"spec": {"backoffLimit": 4}}, 4),
        ({"retries": 0}, {"spec": {"backoffLimit": 4}}, 0),
    ],
)
def test_backoff_limit_is_always_explicit(fields: Any, job: Any, expected: int) -> None:
    assert job_of(with_job(job, **fields))["spec"]["backoffLimit"] == expected


@pytest.mark.parametrize(("timeout", "seconds"), [("6h", 21600), (90, 90), ("1m30s", 90), (0.5, 1)])
def test_timeout(timeout: Any, seconds: int) -> None:
    assert job_of(run_of(timeout=timeout))["spec"]["activeDeadlineSeconds"] == seconds


def test_a_delay_that_kubernetes_does_not_keep_is_told() -> None:
    [warning] = kubernetes.render(run_of(retries=2, retry_delay="30s"), IDENTITY).warnings
    assert "retry_delay is not kept" in warning and "leave retry_delay out" in warning


@pytest.mark.parametrize(("ttl", "seconds"), [(0, 0), ("5m", 300)])
def test_finished_job_ttl_zero_counts(ttl: Any, seconds: int) -> None:
    assert job_of(run_of(kubernetes={"finished_job_ttl": ttl}))["spec"]["ttlSecondsAfterFinished"] == seconds


def test_grace_period_is_sent_only_when_it_is_not_the_default() -> None:
    assert "terminationGracePeriodSeconds" not in pod_of(run_of(grace_period="30s"))
    assert pod_of(run_of(grace_period="2m"))["terminationGracePeriodSeconds"] == 120


def test_half_a_gpu_is_none() -> None:
    assert '"0.5" is not a number of GPUs: write a whole number' in faults_of(run_of(resources={"gpu": 0.5}))


def test_resources_become_requests_and_limits_as_written() -> None:
    resources = container_of(run_of(resources={"cpu": "500m", "memory": "16Gi", "gpu": 2}))["resources"]
    assert resources["requests"] == {"cpu": "500m", "memory": "16Gi"}
    assert resources["limits"] == {"cpu": "500m", "memory": "16Gi", "nvidia.com/gpu": "2"}


def test_docker_sizes_become_quantities() -> None:
    assert container_of(run_of(resources={"memory": "2g"}))["resources"]["limits"] == {"memory": "2048Mi"}
    assert container_of(run_of(resources={"memory": "128m"}))["resources"]["limits"] == {"memory": "128Mi"}


def test_env_has_one_entry_a_name_and_the_runs_wins_in_place() -> None:
    env = [
        {"name": "A", "value": "1"},
        {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "x"}}},
        {"name": "A", "value": "2"},
    ]
    run = with_job({"spec": {"template": {"spec": {"containers": [{"env": env}]}}}}, env={"B": "b", "C": "", "A": "3"})
    assert container_of(run)["env"] == [
        {"name": "A", "value": "3"},
        {"name": "B", "value": "b"},
        {"name": "C", "value": ""},
    ]


def test_references_pass_through() -> None:
    env = {"A": {"secret_key_ref": {"name": "s", "key": "k"}}, "B": {"config_map_key_ref": {"name": "c", "key": "k"}}}
    assert container_of(run_of(env=env))["env"] == [
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
    ]


def test_service_account_and_pull_secrets() -> None:
    job = {"spec": {"template": {"spec": {"imagePullSecrets": [{"name": "mine"}]}}}}
    block = {"job": job, "service_account_name": "trainer", "image_pull_secrets": ["mine", "other"]}
    pod = pod_of(run_of(kubernetes=block))
    assert pod["serviceAccountName"] == "trainer"
    assert pod["imagePullSecrets"] == [{"name": "mine"}, {"name": "other"}]


def test_a_sidecar_put_first_is_warned_of() -> None:
    containers = [{"name": "istio", "image": "envoy:1"}, {"name": "main", "image": "etl:1"}]
    rendered = kubernetes.render(with_job({"spec": {"template": {"spec": {"containers": containers}}}}), IDENTITY)
    assert "replaces envoy:1" in rendered.warnings[0]


# ------------------------------------------------------------ customizations


@pytest.mark.parametrize(
    ("operation", "at", "expected"),
    [
        (
            {"op": "add", "path": "/spec/template/spec/nodeSelector", "value": {"gpu": "a100"}},
            "spec.template.spec.nodeSelector",
            {"gpu": "a100"},
        ),
        ({"op": "replace", "path": "/spec/backoffLimit", "value": 7}, "spec.backoffLimit", 7),
        ({"op": "add", "path": "/metadata/labels/example.com~1a", "value": "b"}, "metadata.labels.example%com/a", "b"),
        (
            {"op": "copy", "from": "/metadata/namespace", "path": "/metadata/annotations/ns"},
            "metadata.annotations.ns",
            "default",
        ),
        ({"op": "test", "path": "/kind", "value": "Job"}, "kind", "Job"),
    ],
)
def test_customizations_win(operation: Any, at: str, expected: Any) -> None:
    value: Any = job_of(with_job({}, operation, retries=1))
    for part in at.split("."):
        value = value[part.replace("%", ".")]
    assert value == expected


def test_env_with_a_secret_and_wrapped_args_as_people_wrote_them() -> None:
    base = "/spec/template/spec/containers/0"
    entry = {"name": "P", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    run = with_job(
        {},
        {"op": "add", "path": f"{base}/env/-", "value": entry},
        {"op": "add", "path": f"{base}/args/0", "value": "opentelemetry-instrument"},
        {"op": "add", "path": f"{base}/command", "value": ["/bin/sh"]},
        command=["python"],
    )
    container = container_of(run)
    assert container["env"] == [entry]
    assert container["args"] == ["opentelemetry-instrument", "python"]
    assert container["command"] == ["/bin/sh"]


def test_customizations_from_a_file() -> None:
    text = "- {op: add, path: /spec/suspend, value: true}\n- {op: remove, path: /spec/nope}\n"
    run = run_of(files={"patch.yaml": parse(text, "/x/patch.yaml")}, kubernetes={"customizations": "patch.yaml"})
    assert faults_of(run).startswith("patch.yaml:2:3: runs.train.kubernetes.customizations[1]: remove /spec/nope: ")


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (
            {"op": "add", "path": "/spec/template/spec/containers/0/resources/limits/memory", "value": "1Gi"},
            "/spec/template/spec/containers/0 is the nearest",
        ),
        ({"op": "replace", "path": "/spec/nope", "value": 1}, "/spec/nope is not in the manifest"),
        ({"op": "remove", "path": "/spec/nope"}, "/spec/nope is not in the manifest"),
        ({"op": "test", "path": "/kind", "value": "CronJob"}, 'the value is not "CronJob"'),
        ({"op": "test", "path": "/nope", "value": 1}, "not in the manifest"),
        ({"op": "repalce", "path": "/kind"}, 'did you mean "replace"?'),
        ({"path": "/kind"}, "op is missing"),
        ({"op": "add", "path": "kind", "value": 1}, 'path must start with "/"'),
        ({"op": "add", "value": 1}, "path is missing"),
        ({"op": "add", "path": "/spec/suspend"}, "value is missing"),
        ({"op": "move", "path": "/spec/suspend"}, "from is missing"),
        ({"op": "copy", "from": "/nope", "path": "/spec/suspend"}, "/nope is not in the manifest"),
        ({"op": "add", "path": "/spec/template/spec/containers/9", "value": {}}, "customizations[0]"),
        ({"op": "add", "path": "/spec/backoffLimit/x", "value": 1}, "customizations[0]"),
        ({"op": "replace", "path": "", "value": []}, "cannot become something else"),
        ({"op": "replace", "path": "/spec", "value": 1}, "/spec: must be a mapping, not the number 1"),
        ({"op": "replace", "path": "/kind", "value": "Pod"}, "must be Job"),
        ("add", "must be a mapping"),
    ],
)
def test_patch_errors_are_faults_with_index_operation_path_and_place(operation: Any, message: str) -> None:
    told = faults_of(with_job({}, operation))
    assert message in told
    assert "spec.yaml:40" in told


def test_every_failing_operation_is_told() -> None:
    bad = [
        {"op": "remove", "path": "/a"},
        {"op": "add", "path": "/spec/suspend", "value": True},
        {"op": "no", "path": ""},
    ]
    told = faults_of(with_job({}, *bad))
    assert "customizations[0]: remove /a" in told and "customizations[2]" in told and "customizations[1]" not in told


# -------------------------------------------------------------------- faults


def test_all_faults_of_a_manifest_in_one_message() -> None:
    containers = [{"name": "Bad Name", "resources": {"limits": {"memory": "4gi"}}, "imagepullpolicy": "x"}]
    pod = {"parallelism": 1, "restartPolicy": "Always", "containers": containers}
    job = {"apiVersion": "v1", "kind": "Job", "spec": {"template": {"spec": pod}, "backoffLimit": "3"}}
    run = with_job(job, image="a:b:c", labels={"--": "x"})
    with pytest.raises(InvalidInput) as error:
        kubernetes.render(run, IDENTITY)
    told = str(error.value)
    for part in (
        "/apiVersion: must be batch/v1",
        "/spec/template/spec/restartPolicy: must be Never or OnFailure",
        '/spec/template/spec/parallelism: this field does not belong here; did you mean "/spec/parallelism"?',
        '/spec/template/spec/containers/0/resources/limits/memory: "4gi" is not a quantity; did you mean "4Gi"?',
        '/spec/template/spec/containers/0/imagepullpolicy: unknown field; did you mean "imagePullPolicy"?',
        '"Bad Name" is not a container name',
        '/spec/backoffLimit: must be an integer, not "3"; write it without quotes',
        "runs.train.labels.--",
        '"a:b:c" is not an image reference',
    ):
        assert part in told
    assert kubernetes.check(run) == list(error.value.diagnostics)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ([], "a Job manifest must be a mapping, not a list"),
        ({"metadata": 1}, "/metadata: must be a mapping, not the number 1"),
        ({"metadata": {"labels": []}}, "/metadata/labels: must be a mapping, not a list"),
        ({"spec": []}, "/spec: must be a mapping, not a list"),
        ({"spec": {"template": "x"}}, '/spec/template: must be a mapping, not "x"'),
        ({"spec": {"template": {"spec": {"containers": []}}}}, "must hold at least one container"),
        ({"spec": {"template": {"spec": {"containers": {}}}}}, "must be a list of containers, not a mapping"),
        ({"spec": {"template": {"spec": {"containers": ["x"]}}}}, "a container must be a mapping"),
        ({"spec": {"template": {"spec": {"restartPolicy": "always"}}}}, "must be Never or OnFailure"),
        ({"spec": {"template": {"spec": {"volumes": [{}]}}}}, '/spec/template/spec/volumes/0: "name" is missing'),
        ({"spec": {"template": {"spec": {"nodeSelector": {"a": 1}}}}}, 'must be a string, not 1; write "1" in quotes'),
        ({"spec": {"suspend": "yes"}}, 'must be true or false, not "yes"'),
        ({"spec": {"template": {"spec": {"containers": [{"resources": "x"}]}}}}, "resources: must be a mapping"),
        ({"spec": {"template": {"spec": {"containers": [{"env": {"A": "b"}}]}}}}, "env: must be a list, not a mapping"),
        (
            {"spec": {"template": {"spec": {"containers": [{"env": [{"name": "A", "value": 1}]}]}}}},
            "must be a string, not 1",
        ),
        (
            {"spec": {"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}}},
            'two containers are named "a"',
        ),
        ({"spec": {"template": {"spec": {"containers": [{"image": "x:y:z"}]}}}}, "imagepull"),
        ({"spec": {"image": "x"}}, 'did you mean "/spec/template/spec/containers/0/image"?'),
        ({"metadata": {"namespace": "Not_legal"}}, "is not the name of a namespace"),
    ],
)
def test_faults(job: Any, message: str) -> None:
    run = with_job(job, resources={"cpu": 1}, env={"B": "c"})
    if message == "imagepull":
        run, message = with_job(job, image=None), "is not an image reference"
    assert message in faults_of(run)


def test_no_image_is_a_fault() -> None:
    assert "a Job needs an image" in faults_of(run_of(image=None))


def test_faults_of_a_manifest_file_have_their_place() -> None:
    document = parse("spec:\n  template:\n    spec:\n      restartPolicy: Always\n", "/x/job.yaml")
    run = run_of(files={"job.yaml": document}, kubernetes={"job": "job.yaml"})
    assert faults_of(run).startswith("job.yaml:4:7: runs.train: /spec/template/spec/restartPolicy: must be Never")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kind: Deployment", '/kind: must be Job, not "Deployment"; write a Job, a CronJob or a Pod'),
        ("kind: job", '/kind: must be Job, not "job"; did you mean "Job"?'),
        (
            "{kind: List, items: [{kind: Job, metadata: {name: a}}, {kind: Secret, metadata: {name: b}}]}",
            '/kind: must be Job, not "List"; it holds Job a, Secret b; give the Job a file of its own',
        ),
        ("kind: CronJob", "/kind: the CronJob has no /spec/jobTemplate/spec; write a Job, or fill it in"),
        ("{kind: Pod, apiVersion: apps/v1, spec: {}}", '/apiVersion: must be v1, not "apps/v1"'),
    ],
)
def test_a_manifest_that_holds_no_job_is_one_fault(text: str, fault: str) -> None:
    run = run_of(files={"x.yaml": parse(text, "x.yaml")}, kubernetes={"job": "x.yaml"}, image=None)
    assert faults_of(run).startswith("x.yaml:1:") and faults_of(run).endswith(f"runs.train: {fault}")


def test_a_pod_is_the_template_of_a_job() -> None:
    text = """
apiVersion: v1
kind: Pod
metadata: {name: sync, namespace: ml, labels: {team: a}, annotations: {note: x}}
spec:
  restartPolicy: OnFailure
  containers: [{name: c, image: "sync:1"}]
"""
    run = run_of(files={"pod.yaml": parse(text, "pod.yaml")}, kubernetes={"job": "pod.yaml"}, image=None)
    rendered = kubernetes.render(run, IDENTITY)
    job = rendered.objects["Job"]
    assert rendered.warnings == ("pod.yaml is a Pod: it is taken as the spec.template of a Job",)
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert (job["metadata"]["name"], job["metadata"]["namespace"]) == ("sync", "ml")
    assert job["spec"]["template"]["metadata"]["labels"]["team"] == "a" == job["metadata"]["labels"]["team"]
    assert job["spec"]["template"]["spec"]["containers"] == [
        {"name": "c", "image": "sync:1", "imagePullPolicy": "IfNotPresent"}
    ]
    assert rendered.origins["/Job/spec/template/spec/restartPolicy"].text == "pod.yaml:6"


@pytest.mark.parametrize(
    ("spec", "operations", "expected"),
    [
        ({"backoffLimitPerIndex": 1}, [], None),
        ({"successPolicy": {"rules": [{"succeededCount": 1}]}}, [], None),
        ({"backoffLimitPerIndex": 1, "backoffLimit": 3}, [], 3),
        ({}, [{"op": "add", "path": "/spec/backoffLimitPerIndex", "value": 1}], None),
        ({}, [{"op": "remove", "path": "/spec/backoffLimit"}], None),
        ({}, [{"op": "test", "path": "/spec/backoffLimit", "value": 0}], 0),
        ({"podFailurePolicy": {"rules": []}}, [], 0),
    ],
)
def test_no_default_where_the_servers_depends_on_other_fields(
    spec: dict[str, Any], operations: list[Any], expected: int | None
) -> None:
    wanted = {"spec": {"completionMode": "Indexed", "completions": 2, **spec}}
    assert job_of(with_job(wanted, *operations))["spec"].get("backoffLimit") == expected
    if not operations:
        assert job_of(with_job(wanted, retries=2))["spec"]["backoffLimit"] == 2


def test_a_grace_period_beats_that_of_the_manifest() -> None:
    job = {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 120}}}}
    assert pod_of(with_job(job))["terminationGracePeriodSeconds"] == 120
    assert pod_of(with_job(job, grace_period=30))["terminationGracePeriodSeconds"] == 30


def test_sections_that_are_null_are_as_if_left_out() -> None:
    job = {"metadata": {"labels": None}, "spec": {"template": {"metadata": None, "spec": {"restartPolicy": None}}}}
    assert pod_of(with_job(job))["restartPolicy"] == "Never"


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        ({"team": "a b"}, '/metadata/labels/team: "a b" is not a legal value of a label; "a-b" would be'),
        ({"a b": "x"}, '/metadata/labels/a b: "a b" is not a legal key'),
        ({"Example.com/x": "x"}, '/metadata/labels/Example.com~1x: "Example.com/x" is not a legal key'),
        ({"long": "x" * 64}, "is not a legal value of a label"),
    ],
)
def test_illegal_labels_of_a_manifest_are_faults(labels: dict[str, str], fault: str) -> None:
    assert fault in faults_of(with_job({"metadata": {"labels": labels}}))
    patch = {"op": "add", "path": "/spec/template/metadata/labels", "value": labels}
    assert fault.replace("/metadata", "/spec/template/metadata", 1) in faults_of(
        run_of(kubernetes={"customizations": [patch]})
    )


LEGAL = st.from_regex(r"\A[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?\Z")


@given(LEGAL, LEGAL, st.text(max_size=20))
def test_legal_labels_and_annotations_arrive_as_written(key: str, value: str, note: str) -> None:
    rendered = kubernetes.render(run_of(labels={key: value}, annotations={key: note}), IDENTITY)
    for meta in (rendered.objects["Job"]["metadata"], rendered.objects["Job"]["spec"]["template"]["metadata"]):
        assert meta["labels"][key] == value and meta["annotations"][key] == note
    assert rendered.warnings == ()


@given(st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,60}[a-z0-9])?\Z"))
def test_a_legal_name_arrives_as_written(name: str) -> None:
    rendered = kubernetes.render(run_of(name=name), IDENTITY)
    assert (rendered.name, rendered.warnings) == (name, ())
    second = kubernetes.render(run_of(name=name), IDENTITY._replace(attempt=2))
    assert len(second.name) <= 63 and second.name.endswith("-2")


def test_what_is_rewritten_is_told() -> None:
    run = run_of(name="My Run", labels={"a b": "x y", "ok": "_x"}, annotations={"c d": "e f"})
    rendered = kubernetes.render(run, IDENTITY)
    told = "\n".join(rendered.warnings)
    for part in ('"My Run"', 'key "a b" of labels', '"x y"', '"_x"', 'key "c d" of annotations'):
        assert part in told


def test_newer_fields_are_let_through_with_a_note() -> None:
    containers = [{"name": "m", "quantumEntanglement": {"a": 1}}]
    run = with_job({"spec": {"template": {"spec": {"containers": containers, "warpDrive": True}}}})
    assert kubernetes.check(run) == []
    rendered = kubernetes.render(run, IDENTITY)
    assert any("warpDrive: not known to Kubernetes 1." in warning for warning in rendered.warnings)
    assert rendered.objects["Job"]["spec"]["template"]["spec"]["warpDrive"] is True


def test_native_sidecars_and_on_failure_are_fine() -> None:
    assert kubernetes.check(from_file()) == []
    run = with_job({"spec": {"template": {"spec": {"restartPolicy": "OnFailure"}}}})
    assert kubernetes.check(run) == []
    assert pod_of(run)["restartPolicy"] == "OnFailure"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda v: (
            st.lists(v, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "metadata",
                        "spec",
                        "template",
                        "containers",
                        "labels",
                        "name",
                        "env",
                        "resources",
                        "limits",
                        "image",
                        "x",
                    ]
                ),
                v,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_no_manifest_breaks_it(job: Any) -> None:
    run = with_job(job, resources={"cpu": 1, "gpu": 1}, env={"A": "b"}, labels={"l": "v"}, annotations={"a": "b"})
    if not kubernetes.check(run):
        kubernetes.render(run, IDENTITY)


# ------------------------------------------------------------------- secrets


def test_secret_values_go_into_a_secret() -> None:
    run = run_of(
        env={"PGPASSWORD": TOKEN, "PLAIN": "x", "URL": f"postgres://u:{TOKEN}@db"},
        command=["run", f"--token={TOKEN_2}", "--flag"],
        entrypoint=["/entry", TOKEN_2],
    )
    golden("secrets.json", kubernetes.render(run, IDENTITY).objects)


def test_no_token_is_left_in_the_job() -> None:
    container = {"name": "main", "env": [{"name": "A", "value": TOKEN}]}
    other = {"name": "side", "image": "s:1", "env": [{"name": "A", "value": TOKEN_2}], "args": [TOKEN]}
    run = with_job({"spec": {"template": {"spec": {"containers": [container, other]}}}})
    objects = kubernetes.render(run, IDENTITY).objects
    assert not tokens_in(objects["Job"])
    assert objects["Secret"]["stringData"] == {"A": TOKEN, "A_2": TOKEN_2, "FLOWPLAN_SENSITIVE_1": TOKEN}
    side = objects["Job"]["spec"]["template"]["spec"]["containers"][1]
    assert side["args"] == ["$(FLOWPLAN_SENSITIVE_1)"]
    names = [entry["valueFrom"]["secretKeyRef"]["key"] for entry in side["env"]]
    assert names == ["A_2", "FLOWPLAN_SENSITIVE_1"]


def test_without_secrets_there_is_no_secret() -> None:
    assert list(kubernetes.render(run_of(env={"A": "1"}), IDENTITY).objects) == ["Job"]


@pytest.mark.parametrize(
    "fields",
    [{"image": f"a:{TOKEN}"}, {"annotations": {"a": TOKEN}}, {"working_dir": TOKEN}],
)
def test_secrets_elsewhere_are_faults(fields: Any) -> None:
    assert "would stand in clear in the Job" in faults_of(run_of(**fields))


def test_origin_of_a_secret_value() -> None:
    origins = kubernetes.render(run_of(env={"P": TOKEN}, command=[TOKEN_2]), IDENTITY).origins
    assert origins["/Secret/stringData/P"].text == "spec.yaml:4"
    assert origins["/Secret/stringData/FLOWPLAN_SENSITIVE_1"].text == "spec.yaml:5"


# ------------------------------------------------------------------- origins


def test_every_leaf_knows_its_layer() -> None:
    document = parse((FIXTURES / "job.yaml").read_text(), "/x/job.yaml")
    patch = [{"op": "add", "path": "/spec/template/spec/tolerations/-", "value": {"key": "b"}}]
    block = {"job": "job.yaml", "customizations": patch}
    run = run_of(files={"job.yaml": document}, env={"NEW": "1"}, kubernetes=block)
    origins = {path: origin.text for path, origin in kubernetes.render(run, IDENTITY).origins.items()}
    pod = "/Job/spec/template/spec"
    assert origins["/Job/spec/parallelism"] == "job.yaml:8"
    assert origins[f"{pod}/containers/0/env/1"] == "job.yaml:28"
    assert origins[f"{pod}/containers/0/env/3"] == "spec.yaml:4"
    assert origins[f"{pod}/containers/0/image"] == "spec.yaml:3"
    assert origins[f"{pod}/containers/0/imagePullPolicy"] == "default"
    assert origins[f"{pod}/tolerations/1"] == "customizations[0] (spec.yaml:40)"
    assert origins["/Job/metadata/labels/flowplan.dev~1run-id"] == "default"


def test_origins_of_items_behind_an_insertion_are_not_claimed() -> None:
    document = parse((FIXTURES / "job.yaml").read_text(), "/x/job.yaml")
    patch = [{"op": "add", "path": "/spec/template/spec/containers/1", "value": {"name": "new", "image": "n:1"}}]
    run = run_of(files={"job.yaml": document}, kubernetes={"job": "job.yaml", "customizations": patch})
    origins = kubernetes.render(run, IDENTITY).origins
    assert origins["/Job/spec/template/spec/containers/1"].text.startswith("customizations[0]")
    assert "/Job/spec/template/spec/containers/1/image" not in origins


# ------------------------------------------------------------------- changes


@pytest.mark.parametrize(
    ("path", "effect"),
    [
        ("/Job/spec/parallelism", "in_place"),
        ("/Job/spec/suspend", "in_place"),
        ("/Job/spec/activeDeadlineSeconds", "in_place"),
        ("/Job/spec/backoffLimit", "in_place"),
        ("/Job/spec/ttlSecondsAfterFinished", "in_place"),
        ("/Job/metadata/labels/team", "in_place"),
        ("/Job/metadata/annotations/note", "in_place"),
        ("/Job/spec/template/spec/containers/0/image", "replace"),
        ("/Job/spec/template/metadata/labels/team", "replace"),
        ("/Job/spec/completions", "replace"),
        ("/Job/spec/selector/matchLabels/a", "replace"),
        ("/Job/spec/completionMode", "replace"),
        ("/Job/spec/podFailurePolicy", "replace"),
        ("/Job/spec/successPolicy", "replace"),
        ("/Job/spec/backoffLimitPerIndex", "replace"),
        ("/Job/spec/managedBy", "replace"),
        ("/Job/spec/warpDrive", "replace"),
        ("/Job/spec", "replace"),
        ("/Job/metadata/name", "replace"),
        ("/Job/metadata/namespace", "replace"),
        ("/Job/apiVersion", "replace"),
        ("/Job", "replace"),
        ("/Secret", "replace"),
        ("/Secret/stringData/P", "replace"),
    ],
)
def test_effects(path: str, effect: str) -> None:
    found = kubernetes.effect(path, 1, 2)
    assert found.effect == effect
    assert found.rule


def test_the_rule_names_what_cannot_change() -> None:
    assert kubernetes.effect("/Job/spec/template/x", 1, 2).rule == "the pod template of a Job is immutable"


LIMITS = "/Job/spec/template/spec/containers/0/resources/limits"


@pytest.mark.parametrize(
    ("path", "one", "other", "same"),
    [
        (f"{LIMITS}/cpu", "1000m", "1", True),
        (f"{LIMITS}/cpu", 1, "1", True),
        (f"{LIMITS}/memory", "1Gi", "1024Mi", True),
        (f"{LIMITS}/memory", "1Gi", "1G", False),
        (f"{LIMITS}/memory", "1Gi", ABSENT, False),
        (f"{LIMITS}/memory", "", "1", False),
        ("/Job/spec/template/spec/volumes/0/emptyDir/sizeLimit", "1Gi", "1024Mi", True),
        ("/Job/metadata/labels/cpu", "1000m", "1", False),
        ("/Job/spec/backoffLimit", 1, True, False),
        ("/Job/spec/backoffLimit", 1, "1", False),
        ("/Job/spec/backoffLimit", 3, 3, True),
    ],
)
def test_equality(path: str, one: Any, other: Any, same: bool) -> None:
    assert kubernetes.equal(path, one, other) is same


def test_only_the_job_can_drift() -> None:
    objects = kubernetes.render(run_of(env={"P": TOKEN}), IDENTITY).objects
    comparable = kubernetes.comparable(objects)
    assert list(comparable) == ["Job"]
    assert sorted(comparable["Job"]) == ["metadata", "spec"]
    assert kubernetes.comparable({}) == {}
    nulls = {"Job": {"metadata": {"creationTimestamp": None, "labels": {}}, "status": {}, "spec": {"a": [{"b": None}]}}}
    assert kubernetes.comparable(nulls) == {"Job": {"metadata": {"labels": {}}, "spec": {"a": [{}]}}}


# --------------------------------------------------------------------- speed


def test_checking_a_manifest_is_fast() -> None:
    manifest = parse((FIXTURES / "job.yaml").read_text(), "job.yaml").value
    job_check.problems(manifest)
    started = time.perf_counter()
    for count in range(20):
        job_check.problems({**manifest, "metadata": {"name": f"n{count}"}})
    assert (time.perf_counter() - started) / 20 < 0.005


def test_heavy_libraries_stay_away() -> None:
    code = (
        "import sys; from flowplan.planner.manifests import kubernetes; import flowplan.planner.desired.template;"
        "print([m for m in ('kubernetes_validate', 'kubernetes', 'jsonpatch', 'jsonschema', 'slugify') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------- what a change in place does


@pytest.mark.parametrize(
    ("field", "before", "after", "progress", "hurts"),
    [
        ("suspend", False, True, {}, True),
        ("suspend", True, False, {}, False),
        ("suspend", True, None, {}, False),
        ("parallelism", 3, 2, {"active": 3.0}, True),
        ("parallelism", 3, 2, {"active": 2.0}, False),
        ("parallelism", 3, None, {"active": 2.0}, True),
        ("parallelism", 3, 2, {}, True),
        ("parallelism", 3, 4, {}, False),
        ("parallelism", None, 0, {}, True),
        ("activeDeadlineSeconds", 600, 60, {"seconds": 61.0}, True),
        ("activeDeadlineSeconds", 600, 60, {"seconds": 30.0}, False),
        ("activeDeadlineSeconds", None, 60, {"seconds": 61.0}, True),
        ("activeDeadlineSeconds", 600, 60, {}, True),
        ("activeDeadlineSeconds", 60, 600, {}, False),
        ("activeDeadlineSeconds", 60, None, {"seconds": 61.0}, False),
        ("backoffLimit", 6, 1, {"failed": 2.0}, True),
        ("backoffLimit", 6, 2, {"failed": 2.0}, False),
        ("ttlSecondsAfterFinished", 10, 0, {}, False),
    ],
)
def test_changes_in_place_that_end_or_pause_what_runs(
    field: str, before: Any, after: Any, progress: dict[str, float], hurts: bool
) -> None:
    assert bool(kubernetes.interrupts(f"/Job/spec/{field}", before, after, progress)) is hurts


@pytest.mark.parametrize(
    ("path", "manager", "controlled"),
    [
        ("/Job/spec/suspend", "kueue", True),
        ("/Job/spec/parallelism", "my-scaling", True),
        ("/Job/spec/parallelism", "kubectl-edit", False),
        ("/Job/spec/suspend", "", False),
        ("/Job/metadata/labels/a", "kueue-controller-manager", True),
        ("/Job/metadata/labels/a", "mallory", False),
        ("/Job/spec/suspend", "flowplan", False),
    ],
)
def test_fields_that_belong_to_a_controller(path: str, manager: str, controlled: bool) -> None:
    assert kubernetes.controlled_by(path, manager) is controlled


@pytest.mark.parametrize(
    ("one", "other"), [("1e-10", "1n"), ("0.0000000001", "1n"), ("100u", "0.0001"), ("1024Mi", "1Gi")]
)
def test_quantities_are_equal_as_the_server_rounds_them(one: str, other: str) -> None:
    assert kubernetes.equal("/Job/spec/template/spec/containers/0/resources/limits/cpu", one, other)


def test_what_the_server_writes_into_metadata_is_not_compared() -> None:
    meta = {"name": "a", "creationTimestamp": "2020-01-01T00:00:00Z", "uid": "x", "finalizers": ["a/b"]}
    assert kubernetes.comparable({"Job": {"metadata": meta}}) == {"Job": {"metadata": {"name": "a"}}}


def test_a_checked_run_is_rendered_as_any_other() -> None:
    run = from_file(command=["a"], env={"A": "b"})
    alone = [kubernetes.render(run, IDENTITY) for _ in range(2)]
    assert not kubernetes.check(run)
    assert [kubernetes.render(run, IDENTITY) for _ in range(2)] == alone
