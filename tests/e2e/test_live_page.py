"""The page, live: what a follower serves to a browser, and how a reader stays up to date."""

from __future__ import annotations

import gzip
import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from projects import Project, until
from test_cli import valid
from test_follower import follower, free_port, told

SPEC = """\
flowplan: 1
project: nightly
runs:
  first: {provider: process, command: [sh, -c, 'until [ -e go ]; do sleep 0.05; done']}
  second: {provider: process, command: [echo, second], needs: [first]}
"""
TOKEN = "0123456789abcdef0123456789abcdef"


class Page:
    """The answers of a follower to somebody who has its token."""

    def __init__(self, project: Project, port: int) -> None:
        self.project, self.port = project, port

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of an answer; redirections are not followed."""
        named = {"Authorization": f"Bearer {TOKEN}"} | {name.replace("_", "-"): text for name, text in headers.items()}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=named)
        try:
            with urllib.request.build_opener(Stay).open(request, timeout=60) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()


class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


@pytest.fixture
def served(project: Project) -> Iterator[Page]:
    project.write(SPEC)
    project.ok("apply", "--yes", "--detach")
    token = project.directory / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    port = free_port()
    with follower(project, "--listen", f"127.0.0.1:{port}", "--token-file", str(token)):
        until(lambda: "answering on" in told(project))
        yield Page(project, port)


def test_the_page_and_its_document(served: Page) -> None:
    code, headers, body = served.get("/")
    assert code == 200 and headers["content-type"].startswith("text/html")
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["connect-src"] == "'self'"
    assert b'src="page.js"' in body and b'href="page.css"' in body and b"{{" not in body
    assert served.get("/page.js")[1]["content-type"].startswith("text/javascript")
    assert served.get("/page.css")[1]["content-type"].startswith("text/css")
    for path in ("/page.js", "/page.css", "/api/v1/report"):
        assert served.get(path, Authorization="Bearer wrong")[0] == 401
    code, headers, _ = served.get("/", Authorization="Bearer wrong")
    assert (code, headers["location"]) == (303, "/login")

    code, headers, body = served.get("/api/v1/report")
    document = json.loads(body)
    valid("report", document)
    assert document["runs"]["address"] == ["first", "second"] and document["follower"]
    _, packed, smaller = served.get("/api/v1/report", Accept_Encoding="gzip", If_None_Match='"another"')
    assert packed["content-encoding"] == "gzip" and json.loads(gzip.decompress(smaller))["serial"]


def test_a_reader_has_what_it_has_and_hears_what_happens(served: Page) -> None:
    def settled() -> str | None:
        tag = served.get("/api/v1/report")[1]["etag"]
        return tag if served.get("/api/v1/report", If_None_Match=tag)[0] == 304 else None

    tag = until(settled)
    document = json.loads(served.get("/api/v1/report")[2])
    (served.project.directory / "go").touch()
    request = urllib.request.Request(
        f"http://127.0.0.1:{served.port}/api/v1/events",
        headers={
            "Authorization": f"Bearer {TOKEN}",
            "Accept": "text/event-stream",
            "Last-Event-ID": str(document["last_seq"]),
        },
    )
    with urllib.request.urlopen(request, timeout=60) as stream:
        event = next(json.loads(line[5:]) for line in stream if line.startswith(b"data:"))
    assert event["seq"] > document["last_seq"]

    def ended() -> bool:
        code, _, body = served.get("/api/v1/report", If_None_Match=tag)
        if code == 304:
            return False
        found = json.loads(body)
        return [found["strings"][status] for status in found["runs"]["status"]] == ["succeeded", "succeeded"]

    until(ended)
    served.project.write(SPEC + "  third: {provider: process, command: [echo, third]}\n")
    served.project.ok("plan")
    until(lambda: json.loads(served.get("/api/v1/report")[2])["plan"]["source"] == "pending")
