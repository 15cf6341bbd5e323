"""Plan files: an exact round trip, deterministic bytes, and every edit noticed."""

from __future__ import annotations

import copy
import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flowplan.schemas.errors import FlowplanError, InvalidInput
from flowplan.schemas.events import Event
from flowplan.schemas.plan_documents import (
    change_digest,
    document_integrity,
    parse_plan,
    plan_digest,
    plan_document,
    plan_json,
    read_plan,
    schema_faults,
    write_plan,
)
from flowplan.schemas.plans import ABSENT, Action, Change, FieldChange, Finding, Plan, RunFacts
from flowplan.schemas.runs import Settings
from flowplan.schemas.secrets import SecretSource
from flowplan.schemas.sources import Diagnostic, Position

LINEAGE = "6e0f4c1c-6d0f-4a52-9a3e-0d6a2d1f7c10"


def change(address: str = "extract", action: Action = Action.CREATE, **more: Any) -> Change:
    facts: dict[str, Any] = {
        "provider": "docker",
        "type": "docker",
        "reasons": ("new in spec.yaml",),
        "before": None,
        "after": {"Container": {"Name": address, "Config": {"Image": "etl:1", "Env": ["A=é", "B=\ud83d"]}}},
    }
    return Change(address=address, action=action, **(facts | more))


def plan(*changes: Change, **more: Any) -> Plan:
    facts: dict[str, Any] = {
        "project": "nightly",
        "digest": plan_digest(changes),
        "lineage": LINEAGE,
        "serial": 4,
        "spec_path": "spec.yaml",
        "spec_digest": "sha256:" + "0" * 64,
        "flowplan_version": "0.1.0",
    }
    return Plan(changes=changes, **(facts | more))


FULL = plan(
    change(
        "train",
        Action.REPLACE,
        before={"Job": {"spec": {"parallelism": 1, "x": None}}},
        fields=(
            FieldChange("/Job/a", 1, ABSENT, "replace", "rule", "spec.yaml:3"),
            FieldChange("/Job/b", ABSENT, None, "in_place", ""),
            FieldChange("/Job/c", 2, 3, "in_place", "", drift=True, recorded=1, manager="kubectl-edit"),
            FieldChange("/Job/d", 2, 3, "in_place", "", drift=True, recorded=ABSENT),
        ),
        run=RunFacts("running", 2, "id", started_at="2026-11-01T00:00:00Z", exit_code=None, name="n"),
        warnings=("resources are not enforced",),
        preflight=(Finding("train", "error", "image", "no such image", "build it"),),
        settings=Settings(needs=("extract",), timeout=3600.0, triggers={"a": "1"}, ignore_changes=("/Job/x",)),
        name="n",
        run_id="id",
        attempt=3,
        interrupts=True,
        live="abc",
        history={"last": ["succeeded"]},
        origins={"/Job/a": "spec.yaml:3"},
    ),
    change("old", Action.DESTROY, before={"Container": {}}, after=None, skipped="protected", moved_from="older"),
    variables={"tag": {"value": "1.4", "origin": "default"}},
    providers={"gpu": {"type": "kubernetes"}},
    targets={"gpu": {"type": "kubernetes", "id": "x", "label": "y"}},
    secrets={"(sensitive env:A 0123456789abcdef)": SecretSource("template", "${var.a}", ("a",))},
    diagnostics=(Diagnostic("odd", Position("spec.yaml", 3, 1), "runs.a", "do", "warning"),),
    mode="destroy",
    refreshed=False,
    expires_at="2026-11-01T00:00:00Z",
)


def test_a_plan_comes_back_as_it_was() -> None:
    assert parse_plan(json.loads(plan_json(FULL)), "p") == FULL
    assert parse_plan(plan_document(FULL), "p") == FULL


def test_the_file_holds_the_document() -> None:
    assert json.loads(plan_json(FULL)) == json.loads(json.dumps(plan_document(FULL)))


@pytest.mark.parametrize("made", [FULL, plan(), plan(*(change(a.value, a) for a in Action))])
def test_documents_keep_their_schema(made: Plan) -> None:
    assert schema_faults(plan_document(made), "plan") == []


def test_absent_is_a_missing_key_and_null_a_value() -> None:
    fields = plan_document(FULL)["changes"][0]["fields"]
    assert "after" not in fields[0] and "before" not in fields[1] and fields[1]["after"] is None


def test_the_summary_counts_what_is_left_out_as_nothing() -> None:
    document = plan_document(plan(change("a"), change("b", Action.DESTROY, skipped="protect: always")))
    counts = document["summary"]
    assert counts == dict.fromkeys(counts, 0) | {"create": 1, "no_op": 1}


def test_files_are_private_atomic_and_the_same_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "new" / "a.json", tmp_path / "b.json"
    write_plan(FULL, one)
    write_plan(read_plan(one), two)
    assert one.read_bytes() == two.read_bytes()
    assert stat.S_IMODE(one.stat().st_mode) == 0o600
    assert [p.name for p in one.parent.iterdir()] == ["a.json"]


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FlowplanError, match="cannot be written"):
        write_plan(FULL, tmp_path / "file" / "plan.json")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Any:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path, value


def edited(document: Any, path: tuple[Any, ...]) -> Any:
    document = copy.deepcopy(document)
    place = document
    for part in path[:-1]:
        place = place[part]
    old = place[path[-1]]
    place[path[-1]] = old + "x" if isinstance(old, str) else not old if isinstance(old, bool) else [old]
    return document


@pytest.mark.parametrize("path", [path for path, _ in leaves(plan_document(FULL))], ids=str)
def test_any_edit_is_noticed(path: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_plan(edited(plan_document(FULL), path), "p.json")
    assert "p.json" in str(caught.value)


def test_reformatting_is_no_edit() -> None:
    text = json.dumps(json.loads(plan_json(FULL)), indent=4, sort_keys=True, ensure_ascii=True)
    assert parse_plan(json.loads(text), "p") == FULL


def test_a_newer_minor_version_is_read_and_a_newer_major_refused() -> None:
    newer = plan_document(FULL) | {"format_version": "1.7", "new": 1}
    newer["integrity"] = document_integrity(newer)
    assert parse_plan(newer, "p") == FULL
    with pytest.raises(InvalidInput, match=r"format 2\.0 is unknown"):
        parse_plan(plan_document(FULL) | {"format_version": "2.0"}, "p")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "no format_version"),
        ("3", "no format_version"),
        ('{"format_version": 1}', "no format_version"),
        ('{"format_version": "1.0"}', "/: must have project, digest,"),
        ('{"format_version": "1.0", "changes": [3]}', "/changes/0: must be object, not the number 3"),
        ('{"format_version": "1.0", "changes": {}}', "/changes: must be array, not a mapping"),
        ("[" * 100_000, "not a plan file"),
    ],
)
def test_broken_files_are_explained(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(text)
    with pytest.raises(InvalidInput, match="plan") as caught:
        read_plan(file)
    assert said in str(caught.value)


def test_missing_and_binary_files_are_explained(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    for name, said in (("a", "cannot be read"), ("b", "not text")):
        with pytest.raises(InvalidInput, match=said):
            read_plan(tmp_path / name)


def test_an_action_of_the_future_is_named() -> None:
    document = plan_document(FULL)
    document["changes"][0]["action"] = "teleport"
    with pytest.raises(InvalidInput, match="teleport"):
        parse_plan(document, "p")


def test_the_digest_is_about_what_is_done() -> None:
    base = change()
    unrelated = change("other", Action.NO_OP)
    left_out = change("third", skipped="protect: active")
    assert plan_digest([base]) == plan_digest([unrelated, left_out, base])
    assert plan_digest([base, change("z")]) == plan_digest([change("z"), base])


@pytest.mark.parametrize(
    "same",
    [
        {"reasons": ("other words",)},
        {"warnings": ("w",)},
        {"history": {"last": []}},
        {"origins": {"/a": "b"}},
        {"preflight": (Finding("extract", "error", "image", "gone"),)},
        {"settings": Settings(description="words", stream_output=False)},
    ],
)
def test_remarks_do_not_change_the_digest(same: dict[str, Any]) -> None:
    assert change_digest(replace(change(), **same)) == change_digest(change())


@pytest.mark.parametrize(
    "other",
    [
        {"action": Action.RERUN},
        {"after": {"Container": {"Name": "extract"}}},
        {"attempt": 2},
        {"live": "f"},
        {"provider": "gpu"},
        {"settings": Settings(timeout=1)},
        {"settings": Settings(needs=("a",))},
    ],
)
def test_what_is_done_changes_the_digest(other: dict[str, Any]) -> None:
    assert change_digest(replace(change(), **other)) != change_digest(change())


def test_a_destroy_is_about_what_was_there() -> None:
    gone = change("a", Action.DESTROY, before={"Container": {"Name": "a"}}, after=None)
    assert change_digest(gone) != change_digest(replace(gone, before={"Container": {"Name": "b"}}))


def test_a_move_that_touches_no_run_still_counts() -> None:
    assert plan_digest([change("b", Action.NO_OP, moved_from="a")]) != plan_digest([])


def test_events_and_status_keep_their_schemas() -> None:
    event = Event(1, "2026-11-01T00:00:00Z", None, "a", "id", 1, "running").document()
    assert schema_faults(event, "event") == []
    run = {
        "address": "a",
        "provider": "docker",
        "target": {"type": "docker", "id": "x", "label": ""},
        "name": "n",
        "run_id": "id",
        "attempt": 1,
        "status": "failed",
        "reason": "OOMKilled",
        "message": "",
        "exit_code": None,
        "attempts": 1,
        "created_at": None,
        "started_at": None,
        "finished_at": None,
        "infrastructure_id": "",
    }
    status = {"format_version": "1.0", "project": "p", "serial": 1, "runs": [run]}
    assert schema_faults(status, "status") == []
    assert schema_faults({"format_version": "1.0"}, "status") != []
