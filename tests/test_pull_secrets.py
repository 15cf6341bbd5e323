"""A registry is asked for an image as the nodes of a cluster would ask it: with the login of a pull secret, as it wants it."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from flowplan.providers import registries
from flowplan.providers.kubernetes.pulling import Kept, Pull, ask
from flowplan.providers.registries import LIMIT, THERE, Answer, asked
from flowplan.schemas.errors import ProviderError

GOOD = base64.b64encode(b"robot:secret-word").decode()


class Registry(BaseHTTPRequestHandler):
    """One with a token service, as most are; it has ``team/app:1`` for those who log in, and ``open:1`` for all."""

    def do_HEAD(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/v2/team/") and self.headers.get("Authorization") != "Bearer token-of-robot":
            self.send_response(401)
            realm = f'realm="http://{self.headers["Host"]}/token",service="registry"'
            self.send_header("WWW-Authenticate", f'Bearer {realm},scope="repository:team/app:pull"')
        else:
            self.send_response(200 if path in ("/v2/team/app/manifests/1", "/v2/open/manifests/1") else 404)
        self.end_headers()

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        allowed = self.headers.get("Authorization") == f"Basic {GOOD}" and query["scope"] == [
            "repository:team/app:pull"
        ]
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"token": "token-of-robot"} if allowed else {"errors": []}).encode())

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


class Cluster:
    """As much of an API server as reading pull secrets needs."""

    def __init__(self, secrets: dict[str, Any], server: str = "https://127.0.0.1:6443") -> None:
        self.endpoint, self._secrets = SimpleNamespace(server=server), secrets

    def find(self, path: str) -> Any:
        found = self._secrets.get(path.rpartition("/")[2])
        if isinstance(found, Exception):
            raise found
        return found


def secret(place: str, login: str = GOOD) -> dict[str, Any]:
    document = json.dumps({"auths": {place: {"auth": login}}})
    return {"data": {".dockerconfigjson": base64.b64encode(document.encode()).decode()}}


def said(image: str, secrets: dict[str, Any], **cluster: Any) -> Answer:
    return ask(Cluster(secrets, **cluster), Pull(image, "ns", tuple(secrets), "default", "IfNotPresent"))  # type: ignore[arg-type]


def test_the_login_of_a_pull_secret_is_changed_for_a_token(registry: str) -> None:
    place, wrong = secret(registry), secret(registry, base64.b64encode(b"robot:wrong").decode())
    assert said(f"{registry}/team/app:1", {"regcred": place}) == THERE
    assert said(f"{registry}/team/app:1", {"other": wrong, "regcred": place}) == THERE
    assert said(f"{registry}/team/app:1", {"team": secret(f"http://{registry}/team")}) == THERE
    assert said(f"{registry}/team/app:2", {"regcred": place}).verdict == "missing"
    assert said(f"{registry}/open:1", {}) == THERE
    refused = said(f"{registry}/team/app:1", {"regcred": wrong})
    assert refused.verdict == "refused" and "regcred" in refused.hint


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, "no pull secret has one"),
        ({"regcred": secret("elsewhere.example.com")}, "no pull secret has one"),
        ({"regcred": {"data": {".dockerconfigjson": "bm8ganNvbg=="}}}, "no pull secret has one"),
        ({"regcred": None}, "no pull secret has one"),
        ({"regcred": ProviderError("secrets is forbidden", reason="Forbidden")}, "regcred cannot be read"),
    ],
    ids=["none", "of another registry", "malformed", "absent", "forbidden"],
)
def test_what_cannot_be_asked_is_not_known(registry: str, found: dict[str, Any], words: str) -> None:
    answer = said(f"{registry}/team/app:1", found)
    assert answer.verdict == "unknown" and words in answer.words


def test_the_localhost_of_nodes_elsewhere_is_not_asked(registry: str) -> None:
    assert said(f"{registry}/open:1", {}, server="https://cluster.example.com").verdict == "unknown"


def test_registries_that_never_answer_hold_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        images = [f"127.0.0.1:{silent.getsockname()[1]}/a:{n}" for n in range(100)]
        begun = time.monotonic()
        found = asked(images, str, lambda image: said(image, {}))
        assert time.monotonic() - begun < LIMIT + 5
        assert {answer.verdict for answer in found.values()} == {"silent"} and len(found) == 100
        monkeypatch.setattr(registries, "LIMIT", 1.0)
        never = threading.Event()

        def slow() -> Answer:
            never.wait()
            return THERE

        begun = time.monotonic()
        found = asked(["a:1", "b:1"], str, lambda image: THERE if image == "a:1" else slow())
        assert time.monotonic() - begun < 6
        assert (found["a:1"], found["b:1"].verdict) == (THERE, "silent")
        never.set()


def test_what_nodes_have_is_known_by_any_of_its_names() -> None:
    def node(*names: str, others: int = 0) -> dict[str, Any]:
        told = [{"names": list(names)}, {"names": ["<none>@<none>"]}]
        return {"status": {"images": told + [{"names": [f"o:{n}"]} for n in range(others)]}}

    kept = Kept([node("docker.io/library/busybox:1.35"), node("busybox:1.35", "team/app:2")])
    assert kept.everywhere("busybox:1.35") and kept.somewhere("busybox:1.35")
    assert kept.somewhere("docker.io/team/app:2") and not kept.everywhere("team/app:2")
    assert kept.somewhere("none:1") is False
    assert Kept([node("a:1", others=60)]).somewhere("none:1") is None
