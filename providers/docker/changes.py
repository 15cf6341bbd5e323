"""Changing and deleting containers that exist: docker update, rename, connect, stop and remove."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from flowplan.providers.docker import facts
from flowplan.providers.docker.connection import Engine, Refusal
from flowplan.providers.protocol import IMPORTED, Order
from flowplan.schemas.errors import ProviderError, Refused
from flowplan.schemas.faults import point
from flowplan.schemas.plans import FieldChange
from flowplan.schemas.runs import Observed, Recorded

_NO_LIMIT: dict[str, Any] = {"PidsLimit": 0, "RestartPolicy": {"Name": "no"}}
"""What docker update takes for "not set", where it takes anything."""


class Changer:
    """Changes and deletes the containers of one lineage on one Engine."""

    def __init__(self, engine: Engine, lineage: str) -> None:
        self._engine = engine
        self._lineage = lineage

    def find(self, record: Recorded) -> dict[str, Any] | None:
        """The inspected container of the record, found by id, else by label; None where there is none.

        Raises:
            Refused: when the record is of another Engine.
        """
        wanted = record.target.get("id", "")
        if wanted and wanted != self._engine.info().get("ID"):
            raise Refused(
                f"{record.target.get('label') or wanted} is recorded, but {self._engine.endpoint} is another Engine",
                hint="set DOCKER_HOST or the provider's host to the recorded one",
                address=record.address,
            )
        container = record.handle.get("id")
        found = self._engine.find(f"/containers/{container}/json") if container else None
        return found if found and self._ours(found, record) else self._by_label(record)

    def _ours(self, found: Mapping[str, Any], record: Recorded) -> bool:
        if record.handle.get(IMPORTED):
            return bool(found["Id"] == record.handle.get("id"))
        labels = found["Config"].get("Labels") or {}
        return labels.get(facts.RUN_ID) == record.run_id and labels.get(facts.LINEAGE) == self._lineage

    def _by_label(self, record: Recorded) -> dict[str, Any] | None:
        labels = [f"{facts.RUN_ID}={record.run_id}", f"{facts.LINEAGE}={self._lineage}"]
        items = self._engine.get("/containers/json", all=1, filters=facts.filters(label=labels))
        return self._engine.find(f"/containers/{items[0]['Id']}/json") if items else None

    def update(self, record: Recorded, order: Order, fields: Sequence[FieldChange]) -> Observed:
        """Carry out in-place changes.

        Raises:
            ProviderError: when the container is gone or the Engine refuses.
        """
        found = self.find(record)
        if found is None:
            raise ProviderError("the container is gone", hint="plan again", address=record.address, reason="NotFound")
        container = order.objects["Container"]
        try:
            self._resources(found, container, fields)
            point("docker:resources:after")
            self._networks(found, container, fields)
            self._rename(found, container, fields)
        except Refusal as error:
            raise ProviderError(error.message, address=record.address, reason=error.reason) from None
        again = self._engine.get(f"/containers/{found['Id']}/json")
        return facts.from_inspect(again, self._engine.base_url, record)

    def _resources(self, found: Mapping[str, Any], container: Mapping[str, Any], fields: Sequence[FieldChange]) -> None:
        prefix = "/Container/Config/HostConfig/"
        names = {change.path[len(prefix) :].split("/")[0] for change in fields if change.path.startswith(prefix)}
        if not names:
            return
        wanted = container["Config"].get("HostConfig", {})
        body = {name: wanted.get(name, _NO_LIMIT.get(name)) for name in sorted(names)}
        if body.get("Memory") and "MemorySwap" not in wanted:
            body["MemorySwap"] = 2 * body["Memory"]  # what the Engine gives a new container (D20)
        self._engine.post(f"/containers/{found['Id']}/update", body)

    def _networks(self, found: Mapping[str, Any], container: Mapping[str, Any], fields: Sequence[FieldChange]) -> None:
        if not any(change.path.startswith("/Container/Networks") for change in fields):
            return
        live, wanted = list(found["NetworkSettings"].get("Networks") or {}), container["Networks"]
        for network in [name for name in wanted if name not in live]:
            self._engine.post(f"/networks/{network}/connect", {"Container": found["Id"]})
        for network in [name for name in live if name not in wanted]:
            self._engine.post(f"/networks/{network}/disconnect", {"Container": found["Id"]})

    def _rename(self, found: Mapping[str, Any], container: Mapping[str, Any], fields: Sequence[FieldChange]) -> None:
        changes = any(change.path == "/Container/Name" for change in fields)
        if changes and found["Name"].lstrip("/") != container["Name"]:
            self._engine.post(f"/containers/{found['Id']}/rename", name=container["Name"])

    def delete(self, record: Recorded, grace: float) -> None:
        """Stop with ``grace`` seconds between TERM and KILL, remove with anonymous volumes, wait until it is gone."""
        found = self.find(record)
        if found is None:
            return
        path = f"/containers/{found['Id']}"
        try:
            if found["State"].get("Paused"):
                self._tolerant("POST", f"{path}/unpause")
            if found["State"].get("Running") or found["State"].get("Restarting"):
                self._tolerant("POST", f"{path}/stop", grace, t=math.ceil(grace))
                point("docker:stop:after")
            removed = self._tolerant("DELETE", path, v=1, force=1)
            point("docker:delete:after")
        except Refusal as error:
            raise ProviderError(error.message, address=record.address, reason=error.reason) from None
        if not removed:
            self._await_gone(path, record)

    def _tolerant(self, method: str, path: str, extra: float = 0.0, **params: Any) -> bool:
        """A request for which "gone", "stopped already" and "being removed" are success; False for these."""
        try:
            self._engine.request(method, path, params=params, extra=extra)
        except Refusal as error:
            if error.status not in (304, 404, 409):
                raise
            return False
        return True

    def _await_gone(self, path: str, record: Recorded) -> None:
        deadline, pause = time.monotonic() + self._engine.timeout, 0.02
        while self._engine.find(f"{path}/json") is not None:
            if time.monotonic() > deadline:
                raise ProviderError(
                    "the Engine did not remove the container in time",
                    hint="look at it with `docker inspect`, then destroy again",
                    address=record.address,
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.5)
