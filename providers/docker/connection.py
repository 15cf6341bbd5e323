"""One connection to a Docker Engine: its endpoint, and requests whose errors are in words for people."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import docker
import docker.context
import docker.errors
import docker.types
import docker.utils
import requests

from flowplan.providers.clocks import EngineClock
from flowplan.providers.docker import podman
from flowplan.providers.docker.refusals import BROKEN, SILENT, Refusal, engine_words, explained, unexpected
from flowplan.providers.docker.streams import without_timeout
from flowplan.providers.docker.tunnel import Tunnel, TunnelAdapter
from flowplan.schemas.errors import EngineUnreachable, ProviderError

DEFAULT_HOST = "unix:///var/run/docker.sock"
DEFAULT_TIMEOUT = 60.0
SPOKEN = "1.41"
"""The API version that the client package is told; requests name the Engine's own."""
_CLOSE_LIMIT = 1.0
"""Seconds that closing waits for a thread that is connecting."""
POOL_SIZE = 64
"""Connections that are kept open, so that the threads of a high --parallelism need not connect again."""

_AWAY = frozenset({502, 503, 504})
"""HTTP statuses of a proxy whose Engine does not answer."""

_MALFORMED = (ValueError, KeyError, TypeError, AttributeError)
"""Exceptions of the client package for a malformed configuration; their words may hold secrets."""
_NO_CONFIGURATION = "the configuration of the docker CLI is not valid"
_CONFIGURATION = "look at config.json and contexts/ in ~/.docker, or where DOCKER_CONFIG says"


class Engine:
    """Requests to one Engine; safe to use from many threads.

    Args:
        settings: ``host`` (``unix://``, ``tcp://``, ``ssh://``), ``context`` (of the docker CLI), ``timeout`` (seconds).
            Defaults, in this order: DOCKER_HOST, DOCKER_CONTEXT, the current context of the docker CLI.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._client: docker.APIClient | None = None
        self._tunnel: Tunnel | None = None
        self._version = ""
        self._podman = False
        self._broken = False
        self._info: dict[str, Any] | None = None
        self._identity = ""
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

    @property
    def podman(self) -> bool:
        """Return whether this is Podman, which speaks the Engine's API with differences."""
        return self.client is not None and self._podman

    def network(self, name: str) -> str:
        """Return the Engine's own name of a network."""
        return podman.DEFAULT_NETWORK.get(name, name) if self.podman else name

    def info(self) -> dict[str, Any]:
        """Return ``docker info``, asked once."""
        if self._info is None:
            self._info = self.get("/info")
        return self._info

    def identity(self) -> str:
        """Return the id by which this Engine is known, asked once."""
        if not self._identity:
            self._identity = podman.identity(self) if self.podman else str(self.info()["ID"])
        return self._identity

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

    def check_accepting(self) -> None:
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

    def inspect(self, container: str, *, settled: bool = False) -> dict[str, Any] | None:
        """Return what the Engine tells of a container by its id or name, None where there is none.

        Args:
            settled: it is known that the Engine does not start the container again.
        """
        found: dict[str, Any] | None = self.find(f"/containers/{quote(container)}/json")
        return podman.told(self, found) if found and self.podman and not settled else found

    def post(self, path: str, body: Any = None, **params: Any) -> None:
        """Make a POST request and ignore the body of its answer."""
        self.request("POST", path, params=params, body=body)

    def confirmed(self, ask: Callable[[], object], done: Callable[[], bool]) -> None:
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
        except BROKEN as error:
            self._broken = True
            raise self.unreachable(error) from None
        self._broken = False
        if answer.status_code >= 400:
            words = engine_words(answer)
            if words is None and self._podman and answer.status_code == 404:
                words = podman.NO_SUCH_CALL
            if words is None or answer.status_code in _AWAY:  # a proxy answered, not the Engine
                raise self.unreachable(unexpected(answer))
            raise Refusal(words, answer.status_code, self.endpoint)
        if stream and read_timeout is None:
            without_timeout(answer)
        return answer

    @property
    def timeout(self) -> float:
        """Return the seconds that one answer may take: the setting ``timeout``, else DOCKER_CLIENT_TIMEOUT, else 60."""
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
        cause, hint = (words, f"`ssh {login}` must work without questions") if words else explained(error)
        reason = "Timeout" if cause == SILENT else "Unreachable"
        return EngineUnreachable(
            f"the Docker Engine at {self.endpoint} does not answer: {cause}", hint=hint, reason=reason
        )

    def close(self) -> None:
        """Release the connections, also while another thread is still connecting."""
        held = self._lock.acquire(timeout=_CLOSE_LIMIT)
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
            self._version, self._podman = _version(answer), podman.HEADER in answer.headers
            self.clock.hear(answer.headers.get("Date"))
        except (docker.errors.DockerException, *BROKEN) as error:
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
        except _MALFORMED:
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
            context = docker.context.ContextAPI.get_context(str(name) if name else None)
            if context is None:
                raise ProviderError(f'there is no docker context "{name}"', hint="`docker context ls` lists them")
            if context.Name == "default":
                return {"base_url": DEFAULT_HOST}
            return {
                "base_url": context.Host or DEFAULT_HOST,
                **({"tls": context.TLSConfig} if context.TLSConfig else {}),
            }
        except (docker.errors.DockerException, OSError) as error:
            raise ProviderError(f"the settings of the Docker connection are wrong: {error}") from None
        except _MALFORMED:
            raise ProviderError(_NO_CONFIGURATION, hint=_CONFIGURATION) from None


def _version(answer: requests.Response) -> str:
    """Return the version of the API that the Engine speaks."""
    if answer.status_code >= 400:
        raise unexpected(answer)
    version = None
    with contextlib.suppress(ValueError, KeyError, TypeError):
        version = answer.json()["ApiVersion"]
    if version is None:  # outside of ``suppress``: the JSON error is no cause to tell people
        raise OSError("it does not answer like a Docker Engine")
    return str(version)


def _probe(endpoint: str) -> None:
    """Connect once and hang up: the client package leaves a socket open behind every failed connection."""
    if endpoint.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            probe.connect(endpoint.removeprefix("unix://"))
    elif endpoint.startswith(("tcp://", "http://", "https://")):
        parts = urlsplit(endpoint)
        with socket.create_connection((str(parts.hostname), parts.port or 2375), 5):
            return
