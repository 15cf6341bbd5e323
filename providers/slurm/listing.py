"""What is in the queue, asked for all runs at once, and what accounting knows of jobs that have left it."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Collection, Sequence

from flowplan.providers.protocol import IMPORTED, Context
from flowplan.providers.slurm import arrays, jobs
from flowplan.providers.slurm.commands import Commands
from flowplan.providers.slurm.jobs import Job
from flowplan.schemas.errors import EngineUnreachable, ProviderError
from flowplan.schemas.runs import Recorded

FRESH = 1.0
"""Seconds for which one look at the queue serves all that follow an output."""

AT_ONCE = 5000
"""Jobs that sacct is asked for in one command, whose arguments are limited."""

_SEPARATOR = "\x1e\n"


class Look:
    """The queue at one moment.

    Attributes:
        jobs: all of them, those that ended lately too; ours: run id -> job, of our lineage and user.
        kept: the run ids that have a directory.
    """

    def __init__(self, listed: Sequence[Job], kept: Collection[str], lineage: str, user: str) -> None:
        self.jobs, self.kept = listed, frozenset(kept)
        own = [job for job in listed if job.labels.get(jobs.LINEAGE) == lineage and job.told["UserName"] == user]
        self.ours = jobs.by_run(own)
        self._by_id = {job.id: job for job in listed}

    def of(self, record: Recorded) -> Job | None:
        """Return the job of a record: by its identity, or by its number where it has none any more, or never had.

        Numbers are used again some day; a job that was submitted before is another one.
        """
        if not record.handle.get(IMPORTED) and (known := self.ours.get(record.run_id)):
            return known
        job, submitted = self._by_id.get(str(record.handle.get("job", ""))), str(record.handle.get("submitted", ""))
        return job if job and not job.run_id and str(jobs.handle(job)["submitted"]) >= submitted else None


class Listing:
    """Asks for the queue of one user."""

    def __init__(self, commands: Commands, context: Context) -> None:
        self._commands, self._context = commands, context
        self._lock = threading.Lock()
        self._last: tuple[float, Look] | None = None

    def look(self, *, everybody: bool = False) -> Look:
        """Ask squeue, and list the directories of runs, in one command; of ``everybody`` where that is wanted."""
        site = self._commands.site
        whose = "" if everybody else f" --user={shlex.quote(site.user)}"
        script = f"ls -1 -- \"$1\" 2>/dev/null; printf '\\036\\n'; {jobs.SQUEUE}{whose}"
        names, _, lines = self._commands.run(script, site.directory).partition(_SEPARATOR)
        listed = arrays.named(jobs.queued(lines), self._commands)
        look = Look(listed, names.split(), self._context.lineage, site.user)
        with self._lock:
            self._last = time.monotonic(), look
        return look

    def has_ended(self, record: Recorded) -> bool:
        """Return whether a job has ended, by a look that all followers share."""
        with self._lock:
            last = self._last
        job = last[1].of(record) if last and time.monotonic() - last[0] < FRESH else None
        if job is None:  # it may have been submitted since
            job = self.look().of(record)
        return job.over if job else record.status.final or "job" in record.handle

    def is_here(self, job: Job, project: str) -> bool:
        """Return whether a job is of a project in this environment."""
        found = (job.labels.get(jobs.PROJECT), job.labels.get(jobs.ENVIRONMENT, ""))
        return found == (project, self._context.environment)

    def accounted(self, ids: Sequence[str]) -> dict[str, Job]:
        """Return what accounting knows of jobs, by their numbers; nothing where there is no accounting."""
        found: dict[str, Job] = {}
        for start in range(0, len(ids), AT_ONCE):
            try:
                told = self._commands.run(f'exec {jobs.SACCT} --jobs="$1"', ",".join(ids[start : start + AT_ONCE]))
            except EngineUnreachable:
                raise
            except ProviderError as error:
                if "accounting storage is disabled" in error.message.lower():
                    return {}
                raise
            found |= {job.id: job for job in jobs.accounted(told)}
        return found
