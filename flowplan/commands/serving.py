"""The command of the follower, which carries approved runs on without a terminal."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from flowplan import interruption
from flowplan.commands.places import place, settled
from flowplan.output import Output
from flowplan.schemas.errors import InvalidInput, StateError
from flowplan.schemas.files import Unreadable, read_bounded
from flowplan.serve.health import Health
from flowplan.state.location import Location
from flowplan.state.store import Store

LOCAL = ("127.0.0.1", "::1", "localhost")
MOST_TOKEN = 4096
M_ARENA_MAX = -8
"""See mallopt(3)."""


class Listen(NamedTuple):
    """Where and to whom a follower answers over HTTP.

    Attributes:
        hosts: further names for the Host header. token_file, certificate, key: paths, or None.
    """

    hosts: tuple[str, ...] = ()
    token_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


def serve(
    spec: Path | None, state: str | None, environment: str | None, listen: str, how: Listen, parallelism: int
) -> int:
    """Carry accepted plans on until a signal comes, and answer over HTTP; runs go on after that.

    Raises:
        InvalidInput: an option is wrong. StateError: there is no state.
    """
    from flowplan.serve.follower import Follower

    where = settled(place(state, spec, environment)).state
    if not where.exists():
        raise StateError(
            f"there is no state {where}", hint="`flowplan plan` or `flowplan apply` makes it; --state names another"
        )

    def locate() -> Location:
        return place(state, spec, environment).state

    gc.set_threshold(700, 10, 10)  # as Python has it: a process that stays has to give back what ended rounds held
    with suppress(AttributeError):  # a C library without it
        ctypes.CDLL(None).mallopt(
            M_ARENA_MAX, 1
        )  # one heap for all threads: each one's own would keep what it once held
    health = Health()
    with interruption.finishing() as stop, _answering(locate, health, listen, how):
        Follower(locate, health, stop, parallelism=parallelism).run()
    return 0


@contextmanager
def _answering(locate: Callable[[], Location], health: Health, listen: str, how: Listen) -> Iterator[None]:
    """Answer over HTTP, unless that is not wanted."""
    if listen == "none":
        yield
        return
    try:
        from flowplan.serve import api, live, metrics, server
    except ImportError as error:
        raise InvalidInput(
            f"answering over HTTP needs the package {error.name}, which is not installed",
            hint="pip install 'flowplan[serve]', or --listen none",
        ) from error
    host, port = _address(listen)
    token = _token(how.token_file) if how.token_file else ""
    if host not in LOCAL and not token:
        hint = "--token-file names a file with a token that readers have to show; or listen on 127.0.0.1"
        message = f"{host} can be reached from outside, and everybody could read there"
        raise InvalidInput(message, subject="--listen", hint=hint)
    if bool(how.certificate) != bool(how.key):
        raise InvalidInput("--tls-cert and --tls-key belong together", hint="give both, or neither")

    def opened() -> Store:
        return locate().open(read_only=True)

    from flowplan.commands import reporting

    numbers = metrics.Metrics(opened, health)
    numbers.begin()
    hosts = frozenset({*LOCAL, host.lower(), *(name.lower() for name in how.hosts)})
    page = live.Live(opened, reporting.document_of, reporting.mark_of)
    service = api.Service(opened, page, health, numbers, hosts, token, secure=how.certificate is not None)
    with server.serving(service.application(), (host, port), how.certificate, how.key) as bound:
        shown = f"[{host}]" if ":" in host else host
        Output().note(f"answering on http{'s' if how.certificate else ''}://{shown}:{bound}")
        try:
            yield
        finally:
            service.end()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        hint = "write ADDRESS:PORT, such as 127.0.0.1:8470, or none"
        raise InvalidInput(f'"{text}" is no address', subject="--listen", hint=hint)
    return ("127.0.0.1" if host == "localhost" else host), int(port)


def _token(file: Path) -> str:
    """Return the token in a file, which nobody else may read.

    Raises:
        InvalidInput: it cannot be read, is empty, or others may read it.
    """
    try:
        token = read_bounded(file, MOST_TOKEN).decode().strip()
        others = file.stat().st_mode & 0o077
    except (OSError, Unreadable, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(f"{file} cannot be read: {why}", subject="--token-file") from error
    if others and file.stat().st_uid == os.getuid():
        hint = f"chmod 600 {file}"
        raise InvalidInput(f"{file} may be read by others", subject="--token-file", hint=hint)
    if len(token) < 16 or any(not c.isascii() or not c.isprintable() or c.isspace() for c in token):
        hint = "write one with `openssl rand -hex 32`"
        raise InvalidInput(f"{file} holds no token of 16 or more letters and digits", subject="--token-file", hint=hint)
    return token
