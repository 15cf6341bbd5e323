"""Whether a cluster has a node that takes a pod: labels, taints and what it can allocate, as the scheduler compares them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from flowplan.providers.kubernetes.requests import Api, unless_refused
from flowplan.providers.kubernetes.shapes import Shape
from flowplan.schemas.plans import Finding
from flowplan.schemas.quantities import quantity
from flowplan.schemas.runs import Json

_PAGES = 4
"""Pages of nodes that are read; a plan does not download larger clusters."""

_BASIC = frozenset({"cpu", "memory", "ephemeral-storage", "pods"})


def nodes_of(api: Api) -> list[Json] | None:
    """Return the nodes; None where they may not be listed, or are too many to be read for a plan."""

    def read() -> list[Json] | None:
        found: list[Json] = []
        for number, (page, _) in enumerate(api.pages("/api/v1/nodes")):
            if number == _PAGES:
                return None
            found += page
        return found

    return unless_refused(read, None)


def _may_grow(api: Api) -> bool:
    """Return whether the cluster may get further nodes when a pod needs one: it has an autoscaler, or hides whether it has."""
    status = "/api/v1/namespaces/kube-system/configmaps/cluster-autoscaler-status"
    return unless_refused(lambda: any(api.find(path) is not None for path in ("/apis/karpenter.sh", status)), True)


def placing(api: Api, shapes: Sequence[Shape], nodes: Sequence[Json] | None) -> Iterator[Finding]:
    """Yield which pods no node would take, even if it was empty."""
    shapes = [shape for shape in shapes if shape.has_pods]
    if nodes is None:
        hint = "list on nodes, of a ClusterRole, helps the plan; applying does not need it"
        for shape in shapes:
            if _is_choosy(shape.pod):
                yield from shape.told("warning", "node", "whether a node takes its pods is not known", hint)
        return
    refused = [(shape, why) for shape in shapes if (why := obstacle(shape.pod, nodes))]
    grows = bool(refused) and _may_grow(api)
    hint = "unless the cluster adds a node, its pods stay pending" if grows else "its pods would stay pending"
    for shape, why in refused:
        yield from shape.told("warning" if grows else "error", "node", why, hint)


def requests_of(pod: Mapping[str, Any], kind: str = "requests") -> dict[str, Decimal]:
    """Return what a pod asks for in all, by resource.

    Containers run together, init containers one after the other; a limit counts where no request is given.

    Args:
        kind: ``requests`` or ``limits``.
    """
    together: dict[str, Decimal] = defaultdict(Decimal, pods=Decimal(1))
    first = pod.get("initContainers") or []
    sidecars = [one for one in first if one.get("restartPolicy") == "Always"]  # they go on beside the others
    for container in (*(pod.get("containers") or []), *sidecars):
        for name, amount in _amounts(container, kind).items():
            together[name] += amount
    for container in first:
        for name, amount in _amounts(container, kind).items():
            together[name] = max(together[name], amount)
    return dict(together)


def _amounts(container: Mapping[str, Any], kind: str) -> dict[str, Decimal]:
    resources = container.get("resources") or {}
    limits = resources.get("limits") or {}
    given = limits if kind == "limits" else {**limits, **(resources.get("requests") or {})}
    return {name: quantity(amount) for name, amount in given.items()}


def _is_choosy(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod needs more of a node than CPU and memory, so that it is worth saying that nodes are not known."""
    return bool(pod.get("nodeSelector") or _terms(pod) or set(requests_of(pod)) - _BASIC)


def obstacle(pod: Mapping[str, Any], nodes: Sequence[Json]) -> str:
    """Return why no node takes a pod, even if it was empty; "" where one does, or another scheduler decides."""
    if pod.get("nodeName") or pod.get("schedulerName", "default-scheduler") != "default-scheduler":
        return ""
    if not nodes:
        return "the cluster has no nodes"
    chosen = [node for node in nodes if _is_wanted(pod, node)]
    count = f"none of the {len(nodes)} nodes" if len(nodes) != 1 else "the only node does not have"
    if not chosen:
        wanted = ", ".join(f"{k}={v}" for k, v in sorted((pod.get("nodeSelector") or {}).items()))
        what = f"the labels {wanted}" if wanted else "what its node affinity requires"
        return f"{count} {what}" if len(nodes) == 1 else f"{count} has {what}"
    open_to = [node for node in chosen if not list(repelling(pod, node))]
    if not open_to:
        taints = sorted({taint for node in chosen for taint in repelling(pod, node)})
        return f"every node that it could run on has a taint that it does not tolerate: {', '.join(taints)}"
    asked = {name: amount for name, amount in requests_of(pod).items() if amount and name != "pods"}
    have = [(node.get("status") or {}).get("allocatable") or {} for node in open_to]
    for name, amount in sorted(asked.items()):
        most = max(quantity(amounts.get(name, 0)) for amounts in have)
        if amount > most:
            return f"no node has {name}: {shown(name, amount)}, the largest has {shown(name, most)}"
    if not any(all(amount <= quantity(one.get(name, 0)) for name, amount in asked.items()) for one in have):
        together = ", ".join(f"{name}: {shown(name, amount)}" for name, amount in sorted(asked.items()))
        return f"no node has all of it together: {together}"
    return ""


def shown(name: str, amount: Decimal) -> str:
    """Return an amount of a resource as people write it."""
    if name.endswith(("memory", "ephemeral-storage")) and amount >= 2**20:
        return f"{amount / 2**30:.4g}Gi" if amount >= 2**30 else f"{amount / 2**20:.4g}Mi"
    return f"{amount.normalize():f}"


def _is_wanted(pod: Mapping[str, Any], node: Json) -> bool:
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (pod.get("nodeSelector") or {}).items()):
        return False
    terms = _terms(pod)
    return not terms or any(_matches(term, node) for term in terms)


def _terms(pod: Mapping[str, Any]) -> list[Json]:
    affinity = (pod.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    return list(required.get("nodeSelectorTerms") or [])


def _matches(term: Mapping[str, Any], node: Json) -> bool:
    labels, fields = node["metadata"].get("labels") or {}, {"metadata.name": node["metadata"]["name"]}
    rules = [(rule, labels) for rule in term.get("matchExpressions") or []]
    rules += [(rule, fields) for rule in term.get("matchFields") or []]
    return bool(rules) and all(_holds(rule, values.get(rule["key"])) for rule, values in rules)


def _holds(rule: Mapping[str, Any], value: str | None) -> bool:
    values = rule.get("values") or []
    match rule["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    try:
        number, bound = int(value or ""), int(values[0])
    except (ValueError, IndexError):
        return False
    return number > bound if rule["operator"] == "Gt" else number < bound


def repelling(pod: Mapping[str, Any], node: Json) -> Iterator[str]:
    """Yield the taints that keep a pod away from a node."""
    for taint in (node.get("spec") or {}).get("taints") or []:
        tolerated = any(_tolerates(one, taint) for one in pod.get("tolerations") or [])
        if taint.get("effect") != "PreferNoSchedule" and not tolerated:
            value = f"={taint['value']}" if taint.get("value") else ""
            yield f"{taint['key']}{value}:{taint['effect']}"


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return (toleration.get("key"), toleration.get("value", "")) == (taint["key"], taint.get("value", ""))
