"""Write what is generated: the JSON Schemas, the pages of the spec and the commands, and the outputs that pages show."""

from __future__ import annotations

import sys
from pathlib import Path

import consoles


def write_outputs() -> None:
    """Run every page again and write what changed."""
    for page in consoles.pages():
        for session in consoles.sessions(page):
            changed = consoles.rewrite(session, Path(sys.executable).parent)
            print(f"{session}: {changed} outputs written" if changed else f"{session}: as shown")


if __name__ == "__main__":
    write_outputs()
