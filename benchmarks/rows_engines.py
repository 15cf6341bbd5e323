"""Real containers and Jobs: against the smallest program that does the same, and against kubectl."""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import specs
from measuring import FLOWPLAN, PYTHON, Failed, Result, Sample, compared, in_turn, need, ratio, run, scaled, timed
from rows_starting import applied, namespace, unchanged

BASELINES = str(Path(__file__).with_name("baselines.py"))
RUNS = 5
CONTAINERS = scaled(40)
JOBS = scaled(300)
MANY_JOBS = scaled(1000)
OUTPUT = scaled(100_000_000)


APPLY = [FLOWPLAN, "apply", "flowplan.yaml", "--yes", "--detach"]
"""With the spec: without one, apply would carry out the last plan, which is done after the first round."""
DESTROY = [FLOWPLAN, "destroy", "--yes"]
STOP = [PYTHON, BASELINES, "stop-containers"]


def containers(scratch: Path) -> list[Result]:
    """Compare creating, starting and removing containers; every round is checked on the engine."""
    specs.docker()
    project = f"bench-{uuid.uuid4().hex[:8]}"
    directory = specs.write(scratch / "containers", specs.matrix(CONTAINERS, specs.CONTAINER), project)
    created, removed, stopped = ([], []), ([], []), []
    for _ in range(RUNS):
        created[0].append(run(APPLY, directory))
        _expect_running(f"dev.flowplan.project={project}", CONTAINERS)
        removed[0].append(run(DESTROY, directory))
        _expect_running(f"dev.flowplan.project={project}", 0)
        theirs = _with_the_package(directory, lambda label: _remove_all(label, directory))
        created[1].append(theirs[0])
        removed[1].append(theirs[1])
        stopped.append(_with_the_package(directory, lambda label: run([*STOP, label], directory))[1])
    return [
        ratio(f"apply --detach, {CONTAINERS} containers", "docker package, 10 threads", 1.15, *created),
        ratio(f"destroy, {CONTAINERS} containers, grace 1 s", "docker rm -f, 10 threads, no grace", 1.3, *removed),
        ratio(
            f"destroy, {CONTAINERS} containers, grace 1 s",
            "docker package, same grace, 40 threads",
            1.3,
            removed[0],
            stopped,
        ),
    ]


def _with_the_package(directory: Path, remove: Callable[[str], Sample]) -> tuple[Sample, Sample]:
    """Return how long containers take to create and to remove without flowplan."""
    label = f"bench-{uuid.uuid4().hex[:8]}"
    try:
        created = run([PYTHON, BASELINES, "create-containers", str(CONTAINERS), label], directory)
        _expect_running(f"bench={label}", CONTAINERS)
        removed = remove(label)
        _expect_running(f"bench={label}", 0)
    finally:
        _remove_all(label, directory)
    return created, removed


def _expect_running(label: str, count: int) -> None:
    """Raise Failed unless exactly ``count`` containers of a label exist and run."""
    found = specs.docker().containers.list(all=True, filters={"label": label})
    running = [c for c in found if c.status == "running"]
    if len(found) != count or len(running) != count:
        raise Failed(f"{len(running)} of {len(found)} containers of {label} run, not {count}")


def _expect_jobs(namespace: str, label: str, count: int) -> None:
    """Raise Failed unless exactly ``count`` Jobs of a label exist."""
    found = specs.api().items(f"/apis/batch/v1/namespaces/{namespace}/jobs", labelSelector=label)
    live = [job for job in found if not job["metadata"].get("deletionTimestamp")]
    if len(live) != count:
        raise Failed(f"{len(live)} Jobs of {label}, not {count}")


def _remove_jobs(namespace: str, label: str) -> None:
    """Remove the Jobs of a label at once, and return when they are gone, so that they are no load for the next."""
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    specs.api().call("DELETE", jobs, {"labelSelector": label}, {"propagationPolicy": "Background"})
    deadline = time.monotonic() + 120
    while specs.api().items(jobs, partial=True, labelSelector=label):
        if time.monotonic() > deadline:
            raise Failed(f"the Jobs of {label} do not go away")
        time.sleep(0.2)


def _remove_all(label: str, directory: Path) -> Sample:
    docker = need("docker")
    names = [c.name for c in specs.docker().containers.list(all=True, filters={"label": f"bench={label}"})]

    def remove() -> None:
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(lambda name: run([docker, "rm", "-f", name], directory), names))

    return timed(remove)


DELETIONS = 2
"""Rounds in which kubectl's deletion is measured: it takes up to a minute."""


def jobs(scratch: Path) -> list[Result]:
    """Compare creating and removing Jobs with kubectl and with raw requests."""
    kubectl = need("kubectl")
    with namespace() as name:
        directory = specs.write(scratch / "jobs", specs.matrix(JOBS, specs.job(name)))
        ours, theirs, raw, gone, deleted = ([] for _ in range(5))
        mine = "app.kubernetes.io/managed-by=flowplan"
        for number in range(RUNS):
            ours.append(run(APPLY, directory))
            _expect_jobs(name, mine, JOBS)
            gone.append(run(DESTROY, directory))
            _expect_jobs(name, mine, 0)
            label = f"k{uuid.uuid4().hex[:8]}"
            file = str(specs.manifests(directory / "jobs.json", specs.jobs(name, JOBS, label)))
            theirs.append(run([kubectl, "apply", "-f", file], directory))
            _expect_jobs(name, f"bench={label}", JOBS)
            if number < DELETIONS:
                deleted.append(run([kubectl, "-n", name, "delete", "jobs", "-l", f"bench={label}"], directory))
            _remove_jobs(name, f"bench={label}")
            file = str(specs.manifests(directory / "raw.json", specs.jobs(name, JOBS, f"r{label}")))
            raw.append(run([PYTHON, BASELINES, "post-jobs", file], directory))
            _expect_jobs(name, f"bench=r{label}", JOBS)
            _remove_jobs(name, f"bench=r{label}")
    return [
        ratio(f"apply --detach, {JOBS} Jobs", "kubectl apply -f", 0.8, ours, theirs),
        ratio(f"apply --detach, {JOBS} Jobs", "raw POSTs over one pool", 1.8, ours, raw),
        ratio(f"destroy, {JOBS} Jobs", "kubectl delete -l", 1.0, gone, deleted, note=f"kubectl {len(deleted)} times"),
    ]


def diff_jobs(scratch: Path) -> Result:
    kubectl = need("kubectl")
    with namespace() as name:
        directory = specs.write(scratch / "diff", specs.matrix(JOBS, specs.job(name)))
        file = str(specs.manifests(directory / "jobs.json", specs.jobs(name, JOBS, "diff")))
        run([kubectl, "apply", "-f", file], directory)
        with applied(directory, "--detach"):
            unchanged(directory)
            return compared(
                f"plan with refresh, {JOBS} Jobs, no change",
                "kubectl diff",
                0.3,
                lambda: run([FLOWPLAN, "plan"], directory),
                lambda: run([kubectl, "diff", "-f", file], directory),
                3,
            )


def refresh_jobs(scratch: Path) -> Result:
    """Compare observing Jobs alone, in this process, with connections that are open already."""
    api = specs.api()
    with namespace() as name:
        directory = specs.write(scratch / "refresh", specs.matrix(MANY_JOBS, specs.job(name)))
        with applied(directory, "--detach"):
            look, count = _looking(directory / ".flowplan/state.db")
            path, label = f"/apis/batch/v1/namespaces/{name}/jobs", "app.kubernetes.io/managed-by=flowplan"
            seen, _ = look()
            if not len(seen) == len(api.items(path, labelSelector=label)) == MANY_JOBS:
                raise Failed(f"{len(seen)} Jobs were seen, not {MANY_JOBS}")
            ours, theirs = in_turn(
                lambda: timed(look), lambda: timed(lambda: api.items(path, labelSelector=label)), 2 * RUNS
            )
    result = ratio(f"refresh of {MANY_JOBS:,} live Jobs", "one paged list of them", 3, ours, theirs)
    result.note = f"{count()} requests"
    return result


def _looking(state: Path) -> tuple[Callable[[], Any], Callable[[], int]]:
    """Return a function that observes the engines of a state as ``plan`` does, and one that counts its requests."""
    from flowplan.planning import observe
    from flowplan.project import Project
    from flowplan.providers.kubernetes.requests import Api
    from flowplan.state.sqlite.store import SqliteStore

    sent: list[str] = []
    send = Api._send

    def counted(self: Api, method: str, path: str, *rest: object) -> object:
        sent.append(path)
        return send(self, method, path, *rest)  # type: ignore[arg-type]

    store = SqliteStore.open(state)
    project = contextlib.ExitStack().enter_context(Project.of_state(store))
    records = store.records()

    def look() -> Any:
        sent.clear()
        Api._send = counted  # type: ignore[assignment,method-assign]
        try:
            return observe(project, records)
        finally:
            Api._send = send  # type: ignore[method-assign]

    return look, lambda: len(sent)


def logs(scratch: Path) -> Result:
    """Compare reading 100 MB that a container has printed."""
    specs.docker()
    docker = need("docker")
    line = "x" * 99
    command = f'["sh", "-c", "yes {line} | head -c {OUTPUT}"]'
    project = f"bench-{uuid.uuid4().hex[:8]}"
    runs = f"  a:\n    provider: docker\n    image: {specs.IMAGE}\n    command: {command}\n"
    directory = specs.write(scratch / "logs", runs, project)
    with applied(directory, "--no-stream"):
        container = specs.docker().containers.list(all=True, filters={"label": f"dev.flowplan.project={project}"})[0]
        ours, theirs = directory / "ours.txt", directory / "theirs.txt"
        result = compared(
            "logs --follow, 100 MB of a container",
            "docker logs -f",
            2.0,
            lambda: run([FLOWPLAN, "logs", "a", "--follow"], directory, output=ours),
            lambda: run([docker, "logs", "-f", container.name], directory, output=theirs),
            3,
        )
        if ours.stat().st_size != OUTPUT or ours.read_bytes() != theirs.read_bytes():
            raise Failed(f"{ours.stat().st_size} bytes of output, not the same {OUTPUT}")
    result.note = f"peak memory {result.details['peak_mib']:.0f} MiB"
    shutil.rmtree(directory, ignore_errors=True)
    return result
