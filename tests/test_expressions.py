"""Expressions keep types, leave everything else alone, and say what is wrong."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowplan.planner.desired import expressions
from flowplan.planner.desired.evaluation import Evaluator, compiled
from flowplan.planner.desired.expressions import ExpressionError, Scope, escape, evaluate
from flowplan.planner.desired.sealing import Sealer, evaluate_template
from flowplan.schemas.documents import parse
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.secrets import SecretSource

NUMBERS = parse("[1.10, 0x1F]", "f").value
SCOPE = Scope(
    var={
        "s": "x y",
        "n": 3,
        "t": NUMBERS[0],
        "h": NUMBERS[1],
        "b": True,
        "none": None,
        "l": ["a", {"k": 1}],
        "m": {"key": {"in": 2}, "a b": 5},
    },
    each={"day": "2026-11-01", "index": 4},
    run={"address": "a[x=1]", "id": "u", "attempt": 2},
    project="nightly",
)


def evaluate_text(text: str, scope: Scope) -> Any:
    template = expressions.parse(text)
    return text if template is None else evaluate(template, scope.value)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain", "plain"),
        ("${var.s}", "x y"),
        ("${var.n}", 3),
        ("${var.b}", True),
        ("${var.none}", None),
        ("${var.l}", ["a", {"k": 1}]),
        ("${var.l[0]}", "a"),
        ("${var.l[-1].k}", 1),
        ("${var.m.key.in}", 2),
        ('${var.m["a b"]}', 5),
        ("a${var.n}b", "a3b"),
        ("v${var.t}-${var.h}", "v1.10-0x1F"),
        ("is ${var.b}", "is true"),
        ("[${var.none}]", "[]"),
        ("${each.day}/${each.index}", "2026-11-01/4"),
        ("${run.address}#${run.attempt}", "a[x=1]#2"),
        ("${project}", "nightly"),
        ("$${var.n}", "${var.n}"),
        ("$${HOME}", "${HOME}"),
        ("${HOME}", "${HOME}"),
        ("${var}", "${var}"),
        ("${run:-3}", "${run:-3}"),
        ("$(date) $HOME ${1} ${X:-y} ${variable.x}", "$(date) $HOME ${1} ${X:-y} ${variable.x}"),
        ("$${${var.n}", "${3"),
    ],
)
def test_values(text: str, result: Any) -> None:
    found = evaluate_text(text, SCOPE)
    assert found == result and type(found) is type(result)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${var.nn}", "the variable nn is not known"),
        ("${each.dya}", "the axis dya is not known"),
        ("${run.adress}", "the field of a run adress is not known"),
        ("${var.m.kye}", "there is no key kye"),
        ("${var.l[9]}", "there is no item 9"),
        ("${var.n.x}", "has no parts"),
        ("x${var.l}", "is a list and cannot stand inside"),
        ("x${var.m}", "is a map and cannot stand inside"),
        ("${var.}", "is not an expression"),
        ("${var.x y}", "is not an expression"),
        ("${var.x:-3}", "is not an expression"),
        ("${var.a..b}", "is not an expression"),
        ("${var.[0]}", "is not an expression"),
        ("${var.a[0]b}", "is not an expression"),
        ("a ${var.n", "${var.n is not closed"),
        ("${each.day ${HOME", "is not closed"),
        ("${ var.n }", "${ var.n } holds blanks"),
        ("${ run.id", "is not closed"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=re.escape(message)):
        evaluate_text(text, SCOPE)


def test_suggestions() -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate_text("${run.adress}", SCOPE)
    assert caught.value.hint == 'did you mean "address"?'


def test_each_needs_a_matrix() -> None:
    with pytest.raises(ExpressionError, match="no matrix"):
        evaluate_text("${each.x}", Scope())


@given(st.text())
def test_what_is_escaped_evaluates_to_itself(text: str) -> None:
    assert evaluate_text(escape(text), SCOPE) == text


@given(st.lists(st.sampled_from(["$", "${", "}", "a", "${HOME}", "$$", "${var.none}"])), st.text(max_size=5))
def test_sealed_strings_can_be_made_again(pieces: list[str], secret: str) -> None:
    """Expect the same string when apply evaluates a template, whatever surrounds its sensitive variable."""
    scope = Scope(var={"secret": secret, "dollar": "$", "none": "}{"})
    sealer = Sealer(b"key", lambda source: None)
    wrong: list[Any] = []
    evaluator = Evaluator(scope, frozenset({"secret"}), sealer, lambda path, error: wrong.append(error))
    text = "${var.dollar}".join(escape(p) if p != "${var.none}" else p for p in pieces) + "${var.dollar}${var.secret}x"
    found = evaluator.build(compiled(text, (), lambda path, error: wrong.append(error)))
    assert (not wrong and secret not in found.replace("sensitive", "")) or len(secret) < 3
    plain = evaluate_text(text, scope)
    assert sealer.values[found] == plain
    assert evaluate_template(sealer.secrets[found], {"secret": secret}) == plain


def test_sensitive_lists_and_maps_are_sealed_leaf_by_leaf() -> None:
    value = {"user": "u", "keys": ["k0", "k1"], "odd key": 1}
    sealer = Sealer(b"key", lambda source: None)
    evaluator = Evaluator(Scope(var={"s": value}), frozenset({"s"}), sealer, lambda path, error: None)
    found = evaluator.build(compiled({"all": "${var.s}"}, (), lambda path, error: None))["all"]
    assert sealer.values[found["keys"][1]] == "k1"
    for shown, source in sealer.secrets.items():
        assert evaluate_template(source, {"s": value}) == sealer.values[shown]
        assert evaluate_template(source, {"s": '{"user": u, keys: [k0, k1], "odd key": 1}'}) == sealer.values[shown]


def test_a_template_without_its_variable_is_an_error_without_values() -> None:
    source = SecretSource("template", "x${var.a}", ("a",))
    with pytest.raises(InvalidInput, match="has no value"):
        evaluate_template(source, {"b": "s3cret"})


def test_compiling_shares_what_does_not_change() -> None:
    tree: dict[str, Any] = {"a": {"b": [1, 2]}, "c": ["${each.i}", {"d": 1}]}
    node = compiled(tree, (), lambda path, error: None)
    built = Evaluator(Scope(each={"i": 7}), frozenset(), Sealer(b"", lambda s: None), lambda p, e: None).build(node)
    assert built == {"a": {"b": [1, 2]}, "c": [7, {"d": 1}]}
    assert built["a"] is tree["a"] and built["c"][1] is tree["c"][1]
    assert compiled(tree["a"], (), lambda p, e: None) is tree["a"]


def test_each_secret_is_looked_up_once_and_has_one_token() -> None:
    asked: list[str] = []

    def lookup(source: SecretSource) -> str | None:
        asked.append(source.value)
        return "pw" if source.value == "A" else None

    sealer = Sealer(b"key", lookup)
    tokens = [sealer.token_for(SecretSource("from_env", name)) for name in ("A", "A", "B")]
    assert asked == ["A", "B"] and tokens[0] == tokens[1]
    assert tokens[2] == "(sensitive env:B unresolved)"
    assert sealer.values == {tokens[0]: "pw"} and set(sealer.secrets) == {tokens[0], tokens[2]}
