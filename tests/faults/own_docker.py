"""A Docker Engine of one test's own, which it may stop, kill, freeze and start again without disturbing anybody."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
from engines import docker_api
from projects import until

IMAGE = "busybox:1.35"
PATIENCE = 60.0


def missing() -> str:
    """Why no Engine can be started here, "" when one can."""
    if os.geteuid() != 0:
        return "only root can start a second dockerd"
    absent = [program for program in ("dockerd", "unshare", "nsenter", "ip") if not shutil.which(program)]
    return f"a second dockerd needs {', '.join(absent)}" if absent else ""


class OwnDocker:
    """A dockerd without networks, with one image, in a directory that is removed with it.

    Args:
        options: further options of dockerd.
    """

    def __init__(self, *options: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="fpd-"))  # short: the path of a Unix socket has an end
        self.host = f"unix://{self.directory}/sock"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        # A network namespace of its own: a dockerd with --bridge=none takes docker0 away from its neighbour.
        self._network = subprocess.Popen(["unshare", "--net", "sh", "-c", "ip link set lo up; exec sleep infinity"])
        self._log = (self.directory / "log").open("ab")

    # -- the daemon

    def start(self) -> None:
        """Start it, and return when it answers."""
        self._end_stragglers("containerd")
        for stale in ("pid", "exec/containerd/containerd.pid"):  # a zombie that nobody reaps would count as alive
            (self.directory / stale).unlink(missing_ok=True)
        (self.directory / "etc").mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [
                # Before Docker 23 the id of an Engine is made of /etc/docker/key.json: one of its own is another Engine.
                "unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/docker && exec "$@"', str(self.directory / "etc"),
                "nsenter", f"--net=/proc/{self.network()}/ns/net", "dockerd", "--host", self.host, "--data-root", str(self.directory / "data"),
                "--exec-root", str(self.directory / "exec"), "--pidfile", str(self.directory / "pid"),
                "--bridge=none", "--iptables=false", "--ip6tables=false", "--shutdown-timeout=10", *self._options,
            ],
            stdout=self._log, stderr=self._log, start_new_session=True,
        )  # fmt: skip
        until(self._answers, PATIENCE)

    def network(self) -> int:
        """Return a process in its network namespace, in which 127.0.0.1 is not that of the machine."""
        name = Path(f"/proc/{self._network.pid}/comm")
        until(lambda: name.read_text().strip() == "sleep")
        return self._network.pid

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"dockerd ended: {(self.directory / 'log').read_text()[-2000:]}")
        with contextlib.suppress(docker.errors.DockerException, OSError):
            with socket.socket(socket.AF_UNIX) as knock:  # the client leaves a socket open when nobody is there
                knock.connect(f"{self.directory}/sock")
            with self.api() as api:
                return bool(api.ping())
        return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it with a signal, and return when it is gone."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(PATIENCE)

    def freeze(self) -> None:
        """From now on it accepts connections and answers nothing."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Remove the containers, end the daemon and all that it started, and its directory."""
        self.thaw()
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(docker.errors.DockerException, OSError), self.api() as api:
                for container in api.containers(all=True):
                    api.remove_container(container["Id"], force=True, v=True)
        self.stop()
        self._log.close()
        self._end_stragglers("")
        self._network.kill()
        self._network.wait()
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            if line.split()[1].startswith(f"{self.directory}/"):
                subprocess.run(["umount", "-l", line.split()[1]], check=False, capture_output=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end_stragglers(self, program: str) -> None:
        """containerd and its shims may outlive a dockerd that was killed; their arguments name our directory."""
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = entry.read_bytes().split(b"\0")
                named = any(f"{self.directory}/".encode() in word for word in words)
                if named and (not program or words[0].endswith(program.encode())):
                    os.kill(int(entry.parent.name), signal.SIGKILL)

    # -- what a person sees

    @contextlib.contextmanager
    def api(self) -> Iterator[Any]:
        """Return a client of its own."""
        client = docker_api(self.host)
        try:
            yield client
        finally:
            client.close()

    def load(self, archive: bytes) -> None:
        with self.api() as api:
            for _ in api.load_image(archive):
                pass

    def containers(self) -> dict[str, list[dict[str, Any]]]:
        """Address -> its containers, whatever their state, inspected."""
        found: dict[str, list[dict[str, Any]]] = {}
        with self.api() as api:
            for listed in api.containers(all=True):
                address = listed["Labels"].get("dev.flowplan.address", "")
                with contextlib.suppress(docker.errors.NotFound):  # it has just gone
                    found.setdefault(address, []).append(api.inspect_container(listed["Id"]))
        return found

    def running(self) -> set[str]:
        """Return the addresses of which a container runs."""
        return {a for a, some in self.containers().items() if any(c["State"]["Running"] for c in some)}


def busybox() -> bytes:
    """Return the image as the shared Engine saves it."""
    client = docker_api()
    try:
        return b"".join(client.get_image(IMAGE))
    finally:
        client.close()
