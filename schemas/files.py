"""Reads files that people name: bounded in size, no devices, and a pipe is not waited for without end."""

from __future__ import annotations

import errno
import os
import select
import stat
from pathlib import Path

PIPE_PATIENCE = 10.0
"""Seconds that a pipe may be silent."""
BLOCK = 1 << 20
MAX_BYTES = 10_000_000
"""Of a spec, or of a file that it names."""

_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
_piped: dict[str, bytes] = {}
"""What was read from pipes: a file may be looked at twice, a pipe gives its content once."""


class Unreadable(ValueError):
    """A file of a kind or size that is not read; the message goes on after the file's name: ``is a device``."""


def mode_of(path: Path | str) -> int:
    """Return the mode of what is at a path, links followed; 0 where nothing is, or where this user may not look.

    Unlike the questions of pathlib (``exists``, ``is_file``), it never raises.
    """
    try:
        return os.stat(path).st_mode  # noqa: PTH116
    except (OSError, ValueError):
        return 0


def is_missing(path: Path | str) -> bool:
    """Return whether nothing is there; False where this user may not look."""
    try:
        os.stat(path)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def is_file(path: Path | str) -> bool:
    """Return whether a regular file is there that this user may look at."""
    return stat.S_ISREG(mode_of(path))


def is_directory(path: Path | str) -> bool:
    """Return whether a directory is there that this user may look at."""
    return stat.S_ISDIR(mode_of(path))


def is_stream(path: Path) -> bool:
    """Return whether a path is the standard input or a pipe, which has no directory: ``-``, ``/dev/fd/63``."""
    return str(path) == "-" or str(path).startswith(("/dev/", "/proc/self/fd/")) or stat.S_ISFIFO(mode_of(path))


def read_bounded(path: Path, most: int, *, pipes: bool = False) -> bytes:
    """Read a regular file of at most ``most`` bytes; never hangs on what is something else.

    Args:
        pipes: read also what comes through a pipe, as `<(command)` of a shell gives one.

    Raises:
        OSError: there is no such file, it is a directory, or it may not be read.
        Unreadable: it is bigger, or of a kind that is not read.
    """
    if pipes and str(path) in _piped:
        return _piped[str(path)]
    _check_kind(os.stat(path).st_mode, pipes)  # noqa: PTH116 - before it is opened, which some devices notice
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        found = os.fstat(fd)
        _check_kind(found.st_mode, pipes)
        if found.st_size > most:
            raise Unreadable(f"is bigger than {_shown(most)}")
        if not stat.S_ISFIFO(found.st_mode):
            return _read(fd, most)
        _piped[str(path)] = content = _read(fd, most, pipe=True)
        return content
    finally:
        os.close(fd)


def _check_kind(mode: int, pipes: bool) -> None:
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if kind != stat.S_IFREG and not (pipes and kind == stat.S_IFIFO):
        raise Unreadable(f"is {_KINDS.get(kind, 'no regular file')}, not a file")


def _read(fd: int, most: int, *, pipe: bool = False) -> bytes:
    content = bytearray()
    while block := _from_pipe(fd) if pipe else os.read(fd, BLOCK):
        content += block
        if len(content) > most:
            raise Unreadable(f"is bigger than {_shown(most)}")
    return bytes(content)


def _from_pipe(fd: int) -> bytes:
    """Read what comes next, b"" at the end: once a writer has opened the pipe and all have closed it."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(PIPE_PATIENCE * 1000):
        raise Unreadable(f"is a pipe into which nothing was written for {PIPE_PATIENCE:.0f} s")
    return os.read(fd, BLOCK)


def _shown(size: int) -> str:
    for unit, factor in (("MB", 1_000_000), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} bytes"
