"""A command that takes longer than a second says on the terminal what it does, and leaves nothing behind."""

from __future__ import annotations

import io
import time
from types import SimpleNamespace

import pytest

from flowplan import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def until(self, words: str) -> None:
        deadline = time.monotonic() + 10
        while words not in self.getvalue():
            assert time.monotonic() < deadline, self.getvalue()
            time.sleep(0.005)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    stream = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    return stream


def test_what_takes_long_is_told_and_wiped_away(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.01)
    with progress.shown():
        for words in ("reading flowplan.yaml", "comparing 7 runs"):
            progress.stage(words)
            with progress.shown():  # one inside another draws nothing of its own
                terminal.until(f"\r\x1b[K{words} ... 0s")
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_what_is_quick_says_nothing(terminal: Terminal) -> None:
    with progress.shown():
        progress.stage("reading flowplan.yaml")
    assert terminal.getvalue() == ""


def test_a_file_gets_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))
    monkeypatch.setattr(progress, "DELAY", 0.0)
    with progress.shown():
        time.sleep(0.01)
    assert stream.getvalue() == ""


def test_an_error_ends_it(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.01)

    def fail() -> None:
        progress.stage("failing")
        with progress.shown():
            terminal.until("failing")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    before = terminal.getvalue()
    time.sleep(0.03)
    assert terminal.getvalue() == before
    assert before.endswith("\r\x1b[K")
