"""Whether the nodes of a cluster could pull an image: what they have already, and what its registry says to the pull secrets."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from flowplan.providers.kubernetes.jobs import core_path
from flowplan.providers.kubernetes.nodes import repelling
from flowplan.providers.kubernetes.requests import Api, unless_refused
from flowplan.providers.kubernetes.shapes import Shape
from flowplan.providers.registries import Answer, asked, finding
from flowplan.schemas.errors import EngineUnreachable, InvalidInput
from flowplan.schemas.images import ImageReference, parse_image
from flowplan.schemas.plans import Finding
from flowplan.schemas.runs import Json

_TOLD = 50
"""Images that a node tells of at most; one with fewer tells of all."""


class Pull(NamedTuple):
    """What an answer about an image depends on: ``secrets`` are the names of the pull secrets of its pods."""

    image: str
    namespace: str
    secrets: tuple[str, ...]
    account: str
    policy: str


def findings(api: Api, shapes: Sequence[Shape], nodes: Sequence[Json] | None) -> Iterator[Finding]:
    """Yield which images the nodes could not pull; each one is asked for once."""
    kept = Kept([node for node in nodes or [] if not list(repelling({}, node))] or nodes or [])
    pulls: dict[Pull, list[Shape]] = defaultdict(list)
    for shape in shapes:
        secrets = tuple(secret["name"] for secret in shape.pod.get("imagePullSecrets") or [])
        account = shape.pod.get("serviceAccountName") or "default"
        containers = (*(shape.pod.get("initContainers") or []), *(shape.pod.get("containers") or []))
        for image, given in {(one.get("image") or "", one.get("imagePullPolicy")) for one in containers}:
            try:
                reference = parse_image(image)
            except InvalidInput as error:
                yield from shape.told("error", "image", error.diagnostics[0].message, error.diagnostics[0].hint)
                continue
            policy = given or reference.pull_policy
            there = kept.somewhere(image) if nodes else None
            if policy == "Never" and not there:
                known = f"no node has {image}" if there is False else f"whether a node has {image} is not known"
                hint = "load it on the nodes, or use another image_pull_policy"
                yield from shape.told("warning" if there is None else "error", "image", known, hint)
            elif policy == "Always" or (policy != "Never" and not kept.everywhere(image)):
                pulls[Pull(image, shape.namespace, secrets, account, policy)].append(shape)
    answers = asked(pulls, lambda pull: pull.image, lambda pull: ask(api, pull))
    for pull, some in pulls.items():
        runs_somewhere = pull.policy != "Always" and nodes is not None and kept.somewhere(pull.image)
        for one in (one for shape in some for one in shape.wanted):
            if found := finding(one.address, pull.image, answers[pull]):
                yield found._replace(severity="warning") if runs_somewhere else found


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
        whole = _whole(image)
        return bool(self._names) and all(whole in names for names in self._names)

    def somewhere(self, image: str) -> bool | None:
        """Return whether a node has an image; None where nodes do not tell of all that they have."""
        whole = _whole(image)
        return any(whole in names for names in self._names) or (False if self._complete else None)


def _whole(image: str) -> str:
    """Return a reference with the registry, path and tag that are meant where none are written; "" of what is none."""
    try:
        parts = parse_image(image)
    except InvalidInput:
        return ""
    return f"{parts.registry}/{parts.path}" + (f"@{parts.digest}" if parts.digest else f":{parts.pull_tag}")


# --- what its registry says ------------------------------------------------------------------------------------------


def ask(api: Api, pull: Pull) -> Answer:
    """Return what the registry of an image says to the logins of its pull secrets."""
    from flowplan.providers.kubernetes.registry import is_loopback, said  # only here, for it loads requests

    image = parse_image(pull.image)
    if is_loopback(image.registry) and not is_loopback(urlsplit(api.endpoint.server).netloc):
        return Answer("unknown", "the nodes have another localhost than this computer")
    try:
        logins, unread = _logins(api, pull, image)
    except EngineUnreachable as error:
        return Answer("unknown", error.message)
    answers = [said(image, login) for login in logins.values() or [""]]
    best = min(answers, key=lambda answer: ("there", "missing", "silent", "refused").index(answer.verdict))
    if best.verdict != "refused":
        return best
    if unread:
        hint = "get on secrets helps the plan; applying does not need it"
        return Answer("unknown", f"it wants a login, and the pull secrets {', '.join(unread)} cannot be read", hint)
    if not logins:
        hint = "set kubernetes.image_pull_secrets, unless the nodes have a login of their own"
        return Answer("unknown", f"it answers {best.words} without a login, and no pull secret has one", hint)
    names = ", ".join(dict.fromkeys(name for name, _ in logins))
    return best._replace(hint=f"correct the pull secret {names}, or the name of the image")


# --- the logins of pull secrets --------------------------------------------------------------------------------------


def _logins(api: Api, pull: Pull, image: ImageReference) -> tuple[dict[tuple[str, str], str], list[str]]:
    """Return the logins for an image, (pull secret, place in it) -> header, and the pull secrets that cannot be read.

    Raises:
        EngineUnreachable: the API server does not answer.
    """
    names, unread = pull.secrets, []
    logins: dict[tuple[str, str], str] = {}
    if not names:  # the server gives a pod those of its account
        path = core_path(pull.namespace, "serviceaccounts", pull.account)
        account = unless_refused(lambda: api.find(path), None) or {}
        names = tuple(secret["name"] for secret in account.get("imagePullSecrets") or [])
    for name in names:
        nothing: Json = None
        secret = unless_refused(partial(_secret, api, pull.namespace, name), nothing)
        unread += [name] if secret is None else []
        for key in (".dockerconfigjson", ".dockercfg") if secret else ():
            with contextlib.suppress(ValueError, AttributeError):  # a malformed secret has no login
                document = json.loads(base64.b64decode((secret.get("data") or {}).get(key) or "e30="))
                entries = document if key == ".dockercfg" else document.get("auths") or {}
                logins |= {(name, place): _basic(entry) for place, entry in entries.items() if _serves(place, image)}
    return logins, unread


def _secret(api: Api, namespace: str, name: str) -> Json:
    return api.find(core_path(namespace, "secrets", name)) or {}


def _basic(entry: Mapping[str, Any]) -> str:
    both = f"{entry.get('username', '')}:{entry.get('password', '')}".encode()
    return f"Basic {entry.get('auth') or base64.b64encode(both).decode()}"


def _serves(place: str, image: ImageReference) -> bool:
    """Return whether an entry of a pull secret, ``host[:port][/path]``, is for an image."""
    host, _, path = re.sub(r"^https?://", "", place).rstrip("/").partition("/")
    if host in ("index.docker.io", "registry-1.docker.io"):
        host = "docker.io"
    return host == image.registry and (path in ("", "v1", "v2") or f"{image.path}/".startswith(f"{path}/"))
