"""Changing jobs that wait or run, and ending them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from flowplan.providers.protocol import IMPORTED, Order
from flowplan.providers.slurm import jobs, scripts
from flowplan.providers.slurm.commands import Commands
from flowplan.providers.slurm.jobs import Job
from flowplan.providers.slurm.listing import Listing
from flowplan.providers.slurm.submitting import Submitter
from flowplan.schemas.errors import EngineUnreachable, ProviderError
from flowplan.schemas.faults import point
from flowplan.schemas.plans import FieldChange
from flowplan.schemas.runs import Recorded

START_TIMEOUT = 10.0
"""Seconds that the script of a running job may take to begin before it is sent signals all the same."""

END_TIMEOUT = 120.0
"""Seconds that a job may take to end once it is killed: its node cleans up."""

_HINTS = {
    "denied": "a higher time limit takes an operator of the cluster",
    "no longer pending": "it has started meanwhile: plan again",
}
"""What Slurm says -> what to do."""


class Changer:
    """Changes and ends the jobs of one user."""

    def __init__(self, commands: Commands, submitter: Submitter, listing: Listing) -> None:
        self._commands, self._submitter, self._listing = commands, submitter, listing

    def update(self, record: Recorded, order: Order, fields: Sequence[FieldChange]) -> Job | None:
        """Change a job that has not ended, and return it as it is then.

        Raises:
            ProviderError: it is gone, or Slurm refuses.
        """
        job = self._find(record)
        if job is None:
            raise ProviderError("the job is gone", hint="plan again", address=record.address, reason="NotFound")
        names = dict.fromkeys(field.path.split("/")[2] for field in fields if field.path.startswith("/SlurmJob/"))
        asked = [words for name in names for words in _asked(name, order.objects["SlurmJob"], job)]
        if asked:
            try:
                self._commands.run('exec scontrol update "$@"', f"JobId={job.id}", *asked)
            except EngineUnreachable:
                raise
            except ProviderError as error:
                hint = next((hint for words, hint in _HINTS.items() if words in error.message.lower()), "")
                raise ProviderError(error.message, hint=hint, address=record.address) from None
            point("slurm:update:after")
        return self._find(record)

    def _find(self, record: Recorded) -> Job | None:
        return self._listing.look().of(record)

    def delete(self, record: Recorded, grace: float) -> None:
        """End the job: TERM, ``grace`` seconds, KILL; then remove its directory.

        Raises:
            ProviderError: it does not end.
        """
        job = self._find(record)
        if job and not (job.over or job.waits):
            self._await_script(record)
            self._commands.cancel("--full", "--signal=TERM", job.id)
            point("slurm:term:after")
            job = self._await_end(record, grace)
        if job and not job.over:
            self._commands.cancel(*(() if job.waits else ("--signal=KILL",)), job.id)
            point("slurm:kill:after")
            job = self._await_end(record, END_TIMEOUT)
        if job and not job.over:
            words, hint = f"job {job.id} does not end, not even by SIGKILL", "look at it with `scontrol show job`"
            raise ProviderError(words, hint=f"{hint}, then destroy again", address=record.address)
        if not record.handle.get(IMPORTED):
            self._submitter.remove(record.run_id)
            point("slurm:remove:after")

    def _await_script(self, record: Recorded) -> None:
        """Wait until the script of a job runs; what is sent to it before is lost, although Slurm says that it runs."""
        path, deadline = f"{self._submitter.place(record.run_id)}/{scripts.BEGUN}", time.monotonic() + START_TIMEOUT
        while not record.handle.get(IMPORTED) and time.monotonic() < deadline:
            if self._commands.run('[ ! -e "$1" ] || echo there', path):
                return
            time.sleep(0.2)

    def _await_end(self, record: Recorded, seconds: float) -> Job | None:
        deadline, pause = time.monotonic() + seconds, 0.1
        while (job := self._find(record)) and not job.over and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(2 * pause, 2.0)
        return job


def _asked(name: str, wanted: Mapping[str, Any], job: Job) -> list[str]:
    """Return what ``scontrol update`` is told for a field of the object."""
    match name:
        case "name":
            return [f"JobName={wanted['name']}"]
        case "labels":
            kept = {key: job.labels[key] for key in (jobs.CONTENT, jobs.CREATED_FROM) if key in job.labels}
            return [f"Comment={jobs.comment({**wanted['labels'], **kept})}"]
        case "time_limit":
            return [f"TimeLimit={wanted['time_limit'] // 60}"]
        case "cpus":  # Slurm does not multiply by the tasks
            return [f"CPUsPerTask={wanted['cpus']}", f"NumCPUs={wanted['cpus'] * int(job.told['NumTasks'])}"]
        case "memory":
            return [f"MinMemoryNode={wanted['memory'] // 2**20}"]
        case "partition" | "account" | "qos":
            return [f"{name}={wanted[name]}"]
    return []
