"""List and watch of Jobs and pods in threads that feed one bounded queue; they reconnect by themselves."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowplan.providers.kubernetes.requests import Api, body_lines, hang_up
from flowplan.schemas.errors import EngineUnreachable, ProviderError

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

_SERVER_ENDS = 50
"""Seconds after which the server ends a watch: a quiet connection is renewed, never trusted for long."""

_READ = 75.0
_QUEUE = 2000
_REFUSED_FOR = 30.0
"""Seconds during which 401 and 403 are taken for a server that is starting (its authorizer comes up last)."""

_GONE = frozenset({"Expired", "Gone"})


@dataclass(frozen=True, slots=True)
class News:
    """What a stream said: ``type`` is LIST (a new look at everything), ADDED, MODIFIED or DELETED."""

    namespace: str
    kind: str
    type: str
    items: list[Any]


@dataclass
class Feed:
    """All streams of one watch.

    Attributes:
        selector: the label selector of both kinds.
    """

    api: Api
    selector: str
    _queue: queue.Queue[News | ProviderError] = field(default_factory=lambda: queue.Queue(_QUEUE))
    _streams: list[_Stream] = field(default_factory=list)
    _closed: threading.Event = field(default_factory=threading.Event)
    _troubles: dict[_Stream, ProviderError] = field(default_factory=dict)

    def trouble(self) -> ProviderError | None:
        """Return why the server cannot be asked at present, or None."""
        return next(iter(tuple(self._troubles.values())), None)

    def tell(self, stream: _Stream, trouble: ProviderError | None) -> None:
        """Note that a stream is broken, and why, or works again."""
        if trouble is None:
            self._troubles.pop(stream, None)
        else:
            self._troubles[stream] = trouble

    def look(self, namespace: str, jobs: str, pods: str) -> Iterator[News]:
        """Yield the first lists of a namespace, in the caller's thread, so that it gets their errors."""
        for kind, path in (("jobs", jobs), ("pods", pods)):
            stream = _Stream(self, namespace, kind, path)
            self._streams.append(stream)
            yield stream.look()

    def _ready(self) -> Iterator[News]:
        while True:
            try:
                yield _news(self._queue.get_nowait())
            except queue.Empty:
                return

    def start(self) -> None:
        for stream in self._streams:
            threading.Thread(target=stream.run, name=f"watch-{stream.kind}-{stream.namespace}", daemon=True).start()

    def wait(self, seconds: float, stop: threading.Event) -> Iterator[News]:
        """Yield everything new, after at most ``seconds`` or when ``stop`` is set."""
        deadline = time.monotonic() + seconds
        while not stop.is_set():
            try:
                yield _news(self._queue.get(timeout=max(min(deadline - time.monotonic(), 0.1), 0.0)))
            except queue.Empty:
                if time.monotonic() >= deadline:
                    return
                continue
            yield from self._ready()
            return

    def put(self, item: News | ProviderError) -> None:
        """Queue an item, waiting while the queue is full: memory is bounded by it."""
        while not self._closed.is_set():
            try:
                return self._queue.put(item, timeout=0.5)
            except queue.Full:
                continue

    @property
    def closed(self) -> threading.Event:
        return self._closed

    def close(self) -> None:
        self._closed.set()
        for stream in self._streams:
            stream.hang_up()


def _news(item: News | ProviderError) -> News:
    if isinstance(item, ProviderError):
        raise item
    return item


class _Expired(Exception):
    """The resourceVersion is too old: list again."""


class _Broken(Exception):
    """The stream ended or is none of events: open it again."""


class _Stream:
    """One list+watch."""

    def __init__(self, feed: Feed, namespace: str, kind: str, path: str) -> None:
        self._feed = feed
        self.namespace = namespace
        self.kind = kind
        self._path = path
        self._version = ""
        self._response: BaseHTTPResponse | None = None
        self._refused_since: float | None = None

    def look(self) -> News:
        """List everything."""
        items: list[Any] = []
        for page, version in self._feed.api.pages(self._path, labelSelector=self._feed.selector):
            items += [_trimmed(item, self.kind) for item in page]
            self._version = version
        return News(self.namespace, self.kind, "LIST", items)

    def run(self) -> None:
        """Watch until the feed is closed, and list again whenever that is needed."""
        pause = 0.2
        while not self._feed.closed.is_set():
            try:
                if not self._version:
                    self._feed.put(self.look())
                self._follow()
                pause = 0.2
                self._refused_since = None
                continue
            except _Expired:
                self._version = ""
            except _Broken:
                pass  # the version is still good: what happened meanwhile is told by the next stream
            except EngineUnreachable as error:
                self._feed.tell(self, error)
            except ProviderError as error:
                self._version = ""
                self._feed.tell(self, error)
                if self._refused(error):
                    self._feed.put(error)
                    return
            self._feed.closed.wait(pause)
            pause = min(pause * 2, 5.0)

    def _refused(self, error: ProviderError) -> bool:
        if error.reason not in ("Unauthorized", "Forbidden"):
            return False
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        return now - self._refused_since > _REFUSED_FOR

    def _follow(self) -> None:
        """Read one watch until the server or the network ends it."""
        from urllib3.exceptions import HTTPError

        try:
            response = self._feed.api.stream(
                self._path,
                _READ,
                watch=True,
                labelSelector=self._feed.selector,
                resourceVersion=self._version,
                allowWatchBookmarks=True,
                timeoutSeconds=_SERVER_ENDS,
            )
        except ProviderError as error:
            if error.reason in _GONE:
                raise _Expired from error
            raise
        self._response = response
        self._feed.tell(self, None)
        if self._feed.closed.is_set():
            hang_up(response)
        try:
            for line, whole in body_lines(response, limit=0):
                if whole:
                    self._take(_event(line))
        except (HTTPError, OSError) as error:
            raise _Broken from error
        finally:
            self._response = None
            response.close()

    def _take(self, event: Any) -> None:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            raise _Expired
        self._version = (item.get("metadata") or {}).get("resourceVersion") or self._version
        if kind != "BOOKMARK":
            self._feed.put(News(self.namespace, self.kind, kind, [_trimmed(item, self.kind)]))

    def hang_up(self) -> None:
        """End the watch now, from another thread."""
        if (response := self._response) is not None:
            hang_up(response)


def _event(line: bytes) -> Any:
    """Return the event of a line of a watch, which a proxy may have falsified."""
    try:
        event = json.loads(line)
    except ValueError:
        raise _Broken from None
    if not isinstance(event, dict) or not isinstance(event.get("object"), dict) or "type" not in event:
        raise _Broken
    return event


_POD_META = ("name", "namespace", "uid", "creationTimestamp", "labels", "ownerReferences")


def _trimmed(item: Any, kind: str) -> Any:
    """Return the part of a pod that is read; there may be thousands."""
    if kind != "pods":
        return item
    meta = item["metadata"]
    return {"metadata": {k: meta[k] for k in _POD_META if k in meta}, "status": item.get("status") or {}}
