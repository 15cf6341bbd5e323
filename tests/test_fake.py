"""The engine in memory, where the contract suite does not look: its clock, its silence, and what others put on it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest

from flowplan.planner.manifests import Manifests, ResolvedRun, fake
from flowplan.providers.fake import FakeEngine, FakeProvider, Line, Script
from flowplan.providers.protocol import IMPORTED, Context, Order
from flowplan.schemas.errors import EngineUnreachable
from flowplan.schemas.runs import Identity, Observed, Recorded, Settings, Status

LINEAGE = "11111111-1111-4111-8111-111111111111"


def play(command: Sequence[str], env: Mapping[str, str]) -> Script:
    return Script((Line("begins"), Line("ends", after=9.0)), seconds=10.0)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(play)


def connected(engine: FakeEngine, project: str = "p", lineage: str = LINEAGE) -> FakeProvider:
    return engine.connect(Context(lineage, Path(), project=project))


def order(address: str = "a", *, lineage: str = LINEAGE, **fields: object) -> Order:
    run = ResolvedRun(address, address, 0, "fake", "fake", {"command": ["work"], **fields})
    identity = Identity("p", lineage, address, 1)
    rendered = cast(Manifests, fake).render(run, identity)
    return Order(identity, rendered.name, rendered.objects, Settings(address))


def record_of(made: Order, seen: Observed) -> Recorded:
    return Recorded(
        made.identity.address, "fake", "fake", {}, 1, made.identity.run_id, made.name, made.objects, made.settings,
        Status.RUNNING, handle=seen.handle,
    )  # fmt: skip


def test_a_run_ends_when_time_is_moved_on(engine: FakeEngine) -> None:
    provider, made = connected(engine), order()
    record = record_of(made, provider.create(made))
    [seen] = provider.observe([record])
    assert (seen.status, [line.text for line in provider.logs(record, follow=False, tail=None)]) == (
        Status.RUNNING,
        ["begins"],
    )
    engine.clock.sleep(10)
    [seen] = provider.observe([record])
    assert (seen.status, seen.exit_code, seen.finished_at) == (Status.SUCCEEDED, 0, provider.now().isoformat())
    assert [line.text for line in provider.logs(record, follow=True, tail=1)] == ["ends"]


def test_a_silent_engine_is_told_of_and_heard_again(engine: FakeEngine) -> None:
    provider, made = connected(engine), order()
    record = record_of(made, provider.create(made))
    engine.silent = "fake does not answer"
    with pytest.raises(EngineUnreachable):
        provider.observe([record])
    watch = provider.watch([record], threading.Event())
    assert isinstance(next(watch), EngineUnreachable)
    engine.silent = ""
    assert next(one for one in watch if isinstance(one, Observed)).status is Status.RUNNING


def test_labels_change_in_place_and_the_content_stays(engine: FakeEngine) -> None:
    provider, made = connected(engine), order()
    record = record_of(made, provider.create(made))
    seen = provider.update(record, order(labels={"team": "data"}), [])
    assert seen.live is not None and seen.live["Fake"]["labels"]["team"] == "data"
    assert seen.content == provider.create(made).content


def test_runs_of_other_states_are_told_while_planning(engine: FakeEngine) -> None:
    other = LINEAGE.replace("1", "2")
    connected(engine, lineage=other).create(order(lineage=other))
    assert connected(engine).observe([]) == []
    assert [seen.lineage for seen in connected(engine).observe([], wanted=[])] == [other]
    assert connected(engine, project="q").observe([], wanted=[]) == []


def test_what_somebody_else_started_can_be_taken_over(engine: FakeEngine) -> None:
    engine.start("theirs", {"Fake": {"command": ["work"], "env": {}, "labels": {}}})
    provider, made = connected(engine), order()
    found = provider.describe("theirs")
    assert (found.seen.run_id, found.lineage, found.seen.handle[IMPORTED]) == ("", "", True)
    record = record_of(made, found.seen)
    [seen] = provider.observe([record])
    assert (seen.run_id, seen.status) == (made.identity.run_id, Status.RUNNING)
    provider.delete(record, 1.0)
    assert not engine.runs


def test_the_contract_suite_takes_the_case_of_a_provider_from_elsewhere(tmp_path: Path) -> None:
    contract = Path(__file__).with_name("contract")
    (tmp_path / "mine_case.py").write_text((contract / "fake_case.py").read_text())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", contract, "-k", "adopts", "-p", "no:cacheprovider", "-vv"],
        check=False,
        env={**os.environ, "FLOWPLAN_CONTRACT_CASE": str(tmp_path / "mine_case.py")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_creating_again_adopts[mine] PASSED" in done.stdout
    assert "[process]" not in done.stdout
