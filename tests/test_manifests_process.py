"""The pure half of ``process``: argv, directory, environment, labels, and where each was written."""

from __future__ import annotations

from typing import Any

import pytest

from flowplan.planner.manifests import ResolvedRun, process
from flowplan.schemas.runs import Identity, Origin, Rendered
from flowplan.schemas.secrets import SecretSource, token
from flowplan.schemas.sources import Path

LINEAGE = "7b2c6a52-3c1c-4d7d-9a55-0d6c6a3f6f01"
TOKEN = token(SecretSource("from_env", "PW"), b"key", "hunter2")


def a_run(origins: dict[Path, Origin] | None = None, **fields: Any) -> ResolvedRun:
    return ResolvedRun("extract", "extract", 0, "process", "process", fields, {}, "/spec", {}, origins or {})


def rendered(attempt: int = 1, address: str = "extract", **fields: Any) -> Rendered:
    return process.render(a_run(**fields), Identity("nightly", LINEAGE, address, attempt))


def object_of(**fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = rendered(**fields).objects["Process"]
    return found


def messages(**fields: Any) -> list[str]:
    return [str(fault) for fault in process.check(a_run(**fields))]


@pytest.mark.parametrize(
    ("entrypoint", "command", "argv"),
    [
        (None, ["a", "b"], ["a", "b"]),
        (["a"], None, ["a"]),
        (["a", "b"], ["c d"], ["a", "b", "c d"]),
        ([], ["a", ""], ["a", ""]),
    ],
)
def test_argv_is_entrypoint_and_command(entrypoint: Any, command: Any, argv: list[str]) -> None:
    assert object_of(entrypoint=entrypoint, command=command)["argv"] == argv


@pytest.mark.parametrize(
    ("working_dir", "cwd"), [(None, "."), ("data/", "data"), ("../x", "../x"), ("./a/../b", "b"), ("/abs/", "/abs")]
)
def test_the_directory_is_as_the_spec_means_it(working_dir: str | None, cwd: str) -> None:
    assert object_of(command=["a"], working_dir=working_dir)["cwd"] == cwd


def test_the_environment_is_the_users_only() -> None:
    env = {"B": "x", "A": None, "E": "", "S": TOKEN}
    assert object_of(command=["a"], env=env)["env"] == env
    assert list(object_of(command=["a"], env=env)["env"]) == ["A", "B", "E", "S"]


def test_labels_tell_whose_it_is_and_keep_the_users() -> None:
    identity = Identity("nightly", LINEAGE, "extract", 1)
    labels = dict(object_of(command=["a"], labels={"team": "data"})["labels"])
    assert labels.pop("flowplan.dev/content")
    assert labels == {
        "team": "data",
        "app.kubernetes.io/managed-by": "flowplan",
        "flowplan.dev/address": "extract",
        "flowplan.dev/lineage": LINEAGE,
        "flowplan.dev/project": "nightly",
        "flowplan.dev/run-id": identity.run_id,
    }


def test_defaults_are_not_in_the_object() -> None:
    plain = {"argv", "cwd", "env", "labels"}
    assert set(object_of(command=["a"])) == plain
    assert set(object_of(command=["a"], retries=0, grace_period="30s", process={"inherit_env": True})) == plain


def test_what_differs_from_the_defaults_is() -> None:
    made = object_of(command=["a"], retries=2, grace_period=5, timeout="2m", process={"inherit_env": ["HOME"]})
    assert {key: made[key] for key in ("retries", "grace_period", "timeout", "inherit_env")} == {
        "retries": 2,
        "grace_period": 5,
        "timeout": 120,
        "inherit_env": ["HOME"],
    }
    assert object_of(command=["a"], process={"inherit_env": False})["inherit_env"] is False


@pytest.mark.parametrize(
    ("delay", "made"),
    [
        ("30s", {"initial": 30}),
        (0, {"initial": 0}),
        ({"initial": "30s"}, {"initial": 30, "factor": 2}),
        ({"initial": 5, "factor": 1.5, "max": "10m"}, {"initial": 5, "factor": 1.5, "max": 600}),
    ],
)
def test_the_wait_before_a_retry(delay: Any, made: Any) -> None:
    assert object_of(command=["a"], retries=2, retry_delay=delay)["retry_delay"] == made


def test_names_are_functions_of_project_address_and_attempt() -> None:
    assert rendered(command=["a"]).name == "nightly-extract-1"
    assert rendered(3, command=["a"]).name == "nightly-extract-3"
    assert rendered(address="b[day=2026-11-01]", command=["a"]).name == "nightly-b-day-2026-11-01-1"
    assert rendered(command=["a"], name="mine").name == "mine"


def test_rendering_twice_gives_the_same() -> None:
    assert rendered(command=["a"], env={"A": "1"}) == rendered(command=["a"], env={"A": "1"})


def test_every_leaf_knows_where_it_was_written() -> None:
    lines = {
        ("command", 0): Origin("spec.yaml:5"),
        ("env", "A/B"): Origin("spec.yaml:7"),
        ("labels", "team"): Origin("spec.yaml:2"),
        ("process", "inherit_env"): Origin("spec.yaml:9"),
        ("timeout",): Origin("spec.yaml:8"),
    }
    fields = {"command": ["a"], "env": {"A/B": "1"}, "labels": {"team": "x"}, "timeout": 5}
    run = a_run(lines, **fields, process={"inherit_env": False})
    origins = process.render(run, Identity("nightly", LINEAGE, "extract", 1)).origins
    assert {pointer: origin.text for pointer, origin in origins.items()} == {
        "/Process/argv/0": "spec.yaml:5",
        "/Process/env/A~1B": "spec.yaml:7",
        "/Process/labels/team": "spec.yaml:2",
        "/Process/inherit_env": "spec.yaml:9",
        "/Process/timeout": "spec.yaml:8",
        "/Process/cwd": "default",
    }


def test_a_good_run_has_no_faults() -> None:
    assert messages(command=["a"], env={"A": "1", "B": None}) == []


@pytest.mark.parametrize("fields", [{}, {"command": []}, {"command": [], "entrypoint": []}, {"command": [""]}])
def test_an_empty_argv_is_a_fault(fields: dict[str, Any]) -> None:
    assert "runs.extract.command: a process needs a command" in messages(**fields)[0]


def test_an_empty_program_is_a_fault() -> None:
    assert "empty" in messages(command=["", "x"])[0]


@pytest.mark.parametrize("kind", ["secret_key_ref", "config_map_key_ref"])
def test_references_into_kubernetes_are_faults(kind: str) -> None:
    (fault,) = messages(command=["a"], env={"PW": {kind: {"name": "db", "key": "pw"}}})
    assert "runs.extract.env.PW" in fault
    assert kind in fault
    assert "from_env" in fault


def test_all_faults_at_once_and_where() -> None:
    origins = {("env", "A=B"): Origin("spec.yaml:7", "spec.yaml", 7)}
    run = a_run(origins, command=["a\0"], env={"A=B": "1", "C": "\0"})
    faults = process.check(run)
    assert len(faults) == 3
    assert str(faults[1]).startswith("spec.yaml:7:1: runs.extract.env.A=B: ")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"image": "x"}, "image"),
        ({"resources": {"cpu": "1"}}, "resources"),
        ({"docker": {"networks": []}}, "docker"),
        ({"kubernetes": {"namespace": "x"}}, "kubernetes"),
    ],
)
def test_fields_without_effect_are_warned_of(fields: dict[str, Any], word: str) -> None:
    (warning,) = rendered(command=["a"], **fields).warnings
    assert word in warning


def test_a_secret_in_the_command_is_warned_of() -> None:
    (warning,) = rendered(command=["a", f"--password={TOKEN}"]).warnings
    assert "process list" in warning


def test_everything_replaces_and_nothing_drifts() -> None:
    effect = process.effect("/Process/env/A", "1", "2")
    assert (effect.effect, effect.rule) == ("replace", "a process cannot be changed once started")
    assert process.comparable({"Process": {"argv": ["a"]}}) == {}
    assert process.equal("/Process/argv", ["a"], ["a"])
    assert not process.equal("/Process/argv", ["a"], ["b"])
