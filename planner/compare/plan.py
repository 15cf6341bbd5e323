"""What to do at every address, and why: a function of what is desired, recorded and observed."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from flowplan.planner.compare.decide import Case, Leaving, decide, moved_tag, removal
from flowplan.planner.compare.name_collisions import name_collisions
from flowplan.planner.compare.ownership import refuse_strangers
from flowplan.planner.compare.renames import rename_suggestions
from flowplan.planner.desired.order import ordered
from flowplan.planner.manifests import Manifests
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.plans import Action, Change
from flowplan.schemas.runs import Desired, Observed, Recorded, Status, Target, remark
from flowplan.schemas.sources import Diagnostic, did_you_mean
from flowplan.schemas.text import counted
from flowplan.schemas.times import seconds_between


class Options(NamedTuple):
    """What the user asked of this plan.

    Attributes:
        target, exclude, rerun, allow_interrupt: addresses, run names or globs; in ``rerun`` a ``+`` behind one means
            everything that needs it, too, directly or not.
        moved: (from, to) pairs; removed: addresses to forget instead of destroying.
        mode: ``normal``, ``destroy`` or ``refresh_only``.
        spec_name: the spec's file name, for reasons.
    """

    mode: str = "normal"
    target: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    rerun: tuple[str, ...] = ()
    allow_interrupt: tuple[str, ...] = ()
    moved: tuple[tuple[str, str], ...] = ()
    removed: tuple[str, ...] = ()
    spec_name: str = "the spec"


class Situation(NamedTuple):
    """Everything that a plan is decided from.

    Attributes:
        desired: in spec order.
        recorded: newest attempt per managed address; leftovers: replaced ones that may still be there.
        observed: run id -> what the engine says; empty when nothing was refreshed.
        strangers: objects of the project that this state never intended: of its own lineage, or of another one.
        attempts: highest attempt ever used per address, also of addresses that are no longer managed.
        targets: provider entry name -> engine identity, for the engines that were asked.
        manifests: provider type -> its pure half.
    """

    lineage: str
    desired: Sequence[Desired]
    recorded: Mapping[str, Recorded]
    manifests: Mapping[str, Manifests]
    observed: Mapping[str, Observed] = {}
    strangers: Sequence[Observed] = ()
    attempts: Mapping[str, int] = {}
    targets: Mapping[str, Target] = {}
    options: Options = Options()
    project: str = ""
    leftovers: Sequence[Recorded] = ()


class Decided(NamedTuple):
    """The changes in the order in which they are carried out, and remarks."""

    changes: tuple[Change, ...]
    diagnostics: tuple[Diagnostic, ...] = ()


def make_changes(situation: Situation) -> Decided:
    """Decide the action at every address.

    Raises:
        InvalidInput: cyclic needs, or an option that names no run.
        Refused: the engines hold objects that this state never asked for.
    """
    options = situation.options
    refuse_strangers(
        situation.project,
        situation.strangers,
        situation.recorded,
        situation.observed,
        situation.manifests,
        beside_others=options.mode == "destroy" and bool(situation.recorded),  # it only touches what is recorded
    )
    recorded, moves, faults = _moved(situation.recorded, options)
    desired = {} if options.mode == "destroy" else {d.address: d for d in situation.desired}
    known = {
        **{d.address: d.settings.group for d in situation.desired},
        **{a: r.settings.group or a.split("[")[0] for a, r in recorded.items()},
    }
    faults += _unknown_options(options, known)
    if faults:
        raise InvalidInput(faults)
    chosen = _chosen(options, known, {a: d.settings.needs for a, d in desired.items()})
    order = ordered(list(desired), {a: d.settings.needs for a, d in desired.items()})
    elsewhere = {record.born_as: address for address, record in recorded.items() if record.born_as}
    changes: list[Change] = []
    starting = _Starting(options.rerun, recorded)
    for run in (desired[address] for address in order if address in chosen):
        forced, renewed = starting.forced(run), starting.renewed(run)
        changes.append(_wanted_change(situation, run, recorded, moves, elsewhere, forced, renewed))
        starting.add(changes[-1])
    changes += _removals(situation, recorded, [a for a in recorded if a not in desired and a in chosen])
    remarks = [*rename_suggestions(changes, desired, recorded), *name_collisions(changes, situation.manifests)]
    remarks += _kept(changes)
    remarks += _said_by_engines(situation, recorded, changes)
    remarks += _left_running(situation.leftovers, recorded, {change.address: change for change in changes})
    return Decided(tuple(changes), tuple(remarks))


def _moved(
    recorded: Mapping[str, Recorded], options: Options
) -> tuple[dict[str, Recorded], dict[str, str], list[Diagnostic]]:
    """Return the records under their new addresses, new address -> old one, and faults of ``moved``."""
    result, moves, faults = dict(recorded), {}, []
    for old, new in _expanded_moves(recorded, options.moved):
        if old in result and new in result:
            faults.append(Diagnostic(f"cannot move {old} to {new}: both are in the state", subject="moved"))
        elif old in result:
            record = result.pop(old)
            result[new] = replace(record, address=new, born_as=record.born_as or old)
            moves[new] = old
    return result, moves, faults


def _expanded_moves(recorded: Mapping[str, Recorded], moved: Sequence[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """Yield every move; that of a run name moves all its cells."""
    for old, new in moved:
        cells = [a for a in recorded if a.startswith(old + "[")] if "[" not in old and "[" not in new else []
        yield old, new
        for cell in cells:
            yield cell, new + cell[len(old) :]


def names(pattern: str, address: str, group: str = "") -> bool:
    """Return whether an address, run name or glob of an option means ``address``."""
    if pattern in (address, group or address.split("[")[0]):
        return True
    # Square brackets are part of addresses, so only * and ? are wild.
    glob = pattern.replace("[", "[[]")
    return ("*" in pattern or "?" in pattern) and fnmatch.fnmatchcase(address, glob)


def _unknown_options(options: Options, known: Mapping[str, str]) -> list[Diagnostic]:
    faults = []
    for option in ("target", "exclude", "rerun", "allow_interrupt"):
        for pattern in getattr(options, option):
            pattern = pattern.removesuffix("+") if option == "rerun" else pattern
            if not any(names(pattern, a, g) for a, g in known.items()):
                hint = did_you_mean(pattern, {*known, *known.values()}) or "see `flowplan status` for the addresses"
                flag = option.replace("_", "-")
                text = f"no run is called {pattern}" if pattern else "names no run: its value is empty"
                faults.append(Diagnostic(text, subject=f"--{flag}", hint=hint))
    return faults


def _chosen(options: Options, known: Mapping[str, str], needs: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the addresses that --target and --exclude leave; a target brings along what it needs."""
    chosen = {a for a, g in known.items() if not options.target or any(names(p, a, g) for p in options.target)}
    todo = list(chosen) if options.target else []
    while todo:
        for need in needs.get(todo.pop(), ()):
            if need not in chosen:
                chosen.add(need)
                todo.append(need)
    return {a for a in chosen if not any(names(p, a, known[a]) for p in options.exclude)}


class _Starting:
    """Which runs start, and what therefore starts again; each run is asked for and added after all that it needs."""

    def __init__(self, patterns: Sequence[str], recorded: Mapping[str, Recorded]) -> None:
        self._patterns = patterns
        self._recorded = recorded
        self._changes: dict[str, Change] = {}
        self._reached: dict[str, set[str]] = {pattern: set() for pattern in patterns if pattern.endswith("+")}

    def add(self, change: Change) -> None:
        """Take in what was decided of a run."""
        if not change.action.starts or change.skipped:
            return
        self._changes[change.address] = change
        for pattern, reached in self._reached.items():
            named = names(pattern[:-1], change.address, change.settings.group)
            if named or not reached.isdisjoint(change.settings.needs):
                reached.add(change.address)

    def forced(self, run: Desired) -> str:
        """Return how ``--rerun`` asks for a run to start again, in words; "" when it does not."""
        if any(names(p.removesuffix("+"), run.address, run.settings.group) for p in self._patterns):
            return "requested by --rerun"
        for pattern, reached in self._reached.items():
            if needs := [need for need in run.settings.needs if need in reached]:
                return f"{self._again(needs)}, requested by --rerun {pattern}"
        return ""

    def renewed(self, run: Desired) -> str:
        """Return which runs that it needs start again, or did since it started, where it is to start with them."""
        record, needs = self._recorded.get(run.address), run.settings.needs
        if run.settings.rerun_with != "needs" or record is None:
            return ""
        if starting := [need for need in needs if need in self._changes]:
            return self._again(starting)
        known = (self._recorded[need] for need in needs if need in self._recorded)
        sound = (other for other in known if other.status.live or other.status is Status.SUCCEEDED)
        newer = [o.address for o in sound if (seconds_between(record.created_at, o.created_at) or 0) > 0]
        return f"{_several(newer)} started again since" if newer else ""

    def _again(self, needs: Sequence[str]) -> str:
        verb = "start" if len(needs) > 1 else "starts"
        return f"{_several(needs)} {verb}{' again' if self._changes[needs[0]].attempt > 1 else ''}"


def _several(addresses: Sequence[str]) -> str:
    """Return the first of some addresses, and how many others there are."""
    return addresses[0] + (f" and {len(addresses) - 1} more" if len(addresses) > 1 else "")


def _wanted_change(
    situation: Situation,
    desired: Desired,
    recorded: Mapping[str, Recorded],
    moves: Mapping[str, str],
    elsewhere: Mapping[str, str],
    forced: str,
    renewed: str,
) -> Change:
    record = recorded.get(desired.address)
    case = Case(
        desired=desired,
        record=record,
        seen=situation.observed.get(record.run_id) if record else None,
        manifests=situation.manifests[desired.type],
        next_attempt=situation.attempts.get(desired.address, 0) + 1,
        target=situation.targets.get(desired.provider),
        forced=forced,
        renewed=renewed,
        may_interrupt=any(names(p, desired.address, desired.settings.group) for p in situation.options.allow_interrupt),
        refresh_only=situation.options.mode == "refresh_only",
        moved_from=moves.get(desired.address, ""),
        moved_to=elsewhere.get(desired.address, ""),
        spec_name=situation.options.spec_name,
    )
    return decide(case)


def _removals(situation: Situation, recorded: Mapping[str, Recorded], addresses: Sequence[str]) -> list[Change]:
    """Destroy (or forget, or keep) what is recorded and no longer wanted, dependents first."""
    options = situation.options
    if options.mode == "refresh_only":
        return []
    order = ordered(addresses, {a: recorded[a].settings.needs for a in addresses})
    wanted = {d.settings.group: d.settings for d in situation.desired} if options.mode == "normal" else {}
    changes = []
    for record in (recorded[address] for address in reversed(order)):
        group = record.settings.group or record.address.split("[")[0]
        asked = "destroy was asked for" if options.mode == "destroy" else f"removed from {options.spec_name}"
        left = group in wanted and "[" in record.address
        leaving = Leaving(
            reason=f"no longer in the matrix of {group}" if left else asked,
            left=left,
            keep=left and wanted[group].keep == "finished",
            forget=any(names(p, record.address, group) for p in options.removed),
            may_interrupt=any(names(p, record.address, group) for p in options.allow_interrupt),
        )
        changes.append(removal(record, situation.observed.get(record.run_id), leaving))
    return changes


def _kept(changes: Sequence[Change]) -> Iterable[Diagnostic]:
    """Say how many cells stay although the matrix of their run has them no more."""
    groups = Counter(c.settings.group for c in changes if c.action is Action.NO_OP and c.after is None)
    for group, count in groups.items():
        message = f"{counted(count, 'cell')} left the matrix and {'stays' if count == 1 else 'stay'} (`keep: finished`)"
        yield Diagnostic(message, subject=group, severity="info")


def _said_by_engines(
    situation: Situation, recorded: Mapping[str, Recorded], changes: Sequence[Change]
) -> Iterable[Diagnostic]:
    """Warn of what an engine left out of runs that stay, of other hosts, and of tags that mean other images now."""
    for change in changes:
        record = recorded.get(change.address)
        if record is None or change.action not in (Action.NO_OP, Action.UPDATE):
            continue
        for place, words in record.remarks.items():
            yield Diagnostic(remark(place, words), subject=change.address, severity="warning")
        seen = situation.observed.get(record.run_id)
        if seen and seen.elsewhere:
            hint = f"use flowplan there; `--rerun {change.address}` starts another one here, beside it"
            yield Diagnostic(seen.message, subject=change.address, hint=hint, severity="warning")
        if moved := moved_tag(record, situation.observed.get(record.run_id)):
            message = f"{moved.name} is another image now ({moved.now[:19]}) than the one that ran ({moved.ran[:19]})"
            hint = f"`--rerun {change.address}` runs the new one, as `rerun: on_change` does"
            yield Diagnostic(message, subject=change.address, hint=hint, severity="warning")


def _left_running(
    leftovers: Sequence[Recorded], recorded: Mapping[str, Recorded], changes: Mapping[str, Change]
) -> Iterable[Diagnostic]:
    """Warn of replaced attempts that still run because their replacement was interrupted or could not start."""
    for left in leftovers:
        change, newest = changes.get(left.address), recorded.get(left.address)
        if change is None or change.action is Action.FORGET or change.skipped or not left.status.live:
            continue
        if change.action.starts:
            then = change.settings.replace == "start_first"
            end = f"is stopped {'once' if then else 'before'} attempt {change.attempt} {'has started' if then else 'starts'}"
        elif newest and change.action is not Action.DESTROY and newest.not_started:
            end = f"goes on, because attempt {newest.attempt} has not started"
        else:
            end = "is stopped"
        message = f"attempt {left.attempt}, which was to be replaced, is recorded as {left.status}; it {end}"
        yield Diagnostic(message, subject=left.address, severity="warning")


def has_changes(changes: Iterable[Change]) -> bool:
    """Return whether carrying the changes out would do or record anything."""
    return any(c.action is not Action.NO_OP or c.moved_from for c in changes)
