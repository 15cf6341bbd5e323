"""Errors of an Engine and of the connection to it, in words for people."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import requests
import urllib3

from flowplan.schemas.errors import ProviderError

BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
"""Exceptions of a connection that cannot be made, or breaks."""

SILENT = "no answer in time"
"""The cause where an Engine does not answer within the timeout."""

_SLOW = "check the network, or raise DOCKER_CLIENT_TIMEOUT"
_STOPPED = "start the Engine, or set DOCKER_HOST or the provider's host"
_CAUSES: tuple[tuple[type[BaseException], str, str], ...] = (
    (FileNotFoundError, "there is no such socket", _STOPPED),
    (PermissionError, "permission denied", "join the group that owns the socket (docker), or use another host"),
    (ConnectionRefusedError, "connection refused", _STOPPED),
    (TimeoutError, SILENT, _SLOW),
)


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


def engine_words(answer: requests.Response) -> str | None:
    """Return the Engine's words of an error answer; None when the answer is not an Engine's."""
    with contextlib.suppress(ValueError, KeyError, TypeError, *BROKEN):
        return str(answer.json()["message"]).strip() or f"HTTP {answer.status_code}"
    return None


def unexpected(answer: requests.Response) -> OSError:
    """Return the error for an answer of a proxy, or of no Engine at all."""
    words = engine_words(answer)
    if words is None:
        with contextlib.suppress(*BROKEN):
            words = answer.text.strip()[:200]
    return OSError(f"HTTP {answer.status_code}: {words or ''}")


def explained(error: BaseException) -> tuple[str, str]:
    """Return the cause of an exception in one clause, and what to do about it."""
    chain = list(_chain(error))
    for kind, clause, hint in _CAUSES:
        if any(isinstance(link, kind) for link in chain):
            return clause, hint
    if any(isinstance(link, requests.Timeout | urllib3.exceptions.TimeoutError) for link in chain):
        return SILENT, _SLOW
    if any(isinstance(link, requests.exceptions.SSLError) for link in chain):
        return "the TLS handshake failed", "check DOCKER_TLS_VERIFY and DOCKER_CERT_PATH"
    last = str(chain[-1]).strip().splitlines()
    if last and last[0].startswith("Invalid bind address"):
        return last[0][:200], "write unix:///path, tcp://host:port or ssh://user@host"
    return (last[0][:200] if last else type(chain[-1]).__name__), "check that the Engine runs"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception and all that led to it; libraries hide causes in args as well."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        link = waiting.pop(0)
        if isinstance(link, BaseException) and id(link) not in seen:
            seen.add(id(link))
            yield link
            waiting += [*link.args, getattr(link, "reason", None), link.__cause__, link.__context__]
