"""Durations, Docker sizes and Kubernetes quantities: from what people write to numbers that compare by value, and back.

What reads them raises a ValueError, with what has to be written, for what is none.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from decimal import Decimal

DURATION_PATTERN = r"^(?:[0-9]+(?:\.[0-9]+)?|(?=[0-9])(?:[0-9]+(?:\.[0-9]+)?d)?(?:[0-9]+(?:\.[0-9]+)?h)?(?:[0-9]+(?:\.[0-9]+)?m)?(?:[0-9]+(?:\.[0-9]+)?s)?)$"
"""``90``, ``90s``, ``15m``, ``2h30m``, ``1d``, ``1.5h``; the same expression in Python and in the JSON Schema."""

SIZE_PATTERN = r"^[0-9]+(?:\.[0-9]+)?(?:[bB]|[kKmMgG](?:[iI]?[bB])?)?$"
"""Docker sizes: powers of 1024, small and capital letters alike.

See https://docs.docker.com/reference/compose-file/extension/#specifying-byte-values."""

QUANTITY_PATTERN = r"^[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,3})?$"
"""Kubernetes quantities: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/."""

LONGEST = 100
"""Characters of any of them; numbers of a million digits would take a while."""

_DURATION = re.compile(DURATION_PATTERN)
_SIZE = re.compile(SIZE_PATTERN)
_QUANTITY = re.compile(QUANTITY_PATTERN)
_PARTS = re.compile(r"([0-9.]+)([dhms]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE_FACTOR = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
_DOCKER_PARTS = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h|d)")
_DOCKER_DURATION = re.compile(f"(?:{_DOCKER_PARTS.pattern})+")
_NANOSECONDS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, **{k: v * 10**9 for k, v in _SECONDS.items() if k}}
_SI = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}


def duration(value: str | float) -> float:
    """Return the seconds of a duration: ``90``, ``90s``, ``15m``, ``2h30m``, ``1d``."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value < 0 or not math.isfinite(value):
            raise ValueError(f"must be a duration of zero or more, not {value}")
        return float(value)
    text = str(value).strip()
    if len(text) > LONGEST or not _DURATION.search(text):
        raise ValueError(f'must be a duration such as 90, 90s, 15m or 2h30m, not "{value}"')
    return sum(float(amount) * _SECONDS[unit] for amount, unit in _PARTS.findall(text))


def size(value: str | float) -> int:
    """Return the bytes of a size as a field of Docker's means it: ``128m``, ``1.5g``, ``100000b``, a plain number.

    Kubernetes quantities (``16Gi``, ``1e9``) are read too; ``k``, ``m`` and ``G`` are Docker's powers of 1024 here.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value < 0 or not math.isfinite(value):
            raise ValueError(f"must be a size of zero or more, not {value}")
        return int(value)
    text = str(value).strip()
    if len(text) <= LONGEST and _SIZE.search(text):
        digits = text.rstrip("bBiIkKmMgG")
        return int(Decimal(digits) * _SIZE_FACTOR[text[len(digits) :].lower()[:1]])
    if len(text) <= LONGEST and _QUANTITY.search(text):
        amount = quantity(text)
        if amount >= 0:
            return int(amount)
    raise ValueError(f'must be a size such as 512m, 1.5g or 16Gi, not "{value}"')


def nanoseconds(value: str) -> int:
    """Return the nanoseconds of a duration as Docker writes it: ``30s``, ``1m30s``, ``500ms``."""
    text = str(value).strip()
    if len(text) > LONGEST or not _DOCKER_DURATION.fullmatch(text):
        raise ValueError(f'must be a duration such as 30s, 1m30s or 500ms, not "{value}"')
    return int(sum(Decimal(amount) * _NANOSECONDS[unit] for amount, unit in _DOCKER_PARTS.findall(text)))


def backoff(delay: str | float | Mapping[str, str | float]) -> dict[str, float]:
    """Return what ``retry_delay`` of a spec says, as arguments of ``schemas.backoff.wait_after``: a mapping, or a duration."""
    if not isinstance(delay, Mapping):
        return {"initial": duration(delay)}
    found = {"initial": duration(delay["initial"]), "factor": float(delay.get("factor", 2))}
    return found if delay.get("max") is None else found | {"max": duration(delay["max"])}


def cpus(value: str | float) -> int:
    """Return the billionths of a CPU: ``4``, ``0.5``, ``500m``."""
    with contextlib.suppress(ValueError):
        if (amount := int(quantity(value) * 10**9)) > 0:
            return amount
    raise ValueError(f'"{value}" is not a number of CPUs: write 2, 0.5 or 500m')


def quantity(value: str | float) -> Decimal:
    """Return the number that a Kubernetes quantity means: ``1000m`` is 1, ``1Gi`` equals ``1024Mi``."""
    text = str(getattr(value, "text", value)).strip()
    if len(text) > LONGEST or not _QUANTITY.search(text):
        raise ValueError(f'must be a quantity such as 500m, 2 or 16Gi, not "{value}"')
    if text[-1] == "i":
        return Decimal(text[:-2]) * Decimal(1024) ** _BINARY[text[-2:]]
    if text[-1] in _SI:
        return Decimal(text[:-1]).scaleb(_SI[text[-1]])
    return Decimal(text)


def written_duration(seconds: float | Decimal) -> str:
    """Return exactly these seconds as people write them: ``2h30m``, ``10s``, ``0.5s``."""
    exact = Decimal(str(seconds))
    text, left = "", int(exact)
    if left <= 0 or left != exact:
        return f"{_plain(exact)}s"
    for unit in "dhms":
        count, left = divmod(left, _SECONDS[unit])
        text += f"{count}{unit}" if count else ""
    return text


def written_size(number: float) -> str:
    """Return exactly these bytes as Docker's users write them: ``96m``, ``1000b``."""
    whole = (
        f"{int(number) // _SIZE_FACTOR[unit]}{unit}" for unit in "gmk" if number and number % _SIZE_FACTOR[unit] == 0
    )
    return next(whole, f"{_plain(Decimal(str(number)))}b")


def written_billionths(number: float) -> str:
    """Return exactly a billionth of a number: ``1.5`` for 1500000000."""
    return _plain(Decimal(str(number)).scaleb(-9))


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def memory(value: str | float) -> int:
    """Return the bytes of the portable ``resources.memory``: a Kubernetes quantity, or else a Docker size.

    ``500M`` is 500,000,000; ``128m`` is 128 MiB, for 128 thousandths of a byte make no sense.
    """
    text = str(getattr(value, "text", value)).strip()
    if isinstance(value, str) and _SIZE.search(text) and not text.endswith(("k", "M", "G")):
        return size(text)
    try:
        amount = quantity(value)
    except ValueError:
        raise ValueError(f'must be an amount of memory such as 512Mi, 16Gi or 2g, not "{value}"') from None
    if amount < 0:
        raise ValueError(f"must not be negative, not {value}")
    return int(amount)
