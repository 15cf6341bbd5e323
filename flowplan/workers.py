"""Threads that call engines: what they and the watches say comes back through one inbox, to the one thread that writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any

from flowplan.planner.conduct.words import Answered, EndRead, Fact

AHEAD = 2
"""How many jobs are handed out for each worker, at least: one to do and one to go on with."""
LEAD = 0.1
"""Seconds of work that are handed out where jobs take less: their intents are written together."""
GATHER = 0.01
"""Seconds in which further answers are waited for while all workers have enough to do: they are written together."""
MOST_AT_ONCE = 1000
"""Messages that are taken from the inbox at once."""


Inbox = SimpleQueue[Fact | BaseException]
"""Where workers, watches and readers put what they have to say; an exception is raised where facts are taken out."""


class Workers:
    """``at_once`` threads.

    Attributes:
        inbox: where watches put their facts too; busy: jobs whose answer has not been taken yet.
    """

    def __init__(self, at_once: int) -> None:
        self.inbox: Inbox = SimpleQueue()
        self.busy = 0
        self._at_once = at_once
        self._answered, self._began = 0, time.monotonic()
        self._pool: ThreadPoolExecutor

    @contextmanager
    def working(self) -> Iterator[None]:
        """Until they have done what they were given."""
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="apply") as self._pool:
            yield

    def submit(self, work: Callable[..., Fact], *args: Any) -> None:
        """Call ``work`` in a thread; what it returns is a fact."""
        self.busy += 1

        def report(future: Future[Fact]) -> None:
            self.inbox.put(future.exception() or future.result())

        self._pool.submit(work, *args).add_done_callback(report)

    def facts(self, timeout: float) -> list[Fact]:
        """Return everything that has become known, waiting at most ``timeout`` seconds for the first fact.

        Raises:
            BaseException: whatever a worker or a watch did not expect.
        """
        facts: list[Fact] = []
        try:
            facts.append(self._next(timeout))
            if self.busy > AHEAD * self._at_once:
                time.sleep(GATHER)
            while len(facts) < MOST_AT_ONCE:
                facts.append(self._next(0))
        except Empty:
            pass
        answered = sum(isinstance(fact, Answered | EndRead) for fact in facts)
        self.busy -= answered
        self._answered += answered
        return facts

    def _next(self, timeout: float) -> Fact:
        fact = self.inbox.get(block=timeout > 0, timeout=timeout or None)
        if isinstance(fact, BaseException):
            raise fact
        return fact

    def room(self) -> int:
        """How many jobs more they shall have, so that none waits while the state is written."""
        pace = self._answered / (time.monotonic() - self._began)
        return self._at_once + max((AHEAD - 1) * self._at_once, int(pace * LEAD)) - self.busy
