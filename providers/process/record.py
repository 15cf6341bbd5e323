"""The record of one attempt: lines of JSON that are only ever added to, in ``RUNS_DIR/<run id>/started.json``.

============================ ==========================================================================================
``{"run": {...}}``           owner attempt it is; written by flowplan, before it asks for the start
``{"pid": ..., ...}``        an execution was started; written by the child before it becomes the program
``{"wait": {...}}``          how the execution ended, and when the next one begins; written by the supervisor
``{"stop": true}``           no further start is allowed; written by flowplan
``{"end": {...}}``           how it ended; written by the supervisor
``{"lost": true}``           it has ended, and its exit code is lost
``{"destroyed": true}``      all of it was ended, as flowplan was asked to do
============================ ==========================================================================================

An exclusive flock on the file is the claim to start the run. A file that has room for a start has room for the end, so
that a disk which the run itself has filled does not hide its end.
"""

from __future__ import annotations

import errno
import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "started.json"


class Record:
    """What the lines of a file say.

    Raises:
        ValueError: a line is no JSON object.
    """

    def __init__(self, content: bytes) -> None:
        self.started: dict[str, Any] | None = None
        self.end: dict[str, Any] | None = None
        self.wait: dict[str, Any] | None = None
        self._owner: dict[str, Any] | None = None
        self.stopped = self.destroyed = self.lost = False
        self._lines = content[: _complete(content)].splitlines()
        for line in reversed(self._lines):
            document = _object(line)
            if "pid" in document:
                self.started = document  # the newest execution counts; before it are only others, and the owner
                return
            self.end = document.get("end", self.end)
            self.wait = document.get("wait", self.wait)
            self.stopped |= "stop" in document
            self.destroyed |= "destroyed" in document
            self.lost |= "lost" in document

    @property
    def owner(self) -> dict[str, Any]:
        """Return the attempt that the record belongs to, {} when that was not written down."""
        if self._owner is None:
            self._owner = {}
            for line in self._lines:
                document = _object(line)
                if "run" not in document:
                    break
                self._owner = document["run"]
        return self._owner

    def starts(self, after: int) -> list[dict[str, Any]]:
        """Return the executions whose number is above ``after``, oldest first."""
        known = (_object(line) for line in self._lines)
        return [document for document in known if document.get("executions", 0) > after]

    @property
    def over(self) -> bool:
        """Return whether no supervisor will add anything."""
        return self.end is not None or self.lost


def _object(line: bytes) -> dict[str, Any]:
    document = json.loads(line.decode())  # of bytes, it would look for their encoding first
    if not isinstance(document, dict):
        raise ValueError("a line is no object")  # noqa: TRY004 - as for what is no JSON
    return document


def read(path: str) -> Record | None:
    """Read a record; None when there is no file.

    Raises:
        OSError: it cannot be read.
        ValueError: as ``Record``.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return Record(os.read(fd, os.fstat(fd).st_size + 1))
    finally:
        os.close(fd)


def claimed(fd: int) -> Record:
    """Read the record of which the claim is held, and take away a line that was broken off by a full disk or a kill."""
    content = os.pread(fd, os.fstat(fd).st_size, 0)
    if _complete(content) < len(content):
        os.ftruncate(fd, _complete(content))
    return Record(content)


def add(path: str, document: dict[str, Any]) -> None:
    """Add a line to a record that is there.

    Raises:
        OSError: there is no such file, or no room.
    """
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        write_line(fd, json.dumps(document).encode() + b"\n")
    finally:
        os.close(fd)


def write_line(fd: int, line: bytes) -> None:
    """Write all of a line, or nothing.

    Raises:
        OSError: there is no room for it.
    """
    written = os.write(fd, line)
    if written < len(line):
        os.ftruncate(fd, os.fstat(fd).st_size - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _complete(content: bytes) -> int:
    """Return the number of bytes of the lines that are complete."""
    return content.rfind(b"\n") + 1
