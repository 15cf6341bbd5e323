"""Names and labels that engines accept, made from any text.

The rules: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/ and .../labels/ there; for Docker, the
pattern that the Engine's create call names in its error, and https://docs.docker.com/engine/manage-resources/labels/.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from flowplan.schemas.runs import Identity

DOCKER_NAME_LIMIT = 250
KUBERNETES_NAME_LIMIT = 45
LABEL_LIMIT = 63
"""Of the values and the names of labels, and of a Job's name, which the labels of its pods hold."""

_DOCKER_NAME = r"[^a-zA-Z0-9_.-]+"
_KUBERNETES_NAME = r"[^a-zA-Z0-9-]+"
_LABEL_PREFIX = r"[^a-zA-Z0-9.-]+"
_LABEL_NAME = r"[^a-zA-Z0-9_.-]+"

_DOMAIN = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"
_LEGAL_DOMAIN = re.compile(_DOMAIN)
_LEGAL_DOCKER_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_LEGAL_LABEL_KEY = re.compile(rf"(?:(?=[^/]{{1,253}}/){_DOMAIN}/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{{0,61}}[A-Za-z0-9])?")
_LEGAL_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")


ENVIRONMENT = "flowplan.dev/environment"
"""The label of objects that are made in an environment."""


def environment_label(identity: Identity) -> dict[str, str]:
    """Return the label of the environment; none where there is none."""
    return {ENVIRONMENT: identity.environment} if identity.environment else {}


_MANAGED_BY = ("app.kubernetes.io/managed-by", "io.kubernetes.app.managed-by")
_OF_ATTEMPT = tuple(f"{mark}{name}" for mark in "/." for name in ("address", "run-id", "attempt", "content"))


def docker_name(text: str, limit: int = DOCKER_NAME_LIMIT) -> str:
    """Return a legal container name, "" when nothing of ``text`` is legal; case is kept."""
    return _slug(text, _DOCKER_NAME, limit).lstrip("_-.")


def kubernetes_name(text: str, limit: int = KUBERNETES_NAME_LIMIT) -> str:
    """Return a legal object name of at most ``limit`` characters, "" when nothing of ``text`` is legal."""
    return _slug(text, _KUBERNETES_NAME, limit).lower()


def is_docker_name(text: str) -> bool:
    """Return whether Docker accepts a container name, which is used as it is then."""
    return len(text) <= DOCKER_NAME_LIMIT and bool(_LEGAL_DOCKER_NAME.fullmatch(text))


def is_kubernetes_name(text: str) -> bool:
    """Return whether Kubernetes accepts the name of a Job, whose pods carry it in a label; it is used as it is then."""
    return len(text) <= LABEL_LIMIT and bool(_LEGAL_DOMAIN.fullmatch(text))


def is_label_key(text: str) -> bool:
    """Return whether it is a legal key of a Kubernetes label or annotation."""
    return bool(_LEGAL_LABEL_KEY.fullmatch(text))


def is_label_value(text: str) -> bool:
    """Return whether it is a legal value of a Kubernetes label."""
    return bool(_LEGAL_LABEL_VALUE.fullmatch(text))


def docker_run_name(identity: Identity, given: str | None = None) -> str:
    """Return the container's name: ``given``, made legal where it is not, else ``slug(project[-environment]-address)-attempt``."""
    if given and is_docker_name(given):
        return _numbered(given, identity.attempt, DOCKER_NAME_LIMIT)
    return _run_name(identity, given, docker_name, DOCKER_NAME_LIMIT)


def kubernetes_run_name(identity: Identity, given: str | None = None) -> str:
    """Return the Job's name: ``given``, made legal where it is not, else ``slug(project[-environment]-address)-attempt``."""
    if given and is_kubernetes_name(given):
        return _numbered(given, identity.attempt, LABEL_LIMIT)
    return _run_name(identity, given, kubernetes_name, KUBERNETES_NAME_LIMIT)


def is_own_label(key: str) -> bool:
    """Return whether flowplan itself sets a label or annotation, in the spelling of Kubernetes or of Docker."""
    return key.startswith(("flowplan.dev/", "dev.flowplan.")) or key in _MANAGED_BY


def is_label_of_attempt(key: str) -> bool:
    """Return whether a label or annotation tells attempts or addresses apart, rather than what they do."""
    return is_own_label(key) and key.endswith(_OF_ATTEMPT)


def docker_label_key(key: str) -> str:
    """Return ``flowplan.dev/run-id`` as Docker people write it: ``dev.flowplan.run-id``."""
    namespace, slash, name = key.partition("/")
    return ".".join([*reversed(namespace.split(".")), name]) if slash else key


def kubernetes_label_key(key: str) -> str:
    """Return a legal key of a label; one with nothing legal in it is left, so that the API server complains.

    The prefix is a domain, which Kubernetes wants in lower case; the name keeps its case.
    """
    if is_label_key(key):
        return key
    prefix, slash, name = key.partition("/") if "/" in key else ("", "", key)
    name = _slug(name, _LABEL_NAME, 63).strip("_-.")
    prefix = _slug(prefix, _LABEL_PREFIX, 253).strip("_-.").lower()
    if not name or (slash and not prefix):
        return key
    return f"{prefix}/{name}" if prefix else name


def kubernetes_label_value(value: str) -> str:
    """Return a legal value of a label; one with nothing legal in it is left."""
    if is_label_value(value):
        return value
    return _slug(value, _LABEL_NAME, 63).strip("_-.") or value


def _run_name(identity: Identity, given: str | None, slug: Callable[[str, int], str], limit: int) -> str:
    """Return the name of a run; attempts after the first of a ``given`` one are numbered, because the ended object may still have it."""
    base = slug(given, 10_000) if given else ""
    if base and identity.attempt == 1:
        return _shortened(base, given or "", limit)
    source = "-".join(filter(None, (identity.project, identity.environment, identity.address)))
    base = base or slug(source, 10_000) or "run"
    suffix = f"-{identity.attempt}"
    return _shortened(base, given or source, limit - max(0, len(suffix) - 2)) + suffix


def _numbered(name: str, attempt: int, limit: int) -> str:
    """Return a legal name with the number of every attempt but the first, because the ended object may still have it."""
    suffix = f"-{attempt}" if attempt > 1 else ""
    return _shortened(name, name, limit - len(suffix)) + suffix


def _shortened(slug: str, source: str, limit: int) -> str:
    """Cut a long slug and add a hash, so that long names with the same beginning stay distinct."""
    if len(slug) <= limit:
        return slug
    mark = hashlib.sha256(source.encode()).hexdigest()[:8]
    return f"{slug[: limit - 9].rstrip('_-.')}-{mark}"


def _slug(text: str, illegal: str, limit: int) -> str:
    if not text.isascii() or "&" in text:
        from slugify import slugify  # transliteration tables take 20 ms to load; plain text needs none

        return str(slugify(text.replace(",", "-"), max_length=limit, regex_pattern=illegal, lowercase=False))
    return re.sub(r"-{2,}", "-", re.sub(illegal, "-", text)).strip("-")[:limit].strip("-")
