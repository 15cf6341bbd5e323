"""The spec: what is accepted, by pydantic and JSON Schema alike, and how faults are told."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from flowplan.schemas.documents import parse
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.load import LoadedSpec, load_spec
from flowplan.schemas.spec import SCHEMA_FILE, Spec, json_schema, schema_text

SPECS = Path(__file__).parent / "fixtures" / "specs"
VALIDATOR = jsonschema.Draft202012Validator({k: v for k, v in json_schema().items() if k not in ("if", "then")})
"""Without the names of providers, which flowplan checks when the types of a spec are right."""
EVERYTHING = parse((SPECS / "valid" / "everything.yaml").read_text(), "everything.yaml").value


def load(tmp_path: Path, text: str, **options: Any) -> LoadedSpec:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    return load_spec(path, **options)


def faults(tmp_path: Path, text: str, **options: Any) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path, text, **options)
    return [str(fault).replace(f"{tmp_path}/", "") for fault in caught.value.diagnostics]


def run(fields: str) -> str:
    return f"flowplan: 1\nproject: p\nruns:\n  a: {fields}\n"


def accepted(tree: Any) -> bool:
    try:
        Spec.model_validate(tree)
    except ValidationError:
        return False
    return True


def both(tree: Any) -> bool:
    """Return whether a document is accepted; pydantic and JSON Schema must agree."""
    by_model, by_schema = accepted(tree), VALIDATOR.is_valid(tree)
    assert by_model == by_schema, (tree, [e.message for e in VALIDATOR.iter_errors(tree)])
    return by_model


def test_the_committed_schema_is_current() -> None:
    assert SCHEMA_FILE.read_text() == schema_text(), "run: python -m flowplan.schemas.spec"


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$id"].startswith("https://")


def test_every_example_of_the_schema_is_valid() -> None:
    schema = json_schema()
    found = 0
    for part in [schema, *schema["$defs"].values()]:
        for field in part.get("properties", {}).values():
            for example in field.get("examples", []):
                found += 1
                validator = jsonschema.Draft202012Validator({**field, "$defs": schema["$defs"]})
                assert validator.is_valid(example), (field["title"], example)
    assert found


def test_every_word_of_a_choice_is_explained() -> None:
    def choices(part: Any) -> Iterator[dict[str, Any]]:
        if isinstance(part, dict) and "enum" in part and "not" not in part:
            yield part
        for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            yield from choices(inner)

    schema = {key: value for key, value in json_schema().items() if key != "default"}
    found = [choice for choice in choices(schema) if "enumDescriptions" in choice]
    assert all(len(choice["enumDescriptions"]) == len(choice["enum"]) for choice in found)
    words = {word for choice in found for word in choice["enum"]}
    assert words >= {"on_failure", "stop_first", "IfNotPresent", "active", False, "kubernetes", "remove", "bool"}


def test_null_is_taken_only_where_it_unsets_something() -> None:
    null = re.compile(r'"(?:type|enum)": (?:"null"|\[[^\]]*\bnull\b)')
    for name in ("Matrix", "Move", "PatchOperation", "Policy", "Range", "Reference", "VariableSpec"):
        fields = json_schema()["$defs"][name]["properties"]
        taking = {field for field, schema in fields.items() if null.search(json.dumps(schema))}
        assert taking <= ({"include", "exclude"} if name == "Matrix" else set()), name


def test_every_field_has_a_title_and_a_description() -> None:
    schema = json_schema()
    for part in [schema, *schema["$defs"].values()]:
        assert part["description"] and part["title"]
        for name, field in part.get("properties", {}).items():
            assert field.get("description") and field.get("title"), name


@pytest.mark.parametrize("path", sorted((SPECS / "valid").glob("*.y*ml")), ids=lambda path: path.name)
def test_valid_specs(path: Path) -> None:
    if path.name in ("everything.yaml", "design.yaml"):
        assert both(parse(path.read_text(), "s").value)
        load_spec(path)


@pytest.mark.parametrize("path", sorted((SPECS / "invalid").glob("*.yaml")), ids=lambda path: path.name)
def test_invalid_specs(path: Path) -> None:
    assert not both(parse(path.read_text(), "s").value)


def _places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from _places(value, (*path, key))


def _with(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(tree)
    if not path:
        return value
    place = changed
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return changed


VALUES: list[Any] = [None, True, False, 0, 1, -1, 2.0, 1.5, "", "x", "1", "-1", "2Gi", "10m", "a b", "${var.x}", "a-${each.y}", [], ["x"], [1], [None], [[]], {}, {"x": 1}, {"from_env": "X"}, {"from_env": "X", "from_file": "Y"}, {"from": 1, "to": 2}, {"type": "docker"}, {"type": "nope"}]  # fmt: skip


def _small() -> dict[str, Any]:
    """Return the document of all fields, without what makes it big."""
    tree: dict[str, Any] = copy.deepcopy(EVERYTHING)
    del tree["runs"]["extract"]["variables"], tree["runs"]["extract"]["docker"]["create_options"]
    return tree


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_model_and_schema_agree_about_every_place(value: Any) -> None:
    """Replace each value of the full document by one of every kind."""
    tree = _small()
    verdicts = [both(_with(tree, path, value)) for path in _places(tree)]
    assert not all(verdicts)


@pytest.mark.parametrize("name", ["timeot", "x-mine", "a b", "index", "", "1a", "$ref", "A"])
def test_model_and_schema_agree_about_keys(name: str) -> None:
    tree = _small()
    for path in _places(tree):
        place = tree
        for part in path:
            place = place[part]
        if isinstance(place, dict):
            both(_with(tree, (*path, name), "x"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("{timeot: 1}", '4:7: runs.a.timeot: unknown field; did you mean "timeout"?'),
        ("{image: [x]}", "4:14: runs.a.image: must be a string, not a list"),
        ("{command: 5}", "4:16: runs.a.command: must be a string or a list, not the number 5"),
        ("{needs: 5}", "4:14: runs.a.needs: must be a string or a list, not the number 5"),
        ("{needs: ''}", "4:14: runs.a.needs: must not be empty"),
        (
            "{schedule: daily}",
            "4:7: runs.a.schedule: unknown field; flowplan starts nothing by itself; call `flowplan apply --yes` from cron",
        ),
        (
            "{resources: {limits: {cpu: 1}}}",
            "4:19: runs.a.resources.limits: unknown field; write cpu, memory and gpu directly below resources",
        ),
        (
            "{env: {A: {valueFrom: {}}}}",
            "4:17: runs.a.env.A.valueFrom: unknown field; write secret_key_ref or config_map_key_ref",
        ),
        ("{script: ls}", "4:7: runs.a.script: unknown field; write command: [sh, -c, '...']"),
        ("{restart: always}", "4:7: runs.a.restart: unknown field; write retries"),
        ("{if: x}", "4:7: runs.a.if: unknown field; a run has no condition"),
        ("{tag: '1'}", "4:7: runs.a.tag: unknown field; write it behind the image"),
        ("{workingDir: /x}", '4:7: runs.a.workingDir: unknown field; write "working_dir"'),
        ("{process: {cwd: /x}}", '4:17: runs.a.process.cwd: unknown field; write "working_dir" directly in the run'),
        ("{docker: {network: x}}", '4:16: runs.a.docker.network: unknown field; did you mean "networks"?'),
        ("{matrix: [a]}", "4:15: runs.a.matrix: must be a mapping, not a list; write `matrix: {day: [mon, tue]}`"),
        ("{env: {A: {b: c}}}", "4:17: runs.a.env.A.b: unknown field; known: from_env"),
        ("echo hi", '4:6: runs.a: must be a mapping, not "echo hi"; write `a: {provider: ..., command: [...]}`'),
        ("{image: ''}", "4:14: runs.a.image: must not be empty"),
        ("{image: 1.10}", "4:14: runs.a.image: must be a string, not the number 1.10"),
        ("{command: {a: b}}", "4:16: runs.a.command: must be a string or a list, not a mapping"),
        ("{command: [a, [b]]}", "4:20: runs.a.command[1]: must be a string, a number or a boolean, not a list"),
        ("{env: [A=b]}", "4:12: runs.a.env: must be a mapping, not a list"),
        ("{env: {A: [x]}}", "4:16: runs.a.env.A: must be a scalar or a mapping, not a list"),
        ("{env: {A=: x}}", '4:13: runs.a.env.A=: must be a name without =, not "A="'),
        ("{env: {A: {from_evn: X}}}", '4:17: runs.a.env.A.from_evn: unknown field; did you mean "from_env"?'),
        ("{env: {A: {}}}", "4:16: runs.a.env.A: must be exactly one of from_env, from_file"),
        ("{env: {A: {secret_key_ref: {name: x}}}}", "4:17: runs.a.env.A.secret_key_ref.key: is missing"),
        (
            "{image_pull_policy: Sometimes}",
            '4:26: runs.a.image_pull_policy: must be one of Always, IfNotPresent, Never, not "Sometimes"',
        ),
        ("{image_pull_policy: always}", 'did you mean "Always"?'),
        ("{timeout: soon}", 'must be a duration such as 90, 90s, 15m or 2h30m, not "soon"'),
        ("{retries: -1}", "runs.a.retries: must be 0 or more, not -1"),
        ("{retries: 1.5}", "runs.a.retries: must be a whole number, not the number 1.5"),
        ("{max_parallel: 0}", "must be 1 or more, not 0"),
        ("{stream_output: 'yes'}", 'must be true or false, not "yes"'),
        ("{stream_output: yes}", 'must be true or false, not "yes"'),
        ("{protect: true}", "must be active, always or false, not the boolean true"),
        ("{process: {inherit_env: PATH}}", 'must be true, false or a list of names, not "PATH"'),
        ("{environment: {A: b}}", '4:7: runs.a.environment: unknown field; write "env"'),
        ("{namespace: x}", "4:7: runs.a.namespace: unknown field; it belongs into the block kubernetes"),
        ("{kubernetes: {ports: x}}", "runs.a.kubernetes.ports: unknown field; known: namespace, service_account_name"),
        ("{docker: [x]}", "runs.a.docker: must be a mapping, not a list"),
        ("{docker: {mem_limit: 2x}}", "runs.a.docker.mem_limit: must be a size"),
        ("{docker: {netwroks: [x]}}", 'runs.a.docker.netwroks: unknown field; did you mean "networks"?'),
        ("{resources: {memory: 4gi}}", "runs.a.resources.memory: must be a size"),
        (
            "{matrix: {a: 3}}",
            "runs.a.matrix.a: must be a list, a range with from and to, or an expression, not the number 3",
        ),
        ("{matrix: {a: x}}", "runs.a.matrix.a: must be a list, a range with from and to, or an expression"),
        ("{matrix: {a b: [1]}}", "runs.a.matrix: the axis name a b must be"),
        ("{matrix: {index: [1]}}", "runs.a.matrix: the axis name index is taken, by ${each.index}"),
        ("{matrix: {a: {from: 1}}}", "runs.a.matrix.a.to: is missing"),
        ("3", "4:6: runs.a: must be a mapping, not the number 3"),
        ("{template: nope.json}", "4:17: runs.a.template: nope.json: there is no such file"),
        ("{template: '${var.x}'}", "the name of a file cannot hold an expression"),
        ("{kubernetes: {job: .}}", ".: is a directory, not a file"),
    ],
)
def test_faults_of_a_run(tmp_path: Path, fields: str, message: str) -> None:
    (fault,) = faults(tmp_path, run(fields))
    assert fault.startswith("spec.yaml:4:") and message in fault


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "spec.yaml:1:1: must be a mapping, not a list"),
        (
            "flowplan: 2\nproject: p\nruns: {}",
            "spec.yaml:1:11: flowplan: must be 1, the version of the spec, not the number 2",
        ),
        ("flowplan: 1\nruns: {}", "spec.yaml:1:1: project: is missing"),
        ("flowplan: 1\nproject: a b\nruns: {}", "project: must be a name of at most 63"),
        ("flowplan: 1\nproject: p\nruns: {'a[1]': {}}", "runs.a[1]: must be a name of letters"),
        ("flowplan: 1\nproject: p\nruns: {}\nrun: {}", 'spec.yaml:4:1: run: unknown field; did you mean "runs"?'),
        ("flowplan: 1\nproject: p\nruns: {}\nproviders: {gpu: {}}", 'providers.gpu: unknown provider type "gpu"'),
        ("flowplan: 1\nproject: p\nruns: {}\nproviders: {a: {type: dokcer}}", 'did you mean "docker"?'),
        (
            "flowplan: 1\nproject: p\nruns: {}\nproviders: {process: {host: x}}",
            "spec.yaml:4:23: providers.process.host: unknown field",
        ),
        ("flowplan: 1\nproject: p\nruns: {}\nproviders: {docker: {hots: x}}", 'did you mean "host"?'),
        (
            "flowplan: 1\nproject: p\nruns: {}\nproviders: {g: {type: kubernetes, host: x}}",
            "providers.g.host: unknown field",
        ),
        (
            "flowplan: 1\nproject: p\nruns: {}\nvariables: {a: {default: 1}}",
            "must be of the variable's type string, not the number 1",
        ),
        (
            "flowplan: 1\nproject: p\nruns: {}\nvariables: {a: {type: list, default: x}}",
            "must be of the variable's type list",
        ),
        (
            "flowplan: 1\nproject: p\nruns: {}\nvariables: {a: {pattern: '('}}",
            "variables.a.pattern: is not a regular expression",
        ),
        ("flowplan: 1\nproject: p\nruns: {}\nvariables: {a: {typ: list}}", 'did you mean "type"?'),
    ],
)
def test_faults_of_a_spec(tmp_path: Path, text: str, message: str) -> None:
    (fault,) = faults(tmp_path, text)
    assert message in fault and fault.startswith("spec.yaml:")


def test_a_sensitive_default_is_not_shown(tmp_path: Path) -> None:
    (fault,) = faults(
        tmp_path, "flowplan: 1\nproject: p\nruns: {}\nvariables: {a: {default: 8675309, sensitive: true}}"
    )
    assert "8675309" not in fault


def test_all_faults_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [\n")
    text = "flowplan: 1\nproject: p\nvariables: {v: {default: [1]}}\nruns:\n  a: {imgae: x, timeout: soon}\n"
    text += "  b: {template: nope, kubernetes: {job: bad.yaml}}\n"
    found = faults(tmp_path, text)
    assert [f.split(": ", 2)[:2] for f in found] == [
        ["spec.yaml:3:26", "variables.v.default"],
        ["spec.yaml:5:7", "runs.a.imgae"],
        ["spec.yaml:5:26", "runs.a.timeout"],
        ["spec.yaml:6:17", "runs.b.template"],
        ["bad.yaml:2:1", "is not YAML"],
    ]


def test_files_that_a_spec_names(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("kind: Job\nspec: {}\n")
    text = run("{kubernetes: {job: job.yaml}}") + "  b: {kubernetes: {job: ./job.yaml}}\n"
    loaded = load(tmp_path, text)
    assert set(loaded.files) == {"job.yaml", "./job.yaml"}
    assert loaded.files["job.yaml"].value["kind"] == "Job"
    assert loaded.directory == tmp_path
    before = loaded.digest
    assert load(tmp_path, text).digest == before
    (tmp_path / "job.yaml").write_text("kind: Job\nspec: {a: 1}\n")
    assert load(tmp_path, text).digest != before


def test_two_documents_in_a_named_file(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("kind: Job\n---\nkind: Job\n")
    (fault,) = faults(tmp_path, run("{kubernetes: {job: job.yaml}}"))
    assert "job.yaml:3:1: holds 2 YAML documents: Job (line 1), Job (line 3)" in fault


def test_the_tree_keeps_source_text(tmp_path: Path) -> None:
    loaded = load(tmp_path, run("{env: {V: 1.10}}"))
    assert loaded.tree["runs"]["a"]["env"]["V"].text == "1.10"
    assert str(loaded.sources.value(("runs", "a", "env", "V"))).endswith("spec.yaml:4:16")


def test_a_missing_spec(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no such file"):
        load_spec(tmp_path / "flowplan.yaml")


class Block(BaseModel):
    region: str


def test_installed_provider_types(tmp_path: Path) -> None:
    types = {"modal": Block, "other": None}
    text = "flowplan: 1\nproject: p\nproviders: {m: {type: modal, any: thing}, other: {}}\nruns:\n  a: {modal: {region: eu}, other: {x: 1}}\n"
    loaded = load(tmp_path, text, provider_types=types)
    assert loaded.spec.runs["a"].modal.region == "eu"  # type: ignore[attr-defined]
    assert jsonschema.Draft202012Validator(json_schema(types)).is_valid(loaded.tree)
    assert "runs.a.modal: unknown field" in "\n".join(faults(tmp_path, text))
    assert "runs.a.modal.region: is missing" in faults(tmp_path, run("{modal: {}}"), provider_types=types)[0]


def test_importing_and_checking_is_cheap() -> None:
    code = "import sys, flowplan.schemas.load as l; from pathlib import Path; l.load_spec(Path(sys.argv[1])); print(*sys.modules)"
    path = str(SPECS / "valid" / "everything.yaml")
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    heavy = {"docker", "kubernetes", "deepdiff", "rich", "jsonschema", "slugify", "sqlite_utils"}
    assert not heavy & set(done.stdout.split())


_KEYS = st.sampled_from(
    [
        "flowplan",
        "project",
        "runs",
        "providers",
        "variables",
        "defaults",
        "matrix",
        "env",
        "a",
        "image",
        "docker",
        "type",
        "default",
        "x-y",
        "command",
        "from_env",
    ]
)
_TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from(["", "a", "1", "${var.a}", "docker"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=4)),
    max_leaves=12,
)


@given(_TREES, st.sampled_from([(), ("runs", "train"), ("providers",), ("variables",), ("defaults",)]))
@settings(deadline=None, max_examples=200)
def test_model_and_schema_agree_about_anything(tree: Any, place: tuple[str, ...]) -> None:
    both(_with({"flowplan": 1, "project": "p", "runs": {"train": {}}}, place, tree))
