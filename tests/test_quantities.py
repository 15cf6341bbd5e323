"""Durations, sizes as Docker reads them, and quantities of Kubernetes."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowplan.schemas.quantities import (
    duration,
    memory,
    nanoseconds,
    quantity,
    size,
    written_billionths,
    written_duration,
    written_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (90, 90),
        ("90", 90),
        ("90s", 90),
        ("15m", 900),
        ("2h30m", 9000),
        ("1d", 86400),
        ("1.5h", 5400),
        (0, 0),
        (0.5, 0.5),
        ("1h1m1s", 3661),
    ],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1 h", "30m2h", "1w", "s", "1h2", -1, float("inf"), float("nan"), True]
)
def test_no_durations(text: str | float) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("100000b", 100_000),
        ("1000k", 1_024_000),
        ("128m", 134_217_728),
        ("1g", 1 << 30),
        ("1.5g", 1_610_612_736),
        ("512M", 512 << 20),
        ("1gb", 1 << 30),
        ("1024", 1024),
        (1024, 1024),
        ("16Gi", 16 << 30),
    ],
)
def test_docker_sizes(text: str | int, count: int) -> None:
    assert size(text) == count


@pytest.mark.parametrize("text", ["x", "", "-1", "1tb", "4gi", "1 g", -5, float("nan")])
def test_no_docker_sizes(text: str | float) -> None:
    with pytest.raises(ValueError, match="must be a size"):
        size(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1000m", "1"),
        ("1Gi", "1024Mi"),
        ("0.5", "500m"),
        ("1e3", "1k"),
        (2, "2"),
        ("1.", "1"),
        ("1G", 10**9),
        ("1000000n", "1m"),
    ],
)
def test_quantities_compare_by_value(one: str, other: str | int) -> None:
    assert quantity(one) == quantity(other)


@pytest.mark.parametrize("text", ["4gi", "", "1 Gi", "Gi", "1KiB", True])
def test_no_quantities(text: str | bool) -> None:
    with pytest.raises(ValueError, match="must be a quantity"):
        quantity(text)


def test_memory_means_what_people_mean() -> None:
    assert memory("16Gi") == 16 << 30
    assert memory("500M") == 500_000_000
    assert memory("2g") == 2 << 30
    assert memory("128m") == 128 << 20
    assert memory(1024) == 1024


@pytest.mark.parametrize("text", ["4gi", "x", "-1Gi"])
def test_no_memory(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        memory(text)


@given(st.integers(min_value=0, max_value=10**15))
def test_whole_numbers_are_themselves(number: int) -> None:
    assert quantity(str(number)) == Decimal(number) and size(str(number)) == number


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (10.0, "10s"), (90, "1m30s"), (9000, "2h30m"), (90_000, "1d1h"), (0.5, "0.5s"), (1e-07, "0.0000001s")],
)
def test_durations_as_people_write_them(seconds: float, text: str) -> None:
    assert written_duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(64 << 20, "64m"), (3 << 29, "1536m"), (2 << 30, "2g"), (1000, "1000b"), (0, "0b")]
)
def test_sizes_as_people_write_them(number: int, text: str) -> None:
    assert written_size(number) == text


@given(st.floats(min_value=1e-9, max_value=1e15) | st.integers(0, 10**15), st.integers(0, 1 << 63))
def test_what_is_written_is_read_as_the_very_same(seconds: float, number: int) -> None:
    """So that no two values ever look alike."""
    assert duration(written_duration(seconds)) == seconds
    assert size(written_size(number)) == number
    assert Decimal(written_billionths(number)) * 10**9 == number
    assert nanoseconds(written_duration(Decimal(number).scaleb(-9))) == number
