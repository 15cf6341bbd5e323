"""The HTTP server of a follower, in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from flowplan.schemas.errors import InvalidInput

MOST_CONNECTIONS = 1000
PATIENCE = 10.0
"""Seconds within which a connection has to bring a whole request."""
MOST_HEADERS = 16 << 10


class _Impatient(H11Protocol):
    """Closes connections that bring no whole request in time, so that slow ones cannot use up the room of all."""

    _checked: object = None
    """The request that was there at the last look."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(PATIENCE, self._check)

    def _check(self) -> None:
        if self.transport.is_closing():
            return
        waits = self.cycle is None or self.cycle.response_complete or self.cycle.more_body
        if waits and self.cycle is self._checked:
            self.transport.close()
        self._checked = self.cycle
        self.loop.call_later(PATIENCE, self._check)


@contextmanager
def serving(app: ASGIApp, address: tuple[str, int], certificate: Path | None, key: Path | None) -> Iterator[int]:
    """Serve an application at an address, 0 being any free port; yield the port.

    Raises:
        InvalidInput: the address cannot be had, or the certificate cannot be read.
    """
    listener = _listener(address)
    config = uvicorn.Config(
        app,
        http=_Impatient,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        h11_max_incomplete_event_size=MOST_HEADERS,
        timeout_keep_alive=int(PATIENCE),
        timeout_graceful_shutdown=2,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    try:
        config.load()
    except OSError as error:
        listener.close()
        raise InvalidInput(
            f"the certificate {certificate} cannot be used: {error.strerror or error}",
            hint="--tls-cert and --tls-key name PEM files",
        ) from error
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), name="http", daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(timeout=3)
        listener.close()


def _listener(address: tuple[str, int]) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        return socket.create_server(address, family=family, backlog=256)
    except OSError as error:
        raise InvalidInput(
            f"{address[0]}:{address[1]} cannot be listened to: {error.strerror or error}",
            hint="--listen names a free address of this machine, such as 127.0.0.1:8470",
        ) from error
