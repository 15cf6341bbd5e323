"""Hostile input of every kind: a sentence and an exit code, soon, in little memory; nothing else is read or started."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile import MEGABYTES, ROOT, Place, as_text, mutated, peak_megabytes, place, texts, values, yaml_texts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plans_by_hand import EVERYTHING, plan_document
from rendered import plan_markdown, plan_text

from flowplan.providers.docker.connection import Engine
from flowplan.providers.kubernetes.connection import endpoint
from flowplan.schemas.codec import decode
from flowplan.schemas.documents import parse
from flowplan.schemas.errors import FlowplanError, ProviderError
from flowplan.schemas.plan_documents import parse_plan, plan_digest, sealed_json
from flowplan.schemas.plans import Plan
from flowplan.state import transfer
from flowplan.state.sqlite.store import SqliteStore
from flowplan.state.store import Store


def dumped(store: Store, *, with_key: bool = False) -> Any:
    """Parse what `flowplan state pull` prints."""
    return json.loads("".join(transfer.dump(store, with_key=with_key)))


SPECS = sorted(
    [
        *ROOT.glob("examples/[0-9]*.yaml"),
        *ROOT.glob("examples/*/flowplan.yaml"),
        *ROOT.glob("tests/fixtures/specs/valid/*.yaml"),
    ]
)
RICH = """
flowplan: 1
project: p
variables:
  x: {type: string, default: "1", pattern: "[0-9.]+"}
  secret: {type: string, sensitive: true, default: c4n4ry-x}
  list: {type: list, default: [a, b]}
  map: {type: map, default: {a: 1}}
  number: {type: number, default: 2, enum: [1, 2]}
providers:
  gpu: {type: kubernetes, kubeconfig: {apiVersion: v1, users: [{name: u, user: {token: t0ken}}]}, namespace: ml}
defaults: {labels: {team: data}}
policies: [{name: q, schema: {properties: {Process: {properties: {argv: {items: {pattern: "^[a-z ]*"}}}}}}}]
moved: [{from: old, to: a}]
runs:
  a: {provider: process, command: "sh -c 'echo ${var.x}'", env: {S: "x${var.secret}y", N: 1}, matrix: {a: [1, 2], b: {from: 1, to: 3}}}
  b: {provider: docker, image: "i:${var.x}", command: [x, "${each.a}"], needs: [a], matrix: {a: "${var.list}"}, timeout: 6h,
      docker: {volumes: ["v:/v"], mem_limit: 2g, registry_credentials: {username: u, password: pw}, create_options: {HostConfig: {ShmSize: 9}}}}
  c: {provider: gpu, image: i, resources: {cpu: 1, memory: 1Gi}, kubernetes: {job: {spec: {template: {spec: {containers: [{name: m}]}}}},
      customizations: [{op: add, path: /spec/suspend, value: true}, {op: copy, from: /spec, path: /metadata/annotations}]}}
  d: {provider: process, command: [x], protect: active, ignore_changes: [/Process/cwd], triggers: {t: "${run.id}"}}
"""
TREES = [parse(RICH, "rich").value] * 4 + [parse(p.read_text(), p.name).value for p in SPECS]

NIGHTLY = os.environ.get("FLOWPLAN_EXAMPLES") == "nightly"


def hostile(share: float = 1.0) -> settings:
    """Run a share of the profile's examples: the same ones each time, but at night."""
    count = max(15, int((settings.default.max_examples if NIGHTLY else 40) * share))
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=not NIGHTLY,
        suppress_health_check=list(HealthCheck),
        database=None,
    )


@pytest.fixture(scope="module", autouse=True)
def in_little_memory() -> Iterator[None]:
    with place() as somewhere:
        somewhere.write("flowplan.yaml", RICH)
        somewhere.flowplan("validate", seconds=30)
        somewhere.flowplan("plan", "--no-refresh", seconds=30)
    before = peak_megabytes()
    yield
    assert peak_megabytes() - before < MEGABYTES


def checked_and_planned(somewhere: Place, *options: str) -> None:
    """Pass a spec through everything that needs no engine."""
    if somewhere.flowplan("validate", *options).code == 0:
        for form in ("text", "json", "markdown"):
            somewhere.flowplan("plan", "--no-refresh", "--explain", "--full", "--format", form, *options)


@hostile()
@given(yaml_texts)
def test_any_text_as_a_spec(text: Any) -> None:
    with place() as somewhere:
        somewhere.write("flowplan.yaml", text)
        somewhere.flowplan("validate")


@hostile(0.5)
@given(mutated(TREES))
def test_specs_with_anything_anywhere(tree: Any) -> None:
    with place() as somewhere:
        somewhere.write("flowplan.yaml", as_text(tree))
        checked_and_planned(somewhere)


@hostile()
@given(
    mutated([{"x": "1.5", "list": [1], "map": {"a": "b"}, "number": 1, "secret": "s3cret"}]) | values | yaml_texts,
    st.booleans(),
)
def test_files_of_variables(content: Any, as_yaml: bool) -> None:
    with place() as somewhere:
        somewhere.write("flowplan.yaml", RICH)
        somewhere.write(
            "vars.yaml",
            content
            if isinstance(content, bytes | str) and as_yaml
            else as_text(content)
            if not isinstance(content, bytes)
            else content,
        )
        checked_and_planned(somewhere, "--var-file", "vars.yaml")


@hostile()
@given(st.sampled_from(["x", "secret", "list", "map", "number", "none"]), texts, st.booleans())
def test_variables_of_the_command_line_and_the_environment(name: str, text: str, environment: bool) -> None:
    with place() as somewhere, pytest.MonkeyPatch.context() as patch:
        somewhere.write("flowplan.yaml", RICH)
        given = text.replace("\0", "").encode("utf-8", "replace").decode()
        if environment:
            patch.setenv(f"FLOWPLAN_VAR_{name}", given)
        checked_and_planned(somewhere, *([] if environment else ["--var", f"{name}={text}"]))


POLICIES: list[Any] = [
    {"policies": [{"name": "n", "description": "d", "types": ["process"], "schema": {"properties": {"Process": {"required": ["timeout"]}}}}]},
    [{"schema": {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "propertyNames": {"pattern": "^[A-Z]"}, "unevaluatedProperties": False}}}}],
    {"type": "object", "patternProperties": {"P.*": {"properties": {"argv": {"items": {"pattern": "^(a+)+$"}, "maxItems": 1, "uniqueItems": True}}}}},
]  # fmt: skip


@hostile()
@given(mutated(POLICIES) | values)
def test_policies(policy: Any) -> None:
    with place() as somewhere:
        somewhere.write("flowplan.yaml", RICH)
        somewhere.write("policy.yaml", as_text(policy))
        for form in ("text", "markdown"):
            somewhere.flowplan("plan", "--no-refresh", "--policy", "policy.yaml", "--format", form)


TEMPLATES = [parse(p.read_text(), p.name).value for p in sorted(ROOT.glob("tests/fixtures/templates/*"))]
TEMPLATED = (
    "flowplan: 1\nproject: p\nruns:\n  a: {provider: PROVIDER, template: t.json, variables: VARIABLES, env: {A: 1}}\n"
)


@hostile()
@given(
    mutated(TEMPLATES) | values,
    st.sampled_from(["process", "docker", "kubernetes"]),
    st.dictionaries(st.sampled_from(["image", "command", "env", "x", "labels"]), values, max_size=2),
)
def test_base_job_templates(template: Any, provider: str, given: Any) -> None:
    with place() as somewhere:
        somewhere.write("flowplan.yaml", TEMPLATED.replace("PROVIDER", provider).replace("VARIABLES", as_text(given)))
        somewhere.write("t.json", as_text(template))
        checked_and_planned(somewhere)


JOBS = [
    parse(p.read_text(), p.name).value
    for p in [*ROOT.glob("tests/fixtures/manifests/job.yaml"), *ROOT.glob("examples/10*/job.yaml")]
]
PATCHES: list[Any] = [
    [{"op": "add", "path": "/spec/template/spec/nodeSelector", "value": {"gpu": "a100"}}, {"op": "remove", "path": "/spec/backoffLimit"}],
    [{"op": "move", "from": "/spec/template", "path": "/spec/x"}, {"op": "copy", "from": "/metadata", "path": "/spec/template/metadata/labels/-"}],
    [{"op": "test", "path": "/kind", "value": "Job"}, {"op": "replace", "path": "", "value": {}}, {"op": "add", "path": "/spec/template/spec/containers/-", "value": {}}],
]  # fmt: skip


@hostile()
@given(mutated(JOBS) | values, mutated(PATCHES) | values)
def test_job_manifests_and_their_patches(job: Any, patch: Any) -> None:
    with place() as somewhere:
        somewhere.write(
            "flowplan.yaml",
            "flowplan: 1\nproject: p\nruns:\n  a: {provider: kubernetes, image: i, env: {A: 1, B: {from_env: HOME}}, kubernetes: {job: job.yaml, customizations: patch.yaml}}\n",
        )
        somewhere.write("job.yaml", as_text(job))
        somewhere.write("patch.yaml", as_text(patch))
        checked_and_planned(somewhere)


PLANS = [plan_document(plan) for plan in (EVERYTHING,)] + [
    json.loads(p.read_text()) for p in sorted(ROOT.glob("tests/golden/*.json"))
]


@hostile()
@given(mutated(PLANS))
def test_plan_documents_of_every_shape_are_read_or_refused(plan: Any) -> None:
    """Give any member any wrong type, with a digest that fits all the same."""
    with contextlib.suppress(FlowplanError):
        with contextlib.suppress(ValueError, TypeError):
            plan["digest"] = plan_digest(decode(Plan, plan, extensible=True))
        read = parse_plan(plan, "plan.json")
        assert list(plan_text(read, colour=False, full=True, explain=True))
        assert plan_markdown(read)


@hostile(0.2)
@given(mutated(PLANS), st.booleans(), st.integers(0, 400))
def test_plan_files(plan: Any, sealed: bool, cut: int) -> None:
    """Truncate, mistype and edit plan files, also with the key of the state in hand."""
    with place() as somewhere:
        somewhere.write("flowplan.yaml", "flowplan: 1\nproject: nightly\nruns: {}\n")
        somewhere.flowplan("plan", "--no-refresh")
        text = as_plan(plan, sealed, somewhere.path / ".flowplan" / "state.db")
        somewhere.write("plan.json", text[: -cut or None] if not sealed else text)
        for form in ("text", "json", "markdown"):
            somewhere.flowplan("show", "plan.json", "--format", form, "--explain", "--full")
        somewhere.flowplan("plan", "--no-refresh", "--check", "plan.json")
        somewhere.flowplan("apply", "--no-refresh", "plan.json")


def as_plan(plan: Any, sealed: bool, state: Path) -> str:
    if sealed and isinstance(plan, dict):
        with contextlib.suppress(ValueError):  # it cannot be sealed
            store = SqliteStore.open(state)
            made = replace(decode(Plan, plan, extensible=True), lineage=store.lineage)
            store.close()
            return sealed_json(replace(made, digest=plan_digest(made)), store.key)
    return json.dumps(plan)


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a state of the current format with runs in it."""
    path = tmp_path_factory.mktemp("states") / "state.db"
    db = sqlite3.connect(path)
    db.executescript((ROOT / "tests/fixtures/states/format-1.sql").read_text())
    db.close()
    store = SqliteStore.open(path)
    store.remember("providers", {"gpu": {"type": "kubernetes", "namespace": "n"}, "process": {"type": "process"}})
    store.remember(
        "provider_secrets", {"(sensitive env:A 0123456789abcdef)": {"kind": "from_env", "value": "A", "variables": []}}
    )
    store.remember("spec", {"directory": "/srv"})
    store.remember("fingerprints", {"0123456789abcdef": True})
    store.close()
    return path


CELLS = [
    ("attempts", ("address", "run_id", "attempt", "status", "present", "outcome", "progress", "applied")),
    ("events", ("engine_at", "at", "address", "run", "run_id", "attempt", "status", "reason", "message")),
    ("counters", ("address", "attempt")),
    ("records", ("address", "run_id")),
    ("notes", ("name", "document")),
    ("meta", ("lineage", "key", "project", "serial", "created_at")),
]  # fmt: skip
LOOKS = [
    ("status", "--no-refresh"), ("status", "--no-refresh", "--format", "json"), ("events",), ("events", "--format", "json"),
    ("state", "list"), ("state", "show", "load"), ("state", "pull"), ("plan", "--no-refresh", "--destroy"),
    ("plan", "--no-refresh"), ("plan", "--no-refresh", "--format", "markdown"),
]  # fmt: skip


@hostile(0.1)
@given(st.data())
def test_rows_of_a_state(states: Path, data: st.DataObject) -> None:
    with place() as somewhere:
        somewhere.write(
            "flowplan.yaml",
            "flowplan: 1\nproject: nightly\nruns: {load: {provider: process, command: x}, new: {provider: process, command: x}}\n",
        )
        (somewhere.path / ".flowplan").mkdir()
        shutil.copy(states, somewhere.path / ".flowplan/state.db")
        db = sqlite3.connect(somewhere.path / ".flowplan/state.db")
        for _ in range(data.draw(st.integers(1, 3))):
            table, columns = data.draw(st.sampled_from(CELLS))
            change_a_cell(db, table, data.draw(st.sampled_from(columns)), data)
        db.commit()
        db.close()
        for look in LOOKS:
            somewhere.flowplan(*look)


def change_a_cell(db: sqlite3.Connection, table: str, column: str, data: st.DataObject) -> None:
    rows = db.execute(f"SELECT rowid, {column} FROM {table}").fetchall()
    if not rows:
        return
    rowid, old = data.draw(st.sampled_from(rows))
    if isinstance(old, str) and is_object(old):
        new: Any = json.dumps(data.draw(mutated([json.loads(old)])))
    elif isinstance(old, int):
        new = data.draw(st.integers(-(2**63), 2**63 - 1))
    elif isinstance(old, bytes):
        new = data.draw(st.binary(max_size=40))
    else:
        new = data.draw(texts).encode("utf-8", "replace").decode()
    with contextlib.suppress(sqlite3.IntegrityError):
        db.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (new, rowid))


def is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


@pytest.fixture(scope="module")
def dump(states: Path) -> Any:
    store = SqliteStore.open(states)
    found = dumped(store, with_key=True)
    store.close()
    return json.loads(json.dumps(found))


@hostile(0.1)
@given(st.data())
def test_dumps_of_a_state(dump: Any, data: st.DataObject) -> None:
    with place() as somewhere:
        somewhere.write(
            "flowplan.yaml", "flowplan: 1\nproject: nightly\nruns: {load: {provider: process, command: x}}\n"
        )
        somewhere.write("dump.json", json.dumps(data.draw(mutated([dump]) | values)))
        if somewhere.flowplan("state", "push", "dump.json").code == 0:
            for look in LOOKS:
                somewhere.flowplan(*look)


KUBECONFIGS: list[Any] = [
    {
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "preferences": {},
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1", "certificate-authority-data": "Zm9v", "proxy-url": "http://127.0.0.1:1"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "n"}}],
        "users": [{"name": "u", "user": {"token": "t0ken", "client-certificate-data": "Zm9v", "client-key": "key.pem"}}],
    },
    {
        "current-context": "c", "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"username": "u", "password": "p4ss"}}, {"name": "v", "user": {"tokenFile": "t"}}],
    },
]  # fmt: skip


@hostile()
@given(mutated(KUBECONFIGS) | values, st.booleans(), st.booleans())
def test_kubeconfigs(config: Any, inline: bool, spaced: bool) -> None:
    with place() as somewhere:
        somewhere.write("kubeconfig", yaml_of(config) if spaced else as_text(config))
        try:
            given = config if inline and isinstance(config, dict) else "kubeconfig"
            endpoint({"kubeconfig": given}, somewhere.path).credentials.header()
        except ProviderError as error:
            # What stands where no secret belongs, such as a context's name, may be told.
            misplaced = {s for s in ("t0ken", "p4ss") if s in as_text(without(config, ("token", "password")))}
            assert not [s for s in ("t0ken", "p4ss") if s not in misplaced and s in str(error)]


def without(tree: Any, keys: tuple[str, ...]) -> Any:
    """Return a tree without the values that are texts at these keys."""
    if isinstance(tree, dict):
        return {k: without(v, keys) for k, v in tree.items() if not (k in keys and isinstance(v, str))}
    return [without(v, keys) for v in tree] if isinstance(tree, list) else tree


DOCKER_CONFIGS: list[Any] = [
    {"auths": {"r.test": {"auth": "dTpwNHNz", "email": "x"}, "i.test": {"identitytoken": "t0ken"}}, "HttpHeaders": {"X": "y"}},
    {"credsStore": "none", "credHelpers": {"r.test": "none"}, "proxies": {"default": {"httpProxy": "http://x"}}, "currentContext": "default"},
]  # fmt: skip


@hostile(0.2)
@given(mutated(DOCKER_CONFIGS) | values)
def test_configurations_of_docker(config: Any) -> None:
    with place() as somewhere, pytest.MonkeyPatch.context() as patch, socket.socket(socket.AF_UNIX) as server:
        somewhere.write("config.json", as_text(config))
        patch.setenv("DOCKER_CONFIG", str(somewhere.path))
        server.bind(str(somewhere.path / "s"))
        server.listen()
        server.setblocking(False)
        with pytest.raises(ProviderError) as refused:
            Engine({"host": f"unix://{somewhere.path}/s", "timeout": 0.05}).get("/info")
        assert "t0ken" not in str(refused.value) and "p4ss" not in str(refused.value)


def yaml_of(value: Any) -> str:
    try:
        return yaml.safe_dump(value, allow_unicode=False)
    except yaml.YAMLError:
        return "{"
