"""A Docker Engine of one test's own, which it may stop, kill, freeze and start again without disturbing anybody."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import docker
import docker.errors
from projects import until

IMAGE = "busybox:1.35"
PATIENCE = 60.0


def missing() -> str:
    """Why no Engine can be started here, "" when one can."""
    if os.geteuid() != 0:
        return "only root can start a second dockerd"
    return "" if shutil.which("dockerd") else "there is no dockerd to start"


class OwnDocker:
    """A dockerd without networks, with one image, in a directory that is removed with it.

    Args:
        options: further options of dockerd.
    """

    def __init__(self, *options: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="fpd-"))  # short: a Unix socket's path has an end
        self.host = f"unix://{self.directory}/sock"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._log = (self.directory / "log").open("ab")

    # -- the daemon

    def start(self) -> None:
        """Start it, and return when it answers."""
        (self.directory / "pid").unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [
                # In a network namespace of its own: with --bridge=none it would take docker0 away from its neighbour.
                "unshare", "--net", "dockerd", "--host", self.host, "--data-root", str(self.directory / "data"),
                "--exec-root", str(self.directory / "exec"), "--pidfile", str(self.directory / "pid"),
                "--bridge=none", "--iptables=false", "--ip6tables=false", "--shutdown-timeout=10", *self._options,
            ],
            stdout=self._log, stderr=self._log, start_new_session=True,
        )  # fmt: skip
        until(self._answers, PATIENCE)

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"dockerd ended: {(self.directory / 'log').read_text()[-2000:]}")
        with contextlib.suppress(docker.errors.DockerException, OSError), self.api() as api:
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
        if self._process is not None:
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
        self._end_stragglers()
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            if line.split()[1].startswith(f"{self.directory}/"):
                subprocess.run(["umount", "-l", line.split()[1]], check=False, capture_output=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end_stragglers(self) -> None:
        """containerd and its shims outlive a dockerd that was killed; they name our directory."""
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if f"{self.directory}/exec".encode() in entry.read_bytes():
                    os.kill(int(entry.parent.name), signal.SIGKILL)

    # -- what a person sees

    def api(self) -> Any:
        """A client; to be used as a context manager."""
        return contextlib.closing(docker.APIClient(base_url=self.host, version="1.41", timeout=30))

    def load(self, archive: bytes) -> None:
        with self.api() as api:
            for _ in api.load_image(archive):
                pass

    def containers(self, address: str = "") -> list[dict[str, Any]]:
        """All containers, or those of an address, inspected."""
        wanted = {"label": f"dev.flowplan.address={address}"} if address else {}
        with self.api() as api:
            return [api.inspect_container(c["Id"]) for c in api.containers(all=True, filters=wanted)]

    def starts(self, address: str = "") -> Sequence[dict[str, Any]]:
        """Every container that was ever started for an address, by the daemon's own events since its start."""
        return [c for c in self.containers(address) if not c["State"]["StartedAt"].startswith("0001")]


def busybox() -> bytes:
    """The image as the shared Engine saves it."""
    with contextlib.closing(docker.APIClient(version="auto")) as api:
        return b"".join(api.get_image(IMAGE))


__all__ = ["IMAGE", "OwnDocker", "busybox", "missing", "time"]
