"""The kubernetes provider on a real cluster: every way in which a Job begins, waits, ends, breaks or disappears."""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from cuttable_proxy import CuttableProxy
from faulty_proxy import FaultyProxy
from projects import make_namespace, until

from flowplan.providers.kubernetes import connect
from flowplan.providers.kubernetes.connection import endpoint
from flowplan.providers.kubernetes.jobs import core_path, jobs_path
from flowplan.providers.kubernetes.requests import Api
from flowplan.providers.protocol import Context, Order, ProgressReader, Provider
from flowplan.schemas.errors import EngineUnreachable, ProviderError, StartFailed
from flowplan.schemas.plans import FieldChange
from flowplan.schemas.runs import Identity, Observed, Recorded, Settings, Status

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.skipif(not os.environ.get("KUBECONFIG"), reason="KUBECONFIG names no cluster"),
]

LINEAGE = str(uuid.uuid4())
SPACE = f"fp-test-{LINEAGE[:8]}"
TIGHT = f"fp-tight-{LINEAGE[:8]}"
IMAGE = "busybox:1.35"
SECRET = "(sensitive env:PASSWORD 0123456789abcdef)"


def provider(lineage: str = LINEAGE, **settings: Any) -> Provider:
    return connect(Context(lineage, Path("/nonexistent"), {"namespace": SPACE, **settings}))


def order(
    address: str,
    script: str,
    *,
    attempt: int = 1,
    namespace: str = SPACE,
    container: Mapping[str, Any] | None = None,
    pod: Mapping[str, Any] | None = None,
    secret: bool = False,
    lineage: str = LINEAGE,
    **spec: Any,
) -> Order:
    identity = Identity("test", lineage, address, attempt)
    name = f"{address}-{attempt}"
    labels = {"flowplan.dev/run-id": identity.run_id, "flowplan.dev/lineage": lineage, "flowplan.dev/project": "test"}
    main = {"name": "main", "image": IMAGE, "command": ["sh", "-c", script], **(container or {})}
    pods = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [main], **(pod or {})}
    meta = {"name": name, "namespace": namespace, "labels": labels}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**meta, "annotations": {"flowplan.dev/address": address}},
        "spec": {"backoffLimit": 0, **spec, "template": {"metadata": {"labels": labels}, "spec": pods}},
    }
    objects: dict[str, Any] = {"Job": job}
    if secret:
        main["env"] = [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": name, "key": "PASSWORD"}}}]
        objects["Secret"] = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"PASSWORD": SECRET}}
    return Order(identity, name, objects, Settings(), {SECRET: "hunter2"} if secret else {})


def record(given: Order, seen: Observed | None = None) -> Recorded:
    return Recorded(
        address=given.identity.address,
        provider="kubernetes",
        type="kubernetes",
        target={},
        attempt=given.identity.attempt,
        run_id=given.identity.run_id,
        name=seen.name if seen else given.name,
        objects=given.objects,
        settings=given.settings,
        status=(seen.status if seen else None) or Status.CREATING,
        handle=seen.handle if seen else {},
    )


@dataclass
class World:
    """All scenarios at once, followed by one watch; ``seen`` is what it told of each run, in order."""

    api: Api
    provider: Provider
    records: dict[str, Recorded] = field(default_factory=dict)
    seen: dict[str, list[Observed]] = field(default_factory=dict)
    nothing_new: int = 0

    def start(self, given: Order) -> Recorded:
        made = record(given, self.provider.create(given))
        self.records[made.address] = made
        return made

    def follow(self, done: Callable[[], bool], seconds: float = 120.0) -> None:
        stop = threading.Event()
        deadline = time.monotonic() + seconds
        for news in self.provider.watch(list(self.records.values()), stop):
            if news is None:
                self.nothing_new += 1
            elif isinstance(news, Observed):
                self.seen.setdefault(news.address, []).append(news)
            if done() or time.monotonic() > deadline:
                stop.set()
        facts = {a: [(s.status, s.reason, s.message) for s in seen] for a, seen in self.seen.items()}
        assert done(), {a: told for a, told in facts.items() if not self.ended(a)}

    def last(self, address: str) -> Observed:
        return self.seen[address][-1]

    def ended(self, address: str) -> bool:
        last = self.seen.get(address, [None])[-1]
        return last is not None and (not last.exists or bool(last.status and last.status.final))

    def reasons(self, address: str) -> list[str]:
        return [seen.reason for seen in self.seen.get(address, [])]

    def output(self, address: str, tail: int | None = None) -> list[str]:
        return [line.text for line in self.provider.logs(self.records[address], follow=False, tail=tail)]


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    made = Api(endpoint({}, Path("/")))
    for name in (SPACE, TIGHT):
        make_namespace(made, name)
    quota = {"metadata": {"name": "tight"}, "spec": {"hard": {"pods": "0"}}}
    made.call("POST", core_path(TIGHT, "resourcequotas"), body=quota)
    yield made
    for name in (SPACE, TIGHT):
        made.call("DELETE", f"/api/v1/namespaces/{name}")
    made.close()


RETRY = f"f=/host/flowplan-{LINEAGE}; echo try; echo x >> $f; [ $(wc -l < $f) -ge 3 ] && rm $f && exit 0; exit 1"
HOST = {"volumes": [{"name": "host", "hostPath": {"path": "/tmp"}}]}
SIDECAR = {"name": "aaa", "image": IMAGE, "command": ["sh", "-c", "sleep 3; echo side; exit 0"]}
MAIN_7 = {"name": "main", "image": IMAGE, "command": ["sh", "-c", "echo main; exit 7"]}
ENDING = {
    "plain": ("echo hello; echo world", {}),
    "retries": (
        RETRY,
        {"backoffLimit": 3, "pod": HOST, "container": {"volumeMounts": [{"name": "host", "mountPath": "/host"}]}},
    ),
    "fails": ("echo about to fail; exit 2", {}),
    "deadline": ("sleep 60", {"activeDeadlineSeconds": 3}),
    "oom": ("tail /dev/zero", {"container": {"resources": {"limits": {"memory": "16Mi"}}}}),
    "sidecar": ("", {"pod": {"containers": [MAIN_7, SIDECAR]}}),
    "init": (
        "",
        {"pod": {"initContainers": [{**SIDECAR, "name": "prepare", "command": ["sh", "-c", "echo broken; exit 4"]}]}},
    ),
    "nocommand": ("", {"container": {"command": ["/does/not/exist"]}}),
    "ttl0": ("echo short", {"ttlSecondsAfterFinished": 0}),
    "ttl5": ("echo five", {"ttlSecondsAfterFinished": 5}),
    "secret": ("echo $PASSWORD | md5sum", {"secret": True}),
}
WAITING = {
    "image": ("", {"container": {"image": "127.0.0.1:1/none:1"}}, {"ErrImagePull", "ImagePullBackOff"}),
    "badname": ("", {"container": {"image": "UPPER//x"}}, {"InvalidImageName"}),
    "never": ("", {"container": {"image": "none:1", "imagePullPolicy": "Never"}}, {"ErrImageNeverPull"}),
    "config": ("", {"container": {"envFrom": [{"configMapRef": {"name": "none"}}]}}, {"CreateContainerConfigError"}),
    "cpu": ("", {"container": {"resources": {"requests": {"cpu": "1000"}}}}, {"Unschedulable"}),
    "mount": (
        "",
        {
            "pod": {"volumes": [{"name": "v", "secret": {"secretName": "none"}}]},
            "container": {"volumeMounts": [{"name": "v", "mountPath": "/v"}]},
        },
        {"FailedMount"},
    ),
    "quota": ("", {"namespace": TIGHT}, {"FailedCreate"}),
}


@pytest.fixture(scope="module")
def world(api: Api) -> Iterator[World]:
    """Start every scenario together, and follow all with one watch."""
    made = World(api, provider())
    for address, (script, options) in ENDING.items():
        made.start(order(address, script, **options))
    for address, (script, options, _) in WAITING.items():
        made.start(order(address, script, **options))
    made.start(order("removed", "sleep 300"))
    remover = threading.Thread(target=remove_when_running, args=(api, "removed-1"))
    remover.start()
    wanted = {address: reasons for address, (_, _, reasons) in WAITING.items()}
    made.follow(
        lambda: (
            all(made.ended(address) for address in (*ENDING, "removed"))
            and all(reasons & set(made.reasons(address)) for address, reasons in wanted.items())
        ),
        150,
    )
    remover.join()
    yield made
    made.provider.close()


def remove_when_running(api: Api, name: str) -> None:
    """Delete a Job as a person does with kubectl."""
    path = jobs_path(SPACE, name)
    pods = core_path(SPACE, "pods")
    until(lambda: any(p["status"]["phase"] == "Running" for p in api.items(pods, labelSelector=f"job-name={name}")), 90)
    api.call("DELETE", path, body={"propagationPolicy": "Background"})


@pytest.mark.parametrize(
    ("address", "status", "reason", "code", "attempts"),
    [
        ("plain", Status.SUCCEEDED, "Completed", 0, 1),
        ("retries", Status.SUCCEEDED, "Completed", 0, 3),
        ("fails", Status.FAILED, "BackoffLimitExceeded", 2, 1),
        ("deadline", Status.TIMED_OUT, "DeadlineExceeded", None, 1),
        ("sidecar", Status.FAILED, "BackoffLimitExceeded", 7, 1),
        ("init", Status.FAILED, "BackoffLimitExceeded", None, 1),
        ("nocommand", Status.FAILED, "ContainerCannotRun", 127, 1),
        ("ttl5", Status.SUCCEEDED, "Completed", 0, 1),
        ("secret", Status.SUCCEEDED, "Completed", 0, 1),
    ],
)
def test_an_end_is_told_with_its_reason_and_code(
    world: World, address: str, status: Status, reason: str, code: int | None, attempts: int
) -> None:
    last = world.last(address)
    assert (last.status, last.reason, last.exit_code, last.attempts) == (status, reason, code, attempts)
    assert last.finished_at and last.at == last.finished_at
    assert last.infrastructure_id == f"{world.provider.target().id}:{SPACE}:{address}-1"


def test_each_pod_that_follows_a_failed_one_is_a_try(world: World) -> None:
    tries = world.last("retries").tries
    assert [(t.number, t.of, t.before) for t in tries] == [(2, 4, "exit code 1"), (3, 4, "exit code 1")]
    assert all(t.began_at for t in tries)


def test_an_out_of_memory_kill_is_named(world: World) -> None:
    last = world.last("oom")
    assert (last.status, last.exit_code) == (Status.FAILED, 137) and "out of memory" in last.message
    assert last.reason in ("OOMKilled", "BackoffLimitExceeded")  # a busy Docker tells its kubelet too late


def test_a_job_removed_by_ttl_at_once_still_has_its_end(world: World) -> None:
    assert world.last("ttl0").status is Status.SUCCEEDED


def test_a_job_deleted_while_running_is_gone_and_nothing_is_guessed(world: World) -> None:
    last = world.last("removed")
    assert (last.exists, last.status, last.message) == (False, None, "the Job was deleted")


@pytest.mark.parametrize("address", WAITING)
def test_a_pending_run_says_what_it_waits_for(world: World, address: str) -> None:
    seen = [s for s in world.seen[address] if s.reason in WAITING[address][2]]
    assert seen and all(s.status is Status.PENDING and s.message and s.started_at is None for s in seen)


def test_a_watch_tells_each_fact_once_and_gives_signs_of_life(world: World) -> None:
    for seen in world.seen.values():
        facts = [(s.exists, s.status, s.reason, s.message, s.exit_code, s.attempts, s.started_at) for s in seen]
        assert all(one != other for one, other in itertools.pairwise(facts))
    assert world.nothing_new > 3


def test_an_ended_run_never_comes_back(world: World) -> None:
    for seen in world.seen.values():
        assert not any(s.status and s.status.final for s in seen[:-1])


def test_the_back_off_of_a_pull_does_not_flap(world: World) -> None:
    assert world.reasons("image").count("ErrImagePull") <= 1


def test_output_is_that_of_the_main_container(world: World) -> None:
    assert world.output("plain") == ["hello", "world"]
    assert world.output("sidecar") == ["main"]
    assert world.output("plain", tail=1) == ["world"]


def test_pods_of_retries_each_have_their_output(world: World) -> None:
    assert world.output("retries") == ["try"] * 3
    assert world.output("retries", tail=2) == ["try"] * 2


def test_when_the_main_container_was_silent_the_others_are_heard(world: World) -> None:
    assert world.output("init") == ["[prepare] broken"]


def test_output_of_something_removed_is_empty(world: World) -> None:
    assert world.output("removed") == []


def test_the_secret_value_is_in_its_secret_only(world: World) -> None:
    kept = world.records["secret"]
    job = world.api.get(jobs_path(SPACE, "secret-1"))
    assert "hunter2" not in str(job) and "hunter2" not in repr(kept) and SECRET not in str(job)
    assert world.provider.secret_values(kept) == ["hunter2"]
    there = world.api.get(core_path(SPACE, "secrets", "secret-1"))
    assert there["metadata"]["ownerReferences"][0]["uid"] == kept.handle["uid"]


def test_observing_everything_agrees_with_the_watch(world: World) -> None:
    records = [r for r in world.records.values() if not r.address.startswith("ttl")]
    observed = {seen.address: seen for seen in world.provider.observe(records)}
    for address in ("plain", "fails", "oom", "sidecar"):
        last = world.last(address)
        now = observed[address]
        assert (now.status, now.reason, now.exit_code) == (last.status, last.reason, last.exit_code)
    assert not observed["removed"].exists
    assert observed["image"].status is Status.PENDING


def test_what_is_removed_after_a_known_end_is_simply_not_there(world: World) -> None:
    ended = replace(world.records["ttl0"], status=Status.SUCCEEDED, exit_code=0)
    (seen,) = [s for s in world.provider.observe([ended]) if s.address == "ttl0"]
    assert (seen.exists, seen.message) == (False, "")


def test_objects_that_no_record_names_are_reported(world: World) -> None:
    found = {seen.address: seen for seen in world.provider.observe([])}
    assert found["plain"].attempt == 1 and found["plain"].run_id == world.records["plain"].run_id


def test_creating_twice_makes_one_job(world: World) -> None:
    again = world.provider.create(order("plain", *ENDING["plain"][:1]))
    assert again.handle == world.records["plain"].handle and again.status is Status.SUCCEEDED


def test_live_fields_equal_what_was_sent_and_managers_are_named(world: World) -> None:
    path = jobs_path(SPACE, "plain-1")
    patch = {"spec": {"ttlSecondsAfterFinished": 5000}}
    world.api.call("PATCH", path, {"fieldManager": "kubectl-edit"}, patch, content="application/merge-patch+json")
    (seen,) = [s for s in world.provider.observe([world.records["plain"]]) if s.address == "plain"]
    assert seen.managers == {"/Job/spec/ttlSecondsAfterFinished": "kubectl-edit"}
    assert seen.live and seen.live["Job"]["spec"]["ttlSecondsAfterFinished"] == 5000


def test_fields_are_changed_in_place(world: World) -> None:
    wanted = order("plain", ENDING["plain"][0], ttlSecondsAfterFinished=4000)
    wanted.objects["Job"]["metadata"]["labels"]["team/x"] = "a"
    path = "/Job/metadata/labels/team~1x"
    fields = [
        FieldChange("/Job/spec/ttlSecondsAfterFinished", 5000, 4000, "in_place", ""),
        FieldChange(path, None, "a", "in_place", ""),
    ]
    seen = world.provider.update(world.records["plain"], wanted, fields)
    assert seen.live and seen.live["Job"]["spec"]["ttlSecondsAfterFinished"] == 4000
    assert seen.live["Job"]["metadata"]["labels"]["team/x"] == "a"
    assert seen.handle == world.records["plain"].handle


def test_an_immutable_field_is_refused_in_the_servers_words(world: World) -> None:
    field = FieldChange("/Job/spec/template/spec/restartPolicy", "Never", "OnFailure", "in_place", "")
    wanted = order("plain", ENDING["plain"][0], pod={"restartPolicy": "OnFailure"})
    with pytest.raises(ProviderError, match="immutable"):
        world.provider.update(world.records["plain"], wanted, [field])


def test_a_foreign_job_of_the_same_name_is_passed_by(world: World) -> None:
    foreign = order("shared", "sleep 0", lineage=str(uuid.uuid4()))
    world.api.call("POST", jobs_path(SPACE), body=foreign.objects["Job"])
    mine = world.provider.create(order("shared", "sleep 0"))
    assert mine.name == "shared-1-1"
    assert world.provider.create(order("shared", "sleep 0")).handle == mine.handle
    world.provider.delete(record(order("shared", "sleep 0"), mine), 1)
    assert world.api.find(jobs_path(SPACE, "shared-1")) and not world.api.find(jobs_path(SPACE, "shared-1-1"))


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"restartPolicy": "Always"}, "Invalid", "spec.template.spec.restartPolicy"),
        ({"containers": []}, "Invalid", "spec.template.spec.containers"),
    ],
)
def test_a_refused_job_leaves_nothing_behind(world: World, change: dict[str, Any], reason: str, words: str) -> None:
    given = order("refused", "", secret=True, pod=change)
    with pytest.raises(StartFailed, match=words) as caught:
        world.provider.create(given)
    assert caught.value.reason == reason and "\n" not in str(caught.value)
    assert world.api.find(core_path(SPACE, "secrets", "refused-1")) is None


def test_a_missing_namespace_is_told_with_what_to_do(world: World) -> None:
    with pytest.raises(StartFailed, match="create namespace nowhere"):
        world.provider.create(order("lost", "", namespace="nowhere"))


def test_a_secret_of_somebody_else_is_not_touched(world: World) -> None:
    body = {"metadata": {"name": "taken-1"}, "stringData": {"a": "b"}}
    world.api.call("POST", core_path(SPACE, "secrets"), body=body)
    seen = world.provider.create(order("taken", "", secret=True))
    assert seen.name == "taken-1" and world.api.find(core_path(SPACE, "secrets", "taken-1-1"))
    assert set(world.api.get(core_path(SPACE, "secrets", "taken-1"))["data"]) == {"a"}


def test_deleting_leaves_nothing_and_works_twice(world: World) -> None:
    for address in ("secret", "config"):
        kept = world.records[address]
        world.provider.delete(kept, 1)
        world.provider.delete(kept, 1)
        selector = f"flowplan.dev/run-id={kept.run_id}"
        for path in (jobs_path(SPACE), core_path(SPACE, "pods"), core_path(SPACE, "secrets")):
            assert world.api.items(path, labelSelector=selector) == []


def test_deleting_does_not_touch_a_job_of_somebody_else(world: World) -> None:
    other = provider(str(uuid.uuid4()))
    stranger = replace(world.records["fails"], handle={**world.records["fails"].handle, "uid": "another"})
    other.delete(stranger, 1)
    assert world.api.find(jobs_path(SPACE, "fails-1"))
    other.close()


def test_deleting_what_was_never_created_is_success(world: World) -> None:
    world.provider.delete(record(order("ghost", "")), 1)


# -- following output -----------------------------------------------------------------------------------------------


@pytest.fixture
def shaky(api: Api) -> Iterator[tuple[CuttableProxy, Provider]]:
    """Return a provider whose connection a test can break."""
    parts = urlsplit(api.endpoint.server)
    proxy = CuttableProxy(parts.hostname or "", parts.port or 443)
    document = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    server = f"{parts.scheme}://127.0.0.1:{proxy.port}"
    for cluster in document["clusters"]:
        cluster["cluster"] = {"server": server, "insecure-skip-tls-verify": True}
    made = provider(kubeconfig=document)
    yield proxy, made
    made.close()
    proxy.close()


def test_followed_output_survives_broken_connections(api: Api, shaky: tuple[CuttableProxy, Provider]) -> None:
    proxy, made = shaky
    given = order("talker", "for i in $(seq 200); do echo line $i; sleep 0.02; done")
    made_record = record(given, made.create(given))
    lines = []
    for line in made.logs(made_record, follow=True, tail=None):
        lines.append(line.text)
        if len(lines) in (20, 90, 150):
            proxy.cut()
    assert lines == [f"line {i}" for i in range(1, 201)]


@pytest.mark.parametrize("what", ["answer", "reset"])
def test_a_server_that_lets_nobody_attach_is_asked_for_the_output_alone(world: World, what: str) -> None:
    """Refuse for good, or break the connection: the bar is not drawn, and nothing else is missing."""
    there = endpoint({}, Path("/"))
    proxy = FaultyProxy(there.server)
    fault = proxy.play(what, "GET", "/attach", status=403, body=b"{}")
    made = connect(Context(LINEAGE, Path("/nonexistent"), {"namespace": SPACE}))
    made._api.endpoint = replace(there, server=proxy.url, tls=None)  # type: ignore[attr-defined]
    kept = record(asked := order(f"bar-{what}", 'printf "1%%\\r2%%"; sleep 300'), made.create(asked))
    stop = threading.Event()
    assert isinstance(made, ProgressReader)
    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(lambda: list(made.progress(kept, stop)))
        until(lambda: fault.hits >= (1 if what == "answer" else 2))
        stop.set()
        if what == "answer":
            with pytest.raises(ProviderError):
                drawn.result(10)
        else:
            assert drawn.result(10) == []
    made.delete(kept, 1.0)
    made.close()
    proxy.close()


def test_following_can_be_stopped_while_nothing_is_printed(world: World) -> None:
    given = order("quiet", "echo one; sleep 300")
    kept = world.start(given)
    stop = threading.Event()
    lines = []
    for line in world.provider.logs(kept, follow=True, tail=None, stop=stop):
        lines.append(line.text)
        threading.Timer(0.2, stop.set).start()
    assert lines == ["one"]


def test_a_watch_survives_a_server_that_is_away(api: Api, shaky: tuple[CuttableProxy, Provider]) -> None:
    proxy, made = shaky
    records = []
    for number in range(10):
        given = order(f"steady-{number}", "sleep 5; exit 3")
        records.append(record(given, made.create(given)))
    back = threading.Timer(4.0, lambda: setattr(proxy, "mode", "open"))
    seen: dict[str, list[Observed]] = {}
    cut = False
    for news in made.watch(records, threading.Event()):
        if isinstance(news, Observed):
            seen.setdefault(news.address, []).append(news)
        if not cut and any(s.status is Status.RUNNING for some in seen.values() for s in some):
            cut = True
            proxy.mode = "refuse"
            proxy.cut()
            back.start()
    for told in seen.values():
        assert (told[-1].status, told[-1].exit_code) == (Status.FAILED, 3)
        assert {s.status for s in told} <= {Status.PENDING, Status.RUNNING, Status.FAILED}


def test_a_lost_answer_to_create_does_not_create_twice(api: Api, shaky: tuple[CuttableProxy, Provider]) -> None:
    proxy, made = shaky
    made.target()
    given = order("once", "sleep 0")
    proxy.mode = "swallow"
    threading.Timer(1.0, lambda: setattr(proxy, "mode", "open")).start()
    seen = made.create(given)
    jobs = api.items(jobs_path(SPACE), labelSelector=f"flowplan.dev/run-id={given.identity.run_id}")
    assert [job["metadata"]["name"] for job in jobs] == [seen.name] == ["once-1"]


def test_a_server_that_is_away_is_said_to_be(shaky: tuple[CuttableProxy, Provider]) -> None:
    proxy, made = shaky
    proxy.mode = "refuse"
    with pytest.raises(EngineUnreachable, match=f"127.0.0.1:{proxy.port}.*context test"):
        made.target()


# -- before anything is created -------------------------------------------------------------------------------------


def test_a_good_run_has_no_findings(world: World) -> None:
    assert troubles(world, order("fine", "true", secret=True)) == []


def troubles(world: World, *orders: Order) -> list[str]:
    """Return findings; a node that was started just now may not tell of its images yet."""
    return [f.message for f in world.provider.preflight(orders) if f.check != "image" or f.severity == "error"]


def test_preflight_changes_nothing(world: World) -> None:
    world.provider.preflight([order("dry", "true")])
    assert world.api.find(jobs_path(SPACE, "dry-1")) is None


@pytest.mark.parametrize(
    ("options", "severity", "check", "words"),
    [
        ({"namespace": "nowhere"}, "error", "namespace", 'namespace "nowhere" does not exist'),
        ({"pod": {"serviceAccountName": "none"}}, "error", "serviceaccount", 'ServiceAccount "none"'),
        ({"container": {"envFrom": [{"secretRef": {"name": "none"}}]}}, "error", "secret", r"envFrom\[0\]"),
        ({"container": {"envFrom": [{"configMapRef": {"name": "none"}}]}}, "error", "configmap", 'ConfigMap "none"'),
        ({"pod": {"imagePullSecrets": [{"name": "none"}]}}, "warning", "secret", "imagePullSecrets"),
        ({"namespace": TIGHT}, "error", "dry-run", "exceeded quota"),
        ({"pod": {"restartPolicy": "Always"}}, "error", "dry-run", "restartPolicy"),
        ({"pod": {"nodeSelector": {"flowplan.dev/none": "1"}}}, "error", "node", "flowplan.dev/none=1"),
        ({"container": {"resources": {"limits": {"memory": "4000Gi"}}}}, "error", "node", "no node has memory: 4000Gi"),
        ({"container": {"resources": {"limits": {"nvidia.com/gpu": 99}}}}, "error", "node", "nvidia.com/gpu: 99"),
        ({"container": {"image": "none:1", "imagePullPolicy": "Never"}}, "error", "image", "no node has none:1"),
        ({"container": {"image": "UPPER//x"}}, "error", "image", "is not an image reference"),
        ({"container": {"image": "127.0.0.1:1/none:1"}}, "warning", "image", "of registry 127.0.0.1:1 can be pulled"),
        ({"pod": {"parallelism": 1}}, "warning", "dropped-field", "/spec/template/spec/parallelism"),
    ],
)
def test_preflight_finds_what_create_would_trip_over(
    world: World, options: dict[str, Any], severity: str, check: str, words: str
) -> None:
    findings = world.provider.preflight([order("checked", "true", **options)])
    assert [(f.address, f.severity, f.check) for f in findings] == [("checked", severity, check)]
    assert re.search(words, f"{findings[0].message} {findings[0].hint}")


@pytest.mark.registry
def test_an_image_is_asked_for_with_the_pull_secret(world: World) -> None:
    registry = os.environ["REGISTRY"]
    image = f"{registry}/library/busybox:1.35"

    def told(secret: str, image: str) -> tuple[str, str]:
        pod, pulled = {"imagePullSecrets": [{"name": secret}]}, {"image": image, "imagePullPolicy": "Always"}
        [found] = world.provider.preflight([order("pulled", "true", pod=pod, container=pulled)]) or [None]
        return (found.severity, found.check) if found else ("", "")

    for name, password in (("right", "robot-password"), ("wrong", "nonsense")):
        login = json.dumps({"auths": {registry: {"username": "robot", "password": password}}})
        body = {"metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson"}
        world.api.call("POST", core_path(SPACE, "secrets"), body={**body, "stringData": {".dockerconfigjson": login}})
    assert told("right", image) == ("", "")
    assert told("right", f"{image}-nosuch") == ("error", "image")
    assert told("wrong", image) == ("error", "login")
    pulled = {"image": image, "imagePullPolicy": "Always"}
    [found] = world.provider.preflight([order("pulled", "true", container=pulled)])
    assert found.severity == "warning" and "no pull secret" in found.message


def test_a_quota_that_lets_few_run_at_once_is_told(world: World) -> None:
    space = f"fp-quota-{LINEAGE[:8]}"
    world.api.call("POST", "/api/v1/namespaces", body={"metadata": {"name": space}})
    hard = {"requests.cpu": "1", "count/jobs.batch": "4"}
    body = {"metadata": {"name": "few"}, "spec": {"hard": hard}}
    world.api.call("POST", core_path(space, "resourcequotas"), body=body)
    until(lambda: (world.api.get(core_path(space, "resourcequotas", "few")).get("status") or {}).get("hard"))

    def told(count: int, **settings: Any) -> dict[str, str]:
        resources = {"container": {"resources": {"requests": {"cpu": "400m"}}}}
        some = [order(f"cell-{n}", "true", namespace=space, **resources) for n in range(count)]
        some = [replace(o, settings=Settings("cell", **settings), fresh=True) for o in some]
        return {f.message: f.severity for f in world.provider.preflight(some) if f.check == "quota"}

    try:
        assert told(3, max_parallel=2) == {}
        [(message, severity)] = told(3).items()
        assert severity == "warning" and "2 of these 3" in message and "requests.cpu" in message
        assert [s for m, s in told(5, max_parallel=1).items() if "4 Jobs" in m] == ["error"]
        limits = {"metadata": {"name": "all"}, "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}}
        world.api.call("POST", core_path(space, "limitranges"), body=limits)
        resources = {"resources": {"limits": {"cpu": "1100m"}}}
        [refused] = world.provider.preflight([order("big", "true", namespace=space, container=resources)])
        assert refused.check == "dry-run" and refused.message.startswith("its pods are ") and "Role" not in refused.hint
    finally:
        world.api.call("DELETE", f"/api/v1/namespaces/{space}")


def test_nobody_is_told_each_verb_once(world: World) -> None:
    nobody = provider(context="test-nobody")
    findings = nobody.preflight([order("a", "true"), order("b", "true")])
    denied = [f.message for f in findings if f.severity == "error"]
    assert len(denied) == len(set(denied)) == 10
    assert any("create jobs.batch" in message for message in denied)
    with pytest.raises(StartFailed) as caught:
        nobody.create(order("a", "true"))
    assert caught.value.reason == "Forbidden"
    assert nobody.target().id.startswith("server-")
    nobody.close()


def test_many_alike_runs_cost_few_requests(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    original = Api.call

    def counting(self: Api, method: str, path: str, *args: Any, **options: Any) -> Any:
        sent.append(path)
        return original(self, method, path, *args, **options)

    monkeypatch.setattr(Api, "call", counting)
    assert troubles(world, *(order(f"cell-{n}", f"echo {n}") for n in range(200))) == []
    assert len(sent) < 30
    sent.clear()
    world.provider.observe(list(world.records.values()))
    assert len(sent) <= 8  # jobs, pods, and events where something is gone or waits, in two namespaces


def test_the_order_is_not_changed_by_using_it(world: World) -> None:
    given = order("kept", "true", secret=True)
    before = copy.deepcopy(given.objects)
    world.provider.preflight([given])
    world.provider.create(given)
    assert given.objects == before
