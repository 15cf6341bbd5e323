"""Places that flowplan writes to: directories that are private, and nothing that another user put into a shared one."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from flowplan.schemas.errors import Refused
from flowplan.schemas.faults import point

DEFAULT_SPEC = "flowplan.yaml"
"""The spec of a command line that names none."""
ENVIRONMENT_PATTERN = "^[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"
"""Of the name of an environment, which names of files and labels hold."""


def password_in(url: str) -> bool:
    """Return whether the URL of a state holds a password."""
    from urllib.parse import parse_qsl, urlsplit

    try:
        parts = urlsplit(url)
        return bool(parts.password) or any("password" in name for name, _ in parse_qsl(parts.query))
    except ValueError:  # it is no URL at all, which is told where it is used
        return False


def make_private(directory: Path) -> None:
    """Make a directory, and those above it that are missing, of mode 0700 whatever the umask.

    Raises:
        OSError: it cannot be made.
        Refused: another user prepared the place.
    """
    refuse_foreign(directory)
    if directory.is_dir():
        return
    make_private(directory.parent)
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:  # somebody was faster: perhaps another flowplan, perhaps not
        refuse_foreign(directory)


def write_private(path: Path, text: str, kind: str = "file") -> None:
    """Write a text file of mode 0600 that readers see whole or not at all; its directory is made private if missing.

    Args:
        kind: for the fault points of tests.

    Raises:
        OSError: it cannot be written.
        Refused: another user prepared the place.
    """
    import tempfile

    refuse_foreign(path)
    make_private(path.parent)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        point(f"file:{kind}:before")
        os.replace(temporary, path)  # noqa: PTH105
        point(f"file:{kind}:after")
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_named(path: Path, text: str, kind: str = "file") -> None:
    """Write a file that a user names, as ``write_private`` does; a device or a pipe is written to, never replaced.

    A symbolic link to a file is replaced itself.

    Raises:
        OSError: it cannot be written.
        Refused: another user prepared the place.
    """
    refuse_foreign(path)
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="ascii")
    else:
        write_private(path, text, kind)


def refuse_foreign(path: Path, parts: Sequence[str] = ()) -> None:
    """Refuse a path that another user may have prepared.

    Where everybody may write, as in /tmp, only what belongs to you, to root or to the owner of that directory is used:
    the kernel's own rule for symbolic links there. It counts for the path and for every directory on the way to it.

    Args:
        parts: endings of the names of files beside it that are looked at too.
    """
    whole = str(path.absolute())
    for entry in {whole, os.path.realpath(whole)}:
        _refuse(entry, *(f"{entry}{part}" for part in parts))
        directory = os.path.dirname(entry)  # noqa: PTH120
        while directory.strip("/"):
            _refuse(directory)
            directory = os.path.dirname(directory)  # noqa: PTH120


def _refuse(*entries: str) -> None:
    """Look at entries of one directory."""
    try:
        around = os.stat(os.path.dirname(entries[0]))  # noqa: PTH116, PTH120 - half the time of pathlib, at each start
    except OSError:
        return  # what is not there, or may not be looked at, is told when it is opened
    if not around.st_mode & stat.S_IWOTH:
        return
    for entry in entries:
        with contextlib.suppress(OSError):
            owner = os.lstat(entry).st_uid
            if owner not in (os.geteuid(), 0, around.st_uid):
                raise Refused(
                    f"{entry} belongs to {user_name(owner)}, in a directory where everybody may write; it is not used",
                    hint="work in a directory of your own, or name another place",
                )


def user_name(uid: int) -> str:
    """Return the name of a user, in words where the user has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
