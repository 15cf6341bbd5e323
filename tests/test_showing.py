"""The output of runs on a terminal and elsewhere: colours, lines that are written over and over, commands of GitHub."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowplan.providers.protocol import LogLine
from flowplan.showing import Bars, Progress, Shown, shown

TEXT = st.text(st.sampled_from("ab \x1b[]0;31m?hK\\P\x07\r\x9b\u202e#:é\t"), max_size=40)


@pytest.mark.parametrize(
    ("text", "elsewhere", "terminal"),
    [
        ("plain", "plain", "plain"),
        ("\x1b[32mgreen\x1b[0m", "green", "\x1b[32mgreen\x1b[0m\x1b[0m"),
        ("\x1b[38:2:1:2:3mx", "x", "\x1b[38:2:1:2:3mx\x1b[0m"),
        ("a\x1b[2J\x1b[1;1Hb\x1b[?25l", "ab", "ab"),
        ("\x1b]0;title\x07a\x1b]8;;https://evil.test\x1b\\b", "ab", "ab"),
        ("\x1b(Ba\x1bPq\x1b\\b\x1b7", "ab", "ab"),
        ("a\x1b", "a\\x1b", "a\\x1b"),
        ("bell \x07 \x9b31m", "bell \\x07 \\x9b31m", "bell \\x07 \\x9b31m"),
        ("\r 10%\r 20%\r 30%", " 30%", " 30%"),
        ("10%\r20%\r", "20%", "20%"),
        ("10%\r\x1b[K20%", "20%", "20%"),
    ],
)
def test_a_line_is_harmless_and_its_colours_end(text: str, elsewhere: str, terminal: str) -> None:
    assert shown(text) == elsewhere
    assert shown(text, colour=True) == terminal


@given(TEXT)
def test_nothing_but_colours_reaches_a_terminal(text: str) -> None:
    assert all(c.isprintable() or c == "\t" for c in shown(text))
    told = shown(text, colour=True)
    assert all(c.isprintable() or c == "\t" for c in re.sub(r"\x1b\[[0-9;:]*m", "", told))
    assert "\x1b" not in told or told.endswith("\x1b[0m")
    assert re.sub(r"\x1b\[[0-9;:]*m", "", told) == shown(text)


def test_progress_is_one_line_that_changes() -> None:
    progress = Progress()
    pieces = [
        LogLine("\r 1%", goes_on=True),
        LogLine("\r 2", goes_on=True),
        LogLine("%", goes_on=True),
        LogLine(" done"),
    ]
    told = [progress("a", piece) for piece in pieces]
    assert [one.unfinished for one in told] == [True, True, True, False]
    assert [shown(one.text) for one in told] == [" 1%", " 2", " 2%", " 2% done"]
    assert progress("a", LogLine("long", goes_on=True)) == Shown("long", False)


def test_two_streams_do_not_mix() -> None:
    progress = Progress()
    progress("a", LogLine("\r1", "stderr", goes_on=True))
    assert progress("a", LogLine("out")) == Shown("out", False)
    assert progress("b", LogLine("err", "stderr")) == Shown("err", False)
    assert shown(progress("a", LogLine("2", "stderr")).text) == "12"


@pytest.mark.parametrize(
    "text", ["::error::x", "  ::set-output name=a::b", "x ##[error]y", "\x1b[31m::error::x", "\r::error::x"]
)
@pytest.mark.parametrize("colour", [True, False])
def test_a_run_gives_github_no_commands(monkeypatch: pytest.MonkeyPatch, text: str, colour: bool) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    told = re.sub(r"\x1b\[[0-9;]*m", "", shown(text, colour=colour))
    assert not told.lstrip().startswith("::") and "##[" not in told
    assert told.replace("\u200b", "") == re.sub(r"\x1b\[[0-9;]*m|\r", "", text)
    assert shown("a::b") == "a::b"


def test_bars_of_several_pods_are_drawn_side_by_side() -> None:
    bars = Bars()
    assert bars("a", LogLine("[0] \r[0] 1%", "[0] stdout", goes_on=True)) == "[0] 1%"
    assert bars("a", LogLine("[1] \r[1] 5%", "[1] stdout", goes_on=True)) == "[0] 1%  [1] 5%"
    assert bars("a", LogLine("\r[0] 2%", "[0] stdout", goes_on=True)) == "[0] 2%  [1] 5%"
    assert bars("b", LogLine("\r9%", goes_on=True)) == "9%", "of another run"
    assert bars("a", LogLine(" done", "[0] stdout")) == "[1] 5%"
    assert bars("a", LogLine("", "[1] stdout")) == ""
