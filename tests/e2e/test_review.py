"""The plan as a document that people review and machines trust, through the installed command (issue of the plan)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import textwrap
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, until
from projects import make_namespace

from flowplan.schemas.plan_documents import read_plan, schema_faults, write_plan
from flowplan.schemas.times import timestamp
from flowplan.state.sqlite.store import SqliteStore

SLEEP = """\
flowplan: 1
project: demo
runs:
  work: {provider: process, command: [sh, -c, 'echo one; sleep 600'], grace_period: 1s}
  other: {provider: process, command: ['true']}
"""


def changes(plan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {change["address"]: change for change in plan["changes"]}


def reasons(project: Project, *arguments: str, **options: Any) -> dict[str, list[str]]:
    return {address: change["reasons"] for address, change in changes(project.plan(*arguments, **options)).items()}


# -- approved is applied ------------------------------------------------------------------------------------------------


def test_check_says_whether_a_plan_is_still_what_would_be_done(project: Project) -> None:
    project.write(SLEEP)
    project.ok("plan", "--out", "reviewed.json")
    assert "sha256:" in project.ok("plan", "--check", "reviewed.json").err
    assert project.status() == {}
    project.write(SLEEP.replace("echo one", "echo two"))
    project.ok("plan", "--check", "reviewed.json"), "a saved plan holds what it wants; the spec may go on"
    project.ok("apply", "--yes", "--detach", "flowplan.yaml")
    serial = project.ok("state", "pull").json["serial"]
    stale = project.ok("plan", "--check", "reviewed.json", code=4)
    assert "reviewed" in stale.err and "now" in stale.err and "work" in stale.err
    project.ok("apply", "--yes", "reviewed.json", code=4)
    assert project.ok("state", "pull").json["serial"] == serial, "nothing was written"


@pytest.mark.parametrize("form", ["text", "markdown", "json"])
def test_a_plan_reads_the_same_wherever_it_is_shown(project: Project, form: str) -> None:
    project.write(SLEEP + "  box: {provider: docker, image: 'busybox:1.35', command: [echo, hi], env: {B: 1, A: 2}}\n")
    planned = project.ok("plan", "--no-refresh", "--format", form)
    assert project.ok("show", "--format", form).out == planned.out


def test_the_command_that_applies_a_plan_can_be_typed_as_it_is_shown(project: Project) -> None:
    project.write(SLEEP)
    (project.directory / "a b").mkdir()
    told = project.ok("plan", "--no-refresh", "--state", "a b/s.db", "--out", "p q.json").out
    assert "To do exactly this: flowplan apply 'p q.json' --state 'a b/s.db'\n" in told


def test_the_delta_names_only_what_differs(project: Project) -> None:
    project.write(SLEEP)
    project.ok("apply", "--yes", "--detach")
    project.await_status("other", "succeeded")
    project.write(SLEEP.replace("echo one", "echo two").replace("'true'", "'true', x"))
    project.ok("plan", "--out", "reviewed.json")
    project.ok("apply", "--yes", "flowplan.yaml", "--target", "other")
    stale = project.ok("apply", "--yes", "reviewed.json", code=4).err
    assert "1 of its changes" in stale and "  other" in stale and "  work" not in stale
    assert project.status()["work"]["attempt"] == 1


def test_movement_of_unrelated_runs_is_no_difference(project: Project) -> None:
    text = SLEEP.replace("'true'", "sh, -c, 'until [ -e go ]; do sleep 0.05; done'")
    project.write(text)
    project.ok("apply", "--yes", "--detach")
    project.write(text.replace("echo one", "echo two"))
    project.ok("plan", "--out", "reviewed.json")
    (project.directory / "go").touch()
    project.await_status("other", "succeeded")
    project.ok("plan", "--check", "reviewed.json")
    project.ok("apply", "--yes", "--detach", "reviewed.json")
    assert project.status()["work"]["attempt"] == 2


def test_a_run_that_ended_meanwhile_makes_its_own_change_stale(project: Project) -> None:
    project.write(SLEEP)
    project.ok("apply", "--yes", "--detach")
    project.write(SLEEP.replace("echo one", "echo two"))
    project.ok("plan", "--out", "reviewed.json")
    os.killpg(int(project.status()["work"]["infrastructure_id"].rpartition(":")[2]), 9)
    project.await_status("work", "failed")
    assert "the run is failed" in project.ok("apply", "--yes", "reviewed.json", code=4).err


def test_a_plan_for_another_state_is_stale(project: Project) -> None:
    project.write(SLEEP)
    project.ok("plan", "--out", "reviewed.json")
    project.ok("plan", "--state", "other.db")
    assert "another state" in project.ok("apply", "--yes", "reviewed.json", "--state", "other.db", code=4).err


def test_a_secret_that_changed_since_the_review_is_refused(project: Project) -> None:
    project.write("""\
flowplan: 1
project: demo
variables: {token: {type: string, sensitive: true}}
runs:
  a: {provider: process, command: [touch, made], env: {A: {from_env: PW}, B: "x${var.token}"}}
""")
    env = {"PW": "first-value", "FLOWPLAN_VAR_token": "first-token"}
    project.ok("plan", "--out", "reviewed.json", env=env)
    assert "env:PW" in project.ok("apply", "--yes", "reviewed.json", env=env | {"PW": "second-value"}, code=4).err
    told = project.ok("apply", "--yes", "reviewed.json", "--var", "token=another-one", env=env, code=4)
    assert "var.token" in told.err and "another-one" not in told.err
    told = project.ok("apply", "--yes", "reviewed.json", env={"PW": "first-value"}, code=7)
    assert "--var" in told.err
    assert not (project.directory / "made").exists()
    project.ok("apply", "--yes", "reviewed.json", "--var", "token=first-token", env={"PW": "first-value"})
    assert (project.directory / "made").exists()


@pytest.mark.parametrize(
    "option",
    [
        ["--target", "work"],
        ["--exclude", "work"],
        ["--rerun", "work"],
        ["--allow-interrupt", "work"],
        ["--var", "tag=2"],
    ],
)
def test_options_that_a_saved_plan_cannot_heed_are_errors(project: Project, option: list[str]) -> None:
    project.write(SLEEP.replace("runs:", "variables: {tag: {type: string, default: '1'}}\nruns:"))
    project.ok("plan", "--out", "reviewed.json")
    for command in (["apply", "--yes", "reviewed.json"], ["plan", "--check", "reviewed.json"]):
        assert option[0] in project.ok(*command, *option, code=7).err
    assert project.status() == {}


def test_the_last_plan_is_applied_once(project: Project) -> None:
    project.write(SLEEP.replace("sleep 600", "exit 0"))
    project.ok("plan")
    project.ok("apply", "--yes")
    project.ok("apply", "--yes")
    assert {r["attempt"] for r in project.status().values()} == {1}


def test_an_interrupted_apply_of_a_plan_goes_on_with_the_same_plan(project: Project) -> None:
    project.write("""\
flowplan: 1
project: demo
runs:
  first: {provider: process, command: [sh, -c, 'echo ran >> first; until [ -e go ]; do sleep 0.05; done']}
  then: {provider: process, command: [sh, -c, 'echo ran >> then'], needs: [first]}
""")
    project.ok("plan", "--out", "reviewed.json")
    interrupted = project.ok("apply", "--yes", "--wait-timeout", "1s", "reviewed.json", code=8)
    assert "not started yet: then" in interrupted.err
    (project.directory / "go").touch()
    project.await_status("first", "succeeded")
    project.ok("plan", "--check", "reviewed.json")
    project.ok("apply", "--yes", "reviewed.json")
    assert project.statuses() == {"first": "succeeded", "then": "succeeded"}
    assert (project.directory / "first").read_text() == (project.directory / "then").read_text() == "ran\n"


def resealed(project: Project, name: str, **facts: Any) -> None:
    """Write the last plan with other facts, as flowplan itself would have."""
    state = project.directory / ".flowplan"
    store = SqliteStore.open(state / "state.db", read_only=True)
    write_plan(replace(read_plan(state / "plan.json").plan, **facts), project.directory / name, store.key)
    store.close()


def test_an_old_plan_is_refused(project: Project) -> None:
    project.write(SLEEP)
    project.ok("plan", "--out", "short.json", "--max-age", "1s")
    project.ok("plan", "--out", "long.json", "--max-age", "1h")
    resealed(project, "old.json", made_at=timestamp(datetime.now(UTC) - timedelta(hours=2)))
    now = time.time()
    os.utime(project.directory / "old.json", (now, now))
    assert json.loads((project.directory / "long.json").read_text())["expires_at"]
    time.sleep(1.2)
    for command in (["apply", "--yes", "short.json"], ["plan", "--check", "short.json"]):
        assert "expired" in project.ok(*command, code=4).err
    assert "--max-age" in project.ok("apply", "--yes", "old.json", "--max-age", "1h", code=4).err
    project.ok("plan", "--check", "long.json")
    project.ok("plan", "--max-age", "soon", code=7)
    assert project.status() == {}


def test_what_was_planned_with_an_option_is_applied_with_it(project: Project) -> None:
    text = SLEEP.replace("grace_period", "protect: active, grace_period")
    project.write(text)
    project.ok("apply", "--yes", "--detach")
    project.write(text.replace("echo one", "echo two"))
    project.ok("plan", "--out", "reviewed.json", "--allow-interrupt", "work", "--rerun", "other")
    assert {
        a: c["action"] for a, c in changes(json.loads((project.directory / "reviewed.json").read_text())).items()
    } == {
        "work": "replace",
        "other": "rerun",
    }
    project.ok("apply", "--yes", "--detach", "reviewed.json")
    assert {a: r["attempt"] for a, r in project.status().items()} == {"work": 2, "other": 2}


def test_a_refresh_only_plan_records_what_happened_and_follows_nothing(project: Project) -> None:
    text = SLEEP.replace("'true'", "sh, -c, 'until [ -e go ]; do sleep 0.05; done'")
    project.write(text)
    project.ok("apply", "--yes", "--detach")
    (project.directory / "go").touch()
    until(lambda: changes(project.plan("--refresh-only"))["other"]["reasons"][0].startswith("now succeeded"))
    project.ok("plan", "--refresh-only", "--out", "refresh.json")
    before = project.ok("status", "--no-refresh", "--format", "json").json["runs"]
    assert {r["address"]: r["status"] for r in before}["other"] in ("running", "pending")
    project.ok("apply", "--yes", "refresh.json", timeout=20)
    after = project.ok("status", "--no-refresh", "--format", "json").json["runs"]
    assert {r["address"]: r["status"] for r in after} == {"work": "running", "other": "succeeded"}


# -- rules for running things ---------------------------------------------------------------------------------------------


def test_a_protected_run_is_left_out_and_the_rest_goes_on(project: Project) -> None:
    text = SLEEP.replace("grace_period", "protect: active, grace_period")
    project.write(text)
    project.ok("apply", "--yes", "--detach")
    project.await_status("other", "succeeded")
    project.write(text.replace("echo one", "echo two").replace("'true'", "'true', x"))
    plan = project.plan()
    assert "protect" in changes(plan)["work"]["skipped"] and plan["summary"]["replace"] == 1
    for form in ("text", "markdown"):
        assert "protect" in project.ok("plan", "--format", form).out
    told = project.ok("apply", "--yes", "--detach", "flowplan.yaml", code=6)
    assert "left out: work" in told.err
    assert {a: r["attempt"] for a, r in project.status().items()} == {"work": 1, "other": 2}
    project.ok("destroy", "--yes", code=6)
    assert project.statuses() == {"work": "running"}
    project.write(text.replace("echo one", "echo two"))
    project.ok("apply", "--yes", "--detach", "--allow-interrupt", "work", "flowplan.yaml")
    assert project.status()["work"]["attempt"] == 2


def test_after_finish_waits_for_the_end_of_what_runs(project: Project) -> None:
    text = """\
flowplan: 1
project: demo
runs:
  a: {provider: process, command: [sh, -c, 'until [ -e go ]; do sleep 0.05; done; echo VALUE >> out'], replace: after_finish}
"""
    project.write(text)
    project.ok("apply", "--yes", "--detach")
    project.write(text.replace("VALUE", "second"))
    [change] = project.plan()["changes"]
    assert (change["action"], change["interrupts"]) == ("replace", False)
    applying = project.start("apply", "--yes", "flowplan.yaml")
    try:
        until(lambda: project.statuses() == {"a": "running"})
        time.sleep(0.5)
        assert project.status()["a"]["attempt"] == 1
    finally:
        (project.directory / "go").touch()
        applying.communicate(timeout=30)
    assert applying.returncode == 0
    assert (project.directory / "out").read_text() == "VALUE\nsecond\n"
    assert [e["status"] for e in project.events()].count("succeeded") == 2


def test_start_first_starts_the_new_one_before_the_old_one_stops(project: Project) -> None:
    text = """\
flowplan: 1
project: demo
runs:
  a:
    provider: process
    command: [sh, -c, 'echo VALUE started >> out; trap "echo VALUE stopped >> out; exit 0" TERM; while :; do sleep 0.05; done']
    replace: start_first
"""
    out = project.directory / "out"
    project.write(text)
    project.ok("apply", "--yes", "--detach")
    until(out.exists)
    project.write(text.replace("VALUE", "new"))
    project.ok("apply", "--yes", "--detach", "flowplan.yaml")
    until(lambda: "new started" in out.read_text() and "VALUE stopped" in out.read_text())
    assert project.status()["a"]["attempt"] == 2
    assert project.statuses() == {"a": "running"}


# -- reasons, origins, history --------------------------------------------------------------------------------------------


def test_reasons_name_the_cause(project: Project) -> None:
    text = """\
flowplan: 1
project: demo
runs:
  fails: {provider: process, command: [sh, -c, 'exit 3']}
  works: {provider: process, command: ['true']}
  gone: {provider: process, command: ['true']}
"""
    project.write(text)
    assert reasons(project)["works"] == ["new in flowplan.yaml"]
    project.ok("apply", "--yes", code=3)
    project.write(text.replace("  gone: {provider: process, command: ['true']}\n", "").replace("'exit 3'", "'exit 4'"))
    found = reasons(project, "--rerun", "works")
    assert found["fails"][0] == "argv changed" and found["fails"][1].startswith("last attempt failed with exit code 3")
    assert found["works"] == ["requested by --rerun"]
    assert found["gone"] == ["removed from flowplan.yaml"]


def test_explain_tells_where_every_value_was_written(project: Project) -> None:
    project.write("""\
flowplan: 1
project: demo
variables:
  greeting: {type: string, default: hello}
  name: {type: string}
defaults:
  labels: {team: data}
runs:
  a:
    provider: process
    command: [echo, "${var.greeting}", "${var.name}"]
    env:
      LEVEL: debug
""")
    (project.directory / "vars.yaml").write_text("name: world\n")
    lines = explained(project, "--var-file", "vars.yaml")
    assert lines["argv[0]: echo"] == "flowplan.yaml:11"
    assert lines["argv[1]: hello"] == "flowplan.yaml:11 (var.greeting: default (flowplan.yaml:4))"
    assert lines["argv[2]: world"] == "flowplan.yaml:11 (var.name: vars.yaml:1)"
    assert lines["env.LEVEL: debug"] == "flowplan.yaml:13"
    assert lines["labels.team: data"] == "flowplan.yaml:7"
    assert lines["labels[flowplan.dev/address]: a"] == "default"
    assert "--var" in explained(project, "--var", "name=moon")["argv[2]: moon"]
    environment = explained(project, env={"FLOWPLAN_VAR_name": "sun"})
    assert "FLOWPLAN_VAR_name" in environment["argv[2]: sun"]


def explained(project: Project, *arguments: str, **options: Any) -> dict[str, str]:
    """``field: value`` -> origin, of ``plan --explain``."""
    out = project.ok("plan", "--no-refresh", "--explain", *arguments, **options).out
    listed = out.partition("where each field comes from:")[2]
    pairs = (line.partition("  # ") for line in listed.splitlines())
    return {field.strip(): origin for field, _, origin in pairs if origin}


def test_explain_reaches_into_manifests_customizations_and_templates(project: Project) -> None:
    project.write("""\
flowplan: 1
project: demo
runs:
  k:
    provider: kubernetes
    image: busybox:1.35
    kubernetes:
      namespace: data
      job: job.yaml
      customizations:
        - {op: add, path: /spec/template/spec/priorityClassName, value: high}
        - {op: add, path: /metadata/labels/from, value: patch}
  d:
    provider: docker
    template: template.json
    variables: {size: 64m}
""")
    (project.directory / "job.yaml").write_text(
        "apiVersion: batch/v1\nkind: Job\nspec:\n  completions: 3\n  template:\n    spec:\n      hostNetwork: true\n"
    )
    (project.directory / "template.json").write_text(
        json.dumps(
            {
                "job_configuration": {"image": "{{ image }}", "mem_limit": "{{ size }}"},
                "variables": {
                    "type": "object",
                    "properties": {
                        "image": {"type": "string", "default": "alpine:3"},
                        "size": {"type": "string"},
                    },
                },
            }
        )
    )
    lines = explained(project)
    by_field = {field.partition(":")[0]: origin for field, origin in lines.items()}
    assert by_field["spec.completions"] == "job.yaml:4"
    assert by_field["pod.hostNetwork"] == "job.yaml:7"
    assert "customizations[0]" in by_field["pod.priorityClassName"]
    assert "customizations[1]" in by_field["metadata.labels.from"]
    assert by_field["pod.containers[main].image"] == "flowplan.yaml:6"
    assert by_field["pod.restartPolicy"] == by_field["spec.backoffLimit"] == "default"
    assert by_field["Image"] == "template.json:1"
    assert by_field["HostConfig.Memory"] == "flowplan.yaml:16"


def test_what_history_knows_is_in_every_form(project: Project) -> None:
    project.write(
        "flowplan: 1\nproject: demo\nruns: {a: {provider: process, command: [sh, -c, '[ ! -e bad ]'], rerun: always}}\n"
    )
    for number in range(6):
        (project.directory / "bad").touch() if number == 3 else (project.directory / "bad").unlink(missing_ok=True)
        project.run("apply", "--yes", "flowplan.yaml")
    [change] = project.plan()["changes"]
    assert change["history"]["last"] == ["succeeded", "succeeded", "failed", "succeeded", "succeeded"]
    assert len(change["history"]["durations"]) == 5
    for form in ("text", "markdown"):
        assert "last 5: 4 succeeded, 1 failed" in project.ok("plan", "--format", form).out


# -- machine forms --------------------------------------------------------------------------------------------------------


def test_json_into_writes_the_machine_form_while_people_read(project: Project) -> None:
    project.write(SLEEP.replace("sleep 600", "exit 0"))
    told = project.ok("plan", "--json-into", "plan-form.json")
    assert "to create" in told.out
    document = json.loads((project.directory / "plan-form.json").read_text())
    assert schema_faults(document, "plan") == []
    told = project.ok("apply", "--yes", "--json-into", "apply-form.json", "flowplan.yaml")
    assert "to create" in told.err
    assert json.loads((project.directory / "apply-form.json").read_text())["digest"] == document["digest"]
    project.ok("apply", "--yes", "--format", "json", "--json-into", "nothing.json", "flowplan.yaml")
    assert json.loads((project.directory / "nothing.json").read_text())["summary"]["no_op"] == 2


def test_apply_format_json_streams_one_event_a_line_and_nothing_else(project: Project) -> None:
    project.write(SLEEP.replace("sleep 600", "exit 3"))
    told = project.ok("apply", "--yes", "--format", "json", code=3)
    events = [json.loads(line) for line in told.out.splitlines()]
    assert [schema_faults(event, "event") for event in events] == [[]] * len(events)
    assert {(e["address"], e["status"]) for e in events} >= {("work", "failed"), ("other", "succeeded")}
    assert [e["seq"] for e in events] == sorted(e["seq"] for e in events)
    assert "work | one" in told.err
    assert schema_faults(project.ok("status", "--format", "json").json, "status") == []
    assert [schema_faults(event, "event") for event in project.events()] == [[]] * len(project.events())
    assert [e["seq"] for e in project.events("--after", "2")] == [e["seq"] for e in project.events()][2:]


def test_every_form_of_a_plan_with_every_action_fits_its_schema(project: Project) -> None:
    project.write(SLEEP)
    project.ok("apply", "--yes", "--detach")
    project.await_status("other", "succeeded")
    project.write(SLEEP.replace("echo one", "echo two").replace("  other:", "  third:"))
    for options in ([], ["--refresh-only"], ["--destroy"], ["--no-refresh"], ["--rerun", "work"]):
        assert schema_faults(project.plan(*options), "plan") == []


def test_the_summary_file_is_appended(project: Project) -> None:
    project.write(SLEEP)
    (project.directory / "summary.md").write_text("before\n")
    project.ok("plan", "--summary-file", "summary.md")
    text = (project.directory / "summary.md").read_text()
    assert text.startswith("before\n") and "<!-- flowplan:project=demo" in text
    assert text.partition("before\n")[2].rstrip() == project.ok("plan", "--format", "markdown").out.rstrip()


def test_an_unknown_format_of_a_plan_file_is_refused(project: Project) -> None:
    project.write(SLEEP)
    project.ok("plan", "--out", "reviewed.json")
    document = json.loads((project.directory / "reviewed.json").read_text())
    (project.directory / "newer.json").write_text(json.dumps(document | {"format_version": "2.0"}))
    for command in (["apply", "--yes"], ["show"], ["plan", "--check"]):
        assert "2.0" in project.ok(*command, "newer.json", code=7).err


# -- secrets --------------------------------------------------------------------------------------------------------------

FIELDS = """\
flowplan: 1
project: demo
variables:
  plain: {type: string, sensitive: true}
  nested: {type: map, sensitive: true}
providers:
  cluster: {type: kubernetes, kubeconfig: {apiVersion: v1, kind: Config, current-context: c,
    clusters: [{name: c, cluster: {server: "http://127.0.0.1:9"}}], contexts: [{name: c, context: {cluster: c, user: u}}],
    users: [{name: u, user: {token: "${var.plain}"}}]}}
runs:
  p:
    provider: process
    command: [echo, "${var.plain}"]
    working_dir: "/tmp"
    env: {A: {from_env: CANARY_ENV}, B: {from_file: canary.txt}, C: "a ${var.plain} b", D: "${var.nested.key}"}
  d:
    provider: docker
    image: busybox:1.35
    env: {A: {from_env: CANARY_ENV}, B: {from_file: canary.txt}, C: "a ${var.plain} b", D: "${var.nested.key}"}
    docker:
      registry_credentials: {registry_url: "http://127.0.0.1:9", username: u, password: "${var.plain}"}
  k:
    provider: cluster
    image: busybox:1.35
    env: {A: {from_env: CANARY_ENV}, B: {from_file: canary.txt}, C: "a ${var.plain} b", D: "${var.nested.key}"}
"""
CANARIES = {
    "CANARY_ENV": "c4n4ry-env/+=",
    "FLOWPLAN_VAR_plain": "c4n4ry-plain\"'",
    "FLOWPLAN_VAR_nested": "{key: c4n4ry-nested}",
}


def test_secrets_in_every_field_that_takes_one_appear_in_no_form(project: Project) -> None:
    project.write(FIELDS)
    (project.directory / "canary.txt").write_text("c4n4ry-file\nsecond-c4n4ry-line\n")
    told = []
    for form in ("text", "json", "markdown"):
        for options in ([], ["--explain", "--full"]):
            told.append(project.ok("plan", "--no-refresh", "--format", form, *options, env=CANARIES))
    told.append(
        project.ok(
            "plan", "--no-refresh", "--out", "o.json", "--json-into", "j.json", "--summary-file", "s.md", env=CANARIES
        )
    )
    assert "(sensitive" in told[0].out
    everything = "".join(t.out + t.err for t in told).encode()
    (project.directory / "canary.txt").unlink()
    for path in project.directory.rglob("*"):
        everything += path.read_bytes() if path.is_file() and path.name != "flowplan.yaml" else b""
    assert b"c4n4ry" not in everything


# -- docker ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def container(project: Project) -> Iterator[str]:
    """Return the spec of a running container, of a project of its own; its name is ``<project>-a-1``."""
    name = f"review-{uuid.uuid4().hex[:8]}"
    yield (
        f"flowplan: 1\nproject: {name}\nruns:\n  a:\n    provider: docker\n    image: busybox:1.35\n"
        "    command: [sh, -c, 'trap \"exit 0\" TERM; while :; do sleep 0.1; done']\n    grace_period: 1s\n"
        "    docker: {mem_limit: 64m, memswap_limit: 128m}\n"
    )
    found = subprocess.run(
        ["docker", "ps", "-aq", "--filter", f"label=dev.flowplan.project={name}"],
        capture_output=True,
        text=True,
        check=True,
    )
    for one in found.stdout.split():
        subprocess.run(["docker", "rm", "-f", one], check=False, capture_output=True)


def live_memory(name: str) -> int:
    shown = subprocess.run(
        ["docker", "inspect", "-f", "{{.HostConfig.Memory}}", name], capture_output=True, text=True, check=True
    )
    return int(shown.stdout)


@pytest.mark.docker
def test_drift_is_told_apart_from_status_and_can_be_recorded_or_undone(project: Project, container: str) -> None:
    project.write(container)
    project.ok("apply", "--yes", "--detach")
    name = project.status()["a"]["name"]
    assert project.plan("--refresh-only")["changes"][0]["action"] == "no-op"
    subprocess.run(
        ["docker", "update", "--memory", "80m", "--memory-swap", "160m", name], check=True, capture_output=True
    )
    [change] = project.plan("--refresh-only", "--out", "drift.json")["changes"]
    memory = next(f for f in change["fields"] if f["path"].endswith("/Memory"))
    assert memory["drift"] and (memory["recorded"], memory["after"]) == (64 << 20, 80 << 20)
    for form in ("text", "markdown"):
        told = project.ok("plan", "--refresh-only", "--format", form).out
        assert "Memory" in told and "1 to record" in told and "nothing on an engine is touched" in told
    [back] = project.plan()["changes"]
    assert back["action"] == "update" and any("on the engine" in r for r in back["reasons"])
    project.ok("apply", "--yes", "--detach", "drift.json")
    assert live_memory(name) == 80 << 20, "recording changes nothing on the engine"
    assert project.plan("--refresh-only")["changes"][0]["action"] == "no-op"
    [change] = project.plan()["changes"]
    assert change["action"] == "update" and not any(f.get("drift") for f in change["fields"])
    project.ok("apply", "--yes", "--detach", "flowplan.yaml")
    assert live_memory(name) == 64 << 20
    assert project.actions() == {"a": "no-op"}


@pytest.mark.docker
@pytest.mark.parametrize("how", ["stop_first", "start_first"])
def test_replacing_a_container_leaves_one(project: Project, container: str, how: str) -> None:
    project.write(container + f"    replace: {how}\n")
    project.ok("apply", "--yes", "--detach")
    project.write(container.replace("sleep 0.1", "sleep 0.2") + f"    replace: {how}\n")
    told = project.ok("apply", "--yes", "--detach", "flowplan.yaml")
    assert "replace" in told.err
    label = f"label=dev.flowplan.project={container.split()[3]}"
    listed = subprocess.run(["docker", "ps", "-aq", "--filter", label], capture_output=True, text=True, check=True)
    assert len(listed.stdout.split()) == 1
    assert project.status()["a"]["attempt"] == 2


@pytest.mark.docker
def test_explain_and_reasons_of_a_container(project: Project, container: str) -> None:
    project.write(container)
    project.ok("apply", "--yes", "--detach")
    project.write(container.replace("busybox:1.35", "busybox:1.35.0"))
    [change] = project.plan("--no-preflight")["changes"]
    assert change["reasons"] == ["Image changed"] or change["reasons"] == ["image changed"]
    assert change["fields"][0]["origin"] == "flowplan.yaml:6"
    assert "flowplan.yaml:6" in project.ok("plan", "--explain", "--no-preflight").out
    assert Path(project.directory / ".flowplan/plan.json").exists()


# -- many runs ------------------------------------------------------------------------------------------------------------

MANY = """\
flowplan: 1
project: demo
variables: {tag: {type: string, default: "1.4"}}
runs:
  cell:
    provider: process
    command: ['true', "image:${var.tag}", "${each.n}"]
    matrix: {n: {from: 1, to: COUNT}}
"""


def test_one_image_bump_over_thirty_cells_is_one_group_under_4_kb(project: Project) -> None:
    project.write(MANY.replace("COUNT", "30"))
    project.ok("apply", "--yes", "--parallelism", "30")
    for form in ("text", "markdown"):
        out = project.ok("plan", "--var", "tag=1.5", "--format", form).out
        assert len(out.encode()) < 4096 and out.count("image:1.5") == {"text": 1, "markdown": 2}[form], out
        assert "30 to replace" in out


def test_three_hundred_runs_stay_below_the_limit_of_a_comment(project: Project) -> None:
    project.write(MANY.replace("COUNT", "300"))
    project.ok("apply", "--yes", "--parallelism", "50", "--no-stream", timeout=120)
    project.write(
        MANY.replace("COUNT", "150").replace('"image:${var.tag}"', '"image:${var.tag}-${each.n}"')
        + "  " + "\n  ".join(f"other{n}: {{provider: process, command: ['true', '{'x' * 300}{n}']}}" for n in range(150))
    )  # fmt: skip
    plan = project.plan()
    assert (plan["summary"]["replace"], plan["summary"]["destroy"], plan["summary"]["create"]) == (150, 150, 150)
    out = project.ok("plan", "--format", "markdown").out
    assert len(out.encode()) <= 65_536
    table = out.partition("| | action |")[2].partition("\n\n")[0].replace("&#91;", "[").replace("&#93;", "]")
    rows = {
        action: [row for row in table.splitlines() if f"**{action}** |" in row] for action in ("destroy", "replace")
    }
    for action, expected in (("destroy", range(151, 301)), ("replace", range(1, 151))):
        grouped = sum(int(n) for row in rows[action] for n in re.findall(r"\| (\d+) runs", row))
        alone = {int(n) for row in rows[action] if " runs" not in row for n in re.findall(r"cell\[n=(\d+)\]", row)}
        assert grouped + len(alone) == 150 and alone <= set(expected), "every one is in the table, alone or in a group"


# -- kubernetes -----------------------------------------------------------------------------------------------------------


@pytest.mark.kubernetes
def test_drift_of_a_job_names_who_changed_it(project: Project) -> None:
    from flowplan.providers.kubernetes.connection import endpoint
    from flowplan.providers.kubernetes.requests import Api

    name = f"review-{uuid.uuid4().hex[:8]}"
    api = Api(endpoint({}, Path("/")))
    make_namespace(api, name)
    try:
        project.write(
            f"flowplan: 1\nproject: {name}\nruns:\n  a:\n    provider: kubernetes\n    image: busybox:1.35\n"
            f"    command: [sleep, '600']\n    timeout: 600\n    grace_period: 1s\n    kubernetes: {{namespace: {name}}}\n"
        )
        project.ok("apply", "--yes", "--detach")
        assert project.actions() == {"a": "no-op"}
        job = f"/apis/batch/v1/namespaces/{name}/jobs/{project.status()['a']['name']}"
        api.call(
            "PATCH", job, {"fieldManager": "mallory"}, {"spec": {"activeDeadlineSeconds": 900}},
            content="application/merge-patch+json",
        )  # fmt: skip
        [change] = project.plan("--refresh-only", "--out", "drift.json")["changes"]
        [field] = change["fields"]
        assert (field["path"], field["recorded"], field["after"]) == ("/Job/spec/activeDeadlineSeconds", 600, 900)
        assert field["manager"] == "mallory"
        for form in ("text", "markdown"):
            assert "mallory" in project.ok("plan", "--format", form).out
        assert project.actions() == {"a": "update"}
        project.ok("apply", "--yes", "--detach", "drift.json")
        assert api.get(job)["spec"]["activeDeadlineSeconds"] == 900
        project.ok("apply", "--yes", "--detach", "flowplan.yaml")
        assert api.get(job)["spec"]["activeDeadlineSeconds"] == 600
        assert project.actions() == {"a": "no-op"}
        project.ok("destroy", "--yes")
    finally:
        api.call("DELETE", f"/api/v1/namespaces/{name}")
        api.close()


def test_what_needs_a_run_starts_again_with_it_also_after_an_interruption(project: Project) -> None:
    spec = """
        flowplan: 1
        project: chain
        defaults: {provider: process}
        runs:
          extract: {command: [sh, -c, 'test ! -e broken']}
          transform: {needs: extract, rerun_with: needs, command: ['true']}
          report: {needs: transform, command: ['true']}
    """
    project.write(textwrap.dedent(spec))
    project.ok("apply", "--yes")
    (project.directory / "broken").touch()
    assert reasons(project, "--rerun", "extract", "--out", "p.json")["transform"] == ["extract starts again"]
    project.ok("apply", "--yes", "p.json", code=3)
    (project.directory / "broken").unlink()
    assert project.actions() == {"extract": "rerun", "transform": "rerun", "report": "no-op"}
    project.ok("apply", "--yes", "--target", "extract")
    assert reasons(project)["transform"] == ["extract started again since"]
    project.ok("apply", "--yes")
    assert set(project.actions().values()) == {"no-op"}

    assert reasons(project, "--rerun", "extract+", "--out", "all.json")["report"] == [
        "transform starts again, requested by --rerun extract+"
    ]
    applied = project.ok("apply", "--yes", "all.json")
    assert "3 started again" in applied.err
    assert set(project.actions().values()) == {"no-op"}
