"""Telling people that an engine does not answer, while a command waits for the output of a run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from flowplan.output import Output
from flowplan.providers.protocol import Provider
from flowplan.schemas.errors import EngineUnreachable, FlowplanError
from flowplan.schemas.runs import Recorded

QUIET = 5.0
"""Seconds without output after which the engine is asked whether it is still there."""


@contextmanager
def outages_told(provider: Provider, record: Recorded, output: Output) -> Iterator[Callable[[], None]]:
    """Tell once when the engine of a quiet run does not answer, and once when it does again.

    Provide a function that is to be called for each line of output.
    """
    over, heard = threading.Event(), threading.Event()

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
        threading.Thread(target=look, name="outages", daemon=True).start()
    try:
        yield heard.set
    finally:
        over.set()
