"""YAML 1.2 core documents: what values mean, where they are, and what is refused."""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flowplan.schemas import documents
from flowplan.schemas.documents import COMPOSE, KUBECTL, parse, read_text, scalar_text
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.pointers import walk


def value(text: str) -> object:
    return parse(text, "f.yaml").value


def faults(text: str) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        parse(text, "f.yaml")
    return [str(fault) for fault in caught.value.diagnostics]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("2026-11-01", "2026-11-01"),
        ("1:30", "1:30"),
        ("010", "010"),
        ("-010", "-010"),
        ("1_000", "1_000"),
        ("0x", "0x"),
        ("1e", "1e"),
        ("=", "="),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("'~'", "~"),
        ("0", 0),
        ("-7", -7),
        ("0o17", 15),
        ("0x1F", 31),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        (".inf", ".inf"),
        ("-.inf", "-.inf"),
        (".nan", ".nan"),
        ("1e999", "1e999"),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("!!int 5", 5),
        ("!!float 5", 5),
        ("[a, 1]", ["a", 1]),
    ],
)
def test_scalars_of_yaml_1_2(written: str, meant: object) -> None:
    found = value(f"a: {written}\n")["a"]  # type: ignore[index]
    assert found == meant and isinstance(found, bool) == isinstance(meant, bool)


@pytest.mark.parametrize(
    "text", ["1.10", "1e3", "0x1F", "0o17", "+5", "-0", "1.", ".5", "1.0", "12", ".inf", "true", "3.14"]
)
def test_numbers_keep_their_source_text(text: str) -> None:
    assert scalar_text(value(f"a: {text}")["a"]) == text  # type: ignore[index]


def test_scalar_text_of_null_and_booleans() -> None:
    assert [scalar_text(v) for v in (None, True, False, "x")] == ["", "true", "false", "x"]


def test_kept_numbers_are_plain_json() -> None:
    assert json.dumps(value("[0x1F, 1.10]")) == "[31, 1.1]"


def test_positions_of_keys_and_values() -> None:
    parsed, sources = parse("runs:\n  a:\n    command: [x,\n      y]\n", "dir/s.yaml")
    assert str(sources.key(("runs", "a", "command"))) == "dir/s.yaml:3:5"
    assert str(sources.value(("runs", "a", "command"))) == "dir/s.yaml:3:14"
    assert str(sources.value(("runs", "a", "command", 1))) == "dir/s.yaml:4:7"
    assert str(sources.key(("runs", "a", "nope"))) == "dir/s.yaml:2:3"
    assert all(sources.find_key(path) and sources.find_value(path) for path, _ in walk(parsed))
    assert sources.find_key(("runs", "b")) is None and sources.find_value(("runs", "b")) is None


def test_columns_count_characters() -> None:
    assert str(parse('a: {ü€: "日本", b: 1}', "f").sources.value(("a", "b"))) == "f:1:18"


def test_merge_keys() -> None:
    text = "base: &b {x: 1, y: 2}\nother: &o {y: 3, z: 4}\nc:\n  y: 9\n  <<: [*b, *o]\nd: {<<: *b}\n"
    document = parse(text, "f")
    assert document.value["c"] == {"y": 9, "x": 1, "z": 4}
    assert document.value["d"] == {"x": 1, "y": 2}
    assert document.sources.value(("c", "z")).line == 2
    assert document.sources.value(("c", "y")).line == 4


def test_merged_mappings_merge_too() -> None:
    assert value("a: &a {x: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b}")["c"] == {"x": 1, "y": 2}  # type: ignore[index]


def test_aliases_are_copies() -> None:
    found = value("a: &a [1]\nb: *a\n")
    assert found["a"] == found["b"] and found["a"] is not found["b"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "f.yaml:1:1: the file is empty"),
        ("# only a comment\n", "f.yaml:1:1: the file is empty"),
        ("---\n", "f.yaml:1:1: the file is empty"),
        ("---\na: 1\n---\nb: 2\n", "f.yaml:4:1: holds 2 YAML documents: one (line 2), one (line 4)"),
        ("a: [1\n", "f.yaml:2:1: is not YAML"),
        ("a: b: c\n", "f.yaml:1:5: is not YAML"),
        ("\ta: 1", "f.yaml:1:1: is not YAML: a tab indents this line; use spaces"),
        ("a:\n  \t- b\n", "f.yaml:2:3: is not YAML: a tab indents this line; use spaces"),
        (
            "a: echo x: y\n",
            'f.yaml:1:10: is not YAML: a second ": " in this line; put a value that holds ": " in quotes',
        ),
        ("a: !!python/object/apply:os.system [x]\n", "f.yaml:1:4: a: has the unknown YAML tag !!python"),
        ("a: !env X\n", "f.yaml:1:4: a: has the unknown YAML tag !env"),
        ("a: !!timestamp 2026-01-01\n", "f.yaml:1:4: a: has the unknown YAML tag !!timestamp"),
        ("a: !!int x\n", 'f.yaml:1:4: a: "x" is not of the YAML type !!int'),
        ("a: &a [*a]\n", "f.yaml:1:4: an alias refers to itself"),
        ("a: *nope\n", "f.yaml:1:4: is not YAML"),
        ("a: x\x01y\n", "f.yaml:1:5: holds the control character U+0001"),
        ("a: é\nb: x\x00y\n", "f.yaml:2:5: holds the control character U+0000"),
        ('a: "x\\0y"\n', "f.yaml:1:4: a: holds a NUL character"),
        ("a: \ud800", "f.yaml:1:4: holds the control character U+D800"),
        ("{{ name }}: x", "f.yaml:1:1: a key must be a string"),
        ("<<: 3", "f.yaml:1:5: << must be given a mapping"),
        ("[" * 5000, "is nested deeper than 100 levels"),
        ("a: " + "{b: " * 5000, "is nested deeper than 100 levels"),
        ("- " * 200 + "x", "is nested deeper than 100 levels"),
    ],
)
def test_refused(text: str, where: str) -> None:
    (fault,) = faults(text)
    assert where in fault


def test_brackets_in_quotes_are_no_levels() -> None:
    (fault,) = faults('a: ["' + "[" * 500 + '"')
    assert "is not YAML" in fault and "nested" not in fault


def test_every_duplicate_key_is_told() -> None:
    found = faults("a: 1\na: 2\nb: {c: 1, c: 2}\n8080: x\n")
    assert [f.split(": ", 1)[0] for f in found] == ["f.yaml:2:1", "f.yaml:3:11", "f.yaml:4:1"]
    assert "it is set in line 1 already" in found[0]


def test_alias_bomb_is_refused_at_once() -> None:
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
    bomb += "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 15))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    assert "alias bomb" in faults(bomb)[0]
    assert time.monotonic() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000


def test_a_bomb_of_merges_is_refused() -> None:
    bomb = "a0: &a0 {k0: 1}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 15)
    )
    assert "alias bomb" in faults(bomb)[0]


def test_ten_thousand_lines_are_read_fast() -> None:
    text = "runs:\n" + "".join(
        f"  r{i}:\n    image: a:1.10\n    command: [a, b]\n    env:\n      A: b\n" for i in range(2000)
    )
    start = time.monotonic()
    document = parse(text, "f")
    assert time.monotonic() - start < 2
    assert document.sources.value(("runs", "r1999", "env", "A")).line == 10_001


def test_the_pure_parser_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a: &x [no, 010, 1.10, 'q', !!str 5]\nb: {<<: {k: *x}}\n"
    fast = value(text)
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    monkeypatch.setattr(documents, "_Composer", documents._composer())
    assert value(text) == fast
    assert "deeper" in faults("[" * 300)[0]


def test_reading_files(tmp_path: Path) -> None:
    cases = {
        "missing.yaml": "there is no such file",
        "directory": "is a directory",
        "latin.yaml": "is not UTF-8 text (byte 0xe9)",
        "big.yaml": "is bigger than 10 MB",
        "a" * 300: "cannot be read",
    }
    (tmp_path / "directory").mkdir()
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: caf\xe9\n")
    (tmp_path / "big.yaml").write_bytes(b"#" * 10_000_001)
    for name, message in cases.items():
        with pytest.raises(InvalidInput) as caught:
            read_text(tmp_path / name, name)
        assert message in str(caught.value) and name in str(caught.value)
    with pytest.raises(InvalidInput, match="nul"):
        read_text(Path("nul\0.yaml"), "nul")


def test_the_position_of_a_byte_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes("a: 1\nü: caf".encode() + b"\xe9\n")
    with pytest.raises(InvalidInput, match=r"x.yaml:2:7"):
        read_text(path, "x.yaml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.touch(0o000)
    with pytest.raises(InvalidInput, match="permission denied"):
        read_text(path)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert value(read_text(path)) == {"a": 1}


_SNIPPETS = st.sampled_from(
    [
        "a",
        ":",
        " ",
        "\n",
        "-",
        "[",
        "]",
        "{",
        "}",
        "&x",
        "*x",
        "<<",
        "!!",
        "!",
        "'",
        '"',
        "|",
        "010",
        "~",
        "%",
        "\t",
        "é",
        ",",
        "?",
        "---\n",
    ]
)


@given(st.one_of(st.text(max_size=60), st.lists(_SNIPPETS, max_size=25).map("".join)))
@settings(deadline=None, max_examples=300)
def test_nothing_but_invalid_input_gets_out(text: str) -> None:
    try:
        json.dumps(value(text))
    except InvalidInput as error:
        assert error.diagnostics and all(d.position for d in error.diagnostics)


_TREES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn"))),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from("abcdef"), inner, max_size=4)),
    max_leaves=15,
)


@given(_TREES)
@settings(deadline=None, max_examples=150)
def test_json_is_read_as_it_is(tree: object) -> None:
    text = json.dumps(tree)
    if text not in ("null",):
        assert value(text) == tree


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0400", 256),
        ("0755", 493),
        ("-010", -8),
        ("0o400", 256),
        ("0b101", 5),
        ("0x1F", 31),
        ("1_000", 1000),
        ("08", 8),
        ("2.0", 2),
        ("1e3", 1000),
        ("1.5", 1.5),
        (".5", 0.5),
        ("yes", True),
        ("On", True),
        ("y", True),
        ("NO", False),
        ("off", False),
        ("yEs", "yEs"),
        ("1:30", "1:30"),
        ("2026-11-01", "2026-11-01"),
        (".inf", ".inf"),
        ("0o9", "0o9"),
        ("_1", "_1"),
        ('"0400"', "0400"),
        ("!!str 0400", "0400"),
    ],
)
def test_manifests_are_read_as_kubectl_reads_them(text: str, value: object) -> None:
    found = parse(f"a: {text}\n", "f.yaml", KUBECTL).value["a"]
    assert found == value and isinstance(found, bool) == isinstance(value, bool)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("022", "18"),
        ("1.50", "1.5"),
        ("1e3", "1000"),
        ("yes", "yes"),
        ("True", "true"),
        ("1:30", "1:30"),
        ("1_000", "1000"),
        ("1e30", "1e+30"),
        ('"007"', "007"),
        ("-0", "0"),
        ("2024-01-01", "2024-01-01 00:00:00 +0000 UTC"),
    ],
)
def test_compose_files_are_read_as_docker_compose_reads_them(text: str, value: str) -> None:
    assert scalar_text(parse(f"a: {text}\n", "f.yaml", COMPOSE).value["a"]) == value


def test_whole_numbers_are_keys_of_a_manifest() -> None:
    assert parse("1: x\n", "f.yaml", KUBECTL).value == {"1": "x"}
    with pytest.raises(InvalidInput, match='write "on" in quotes'):
        parse("on: x\n", "f.yaml", KUBECTL)


def test_documents_without_content_do_not_count() -> None:
    assert parse("# head\n---\na: 1\n---\n# the end\n---\n", "f.yaml").value == {"a": 1}


def test_a_number_may_be_the_key_of_an_option_of_docker() -> None:
    given = "docker: {create_options: {ports: {80: 8080}}}"
    assert parse(given, "f.yaml").value == {"docker": {"create_options": {"ports": {"80": 8080}}}}
    with pytest.raises(InvalidInput, match="a key must be a string"):
        parse("env: {80: 8080}", "f.yaml")
