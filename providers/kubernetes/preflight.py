"""What would make Jobs fail: permissions, what they refer to, the server's own dry run, images, nodes and quotas."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from flowplan.providers.kubernetes.comparing import dropped
from flowplan.providers.kubernetes.jobs import core_path, jobs_path, manifest
from flowplan.providers.kubernetes.nodes import is_choosy, may_grow, nodes_of, obstacle, requests_of
from flowplan.providers.kubernetes.pulling import Kept, Wanted, ask
from flowplan.providers.kubernetes.reading import RUN_ID, label
from flowplan.providers.kubernetes.references import KINDS, Reference, references
from flowplan.providers.kubernetes.requests import FAILING, MANAGER, Api
from flowplan.providers.protocol import Order
from flowplan.providers.registries import asked, finding
from flowplan.schemas.errors import EngineUnreachable, InvalidInput, ProviderError
from flowplan.schemas.images import pull_policy
from flowplan.schemas.plans import Finding
from flowplan.schemas.quantities import quantity
from flowplan.schemas.runs import Json, digest

_THREADS = 8

VERBS = (
    ("batch", "jobs", "", ("create", "get", "list", "watch", "patch", "delete")),
    ("", "pods", "", ("get", "list", "watch")),
    ("", "pods", "log", ("get",)),
)
"""What plan, apply and destroy need in a namespace; ``delete pods`` and ``list events`` only help."""

SECRET_VERBS = (("", "secrets", "", ("create", "get", "patch", "delete")),)
"""Needed where runs have secret values."""


@dataclass(frozen=True)
class _Wanted:
    """An order with the Job as it would be posted."""

    order: Order
    job: Any

    @property
    def address(self) -> str:
        return self.order.identity.address


class _Shape(NamedTuple):
    """Orders whose pods differ in nothing that an answer depends on; ``pod`` is their spec, as far as the server told it."""

    namespace: str
    wanted: Sequence[_Wanted]
    pod: Mapping[str, Any]

    @property
    def has_pods(self) -> bool:
        """Return whether the Jobs would have pods at once: neither none at all, nor when somebody resumes them."""
        spec = self.wanted[0].job["spec"]
        return spec.get("parallelism") != 0 and not spec.get("suspend")

    def told(self, severity: str, check: str, message: str, hint: str) -> Iterator[Finding]:
        """Yield the same finding for each of them."""
        return (Finding(one.address, severity, check, message, hint) for one in self.wanted)


def check(api: Api, orders: Sequence[Order], namespace: str) -> list[Finding]:
    """Return findings for all orders; requests grow with namespaces, images and shapes of Jobs, not with orders.

    Raises:
        EngineUnreachable: the server does not answer.
    """
    groups: dict[str, list[_Wanted]] = defaultdict(list)
    for order in orders:
        job = manifest(order, namespace)
        groups[job["metadata"]["namespace"]].append(_Wanted(order, job))
    shapes: list[_Shape] = []
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="preflight") as pool:
        nodes = pool.submit(nodes_of, api)
        findings = [f for name, some in groups.items() for f in _in_namespace(api, pool, name, some, shapes)]
        return [*findings, *_placing(api, shapes, nodes.result()), *_images(api, shapes, nodes.result())]


def _in_namespace(
    api: Api, pool: ThreadPoolExecutor, name: str, wanted: Sequence[_Wanted], shapes: list[_Shape]
) -> Iterator[Finding]:
    """Yield the findings of a namespace, and add the shapes of its pods to ``shapes``."""
    if missing := _namespace(api, name):
        yield from (_finding(one, "error", "namespace", missing) for one in wanted)
        return
    denied = _denied(api, pool, name, wanted)
    if denied:  # about all runs of the namespace alike: told once
        count = f" ({len(wanted)} runs need it)" if len(wanted) > 1 else ""
        for what, where in denied:
            error = ProviderError(f"not allowed to {what} {where}{count}", hint="ask for a Role with this verb")
            yield _finding(wanted[0], "error", "permission", error)
    yield from _missing(api, pool, name, wanted)
    with_pods = _allowed(api, name, "", "pods", "", "create")
    alike: dict[str, list[_Wanted]] = defaultdict(list)
    for one in wanted:
        alike[_shape(one.job)].append(one)
    if "create jobs.batch" in {what for what, _ in denied}:
        mine = [_Shape(name, some, some[0].job["spec"]["template"].get("spec") or {}) for some in alike.values()]
    else:
        mine = []
        answers = pool.map(lambda some: _dry_run(api, some[0], with_pods), alike.values())
        for some, (findings, pod) in zip(alike.values(), answers, strict=True):
            mine.append(_Shape(name, some, pod))
            yield from (f._replace(address=one.address) for one in some for f in findings)
    shapes += mine
    yield from _quotas(api, name, mine, with_pods)


def _finding(one: _Wanted, severity: str, check: str, error: ProviderError) -> Finding:
    return Finding(one.address, severity, check, error.message, error.hint)


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


def _denied(api: Api, pool: ThreadPoolExecutor, name: str, wanted: Sequence[_Wanted]) -> list[tuple[str, str]]:
    """Return (verb and resource, where) of everything needed that is not allowed."""
    secrets = any(one.order.objects.get("Secret") for one in wanted)
    questions = [
        (group, resource, sub, verb)
        for group, resource, sub, verbs in (*VERBS, *(SECRET_VERBS if secrets else ()))
        for verb in verbs
    ]
    answers = pool.map(lambda question: _allowed(api, name, *question), questions)
    return [
        (f"{verb} {resource}{'/' + sub if sub else ''}{'.' + group if group else ''}", f'in namespace "{name}"')
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
    try:
        answer = api.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=review)
    except EngineUnreachable:
        raise
    except ProviderError:
        return True  # a server that does not answer this question answers it when it is asked to create
    return bool((answer.get("status") or {}).get("allowed"))


def _missing(api: Api, pool: ThreadPoolExecutor, name: str, wanted: Sequence[_Wanted]) -> Iterator[Finding]:
    """Yield findings for objects that the pods refer to and that are missing."""
    needs = [(one, ref) for one in wanted for ref in references(one.job) if not _own(one, ref)]
    names: dict[str, set[str]] = defaultdict(set)
    for _, ref in needs:
        names[ref.resource].add(ref.name)
    answers = pool.map(lambda item: _existing(api, name, item[0], item[1]), names.items())
    known = dict(zip(names, answers, strict=True))
    for resource, there in known.items():
        if there is None:
            first = next(one for one, ref in needs if ref.resource == resource)
            error = ProviderError(
                f'not allowed to read {resource} in namespace "{name}": whether the runs\' {resource} exist is not known',
                hint="list or get helps the plan; applying does not need it",
            )
            yield _finding(first, "warning", "permission", error)
    for one, ref in needs:
        there = known[ref.resource]
        if there is not None and ref.name not in there:
            yield _absent(one, ref, name)


def _own(one: _Wanted, ref: Reference) -> bool:
    secret = one.order.objects.get("Secret") or {}
    return ref.resource == "secrets" and ref.name == (secret.get("metadata") or {}).get("name")


def _absent(one: _Wanted, ref: Reference, namespace: str) -> Finding:
    kind = KINDS[ref.resource]
    severity = "error" if ref.needed else "warning"
    return Finding(
        one.address,
        severity,
        kind.lower(),
        f'{kind} "{ref.name}" does not exist in namespace "{namespace}" ({ref.where})',
        "create it first" if ref.needed else "the run starts without it",
    )


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
    try:
        return {name for name in names if api.find(core_path(namespace, resource, name)) is not None}
    except EngineUnreachable:
        raise
    except ProviderError:
        return None


def _shape(job: Json) -> str:
    """Return a digest of what the answer depends on: not the identity, arguments or values of variables."""
    template = job["spec"]["template"]
    pod = dict(template.get("spec") or {})
    pod["containers"] = [
        {**c, "args": None, "command": None, "env": [e.get("valueFrom") for e in c.get("env") or []]}
        for c in pod.get("containers") or []
    ]
    template = {**template, "metadata": _nameless(template.get("metadata") or {}), "spec": pod}
    return digest({**job, "metadata": _nameless(job["metadata"]), "spec": {**job["spec"], "template": template}})


def _nameless(meta: Json) -> Json:
    return {**meta, "name": "", **{key: sorted(meta.get(key) or {}) for key in ("labels", "annotations")}}


def _dry_run(api: Api, one: _Wanted, with_pods: bool) -> tuple[list[Finding], Json]:
    """Return what the server says of a Job and of its pods, and the pods' spec with all that the server adds to it."""
    namespace, name = one.job["metadata"]["namespace"], one.job["metadata"]["name"]
    pod = one.job["spec"]["template"].get("spec") or {}
    try:
        answer = api.call("POST", jobs_path(namespace), {"dryRun": "All", "fieldManager": MANAGER}, one.job)
    except ProviderError as error:
        if _unheard(error):
            raise
        if error.reason != "AlreadyExists":
            return [_finding(one, "error", "dry-run", error)], pod
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


def _pod_dry_run(api: Api, one: _Wanted, namespace: str, answer: Mapping[str, Any]) -> tuple[list[Finding], Json]:
    """Return what quota, limits and admission say of the pod, which else only the job controller would learn, and its spec."""
    template = answer["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "preflight-", "labels": (template.get("metadata") or {}).get("labels") or {}},
        "spec": template["spec"],
    }
    try:
        return [], api.call("POST", core_path(namespace, "pods"), {"dryRun": "All"}, pod)["spec"]
    except ProviderError as error:
        if _unheard(error):
            raise
        known = {ref.name for ref in references(one.job) if ref.resource == "serviceaccounts"}
        told = any(name in error.message for name in known)  # a missing account is told already
        return [] if told else [_finding(one, "error", "dry-run", error)], template["spec"]


def _placing(api: Api, shapes: Sequence[_Shape], nodes: Sequence[Json] | None) -> Iterator[Finding]:
    """Yield which pods no node would take, even if it was empty."""
    shapes = [shape for shape in shapes if shape.has_pods]
    if nodes is None:
        hint = "list on nodes, of a ClusterRole, helps the plan; applying does not need it"
        for shape in shapes:
            if is_choosy(shape.pod):
                yield from shape.told("warning", "node", "whether a node takes its pods is not known", hint)
        return
    refused = [(shape, why) for shape in shapes if (why := obstacle(shape.pod, nodes))]
    grows = bool(refused) and may_grow(api)
    hint = "unless the cluster adds a node, its pods stay pending" if grows else "its pods would stay pending"
    for shape, why in refused:
        yield from shape.told("warning" if grows else "error", "node", why, hint)


def _images(api: Api, shapes: Sequence[_Shape], nodes: Sequence[Json] | None) -> Iterator[Finding]:
    """Yield which images the nodes could not pull; each one is asked for once."""
    kept = Kept(nodes or [])
    pulls: dict[Wanted, list[_Shape]] = defaultdict(list)
    for shape in shapes:
        secrets = tuple(secret["name"] for secret in _pull_secrets(api, shape))
        for image, policy in _pulled(shape.pod):
            there = kept.somewhere(image) if nodes else None
            if policy == "Never" and not there:
                known = f"no node has {image}" if there is False else f"whether a node has {image} is not known"
                hint = "load it on the nodes, or use another image_pull_policy"
                yield from shape.told("warning" if there is None else "error", "image", known, hint)
            elif policy == "Always" or (policy != "Never" and not kept.everywhere(image)):
                pulls[Wanted(image, shape.namespace, secrets, policy)].append(shape)
    answers = asked(pulls, lambda wanted: wanted.image, lambda wanted: ask(api, wanted))
    for wanted, some in pulls.items():
        runs_somewhere = wanted.policy != "Always" and nodes is not None and kept.somewhere(wanted.image)
        for one in (one for shape in some for one in shape.wanted):
            if found := finding(one.address, wanted.image, answers[wanted]):
                yield found._replace(severity="warning") if runs_somewhere else found


def _pulled(pod: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return the images of a pod, each with its pull policy."""
    found = set()
    for container in (*(pod.get("initContainers") or []), *(pod.get("containers") or [])):
        with contextlib.suppress(InvalidInput):  # its node, too, would refuse what is no reference
            image = container.get("image") or ""
            found.add((image, pull_policy(image, container.get("imagePullPolicy"))))
    return found


def _pull_secrets(api: Api, shape: _Shape) -> list[Json]:
    """Return the pull secrets of a pod: its own, else those of its account, which the server adds to a pod."""
    own = shape.pod.get("imagePullSecrets") or []
    if own:
        return list(own)
    try:
        account = shape.pod.get("serviceAccountName") or "default"
        return list(
            (api.find(core_path(shape.namespace, "serviceaccounts", account)) or {}).get("imagePullSecrets") or []
        )
    except EngineUnreachable:
        raise
    except ProviderError:
        return []


def _quotas(api: Api, name: str, shapes: Sequence[_Shape], with_pods: bool) -> Iterator[Finding]:
    """Yield which runs a quota of the namespace does not let be there at once; who may not list quotas learns of one run alone."""
    try:
        quotas = api.items(core_path(name, "resourcequotas"))
    except EngineUnreachable:
        raise
    except ProviderError:
        return
    for quota in quotas:
        spec = quota.get("spec") or {}
        if spec.get("scopes") or spec.get("scopeSelector"):  # it counts some pods only
            continue
        title = f'quota "{quota["metadata"]["name"]}" of namespace "{name}"'
        hard = {what: quantity(amount) for what, amount in (spec.get("hard") or {}).items()}
        starting = [one for shape in shapes for one in shape.wanted if one.order.fresh]
        most, used = hard.get("count/jobs.batch"), (quota.get("status") or {}).get("used") or {}
        if most is not None and len(starting) > most - (there := quantity(used.get("count/jobs.batch", 0))):
            message = f"{title} allows {most:f} Jobs, {there:f} are there, and this plan starts {len(starting)}"
            severity = "error" if len(starting) > most else "warning"
            yield from _Shape(name, starting, {}).told(
                severity, "quota", message, "ask for a larger one, or start fewer"
            )
        for group in _groups(shapes):
            yield from _squeezed(title, hard, group, with_pods)


def _groups(shapes: Sequence[_Shape]) -> Iterator[_Shape]:
    """Yield the runs of each name of the spec whose pods are alike."""
    for shape in shapes:
        groups: dict[str, list[_Wanted]] = defaultdict(list)
        for one in shape.wanted:
            groups[one.order.settings.group or one.address].append(one)
        yield from (shape._replace(wanted=some) for some in groups.values())


def _squeezed(title: str, hard: Mapping[str, Decimal], group: _Shape, with_pods: bool) -> Iterator[Finding]:
    """Yield how many runs of a group a quota lets run at once, where these are fewer than would be started."""
    first = group.wanted[0]
    width = min(len(group.wanted), first.order.settings.max_parallel or len(group.wanted))
    asks = {f"limits.{what}": amount for what, amount in requests_of(group.pod, "limits").items()}
    for what, amount in requests_of(group.pod).items():
        asks |= {what: amount, f"requests.{what}": amount}
    pods = first.job["spec"].get("parallelism", 1)
    lets = {what: int(hard[what] / (amount * pods)) for what, amount in asks.items() if what in hard and amount * pods}
    what = min(lets, key=lambda one: lets[one], default="")
    if not what or lets[what] >= width:
        return
    if lets[what]:
        message = f"{title} lets {lets[what]} of these {width} be there at once, for its {what}; the others wait"
        yield from group.told("warning", "quota", message, f"max_parallel: {lets[what]} says so in the spec")
    elif not with_pods:  # else the server has said it
        yield from group.told("error", "quota", f"{title} lets none of these be there, for its {what}", "ask for less")
