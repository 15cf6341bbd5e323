"""Threads that call engines: what they and the watches say comes back through one inbox, to the one thread that writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any

AHEAD = 2
"""How many jobs are handed out for each worker, at least: one to do and one to go on with."""
LEAD = 0.1
"""Seconds of work that are handed out where jobs take less: their intents are written together."""
GATHER = 0.01
"""Seconds in which further answers are waited for while all workers have enough to do: they are written together."""
MOST_AT_ONCE = 1000
"""Messages that are taken from the inbox at once."""

Message = tuple[str, Any]
"""What happened, and to what."""


class Workers:
    """``at_once`` threads.

    Attributes:
        inbox: where watches put their messages too; busy: jobs whose answer has not been taken yet.
    """

    def __init__(self, at_once: int) -> None:
        self.inbox: SimpleQueue[Message] = SimpleQueue()
        self.busy = 0
        self._at_once = at_once
        self._answered, self._began = 0, time.monotonic()
        self._pool: ThreadPoolExecutor

    @contextmanager
    def working(self) -> Iterator[None]:
        """Until they have done what they were given."""
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="apply") as self._pool:
            yield

    def submit(self, kind: str, work: Callable[..., Any], *args: Any, **options: Any) -> None:
        """Call ``work`` in a thread; ``(kind, result)``, or ``("defect", exception)``, comes back as a message."""
        self.busy += 1

        def report(future: Future[Any]) -> None:
            defect = future.exception()
            self.inbox.put(("defect", defect) if defect else (kind, future.result()))

        self._pool.submit(work, *args, **options).add_done_callback(report)

    def messages(self, timeout: float) -> list[Message]:
        """Everything that was said, waiting at most ``timeout`` seconds for the first word."""
        messages: list[Message] = []
        try:
            messages.append(self.inbox.get(timeout=timeout))
            if self.busy > AHEAD * self._at_once:
                time.sleep(GATHER)
            while len(messages) < MOST_AT_ONCE:
                messages.append(self.inbox.get_nowait())
        except Empty:
            pass
        return messages

    def answered(self, count: int) -> None:
        """The answers of so many jobs have been dealt with."""
        self.busy -= count
        self._answered += count

    def room(self) -> int:
        """How many jobs more they shall have, so that none waits while the state is written."""
        pace = self._answered / (time.monotonic() - self._began)
        return self._at_once + max((AHEAD - 1) * self._at_once, int(pace * LEAD)) - self.busy
