"""yaml-language-server, spoken with as an editor does: documents are opened, and what it says about them is returned."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SETTINGS = {"yaml": {"schemaStore": {"enable": False}}}
"""What the server asks of an editor; the schema store is on the network."""
CAPABILITIES = {
    "workspace": {"configuration": True},
    "textDocument": {
        "hover": {"contentFormat": ["markdown"]},
        "completion": {"completionItem": {"documentationFormat": ["markdown"]}},
    },
}


class LanguageServer:
    """One process of the server, for many documents in one folder."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self.folder = folder
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._requests = 0
        self._diagnostics: dict[str, list[dict[str, Any]]] = {}
        try:
            self._request("initialize", {"processId": None, "rootUri": folder.as_uri(), "capabilities": CAPABILITIES})
        except AssertionError:
            self._process.communicate(timeout=30)
            raise
        self._write({"method": "initialized", "params": {}})

    def open(self, name: str, text: str) -> str:
        """Open a document of the folder, and return its address."""
        uri = (self.folder / name).as_uri()
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self._write({"method": "textDocument/didOpen", "params": {"textDocument": document}})
        return uri

    def diagnostics(self, uri: str) -> list[dict[str, Any]]:
        """Return what the server finds wrong with a document, once it has looked."""
        while uri not in self._diagnostics:
            self._read()
        return self._diagnostics[uri]

    def hover(self, uri: str, line: int, column: int) -> str:
        """Return what is shown for the place, counted from 0."""
        return str(self._at("hover", uri, line, column)["contents"]["value"])

    def completion(self, uri: str, line: int, column: int) -> list[dict[str, Any]]:
        """Return what is offered at the place, counted from 0."""
        return list(self._at("completion", uri, line, column)["items"])

    def close(self) -> None:
        self._request("shutdown", None)
        self._write({"method": "exit"})
        self._process.communicate(timeout=30)

    def _at(self, what: str, uri: str, line: int, column: int) -> Any:
        place = {"textDocument": {"uri": uri}, "position": {"line": line, "character": column}}
        return self._request(f"textDocument/{what}", place)

    def _request(self, method: str, params: Any) -> Any:
        self._requests += 1
        self._write({"id": self._requests, "method": method, "params": params})
        while True:
            message = self._read()
            if "method" not in message and message.get("id") == self._requests:
                assert "error" not in message, message
                return message["result"]

    def _read(self) -> dict[str, Any]:
        """Read one message; answer it, or keep the diagnostics that it brings."""
        assert self._process.stdout
        size = 0
        while line := self._process.stdout.readline().strip():
            name, _, value = line.partition(b":")
            size = int(value) if name.lower() == b"content-length" else size
        assert size, "the language server ended"
        message: dict[str, Any] = json.loads(self._process.stdout.read(size))
        if message.get("method") == "textDocument/publishDiagnostics":
            self._diagnostics[message["params"]["uri"]] = message["params"]["diagnostics"]
        elif message.get("method") == "workspace/configuration":
            asked = message["params"]["items"]
            self._write({"id": message["id"], "result": [SETTINGS.get(item["section"]) for item in asked]})
        elif "method" in message and "id" in message:
            self._write({"id": message["id"], "result": None})
        return message

    def _write(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self._process.stdin.flush()
