"""Where a project lies: its spec, the state beside it, and how both are found from the directories below."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from flowplan.schemas.errors import InvalidInput, Refused, StateError
from flowplan.schemas.files import MAX_BYTES, Unreadable, is_directory, is_file, is_stream, read_bounded
from flowplan.schemas.places import DEFAULT_SPEC, ENVIRONMENT_PATTERN, password_in, refuse_foreign
from flowplan.schemas.sources import did_you_mean
from flowplan.state.location import FileLocation, Location, located

HOME = ".flowplan"
STATE = Path(HOME, "state.db")


class Place(NamedTuple):
    """Where a command finds its project.

    Attributes:
        state: where the state is, or will be; spec: the spec of a command line that names none.
        named: True when ``--state`` or FLOWPLAN_STATE named the state.
        other: another state where states lay formerly: in the working directory, or from before the project had
            environments; None without one.
        environment: as it is named, "" for none.
    """

    state: Location
    spec: Path
    named: bool = False
    other: Location | None = None
    environment: str = ""


def place(named: str | None, spec: Path | None = None, environment: str | None = None) -> Place:
    """Return the place of a command line: the named state, else the one beside the spec, else that of the project around us.

    Args:
        named: ``--state`` or FLOWPLAN_STATE; spec: as the command line names it; environment: ``--env`` or FLOWPLAN_ENV.

    Raises:
        InvalidInput: the directory of a named state does not exist, or the environment has no such name.
        StateError, Refused: a directory above may not be looked into, or belongs to another user.
    """
    file = _file(environment or "")
    said = "" if named is not None else _state_in(spec or _around() / DEFAULT_SPEC, environment or "")
    if named is not None or said:
        around = Path()
        with contextlib.suppress(StateError):
            around = _around()
        home = spec.parent if spec and not is_stream(spec) else around
        state = located(named or said, home / file, spec or around / DEFAULT_SPEC, environment or "")
        if said and isinstance(state, FileLocation):
            state = FileLocation(home / state.path)
        if isinstance(state, FileLocation) and not is_directory(state.path.parent):
            raise InvalidInput(
                f"the directory {state.path.parent.absolute()} of the state {state.path.name} does not exist",
                hint="correct --state or FLOWPLAN_STATE, or make the directory first",
            )
        return Place(state, spec or around / DEFAULT_SPEC, named=not said, environment=environment or "")
    around = _around()
    home = around if spec is None else Path() if is_stream(spec) else spec.parent
    beside = FileLocation(home / file)
    others = (FileLocation(path) for path in (around / file, home / STATE))
    other = next((one for one in others if os.path.lexists(one.path) and not one.same(beside)), None)
    return Place(beside, spec or around / DEFAULT_SPEC, other=other, environment=environment or "")


def _file(environment: str) -> Path:
    """Return where the state of an environment is, below the directory of its project."""
    if not environment:
        return STATE
    if not re.search(ENVIRONMENT_PATTERN, environment):
        raise InvalidInput(
            f'"{environment}" is no name of an environment',
            hint="--env and FLOWPLAN_ENV take letters, digits, -, _ and .",
        )
    return Path(HOME, f"state.{environment}.db")


def _state_in(spec: Path, environment: str) -> str:
    """Return the state that a spec names for an environment, "" for none; refuse one with a password in it."""
    if is_stream(spec) or not _says(spec, rb"\bstate[\"']?\s*:"):
        return ""
    from flowplan.schemas.composition import compose, read_files

    try:
        tree = compose(read_files(spec).parts, environment, []).value
    except InvalidInput:
        return ""  # told by the command that reads the spec
    state = tree.get("state") if isinstance(tree, dict) else None
    if not isinstance(state, str):
        return ""
    if password_in(state):
        raise InvalidInput(
            f"{spec}: state must hold no password", hint="it is in PGPASSWORD, ~/.pgpass or a service file"
        )
    return state


def state_of(named: str | None, environment: str | None) -> Location:
    """Return the state of a command that reads no spec, see ``place`` and ``settled``."""
    return settled(place(named, environment=environment)).state


def settled(found: Place) -> Place:
    """Return a place of which the environment is settled, for a command that reads no spec.

    Raises:
        InvalidInput: the project has environments, and none of them is named, or one that it does not have.
        Refused: the named state belongs to another environment.
    """
    environment = found.environment
    in_file = isinstance(found.state, FileLocation)
    if in_file and found.named and environment and found.state.exists():
        with contextlib.closing(found.state.open(read_only=True)) as store:
            if store.scope is not None and store.environment != environment:
                belongs = f"environment {store.environment}" if store.environment else "no environment"
                raise Refused(f"the state {found.state} belongs to {belongs}, not to {environment}")
    elif not (in_file and found.named) and (
        not found.state.exists() or (not environment and _says(found.spec, rb"(?m)^environments:"))
    ):
        known = environments(found)
        if known and not environment:
            hint = "name one with --env or FLOWPLAN_ENV"
            if found.state.exists():
                hint += f", or the state from before there were any with --state {found.state}"
            raise InvalidInput(f"the project has the environments {', '.join(known)}", hint=hint)
        if known and environment not in known:
            hint = did_you_mean(environment, known)
            raise InvalidInput(f'the project has no environment "{environment}", only {", ".join(known)}', hint=hint)
    return found


def _says(spec: Path, what: bytes) -> bool:
    """Return whether a spec seems to say something, without parsing it: it may be long."""
    try:
        return re.search(what, read_bounded(spec, MAX_BYTES)) is not None
    except (OSError, Unreadable):
        return False


def env_option(environment: str) -> list[str]:
    """Return the words that name an environment in a command, also where FLOWPLAN_ENV does: a reader elsewhere has none."""
    return ["--env", environment] if environment else []


def environments(place: Place) -> list[str]:
    """Return the environments of a project: those of its spec, and those that have a state."""
    from flowplan.schemas.composition import read_files

    names: list[str] = []
    with contextlib.suppress(InvalidInput):
        names += read_files(place.spec).environments if is_file(place.spec) else ()
    states = sorted(place.state.beside.parent.glob("state.*.db"))
    return list(dict.fromkeys([*names, *(path.name.split(".", 1)[1].removesuffix(".db") for path in states)]))


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
