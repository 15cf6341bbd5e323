"""Names and labels are legal for their engine, stay distinct, and keep what is legal already, in every script."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from flowplan.planner.manifests import names
from flowplan.schemas.runs import Identity

LINEAGE = str(uuid.UUID(int=7))


def identity(address: str = "extract", attempt: int = 1) -> Identity:
    return Identity("nightly", LINEAGE, address, attempt)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("_flow_run", "flow_run"),
        ("...flow_run", "flow_run"),
        ("._-flow_run", "flow_run"),
        ("9flow-run", "9flow-run"),
        ("-flow.run", "flow.run"),
        ("flow*run", "flow-run"),
        ("flow9.-foo_bar^x", "flow9.-foo_bar-x"),
        ("--__....", ""),
        ("My Flow Run", "My-Flow-Run"),
        ("a/b:c", "a-b-c"),
        ("x" * 300, "x" * 250),
        ("日本語", "Ri-Ben-Yu"),
        ("🎉", ""),
    ],
)
def test_docker_names_as_d14(text: str, name: str) -> None:
    assert names.docker_name(text) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("infra-run-", "infra-run"),
        ("_infra_run", "infra-run"),
        ("...infra_run", "infra-run"),
        ("infra*run", "infra-run"),
        ("9infra-run", "9infra-run"),
        ("infra9.-foo_bar^x", "infra9-foo-bar-x"),
        ("ÜBER Größe", "uber-grosse"),
        ("🎉", ""),
        ("x" * 300, "x" * 45),
    ],
)
def test_kubernetes_names_as_k14(text: str, name: str) -> None:
    assert names.kubernetes_name(text) == name


def test_default_names_carry_project_address_and_attempt() -> None:
    cell = identity("backfill[date=2026-11-01,shard=3]", 2)
    assert names.docker_run_name(cell) == "nightly-backfill-date-2026-11-01-shard-3-2"
    assert names.kubernetes_run_name(identity("a.B", 3)) == "nightly-a-b-3"


def test_a_given_name_is_kept_for_the_first_attempt_and_numbered_after() -> None:
    assert names.docker_run_name(identity(), "My Name") == "My-Name"
    assert names.docker_run_name(identity(attempt=2), "My Name") == "My-Name-2"
    assert names.kubernetes_run_name(identity(), "My Name") == "my-name"


def test_a_name_with_nothing_legal_in_it_falls_back_to_the_default() -> None:
    assert names.docker_run_name(identity(), "🎉") == "nightly-extract-1"
    assert names.kubernetes_run_name(Identity("🎉", LINEAGE, "🎉", 1)) == "run-1"


def test_long_addresses_with_one_beginning_stay_distinct_and_within_the_limit() -> None:
    one, other = (names.kubernetes_run_name(identity("x" * 80 + end)) for end in "ab")
    assert one != other
    assert len(one) <= 63
    assert len(names.docker_run_name(identity("x" * 400, 1234))) <= 255


@pytest.mark.parametrize(
    ("key", "label"),
    [
        ("flowplan.dev/run-id", "dev.flowplan.run-id"),
        ("app.kubernetes.io/managed-by", "io.kubernetes.app.managed-by"),
        ("a.b.c/d", "c.b.a.d"),
        ("a.b/c/d", "b.a.c/d"),
        ("plain", "plain"),
    ],
)
def test_docker_label_keys_as_d16(key: str, label: str) -> None:
    assert names.docker_label_key(key) == label


@pytest.mark.parametrize(
    ("key", "label"),
    [
        ("team", "team"),
        ("a.b/c", "a.b/c"),
        ("a.b/c/d", "a.b/c-d"),
        ("--x--", "x"),
        ("a.b/Größe", "a.b/Grosse"),
        ("Äcme.DEV/Team", "acme.dev/Team"),
        ("...", "..."),
        ("k" * 70, "k" * 63),
    ],
)
def test_kubernetes_label_keys_as_k16(key: str, label: str) -> None:
    assert names.kubernetes_label_key(key) == label


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("2023-01-01T00:00:00+00:00", "2023-01-01T00-00-00-00-00"),
        ("", ""),
        ("...", "..."),
        ("-a_", "a"),
        ("v" * 70, "v" * 63),
    ],
)
def test_kubernetes_label_values_as_k17(value: str, label: str) -> None:
    assert names.kubernetes_label_value(value) == label


@pytest.mark.parametrize("spelt", [lambda key: key, names.docker_label_key], ids=["kubernetes", "docker"])
def test_labels_of_flowplan_are_known_in_both_spellings(spelt: Callable[[str], str]) -> None:
    own = [spelt(f"flowplan.dev/{name}") for name in ("project", "lineage", "run-id", "address", "attempt", "content")]
    assert all(names.is_own_label(key) for key in [*own, spelt("app.kubernetes.io/managed-by")])
    assert [names.is_label_of_attempt(key) for key in own] == [False, False, True, True, True, True]
    assert not any(names.is_own_label(spelt(key)) for key in ("acme.dev/run-id", "app.kubernetes.io/name", "project"))
