"""Bad input: a sentence with the place, the tabled exit code, nothing changed, no traceback."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import FLOWPLAN, Project, Result, until

HEAD = "flowplan: 1\nproject: demo\nruns:\n"
HELLO = HEAD + "  hello: {provider: process, command: [echo, hello world]}\n"


def refused(project: Project, *arguments: str, code: int = 7, **options: Any) -> str:
    """Return what a command says while it refuses: one error on stderr, nothing on stdout."""
    result = project.ok(*arguments, code=code, **options)
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert "defect" not in result.err
    return result.err


# -- the spec ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "flowplan.yaml:1:1: the file is empty"),
        ("# only a comment\n", "flowplan.yaml:1:1: the file is empty"),
        ("a: [1, 2\nb: }", r"flowplan.yaml:2:2: is not YAML: "),
        ("flowplan: 1\nruns:\n\ta: 1\n", r"flowplan.yaml:3:1: is not YAML: "),
        (b"flowplan: 1 # \xe4\n", r"flowplan.yaml:1:15: is not UTF-8 text"),
        (b"\x00\x01\xff\xfe", r"flowplan.yaml:1:\d+: "),
        ("- 1\n", "flowplan.yaml:1:1: must be a mapping, not a list"),
        ("hello\n", 'flowplan.yaml:1:1: must be a mapping, not "hello"'),
        (HELLO + "---\n" + HELLO, "flowplan.yaml:6:1: holds 2 YAML documents"),
        (HELLO + HELLO[len(HEAD) :], "flowplan.yaml:5:3: runs.hello: duplicate key; it is set in line 4 already"),
        ("a: &a [*a]\n", "flowplan.yaml:1:4: an alias refers to itself"),
        ("a: " + "[" * 5000 + "]" * 5000, r"flowplan.yaml:1:\d+: is not YAML: is nested deeper"),
        ("flowplan: 1\nproject: !!python/object/apply:os.getcwd []\n", "flowplan.yaml:2:10: project: has the unknown YAML tag"),
        ("flowplan: 2\nproject: demo\nruns: {}\n", "flowplan.yaml:1:11: flowplan: must be 1"),
        ("project: demo\nruns: {}\n", "flowplan.yaml:1:1: flowplan: is missing"),
        (HEAD + "  a:\n", "flowplan.yaml:4:5: runs.a: must be a mapping, not null"),
        (HEAD + "  a:\n    provider: process\n    command: 5\n", "flowplan.yaml:6:14: runs.a.command: must be a string or a list, not the number 5"),
        (HEAD + "  a:\n    provider: process\n    command: x\n    timeot: 5\n", 'flowplan.yaml:7:5: runs.a.timeot: unknown field; did you mean "timeout"?'),
        (HEAD + "  a: {provider: dokcer, image: x}\n", 'flowplan.yaml:4:17: runs.a.provider: unknown provider "dokcer"; did you mean "docker"?'),
        (HEAD + "  a: {provider: process, command: ['${var.nix}']}\n", r"flowplan.yaml:4:36: runs.a.command\[0\]: \$\{var.nix\}: the variable nix is not known"),
        (HEAD + "  abc: {provider: process, command: x}\n  b: {provider: process, command: x, needs: [abd]}\n", r'flowplan.yaml:5:46: runs.b.needs\[0\]: unknown run "abd"; did you mean "abc"?'),
        (HEAD + "".join(f"  {x}: {{provider: process, command: x, needs: [{y}]}}\n" for x, y in ("ab", "bc", "ca")), "flowplan.yaml:4:45: runs.a.needs: .* cycle: a -> b -> c -> a"),
        (HEAD + "  a: {provider: process, command: x, needs: [a]}\n", "flowplan.yaml:4:45: runs.a.needs: .* cycle: a -> a"),
        (HEAD + "  a: {provider: process}\n", "flowplan.yaml:4:3: runs.a.command: a process needs a command"),
        (HEAD + "  a: {provider: docker}\n", "flowplan.yaml:4:3: runs.a: image is missing"),
        (HEAD + "  a: {provider: docker, image: 'a:b:c'}\n", r'flowplan.yaml:4:\d+: runs.a.image: "a:b:c" is not an image reference'),
        (HEAD + "  a: {provider: docker, image: x, docker: {networks: [x], network_mode: host}}\n", r"flowplan.yaml:4:\d+: runs.a.docker.network_mode: network_mode and networks exclude each other"),
        (HEAD + "  a: {provider: process, command: x, matrix: {n: {from: 1, to: 100000000}}}\n", "flowplan.yaml:4:.*: the range has 100,000,000 values"),
    ],
)  # fmt: skip
def test_a_wrong_spec(project: Project, text: str | bytes, said: str) -> None:
    (project.directory / "flowplan.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    for command in (["validate"], ["plan"], ["apply", "--yes"], ["apply", "--yes", "flowplan.yaml"]):
        assert re.match(f"error: {said}", refused(project, *command)), said
    assert [p.name for p in project.directory.iterdir()] == ["flowplan.yaml"]


def test_all_faults_are_told_at_once_in_the_order_of_the_file(project: Project) -> None:
    project.write("""\
flowplan: 1
projct: demo
runs:
  a: {provider: proces, command: [echo], needs: [bb], retries: many}
  b: {provider: process, command: ['${var.nix}'], timeout: soon, env: [1]}
""")
    lines = refused(project, "validate").removeprefix("error: ").splitlines()
    assert [line.partition(": ")[2].partition(": ")[0] for line in lines] == [
        "project", "projct", "runs.a.provider", "runs.a.needs[0]", "runs.a.retries",
        "runs.b.command[0]", "runs.b.timeout", "runs.b.env",
    ]  # fmt: skip
    assert all(re.match(r"flowplan.yaml:\d+:\d+: ", line) for line in lines)


def test_faults_of_meaning_are_told_at_once_too(project: Project) -> None:
    project.write(
        HEAD
        + "  a: {provider: nix, command: x}\n  b: {provider: docker}\n  c: {provider: process, command: x, needs: [nix]}\n"
    )
    said = refused(project, "validate")
    assert [re.findall(r"^(?:error: )?flowplan.yaml:(\d+)", line) for line in said.splitlines()] == [
        ["4"],
        ["5"],
        ["6"],
    ]


def test_an_alias_bomb_is_refused_at_once_and_in_little_memory(project: Project) -> None:
    names = "abcdefghijklm"
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    bomb += "".join(f"{y}: &{y} [{','.join(['*' + x] * 10)}]\n" for x, y in pairwise(names))
    project.write(bomb)
    before = time.monotonic()
    done = subprocess.run(
        [FLOWPLAN, "validate"],
        cwd=project.directory,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20)),
    )
    assert time.monotonic() - before < 3  # of which the start of Python and a busy machine take the most
    assert done.returncode == 7 and "alias" in done.stderr and done.stderr.startswith("error: flowplan.yaml:")


@pytest.mark.parametrize("name", ["nowhere.yaml", "a directory"])
def test_a_spec_that_is_no_file(project: Project, name: str) -> None:
    (project.directory / "a directory").mkdir()
    for command in ("validate", "plan", "apply"):
        assert name in refused(project, command, name)


def test_a_spec_on_the_standard_input(project: Project) -> None:
    def given(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        options: Any = {"capture_output": True, "text": True, "timeout": 60, "cwd": project.directory}
        return subprocess.run([FLOWPLAN, *arguments, "-"], input=text, check=False, **options)

    (project.directory / "motto").write_text("beside nothing")
    spec = HELLO.replace("echo, hello world", "cat, motto")
    applied = given(spec, "apply", "--yes")
    assert (applied.returncode, applied.stdout) == (0, "hello | beside nothing\n")
    wrong = given(spec.replace("command", "comand"), "validate")
    assert wrong.returncode == 7 and wrong.stderr.startswith("error: <stdin>:")


def test_faults_of_a_file_that_the_spec_names_lead_there_from_where_the_user_is(project: Project) -> None:
    (project.directory / "sub").mkdir()
    (project.directory / "sub" / "job.yaml").write_text("apiVersion: batch/v1\nkind: Deployment\n")
    run = "  a: {provider: kubernetes, image: x, kubernetes: {job: job.yaml}}\n"
    (project.directory / "sub" / "flowplan.yaml").write_text(HEAD + run)
    assert refused(project, "validate", "sub/flowplan.yaml").startswith(
        "error: sub/job.yaml:2:1: runs.a: /kind: must be"
    )


def test_without_a_spec(project: Project) -> None:
    for command in (["validate"], ["plan"], ["apply"], ["apply", "--yes"]):
        assert "flowplan.yaml: there is no such file; name your spec, or" in refused(project, *command)
    (project.directory / "sub").mkdir()
    (project.directory / "sub" / "flowplan.yaml").write_text(HELLO)
    assert "write sub/flowplan.yaml" in refused(project, "plan", "sub")
    (project.directory / "sub" / "flowplan.yaml").unlink()
    (project.directory / "sub").rmdir()
    assert "make one with `flowplan plan`" in refused(project, "show")
    for command in (["status"], ["events"], ["logs", "a"], ["watch"], ["state", "list"]):
        assert "there is no state" in refused(project, *command, code=1)
    assert list(project.directory.iterdir()) == []


# -- what cannot be done -------------------------------------------------------------------------------------------


def test_an_unknown_address(project: Project) -> None:
    project.write(HELLO)
    for option in ("--target", "--exclude", "--rerun", "--allow-interrupt"):
        assert "helo" in refused(project, "plan", option, "helo")
    assert "helo" in refused(project, "apply", "--yes", "flowplan.yaml", "--target", "helo")
    project.ok("apply", "--yes", "flowplan.yaml")
    for command in (
        ["logs", "helo"],
        ["events", "helo"],
        ["status", "helo"],
        ["watch", "helo"],
        ["state", "show", "helo"],
    ):
        assert 'did you mean "hello"?' in refused(project, *command)
    assert "attempt 7 was never made" in refused(project, "logs", "hello", "--attempt", "7")
    assert project.statuses() == {"hello": "succeeded"}


def test_secrets_that_cannot_be_resolved_are_all_told_before_anything_starts(project: Project) -> None:
    project.write(
        HEAD + "  a: {provider: process, command: [touch, a], env: {A: {from_env: NIX_A}, B: {from_file: nix.txt}}}\n"
        "  b: {provider: process, command: [touch, b]}\n"
    )
    warned = [d["message"] for d in project.plan()["diagnostics"] if d["severity"] == "warning"]
    assert len(warned) == 2 and "NIX_A" in warned[0] + warned[1]
    for arguments in (["flowplan.yaml"], []):
        said = refused(project, "apply", "--yes", *arguments)
        assert "a: the environment variable NIX_A" in said and "a: the file nix.txt" in said
    assert not (project.directory / "a").exists() and not (project.directory / "b").exists()
    assert project.status() == {}


@pytest.mark.parametrize(
    ("fields", "reason", "code"),
    [
        ("command: [no-such-program]", "ExecutableNotFound", 127),
        ("command: [/etc/passwd]", "NotExecutable", 126),
        ("command: [echo], working_dir: nowhere", "WorkingDirectoryMissing", 127),
    ],
)
def test_what_a_process_lacks_is_in_the_plan_and_in_the_status(
    project: Project, fields: str, reason: str, code: int
) -> None:
    project.write(HEAD + f"  a: {{provider: process, {fields}}}\n  b: {{provider: process, command: [echo]}}\n")
    preflight = {c["address"]: [f["severity"] for f in c["preflight"]] for c in project.plan()["changes"]}
    assert preflight == {"a": ["error"], "b": []}
    project.ok("apply", "--yes", code=3)
    found = project.status()
    assert (found["a"]["status"], found["a"]["reason"], found["a"]["exit_code"]) == ("failed", reason, code)
    assert found["b"]["status"] == "succeeded"


def test_apply_without_approval_and_without_a_terminal(project: Project) -> None:
    project.write(HELLO)
    for command in (["apply"], ["apply", "flowplan.yaml"]):
        result = project.ok(*command, code=1)
        assert "needs approval" in result.err and "--yes" in result.err
    assert project.status() == {}
    project.ok("apply", "--yes")
    assert "needs approval" in project.ok("destroy", code=1).err
    assert project.statuses() == {"hello": "succeeded"}


def test_a_second_apply_at_the_same_time(project: Project) -> None:
    project.write(
        HEAD + "  slow: {provider: process, command: [sleep, '1']}\n"
        "  cell: {provider: process, command: [sh, -c, 'echo x >> ran'], matrix: {n: {from: 1, to: 300}}}\n"
    )
    applying = [project.start("apply", "--yes", "flowplan.yaml", "--no-stream", "--no-preflight") for _ in range(2)]
    errs = [a.communicate(timeout=60)[1] for a in applying]
    codes = sorted(a.returncode for a in applying)
    assert codes in ([0, 0], [0, 5]), errs
    if codes == [0, 5]:
        assert any("is locked by apply" in err and "pid" in err for err in errs)
    assert (project.directory / "ran").read_text().count("x") == 300


# -- the state -----------------------------------------------------------------------------------------------------


COMMANDS = (
    ["status"],
    ["events"],
    ["plan"],
    ["apply", "--yes", "flowplan.yaml"],
    ["destroy", "--yes"],
    ["state", "pull"],
)


def state_of(project: Project) -> Path:
    """Return the state after an apply, as one file."""
    project.write(HELLO)
    project.ok("apply", "--yes", "flowplan.yaml")
    path = project.directory / ".flowplan/state.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return path


def test_a_state_that_is_no_database(project: Project) -> None:
    path = state_of(project)
    for content, said in ((b"no database at all\n" * 500, "is not a database"), (b"", "is empty")):
        path.write_bytes(content)
        for command in COMMANDS:
            assert said in refused(project, *command, code=1)
        assert path.read_bytes() == content
    path.unlink()


def test_a_state_that_is_damaged(project: Project) -> None:
    path = state_of(project)
    whole = path.read_bytes()
    for content in (whole[:5000], whole[:4096] + bytes(b ^ 0x5A for b in whole[4096:])):
        path.write_bytes(content)
        for command in COMMANDS:
            assert "damaged" in refused(project, *command, code=1)
        assert path.read_bytes() == content
    path.unlink()


def test_a_state_from_a_newer_flowplan(project: Project) -> None:
    path = state_of(project)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    for command in COMMANDS:
        assert "was written by a newer flowplan" in refused(project, *command, code=1)
    path.unlink()


def test_a_state_that_is_a_directory(project: Project) -> None:
    project.write(HELLO)
    for command in COMMANDS:
        assert "not a regular file" in refused(project, *command, "--state", ".", code=1)


def unprivileged(project: Project, *arguments: str) -> Result:
    """Run without the right to overlook permissions, which root has."""
    words = [FLOWPLAN, *arguments]
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("root overlooks permissions, and there is no setpriv")
        words = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *words]
    done = subprocess.run(
        words, cwd=project.directory, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert "Traceback" not in done.stderr and "defect" not in done.stderr
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("directory_mode", [0o700, 0o500])
def test_a_state_that_may_only_be_read(project: Project, directory_mode: int) -> None:
    path = state_of(project)
    before = path.read_bytes()
    path.chmod(0o400)
    path.parent.chmod(directory_mode)
    try:
        assert "hello" in unprivileged(project, "status").out
        assert unprivileged(project, "logs", "hello").out == "hello world\n"
        for command in (["apply", "--yes", "flowplan.yaml"], ["destroy", "--yes"], ["state", "rm", "hello"]):
            result = unprivileged(project, *command)
            assert result.code == 1 and ("read-only" in result.err or "Permission denied" in result.err)
        assert path.read_bytes() == before
    finally:
        path.parent.chmod(0o700)
        path.chmod(0o600)
    assert project.statuses() == {"hello": "succeeded"}


def test_a_directory_where_no_state_can_be_made(project: Project) -> None:
    project.write(HELLO)
    nowhere = project.directory / "nowhere"
    nowhere.mkdir(mode=0o500)
    for command in (["plan"], ["apply", "--yes", "flowplan.yaml"]):
        result = unprivileged(project, *command, "--state", "nowhere/state.db")
        assert result.code == 1 and "nowhere/state.db" in result.err and "Permission denied" in result.err
    assert list(nowhere.iterdir()) == []


# -- plan files ----------------------------------------------------------------------------------------------------


def test_a_plan_file_that_is_broken_old_or_edited(project: Project) -> None:
    project.write(HELLO)
    project.ok("plan", "--out", "good.json")
    good = (project.directory / "good.json").read_text()
    document = json.loads(good)
    edited = {key: json.dumps({**document, key: value}) for key, value in {
        "project": "other", "mode": "destroy", "providers": {"process": {"type": "docker"}}, "digest": "sha256:0",
        "secrets": {}, "spec": {"path": "/etc/passwd", "digest": "x"}, "changes": [],
    }.items() if document.get(key) != value}  # fmt: skip
    broken = {
        "empty": "", "half": good[:500], "list": "[]", "null": "null", "nothing": "{}", "text": "flowplan: 1",
        "newer": good.replace('"format_version": "1.0"', '"format_version": "2.0"'),
        "older": good.replace('"format_version": "1.0"', '"format_version": "0.9"'),
        "argv": good.replace("hello world", "rm -rf"), **edited,
    }  # fmt: skip
    for name, text in broken.items():
        assert text != good
        project.write(text, "bad.json")
        code = 4 if name in {*edited, "argv"} else 7
        for command in (["apply", "bad.json", "--yes"], ["plan", "--check", "bad.json"]):
            assert "bad.json" in refused(project, *command, code=code), name
        said = project.ok("show", "bad.json", code=code)
        assert "bad.json" in said.out + said.err and "To do exactly this" not in said.out, name
    assert "2.0" in refused_of(project, broken["newer"])
    assert "edited" in refused_of(project, broken["argv"], code=4)
    (project.directory / "bad.json").write_bytes(b"\xff\xfe\x00")
    refused(project, "apply", "bad.json", "--yes")
    refused(project, "apply", "missing.json", "--yes")
    assert project.status() == {}
    project.ok("apply", "good.json", "--yes")


def refused_of(project: Project, text: str, **options: Any) -> str:
    project.write(text, "bad.json")
    return refused(project, "apply", "bad.json", "--yes", **options)


def test_a_plan_of_another_state(project: Project) -> None:
    project.write(HELLO)
    project.ok("plan", "--out", "plan.json")
    assert "there is no state" in refused(project, "apply", "plan.json", "--yes", "--state", "other.db", code=1)
    project.ok("plan", "--state", "other.db")
    assert "another state" in refused(project, "apply", "plan.json", "--yes", "--state", "other.db", code=4)
    assert project.ok("status", "--state", "other.db", "--format", "json").json["runs"] == []


# -- variables and options -----------------------------------------------------------------------------------------

VARIABLES = """\
flowplan: 1
project: demo
variables:
  n: {type: number}
  b: {type: bool, default: true}
  l: {type: list, default: [1]}
  e: {type: string, enum: [x, y], default: x}
  p: {type: string, pattern: '[a-z]+', default: abc}
runs:
  a: {provider: process, command: [echo, '${var.n}', '${var.b}', '${var.e}', '${var.p}']}
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--var", "n"], '--var: "n" has no value; write NAME=VALUE'),
        ([], "var.n: the variable has no value"),
        (["--var", "n=abc"], 'var.n: must be a number, not "abc"; it comes from --var'),
        (["--var", "n=1", "--var", "tga=1"], "--var tga: the spec declares no such variable"),
        (["--var", "n=1", "--var", "b=maybe"], "var.b: must be true or false"),
        (["--var", "n=1", "--var", "l=x"], "var.l: must be a list"),
        (["--var", "n=1", "--var", "e=z"], "var.e: must be one of x, y"),
        (["--var", "n=1", "--var", "p=A1"], "var.p: must match the pattern"),
        (["--var-file", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["--var-file", "flowplan.yaml"], "flowplan.yaml:1:1: flowplan: the spec declares no such variable"),
    ],
)
def test_wrong_variables(project: Project, arguments: list[str], said: str) -> None:
    project.write(VARIABLES)
    for command in ("validate", "plan") if arguments else ("plan",):  # to validate, types are enough
        assert said in refused(project, command, *arguments)
    assert [p.name for p in project.directory.iterdir()] == ["flowplan.yaml"]


def test_a_wrong_variable_of_the_environment_is_told_with_its_name(project: Project) -> None:
    project.write(VARIABLES)
    assert "FLOWPLAN_VAR_n" in refused(project, "plan", env={"FLOWPLAN_VAR_n": "x"})


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "--format", "nonsense"], ["status", "--format", "markdown"], ["plan", "--context", "-1"],
        ["apply", "--parallelism", "0"], ["apply", "--parallelism", "x"], ["apply", "--wait-timeout", "soon"],
        ["apply", "--lock-timeout", "x"], ["logs", "a", "--tail", "-1"], ["logs", "a", "--tail", "x"],
        ["plan", "a", "b"], ["--nope"], ["plan", "--nope"], ["nope"], [], ["state"], ["state", "nope"], ["schema", "nope"],
        ["init", "--provider", "nope"], ["state", "rm"], ["logs"], ["state", "mv", "a"],
        ["plan", "--destroy", "--refresh-only"], ["plan", "--max-age", "x"],
    ],
)  # fmt: skip
def test_wrong_options_are_usage_errors(project: Project, arguments: list[str]) -> None:
    project.write(HELLO)
    result = project.ok(*arguments, code=7)
    assert result.out == "" and result.err
    assert "defect" not in result.err
    if arguments != ["plan", "--max-age", "x"]:
        assert [p.name for p in project.directory.iterdir()] == ["flowplan.yaml"]


# -- places to write to --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--out", "--json-into", "--summary-file"])
def test_a_file_that_cannot_be_written(project: Project, option: str) -> None:
    project.write(HELLO)
    (project.directory / "directory").mkdir()
    for name in ("directory", "/proc/nowhere/plan", "flowplan.yaml/plan"):
        result = project.ok("plan", option, name, code=7)
        assert name in result.err and "defect" not in result.err


@pytest.mark.parametrize("option", ["--out", "--json-into"])
def test_a_device_is_written_to_and_stays_a_device(project: Project, option: str) -> None:
    project.write(HELLO)
    pipe = project.directory / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    project.ok("plan", option, "pipe")
    assert json.loads(os.read(reading, 1 << 16))["project"] == project.name
    os.close(reading)
    assert pipe.is_fifo()


def shell(project: Project, line: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Return a line of a shell, in which ``fp`` is flowplan."""
    script = f'fp() {{ "{FLOWPLAN}" "$@"; }}\n{line}'
    words = ["bash", "-o", "pipefail", "-c", script]
    done = subprocess.run(
        words,
        cwd=project.directory,
        env={**os.environ, "NO_COLOR": "1", **env},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert b"Traceback" not in done.stderr and b"defect" not in done.stderr and b"Exception" not in done.stderr
    return done


MANY = HEAD + "  a: {provider: process, command: [echo, hi], matrix: {n: {from: 1, to: 500}}}\n"


@pytest.mark.parametrize(
    "command", ["plan --full", "plan --format json", "plan --format markdown", "--help", "schema spec"]
)
def test_a_reader_that_goes_away(project: Project, command: str) -> None:
    project.write(MANY)
    done = shell(project, f"fp {command} | head -1")
    assert done.returncode == 0 and done.stdout.count(b"\n") == 1 and done.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    "command",
    [
        "--version",
        "--help",
        "schema",
        "validate",
        "plan",
        "plan --format json",
        "status",
        "events",
        "logs hello",
        "apply --yes flowplan.yaml --rerun hello",
    ],
)
def test_a_full_disk_under_stdout_is_told_and_is_no_success(project: Project, command: str) -> None:
    project.write(HELLO)
    project.ok("apply", "--yes", "flowplan.yaml")
    done = shell(project, f"fp {command} > /dev/full")
    assert done.returncode == 1
    assert b"the output could not be written: No space left on device" in done.stderr
    assert project.statuses() == {"hello": "succeeded"}


def test_messages_come_again_once_a_full_disk_has_room(project: Project) -> None:
    script = """
import resource, signal
from flowplan.output import Output
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
Output().note("while there is no room")
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
Output().note("afterwards")
"""
    log = project.directory / "log"
    with log.open("w") as file:
        subprocess.run([sys.executable, "-c", script], stderr=file, check=True)
    assert log.read_text().endswith("afterwards\n")


def test_closed_standard_streams(project: Project) -> None:
    project.write(HELLO)
    for closed in (">&-", "2>&-", "<&-", ">&- 2>&- <&-"):
        for command in (
            "--version",
            "validate",
            "plan",
            "apply --yes flowplan.yaml --rerun hello",
            "status",
            "logs hello",
        ):
            if "--rerun" in command and not (project.directory / ".flowplan/state.runs").exists():
                command = "apply --yes flowplan.yaml"
            assert shell(project, f"fp {command} {closed}").returncode == 0, (command, closed)
    assert project.statuses() == {"hello": "succeeded"}
    assert project.status()["hello"]["attempt"] == 4


# -- text of every kind --------------------------------------------------------------------------------------------

ODD = """\
flowplan: 1
project: demo
runs:
  naïve-日本: {provider: process, command: [echo, "héllo 日本"], description: "\\e[31mred\\e[0m"}
  raw: {provider: process, command: [printf, '\\033]0;title\\007\\033[2J\\377\\376end\\n']}
"""


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_a_locale_that_knows_no_umlauts(project: Project, locale: dict[str, str]) -> None:
    (project.directory / "flowplan.yaml").write_text(ODD, encoding="utf-8")
    assert shell(project, "fp validate", **locale).returncode == 0
    for form in ("text", "json", "markdown"):
        assert shell(project, f"fp plan --format {form}", **locale).returncode == 0
    applied = shell(project, "fp apply --yes flowplan.yaml", **locale)
    assert applied.returncode == 0
    status = json.loads(shell(project, "fp status --format json", **locale).stdout)
    assert [r["address"] for r in status["runs"]] == ["naïve-日本", "raw"]
    for line in shell(project, "fp events --format json", **locale).stdout.splitlines():
        assert json.loads(line)["address"] in ("naïve-日本", "raw")
    assert shell(project, "fp status", **locale).returncode == 0


def test_escape_sequences_reach_no_terminal_nor_plan(project: Project) -> None:
    (project.directory / "flowplan.yaml").write_text(ODD.replace("héllo", "\\e[2J"), encoding="utf-8")
    for command in (
        "plan",
        "plan --full",
        "plan --format markdown",
        "plan --format json",
        "apply --yes flowplan.yaml",
        "status",
        "events",
    ):
        done = shell(project, f"fp {command}")
        assert done.returncode == 0
        assert b"\x1b" not in done.stdout + done.stderr, command
    told = shell(project, "fp apply --yes flowplan.yaml --rerun raw").stdout
    assert b"raw | " in told and b"title" not in told and b"\x1b" not in told
    lines = [json.loads(line) for line in project.ok("logs", "raw", "--format", "json").out.splitlines()]
    assert lines[-1]["text"].endswith("end")


def test_much_output_and_very_long_lines(project: Project) -> None:
    script = 'head -c 1048576 /dev/zero | tr "\\\\0" x; echo; head -c 1048576 /dev/zero | tr "\\\\0" y | fold -w 80; echo; echo end'
    project.write(HEAD + f"  big: {{provider: process, command: [sh, -c, '{script}']}}\n".replace("\\\\", "\\"))
    applied = project.ok("apply", "--yes", "flowplan.yaml")
    lines = applied.out.splitlines()
    assert sum(len(line) - len("big | ") for line in lines if line.endswith("x")) == 1048576
    assert lines[-1] == "big | end"
    assert project.ok("logs", "big").out.count("y") == 1048576
    assert project.ok("logs", "big", "--tail", "1").out == "end\n"
    shown = project.ok("state", "show", "big").out
    assert len(shown) < 200_000


def test_paths_with_spaces_from_elsewhere(project: Project) -> None:
    place = project.directory / "a place/späces"
    place.mkdir(parents=True)
    (place / "rel.txt").write_text("relative\n")
    (place / "my spec.yaml").write_text(
        HEAD + "  a: {provider: process, command: [cat, rel.txt]}\n"
        "  b: {provider: process, command: [sh, -c, 'test \"$S\" = relative'], env: {S: {from_file: rel.txt}}}\n"
    )
    spec = "a place/späces/my spec.yaml"
    (project.directory / "deep/er").mkdir(parents=True)
    applied = project.ok("apply", "--yes", spec, "--state", "deep/er/my state.db", "--no-stream")
    assert "a: succeeded" in applied.err and "b: succeeded" in applied.err
    assert (project.directory / "deep/er/my state.db").stat().st_mode & 0o777 == 0o600
    assert not (project.directory / ".flowplan").exists()
    project.ok("plan", spec, "--detailed-exitcode", env={"FLOWPLAN_STATE": "deep/er/my state.db"})
    project.ok("status", env={"FLOWPLAN_STATE": "deep/er/my state.db"})
    project.ok("plan", spec, "--out", "a place/my plan.json", "--state", "deep/er/my state.db")
    project.ok("apply", "a place/my plan.json", "--yes", "--state", "deep/er/my state.db")
    assert project.ok("logs", "a", "--state", "deep/er/my state.db").out == "relative\n"


def test_an_almost_empty_environment(project: Project) -> None:
    project.write(HELLO)
    for command in ("validate", "plan", "apply --yes flowplan.yaml", "status", "logs hello", "destroy --yes"):
        done = shell(project, f'env -i "{FLOWPLAN}" {command}')
        assert done.returncode == 0, done.stderr


def test_ctrl_c_while_planning_is_no_traceback(project: Project) -> None:
    project.write(MANY.replace("500", "20000"))
    planning = project.start("plan", "--format", "json")
    until(lambda: (project.directory / ".flowplan/state.db").exists() or planning.poll() is not None)
    planning.send_signal(signal.SIGINT)
    _, err = planning.communicate(timeout=30)
    assert planning.returncode in (130, 0, -signal.SIGINT)
    assert "Traceback" not in err
