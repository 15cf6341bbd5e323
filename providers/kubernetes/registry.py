"""A registry's answer to the question for an image: one or two requests, by the protocol of the OCI distribution."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

import requests
import requests.auth

from flowplan.providers.registries import PATIENCE, THERE, Answer
from flowplan.schemas.images import ImageReference

_HUB = "registry-1.docker.io"
"""Where the images of ``docker.io`` are."""

_KINDS = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2",
        "docker.distribution.manifest.v2",
    )
)


def said(image: ImageReference, login: str) -> Answer:
    """Return what a registry answers, which is first asked without a login, and then in the way that it wants.

    Args:
        login: the ``Authorization`` header of a user, "" for none.
    """
    host = _HUB if image.registry == "docker.io" else image.registry
    schemes = ("https", "http") if is_loopback(image.registry) else ("https",)
    with requests.Session() as session:
        session.headers.update({"Accept": _KINDS, "User-Agent": "flowplan"})
        for scheme in schemes:
            url = f"{scheme}://{host}/v2/{image.path}/manifests/{image.pull_tag}"
            try:
                status, challenge = _head(session, url, "")
                if status == 401 and (authorization := _authorization(session, challenge, image.path, login)):
                    status, _ = _head(session, url, authorization)
            except requests.RequestException as error:
                if isinstance(error, requests.ConnectionError) and scheme != schemes[-1]:
                    continue
                return Answer("silent", _cause(error))
            break
    if status in (401, 403):
        return Answer("refused", f"HTTP {status}")
    return THERE if status < 400 else Answer("missing") if status == 404 else Answer("silent", f"HTTP {status}")


def _head(session: requests.Session, url: str, authorization: str) -> tuple[int, str]:
    answer = session.head(url, auth=_Header(authorization), timeout=PATIENCE, allow_redirects=True)
    return answer.status_code, answer.headers.get("WWW-Authenticate", "")


class _Header(requests.auth.AuthBase):
    """Exactly this header: without it, ``requests`` would send what a .netrc has."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._value:
            request.headers["Authorization"] = self._value
        return request


def _authorization(session: requests.Session, challenge: str, path: str, login: str) -> str:
    """Return the header that a challenge asks for; "" where that needs a login and there is none."""
    scheme, _, rest = challenge.partition(" ")
    if scheme.lower() != "bearer":
        return login
    parts = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    realm = parts.get("realm", "")
    if urlsplit(realm).scheme != "https" and not is_loopback(urlsplit(realm).netloc):
        return ""  # no password goes over an open line
    query = {"service": parts.get("service", ""), "scope": parts.get("scope") or f"repository:{path}:pull"}
    answer = session.get(realm, params=query, auth=_Header(login), timeout=PATIENCE)
    try:
        given = answer.json()
        return f"Bearer {given.get('token') or given['access_token']}"
    except (ValueError, KeyError, AttributeError):
        return ""


def _cause(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return f"it does not answer this computer within {PATIENCE:g}s"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted on this computer"
    inner = re.search(r"\[Errno -?\d+\] ([^'\")]+)", str(error))
    return f"it cannot be reached from this computer{f' ({inner.group(1).lower()})' if inner else ''}"


def is_loopback(netloc: str) -> bool:
    """Return whether ``host[:port]`` is the computer that it is used on."""
    host = urlsplit(f"//{netloc}").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
