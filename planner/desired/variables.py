"""The values of a spec's variables: from options, files, the environment and defaults, in this order."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from flowplan.schemas.documents import Document, number, parse, scalar_text
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.fields import kind_of
from flowplan.schemas.patience import patience
from flowplan.schemas.runs import Json
from flowplan.schemas.secrets import SecretSource
from flowplan.schemas.sources import Diagnostic, Position, SourceMap, did_you_mean

if TYPE_CHECKING:
    from flowplan.planner.desired.sealing import Sealer
    from flowplan.schemas.spec import Spec, VariableSpec

PREFIX = "FLOWPLAN_VAR_"
_TRUTH = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True, slots=True)
class Variable:
    """One value. ``origin`` says where it came from: ``--var``, ``vars.yaml:3``, ``FLOWPLAN_VAR_tag``, ``default``."""

    name: str
    value: Json = field(repr=False)
    origin: str
    sensitive: bool = False


class Variables(NamedTuple):
    """All variables of a spec with their values, and remarks about them.

    Attributes:
        unset: those that have only a stand-in of their type.
    """

    by_name: Mapping[str, Variable] = {}
    warnings: tuple[Diagnostic, ...] = ()
    unset: frozenset[str] = frozenset()

    @property
    def values(self) -> dict[str, Json]:
        return {name: variable.value for name, variable in self.by_name.items()}

    @property
    def sensitive(self) -> frozenset[str]:
        return frozenset(name for name, variable in self.by_name.items() if variable.sensitive)

    def document(self, sealer: Sealer) -> dict[str, Any]:
        """Return ``name -> {"value", "origin"}`` as the plan shows it; a sensitive value is a token."""
        return {name: {"value": _shown(v, sealer), "origin": v.origin} for name, v in self.by_name.items()}


def _shown(variable: Variable, sealer: Sealer) -> Json:
    if not variable.sensitive:
        return variable.value
    source = SecretSource("template", f"${{var.{variable.name}}}", (variable.name,))
    return sealer.token_for(source, value_text(variable.value))


def value_text(value: Json) -> str:
    """Return a value as one string: a scalar as written, a list or map as JSON."""
    from flowplan.schemas.runs import canonical

    return canonical(value) if isinstance(value, dict | list) else scalar_text(value)


def resolve_variables(
    spec: Spec,
    *,
    given: Mapping[str, Any],
    files: Sequence[tuple[str, Document | Mapping[str, Json]]] = (),
    environ: Mapping[str, str],
    sources: SourceMap | None = None,
    stand_ins: bool = False,
) -> Variables:
    """Return the value of every declared variable: ``--var`` over ``--var-file`` over the environment over the default.

    Later files win over earlier ones.

    Args:
        given: of ``--var``; strings are parsed by the variable's type.
        files: file name and content of every ``--var-file``.
        sources: of the spec, to say where a default was written.
        stand_ins: give variables without a value one of their type, to check the rest of the spec.

    Raises:
        InvalidInput: every fault at once; no value of a sensitive variable is shown.
    """
    resolution = _Resolution(spec.variables, sources, environ, stand_ins)
    for name, value in given.items():
        resolution.offer(name, value, "--var", None, isinstance(value, str))
    for file, document in reversed(files):
        resolution.offer_file(file, document)
    values = {name: resolution.value(name, declared) for name, declared in spec.variables.items()}
    if resolution.faults:
        raise InvalidInput(resolution.faults)
    known = {name: value for name, value in values.items() if value is not None}
    return Variables(known, tuple(resolution.undeclared_in_environment()), frozenset(resolution.unset))


class _Offer(NamedTuple):
    value: Any
    origin: str
    position: Position | None
    text: bool


@dataclass(slots=True)
class _Resolution:
    """Collects what is offered for each variable, picks the strongest, and every fault on the way."""

    declared: Mapping[str, VariableSpec]
    sources: SourceMap | None
    environ: Mapping[str, str]
    stand_ins: bool = False
    unset: set[str] = field(default_factory=set)
    offers: dict[str, _Offer] = field(default_factory=dict)
    faults: list[Diagnostic] = field(default_factory=list)

    def offer(self, name: str, value: Any, origin: str, position: Position | None, text: bool) -> None:
        """Take a value unless there is one already; refuse one of an undeclared variable."""
        if name in self.declared:
            self.offers.setdefault(name, _Offer(value, origin, position, text))
            return
        hint = did_you_mean(name, self.declared) or "declare it under variables:"
        subject = f"--var {name}" if position is None else name
        self.faults.append(Diagnostic("the spec declares no such variable", position, subject, hint))

    def offer_file(self, file: str, document: Document | Mapping[str, Json]) -> None:
        content = document.value if isinstance(document, Document) else document
        sources = document.sources if isinstance(document, Document) else SourceMap(file)
        if not isinstance(content, Mapping):
            kind = "a list" if isinstance(content, list) else "a single value"  # which may be a secret
            message = f"a file of variables must hold a mapping, not {kind}"
            self.faults.append(Diagnostic(message, Position(file, 1, 1)))
            return
        for name, value in content.items():
            position = sources.key((name,))
            self.offer(name, value, f"{file}:{position.line}", position, False)

    def value(self, name: str, declared: VariableSpec) -> Variable | None:
        offer = self.offers.get(name)
        if offer is None and PREFIX + name in self.environ:
            offer = _Offer(self.environ[PREFIX + name], PREFIX + name, None, True)
        if offer is None:
            return self._default(name, declared)
        value = self._typed(name, declared, offer)
        return None if value is _WRONG else Variable(name, value, offer.origin, bool(declared.sensitive))

    def _default(self, name: str, declared: VariableSpec) -> Variable | None:
        has_default = "default" in declared.model_fields_set
        if declared.required or (not has_default and declared.required is None):
            if self.stand_ins:
                self.unset.add(name)
                value = declared.enum[0] if declared.enum else _STAND_INS[declared.type]
                return Variable(name, value, "", bool(declared.sensitive))
            hint = f"give it with --var {name}=..., --var-file or {PREFIX}{name}"
            position = self.sources.key(("variables", name)) if self.sources else None
            self.faults.append(Diagnostic("the variable has no value", position, f"var.{name}", hint))
            return None
        path = ("variables", name, "default")
        position = self.sources.key(path) if self.sources and has_default else None
        place = self.sources.place(path) if self.sources else path
        source = f"environments.{place[1]}" if place[0] == "environments" else "default"
        origin = f"{source} ({PurePath(position.file).name}:{position.line})" if position else "default"
        if declared.default is not None and not self._allowed(
            name, declared, _Offer(declared.default, origin, position, False)
        ):
            return None
        return Variable(name, declared.default, origin, bool(declared.sensitive))

    def _typed(self, name: str, declared: VariableSpec, offer: _Offer) -> Json:
        try:
            value = _parsed(declared.type, offer.value) if offer.text else _same(declared.type, offer.value)
        except ValueError as error:
            words = f"must be a {declared.type}" if declared.sensitive else str(error)
            self._fault(name, offer, words)
            return _WRONG
        return value if self._allowed(name, declared, _Offer(value, offer.origin, offer.position, False)) else _WRONG

    def _allowed(self, name: str, declared: VariableSpec, offer: _Offer) -> bool:
        if declared.enum is not None and offer.value not in declared.enum:
            known = ", ".join(value_text(v) for v in declared.enum)
            words = f"must be one of {known}, not {kind_of(offer.value)}"
            self._fault(name, offer, "must be one of its enum" if declared.sensitive else words)
            return False
        if declared.pattern is not None and not _matches(name, declared.pattern, value_text(offer.value)):
            shown = "" if declared.sensitive else f", {kind_of(offer.value)} does not"
            self._fault(name, offer, f"must match the pattern {declared.pattern}{shown}")
            return False
        return True

    def _fault(self, name: str, offer: _Offer, message: str) -> None:
        self.faults.append(Diagnostic(message, offer.position, f"var.{name}", f"it comes from {offer.origin}"))

    def undeclared_in_environment(self) -> list[Diagnostic]:
        """Return remarks about undeclared variables; no faults, because many specs share an environment."""
        names = [key.removeprefix(PREFIX) for key in self.environ if key.startswith(PREFIX)]
        return [
            Diagnostic(
                "the spec declares no such variable", None, PREFIX + name, did_you_mean(name, self.declared), "warning"
            )
            for name in sorted(names)
            if name not in self.declared
        ]


_WRONG: Any = object()
_STAND_INS: Mapping[str, Json] = {"string": "value", "number": 1, "bool": False, "list": ["value"], "map": {}}


def _matches(name: str, pattern: str, text: str) -> bool:
    with patience(f"var.{name}: its pattern"):
        return re.fullmatch(pattern, text) is not None


def _bool(text: str) -> bool:
    if text.lower() not in _TRUTH:
        raise ValueError(f'must be true or false, not "{text}"')
    return _TRUTH[text.lower()]


def _number(text: str) -> int | float:
    found = number(text.strip())
    if found is None:
        raise ValueError(f'must be a number, not "{text}"')
    return found


def _structure(text: str, kind: str) -> Json:
    wrong = f"must be a {kind} as YAML or JSON text"
    try:
        return _same(kind, parse(text, "value").value)
    except (InvalidInput, ValueError):
        raise ValueError(wrong) from None


_PARSERS: dict[str, Callable[[str], Json]] = {
    "string": str,
    "number": _number,
    "bool": _bool,
    "list": lambda text: _structure(text, "list"),
    "map": lambda text: _structure(text, "map"),
}


def _parsed(kind: str, text: Any) -> Json:
    return _PARSERS[kind](text)


def _same(kind: str, value: Json) -> Json:
    """Return a value of a file with its type; a number or boolean given for a string is taken as written."""
    if kind == "string" and isinstance(value, int | float):
        return scalar_text(value)
    types: dict[str, Any] = {"string": str, "number": int | float, "bool": bool, "list": list, "map": dict}
    if isinstance(value, types[kind]) and not (kind == "number" and isinstance(value, bool)):
        return value
    raise ValueError(f"must be a {kind}, not {kind_of(value)}")
