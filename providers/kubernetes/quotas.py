"""What the quotas of a namespace let be there at once, compared with what a plan would start there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

from flowplan.providers.kubernetes.jobs import core_path
from flowplan.providers.kubernetes.nodes import requests_of, shown
from flowplan.providers.kubernetes.requests import Api, unless_refused
from flowplan.providers.kubernetes.shapes import Shape, Wanted
from flowplan.schemas.plans import Finding
from flowplan.schemas.quantities import quantity
from flowplan.schemas.runs import Json


def findings(api: Api, name: str, shapes: Sequence[Shape], with_pods: bool) -> Iterator[Finding]:
    """Yield which runs a quota of the namespace does not let be there at once; who may not list quotas learns of one run alone."""
    nothing: list[Json] = []
    for quota in unless_refused(lambda: api.items(core_path(name, "resourcequotas")), nothing):
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
            yield from Shape(name, starting, {}).told(
                severity, "quota", message, "ask for a larger one, or start fewer"
            )
        for group in _groups(shapes):
            yield from _squeezed(title, hard, group, with_pods)


def _groups(shapes: Sequence[Shape]) -> Iterator[Shape]:
    """Yield the runs of each name of the spec whose pods are alike."""
    for shape in shapes:
        groups: dict[str, list[Wanted]] = defaultdict(list)
        for one in shape.wanted:
            groups[one.order.settings.group or one.address].append(one)
        yield from (shape._replace(wanted=some) for some in groups.values())


def _squeezed(title: str, hard: Mapping[str, Decimal], group: Shape, with_pods: bool) -> Iterator[Finding]:
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
        most, each = shown(what, hard[what]), shown(what, asks[what] * pods)
        message = f"{title} lets {lets[what]} of these {width} run at once ({what}: {most} in all, {each} each)"
        yield from group.told("warning", "quota", message, f"the others wait; max_parallel: {lets[what]} keeps to it")
    elif not with_pods:  # else the server has said it
        yield from group.told("error", "quota", f"{title} lets none of these run, for its {what}", "ask for less")
