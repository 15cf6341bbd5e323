"""How a follower stands: its loop writes it, probes and metrics read it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Literal

from flowplan import clock

STUCK = 60.0
"""Seconds without a sign of the loop after which a follower is not alive, so that an orchestrator restarts it."""

Role = Literal["starting", "active", "standby", "stopping"]


@dataclass
class Health:
    """The role of a follower, and its problems: name of what has one (``state``, a provider entry) -> why.

    Attributes:
        since: when the role began, RFC 3339 in UTC. engines: the provider entries of the project.
    """

    role: Role = "starting"
    engines: frozenset[str] = frozenset()
    since: str = field(default_factory=clock.now)
    _problems: dict[str, str] = field(default_factory=dict)
    _beat: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def become(self, role: Role) -> bool:
        """Take a role; return whether it is another one than before."""
        changed = role != self.role
        if changed:
            self.role, self.since = role, clock.now()
        return changed

    def beat(self) -> None:
        """Tell that the loop moves."""
        self._beat = time.monotonic()

    def problem(self, what: str, why: str) -> bool:
        """Record a problem; return whether it is a new one, which is said once."""
        with self._lock:
            new = what not in self._problems
            self._problems[what] = why
        return new

    def well(self, what: str) -> bool:
        """Record that a problem is over; return whether there was one."""
        with self._lock:
            return self._problems.pop(what, None) is not None

    @property
    def problems(self) -> dict[str, str]:
        """Return what has a problem, and why."""
        with self._lock:
            return dict(self._problems)

    @property
    def alive(self) -> bool:
        """Return whether the loop moves."""
        return time.monotonic() - self._beat < STUCK

    @property
    def ready(self) -> bool:
        """Return whether the follower does its work, or stands by to take over."""
        return self.alive and self.role in ("active", "standby") and not self.problems
