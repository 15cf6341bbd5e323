"""An HTTP proxy in front of an engine that plays faults: refused, lost, late, cut or invented answers, request by request."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import io
import os
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from urllib.parse import urlsplit

PART = 65536


@dataclass
class Fault:
    """What happens to requests that match; the first fault that still has hits to give counts.

    Attributes:
        what: ``answer`` (with ``status``, ``headers`` and ``body``, without asking the engine), ``hide`` (the same after
            the engine did it), ``reset`` (connection reset before the engine hears of it), ``lose`` (after it did it),
            ``hang`` (no answer until ``release``), ``mute`` (the engine does it, and there is no answer until ``release``), ``slow`` (``seconds`` late), ``cut`` (connection reset after
            ``after`` bytes and at least ``seconds`` of the answer), ``end`` (the same, but as a proper end),
            ``say`` (a stream that says ``body`` and ends), ``clip`` (the engine does it, and of its whole answer, the
            header counted, the first ``after`` bytes arrive before the connection is reset), ``clipend`` (the same, but
            as a proper end), ``die`` (the proxy is gone before the engine hears of it, all connections are reset and
            further ones refused until ``revive``), ``kill`` (the same, after the engine did it). ``said`` is the answer that was clipped, for those who try each of its bytes.
        method, path: regular expressions, the path with its query; skip: matching requests that pass before;
        times: how many are hit; hits: how many were.
    """

    what: str
    method: str = ".*"
    path: str = ".*"
    skip: int = 0
    times: int = 10**9
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"message": "a fault is played"}'
    seconds: float = 0.0
    after: int = 0
    hits: int = 0
    said: bytes = b""

    def matches(self, method: str, path: str) -> bool:
        return bool(re.fullmatch(self.method, method) and re.search(self.path, path))


class FaultyProxy:
    """Listens at a Unix socket or a port, and passes on to an engine whatever no fault is meant for.

    Args:
        upstream: ``unix:///path``, ``http://host:port`` or ``https://host:port`` (nobody's certificate is checked).
        listen: path of the Unix socket to make; None for a port.
        network_of: a process in whose network namespace the port is; 0 for our own.
    """

    def __init__(self, upstream: str, listen: Path | None = None, *, network_of: int = 0) -> None:
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.released = threading.Event()
        self.dead = threading.Event()
        self._upstream = upstream
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        proxy = self

        class Handler(_Handler):
            def setup(self) -> None:
                proxy._open.add(self.request)
                super().setup()
                self.proxy = proxy

            def finish(self) -> None:
                with contextlib.suppress(OSError, ValueError):
                    super().finish()
                proxy._open.discard(self.request)

        def listening(port: int = 0) -> _UnixServer | _TcpServer:
            with in_network_of(network_of):
                made = _UnixServer(str(listen), Handler) if listen else _TcpServer(("127.0.0.1", port), Handler)
            threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
            return made

        self._listening, self._server = listening, listening()
        self.host = f"unix://{listen}" if listen else f"tcp://127.0.0.1:{self._server.server_address[1]}"
        self.url = self.host.replace("tcp:", "http:")

    def play(self, what: str, method: str = ".*", path: str = ".*", **rest: object) -> Fault:
        """Add a fault; returns it, to be asked for its hits."""
        fault = Fault(what, method, path, **rest)  # type: ignore[arg-type]
        self.faults.append(fault)
        return fault

    def heal(self) -> None:
        """Stop all faults; what hangs is cut off."""
        self.faults.clear()
        self.released.set()
        self.released = threading.Event()

    def count(self, method: str, path: str) -> int:
        """Count the requests that matched."""
        return sum(bool(re.fullmatch(method, m) and re.search(path, p)) for m, p in self.requests)

    def chosen(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.requests.append((method, path))
            for fault in self.faults:
                if fault.matches(method, path) and fault.hits < fault.skip + fault.times:
                    fault.hits += 1
                    return fault if fault.hits > fault.skip else None
            return None

    def cut(self) -> None:
        """Reset every connection that is open."""
        for one in list(self._open):
            reset(one)

    def die(self) -> None:
        """Behave as a server that was killed: connections are reset, and refused."""
        self._server.shutdown()
        self._server.server_close()
        self.cut()
        self.dead.set()

    def revive(self) -> None:
        """Listen again at the same port."""
        self.heal()
        self._server = self._listening(int(urlsplit(self.url).port or 0))
        self.dead.clear()

    def close(self) -> None:
        self.heal()
        self.die()

    def connect(self) -> http.client.HTTPConnection:
        """Open a connection to the engine."""
        parts = urlsplit(self._upstream)
        if parts.scheme == "unix":
            return _UnixConnection(parts.path)
        if parts.scheme == "https":
            trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
            return http.client.HTTPSConnection(str(parts.hostname), parts.port, context=trust)
        return http.client.HTTPConnection(str(parts.hostname), parts.port)


@contextlib.contextmanager
def in_network_of(process: int) -> Iterator[None]:
    """Make sockets in the network namespace of another process (0: our own); of this thread alone."""
    if not process:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as ours, Path(f"/proc/{process}/ns/net").open() as theirs:
        assert libc.setns(theirs.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert libc.setns(ours.fileno(), 0) == 0


class _UnixServer(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore connections that break, which this is about."""


class _TcpServer(ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore connections that break, which this is about."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy
    connection: socket.socket

    def address_string(self) -> str:
        return "somebody"

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def _play(self) -> None:
        body = self._read()
        fault = self.proxy.chosen(self.command, self.path) or Fault("pass")
        released = self.proxy.released
        if fault.what == "slow":
            released.wait(fault.seconds)
        if fault.what in ("reset", "hang", "die"):
            if fault.what == "hang":
                released.wait()
            elif fault.what == "die":
                self.proxy.die()
            return self._reset()
        if fault.what in ("answer", "say"):
            return self._say(fault)
        upstream = self.proxy.connect()
        try:
            answer = self._asked(upstream, body)
            if fault.what in ("hide", "lose", "mute", "kill"):
                answer.read()
                if fault.what == "mute":
                    released.wait()
                elif fault.what == "kill":
                    self.proxy.die()
                return self._say(fault) if fault.what == "hide" else self._reset()
            if fault.what in ("clip", "clipend"):
                return self._clip(answer, fault)
            self._pass_on(answer, fault)
        finally:
            upstream.close()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _play

    def _asked(self, upstream: http.client.HTTPConnection, body: bytes) -> http.client.HTTPResponse:
        """Ask the engine the same: a header may come more than once."""
        upstream.putrequest(self.command, self.path, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "host", "content-length", "transfer-encoding"):
                upstream.putheader(name, value)
        if body or self.command in ("POST", "PUT", "PATCH"):
            upstream.putheader("Content-Length", str(len(body)))
        upstream.putheader("Connection", "close")
        upstream.endheaders(body)
        return upstream.getresponse()

    def _read(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _say(self, fault: Fault) -> None:
        self.send_response(200 if fault.what == "say" else fault.status)
        for name, value in {"Content-Type": "application/json", **fault.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(fault.body)))
        self.end_headers()
        self.wfile.write(fault.body)

    def _pass_on(self, answer: http.client.HTTPResponse, fault: Fault) -> None:
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                self.send_header(name, value)
        sized = answer.getheader("Content-Length") is not None or answer.status in (204, 304)
        if not sized:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for data in _parts(answer, fault):
            if data is None:
                return self._reset()
            self.wfile.write(data if sized else b"%x\r\n%s\r\n" % (len(data), data))
        if not sized:
            self.wfile.write(b"0\r\n\r\n")

    def _clip(self, answer: http.client.HTTPResponse, fault: Fault) -> None:
        ours, self.wfile = self.wfile, io.BytesIO()
        self._pass_on(answer, Fault("pass"))
        fault.said, self.wfile = self.wfile.getvalue(), ours
        self.wfile.write(fault.said[: fault.after])
        self.wfile.flush()
        self.close_connection = True
        if fault.what == "clip":
            self._reset()

    def _reset(self) -> None:
        self.close_connection = True
        reset(self.connection)


def _parts(answer: http.client.HTTPResponse, fault: Fault) -> Iterator[bytes | None]:
    """Yield the answer as it comes; None where the connection is to be reset."""
    begun, passed = time.monotonic(), 0
    while data := answer.read1(PART):
        if fault.what in ("cut", "end") and passed + len(data) > fault.after:
            yield data[: max(0, fault.after - passed)] or b"\n"
            time.sleep(max(0.0, fault.seconds - (time.monotonic() - begun)))
            if fault.what == "cut":
                yield None
            return
        passed += len(data)
        yield data


def reset(end: socket.socket) -> None:
    """Close a connection as one does who crashed."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RDWR)
