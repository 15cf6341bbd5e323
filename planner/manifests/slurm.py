"""The pure half of ``slurm``: a run as one batch job, with what ``sbatch`` is asked for and what the job does."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from flowplan.planner.manifests import IN_PLACE, REPLACE, Effect, ResolvedRun, over_already, program, with_content
from flowplan.planner.manifests.names import docker_run_name, environment_label, is_own_label
from flowplan.schemas import quantities
from flowplan.schemas.kinds import Kind
from flowplan.schemas.pointers import escape
from flowplan.schemas.runs import Identity, Json, Objects, Origin, Rendered
from flowplan.schemas.secrets import tokens_in
from flowplan.schemas.sources import Diagnostic, Path

CONTENT_LABELS = ("/SlurmJob/labels/flowplan.dev~1content",)
KINDS = {
    "SlurmJob": Kind(
        shorter=(("/SlurmJob/", ""),),
        units=(("memory", "bytes"), ("time_limit", "seconds")),
        order="name argv cwd env partition account qos cpus memory gpus time_limit requeue options labels",
    )
}
ENGINE = "cluster"
EXAMPLE = """\
  hello:
    provider: slurm
    command: [echo, "${var.greeting}"]
    resources: {cpu: 1, memory: 100Mi}
    timeout: 10m
"""

RESERVED = frozenset({
    "account", "array", "batch", "chdir", "clusters", "comment", "cpus-per-task", "dependency", "error", "export",
    "export-file", "get-user-env", "gid", "help", "hold", "input", "job-name", "mem", "no-requeue", "open-mode",
    "output", "parsable", "partition", "qos", "quiet", "requeue", "test-only", "time", "uid", "usage", "verbose",
    "version", "wait", "wrap",
})  # fmt: skip
"""Options of sbatch that flowplan sets itself, or that change what sbatch does or answers."""

_INSTEAD = {
    "account": "slurm.account",
    "array": "slurm.array",
    "chdir": "working_dir",
    "cpus-per-task": "resources.cpu",
    "dependency": "needs",
    "export": "env",
    "job-name": "name",
    "mem": "resources.memory",
    "no-requeue": "slurm.requeue",
    "partition": "slurm.partition",
    "qos": "slurm.qos",
    "requeue": "slurm.requeue",
    "time": "timeout",
}
"""Option of sbatch -> the field of a run that sets it."""

_MEBIBYTE = 2**20
_OPTION = re.compile("[a-z][a-z0-9-]+")
_VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_UNUSED = {
    "image": "a job runs programs of the cluster's nodes; image is not used",
    "image_pull_policy": "no image is pulled by the slurm provider; image_pull_policy is not used",
    "annotations": "annotations are not used by the slurm provider",
    "retries": "Slurm does not start a job that has failed again; retries is not used",
    "docker": "the docker block is not used by the slurm provider",
    "kubernetes": "the kubernetes block is not used by the slurm provider",
    "process": "the process block is not used by the slurm provider",
}
_PUBLIC = ("name", "working_dir", "labels", "slurm")
"""Fields that everybody on a cluster can read."""


def check(run: ResolvedRun) -> list[Diagnostic]:
    """Return every fault of the run that can be seen without the cluster."""
    faults = program.faults(run, "a job of Slurm", _wrong_name)
    for name in _PUBLIC:
        if tokens_in(run.fields.get(name)):
            hint = "give it in env, or in a file"
            faults.append(run.fault((name,), "holds a sensitive value, and everybody on the cluster can read it", hint))
    for name, value in _options(run).items():
        faults += _option_faults(run, name, value)
    try:
        _amounts(run)
    except _NoAmount as error:
        faults.append(run.fault(error.place, str(error)))
    return faults


def _wrong_name(name: str) -> tuple[str, str] | None:
    return (
        None if _VARIABLE.fullmatch(name) else ("not a name that a job script can export", "use letters, digits and _")
    )


def _option_faults(run: ResolvedRun, name: str, value: Json) -> list[Diagnostic]:
    path = ("slurm", "options", name)
    if not _OPTION.fullmatch(name):
        return [run.fault(path, "not an option of sbatch", "write its long name without --, such as constraint")]
    if name in RESERVED:
        instead = f"say it with {_INSTEAD[name]}" if name in _INSTEAD else "leave it out"
        return [run.fault(path, "this option is flowplan's own", instead)]
    if not isinstance(value, str | int | float):
        return [run.fault(path, "must be text, a number, or true for an option without a value")]
    return []


def together(run: ResolvedRun) -> bool:
    """Return whether the cells of the run are the tasks of an array."""
    return bool((run.fields.get("slurm") or {}).get("array"))


def render(run: ResolvedRun, identity: Identity) -> Rendered:
    """Return the ``SlurmJob`` of one attempt."""
    name = docker_run_name(identity, run.fields.get("name"))
    labels = {
        "flowplan.dev/address": identity.address,
        "flowplan.dev/attempt": str(identity.attempt),
        "flowplan.dev/lineage": identity.lineage,
        "flowplan.dev/project": identity.project,
        "flowplan.dev/run-id": identity.run_id,
        **environment_label(identity),
    }
    job: dict[str, Json] = {
        "name": name,
        **program.body(run, labels),
        **{key: value for key, (value, _) in _amounts(run).items()},
    }
    remarks = [text for field, text in _UNUSED.items() if run.fields.get(field)]
    if tokens_in(job["argv"]):
        remarks.append("a sensitive value in the command can be read in the process list of a node; give it in env")
    return Rendered(
        objects=with_content({"SlurmJob": job}, CONTENT_LABELS),
        name=name,
        run_id=identity.run_id,
        attempt=identity.attempt,
        origins=_origins(run),
        warnings=tuple(remarks),
    )


class _NoAmount(ValueError):
    def __init__(self, place: Path, words: str) -> None:
        super().__init__(words)
        self.place = place


def _amounts(run: ResolvedRun) -> dict[str, tuple[Json, Path]]:
    """Return what ``sbatch`` is asked for, each with its place in the run; Slurm counts whole CPUs, mebibytes and minutes.

    Raises:
        _NoAmount: a value is none that Slurm can give.
    """
    resources, block = run.fields.get("resources") or {}, run.fields.get("slurm") or {}
    found: dict[str, tuple[Json, Path]] = {
        key: (block[key], ("slurm", key)) for key in ("partition", "account", "qos") if block.get(key)
    }
    if block.get("requeue"):
        found["requeue"] = (True, ("slurm", "requeue"))
    if options := _options(run):
        found["options"] = (dict(sorted(options.items())), ("slurm", "options"))
    places: dict[str, tuple[Path, Json]] = {
        "cpus": (("resources", "cpu"), resources.get("cpu")),
        "memory": (("resources", "memory"), resources.get("memory")),
        "gpus": (("resources", "gpu"), resources.get("gpu")),
        "time_limit": (("timeout",), run.fields.get("timeout")),
    }
    for key, (place, value) in places.items():
        if value is not None:
            try:
                found[key] = (_AMOUNTS[key](value), place)
            except ValueError as error:
                raise _NoAmount(place, str(error)) from None
    return found


def _gpus(value: Json) -> int:
    if value == "all":
        raise ValueError("Slurm gives a number of GPUs, not all of them")
    return int(value)


_AMOUNTS: dict[str, Callable[[Json], int]] = {
    "cpus": lambda value: math.ceil(quantities.cpus(value) / 10**9),
    "memory": lambda value: max(1, math.ceil(quantities.memory(value) / _MEBIBYTE)) * _MEBIBYTE,
    "gpus": _gpus,
    "time_limit": lambda value: max(1, math.ceil(quantities.duration(value) / 60)) * 60,
}


def _options(run: ResolvedRun) -> dict[str, Json]:
    given = (run.fields.get("slurm") or {}).get("options") or {}
    return {name: value for name, value in given.items() if value is not None and value is not False}


def _origins(run: ResolvedRun) -> dict[str, Origin]:
    origins = program.origins(run, "SlurmJob")
    if run.fields.get("name"):
        origins["/SlurmJob/name"] = run.origin("name")
    for key, (_, path) in _amounts(run).items():
        origins[f"/SlurmJob/{key}"] = run.origin(*path)
    for name in _options(run):
        origins[f"/SlurmJob/options/{escape(name)}"] = run.origin("slurm", "options", name)
    return origins


IN_PLACE_RULES = {
    "name": "scontrol update changes the name of a job that has not ended",
    "labels": "they are in the job's comment, which scontrol update changes",
    "time_limit": "scontrol update changes it; Slurm lets users lower it, and operators raise it",
}


WHILE_PENDING = frozenset({"cpus", "memory", "partition", "account", "qos"})


def effect(path: str, before: Json, after: Json) -> Effect:
    """Return what changing the field takes on a live job, by the rules of ``scontrol update``."""
    field = path.split("/")[2] if path.count("/") > 1 else ""
    if field in IN_PLACE_RULES and (after is not None or field == "labels"):
        return Effect(IN_PLACE, IN_PLACE_RULES[field])
    if field in WHILE_PENDING:
        return Effect(REPLACE, "scontrol update changes it only while the job waits in the queue")
    return Effect(REPLACE, "a job keeps what it was submitted with")


def while_pending(path: str, before: Json, after: Json) -> str:
    """Return by which rule a field changes in place as long as the job waits."""
    known = path.removeprefix("/SlurmJob/") in WHILE_PENDING and after is not None
    return "scontrol update changes it, because the job waits in the queue" if known else ""


def interrupts(path: str, before: Json, after: Json, progress: Mapping[str, float]) -> str:
    """Say that another time limit of a live job ends it at once, or that it may."""
    return over_already(before, after, progress) if path == "/SlurmJob/time_limit" and after else ""


_DRIFTING = ("name", "partition", "account", "qos", "cpus", "memory", "gpus", "time_limit")


def comparable(applied: Objects) -> Objects:
    """Return what can be changed on the cluster by others: what was asked for, and the labels that are not flowplan's."""
    job: Mapping[str, Any] = applied.get("SlurmJob", {})
    labels = {key: value for key, value in job.get("labels", {}).items() if not is_own_label(key)}
    return {
        "SlurmJob": {**{key: job[key] for key in _DRIFTING if key in job}, **({"labels": labels} if labels else {})}
    }


def equal(path: str, one: Json, other: Json) -> bool:
    """Return whether two values mean the same: names of accounts are in lower case, one of several partitions is taken."""
    if isinstance(one, str) and isinstance(other, str):
        if path in ("/SlurmJob/account", "/SlurmJob/qos"):
            return one.lower() == other.lower()
        if path == "/SlurmJob/partition":
            return bool(set(one.split(",")) & set(other.split(",")))
    return bool(one == other)
