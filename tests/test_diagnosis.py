"""Diagnosis as a pure function: each cause that Kubernetes knows, by the JSON that it shows for it."""

from __future__ import annotations

from typing import Any

import pytest

from flowplan.providers.kubernetes.diagnosis import failure_cause, relevant, waiting_cause
from flowplan.providers.kubernetes.reading import managers, observed
from flowplan.schemas.runs import Status

META: dict[str, Any] = {"name": "j", "namespace": "ns", "uid": "job", "creationTimestamp": "2026-11-21T00:00:00Z"}
SPEC: dict[str, Any] = {"template": {"spec": {"containers": [{"name": "main"}, {"name": "aaa"}]}}}


def job(condition: str = "", reason: str = "", message: str = "", **status: Any) -> dict[str, Any]:
    conditions = [{"type": condition, "status": "True", "reason": reason, "message": message}] if condition else []
    conditions = [{**c, "lastTransitionTime": "2026-11-21T00:09:00Z"} for c in conditions]
    return {"metadata": META, "spec": SPEC, "status": {"conditions": conditions, **status}}


def container(name: str = "main", restarts: int = 0, last: Any = None, **state: Any) -> dict[str, Any]:
    return {"name": name, "restartCount": restarts, "state": state, "lastState": {"terminated": last} if last else {}}


def pod(
    *containers: Any, uid: str = "p1", phase: str = "Pending", created: str = "01", **status: Any
) -> dict[str, Any]:
    meta = {"name": f"j-{uid}", "uid": uid, "creationTimestamp": f"2026-11-21T00:00:{created}Z"}
    return {"metadata": meta, "status": {"phase": phase, "containerStatuses": list(containers), **status}}


def event(reason: str, message: str, uid: str = "p1", at: str = "01") -> dict[str, Any]:
    return {
        "reason": reason,
        "message": message,
        "involvedObject": {"uid": uid},
        "lastTimestamp": f"2026-11-21T00:00:{at}Z",
        "metadata": {},
    }


def waiting(reason: str, message: str = "m") -> dict[str, Any]:
    return {"reason": reason, "message": message}


def ended(code: int, reason: str = "Error", at: str = "00") -> dict[str, Any]:
    return {"exitCode": code, "reason": reason, "startedAt": f"2026-11-21T00:01:{at}Z"}


@pytest.mark.parametrize(
    ("reason", "category"),
    [
        ("ErrImagePull", "ImagePullError"),
        ("ImagePullBackOff", "ImagePullError"),
        ("InvalidImageName", "ImagePullError"),
        ("ErrImageNeverPull", "ImagePullError"),
        ("CrashLoopBackOff", "CrashLoopBackOff"),
        ("CreateContainerConfigError", "ConfigError"),
        ("CreateContainerError", "StartError"),
        ("RunContainerError", "StartError"),
    ],
)
@pytest.mark.parametrize("init", [False, True])
def test_a_waiting_container_gives_the_reason(reason: str, category: str, init: bool) -> None:
    status = container(waiting=waiting(reason, "why it is"))
    given = pod(initContainerStatuses=[status]) if init else pod(status)
    found = waiting_cause(job(), [given])
    assert found and (found.reason, found.category, found.severity) == (reason, category, "error")
    assert found.message.startswith('container "main": why it is')


@pytest.mark.parametrize("reason", ["ContainerCreating", "PodInitializing"])
def test_an_ordinary_start_is_no_problem(reason: str) -> None:
    assert waiting_cause(job(), [pod(container(waiting=waiting(reason)))]) is None


@pytest.mark.parametrize(
    ("message", "category"),
    [
        ("0/3 nodes: 3 node(s) had taint {x: }", "Unschedulable.Taint"),
        ("0/3 nodes: didn't match node selector", "Unschedulable.NodeAffinity"),
        ("0/3 nodes: pod affinity rules", "Unschedulable.NodeAffinity"),
        ("0/3 nodes: 3 Insufficient cpu", "Unschedulable.InsufficientResources"),
        ("no", "Unschedulable"),
        ("", "Unschedulable"),
    ],
)
def test_a_pod_without_a_node_says_why(message: str, category: str) -> None:
    conditions = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]
    found = waiting_cause(job(), [pod(conditions=conditions)])
    assert found and (found.reason, found.category, found.severity) == ("Unschedulable", category, "warning")


@pytest.mark.parametrize("reason", ["FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "FailedScheduling"])
def test_events_of_the_pod_tell_what_its_status_does_not(reason: str) -> None:
    given = [
        event(reason, "old", at="01"),
        event(reason, "new", at="09"),
        event(reason, "foreign", uid="other", at="30"),
    ]
    found = waiting_cause(job(), [pod()], given)
    assert found and (found.reason, found.message) == (reason, "new")


def test_a_quota_is_told_by_the_jobs_own_events() -> None:
    found = waiting_cause(job(), [], [event("FailedCreate", "exceeded quota", uid="job")])
    assert found and (found.reason, found.category, found.message) == ("FailedCreate", "FailedCreate", "exceeded quota")


def test_a_running_pod_is_not_accused_by_old_events() -> None:
    given = pod(container(running={"startedAt": "x"}), phase="Running")
    assert waiting_cause(job(), [given], [event("FailedMount", "was slow")]) is None


def test_a_pull_back_off_carries_the_cause_of_its_event() -> None:
    given = pod(container(waiting=waiting("ImagePullBackOff", 'Back-off pulling image "x"')))
    found = waiting_cause(job(), [given], [event("Failed", 'Failed to pull image "x": not found')])
    assert found and found.message.endswith('Back-off pulling image "x": Failed to pull image "x": not found')


def test_a_suspended_job_says_so() -> None:
    suspended = {**job(), "spec": {**SPEC, "suspend": True}}
    seen = observed(suspended, [], "c")
    assert (seen.status, seen.reason) == (Status.PENDING, "Suspended")


@pytest.mark.parametrize(
    ("given", "reason", "severity"),
    [
        (pod(container(terminated=ended(137, "OOMKilled")), phase="Failed"), "OOMKilled", "error"),
        (pod(phase="Failed", reason="Evicted", message="low on memory"), "Evicted", "warning"),
        (pod(container(terminated=ended(1, "Evicted")), phase="Failed"), "Evicted", "warning"),
        (pod(container(terminated=ended(127, "ContainerCannotRun")), phase="Failed"), "ContainerCannotRun", "error"),
        (pod(phase="Failed", reason="OutOfcpu", message="no"), "OutOfcpu", "error"),
        (pod(container(waiting=waiting("CreateContainerConfigError"))), "CreateContainerConfigError", "error"),
        (pod(container(terminated=ended(2)), phase="Failed"), "BackoffLimitExceeded", "error"),
        (
            pod(
                phase="Failed",
                conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}],
            ),
            "EvictionByEvictionAPI",
            "warning",
        ),
    ],
)
def test_the_most_specific_cause_of_a_failure_wins(given: Any, reason: str, severity: str) -> None:
    found = failure_cause(job("Failed", "BackoffLimitExceeded", "limit reached"), [given])
    assert (found.reason, found.severity) == (reason, severity)
    assert "limit reached" in found.message


def test_a_failed_init_container_is_named() -> None:
    status = container("prepare", terminated=ended(4))
    found = failure_cause(job("Failed", "BackoffLimitExceeded", "limit"), [pod(initContainerStatuses=[status])])
    assert found.message == 'init container "prepare": exit code 4; limit'


def test_what_the_deadline_itself_killed_is_not_called_out_of_memory() -> None:
    given = pod(container(terminated=ended(137, "OOMKilled")), phase="Failed")
    seen = observed(job("Failed", "DeadlineExceeded", "too long"), [given], "c")
    assert (seen.status, seen.reason) == (Status.TIMED_OUT, "DeadlineExceeded")


def test_a_deadline_in_pending_tells_what_was_waited_for() -> None:
    given = pod(container(waiting=waiting("ImagePullBackOff", "no such image")))
    seen = observed(job("Failed", "DeadlineExceeded", "too long"), [given], "c")
    assert seen.reason == "DeadlineExceeded" and "no such image" in seen.message


def test_a_crash_loop_by_memory_is_out_of_memory() -> None:
    crashed = container(restarts=2, last=ended(137, "OOMKilled"), waiting=waiting("CrashLoopBackOff"))
    found = waiting_cause(job(), [pod(crashed, phase="Running")])
    assert found and found.reason == "OOMKilled"


@pytest.mark.parametrize(
    ("last", "reason"), [("Error", "BackoffLimitExceeded"), ("OOMKilled", "OOMKilled"), ("StartError", "StartError")]
)
def test_a_pod_that_waited_for_another_try_failed_as_its_container_did(last: str, reason: str) -> None:
    """Whether the wait is seen depends on the moment; the reason does not."""
    failed = job("Failed", "BackoffLimitExceeded", "limit reached")
    seen = [
        container(restarts=2, last=ended(7, last), waiting=waiting("CrashLoopBackOff")),
        container(restarts=2, last=ended(7, last), terminated=ended(7, last)),
    ]
    assert {failure_cause(failed, [pod(one, phase="Running")]).reason for one in seen} == {reason}


def test_events_are_those_of_this_job_in_time_order() -> None:
    given = [event("b", "", at="05"), event("x", "", uid="other"), event("a", "", uid="job", at="01")]
    assert [e["reason"] for e in relevant(given, job(), [pod()])] == ["a", "b"]


# -- what is made of it


def test_success_needs_the_condition_and_nothing_else() -> None:
    given = pod(container(terminated=ended(0, "Completed")), phase="Succeeded")
    assert observed(job(succeeded=1), [given], "c").status is Status.RUNNING
    seen = observed(job("Complete", completionTime="2026-11-21T00:10:00Z"), [given], "c")
    assert (seen.status, seen.exit_code, seen.finished_at) == (Status.SUCCEEDED, 0, "2026-11-21T00:10:00Z")


def test_no_pod_means_no_exit_code() -> None:
    assert observed(job("Complete"), [], "c").exit_code is None
    assert observed(job("Failed", "BackoffLimitExceeded"), [], "c").exit_code is None


def test_the_code_is_that_of_the_named_container_in_the_newest_pod() -> None:
    old = pod(container(terminated=ended(1)), uid="p1", phase="Failed", created="01")
    new = pod(
        container("aaa", terminated=ended(0)), container(terminated=ended(7)), uid="p2", phase="Failed", created="09"
    )
    seen = observed(job("Failed", "BackoffLimitExceeded"), [new, old], "c")
    assert (seen.exit_code, seen.attempts) == (7, 2)


def test_restarts_inside_a_pod_are_attempts() -> None:
    given = pod(container(restarts=2, terminated=ended(0, "Completed")), phase="Succeeded")
    assert observed(job("Complete"), [given], "c").attempts == 3


def test_once_started_a_run_is_not_pending_again() -> None:
    old = pod(container(terminated=ended(1)), uid="p1", phase="Failed", created="01")
    new = pod(container(waiting=waiting("ContainerCreating")), uid="p2", created="09")
    assert observed(job(), [old, new], "c").status is Status.RUNNING


def test_a_failure_that_a_deletion_caused_is_not_an_end() -> None:
    deleted = job("Failed", "BackoffLimitExceeded")
    deleted["metadata"] = {**META, "deletionTimestamp": "2026-11-21T00:08:00Z"}
    assert (
        observed(deleted, [pod(container(running={"startedAt": "x"}), phase="Running")], "c").status is Status.RUNNING
    )


def test_the_infrastructure_id_names_cluster_namespace_and_job() -> None:
    assert observed(job(), [], "cluster").infrastructure_id == "cluster:ns:j"


def test_managed_fields_become_pointers_to_what_others_set() -> None:
    fields = {
        "f:metadata": {"f:labels": {".": {}, "f:a/b": {}}},
        "f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"aaa"}': {".": {}, "f:image": {}}}}}},
    }
    entries = [
        {"manager": "flowplan", "fieldsV1": {"f:spec": {"f:backoffLimit": {}}}},
        {"manager": "kubectl-edit", "fieldsV1": fields},
        {"manager": "kube-controller-manager", "fieldsV1": {"f:status": {"f:active": {}}}},
    ]
    live = {"metadata": {**META, "labels": {"a/b": "c"}, "managedFields": entries}, "spec": SPEC}
    assert managers(live) == {
        "/Job/metadata/labels/a~1b": "kubectl-edit",
        "/Job/spec/template/spec/containers/1/image": "kubectl-edit",
    }
