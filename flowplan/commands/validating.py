"""The command that checks a spec offline; it loads neither state nor renderer."""

from __future__ import annotations

from pathlib import Path

from flowplan.commands.arguments import check_format
from flowplan.commands.places import place, shown
from flowplan.given import Given
from flowplan.output import Output
from flowplan.schemas.text import counted
from flowplan.wanted import check_spec


def validate(spec: Path | None, environment: str | None, given: Given, format: str) -> None:
    """Check a spec offline, in all its environments unless one is named."""
    check_format(format, ("text", "json"))
    path = spec or shown(place(None).spec)
    found = check_spec(path, given, environment or "")
    output = Output()
    for warning in dict.fromkeys(str(warning) for checked in found.values() for warning in checked.warnings):
        output.note(f"warning: {warning}")
    if format == "json":
        documents = {
            name: {"runs": one.runs, "warnings": [str(w) for w in one.warnings], "unset": list(one.unset)}
            for name, one in found.items()
        }
        output.document({"valid": True, **documents.get("", {"environments": documents})})
        return
    for name, one in found.items():
        which = f"{path} ({name})" if name else path
        if one.unset:
            names = ", ".join(f"var.{n}" for n in one.unset)
            output.data(f"{which}: valid; not checked: what depends on the value of {names}")
        else:
            output.data(f"{which}: valid, {counted(one.runs, 'run')}")
