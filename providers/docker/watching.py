"""Following many containers with one stream of events, which is opened again whenever it breaks."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flowplan.providers.docker import containers, podman
from flowplan.providers.docker.connection import Engine
from flowplan.providers.docker.refusals import Refusal
from flowplan.providers.docker.streams import Stream
from flowplan.providers.protocol import News
from flowplan.schemas import arguments, exit_codes
from flowplan.schemas.errors import EngineUnreachable, ProviderError
from flowplan.schemas.runs import Json, Observed, Recorded, Status
from flowplan.schemas.secrets import tokens_in

INTERVAL = 0.9
"""Seconds after which None is handed out when nothing happened."""
SILENCE_LIMIT = 45.0
"""Seconds without any event after which the connection is no longer trusted and everything is looked at again; less
where answers are to come sooner."""
EVENTS_LIMIT = 1.5
"""Seconds that the events of a removed container may still take to tell its exit code."""

REMOVAL_LIMIT = 0.5
"""Seconds after a SIGKILL during which a removal means `docker rm -f`: the run was lost, it did not fail."""

_ACTIONS = ["start", "die", "oom", "destroy", "pause", "unpause", podman.CLEANUP, *podman.EVENTS]


class Watch:
    """One watch over the containers of some records.

    Args:
        observe: the bulk observation of the provider.
    """

    def __init__(
        self,
        engine: Engine,
        lineage: str,
        records: Sequence[Recorded],
        observe: Callable[[Sequence[Recorded]], list[Observed]],
    ) -> None:
        self._engine = engine
        self._lineage = lineage
        self._observe = observe
        self._records = {record.run_id: record for record in records}
        self._waiting = {record.run_id for record in records}
        self._last: dict[str, Observed] = {}
        self._missing: dict[str, float] = {}
        self._killed: dict[str, tuple[float, Observed]] = {}
        self._oom: set[str] = set()
        self._ended_with: dict[str, str] = {}
        self._since = min((float(record.handle.get("created") or 0) for record in records), default=0.0)

    def changes(self, stop: threading.Event) -> Iterator[News]:
        """Yield what is new of the containers; see ``Provider.watch``."""
        pause = 0.2
        while self._waiting and not stop.is_set():
            stream: Stream | None = None
            try:
                stream = self._open()
                yield from self._look()
                pause = 0.2
                yield from self._follow(stream, stop)
            except (EngineUnreachable, Refusal) as error:  # down or restarting, which says nothing about the runs
                yield from self._idle(pause, stop, error)
                pause = min(2 * pause, 5.0)
            except (ConnectionError, ValueError):  # the stream was closed, or has no events
                yield from self._idle(pause, stop, None)
                pause = min(2 * pause, 5.0)
            finally:
                if stream is not None:
                    stream.close()

    def _idle(self, pause: float, stop: threading.Event, word: ProviderError | None) -> Iterator[ProviderError | None]:
        end = time.monotonic() + pause
        while (rest := end - time.monotonic()) > 0 and not stop.wait(min(rest, INTERVAL)):
            yield word
        yield word

    def _open(self) -> Stream:
        """Open the stream of events since the last one seen; at first, since the oldest container was created."""
        wanted = containers.filters(type=["container"], label=[f"{containers.LINEAGE}={self._lineage}"], event=_ACTIONS)
        parameters: dict[str, Any] = {"filters": wanted}
        if self._since:
            parameters["since"] = f"{self._since:.6f}"
        return Stream(self._engine.request("GET", "/events", params=parameters, stream=True))

    def _look(self) -> Iterator[Observed]:
        """Yield the present state of all containers; wait with a missing one, for its events may tell how it ended."""
        for seen in self._observe([self._records[run] for run in self._records if run in self._waiting]):
            if seen.run_id not in self._waiting:
                continue
            if seen.exists:
                self._missing.pop(seen.run_id, None)
                yield from self._tell(seen)
            else:
                self._missing.setdefault(seen.run_id, time.monotonic() + EVENTS_LIMIT)

    def _follow(self, stream: Stream, stop: threading.Event) -> Iterator[Observed | None]:
        """Yield what events tell until all have ended, ``stop`` is set, or the stream is silent for too long."""
        text, heard, silence = b"", time.monotonic(), min(SILENCE_LIMIT, self._engine.timeout)
        while self._waiting and not stop.is_set() and time.monotonic() - heard < silence:
            data = stream.poll(0.2 if self._missing or self._killed else INTERVAL)
            if data is None:
                raise ConnectionError("the stream of events ended")
            if data:
                heard = time.monotonic()
                *lines, text = (text + data).split(b"\n")
                for line in lines:
                    yield from self._event(json.loads(line)) if line.strip() else ()
            else:
                yield None
            yield from self._expire()

    def _expire(self) -> Iterator[Observed]:
        now = time.monotonic()
        for run in [run for run, (end, _) in self._killed.items() if end <= now]:
            seen = self._killed.pop(run)[1]
            if self._engine.podman and self._inspected(run) is None:
                self._missing[run] = now
            else:
                yield from self._tell(self._explained(run, seen))
        for run in [run for run, end in self._missing.items() if end <= now]:
            del self._missing[run]
            self._waiting.discard(run)
            yield containers.gone(self._records[run])

    def _explained(self, run: str, seen: Observed) -> Observed:
        """Return the end of a killed container, as out of memory when only an event said so."""
        if run not in self._oom:
            return seen
        _, reason, message = containers.ended(137, oom=True)
        return replace(seen, reason=reason, message=message)

    def _event(self, event: Mapping[str, Any]) -> Iterator[Observed]:
        self._since = max(self._since, int(event.get("timeNano") or 0) // 1000 / 1e6)
        labels = event.get("Actor", {}).get("Attributes") or {}
        run = str(labels.get(containers.RUN_ID, ""))
        if run not in self._waiting or self._container(run) not in (None, event["Actor"]["ID"]):
            return  # an event of an earlier container of the same run
        action = event.get("Action") or event.get("status")
        action = podman.EVENTS.get(str(action), action)
        if action == "oom":
            self._oom.add(run)
        elif action == "start":
            yield from self._tell(self._started(run, event))
        elif action == "destroy":
            self._killed.pop(run, None)
            self._missing[run] = time.monotonic()
        elif action == "die":
            seen = self._died(run, event)
            if seen is not None and seen.reason == "SIGKILL" and not self._host(run).get("AutoRemove"):
                limit = podman.REMOVAL_LIMIT if self._engine.podman else REMOVAL_LIMIT
                self._killed[run] = (time.monotonic() + limit, seen)
            else:
                yield from self._tell(seen)
        elif run not in self._killed:
            yield from self._tell(self._inspected(run, settled=action == podman.CLEANUP))

    def _started(self, run: str, event: Mapping[str, Any]) -> Observed | None:
        """Return the start as the event tells it; inspect where the restart policy makes several executions."""
        before = self._last.get(run)
        if self._repeats(run):
            return self._inspected(run)
        if before is not None and before.started_at:  # seen in the list already; events are replayed
            return None
        at = containers.event_time(event)
        return replace(
            before or self._base(run, event), status=Status.RUNNING, reason="", started_at=at, at=at, attempts=1
        )

    def _host(self, run: str) -> Mapping[str, Any]:
        """Return the HostConfig that was applied."""
        config = self._records[run].objects.get("Container", {}).get("Config", {})
        host: Mapping[str, Any] = config.get("HostConfig") or {}
        return host

    def _repeats(self, run: str) -> bool:
        return "RestartPolicy" in self._host(run) or self._records[run].settings.retry_delay is not None

    def _may_be_too_long(self, run: str, code: int) -> bool:
        """Return whether an argument may be too long to execute; only the container has the length of secrets."""
        objects = self._records[run].objects
        return code in arguments.EXEC_FAILED and bool(tokens_in(objects) or next(arguments.too_long(objects, {}), None))

    def _died(self, run: str, event: Mapping[str, Any]) -> Observed | None:
        """Return the end as the event tells it; inspect where a restart, no memory or a long argument is possible."""
        code = event["Actor"]["Attributes"].get("exitCode")
        self._ended_with[run] = exit_codes.explained(int(code)) if code else ""
        if code is None or code == "137" or self._repeats(run) or self._may_be_too_long(run, int(code)):
            found = self._inspected(run)
            if found is not None or code is None:
                return found
        status, reason, message = containers.ended(int(code), run in self._oom)
        at = containers.event_time(event)
        base = self._last.get(run) or self._base(run, event)
        return replace(
            base, status=status, reason=reason, message=message, exit_code=int(code), finished_at=at, at=at, live=None
        )

    def _base(self, run: str, event: Mapping[str, Any]) -> Observed:
        record, container = self._records[run], str(event["Actor"]["ID"])
        return Observed(
            run_id=run,
            address=record.address,
            attempt=record.attempt,
            attempts=1,
            handle=record.handle or containers.handle(container, float(event.get("time") or 0)),
            infrastructure_id=f"{self._engine.base_url}:{container}",
            name=record.name,
            started_at=record.started_at,
        )

    def _container(self, run: str) -> Json:
        """Return the id of the run's container, None while it is not known."""
        return (self._last[run].handle if run in self._last else self._records[run].handle).get("id")

    def _inspected(self, run: str, *, settled: bool = False) -> Observed | None:
        record = self._records[run]
        container = self._container(run) or record.name
        found = self._engine.inspect(container, settled=settled)
        if found is None or (found["Config"].get("Labels") or {}).get(containers.RUN_ID) != run:
            return None
        seen = containers.from_inspect(found, self._engine.base_url, record)
        ended_with = "" if seen.over else self._ended_with.get(run, "")
        return replace(seen, tries=tuple(one._replace(before=ended_with) for one in seen.tries))

    def _tell(self, seen: Observed | None) -> Iterator[Observed]:
        """Yield the observation if it is new."""
        if seen is None:
            return
        if containers.cut_short(self._records[seen.run_id], seen):
            self._engine.check_accepting()
        before = self._last.get(seen.run_id)
        self._last[seen.run_id] = seen
        self._missing.pop(seen.run_id, None)
        if seen.over:
            self._waiting.discard(seen.run_id)
        if before is None or _told_parts(before) != _told_parts(seen):
            yield seen


def _told_parts(seen: Observed) -> tuple[Any, ...]:
    """Return the facts whose change is told; times differ in precision between events and inspects."""
    started = (seen.started_at or "")[:19]
    return seen.status, seen.reason, seen.message, seen.exit_code, seen.attempts, seen.name, started
