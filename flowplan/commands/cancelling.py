"""The command that ends approved runs before their time: it drops what has not started, and stops what runs where that is asked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

from flowplan import interruption
from flowplan.commands.arguments import seconds
from flowplan.documents import unknown_address
from flowplan.outcome import Options, Outcome
from flowplan.output import Output, Sink
from flowplan.planner.compare.plan import names
from flowplan.planning import nothing_planned, observe
from flowplan.project import Project, writing
from flowplan.schemas.errors import InvalidInput, Refused
from flowplan.schemas.runs import Recorded
from flowplan.state.acceptance import drop, unbegun
from flowplan.state.holder import about_me
from flowplan.state.location import Location, Lock
from flowplan.state.store import Store


class How(NamedTuple):
    """What is cancelled, from the command line.

    Attributes:
        plan: the digest of the plan that it belongs to, or its beginning; None for any.
        stop: whether what runs is stopped as well. allow_interrupt: the runs for which ``protect`` does not count then.
    """

    plan: str | None = None
    stop: bool = False
    allow_interrupt: Sequence[str] = ()
    parallelism: int = 10
    lock_timeout: str = "0"


def cancel(state: Location, addresses: Sequence[str], how: How) -> int:
    """Drop what has been approved and has not started, of some runs or of one plan; stop what runs of them, if asked to.

    Raises:
        InvalidInput: nothing is named, or what is named neither waits nor runs.
        Refused: a run is protected, and nothing was done.
        StateLocked: another flowplan is starting things.
    """
    if not addresses and not how.plan:
        raise InvalidInput(
            "nothing is named", hint="`flowplan cancel ADDR ...`, or --plan DIGEST; `flowplan status` shows what waits"
        )
    with writing(state, "cancel") as lock:
        lock.acquire(seconds("--lock-timeout", how.lock_timeout) or 0.0)
        with closing(state.open()) as store:
            waiting, live = _meant(store, addresses, how)
            if how.stop:
                _refuse_protected(live, how)
            if gone := drop(store, waiting, "cancelled"):
                Output().note(f"Cancelled: {', '.join(gone)}")
            if not (how.stop and live):
                return 0
            with Project.of_state(store, all_secrets=True) as project:
                return _stop(project, lock, live, how).exit_code


def _stop(project: Project, lock: Lock, live: Sequence[Recorded], how: How) -> Outcome:
    """Stop runs and remove their objects, as a replacement does; those that have just ended are recorded as they did."""
    from flowplan.apply import Beside, carry_out

    observed, _ = observe(project, {record.address: record for record in live})
    me = about_me("cancel")
    stop = {record.address: f"by {me['user']} on {me['host']}" for record in live}
    with interruption.finishing() as interrupted:
        return carry_out(
            nothing_planned(project.store),
            project.store,
            project.engines,
            lock,
            Sink(project.output()),
            Options(parallelism=how.parallelism, detach=True),
            secrets=project.secrets,
            interrupted=interrupted,
            beside=Beside(follow=list(stop), observed=list(observed.values()), stop=stop),
        )


def _meant(store: Store, addresses: Sequence[str], how: How) -> tuple[list[str], list[Recorded]]:
    """Return the addresses of the steps that have not begun, and the live runs, that are meant."""
    records = store.records()
    waiting = {step.address: step.group for digest, step in unbegun(store) if how.plan is None or _is(digest, how.plan)}
    live = {
        record.address: record
        for record in records.values()
        if record.status.live and (how.plan is None or _is(record.plan_digest, how.plan))
    }
    groups = {address: record.settings.group for address, record in live.items()} if how.stop else {}
    groups |= waiting
    if how.plan and not groups:
        what = "waits or runs" if how.stop else "waits"
        raise InvalidInput(
            f"nothing of a plan {how.plan} {what}", hint="`flowplan status` shows what waits, and for which plan"
        )
    found: set[str] = set() if addresses else set(groups)
    for pattern in addresses:
        matches = {address for address, group in groups.items() if names(pattern, address, group)}
        if not matches:
            _refuse(pattern, {**{a: r.settings.group for a, r in records.items()}, **groups}, live, how)
        found |= matches
    return [a for a in waiting if a in found], [r for a, r in live.items() if how.stop and a in found]


def _refuse(pattern: str, known: dict[str, str], live: dict[str, Recorded], how: How) -> None:
    meant = {address for address, group in known.items() if names(pattern, address, group)}
    if not meant:
        raise unknown_address(pattern, known)
    if meant & live.keys() and not how.stop:
        raise InvalidInput(f"{pattern} does not wait: it has started", hint="--stop ends what runs as well")
    raise InvalidInput(f"{pattern} does not wait, and does not run", hint="`flowplan status` shows how it ended")


def _refuse_protected(live: Sequence[Recorded], how: How) -> None:
    """Refuse to stop runs that ``protect`` keeps."""
    for record in live:
        kept = record.settings.protect
        if kept and not any(names(p, record.address, record.settings.group) for p in how.allow_interrupt):
            raise Refused(
                f"protected: `protect: {kept}` and the run is {record.status}; nothing was cancelled",
                hint=f"--allow-interrupt '{record.address}' stops it",
                address=record.address,
            )


def _is(digest: str, shown: str) -> bool:
    """Return whether a digest is meant by the beginning that people are shown."""
    return digest.startswith(shown) or digest.removeprefix("sha256:").startswith(shown)
