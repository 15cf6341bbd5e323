"""Jobs whose pods are alike, so that whatever is asked about one of them is known of all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from flowplan.providers.protocol import Order
from flowplan.schemas.plans import Finding
from flowplan.schemas.runs import Json, digest


@dataclass(frozen=True)
class Wanted:
    """An order with the Job as it would be posted."""

    order: Order
    job: Any

    @property
    def address(self) -> str:
        return self.order.identity.address


class Shape(NamedTuple):
    """Orders whose pods differ in nothing that an answer depends on; ``pod`` is their spec, as far as the server told it."""

    namespace: str
    wanted: Sequence[Wanted]
    pod: Mapping[str, Any]

    @property
    def has_pods(self) -> bool:
        """Return whether the Jobs would have pods at once: neither none at all, nor when somebody resumes them."""
        spec = self.wanted[0].job["spec"]
        return spec.get("parallelism") != 0 and not spec.get("suspend")

    def told(self, severity: str, check: str, message: str, hint: str) -> Iterator[Finding]:
        """Yield the same finding for each of them."""
        return (Finding(one.address, severity, check, message, hint) for one in self.wanted)


def alike(wanted: Iterable[Wanted]) -> list[list[Wanted]]:
    """Return the orders in groups of one shape each."""
    groups: dict[str, list[Wanted]] = defaultdict(list)
    for one in wanted:
        groups[_shape(one.job)].append(one)
    return list(groups.values())


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
