"""The state's file: made private and whole, opened without surprises, and every failure of it told to the user."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from flowplan.schemas.errors import StateError, StateFull
from flowplan.schemas.faults import point
from flowplan.schemas.places import make_private, refuse_foreign
from flowplan.state.rows import REBUILD, damaged

BUSY_SECONDS = 30.0
"""How long a statement waits for another process's transaction."""

MISSING = "`flowplan plan` makes one beside the spec, and it is found from there and below; --state or FLOWPLAN_STATE names another"

PARTS = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database."""

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def explained(path: Path, *, new: bool = False) -> Iterator[None]:
    """Turn what SQLite and the file system raise into a StateError that names the file and the way back.

    Args:
        new: the file is only being made.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise explain(path, error, new=new) from error
    except OSError as error:
        raise StateError(f"the state {path} cannot be used: {error.strerror or error}") from error


def explain(path: Path, error: sqlite3.Error, *, new: bool = False) -> StateError:
    """Return the StateError for an error of SQLite, by its code."""
    name = getattr(error, "sqlite_errorname", None) or ""
    if not new and identity(path) is None:
        return StateError(f"the state {path} has vanished", hint=REBUILD)
    for prefix, (what, hint) in _CAUSES.items():
        if name.startswith(prefix):
            kind = StateFull if prefix in _FULL else StateError
            return kind(f"the state {path} {what}", hint=hint)
    if not name and isinstance(error, sqlite3.OperationalError):  # Python's own, with the bytes in its message
        return damaged(path, "a text in it cannot be read")
    # Nothing is wrong with the statements of this package, so it is the file that does not fit them.
    return StateError(f"the state {path} cannot be used: {error}", hint=REBUILD)


_CAUSES = {
    "SQLITE_NOTADB": ("is not a database", "--state or FLOWPLAN_STATE names another file; or " + REBUILD),
    "SQLITE_CORRUPT": ("is damaged", REBUILD),
    "SQLITE_FULL": ("cannot be written: the disk is full", "make room and run the same command again; nothing is lost"),
    "SQLITE_READONLY": ("is read-only", "make the file and its directory writable for you"),
    "SQLITE_CANTOPEN": ("cannot be opened", "make the file and its directory readable and writable for you"),
    "SQLITE_BUSY": (f"was busy for {BUSY_SECONDS:.0f} s", "another process holds it; see who with `fuser`"),
    "SQLITE_IOERR": (
        "cannot be read or written: the disk reports an error or is full",
        "check the disk and run the same command again; what was committed is kept",
    ),
}
_FULL = ("SQLITE_FULL", "SQLITE_IOERR")


def identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of the file, None when it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def check(path: Path, *, read_only: bool) -> None:
    """Raise StateError unless ``path`` is a regular file that may be read, and written unless ``read_only``.

    Writing never goes through a symbolic link, and what another user may have prepared is not even read. The file is
    only looked at, never opened here: closing a second descriptor would drop the locks that SQLite holds on the file in
    this process.
    """
    refuse_foreign(path, PARTS)
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise StateError(f"there is no state {path.absolute()}", hint=MISSING) from None
    if stat.S_ISLNK(found.st_mode):
        if not read_only:
            raise StateError(f"the state {path} is a symbolic link", hint="name the file itself with --state")
        if identity(path) is None:
            raise StateError(f"the state {path} is a symbolic link that leads nowhere", hint=MISSING)
        found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise StateError(f"the state {path} is not a regular file", hint="--state names another file")
    if found.st_size == 0:
        raise StateError(f"the state {path} is empty", hint=f"remove it, then {MISSING}")
    if not read_only and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        raise StateError(f"the state {path} is read-only", hint=_CAUSES["SQLITE_READONLY"][1])


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open an existing database; transactions are explicit, commits are durable."""
    connection = _connect(path, "mode=ro" if read_only else "mode=rw")
    if not read_only:
        connection.execute("PRAGMA synchronous = FULL")
        return connection
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.OperationalError:
        # A directory where the WAL's index cannot be made: without a WAL the file alone is the whole state.
        connection.close()
        if _size(path.with_name(path.name + "-wal")):
            raise
        connection = _connect(path, "mode=ro&immutable=1")
    return connection


def _connect(path: Path, query: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?{query}", uri=True, timeout=BUSY_SECONDS, isolation_level=None)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def make(path: Path, fill: Callable[[sqlite3.Connection], None]) -> None:
    """Make a private database (0600, in a directory of 0700 if that is missing too) that appears complete or not at all.

    When another process was faster its file stays. Symbolic links are not followed.
    """
    import tempfile

    make_private(path.parent)
    refuse_foreign(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    os.close(descriptor)
    draft = Path(name)
    point("file:state:begun")
    try:
        connection = connect(draft, read_only=False)
        with contextlib.closing(connection):
            fill(connection)
        point("file:state:before")
        _publish(draft, path)
        point("file:state:after")
    finally:
        for leftover in (draft, *(Path(f"{name}{part}") for part in PARTS)):
            leftover.unlink(missing_ok=True)
    sync_directory(path.parent)


def _publish(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path, follow_symlinks=False)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        draft.rename(path)


def sync_directory(directory: Path) -> None:
    """Make names in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
