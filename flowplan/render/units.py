"""Numbers in the units that people write, wherever those say exactly the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flowplan.schemas.kinds import Kinds
from flowplan.schemas.runs import Json

Units = Mapping[str, str]
"""Name of a field -> its unit, as ``Kind.units`` says."""
OF_SETTINGS = {"timeout": "seconds", "start_timeout": "seconds", "grace_period": "seconds"}
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


_WRITTEN: Mapping[str, Callable[[float], str]] = {
    "seconds": _exact_duration,
    "bytes": _exact_size,
    "nanocpus": lambda number: f"{number / 1e9:.9g} CPUs",
}


def units_of(kinds: Kinds) -> Units:
    """Return the units of all kinds, and of the settings that flowplan keeps."""
    return OF_SETTINGS | {field: unit for kind in kinds.values() for field, unit in kind.units}


def in_units(path: str, value: Json, units: Units) -> str:
    """Return the number at a JSON Pointer in the unit that people write, or "" where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or path.count("/") < 2:
        return ""
    unit = units.get(path.rpartition("/")[2], "")
    return _WRITTEN[unit](value) if unit in _WRITTEN else ""
