"""From a spec to desired runs: cells, addresses, merging, evaluation, secrets, and every fault of meaning."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowplan.planner.desired.expand import Expansion, expand
from flowplan.planner.desired.matrix import address, parse_address
from flowplan.planner.desired.sealing import Sealer, evaluate_template
from flowplan.planner.desired.variables import resolve_variables
from flowplan.planner.manifests import Effect, ResolvedRun
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.load import load_spec
from flowplan.schemas.runs import Desired, Identity, Objects, Rendered, run_id
from flowplan.schemas.secrets import SecretSource
from flowplan.schemas.sources import Diagnostic, Position

LINEAGE = "7b1ac5a0-0000-4000-8000-000000000000"


class EchoManifests:
    """Renders a run as its own fields; refuses the image ``bad``."""

    def check(self, run: ResolvedRun) -> list[Diagnostic]:
        origin = run.origin("image")
        if run.fields.get("image") == "bad":
            return [Diagnostic("a bad image", Position(origin.file, origin.line, 1), f"runs.{run.group}.image")]
        if run.fields.get("image") == "odd":
            return [Diagnostic("an odd image", None, f"runs.{run.group}.image", severity="warning")]
        return []

    def render(self, run: ResolvedRun, identity: Identity) -> Rendered:
        objects = {"Echo": dict(run.fields), "Connection": dict(run.connection)}
        return Rendered(objects, identity.address, identity.run_id, identity.attempt, dict(_texts(run)))

    def effect(self, path: str, before: Any, after: Any) -> Effect:
        return Effect("replace", "")

    def comparable(self, applied: Objects) -> Objects:
        return applied

    def equal(self, path: str, one: Any, other: Any) -> bool:
        return bool(one == other)


def _texts(run: ResolvedRun) -> Mapping[str, Any]:
    return {"/".join(map(str, path)): origin for path, origin in run.origins.items()}


class World:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ = {"PGPASSWORD": "pg-secret"}
        self.sealer = Sealer(b"key", lambda source: self.environ.get(source.value))

    def expand(self, text: str, given: Mapping[str, Any] | None = None, **options: Any) -> Expansion:
        path = self.directory / "spec.yaml"
        path.write_text(text if text.startswith("flowplan:") else "flowplan: 1\nproject: p\n" + text)
        loaded = load_spec(path)
        variables = resolve_variables(loaded.spec, given=given or {}, environ={}, sources=loaded.sources)
        manifests = dict.fromkeys(("process", "docker", "kubernetes"), EchoManifests())
        options.setdefault("lineage", LINEAGE)
        return expand(loaded, variables, self.sealer, manifests, **options)

    def runs(self, text: str, given: Mapping[str, Any] | None = None) -> dict[str, Desired]:
        return {desired.address: desired for desired in self.expand(text, given).desired}

    def fields(self, text: str, given: Mapping[str, Any] | None = None, attempt: int = 1) -> dict[str, Any]:
        (desired,) = self.expand(text, given).desired
        fields: dict[str, Any] = desired.render(attempt).objects["Echo"]
        return fields

    def faults(self, text: str, given: Mapping[str, Any] | None = None) -> list[str]:
        with pytest.raises(InvalidInput) as caught:
            self.expand(text, given)
        return [str(fault).replace(f"{self.directory}/", "") for fault in caught.value.diagnostics]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def one(fields: str, top: str = "") -> str:
    return f"{top}runs:\n  a: {{provider: docker, {fields}}}\n"


# addresses and matrices


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ({"date": "2026-11-01", "shard": 3}, "b[date=2026-11-01,shard=3]"),
        ({"x": "a b"}, 'b[x="a b"]'),
        ({"x": "a,b=[c]"}, 'b[x="a,b=[c]"]'),
        ({"x": ""}, 'b[x=""]'),
        ({"x": 'q"'}, 'b[x="q\\""]'),
        ({"x": True, "y": 1.5}, "b[x=true,y=1.5]"),
        ({"x": "ü/ö:1"}, "b[x=ü/ö:1]"),
    ],
)
def test_addresses(cell: dict[str, Any], text: str) -> None:
    assert address("b", cell) == text


@given(st.dictionaries(st.sampled_from(["x", "y", "a-b"]), st.text(), min_size=1))
def test_addresses_can_be_read_back(cell: dict[str, str]) -> None:
    assert parse_address(address("group", cell)) == ("group", cell)


@pytest.mark.parametrize("text", ["a[", "a[x]", "a[x=1", "[x=1]", "a[x=1]y", "a[x=1 2]"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        parse_address(text)


@pytest.mark.parametrize(
    ("matrix", "cells"),
    [
        ("{x: [1, 2], y: [a, b]}", ["x=1,y=a", "x=1,y=b", "x=2,y=a", "x=2,y=b"]),
        ("{x: {from: 1, to: 3}}", ["x=1", "x=2", "x=3"]),
        ("{x: {from: 0, to: 0.3, step: 0.1}}", ["x=0.0", "x=0.1", "x=0.2", "x=0.3"]),
        ("{x: {from: 3, to: 1, step: -1}}", ["x=3", "x=2", "x=1"]),
        ("{x: {from: 1, to: 4, step: 2}}", ["x=1", "x=3"]),
        ("{d: {from: 2026-12-30, to: 2027-01-01}}", ["d=2026-12-30", "d=2026-12-31", "d=2027-01-01"]),
        ("{d: {from: 2026-11-01, to: 2026-11-15, step: 7d}}", ["d=2026-11-01", "d=2026-11-08", "d=2026-11-15"]),
        ("{d: {from: 2026-11-02, to: 2026-11-01, step: -1}}", ["d=2026-11-02", "d=2026-11-01"]),
        ("{x: [1, 2], y: [a, b], exclude: [{x: 1, y: b}, {x: 2}]}", ["x=1,y=a"]),
        ("{x: [1], include: [{x: 2}, {x: 3, z: q}]}", ["x=1", "x=2", "x=3,z=q"]),
        ("{include: [{name: a}, {name: b, v: 1}]}", ["name=a", "name=b,v=1"]),
        ("{x: [010, 1.10]}", ["x=010", "x=1.10"]),
        ("{x: '${var.days}'}", ["x=m", "x=n"]),
        ("{x: {from: 1, to: '${var.last}'}}", ["x=1", "x=2"]),
    ],
)
def test_cells(world: World, matrix: str, cells: list[str]) -> None:
    top = "variables: {days: {type: list, default: [m, n]}, last: {type: number, default: 2}}\n"
    assert list(world.runs(one(f"matrix: {matrix}", top))) == [f"a[{cell}]" for cell in cells]


def test_include_adds_values_to_the_cells_that_it_matches(world: World) -> None:
    text = "runs:\n  a:\n    provider: docker\n    image: ${each.size}\n"
    text += "    matrix: {x: [1, 2], include: [{size: small}, {x: 2, size: big}]}\n"
    images = {a: d.render(1).objects["Echo"]["image"] for a, d in world.runs(text).items()}
    assert images == {"a[x=1]": "small", "a[x=2]": "big"}


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ("{x: []}", "runs.a.matrix.x: the axis has no values"),
        ("{}", "runs.a.matrix: has no cells"),
        ("{x: [1], exclude: [{x: 1}]}", "runs.a.matrix: has no cells"),
        ("{x: [1], exclude: [{y: 1}]}", "runs.a.matrix.exclude[0].y: the matrix has no such axis"),
        ("{x: {from: 1, to: 100001}}", "the range has 100,001 values, more than 100,000"),
        ("{x: {from: 1, to: 1000}, y: {from: 1, to: 1000}}", "has 1,000,000 cells, more than 100,000"),
        ("{x: {from: 2, to: 1}}", "its step leads away from its end"),
        ("{x: {from: 1, to: 2, step: 0}}", "must not be 0"),
        ("{x: {from: a, to: b}}", "from must be a number, or from and to dates"),
        ("{x: {from: 2026-13-01, to: 2026-13-02}}", "is not a date"),
        ("{x: {from: 2026-11-01, to: 2026-11-02, step: 1h}}", "must be whole days"),
        ("{x: [1, '1']}", "two cells have the address a[x=1]"),
        ("{x: '${each.y}'}", "the run has no matrix"),
        ("{x: ['${var.none}']}", "the variable none is not known"),
    ],
)
def test_faults_of_a_matrix(world: World, matrix: str, message: str) -> None:
    (fault,) = world.faults(one(f"matrix: {matrix}"))
    assert fault.startswith("spec.yaml:4:") and message in fault


# fields


def test_defaults_lie_under_every_run(world: World) -> None:
    text = """
defaults:
  provider: docker
  image: base
  timeout: 5m
  env: {A: a, B: b, S: {from_env: X}}
  labels: {team: data}
  docker: {mem_limit: 1g, networks: [n]}
  process: {inherit_env: false}
runs:
  a: {env: {B: null, C: 1, S: {from_file: y}}, labels: {own: 1}, docker: {networks: [m]}, timeout: null}
"""
    fields = world.fields(text)
    assert fields["image"] == "base" and "timeout" not in fields and "process" not in fields
    assert fields["env"] == {"A": "a", "B": None, "C": "1", "S": "(sensitive file:y unresolved)"}
    assert fields["labels"] == {"team": "data", "own": "1"}
    assert fields["docker"] == {"mem_limit": "1g", "networks": ["m"]}


@pytest.mark.parametrize(
    ("written", "env"),
    [
        ("true", "true"),
        ("1.10", "1.10"),
        ("0x1F", "0x1F"),
        ("no", "no"),
        ("2026-11-01", "2026-11-01"),
        ("null", None),
        ("''", ""),
        ("'${var.n}'", "1e3"),
        ("'${var.b}'", "false"),
        ("'v${var.n}'", "v1e3"),
        ("'${var.nothing}'", None),
    ],
)
def test_environment_values_are_text(world: World, written: str, env: str | None) -> None:
    top = "variables: {n: {type: number, default: 1e3}, b: {type: bool, default: false}, nothing: {required: false}}\n"
    assert world.fields(one(f"env: {{K: {written}}}", top))["env"] == {"K": env}


@pytest.mark.parametrize(
    ("written", "argv"),
    [
        ("[a, 1, true, 1.10]", ["a", "1", "true", "1.10"]),
        ("\"sh -c 'echo $HOME'\"", ["sh", "-c", "echo $HOME"]),
        ("'x ${var.words} y'", ["x", "two words", "y"]),
        ("'${var.words}'", ["two", "words"]),
        ("'${var.list}'", ["p", "q r"]),
        ("['${var.words}', '${HOME}', '$${var.words}']", ["two words", "${HOME}", "${var.words}"]),
        ("'$${var.words}'", ["${var.words}"]),
        ("''", []),
    ],
)
def test_commands(world: World, written: str, argv: list[str]) -> None:
    top = "variables: {words: {default: two words}, list: {type: list, default: [p, q r]}}\n"
    assert world.fields(one(f"command: {written}", top))["command"] == argv


def test_settings(world: World) -> None:
    text = one(
        "timeout: 2h30m, start_timeout: 90, grace_period: 0, max_parallel: 2, stream_output: false, rerun: always, "
        "replace: start_first, protect: active, ignore_changes: [/a], description: d, triggers: {v: 1}"
    )
    settings = world.runs(text)["a"].settings
    assert (settings.timeout, settings.start_timeout, settings.grace_period) == (9000, 90, 0)
    assert (settings.max_parallel, settings.stream_output, settings.rerun) == (2, False, "always")
    assert (settings.replace, settings.protect, settings.ignore_changes) == ("start_first", "active", ("/a",))
    assert (settings.description, settings.triggers, settings.group) == ("d", {"v": "1"}, "a")
    assert world.runs(one("protect: false"))["a"].settings.protect == ""


def test_settings_may_differ_by_cell(world: World) -> None:
    runs = world.runs(one("matrix: {x: [1, 2]}, timeout: '${each.x}m'"))
    assert [d.settings.timeout for d in runs.values()] == [60, 120]


def test_typed_fields_are_checked_after_evaluation(world: World) -> None:
    top = "variables: {p: {type: bool, default: true}, s: {default: soon}, l: {type: list, default: [net]}}\n"
    fields = world.fields(one("docker: {privileged: '${var.p}', networks: ['${var.s}']}, retries: 3", top))
    assert fields["docker"] == {"privileged": True, "networks": ["soon"]}
    found = world.faults(
        one("timeout: '${var.s}', retries: '${var.l}', docker: {privileged: '${var.s}'}, image: '${var.l}'", top)
    )
    assert len(found) == 3 and all(fault.startswith("spec.yaml:5:") for fault in found)
    assert "runs.a.docker.privileged: must be true or false" in "".join(found)
    assert "must be a string, a number or a boolean, not a list" in world.faults(one("image: '${var.l}'", top))[0]
    assert "runs.a.timeout: must be a duration" in world.faults(one("timeout: '$${var.s}'", top))[0]


def test_run_id_and_attempt_are_those_of_the_attempt(world: World) -> None:
    (desired,) = world.expand(
        one("env: {ID: '${run.id}', N: '${run.attempt}', A: '${run.address}', P: '${project}'}")
    ).desired
    for attempt in (1, 2, 7):
        rendered = desired.render(attempt)
        assert rendered.run_id == run_id(LINEAGE, "a", attempt) and rendered.attempt == attempt
        assert rendered.objects["Echo"]["env"] == {"ID": rendered.run_id, "N": str(attempt), "A": "a", "P": "p"}


def test_what_differs_by_attempt_cannot_be_a_setting(world: World) -> None:
    assert "cannot be used here" in world.faults(one("timeout: '${run.attempt}m'"))[0]


def test_origins(world: World) -> None:
    text = "variables: {tag: {default: '1'}}\ndefaults:\n  labels: {team: x}\nruns:\n  a:\n    provider: docker\n"
    text += "    image: x:${var.tag}\n    command: [p,\n      q]\n    env:\n      A: b\n"
    (desired,) = world.expand(text, {"tag": "2"}).desired
    origins = {path: origin.text for path, origin in desired.render(1).origins.items()}
    assert origins["image"] == "spec.yaml:9 (var.tag: --var)"
    assert origins["command/1"] == "spec.yaml:11"
    assert origins["env/A"] == "spec.yaml:13"
    assert origins["labels/team"] == "spec.yaml:5"


# providers and needs


def test_providers(world: World) -> None:
    text = (
        "providers: {gpu: {type: kubernetes, context: '${var.c}', namespace: null}}\nvariables: {c: {default: ctx}}\n"
    )
    text += "runs: {a: {}, b: {provider: docker}}\n"
    expansion = world.expand(text)
    assert [(d.provider, d.type) for d in expansion.desired] == [("gpu", "kubernetes"), ("docker", "docker")]
    assert expansion.providers == {"gpu": {"type": "kubernetes", "context": "ctx"}, "docker": {"type": "docker"}}
    assert expansion.desired[0].render(1).objects["Connection"]["context"] == "ctx"
    assert expansion.project == "p"


def test_faults_of_providers(world: World) -> None:
    found = world.faults("runs: {a: {provider: dokcer}, b: {}}")
    assert found[0] == 'spec.yaml:3:22: runs.a.provider: unknown provider "dokcer"; did you mean "docker"?'
    assert "runs.b: names no provider; write provider: one of process, docker, kubernetes, slurm" in found[1]


def test_needs(world: World) -> None:
    text = """
runs:
  a: {provider: docker, matrix: {x: [1, 2], y: [p]}}
  b: {provider: docker, needs: [a]}
  c: {provider: docker, needs: ["a[x=${each.x},y=p]", b], matrix: {x: [2, 1]}}
  d: {provider: docker, needs: ['a[y=p,x=1]', a, "a[x=1,y=p]"]}
  e: {provider: docker, needs: b}
  f: {provider: docker, needs: "a[x=${each.x},y=p]", matrix: {x: [2]}}
"""
    needs = {a: d.settings.needs for a, d in world.runs(text).items()}
    assert needs["b"] == ("a[x=1,y=p]", "a[x=2,y=p]")
    assert needs["c[x=2]"] == ("a[x=2,y=p]", "b")
    assert needs["d"] == ("a[x=1,y=p]", "a[x=2,y=p]")
    assert (needs["e"], needs["f[x=2]"]) == (("b",), ("a[x=2,y=p]",))


@pytest.mark.parametrize("need", ["trian", "train[x=9]", "train[", "train[x=1,y=2]"])
def test_unknown_needs(world: World, need: str) -> None:
    text = (
        f"runs:\n  train: {{provider: docker, matrix: {{x: [1, 2]}}}}\n  b: {{provider: docker, needs: ['{need}']}}\n"
    )
    (fault,) = world.faults(text)
    assert fault.startswith(f'spec.yaml:5:33: runs.b.needs[0]: unknown run "{need}"; did you mean "train')


@pytest.mark.parametrize(("needs", "place"), [("'*'", "4:32: runs.b.needs"), ("['a*']", "4:33: runs.b.needs[0]")])
def test_a_glob_of_needs_is_told(world: World, needs: str, place: str) -> None:
    (fault,) = world.faults(f"runs:\n  b: {{provider: docker, needs: {needs}}}\n")
    assert (
        fault.startswith(f"spec.yaml:{place}: unknown run") and "; a glob is not taken here: write each name" in fault
    )


# secrets


def test_moved_and_removed_have_to_fit_the_runs(world: World) -> None:
    head = "moved: [{from: old, to: a}, {from: x, to: y}, {from: y, to: 'm[x=1]'}, {from: n, to: m}]\nremoved: [gone]\n"
    runs = "runs:\n  a: {provider: docker}\n  m: {provider: docker, matrix: {x: [1]}}\n"
    assert len(world.runs(head + runs)) == 2
    wrong = "moved: [{from: a, to: b}, {from: q, to: mm}, {from: r, to: 'm[x=2]'}]\nremoved: [a, m]\n"
    assert [fault.partition(": ")[2] for fault in world.faults(wrong + runs)] == [
        'moved[0].from: "a" is still a run of this spec; take the run or this entry away',
        'moved[0].to: unknown run "b"; known: a, m',
        'moved[1].to: unknown run "mm"; did you mean "m"?',
        'moved[2].to: unknown run "m[x=2]"; did you mean "m[x=1]"?',
        'removed[0]: "a" is still a run of this spec; take the run or this entry away',
        'removed[1]: "m" is still a run of this spec; take the run or this entry away',
    ]


def test_references_become_tokens(world: World) -> None:
    expansion = world.expand(
        one(
            "env: {A: {from_env: PGPASSWORD}, B: {from_env: NOPE}, C: {secret_key_ref: {name: n, key: k}}}, docker: {registry_credentials: {username: u, password: {from_env: PGPASSWORD}}}"
        )
    )
    fields = expansion.desired[0].render(1).objects["Echo"]
    token = fields["env"]["A"]
    assert world.sealer.secrets[token] == SecretSource("from_env", "PGPASSWORD")
    assert world.sealer.values == {token: "pg-secret"}
    assert fields["env"]["B"] == "(sensitive env:NOPE unresolved)"
    assert fields["env"]["C"] == {"secret_key_ref": {"name": "n", "key": "k"}}
    assert fields["docker"]["registry_credentials"] == {"username": "u", "password": token}
    assert "pg-secret" not in str(expansion)


SENSITIVE = (
    "variables: {t: {sensitive: true}, u: {default: user}, m: {type: map, sensitive: true, default: {k: map-secret}}}\n"
)


def test_a_sensitive_variable_taints_the_string_it_enters(world: World) -> None:
    text = one("env: {A: 'https://${var.u}:${var.t}@h/$${x}', B: '${var.m}-x'}", SENSITIVE)
    assert "is a map and cannot stand inside" in world.faults(text, {"t": "s3cret"})[0]
    fields = world.fields(
        one("env: {A: 'https://${var.u}:${var.t}@h/$${x}', B: '${var.m.k}'}", SENSITIVE), {"t": "s3cret"}
    )
    token = fields["env"]["A"]
    assert token.startswith("(sensitive var.t ") and "s3cret" not in str(fields)
    assert world.sealer.values[token] == "https://user:s3cret@h/${x}"
    source = world.sealer.secrets[token]
    assert source.value == "https://user:${var.t}@h/$${x}" and source.variables == ("t",)
    assert evaluate_template(source, {"t": "other"}) == "https://user:other@h/${x}"


@pytest.mark.parametrize(
    "field",
    [
        "name: 'x-${var.t}'",
        "provider: '${var.t}'",
        "needs: ['${var.t}']",
        "matrix: {x: ['${var.t}']}",
        "timeout: '${var.t}'",
    ],
)
def test_sensitive_values_in_places_that_cannot_hide_them(world: World, field: str) -> None:
    found = world.faults(f"{SENSITIVE}runs: {{a: {{{field}}}}}", {"t": "s3cret"})
    assert any("the sensitive variable t cannot be used here" in fault for fault in found)
    assert "s3cret" not in "".join(found)


def test_sensitive_commands_are_warned_about(world: World) -> None:
    expansion = world.expand(one("command: [x, '--token=${var.t}']", SENSITIVE), {"t": "s3cret"})
    (warning,) = expansion.diagnostics
    assert "process list" in warning.message and warning.severity == "warning"
    assert str(warning.position).endswith("spec.yaml:5:38")


# faults


def test_all_faults_at_once_each_once(world: World) -> None:
    text = """
defaults: {description: "${var.nope}"}
runs:
  a: {provider: docker, matrix: {x: [1, 2, 3]}, image: "${each.y}", needs: [zzz]}
  b: {provider: docker, image: bad, matrix: {x: [1, 2]}}
  c: {provider: docker, command: "it's"}
  d: {provider: docker, env: {A: "${run.nope}"}, labels: {x: "${var.nope}"}}
"""
    found = world.faults(text)
    places = [fault.split(": ")[1] for fault in found]
    assert places == [
        "defaults.description",
        "runs.a.image",
        "runs.a.needs[0]",
        "runs.c.command",
        "runs.d.env.A",
        "runs.d.labels.x",
    ]
    assert "cannot be split like a shell would: a quote or" in found[3]


def test_faults_of_the_provider_are_told_once(world: World) -> None:
    (fault,) = world.faults("runs:\n  b: {provider: docker, image: bad, matrix: {x: [1, 2]}}\n")
    assert fault == "spec.yaml:4:1: runs.b.image: a bad image"
    assert [d.message for d in world.expand(one("image: odd")).diagnostics] == ["an odd image"]


def test_a_block_of_another_provider_is_ignored_with_a_warning(world: World) -> None:
    expansion = world.expand(one("kubernetes: {namespace: x}"))
    assert "kubernetes" not in expansion.desired[0].render(1).objects["Echo"]
    assert "is ignored" in expansion.diagnostics[0].message


def test_max_parallel_of_a_single_run_is_warned_about(world: World) -> None:
    text = "defaults: {max_parallel: 2}\nruns:\n  a: {provider: docker, max_parallel: 3, keep: finished}\n  b: {provider: docker}\n"
    told = [str(warning).partition(": ")[2] for warning in world.expand(text).diagnostics]
    assert told == [f"runs.a.{key}: does nothing: the run has no matrix" for key in ("max_parallel", "keep")]


def test_a_delay_without_retries_is_warned_about(world: World) -> None:
    text = "defaults: {retry_delay: 5s}\nruns:\n  a: {provider: docker, retry_delay: 3s}\n  b: {provider: docker}\n"
    [warning] = world.expand(text).diagnostics
    assert str(warning).endswith("runs.a.retry_delay: does nothing: the run has no retries")


def test_a_delay_that_a_provider_does_not_keep_is_warned_about(world: World) -> None:
    expansion = world.expand(one("retries: 1, retry_delay: 3s"))
    assert [d.message for d in expansion.diagnostics] == ["is not kept by providers of the type docker"]
    assert expansion.desired[0].settings.retry_delay is None


@pytest.mark.parametrize(
    ("delay", "fault"),
    [
        ("soon", 'retry_delay: must be a duration such as 30s, or a mapping with initial, factor and max, not "soon"'),
        ("{factor: 3}", "retry_delay.initial: is missing"),
        ("{initial: 3, factor: 0.5}", "retry_delay.factor: must be a number from 1 to 10, not the number 0.5"),
        ("{initial: 3, max: soon}", "retry_delay.max: must be a duration"),
        ("{initial: 3, longest: 3}", "retry_delay.longest: unknown field"),
    ],
)
def test_delays_that_are_none(world: World, delay: str, fault: str) -> None:
    (told,) = world.faults(one(f"retries: 1, retry_delay: {delay}"))
    assert fault in told


def _timed(make: Callable[[], Any]) -> float:
    start = time.process_time()
    make()
    return time.process_time() - start


def test_ten_thousand_cells(world: World) -> None:
    cells = "runs:\n  a:\n    provider: process\n    command: [work, '${each.i}']\n    env: {I: '${each.i}', J: x}\n"
    cells += "    matrix: {i: {from: 1, to: 10000}}\n"
    cells += "  b: {provider: process, needs: ['a[i=${each.i}]'], matrix: {i: {from: 1, to: 10000}}}\n"
    assert _timed(lambda: world.expand(cells)) < 4
    (first, *_) = world.expand(cells).desired
    assert first.render(1).objects["Echo"]["env"] == {"I": "1", "J": "x"}


def test_settings_are_plain_values(world: World) -> None:
    settings = world.runs(one("needs: []"))["a"].settings
    assert replace(settings, needs=()) == settings
