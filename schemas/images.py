"""Image references: their parts, what makes one invalid, and the pull policy that follows from them."""

from __future__ import annotations

import re
from typing import NamedTuple

from flowplan.schemas.errors import InvalidInput

PULL_POLICIES = ("Always", "IfNotPresent", "Never")

_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*")
_DOMAIN = re.compile(
    r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*)(?::[0-9]+)?"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[+._-][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]+")
_FORM = "write it as [registry[:port]/]name[:tag][@digest]"


class ImageReference(NamedTuple):
    """The parts of a reference as written; nothing is normalised (``busybox`` stays ``busybox``).

    Attributes:
        repository: everything before tag and digest, with the registry (``h:5000/a``).
        tag: None where there is none.
        digest: ``sha256:...``, or None.
    """

    repository: str
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"

    @property
    def registry(self) -> str:
        """Return ``h:5000`` of ``h:5000/a``; ``docker.io`` where none is written."""
        first, slash, _ = self.repository.partition("/")
        return first if slash and _is_registry(first) else "docker.io"

    @property
    def path(self) -> str:
        """Return the path in its registry: ``library/busybox`` of ``busybox``, ``a`` of ``h:5000/a``."""
        path = self.repository.removeprefix(f"{self.registry}/")
        return f"library/{path}" if self.registry == "docker.io" and "/" not in path else path

    @property
    def pull_policy(self) -> str:
        """Return the policy where none is given: Always for ``latest`` or no tag, else IfNotPresent."""
        return "Always" if self.digest is None and self.tag in (None, "latest") else "IfNotPresent"

    @property
    def pull_tag(self) -> str:
        """Return what the Engine's pull call takes as ``tag``: the digest, the tag, or ``latest``."""
        return self.digest or self.tag or "latest"

    @property
    def digest_is_short(self) -> bool:
        """Return whether engines refuse the digest although its form is right (``sha256:abc``)."""
        lengths = {"sha256": 64, "sha384": 96, "sha512": 128}
        algorithm, _, digits = (self.digest or ":").partition(":")
        return self.digest is not None and len(digits) != lengths.get(algorithm, len(digits))


def parse_image(text: str) -> ImageReference:
    """Parse an image reference.

    Raises:
        InvalidInput: when it is no reference (``a:b:c``, ``a:``, an upper-case name).
    """
    rest, at, digest = text.partition("@")
    slash = rest.rfind("/")
    colon = rest.find(":", slash + 1)
    repository, tag = (rest[:colon], rest[colon + 1 :]) if colon >= 0 else (rest, None)
    fault = _repository_fault(repository)
    if not fault and tag is not None and not _TAG.fullmatch(tag):
        fault = "the tag is empty" if not tag else "there are two tags" if ":" in tag else f'"{tag}" is not a tag'
    if not fault and at and not _DIGEST.fullmatch(digest):
        fault = f'"{digest}" is not a digest'
    if fault:
        raise InvalidInput(f'"{text}" is not an image reference: {fault}', hint=_FORM)
    return ImageReference(repository, tag, digest if at else None)


def _is_registry(component: str) -> bool:
    return "." in component or ":" in component or component == "localhost"


def _repository_fault(repository: str) -> str:
    if not repository:
        return "the name is empty"
    if repository != repository.strip() or re.search(r"\s", repository):
        return "it contains a blank"
    parts = repository.split("/")
    if len(parts) > 1 and _is_registry(parts[0]):
        if not _DOMAIN.fullmatch(parts[0]):
            return f'"{parts[0]}" is not a registry'
        parts = parts[1:]
    for part in parts:
        if not _COMPONENT.fullmatch(part):
            lower = part != part.lower()
            return "names are lower case" if lower else f'"{part}" is not a part of a name'
    return "" if len(repository) <= 255 else "the name is longer than 255 characters"
