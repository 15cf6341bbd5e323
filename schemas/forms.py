"""The texts by which a secret may appear: as programs write it into JSON, source code, shells, URLs, HTML and base64.

A class of encoders is a set of ways to write single characters; a form is the value with every character written in one
of these ways, or in two after one another. What stands around a form is of no matter.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain, product
from typing import NamedTuple
from urllib.parse import quote

SHORT = 4
"""Characters of the shortest value that is looked for inside words."""
LINE = 6
"""Characters of the shortest line of a secret of several lines that is looked for by itself."""
CASED = 8
"""Characters of the shortest value that is also looked for in capitals and in small letters."""
LONG = 1024
"""Characters of a value from which on less is done for it, which would take megabytes."""
_MOST = 1 << 18
"""Characters of all escaped forms of one value, at most: the likely ones come first."""
_ONCE, _TWICE = 256, 32
"""Lines of a value, the longest first, that are looked for as an encoder writes them, and as two do."""
_WRAPPED = 12
"""Characters of base64 or hex from which on it is found with line ends inside, too."""

_SIMPLE = re.compile(r"[A-Za-z0-9_.-]*")
"""Texts that every encoder of single characters leaves as they are."""

Encoder = Callable[[str], str]
"""How one character is written."""


class Forms(NamedTuple):
    """The texts by which secrets may appear, for ``redaction.Matcher``; a lone surrogate is a byte that is no UTF-8."""

    anywhere: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()
    wrapped: frozenset[str] = frozenset()


def is_secret(value: str) -> bool:
    """Return whether a value is hidden: to hide a single character would hide nothing but the output."""
    return len(value.strip()) > 1


def forms_of(values: Iterable[str]) -> Forms:
    """Return every form of every value."""
    every = [_forms(value) for value in values if is_secret(value)]
    return Forms(*(frozenset(chain.from_iterable(kind)) for kind in zip(*every, strict=True))) if every else Forms()


@lru_cache(maxsize=64)
def _forms(value: str) -> Forms:
    rows = value.splitlines()
    lines = {row.strip() for row in rows if len(row.strip()) >= LINE} if len(rows) > 1 else set()
    whole = {value, value.strip()} if len(value) <= 4 * LONG else set()
    found, room = lines | whole, _MOST
    found |= {cased for text in whole if len(text) >= CASED for cased in (text.upper(), text.lower())}
    texts = sorted(whole | lines, key=len, reverse=True)
    for form in _written([text for text in texts if not _SIMPLE.fullmatch(text)]):
        if form not in found:
            found.add(form)
            room -= len(form)
            if room < 0:
                break
    wrapped = {"".join(value.split())} if len(rows) > 1 or not whole else set()
    for text in {value, value.strip()} if len(value) > LONG else whole | lines:
        wrapped |= _encoded(text)
    found |= {text for text in wrapped if len(text) < _WRAPPED}
    found = {form for form in found if is_secret(form)}
    words = {form for form in found if len(form) < SHORT}
    return Forms(frozenset(found - words), frozenset(words), frozenset(w for w in wrapped if len(w) >= _WRAPPED))


def as_bytes(text: str) -> bytes:
    """Return the bytes of a text; lone surrogates stand for bytes that are no UTF-8, as in an environment."""
    foreign = any("\ud800" <= c <= "\udfff" and not "\udc80" <= c <= "\udcff" for c in text)
    return text.encode("utf-8", "surrogatepass" if foreign else "surrogateescape")


def _written(texts: list[str]) -> Iterator[str]:
    """Yield the texts as encoders write them, then as other encoders write that, the likely first."""
    once = [[text, *_once(text)] for text in texts[:_ONCE]]
    yield from chain.from_iterable(once)
    twice = [list(chain.from_iterable(map(_again, dict.fromkeys(forms)))) for forms in once[:_TWICE]]
    yield from chain.from_iterable(twice)
    for forms in twice:
        yield from (_table(form, _json()) for form in dict.fromkeys(forms))


def _once(text: str) -> Iterator[str]:
    """Yield a text as one encoder writes it."""
    for encoder in chain(_json_encoders(text), _source_encoders(text), _shell_encoders(), _HTML):
        yield _table(text, encoder)
    yield from _quoted(text)
    yield from _percent(text)
    yield as_bytes(text).decode("utf-8", "replace")
    if not text.isascii() and all(c < "\u0100" for c in text):
        latin = text.encode("latin-1")
        yield from (latin.decode("utf-8", "surrogateescape"), latin.decode("utf-8", "replace"))


def _again(form: str) -> Iterator[str]:
    """Yield what has been written once, as others write that: JSON in JSON, in a shell, in Python, in a URL."""
    json = (
        _json(html, slash=slash, wide=wide)
        for html in _HTML_IN_JSON[:2]
        for slash in (False, True)
        for wide in (False, True)
    )
    for encoder in (*json, _source("'"), _source('"')):
        yield _table(form, encoder)
    yield from _quoted(form)
    percent = quote(as_bytes(form), safe="")
    yield from (percent, _lower(percent), _table(form, _HTML[1]))


def _table(text: str, encoder: Encoder) -> str:
    return text.translate({ord(c): encoder(c) for c in set(text)})


# -- JSON

_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_HTML_IN_JSON = ("", "<>&\u2028\u2029", "<>&'\u2028\u2029", "<>&'\"\u2028\u2029", "<>&'\"+`\x7f\u2028\u2029")
"""What encoders write as ``\\u003c`` though they need not: none, Go and Ruby, Jinja and Django, PHP, .NET."""


def _json(
    html: str = "", *, slash: bool = False, upper: bool = False, wide: bool = False, brief: str = "\b\f"
) -> Encoder:
    """Return how an encoder of JSON writes a character.

    Args:
        html: what it escapes for HTML; slash: as ``\\/``; upper: hex digits; wide: escapes what is not ASCII;
        brief: the rare controls that it writes as ``\\b`` and ``\\f``.
    """

    def write(c: str) -> str:
        if c in html or (wide and c > "~"):
            return _utf16(c, upper)
        if c in '"\\' or (slash and c == "/"):
            return "\\" + c
        if c in "\n\r\t" or (c in brief and c in _SHORT_ESCAPES):
            return _SHORT_ESCAPES[c]
        return _utf16(c, upper) if c < " " else c

    return write


def _utf16(c: str, upper: bool) -> str:
    data = c.encode("utf-16-be", "surrogatepass")
    units = (int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2))
    return "".join(f"\\u{unit:04X}" if upper else f"\\u{unit:04x}" for unit in units)


def _json_encoders(text: str) -> Iterator[Encoder]:
    """Yield the encoders of JSON that may differ on a text."""
    chars = set(text)
    html = [one for one in _HTML_IN_JSON if not one or chars & set(one)]
    slash = (False, True) if "/" in chars else (False,)
    wide = (False, True) if any(c > "~" for c in chars) else (False,)
    upper = (False, True) if len(html) > 1 or len(wide) > 1 or any(c < " " for c in chars) else (False,)
    brief = ("\b\f", "") if chars & {"\b", "\f"} else ("\b\f",)
    for w, h, s, u, b in product(wide, html, slash, upper, brief):
        yield _json(h, slash=s, upper=u, wide=w, brief=b)


# -- source code: Python, C, Go, YAML, $'...'

_LETTERS = {**_SHORT_ESCAPES, "\a": "\\a", "\v": "\\v"}


def _each_byte(form: str) -> Encoder:
    return lambda c: "".join(form % byte for byte in as_bytes(c))


def _python(c: str) -> str:
    return c.encode("unicode_escape").decode()


def _yaml(c: str) -> str:
    return f"\\x{ord(c):02X}" if c < "\u0100" else f"\\u{ord(c):04X}" if c < "\U00010000" else f"\\U{ord(c):08X}"


def _printable(c: str) -> str:
    return c if c.isprintable() else _python(c)


_CODES: tuple[tuple[Encoder, Encoder, str], ...] = (
    (_each_byte("\\x%02x"), _printable, "\n\r\t"),  # repr of a text
    (_each_byte("\\x%02x"), _python, "\n\r\t"),  # ascii()
    (_each_byte("\\x%02x"), _each_byte("\\x%02x"), "\n\r\t"),  # repr of bytes
    (_each_byte("\\x%02x"), str, "\n\r\t\b\f\a\v"),  # Go
    (_each_byte("\\%03o"), _each_byte("\\%03o"), "\n\r\t\b\f\a\v"),  # C, ls, git, a shell
    (_each_byte("\\%03o"), str, "\n\r\t\b\f\a\v"),  # a shell that can print it
    (_yaml, _yaml, "\n\r\t\b\a\v\f"),
    (_each_byte("\\x%02X"), _each_byte("\\x%02X"), "\n\r\t\b\f\a\v"),
)
"""How controls and what is not ASCII are written, and which controls are letters."""


def _source(
    quotes: str, control: Encoder = _CODES[0][0], wide: Encoder = str, letters: str = "\n\r\t", escape: str = ""
) -> Encoder:
    """Return how source code writes a character in a literal between one of ``quotes``."""

    def write(c: str) -> str:
        if c == "\\" or c in quotes:
            return "\\" + c
        if c == "\x1b" and escape:
            return escape
        if c in letters:
            return _LETTERS[c]
        return control(c) if c < " " or c == "\x7f" else wide(c) if c > "~" else c

    return write


def _source_encoders(text: str) -> Iterator[Encoder]:
    """Yield the ways of source code that may differ on a text."""
    codes = _CODES if any(c < " " or c > "~" for c in text) else _CODES[:1]
    escapes = ("", "\\E") if "\x1b" in text else ("",)
    for quotes, (control, wide, letters), escape in product(("'", "", '"', "'\"", " "), codes, escapes):
        yield _source(quotes, control, wide, letters, escape)
    for code in ("\\%03o", "\\x%02x", "\\x%02X"):
        each = _each_byte(code)
        yield lambda c, each=each: each(c) if c in '"\\' or not " " <= c <= "~" else c  # type: ignore[misc]


# -- shells

_BASH = " \t!\"#$&'()*;<>?[\\]^`{|}~,"
"""What ``printf %q`` puts a backslash before; ``#`` and ``~`` at a beginning only."""
_SHELLS = (_BASH, _BASH.replace("~", ""), _BASH.replace("#", "").replace("~", ""), '\\"$`', '\\"$`!', "\\ ", " ")
"""What each way to quote puts a backslash before."""


def _shell_encoders() -> Iterator[Encoder]:
    for special in _SHELLS:
        yield lambda c, special=special: "\\" + c if c in special else c  # type: ignore[misc]


def _quoted(text: str) -> Iterator[str]:
    """Yield a text in single quotes, as each shell writes those inside, and with quotes doubled (SQL, YAML, CSV)."""
    if "'" in text:
        inner = ("'\\''", "'\"'\"'", "''")
        every = [text.replace("'", one) for one in inner]
        every.append(re.sub("'+", lambda found: f"'\"{found.group()}\"'", text))
        for form in every:  # no shell writes an empty '' at the end
            start, end = text.startswith("'") and form.startswith("'"), text.endswith("'")
            yield form[start : len(form) - end]
    if '"' in text:
        yield text.replace('"', '""')


# -- URLs and HTML

_SAFE = (
    "", "/", "!'()*", "*", "$&+=:@", "$&+,;=", ";,/?:@&=+$#!'()*", "$&+,/:;=@", "!$&'()*+,;=", "!$&'()*+,;=:@",
    "!$&'()*+,;=:@/",
)  # fmt: skip
"""What writers of URLs leave as it is beside letters, digits and ``-._~``: RFC 3986, JavaScript, Java, Go, browsers."""


def _percent(text: str) -> Iterator[str]:
    data = as_bytes(text)
    for safe in _SAFE:
        form = quote(data, safe=safe)
        for one in {form, form.replace("%20", "+"), form.replace("%20", "+").replace("~", "%7E")}:
            yield from (one, _lower(one))


def _lower(form: str) -> str:
    """Return the same with lower-case hex digits."""
    return re.sub(r"%[0-9A-F]{2}", lambda found: found.group().lower(), form)


def _html(**special: str) -> Encoder:
    signs = {"quot": '"', "apos": "'", "tick": "`", "equals": "="}
    names = {"&": "&amp;", "<": "&lt;", ">": "&gt;", **{signs[name]: written for name, written in special.items()}}
    return lambda c: names.get(c, c)


_HTML = (
    _html(),
    _html(quot="&quot;", apos="&#x27;"),
    _html(quot="&quot;", apos="&#39;"),
    _html(quot="&#34;", apos="&#39;"),
    _html(quot="&quot;", apos="&apos;"),
    _html(quot="&quot;", apos="&#039;"),
    _html(quot="&quot;"),
    _html(quot="&quot;", apos="&#x27;", tick="&#x60;", equals="&#x3D;"),
)


# -- base64 and hex


def _encoded(text: str) -> set[str]:
    """Return what is certain to appear in the base64 or hex of any text that holds this one, plainly or inside JSON."""
    data = as_bytes(text)
    if len(data) < SHORT:
        return set()
    found = {data.hex(), data.hex().upper(), *(base64.b64encode(data + end).decode() for end in (b"", b"\n"))}
    sources = {data}
    if len(data) <= LONG:
        sources |= {as_bytes(_table(text, _json())), as_bytes(_table(text, _json(wide=True)))}
        sources |= {one.encode() for one in _aligned(data)} if len(data) > 2 * SHORT else set()
    for source in sources:
        for form in _aligned(source):
            found |= {form, form.translate(str.maketrans("+/", "-_"))}
    return found


def _aligned(data: bytes) -> set[str]:
    """Return the base64 of bytes at each of the three places where they may begin, without what depends on others."""
    found = set()
    for offset, first in enumerate((0, 2, 3)):
        whole = base64.b64encode(b"\0" * offset + data).decode()
        found.add(whole[first : (len(data) + offset) * 8 // 6])
    return found
