"""The output of a run: the right container, all its pods oldest first, resumed without loss or repetition (L4, L8, E4)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowplan.providers.kubernetes.diagnosis import complete_condition, failed_condition
from flowplan.providers.kubernetes.jobs import core_path, jobs_path
from flowplan.providers.kubernetes.reading import RUN_ID, label, main_container, oldest_first, terminated
from flowplan.providers.kubernetes.requests import Api, body_lines, hang_up
from flowplan.providers.protocol import LogLine
from flowplan.schemas.errors import EngineUnreachable, ProviderError
from flowplan.schemas.runs import Recorded

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

_READ = 60.0
"""Seconds of silence after which a followed stream is opened again where it was."""

_FALLBACK_LINES = 500
_POLL, _SLOWEST = 0.2, 2.0
_LISTEN = 0.3
_LINE_LIMIT = 256 * 1024


def lines(
    api: Api, record: Recorded, namespace: str, *, follow: bool, tail: int | None, stop: threading.Event
) -> Iterator[LogLine]:
    """As ``Provider.logs``. Nothing when the Job and its pods are gone."""
    reader = _Reader(api, record, namespace, stop)
    if follow:
        yield from reader.follow(tail)
    else:
        yield from reader.so_far(tail)


@dataclass
class _Place:
    """How far one container's output was read: kubelet times are exact, but ``sinceTime`` counts whole seconds, so
    lines of the last second come again and are skipped by time and number."""

    at: str = ""
    at_this: int = 0

    def is_new(self, moment: str, again: dict[str, int]) -> bool:
        """True for a line that was not told yet; ``again`` counts the lines per time of this connection."""
        again[moment] = again.get(moment, 0) + 1
        if _order(moment) < _order(self.at) or (moment == self.at and again[moment] <= self.at_this):
            return False
        self.at_this = self.at_this + 1 if moment == self.at else 1
        self.at = moment
        return True


def _order(moment: str) -> tuple[str, str]:
    """RFC 3339 with any number of decimals, comparable: the kubelet drops trailing zeros."""
    whole, _, fraction = moment.removesuffix("Z").partition(".")
    return whole, fraction.ljust(9, "0")


class _Reader:
    def __init__(self, api: Api, record: Recorded, namespace: str, stop: threading.Event) -> None:
        self._api = api
        self._record = record
        self._namespace = namespace
        self._stop = stop
        self._main = main_container(record.objects.get("Job") or {})

    def so_far(self, tail: int | None) -> Iterator[LogLine]:
        """What was printed until now, the last ``tail`` lines of it."""
        pods = self._pods()
        if tail is not None and tail <= 0:
            return
        collected: list[list[LogLine]] = []
        left = tail
        for pod in reversed(pods):  # newest first, so that a tail needs no more than it shows
            found = self._of_pod(pod, self._main, left)
            collected.insert(0, found)
            if left is not None:
                left -= len(found)
                if left <= 0:
                    break
        if any(collected):
            for some in collected:
                yield from some
        else:
            yield from self._fallback(pods, tail)

    def _of_pod(self, pod: Any, container: str, tail: int | None) -> list[LogLine]:
        """One pod's output: the instance before a restart first, as far as the node keeps it."""
        now = list(self._whole(pod, container, tail))
        if not _restarts(pod, container) or (tail is not None and len(now) >= tail):
            return now
        before = list(self._whole(pod, container, None if tail is None else tail - len(now), previous=True))
        return before + now

    def _whole(self, pod: Any, container: str, tail: int | None, *, previous: bool = False) -> Iterator[LogLine]:
        query = {"container": container, "tailLines": tail, "previous": previous or None, "timestamps": True}
        try:
            for moment, text in self._read(pod, query):
                yield LogLine(text, at=moment or None)
        except EngineUnreachable:
            raise
        except ProviderError as error:
            if error.reason not in ("NotFound", "BadRequest"):  # not started yet, or removed already
                raise

    def _fallback(self, pods: list[Any], tail: int | None) -> Iterator[LogLine]:
        """E4: the main container printed nothing and its pod did not succeed: the others may know why."""
        limit = min(tail or _FALLBACK_LINES, _FALLBACK_LINES)
        for pod in reversed(pods):
            if (pod.get("status") or {}).get("phase") == "Succeeded":
                continue
            others = [
                c["name"] for key in ("initContainers", "containers") for c in (pod.get("spec") or {}).get(key) or []
            ]
            for name in others:
                if name == self._main:
                    continue
                found = self._of_pod(pod, name, limit)
                yield from (LogLine(f"[{name}] {line.text}", at=line.at) for line in found)
                limit -= len(found)
                if limit <= 0:
                    return

    def follow(self, tail: int | None) -> Iterator[LogLine]:
        """Everything until the Job has ended and its last pod has been read."""
        finished: set[str] = set()
        pause = _POLL
        printed = False
        first = True
        while not self._stop.is_set():
            try:
                ended = self._ended()
                pods = [pod for pod in self._pods() if pod["metadata"]["uid"] not in finished]
            except EngineUnreachable:
                self._stop.wait(_SLOWEST)
                continue
            if first and tail is not None:
                yield from self._older_tail(pods, tail)
                finished |= {pod["metadata"]["uid"] for pod in pods[:-1]}
                pods = pods[-1:]
            for pod in pods:
                if not _has_started(pod, self._main) and not _over(pod):
                    continue
                for line in self._follow_pod(pod, tail if first else None):
                    printed = True
                    yield line
                finished.add(pod["metadata"]["uid"])
                pause = _POLL
            first = first and not finished
            if ended:
                if not printed:
                    yield from self._fallback(self._pods(), tail)
                return
            self._stop.wait(pause)
            pause = min(pause * 1.5, _SLOWEST)

    def _older_tail(self, pods: list[Any], tail: int) -> Iterator[LogLine]:
        """Of pods before the newest, as many lines as the newest leaves of the tail."""
        if len(pods) < 2:
            return
        left = tail - len(list(self._whole(pods[-1], self._main, tail)))
        collected: list[LogLine] = []
        for pod in reversed(pods[:-1]):
            if left - len(collected) <= 0:
                break
            collected = self._of_pod(pod, self._main, left - len(collected)) + collected
        yield from collected

    def _follow_pod(self, pod: Any, tail: int | None) -> Iterator[LogLine]:
        """One pod until its container has ended for good; a broken stream is opened again where it was."""
        place = _Place()
        pause = _POLL
        while not self._stop.is_set():
            over = _over(pod)
            query = {"container": self._main, "timestamps": True, "follow": True}
            query |= {"sinceTime": place.at} if place.at else {"tailLines": tail}
            again: dict[str, int] = {}
            try:
                for moment, text in self._read(pod, query):
                    if place.is_new(moment, again):
                        pause = _POLL
                        yield LogLine(text, at=moment)
                if over:
                    return
            except EngineUnreachable:
                self._stop.wait(pause)
            except ProviderError as error:
                if error.reason not in ("NotFound", "BadRequest", "InternalError", "ServiceUnavailable"):
                    raise
                if over:
                    return
            fresh = self._again(pod)
            if fresh is None:
                return
            pod = fresh
            if not _over(pod):
                self._stop.wait(pause)
                pause = min(pause * 1.5, _SLOWEST)

    def _again(self, pod: Any) -> Any:
        """The pod as it is now; itself while the server does not answer, None when it is gone."""
        try:
            return self._api.find(core_path(self._namespace, "pods", pod["metadata"]["name"]))
        except EngineUnreachable:
            return pod

    def _read(self, pod: Any, query: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """(time, text) of each line. A broken connection is EngineUnreachable; a half line of it is not told."""
        from urllib3.exceptions import HTTPError

        path = core_path(self._namespace, "pods", pod["metadata"]["name"]) + "/log"
        response = self._api.stream(path, _READ, **query)
        _WAKERS.add(self._stop, response)
        try:
            for line, whole in body_lines(response, _LINE_LIMIT):
                moment, _, text = line.decode("utf-8", "replace").partition(" ")
                if whole or _over(pod):
                    yield moment, text.removesuffix("\r")
        except (HTTPError, OSError):
            if not self._stop.is_set():
                raise EngineUnreachable("the log stream broke") from None
        finally:
            _WAKERS.remove(response)
            response.close()

    def _pods(self) -> list[Any]:
        uid = self._record.handle.get("uid")
        selector = f"controller-uid={uid}" if uid else f"{RUN_ID}={self._record.run_id}"
        pods = oldest_first(self._api.items(core_path(self._namespace, "pods"), labelSelector=selector))
        if not self._main and pods:
            self._main = str(pods[0]["spec"]["containers"][0]["name"])
        return list(pods)

    def _ended(self) -> bool:
        """True when no pod will come any more."""
        name = str(self._record.handle.get("name") or self._record.name)
        job = self._api.find(jobs_path(self._namespace, name))
        if job is None or (label(job, RUN_ID) or self._record.run_id) != self._record.run_id:
            return True
        return bool(complete_condition(job) or failed_condition(job))


class _Wakers:
    """Hangs up streams that are silent when their reader is asked to stop: one thread for all readers."""

    def __init__(self) -> None:
        self._streams: dict[int, tuple[threading.Event, BaseHTTPResponse]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, stop: threading.Event, response: BaseHTTPResponse) -> None:
        with self._lock:
            self._streams[id(response)] = (stop, response)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="logs-stop", daemon=True)
                self._thread.start()

    def remove(self, response: BaseHTTPResponse) -> None:
        with self._lock:
            self._streams.pop(id(response), None)

    def _run(self) -> None:
        while True:
            time.sleep(_LISTEN)
            with self._lock:
                for stop, response in self._streams.values():
                    if stop.is_set():
                        hang_up(response)
                if not self._streams:
                    self._thread = None
                    return


_WAKERS = _Wakers()


def _status(pod: Any, container: str) -> Mapping[str, Any]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return next((s for s in statuses if s.get("name") == container), {})


def _restarts(pod: Any, container: str) -> int:
    return int(_status(pod, container).get("restartCount") or 0)


def _has_started(pod: Any, container: str) -> bool:
    status = _status(pod, container)
    return bool((status.get("state") or {}).get("running") or terminated(pod, container))


def _over(pod: Any) -> bool:
    """True when no container of the pod will start again."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
