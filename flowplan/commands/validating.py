"""The command that checks a spec offline; it loads neither state nor renderer."""

from __future__ import annotations

from pathlib import Path

from flowplan.commands.arguments import check_format
from flowplan.commands.places import place, shown
from flowplan.given import Given
from flowplan.output import Output
from flowplan.schemas.text import counted
from flowplan.wanted import check_spec


def validate(spec: Path | None, given: Given, format: str) -> None:
    """Check a spec offline."""
    check_format(format, ("text", "json"))
    path = spec or shown(place(None).spec)
    warnings, runs, unset = check_spec(path, given)
    output = Output()
    for warning in warnings:
        output.note(f"warning: {warning}")
    if format == "json":
        output.document({"valid": True, "runs": runs, "warnings": [str(w) for w in warnings], "unset": list(unset)})
    elif unset:
        output.data(f"{path}: valid; not checked: what depends on the value of {', '.join(f'var.{n}' for n in unset)}")
    else:
        output.data(f"{path}: valid, {counted(runs, 'run')}")
