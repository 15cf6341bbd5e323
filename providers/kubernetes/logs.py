"""The output of a run: the right container of all its pods, resumed without loss or repetition."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from flowplan.providers.kubernetes.diagnosis import complete_condition, failed_condition
from flowplan.providers.kubernetes.jobs import core_path, jobs_path, pods_of_run
from flowplan.providers.kubernetes.reading import (
    RUN_ID,
    container_status,
    is_running,
    label,
    line_prefix,
    main_container,
    pods_wanted,
    terminated,
)
from flowplan.providers.kubernetes.requests import Api, body_lines, hang_up
from flowplan.providers.protocol import LogLine
from flowplan.schemas.errors import EngineUnreachable, ProviderError
from flowplan.schemas.runs import Recorded

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

    from flowplan.providers.kubernetes.watching import Heard

_READ = 60.0
"""Seconds of silence after which a followed stream is opened again where it was."""

_FALLBACK_LINES = 500
_POLL, _SLOWEST = 0.2, 2.0
_LISTEN = 0.3
_LINE_LIMIT = 256 * 1024
_AT_ONCE = 64
"""Pods of one Job that are followed at once; further ones are read as others end."""
_AHEAD = 1000
"""Lines that may have been read and not yet been taken."""

_PART = 16 * 1024
"""Bytes after which runtimes split a line; kubelets before 1.22 put another time stamp before each further part."""
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)) ")
_BROKEN_LETTERS = 12
"""Bytes by which a part may be longer: letters that were split became replacement characters."""
_LINE_TAKES = timedelta(seconds=60)
"""How long the parts of one line may take to be written."""


def lines(
    api: Api,
    record: Recorded,
    namespace: str,
    *,
    follow: bool,
    tail: int | None,
    stop: threading.Event,
    container: str = "",
    heard: Mapping[str, Heard] | None = None,
) -> Iterator[LogLine]:
    """Yield the output of a run, as ``Provider.logs`` says, or that of another ``container`` of its pods.

    Args:
        heard: what watches were told, by run id. The pods of a Job with a short TTL are there for a moment only, and are
            looked at when there is news of them.

    Raises:
        ProviderError: the run had pods, and they are gone; or they have no such container.
    """
    reader = _Reader(api, record, namespace, stop, heard or {})
    if container:
        reader.read_another(container)
    if follow:
        yield from reader.follow(tail)
    else:
        yield from reader.so_far(tail)


@dataclass
class _Position:
    """How far one container's output was read: kubelet times are exact, but ``sinceTime`` counts whole seconds, so
    lines of the last second come again and are skipped by time and number."""

    at: str = ""
    at_this: int = 0

    def is_new(self, moment: str, again: dict[str, int]) -> bool:
        """Return whether a line was not yielded yet; ``again`` counts the lines per time of this connection."""
        again[moment] = again.get(moment, 0) + 1
        if _order(moment) < _order(self.at) or (moment == self.at and again[moment] <= self.at_this):
            return False
        self.at_this = self.at_this + 1 if moment == self.at else 1
        self.at = moment
        return True


_Heard = LogLine | ProviderError | str
"""A line, what went wrong, or the uid of a pod whose output has been read."""


def _order(moment: str) -> tuple[str, str]:
    """Return a sort key of an RFC 3339 time with any number of decimals: kubelets drop trailing zeros."""
    whole, _, fraction = moment.removesuffix("Z").partition(".")
    return whole, fraction.ljust(9, "0")


class _Reader:
    def __init__(
        self, api: Api, record: Recorded, namespace: str, stop: threading.Event, heard: Mapping[str, Heard]
    ) -> None:
        self._api = api
        self._record = record
        self._namespace = namespace
        self._stop = stop
        self._told_by = heard
        self._main = main_container(record.objects.get("Job") or {})
        self._only = False
        self._many, self._together = False, 1
        self._heard: queue.Queue[_Heard] = queue.Queue(_AHEAD)
        self._begun: set[str] = set()
        self._reading: set[str] = set()
        self._ended = False
        self._left = threading.Event()

    def read_another(self, container: str) -> None:
        """Read a container that is not the main one.

        Raises:
            ProviderError: there is none of that name.
        """
        job = self._job() or self._record.objects.get("Job") or {}
        template = ((job.get("spec") or {}).get("template") or {}).get("spec") or {}
        known = [name for spec in (template, *(pod["spec"] for pod in self._pods())) for name in _containers(spec)]
        if container not in known:
            raise ProviderError(
                f'the pods of Job "{self._record.name}" have no container "{container}"',
                hint=f"known: {', '.join(dict.fromkeys(known))}",
                reason="NotFound",
                address=self._record.address,
            )
        self._main, self._only = container, True

    def so_far(self, tail: int | None) -> Iterator[LogLine]:
        """Yield what was printed until now, the last ``tail`` lines of it."""
        if tail is not None and tail <= 0:
            return
        job, pods = self._job(), self._pods()
        self._note_pods(job)
        self._refuse_gone(job, pods)
        if self._many:
            lines = [line for pod in pods for line in self._of_pod(pod, self._main, tail)]
            lines.sort(key=lambda line: _order(line.at or ""))
        else:
            lines = self._newest(pods, tail)
        yield from (lines[-tail:] if tail else lines) or self._fallback(pods, tail)

    def _refuse_gone(self, job: Any, pods: list[Any]) -> None:
        """Refuse a run whose pods are gone, as opposed to one that printed nothing.

        Raises:
            ProviderError: it had pods, and has none any more.
        """
        counts = (job or {}).get("status") or {}
        had = self._record.started_at or any(counts.get(key) for key in ("active", "succeeded", "failed"))
        if had and not pods:
            raise ProviderError(
                f'the pods of Job "{self._record.name}" are gone, and their output with them',
                hint="the end of an output is kept when flowplan follows the run",
                reason="NotFound",
            )

    def _newest(self, pods: list[Any], tail: int | None) -> list[LogLine]:
        """Return the end of the output of consecutive pods; no pod is asked that the tail does not need."""
        found: list[LogLine] = []
        for pod in reversed(pods):
            if tail is not None and len(found) >= tail:
                break
            found = self._of_pod(pod, self._main, None if tail is None else tail - len(found)) + found
        return found

    def _note_pods(self, job: Any) -> None:
        """Note how many pods the Job takes, and how many at once; lines of several carry their names."""
        spec = (job or self._record.objects.get("Job") or {}).get("spec") or {}
        wanted, parallelism = pods_wanted(spec), spec.get("parallelism")
        self._many = wanted > 1
        self._together = max(1, min(wanted, 1 if parallelism is None else int(parallelism), _AT_ONCE))

    def _prefix(self, pod: Any) -> str:
        return line_prefix(pod) if self._many else ""

    def _of_pod(self, pod: Any, container: str, tail: int | None) -> list[LogLine]:
        """Return a pod's output, that of the container before a restart first, as far as the node keeps it."""
        now = list(self._whole(pod, container, tail))
        restarts = (container_status(pod, container) or {}).get("restartCount") or 0
        if not restarts or (tail is not None and len(now) >= tail):
            return now
        before = list(self._whole(pod, container, None if tail is None else tail - len(now), previous=True))
        return before + now

    def _whole(self, pod: Any, container: str, tail: int | None, *, previous: bool = False) -> Iterator[LogLine]:
        query = {"container": container, "tailLines": tail, "previous": previous or None, "timestamps": True}
        try:
            for moment, text in self._read(pod, query):
                yield LogLine(self._prefix(pod) + text, at=moment or None)
        except EngineUnreachable:
            raise
        except ProviderError as error:
            if error.reason not in ("NotFound", "BadRequest"):  # not started yet, or removed already
                raise

    def _fallback(self, pods: list[Any], tail: int | None) -> Iterator[LogLine]:
        """Yield the output of other containers when the main one printed nothing and its pod did not succeed."""
        limit = min(tail or _FALLBACK_LINES, _FALLBACK_LINES)
        if self._only:
            return
        for pod in reversed(pods):
            if (pod.get("status") or {}).get("phase") == "Succeeded":
                continue
            for name in _containers(pod.get("spec") or {}):
                if name == self._main:
                    continue
                found = self._of_pod(pod, name, limit)
                yield from (LogLine(f"[{name}] {line.text}", at=line.at) for line in found)
                limit -= len(found)
                if limit <= 0:
                    return

    def follow(self, tail: int | None) -> Iterator[LogLine]:
        """Yield the output of all pods as it is written, until the Job has ended and its last pod has been read."""
        due, pause, printed, news_before = 0.0, _POLL, False, 0
        try:
            while not self._stop.is_set():
                watched = self._told_by.get(self._record.run_id)
                if watched and watched.news != news_before:
                    due, pause, news_before = 0.0, _POLL, watched.news
                may_be_more = not self._ended and len(self._reading) < self._together  # each look costs requests
                if may_be_more and time.monotonic() >= due:
                    begun = len(self._begun)
                    with suppress(EngineUnreachable):
                        yield from self._look(tail)
                    pause = _POLL if len(self._begun) > begun else min(pause * 1.5, _SLOWEST)
                    due = time.monotonic() + pause
                if self._ended and not self._reading:
                    break
                with suppress(queue.Empty):
                    news = self._heard.get(timeout=_POLL)
                    if isinstance(news, ProviderError):
                        raise news
                    if isinstance(news, LogLine):
                        printed = True
                        yield news
                    else:
                        self._reading.discard(news)
                        due = 0.0
            if not printed and not self._stop.is_set():
                job, pods = self._job(), self._pods()
                self._refuse_gone(job, pods)
                yield from self._fallback(pods, tail)
        finally:
            self._left.set()

    def _look(self, tail: int | None) -> Iterator[LogLine]:
        """Begin to read new pods; the first time, yield the end of the output of older ones."""
        job, first = self._job(), not self._begun
        pods = [pod for pod in self._pods() if is_running(pod, self._main) or terminated(pod, self._main) or _over(pod)]
        ended = job is None or bool(complete_condition(job) or failed_condition(job))
        self._note_pods(job)
        if first and tail is not None:
            live = [pod for pod in pods if not _over(pod)] or pods[-1:]
            older = [pod for pod in pods if pod not in live]
            self._begun |= {pod["metadata"]["uid"] for pod in older}
            yield from self._before(older, live, tail)
        new = [pod for pod in pods if pod["metadata"]["uid"] not in self._begun]
        for pod in new[: _AT_ONCE - len(self._reading)]:
            self._begun.add(pod["metadata"]["uid"])
            self._reading.add(pod["metadata"]["uid"])
            self._listen(pod, tail if first else None)
        self._ended = ended and all(pod["metadata"]["uid"] in self._begun for pod in pods)

    def _listen(self, pod: Any, tail: int | None) -> None:
        """Follow a pod in a thread of its own, which passes on its lines and then its uid, or an error."""

        def put(news: _Heard) -> None:
            while not self._left.is_set():
                with suppress(queue.Full):
                    return self._heard.put(news, timeout=_LISTEN)

        def listen() -> None:
            try:
                for line in self._follow_pod(pod, tail):
                    put(line)
                put(str(pod["metadata"]["uid"]))
            except ProviderError as error:
                put(error)

        threading.Thread(target=listen, name=f"output of {pod['metadata']['name']}", daemon=True).start()

    def _before(self, older: list[Any], live: list[Any], tail: int) -> list[LogLine]:
        """Return as many lines of ended pods as the followed ones leave of the tail."""
        if not older:
            return []
        left = tail - sum(len(list(self._whole(pod, self._main, tail))) for pod in live)
        return self._newest(older, left) if left > 0 else []

    def _follow_pod(self, pod: Any, tail: int | None) -> Iterator[LogLine]:
        """Yield the lines of a pod until its container has ended for good; a broken stream is resumed."""
        place = _Position()
        pause = _POLL
        while not (self._stop.is_set() or self._left.is_set()):
            over = _over(pod)
            query = {"container": self._main, "timestamps": True, "follow": True}
            query |= {"sinceTime": place.at} if place.at else {"tailLines": tail}
            again: dict[str, int] = {}
            try:
                for moment, text in self._read(pod, query):
                    if place.is_new(moment, again):
                        pause = _POLL
                        yield LogLine(self._prefix(pod) + text, at=moment)
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
        """Return the pod as it is now; ``pod`` while the server does not answer, None when it is gone."""
        try:
            return self._api.find(core_path(self._namespace, "pods", pod["metadata"]["name"]))
        except EngineUnreachable:
            return pod

    def _read(self, pod: Any, query: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield (time, text) of each line; half a line of a broken connection is left out.

        Raises:
            EngineUnreachable: the connection broke.
        """
        from urllib3.exceptions import HTTPError

        path = core_path(self._namespace, "pods", pod["metadata"]["name"]) + "/log"
        response = self._api.stream(path, _READ, **query)
        _HANG_UPS.add((self._stop, self._left), response)
        try:
            for line, whole in body_lines(response, _LINE_LIMIT):
                stamp, _, text = line.partition(b" ")
                if whole or _over(pod):
                    told = without_stamps(stamp, text).decode("utf-8", "replace")
                    yield stamp.decode("ascii", "replace"), told.removesuffix("\r")
        except (HTTPError, OSError):
            if not self._stop.is_set():
                raise EngineUnreachable("the log stream broke") from None
        finally:
            _HANG_UPS.remove(response)
            response.close()

    def _pods(self) -> list[Any]:
        pods = pods_of_run(self._api, self._record, self._namespace)
        if not self._main and pods:
            self._main = str(pods[0]["spec"]["containers"][0]["name"])
        return pods

    def _job(self) -> Any:
        """Return the live Job, or None when it is gone."""
        name = str(self._record.handle.get("name") or self._record.name)
        job = self._api.find(jobs_path(self._namespace, name))
        ours = job is not None and (label(job, RUN_ID) or self._record.run_id) == self._record.run_id
        return job if ours else None


def without_stamps(stamp: bytes, text: bytes) -> bytes:
    """Return a line without the time stamps that a kubelet put between its parts.

    Args:
        stamp: the time before the line.
    """
    kept, start = [], 0
    while len(text) - start > _PART:
        found = _stamp_in(stamp, text, start + _PART)
        if found is None:
            break
        kept.append(text[start : found.start()])
        start = found.end()
    return b"".join([*kept, text[start:]])


def _stamp_in(stamp: bytes, text: bytes, place: int) -> re.Match[bytes] | None:
    """Return the stamp of the part that begins here or, where letters were split, a few bytes later."""
    for at in range(place, place + _BROKEN_LETTERS + 1):
        found = _STAMP.match(text, at)
        if found and found.group(1) == stamp:
            return found
        if found and at == place:
            with suppress(ValueError):  # it is no time
                passed = datetime.fromisoformat(found.group(1).decode()) - datetime.fromisoformat(stamp.decode())
                if timedelta(0) <= passed <= _LINE_TAKES:
                    return found
    return None


class _HangUps:
    """Hangs up streams that are silent when their reader is asked to stop: one thread for all readers."""

    def __init__(self) -> None:
        self._streams: dict[int, tuple[tuple[threading.Event, ...], BaseHTTPResponse]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, stops: tuple[threading.Event, ...], response: BaseHTTPResponse) -> None:
        with self._lock:
            self._streams[id(response)] = (stops, response)
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
                for stops, response in self._streams.values():
                    if any(stop.is_set() for stop in stops):
                        hang_up(response)
                if not self._streams:
                    self._thread = None
                    return


_HANG_UPS = _HangUps()


def _containers(spec: Mapping[str, Any]) -> list[str]:
    """Return the names of the containers of a pod spec, in the order in which they start."""
    return [str(one["name"]) for key in ("initContainers", "containers") for one in spec.get(key) or ()]


def _over(pod: Any) -> bool:
    """Return whether no container of the pod will start again."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
