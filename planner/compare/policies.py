"""Policies: JSON Schemas that the concrete objects must satisfy, and what violates them, with the origin of the value."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.patience import patience
from flowplan.schemas.plans import Action, Change, Finding
from flowplan.schemas.pointers import escape, nearest, pointer_to
from flowplan.schemas.runs import Json
from flowplan.schemas.sources import Diagnostic, did_you_mean
from flowplan.schemas.text import shortened

if TYPE_CHECKING:
    from jsonschema import ValidationError

    from flowplan.schemas.documents import Document
    from flowplan.schemas.load import LoadedSpec

CHECK = "policy"
"""The name of this check in findings."""

_FIELDS = ("name", "description", "types", "schema")
_ENDS = (Action.DESTROY, Action.FORGET)
_KEYWORDS = frozenset(
    [
        "$schema",
        "$id",
        "$ref",
        "$defs",
        "$comment",
        "$anchor",
        "$dynamicRef",
        "$dynamicAnchor",
        "$vocabulary",
        "definitions",
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "type",
        "enum",
        "const",
        "multipleOf",
        "maximum",
        "exclusiveMaximum",
        "minimum",
        "exclusiveMinimum",
        "maxLength",
        "minLength",
        "pattern",
        "maxItems",
        "minItems",
        "uniqueItems",
        "maxContains",
        "minContains",
        "maxProperties",
        "minProperties",
        "required",
        "dependentRequired",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "if",
        "then",
        "else",
        "dependentSchemas",
        "prefixItems",
        "items",
        "contains",
        "properties",
        "patternProperties",
        "additionalProperties",
        "propertyNames",
        "unevaluatedItems",
        "unevaluatedProperties",
        "format",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
    ]
)
_ONE = ("not", "if", "then", "else", "items", "contains", "additionalProperties", "propertyNames")
_MANY = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy.

    Attributes:
        types: the provider types that it is about; () for all.
        schema: JSON Schema (draft 2020-12) of the objects of a run, keyed by kind.
    """

    name: str
    schema: Mapping[str, Json]
    description: str = ""
    types: tuple[str, ...] = ()


def rules_of(loaded: LoadedSpec) -> tuple[Rule, ...]:
    """Return the rules under ``policies:`` of a spec: files that it names, or inline.

    Raises:
        InvalidInput: every fault in them.
    """
    from flowplan.schemas.documents import Document

    rules: list[Rule] = []
    faults: list[Diagnostic] = []
    for index, entry in enumerate(loaded.tree.get("policies") or ()):
        if isinstance(entry, str):
            found, wrong = _rules(loaded.files[entry], loaded.files[entry].value, (), entry)
        else:
            document = Document(loaded.tree, loaded.sources)
            found, wrong = _rules(document, entry, ("policies", index), f"policies[{index}]")
        rules += found
        faults += wrong
    if faults:
        raise InvalidInput(faults)
    return tuple(rules)


def rules_in(document: Document, name: str) -> tuple[Rule, ...]:
    """Return the rules of a policy file: a policy, a list of them, ``policies: [...]``, or a bare JSON Schema.

    Args:
        name: how the file is called, for rules without a name.

    Raises:
        InvalidInput: every fault in it.
    """
    rules, faults = _rules(document, document.value, (), name)
    if faults:
        raise InvalidInput(faults)
    return tuple(rules)


Place = tuple[str | int, ...]


def _rules(document: Document, value: Json, path: Place, name: str) -> tuple[list[Rule], list[Diagnostic]]:
    if isinstance(value, Mapping) and set(value) == {"policies"}:
        value, path = value["policies"], (*path, "policies")
    if isinstance(value, list):
        parts = [_rules(document, one, (*path, index), f"{name}[{index}]") for index, one in enumerate(value)]
        return [rule for rules, _ in parts for rule in rules], [fault for _, faults in parts for fault in faults]
    if not isinstance(value, Mapping):
        return [], [_fault(document, path, "must be a policy: a mapping with `schema`", "")]
    if "schema" not in value and (not value or any(key in _KEYWORDS - set(_FIELDS) for key in value)):
        rule = Rule(str(value.get("title") or name), value, str(value.get("description") or ""))
        return [rule], list(_schema_faults(document, path, value))
    faults = list(_form_faults(document, path, value))
    if faults:
        return [], faults
    rule = Rule(
        str(value.get("name") or name),
        value["schema"],
        str(value.get("description") or ""),
        tuple(value.get("types") or ()),
    )
    return [rule], list(_schema_faults(document, (*path, "schema"), value["schema"]))


def _form_faults(document: Document, path: Place, value: Mapping[str, Json]) -> Iterator[Diagnostic]:
    for key in value:
        if key not in _FIELDS:
            yield _fault(document, (*path, key), "unknown field of a policy", did_you_mean(key, _FIELDS), key=True)
    if not isinstance(value.get("schema"), Mapping):
        yield _fault(document, path, "a policy needs `schema`, a JSON Schema", "")
    types = value.get("types") or []
    if not isinstance(types, list) or not all(isinstance(one, str) for one in types):
        yield _fault(document, (*path, "types"), "must be a list of provider types", "")


def _fault(document: Document, path: Place, message: str, hint: str, *, key: bool = False) -> Diagnostic:
    where = document.sources.key(path) if key else document.sources.value(path)
    return Diagnostic(message, where, CHECK, hint)


def _schema_faults(document: Document, path: Place, schema: Mapping[str, Json]) -> Iterator[Diagnostic]:
    """Yield what makes it no JSON Schema; a rule with a misspelt keyword would never be broken."""
    from jsonschema import Draft202012Validator

    errors = list(Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema))
    for error in errors:
        yield _fault(document, (*path, *error.absolute_path), f"no valid JSON Schema: {error.message[:200]}", "")
    for place, keyword in [] if errors else _unknown_keywords(schema, path):
        hint = did_you_mean(keyword, _KEYWORDS) or "start keys of your own with x-"
        yield _fault(document, place, f'JSON Schema has no keyword "{keyword}"', hint, key=True)


def _unknown_keywords(schema: Json, path: Place) -> Iterator[tuple[Place, str]]:
    if not isinstance(schema, Mapping):
        return
    for key, value in schema.items():
        if key not in _KEYWORDS and not key.startswith("x-"):
            yield (*path, key), key
        elif key in _ONE:
            yield from _unknown_keywords(value, (*path, key))
        elif key in _MANY and isinstance(value, list):
            for index, one in enumerate(value):
                yield from _unknown_keywords(one, (*path, key, index))
        elif key in _NAMED and isinstance(value, Mapping):
            for name, one in value.items():
                yield from _unknown_keywords(one, (*path, key, name))


# --- checking --------------------------------------------------------------------------------------------------------


def checked(changes: Sequence[Change], rules: Sequence[Rule]) -> tuple[Change, ...]:
    """Return the changes with a finding for every place of their objects that violates a rule.

    It is an error where the plan would create, change or take over the object, and a warning where it leaves it alone.
    """
    if not rules:
        return tuple(changes)
    checker = _Checker(rules)
    return tuple(_with_findings(change, checker) for change in changes)


def _with_findings(change: Change, checker: _Checker) -> Change:
    if change.after is None or change.action in _ENDS:
        return change
    severity = "warning" if change.action is Action.NO_OP or change.skipped else "error"
    found = tuple(checker.findings(change, severity))
    return replace(change, preflight=(*found, *change.preflight)) if found else change


class _Checker:
    """Compiled rules."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        from jsonschema import Draft202012Validator
        from referencing import Registry

        none: Registry[Any] = Registry()  # what a schema refers to must be in it: nothing is fetched
        self._rules = [(rule, Draft202012Validator(_telling(rule.schema), registry=none)) for rule in rules]

    def findings(self, change: Change, severity: str) -> Iterator[Finding]:
        for rule, validator in self._rules:
            if rule.types and change.type not in rule.types:
                continue
            told = set()
            for pointer, message in _broken(rule, validator, change.after):
                text = f"{rule.name}: {pointer} {message}{_origin(change, pointer)}"
                if text not in told:
                    told.add(text)
                    yield Finding(change.address, severity, CHECK, text, rule.description)


def _telling(schema: Json) -> Any:
    """Return the schema with ``{not: {}}`` for ``false`` under properties, for which the validator tells no place."""
    if isinstance(schema, Mapping):
        return {
            key: {name: {"not": {}} if one is False else _telling(one) for name, one in value.items()}
            if key in ("properties", "patternProperties") and isinstance(value, Mapping)
            else _telling(value)
            for key, value in schema.items()
        }
    return [_telling(one) for one in schema] if isinstance(schema, list) else schema


def _broken(rule: Rule, validator: Any, objects: Json) -> Iterator[tuple[str, str]]:
    from referencing.exceptions import Unresolvable

    try:
        with patience(f"policy {rule.name}"):
            errors = sorted(validator.iter_errors(objects), key=lambda e: [str(part) for part in e.absolute_path])
        for error in errors:
            yield from _words(error)
    except RecursionError:
        raise InvalidInput(f"policy {rule.name}: its schema refers to itself without end") from None
    except Unresolvable as error:
        raise InvalidInput(
            f"policy {rule.name}: its schema refers to {error.ref}, which is not in it",
            hint="put the definition under $defs",
        ) from None


def _words(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Return (JSON Pointer, what it must be) of one broken keyword."""
    at = pointer_to(error.absolute_path)
    wanted: Any = error.validator_value
    value: Any = error.instance
    match error.validator:
        case "required":
            for name in [name for name in wanted if name not in value]:
                yield f"{at}/{escape(name)}", "must be set"
        case "const":
            yield at, f"must be {_short(wanted)}, not {_short(value)}"
        case "enum":
            yield at, f"must be one of {', '.join(map(_short, wanted))}, not {_short(value)}"
        case "pattern":
            yield at, f"must match {wanted}, and {_short(value)} does not"
        case "type":
            yield at, f"must be of type {wanted if isinstance(wanted, str) else ' or '.join(wanted)}"
        case "not":
            yield at, f"is {_short(value)}, which is not allowed"
        case "minimum" | "exclusiveMinimum":
            yield (
                at,
                f"must be {'at least' if error.validator == 'minimum' else 'more than'} {wanted}, not {_short(value)}",
            )
        case "maximum" | "exclusiveMaximum":
            yield (
                at,
                f"must be {'at most' if error.validator == 'maximum' else 'less than'} {wanted}, not {_short(value)}",
            )
        case "additionalProperties" | "unevaluatedProperties":
            known = error.schema.get("properties", {}) if isinstance(error.schema, Mapping) else {}
            for name in [name for name in value if name not in known] if wanted is False else ():
                yield f"{at}/{escape(name)}", "is not allowed"
        case None:
            yield at or "/", "is not allowed"
        case _:
            yield at or "/", shortened(error.message, 200)


def _short(value: Json) -> str:
    return shortened(json.dumps(value, ensure_ascii=False, default=str), 80)


def _origin(change: Change, pointer: str) -> str:
    """Return where the value, or what it is missing in, was written: `` (spec.yaml:12)``."""
    origin = nearest(change.origins, pointer) or "default"
    return "" if origin == "default" else f" ({origin})"
