"""The doing half of ``slurm``: submits, observes, follows and cancels batch jobs of one cluster."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flowplan.providers.polling import watch_by_looking
from flowplan.providers.protocol import IMPORTED, Context, Found, LogLine, News, Order
from flowplan.providers.slurm import jobs, scripts
from flowplan.providers.slurm.commands import Commands
from flowplan.providers.slurm.jobs import Job
from flowplan.providers.slurm.submitting import Submitter, options
from flowplan.schemas.errors import EngineUnreachable, ProviderError, Refused
from flowplan.schemas.faults import point
from flowplan.schemas.plans import FieldChange, Finding
from flowplan.schemas.runs import Json, Objects, Observed, Recorded, Target

LOOK = 2.0
"""Seconds between two looks at the queue, for all runs together: the controller has others to serve."""

READ = 1.0
"""Seconds between two looks at the output of a run that is followed."""

START_TIMEOUT = 10.0
"""Seconds that the script of a running job may take to begin before it is sent signals all the same."""

END_TIMEOUT = 120.0
"""Seconds that a job may take to end once it is killed: its node cleans up."""

_SEPARATOR = "\x1e\n"


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
        self._lock = threading.Lock()
        self._listed: tuple[float, list[Job]] = (0.0, [])

    def target(self) -> Target:
        """Return the cluster by its name and the host of its first controller."""
        site = self._commands.site
        label = f"{site.cluster} ({self._commands.endpoint}, as {site.user})"
        return Target("slurm", f"{site.cluster}@{site.controller}", label)

    def close(self) -> None:
        """Do nothing: there is no connection between two commands."""

    # -- reading

    def observe(self, records: Sequence[Recorded], wanted: Iterable[Objects] | None = None) -> list[Observed]:
        """Ask squeue once, and sacct once when a run that had not ended has left the queue."""
        everybody = wanted is not None and self._context.project != ""
        listed, kept = self._look(everybody=everybody)
        ours = {run: job for run, job in jobs.by_run(listed).items() if self._is_ours(job)}
        by_id = {job.id: job for job in listed}
        found: list[Observed | None] = []
        for record in records:
            job = _of(record, by_id) if record.handle.get(IMPORTED) else ours.get(record.run_id)
            if job and (not job.over or record.handle.get(IMPORTED) or record.run_id in kept):
                found.append(self._seen(job, record))
            elif job or (record.run_id not in kept and not record.handle.get(IMPORTED)):
                found.append(jobs.gone(record))
            else:
                found.append(jobs.as_recorded(record) if record.status.settled else None)
        left = iter(self._left([record for record, seen in zip(records, found, strict=True) if seen is None]))
        seen = [one if one is not None else next(left) for one in found]
        known = {record.run_id for record in records}
        seen += [self._seen(job) for run, job in ours.items() if run not in known and (not job.over or run in kept)]
        others = [job for job in listed if everybody and self._is_of_others(job) and not job.over]
        return seen + [replace(self._seen(job), lineage=job.labels[jobs.LINEAGE]) for job in others]

    def _look(self, *, everybody: bool = False) -> tuple[list[Job], set[str]]:
        """Return the jobs in the queue, those that ended lately among them, and the run ids that have a directory."""
        site = self._commands.site
        whose = "" if everybody else f" --user={shlex.quote(site.user)}"
        script = f"ls -1 -- \"$1\" 2>/dev/null; printf '\\036\\n'; {jobs.SQUEUE}{whose}"
        names, _, lines = self._commands.run(script, site.directory).partition(_SEPARATOR)
        listed = jobs.queued(lines)
        with self._lock:
            self._listed = (time.monotonic(), listed)
        return listed, set(names.split())

    def _is_ours(self, job: Job) -> bool:
        return (
            job.labels.get(jobs.LINEAGE) == self._context.lineage and job.told["UserName"] == self._commands.site.user
        )

    def _is_here(self, job: Job, project: str) -> bool:
        return (job.labels.get(jobs.PROJECT), job.labels.get(jobs.ENVIRONMENT, "")) == (
            project,
            self._context.environment,
        )

    def _is_of_others(self, job: Job) -> bool:
        return self._is_here(job, self._context.project) and job.labels.get(jobs.LINEAGE) != self._context.lineage

    def _seen(self, job: Job, record: Recorded | None = None) -> Observed:
        seen = jobs.observed(job, self._commands.site.cluster, record)
        if job.state == "CANCELLED" and not (record and record.status.settled):
            told = next((one for one in self._accounted([job.id]) if one.state == "CANCELLED"), None)
            return replace(seen, message=jobs.observed(told, "").message) if told else seen
        return seen

    def _left(self, records: Sequence[Recorded]) -> list[Observed]:
        """Return what accounting says of jobs that the controller has forgotten."""
        if not records:
            return []
        noted = self._submitter.noted([record.run_id for record in records if not record.handle])
        ids = {record.run_id: str(record.handle.get("job") or noted.get(record.run_id, "")) for record in records}
        told = {job.id: job for job in self._accounted([job for job in ids.values() if job])}
        seen = []
        for record in records:
            job = told.get(ids[record.run_id])
            if job and (not job.run_id or job.run_id == record.run_id or record.handle.get(IMPORTED)):
                seen.append(self._seen(job, record))
            elif ids[record.run_id]:
                why = "the controller has forgotten the job (MinJobAge), and accounting does not know how it ended"
                seen.append(jobs.forgotten(record, why))
            else:
                seen.append(jobs.gone(record))  # it was about to be submitted
        return seen

    def _accounted(self, ids: Sequence[str]) -> list[Job]:
        """Return what accounting knows of jobs; nothing where there is no accounting."""
        if not ids:
            return []
        try:
            return jobs.accounted(self._commands.run(f'exec {jobs.SACCT} --jobs="$1"', ",".join(ids)))
        except EngineUnreachable:
            raise
        except ProviderError as error:
            if "accounting storage is disabled" in error.message.lower():
                return []
            raise

    def watch(self, records: Sequence[Recorded], stop: threading.Event) -> Iterator[News]:
        """Look at the queue again and again: Slurm has no stream of events."""
        return watch_by_looking(records, stop, self.observe, every=self.every)

    def logs(
        self, record: Recorded, *, follow: bool, tail: int | None, stop: threading.Event | None = None
    ) -> Iterator[LogLine]:
        """Yield the output from the file that the job writes on the shared file system; both streams are in it."""
        stop, path = stop or threading.Event(), self._output(record)
        start, rest, over = 0, b"", not follow
        while True:
            over = over or stop.is_set() or self._has_ended(record)  # the last look is later than the end
            data = self._commands.read(path, start)
            start += len(data)
            *whole, rest = (rest + data).split(b"\n")
            if over and rest:
                whole.append(rest)
            if tail is not None:
                whole, tail = whole[max(0, len(whole) - tail) :], None
            yield from (LogLine(line.removesuffix(b"\r").decode("utf-8", "replace")) for line in whole)
            if over:
                return
            stop.wait(READ)

    def _output(self, record: Recorded) -> str:
        """Return the file that a job writes; of an imported one, Slurm knows it."""
        if not record.handle.get(IMPORTED):
            return f"{self._submitter.place(record.run_id)}/{scripts.OUTPUT}"
        job = next((job for job in self._look()[0] if job.id == record.handle["job"]), None)
        if job is None:
            raise ProviderError("Slurm does not know any more where the output is", address=record.address)
        number, name = job.id, job.told["Name"]
        return job.told["StdOut"].replace("%j", number).replace("%A", number).replace("%x", name)

    def _has_ended(self, record: Recorded) -> bool:
        """Return whether a job has ended, by a look at the queue that all followers share."""
        with self._lock:
            looked, listed = self._listed
        if time.monotonic() - looked > READ:
            listed, _ = self._look()
        wanted = str(record.handle.get("job", ""))
        job = next((job for job in listed if (job.id == wanted if wanted else job.run_id == record.run_id)), None)
        return job.over if job else record.status.final or bool(wanted)

    def secret_values(self, record: Recorded) -> list[str]:
        """Return the values in the job's file of secrets, which is there until the job ends."""
        data = self._commands.read(f"{self._submitter.place(record.run_id)}/{scripts.SECRETS}", 0)
        return scripts.values_of(data.decode(errors="replace"))

    def keeps_timeout(self, record: Recorded) -> bool:
        """Return whether the job's time limit is the timeout exactly; Slurm counts whole minutes."""
        timeout = record.settings.timeout
        return timeout is not None and record.objects.get("SlurmJob", {}).get("time_limit") == timeout

    def find(self, project: str, wanted: Sequence[Objects] = ()) -> list[Found]:
        """Return the jobs of a project: those in the queue, and those of which a directory is left."""
        listed, kept = self._look()
        written = self._submitter.written(kept)
        here = [job for job in jobs.by_run(listed).values() if self._is_here(job, project)]
        here = [job for job in here if not job.over or job.run_id in kept]
        queue = {job.run_id for job in here}
        older = {
            one.job: one
            for run, one in written.items()
            if run not in queue and one.is_of(project, self._context.environment)
        }
        for job in self._accounted(list(older)):
            if job.id in older:
                here.append(replace(job, labels=older[job.id].labels))
        found = []
        for job in here:
            one = written.get(job.run_id)
            objects = jobs.as_changed(job, one.objects) if one else {"SlurmJob": {}}
            found.append(
                Found(self._seen(job), project, job.labels[jobs.LINEAGE], None, objects, objects if one else None)
            )
        return sorted(found, key=lambda one: (one.seen.address, one.seen.attempt))

    def describe(self, object_id: str) -> Found:
        """Return the job of an id (``1234`` or ``cluster:1234``).

        Raises:
            ProviderError: there is none in the queue, or it is another user's.
        """
        number = object_id.rpartition(":")[2]
        job = next((job for job in self._look()[0] if job.id == number), None)
        if job is None:
            raise ProviderError(
                f'there is no job "{object_id}" of yours in the queue of {self._commands.site.cluster}',
                hint="give the number that `squeue --me` shows",
                reason="NotFound",
            )
        seen = self._seen(job)
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

    def create(self, order: Order) -> Observed:
        """Submit the attempt held, then release it; or adopt the job that was submitted for it."""
        return self._submitter.create(order)

    def update(self, record: Recorded, order: Order, fields: Sequence[FieldChange]) -> Observed:
        """Change a job that has not ended.

        Raises:
            ProviderError: it is gone, or Slurm refuses.
        """
        job = self._find(record)
        if job is None:
            raise ProviderError("the job is gone", hint="plan again", address=record.address, reason="NotFound")
        wanted = order.objects["SlurmJob"]
        asked = [
            words
            for name in dict.fromkeys(
                field.path.split("/")[2] for field in fields if field.path.startswith("/SlurmJob/")
            )
            for words in _asked(name, wanted, job)
        ]
        if asked:
            try:
                self._commands.run('exec scontrol update "$@"', f"JobId={job.id}", *asked)
            except EngineUnreachable:
                raise
            except ProviderError as error:
                hint = (
                    "a higher time limit takes an operator of the cluster" if "denied" in error.message.lower() else ""
                )
                raise ProviderError(error.message, hint=hint, address=record.address) from None
            point("slurm:update:after")
        again = self._find(record)
        return self._seen(again, record) if again else jobs.gone(record)

    def _find(self, record: Recorded) -> Job | None:
        """Return the job of a record; None where there is none, or another one has its number."""
        listed, _ = self._look()
        if record.handle.get(IMPORTED):
            return _of(record, {job.id: job for job in listed})
        return next(
            (job for run, job in jobs.by_run(listed).items() if run == record.run_id and self._is_ours(job)), None
        )

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
        job = self._find(record)
        if job and not job.over:
            if not job.waits:
                self._await_script(record)
                self._commands.cancel("--full", "--signal=TERM", job.id)
                point("slurm:term:after")
                job = self._await_end(record, grace)
            if job and not job.over:
                self._commands.cancel(*(() if job.waits else ("--signal=KILL",)), job.id)
                point("slurm:kill:after")
                job = self._await_end(record, END_TIMEOUT)
            if job and not job.over:
                hint = "look at it with `scontrol show job`, then destroy again"
                raise ProviderError(
                    f"job {job.id} does not end, not even by SIGKILL", hint=hint, address=record.address
                )
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
            pause = min(2 * pause, LOOK)
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


_HINTS = {
    "denied": "a higher time limit takes an operator of the cluster",
    "no longer pending": "it has started meanwhile: plan again",
}


def _of(record: Recorded, listed: dict[str, Job]) -> Job | None:
    """Return the job of an imported record: the same number, submitted at the same time."""
    job = listed.get(str(record.handle.get("job", "")))
    same = job is not None and jobs.handle(job)["submitted"] == record.handle.get("submitted")
    return job if same else None
