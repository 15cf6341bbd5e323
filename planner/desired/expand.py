"""From a loaded spec to desired runs: one for each cell of each run, complete and checked, renderable for any attempt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

from pydantic import ValidationError

from flowplan.planner.desired import fields as run_fields
from flowplan.planner.desired import matrix as matrices
from flowplan.planner.desired.evaluation import Branch, Evaluator, Leaf, compiled, leaves
from flowplan.planner.desired.expressions import ExpressionError, Scope
from flowplan.planner.desired.fields import FieldError, Origins
from flowplan.planner.desired.literals import LiteralError, sealed_kubeconfig, sealed_literal
from flowplan.planner.desired.mistakes import mistakes
from flowplan.planner.desired.order import BREAK_IT, first_cycle
from flowplan.planner.desired.sealing import Sealer
from flowplan.planner.desired.variables import Variables
from flowplan.planner.manifests import Manifests, ResolvedRun
from flowplan.schemas.documents import Document, scalar_text
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.load import LoadedSpec, faults_in
from flowplan.schemas.runs import Desired, Identity, Rendered, Settings, run_id
from flowplan.schemas.secrets import tokens_in
from flowplan.schemas.sources import Diagnostic, Path, Position, did_you_mean, dotted
from flowplan.schemas.spec import BUILT_IN_TYPES, json_schema, without_plugins

FORBIDDEN = ("name", "provider", "needs", "matrix", "template", *(k for k in run_fields.SETTINGS if k != "triggers"))
"""Fields that cannot hide a value: they are shown, or decide what exists."""

READABLE = {
    "command": "every user of the machine can read it in the process list",
    "entrypoint": "every user of the machine can read it in the process list",
    "labels": "everybody who may list the objects can read it",
    "annotations": "everybody who may list the objects can read it",
}
_NORMALISED = ("env", "command", "entrypoint", *run_fields.TEXT_MAPS, *run_fields.TEXT_FIELDS)
"""Fields whose normalisation checks their type; the others are checked by the model once they are evaluated."""

_SECRET_HINT = "use from_env, from_file or a sensitive variable"
_NOT_YET = "00000000-0000-0000-0000-000000000000"


class Expansion(NamedTuple):
    """What a spec wants.

    Attributes:
        desired: every run in the order of the spec; () when it was only checked.
        diagnostics: warnings and remarks.
        providers: entry name -> {"type": ..., settings with tokens for secrets}.
    """

    desired: tuple[Desired, ...]
    diagnostics: tuple[Diagnostic, ...]
    providers: Mapping[str, Mapping[str, Any]]
    project: str


def expand(
    loaded: LoadedSpec,
    variables: Variables,
    sealer: Sealer,
    manifests: Mapping[str, Manifests],
    *,
    lineage: str,
    only_check: bool = False,
) -> Expansion:
    """Every run that the spec wants.

    Args:
        manifests: provider type -> the pure half of the provider.
        lineage: of the state; names and run ids depend on it.
        only_check: find all faults, but make no desired runs (``lineage`` may be "").

    Raises:
        InvalidInput: every fault of meaning at once, each where it was written.
    """
    expander = _Expander(loaded, variables, sealer, manifests, lineage or _NOT_YET)
    desired = expander.run()
    expander.refuse_cycle(desired)
    if expander.report.faults:
        raise InvalidInput(expander.report.in_order())
    warnings = (*variables.warnings, *expander.report.warnings.values(), *mistakes(loaded, variables.by_name))
    return Expansion(() if only_check else desired, warnings, expander.used, loaded.spec.project)


@dataclass(slots=True)
class _Report:
    """Faults and warnings, each told once however many cells have it."""

    loaded: LoadedSpec
    faults: dict[tuple[str, str], Diagnostic] = field(default_factory=dict)
    warnings: dict[str, Diagnostic] = field(default_factory=dict)

    def fault(self, path: Path, message: str, hint: str = "", *, key: bool = False) -> None:
        sources = self.loaded.sources
        position = sources.key(path) if key else sources.value(path)
        self.add(Diagnostic(message, position, dotted(path), hint))

    def add(self, fault: Diagnostic) -> None:
        """Take in a fault or warning; one in a file that the spec names is shown with the path that leads there."""
        named = self.loaded.files.get(fault.position.file) if fault.position else None
        if fault.position and named:
            fault = fault._replace(position=fault.position._replace(file=named.sources.file))
        if fault.severity == "error":
            self.faults.setdefault((fault.subject, fault.message), fault)
        else:
            self.warnings.setdefault(str(fault), fault)

    def warn(self, path: Path, message: str, hint: str = "") -> None:
        self.add(Diagnostic(message, self.loaded.sources.key(path), dotted(path), hint, "warning"))

    def in_order(self) -> list[Diagnostic]:
        def place(fault: Diagnostic) -> tuple[str, int, int]:
            where = fault.position or Position("", 0, 0)
            return (where.file, where.line, where.column)

        return sorted(self.faults.values(), key=place)


@dataclass(slots=True)
class _Group:
    """One run of the spec: its fields, those that are the same for all cells and those that are not."""

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
    broken: bool = False


class _Expander:
    def __init__(
        self,
        loaded: LoadedSpec,
        variables: Variables,
        sealer: Sealer,
        manifests: Mapping[str, Manifests],
        lineage: str,
    ) -> None:
        self.loaded = loaded
        self.sealer = sealer
        self.manifests = manifests
        self.lineage = lineage
        self.report = _Report(loaded)
        self.values = variables.values
        self.sensitive = variables.sensitive
        self.provenance = {name: variable.origin for name, variable in variables.by_name.items()}
        self.project = loaded.spec.project
        self.entries = self._entries()
        self.used: dict[str, Mapping[str, Any]] = dict(self.entries)
        self.groups: dict[str, _Group] = {}
        self.known_addresses: set[str] = set()
        self.spec_dir = str(loaded.directory)
        self.file_trees: dict[str, Any] = {}

    def run(self) -> tuple[Desired, ...]:
        for name in self.loaded.tree["runs"]:
            self.groups[name] = self._group(name)
        for group in self.groups.values():
            self._address(group)
        self._check_moves()
        desired: list[Desired] = []
        for group in self.groups.values():
            if group.broken:
                self._check_rest(group)
            else:
                desired += self._desired(group)
        return tuple(desired)

    # providers

    def _entries(self) -> dict[str, Mapping[str, Any]]:
        entries: dict[str, Mapping[str, Any]] = {}
        for name, entry in (self.loaded.tree.get("providers") or {}).items():
            path = ("providers", name)
            evaluator = self._evaluator(Scope(self.values, None, {}, self.project), path)
            built = evaluator.build(compiled({"type": name, **entry}, (), self._wrong(path)))
            entries[name] = {k: self._sealed_setting(v, (*path, k)) for k, v in built.items() if v is not None}
        return entries

    def _sealed_setting(self, value: Any, path: Path) -> Any:
        if path[-1] == "kubeconfig":
            return sealed_kubeconfig(value, path, self._sealed_secret)
        return run_fields.sealed_reference(value, self.sealer)

    def _sealed_secret(self, value: Any, path: Path) -> Any:
        if run_fields.is_reference(value):
            return run_fields.sealed_reference(value, self.sealer)
        try:
            return self.literal(value, path)
        except LiteralError as error:
            self.report.fault(path, str(error), _SECRET_HINT)
            return None

    def literal(self, value: Any, path: Path) -> Any:
        """The token of a secret that is written out at a path of the spec."""
        written: Any = self.loaded.tree
        for part in path:
            written = written[part]
        return sealed_literal(written, value, self.loaded.path.name, path, self.sealer)

    def _literal_in(self, group: _Group) -> run_fields.Literal:
        def literal(value: Any, path: Path) -> Any:
            source = group.origins.source_path(path)
            try:
                return self.literal(value, source) if source else sealed_literal(None, value, "", path, self.sealer)
            except LiteralError as error:
                raise FieldError(f"{error}; {_SECRET_HINT}", path) from None

        return literal

    def normalise(self, group: _Group, key: str, values: dict[str, Any]) -> bool:
        """Turn the value of a field into its one form; False after telling what is wrong with it."""
        return self._guarded(group, key, run_fields.normaliser(key, self.sealer, self._literal_in(group)), values)

    def _provider(self, group: _Group, named: Any) -> str | None:
        """The name of the provider entry of a run, or None after telling what is wrong."""
        path = self._source(group, ("provider",))
        if named is None:
            if len(self.entries) == 1:
                return next(iter(self.entries))
            names = ", ".join(islice(self.entries, 20)) or ", ".join(BUILT_IN_TYPES)
            self.report.fault(("runs", group.name), "names no provider", f"write provider: one of {names}", key=True)
            return None
        if named in self.entries:
            return str(named)
        if named in BUILT_IN_TYPES:
            self.used[named] = self.entries.get(named, {"type": named})
            return str(named)
        near = did_you_mean(str(named), chain(self.entries, BUILT_IN_TYPES))
        hint = near or f"known: {', '.join(dict.fromkeys(islice(chain(self.entries, BUILT_IN_TYPES), 20)))}"
        self.report.fault(path, f'unknown provider "{named}"', hint)
        return None

    # one run of the spec

    def _source(self, group: _Group, path: Path) -> Path:
        """The path in the spec for a path inside a run's fields (or for the nearest place above it)."""
        for end in range(len(path), 0, -1):
            found = group.origins.source_path(path[:end])
            if found is not None:
                return found
        return ("runs", group.name)

    def _wrong(self, base: Path) -> Callable[[Path, ExpressionError], None]:
        return lambda path, error: self.report.fault(base + path, error.message, error.hint)

    def _wrong_in(self, group: _Group) -> Callable[[Path, ExpressionError], None]:
        def wrong(path: Path, error: ExpressionError) -> None:
            self._fault_in(group, path, error.message, error.hint)

        return wrong

    def _fault_in(self, group: _Group, path: Path, message: str, hint: str = "") -> None:
        """A fault inside a run's fields; one in the defaults is told there, once for all runs."""
        source = self._source(group, path)
        subject = source if source[0] == "defaults" else ("runs", group.name, *path)
        self.report.add(Diagnostic(message, self.loaded.sources.value(source), dotted(subject), hint))

    def wrong_in_file(self, name: str, base: Path = ()) -> Callable[[Path, ExpressionError], None]:
        """Tell of a wrong expression at its place in a file that the spec names."""
        sources = self.loaded.files[name].sources

        def wrong(path: Path, error: ExpressionError) -> None:
            place = base + path
            self.report.add(Diagnostic(error.message, sources.value(place), dotted(place), error.hint))

        return wrong

    def file_tree(self, name: str) -> Any:
        """The content of a file that the spec names, compiled once for all cells of all runs."""
        if name not in self.file_trees:
            self.file_trees[name] = compiled(self.loaded.files[name].value, (), self.wrong_in_file(name))
        return self.file_trees[name]

    def trees_of(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The files with expressions that a run's template, manifest and customizations are: name -> compiled content."""
        block = fields.get("kubernetes")
        named = [
            fields.get("template"),
            *((block.get("job"), block.get("customizations")) if isinstance(block, dict) else ()),
        ]
        trees = {name: self.file_tree(name) for name in named if isinstance(name, str) and name in self.loaded.files}
        return {name: tree for name, tree in trees.items() if isinstance(tree, Leaf | Branch)}

    def _evaluator(self, scope: Scope, base: Path) -> Evaluator:
        return Evaluator(scope, self.sensitive, self.sealer, self._wrong(base))

    def _group(self, name: str) -> _Group:
        tree = self.loaded.tree
        origins = Origins(self.loaded.sources, tree, name, self.loaded.path.name, self.provenance)
        group = _Group(name, run_fields.merged(tree.get("defaults") or {}, tree["runs"][name]), origins)
        origins.moved = run_fields.with_env_files(group.fields, self.loaded.env_files, self.sealer)
        before = len(self.report.faults)
        for key in ("command", "entrypoint"):
            if key in group.fields:
                self._guarded(group, key, partial(run_fields.split_command, key=key))
        trees = {k: compiled(v, (k,), self._wrong_in(group)) for k, v in group.fields.items()}
        self._placements(group, trees)
        if trees.get("max_parallel") is not None and "matrix" not in trees and "max_parallel" in tree["runs"][name]:
            self.report.warn(("runs", name, "max_parallel"), "does nothing: the run has no matrix")
        group.cells = self._cells(group, trees.pop("matrix", None))
        for key, node in trees.items():
            if isinstance(node, Leaf | Branch):
                group.dynamic[key] = node
            else:
                group.static[key] = node
        group.files = self.trees_of(group.fields)
        nodes = chain(trees.values(), group.files.values())
        late = (r for node in nodes for leaf in leaves(node) for r in leaf.template.references)
        group.late = any(r.namespace == "run" and r.steps[0] in ("id", "attempt") for r in late)
        for key in tuple(group.static):
            self.normalise(group, key, group.static)
        self._not_late(group)
        group.broken = len(self.report.faults) > before
        return group

    def _guarded(
        self,
        group: _Group,
        key: str,
        change: Callable[[Any], Any] | None,
        values: dict[str, Any] | None = None,
    ) -> bool:
        values = group.fields if values is None else values
        if change is None:
            return True
        try:
            values[key] = change(values[key])
        except FieldError as error:
            self._fault_in(group, error.path, error.message)
            return False
        return True

    def _placements(self, group: _Group, trees: Mapping[str, Any]) -> None:
        if not self.sensitive:
            return
        for key, node in trees.items():
            if key not in FORBIDDEN and key not in READABLE:
                continue
            for leaf in leaves(node):
                names = [r.steps[0] for r in leaf.template.references if r.namespace == "var"]
                secret = next((n for n in names if n in self.sensitive), None)
                if secret is None:
                    continue
                path = self._source(group, leaf.path)
                if key in FORBIDDEN:
                    self.report.fault(path, f"the sensitive variable {secret} cannot be used here", "it would be shown")
                else:
                    self.report.warn(path, f"holds the sensitive variable {secret}; {READABLE[key]}", "use env instead")

    def _not_late(self, group: _Group) -> None:
        for key in (*run_fields.SETTINGS, "needs", "provider", "template"):
            for leaf in leaves(group.dynamic.get(key)):
                late = next(
                    (r for r in leaf.template.references if r.namespace == "run" and r.steps[0] != "address"), None
                )
                if late is not None:
                    self.report.fault(
                        self._source(group, leaf.path), f"{late.text} cannot be used here", "it differs by attempt"
                    )

    def _cells(self, group: _Group, node: Any) -> Sequence[matrices.MatrixCell | None]:
        if node is None:
            return (None,)
        scope = Scope(self.values, None, {}, self.project)
        evaluator = Evaluator(scope, self.sensitive, self.sealer, self._wrong_in(group))
        matrix = evaluator.build(node)
        if evaluator.failed:
            return ()
        try:
            return matrices.cells(matrix)
        except matrices.MatrixError as error:
            self.report.fault(self._source(group, ("matrix", *error.path)), error.message, error.hint)
            return ()

    def _address(self, group: _Group) -> None:
        for cell in group.cells:
            address = group.name if cell is None else matrices.address(group.name, cell.values, cell.shown)
            if address in self.known_addresses:
                path = self._source(group, ("matrix",))
                self.report.fault(path, f"two cells have the address {address}", "remove a repeated value")
                group.broken = True
            self.known_addresses.add(address)
            group.addresses.append(address)

    def _check_moves(self) -> None:
        """A mistaken ``moved`` would destroy a run under its new name, a mistaken ``removed`` would do nothing."""
        moved = self.loaded.spec.moved
        for index, move in enumerate(moved):
            if move.from_ in self.known_addresses:
                hint = "take the run or this entry away"
                self.report.fault(("moved", index, "from"), f'"{move.from_}" is still a run of this spec', hint)
            broken = (group := self.groups.get(move.to.partition("[")[0])) is not None and group.broken
            if not broken and self._needed(move.to) is None and move.to not in {other.from_ for other in moved}:
                known = [*self.groups, *self._addresses_like(move.to)]
                hint = did_you_mean(move.to, known) or f"known: {', '.join(list(self.groups)[:10])}"
                self.report.fault(("moved", index, "to"), f'unknown run "{move.to}"', hint)
        for index, address in enumerate(self.loaded.spec.removed):
            if address in self.known_addresses or address in self.groups:
                hint = "take the run or this entry away"
                self.report.fault(("removed", index), f'"{address}" is still a run of this spec', hint)

    # its cells

    def _desired(self, group: _Group) -> list[Desired]:
        made = []
        for index, (cell, address) in enumerate(zip(group.cells, group.addresses, strict=True)):
            one = _CellRun(self, group, index, cell, address)
            run = one.resolved(1)
            if run is None:
                self._check_rest(group)
                break
            module = self._manifests(group, run)
            settings = one.settings(run)
            if module is None or settings is None:
                break
            for fault in module.check(run):
                self.report.add(fault if fault.position else self._placed(group, fault))
            render = _Render(one, run, module, Identity(self.project, self.lineage, address, 1))
            made.append(Desired(address, run.provider, run.type, settings, render))
        return made

    def refuse_cycle(self, desired: Sequence[Desired]) -> None:
        """Tell of a cycle of needs, where the needs of its first run are written."""
        needs = {run.address: run.settings.needs for run in desired if run.settings.needs}
        cycle = first_cycle(list(needs), needs) if needs else []
        if cycle:
            group = next(g for g in self.groups.values() if cycle[0] in g.addresses)
            message = f"the runs need each other in a cycle: {' -> '.join(cycle)}"
            self.report.fault(self._source(group, ("needs",)), message, BREAK_IT)

    def _placed(self, group: _Group, fault: Diagnostic) -> Diagnostic:
        """A fault of a run as a whole, where the run is written."""
        position = self.loaded.sources.key(("runs", group.name))
        return Diagnostic(fault.message, position, fault.subject, fault.hint, fault.severity)

    def _check_rest(self, group: _Group) -> None:
        """What else is wrong with a run that cannot be resolved, so that all faults are told at once."""
        self.needs(group, group.static.get("needs") or ())
        if "provider" not in group.dynamic:
            self._provider(group, group.static.get("provider"))

    def _manifests(self, group: _Group, run: ResolvedRun) -> Manifests | None:
        try:
            return self.manifests[run.type]
        except KeyError:
            path = self._source(group, ("provider",))
            self.report.fault(path, f'there is no provider of the type "{run.type}"', "install it, or use another one")
            return None

    def needs(self, group: _Group, wanted: Sequence[Any]) -> tuple[str, ...] | None:
        """The concrete addresses of ``needs``, or None after telling what is not known."""
        found: dict[str, None] = {}
        all_known = True
        for index, need in enumerate(wanted):
            addresses = self._needed(str(need))
            if addresses is None:
                near = did_you_mean(str(need), chain(self.groups, self._addresses_like(str(need))))
                hint = near or f"known: {', '.join(islice(self.groups, 10))}"
                self.report.fault(self._source(group, ("needs", index)), f'unknown run "{need}"', hint)
                all_known = False
            else:
                found.update(dict.fromkeys(addresses))
        return tuple(found) if all_known else None

    def _needed(self, need: str) -> Sequence[str] | None:
        if need in self.groups:
            return self.groups[need].addresses
        if need in self.known_addresses:
            return (need,)
        try:
            name, values = matrices.parse_address(need)
        except ValueError:
            return None
        group = self.groups.get(name)
        if group is None or values is None:
            return None
        if not group.by_values:
            pairs = zip(group.cells, group.addresses, strict=False)
            group.by_values = {_values_of(cell): address for cell, address in pairs if cell is not None}
        found = group.by_values.get(frozenset(values.items()))
        return None if found is None else (found,)

    def _addresses_like(self, need: str) -> Sequence[str]:
        group = self.groups.get(need.partition("[")[0])
        return group.addresses[:1000] if group else ()


def _values_of(cell: matrices.MatrixCell) -> frozenset[tuple[str, str]]:
    return frozenset((name, scalar_text(cell.values[name])) for name in cell.shown)


@dataclass(frozen=True, slots=True)
class _CellRun:
    """One cell of one run, resolvable for any attempt."""

    expander: _Expander
    group: _Group
    index: int
    cell: matrices.MatrixCell | None
    address: str

    def resolved(self, attempt: int, address: str = "") -> ResolvedRun | None:
        """The run with everything evaluated, or None after telling what is wrong.

        Args:
            address: whose run id ``${run.id}`` is, when that is not the run's own address.
        """
        expander, group = self.expander, self.group
        values = group.static if not group.dynamic else self._fields(attempt, address or self.address)
        if values is None:
            return None
        provider = expander._provider(group, values.get("provider"))
        if provider is None:
            return None
        connection = expander.used[provider]
        files = self._evaluated_files(attempt, address or self.address)
        if files is None:
            return None
        run = ResolvedRun(
            address=self.address,
            group=group.name,
            index=self.index,
            provider=provider,
            type=str(connection["type"]),
            fields=self._own_blocks(values, str(connection["type"])),
            connection=connection,
            spec_dir=expander.spec_dir,
            files=files,
            origins=group.origins,
        )
        return (
            self._filled(run, attempt, address or self.address)
            if "template" in values or "variables" in values
            else run
        )

    def _evaluated_files(self, attempt: int, address: str) -> Mapping[str, Document] | None:
        """The files that the spec names, with the expressions in the run's own evaluated for this cell."""
        expander, own = self.expander, {}
        for name, tree in self.group.files.items():
            if name == self.group.fields.get("template"):
                continue  # its placeholders are filled first: what they bring along is text
            scope = self._scope(attempt, address)
            evaluator = Evaluator(scope, expander.sensitive, expander.sealer, expander.wrong_in_file(name))
            own[name] = expander.loaded.files[name]._replace(value=evaluator.build(tree))
            if evaluator.failed:
                return None
        return {**expander.loaded.files, **own} if own else expander.loaded.files

    def _filled(self, run: ResolvedRun, attempt: int, address: str) -> ResolvedRun | None:
        """The run with what its base job template says, checked like fields of the run, or None (T1-T18)."""
        from flowplan.planner.desired.template import apply_template, as_written

        name = run.fields.get("template")
        if name is None:
            self.expander._fault_in(self.group, ("variables",), "are given, but there is no template")
            return None
        scope, expander = self._scope(attempt, address), self.expander
        evaluator = Evaluator(scope, expander.sensitive, expander.sealer, expander.wrong_in_file(name))

        def evaluate(value: Any, path: Path) -> Any:
            return evaluator.build(compiled(value, path, expander.wrong_in_file(name)))

        try:
            filled = apply_template(run, run.files[name], name, evaluate if name in self.group.files else as_written)
        except InvalidInput as error:
            for fault in error.diagnostics:
                self.expander.report.add(fault if fault.position else self.expander._placed(self.group, fault))
            return None
        if evaluator.failed:
            return None
        values = dict(filled.fields)
        given = [key for key, value in values.items() if value != run.fields.get(key)]
        for key in FORBIDDEN:
            if key in given and tokens_in(values[key]):
                self.expander._fault_in(self.group, (key,), "cannot hide a sensitive value", "it would be shown")
                return None
        sound = self._typed({k: values[k] for k in given if k not in _NORMALISED}, filled)
        if not sound or not all(self.expander.normalise(self.group, key, values) for key in given):
            return None
        return replace(filled, fields=values)

    def _own_blocks(self, values: dict[str, Any], kind: str) -> dict[str, Any]:
        others = [name for name in BUILT_IN_TYPES if name != kind and name in values]
        if not others:
            return values
        for name in others if self.index == 0 else ():
            path = ("runs", self.group.name, name)
            if name in self.expander.loaded.tree["runs"][self.group.name]:
                self.expander.report.warn(path, f"is ignored: the run's provider is of the type {kind}")
        return {k: v for k, v in values.items() if k not in others}

    def _scope(self, attempt: int, address: str) -> Scope:
        expander = self.expander
        run: dict[str, Any] = {"address": self.address, "attempt": attempt, "id": ""}
        if self.group.late:
            run["id"] = run_id(expander.lineage, address, attempt)
        each = None if self.cell is None else {"index": self.index, **self.cell.values}
        return Scope(expander.values, each, run, expander.project)

    def _fields(self, attempt: int, address: str) -> dict[str, Any] | None:
        expander, group = self.expander, self.group
        scope = self._scope(attempt, address)
        evaluator = Evaluator(scope, expander.sensitive, expander.sealer, expander._wrong_in(group))
        values = dict(group.static)
        for key, node in group.dynamic.items():
            value = evaluator.build(node)
            if value is not None:
                values[key] = value
        checked = {key: values[key] for key in group.dynamic if key in values and key not in _NORMALISED}
        if evaluator.failed or not self._typed(checked):
            return None
        for key in group.dynamic:
            if key in values and not expander.normalise(group, key, values):
                return None
        return values

    def _typed(self, checked: Mapping[str, Any], filled: ResolvedRun | None = None) -> bool:
        """Checks fields that the normalisation does not check: evaluated ones, or what a template gave."""
        if not checked:
            return True
        model = self.expander.loaded.spec.runs[self.group.name].__class__
        try:
            with without_plugins():
                model.model_validate(checked, context={"evaluated": True})
        except ValidationError as error:
            self._tell(error, filled)
            return False
        return True

    def _tell(self, error: ValidationError, filled: ResolvedRun | None) -> None:
        for fault in faults_in(error, json_schema()):
            if filled is None:
                self.expander._fault_in(self.group, fault.path, fault.message, fault.hint)
                continue
            origin = filled.origin(*fault.path)
            subject = dotted(("runs", self.group.name, *fault.path))
            self.expander.report.add(Diagnostic(fault.message, origin.position, subject, fault.hint))

    @staticmethod
    def _varies(group: _Group) -> bool:
        """What a template gives may differ by cell, settings too."""
        return "template" in group.fields and bool(group.dynamic or group.files)

    def settings(self, run: ResolvedRun) -> Settings | None:
        """What flowplan does with the run; shared by all cells where nothing in it differs."""
        group = self.group
        settings = group.settings
        if settings is None:
            settings = run_fields.settings(group.name, run.fields)
            if not any(key in group.dynamic for key in run_fields.SETTINGS) and not self._varies(group):
                group.settings = settings
        needs = group.needs
        if needs is None:
            needs = self.expander.needs(group, run.fields.get("needs") or ())
            if needs is not None and "needs" not in group.dynamic:
                group.needs = needs
        if needs is None:
            return None
        if needs == settings.needs:
            return settings
        settings = replace(settings, needs=needs)
        if group.settings is not None and group.needs is not None:
            group.settings = settings
        return settings


@dataclass(frozen=True, slots=True)
class _Render:
    """Renders one run for an attempt; evaluates it again only if it uses ``${run.id}`` or ``${run.attempt}``."""

    cell: _CellRun
    first: ResolvedRun
    module: Manifests
    identity: Identity

    def __call__(self, attempt: int, address: str = "") -> Rendered:
        run: ResolvedRun | None = self.first
        if self.cell.group.late and (attempt != 1 or address):
            run = self.cell.resolved(attempt, address)
            if run is None:
                raise InvalidInput(self.cell.expander.report.in_order())
        assert run is not None
        identity = self.identity if attempt == 1 else self.identity._replace(attempt=attempt)
        if address:
            identity = identity._replace(address=address)
        return self.module.render(run, identity)
