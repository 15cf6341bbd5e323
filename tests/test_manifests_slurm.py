"""What the slurm provider makes of a run, and what it reads in the answers of Slurm's commands, without a cluster."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from flowplan.planner.manifests import ResolvedRun, slurm
from flowplan.providers.slurm import jobs, scripts
from flowplan.providers.slurm.submitting import options
from flowplan.schemas.runs import Identity, Rendered, Status
from flowplan.schemas.secrets import SecretSource, token

TOKEN = token(SecretSource("from_env", "PW"), b"key", "it's a secret")


def run(**fields: Any) -> ResolvedRun:
    return ResolvedRun("a", "a", 0, "slurm", "slurm", {"command": ["true"], **fields})


def rendered(**fields: Any) -> Rendered:
    return slurm.render(run(**fields), Identity("p", "11111111-1111-4111-8111-111111111111", "a[x=1]", 2))


@pytest.mark.parametrize(
    ("fields", "place", "words"),
    [
        ({"command": []}, "runs.a.command", "needs a command"),
        ({"env": {"A-B": "1"}}, "runs.a.env.A-B", "export"),
        ({"env": {"A": {"secret_key_ref": {"name": "s", "key": "k"}}}}, "runs.a.env.A", "Kubernetes only"),
        ({"labels": {"team": TOKEN}}, "runs.a.labels", "everybody on the cluster"),
        ({"slurm": {"options": {"comment": "x"}}}, "runs.a.slurm.options.comment", "flowplan's own"),
        ({"slurm": {"options": {"time": 5}}}, "runs.a.slurm.options.time", "timeout"),
        ({"slurm": {"options": {"--nice": 5}}}, "runs.a.slurm.options.--nice", "without --"),
        ({"resources": {"gpu": "all"}}, "runs.a.resources.gpu", "not all"),
        ({"resources": {"cpu": "none"}}, "runs.a.resources.cpu", "CPUs"),
    ],
)
def test_faults_are_told_with_their_place(fields: dict[str, Any], place: str, words: str) -> None:
    [fault] = slurm.check(run(**fields))
    assert fault.subject == place and words in f"{fault.message} {fault.hint}"


def test_what_is_asked_for_is_in_whole_units_of_slurm() -> None:
    made = rendered(
        resources={"cpu": "1500m", "memory": "1000001", "gpu": 2},
        timeout="90s",
        slurm={
            "partition": "gpu",
            "requeue": True,
            "options": {"nodes": 2, "exclusive": True, "nice": None, "wait-all-nodes": False},
        },
    )
    assert options(made.objects["SlurmJob"]) == [
        "--partition=gpu", "--requeue", "--cpus-per-task=2", "--mem=1M", "--gres=gpu:2", "--time=2", "--exclusive", "--nodes=2",
    ]  # fmt: skip
    assert options(rendered().objects["SlurmJob"]) == ["--no-requeue"]


def test_what_slurm_has_no_use_for_is_warned_of() -> None:
    assert len(rendered(image="busybox", retries=2).warnings) == 2
    assert "process list" in rendered(command=["echo", TOKEN]).warnings[0]


def test_a_comment_holds_any_labels() -> None:
    labels = {**rendered().objects["SlurmJob"]["labels"], "strange key": "a=b c|d\n\x1f ü%20"}
    told = jobs.comment(labels, "ada@host:/a b")
    assert told.isascii() and told.isprintable() and "flowplan.dev/address=a[x=1] " in told
    assert jobs.labels_of(told) == {**labels, jobs.CREATED_FROM: "ada@host:/a b"}
    assert jobs.labels_of("the comment of somebody=else") == {}


def test_the_script_is_read_by_a_shell_as_it_was_meant(tmp_path: Any) -> None:
    strange = "a b'c\"$HOME `x` \\n\nü"
    made = rendered(
        command=["printf", "<%s>", strange, f"-{TOKEN}-{TOKEN}", "", "$PW"],
        env={"S": strange, "PW": TOKEN, "GONE": None},
    )
    text = scripts.script(made.objects, str(tmp_path), str(tmp_path))
    assert "it's" not in text and scripts.objects_of(text) == made.objects
    kept = tmp_path / scripts.SECRETS
    kept.write_text(scripts.secrets(made.objects, {TOKEN: "it's a secret"}))
    assert scripts.values_of(kept.read_text()) == ["it's a secret"]
    done = subprocess.run(["sh"], check=False, input=text, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"<{strange}><-it's a secret-it's a secret><><$PW>"
    assert not kept.exists()


def line(**told: str) -> str:
    known = {"JobArrayID": "7", "State": "RUNNING", "restartcnt": "0", "exit_code": "0", "NumTasks": "1"} | told
    return "".join(f"{known.get(name, '')}\x1f" for name in jobs.FIELDS)


@pytest.mark.parametrize(
    ("told", "status", "reason", "code"),
    [
        ({"State": "PENDING", "Reason": "Priority"}, Status.PENDING, "Priority", None),
        ({"State": "REQUEUED", "Reason": "None"}, Status.PENDING, "REQUEUED", None),
        ({"State": "SUSPENDED"}, Status.RUNNING, "SUSPENDED", None),
        ({"State": "COMPLETED"}, Status.SUCCEEDED, "Completed", 0),
        ({"State": "FAILED", "exit_code": "768"}, Status.FAILED, "Error", 3),  # as Slurm 22 says it
        ({"State": "FAILED", "exit_code": "3:0"}, Status.FAILED, "Error", 3),  # as sacct says it
        ({"State": "FAILED", "exit_code": "9"}, Status.FAILED, "SIGKILL", 137),
        ({"State": "FAILED", "exit_code": "0:9"}, Status.FAILED, "SIGKILL", 137),
        ({"State": "OUT_OF_MEMORY", "exit_code": "0:125"}, Status.FAILED, "OUT_OF_MEMORY", 253),
        ({"State": "TIMEOUT", "exit_code": "0:0"}, Status.TIMED_OUT, "TIMEOUT", None),
        ({"State": "NODE_FAIL", "exit_code": "1"}, Status.FAILED, "NODE_FAIL", None),
        ({"State": "PREEMPTED", "exit_code": "0:15"}, Status.FAILED, "PREEMPTED", 143),
        ({"State": "CANCELLED", "exit_code": "15"}, Status.CANCELLED, "CANCELLED", None),
    ],
)
def test_the_states_of_slurm(told: dict[str, str], status: Status, reason: str, code: int | None) -> None:
    [job] = jobs.queued(line(**told))
    seen = jobs.observed(job, "cluster")
    assert (seen.status, seen.reason, seen.exit_code) == (status, reason, code)
    assert seen.infrastructure_id == "cluster:7"


def test_accounting_tells_the_newest_execution_and_who_cancelled() -> None:
    rows = [
        ["7", "", "n", "REQUEUED", "0:0", "2026-11-01T08:00:00", "2026-11-01T08:00:01", "2026-11-01T08:00:02", "ada"],
        ["7", "", "n", "CANCELLED by 1000", "0:15", "2026-11-01T08:00:00", "2026-11-01T08:02:00", "2026-11-01T08:03:00", "ada"],
    ]  # fmt: skip
    [job] = jobs.accounted("\n".join("\x1f".join(row) for row in rows))
    seen = jobs.observed(job, "c")
    assert (seen.status, seen.message) == (Status.CANCELLED, "it was cancelled by user 1000")
    assert (seen.started_at, seen.finished_at) == ("2026-11-01T08:02:00Z", "2026-11-01T08:03:00Z")


@pytest.mark.parametrize(
    ("told", "field", "value"),
    [
        ({"TimeLimit": "5:00"}, "time_limit", 300),
        ({"TimeLimit": "1-02:00:00"}, "time_limit", 93600),
        ({"TimeLimit": "UNLIMITED"}, "time_limit", None),
        ({"MinMemory": "1.50G"}, "memory", 1610612736),
        ({"MinMemory": "4Gc"}, "memory", 1),  # for each CPU: not what was asked for
        ({"tres-per-node": "gres:gpu:a100:2"}, "gpus", 2),
        ({"tres-per-node": "gres/gpu=4"}, "gpus", 4),
        ({"cpus-per-task": "N/A"}, "cpus", 1),
    ],
)
def test_what_a_job_has_now(told: dict[str, str], field: str, value: Any) -> None:
    [job] = jobs.queued(line(**told))
    assert jobs.live_of(job, {"SlurmJob": {"memory": 1, "cpus": 1}})["SlurmJob"][field] == value


def test_a_line_of_somebody_with_a_strange_comment_is_left_out() -> None:
    lines = [line(JobArrayID="1", Comment="a\nb"), line(JobArrayID="2", Comment="a\u2028b"), ""]
    assert [job.id for job in jobs.queued("\n".join(lines))] == ["2"]
