"""DockerProvider: the provider protocol on one Docker Engine."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from flowplan.providers import polling
from flowplan.providers.docker import containers
from flowplan.providers.docker.attaching import Attachments
from flowplan.providers.docker.changes import Changer
from flowplan.providers.docker.connection import Engine
from flowplan.providers.docker.creation import Creator
from flowplan.providers.docker.pulling import Images
from flowplan.providers.protocol import IMPORTED, Context, Found, LogLine, News, Order
from flowplan.schemas.errors import ProviderError
from flowplan.schemas.plans import FieldChange, Finding
from flowplan.schemas.runs import Json, Objects, Observed, Recorded, Status, Target
from flowplan.schemas.secrets import TOKEN

INSPECTORS = 8
"""Threads that inspect containers of which the list does not tell enough."""


class DockerProvider:
    """One connection to one Docker Engine, for the containers of one lineage."""

    def __init__(self, context: Context) -> None:
        self._lineage, self._project, self._environment = context.lineage, context.project, context.environment
        self._engine = Engine(context.settings)
        self._images = Images(self._engine)
        self._attachments = Attachments(self._engine)
        self._creator = Creator(self._engine, self._images, self._attachments, context.created_from)
        self._changer = Changer(self._engine, context.lineage)

    def target(self) -> Target:
        """Return the Engine by its id, with its endpoint and name as label."""
        name = self._engine.info().get("Name", "")
        return Target("docker", self._engine.identity(), f"{self._engine.endpoint} ({name})")

    def now(self) -> datetime | None:
        """Return the time by the Engine's clock; None before it has answered."""
        return self._engine.clock.now()

    def observe(self, records: Sequence[Recorded], wanted: Iterable[Objects] | None = None) -> list[Observed]:
        """Make one list, and an inspect for every container whose end or drift the list cannot tell."""
        if wanted is None or not self._project:
            listed = self._list(f"{containers.LINEAGE}={self._lineage}")
        else:
            listed = self._list(f"{containers.PROJECT}={self._project}", containers.LINEAGE)
        ours = [item for item in listed if item["Labels"][containers.LINEAGE] == self._lineage]
        others = [
            item for item in listed if item["Labels"][containers.LINEAGE] != self._lineage and self._is_here(item)
        ]
        items = {item["Labels"].get(containers.RUN_ID, ""): item for item in ours}
        items |= {r.run_id: {"Id": r.handle["id"], IMPORTED: True} for r in records if r.handle.get(IMPORTED)}
        known = {record.run_id for record in records}
        seen = [self._listed(record, items) for record in records]
        unsure = [(record, items[record.run_id]) for record, fact in zip(records, seen, strict=True) if fact is None]
        orphans = [(None, item) for run, item in items.items() if run not in known]
        looks = self._inspect_all([*unsure, *orphans])
        answers = iter(looks[: len(unsure)])
        result = [fact if fact is not None else next(answers) for fact in seen]
        if any(containers.cut_short(record, fact) for record, fact in zip(records, result, strict=True) if fact):
            self._engine.check_accepting()
        found = [fact for fact in [*result, *looks[len(unsure) :]] if fact is not None]
        others_seen = [containers.of_others(item, self._engine.base_url) for item in others]
        if not any(fact.image for fact in found):
            return found + others_seen
        images = containers.Images(self._engine.get("/images/json"))
        return [images.told(fact) for fact in found] + others_seen

    def _is_here(self, item: dict[str, Any]) -> bool:
        return str(item["Labels"].get(containers.ENVIRONMENT, "")) == self._environment

    def _list(self, *labels: str) -> list[dict[str, Any]]:
        return list(self._engine.get("/containers/json", all=1, filters=containers.filters(label=list(labels))))

    def _listed(self, record: Recorded, items: dict[str, dict[str, Any]]) -> Observed | None:
        """Return what the list tells of a record, None where an inspect is needed."""
        item = items.get(record.run_id)
        if item is None:
            return containers.gone(record)
        if item.get(IMPORTED):
            return None
        return (
            containers.from_list(item, self._engine.base_url, record)
            if containers.list_tells_enough(item, record)
            else None
        )

    def _inspect_all(self, wanted: Sequence[tuple[Recorded | None, dict[str, Any]]]) -> list[Observed | None]:
        if len(wanted) < 2:
            return [self._inspect(record, item) for record, item in wanted]
        with ThreadPoolExecutor(min(INSPECTORS, len(wanted)), "docker-inspect") as pool:
            return list(pool.map(lambda pair: self._inspect(*pair), wanted))

    def _inspect(self, record: Recorded | None, item: dict[str, Any]) -> Observed | None:
        found = self._engine.inspect(item["Id"])
        if found is not None:
            return containers.from_inspect(found, self._engine.base_url, record)
        return containers.gone(record) if record else None

    def find(self, project: str, wanted: Sequence[Objects] = ()) -> list[Found]:
        """Return the containers that carry the labels of the project and the environment."""
        items = filter(self._is_here, self._list(f"{containers.PROJECT}={project}"))
        looks = (self._engine.inspect(item["Id"]) for item in items)
        found = [self._found(look) for look in looks if look is not None]
        return sorted(found, key=lambda one: (one.seen.address, one.seen.attempt))

    def describe(self, object_id: str) -> Found:
        """Return a container by its id or name.

        Raises:
            ProviderError: there is none.
        """
        container = object_id.rpartition(":")[2].strip("/")
        found = self._engine.inspect(container) if container else None
        if found is None:
            raise ProviderError(f'there is no container "{object_id}" on {self._engine.endpoint}', reason="NotFound")
        return self._found(found)

    def _found(self, look: dict[str, Any]) -> Found:
        seen, labels = containers.from_inspect(look, self._engine.base_url), look["Config"].get("Labels") or {}
        live = (seen.live or {})["Container"]
        config = {**look["Config"], "HostConfig": live["Config"]["HostConfig"]}
        bare = {"Name": live["Name"], "Networks": live["Networks"], "Config": {"Image": config.get("Image")}}
        if not seen.run_id:
            seen = replace(seen, handle={**seen.handle, IMPORTED: True})
        return Found(
            seen,
            labels.get(containers.PROJECT, ""),
            labels.get(containers.LINEAGE, ""),
            {"Container": {"Name": live["Name"], "Networks": live["Networks"], "Config": config}},
            {"Container": bare},
        )

    def preflight(self, orders: Sequence[Order]) -> list[Finding]:
        from flowplan.providers.docker.checks import Checks

        return Checks(self._engine, self._images, self._lineage).findings(orders)

    def create(self, order: Order) -> Observed:
        return self._creator.create(order)

    def update(self, record: Recorded, order: Order, fields: Sequence[FieldChange]) -> Observed:
        return self._changer.update(record, order, fields)

    def again(self, record: Recorded) -> Observed:
        return self._changer.again(record)

    def delete(self, record: Recorded, grace: float) -> None:
        self._changer.delete(record, grace)

    def watch(self, records: Sequence[Recorded], stop: threading.Event) -> Iterator[News]:
        return polling.watch(records, stop, self._stream, self.observe)

    def _stream(self, records: Sequence[Recorded], stop: threading.Event) -> Iterator[News]:
        from flowplan.providers.docker.watching import Watch

        return Watch(self._engine, self._lineage, records, self.observe).changes(stop)

    def logs(
        self, record: Recorded, *, follow: bool, tail: int | None, stop: threading.Event | None = None
    ) -> Iterator[LogLine]:
        from flowplan.providers.docker.output import Output

        container = str(record.handle.get("id") or "")
        starting, held = record.status is Status.CREATING and not container, self._attachments.take(container)
        tty, find = self._has_terminal(record), partial(self._container, record)
        retry = record.settings.retry_delay
        left = retry.retries + 1 - max(record.attempts, 1) if retry else 0
        output = Output(self._engine, find, tty=tty, starting=starting, held=held, retries=left)
        return output.lines(tail, follow, stop)

    def progress(self, record: Recorded, stop: threading.Event) -> Iterator[LogLine]:
        """Attach to the container, for its log has a line only when it is complete."""
        from flowplan.providers.docker.attaching import progress

        return progress(self._engine, partial(self._container, record), stop, tty=self._has_terminal(record))

    def _container(self, record: Recorded) -> str | None:
        """Return the id of a container, by its label before it is recorded."""
        if "id" in record.handle:
            return str(record.handle["id"])
        found = self._changer.find(record)
        return str(found["Id"]) if found else None

    def _has_terminal(self, record: Recorded) -> bool:
        """Return whether a container has a terminal; of one that was imported, its config is not recorded."""
        config = record.objects.get("Container", {}).get("Config", {})
        if record.handle.get(IMPORTED):
            config = (self._engine.inspect(record.handle["id"]) or {}).get("Config", {})
        return bool(config.get("Tty", False))

    def secret_values(self, record: Recorded) -> list[str]:
        """Return the values that the live container has where the record has tokens."""
        found = self._changer.find(record)
        if found is None:
            return []
        config = record.objects.get("Container", {}).get("Config", {})
        return sorted(_secrets({**config, "HostConfig": {}}, {**found["Config"], "HostConfig": {}}))

    def close(self) -> None:
        self._engine.close()


def _secrets(recorded: Json, live: Json) -> set[str]:
    """Return the live values in the places of tokens; Env is matched by name, for the image adds entries."""
    if isinstance(recorded, str):
        return _values(recorded, live) if isinstance(live, str) else set()
    if isinstance(recorded, dict) and isinstance(live, dict):
        return {value for key, item in recorded.items() for value in _secrets(item, live.get(key))}
    if isinstance(recorded, list) and isinstance(live, list):
        if len(recorded) == len(live):
            pairs = list(zip(recorded, live, strict=True))
        else:
            by_name = {str(item).partition("=")[0]: item for item in live}
            pairs = [(item, by_name.get(str(item).partition("=")[0])) for item in recorded]
        return {value for one, other in pairs for value in _secrets(one, other)}
    return set()


def _values(recorded: str, live: str) -> set[str]:
    if "(sensitive " not in recorded:
        return set()
    parts = [re.escape(part) for part in TOKEN.split(recorded)[:: TOKEN.groups + 1]]
    match = re.fullmatch("(.*)".join(parts), live, re.DOTALL)
    return {value for value in match.groups() if value} if match else set()
