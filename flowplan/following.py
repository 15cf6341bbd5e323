"""Threads that listen to engines: one watch for each engine, one reader for each streamed log."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue

from flowplan.ends import Ends
from flowplan.engines import Engines
from flowplan.outputs import drawing, learn_secrets, redacted
from flowplan.planner.conduct.words import Seen, Shown, Trouble, Unwatchable, Well
from flowplan.providers.protocol import LogLine
from flowplan.schemas.errors import EngineUnreachable, FlowplanError
from flowplan.schemas.runs import Observed, Recorded
from flowplan.schemas.secrets import Redactor
from flowplan.workers import Inbox

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
    """One watch for each engine; what they see goes into the inbox.

    Args:
        patience: seconds during which an engine may refuse to be watched before its runs are followed no more.
    """

    def __init__(self, engines: Engines, inbox: Inbox, *, patience: float = REFUSED) -> None:
        self._engines = engines
        self._inbox = inbox
        self._patience = patience
        self._by_provider: dict[str, _Watch] = {}

    def add(self, records: Iterable[Recorded]) -> None:
        """Take in further runs."""
        for record in records:
            name = record.provider
            if name not in self._by_provider:
                self._by_provider[name] = _Watch(name, self._engines, self._inbox, self._patience)
            self._by_provider[name].add(record)

    def ended(self, record: Recorded) -> None:
        """Forget a run that needs no watching any more."""
        if record.provider in self._by_provider:
            self._by_provider[record.provider].records.pop(record.run_id, None)

    def refresh(self, *, complete: bool = False) -> None:
        """Start or restart the watches that have further runs to take in: not too often, unless these are the last."""
        for watch in self._by_provider.values():
            watch.refresh(complete=complete)

    def close(self) -> None:
        """Stop all watches."""
        threads = [one for watch in self._by_provider.values() for one in watch.threads.items()]
        for _, stop in threads:
            stop.set()
        for thread, _ in threads:
            thread.join(timeout=2.0)


class _Watch:
    """The watch of one engine. It is restarted with all of its runs to take in further ones.

    The former watch goes on until the new one has looked at its runs: what an engine keeps for a moment only, as the pod of
    a Job without a time to live, is missed by neither.

    Attributes:
        records: run id -> record, of the runs that have not ended.
        threads: the newest one, and those that are about to end, each with what ends it.
    """

    def __init__(self, name: str, engines: Engines, inbox: Inbox, patience: float) -> None:
        self.records: dict[str, Recorded] = {}
        self.threads: dict[threading.Thread, threading.Event] = {}
        self._name, self._engines, self._inbox, self._patience = name, engines, inbox, patience
        self._has_further = False
        self._started, self._watched = -math.inf, 0
        self._trouble: FlowplanError | None = None
        self._trouble_since = 0.0

    def add(self, record: Recorded) -> None:
        self.records[record.run_id] = record
        self._has_further = True

    def refresh(self, *, complete: bool) -> None:
        """Restart when there are further runs and the last start was long enough ago, or these are all there will be."""
        now = time.monotonic()
        if self._has_further and (complete or now - self._started >= RESTART_EVERY + RESTART_EACH * self._watched):
            self._has_further = False
            records, stop = list(self.records.values()), threading.Event()
            self._started, self._watched = now, len(records)
            self.threads = {thread: ends for thread, ends in self.threads.items() if thread.is_alive()}
            thread = threading.Thread(
                target=self._watch, args=(records, stop, list(self.threads.values())), daemon=True
            )
            thread.start()
            self.threads[thread] = stop

    def _watch(self, records: list[Recorded], stop: threading.Event, former: list[threading.Event]) -> None:
        while not stop.is_set():
            try:
                for looked, news in enumerate(self._engines.provider(self._name).watch(records, stop), start=1):
                    if news is None or looked >= len(records):
                        _end(former)
                    self._hear(news)
                _end(former)
                return
            except EngineUnreachable as error:
                _end(former)
                self._hear(error)
                stop.wait(1.0)
            except FlowplanError as error:
                _end(former)
                self._hear(error)
                if time.monotonic() - self._trouble_since > self._patience:
                    self._inbox.put(Unwatchable(self._name, error))
                    return
                stop.wait(2.0)
            except Exception as error:  # noqa: BLE001 - the loop ends with it: without this thread it would wait for ever
                self._inbox.put(error)
                return

    def _hear(self, news: Observed | FlowplanError | None) -> None:
        """Pass on what is new; a trouble once, and once that it is over.

        Any news ends the trouble of an engine that did not answer; every other trouble is over when there is no news of it.
        """
        if isinstance(news, FlowplanError):
            if self._trouble is None:
                self._trouble, self._trouble_since = news, time.monotonic()
                self._inbox.put(Trouble(self._name, news))
            return
        if self._trouble and (news is None or isinstance(self._trouble, EngineUnreachable)):
            self._inbox.put(Well(self._name, self._trouble))
            self._trouble = None
        if news is not None:
            self._inbox.put(Seen(news))


def _end(watches: list[threading.Event]) -> None:
    while watches:
        watches.pop().set()


@dataclass(slots=True)
class _Output:
    """The output of one run: whether it is ``shown`` (else only its end is kept), a reader has begun with it, its run is
    ``over``, and all of it has been ``read``."""

    record: Recorded
    shown: bool
    begun: bool = False
    over: bool = False
    read: threading.Event = field(default_factory=threading.Event)


class LogStreams:
    """Readers of the output of live runs, at most ``limit`` at once; the rest start as others end.

    Attributes:
        ends: the end of each output, as far as it has been heard.
    """

    def __init__(
        self,
        engines: Engines,
        inbox: Inbox,
        show: Callable[[str, LogLine], None],
        redactor: Redactor,
        *,
        draw: Callable[[str, LogLine], None] | None = None,
        tails: Mapping[str, int | None] | None = None,
        limit: int = 64,
    ) -> None:
        self.ends = Ends()
        self._engines, self._inbox, self._redactor = engines, inbox, redactor
        self._show, self._draw = show, draw
        self._tails = tails or {}
        self._limit = limit
        self._known: set[str] = set()
        self._outputs: dict[str, _Output] = {}
        self._queue: SimpleQueue[_Output] = SimpleQueue()
        self._idle = 0
        self._readers = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def start(self, record: Recorded, *, shown: bool = True) -> None:
        """Stream the output of a run, once; its end is kept also where it is not shown."""
        if record.run_id in self._known:
            return
        self._known.add(record.run_id)
        self._outputs[record.run_id] = _Output(record, shown)
        self._queue.put(self._outputs[record.run_id])
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
                output = self._queue.get(timeout=LINGER)
            except Empty:
                output = None
            with self._lock:
                self._idle -= 1
                if output is None:
                    if not self._queue.empty():
                        continue
                    self._readers -= 1
                    return
                output.begun = True
            try:
                self._stream(output.record, shown=output.shown)
            finally:
                output.read.set()
                self._inbox.put(Shown(output.record.run_id))

    def _stream(self, record: Recorded, *, shown: bool) -> None:
        try:
            provider = self._engines.provider(record.provider)
            learn_secrets(self._engines, record, self._redactor)
            if not shown and self._engines.keeps_files(record.provider):
                return  # its end can be read when the run is over
            tail = self._tails.get(record.run_id) if shown else None
            lines = provider.logs(record, follow=True, tail=tail, stop=self._stop)
            draw = partial(self._draw, record.address) if shown and self._draw else None
            with drawing(provider, record, self._redactor, draw):
                for line in redacted(lines, self._redactor):
                    if self._stop.is_set():
                        return
                    self.ends.hear(record.run_id, line)
                    if shown:
                        self._show(record.address, line)
            if tail is None:
                self.ends.complete(record.run_id)
        except (FlowplanError, RuntimeError) as error:  # RuntimeError: no further thread can be started
            # Output that cannot be streamed is no fault of the run: it goes on, its tail is stored at its end.
            if shown:
                self._show(record.address, LogLine(f"(output is not streamed: {error})", "stderr"))

    def showing(self, run_id: str) -> bool:
        """Return whether output of a run that is over is still being read; ``Shown`` follows when it is done.

        It is not when all readers are busy with others.
        """
        output = self._outputs.get(run_id)
        if output is None:
            return False
        output.over = True
        taken = output.begun or self._readers < self._limit or bool(self._idle)
        return taken and not output.read.is_set()

    def forget(self, run_id: str) -> None:
        """Drop what is known of an output that has been read."""
        if run_id in self._outputs and self._outputs[run_id].read.is_set():
            del self._outputs[run_id]

    def close(self) -> None:
        """Show what is left of runs that are over, for at most ``PATIENCE``, and stop all readers."""
        until = time.monotonic() + PATIENCE
        for output in [output for output in self._outputs.values() if output.over]:
            output.read.wait(max(0.0, until - time.monotonic()))
        self._stop.set()
