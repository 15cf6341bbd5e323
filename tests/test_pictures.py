"""The pictures of the pages show what is printed today; only times, ids and the order of lines may differ."""

from __future__ import annotations

import re
from pathlib import Path

import consoles
import pictures
import pytest
from projects import FLOWPLAN

pytestmark = pytest.mark.xdist_group("pages")  # one after another: they share the name of their project
_NUMBER = re.compile(r"<1s|\b\d+s\b|\b\d+\.\d s\b")


def masked(lines: list[str]) -> set[str]:
    return set(_NUMBER.sub("<duration>", consoles.masked("\n".join(lines))).splitlines())


@pytest.mark.parametrize("picture", pictures.PICTURES, ids=lambda picture: picture.name)
def test_every_line_of_a_picture_is_printed_today(picture: pictures.Picture) -> None:
    columns, rows = pictures.SIZES[0]
    shown = pictures.words_of(pictures.file_of(picture, columns, rows).read_text(encoding="utf-8"))
    today = pictures.words_of(pictures.drawn(pictures.take(picture, columns, 1000, Path(FLOWPLAN).parent), columns, ""))
    assert len(shown) > 5
    assert masked(shown) - masked(today) == set(), "`python docs/generate.py --pictures` takes them anew"


def test_there_is_a_picture_for_each_size() -> None:
    files = {pictures.file_of(picture, *size) for picture in pictures.PICTURES for size in pictures.SIZES}
    assert {*pictures.DIRECTORY.iterdir()} == files
    assert all("http" not in re.sub(r"xmlns\S*|<!--.*?-->", "", file.read_text(encoding="utf-8")) for file in files)
