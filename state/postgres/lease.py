"""The writer's lock: a row that says who may write, with a token that grows, until a time by the server's clock."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

from flowplan.schemas.errors import LockLost, StateError, StateLocked
from flowplan.schemas.faults import point
from flowplan.state.holder import about_me, understood, words
from flowplan.state.location import WRITE, Lock
from flowplan.state.postgres.session import Session, Statement

if TYPE_CHECKING:
    from flowplan.state.postgres.location import DatabaseLocation

SECONDS = 30
"""How long the lock stays with a holder that renews it no more."""
RENEW_EVERY = 8.0
RETRY_EVERY = 1.0
"""Seconds between renewals, and between tries when one failed."""
POLL_SECONDS = 0.5

_TAKE = f"""
INSERT INTO flowplan.leases AS l (project, environment, purpose, token, until, holder)
VALUES (%s, %s, %s, 1, clock_timestamp() + interval '{SECONDS} s', %s)
ON CONFLICT (project, environment, purpose) DO UPDATE
SET token = l.token + 1, until = excluded.until, holder = excluded.holder
WHERE l.until <= clock_timestamp() OR l.holder = excluded.holder RETURNING token
"""
_OURS = "WHERE project = %s AND environment = %s AND purpose = %s"
_RENEW = (
    f"UPDATE flowplan.leases SET until = clock_timestamp() + interval '{SECONDS} s' {_OURS}"
    " AND token = %s AND until > clock_timestamp() RETURNING 1"
)
_GIVE_BACK = f"UPDATE flowplan.leases SET until = '-infinity', holder = '' {_OURS} AND token = %s"
_HOLDER = f"SELECT holder FROM flowplan.leases {_OURS} AND until > clock_timestamp()"
_BREAK = (
    "WITH was AS (SELECT project, environment, purpose, holder FROM flowplan.leases"
    f" {_OURS} AND until > clock_timestamp() FOR UPDATE)"
    " UPDATE flowplan.leases l SET token = l.token + 1, until = '-infinity', holder = '' FROM was"
    " WHERE l.project = was.project AND l.environment = was.environment AND l.purpose = was.purpose RETURNING was.holder"
)
_CHECK = f"SELECT token = %s AND until > clock_timestamp(), holder FROM flowplan.leases {_OURS} FOR SHARE"

Key = tuple[str, str]
"""Project and environment."""


class Lease(Lock):
    """The lock of one state. A thread renews it while it is held; each transaction of the holder looks at its token.

    Whoever lost it (frozen, or cut off for longer than it lasts) writes nothing more, because of the token, and starts
    nothing more, because of its own clock, which counts the time in which the machine sleeps as well.

    Args:
        location: of the state. The lock has a connection of its own, which the thread that renews uses.
    """

    def __init__(self, location: DatabaseLocation, command: str, purpose: str = WRITE) -> None:
        self._location, self._command, self._purpose = location, command, purpose
        self._session = Session(location.address)
        self.key: Key = ("", "")
        self._token: int | None = None
        self._until = 0.0
        self._lost = ""
        self._using = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, timeout: float = 0) -> None:
        """Take the lock, waiting up to ``timeout`` seconds.

        Raises:
            StateLocked: another process has it; the message names who.
            StateError: the server cannot be used.
        """
        deadline = time.monotonic() + timeout
        self._location.prepare()
        self.key = self._location.key
        note = json.dumps(about_me(self._command))
        while True:
            began = _now()
            found = self._session.ask(_TAKE, *self._row, note)  # again if need be: no other call has this note
            if found:
                break
            if time.monotonic() >= deadline:
                hint = "wait for it with --lock-timeout, e.g. --lock-timeout 10m"
                by = words(holder(self._session, self.key, self._purpose) or {})
                raise StateLocked(f"the state {self._location} is locked by {by}", hint=hint)
            time.sleep(min(POLL_SECONDS, max(deadline - time.monotonic(), 0.0)))
        self._token, self._until, self._lost = int(found[0][0]), began + SECONDS, ""
        point("lock:acquire:after")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, args=(self._token, self._stop), daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the lock back; where the server cannot be reached it ends by itself."""
        if self._token is None:
            return
        token, self._token = self._token, None
        self._stop.set()
        point("lock:release:before")
        ended = _now() >= self._until  # nothing to give back, and a renewal may wait for a server that is silent
        if self._using.acquire(timeout=0 if ended else RENEW_EVERY):
            for _ in range(0 if ended else 2):  # the connection may have been lost since it was used last
                try:
                    self._session.do(_GIVE_BACK, *self._row, token)
                    break
                except StateError:
                    self._session.close()  # it ends by itself within SECONDS
            self._session.close()
            self._using.release()
        point("lock:release:after")

    @property
    def _row(self) -> tuple[str, str, str]:
        return (*self.key, self._purpose)

    @property
    def held(self) -> bool:
        """Return whether it was acquired, and not released since."""
        return self._token is not None

    def check(self) -> None:
        """Do nothing unless the lock was lost since it was acquired.

        Raises:
            LockLost: it was, so that another process may act by now.
        """
        if self._token is not None and (self._lost or _now() >= self._until):
            raise self.lost(self._lost or f"it could not be renewed for {SECONDS} s")

    def lost(self, why: str) -> LockLost:
        """Return the error that ends a command which has lost the lock."""
        self._lost = why
        return LockLost(
            f"the lock of the state {self._location} was lost: {why}; nothing more was written or started",
            hint="what was started goes on; `flowplan apply` goes on from there",
        )

    def fence(self) -> Statement:
        """Return the statement of which the rows say whether this is still the newest holder, see ``fenced``."""
        return _CHECK, (self._token, *self._row)

    def fenced(self, rows: list[Any]) -> None:
        """Refuse to go on in a transaction whose ``fence`` had these rows.

        Raises:
            LockLost: another process has the lock, or had it.
        """
        if not rows or not rows[0][0]:
            by = understood(rows[0][1]) if rows else {}
            raise self.lost(f"now {words(by)} has it" if by else "it ended, or `flowplan state unlock` took it away")

    def _renew(self, token: int, stop: threading.Event) -> None:
        wait = RENEW_EVERY
        while not stop.wait(wait):
            began = _now()
            try:
                with self._using:
                    if stop.is_set():
                        return
                    found = self._session.do(_RENEW, *self._row, token)
            except StateError:
                wait = RETRY_EVERY  # until ``check`` finds that too much time has passed
                continue
            if not found:
                self._lost = "another process has it, or had it"
                return
            self._until, wait = began + SECONDS, RENEW_EVERY


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def holder(session: Session, key: Key, purpose: str = WRITE) -> dict[str, Any] | None:
    """Return who has the lock, {} when the holder is not known; None when it is free."""
    found = session.ask(_HOLDER, *key, purpose)
    return understood(found[0][0]) if found else None


def take_away(session: Session, key: Key) -> dict[str, Any] | None:
    """End the right of the holder, who writes nothing from now on; return who that was, None when the lock was free."""
    found = session.do(_BREAK, *key, WRITE)
    return understood(found[0][0]) if found else None
