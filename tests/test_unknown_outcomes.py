"""An answer that is cut, late or nonsense says nothing: what the API server accepted is found, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer, api_server

from flowplan.planner.manifests import ResolvedRun, kubernetes
from flowplan.providers.kubernetes import jobs, requests
from flowplan.providers.kubernetes.connection import endpoint
from flowplan.providers.kubernetes.requests import Api
from flowplan.providers.protocol import Order
from flowplan.schemas.errors import EngineUnreachable, StartFailed
from flowplan.schemas.runs import Identity, Recorded, Settings, Status

LINEAGE = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
IDENTITY = Identity("nightly", LINEAGE, "migrate", 1)
TOKEN = "(sensitive env:HDPW 0123456789abcdef)"
HTTP_500 = b"HTTP/1.1 500 Injected\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
HEADER = 110
"""Bytes of the header of an answer, about."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setattr(requests, "_pause", lambda attempt: 0.0)
    with api_server() as one:
        yield one


def api_of(server: ApiServer) -> Api:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
        "clusters": [{"name": "c", "cluster": {"server": server.url}}],
    }
    return Api(endpoint({"kubeconfig": config}, Path("/")))


def order(*, fresh: bool = True) -> Order:
    fields = {"image": "busybox:1.35", "command": ["true"], "env": {"PASSWORD": TOKEN}}
    rendered = kubernetes.render(ResolvedRun("migrate", "migrate", 0, "k", "kubernetes", fields), IDENTITY)
    return Order(IDENTITY, rendered.name, rendered.objects, Settings(), {TOKEN: "correct-horse"}, fresh)


def record() -> Recorded:
    wanted = order()
    return Recorded(
        "migrate", "k", "kubernetes", {}, 1, IDENTITY.run_id, wanted.name, wanted.objects, Settings(), Status.PENDING
    )


def spoilt() -> Iterator[int | bytes]:
    """Yield every byte of an answer's header, many of its body, server errors, nonsense, refusals cut off."""
    yield from range(HEADER + 1)
    yield from range(HEADER, 2500, 97)
    yield from (
        b"\x00\xffnonsense\r\n\r\n",
        HTTP_500,
        b"HTTP/1.1 200 OK\r\n\r\n<html>",
        b"HTTP/1.1 409 Con",
        b"HTTP/1.1 403 ",
    )


@pytest.mark.parametrize("write", ["POST secrets", "POST jobs", "PATCH secrets"])
def test_a_spoilt_answer_while_creating_is_never_a_failure(server: ApiServer, write: str) -> None:
    for how in spoilt():
        server.objects.clear()
        server.spoil = write, how
        live = jobs.create(api_of(server), order(), "default")
        assert server.spoil is None and server.kinds() == ["Job", "Secret"], how
        secret = next(one for one in server.objects.values() if one["kind"] == "Secret")
        assert secret["metadata"]["ownerReferences"][0]["uid"] == live["metadata"]["uid"], how


@pytest.mark.parametrize("write", ["DELETE jobs", "DELETE secrets"])
def test_a_spoilt_answer_while_deleting_leaves_nothing(server: ApiServer, write: str) -> None:
    for how in spoilt():
        jobs.create(api_of(server), order(), "default")
        server.spoil = write, how
        jobs.delete(api_of(server), record(), 1, "default", LINEAGE)
        assert server.spoil is None and server.kinds() == [], how


@pytest.mark.parametrize("write", ["POST secrets", "POST jobs"])
def test_answers_that_stay_spoilt_leave_the_outcome_open(server: ApiServer, write: str) -> None:
    for how in (0, 20, 60, HTTP_500, b"HTTP/1.1 200 OK\r\n\r\n<html>"):
        server.objects.clear()
        server.spoil, server.always = (write, how), True
        with pytest.raises(EngineUnreachable):
            jobs.create(api_of(server), order(), "default")
        server.spoil = None
        jobs.create(api_of(server), order(fresh=False), "default")
        assert server.kinds() == ["Job", "Secret"] and server.writes.count("POST jobs") >= 1


def test_a_refusal_that_is_one_removes_the_secret(server: ApiServer) -> None:
    original = server.answer

    def refuse(method: str, target: str, sent: Any) -> tuple[int, Any]:
        if method == "POST" and "/jobs" in target:
            return 422, {"kind": "Status", "status": "Failure", "reason": "Invalid", "message": "no", "code": 422}
        return original(method, target, sent)

    server.answer = refuse  # type: ignore[method-assign]
    with pytest.raises(StartFailed):
        jobs.create(api_of(server), order(), "default")
    assert server.kinds() == []
