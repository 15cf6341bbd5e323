"""What the fields of a run become: defaults merged, scalars as text, commands as lists, durations as Settings."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flowplan.planner.desired import expressions
from flowplan.planner.desired.sealing import Sealer
from flowplan.schemas.composition import MARKS, descend, is_reference, over
from flowplan.schemas.documents import scalar_text
from flowplan.schemas.env_files import EnvFiles, env_files_in
from flowplan.schemas.fields import kind_of
from flowplan.schemas.pointers import walk
from flowplan.schemas.quantities import backoff, duration
from flowplan.schemas.runs import Origin, Retry, Settings
from flowplan.schemas.secrets import SecretSource
from flowplan.schemas.sources import Path, SourceMap

BLOCKS_WITH_NULLS = ("variables", "matrix")
TEXT_FIELDS = ("description", "image", "name", "working_dir")
MOST_ARGUMENTS = 100_000
"""More than any system takes."""
MOST_NAMES = 5_000
"""Labels, annotations or triggers of a run."""
LONGEST_COMMAND = 200_000
"""Characters of a command that is split: that takes a microsecond for each."""
TEXT_MAPS = ("labels", "annotations", "triggers")


class FieldError(ValueError):
    """A value of a field is not usable once expressions are evaluated; ``path`` is the place inside the run."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.message = message
        self.path = path


def merged(defaults: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``run`` over ``defaults``, mappings deeply; null unsets a field, but stays in ``env``."""
    fields = {k: v for k, v in over(defaults, run, MARKS).items() if v is not None}
    for key, value in fields.items():
        if isinstance(value, dict) and key not in ("env", *BLOCKS_WITH_NULLS):
            fields[key] = {k: v for k, v in value.items() if v is not None}
    return fields


def words_of(text: str, path: Path) -> list[str]:
    """Return the arguments that a shell would make of a command.

    Raises:
        FieldError: it is too long, or a quotation is not closed.
    """
    if len(text) > LONGEST_COMMAND:
        raise FieldError(f"is longer than {LONGEST_COMMAND:,} characters; write a list", path)
    try:
        return shlex.split(text)
    except ValueError:
        message = "cannot be split like a shell would: a quote or a backslash at its end is not closed"
        raise FieldError(message, path) from None


def split_command(value: Any, key: str) -> Any:
    """Return the list for a command that is written as text; one that is a whole expression is split once evaluated.

    Raises:
        FieldError: it cannot be split.
    """
    if not isinstance(value, str):
        return value
    try:
        template = expressions.parse(value) if "${" in value else None
    except expressions.ExpressionError:
        return [value]  # told when it is compiled
    return value if template is not None and template.whole is not None else words_of(value, (key,))


def command(value: Any, key: str) -> list[str]:
    """Return a command whose expressions are evaluated as a list of strings."""
    if isinstance(value, str):
        return [value] if value.startswith("(sensitive ") else words_of(value, (key,))
    if not isinstance(value, list):
        raise FieldError(f"must be a list or a string, not {kind_of(value)}", (key,))
    if len(value) > MOST_ARGUMENTS:
        raise FieldError(f"has {len(value):,} arguments, more than {MOST_ARGUMENTS:,}", (key,))
    return [_text(item, (key, index)) for index, item in enumerate(value)]


def _text(value: Any, path: Path) -> str:
    if value is None or isinstance(value, dict | list):
        raise FieldError(f"must be a string, a number or a boolean, not {kind_of(value)}", path)
    return scalar_text(value)


def text_map(value: Any, key: str) -> dict[str, str]:
    """Return labels, annotations or triggers with scalars as text, without those that are null."""
    if not isinstance(value, dict):
        raise FieldError(f"must be a mapping, not {kind_of(value)}", (key,))
    if len(value) > MOST_NAMES:
        raise FieldError(f"has {len(value):,} entries, more than {MOST_NAMES:,}", (key,))
    return {name: _text(item, (key, name)) for name, item in value.items() if item is not None}


def environment(value: Any, sealer: Sealer) -> dict[str, Any]:
    """Return ``env`` with scalars as text, null kept, and local references as tokens."""
    if not isinstance(value, dict):
        raise FieldError(f"must be a mapping, not {kind_of(value)}", ("env",))
    result: dict[str, Any] = {}
    for name, item in value.items():
        if item is None or item.__class__ is str:
            result[name] = item
        elif is_reference(item):
            result[name] = sealed_reference(item, sealer)
        else:
            result[name] = _text(item, ("env", name))
    return result


def sealed_reference(value: Any, sealer: Sealer) -> Any:
    """Return the token of ``{from_env: X}`` or ``{from_file: X}``; anything else as it is."""
    for kind in ("from_env", "from_file") if is_reference(value) else ():
        if kind in value:
            return sealer.token_for(SecretSource(kind, scalar_text(value[kind]), tracked=value.get("track", True)))
    return value


PASSWORD: Path = ("docker", "registry_credentials", "password")


def sealed_references(value: Any, sealer: Sealer) -> Any:
    """Return ``value`` with every ``{from_env: X}`` and ``{from_file: X}`` in it as a token."""
    if isinstance(value, dict) and not is_reference(value):
        return {key: sealed_references(item, sealer) for key, item in value.items()}
    if isinstance(value, list):
        return [sealed_references(item, sealer) for item in value]
    return sealed_reference(value, sealer)


def docker_block(value: Any, sealer: Sealer, literal: Literal) -> Any:
    """Return the docker block with the registry's password as a token."""
    credentials = value.get("registry_credentials") if isinstance(value, dict) else None
    if not isinstance(credentials, dict) or "password" not in credentials:
        return value
    password = credentials["password"]
    sealed = sealed_reference(password, sealer) if is_reference(password) else literal(password, PASSWORD)
    return {**value, "registry_credentials": {**credentials, "password": sealed}}


Literal = Callable[[Any, Path], Any]
"""Seals a secret that is written out at a path of the run's fields; raises FieldError."""


def normaliser(key: str, sealer: Sealer, literal: Literal) -> Callable[[Any], Any] | None:
    """Return what turns the evaluated value of a field into its one form, or None where there is nothing to do."""
    if key == "env":
        return lambda value: environment(value, sealer)
    if key in TEXT_MAPS:
        return lambda value: text_map(value, key)
    if key in ("command", "entrypoint"):
        return lambda value: command(value, key)
    if key in TEXT_FIELDS:
        return lambda value: _text(value, (key,))
    if key == "variables":
        return lambda value: sealed_references(value, sealer)
    return (lambda value: docker_block(value, sealer, literal)) if key == "docker" else None


SETTINGS = (
    "max_parallel",
    "timeout",
    "start_timeout",
    "grace_period",
    "stream_output",
    "rerun",
    "rerun_with",
    "keep",
    "replace",
    "protect",
    "ignore_changes",
    "description",
    "triggers",
)
_CONVERT: dict[str, Callable[[Any], Any]] = {
    "max_parallel": int,
    "timeout": duration,
    "start_timeout": duration,
    "grace_period": duration,
    "protect": lambda value: value or "",
    "ignore_changes": tuple,
}


def settings(group: str, fields: Mapping[str, Any], *, tries_again: bool, together: bool) -> Settings:
    """Return what flowplan itself does with a run, from its checked fields; ``needs`` is left empty.

    Args:
        tries_again: it has retries with a delay that its engine does not keep, and flowplan does.
        together: see ``Settings``.
    """
    given = {key: fields[key] for key in SETTINGS if key in fields}
    if tries_again:
        given["retry_delay"] = Retry(int(fields["retries"]), **backoff(fields["retry_delay"]))
    converted = {key: _CONVERT[key](v) if key in _CONVERT else v for key, v in given.items()}
    return Settings(group=group, together=together, **converted)


def with_env_files(fields: dict[str, Any], files: EnvFiles, sealer: Sealer) -> dict[Path, Path]:
    """Put the variables of ``env_file`` below those of ``env``; later files win over earlier ones.

    Returns:
        Path of each variable -> the place in ``env_file`` that it comes from.
    """
    given = fields.get("env") or {}
    env: dict[str, Any] = {}
    places: dict[Path, Path] = {}
    for place, file in env_files_in(fields.pop("env_file", None)):
        for variable, found in files[file].items():
            if variable not in given:
                env[variable] = expressions.escape(found) if isinstance(found, str) else sealer.token_for(found)
                places["env", variable] = ("env_file", *place)
    if env:
        fields["env"] = {**env, **given}
    return places


class Origins(Mapping[Path, Origin]):
    """Path inside a run's merged fields -> where it was written; looked up when asked, then remembered.

    Args:
        provenance: variable name -> where its value came from.

    Attributes:
        moved: path inside the run -> the path where the spec holds it.
    """

    def __init__(self, sources: SourceMap, tree: Mapping[str, Any], group: str, provenance: Mapping[str, str]) -> None:
        self._sources = sources
        self._layers = ((("runs", group), tree["runs"][group]), (("defaults",), tree.get("defaults") or {}))
        self._provenance = provenance
        self.moved: Mapping[Path, Path] = {}
        self._known: dict[Path, Origin | None] = {}
        self._all: tuple[Path, ...] | None = None

    def source_path(self, path: Path) -> Path | None:
        """Return the path in the spec of a path inside the run; None when the spec does not hold just this."""
        path = self.moved.get(path, path)
        for base, layer in self._layers:
            found, value = descend(layer, path)
            if found == len(path):
                return base + path
            if not isinstance(value, dict):
                return None
        return None

    def __getitem__(self, path: Path) -> Origin:
        if path not in self._known:
            self._known[path] = self._find(path)
        found = self._known[path]
        if found is None:
            raise KeyError(path)
        return found

    def _find(self, path: Path) -> Origin | None:
        source = self.source_path(path)
        if source is None:
            return None
        value = self._sources.value(source)
        where = value if isinstance(source[-1], int) else self._sources.key(source)
        column = value.column if value.line == where.line else where.column
        told = f"{self._sources.told(source, where)}{self._note(source)}"
        return Origin(told, where.file, where.line, column)

    def _note(self, source: Path) -> str:
        value = descend(self._layers[source[0] == "defaults"][1], source[1 if source[0] == "defaults" else 2 :])[1]
        if not isinstance(value, str) or "${var." not in value:
            return ""
        template = expressions.parse(value)
        names = dict.fromkeys(str(r.steps[0]) for r in template.references if r.namespace == "var") if template else ()
        notes = [f"var.{name}: {self._provenance[name]}" for name in names if name in self._provenance]
        return f" ({', '.join(notes)})" if notes else ""

    def __iter__(self) -> Iterator[Path]:
        """Go through all places, which are found once: all cells of a run do so."""
        if self._all is None:
            (_, run), (_, defaults) = self._layers
            paths = (path for path, _ in walk(merged(defaults, run)) if path)
            self._all = tuple(path for path in paths if self.source_path(path) is not None)
        return iter(self._all)

    def __len__(self) -> int:
        return sum(1 for _ in self)
