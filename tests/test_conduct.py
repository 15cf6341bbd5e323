"""How a plan is carried out: transcripts of what is known and what follows, and a simulation with crashes.

Each file in ``transcripts/`` is one rule: a sentence, the plan, then what becomes known (at the margin) and the commands
that follow from it (indented). ``FLOWPLAN_TRANSCRIPTS=write`` writes the commands anew; read the difference.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from simulation import START, State, simulate

from flowplan.planner import conduct
from flowplan.planner.conduct import following, starting, words
from flowplan.planner.conduct.words import Answered, EndRead, Interrupted, Manner, Moment, Seen, Shown
from flowplan.planner.conduct.world import World
from flowplan.schemas import lifecycle
from flowplan.schemas.errors import EngineUnreachable, FlowplanError, ProviderError, StartFailed
from flowplan.schemas.plans import Action, Change, Plan
from flowplan.schemas.runs import Observed, Recorded, Retry, Settings, Status

TRANSCRIPTS = Path(__file__).with_name("transcripts")
SIMULATED = int(os.environ.get("FLOWPLAN_SIMULATED", "20000"))
"""How many random projects are simulated; a million at night."""
PARTS = 8


@pytest.mark.parametrize("name", sorted(p.stem for p in TRANSCRIPTS.glob("*.txt")))
def test_transcript(name: str) -> None:
    path = TRANSCRIPTS / f"{name}.txt"
    text = path.read_text(encoding="utf-8")
    head, _, rest = text.partition("\n---\n")
    played = head + "\n---\n" + Play(yaml.safe_load(head)).play(rest.splitlines())
    if os.environ.get("FLOWPLAN_TRANSCRIPTS") == "write":
        path.write_text(played, encoding="utf-8")
    assert played == text


def test_the_page_shows_a_transcript_that_holds() -> None:
    shown = (TRANSCRIPTS / "timeout.txt").read_text()
    assert shown in (TRANSCRIPTS.parents[1] / "docs" / "architecture.md").read_text()


class Play:
    """One transcript: a plan, a state in memory, and what was asked of engines that is not answered yet.

    The head holds ``runs``: address -> {action, needs, group, max_parallel, timeout, start_timeout, replace, retry_delay, record: status
    of the recorded attempt, leftover: status of an earlier one}; ``detach``, ``wait``: seconds; ``room``: calls at once;
    ``locked``: true when the lock is held from the start; ``patient``: true to ask silent engines again;
    ``stream``: true to show the output of runs; ``stop``: addresses of live runs to stop.
    """

    def __init__(self, head: dict[str, Any]) -> None:
        self.state, self.now, self.others = State(), START, ""
        self.calls: dict[str, Any] = {}
        changes = [self.change(address, given or {}) for address, given in head["runs"].items()]
        self.room, self.showing = head.get("room", 10), head.get("showing", False)
        until = START + timedelta(seconds=head["wait"]) if "wait" in head else None
        plan = Plan("p", "", "", 0, "", "", tuple(changes), mode=head.get("mode", "normal"))
        told = {name: head.get(name, False) for name in ("detach", "stream", "patient")}
        manner = Manner(**told, until=until)
        self.dropped: dict[str, str] = {}
        leftovers, locked = self.state.leftovers(), head.get("locked", False)
        stop = dict.fromkeys(head.get("stop", ()), "by somebody")
        records = self.state.records()
        self.world = World(plan, records, manner=manner, leftovers=leftovers, locked=locked, follow=stop, stop=stop)

    def change(self, address: str, given: dict[str, Any]) -> Change:
        """Return the change that the head describes, and put what is recorded into the state."""
        fields = {k: v for k, v in given.items() if k not in ("action", "record", "leftover", "moved_from")}
        fields = {"group": address, **fields, "needs": tuple(given.get("needs", ()))}
        if "retry_delay" in fields:
            fields["retry_delay"] = Retry(*fields["retry_delay"])
        settings = Settings(**fields)
        action, attempt = Action(given.get("action", "create")), 1
        born = given.get("moved_from", address)
        for key in ("leftover", "record"):
            if key in given:
                self.record(born, attempt, given[key], settings)
                attempt += 1
        if ("record" in given and not action.starts) or given.get("record") == "creating":
            attempt -= 1
        return Change(
            address=address,
            provider="fake",
            type="fake",
            action=action,
            reasons=(),
            before=None,
            after={"Thing": 1},
            settings=settings,
            run_id=f"{born}#{attempt}",
            attempt=attempt,
            moved_from=given.get("moved_from", ""),
        )

    def record(self, address: str, attempt: int, status: str, settings: Settings) -> None:
        run_id = f"{address}#{attempt}"
        times = {"created_at": START.isoformat(), "started_at": START.isoformat() if status == "running" else None}
        self.state.attempts[run_id] = Recorded(
            address, "fake", "fake", {}, attempt, run_id, "", {"Thing": 1}, settings, Status(status), **times
        )
        self.state.newest[address] = run_id

    def play(self, lines: list[str]) -> str:
        """Return the transcript: the facts of ``lines``, and the commands that follow from each."""
        said: list[str] = []
        for fact in (line for line in lines if line and not line.startswith(" ")):
            said.append(fact)
            said += [f"    {shown}" for shown in self.take(fact)]
        return "\n".join(said) + "\n"

    def take(self, line: str) -> Iterator[str]:
        """Let one fact become known, and say which commands follow."""
        subject, _, rest = line.partition(" ")
        if line == "over?":
            yield "yes" if self.world.over else "no"
        elif line.startswith("begin"):
            looks = [self.look(run_id, word) for run_id, word in re.findall(r"(\S+#\d+) (\w+)", line)]
            yield from self.perform(conduct.begin(self.world, looks, self.moment()))
        elif subject == "others":
            self.others = {"write": "apply", "done": ""}[rest]
        elif subject == "dropped":
            self.dropped[rest] = "superseded by another plan"
        elif subject == "elsewhere":
            run_id, _, status = rest.partition(" ")
            address, _, attempt = run_id.partition("#")
            self.record(address, int(attempt), status, Settings(group=address))
        else:
            if subject == "after":
                self.now += timedelta(seconds=float(rest.rstrip("s")))
            yield from self.perform(conduct.react(self.world, list(self.facts(subject, rest)), self.moment()))

    def facts(self, subject: str, rest: str) -> Iterator[words.Fact]:
        word, _, message = rest.partition(": ")
        if subject == "interrupt":
            yield Interrupted()
        elif subject == "engine":
            kind = EngineUnreachable if word in ("silent", "answers") else ProviderError
            told = {"silent": words.Trouble, "warns": words.Trouble, "refuses": words.Unwatchable}
            yield told.get(word, words.Well)("fake", kind(message or "no answer"))
        elif "#" in subject and word == "shown":
            yield Shown(subject)
        elif "#" in subject and word == "end":
            self.calls.pop(f"end {subject}")
            yield EndRead(subject, message)
        elif "#" in subject:
            yield Seen(self.look(subject, word))
        elif subject != "after":
            yield self.answer(self.calls.pop(subject), word, message)

    def look(self, run_id: str, word: str) -> Observed:
        if word == "gone":
            return Observed(run_id, exists=False)
        if word == "away":
            return Observed(run_id, status=Status.RUNNING, elsewhere="h", message="on host h, last seen at 8:00")
        since = self.now.isoformat() if word in ("running", "pending") else None
        ended = self.now.isoformat() if word in ("failed", "succeeded") else None
        code, handle = {"failed": 3}.get(word), {"id": run_id}
        return Observed(run_id, status=Status(word), started_at=since, finished_at=ended, exit_code=code, handle=handle)

    def answer(
        self, command: words.Start | words.Update | words.Remove | words.Again, word: str, message: str
    ) -> Answered:
        errors: dict[str, Callable[[str], FlowplanError]] = {
            "refused": StartFailed, "forbidden": ProviderError, "silent": EngineUnreachable,
            "expired": partial(StartFailed, reason="Unauthorized"),
        }  # fmt: skip
        former = command.attempts if isinstance(command, words.Remove) else getattr(command, "former", ())
        if word in errors:
            first = isinstance(command, words.Start) and not command.first
            return Answered(command, removed=former if first else (), error=errors[word](message))
        if word == "spared":
            return Answered(command, self.look(command.attempts[0].run_id, message))  # type: ignore[union-attr]
        if isinstance(command, words.Again):
            return Answered(command, self.look(command.record.run_id, word))
        seen = None if isinstance(command, words.Remove) else self.look(command.change.run_id, word)
        return Answered(command, seen, former)

    def moment(self) -> Moment:
        room = max(0, self.room - len(self.calls))
        return Moment(self.now, self.now, lambda provider: self.now, room, lambda record: False)

    def perform(self, commands: words.Commands) -> Iterator[str]:
        answer = None
        while True:
            try:
                command = commands.send(answer)
            except StopIteration:
                return
            answer = self.state.perform(command)
            match command:
                case words.Lock() | words.AskOthers():
                    answer = self.others
                case words.AskDropped(addresses):
                    answer = {a: self.dropped[a] for a in addresses if a in self.dropped}
                case words.Unfollow():
                    answer = self.showing
                case words.Start() | words.Update():
                    self.calls[command.change.address] = command
                case words.Remove():
                    self.calls[command.address] = command
                case words.Again():
                    self.calls[command.record.address] = command
                case words.ReadEnd():
                    self.calls[f"end {command.record.run_id}"] = command
            quiet = isinstance(command, words.Show) and not command.aloud
            if not quiet and not isinstance(command, words.Advance | words.Reload | words.AskDropped):
                yield shown(command)


def shown(command: words.Command) -> str:
    """Return a command as a line of a transcript."""

    def ids(records: tuple[Recorded, ...]) -> str:
        return " ".join(record.run_id for record in records)

    match command:
        case words.Intend(records) | words.Follow(records):
            return f"{type(command).__name__.lower()} {ids(records)}"
        case words.Start(change, former, first):
            order = f", {'then' if first else 'after'} removing {ids(former)}" if former else ""
            return f"start {change.run_id}{order}"
        case words.Update(change):
            return f"update {change.run_id}"
        case words.Remove(address, attempts, limit):
            return f"remove {ids(attempts) or address}" + (f" ({limit})" if limit else "")
        case words.Again(record):
            return f"start {record.run_id} again"
        case words.Finish(ends):
            return "record " + ", ".join(f"{end.run_id} {end.status}: {end.reason}" for end in ends)
        case words.Absent(run_ids):
            return f"record {' '.join(run_ids)} absent"
        case words.Destroyed(attempts):
            return f"record {' '.join(run_id for ids in attempts.values() for run_id in ids)} destroyed"
        case words.Applied(changes):
            return f"record {' '.join(change.run_id for change in changes)} applied"
        case words.Show(record, aloud):
            return f"{'show' if aloud else 'hear'} {record.run_id}"
        case words.Unfollow(record) | words.ReadEnd(record):
            names = {"Unfollow": "unfollow", "ReadEnd": "read the end of"}
            return f"{names[type(command).__name__]} {record.run_id}"
        case words.Tell(event):
            return f"tell {event.run_id} {event.status}"
        case words.Note(text):
            return f"note {text}"
        case words.Move(old, new):
            return f"move {old} to {new}"
        case words.Skip(why):
            return f"skip {', '.join(why)}"
        case words.Keep(outputs):
            return f"keep the output of {' '.join(outputs)}"
        case words.Lock(wait):
            return "lock, waiting" if wait else "lock"
        case words.AskOthers():
            return "does another flowplan write?"
        case words.Forget(address):
            return f"forget {address}"
    return type(command).__name__.lower()


@pytest.mark.parametrize("part", range(PARTS))
def test_no_promise_is_broken_whatever_happens(part: int) -> None:
    crashes = sum(simulate(seed) for seed in range(part, SIMULATED, PARTS))
    assert crashes > SIMULATED / PARTS / 10


class Forgetful(State):
    """Calls an intent lost when the engine has no such object."""

    def perform(self, command: words.Command) -> Any:
        if isinstance(command, words.Advance):
            lost = tuple((r, s if s.exists else replace(s, status=Status.LOST)) for r, s in command.seen)
            command = words.Advance(lost)
        return super().perform(command)


class Careless(State):
    """Records no intent."""

    def perform(self, command: words.Command) -> Any:
        return [] if isinstance(command, words.Intend) else super().perform(command)


def caught(**options: Any) -> bool:
    """Return whether the simulation finds a broken promise in a thousand projects."""
    for seed in range(1000):
        try:
            simulate(seed, **options)
        except AssertionError:
            return True
    return False


def test_the_simulation_finds_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert caught(state_type=Careless)
    assert caught(state_type=Forgetful)
    with monkeypatch.context() as patched:
        patched.setattr(following, "_time_left", lambda world, record: 1.0)
        assert caught()
    with monkeypatch.context() as patched:
        patched.setitem(lifecycle._NEXT, Status.LOST, lifecycle.ENDS)
        assert caught()
    with monkeypatch.context() as patched:
        patched.setattr(World, "running", lambda world, group: sorted(world.groups.get(group, ()))[1:])
        assert caught()
    with monkeypatch.context() as patched:
        patched.setattr(starting, "need_met", lambda world, need: (True, ""))
        assert caught()
    with monkeypatch.context() as patched:
        patched.setattr(lifecycle, "wait_after", lambda tries, *delay: 0.0)
        assert caught()
    with monkeypatch.context() as patched:
        asked = lifecycle.asked
        patched.setattr(lifecycle, "asked", lambda record, now: replace(asked(record, now), attempts=1))
        assert caught()
