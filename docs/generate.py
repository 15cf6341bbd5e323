"""Write what is generated: the spec's JSON Schema, the Job API, the pages of the spec and the commands, outputs in pages.

python docs/generate.py                  everything
python docs/generate.py docs/state.md    the outputs of these pages only
python docs/generate.py --pictures       the pictures
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import consoles
import distill_job_api
import pictures
import screens

Json = Mapping[str, Any]
ROOT = consoles.ROOT
MARK = "<!-- from here on written by docs/generate.py -->"
ENGINES = {"docker": "DOCKER_HOST", "kubernetes": "KUBECONFIG", "slurm": "SLURM_CONF"}

# The order of the spec's page: what people meet first comes first; a part that is not named here comes last.
PARTS = (
    "Run",
    "ProcessBlock",
    "DockerBlock",
    "KubernetesBlock",
    "SlurmBlock",
    "Matrix",
    "Range",
    "Reference",
    "EnvFile",
    "RetryDelay",
    "Resources",
    "VariableSpec",
    "Environment",
)
TITLES = {
    "Run": "A run, and `defaults`",
    "ProcessBlock": "`process` in a run",
    "DockerBlock": "`docker` in a run",
    "KubernetesBlock": "`kubernetes` in a run",
    "SlurmBlock": "`slurm` in a run",
    "Matrix": "`matrix`",
    "Range": "A range of a matrix",
    "Reference": "A reference in `env`",
    "EnvFile": "A file of variables in `env_file`",
    "RetryDelay": "A growing `retry_delay`",
    "Resources": "`resources`",
    "VariableSpec": "A variable",
    "Environment": "An environment",
    "KeyRef": "A key of a Secret or ConfigMap",
    "RegistryCredentials": "`registry_credentials`",
    "SecretReference": "A reference to a secret",
    "PatchOperation": "An operation of `customizations`",
    "DockerProvider": "A provider of type `docker`",
    "KubernetesProvider": "A provider of type `kubernetes`",
    "ProcessProvider": "A provider of type `process`",
    "SlurmProvider": "A provider of type `slurm`",
    "Move": "An item of `moved`",
    "Policy": "A policy",
    "Notification": "An item of `notify`",
}


def _below_mark(page: str, sections: list[str]) -> str:
    """Return the page as it is down to the mark, which people wrote, and the sections below it."""
    written = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(MARK)[0]
    return written + MARK + "\n\n" + "\n".join(sections)


# -- the page of the spec -----------------------------------------------------------------------------------------


def spec_page(schema: Json) -> str:
    """Every field of the spec with its type, default and description."""
    parts = [*PARTS, *(name for name in schema["$defs"] if name not in PARTS)]
    sections = [_section("The spec", schema), *(_section(TITLES[name], schema["$defs"][name]) for name in parts)]
    return _below_mark("spec.md", sections)


def _section(title: str, part: Json) -> str:
    required = part.get("required", [])
    rows = [_row(name, field, name in required) for name, field in part["properties"].items()]
    if isinstance(part.get("additionalProperties"), dict):
        rows.append(_row("any other name", part["additionalProperties"], False))
    table = "\n".join(["| field | type | default | |", "|---|---|---|---|", *rows])
    return f"## {title}\n\n{part.get('description', '')}\n\n{table}\n"


def _row(name: str, field: Json, required: bool) -> str:
    default = "**required**" if required else _default(field.get("default"))
    shown = name if " " in name else f"`{name}`"
    return f"| {shown} | {_cell(type_text(field))} | {default} | {_cell(field.get('description', ''))} |"


def _default(value: Any) -> str:
    return "" if value in (None, "", [], {}) else f"`{json.dumps(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def type_text(field: Json) -> str:
    """Return the type of a field in words, with links to the parts that it names."""
    pattern = str(field.get("pattern", ""))
    for sign, word in {")?d)?": "duration", "[kKmMgG]": "size", "[numkMGTPE]": "quantity"}.items():
        if sign in pattern:
            return word
    return " or ".join(dict.fromkeys(_types(field))) or "anything"


def _types(field: Json) -> Iterator[str]:
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[1]
        yield f"[{_plain(TITLES[name])}](#{_anchor(TITLES[name])})"
        return
    for choice in field.get("oneOf", []):
        yield from _types(choice)
    if "const" in field:
        yield f"`{json.dumps(field['const'])}`"
    elif "enum" in field:
        yield from (f"`{v if isinstance(v, str) else json.dumps(v)}`" for v in field["enum"] if v is not None)
    else:
        yield from _of_type(field)


def _of_type(field: Json) -> Iterator[str]:
    types = [field["type"]] if isinstance(field.get("type"), str) else field.get("type", [])
    if {"string", "number", "boolean"} <= set(types):
        types = ["scalar", *(name for name in types if name not in ("string", "number", "boolean"))]
    if "\\$\\{" in field.get("pattern", ""):  # a string only where it is an expression, which is said once for all
        types = [name for name in types if name != "string"]
    for name in types:
        if name == "array":
            yield f"list of {type_text(field.get('items', {}))}"
        elif name == "object" and isinstance(field.get("additionalProperties"), dict):
            yield f"map of {type_text(field['additionalProperties'])}"
        elif name != "null":
            yield {"object": "map", "string": "text", "boolean": "true, false", "integer": "whole number"}.get(
                name, name
            )


def _plain(title: str) -> str:
    return title.replace("`", "")


def _anchor(title: str) -> str:
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


# -- the page of the commands -------------------------------------------------------------------------------------


def commands_page() -> str:
    """Every command with its arguments and options."""
    import typer

    from flowplan.cli import COMMANDS
    from flowplan.typed import application

    root = typer.main.get_command(application(COMMANDS))
    sections = [_command(path, command) for path, command in _leaves("flowplan", root)]
    return _below_mark("commands.md", sections)


def _leaves(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, child in command.commands.items():
        yield from _leaves(f"{path} {name}", child)


def _command(path: str, command: Any) -> str:
    arguments = [p for p in command.params if not p.opts[0].startswith("-")]
    options = [p for p in command.params if p.opts[0].startswith("-") and "--help" not in p.opts]
    usage = " ".join([path, *(_argument(p) for p in arguments), *(["[OPTIONS]"] if options else [])])
    rows = [_option(p) for p in (*arguments, *options)]
    table = "\n".join(["| | |", "|---|---|", *rows]) + "\n" if rows else ""
    return f"## {path}\n\n{command.help}\n\n    {usage}\n\n{table}"


def _argument(parameter: Any) -> str:
    name = (parameter.metavar or parameter.name.upper()).strip("[].") + ("..." if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def _option(parameter: Any) -> str:
    spelled = [f"`{o}`" for o in (*parameter.opts, *parameter.secondary_opts)]
    if not parameter.opts[0].startswith("-"):
        spelled = [f"`{_argument(parameter)}`"]
    elif not getattr(parameter, "is_flag", False) and not getattr(parameter, "count", False):
        metavar = parameter.metavar or parameter.name.upper()
        spelled[-1] = f"{spelled[-1][:-1]} {metavar}`"
    said = parameter.help or ""
    default = f"Default {parameter.default}." if _worth_telling(parameter.default, said) else ""
    words = [said, default, f"Also `{parameter.envvar}`." if parameter.envvar else ""]
    return f"| {_cell(', '.join(spelled))} | {' '.join(_cell(w) for w in words if w)} |"


def _worth_telling(default: Any, said: str) -> bool:
    return isinstance(default, int | str) and not isinstance(default, bool) and str(default) not in said


# -- writing ------------------------------------------------------------------------------------------------------


def generated() -> dict[Path, str]:
    """Path -> text of every generated file."""
    from flowplan.schemas import job_api, report
    from flowplan.schemas.spec import json_schema, schema_text

    return {
        job_api.FILE: distill_job_api.text(),
        ROOT / "schemas" / "spec.schema.json": schema_text(),
        report.SCHEMA_FILE: report.schema_text(),
        ROOT / "docs" / "spec.md": spec_page(json_schema()),
        ROOT / "docs" / "commands.md": commands_page(),
    }


def write_outputs(pages: list[Path]) -> None:
    """Run the pages again and write the outputs that changed."""
    for page in pages:
        for index in range(len(consoles.sessions(page))):
            session = consoles.sessions(page)[index]  # read again: lines move
            if missing := [n for n in session.needs if not os.environ.get(ENGINES[n])]:
                print(f"{session}: left as it is, there is no {' and no '.join(missing)}")
                continue
            changed = consoles.rewrite(session, Path(sys.executable).parent)
            print(f"{session}: {changed} outputs written" if changed else f"{session}: as shown")


if __name__ == "__main__":
    if sys.argv[1:] == ["--pictures"]:
        pictures.write()
        screens.write()
    elif sys.argv[1:]:
        write_outputs([Path(name).resolve() for name in sys.argv[1:]])
    else:
        for path, text in generated().items():
            path.write_text(text, encoding="utf-8")
        write_outputs(consoles.pages())
