"""What a command line gives beside the spec: values of variables, from files and the environment too, and policies."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from flowplan.planner.compare.policies import Rule
    from flowplan.schemas.load import LoadedSpec


class Given(NamedTuple):
    """Values of variables as the command line gave them."""

    pairs: Mapping[str, str] = {}
    files: tuple[Path, ...] = ()


def variables_of(spec: Any, given: Given, sources: Any, *, stand_ins: bool = False) -> Any:
    """Return the values of the spec's variables from options, files and the environment; ``sources`` are the spec's.

    Args:
        stand_ins: give variables without a value one of their type.
    """
    from flowplan.planner.desired.variables import resolve_variables
    from flowplan.schemas.documents import parse, read_text

    files = [(str(path), parse(read_text(path), str(path))) for path in given.files]
    return resolve_variables(
        spec, given=given.pairs, files=files, environ=os.environ, sources=sources, stand_ins=stand_ins
    )


def given_strings(given: Given) -> dict[str, str]:
    """Return the values of sensitive variables given again: --var, then --var-file, then FLOWPLAN_VAR_*."""
    from flowplan.schemas.documents import parse, read_text

    values = {k.removeprefix("FLOWPLAN_VAR_"): v for k, v in os.environ.items() if k.startswith("FLOWPLAN_VAR_")}
    for path in given.files:
        document = parse(read_text(path), str(path)).value
        values.update({k: str(v) for k, v in document.items()} if isinstance(document, dict) else {})
    return {**values, **given.pairs}


def policies_of(paths: Sequence[Path], loaded: LoadedSpec | None = None) -> tuple[Rule, ...]:
    """Return the policies of a spec and of ``--policy`` files.

    Raises:
        InvalidInput: a file cannot be read, or is no policy.
    """
    if not paths and not (loaded and loaded.tree.get("policies")):
        return ()
    from flowplan.planner.compare.policies import rules_in, rules_of
    from flowplan.schemas.documents import parse, read_text

    files = [rule for path in paths for rule in rules_in(parse(read_text(path), str(path)), path.name)]
    return (*(rules_of(loaded) if loaded else ()), *files)
