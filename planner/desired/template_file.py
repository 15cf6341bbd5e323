"""A base job template as a document: what makes it one, its placeholders and its variables."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flowplan.schemas.documents import Document
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.pointers import walk
from flowplan.schemas.runs import Json, Origin
from flowplan.schemas.sources import Diagnostic, Path, Position, SourceMap, did_you_mean, dotted

PLACEHOLDER = re.compile(r"{{\s*([\w\.\-\[\]$]+)\s*}}")
"""Letters, digits and ``_ . - [ ] $``; everything else between braces is plain text."""


@dataclass(frozen=True, slots=True)
class Template:
    """A base job template that was found to be one.

    Attributes:
        configuration: ``job_configuration``, with placeholders; never changed.
        schema: ``variables``, a JSON Schema.
        file: as written in the spec.
        sources: positions in the file, None where they were not kept.
        places: path in the template -> its Origin, as far as asked for.
    """

    configuration: Mapping[str, Json]
    schema: Mapping[str, Any]
    file: str = ""
    sources: SourceMap | None = None
    places: dict[Path, Origin] = field(default_factory=dict)

    @property
    def properties(self) -> Mapping[str, Any]:
        """Return the declared variables."""
        found: Mapping[str, Any] = self.schema.get("properties") or {}
        return found

    def origin(self, *path: str | int) -> Origin:
        """Return where a value of the template was written."""
        known = self.places.get(path)
        if known is None:
            _, line, column = self.sources.key(path) if self.sources else ("", 0, 0)
            text = f"{self.file}:{line}" if line else self.file or "the template"
            known = self.places[path] = Origin(text, self.file, line, column)
        return known

    def fault(self, message: str, *path: str | int, hint: str = "") -> Diagnostic:
        """Return a fault of the template itself."""
        place = self.sources.value(path) if self.sources else None
        position = Position(self.file, place.line, place.column) if place else None
        subject = dotted(path)
        return Diagnostic(message, position, subject if position or not self.file else f"{self.file}: {subject}", hint)


def load_template(template: Json | Document, file: str) -> Template:
    """Return a checked template.

    Args:
        template: content of the file, or the Document when positions are wanted.
        file: its path as written in the spec.

    Raises:
        InvalidInput: it is not a template, or has placeholders that cannot be filled.
    """
    parsed = _loaded(template, file)
    sound = isinstance(parsed.properties, Mapping)
    misplaced = list(_misplaced(parsed))
    faults = [*misplaced, *(_undeclared(parsed) if sound and not misplaced else ())]
    faults += [] if misplaced else _schema_faults(parsed)
    if faults:
        raise InvalidInput(faults)
    return parsed


def _loaded(template: Json | Document, file: str) -> Template:
    content, sources = (template.value, template.sources) if isinstance(template, Document) else (template, None)
    bare = Template({}, {}, file, sources)
    if not isinstance(content, Mapping):
        raise InvalidInput([bare.fault("a base job template must be a mapping with job_configuration and variables")])
    if not content:
        return bare
    faults = []
    for key in ("job_configuration", "variables"):
        if key not in content:
            hint = "a base job template has both job_configuration and variables"
            faults.append(bare.fault(f"{key} is missing", hint=hint))
        elif not isinstance(content[key], Mapping):
            faults.append(bare.fault("must be a mapping", key))
    faults += [bare.fault("unknown field", key, hint=_where(key)) for key in content if key not in _TOP]
    if faults:
        raise InvalidInput(faults)
    return Template(content["job_configuration"], content["variables"], file, sources)


_TOP = ("job_configuration", "variables")
_WORDS = """$anchor $comment $defs $dynamicAnchor $dynamicRef $id $ref $schema additionalItems additionalProperties allOf anyOf
    const contains contentEncoding contentMediaType contentSchema default definitions dependencies dependentRequired
    dependentSchemas deprecated description else enum example examples exclusiveMaximum exclusiveMinimum format if items
    maxContains maxItems maxLength maxProperties maximum minContains minItems minLength minProperties minimum multipleOf
    not nullable oneOf pattern patternProperties prefixItems properties propertyNames readOnly required then title type
    unevaluatedItems unevaluatedProperties uniqueItems writeOnly"""
_KEYWORDS = frozenset(_WORDS.split())
"""What a JSON Schema may say; Prefect adds words of its own, which are let through."""


def _where(key: str) -> str:
    if near := did_you_mean(key, _TOP):
        return near
    return "it belongs into variables" if key in _KEYWORDS else "settings belong into job_configuration"


def _misplaced(template: Template) -> Iterator[Diagnostic]:
    """Yield keywords that mean nothing where they are: beside ``properties``, misspelt, ``required: true``."""
    for key, value in template.schema.items():
        if key in _KEYWORDS:
            continue
        near = _slip(key)
        if near or isinstance(value, Mapping):
            hint = f'did you mean "{near}"?' if near else f"write variables.properties.{key}"
            yield template.fault("a variable must stand under properties", "variables", key, hint=hint)
    properties = template.schema.get("properties")
    for name, declared in properties.items() if isinstance(properties, Mapping) else ():
        for key, value in declared.items() if isinstance(declared, Mapping) else ():
            place = ("variables", "properties", name, key)
            if key == "required" and isinstance(value, bool):
                yield template.fault("says nothing here", *place, hint=f"write variables.required: [{name}]")
            elif key not in _KEYWORDS and (near := _slip(key)):
                yield template.fault("unknown keyword", *place, hint=f'did you mean "{near}"?')


def _slip(key: str) -> str:
    return next(iter(difflib.get_close_matches(key, _KEYWORDS, n=1, cutoff=0.75)), "")


def _undeclared(template: Template) -> Iterator[Diagnostic]:
    """Yield placeholders without a variable; those of Prefect's server and worker have faults of their own."""
    for path, text in walk(template.configuration):
        for match in PLACEHOLDER.finditer(text) if isinstance(text, str) else ():
            name = match.group(1)
            root = root_of(name)
            if root in template.properties:
                continue
            message, hint = foreign(name) or (
                f"{{{{ {name} }}}} is not declared in variables",
                did_you_mean(root, template.properties),
            )
            yield template.fault(message, "job_configuration", *path, hint=hint)


def root_of(name: str) -> str:
    """Return the variable that a placeholder is about: ``people`` of ``people[0].name``."""
    return re.split(r"[.\[]", name, maxsplit=1)[0]


def foreign(name: str) -> tuple[str, str] | None:
    """Return message and hint for a placeholder that only Prefect can fill, else None."""
    shown = f"{{{{ {name} }}}}"
    if name.startswith("$"):
        return f"{shown} would be read from the environment of a worker", "declare a variable and give it a value"
    if name.startswith("prefect.blocks."):
        hint = "give the value in the run: `variables`, or `env: {NAME: {from_env: ...}}` for a secret"
        return f"{shown} is a block of a Prefect server, which flowplan does not ask", hint
    if name.startswith("prefect.variables."):
        hint = "declare a variable and give it a value"
        return f"{shown} is a variable of a Prefect server, which flowplan does not ask", hint
    if name.startswith("ctx."):
        return f"{shown} is context of a Prefect flow run", "use ${run.address} and the like in the run's own fields"
    return None


def _schema_faults(template: Template) -> Iterator[Diagnostic]:
    """Yield why ``variables`` is no JSON Schema whose references stay inside it: nothing is ever fetched."""
    import jsonschema

    for path, text in walk(template.schema):
        if isinstance(text, str) and path[-1] == "$ref" and not text.startswith("#"):
            yield template.fault(f'"{text}" is outside of the template, and nothing is fetched', "variables", *path)
    if not isinstance(template.properties, Mapping):
        yield template.fault("must be a mapping", "variables", "properties")
        return
    try:
        jsonschema.Draft202012Validator.check_schema(dict(template.schema))
    except jsonschema.SchemaError as error:
        message = f"is not a JSON Schema: {error.message}"
        yield template.fault(message, "variables", *(p for p in error.absolute_path if isinstance(p, str | int)))
