"""From provider settings to an endpoint: server, trust, credentials and identity, with nothing global."""

from __future__ import annotations

import base64
import hashlib
import os
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flowplan.providers.kubernetes import kubeconfig
from flowplan.providers.kubernetes.kubeconfig import MOST
from flowplan.schemas.errors import ProviderError
from flowplan.schemas.files import Unreadable, read_bounded

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts a pod's service account."""

_TOKEN_LIFE = timedelta(minutes=1)
"""Mounted tokens are rotated by the kubelet; they are read again this often."""

_EXPIRY_MARGIN = timedelta(seconds=60)


@dataclass
class Credentials:
    """What authenticates a request: an ``Authorization`` header (asked for again when it expires) and a certificate.

    Attributes:
        fetch: returns (header or "", expiry or None); called once, and again after the expiry or a 401.
    """

    fetch: Callable[[], tuple[str, datetime | None]]
    refreshable: bool = False
    _header: str | None = field(default=None, repr=False)
    _expiry: datetime | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def header(self, *, renew: bool = False) -> str:
        """Return the Authorization header, or "" where a certificate authenticates.

        Raises:
            ProviderError: there is none, or no header can hold it.
        """
        with self._lock:
            expired = self._expiry is not None and datetime.now(UTC) >= self._expiry
            if self._header is None or expired or (renew and self.refreshable):
                header, self._expiry = self.fetch()
                if header and not (header.isascii() and header.isprintable()):
                    raise ProviderError(  # the http library would quote it
                        "the token of the kubeconfig's user holds characters that no token has",
                        hint="a line break, a space or a letter that is not ASCII",
                        reason="BadKubeconfig",
                    )
                self._header = header
            return self._header


IN_CLUSTER = "in-cluster"


@dataclass(frozen=True)
class Endpoint:
    """One API server as one user sees it.

    Attributes:
        server: URL without a trailing slash; label: what people call it (the context, or ``in-cluster``).
        namespace: the default namespace.
        cluster_id: an identity given by the user, or "".
        fallback_id: a hash of server URL and CA, for users who may not read ``kube-system``.
    """

    server: str
    label: str
    namespace: str
    credentials: Credentials
    tls: ssl.SSLContext | None
    verified: bool = True
    server_name: str = ""
    proxy: str = field(default="", repr=False)
    cluster_id: str = ""
    fallback_id: str = ""


def endpoint(settings: Mapping[str, Any], base: Path) -> Endpoint:
    """Return the endpoint that provider settings name.

    Order: what the settings say; else the service account when there is one and no kubeconfig;
    else the kubeconfig of the environment.

    Raises:
        ProviderError: no usable configuration; says what is missing.
    """
    explicit = settings.get("kubeconfig") or settings.get("context")
    in_cluster = settings.get("in_cluster")
    if in_cluster is None:
        in_cluster = not explicit and (ACCOUNT / "token").is_file() and not kubeconfig.default_exists()
    if in_cluster:
        return _from_service_account(settings)
    return _from_kubeconfig(settings, base)


def _from_service_account(settings: Mapping[str, Any]) -> Endpoint:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not (ACCOUNT / "token").is_file():
        raise ProviderError(
            "in_cluster is set, but this is not a pod with a service account",
            hint=f"no {ACCOUNT}/token or no KUBERNETES_SERVICE_HOST",
            reason="NotInCluster",
        )
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    try:
        authority = (ACCOUNT / "ca.crt").read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise ProviderError(
            f"the certificate of the cluster, {ACCOUNT}/ca.crt, cannot be read: {why}",
            hint="give the pod a whole service account, or the provider a kubeconfig",
            reason="NotInCluster",
        ) from None
    own = ACCOUNT / "namespace"
    namespace = own.read_text(encoding="utf-8").strip() if own.is_file() else "default"
    return Endpoint(
        server=server,
        label=IN_CLUSTER,
        namespace=settings.get("namespace") or namespace,
        credentials=Credentials(lambda: _token_file(ACCOUNT / "token"), refreshable=True),
        tls=_trust(authority, verify=True),
        cluster_id=settings.get("cluster_id") or "",
        fallback_id=_hash(server, authority),
    )


def _from_kubeconfig(settings: Mapping[str, Any], base: Path) -> Endpoint:
    document, source = kubeconfig.load(settings.get("kubeconfig"), base)
    name = settings.get("context") or document["current-context"]
    context = kubeconfig.entry(document, "contexts", name, source)
    cluster = kubeconfig.entry(document, "clusters", context.get("cluster") or "", source)
    user = kubeconfig.entry(document, "users", context["user"], source) if context.get("user") else {}
    server = str(cluster.get("server") or "").rstrip("/")
    if not _is_url(server):
        raise ProviderError(f'{source}: cluster "{context.get("cluster")}" has no server URL', reason="BadKubeconfig")
    if cluster.get("proxy-url") and not _is_url(cluster["proxy-url"]):
        raise ProviderError(
            f'{source}: cluster "{context.get("cluster")}": proxy-url is no URL', reason="BadKubeconfig"
        )
    authority = _pem(cluster, "certificate-authority", source)
    verify = not cluster.get("insecure-skip-tls-verify")
    tls = _trust(authority, verify=verify) if server.startswith("https://") else None
    return Endpoint(
        server=server,
        label=name,
        namespace=settings.get("namespace") or context.get("namespace") or "default",
        credentials=_credentials(document, name, user, cluster, tls, source),
        tls=tls,
        verified=verify,
        server_name=cluster.get("tls-server-name") or "",
        proxy=cluster.get("proxy-url") or _proxy(server),
        cluster_id=settings.get("cluster_id") or "",
        fallback_id=_hash(server, authority),
    )


def _is_url(text: str) -> bool:
    """Return whether a text is an http or https URL of a host."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _hash(server: str, authority: str) -> str:
    return "server-" + hashlib.sha256(f"{server}\n{authority}".encode()).hexdigest()[:32]


def _proxy(server: str) -> str:
    """Return the proxy that the environment sets for a server, or ""."""
    if sys.platform == "linux" and not any(name.lower().endswith("_proxy") for name in os.environ):
        return ""
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(server)
    return "" if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme, "")


def _pem(entry: Mapping[str, Any], key: str, source: str) -> str:
    """Return the certificate or key stored inline (``<key>-data``, base64) or in a file, or ""."""
    try:
        if data := entry.get(f"{key}-data"):
            return base64.b64decode(data).decode("utf-8")
        return read_bounded(Path(entry[key]), MOST).decode() if entry.get(key) else ""
    except (OSError, ValueError) as error:
        raise ProviderError(f"{source}: {key} cannot be read: {error}", reason="BadKubeconfig") from None


def _trust(authority: str, *, verify: bool) -> ssl.SSLContext:
    """Return what checks the server's certificate; without ``verify`` the connection is encrypted, to any server."""
    if not verify:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        return tls
    try:
        return ssl.create_default_context(cadata=authority or None)
    except ssl.SSLError as error:
        raise ProviderError(
            f"the cluster's certificate-authority is not valid: {error}", reason="BadKubeconfig"
        ) from None


def _present(tls: ssl.SSLContext | None, certificate: str, key: str, source: str) -> None:
    """Load a client certificate; the ssl module reads it from a file only, so it gets one that is on no disk."""
    if not tls or not certificate:
        return
    with os.fdopen(os.memfd_create("client-certificate"), "w", encoding="utf-8") as file:
        file.write(f"{certificate}\n{key}\n")
        file.flush()
        try:
            tls.load_cert_chain(f"/proc/self/fd/{file.fileno()}", password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise ProviderError(
                f"{source}: the client certificate is not valid: {error}", reason="BadKubeconfig"
            ) from None


def _no_password() -> str:
    """Without this, OpenSSL would ask on the terminal."""
    raise ValueError("its key is encrypted")


def _credentials(
    document: Mapping[str, Any],
    context: str,
    user: Mapping[str, Any],
    cluster: Mapping[str, Any],
    tls: ssl.SSLContext | None,
    source: str,
) -> Credentials:
    """Return the credentials of a user; plugins and auth providers are run by the kubernetes package."""
    _present(tls, _pem(user, "client-certificate", source), _pem(user, "client-key", source), source)
    if user.get("tokenFile"):
        return Credentials(lambda: _token_file(Path(user["tokenFile"])), refreshable=True)
    if user.get("token"):
        return Credentials(lambda: (f"Bearer {user['token']}", None))
    if user.get("exec"):
        return Credentials(lambda: _from_plugin(user["exec"], cluster, tls, source), refreshable=True)
    if user.get("auth-provider"):
        return Credentials(lambda: _from_package(document, context, source), refreshable=True)
    if user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}"
        return Credentials(lambda: ("Basic " + base64.b64encode(pair.encode()).decode(), None))
    return Credentials(lambda: ("", None))


def _token_file(path: Path) -> tuple[str, datetime | None]:
    try:
        return f"Bearer {read_bounded(path, MOST).decode().strip()}", datetime.now(UTC) + _TOKEN_LIFE
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or (str(error) if isinstance(error, Unreadable) else "it is no text")
        raise ProviderError(f"the token file {path} cannot be read: {why}", reason="Unauthorized") from None


def _from_plugin(
    config: Mapping[str, Any], cluster: Mapping[str, Any], tls: ssl.SSLContext | None, source: str
) -> tuple[str, datetime | None]:
    """Run an exec credential plugin (``aws eks get-token``...)."""
    from kubernetes.config.config_exception import ConfigException
    from kubernetes.config.exec_provider import ExecProvider
    from kubernetes.config.kube_config import ConfigNode

    command = config.get("command", "")
    try:
        status = ExecProvider(ConfigNode("exec", dict(config)), "", ConfigNode("cluster", dict(cluster))).run()  # type: ignore[no-untyped-call]
        header, expiry = f"Bearer {status['token']}" if status.get("token") else "", _expiry(status)
        certificate, key = status.get("clientCertificateData") or "", status.get("clientKeyData") or ""
    except (ConfigException, OSError) as error:
        text = " ".join(str(error).split())
        hint = config.get("installHint") or "run it by hand to see what it needs"
        raise ProviderError(
            f'{source}: the credential plugin "{command}" failed: {text}', hint=hint, reason="Unauthorized"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError):  # what it said may be a secret
        raise ProviderError(
            f'{source}: the credential plugin "{command}" failed, or its answer is none',
            hint=config.get("installHint") or "run it by hand to see what it needs",
            reason="Unauthorized",
        ) from None
    _present(tls, certificate, key, source)
    return header, expiry


def _expiry(status: Mapping[str, Any]) -> datetime | None:
    text = status.get("expirationTimestamp")
    return datetime.fromisoformat(text) - _EXPIRY_MARGIN if text else None


def _from_package(document: Mapping[str, Any], context: str, source: str) -> tuple[str, datetime | None]:
    """Return the header of a legacy auth provider (oidc, gcp), which the kubernetes package refreshes."""
    from kubernetes.client import Configuration
    from kubernetes.config import load_kube_config_from_dict
    from kubernetes.config.config_exception import ConfigException

    configuration = Configuration()
    try:
        load_kube_config_from_dict(  # type: ignore[no-untyped-call]
            dict(document), context=context, client_configuration=configuration
        )
    except ConfigException as error:
        raise ProviderError(f"{source}: the auth provider failed: {error}", reason="Unauthorized") from None
    header = configuration.api_key.get("BearerToken", "")
    if not header:
        raise ProviderError(f"{source}: the auth provider gave no token", hint="log in again", reason="Unauthorized")
    return header, datetime.now(UTC) + _TOKEN_LIFE
