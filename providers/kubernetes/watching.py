"""Following any number of Jobs with two streams per namespace; a lost stream leads to a new list, never to a status."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flowplan.providers import protocol
from flowplan.providers.kubernetes import comparing, observing
from flowplan.providers.kubernetes.diagnosis import IMAGE_PULL
from flowplan.providers.kubernetes.jobs import core_path, jobs_path, pods_of
from flowplan.providers.kubernetes.reading import (
    LINEAGE,
    RUN_ID,
    has_ended,
    label,
    main_container,
    observed,
    owner,
    terminated,
)
from flowplan.providers.kubernetes.requests import Api
from flowplan.providers.kubernetes.streams import Feed, News
from flowplan.schemas.errors import EngineUnreachable
from flowplan.schemas.runs import Observed, Recorded

_TICK = 0.9
"""Seconds between two signs of life, whatever happens."""

_SETTLE = 1.5
"""Seconds that a Job's end may be ahead of its pods' on the other stream."""

_UNLABELLED_EVERY = 2.0
"""Seconds between looks at Jobs that lost our labels: no stream tells about them."""

_PODS_KEPT = 20
_HEARD_KEPT = 100
"""Runs that nobody follows, and of which the newest are remembered all the same."""

_EVENTS_AFTER, _EVENTS_EVERY, _EVENTS_SLOWEST = 3.0, 5.0, 60.0


@dataclass
class Heard:
    """What the streams said of a run, for all watches of it: a pod whose Job has no time to live is there for a moment.

    Attributes:
        pods: by uid. news: how often something was heard of them, for those who read their output.
    """

    job: Any = None
    pods: dict[str, Any] = field(default_factory=dict)
    news: int = 0


@dataclass
class _Run:
    """One followed run: its record and what was seen of it."""

    record: Recorded
    heard: Heard
    told: Observed | None = None
    silent_since: float = 0.0
    ended_at: float | None = None
    deleted: bool = False
    unlabelled: bool = False


def watch(
    api: Api,
    records: Sequence[Recorded],
    lineage: str,
    default: str,
    cluster: str,
    stop: threading.Event,
    heard: dict[str, Heard],
) -> Iterator[protocol.News]:
    """Yield the present state of each record, then every change; None when nothing is new, as ``Provider.watch`` says.

    Args:
        heard: what this and other watches were told, by run id.
    """
    groups = observing.by_namespace(records, default)
    feed = Feed(api, f"{LINEAGE}={lineage}")
    views = {name: _View(api, name, some, cluster, heard) for name, some in groups.items()}
    try:
        for name, view in views.items():
            for news in feed.look(name, jobs_path(name), core_path(name, "pods")):
                view.take(news)
            yield from view.changes(first=True)
        feed.start()
        while any(view.open for view in views.values()) and not stop.is_set():
            told = False
            for news in feed.wait(_TICK, stop):
                views[news.namespace].take(news)
            for view in views.values():
                for seen in view.changes():
                    told = True
                    yield seen
            if not told:
                yield feed.trouble()
    finally:
        feed.close()


class _View:
    """What is known of the followed runs of one namespace; memory is that of the runs that have not ended."""

    def __init__(
        self, api: Api, namespace: str, records: Iterable[Recorded], cluster: str, heard: dict[str, Heard]
    ) -> None:
        self._api = api.impatient()
        self._namespace = namespace
        self._cluster = cluster
        self._heard = heard
        now = time.monotonic()
        self._runs = {r.run_id: _Run(r, heard.setdefault(r.run_id, Heard()), silent_since=now) for r in records}
        self._by_uid: dict[str, str] = {}
        self._orphans: dict[str, dict[str, Any]] = {}
        self._dirty: set[str] = set(self._runs)
        self._events: dict[str, list[Any]] = {}
        self._events_due = time.monotonic() + _EVENTS_AFTER
        self._events_pause = _EVENTS_EVERY
        self._unlabelled_due = 0.0
        for run_id, run in self._runs.items():
            if uid := run.record.handle.get("uid"):
                self._by_uid[str(uid)] = run_id

    @property
    def open(self) -> bool:
        """Return whether a run has not ended."""
        return bool(self._runs)

    def take(self, news: News) -> None:
        """Take in what a stream said."""
        if news.kind == "jobs":
            for job in news.items if news.type != "LIST" else ():
                if (run := self._runs.get(self._run_of(job))) is not None:
                    self._learn(run, job)
                    run.deleted = news.type == "DELETED"
                else:
                    self._hear(label(job, RUN_ID)).job = job
            if news.type == "LIST":
                self._listed({self._run_of(job): job for job in news.items})
        else:
            self._take_pods(news)

    def _run_of(self, job: Any) -> str:
        return self._by_uid.get(job["metadata"]["uid"]) or label(job, RUN_ID)

    def _listed(self, jobs: Mapping[str, Any]) -> None:
        for run_id, run in self._runs.items():
            if run_id in jobs:
                self._learn(run, jobs[run_id])
            else:
                run.deleted = True
                self._dirty.add(run_id)

    def _learn(self, run: _Run, job: Any) -> None:
        run.heard.job = job
        run.deleted = False
        uid = job["metadata"]["uid"]
        self._by_uid[uid] = run.record.run_id
        run.heard.pods.update(self._orphans.pop(uid, {}))
        self._dirty.add(run.record.run_id)

    def _take_pods(self, news: News) -> None:
        if news.type == "LIST":
            there = {pod["metadata"]["uid"] for pod in news.items}
            for known in self._runs.values():  # forget pods that went away unseen, except those whose end is known
                main = main_container(known.heard.job) if known.heard.job else ""
                kept = [(u, pod) for u, pod in list(known.heard.pods.items()) if u in there or terminated(pod, main)]
                known.heard.pods = dict(kept)
        for pod in news.items:
            uid = owner(pod)
            run = self._runs.get(self._by_uid.get(uid) or label(pod, RUN_ID))
            if run is None:
                if news.type != "LIST":
                    self._hear(label(pod, RUN_ID)).pods[pod["metadata"]["uid"]] = pod
                continue
            pods = run.heard.pods if run.heard.job is not None else self._orphans.setdefault(uid, {})
            if news.type == "DELETED" and not (run.heard.job and terminated(pod, main_container(run.heard.job))):
                pods.pop(pod["metadata"]["uid"], None)
            else:
                pods[pod["metadata"]["uid"]] = pod
            while len(pods) > _PODS_KEPT:  # a Job may have very many retries
                del pods[min(pods, key=lambda uid: pods[uid]["metadata"].get("creationTimestamp") or "")]
            self._dirty.add(run.record.run_id)
            run.heard.news += 1

    def _hear(self, run_id: str) -> Heard:
        """Return what was heard of a run that is not followed yet: one that is short may end before the next watch has begun."""
        while len(self._heard) > len(self._runs) + _HEARD_KEPT:
            self._heard.pop(next(iter(self._heard)), None)
        return self._heard.setdefault(run_id, Heard())

    def changes(self, *, first: bool = False) -> Iterator[Observed]:
        """Yield what is new, each fact once; what depends on a request that fails is yielded later."""
        try:
            self._ask_whether_gone()
            self._fetch_events()
            settling = {run_id for run_id, run in self._runs.items() if run.ended_at is not None}
            due = self._dirty | settling
            gone = [run for run_id in due if (run := self._runs.get(run_id)) and run.deleted and not _final(run)]
            ends = observing.ended_by_events(self._api, self._namespace, [run.record for run in gone])
        except EngineUnreachable:
            return
        now, self._dirty = time.monotonic(), set()
        for run_id in sorted(due & self._runs.keys()):
            seen = self._look(self._runs[run_id], ends, now)
            if seen is not None:
                yield from self._tell(self._runs[run_id], seen, now, first=first)

    def _ask_whether_gone(self) -> None:
        """Look for Jobs that left the stream by name and uid: they may only have lost their labels."""
        now = time.monotonic()
        left = [run for run_id in self._dirty if (run := self._runs.get(run_id)) and run.deleted and not _final(run)]
        if now >= self._unlabelled_due and (known := [run for run in self._runs.values() if run.unlabelled]):
            self._unlabelled_due = now + _UNLABELLED_EVERY
            left += known
        for run in left:
            meta = {"namespace": self._namespace, "name": run.record.name, **run.record.handle}
            meta = run.heard.job["metadata"] if run.heard.job else meta
            there = observing.same_job(self._api, meta) if _known(run) else None
            run.unlabelled = there is not None
            run.deleted = there is None
            if there is not None:
                self._learn(run, there)
            self._dirty.add(run.record.run_id)

    def _look(self, run: _Run, ends: Mapping[str, Observed], now: float) -> Observed | None:
        """Return the run as it is, or None while the end of its pods is not known yet."""
        record = run.record
        if run.heard.job is None or (run.deleted and not _final(run)):
            if record.run_id in ends and self._settles(run, now):
                return None
            return observing.absent(record, ends.get(record.run_id))
        seen = self._seen(run)
        if seen.status is None or seen.status.live or seen.exit_code is not None:
            return seen
        main = main_container(run.heard.job)
        known = list(run.heard.pods.values())
        expects_code = not known or any(not terminated(pod, main) for pod in known)
        if self._settles(run, now) and expects_code:
            return None
        try:
            run.heard.pods.update({pod["metadata"]["uid"]: pod for pod in pods_of(self._api, run.heard.job)})
        except EngineUnreachable:
            return None
        return self._seen(run)

    def _settles(self, run: _Run, now: float) -> bool:
        """Return whether a stream, or a watch before this one, may still tell more of a run that has ended."""
        if run.ended_at is None:
            run.ended_at = now
        return now < run.ended_at + _SETTLE

    def _seen(self, run: _Run) -> Observed:
        events = [e for uid in (run.heard.job["metadata"]["uid"], *run.heard.pods) for e in self._events.get(uid, [])]
        seen = observed(run.heard.job, list(run.heard.pods.values()), self._cluster, events)
        return comparing.as_recorded(seen, run.record)

    def _tell(self, run: _Run, seen: Observed, now: float, *, first: bool) -> Iterator[Observed]:
        steady = _steady(run.told, seen)
        if first or run.told is None or _key(steady) != _key(run.told):
            run.told = steady
            run.silent_since = now
            yield steady
        if seen.over:
            run_id = run.record.run_id
            own = [uid for uid, known in self._by_uid.items() if known == run_id]
            del self._runs[run_id]
            self._heard.pop(run_id, None)
            for uid in own:
                del self._by_uid[uid]
            for uid in (*own, *run.heard.pods):
                self._events.pop(uid, None)

    def _fetch_events(self) -> None:
        """Fetch causes that only events tell: one list for all runs that wait without a reason, ever more rarely."""
        now = time.monotonic()
        if now < self._events_due:
            return
        waiting = [run for run in self._runs.values() if _waits_silently(run, now)]
        self._events_due = now + (self._events_pause if waiting else _EVENTS_EVERY)
        if not waiting:
            return
        wanted = {uid for run in waiting for uid in (run.heard.job["metadata"]["uid"], *run.heard.pods)}
        found: dict[str, list[Any]] = {}
        for event in observing.events_of(self._api, self._namespace, "type=Warning"):
            uid = str((event.get("involvedObject") or {}).get("uid") or "")
            if uid in wanted:
                found.setdefault(uid, []).append(event)
        self._events.update({uid: events[-_PODS_KEPT:] for uid, events in found.items()})
        self._dirty |= {run.record.run_id for run in waiting}
        self._events_pause = _EVENTS_EVERY if found else min(self._events_pause * 2, _EVENTS_SLOWEST)


def _waits_silently(run: _Run, now: float) -> bool:
    told = run.told
    if run.heard.job is None or told is None or told.status is None or now - run.silent_since < _EVENTS_AFTER:
        return False
    return told.status.live and not told.started_at and (not told.reason or told.reason in IMAGE_PULL)


def _known(run: _Run) -> bool:
    """Return whether the Job of a run has been seen, now or when it was recorded."""
    return run.heard.job is not None or bool(run.record.handle.get("uid"))


def _final(run: _Run) -> bool:
    return run.heard.job is not None and has_ended(run.heard.job)


def _key(seen: Observed) -> tuple[object, ...]:
    return (seen.exists, seen.status, seen.reason, seen.message, seen.exit_code, seen.attempts, seen.started_at)


def _steady(told: Observed | None, seen: Observed) -> Observed:
    """Return ``seen`` with the cause of a failed pull, which the kubelet alternates with its back-off."""
    if told is None or not {told.reason, seen.reason} <= IMAGE_PULL or told.status is not seen.status:
        return seen
    if seen.reason == "ErrImagePull":
        return replace(seen, reason=told.reason, message=told.message)
    if told.reason == "ErrImagePull":
        return replace(seen, message=told.message)
    return replace(seen, message=told.message if len(told.message) >= len(seen.message) else seen.message)
