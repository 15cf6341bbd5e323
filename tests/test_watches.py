"""What a watch says of an engine becomes known: news of runs, each trouble once, and once that it is over."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from flowplan.following import Watches
from flowplan.planner.conduct.words import Seen, Trouble, Well
from flowplan.providers.protocol import News
from flowplan.schemas.errors import EngineUnreachable, ProviderError
from flowplan.schemas.runs import Observed, Recorded, Settings, Status

RUN = Recorded("a", "p", "fake", {}, 1, "a#1", "", {}, Settings(), Status.RUNNING)
NEWS = Observed("a#1", status=Status.RUNNING)
FULL, AWAY = ProviderError("the disk is full"), EngineUnreachable("no answer")


@pytest.mark.parametrize(
    ("news", "facts"),
    [
        ([NEWS, None], [Seen]),
        ([AWAY, AWAY, NEWS, None], [Trouble, Well, Seen]),
        ([AWAY, None, NEWS], [Trouble, Well, Seen]),
        ([FULL, NEWS, FULL, NEWS, None, NEWS], [Trouble, Seen, Seen, Well, Seen]),
        ([FULL, None, FULL], [Trouble, Well, Trouble]),
    ],
    ids=["news", "answers with news", "answers", "stays full beside news", "full again"],
)
def test_each_trouble_is_told_once_and_once_that_it_is_over(news: list[News], facts: list[type]) -> None:
    def watch(records: Sequence[Recorded], stop: threading.Event) -> Iterator[News]:
        yield from news

    engines: Any = SimpleNamespace(provider=lambda name: SimpleNamespace(watch=watch))
    inbox: SimpleQueue[Any] = SimpleQueue()
    watches = Watches(engines, inbox)
    watches.add([RUN])
    watches.refresh(complete=True)
    heard = [inbox.get(timeout=10) for _ in facts]
    watches.close()
    assert [type(fact) for fact in heard] == facts and inbox.empty()


def test_a_watch_that_breaks_ends_the_command_instead_of_letting_it_wait() -> None:
    def watch(records: Sequence[Recorded], stop: threading.Event) -> Iterator[News]:
        raise OSError("nobody expected this")
        yield

    engines: Any = SimpleNamespace(provider=lambda name: SimpleNamespace(watch=watch))
    inbox: SimpleQueue[Any] = SimpleQueue()
    watches = Watches(engines, inbox)
    watches.add([RUN])
    watches.refresh(complete=True)
    assert isinstance(inbox.get(timeout=60), OSError)
    watches.close()
