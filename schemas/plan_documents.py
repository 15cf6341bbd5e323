"""Plans as JSON documents (format 1.0): written, read back, digested and sealed."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flowplan.schemas.errors import FlowplanError, InvalidInput, PlanStale
from flowplan.schemas.files import Unreadable, read_bounded
from flowplan.schemas.places import refuse_foreign, write_private
from flowplan.schemas.plans import ABSENT, FORMAT_VERSION, Action, Change, FieldChange, Finding, Plan, RunFacts
from flowplan.schemas.runs import Json, Settings
from flowplan.schemas.secrets import SecretSource
from flowplan.schemas.sources import Diagnostic, Position

if TYPE_CHECKING:
    from jsonschema import ValidationError

_MISSING: Any = object()
_SHOWN_FAULTS = 10
MOST_FAULTS = 100
MOST_BYTES = 1 << 30
"""Of a plan file; one of 100,000 runs has 300 MB."""
_ACTIONS = {action.value: action for action in Action}


class _Broken(Exception):
    """A part of a plan document that is not what the format says; the message names it."""


# --- digests ---------------------------------------------------------------------------------------------------------


def _canonical(value: Json) -> str:
    """One ASCII line per value; unlike ``runs.canonical`` it also takes strings that are not valid Unicode."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def carried_out(change: Change) -> bool:
    """True when apply does something for this change: it is neither left out nor a no-op that stays where it is."""
    return not change.skipped and (change.action is not Action.NO_OP or bool(change.moved_from))


def change_digest(change: Change) -> str:
    """Return ``sha256:<64 hex>`` over what carrying out ``change`` does and what that rests on; nothing about when."""
    gone = change.action in (Action.DESTROY, Action.FORGET)
    settings = _settings_document(change.settings)
    for silent in ("description", "stream_output"):
        del settings[silent]
    meaning = {
        "address": change.address,
        "provider": change.provider,
        "type": change.type,
        "action": change.action.value,
        "name": change.name,
        "run_id": change.run_id,
        "objects": change.before if gone else change.after,
        "attempt": change.attempt,
        "live": change.live,
        "moved_from": change.moved_from,
        "settings": settings,
    }
    return _sha256(_canonical(meaning))


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
        "secrets": {token: _secret_document(source) for token, source in plan.secrets.items()},
        "changes": sorted([change.address, change_digest(change)] for change in plan.changes if carried_out(change)),
    }
    return _sha256(_canonical(meaning))


def _sha256(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


# --- Plan -> JSON ----------------------------------------------------------------------------------------------------


def plan_document(plan: Plan) -> dict[str, Json]:
    """Return the JSON document of a plan (``plan.schema.json``), as it is printed: without its time and seal."""
    return _head_document(plan) | {"changes": [change_document(change) for change in plan.changes]}


def plan_json(plan: Plan) -> str:
    """Return the text of ``plan_document``: the same bytes for the same plan, one change a line."""
    return _body(plan, _head_document(plan)) + "\n}\n"


def sealed_json(plan: Plan, key: bytes) -> str:
    """Return the text of a plan file: the printed one with ``made_at``, and ``seal`` as its last line.

    Args:
        key: of the state that the plan was made with.
    """
    body = _body(plan, _head_document(plan) | {"made_at": plan.made_at})
    return body + _SEAL + _seal_line(body, key)


def _body(plan: Plan, head: Mapping[str, Json]) -> str:
    """Objects that are shown keep the order of their keys, so that a plan reads the same wherever it is."""
    try:
        lines = [_line(change) for change in plan.changes]
    except ValueError as error:
        raise InvalidInput(f"the plan cannot be written as JSON: {error}") from error
    keys = "".join(f" {json.dumps(key)}: {json.dumps(value, sort_keys=True)},\n" for key, value in head.items())
    return "{\n" + keys + ' "changes": [\n' + ",\n".join(lines) + "\n]"


def _line(change: Change) -> str:
    document = change_document(change)
    if change.action is Action.NO_OP:
        return _canonical(document)
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


_SEAL = ',\n "seal": '


def _seal_line(body: str, key: bytes) -> str:
    """Return the end of a plan file whose text up to the seal is ``body``: a MAC over its very bytes."""
    sealing = hmac.digest(key, b"flowplan: seal of a plan", "sha256")
    return f'"hmac-sha256:{hmac.new(sealing, body.encode(), "sha256").hexdigest()}"\n}}\n'


def write_plan(plan: Plan, path: Path, key: bytes) -> None:
    """Write a sealed plan file atomically, readable by its owner only; a device or a pipe is written to, never replaced.

    A symbolic link to a file is replaced itself.

    Args:
        key: of the state that the plan was made with.

    Raises:
        FlowplanError: the file cannot be written.
        Refused: another user prepared the place.
    """
    text = sealed_json(plan, key)
    refuse_foreign(path)
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="ascii")
        else:
            write_private(path, text, "plan")
    except OSError as error:
        raise FlowplanError(f"the plan cannot be written to {path}: {error.strerror}") from error


def _head_document(plan: Plan) -> dict[str, Json]:
    return {
        "format_version": FORMAT_VERSION,
        "flowplan_version": plan.flowplan_version,
        "project": plan.project,
        "mode": plan.mode,
        "digest": plan.digest,
        "expires_at": plan.expires_at,
        "refreshed": plan.refreshed,
        "state": {"lineage": plan.lineage, "serial": plan.serial},
        "spec": {"path": plan.spec_path, "digest": plan.spec_digest},
        "summary": summary(plan.changes),
        "variables": dict(plan.variables),
        "providers": dict(plan.providers),
        "targets": dict(plan.targets),
        "secrets": {token: _secret_document(source) for token, source in plan.secrets.items()},
        "diagnostics": [_diagnostic_document(remark) for remark in plan.diagnostics],
    }


def summary(changes: Sequence[Change]) -> dict[str, int]:
    """How many changes of each action there are, zeros included; skipped changes count as ``no_op``."""
    counts = Counter(Action.NO_OP if change.skipped else change.action for change in changes)
    return {action.value.replace("-", "_"): counts[action] for action in Action}


def change_document(change: Change) -> dict[str, Json]:
    """The JSON document of one change."""
    return {
        "address": change.address,
        "provider": change.provider,
        "type": change.type,
        "action": change.action.value,
        "reasons": list(change.reasons),
        "name": change.name,
        "run_id": change.run_id,
        "attempt": change.attempt,
        "interrupts": change.interrupts,
        "skipped": change.skipped,
        "moved_from": change.moved_from,
        "live": change.live,
        "before": change.before,
        "after": change.after,
        "fields": [_field_document(field) for field in change.fields],
        "run": _run_document(change.run),
        "warnings": list(change.warnings),
        "preflight": [_finding_document(finding) for finding in change.preflight],
        "settings": _settings_document(change.settings),
        "history": dict(change.history),
        "origins": dict(change.origins),
    }


def _field_document(field: FieldChange) -> dict[str, Json]:
    document: dict[str, Json] = {"path": field.path, "effect": field.effect, "rule": field.rule, "origin": field.origin}
    values: dict[str, Json] = {"before": field.before, "after": field.after}
    if field.drift:
        document |= {"drift": True, "manager": field.manager}
        values["recorded"] = field.recorded
    return document | {key: value for key, value in values.items() if value is not ABSENT}


def _run_document(run: RunFacts | None) -> Json:
    if run is None:
        return None
    return {
        "status": run.status,
        "attempt": run.attempt,
        "run_id": run.run_id,
        "name": run.name,
        "reason": run.reason,
        "message": run.message,
        "exit_code": run.exit_code,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
    }


def _finding_document(finding: Finding) -> Json:
    return {
        "address": finding.address,
        "severity": finding.severity,
        "check": finding.check,
        "message": finding.message,
        "hint": finding.hint,
    }


def _settings_document(settings: Settings) -> dict[str, Json]:
    return {
        "group": settings.group,
        "needs": list(settings.needs),
        "max_parallel": settings.max_parallel,
        "timeout": settings.timeout,
        "start_timeout": settings.start_timeout,
        "grace_period": settings.grace_period,
        "stream_output": settings.stream_output,
        "rerun": settings.rerun,
        "replace": settings.replace,
        "protect": settings.protect,
        "ignore_changes": list(settings.ignore_changes),
        "description": settings.description,
        "triggers": dict(settings.triggers),
    }


def _secret_document(source: SecretSource) -> Json:
    return {"kind": source.kind, "value": source.value, "variables": list(source.variables)}


def _diagnostic_document(remark: Diagnostic | str) -> Json:
    if isinstance(remark, str):
        remark = Diagnostic(message=remark, severity="warning")
    place = remark.position
    return {
        "severity": remark.severity,
        "message": remark.message,
        "subject": remark.subject,
        "hint": remark.hint,
        "position": place and {"file": place.file, "line": place.line, "column": place.column},
    }


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
    """Return the plan of a document: the exact inverse of ``plan_document``.

    Args:
        file: the file's name, for messages.

    Raises:
        InvalidInput: an unknown format or a broken document.
        PlanStale: it is not what its digest says.
    """
    _check_version(document, file)
    try:
        plan = _plan(document)
        genuine = plan_digest(plan) == plan.digest
    except (_Broken, ValueError) as error:
        raise InvalidInput(_faults(document, file, str(error))) from error
    if not genuine:
        raise PlanStale(f"{file}: {_EDITED}", hint=_AGAIN)
    return plan


_EDITED = "the plan was edited or damaged after it was made, so nobody can say what was reviewed"
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


def _check_version(document: Json, file: str) -> None:
    version = document.get("format_version") if isinstance(document, dict) else None
    if not isinstance(version, str):
        raise InvalidInput(f"{file}: not a plan file: it has no format_version")
    if version.partition(".")[0] != FORMAT_VERSION.partition(".")[0]:
        raise InvalidInput(
            f"{file}: plan format {version} is unknown; this flowplan reads {FORMAT_VERSION}",
            hint="make the plan and apply it with the same version of flowplan",
        )


def _faults(document: Json, file: str, otherwise: str) -> list[Diagnostic]:
    """What the JSON Schema has to say about a broken document, or ``otherwise`` when it finds nothing."""
    faults = schema_faults(document, "plan") or [otherwise]
    return [Diagnostic(message=f"{file}: not a valid plan: {fault}") for fault in faults[:_SHOWN_FAULTS]]


def schema(kind: str) -> dict[str, Json]:
    """The JSON Schema (draft 2020-12) of ``plan``, ``event`` or ``status`` documents."""
    text = (Path(__file__).parent / f"{kind}.schema.json").read_text("utf-8")
    loaded: dict[str, Json] = json.loads(text)
    return loaded


def schema_faults(document: Json, kind: str) -> list[str]:
    """What makes ``document`` no valid ``plan``, ``event`` or ``status``, as far as it matters; [] when it is one."""
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


def _take(document: Json, key: str, kind: type | tuple[type, ...], default: Any = _MISSING) -> Any:
    """The value at ``key``, of the type that the format promises; ``default`` where it may be missing."""
    if not isinstance(document, dict):
        raise _Broken(f"an object with {key} was expected")
    value = document.get(key, default)
    if value is _MISSING:
        raise _Broken(f"{key} is missing")
    if value is not default and (not isinstance(value, kind) or (isinstance(value, bool) and kind is int)):
        raise _Broken(f"{key} has the wrong type")
    return value


def _words(document: Json, key: str) -> tuple[str, ...]:
    words = _take(document, key, list, ())
    if not all(isinstance(word, str) for word in words):
        raise _Broken(f"{key} must hold strings")
    return tuple(words)


def _texts(document: Json, key: str) -> dict[str, str]:
    texts: dict[str, str] = _take(document, key, dict, {})
    if not all(isinstance(text, str) for text in texts.values()):
        raise _Broken(f"{key} must hold strings")
    return texts


def _entries(document: Json, key: str) -> dict[str, dict[str, Json]]:
    """Return what a plan says of each provider entry: a mapping that has a type."""
    entries: dict[str, dict[str, Json]] = _take(document, key, dict, {})
    for name, entry in entries.items():
        try:
            _take(entry, "type", str)
        except _Broken as error:
            raise _Broken(f"{key}.{name}: {error}") from error
    return entries


def _history(document: dict[str, Json]) -> dict[str, Json]:
    _words(document, "last")
    seconds = _take(document, "durations", list, [])
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in seconds):
        raise _Broken("durations must hold numbers")
    return document


def _text(document: Json, key: str) -> str:
    text: str = _take(document, key, str, "")
    return text


def _plan(document: Json) -> Plan:
    state, spec = _take(document, "state", dict), _take(document, "spec", dict)
    return Plan(
        project=_take(document, "project", str),
        digest=_take(document, "digest", str),
        lineage=_take(state, "lineage", str),
        serial=_take(state, "serial", int),
        spec_path=_text(spec, "path"),
        spec_digest=_text(spec, "digest"),
        changes=tuple(map(_change, _take(document, "changes", list))),
        variables=_take(document, "variables", dict, {}),
        providers=_entries(document, "providers"),
        targets=_entries(document, "targets"),
        secrets={token: _secret(source) for token, source in _take(document, "secrets", dict, {}).items()},
        diagnostics=tuple(map(_diagnostic, _take(document, "diagnostics", list, ()))),
        mode=_take(document, "mode", str, "normal"),
        refreshed=_take(document, "refreshed", bool, True),
        flowplan_version=_text(document, "flowplan_version"),
        expires_at=_take(document, "expires_at", (str, type(None)), None),
        made_at=_text(document, "made_at"),
    )


def _change(document: Json) -> Change:
    action = _take(document, "action", str)
    if action not in _ACTIONS:
        raise _Broken(f"unknown action {action!r}; it needs a newer flowplan")
    return Change(
        address=_take(document, "address", str),
        provider=_take(document, "provider", str),
        type=_take(document, "type", str),
        action=_ACTIONS[action],
        reasons=_words(document, "reasons"),
        before=_take(document, "before", (dict, type(None))),
        after=_take(document, "after", (dict, type(None))),
        fields=tuple(map(_field, _take(document, "fields", list, ()))),
        run=_run(_take(document, "run", (dict, type(None)), None)),
        warnings=_words(document, "warnings"),
        preflight=tuple(map(_finding, _take(document, "preflight", list, ()))),
        settings=_settings(_take(document, "settings", dict)),
        name=_text(document, "name"),
        run_id=_text(document, "run_id"),
        attempt=_take(document, "attempt", int),
        interrupts=_take(document, "interrupts", bool, False),
        skipped=_text(document, "skipped"),
        moved_from=_text(document, "moved_from"),
        live=_text(document, "live"),
        history=_history(_take(document, "history", dict, {})),
        origins=_texts(document, "origins"),
    )


def _field(document: Json) -> FieldChange:
    drift: bool = _take(document, "drift", bool, False)
    return FieldChange(
        path=_take(document, "path", str),
        before=document.get("before", ABSENT),
        after=document.get("after", ABSENT),
        effect=_take(document, "effect", str),
        rule=_text(document, "rule"),
        origin=_text(document, "origin"),
        drift=drift,
        recorded=document.get("recorded", ABSENT) if drift else None,
        manager=_text(document, "manager"),
    )


def _run(document: Json) -> RunFacts | None:
    if document is None:
        return None
    return RunFacts(
        status=_take(document, "status", str),
        attempt=_take(document, "attempt", int),
        run_id=_take(document, "run_id", str),
        reason=_text(document, "reason"),
        message=_text(document, "message"),
        exit_code=_take(document, "exit_code", (int, type(None)), None),
        started_at=_take(document, "started_at", (str, type(None)), None),
        finished_at=_take(document, "finished_at", (str, type(None)), None),
        name=_text(document, "name"),
    )


def _finding(document: Json) -> Finding:
    return Finding(
        address=_text(document, "address"),
        severity=_take(document, "severity", str),
        check=_text(document, "check"),
        message=_take(document, "message", str),
        hint=_text(document, "hint"),
    )


def _settings(document: Json) -> Settings:
    default = Settings()
    return Settings(
        group=_text(document, "group"),
        needs=_words(document, "needs"),
        max_parallel=_take(document, "max_parallel", (int, type(None)), None),
        timeout=_take(document, "timeout", (int, float, type(None)), None),
        start_timeout=_take(document, "start_timeout", (int, float, type(None)), None),
        grace_period=_take(document, "grace_period", (int, float), default.grace_period),
        stream_output=_take(document, "stream_output", bool, default.stream_output),
        rerun=_take(document, "rerun", str, default.rerun),
        replace=_take(document, "replace", str, default.replace),
        protect=_text(document, "protect"),
        ignore_changes=_words(document, "ignore_changes"),
        description=_text(document, "description"),
        triggers=_texts(document, "triggers"),
    )


def _secret(document: Json) -> SecretSource:
    return SecretSource(_take(document, "kind", str), _take(document, "value", str), _words(document, "variables"))


def _diagnostic(document: Json) -> Diagnostic:
    place = _take(document, "position", (dict, type(None)), None)
    return Diagnostic(
        message=_take(document, "message", str),
        position=place and Position(_take(place, "file", str), _take(place, "line", int), _take(place, "column", int)),
        subject=_text(document, "subject"),
        hint=_text(document, "hint"),
        severity=_take(document, "severity", str),
    )
