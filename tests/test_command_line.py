"""Two readers of the command line, one result: what the quick one takes, typer understands in the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from flowplan.cli import COMMANDS
from flowplan.options import Argument, Option, parameters, understood
from flowplan.typed import application, run

CLEAR = [
    "validate",
    "validate other.yaml --var a=b --var c=d --format json --var-file v.yaml",
    "plan",
    "plan spec.yaml -o plan.json --no-refresh --no-preflight --detailed-exitcode --context 3",
    "plan --target a --target b[n=1] --exclude c --out=p --var=x=y=z --refresh-only --state here/state.db",
    "apply --yes --detach --parallelism 3 --wait-timeout 5m --no-stream",
    "apply -y -d plan.json --max-age 1h",
    "destroy -y --allow-interrupt a --lock-timeout 3s",
    "watch a b --no-stream",
    "watch",
    "status a b --no-refresh --format json",
    "logs a -f -n 0 --attempt 2",
    "events --after 7",
    "show --full",
    "schema",
    "schema plan",
    "init there --provider docker",
    "state list --format json",
    "state mv a b",
    "state show a",
    "state pull",
    "state rebuild --lineage 0 spec.yaml",
]
UNCLEAR = [
    "",
    "--help",
    "plan --help",
    "plna",
    "plan --nope",
    "plan a b",
    "plan --out",
    "plan --out --full",
    "plan --out= --full",
    "plan -oplan.json",
    "plan --context x",
    "plan --context -1",
    "apply -yd",
    "apply --parallelism 0",
    "apply --parallelism 1001",
    "apply --yes=1",
    "logs",
    "state",
    "state lst",
    "state mv a",
    "plan -- --strange.yaml",
    "plan --out a --out b",
]


def by_typer(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Return what typer would call, and with which values."""
    called: list[tuple[str, dict[str, Any]]] = []

    line = typer.main.get_command(application(COMMANDS))
    for leaf in _leaves(line):
        name = leaf.callback.__name__
        leaf.callback = lambda _name=name, **values: called.append((_name, values))
    line.main(args=words, prog_name="flowplan", standalone_mode=False)
    return called[0]


def _leaves(group: Any) -> list[Any]:
    return [
        leaf
        for command in group.commands.values()
        for leaf in (_leaves(command) if hasattr(command, "commands") else [command])
    ]


@pytest.mark.parametrize("line", CLEAR)
@pytest.mark.parametrize("environment", [{}, {"FLOWPLAN_STATE": "elsewhere.db"}], ids=["", "env"])
def test_what_is_clear_means_the_same_to_typer(
    line: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLOWPLAN_STATE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    call = understood(COMMANDS, line.split())
    assert call is not None
    name, values = by_typer(line.split())
    defaults = _defaults(call.func)
    assert call.func.__name__ == name
    assert {**defaults, **call.keywords} == {
        name: value or defaults[name] if value in ((), []) else value for name, value in values.items()
    }


def _defaults(function: Any) -> dict[str, Any]:
    names = [name for name in function.__annotations__ if name != "return"]
    given = function.__defaults__ or ()
    return {**dict.fromkeys(names), **dict(zip(names[len(names) - len(given) :], given, strict=True))}


@pytest.mark.parametrize("line", UNCLEAR)
def test_what_is_not_entirely_clear_is_left_to_typer(line: str) -> None:
    assert understood(COMMANDS, line.split()) is None


@pytest.mark.parametrize("text", ["", "a\udc80b", "two\nlines"])
def test_words_that_are_no_plain_text_are_left_to_typer(text: str) -> None:
    assert understood(COMMANDS, ["plan", "--out", text]) is None
    assert understood(COMMANDS, ["plan", text]) is None


def test_every_parameter_of_every_command_is_known_to_the_reader() -> None:
    for command in COMMANDS:
        for parameter in parameters(command.function):
            assert parameter.kind in (bool, int, str, Path)
            assert isinstance(parameter.declared, Argument | Option)
            assert parameter.declared.settings.keys() <= {"metavar", "help", "envvar", "min", "max"}


MEANT = {
    "flowplan apply": "deploy",
    "flowplan apply --rerun ADDR": "retry",
    "flowplan destroy": "down",
    "flowplan destroy --target ADDR": "kill",
    "flowplan logs ADDR": "tail",
    "flowplan plan": "preview",
    "flowplan state show ADDR": "describe",
    "flowplan state list": "ls",
    "flowplan state list, rm, mv or show": "state remove a",
    "flowplan state unlock": "force-unlock",
    "flowplan status": "get",
    "flowplan validate": "lint",
    "flowplan validate: a spec is checked, not reformatted": "fmt",
    "flowplan watch": "status --watch",
    "--detach": "apply --no-wait",
    "--format json": "status -o json",
    "--parallelism N": "apply -j 3",
    "--wait-timeout TIME": "apply --timeout 5m",
    "no option: every run is shown": "status --all",
}


@pytest.mark.parametrize("meant", MEANT)
def test_words_of_other_tools_are_answered_with_ours_alone(meant: str) -> None:
    told: list[str] = []

    def complain(text: str, code: int, prefix: str = "") -> int:
        told.append(text)
        return code

    assert run(COMMANDS, MEANT[meant].split(), complain) == 7
    [first, second, *_] = told[0].splitlines()
    assert second == f"write {meant}" and "ossible" not in first and "mean" not in first
