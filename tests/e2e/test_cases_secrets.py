"""Cases of secrets and of what runs print: how fast, in which forms, what a plan tells of them, what looks like a mistake."""

from __future__ import annotations

import json
import re
from datetime import datetime

import pytest
from projects import Project

PIN = """\
flowplan: 1
project: case-rs-13
variables:
  g: {type: list, sensitive: true, default: [GUESSES]}
runs:
  a:
    provider: process
    command: ["true", GUESSES]
    env: {PIN: {from_env: CI_PIN}, FILE: {from_file: guess.txt}, COPY: {from_env: CI_PIN_COPY}, REST}
"""


def test_a_plan_confirms_no_guess(project: Project) -> None:
    """Of an author who can plan, and knows nothing but guesses of a number in the environment of whoever plans."""
    numbers = [f"{number:04d}" for number in range(4200, 4300)]
    rest = ", ".join(f'G{n}: "${{var.g[{n}]}}", P{n}: "{number}"' for n, number in enumerate(numbers))
    guesses = ", ".join(f'"{number}"' for number in numbers)
    project.write(PIN.replace("GUESSES", guesses).replace("REST", rest))
    project.write("4242", "guess.txt")
    given = {"CI_PIN": "4242", "CI_PIN_COPY": "4242"}
    for form in (["--full"], ["--format", "json"], ["--format", "markdown"], ["--full", "--explain"]):
        told = project.ok("plan", *form, env=given).out
        assert "4242" in told and "(sensitive)" not in told, "what the author wrote is shown as written"
        marks = re.findall(r"\(sensitive ([^()\s]+) ([0-9a-f]{16})\)", told)
        by_mark: dict[str, set[str]] = {}
        for label, mark in marks:
            by_mark.setdefault(mark, set()).add(label)
        (of_pin,) = {mark for label, mark in marks if label == "env:CI_PIN"}
        assert by_mark[of_pin] == {"env:CI_PIN"}
    assert re.findall(r"env:CI_PIN [0-9a-f]{16}", project.ok("plan", env=given).out)


WORDS = [
    "name",
    "run",
    "1",
    "create",
    "action",
    "format_version",
    "true",
    "process",
    "status",
    "text",
    "succeeded",
    "a",
]


def test_a_secret_that_is_a_common_word_destroys_no_document(project: Project) -> None:
    env = ", ".join(f"S{n}: {{from_env: IN{n}}}" for n in range(len(WORDS)))
    script = "echo name is status; echo 'succeeded 1 text'"
    project.write(
        f"flowplan: 1\nproject: words\nruns: {{a: {{provider: process, command: [sh, -c, {json.dumps(script)}], env: {{{env}}}}}}}\n"
    )
    given = {f"IN{n}": word for n, word in enumerate(WORDS)}
    plan = json.loads(project.ok("plan", "--format", "json", env=given).out)
    assert plan["changes"][0]["action"] == "create" and plan["changes"][0]["provider"] == "process"
    applied = project.ok("apply", "--yes", "--format", "json", env=given)
    events = [json.loads(line) for line in applied.out.splitlines()]
    assert [event["status"] for event in events][-1] == "succeeded" and {event["address"] for event in events} == {"a"}
    assert "too short or too common" in applied.err and "IN0" in applied.err
    status = json.loads(project.ok("status", "--format", "json").out)
    assert status["runs"][0]["status"] == "succeeded"
    lines = [json.loads(line) for line in project.ok("logs", "a", "--format", "json").out.splitlines()]
    assert [line["text"] for line in lines] == ["(sensitive) is (sensitive)", "(sensitive) 1 (sensitive)"]


@pytest.mark.parametrize("secret", ["p@ss\"wo\\rd'x/+&=$y z!", "simple-Token_123"])
def test_the_output_of_a_run_shows_no_form_of_its_secret(project: Project, secret: str) -> None:
    forms = (
        "import os,json,base64,urllib.parse as u,shlex; s=os.environ['S']; print(s, json.dumps(s), json.dumps(json.dumps(s)), repr(s.encode()),"
        "u.quote(s, safe=''), u.quote(u.quote(s, safe='')), shlex.quote(s), base64.b64encode(b'u:' + s.encode()).decode(), s.encode().hex(), sep='\\n')"
    )
    project.write(
        f"flowplan: 1\nproject: forms\nruns: {{a: {{provider: process, command: [python3, -c, {json.dumps(forms)}], env: {{S: {{from_env: IN}}}}}}}}\n"
    )
    told = project.ok("apply", "--yes", env={"IN": secret}).out.splitlines()
    assert len(told) == 9 and all("(sensitive)" in line and len(line) < 30 for line in told), told


def test_a_run_with_a_secret_writes_quickly(project: Project) -> None:
    """It was a hundred times slower than one without; `make bench` has the figure, a loaded machine needs room."""
    script = "yes 'a line of output that is some 60 characters long, again and again' | head -c 60000000"
    project.write(
        f"flowplan: 1\nproject: quick\ndefaults: {{provider: process, command: [sh, -c, {json.dumps(script)}]}}\n"
        "runs: {plain: {}, secret: {env: {S: {from_env: IN}}}}\n"
    )
    seconds: dict[str, list[float]] = {"plain": [], "secret": []}
    for name in ("plain", "secret") * 3:
        project.ok(
            "apply",
            "--yes",
            "--no-stream",
            "--target",
            name,
            "--rerun",
            name,
            "flowplan.yaml",
            env={"IN": "verysecretvalue"},
        )
        run = project.status()[name]
        ends = (datetime.fromisoformat(run[key]) for key in ("finished_at", "started_at"))
        seconds[name].append((next(ends) - next(ends)).total_seconds())
    assert min(seconds["secret"]) < 4 * min(seconds["plain"]), seconds
