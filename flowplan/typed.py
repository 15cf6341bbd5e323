"""The command line as typer reads it: help, and every mistake told; built from what flowplan.cli declares."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Annotated, Any, cast

import typer

from flowplan.options import Command, Declared, Option, option_names

_MEANT = {
    "flowplan apply": ("create", "deploy", "exec", "launch", "run", "start", "submit", "up"),
    "flowplan apply --rerun ADDR": ("rerun", "restart", "retry", "taint"),
    "flowplan destroy": ("down", "teardown"),
    "flowplan destroy --target ADDR": ("delete", "kill", "remove", "rm", "stop", "terminate"),
    "flowplan logs ADDR": ("log", "output", "tail"),
    "flowplan plan": ("dry-run", "preview"),
    "flowplan graph": ("dag",),
    "flowplan plan --refresh-only": ("refresh", "sync"),
    "flowplan state list": ("addresses", "ls"),
    "flowplan state pull": ("pull",),
    "flowplan state push": ("push",),
    "flowplan state show ADDR": ("describe", "inspect"),
    "flowplan state unlock": ("force-unlock", "unlock"),
    "flowplan status": ("get", "info", "jobs", "list", "ps", "queue", "top"),
    "flowplan validate": ("check", "lint", "test"),
    "flowplan validate: a spec is checked, not reformatted": ("fmt", "format"),
    "flowplan watch": ("attach", "follow", "wait"),
    "flowplan --help": ("help",),
    "flowplan --version": ("version",),
    "flowplan state list, rm, mv or show": ("state ls", "state remove", "state rename", "state get"),
}
"""What to write, and what people write who know other tools."""
_MEANT_OPTIONS = {
    "flowplan --version": ("-V", "-version"),
    "flowplan destroy": ("-destroy", "--destroy"),
    "flowplan completion bash, zsh or fish": ("--install-completion", "--show-completion"),
    "flowplan plan": ("--dry-run", "-n"),
    "flowplan watch": ("--watch", "-w"),
    "--allow-interrupt ADDR for what a plan would stop, --yes for what it asks": ("--force", "-force"),
    "--detach": ("--no-wait", "--background", "--async"),
    "--format json": ("-json", "--json", "-o"),
    "--parallelism N": ("-j", "--parallel", "--jobs"),
    "--rerun ADDR": ("-replace", "--replace"),
    "--var NAME=VALUE": ("-e",),
    "--wait-timeout TIME": ("--timeout",),
    "--yes": ("-auto-approve", "--auto-approve", "--assume-yes"),
    "NO_COLOR=1 in the environment": ("--no-color", "-no-color"),
    "no option: every run is shown": ("--all", "-a"),
    "the spec without an option: flowplan plan SPEC": ("-f", "--file"),
}
"""The same of options, where a command does not know them."""

# The base of typer's own usage errors; typer does not export it by name.
_UsageError = cast("type[Exception]", typer.BadParameter.__mro__[1])

_GROUPS = {"state": "Look into the state and repair it."}


def application(commands: Sequence[Command]) -> typer.Typer:
    """Return the typer application of these commands."""
    app = typer.Typer(
        name="flowplan",
        help="plan and apply for runs: Kubernetes Jobs, Docker and Podman containers, Slurm jobs, local processes.",
        no_args_is_help=True,
        add_completion=False,
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


def _words(declared: Declared) -> Any:
    settings = {name: declared.setting(name) for name in declared.settings}
    return typer.Option(*declared.names, **settings) if isinstance(declared, Option) else typer.Argument(**settings)


def run(commands: Sequence[Command], words: Sequence[str], complain: Callable[..., int]) -> int:
    """Carry out a command line, or print what is wrong with it; return its exit code."""
    needed = [c for c in commands if c.words == tuple(words[:1])] or commands  # one is built faster than all
    if wrong := _with_one_dash(needed, words):
        return complain(f"No such option: {wrong[0]}\nwrite {wrong[1]}", 7)
    if sum(word.partition("=")[0] == "--env" for word in words) > 1 and words[0] not in ("plan", "diff"):
        return complain("--env is given twice\nthis command is for one environment; give it once for each", 7)
    try:
        line = typer.main.get_command(application(needed))
        result = line.main(args=list(words), prog_name="flowplan", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except _UsageError as error:
        return _usage(error, words, complain)
    except typer.Abort:
        return complain("interrupted", 130)


def _with_one_dash(commands: Sequence[Command], words: Sequence[str]) -> tuple[str, str] | None:
    """Return an option as Terraform writes it (``-out``, which would be ``-o ut``), and what to write instead."""
    known = option_names(commands)
    for name in (word.partition("=")[0] for word in words):
        if len(name) > 2 and name[0] == "-" != name[1]:
            meant = f"-{name}" if f"-{name}" in known else _instead(_MEANT_OPTIONS, name)
            if meant:
                return name, meant
    return None


def _instead(table: Mapping[str, Sequence[str]], wrong: str) -> str:
    """Return what to write instead of a word of another tool, "" when that is not known."""
    return next((meant for meant, words in table.items() if wrong in words), "")


def _meant(error: BaseException, words: Sequence[str]) -> str:
    """Return what to write instead of a word of another tool that was not understood, "" when there is none."""
    if wrong := str(getattr(error, "option_name", "")):  # of ``-var`` it is ``-v``
        given = (word.partition("=")[0] for word in words if word.startswith(wrong))
        return next(filter(None, (_instead(_MEANT_OPTIONS, word) for word in given)), "")
    return "" if not words else _instead(_MEANT, words[0]) or _instead(_MEANT, " ".join(words[:2]))


def _usage(error: BaseException, words: Sequence[str], complain: Callable[..., int]) -> int:
    """Print what is wrong with an option or argument; exit 7, not typer's 2, which says that a plan has changes."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return complain(str(getattr(error, "message", error)), 7, prefix="")
    text, meant = str(getattr(error, "format_message", lambda: str(error))()), _meant(error, words)
    if meant:  # better than the words that typer takes for near
        text = f"{re.split(r'[.] Did you mean| [(]Possible', text)[0].rstrip('.')}.\nwrite {meant}"
    elif type(error).__name__ == "MissingParameter" and "ADDR" in text:
        text += "\n`flowplan state list` shows the addresses"
    return complain(text + (f"\nsee `{context.command_path} --help`" if context else ""), 7)
