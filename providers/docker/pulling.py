"""Pulling images: the policy, one pull of an image at a time, credentials for that pull alone."""

from __future__ import annotations

import json
import math
import queue
import re
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import docker.auth
import docker.credentials
import docker.errors
import docker.utils
import requests

from flowplan.providers.docker import podman
from flowplan.providers.docker.connection import Engine
from flowplan.providers.docker.refusals import Refusal
from flowplan.providers.docker.streams import Stream
from flowplan.providers.registries import PATIENCE, THERE, Answer
from flowplan.schemas.errors import EngineUnreachable, ProviderError, StartFailed
from flowplan.schemas.faults import point
from flowplan.schemas.quantities import written_duration

_REQUEST = re.compile(r'^(?:Get|Head) "[^"]*": ')
"""How an Engine begins the error of its own request to a registry."""

_UNAUTHORIZED = re.compile("no basic auth credentials|unauthorized|authentication required|denied", re.IGNORECASE)
"""What Engines say of a login that a registry wants or refuses where the HTTP status does not."""


class Images:
    """The images of one Engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._begun: dict[str, float] = {}

    def present(self, image: str) -> bool:
        """Return whether the Engine has an image of this whole reference."""
        return self._engine.find(f"/images/{image}/json") is not None

    def known(self, image: str, registry: Mapping[str, Any] | None) -> Answer:
        """Return what the registry tells the Engine of an image, with the credentials of a pull, without pulling it.

        Args:
            registry: the run's credentials, already revealed.
        """
        try:
            repository = str(docker.utils.parse_repository_tag(image)[0])
            headers, trouble = self._headers(repository, registry)
            path = f"/distribution/{image}/json"
            self._engine.request("GET", path, headers=headers, stream=True, read_timeout=PATIENCE).close()
        except Refusal as error:
            words = ": ".join(dict.fromkeys(_REQUEST.sub("", error.words).split(": ")))  # many say everything twice
            if error.status in (401, 403) or (error.status >= 500 and _UNAUTHORIZED.search(words)):
                return Answer(
                    "refused", f"{words}; {trouble}" if trouble else words, _login_hint(image, headers, registry)
                )
            if error.words == podman.NO_SUCH_CALL or (error.status == 404 and "/distribution/" in words):
                return Answer("silent", "this Engine asks registries only when it pulls")
            return Answer("missing" if error.status in (400, 404) else "silent", words)
        except EngineUnreachable as error:
            silent = error.reason == "Timeout"
            return Answer("silent", f"it does not answer within {PATIENCE:g}s" if silent else error.message)
        except ProviderError as error:
            return Answer("unknown", error.message)
        return THERE

    def pull(self, container: Mapping[str, Any], *, unless_present: bool = False, limit: float | None = None) -> None:
        """Pull the image of a container (its secrets already revealed).

        The same image is pulled by one thread at a time; a thread that waited takes the other's result.

        Args:
            limit: seconds that it may take (the run's ``start_timeout``), None for any time.

        Raises:
            StartFailed: in the registry's words; with reason ``StartTimeout`` when the limit passed.
            EngineUnreachable: when the Engine does not answer.
        """
        image, asked = container["Config"]["Image"], time.monotonic()
        key = json.dumps([image, container.get("Platform"), container.get("Registry")], sort_keys=True)
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        if not lock.acquire(timeout=-1 if limit is None else limit):
            raise _too_late(image, limit)
        try:
            if self._begun.get(key, -1.0) >= asked or (unless_present and self.present(image)):
                return
            begun = time.monotonic()
            point("docker:pull:before")
            rest = None if limit is None else max(0.1, asked + limit - begun)
            try:
                self._pull(image, container.get("Platform"), container.get("Registry"), rest)
            except StartFailed:
                if not (unless_present and self.present(image)):  # an error answer to a pull that was made
                    raise
            point("docker:pull:after")
            self._begun[key] = begun
        except TimeoutError:
            raise _too_late(image, limit) from None
        finally:
            lock.release()

    def _pull(self, image: str, platform: str | None, registry: Mapping[str, Any] | None, limit: float | None) -> None:
        deadline = math.inf if limit is None else time.monotonic() + limit
        repository, tag = docker.utils.parse_repository_tag(image)
        parameters = {"fromImage": repository, "tag": tag or "latest"}
        if platform:
            parameters["platform"] = platform
        headers, trouble = self._headers(repository, registry)
        try:
            fault = self._fault(self._opened(parameters, headers, limit), deadline)
        except Refusal as error:
            fault = error.words
        except (EngineUnreachable, requests.RequestException, OSError, ValueError) as error:
            if time.monotonic() >= deadline:  # the closed connection makes the Engine end the pull
                raise TimeoutError from None
            if isinstance(error, EngineUnreachable):
                raise
            raise self._engine.unreachable(error) from None
        if fault:
            raise StartFailed(
                f"pulling {image} failed: {fault}" + (f"; {trouble}" if trouble else ""),
                hint="check the reference, the registry and its credentials",
                reason="ErrImagePull",
                exit_code_of_run=125,
            )

    def _opened(
        self, parameters: Mapping[str, Any], headers: Mapping[str, str], limit: float | None
    ) -> requests.Response:
        """Return the answer, which begins when the registry has answered; meanwhile check that the Engine is alive."""
        answers: queue.SimpleQueue[requests.Response | ProviderError] = queue.SimpleQueue()

        def ask() -> None:
            try:
                wait = math.inf if limit is None else limit
                answers.put(
                    self._engine.request(
                        "POST", "/images/create", params=parameters, headers=headers, stream=True, read_timeout=wait
                    )
                )
            except ProviderError as error:
                answers.put(error)

        threading.Thread(target=ask, name="docker-pull", daemon=True).start()
        while True:
            try:
                answer = answers.get(timeout=self._engine.timeout)
            except queue.Empty:
                self._engine.get("/version")
                continue
            if isinstance(answer, ProviderError):
                raise answer
            return answer

    def _fault(self, answer: requests.Response, deadline: float) -> str:
        """Return the error that the stream of a pull ends with, or ""; the HTTP status is 200 either way.

        Raises:
            TimeoutError: the deadline passed before the end.
            EngineUnreachable, OSError, ValueError: the stream broke, or the Engine is silent and gives no answer.
        """
        fault, stream = "", Stream(answer)
        try:
            for line in self._lines(stream, deadline):
                fault = str((line.get("errorDetail") or {}).get("message") or line.get("error") or fault)
        finally:
            stream.close()
        return fault.strip()

    def _lines(self, stream: Stream, deadline: float) -> Iterator[dict[str, Any]]:
        """Yield the progress messages of the pull; while there are none, check that the Engine is alive."""
        text = b""
        while (data := stream.poll(max(0.0, min(self._engine.timeout, deadline - time.monotonic())))) is not None:
            if time.monotonic() >= deadline:
                raise TimeoutError
            if not data:
                self._engine.get("/version")
            *lines, text = (text + data).split(b"\n")
            yield from (json.loads(line) for line in lines if line.strip())
        if text.strip():
            yield json.loads(text)

    def _headers(self, repository: str, registry: Mapping[str, Any] | None) -> tuple[dict[str, str], str]:
        """Return the header with the credentials of the run, else of the docker CLI's configuration; and the error of a
        credential helper, which matters only when the registry wants a login."""
        wanted = str(docker.auth.resolve_repository_name(repository)[0])
        if registry is not None and _serves(registry, wanted):
            login = {
                "username": registry["Username"],
                "password": registry["Password"],
                "serveraddress": registry.get("URL") or wanted,
            }
            return {"X-Registry-Auth": _text(docker.auth.encode_header(login))}, ""
        try:
            with warnings.catch_warnings(action="ignore"):  # a missing helper is reported below
                header = docker.auth.get_config_header(self._engine.client, wanted)
        except (docker.errors.DockerException, docker.credentials.StoreError) as error:
            return {}, f"no login: {error.__cause__ or error}"
        except (ValueError, KeyError, TypeError):  # the exception may quote a secret
            return {}, f"no login: the credential helper for {wanted} answered something that is no login"
        return ({"X-Registry-Auth": _text(header)} if header else {}), ""


def never_pulled(image: str) -> StartFailed:
    """Return the error for an image that is not there and may not be pulled."""
    return StartFailed(
        f"image {image} is not present and image_pull_policy is Never",
        hint="pull or load it on the Engine, or use another policy",
        reason="ErrImageNeverPull",
        exit_code_of_run=125,
    )


def _login_hint(image: str, headers: Mapping[str, str], registry: Mapping[str, Any] | None) -> str:
    """Return what to do about a login that was refused, or is missing."""
    host = docker.auth.resolve_repository_name(image)[0]
    if not headers:
        return f"`docker login {host}`, or give the run docker.registry_credentials; a name that does not exist may be refused too"
    if registry is not None and _serves(registry, host):
        return "correct docker.registry_credentials of the run, or the name of its image"
    return f"`docker login {host}` again, or correct the name of the image"


def _serves(registry: Mapping[str, Any], wanted: str) -> bool:
    """Return whether the credentials are for this registry; no other one is sent them."""
    url = str(registry.get("URL") or "")
    return not url or str(docker.auth.resolve_index_name(docker.auth.convert_to_hostname(url))) == wanted


def _text(header: str | bytes) -> str:
    return header.decode() if isinstance(header, bytes) else header


def _too_late(image: str, limit: float | None) -> StartFailed:
    message = f"start_timeout of {written_duration(limit or 0)} passed while pulling {image}"
    return StartFailed(message, hint="give it more time, or pull the image beforehand", reason="StartTimeout")
