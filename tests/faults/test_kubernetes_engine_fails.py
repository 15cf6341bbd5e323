"""API servers that stop, hang, fail and lie, and people with kubectl: no run is lost, none is started twice."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from faulty_proxy import FaultyProxy
from following import Following, watched
from projects import Project, clear, make_namespace, until

from flowplan.providers.kubernetes.connection import endpoint
from flowplan.providers.kubernetes.jobs import core_path, jobs_path
from flowplan.providers.kubernetes.requests import Api

pytestmark = pytest.mark.kubernetes

slow = pytest.mark.skipif(os.environ.get("FLOWPLAN_DISRUPT") != "1", reason="takes minutes: FLOWPLAN_DISRUPT=1")

SPACE = f"fp-fails-{uuid.uuid4().hex[:8]}"
SECRET = "a-value-that-is-nowhere"
MERGE = "application/merge-patch+json"
HEAD = """\
flowplan: 1
project: {name}
defaults: {{provider: kubernetes, image: "busybox:1.35", grace_period: 1s, kubernetes: {{namespace: {space}}}}}
runs:
"""
IDLE = 'command: [sleep, "600"], kubernetes: {job: {spec: {parallelism: 0}}}'
"""A Job without pods: its object is what matters."""


def status(code: int, reason: str, message: str = "a fault is played") -> dict[str, Any]:
    """Return the answer of an API server that refuses or fails."""
    body = {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code}
    return {"status": code, "body": json.dumps(body).encode()}


FAILING = status(500, "InternalError", "etcdserver: request timed out")


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    made = Api(endpoint({}, Path("/")))
    make_namespace(made, SPACE)
    yield made
    made.call("DELETE", f"/api/v1/namespaces/{SPACE}")
    made.close()


class World:
    """A project on the shared cluster, behind a proxy of its own that plays faults."""

    def __init__(self, api: Api, directory: Path) -> None:
        there = endpoint({}, Path("/"))
        self.api = api
        self.name = f"f{uuid.uuid4().hex[:8]}"
        self.proxy = FaultyProxy(there.server)
        directory.mkdir(exist_ok=True)
        kubeconfig = {
            "current-context": "faulty",
            "clusters": [{"name": "c", "cluster": {"server": self.proxy.url}}],
            "users": [{"name": "u", "user": {"token": there.credentials.header().removeprefix("Bearer ")}}],
            "contexts": [{"name": "faulty", "context": {"cluster": "c", "user": "u"}}],
        }
        path = directory / "kubeconfig"
        path.write_text(yaml.safe_dump(kubeconfig))
        self.project = Project(directory, {"NO_COLOR": "1", "KUBECONFIG": str(path), "FAULTS_SECRET": SECRET})

    def spec(self, *runs: str, space: str = SPACE) -> None:
        """Write runs as ``name: fields``."""
        lines = "".join(f"  {name}: {{{fields}}}\n" for name, _, fields in (run.partition(": ") for run in runs))
        self.project.write(HEAD.format(name=self.name, space=space) + lines)

    def ours(self, kind: str = "jobs", space: str = SPACE) -> list[Any]:
        """Objects of the project, as the cluster itself tells."""
        path = jobs_path(space) if kind == "jobs" else core_path(space, kind)
        return self.api.items(path, labelSelector=f"flowplan.dev/project={self.project.name}")

    def job(self) -> Any:
        [found] = self.ours()
        return found

    def patch(self, body: dict[str, Any]) -> None:
        """Do what a person does with kubectl edit."""
        path = jobs_path(SPACE, self.job()["metadata"]["name"])
        self.api.call("PATCH", path, {"fieldManager": "kubectl-edit"}, body, content=MERGE)

    def told(self) -> dict[str, str]:
        """Address -> status as recorded, without asking the cluster."""
        if not (self.project.directory / ".flowplan" / "state.db").exists():
            return {}
        return {a: r["status"] for a, r in self.project.status("--no-refresh").items()}

    def history(self, address: str = "a") -> list[str]:
        """Return the statuses of a run, without repetitions."""
        told = [e["status"] for e in self.project.events(address)]
        return [s for i, s in enumerate(told) if i == 0 or told[i - 1] != s]

    def close(self) -> None:
        self.proxy.heal()
        clear(self.project, at_once=False)
        self.proxy.close()
        left = [item["metadata"]["name"] for kind in ("jobs", "pods", "secrets") for item in self.ours(kind)]
        assert left == [], "something was left on the cluster"


@pytest.fixture
def world(api: Api, tmp_path: Path) -> Iterator[World]:
    made = World(api, tmp_path)
    yield made
    made.close()


# -- every command, every way not to answer ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "answer", "words"),
    [
        ("answer", {"status": 503, "body": b"no upstream"}, "does not answer: HTTP 503: no upstream"),
        pytest.param("reset", {}, "does not answer: ", marks=slow),
        pytest.param(
            "say", {"body": b"<html>log in first</html>"}, "does not answer like a Kubernetes API server", marks=slow
        ),
        pytest.param("answer", status(401, "Unauthorized", "Unauthorized"), "wrong or expired", marks=slow),
        pytest.param("answer", FAILING, "HTTP 500: etcdserver: request timed out", marks=slow),
        pytest.param("answer", status(429, "TooManyRequests"), "HTTP 429: a fault is played", marks=slow),
        pytest.param("hang", {}, "no answer in time", marks=slow),
    ],
    ids=["503", "reset", "html", "401", "500", "429", "hang"],
)
def test_every_command_says_which_server_does_not_answer(
    world: World, what: str, answer: dict[str, Any], words: str
) -> None:
    world.spec(f"a: {IDLE}")
    world.project.ok("apply", "--yes", "--detach")
    world.proxy.play(what, **answer)
    failing = (("plan",), ("logs", "a"), ("destroy", "--yes"))
    with ThreadPoolExecutor(5) as pool:
        following = pool.submit(watched, world.project, words)
        said = list(pool.map(lambda command: world.project.run(*command, timeout=200), (*failing, ("status",))))
        err = following.result()
    for result in said[:3]:
        assert result.code == 1 and words in result.err, result.err
        assert world.proxy.url in result.err and "(" in result.err and result.err.count("\n") == 1
    [asked] = said[3:]
    assert "pending" in asked.out and words in asked.err and world.proxy.url in asked.err and asked.code == 0
    assert err.count(words) == 1 and world.proxy.url in err, "told once"
    world.proxy.heal()
    assert world.told() == {"a": "pending"} and world.history() == ["creating", "pending"]


def test_a_slow_server_is_waited_for(world: World) -> None:
    world.spec(f"a: {IDLE}")
    world.proxy.play("slow", "POST|DELETE", seconds=0.7)
    world.project.ok("apply", "--yes", "--detach")
    assert world.told() == {"a": "pending"}
    world.project.ok("destroy", "--yes")


# -- one request goes wrong ----------------------------------------------------------------------------------------------

JOBS = r"POST .*/jobs\?fieldManager"
LATER = {**status(429, "TooManyRequests"), "headers": {"Retry-After": "1"}}


@pytest.mark.parametrize(
    ("what", "call", "options"),
    [
        ("lose", JOBS, {"times": 1}),
        ("lose", "POST .*/secrets", {"times": 1}),
        ("lose", "PATCH .*/secrets", {"times": 1}),
        ("answer", JOBS, {**LATER, "times": 2}),
        ("hide", JOBS, {**FAILING, "times": 2}),
    ],
    ids=["job-lost", "secret-lost", "owner-lost", "429", "500-but-done"],
)
def test_what_goes_wrong_once_is_asked_again_and_made_once(
    world: World, what: str, call: str, options: dict[str, Any]
) -> None:
    world.spec(f"a: env: {{S: {{from_env: FAULTS_SECRET}}}}, {IDLE}")
    method, _, path = call.partition(" ")
    fault = world.proxy.play(what, method, path, **options)
    world.project.ok("apply", "--yes", "--detach")
    assert fault.hits >= fault.times
    made_once(world)


def made_once(world: World) -> None:
    """One Job of attempt 1, with its Secret, as recorded; nothing to do for the next plan."""
    job = world.job()
    assert job["metadata"]["annotations"]["flowplan.dev/attempt"] == "1"
    [secret] = world.ours("secrets")
    assert [o["uid"] for o in secret["metadata"]["ownerReferences"]] == [job["metadata"]["uid"]]
    assert world.project.status()["a"]["attempt"] == 1 and world.history() == ["creating", "pending"]
    world.project.ok("plan", "--detailed-exitcode")


@pytest.mark.parametrize(
    ("call", "what", "options"),
    [
        pytest.param(JOBS, "lose", {}, id="job-lost"),
        pytest.param(JOBS, "hide", FAILING, id="job-500-but-done", marks=slow),
        pytest.param(JOBS, "reset", {}, id="job-reset", marks=slow),
        pytest.param("PATCH .*/secrets", "lose", {}, id="owner-lost", marks=slow),
        pytest.param("PATCH .*/secrets", "hide", FAILING, id="owner-500-but-done"),
        pytest.param("PATCH .*/secrets", "reset", {}, id="owner-reset", marks=slow),
    ],
)
def test_what_stays_unanswered_is_found_again_by_the_next_apply(
    world: World, call: str, what: str, options: dict[str, Any]
) -> None:
    world.spec(f"a: env: {{S: {{from_env: FAULTS_SECRET}}}}, {IDLE}")
    method, _, path = call.partition(" ")
    world.proxy.play(what, method, path, **options)
    failed = world.project.ok("apply", "--yes", "--detach", code=1)
    assert f"error: a: the Kubernetes API server {world.proxy.url}" in failed.err
    assert "start not confirmed: a" in failed.err
    assert world.told() == {"a": "creating"}
    world.proxy.heal()
    world.project.ok("apply", "--yes", "--detach", "flowplan.yaml")
    made_once(world)


def test_a_refused_job_leaves_no_secret_whose_making_was_unanswered(world: World) -> None:
    world.spec(f"a: env: {{S: {{from_env: FAULTS_SECRET}}}}, {IDLE}")
    world.proxy.play("lose", "POST", "/secrets", times=1)
    world.proxy.play("answer", "POST", r"/jobs\?fieldManager", **status(403, "Forbidden"))
    failed = world.project.ok("apply", "--yes", "--detach", code=3)
    assert "a fault is played" in failed.err
    assert world.ours("secrets") == [] and world.ours() == []
    assert world.told() == {"a": "failed"}


@pytest.mark.parametrize(
    ("what", "options"),
    [
        pytest.param("lose", {"times": 2}, id="lost"),
        pytest.param("hide", FAILING, id="500-but-done"),
        pytest.param("reset", {}, id="reset", marks=slow),
    ],
)
def test_a_removal_that_goes_wrong_is_done_in_the_end(world: World, what: str, options: dict[str, Any]) -> None:
    world.spec(f"a: {IDLE}")
    world.project.ok("apply", "--yes", "--detach")
    world.proxy.play(what, "DELETE", "/jobs/", **options)
    result = world.project.ok("destroy", "--yes", code=1 if what == "reset" else 0)
    if what == "reset":
        assert world.proxy.url in result.err and "error: a: " in result.err
        world.proxy.heal()
        world.project.ok("destroy", "--yes")
    assert world.ours() == [] and world.history()[-1] == "destroyed" and "lost" not in world.history()


@pytest.mark.parametrize("what", ["mute", "lose"])
def test_an_answer_to_a_removal_that_never_comes_is_not_waited_for(world: World, what: str) -> None:
    """The Job itself says that it is being deleted."""
    world.spec('a: command: [sleep, "600"]')
    world.project.ok("apply", "--yes", "--detach")
    fault = world.proxy.play(what, "DELETE", "/jobs/", times=1)
    world.project.ok("destroy", "--yes", "--allow-interrupt", "*", timeout=150)
    assert fault.hits == 1 and world.proxy.count("DELETE", "/jobs/") == 1
    assert world.ours() == world.ours("pods") == [] and world.history()[-1] == "destroyed"


@pytest.mark.parametrize(("what", "options"), [("lose", {"times": 1}), ("hide", FAILING)], ids=["lost", "500"])
def test_a_change_in_place_that_goes_wrong_is_made_in_the_end(world: World, what: str, options: dict[str, Any]) -> None:
    world.spec(f"a: retries: 1, {IDLE}")
    world.project.ok("apply", "--yes", "--detach")
    uid = world.job()["metadata"]["uid"]
    world.spec(f"a: retries: 2, {IDLE}")
    world.proxy.play(what, "PATCH", "/jobs/", **options)
    world.project.ok("apply", "--yes", "--detach", "flowplan.yaml", code=0 if "times" in options else 1)
    world.proxy.heal()
    world.project.ok("apply", "--yes", "--detach", "flowplan.yaml")
    assert (world.job()["metadata"]["uid"], world.job()["spec"]["backoffLimit"]) == (uid, 2)
    world.project.ok("plan", "--detailed-exitcode")


# -- the server is killed, and comes back ---------------------------------------------------------------------------------

DEATHS = (
    ("apply", "GET .*/namespaces/kube-system", "die"),
    ("apply", "POST .*/secrets", "kill"),
    ("apply", r"POST .*/jobs\?", "die"),
    ("apply", r"POST .*/jobs\?", "kill"),
    ("apply", "PATCH .*/secrets", "kill"),
    ("apply", "GET .*/pods.*watch=true", "die"),
    ("apply", "GET .*/log", "die"),
    ("watch", r"GET .*/jobs\?", "die"),
    ("watch", "GET .*/jobs.*watch=true", "die"),
    ("watch", "GET .*/log", "die"),
    ("destroy", r"GET .*/jobs\?", "die"),
    ("destroy", "DELETE .*/jobs/", "die"),
    ("destroy", "DELETE .*/jobs/", "kill"),
    ("destroy", "GET .*/jobs/", "die"),
)
QUICK = (("apply", r"POST .*/jobs\?", "kill"), ("apply", "GET .*/log", "die"), ("destroy", "DELETE .*/jobs/", "kill"))
AWAY = 6.0
"""Seconds; a request that is repeated gives up after three."""


@pytest.mark.parametrize(
    ("command", "moment", "what"), [pytest.param(*d, marks=() if d in QUICK else slow) for d in DEATHS]
)
def test_a_server_that_is_killed_and_comes_back(world: World, command: str, moment: str, what: str) -> None:
    """Every command ends, says why, and what follows finds all as it is: one Job, one attempt, its own end."""
    world.spec('a: env: {S: {from_env: FAULTS_SECRET}}, command: [sh, -c, "echo one; sleep 8; echo two"]')
    if command != "apply":
        world.project.ok("apply", "--yes", "--detach")
    method, _, path = moment.partition(" ")
    world.proxy.play(what, method, path, times=1)
    arguments = {"watch": ("watch",), "destroy": ("destroy", "--yes", "--allow-interrupt", "*")}
    following = Following(world.project.start(*arguments.get(command, ("apply", "--yes", "flowplan.yaml"))))
    try:
        assert world.proxy.dead.wait(60), f"no {moment}"
        with contextlib.suppress(subprocess.TimeoutExpired):
            following.process.wait(AWAY)
    finally:
        if world.proxy.dead.is_set():
            world.proxy.revive()
    following.process.wait(150)
    code = following.process.returncode
    _, err = following.end(code)
    assert code in (0, 1) and "Traceback" not in err and SECRET not in err, err
    assert code == 0 or (world.proxy.url in err and "does not answer" in err), err
    if command == "destroy":
        world.project.ok("destroy", "--yes", "--if-exists", "--allow-interrupt", "*", timeout=150)
        assert world.ours() == world.ours("pods") == world.ours("secrets") == [] and "lost" not in world.history()
        return
    world.project.ok("apply", "--yes", "flowplan.yaml", timeout=150)
    run = world.project.status()["a"]
    assert (run["status"], run["attempt"], run["exit_code"]) == ("succeeded", 1, 0)
    assert len(world.ours()) == len(world.ours("pods")) == len(world.ours("secrets")) == 1
    assert world.history()[-1] == "succeeded" and "lost" not in world.history()
    assert world.project.ok("logs", "a").out.splitlines() == ["one", "two"]


# -- watches that end, expire and lie ------------------------------------------------------------------------------------

GONE = json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}).encode() + b"\n"
WATCHES = {
    "410": ("answer", {**status(410, "Expired"), "times": 4}),
    "410-in-the-stream": ("say", {"body": GONE, "times": 4}),
    "garbage": ("say", {"body": b"<html>log in</html>\n", "times": 4}),
    "half-a-line": ("cut", {"after": 700, "times": 4}),
    "closed": ("end", {"after": 2000, "times": 6}),
    "429": ("answer", {**LATER, "times": 4}),
    "503": ("answer", {"status": 503, "body": b"no upstream", "times": 4}),
    "401-for-a-while": ("answer", {**status(401, "Unauthorized"), "times": 6}),
    "403-for-a-while": ("answer", {**status(403, "Forbidden"), "times": 6}),
}


def test_watches_that_break_tell_every_run_as_it_was(api: Api, tmp_path: Path) -> None:
    """All at once, each with a cluster of its own kind of trouble."""
    worlds = {name: World(api, tmp_path / name) for name in WATCHES}
    for name, world in worlds.items():
        world.spec('a: command: [sh, -c, "echo one; sleep 3; echo two; exit 3"]')
        what, options = WATCHES[name]
        world.proxy.play(what, "GET", "watch=true", **options)
    with ThreadPoolExecutor(3) as pool:
        applied = pool.map(lambda world: world.project.run("apply", "--yes", timeout=180), worlds.values())
        results = dict(zip(worlds, applied, strict=True))
    for name, world in worlds.items():
        assert results[name].code == 3, (name, results[name].err)
        assert results[name].out.splitlines() == ["a | one", "a | two"], name
        assert set(world.history()) == {"creating", "pending", "running", "failed"}, (name, world.history())
        assert world.project.status("--no-refresh")["a"]["exit_code"] == 3, name
        assert world.proxy.faults[0].hits, name
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda world: world.close(), worlds.values()))


def test_a_collected_job_is_not_lost_while_the_server_does_not_say_how_it_ended(world: World) -> None:
    world.spec('a: command: ["true"], kubernetes: {finished_job_ttl: 0}')
    world.project.ok("apply", "--yes", "--detach")
    until(lambda: world.ours() == [])
    world.proxy.play("answer", "GET", "/events", **FAILING)
    asked = world.project.ok("status")
    assert "lost" not in asked.out and "etcdserver: request timed out" in asked.err
    watched = world.project.ok("watch", "--wait-timeout", "4s", code=8)
    assert "lost" not in watched.err
    world.proxy.heal()
    assert world.project.status()["a"]["status"] == "succeeded"


@slow
@pytest.mark.parametrize(("code", "reason"), [(401, "Unauthorized"), (403, "Forbidden")])
def test_a_token_that_stays_expired_ends_the_following_and_not_the_run(world: World, code: int, reason: str) -> None:
    world.spec('a: command: [sleep, "600"]', 'b: command: ["true"], needs: [a]')
    following = Following(world.project.start("apply", "--yes", "flowplan.yaml"))
    until(lambda: world.told().get("a") == "running")
    world.proxy.play("answer", **status(code, reason, "the token has expired"))
    world.proxy.cut()
    following.said("the token has expired")
    begun = time.monotonic()
    following.process.wait(120)
    assert time.monotonic() - begun < 100
    _, err = following.end(1)
    assert "not followed any more" in err and "1 run is still running; follow with `flowplan watch`" in err
    assert "b: skipped: a is not followed any more" in err
    world.proxy.heal()
    assert world.project.status()["a"]["status"] == "running" and "lost" not in world.history()


def test_a_follower_waits_for_a_token_that_expired_and_goes_on_with_the_next(world: World) -> None:
    """Nothing fails for it: what runs is followed again, and what was to start meanwhile starts then."""
    world.spec(
        'gate: provider: process, image: null, kubernetes: null, command: [sh, -c, "until [ -e go ]; do sleep 0.1; done"]',
        'a: command: [sh, -c, "sleep 20; echo said; exit 3"]',
        'b: command: ["true"], needs: [gate]',
    )
    world.project.ok("apply", "--yes", "--detach", "flowplan.yaml")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = "127.0.0.1:{1}".format(*listener.getsockname())
    following = Following(world.project.start("serve", "--listen", place))

    def got(path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://{place}{path}") as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return error.read().decode()

    until(lambda: world.told() == {"gate": "running", "a": "running"})
    world.proxy.play("answer", **status(401, "Unauthorized", "the token has expired"))
    world.proxy.cut()
    following.said("wrong or expired")
    (world.project.directory / "go").touch()
    until(lambda: world.told()["gate"] == "succeeded")
    until(lambda: world.proxy.faults[0].hits > 40)  # it is asked again, also to start b
    assert "the token has expired" in got("/readyz") and 'engine_up{provider="kubernetes"} 0.0' in got("/metrics")
    world.proxy.heal()
    until(lambda: world.told() == {"gate": "succeeded", "a": "failed", "b": "succeeded"}, 150)
    assert world.project.status("--no-refresh")["a"]["exit_code"] == 3 and world.project.ok("logs", "a").out == "said\n"
    assert world.history("b")[0] == "creating" and world.history("b")[-1] == "succeeded"
    until(lambda: 'engine_up{provider="kubernetes"} 1.0' in got("/metrics"))
    following.process.terminate()
    said = following.end(0)[1]
    assert said.count("wrong or expired") == 1, said


# -- people at work ------------------------------------------------------------------------------------------------------


def test_a_job_that_somebody_scales_to_nothing_says_so_and_is_put_right(world: World) -> None:
    world.spec('a: command: [sleep, "600"], kubernetes: {job: {spec: {parallelism: 1}}}')
    following = Following(world.project.start("apply", "--yes", "flowplan.yaml"))
    until(lambda: world.told().get("a") == "running")
    world.patch({"spec": {"parallelism": 0}})
    told = until(lambda: (run := world.project.status("--no-refresh")["a"])["reason"] == "Suspended" and run)
    assert (told["status"], told["message"]) == ("running", "spec.parallelism is 0: no pod is created")
    assert world.project.status()["a"]["reason"] == "Suspended", "a look says the same as the watch"
    [change] = world.project.plan()["changes"]
    assert change["action"] == "update"
    [field] = [f for f in change["fields"] if f["path"] == "/Job/spec/parallelism"]
    assert (field["before"], field["after"], field["manager"]) == (0, 1, "kubectl-edit")
    world.project.ok("apply", "--yes", "--detach", "flowplan.yaml")
    until(lambda: world.project.status("--no-refresh")["a"]["reason"] == "")
    assert world.history() == ["creating", "pending", "running"]
    following.end(130, interrupt=True)
    world.project.ok("plan", "--detailed-exitcode")


def test_a_pod_that_somebody_deletes_is_made_again_by_the_job(world: World) -> None:
    world.spec('a: command: [sh, -c, "sleep 2; exit 3"]')
    following = Following(world.project.start("apply", "--yes", "flowplan.yaml"))
    until(lambda: world.told().get("a") == "running")
    for pod in world.ours("pods"):
        world.api.call("DELETE", core_path(SPACE, "pods", pod["metadata"]["name"]), body={"gracePeriodSeconds": 0})
    world.project.ok("plan")
    following.end(3)
    run = world.project.status()["a"]
    assert (run["status"], run["exit_code"], run["attempt"]) == ("failed", 3, 1)
    assert world.history() == ["creating", "pending", "running", "failed"]


@pytest.mark.parametrize("when", [pytest.param("before", marks=slow), "during"])
def test_a_job_that_loses_our_labels_is_not_lost(world: World, when: str) -> None:
    """Nobody runs it twice: it is known by its uid, and the next apply puts the labels back."""
    world.spec('a: command: [sh, -c, "sleep 5; exit 3"]')
    following = Following(world.project.start("apply", "--yes", *([] if when == "during" else ["--detach"])))
    if when == "before":
        following.end(0)
    until(lambda: world.told().get("a") in ("pending", "running"))
    name = world.job()["metadata"]["name"]
    gone = dict.fromkeys(("flowplan.dev/run-id", "flowplan.dev/lineage"))
    world.patch({"metadata": {"labels": gone}})
    assert world.project.status()["a"]["status"] in ("pending", "running")
    [change] = world.project.plan()["changes"]
    assert change["action"] == "update", change["reasons"]
    assert {f["path"] for f in change["fields"]} == {
        "/Job/metadata/labels/flowplan.dev~1run-id",
        "/Job/metadata/labels/flowplan.dev~1lineage",
    }
    if when == "during":
        following.end(3)
    else:
        world.project.ok("watch", code=3)
    assert world.project.status()["a"]["exit_code"] == 3 and "lost" not in world.history()
    assert [job["metadata"]["name"] for job in world.ours()] == [name]


def test_a_namespace_that_somebody_deletes_takes_its_runs_with_it(api: Api, world: World) -> None:
    space = f"{SPACE}-gone"
    make_namespace(api, space)
    world.spec(f"a: {IDLE}", space=space)
    following = Following(world.project.start("apply", "--yes", "flowplan.yaml"))
    until(lambda: world.told().get("a") == "pending")
    api.call("DELETE", f"/api/v1/namespaces/{space}")
    _, err = following.end(3)
    assert "a: lost: Removed: the Job was deleted" in err
    until(lambda: api.find(f"/api/v1/namespaces/{space}") is None)
    [change] = world.project.plan()["changes"]
    assert (change["action"], change["reasons"]) == ("rerun", ["last attempt lost: Removed"])
    assert [f["message"] for f in change["preflight"]] == [f'namespace "{space}" does not exist']
    failed = world.project.ok("apply", "--yes", "flowplan.yaml", code=3)
    assert f"kubectl create namespace {space}" in failed.err
    world.project.ok("destroy", "--yes")


def test_a_job_deleted_while_the_server_is_away_is_told_when_it_is_back(world: World) -> None:
    world.spec(f"a: {IDLE}")
    following = Following(world.project.start("apply", "--yes", "flowplan.yaml"))
    until(lambda: world.told().get("a") == "pending")
    world.proxy.play("reset")
    world.proxy.cut()
    following.said("does not answer")
    world.api.call(
        "DELETE", jobs_path(SPACE, world.job()["metadata"]["name"]), body={"propagationPolicy": "Background"}
    )
    until(lambda: world.ours() == [])
    assert world.told() == {"a": "pending"}, "unanswered is never lost"
    world.proxy.heal()
    _, err = following.end(3)
    assert "answers again" in err and world.history() == ["creating", "pending", "lost"]
    assert [c["action"] for c in world.project.plan()["changes"]] == ["rerun"]
