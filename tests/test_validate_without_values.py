"""`validate` needs no values of variables: their types are enough, and every other fault is still told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """\
flowplan: 1
project: p
variables:
  text: {}
  secret: {sensitive: true}
  size: {type: number}
  words: {type: list}
  table: {type: map}
  level: {enum: [low, high]}
"""


def validate(directory: Path, runs: str, *options: str) -> tuple[int, str]:
    (directory / "flowplan.yaml").write_text(HEAD + runs)
    command = [sys.executable, "-m", "flowplan", "validate", *options]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


VALID = """\
providers: {box: {type: docker, host: "${var.text}"}}
defaults: {grace_period: "${var.text}"}
runs:
  a: {provider: process, command: "${var.words}", timeout: "${var.text}", retries: "${var.size}"}
  b: {provider: box, image: "${var.text}:${var.level}", command: ["${var.table.key}", "${var.words[3]}"], resources: {memory: "${var.text}", gpu: "${var.size}"}}
  c: {provider: process, command: [x], matrix: {day: "${var.words}"}, env: {S: "${var.secret}"}, rerun: "${var.text}", protect: "${var.text}"}
  d: {provider: process, command: [x], needs: ["c[day=monday]", "${var.text}"]}
  e: {provider: "${var.text}", image: x, kubernetes: {namespace: "${var.text}"}}
  f: {provider: process, command: [x], matrix: {day: ["${var.text}", "${var.level}", "${var.text}"]}}
"""


def test_types_are_enough(tmp_path: Path) -> None:
    code, told = validate(tmp_path, VALID)
    named = ", ".join(f"var.{name}" for name in ("level", "secret", "size", "table", "text", "words"))
    assert (code, told) == (0, f"flowplan.yaml: valid; not checked: what depends on the value of {named}\n")


def test_the_json_form_names_what_is_unset(tmp_path: Path) -> None:
    runs = "runs:\n  a: {provider: process, command: [x, '${var.size}']}\n"
    code, told = validate(tmp_path, runs, "--format", "json", *(f"--var={n}=x" for n in ("text", "secret")))
    assert code == 0 and json.loads(told)["unset"] == ["level", "size", "table", "words"]
    given = [f"--var={pair}" for pair in ("text=x", "secret=x", "level=low", "size=1", "words=[a]", "table={}")]
    code, told = validate(tmp_path, runs, *given)
    assert (code, told) == (0, "flowplan.yaml: valid, 1 run\n")


@pytest.mark.parametrize(
    ("runs", "fault"),
    [
        ("a: {provider: process, command: ['${var.txet}', '${var.text}']}", 'the variable txet is not known; did you mean "text"?'),
        ("a: {provider: process, env: {A: '${var.text}'}}", "runs.a.command: a process needs a command"),
        ("a: {provider: docker, env: {A: '${var.text}'}}", "runs.a: image is missing"),
        ("a: {provider: process, command: [x], timeout: '${var.text}', needs: [b]}", 'unknown run "b"'),
        ("a: {provider: process, command: ['${var.text}'], retries: many}", "runs.a.retries: must be a whole number"),
        ("a: {provider: process, command: [x], name: '${var.secret}'}", "the sensitive variable secret cannot be used here"),
        ("a: {provider: docker, image: 'a:b:c', timeout: '${var.text}'}", '"a:b:c" is not an image reference'),
    ],
)  # fmt: skip
def test_other_faults_are_told(tmp_path: Path, runs: str, fault: str) -> None:
    code, told = validate(tmp_path, f"runs:\n  {runs}\n")
    assert code == 7 and fault in told and told.count("\n") == 1


def test_values_that_are_given_are_checked(tmp_path: Path) -> None:
    runs = "runs:\n  a: {provider: process, command: [x], timeout: '${var.text}'}\n"
    code, told = validate(tmp_path, runs, "--var", "text=soon", "--var", "level=medium")
    assert code == 7 and "var.level: must be one of low, high" in told
    code, told = validate(tmp_path, runs, "--var", "text=soon")
    assert code == 7 and "runs.a.timeout: must be a duration" in told
