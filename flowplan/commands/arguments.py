"""What every command line may say: formats, variables and durations."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from flowplan.given import Given
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.files import is_directory
from flowplan.schemas.sources import Diagnostic, did_you_mean


def check_format(format: str, allowed: Sequence[str], option: str = "--format") -> None:
    """Raise InvalidInput unless ``format``, or another option, is one of ``allowed``."""
    if format not in allowed:
        hint = did_you_mean(format, allowed) or f"one of {', '.join(allowed)}"
        noun = "format" if option == "--format" else "choice"
        raise InvalidInput(f'unknown {noun} "{format}"', subject=option, hint=hint)


def check_directory(option: str, file: Path | None) -> None:
    """Raise InvalidInput unless the file of an option can be there: in a directory that exists, and no directory itself."""
    if file and is_directory(file):
        fault, hint = f"{file} is a directory", "name a file in it"
    elif file and not is_directory(file.parent):
        fault, hint = f"{file} cannot be written, its directory does not exist", "correct the path, or make it first"
    else:
        return
    raise InvalidInput(fault, subject=option, hint=hint)


def given(pairs: Sequence[str] | None, files: Sequence[Path] | None) -> Given:
    """Return the variables of a command line."""
    faults = [
        Diagnostic(f'"{p.partition("=")[0]}" has no value', subject="--var", hint="write NAME=VALUE")
        for p in pairs or ()
        if "=" not in p
    ]
    if faults:
        raise InvalidInput(faults)
    values = dict(p.split("=", 1) for p in pairs or ())
    return Given(values, tuple(files or ()))


def seconds(option: str, text: str | None) -> float | None:
    """Return a duration given on the command line, in seconds."""
    if text is None:
        return None
    from flowplan.schemas.quantities import duration

    try:
        return duration(text)
    except ValueError as error:
        raise InvalidInput(str(error), subject=option, hint="write 90s, 15m or 2h30m") from error


def moment(option: str, text: str | None) -> datetime | None:
    """Return a time given on the command line: a duration before now, or a date or time, local unless it says its zone."""
    if text is None:
        return None
    from flowplan.clock import moment_of

    try:
        return moment_of(text)
    except ValueError as error:
        hint = "write 90s, 15m or 2h30m, or a time as 2026-10-07 or 2026-10-07T02:00:00Z"
        raise InvalidInput(f'"{text}" is no time and no duration', subject=option, hint=hint) from error
