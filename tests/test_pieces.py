"""A progress bar is shown while it is drawn: pieces of lines as a run writes them, without secrets."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
from projects import until

from flowplan.outputs import DRAWN, drawing
from flowplan.providers.pieces import Pieces
from flowplan.providers.protocol import LogLine, ProgressReader
from flowplan.schemas.runs import Recorded
from flowplan.schemas.secrets import Redactor
from flowplan.showing import Progress


def told(*chunks: bytes, prefix: str = "") -> list[tuple[str, bool]]:
    pieces = Pieces("stdout", prefix)
    return [(line.text, line.goes_on) for chunk in chunks for line in pieces.feed(chunk)]


def test_a_line_is_told_in_pieces_once_it_goes_back_to_its_beginning() -> None:
    assert told(b"one\ntw", b"o\n") == [("one", False), ("two", False)]
    assert told(b"1%", b"\r2%", b"\r", b"3%\n") == [("1%\r2%", True), ("\r3%", False)]
    assert told(b"\r1", b"0", b"%") == [("\r1", True), ("0", True), ("%", True)]
    assert told(b"1%\r2%\r", b"\n") == [("1%\r2%", True), ("", False)], "what belongs to the newline is not told"
    assert told(b"1\r2 \xe2\x96", b"\x88") == [("1\r2 ", True), ("█", True)], "no half characters"
    assert told(b"x" * 70_000) == [("x" * 70_000, True)], "memory is bounded"


def test_each_state_of_the_line_of_one_of_several_pods_carries_its_name() -> None:
    pieces = told(b"\r1%", b"\r2", b"%\n", b"end\n", prefix="[0] ")
    assert pieces == [("[0] \r[0] 1%", True), ("\r[0] 2", True), ("%", False), ("[0] end", False)]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_secret_that_comes_in_pieces_is_not_drawn(size: int) -> None:
    written = b"\r 1% t0ps3cret\r 2% t0ps3cret \r 3%"

    class Engine:
        def progress(self, record: Recorded, stop: threading.Event) -> Iterator[LogLine]:
            pieces = Pieces("stdout")
            for at in range(0, len(written), size):
                yield from pieces.feed(written[at : at + size])
            yield from pieces.feed(b"\r \n")

    drawn, progress, over = [], Progress(), threading.Event()

    def draw(line: LogLine) -> None:
        drawn.append(progress("a", line))
        if not line.goes_on:
            over.set()

    engine = Engine()
    assert isinstance(engine, ProgressReader)
    with drawing(engine, None, Redactor(["t0ps3cret"]), draw):  # type: ignore[arg-type]
        assert over.wait(10)
    assert drawn[-1].unfinished is False
    states = [shown.text for shown in drawn]
    assert any("2% (sensitive)" in state for state in states)
    assert not any("t0ps" in state for state in states)


def test_no_more_bars_are_read_than_a_terminal_shows() -> None:
    active, most, asked = 0, 0, 0
    lock = threading.Lock()

    class Engine:
        def progress(self, record: Recorded, stop: threading.Event) -> Iterator[LogLine]:
            nonlocal active, most, asked
            with lock:
                active, asked = active + 1, asked + 1
                most = max(most, active)
            stop.wait(10)
            with lock:
                active -= 1
            yield LogLine("")

    with contextlib.ExitStack() as others:
        first = contextlib.ExitStack()
        first.enter_context(drawing(Engine(), None, Redactor(), lambda line: None))  # type: ignore[arg-type]
        until(lambda: asked == 1)
        for _ in range(DRAWN + 1):
            others.enter_context(drawing(Engine(), None, Redactor(), lambda line: None))  # type: ignore[arg-type]
        until(lambda: asked == DRAWN)
        first.close()
        until(lambda: asked == DRAWN + 1)
    assert most == DRAWN


def test_progress_stops_when_the_output_has_been_read() -> None:
    left, asked = threading.Event(), threading.Event()

    class Engine:
        def progress(self, record: Recorded, stop: threading.Event) -> Iterator[LogLine]:
            asked.set()
            yield LogLine("\r1%", goes_on=True)
            stop.wait(10)
            left.set()

    with drawing(Engine(), None, Redactor(), lambda line: None):  # type: ignore[arg-type]
        assert asked.wait(10)
    assert left.wait(10)
