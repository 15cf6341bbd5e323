"""Moving the output of a run from its pipe into files of bounded size, without secrets.

The run writes stdout and stderr into one pipe, so that the order of what it says is kept. It holds the reading end of that
pipe itself, too, so that it does not die of SIGPIPE when the supervisor is killed.

The output is in ``RUNS_DIR/<run id>/output``. Once that has half of the bytes that are kept, it goes on in
``output.<number>``; the number says how many bytes of output are before that file, and only the last two files are kept.
``times`` says when, to the second: lines ``<bytes of output> <nanoseconds>`` mean that what follows these bytes was written then or later.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Hiding(Protocol):
        """Takes secrets out of bytes that come in pieces."""

        def feed(self, data: bytes) -> bytes: ...
        def flush(self) -> bytes: ...
        @property
        def holds(self) -> bool: ...


CHUNK = 1 << 16
HIDING_CHUNK = 1 << 18
"""Bytes that are read at once: where secrets are looked for, each look has costs of its own."""
MOST_CHUNKS = 32
"""More than a pipe can hold."""
PIPE = 1 << 20
"""Bytes that a pipe holds whose content is redacted, where the host allows it: a run seldom waits for us."""
NAME = "output"
TIMES = "times"
SECOND = 1_000_000_000
MOST_TIMES = 1 << 20
"""Bytes of times, hours of them; then every other one is dropped."""
DEFAULT_LIMIT = 64 * 1024 * 1024
"""Bytes of output that are kept of a run."""


def parts(directory: str) -> list[tuple[int, str]]:
    """Return (bytes of output before it, name) of each file of a run's output, in order."""
    try:
        names = os.listdir(directory)  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return []
    split = [(name, *name.partition(".")[::2]) for name in names]
    numbered = [
        (int(number or 0), name) for name, stem, number in split if stem == NAME and (number.isdigit() or name == NAME)
    ]
    return sorted(numbered)


def part_at(start: int) -> str:
    """Return the name of the file that begins after so many bytes of output."""
    return f"{NAME}.{start}" if start else NAME


def _widen(pipe: int) -> None:
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE)
    except OSError:
        return  # this user's pipes hold as much as they may


class Output:
    """The output of one run.

    Args:
        directory: of the run.
        limit: bytes that are kept.
        hiding: takes secrets out; None when there are none.
        uncertain: called with True before anything is read that holds secrets, with False once all of it is in the file.
    """

    def __init__(
        self, directory: str, limit: int, hiding: Hiding | None, uncertain: Callable[[bool], None] = lambda _: None
    ) -> None:
        self.directory, self.limit, self.hiding, self.uncertain = directory, limit, hiding, uncertain
        self.reader = -1
        self.torn = False
        self._fd = -1
        self._start = self._size = 0
        self._lost, self._why = 0, ""
        self._line_open = False
        self._noted = 0

    def open(self) -> int:
        """Make a pipe, and return the end that the run is to have."""
        self.reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if self.hiding:
                _widen(self.reader)
            # Opened anew it can be read as well, and does not block the run's own way of writing.
            return os.open(f"/proc/self/fd/{writer}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            self.close()
            raise
        finally:
            os.close(writer)

    def take_over(self, reader: int, torn: bool) -> None:
        """Go on where another one was killed.

        Args:
            torn: what it had read and not written may be the beginning of a secret: the rest of that line is not kept.
        """
        self.reader, self.torn = reader, torn
        os.set_blocking(reader, False)
        if files := parts(self.directory):
            self._start, name = files[-1]
            self._fd = os.open(f"{self.directory}/{name}", os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            self._size = os.fstat(self._fd).st_size
            self._line_open = self._size > 0 and os.pread(self._fd, 1, self._size - 1) != b"\n"

    def take(self) -> bool:
        """Move what is there, at most one chunk; return False when there is nothing, or the pipe has no writer."""
        if self.hiding:
            self.uncertain(True)
        try:
            data = os.read(self.reader, HIDING_CHUNK if self.hiding else CHUNK)
        except BlockingIOError:
            data = b""
        kept = data
        if self.torn:
            rest, end, kept = data.partition(b"\n")
            self._lost, self._why = self._lost + len(rest) + len(end), "the supervisor was killed"
            self.torn = not end
        if data:
            self._write(self.hiding.feed(kept) if self.hiding else kept)
        if self.hiding and not self.hiding.holds:
            self.uncertain(False)
        return bool(data)

    def drain(self) -> None:
        """Take all that was written so far, then close the pipe; a process that went its own way is not waited for."""
        for _ in range(MOST_CHUNKS):
            if not self.take():
                break
        if self.hiding:
            self._write(self.hiding.flush())
            self.uncertain(False)
        self.close()

    def close(self) -> None:
        """Close the pipe."""
        if self.reader >= 0:
            os.close(self.reader)
        self.reader = -1

    def done(self) -> None:
        """Close the file too; say what could not be kept, if there is room by now."""
        self._write(b"")
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def say(self, text: str) -> None:
        """Write a line of our own between those of the run."""
        self._write((b"\n" if self._line_open else b"") + text.encode() + b"\n")

    def _write(self, data: bytes) -> None:
        """Add to the file. A full disk loses output, never the run: what was lost is told once there is room again."""
        told = f"[flowplan: {self._lost} bytes of output were not kept: {self._why}]\n".encode() if self._lost else b""
        whole = (b"\n" if told and self._line_open else b"") + told + data
        if not whole:
            return
        written, why = 0, os.strerror(errno.ENOSPC)
        try:
            self._make_room(len(whole))
            self._note_time()
            written = os.write(self._fd, whole)
        except OSError as error:
            why = error.strerror or why
        self._size += written
        if written:
            self._line_open = whole[written - 1 : written] != b"\n"
        if written < len(whole):
            own = len(whole) - len(data)
            self._lost, self._why = (self._lost if written < own else 0) + len(data) - max(0, written - own), why
        else:
            self._lost = 0

    def _note_time(self) -> None:
        """Write down that what follows was written now, once a second at most, and not where that has no room."""
        now = time.time_ns()
        if 0 <= now - self._noted < SECOND:
            return
        path = f"{self.directory}/{TIMES}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return  # the output is worth more than its times
        try:
            if (size := os.fstat(fd).st_size) > MOST_TIMES:
                lines = [line for line in os.pread(fd, size, 0).split(b"\n") if line]
                os.ftruncate(fd, 0)
                os.write(fd, b"\n".join(lines[::2]) + b"\n")
            os.write(fd, b"\n%d %d\n" % (self._start + self._size, now))
            self._noted = now
        except OSError:
            return
        finally:
            os.close(fd)

    def _make_room(self, size: int) -> None:
        """Open the file that comes next, when the one before has its share."""
        full = self._size > 0 and self._size + size > self.limit // 2
        if self._fd >= 0 and not full:
            return
        start = self._start + self._size if full else self._start
        fd = os.open(f"{self.directory}/{part_at(start)}", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if full:
            for before, name in parts(self.directory):
                if before < self._start:
                    os.unlink(f"{self.directory}/{name}")  # noqa: PTH108
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._start, self._size = fd, start, os.fstat(fd).st_size
