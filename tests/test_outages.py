"""While a command waits for the output of a run, an engine that does not answer is told, once."""

from __future__ import annotations

from typing import Any

import pytest
from projects import until

from flowplan.commands import logs
from flowplan.schemas.errors import EngineUnreachable, ProviderError

RECORD: Any = type("Record", (), {"provider": "gpu"})()


class Engine:
    """Answers as it is told to, and counts the questions."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.asked = 0

    def observe(self, records: list[Any]) -> list[Any]:
        self.asked += 1
        if self.error:
            raise self.error
        return []


class Output:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "QUIET", 0.01)


def test_an_outage_is_told_once_and_that_it_is_over() -> None:
    engine, output = Engine(), Output()
    with logs.outages_told(engine, RECORD, output):  # type: ignore[arg-type]
        until(lambda: engine.asked > 2)
        assert output.notes == []
        engine.error = EngineUnreachable("the engine at x does not answer", hint="start it")
        before = engine.asked
        until(lambda: engine.asked > before + 5)
        engine.error = None
        until(lambda: len(output.notes) > 1)
        before = engine.asked
        until(lambda: engine.asked > before + 2)
    first, second = output.notes
    assert first.startswith("warning: the engine at x does not answer (start it); the run continues")
    assert second == "provider gpu answers again"


def test_a_refusal_is_no_outage() -> None:
    engine, output = Engine(), Output()
    engine.error = ProviderError("forbidden")
    with logs.outages_told(engine, RECORD, output):  # type: ignore[arg-type]
        until(lambda: engine.asked > 2)
    assert output.notes == []
