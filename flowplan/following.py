"""Threads that listen to engines: one watch for each engine, one reader for each streamed log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue

from flowplan.ends import Ends
from flowplan.engines import Engines
from flowplan.planner.conduct.words import Fact, Seen, Shown, Trouble, Unwatchable, Well
from flowplan.providers.protocol import CUT, LogLine, ProgressReader, Provider
from flowplan.schemas.errors import EngineUnreachable, FlowplanError
from flowplan.schemas.redaction import Matcher, Stream
from flowplan.schemas.runs import Observed, Recorded
from flowplan.schemas.secrets import Redactor, decoded, encoded, tokens_in

REFUSED = 30.0
"""Seconds during which an engine may refuse to be watched (a token that is renewed, a server that starts) before its
runs are followed no more. One that does not answer is waited for."""

RESTART_EVERY = 0.1
"""Seconds between restarts of a watch that has to take in further runs."""
RESTART_EACH = 0.005
"""Seconds that are added for each run it has: a restart looks at all of them, and must not do so for each new one."""


LINGER = 1.0
"""Seconds that a reader of outputs waits for another one to read."""
PATIENCE = 5.0
"""Seconds that the output of runs that are over may take to be shown in the end."""


class Watches:
    """One watch for each engine; what it sees goes into a queue."""

    def __init__(self, engines: Engines, inbox: SimpleQueue[Fact | BaseException]) -> None:
        self._engines = engines
        self._inbox = inbox
        self._live: dict[str, dict[str, Recorded]] = {}
        self._stops: dict[str, threading.Event] = {}
        self._stale: set[str] = set()
        self._started: dict[str, float] = {}
        self._watched: dict[str, int] = {}
        self._threads: list[threading.Thread] = []
        self._troubles: dict[str, tuple[float, FlowplanError]] = {}

    def add(self, records: Iterable[Recorded]) -> None:
        """Take in further runs."""
        for record in records:
            self._live.setdefault(record.provider, {})[record.run_id] = record
            self._stale.add(record.provider)

    def ended(self, record: Recorded) -> None:
        """Forget a run that needs no watching any more."""
        self._live.get(record.provider, {}).pop(record.run_id, None)

    def refresh(self, *, complete: bool = False) -> None:
        """Start or restart the watches that have further runs to take in: not too often, unless these are the last."""
        now = time.monotonic()
        for provider in list(self._stale):
            pause = RESTART_EVERY + RESTART_EACH * self._watched.get(provider, 0)
            if complete or now - self._started.get(provider, 0.0) >= pause:
                self._restart(provider)
                self._stale.discard(provider)

    def _restart(self, provider: str) -> None:
        if provider in self._stops:
            self._stops[provider].set()
        stop = threading.Event()
        self._stops[provider] = stop
        records = list(self._live[provider].values())
        self._started[provider], self._watched[provider] = time.monotonic(), len(records)
        thread = threading.Thread(target=self._watch, args=(provider, records, stop), daemon=True)
        thread.start()
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]

    def _watch(self, provider: str, records: list[Recorded], stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                for seen in self._engines.provider(provider).watch(records, stop):
                    self._heard(provider, seen)
                return
            except EngineUnreachable as error:
                self._heard(provider, error)
                stop.wait(1.0)
            except FlowplanError as error:
                self._heard(provider, error)
                if time.monotonic() - self._troubles[provider][0] > REFUSED:
                    self._inbox.put(Unwatchable(provider, error))
                    return
                stop.wait(2.0)
            except RuntimeError as error:  # no further thread: told where nobody overhears it
                self._inbox.put(error)
                return

    def _heard(self, provider: str, news: Observed | FlowplanError | None) -> None:
        """Pass on what is new; a trouble once, and once that it is over.

        An engine that did not answer does again with any news; what else it warned of is over when it is silent.
        """
        if isinstance(news, FlowplanError):
            if provider not in self._troubles:
                self._troubles[provider] = time.monotonic(), news
                self._inbox.put(Trouble(provider, news))
            return
        _, trouble = self._troubles.get(provider, (0.0, None))
        if trouble and (news is None or isinstance(trouble, EngineUnreachable)):
            del self._troubles[provider]
            self._inbox.put(Well(provider, trouble))
        if news is not None:
            self._inbox.put(Seen(news))

    def close(self) -> None:
        """Stop all watches."""
        for stop in self._stops.values():
            stop.set()
        for thread in self._threads:
            thread.join(timeout=2.0)


class LogStreams:
    """Readers of the output of live runs, at most ``limit`` at once; the rest start as others end."""

    def __init__(
        self,
        engines: Engines,
        inbox: SimpleQueue[Fact | BaseException],
        show: Callable[[str, LogLine], None],
        redactor: Redactor,
        *,
        draw: Callable[[str, LogLine], None] | None = None,
        limit: int = 64,
    ) -> None:
        self._engines = engines
        self._inbox = inbox
        self._show = show
        self._redactor = redactor
        self._draw = draw
        self._limit = limit
        self.ends = Ends()
        self._silent: set[str] = set()
        self._begun: set[str] = set()
        self._ended: dict[str, threading.Event] = {}
        self._reading: set[str] = set()
        self._over: set[str] = set()
        self._queue: SimpleQueue[Recorded] = SimpleQueue()
        self._idle = 0
        self._readers = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def start(self, record: Recorded, *, shown: bool = True) -> None:
        """Stream the output of a run, once; its end is kept also where it is not shown."""
        if record.run_id in self._begun:
            return
        if not shown:
            self._silent.add(record.run_id)
        self._begun.add(record.run_id)
        self._ended[record.run_id] = threading.Event()
        self._queue.put(record)
        with self._lock:
            wanted = self._queue.qsize() > self._idle and self._readers < self._limit
            self._readers += wanted
        if wanted:
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        """Read one output after another, until there are none to read for a while."""
        while not self._stop.is_set():
            with self._lock:
                self._idle += 1
            try:
                record = self._queue.get(timeout=LINGER)
            except Empty:
                record = None
            with self._lock:
                self._idle -= 1
                if record is None:
                    if not self._queue.empty():
                        continue
                    self._readers -= 1
                    return
                self._reading.add(record.run_id)
            try:
                self._stream(record)
            finally:
                self._ended[record.run_id].set()
                self._inbox.put(Shown(record.run_id))

    def _stream(self, record: Recorded) -> None:
        try:
            provider = self._engines.provider(record.provider)
            learn_secrets(self._engines, record, self._redactor)
            lines = provider.logs(record, follow=True, tail=None, stop=self._stop)
            draw = None if record.run_id in self._silent else self._draw
            with drawing(provider, record, self._redactor, draw and partial(draw, record.address)):
                for line in redacted(lines, self._redactor):
                    if self._stop.is_set():
                        return
                    self.ends.hear(record.run_id, line)
                    if record.run_id not in self._silent:
                        self._show(record.address, line)
            self.ends.complete(record.run_id)
        except (FlowplanError, RuntimeError) as error:  # RuntimeError: no further thread to read it with
            # Output that cannot be streamed is no fault of the run: it goes on, its tail is stored at its end.
            if record.run_id not in self._silent:
                self._show(record.address, LogLine(f"(output is not streamed: {error})", "stderr"))

    def showing(self, run_id: str) -> bool:
        """True while the output of a run that is over is still to be shown, which ``Shown`` will tell.

        Not when others keep all readers busy.
        """
        ended = self._ended.get(run_id)
        if ended is None:
            return False
        self._over.add(run_id)
        read = run_id in self._reading or self._readers < self._limit or bool(self._idle)
        return read and not ended.is_set()

    def forget(self, run_id: str) -> None:
        """Drop what is known of an output that has been shown."""
        if run_id in self._ended and self._ended[run_id].is_set():
            del self._ended[run_id]
            self._reading.discard(run_id)
            self._over.discard(run_id)
            self._silent.discard(run_id)

    def close(self) -> None:
        """Show what is left of runs that are over, for at most ``PATIENCE``, and stop all readers."""
        until = time.monotonic() + PATIENCE
        for run_id in list(self._over):
            self._ended[run_id].wait(max(0.0, until - time.monotonic()))
        self._stop.set()


@contextmanager
def drawing(
    provider: Provider, record: Recorded, redactor: Redactor, draw: Callable[[LogLine], None] | None
) -> Iterator[None]:
    """Pass on the progress bars of a run, in a thread of their own and without secrets, while its output is read."""
    over = threading.Event()

    def read(progress: ProgressReader) -> None:
        with suppress(FlowplanError):  # the output itself tells what is wrong with the engine
            for line in redacted(progress.progress(record, over), redactor):
                if draw is None or over.is_set():
                    return
                draw(line)

    if draw is not None and isinstance(provider, ProgressReader):
        with suppress(RuntimeError):  # no further thread: the lines come when they are finished
            threading.Thread(target=read, args=(provider,), name="progress", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def redacted(lines: Iterable[LogLine], redactor: Redactor) -> Iterator[LogLine]:
    """The lines of a run's output without secrets, also without those that go over several lines or pieces of one.

    A line whose end may begin a secret waits for what follows.
    """
    streams: dict[str, _RedactedLines] = {}
    for line in lines:
        matcher = redactor.matcher
        if matcher is None:
            yield line
            continue
        yield from streams.setdefault(line.stream, _RedactedLines(matcher, line.stream)).feed(line, matcher)
    for stream in streams.values():
        yield from stream.rest()


class _RedactedLines:
    """One stream of ``redacted``."""

    def __init__(self, matcher: Matcher, name: str) -> None:
        self._stream, self._name = Stream(matcher), name
        self._begun = b""
        self._at: str | None = None

    def feed(self, line: LogLine, matcher: Matcher) -> Iterator[LogLine]:
        """What can be shown after a further line."""
        self._stream.matcher = matcher
        cut = line.text.endswith(CUT)
        data = self._begun + self._stream.feed(encoded(line.text.removesuffix(CUT)))
        if cut:  # how a secret that was cut goes on will never be known
            self._stream.drop()
            data += CUT.encode()
        data += b"" if line.goes_on else self._stream.feed(b"\n")
        *whole, self._begun = data.split(b"\n")
        at = self._at or line.at
        for one in whole:
            yield LogLine(decoded(one), self._name, at)
            at = line.at
        if line.goes_on and self._begun:
            yield LogLine(decoded(self._begun), self._name, at, goes_on=True)
            self._begun = b""
        self._at = None if whole and not self._begun else at

    def rest(self) -> Iterator[LogLine]:
        """What waited for more that did not come."""
        data = (self._begun + self._stream.flush()).removesuffix(b"\n")
        for one in data.split(b"\n") if data else ():
            yield LogLine(decoded(one), self._name, self._at)


def without_secrets_of_runs(
    engines: Engines, record: Recorded | None, seen: Observed, redactor: Redactor, known: Iterable[str] = ()
) -> Observed:
    """What an engine says of a run, without secrets: a message may quote an argument that this flowplan was not told.

    Args:
        known: tokens of the secrets that the redactor knows.
    """
    if not seen.message:
        return seen
    if record is not None and seen.message != record.message and tokens_in(record.objects) - set(known):
        try:
            learn_secrets(engines, record, redactor)
        except FlowplanError:
            return replace(seen, message="")  # better no word than one too many
    return replace(seen, message=redactor(seen.message))


def learn_secrets(engines: Engines, record: Recorded, redactor: Redactor) -> None:
    """Teach the redactor the secrets that a run was given, which this flowplan may not have been told."""
    if tokens_in(record.objects):
        redactor.add(engines.provider(record.provider).secret_values(record))


def tail_of(engines: Engines, record: Recorded, redactor: Redactor, lines: int = 100) -> str:
    """The last lines of a run's output, redacted; "" when the engine has none."""
    try:
        learn_secrets(engines, record, redactor)
        provider = engines.provider(record.provider)
        return tail_text(redacted(provider.logs(record, follow=False, tail=lines), redactor))
    except FlowplanError:
        # The end of the run is what matters; that its output is gone is told by `flowplan logs`.
        return ""


def tail_text(lines: Iterable[LogLine]) -> str:
    """The end of lines as it is stored; those that came in pieces are whole."""
    ends = Ends()
    for line in lines:
        ends.hear("", line)
    return ends.take("")[0]
