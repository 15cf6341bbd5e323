"""Files below 1 MB that would cost minutes or gigabytes if read naively: each takes at most 2 s of CPU and 300 MB."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hostile import MEGABYTES, peak_megabytes, place

HEAD = "flowplan: 1\nproject: p\nruns:\n"
ONE = "  a: {provider: process, command: [x]}\n"
PLAN = ("plan", "--no-refresh")
TEMPLATED = (
    "flowplan: 1\nproject: p\nruns:\n  a: {provider: process, template: t.json, command: [x], variables: {v: '"
    + "a" * 40
    + "!'}}\n"
)
JOB = "flowplan: 1\nproject: p\nruns:\n  a: {provider: kubernetes, image: i, kubernetes: {job: job.yaml, customizations: patch.yaml}}\n"


def many(count: int, part: Callable[[int], str]) -> str:
    return "".join(map(part, range(count)))


def run(fields: str) -> str:
    return HEAD + f"  a: {{provider: process, command: [x], {fields}}}\n"


def policy(schema: str, command: str = "x") -> str:
    return HEAD + f"  a: {{provider: process, command: [{command}]}}\npolicies: [{{name: q, schema: {schema}}}]\n"


def doubling(levels: int) -> dict[str, Any]:
    """Return a schema that a validator looks at 4 ** levels times."""
    parts = {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 4} for i in range(levels)}
    return {"$ref": "#/$defs/a0", "$defs": {**parts, f"a{levels}": {}}}


def template(configuration: Any, **schema: Any) -> str:
    properties = {"v": {}, "command": {}} | schema.pop("properties", {})
    return json.dumps({"job_configuration": configuration, "variables": {"properties": properties, **schema}})


SPECS: dict[str, tuple[tuple[str, ...], str]] = {
    "100,000 arguments": (("validate",), HEAD + f"  a: {{provider: process, command: [{'x,' * 200_000}]}}\n"),
    "50,000 variables of the environment": (PLAN, run(f"env: {{{many(50_000, lambda i: f'K{i}: v,')}}}")),
    "one long string": ((*PLAN, "--format", "markdown"), HEAD + f"  a: {{provider: process, command: ['{'x' * 900_000}']}}\n"),
    "a long command": (("validate",), HEAD + "  a: {provider: process, command: \"" + "'x' " * 200_000 + "\"}\n"),
    "90,000 expressions": (PLAN, HEAD + '  a: {provider: process, command: ["' + "${project}" * 90_000 + '"]}\n'),
    "unknown fields": (("validate",), run(many(40_000, lambda i: f"k{i}: v, "))),
    "needs that are nearly right": (("validate",), HEAD + many(9_000, lambda i: f"  run{i}: {{provider: process, command: [x], needs: [rn{i}]}}\n")),
    "variables that are nearly right": (
        ("validate",),
        "flowplan: 1\nproject: p\nvariables: {" + many(8_000, lambda i: f"variable{i}: {{default: x}},") + "}\nruns:\n  a: {provider: process, command: ["
        + many(20_000, lambda i: f"'${{var.variabl{i}}}',") + "]}\n",
    ),
    "providers that are nearly right": (
        ("validate",),
        "flowplan: 1\nproject: p\nproviders: {" + many(8_000, lambda i: f"prov{i}: {{type: docker}},") + "}\nruns:\n" + many(8_000, lambda i: f"  r{i}: {{provider: pro{i}, image: x}}\n"),
    ),
    "a cycle of 12,000 runs": (("validate",), HEAD + many(12_000, lambda i: f"  r{i}: {{provider: process, command: [x], needs: [r{(i + 1) % 12_000}]}}\n")),
    "a matrix of 9 ** 30 cells": (("validate",), run("matrix: {" + ",".join(f"a{i}: [1,2,3,4,5,6,7,8,9]" for i in range(30)) + "}")),
    "20,000 exclusions": (("validate",), run("matrix: {n: {from: 1, to: 50000}, exclude: [" + many(20_000, lambda i: f"{{n: {i}}},") + "]}")),
    "20,000 inclusions": (("validate",), run("matrix: {n: {from: 1, to: 50000}, include: [" + many(20_000, lambda i: f"{{n: {i}, x: 1}},") + "]}")),
    "an endless range": (("validate",), run("matrix: {n: {from: 0, to: 1.0e300, step: 1.0e-300}}")),
    "a pattern that explodes": (("validate",), "flowplan: 1\nproject: p\nvariables: {x: {pattern: '(a+)+$', default: '" + "a" * 40 + "!'}}\nruns:\n" + ONE),
    "a policy's pattern that explodes": (PLAN, policy("{properties: {Process: {properties: {argv: {items: {pattern: '(a+)+$'}}}}}}", "a" * 40 + "!")),
    "a policy that refers to itself": (PLAN, policy("{$ref: '#'}")),
    "a policy that doubles": (PLAN, policy(json.dumps(doubling(16)))),
    "a number of a million digits": (("validate",), HEAD + "  a: {provider: docker, image: x, docker: {mem_limit: '" + "1" * 800_000 + "g'}}\n"),
    "a duration of a million parts": (("validate",), run("timeout: '" + "1h" * 400_000 + "'")),
    "an image of a million parts": (("validate",), HEAD + "  a: {provider: docker, image: '" + "a/" * 400_000 + "x:1'}\n"),
    "lists in lists in lists": (("validate",), "[" * 400_000 + "]" * 400_000),
    "aliases of aliases": (("validate",), "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{y}: &{y} [{','.join(['*' + x] * 9)}]\n" for x, y in pairwise("abcdefghijklm"))),
    "merges of merges": (("validate",), "a0: &a0 {x: 1}\n" + many(20_000, lambda i: f"a{i + 1}: &a{i + 1} {{<<: *a{i}, y{i}: 1}}\n")),
    "keys twice": (("validate",), "a: 1\n" * 100_000),
}  # fmt: skip
OTHERS: dict[str, tuple[tuple[str, ...], str, str, str]] = {
    "a template's pattern": (("validate",), TEMPLATED, "t.json", template({"command": "{{ v }}"}, properties={"v": {"pattern": "(a+)+$"}})),
    "a template that doubles": (("validate",), TEMPLATED, "t.json", template({"command": "{{ v }}"}, **doubling(16))),
    "a template of many placeholders": (("validate",), TEMPLATED, "t.json", template({"command": "{{ v }}" * 100_000})),
    "patches that double": (("validate",), JOB, "patch.yaml", json.dumps([{"op": "copy", "from": "/metadata", "path": f"/metadata/annotations/k{i}"} for i in range(40)])),
    "patches that go deep": (("validate",), JOB, "patch.yaml", json.dumps([{"op": "copy", "from": "/metadata/annotations", "path": "/metadata/annotations/x"} for _ in range(1_500)])),
    "many patches": (("validate",), JOB, "patch.yaml", json.dumps([{"op": "add", "path": f"/metadata/annotations/k{i}", "value": "x"} for i in range(12_000)])),
    "a plan of nothing": (("show", "p.json"), "", "p.json", json.dumps({"format_version": "1.0", "changes": [{}] * 200_000})),
    "a dump of lists": (("state", "push", "p.json"), "", "p.json", "[" * 400_000),
    "a key ring": (PLAN, run("env: {A: {from_file: keys}}"), "keys", many(13_000, lambda i: f"{i * 7919:064x}\n")),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def in_little_memory() -> Iterator[None]:
    with place() as somewhere:
        somewhere.write("flowplan.yaml", HEAD + ONE)
        somewhere.flowplan(*PLAN, seconds=30)
    before = peak_megabytes()
    yield
    assert peak_megabytes() - before < MEGABYTES


@pytest.mark.parametrize("name", SPECS)
def test_big_specs(name: str) -> None:
    arguments, text = SPECS[name]
    assert len(text) < 1_000_000
    with place() as somewhere:
        somewhere.write("flowplan.yaml", text)
        somewhere.flowplan(*arguments)


@pytest.mark.parametrize("name", OTHERS)
def test_big_files(name: str) -> None:
    arguments, spec, file, text = OTHERS[name]
    assert len(text) < 1_000_000
    with place() as somewhere:
        somewhere.write("job.yaml", json.dumps({"metadata": {"annotations": {"a": "x"}}}))
        somewhere.write("flowplan.yaml", spec)
        somewhere.write(file, text)
        somewhere.flowplan(*arguments)
