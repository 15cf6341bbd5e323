"""What squeue and sacct say about jobs: identity, status, reasons, exit codes, and what may have drifted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote

from flowplan.providers.protocol import IMPORTED
from flowplan.schemas import exit_codes
from flowplan.schemas.runs import Json, Objects, Observed, Recorded, Status, Try
from flowplan.schemas.times import timestamp

FIELDS = (
    "JobArrayID", "Comment", "Name", "State", "Reason", "exit_code", "restartcnt", "SubmitTime", "StartTime", "EndTime",
    "TimeLimit", "TimeUsed", "cpus-per-task", "NumTasks", "MinMemory", "tres-per-node", "Partition", "Account",
    "QOS", "UserName", "StdOut",
)  # fmt: skip
"""What squeue is asked for; these names are the same in all versions, unlike those of its JSON."""

_END = "\x1f"
SQUEUE = f"squeue --noheader --noconvert --states=all --array --Format={','.join(f'{name}:{_END}' for name in FIELDS)}"
SACCT = f"sacct --noheader --parsable2 --allocations --delimiter={_END} --format=JobID,Comment,JobName,State,ExitCode,Submit,Start,End,User"

OWN = "flowplan.dev/"
LINEAGE, PROJECT, ENVIRONMENT = f"{OWN}lineage", f"{OWN}project", f"{OWN}environment"
RUN_ID, ADDRESS, ATTEMPT, CONTENT = f"{OWN}run-id", f"{OWN}address", f"{OWN}attempt", f"{OWN}content"
CREATED_FROM, ARRAY = f"{OWN}created-from", f"{OWN}array"

FORGOTTEN = "Forgotten"

_PENDING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
)
_ENDS = {
    "COMPLETED": Status.SUCCEEDED,
    "CANCELLED": Status.CANCELLED,
    "TIMEOUT": Status.TIMED_OUT,
    "DEADLINE": Status.TIMED_OUT,
} | dict.fromkeys(("FAILED", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED"), Status.FAILED)
_WORDS = {
    "TIMEOUT": "its time limit was over",
    "DEADLINE": "its deadline was over",
    "OUT_OF_MEMORY": "it used more memory than it had asked for",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not start",
    "PREEMPTED": "another job took its place",
    "REVOKED": "another cluster runs it",
    "CANCELLED": "it was cancelled",
}


_WITHOUT_CODE = frozenset({"CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL"})
"""States with a code, if any, that is not of the job: 1 of one whose node failed."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job, as squeue or sacct tells it.

    Attributes:
        id: its number, ``1234``; of a task of an array ``1234_5``.
        labels: what is in its comment; {} for a job that flowplan did not create.
        told: the fields of squeue by their names there; of sacct only the few that it has.
    """

    id: str
    state: str
    labels: Mapping[str, str]
    told: Mapping[str, str]

    @property
    def place(self) -> tuple[int, ...]:
        """Return its place in the order in which jobs are submitted."""
        return tuple(map(int, re.findall(r"\d+", self.id)))

    @property
    def run_id(self) -> str:
        return self.labels.get(RUN_ID, "")

    @property
    def over(self) -> bool:
        """Return whether it has ended."""
        return self.state in _ENDS

    @property
    def waits(self) -> bool:
        """Return whether it is in the queue."""
        return self.state in _PENDING

    @property
    def held(self) -> bool:
        """Return whether its user holds it back: flowplan until it is released, or somebody since."""
        return self.waits and self.told.get("Reason") == "JobHeldUser"


def comment(labels: Mapping[str, str], created_from: str = "") -> str:
    """Return labels as the comment of a job: ``flowplan.dev/address=train[day=1] team=data``."""
    known = {**labels, **({CREATED_FROM: created_from} if created_from else {})}
    return " ".join(f"{quote(key, '/')}={quote(str(value or ''), '/:@[]=,')}" for key, value in known.items())


def labels_of(text: str) -> dict[str, str]:
    """Return the labels that a comment holds, {} for one that flowplan did not write."""
    pairs = (word.partition("=") for word in text.split())
    found = {unquote(key): unquote(value) for key, _, value in pairs}
    return found if RUN_ID in found or ARRAY in found else {}


def queued(text: str) -> list[Job]:
    """Return the jobs that squeue told."""
    found = []
    for line in text.split("\n"):
        parts = line.split(_END)
        if len(parts) == len(FIELDS) + 1:  # a name or a comment with a newline is none of ours
            told = dict(zip(FIELDS, parts, strict=False))
            found.append(Job(told["JobArrayID"], told["State"], labels_of(told["Comment"]), told))
    return found


def accounted(text: str) -> list[Job]:
    """Return the jobs that sacct told; of one that was requeued, the newest execution."""
    found = {}
    for line in text.split("\n"):
        parts = line.split(_END)
        if len(parts) == 9:
            job, words, name, state, code, submitted, start, end, user = parts
            told = {
                "Name": name,
                "exit_code": code,
                "SubmitTime": submitted,
                "StartTime": start,
                "EndTime": end,
                "UserName": user,
            }
            found[job] = Job(job, state.split(" ")[0].rstrip("+"), labels_of(words), {**told, "Reason": state})
    return list(found.values())


def observed(job: Job, cluster: str, record: Recorded | None = None) -> Observed:
    """Return what is known of a job as an observation; of an imported one, the identity is in its record."""
    told, labels = job.told, job.labels
    status, reason, message, code = _condition(job)
    if record and record.status is Status.CREATING and job.held:  # it was never released
        status, reason = Status.CREATING, ""
    restarts = _number(told.get("restartcnt", ""))
    begun = not job.waits and job.state != "COMPLETING"  # before it is in the queue again, the restart is counted
    started = moment(told.get("StartTime", "")) if not job.waits else None
    imported = record is not None and bool(record.handle.get(IMPORTED))
    return Observed(
        record.run_id if record else job.run_id,
        address=record.address if record else labels.get(ADDRESS, ""),
        attempt=record.attempt if record else _number(labels.get(ATTEMPT, "")),
        status=status,
        reason=reason,
        message=message,
        exit_code=code,
        attempts=restarts + begun,
        handle=handle(job) | ({IMPORTED: True} if imported else {}),
        infrastructure_id=f"{cluster}:{job.id}",
        name=told.get("Name", ""),
        started_at=started,
        finished_at=moment(told.get("EndTime", "")) if job.over else None,
        at=moment(told.get("EndTime", "")) if job.over else started,
        live=None if job.over or record is None else live_of(job, record.objects, imported=imported),
        content=labels.get(CONTENT, ""),
        created_at=moment(told.get("SubmitTime", "")),
        created_from=labels.get(CREATED_FROM, ""),
        progress={"seconds": _seconds(told.get("TimeUsed", "")) or 0} if status is Status.RUNNING else {},
        tries=(Try(restarts + 1, None, started),) if restarts and begun else (),
    )


def handle(job: Job) -> dict[str, Json]:
    """Return how a job is found again; ids are used again some day, together with another time."""
    return {"job": job.id, "submitted": moment(job.told.get("SubmitTime", "")) or ""}


def gone(record: Recorded) -> Observed:
    """Return the observation that there is no such job."""
    return Observed(record.run_id, exists=False, address=record.address, attempt=record.attempt)


def as_recorded(record: Recorded) -> Observed:
    """Return the observation of a job whose end is recorded, and which the controller need not remember."""
    return Observed(
        record.run_id,
        address=record.address,
        attempt=record.attempt,
        status=record.status,
        reason=record.reason,
        message=record.message,
        exit_code=record.exit_code,
        attempts=record.attempts,
        handle=record.handle,
        infrastructure_id=record.infrastructure_id,
        name=record.name,
        started_at=record.started_at,
        finished_at=record.finished_at,
    )


def forgotten(record: Recorded, why: str) -> Observed:
    """Return the observation of a job that was there, and of which nobody knows the end."""
    return replace(gone(record), status=Status.LOST, reason=FORGOTTEN, message=why)


def _condition(job: Job) -> tuple[Status, str, str, int | None]:
    """Return status, reason, message and exit code of a job."""
    reason = job.told.get("Reason", "")
    reason = "" if reason in ("None", "(null)") else reason
    if job.waits:
        return Status.PENDING, reason if job.state == "PENDING" else job.state, "", None
    end = _ENDS.get(job.state)
    if end is None:
        return Status.RUNNING, "" if job.state == "RUNNING" else job.state, "", None
    if end is Status.SUCCEEDED:
        return end, "Completed", "", 0
    returned, signal = _exit(job.told.get("exit_code", ""))
    code = returned if returned or not signal else 128 + signal
    if job.state == "FAILED":
        by_signal = {137: "SIGKILL", 143: "SIGTERM", 139: "SIGSEGV", 134: "SIGABRT"}
        return end, by_signal.get(code or 0, "Error"), exit_codes.explained(code), code
    words = _WORDS[job.state]
    if job.state == "CANCELLED" and (who := re.search(r"CANCELLED by (\d+)", reason)):
        words = f"{words} by user {who[1]}"
    return end, job.state, words, None if job.state in _WITHOUT_CODE else code


def _exit(text: str) -> tuple[int | None, int]:
    """Return exit code and signal of ``3:0``, or of a number as wait(2) gives it, which squeue shows."""
    returned, colon, signal = text.partition(":")
    if colon:
        return _number(returned), _number(signal)
    if not text.isdigit():
        return None, 0
    return int(text) >> 8, int(text) & 127


def as_changed(job: Job, created: Objects) -> Objects:
    """Return the objects that a job was made of with what was changed in place since."""
    if job.over:
        return created
    before, live = created["SlurmJob"], live_of(job, created)["SlurmJob"]
    live["labels"].pop(CREATED_FROM, None)
    return {"SlurmJob": before | {key: value for key, value in live.items() if key in before and value is not None}}


def live_of(job: Job, created: Objects, *, imported: bool = False) -> Objects:
    """Return the live values of what was asked for; what cannot be told is as it was, as are name and labels of an import."""
    told, wanted = job.told, created.get("SlurmJob", {})
    found: dict[str, Any] = {
        "name": wanted.get("name", "") if imported else told["Name"],
        "labels": wanted.get("labels", {}) if imported else dict(job.labels),
        "partition": told["Partition"],
        "account": told["Account"],
        "qos": told["QOS"],
        "cpus": _number(told["cpus-per-task"]) or wanted.get("cpus"),
        "memory": _memory(told["MinMemory"], wanted.get("memory")),
        "gpus": wanted.get("gpus"),
        "time_limit": _seconds(told["TimeLimit"]),
    }
    if gres := re.search(r"\bgpu(?::[^:,=]+)?[:=](\d+)", told["tres-per-node"]):
        found["gpus"] = int(gres[1])
    return {"SlurmJob": found}


def _memory(text: str, wanted: Json) -> Json:
    """Return the bytes of ``100M``; memory for each CPU (``4Gc``) is not what was asked for and left."""
    found = re.fullmatch(r"([\d.]+)([KMGT])n?", text)
    return round(float(found[1]) * 2 ** (10 * ("KMGT".index(found[2]) + 1))) if found else wanted


def _seconds(text: str) -> int | None:
    """Return the seconds of ``5:00``, ``1-02:00:00``; None without a limit."""
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in parts) or (dash and not days.isdigit()):
        return None
    total = 0
    for part in parts:
        total = 60 * total + int(part)
    return (total if len(parts) > 1 or not dash else 3600 * total) + 86400 * int(days or 0)


def moment(text: str) -> str | None:
    """Return a time of Slurm's, which was asked for in UTC, as RFC 3339; None for ``N/A`` and ``Unknown``."""
    try:
        return timestamp(datetime.fromisoformat(text).replace(tzinfo=UTC), "seconds")
    except ValueError:
        return None


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def by_run(jobs: Iterable[Job]) -> dict[str, Job]:
    """Return the job of each run id; of several, which exist for a moment only, the first one counts."""
    found: dict[str, Job] = {}
    for job in jobs:
        if job.run_id and (job.run_id not in found or job.place < found[job.run_id].place):
            found[job.run_id] = job
    return found
