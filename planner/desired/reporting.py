"""Faults and warnings of the runs of a spec, each told once, at the place in the file that is to be changed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from flowplan.planner.desired.expressions import ExpressionError
from flowplan.planner.desired.groups import Group
from flowplan.schemas.load import LoadedSpec
from flowplan.schemas.sources import Diagnostic, Path, Position, dotted

Wrong = Callable[[Path, ExpressionError], None]
"""Takes in a wrong expression and where it stands."""


@dataclass(slots=True)
class Report:
    """Faults and warnings, each told once however many cells have it."""

    loaded: LoadedSpec
    faults: dict[tuple[str, str], Diagnostic] = field(default_factory=dict)
    warnings: dict[str, Diagnostic] = field(default_factory=dict)
    _sure: set[tuple[str, str]] = field(default_factory=set)

    def add(self, found: Diagnostic) -> None:
        """Take in a fault or warning; one in a file that the spec names is shown with the path that leads there."""
        named = self.loaded.files.get(found.position.file) if found.position else None
        if found.position and named:
            found = found._replace(position=found.position._replace(file=named.sources.file))
        if found.severity == "error":
            self.faults.setdefault((found.subject, found.message), found)
        else:
            self.warnings.setdefault(str(found), found)

    def fault(self, path: Path, message: str, hint: str = "", *, key: bool = False, sure: bool = False) -> None:
        """Take in a fault of the value (or ``key``) at a path of the spec; a ``sure`` one depends on no variable's value."""
        sources = self.loaded.sources
        if sure:
            self._sure.add((sources.subject(path), message))
        position = sources.key(path) if key else sources.value(path)
        self.add(Diagnostic(message, position, sources.subject(path), hint))

    def warn(self, path: Path, message: str, hint: str = "") -> None:
        """Take in a warning about the key at a path of the spec."""
        sources = self.loaded.sources
        self.add(Diagnostic(message, sources.key(path), sources.subject(path), hint, "warning"))

    def fault_in(self, group: Group, path: Path, message: str, hint: str = "") -> None:
        """Take in a fault inside a run's fields; one in the defaults is told there, once for all runs."""
        source, sources = group.source(path), self.loaded.sources
        subject = source if source[0] == "defaults" else ("runs", group.name, *path)
        self.add(Diagnostic(message, sources.value(source), sources.subject(subject), hint))

    def add_for(self, group: Group, found: Diagnostic) -> None:
        """Take in a fault that a provider or a template found; one without a position stands where the run does."""
        self.add(found if found.position else found._replace(position=self.loaded.sources.key(("runs", group.name))))

    def wrong(self, base: Path) -> Wrong:
        """Return what takes in wrong expressions below a path of the spec."""
        return lambda path, error: self.fault(base + path, error.message, error.hint)

    def wrong_in(self, group: Group) -> Wrong:
        """Return what takes in wrong expressions inside a run's fields."""
        return lambda path, error: self.fault_in(group, path, error.message, error.hint)

    def wrong_in_file(self, name: str) -> Wrong:
        """Return what takes in wrong expressions of a file that the spec names."""
        sources = self.loaded.files[name].sources
        return lambda path, error: self.add(Diagnostic(error.message, sources.value(path), dotted(path), error.hint))

    def in_order(self, unsure: Collection[Position] = ()) -> list[Diagnostic]:
        """Return all faults in the order of the files; at ``unsure`` places only the sure ones."""

        def place(fault: Diagnostic) -> tuple[str, int, int]:
            where = fault.position or Position("", 0, 0)
            return (where.file, where.line, where.column)

        known = (fault for key, fault in self.faults.items() if key in self._sure or fault.position not in unsure)
        return sorted(known, key=place)
