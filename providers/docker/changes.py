"""Changing and deleting containers that exist: docker update, rename, connect, stop and remove."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from flowplan.providers.docker import containers, podman
from flowplan.providers.docker.connection import Engine
from flowplan.providers.docker.refusals import Refusal
from flowplan.providers.protocol import IMPORTED, Order
from flowplan.schemas.docker_api import same
from flowplan.schemas.errors import ProviderError, Refused
from flowplan.schemas.faults import point
from flowplan.schemas.lifecycle import ENDED
from flowplan.schemas.plans import FieldChange
from flowplan.schemas.runs import Observed, Recorded, Status
from flowplan.schemas.times import seconds_between, timestamp

_HOST = "/Container/Config/HostConfig/"

_NO_LIMIT: dict[str, Any] = {"PidsLimit": 0, "RestartPolicy": {"Name": "no"}}
"""What docker update takes for "not set", where it takes anything."""


def _changed(fields: Sequence[FieldChange]) -> list[str]:
    """Return the names of the limits that a change is about."""
    return sorted({change.path[len(_HOST) :].split("/")[0] for change in fields if change.path.startswith(_HOST)})


def _has_ended(state: Mapping[str, Any]) -> bool:
    return not (state.get("Running") or state.get("Restarting"))


class Changer:
    """Changes and deletes the containers of one lineage on one Engine."""

    def __init__(self, engine: Engine, lineage: str) -> None:
        self._engine = engine
        self._lineage = lineage

    def find(self, record: Recorded) -> dict[str, Any] | None:
        """Return the inspected container of the record, found by id, else by label; None where there is none.

        Raises:
            Refused: when the record is of another Engine.
        """
        wanted = record.target.get("id", "")
        if wanted and wanted != self._engine.identity():
            raise Refused(
                f"{record.target.get('label') or wanted} is recorded, but {self._engine.endpoint} is another Engine",
                hint="set DOCKER_HOST or the provider's host to the recorded one",
                address=record.address,
            )
        container = record.handle.get("id")
        found = self._engine.inspect(container) if container else None
        if found and self._ours(found, record):
            return found
        labels = [f"{containers.RUN_ID}={record.run_id}", f"{containers.LINEAGE}={self._lineage}"]
        items = self._engine.get("/containers/json", all=1, filters=containers.filters(label=labels))
        return self._engine.inspect(items[0]["Id"]) if items else None

    def _ours(self, found: Mapping[str, Any], record: Recorded) -> bool:
        if record.handle.get(IMPORTED):
            return bool(found["Id"] == record.handle.get("id"))
        labels = found["Config"].get("Labels") or {}
        return labels.get(containers.RUN_ID) == record.run_id and labels.get(containers.LINEAGE) == self._lineage

    def update(self, record: Recorded, order: Order, fields: Sequence[FieldChange]) -> Observed:
        """Carry out in-place changes.

        Raises:
            ProviderError: when the container is gone or the Engine refuses.
        """
        found = self.find(record)
        if found is None:
            raise ProviderError("the container is gone", hint="plan again", address=record.address, reason="NotFound")
        container, warnings = order.objects["Container"], []
        try:
            warnings = self._resources(found["Id"], container, fields)
            point("docker:resources:after")
            self._networks(found, container, fields)
            self._rename(found, container, fields)
        except Refusal as error:
            unable = error.words == podman.NO_SUCH_CALL
            message = (
                "this Podman cannot change the limits of a container: it needs version 5" if unable else error.message
            )
            hint = f"`flowplan apply --rerun {record.address}` makes a new container" if unable else ""
            raise ProviderError(message, hint=hint, address=record.address, reason=error.reason) from None
        again = self._engine.inspect(found["Id"])
        if again is None:
            return containers.gone(record)
        seen = containers.from_inspect(again, self._engine.base_url, record)
        return replace(seen, remarks=self._kept_as_it_was(record, container, fields, again, warnings))

    def again(self, record: Recorded) -> Observed:
        """Start a container again that has failed, if it has not been since; a refusal is one more try that failed.

        Raises:
            EngineUnreachable: it may have been started, or not.
        """
        found = self.find(record)
        if found is None:
            return containers.gone(record)
        before = containers.from_inspect(found, self._engine.base_url, record)
        passed = seconds_between(record.handle.get(ENDED), before.finished_at)
        if before.status is not Status.FAILED or passed is None or passed > 0:
            return before
        place = f"/containers/{found['Id']}"

        def look() -> Observed:
            return containers.from_inspect(self._engine.get(f"{place}/json"), self._engine.base_url, record)

        try:
            self._engine.confirmed(
                partial(self._engine.post, f"{place}/start"), lambda: look().started_at != before.started_at
            )
        except Refusal as error:
            at = timestamp(self._engine.clock.now() or datetime.now(UTC), "microseconds")
            refused = replace(before, reason="StartFailed", message=error.message, exit_code=None)
            return replace(refused, finished_at=at)
        point("docker:again:after")
        return look()

    def _resources(self, found: str, container: Mapping[str, Any], fields: Sequence[FieldChange]) -> list[str]:
        """Change limits and the restart policy; return the Engine's warnings."""
        wanted = container["Config"].get("HostConfig", {})
        body = {name: wanted.get(name, _NO_LIMIT.get(name)) for name in _changed(fields)}
        if not body:
            return []
        if body.get("Memory") and "MemorySwap" not in wanted:
            body["MemorySwap"] = 2 * body["Memory"]  # as the Engine does for a new container
        if self._engine.podman:
            body = podman.update(body, wanted)
        said: list[str] = []

        def ask() -> None:
            answer = self._engine.request("POST", f"/containers/{found}/update", body=body)
            with contextlib.suppress(ValueError, AttributeError, TypeError):
                said.extend(str(words) for words in answer.json().get("Warnings") or ())

        def done() -> bool:
            host = self._engine.get(f"/containers/{found}/json").get("HostConfig") or {}
            return all(same(name, value, host) for name, value in body.items())

        self._engine.confirmed(ask, done)
        return said

    def _kept_as_it_was(
        self,
        record: Recorded,
        container: Mapping[str, Any],
        fields: Sequence[FieldChange],
        again: Mapping[str, Any],
        warnings: Sequence[str],
    ) -> dict[str, str]:
        """Return the remarks on the container after a change, by what it has now.

        Raises:
            ProviderError: the Engine answered with success and changed nothing, which it could have done.
        """
        wanted, host = container["Config"].get("HostConfig", {}), again.get("HostConfig") or {}
        remarks, said = dict(record.remarks), " ".join(warnings)
        for name in _changed(fields):
            place = f"{_HOST}{name}"
            known = remarks.pop(place, "")
            if same(name, wanted.get(name), host):
                continue
            if not (known or said):
                raise ProviderError(
                    f"the Engine answered that it changed {name}, which still is {host.get(name)}",
                    hint=f"`flowplan apply --rerun {record.address}` makes a new container with it",
                    address=record.address,
                )
            remarks[place], said = said or known, ""
        return {**remarks, **({"": said} if said else {})}

    def _networks(self, found: Mapping[str, Any], container: Mapping[str, Any], fields: Sequence[FieldChange]) -> None:
        if not any(change.path.startswith("/Container/Networks") for change in fields):
            return
        wanted = container["Networks"]
        live = containers.networks(found, wanted)
        steps = [(name, "connect") for name in wanted if name not in live]
        steps += [(name, "disconnect") for name in live if name not in wanted]
        for network, what in steps:

            def done(network: str = network, connected: bool = what == "connect") -> bool:
                look = self._engine.get(f"/containers/{found['Id']}/json")
                return (network in containers.networks(look, wanted)) is connected

            place = f"/networks/{self._engine.network(network)}/{what}"
            ask = partial(self._engine.post, place, {"Container": found["Id"]})
            self._engine.confirmed(ask, done)

    def _rename(self, found: Mapping[str, Any], container: Mapping[str, Any], fields: Sequence[FieldChange]) -> None:
        name, path = container["Name"], f"/containers/{found['Id']}"
        if any(change.path == "/Container/Name" for change in fields) and found["Name"].lstrip("/") != name:
            self._engine.confirmed(
                partial(self._engine.post, f"{path}/rename", name=name),
                lambda: self._engine.get(f"{path}/json")["Name"].lstrip("/") == name,
            )

    def delete(self, record: Recorded, grace: float) -> None:
        """Stop with ``grace`` seconds between TERM and KILL, remove with anonymous volumes, wait until it is gone."""
        found = self.find(record)
        if found is None:
            return
        path = f"/containers/{found['Id']}"
        try:
            if found["State"].get("Paused"):
                self._tolerant("POST", f"{path}/unpause", lambda state: not state.get("Paused"))
            if found["State"].get("Running") or found["State"].get("Restarting"):
                self._tolerant("POST", f"{path}/stop", _has_ended, grace, t=math.ceil(grace))
                point("docker:stop:after")
            removed = self._tolerant("DELETE", path, lambda state: not state, v=1, force=1)
            point("docker:delete:after")
        except Refusal as error:
            raise ProviderError(error.message, address=record.address, reason=error.reason) from None
        if not removed:
            self._await_gone(path, record)

    def _tolerant(
        self, method: str, path: str, done: Callable[[Mapping[str, Any]], bool], extra: float = 0.0, **params: Any
    ) -> bool:
        """Make a request for which "gone", "stopped already" and "being removed" are success; return False for these.

        Args:
            done: tells from the container's state ({} when it is gone) whether it was done, where the answer is lost.
        """
        container = "/".join(path.split("/")[:3])

        def looked() -> bool:
            found = self._engine.find(f"{container}/json")
            return found is None or done(found["State"])

        try:
            self._engine.confirmed(partial(self._engine.request, method, path, params=params, extra=extra), looked)
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
