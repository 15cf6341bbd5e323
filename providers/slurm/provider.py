"""The doing half of ``slurm``: submits, observes, follows and cancels batch jobs of one cluster."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from flowplan.providers.pieces import whole_characters
from flowplan.providers.polling import watch_by_looking
from flowplan.providers.protocol import IMPORTED, Context, Found, LogLine, News, Order
from flowplan.providers.slurm import jobs, scripts
from flowplan.providers.slurm.changing import Changer
from flowplan.providers.slurm.commands import Commands
from flowplan.providers.slurm.jobs import Job
from flowplan.providers.slurm.listing import Listing
from flowplan.providers.slurm.submitting import Submitter, options
from flowplan.schemas.errors import ProviderError, Refused
from flowplan.schemas.plans import FieldChange, Finding
from flowplan.schemas.runs import Json, Objects, Observed, Recorded, Status, Target

LOOK = 2.0
"""Seconds between two looks at the queue, for all runs together: the controller has others to serve."""

READ = 1.0
"""Seconds between two looks at the output of a run that is followed."""

BLOCK = 1 << 20
"""Bytes of an output that are read at once."""

LONGEST = 1 << 16
"""Bytes after which a line is passed on in pieces."""


class SlurmProvider:
    """Jobs of one user on one cluster; each has a directory of its run id, with its script and its output.

    The directory is what ``delete`` removes: Slurm forgets an ended job by itself, and no earlier.

    Attributes:
        every: seconds between two looks at the queue while watching.
    """

    every = LOOK

    def __init__(self, context: Context) -> None:
        self._context = context
        self._commands = Commands(context.settings)
        self._submitter = Submitter(self._commands, context)
        self._listing = Listing(self._commands, context)
        self._changer = Changer(self._commands, self._submitter, self._listing)

    def target(self) -> Target:
        """Return the cluster by its name and the host of its first controller."""
        site = self._commands.site
        label = f"{site.cluster} ({self._commands.endpoint}, as {site.user})"
        return Target("slurm", f"{site.cluster}@{site.controller}", label)

    def close(self) -> None:
        """Do nothing: there is no connection between two commands."""

    # -- reading

    def observe(self, records: Sequence[Recorded], wanted: Iterable[Objects] | None = None) -> list[Observed]:
        """Ask squeue once, and sacct once when a run has left the queue or was cancelled."""
        everybody = wanted is not None and self._context.project != ""
        look = self._listing.look(everybody=everybody)
        told: dict[str, Observed] = {}
        found: list[tuple[Job, Recorded | None]] = []
        left = []
        for record in records:
            job, imported = look.of(record), bool(record.handle.get(IMPORTED))
            if not imported and record.run_id not in look.kept and (job is None or job.over):
                told[record.run_id] = jobs.gone(record)
            elif job:
                found.append((job, record))
            elif record.status.settled:
                told[record.run_id] = jobs.as_recorded(record)
            else:
                left.append(record)
        known = {record.run_id for record in records}
        found += [
            (job, None) for run, job in look.ours.items() if run not in known and (not job.over or run in look.kept)
        ]
        told |= {seen.run_id: seen for seen in (*self._seen(found), *self._left(left))}
        ordered = [told.pop(record.run_id) for record in records]
        others = [job for job in look.jobs if everybody and not job.over and self._is_of_others(job)]
        return [*ordered, *told.values(), *map(self._of_others, others)]

    def _is_of_others(self, job: Job) -> bool:
        here = self._listing.is_here(job, self._context.project)
        return here and job.labels.get(jobs.LINEAGE) != self._context.lineage

    def _of_others(self, job: Job) -> Observed:
        return replace(jobs.observed(job, self._commands.site.cluster), lineage=job.labels[jobs.LINEAGE])

    def _seen(self, found: Sequence[tuple[Job, Recorded | None]]) -> list[Observed]:
        """Return what is known of jobs; who cancelled one, accounting alone knows."""
        unsettled = (job for job, record in found if not (record and record.status.settled))
        who = self._listing.accounted([job.id for job in unsettled if job.state == "CANCELLED"])
        reasons = {number: job.told["Reason"] for number, job in who.items() if job.state == "CANCELLED"}
        told = (
            (replace(job, told={**job.told, "Reason": reasons.get(job.id, job.told["Reason"])}), r) for job, r in found
        )
        return [jobs.observed(job, self._commands.site.cluster, record) for job, record in told]

    def _left(self, records: Sequence[Recorded]) -> list[Observed]:
        """Return what accounting says of jobs that the controller has forgotten."""
        if not records:
            return []
        noted = self._submitter.noted([record.run_id for record in records if not record.handle])
        ids = {record.run_id: str(record.handle.get("job") or noted.get(record.run_id, "")) for record in records}
        told = self._listing.accounted([job for job in ids.values() if job])
        seen = []
        for record in records:
            job = told.get(ids[record.run_id])
            if job and (not job.run_id or job.run_id == record.run_id or record.handle.get(IMPORTED)):
                seen.append(jobs.observed(job, self._commands.site.cluster, record))
            elif ids[record.run_id]:
                why = "the controller has forgotten the job (MinJobAge), and accounting does not know how it ended"
                seen.append(jobs.forgotten(record, why))
            else:
                seen.append(jobs.gone(record))  # it was about to be submitted
        return seen

    def watch(self, records: Sequence[Recorded], stop: threading.Event) -> Iterator[News]:
        """Look at the queue again and again: Slurm has no stream of events."""
        return watch_by_looking(records, stop, self.observe, every=self.every)

    def logs(
        self, record: Recorded, *, follow: bool, tail: int | None, stop: threading.Event | None = None
    ) -> Iterator[LogLine]:
        """Yield the output from the file that the job writes on the shared file system; both streams are in it."""
        stop, path = stop or threading.Event(), self._output(record)
        start, rest, over = 0, b"", not follow
        last: deque[LogLine] | None = None if tail is None else deque(maxlen=tail)
        while True:
            over = over or stop.is_set() or self._listing.has_ended(record)  # the last look is later than the end
            while data := self._commands.read(path, start, BLOCK):
                start += len(data)
                *whole, rest = (rest + data).split(b"\n")
                lines = [_line(text) for text in whole]
                if len(rest) > LONGEST:
                    end = whole_characters(rest)
                    lines.append(_line(rest[:end])._replace(goes_on=True))
                    rest = rest[end:]
                if last is None:
                    yield from lines
                else:
                    last.extend(lines)
            ending = [_line(rest)] if over and rest else []
            if last is not None:
                last.extend(ending)
                ending, last = [*last], None
            yield from ending
            if over:
                return
            stop.wait(READ)

    def _output(self, record: Recorded) -> str:
        """Return the file that a job writes; of an imported one, Slurm knows it."""
        if not record.handle.get(IMPORTED):
            return f"{self._submitter.place(record.run_id)}/{scripts.OUTPUT}"
        job = self._listing.look().of(record)
        if job is None:
            raise ProviderError("Slurm does not know any more where the output is", address=record.address)
        number, name = job.id, job.told["Name"]
        return job.told["StdOut"].replace("%j", number).replace("%A", number).replace("%x", name)

    def secret_values(self, record: Recorded) -> list[str]:
        """Return the values in the job's file of secrets, which is there until the job ends."""
        data = self._commands.read(f"{self._submitter.place(record.run_id)}/{scripts.SECRETS}", 0, BLOCK)
        return scripts.values_of(data.decode(errors="replace"))

    def keeps_timeout(self, record: Recorded) -> bool:
        """Return whether the job's time limit is the timeout exactly; Slurm counts whole minutes."""
        timeout = record.settings.timeout
        return timeout is not None and record.objects.get("SlurmJob", {}).get("time_limit") == timeout

    def find(self, project: str, wanted: Sequence[Objects] = ()) -> list[Found]:
        """Return the jobs of a project: those in the queue, and those of which a directory is left."""
        look = self._listing.look()
        written = self._submitter.written(look.kept)
        here = [job for job in jobs.by_run(look.jobs).values() if self._listing.is_here(job, project)]
        here = [job for job in here if not job.over or job.run_id in look.kept]
        queue = {job.run_id for job in here}
        older = {
            one.job: one
            for run, one in written.items()
            if run not in queue and one.is_of(project, self._context.environment)
        }
        told = self._listing.accounted(list(older))
        here += [replace(job, labels=older[number].labels) for number, job in told.items() if number in older]
        found = []
        for job, seen in zip(here, self._seen([(job, None) for job in here]), strict=True):
            one = written.get(job.run_id)
            objects = jobs.as_changed(job, one.objects) if one else {"SlurmJob": {}}
            if job.held and not (one and one.job):  # it was never released
                seen = replace(seen, status=Status.CREATING, reason="")
            found.append(Found(seen, project, job.labels[jobs.LINEAGE], None, objects, objects if one else None))
        return sorted(found, key=lambda one: (one.seen.address, one.seen.attempt))

    def describe(self, object_id: str) -> Found:
        """Return the job of an id (``1234`` or ``cluster:1234``).

        Raises:
            ProviderError: there is none in the queue, or it is another user's.
        """
        number = object_id.rpartition(":")[2]
        job = next((job for job in self._listing.look().jobs if job.id == number), None)
        if job is None:
            raise ProviderError(
                f'there is no job "{object_id}" of yours in the queue of {self._commands.site.cluster}',
                hint="give the number that `squeue --me` shows",
                reason="NotFound",
            )
        [seen] = self._seen([(job, None)])
        if not seen.run_id:
            seen = replace(seen, handle={**seen.handle, IMPORTED: True})
        bare: dict[str, Json] = {"name": job.told["Name"]}
        return Found(seen, job.labels.get(jobs.PROJECT, ""), job.labels.get(jobs.LINEAGE, ""), None, {"SlurmJob": bare})

    def preflight(self, orders: Sequence[Order]) -> list[Finding]:
        """Ask sbatch whether the cluster could ever run such a job, once for all runs that ask for the same."""
        said: dict[tuple[str, ...], str] = {}
        findings = []
        for order in orders:
            wanted = tuple(options(order.objects["SlurmJob"]))
            if wanted not in said:
                said[wanted] = self._submitter.tested(wanted)
            if said[wanted]:
                findings.append(Finding(order.identity.address, "error", "submission", said[wanted], "see `sinfo -l`"))
        return findings

    # -- changing

    def gather(self, orders: Sequence[Order]) -> None:
        """Note attempts that are created together, as tasks of arrays."""
        self._submitter.gather(orders)

    def create(self, order: Order) -> Observed:
        """Submit the attempt held, then release it; or adopt the job that was submitted for it."""
        return self._submitter.create(order)

    def update(self, record: Recorded, order: Order, fields: Sequence[FieldChange]) -> Observed:
        """Change a job that has not ended.

        Raises:
            ProviderError: it is gone, or Slurm refuses.
        """
        job = self._changer.update(record, order, fields)
        return jobs.observed(job, self._commands.site.cluster, record) if job else jobs.gone(record)

    def delete(self, record: Recorded, grace: float) -> None:
        """End the job: TERM, ``grace`` seconds, KILL; then remove its directory.

        Raises:
            Refused: the record is of another cluster.
            ProviderError: it does not end.
        """
        known = record.target.get("id", "")
        if known and known != self.target().id:
            where = record.target.get("label") or known
            raise Refused(f"{where} is recorded, but this is {self.target().label}", address=record.address)
        self._changer.delete(record, grace)


def _line(data: bytes) -> LogLine:
    return LogLine(data.removesuffix(b"\r").decode("utf-8", "replace"))
