"""Texts of a spec that look like a mistake are told, with their place and what to write; others are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowplan.planner.desired.mistakes import mistakes
from flowplan.schemas.composition import read_files
from flowplan.schemas.load import load, load_spec

ROOT = Path(__file__).parents[1]


def told(directory: Path, run: str) -> list[str]:
    path = directory / "flowplan.yaml"
    path.write_text(
        f"flowplan: 1\nproject: p\nvariables: {{tag: {{default: x}}}}\nruns:\n  a: {{provider: process, {run}}}\n"
    )
    return [str(one).removeprefix(f"{path}:") for one in mistakes(load_spec(path), ["tag"])]


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("${{ var.tag }}", "${var.tag}"), ("{{ var.tag }}", "${var.tag}"), ("${tag}", "${var.tag}"), ("${vars.tag}", "${var.tag}"),
        ("${env.HOME}", "{from_env: HOME}"), ("${matrix.day}", "${each.day}"), ("${runs.a.exit_code}", "${run.address}"),
        ("from_env:X", "{from_env: X}"), ("${upper(var.tag)}", "expressions have no functions"),
    ],
)  # fmt: skip
def test_expressions_of_other_tools(tmp_path: Path, text: str, remedy: str) -> None:
    (one,) = told(tmp_path, f"command: [x], env: {{T: {json.dumps(text)}}}")
    assert one.startswith("5:4") and f': runs.a.env.T: "{text}" stays as it is' in one and remedy in one
    assert (
        told(
            tmp_path,
            f"command: [x], env: {{T: {json.dumps(text)}}}}} # flowplan: ignore\n  b: {{provider: process, command: [x]",
        )
        == []
    )


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("'echo a && b'", ["&&"]), ("'a | b > c'", ["|", ">"]), ("'a; b'", [";"]), ("'a < b || c'", ["<", "||"]), ("'echo $HOME/x'", ["$HOME"]),
        ("'cat *.csv'", ["*.csv"]), ("[echo, a, '&&', b]", ["&&"]), ("[echo, '$HOME']", ["$HOME"]), ("[a, 2>&1]", ["2>&1"]),
        ("[ls, '*.csv']", ["*.csv"]), ("[x, ~/data]", ["~/data"]), ("[x, '`date`']", ["`date`"]), ("[x, '$(date)']", ["$(date)"]),
    ],
)  # fmt: skip
def test_what_no_shell_reads(tmp_path: Path, command: str, words: list[str]) -> None:
    (one,) = told(tmp_path, f"command: {command}")
    assert f"runs.a.command: {', '.join(json.dumps(word) for word in words)} stays as it is; no shell reads" in one


@pytest.mark.parametrize(
    "command",
    [
        "[sh, -c, 'echo $HOME && echo ${tag} | wc > out; ls *.csv']", "[/bin/bash, -lc, 'a && b']", "[env, A=1, sh, -c, 'a | b']", "\"sh -c 'a && b'\"",
        "[find, ., -name, '*.py', -exec, echo, '{}', ';']", "[python, -c, 'print($X > 1)']", "\"awk '{print $NF}' file\"", "[docker, ps, --format, '{{.Names}}']",
        "[echo, '$${tag}']", "[echo, '${other}']", "'echo \"a && b\"'", "[grep, 'a$']", "[grep, 'x*.y', f]", "[rsync, a/, 'host:~/b']", "[x, a=b, '--f={{ item }}']",
    ],
)  # fmt: skip
def test_what_is_meant(tmp_path: Path, command: str) -> None:
    assert told(tmp_path, f"command: {command}") == []


def test_kubernetes_replaces_variables_in_commands(tmp_path: Path) -> None:
    run = "provider: kubernetes, image: 'a:1', command: [x, '--day=$(DAY)', '$(date)']"
    (one,) = told(tmp_path, f"command: [x]}}\n  b: {{{run}")
    assert 'runs.b.command: "$(date)" stays as it is' in one


SPECS = [path for path in sorted(ROOT.glob("examples/**/flowplan.yaml")) if path.parent.name != "plugin"]


@pytest.mark.parametrize("path", SPECS, ids=lambda path: str(path.parent.name))
def test_the_examples_hold_no_mistake(path: Path) -> None:
    read = read_files(path)
    for environment in read.environments or [""]:
        loaded = load(read, environment=environment)
        assert [str(one) for one in mistakes(loaded, loaded.spec.variables)] == []
