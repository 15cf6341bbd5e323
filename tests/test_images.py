"""Image references come apart as Docker reads them, bad ones are refused, and the pull policy follows from the tag."""

from __future__ import annotations

import pytest

from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.images import parse_image

SHA = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "repository", "tag", "digest"),
    [
        ("simple", "simple", None, None),
        ("simple:1", "simple", "1", None),
        ("a/b:1", "a/b", "1", None),
        ("h:5000/a", "h:5000/a", None, None),
        ("h:5000/a:1", "h:5000/a", "1", None),
        ("localhost/x", "localhost/x", None, None),
        ("hostname.io:5050/dir/subdir:latest", "hostname.io:5050/dir/subdir", "latest", None),
        (f"a@{SHA}", "a", None, SHA),
        (f"h:5000/a:1@{SHA}", "h:5000/a", "1", SHA),
        ("a@sha256:abc", "a", None, "sha256:abc"),
        ("a__b-c.d--e", "a__b-c.d--e", None, None),
    ],
)
def test_a_reference_comes_apart(text: str, repository: str, tag: str | None, digest: str | None) -> None:
    image = parse_image(text)
    assert (image.repository, image.tag, image.digest) == (repository, tag, digest)
    assert str(image) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a:b:c",
        "a:",
        "a@",
        "a@b",
        "A/b",
        "Busybox",
        " a",
        "a b",
        "a/:1",
        "/a",
        "a//b",
        "a:-x",
        "a:" + "t" * 129,
        "http://a/b",
        "a_",
        "x" * 300,
        "-h.io/a",
        "a@sha256:xyz",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not an image reference"):
        parse_image(text)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("a", "Always"),
        ("a:latest", "Always"),
        ("a:1", "IfNotPresent"),
        (f"a@{SHA}", "IfNotPresent"),
        (f"a:latest@{SHA}", "IfNotPresent"),
        ("h:5000/a", "Always"),
    ],
)
def test_the_policy_follows_from_the_reference(text: str, policy: str) -> None:
    assert parse_image(text).pull_policy == policy


def test_registries_and_what_a_pull_asks_for() -> None:
    assert parse_image("a/b").registry == "docker.io"
    assert parse_image("127.0.0.1:5000/a/b").registry == "127.0.0.1:5000"
    assert parse_image("localhost/x").registry == "localhost"
    assert [parse_image(text).path for text in ("a", "a/b", "docker.io/a", "h:5000/a")] == [
        "library/a",
        "a/b",
        "library/a",
        "a",
    ]
    assert parse_image("a").pull_tag == "latest"
    assert parse_image(f"a:1@{SHA}").pull_tag == SHA


def test_a_short_digest_is_seen() -> None:
    assert parse_image("a@sha256:abc").digest_is_short
    assert not parse_image(f"a@{SHA}").digest_is_short
    assert not parse_image("a").digest_is_short
