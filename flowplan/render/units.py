"""Numbers in the units that people write, wherever those say exactly the same."""

from __future__ import annotations

import re
from collections.abc import Callable

from flowplan.schemas.runs import Json

_DURATION = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
_SIZE = (("Ti", 1024**4), ("Gi", 1024**3), ("Mi", 1024**2), ("Ki", 1024))


def _exact_duration(seconds: float) -> str:
    """Return ``2h30m``, ``10s`` or ``0.5s``."""
    if seconds != int(seconds) or seconds <= 0:
        return f"{seconds:g}s" if float(f"{seconds:g}") == seconds else ""
    text, left = "", int(seconds)
    for unit, size in _DURATION:
        count, left = divmod(left, size)
        text += f"{count}{unit}" if count else ""
    return text


def _exact_size(number: float) -> str:
    """Return ``96Mi``; "" for what is no whole number of Ki, where the exact bytes matter."""
    return next((f"{int(number // size)}{unit}" for unit, size in _SIZE if number > 0 and number % size == 0), "")


def _cpus(number: float) -> str:
    return f"{number / 1e9:.9g} CPUs"


_UNITS: tuple[tuple[re.Pattern[str], Callable[[float], str]], ...] = (
    (re.compile(r"/\w+/(?:start_timeout|timeout|grace_period)"), _exact_duration),
    (re.compile(r"/.*/(?:activeDeadlineSeconds|terminationGracePeriodSeconds|StopTimeout)"), _exact_duration),
    (re.compile(r"/.*/(?:Memory|MemorySwap|MemoryReservation|KernelMemory|ShmSize|SizeBytes)"), _exact_size),
    (re.compile(r"/.*/NanoCpus"), _cpus),
)


def in_units(path: str, value: Json) -> str:
    """Return the number at a JSON Pointer in the unit that people write, or "" where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    return next((say(value) for pattern, say in _UNITS if pattern.fullmatch(path)), "")
