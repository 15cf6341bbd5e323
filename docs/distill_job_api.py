"""Write job_api.json from the OpenAPI schemas in the package kubernetes-validate, which only developers install."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flowplan.schemas.job_api import JOB

KEPT = ("type", "properties", "required", "additionalProperties", "items", "$ref")
"""Keywords that checking a manifest reads; descriptions, formats and merge strategies are dropped."""


def sources() -> dict[str, Path]:
    """Return version -> file of its schemas, oldest first."""
    spec = importlib.util.find_spec("kubernetes_validate")
    [package] = spec.submodule_search_locations or [] if spec else []
    found = {}
    for path in (Path(package) / "kubernetes-json-schema").glob("v*-local/_definitions.json"):
        major, minor = map(int, re.findall(r"\d+", path.parent.name)[:2])
        found[major, minor] = path
    return {f"{major}.{minor}": found[major, minor] for major, minor in sorted(found)}


def distilled(source: Path) -> dict[str, Any]:
    """Return the types that a Job reaches, by name, without what checking does not read."""
    everything = json.loads(source.read_text(encoding="utf-8"))["$defs"]
    reached: dict[str, Any] = {}
    waiting = [JOB]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached[name] = _kept(everything[name])
            waiting += _references(reached[name])
    return dict(sorted(reached.items()))


def _kept(schema: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {key: schema[key] for key in KEPT if key in schema}
    if "$ref" in kept:
        return {"$ref": kept["$ref"].rpartition("/")[2]}
    if isinstance(kept.get("type"), list):  # ["string", "null"]: null is the same as leaving a field out
        kept["type"] = kept["type"][0]
    if "properties" in kept:
        kept["properties"] = {name: _kept(field) for name, field in sorted(kept["properties"].items())}
    for key in ("items", "additionalProperties"):
        if isinstance(kept.get(key), Mapping):
            kept[key] = _kept(kept[key])
    return kept


def _references(schema: Mapping[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        yield schema["$ref"]
    for part in (*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")):
        if isinstance(part, Mapping):
            yield from _references(part)


def text() -> str:
    """Return what job_api.json must hold: one line for each change of a type."""
    known = {version: distilled(path) for version, path in sources().items()}
    lines = []
    for name in sorted({name for types in known.values() for name in types}):
        changes: dict[str, Any] = {}
        last = None
        for version, types in known.items():
            if types.get(name) != last:
                last = changes[version] = types.get(name)
        said = ",\n".join(f"{json.dumps(v)}:{json.dumps(s, separators=(',', ':'))}" for v, s in changes.items())
        lines.append(f"{json.dumps(name)}:{{\n{said}}}")
    return f'{{"versions":{json.dumps(list(known))},\n"types":{{\n' + ",\n".join(lines) + "}}\n"
