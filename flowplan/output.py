"""The output of a command: data on stdout, everything else on stderr.

Notes pass a redactor. Data does not: plans and states hold tokens, the output of runs is redacted as it is read, and a
document in which a word of its structure was replaced would be none.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Self

from flowplan.schemas.secrets import Redactor
from flowplan.schemas.text import harmless
from flowplan.schemas.times import timestamp
from flowplan.showing import Progress, shown
from flowplan.terminal import use_colour, width

if TYPE_CHECKING:
    from flowplan.providers.protocol import LogLine
    from flowplan.schemas.events import Event
    from flowplan.schemas.runs import Recorded


ERASE = "\r\x1b[K"
"""Erases the last line of a terminal."""


class Output:
    """The two streams of a command. A reader that disconnects (`| head`) silences a stream and ends nothing."""

    def __init__(self, redactor: Redactor | None = None) -> None:
        self.redactor = redactor or Redactor()
        self._lock = threading.Lock()
        self._drawn = False

    def data(self, text: str, end: str = "\n") -> None:
        """Write a line (or more) of data to stdout."""
        self._put(sys.stdout, text, end)

    def redraw(self, text: str) -> None:
        """Show a line of data that is not finished, on a terminal, in place of the last one."""
        self._put(sys.stdout, text[: width(sys.stdout) - 1], "")
        self._drawn = True

    def note(self, text: str, *, failure: bool = False) -> None:
        """Write a message for people to stderr, redacted and without control characters; a failure is red on a terminal."""
        text = "\n".join(map(harmless, self.redactor(text).split("\n")))
        self._put(sys.stderr, f"\x1b[31m{text}\x1b[0m" if failure and use_colour(sys.stderr) else text)

    def drawn(self, text: str) -> None:
        """Write a line to stderr that is harmless already, and may have colours."""
        self._put(sys.stderr, text)

    def document(self, value: Any, indent: int | None = 2) -> None:
        """Write a JSON document to stdout; on one line without ``indent``."""
        self._put(sys.stdout, harmless_json(json.dumps(value, indent=indent, ensure_ascii=False)))

    def lines(self, lines: Iterable[str]) -> None:
        """Write many lines of data, as they come."""
        for line in lines:
            self.data(line)

    def _put(self, stream: IO[str], text: str, end: str = "\n") -> None:
        with self._lock:
            if self._drawn:
                text, self._drawn = ERASE + text, False
            try:
                stream.write(text + end)
                stream.flush()
            except BrokenPipeError:
                silence(stream)
            except UnicodeEncodeError:
                stream.write(encodable(text, stream) + end)
                stream.flush()
            except OSError as error:
                if stream is sys.stdout:
                    silence(stream)  # data with a gap is worse than none
                _lost.append(error.strerror or type(error).__name__)


FLUSH_SIZE = 1 << 16
"""Characters that are written at once at the latest."""
FLUSH_DELAY = 0.05
"""Seconds that a line waits at most for others to be written with it."""


class Bursts:
    """Data that comes quickly line by line: lines within ``FLUSH_DELAY`` are written at once. Safe for one writer."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._lines: list[str] = []
        self._size = 0
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._closed = False
        threading.Thread(target=self._flush_late, daemon=True).start()

    def data(self, text: str, end: str = "\n") -> None:
        """Write a line of data, or with another ``end`` a piece of one."""
        with self._lock:
            self._lines.append(text + end)
            self._size += len(text)
            if self._size >= FLUSH_SIZE:
                self._flush()
        if not self._some.is_set():
            self._some.set()

    def redraw(self, text: str) -> None:
        """Show a line that is not finished, after those that are."""
        with self._lock:
            self._flush()
            self._output.redraw(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._some.set()
        with self._lock:
            self._flush()

    def _flush_late(self) -> None:
        while not self._closed:
            self._some.wait()
            time.sleep(FLUSH_DELAY)
            self._some.clear()
            with self._lock:
                self._flush()

    def _flush(self) -> None:
        if self._lines:
            lines, self._lines, self._size = self._lines, [], 0
            self._output.data("".join(lines), "")


_lost: list[str] = []


def lost() -> str:
    """Return why output was lost (a full disk), else ""; the command fails for it, but stops no runs."""
    return _lost[0] if _lost else ""


def encodable(text: str, stream: IO[str]) -> str:
    """Return ``text`` with ``\\u00e9`` for characters that the stream cannot encode, which is valid inside JSON too."""
    encoding = str(getattr(stream, "encoding", None) or "ascii")
    parts = (c if c.encode(encoding, "ignore") else json.dumps(c)[1:-1] for c in text)
    return text if text.isascii() else "".join(parts)


def silence(stream: IO[str]) -> None:
    """Redirect a stream to /dev/null, so that later writes do not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def reader_gone(stream: IO[str]) -> threading.Event:
    """Return an event that is set when the reader of a stream disconnects (`| head`)."""
    import select

    gone, poll = threading.Event(), select.poll()
    poll.register(stream.fileno(), 0)  # only what is always told: an error, or that the other end hung up

    def look() -> None:
        poll.poll()
        gone.set()

    threading.Thread(target=look, daemon=True).start()
    return gone


def harmless_json(text: str) -> str:
    """Return the same JSON with control characters, which a terminal would obey, as escapes."""
    if text.isascii():
        return text.replace("\x7f", "\\u007f")
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


class Sink:
    """What an apply or a watch tells while it works, as plain lines; where no person looks on, with times (UTC)."""

    draws = False
    """Whether ``progress`` shows anything."""
    in_order = True
    """Whether the output of runs and what happens to them are read in one place, one after the other."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.redactor = output.redactor
        self._colour = use_colour(sys.stdout)
        self._timed = not sys.stderr.isatty()
        self._progress = Progress()

    def event(self, event: Event, record: Recorded | None) -> None:
        """Tell a transition of a run."""
        from flowplan.render.tables import happened
        from flowplan.schemas.runs import PROBLEMS

        self.note(happened(event, record), failure=event.status in PROBLEMS)

    def log(self, address: str, line: LogLine) -> None:
        """Show a line of a run's output, which is redacted already."""
        text, unfinished = self._progress(address, line)
        if unfinished:
            self.unfinished(address, shown(text))
        else:
            self.line(f"{harmless(address)} | {shown(text, colour=self._colour)}")

    def progress(self, address: str, line: LogLine) -> None:
        """Take a line, or a piece of one, that a run is writing and its engine does not keep yet."""

    def line(self, text: str) -> None:
        """Show a finished line of a run's output."""
        self.output.data(text)

    def unfinished(self, address: str, text: str) -> None:
        """Show a state of a line that a run writes over and over; plain output has only the last one."""

    def note(self, text: str, *, failure: bool = False) -> None:
        """Tell people something."""
        time = f"{timestamp(datetime.now(UTC), 'seconds')} " if self._timed else ""
        self.output.note(time + text, failure=failure)


class JsonSink(Sink):
    """The same as JSON: one event a line on stdout; the output of runs and remarks go to stderr."""

    in_order = False

    def event(self, event: Event, record: Recorded | None) -> None:
        document = event.document()
        told = {key: self.redactor(document[key]) for key in ("reason", "message") if document.get(key)}
        self.output.document({**document, **told}, indent=None)

    def line(self, text: str) -> None:
        self.output.drawn(text)
