"""The last plan of a state: kept with what it was made from, so that `flowplan apply` knows whether it still counts."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from flowplan import clock
from flowplan.given import Given, given_strings
from flowplan.project import Project
from flowplan.schemas.codec import decode, encode
from flowplan.schemas.errors import FlowplanError, PlanStale
from flowplan.schemas.files import is_stream
from flowplan.schemas.places import refuse_foreign, write_private
from flowplan.schemas.plan_documents import write_plan
from flowplan.schemas.plans import Plan


def plan_file(state: Path) -> Path:
    """Return where the last plan of a state is kept: beside it, ``plan.json`` for ``state.db``.

    Raises:
        Refused: another user may have put it there.
    """
    place = state.parent / ("plan.json" if state.name == "state.db" else f"{state.stem}.plan.json")
    refuse_foreign(place)
    return place


class LastPlan(NamedTuple):
    """What is remembered of the last plan.

    Attributes:
        made_at: RFC 3339, UTC; content: SHA-256 of the plan's file.
        spec: path of its spec, seen from the directory of the state; directory: where that was.
        spec_digest: of the spec and the files that it names.
        given: name of a variable -> fingerprint of the value that was given for it, "" for none.
        usable: False once it was applied or superseded, and for plans that are applied only by their name.
    """

    made_at: str
    content: str
    spec: str
    directory: str
    spec_digest: str
    given: Mapping[str, str] = {}
    usable: bool = True


def _record_file(state: Path) -> Path:
    return plan_file(state).with_suffix(".made.json")


def usable_later(plan: Plan) -> bool:
    """Return whether a bare `flowplan apply` would carry the plan out: it changes something and follows a spec in a file."""
    in_file = plan.spec_path != "" and not is_stream(Path(plan.spec_path))
    return plan.mode == "normal" and in_file and any(change.effective for change in plan.changes)


def keep(plan: Plan, project: Project, given: Given) -> None:
    """Make this plan the last one of its state.

    Raises:
        FlowplanError: it cannot be written.
    """
    state, key = project.store.location.beside, project.store.key
    file = plan_file(state)
    write_plan(plan, file, key)
    beside = Path(os.path.abspath(state.parent))  # noqa: PTH100 - without following links
    made = LastPlan(
        made_at=clock.now(),
        content=_content(file),
        spec=os.path.relpath(project.directory / Path(plan.spec_path).name, beside) if usable_later(plan) else "",
        directory=str(beside),
        spec_digest=plan.spec_digest,
        given={**dict.fromkeys(plan.variables, ""), **_fingerprints(given, key, plan.variables)},
        usable=usable_later(plan),
    )
    former = recall(state)
    if not made.spec and former:  # looking at a destroy plan leaves the spec that is planned
        made = made._replace(spec=former.spec)
    _write(state, made)


def spend(state: Path) -> None:
    """Mark the last plan as applied, or outdated by what was applied since: it is applied only by its name from now on."""
    known = recall(state)
    if known and known.usable:
        _write(state, known._replace(usable=False))


def supersede(state: Path, applied: Path) -> None:
    """Spend the last plan because a saved one is being applied, unless that is the same."""
    known = recall(state)
    if known and known.usable and _content(applied) != known.content:
        spend(state)


def _content(file: Path) -> str:
    """Return the SHA-256 of a file, "" when it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def _write(state: Path, made: LastPlan) -> None:
    file = _record_file(state)
    try:
        write_private(file, json.dumps(encode(made), indent=1) + "\n")
    except OSError as error:
        raise FlowplanError(f"{file} cannot be written: {error.strerror}") from error


def recall(state: Path) -> LastPlan | None:
    """Return what is remembered of the last plan; None when nothing is, or it cannot be read."""
    try:
        return decode(LastPlan, json.loads(_record_file(state).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return None


def check(made: LastPlan, state: Path, given: Given, key: bytes, spec_digest: str) -> None:
    """Raise PlanStale, which says why, unless everything that the last plan was made from is as it was.

    Args:
        spec_digest: of the spec as it is now.
    """
    if not made.usable:
        raise PlanStale("the last plan was applied, or something else since")
    if _content(plan_file(state)) != made.content:
        raise PlanStale("the file of the last plan is not the one that was written")
    if made.directory != os.path.abspath(state.parent):  # noqa: PTH100
        raise PlanStale("the project was moved since the last plan")
    if made.spec_digest != spec_digest:
        raise PlanStale("the spec, or a file that it names, changed since the last plan")
    now = _fingerprints(given, key, made.given)
    if changed := sorted(name for name, mark in now.items() if made.given[name] != mark):
        raise PlanStale(f"other values than in the last plan are given for {', '.join(changed)}")


def _fingerprints(given: Given, key: bytes, names: Mapping[str, object]) -> dict[str, str]:
    """Return name -> fingerprint of each value that the command line, its files and the environment give."""
    values = {name: value for name, value in given_strings(given).items() if name in names}
    return {
        name: hmac.new(key, f"given {name}={value}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]
        for name, value in values.items()
    }
