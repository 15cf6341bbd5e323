"""Where a project lies: its spec, the state beside it, and how both are found from the directories below."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from flowplan.schemas.errors import InvalidInput, StateError
from flowplan.schemas.files import is_directory, is_stream
from flowplan.schemas.places import DEFAULT_SPEC, refuse_foreign
from flowplan.state.location import FileLocation, Location, located

HOME = ".flowplan"
STATE = Path(HOME, "state.db")


class Place(NamedTuple):
    """Where a command finds its project.

    Attributes:
        state: where the state is, or will be; spec: the spec of a command line that names none.
        named: True when ``--state`` or FLOWPLAN_STATE named the state.
        other: another state that is found from the working directory, where states lay formerly; None without one.
    """

    state: Location
    spec: Path
    named: bool = False
    other: Location | None = None


def place(named: str | None, spec: Path | None = None) -> Place:
    """Return the place of a command line: the named state, else the one beside the spec, else that of the project around us.

    Args:
        named: ``--state`` or FLOWPLAN_STATE; spec: as the command line names it.

    Raises:
        InvalidInput: the directory of a named state does not exist.
        StateError, Refused: a directory above may not be looked into, or belongs to another user.
    """
    if named is not None:
        around = Path()
        with contextlib.suppress(StateError):
            around = _around()
        home = spec.parent if spec and not is_stream(spec) else around
        state = located(named, home / STATE, spec or around / DEFAULT_SPEC)
        if isinstance(state, FileLocation) and not is_directory(state.path.parent):
            raise InvalidInput(
                f"the directory {state.path.parent.absolute()} of the state {state.path.name} does not exist",
                hint="correct --state or FLOWPLAN_STATE, or make the directory first",
            )
        return Place(state, spec or around / DEFAULT_SPEC, named=True)
    if spec is None:
        directory = _around()
        return Place(FileLocation(directory / STATE), directory / DEFAULT_SPEC)
    beside = FileLocation((Path() if is_stream(spec) else spec.parent) / STATE)
    other = FileLocation(_around() / STATE)
    differs = os.path.lexists(other.path) and not other.same(beside)
    return Place(beside, spec, other=other if differs else None)


def _around() -> Path:
    """Return the nearest directory, from the working directory upwards, that has ``.flowplan`` or ``flowplan.yaml``.

    It is the empty path, which stands for the working directory, also when there is no such directory.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was removed
        return Path()
    for directory in (here, *here.parents):
        found = next((entry for name in (HOME, DEFAULT_SPEC) if _is_there(entry := directory / name)), None)
        if found and directory == here:
            return Path()
        if found:
            refuse_foreign(found)
            return directory
    return Path()


def _is_there(entry: Path) -> bool:
    try:
        entry.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StateError(
            f"whether there is a project in {entry.parent} cannot be seen: {error.strerror}",
            hint="name the spec, or the state with --state",
        ) from error
    return True


def shown(path: Path) -> Path:
    """Return a path as people read it: relative below the working directory, else absolute."""
    whole = Path(os.path.abspath(path))  # noqa: PTH100 - without following links
    if ".." in path.parts and whole.resolve() != path.resolve():
        return path  # a link before the ``..`` leads elsewhere
    return whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else whole
