"""Tell people what happened to runs: webhooks and chat services, each at least once, from the events of the state.

How far a channel has been told is kept in the state, so that a restart repeats at most what was under way; the id of a
message lets its receiver recognise a repetition. A channel that does not answer holds up no other one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flowplan import clock
from flowplan.left import left
from flowplan.render.units import duration
from flowplan.resolve import lookup
from flowplan.schemas.codec import decode, encode
from flowplan.schemas.errors import FlowplanError
from flowplan.schemas.events import Event
from flowplan.schemas.notifications import NOTIFIED_OF, Channel
from flowplan.schemas.runs import ENDS, Recorded, Status
from flowplan.schemas.secrets import SecretSource
from flowplan.schemas.text import counted, harmless
from flowplan.schemas.times import seconds_between
from flowplan.state.acceptance import applied_plans
from flowplan.state.location import Location
from flowplan.state.store import Store

_TOLD = frozenset({*map(str, ENDS), str(Status.LOST)})
LAST_LINES = 5
SHORTEST, LONGEST = 1.0, 300.0
"""Seconds between tries of a channel that does not take a message; they double."""
TOO_OLD = 24 * 3600.0
"""Seconds after which a message that could not be delivered is given up: what happened yesterday helps nobody."""
LOOK = 2.0
REQUEST = 10.0
"""Seconds that a request may take."""
CHANNELS, NOTE = "notify", "notified"
"""The documents of the state that say what the channels are, and how far each has been told."""


def recorded(store: Store) -> list[Channel]:
    """Return the channels of the spec that was applied last."""
    return [decode(Channel, one) for one in store.recall(CHANNELS).get("channels", ())]


def record(store: Store, channels: Sequence[Channel]) -> None:
    """Keep the channels for those who follow the runs, of secrets only where they are; a new channel is told from now on."""
    document, known = {"channels": [encode(one) for one in channels]}, store.recall(CHANNELS)
    if known == document or not (known or channels):
        return
    store.remember(CHANNELS, document)
    new = {"applied": clock.now(), **dict.fromkeys((channel.name for channel in channels), store.last_seq())}
    store.remember(NOTE, new | store.recall(NOTE))


@dataclass(frozen=True, slots=True)
class Message:
    """What happened: a JSON document for machines, with ``text`` for people. Its id is the same at each delivery.

    Attributes:
        number: of the event that it tells of.
    """

    number: int
    id: str
    kind: str
    at: str
    document: Mapping[str, Any]

    @property
    def text(self) -> str:
        """Return the message as people read it."""
        return str(self.document["text"])

    def body(self) -> bytes:
        """Return the bytes that a webhook gets."""
        return json.dumps(
            {"id": self.id, "kind": self.kind, "at": self.at, **self.document}, ensure_ascii=False
        ).encode()


def messages(store: Store, events: Sequence[Event]) -> Iterator[Message]:
    """Yield what is worth telling of events, in their order."""
    for event in events:
        if event.status not in _TOLD:
            continue
        attempts = store.attempts(event.address)
        place = next((n for n, one in enumerate(attempts) if one.run_id == event.run_id), None)
        if place is None:
            continue
        before = [one for one in attempts[:place] if one.finished_at]
        kind = event.status
        if kind == Status.SUCCEEDED:
            if not before or before[-1].status == Status.SUCCEEDED:
                continue
            kind = "recovered"
        if kind in NOTIFIED_OF:
            yield _message(store, event, attempts[place], before, kind)


def _message(store: Store, event: Event, record: Recorded, before: Sequence[Recorded], kind: str) -> Message:
    took = seconds_between(record.started_at, record.finished_at)
    past = [seconds_between(one.started_at, one.finished_at) for one in before if one.exit_code == 0]
    usual = statistics.median(known) if (known := [one for one in past if one is not None]) else None
    lines = [harmless(line) for line in store.tails([event.run_id]).get(event.run_id, "").splitlines()[-LAST_LINES:]]
    lines = lines if kind != "recovered" else []
    head = f"{store.project}: {event.address} {kind.replace('_', ' ')}"
    code = f" (exit code {record.exit_code})" if record.exit_code else ""
    why = f": {event.message or event.reason}" if kind != "recovered" and (event.message or event.reason) else ""
    spent = (
        "" if took is None else f" after {duration(took)}" + ("" if usual is None else f" (usually {duration(usual)})")
    )
    document = {
        "project": store.project,
        "address": event.address,
        "run_id": event.run_id,
        "attempt": event.attempt,
        "status": event.status,
        "reason": event.reason,
        "message": event.message,
        "exit_code": record.exit_code,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "seconds": took,
        "usual_seconds": usual,
        "last_lines": lines,
        "text": "\n".join([head + code + spent + why, *(f"  | {line}" for line in lines)]),
    }
    return Message(event.seq, event.run_id + ":" + kind, kind, event.at, document)


# --- delivering ------------------------------------------------------------------------------------------------------


def long_waiting(store: Store, now: datetime) -> Iterator[tuple[float, Message]]:
    """Yield a message for each approved run that has not started, with the seconds that it has waited."""
    for plan in left(store, store.records()):
        waited = seconds_between(plan.accepted_at, now) or 0.0
        for step in plan.steps:
            if step.status == "waiting":
                why = f": {step.reason}" if step.reason else ""
                text = f"{store.project}: {step.address} has been waiting for {duration(waited)}{why}"
                document = {"project": store.project, "address": step.address, "reason": step.reason, "text": text}
                yield waited, Message(0, f"{plan.digest}:{step.address}:waiting", "waiting", plan.accepted_at, document)


def applied(store: Store) -> Iterator[Message]:
    """Yield a message for each plan that was applied and is kept, oldest first."""
    for plan in applied_plans(store):
        if since := plan.by.get("since"):
            who = f"{plan.by['user']} on {plan.by['host']}"
            text = f"{store.project}: plan {plan.digest[7:19]} was applied by {who}: {counted(len(plan.steps), 'step')}"
            document = {"project": store.project, "plan": plan.digest, "user": plan.by["user"], "text": text}
            yield Message(0, f"{plan.digest}:{since}:applied", "applied", since, document)


class Undelivered(Exception):
    """A message was not taken, for a reason that holds no secret; it is tried again."""


def deliver(channel: Channel, message: Message, directory: Path) -> None:
    """Deliver a message once."""
    url = _value(channel.url, directory)
    if channel.kind == "apprise":
        _by_apprise(url, message)
        return
    key = None if channel.secret is None else _value(channel.secret, directory)
    _by_webhook(url, key, message)


def _value(source: SecretSource, directory: Path) -> str:
    try:
        value = source.value if source.kind == "literal" else lookup(source, directory)
    except FlowplanError as error:
        raise Undelivered(error.message) from error
    if not value:
        raise Undelivered(f"{source.label or source.value} is not set where messages are sent")
    return value.strip()


def _by_webhook(url: str, key: str | None, message: Message) -> None:
    import urllib3

    body = message.body()
    headers = {"Content-Type": "application/json", "User-Agent": "flowplan", "X-Flowplan-Event": message.id}
    if key is not None:
        headers["X-Flowplan-Signature-256"] = "sha256=" + hmac.new(key.encode(), body, hashlib.sha256).hexdigest()
    try:
        with urllib3.PoolManager(retries=False) as pool:
            answer = pool.request("POST", url, body=body, headers=headers, timeout=REQUEST, redirect=False)
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        # The words of the error may hold the address, and with it a secret.
        raise Undelivered(f"the webhook cannot be reached ({type(error).__name__})") from None
    if not 200 <= answer.status < 300:
        raise Undelivered(f"the webhook answered {answer.status}")


def _by_apprise(url: str, message: Message) -> None:
    try:
        import apprise
    except ImportError as error:
        raise Undelivered("the package apprise is not installed: pip install 'flowplan[notify]'") from error
    client = apprise.Apprise()
    if not client.add(url):
        raise Undelivered("the address is none that apprise knows")
    title, _, rest = message.text.partition("\n")
    if not client.notify(title=title, body=rest or title):
        raise Undelivered("the service did not take the message")


@contextmanager
def telling(state: Location, note: Callable[[str], None]) -> Iterator[None]:
    """Tell what happens meanwhile, where the state has channels."""
    with closing(state.anew().open(read_only=True)) as store:
        silent = not recorded(store)
    if silent:
        yield
        return
    notifier = Notifier(lambda: state.anew().open(), note)
    notifier.start()
    try:
        yield
    finally:
        notifier.close()


# --- the thread --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Queue:
    """What is to be told to one channel, which has been told of all events up to the number ``told``."""

    told: int
    pause: float = SHORTEST
    next_try: float = 0.0
    waiting: deque[Message] = field(default_factory=deque)


class Notifier:
    """Tells the channels of a state what happens, from a thread of its own.

    Args:
        opened: opens the state for writing.
        note: called with a remark for people, once for each trouble of a channel and once when it is over.
    """

    def __init__(self, opened: Callable[[], Store], note: Callable[[str], None]) -> None:
        self._opened, self._note = opened, note
        self._channels: dict[str, Channel] = {}
        self._directory = Path()
        self._queues: dict[str, _Queue] = {}
        self._seen = 0
        self._applied, self._long = "", set[str]()
        self._told: dict[str, Any] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notify", daemon=True)
        self._ill: set[str] = set()

    def start(self) -> None:
        """Begin with what happened since each channel was told last; a new channel begins now."""
        with closing(self._opened()) as store:
            known, self._seen = store.recall(NOTE), store.last_seq()
            self._applied = str(known.get("applied", clock.now()))
            self._long = set(known.get("waiting", ()))
            self._read_channels(store, known)
        self._seen = min((queue.told for queue in self._queues.values()), default=self._seen)
        self._thread.start()

    def _read_channels(self, store: Store, known: Mapping[str, Any]) -> None:
        """Take the channels as the plan that was applied last has them."""
        self._channels = {channel.name: channel for channel in recorded(store)}
        self._directory = Path(store.recall("spec").get("directory", "."))
        queues = {name: _Queue(int(known.get(name, self._seen))) for name in self._channels}
        self._queues = {name: self._queues.get(name, queue) for name, queue in queues.items()}

    def close(self, patience: float = 5.0) -> None:
        """Tell what has happened until now, taking a few seconds at most; the rest is told by whoever comes next."""
        self._stop.set()
        self._thread.join(patience)

    def _run(self) -> None:
        while True:
            last_round = self._stop.is_set()
            with suppress(FlowplanError):  # the state is away: it is read again later
                self._look()
            for name, queue in self._queues.items():
                self._serve(self._channels[name], queue)
            with suppress(FlowplanError):
                self._remember()
            if last_round:
                return
            self._stop.wait(LOOK)

    def _look(self) -> None:
        """Take what is new into the queues."""
        with closing(self._opened()) as store:
            self._read_channels(store, {})
            while page := list(store.events(after=self._seen, limit=500)):
                self._put(messages(store, page))
                self._seen = page[-1].seq
            wanted = {kind for channel in self._channels.values() for kind in channel.on}
            if "applied" in wanted and (plans := [one for one in applied(store) if one.at > self._applied]):
                self._put(plans)
                self._applied = plans[-1].at
            if "waiting" in wanted:
                now = datetime.now(UTC)
                waiting = {one.id: (waited, one) for waited, one in long_waiting(store, now)}
                self._long &= waiting.keys()
                for waited, one in waiting.values():
                    due = [name for name, c in self._channels.items() if "waiting" in c.on and waited > c.waiting]
                    if due and one.id not in self._long:
                        self._long.add(one.id)
                        self._put([replace(one, at=clock.now())], due)

    def _put(self, new: Iterable[Message], names: Collection[str] | None = None) -> None:
        """Queue messages for the channels that are told of such."""
        for message in new:
            for name, queue in self._queues.items():
                known = message.number and message.number <= queue.told
                if message.kind in self._channels[name].on and not known and (names is None or name in names):
                    queue.waiting.append(message)

    def _serve(self, channel: Channel, queue: _Queue) -> None:
        """Deliver what waits for a channel, as long as it takes it."""
        while queue.waiting and time.monotonic() >= queue.next_try:
            message = queue.waiting[0]
            try:
                deliver(channel, message, self._directory)
            except Undelivered as error:
                if channel.name not in self._ill:
                    self._ill.add(channel.name)
                    self._note(f"warning: a notification ({channel.kind}) was not taken: {error}; it is tried again")
                queue.next_try = time.monotonic() + queue.pause
                queue.pause = min(2 * queue.pause, LONGEST)
                age = seconds_between(message.at, datetime.now(UTC)) or 0.0
                if age < TOO_OLD:
                    return
                self._note(f"warning: a notification of {message.at} was given up after a day: {message.id}")
            else:
                queue.pause = SHORTEST
                if channel.name in self._ill:
                    self._ill.discard(channel.name)
                    self._note(f"notifications ({channel.kind}) are taken again")
            queue.told = max(queue.waiting.popleft().number, queue.told)

    def _remember(self) -> None:
        """Keep how far each channel has been told; one with nothing to tell has been told everything."""
        if any(message.number == 0 for queue in self._queues.values() for message in queue.waiting):
            return  # what is no event is told again by whoever comes next
        told: dict[str, Any] = {n: queue.told if queue.waiting else self._seen for n, queue in self._queues.items()}
        told |= {"applied": self._applied, "waiting": sorted(self._long)}
        if told != self._told and self._queues:
            with closing(self._opened()) as store:
                store.remember(NOTE, told)
            self._told = told
