"""The entry point: answers `--version` at once, and turns every error into a sentence and an exit code."""

from __future__ import annotations

import gc
import os
import sys

OBJECTS = 200_000
"""New objects between collections of cyclic garbage: reading modules and plans makes many, of which few are garbage."""


def main() -> None:
    """Run the command line; the process ends with an exit code of design 9."""
    if sys.argv[1:] == ["--version"]:
        from flowplan import __version__

        print(f"flowplan {__version__}")
        return
    gc.set_threshold(OBJECTS, 20, 100)
    from flowplan.cli import run

    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    gc.freeze()  # the interpreter would look through everything again before it leaves
    sys.exit(code)


if __name__ == "__main__":
    main()
