"""Whether a cluster has a node for a pod is decided as its scheduler decides it."""

from __future__ import annotations

from typing import Any

import pytest

from flowplan.providers.kubernetes.nodes import obstacle, requests_of

NODES: list[dict[str, Any]] = [
    {
        "metadata": {"name": "small", "labels": {"disk": "ssd", "cores": "2"}},
        "spec": {},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"}},
    },
    {
        "metadata": {"name": "large", "labels": {"gpu": "yes", "cores": "16"}},
        "spec": {"taints": [{"key": "dedicated", "value": "ml", "effect": "NoSchedule"}]},
        "status": {"allocatable": {"cpu": "15900m", "memory": "60Gi", "pods": "110", "nvidia.com/gpu": "4"}},
    },
]
TOLERATED = {"tolerations": [{"key": "dedicated", "operator": "Equal", "value": "ml"}]}


def asking(**amounts: str) -> dict[str, Any]:
    named = {name.replace("gpu", "nvidia.com/gpu"): amount for name, amount in amounts.items()}
    return {"containers": [{"resources": {"limits": named}}]}


def requiring(key: str, operator: str, *values: str) -> dict[str, Any]:
    terms = {"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}]}
    return {**TOLERATED, "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (asking(cpu="2", memory="4Gi"), ""),
        (asking(cpu="3"), "no node has cpu: 3, the largest has 2"),
        (TOLERATED | asking(cpu="3"), ""),
        (TOLERATED | asking(cpu="16"), "no node has cpu: 16, the largest has 15.9"),
        (TOLERATED | asking(gpu="5"), "no node has nvidia.com/gpu: 5, the largest has 4"),
        (asking(gpu="1"), "no node has nvidia.com/gpu: 1, the largest has 0"),
        (asking(memory="8000Mi"), "no node has memory: 7.812Gi, the largest has 4Gi"),
        ({"nodeSelector": {"disk": "hdd"}}, "none of the 2 nodes has the labels disk=hdd"),
        ({"nodeSelector": {"gpu": "yes"}}, "does not tolerate: dedicated=ml:NoSchedule"),
        ({"nodeSelector": {"gpu": "yes"}} | TOLERATED, ""),
        ({"nodeSelector": {"gpu": "yes"}, "tolerations": [{"operator": "Exists"}]}, ""),
        (requiring("cores", "Gt", "8"), ""),
        (requiring("cores", "Gt", "32"), "what its node affinity requires"),
        (requiring("cores", "Lt", "2"), "what its node affinity requires"),
        (requiring("gpu", "DoesNotExist") | asking(cpu="3"), "the largest has 2"),
        (requiring("disk", "NotIn", "ssd") | asking(gpu="1"), ""),
        (requiring("zone", "Exists"), "what its node affinity requires"),
        ({"nodeSelector": {"disk": "hdd"}, "schedulerName": "volcano"}, ""),
        ({"nodeSelector": {"disk": "hdd"}, "nodeName": "small"}, ""),
    ],
)
def test_what_keeps_a_pod_from_every_node(pod: dict[str, Any], words: str) -> None:
    found = obstacle(pod, NODES)
    assert words in found and bool(words) == bool(found)


def test_each_amount_may_be_there_and_not_together() -> None:
    nodes = [
        {"metadata": {"name": name}, "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "9"}}}
        for name, cpu, memory in (("a", "8", "1Gi"), ("b", "1", "64Gi"))
    ]
    assert "together" in obstacle(asking(cpu="4", memory="16Gi"), nodes)


def test_containers_run_together_and_init_containers_one_after_the_other() -> None:
    def one(cpu: str, **more: str) -> dict[str, Any]:
        return {"resources": {"requests": {"cpu": cpu}}, **more}

    pod = {"containers": [one("1"), one("500m")], "initContainers": [one("3"), one("2")]}
    assert requests_of(pod)["cpu"] == 3
    pod["initContainers"] = [one("1", restartPolicy="Always"), one("2")]
    assert float(requests_of(pod)["cpu"]) == 2.5
