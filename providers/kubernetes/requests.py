"""Requests to one API server: JSON in and out, retried where that is safe, refusals in one line."""

from __future__ import annotations

import builtins
import copy
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from flowplan.providers.clocks import EngineClock
from flowplan.providers.kubernetes.connection import Endpoint
from flowplan.providers.kubernetes.refusals import refusal
from flowplan.providers.protocol import CUT
from flowplan.schemas.errors import EngineUnreachable, ProviderError
from flowplan.schemas.runs import Json

if TYPE_CHECKING:
    from urllib3.connectionpool import HTTPConnectionPool
    from urllib3.response import BaseHTTPResponse

T = TypeVar("T")
U = TypeVar("U")

PAGE = 500
"""Objects per page of a list."""

MANAGER = "flowplan"
"""Our name among the field managers."""

_CONNECT, _READ, _QUICK = 10.0, 35.0, 5.0
_TRIES = 5
_RETRIED = frozenset({429, 500, 502, 503, 504})
FAILING = "ServerError"
"""The reason of an EngineUnreachable whose server did answer, but not the question."""
_CONNECTIONS = 256
"""Kept open at most; more than that many threads would make urllib3 complain."""


KEEPALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] + [
    (socket.IPPROTO_TCP, getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 6), ("TCP_KEEPCNT", 6))
    if hasattr(socket, name)
]
"""Options of a connection: an idle one is probed after 30 s, every 6 s, and given up after 6 probes."""


class Api:
    """The API server of one endpoint; safe to use from several threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._tries = _TRIES
        self._read = _READ
        self._prefix = urlsplit(endpoint.server).path
        self._pool: HTTPConnectionPool | None = None
        self.clock = EngineClock()
        self._lock = threading.Lock()

    def impatient(self) -> Api:
        """Return an API with the same connection, but one try and a short timeout."""
        self._connected()
        other = copy.copy(self)
        other._tries, other._read = 1, _QUICK
        return other

    def get(self, path: str, **query: Any) -> Json:
        return self.call("GET", path, query)

    def find(self, path: str, **query: Any) -> Json | None:
        """Return the object at ``path``, or None when there is none."""
        try:
            return self.get(path, **query)
        except ProviderError as error:
            if error.reason == "NotFound":
                return None
            raise

    def pages(self, path: str, *, partial: bool = False, **query: Any) -> Iterator[tuple[list[Json], str]]:
        """Yield the pages of a list, each with the list's resourceVersion; ``partial`` asks for metadata only."""
        accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1" if partial else ""
        following = ""
        while True:
            page = self.call("GET", path, {**query, "limit": PAGE, "continue": following}, accept=accept)
            meta = page.get("metadata") or {}
            yield page.get("items") or [], meta.get("resourceVersion") or ""
            following = meta.get("continue") or ""
            if not following:
                return

    def items(self, path: str, *, partial: bool = False, **query: Any) -> list[Json]:
        """Return all objects of a list."""
        return [item for page, _ in self.pages(path, partial=partial, **query) for item in page]

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Json = None,
        *,
        content: str = "application/json",
        accept: str = "",
    ) -> Json:
        """Send a request and return its JSON answer.

        429, 5xx, broken connections and answers are retried with backoff: every write of this provider names its object,
        so that a repetition finds what the first one did.

        Raises:
            ProviderError: the server refused; its reason and words in one line.
            EngineUnreachable: no answer after all tries, or only nonsense and errors of the server's own (429, 5xx):
                whether it did what was asked is not known then.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content} if data is not None else {}
        headers["Accept"] = accept or "application/json"
        for attempt in range(self._tries):
            last = attempt == self._tries - 1
            try:
                response = self._send(method, path, query, data, headers)
            except EngineUnreachable as error:
                if last or (error.reason == "Timeout" and attempt):  # a server that is silent twice hangs
                    raise
                time.sleep(_pause(attempt))
                continue
            answer = _decoded(response.data)
            if response.status < 400 and isinstance(answer, dict):
                return answer
            if response.status not in _RETRIED and (last or not _cut(response.data, answer, method)):
                raise self._refusal(response, method)
            if last:
                raise failing(self.endpoint, response.status, response.data, method)
            time.sleep(_asked(response.headers.get("Retry-After")) or _pause(attempt))
        raise AssertionError("there is at least one try")

    def _refusal(self, response: BaseHTTPResponse, method: str) -> ProviderError:
        clash = response.status == 409 and method != "GET"  # with what, only the server's own words tell
        if response.status >= 400 and not (clash and not isinstance(_decoded(response.data), dict)):
            return refusal(response.status, response.data, self.endpoint, method)
        message = f"{self.endpoint.server} does not answer like a Kubernetes API server"
        hint = "check the server URL of the kubeconfig, and proxies in between"
        if method == "GET":
            return ProviderError(message, hint=hint)
        return EngineUnreachable(f"{message}; whether it did what was asked is not known", hint=hint, reason=FAILING)

    def stream(self, path: str, read_timeout: float, **query: Any) -> BaseHTTPResponse:
        """Return an open response whose body the caller reads; it must ``shutdown`` or ``release_conn`` it.

        Raises as ``call``, without a retry.
        """
        response = self._send("GET", path, query, None, {"Accept": "*/*"}, preload=False, read=read_timeout)
        if response.status >= 400:
            body = response.read()
            response.release_conn()
            if response.status in _RETRIED:
                raise failing(self.endpoint, response.status, body, "GET")
            raise refusal(response.status, body, self.endpoint, "GET")
        return response

    def close(self) -> None:
        with self._lock:
            if self._pool is not None:
                self._pool.close()
            self._pool = None

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        data: bytes | None,
        headers: Mapping[str, str],
        *,
        preload: bool = True,
        read: float | None = None,
    ) -> BaseHTTPResponse:
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError

        given = {k: _text(v) for k, v in (query or {}).items() if v not in (None, "")}
        url = self._prefix + quote(path) + (f"?{urlencode(given)}" if given else "")
        pool = self._connected()
        try:
            for renew in (False, True):
                response = pool.urlopen(
                    method,
                    url,
                    body=data,
                    headers={
                        **headers,
                        "User-Agent": MANAGER,
                        **(
                            {"Authorization": header}
                            if (header := self.endpoint.credentials.header(renew=renew))
                            else {}
                        ),
                    },
                    timeout=Timeout(connect=_CONNECT, read=read or self._read),
                    retries=False,
                    redirect=False,
                    preload_content=preload,
                )
                if response.status != 401 or renew or not self.endpoint.credentials.refreshable:
                    break
                response.drain_conn()
            self.clock.hear(response.headers.get("Date"))
            return response
        except (HTTPError, OSError) as error:
            raise unreachable(self.endpoint, error) from None

    def _connected(self) -> HTTPConnectionPool:
        with self._lock:
            if self._pool is None:
                self._pool = _pool(self.endpoint)
            return self._pool


def unless_refused(ask: Callable[[], T], otherwise: U) -> T | U:
    """Return what a request answers; ``otherwise`` where the server refuses it, so that the answer is not known.

    Raises:
        EngineUnreachable: the server does not answer.
    """
    try:
        return ask()
    except EngineUnreachable:
        raise
    except ProviderError:
        return otherwise


def _text(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _pause(attempt: int) -> float:
    return float(0.2 * 2**attempt * random.uniform(0.75, 1.25))


def _asked(retry_after: str | None) -> float:
    return min(float(retry_after), 10.0) if retry_after and retry_after.isdigit() else 0.0


def _decoded(data: bytes) -> Json | None:
    """Return the JSON of an answer, or None when it is none."""
    try:
        return json.loads(data)
    except ValueError:
        return None


def _cut(data: bytes, answer: Json | None, method: str) -> bool:
    """Return whether an answer is none: of a write anything that is not JSON, of a read what was broken off."""
    if isinstance(answer, dict):
        return False
    return method != "GET" or not data.strip() or data.lstrip()[:1] == b"{"


def unreachable(endpoint: Endpoint, error: BaseException) -> EngineUnreachable:
    """Return the error for an API server that does not answer: which one, why, what to check."""
    import ssl

    reason = _innermost(error)
    who = _who(endpoint)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return EngineUnreachable(
            f"the certificate of {who} is not trusted: {reason.verify_message}",
            hint="check certificate-authority in the kubeconfig",
            reason="Untrusted",
        )
    why = (isinstance(reason, OSError) and reason.strerror) or str(reason) or type(reason).__name__
    return EngineUnreachable(
        f"{who} does not answer: {' '.join(why.split())}",
        hint="check the network, or the context and server of the kubeconfig",
        reason="Timeout" if why == _SILENT else "Unreachable",
    )


def failing(endpoint: Endpoint, code: int, body: bytes, method: str) -> EngineUnreachable:
    """Return the error for an API server that answers with errors of its own."""
    told = refusal(code, body, endpoint, method)
    words = told.message if told.message.startswith("HTTP ") else f"HTTP {code}: {told.message}"
    hint = told.hint or "see the log of the API server, or try again"
    return EngineUnreachable(f"{_who(endpoint)} does not answer: {words}", hint=hint, reason=FAILING)


def _who(endpoint: Endpoint) -> str:
    return f"the Kubernetes API server {endpoint.server} (context {endpoint.label})"


_SILENT = "no answer in time"


def _innermost(error: BaseException) -> BaseException:
    """Return the operating system's error below urllib3's layers."""
    from urllib3.exceptions import NewConnectionError, TimeoutError

    inner = error.__cause__ or error.__context__
    if isinstance(inner, builtins.TimeoutError) and inner.errno is None:  # ours, not the network's
        return OSError(0, _SILENT)
    if isinstance(inner, OSError) and not isinstance(inner, TimeoutError):
        return _innermost(inner)
    if isinstance(error, TimeoutError) and not isinstance(error, NewConnectionError):
        return OSError(0, _SILENT)
    reason = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
    return _innermost(reason) if reason is not None else error


def _pool(endpoint: Endpoint) -> HTTPConnectionPool:
    import urllib3
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Unverified(HTTPSConnection):
        """The user asked for insecure-skip-tls-verify: urllib3 need not warn at each connection."""

        def connect(self) -> None:
            super().connect()
            self.is_verified = True

    options: dict[str, Any] = {
        "maxsize": _CONNECTIONS,
        "socket_options": [*HTTPConnection.default_socket_options, *KEEPALIVE],
    }
    if endpoint.tls is not None:
        options["ssl_context"] = endpoint.tls
        options["cert_reqs"] = endpoint.tls.verify_mode
        if not endpoint.verified:
            options["assert_hostname"] = False
        if endpoint.server_name:
            options |= {"server_hostname": endpoint.server_name, "assert_hostname": endpoint.server_name}
    if endpoint.proxy:
        pool = urllib3.ProxyManager(endpoint.proxy, **options).connection_from_url(endpoint.server)
    else:
        pool = urllib3.connection_from_url(endpoint.server, **options)
    if endpoint.tls is not None and not endpoint.verified:
        pool.ConnectionCls = Unverified
    return pool


def body_lines(response: BaseHTTPResponse, limit: int = 1 << 20) -> Iterator[tuple[bytes, bool]]:
    """Yield the lines of a streamed body without their newlines, each with whether its newline came.

    A line longer than ``limit`` bytes (0: no limit) is cut, so that memory stays flat.

    Raises:
        HTTPError, OSError: the connection broke.
    """
    rest = bytearray()
    dropped = False
    for chunk in response.stream(65536):
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            rest += chunk[start:end]
            start = end + 1
            yield bytes(rest) + (CUT.encode() if dropped else b""), True
            rest.clear()
            dropped = False
        rest += chunk[start:]
        if limit and len(rest) > limit:
            dropped = True
            del rest[limit:]
    if rest:
        yield bytes(rest) + (CUT.encode() if dropped else b""), False


def hang_up(response: BaseHTTPResponse) -> None:
    """Close a streamed response, also under a thread that is reading it."""
    try:
        response.shutdown()
    except (OSError, ValueError):
        return  # it was closed already
