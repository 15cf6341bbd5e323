"""Live progress on a terminal: events and output scroll by above a few lines that say what runs now."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

from flowplan.interruption import drawing
from flowplan.output import Output, Sink, silence
from flowplan.render.units import duration
from flowplan.schemas.events import Event
from flowplan.schemas.runs import Recorded, Status
from flowplan.schemas.text import harmless
from flowplan.showing import Bars

if TYPE_CHECKING:
    from rich.text import Text

    from flowplan.providers.protocol import LogLine

SHOWN = 6
"""Live runs that have a line of their own; the rest are counted."""

_STYLES = {"succeeded": "green", "failed": "red", "timed_out": "red", "lost": "red", "running": "cyan"}


class LiveSink(Sink):
    """What an apply or a watch tells, with a picture of what runs now below it."""

    draws = True

    def __init__(self, output: Output) -> None:
        super().__init__(output)
        self._statuses: dict[str, str] = {}
        self._since: dict[str, float] = {}
        self._unfinished: dict[str, str] = {}
        self._bars = Bars()
        self._begun = time.monotonic()

    def event(self, event: Event, record: Recorded | None) -> None:
        """Print a transition as a line, and update the picture."""
        super().event(event, record)
        self._statuses[event.address] = event.status
        if Status(event.status).live:
            self._since.setdefault(event.address, time.monotonic())
        else:
            self._since.pop(event.address, None)
            self._unfinished.pop(event.address, None)

    def log(self, address: str, line: LogLine) -> None:
        """Print a line of a run's output above the picture, and drop its unfinished state."""
        self._unfinished.pop(address, None)
        super().log(address, line)

    def progress(self, address: str, line: LogLine) -> None:
        """Show what a line looks like at present, until it is finished."""
        if text := self._bars(address, line):
            self.unfinished(address, text)
        else:
            self._unfinished.pop(address, None)

    def unfinished(self, address: str, text: str) -> None:
        """Show the progress bar that a run draws beside the run, until the line is finished."""
        self._unfinished[address] = text

    def __rich__(self) -> Text:
        """Return the picture, which is drawn anew several times a second."""
        from rich.text import Text

        picture = Text(no_wrap=True, overflow="ellipsis")
        now = time.monotonic()
        live = list(self._since.items())
        for address, since in live[:SHOWN]:
            status = self._statuses.get(address, "")
            picture.append(f"  {harmless(address)}  ").append(status, _STYLES.get(status, ""))
            picture.append(f"  {duration(now - since)}", "dim")
            picture.append(f"  {self._unfinished[address]}\n" if address in self._unfinished else "\n")
        if len(live) > SHOWN:
            picture.append(f"  and {len(live) - SHOWN} more\n", "dim")
        counts = Counter(self._statuses.values())
        words = ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in sorted(counts.items()))
        return picture.append(f"{duration(now - self._begun)}  {words or 'starting'}", "bold")


@contextmanager
def live(output: Output) -> Iterator[Sink]:
    """Provide a sink whose picture stays at the bottom of the terminal until the end."""
    from rich.console import Console
    from rich.live import Live

    sink = LiveSink(output)
    console = Console(file=cast("TextIO", _ClosableTerminal(sys.stderr)), highlight=False)
    redirect = sys.stdout.isatty()
    with drawing(), Live(sink, console=console, refresh_per_second=4, transient=True, redirect_stdout=redirect):
        yield sink


class _ClosableTerminal:
    """A terminal that may be closed while it is drawn on: drawing is lost then, and no error raised."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            silence(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            silence(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
