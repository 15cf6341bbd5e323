"""Redaction of bytes: no form of a secret gets through, wherever pieces begin and end; all else passes as it is."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from flowplan.schemas.forms import forms_of
from flowplan.schemas.redaction import Matcher, Stream


def matcher(*secrets: str) -> Matcher:
    return Matcher(*([os.fsencode(text) for text in kind] for kind in forms_of(secrets)))


def streamed(known: Matcher, data: bytes, sizes: list[int]) -> bytes:
    stream, shown, at = Stream(known), b"", 0
    for size in (sizes * len(data))[: len(data)]:
        shown += stream.feed(data[at : at + size])
        at += size
    return shown + stream.feed(data[at:]) + stream.flush()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_texts_in_pieces_are_found(size: int) -> None:
    known = Matcher([b"abcd", b"abcdefg", b"defX"])
    shown = streamed(known, b"x abcd abcdefg defX abc abcdef cdabcdefgX abcdefX end abcd", [size])
    assert shown == (
        b"x (sensitive) (sensitive) (sensitive) abc (sensitive)ef cd(sensitive)X (sensitive) end (sensitive)"
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_words_stand_alone(size: int) -> None:
    shown = streamed(Matcher([], [b"ab", b"1"]), b"ab cab ab abc ab1 1 x-ab", [size])
    assert shown == b"(sensitive) cab (sensitive) abc ab1 (sensitive) x-(sensitive)"


def test_what_cannot_become_a_secret_is_shown_at_once() -> None:
    stream = Stream(matcher("hunter2-and-more"))
    assert stream.feed(b"progress 10%\r") == b"progress 10%\r"
    assert stream.feed(b"the line of aHV\n") == b"the line of aHV\n"
    assert stream.feed(b"hunter2-and") == b""
    assert stream.feed(b"-less") == b"hunter2-and-less"


@pytest.mark.parametrize("width", [20, 60, 64, 76])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n    "])
@pytest.mark.parametrize("before", [0, 1, 5, 100])
def test_base64_and_hex_in_lines(width: int, end: bytes, before: int) -> None:
    secret = "correct-horse/battery+staple, " * 9 + "x1y2z3"
    for whole in (base64.b64encode(b"u" * before + secret.encode()), (b"u" * before + secret.encode()).hex().encode()):
        lines = end.join(whole[at : at + width] for at in range(0, len(whole), width))
        for sizes in ([1], [5, 40], [3000]):
            left = streamed(matcher(secret), lines, sizes)
            assert left.count(b"(sensitive)") == 1
            assert len(left.replace(b"(sensitive)", b"").translate(None, b" \r\n")) <= 2 * before + 6


def test_a_key_in_a_block_and_behind_prefixes() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\nshort\n-----END KEY-----\n"
    block = "key: |\n" + "".join(f"    {line}\n" for line in key.splitlines()) + "end"
    assert matcher(key)(block.encode()) == b"key: |\n    (sensitive)\nend"
    prefixed = "\n".join(f"12:00 load | {line}" for line in key.splitlines())
    assert matcher(key)(prefixed.encode()).count(b"(sensitive)") == 3  # all but the short line


def _json_of_go(text: str) -> str:
    return re.sub("[<>&\u2028\u2029]", lambda m: f"\\u{ord(m.group()):04x}", json.dumps(text, ensure_ascii=False))


def _json_of_php(text: str) -> str:
    return json.dumps(text).replace("/", "\\/")


def _upper(text: str) -> str:
    return re.sub(r"(?<!\\)((?:\\\\)*\\u)([0-9a-f]{4})", lambda m: m.group(1) + m.group(2).upper(), text)


ENCODERS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "json": json.dumps,
    "json raw": lambda text: json.dumps(text, ensure_ascii=False),
    "json upper": lambda text: _upper(json.dumps(text)),
    "json of php": _json_of_php,
    "json of go": _json_of_go,
    "json in json": lambda text: json.dumps(json.dumps({"a": text})),
    "json of go in json of php": lambda text: _json_of_php(_json_of_go(text)),
    "repr": repr,
    "repr of a dict": lambda text: repr({"it's \"": text}),
    "repr of both quotes": lambda text: repr("'\"" + text),
    "repr of bytes": lambda text: repr(text.encode()),
    "repr of json": lambda text: repr(json.dumps(text)),
    "ascii": ascii,
    "shell": shlex.quote,
    "shell in json": lambda text: json.dumps(f"run {shlex.quote(text)}"),
    "url": quote,
    "url component": lambda text: quote(text, safe=""),
    "url of javascript": lambda text: quote(text, safe="!'()*"),
    "url of go": lambda text: quote(text, safe="$&+,;=:@"),
    "url lower": lambda text: re.sub("%..", lambda m: m.group().lower(), quote(text, safe="")),
    "form": quote_plus,
    "url twice": lambda text: quote(quote(text, safe=""), safe=""),
    "html": html.escape,
    "sql": lambda text: text.replace("'", "''"),
    "csv": lambda text: text.replace('"', '""'),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 inside 1": lambda text: base64.b64encode(b"u" + text.encode() + b"!").decode(),
    "base64 inside 2": lambda text: base64.urlsafe_b64encode(b"us" + text.encode() + b"!!").decode(),
    "base64 of json": lambda text: base64.b64encode(json.dumps({"a": text}).encode()).decode(),
    "base64 of base64": lambda text: base64.b64encode(b"x" + base64.b64encode(b"u" + text.encode())).decode(),
    "mime": lambda text: base64.encodebytes(b"user:" + text.encode()).decode(),
    "hex": lambda text: text.encode().hex(),
}
AROUND = 24
"""Characters of what the encoders put around a secret, and of what depends on it."""
secrets = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\x00"), min_size=9, max_size=60
) | st.text("abcXYZ012'\"\\/&<>+=$`! ~#%é\n\t\x1b\x7f", min_size=9, max_size=40)


@settings(deadline=None, max_examples=120)
@given(secrets, st.sampled_from(sorted(ENCODERS)), st.lists(st.integers(1, 30), min_size=1, max_size=4))
@example("p@ss\"wo\\rd'x/+&=$y z!", "json of go in json of php", [3])
@example("'quoted'", "shell in json", [1])
def test_no_form_of_a_secret_gets_through(secret: str, name: str, sizes: list[int]) -> None:
    assume(secret == secret.strip() and len(secret.splitlines()) == 1 and len(set(secret)) > 5)
    whole = f"before|{ENCODERS[name](secret)}|after".encode()
    left = streamed(matcher(secret), whole, sizes)
    assert b"(sensitive)" in left
    assert left.startswith(b"before|") and left.endswith(b"|after")
    assert len(left) <= len(b"before|(sensitive)|after") + AROUND
    assert left == matcher(secret)(whole)


SHELLS = {
    "printf %q": ["bash", "-c", 'printf "%q" "$1"'],
    "printf %q of more": ["bash", "-c", 'printf "%q" "user:$1"'],
    "@Q": ["bash", "-c", 'echo "${1@Q}"'],
    "set -x": ["bash", "-c", 'set -x; : "$1"'],
    "set -x of more": ["bash", "-c", 'set -x; : "--password=$1"'],
    "set -x of sh": ["sh", "-c", 'set -x; : "$1"'],
    "declare -p": ["bash", "-c", "v=$1; declare -p v"],
    "ls -b": ["bash", "-c", 'cd "$(mktemp -d)"; : > "./${1//\\//-}"; ls -b'],
}


@pytest.mark.parametrize("name", [name for name in SHELLS if shutil.which(SHELLS[name][0])])
@pytest.mark.parametrize(
    "secret",
    ["p@ss\"wo\\rd'x-+&=$y z!", "it's ''two'' `x`", "'begins", "ends'", "#hash~x*?[1]{2},3^4|5;6", "esc\x1b[1m\x01é\t~q\x7f", "ñandú-🎉 $x"],
)  # fmt: skip
def test_no_shell_shows_a_secret(name: str, secret: str) -> None:
    for locale in ("C", "C.UTF-8"):
        done = subprocess.run(
            [*SHELLS[name], "x", secret],
            capture_output=True,
            check=True,
            env={"LC_ALL": locale, "PATH": os.environ["PATH"]},
        )
        told = done.stdout + done.stderr
        left = matcher(secret)(told)
        assert b"(sensitive)" in left and len(left) < len(b"declare -- v=(sensitive)") + 12, told


@settings(deadline=None, max_examples=150)
@given(
    st.sets(st.text('ab1 "\\\né+/', min_size=2, max_size=9).filter(lambda t: len(t.strip()) > 1), min_size=1, max_size=3),
    st.lists(st.text('ab1 "\\\né+/', max_size=12), max_size=6),
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
)  # fmt: skip
def test_a_stream_in_pieces_is_redacted_like_a_whole(given: set[str], texts: list[str], sizes: list[int]) -> None:
    known = matcher(*given)
    data = "".join(part + secret for part, secret in zip(texts, [*given] * 6, strict=False)).encode()
    assert streamed(known, data, sizes) == known(data)


def test_a_word_does_not_begin_in_what_was_shown_before() -> None:
    known = matcher("1\\", "/1")
    assert streamed(known, b"11\\/1", [1]) == known(b"11\\/1") == b"11\\(sensitive)"


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=400), st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_what_holds_no_secret_passes_byte_for_byte(data: bytes, sizes: list[int]) -> None:
    assert streamed(matcher("correct-horse-battery", "q7z"), data, sizes) == data


def test_much_output_and_many_secrets_are_quick() -> None:
    """Compare with the same work without secrets: a copy of the bytes."""
    known = matcher(*(f"secret/number&{i}-{'x' * (i % 7)}" for i in range(50)))
    line = b"2026-11-21 INFO an ordinary line with words and numbers 12345\n" * 1000
    stream, start = Stream(known), time.process_time()
    for _ in range(160):
        stream.feed(line)
    assert time.process_time() - start < 2, "10 MB"


def test_a_big_secret_is_bounded() -> None:
    """Bound the memory: an automaton of all forms of a megabyte would take hundreds of megabytes."""
    ring = "\n".join(f"{number * 7919:064x}" for number in range(16_000))
    forms = forms_of([ring])
    assert sum(map(len, forms.anywhere)) < 1_500_000
    known, start = matcher(ring), time.process_time()
    assert known(f"line {7919 * 1321:064x} end\n".encode() * 100) == b"line (sensitive) end\n" * 100
    assert known(base64.encodebytes(ring.encode())) == b"(sensitive)\n"
    assert time.process_time() - start < 10
