"""What a running command says: data on stdout, everything else on stderr.

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
from typing import IO, TYPE_CHECKING, Any, Self

from flowplan.schemas.secrets import Redactor
from flowplan.showing import Progress, harmless, shown
from flowplan.terminal import use_colour, width

if TYPE_CHECKING:
    from flowplan.providers.protocol import LogLine
    from flowplan.schemas.events import Event
    from flowplan.schemas.runs import Recorded


ERASE = "\r\x1b[K"
"""Takes the line away that a terminal shows last."""


class Output:
    """The two streams of a command. A reader that has gone away (`| head`) silences a stream, it ends nothing."""

    def __init__(self, redactor: Redactor | None = None) -> None:
        self.redactor = redactor or Redactor()
        self._lock = threading.Lock()
        self._drawn = False

    def data(self, text: str, end: str = "\n") -> None:
        """One line (or more) of data on stdout."""
        self._put(sys.stdout, text, end)

    def redraw(self, text: str) -> None:
        """Show a line of data that is not finished, on a terminal, in place of the last one."""
        self._put(sys.stdout, text[: width(sys.stdout) - 1], "")
        self._drawn = True

    def note(self, text: str) -> None:
        """What people are told on stderr, a line or more, made harmless."""
        self._put(sys.stderr, "\n".join(map(harmless, self.redactor(text).split("\n"))))

    def drawn(self, text: str) -> None:
        """A line on stderr that is harmless already, and may have colours."""
        self._put(sys.stderr, text)

    def document(self, value: Any, indent: int | None = 2) -> None:
        """A JSON document on stdout; on one line without ``indent``."""
        self._put(sys.stdout, harmless_json(json.dumps(value, indent=indent, ensure_ascii=False)))

    def lines(self, lines: Iterable[str]) -> None:
        """Many lines of data, as they come."""
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
                silence(stream)
                _lost.append(error.strerror or type(error).__name__)


BURST = 1 << 16
"""Characters that are written at once at the latest."""
MOMENT = 0.05
"""Seconds that a line waits at most for others to be written with it."""


class Bursts:
    """Data that comes line by line, and quickly: what comes within a moment is written at once. Safe for one writer."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._lines: list[str] = []
        self._size = 0
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._closed = False
        threading.Thread(target=self._flush_late, daemon=True).start()

    def data(self, text: str, end: str = "\n") -> None:
        """One line of data, or with another ``end`` a piece of one."""
        with self._lock:
            self._lines.append(text + end)
            self._size += len(text)
            if self._size >= BURST:
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
            time.sleep(MOMENT)
            self._some.clear()
            with self._lock:
                self._flush()

    def _flush(self) -> None:
        if self._lines:
            lines, self._lines, self._size = self._lines, [], 0
            self._output.data("".join(lines), "")


_lost: list[str] = []


def lost() -> str:
    """Why something could not be written (a full disk), "" when all was: no reason to stop what runs, but no success."""
    return _lost[0] if _lost else ""


def encodable(text: str, stream: IO[str]) -> str:
    """``text`` with ``\\u00e9`` for what the stream cannot take, which is right inside JSON too."""
    encoding = str(getattr(stream, "encoding", None) or "ascii")
    parts = (c if c.encode(encoding, "ignore") else json.dumps(c)[1:-1] for c in text)
    return text if text.isascii() else "".join(parts)


def silence(stream: IO[str]) -> None:
    """Send what is still written to a stream nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def reader_gone(stream: IO[str]) -> threading.Event:
    """An event that is set when nobody reads a stream any more (`| head`), be there more to write or not."""
    import select

    gone, poll = threading.Event(), select.poll()
    poll.register(stream.fileno(), 0)  # only what is always told: an error, or that the other end hung up

    def look() -> None:
        poll.poll()
        gone.set()

    threading.Thread(target=look, daemon=True).start()
    return gone


def harmless_json(text: str) -> str:
    """The same JSON, with what a terminal would obey written as escapes."""
    if text.isascii():
        return text.replace("\x7f", "\\u007f")
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


class Sink:
    """What an apply or a watch tells while it works, as plain lines."""

    draws = False
    """Whether ``progress`` shows anything."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.redactor = output.redactor
        self._colour = use_colour(sys.stdout)
        self._progress = Progress()

    def event(self, event: Event, record: Recorded | None) -> None:
        """A transition of a run."""
        self.output.note(event_line(event, record))

    def log(self, address: str, line: LogLine) -> None:
        """A line of a run's output, redacted."""
        text, unfinished = self._progress(address, line)
        if unfinished:
            self.unfinished(address, shown(text))
        else:
            self.line(f"{harmless(address)} | {shown(text, colour=self._colour)}")

    def progress(self, address: str, line: LogLine) -> None:
        """Take a line, or a piece of one, that a run is writing and its engine does not keep yet."""

    def line(self, text: str) -> None:
        """A finished line of a run's output, as it is shown."""
        self.output.data(text)

    def unfinished(self, address: str, text: str) -> None:
        """What a line looks like that a run writes over and over: here only its last state is told."""

    def note(self, text: str) -> None:
        """A remark for people."""
        self.output.note(text)


class JsonSink(Sink):
    """The same as JSON: one event a line on stdout; the output of runs and remarks go to stderr."""

    def event(self, event: Event, record: Recorded | None) -> None:
        document = event.document()
        told = {key: self.redactor(document[key]) for key in ("reason", "message") if document.get(key)}
        self.output.document({**document, **told}, indent=None)

    def line(self, text: str) -> None:
        self.output.drawn(text)


def event_line(event: Event, record: Recorded | None) -> str:
    """``extract: failed (exit code 3): Error: general error``."""
    text = f"{event.address}: {event.status.replace('_', ' ')}"
    if (
        record
        and record.run_id == event.run_id
        and record.exit_code is not None
        and event.status in ("failed", "timed_out")
    ):
        text += f" (exit code {record.exit_code})"
    if event.reason and event.status not in ("succeeded", "creating", "running"):
        text += f": {event.reason}"
    if event.message and event.message not in (event.reason, f"exit code {record.exit_code if record else None}"):
        text += f": {event.message}"
    return harmless(text)
