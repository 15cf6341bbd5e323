"""The runs of a spec before they are evaluated, and the addresses of their cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from flowplan.planner.desired import matrix as matrices
from flowplan.planner.desired.evaluation import Branch, Leaf
from flowplan.planner.desired.fields import Origins
from flowplan.schemas.documents import scalar_text
from flowplan.schemas.runs import Settings
from flowplan.schemas.sources import Path, did_you_mean


@dataclass(slots=True)
class Group:
    """One run of the spec: its fields, those that are the same for all cells and those that are not.

    Attributes:
        by_values: axes and their values as text -> address; made when an address is looked up by its values.
        files: the files with expressions that the run names -> their compiled content.
        late: whether an expression uses ``run.id`` or ``run.attempt``, which differ by attempt.
        settings, needs: those of all cells, once they are known to be the same.
        open: whether the matrix depends on a variable without a value.
        broken: whether a fault makes it impossible to resolve the cells.
    """

    name: str
    fields: dict[str, Any]
    origins: Origins
    cells: Sequence[matrices.MatrixCell | None] = ()
    addresses: list[str] = field(default_factory=list)
    by_values: dict[frozenset[tuple[str, str]], str] = field(default_factory=dict)
    static: dict[str, Any] = field(default_factory=dict)
    dynamic: dict[str, Leaf | Branch] = field(default_factory=dict)
    files: dict[str, Leaf | Branch] = field(default_factory=dict)
    late: bool = False
    settings: Settings | None = None
    needs: tuple[str, ...] | None = None
    open: bool = False
    broken: bool = False

    def source(self, path: Path) -> Path:
        """Return the path in the spec of a path inside the run's fields, or of the nearest place above it."""
        for end in range(len(path), 0, -1):
            found = self.origins.source_path(path[:end])
            if found is not None:
                return found
        return ("runs", self.name)

    def address_of(self, values: dict[str, str]) -> str | None:
        """Return the address of the cell with these values, None where there is none."""
        if not self.by_values:
            for cell, address in zip(self.cells, self.addresses, strict=False):
                if cell is not None:
                    named = frozenset((name, scalar_text(cell.values[name])) for name in cell.shown)
                    self.by_values[named] = address
        return self.by_values.get(frozenset(values.items()))


class Addresses:
    """All runs of a spec by name, and all cells by address."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.known: set[str] = set()

    def name_cells(self, group: Group) -> list[str]:
        """Give every cell of a run its address; return those that another cell has already."""
        repeated = []
        for cell in group.cells:
            address = group.name if cell is None else matrices.address(group.name, cell.values, cell.shown)
            if address in self.known:
                repeated.append(address)
            self.known.add(address)
            group.addresses.append(address)
        return repeated

    def meant(self, need: str) -> Sequence[str] | None:
        """Return the addresses that a name of a run or of a cell stands for, None where it is unknown."""
        if need in self.groups:
            return self.groups[need].addresses
        if need in self.known:
            return (need,)
        try:
            name, values = matrices.parse_address(need)
        except ValueError:
            return None
        group = self.groups.get(name)
        if group is not None and group.open:
            return group.addresses
        found = None if group is None or values is None else group.address_of(values)
        return None if found is None else (found,)

    def nearest(self, name: str) -> str:
        """Return a hint at the known run or cell whose name is most like this one."""
        group = self.groups.get(name.partition("[")[0])
        near = did_you_mean(name, chain(self.groups, group.addresses[:1000] if group else ()))
        return near or f"known: {', '.join(islice(self.groups, 10))}"
