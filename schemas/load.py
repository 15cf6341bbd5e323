"""Reads a spec and the files that it names, and reports every fault at its file, line and column."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path as FilePath
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from flowplan.schemas.composition import SpecFiles, compose, read_files
from flowplan.schemas.documents import KUBECTL, Document, parse, read_text
from flowplan.schemas.env_files import EnvFile, EnvFiles, env_files_in, sources
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.fields import TAG, is_expression, kind_of
from flowplan.schemas.pointers import mapping_in
from flowplan.schemas.runs import Json
from flowplan.schemas.sources import Diagnostic, Path, SourceMap, did_you_mean
from flowplan.schemas.spec import BUILT_IN_TYPES, Spec, json_schema, spec_model, without_plugins

ProviderTypes = Mapping[str, type[BaseModel] | None]


_IGNORED = re.compile(r"#\s*flowplan:\s*ignore\b")


class LoadedSpec(NamedTuple):
    """A spec that is well formed, with everything it names.

    Attributes:
        path: as the user gave it, ``<stdin>`` for ``-``; directory: absolute, where the files it names are looked up.
        digest: ``sha256:...`` of the text of the spec and of every file it names or includes; of files of secret variables
            only the names count, for a digest of few values could be guessed.
        tree: the composed document as plain JSON; numbers keep their source text (schemas.documents.scalar_text).
        files: path as written in the spec -> its document.
        env_files: file of variables as a run names it -> its variables.
        ignored: file and line of each comment ``# flowplan: ignore``.
        environment: the one that it is composed for, "" where the spec has none.
    """

    path: FilePath
    directory: FilePath
    digest: str
    tree: Mapping[str, Any]
    spec: Spec
    sources: SourceMap
    files: Mapping[str, Document]
    env_files: EnvFiles
    ignored: frozenset[tuple[str, int]] = frozenset()
    environment: str = ""


def load_spec(path: FilePath, *, provider_types: ProviderTypes | None = None, environment: str = "") -> LoadedSpec:
    """Read and check a spec, see ``read_files`` and ``load``."""
    return load(read_files(path), provider_types=provider_types, environment=environment)


def load(read: SpecFiles, *, provider_types: ProviderTypes | None = None, environment: str = "") -> LoadedSpec:
    """Compose and check a spec that was read: types, then the files it names.

    Args:
        provider_types: installed provider types beyond the built-in ones -> model of their block in a run, or None.
        environment: the one that is wanted, "" for none.

    Raises:
        InvalidInput: every fault at once; or the environment is not one of the spec's.
    """
    path, faults = read.path, list(read.faults)
    _check_environment(read, environment)
    document = compose(read.parts, environment, faults)
    composed = not faults
    spec = _checked(document, provider_types, faults)
    faults += _variable_faults(document)
    files, texts = _named_files(document, path.parent, faults)
    env_files = _env_files(document, path.parent, faults, texts)
    if spec is None and composed:
        from flowplan.schemas.references import unknown_names

        told = {fault.subject for fault in faults}
        faults += [fault for fault in unknown_names(document) if fault.subject not in told]
    if spec is None or faults:
        raise InvalidInput(sorted(dict.fromkeys(faults), key=lambda fault: _order(fault, str(path))))
    lines = ((part, n, line) for part in read.parts for n, line in enumerate(part.text.splitlines(), 1))
    return LoadedSpec(
        path=path,
        directory=path.absolute().parent,
        digest=_digest({**{part.name: part.text for part in read.parts}, **texts}),
        tree=document.value,
        spec=spec,
        sources=document.sources,
        files=files,
        env_files=env_files,
        ignored=frozenset((part.document.sources.file, n) for part, n, line in lines if _IGNORED.search(line)),
        environment=environment,
    )


def _check_environment(read: SpecFiles, environment: str) -> None:
    """Refuse to go on without an environment where the spec has some, and with one that it does not have."""
    known = read.environments
    if not known and environment:
        raise InvalidInput(f"{read.path} has no environments", hint="leave --env and FLOWPLAN_ENV out")
    if known and not environment:
        names = ", ".join(known)
        raise InvalidInput(f"{read.path} has the environments {names}", hint="name one with --env or FLOWPLAN_ENV")
    if known and environment not in known:
        hint = did_you_mean(environment, known)
        raise InvalidInput(f'{read.path} has no environment "{environment}", only {", ".join(known)}', hint=hint)


def _order(fault: Diagnostic, spec: str) -> tuple[bool, str, int, int]:
    where = fault.position
    return (where.file != spec, where.file, where.line, where.column) if where else (True, "", 0, 0)


def _digest(texts: Mapping[str, str]) -> str:
    hashed = hashlib.sha256()
    for name, text in sorted(texts.items()):
        hashed.update(f"{name}\0{len(text.encode())}\0{text}".encode())
    return "sha256:" + hashed.hexdigest()


def _checked(document: Document, provider_types: ProviderTypes | None, faults: list[Diagnostic]) -> Spec | None:
    model = spec_model(provider_types)
    try:
        with without_plugins():
            spec = model.model_validate(document.value)
    except ValidationError as error:
        for fault in faults_in(error, json_schema(provider_types)):
            place = document.sources.at_key if fault.about_key else document.sources.at_value
            faults.append(place(fault.path, fault.message, fault.hint))
        return None
    return spec


class Fault(NamedTuple):
    """What is wrong at a path, and whether it is about the key there or about its value."""

    path: Path
    message: str
    hint: str
    about_key: bool


def faults_in(error: ValidationError, schema: Mapping[str, Any]) -> list[Fault]:
    """Return the faults that pydantic found, in the words of flowplan; one for each place.

    Args:
        schema: JSON Schema of the checked value, for the names that are known at a place.
    """
    known_names = cache(partial(_known_names, schema))  # there may be many faults at one place
    found: dict[Path, Fault] = {}
    for entry in error.errors(include_url=False, include_context=True):
        path: Path = tuple(p for p in entry["loc"] if not (isinstance(p, str) and (p == "[key]" or p.startswith(TAG))))
        about_key = entry["type"] in _ABOUT_KEYS or "[key]" in entry["loc"]
        found.setdefault(path, Fault(path, *_words(entry, path, known_names), about_key))
    return list(found.values())


_ABOUT_KEYS = ("extra_forbidden", "missing", "union_tag_invalid")


def _words(entry: Any, path: Path, known_names: Callable[[Path], list[str]]) -> tuple[str, str]:
    kind = entry["type"]
    if kind == "extra_forbidden":
        return "unknown field", _what_is_meant(str(path[-1]), path[:-1], known_names)
    if kind == "missing":
        return "is missing", _MISSING.get(path, "")
    if kind == "union_tag_invalid":
        name = str(entry["input"].get("type"))
        known = known_names(("providers",))
        return f'unknown provider type "{name}"', did_you_mean(name, known) or f"write type: {' or '.join(known)}"
    if kind == "flowplan_kind":
        return f"must be {entry['msg']}, not {kind_of(entry['input'])}", ""
    expected = {"list_type": "a list", "dict_type": "a mapping", "model_type": "a mapping"}.get(kind)
    if expected:
        return f"must be {expected}, not {kind_of(entry['input'])}", _shape_of(path)
    given = entry["input"] if path[:1] == ("variables",) and path[-1] == "type" else None
    return entry["msg"], f'write "{_TYPES[given]}"' if isinstance(given, str) and given in _TYPES else ""


_MISSING: Mapping[Path, str] = {
    ("flowplan",): "write `flowplan: 1`, the version of the spec",
    ("project",): "write `project: NAME`",
    ("runs",): "write `runs: {NAME: {provider: ..., command: [...]}}`",
}
_TYPES = {"array": "list", "boolean": "bool", "dict": "map", "float": "number", "int": "number", "integer": "number"} | {
    "object": "map", "str": "string", "text": "string",
}  # fmt: skip
"""What the types of variables are called elsewhere."""


_SHAPES = {
    "runs": "write `a: {provider: ...}`; the run's name is the key",
    "runs.*": "write `%s: {provider: ..., command: [...]}`",
    "providers": "write `docker: {type: docker}`; the provider's name is the key",
    "providers.*": "write `%s: {type: ...}`",
    "variables": "write `tag: {default: ...}`; the variable's name is the key",
    "variables.*": "write `%s: {default: ...}`",
    "env": 'write `A: "1"` instead of `- A=1`',
    "labels": 'write `A: "1"` instead of `- A=1`',
    "matrix": "write `matrix: {day: [mon, tue]}`; the axis's name is the key",
}
"""How to write what people take for a list or a plain value, as it is in other tools; ``%s`` is the name of an entry."""


def _shape_of(path: Path) -> str:
    if len(path) == 2 and (entry := _SHAPES.get(f"{path[0]}.*")):
        return entry % path[1]
    return _SHAPES.get(str(path[-1]), "") if path else ""


_ELSEWHERE = {
    "activeDeadlineSeconds": "timeout",
    "after": "needs",
    "args": "command",
    "backoffLimit": "retries",
    "cmd": "command",
    "concurrency": "max_parallel",
    "container_name": "name",
    "cwd": "working_dir",
    "depends_on": "needs",
    "environment": "env",
    "jobs": "runs",
    "services": "runs",
    "stop_grace_period": "grace_period",
    "tasks": "runs",
    "terminationGracePeriodSeconds": "grace_period",
    "url": "host",
    "vars": "variables",
    "workdir": "working_dir",
}
"""What fields are called in files of other tools."""
_SCHEDULE = "flowplan starts nothing by itself; call `flowplan apply --yes` from cron, a systemd timer or CI"
_SCRIPT = "write command: [sh, -c, '...']"
_CONDITION = (
    "a run has no condition: it starts when all that it needs has succeeded; --target and --exclude choose runs"
)
_MANIFEST = (
    "this is a manifest of Kubernetes: `flowplan import FILE` makes a spec of it, or name it as kubernetes.job of a run"
)
_SECRET = "write env: {NAME: {from_env: NAME}} in the run; what the variable NAME holds is never stored"
_OPTIONS = "write docker.create_options, which takes every option of the Engine"
_OTHERWISE = {
    "apiVersion": _MANIFEST,
    "cron": _SCHEDULE,
    "gpus": "write resources: {gpu: 1}",
    "if": _CONDITION,
    "kind": _MANIFEST,
    "limits": "write cpu, memory and gpu directly below resources: they are request and limit in one",
    "network": "write docker: {networks: [NAME]}",
    "ports": _OPTIONS,
    "requests": "write cpu, memory and gpu directly below resources: they are request and limit in one",
    "restart": "write retries: a run comes to an end, and is started again when it failed",
    "run": _SCRIPT,
    "schedule": _SCHEDULE,
    "script": _SCRIPT,
    "secrets": _SECRET,
    "shell": _SCRIPT,
    "strategy": "write matrix directly in the run",
    "tag": "write it behind the image: `image: NAME:TAG`",
    "user": f"of a container {_OPTIONS}; of a Job kubernetes.customizations; a process runs as you",
    "valueFrom": "write secret_key_ref or config_map_key_ref, each with name and key, in its place",
    "version": "the version of the spec is `flowplan: 1`",
    "when": _CONDITION,
}
"""What to do instead where other tools have a field that there is not."""


def _what_is_meant(name: str, place: Path, known_names: Callable[[Path], list[str]]) -> str:
    """Return what to write instead of an unknown field: its block, its name here, or the names there are."""
    known = known_names(place)
    block = next((b for b in BUILT_IN_TYPES if b in known and name in known_names((*place, b))), None)
    if block:
        return f"it belongs into the block {block}"
    meant = _ELSEWHERE.get(name, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("-", "_"))
    if meant in known:
        return f'write "{meant}"'
    in_block = bool(place) and place[-1] in BUILT_IN_TYPES and place[0] != "providers"
    around = known_names(place[:-1]) if in_block else known_names(("defaults",)) if not place else []
    if meant in around:
        return f'write "{meant}" {"directly in the run" if in_block else "below defaults, which count for every run"}'
    if not place and (near := did_you_mean(name, known)):
        return near
    if name in _OTHERWISE and not in_block and (name not in ("limits", "requests") or place[-1:] == ("resources",)):
        return _OTHERWISE[name]
    if in_block or place[-2:-1] == ("env",):
        return did_you_mean(name, known) or f"known: {', '.join(known)}"
    return did_you_mean(name, known)


def _known_names(schema: Mapping[str, Any], path: Path) -> list[str]:
    """Return the names of the fields that a JSON Schema knows at a path."""
    places = [schema]
    for part in path:
        places = [child for place in places for child in _children(schema, place, part)]
    found = (alternative.get("properties", ()) for place in places for alternative in _flat(schema, place))
    return list(dict.fromkeys(name for names in found for name in names))


def _children(schema: Mapping[str, Any], place: Mapping[str, Any], part: str | int) -> Iterator[Mapping[str, Any]]:
    for alternative in _flat(schema, place):
        if isinstance(part, int):
            child = alternative.get("items")
        else:
            child = alternative.get("properties", {}).get(part) or alternative.get("additionalProperties")
        if isinstance(child, dict):
            yield child


def _flat(schema: Mapping[str, Any], place: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield place
    if "$ref" in place:
        yield from _flat(schema, schema["$defs"][place["$ref"].rpartition("/")[2]])
    for word in ("anyOf", "oneOf", "allOf"):
        for member in place.get(word, ()):
            yield from _flat(schema, member)
    for word in ("then", "else"):
        if word in place:
            yield from _flat(schema, place[word])


_KINDS: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "bool": lambda value: isinstance(value, bool),
    "list": lambda value: isinstance(value, list),
    "map": lambda value: isinstance(value, dict),
}


def _variable_faults(document: Document) -> Iterator[Diagnostic]:
    """Yield defaults of another type than their variable, and patterns that are none, of any document."""
    for name, declared in mapping_in(document.value, "variables").items():
        if not isinstance(declared, dict):
            continue
        path, pattern = ("variables", name), declared.get("pattern")
        try:
            re.compile(pattern if isinstance(pattern, str) else "")
        except re.error as error:
            yield document.sources.at_value((*path, "pattern"), f"is not a regular expression: {error}")
        default, kind = declared.get("default"), declared.get("type", "string")
        if default is not None and isinstance(kind, str) and kind in _KINDS and not _KINDS[kind](default):
            hint = "write it in quotes" if kind == "string" and not isinstance(default, dict | list) else ""
            shown = "" if declared.get("sensitive") else f", not {kind_of(default)}"
            message = f"must be of the variable's type {kind}{shown}"
            yield document.sources.at_value((*path, "default"), message, hint)


def _named_files(
    document: Document, directory: FilePath, faults: list[Diagnostic]
) -> tuple[dict[str, Document], dict[str, str]]:
    """Return every file that the spec names, parsed once, however often it is named."""
    files: dict[str, Document] = {}
    texts: dict[str, str] = {}
    failed: set[str] = set()
    for path, name in _file_fields(document.value):
        if name in files or name in failed:
            continue
        try:
            texts[name] = _text_of(directory, name)
            place = str(directory / FilePath(name).expanduser())
            files[name] = parse(texts[name], place, KUBECTL if path[-1] in ("job", "customizations") else "")
        except InvalidInput as error:
            failed.add(name)
            faults += document.sources.placed(error.diagnostics, path)
    return files, texts


def _env_files(document: Document, directory: FilePath, faults: list[Diagnostic], texts: dict[str, str]) -> EnvFiles:
    """Return every file of variables that runs name; one that is faulty is told once and left empty.

    What the digest of the spec covers of it is added to ``texts``.
    """
    files: dict[EnvFile, Mapping[str, Any]] = {}
    for path, run in _runs_in(document.value):
        for place, file in env_files_in(run.get("env_file")):
            if file in files:
                continue
            files[file] = {}
            try:
                text = _text_of(directory, file.path)
                files[file] = sources(text, file)
                secret = {f"{file.path}#": "\n".join(sorted(files[file]))}
                texts |= secret if file.sensitive else {file.path: text}
            except InvalidInput as error:
                faults += document.sources.placed(error.diagnostics, (*path, "env_file", *place))
    return files


def _text_of(directory: FilePath, name: str) -> str:
    if is_expression(name):
        hint = "only ${environment}, where the spec has environments"
        raise InvalidInput("the name of a file cannot hold an expression", hint=hint)
    return read_text(directory / FilePath(name).expanduser(), name, pipes=False)


def _runs_in(tree: Json) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield the defaults and the runs with their paths, in a document that may be ill formed."""
    yield ("defaults",), mapping_in(tree, "defaults")
    yield from ((("runs", name), run) for name, run in mapping_in(tree, "runs").items() if isinstance(run, dict))


def _file_fields(tree: Json) -> Iterator[tuple[Path, str]]:
    """Yield paths of the fields that name a file, in a document that may be ill formed."""
    for path, run in _runs_in(tree):
        if isinstance(run.get("template"), str) and run["template"]:
            yield (*path, "template"), run["template"]
        block = mapping_in(run, "kubernetes")
        for field in ("job", "customizations"):
            if isinstance(block.get(field), str) and block[field]:
                yield (*path, "kubernetes", field), block[field]
    policies = tree.get("policies") if isinstance(tree, dict) else None
    for index, policy in enumerate(policies if isinstance(policies, list) else ()):
        if isinstance(policy, str) and policy:
            yield ("policies", index), policy
