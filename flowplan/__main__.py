"""The entry point: answers `--version` at once, and turns every error into a sentence and an exit code."""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import suppress

OBJECTS = 200_000
"""New objects between collections of cyclic garbage: reading modules and plans makes many, of which few are garbage."""


def main() -> None:
    """Run the command line; the process ends with an exit code of docs/exit-codes.md."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until it is known how to be interrupted well: at once
    from flowplan import interruption
    from flowplan.schemas import limits

    limits.leave_no_core()
    interruption.install()
    _open_closed_streams()
    code = 0
    try:
        code = _answer(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
    except interruption.Interrupted:
        interruption.leave()
    except ImportError as error:
        code = _incomplete(error)
    except OSError as error:
        _discard_output()
        code = code or 1
        with suppress(OSError):  # a terminal that was closed takes no complaint either
            sys.stderr.write(f"error: the output could not be written: {error.strerror}\n")
            sys.stderr.flush()
    gc.freeze()  # the interpreter would look through everything again before it leaves
    sys.exit(code)


def _incomplete(error: ImportError) -> int:
    """Print which module of the installation is missing or cannot be loaded; return the exit code."""
    broken = "is missing" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded ({error})"
    with suppress(OSError):
        sys.stderr.write(
            f"error: the installation of flowplan is not complete: the module {error.name} {broken}; "
            f"install flowplan again for {sys.executable}\n"
        )
        sys.stderr.flush()
    return 1


def _answer(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        from flowplan import __version__

        print(f"flowplan {__version__}")
        return 0
    gc.set_threshold(OBJECTS, 20, 100)
    from flowplan.cli import run

    return run(arguments)


def _open_closed_streams() -> None:
    """Open /dev/null for closed standard streams: else the state or a socket would get their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w"))


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
