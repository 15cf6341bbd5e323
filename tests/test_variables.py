"""Variables: where values come from, what they become, and what is told when they are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flowplan.planner.desired.sealing import Sealer
from flowplan.planner.desired.variables import Variables, resolve_variables
from flowplan.schemas.documents import parse
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.load import LoadedSpec, load_spec


@pytest.fixture
def spec(tmp_path: Path) -> Any:
    def make(declared: str) -> LoadedSpec:
        path = tmp_path / "spec.yaml"
        path.write_text(f"flowplan: 1\nproject: p\nruns: {{}}\nvariables:\n  {declared}\n")
        return load_spec(path)

    return make


def resolve(
    loaded: LoadedSpec,
    given: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Variables:
    documents = [(name, parse(text, name)) for name, text in (files or {}).items()]
    return resolve_variables(
        loaded.spec, given=given or {}, files=documents, environ=environ or {}, sources=loaded.sources
    )


def faults(*args: Any, **options: Any) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        resolve(*args, **options)
    return [str(fault) for fault in caught.value.diagnostics]


def test_precedence_and_origins(spec: Any) -> None:
    loaded = spec("a: {default: d}")
    sources: list[tuple[dict[str, Any], str, str]] = [
        ({}, "d", "default (spec.yaml:5)"),
        ({"environ": {"FLOWPLAN_VAR_a": "e"}}, "e", "FLOWPLAN_VAR_a"),
        ({"environ": {"FLOWPLAN_VAR_a": "e"}, "files": {"v.yaml": "# x\na: f\n"}}, "f", "v.yaml:2"),
        ({"files": {"v.yaml": "a: f", "w.yaml": "a: g"}}, "g", "w.yaml:1"),
        ({"given": {"a": "v"}, "files": {"v.yaml": "a: f"}, "environ": {"FLOWPLAN_VAR_a": "e"}}, "v", "--var"),
    ]
    for options, value, origin in sources:
        found = resolve(loaded, **options).by_name["a"]
        assert (found.value, found.origin) == (value, origin)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("string", "010", "010"),
        ("string", "", ""),
        ("number", "3", 3),
        ("number", "1.5", 1.5),
        ("number", "0x10", 16),
        ("bool", "true", True),
        ("bool", "False", False),
        ("list", "[a, 1]", ["a", 1]),
        ("list", '["a"]', ["a"]),
        ("map", "{a: {b: no}}", {"a": {"b": "no"}}),
        ("map", "a: 1", {"a": 1}),
    ],
)
def test_texts_become_values(spec: Any, kind: str, text: str, value: Any) -> None:
    loaded = spec(f"a: {{type: {kind}}}")
    assert resolve(loaded, {"a": text}).values == {"a": value}
    assert resolve(loaded, environ={"FLOWPLAN_VAR_a": text}).values == {"a": value}


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("number", "x", 'must be a number, not "x"'),
        ("bool", "maybe", 'must be true or false, not "maybe"'),
        ("list", "{a: 1}", "must be a list as YAML or JSON text"),
        ("list", "[", "must be a list as YAML or JSON text"),
        ("map", "x", "must be a map as YAML or JSON text"),
        ("map", "", "must be a map as YAML or JSON text"),
    ],
)
def test_texts_of_another_type(spec: Any, kind: str, text: str, message: str) -> None:
    (fault,) = faults(spec(f"a: {{type: {kind}}}"), {"a": text})
    assert fault == f"var.a: {message}; it comes from --var"


def test_values_of_files_keep_their_type(spec: Any) -> None:
    loaded = spec("{a: {type: list}, s: {type: string}, n: {type: number}}")
    assert resolve(loaded, files={"v": "a: [1]\ns: 1.10\nn: 2\n"}).values == {"a": [1], "s": "1.10", "n": 2}
    found = faults(loaded, files={"v": "a: x\ns: [1]\nn: 'two'\n"})
    assert [f.split(": ", 2)[:2] for f in found] == [["v:1:1", "var.a"], ["v:2:1", "var.s"], ["v:3:1", "var.n"]]


def test_a_file_must_hold_a_mapping(spec: Any) -> None:
    assert "must hold a mapping, not a list" in faults(spec("a: {default: x}"), files={"v.yaml": "[a]"})[0]


def test_missing_and_optional(spec: Any) -> None:
    (fault,) = faults(
        spec("{a: {}, b: {required: false}, c: {default: x, required: true}, d: {default: null}}"), {"c": "y"}
    )
    assert fault.endswith("var.a: the variable has no value; give it with --var a=..., --var-file or FLOWPLAN_VAR_a")
    assert resolve(spec("{b: {required: false}}")).values == {"b": None}


def test_undeclared_variables(spec: Any) -> None:
    loaded = spec("tag: {default: x}")
    found = faults(loaded, {"tga": "x"}, {"v.yaml": "\ntagg: 1\n"})
    assert found[0] == '--var tga: the spec declares no such variable; did you mean "tag"?'
    assert found[1] == 'v.yaml:2:1: tagg: the spec declares no such variable; did you mean "tag"?'
    (warning,) = resolve(loaded, environ={"FLOWPLAN_VAR_tga": "x", "OTHER": "y"}).warnings
    assert warning.severity == "warning" and warning.subject == "FLOWPLAN_VAR_tga"


def test_enum_and_pattern(spec: Any) -> None:
    loaded = spec(
        "{e: {enum: [a, b], default: a}, p: {pattern: '[0-9]+', default: '1'}, n: {type: number, enum: [1, 2], default: 1}}"
    )
    assert resolve(loaded, {"e": "b", "p": "22", "n": "2"}).values == {"e": "b", "p": "22", "n": 2}
    found = faults(loaded, {"e": "c", "p": "2x", "n": "3"})
    assert 'must be one of a, b, not "c"' in found[0]
    assert 'must match the pattern [0-9]+, "2x" does not' in found[1]
    assert "must be one of 1, 2, not the number 3" in found[2]


def test_defaults_are_checked_too(spec: Any) -> None:
    (fault,) = faults(spec("e: {enum: [a, b], default: c}"))
    assert "must be one of a, b" in fault and "spec.yaml:5" in fault


@pytest.mark.parametrize(
    "declared",
    [
        "{type: number, sensitive: true}",
        "{type: bool, sensitive: true}",
        "{type: list, sensitive: true}",
        "{pattern: 'x+', sensitive: true}",
        "{enum: [a], sensitive: true}",
    ],
)
def test_sensitive_values_are_never_shown(spec: Any, declared: str) -> None:
    (fault,) = faults(spec(f"a: {declared}"), {"a": "hunter2"})
    assert "hunter2" not in fault
    (fault,) = faults(spec(f"a: {declared}"), files={"v": "a: {hunter2: hunter2}"})
    assert "hunter2" not in fault


def test_the_document_of_a_plan_holds_no_secret(spec: Any) -> None:
    variables = resolve(
        spec("{a: {sensitive: true}, m: {type: map, sensitive: true}, b: {default: x}}"),
        {"a": "hunter2", "m": "{k: hunter3}"},
    )
    sealer = Sealer(b"key", lambda source: None)
    document = variables.document(sealer)
    assert document["b"] == {"value": "x", "origin": "default (spec.yaml:5)"}
    assert document["a"]["value"].startswith("(sensitive var.a ") and document["a"]["origin"] == "--var"
    assert "hunter" not in str(document) and "hunter" not in repr(variables)
    assert sealer.values[document["a"]["value"]] == "hunter2"


def test_all_faults_at_once(spec: Any) -> None:
    assert len(faults(spec("{a: {}, b: {type: number}, c: {enum: [x]}}"), {"b": "x", "c": "y", "d": "z"})) == 4
