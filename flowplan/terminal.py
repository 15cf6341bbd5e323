"""What the terminal can do: colour, width, questions."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import IO


def use_colour(stream: IO[str]) -> bool:
    """Return whether to use colour: on terminals only, and not with NO_COLOR (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty() or bool(os.environ.get("FORCE_COLOR"))


def width(stream: IO[str]) -> int:
    """Return the columns of the terminal; 80 where there is none, so that output is the same everywhere."""
    if not stream.isatty():
        return 80
    import shutil

    return max(40, shutil.get_terminal_size((80, 24)).columns)


def can_draw(stream: IO[str]) -> bool:
    """Return whether the bottom of the screen can be drawn over and over."""
    return stream.isatty() and os.environ.get("TERM") not in (None, "", "dumb")


def can_ask() -> bool:
    """Return whether a person can answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def approved(question: str) -> bool:
    """Ask on the terminal; only ``yes`` is a yes."""
    answered = False
    try:
        sys.stderr.write(f"{question}\n  Only 'yes' is accepted: ")
        sys.stderr.flush()
        answer = sys.stdin.readline()
        answered = answer.endswith("\n")
        return answer.strip() == "yes"
    except (OSError, UnicodeDecodeError):
        return False  # the terminal was closed, or this is no text
    finally:
        if not answered:
            with contextlib.suppress(OSError):
                sys.stderr.write("\n")
