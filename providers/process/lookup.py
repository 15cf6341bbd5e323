"""Finds what would keep a process from starting, in words for people."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from flowplan.providers.process.supervisor import DEFAULT_PATH, candidates


class Problem(NamedTuple):
    """``check`` is ``working_dir`` or ``executable``."""

    check: str
    message: str
    hint: str = ""


def find_problem(name: str, path: str | None, cwd: str) -> Problem | None:
    """Why ``name`` cannot be started in ``cwd`` with this PATH (None: unset); None when nothing stands against it."""
    if not Path(cwd).is_dir():
        what = "is not a directory" if Path(cwd).exists() else "does not exist"
        return Problem("working_dir", f'working directory "{cwd}" {what}', "create it, or change working_dir")
    if not os.access(cwd, os.X_OK):
        return Problem("working_dir", f'working directory "{cwd}" may not be entered by this user')
    files = [Path(cwd) / file for file in candidates(name, path)]
    if any(file.is_file() and os.access(file, os.X_OK) for file in files):
        return None
    found = next((file for file in files if file.exists()), None)
    if found:
        what = "is a directory" if found.is_dir() else "is not executable"
        return Problem(
            "executable", f'"{found}" {what}', "" if found.is_dir() else "chmod +x it, or name its interpreter"
        )
    if "/" in name:
        return Problem("executable", f'executable "{files[0]}" does not exist')
    places = DEFAULT_PATH if path is None else path
    return Problem(
        "executable", f'executable "{name}" was not found in PATH ({places})', "give its full path, or set PATH"
    )
