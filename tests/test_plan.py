"""The action at every address: what is desired, recorded and observed on one side, action, reasons and fields on the other."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from flowplan.engines import ManifestsByType
from flowplan.planner.compare.name_collisions import name_collisions
from flowplan.planner.compare.plan import Decided, Options, Situation, make_changes
from flowplan.planner.compare.replay import desired_runs, deviations
from flowplan.planner.manifests import IN_PLACE, REPLACE, Effect, ResolvedRun
from flowplan.schemas.errors import InvalidInput, Refused
from flowplan.schemas.plans import ABSENT, Action, Change, Plan
from flowplan.schemas.runs import (
    Desired,
    Identity,
    Objects,
    Observed,
    Recorded,
    Rendered,
    Retry,
    Settings,
    Status,
    run_id,
)
from flowplan.schemas.sources import Diagnostic

LINEAGE = "11111111-1111-4111-8111-111111111111"


class Boxes:
    """A provider type whose objects are boxes: size changes in place, everything else replaces."""

    def check(self, run: ResolvedRun) -> list[Diagnostic]:
        return []

    def render(self, run: ResolvedRun, identity: Identity) -> Rendered:
        raise AssertionError("desired runs are made by hand here")

    def effect(self, path: str, before: Any, after: Any) -> Effect:
        if path.startswith("/Box/size"):
            return Effect(IN_PLACE, "boxes can be resized")
        return Effect(REPLACE, "a box is what it is")

    def comparable(self, applied: Objects) -> Objects:
        return applied

    def interrupts(self, path: str, before: Any, after: Any, progress: Mapping[str, float]) -> str:
        return "it is being filled" if path == "/Box/size" and after < progress.get("filled", 0) else ""

    def controlled_by(self, path: str, manager: str) -> bool:
        return manager == "robot"

    def equal(self, path: str, one: Any, other: Any) -> bool:
        return str(one) == str(other)


def desired(address: str = "a", *, type: str = "box", settings: Settings | None = None, **box: Any) -> Desired:
    def render(attempt: int, born_as: str = "") -> Rendered:
        ident = Identity("p", LINEAGE, born_as or address, attempt)
        name = f"{born_as or address}-{attempt}"
        return Rendered({"Box": {"name": name, "run": ident.run_id, **box}}, name, ident.run_id, attempt)

    group = address.split("[")[0]
    return Desired(address, "boxes", type, replace(settings or Settings(), group=group), render)


def recorded(wanted: Desired, status: Status = Status.SUCCEEDED, attempt: int = 1, **facts: Any) -> Recorded:
    rendered = wanted.render(attempt)
    return Recorded(
        address=wanted.address,
        provider="boxes",
        type=wanted.type,
        target={"type": "box", "id": "t", "label": ""},
        attempt=attempt,
        run_id=rendered.run_id,
        name=rendered.name,
        objects=rendered.objects,
        settings=wanted.settings,
        status=status,
        **facts,
    )


def seen(record: Recorded, status: Status | None, **facts: Any) -> Observed:
    return Observed(record.run_id, status=status, exists=status is not None, **facts)


def decide(
    wanted: list[Desired],
    records: list[Recorded] | None = None,
    looks: list[Observed] | None = None,
    strangers: list[Observed] | None = None,
    leftovers: list[Recorded] | None = None,
    **options: Any,
) -> Decided:
    records = records or []
    situation = Situation(
        lineage=LINEAGE,
        desired=wanted,
        recorded={r.address: r for r in records},
        manifests={"box": Boxes(), "crate": Boxes()},
        observed={o.run_id: o for o in looks or []},
        strangers=strangers or [],
        project="nightly",
        attempts={r.address: r.attempt for r in records},
        options=Options(**options),
        leftovers=leftovers or [],
    )
    return make_changes(situation)


def only(decided: Decided) -> Change:
    [change] = decided.changes
    return change


def test_a_run_that_is_not_recorded_is_created() -> None:
    change = only(decide([desired(colour="red")], spec_name="spec.yaml"))
    assert (change.action, change.reasons, change.attempt) == (Action.CREATE, ("new in spec.yaml",), 1)
    assert change.after == {"Box": {"name": "a-1", "run": run_id(LINEAGE, "a", 1), "colour": "red"}}
    assert change.before is None


@pytest.mark.parametrize(
    ("status", "rerun", "action"),
    [
        (Status.SUCCEEDED, "on_failure", Action.NO_OP),
        (Status.SUCCEEDED, "on_change", Action.NO_OP),
        (Status.SUCCEEDED, "always", Action.RERUN),
        (Status.SUCCEEDED, "never", Action.NO_OP),
        (Status.FAILED, "on_failure", Action.RERUN),
        (Status.FAILED, "on_change", Action.NO_OP),
        (Status.FAILED, "always", Action.RERUN),
        (Status.FAILED, "never", Action.NO_OP),
        (Status.TIMED_OUT, "on_failure", Action.RERUN),
        (Status.LOST, "on_failure", Action.RERUN),
        (Status.CANCELLED, "on_failure", Action.RERUN),
        (Status.RUNNING, "always", Action.NO_OP),
        (Status.PENDING, "on_failure", Action.NO_OP),
    ],
)
def test_an_unchanged_run_is_run_again_by_its_rerun_policy(status: Status, rerun: str, action: Action) -> None:
    wanted = desired(settings=Settings(rerun=rerun))
    change = only(decide([wanted], [recorded(wanted, status)]))
    assert change.action == action
    assert change.attempt == (2 if action is Action.RERUN else 1)


@pytest.mark.parametrize(
    ("before", "after", "status", "action"),
    [
        ({"size": 1}, {"size": 2}, Status.RUNNING, Action.UPDATE),
        ({"size": 1}, {"size": 2}, Status.SUCCEEDED, Action.UPDATE),
        ({"size": 1}, {"size": 2}, Status.FAILED, Action.REPLACE),
        ({"colour": "red"}, {"colour": "blue"}, Status.RUNNING, Action.REPLACE),
        ({"colour": "red"}, {"colour": "blue"}, Status.SUCCEEDED, Action.REPLACE),
        ({"size": 1, "colour": "red"}, {"size": 2, "colour": "blue"}, Status.RUNNING, Action.REPLACE),
        ({"size": 1}, {"size": "1"}, Status.RUNNING, Action.NO_OP),
    ],
)
def test_a_changed_run_is_updated_where_the_engine_can_and_replaced_elsewhere(
    before: dict[str, Any], after: dict[str, Any], status: Status, action: Action
) -> None:
    change = only(decide([desired(**after)], [recorded(desired(**before), status)]))
    assert change.action == action
    assert change.attempt == (2 if action is Action.REPLACE else 1)
    assert change.interrupts == (action is Action.REPLACE and status is Status.RUNNING)


def test_a_changed_field_has_path_values_effect_and_rule() -> None:
    change = only(decide([desired(size=2, lid=True)], [recorded(desired(size=1), Status.RUNNING)]))
    fields = [(f.path, f.before, f.after, f.effect, f.rule) for f in change.fields]
    assert fields == [
        ("/Box/size", 1, 2, "in_place", "boxes can be resized"),
        ("/Box/lid", ABSENT, True, "replace", "a box is what it is"),
    ]
    assert change.reasons == ("size, lid changed",)


def test_a_live_run_that_the_engine_does_not_know_any_more_is_lost_and_run_again() -> None:
    wanted = desired()
    record = recorded(wanted, Status.RUNNING)
    change = only(decide([wanted], [record], [seen(record, None, message="the box is gone")]))
    assert change.action == Action.RERUN
    assert change.run is not None and change.run.status == "lost" and change.run.message == "the box is gone"


def test_a_finished_run_whose_object_is_gone_is_collected_and_left_alone() -> None:
    wanted = desired()
    record = recorded(wanted, Status.SUCCEEDED)
    assert only(decide([wanted], [record], [seen(record, None)])).action == Action.NO_OP


def test_the_engine_tells_the_end_of_a_run_that_was_recorded_as_running() -> None:
    wanted = desired()
    record = recorded(wanted, Status.RUNNING)
    change = only(decide([wanted], [record], [seen(record, Status.FAILED, exit_code=3, reason="Error")]))
    assert change.action == Action.RERUN
    assert change.reasons == ("last attempt failed with exit code 3: Error",)


def test_drift_is_put_right_and_told_apart_from_changes() -> None:
    wanted = desired(size=1)
    record = recorded(wanted, Status.RUNNING)
    live = {"Box": {**record.objects["Box"], "size": 5, "set_by_server": 1}}
    look = seen(record, Status.RUNNING, live=live, managers={"/Box/size": "kubectl"})
    change = only(decide([wanted], [record], [look]))
    assert change.action == Action.UPDATE
    assert change.reasons == ("size changed on the engine by kubectl",)
    [field] = change.fields
    assert (field.before, field.after, field.recorded, field.drift, field.manager) == (5, 1, 1, True, "kubectl")


def test_a_change_of_what_somebody_changed_meanwhile_starts_from_the_live_value() -> None:
    record = recorded(desired(size=2), Status.RUNNING)
    look = seen(record, Status.RUNNING, live={"Box": {**record.objects["Box"], "size": 5}})
    change = only(decide([desired(size=1)], [record], [look]))
    assert change.reasons == ("size changed",)
    [field] = change.fields
    assert (field.before, field.after, field.recorded, field.drift) == (5, 1, 2, True)
    [field] = only(decide([desired(size=5)], [record], [look])).fields
    assert (field.before, field.after, field.drift) == (2, 5, False)


def test_what_a_controller_took_over_is_no_drift_until_the_spec_says_otherwise() -> None:
    record = recorded(desired(size=1), Status.RUNNING)
    live = {"Box": {**record.objects["Box"], "size": 5}}
    look = seen(record, Status.RUNNING, live=live, managers={"/Box/size": "robot"})
    assert only(decide([desired(size=1)], [record], [look])).action == Action.NO_OP
    change = only(decide([desired(size=2)], [record], [look]))
    assert change.action == Action.UPDATE and [(f.path, f.after, f.drift) for f in change.fields] == [
        ("/Box/size", 2, False)
    ]


@pytest.mark.parametrize(
    ("protect", "filled", "allowed", "interrupts", "left_out"),
    [
        ("", 3.0, (), True, False),
        ("active", 3.0, (), True, True),
        ("always", 3.0, (), True, True),
        ("active", 3.0, ("a",), True, False),
        ("active", 1.0, (), False, False),
        ("always", 1.0, (), False, False),
    ],
)
def test_an_update_that_hurts_what_runs_is_an_interruption(
    protect: str, filled: float, allowed: tuple[str, ...], interrupts: bool, left_out: bool
) -> None:
    record = recorded(desired(size=4), Status.RUNNING)
    look = seen(record, Status.RUNNING, progress={"filled": filled})
    wanted = desired(size=2, settings=Settings(protect=protect))
    change = only(decide([wanted], [record], [look], allow_interrupt=allowed))
    assert (change.action, change.interrupts, bool(change.skipped)) == (Action.UPDATE, interrupts, left_out)
    assert ("it is being filled" in change.reasons) is interrupts


@pytest.mark.parametrize(
    ("seconds", "timeout", "interrupts"),
    [(90.0, 60.0, True), (30.0, 60.0, False), (None, 60.0, True), (90.0, None, False)],
)
def test_a_time_limit_that_has_passed_is_an_interruption(
    seconds: float | None, timeout: float | None, interrupts: bool
) -> None:
    record = recorded(desired(settings=Settings(timeout=600)), Status.RUNNING)
    look = seen(record, Status.RUNNING, progress={} if seconds is None else {"seconds": seconds})
    change = only(decide([desired(settings=Settings(timeout=timeout))], [record], [look]))
    assert (change.action, change.interrupts) == (Action.UPDATE, interrupts)


def test_drift_of_what_cannot_change_in_place_replaces() -> None:
    wanted = desired(colour="red")
    record = recorded(wanted, Status.RUNNING)
    look = seen(record, Status.RUNNING, live={"Box": {**record.objects["Box"], "colour": "blue"}})
    assert only(decide([wanted], [record], [look])).action == Action.REPLACE


def test_ignored_changes_are_no_changes() -> None:
    ignoring = Settings(ignore_changes=("/Box/label",))
    wanted = desired(settings=ignoring, label="new")
    assert only(decide([wanted], [recorded(desired(label="old"), Status.RUNNING)])).action == Action.NO_OP


def test_what_the_spec_does_not_want_any_more_is_destroyed_or_forgotten() -> None:
    record = recorded(desired("old"), Status.RUNNING)
    change = only(decide([], [record], spec_name="spec.yaml"))
    assert (change.action, change.reasons, change.interrupts) == (Action.DESTROY, ("removed from spec.yaml",), True)
    assert only(decide([], [record], removed=("old",))).action == Action.FORGET


def test_destroy_comes_dependents_first() -> None:
    first = recorded(desired("a"))
    second = recorded(desired("b", settings=Settings(needs=("a",))))
    changes = decide([], [first, second], mode="destroy").changes
    assert [(c.action, c.address) for c in changes] == [(Action.DESTROY, "b"), (Action.DESTROY, "a")]


def test_an_intent_that_was_never_carried_out_is_created_as_the_same_attempt() -> None:
    wanted = desired()
    record = recorded(wanted, Status.CREATING)
    change = only(decide([wanted], [record], [seen(record, None)]))
    assert (change.action, change.attempt, change.run_id) == (Action.CREATE, 1, record.run_id)


def test_an_intent_whose_object_is_there_is_adopted() -> None:
    wanted = desired()
    record = recorded(wanted, Status.CREATING)
    change = only(decide([wanted], [record], [seen(record, Status.RUNNING)]))
    assert (change.action, change.run_id) == (Action.ADOPT, record.run_id)


@pytest.mark.parametrize("mode", ["normal", "destroy", "refresh_only"])
def test_an_object_of_our_lineage_that_this_state_never_intended_means_that_it_is_older(mode: str) -> None:
    wanted = desired()
    later = Observed(run_id(LINEAGE, "a", 3), address="a", attempt=3, status=Status.SUCCEEDED, name="nightly-a-3")
    with pytest.raises(Refused, match=r"older than the engines.*nightly-a-3 \(a, attempt 3, succeeded\)") as refusal:
        decide([wanted], [recorded(wanted)], strangers=[later], mode=mode)
    assert "state rebuild" in refusal.value.hint


def test_an_intent_of_other_content_than_its_object_means_the_same() -> None:
    wanted = desired()
    record = recorded(wanted, Status.CREATING)
    with pytest.raises(Refused, match="older than the engines"):
        decide([wanted], [record], [seen(record, Status.RUNNING, content="of something else", name="nightly-a-1")])


def test_objects_of_another_lineage_are_named_with_the_ways_out() -> None:
    other = str(uuid.uuid4())
    theirs = [
        Observed(
            run_id(other, f"a[x={n}]", 1),
            address=f"a[x={n}]",
            attempt=1,
            status=Status.RUNNING,
            name=f"nightly-a-x-{n}-1",
            lineage=other,
            created_at=f"2026-11-0{n}T08:00:00Z",
            created_from=f"ann@host{n}:/srv/job/.flowplan/state.db",
        )
        for n in range(1, 8)
    ]
    with pytest.raises(Refused) as refusal:
        decide([desired()], strangers=theirs)
    told = str(refusal.value)
    assert "project nightly is managed by another state" in told and other in told and "7 objects" in told
    assert "last acted at 2026-11-07T08:00:00Z from ann@host7:/srv/job/.flowplan/state.db" in told
    assert "nightly-a-x-5-1" in told and "and 2 more" in told and "nightly-a-x-6-1" not in told, "the list is bounded"
    assert f"state rebuild --lineage {other}" in told and "another name" in told
    with pytest.raises(Refused):
        decide([], strangers=theirs, mode="destroy")
    own = desired("own")
    assert only(decide([], [recorded(own)], strangers=theirs, mode="destroy")).action is Action.DESTROY


def test_rerun_is_forced_by_address_run_name_or_glob() -> None:
    cells = [desired(f"a[x={n}]") for n in (1, 2)]
    records = [recorded(c) for c in cells]
    for pattern, expected in (("a[x=1]", ["rerun", "no-op"]), ("a", ["rerun"] * 2), ("a*2]", ["no-op", "rerun"])):
        assert [c.action for c in decide(cells, records, rerun=(pattern,)).changes] == expected


def chain(*parts: tuple[str, tuple[str, ...], str], **settings: Any) -> list[Desired]:
    """Return runs by (address, needs, rerun_with), in order."""
    return [
        desired(address, settings=Settings(needs=needs, rerun_with=renewed, **settings))
        for address, needs, renewed in parts
    ]


def started_at(runs: list[Desired], *minutes: int, **status: Status) -> list[Recorded]:
    return [
        recorded(run, status.get(run.address, Status.SUCCEEDED), created_at=f"2026-11-07T08:{minute:02}:00Z")
        for run, minute in zip(runs, minutes, strict=True)
    ]


def test_a_plus_reruns_everything_that_needs_a_run() -> None:
    runs = chain(
        ("a[x=1]", (), ""), ("a[x=2]", (), ""), ("b", ("a[x=1]", "a[x=2]"), ""), ("c", ("b",), ""), ("d", (), "")
    )
    changes = {c.address: c for c in decide(runs, started_at(runs, 1, 1, 2, 3, 4), rerun=("a+",)).changes}
    assert [a for a, c in changes.items() if c.action is Action.RERUN] == ["a[x=1]", "a[x=2]", "b", "c"]
    assert changes["a[x=1]"].reasons == ("requested by --rerun",)
    assert changes["b"].reasons == ("a[x=1] and 1 more start again, requested by --rerun a+",)
    assert changes["c"].reasons == ("b starts again, requested by --rerun a+",)
    one = decide(runs, started_at(runs, 1, 1, 2, 3, 4), rerun=("a[x=2]+",), exclude=("b",))
    assert [c.address for c in one.changes if c.effective] == ["a[x=2]"], "what is left out passes nothing on"
    with pytest.raises(InvalidInput, match="no run is called e;"):
        decide(runs, [], rerun=("e+",))


@pytest.mark.parametrize(
    ("minutes", "status", "options", "reason"),
    [
        ((1, 2), {}, {}, ""),
        ((1, 2), {}, {"rerun": ("a",)}, "a starts again"),
        ((1, 2), {"a": Status.FAILED}, {}, "a starts again"),
        ((3, 2), {}, {}, "a started again since"),
        ((3, 2), {"a": Status.RUNNING}, {}, "a started again since"),
        ((2, 2), {}, {}, ""),
    ],
)
def test_a_run_starts_again_with_what_it_needs(
    minutes: tuple[int, int], status: dict[str, Status], options: dict[str, Any], reason: str
) -> None:
    runs = chain(("a", (), ""), ("b", ("a",), "needs"))
    renewed = decide(runs, started_at(runs, *minutes, **status), **options).changes[1]
    assert renewed.action is (Action.RERUN if reason else Action.NO_OP)
    assert renewed.reasons == (reason or "succeeded, nothing changed",)


def test_what_is_renewed_beside_other_reasons() -> None:
    runs = chain(("a", (), ""), ("b", ("a",), "needs"))
    live = decide(runs, started_at(runs, 1, 2, b=Status.RUNNING), rerun=("a",)).changes[1]
    assert (live.action, live.interrupts) == (Action.REPLACE, True)
    failed = decide(runs, started_at(runs, 1, 2, b=Status.FAILED), rerun=("a",)).changes[1]
    assert (failed.action, len(failed.reasons)) == (Action.RERUN, 2)
    kept = chain(("a", (), ""), ("b", ("a",), "needs"), rerun="never")
    left = decide(kept, started_at(kept, 1, 2), rerun=("a",)).changes[1]
    assert left.reasons == ("a starts again, but `rerun: never` keeps what ended",)
    first = decide(runs, started_at(runs, 1, 2)[1:]).changes[1]
    assert first.reasons == ("a starts",)
    failed_need = chain(("a", (), ""), ("b", ("a",), "needs"), rerun="on_change")
    waits = decide(failed_need, started_at(failed_need, 3, 2, a=Status.FAILED)).changes[1]
    assert waits.action is Action.NO_OP, "it could not start anyway"


@pytest.mark.parametrize(
    ("keep", "status", "mode", "action", "words"),
    [
        ("", Status.SUCCEEDED, "normal", Action.DESTROY, "no longer in the matrix of a; its object and its line in"),
        ("", Status.RUNNING, "normal", Action.DESTROY, "no longer in the matrix of a"),
        ("finished", Status.SUCCEEDED, "normal", Action.NO_OP, "`keep: finished` leaves its record and its object"),
        ("finished", Status.FAILED, "normal", Action.NO_OP, "`keep: finished` leaves its record and its object"),
        ("finished", Status.RUNNING, "normal", Action.DESTROY, "no longer in the matrix of a"),
        ("finished", Status.SUCCEEDED, "destroy", Action.DESTROY, "destroy was asked for"),
    ],
)
def test_a_cell_that_left_the_matrix(keep: str, status: Status, mode: str, action: Action, words: str) -> None:
    old, new = (desired(f"a[day={n}]", settings=Settings(keep=keep)) for n in (1, 2))
    record = recorded(old, status)
    decided = decide([new], [record], [seen(record, status)], mode=mode)
    change = next(c for c in decided.changes if c.address == "a[day=1]")
    assert (change.action, change.interrupts) == (action, status is Status.RUNNING)
    assert change.reasons[0].startswith(words) or change.reasons[0].endswith(words)
    kept = [d.message for d in decided.diagnostics if "keep: finished" in d.message]
    assert kept == (["1 cell left the matrix and stays (`keep: finished`)"] if action is Action.NO_OP else [])
    again = decide(list(desired_runs(as_plan(decided))), [record], [seen(record, status)], mode=mode)
    assert action is Action.DESTROY or [c.action for c in again.changes if c.before] == [Action.NO_OP]
    gone = decide([], [record], [seen(record, status)])
    assert gone.changes[0].action is Action.DESTROY, "the run itself is no longer in the spec"


def test_another_delay_between_tries_counts_for_what_is_live() -> None:
    before, after = (desired(settings=Settings(retry_delay=Retry(2, seconds))) for seconds in (5.0, 30.0))
    live = only(decide([after], [recorded(before, Status.RUNNING)]))
    assert (live.action, live.reasons) == (Action.UPDATE, ("retry_delay changed",))
    assert only(decide([after], [recorded(before)])).action is Action.NO_OP


def test_a_forced_rerun_of_a_live_run_replaces_it() -> None:
    wanted = desired()
    change = only(decide([wanted], [recorded(wanted, Status.RUNNING)], rerun=("a",)))
    assert (change.action, change.interrupts, change.reasons) == (Action.REPLACE, True, ("requested by --rerun",))


@pytest.mark.parametrize(
    ("protect", "status", "left_out"),
    [("active", Status.RUNNING, True), ("active", Status.SUCCEEDED, False), ("always", Status.SUCCEEDED, True)],
)
def test_protected_runs_are_left_out(protect: str, status: Status, left_out: bool) -> None:
    wanted = desired(colour="blue", settings=Settings(protect=protect))
    before = recorded(desired(colour="red", settings=Settings(protect=protect)), status)
    assert bool(only(decide([wanted], [before])).skipped) is left_out
    assert bool(only(decide([], [before])).skipped) is left_out
    assert not only(decide([wanted], [before], allow_interrupt=("a",))).skipped


def test_after_finish_interrupts_nothing() -> None:
    settings = Settings(replace="after_finish", protect="active")
    wanted = desired(colour="blue", settings=settings)
    change = only(decide([wanted], [recorded(desired(colour="red", settings=settings), Status.RUNNING)]))
    assert (change.action, change.interrupts, change.skipped) == (Action.REPLACE, False, "")


def test_a_move_keeps_the_run_and_its_identity() -> None:
    record = recorded(desired("old", colour="red"), Status.RUNNING)
    decided = decide([desired("new", colour="red")], [record], moved=(("old", "new"),))
    change = only(decided)
    assert (change.action, change.moved_from, change.run_id) == (Action.NO_OP, "old", record.run_id)


def test_runs_of_one_name_on_one_engine_are_told_of() -> None:
    def starts(address: str, provider: str, name: str, action: Action = Action.CREATE, **metadata: str) -> Change:
        after = {"Job": {"metadata": {**metadata, "name": name}}} if metadata else {"Container": {"Name": name}}
        return Change(address, provider, "kubernetes" if metadata else "docker", action, (), before=None, after=after)

    found = name_collisions(
        [
            starts("a", "docker", "one"),
            starts("b", "docker", "one"),
            starts("c", "other", "one"),
            starts("d", "k", "one", namespace="x"),
            starts("e", "k", "one", namespace="y"),
            starts("f", "k", "two", Action.NO_OP, namespace="x"),
            starts("g", "k", "two", Action.NO_OP, namespace="x"),
        ],
        ManifestsByType(),
    )
    assert [(d.severity, d.message) for d in found] == [
        ("warning", "2 runs have the name one: a, b; all but one of them will get a number")
    ]


def test_a_rename_is_offered_as_a_move() -> None:
    record = recorded(desired("old", colour="red"))
    decided = decide([desired("new", colour="red")], [record])
    assert sorted(c.action for c in decided.changes) == [Action.CREATE, Action.DESTROY]
    [remark] = decided.diagnostics
    assert "moved: [{from: old, to: new}]" in remark.hint


def test_an_address_that_was_destroyed_goes_on_counting_attempts() -> None:
    situation = Situation(LINEAGE, [desired()], {}, {"box": Boxes()}, attempts={"a": 4})
    [change] = make_changes(situation).changes
    assert (change.action, change.attempt) == (Action.CREATE, 5)


def test_another_provider_type_replaces() -> None:
    change = only(decide([desired(type="crate")], [recorded(desired(), Status.SUCCEEDED)]))
    assert change.action == Action.REPLACE
    assert change.reasons == ("provider changed from box to crate",)


def test_runs_come_after_what_they_need_then_in_the_order_of_the_spec() -> None:
    wanted = [desired("c", settings=Settings(needs=("a",))), desired("b"), desired("a")]
    assert [c.address for c in decide(wanted).changes] == ["b", "a", "c"]


def test_a_cycle_is_an_error_that_shows_it() -> None:
    wanted = [desired("a", settings=Settings(needs=("b",))), desired("b", settings=Settings(needs=("a",)))]
    with pytest.raises(InvalidInput, match="a -> b -> a"):
        decide(wanted)


def test_targets_bring_along_what_they_need() -> None:
    wanted = [desired("a"), desired("b", settings=Settings(needs=("a",))), desired("c")]
    assert [c.address for c in decide(wanted, target=("b",)).changes] == ["a", "b"]
    assert [c.address for c in decide(wanted, exclude=("a", "b")).changes] == ["c"]


def test_an_option_that_names_no_run_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(InvalidInput, match='--target: no run is called extrct; did you mean "extract"'):
        decide([desired("extract")], target=("extrct",))


def as_plan(decided: Decided) -> Plan:
    return Plan("p", "", LINEAGE, 0, "spec.yaml", "", decided.changes)


@pytest.mark.parametrize("status", [Status.RUNNING, Status.SUCCEEDED, Status.FAILED])
@pytest.mark.parametrize("box", [{"size": 1}, {"size": 2}, {"size": 1, "colour": "blue"}])
def test_a_saved_plan_planned_again_is_the_same_plan(status: Status, box: dict[str, Any]) -> None:
    record = recorded(desired(size=1), status)
    reviewed = as_plan(decide([desired(**box), desired("new")], [record]))
    again = decide(list(desired_runs(reviewed)), [record])
    assert not deviations(reviewed.changes, {c.address: c for c in again.changes})
    assert [c.after for c in again.changes] == [c.after for c in reviewed.changes]


def test_a_run_that_ended_since_the_review_makes_its_replacement_stale() -> None:
    record = recorded(desired(colour="red"), Status.RUNNING)
    reviewed = as_plan(decide([desired(colour="blue")], [record]))
    ended = [seen(record, Status.SUCCEEDED, exit_code=0)]
    now = {c.address: c for c in decide(list(desired_runs(reviewed)), [record], ended).changes}
    [(was, is_now)] = deviations(reviewed.changes, now)
    assert was.interrupts and is_now is not None and not is_now.interrupts
    assert not deviations(reviewed.changes, now, done={"a"})


def test_runs_that_the_plan_leaves_alone_may_move_on() -> None:
    record = recorded(desired("other"), Status.RUNNING)
    reviewed = as_plan(decide([desired("other"), desired("new")], [record]))
    now = decide(list(desired_runs(reviewed)), [record], [seen(record, Status.FAILED, exit_code=1)])
    assert not deviations(reviewed.changes, {c.address: c for c in now.changes})


def test_an_unresolved_secret_is_not_seen_to_differ() -> None:
    known = desired(token="(sensitive env:T 3f9a1c2b7d405e11)")
    unknown = desired(token="(sensitive env:T unresolved)")
    other = desired(token="(sensitive env:T 0000000000000000)")
    record = recorded(known, Status.RUNNING)
    assert only(decide([unknown], [record])).action == Action.NO_OP
    assert only(decide([other], [record])).action == Action.REPLACE


@pytest.mark.parametrize(
    ("replace_by", "status", "present", "mode", "words"),
    [
        ("start_first", Status.FAILED, False, "normal", "it is stopped once attempt 3 has started"),
        ("stop_first", Status.FAILED, False, "normal", "it is stopped before attempt 3 starts"),
        ("start_first", Status.RUNNING, True, "normal", "it is stopped"),
        ("start_first", Status.RUNNING, True, "destroy", "it is stopped"),
        ("start_first", Status.FAILED, False, "destroy", "it is stopped"),
        ("start_first", Status.FAILED, False, "never", "it goes on, because attempt 2 has not started"),
    ],
)
def test_what_becomes_of_a_replaced_attempt_that_still_runs_is_told(
    replace_by: str, status: Status, present: bool, mode: str, words: str
) -> None:
    settings = Settings(replace=replace_by, rerun="never" if mode == "never" else "on_failure")
    wanted = desired(settings=settings)
    left, newest = recorded(wanted, Status.RUNNING), recorded(wanted, status, attempt=2, present=present)
    options = {} if mode != "destroy" else {"mode": "destroy"}
    decided = decide([wanted], [newest], leftovers=[left], **options)
    [told] = decided.diagnostics
    assert (told.subject, told.severity) == ("a", "warning")
    assert told.message == f"attempt 1, which was to be replaced, is recorded as running; {words}"
    ended = recorded(wanted, Status.SUCCEEDED)
    assert not decide([wanted], [newest], leftovers=[ended], **options).diagnostics
