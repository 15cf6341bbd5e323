"""Files of environment variables (``env_file``) as docker compose reads them, with ``$`` standing for itself."""

from __future__ import annotations

import io
import re

from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.secrets import SecretSource
from flowplan.schemas.sources import Diagnostic, Position

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


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


def sources(text: str, name: str) -> dict[str, SecretSource]:
    """Return variable -> where its value comes from: the file, or the environment for a name that stands alone.

    Args:
        name: of the file, as the spec says it.

    Raises:
        InvalidInput: as ``variables``.
    """
    return {
        variable: SecretSource("from_env", variable)
        if value is None
        else SecretSource("env_file", f"{name}#{variable}")
        for variable, value in variables(text, name).items()
    }
