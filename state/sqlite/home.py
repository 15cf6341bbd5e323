"""Where a state is at home: a copy of it must not act beside the original, while a state that was moved may."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from pathlib import Path
from typing import NamedTuple

from flowplan.schemas.codec import decode, encode
from flowplan.schemas.errors import FlowplanError, Refused
from flowplan.state.sqlite import files


class Home(NamedTuple):
    """The place of a state's file; device and inode stay when it is renamed or mounted elsewhere.

    ``moved_to`` is where `flowplan state migrate` took the state: the file is only its tombstone.
    """

    path: str
    file: tuple[int, int] = (0, 0)
    directory: tuple[int, int] = (0, 0)
    machine: str = ""
    host: str = ""
    moved_to: str = ""

    def text(self) -> str:
        """Return the JSON that the state keeps of it."""
        return json.dumps(encode(self))


def here(path: Path, name: Path | None = None) -> Home:
    """Return the place of the file at ``path``, which is to be called ``name``."""
    name = (name or path).absolute()
    nothing = (0, 0)
    file, directory = files.identity(path) or nothing, files.identity(name.parent) or nothing
    return Home(str(name), file, directory, _machine(), os.uname().nodename)


def recorded(text: str | None) -> Home | None:
    """Return the home that a state has recorded; None where it has none, or none that can be read."""
    with contextlib.suppress(ValueError, RecursionError):
        return decode(Home, json.loads(text or ""))
    return None


def moved_from(home: Home | None, path: Path, lineage: str) -> str:
    """Return where a state was before it was moved to ``path``; "" when it is at home.

    Raises:
        Refused: it is a copy, or may be one.
    """
    now = here(path)
    if home is None or home.path == now.path:
        return ""
    if home.file == now.file:
        if home.directory != now.directory and path.stat().st_nlink > 1 and here(Path(home.path)).file == now.file:
            raise Refused(
                f"the state {path} is another name (a hard link) of {home.path}: SQLite keeps a journal beside each name, "
                "and two journals destroy the state",  # https://www.sqlite.org/howtocorrupt.html, "Multiple links"
                hint=f"remove this name and use --state {home.path}",
            )
        return ""
    if home.machine != now.machine:
        raise _copy(
            path,
            f"it was last used on {home.host}, at {home.path}, and whether it is still used there cannot be seen from here",
        )
    if _holds(Path(home.path), lineage):
        raise _copy(path, f"the original is at {home.path}")
    return home.path


def _copy(path: Path, why: str) -> Refused:
    return Refused(
        f"the state {path} is a copy: {why}; two of them would start the same runs, and take each other's for their own",
        hint="`flowplan state moved` declares that the original is gone; `flowplan state new-lineage` makes this one a state "
        "of its own, which manages nothing of what the original made; or use the original with --state",
    )


def _holds(path: Path, lineage: str) -> bool:
    """Return whether there is a state of this lineage at ``path``, or something that cannot be read."""
    if not os.path.lexists(path):
        return False
    try:
        with contextlib.closing(files.connect(path, read_only=True)) as connection:
            found = connection.execute("SELECT lineage FROM meta").fetchone()
    except (sqlite3.Error, OSError, FlowplanError):
        return True
    return found is not None and found[0] == lineage


def _machine() -> str:
    """Return a digest of the machine's id; of its name where it has none."""
    try:
        known = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        known = ""
    return hashlib.sha256(f"flowplan:{known or os.uname().nodename}".encode()).hexdigest()[:32]
