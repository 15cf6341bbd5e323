"""Find secrets in bytes: one pass for any number of texts, over a whole or over a stream that comes in pieces.

The supervisor of processes uses this too, which imports next to nothing: this module needs one library, and no other
module of flowplan.
"""

from __future__ import annotations

import re
from bisect import bisect_left

from ahocorasick_rs import BytesAhoCorasick, Implementation, MatchKind

TYPE_CHECKING = False  # `typing` takes as long to import as all the rest
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

REDACTED = b"(sensitive)"
SHORTEST = 4
"""Bytes of the shortest text that is looked for inside others; shorter ones are words."""
FRAGMENT = 16
"""Bytes of a text with ignored white space that are hidden, though the rest of it is missing."""
LINE = 48
"""Bytes of a long text with ignored white space by which a part of it is found: a line of base64 has 60 at least."""
_ANCHORS = 512
"""Pieces by which such a text is found, at most."""
KEPT = 64
"""Bytes of the beginning of such a text that are held back; with more, it is one."""
_VECTORS = 60
"""Texts up to which the library compares many bytes at once: several such passes are quicker than one of another kind."""
_PASSES = 8
_HEAD = 6
"""Bytes by which many texts are looked for at first."""
_SPACES = b" \t\r\n"
_LINE_ENDS = (b" ", b"\t", b"\r", b"\n")
_WORDLY = re.compile(rb"[\w\x80-\xff]")

Places = list[tuple[int, int]]
"""Start and end of what is to be hidden, in order, not overlapping."""


class Part:
    """Where a text with ignored white space is, or a part of it.

    Attributes:
        read: how much of the text has come at ``end``.
        open: whether the bytes that follow may be the next part of the text.
    """

    __slots__ = ("end", "open", "read", "start", "text")

    def __init__(self, start: int, end: int, read: int, open: bool, text: bytes) -> None:
        self.start, self.end, self.read, self.open, self.text = start, end, read, open, text


class Scan:
    """What is to be hidden in some bytes; where that starts which depends on those that follow; what goes on there."""

    __slots__ = ("going_on", "hold", "places")

    def __init__(self, places: Places, hold: int, going_on: Sequence[Part]) -> None:
        self.places, self.hold, self.going_on = places, hold, going_on


class _Texts:
    """Where any of many texts is in some bytes, also where they overlap."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        heads = list(texts) if len(texts) <= _VECTORS else sorted({text[:_HEAD] for text in texts})
        size = _VECTORS if len(heads) <= _VECTORS * _PASSES else len(heads)
        parts = [heads[at : at + size] for at in range(0, len(heads), size)]
        self._quick = [_automaton(part, MatchKind.LeftmostLongest) for part in parts]
        self._all = _automaton(texts, MatchKind.Standard)

    def places(self, data: bytes) -> list[tuple[int, int, int]]:
        """Return number of the text, start and end of every occurrence."""
        if not any(quick.find_matches_as_indexes(data) for quick in self._quick):
            return []
        return self._all.find_matches_as_indexes(data, overlapping=True)


def _automaton(texts: Iterable[bytes], kind: MatchKind) -> BytesAhoCorasick:
    """Return the smallest automaton that is quick enough: a table of all transitions would take megabytes for a key."""
    return BytesAhoCorasick(list(texts), matchkind=kind, implementation=Implementation.ContiguousNFA)


class Matcher:
    """All texts to hide. Immutable, and shared by many streams.

    Args:
        anywhere: hidden wherever they stand.
        words: hidden where they stand as words of their own.
        wrapped: without white space; hidden also when there is white space inside them, and in part.
    """

    def __init__(
        self, anywhere: Iterable[bytes] = (), words: Iterable[bytes] = (), wrapped: Iterable[bytes] = ()
    ) -> None:
        self._forms = sorted({form for form in anywhere if form})
        self._words = sorted({word for word in words if word})
        self._wrapped = sorted({text for text in wrapped if len(text) >= 2 * SHORTEST})
        self._find_forms = _Texts(self._forms) if self._forms else None
        self._find_words = _Texts(self._words) if self._words else None
        self.has_words = bool(self._words)
        self._longest = max(map(len, [*self._forms, *self._words]), default=0)
        self._starts = sorted(self._forms + self._words)
        heads = {text[:SHORTEST] for text in self._starts}
        self._find_starts = _automaton(heads, MatchKind.Standard) if heads else None
        anchors: dict[bytes, list[tuple[bytes, int]]] = {}
        for text in self._wrapped:
            size = max(SHORTEST, min(8, len(text) // 4))
            step = max(size, min(len(text) // 4, LINE), len(text) // _ANCHORS)
            for at in range(0, len(text) - size + 1, step):
                anchors.setdefault(text[at : at + size], []).append((text, at))
        self._anchors = list(anchors.items())
        self._first = frozenset(text[0] for text in self._wrapped)
        self._find_anchors = _Texts([anchor for anchor, _ in self._anchors]) if anchors else None

    def __bool__(self) -> bool:
        return bool(self._starts or self._wrapped)

    def __call__(self, data: bytes) -> bytes:
        """Return some bytes without what is to be hidden."""
        return shown(data, self.scan(data, last=True).places, 0, len(data))

    def scan(self, data: bytes, *, last: bool, begun: Sequence[Part] = (), since: int = 0) -> Scan:
        """Return what is to be hidden in some bytes.

        Args:
            last: whether no bytes follow.
            begun: parts of wrapped texts that are known already.
            since: where the bytes begin that are new; what stands before was looked at, and says only what is a word.
        """
        found: Places = [(start, end) for _, start, end in self._find_forms.places(data)] if self._find_forms else []
        for _, start, end in self._find_words.places(data) if self._find_words else ():
            alone = not _WORDLY.match(data, end) and not (start and _WORDLY.match(data, start - 1))
            if alone and start >= since and (last or end < len(data)):
                found.append((start, end))
        parts = [*begun, *(self._parts(data) if self._find_anchors else ())]
        found += [(part.start, part.end) for part in parts if part.start < part.end]
        if last:
            return Scan(_merged(found), len(data), ())
        hold = min(self._start_at_end(data), self._wrapped_at_end(data))
        going_on = [part for part in parts if part.open and (part in begun or part.start < hold)]
        return Scan(_merged(found), min([hold, *(part.end for part in going_on)]), going_on)

    def _parts(self, data: bytes) -> list[Part]:
        """Return every wrapped text, and every part of one that is long enough."""
        assert self._find_anchors
        found, covered = [], -1
        for number, start, end in self._find_anchors.places(data):
            for text, at in self._anchors[number][1] if end > covered else ():
                part = _part(data, start, text, at)
                if part:
                    found.append(part)
                    covered = max(covered, part.end)
        return found

    def _wrapped_at_end(self, data: bytes) -> int:
        """Return the start of the longest end of ``data`` that begins a wrapped text."""
        tail = data[-8 * KEPT :]
        squeezed = tail.translate(None, _SPACES)[-KEPT:]
        shortest = SHORTEST if tail[-1:] in _LINE_ENDS else 1
        for size in range(len(squeezed), shortest - 1, -1):
            if squeezed[-size] in self._first and _begins(self._wrapped, squeezed[-size:]):
                return _back(data, size)
        return len(data)

    def _start_at_end(self, data: bytes) -> int:
        """Return the start of the longest end of ``data`` that begins a text."""
        if self._find_starts is None:
            return len(data)
        first = max(0, len(data) - self._longest)
        tail = data[first:]
        found = self._find_starts.find_matches_as_indexes(tail, overlapping=True)
        starts = sorted({*(start for _, start, _ in found), *range(max(0, len(tail) - SHORTEST), len(tail))})
        for start in starts:
            end = tail[start:]
            if end in self._words or _begins(
                self._starts, end
            ):  # a word that may not be over yet, or the start of a text
                return first + int(start)
        return len(data)


def _begins(texts: Sequence[bytes], start: bytes) -> bool:
    """Return whether one of the sorted texts is longer than ``start``, and begins with it."""
    at = bisect_left(texts, start)
    at += at < len(texts) and texts[at] == start
    return at < len(texts) and texts[at].startswith(start)


def _back(data: bytes, size: int) -> int:
    """Return the place with ``size`` bytes after it, not counting white space."""
    at = len(data)
    while size and at:
        at -= 1
        size -= data[at] not in _SPACES
    return at


def _part(data: bytes, start: int, text: bytes, at: int) -> Part | None:
    """Return what there is of ``text`` around a piece of it, white space ignored; None when it is too little.

    Args:
        start: where the byte ``at`` of the text is in ``data``.
    """
    first, left, line = start, at, (start, at)
    for before in range(start - 1, -1, -1):
        if left and data[before] == text[left - 1]:
            first, left = before, left - 1
        elif left and data[before] in _SPACES:
            line = (first, left) if line[1] - left >= SHORTEST else line
        else:
            break
    if left and line[1] - left < SHORTEST:
        first, left = line
    end, read, is_open, _ = _follow(data, start, text, at)
    return Part(first, end, read, is_open, text) if read - left >= min(FRAGMENT, len(text) - SHORTEST + 1) else None


def _follow(data: bytes, start: int, text: bytes, read: int) -> tuple[int, int, bool, bytes]:
    """Return the end of a ``Part``: where ``text`` does end, or breaks off; ``read`` bytes of it came before ``start``.

    A few bytes at the beginning of a line are no part of it.
    """
    end, line = start, (start, read)
    for at in range(start, len(data)):
        if data[at] == text[read]:
            end, read = at + 1, read + 1
            if read == len(text):
                return end, read, False, text
        elif data[at] in _SPACES:
            line = (end, read)
        else:
            break
    else:
        at = len(data)
    short = read - line[1] < SHORTEST
    return (*(line if short else (end, read)), at == len(data), text)


def _merged(places: Places) -> Places:
    """Return the places in order; those that overlap are one."""
    found: Places = []
    for start, end in sorted(places):
        if found and start < found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def shown(data: bytes, places: Places, start: int, end: int, *, continued: bool = False) -> bytes:
    """Return ``data[start:end]`` with a word for each place.

    Args:
        continued: whether the first place goes on from what was shown before, with its word.
    """
    parts = []
    for first, after in places:
        if first >= end:
            break
        parts.append(data[start:first])
        if not (continued and first <= start):
            parts.append(REDACTED)
        start, continued = max(start, min(after, end)), False
    return b"".join([*parts, data[start:end]]) if parts else data[start:end]


class Stream:
    """Bytes that come in pieces, without what is to be hidden, wherever the pieces begin and end.

    What may be the beginning of something to be hidden is held back, and nothing else.

    Attributes:
        matcher: may be replaced by one that knows more.
    """

    def __init__(self, matcher: Matcher) -> None:
        self.matcher = matcher
        self._before = b""  # the byte before the next one: says whether a word begins there
        self._held = b""
        self._known = 0  # bytes of those that are to be hidden, and whose word is shown already
        self._inside: Sequence[tuple[bytes, int, int]] = ()  # wrapped texts that go on: how much came, and up to where

    def feed(self, data: bytes, *, last: bool = False) -> bytes:
        """Return what can be shown now."""
        context = len(self._before)
        data = self._before + self._held + data
        known = context + self._known
        begun = [Part(context, *_follow(data, context + offset, text, read)) for text, read, offset in self._inside]
        scan = self.matcher.scan(data, last=last, begun=begun, since=context)
        continued = self._known > 0 or any(part.end > context for part in begun)
        places = _merged([(context, known), *scan.places]) if self._known else scan.places
        hold = max(context, scan.hold)
        now = shown(data, places, context, hold, continued=continued)
        told = max(hold - 1, context if continued else -1)  # a place that starts later has had no word yet
        self._known = next((end - hold for start, end in places if start <= told and hold < end), 0)
        self._inside = [(part.text, part.read, part.end - hold) for part in scan.going_on]
        self._before = data[max(0, hold - 1) : hold] if self.matcher.has_words else b""
        self._held = data[hold:]
        return now

    def passes(self, data: bytes) -> bool:
        """Take in bytes that can be shown as they are; return False, and take in nothing, where ``feed`` has to look."""
        if self.holds:
            return False
        data = self._before + data
        scan = self.matcher.scan(data, last=False, since=len(self._before))
        if scan.places or scan.going_on or scan.hold < len(data):
            return False
        self._before = data[-1:] if self.matcher.has_words else b""
        return True

    def flush(self) -> bytes:
        """Return what was held back, at the end."""
        return self.feed(b"", last=True)

    @property
    def holds(self) -> bool:
        """Return whether what was fed ends inside something that is, or may be, to be hidden."""
        return bool(self._held or self._known or self._inside)

    def drop(self) -> None:
        """Forget what was held back: what follows it will never be known."""
        self._before, self._held, self._known, self._inside = b"", b"", 0, ()
