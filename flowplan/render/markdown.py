"""Pieces of Markdown that stay what they are, whatever is in them: no text ends its cell, its fence or its fold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256

from flowplan.schemas.text import harmless

_LONGEST_LINE = 400


def entities(text: str) -> str:
    """Escape a text so that HTML, tables and Markdown leave it as it is; mentions and links stay silent."""
    quiet = re.sub(r"(@|#|www\.|://)", lambda m: f"{m[0][0]}\u200b{m[0][1:]}", harmless(text))
    return re.sub(r"[^\w .,:;/=()%+\u200b-]|_", lambda m: f"&#{ord(m[0])};", quiet)


def code(text: str) -> str:
    """Return a name as code, wherever it stands."""
    return "<code>" + re.sub(r"[^\w .,:;/=()%+-]|_", lambda m: f"&#{ord(m[0])};", harmless(text)) + "</code>"


def span(text: str) -> str:
    """Return one line of text as a code span that its content cannot end; not for tables, whose cells a ``|`` ends."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def node_text(text: str) -> str:
    """Return the name of a node, with nothing in it that mermaid could read as its own."""
    return re.sub(r"[^\w .,=/-]", "?", harmless(text)[:60])


def fenced(lines: Sequence[str], language: str) -> str:
    """Fence lines so that their content cannot close the fence."""
    runs = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, runs + 1)
    return f"{fence}{language}\n" + "".join(f"{line}\n" for line in lines) + f"{fence}\n"


def folded(title: str, body: str) -> str:
    """Return a fold; ``title`` is safe HTML, and the blank lines make ``body`` Markdown again."""
    return f"<details><summary>{title}</summary>\n\n{body}\n</details>\n\n"


def alert(kind: str, lines: Sequence[str]) -> str:
    """Return an alert of GitHub's, which is a quotation elsewhere; "" when it says nothing."""
    return "".join(f"> {line}\n" for line in (f"[!{kind}]", *lines)) + "\n" if lines else ""


def cut(line: str, longest: int = _LONGEST_LINE) -> str:
    """Return a line without its middle when it is too long, telling its length and digest; its end always stays."""
    if len(line) <= longest:
        return line
    half = longest // 2
    name = sha256(line.encode()).hexdigest()[:16]
    return f"{line[:half]} ...[cut: {len(line) - longest} of {len(line)} characters, sha256:{name}]... {line[-half:]}"
