"""A Job manifest against the API's own schema, offline: wrong types, misplaced fields, quantities that are none.

The schema is that of the newest Kubernetes that is known (``schemas/job_api.json``). It is walked directly: one pass
that knows where a misplaced field belongs and compares quantities by their grammar, which a JSON Schema validator
cannot. The models of the kubernetes package take 200 ms to import and drop what they do not know.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from flowplan.planner.manifests.job_draft import POD, value_at
from flowplan.schemas.job_api import JOB, definitions, versions
from flowplan.schemas.pointers import escape
from flowplan.schemas.quantities import quantity
from flowplan.schemas.runs import Json, canonical


class Problem(NamedTuple):
    """``pointer`` into the Job; ``severity`` is ``error`` or ``warning`` (a field that a newer Kubernetes may know)."""

    pointer: str
    message: str
    hint: str = ""
    severity: str = "error"


_API = "io.k8s.api."
_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
_INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
_METADATA = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_PLACES = {
    _API + "batch.v1.JobSpec": "/spec",
    _API + "core.v1.PodSpec": "/spec/template/spec",
    _API + "core.v1.Container": "/spec/template/spec/containers/0",
    _API + "core.v1.PodTemplateSpec": "/spec/template",
    _METADATA: "/metadata",
    JOB: "",
}
"""Where the fields of the types that people mix up belong; nearest guess first."""

_CHOICES = {
    ("Container", "imagePullPolicy"): ("Always", "IfNotPresent", "Never"),
    ("JobSpec", "completionMode"): ("NonIndexed", "Indexed"),
    ("PodSpec", "dnsPolicy"): ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"),
}
"""Values that the schema only tells in prose."""

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
_ARTICLES = {"string": "a string", "integer": "an integer", "boolean": "true or false", "array": "a list"}
_ARTICLES |= {"object": "a mapping", "number": "a number"}

_known: dict[str, tuple[Problem, ...]] = {}


def problems(job: Mapping[str, Json], text: str = "") -> tuple[Problem, ...]:
    """Return what is wrong with a manifest, in its order; the same manifest is looked at once.

    Args:
        text: its canonical JSON, where that is known already.

    A field that its type does not know is an error when it is a slip of a known one or belongs elsewhere in the Job,
    else a warning: a newer Kubernetes may know it.
    """
    text = text or canonical(job)
    found = _known.get(text)
    if found is None:
        if len(_known) >= 1024:
            _known.clear()
        found = _known[text] = (*_value(job, JOB, ""), *_names(job))
    return found


def version() -> str:
    """Return the version of Kubernetes whose schema is used, such as ``1.37``."""
    return versions()[-1]


def _value(value: Json, name: str, pointer: str) -> Iterator[Problem]:
    """Check a value that should be of the named type."""
    if name == _QUANTITY:
        yield from _quantity(value, pointer)
    elif name == _INT_OR_STRING:
        if isinstance(value, bool) or not isinstance(value, int | str):
            yield Problem(pointer, f"must be an integer or a string, not {_shown(value)}")
    else:
        yield from _by_schema(value, definitions()[name], pointer, name)


def _by_schema(value: Any, schema: Mapping[str, Any], pointer: str, name: str) -> Iterator[Problem]:
    reference = schema.get("$ref")
    if reference:
        if value is not None:
            yield from _value(value, reference, pointer)
        return
    kind = schema.get("type", "object")
    if not _is(kind, value):
        yield Problem(pointer, f"must be {_ARTICLES[kind]}, not {_shown(value)}", _quoting(kind, value))
    elif kind == "object":
        yield from _object(value, schema, pointer, name)
    elif kind == "array":
        for index, item in enumerate(value):
            if item is None:
                yield Problem(f"{pointer}/{index}", "must not be null")
            else:
                yield from _by_schema(item, schema.get("items", {}), f"{pointer}/{index}", name)


def _is(kind: str, value: Json) -> bool:
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _object(value: dict[str, Json], schema: Mapping[str, Any], pointer: str, name: str) -> Iterator[Problem]:
    properties, others = schema.get("properties"), schema.get("additionalProperties")
    for key, child in value.items():
        place = f"{pointer}/{escape(key)}"
        if properties and key in properties:
            if child is not None:
                yield from _by_schema(child, properties[key], place, name)
                choices = _CHOICES.get((name.rpartition(".")[2], key))
                if choices and isinstance(child, str) and child and child not in choices:  # "" is as if left out
                    yield Problem(place, f'must be one of {", ".join(choices)}, not "{child}"')
        elif isinstance(others, Mapping):
            yield from _by_schema(child, others, place, name)
        elif properties:
            yield _unknown(key, properties, place, name)
    for key in schema.get("required", ()):
        if value.get(key) is None:
            yield Problem(pointer, f'"{key}" is missing')


def _unknown(key: str, properties: Mapping[str, Any], pointer: str, name: str) -> Problem:
    near = _slip(key, properties)
    if near:
        return Problem(pointer, "unknown field", f'did you mean "{near}"?')
    if name in _PLACES:
        for other, place in _PLACES.items():
            if other != name and key in definitions()[other]["properties"]:
                return Problem(pointer, "this field does not belong here", f'did you mean "{place}/{key}"?')
    return Problem(pointer, f"not known to Kubernetes {version()}; sent as it is", severity="warning")


def _slip(key: str, known: Mapping[str, Any]) -> str:
    """Return the known field of which ``key`` is a slip: other case, ``-`` or ``_``, or a letter or two."""
    plain = re.sub(r"[-_]", "", key).lower()
    same = next((name for name in known if name.lower() == plain), "")
    return same or next(iter(difflib.get_close_matches(key, list(known), n=1, cutoff=0.85)), "")


_UNITS = {"kb": "k", "mb": "M", "gb": "G", "tb": "T", "ki": "Ki", "mi": "Mi", "gi": "Gi", "ti": "Ti", "pi": "Pi"}
_UNITS |= {"kib": "Ki", "mib": "Mi", "gib": "Gi", "tib": "Ti", "g": "G", "t": "T", "p": "P"}


def _quantity(value: Json, pointer: str) -> Iterator[Problem]:
    try:
        quantity(str(value) if isinstance(value, dict | list) else value)
    except ValueError:
        shown = _shown(value)
        unit = re.sub(r"^[0-9.]+\s*", "", str(value))
        fixed = str(value)[: len(str(value)) - len(unit)].strip() + _UNITS.get(unit.lower(), "")
        hint = f'did you mean "{fixed}"?' if unit.lower() in _UNITS else "write 500m, 2 or 16Gi"
        yield Problem(pointer, f"{shown} is not a quantity", hint)


def _quoting(kind: str, value: Json) -> str:
    if kind == "string" and isinstance(value, int | float):
        return f'write "{str(value).lower() if isinstance(value, bool) else getattr(value, "text", value)}" in quotes'
    if kind not in ("integer", "number") or not str(value).lstrip("-").isdigit():
        return ""
    if re.fullmatch("0[0-7]+", str(value)):
        return f"write {int(str(value), 8)}, or 0o{str(value).lstrip('0') or 0}"
    return "write it without quotes"


def _shown(value: Json) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return f'"{value}"' if isinstance(value, str) else str(getattr(value, "text", value))


def _names(job: Mapping[str, Any]) -> Iterator[Problem]:
    """Check that names of containers are RFC 1123 labels and used once, and that an env entry has one source."""
    seen: set[str] = set()
    for kind in ("initContainers", "containers"):
        containers = value_at(job, (*POD, kind))
        for index, container in enumerate(containers if isinstance(containers, list) else ()):
            place = f"/spec/template/spec/{kind}/{index}"
            name = container.get("name") if isinstance(container, dict) else None
            if not isinstance(name, str):
                continue
            if not re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", name):
                hint = "lower-case letters, digits and - only, at most 63"
                yield Problem(f"{place}/name", f'"{name}" is not a container name', hint)
            if name in seen:
                yield Problem(f"{place}/name", f'two containers are named "{name}"')
            seen.add(name)
            yield from _env_sources(container, place)


def _env_sources(container: Mapping[str, Any], place: str) -> Iterator[Problem]:
    env = container.get("env")
    for index, entry in enumerate(env if isinstance(env, list) else ()):
        if isinstance(entry, dict) and entry.get("value") and entry.get("valueFrom"):
            yield Problem(f"{place}/env/{index}", "has both value and valueFrom; keep one")
