"""The engines that tests use: where they are, and how a test speaks with one as a person would.

python tests/engines.py     say which engines there are, and what is skipped without them
"""

from __future__ import annotations

import io
import os
import re
import socket
import struct
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ENGINES = {
    "docker": "DOCKER_HOST",
    "docker_current": "DOCKER_CURRENT",
    "podman": "PODMAN",
    "kubernetes": "KUBECONFIG",
    "registry": "REGISTRY",
    "postgres": "POSTGRES",
    "slurm": "SLURM_CONF",
}
"""Marker of tests -> the environment variable that says where the engine is."""


def without_engine(needed: list[str]) -> str:
    """Return why tests that need these engines cannot run here; "" when they can."""
    missing = [f"{name} ({ENGINES[name]} is not set)" for name in needed if not os.environ.get(ENGINES[name])]
    return f"needs {' and '.join(missing)}" if missing else ""


def docker_api(host: str = "") -> Any:
    """Return a client of docker-py for an Engine, by default that of DOCKER_HOST; it speaks the Engine's own version."""
    import docker
    from docker.utils import kwargs_from_env

    settings = {"base_url": host} if host else kwargs_from_env()
    return docker.APIClient(version="auto", timeout=30, **settings)


def create_file(api: Any, container: str, name: str) -> None:
    """Create an empty file in the root of a container; what an Engine in a chroot executes there gets the machine's root."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    assert api.put_archive(container, "/", archive.getvalue())


def connected(host: str) -> socket.socket:
    """Return a socket that is connected to ``unix:///path`` or ``tcp://host:port``."""
    parts = urlsplit(host)
    if parts.scheme != "unix":
        return socket.create_connection((str(parts.hostname), int(parts.port or 0)))
    near = socket.socket(socket.AF_UNIX)
    near.connect(parts.path)
    return near


def docker_process() -> int:
    """Return the process of the Engine of DOCKER_HOST, in whose network its 127.0.0.1 is; 0 where that is unknown."""
    with connected(os.environ["DOCKER_HOST"]) as near:
        if near.family != socket.AF_UNIX or os.geteuid() != 0:
            return 0
        return int(struct.unpack("3i", near.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])


def _docker_version(host: str) -> str:
    api = docker_api(host)
    found = api.version()
    api.close()
    return f"{found['Components'][0]['Name']} {found['Version']} (API {found['ApiVersion']})"


def _kubernetes_version(_: str) -> str:
    from flowplan.providers.kubernetes.connection import endpoint
    from flowplan.providers.kubernetes.requests import Api

    api = Api(endpoint({}, Path("/")))
    found = api.get("/version")
    api.close()
    return f"Kubernetes {found['gitVersion']}"


def _registry_version(where: str) -> str:
    import urllib3

    answer = urllib3.request("GET", f"http://{where}/v2/", timeout=10, retries=False)
    return f"a registry ({answer.headers.get('Docker-Distribution-Api-Version', f'HTTP {answer.status}')})"


def _postgres_version(where: str) -> str:
    import psycopg

    with psycopg.connect(where) as connection:
        version = connection.execute("SHOW server_version").fetchone()
    pooled = "PgBouncer in front of it" if os.environ.get("PGBOUNCER") else "no pooler (PGBOUNCER is not set)"
    return f"PostgreSQL {version and version[0]}, {pooled},"


def _slurm_version(_: str) -> str:
    from flowplan.providers.slurm.commands import Commands

    commands = Commands({})
    return f"{commands.run('exec sinfo --version').strip()}, cluster {commands.site.cluster},"


_VERSIONS: dict[str, Callable[[str], str]] = {
    "docker": _docker_version,
    "docker_current": _docker_version,
    "podman": _docker_version,
    "kubernetes": _kubernetes_version,
    "registry": _registry_version,
    "postgres": _postgres_version,
    "slurm": _slurm_version,
}


def _public(where: str) -> str:
    """Return an address without the password that may be in it."""
    return re.sub(r"(?<=://)([^/@:]*):[^@]*@", r"\1@", where)


def tell() -> bool:
    """Print every engine with its version, or what is skipped without it; return False when one does not answer."""
    silent = []
    for name, variable in ENGINES.items():
        where = os.environ.get(variable)
        if not where:
            print(f"{name}: {variable} is not set, so tests that need it are skipped")
            continue
        try:
            print(f"{name}: {_VERSIONS[name](where)} at {_public(where)} ({variable})")
        except Exception as error:  # noqa: BLE001 - whatever keeps an engine from answering is told, and ends the run
            silent.append(name)
            print(f"{name}: nothing usable answers at {_public(where)}; unset {variable} to skip its tests: {error}")
    return not silent


if __name__ == "__main__":
    sys.exit(0 if tell() else 1)
