"""Submitting a job exactly once: it is submitted on hold, noted, and released when no other one has its identity."""

from __future__ import annotations

import math
import posixpath
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from flowplan.providers.protocol import Context, Order, of_other_content
from flowplan.providers.slurm import jobs, scripts
from flowplan.providers.slurm.commands import Commands
from flowplan.providers.slurm.jobs import Job
from flowplan.schemas.errors import EngineUnreachable, ProviderError, StartFailed
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
umask 077; cd -- "$1" && printf '%s\\n' "$2" > "job.$$" && mv -- "job.$$" job && exec scontrol release "$2"
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

    def place(self, run_id: str) -> str:
        """Return the directory of a run."""
        return f"{self._commands.site.directory}/{run_id}"

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
            point("slurm:submit:before")
            self._submit(order)
            point("slurm:submit:after")
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
        found = self._all(order)
        if not found:
            raise EngineUnreachable("the job was submitted, and squeue does not show it yet", address=address)
        return self._adopt(order, found)

    def _submit(self, order: Order) -> None:
        """Submit the job of an attempt on hold; its script and its secrets are passed as input."""
        objects, place = order.objects, self.place(order.identity.run_id)
        job = objects["SlurmJob"]
        cwd = self._directory(job["cwd"])
        words = jobs.comment(job["labels"], self._context.created_from)
        secret = scripts.secrets(objects, order.secrets).encode()
        text = scripts.script(objects, place, cwd).encode()
        output = f"{place}/{scripts.OUTPUT}".replace("%", "%%")
        fixed = ["--parsable", "--hold", "--export=NONE", "--open-mode=append", f"--output={output}", f"--chdir={cwd}"]
        named = [f"--job-name={job['name']}", f"--comment={words}"]
        self._commands.run(_SUBMIT, place, str(len(secret)), *fixed, *named, *options(job), data=secret + text)

    def _directory(self, cwd: str) -> str:
        """Return where a job is started: relative to the spec on this host, to the home directory on another."""
        base = self._commands.site.home if self._commands.host else str(self._context.spec_dir.absolute())
        return posixpath.normpath(posixpath.join(base, cwd))

    def _all(self, order: Order) -> list[Job]:
        """Return the jobs that carry the identity of an attempt, the first submitted first."""
        script = f"exec {jobs.SQUEUE} --user={shlex.quote(self._commands.site.user)}"
        if order.fresh:  # nobody has had the time to give it another name
            script += f" --name={shlex.quote(order.objects['SlurmJob']['name'])}"
        found = [job for job in jobs.queued(self._commands.run(script)) if job.run_id == order.identity.run_id]
        return sorted(found, key=lambda job: int(job.id))

    def _adopt(self, order: Order, found: Sequence[Job]) -> Observed:
        """Start the first of the jobs of an attempt unless it was started, and cancel the others, which are on hold.

        Of two that submit at once, each one looks after it has submitted, so that both know the first.
        """
        job, *others = found
        if job.labels.get(jobs.CONTENT) != order.objects["SlurmJob"]["labels"][jobs.CONTENT]:
            raise of_other_content(f'the job {job.id} "{job.told["Name"]}"', order.identity.address)
        if held := [one.id for one in others if one.waits]:
            self._commands.cancel("--state=PENDING", *held)
        if job.waits and job.told["Reason"] == "JobHeldUser":
            point("slurm:release:before")
            self._commands.run(_RELEASE, self.place(order.identity.run_id), job.id)
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
