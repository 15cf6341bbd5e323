"""What engines said is recorded: statuses, ends, and the last output of runs that ended unwatched."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from flowplan.engines import Engines
from flowplan.following import tail_of, without_secrets_of_runs
from flowplan.schemas.events import Event
from flowplan.schemas.runs import Observed, Recorded, Status
from flowplan.schemas.secrets import Redactor
from flowplan.state.store import Store

WORKERS = 10


def record_observed(store: Store, engines: Engines, seen: Sequence[Observed], redactor: Redactor) -> list[Event]:
    """Record a bulk look at the engines; for every run that ended, the tail of its output too."""
    known = {record.run_id: record for record in store.records().values()}
    told = [without_secrets_of_runs(engines, known.get(one.run_id), one, redactor) for one in seen]
    events = store.observe(told)
    ended = [e.run_id for e in events if Status(e.status).settled]
    records = [record for run_id in ended for record in store.attempts(run_id=run_id)]
    if records:
        store.set_tails(fetch_tails(engines, records, redactor))
    return events


def fetch_tails(engines: Engines, records: Sequence[Recorded], redactor: Redactor) -> dict[str, str]:
    """Run id -> the redacted last output, of those that have some."""
    with ThreadPoolExecutor(WORKERS) as pool:
        texts = pool.map(lambda record: tail_of(engines, record, redactor), records)
        return {record.run_id: text for record, text in zip(records, texts, strict=True) if text}
