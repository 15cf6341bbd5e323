"""The rounds of the fault harness: end a command at a point, run the next one, and compare engine, state and history.

``make faults`` plays all of them and writes their table into ``docs/reliability.md``; ``--random 500 --seed 1`` kills applies
and destroys of twenty runs at random moments instead.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cuttable_proxy import CuttableProxy
from fault_world import PATIENCE, WORLDS, World
from faulty_proxy import FaultyProxy
from own_postgres import OwnPostgres

import flowplan.providers
import flowplan.schemas
import flowplan.state

SOURCES = [Path(package.__path__[0]) for package in (flowplan, flowplan.providers, flowplan.schemas, flowplan.state)]
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- rounds -->", "<!-- end of rounds -->"
LEFT_OUT: dict[str, str] = {}
"""Points of the sources that no command here passes, and why that is as it should be."""
DELAY = 0.005
"""Seconds that a round trip to the database takes while its network is cut at random."""
FINAL = ("succeeded", "failed", "timed_out", "cancelled", "lost", "destroyed")
SUPERVISOR = ("supervisor:after_claim", "supervisor:after_fork")
"""Points in the processes that start a run; there it is not flowplan that dies."""


@dataclass(frozen=True)
class Command:
    """One command under test.

    Attributes:
        before: what is there already; arguments: the command that is ended; after: what a person does next.
        attempts: the attempts of a, b and c afterwards, none when nothing is recorded any more; ends: their statuses.
        providers: those that have such a change.
        faults: what happens instead of an end at a named point: the ``KEEPERS`` that are killed after the command, or
            the ``ANSWERS`` that do not come back from the engine.
        rebuilt: the state was made again from what was there, so that its history does not begin with intents.
        of_file: it is about the file of a state, or its directory.
        beside: a command that begins a moment after this one, and works for the same runs until they have ended.
    """

    name: str
    before: Callable[[World], object]
    arguments: tuple[str, ...]
    after: Callable[[World], object]
    attempts: tuple[int, ...]
    ends: tuple[str, ...] = ("succeeded",) * 3
    providers: tuple[str, ...] = ("process", "docker", "kubernetes", "slurm")
    faults: tuple[str, ...] = ()
    rebuilt: bool = False
    of_file: bool = False
    beside: tuple[str, ...] = ()


def nothing(world: World) -> None:
    world.spec("short")


def pulling(world: World) -> None:
    world.pulls = True
    world.spec("short")


def running(world: World) -> None:
    world.spec("long")
    world.ok("apply", "--yes", "--detach")


def ending(world: World) -> None:
    world.spec("soon")
    world.ok("apply", "--yes", "--detach")


def changed(world: World) -> None:
    running(world)
    world.spec("long", tag="two")


def changed_start_first(world: World) -> None:
    world.spec("long", replace="start_first")
    world.ok("apply", "--yes", "--detach")
    world.spec("long", tag="two", replace="start_first")


def failed(world: World) -> None:
    world.spec("failing")
    world.ok("apply", "--yes", codes=(3,))
    world.spec("failing", tag="two")


def resized(world: World) -> None:
    running(world)
    world.spec("long", memory=96)


def planned(world: World) -> None:
    world.spec("short")
    world.ok("plan", "--out", "plan.json")


def half_started(world: World) -> None:
    world.spec("short")
    world.flowplan("apply", "--yes", fault="engine:create:after@2")


def approved(world: World) -> None:
    """Leave a plan that was approved, with an intent, by an apply that was killed."""
    world.spec("short")
    world.flowplan("apply", "--yes", fault="engine:create:before@1")


def followed(world: World) -> None:
    """Let the next follower end it; where nothing was left, it may be told to end while it starts."""
    world.ok(*SERVE, codes=(0, 143))


APPLY = ("apply", "flowplan.yaml", "--yes")
SERVE = ("serve", "--listen", "none")
PLANNED = ("apply", "plan.json", "--yes")
DETACHED = (*APPLY, "--detach")
REBUILD = ("state", "rebuild")
LINEAGE = ("state", "rebuild", "--lineage", "LINEAGE")
DESTROY = ("destroy", "--yes")


def then(*commands: tuple[str, ...]) -> Callable[[World], object]:
    """Each of these must succeed."""
    return lambda world: [world.ok(*command) for command in commands]


def refused(world: World, *commands: tuple[str, ...]) -> None:
    for command in commands:
        world.ok(*command, codes=(6,))


def restored(kind: str, apply: tuple[str, ...]) -> Callable[[World], object]:
    """Return a step after which the state is that of an earlier apply, the engine has what a later one made."""

    def before(world: World) -> None:
        world.spec(kind)
        world.ok(*apply)
        backup = world.state_file().read_bytes()
        world.spec(kind, tag="two")
        world.ok(*apply)
        for path in world.state_file().parent.glob("state.db*"):
            path.unlink()
        world.state_file().write_bytes(backup)
        refused(world, ("plan",), apply, DESTROY)

    return before


def copied(world: World) -> None:
    running(world)
    world.copy()
    world.enter("second")
    refused(world, ("plan",), DETACHED, DESTROY, ("watch",), REBUILD)


def after_copy(world: World) -> None:
    """Make the copy a state of its own, which must not manage what the original does; that one goes on."""
    world.ok("state", "new-lineage")
    refused(world, ("plan",), DETACHED)
    world.enter("first")
    world.ok(*DETACHED)


def second_checkout(world: World) -> None:
    """Two checkouts of one project; then the state of the first one is lost."""
    running(world)
    world.lineage = json.loads(world.ok("state", "pull").out)["lineage"]
    spec, kept = world.directory / "flowplan.yaml", world.state_file().parent
    world.enter("second")
    shutil.copy(spec, world.directory)
    refused(world, ("plan",), DETACHED, ("plan", "--refresh-only"))
    shutil.rmtree(kept)


def after_rebuild(world: World) -> None:
    """Check that what the first one started is managed: seen, and ended on demand."""
    world.ok(*LINEAGE)
    found = {a: (r["attempt"], r["status"]) for a, r in world.status().items()}
    live = all(attempt == 1 and status in ("pending", "running") for attempt, status in found.values())
    assert [*found] == [*"abc"] and live, f"rebuilt as {found}"
    world.ok(*DESTROY)


def kept(world: World) -> None:
    world.spec("kept")


def proxied(before: Callable[[World], object]) -> Callable[[World], object]:
    def both(world: World) -> None:
        world.between()
        before(world)

    return both


FIRST, SECOND, RUNNING = (1, 1, 1), (2, 2, 2), ("running",) * 3
KEEPERS = tuple(f"{who}, after {wait} s" for wait in (0, 0.2, 0.5, 1.0, 1.5) for who in ("supervisor", "guard"))
"""Who is killed, and how long after the apply; the time limit of b passes after 2 s."""
BOTH = tuple(f"both, after {wait} s" for wait in (0, 0.5, 1.5))
ANSWERS = ("lost", "false", "away")
"""What happens to a write that the engine has carried out: its answer is lost, is an error 500, or is lost while the
engine goes away for some seconds."""
ENGINES = ("docker", "kubernetes")
COMMANDS = (
    Command("apply", nothing, APPLY, then(APPLY), FIRST),
    Command("apply a plan", planned, PLANNED, then(PLANNED), FIRST),
    Command("apply, then destroy", nothing, APPLY, then((*DESTROY, "--if-exists")), ()),
    Command("apply again after a crash", half_started, APPLY, then(APPLY), FIRST),
    Command("apply, pulling", pulling, APPLY, then(APPLY), FIRST, providers=("docker",)),
    Command("watch", ending, ("watch",), then(("watch",)), FIRST),
    Command("follower", approved, SERVE, followed, FIRST),
    Command("follower, then apply", approved, SERVE, then(APPLY), FIRST),
    Command("follower, a standby beside it", approved, SERVE, followed, FIRST, beside=SERVE),
    Command("follower, an apply beside it", approved, SERVE, followed, FIRST, beside=(*APPLY, "--lock-timeout", "90s")),
    Command("destroy", running, DESTROY, then(DESTROY), ()),
    Command("replace", changed, DETACHED, then(DETACHED), SECOND, RUNNING),
    Command("replace, start first", changed_start_first, DETACHED, then(DETACHED), SECOND, RUNNING),
    Command("rerun", failed, APPLY, then(APPLY), (2, 2, 1)),
    Command("update", resized, DETACHED, then(DETACHED), FIRST, RUNNING),
    Command(
        "restored backup", restored("short", APPLY), REBUILD, then(REBUILD, APPLY), SECOND, rebuilt=True, of_file=True
    ),
    Command(
        "restored backup, runs live",
        restored("long", DETACHED),
        REBUILD,
        then(REBUILD, DETACHED),
        SECOND,
        RUNNING,
        rebuilt=True,
        of_file=True,
    ),
    Command("copied directory", copied, ("state", "new-lineage"), after_copy, FIRST, RUNNING, of_file=True),
    Command("second lineage", second_checkout, LINEAGE, after_rebuild, (), rebuilt=True, of_file=True),
    Command(
        "supervisor or guard killed",
        kept,
        DETACHED,
        lambda world: world.ok("watch", codes=(3,)),
        FIRST,
        ("succeeded", "timed_out", "succeeded"),
        ("process",),
        KEEPERS,
    ),
    Command("both killed, then destroy", kept, DETACHED, then(DESTROY), (), (), ("process",), BOTH),
    Command(
        "apply, an answer is lost", proxied(nothing), APPLY, then(APPLY), FIRST, ("succeeded",) * 3, ENGINES, ANSWERS
    ),
    Command("destroy, an answer is lost", proxied(running), DESTROY, then(DESTROY), (), (), ENGINES, ANSWERS),
)


@dataclass(frozen=True)
class Place:
    """Where the state is, and what happens at a point.

    Attributes:
        server: its database has the state; None where that is in a file.
        breaks: what happens while flowplan is frozen there, see ``BREAKS``; "": flowplan is killed.
    """

    server: OwnPostgres | None = None
    breaks: str = ""

    def plays(self, command: Command, provider: str) -> bool:
        """Return whether a command is played here."""
        of_file_only = bool(command.faults) or command.of_file
        if self.breaks in ("still", "over"):
            return command.name == "follower" and provider in command.providers
        return provider in command.providers and not (self.server and of_file_only)


BREAKS = {
    "": "", "ended": "its connections ended", "fast": "server restarted", "immediate": "server crashed",
    "still": "frozen for 3 s", "over": "frozen until another one had done its work",
}  # fmt: skip
"""To the server of the state, but the last two: with a state in a file nobody can take over from a process that is there."""


@dataclass
class Tally:
    """What came of the rounds of one command on one provider."""

    provider: str
    command: str
    names: set[str] = field(default_factory=set)
    rounds: int = 0
    killed: int = 0
    lost: int = 0
    repeated: int = 0
    orphans: int = 0
    untrue: int = 0
    leaks: int = 0
    faults: list[str] = field(default_factory=list)


def points_of(command: Command, provider: str, directory: Path, passings: int, place: Place = Place()) -> list[str]:
    """Return the points that the command passes, each at most ``passings`` times, or what else happens to it."""
    if set(command.faults) - set(ANSWERS):
        return list(command.faults)
    world = WORLDS[provider](directory, place.server)
    try:
        command.before(world)
        if world.proxy:
            known = len(world.proxy.requests)
            world.ok(*command.arguments)
            writes = sum(method != "GET" for method, _ in world.proxy.requests[known:])
            return [f"{what}@{n}" for n in range(1, writes + 1) for what in command.faults]
        trace = world.base / "trace"
        world.flowplan(*command.arguments, trace=trace)
        passed = Counter(trace.read_text().splitlines())
    finally:
        world.clean()
    names = [f"{name}@{n}" for name, count in passed.items() for n in range(1, min(count, passings) + 1)]
    supervised = provider == "process" and "engine:create:after" in passed and not place.breaks
    return names + (list(SUPERVISOR) if supervised else [])


def play(command: Command, provider: str, point: str, directory: Path, tally: Tally, place: Place = Place()) -> None:
    """One round."""
    world = WORLDS[provider](directory, place.server)
    tally.rounds += 1
    try:
        command.before(world)
        tally.killed += _played(world, command, point, place)
        try:
            command.after(world)
        except AssertionError as error:
            tally.faults.append(f"{point}: the next command: {str(error)[-500:]}")
        for fault in compare(world, command, tally):
            tally.faults.append(f"{point}: {fault}")
    except AssertionError as error:
        tally.faults.append(f"{point}: {error}")
    finally:
        world.clean()


def _played(world: World, command: Command, point: str, place: Place) -> bool:
    """Run the command and let the fault happen; returns whether it did."""
    if place.breaks:
        return world.frozen(*command.arguments, fault=point, meanwhile=partial(_disturb, world, place.breaks))
    if command.beside:
        beside: list[threading.Thread] = []
        begin = threading.Timer(0.7, lambda: beside.append(_begun(world, command.beside)))
        begin.start()
        killed = world.flowplan(*command.arguments, fault=point).killed
        begin.join()
        beside[0].join()
        return killed
    if not command.faults:
        return world.flowplan(*command.arguments, fault=point).killed
    if world.proxy:
        return _answers_lost(world, world.proxy, command, point)
    which, _, wait = point.removesuffix(" s").partition(", after ")
    world.ok(*command.arguments)
    time.sleep(float(wait))
    world.kill_keepers(which)
    return True


def _begun(world: World, command: tuple[str, ...]) -> threading.Thread:
    """Return a thread in which a command works until all runs have ended; the state tells what came of it."""
    thread = threading.Thread(target=world.flowplan, args=command)
    thread.start()
    return thread


def _disturb(world: World, breaks: str) -> None:
    if breaks == "still":
        time.sleep(3)
    elif breaks == "over":
        assert world.server is not None
        world.server.expire(world.project)
        followed(world)
    else:
        assert world.server is not None
        world.server.disturb(breaks, world.project)


def _answers_lost(world: World, proxy: FaultyProxy, command: Command, point: str) -> bool:
    what, _, number = point.partition("@")
    played = proxy.play("hide" if what == "false" else "lose", "(?!GET).*", skip=int(number) - 1, times=1)
    if what == "away":
        process = world.start(*command.arguments)
        while process.poll() is None and played.hits < int(number):
            time.sleep(0.01)
        proxy.play("reset")
        proxy.cut()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(3)
        proxy.heal()
        out, err = process.communicate(timeout=PATIENCE)
        assert "Traceback" not in err and "defect of flowplan" not in err, err
        world.printed += [out, err]
    else:
        world.flowplan(*command.arguments)
        proxy.heal()
    return played.hits >= int(number)


def compare(world: World, command: Command, tally: Tally) -> Iterator[str]:
    """Everything in which engine, state and history do not agree after a round."""
    records, objects, starts = world.status() if world.has_state else {}, world.objects(), world.starts()
    contents = world.contents()
    events = world.events() if world.has_state else []
    recorded = {r["run_id"]: r for r in records.values()}
    if command.attempts:
        yield from _expected(records, command, tally)
    elif records:
        yield f"still recorded: {sorted(records)}"
    for run_id, live in objects.items():
        if live and not (run_id in recorded and recorded[run_id]["status"] in ("pending", "running")):
            tally.orphans += 1
            yield f"{run_id} runs, and is not recorded as running"
    for record in records.values():
        if record["status"] in ("creating", "pending", "running") and record["run_id"] not in objects:
            tally.lost += 1
            yield f"{record['address']} is recorded as {record['status']}, and is not there"
        if record["status"] in ("running", "succeeded"):
            ran = contents.get(record["run_id"], world.tag) if starts[record["run_id"]] else "nothing"
            if ran != world.tag:
                tally.untrue += 1
                yield f"{record['address']} is recorded as {record['status']}, and what ran was {ran}, not {world.tag}"
    known = {e["run_id"] for e in events}
    for run_id, count in starts.items():
        if count > 1:
            tally.repeated += 1
            yield f"{run_id} was started {count} times"
        if run_id not in known:
            tally.orphans += 1
            yield f"{run_id} was started, and is not in the history"
    for leak in world.leaks():
        tally.leaks += 1
        yield f"a secret is in {leak}"
    yield from _history(events, rebuilt=command.rebuilt)


def _expected(records: dict[str, dict[str, object]], command: Command, tally: Tally) -> Iterator[str]:
    if sorted(records) != ["a", "b", "c"]:
        tally.lost += 1
        yield f"recorded: {sorted(records)}"
    for (address, record), expected, end in zip(sorted(records.items()), command.attempts, command.ends, strict=False):
        attempt, status = record["attempt"], record["status"]
        if attempt != expected:
            tally.repeated += 1
            yield f"{address} is at attempt {attempt}, {status}"
        if status != end and (end, status) != ("running", "pending"):
            tally.lost += status == "lost"
            yield f"{address} is {status}: {record['reason']} {record['message']}"


def _history(events: list[dict[str, object]], *, rebuilt: bool = False) -> Iterator[str]:
    """Numbers without gaps; every attempt begins once, and nothing follows its end but its removal."""
    if [e["seq"] for e in events] != list(range(1, len(events) + 1)):
        yield "the history has gaps"
    by_run: dict[object, list[str]] = {}
    for event in events:
        by_run.setdefault(event["run_id"], []).append(str(event["status"]))
    for run_id, statuses in by_run.items():
        ended = next((n for n, s in enumerate(statuses) if s in FINAL), len(statuses))
        rest = statuses[ended + 1 :]
        begun = statuses[0] == "creating" or rebuilt
        if not begun or statuses.count("creating") > 1 or rest not in ([], ["destroyed"]):
            yield f"the history of {run_id} is {statuses}"


def play_all(providers: list[str], passings: int, only: str, keep: int, place: Place = Place()) -> Iterator[Tally]:
    """All rounds; every ``keep``-th point of each command."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        base = Path(name)
        for provider in providers:
            for command in COMMANDS:
                if not place.plays(command, provider) or (only and command.name not in only.split("|")):
                    continue
                where = f"{provider}, PostgreSQL" if place.server else provider
                tally = Tally(where, f"{command.name}; {BREAKS[place.breaks]}" if place.breaks else command.name)
                directory = base / f"{provider}-{command.name}".replace(" ", "-")
                points = points_of(command, provider, directory / "trace", passings, place)
                tally.names = set() if command.faults else {p.partition("@")[0] for p in points}
                for number, point in enumerate(points[::keep]):
                    play(command, provider, point, directory / str(number), tally, place)
                yield tally


HEAD = (
    "| provider | command | points | rounds | killed | lost | repeated | orphans | untrue | leaks | other |",
    "|---|---|" + "--:|" * 9,
)


def row(t: Tally) -> str:
    """Return a tally's line of the table."""
    figures = (len(t.names) or "-", t.rounds, t.killed, t.lost, t.repeated, t.orphans, t.untrue, t.leaks, len(t.faults))
    return f"| {t.provider} | {t.command} | " + " | ".join(str(n) for n in figures) + " |"


def table(tallies: list[Tally]) -> str:
    """Return the table of the report."""
    return "\n".join([*HEAD, *(row(t) for t in tallies)])


def write_docs(tallies: list[Tally]) -> None:
    """Put the rows into the table of docs/reliability.md, in place of older ones of the same provider and command."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    old, _, after = rest.partition(END)
    rows = {tuple(line.split("|")[1:3]): line for line in old.splitlines()[4:] if line.startswith("|")}
    rows |= {tuple(row(t).split("|")[1:3]): row(t) for t in tallies}
    PAGE.write_text("\n".join([before + BEGIN, "", *HEAD, *rows.values(), "", END + after]))


def random_rounds(
    provider: str, seed: int, rounds: int, runs: int, directory: Path, server: OwnPostgres | None = None
) -> Tally:
    """Play applies of one project killed at random moments, until they are through; then the next project.

    With a server, about every other round cuts the network to it instead.
    """
    where = f"{provider}, PostgreSQL" if server else provider
    chance, tally = random.Random(seed), Tally(where, f"random kills{' and cuts' if server else ''} (seed {seed})")
    while tally.rounds < rounds:
        world = WORLDS[provider](directory / str(tally.rounds), server)
        try:
            _random_project(world, chance, runs, rounds, tally)
        except AssertionError as error:
            tally.faults.append(f"round {tally.rounds}: {error}")
        finally:
            world.clean()
    return tally


def _random_project(world: World, chance: random.Random, runs: int, rounds: int, tally: Tally) -> None:
    """Apply until it is through, and then destroy until that is through, each killed again and again."""
    world.spec("short")
    path = world.directory / "flowplan.yaml"
    head, _, body = path.read_text().partition("  a:\n")
    one = body.partition("  b:\n")[0]
    path.write_text(head + "".join(f"  r{n}:\n{one}" for n in range(runs)))
    _kill_until_through(world, chance, rounds, tally, "apply", "--yes", "--parallelism", "3")
    records, starts = world.status(), world.starts()
    for record in records.values():
        if record["status"] != "succeeded" or record["attempt"] != 1:
            tally.lost += record["status"] == "lost"
            tally.repeated += record["attempt"] != 1
            tally.faults.append(f"round {tally.rounds}: {record}")
    tally.repeated += sum(count > 1 for count in starts.values())
    tally.orphans += len(set(starts) - {r["run_id"] for r in records.values()})
    if len(starts) != runs or len(records) != runs:
        tally.lost += 1
        tally.faults.append(f"round {tally.rounds}: {len(starts)} starts, {len(records)} records of {runs} runs")
    _kill_until_through(world, chance, rounds, tally, "destroy", "--yes", "--parallelism", "3")
    if world.status() or world.objects():
        tally.orphans += 1
        tally.faults.append(f"round {tally.rounds}: after destroy: {world.status()} {world.objects()}")
    tally.leaks += len(world.leaks())
    tally.faults += [f"round {tally.rounds}: a secret is in {leak}" for leak in world.leaks()]
    tally.faults += [f"round {tally.rounds}: {fault}" for fault in _history(world.events())]


def _kill_until_through(world: World, chance: random.Random, rounds: int, tally: Tally, *arguments: str) -> None:
    begun = time.monotonic()
    world.ok("plan")
    longest = 1.5 * (time.monotonic() - begun)  # a loaded machine takes longer to get anywhere
    for _ in range(min(40, rounds - tally.rounds)):
        tally.rounds += 1
        if world.server and chance.random() < 0.5:
            process, happened = _cut_off(world, world.server, chance, longest, *arguments)
        else:
            process = world.start(*arguments)
            time.sleep(chance.uniform(0.02, longest))
            process.kill()
            process.communicate()
            happened = process.returncode == -9
        if world.server:
            world.server.expire(world.project)
        tally.killed += happened
        if process.returncode == 0:
            break
    result = world.flowplan(*arguments)
    assert result.code == 0, result.err[-500:]


def _cut_off(
    world: World, server: OwnPostgres, chance: random.Random, longest: float, *arguments: str
) -> tuple[subprocess.Popen[str], bool]:
    """Run a command whose network to the server goes away for up to two seconds; return it, and whether it was cut off."""
    network = CuttableProxy("127.0.0.1", server.port, delay=DELAY)
    process = world.start(*arguments, more={"FLOWPLAN_STATE": server.url(port=network.port)})
    time.sleep(chance.uniform(0.02, longest))
    cut = process.poll() is None
    network.mode = "refuse"
    network.cut()
    time.sleep(chance.uniform(0.0, 2.0))
    network.mode = "open"
    out, err = process.communicate(timeout=PATIENCE)
    network.close()
    assert "Traceback" not in err and "defect of flowplan" not in err, err
    assert process.returncode == 0 or "cannot be reached" in err or "was lost" in err, err
    world.printed += [out, err]
    return process, cut


def never_passed(tallies: list[Tally]) -> list[str]:
    """Return the points that the sources name and no command passed, of providers that were played."""
    played = {t.provider for t in tallies}
    files = {path for directory in SOURCES for path in directory.rglob("*.py")}
    named = {name for path in files for name in re.findall(r'point\("([^"]+)"', path.read_text())}
    others = {provider for provider in WORLDS if provider not in played}
    passed = {name for t in tallies for name in t.names}
    return sorted(name for name in named - passed - set(LEFT_OUT) if name.partition(":")[0] not in others)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--providers", nargs="*", default=["process"])
    options.add_argument(
        "--passings", type=int, default=2, help="how often a point is used that is passed several times"
    )
    options.add_argument("--keep", type=int, default=1, help="only every n-th point")
    options.add_argument("--only", default="", help="one command, or several with | between them")
    options.add_argument("--random", type=int, default=0, help="rounds of random kills")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--postgres", action="store_true", help="the state is in a database of a server of its own")
    options.add_argument(
        "--breaks", choices=BREAKS, default="", help="what happens while flowplan is frozen at a point"
    )
    options.add_argument("--write-docs", action="store_true", help="bring the table of docs/reliability.md up to date")
    given = options.parse_args()
    tallies = []
    server = OwnPostgres() if given.postgres else None
    if server:
        atexit.register(server.remove)
    place = Place(server, given.breaks)
    for tally in play_all(given.providers, given.passings, given.only, given.keep, place) if not given.random else ():
        tallies.append(tally)
        print(tally.provider, tally.command, tally.rounds, *tally.faults, sep="\n  ", file=sys.stderr, flush=True)
    if given.random:
        for provider in given.providers:
            with tempfile.TemporaryDirectory(prefix="faults-") as name:
                tallies.append(random_rounds(provider, given.seed, given.random, 20, Path(name), server))
                print(*tallies[-1].faults, sep="\n  ", file=sys.stderr, flush=True)
    print(table(tallies))
    unknown = never_passed(tallies) if not (given.random or given.only or server) else []
    print(*(f"no command passes {name}" for name in unknown), sep="\n")
    if given.write_docs:
        write_docs(tallies)
    return 1 if unknown or any(t.faults for t in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
