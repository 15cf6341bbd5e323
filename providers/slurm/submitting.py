"""Submitting a job exactly once: it is submitted on hold, noted, and released when no other one has its identity."""

from __future__ import annotations

import math
import posixpath
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from flowplan.providers.protocol import Context, Order, of_other_content
from flowplan.providers.slurm import arrays, jobs, scripts
from flowplan.providers.slurm.arrays import Array
from flowplan.providers.slurm.commands import Commands
from flowplan.providers.slurm.jobs import Job
from flowplan.schemas.errors import EngineUnreachable, FlowplanError, ProviderError, StartFailed
from flowplan.schemas.faults import point
from flowplan.schemas.runs import Objects, Observed

NOTE = "job"
"""Name of the file with the number of the job, in the directory of a run; it is written before the job is released."""

_SUBMIT = """
umask 077; mkdir -p -- "$1" && cd -- "$1" || exit 1
head -c "$2" > "secrets.$$" && cat > "script.$$" && mv -- "script.$$" script || exit 1
if [ "$2" -gt 0 ]; then mv -- "secrets.$$" secrets; else rm -f -- "secrets.$$"; fi
shift 2; exec sbatch "$@" < script
"""
_RELEASE = """
umask 077; cd -- "$1" && printf '%s\\n' "$2" > "job.$$" && mv -- "job.$$" job || exit 1
job=$2; shift 2; [ $# -eq 0 ] || scontrol update "JobId=$job" "$@" || exit
exec scontrol release "$job"
"""
_WRITTEN = """
cd -- "$1" || exit 0; shift
for run; do printf '\\036%s\\n' "$run"; cat -- "$run/job" 2>/dev/null || echo; sed -n '2p' -- "$run/script" 2>/dev/null; done
"""


class Written(NamedTuple):
    """What the directory of a run tells: the number of its job, and the objects that it was made of."""

    job: str
    objects: Objects

    @property
    def labels(self) -> Mapping[str, str]:
        labels: Mapping[str, str] = self.objects.get("SlurmJob", {}).get("labels", {})
        return labels

    def is_of(self, project: str, environment: str) -> bool:
        """Return whether it is a run of a project, and its job was released."""
        labels = self.labels
        here = (labels.get(jobs.PROJECT), labels.get(jobs.ENVIRONMENT, "")) == (project, environment)
        return bool(self.job) and here


def options(job: Mapping[str, Any]) -> list[str]:
    """Return what sbatch is asked for, as its options."""
    plain = ("partition", "account", "qos")
    asked = [f"--{name}={job[name]}" for name in plain if job.get(name)]
    asked.append("--requeue" if job.get("requeue") else "--no-requeue")
    if job.get("cpus"):
        asked.append(f"--cpus-per-task={job['cpus']}")
    if job.get("memory"):
        asked.append(f"--mem={job['memory'] // 2**20}M")
    if job.get("gpus"):
        asked.append(f"--gres=gpu:{job['gpus']}")
    if job.get("time_limit"):
        asked.append(f"--time={math.ceil(job['time_limit'] / 60)}")
    for name, value in (job.get("options") or {}).items():
        asked.append(f"--{name}" if value is True else f"--{name}={value}")
    return asked


class Submitter:
    """Submits the jobs of one user, and keeps their directories."""

    def __init__(self, commands: Commands, context: Context) -> None:
        self._commands, self._context = commands, context
        self._gathered: dict[str, Array] = {}

    def place(self, run_id: str) -> str:
        """Return the directory of a run."""
        return f"{self._commands.site.directory}/{run_id}"

    def gather(self, orders: Sequence[Order]) -> None:
        """Note attempts that are created together: those that ask for the same are the tasks of an array."""
        alike: dict[tuple[str, ...], list[Order]] = {}
        for order in orders:
            job = order.objects["SlurmJob"]
            alike.setdefault((order.settings.group, job["cwd"], *options(job)), []).append(order)
        for some in alike.values():
            for start in range(0, len(some), arrays.MOST):
                array = Array(some[start : start + arrays.MOST])
                if len(array.orders) > 1:
                    self._gathered |= {order.identity.run_id: array for order in array.orders}

    def create(self, order: Order) -> Observed:
        """Submit the attempt, or adopt the job that was submitted for it.

        Raises:
            StartFailed: Slurm refuses it; nothing of the attempt is left.
            Refused: there is a job of this attempt with other content.
            EngineUnreachable: Slurm does not answer; the job may exist, on hold, and is adopted by the next call.
        """
        run_id, address = order.identity.run_id, order.identity.address
        if not order.fresh and (earlier := self._all(order)):
            return self._adopt(order, earlier)
        try:
            if array := self._gathered.pop(run_id, None):
                found = self._of_array(array, run_id)
            else:
                point("slurm:submit:before")
                self._submit(order)
                point("slurm:submit:after")
                found = self._all(order)
        except EngineUnreachable:
            raise
        except ProviderError as error:
            if earlier := self._all(order):
                return self._adopt(order, earlier)
            self.remove(run_id)
            code = 127 if error.reason == "NotInstalled" else None
            raise StartFailed(
                error.message, hint=error.hint, address=address, reason=error.reason or "Refused", exit_code_of_run=code
            ) from None
        if not found:
            raise EngineUnreachable("the job was submitted, and squeue does not show it yet", address=address)
        return self._adopt(order, found)

    def _submit(self, order: Order) -> None:
        """Submit the job of an attempt on hold; its script and its secrets are passed as input."""
        place, job = self.place(order.identity.run_id), order.objects["SlurmJob"]
        files = self._files(order)
        secret = files.get(scripts.SECRETS, b"")
        words = jobs.comment(job["labels"], self._context.created_from)
        asked = self._options(job, job["name"], words, f"{place}/{scripts.OUTPUT}")
        self._commands.run(_SUBMIT, place, str(len(secret)), *asked, data=secret + files[scripts.SCRIPT])

    def _files(self, order: Order) -> dict[str, bytes]:
        """Return the files that the job of an attempt needs in its directory."""
        objects = order.objects
        text = scripts.script(objects, self.place(order.identity.run_id), self._directory(objects["SlurmJob"]["cwd"]))
        secret = scripts.secrets(objects, order.secrets)
        return {scripts.SCRIPT: text.encode(), **({scripts.SECRETS: secret.encode()} if secret else {})}

    def _options(self, job: Mapping[str, Any], name: str, comment: str, output: str) -> list[str]:
        """Return all options of the command that submits on hold."""
        fixed = ["--parsable", "--hold", "--export=NONE", "--open-mode=append", f"--job-name={name}"]
        cwd, output = self._directory(job["cwd"]), output.replace("%", "%%")
        return [*fixed, f"--comment={comment}", f"--output={output}", f"--chdir={cwd}", *options(job)]

    def _of_array(self, array: Array, run_id: str) -> list[Job]:
        """Return the jobs of an attempt of an array, which is submitted unless it has been.

        Raises:
            ProviderError: it could not be; what each of its attempts is told.
        """
        with array.lock:
            if array.found is None and array.error is None:
                try:
                    array.found = self._submit_array(array)
                except FlowplanError as error:
                    array.error = error
        if array.error:
            raise array.error
        return (array.found or {}).get(run_id, [])

    def _submit_array(self, array: Array) -> dict[str, list[Job]]:
        """Submit those of which there is no job yet, and return what there is then."""
        there = self._by_run()
        array.orders = [one for one in array.orders if one.identity.run_id not in there]
        if not array.orders:
            return there
        order, directory = array.orders[0], self._commands.site.directory
        job = order.objects["SlurmJob"]
        kept = (jobs.LINEAGE, jobs.PROJECT, jobs.ENVIRONMENT)
        labels = {jobs.ARRAY: array.key, **{key: job["labels"][key] for key in kept if key in job["labels"]}}
        words = jobs.comment(labels, self._context.created_from)
        written = {one.identity.run_id: self._files(one) for one in array.orders}
        packed = arrays.files(array, written, self._context.created_from)
        asked = [f"--array=0-{len(array.orders) - 1}", *self._options(job, order.settings.group, words, "/dev/null")]
        data = packed + arrays.script(array, shlex.quote(directory)).encode()
        point("slurm:submit:before")
        self._commands.run(arrays.SUBMIT, directory, array.key, str(len(packed)), *asked, data=data)
        point("slurm:submit:after")
        return self._by_run()

    def _by_run(self, more: str = "") -> dict[str, list[Job]]:
        """Return the jobs of all attempts, of each the first submitted first."""
        told = self._commands.run(f"exec {jobs.SQUEUE} --user={shlex.quote(self._commands.site.user)}{more}")
        found: dict[str, list[Job]] = {}
        for job in sorted(arrays.named(jobs.queued(told), self._commands), key=lambda job: job.place):
            found.setdefault(job.run_id, []).append(job)
        return found

    def _directory(self, cwd: str) -> str:
        """Return where a job is started: relative to the spec on this host, to the home directory on another."""
        base = self._commands.site.home if self._commands.host else str(self._context.spec_dir.absolute())
        return posixpath.normpath(posixpath.join(base, cwd))

    def _all(self, order: Order) -> list[Job]:
        """Return the jobs that carry the identity of an attempt, the first submitted first."""
        # of a fresh one, nobody has had the time to give it another name
        more = f" --name={shlex.quote(order.objects['SlurmJob']['name'])}" if order.fresh else ""
        return self._by_run(more).get(order.identity.run_id, [])

    def _adopt(self, order: Order, found: Sequence[Job]) -> Observed:
        """Start the first of the jobs of an attempt unless it was started, and cancel the others, which are on hold.

        Of two that submit at once, each one looks after it has submitted, so that both know the first.
        """
        job, *others = found
        if job.labels.get(jobs.CONTENT) != order.objects["SlurmJob"]["labels"][jobs.CONTENT]:
            raise of_other_content(f'the job {job.id} "{job.told["Name"]}"', order.identity.address)
        if held := [one.id for one in others if one.waits]:
            self._commands.cancel("--state=PENDING", *held)
        if job.held:
            point("slurm:release:before")
            place, own = self.place(order.identity.run_id), []
            if jobs.ARRAY in jobs.labels_of(job.told["Comment"]):
                words = jobs.comment(order.objects["SlurmJob"]["labels"], self._context.created_from)
                own = [f"JobName={job.told['Name']}", f"Comment={words}", f"StdOut={place}/{scripts.OUTPUT}"]
            self._commands.run(_RELEASE, place, job.id, *own)
            point("slurm:release:after")
            job = replace(job, told={**job.told, "Reason": "None"})
        return jobs.observed(job, self._commands.site.cluster)

    def tested(self, wanted: Sequence[str]) -> str:
        """Return why sbatch would refuse a job; "" when it would not."""
        script = "printf '#!/bin/sh\\n' | sbatch --test-only --export=NONE \"$@\""
        try:
            self._commands.run(script, *wanted)
        except EngineUnreachable:
            raise
        except ProviderError as error:
            return error.message
        return ""

    def remove(self, run_id: str) -> None:
        """Remove the directory of a run."""
        self._commands.run('rm -rf -- "$1"', self.place(run_id))

    def noted(self, runs: Sequence[str]) -> dict[str, str]:
        """Return the number of the job of each run, where it was noted."""
        return {run: one.job for run, one in self.written(runs).items() if one.job}

    def written(self, runs: Collection[str]) -> dict[str, Written]:
        """Return what the directories of runs tell."""
        if not runs:
            return {}
        found = {}
        for part in self._commands.run(_WRITTEN, self._commands.site.directory, *sorted(runs)).split("\x1e")[1:]:
            run, job, *lines = part.splitlines()
            if objects := scripts.objects_of("\n".join(lines)):
                found[run] = Written(job, objects)
        return found
