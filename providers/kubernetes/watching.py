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
_EVENTS_AFTER, _EVENTS_EVERY, _EVENTS_SLOWEST = 3.0, 5.0, 60.0


@dataclass
class _Run:
    """One followed run: its record and what was seen of it."""

    record: Recorded
    job: Any = None
    pods: dict[str, Any] = field(default_factory=dict)
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
    pod_news: dict[str, int],
) -> Iterator[protocol.News]:
    """Yield the present state of each record, then every change; None when nothing is new, as ``Provider.watch`` says.

    Args:
        pod_news: run id -> how often something was heard of its pods, for those who read their output.
    """
    groups = observing.by_namespace(records, default)
    feed = Feed(api, f"{LINEAGE}={lineage}")
    views = {name: _View(api, name, some, cluster, pod_news) for name, some in groups.items()}
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
        self, api: Api, namespace: str, records: Iterable[Recorded], cluster: str, pod_news: dict[str, int]
    ) -> None:
        self._api = api.impatient()
        self._namespace = namespace
        self._cluster = cluster
        self._pod_news = pod_news
        self._runs = {record.run_id: _Run(record, silent_since=time.monotonic()) for record in records}
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
        run.job = job
        run.deleted = False
        uid = job["metadata"]["uid"]
        self._by_uid[uid] = run.record.run_id
        run.pods.update(self._orphans.pop(uid, {}))
        self._dirty.add(run.record.run_id)

    def _take_pods(self, news: News) -> None:
        if news.type == "LIST":
            there = {pod["metadata"]["uid"] for pod in news.items}
            for known in self._runs.values():  # forget pods that went away unseen, except those whose end is known
                main = main_container(known.job) if known.job else ""
                known.pods = {uid: pod for uid, pod in known.pods.items() if uid in there or terminated(pod, main)}
        for pod in news.items:
            uid = owner(pod)
            run = self._runs.get(self._by_uid.get(uid) or label(pod, RUN_ID))
            if run is None:
                continue
            pods = run.pods if run.job is not None else self._orphans.setdefault(uid, {})
            if news.type == "DELETED" and not (run.job and terminated(pod, main_container(run.job))):
                pods.pop(pod["metadata"]["uid"], None)
            else:
                pods[pod["metadata"]["uid"]] = pod
            while len(pods) > _PODS_KEPT:  # a Job may have very many retries
                del pods[min(pods, key=lambda uid: pods[uid]["metadata"].get("creationTimestamp") or "")]
            self._dirty.add(run.record.run_id)
            self._pod_news[run.record.run_id] = self._pod_news.get(run.record.run_id, 0) + 1

    def changes(self, *, first: bool = False) -> Iterator[Observed]:
        """Yield what is new, each fact once; what depends on a request that fails is yielded later."""
        try:
            self._ask_whether_gone()
            self._fetch_events()
            gone = [
                run for run_id in self._dirty if (run := self._runs.get(run_id)) and run.deleted and not _final(run)
            ]
            ends = observing.ended_by_events(self._api, self._namespace, [run.record for run in gone])
        except EngineUnreachable:
            return
        now = time.monotonic()
        settling = {run_id for run_id, run in self._runs.items() if run.ended_at is not None}
        due, self._dirty = self._dirty | settling, set()
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
            there = observing.same_job(self._api, run.job["metadata"] if run.job else meta) if _known(run) else None
            run.unlabelled = there is not None
            run.deleted = there is None
            if there is not None:
                self._learn(run, there)
            self._dirty.add(run.record.run_id)

    def _look(self, run: _Run, ends: Mapping[str, Observed], now: float) -> Observed | None:
        """Return the run as it is, or None while the end of its pods is not known yet."""
        record = run.record
        if run.job is None or (run.deleted and not _final(run)):
            return observing.absent(record, ends.get(record.run_id))
        seen = self._seen(run)
        if seen.status is None or seen.status.live or seen.exit_code is not None:
            return seen
        if run.ended_at is None:
            run.ended_at = now
        main = main_container(run.job)
        expects_code = not run.pods or any(not terminated(pod, main) for pod in run.pods.values())
        if now < run.ended_at + _SETTLE and expects_code:
            return None
        try:
            run.pods.update({pod["metadata"]["uid"]: pod for pod in pods_of(self._api, run.job)})
        except EngineUnreachable:
            return None
        return self._seen(run)

    def _seen(self, run: _Run) -> Observed:
        events = [e for uid in (run.job["metadata"]["uid"], *run.pods) for e in self._events.get(uid, [])]
        seen = observed(run.job, list(run.pods.values()), self._cluster, events)
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
            self._pod_news.pop(run_id, None)
            for uid in own:
                del self._by_uid[uid]
            for uid in (*own, *run.pods):
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
        wanted = {uid for run in waiting for uid in (run.job["metadata"]["uid"], *run.pods)}
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
    if run.job is None or told is None or told.status is None or now - run.silent_since < _EVENTS_AFTER:
        return False
    return told.status.live and not told.started_at and (not told.reason or told.reason in IMAGE_PULL)


def _known(run: _Run) -> bool:
    """Return whether the Job of a run has been seen, now or when it was recorded."""
    return run.job is not None or bool(run.record.handle.get("uid"))


def _final(run: _Run) -> bool:
    return run.job is not None and has_ended(run.job)


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
