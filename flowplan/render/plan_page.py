"""A plan as the page shows it: the groups, sentences and differences of the terminal, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from flowplan.render import groups, sentences
from flowplan.render.differences import Line, whole_differences
from flowplan.render.groups import Group
from flowplan.render.objects import leaves, place, scalar
from flowplan.render.presented import lines_of, run_line
from flowplan.render.signs import SIGNS, WORDS
from flowplan.schemas.kinds import Kinds
from flowplan.schemas.plan_documents import summary
from flowplan.schemas.plans import Action, Change, Plan
from flowplan.schemas.report import Explained, Field, PlanGroup, PlanSource, PlanView, Remark
from flowplan.schemas.text import counted, harmless

DETAILS = 10_000
"""The groups that have their whole objects: those of the first ones, which hurt."""


def plan_view(plan: Plan, kinds: Kinds, source: PlanSource, command: str = "") -> PlanView:
    """Return what the page shows of a plan.

    Args:
        kinds: how people read the objects. source, command: as in ``PlanView``.
    """
    known = sentences.cells(plan)
    return PlanView(
        source=source,
        project=plan.project,
        environment=plan.environment,
        digest=plan.digest,
        mode=plan.mode,
        made_at=plan.made_at,
        spec=harmless(plan.spec_path),
        verdict=sentences.verdict(plan),
        summary=summary(plan.changes),
        dangers=tuple(_dangers(plan)),
        remarks=tuple(_remarks(plan)),
        engines=tuple(sentences.engines(plan)),
        groups=tuple(
            _group(group, known, kinds, n < DETAILS) for n, group in enumerate(groups.grouped(plan.changes, kinds))
        ),
        unchanged=sentences.unchanged_words(plan),
        unchanged_addresses=tuple(harmless(c.address) for c in plan.changes if not groups.is_shown(c)),
        command=command,
    )


def _dangers(plan: Plan) -> Iterator[Remark]:
    for sentence, hurting in sentences.dangers(plan):
        yield Remark("error", sentence, _addresses(hurting))
    if skipped := [change for change in plan.changes if change.skipped]:
        yield Remark("error", f"Leaves out {counted(len(skipped), 'run')} (apply exits with 6)", _addresses(skipped))
    if errors := sentences.problems(plan):
        failing = [c for c in plan.changes if any(f.severity == "error" for f in c.preflight)]
        yield Remark("error", f"Apply would fail: {counted(errors, 'problem')} found beforehand", _addresses(failing))


def _remarks(plan: Plan) -> Iterator[Remark]:
    if words := sentences.only_records(plan):
        yield Remark("info", words, ())
    if not plan.refreshed:
        yield Remark("warning", "Planned offline: no engine was asked what runs now.", ())
    for remark in plan.diagnostics:
        yield Remark(remark.severity, harmless(str(remark)), ())
    for severity, words, addresses in sentences.remarks(
        Group(tuple(c for c in plan.changes if not groups.is_shown(c)))
    ):
        yield Remark(severity, words, tuple(map(harmless, addresses)))


def _addresses(changes: Sequence[Change]) -> tuple[str, ...]:
    return tuple(harmless(change.address) for change in changes)


def _group(group: Group, known: Mapping[str, Sequence[str]], kinds: Kinds, whole: bool) -> PlanGroup:
    change = group.first
    word = "moved" if change.action is Action.NO_OP and change.moved_from else WORDS[change.action]
    facts = ["it stays on the engine, the state forgets it"] if change.action is Action.FORGET else []
    if needed := sentences.needed(group, known):
        facts.append(f"after {', '.join(needed)}")
    if past := sentences.past(group):
        facts.append(past)
    return PlanGroup(
        action=str(change.action),
        sign="!" if change.skipped else SIGNS[change.action],
        word=f"left out: would {word}" if change.skipped else word,
        interrupts=change.interrupts,
        skipped=harmless(change.skipped),
        provider=harmless(change.provider),
        why=sentences.why(group, None),
        live=sentences.live_sentence(change),
        facts=tuple(facts),
        remarks=tuple(Remark(s, words, tuple(map(harmless, who))) for s, words, who in sentences.remarks(group)),
        addresses=_addresses(group.changes),
        moved_from=tuple(harmless(c.moved_from) for c in group.changes)
        if any(c.moved_from for c in group.changes)
        else (),
        standing=tuple(sentences.standing(c, None) for c in group.changes),
        varying=tuple(place.where for place in group.varying),
        values=tuple(place.values for place in group.varying),
        fields=tuple(_fields(change, kinds)),
        settings=run_line(change, kinds) if change.action.starts else "",
        objects=tuple(_objects(change, kinds)) if whole else (),
        explained=tuple(_explained(change, kinds)) if whole else (),
    )


def _explained(change: Change, kinds: Kinds) -> Iterator[Explained]:
    for path, value in leaves(change.after) if change.after is not None else ():
        where = place(path, change.after, kinds=kinds)
        yield Explained(where, scalar(value), harmless(sentences.origin_of(change, path)))


def _fields(change: Change, kinds: Kinds) -> Iterator[Field]:
    for field, read in zip(change.fields, sentences.changed_fields(change, kinds), strict=True):
        yield Field(
            name=read.name,
            before=read.how.before,
            after=read.how.after,
            lines=read.how.lines,
            effect="in_place" if read.in_place else "replace",
            rule=harmless(field.rule),
            origin=harmless(field.origin),
            drift=field.drift,
            words=read.words,
        )


def _objects(change: Change, kinds: Kinds) -> Iterator[Line]:
    """Return the whole objects, line by line, before and after where there are both."""
    old, new = (list(lines_of(change, one, kinds, whole=True)) if one else [] for one in (change.before, change.after))
    if change.action in (Action.DESTROY, Action.FORGET):
        new = []
    return whole_differences(old, new)
