"""What Podman does otherwise than Docker's Engine behind the same API, put right in one place."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from flowplan.schemas.docker_api import UPDATABLE
from flowplan.schemas.times import seconds_between, timestamp

if TYPE_CHECKING:
    from flowplan.providers.docker.connection import Engine

HEADER = "Libpod-API-Version"
"""The header by which Podman is known: it is in each of its answers, and in none of Docker's."""

IDENTITY = "flowplan-engine"
"""The name of the secret whose id is the identity of a Podman; what it holds is no secret."""
_SECRET = {
    "Name": IDENTITY,
    "Data": base64.b64encode(b"flowplan knows this Podman by the id of this secret").decode(),
    "Driver": {"Name": "file"},
}

NO_SUCH_CALL = "this Podman has no such call"
"""What stands for its answer to a path that it does not know, which has no words of an Engine."""

NAME_TAKEN = "is already in use by"
"""Part of its words for a container's name that another one has, which it calls a failure (500) where Docker says 409."""

DEFAULT_NETWORK = {"bridge": "podman"}
"""Docker's name of the network of every container without one -> Podman's."""

EVENTS = {"died": "die", "remove": "destroy"}
"""Podman's names of events, in filters or in what it says -> Docker's."""

CLEANUP = "cleanup"
"""The event after `die` where nothing starts the container again."""

REMOVAL_LIMIT = 2.0
"""Seconds after a SIGKILL during which a removal means `podman rm -f`; it is slower than Docker's."""

_RESTART_LIMIT = 30.0
"""Seconds after its end within which Podman starts a container again."""

SILENT = "Podman did not say why"
"""Why the container has another limit than it was asked for."""

_EXIT_CODES = {
    "OCI runtime attempted to invoke a command that was not found": 127,
    "OCI permission denied": 126,
    "is a directory: OCI runtime error": 126,
}
"""Podman's words for a command that cannot be executed, at the end of what the runtime said -> the exit code."""


def identity(engine: Engine) -> str:
    """Return what tells this Podman from every other one, for as long as it keeps its containers.

    Podman has no id: ``/info`` has another one in each answer. Its secrets lie beside its containers, in one store for each
    user; their ids are random, and only a reset of the storage or a deletion by name removes one. So the id of a secret of
    ours stands for Podman's. It is made where there is none; of two who make it at once, one is refused.
    """
    place = f"/secrets/{IDENTITY}"
    found = engine.find(place)
    if found is None:
        engine.confirmed(partial(engine.post, "/secrets/create", _SECRET), lambda: engine.find(place) is not None)
        found = engine.get(place)
    return f"podman:{found['ID']}"


def told(engine: Engine, found: dict[str, Any]) -> dict[str, Any]:
    """Return an inspected container as Docker's Engine tells it: ``restarting`` between two executions.

    Podman calls it ``exited`` until it starts it again, and ``created`` while it does. One that its user has stopped stays
    as it is, which Podman says from version 5 on; of an older one, the event ``CLEANUP`` says it, or time.
    """
    state, count = found["State"], int(found.get("RestartCount") or 0)
    again = state["Status"] in ("created", "initialized") and not str(state.get("StartedAt")).startswith("0001")
    if not again:
        policy = (found.get("HostConfig") or {}).get("RestartPolicy") or {}
        most = int(policy.get("MaximumRetryCount") or 0)
        repeats = state.get("ExitCode") != 0 and (most == 0 or count < most)
        repeats = repeats if policy.get("Name") == "on-failure" else policy.get("Name") in ("always", "unless-stopped")
        now = engine.clock.now()
        passed = seconds_between(state.get("FinishedAt"), timestamp(now)) if now else None
        if state["Status"] not in ("exited", "stopped") or not repeats or (passed or 0) > _RESTART_LIMIT:
            return found
        own = engine.find(f"/libpod/containers/{found['Id']}/json") or {}
        if (own.get("State") or {}).get("StoppedByUser"):
            return found
    state = {**state, "Status": "restarting", "Restarting": True}
    return {**found, "State": state, "RestartCount": count if again else count + 1}


def exit_code(words: str) -> int:
    """Return the exit code of a command that could not be executed, 0 for any other failure."""
    return next((code for end, code in _EXIT_CODES.items() if words.endswith(end)), 0)


def update(body: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of an update call as Podman heeds it: CPUs as quota and period; without a policy it takes that away.

    Args:
        wanted: the whole HostConfig.
    """
    rest = {"RestartPolicy": wanted.get("RestartPolicy", {"Name": "no"}), **body}
    rest.pop("NanoCpus", None)
    if "NanoCpus" not in body:
        return rest
    return {**rest, "CpuPeriod": 100_000, "CpuQuota": (body["NanoCpus"] or 0) // 10_000 or -1}


def bare(message: str) -> str:
    """Return an error of the runtime without what Podman adds at its end."""
    return re.sub(": OCI [^:]*$", "", message)


def warnings(info: Mapping[str, Any], host: Mapping[str, Any]) -> Iterator[str]:
    """Yield what of a HostConfig Podman does not heed, and does not warn of."""
    limits = sorted(name for name in UPDATABLE - {"RestartPolicy"} if host.get(name))
    if limits and info.get("Rootless") and str(info.get("CgroupVersion")) == "1":
        yield f"rootless Podman cannot limit anything where cgroups are version 1: {', '.join(limits)} will have no effect"
    if host.get("MemorySwap") == -1:
        yield "Podman takes MemorySwap -1 for twice the memory"
