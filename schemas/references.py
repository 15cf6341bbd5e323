"""Names in an ill-formed spec that nothing bears: told beside its other faults, so that all are told at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from flowplan.schemas.documents import Document
from flowplan.schemas.pointers import mapping_in, member, walk
from flowplan.schemas.sources import Diagnostic, Path, did_you_mean
from flowplan.schemas.spec import BUILT_IN_TYPES

_VARIABLE = re.compile(r"(?<!\$)\$\{var\.([A-Za-z_][A-Za-z0-9_-]*)")


def unknown_names(document: Document) -> Iterator[Diagnostic]:
    """Yield providers, needed runs and variables that the spec names and does not have; it may be ill formed."""
    root = document.value
    runs = mapping_in(root, "runs")
    providers = [*mapping_in(root, "providers"), *BUILT_IN_TYPES]
    for name, run in runs.items():
        if isinstance(run, dict):
            named = run.get("provider")
            if isinstance(named, str) and "${" not in named and named not in providers:
                hint = did_you_mean(named, providers) or f"known: {', '.join(dict.fromkeys(providers))}"
                yield document.sources.at_value(("runs", name, "provider"), f'unknown provider "{named}"', hint)
            yield from _needs(document, ("runs", name, "needs"), run.get("needs"), runs)
    for part in ("defaults", "runs"):
        yield from _variables(document, (part,), member(root, part), mapping_in(root, "variables"))


def glob_hint(need: str) -> str:
    """Return what to write instead of a pattern of runs, "" for what is none."""
    return "a glob is not taken here: write each name; a run's name stands for all its cells" if "*" in need else ""


def _needs(document: Document, path: Path, needs: Any, runs: Mapping[str, Any]) -> Iterator[Diagnostic]:
    for index, need in enumerate(needs if isinstance(needs, list) else [needs]):
        if isinstance(need, str) and "${" not in need and need.partition("[")[0] not in runs and need not in runs:
            where = (*path, index) if isinstance(needs, list) else path
            hint = glob_hint(need) or did_you_mean(need, runs) or f"known: {', '.join(islice(runs, 10))}"
            yield document.sources.at_value(where, f'unknown run "{need}"', hint)


def _variables(document: Document, path: Path, value: Any, known: Mapping[str, Any]) -> Iterator[Diagnostic]:
    for place, text in walk(value, path):
        for name in dict.fromkeys(_VARIABLE.findall(text) if isinstance(text, str) else ()):
            if name not in known:
                message = f"${{var.{name}}}: the variable {name} is not known"
                hint = did_you_mean(name, known)
                yield document.sources.at_value(place, message, hint)
