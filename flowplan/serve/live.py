"""The document of the page, as a follower serves it: made again when the state has changed, and not too often."""

from __future__ import annotations

import gzip
import hashlib
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import closing
from typing import NamedTuple

from flowplan.schemas.codec import encode
from flowplan.schemas.report import Report
from flowplan.state.store import Store
from flowplan.webpage import json_text

REST = 10
"""How many times as long as it took to make a document it is served at least."""


class Made(NamedTuple):
    """A document: compressed JSON, and what tells it from others."""

    tag: str
    packed: bytes


class Live:
    """The newest document, for any number of readers.

    One that is a little old is no harm: it says up to which event it goes, and readers follow the events from there.

    Args:
        opened: opens the state for reading. document_of: makes the document of one.
        mark_of: returns what differs once another document would be made.
    """

    def __init__(
        self, opened: Callable[[], Store], document_of: Callable[[Store], Report], mark_of: Callable[[Store], Hashable]
    ) -> None:
        self._opened, self._document_of, self._mark_of = opened, document_of, mark_of
        self._making = threading.Lock()
        self._made: Made | None = None
        self._mark: Hashable = None
        self._until = 0.0

    def newest(self) -> Made:
        """Return the document of the state as it is now, or was a moment ago."""
        with self._making:
            if self._made is None or time.monotonic() >= self._until:
                self._made = self._look()
            return self._made

    def _look(self) -> Made:
        began = time.monotonic()
        with closing(self._opened()) as store:
            mark = self._mark_of(store)
            if self._made is not None and mark == self._mark:
                return self._made
            text = json_text(encode(self._document_of(store))).encode()
        self._mark, self._until = mark, began + (REST + 1) * (time.monotonic() - began)
        return Made(f'"{hashlib.sha256(text).hexdigest()[:32]}"', gzip.compress(text, 6, mtime=0))
