"""A flowplan in the background whose words a test waits for."""

from __future__ import annotations

import signal
import subprocess
import threading
from typing import Any

from projects import Project, until


def watched(project: Project, words: str) -> str:
    """Return what `watch` says until it has said these words, and is interrupted."""
    following = Following(project.start("watch"))
    following.said(words, 150)
    return following.end(130, interrupt=True)[1]


class Following:
    """Reads all that a command says, as it says it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._out: list[str] = []
        self._err: list[str] = []
        pairs = ((process.stdout, self._out), (process.stderr, self._err))
        self._readers = [threading.Thread(target=self._read, args=pair, daemon=True) for pair in pairs]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, lines: list[str]) -> None:
        with stream:
            lines.extend(iter(stream.readline, ""))

    def said(self, words: str, patience: float = 60.0) -> str:
        """All that it said, once it has said these words."""
        until(lambda: words in "".join(self._err), patience)
        return "".join(self._err)

    def out(self) -> str:
        """All that it has written to stdout so far."""
        return "".join(self._out)

    def end(self, code: int, *, interrupt: bool = False) -> tuple[str, str]:
        """Its stdout and stderr once it has ended."""
        if interrupt:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        for reader in self._readers:
            reader.join(10)
        err = "".join(self._err)
        assert self.process.returncode == code, err
        return "".join(self._out), err
