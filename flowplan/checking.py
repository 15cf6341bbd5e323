"""Check a spec offline: no engine, no state, no secret; variables without a value stand for themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flowplan.engines import ManifestsByType, read_spec
from flowplan.given import Given, policies_of, variables_of
from flowplan.planner.desired.order import ordered
from flowplan.schemas.sources import Diagnostic

_LINEAGE = "00000000-0000-4000-8000-000000000000"
_KEY = b"\0" * 32


def check_spec(path: Path, given: Given) -> tuple[Sequence[Diagnostic], int]:
    """Everything about a spec that needs no engine to see: (warnings, number of runs).

    Raises:
        InvalidInput: with all faults.
    """
    from flowplan.planner.desired.expand import expand
    from flowplan.planner.desired.sealing import Sealer

    loaded = read_spec(path)
    policies_of((), loaded)
    variables = variables_of(loaded.spec, given, loaded.sources)
    sealer = Sealer(_KEY, lambda source: None)
    expansion = expand(loaded, variables, sealer, ManifestsByType(), lineage=_LINEAGE)
    desired = expansion.desired
    ordered([d.address for d in desired], {d.address: d.settings.needs for d in desired})
    return expansion.diagnostics, len(desired)
