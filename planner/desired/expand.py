"""From a loaded spec to desired runs: one for each cell of each run, complete and checked, renderable for any attempt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from flowplan.planner.desired import fields as run_fields
from flowplan.planner.desired import matrix as matrices
from flowplan.planner.desired.evaluation import Branch, Evaluator, Leaf, compiled, leaves
from flowplan.planner.desired.expressions import Scope
from flowplan.planner.desired.fields import FieldError, Origins
from flowplan.planner.desired.groups import Addresses, Group
from flowplan.planner.desired.literals import LiteralError, sealed_kubeconfig, sealed_literal
from flowplan.planner.desired.mistakes import mistakes
from flowplan.planner.desired.order import BREAK_IT, first_cycle
from flowplan.planner.desired.reporting import Report, Wrong
from flowplan.planner.desired.sealing import Sealer
from flowplan.planner.desired.unset import depends_on, unsure_places
from flowplan.planner.desired.variables import Variables
from flowplan.planner.manifests import Manifests, ResolvedRun, traits
from flowplan.schemas.composition import is_reference
from flowplan.schemas.documents import Document
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.load import LoadedSpec, faults_in
from flowplan.schemas.references import glob_hint
from flowplan.schemas.runs import Desired, Identity, Rendered, Settings, run_id
from flowplan.schemas.secrets import tokens_in
from flowplan.schemas.sources import Diagnostic, Path, did_you_mean
from flowplan.schemas.spec import BUILT_IN_TYPES, json_schema, without_plugins

if TYPE_CHECKING:
    from flowplan.planner.desired.template_file import Template

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

_SETTING = (*run_fields.SETTINGS, "retries", "retry_delay", "provider")
"""Fields that decide on the settings of a run."""
_SECRET_HINT = "use from_env, from_file or a sensitive variable"


class Expansion(NamedTuple):
    """What a spec wants.

    Attributes:
        desired: every run in the order of the spec.
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
    comparable: bool = False,
) -> Expansion:
    """Return every run that the spec wants.

    Args:
        manifests: provider type -> the pure half of the provider.
        lineage: of the state; names and run ids depend on it.
        comparable: name and label objects as without an environment, so that those of two can be compared.

    Raises:
        InvalidInput: every fault of meaning at once, each where it was written.
    """
    context = _Context(loaded, variables, sealer, lineage)
    context.named = "" if comparable else loaded.environment
    expander = _Expander(context, manifests)
    desired = expander.run()
    faults = context.report.in_order(unsure_places(loaded, variables.unset)) if context.report.faults else []
    if faults:
        raise InvalidInput(faults)
    warnings = (*variables.warnings, *context.report.warnings.values(), *mistakes(loaded, variables.by_name))
    return Expansion(desired, warnings, expander.providers.used, loaded.spec.project)


class _Context:
    """What every part of an expansion uses: the spec, the values of its variables, the sealer and the report."""

    def __init__(self, loaded: LoadedSpec, variables: Variables, sealer: Sealer, lineage: str) -> None:
        self.loaded = loaded
        self.sealer = sealer
        self.lineage = lineage
        self.report = Report(loaded)
        self.values = variables.values
        self.sensitive = variables.sensitive
        self.unset = variables.unset
        self.provenance = {name: variable.origin for name, variable in variables.by_name.items()}
        self.project, self.environment = loaded.spec.project, loaded.environment
        self.named = self.environment
        self.file_trees: dict[str, Any] = {}
        self.templates: dict[str, Template] = {}

    def scope(self) -> Scope:
        """Return the scope of expressions that stand outside of any cell."""
        return Scope(self.values, None, {}, self.project, self.environment)

    def evaluator(self, scope: Scope, wrong: Wrong) -> Evaluator:
        """Return an evaluator that seals what a sensitive variable enters."""
        return Evaluator(scope, self.sensitive, self.sealer, wrong)

    def literal(self, value: Any, path: Path) -> Any:
        """Return the token of a secret that is written out at a path of the spec."""
        written: Any = self.loaded.tree
        for part in path:
            written = written[part]
        sources = self.loaded.sources
        file = sources.names.get(sources.value(path).file, self.loaded.path.name)
        return sealed_literal(written, value, file, sources.place(path), self.sealer)

    def normalise(self, group: Group, key: str, values: dict[str, Any]) -> bool:
        """Turn the value of a field into its one form; return False after telling what is wrong with it."""

        def literal(value: Any, path: Path) -> Any:
            source = group.origins.source_path(path)
            try:
                return self.literal(value, source) if source else sealed_literal(None, value, "", path, self.sealer)
            except LiteralError as error:
                raise FieldError(f"{error}; {_SECRET_HINT}", path) from None

        return self.changed(group, key, run_fields.normaliser(key, self.sealer, literal), values)

    def changed(self, group: Group, key: str, change: Callable[[Any], Any] | None, values: dict[str, Any]) -> bool:
        """Change the value of a field; return False after telling what is wrong with it."""
        try:
            if change is not None:
                values[key] = change(values[key])
        except FieldError as error:
            self.report.fault_in(group, error.path, error.message)
            return False
        return True

    def files_of(self, fields: Mapping[str, Any]) -> dict[str, Leaf | Branch]:
        """Return the files with expressions that a run's template, manifest and customizations are, compiled once."""
        block = fields.get("kubernetes")
        named = [
            fields.get("template"),
            *((block.get("job"), block.get("customizations")) if isinstance(block, dict) else ()),
        ]
        found = {}
        for name in named:
            if isinstance(name, str) and name in self.loaded.files:
                if name not in self.file_trees:
                    content = self.loaded.files[name].value
                    self.file_trees[name] = compiled(content, (), self.report.wrong_in_file(name))
                if isinstance(self.file_trees[name], Leaf | Branch):
                    found[name] = self.file_trees[name]
        return found

    def template(self, name: str) -> Template:
        """Return a base job template, which is checked once for all runs.

        Raises:
            InvalidInput: it is not a template, or has placeholders that cannot be filled.
        """
        if name not in self.templates:
            from flowplan.planner.desired.template_file import load_template

            self.templates[name] = load_template(self.loaded.files[name], name)
        return self.templates[name]


class _Providers:
    """The provider entries of a spec, evaluated, with tokens for their secrets."""

    def __init__(self, context: _Context) -> None:
        self.context = context
        self.entries: dict[str, Mapping[str, Any]] = {}
        for name, entry in (context.loaded.tree.get("providers") or {}).items():
            path = ("providers", name)
            wrong = context.report.wrong(path)
            built = context.evaluator(context.scope(), wrong).build(compiled({"type": name, **entry}, (), wrong))
            self.entries[name] = {k: self._sealed(v, (*path, k)) for k, v in built.items() if v is not None}
        self.used: dict[str, Mapping[str, Any]] = dict(self.entries)

    def _sealed(self, value: Any, path: Path) -> Any:
        if path[-1] == "kubeconfig":
            return sealed_kubeconfig(value, path, self._sealed_secret)
        return run_fields.sealed_reference(value, self.context.sealer)

    def _sealed_secret(self, value: Any, path: Path) -> Any:
        if is_reference(value):
            return run_fields.sealed_reference(value, self.context.sealer)
        try:
            return self.context.literal(value, path)
        except LiteralError as error:
            self.context.report.fault(path, str(error), _SECRET_HINT)
            return None

    def name_for(self, group: Group, named: Any) -> str | None:
        """Return the name of the provider entry of a run, or None after telling what is wrong."""
        report = self.context.report
        if named is None:
            if len(self.entries) == 1:
                return next(iter(self.entries))
            names = ", ".join(islice(self.entries, 20)) or ", ".join(BUILT_IN_TYPES)
            report.fault(("runs", group.name), "names no provider", f"write provider: one of {names}", key=True)
            return None
        if named in self.entries:
            return str(named)
        if named in BUILT_IN_TYPES:
            self.used[named] = {"type": named}
            return str(named)
        near = did_you_mean(str(named), chain(self.entries, BUILT_IN_TYPES))
        hint = near or f"known: {', '.join(dict.fromkeys(islice(chain(self.entries, BUILT_IN_TYPES), 20)))}"
        report.fault(group.source(("provider",)), f'unknown provider "{named}"', hint)
        return None


class _Expander:
    def __init__(self, context: _Context, manifests: Mapping[str, Manifests]) -> None:
        self.context = context
        self.report = context.report
        self.manifests = manifests
        self.providers = _Providers(context)
        self.addresses = Addresses()

    def run(self) -> tuple[Desired, ...]:
        """Return every run that can be resolved, and tell of all faults."""
        groups = self.addresses.groups
        for name in self.context.loaded.tree["runs"]:
            groups[name] = self._group(name)
        for group in groups.values():
            for address in self.addresses.name_cells(group):
                path = group.source(("matrix",))
                self.report.fault(path, f"two cells have the address {address}", "remove a repeated value")
                group.broken = True
        self._check_moves()
        desired: list[Desired] = []
        for group in groups.values():
            if group.broken:
                self._check_rest(group)
            else:
                desired += self._desired(group)
        needs = {run.address: run.settings.needs for run in desired if run.settings.needs}
        if cycle := first_cycle(list(needs), needs) if needs else []:
            first = next(group for group in groups.values() if cycle[0] in group.addresses)
            message = f"the runs need each other in a cycle: {' -> '.join(cycle)}"
            self.report.fault(first.source(("needs",)), message, BREAK_IT)
        return tuple(desired)

    def _group(self, name: str) -> Group:
        """Return one run of the spec with its fields compiled and, where they are the same for all cells, checked."""
        context, report, tree = self.context, self.report, self.context.loaded.tree
        origins = Origins(context.loaded.sources, tree, name, context.provenance)
        group = Group(name, run_fields.merged(tree.get("defaults") or {}, tree["runs"][name]), origins)
        origins.moved = run_fields.with_env_files(group.fields, context.loaded.env_files, context.sealer)
        before = len(report.faults)
        for key in ("command", "entrypoint"):
            if key in group.fields:
                context.changed(group, key, partial(run_fields.split_command, key=key), group.fields)
        trees = {k: compiled(v, (k,), report.wrong_in(group)) for k, v in group.fields.items()}
        self._check_secrets(group, trees)
        for key in ("max_parallel", "keep"):
            if trees.get(key) is not None and "matrix" not in trees and key in tree["runs"][name]:
                report.warn(("runs", name, key), "does nothing: the run has no matrix")
        if "retry_delay" in tree["runs"][name] and not trees.get("retries") and "template" not in trees:
            report.warn(("runs", name, "retry_delay"), "does nothing: the run has no retries")
        matrix = trees.pop("matrix", None)
        group.open = depends_on(matrix, context.unset)
        group.cells = self._cells(group, matrix)
        for key, node in trees.items():
            if key in run_fields.SETTINGS and depends_on(node, context.unset):
                continue  # all of them can be left out
            if isinstance(node, Leaf | Branch):
                group.dynamic[key] = node
            else:
                group.static[key] = node
        group.files = context.files_of(group.fields)
        nodes = chain(trees.values(), group.files.values())
        late = (r for node in nodes for leaf in leaves(node) for r in leaf.template.references)
        group.late = any(r.namespace == "run" and r.steps[0] in ("id", "attempt") for r in late)
        for key in tuple(group.static):
            context.normalise(group, key, group.static)
        self._refuse_late(group)
        group.broken = len(report.faults) > before
        return group

    def _check_secrets(self, group: Group, trees: Mapping[str, Any]) -> None:
        """Refuse sensitive variables in fields that are shown; warn where other users can read them."""
        sensitive = self.context.sensitive
        for key, node in trees.items() if sensitive else ():
            for leaf in leaves(node) if key in FORBIDDEN or key in READABLE else ():
                names = [r.steps[0] for r in leaf.template.references if r.namespace == "var"]
                secret = next((n for n in names if n in sensitive), None)
                path = group.source(leaf.path)
                if secret is not None and key in FORBIDDEN:
                    self.report.fault(
                        path, f"the sensitive variable {secret} cannot be used here", "it would be shown", sure=True
                    )
                elif secret is not None:
                    self.report.warn(path, f"holds the sensitive variable {secret}; {READABLE[key]}", "use env instead")

    def _refuse_late(self, group: Group) -> None:
        """Refuse what differs by attempt in fields that are the same for all attempts."""
        for key in (*run_fields.SETTINGS, "needs", "provider", "template"):
            for leaf in leaves(group.dynamic.get(key)):
                for late in leaf.template.references:
                    if late.namespace == "run" and late.steps[0] != "address":
                        path = group.source(leaf.path)
                        self.report.fault(path, f"{late.text} cannot be used here", "it differs by attempt")
                        break

    def _cells(self, group: Group, node: Any) -> Sequence[matrices.MatrixCell | None]:
        if node is None:
            return (None,)
        evaluator = self.context.evaluator(self.context.scope(), self.report.wrong_in(group))
        matrix = evaluator.build(node)
        if evaluator.failed:
            return ()
        try:
            return matrices.cells(matrix)
        except matrices.MatrixError as error:
            self.report.fault(group.source(("matrix", *error.path)), error.message, error.hint)
            return ()

    def _check_moves(self) -> None:
        """Refuse a mistaken ``moved``, which would destroy a run, and a ``removed`` that would do nothing."""
        known, spec = self.addresses, self.context.loaded.spec
        for index, move in enumerate(spec.moved):
            if move.from_ in known.known:
                hint = "take the run or this entry away"
                self.report.fault(("moved", index, "from"), f'"{move.from_}" is still a run of this spec', hint)
            broken = (group := known.groups.get(move.to.partition("[")[0])) is not None and group.broken
            if not broken and known.meant(move.to) is None and move.to not in {other.from_ for other in spec.moved}:
                self.report.fault(("moved", index, "to"), f'unknown run "{move.to}"', known.nearest(move.to))
        for index, address in enumerate(spec.removed):
            if address in known.known or address in known.groups:
                hint = "take the run or this entry away"
                self.report.fault(("removed", index), f'"{address}" is still a run of this spec', hint)

    def _desired(self, group: Group) -> list[Desired]:
        """Return the runs of all cells, each checked by its provider."""
        made = []
        for index, (cell, address) in enumerate(zip(group.cells, group.addresses, strict=True)):
            one = _CellRun(self, group, index, cell, address)
            run = one.resolved(1)
            if run is None:
                self._check_rest(group)
                break
            module = self.manifests.get(run.type)
            if module is None:
                message = f'there is no provider of the type "{run.type}"'
                self.report.fault(group.source(("provider",)), message, "install it, or use another one")
                break
            delayed = run.fields.get("retries") and run.fields.get("retry_delay") is not None
            keeper = traits(module).RETRY_DELAY if delayed else "engine"
            if not keeper:
                self.report.warn(group.source(("retry_delay",)), f"is not kept by providers of the type {run.type}")
            together = traits(module).together(run)
            settings = one.settings(run, tries_again=keeper == "flowplan", together=together)
            if settings is None:
                break
            for fault in module.check(run):
                self.report.add_for(group, fault)
            context = self.context
            identity = Identity(context.project, context.lineage, address, 1, context.named)
            render = _Render(one, run, module, identity)
            made.append(Desired(address, run.provider, run.type, settings, render))
        return made

    def _check_rest(self, group: Group) -> None:
        """Tell what else is wrong with a run that cannot be resolved, so that all faults are told at once."""
        self.needs(group, group.static.get("needs") or ())
        if "provider" not in group.dynamic:
            self.providers.name_for(group, group.static.get("provider"))

    def needs(self, group: Group, wanted: str | Sequence[Any]) -> tuple[str, ...] | None:
        """Return the concrete addresses of ``needs``, or None after telling what is not known."""
        found: dict[str, None] = {}
        all_known = True
        single = isinstance(wanted, str)
        for index, need in enumerate([wanted] if isinstance(wanted, str) else map(str, wanted)):
            addresses = self.addresses.meant(need)
            if addresses is None:
                path = group.source(("needs",) if single else ("needs", index))
                self.report.fault(path, f'unknown run "{need}"', glob_hint(need) or self.addresses.nearest(need))
                all_known = False
            else:
                found.update(dict.fromkeys(addresses))
        return tuple(found) if all_known else None


@dataclass(frozen=True, slots=True)
class _CellRun:
    """One cell of one run, resolvable for any attempt."""

    expander: _Expander
    group: Group
    index: int
    cell: matrices.MatrixCell | None
    address: str

    def resolved(self, attempt: int, address: str = "") -> ResolvedRun | None:
        """Return the run with everything evaluated, or None after telling what is wrong.

        Args:
            address: whose run id ``${run.id}`` is, when that is not the run's own address.
        """
        context, providers, group = self.expander.context, self.expander.providers, self.group
        scope = self._scope(attempt, address or self.address)
        values = self._fields(scope) if group.dynamic else group.static
        provider = None if values is None else providers.name_for(group, values.get("provider"))
        files = None if provider is None else self._files(scope)
        if values is None or provider is None or files is None:
            return None
        connection = providers.used[provider]
        run = ResolvedRun(
            address=self.address,
            group=group.name,
            index=self.index,
            provider=provider,
            type=str(connection["type"]),
            fields=self._own_blocks(values, str(connection["type"])),
            connection=connection,
            spec_dir=str(context.loaded.directory),
            files=files,
            origins=group.origins,
        )
        return self._filled(run, scope) if "template" in values or "variables" in values else run

    def _files(self, scope: Scope) -> Mapping[str, Document] | None:
        """Return the files that the spec names, with the expressions in the run's own evaluated for this cell."""
        context, own = self.expander.context, {}
        for name, tree in self.group.files.items():
            if name == self.group.fields.get("template"):
                continue  # its placeholders are filled first: what they bring along is text
            evaluator = context.evaluator(scope, context.report.wrong_in_file(name))
            own[name] = context.loaded.files[name]._replace(value=evaluator.build(tree))
            if evaluator.failed:
                return None
        return {**context.loaded.files, **own} if own else context.loaded.files

    def _filled(self, run: ResolvedRun, scope: Scope) -> ResolvedRun | None:
        """Return the run with what its base job template says, checked like fields of the run, or None."""
        from flowplan.planner.desired.template import apply_template, as_written

        name, context, report = run.fields.get("template"), self.expander.context, self.expander.report
        if name is None:
            report.fault_in(self.group, ("variables",), "are given, but there is no template")
            return None
        wrong = report.wrong_in_file(name)
        evaluator = context.evaluator(scope, wrong)

        def evaluate(value: Any, path: Path) -> Any:
            return evaluator.build(compiled(value, path, wrong))

        try:
            filled = apply_template(run, context.template(name), evaluate if name in self.group.files else as_written)
        except InvalidInput as error:
            for fault in error.diagnostics:
                report.add_for(self.group, fault)
            return None
        if evaluator.failed:
            return None
        values = dict(filled.fields)
        given = [key for key, value in values.items() if value != run.fields.get(key)]
        for key in FORBIDDEN:
            if key in given and tokens_in(values[key]):
                report.fault_in(self.group, (key,), "cannot hide a sensitive value", "it would be shown")
                return None
        sound = self._typed({k: values[k] for k in given if k not in _NORMALISED}, filled)
        if not sound or not all(context.normalise(self.group, key, values) for key in given):
            return None
        return replace(filled, fields=values)

    def _own_blocks(self, values: dict[str, Any], kind: str) -> dict[str, Any]:
        """Return the fields without the blocks of other built-in providers; warn of those that the run itself has."""
        others = [name for name in BUILT_IN_TYPES if name != kind and name in values]
        if not others:
            return values
        for name in others if self.index == 0 else ():
            path = ("runs", self.group.name, name)
            if name in self.expander.context.loaded.tree["runs"][self.group.name]:
                self.expander.report.warn(path, f"is ignored: the run's provider is of the type {kind}")
        return {k: v for k, v in values.items() if k not in others}

    def _scope(self, attempt: int, address: str) -> Scope:
        context = self.expander.context
        run: dict[str, Any] = {"address": self.address, "attempt": attempt, "id": ""}
        if self.group.late:
            run["id"] = run_id(context.lineage, address, attempt)
        each = None if self.cell is None else {"index": self.index, **self.cell.values}
        return Scope(context.values, each, run, context.project, context.environment)

    def _fields(self, scope: Scope) -> dict[str, Any] | None:
        """Return the fields with their expressions evaluated, or None after telling what is wrong."""
        context, group = self.expander.context, self.group
        evaluator = context.evaluator(scope, context.report.wrong_in(group))
        values = dict(group.static)
        for key, node in group.dynamic.items():
            value = evaluator.build(node)
            if value is not None:
                values[key] = value
        checked = {key: values[key] for key in group.dynamic if key in values and key not in _NORMALISED}
        if evaluator.failed or not self._typed(checked):
            return None
        for key in group.dynamic:
            if key in values and not context.normalise(group, key, values):
                return None
        return values

    def _typed(self, checked: Mapping[str, Any], filled: ResolvedRun | None = None) -> bool:
        """Check fields that the normalisation does not check: evaluated ones, or what a template gave."""
        if not checked:
            return True
        model = self.expander.context.loaded.spec.runs[self.group.name].__class__
        try:
            with without_plugins():
                model.model_validate(checked, context={"evaluated": True})
        except ValidationError as error:
            for fault in faults_in(error, json_schema()):
                if filled is None:
                    self.expander.report.fault_in(self.group, fault.path, fault.message, fault.hint)
                else:
                    self.expander.report.add(filled.fault(fault.path, fault.message, fault.hint))
            return False
        return True

    def settings(self, run: ResolvedRun, *, tries_again: bool, together: bool) -> Settings | None:
        """Return what flowplan does with the run; shared by all cells where nothing in it differs."""
        group = self.group
        settings = group.settings
        if settings is None:
            settings = run_fields.settings(group.name, run.fields, tries_again=tries_again, together=together)
            filled_by_cell = "template" in group.fields and bool(group.dynamic or group.files)
            if not filled_by_cell and not any(key in group.dynamic for key in _SETTING):
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
