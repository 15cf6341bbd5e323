"""Policies: which objects they forbid, in which words, and that a plan which violates one is never applied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowplan.planner.compare.policies import checked, rules_in
from flowplan.schemas.documents import parse
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.plans import Action, Change

CONTAINER = {
    "Container": {
        "Name": "demo-a-1",
        "Config": {"Image": "docker.io/evil:1", "HostConfig": {"Privileged": True, "Memory": 5}},
    }
}


def rules(text: str) -> Any:
    return rules_in(parse(text, "policy.yaml"), "policy.yaml")


def change(objects: Any = CONTAINER, action: Action = Action.CREATE, **facts: Any) -> Change:
    return Change("a", "docker", "docker", action, ("new",), before=None, after=objects, **facts)


def messages(text: str, one: Change | None = None) -> list[str]:
    return [f.message for f in checked([one or change()], rules(text))[0].preflight]


def in_container(schema: str) -> str:
    return f"name: p\nschema: {{properties: {{Container: {schema}}}}}"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("{required: [Networks]}", "p: /Container/Networks must be set"),
        (
            "{properties: {Config: {properties: {HostConfig: {properties: {Privileged: {const: false}}}}}}}",
            "p: /Container/Config/HostConfig/Privileged must be false, not true",
        ),
        (
            "{properties: {Config: {properties: {Image: {pattern: '^registry.acme.dev/'}}}}}",
            'p: /Container/Config/Image must match ^registry.acme.dev/, and "docker.io/evil:1" does not',
        ),
        (
            "{properties: {Config: {properties: {HostConfig: {properties: {Memory: {minimum: 6}}}}}}}",
            "p: /Container/Config/HostConfig/Memory must be at least 6, not 5",
        ),
        (
            "{properties: {Config: {properties: {HostConfig: {properties: {Memory: {exclusiveMaximum: 5}}}}}}}",
            "p: /Container/Config/HostConfig/Memory must be less than 5, not 5",
        ),
        ("{properties: {Name: {enum: [b, c]}}}", 'p: /Container/Name must be one of "b", "c", not "demo-a-1"'),
        ("{properties: {Name: {not: {pattern: demo}}}}", 'p: /Container/Name is "demo-a-1", which is not allowed'),
        ("{properties: {Name: {type: [integer, 'null']}}}", "p: /Container/Name must be of type integer or null"),
        ("{properties: {Config: {additionalProperties: false}}}", "p: /Container/Config/Image is not allowed"),
        ("{properties: {Name: false}}", 'p: /Container/Name is "demo-a-1", which is not allowed'),
        ("{properties: {Name: {minLength: 99}}}", "p: /Container/Name 'demo-a-1' is too short"),
    ],
)
def test_a_violation_names_the_place_and_what_must_be_there(schema: str, message: str) -> None:
    assert message in messages(in_container(schema))


def test_what_satisfies_a_policy_is_not_mentioned() -> None:
    assert messages(in_container("{required: [Name, Config]}")) == []


def test_a_finding_carries_origin_description_and_severity() -> None:
    origins = {"/Container/Config/HostConfig": "spec.yaml:12", "/Container/Name": "default"}
    one = change(origins=origins)
    text = (
        "name: p\ndescription: no root\nschema: {properties: {Container: {properties: {Name: {const: x}, Config:"
        " {properties: {HostConfig: {properties: {Privileged: {const: false}}, required: [PidsLimit]}}}}}}}"
    )
    found = {f.message: f for f in checked([one], rules(text))[0].preflight}
    privileged = found["p: /Container/Config/HostConfig/Privileged must be false, not true (spec.yaml:12)"]
    assert (privileged.severity, privileged.check, privileged.hint) == ("error", "policy", "no root")
    assert "p: /Container/Config/HostConfig/PidsLimit must be set (spec.yaml:12)" in found
    assert 'p: /Container/Name must be "x", not "demo-a-1"' in found


def test_types_choose_the_runs() -> None:
    schema = "types: [kubernetes]\nname: p\nschema: {required: [Job]}"
    assert messages(schema) == []
    assert messages(schema.replace("kubernetes", "docker")) == ["p: /Job must be set"]


@pytest.mark.parametrize("action", list(Action))
def test_only_what_the_plan_would_make_or_change_is_an_error(action: Action) -> None:
    ends = action in (Action.DESTROY, Action.FORGET)
    one = change(None if ends else CONTAINER, action)
    [after] = checked([one], rules("name: p\nschema: {required: [Job]}"))
    severities = [f.severity for f in after.preflight]
    assert severities == ([] if ends else ["warning"] if action is Action.NO_OP else ["error"])


@pytest.mark.parametrize(
    "text",
    [
        "name: p\nschema: {required: [Job]}",
        "- name: p\n  schema: {required: [Job]}",
        "policies:\n  - name: p\n    schema: {required: [Job]}",
        "title: p\nrequired: [Job]",
        '{"title": "p", "required": ["Job"]}',
    ],
)
def test_the_forms_of_a_policy_file(text: str) -> None:
    assert messages(text) == ["p: /Job must be set"]


def test_a_policy_without_name_is_called_as_its_file() -> None:
    assert messages("schema: {required: [Job]}") == ["policy.yaml: /Job must be set"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("schema: {propertes: {}}", 'policy.yaml:1:10: policy: JSON Schema has no keyword "propertes"; did you mean'),
        ("schema: {properties: {a: {requird: [b]}}}", 'policy.yaml:1:27: policy: JSON Schema has no keyword "requird"'),
        ("schema: {type: objct}", "no valid JSON Schema"),
        ("schema: 3", "a policy needs `schema`"),
        ("schema: {}\ntype: [docker]", 'unknown field of a policy; did you mean "types"?'),
        ("schema: {}\ntypes: docker", "must be a list of provider types"),
        ("[3]", "must be a policy"),
        ("hello", "must be a policy"),
    ],
)
def test_a_policy_that_would_forbid_nothing_is_a_fault(text: str, fault: str) -> None:
    with pytest.raises(InvalidInput, match=r"policy") as caught:
        rules(text)
    assert fault in str(caught.value)


def test_a_schema_may_use_its_own_definitions_and_fetches_nothing() -> None:
    own = "schema: {$defs: {no: {const: false}}, properties: {Container: {$ref: '#/$defs/no'}}}"
    assert len(messages(own)) == 1
    with pytest.raises(InvalidInput, match="refers to http"):
        messages("schema: {$ref: 'http://127.0.0.1:9/x.json'}")


# -- through the command ------------------------------------------------------------------------------------------------

SPEC = """\
flowplan: 1
project: demo
policies:
  - {name: no-shell, schema: {properties: {Process: {properties: {argv: {items: {not: {enum: [sh]}}}}}}}}
runs:
  hello: {provider: process, command: [sh, -c, touch made]}
"""


@pytest.fixture
def flowplan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    from flowplan.cli import run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments: str, code: int = 0) -> str:
        capfd.readouterr()
        found = run(arguments)
        out = "".join(capfd.readouterr())
        assert found == code, out
        return out

    return call


def test_plan_tells_and_apply_refuses(flowplan: Any, tmp_path: Path) -> None:
    (tmp_path / "flowplan.yaml").write_text(SPEC)
    for form in ("text", "json", "markdown"):
        assert "no-shell" in flowplan("plan", "--format", form, code=6)
    assert "flowplan.yaml:6" in flowplan("plan", "--no-refresh", code=6)
    assert "no-shell: /Process/argv/0" in flowplan("apply", "--yes", "flowplan.yaml", code=6)
    flowplan("plan", "--out", "saved.json", code=6)
    flowplan("apply", "--yes", "saved.json", code=6)
    flowplan("plan", "--check", "saved.json", code=6)
    assert not (tmp_path / "made").exists()


def test_a_file_on_the_command_line_counts_for_plans_and_saved_plans(flowplan: Any, tmp_path: Path) -> None:
    (tmp_path / "flowplan.yaml").write_text(SPEC.replace("enum: [sh]", "enum: [bash]"))
    (tmp_path / "no-sh.yaml").write_text(
        "schema: {properties: {Process: {properties: {argv: {items: {not: {const: sh}}}}}}}"
    )
    flowplan("plan", "--out", "saved.json")
    flowplan("plan", "--policy", "no-sh.yaml", code=6)
    assert "no-sh.yaml" in flowplan("apply", "--yes", "saved.json", "--policy", "no-sh.yaml", code=6)
    assert not (tmp_path / "made").exists()
    flowplan("apply", "--yes", "saved.json")
    assert (tmp_path / "made").exists()
    assert "warning" in flowplan("plan", "--policy", "no-sh.yaml", "--full")


def test_a_broken_policy_is_a_fault_of_the_spec(flowplan: Any, tmp_path: Path) -> None:
    (tmp_path / "flowplan.yaml").write_text(SPEC.replace("properties: {Process", "propertes: {Process"))
    for command in (["validate"], ["plan"], ["apply", "--yes", "flowplan.yaml"]):
        assert 'no keyword "propertes"' in flowplan(*command, code=7)
    flowplan("plan", "--policy", "missing.yaml", code=7)


def test_secrets_are_seen_by_no_policy(flowplan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_SECRET", "c4n4ry-value")
    (tmp_path / "flowplan.yaml").write_text(
        "flowplan: 1\nproject: demo\npolicies:\n"
        "  - {schema: {properties: {Process: {properties: {env: {properties: {K: {const: x}}}}}}}}\n"
        "runs: {a: {provider: process, command: ['true'], env: {K: {from_env: THE_SECRET}}}}\n"
    )
    out = flowplan("plan", code=6)
    assert "(sensitive env:THE_SECRET" in out and "c4n4ry" not in out
