"""Base job templates of Prefect, and what they make of a run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowplan.planner.desired.template import apply_template, as_written, fill
from flowplan.planner.desired.template_fields import FieldFault, run_fields
from flowplan.planner.desired.template_file import load_template
from flowplan.planner.manifests import ResolvedRun, docker, kubernetes, process
from flowplan.schemas.documents import Document, parse
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.runs import Identity, Origin
from flowplan.schemas.sources import Path as SourcePath

FIXTURES = Path(__file__).parent / "fixtures" / "templates"
IDENTITY = Identity("nightly", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "train", 1)


def applied(run: ResolvedRun, template: Any, file: str, evaluate: Any = as_written) -> ResolvedRun:
    return apply_template(run, load_template(template, file), evaluate)


def template(configuration: Any, **properties: Any) -> dict[str, Any]:
    return {"job_configuration": configuration, "variables": {"type": "object", "properties": properties}}


def filled(configuration: Any, **values: Any) -> Any:
    return fill(template({"x": configuration}, **{name: {} for name in "ab"} | {"n": {}, "people": {}}), values)


def exported(name: str) -> Document:
    return parse((FIXTURES / name).read_text(), name)


def run_of(type: str, **fields: Any) -> ResolvedRun:
    origins: dict[SourcePath, Origin] = {
        (key,): Origin(f"spec.yaml:{line}", "spec.yaml", line) for line, key in enumerate(fields, 3)
    }
    return ResolvedRun("train", "train", 0, type, type, fields, origins=origins, spec_dir="/work")


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("{{n}}", {"n": 3}, {"x": 3}),
        ("{{  n  }}", {"n": 3}, {"x": 3}),
        ("{{ a b }}", {"a": 1}, {"x": "{{ a b }}"}),
        ("{{ a | default('x') }}", {"a": 1}, {"x": "{{ a | default('x') }}"}),
        ("{{ a }", {"a": 1}, {"x": "{{ a }"}),
        ("{ { a } }", {"a": 1}, {"x": "{ { a } }"}),
        ("{{ n }}", {"n": True}, {"x": True}),
        ("{{ n }}", {"n": None}, {"x": None}),
        ("{{ n }}", {"n": [1, {"k": 2}]}, {"x": [1, {"k": 2}]}),
        ("{{ n }}Mi", {"n": 100}, {"x": "100Mi"}),
        ("{{ n }}Mi", {"n": 100.0}, {"x": "100.0Mi"}),
        ("x{{ n }}", {"n": True}, {"x": "xtrue"}),
        ("{{ a }}{{ b }}", {"a": 1, "b": "c"}, {"x": "1c"}),
        (" {{ n }}", {"n": [1]}, {"x": " [1]"}),
        ("{{ n }}", {}, {}),
        ("{{ n }}-", {}, {"x": "-"}),
        ({"b": "{{ n }}"}, {}, {"x": {}}),
        (["a", "{{ n }}", "b"], {}, {"x": ["a", "b"]}),
        ("{{ a.b }}", {"a": {"b": 5}}, {"x": 5}),
        ("{{ people[0].name }}", {"people": [{"name": "Ada"}]}, {"x": "Ada"}),
        ("{{ people[3].name }}", {"people": []}, {}),
        ("{{ a.b }}", {"a": {"a.b": 5}}, {}),
        ("{{ a }}", {"a": "{{ b }}", "b": 1}, {"x": "{{ b }}"}),
        ("{{{ a }}}", {"a": 1}, {"x": "{1}"}),
        ({"{{ a }}": 1}, {"a": 1}, {"x": {"{{ a }}": 1}}),
        (7, {}, {"x": 7}),
        ([False, None, 1.5], {}, {"x": [False, None, 1.5]}),
    ],
)
def test_placeholders(text: Any, values: dict[str, Any], expected: Any) -> None:
    assert filled(text, **values) == expected


def test_defaults_that_are_not_null_fill_in() -> None:
    made = fill(template({"a": "{{ a }}", "b": "{{ b }}"}, a={"default": 1}, b={"default": None}), {})
    assert made == {"a": 1}


def test_the_template_is_never_changed() -> None:
    wanted = template({"a": "{{ a }}", "l": [{"k": "{{ a }}"}]}, a={"default": {"deep": [1]}})
    before = copy.deepcopy(wanted)
    fill(wanted, {})["a"]["deep"].append(2)
    assert wanted == before


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
def test_a_lone_placeholder_keeps_any_value(value: Any) -> None:
    assert filled("{{ n }}", n=value) == {"x": value}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"variables": {}}, "job_configuration is missing"),
        ({"job_configuration": {}}, "variables is missing"),
        (["a"], "must be a mapping"),
        ({"job_configuration": [], "variables": {}}, "job_configuration: must be a mapping"),
        (template({"a": "{{ imagee }}"}, image={}), 'imagee }} is not declared in variables; did you mean "image"?'),
        (template({"a": "x {{ $HOME }}"}), "environment of a worker"),
        (template({"a": "{{ prefect.blocks.secret.key }}"}), "a block of a Prefect server"),
        (template({"a": "{{ prefect.variables.x }}"}), "a variable of a Prefect server"),
        (template({"a": "{{ ctx.flow.name }}"}), "context of a Prefect flow run"),
        (template({}, a={"type": "strng"}), "is not a JSON Schema"),
        (template({"a": "{{ a }}"}, a={"$ref": "https://example.com/x.json"}), "nothing is fetched"),
    ],
)
def test_what_is_not_a_template(wanted: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as error:
        fill(wanted, {})
    assert message in str(error.value)


def test_an_empty_template_is_allowed() -> None:
    assert fill({}, {}) == {}


def test_a_reference_to_nowhere_is_told() -> None:
    with pytest.raises(InvalidInput, match="is not in the template"):
        fill(template({"a": "{{ a }}"}, a={"$ref": "#/definitions/Nope"}), {"a": 1})


def test_every_fault_of_the_values_at_once() -> None:
    wanted = template({"a": "{{ a }}"}, a={"type": "integer"}, b={"type": "string"}, c={"type": "string"})
    wanted["variables"]["required"] = ["b", "c"]
    wanted["variables"]["properties"]["c"]["default"] = "given"
    with pytest.raises(InvalidInput) as error:
        fill(wanted, {"a": "x", "memroy": 1})
    told = str(error.value)
    assert "variables.memroy: is not a variable of the template" in told
    assert 'variables.a: must be a whole number, not "x"' in told
    assert "variables.b: is missing; the template requires it" in told
    assert "variables.c" not in told


def test_null_is_allowed_for_an_optional_variable_with_a_default() -> None:
    assert fill(template({"a": "{{ a }}"}, a={"type": "string", "default": "x"}), {"a": None}) == {"a": None}


def test_unknown_variable_of_a_run_has_its_place_and_a_suggestion() -> None:
    run = run_of("kubernetes", image="a:1", variables={"memory_limt": "1Gi"})
    with pytest.raises(InvalidInput) as error:
        applied(run, exported("kubernetes.yaml"), "base.yaml")
    assert str(error.value).startswith("spec.yaml:4:1: runs.train.variables.memory_limt:")
    assert 'did you mean "memory_limit"?' in str(error.value)


def test_a_missing_variable_is_told_where_the_run_gives_its_variables() -> None:
    wanted = template({"image": "{{ image }}"}, image={}, size={})
    wanted["variables"]["required"] = ["size"]
    with pytest.raises(InvalidInput) as error:
        applied(run_of("docker", image="a:1", variables={}), wanted, "base.yaml")
    assert str(error.value) == "spec.yaml:4:1: runs.train.variables.size: is missing; the template requires it"


def test_undeclared_placeholder_has_its_place() -> None:
    text = 'job_configuration:\n  image: "{{ imag }}"\nvariables: {properties: {image: {}}}\n'
    with pytest.raises(InvalidInput, match=r"^base\.yaml:2:10: job_configuration\.image: "):
        applied(run_of("docker"), parse(text, "/abs/base.yaml"), "base.yaml")


def test_exported_kubernetes_template_renders_unedited() -> None:
    run = applied(
        run_of(
            "kubernetes",
            image="etl:1",
            command=["python", "-m", "my etl"],
            env={"A": "1", "B": None},
            labels={"team": "x"},
        ),
        exported("kubernetes.yaml"),
        "base.yaml",
    )
    assert kubernetes.check(run) == []
    job = kubernetes.render(run, IDENTITY).objects["Job"]
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert job["metadata"]["name"] == "nightly-train-1"
    assert "generateName" not in job["metadata"]
    assert job["metadata"]["labels"]["team"] == "x"
    assert (job["spec"]["parallelism"], job["spec"]["completions"], job["spec"]["backoffLimit"]) == (1, 1, 0)
    assert "parallelism" not in pod and "serviceAccountName" not in pod
    assert "ttlSecondsAfterFinished" not in job["spec"]
    assert container["name"] == "prefect-job"
    assert container["args"] == ["python", "-m", "my etl"]
    assert container["env"] == [{"name": "A", "value": "1"}]
    assert container["imagePullPolicy"] == "IfNotPresent"
    assert container["resources"] == {"requests": {}, "limits": {}}
    assert run.fields["start_timeout"] == 60
    assert "template" not in run.fields and "timeout" not in run.fields


def test_variables_reach_the_job() -> None:
    variables = {
        "cpu_request": "500m",
        "memory_limit": "1Gi",
        "finished_job_ttl": 0,
        "job_watch_timeout_seconds": 7200,
        "backoff_limit": 2,
        "namespace": "etl",
        "name": "My Flow!",
    }
    run = applied(run_of("kubernetes", image="etl:1", variables=variables), exported("kubernetes.yaml"), "base.yaml")
    job = kubernetes.render(run, IDENTITY).objects["Job"]
    assert job["metadata"]["name"] == "my-flow"
    assert job["metadata"]["namespace"] == "etl"
    assert job["spec"]["backoffLimit"] == 2
    assert job["spec"]["ttlSecondsAfterFinished"] == 0
    assert job["spec"]["activeDeadlineSeconds"] == 7200
    resources = job["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert resources == {"requests": {"cpu": "500m"}, "limits": {"memory": "1Gi"}}


def test_the_run_wins_over_its_template() -> None:
    run = applied(
        run_of(
            "kubernetes",
            image="etl:1",
            image_pull_policy="Always",
            timeout="1h",
            retries=3,
            kubernetes={"namespace": "ml", "finished_job_ttl": "5m"},
            variables={"env": {"A": "template", "C": "3"}},
            env={"A": "run"},
        ),
        exported("kubernetes.yaml"),
        "base.yaml",
    )
    job = kubernetes.render(run, IDENTITY).objects["Job"]
    assert job["metadata"]["namespace"] == "ml"
    assert job["spec"]["activeDeadlineSeconds"] == 3600
    assert job["spec"]["backoffLimit"] == 3
    assert job["spec"]["ttlSecondsAfterFinished"] == 300
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["imagePullPolicy"] == "Always"
    assert {e["name"]: e["value"] for e in container["env"]} == {"A": "run", "C": "3"}


def test_hard_coded_env_of_a_template_is_kept_and_the_runs_joins() -> None:
    run = applied(run_of("kubernetes", image="a:1", env={"X": "1"}), exported("kubernetes-old.json"), "old.json")
    container = kubernetes.render(run, IDENTITY).objects["Job"]["spec"]["template"]["spec"]["containers"][0]
    reference = {"secretKeyRef": {"name": "test-secret", "key": "shhhhh"}}
    assert container["env"] == [{"name": "TEST_ENV", "valueFrom": reference}, {"name": "X", "value": "1"}]


def test_origins_say_template_spec_or_default() -> None:
    run = applied(
        run_of("kubernetes", image="a:1", variables={"service_account_name": "trainer"}),
        exported("kubernetes.yaml"),
        "base.yaml",
    )
    rendered = kubernetes.render(run, IDENTITY)
    origins = {path: origin.text for path, origin in rendered.origins.items()}
    pod = "/Job/spec/template/spec"
    assert origins[f"{pod}/serviceAccountName"] == "spec.yaml:4"
    assert origins[f"{pod}/restartPolicy"] == "base.yaml:22"
    assert origins[f"{pod}/containers/0/image"] == "spec.yaml:3"
    assert origins[f"{pod}/containers/0/imagePullPolicy"].startswith("base.yaml:")
    assert origins["/Job/metadata/name"] == "default"


def test_exported_docker_template_renders_unedited() -> None:
    variables = {"networks": ["warehouse"], "mem_limit": "2g", "container_create_kwargs": {"shm_size": "1g"}}
    run = applied(
        run_of("docker", image="etl:1", command=["run", "me"], variables=variables), exported("docker.json"), "d.json"
    )
    assert run.fields["command"] == ["run", "me"]
    assert run.fields["docker"] == {
        "networks": ["warehouse"],
        "auto_remove": False,
        "mem_limit": "2g",
        "privileged": False,
        "create_options": {"shm_size": "1g"},
    }
    assert docker.check(run) == []


def test_exported_process_template_renders_unedited() -> None:
    run = applied(run_of("process", command=["echo", "a b"], env={"A": "1"}), exported("process.json"), "p.json")
    assert process.check(run) == []
    assert process.render(run, IDENTITY).objects["Process"]["argv"] == ["echo", "a b"]


def test_a_command_string_of_a_template_is_split() -> None:
    wanted = template({"command": "echo 'a b' {{ a }}"}, a={"default": 1})
    assert applied(run_of("process"), wanted, "t").fields["command"] == ["echo", "a b", "1"]


@pytest.mark.parametrize(
    ("type", "configuration", "message"),
    [
        ("kubernetes", {"cluster_config": {"config": {}}}, "a run has no cluster of its own"),
        ("docker", {"mem_limt": "1g"}, "not a setting of docker runs"),
        ("process", {"command": "echo 'a"}, "cannot be split like a shell would"),
        ("process", {"command": 3}, "must be a string or a list"),
        ("docker", {"image_pull_policy": "IfPossible"}, "is not a pull policy"),
        ("kubernetes", {"job_manifest": []}, "must be a mapping"),
        ("ecs", {}, "knows no base job templates"),
    ],
)
def test_configurations_that_cannot_be_meant(type: str, configuration: Any, message: str) -> None:
    with pytest.raises(FieldFault) as error:
        run_fields(type, configuration)
    assert message in error.value.faults[0][1]


def test_old_spelling_of_pull_policies() -> None:
    assert run_fields("docker", {"image_pull_policy": "IF_NOT_PRESENT"}) == {"image_pull_policy": "IfNotPresent"}


def test_null_settings_are_not_given() -> None:
    assert run_fields("kubernetes", {"image": None, "cluster_config": None, "stream_output": False}) == {
        "stream_output": False
    }


def test_extra_hosts_among_create_options() -> None:
    made = run_fields("docker", {"container_create_kwargs": {"extra_hosts": {"a": "1.2.3.4"}, "ipc_mode": "host"}})
    assert made == {"docker": {"extra_hosts": {"a": "1.2.3.4"}, "create_options": {"ipc_mode": "host"}}}


def test_two_manifests_are_one_too_many() -> None:
    run = run_of("kubernetes", image="a:1", kubernetes={"job": {}})
    with pytest.raises(InvalidInput, match="brings a Job manifest of its own"):
        applied(run, exported("kubernetes.yaml"), "base.yaml")


def test_a_value_given_twice_with_different_values() -> None:
    run = run_of("docker", image="a:1", variables={"image": "b:1"})
    with pytest.raises(InvalidInput, match="is a field of the run too"):
        applied(run, exported("docker.json"), "d.json")


def test_a_block_in_a_default_is_refused_unless_the_run_gives_the_value() -> None:
    wanted = template({"env": "{{ env }}", "command": "x"}, env={"default": {"KEY": "{{ prefect.blocks.secret.key }}"}})
    with pytest.raises(InvalidInput, match="from_env"):
        applied(run_of("process"), wanted, "t")
    own = {"KEY": "(sensitive env:KEY 0123456789abcdef)"}
    assert applied(run_of("process", env=own), wanted, "t").fields["env"] == own


def test_a_block_document_reference_is_refused() -> None:
    run = run_of("docker", image="a:1", variables={"registry_credentials": {"$ref": {"block_document_id": "1"}}})
    wanted = template({"registry_credentials": "{{ registry_credentials }}"}, registry_credentials={})
    with pytest.raises(InvalidInput, match="block of a Prefect server"):
        applied(run, wanted, "t")


def test_tokens_stand_for_values_of_any_form() -> None:
    wanted = template({"env": {"T": "{{ a }}"}, "command": "x"}, a={"type": "integer", "maxLength": 3})
    token = "(sensitive var.token 0123456789abcdef)"
    run = applied(run_of("process", variables={"a": token}), wanted, "t")
    assert run.fields["env"] == {"T": token}


@pytest.mark.parametrize("spec", [{"template": True}, {"template": ["x"]}, {"template": {"spec": 3}}, [], None])
def test_a_manifest_that_is_no_job_is_left_to_the_check_of_jobs(spec: Any) -> None:
    fields = run_fields("kubernetes", {"job_manifest": {"kind": "Job", "spec": spec}})
    assert fields["kubernetes"]["job"]["spec"] == spec


@pytest.mark.parametrize(
    ("variables", "fault"),
    [
        (
            "{properties: {}, image: {type: string}}",
            "variables.image: a variable must stand under properties; write variables.properties.image",
        ),
        ("{propertys: {}}", 'variables.propertys: a variable must stand under properties; did you mean "properties"?'),
        ("{properties: {a: {defualt: x}}}", 'variables.properties.a.defualt: unknown keyword; did you mean "default"?'),
        (
            "{properties: {a: {type: string, required: true}}}",
            "variables.properties.a.required: says nothing here; write variables.required: [a]",
        ),
        ("{properties: {}}\nrequired: [a]", "required: unknown field; it belongs into variables"),
        ("{properties: {}}\nimage: x", "image: unknown field; settings belong into job_configuration"),
    ],
)
def test_misplaced_keywords_are_faults(variables: str, fault: str) -> None:
    text = f"job_configuration: {{command: x}}\nvariables: {variables}\n"
    with pytest.raises(InvalidInput) as error:
        applied(run_of("process"), parse(text, "t.yaml"), "t.yaml")
    (told,) = (str(one) for one in error.value.diagnostics)
    assert told.startswith("t.yaml:") and told.endswith(fault)


def test_words_of_prefect_in_a_schema_are_let_through() -> None:
    declared = {"type": "string", "enumNames": [], "secret_fields": [], "block_type_slug": "x", "placeholder": "y"}
    wanted = {"job_configuration": {"command": "x"}, "variables": {"properties": {"a": declared}}}
    assert applied(run_of("process"), wanted, "t").fields["command"] == ["x"]


def test_labels_of_a_template_stay_beside_those_of_the_run() -> None:
    declared = {"labels": {"type": "object", "default": {"team": "data", "tier": "low"}}}
    wanted = {"job_configuration": {"labels": "{{ labels }}"}, "variables": {"properties": declared}}
    run = applied(run_of("kubernetes", image="a:1", labels={"tier": "high"}), wanted, "t")
    assert run.fields["labels"] == {"team": "data", "tier": "high"}


def test_what_fills_a_placeholder_is_text() -> None:
    wanted = {
        "job_configuration": {"command": "{{ a }} ${var.x}"},
        "variables": {"properties": {"a": {"type": "string"}}},
    }
    told: list[str] = []

    def evaluate(value: str, path: object) -> str:
        told.append(value)
        return value.replace("${var.x}", "{{ a }}")

    run = applied(run_of("process", variables={"a": "${var.y}"}), wanted, "t", evaluate)
    assert run.fields["command"] == ["${var.y}", "{{", "a", "}}"] and told == ["", " ${var.x}"]
