"""The network to a shared state is cut while commands work: a short cut is waited out, after a long one others have gone on."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cuttable_proxy import CuttableProxy
from following import Following
from own_postgres import OwnPostgres, programs
from projects import Project, clear, until

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(programs() is None, reason="a PostgreSQL of one's own needs root and its programs"),
]

LONG = os.environ.get("FLOWPLAN_DISRUPT") == "1"
"""Whether to cut for longer than a command waits for its state, which takes minutes."""
CUTS = [("hold", 5), *(((how, seconds) for how in ("refuse", "hold") for seconds in (40, 120)) if LONG else ())]
"""What becomes of what is sent, and for how many seconds; a short one that refuses is in ``test_postgres_fails.py``."""
WAITED = 30
"""Seconds that a command waits for a state that is away, and that a lock outlasts its last renewal."""
PATIENCE = 180.0
RUNS = 40
MANY = f"""\
flowplan: 1
project: many
runs:
  s: {{provider: process, command: [sh, -c, "echo ${{run.id}} >> log"], matrix: {{i: {{from: 1, to: {RUNS}}}}}}}
"""
CHAIN = """\
flowplan: 1
project: chain
defaults: {provider: process}
runs:
  first: {command: [sh, -c, "echo ${run.id} >> log; until [ -e go ]; do sleep 0.05; done"]}
  second: {command: [sh, -c, "echo ${run.id} >> log"], needs: [first]}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[OwnPostgres]:
    made = OwnPostgres()
    yield made
    made.remove()


class Person:
    """A project of its own, the network of its owner to the state, and a colleague's, which is never cut."""

    def __init__(self, server: OwnPostgres, directory: Path, spec: str) -> None:
        directory.mkdir()
        self.network = CuttableProxy("127.0.0.1", server.port, delay=0.02)
        self.project = Project(directory, {"NO_COLOR": "1", "FLOWPLAN_STATE": server.url()})
        self.project.write(spec)
        self._through = server.url(port=self.network.port)
        self.commands: list[Following] = []

    def begins(self, *words: str, by_colleague: bool = False) -> Following:
        where = () if by_colleague else ("--state", self._through)
        self.commands.append(Following(self.project.start(*words, *where)))
        return self.commands[-1]

    def started(self) -> Counter[str]:
        log = self.project.directory / "log"
        return Counter(log.read_text().split() if log.exists() else ())

    def lets_go(self) -> None:
        (self.project.directory / "go").touch()

    def ended(self) -> bool:
        return set(self.project.statuses().values()) == {"succeeded"}


@pytest.fixture
def person(server: OwnPostgres, tmp_path: Path) -> Iterator[Callable[[str, str], Person]]:
    made: list[Person] = []

    def make(name: str, spec: str) -> Person:
        made.append(Person(server, tmp_path / name, spec))
        return made[-1]

    yield make
    for one in made:
        for command in one.commands:
            command.process.kill()
        clear(one.project)
        one.network.close()


def check(command: Following, *, waited: bool, told: bool) -> None:
    """Check that a command waited the cut out, where it may have, or ended and said why."""
    code = command.process.wait(PATIENCE)
    said = command.end(code)[1]
    explained = told and code in (1, 5) and ("cannot be reached" in said or "was lost" in said)
    assert explained or (waited and code == 0), (code, said)


@pytest.mark.parametrize(("how", "seconds"), CUTS)
def test_a_network_that_is_cut(person: Callable[[str, str], Person], how: str, seconds: int) -> None:
    applies, plans = person("apply", MANY), person("plan", MANY)
    watches, follows = person("watch", CHAIN), person("serve", CHAIN)
    for one in (watches, follows):
        one.project.ok("apply", "--yes", "--detach", timeout=PATIENCE)
    watch, serve = watches.begins("watch"), follows.begins("serve", "--listen", "none")
    serve.said("following ", PATIENCE)
    watch.said("second: waiting", PATIENCE)
    apply = applies.begins("apply", "--yes", "--parallelism", "1")
    until(lambda: len(applies.started()) > 2, PATIENCE)
    plan = plans.begins("plan")
    until(lambda: plans.network.asked > 2, PATIENCE)

    people = (applies, plans, watches, follows)
    for one in people:
        one.network.mode = how
        if how == "refuse":
            one.network.cut()
    begun = time.monotonic()
    watches.lets_go()
    follows.lets_go()
    if seconds > WAITED:
        follows.begins("serve", "--listen", "none", by_colleague=True)
        applies.project.ok("apply", "--yes", "--lock-timeout", "120s", timeout=PATIENCE)
        until(follows.ended, PATIENCE)
        done = [(one.started(), one.project.events()) for one in (applies, follows)]
        assert set(done[0][0].values()) == {1} and len(done[0][0]) == RUNS
    time.sleep(max(0.0, begun + seconds - time.monotonic()))
    for one in people:
        one.network.mode = "open"

    long = seconds > WAITED
    check(apply, waited=not long, told=long)
    for command in (plan, watch):  # a silent network that comes back is no error for who only reads
        check(command, waited=True, told=long)
    if long:  # who lost the lock has written and started nothing
        assert [(one.started(), one.project.events()) for one in (applies, follows)] == done
    until(follows.ended, PATIENCE)
    for follower in follows.commands:
        follower.process.terminate()
        assert follower.process.wait(PATIENCE) in (0, 143)
    for one in (applies, plans, watches):
        one.project.ok("apply", "--yes", "--lock-timeout", "60s", timeout=PATIENCE)
        assert one.ended()
    assert {count for one in people for count in one.started().values()} == {1}
    for one in people:
        numbers = [event["seq"] for event in one.project.events()]
        assert numbers == list(range(1, len(numbers) + 1))
