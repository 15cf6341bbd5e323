"""Where the state lies: beside the spec, found from below, announced when it is new, never made by mistake."""

from __future__ import annotations

import html
import shutil
from pathlib import Path

import pytest
from conftest import Project

SPEC = """\
flowplan: 1
project: demo
runs:
  load: {provider: process, command: [sh, -c, 'echo loaded >> loads']}
"""
LOOKS = (["status"], ["events"], ["logs", "load"], ["show"], ["watch"], ["state", "list"], ["state", "pull"])


def loads(directory: Path) -> int:
    return len((directory / "loads").read_text().splitlines())


def inside(project: Project, name: str) -> Project:
    """Return the same user in a directory below."""
    place = project.directory / name
    place.mkdir(parents=True, exist_ok=True)
    return Project(place, project.env)


def test_a_spec_has_one_state_wherever_it_is_applied_from(project: Project) -> None:
    proj, home = inside(project, "proj"), inside(project, "home")
    spec = proj.write(SPEC)
    proj.ok("apply", "--yes")
    home.ok("apply", "--yes", "../proj/flowplan.yaml")
    home.ok("apply", "--yes", str(spec))
    inside(proj, "deep/er").ok("apply", "--yes")
    assert loads(proj.directory) == 1
    assert list(home.directory.iterdir()) == []
    assert [p.name for p in proj.directory.glob("**/.flowplan")] == [".flowplan"]
    assert proj.ok("apply", "--yes", "--rerun", "load").code == 0
    assert loads(proj.directory) == 2


@pytest.mark.parametrize("command", LOOKS, ids=" ".join)
def test_commands_without_a_spec_find_the_state_from_below(project: Project, command: list[str]) -> None:
    project.write(SPEC)
    project.ok("plan")
    project.ok("apply", "--yes", "flowplan.yaml")
    assert inside(project, "a/b").ok(*command).out == project.ok(*command).out


def test_plan_validate_and_destroy_find_the_project_from_below(project: Project) -> None:
    project.write(SPEC)
    below = inside(project, "a/b")
    below.ok("validate")
    below.ok("plan", "--detailed-exitcode", code=2)
    below.ok("apply", "--yes")
    assert loads(project.directory) == 1
    below.ok("destroy", "--yes")
    assert project.status() == {}
    assert list(below.directory.iterdir()) == []


def test_the_nearest_project_counts(project: Project) -> None:
    project.write(SPEC)
    inner = inside(project, "inner")
    inner.write(SPEC.replace("demo", "inner"))
    inside(inner, "deep").ok("apply", "--yes")
    assert (inner.directory / ".flowplan/state.db").exists()
    assert not (project.directory / ".flowplan").exists()


@pytest.mark.parametrize("form", ["text", "json", "markdown"])
def test_a_new_state_is_announced_in_every_form_until_something_is_recorded(project: Project, form: str) -> None:
    project.write(SPEC)
    said = f"New state: {project.directory}/.flowplan/state.db"
    first = project.ok("plan", "--format", form)
    assert said.replace(" ", "") in "".join(html.unescape(first.out).split())
    again = project.ok("plan", "--format", form)
    assert again.out == first.out
    project.ok("apply", "--yes")
    assert "New state" not in project.ok("plan", "--format", form).out


def test_a_spec_with_faults_makes_nothing(project: Project) -> None:
    project.write("flowplan: 1\nruns: [")
    project.ok("plan", code=7)
    project.ok("apply", "--yes", code=7)
    assert [p.name for p in project.directory.iterdir()] == ["flowplan.yaml"]


@pytest.mark.parametrize("command", [["plan"], ["apply", "--yes"], ["destroy", "--yes"], *LOOKS], ids=" ".join)
@pytest.mark.parametrize("named", ["option", "environment"])
def test_a_state_in_a_directory_that_is_not_there(project: Project, command: list[str], named: str) -> None:
    project.write(SPEC)
    option = ["--state", "sate/prod.db"] if named == "option" else []
    env = {} if option else {"FLOWPLAN_STATE": "sate/prod.db"}
    told = project.ok(*command, *option, code=7, env=env).err
    assert f"{project.directory}/sate" in told
    assert [p.name for p in project.directory.iterdir()] == ["flowplan.yaml"]


@pytest.mark.parametrize("command", [["plan"], ["apply", "--yes"], ["apply", "--yes", "flowplan.yaml"]], ids=" ".join)
@pytest.mark.parametrize("wanted", ["option", "environment"])
def test_a_required_state_is_not_made(project: Project, command: list[str], wanted: str) -> None:
    project.write(SPEC)
    option = ["--require-state"] if wanted == "option" else []
    env = {} if option else {"FLOWPLAN_REQUIRE_STATE": "1"}
    told = project.ok(*command, *option, code=6, env=env).err
    assert f"{project.directory}/.flowplan/state.db" in told
    assert [p.name for p in project.directory.iterdir()] == ["flowplan.yaml"]
    project.ok("plan", env={"FLOWPLAN_REQUIRE_STATE": "0"})
    project.ok(*command, *option, env=env)


def test_destroy_and_status_without_a_state_say_which_was_looked_for(project: Project) -> None:
    looked_for = f"{project.directory}/.flowplan/state.db"
    assert looked_for in project.ok("status", code=1).err
    assert looked_for in project.ok("destroy", "--yes", code=1).err
    assert looked_for in project.ok("destroy", "--yes", "--if-exists").err
    assert list(project.directory.iterdir()) == []


def test_a_state_of_former_days_is_not_started_again_beside_the_spec(project: Project) -> None:
    """States lay in the working directory once; such a one is named, and nothing runs twice."""
    inside(project, "specs").write(SPEC)
    formerly = project.directory / ".flowplan/state.db"
    formerly.parent.mkdir()
    project.ok("apply", "--yes", "specs/flowplan.yaml", "--state", str(formerly))
    for command in (["plan"], ["apply", "--yes"]):
        told = project.ok(*command, "specs/flowplan.yaml", code=6).err
        assert str(formerly) in told
    assert not (project.directory / "specs/.flowplan").exists()
    shutil.move(formerly.parent, project.directory / "specs")
    project.ok("plan", "specs/flowplan.yaml", "--detailed-exitcode")


def test_another_project_in_the_working_directory_is_no_hindrance(project: Project) -> None:
    project.write(SPEC.replace("demo", "other"))
    project.ok("apply", "--yes")
    inside(project, "specs").write(SPEC)
    project.ok("apply", "--yes", "specs/flowplan.yaml")


def test_the_printed_command_applies_the_plan_from_where_it_was_printed(project: Project) -> None:
    inside(project, "specs").write(SPEC)
    elsewhere = inside(project, "states").directory
    for options in ([], ["--state", str(elsewhere / "own.db")], ["--out", "saved.json"]):
        out = project.ok("plan", "specs/flowplan.yaml", *options).out
        (command,) = [line for line in out.splitlines() if line.startswith("To do exactly this: ")]
        words = command.removeprefix("To do exactly this: flowplan ").split()
        project.ok(*words, "--yes")
        assert loads(project.directory / "specs") == 1, command
        project.ok("destroy", "--yes", *(["--state", options[1]] if "--state" in options else ["specs/flowplan.yaml"]))
        (project.directory / "specs/loads").unlink()


def test_a_plan_of_destruction_is_applied_by_its_name_only(project: Project) -> None:
    project.write(SPEC)
    project.ok("apply", "--yes")
    out = project.ok("plan", "--destroy").out
    assert "To do exactly this: flowplan apply .flowplan/plan.json\n" in out
    project.ok("apply", "--yes", ".flowplan/plan.json")
    assert project.status() == {}


def test_two_specs_on_one_state_are_told(project: Project) -> None:
    project.write(SPEC, "a.yaml")
    project.write(SPEC.replace("load:", "other:"), "b.yaml")
    project.ok("apply", "--yes", "a.yaml")
    out = project.ok("plan", "b.yaml").out
    assert "last applied from a.yaml" in " ".join(out.split())
    assert "last applied" not in project.ok("plan", "a.yaml").out


def test_a_spec_with_the_other_ending_is_pointed_at(project: Project) -> None:
    project.write(SPEC, "flowplan.yml")
    assert "there is flowplan.yml" in project.ok("plan", code=7).err


HERE = """\
flowplan: 1
project: demo
runs:
  a: {provider: process, command: [sh, -c, 'pwd >> ran']}
  b: {provider: process, command: [sh, -c, 'pwd >> ran'], working_dir: sub}
"""


def test_another_place_of_the_project_is_no_change(project: Project) -> None:
    proj, other = inside(project, "proj"), inside(project, "other")
    inside(proj, "sub")
    inside(other, "sub")
    shutil.copy(proj.write(HERE), other.directory)
    state = ("--state", str(project.directory / "state.db"))
    proj.ok("apply", "--yes", *state)
    other.ok("plan", "--detailed-exitcode", *state)
    proj.ok("apply", "--yes")
    moved = proj.directory.rename(proj.directory.with_name("moved"))
    Project(moved, proj.env).ok("plan", "--detailed-exitcode")


def test_a_plan_runs_beside_its_spec_wherever_it_is_applied_from(project: Project) -> None:
    proj, home = inside(project, "proj"), inside(project, "home")
    inside(proj, "sub")
    proj.write(HERE)
    state = ("--state", str(project.directory / "state.db"))
    proj.ok("plan", *state, "--out", "../plan.json")
    assert "in the directory where the plan was made" in home.ok("apply", "--yes", *state, "../plan.json", code=7).err
    proj.ok("apply", "--yes", *state, "--target", "a")
    proj.ok("plan", *state, "--out", "../plan.json")
    home.ok("apply", "--yes", *state, "../plan.json")
    assert (proj.directory / "sub/ran").read_text().split() == [str(proj.directory.resolve() / "sub")]


@pytest.mark.parametrize("option", ["--out", "--json-into"])
def test_no_directory_is_made_for_a_plan(project: Project, option: str) -> None:
    project.write(SPEC)
    told = project.ok("plan", option, "nope/plan.json", code=7).err
    assert option in told and "nope/plan.json cannot be written, its directory does not exist" in told
    assert not (project.directory / "nope").exists()


def test_a_spec_says_where_its_state_is(project: Project) -> None:
    spec = "flowplan: 1\nproject: p\nstate: kept/here.db\nruns:\n  a: {provider: process, command: [echo, a]}\n"
    project.write(spec)
    (project.directory / "kept").mkdir()
    below = project.directory / "below"
    below.mkdir()
    project.ok("apply", "--yes")
    assert (project.directory / "kept/here.db").exists() and not (project.directory / ".flowplan").exists()
    assert "succeeded" in Project(below, project.env).ok("status").out
    assert project.ok("status", "--state", "kept/here.db").out == project.ok("status").out
    project.ok("plan", "--state", "other.db")
    assert (project.directory / "other.db").exists(), "the command line wins"


@pytest.mark.parametrize("url", ["postgresql://me:pw-of-tests@h/d", "postgresql://h/d?password=pw-of-tests"])
def test_a_password_in_a_spec_is_refused(project: Project, url: str) -> None:
    project.write(f'flowplan: 1\nproject: p\nstate: "{url}"\nruns:\n  a: {{provider: process, command: [echo, a]}}\n')
    for words in ("validate", "plan", "status"):
        done = project.ok(words, code=7)
        assert "must hold no password" in done.err and "pw-of-tests" not in done.out + done.err
