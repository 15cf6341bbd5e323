"""From a spec to the runs that it wants: variables, secrets, rendered runs and policies, the same for every command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flowplan.engines import ManifestsByType, composed
from flowplan.given import Given, policies_of, variables_of
from flowplan.planner.desired.order import ordered
from flowplan.resolve import Secrets
from flowplan.schemas.errors import InvalidInput, concealing
from flowplan.schemas.runs import Desired
from flowplan.schemas.secrets import Redactor
from flowplan.schemas.sources import Diagnostic

if TYPE_CHECKING:
    from flowplan.planner.compare.policies import Rule
    from flowplan.planner.desired.expand import Expansion
    from flowplan.planner.desired.sealing import Sealer
    from flowplan.planner.desired.variables import Variables
    from flowplan.schemas.load import LoadedSpec

_LINEAGE = "00000000-0000-4000-8000-000000000000"
_KEY = b"\0" * 32


class Wanted(NamedTuple):
    """What a spec wants under the lineage of a state.

    Attributes:
        sealer: has the source of every secret, and the values of those that are there.
        runs: by address.
        rules: the policies of the spec and of the command line.
    """

    loaded: LoadedSpec
    variables: Variables
    sealer: Sealer
    expansion: Expansion
    runs: Mapping[str, Desired]
    rules: tuple[Rule, ...]

    @classmethod
    def of(
        cls,
        loaded: LoadedSpec,
        given: Given,
        redactor: Redactor,
        lineage: str,
        key: bytes,
        *,
        policies: Sequence[Path] = (),
        offline: bool = False,
    ) -> Wanted:
        """Evaluate a spec.

        Args:
            redactor: learns every secret before anything else can show it.
            lineage, key: of the state.
            policies: files of the command line.
            offline: look no secret up, and take variables without a value by their type; objects are named and labelled
            as without an environment.

        Raises:
            InvalidInput: every fault of the first stage that has one.
        """
        from flowplan.planner.desired.expand import expand
        from flowplan.planner.desired.sealing import Sealer
        from flowplan.planner.desired.variables import value_text

        variables = variables_of(loaded.spec, given, loaded.sources, stand_ins=offline)
        redactor.add(
            value_text(v.value) for v in variables.by_name.values() if v.sensitive and v.name not in variables.unset
        )
        secrets = Secrets(loaded, lambda value: redactor.add([value]))
        sealer = Sealer(key, (lambda source: None) if offline else secrets)
        expansion = expand(loaded, variables, sealer, ManifestsByType(), lineage=lineage, comparable=offline)
        secrets.check()
        runs = {run.address: run for run in expansion.desired}
        return cls(loaded, variables, sealer, expansion, runs, policies_of(policies, loaded))


class Checked(NamedTuple):
    """What was found out about a spec that has no fault.

    Attributes:
        runs: their number; unset: variables without a value, of which only the type is known: what depends on the value
            was not checked.
    """

    warnings: Sequence[Diagnostic]
    runs: int
    unset: Sequence[str]


def check_spec(path: Path, given: Given, environment: str = "") -> dict[str, Checked]:
    """Check a spec without engine, state or secret: environment -> what was found, "" where the spec has none.

    Args:
        environment: the only one to check; all without it.
    """
    from flowplan.schemas.composition import read_files

    read = read_files(path)
    found: dict[str, Checked] = {}
    faults: dict[Diagnostic, None] = {}
    for name in [environment] if environment else read.environments or [""]:
        try:
            wanted = offline(composed(read, name), given)
        except InvalidInput as error:
            faults |= dict.fromkeys(error.diagnostics)
            continue
        found[name] = Checked(wanted.expansion.diagnostics, len(wanted.runs), sorted(wanted.variables.unset))
    if faults:
        raise InvalidInput(list(faults))
    return found


def offline(loaded: LoadedSpec, given: Given, key: bytes = _KEY) -> Wanted:
    """Return what a spec wants, without engine, state or secret; variables without a value have one of their type.

    Args:
        key: for fingerprints of secrets.
    """
    redactor = Redactor()
    with concealing(redactor):
        wanted = Wanted.of(loaded, given, redactor, _LINEAGE, key, offline=True)
        ordered(list(wanted.runs), {address: run.settings.needs for address, run in wanted.runs.items()})
    return wanted
