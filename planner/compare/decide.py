"""Which action at one address, and why: create, update in place, replace, run again, adopt, or nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from flowplan.planner.compare.diff import changed_fields, drifted_fields, patched, settings_fields
from flowplan.planner.compare.reasons import changed_sentence, how_it_ended, standing
from flowplan.planner.manifests import IN_PLACE, REPLACE, Manifests, content_of, over_already, traits
from flowplan.schemas.plans import ABSENT, Action, Change, FieldChange, RunFacts
from flowplan.schemas.runs import Desired, Objects, Observed, Recorded, Rendered, Status, Target, digest

PROTECT = "/Run/protect"
"""The setting that counts for what ended too: it keeps `destroy` from the record of a run."""


class Case(NamedTuple):
    """What the action at one desired address is decided from.

    ``forced`` and ``renewed`` say why it is to start again whatever its end: the user asked for it, or a run that it
    needs starts again.
    """

    desired: Desired
    record: Recorded | None
    seen: Observed | None
    manifests: Manifests
    next_attempt: int = 1
    target: Target | None = None
    forced: str = ""
    renewed: str = ""
    may_interrupt: bool = False
    refresh_only: bool = False
    moved_from: str = ""
    moved_to: str = ""
    spec_name: str = "the spec"


def decide(case: Case) -> Change:
    """Return the change at one address that the spec wants."""
    record, seen = case.record, case.seen
    if record is None:
        if case.moved_to:
            reason = f"not in the state any more, its run was moved to {case.moved_to}"
        elif case.next_attempt > 1:
            reason = "not in the state any more, destroyed or forgotten before"
        else:
            reason = f"new in {case.spec_name}"
        return _change(case, Action.CREATE, case.desired.render(case.next_attempt), reason)
    if record.status is not Status.CREATING:
        return _comparison(case, record)
    if not (seen and seen.status):  # the intent was recorded, but nothing was created: the same attempt is created now
        change = _change(
            case, Action.CREATE, case.desired.render(record.attempt), "an interrupted apply did not start it"
        )
        return replace(change, run=standing(record, None), live=f"{record.run_id}:intended")
    rendered = case.desired.render(record.attempt) if seen.exists and record.type == case.desired.type else None
    if rendered is None or rendered.objects != record.objects:  # what it created is compared like any run
        return _comparison(case, record)
    change = _change(case, Action.ADOPT, rendered, "an interrupted apply created it")
    return replace(change, before=record.objects, run=standing(record, seen), live=f"{seen.run_id}:found")


def _change(case: Case, action: Action, rendered: Rendered, *reasons: str) -> Change:
    """Return a change with the parts that every change of a desired run has."""
    desired = case.desired
    return Change(
        address=desired.address,
        provider=desired.provider,
        type=desired.type,
        action=action,
        reasons=tuple(reasons),
        before=None,
        after=rendered.objects,
        warnings=rendered.warnings,
        settings=desired.settings,
        name=rendered.name,
        run_id=rendered.run_id,
        attempt=rendered.attempt,
        moved_from=case.moved_from,
        origins={path: origin.text for path, origin in rendered.origins.items()},
    )


def _comparison(case: Case, record: Recorded) -> Change:
    """Return the change of a run that was started: what is wanted, compared with what is recorded and seen."""
    facts = standing(record, case.seen)
    status = Status(facts.status)
    as_recorded = case.desired.render(record.attempt, record.born_as)
    fields = _fields(case, record, status, as_recorded)
    moved = _engine_changed(case, record)
    if case.refresh_only:
        return _refreshed(case, record, facts, _drift(case, record, status, case.desired.settings.ignore_changes))
    action, reasons = _action(case, status, facts, fields, moved)
    if case.seen and case.seen.elsewhere and case.forced:
        action = Action.RERUN  # beside what may still run there, which cannot be ended from here
    rendered = case.desired.render(max(record.attempt, case.next_attempt - 1) + 1) if action.starts else as_recorded
    kept: dict[str, Any] = {"fields": fields}
    if action is Action.NO_OP:
        kept = {"fields": (), "after": record.objects, "name": record.name, "run_id": record.run_id}
    elif not action.starts:
        after = _as_created(rendered.objects, record, case.manifests)
        kept |= {"after": after, "name": record.name, "run_id": record.run_id}
    live = _live_fingerprint(status, facts, fields)
    change = replace(_change(case, action, rendered, *reasons), before=record.objects, run=facts, live=live, **kept)
    return _guarded(change, status, case)


def _as_created(objects: Objects, record: Recorded, manifests: Manifests) -> Objects:
    """Return ``objects`` with the recorded content label: an update in place leaves the label of the creation."""
    label = content_of(record.objects, manifests) or ABSENT
    places = [place for place in traits(manifests).CONTENT_LABELS if place.split("/")[1] in objects]
    return patched(objects, [FieldChange(place, ABSENT, label, IN_PLACE, "") for place in places])


def _fields(case: Case, record: Recorded, status: Status, wanted: Rendered) -> tuple[FieldChange, ...]:
    """Return the changed fields: those of the objects with their live values, settings that flowplan keeps, and drift."""
    ignore = case.desired.settings.ignore_changes
    if record.type != case.desired.type:
        return ()
    fields = changed_fields(record.objects, wanted.objects, case.manifests, origins=wanted.origins, ignore=ignore)
    kept = traits(case.manifests).KEPT_BY_ENGINE
    settings = settings_fields(record.settings, case.desired.settings, kept)
    if status.final:
        rerun = case.desired.settings.rerun
        again = (
            case.forced
            or case.renewed
            or rerun == "always"
            or (status is not Status.SUCCEEDED and rerun == "on_failure")
        )
        # a new attempt has the settings of the spec anyway
        settings = tuple(s for s in settings if s.effect != IN_PLACE or (s.path == PROTECT and not again))
        if rerun == "on_change" and (moved := moved_tag(record, case.seen)):
            rule = f"{moved.name} means another image than the one that ran"
            settings += (FieldChange("/Run/image", moved.ran, moved.now, REPLACE, rule),)
    drift = {field.path: field for field in _drift(case, record, status, ignore)}
    changed = []
    for field in fields:
        live = drift.pop(field.path, None)
        if live and not case.manifests.equal(field.path, live.before, field.after):
            field = field._replace(before=live.before, drift=True, recorded=live.recorded, manager=live.manager)
        changed.append(field)
    found = (*changed, *settings, *drift.values())
    return tuple(_while_pending(field, case) for field in found) if status is Status.PENDING else found


def _while_pending(field: FieldChange, case: Case) -> FieldChange:
    """Return the change of a run that waits, which some engines make in place until it starts."""
    before, after = (None if value is ABSENT else value for value in (field.before, field.after))
    rule = traits(case.manifests).while_pending(field.path, before, after) if field.effect == REPLACE else ""
    return field._replace(effect=IN_PLACE, rule=rule) if rule else field


class MovedTag(NamedTuple):
    """A reference to an image, the id of the image that ran, and the id that it means now."""

    name: str
    ran: str
    now: str


def moved_tag(record: Recorded, seen: Observed | None) -> MovedTag | None:
    """Return what the tag of the image that ran means now; None when that is the same image, or not known."""
    image = record.image or (seen.image if seen else {})
    if seen is None or not seen.tag_now or not image.get("id") or seen.tag_now == image["id"]:
        return None
    return MovedTag(image.get("name", ""), image["id"], seen.tag_now)


def _drift(case: Case, record: Recorded, status: Status, ignore: tuple[str, ...]) -> tuple[FieldChange, ...]:
    """Return the drift of a live run; that of an ended one does not matter."""
    if not status.live or not case.seen or case.seen.live is None:
        return ()
    left_out = tuple(place for place in record.remarks if place)  # the engine cannot have it, which is told
    ignore = (*ignore, *left_out)
    return drifted_fields(record.objects, case.seen.live, case.manifests, managers=case.seen.managers, ignore=ignore)


def _engine_changed(case: Case, record: Recorded) -> str:
    """Return why the run moves to another engine, or ""."""
    if record.type != case.desired.type:
        return f"provider changed from {record.type} to {case.desired.type}"
    if record.provider != case.desired.provider and case.target and case.target.id != record.target.get("id"):
        return f"provider changed from {record.provider} to {case.desired.provider}, another engine"
    return ""


def _action(
    case: Case, status: Status, facts: RunFacts, fields: tuple[FieldChange, ...], moved: str
) -> tuple[Action, list[str]]:
    """Return the action and the reasons for it; the first rule that applies decides."""
    rerun, renewed = case.desired.settings.rerun, [case.renewed] if case.renewed else []
    reasons = [moved] if moved else []
    if fields:
        reasons.append(changed_sentence(fields))
    again = Action.REPLACE if status.live or reasons else Action.RERUN
    if case.forced:
        return again, [*reasons, case.forced]
    kept = moved or renewed or any(f.path != PROTECT for f in fields)
    if kept and rerun == "never" and status.final:
        return Action.NO_OP, [f"{[*reasons, *renewed][0]}, but `rerun: never` keeps what ended"]
    if status.final and status is not Status.SUCCEEDED and rerun in ("on_failure", "always"):
        return again, [*reasons, *renewed, f"last attempt {how_it_ended(facts)}"]
    if renewed:
        return again, [*reasons, *renewed]
    if reasons and not moved and all(f.effect == IN_PLACE for f in fields):
        return Action.UPDATE, reasons
    if reasons:
        return Action.REPLACE, reasons
    if status is Status.SUCCEEDED and rerun == "always":
        return Action.RERUN, ["`rerun: always`"]
    return Action.NO_OP, [_rest(status, facts, rerun)]


def _rest(status: Status, facts: RunFacts, rerun: str) -> str:
    """Say why nothing is to be done."""
    if status.live:
        return f"{status} as wanted"
    if status is Status.SUCCEEDED:
        return "succeeded, nothing changed"
    return f"{how_it_ended(facts)}; `rerun: {rerun}` leaves it so"


def _refreshed(case: Case, record: Recorded, facts: RunFacts, drift: tuple[FieldChange, ...]) -> Change:
    """Return a change that only records what happened outside flowplan: drift as it is, and the status."""
    taken = tuple(f._replace(before=f.recorded, after=f.before, effect=IN_PLACE, rule="only recorded") for f in drift)
    rendered = Rendered(
        patched(record.objects, [f._replace(drift=False) for f in taken]), record.name, record.run_id, record.attempt
    )
    if drift:
        change = _change(case, Action.UPDATE, rendered, changed_sentence(drift))
    else:
        moved_on = facts.status != record.status
        change = _change(case, Action.NO_OP, rendered, f"now {how_it_ended(facts)}" if moved_on else "as recorded")
    live = _live_fingerprint(Status(facts.status), facts, drift)
    return replace(change, before=record.objects, fields=taken, run=facts, live=live, settings=record.settings)


def _live_fingerprint(status: Status, facts: RunFacts, fields: tuple[FieldChange, ...]) -> str:
    """Return what a decision rests on, for `apply` to compare: attempt, whether it is live, how it ended, and drift."""
    drift = [[f.path, str(f.before)] for f in fields if f.drift]
    end = "live" if status.live else f"{facts.status}:{facts.exit_code}"
    return f"{facts.run_id}:{end}" + (f":{digest(drift)[7:23]}" if drift else "")


def _guarded(change: Change, status: Status, case: Case) -> Change:
    """Mark a change that stops a live run, and refuse it where ``protect`` or another host forbids it."""
    if case.seen and case.seen.elsewhere and change.action is not Action.RERUN:
        return unreachable(change, case.seen)
    stops = change.action is Action.REPLACE and status.live and case.desired.settings.replace != "after_finish"
    if change.action is Action.UPDATE and status.live:
        hurts = tuple(dict.fromkeys(filter(None, (_hurts(field, case) for field in change.fields))))
        change, stops = replace(change, reasons=(*change.reasons, *hurts)), bool(hurts)
    if stops != change.interrupts:
        change = replace(change, interrupts=stops)
    return guarded(change, status, case.desired.settings.protect, case.may_interrupt)


def _hurts(field: FieldChange, case: Case) -> str:
    """Say what a change in place does to the live run that it ends, pauses or shrinks; "" for any other."""
    before, after = (None if value is ABSENT else value for value in (field.before, field.after))
    progress = case.seen.progress if case.seen else {}
    if field.path == "/Run/timeout" and after is not None:
        return over_already(before, after, progress)
    return traits(case.manifests).interrupts(field.path, before, after, progress)


def guarded(change: Change, status: Status, protect: str, may_interrupt: bool) -> Change:
    """Return a change with ``skipped`` set when ``protect`` forbids it."""
    removes = change.action in (Action.REPLACE, Action.DESTROY) or change.interrupts
    if may_interrupt or not removes:
        return change
    if protect == "always":
        return replace(change, skipped="protected: `protect: always`")
    if protect == "active" and status.live and (change.interrupts or change.action is Action.DESTROY):
        return replace(change, skipped=f"protected: `protect: active` and the run is {status}")
    return change


def unreachable(change: Change, seen: Observed) -> Change:
    """Return the change of a run on another host, which is refused when it would touch it."""
    if change.action is Action.NO_OP:
        return replace(change, reasons=(seen.message,))
    left = f"{seen.message}; if that host is gone, `flowplan state rm {change.address}` forgets it"
    return replace(change, interrupts=False, skipped=left)


class Leaving(NamedTuple):
    """Why a run is no longer wanted, and what is to become of it.

    Attributes:
        left: it is a cell that left the matrix of its run; keep: it stays as it is if it has ended.
        forget: the state forgets it, its object stays.
    """

    reason: str
    left: bool = False
    keep: bool = False
    forget: bool = False
    may_interrupt: bool = False


def removal(record: Recorded, seen: Observed | None, leaving: Leaving) -> Change:
    """Return the change of what is recorded and no longer wanted: destroy, forget, or nothing where it is kept."""
    facts = standing(record, seen)
    status, forget = Status(facts.status), leaving.forget
    kept = leaving.keep and status.final and not forget
    action, reason = (Action.NO_OP if kept else Action.DESTROY), leaving.reason
    if kept:
        reason += "; `keep: finished` leaves its record and its object"
    elif leaving.left and status.final:
        reason += "; its object and its line in `status` go, its history and the end of its output stay"
    change = Change(
        address=record.address,
        provider=record.provider,
        type=record.type,
        action=Action.FORGET if forget else action,
        reasons=("listed in `removed`",) if forget else (reason,),
        before=record.objects,
        after=None,
        run=facts,
        settings=record.settings,
        name=record.name,
        run_id=record.run_id,
        attempt=record.attempt,
        interrupts=status.live and not forget,
        live=_live_fingerprint(status, facts, ()),
    )
    if kept:
        return change
    if seen and seen.elsewhere and not forget:
        return unreachable(change, seen)
    return guarded(change, status, record.settings.protect, leaving.may_interrupt)
