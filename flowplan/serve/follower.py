"""Carry accepted plans on without a terminal: the loop of an apply, over all plans of one state, until it is told to end.

A round takes every step that has not begun and every run that is live, and carries them on as one plan. It ends when
nothing is left of it, when another plan was accepted, or when a secret that was missing is there; then the next one begins.
Nothing is planned here: a step is carried out as it was approved, or not at all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from flowplan.apply import Beside, carry_out
from flowplan.clock import SteadyClock
from flowplan.given import Given
from flowplan.notifying import Notifier
from flowplan.outcome import Options
from flowplan.output import Output, Sink
from flowplan.planner.compare.replay import deviations
from flowplan.planner.conduct import words
from flowplan.planner.conduct.words import Answered, Fact, Trouble, Well
from flowplan.planning import Planned, nothing_planned, plan_again
from flowplan.project import Project, Request, unavailable
from flowplan.schemas.accepted import Held, StepPhase
from flowplan.schemas.errors import FlowplanError, ProviderError, StateError, StateLocked
from flowplan.schemas.plan_documents import sealed_plan
from flowplan.schemas.plans import Change, Plan
from flowplan.schemas.runs import Status
from flowplan.schemas.secrets import tokens_in
from flowplan.schemas.text import by_run
from flowplan.serve.health import Health
from flowplan.state.acceptance import dropped, hold, open_plans, plan_text, unbegun
from flowplan.state.location import FOLLOW, Location, Lock
from flowplan.state.store import Store

LOOK = 1.0
"""Seconds between looks for plans that were accepted, while there is nothing else to do or runs are followed."""
LOOK_AT_SECRETS = 15.0
"""Seconds between looks for secrets that were missing."""
SHOWN_HELD = 20
"""Runs that are named of those that wait for the same reason."""
SHORTEST, LONGEST = 1.0, 60.0
"""Seconds between rounds that came to nothing; they double."""
TAKE_OVER = 2.0
"""Seconds between tries of a standby to take over."""


class Step(NamedTuple):
    """A step to carry on: the change as it was approved, and the digest of its plan.

    Attributes:
        intended: it was begun by somebody who ended before it was there, and is to be finished.
    """

    digest: str
    change: Change
    intended: bool


@dataclass(slots=True)
class Round:
    """What one round is about.

    Attributes:
        open: the plans that had open steps when it began, see ``open_plans``. plans: those that have to do with it, by
            digest, newest first.
        steps: by address. held: address -> digest of the plan, and why its step waits for something that only people can mend.
        told: addresses of which the state says such a reason already.
        live: addresses of runs to follow. refused: providers whose engines may not be used.
    """

    open: Mapping[str, str]
    plans: dict[str, Plan] = field(default_factory=dict)
    steps: dict[str, Step] = field(default_factory=dict)
    held: dict[str, tuple[str, str]] = field(default_factory=dict)
    told: frozenset[str] = frozenset()
    live: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)


class Follower:
    """The follower of one state.

    Args:
        locate: returns the location of the state, each time a new one, for a thread of its own.
        health: is told of its role and problems.
        stop: ends it; runs go on.
    """

    def __init__(
        self, locate: Callable[[], Location], health: Health, stop: threading.Event, *, parallelism: int = 10
    ) -> None:
        self._locate, self._health, self._stop = locate, health, stop
        self._options = Options(parallelism=parallelism, patient=True, stream=False)
        self._output = Output()
        self._held: dict[str, str] = {}
        self._waiting: dict[str, str] = {}
        self._pause = SHORTEST
        self._clock, self._began = SteadyClock(), dict[str, dict[str, datetime]]()

    def _request(self) -> Request:
        return Request(state=self._locate(), preflight=False)

    def run(self) -> None:
        """Stand by until no other follower works for this state; then carry on what is accepted, until told to end."""
        leader = self._locate().lock("serve", FOLLOW)
        notifier: Notifier | None = None
        try:
            while not self._stop.is_set():
                self._health.beat()
                leads = self._leads(leader)
                if notifier and not leads:
                    notifier.close()
                    notifier = None
                if leads:
                    notifier = notifier or self._notifying()
                    self._turn()
        finally:
            if notifier:
                notifier.close()
            self._health.become("stopping")
            leader.release()

    def _leads(self, leader: Lock) -> bool:
        """Return whether this is the follower that works; wait a little where it is not."""
        try:
            if leader.held:
                leader.check()
            else:
                leader.acquire()
        except StateLocked as error:
            leader.release()
            if self._health.become("standby"):
                self._output.note(f"standby: {error.message}")
            self._stop.wait(TAKE_OVER)
            return False
        except StateError as error:
            self._trouble("state", error)
            self._stop.wait(TAKE_OVER)
            return False
        if self._health.become("active"):
            self._output.note(f"following {self._locate()}")
        return True

    def _notifying(self) -> Notifier | None:
        """Begin to tell people what happens; None while the state is away."""
        notifier = Notifier(lambda: self._locate().open(), self._output.note)
        try:
            notifier.start()
        except FlowplanError as error:
            self._trouble("state", error)
            return None
        return notifier

    def _turn(self) -> None:
        """Carry out a round, or wait for something to do; what goes wrong is told once, and tried again."""
        try:
            worked = self._round()
        except StateLocked:  # another flowplan is starting things; it does not take long
            self._health.beat()
            self._stop.wait(SHORTEST)
            return
        except FlowplanError as error:
            self._trouble("state" if isinstance(error, StateError) else "plans", error)
            self._stop.wait(self._pause)
            self._pause = min(2 * self._pause, LONGEST)
            return
        self._mended("state")
        self._mended("plans")
        if worked:
            self._pause = SHORTEST
        else:
            self._stop.wait(LOOK)

    def _trouble(self, what: str, error: FlowplanError) -> None:
        if self._health.problem(what, error.message):
            self._output.note(f"warning: {error}; tried again until it is well")

    def _mended(self, what: str) -> None:
        if self._health.well(what):
            self._output.note(f"{what}: well again")

    # -- one round ----------------------------------------------------------------------------------------------------

    def _round(self) -> bool:
        """Carry on everything that is open; return False when there is nothing to do."""
        with closing(self._locate().open()) as store:
            about = self._gather(store)
            if not about.steps:
                self._tell_held(store, about)
                if about.live:
                    with Project.of_state(store) as project:
                        self._carry_out(about, Planned(nothing_planned(store), ()), project)
                return bool(about.live)
        approved = _combined(about)
        with Project.of_plan(self._request(), approved) as project:
            asked = self._usable(project, about, approved)
            self._tell_held(project.store, about)
            planned = plan_again(project, self._request()._replace(asked=asked), approved)
            left = _still_approved(project.store, about, planned, asked, self._output)
            self._carry_out(about, Planned(replace(approved, changes=tuple(left)), planned.observed), project)
        return True

    def _gather(self, store: Store) -> Round:
        """Read what is open; steps whose secrets are not there are held back, saying so."""
        records = store.records()
        about = Round(open_plans(store))
        open_steps = [(digest, step) for digest, step in unbegun(store) if step.phase is StepPhase.WAITING]
        waiting = {(digest, step.address) for digest, step in open_steps}
        about.told = frozenset(step.address for _, step in open_steps if step.why)
        intents = {(r.plan_digest, r.address) for r in records.values() if r.status is Status.CREATING}
        order = {digest: place for place, digest in enumerate(about.open)}
        for digest in sorted({d for d, _ in waiting | intents if d}, key=lambda d: order.get(d, -1), reverse=True):
            try:
                text = plan_text(store, digest)
                if not text:
                    continue  # it was applied by a flowplan that kept no plans
                plan = sealed_plan(text, f"the accepted plan {digest[:19]}", store.lineage, store.key)
                missing = unavailable(plan, Given(), store)
            except FlowplanError as error:  # a plan that is damaged or was altered; the others go on
                about.held |= {a: (digest, error.message) for d, a in sorted(waiting) if d == digest}
                continue
            newest = next(iter(about.plans.values()), plan)
            about.plans[digest] = plan
            for change in plan.changes:
                record = records.get(change.address)
                same = record is not None and record.run_id == change.run_id
                intended = same and (digest, change.address) in intents
                if not ((digest, change.address) in waiting or intended) or change.address in about.steps:
                    continue
                needed = tokens_in([change.after, plan.providers.get(change.provider)])
                why = _conflict(plan, newest) or "; ".join(sorted({missing[t] for t in needed if t in missing}))
                if why:
                    about.held[change.address] = digest, why
                else:
                    about.steps[change.address] = Step(digest, change, intended)
        about.live = [address for address, record in records.items() if record.status.live]
        self._tell_dropped(store, about)
        return about

    def _tell_dropped(self, store: Store, about: Round) -> None:
        """Tell what the last round was about, and was cancelled or superseded before it began."""
        gone: dict[str, list[str]] = {}
        for address, why in dropped(store, self._waiting).items():
            gone.setdefault(why, []).append(address)
        for why, addresses in gone.items():
            self._output.note(f"not started: {why}: {', '.join(by_run(addresses))}")
        self._waiting = {address: step.digest for address, step in about.steps.items()}
        self._waiting |= {address: digest for address, (digest, _) in about.held.items()}

    def _tell_held(self, store: Store, about: Round) -> None:
        """Record and tell what waits for people, and that a step does so no longer; each once."""
        phases: dict[str, dict[str, Held]] = {}
        for address in about.told & about.steps.keys():
            phases.setdefault(about.steps[address].digest, {})[address] = Held(StepPhase.WAITING)
        new: dict[str, list[str]] = {}
        for address, (digest, why) in about.held.items():
            if self._held.get(address) != why:
                phases.setdefault(digest, {})[address] = Held(StepPhase.WAITING, why)
                new.setdefault(why, []).append(address)
        for digest, held in phases.items():
            hold(store, digest, held)
        for why, addresses in new.items():
            for address in addresses[:SHOWN_HELD]:
                self._output.note(f"{address}: waits: {why}")
            if len(addresses) > SHOWN_HELD:
                self._output.note(
                    f"and {len(addresses) - SHOWN_HELD} more wait for the same; `flowplan status` has them all"
                )
        self._held = {address: why for address, (_, why) in about.held.items()}

    def _usable(self, project: Project, about: Round, approved: Plan) -> frozenset[str]:
        """Return the providers whose engines answer; the steps of engines that may not be used are held back."""
        records = project.store.records()
        live = [records[address] for address in about.live if address in records]
        names = sorted({step.change.provider for step in about.steps.values()} | {record.provider for record in live})

        def look(name: str) -> FlowplanError | None:
            try:
                if name in approved.targets:
                    project.engines.check_target(name, approved.targets[name], planned=True)
                for record in [record for record in live if record.provider == name][:1]:
                    project.engines.check_target(name, record.target, record.address)
                project.engines.target(name)
            except FlowplanError as error:
                return error
            return None

        with ThreadPoolExecutor(max_workers=max(len(names), 1)) as pool:
            found = dict(zip(names, pool.map(look, names), strict=True))
        for name, error in found.items():
            if error is None:
                self._well(name)
            else:
                self._silent(name, error)
            if error is not None and not (isinstance(error, ProviderError) and error.passing):
                for address in [a for a, step in about.steps.items() if step.change.provider == name]:
                    step = about.steps.pop(address)
                    about.held[address] = step.digest, error.message
                about.refused.add(name)
        return frozenset(name for name, error in found.items() if error is None)

    def _carry_out(self, about: Round, planned: Planned, project: Project) -> None:
        """Carry out the steps and follow what is live, until another round is due."""
        over = threading.Event()
        self._health.engines = frozenset(project.providers)
        watcher = threading.Thread(target=self._watch, args=(about, over), name="plans", daemon=True)
        watcher.start()
        lock = project.store.location.lock("serve")
        # All that is recorded: another flowplan may have started something since the round began, which counts for a group.
        known = [address for address, r in project.store.records().items() if r.provider not in about.refused]
        try:
            outcome = carry_out(
                planned.plan,
                project.store,
                project.engines,
                lock,
                Sink(project.output()),
                self._options,
                secrets=project.secrets,
                interrupted=over,
                beside=Beside(
                    follow=known,
                    observed=planned.observed,
                    digests={address: step.digest for address, step in about.steps.items()},
                    heard=self._hear,
                    clock=self._clock,
                    began=self._began,
                ),
            )
        finally:
            over.set()
            lock.release()
            watcher.join()
        for address, error in outcome.errors.items():
            if address in about.steps:
                held = {address: Held(StepPhase.SKIPPED, error.message)}
                hold(project.store, about.steps[address].digest, held)

    def _watch(self, about: Round, over: threading.Event) -> None:
        """End the round when another one is due."""
        looked = time.monotonic()
        while not over.wait(LOOK) and not self._stop.is_set():
            try:
                with closing(self._locate().open(read_only=True)) as store:
                    due = open_plans(store).items() - about.open.items()
            except FlowplanError as error:
                self._trouble("state", error)
                continue
            self._mended("state")
            if due:
                break
            if about.held and time.monotonic() - looked > LOOK_AT_SECRETS:
                break
        over.set()

    # -- what engines say ----------------------------------------------------------------------------------------------

    def _hear(self, facts: Sequence[Fact]) -> None:
        self._health.beat()
        for fact in facts:
            match fact:
                case Trouble(provider, error):
                    self._health.problem(provider, error.message)
                case Well(provider):
                    self._health.well(provider)
                case Answered(command, error=ProviderError(passing=True) as error):
                    self._silent(_provider_of(command), error)
                case Answered(command, error=None):
                    self._well(_provider_of(command))

    def _silent(self, provider: str, error: FlowplanError) -> None:
        if self._health.problem(provider, error.message):
            self._output.note(f"warning: provider {provider}: {error.message}; asked again until it answers")

    def _well(self, provider: str) -> None:
        if self._health.well(provider):
            self._output.note(f"provider {provider} answers again")


def _still_approved(
    store: Store, about: Round, planned: Planned, asked: Collection[str], output: Output
) -> list[Change]:
    """Return the steps as they stand now; those that would not do what was approved are given up, saying why.

    What another flowplan has begun since the round did, as the apply that is still at it, is no step of it any more.
    """
    still = {(digest, step.address) for digest, step in unbegun(store)}
    about.steps = {a: s for a, s in about.steps.items() if s.intended or (s.digest, a) in still}
    now = {change.address: change for change in planned.plan.changes}
    approved = [step.change for step in about.steps.values()]
    seen = [change for change in approved if change.provider in asked]
    begun = {address for address, step in about.steps.items() if step.intended}
    given_up: dict[str, dict[str, Held]] = {}
    for change, today in deviations(seen, now, begun):
        would = f"it would be {today.action} of attempt {today.attempt}" if today else "nothing is recorded of it"
        why = f"it is no longer what was approved: now {would}; plan and apply again"
        step = about.steps.pop(change.address)
        given_up.setdefault(step.digest, {})[change.address] = Held(StepPhase.SKIPPED, why)
        output.note(f"{change.address}: not started: {why}")
    for digest, held in given_up.items():
        hold(store, digest, held)
    left = [step.change for step in about.steps.values()]
    return [now[change.address] if change.provider in asked else change for change in left]


def _provider_of(command: words.Start | words.Update | words.Remove | words.Again) -> str:
    match command:
        case words.Remove(attempts=attempts):
            return attempts[0].provider
        case words.Again(record):
            return record.provider
        case words.Start(change) | words.Update(change):
            return change.provider


def _conflict(plan: Plan, newest: Plan) -> str:
    """Return why a plan cannot be carried on together with a newer one; "" when it can."""
    if plan.spec_path != newest.spec_path:
        return f"for the plan of {newest.spec_path}, which was approved later"
    for name, entry in plan.providers.items():
        if newest.providers.get(name, entry) != entry:
            return f"for a plan that was approved later, in which provider {name} has other settings"
    return ""


def _combined(about: Round) -> Plan:
    """Return one plan of all steps, with the providers and the secrets that they need."""
    changes = tuple(step.change for step in about.steps.values())
    plans = [about.plans[digest] for digest in dict.fromkeys(step.digest for step in about.steps.values())]
    providers = {name: entry for plan in plans for name, entry in plan.providers.items()}
    used = tokens_in([*(change.after for change in changes), providers])
    wanted = {change.provider for change in changes}
    return replace(
        plans[0],
        mode="normal",
        changes=changes,
        providers=providers,
        secrets={token: source for plan in plans for token, source in plan.secrets.items() if token in used},
        targets={name: target for plan in plans for name, target in plan.targets.items() if name in wanted},
    )
