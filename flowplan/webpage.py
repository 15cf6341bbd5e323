"""The page: one HTML file with everything in it, of what ``web/`` is built into: ``page/page.html``, ``page.css`` and ``page.js``.

``page.html`` has the marks ``{{title}}``, ``{{head}}`` and ``{{body}}``. In a file, style and script stand in the page itself, and the policy allows
them by their hashes and no request at all. The document stands before the script in an element that no browser executes::

    <script id="report" type="application/json">{...}</script>

A document above 1 MB, or that would not fit, is compressed, and its type ``application/gzip+json``: base64 of what gzip made. A page that a follower serves has no
such element: it asks ``api/v1/report``, and follows ``api/v1/events``.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import zlib
from importlib import resources
from typing import Any

MAX_SIZE = 5_000_000
"""Bytes of a page, unless others are wanted."""
PLAIN = 1 << 20
"""Bytes of a document up to which it stands in the page as it is."""
_NOTHING = "default-src 'none'; img-src data:; base-uri 'none'; form-action"
LIVE_POLICY = f"{_NOTHING} 'self'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'none'"
"""Of the page that a follower serves."""


def part(name: str) -> str:
    """Return a file that the page is made of; it is ASCII."""
    return resources.files("flowplan").joinpath("page", name).read_text(encoding="ascii")


def page(document: Any, most: int = MAX_SIZE) -> str:
    """Return the page with a document in it, in ASCII; the document is compressed where it helps to keep to ``most`` bytes."""
    kind, data = _written(json_text(document), most)
    style, script = part("page.css"), part("page.js")
    policy = f"{_NOTHING} 'none'; script-src {_hash(script)}; style-src {_hash(style)}"
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>'
    body = f'<script id="report" type="application/{kind}">{data}</script>\n<script>{script}</script>'
    return _filled(str(document["project"] or "flowplan"), head, body)


def size(document: Any, most: int = MAX_SIZE) -> int:
    """Return how many bytes of a page of at most ``most`` bytes its document takes."""
    return len(_written(json_text(document), most)[1])


def room(most: int) -> int:
    """Return how many bytes a document may take in a page of at most ``most`` bytes."""
    return most - sum(len(part(name)) for name in ("page.html", "page.css", "page.js")) - 1000


def packed_size(text: str) -> int:
    """Return about how many bytes a text takes in a page, where it is compressed."""
    return 4 * len(zlib.compress(json.dumps(text).encode(), 1)) // 3 + 40


def _written(text: str, most: int) -> tuple[str, str]:
    """Return how a document stands in the page, and what stands there."""
    if len(text) <= PLAIN and len(plain := text.replace("<", "\\u003c")) <= room(most):
        return "json", plain
    return "gzip+json", base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def live_page() -> str:
    """Return the page of a follower."""
    return _filled("flowplan", '<link rel="stylesheet" href="page.css">', '<script src="page.js"></script>')


def json_text(document: Any) -> str:
    """Return a document as JSON in ASCII, without spaces; a terminal obeys nothing in it."""
    return json.dumps(document, separators=(",", ":")).replace("\x7f", "\\u007f")


def _filled(title: str, head: str, body: str) -> str:
    before, _, rest = part("page.html").partition("{{title}}")
    middle, _, rest = rest.partition("{{head}}")
    inner, _, after = rest.partition("{{body}}")
    shown = html.escape(title).encode("ascii", "xmlcharrefreplace").decode()
    return f"{before}{shown}{middle}{head}{inner}{body}{after}"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
