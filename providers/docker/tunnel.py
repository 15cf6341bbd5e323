"""Engines at ``ssh://``: each connection is an ``ssh HOST docker system dial-stdio``, as the docker command does it."""

from __future__ import annotations

import contextlib
import math
import shutil
import socket
import subprocess
import tempfile
import threading
from typing import IO, Any
from urllib.parse import urlsplit

from docker.transport.unixconn import UnixHTTPAdapter, UnixHTTPConnection, UnixHTTPConnectionPool

from flowplan.schemas.errors import ProviderError

_EXIT_LIMIT = 1.0
"""Seconds that ssh may take to end, once its connection has ended."""


class Tunnel:
    """Opens connections to one Engine through the ssh program.

    Args:
        address: ``ssh://[user@]host[:port][/path/of/the/socket]``.

    Raises:
        ProviderError: there is no ssh program, or the address is not one.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        try:
            host, user, port = parts.hostname or "", parts.username, parts.port
        except ValueError:
            host, user, port = "", None, None
        if not host or host.startswith("-") or (user or "").startswith("-") or parts.password or parts.query:
            raise ProviderError(
                "the ssh address of the Docker Engine is not valid",
                hint="write ssh://user@host:port; a password has no place in it, use a key",
            )
        if not shutil.which("ssh"):
            raise ProviderError(
                f"{address} needs the program ssh, which is not installed",
                hint="install the client of OpenSSH, or use another address of the Engine",
            )
        there = [
            "docker",
            *(["--host", f"unix://{parts.path}"] if parts.path.strip("/") else []),
            "system",
            "dial-stdio",
        ]
        login = [*(["-l", user] if user else []), *(["-p", str(port)] if port else [])]
        self._command = ["ssh", "-o", "ConnectTimeout=30", "-T", *login, "--", host, *there]
        self._lock = threading.Lock()
        self._running: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []

    def open(self) -> socket.socket:
        """Return a new connection; the first read from it fails when ssh does."""
        ours, theirs = socket.socketpair()
        said = tempfile.TemporaryFile()  # noqa: SIM115 - read when ssh has ended
        with theirs:
            # A session of its own: Ctrl-C must reach flowplan alone, which closes the connection and so ends ssh.
            end = theirs.fileno()
            process = subprocess.Popen(self._command, stdin=end, stdout=end, stderr=said, start_new_session=True)
        with self._lock:
            ended = [pair for pair in self._running if pair[0].poll() is not None and pair[0].returncode == 0]
            self._running = [pair for pair in self._running if pair not in ended] + [(process, said)]
        for _, file in ended:
            file.close()
        return ours

    def words(self) -> str:
        """Return the last line that the last failed ssh wrote; "" when none failed."""
        with self._lock:
            newest = list(reversed(self._running))
        for process, said in newest:
            with contextlib.suppress(subprocess.TimeoutExpired):
                if process.wait(_EXIT_LIMIT):
                    said.seek(0)
                    lines = said.read().decode(errors="replace").strip().splitlines()
                    return lines[-1].strip()[:200] if lines else f"ssh ended with code {process.returncode}"
        return ""

    def close(self) -> None:
        """End every ssh that still runs."""
        with self._lock:
            running, self._running = self._running, []
        for process, said in running:
            if process.poll() is None:
                process.terminate()
                process.wait()
            said.close()


class TunnelAdapter(UnixHTTPAdapter):
    """Makes docker-py use a tunnel, for which its own adapter for sockets has no place."""

    def __init__(self, tunnel: Tunnel, timeout: float, pool_size: int) -> None:
        super().__init__("http+unix:///", math.ceil(timeout), max_pool_size=pool_size)
        self._tunnel = tunnel

    def get_connection(self, url: str | bytes, proxies: Any = None) -> Any:
        with self.pools.lock:
            pool = self.pools.get(url)
            if pool is None:
                pool = self.pools[url] = _Pool("", "", math.ceil(self.timeout), maxsize=self.max_pool_size)
                pool.tunnel = self._tunnel
        return pool


class _Pool(UnixHTTPConnectionPool):
    tunnel: Tunnel

    def _new_conn(self) -> Any:
        made = _Connection("", "")
        made.tunnel = self.tunnel
        return made


class _Connection(UnixHTTPConnection):
    tunnel: Tunnel

    def connect(self) -> None:
        self.sock = self.tunnel.open()
