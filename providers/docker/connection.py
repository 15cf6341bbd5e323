"""One connection to a Docker Engine: its endpoint, and requests whose errors are in words for people."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import docker
import docker.context
import docker.errors
import docker.types
import docker.utils
import requests
import urllib3

from flowplan.providers.clocks import EngineClock
from flowplan.providers.docker.tunnel import Tunnel, TunnelAdapter
from flowplan.schemas.errors import EngineUnreachable, ProviderError

DEFAULT_HOST = "unix:///var/run/docker.sock"
DEFAULT_TIMEOUT = 60.0
SPOKEN = "1.41"
"""The API version that the client package is told; requests name the Engine's own."""
_PATIENCE = 1.0
"""Seconds that closing waits for a thread that is connecting."""
POOL_SIZE = 64
"""Connections kept open; more than any sensible --parallelism, so that no thread waits for one."""

READ_AHEAD = 1 << 18
"""Bytes of a stream that are kept for a reader who is slower than the Engine."""

_BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)

_AWAY = frozenset({502, 503, 504})
"""Answers of a proxy in front of an Engine that is not there."""


_MISSHAPEN = (ValueError, KeyError, TypeError, AttributeError)
"""What the client package raises for a configuration of other types; the configuration may hold secrets."""
_NO_CONFIGURATION = "the configuration of the docker CLI is not what it must be"
_CONFIGURATION = "look at config.json and contexts/ in ~/.docker, or where DOCKER_CONFIG says"


class Refusal(ProviderError):
    """The Engine answered with an error.

    Args:
        message: the Engine's words.
        status: the HTTP status of the answer.
        endpoint: the Engine, named where it failed rather than refused (500).
    """

    def __init__(self, message: str, status: int, endpoint: str = "") -> None:
        words = {404: "NotFound", 409: "Conflict", 400: "BadRequest", 403: "Forbidden", 401: "Unauthorized"}
        failed = status >= 500
        super().__init__(
            f"the Docker Engine at {endpoint} failed: {message}" if failed else message,
            hint="see the Engine's log, then try again" if failed else "",
            reason=words.get(status, "EngineError"),
        )
        self.status = status
        self.words = message


class Engine:
    """Requests to one Engine; safe to use from many threads.

    Args:
        settings: ``host`` (``unix://``, ``tcp://``, ``ssh://``), ``context`` (of the docker CLI), ``timeout`` (seconds);
            without them DOCKER_HOST, DOCKER_CONTEXT and the docker CLI's current context count, in this order.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._client: docker.APIClient | None = None
        self._tunnel: Tunnel | None = None
        self._version = ""
        self._broken = False
        self._info: dict[str, Any] | None = None
        self.clock = EngineClock()
        self.endpoint = "the Docker Engine"

    @property
    def client(self) -> docker.APIClient:
        """Return the connected client.

        Raises:
            EngineUnreachable: when the Engine does not answer.
            ProviderError: when the settings name no endpoint.
        """
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    @property
    def base_url(self) -> str:
        """Return the endpoint, with which the ``infrastructure_id`` of containers begins."""
        return str(self.client.base_url)

    @property
    def local(self) -> bool:
        """Return whether the Engine is at a local socket, so that its files are most likely this machine's."""
        return self.endpoint.startswith("unix://")

    @property
    def api_version(self) -> str:
        """Return the version of the API that the Engine speaks."""
        return self._version if self.client is not None else ""

    def info(self) -> dict[str, Any]:
        """Return ``docker info``, asked once."""
        if self._info is None:
            self._info = self.get("/info")
        return self._info

    def get(self, path: str, **params: Any) -> Any:
        """Return the JSON answer of a GET, which is repeated when it broke on a connection that was open already.

        Raises:
            EngineUnreachable: there is no answer; a question that the Engine fails to answer (500) has none either.
            Refusal: as ``request``.
        """
        old = self._client is not None
        try:
            return self._asked(path, params)
        except EngineUnreachable as error:
            if not old or error.reason == "Timeout":
                raise
            return self._asked(path, params)

    def _asked(self, path: str, params: Mapping[str, Any]) -> Any:
        try:
            answer = self.request("GET", path, params=params)
        except Refusal as error:
            if error.status < 500:
                raise
            raise EngineUnreachable(error.message, hint=error.hint, reason=error.reason) from None
        with contextlib.suppress(ValueError):
            return answer.json()
        raise self.unreachable(OSError("it does not answer like a Docker Engine"))

    def knock(self) -> None:
        """Check that the Engine takes new connections: one that shuts down goes on answering on old ones.

        Raises:
            EngineUnreachable: it does not.
        """
        try:
            _probe(self.endpoint)
        except OSError as error:
            self._broken = True
            raise self.unreachable(error) from None

    def find(self, path: str, **params: Any) -> Any:
        """Return the JSON answer of a GET like ``get``, but None on HTTP 404."""
        try:
            return self.get(path, **params)
        except Refusal as error:
            if error.status == 404:
                return None
            raise

    def post(self, path: str, body: Any = None, **params: Any) -> None:
        """Make a POST request and ignore the body of its answer."""
        self.request("POST", path, params=params, body=body)

    def certainly(self, ask: Callable[[], object], done: Callable[[], bool]) -> None:
        """Ask for a change; where the answer is lost or an error, look whether the change was made.

        Raises:
            EngineUnreachable: it is not known whether the change was made.
            Refusal: it was not made.
        """
        try:
            ask()
        except (EngineUnreachable, Refusal):
            if not done():
                raise

    def delete(self, path: str, **params: Any) -> None:
        self.request("DELETE", path, params=params)

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        extra: float = 0.0,
        stream: bool = False,
        read_timeout: float | None = None,
    ) -> requests.Response:
        """Make one request.

        Args:
            extra: seconds that the Engine may take on top of the usual.
            stream: leave the body to the reader, who may wait for its parts as long as it likes.
            read_timeout: seconds of silence that end a stream, before its beginning too; ``math.inf`` for any time.

        Raises:
            EngineUnreachable: when the Engine does not answer.
            Refusal: when it answers with an error, in its words.
        """
        client = self.client
        limit: float | None = self.timeout + extra
        if stream and read_timeout is not None:
            limit = None if math.isinf(read_timeout) else read_timeout
        try:
            if self._broken:
                _probe(self.endpoint)
            answer: requests.Response = client.request(
                method,
                f"{client.base_url}/v{self._version}{path}",
                params=params,
                json=body,
                headers=dict(headers or {}),
                stream=stream,
                timeout=(self.timeout, limit),
            )
        except _BROKEN as error:
            self._broken = True
            raise self.unreachable(error) from None
        self._broken = False
        if answer.status_code >= 400:
            words = _engine_words(answer)
            if words is None or answer.status_code in _AWAY:  # a proxy answered, not the Engine
                raise self.unreachable(OSError(f"HTTP {answer.status_code}: {words or _text(answer)}"))
            raise Refusal(words, answer.status_code, self.endpoint)
        if stream and read_timeout is None:
            _wait_for_ever(answer)
        return answer

    @property
    def timeout(self) -> float:
        """Return the seconds that one answer may take: the provider's ``timeout``, else DOCKER_CLIENT_TIMEOUT, else 60."""
        text = self._settings.get("timeout") or os.environ.get("DOCKER_CLIENT_TIMEOUT") or DEFAULT_TIMEOUT
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if seconds <= 0:
            raise ProviderError(f'"{text}" is not a timeout in seconds', hint="correct DOCKER_CLIENT_TIMEOUT")
        return seconds

    def unreachable(self, error: BaseException) -> EngineUnreachable:
        """Return the error for people: the endpoint, the cause in one clause, and how to fix it."""
        words = self._tunnel.words() if self._tunnel is not None else ""
        login = urlsplit(self.endpoint)._replace(path="").geturl()
        cause, hint = (words, f"`ssh {login}` must work without questions") if words else _cause(error)
        reason = "Timeout" if cause == _SILENT[0] else "Unreachable"
        return EngineUnreachable(
            f"the Docker Engine at {self.endpoint} does not answer: {cause}", hint=hint, reason=reason
        )

    def close(self) -> None:
        """Release the connections, also while another thread is still connecting."""
        held = self._lock.acquire(timeout=_PATIENCE)
        try:
            if self._client is not None:
                self._client.close()
            self._client = None
            if self._tunnel is not None:
                self._tunnel.close()
        finally:
            if held:
                self._lock.release()

    def _connect(self) -> docker.APIClient:
        arguments = self._arguments()
        self.endpoint = str(arguments["base_url"])
        client: docker.APIClient | None = None
        if self.endpoint.startswith("ssh://"):
            self._tunnel = Tunnel(self.endpoint)
            arguments["base_url"] = "unix:///"
        try:
            _probe(self.endpoint)
            client = self._made(**arguments)
            if self._tunnel is not None:
                client.mount("http+docker://", TunnelAdapter(self._tunnel, self.timeout, POOL_SIZE))
                client.base_url = "http+docker://ssh"
            answer = client.request("GET", f"{client.base_url}/version", timeout=self.timeout)
            self._version = _version(answer)
            self.clock.hear(answer.headers.get("Date"))
        except (docker.errors.DockerException, *_BROKEN) as error:
            if client is not None:
                client.close()
            raise self.unreachable(error) from None
        return client

    def _made(self, **arguments: Any) -> docker.APIClient:
        """Return a client, which reads the configuration of the docker CLI."""
        try:
            return docker.APIClient(
                version=SPOKEN, timeout=math.ceil(self.timeout), max_pool_size=POOL_SIZE, **arguments
            )
        except _MISSHAPEN:
            raise ProviderError(_NO_CONFIGURATION, hint=_CONFIGURATION) from None

    def _arguments(self) -> dict[str, Any]:
        """Return ``base_url`` and ``tls`` for the client."""
        host = self._settings.get("host")
        name = self._settings.get("context")
        if not host and not name:
            host = os.environ.get("DOCKER_HOST")
            name = os.environ.get("DOCKER_CONTEXT")
        try:
            if host:
                return dict(docker.utils.kwargs_from_env({**os.environ, "DOCKER_HOST": str(host)}))
            return self._from_context(str(name) if name else None)
        except (docker.errors.DockerException, OSError) as error:
            raise ProviderError(f"the settings of the Docker connection are wrong: {error}") from None
        except _MISSHAPEN:
            raise ProviderError(_NO_CONFIGURATION, hint=_CONFIGURATION) from None

    def _from_context(self, name: str | None) -> dict[str, Any]:
        context = docker.context.ContextAPI.get_context(name)
        if context is None:
            raise ProviderError(f'there is no docker context "{name}"', hint="`docker context ls` lists them")
        host = context.Host if context.Name != "default" else None
        arguments: dict[str, Any] = {"base_url": host or DEFAULT_HOST}
        if context.Name != "default" and context.TLSConfig:
            arguments["tls"] = context.TLSConfig
        return arguments


class Stream:
    """The body of a streamed answer, read by a thread of its own, so that the reader can look up and stop in between.

    Args:
        response: a streamed answer.
        waits: make the Engine wait for a slow reader; else the stream ends when too much is unread (``overrun``).
    """

    def __init__(self, response: requests.Response, *, waits: bool = True) -> None:
        self._response = response
        self._waits = waits
        self.overrun = False
        self._unread = bytearray()
        self._ended = False
        self._end: BaseException | None = None
        self._changed = threading.Condition()
        self._closed = threading.Event()
        threading.Thread(target=self._read, name="docker-stream", daemon=True).start()

    def poll(self, timeout: float) -> bytes | None:
        """The next bytes; b"" when none came within ``timeout`` seconds, None at the end of a complete answer.

        Raises:
            ConnectionError: when the connection broke.
        """
        with self._changed:
            if not self._unread and not self._ended:
                self._changed.wait(timeout)
            data = bytes(self._unread)
            self._unread.clear()
            if len(data) >= READ_AHEAD:
                self._changed.notify_all()
            if data or not self._ended:
                return data
        if self._end:
            raise ConnectionError(str(self._end))
        return None

    def close(self) -> None:
        """Close the connection; the thread ends."""
        self._closed.set()
        with contextlib.suppress(OSError, AttributeError, docker.errors.DockerException):
            docker.types.CancellableStream(iter(()), self._response).close()
        with self._changed:
            self._unread.clear()
            self._changed.notify_all()

    def _read(self) -> None:
        end: BaseException | None = None
        try:
            for chunk in self._chunks():
                if not self._put(chunk):
                    break
        except (*_BROKEN, ValueError, AttributeError) as error:  # ValueError, AttributeError: closed under our hands
            end = error
        if self.overrun:
            self._response.close()
        with self._changed:
            self._end, self._ended = end, True
            self._changed.notify_all()

    def _chunks(self) -> Iterator[bytes]:
        raw = self._response.raw
        if raw.chunked:
            return iter(raw.read_chunked(decode_content=False))
        return iter(lambda: raw.read1(65536, decode_content=False), b"")

    def _put(self, chunk: bytes) -> bool:
        """Take in what came, and wait while too much is unread; return whether more is wanted."""
        with self._changed:
            if not self._waits and len(self._unread) + len(chunk) > READ_AHEAD:
                self.overrun = True
                return False
            while len(self._unread) >= READ_AHEAD and not self._closed.is_set():
                self._changed.wait(0.5)
            if not self._unread:
                self._changed.notify_all()
            self._unread += chunk
        return not self._closed.is_set()


def _version(answer: requests.Response) -> str:
    """Return the version of the API that the Engine speaks."""
    if answer.status_code >= 400:
        raise OSError(f"HTTP {answer.status_code}: {_engine_words(answer) or _text(answer)}")
    version = None
    with contextlib.suppress(ValueError, KeyError, TypeError):
        version = answer.json()["ApiVersion"]
    if version is None:  # raised outside: what went wrong with the text is no cause for people
        raise OSError("it does not answer like a Docker Engine")
    return str(version)


def _wait_for_ever(answer: requests.Response) -> None:
    """A stream has begun in time; its parts come when they come. Who reads it looks after a silent Engine."""
    inside: Any = answer.raw
    with contextlib.suppress(AttributeError, OSError):  # a socket of another kind: its silence is a broken connection
        inside._fp.fp.raw._sock.settimeout(None)


def _probe(endpoint: str) -> None:
    """Connect once and hang up: the client package leaves a socket open behind every failed connection."""
    if endpoint.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as knock:
            knock.settimeout(5)
            knock.connect(endpoint.removeprefix("unix://"))
    elif endpoint.startswith(("tcp://", "http://", "https://")):
        parts = urlsplit(endpoint)
        with socket.create_connection((str(parts.hostname), parts.port or 2375), 5):
            return


def _engine_words(answer: requests.Response) -> str | None:
    """The Engine's words of an error answer; None when the answer is not an Engine's."""
    with contextlib.suppress(ValueError, KeyError, TypeError, *_BROKEN):
        return str(answer.json()["message"]).strip() or f"HTTP {answer.status_code}"
    return None


def _text(answer: requests.Response) -> str:
    with contextlib.suppress(*_BROKEN):
        return answer.text.strip()[:200]
    return ""


_SILENT = ("no answer in time", "check the network, or raise DOCKER_CLIENT_TIMEOUT")
_HINTS: tuple[tuple[type[BaseException], str, str], ...] = (
    (FileNotFoundError, "there is no such socket", "start the Engine, or set DOCKER_HOST or the provider's host"),
    (PermissionError, "permission denied", "join the group that owns the socket (docker), or use another host"),
    (ConnectionRefusedError, "connection refused", "start the Engine, or set DOCKER_HOST or the provider's host"),
    (TimeoutError, *_SILENT),
)


def _cause(error: BaseException) -> tuple[str, str]:
    """The cause at the bottom of a chain of exceptions, in one clause, and what to do about it."""
    chain = list(_chain(error))
    for kind, clause, hint in _HINTS:
        if any(isinstance(link, kind) for link in chain):
            return clause, hint
    if any(isinstance(link, requests.Timeout | urllib3.exceptions.TimeoutError) for link in chain):
        return _SILENT
    if any(isinstance(link, requests.exceptions.SSLError) for link in chain):
        return "the TLS handshake failed", "check DOCKER_TLS_VERIFY and DOCKER_CERT_PATH"
    last = str(chain[-1]).strip().splitlines()
    if last and last[0].startswith("Invalid bind address"):
        return last[0][:200], "write unix:///path, tcp://host:port or ssh://user@host"
    return (last[0][:200] if last else type(chain[-1]).__name__), "check that the Engine runs"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and everything it was made from; libraries hide causes in args as well."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        link = waiting.pop(0)
        if isinstance(link, BaseException) and id(link) not in seen:
            seen.add(id(link))
            yield link
            waiting += [*link.args, getattr(link, "reason", None), link.__cause__, link.__context__]
