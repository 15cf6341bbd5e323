"""What runs have in common that are programs, not containers: their argv, directory, variables and labels."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping

from flowplan.planner.manifests import ResolvedRun
from flowplan.schemas.pointers import escape
from flowplan.schemas.runs import Json, Origin
from flowplan.schemas.sources import Diagnostic, Path

_REFERENCES = ("secret_key_ref", "config_map_key_ref")


def _argv(run: ResolvedRun) -> list[tuple[Path, str]]:
    """Return the argv with the path of each item: the entrypoint, then the command."""
    return [
        ((part, index), str(text))
        for part in ("entrypoint", "command")
        for index, text in enumerate(run.fields.get(part) or ())
    ]


def faults(run: ResolvedRun, noun: str, wrong_name: Callable[[str], tuple[str, str] | None]) -> list[Diagnostic]:
    """Return faults of the argv and the variables: an empty argv, references that only Kubernetes resolves, NUL.

    Args:
        noun: what the run becomes.
        wrong_name: what is wrong with the name of a variable, and a hint.
    """
    argv, found = _argv(run), []
    if not any(text for _, text in argv):
        found.append(run.fault(("command",), f"{noun} needs a command; entrypoint and command are both empty"))
    elif not argv[0][1]:
        found.append(run.fault(argv[0][0], "the program to start is empty"))
    found += [run.fault(path, "an argument cannot hold a NUL character") for path, text in argv if "\0" in text]
    for name, value in (run.fields.get("env") or {}).items():
        path = ("env", name)
        if isinstance(value, Mapping):
            kind = next((k for k in _REFERENCES if k in value), "this reference")
            message = f"{kind} is resolved by Kubernetes only; {noun} cannot use it"
            found.append(run.fault(path, message, "use from_env or from_file"))
        elif wrong := wrong_name(name):
            found.append(run.fault(path, *wrong))
        elif isinstance(value, str) and "\0" in value:
            found.append(run.fault(path, "an environment variable cannot hold a NUL character"))
    return found


def body(run: ResolvedRun, labels: Mapping[str, str]) -> dict[str, Json]:
    """Return what is started, and its labels, to which ``labels`` are added."""
    return {
        "argv": [text for _, text in _argv(run)],
        # what is relative to the spec stays so, wherever the project lies
        "cwd": posixpath.normpath(run.fields.get("working_dir") or ""),
        "env": dict(sorted((run.fields.get("env") or {}).items())),
        "labels": {**(run.fields.get("labels") or {}), **labels},
    }


def origins(run: ResolvedRun, kind: str) -> dict[str, Origin]:
    """Return where the parts of a body, in an object of a kind, were written."""
    found = {f"/{kind}/argv/{index}": run.origin(*path) for index, (path, _) in enumerate(_argv(run))}
    for part in ("env", "labels"):
        for name in run.fields.get(part) or {}:
            found[f"/{kind}/{part}/{escape(name)}"] = run.origin(part, name)
    return {**found, f"/{kind}/cwd": run.origin("working_dir")}
