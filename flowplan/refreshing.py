"""Record what the engines say now: statuses, ends, and the last output of runs that ended while nothing followed them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from flowplan.engines import ManifestsByType
from flowplan.left import followed_by
from flowplan.outputs import tail_of, without_secrets_of_runs
from flowplan.planner.compare.ownership import refuse_strangers
from flowplan.planning import observe
from flowplan.project import Project
from flowplan.schemas.errors import ProviderError, Refused, StateFull
from flowplan.schemas.lifecycle import told
from flowplan.schemas.runs import Observed, Recorded, Status

WORKERS = 10


def refresh(project: Project) -> None:
    """Record what the engines say now; runs of one that does not answer stay as recorded, with a warning.

    Warn too when the engines hold runs of the project that are not in its state: what is shown is not all.
    """
    store, output = project.store, project.output()
    by_provider: dict[str, dict[str, Recorded]] = {}
    for address, record in store.records().items():
        by_provider.setdefault(record.provider, {})[address] = record
    for name, records in by_provider.items():
        try:
            seen, strangers = observe(project, records)
            try:
                refuse_strangers(store.project or "", strangers, records, seen, ManifestsByType())
            except Refused as error:
                output.note(f"warning: {error.message} ({error.hint})")
            if not store.read_only:
                # Whoever has the lock may be stopping the runs, and a follower may hear how exactly they ended.
                others, followed = store.location.holder() is not None, bool(followed_by(store))
                theirs = [one for one in seen.values() if one.over and (others or (followed and one.exit_code is None))]
                _record(project, [one for one in seen.values() if one not in theirs])
        except ProviderError as error:
            output.note(f"warning: provider {name} cannot be asked, showing what is recorded of its runs: {error}")
        except StateFull as error:
            output.note(f"warning: {error.message}; showing what was recorded before")


def _record(project: Project, seen: Sequence[Observed]) -> None:
    """Record a bulk look at the engines; for every run that ended, the tail of its output too."""
    store, engines, redactor = project.store, project.engines, project.redactor
    known = {record.run_id: record for record in store.records().values()}
    meant = (told(known[one.run_id], one) if one.run_id in known else one for one in seen)
    heard = [without_secrets_of_runs(engines, known.get(one.run_id), one, redactor) for one in meant]
    ended = [event.run_id for event in store.observe(heard) if Status(event.status).settled]
    records = [record for run_id in ended for record in store.attempts(run_id=run_id)]
    if records:
        with ThreadPoolExecutor(WORKERS) as pool:
            texts = pool.map(lambda record: tail_of(engines, record, redactor), records)
            store.set_tails({r.run_id: text for r, text in zip(records, texts, strict=True) if text})
