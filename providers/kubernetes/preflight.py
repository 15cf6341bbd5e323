"""What would make Jobs fail: permissions, what they refer to, the server's own dry run, images, nodes and quotas."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flowplan.providers.kubernetes import pulling, quotas
from flowplan.providers.kubernetes.comparing import dropped
from flowplan.providers.kubernetes.jobs import core_path, jobs_path, manifest
from flowplan.providers.kubernetes.nodes import nodes_of, placing
from flowplan.providers.kubernetes.reading import RUN_ID, label
from flowplan.providers.kubernetes.references import KINDS, references
from flowplan.providers.kubernetes.requests import FAILING, MANAGER, Api, unless_refused
from flowplan.providers.kubernetes.shapes import Shape, Wanted, alike
from flowplan.providers.protocol import Order
from flowplan.schemas.errors import EngineUnreachable, ProviderError
from flowplan.schemas.plans import Finding
from flowplan.schemas.runs import Json

_THREADS = 8

_POD = "flowplan-preflight-"
"""How the name of the pod of a dry run begins, which is never created."""

VERBS = (
    ("batch", "jobs", "", ("create", "get", "list", "watch", "patch", "delete")),
    ("", "pods", "", ("get", "list", "watch")),
    ("", "pods", "log", ("get",)),
)
"""What plan, apply and destroy need in a namespace; ``delete pods`` and ``list events`` only help."""

SECRET_VERBS = (("", "secrets", "", ("create", "get", "patch", "delete")),)
"""Needed where runs have secret values."""


def check(api: Api, orders: Sequence[Order], namespace: str) -> list[Finding]:
    """Return findings for all orders; requests grow with namespaces, images and shapes of Jobs, not with orders.

    Raises:
        EngineUnreachable: the server does not answer.
    """
    groups: dict[str, list[Wanted]] = defaultdict(list)
    for order in orders:
        job = manifest(order, namespace)
        groups[job["metadata"]["namespace"]].append(Wanted(order, job))
    shapes: list[Shape] = []
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="preflight") as pool:
        nodes = pool.submit(nodes_of, api)
        findings = [f for name, some in groups.items() for f in _in_namespace(api, pool, name, some, shapes)]
        known = nodes.result()
    return [*findings, *placing(api, shapes, known), *pulling.findings(api, shapes, known)]


def _in_namespace(
    api: Api, pool: ThreadPoolExecutor, name: str, wanted: Sequence[Wanted], shapes: list[Shape]
) -> Iterator[Finding]:
    """Yield the findings of a namespace, and add the shapes of its pods to ``shapes``."""
    if missing := _namespace(api, name):
        yield from (_error(one, "namespace", missing) for one in wanted)
        return
    denied, count = _denied(api, pool, name, wanted), f" ({len(wanted)} runs need it)" if len(wanted) > 1 else ""
    for what in denied:  # about all runs of the namespace alike: told once
        message = f'not allowed to {what} in namespace "{name}"{count}'
        yield Finding(wanted[0].address, "error", "permission", message, "ask for a Role with this verb")
    yield from _missing(api, pool, name, wanted)
    with_pods = _allowed(api, name, "", "pods", "", "create")
    mine = [Shape(name, some, some[0].job["spec"]["template"].get("spec") or {}) for some in alike(wanted)]
    if "create jobs.batch" not in denied:
        answers = list(pool.map(lambda shape: _dry_run(api, shape.wanted[0], with_pods), mine))
        for shape, (findings, _) in zip(mine, answers, strict=True):
            yield from (f._replace(address=one.address) for one in shape.wanted for f in findings)
        mine = [shape._replace(pod=pod) for shape, (_, pod) in zip(mine, answers, strict=True)]
    shapes += mine
    yield from quotas.findings(api, name, mine, with_pods)


def _error(one: Wanted, check: str, error: ProviderError) -> Finding:
    return Finding(one.address, "error", check, error.message, error.hint)


def _namespace(api: Api, name: str) -> ProviderError | None:
    try:
        api.get(f"/api/v1/namespaces/{name}")
    except EngineUnreachable:
        raise
    except ProviderError as error:
        if error.reason == "NotFound":
            return ProviderError(
                f'namespace "{name}" does not exist',
                hint=f"create it first (kubectl create namespace {name}), or set another namespace",
            )
        if error.reason == "Unauthorized":
            return error
    return None  # who may not read namespaces learns of a missing one from the dry run


def _denied(api: Api, pool: ThreadPoolExecutor, name: str, wanted: Sequence[Wanted]) -> list[str]:
    """Return the verb and resource of everything needed that is not allowed."""
    secrets = any(one.order.objects.get("Secret") for one in wanted)
    questions = [
        (group, resource, sub, verb)
        for group, resource, sub, verbs in (*VERBS, *(SECRET_VERBS if secrets else ()))
        for verb in verbs
    ]
    answers = pool.map(lambda question: _allowed(api, name, *question), questions)
    return [
        f"{verb} {resource}{'/' + sub if sub else ''}{'.' + group if group else ''}"
        for (group, resource, sub, verb), allowed in zip(questions, answers, strict=True)
        if not allowed
    ]


def _allowed(api: Api, namespace: str, group: str, resource: str, sub: str, verb: str) -> bool:
    attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": resource, "subresource": sub}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {k: v for k, v in attributes.items() if v}},
    }
    path, unknown = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {"status": {"allowed": True}}
    answer = unless_refused(lambda: api.call("POST", path, body=review), unknown)  # else creating is refused, or not
    return bool((answer.get("status") or {}).get("allowed"))


def _missing(api: Api, pool: ThreadPoolExecutor, name: str, wanted: Sequence[Wanted]) -> Iterator[Finding]:
    """Yield findings for objects that the pods refer to and that are missing."""
    own = {one.address: one.order.objects.get("Secret", {}).get("metadata", {}).get("name") for one in wanted}
    needs = [(one, ref) for one in wanted for ref in references(one.job)]
    needs = [(one, ref) for one, ref in needs if ref.resource != "secrets" or ref.name != own[one.address]]
    names: dict[str, set[str]] = defaultdict(set)
    for _, ref in needs:
        names[ref.resource].add(ref.name)
    answers = pool.map(lambda item: _existing(api, name, item[0], item[1]), names.items())
    known = dict(zip(names, answers, strict=True))
    for resource in (resource for resource, there in known.items() if there is None):
        first = next(one for one, ref in needs if ref.resource == resource)
        message = (
            f'not allowed to read {resource} in namespace "{name}": whether the runs\' {resource} exist is not known'
        )
        hint = "list or get helps the plan; applying does not need it"
        yield Finding(first.address, "warning", "permission", message, hint)
    for one, ref in needs:
        there, kind = known[ref.resource], KINDS[ref.resource]
        if there is not None and ref.name not in there:
            message = f'{kind} "{ref.name}" does not exist in namespace "{name}" ({ref.where})'
            severity, hint = ("error", "create it first") if ref.needed else ("warning", "the run starts without it")
            yield Finding(one.address, severity, kind.lower(), message, hint)


def _existing(api: Api, namespace: str, resource: str, names: Iterable[str]) -> set[str] | None:
    """Return the existing names of a resource, or of ``names`` where listing is forbidden; None when neither may be read."""
    try:
        found = api.items(core_path(namespace, resource), partial=True)
        return {item["metadata"]["name"] for item in found}
    except EngineUnreachable:
        raise
    except ProviderError as error:
        if error.reason != "Forbidden":
            raise
    paths = {name: core_path(namespace, resource, name) for name in names}
    return unless_refused(lambda: {name for name, path in paths.items() if api.find(path) is not None}, None)


def _dry_run(api: Api, one: Wanted, with_pods: bool) -> tuple[list[Finding], Json]:
    """Return what the server says of a Job and of its pods, and the pods' spec with all that the server adds to it."""
    namespace, name = one.job["metadata"]["namespace"], one.job["metadata"]["name"]
    pod = one.job["spec"]["template"].get("spec") or {}
    try:
        answer = api.call("POST", jobs_path(namespace), {"dryRun": "All", "fieldManager": MANAGER}, one.job)
    except ProviderError as error:
        if _unheard(error):
            raise
        if error.reason != "AlreadyExists":
            return [_error(one, "dry-run", error)], pod
        there = api.find(jobs_path(namespace, name))
        if there is None or label(there, RUN_ID) == one.order.identity.run_id:
            return [], pod
        message = f'a Job "{name}" that is not ours exists in namespace "{namespace}"'
        return [Finding(one.address, "warning", "name", message, f"the run will be called {name}-1")], pod
    found = []
    for pointer in dropped(one.job, answer):
        message = f"this API server does not know the field {pointer} and drops it"
        found.append(Finding(one.address, "warning", "dropped-field", message, "remove it, or use a newer cluster"))
    if with_pods:
        refused, pod = _pod_dry_run(api, one, namespace, answer)
        return [*found, *refused], pod
    return found, answer["spec"]["template"]["spec"]


def _unheard(error: ProviderError) -> bool:
    """Return whether the server did not respond; a 5xx (a failing webhook) becomes a finding."""
    return isinstance(error, EngineUnreachable) and error.reason != FAILING


def _pod_dry_run(api: Api, one: Wanted, namespace: str, answer: Mapping[str, Any]) -> tuple[list[Finding], Json]:
    """Return what quota, limits and admission say of the pod, which else only the job controller would learn, and its spec."""
    template = answer["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": _POD, "labels": (template.get("metadata") or {}).get("labels") or {}},
        "spec": template["spec"],
    }
    try:
        return [], api.call("POST", core_path(namespace, "pods"), {"dryRun": "All"}, pod)["spec"]
    except ProviderError as error:
        if _unheard(error):
            raise
        known = {ref.name for ref in references(one.job) if ref.resource == "serviceaccounts"}
        told = any(name in error.message for name in known)  # a missing account is told already
        words = re.sub(f'pods "{_POD}[a-z0-9]*" is', "its pods are", error.message)
        return [] if told else [Finding(one.address, "error", "dry-run", words, error.hint)], template["spec"]
