"""Names and labels that engines accept, made from any text: D14 and D16 for Docker, K14 to K17 for Kubernetes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from flowplan.schemas.runs import Identity

DOCKER_NAME_LIMIT = 250
KUBERNETES_NAME_LIMIT = 45

_DOCKER_NAME = r"[^a-zA-Z0-9_.-]+"
_KUBERNETES_NAME = r"[^a-zA-Z0-9-]+"
_LABEL_PREFIX = r"[^a-zA-Z0-9.-]+"
_LABEL_NAME = r"[^a-zA-Z0-9_.-]+"


def docker_name(text: str, limit: int = DOCKER_NAME_LIMIT) -> str:
    """A legal container name, "" when nothing of ``text`` is legal (D14); case is kept."""
    return _slug(text, _DOCKER_NAME, limit).lstrip("_-.")


def kubernetes_name(text: str, limit: int = KUBERNETES_NAME_LIMIT) -> str:
    """A legal object name of at most ``limit`` characters, "" when nothing of ``text`` is legal (K14)."""
    return _slug(text, _KUBERNETES_NAME, limit).lower()


def docker_run_name(identity: Identity, given: str | None = None) -> str:
    """The container's name: ``given`` made legal, else ``slug(project-address)-attempt`` (design 4, D14)."""
    return _run_name(identity, given, docker_name, DOCKER_NAME_LIMIT)


def kubernetes_run_name(identity: Identity, given: str | None = None) -> str:
    """The Job's name: ``given`` made legal, else ``slug(project-address)-attempt`` (design 4, K14)."""
    return _run_name(identity, given, kubernetes_name, KUBERNETES_NAME_LIMIT)


def docker_label_key(key: str) -> str:
    """``flowplan.dev/run-id`` as Docker people write it: ``dev.flowplan.run-id`` (D16)."""
    namespace, slash, name = key.partition("/")
    return ".".join([*reversed(namespace.split(".")), name]) if slash else key


def kubernetes_label_key(key: str) -> str:
    """A legal label key; one with nothing legal in it is passed on so that the API server complains (K16).

    The prefix is a domain, which Kubernetes wants in lower case; the name keeps its case.
    """
    prefix, slash, name = key.partition("/") if "/" in key else ("", "", key)
    name = _slug(name, _LABEL_NAME, 63).strip("_-.")
    prefix = _slug(prefix, _LABEL_PREFIX, 253).strip("_-.").lower()
    if not name or (slash and not prefix):
        return key
    return f"{prefix}/{name}" if prefix else name


def kubernetes_label_value(value: str) -> str:
    """A legal label value; "" stays "", one with nothing legal in it is passed on (K17)."""
    return _slug(value, _LABEL_NAME, 63).strip("_-.") or value


def _run_name(identity: Identity, given: str | None, slug: Callable[[str, int], str], limit: int) -> str:
    """Attempts after the first of a ``given`` name get ``-attempt`` too: the ended object may still hold the name."""
    base = slug(given, 10_000) if given else ""
    if base and identity.attempt == 1:
        return _shortened(base, given or "", limit)
    source = f"{identity.project}-{identity.address}"
    base = base or slug(source, 10_000) or "run"
    suffix = f"-{identity.attempt}"
    return _shortened(base, given or source, limit - max(0, len(suffix) - 2)) + suffix


def _shortened(slug: str, source: str, limit: int) -> str:
    """A long slug keeps its beginning and gets a hash, so that long names with one beginning stay distinct."""
    if len(slug) <= limit:
        return slug
    mark = hashlib.sha256(source.encode()).hexdigest()[:8]
    return f"{slug[: limit - 9].rstrip('_-.')}-{mark}"


def _slug(text: str, illegal: str, limit: int) -> str:
    if not text.isascii() or "&" in text:
        from slugify import slugify  # transliteration tables take 20 ms to load; plain text needs none

        return str(slugify(text.replace(",", "-"), max_length=limit, regex_pattern=illegal, lowercase=False))
    return re.sub(r"-{2,}", "-", re.sub(illegal, "-", text)).strip("-")[:limit].strip("-")
