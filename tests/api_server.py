"""An API server in memory that keeps Jobs and Secrets and breaks off answers where a test says."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

_REASONS = {
    200: "OK",
    201: "Created",
    404: "Not Found",
    409: "Conflict",
    422: "Unprocessable Entity",
    500: "Internal Server Error",
}


@dataclass
class ApiServer:
    """Answers one request a connection.

    Attributes:
        objects: path -> object; writes: "METHOD kind" of every write that was carried out, in order.
        spoil: "METHOD kind" of the write whose first answer is spoilt, and how: a number of bytes after which the
            connection ends, or the bytes that are answered in its stead. It is carried out all the same.
        always: spoil every such answer, not only the first.
    """

    objects: dict[str, Any] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    spoil: tuple[str, int | bytes] | None = None
    always: bool = False
    url: str = ""

    def answer(self, method: str, target: str, body: Any) -> tuple[int, Any]:
        """Carry out a request."""
        parts = urlsplit(target)
        path, query = parts.path, parse_qs(parts.query)
        if method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                return 409, _status(409, "AlreadyExists")
            meta = {**body["metadata"], "uid": str(uuid.uuid4()), "creationTimestamp": "2026-01-01T00:00:00Z"}
            self.objects[path] = {**body, "metadata": meta}
            return 201, self.objects[path]
        if method == "GET" and path.rpartition("/")[2] in ("jobs", "secrets", "pods"):
            wanted = dict(one.split("=", 1) for one in (query.get("labelSelector") or [""])[0].split(",") if one)
            found = [o for p, o in self.objects.items() if p.startswith(f"{path}/") and _matches(o, wanted)]
            return 200, {"kind": "List", "metadata": {"resourceVersion": "1"}, "items": found}
        if path not in self.objects:
            return 404, _status(404, "NotFound")
        if method == "PATCH":
            self.objects[path] = _merged(self.objects[path], body)
        elif method == "DELETE":
            gone = self.objects.pop(path)
            return 200, {"kind": "Status", "status": "Success", "details": {"uid": gone["metadata"]["uid"]}}
        return 200, self.objects[path]

    def kinds(self) -> list[str]:
        """Return what is there now."""
        return sorted(str(one["kind"]) for one in self.objects.values())

    def serve(self, connection: socket.socket) -> None:
        """Answer the request of one connection."""
        with contextlib.suppress(OSError, ValueError), connection, connection.makefile("rb") as stream:
            method, target, _ = stream.readline().decode().split(" ", 2)
            length = 0
            while (line := stream.readline().decode().strip().lower()) != "":
                length = int(line.partition(":")[2]) if line.startswith("content-length") else length
            body = json.loads(stream.read(length)) if length else None
            status, document = self.answer(method, target, body)
            text = json.dumps(document).encode()
            head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\nConnection: close\r\n"
            whole = f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text
            connection.sendall(self._spoilt(method, target, whole))
            connection.shutdown(socket.SHUT_WR)

    def _spoilt(self, method: str, target: str, whole: bytes) -> bytes:
        kind = next(k for k in ("secrets", "jobs", "pods", "namespaces") if re.search(rf"/{k}\b", target))
        if method != "GET":
            self.writes.append(f"{method} {kind}")
        if self.spoil is None or self.spoil[0] != f"{method} {kind}":
            return whole
        how = self.spoil[1]
        self.spoil = self.spoil if self.always else None
        return how if isinstance(how, bytes) else whole[:how]


def _matches(item: Any, wanted: dict[str, str]) -> bool:
    labels = item["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in wanted.items())


def _merged(old: Any, patch: Any) -> Any:
    if not isinstance(patch, dict) or not isinstance(old, dict):
        return patch
    return {**old, **{key: _merged(old.get(key), value) for key, value in patch.items()}}


def _status(code: int, reason: str) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "code": code,
        "message": reason,
    }


@contextlib.contextmanager
def api_server() -> Iterator[ApiServer]:
    """Serve until the end of the block."""
    server = ApiServer()
    listener = socket.create_server(("127.0.0.1", 0))
    server.url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                server.serve(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield server
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)
