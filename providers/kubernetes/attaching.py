"""Progress bars of pods while they are drawn: a pod's log has whole lines only, its attach stream every byte at once.

A container waits for those who are attached to it and do not read, once the buffers in between are full. So each stream
is read by a thread that waits for nothing, and given up where the pod writes more lines than it draws.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode, urlsplit

from flowplan.providers.kubernetes.jobs import core_path, pods_of_run
from flowplan.providers.kubernetes.reading import container_status, is_running, line_prefix, main_container, pods_wanted
from flowplan.providers.kubernetes.requests import KEEPALIVE, Api, unreachable
from flowplan.providers.pieces import Pieces
from flowplan.providers.protocol import LogLine
from flowplan.schemas.errors import EngineUnreachable, ProviderError
from flowplan.schemas.runs import Json, Recorded

if TYPE_CHECKING:
    from websocket import WebSocket

_AT_ONCE = 4
"""Pods of one Job that are attached to at once: a terminal has one line for the run."""
_AHEAD = 1000
"""Lines that may have been read and not yet been taken."""
_LINES_ONLY = 256 * 1024
"""Bytes in finished lines, one after another, after which a pod is taken for one that draws nothing."""
_CONNECT, _POLL = 10.0, 0.5
_SOON, _SLOWEST = 0.2, 2.0
_CHANNELS = {1: "stdout", 2: "stderr"}
"""Channels of the subprotocol ``v4.channel.k8s.io``, the first byte of each message."""


def pieces(api: Api, record: Recorded, namespace: str, stop: threading.Event) -> Iterator[LogLine]:
    """Yield what the pods of a run write, as ``ProgressReader.progress`` says.

    Raises:
        ProviderError: the server refuses it.
    """
    spec = (record.objects.get("Job") or {}).get("spec") or {}
    told_apart, together = pods_wanted(spec) > 1, min(max(pods_wanted(spec), 1), _AT_ONCE)
    streams: dict[str, _Stream] = {}
    heard: queue.Queue[LogLine | ProviderError] = queue.Queue(_AHEAD)
    due, pause = 0.0, _SOON
    while not stop.is_set():
        if time.monotonic() >= due and sum(not stream.over for stream in streams.values()) < together:
            for pod, name, container in _running(api, record, namespace):
                if container not in streams or streams[container].broken:
                    pause = _SOON
                    streams[container] = _Stream(api, pod, name, heard, stop, told_apart=told_apart)
            due, pause = time.monotonic() + pause, min(pause * 1.5, _SLOWEST)
        with suppress(queue.Empty):
            news = heard.get(timeout=_POLL if streams else pause)
            if isinstance(news, ProviderError):
                raise news
            yield news


def _running(api: Api, record: Recorded, namespace: str) -> Iterator[tuple[Json, str, str]]:
    """Yield the pod, the name and the id of each main container that runs; nothing while the server does not answer."""
    with suppress(EngineUnreachable):
        for pod in pods_of_run(api, record, namespace):
            name = main_container(record.objects.get("Job") or {}) or str(pod["spec"]["containers"][0]["name"])
            if is_running(pod, name):
                yield pod, name, str((container_status(pod, name) or {}).get("containerID") or "")


class _Stream:
    """What one container writes from now on, read in a thread.

    Attributes:
        over: nothing more comes this way; broken: because of the connection, so that another one may be tried.
    """

    def __init__(
        self,
        api: Api,
        pod: Json,
        container: str,
        heard: queue.Queue[LogLine | ProviderError],
        stop: threading.Event,
        *,
        told_apart: bool,
    ) -> None:
        self.over = self.broken = False
        self._api, self._pod, self._container, self._heard, self._stop = api, pod, container, heard, stop
        prefix = line_prefix(pod) if told_apart else ""
        self._pieces = {number: Pieces(prefix + name, prefix) for number, name in _CHANNELS.items()}
        threading.Thread(target=self._run, name=f"progress of {pod['metadata']['name']}", daemon=True).start()

    def _run(self) -> None:
        try:
            self._read(_attached(self._api, self._pod, self._container))
        except EngineUnreachable:
            self.broken = True
        except ProviderError as error:
            if error.reason == "Forbidden":
                with suppress(queue.Full):
                    self._heard.put_nowait(error)
        except queue.Full:
            pass  # it is drawn too slowly: the pod must not wait for that
        finally:
            self.over = True

    def _read(self, socket: WebSocket) -> None:
        """Pass on what comes until the container has ended.

        Raises:
            EngineUnreachable: the connection broke.
            queue.Full: what came is not taken.
        """
        from websocket import WebSocketConnectionClosedException, WebSocketException, WebSocketTimeoutException

        plain = 0
        try:
            while not self._stop.is_set() and plain < _LINES_ONLY:
                with suppress(WebSocketTimeoutException):
                    message = socket.recv()
                    if not isinstance(message, bytes) or not message:
                        return  # the server has closed it
                    for line in self._pieces[message[0]].feed(message[1:]) if message[0] in _CHANNELS else ():
                        plain = 0 if line.goes_on else plain + len(line.text) + 1
                        self._heard.put_nowait(line)
        except WebSocketConnectionClosedException:
            return
        except (WebSocketException, OSError) as error:
            raise unreachable(self._api.endpoint, error) from None
        finally:
            socket.shutdown()  # type: ignore[no-untyped-call]


def _attached(api: Api, pod: Json, container: str) -> WebSocket:
    """Return the output streams of a running container, whose reads wait for half a second.

    Raises:
        ProviderError: the server refuses.
        EngineUnreachable: it does not answer.
    """
    import websocket

    place, meta = api.endpoint, pod["metadata"]
    spec: dict[str, Any] = next(c for c in pod["spec"]["containers"] if c["name"] == container)
    query = {"container": container, "stdout": "true", **({"tty": "true"} if spec.get("tty") else {"stderr": "true"})}
    proxy, header = urlsplit(place.proxy), place.credentials.header()
    try:
        socket = websocket.create_connection(
            place.server.replace("http", "ws", 1)
            + f"{core_path(meta['namespace'], 'pods', meta['name'])}/attach?{urlencode(query)}",
            timeout=_CONNECT,
            header=[f"Authorization: {header}"] if header else [],
            subprotocols=["v4.channel.k8s.io"],
            sockopt=KEEPALIVE,
            sslopt={"context": place.tls, **({"server_hostname": place.server_name} if place.server_name else {})},
            http_proxy_host=proxy.hostname,
            http_proxy_port=proxy.port or 80,
            http_proxy_auth=(unquote(proxy.username), unquote(proxy.password or "")) if proxy.username else None,
            http_no_proxy=None if place.proxy else ["*"],
            suppress_origin=True,
            skip_utf8_validation=True,
        )
    except websocket.WebSocketBadStatusException as error:
        reason = "Forbidden" if error.status_code in (401, 403) else "Refused"
        raise ProviderError(f"HTTP {error.status_code}", reason=reason) from None
    except (websocket.WebSocketException, OSError) as error:
        raise unreachable(place, error) from None
    socket.settimeout(_POLL)
    return socket
