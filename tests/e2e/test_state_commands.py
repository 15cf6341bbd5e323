"""The commands that repair a state: import, rebuild, moved, removed, mv, rm, pull and push, through the installed command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, until
from engines import docker_api
from projects import end_jobs, make_namespace
from stores import sql

SECRET = "c4n4ry-value-of-import"
COLLECTED = 180.0
"""Seconds that a loaded cluster may take to collect a Job that was deleted."""


class Hands(ABC):
    """An engine on which a person starts things by hand, without flowplan.

    Attributes:
        fields: fields of a run in the spec that mean what ``start`` does; ``{seconds}`` is how long it runs.
        changed: (old, new) text of a difference in the spec.
        told: what of an object that was started with ``more`` its spec does not say.
    """

    fields = ""
    changed = ("", "")
    effect = "replace"
    told: frozenset[str] = frozenset()

    def __init__(self, project: Project) -> None:
        self.project = project
        self.name = f"hand-{uuid.uuid4().hex[:8]}"

    def spec(self, extra: str = "") -> str:
        text = f"flowplan: 1\nproject: {self.name}\nruns:\n  job:\n{self.fields}{extra}"
        self.project.write(text)
        return text

    @abstractmethod
    def start(self, *, more: bool = False, **env: str) -> str:
        """Start a sleep and return what a person would call it."""

    @abstractmethod
    def gone(self, object_id: str) -> bool:
        """Return whether what was started is not there any more."""

    @abstractmethod
    def close(self) -> None:
        """Remove whatever is left."""


class Processes(Hands):
    fields = "    provider: process\n    command: [sleep, '777']\n    grace_period: 1s\n"
    changed = ("'777'", "'778'")

    def __init__(self, project: Project) -> None:
        super().__init__(project)
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *, more: bool = False, **env: str) -> str:
        env = {"PATH": "/usr/bin:/bin", **env}
        process = subprocess.Popen(["sleep", "777"], env=env, cwd=self.project.directory, start_new_session=True)
        self.started.append(process)
        until(lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(b"sleep"))
        return str(process.pid)

    def gone(self, object_id: str) -> bool:
        return any(p.pid == int(object_id) and p.poll() is not None for p in self.started)

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()


class Containers(Hands):
    fields = (
        "    provider: docker\n    image: busybox:1.35\n    command: [sleep, '777']\n    grace_period: 1s\n"
        "    docker: {mem_limit: 64m, memswap_limit: 128m}\n"
    )
    changed = ("mem_limit: 64m", "mem_limit: 80m")
    effect = "update"

    def __init__(self, project: Project) -> None:
        super().__init__(project)
        self.api = docker_api()

    told = frozenset(
        {
            "/Container/Config/HostConfig/CapAdd",
            "/Container/Config/HostConfig/PortBindings",
            "/Container/Config/HostConfig/Binds",
        }
    )

    def start(self, *, more: bool = False, **env: str) -> str:
        extra: dict[str, Any] = (
            {"cap_add": ["NET_ADMIN"], "port_bindings": {80: None}, "binds": ["/tmp:/t"]} if more else {}
        )
        host = self.api.create_host_config(mem_limit="64m", memswap_limit="128m", **extra)
        made = self.api.create_container(
            "busybox:1.35", ["sleep", "777"], name=self.name, environment=env, host_config=host, labels=[self.name]
        )
        self.api.start(made["Id"])
        return self.name

    def gone(self, object_id: str) -> bool:
        return not self.api.containers(all=True, filters={"name": object_id})

    def close(self) -> None:
        for label in (self.name, f"dev.flowplan.project={self.name}"):
            for one in self.api.containers(all=True, filters={"label": label}):
                self.api.remove_container(one["Id"], force=True)
        self.api.close()


class Jobs(Hands):
    changed = ("timeout: 800s", "timeout: 900s")
    effect = "update"

    def __init__(self, project: Project) -> None:
        from flowplan.providers.kubernetes.connection import endpoint
        from flowplan.providers.kubernetes.requests import Api

        super().__init__(project)
        self.api = Api(endpoint({}, Path("/")))
        make_namespace(self.api, self.name)
        self.jobs = f"/apis/batch/v1/namespaces/{self.name}/jobs"
        self.fields = (
            "    provider: kubernetes\n    image: busybox:1.35\n    command: [sleep, '777']\n    timeout: 800s\n"
            f"    grace_period: 1s\n    kubernetes: {{namespace: {self.name}}}\n"
        )

    told = frozenset(
        {
            "/Job/metadata/labels",
            "/Job/spec/template/spec/nodeSelector",
            "/Job/spec/template/spec/tolerations",
            "/Job/spec/template/spec/volumes",
            "/Job/spec/template/spec/containers/0/env",
        }
    )

    def start(self, *, more: bool = False, **env: str) -> str:
        env |= {"SECRET_ENV": SECRET} if more else {}
        container = {
            "name": "work",
            "image": "busybox:1.35",
            "args": ["sleep", "777"],
            "env": [{"name": k, "value": v} for k, v in env.items()],
        }
        pod = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}
        job = {"activeDeadlineSeconds": 800, "backoffLimit": 0, "template": {"spec": pod}}
        metadata: dict[str, Any] = {"name": "by-hand"}
        if more:
            metadata["labels"] = {"team": "ml"}
            pod |= {"nodeSelector": {"kubernetes.io/os": "linux"}, "tolerations": [{"operator": "Exists"}]}
            pod |= {"volumes": [{"name": "scratch", "emptyDir": {}}]}
        self.api.call("POST", self.jobs, body={"metadata": metadata, "spec": job})
        until(lambda: self.api.find(f"{self.jobs}/by-hand")["status"].get("active"))
        return f"{self.name}/by-hand"

    def gone(self, object_id: str) -> bool:
        return self.api.find(f"{self.jobs}/by-hand") is None

    def close(self) -> None:
        end_jobs(namespace=self.name)
        self.api.call("DELETE", f"/api/v1/namespaces/{self.name}")
        self.api.close()


@pytest.fixture(
    params=[
        pytest.param(Processes, id="process"),
        pytest.param(Containers, id="docker", marks=pytest.mark.docker),
        pytest.param(Jobs, id="kubernetes", marks=pytest.mark.kubernetes),
    ]
)
def hands(request: pytest.FixtureRequest, project: Project) -> Iterator[Hands]:
    made: Hands = request.param(project)
    try:
        yield made
    finally:
        made.close()


# -- import


def test_what_runs_already_becomes_managed_without_being_touched(hands: Hands) -> None:
    project = hands.project
    text = hands.spec()
    object_id = hands.start()
    project.ok("state", "import", "job", object_id)
    until(lambda: project.statuses() == {"job": "running"})
    assert project.status()["job"]["attempt"] == 1
    [change] = project.plan()["changes"]
    fields = [f["path"] for f in change["fields"] if "containers/0/name" not in f["path"]]
    assert fields == [], "only what the spec asks for is a difference"
    project.write(text.replace(*hands.changed))
    [change] = project.plan()["changes"]
    assert [f["path"] for f in change["fields"]], "the next change is seen"
    if not isinstance(hands, Jobs):
        assert change["action"] == hands.effect
    assert not hands.gone(object_id)
    project.ok("destroy", "--yes", timeout=COLLECTED)
    until(lambda: hands.gone(object_id))
    assert project.status() == {}


def test_a_difference_to_the_spec_is_shown_and_its_secrets_are_not(hands: Hands) -> None:
    project = hands.project
    hands.spec("    env: {LEVEL: info, PW: {from_env: PW}}\n")
    object_id = hands.start(LEVEL="debug", PW=SECRET)
    env = {"PW": "another-value"}
    outs = [project.ok("state", "import", "job", object_id, env=env)]
    [change] = project.plan(env=env)["changes"]
    levels = [(f["before"], f["after"]) for f in change["fields"] if "info" in json.dumps(f.get("after"))]
    assert levels, change["fields"]
    assert "debug" in json.dumps(levels) or isinstance(hands, Jobs)
    assert change["action"] == "replace"
    outs += [project.ok("plan", env=env), project.ok("state", "pull"), project.ok("state", "show", "job")]
    everything = "".join(o.out + o.err for o in outs).encode()
    for path in (project.directory / ".flowplan").rglob("*"):
        everything += path.read_bytes() if path.is_file() else b""
    assert SECRET.encode() not in everything and b"another-value" not in everything


def test_what_the_spec_does_not_say_is_a_difference_too(hands: Hands) -> None:
    """A Job's selector of nodes, a container's ports: the plan shows that the next attempt would not have them."""
    if isinstance(hands, Processes):
        pytest.skip("a process has nothing that its spec does not say")
    hands.spec()
    hands.project.ok("state", "import", "job", hands.start(more=True))
    [change] = hands.project.plan()["changes"]
    paths = {
        field["path"] for field in change["fields"] if field["path"] != "/Job/spec/template/spec/containers/0/name"
    }
    assert {re.sub("/(labels|nodeSelector)/.*", r"/\1", path) for path in paths} == hands.told
    assert change["action"] == "replace"
    assert SECRET not in hands.project.ok("state", "pull").out + hands.project.ok("plan", "--full").out


def test_watch_follows_an_imported_run_to_its_end(hands: Hands) -> None:
    project = hands.project
    hands.spec()
    object_id = hands.start()
    project.ok("state", "import", "job", object_id)
    if isinstance(hands, Jobs):
        pytest.skip("ending a Job early is deleting it")
    watching = project.start("watch")
    time.sleep(0.5)
    if isinstance(hands, Processes):
        hands.started[0].kill()
        hands.started[0].wait()
    elif isinstance(hands, Containers):
        hands.api.kill(object_id)
    watching.communicate(timeout=30)
    assert watching.returncode == 3
    expected = "lost" if isinstance(hands, Processes) else "failed"
    assert project.statuses() == {"job": expected}, "nobody but its parent knows how a process ended"


def test_import_is_refused_for_what_is_managed_or_missing(hands: Hands) -> None:
    project = hands.project
    hands.spec()
    missing = {"Processes": "999999999", "Containers": "no-such-container", "Jobs": f"{hands.name}/no-such-job"}
    project.ok("state", "import", "job", missing[type(hands).__name__], code=1)
    object_id = hands.start()
    project.ok("state", "import", "jbo", object_id, code=7)
    project.ok("state", "import", "job", object_id)
    assert "recorded at job already" in project.ok("state", "import", "job", object_id, code=7).err
    other = hands.spec().replace("  job:\n", "  copy:\n") + "\n"
    project.write(other)
    assert "managed already, at job" in project.ok("state", "import", "copy", object_id, code=6).err


def test_a_process_of_flowplan_itself_is_never_imported(project: Project) -> None:
    import os

    project.write("flowplan: 1\nproject: p\nruns: {job: {provider: process, command: [sleep, '1']}}\n")
    for pid in ("1", str(os.getpid()), "nonsense", "elsewhere:12"):
        project.ok("state", "import", "job", pid, code=1)


# -- rebuild


def lose_the_state(project: Project) -> None:
    if "FLOWPLAN_STATE" in project.env:
        sql("DELETE FROM flowplan.states WHERE project = %s", project.name)
    for path in (project.directory / ".flowplan").glob("state.db*"):
        path.unlink()


@pytest.fixture
def in_database(project: Project) -> Iterator[None]:
    """Keep the state of the project in PostgreSQL."""
    project.env["FLOWPLAN_STATE"] = os.environ["POSTGRES"]
    yield
    project.run("destroy", "--yes", timeout=COLLECTED)
    lose_the_state(project)


@pytest.mark.postgres
@pytest.mark.usefixtures("in_database")
def test_a_lost_state_is_made_again_from_labels_and_carried_over_and_pruned(hands: Hands) -> None:
    """In a database; the states of the tests below are files."""
    project = hands.project
    text = hands.spec("    env: {PW: {from_env: PW}}\n")
    done = text.partition("  job:\n")[2].replace("'777'", "'0'").replace("    env: {PW: {from_env: PW}}\n", "")
    project.write(f"{text}  done:\n{done}")
    env = {"PW": SECRET}
    project.ok("apply", "--yes", "--detach", env=env)
    project.await_status("job", "running")
    project.await_status("done", "succeeded")
    before = {a: (r["run_id"], r["infrastructure_id"]) for a, r in project.status().items()}
    lineage = project.ok("state", "pull").json["lineage"]
    lose_the_state(project)
    refused = project.ok("plan", env=env, code=6).err  # a new state has another lineage
    assert lineage in refused and f"--lineage {lineage}" in refused
    told = project.ok("state", "rebuild", env=env)
    assert "2 runs recorded again" in told.err
    assert {a: (r["run_id"], r["infrastructure_id"]) for a, r in project.status().items()} == before
    assert project.statuses() == {"job": "running", "done": "succeeded"}
    assert project.ok("state", "pull").json["lineage"] == lineage
    assert project.actions(env=env) == {"job": "no-op", "done": "no-op"}
    assert "0 runs recorded again" in project.ok("state", "rebuild", env=env).err
    dump = project.ok("state", "pull", "--with-key").out
    assert SECRET not in dump
    project.write(dump, "dump.json")
    lose_the_state(project)
    project.ok("state", "push", "dump.json")
    assert project.ok("state", "pull", "--with-key").out == dump
    project.ok("apply", "--yes", "--rerun", "done", "--target", "done", env=env)
    pruned = project.ok("state", "prune", "--older", "0s")
    assert pruned.out == "done: attempt 1\n"
    assert project.statuses() == {"job": "running", "done": "succeeded"}
    (project.directory / "flowplan.yaml").rename(project.directory / "other.yaml")
    state = f"{project.env['FLOWPLAN_STATE']}?project={hands.name}"
    project.ok("destroy", "--yes", "--state", state, timeout=COLLECTED)
    (project.directory / "other.yaml").rename(project.directory / "flowplan.yaml")
    assert project.status() == {}


def test_rebuild_knows_runs_that_the_spec_no_longer_has(hands: Hands) -> None:
    project = hands.project
    text = hands.spec()
    project.ok("apply", "--yes", "--detach")
    project.await_status("job", "running")
    lose_the_state(project)
    project.write(text.replace("  job:\n", "  other:\n"))
    project.ok("state", "rebuild")
    assert project.statuses() == {"job": "running"}
    assert project.actions() == {"other": "create", "job": "destroy"}
    project.ok("destroy", "--yes", timeout=COLLECTED)
    assert project.status() == {}


def test_runs_of_two_states_are_not_mixed(project: Project) -> None:
    text = "flowplan: 1\nproject: two\nruns: {job: {provider: process, command: [sleep, '600']}}\n"
    project.write(text)
    lineages = []
    for _ in range(2):
        project.ok("apply", "--yes", "--detach", "--no-refresh", "flowplan.yaml")
        lineages.append(project.ok("state", "pull").json["lineage"])
        lose_the_state(project)
    refused = project.ok("state", "rebuild", code=6)
    assert all(lineage in refused.err for lineage in lineages) and "--lineage" in refused.err
    for lineage in lineages:
        project.ok("state", "rebuild", "--lineage", lineage)
        assert project.statuses() == {"job": "running"}
        project.ok("destroy", "--yes")
        lose_the_state(project)
    project.ok("state", "rebuild", "--lineage", str(uuid.uuid4()), code=7)


def test_rebuild_records_an_orphan_of_a_state_that_is_still_there(project: Project) -> None:
    project.write("flowplan: 1\nproject: p\nruns: {job: {provider: process, command: [sleep, '600']}}\n")
    project.ok("apply", "--yes", "--detach")
    dump = project.ok("state", "pull").json
    dump["records"], dump["attempts"], dump["events"], dump["counters"], dump["outcomes"] = [], [], [], {}, {}
    dump["serial"] += 1
    (project.directory / "empty.json").write_text(json.dumps(dump))
    project.ok("state", "push", "empty.json")
    assert project.status() == {}
    project.ok("state", "rebuild")
    assert project.statuses() == {"job": "running"}


# -- moved, removed, mv, rm

RUN = "{provider: process, command: [sh, -c, 'echo ran >> ran; sleep 600']}"


def moving(project: Project, after: Callable[[str], str]) -> None:
    text = f"flowplan: 1\nproject: p\nruns:\n  old: {RUN}\n"
    project.write(text)
    project.ok("apply", "--yes", "--detach")
    until(lambda: (project.directory / "ran").exists())
    project.write(after(text))


def test_a_rename_is_suggested_and_moved_does_it_without_touching_the_run(project: Project) -> None:
    moving(project, lambda text: text.replace("old:", "new:"))
    run_id = project.status()["old"]["run_id"]
    plan = project.plan()
    assert {c["address"]: c["action"] for c in plan["changes"]} == {"new": "create", "old": "destroy"}
    assert any("moved: [{from: old, to: new}]" in d["hint"] for d in plan["diagnostics"])
    assert "moved: [{from: old, to: new}]" in project.ok("plan", "--format", "markdown").out.replace(
        "&#91;", "["
    ).replace("&#93;", "]").replace("&#123;", "{").replace("&#125;", "}")
    with (project.directory / "flowplan.yaml").open("a") as file:
        file.write("moved: [{from: old, to: new}]\n")
    [change] = project.plan()["changes"]
    assert (change["address"], change["action"], change["moved_from"]) == ("new", "no-op", "old")
    assert "old" in project.ok("plan").out
    project.ok("apply", "--yes", "--detach")
    assert {a: r["run_id"] for a, r in project.status().items()} == {"new": run_id}
    assert project.actions() == {"new": "no-op"}
    assert (project.directory / "ran").read_text() == "ran\n"


def test_state_mv_renames_without_a_spec(project: Project) -> None:
    moving(project, lambda text: text.replace("old:", "new:"))
    project.ok("state", "mv", "old", "new")
    assert project.actions() == {"new": "no-op"}
    assert {e["address"] for e in project.events()} == {"new"}
    project.ok("state", "mv", "old", "other", code=7)
    project.ok("state", "mv", "new", "new", code=7)
    for name in ("a b", "a[", "[x=1]", ".x", ""):
        assert "is not an address" in project.ok("state", "mv", "new", name, code=7).err


def test_a_plan_knows_where_state_mv_took_a_run(project: Project) -> None:
    moving(project, lambda text: text)
    project.ok("state", "mv", "old", "new")
    reasons = {c["address"]: c["reasons"] for c in project.plan()["changes"]}
    assert reasons["old"] == ["not in the state any more, its run was moved to new"]
    project.ok("state", "mv", "new", "old")
    assert project.actions() == {"old": "no-op"}


def test_state_mv_of_a_matrix_moves_its_cells(project: Project) -> None:
    spec = "flowplan: 1\nproject: demo\nruns:\n  a: {provider: process, command: ['true'], matrix: {x: [1, 2]}}\n"
    project.write(spec)
    project.ok("apply", "--yes")
    project.ok("state", "mv", "a", "b")
    project.write(spec.replace("  a:", "  b:"))
    assert project.actions() == {"b[x=1]": "no-op", "b[x=2]": "no-op"}


def test_removed_forgets_and_leaves_the_run_alone(project: Project) -> None:
    moving(project, lambda text: text.replace(f"  old: {RUN}", "  other: {provider: process, command: ['true']}"))
    pid = project.status()["old"]["infrastructure_id"].rpartition(":")[2]
    with (project.directory / "flowplan.yaml").open("a") as file:
        file.write("removed: [old]\n")
    try:
        assert project.actions() == {"other": "create", "old": "forget"}
        project.ok("apply", "--yes")
        assert list(project.status()) == ["other"]
        assert Path(f"/proc/{pid}").exists()
        assert project.events("old")[-1]["reason"] == "Forgotten"
        project.ok("destroy", "--yes")
        assert Path(f"/proc/{pid}").exists()
    finally:
        (project.directory / "pids").write_text(pid)


def test_state_rm_forgets(project: Project) -> None:
    moving(project, lambda text: text)
    pid = project.status()["old"]["infrastructure_id"].rpartition(":")[2]
    (project.directory / "pids").write_text(pid)
    project.ok("state", "rm", "old")
    assert project.status() == {} and Path(f"/proc/{pid}").exists()
    project.ok("state", "rm", "old", code=7)
    assert project.actions() == {"old": "create"}
    project.ok("apply", "--yes", "--detach")
    assert project.status()["old"]["attempt"] == 2
    project.ok("destroy", "--yes")
    assert Path(f"/proc/{pid}").exists(), "it was left alone by what came after it, too"


def test_what_was_pulled_can_be_pushed_elsewhere(project: Project) -> None:
    moving(project, lambda text: text)
    pulled: Any = project.ok("state", "pull", "--with-key").json
    (project.directory / "dump.json").write_text(json.dumps(pulled))
    project.ok("state", "push", "dump.json", "--state", "copy.db")
    copied = project.ok("state", "pull", "--with-key", "--state", "copy.db").json
    assert {k: copied[k] for k in ("lineage", "records", "attempts", "events", "key")} == {
        k: pulled[k] for k in ("lineage", "records", "attempts", "events", "key")
    }
    project.ok("state", "rm", "old")
    assert "newer" in project.ok("state", "push", "dump.json", code=6).err
    (project.directory / "broken.json").write_text('{"lineage": 3}')
    project.ok("state", "push", "broken.json", code=7)
    project.ok("state", "push", "broken.json", "--state", "other.db", code=7)
    assert not (project.directory / "other.db").exists()
    (project.directory / "pids").write_text(next(a["infrastructure_id"] for a in pulled["attempts"]).rpartition(":")[2])
