"""Looking at engines while another flowplan writes: what it starts meanwhile is never taken for something unknown."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flowplan.planning import observe
from flowplan.schemas.runs import Observed, Recorded, Settings, Status, run_id
from flowplan.state.sqlite.store import SqliteStore
from flowplan.state.store import Store


def attempt(store: Store, address: str) -> Recorded:
    return Recorded(
        address=address,
        provider="p",
        type="process",
        target={},
        attempt=1,
        run_id=run_id(store.lineage, address, 1),
        name=address,
        objects={"Process": {"argv": ["true"]}},
        settings=Settings(address),
        status=Status.CREATING,
    )


def test_a_run_that_another_flowplan_starts_meanwhile_is_not_unknown(tmp_path: Path) -> None:
    store, other = (SqliteStore.open(tmp_path / "state.db", create=True) for _ in range(2))

    def look(records: Any, wanted: Any) -> list[Observed]:
        """Answer as an engine on which another flowplan has just started what it intended."""
        started = attempt(other, "late")
        other.intend([started])
        seen = Observed(started.run_id, address="late", attempt=1, status=Status.RUNNING)
        return [seen, Observed("of nobody", address="gone", attempt=1, status=Status.RUNNING)]

    store.intend([attempt(store, "early")])
    engines: Any = SimpleNamespace(
        provider=lambda name: SimpleNamespace(observe=look),
        check_target=lambda *given: None,
        now=lambda name: None,
    )
    project: Any = SimpleNamespace(store=store, engines=engines)
    _, strangers = observe(project, store.records())
    assert [one.address for one in strangers] == ["gone"]
