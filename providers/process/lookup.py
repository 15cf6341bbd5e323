"""Finds what would keep a process from starting, in words for people."""

# ruff: noqa: PTH110, PTH112, PTH113 - where this user may not look, os.path says no, and pathlib raises an error
from __future__ import annotations

import os
from os.path import exists, isdir, isfile
from pathlib import Path
from typing import NamedTuple

from flowplan.providers.process.child import DEFAULT_PATH, candidates


class Problem(NamedTuple):
    """``check`` is ``working_dir`` or ``executable``."""

    check: str
    message: str
    hint: str = ""


def find_problem(name: str, path: str | None, cwd: str) -> Problem | None:
    """Return why ``name`` cannot be started in ``cwd`` with this PATH (None: unset); None when it can."""
    if not isdir(cwd):
        what = "is not a directory" if exists(cwd) else "does not exist, or this user may not look there"
        return Problem("working_dir", f'working directory "{cwd}" {what}', "create it, or change working_dir")
    if not os.access(cwd, os.X_OK):
        return Problem("working_dir", f'working directory "{cwd}" may not be entered by this user')
    files = [Path(cwd) / file for file in candidates(name, path)]
    program = next((file for file in files if isfile(file) and os.access(file, os.X_OK)), None)
    if program:
        return _interpreter_problem(program, cwd)
    found = next((file for file in files if exists(file)), None)
    if found:
        what = "is a directory" if isdir(found) else "is not executable"
        return Problem(
            "executable", f'"{found}" {what}', "" if isdir(found) else "chmod +x it, or name its interpreter"
        )
    if "/" in name:
        return Problem("executable", f'executable "{files[0]}" does not exist')
    places = DEFAULT_PATH if path is None else path
    return Problem(
        "executable", f'executable "{name}" was not found in PATH ({places})', "give its full path, or set PATH"
    )


def _interpreter_problem(script: Path, cwd: str) -> Problem | None:
    """Find a ``#!`` that names nothing: of such a script the kernel says that it does not exist itself."""
    try:
        with script.open("rb") as file:
            first = file.read(256).partition(b"\n")[0]
    except OSError:
        return None  # who may execute a file may not always read it
    words = first[2:].split(maxsplit=1) if first.startswith(b"#!") else []
    if words and first.endswith(b"\r"):
        return Problem("executable", f'"{script}" has the line ends of Windows', "save it with those of Unix")
    interpreter = os.fsdecode(words[0]) if words else ""
    if not interpreter or exists(Path(cwd) / interpreter):
        return None
    what = f'the interpreter of "{script}", {interpreter}, does not exist'
    return Problem("executable", what, "correct its first line")
