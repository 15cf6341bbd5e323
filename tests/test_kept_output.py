"""The end of an output outlives its container: removed by a person or by the engine, shown or not."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from projects import Project, until

from flowplan.ends import KEPT, Ends
from flowplan.providers.protocol import LogLine


@pytest.mark.docker
def test_output_of_containers_that_are_gone(case_project: Callable[..., Project]) -> None:
    import docker

    project = case_project("kept-output")
    with project.start("apply", "--yes") as apply:
        assert apply.stdout and next(apply.stdout) == "removed | before it went\n"
        (box,) = docker.from_env().containers.list(filters={"name": f"{project.name}-removed"})
        box.remove(force=True)
        apply.communicate(timeout=60)
        assert apply.returncode == 3
    until(lambda: project.statuses() == {"removed": "lost", "collected": "succeeded"})
    for run, words in (("removed", "before it went\n"), ("collected", "short-lived\n")):
        logs = project.ok("logs", run)
        assert logs.out == words and "stored end of the output" in logs.err


def test_the_end_is_bounded_and_pieces_are_joined() -> None:
    ends = Ends()
    for n in range(10_000):
        ends.hear("a", LogLine(f"line {n:05} {'x' * 20}"))
    ends.hear("a", LogLine("one ", goes_on=True))
    ends.hear("a", LogLine("whole"))
    text, complete = ends.take("a")
    assert text.endswith(f"line 09999 {'x' * 20}\none whole") and len(text) <= KEPT and not complete
    ends.hear("b", LogLine("y" * 3 * KEPT))
    ends.complete("b")
    assert ends.take("b") == ("y" * (KEPT - 1), True) and ends.take("b") == ("", False)


def test_threads_lose_no_line() -> None:
    ends = Ends()

    def say(name: str) -> None:
        for n in range(200):
            ends.hear("a", LogLine(f"{name}{n}"))

    threads = [threading.Thread(target=say, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ends.take("a")[0].splitlines()) == 800
