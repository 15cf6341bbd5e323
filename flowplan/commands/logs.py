"""The command that prints the output of runs: logs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from threading import Event, Lock, Thread
from typing import Any

from flowplan.commands.arguments import check_format
from flowplan.commands.reading import opened
from flowplan.documents import unknown_address
from flowplan.output import Bursts, Output, reader_gone
from flowplan.outputs import drawing, redacted
from flowplan.planner.compare.plan import names
from flowplan.project import Project
from flowplan.providers.protocol import ContainerReader, LogLine, Provider
from flowplan.schemas.errors import EngineUnreachable, FlowplanError, InvalidInput, ProviderError
from flowplan.schemas.runs import Recorded, Status
from flowplan.schemas.secrets import tokens_in
from flowplan.schemas.text import counted, harmless
from flowplan.showing import Bars, Progress, last_state, shown
from flowplan.state.location import Location
from flowplan.state.store import Store
from flowplan.terminal import can_draw, use_colour

QUIET = 5.0
"""Seconds without output after which the engine is asked whether it is still there."""


@dataclass(frozen=True)
class Wanted:
    """Which output to print, and how.

    Attributes:
        since: leave out lines from before; lines without times are printed.
        container: a sidecar or init container, "" for the one that is the run.
        form: ``text``, ``json``, or ``raw``: as it was written.
    """

    attempt: int | None = None
    follow: bool = False
    tail: int | None = None
    since: datetime | None = None
    timestamps: bool = False
    container: str = ""
    form: str = "text"


def logs(state: Location, addresses: Sequence[str], wanted: Wanted) -> None:
    """Print the output of one attempt of each run, from the engine, else its stored end."""
    check_format(wanted.form, ("text", "json", "raw"))
    if wanted.form == "raw" and wanted.timestamps:
        raise InvalidInput("--raw prints the output as it was written", hint="leave out --timestamps")
    with closing(opened(state)) as store:
        records = _chosen(store, addresses, wanted.attempt)
        if wanted.form == "raw" and len(records) > 1:
            raise InvalidInput(
                f"--raw prints one run, and {len(records)} are named", hint="name one, or leave out --raw"
            )
        with Project.of_state(store) as project:
            _print(records, store, project, wanted)


def _print(records: Sequence[Recorded], store: Store, project: Project, wanted: Wanted) -> None:
    """Print the output of ended runs one after another, then that of live ones: with ``follow`` all at once.

    Raises:
        FlowplanError: the output of a run cannot be had; that of the others was printed.
    """
    output, many = project.output(), len(records) > 1
    stop = reader_gone(sys.stdout) if wanted.follow else None
    failed: FlowplanError | None = None
    with Bursts(output) as bursts:
        told = _Printer(bursts, wanted, many)
        live = [record for record in records if many and wanted.follow and not record.status.final]
        readings = [_Reading(project, record, wanted, told, stop) for record in live]
        for record in records:
            if record not in live:
                reading = _Reading(project, record, wanted, told, stop)
                reading.read()
                readings.append(reading)
        threads = [Thread(target=reading.read, name="logs", daemon=True) for reading in readings[: len(live)]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        notes = []
        for reading in readings:
            note, error = _after(reading, store, told)
            about = f"{reading.record.address}: " if many else ""
            if note:
                notes.append(f"warning: {about}{note}")
            if error and many:
                error.address = reading.record.address
            if error and failed:
                notes.append(f"error: {failed}")
            failed = error or failed
        if untimed := told.untimed():
            runs = untimed[0] if len(untimed) == 1 else f"{counted(len(untimed), 'run')} ({untimed[0]}, ...)"
            notes.append(f"warning: the lines of {runs} have no times: --since and --timestamps change nothing there")
    for text in notes:
        output.note(text)
    if failed:
        raise failed


def _after(reading: _Reading, store: Store, told: _Printer) -> tuple[str, FlowplanError | None]:
    """Print the stored end where an engine had nothing; return what to say of it, and the error when there is none."""
    record, error = reading.record, reading.error
    if error is None and reading.count:
        return "", None
    if reading.wanted.container or (error and not isinstance(error, ProviderError)):
        return "", error
    if kept := _stored(store, record, reading.wanted.tail, reading.output, told):
        return f"this is the stored end of the output ({kept}): {error or 'the engine has none any more'}", None
    if error:
        return "", error
    if record.status is Status.CREATING:
        return "there is no output yet: the run is being created", None
    if reading.gone():
        return (
            "no output is kept: the engine does not have the run any more, and its end was not recorded; "
            "whether it printed anything is not known"
        ), None
    return "", None


def _is_gone(provider: Any, record: Recorded) -> bool:
    """Return whether the engine does not have a run any more whose end was not recorded: its output was not kept."""
    if record.status.final and record.status is not Status.LOST:
        return False
    return record.run_id not in {seen.run_id for seen in provider.observe([record]) if seen.exists}


def _chosen(store: Store, patterns: Sequence[str], attempt: int | None) -> list[Recorded]:
    """Return the attempts that addresses, run names or globs mean, each once.

    Raises:
        InvalidInput: one means nothing, or none of its runs has such an attempt.
    """
    found: dict[str, Recorded] = {}
    records = store.records()
    for pattern in patterns:
        cells: list[str] = []
        if not store.attempts(pattern):
            cells = [a for a, r in records.items() if names(pattern, a, r.settings.group)]
            ever = [] if cells else store.attempts()  # what was destroyed is known by its name as well
            cells += dict.fromkeys(r.address for r in ever if names(pattern, r.address, r.settings.group))
        made = [c for c in cells if attempt is None or any(r.attempt == attempt for r in store.attempts(c))]
        for address in made or cells[:1] or [pattern]:
            found[address] = _attempt(store, address, attempt)
    return list(found.values())


def _attempt(store: Store, address: str, attempt: int | None) -> Recorded:
    attempts = store.attempts(address)
    if not attempts:
        if missing := store.missing_attempts(address):
            raise InvalidInput(f"{address}: {numbered(missing)} not kept", hint="they were pruned")
        raise unknown_address(address, {r.address for r in store.attempts()})
    if attempt is None:
        return attempts[-1]
    found = [r for r in attempts if r.attempt == attempt]
    if not found:
        pruned = attempt in store.missing_attempts(address)
        what = "was pruned, or is older than a rebuilt state" if pruned else "was never made"
        raise InvalidInput(
            f"{address}: attempt {attempt} {what}", hint=f"kept: {numbered([r.attempt for r in attempts])}"
        )
    return found[0]


def numbered(attempts: Sequence[int]) -> str:
    """Return attempt numbers, which are in order, as people write them: ``attempts 1 to 3, 5``."""
    spans: list[tuple[int, int]] = []
    for number in attempts:
        if spans and spans[-1][1] == number - 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    shown = ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in spans)
    return f"attempt{'s' if len(attempts) != 1 else ''} {shown}"


class _Printer:
    """Prints the output of runs: as text, as JSON, or as it was written (``raw``); safe for several threads.

    Args:
        many: lines carry the address of their run.
    """

    def __init__(self, bursts: Bursts, wanted: Wanted, many: bool) -> None:
        self._bursts, self._wanted, self._many = bursts, wanted, many
        self._colour = use_colour(sys.stdout)
        self.draws = wanted.form == "text" and can_draw(sys.stdout) and not many
        self._progress, self._bars = Progress(), Bars()
        self._by_time = bool(wanted.since or wanted.timestamps)
        self._timed: dict[str, bool] = {}
        self._lock = Lock()

    def progress(self, line: LogLine) -> None:
        """Show what a line looks like that the engine does not keep yet."""
        if text := self._bars("", line):
            self._bursts.redraw(text)

    def __call__(self, address: str, line: LogLine) -> None:
        """Print a line, or a piece of one, unless it is too old."""
        with self._lock:
            if self._by_time:
                self._timed[address] = self._timed.get(address, False) or line.at is not None
                if self._wanted.since and line.at and datetime.fromisoformat(line.at) < self._wanted.since:
                    return
            self._put(address, line)

    def _put(self, address: str, line: LogLine) -> None:
        if self._wanted.form == "raw":
            self._bursts.data(line.text, "" if line.goes_on else "\n")
            return
        text, unfinished = self._progress(address, line)
        if unfinished:
            if self.draws:
                self._bursts.redraw(shown(text))
        elif self._wanted.form == "json":
            about = {"address": address} if self._many else {}
            self._bursts.data(json.dumps({**about, "at": line.at, "stream": line.stream, "text": last_state(text)}))
        else:
            begin = f"{harmless(address)} | " if self._many else ""
            begin += f"{line.at} " if self._wanted.timestamps and line.at else ""
            self._bursts.data(begin + shown(text, colour=self._colour))

    def untimed(self) -> list[str]:
        """Return the runs whose lines had no times, where times were asked for."""
        return [address for address, timed in self._timed.items() if not timed]


class _Reading:
    """One run whose output is read, perhaps in a thread of its own.

    Attributes:
        count: the lines that the engine had.
        error: why it had no more.
    """

    def __init__(self, project: Project, record: Recorded, wanted: Wanted, told: _Printer, stop: Event | None) -> None:
        self.record, self.wanted, self.output = record, wanted, project.output()
        self.count = 0
        self.error: FlowplanError | None = None
        self._project, self._told, self._stop = project, told, stop

    def read(self) -> None:
        """Print what the engine has, with ``follow`` until the end of the run."""
        try:
            self._read()
        except FlowplanError as error:
            self.error = error

    def gone(self) -> bool:
        """Return whether the engine does not have the run any more, and its end was not recorded."""
        return _is_gone(self._project.engines.provider(self.record.provider), self.record)

    def _read(self) -> None:
        record, output, told, follow = self.record, self.output, self._told, self.wanted.follow
        provider = self._project.engines.provider(record.provider)
        known = provider.secret_values(record)
        output.redactor.add(known)
        starting = record.status is Status.CREATING and not known and bool(tokens_in(record.objects))
        draw = told.progress if follow and told.draws and not starting else None
        if container := self.wanted.container:
            if not isinstance(provider, ContainerReader):
                raise InvalidInput(
                    f"{record.address}: --container needs a provider whose runs have several containers, as kubernetes",
                    hint="leave it out",
                )
            draw = None
            lines = provider.logs_of(record, container, follow=follow, tail=self.wanted.tail, stop=self._stop)
        else:
            lines = provider.logs(record, follow=follow, tail=self.wanted.tail, stop=self._stop)
        lines = _once_secrets_are_known(lines, provider, record, output) if starting else lines
        waits = follow and not record.status.final
        outages = outages_told(provider, record, output) if waits else nullcontext(lambda: None)
        with drawing(provider, record, output.redactor, draw), outages as heard:
            for line in redacted(lines, output.redactor):
                self.count += 1
                heard()
                told(record.address, line)


@contextmanager
def outages_told(provider: Provider, record: Recorded, output: Output) -> Iterator[Callable[[], None]]:
    """Tell once when the engine of a quiet run does not answer, and once when it does again.

    Provide a function that is to be called for each line of output.
    """
    over, heard = Event(), Event()

    def look() -> None:
        told = False
        while not over.wait(QUIET):
            if heard.is_set() and not told:
                heard.clear()
                continue
            try:
                provider.observe([record])
            except EngineUnreachable as error:
                if not (told or over.is_set()):
                    output.note(f"warning: {error}; the run continues, and so does its output when the engine answers")
                told = True
            except FlowplanError:  # a refusal: the output itself fails with it
                continue
            else:
                if told:
                    output.note(f"provider {record.provider} answers again")
                told = False

    with suppress(RuntimeError):  # no further thread can be started: the output is what matters
        Thread(target=look, name="outages", daemon=True).start()
    try:
        yield heard.set
    finally:
        over.set()


def _once_secrets_are_known(
    lines: Iterator[LogLine], provider: Any, record: Recorded, output: Output
) -> Iterator[LogLine]:
    """Yield the output of a run that had not been created when it was asked for, and no line before its secrets are known.

    Raises:
        ProviderError: the run is gone already, and its secrets with it.
    """
    known: list[str] = []
    for line in lines:
        if not known:
            known = provider.secret_values(record)
            output.redactor.add(known)
            if not known and _is_gone(provider, record):
                raise ProviderError("the run ended before its secrets were known, so that its output cannot be shown")
        yield line


def _stored(store: Store, record: Recorded, tail: int | None, output: Output, told: _Printer) -> str:
    """Print the stored end of the output; return how much is kept, "" when there is none."""
    text = output.redactor(record.output_tail or store.tails([record.run_id]).get(record.run_id, ""))
    lines = text.split("\n") if text else []
    for line in lines[len(lines) - tail :] if tail is not None and tail < len(lines) else lines:
        told(record.address, LogLine(line))
    size = len(text.encode(errors="replace"))
    return f"{counted(len(lines), 'line')}, {size} bytes" if text else ""
