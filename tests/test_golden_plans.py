"""Golden plans: every action and reason of every provider, from real specs, in all three forms."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rendered import plan_markdown, plan_text
from test_render_text import golden

from flowplan.engines import ManifestsByType
from flowplan.given import Given, variables_of
from flowplan.planner.compare.plan import Options, Situation, make_changes
from flowplan.planner.compare.policies import checked, rules_of
from flowplan.planner.desired.expand import expand
from flowplan.planner.desired.sealing import Sealer
from flowplan.planner.manifests import content_of
from flowplan.schemas.load import load_spec
from flowplan.schemas.plan_documents import plan_digest, plan_json, schema_faults
from flowplan.schemas.plans import Action, Finding, Plan
from flowplan.schemas.runs import Desired, Observed, Recorded, Status, Target

LINEAGE = "11111111-1111-4111-8111-111111111111"
NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
SECRET = "c4n4ry-value"
RUNS = [
    "new",
    "changed",
    "in-place",
    "failed",
    "killed",
    "lost",
    "timed-out",
    "cancelled",
    "quiet",
    "forced",
    "done",
    "always",
    "running",
    "drifted",
    "protected",
    "waiting",
    "interrupted",
    "adopted",
    "destroyed-before",
    "new-name",
]

FIELDS = {
    "process": "provider: process, command: [etl, TAG], working_dir: /srv",
    "docker": "provider: docker, image: 'etl:TAG', docker: {mem_limit: LIMIT}",
    "kubernetes": "provider: kubernetes, image: 'etl:TAG', timeout: TIME, kubernetes: {namespace: data}",
}
POLICY = {
    "process": "{properties: {Process: {properties: {argv: {items: {not: {const: '2'}}}}}}}",
    "docker": "{properties: {Container: {properties: {Config: {properties: {Image: {not: {pattern: ':2$'}}}}}}}}",
    "kubernetes": "{properties: {Job: {properties: {spec: {properties: {template: {properties: {spec: {properties: {"
    "containers: {items: {properties: {image: {not: {pattern: ':2$'}}}}}}}}}}}}}}}",
}
EXTRA = {
    "quiet": "rerun: never",
    "always": "rerun: always",
    "protected": "protect: active",
    "waiting": "replace: after_finish",
    "changed": "env: {TOKEN: {from_env: TOKEN}}",
}
BEFORE, AFTER = {"TAG": "1", "LIMIT": "64m", "TIME": "600"}, {"TAG": "2", "LIMIT": "96m", "TIME": "900"}
CHANGED = ("changed", "protected", "waiting", "killed")
NEVER_BEFORE = ("new", "destroyed-before", "new-name")
ENDS: dict[str, dict[str, Any]] = {
    "failed": {"status": Status.FAILED, "exit_code": 3, "reason": "Error"},
    "killed": {"status": Status.FAILED, "exit_code": 137, "reason": "OOMKilled"},
    "lost": {"status": Status.LOST, "reason": "Removed"},
    "timed-out": {"status": Status.TIMED_OUT, "reason": "DeadlineExceeded"},
    "cancelled": {"status": Status.CANCELLED, "reason": "Stopped"},
    "quiet": {"status": Status.FAILED, "exit_code": 3, "reason": "Error"},
    "interrupted": {"status": Status.CREATING},
    "adopted": {"status": Status.CREATING, "started_at": None},
    "forced": {"status": Status.SUCCEEDED, "exit_code": 0},
    "done": {"status": Status.SUCCEEDED, "exit_code": 0},
    "always": {"status": Status.SUCCEEDED, "exit_code": 0},
    "removed": {"status": Status.SUCCEEDED, "exit_code": 0},
}


def spec_text(kind: str, runs: list[str], values: dict[str, dict[str, str]]) -> str:
    lines = ["flowplan: 1", "project: golden"]
    if "new" in runs:
        lines += ["policies:", f"  - {{name: approved, description: 2 is not released, schema: {POLICY[kind]}}}"]
        lines += ["moved: [{from: old-name, to: new-name}]", "removed: [forgotten]"]
    lines.append("runs:")
    for name in runs:
        text = ", ".join(filter(None, (FIELDS[kind], EXTRA.get(name))))
        for word, value in values[name].items():
            text = text.replace(word, value)
        lines.append(f"  {name}: {{{text}}}")
    return "\n".join(lines) + "\n"


def desired(directory: Path, kind: str, runs: list[str], values: dict[str, dict[str, str]]) -> Any:
    path = directory / "spec.yaml"
    path.write_text(spec_text(kind, runs, values))
    loaded = load_spec(path)
    variables = variables_of(loaded.spec, Given(), loaded.sources)
    sealer = Sealer(b"golden", lambda source: SECRET)
    return loaded, expand(loaded, variables, sealer, ManifestsByType(), lineage=LINEAGE)


def record(wanted: Desired, kind: str) -> Recorded:
    rendered = wanted.render(1)
    facts = {"status": Status.RUNNING, "started_at": "2026-11-01T09:00:00Z"} | ENDS.get(wanted.address, {})
    if facts["status"].final:
        facts["finished_at"] = "2026-11-01T10:00:00Z"
    return Recorded(
        address=wanted.address, provider=kind, type=kind, target={"type": kind, "id": "e", "label": "engine"}, attempt=1,
        run_id=rendered.run_id, name=rendered.name, objects=rendered.objects, settings=wanted.settings, **facts,
    )  # fmt: skip


def drifted(kind: str, objects: Any) -> Any:
    """Return the live object after a change by hand; None for a process, which cannot drift."""
    if kind == "docker":
        config = objects["Container"]["Config"]
        host = {**config["HostConfig"], "Memory": 80 << 20}
        return {"Container": {**objects["Container"], "Config": {**config, "HostConfig": host}}}
    if kind == "kubernetes":
        return {"Job": {**objects["Job"], "spec": {**objects["Job"]["spec"], "activeDeadlineSeconds": 700}}}
    return None


def golden_plan(directory: Path, kind: str) -> Plan:
    """Make a plan with every action and reason that this provider can have."""
    old = [name for name in RUNS if name not in NEVER_BEFORE] + ["old-name", "removed", "forgotten"]
    _, before = desired(directory, kind, old, dict.fromkeys(old, BEFORE))
    in_place = {"in-place": {**BEFORE, "LIMIT": "96m", "TIME": "900"}}
    values = dict.fromkeys(RUNS, BEFORE) | dict.fromkeys(CHANGED, AFTER) | in_place
    loaded, after = desired(directory, kind, RUNS, values)
    records = {one.address: record(one, kind) for one in before.desired}
    looks = [
        Observed(r.run_id, status=r.status, started_at=r.started_at)
        for r in records.values()
        if r.status is Status.RUNNING
    ]
    drift = records["drifted"]
    managers = {"/Job/spec/activeDeadlineSeconds": "mallory"} if kind == "kubernetes" else {}
    live = drifted(kind, drift.objects)
    looks = [replace(o, live=live, managers=managers) if o.run_id == drift.run_id else o for o in looks]
    adopted = records["adopted"]
    content = content_of(adopted.objects, ManifestsByType()[kind])
    looks.append(Observed(adopted.run_id, attempt=1, status=Status.RUNNING, name=adopted.name, content=content))
    situation = Situation(
        lineage=LINEAGE,
        desired=after.desired,
        recorded=records,
        manifests=ManifestsByType(),
        observed={o.run_id: o for o in looks},
        attempts=dict.fromkeys(records, 1) | {"destroyed-before": 3},
        targets={kind: Target(kind, "e", "engine")},
        options=Options(
            rerun=("forced",), spec_name="spec.yaml", moved=(("old-name", "new-name"),), removed=("forgotten",)
        ),
    )
    decided = make_changes(situation)
    missing = Finding("new", "error", "image", "no such image: etl:1", "pull or build it")
    history = {"last": ["succeeded", "succeeded", "failed", "succeeded", "succeeded"], "durations": [720.0, 900.0]}
    changes = [replace(c, preflight=(missing,)) if c.address == "new" else c for c in decided.changes]
    changes = [replace(c, history=history) if c.address == "changed" else c for c in changes]
    final = checked(changes, rules_of(loaded))
    plan = Plan(
        "golden", "", LINEAGE, 7, "spec.yaml", loaded.digest, final, diagnostics=decided.diagnostics,
        providers={kind: {"type": kind}}, targets={kind: {"type": kind, "id": "e", "label": "engine"}},
    )  # fmt: skip
    plan = replace(plan, spec_digest="sha256:golden", changes=_anywhere(plan, directory))
    return replace(plan, digest=plan_digest(plan))


@pytest.mark.parametrize("kind", ["process", "docker", "kubernetes"])
def test_golden_plans_of_every_provider(tmp_path: Path, kind: str) -> None:
    plan = golden_plan(tmp_path, kind)
    lines = plan_text(plan, colour=False, now=NOW, explain=True, apply_command="flowplan apply plan.json")
    forms = {
        "txt": "\n".join(lines) + "\n",
        "md": plan_markdown(plan, apply_command="flowplan apply plan.json"),
        "json": plan_json(plan),
    }
    for form, text in forms.items():
        assert SECRET not in text
        golden(f"{kind}.{form}", text)
    assert schema_faults(json.loads(plan_json(plan)), "plan") == []
    assert len(forms["md"].encode()) <= 60_000


def _anywhere(plan: Plan, directory: Path) -> Any:
    """Return the changes with origins that do not name this test's directory."""
    return tuple(
        replace(c, origins={k: v.replace(f"{directory}/", "") for k, v in c.origins.items()}) for c in plan.changes
    )


@pytest.mark.parametrize("kind", ["process", "docker", "kubernetes"])
def test_the_golden_plans_hold_every_action_and_reason(tmp_path: Path, kind: str) -> None:
    changes = {c.address: c for c in golden_plan(tmp_path, kind).changes}
    actions = {c.action for c in changes.values()}
    assert actions == set(Action) - ({Action.UPDATE} if kind == "process" else set())
    reasons = {address: "; ".join(c.reasons) for address, c in changes.items()}
    words = {
        "new": "new in spec.yaml", "changed": "changed", "failed": "failed with exit code 3", "killed": "OOMKilled",
        "lost": "lost: Removed", "timed-out": "timed out: DeadlineExceeded", "cancelled": "cancelled",
        "quiet": "`rerun: never`", "forced": "requested by --rerun", "done": "succeeded, nothing changed",
        "always": "`rerun: always`", "running": "running as wanted", "interrupted": "did not start it",
        "adopted": "interrupted apply created it", "destroyed-before": "destroyed or forgotten before",
        "removed": "removed from spec.yaml", "forgotten": "listed in `removed`",
    }  # fmt: skip
    assert {address: word for address, word in words.items() if word not in reasons[address]} == {}
    assert changes["protected"].skipped and changes["new-name"].moved_from == "old-name"
    if kind != "process":
        assert "on the engine" in reasons["drifted"]
