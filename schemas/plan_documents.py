"""Plans as JSON documents (format 1.0): written, read back, digested and sealed."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flowplan.schemas.codec import decode, encode
from flowplan.schemas.errors import FlowplanError, InvalidInput, PlanStale
from flowplan.schemas.files import Unreadable, read_bounded
from flowplan.schemas.places import write_named
from flowplan.schemas.plans import FORMAT_VERSION, Action, Change, Plan
from flowplan.schemas.runs import Json
from flowplan.schemas.sources import Diagnostic

if TYPE_CHECKING:
    from jsonschema import ValidationError

_SHOWN_FAULTS = 10
MOST_FAULTS = 100
MOST_BYTES = 1 << 30
"""Of a plan file; one of 100,000 runs has 300 MB."""


# --- digests ---------------------------------------------------------------------------------------------------------


def _canonical(value: Json) -> str:
    """One ASCII line per value; unlike ``runs.canonical`` it also takes strings that are not valid Unicode."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def change_digest(change: Change) -> str:
    """Return ``sha256:<64 hex>`` over what carrying out ``change`` does and what that rests on; nothing about when."""
    gone = change.action in (Action.DESTROY, Action.FORGET)
    meaning = {name: getattr(change, name) for name in _DONE} | {
        "objects": change.before if gone else change.after,
        "settings": {name: value for name, value in encode(change.settings).items() if name not in _SILENT},
    }
    return _sha256(_canonical(meaning))


_DONE = ("address", "provider", "type", "action", "name", "run_id", "attempt", "live", "moved_from")
_SILENT = ("description", "stream_output")
"""Settings that change nothing of what is done."""


def plan_digest(plan: Plan) -> str:
    """Return ``sha256:<64 hex>`` over all that applying ``plan`` does and where: its changes, engines and sources.

    Changes that are left out or do nothing take no part, nor do remarks, labels of engines and times.
    """
    meaning = {
        "mode": plan.mode,
        "lineage": plan.lineage,
        "spec": [plan.spec_path, plan.spec_digest],
        "providers": dict(plan.providers),
        "targets": {name: [target.get("type"), target.get("id")] for name, target in plan.targets.items()},
        "secrets": {token: encode(source) for token, source in plan.secrets.items()},
        "changes": sorted([change.address, change_digest(change)] for change in plan.changes if change.effective),
    }
    if plan.environment:
        meaning["environment"] = plan.environment
    if plan.notify:
        meaning["notify"] = [encode(channel) for channel in plan.notify]
    return _sha256(_canonical(meaning))


def _sha256(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


# --- Plan -> JSON ----------------------------------------------------------------------------------------------------


def plan_json(plan: Plan) -> str:
    """Return the JSON document of a plan (``plan.schema.json``), without its time and seal.

    It has the same bytes for the same plan, and one change a line.
    """
    return _body(plan, _head(plan)) + "\n}\n"


def sealed_json(plan: Plan, key: bytes) -> str:
    """Return the text of a plan file: the printed one with ``made_at``, and ``seal`` as its last line.

    Args:
        key: of the state that the plan was made with.
    """
    body = _body(plan, _head(plan) | {"made_at": plan.made_at})
    return body + _SEAL + _seal_line(body, key)


_HEAD = (
    *("format_version", "flowplan_version", "project", "environment", "mode", "partial", "digest"),
    *("expires_at", "refreshed", "state", "spec"),
    *("summary", "variables", "providers", "targets", "secrets", "notify", "diagnostics"),
)
"""The order in which a document tells what it says of the whole plan."""


def _head(plan: Plan) -> dict[str, Json]:
    known = encode(replace(plan, changes=()))
    known |= {"format_version": FORMAT_VERSION, "summary": summary(plan.changes)}
    return {name: known[name] for name in _HEAD if name in known}


def _body(plan: Plan, head: Mapping[str, Json]) -> str:
    """Return the text up to the seal; objects that are shown keep the order of their keys, so that plans read alike."""
    try:
        lines = [_line(change) for change in plan.changes]
    except ValueError as error:
        raise InvalidInput(f"the plan cannot be written as JSON: {error}") from error
    keys = "".join(f" {json.dumps(key)}: {json.dumps(value, sort_keys=True)},\n" for key, value in head.items())
    return "{\n" + keys + ' "changes": [\n' + ",\n".join(lines) + "\n]"


def _line(change: Change) -> str:
    if change.action is Action.NO_OP:
        return _canonical(encode(change))
    return json.dumps(encode(change), separators=(",", ":"), allow_nan=False)


_SEAL = ',\n "seal": '


def _seal_line(body: str, key: bytes) -> str:
    """Return the end of a plan file whose text up to the seal is ``body``: a MAC over its very bytes."""
    sealing = hmac.digest(key, b"flowplan: seal of a plan", "sha256")
    return f'"hmac-sha256:{hmac.new(sealing, body.encode(), "sha256").hexdigest()}"\n}}\n'


def write_plan(plan: Plan, path: Path, key: bytes) -> None:
    """Write a sealed plan file, see ``write_named``.

    Args:
        key: of the state that the plan was made with.

    Raises:
        FlowplanError: the file cannot be written.
        Refused: another user prepared the place.
    """
    text = sealed_json(plan, key)
    try:
        write_named(path, text, "plan")
    except OSError as error:
        raise FlowplanError(f"the plan cannot be written to {path}: {error.strerror}") from error


def summary(changes: Sequence[Change]) -> dict[str, int]:
    """Return how many changes of each action there are, zeros included; skipped changes count as ``no_op``."""
    counts = Counter(Action.NO_OP if change.skipped else change.action for change in changes)
    return {action.value.replace("-", "_"): counts[action] for action in Action}


# --- JSON -> Plan ----------------------------------------------------------------------------------------------------


class PlanFile(NamedTuple):
    """A plan file: its plan, and its text, which the seal is about."""

    plan: Plan
    text: str


def read_plan(path: Path) -> PlanFile:
    """Read a plan file. Whether it is what it says to be only ``unsealed`` can tell.

    Raises:
        InvalidInput: it cannot be read, is not JSON, of an unknown format, or damaged.
        PlanStale: it is not what its digest says.
    """
    try:
        text = read_bounded(path, MOST_BYTES, pipes=True).decode()
    except Unreadable as error:
        raise InvalidInput(f"{path}: not a plan file: it {error}") from error
    except OSError as error:
        hint = "make one with `flowplan plan`" if isinstance(error, FileNotFoundError) else ""
        raise InvalidInput(f"{path}: the plan cannot be read: {error.strerror}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path}: not a plan file: it is not text") from error
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"{path}: not a plan file: not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidInput(f"{path}: not a plan file: nested too deeply") from error
    return PlanFile(parse_plan(document, str(path)), text)


def parse_plan(document: Json, file: str) -> Plan:
    """Return the plan of a document: the exact inverse of ``plan_json``.

    Args:
        file: the file's name, for messages.

    Raises:
        InvalidInput: an unknown format or a broken document.
        PlanStale: it is not what its digest says.
    """
    version = document.get("format_version") if isinstance(document, dict) else None
    if not isinstance(version, str):
        raise InvalidInput(f"{file}: not a plan file: it has no format_version")
    if version.partition(".")[0] != FORMAT_VERSION.partition(".")[0]:
        raise InvalidInput(
            f"{file}: plan format {version} is unknown; this flowplan reads {FORMAT_VERSION}",
            hint="make the plan and apply it with the same version of flowplan",
        )
    try:
        plan = decode(Plan, document, extensible=True)
        genuine = plan_digest(plan) == plan.digest
    except ValueError as error:
        raise InvalidInput(_faults(document, file, str(error))) from error
    if not genuine:
        raise PlanStale(f"{file}: {_EDITED}", hint=_AGAIN)
    return plan


_EDITED = "the plan was edited or damaged after it was made: it is not what was reviewed"
_AGAIN = "make it again with `flowplan plan --out FILE`"


def unsealed(file: PlanFile, path: Path, lineage: str, key: bytes) -> str:
    """Return why a plan file was not made with the state of this ``lineage`` and ``key``; "" when it was."""
    if file.plan.lineage != lineage:
        return f"{path}: the plan was made for another state (lineage {file.plan.lineage}, this one is {lineage})"
    body, _, end = file.text.rpartition(_SEAL)
    if not body:
        return f"{path}: the plan has no seal: it is what was printed, or made by another version of flowplan"
    if not hmac.compare_digest(end.encode(), _seal_line(body, key).encode()):
        return f"{path}: {_EDITED}"
    return ""


def sealed_plan(text: str, name: str, lineage: str, key: bytes) -> Plan:
    """Return the plan of a sealed text that a state keeps.

    Args:
        name: for messages.

    Raises:
        InvalidInput: it is none, or of a format that this flowplan does not read.
        PlanStale: it is not what was approved with this state.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"{name}: not a plan: {error}") from error
    file = PlanFile(parse_plan(document, name), text)
    if fault := unsealed(file, Path(name), lineage, key):
        raise PlanStale(fault, hint=_AGAIN)
    return file.plan


def _faults(document: Json, file: str, otherwise: str) -> list[Diagnostic]:
    """Return what the JSON Schema says about a broken document, or ``otherwise`` when it finds nothing."""
    faults = schema_faults(document, "plan") or [otherwise]
    return [Diagnostic(message=f"{file}: not a valid plan: {fault}") for fault in faults[:_SHOWN_FAULTS]]


def schema(kind: str) -> dict[str, Json]:
    """Return the JSON Schema (draft 2020-12) of ``plan``, ``event`` or ``status`` documents."""
    text = (Path(__file__).parent / f"{kind}.schema.json").read_text("utf-8")
    loaded: dict[str, Json] = json.loads(text)
    return loaded


def schema_faults(document: Json, kind: str) -> list[str]:
    """Return what makes ``document`` no valid ``plan``, ``event`` or ``status``, as far as it matters; [] when it is one."""
    from jsonschema import Draft202012Validator

    found = islice(Draft202012Validator(schema(kind)).iter_errors(document), MOST_FAULTS)
    errors = sorted(found, key=lambda e: [str(p) for p in e.path])
    return list(dict.fromkeys(f"/{'/'.join(map(str, error.absolute_path))}: {_in_words(error)}" for error in errors))


def _in_words(error: ValidationError) -> str:
    """Return what a part must be; in the library's words for the rarer rules."""
    from flowplan.schemas.fields import kind_of

    wanted: Any = error.validator_value
    if error.validator == "required" and isinstance(error.instance, dict):
        return f"must have {', '.join(name for name in wanted if name not in error.instance)}"
    if error.validator == "type":
        return f"must be {wanted if isinstance(wanted, str) else ' or '.join(wanted)}, not {kind_of(error.instance)}"
    return error.message[:200]
