"""What the command line is made of, and a reader for command lines in which nothing is wrong.

Reading with typer takes longer than most commands. So a line that the reader here understands whole is carried out at
once; all others (help, every mistake) are typer's, which is built from the same declarations: flowplan.typed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args


class Declared:
    """What is said of a parameter: ``settings`` as typer names them (metavar, help, envvar, min, max).

    One that takes long to find out is a function without parameters, called where it is shown.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setting(self, name: str) -> Any:
        """Return a setting, None when it is not said."""
        value = self.settings.get(name)
        return value() if callable(value) else value


class Argument(Declared):
    """A word of the command line by its place."""


class Option(Declared):
    """A word of the command line by its names: ``--out``, ``-o``, ``--yes/--no``; without any, after its parameter."""

    def __init__(self, *names: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.names = names


class Command(NamedTuple):
    """A function that is called by its words, such as ``state list``; it returns an exit code, or None for 0.

    The annotation of each of its parameters is ``Annotated[type, Argument or Option]``.
    """

    words: tuple[str, ...]
    function: Callable[..., int | None]


class _Unclear(Exception):
    """This reader does not understand the command line: typer reads it."""


class Parameter(NamedTuple):
    """An argument or option of a command: how its value is called, typed and declared."""

    name: str
    kind: type
    many: bool
    declared: Argument | Option
    required: bool


def understood(commands: Sequence[Command], words: Sequence[str]) -> partial[int | None] | None:
    """Return the call that a command line means; None when it is not entirely clear."""
    for command in commands:
        size = len(command.words)
        if tuple(words[:size]) == command.words:
            try:
                return partial(command.function, **_values(parameters(command.function), words[size:]))
            except _Unclear:
                return None
    return None


def option_names(commands: Sequence[Command]) -> set[str]:
    """Return the names of all options of these commands."""
    return {name for c in commands for parameter in parameters(c.function) for name, _ in names(parameter)}


def parameters(function: Callable[..., Any]) -> list[Parameter]:
    """Return the arguments and options of a command, in the order in which they are declared."""
    found = []
    annotations = [(name, hint) for name, hint in function.__annotations__.items() if name != "return"]
    required = len(annotations) - len(getattr(function, "__defaults__", None) or ())
    for place, (name, annotation) in enumerate(annotations):
        kind = annotation.__origin__
        if type(None) in get_args(kind):
            kind = get_args(kind)[0]
        many = bool(get_args(kind))  # ``list[Path]``
        kind = get_args(kind)[0] if many else kind
        found.append(Parameter(name, kind, many, annotation.__metadata__[0], place < required))
    return found


def _values(parameters: Sequence[Parameter], words: Sequence[str]) -> dict[str, Any]:
    by_name = {name: (p, on) for p in parameters for name, on in names(p)}
    values: dict[str, Any] = {}
    free: list[str] = []
    left = iter(words)
    for word in left:
        if not word.startswith("-") or word == "-":
            free.append(word)
            continue
        name, given, value = word.partition("=")
        parameter, on = by_name.get(name) or _unclear()
        if parameter.kind is bool:
            values[parameter.name] = on if not given else _unclear()
            continue
        if given and not name.startswith("--"):
            _unclear()
        value = value if given else next(left, "")
        if value.startswith("-") and not given:
            _unclear()
        _put(values, parameter, value)
    _place(values, [p for p in parameters if isinstance(p.declared, Argument)], free)
    for parameter in parameters:
        variable = parameter.declared.settings.get("envvar", "")
        if variable and variable in os.environ and parameter.name not in values:
            for text in os.environ[variable].split() if parameter.many else [os.environ[variable]]:
                _put(values, parameter, text)
    return values


def names(parameter: Parameter) -> list[tuple[str, bool]]:
    """Return the names of an option, each with True; of a flag also those that turn it off, with False."""
    if isinstance(parameter.declared, Argument):
        return []
    names = parameter.declared.names or (f"--{parameter.name.replace('_', '-')}",)
    split = [name.split("/") for name in names]
    return [(on_off[0], True) for on_off in split] + [(on_off[1], False) for on_off in split if len(on_off) > 1]


def _put(values: dict[str, Any], parameter: Parameter, text: str) -> None:
    value = _converted(parameter, text)
    if parameter.many:
        values.setdefault(parameter.name, []).append(value)
    elif parameter.name in values:
        _unclear()
    else:
        values[parameter.name] = value


def _converted(parameter: Parameter, text: str) -> Any:
    if not text or not text.isprintable():  # also the bytes of an argument that are no text in this locale
        _unclear()
    if parameter.kind is int:
        settings = parameter.declared.settings
        number = int(text) if text.isascii() and text.isdigit() else _unclear()
        return number if settings.get("min", 0) <= number <= settings.get("max", number) else _unclear()
    return Path(text) if parameter.kind is Path else text


def _place(values: dict[str, Any], arguments: Sequence[Parameter], free: Sequence[str]) -> None:
    left = list(free)
    for argument in arguments:
        taken = left if argument.many else left[:1]
        left = left[len(taken) :]
        if argument.required and not taken:
            _unclear()
        for text in taken:
            _put(values, argument, text)
    if left:
        _unclear()


def _unclear() -> Any:
    raise _Unclear
