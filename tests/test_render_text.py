"""What people read on a terminal: dangers first, each change once, nothing that a terminal could obey."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from plans_by_hand import EVERYTHING, FIELDS, POD, RULE, change, image_bump, job, live, plan, rerun
from rendered import KINDS, plan_text

from flowplan.render.differences import View, shown
from flowplan.render.objects import object_lines, place
from flowplan.render.signs import SIGNS
from flowplan.render.tables import event_lines, status_table, table
from flowplan.render.units import duration, units_of
from flowplan.schemas.plan_documents import plan_json
from flowplan.schemas.plans import ABSENT, Action, FieldChange, Finding, Plan, RunFacts
from flowplan.schemas.runs import Settings
from flowplan.schemas.text import harmless

GOLDEN = Path(__file__).parent / "golden"
NOW = datetime(2026, 11, 1, 11, 12, tzinfo=UTC)
CELLS = plan(
    *(
        image_bump(f"backfill[date=2026-11-{day:02d},shard={shard}]", settings=Settings(group="backfill"))
        for day in range(1, 11)
        for shard in range(3)
    )
)


def text(made: Plan, **options: Any) -> str:
    return "\n".join(plan_text(made, **({"colour": False, "now": NOW} | options))) + "\n"


def golden(name: str, written: str) -> None:
    """Compare with a golden file; FLOWPLAN_WRITE_GOLDEN=1 writes it."""
    file = GOLDEN / name
    if os.environ.get("FLOWPLAN_WRITE_GOLDEN"):
        file.write_text(written, "utf-8")
    assert written == file.read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "made", "options"),
    [
        ("everything", EVERYTHING, {}),
        ("everything_full", EVERYTHING, {"full": True}),
        ("everything_in_context", EVERYTHING, {"context": 2}),
        ("everything_without_now", EVERYTHING, {"now": None}),
        ("cells", CELLS, {}),
        ("nothing", plan(change("a", Action.NO_OP, run=RunFacts("succeeded", 1, "x"))), {}),
        ("empty", plan(), {}),
        ("offline_destroy", plan(change("a", Action.DESTROY, reasons=("destroy was asked for",)), mode="destroy", refreshed=False), {}),
        ("explained", plan(change("a", Action.CREATE, origins={"/Job": "default", f"{POD}image": "spec.yaml:3"})), {"explain": True}),
    ],
)  # fmt: skip
def test_golden_texts(name: str, made: Plan, options: dict[str, Any]) -> None:
    golden(f"{name}.txt", text(made, **options))


def test_golden_json() -> None:
    golden("everything.json", plan_json(EVERYTHING))


def test_the_verdict_is_first_and_last() -> None:
    lines = text(EVERYTHING).splitlines()
    verdict = "Plan for nightly: 1 to replace, 1 to destroy,"
    assert lines[0].startswith(verdict)
    assert any(line.startswith(verdict) for line in lines[-5:])
    assert lines[-2] == "To do exactly this: flowplan apply"


def test_no_changes_say_so_and_name_no_command() -> None:
    said = text(plan(change("a", Action.NO_OP)))
    assert said.startswith("No changes. 1 run is as wanted in nightly.\n") and "flowplan apply" not in said


def test_danger_comes_before_any_change() -> None:
    lines = text(EVERYTHING).splitlines()
    stops = lines.index("! Stops 1 run that is live:")
    assert lines[stops + 1].strip() == "train  running since 2026-11-01T08:00:00Z (3h 12m)"
    assert stops < next(n for n, line in enumerate(lines) if line.startswith("-/+"))


@pytest.mark.parametrize("made", [EVERYTHING, CELLS], ids=["everything", "cells"])
def test_eighty_columns_are_enough(made: Plan) -> None:
    long = [line for line in text(made).splitlines() if len(line) > 80]
    assert [line for line in long if not line.startswith(("Digest: ", "    guarded  "))] == []


def test_thirty_cells_are_one_group_under_4_kb() -> None:
    said = text(CELLS)
    assert said.count("etl:1.4 -> etl:1.5") == 1 and len(said) < 4096
    for one in CELLS.changes:
        assert one.address.removeprefix("backfill") in said


def test_a_different_cell_is_not_hidden_in_the_group() -> None:
    odd = image_bump("backfill[date=2026-11-30,shard=0]", new="etl:9", settings=Settings(group="backfill"))
    said = text(plan(*CELLS.changes, odd))
    assert "etl:1.4 -> etl:9" in said and "30 runs of backfill" in said


def test_short_cell_values_do_not_tear_groups_apart() -> None:
    bumps = [image_bump(f"w[i={i}]", "etl:1", "etl:2") for i in range(4)]
    assert "4 runs of w" in text(plan(*bumps))


def test_what_differs_between_created_cells_is_listed() -> None:
    created = [
        change(f"load[day={d}]", Action.CREATE, after=job(f"load-day-{d}--2", command=("x", f"0{d}", f"{d * 7}Gi")))
        for d in (1, 2)
    ]
    said = text(plan(*created))
    assert "2 runs of load" in said
    assert all(value in said for value in ('"7Gi"', '"14Gi"', '"01"', '"02"'))


def test_runs_that_differ_too_much_are_shown_apart() -> None:
    created = [change(f"x[i={i}]", Action.CREATE, after=job("x", command=("y",) * (i + 1))) for i in range(3)]
    assert text(plan(*created)).count("create (gpu)") == 3


def test_equal_reruns_are_one_group_whenever_they_failed() -> None:
    said = text(plan(rerun("a", "2026-11-01T08:00:00Z"), rerun("b", "2026-11-01T09:00:00Z")))
    assert "2 runs  rerun" in said and "OOMKilled\n" in said
    assert "OOMKilled 3h 12m ago" in text(plan(rerun("a")))


def test_only_used_signs_are_explained() -> None:
    assert "\n+ create\n" in text(plan(change("a", Action.CREATE)))


@pytest.mark.parametrize("action", [a for a in Action if a is not Action.NO_OP])
def test_every_action_has_its_sign_in_front(action: Action) -> None:
    assert re.search(rf"^{re.escape(SIGNS[action])} +a  ", text(plan(change("a", action))), re.MULTILINE)


def test_each_field_says_what_it_forces() -> None:
    said = text(plan(change("a", Action.REPLACE, fields=FIELDS)))
    assert said.count("forces replacement: Job.spec.template is immutable") == 5
    assert len(re.findall("# in place", said)) == 3
    assert "changed on the engine by kubectl-edit" in said


def test_unchanged_fields_are_counted() -> None:
    field = FieldChange(f"{POD}command", ["a"], ["train.py", "--lr", "0.1"], "replace", RULE)
    assert "(7 unchanged fields not shown)" in text(plan(change("a", Action.REPLACE, fields=(field,))))


def test_what_history_knows() -> None:
    assert "last 5: 4 succeeded, 1 failed; 12m to 15m" in text(EVERYTHING)


def test_replacement_policies_are_told() -> None:
    def said(policy: str, interrupts: bool) -> str:
        return text(plan(image_bump("a", settings=Settings(replace=policy), interrupts=interrupts, run=live())))

    assert "stops the live attempt, then starts anew" in said("stop_first", True)
    assert "the new attempt starts, then the live one is stopped" in said("start_first", True)
    assert "the live attempt ends first" in said("after_finish", False)


def test_colour_adds_nothing_but_codes() -> None:
    painted = text(EVERYTHING, colour=True)
    assert "\x1b[" in painted
    assert re.sub(r"\x1b\[\d+m", "", painted) == text(EVERYTHING)


def test_it_is_a_stream() -> None:
    many = plan(*(change(f"r{i}", Action.CREATE, after=job(f"r{i}", image=f"i:{i}")) for i in range(50)))
    assert next(plan_text(many, colour=False)).startswith("Plan for nightly: 50 to create")


HOSTILE = "\x1b[2J\x07\r\n`|<b>\u202e\u2028\x9b31m\ud800é"


def test_content_cannot_drive_the_terminal() -> None:
    evil = change(
        HOSTILE,
        Action.REPLACE,
        provider=HOSTILE,
        reasons=(HOSTILE,),
        after=job(HOSTILE),
        fields=(
            FieldChange(f"/{HOSTILE}", HOSTILE, HOSTILE + "x", "replace", HOSTILE),
            FieldChange("/a", [HOSTILE], [HOSTILE, "b"], "in_place", "", drift=True, recorded=HOSTILE, manager=HOSTILE),
            FieldChange("/b", {"k": HOSTILE}, {HOSTILE: 1}, "in_place", ""),
        ),
        interrupts=True,
        run=RunFacts(HOSTILE, 1, "x", started_at=HOSTILE),
        warnings=(HOSTILE,),
        preflight=(Finding(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE),),
        settings=Settings(needs=(HOSTILE,)),
        history={"last": [HOSTILE]},
        origins={"/Job": HOSTILE},
    )
    created = replace(evil, address="x", action=Action.CREATE, before=None, fields=(), moved_from=HOSTILE)
    skipped = replace(evil, address="y", skipped=HOSTILE)
    made = plan(evil, created, skipped, project=HOSTILE, digest=HOSTILE, diagnostics=(HOSTILE,))
    for options in ({}, {"full": True}, {"context": 3}, {"explain": True}):
        for line in plan_text(made, colour=False, apply_command=HOSTILE, **options):  # type: ignore[arg-type]
            assert line == harmless(line)


@pytest.mark.parametrize(
    ("before", "after", "one_line"),
    [
        (1, 2, ("1", "2")),
        ("a", "b", ("a", "b")),
        ("1", 1, ('"1"', "1")),
        (None, "null", ("null", '"null"')),
        (ABSENT, "a", (None, "a")),
        ("a", ABSENT, ("a", None)),
        (ABSENT, None, (None, "null")),
        (True, "yes", ("true", '"yes"')),
        ("", " ", ('""', '" "')),
    ],
)
def test_small_values_stand_on_one_line(before: Any, after: Any, one_line: tuple[str | None, str | None]) -> None:
    how = shown(before, after)
    assert (how.before, how.after) == one_line and not how.lines


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (["a", "b", "c"], ["a", "x", "c"], [("~", "a [-b-]{+x+} c")]),
        (["a"], ["a", "b c"], [("~", 'a {+"b c"+}')]),
        ('{"a": 1}', '{"a": 2}', [("~", "a: 1 -> 2")]),
        ("a: 1\nb: 2\n", "a: 1\nb: 3\n", [(" ", "a: 1"), ("-", "b: 2"), ("+", "b: 3")]),
        ("x\ny\n", "x\nz\n", [(" ", "x"), ("-", "y"), ("+", "z")]),
        ("a: 1\nb: 2\n", "#evil\na: 1\nb: 3\n", [("+", "#evil"), (" ", "a: 1"), ("-", "b: 2"), ("+", "b: 3")]),
        ("x\n", "x", [(" ", "x"), ("-", "")]),
        ([{"name": "A", "value": "1"}], [{"name": "A", "value": "2"}, {"name": "B"}],
         [("~", '[A].value: "1" -> "2"'), ("+", "[B]:"), ("+", "  name: B")]),
        ([1, 2, 3], [1, 3], [("-", "[1]: 2")]),
        ({"a": {"b": 1}}, {"a": {"b": 2}, "c": 3}, [("~", "a.b: 1 -> 2"), ("+", "c: 3")]),
    ],
)  # fmt: skip
def test_larger_values_are_compared_part_by_part(before: Any, after: Any, lines: list[tuple[str, str]]) -> None:
    assert list(shown(before, after).lines) == lines


def test_long_commands_are_compared_word_by_word() -> None:
    command = "python -m train --data /mnt/a --epochs {} --seed 1 --out /mnt/b"
    assert shown(command.format(5), command.format(6)).lines == (
        ("~", "python -m train --data /mnt/a --epochs [-5-]{+6+} --seed 1 --out /mnt/b"),
    )


def test_what_a_parsed_value_would_hide_is_shown_as_it_is() -> None:
    how = shown('{"a": 1, "b": 1}', '{"a": "evil", "a": 1, "b": 2}')
    assert "evil" in str(how)
    assert "0x10" in str(shown("a: 16\nb: 2\n", "a: 0x10\nb: 3\n")) and "1.0" in str(shown('{"a": 1.00}', '{"a": 2}'))


@pytest.mark.parametrize(
    "sign", ["\u00a0", "\u2003", "\u3000", "\u200b", "\u2800", "\u3164", "\ufe0f", "\U000e0101", "\u206a"]
)
def test_signs_that_cannot_be_seen_are_spelled_out(sign: str) -> None:
    assert harmless(f"a{sign}b").isascii()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b c", "- d", "true", "1"]), JSON, min_size=1, max_size=3))
def test_objects_are_yaml_that_means_the_same(value: dict[str, Any]) -> None:
    lines = list(object_lines(value))
    assert all(harmless(line) == line for line in lines)
    if all(harmless(part) == part for part in _strings(value)):
        assert yaml.safe_load("\n".join(lines)) == value


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [s for k, v in value.items() for s in (k, *_strings(v))]
    return (
        [s for v in value for s in _strings(v)]
        if isinstance(value, list)
        else [value]
        if isinstance(value, str)
        else []
    )


@settings(max_examples=150, deadline=None)
@given(JSON, JSON)
def test_any_two_values_can_be_compared(before: Any, after: Any) -> None:
    how = shown(before, after)
    for line in (how.before or "", how.after or "", *(text for _, text in how.lines)):
        assert harmless(line) == line


AMOUNTS = st.none() | st.integers(-1, 1 << 63) | st.floats(0, 1e12) | st.sampled_from(["64m", "10s", "1 CPUs", "none"])


@given(AMOUNTS, AMOUNTS, st.sampled_from(sorted(units_of(KINDS))))
def test_amounts_that_differ_look_different(before: Any, after: Any, field: str) -> None:
    how = shown(before, after, View(1, units_of(KINDS)), f"/Container/{field}")
    assert (how.before == how.after) == (before == after)


def test_nested_amounts_are_shown_as_people_write_them() -> None:
    view = View(1, units_of(KINDS))
    before, after = ([{"Target": "/x", "TmpfsOptions": {"SizeBytes": size << 20}}] for size in (10, 20))
    assert shown(before, after, view).lines == (("~", "[0].TmpfsOptions.SizeBytes: 10m -> 20m"),)
    assert (
        list(object_lines({"Healthcheck": {"Interval": 90 * 10**9}}, view.units))[1]
        == "  Interval: 90000000000  # 1m30s"
    )


def test_runs_of_a_group_differ_in_amounts_as_people_write_them() -> None:
    cells = [
        change(f"a[n={n}]", Action.CREATE, after={"Container": {"Config": {"HostConfig": {"Memory": (n + 1) << 20}}}})
        for n in range(2)
    ]
    assert "[n=0]  1m\n    [n=1]  2m\n" in text(plan(*cells))


def test_fields_are_in_the_order_of_the_api() -> None:
    container = {
        "env": [{"value": "1", "name": "A"}],
        "args": ["x"],
        "image": "i",
        "tty": True,
        "command": ["c"],
        "name": "main",
    }
    made = {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}, "completions": 2}}
    made |= {
        "metadata": {"labels": {"name": "b", "apiVersion": "a"}, "name": "n"},
        "kind": "Job",
        "apiVersion": "batch/v1",
    }
    for full in (False, True):
        shown_text = text(plan(change("a", Action.CREATE, after={"Job": made})), full=full)
        keys = re.findall(r"(?m)^    \+ [ -]*(\w+):", shown_text)[2:]
        words = "apiVersion kind metadata name labels name apiVersion spec completions template spec"
        assert " ".join(keys) == f"{words} containers name image command args env name value tty restartPolicy"


def test_texts_of_several_lines_are_blocks() -> None:
    assert list(object_lines({"a": "x\n  y\n", "b": ["p\nq"]})) == [
        "a: |",
        "  x",
        "    y",
        "b:",
        "  - |-",
        "    p",
        "    q",
    ]


def test_places_name_list_items() -> None:
    objects = job("a", LR="1")
    assert place(f"{POD}env/0/value", objects, kinds=KINDS) == "pod.containers[main].env[LR].value"
    assert place("/Job/metadata/labels/a~1b", objects, kinds=KINDS) == "metadata.labels[a/b]"
    assert place("/Container/Config/Env/3", kinds=KINDS) == "Env[3]"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0s"), (59.6, "1m"), (200, "3m 20s"), (11520, "3h 12m"), (180000, "2d 2h"), (3605, "1h")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


RUN = {
    "address": "train",
    "status": "failed",
    "reason": "OOMKilled",
    "message": "container main used more than 2Gi " * 5,
    "exit_code": 137,
    "attempt": 2,
    "attempts": 3,
    "started_at": "2026-11-01T08:00:00Z",
    "finished_at": "2026-11-01T08:03:20Z",
    "provider": "gpu",
    "name": "nightly-train-2",
}


def test_status_tables_fit_and_line_up() -> None:
    other = {"address": "extract[day=1]", "status": "running", "attempt": 1, "started_at": "2026-11-01T11:00:00Z"}
    head, *rows, last = status_table([RUN, other], now=NOW, width=110)
    assert rows[0].split()[:2] == ["extract[day=1]", "running"] and rows[0].split()[-3:] == ["11-01", "11:00", "12m"]
    assert "3m 20s" in rows[1] and "137" in rows[1] and "2 (3 tries)" in rows[1] and rows[1].endswith("...")
    assert all(len(line) <= 110 for line in (head, *rows))
    assert head.index("STATUS") == rows[1].index("failed") == rows[0].index("running")
    assert last == "1 of 2 runs: 1 failed"


def test_what_waits_is_told_beside_what_runs() -> None:
    run = {"address": "a", "status": "running", "exit_code": None, "attempt": 1, "place": 0}
    step = {"address": "b", "status": "waiting", "reason": "for a", "action": "create", "attempt": 1, "place": 1}
    failed = {"address": "c", "status": "failed", "exit_code": 3, "attempt": 2, "place": 2}
    _, *rows, last = status_table([run, failed], [step, {**step, "address": "d", "status": "skipped", "place": 3}])
    assert [row.split()[:2] for row in rows] == [["a", "running"], ["b", "waiting"], ["c", "failed"], ["d", "skipped"]]
    assert last == "3 of 4 runs: 1 failed, 1 skipped, 1 waiting"
    again = {**step, "address": "c", "action": "rerun", "attempt": 3}
    assert status_table([failed], [again])[1].split(maxsplit=3) == [
        "c", "waiting", "3", "for a; attempt 2 failed (exit code 3)",
    ]  # fmt: skip
    _, row, last = status_table([run], [{**step, "address": "a", "action": "destroy", "reason": ""}])
    assert row.split(maxsplit=2)[1:] == ["running", "destroy waiting"] and last == "1 of 1 run: 1 waiting"


def test_a_narrow_table_leaves_a_message_that_can_be_read() -> None:
    run = RUN | {
        "reason": "CreateContainerConfigError",
        "message": "container main: secret hub not found in namespace ml",
    }
    lines = status_table([run], now=NOW, width=80)
    assert all(len(line) <= 80 for line in lines) and "CreateContainerCon" in lines[1]
    assert status_table([run], now=NOW)[1].endswith(
        "137   2 (3 tries)  11-01 08:00  3m 20s    CreateContainerConfigError: " + run["message"]
    )


@pytest.mark.parametrize("width", [40, 80, 160])
def test_no_two_cells_look_alike_in_any_width(width: int) -> None:
    runs = [RUN | {"address": f"train[day=2026-10-0{n},model=large-en-v2,region=eu-central-1]"} for n in range(9)]
    _, *rows, _ = status_table(runs, now=NOW, width=width)
    assert [row.split()[0] for row in rows] == [run["address"] for run in runs]


def test_nothing_is_said_of_a_plain_success() -> None:
    run = {"address": "a", "status": "succeeded", "reason": "Completed", "message": "exited cleanly", "exit_code": 0}
    head, row = status_table([run | {"attempt": 1}])
    assert head.split() == ["ADDRESS", "STATUS", "EXIT"] and row.split() == ["a", "succeeded", "0"]
    left = "exited cleanly; 2 processes of it go on"
    assert status_table([run | {"message": left}])[1].endswith(left)


def test_what_is_unknown_is_left_empty() -> None:
    head, row, last = status_table([{"address": "a", "status": "lost", "exit_code": None, "attempt": 1}])
    assert "EXIT" not in head and row.split() == ["a", "lost"] and last == "1 of 1 run: 1 lost"
    assert status_table([]) == ["No runs."]


def test_tables_are_painted_and_harmless() -> None:
    row = status_table([RUN | {"message": HOSTILE}], colour=True)[1]
    assert row.startswith("\x1b[31m") and harmless(row.replace("\x1b[31m", "").replace("\x1b[0m", "")).isprintable()


def test_wide_characters_line_up() -> None:
    _, one, two = table(["A", "B"], [["日本", "x"], ["abcd", "y"]])
    assert one.index("x") + 2 == two.index("y")


def test_events_are_one_line_each() -> None:
    event = {"seq": 1, "at": "2026-11-01T08:00:00.123Z", "engine_at": None, "address": "a", "run_id": "", "attempt": 2}
    assert list(event_lines([event | {"status": "failed", "reason": "Error", "message": "x\ny"}])) == [
        "2026-11-01T08:00:00Z  a  failed (attempt 2)  Error: x\\ny"
    ]
