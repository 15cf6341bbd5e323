"""Who holds the writer's lock of a state: what a process writes about itself for others, and what they make of it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowplan.schemas.places import user_name
from flowplan.state.rows import now

_TEXT = ("command", "user", "host", "boot", "namespace", "since")
_NUMBERS = ("pid", "start")


def understood(text: str | bytes) -> dict[str, Any]:
    """Return the note that a holder wrote, {} when it is none that makes sense."""
    try:
        note = json.loads(text)
    except ValueError:
        return {}
    whole = isinstance(note, dict) and all(isinstance(note.get(key), str) for key in _TEXT)
    return note if whole and all(isinstance(note.get(key), int) for key in _NUMBERS) else {}


def words(note: Mapping[str, Any]) -> str:
    """Return who holds a lock, as people read it."""
    if not note:
        return "another process"
    return f"{note['command']} of {note['user']} on {note['host']} (pid {note['pid']}) since {note['since']}"


def about_me(command: str) -> dict[str, Any]:
    """Return who this process is, so that another one can tell whether it still runs."""
    return {
        "command": command,
        "user": user_name(os.getuid()),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "start": _start_of(os.getpid()),
        "boot": _boot(),
        "namespace": _namespace(),
        "since": now(),
    }


def _boot() -> str:
    return _text_of(Path("/proc/sys/kernel/random/boot_id"))


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _start_of(pid: int) -> int:
    """Return the start of a process in ticks since boot, 0 when there is none of that number or it has ended."""
    state, *after = _text_of(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split() or ["X"]
    return 0 if state in "XZ" or len(after) < 19 else int(after[18])


def _text_of(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def alive(note: Mapping[str, Any]) -> bool | None:
    """Return whether the process of a note exists; None unless it is of this host, boot and pid namespace."""
    here = (socket.gethostname(), _boot(), _namespace())
    if not all(here) or tuple(note.get(name) for name in ("host", "boot", "namespace")) != here:
        return None
    return bool(_start_of(note.get("pid", 0)) == note.get("start"))
