"""Attempts that start together as the tasks of one array: submitted on hold, in one command; each is released on its own.

A task has the comment of its array until it is released with its own one. Until then the file ``task`` in the directory of its
run says which task of which array it is.
"""

from __future__ import annotations

import io
import tarfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from flowplan.providers.protocol import Order
from flowplan.providers.slurm import jobs
from flowplan.providers.slurm.commands import Commands
from flowplan.providers.slurm.jobs import Job
from flowplan.schemas.errors import FlowplanError

MOST = 1000
"""Tasks of one array; a cluster of the default configuration takes these."""

TASK = "task"
"""Name of the file with the array, the number, the name and the comment of a task, in the directory of its run."""

SUBMIT = """
umask 077; mkdir -p -- "$1" && cd -- "$1" || exit 1
new=.$2; trap 'rm -rf -- "$new"' EXIT; mkdir -- "$new" && head -c "$3" | tar -xof - -C "$new" || exit 1
for run in "$new"/*; do
  to=${run##*/}; mkdir -p -- "$to" && for file in "$run"/*; do mv -- "$file" "$to/" || exit 1; done
done
shift 3; sbatch "$@"
"""
_TASKS = (
    f'cd -- "$1" 2>/dev/null || exit 0; find . -mindepth 2 -maxdepth 2 -name {TASK} -exec cat {{}} + 2>/dev/null || :'
)


@dataclass(slots=True)
class Array:
    """Attempts of which the first ``create`` submits all.

    Attributes:
        key: tells it from other arrays; found: run id -> its jobs, once it is submitted; error: why it could not be.
    """

    orders: Sequence[Order]
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    lock: threading.Lock = field(default_factory=threading.Lock)
    found: Mapping[str, list[Job]] | None = None
    error: FlowplanError | None = None


def files(array: Array, written: Mapping[str, Mapping[str, bytes]], created_from: str) -> bytes:
    """Return the directories of all tasks as a tar archive; ``written`` are the files of each run but ``task``."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for index, order in enumerate(array.orders):
            job = order.objects["SlurmJob"]
            line = f"{array.key} {index} {job['name']} {jobs.comment(job['labels'], created_from)}\n"
            for name, data in {**written[order.identity.run_id], TASK: line.encode()}.items():
                member = tarfile.TarInfo(f"{order.identity.run_id}/{name}")
                member.size, member.mode = len(data), 0o600
                archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def script(array: Array, directory: str) -> str:
    """Return the script of an array, in which each task does what the script in the directory of its run says."""
    cases = [f"{index}) run={order.identity.run_id} ;;" for index, order in enumerate(array.orders)]
    return "\n".join([
        "#!/bin/sh", 'case "$SLURM_ARRAY_TASK_ID" in', *cases, "*) exit 125 ;;", "esac", f'. {directory}/"$run"/script', "",
    ])  # fmt: skip


def named(listed: Sequence[Job], commands: Commands) -> list[Job]:
    """Return jobs with the names and labels that the files of tasks say, where those are not released yet."""
    if all(job.run_id or jobs.ARRAY not in job.labels for job in listed):
        return list(listed)
    told = {}
    for line in commands.run(_TASKS, commands.site.directory).splitlines():
        key, index, name, comment = line.split(" ", 3)
        told[key, index] = name, comment
    found = []
    for job in listed:
        task = (job.labels.get(jobs.ARRAY, ""), job.id.partition("_")[2])
        if task in told and not job.run_id:
            name, comment = told[task]
            job = replace(job, labels=jobs.labels_of(comment), told={**job.told, "Name": name})
        found.append(job)
    return found
