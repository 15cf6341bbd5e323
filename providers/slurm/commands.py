"""Running the commands of Slurm on this host or over ssh, and telling a refusal from a cluster that does not answer."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from flowplan.schemas.errors import EngineUnreachable, ProviderError

DIRECTORY = ".local/share/flowplan/slurm"
"""Where the files of jobs are, below the home directory, when the provider says nothing."""

PATIENCE = 60.0
"""Seconds that a command may take; Slurm's own wait for its controller about 30."""

_SILENT = re.compile(
    "unable to contact slurm|socket timed out|zero bytes were transmitted|connection (?:refused|timed out|reset)"
    "|communications? connection failure|communication shutdown|slurm backup controller|controller is in standby"
    "|resource temporarily unavailable|no route to host|failure: unable to connect|dbd.*connect"
    "|unable to process configuration file|unable to establish configuration source",
    re.IGNORECASE,
)
"""What Slurm's commands say when nobody answers them."""

_ENDED = re.compile("already|invalid job id|not running|no such", re.IGNORECASE)
"""What scancel says of jobs that have ended."""

_PREFIX = re.compile(r"^(?:[a-z]+: )?(?:fatal: |error: )?", re.MULTILINE)


class Site(NamedTuple):
    """What is found out at the first command: who the user is there, where the files are, and the cluster."""

    home: str
    directory: str
    user: str
    cluster: str
    controller: str


class Commands:
    """Runs shell scripts where Slurm's commands are.

    Args:
        settings: ``ssh``, where it is not this host, and ``directory``, see the spec.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.host = str(settings.get("ssh") or "")
        self._directory = str(settings.get("directory") or DIRECTORY)

    @property
    def endpoint(self) -> str:
        """Return where the commands are run, for people."""
        return f"ssh {self.host}" if self.host else "this host"

    @cached_property
    def site(self) -> Site:
        """Return the user, the directory and the cluster."""
        script = 'echo "$HOME"; case $1 in /*) echo "$1" ;; *) echo "$HOME/$1" ;; esac; id -un; scontrol show config'
        home, directory, user, *config = self.run(script, self._directory).splitlines()
        told = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in config)}
        if not told.get("ClusterName"):
            raise EngineUnreachable(f"scontrol on {self.endpoint} names no cluster")
        controller = told.get("SlurmctldHost[0]") or told.get("ControlMachine") or ""
        return Site(home, directory, user, told["ClusterName"], controller)

    def run(self, script: str, *args: str, data: bytes = b"") -> str:
        """Run a script of sh with arguments and input, and return the text that it prints; raises as ``output_of``."""
        return self.output_of(script, *args, data=data).decode(errors="replace")

    def cancel(self, *args: str) -> None:
        """Run scancel; a job that has ended meanwhile is fine."""
        try:
            self.output_of('exec scancel "$@"', *args)
        except EngineUnreachable:
            raise
        except ProviderError as error:
            if not _ENDED.search(error.message):
                raise

    def read(self, path: str, start: int, size: int) -> bytes:
        """Return at most ``size`` bytes of a file from an offset on; b"" while there is none."""
        if self.host:
            script = '[ ! -e "$1" ] || tail -c "+$2" -- "$1" | head -c "$3"'
            return self.output_of(script, path, str(start + 1), str(size))
        try:
            with Path(path).open("rb") as file:
                file.seek(start)
                return file.read(size)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise ProviderError(f"{path} cannot be read: {error.strerror}") from error

    def output_of(self, script: str, *args: str, data: bytes = b"") -> bytes:
        """Run a script of sh with arguments and input, and return what it prints.

        Raises:
            EngineUnreachable: there is no answer.
            ProviderError: it failed; the message is what it said.
        """
        argv = ["sh", "-c", script, "flowplan", *args]
        if self.host:
            argv = ["ssh", "-T", "-o", "BatchMode=yes", self.host, shlex.join(["sh", "-lc", *argv[2:]])]
        try:
            done = subprocess.run(
                argv, input=data, capture_output=True, timeout=PATIENCE, env=_environment(), check=False
            )
        except FileNotFoundError:
            raise ProviderError(f"{argv[0]} is not installed here", reason="NotInstalled") from None
        except subprocess.TimeoutExpired:
            raise EngineUnreachable(f"Slurm did not answer within {PATIENCE:g} s ({self.endpoint})") from None
        if done.returncode:
            self._refuse(done.returncode, done.stderr.decode(errors="replace"))
        return done.stdout

    def _refuse(self, code: int, said: str) -> None:
        words = "; ".join(dict.fromkeys(_PREFIX.sub("", said.strip()).splitlines())) or f"exit code {code}"
        if self.host and code == 255:
            raise EngineUnreachable(words, hint=f"try `ssh {self.host}`")
        if code == 127:
            hint = "install Slurm's commands, or set `ssh:` of the provider to a host that has them"
            raise ProviderError(
                f"Slurm's commands are not on {self.endpoint}: {words}", hint=hint, reason="NotInstalled"
            )
        if _SILENT.search(said):
            hint = "see whether `scontrol ping` answers; SLURM_CONF says which cluster is asked"
            raise EngineUnreachable(f"the cluster does not answer ({self.endpoint}): {words}", hint=hint)
        raise ProviderError(words)


def _environment() -> dict[str, str]:
    """Return the environment of the commands: times in UTC, and nothing of a job that flowplan itself may run in."""
    kept = {"SLURM_CONF", "SLURM_CLUSTERS"}
    own = ("SLURM_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_")
    found = {name: value for name, value in os.environ.items() if name in kept or not name.startswith(own)}
    return {**found, "TZ": "UTC0", "LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"}
