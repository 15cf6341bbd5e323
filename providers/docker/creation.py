"""Creating one container: image, create, networks, start, in this order and with nothing left behind."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from flowplan.providers.docker import containers, podman
from flowplan.providers.docker.attaching import Attachments
from flowplan.providers.docker.connection import Engine
from flowplan.providers.docker.pulling import Images, never_pulled
from flowplan.providers.docker.refusals import Refusal
from flowplan.providers.protocol import Order, of_other_content
from flowplan.schemas.docker_api import UPDATABLE, api_version, unheard
from flowplan.schemas.errors import EngineUnreachable, ProviderError, StartFailed
from flowplan.schemas.faults import point
from flowplan.schemas.runs import Identity, Observed, Status
from flowplan.schemas.secrets import reveal

_CONFIG = "/Container/Config"
"""Place of the body of the create call in the objects."""


class Made(NamedTuple):
    """What the create call answered: the container's id, the Engine's time in seconds, and its warnings."""

    id: str
    at: float
    warnings: tuple[str, ...] = ()


class Creator:
    """Creates containers on one Engine."""

    def __init__(self, engine: Engine, images: Images, attachments: Attachments, created_from: str = "") -> None:
        self._engine = engine
        self._images = images
        self._attachments = attachments
        self._own_labels = {containers.CREATED_FROM: created_from} if created_from else {}

    def create(self, order: Order) -> Observed:
        """Create and start the attempt, or adopt what an interrupted flowplan created for it.

        Raises:
            StartFailed: when the Engine refuses; nothing of the attempt is left.
            EngineUnreachable: when the Engine does not answer; the attempt may exist and is adopted by the next call.
        """
        container = reveal(order.objects["Container"], order.secrets)
        try:
            earlier = None if order.fresh else self._earlier(order.identity)
            if earlier and (adopted := self._adopt(order.identity, container, earlier)):
                return adopted
            return self._create(order.identity, container, order.settings.start_timeout)
        except EngineUnreachable:
            raise
        except StartFailed as error:
            raise _addressed(error, order, error.exit_code_of_run) from None
        except ProviderError as error:
            raise _addressed(error, order, 125) from None

    def _create(self, identity: Identity, container: Mapping[str, Any], limit: float | None) -> Observed:
        if container["PullPolicy"] == "Always":
            self._images.pull(container, limit=limit)
        for suffix in ("", *containers.SUFFIXES):
            name = container["Name"] + suffix
            try:
                made = self._post(container, name, limit)
            except (EngineUnreachable, Refusal) as error:
                taken = isinstance(error, Refusal) and (error.status == 409 or podman.NAME_TAKEN in error.words)
                held = name if taken else self._earlier(identity)
                if held and (adopted := self._adopt(identity, container, held)):
                    return adopted
                if not taken:
                    raise
                continue
            return self._finish(identity, container, made, name)
        raise ProviderError(
            f'the name "{container["Name"]}" and {len(containers.SUFFIXES)} numbered ones belong to other containers',
            hint="set another name, or remove them",
            reason="Conflict",
        )

    def _earlier(self, identity: Identity) -> str | None:
        """Return the id of the container that carries this run id already, under any name."""
        wanted = containers.filters(label=[f"{containers.RUN_ID}={identity.run_id}"])
        found = self._engine.get("/containers/json", all=1, filters=wanted)
        return str(found[0]["Id"]) if found else None

    def _post(self, container: Mapping[str, Any], name: str, limit: float | None) -> Made:
        """Create the container; pull its image only when the Engine misses it, which spares a request."""
        try:
            return self._post_once(container, name)
        except Refusal as error:
            image = container["Config"]["Image"]
            if error.status != 404 or self._images.present(image):
                raise
            if container["PullPolicy"] == "Never":
                raise never_pulled(image) from None
        self._images.pull(container, unless_present=True, limit=limit)
        return self._post_once(container, name)

    def _post_once(self, container: Mapping[str, Any], name: str) -> Made:
        parameters = {"name": name}
        if container.get("Platform"):
            parameters["platform"] = container["Platform"]
        point("docker:create:before")
        answer = self._engine.request(
            "POST", "/containers/create", params=parameters, body=self._body(container["Config"])
        )
        point("docker:create:after")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            told = answer.json()
            said = tuple(str(words) for words in told.get("Warnings") or ())
            return Made(str(told["Id"]), containers.header_seconds(answer.headers.get("Date")), said)
        raise self._engine.unreachable(OSError("it does not answer like a Docker Engine"))

    def _body(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the body of the create call, with the first network alone: Engines before 25 take no more.

        Engines before 20.10 do not know ``host-gateway``: the entry is left out there.
        """
        config = {**config, "Labels": {**(config.get("Labels") or {}), **self._own_labels}}
        host = config.get("HostConfig") or {}
        if ends := _ends(config):
            first = host["NetworkMode"] if len(ends) > 1 else next(iter(ends))
            only = {self._engine.network(first): ends[first]}
            config = {**config, "NetworkingConfig": {"EndpointsConfig": only}}
        if not host.get("ExtraHosts") or api_version(self._engine.api_version) >= (1, 41):
            return config
        kept = [entry for entry in host["ExtraHosts"] if not entry.endswith(":host-gateway")]
        return {**config, "HostConfig": {**host, "ExtraHosts": kept}}

    def _finish(self, identity: Identity, container: Mapping[str, Any], made: Made, name: str) -> Observed:
        """Connect and start the container that was just created; remove it when the Engine refuses."""
        engine, found, config = self._engine, made.id, container["Config"]
        image: Mapping[str, str] = {}
        if config.get("HostConfig", {}).get("AutoRemove"):
            image = self._image(found)
            self._attachments.hold(found)
        try:
            for network in container["Networks"][1:]:
                settings = _ends(config).get(network)
                body = {"Container": found, **({"EndpointConfig": settings} if settings else {})}
                engine.confirmed(
                    partial(engine.post, f"/networks/{engine.network(network)}/connect", body),
                    partial(self._connected, found, network),
                )
                point("docker:connect:after")
            point("docker:start:before")
            engine.confirmed(partial(engine.post, f"/containers/{found}/start"), partial(self._started, found))
            point("docker:start:after")
        except EngineUnreachable:
            raise
        except ProviderError as error:
            failure = self._start_failure(found, error)
            if held := self._attachments.take(found):
                held.close()
            self.remove(found)
            raise failure from None
        return Observed(
            run_id=identity.run_id,
            address=identity.address,
            attempt=identity.attempt,
            status=Status.RUNNING,
            attempts=1,
            handle=containers.handle(found, made.at),
            infrastructure_id=f"{engine.base_url}:{found}",
            name=name,
            remarks=self._remarks(config, made),
            image=image,
        )

    def _image(self, found: str) -> Mapping[str, str]:
        """Return the image of a container that the Engine removes at its end, while it can still be inspected."""
        seen = containers.from_inspect(self._engine.get(f"/containers/{found}/json"), self._engine.base_url)
        image = self._engine.find(f"/images/{seen.image.get('id', '')}/json")
        return containers.Images([image] if image else []).told(seen).image

    def _connected(self, found: str, network: str) -> bool:
        return network in containers.networks(self._engine.inspect(found) or {}, [network])

    def _started(self, found: str) -> bool:
        state = (self._engine.inspect(found) or {}).get("State") or {}
        return containers.engine_time(state.get("StartedAt")) is not None

    def _remarks(self, config: Mapping[str, Any], made: Made) -> dict[str, str]:
        """Return the fields that the Engine left out, by its API version and by its warnings."""
        version = self._engine.api_version
        left_out = {
            f"{_CONFIG}{path}": f"{why}, the Engine speaks {version}"
            for path, why in unheard(config, api_version(version))
        }
        said = " ".join(made.warnings)
        if said or self._engine.podman:
            found = self._engine.inspect(made.id) or {}
            places = self._left_out(config, found, left_out)
            if said:
                left_out |= dict.fromkeys(places, said) or {"": said}
            else:
                left_out |= dict.fromkeys(places, podman.SILENT)
        return left_out

    def _left_out(self, config: Mapping[str, Any], found: Mapping[str, Any], known: Collection[str]) -> list[str]:
        """Return the places of a create body that the container does not have; of Podman's, which writes the rest its own way,
        those that can change in place."""
        places = containers.left_out(config, found, known)
        if not self._engine.podman:
            return places
        return [place for place in places if place.rpartition("/")[2] in UPDATABLE]

    def _start_failure(self, found: str, error: ProviderError) -> ProviderError:
        """Return the refusal to start, with the exit code 126 or 127 of the container where it is about the command.

        The Engine records 127 for every "no such file or directory" of the runtime, also for a missing sysctl.
        """
        words = error.words if isinstance(error, Refusal) else error.message
        code = 0
        if _EXEC.search(words):
            code = int((self._engine.inspect(found) or {}).get("State", {}).get("ExitCode") or 0)
            code = podman.exit_code(words) or code
        code = code if code in (126, 127) else 125
        reason = {126: "NotExecutable", 127: "CommandNotFound"}.get(code, "StartFailed")
        return StartFailed(_unwrapped(words), reason=reason, exit_code_of_run=code)

    def remove(self, found: str) -> None:
        """Remove a container that could not be started.

        Raises:
            EngineUnreachable: the Engine fails; the container may still be there, for the next command to find.
        """
        path = f"/containers/{found}"
        try:
            self._engine.confirmed(
                partial(self._engine.delete, path, v=1, force=1), lambda: self._engine.find(f"{path}/json") is None
            )
        except Refusal as error:
            if error.status >= 500:
                raise EngineUnreachable(error.message, hint=error.hint, reason=error.reason) from None

    def _adopt(self, identity: Identity, container: Mapping[str, Any], name: str) -> Observed | None:
        """Start the container of this name or id if it is this attempt and was never started, and return it.

        Return None for the container of another run, and when it has to be created anew.

        Raises:
            Refused: it is this attempt made of other content.
        """
        found = self._engine.inspect(name)
        labels = (found["Config"].get("Labels") or {}) if found else {}
        if found is None or labels.get(containers.RUN_ID) != identity.run_id:
            return None
        if labels.get(containers.CONTENT) != (container["Config"].get("Labels") or {}).get(containers.CONTENT):
            raise of_other_content(f'the container "{found["Name"].lstrip("/")}"', identity.address)
        if found["State"].get("Status") != "created" or containers.engine_time(found["State"].get("StartedAt")):
            return containers.from_inspect(found, self._engine.base_url)
        connected = containers.networks(found, container["Networks"])
        missing = [network for network in container["Networks"][1:] if network not in connected]
        rest = {**container, "Networks": [*container["Networks"][:1], *missing]}
        made = Made(found["Id"], 0.0, ())
        try:
            self._finish(identity, rest, made, found["Name"].lstrip("/"))
        except StartFailed as error:
            if not _LEFT_BEHIND.search(error.message):
                raise
            return None
        again = self._engine.inspect(found["Id"]) or found
        remarks = self._remarks(container["Config"], made)
        more = self._left_out(container["Config"], again, remarks)
        remarks |= dict.fromkeys(more, "the container was made without it")
        return replace(containers.from_inspect(again, self._engine.base_url), remarks=remarks)


def _ends(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the container's endpoint settings by network."""
    return (config.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}


def _addressed(error: ProviderError, order: Order, code: int | None) -> StartFailed:
    """Return the failure with the run's address, and without any of its secrets."""
    message = error.message
    for value in sorted(order.secrets.values(), key=len, reverse=True):
        message = message.replace(value, "(sensitive)") if value else message
    address = order.identity.address
    hint = next((hint for words, hint in _HINTS if words in message), error.hint)
    return StartFailed(message, hint=hint, address=address, reason=error.reason, exit_code_of_run=code)


_HINTS = (
    (
        "id already in use",
        "the Engine was restarted while it started the container, and cannot tell whether the command runs: look at its host",
    ),
    ("could not select device driver", "the Engine has no driver for GPUs: install the NVIDIA container toolkit there"),
    ("port is already allocated", "another container or program of the Engine's host uses the port"),
    ("error gathering device information", "the device is not on the Engine's host"),
    ("stat /dev/", "the device is not on the Engine's host"),
)
"""Hints for errors of the Engine that do not say what to do."""

_LEFT_BEHIND = re.compile(r"^task \w+: already exists")
"""The words of Engines before 23 where a restart has cut off a start before the runtime had made a process.

"id already in use" says that there is a process, which may run the command already: that start is not repeated.
"""

_EXEC = re.compile(r"\bexec(?:: | [\"/])|\bexecutable file\b")
"""Marks the errors of a runtime that are about the command itself."""

_WRAPPING = re.compile(
    r"^(?:failed to create shim(?: task)?|OCI runtime create failed|runc|crun|runc create failed|container_linux\.go:\d+"
    r"|starting container process caused|unable to start container process|Cannot start container \S+): "
)


def _unwrapped(message: str) -> str:
    """Return an error of the runtime without the prefixes of the layers that passed it on."""
    previous = ""
    while previous != message:
        previous, message = message, _WRAPPING.sub("", message)
    return podman.bare(message.removesuffix(": unknown"))
