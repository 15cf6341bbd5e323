"""Numbers in the units that people write: exactly, or as well as a person wants to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal

from flowplan.schemas.kinds import Kinds
from flowplan.schemas.quantities import written_billionths, written_duration, written_size
from flowplan.schemas.runs import Json

Units = Mapping[str, str]
"""Name of a field -> its unit, as ``Kind.units`` says."""
OF_SETTINGS = dict.fromkeys(("timeout", "start_timeout", "grace_period", "retry_delay", "initial", "max"), "seconds")

_WRITTEN: Mapping[str, Callable[[float], str]] = {
    "seconds": written_duration,
    "nanoseconds": lambda number: written_duration(Decimal(number).scaleb(-9)),
    "bytes": written_size,
    "nanocpus": lambda number: f"{written_billionths(number)} CPUs",
}


def units_of(kinds: Kinds) -> Units:
    """Return the units of all kinds, and of the settings that flowplan keeps."""
    return OF_SETTINGS | {field: unit for kind in kinds.values() for field, unit in kind.units}


def in_units(path: str, value: Json, units: Units) -> str:
    """Return exactly the number at a JSON Pointer in the unit that people write, or "" where there is none."""
    unit = units.get(path.rpartition("/")[2], "")
    is_amount = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    return _WRITTEN[unit](value) if is_amount and unit in _WRITTEN else ""


def duration(seconds: float) -> str:
    """Return seconds in the two largest units: ``45s``, ``3m 20s``, ``3h 12m``, ``2d 4h``."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
        elif parts:
            break
    return " ".join(parts[:2])
