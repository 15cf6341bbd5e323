"""The redactor: no form of a secret gets through, and the rest of the output stays readable."""

from __future__ import annotations

import base64
import json
import shlex
import threading
import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flowplan.outputs import redacted
from flowplan.providers.protocol import CUT, LogLine
from flowplan.schemas.secrets import PART, Parts, Redactor, SecretSource, fingerprint, token

SECRET = 'p@ss "w/ö+rd\\'


@pytest.mark.parametrize(
    "shown",
    [
        SECRET,
        json.dumps(SECRET),
        json.dumps(SECRET, ensure_ascii=False),
        repr(SECRET),
        quote(SECRET),
        quote(SECRET, safe=""),
        quote(SECRET, safe="").lower().replace("p@ss", "p@ss"),
        quote_plus(SECRET),
        shlex.quote(SECRET),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
        base64.b64encode(SECRET.encode() + b"\n").decode(),
    ],
)
def test_every_form_of_a_secret_is_replaced(shown: str) -> None:
    redacted = Redactor([SECRET])(f"before {shown} after")
    assert "(sensitive)" in redacted and redacted.startswith("before ") and redacted.endswith(" after")
    assert len(redacted) <= len("before (sensitive) after") + 4


@pytest.mark.parametrize("before", ["", "u", "us", "user:"])
def test_base64_of_a_text_around_the_secret(before: str) -> None:
    header = base64.b64encode(f"{before}correct-horse-battery@".encode()).decode()
    redacted = Redactor(["correct-horse-battery"])(f"Authorization: Basic {header}")
    assert "(sensitive)" in redacted
    left = redacted.removeprefix("Authorization: Basic ").replace("(sensitive)", "")
    assert len(left) <= len(base64.b64encode(before.encode())) + 6, "only what surrounds the secret is left"


def test_lines_of_a_key() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nshort\n-----END KEY-----\n"
    redactor = Redactor([key])
    assert redactor("got MIIEvQIBADANBg!") == "got (sensitive)!"
    assert redactor(key) == "(sensitive)"
    assert redactor("a short line") == "a short line"


def test_the_longest_secret_wins() -> None:
    assert (
        Redactor(["hunter2", "hunter2-and-more", "hunter"])("hunter2-and-more hunter2 hunter")
        == "(sensitive) (sensitive) (sensitive)"
    )


def test_short_values_are_replaced_as_words_only() -> None:
    redactor = Redactor(["ab", "123", "x", ""])
    assert redactor("ab cab ab, 123 1234 x") == "(sensitive) cab (sensitive), (sensitive) 1234 x"


def test_without_secrets_nothing_happens() -> None:
    assert Redactor()("a log line") == "a log line"
    assert Redactor(["", "x"])("a log line x") == "a log line x"


def test_learning_more() -> None:
    redactor = Redactor(["first-secret"])
    assert redactor("second-secret") == "second-secret"
    redactor.add(["second-secret"])
    assert redactor("first-secret second-secret") == "(sensitive) (sensitive)"


def test_long_logs_and_many_secrets_are_fast() -> None:
    redactor = Redactor([f"secret-number-{i}-{'x' * (i % 7)}" for i in range(500)])
    redactor("warm up")
    text = "2026-11-21 INFO an ordinary line with words and numbers 12345\n" * 10_000
    start = time.monotonic()
    assert redactor(text) == text
    assert time.monotonic() - start < 2


def test_several_threads() -> None:
    redactor = Redactor()
    wrong: list[str] = []

    def work(number: int) -> None:
        for index in range(20):
            secret = f"secret-{number}-{index}"
            redactor.add([secret])
            if secret in redactor(f"a {secret} b"):
                wrong.append(secret)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@given(st.text(min_size=4, max_size=20), st.text(max_size=20), st.text(max_size=20))
@settings(deadline=None, max_examples=150)
def test_no_secret_gets_through(secret: str, before: str, after: str) -> None:
    assume(secret.strip())
    redactor = Redactor([secret])
    text = redactor(f"{before}\n{secret}\n{after}")
    assert secret not in text.replace("(sensitive)", "\0") or secret in "(sensitive)"
    assert redactor(json.dumps({"k": secret})).count("(sensitive)") >= 1 or not secret.strip()


@given(
    st.sets(st.text(alphabet="ab(|.*\\[", min_size=4, max_size=8), max_size=12),
    st.text(alphabet="ab(|.*\\[", max_size=60),
)
@settings(deadline=None, max_examples=200)
def test_many_secrets_at_once(secrets: set[str], text: str) -> None:
    found = Redactor(secrets)(text)
    assert not any(secret in piece for piece in found.split("(sensitive)") for secret in secrets)


def test_a_big_key_ring_is_redacted_soon() -> None:
    ring = "\n".join(f"{number * 7919:064x}" for number in range(2_000))
    start = time.process_time()
    redacted = Redactor([ring])(f"line {7919 * 1321:064x} end\n" * 100)
    assert redacted == "line (sensitive) end\n" * 100
    assert time.process_time() - start < 5


def test_parts_of_a_secret_are_found_by_their_fingerprints() -> None:
    parts = Parts(b"key", [fingerprint(b"key", PART, "hunter2")])
    redactor = Redactor(inside=parts)
    redactor.add(["https://user:hunter2@host"])
    assert redactor("it is hunter2, not hunter3") == "it is (sensitive), not hunter3"
    redactor.add(["x" * 1000 + "hunter2"])
    assert redactor("hunter2") == "(sensitive)"


def test_fingerprints_of_different_sources_cannot_be_compared() -> None:
    sources = [
        SecretSource("from_env", "PIN"), SecretSource("from_env", "PIN2"), SecretSource("from_file", "PIN"),
        SecretSource("template", "${var.g[0]}", ("g",)), SecretSource("template", "${var.g[1]}", ("g",)), PART,
    ]  # fmt: skip
    assert len({fingerprint(b"key", source, "1234") for source in sources}) == len(sources)
    assert len({token(source, b"key", "1234").rpartition(" ")[2] for source in sources}) == len(sources)
    assert fingerprint(b"key", sources[0], "1234") == fingerprint(b"key", SecretSource("from_env", "PIN"), "1234")


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_a_line_in_pieces_shows_no_secret(sizes: list[int]) -> None:
    line = "begin hunter2-hunter2 middle hunter2-hunter2 end, hunter2-hunter2"
    pieces, at = [], 0
    for size in sizes:
        pieces.append(LogLine(line[at : at + size], goes_on=True))
        at += size
    shown = redacted([*pieces, LogLine(line[at:])], Redactor(["hunter2-hunter2"]))
    assert "".join(one.text for one in shown) == "begin (sensitive) middle (sensitive) end, (sensitive)"


@given(
    st.lists(
        st.tuples(st.sampled_from(["a line", "", "ends in hunter2-", "hunter2", "-hunter2", "end"]), st.booleans())
    )
)
def test_lines_that_come_together_are_redacted_like_single_ones(given: list[tuple[str, bool]]) -> None:
    redactor = Redactor(["hunter2-hunter2", "hunter2-\nhunter2", "2\n-h", "end"])
    alone = list(redacted([LogLine(text) for text, _ in given], redactor))
    marked = [LogLine(text, more=more and at + 1 < len(given)) for at, (text, more) in enumerate(given)]
    assert [line._replace(more=False) for line in redacted(marked, redactor)] == alone


def test_a_secret_over_several_lines_is_redacted() -> None:
    key = "abc\ndefghi\njkl"
    lines = [LogLine(text, at=text) for text in ("key:", "  abc", "  defghi", "  jkl", "end abc")]
    shown = list(redacted(lines, Redactor([key])))
    assert [(one.text, one.at) for one in shown] == [
        ("key:", "key:"),
        ("  (sensitive)", "  abc"),
        ("end abc", "end abc"),
    ]


def test_a_line_that_is_cut_shows_no_beginning_of_a_secret() -> None:
    (shown,) = redacted([LogLine("x" * 50 + "hunter2-hun" + CUT)], Redactor(["hunter2-hunter2"]))
    assert shown.text.endswith(CUT) and set(shown.text.removesuffix(CUT)) == {"x"}


def test_redacted_json_is_json() -> None:
    redactor = Redactor(["true", "null", '": "'])
    assert redactor.tree({"a": True, "b": None, "true": ["null", 1]}) == {
        "a": True,
        "b": None,
        "true": ["(sensitive)", 1],
    }


def test_the_tokens_of_two_untracked_sources_are_never_the_same() -> None:
    names = ["a b", "a_b", "a(b", "a%20b", "a%2520b"]
    assert len({token(SecretSource("from_file", name, tracked=False), b"key", "value") for name in names}) == len(names)
