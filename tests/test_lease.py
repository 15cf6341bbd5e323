"""The writer's lock of a state in a database: who lost it writes and starts nothing more; what a lost connection does."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from projects import until
from stores import record, sql

from flowplan.schemas.errors import LockLost, StateError, StateLocked
from flowplan.state import ownership
from flowplan.state.location import Location, located
from flowplan.state.postgres import address, lease, session

pytestmark = pytest.mark.postgres


class Places:
    """The location of one state, as each of several commands has it."""

    def __init__(self, directory: Path) -> None:
        self.project = f"lease-{uuid.uuid4().hex[:8]}"
        self.url = f"{os.environ['POSTGRES']}?project={self.project}"
        self._directory = directory
        self.made: list[Location] = []

    def __call__(self, url: str = "") -> Location:
        self.made.append(located(url or self.url, self._directory / "state.db"))
        return self.made[-1]

    def close(self) -> None:
        for one in self.made:
            one.close()
        for table in ("states", "leases"):
            sql(f"DELETE FROM flowplan.{table} WHERE project = %s", self.project)

    def expire(self) -> None:
        """Let the lock of whoever has it end, as after 30 s without a renewal."""
        sql("UPDATE flowplan.leases SET until = clock_timestamp() WHERE project = %s", self.project)


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    made = Places(tmp_path)
    made().open(create=True).close()
    yield made
    made.close()


def test_one_has_it_and_is_named(places: Places) -> None:
    one, other = places(), places()
    with closing(one.open()), closing(other.open()):
        mine, theirs = one.lock("apply"), other.lock("destroy")
        mine.acquire()
        with pytest.raises(StateLocked, match=f"locked by apply of .*pid {os.getpid()}"):
            theirs.acquire(0.1)
        assert (other.holder() or {})["command"] == "apply"
        mine.release()
        theirs.acquire()
        mine.check()
        theirs.release()
        assert other.holder() is None


def test_who_lost_it_writes_nothing_more(places: Places) -> None:
    one, other = places(), places()
    with closing(one.open()) as store, closing(other.open()) as theirs:
        mine = one.lock("apply")
        mine.acquire()
        store.intend([record(store, "a")])
        places.expire()
        second = other.lock("apply")
        second.acquire()
        theirs.intend([record(theirs, "b")])
        with pytest.raises(LockLost, match=r"now apply of .* has it|another process has it"):
            store.intend([record(store, "c")])
        with pytest.raises(LockLost):
            mine.check()
        assert list(theirs.records()) == ["a", "b"]
        mine.release()
        theirs.intend([record(theirs, "d")])
        second.release()


def test_an_unlocked_holder_is_fenced(places: Places) -> None:
    one, other = places(), places()
    with closing(one.open()) as store:
        mine = one.lock("apply")
        mine.acquire()
        assert (other.break_lock() or {})["command"] == "apply"
        assert other.break_lock() is None
        with pytest.raises(LockLost, match="took it away"):
            store.intend([record(store, "a")])
        assert store.records() == {}
        mine.release()


def test_a_holder_that_was_frozen_starts_nothing_more(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    one = places()
    mine = one.lock("apply")
    mine.acquire()
    mine.check()
    now = lease._now()
    monkeypatch.setattr(lease, "_now", lambda: now + lease.SECONDS)
    with pytest.raises(LockLost, match="could not be renewed"):
        mine.check()
    mine.release()


def test_it_is_renewed(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_EVERY", 0.05)
    one = places()
    mine = one.lock("apply")
    mine.acquire()
    query = "SELECT until FROM flowplan.leases WHERE project = %s"
    before = sql(query, places.project)
    while sql(query, places.project) == before:
        pass
    mine.check()
    mine.release()


def backends(project: str) -> int:
    """End the connections of this test to the database, as an operator or a restart does; return how many there were."""
    return len(sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", project))


def test_an_idle_connection_that_is_lost_is_made_anew(places: Places) -> None:
    one = places(f"{places.url}&application_name={places.project}")
    with closing(one.open()) as store:
        mine = one.lock("apply")
        mine.acquire()
        store.intend([record(store, "a")])
        assert backends(places.project) == 2
        assert list(store.records()) == ["a"]
        assert backends(places.project) >= 1
        store.intend([record(store, "b")])
        assert list(store.records()) == ["a", "b"]
        mine.release()


def test_a_transaction_goes_on_in_a_new_connection(places: Places) -> None:
    one = places(f"{places.url}&application_name={places.project}")
    with closing(one.open()) as store:
        with store.changing("test") as journal:
            journal.put([record(store, "a")])
            backends(places.project)
            assert list(store.records()) == ["a"]
            journal.put([record(store, "b")])
            backends(places.project)
        assert list(store.records()) == ["a", "b"] and store.serial == 1


def test_it_does_not_go_on_over_what_another_wrote_meanwhile(places: Places) -> None:
    one, other = places(f"{places.url}&application_name={places.project}"), places()
    with closing(one.open()) as store, closing(other.open()) as theirs:
        with pytest.raises(StateError, match="changed by another process"), store.changing("test") as journal:
            journal.put([record(store, "a")])
            assert store.run_ids()
            backends(places.project)
            theirs.intend([record(theirs, "b")])
        assert list(store.records()) == ["b"] and store.serial == 1


def test_a_commit_whose_answer_was_lost_is_not_done_twice(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    one = places(f"{places.url}&application_name={places.project}")
    with closing(one.open()) as store:
        together = session._sent

        def sent(connection: Any, statement: Any) -> Any:
            cursor = together(connection, statement)
            if statement[0] == "COMMIT":
                monkeypatch.undo()
                connection.execute("SELECT 1").fetchall()
                backends(places.project)
            return cursor

        monkeypatch.setattr(session, "_sent", sent)
        assert len(store.add([record(store, "a")])) == 1
        assert len(list(store.events())) == 1 and store.serial == 1


def test_states_of_other_projects_are_out_of_reach(places: Places, tmp_path: Path) -> None:
    other = Places(tmp_path)
    with closing(places().open()) as store, closing(other().open(create=True)) as theirs:
        store.intend([record(store, "a")])
        assert theirs.records() == {} and theirs.serial == 0
        theirs.intend([record(theirs, "a")])
        ownership.start_lineage(theirs)
        assert theirs.records() == {} and list(store.records()) == ["a"] and store.serial == 1
    other.close()


def test_a_transaction_says_which_state_it_is_about(places: Places) -> None:
    with pytest.raises(Exception, match=r"flowplan\.state|bigint"):
        sql("SELECT * FROM flowplan.attempts")


def test_it_is_given_back_in_a_new_connection(places: Places) -> None:
    one = places(f"{places.url}&application_name={places.project}")
    mine = one.lock("apply")
    mine.acquire()
    assert backends(places.project) == 2
    mine.release()
    assert places().holder() is None


def test_the_server_ends_a_transaction_whose_client_falls_silent() -> None:
    """Else a writer that is frozen in its midst would hold up everybody for as long as it is."""
    silent = "SELECT set_config('idle_in_transaction_session_timeout', '100ms', true), pg_backend_pid()"
    one = session.Session(address.read(os.environ["POSTGRES"]))
    with pytest.raises(StateError), one.transaction((silent, ())) as rows:
        until(lambda: not sql("SELECT 1 FROM pg_stat_activity WHERE pid = %s", rows[0][0][1]))
    one.close()
