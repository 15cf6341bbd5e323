"""What no run can be started with: arguments and variables that are longer than the system takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flowplan.schemas.arguments import explanation, too_long
from flowplan.schemas.plans import Change, Finding


def long_arguments(changes: Sequence[Change], secrets: Mapping[str, str]) -> tuple[Change, ...]:
    """Return the changes with a finding for every argument and variable of what would be started that is too long.

    Args:
        secrets: token -> value; a value counts with its length and is not shown.
    """
    return tuple(_with_findings(change, secrets) if change.action.starts else change for change in changes)


def _with_findings(change: Change, secrets: Mapping[str, str]) -> Change:
    hint = "give it in a file, or on the standard input"
    found = [
        Finding(change.address, "error", "arguments", explanation(pointer, size), hint)
        for pointer, size in too_long(change.after or {}, secrets)
    ]
    return replace(change, preflight=(*change.preflight, *found)) if found else change
