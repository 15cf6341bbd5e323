"""Whether the nodes of a cluster could pull an image: what they have already, and what its registry says to the pull secrets."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from flowplan.providers.kubernetes.jobs import core_path
from flowplan.providers.kubernetes.requests import Api
from flowplan.providers.registries import Answer
from flowplan.schemas.errors import EngineUnreachable, InvalidInput, ProviderError
from flowplan.schemas.images import ImageReference, parse_image
from flowplan.schemas.runs import Json

_TOLD = 50
"""Images that a node tells of at most; one with fewer tells of all."""


class Wanted(NamedTuple):
    """What an answer about an image depends on: ``secrets`` are the names of the pull secrets of its pods."""

    image: str
    namespace: str
    secrets: tuple[str, ...]
    policy: str


# --- what the nodes have ---------------------------------------------------------------------------------------------


class Kept:
    """The images that the nodes of a cluster have already."""

    def __init__(self, nodes: Sequence[Json]) -> None:
        told = [
            [name for one in node["status"].get("images") or [] for name in one.get("names") or []] for node in nodes
        ]
        self._names = [{whole for name in names if (whole := _whole(name))} for names in told]
        self._complete = all(len(node["status"].get("images") or []) < _TOLD for node in nodes)

    def everywhere(self, image: str) -> bool:
        """Return whether no node need pull an image."""
        return bool(self._names) and all(_whole(image) in names for names in self._names)

    def somewhere(self, image: str) -> bool | None:
        """Return whether a node has an image; None where nodes do not tell of all that they have."""
        return any(_whole(image) in names for names in self._names) or (False if self._complete else None)


def _whole(image: str) -> str:
    """Return a reference with the registry, path and tag that are meant where none are written; "" of what is none."""
    try:
        parts = parse_image(image)
    except InvalidInput:
        return ""
    return f"{parts.registry}/{parts.path}" + (f"@{parts.digest}" if parts.digest else f":{parts.pull_tag}")


# --- what its registry says ------------------------------------------------------------------------------------------


def ask(api: Api, wanted: Wanted) -> Answer:
    """Return what the registry of an image says to the logins of its pull secrets."""
    from flowplan.providers.kubernetes.registry import is_loopback, said  # only here, for it loads requests

    image = parse_image(wanted.image)
    if is_loopback(image.registry) and not is_loopback(urlsplit(api.endpoint.server).netloc):
        return Answer("unknown", "the nodes have another localhost than this computer")
    try:
        logins, unread = _logins(api, wanted, image)
    except EngineUnreachable as error:
        return Answer("unknown", error.message)
    answers = [said(image, login) for login in logins or [""]]
    best = min(answers, key=lambda answer: ("there", "missing", "silent", "refused").index(answer.verdict))
    if best.verdict != "refused":
        return best
    if unread:
        hint = "get on secrets helps the plan; applying does not need it"
        return Answer("unknown", f"it wants a login, and the pull secrets {', '.join(unread)} cannot be read", hint)
    if not logins:
        hint = "set kubernetes.image_pull_secrets, unless the nodes have a login of their own"
        return Answer("unknown", f"it answers {best.words} without a login, and no pull secret has one", hint)
    return best._replace(hint=f"correct the pull secrets {', '.join(wanted.secrets)}, or the name of the image")


# --- the logins of pull secrets --------------------------------------------------------------------------------------


def _logins(api: Api, wanted: Wanted, image: ImageReference) -> tuple[list[str], list[str]]:
    """Return the logins for an image as headers, and the names of the pull secrets that cannot be read.

    Raises:
        EngineUnreachable: the API server does not answer.
    """
    logins, unread = [], []
    for name in wanted.secrets:
        try:
            secret = api.find(core_path(wanted.namespace, "secrets", name)) or {}
        except EngineUnreachable:
            raise
        except ProviderError:
            unread.append(name)
            continue
        for key in (".dockerconfigjson", ".dockercfg"):
            with contextlib.suppress(ValueError, AttributeError):  # a malformed secret has no login
                document = json.loads(base64.b64decode((secret.get("data") or {}).get(key) or "e30="))
                entries = document if key == ".dockercfg" else document.get("auths") or {}
                logins += [_basic(entry) for place, entry in entries.items() if _serves(place, image)]
    return logins, unread


def _basic(entry: Mapping[str, Any]) -> str:
    both = f"{entry.get('username', '')}:{entry.get('password', '')}".encode()
    return f"Basic {entry.get('auth') or base64.b64encode(both).decode()}"


def _serves(place: str, image: ImageReference) -> bool:
    """Return whether an entry of a pull secret, ``host[:port][/path]``, is for an image."""
    host, _, path = re.sub(r"^https?://", "", place).rstrip("/").partition("/")
    if host in ("index.docker.io", "registry-1.docker.io"):
        host = "docker.io"
    return host == image.registry and (path in ("", "v1", "v2") or f"{image.path}/".startswith(f"{path}/"))
