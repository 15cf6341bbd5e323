"""What a pull request shows, checked in what a real renderer makes of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from plans_by_hand import EVERYTHING, change, image_bump, job, live, plan, rerun
from rendered import plan_markdown
from test_render_text import CELLS, HOSTILE, golden

from flowplan.engines import kinds_of
from flowplan.render.plan_markdown import COMMENT, marker, plans_markdown
from flowplan.repository import links
from flowplan.schemas.plans import Action, FieldChange, Finding, Plan, RunFacts
from flowplan.schemas.runs import Settings

RENDERER = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough")


def tokens(markdown: str) -> Sequence[Token]:
    return RENDERER.parse(markdown)


def fences(markdown: str, language: str) -> list[str]:
    return [t.content for t in tokens(markdown) if t.type == "fence" and t.info == language]


def rows(markdown: str) -> list[list[str]]:
    """Return the cells of the rendered table as a reader sees them, without the head."""
    body = re.search(r"<tbody>(.*?)</tbody>", RENDERER.render(markdown), re.DOTALL)
    lines = re.findall(r"<tr>(.*?)</tr>", body[1], re.DOTALL) if body else []
    return [
        [unescape(re.sub(r"<[^>]+>", "", c)) for c in re.findall(r"<td>(.*?)</td>", line, re.DOTALL)] for line in lines
    ]


def is_sound(markdown: str, headings: int = 1) -> None:
    """Return whether nothing broke out: folds are balanced, and the only HTML is ours."""
    rendered = RENDERER.render(markdown)
    assert rendered.count("<details>") == rendered.count("</details>") == rendered.count("<summary>")
    html = [t.content for t in tokens(markdown) if t.type == "html_block"]
    html += [c.content for t in tokens(markdown) for c in t.children or () if c.type == "html_inline"]
    allowed = r"(</?details>|</?summary>|</?code>|<!-- flowplan:project=[\w.:/%-]*(?: environment=[\w.:/%]*)? digest=[\w.:/%]* -->)"
    for piece in html:
        assert set(re.findall(r"<[^>]*>", piece)) <= set(re.findall(allowed, piece)), piece
    for inline in (t for t in tokens(markdown) if t.type == "inline"):
        spans = [c for c in inline.children or () if c.type == "code_inline"]
        assert not spans or inline.content.startswith("on `"), inline.content
    foreign = {"link_open", "image", "em_open", "s_open", "heading_open"}
    kinds = [t.type for t in tokens(markdown)] + [c.type for t in tokens(markdown) for c in t.children or ()]
    assert kinds.count("heading_open") == headings and kinds.count("em_open") <= 1
    assert not (foreign - {"heading_open", "em_open"}) & set(kinds)


@pytest.mark.parametrize(("name", "made"), [("everything", EVERYTHING), ("cells", CELLS), ("empty", plan())])
def test_golden_markdown(name: str, made: Plan) -> None:
    golden(f"{name}.md", plan_markdown(made))
    is_sound(plan_markdown(made))


def test_the_first_line_is_hidden_and_names_project_and_digest() -> None:
    first = plan_markdown(EVERYTHING).splitlines()[0]
    assert first == marker(EVERYTHING) == f"<!-- flowplan:project=nightly digest={EVERYTHING.digest} -->"


def test_the_same_plan_is_the_same_bytes() -> None:
    assert plan_markdown(EVERYTHING) == plan_markdown(EVERYTHING)
    assert "ago" not in plan_markdown(plan(rerun("a")))


def test_danger_is_the_first_row() -> None:
    made = plan(change("new", Action.CREATE), image_bump("b"), image_bump("train", interrupts=True, run=live()))
    found = rows(plan_markdown(made))
    assert found[0][2] == "train" and "stops the live attempt" in found[0][4] and "2026-11-01T08:00:00Z" in found[0][4]
    assert [row[1] for row in found] == ["replace", "replace", "create"]


def test_markers_are_in_column_0() -> None:
    for block in fences(plan_markdown(EVERYTHING), "diff"):
        assert all(line[:1] in "+-! @" for line in block.splitlines())
    assert any(
        line.startswith("! spec.parallelism: 1 -> 4")
        for b in fences(plan_markdown(EVERYTHING), "diff")
        for line in b.splitlines()
    )


def test_every_fence_is_folded() -> None:
    depth = 0
    for token in tokens(plan_markdown(EVERYTHING)):
        if token.type == "html_block":
            depth += token.content.count("<details>") - token.content.count("</details>")
        if token.type == "fence" and token.info in ("diff", "mermaid", ""):
            assert depth > 0
    assert depth == 0


def test_thirty_cells_are_one_row_under_4_kb() -> None:
    written = plan_markdown(CELLS)
    assert len(written.encode()) < 4096 and len(rows(written)) == 1 and len(fences(written, "diff")) == 1
    assert all(c.address in rows(written)[0][2] for c in CELLS.changes)


def test_needs_are_a_graph_of_groups() -> None:
    (graph,) = fences(plan_markdown(EVERYTHING), "mermaid")
    assert 'n0["extract: create"]' in graph and "n0 --> n1" in graph
    assert fences(plan_markdown(plan(change("a", Action.CREATE))), "mermaid") == []


def test_the_foot_names_command_and_digest() -> None:
    written = plan_markdown(EVERYTHING, apply_command="flowplan apply pr-7.json")
    assert fences(written, "sh") == ["flowplan apply pr-7.json\n"]
    assert EVERYTHING.digest in unescape(written.splitlines()[-1])


def large(size: int, **more: Any) -> Plan:
    """Make runs that all differ, a third each destroyed, replaced while live, and created."""
    made = []
    for i in range(size // 3):
        gone = change(f"old-{i}", Action.DESTROY, reasons=(f"removed from team-{i}.yaml",), interrupts=True, run=live())
        made += [gone, image_bump(f"train[i={i}]", f"a:{i}", f"b:{i}", interrupts=True, run=live())]
        made.append(change(f"new-{i}", Action.CREATE, after=job(f"new-{i}", image=f"c:{i}", command=("x",) * (i % 7))))
    return plan(*made, **more)


def test_300_runs_fit_and_keep_every_destroy_and_replace() -> None:
    written = plan_markdown(large(300))
    assert len(written.encode()) <= COMMENT
    seen = " ".join(row[2] for row in rows(written))
    for i in range(100):
        assert re.search(rf"\bold-{i}\b", seen) and f"train[i={i}]" in seen
    assert "Not shown, there is no room" in written
    is_sound(written)


@pytest.mark.parametrize("budget", [60_000, 20_000, 8_000, 4_000])
@pytest.mark.parametrize("size", [3, 300, 3000])
def test_the_budget_is_kept_and_said(size: int, budget: int) -> None:
    written = plan_markdown(large(size), budget=budget)
    assert len(written.encode()) <= budget
    is_sound(written)
    assert plan_markdown(large(size), budget=budget) == written


def test_the_least_important_is_dropped_first() -> None:
    big = {f"K{i}": "v" * 200 for i in range(20)}
    created = [change(f"c{i}", Action.CREATE, after=job(f"c{i}", image=f"i{i}", **big)) for i in range(20)]
    written = plan_markdown(plan(*created, image_bump("r")), budget=20_000)
    assert any("etl:1.5" in block for block in fences(written, "diff"))
    assert re.search(r"Not shown, there is no room: the details of \d+ runs: ", written)


def test_the_table_says_what_one_field_was_and_will_be() -> None:
    time = FieldChange("/Job/spec/activeDeadlineSeconds", 90, 9000, "in_place", "")
    made = [
        change("a", Action.UPDATE, fields=(time,), reasons=("limit changed", "last attempt failed")),
        change("b", Action.UPDATE, fields=(time._replace(after="x" * 200),)),
        change("c", Action.UPDATE, fields=(time, time._replace(path="/Job/spec/suspend")), reasons=("two changed",)),
        image_bump("d"),
    ]
    why = {row[2]: row[4] for row in rows(plan_markdown(plan(*made)))}
    assert why["a"] == "limit changed: 1m30s -> 2h30m; last attempt failed"
    assert "x" * 20 not in why["b"] and why["c"] == "two changed"
    assert why["d"] == "image changed: etl:1.4 -> etl:1.5"


def test_runs_whose_values_differ_have_none_of_them_in_the_table() -> None:
    made = [
        change(f"a[n={n}]", Action.UPDATE, fields=(FieldChange("/Job/spec/parallelism", 1, n, "in_place", ""),))
        for n in (2, 3)
    ]
    (row,) = rows(plan_markdown(plan(*made)))
    assert "->" not in row[4]


def test_the_line_of_the_spec_is_told_and_linked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GITHUB_SHA", "CI_PROJECT_URL"):
        monkeypatch.delenv(name, raising=False)
    origins = {"/Job/metadata/name": "flow plan.yaml:3", "/Job/spec/a": "flow plan.yaml:12 (var.x: --var)"}
    new = change("new", Action.CREATE, after=job("new"), origins=origins, reasons=("new in flow plan.yaml",))
    other = change(
        "b",
        Action.UPDATE,
        origins={"/Job/spec/a": "../lib/c.yaml:7"},
        fields=(FieldChange("/Job/spec/a", 1, 2, "in_place", ""),),
    )
    made = plan(new, other)

    def written() -> str:
        return plan_markdown(made, link=links(tmp_path / "etl" / "nightly"))

    assert "new in <code>flow plan.yaml:12</code> |" in written() and "](" not in written()
    is_sound(written())
    for name, value in {
        "SERVER_URL": "https://git.acme.dev",
        "REPOSITORY": "a/b",
        "SHA": "12ab",
        "WORKSPACE": str(tmp_path),
    }.items():
        monkeypatch.setenv(f"GITHUB_{name}", value)
    base = "https://git.acme.dev/a/b/blob/12ab/etl"
    assert f"[<code>flow plan.yaml:12</code>]({base}/nightly/flow%20plan.yaml#L12)" in written()
    assert f"[<code>../lib/c.yaml:7</code>]({base}/lib/c.yaml#L7)" in written()
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path / "etl" / "nightly"))
    assert "lib/c.yaml#L7" not in written(), "outside of the repository"
    monkeypatch.setenv("GITHUB_REPOSITORY", "a/b) <script>")
    assert "](" not in written()
    monkeypatch.delenv("GITHUB_SHA")
    for name, value in {
        "PROJECT_URL": "https://gitlab.acme.dev/a/b",
        "COMMIT_SHA": "34cd",
        "PROJECT_DIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(f"CI_{name}", value)
    assert "(https://gitlab.acme.dev/a/b/-/blob/34cd/etl/lib/c.yaml#L7)" in written()


def test_what_would_fail_is_a_caution_of_its_own() -> None:
    found = [Finding("a", "error", "image", f"no image {n}", "push it") for n in range(9)]
    written = plan_markdown(plan(change("a", Action.CREATE, after=job("a"), preflight=tuple(found))))
    block = written.partition("> [!CAUTION]\n")[2].partition("\n\n")[0].splitlines()
    assert block[0] == "> **Apply would fail: 9 problems found beforehand.**"
    assert block[1] == "> - image: no image 0 (push it) (a)" and block[-1] == "> - and 4 more"


TEXT = st.text(st.sampled_from("`~|<>!-[]()*_#&;@\\\n\r\t $\"'=+:/ab1\x1b\u202e\ud800é"), max_size=30) | st.sampled_from(
    ["-->", "</details>", "```", "\n```\n", "<script>", "| a |", "]]>", "https://evil.test", "@team", HOSTILE, "</code>"]
)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(TEXT, TEXT, TEXT, st.sampled_from(list(Action)))
def test_nothing_breaks_out(name: str, value: str, words: str, action: Action) -> None:
    evil = change(
        name or "a",
        action,
        provider=words,
        reasons=(words, value),
        after=job(value, value, (value, words)),
        fields=(FieldChange(f"/Job/{name}", value, words, "replace", words), FieldChange("/b", [value], {words: name}, "in_place", value)),
        run=RunFacts(words, 1, "x", started_at=value),
        interrupts=True,
        warnings=(value,),
        preflight=(Finding(name, words, name, value, words),),
        settings=Settings(needs=("up", words)),
    )  # fmt: skip
    created = change("up", Action.CREATE, after=job(name, value, A=words), moved_from=value)
    made = plan(evil, created, project=name, digest=value, diagnostics=(words,))
    written = plan_markdown(made, apply_command=words)
    is_sound(written)
    assert len(rows(written)) == (1 if action is Action.NO_OP else 2)
    assert all(len(row) == 5 for row in rows(written))
    assert len(fences(written, "sh")) == 1


def test_what_ends_pauses_or_shrinks_a_live_run_is_a_warning_before_all_else() -> None:
    parallelism = FieldChange("/Job/spec/parallelism", 8, 0, "in_place", "")
    paused = change(
        "train", Action.UPDATE, fields=(parallelism,), interrupts=True, run=live(), reasons=("ends 8 pods",)
    )
    written = plan_markdown(plan(change("new", Action.CREATE), paused, image_bump("b", interrupts=True, run=live())))
    block = written.partition("> [!WARNING]\n")[2].partition("\n\n")[0]
    assert block.splitlines() == [
        "> **Stops 1 run that is live.**",
        "> **Ends, pauses or shrinks in place 1 run that is live.**",
    ]
    assert [row[2] for row in rows(written)][-1] == "new" and "<strong>update in place</strong>" in RENDERER.render(
        written
    )


@pytest.mark.parametrize("budget", [12_000, COMMENT])
def test_plans_of_several_environments_keep_the_budget_and_their_digests(budget: int) -> None:
    plans = [replace(large(2_000), environment=name, digest=f"sha256:{name}") for name in ("dev", "test", "prod")]
    commands = [f"flowplan apply --env {made.environment}" for made in plans]
    markdown = plans_markdown(plans, kinds_of(["kubernetes"]), budget=budget, apply_commands=commands)
    is_sound(markdown, headings=5)
    assert len(markdown.encode()) <= budget
    assert markdown.splitlines()[:3] == [marker(made) for made in plans]
    assert all(f"{command}\n" in markdown for command in commands)
