"""What an apply knows of each run while it works: a picture of the state that wakes what waited for a change of it."""

from __future__ import annotations

from flowplan.schedule import Schedule
from flowplan.schemas.runs import Recorded, Status


class Ledger:
    """The newest record of each address.

    Attributes:
        records: address -> record; by_run: run id -> address; live: those that have not ended; limited: live ones with a
        time limit; groups: name of a matrix -> addresses of its live cells; unborn: those that another flowplan starts.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self.records: dict[str, Recorded] = {}
        self.by_run: dict[str, str] = {}
        self.live: dict[str, Recorded] = {}
        self.limited: dict[str, Recorded] = {}
        self.groups: dict[str, set[str]] = {}
        self.unborn: set[str] = set()

    def keep(self, record: Recorded) -> None:
        """The record of an address is this one from now on; what waited for it may go on."""
        address = record.address
        if address in self.live and not record.status.live:
            self._not_live(address)
        self.records[address] = record
        self.by_run[record.run_id] = address
        if record.status.live:
            self.live[address] = record
            self.groups.setdefault(record.settings.group, set()).add(address)
            if record.settings.start_timeout is not None or record.settings.timeout is not None:
                self.limited[address] = record
        self._schedule.wake(address)

    def _not_live(self, address: str) -> None:
        group = self.live.pop(address).settings.group
        self.limited.pop(address, None)
        self.groups[group].discard(address)
        self._schedule.wake_one(group_key(group))

    def drop(self, address: str) -> None:
        """There is no record at an address any more."""
        self.records.pop(address, None)
        if address in self.live:
            self._not_live(address)
        self._schedule.wake(address)

    def creating(self) -> set[str]:
        """The run ids of intents of which nobody knows yet what became of them."""
        return {r.run_id for r in self.records.values() if r.status is Status.CREATING}


def group_key(group: str) -> str:
    """What steps wait for that may not start while so many of their group run; no address is like it."""
    return f"\0{group}"
