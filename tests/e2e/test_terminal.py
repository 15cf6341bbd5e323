"""Nothing that somebody else wrote drives the terminal, in text or JSON, on a terminal or in a pipe."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from pathlib import Path

from conftest import FLOWPLAN, Project

EVIL = "\x1b]52;c;ZXZpbA==\x07\x1b]8;;https://evil.test\x07link\x1b]8;;\x07\x9b31m\u202eabc\u2066\x85\u2028\x7f"
"""The clipboard set, a link, a colour by a C1 control, text turned around, and line ends of all kinds."""
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
SPEC = """\
flowplan: 1
project: evil
runs:
  a:
    provider: process
    description: EVIL
    command: [sh, -c, 'cat evil.txt; cat evil.txt >&2; exit 3', EVIL]
    env: {A: EVIL, B: {from_env: IN}}
    labels: {EVIL: EVIL}
    matrix: {x: [EVIL]}
  gone: {provider: process, command: [EVIL], working_dir: EVIL}
"""
COMMANDS = [
    ["validate"], ["plan"], ["plan", "--explain", "--full"], ["plan", "--format", "markdown"], ["plan", "--format", "json"], ["apply", "--yes", "flowplan.yaml"],
    ["status"], ["status", "--format", "json"], ["events"], ["events", "--format", "json"], ["logs", "a"], ["logs", "a", "--format", "json"], ["state", "list"],
    ["state", "pull"], ["show"], ["show", EVIL], ["plan", EVIL], ["plan", "--var-file", EVIL], ["plan", "--target", EVIL], ["logs", EVIL], ["plan", "--format", EVIL],
    ["apply", "--yes", "--format", "json", "--rerun", "a", "flowplan.yaml"], ["destroy", "--yes"],
]  # fmt: skip


def evil(project: Project) -> None:
    project.write(SPEC.replace("EVIL", json.dumps(EVIL)))
    project.write(EVIL + "\n", "evil.txt")
    project.env["IN"] = "secret-of-evil"


def test_in_pipes(project: Project) -> None:
    evil(project)
    seen = ""
    for command in COMMANDS:
        told = project.run(*command)
        assert not OBEYED.search(told.out + told.err), (command, OBEYED.search(told.out + told.err))
        seen += told.out
    assert "\\u001b]52;c;ZXZpbA==" in seen and "\\x85" in seen


def test_on_a_terminal(project: Project) -> None:
    """The same, but for the colours and movements that are flowplan's own."""
    evil(project)
    for command in (
        ["plan"],
        ["apply", "--yes", "flowplan.yaml"],
        ["status"],
        ["events"],
        ["logs", "a"],
        ["show", EVIL],
    ):
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", on_a_terminal(project.directory, command))
        assert not OBEYED.search(text), (command, OBEYED.search(text))


def on_a_terminal(directory: Path, command: list[str]) -> str:
    """Return what a command writes to a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "IN": "secret-of-evil"}
    process = subprocess.Popen(
        [FLOWPLAN, *command], cwd=directory, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    text = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the other end was closed
            break
        text += data
    process.wait(timeout=30)
    os.close(ours)
    return text.decode()
