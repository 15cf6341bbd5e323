"""Files of every kind and size, and places that this user may not look into: told at once, with their place."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import FLOWPLAN, Project

SPEC = """\
flowplan: 1
project: demo
runs:
  a:
    provider: process
    command: ['true']
    env: {S: {from_file: secret}}
"""
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
MEGABYTE = 1 << 20


def special(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes({"too big": b"x" * (MEGABYTE + 1), "NUL": b"x" * 10 + b"\0"}[kind])


@pytest.mark.parametrize("kind", ["pipe", "directory", "device", "too big", "NUL"])
def test_a_secret_is_a_regular_file_of_bounded_size(project: Project, kind: str) -> None:
    project.write(SPEC)
    special(project.directory / "secret", kind)
    for command in (["plan"], ["apply", "--yes"]):
        told = project.ok(*command, code=7, timeout=30).err
        assert "flowplan.yaml:7:26: runs.a.env.S.from_file: the file secret " in told
    assert not (project.directory / ".flowplan").exists()


@pytest.mark.parametrize("kind", ["pipe", "directory", "device"])
@pytest.mark.parametrize("field", ["template: x", "kubernetes: {job: x}", "kubernetes: {customizations: x}"])
def test_files_that_a_spec_names_are_regular_files(project: Project, kind: str, field: str) -> None:
    project.write(f"flowplan: 1\nproject: p\nruns:\n  a: {{provider: kubernetes, image: i, command: [c], {field}}}\n")
    special(project.directory / "x", kind)
    told = project.ok("validate", code=7, timeout=30).err
    assert "flowplan.yaml:4:" in told and f"x: is a {kind}" in told


def test_a_spec_may_come_through_a_pipe_and_lies_where_we_are(project: Project) -> None:
    text = SPEC.replace("    env: {S: {from_file: secret}}\n", "")
    script = f'"{FLOWPLAN}" apply --yes <(printf %s "$SPEC")'
    done = subprocess.run(["bash", "-c", script], cwd=project.directory, env={**os.environ, "SPEC": text}, check=False)
    assert done.returncode == 0
    assert project.statuses() == {"a": "succeeded"}


def test_a_pipe_into_which_nobody_writes_is_not_waited_for(project: Project) -> None:
    os.mkfifo(project.directory / "pipe")
    project.write(SPEC)
    commands = (["validate", "pipe"], ["show", "pipe"], ["validate", "--var-file", "pipe"])
    for started in [project.start(*command) for command in commands]:
        assert "pipe" in started.communicate(timeout=60)[1]
        assert started.returncode == 7


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, to become another user")
def test_a_state_without_permission_is_an_error_and_never_nothing(project: Project) -> None:
    for directory in (project.directory, *project.directory.parents[:-1]):
        if not directory.stat().st_mode & 0o001:
            directory.chmod(0o755)
    project.write(SPEC.replace("    env: {S: {from_file: secret}}\n", "").replace("'true'", "sleep, '600'"))
    project.ok("apply", "--yes", "--detach")
    nobody = Project(project.directory, project.env, NOBODY)
    for command in (
        ["destroy", "--yes"],
        ["destroy", "--yes", "--if-exists"],
        ["apply", "--yes"],
        ["plan"],
        ["status"],
    ):
        told = nobody.ok(*command, code=1).err
        assert "Permission denied" in told and "Nothing to destroy" not in told
    assert project.statuses() == {"a": "running"}


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("ps", "flowplan status"),
        ("up", "flowplan apply"),
        ("plan -var x=1", "--var"),
        ("apply -auto-approve", "--yes"),
        ("plan --auto-approve", "--yes"),
        ("plan -f spec.yaml", "flowplan plan SPEC"),
        ("plan -out plan.json", "--out"),
        ("plan -out=plan.json", "--out"),
        ("plan -destroy", "--destroy"),
        ("apply -destroy", "flowplan destroy"),
        ("apply --destroy", "flowplan destroy"),
        ("plan -json", "--format json"),
        ("-version", "flowplan --version"),
        ("dag", "flowplan graph"),
        *((word, "flowplan destroy --target ADDR") for word in ("stop", "kill", "delete")),
        *((word, "flowplan apply --rerun ADDR") for word in ("rerun", "restart", "taint")),
        ("run", "flowplan apply"),
        ("version", "flowplan --version"),
        ("refresh", "flowplan plan --refresh-only"),
        ("output", "flowplan logs ADDR"),
    ],
)
def test_words_of_other_tools_are_answered_with_ours(project: Project, words: str, meant: str) -> None:
    assert f"write {meant}" in project.ok(*words.split(), code=7).err.replace("the spec without an option: ", "")


def test_an_option_of_ours_that_is_not_at_fault_is_not_corrected(project: Project) -> None:
    told = project.ok("logs", "-f", code=7).err
    assert "Missing argument 'ADDR'" in told and "write" not in told


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("runs: [{a: 1}]", "the run's name is the key"),
        ('variables: {tag: "1.4"}\nruns: {}', "write `tag: {default: ...}`"),
        ("runs: {a: {provider: process, command: [c], env: [A=1]}}", 'write `A: "1"`'),
        ("runs: {a: {provider: process, command: [echo, ${var.tag}]}}", "quote an expression"),
    ],
)
def test_shapes_of_other_tools_are_answered_with_ours(project: Project, written: str, hint: str) -> None:
    project.write(f"flowplan: 1\nproject: demo\n{written}\n")
    assert hint in project.ok("validate", code=7).err
