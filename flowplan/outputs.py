"""The output of runs as flowplan may show and keep it: whole lines, and no secret in them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from flowplan.ends import Ends
from flowplan.engines import Engines
from flowplan.providers.protocol import CUT, LogLine, ProgressReader, Provider
from flowplan.schemas.errors import FlowplanError
from flowplan.schemas.redaction import Matcher, Stream
from flowplan.schemas.runs import Observed, Recorded
from flowplan.schemas.secrets import Redactor, decoded, encoded, tokens_in

DRAWN = 6
"""Runs whose progress bars are read at once: a terminal has a line for as many, and each costs its engine a connection."""
_places = threading.Semaphore(DRAWN)


@contextmanager
def drawing(
    provider: Provider, record: Recorded, redactor: Redactor, draw: Callable[[LogLine], None] | None
) -> Iterator[None]:
    """Pass on the progress bars of a run, in a thread of their own and without secrets, while its output is read."""
    over = threading.Event()

    def read(progress: ProgressReader) -> None:
        while not _places.acquire(timeout=1.0):
            if over.is_set():
                return
        try:
            with suppress(FlowplanError):  # the output itself tells what is wrong with the engine
                for line in redacted(progress.progress(record, over), redactor):
                    if draw is None or over.is_set():
                        return
                    draw(line)
        finally:
            _places.release()

    if draw is not None and isinstance(provider, ProgressReader):
        with suppress(RuntimeError):  # no further thread: the lines come when they are finished
            threading.Thread(target=read, args=(provider,), name="progress", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def redacted(lines: Iterable[LogLine], redactor: Redactor) -> Iterator[LogLine]:
    """Yield the lines of an output without secrets, also without those that go over several lines or pieces of one.

    A line whose end may be the beginning of a secret is held back until the next one has come.
    """
    streams: dict[str, _RedactedLines] = {}
    together: list[LogLine] = []
    for line in lines:
        matcher = redactor.matcher
        if matcher is None:
            yield line
            continue
        together.append(line)
        if line.more:
            continue
        if line.stream not in streams:
            streams[line.stream] = _RedactedLines(matcher, line.stream)
        yield from streams[line.stream].feed(together, matcher)
        together = []
    for stream in streams.values():
        yield from stream.rest()


class _RedactedLines:
    """One stream of ``redacted``."""

    def __init__(self, matcher: Matcher, name: str) -> None:
        self._stream, self._name = Stream(matcher), name
        self._begun = b""
        self._at: str | None = None

    def feed(self, lines: list[LogLine], matcher: Matcher) -> Iterator[LogLine]:
        """Take in lines; yield what can be shown by now: nearly always all of them, as they are."""
        self._stream.matcher = matcher
        text = "\n".join([line.text for line in lines]) + "\n"
        plain = not (self._begun or self._at or lines[-1].goes_on or CUT in text)
        if plain and self._stream.passes(encoded(text)):
            yield from lines
        else:
            for line in lines:
                yield from self._feed(line)

    def _feed(self, line: LogLine) -> Iterator[LogLine]:
        cut = line.text.endswith(CUT)
        data = self._begun + self._stream.feed(encoded(line.text.removesuffix(CUT)))
        if cut:  # a secret that was cut cannot be recognized
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
        """Yield what was held back, after the last line."""
        data = (self._begun + self._stream.flush()).removesuffix(b"\n")
        for one in data.split(b"\n") if data else ():
            yield LogLine(decoded(one), self._name, self._at)


def without_secrets_of_runs(
    engines: Engines, record: Recorded | None, seen: Observed, redactor: Redactor, known: Iterable[str] = ()
) -> Observed:
    """Return an observation without secrets: its message may quote one that this flowplan does not know yet.

    Args:
        known: tokens of the secrets that the redactor knows.
    """
    if not seen.message:
        return seen
    if record is not None and seen.message != record.message and tokens_in(record.objects) - set(known):
        try:
            learn_secrets(engines, record, redactor)
        except FlowplanError:
            return replace(seen, message="")  # it may quote a secret that could not be learnt
    return replace(seen, message=redactor(seen.message))


def learn_secrets(engines: Engines, record: Recorded, redactor: Redactor) -> None:
    """Teach the redactor the secrets that a run was given: this flowplan may have resolved others, or none."""
    if tokens_in(record.objects):
        redactor.add(engines.provider(record.provider).secret_values(record))


def tail_of(engines: Engines, record: Recorded, redactor: Redactor, lines: int = 100) -> str:
    """Return the last lines of a run's output, redacted; "" when the engine has none."""
    try:
        learn_secrets(engines, record, redactor)
        provider = engines.provider(record.provider)
        return tail_text(redacted(provider.logs(record, follow=False, tail=lines), redactor))
    except FlowplanError:
        # The end of the run is what matters; that its output is gone is told by `flowplan logs`.
        return ""


def tail_text(lines: Iterable[LogLine]) -> str:
    """Return the end of an output as it is stored; lines that came in pieces are whole."""
    ends = Ends()
    for line in lines:
        ends.hear("", line)
    return ends.take("")[0]
