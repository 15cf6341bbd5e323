"""Secret values: fetched from the environment and files of this machine, kept in memory, checked against the review."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowplan.schemas.errors import InvalidInput, PlanStale
from flowplan.schemas.files import Unreadable, read_bounded
from flowplan.schemas.pointers import keys_of, member
from flowplan.schemas.secrets import SecretSource, token, tokens_in
from flowplan.schemas.sources import Diagnostic

if TYPE_CHECKING:
    from flowplan.schemas.load import LoadedSpec
    from flowplan.schemas.plans import Change

MAX_SECRET = 1 << 20
"""Bytes of a secret in a file, as in Kubernetes."""


def lookup(source: SecretSource, directory: Path, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the value of a ``from_env``, ``from_file``, ``env_file`` or ``from_spec`` source on this machine; None when it is not there.

    One newline at the end of a file is not part of the secret (as `kubectl create secret` users expect of `echo`).

    Raises:
        InvalidInput: the file is there and cannot be a secret: a pipe, a device, a directory, too big, with NUL bytes.
    """
    if source.kind == "from_env":
        return (os.environ if environ is None else environ).get(source.value)
    if source.kind == "from_file":
        try:
            data = read_bounded(directory / Path(source.value).expanduser(), MAX_SECRET)
        except IsADirectoryError:
            raise _no_secret(source, "is a directory, not a file") from None
        except PermissionError:
            raise _no_secret(source, "may not be read by this user (permission denied)") from None
        except OSError:
            return None
        except Unreadable as error:
            raise _no_secret(source, str(error)) from None
        if b"\0" in data:
            raise _no_secret(source, "holds a NUL byte, which no variable of an environment can")
        return data.decode("utf-8", "surrogateescape").removesuffix("\n")
    if source.kind == "env_file":
        from flowplan.schemas.documents import read_text
        from flowplan.schemas.env_files import variables

        name, _, variable = source.value.rpartition("#")
        try:
            return variables(read_text(directory / Path(name).expanduser(), name, pipes=False), name).get(variable)
        except InvalidInput:
            return None
    return _written(source.value, directory) if source.kind == "from_spec" else None


def _no_secret(source: SecretSource, what: str) -> InvalidInput:
    return InvalidInput(f"the file {source.value} {what}", subject="from_file")


class Secrets:
    """Looks up the secrets of a spec, and keeps what is wrong with their files until all are known.

    Args:
        learnt: called with each value, before anything else can show it.
    """

    def __init__(self, loaded: LoadedSpec, learnt: Callable[[str], None]) -> None:
        self._loaded = loaded
        self._learnt = learnt
        self._faults: list[Diagnostic] = []

    def __call__(self, source: SecretSource) -> str | None:
        """Look a secret up; None also for a file that cannot be a secret, which ``check`` reports."""
        try:
            value = lookup(source, self._loaded.directory)
        except InvalidInput as error:
            self._faults += [self._placed(fault, source.value) for fault in error.diagnostics]
            return None
        if value is not None:
            self._learnt(value)
        return value

    def check(self) -> None:
        """Raise InvalidInput with every file that cannot be a secret, where the spec names it."""
        if self._faults:
            raise InvalidInput(self._faults)

    def _placed(self, fault: Diagnostic, file: str) -> Diagnostic:
        """Return the fault at the first place that names the file; a name with an expression in it has no such place."""
        found = next(_naming(self._loaded.tree, file), None)
        if found is None:
            return fault
        sources = self._loaded.sources
        return fault._replace(position=sources.value(found), subject=sources.subject(found))


def _naming(value: Any, file: str, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the paths of every ``from_file`` of this name."""
    if isinstance(value, Mapping) and value.get("from_file") == file:
        yield (*path, "from_file")
    elif isinstance(value, Mapping | list):
        for key, child in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _naming(child, file, (*path, key))


def _written(place: str, directory: Path) -> str | None:
    """Return the text at ``<file>#<JSON Pointer>``, as the spec that holds it means it."""
    from flowplan.schemas.documents import parse, read_text

    name, _, pointer = place.partition("#")
    try:
        value = parse(read_text(directory / name), name).value
    except InvalidInput:
        return None
    for key in keys_of(pointer):
        value = member(value, key)
    return value.replace("$${", "${") if isinstance(value, str) else None


def resolve(
    secrets: Mapping[str, SecretSource],
    *,
    directory: Path,
    key: bytes,
    template: Callable[[SecretSource], str | None] = lambda source: None,
    changes: Iterable[Change] = (),
) -> dict[str, str]:
    """Return token -> value for every secret that a plan needs, before anything starts.

    Args:
        changes: of the plan, to say which runs need a secret that is missing.
        template: evaluates a source of kind ``template`` with this call's variables; None when one is missing.

    Raises:
        InvalidInput: references that cannot be resolved, all of them.
        PlanStale: a value is not the one that was reviewed.
    """
    values: dict[str, str] = {}
    faults, changed = [], []
    for shown, source in secrets.items():
        value = template(source) if source.kind == "template" else lookup(source, directory)
        if value is None:
            faults.append(unresolvable(shown, source, changes))
            continue
        if not shown.endswith(" unresolved)") and token(source, key, value) != shown:
            changed.append(source.label)
        values[shown] = value
    if faults:
        raise InvalidInput(faults)
    if changed:
        names = ", ".join(sorted(changed))
        raise PlanStale(f"secrets changed since the plan was reviewed: {names}", hint="plan and review again")
    return values


def unresolvable(shown: str, source: SecretSource, changes: Iterable[Change]) -> Diagnostic:
    """Return what is missing, which runs need it, and what to do."""
    users = [change.address for change in changes if shown in tokens_in(change.after)]
    more = f" and {len(users) - 3} more" if len(users) > 3 else ""
    message, hint = _missing(source)
    return Diagnostic(message, subject=", ".join(users[:3]) + more or source.kind, hint=hint)


def warnings_of(absent: Mapping[str, SecretSource], changes: Iterable[Change]) -> list[Diagnostic]:
    """Return what a plan says of secrets that are not there; apply would refuse to start anything."""
    faults = [unresolvable(shown, source, changes) for shown, source in absent.items()]
    return [Diagnostic(f.message, None, f.subject, f.hint, "warning") for f in faults]


def _missing(source: SecretSource) -> tuple[str, str]:
    if source.kind == "from_env":
        return f"the environment variable {source.value} (from_env) is not set", "set it"
    if source.kind == "from_file":
        return f"the file {source.value} (from_file) cannot be read", "create it"
    if source.kind == "env_file":
        file, _, variable = source.value.rpartition("#")
        return f"the file {file} (env_file) has no variable {variable} any more", "plan and review again"
    if source.kind == "from_spec":
        return f"{source.value.replace('#', ' at ')} holds no secret any more", "plan and review again"
    names = ", ".join(source.variables)
    hint = "give it with --var, --var-file or FLOWPLAN_VAR_<name>"
    return f"the sensitive variable {names} is needed again and was not given", hint
