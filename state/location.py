"""Where a state is, in a file or on a server, and the interface of what can be done with it from outside."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowplan.schemas.errors import InvalidInput

if TYPE_CHECKING:
    from flowplan.state.store import Store


WRITE, FOLLOW = "write", "follow"
"""What a lock is for."""


class Lock(ABC):
    """The right to create, change or delete things of one state; one process has it at a time."""

    @abstractmethod
    def acquire(self, timeout: float = 0) -> None:
        """Take the lock, waiting up to ``timeout`` seconds.

        Raises:
            StateLocked: another process has it; the message names who.
            StateError: it cannot be taken.
        """

    @abstractmethod
    def release(self) -> None:
        """Give the lock back; without one, nothing happens."""

    @property
    @abstractmethod
    def held(self) -> bool:
        """Return whether it was acquired, and not released since."""

    @abstractmethod
    def check(self) -> None:
        """Do nothing unless the lock was lost since it was acquired.

        Raises:
            StateLocked: it was, so that another process may act by now.
        """


class Location(ABC):
    """Where a state is. ``str()`` gives it as people read it, without a password.

    Attributes:
        beside: the path beside which its plans lie on this host; of a file the file itself.
        secrets: what must not be shown, such as a password that was given with it.
    """

    beside: Path
    secrets: Sequence[str] = ()

    @property
    @abstractmethod
    def runs_dir(self) -> Path:
        """Return the directory of the files of its processes on this host."""

    @abstractmethod
    def exists(self) -> bool:
        """Return whether there is something, be it usable or not.

        Raises:
            StateError: that cannot be seen.
        """

    @abstractmethod
    def open(
        self,
        *,
        create: bool = False,
        read_only: bool = False,
        born: tuple[str, bytes] | None = None,
        anywhere: bool = False,
    ) -> Store:
        """Open the state; with ``create`` make an empty one where there is none.

        Args:
            born: lineage and key of the state if it is made now, see ``new_identity``.
            anywhere: True to open a copy of a state, too; what is opened for reading only may be one.

        Raises:
            StateError: there is none, or it cannot be used; the message says the way back.
            Refused: it is a copy of a state that may still be used.
        """

    @abstractmethod
    def writable(self) -> bool:
        """Return False when it is known that this user cannot write there."""

    @abstractmethod
    def lock(self, command: str, purpose: str = WRITE) -> Lock:
        """Return a lock, not acquired yet.

        Args:
            command: the flowplan command's word, shown to others: ``apply``. Never arguments.
            purpose: ``WRITE`` for the writer's lock, ``FOLLOW`` for that of the one follower that works.
        """

    @abstractmethod
    def holder(self, purpose: str = WRITE) -> Mapping[str, Any] | None:
        """Return who has a lock, the writer's or another: command, user, host, pid, since...; None when it is free.

        A holder that is not known gives ``{}``.
        """

    @abstractmethod
    def break_lock(self) -> Mapping[str, Any] | None:
        """Take the lock away from its holder; return who that was, None when it was free.

        Raises:
            Refused: the holder may be alive, and could not be kept from writing.
        """

    @abstractmethod
    def upgrade(self) -> tuple[int, int]:
        """Bring the state to the newest format; return the format before and after.

        Raises:
            StateError: it is newer than this flowplan, or this user may not change it.
        """

    @abstractmethod
    def grants(self, roles: Mapping[str, str]) -> list[str]:
        """Return the statements that give users of a database what they need: name -> writer, planner or reader.

        Raises:
            InvalidInput: the state is not in a database.
        """

    @abstractmethod
    def named(self) -> str:
        """Return what ``--state`` takes to name it from anywhere; without a password."""

    @abstractmethod
    def anew(self) -> Location:
        """Return the same place, for another thread."""

    @abstractmethod
    def same(self, other: Location) -> bool:
        """Return whether another one is the same place."""

    @abstractmethod
    def another(self, name: str) -> str:
        """Return how to give a spec of this name a state of its own, as a hint."""

    def close(self) -> None:  # noqa: B027 - a file is open only within a store
        """End the connections of this process to it."""

    @abstractmethod
    def belongs_to(self, project: str, environment: str) -> None:
        """Say which project, and which environment of it, it is about: a database holds the states of many.

        Raises:
            Refused: it was named as that of another one.
        """


class FileLocation(Location):
    """A state in a file of SQLite."""

    def __init__(self, path: Path) -> None:
        self.beside = self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def runs_dir(self) -> Path:
        return self.path.absolute().with_suffix(".runs")

    def exists(self) -> bool:
        from flowplan.state.sqlite.store import SqliteStore

        return SqliteStore.exists(self.path)

    def open(self, **how: Any) -> Store:
        from flowplan.state.sqlite.store import SqliteStore

        return SqliteStore.open(self.path, **how)

    def writable(self) -> bool:
        return not self.exists() or (os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK))

    def lock(self, command: str, purpose: str = WRITE) -> Lock:
        from flowplan.state.sqlite.lock import WriterLock

        return WriterLock(self._lock_of(purpose), command)

    def holder(self, purpose: str = WRITE) -> Mapping[str, Any] | None:
        from flowplan.state.sqlite.lock import holder

        return holder(self._lock_of(purpose))

    def _lock_of(self, purpose: str) -> Path:
        return self.path if purpose == WRITE else self.path.with_name(f"{self.path.name}.{purpose}")

    def break_lock(self) -> Mapping[str, Any] | None:
        from flowplan.state.sqlite.lock import break_lock

        return break_lock(self.path)

    def upgrade(self) -> tuple[int, int]:
        from flowplan.state.sqlite.store import SqliteStore

        return SqliteStore.upgrade(self.path)

    def grants(self, roles: Mapping[str, str]) -> list[str]:
        raise InvalidInput(f"the state {self} is a file, which has no roles", hint="--state names one in a database")

    def named(self) -> str:
        return str(self.path.absolute())

    def anew(self) -> Location:
        return self

    def same(self, other: Location) -> bool:
        return isinstance(other, FileLocation) and self.path.resolve() == other.path.resolve()

    def belongs_to(self, project: str, environment: str) -> None:
        pass  # a file holds one state, which knows its project

    def another(self, name: str) -> str:
        return f"give each spec a state of its own, such as --state {self.path.with_name(name + '.db')}"


SCHEMES = ("postgresql://", "postgres://")
"""How the address of a database begins."""


def located(text: str, beside: Path, spec: Path | None = None, environment: str = "") -> Location:
    """Return the location that a user names: the path of a file, or the URL of a database.

    Args:
        beside: the path beside which the plans of a state in a database lie on this host.
        spec: says which project's state it is, where the URL does not; environment: which one's, "" for none.

    Raises:
        InvalidInput: it is neither.
        Refused: the URL is that of another environment.
        StateError: what speaks with the database is not installed.
    """
    if not text.startswith(SCHEMES):
        return FileLocation(Path(text))
    from flowplan.state.postgres.location import DatabaseLocation

    return DatabaseLocation(text, beside, spec, environment)
