"""Why a Job waits or failed: a pure function of what the API server says about it, its pods and its events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]

IMAGE_PULL = frozenset({"ErrImagePull", "ImagePullBackOff"})
"""The kubelet alternates between these two for one and the same problem."""

_WAITING = {
    "ErrImagePull": "ImagePullError",
    "ImagePullBackOff": "ImagePullError",
    "InvalidImageName": "ImagePullError",
    "ErrImageNeverPull": "ImagePullError",
    "ImageInspectError": "ImagePullError",
    "RegistryUnavailable": "ImagePullError",
    "CrashLoopBackOff": "CrashLoopBackOff",
    "CreateContainerConfigError": "ConfigError",
    "CreateContainerError": "StartError",
    "RunContainerError": "StartError",
    "PreStartHookError": "StartError",
    "PostStartHookError": "StartError",
}
_TERMINATED = {
    "OOMKilled": "OOMKilled",
    "Evicted": "Evicted",
    "ContainerCannotRun": "StartError",
    "StartError": "StartError",
}
_EVENTS = {
    "FailedMount": "FailedMount",
    "FailedAttachVolume": "FailedMount",
    "FailedCreate": "FailedCreate",
    "FailedCreatePodSandBox": "StartError",
    "FailedScheduling": "Unschedulable",
}
_WARNINGS = frozenset({"Evicted", "Unschedulable"})


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A cause: the reason and the message of the API server, and its class.

    Attributes:
        category: its class (``ImagePullError``, ``Unschedulable.Taint``, ``ConfigError``...).
        severity: ``error``, or ``warning`` where waiting may help.
    """

    reason: str
    message: str
    category: str
    severity: str = "error"


def waiting_cause(job: Object, pods: Sequence[Object], events: Iterable[Object] = ()) -> Diagnosis | None:
    """Return why an unfinished Job makes no progress, or None.

    Args:
        pods: the Job's pods, oldest first; the newest one counts.
        events: core/v1 Events; those of other objects are ignored.
    """
    ours = relevant(events, job, pods)
    spec = job.get("spec") or {}
    if spec.get("suspend") or spec.get("parallelism") == 0:  # the state of its former pods does not matter
        why = "spec.suspend is true" if spec.get("suspend") else "spec.parallelism is 0"
        return Diagnosis("Suspended", f"{why}: no pod is created", "Suspended", "warning")
    if not pods:
        return _from_events(ours)
    pod = pods[-1]
    found = _waiting(pod) or _unschedulable(pod) or _evicted(pod)
    if found is None:
        waits = (pod.get("status") or {}).get("phase") in (None, "", "Pending")
        return _from_events(ours) if waits else None
    return _with_cause(found, ours)


def failure_cause(job: Object, pods: Sequence[Object], events: Iterable[Object] = ()) -> Diagnosis:
    """Return the most specific cause of a failure, with the Job's own condition in the message."""
    condition = failed_condition(job) or {}
    reason, said = condition.get("reason") or "Failed", condition.get("message") or ""
    for pod in reversed(pods):
        waiting = _waiting(pod)
        if waiting and waiting.reason == "CrashLoopBackOff" and reason == "BackoffLimitExceeded":
            waiting = None  # the pod waited to be tried again: how its container ended is the cause
        found = waiting or _terminated(pod) or _evicted(pod) or _unschedulable(pod) or _failed_pod(pod)
        if found and reason == "DeadlineExceeded" and found.category not in _SURVIVE_DEADLINE:
            continue
        if found:
            tail = f"; {reason}: {said}" if said else f"; {reason}"
            return Diagnosis(found.reason, found.message + tail, found.category, found.severity)
    from_events = _from_events(relevant(events, job, pods)) if not pods else None
    if from_events:
        return Diagnosis(
            from_events.reason, f"{from_events.message}; {reason}: {said}", from_events.category, from_events.severity
        )
    return Diagnosis(reason, (_failed_init(pods[-1]) if pods else "") + said, reason)


_SURVIVE_DEADLINE = frozenset({"ImagePullError", "ConfigError", "StartError", "Unschedulable", "CrashLoopBackOff"})
"""Causes that explain why a deadline passed; a container that the deadline itself killed is not one."""


def failed_condition(job: Object) -> Object | None:
    """Return the condition ``Failed=True``, or None."""
    return _condition(job, "Failed")


def complete_condition(job: Object) -> Object | None:
    """Return the condition ``Complete=True``, the only proof of success, or None."""
    return _condition(job, "Complete")


def _condition(item: Object, kind: str, status: str = "True") -> Object | None:
    conditions = (item.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") == kind and c.get("status") == status), None)


def relevant(events: Iterable[Object], job: Object, pods: Sequence[Object]) -> list[Object]:
    """Return the events of this Job and its pods, in time order."""
    uids = {item["metadata"]["uid"] for item in (job, *pods) if (item.get("metadata") or {}).get("uid")}
    ours = [e for e in events if (e.get("involvedObject") or {}).get("uid") in uids]
    return sorted(ours, key=event_time)


def event_time(event: Object) -> str:
    """Return when an event last happened (RFC 3339)."""
    series = event.get("series") or {}
    meta = event.get("metadata") or {}
    times = (event.get("lastTimestamp"), series.get("lastObservedTime"), event.get("eventTime"))
    return str(next((t for t in times if t), meta.get("creationTimestamp") or ""))


def containers(pod: Object) -> Iterator[Object]:
    """Yield the container statuses of a pod: init containers first, as they run."""
    status = pod.get("status") or {}
    yield from status.get("initContainerStatuses") or []
    yield from status.get("containerStatuses") or []


def _waiting(pod: Object) -> Diagnosis | None:
    for status in containers(pod):
        waiting = (status.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason") or ""
        if reason not in _WAITING:
            continue
        message = _about(status, waiting.get("message"), reason)
        if reason == "CrashLoopBackOff":  # what ended the container last is the cause
            last = (status.get("lastState") or {}).get("terminated") or {}
            if last.get("reason") == "OOMKilled":
                return _made("OOMKilled", "OOMKilled", message)
            if last.get("exitCode") is not None:
                message += f" (last exit code {last['exitCode']})"
        return _made(_WAITING[reason], reason, message)
    return None


def _terminated(pod: Object) -> Diagnosis | None:
    for status in containers(pod):
        for state in (status.get("state") or {}, status.get("lastState") or {}):
            ended = state.get("terminated") or {}
            reason = ended.get("reason") or ""
            if reason in _TERMINATED:
                return _made(_TERMINATED[reason], reason, _about(status, ended.get("message"), reason))
    return None


def _unschedulable(pod: Object) -> Diagnosis | None:
    condition = _condition(pod, "PodScheduled", "False")
    if not condition or condition.get("reason") != "Unschedulable":
        return None
    message = condition.get("message") or ""
    text, category = message.lower(), "Unschedulable"  # the scheduler has no code for the cause
    if "taint" in text:
        category += ".Taint"
    elif "affinity" in text or "node selector" in text:
        category += ".NodeAffinity"
    elif "insufficient" in text:
        category += ".InsufficientResources"
    return Diagnosis("Unschedulable", message or "no node can take the pod", category, "warning")


def _evicted(pod: Object) -> Diagnosis | None:
    status = pod.get("status") or {}
    if status.get("reason") == "Evicted":
        return _made("Evicted", "Evicted", status.get("message") or "the pod was evicted")
    disrupted = _condition(pod, "DisruptionTarget")
    if disrupted:
        return _made("Evicted", disrupted.get("reason") or "Evicted", disrupted.get("message") or "the pod was evicted")
    return None


def _failed_pod(pod: Object) -> Diagnosis | None:
    """Return any other reason that a failed pod itself gives (``OutOfcpu``, ``NodeLost``, ``UnexpectedAdmissionError``...)."""
    status = pod.get("status") or {}
    reason = status.get("reason") or ""
    if status.get("phase") != "Failed" or not reason or reason == "DeadlineExceeded":
        return None
    return _made("PodFailed", reason, status.get("message") or reason)


def _failed_init(pod: Object) -> str:
    """Return ``init container "x": exit code 4``, when that is why the main container never started, or ""."""
    for status in (pod.get("status") or {}).get("initContainerStatuses") or []:
        for state in (status.get("state") or {}, status.get("lastState") or {}):
            code = (state.get("terminated") or {}).get("exitCode")
            if code:
                return f'init container "{status.get("name", "")}": exit code {code}; '
    return ""


def _from_events(events: Sequence[Object]) -> Diagnosis | None:
    for event in reversed(events):
        reason = event.get("reason") or ""
        if reason in _EVENTS:
            return _made(_EVENTS[reason], reason, " ".join(str(event.get("message") or "").split()))
    return None


def _with_cause(found: Diagnosis, events: Sequence[Object]) -> Diagnosis:
    """Add to a back-off the event before it, which says what failed."""
    if found.reason != "ImagePullBackOff":
        return found
    for event in reversed(events):
        message = " ".join(str(event.get("message") or "").split())
        if event.get("reason") == "Failed" and "pull" in message.lower() and message not in found.message:
            return Diagnosis(found.reason, f"{found.message}: {message}", found.category, found.severity)
    return found


def _about(status: Object, message: object, reason: str) -> str:
    text = " ".join(str(message or _PLAIN.get(reason, reason)).split())
    return f'container "{status.get("name", "")}": {text}'


_PLAIN = {"OOMKilled": "out of memory", "CrashLoopBackOff": "it keeps failing"}


def _made(category: str, reason: str, message: str) -> Diagnosis:
    return Diagnosis(reason, message, category, "warning" if category in _WARNINGS else "error")
