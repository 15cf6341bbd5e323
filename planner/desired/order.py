"""The order of runs: dependencies first, then the order of the spec; a cycle is an error that shows the cycle."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.sources import Diagnostic

BREAK_IT = "remove one of these needs"


def ordered(addresses: Sequence[str], needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return ``addresses`` with every address after those it needs; ties keep the given order.

    Needs that are not among ``addresses`` do not matter here.

    Raises:
        InvalidInput: the needs form a cycle; the message shows it.
    """
    result, waiting = _sorted(addresses, needs)
    if len(result) < len(addresses):
        raise InvalidInput([cycle_diagnostic([a for a in addresses if waiting[a]], needs)])
    return result


def first_cycle(addresses: Sequence[str], needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a cycle, its first address repeated at the end; [] when there is none."""
    result, waiting = _sorted(addresses, needs)
    stuck = [a for a in addresses if waiting[a]]
    return find_cycle(stuck, needs) if len(result) < len(addresses) else []


def _sorted(addresses: Sequence[str], needs: Mapping[str, Sequence[str]]) -> tuple[list[str], Mapping[str, int]]:
    """Return what can be put into order, and how many needs each address still waits for."""
    rank = {address: index for index, address in enumerate(addresses)}
    waiting = {a: sum(1 for n in set(needs.get(a, ())) if n in rank) for a in addresses}
    dependents: dict[str, list[str]] = {}
    for address in addresses:
        for need in set(needs.get(address, ())):
            dependents.setdefault(need, []).append(address)
    ready = [rank[a] for a in addresses if waiting[a] == 0]
    heapq.heapify(ready)
    result: list[str] = []
    while ready:
        address = addresses[heapq.heappop(ready)]
        result.append(address)
        for dependent in dependents.get(address, ()):
            waiting[dependent] -= 1
            if waiting[dependent] == 0:
                heapq.heappush(ready, rank[dependent])
    return result, waiting


def cycle_diagnostic(stuck: Sequence[str], needs: Mapping[str, Sequence[str]]) -> Diagnostic:
    """Return the complaint about one cycle among addresses that can never start."""
    cycle = " -> ".join(find_cycle(stuck, needs))
    return Diagnostic(f"the runs need each other in a cycle: {cycle}", subject="needs", hint=BREAK_IT)


def find_cycle(stuck: Sequence[str], needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return one cycle, its first address repeated at the end."""
    among = set(stuck)
    seen: dict[str, int] = {}
    walk: list[str] = []
    here = stuck[0]
    while here not in seen:
        seen[here] = len(walk)
        walk.append(here)
        here = next(n for n in needs.get(here, ()) if n in among)
    return [*walk[seen[here] :], here]
