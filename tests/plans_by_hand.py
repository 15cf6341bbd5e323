"""Small builders of plans for the tests of documents."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from flowplan.schemas.plan_documents import plan_digest, plan_json
from flowplan.schemas.plans import ABSENT, Action, Change, FieldChange, Finding, Plan, RunFacts
from flowplan.schemas.runs import Json, Settings
from flowplan.schemas.sources import Diagnostic

POD = "/Job/spec/template/spec/containers/0/"
RULE = "Job.spec.template is immutable"
SCRIPT = "#!/bin/sh\nset -e\none\ntwo\nthree\necho {}\n"


def plan_document(plan: Plan) -> dict[str, Json]:
    return json.loads(plan_json(plan))


def job(name: str, image: str = "etl:1", command: tuple[str, ...] = ("train.py", "--lr", "0.1"), **env: str) -> Json:
    container = {"name": "main", "image": image, "command": list(command)}
    container |= {"env": [{"name": k, "value": v} for k, v in env.items()]} if env else {}
    spec = {"parallelism": 1, "template": {"spec": {"containers": [container], "restartPolicy": "Never"}}}
    return {"Job": {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}}


def change(address: str, action: Action, **more: Any) -> Change:
    name = address.translate(str.maketrans("[]=,", "----"))
    facts: dict[str, Any] = {
        "provider": "gpu",
        "type": "kubernetes",
        "reasons": ("new in spec.yaml",),
        "before": None if action is Action.CREATE else job(f"{name}-1"),
        "after": None if action in (Action.DESTROY, Action.FORGET) else job(f"{name}-2"),
        "name": f"{name}-2",
        "run_id": f"id-{name}-2",
    }
    return Change(address=address, action=action, **(facts | more))


def plan(*changes: Change, **more: Any) -> Plan:
    facts: dict[str, Any] = {
        "project": "nightly",
        "digest": "",
        "lineage": "6e0f4c1c-6d0f-4a52-9a3e-0d6a2d1f7c10",
        "serial": 4,
        "spec_path": "spec.yaml",
        "spec_digest": "sha256:" + "0" * 64,
    }
    made = Plan(changes=changes, **(facts | more))
    return replace(made, digest=plan_digest(made))


def image_bump(address: str, old: str = "etl:1.4", new: str = "etl:1.5", **more: Any) -> Change:
    field = FieldChange(f"{POD}image", old, new, "replace", RULE, "spec.yaml:3")
    ended = RunFacts("succeeded", 1, "x")
    facts = {"reasons": ("image changed",), "fields": (field,), "run": ended}
    return change(address, Action.REPLACE, **(facts | more))


def live(since: str = "2026-11-01T08:00:00.123Z") -> RunFacts:
    return RunFacts("running", 1, "x", started_at=since)


def failed(at: str = "2026-11-01T08:00:00Z") -> RunFacts:
    return RunFacts("failed", 1, "x", reason="OOMKilled", exit_code=137, finished_at=at)


def rerun(address: str, at: str = "2026-11-01T08:00:00.123Z") -> Change:
    reason = f"last attempt failed with exit code 137: OOMKilled at {at}"
    return change(address, Action.RERUN, reasons=(reason,), run=failed(at))


FIELDS = (
    FieldChange(f"{POD}image", "etl:1", "etl:2", "replace", RULE, "spec.yaml:3"),
    FieldChange(
        f"{POD}command",
        ["train.py", "--lr", "0.1", "--epochs", "5"],
        ["train.py", "--lr", "0.2", "--epochs", "5", "--fast"],
        "replace",
        RULE,
    ),
    FieldChange("/Job/spec/parallelism", 3, 1, "in_place", "", drift=True, recorded=1, manager="kubectl-edit"),
    FieldChange(f"{POD}env/0/value", '{"a":1,"b":[1,2]}', '{"a": 2, "b": [1,2,3]}', "replace", RULE),
    FieldChange(f"{POD}args/0", SCRIPT.format(1), SCRIPT.format(2), "replace", RULE),
    FieldChange(f"{POD}workingDir", ABSENT, "/work", "replace", RULE),
    FieldChange("/Job/spec/activeDeadlineSeconds", 60, ABSENT, "in_place", ""),
    FieldChange("/Job/metadata/labels/team~1data", "a", "b", "in_place", ""),
)

EVERYTHING = plan(
    change(
        "train",
        Action.REPLACE,
        reasons=("image, command and 6 more changed",),
        fields=FIELDS,
        before=job("train-1", LR="x"),
        after=job("train-2", LR="x"),
        interrupts=True,
        run=live(),
        settings=Settings(needs=("extract",)),
        history={"last": ["succeeded"] * 4 + ["failed"], "durations": [720, 900]},
        warnings=("gpu is not enforced",),
        preflight=(Finding("train", "error", "image", "no such image: etl:2", "push it first"),),
    ),
    change("old", Action.DESTROY, reasons=("removed from spec.yaml",), run=RunFacts("succeeded", 1, "x")),
    change("extract", Action.CREATE),
    *(
        change(
            f"load[day=2026-11-0{d}]",
            Action.CREATE,
            after=job(f"load-day-2026-11-0{d}--2", command=("x", f"--day=0{d}")),
        )
        for d in (1, 2, 3)
    ),
    rerun("flaky"),
    image_bump("guarded", skipped="protected: `protect: active` and the run is running", run=live()),
    change(
        "scale",
        Action.UPDATE,
        reasons=("parallelism changed",),
        fields=(FieldChange("/Job/spec/parallelism", 1, 4, "in_place", ""),),
        run=live(),
    ),
    change("found", Action.ADOPT, reasons=("an interrupted apply created it",), before=None, run=live()),
    change("gone", Action.FORGET, reasons=("listed in `removed`",), run=live()),
    change("new-name", Action.NO_OP, moved_from="old-name", reasons=("succeeded, nothing changed",)),
    change("same", Action.NO_OP, reasons=("succeeded, nothing changed",), run=RunFacts("succeeded", 1, "x")),
    diagnostics=(Diagnostic("extract has the same objects as old", subject="extract", severity="warning"),),
)
