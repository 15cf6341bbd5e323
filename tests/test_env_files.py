"""Files of variables: how they are read, what they are below, and that their values are secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from projects import Project

from flowplan.resolve import lookup
from flowplan.schemas.env_files import EnvFile, sources, variables
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.load import load_spec
from flowplan.schemas.secrets import SecretSource

HEAD = "flowplan: 1\nproject: p\nruns:\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("# a comment\n\n  # another\n", {}),
        ("A=1\nB=2\r\n", {"A": "1", "B": "2"}),
        ("A=\nB=''\n", {"A": "", "B": ""}),
        ("A = x y \n", {"A": "x y"}),
        ("A=x # a comment\nB=x#y\n", {"A": "x", "B": "x#y"}),
        ('A="x # y" # z\n', {"A": "x # y"}),
        ("export A=1\n", {"A": "1"}),
        ("A=\"1\\n2\"\nB='1\\n2'\nC=1\\n2\n", {"A": "1\n2", "B": "1\\n2", "C": "1\\n2"}),
        ('A="say \\"hi\\""\n', {"A": 'say "hi"'}),
        ("A='one\ntwo'\n", {"A": "one\ntwo"}),
        ("A=$B\nC=\"${B}\"\nD='$(x)'\n", {"A": "$B", "C": "${B}", "D": "$(x)"}),
        ("A\nB=1\n", {"A": None, "B": "1"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("A.B-c=1\n", {"A.B-c": "1"}),
        ("\ufeffA=1\n", {"A": "1"}),
        ("A=ä=b\n", {"A": "ä=b"}),
    ],
)
def test_what_a_file_says(text: str, found: dict[str, str | None]) -> None:
    assert variables(text, "f") == found


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("A=1\n\ntwo hunter2 words\n=hunter2\n", [3, 4]),
        ('A="hunter2\nB=1\n', [1]),
        ("A: hunter2\n", [1]),
        ("9A=hunter2\n", [1]),
        ("A=hunter2\0\n", [1]),
    ],
)
def test_every_wrong_line_is_told_and_none_is_shown(text: str, lines: list[int]) -> None:
    with pytest.raises(InvalidInput) as caught:
        variables(text, "f")
    assert [d.position.line for d in caught.value.diagnostics if d.position] == lines
    assert "hunter2" not in str(caught.value)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        variables(text, "f")
    except InvalidInput as error:
        assert str(error).startswith("f:")


def test_where_values_come_from(tmp_path: Path) -> None:
    (tmp_path / "f.env").write_text("A=1\nB\n")
    found = sources("A=1\nB\n", EnvFile("f.env"))
    assert found == {"A": SecretSource("env_file", "f.env#A"), "B": SecretSource("from_env", "B")}
    assert lookup(found["A"], tmp_path) == "1"
    assert lookup(SecretSource("env_file", "f.env#C"), tmp_path) is None
    assert lookup(SecretSource("env_file", "none.env#A"), tmp_path) is None


def env(project: Project) -> dict[str, str]:
    """Return the environment that the plan of the one run shows."""
    [change] = project.plan(env={"GIVEN": "from outside"})["changes"]
    shown: dict[str, str] = change["after"]["Process"]["env"]
    return shown


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "a.env").write_text("A=from a\nB=from a\nC=from a\nD=from a\n")
    (tmp_path / "b.env").write_text("B=from b\nGIVEN\n")
    return Project(tmp_path, {"NO_COLOR": "1"})


def run(project: Project, fields: str, top: str = "", command: str = "['true']") -> None:
    project.write(f"flowplan: 1\nproject: p\n{top}runs:\n  a: {{provider: process, command: {command}, {fields}}}\n")


def test_later_files_win_and_env_wins_over_all(project: Project) -> None:
    run(project, "env_file: [a.env, b.env], env: {C: plain, D: null}")
    shown = env(project)
    assert shown["C"] == "plain" and shown["D"] is None
    assert shown["A"].startswith("(sensitive env_file:a.env#A ")
    assert shown["B"].startswith("(sensitive env_file:b.env#B ")
    assert shown["GIVEN"].startswith("(sensitive env:GIVEN ")


def test_files_of_the_defaults(project: Project) -> None:
    run(project, "env: {A: own}", top="defaults: {env_file: a.env, env: {B: default}}\n")
    shown = env(project)
    assert (shown["A"], shown["B"]) == ("own", "default") and "a.env#C" in shown["C"]
    run(project, "env_file: b.env", top="defaults: {env_file: a.env}\n")
    assert set(env(project)) == {"B", "GIVEN"}, "as with every list, that of the run replaces the default"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ("env_file: none.env", "flowplan.yaml:4:55: runs.a.env_file: none.env: there is no such file"),
        ("env_file: [a.env, none.env]", "flowplan.yaml:4:63: runs.a.env_file[1]: none.env: there is no such file"),
        ("env_file: broken.env", "broken.env:2:1: is no variable"),
        ("env_file: '${var.x}.env'", "the name of a file cannot hold an expression"),
        ("env_file: 3", "runs.a.env_file: must be"),
        (
            "env_file: [{path: none.env, track: false}]",
            "4:63: runs.a.env_file[0].path: none.env: there is no such file",
        ),
        ("env_file: {file: a.env}", "runs.a.env_file.file: unknown field"),
        ("env_file: {path: a.env, track: false, sensitive: false}", "runs.a.env_file: track: false is for secrets"),
        (
            "env: {K: {secret_key_ref: {name: a, key: b}, track: false}}",
            "takes no track: the value behind secret_key_ref",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_told_with_its_place(project: Project, fields: str, told: str) -> None:
    (project.directory / "broken.env").write_text("A=1\nhunter2 hunter2\n")
    run(project, fields)
    refused = project.ok("validate", code=7)
    assert told in refused.err and "hunter2" not in refused.err


def test_the_digest_of_a_spec_is_no_oracle_for_values(project: Project) -> None:
    run(project, "env_file: a.env")
    path = project.directory / "a.env"
    one = load_spec(project.directory / "flowplan.yaml").digest
    path.write_text(path.read_text().replace("from a", "other"))
    assert load_spec(project.directory / "flowplan.yaml").digest == one
    path.write_text("NEW=1\n")
    assert load_spec(project.directory / "flowplan.yaml").digest != one


def test_a_plan_with_another_value_is_stale_and_the_next_one_says_what_changed(project: Project) -> None:
    run(project, "env_file: a.env")
    project.ok("apply", "--yes")
    path = project.directory / "a.env"
    path.write_text(path.read_text().replace("A=from a", "A=changed"))
    assert project.actions("--out", "p.json") == {"a": "replace"}
    [change] = project.plan()["changes"]
    assert [field["path"] for field in change["fields"]] == ["/Process/env/A"]
    path.write_text("A=changed again\nB=from a\nC=from a\nD=from a\n")
    assert "a.env#A" in project.ok("apply", "--yes", "p.json", code=4).err
    path.write_text("B=from a\n")
    assert "has no variable A any more" in project.ok("apply", "--yes", "p.json", code=7).err


def test_a_file_of_what_is_no_secret(project: Project) -> None:
    (project.directory / "a.env").write_text('A="${var.x} $B"\nGIVEN\n')
    run(project, "env_file: {path: a.env, sensitive: false}")
    shown = env(project)
    assert shown["A"] == "${var.x} $B" and shown["GIVEN"].startswith("(sensitive env:GIVEN ")
    before = load_spec(project.directory / "flowplan.yaml").digest
    (project.directory / "a.env").write_text("A=1\nGIVEN\n")
    assert load_spec(project.directory / "flowplan.yaml").digest != before


def test_what_is_not_tracked_changes_no_run_and_no_reviewed_plan(project: Project) -> None:
    fields = (
        "env_file: {path: a.env, track: false}, env: {T: {from_env: T, track: false}, F: {from_file: f, track: false}}"
    )
    run(project, fields.replace(", track: false", ""))
    secret = project.directory / "f"
    secret.write_text("of a file, one")
    project.ok("apply", "--yes", env={"T": "token one"})

    run(project, fields, command="[sh, -c, 'echo is $T. $A. $F.']")
    [change] = project.plan("--out", "p.json", env={"T": "token two"})["changes"]
    assert [field["path"] for field in change["fields"]] == ["/Process/argv"]
    assert change["after"]["Process"]["env"]["T"] == "(sensitive env:T untracked)"
    secret.write_text("of a file, two")
    (project.directory / "a.env").write_text("A=rotated\nB=\nC=\nD=\n")
    applied = project.ok("apply", "--yes", "p.json", env={"T": "token three"})
    assert "is (sensitive). (sensitive). (sensitive)." in applied.out, "the newest values are used, and hidden"
    secret.write_text("of a file, three")
    assert project.actions(env={"T": "token four"}) == {"a": "no-op"}
    assert "T (from_env) is not set" in project.ok("apply", "--yes", "--rerun", "a", code=7).err
    run(project, fields)
    assert [f["path"] for c in project.plan(env={"T": "x"})["changes"] for f in c["fields"]] == ["/Process/argv"]
