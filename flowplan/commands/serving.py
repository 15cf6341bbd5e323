"""The commands of approved runs that go on without a terminal: serve and cancel."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from flowplan import interruption
from flowplan.commands.arguments import seconds
from flowplan.commands.places import place, settled
from flowplan.documents import unknown_address
from flowplan.output import Output
from flowplan.planner.compare.plan import names
from flowplan.project import writing
from flowplan.schemas.errors import InvalidInput, StateError
from flowplan.schemas.files import Unreadable, read_bounded
from flowplan.schemas.sources import Diagnostic
from flowplan.serve.health import Health
from flowplan.state.acceptance import drop, unbegun
from flowplan.state.location import Location
from flowplan.state.store import Store

LOCAL = ("127.0.0.1", "::1", "localhost")
MOST_TOKEN = 4096


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
        from flowplan.serve import api, metrics, server
    except ImportError as error:
        raise InvalidInput(
            f"answering over HTTP needs the package {error.name}, which is not installed",
            hint="pip install 'flowplan[serve]', or --listen none",
        ) from error
    host, port = _address(listen)
    token = _token(how.token_file) if how.token_file else ""
    if host not in LOCAL and not token:
        raise InvalidInput(
            [Diagnostic(f"{host} can be reached from outside, and everybody could read there", subject="--listen",
                        hint="--token-file names a file with a token that readers have to show; or listen on 127.0.0.1")]
        )  # fmt: skip
    if bool(how.certificate) != bool(how.key):
        raise InvalidInput("--tls-cert and --tls-key belong together", hint="give both, or neither")

    def opened() -> Store:
        return locate().open(read_only=True)

    numbers = metrics.Metrics(opened, health)
    numbers.begin()
    hosts = frozenset({*LOCAL, host.lower(), *(name.lower() for name in how.hosts)})
    service = api.Service(opened, health, numbers, hosts, token, secure=how.certificate is not None)
    with server.serving(service.application(), (host, port), how.certificate, how.key) as bound:
        shown = f"[{host}]" if ":" in host else host
        Output().note(f"answering on http{'s' if how.certificate else ''}://{shown}:{bound}")
        yield


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        hint = "write ADDRESS:PORT, such as 127.0.0.1:8470, or none"
        raise InvalidInput([Diagnostic(f'"{text}" is no address', subject="--listen", hint=hint)])
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
        raise InvalidInput([Diagnostic(f"{file} cannot be read: {why}", subject="--token-file")]) from error
    if others and file.stat().st_uid == os.getuid():
        hint = f"chmod 600 {file}"
        raise InvalidInput([Diagnostic(f"{file} may be read by others", subject="--token-file", hint=hint)])
    if len(token) < 16 or any(not c.isascii() or not c.isprintable() or c.isspace() for c in token):
        hint = "write one with `openssl rand -hex 32`"
        raise InvalidInput(
            [Diagnostic(f"{file} holds no token of 16 or more letters and digits", subject="--token-file", hint=hint)]
        )
    return token


def cancel(state: Location, addresses: Sequence[str], plan: str | None, lock_timeout: str) -> int:
    """Drop what has been approved and has not started, of some runs or of one plan.

    Raises:
        InvalidInput: nothing is named, or what is named waits for nothing.
        StateLocked: another flowplan is starting things.
    """
    if not addresses and not plan:
        raise InvalidInput(
            "nothing is named", hint="`flowplan cancel ADDR ...`, or --plan DIGEST; `flowplan status` shows what waits"
        )
    with writing(state, "cancel") as lock:
        lock.acquire(seconds("--lock-timeout", lock_timeout) or 0.0)
        with closing(state.open()) as store:
            chosen = _waiting(store, addresses, plan)
            gone = drop(store, chosen, "cancelled")
    Output().note(f"Cancelled: {', '.join(gone)}" if gone else "Nothing waits there.")
    return 0


def _waiting(store: Store, addresses: Sequence[str], plan: str | None) -> Collection[str]:
    """Return the addresses of steps that have not begun and are meant."""
    open_ = [(digest, step) for digest, step in unbegun(store) if plan is None or _is(digest, plan)]
    if plan and not open_:
        raise InvalidInput(f"no plan {plan} waits", hint="`flowplan status` shows what waits, and for which plan")
    for pattern in addresses:
        if not any(names(pattern, step.address, step.group) for _, step in open_):
            known = {record.address for record in store.records().values()}
            if any(names(pattern, address, address.partition("[")[0]) for address in known):
                raise InvalidInput(
                    f"{pattern} does not wait: it has started or ended",
                    hint="`flowplan destroy --target` stops what runs",
                )
            raise unknown_address(pattern, {step.address for _, step in open_} | known)
    meant = [
        step.address for _, step in open_ if not addresses or any(names(p, step.address, step.group) for p in addresses)
    ]
    return meant


def _is(digest: str, shown: str) -> bool:
    """Return whether a digest is meant by the beginning that people are shown."""
    return digest.startswith(shown) or digest.removeprefix("sha256:").startswith(shown)
