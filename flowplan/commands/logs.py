"""The command that prints the output of runs: logs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from flowplan.commands.arguments import check_format
from flowplan.commands.reading import opened, unknown_address
from flowplan.output import Bursts, Output, reader_gone
from flowplan.outputs import drawing, redacted
from flowplan.planner.compare.plan import names
from flowplan.project import Project
from flowplan.providers.protocol import LogLine
from flowplan.schemas.errors import InvalidInput, ProviderError
from flowplan.schemas.runs import Recorded, Status
from flowplan.schemas.secrets import tokens_in
from flowplan.showing import Bars, Progress, last_state, shown
from flowplan.state.store import Store
from flowplan.terminal import can_draw, use_colour
from flowplan.waiting import outages_told


def logs(state: Path, address: str, follow: bool, tail: int | None, attempt: int | None, format: str) -> None:
    """Print the output of one attempt, from the engine, else its stored end."""
    check_format(format, ("text", "json", "raw"))
    with closing(opened(state)) as store:
        record = _attempt(store, address, attempt)
        with Project.of_state(store) as project:
            output = project.output()
            try:
                provider = project.engines.provider(record.provider)
                count = _stream(provider, record, follow, tail, output, format)
                if count == 0 and _stored(store, record, tail, output, format):
                    output.note("warning: this is the stored end of the output: the engine has none any more")
                elif count == 0 and record.status is Status.CREATING:
                    output.note("warning: there is no output yet: the run is being created")
                elif count == 0 and _is_gone(provider, record):
                    output.note(
                        "warning: no output is kept: the engine does not have the run any more, and its end was not recorded; "
                        "whether it printed anything is not known"
                    )
            except ProviderError as error:
                if not _stored(store, record, tail, output, format):
                    raise
                output.note(f"warning: this is the stored end of the output: {error}")


def _is_gone(provider: Any, record: Recorded) -> bool:
    """Return whether the engine does not have a run any more whose end was not recorded: its output was not kept."""
    if record.status.final and record.status is not Status.LOST:
        return False
    return record.run_id not in {seen.run_id for seen in provider.observe([record]) if seen.exists}


def _attempt(store: Store, address: str, attempt: int | None) -> Recorded:
    attempts = store.attempts(address)
    if not attempts:
        cells = [a for a, r in store.records().items() if names(address, a, r.settings.group)]
        if len(cells) == 1:
            return _attempt(store, cells[0], attempt)
        if cells:
            raise InvalidInput(f"{address} means {len(cells)} runs", hint=f"name one, for example '{cells[0]}'")
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
    """Prints the output of a run: as text, as JSON, or as it was written (``raw``)."""

    def __init__(self, bursts: Bursts, form: str) -> None:
        self._bursts, self._form = bursts, form
        self._colour = use_colour(sys.stdout)
        self.draws = form == "text" and can_draw(sys.stdout)
        self._progress, self._bars = Progress(), Bars()

    def progress(self, line: LogLine) -> None:
        """Show what a line looks like that the engine does not keep yet."""
        if text := self._bars("", line):
            self._bursts.redraw(text)

    def __call__(self, line: LogLine) -> None:
        """Print a line, or a piece of one."""
        if self._form == "raw":
            self._bursts.data(line.text, "" if line.goes_on else "\n")
            return
        text, unfinished = self._progress("", line)
        if unfinished:
            if self.draws:
                self._bursts.redraw(shown(text))
        elif self._form == "json":
            self._bursts.data(json.dumps({"at": line.at, "stream": line.stream, "text": last_state(text)}))
        else:
            self._bursts.data(shown(text, colour=self._colour))


def _stream(provider: Any, record: Recorded, follow: bool, tail: int | None, output: Output, form: str) -> int:
    known = provider.secret_values(record)
    output.redactor.add(known)
    starting = record.status is Status.CREATING and not known and bool(tokens_in(record.objects))
    count = 0
    stop = reader_gone(sys.stdout) if follow else None
    with Bursts(output) as bursts:
        told = _Printer(bursts, form)
        draw = told.progress if follow and told.draws and not starting else None
        lines = provider.logs(record, follow=follow, tail=tail, stop=stop)
        lines = _once_secrets_are_known(lines, provider, record, output) if starting else lines
        waits = follow and not record.status.final
        outages = outages_told(provider, record, output) if waits else nullcontext(lambda: None)
        with drawing(provider, record, output.redactor, draw), outages as heard:
            for line in redacted(lines, output.redactor):
                count += 1
                heard()
                told(line)
    return count


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


def _stored(store: Store, record: Recorded, tail: int | None, output: Output, form: str) -> bool:
    """Print the stored end of the output; False when there is none."""
    text = output.redactor(record.output_tail or store.tails([record.run_id]).get(record.run_id, ""))
    lines = text.split("\n") if text else []
    with Bursts(output) as bursts:
        told = _Printer(bursts, form)
        for line in lines[len(lines) - tail :] if tail is not None and tail < len(lines) else lines:
            told(LogLine(line))
    return bool(lines)
