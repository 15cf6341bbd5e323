"""Base job templates: their placeholders filled with a run's fields and variables."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from flowplan.planner.desired.template_fields import FieldFault, field_path, run_fields
from flowplan.planner.desired.template_file import PLACEHOLDER, Template, foreign, load_template, root_of
from flowplan.planner.manifests import ResolvedRun
from flowplan.schemas.documents import scalar_text
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.fields import kind_of
from flowplan.schemas.patience import patience
from flowplan.schemas.pointers import copied, walk
from flowplan.schemas.quantities import duration
from flowplan.schemas.runs import Json, Origin
from flowplan.schemas.secrets import tokens_in
from flowplan.schemas.sources import Diagnostic, Path, Position, did_you_mean, dotted

if TYPE_CHECKING:
    from jsonschema import ValidationError

_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")
_MISSING: Any = object()
_MERGED = ("env", "labels", "annotations")
"""Fields that the run and its template give together, name by name; the run wins."""

_FED = frozenset(
    [
        "image",
        "image_pull_policy",
        "command",
        "entrypoint",
        "env",
        "labels",
        "annotations",
        "name",
        "working_dir",
        "stream_output",
        "retries",
    ]
)
"""Fields of a run that are the values of variables of the same name."""


Evaluate = Callable[[Any, Path], Any]
"""Evaluates the expressions in a value of a template, given with its path in the file."""


def as_written(value: Any, path: Path) -> Any:
    """Return a value that holds no expressions as it is."""
    return value


def apply_template(run: ResolvedRun, template: Template, evaluate: Evaluate = as_written) -> ResolvedRun:
    """Return the run with what its template gives merged under its own fields; ``template`` and ``variables`` are used up.

    Args:
        evaluate: what makes of the template's own expressions their values; what fills its placeholders is text.

    Raises:
        InvalidInput: every fault of the template, of the variables given to it and of what it makes of the run.
    """
    values, origins = _values(run, template, evaluate)
    configuration, places = _Filling(template, values, origins, evaluate).fill()
    problems = list(_unfillable(configuration, template))
    if problems:
        raise InvalidInput(problems)
    try:
        given = run_fields(run.type, configuration)
    except FieldFault as error:
        raise InvalidInput([template.fault(m, "job_configuration", *p, hint=h) for p, m, h in error.faults]) from None
    return _merged(run, given, places, template)


def fill(template: Json, values: Mapping[str, Json]) -> dict[str, Json]:
    """Return the ``job_configuration`` of a template with its variables' values in it.

    A string that is one placeholder becomes the value with its type; without a value its key or list item is
    removed. Inside a text, values are written as scalars are in YAML (``true``), a missing one as nothing.
    One pass: what a value brings along is text.

    Raises:
        InvalidInput: the template is none, a variable is unknown, or a value does not satisfy its schema.
    """
    parsed = load_template(template, "")
    faults = list(_value_faults(parsed, values, {}))
    if faults:
        raise InvalidInput(faults)
    return _Filling(parsed, {**_defaults(parsed, values), **values}, {}, as_written).fill()[0]


def _values(run: ResolvedRun, template: Template, evaluate: Evaluate) -> tuple[dict[str, Json], dict[str, Origin]]:
    """Return the variables' values, and where each was written: defaults, the run's fields, its ``variables``."""
    given: Mapping[str, Any] = run.fields.get("variables") or {}
    fed = dict(_fed(run, template))
    faults = list(_twice(run, given, fed))
    for name in _namespaces(template) - given.keys() - fed.keys() if run.connection.get("namespace") else ():
        fed[name] = run.connection["namespace"], Origin(f"provider {run.provider}")
    values: dict[str, Json] = {key: value for key, (value, _) in fed.items()}
    origins = {key: origin for key, (_, origin) in fed.items()}
    for key, value in given.items():
        if key in _MERGED and isinstance(value, Mapping) and isinstance(values.get(key), Mapping):
            values[key] = {**value, **values[key]}
        else:
            values[key] = value
            origins[key] = run.origin("variables", key)
    faults += _value_faults(template, values, origins)
    if faults:
        raise InvalidInput([_in_run(run, fault) for fault in faults])
    defaults = _defaults(template, values)
    for key in defaults:
        place: Path = ("variables", "properties", key, "default")
        origins.setdefault(key, template.origin(*place))
        defaults[key] = evaluate(defaults[key], place)
    for key in _MERGED:
        if isinstance(defaults.get(key), Mapping):
            own = run.fields.get(key) or {}
            values[key] = {k: v for k, v in defaults[key].items() if k not in own} | (values.get(key) or {})
    return {**defaults, **values}, origins


def _namespaces(template: Template) -> set[str]:
    """Return the variables that name the namespace: the provider's beats their defaults."""
    written = template.configuration.get("namespace")
    filled = PLACEHOLDER.fullmatch(written) if isinstance(written, str) else None
    return {filled.group(1) if filled else "namespace", "namespace"} & template.properties.keys()


def _in_run(run: ResolvedRun, fault: Diagnostic) -> Diagnostic:
    """Return a fault of a variable's value, where the run gives it, else at the run's ``variables`` (or at the run)."""
    return fault._replace(
        subject=dotted(("runs", run.group)) + f".{fault.subject}" if fault.subject else run.group,
        position=fault.position or run.origin("variables").position,
    )


def _fed(run: ResolvedRun, template: Template) -> Iterator[tuple[str, tuple[Json, Origin]]]:
    """Yield the run's own fields, and those of its provider's block, that variables are named after."""
    block = run.fields.get(run.type) or {}
    for name, declared in template.properties.items():
        if name in _FED and run.fields.get(name) is not None:
            value = _portable(name, run.fields[name], declared)
            if value not in ({}, None):
                yield name, (value, run.origin(name))
        elif block.get(name) is not None:
            value = math.ceil(duration(block[name])) if name == "finished_job_ttl" else block[name]
            yield name, (value, run.origin(run.type, name))


def _portable(name: str, value: Any, declared: Any) -> Json:
    """Return a field as the variable takes it: a command as text unless lists are allowed, env without references."""
    if name in _MERGED:
        return {key: scalar_text(v) for key, v in value.items() if v is not None and not isinstance(v, Mapping)}
    if isinstance(value, list) and "array" not in json.dumps(declared):
        return shlex.join(scalar_text(part) for part in value)
    return value


def _twice(run: ResolvedRun, given: Mapping[str, Any], fed: Mapping[str, Any]) -> Iterator[Diagnostic]:
    for key, value in given.items():
        if key in fed and key not in _MERGED and value != fed[key][0]:
            place = run.origin("variables", key).position
            yield Diagnostic("is a field of the run too, with another value; keep one", place, f"variables.{key}")


def _defaults(template: Template, values: Mapping[str, Json]) -> dict[str, Json]:
    """Return defaults that are not null, of variables that have no value."""
    properties = template.properties.items()
    found = {k: p["default"] for k, p in properties if isinstance(p, Mapping) and p.get("default") is not None}
    return {key: value for key, value in found.items() if key not in values or key in _MERGED}


def _value_faults(
    template: Template, values: Mapping[str, Json], origins: Mapping[str, Origin]
) -> Iterator[Diagnostic]:
    """Yield unknown variables, and values that do not satisfy the schema."""
    for key in values:
        if key not in template.properties:
            hint = did_you_mean(key, template.properties)
            yield Diagnostic("is not a variable of the template", _place(origins, key), f"variables.{key}", hint)
    known = {key: value for key, value in values.items() if key in template.properties}
    yield from _schema_violations(template, known, origins)


def _place(origins: Mapping[str, Origin], key: object) -> Position | None:
    origin = origins.get(str(key))
    return origin.position if origin else None


def _schema_violations(
    template: Template, values: Mapping[str, Json], origins: Mapping[str, Origin]
) -> Iterator[Diagnostic]:
    import referencing
    from jsonschema import Draft202012Validator

    with_default = _defaults(template, {})
    required = [name for name in template.schema.get("required") or () if name not in with_default]
    for name in required:
        if name not in values:
            yield Diagnostic("is missing; the template requires it", None, dotted(("variables", name)))
    schema = {key: value for key, value in template.schema.items() if key != "required"}
    kept = {k: v for k, v in values.items() if v is not None or k in required or k not in with_default}
    registry: referencing.Registry[Any] = referencing.Registry()
    try:
        with patience(f"{template.file or 'the template'}: its schema"):
            errors = list(Draft202012Validator(schema, registry=registry).iter_errors(kept))
        for error in errors:
            if not tokens_in(error.instance) or isinstance(error.instance, Mapping):
                yield _violation(error, origins)
    except RecursionError:
        yield template.fault("refers to itself without end", "variables")
    except referencing.exceptions.Unresolvable as error:
        yield template.fault(f'"{error.ref}" is not in the template', "variables")


def _violation(error: ValidationError, origins: Mapping[str, Origin]) -> Diagnostic:
    path: Path = tuple(p for p in error.absolute_path if isinstance(p, str | int))
    place = _place(origins, next(iter(path), ""))
    return Diagnostic(_in_words(error), place, dotted(("variables", *path)))


_KINDS = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}


def _in_words(error: ValidationError) -> str:
    """Return what a value must be, in the words of other faults; the library's for the rarer rules."""
    wanted: Any = error.validator_value
    if error.validator == "enum":
        return f"must be one of {', '.join(map(scalar_text, wanted))}, not {kind_of(error.instance)}"
    if error.validator == "type":
        kinds = [_KINDS.get(kind, kind) for kind in ([wanted] if isinstance(wanted, str) else wanted)]
        return f"must be {' or '.join(kinds)}, not {kind_of(error.instance)}"
    return error.message


@dataclass(slots=True)
class _Filling:
    """One pass over a template's configuration, noting where every filled value came from."""

    template: Template
    values: Mapping[str, Json]
    origins: Mapping[str, Origin]
    evaluate: Evaluate
    places: dict[Path, Origin] = field(default_factory=dict)

    def fill(self) -> tuple[dict[str, Json], dict[Path, Origin]]:
        configuration: dict[str, Json] = self._value(self.template.configuration, ("job_configuration",), ())
        return configuration, self.places

    def _value(self, value: Json, source: Path, path: Path) -> Json:
        if isinstance(value, str):
            return self._text(value, source, path)
        if isinstance(value, Mapping):
            filled = {key: self._value(child, (*source, key), (*path, key)) for key, child in value.items()}
            return {key: child for key, child in filled.items() if child is not _MISSING}
        if isinstance(value, list):
            return self._list(value, source, path)
        self.places[path] = self.template.origin(*source)
        return value

    def _list(self, items: Sequence[Json], source: Path, path: Path) -> list[Json]:
        found: list[Json] = []
        for index, item in enumerate(items):
            value = self._value(item, (*source, index), (*path, len(found)))
            if value is not _MISSING:
                found.append(value)
        return found

    def _text(self, text: str, source: Path, path: Path) -> Json:
        self.places[path] = self.template.origin(*source)
        if "{{" not in text:
            return self.evaluate(text, source)
        whole = PLACEHOLDER.fullmatch(text)
        if whole:
            value = _looked_up(self.values, whole.group(1))
            if value is not _MISSING:
                self.places[path] = self.origins.get(root_of(whole.group(1)), self.places[path])
            return copied(value)
        pieces = PLACEHOLDER.split(text)  # every other one is the name of a placeholder
        own = (self.evaluate(piece, source) for piece in pieces[::2])
        filled = (_looked_up(self.values, name) for name in pieces[1::2])
        return "".join(_inline(piece) for pair in zip_longest(own, filled, fillvalue="") for piece in pair)


def _inline(value: Json) -> str:
    if value is _MISSING:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else scalar_text(value)


def _looked_up(values: Mapping[str, Json], name: str) -> Json:
    """Return the value at ``a.b`` or ``people[0].name``, or _MISSING."""
    found: Json = values
    for key, index in _STEP.findall(name):
        if index:
            in_list = isinstance(found, list) and int(index) < len(found)
            found = found[int(index)] if in_list else _MISSING
        else:
            found = found.get(key, _MISSING) if isinstance(found, Mapping) else _MISSING
    return found


def _unfillable(configuration: Json, template: Template) -> Iterator[Diagnostic]:
    """Yield what values bring along that only a Prefect server can look up."""
    for path, value in walk(configuration):
        reference = value.get("$ref") if isinstance(value, Mapping) else None
        if isinstance(reference, Mapping) and "block_document_id" in reference:
            hint = "write the values themselves"
            yield template.fault("is a block of a Prefect server, which flowplan does not ask", *path, hint=hint)
        for match in PLACEHOLDER.finditer(value) if isinstance(value, str) and "prefect." in value else ():
            told = foreign(match.group(1)) if match.group(1).startswith("prefect.") else None
            if told:
                yield template.fault(told[0], "job_configuration", *path, hint=told[1])


def _merged(run: ResolvedRun, given: dict[str, Json], places: Mapping[Path, Origin], template: Template) -> ResolvedRun:
    own = {key: value for key, value in run.fields.items() if key not in ("template", "variables")}
    block = own.get(run.type) or {}
    if block.get("job") is not None and (given.get(run.type) or {}).get("job") is not None:
        hint = "use kubernetes.customizations to change the template's"
        message = "the template brings a Job manifest of its own"
        raise InvalidInput([run.fault(("kubernetes", "job"), message, hint)])
    fields = {**given, **{key: value for key, value in own.items() if value is not None}}
    for key in (*_MERGED, run.type):
        if isinstance(given.get(key), Mapping) and isinstance(own.get(key), Mapping):
            fields[key] = {**given[key], **own[key]}
    return replace(run, fields=fields, origins=_origins(run, fields, given, places, template), template=template.file)


def _origins(
    run: ResolvedRun,
    fields: Mapping[str, Json],
    given: Mapping[str, Json],
    places: Mapping[Path, Origin],
    template: Template,
) -> dict[Path, Origin]:
    """Return the run's origins over those of the template's values, as far as those are still there."""
    origins: dict[Path, Origin] = {}
    for key, value in given.items():
        if key not in run.fields:
            origins[(key,)] = template.origin("job_configuration")
        elif isinstance(value, Mapping):
            origins |= {(key, name): template.origin("job_configuration") for name in value}
    for path, origin in places.items():
        target = field_path(run.type, path)
        if target and _there(fields, target):
            origins[target] = origin
    return {**origins, **run.origins}


def _there(value: Json, path: Path) -> bool:
    for part in path:
        known = range(len(value)) if isinstance(value, list) else value if isinstance(value, Mapping) else ()
        if part not in known:
            return False
        value = value[part]
    return True
