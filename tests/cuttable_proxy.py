"""A TCP proxy that tests cut, silence or make swallow answers, to be the bad network between flowplan and an engine."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time


class CuttableProxy:
    """Forwards to ``host:port`` while ``mode`` is ``open``.

    ``refuse`` closes every new connection; ``hold`` passes nothing on, and lets all connections stand; ``swallow`` passes
    requests on but resets the connection when the answer comes. ``cut()`` resets all connections that are open.

    Args:
        delay: seconds that a round trip takes.

    Attributes:
        accepted: the connections that there were; asked: how often a client has spoken after it had an answer, which is the
            number of round trips.
    """

    def __init__(self, host: str, port: int, delay: float = 0.0) -> None:
        self._upstream, self._delay = (host, port), delay
        self.mode = "open"
        self.accepted = self.asked = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            if self.mode == "refuse":
                _reset(client)
                continue
            upstream = socket.create_connection(self._upstream)
            self._pairs.append((client, upstream))
            heard = threading.Event()
            heard.set()
            threading.Thread(target=self._pump, args=(client, upstream, False, heard), daemon=True).start()
            threading.Thread(target=self._pump, args=(upstream, client, True, heard), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool, heard: threading.Event) -> None:
        handshaken = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                handshaken += 1
                if answers:
                    heard.set()
                elif heard.is_set():
                    heard.clear()
                    self.asked += 1
                    time.sleep(self._delay)
                while self.mode == "hold":
                    time.sleep(0.05)
                if answers and self.mode == "swallow" and handshaken > 1:  # the first answer is that of TLS
                    break
                sink.sendall(data)
        _reset(source)
        _reset(sink)

    def cut(self) -> None:
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                _reset(end)

    def close(self) -> None:
        self._listener.close()
        self.cut()


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RDWR)
    end.close()
