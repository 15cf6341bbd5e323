"""Plan files: an exact round trip, deterministic bytes, and a seal that no edit keeps."""

from __future__ import annotations

import contextlib
import copy
import stat
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans_by_hand import plan_document

from flowplan.schemas.errors import FlowplanError, InvalidInput, PlanStale
from flowplan.schemas.events import Event
from flowplan.schemas.plan_documents import (
    change_digest,
    parse_plan,
    plan_digest,
    plan_json,
    read_plan,
    schema_faults,
    sealed_json,
    unsealed,
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
        "digest": "",
        "lineage": LINEAGE,
        "serial": 4,
        "spec_path": "spec.yaml",
        "spec_digest": "sha256:" + "0" * 64,
        "flowplan_version": "0.1.0",
    }
    made = Plan(changes=changes, **(facts | more))
    return replace(made, digest=plan_digest(made))


KEY = b"k" * 32
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
    assert parse_plan(plan_document(FULL), "p") == FULL


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
    write_plan(FULL, one, KEY)
    write_plan(read_plan(one).plan, two, KEY)
    assert one.read_bytes() == two.read_bytes()
    assert stat.S_IMODE(one.stat().st_mode) == 0o600
    assert [p.name for p in one.parent.iterdir()] == ["a.json"]


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FlowplanError, match="cannot be written"):
        write_plan(FULL, tmp_path / "file" / "plan.json", KEY)


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


WHAT_IT_DOES = ("changes", "providers", "targets", "secrets", "spec", "mode", "state", "digest")


@pytest.mark.parametrize("path", [path for path, _ in leaves(plan_document(FULL))], ids=str)
def test_no_edit_of_what_a_plan_does_keeps_its_digest(path: tuple[Any, ...]) -> None:
    """Edit everything that the digest covers; what is only shown is left to the seal."""
    document = plan_document(FULL)
    told = (
        "reasons",
        "fields",
        "run",
        "warnings",
        "preflight",
        "history",
        "origins",
        "interrupts",
        "skipped",
        "before",
    )
    silent = (
        path[0] not in WHAT_IT_DOES or "label" in path or "serial" in path or (path[0] == "changes" and path[2] in told)
    )
    left_out = path[:2] == ("changes", 1)
    with contextlib.suppress(InvalidInput, PlanStale):
        parse_plan(edited(document, path), "p.json")
        assert silent or left_out or {"description", "stream_output"} & set(path), path


@given(st.data())
def test_any_other_byte_breaks_the_seal(data: st.DataObject) -> None:
    """Change, put in, take out, cut off and add bytes: only the file that was written is genuine."""
    text = sealed_json(FULL, KEY).encode()
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.binary(min_size=0, max_size=3))
    length = data.draw(st.integers(0, 3))
    mutated = text[:at] + other + text[at + length :]
    if mutated != text:
        assert not genuine(mutated)


def genuine(text: bytes) -> bool:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "p.json"
        place.write_bytes(text)
        try:
            return unsealed(read_plan(place), place, LINEAGE, KEY) == ""
        except (InvalidInput, PlanStale):
            return False


def test_only_the_state_that_made_it_seals_a_plan(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    write_plan(FULL, file, KEY)
    assert unsealed(read_plan(file), file, LINEAGE, KEY) == ""
    assert "edited" in unsealed(read_plan(file), file, LINEAGE, b"other")
    assert "another state" in unsealed(read_plan(file), file, "0" * 36, KEY)
    file.write_text(plan_json(FULL))
    assert "no seal" in unsealed(read_plan(file), file, LINEAGE, KEY)


def test_the_time_of_planning_is_in_the_seal_and_in_no_printed_plan(tmp_path: Path) -> None:
    later = replace(FULL, made_at="2026-11-02T00:00:00.000Z")
    assert plan_json(later) == plan_json(FULL) and plan_digest(later) == plan_digest(FULL)
    file = tmp_path / "p.json"
    write_plan(later, file, KEY)
    assert read_plan(file).plan.made_at == later.made_at
    file.write_text(file.read_text().replace(later.made_at, "2026-11-03T00:00:00.000Z"))
    assert unsealed(read_plan(file), file, LINEAGE, KEY)


def test_a_newer_minor_version_is_read_and_a_newer_major_refused() -> None:
    newer = plan_document(FULL) | {"format_version": "1.7", "new": 1}
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


def digest(*changes: Change, **more: Any) -> str:
    return plan_digest(plan(*changes, **more))


def test_the_digest_is_about_what_is_done() -> None:
    base = change()
    unrelated = change("other", Action.NO_OP)
    left_out = change("third", skipped="protect: active")
    assert digest(base) == digest(unrelated, left_out, base)
    assert digest(base, change("z")) == digest(change("z"), base)


ENGINE = {"type": "docker", "id": "X", "label": "unix:///a (one)"}


@pytest.mark.parametrize(
    "where",
    [
        {"mode": "destroy"},
        {"lineage": "1" * 36},
        {"spec_path": "other.yaml"},
        {"spec_digest": "sha256:" + "1" * 64},
        {"providers": {"docker": {"type": "docker", "host": "tcp://elsewhere:2375"}}},
        {"targets": {"docker": ENGINE | {"id": "Y"}}},
        {"secrets": {"(sensitive env:A 0123456789abcdef)": SecretSource("from_env", "OTHER")}},
    ],
)
def test_where_and_from_what_it_is_done_changes_the_digest(where: dict[str, Any]) -> None:
    usual = {
        "providers": {"docker": {"type": "docker"}},
        "targets": {"docker": ENGINE},
        "secrets": {"(sensitive env:A 0123456789abcdef)": SecretSource("from_env", "A")},
    }
    assert digest(change(), **usual) != digest(change(), **(usual | where))


def test_what_people_call_an_engine_changes_no_digest() -> None:
    other = ENGINE | {"label": "unix:///b (two)"}
    assert digest(change(), targets={"docker": ENGINE}) == digest(change(), targets={"docker": other})


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
        {"type": "kubernetes"},
        {"name": "n"},
        {"run_id": "r"},
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
    assert digest(change("b", Action.NO_OP, moved_from="a")) != digest()


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
