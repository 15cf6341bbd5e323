"""What the Engine's answers say about a run: statuses, reasons, exit codes, and what may have drifted."""

from __future__ import annotations

import calendar
import json
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from flowplan.providers.docker import podman
from flowplan.providers.protocol import IMPORTED
from flowplan.schemas import arguments, docker_api, exit_codes
from flowplan.schemas.runs import Json, Objects, Observed, Recorded, Status, Try
from flowplan.schemas.times import timestamp

PROJECT = "dev.flowplan.project"
ENVIRONMENT = "dev.flowplan.environment"
RUN_ID = "dev.flowplan.run-id"
LINEAGE = "dev.flowplan.lineage"
ADDRESS = "dev.flowplan.address"
ATTEMPT = "dev.flowplan.attempt"
CONTENT = "dev.flowplan.content"
CREATED_FROM = "dev.flowplan.created-from"

SUFFIXES = tuple(f"-{number}" for number in range(1, 6))
"""What is put after the wanted name when foreign containers hold it, in the order in which they are tried."""

_SIGNALS = {129: "SIGHUP", 130: "SIGINT", 131: "SIGQUIT", 132: "SIGILL", 134: "SIGABRT", 135: "SIGBUS"} | {
    136: "SIGFPE", 137: "SIGKILL", 139: "SIGSEGV", 141: "SIGPIPE", 143: "SIGTERM",
}  # fmt: skip
_FIXED = frozenset({"NetworkMode", "ExtraHosts", "Binds", "AutoRemove", "Privileged", "DeviceRequests", "ShmSize"})
_STATES = {"created": Status.CREATING, "running": Status.RUNNING, "paused": Status.RUNNING}
_STATES |= {"restarting": Status.RUNNING, "removing": Status.RUNNING}
_STATES |= {"configured": Status.CREATING, "initialized": Status.CREATING, "stopping": Status.RUNNING}  # Podman's


def engine_time(text: str | None) -> str | None:
    """Return a time of the Engine as RFC 3339 UTC with microseconds, None for "never" (year 1)."""
    match = re.match(r"(\d{4})(-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)$", text or "")
    if not match or match[1] == "0001":
        return None
    micros = (match[3] or "")[:6].ljust(6, "0")
    moment = datetime.fromisoformat(f"{match[1]}{match[2]}.{micros}{match[4].replace('Z', '+00:00')}")
    return timestamp(moment, "microseconds")


def event_time(event: Mapping[str, Any]) -> str:
    """Return the time of an event as RFC 3339 UTC."""
    moment = datetime.fromtimestamp(int(event.get("timeNano") or event["time"] * 10**9) // 1000 / 1e6, UTC)
    return timestamp(moment, "microseconds")


def header_seconds(date: str | None) -> float:
    """Return the seconds since the epoch of an HTTP Date header; of our own clock where it is missing."""
    try:
        return float(calendar.timegm(time.strptime(date or "", "%a, %d %b %Y %H:%M:%S GMT")))
    except ValueError:
        return time.time()


def ended(code: int, oom: bool, error: str = "") -> tuple[Status, str, str]:
    """Return status, reason and message of a container that ended with ``code``."""
    if code == 0:
        return Status.SUCCEEDED, "Completed", ""
    if oom:
        return Status.FAILED, "OOMKilled", exit_codes.explained(code, "ran out of memory")
    return Status.FAILED, _SIGNALS.get(code, "Error"), exit_codes.explained(code, error)


def from_inspect(found: Mapping[str, Any], base_url: str, record: Recorded | None = None) -> Observed:
    """Return what one ``docker inspect`` tells of a container."""
    state, labels = found["State"], found["Config"].get("Labels") or {}
    imported = record is not None and bool(record.handle.get(IMPORTED))
    status, reason, message, code = _condition(state)
    if status.final and code in arguments.EXEC_FAILED:
        for place, size in arguments.too_long(found["Config"], {}):
            reason, message = arguments.REASON, exit_codes.explained(code, arguments.explanation(place, size))
    created = engine_time(found.get("Created"))
    started = engine_time(state.get("StartedAt"))
    # it counts one that is still to come
    restarted = int(found.get("RestartCount") or 0) - (state.get("Status") == "restarting")
    finished = engine_time(state.get("FinishedAt")) if status.final else None
    return Observed(
        run_id=record.run_id if record and imported else labels.get(RUN_ID, ""),
        address=record.address if record and imported else labels.get(ADDRESS, ""),
        attempt=record.attempt if record and imported else _number(labels.get(ATTEMPT)),
        status=status,
        reason=reason,
        message=message,
        exit_code=code,
        attempts=restarted + (1 if started else 0),
        handle=handle(found["Id"], seconds(created)) | ({IMPORTED: True} if imported else {}),
        infrastructure_id=f"{base_url}:{found['Id']}",
        name=str(found.get("Name", "")).lstrip("/"),
        started_at=started,
        finished_at=finished,
        at=finished or started or created,
        live=live_of(found, record),
        image=_image(str(found["Config"].get("Image") or ""), str(found.get("Image") or "")),
        content=labels.get(CONTENT, ""),
        created_at=created,
        tries=(Try(restarted + 1, _most_tries(found), started),) if restarted > 0 else (),
    )


def _most_tries(found: Mapping[str, Any]) -> int | None:
    retries = ((found.get("HostConfig") or {}).get("RestartPolicy") or {}).get("MaximumRetryCount")
    return int(retries) + 1 if retries else None


def cut_short(record: Recorded, seen: Observed) -> bool:
    """Return whether a container ended although its restart policy would start it again: it was stopped by hand, or the
    Engine is shutting down and will start it later."""
    policy = record.objects.get("Container", {}).get("Config", {}).get("HostConfig", {}).get("RestartPolicy") or {}
    if seen.status is None or not seen.status.final or policy.get("Name") in (None, "", "no"):
        return False
    if policy.get("Name") != "on-failure":
        return True
    most = int(policy.get("MaximumRetryCount") or 0)
    return seen.exit_code != 0 and (most == 0 or seen.attempts <= most)


def handle(container: str, created: float) -> dict[str, Json]:
    """Return the handle by which a container is found again; ``created`` is in seconds by the Engine's clock."""
    return {"id": container, "created": int(created)}


def seconds(moment: str | None) -> float:
    """Return the seconds since the epoch of an RFC 3339 time, 0 for None."""
    return datetime.fromisoformat(moment).timestamp() if moment else 0.0


def _condition(state: Mapping[str, Any]) -> tuple[Status, str, str, int | None]:
    word = str(state.get("Status", ""))
    if word in _STATES:
        reason = {"paused": "Paused", "restarting": "Restarting"}.get(word, "")
        message = f"the last execution ended with exit code {state.get('ExitCode')}" if word == "restarting" else ""
        return _STATES[word], reason, message, None
    code = int(state.get("ExitCode", -1))
    if word == "dead" and not engine_time(state.get("FinishedAt")):
        return Status.FAILED, "Dead", str(state.get("Error") or "the Engine could not remove the container"), None
    return *ended(code, bool(state.get("OOMKilled")), str(state.get("Error") or "")), code


def from_list(item: Mapping[str, Any], base_url: str, record: Recorded) -> Observed:
    """Return what one item of ``docker ps`` tells of a container, completed from its record."""
    word = str(item.get("State", ""))
    status = _STATES.get(word, record.status)
    final = word not in _STATES
    live: Objects | None = None
    if not final:
        live = {"Container": {"Name": _wanted_name(_own_name(item), record), "Networks": _networks(item, record)}}
    return Observed(
        run_id=record.run_id,
        address=record.address,
        attempt=record.attempt,
        status=status,
        reason=record.reason if final else {"paused": "Paused", "restarting": "Restarting"}.get(word, ""),
        message=record.message if final else "",
        exit_code=record.exit_code if final else None,
        attempts=max(record.attempts, 0 if status == Status.CREATING else 1),
        handle=record.handle or handle(item["Id"], float(item.get("Created") or 0)),
        infrastructure_id=f"{base_url}:{item['Id']}",
        name=_own_name(item),
        started_at=record.started_at,
        finished_at=record.finished_at if final else None,
        live=live,
        image=_image(record.objects.get("Container", {}).get("Config", {}).get("Image", ""), item.get("ImageID", "")),
        content=item["Labels"].get(CONTENT, ""),
    )


def of_others(item: Mapping[str, Any], base_url: str) -> Observed:
    """Return what an item of ``docker ps`` tells of a container that another lineage made."""
    labels = item["Labels"]
    created = datetime.fromtimestamp(int(item.get("Created") or 0), UTC)
    return Observed(
        labels.get(RUN_ID, ""),
        address=labels.get(ADDRESS, ""),
        attempt=_number(labels.get(ATTEMPT)),
        status=_STATES.get(str(item.get("State", ""))),
        infrastructure_id=f"{base_url}:{item['Id']}",
        name=_own_name(item),
        lineage=labels[LINEAGE],
        created_at=timestamp(created, "seconds"),
        created_from=labels.get(CREATED_FROM, ""),
    )


def list_tells_enough(item: Mapping[str, Any], record: Recorded) -> bool:
    """Return whether an item of ``docker ps`` needs no inspect: it runs or its end is recorded, and cannot drift."""
    if item.get("State") not in _STATES:
        return record.status.settled
    if item["Id"] != record.handle.get("id", item["Id"]):
        return False  # it was made again
    host = record.objects.get("Container", {}).get("Config", {}).get("HostConfig", {})
    return bool(record.started_at) and item.get("State") == "running" and _FIXED.issuperset(host)


def live_of(found: Mapping[str, Any], record: Recorded | None) -> Objects:
    """Return the live values of all fields that were applied; of all fields, where there is no record."""
    host = dict(found.get("HostConfig") or {})
    if record is not None:
        wanted = record.objects.get("Container", {}).get("Config", {}).get("HostConfig", {})
        host = {key: value if docker_api.same(key, value, host) else host.get(key) for key, value in wanted.items()}
    name = str(found.get("Name", "")).lstrip("/")
    if record is not None:
        name = _wanted_name(name, record)
    return {"Container": {"Name": name, "Networks": _networks(found, record), "Config": {"HostConfig": host}}}


def left_out(asked: Mapping[str, Any], found: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """Return the places of a create body (in the objects) where the inspected container differs from it.

    A field without a value is left to the Engine.

    Args:
        known: places below which a difference is explained already.
    """
    host = found.get("HostConfig") or {}
    kept = {**(found.get("Config") or {}), "HostConfig": host, "NetworkingConfig": asked.get("NetworkingConfig")}
    paths = []
    for name, value in asked.items():
        if name not in ("HostConfig", "NetworkingConfig", "Env", "Labels") and not _has(kept.get(name), value, name):
            paths.append(f"/Container/Config/{name}")
    for name, value in (asked.get("HostConfig") or {}).items():
        if not docker_api.same(name, value, host) and not _has(host.get(name), value, name):
            paths.append(f"/Container/Config/HostConfig/{name}")
    return [path for path in paths if not any(place.startswith(path) for place in known)]


def _has(found: Json, asked: Json, name: str = "") -> bool:
    """Return whether ``found`` has all that was asked for; it may have more."""
    if docker_api.meaning(name, asked) is None:
        return True
    if isinstance(asked, Mapping) and isinstance(found, Mapping):
        return all(_has(found.get(key), value, key) for key, value in asked.items())
    if isinstance(asked, list) and isinstance(found, list) and name in docker_api.UNORDERED:
        return set(docker_api.meaning(name, asked)) <= set(docker_api.meaning(name, found) or ())
    if isinstance(asked, list) and isinstance(found, list) and len(asked) == len(found):
        return all(_has(one, other) for one, other in zip(found, asked, strict=True))
    return bool(docker_api.meaning(name, asked) == docker_api.meaning(name, found))


def _networks(found: Mapping[str, Any], record: Recorded | None) -> list[str]:
    return networks(found, record.objects.get("Container", {}).get("Networks", []) if record else [])


def networks(found: Mapping[str, Any], wanted: Sequence[str]) -> list[str]:
    """Return the names of a container's networks, the wanted ones first and in their order, and under their names."""
    asked = {podman.DEFAULT_NETWORK.get(name, name): name for name in wanted}
    there = (found.get("NetworkSettings") or {}).get("Networks") or {}
    live = [name if name in wanted else asked.get(name, name) for name in there]
    return [name for name in wanted if name in live] + [name for name in live if name not in wanted]


def _wanted_name(name: str, record: Recorded) -> str:
    """Return the recorded name for a container that is called otherwise for a reason: it was imported, or a foreign one
    held its name when it was created."""
    wanted = str(record.objects.get("Container", {}).get("Name", name))
    numbered = name.startswith(wanted) and name[len(wanted) :] in SUFFIXES
    return wanted if numbered or record.handle.get(IMPORTED) else name


def _own_name(item: Mapping[str, Any]) -> str:
    """Return the container's own name; links give it further ones with a second slash."""
    names = [str(name).lstrip("/") for name in item.get("Names") or [""]]
    return next((name for name in names if "/" not in name), names[0])


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


def gone(record: Recorded) -> Observed:
    """Return the observation that there is no such container."""
    return Observed(
        run_id=record.run_id, exists=False, address=record.address, attempt=record.attempt, image=record.image
    )


def _image(name: str, image: str) -> dict[str, str]:
    return {"name": name, "id": image} if image else {}


class Images:
    """What the Engine's one list of images says: which id a tag means, and the digest of an id in a registry."""

    def __init__(self, listed: Iterable[Mapping[str, Any]]) -> None:
        self._tags: dict[str, str] = {}
        self._digests: dict[str, list[str]] = {}
        for image in listed:
            self._tags |= dict.fromkeys(image.get("RepoTags") or (), str(image["Id"]))
            self._digests[str(image["Id"])] = [str(digest) for digest in image.get("RepoDigests") or ()]

    def told(self, seen: Observed) -> Observed:
        """Add the digest of the image that ran, and the image id that its tag has now."""
        name, image = _familiar(seen.image.get("name", "")), seen.image.get("id", "")
        if not image:
            return seen
        digests = self._digests.get(image, [])
        own = [digest for digest in digests if digest.partition("@")[0] == name.rpartition(":")[0]]
        digest = next(iter([*own, *digests]), seen.image.get("digest", ""))
        known = {**seen.image, **({"digest": digest} if digest else {})}
        return replace(seen, image=known, tag_now=self._tags.get(name, ""))


def _familiar(name: str) -> str:
    """Return a reference as the Engine lists it: without Docker Hub's own names, with a tag."""
    short = name.removeprefix("docker.io/").removeprefix("library/")
    return short if "@" in short or ":" in short.rpartition("/")[2] else f"{short}:latest"


def filters(**wanted: list[str]) -> str:
    """Return filters as the Engine's list and event calls take them."""
    return json.dumps(wanted)
