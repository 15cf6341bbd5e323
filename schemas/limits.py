"""Limits of the operating system that flowplan sets for itself, and what they were, for the runs that it starts."""

from __future__ import annotations

import resource

_before: int | None = None


def leave_no_core() -> None:
    """Keep a crash from writing memory, with its secrets, to the disk; 1 also counts where a program takes cores."""
    global _before
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    _before = soft
    resource.setrlimit(resource.RLIMIT_CORE, (0 if hard == 0 else 1, hard))


def core_before() -> int | None:
    """Return the soft limit of core files (bytes, -1 for none) that a run shall have; None when it was not touched."""
    return _before
