"""The commands that need neither a state nor an engine: init, validate and schema."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from flowplan.commands.arguments import check_format
from flowplan.commands.places import place, shown
from flowplan.engines import ManifestsByType, installed
from flowplan.given import Given
from flowplan.output import Output
from flowplan.planner.manifests import traits
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.sources import did_you_mean
from flowplan.schemas.text import counted
from flowplan.wanted import check_spec

SCHEMA = "spec.schema.json"
"""The JSON Schema beside a first spec, which its first line names: editors look for it without a network."""

_HEAD = """\
# yaml-language-server: $schema={schema}
flowplan: 1
project: {project}
variables:
  greeting: {{type: string, default: hello}}
runs:
"""


def init(directory: Path, provider: str) -> None:
    """Write a first spec and the schema that an editor checks it with; files that exist are never touched.

    Raises:
        InvalidInput: there is one already, or the provider is unknown.
    """
    example = traits(ManifestsByType()[provider]).EXAMPLE
    if not example:
        raise InvalidInput(f'provider type "{provider}" has no example', hint="write the spec by hand")
    path = directory / "flowplan.yaml"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(_HEAD.format(schema=SCHEMA, project=_quoted(project_name(directory.resolve().name))) + example)
        if not (directory / SCHEMA).exists():
            (directory / SCHEMA).write_text(_schema_text("spec"), encoding="utf-8")
        ignored = directory / ".gitignore"  # the state is not for version control
        lines = ignored.read_text(encoding="utf-8").splitlines() if ignored.exists() else []
        if ".flowplan/" not in lines:
            ignored.write_text("\n".join([*lines, ".flowplan/"]) + "\n", encoding="utf-8")
    except FileExistsError:
        raise InvalidInput(f"{path} exists already") from None
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}") from error
    enter = "" if directory.resolve() == Path.cwd() else f"`cd {shlex.quote(str(directory))}`, "
    Output().note(f"Wrote {path} and, for editors, {SCHEMA}. Next: {enter}`flowplan plan`, then `flowplan apply`.")


def project_name(name: str) -> str:
    """Return a name of a project made of a directory's."""
    ascii_name = "".join(c if (c.isascii() and c.isalnum()) or c in "-_" else "-" for c in name)
    return ascii_name[:63].strip("-_") or "project"


def _quoted(project: str) -> str:
    """Return a name of a project as YAML takes it for a string."""
    plain = project[0].isalpha() and project.lower() not in ("true", "false", "null")
    return project if plain else f'"{project}"'


def validate(spec: Path | None, environment: str | None, given: Given, format: str) -> None:
    """Check a spec offline, in all its environments unless one is named."""
    check_format(format, ("text", "json"))
    path = spec or shown(place(None).spec)
    found = check_spec(path, given, environment or "")
    output = Output()
    for warning in dict.fromkeys(str(warning) for checked in found.values() for warning in checked.warnings):
        output.note(f"warning: {warning}")
    if format == "json":
        documents = {
            name: {"runs": one.runs, "warnings": [str(w) for w in one.warnings], "unset": list(one.unset)}
            for name, one in found.items()
        }
        output.document({"valid": True, **documents.get("", {"environments": documents})})
        return
    for name, one in found.items():
        which = f"{path} ({name})" if name else path
        if one.unset:
            names = ", ".join(f"var.{n}" for n in one.unset)
            output.data(f"{which}: valid; not checked: what depends on the value of {names}")
        else:
            output.data(f"{which}: valid, {counted(one.runs, 'run')}")


def schema(kind: str) -> None:
    """Print the JSON Schema of a document."""
    kinds = ("spec", "include", "plan", "event", "status", "history", "report")
    if kind not in kinds:
        hint = did_you_mean(kind, kinds) or f"one of {', '.join(kinds)}"
        raise InvalidInput(f'there is no schema "{kind}"', hint=hint)
    Output().data(_included() if kind == "include" else _schema_text(kind).rstrip("\n"))


def _included() -> str:
    """Return the JSON Schema of a file that a spec includes: it has the fields of a spec, but for those of the spec alone."""
    from flowplan.schemas.composition import OF_THE_SPEC

    schema = json.loads(_schema_text("spec"))
    del schema["required"], schema["anyOf"]
    schema |= {"$id": schema["$id"].replace("/spec-", "/include-"), "title": "Included file"}
    schema["description"] = "A file that a flowplan spec includes."
    schema["properties"] = {k: v for k, v in schema["properties"].items() if k not in OF_THE_SPEC}
    return json.dumps(schema, indent=2, ensure_ascii=False)


def _schema_text(kind: str) -> str:
    """Return the JSON Schema of a document; that of a spec has the fields of installed providers."""
    from importlib.resources import files

    if kind == "spec" and installed():
        from flowplan.schemas.spec import schema_text, without_plugins

        with without_plugins():
            return schema_text(dict.fromkeys(installed()))
    return files("flowplan.schemas").joinpath(f"{kind}.schema.json").read_text(encoding="utf-8")
