"""The command line: help, what programs read, and the commands that repair a state."""

from __future__ import annotations

import json
import re
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from conftest import FLOWPLAN, Project, until

MATRIX = """\
flowplan: 1
project: demo
runs:
  cell: {provider: process, command: [echo, 'I am ${each.n}'], matrix: {n: [1, "b c", "x,y"]}}
  slow: {provider: process, command: [sleep, '600'], grace_period: 1s}
"""

COMMANDS = [
    "init",
    "validate",
    "plan",
    "apply",
    "destroy",
    "watch",
    "status",
    "logs",
    "history",
    "report",
    "graph",
    "events",
    "show",
    "import",
    "schema",
    "state",
]
STATE_COMMANDS = [
    "list",
    "show",
    "mv",
    "rm",
    "import",
    "pull",
    "push",
    "rebuild",
    "moved",
    "new-lineage",
    "unlock",
    "prune",
]
EVERY = [[], *([c] for c in COMMANDS), *(["state", c] for c in STATE_COMMANDS)]


def valid(kind: str, document: Any) -> None:
    schema = json.loads(files("flowplan.schemas").joinpath(f"{kind}.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(document)


def helped(*arguments: str) -> str:
    done = subprocess.run([FLOWPLAN, *arguments, "--help"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("command", EVERY, ids=" ".join)
def test_every_command_helps_and_every_option_is_explained(command: list[str]) -> None:
    text = helped(*command)
    assert text.startswith(f"Usage: {' '.join(['flowplan', *command])} [OPTIONS]")
    assert "[[" not in text
    about = text.partition("\n\n")[2].partition("\n\n")[0].strip()
    assert about.endswith(".")
    options = text.partition("Options:\n")[2].partition("\n\n")[0]
    entries = [line for line in options.splitlines() if line.startswith("  -")]
    assert entries
    lines = options.splitlines()
    for entry in entries:
        following = lines[lines.index(entry) + 1 : lines.index(entry) + 2]
        explained = "  " in entry.strip() or (following and following[0].startswith("    "))
        assert explained, entry


def test_help_names_every_command_and_h_is_enough() -> None:
    for names, arguments in ((COMMANDS, []), (STATE_COMMANDS, ["state"])):
        text = helped(*arguments)
        for name in names:
            assert f"\n  {name} " in text
        assert subprocess.run([FLOWPLAN, *arguments, "-h"], capture_output=True, text=True, check=True).stdout == text


def test_the_options_of_the_design_are_there() -> None:
    promised = {
        (
            "plan",
        ): "--format --out --detailed-exitcode --target --exclude --rerun --destroy --var --var-file --no-refresh "
        "--explain --full --state",
        ("apply",): "--yes --parallelism --detach --wait-timeout --lock-timeout --format --state --var",
        ("destroy",): "--target --yes --state",
        ("watch",): "--wait-timeout --format",
        ("status",): "--failed --running --no-refresh --format",
        ("history",): "--since --failed --format",
        ("events",): "--format",
        ("logs",): "--follow --tail --attempt --format",
        ("show",): "--format",
    }
    for command, options in promised.items():
        text = helped(*command)
        assert [o for o in options.split() if o not in text] == []


def test_version(project: Project) -> None:
    result = project.ok("--version")
    assert result.out.startswith("flowplan ") and result.err == ""


# -- init ----------------------------------------------------------------------------------------------------------


def test_init_plan_apply(project: Project) -> None:
    init_plan_apply(project, "process")


@pytest.mark.docker
def test_init_plan_apply_docker(project: Project) -> None:
    init_plan_apply(project, "docker")


@pytest.mark.kubernetes
def test_init_plan_apply_kubernetes(project: Project) -> None:
    init_plan_apply(project, "kubernetes")


@pytest.mark.slurm
def test_init_plan_apply_slurm(project: Project) -> None:
    init_plan_apply(project, "slurm")


def init_plan_apply(project: Project, provider: str) -> None:
    project.ok("init", "--provider", provider)
    project.ok("validate")
    project.ok("plan", "--detailed-exitcode", code=2)
    assert "hello | hello" in project.ok("apply", "--yes").out
    project.ok("plan", "--detailed-exitcode")
    project.ok("destroy", "--yes")
    assert project.status() == {}


@pytest.mark.parametrize("name", ["plain", "123", "true", "1e5", "ünï cöde", "x" * 100, "...", "-.x"])
def test_init_makes_a_valid_spec_in_any_directory_and_never_overwrites(project: Project, name: str) -> None:
    project.ok("init", "--", f"./{name}")
    spec = project.directory / name / "flowplan.yaml"
    before = spec.read_bytes()
    project.ok("validate", str(spec))
    result = project.ok("init", "--", f"./{name}", code=7)
    assert "exists already" in result.err and spec.read_bytes() == before
    assert ".flowplan/" in (project.directory / name / ".gitignore").read_text()


def test_init_writes_the_schema_that_its_first_line_names(project: Project) -> None:
    project.ok("init")
    first, _, rest = (project.directory / "flowplan.yaml").read_text().partition("\n")
    named = first.removeprefix("# yaml-language-server: $schema=")
    schema = json.loads((project.directory / named).read_text())
    assert schema == json.loads(project.ok("schema", "spec").out)
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(yaml.safe_load(rest)) and not validator.is_valid({"flowplan": 1, "rums": {}})


def test_init_leaves_a_schema_that_is_there(project: Project) -> None:
    (project.directory / "spec.schema.json").write_text("{}")
    project.ok("init")
    assert (project.directory / "spec.schema.json").read_text() == "{}"


# -- what programs read --------------------------------------------------------------------------------------------


@pytest.fixture
def applied(project: Project) -> Project:
    """Three cells that succeeded, and one run that goes on."""
    project.write(MATRIX)
    project.ok("apply", "--yes", "--detach")
    until(lambda: sorted(project.statuses().values()) == ["running", "succeeded", "succeeded", "succeeded"])
    return project


def test_every_document_is_as_its_schema_says(applied: Project) -> None:
    for arguments in ([], ["--destroy"], ["--rerun", "cell"], ["--no-refresh"], ["--target", "slow"]):
        valid("plan", applied.plan(*arguments))
    valid("plan", applied.ok("show", "--format", "json").json)
    for arguments in ([], ["--no-refresh"], ["slow"]):
        valid("status", applied.ok("status", "--format", "json", *arguments).json)
    for arguments in ([], ["--failed"], ["slow"]):
        valid("history", applied.ok("history", "--format", "json", *arguments).json)
    events = applied.events()
    assert len(events) >= 8
    for event in events:
        valid("event", event)
    assert [e["seq"] for e in events] == sorted(e["seq"] for e in events)
    applied.write(MATRIX.replace("I am", "We are"))
    applied.write("flowplan: 1\nproject: demo\nruns: {}\n", "empty.yaml")
    valid("plan", applied.plan())
    valid("plan", applied.plan("empty.yaml"))


@pytest.mark.parametrize("kind", ["spec", "plan", "event", "status", "history", "report"])
def test_schemas_are_printed_and_are_schemas(project: Project, kind: str) -> None:
    schema = project.ok("schema", kind).json
    jsonschema.Draft202012Validator.check_schema(schema)
    if kind == "spec":
        import yaml

        jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(MATRIX))


def test_apply_as_json_is_one_event_a_line(project: Project) -> None:
    project.write(MATRIX.partition("  slow")[0])
    result = project.ok("apply", "--yes", "--format", "json")
    events = [json.loads(line) for line in result.out.splitlines()]
    for event in events:
        valid("event", event)
    assert sorted(e["address"] for e in events if e["status"] == "succeeded") == sorted(project.statuses())


def test_status_as_text(applied: Project) -> None:
    lines = applied.ok("status").out.splitlines()
    assert lines[0].split()[:2] == ["ADDRESS", "STATUS"] and len(lines) == 5
    assert len(applied.ok("status", "cell").out.splitlines()) == 4
    assert len(applied.ok("status", 'cell[n="b c"]', "slow").out.splitlines()) == 3
    assert [line.split()[0] for line in applied.ok("status", "--running").out.splitlines()] == ["ADDRESS", "slow"]
    assert applied.ok("status", "--failed").out == "No runs.\n"


def test_failed_runs_come_last_in_the_status_and_are_counted(project: Project) -> None:
    project.write("""\
flowplan: 1
project: demo
runs:
  train:
    provider: process
    matrix: {day: ["2026-10-06", "2026-10-07", "2026-10-08"]}
    command: [sh, -c, 'test ${each.day} != 2026-10-07']
""")
    project.ok("apply", "--yes", code=3)
    _, *rows, last = project.ok("status").out.splitlines()
    assert [row.split()[0] for row in rows] == [f"train[day=2026-10-0{n}]" for n in (6, 8, 7)]
    assert last == "1 of 3 runs: 1 failed"
    failed = project.ok("status", "--failed", "--format", "json").json["runs"]
    assert [run["address"] for run in failed] == ["train[day=2026-10-07]"]


def test_the_history_has_a_block_for_each_apply_and_a_row_for_each_attempt(project: Project) -> None:
    spec = """\
flowplan: 1
project: demo
variables: {tag: {type: string, default: "1"}, key: {type: string, default: "", sensitive: true}, other: {default: x}}
runs:
  load: {provider: process, command: [sh, -c, 'test -e there'], matrix: {day: ["2026-10-06", "2026-10-07"]}}
"""
    project.write(spec)
    project.ok("apply", "--yes", "--target", "load[day=2026-10-06]", "--var", "tag=2", "--var", "key=hunter2", code=3)
    project.write("", "there")
    project.ok("apply", "--yes", "flowplan.yaml")
    head, *lines, last = project.ok("history").out.splitlines()
    assert head.split()[-2:] == ["EXIT", "DURATION"]
    assert [line.rpartition(": ")[2] if "plan" in line else line.split()[2:6] for line in lines] == [
        "1 failed",
        ["load[day=2026-10-06]", "1", "failed", "1"],
        [],
        "2 succeeded",
        ["load[day=2026-10-06]", "2", "succeeded", "0"],
        ["load[day=2026-10-07]", "1", "succeeded", "0"],
        [],
    ]
    assert last == "1 of 3 attempts: 1 failed"
    project.ok("destroy", "--yes")
    found = project.ok("history", "load", "--since", "1h", "--failed", "--format", "json").json
    valid("history", found)
    [failed] = found["attempts"]
    assert (failed["values"], failed["attempt"], failed["exit_code"]) == ({"day": "2026-10-06"}, 1, 1)
    assert 0 <= failed["seconds"] < 60
    [apply] = found["applies"]
    assert (apply["plan"], apply["command"], apply["ends"]) == (failed["plan"], "apply", {"failed": 1})
    assert apply["variables"] == {"tag": "2"} and ", tag=2: 1 failed" in project.ok("history").out
    assert apply["user"] and apply["at"] <= failed["created_at"]
    [*_, destroyed] = project.ok("history", "--format", "json").json["applies"]
    assert (destroyed["mode"], destroyed["steps"]) == ("destroy", {"done": 2})
    assert project.ok("history", "--since", "0s").out == "No attempts.\n"
    assert "nothing is recorded at lod" in project.ok("history", "lod", code=7).err


def test_apply_counts_how_runs_ended_and_shows_the_end_of_what_failed(project: Project) -> None:
    project.write("""\
flowplan: 1
project: demo
defaults: {provider: process}
runs:
  good: {command: [echo, fine], matrix: {n: [1, 2]}}
  bad: {command: [sh, -c, 'seq 100 109; exit 3']}
  quiet: {command: [sh, -c, 'echo unseen; exit 4'], stream_output: false}
  slow: {command: [sleep, '600'], timeout: 1s, grace_period: 1s}
  after: {command: [echo, never], needs: [bad]}
""")
    told = project.ok("apply", "--yes", code=3).err.splitlines()
    [counts] = [line for line in told if line.startswith("Applied: 5 created; ")]
    assert "; 2 succeeded, 2 failed, 1 timed out, 1 skipped (" in counts
    assert [line for line in told if line.startswith("  | ")] == [f"  | {n}" for n in range(105, 110)]


def test_lines_of_apply_carry_times_and_retries_but_on_a_terminal(project: Project) -> None:
    project.write("""\
flowplan: 1
project: demo
defaults: {provider: process}
runs:
  flaky: {command: [sh, -c, 'echo x >> tries; test $(wc -l < tries) = 2'], retries: 3}
""")
    told = project.ok("apply", "--yes").err.splitlines()
    timed = [line for line in told if re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ flaky: ", line)]
    assert [line.partition("flaky: ")[2].split(" after ")[0] for line in timed] == [
        *("creating", "running", "try 2 of 4; the one before ended with exit code 1", "succeeded"),
    ]
    [retry] = [event for event in project.events("flaky") if event["reason"] == "Retried"]
    assert retry["engine_at"] and "running  try 2 of 4" in project.ok("events", "flaky").out


def test_events_of_one_run_and_after_a_number(applied: Project) -> None:
    events = applied.events("slow")
    assert {e["address"] for e in events} == {"slow"} and events[0]["status"] == "creating"
    seq = events[0]["seq"]
    assert all(e["seq"] > seq for e in applied.events("--after", str(seq)))
    assert "slow  creating" in applied.ok("events", "slow").out


def test_events_since_a_time_the_newest_and_those_that_failed(project: Project) -> None:
    project.write("""\
flowplan: 1
project: demo
defaults: {provider: process}
runs:
  bad: {command: ['false']}
  good: {command: ['true'], needs: [bad]}
""")
    project.ok("apply", "--yes", code=3)
    [failed] = project.events("--failed")
    assert (failed["address"], failed["status"]) == ("bad", "failed")
    everything = project.events()
    assert project.events("--last", "1") == everything[-1:] and project.events("--last", "0") == []
    assert project.events("--since", "1h", "--last", "99") == everything
    assert project.events("--since", failed["at"]) == everything[failed["seq"] - 1 :]
    assert project.events("--since", "0s") == []


def test_events_are_followed_until_the_reader_goes(project: Project) -> None:
    project.write("""\
flowplan: 1
project: demo
runs:
  a: {provider: process, command: [sh, -c, 'until test -e go; do sleep 0.05; done']}
""")
    project.ok("apply", "--yes", "--detach")
    with project.start("events", "--follow", "--format", "json") as following:
        assert following.stdout
        assert json.loads(following.stdout.readline())["status"] == "creating"
        (project.directory / "go").touch()
        project.await_status("a", "succeeded")
        until(lambda: json.loads(following.stdout.readline())["status"] == "succeeded")
    assert following.returncode == 0


def test_addresses_with_brackets(applied: Project) -> None:
    assert applied.ok("logs", "cell[n=1]").out == "I am 1\n"
    assert applied.ok("logs", 'cell[n="b c"]').out == "I am b c\n"
    assert applied.ok("logs", 'cell[n="x,y"]').out == "I am x,y\n"
    assert applied.ok("logs", "cell", "cell[n=1]").out.count(" | I am ") == 3
    assert "did you mean" in applied.ok("logs", "cell[n=b c]", code=7).err
    assert applied.actions("--rerun", "cell[n=1]")["cell[n=1]"] == "rerun"
    assert set(applied.actions("--target", 'cell[n="x,y"]')) == {'cell[n="x,y"]'}
    assert set(applied.actions("--exclude", "cell*")) == {"slow"}
    applied.ok("destroy", "--yes", "--target", "cell[n=1]")
    assert set(applied.statuses()) == {'cell[n="b c"]', 'cell[n="x,y"]', "slow"}


def test_logs_of_attempts_tails_and_to_the_end(project: Project) -> None:
    project.write("""\
flowplan: 1
project: demo
runs:
  a: {provider: process, command: [sh, -c, 'echo "attempt ${run.attempt}"; seq 1 20; until test -e go; do sleep 0.05; done; echo end']}
""")
    project.ok("apply", "--yes", "--detach")
    following = project.start("logs", "a", "--follow")
    until(lambda: "20" in project.ok("logs", "a").out)
    assert project.ok("logs", "a", "--tail", "2").out == "19\n20\n"
    assert project.ok("logs", "a", "--tail", "0").out == ""
    (project.directory / "go").touch()
    out, _ = following.communicate(timeout=20)
    assert out.splitlines() == ["attempt 1", *map(str, range(1, 21)), "end"]
    project.await_status("a", "succeeded")
    project.ok("apply", "--yes", "flowplan.yaml", "--rerun", "a", "--no-stream")
    assert project.ok("logs", "a").out.startswith("attempt 2\n")
    assert project.ok("logs", "a", "--attempt", "1").out.startswith("attempt 1\n")
    lines = [json.loads(line) for line in project.ok("logs", "a", "--format", "json").out.splitlines()]
    assert [line["text"] for line in lines][-1] == "end"
    assert set(lines[0]) == {"at", "stream", "text"}
    project.ok("destroy", "--yes")
    assert project.ok("logs", "a", "--tail", "1").out == "end\n"


# -- the state -----------------------------------------------------------------------------------------------------


def test_state_list_and_show(applied: Project) -> None:
    addresses = ["cell[n=1]", 'cell[n="b c"]', 'cell[n="x,y"]', "slow"]
    assert sorted(applied.ok("state", "list").out.splitlines()) == sorted(addresses)
    assert sorted(applied.ok("state", "list", "--format", "json").json) == sorted(addresses)
    shown = applied.ok("state", "show", 'cell[n="b c"]').json
    assert shown["attempts"][-1]["status"] == "succeeded"
    assert shown["attempts"][-1]["objects"]["Process"]["argv"] == ["echo", "I am b c"]


def test_state_mv_touches_no_run(applied: Project) -> None:
    pid = applied.status()["slow"]["infrastructure_id"]
    applied.ok("state", "mv", "slow", "slower")
    applied.write(MATRIX.replace("  slow:", "  slower:"))
    applied.ok("plan", "--detailed-exitcode")
    assert applied.status()["slower"]["infrastructure_id"] == pid
    assert applied.status()["slower"]["status"] == "running"
    for arguments in (["slow", "x"], ["slower", "cell[n=1]"]):
        assert applied.run("state", "mv", *arguments).code != 0
    assert applied.ok("logs", "slower").out == ""


def test_a_rename_is_suggested_and_moved_does_it(applied: Project) -> None:
    renamed = MATRIX.replace("  slow:", "  w:")
    applied.write(renamed)
    assert "moved: [{from: slow, to: w}]" in applied.ok("plan").out.replace("\n  ", " ")
    applied.write(renamed + "moved: [{from: slow, to: w}]\n")
    assert applied.actions()["w"] == "no-op"
    assert "Applied: 1 moved." in applied.ok("apply", "--yes", "--detach", "flowplan.yaml").err
    assert applied.statuses()["w"] == "running"
    applied.ok("plan", "--detailed-exitcode")


def test_state_rm_forgets_and_leaves_the_run(applied: Project) -> None:
    pid = int(applied.status()["slow"]["infrastructure_id"].rpartition(":")[2])
    (applied.directory / "pids").write_text(str(pid))
    applied.ok("state", "rm", "slow", "cell[n=1]")
    assert set(applied.statuses()) == {'cell[n="b c"]', 'cell[n="x,y"]'}
    assert Path(f"/proc/{pid}").exists()
    assert applied.ok("state", "rm", "slow", code=7).err.startswith("error: nothing is recorded at slow")


def test_pull_and_push(applied: Project) -> None:
    pulled = applied.ok("state", "pull").json
    assert "key" not in pulled
    applied.write(json.dumps(pulled), "pulled.json")
    applied.ok("state", "push", "pulled.json")
    applied.ok("plan", "--detailed-exitcode")
    applied.ok("state", "rm", "cell")
    assert "is newer" in applied.ok("state", "push", "pulled.json", code=6).err
    applied.write(json.dumps({**pulled, "serial": pulled["serial"] + 100}), "newer.json")
    applied.ok("state", "push", "newer.json")
    assert len(applied.statuses()) == 4
    applied.ok("plan", "--detailed-exitcode")
    other = {**pulled, "lineage": "11111111-1111-4111-8111-111111111111"}
    applied.write(json.dumps(other), "other.json")
    assert "lineage" in applied.ok("state", "push", "other.json", code=6).err
    for text in ("", "[", "[]", "{}", '{"lineage": 1}'):
        applied.write(text, "bad.json")
        assert applied.ok("state", "push", "bad.json", code=7).err
    assert len(applied.statuses()) == 4


def test_unlock_without_a_lock(applied: Project) -> None:
    assert "not locked" in applied.ok("state", "unlock").err


def test_no_color_and_force_color(applied: Project) -> None:
    assert "\x1b[" not in applied.ok("plan").out
    forced = {"NO_COLOR": "", "FORCE_COLOR": "1"}
    assert "\x1b[" in applied.ok("plan", "--destroy", env=forced).out
    assert "\x1b[" not in applied.ok("plan", "--format", "json", env=forced).out


def test_what_another_flowplan_replaces_and_destroys_is_no_end_of_its_own(project: Project) -> None:
    project.write(MATRIX)
    following = project.start("apply", "--yes", "flowplan.yaml")
    until(lambda: (project.directory / ".flowplan/state.db").exists() and project.statuses().get("slow") == "running")
    project.write(MATRIX.replace("'600'", "'500'"))
    project.ok("apply", "--yes", "--detach", "flowplan.yaml")
    project.ok("destroy", "--yes")
    _, err = following.communicate(timeout=20)
    assert following.returncode == 0
    assert "slow: destroyed by another flowplan" in err
    told = [(e["attempt"], e["status"]) for e in project.events("slow")]
    assert (1, "cancelled") in told and (2, "cancelled") in told
    assert not {"lost", "failed"} & {status for _, status in told}
