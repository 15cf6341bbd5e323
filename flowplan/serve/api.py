"""The answers of a follower over HTTP: the page, probes, metrics, and what the commands print. Nothing is changed here.

Who may read is decided before anything else: the Host header has to be a name that the follower was given, so that no page
of another site can read it through a browser (DNS rebinding), and with a token file every path but the two probes wants the
token, as ``Authorization: Bearer`` or as the cookie that ``/login`` sets for browsers.
"""

from __future__ import annotations

import asyncio
import gzip
import hmac
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flowplan import documents, webpage
from flowplan.clock import moment_of
from flowplan.schemas.errors import FlowplanError, InvalidInput
from flowplan.serve import metrics, openapi
from flowplan.serve.feed import Feed
from flowplan.serve.health import Health
from flowplan.serve.live import Live
from flowplan.state.store import Store

COOKIE = "flowplan_token"
MOST_BODY = 4096
"""Bytes of a request's body: only /login takes one."""
MOST_EVENTS = 1000
MOST_READERS = 500
"""Streams of events at the same time."""
_OPEN = ("/livez", "/readyz", "/login")
"""Paths that want no token."""
_HEADERS = {
    b"content-security-policy": webpage.LIVE_POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}
_LOGIN = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>flowplan</title><form method="post">'
    '<label>Token <input type="password" name="token" autocomplete="current-password" autofocus required></label> '
    "<button>Show</button></form>"
)


@dataclass(frozen=True)
class Service:
    """What is served, and to whom.

    Attributes:
        opened: opens the state for reading. token: "" lets everybody read who reaches the address.
        hosts: the names that a Host header may have. secure: whether connections are TLS.
    """

    opened: Callable[[], Store]
    live: Live
    health: Health
    numbers: metrics.Metrics
    hosts: frozenset[str]
    token: str = ""
    secure: bool = False
    feeds: list[Feed] = field(default_factory=list)

    def application(self) -> ASGIApp:
        """Return the ASGI application."""
        routes = [
            Route("/", self.page),
            Route("/page.css", self.style),
            Route("/page.js", self.script),
            Route("/livez", self.livez),
            Route("/readyz", self.readyz),
            Route("/login", self.login, methods=["GET", "POST"]),
            Route("/metrics", self.metrics),
            Route("/api/v1/openapi.json", self.openapi),
            Route("/api/v1/report", self.report),
            Route("/api/v1/status", self.status),
            Route("/api/v1/plans", self.plans),
            Route("/api/v1/plans/{digest}", self.plan),
            Route("/api/v1/runs/{address}", self.run),
            Route("/api/v1/history", self.history),
            Route("/api/v1/events", self.events),
        ]
        handlers: Mapping[Any, Any] = {HTTPException: _refused, FlowplanError: _failed}
        return _Guard(Starlette(routes=routes, exception_handlers=handlers), self)

    def end(self) -> None:
        """End the streams of events, which a server that goes away would have to break."""
        for feed in self.feeds:
            feed.end()

    # -- the page -------------------------------------------------------------------------------------------------------

    def page(self, request: Request) -> Response:
        """Return the page, which asks for the document itself."""
        return HTMLResponse(webpage.live_page())

    def style(self, request: Request) -> Response:
        """Return how the page looks."""
        return Response(webpage.part("page.css"), media_type="text/css")

    def script(self, request: Request) -> Response:
        """Return what the page does."""
        return Response(webpage.part("page.js"), media_type="text/javascript")

    def report(self, request: Request) -> Response:
        """Return the document of the page, unless the reader has it already."""
        made = self.live.newest()
        headers = {"etag": made.tag, "vary": "accept-encoding"}
        if made.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            packed = {**headers, "content-encoding": "gzip"}
            return Response(made.packed, media_type="application/json", headers=packed)
        return Response(gzip.decompress(made.packed), media_type="application/json", headers=headers)

    # -- probes and numbers ---------------------------------------------------------------------------------------------

    async def livez(self, request: Request) -> Response:
        """Answer whether the follower's loop moves."""
        return PlainTextResponse("ok\n") if self.health.alive else PlainTextResponse("stuck\n", 503)

    async def readyz(self, request: Request) -> Response:
        """Answer whether the follower does its work; why not is told to those who have the token."""
        told = self.health.problems if self.allowed(request.headers, request.cookies) else {}
        lines = [self.health.role, *(f"{what}: {why}" for what, why in sorted(told.items()))]
        return PlainTextResponse("\n".join(lines) + "\n", 200 if self.health.ready else 503)

    def metrics(self, request: Request) -> Response:
        """Return the numbers for Prometheus."""
        return Response(self.numbers.text(), media_type=metrics.CONTENT_TYPE)

    def openapi(self, request: Request) -> Response:
        """Return the OpenAPI document of all this."""
        return JSONResponse(openapi.document())

    # -- documents ------------------------------------------------------------------------------------------------------

    def status(self, request: Request) -> Response:
        """Return what ``flowplan status --format json`` prints."""
        with closing(self.opened()) as store:
            found, _ = documents.status(store, request.query_params.getlist("address"))
        return JSONResponse(found)

    def plans(self, request: Request) -> Response:
        """Return the accepted plans, newest first, without their content."""
        with closing(self.opened()) as store:
            return JSONResponse(documents.plans(store))

    def plan(self, request: Request) -> Response:
        """Return an accepted plan, as ``flowplan show --format json`` prints it."""
        with closing(self.opened()) as store:
            return JSONResponse(_found(documents.plan(store, request.path_params["digest"])))

    def run(self, request: Request) -> Response:
        """Return everything recorded of a run: its attempts, with the end of their output, newest last."""
        with closing(self.opened()) as store:
            return JSONResponse(_found(documents.run(store, request.path_params["address"])))

    def history(self, request: Request) -> Response:
        """Return what ``flowplan history --format json`` prints."""
        query = request.query_params
        failed = query.get("failed", "false")
        try:
            since = moment_of(query["since"]) if "since" in query else None
        except ValueError as error:
            raise HTTPException(400, "since: write 90m, 24h, or a time as 2026-10-07T02:00:00Z") from error
        if failed not in ("true", "false"):
            raise HTTPException(400, "failed: write true or false")
        with closing(self.opened()) as store:
            found = documents.history(store, query.getlist("address"), since=since, failed=failed == "true")
        return JSONResponse(found)

    async def events(self, request: Request) -> Response:
        """Return the events above a number, or stream them as they happen (SSE) where that is what is asked for."""
        wanted = request.headers.get("last-event-id", request.query_params.get("after"))
        after = None if wanted is None else _number("after", wanted)
        if "text/event-stream" in request.headers.get("accept", ""):
            if not self.feeds:
                self.feeds.append(Feed(self.opened))
            if self.feeds[0].readers >= MOST_READERS:
                raise HTTPException(503, f"{MOST_READERS} readers follow already")
            seen = await self.feeds[0].start(after)
            return StreamingResponse(_stream(self.feeds[0], seen), media_type="text/event-stream")
        limit = min(_number("limit", request.query_params.get("limit", str(MOST_EVENTS))), MOST_EVENTS)

        def read() -> list[dict[str, Any]]:
            with closing(self.opened()) as store:
                return [event.document() for event in store.events(after=after or 0, limit=limit)]

        return JSONResponse({"events": await asyncio.to_thread(read)})

    # -- who may read ---------------------------------------------------------------------------------------------------

    def allowed(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        """Return whether a request shows the token, or needs none."""
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        given = shown.strip() if scheme.lower() == "bearer" else cookies.get(COOKIE, "")
        return not self.token or hmac.compare_digest(given.encode(), self.token.encode())

    async def login(self, request: Request) -> Response:
        """Take the token from a form and keep it in a cookie, which no script and no other site can read."""
        if request.method == "GET":
            return HTMLResponse(_LOGIN)
        from urllib.parse import parse_qs

        form = parse_qs((await request.body()).decode(errors="replace"))
        token = form.get("token", [""])[0]
        if not self.allowed({"authorization": f"Bearer {token}"}, {}):
            return HTMLResponse(_LOGIN, 401)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict", secure=self.secure)
        return answer


class _Guard:
    """Lets only those requests through that may be answered, and adds the headers that every answer has."""

    def __init__(self, inner: ASGIApp, service: Service) -> None:
        self._inner, self._service = inner, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS.items()]
            await send(message)

        answer = self._refusal(scope)
        await (answer or self._inner)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        request, service = Request(scope), self._service
        host = _host_of(request.headers)
        if host not in service.hosts:
            return _error(421, f"this follower is not known as {host!r}; --host gives it further names")
        if _size_of(request.headers) > MOST_BODY:
            return _error(413, "the request is too large")
        if request.url.path not in _OPEN and not service.allowed(request.headers, request.cookies):
            if request.url.path == "/":
                return RedirectResponse("/login", 303)
            answer = _error(401, "the token is missing or wrong: Authorization: Bearer ...")
            answer.headers["www-authenticate"] = "Bearer"
            return answer
        return None


def _host_of(headers: Headers) -> str:
    """Return the name of the Host header, without its port."""
    host = headers.get("host", "").lower()
    if host.startswith("["):
        return host.partition("]")[0].removeprefix("[")
    return host.partition(":")[0]


def _size_of(headers: Headers) -> int:
    """Return the size of a request's body; one that is not said counts as too large."""
    if "transfer-encoding" in headers:
        return MOST_BODY + 1
    size = headers.get("content-length", "0")
    return int(size) if size.isascii() and size.isdigit() else MOST_BODY + 1


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise HTTPException(400, f"{name}: write a whole number")
    return int(text)


def _found(document: Any) -> Any:
    if document is None:
        raise HTTPException(404, "there is no such thing here")
    return document


async def _stream(feed: Feed, seen: int) -> AsyncIterator[str]:
    yield "retry: 2000\n\n"
    async for page in feed.follow(seen):
        text = "".join(f"id: {event.seq}\ndata: {json.dumps(event.document())}\n\n" for event in page)
        yield text or ": nothing happened\n\n"


def _error(code: int, words: str) -> JSONResponse:
    return JSONResponse({"error": words}, code)


def _refused(request: Request, error: HTTPException) -> Response:
    return _error(error.status_code, error.detail)


def _failed(request: Request, error: FlowplanError) -> Response:
    return _error(400 if isinstance(error, InvalidInput) else 503, error.message)
