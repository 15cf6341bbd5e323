"""The command line as typer reads it: help, completion, and every mistake told; built from what flowplan.cli declares."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Annotated, Any, cast

import typer

from flowplan.options import Argument, Command, option_names

_MEANT = {
    "cancel": "flowplan destroy --target ADDR",
    "delete": "flowplan destroy --target ADDR",
    "down": "flowplan destroy",
    "get": "flowplan status",
    "graph": "flowplan plan --format markdown, which draws what needs what",
    "import": "flowplan state import ADDR ID",
    "ls": "flowplan state list",
    "output": "flowplan logs ADDR",
    "ps": "flowplan status",
    "refresh": "flowplan plan --refresh-only",
    "rerun": "flowplan apply --rerun ADDR",
    "restart": "flowplan apply --rerun ADDR",
    "run": "flowplan apply",
    "start": "flowplan apply",
    "stop": "flowplan destroy --target ADDR",
    "taint": "flowplan apply --rerun ADDR",
    "up": "flowplan apply",
    "version": "flowplan --version",
}
"""What other tools call our commands."""
_MEANT_OPTIONS = {
    "-V": "flowplan --version",
    "-destroy": "flowplan destroy",
    "--destroy": "flowplan destroy",
    "-json": "--format json",
    "--json": "--format json",
    "-replace": "--rerun ADDR",
    "--replace": "--rerun ADDR",
    "-version": "flowplan --version",
    "-auto-approve": "--yes",
    "--auto-approve": "--yes",
    "-f": "the spec without an option: flowplan plan SPEC",
    "--file": "the spec without an option: flowplan plan SPEC",
}

# The base of typer's own usage errors; typer does not export it by name.
_UsageError = cast("type[Exception]", typer.BadParameter.__mro__[1])

_GROUPS = {"state": "Look into the state and repair it."}


def application(commands: Sequence[Command]) -> typer.Typer:
    """Return the typer application of these commands."""
    app = typer.Typer(
        name="flowplan",
        help="plan and apply for runs: Kubernetes Jobs, Docker containers, local processes.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_main)
    groups: dict[str, typer.Typer] = {}
    for words, function in commands:
        place = app
        for group in words[:-1]:
            if group not in groups:
                groups[group] = typer.Typer(help=_GROUPS[group], no_args_is_help=True, rich_markup_mode=None)
                app.add_typer(groups[group], name=group)
            place = groups[group]
        place.command(words[-1])(_declared(function))
    return app


def _main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=lambda asked: _version(asked), is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


def _version(asked: bool) -> None:
    if asked:
        from flowplan import __version__

        typer.echo(f"flowplan {__version__}")
        raise typer.Exit


def _declared(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same function, with typer's words for its parameters."""
    assert isinstance(function, FunctionType)
    other = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    other.__doc__ = function.__doc__
    other.__annotations__ = {
        name: Annotated[hint.__origin__, _words(hint.__metadata__[0])] if hasattr(hint, "__metadata__") else hint
        for name, hint in function.__annotations__.items()
    }
    return other


def _words(declared: Any) -> Any:
    if isinstance(declared, Argument):
        return typer.Argument(**declared.settings)
    return typer.Option(*declared.names, **declared.settings)


def run(commands: Sequence[Command], words: Sequence[str], complain: Callable[..., int]) -> int:
    """Carry out a command line, or print what is wrong with it; return its exit code."""
    if len(words) == 2 and words[0] in ("--show-completion", "--install-completion"):
        # typer takes a shell's name only where it is told not to guess the shell, which a script or make is not.
        os.environ["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    needed = _needed(commands, words)
    if wrong := _with_one_dash(needed, words):
        return complain(f"No such option: {wrong[0]}\nwrite {wrong[1]}", 7)
    try:
        line = typer.main.get_command(application(needed))
        result = line.main(args=list(words), prog_name="flowplan", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except _UsageError as error:
        return _usage(error, words, complain)
    except typer.Abort:
        return complain("interrupted", 130)


def _needed(commands: Sequence[Command], words: Sequence[str]) -> Sequence[Command]:
    """Return the one command that is named, or all of them, which take longer to build."""
    return [c for c in commands if c.words == tuple(words[:1])] or commands


def _with_one_dash(commands: Sequence[Command], words: Sequence[str]) -> tuple[str, str] | None:
    """Return an option as Terraform writes it (``-out``, which would be ``-o ut``), and what to write instead."""
    known = option_names(commands)
    for name in (word.partition("=")[0] for word in words):
        if len(name) > 2 and name[0] == "-" != name[1]:
            meant = f"-{name}" if f"-{name}" in known else _MEANT_OPTIONS.get(name)
            if meant:
                return name, meant
    return None


def _meant(error: BaseException, words: Sequence[str]) -> str:
    """Return what to write instead of a word of another tool that was not understood, "" when there is none."""
    wrong = str(getattr(error, "option_name", ""))  # of ``-var`` it is ``-v``
    options = (_MEANT_OPTIONS.get(word.partition("=")[0]) for word in words if wrong and word.startswith(wrong))
    meant = None if wrong or len(words) == 0 else _MEANT.get(words[0])
    return next((f"\nwrite {found}" for found in (meant, *options) if found), "")


def _usage(error: BaseException, words: Sequence[str], complain: Callable[..., int]) -> int:
    """Print what is wrong with an option or argument; exit 7, not typer's 2, which says that a plan has changes."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return complain(str(getattr(error, "message", error)), 7, prefix="")
    hint = f"\nsee `{context.command_path} --help`" if context else ""
    return complain(f"{getattr(error, 'format_message', lambda: str(error))()}{_meant(error, words)}{hint}", 7)
