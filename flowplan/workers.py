"""Threads that call engines. Their answers, and all other facts, come to the one thread that writes through one inbox."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any

from flowplan.planner.conduct.words import Answered, EndRead, Fact

AHEAD = 2
"""The least number of jobs for each worker: one that it does and one that waits."""
LEAD = 0.1
"""Seconds of work that are submitted ahead when jobs are shorter, so that their intents are written together."""
GATHER = 0.01
"""Seconds to wait for further answers while all workers have jobs waiting, so that answers are written together."""
MOST_AT_ONCE = 1000
"""The most facts that are taken from the inbox at once."""

Inbox = SimpleQueue[Fact | BaseException]
"""The queue of facts. An exception in it is a defect of a thread, and is raised where facts are taken out."""


class Workers:
    """A pool of ``at_once`` threads.

    Attributes:
        inbox: the facts of workers and listeners; busy: the number of jobs whose answer has not been taken out yet.
    """

    def __init__(self, at_once: int) -> None:
        self.inbox: Inbox = SimpleQueue()
        self.busy = 0
        self._at_once = at_once
        self._answered, self._began = 0, time.monotonic()
        self._pool: ThreadPoolExecutor

    @contextmanager
    def working(self) -> Iterator[None]:
        """Start the threads, and wait for the end of all submitted jobs afterwards."""
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="apply") as self._pool:
            yield

    def submit(self, work: Callable[..., Fact], *args: Any) -> None:
        """Call ``work`` in a thread and put the fact that it returns into the inbox."""
        self.busy += 1

        def report(future: Future[Fact]) -> None:
            self.inbox.put(future.exception() or future.result())

        self._pool.submit(work, *args).add_done_callback(report)

    def facts(self, timeout: float) -> list[Fact]:
        """Return the facts in the inbox, waiting at most ``timeout`` seconds for the first one.

        Raises:
            BaseException: an error that a worker or a listener did not expect.
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
        """Return how many more jobs to submit so that no worker is idle while the state is written."""
        pace = self._answered / (time.monotonic() - self._began)
        return self._at_once + max((AHEAD - 1) * self._at_once, int(pace * LEAD)) - self.busy
