"""Files of environment variables (``env_file``) as docker compose reads them, with ``$`` standing for itself."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.runs import Json
from flowplan.schemas.secrets import SecretSource
from flowplan.schemas.sources import Diagnostic, Path, Position

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


class EnvFile(NamedTuple):
    """A file of variables as a run names it: its path as written, and what its values are."""

    path: str
    track: bool = True
    sensitive: bool = True


EnvFiles = Mapping[EnvFile, Mapping[str, SecretSource | str]]
"""File -> variable -> where its value comes from, or the value itself where it is no secret."""


def env_files_in(value: Json) -> Iterator[tuple[Path, EnvFile]]:
    """Yield the files that a value of ``env_file`` names, each with its path in the value; what is ill formed is left out."""
    for index, one in enumerate(value) if isinstance(value, list) else ((None, value),):
        place: Path = () if index is None else (index,)
        if isinstance(one, dict) and isinstance(one.get("path"), str):
            yield (*place, "path"), EnvFile(one["path"], one.get("track", True), one.get("sensitive", True))
        elif isinstance(one, str) and one:
            yield place, EnvFile(one)


def variables(text: str, file: str) -> dict[str, str | None]:
    """Return name -> value in the order of the file; None where a name stands alone.

    Raises:
        InvalidInput: every line that is no ``NAME=value``; its content is not shown, for it may be secret.
    """
    from dotenv.parser import parse_stream

    found: dict[str, str | None] = {}
    faults = []
    for binding in parse_stream(io.StringIO(text)):
        written = binding.original.string
        line = binding.original.line + written[: len(written) - len(written.lstrip())].count("\n")
        if binding.error or (binding.key is not None and not _NAME.fullmatch(binding.key)):
            hint = "write NAME=value, NAME, or # and a comment; close quotes"
            faults.append(Diagnostic("is no variable", Position(file, line, 1), hint=hint))
        elif "\0" in (binding.value or ""):
            faults.append(Diagnostic("holds a NUL character", Position(file, line, 1)))
        elif binding.key is not None:
            found[binding.key] = binding.value
    if faults:
        raise InvalidInput(faults)
    return found


def sources(text: str, file: EnvFile) -> dict[str, SecretSource | str]:
    """Return variable -> its value where that is no secret, else where it comes from: the file, or for a name that
    stands alone the environment.
    """
    found: dict[str, SecretSource | str] = {}
    for variable, value in variables(text, file.path).items():
        if value is None:
            found[variable] = SecretSource("from_env", variable, tracked=file.track)
        elif file.sensitive:
            found[variable] = SecretSource("env_file", f"{file.path}#{variable}", tracked=file.track)
        else:
            found[variable] = value
    return found
