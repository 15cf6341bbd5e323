"""The whole life of Jobs through the installed command, on a real cluster, with every bad input."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from conftest import Project, Result, until
from cuttable_proxy import CuttableProxy
from projects import end_jobs, make_namespace

from flowplan.providers.kubernetes.connection import endpoint
from flowplan.providers.kubernetes.jobs import core_path, jobs_path
from flowplan.providers.kubernetes.requests import Api
from flowplan.schemas.errors import ProviderError

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.skipif(not os.environ.get("KUBECONFIG"), reason="KUBECONFIG names no cluster"),
]

SPACE = f"fp-e2e-{uuid.uuid4().hex[:8]}"
TIGHT = f"{SPACE}-tight"
ROLE = Path(__file__).parents[2] / "examples" / "kubernetes-role.yaml"
TEMPLATE = Path(__file__).parents[1] / "fixtures" / "templates" / "kubernetes.yaml"
PASSWORD = "correct-horse-battery-staple"
HEAD = f"""\
flowplan: 1
project: story
defaults: {{provider: kubernetes, image: "busybox:1.35", grace_period: 1s, kubernetes: {{namespace: {SPACE}}}}}
runs:
"""
RUNS = """\
  plain: {command: [sh, -c, "echo hello; echo world"]}
  retries:
    command: [sh, -c, "f=/host/${run.id}; echo try; echo x >> $f; [ $(wc -l < $f) -ge 3 ] && rm $f && exit 0; exit 1"]
    retries: 3
    kubernetes:
      job:
        spec:
          template:
            spec:
              containers: [{name: main, volumeMounts: [{name: host, mountPath: /host}]}]
              volumes: [{name: host, hostPath: {path: /tmp}}]
  fails: {command: [sh, -c, "echo about to fail; exit 2"]}
  deadline: {command: [sleep, "60"], timeout: 3s}
  oom: {command: [tail, /dev/zero], resources: {memory: 16Mi}}
  pull: {image: "127.0.0.1:1/none:1", start_timeout: 45s}
  config: {command: ["true"], start_timeout: 45s, env: {X: {config_map_key_ref: {name: none, key: x}}}}
  crowded: {command: ["true"], start_timeout: 8s, resources: {cpu: "1000"}}
  sidecar:
    command: [sh, -c, "echo main; exit 7"]
    kubernetes:
      job:
        spec:
          template:
            spec:
              containers:
                - {name: main}
                - {name: aside, image: "busybox:1.35", command: [sh, -c, "sleep 3; echo side"]}
  cells: {command: [echo, "${each.n}"], matrix: {n: {from: 1, to: 30}}, max_parallel: 8}
  ttl0: {command: [echo, short], kubernetes: {finished_job_ttl: 0}}
  ttl5: {command: [echo, five], kubernetes: {finished_job_ttl: 5s}}
  removed: {command: [sleep, "300"]}
  after: {command: ["true"], needs: [fails]}
  templated:
    template: base.yaml
    command: [echo, filled]
    variables: {cpu_request: 10m, memory_limit: 32Mi, env: {A: b}}
  secret:
    command: [sh, -c, "echo $PASSWORD; echo $PASSWORD | wc -c"]
    env: {PASSWORD: {from_env: STORY_PASSWORD}}
"""


@dataclass
class Story:
    """A project whose apply runs in the background while other tests use the cluster."""

    project: Project
    process: subprocess.Popen[str]

    def ended(self) -> Result:
        out, err = self.process.communicate(timeout=240)
        return Result(self.process.returncode, out, err)


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


@pytest.fixture(scope="module")
def begun(api: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Every way for a Job to end, in one apply."""
    project = Project(tmp_path_factory.mktemp("story"), {"NO_COLOR": "1", "STORY_PASSWORD": PASSWORD})
    project.write(HEAD + RUNS)
    project.write(TEMPLATE.read_text(), "base.yaml")
    story = Story(project, project.start("apply", "--yes", "--parallelism", "25", "flowplan.yaml"))
    remover = threading.Thread(target=remove_when_running, args=(api, f"{project.name}-removed-1"), daemon=True)
    remover.start()
    yield story
    if story.process.returncode is None:
        story.process.kill()
        story.process.communicate()
    end_jobs(namespace=SPACE)


@pytest.fixture(scope="module")
def told(begun: Story) -> Result:
    """Return what the apply of the story printed."""
    return begun.ended()


@pytest.fixture(scope="module")
def story(begun: Story, told: Result) -> Project:
    return begun.project


@pytest.fixture(autouse=True)
def running(begun: Story) -> None:
    """Let the story go on while the tests before its end use the same cluster."""


def remove_when_running(api: Api, name: str) -> None:
    """Do what a person does with kubectl delete job."""
    pods = core_path(SPACE, "pods")
    until(
        lambda: any(p["status"]["phase"] == "Running" for p in api.items(pods, labelSelector=f"job-name={name}")), 150
    )
    api.call("DELETE", jobs_path(SPACE, name), body={"propagationPolicy": "Background"})


def lineage_of(project: Project) -> str:
    return str(project.plan("--no-refresh")["state"]["lineage"])


def left(api: Api, lineage: str, namespace: str = SPACE) -> list[str]:
    """Everything of a state that is still on the cluster."""
    selector = f"flowplan.dev/lineage={lineage}"
    paths = [jobs_path(namespace), core_path(namespace, "pods"), core_path(namespace, "secrets")]
    return [item["metadata"]["name"] for path in paths for item in api.items(path, labelSelector=selector)]


def spec(text: str, *, namespace: str = SPACE, idle: bool = True, providers: str = "{kubernetes: {}}") -> str:
    """Return a spec whose Jobs have no pods, or none that a node takes, unless asked to: objects are what matters."""
    resources = ', resources: {cpu: "1000"}' if idle else ""
    job = ", job: {spec: {parallelism: 0}}" if idle else ""
    fields = f'image: "busybox:1.35", grace_period: 1s, command: [sleep, "600"]{resources}'
    return (
        f"flowplan: 1\nproject: demo\nproviders: {providers}\n"
        f"defaults: {{{fields}, kubernetes: {{namespace: {namespace}{job}}}}}\n"
        f"runs:\n{text}\n"
    )


# in place, replaced, drifted


def test_a_live_job_is_changed_in_place_and_replaced_only_where_it_must_be(project: Project, api: Api) -> None:
    run = "  a: {kubernetes: {finished_job_ttl: TTL, job: {metadata: {labels: {team: TEAM}}, spec: {parallelism: 0}}}}"
    before = run.replace("TTL", "100").replace("TEAM", "x")
    project.write(spec(before))
    project.ok("apply", "--yes", "--detach")
    uid = api.get(jobs_path(SPACE, f"{project.name}-a-1"))["metadata"]["uid"]
    project.write(
        spec(before.replace("100", "200").replace("x}", "y, new: z}").replace("parallelism: 0", "parallelism: 1"))
    )
    [change] = project.plan()["changes"]
    assert (change["action"], {f["effect"] for f in change["fields"]}) == ("update", {"in_place"})
    project.ok("apply", "--yes", "--detach")
    job = api.get(jobs_path(SPACE, f"{project.name}-a-1"))
    assert job["metadata"]["uid"] == uid and job["metadata"]["labels"]["new"] == "z"
    assert (job["spec"]["ttlSecondsAfterFinished"], job["spec"]["parallelism"]) == (200, 1)
    project.ok("plan", "--detailed-exitcode")
    project.write((project.directory / "flowplan.yaml").read_text().replace("busybox:1.35", "busybox:latest"))
    [change] = project.plan()["changes"]
    assert change["action"] == "replace"
    image = next(f for f in change["fields"] if f["path"].endswith("/image"))
    assert (image["effect"], image["rule"]) == ("replace", "the pod template of a Job is immutable")
    project.ok("apply", "--yes", "--detach")
    assert api.find(jobs_path(SPACE, f"{project.name}-a-1")) is None
    assert (
        api.get(jobs_path(SPACE, f"{project.name}-a-2"))["spec"]["template"]["spec"]["containers"][0]["image"]
        == "busybox:latest"
    )
    project.ok("plan", "--detailed-exitcode")


def test_drift_is_named_with_who_made_it_and_put_right(project: Project, api: Api) -> None:
    project.write(spec("  a: {labels: {team: x}}\n  b: {kubernetes: {job: {spec: {suspend: true}}}}"))
    project.ok("apply", "--yes", "--detach")
    project.ok("plan", "--detailed-exitcode")
    path = jobs_path(SPACE, f"{project.name}-a-1")
    drift = {"metadata": {"labels": {"team": "theirs"}}, "spec": {"parallelism": 1}}
    api.call("PATCH", path, {"fieldManager": "kubectl-edit"}, drift, content="application/merge-patch+json")
    changes = {c["address"]: c for c in project.plan()["changes"]}
    assert changes["b"]["action"] == "no-op", "a field that the server dropped is no drift"
    found = {f["path"]: (f["before"], f["after"], f["drift"], f["manager"]) for f in changes["a"]["fields"]}
    assert found["/Job/metadata/labels/team"] == ("theirs", "x", True, "kubectl-edit")
    assert found["/Job/spec/parallelism"] == (1, 0, True, "kubectl-edit")
    assert "changed on the engine by kubectl-edit" in project.ok("plan").out
    project.ok("apply", "--yes", "--detach")
    job = api.get(path)
    assert (job["metadata"]["labels"]["team"], job["spec"]["parallelism"]) == ("x", 0)
    project.ok("plan", "--detailed-exitcode")


def test_a_dropped_field_is_told_at_plan_time(project: Project) -> None:
    project.write(spec("  b: {kubernetes: {job: {spec: {suspend: true}}}}"))
    [change] = project.plan()["changes"]
    newer = [f for f in change["preflight"] if f["check"] == "dropped-field"]
    if not newer:
        pytest.skip("this API server knows suspend")
    assert "/spec/suspend" in newer[0]["message"]


def test_a_job_of_somebody_else_is_passed_by_and_left_alone(project: Project, api: Api) -> None:
    pod = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "busybox:1.35"}]}
    project.write(spec("  shared: {}"))
    foreign = {"metadata": {"name": f"{project.name}-shared-1"}, "spec": {"parallelism": 0, "template": {"spec": pod}}}
    uid = api.call("POST", jobs_path(SPACE), body=foreign)["metadata"]["uid"]
    [change] = project.plan()["changes"]
    assert [f["severity"] for f in change["preflight"] if f["check"] == "name"] == ["warning"]
    project.ok("apply", "--yes", "--detach")
    assert project.status()["shared"]["name"] == f"{project.name}-shared-1-1"
    project.ok("plan", "--detailed-exitcode")
    project.ok("destroy", "--yes")
    assert api.get(jobs_path(SPACE, f"{project.name}-shared-1"))["metadata"]["uid"] == uid
    assert api.find(jobs_path(SPACE, f"{project.name}-shared-1-1")) is None


def test_another_cluster_is_refused_before_any_write(project: Project, api: Api) -> None:
    project.write(spec("  a: {}"))
    project.ok("apply", "--yes", "--detach")
    there = (project.directory / "flowplan.yaml").read_text()
    project.write(there.replace("{kubernetes: {}}", "{kubernetes: {cluster_id: another}}"))
    for command in (("plan",), ("apply", "--yes", "flowplan.yaml")):
        refused = project.ok(*command, code=6)
        assert "which is another cluster" in refused.err
    assert api.find(jobs_path(SPACE, f"{project.name}-a-1"))
    project.write(there)
    project.ok("plan", "--detailed-exitcode")


# crashes


def test_killed_at_any_point_each_job_is_created_exactly_once(project: Project, api: Api) -> None:
    project.env["STORY_PASSWORD"] = PASSWORD
    project.write(spec("  a: {matrix: {n: {from: 1, to: 20}}, env: {PASSWORD: {from_env: STORY_PASSWORD}}}"))
    project.ok("plan")
    selector = f"flowplan.dev/lineage={lineage_of(project)}"

    def jobs() -> list[Any]:
        return api.items(jobs_path(SPACE), labelSelector=selector)

    for wanted in (1, 8):
        process = project.start("apply", "--yes", "--detach", "--parallelism", "2", "flowplan.yaml")
        until(lambda wanted=wanted: len(jobs()) >= wanted)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len(jobs()) < 20, "killed too late to show anything"
    project.ok("apply", "--yes", "--detach", "flowplan.yaml")
    made = jobs()
    assert len(made) == 20
    assert {job["metadata"]["annotations"]["flowplan.dev/attempt"] for job in made} == {"1"}
    assert len({job["metadata"]["labels"]["flowplan.dev/run-id"] for job in made}) == 20
    project.ok("plan", "--detailed-exitcode")
    secrets = api.items(core_path(SPACE, "secrets"), labelSelector=selector)
    assert len(secrets) == 20 and all(s["metadata"]["ownerReferences"] for s in secrets)
    project.ok("destroy", "--yes")
    assert left(api, selector.partition("=")[2]) == []


# bad input

INLINE = """{{far: {{type: kubernetes, context: x, kubeconfig: {{
  clusters: [{{name: x, cluster: {{server: "{server}", insecure-skip-tls-verify: true}}}}],
  users: [{{name: u, user: {{token: {token}}}}}],
  contexts: [{{name: x, context: {{cluster: x, user: u}}}}]}}}}}}"""


def inline(server: str, token: str) -> str:
    return INLINE.format(server=server, token=token)


def server() -> str:
    return endpoint({}, Path("/")).server


def admin_token() -> str:
    return endpoint({}, Path("/")).credentials.header().removeprefix("Bearer ")


@pytest.mark.parametrize(
    ("providers", "words"),
    [
        (inline("https://127.0.0.1:1", "x"), "https://127.0.0.1:1 (context x) does not answer: "),
        ("{far: {type: kubernetes, context: tset}}", 'has no context "tset"'),
        ("{far: {type: kubernetes, kubeconfig: none.yaml}}", "no kubeconfig: none.yaml does not exist"),
    ],
    ids=["unreachable", "context", "kubeconfig"],
)
def test_a_cluster_that_cannot_be_used_is_one_error(project: Project, providers: str, words: str) -> None:
    project.write(spec("  a: {provider: far}", providers=providers))
    for command in (("plan",), ("apply", "--yes", "flowplan.yaml")):
        failed = project.ok(*command, code=1)
        assert words in failed.err and failed.err.count("\n") == 1
    assert project.ok("status", "--format", "json", "--no-refresh").json["runs"] == []


def test_wrong_credentials_are_one_error_without_the_token(project: Project) -> None:
    project.write(spec("  a: {provider: far}", providers=inline(server(), "not-the-token-of-anybody")))
    failed = project.ok("plan", code=1)
    assert "credentials of context x are wrong or expired" in failed.err and failed.err.count("\n") == 1
    assert "not-the-token" not in failed.err


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("job: {kind: CronJob}", "kind"),
        ("job: twice.yaml", "holds 2 YAML documents"),
        ("customizations: [{op: replace, path: /spec/nothing/here, value: 1}]", "customizations[0]"),
        ("job: {spec: {template: {spec: {restartPolicy: Always}}}}", "restartPolicy"),
        ("job: {spec: {template: {spec: {parallelism: 2}}}}", "parallelism"),
    ],
    ids=["kind", "documents", "patch", "restart", "place"],
)
def test_a_wrong_manifest_is_refused_before_anything(project: Project, run: str, words: str) -> None:
    project.write("kind: Job\n---\nkind: Job\n", "twice.yaml")
    project.write(spec(f"  a: {{kubernetes: {{{run}}}}}", idle=False))
    result = project.run("plan", "--format", "json")
    if result.code == 0:
        [change] = result.json["changes"]
        told = str(change["warnings"]) + str(change["preflight"])
    else:
        assert result.code == 7
        told = result.err
    assert words in told


def test_a_template_that_is_none_is_refused(project: Project) -> None:
    project.write("image: busybox\n", "base.yaml")
    project.write(spec("  a: {template: base.yaml}", idle=False))
    failed = project.ok("plan", code=7)
    assert "job_configuration is missing" in failed.err


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("kubernetes: {namespace: fp-nowhere}", 'namespace "fp-nowhere" does not exist'),
        ("kubernetes: {service_account_name: none}", 'ServiceAccount "none" does not exist'),
        ("env: {A: {secret_key_ref: {name: none, key: a}}}", 'Secret "none" does not exist'),
        ("env: {A: {config_map_key_ref: {name: none, key: a}}}", 'ConfigMap "none" does not exist'),
        (f"kubernetes: {{namespace: {TIGHT}}}", "exceeded quota"),
    ],
    ids=["namespace", "account", "secret", "configmap", "quota"],
)
def test_what_an_apply_would_trip_over_is_in_the_plan(project: Project, run: str, words: str) -> None:
    project.write(spec(f"  a: {{{run}}}"))
    [change] = project.plan()["changes"]
    errors = [f["message"] for f in change["preflight"] if f["severity"] == "error"]
    assert len(errors) == 1 and words in errors[0]


def test_a_missing_namespace_is_told_once_and_nothing_is_left(project: Project) -> None:
    project.write(spec("  a: {kubernetes: {namespace: fp-nowhere}}"))
    failed = project.ok("apply", "--yes", code=3)
    assert "create it first (kubectl create namespace fp-nowhere)" in failed.err
    run = project.status()["a"]
    assert (run["status"], run["reason"], run["exit_code"]) == ("failed", "NotFound", None)
    project.ok("destroy", "--yes")
    assert project.status() == {}


# permissions

NOBODY = "{far: {type: kubernetes, context: test-nobody}}"


def denied(plan: dict[str, Any]) -> list[str]:
    return [f["message"] for c in plan["changes"] for f in c["preflight"] if f["check"] == "permission"]


def test_nobody_is_told_what_is_not_allowed_a_verb_a_line(project: Project, api: Api) -> None:
    if "test-nobody" not in Path(os.environ["KUBECONFIG"]).read_text():
        pytest.skip("the kubeconfig has no context test-nobody")
    project.env["STORY_PASSWORD"] = PASSWORD
    project.write(
        spec("  a: {provider: far, env: {P: {from_env: STORY_PASSWORD}}}\n  b: {provider: far}", providers=NOBODY)
    )
    lines = [m for m in denied(project.plan()) if m.startswith("not allowed")]
    assert len(lines) == len(set(lines)) == len(verbs_of_the_role())
    assert f'not allowed to create jobs.batch in namespace "{SPACE}" (2 runs need it)' in lines
    failed = project.ok("apply", "--yes", code=3)
    assert "nobody" in failed.err and "secrets" in failed.err
    assert {r["reason"] for r in project.status("--no-refresh").values()} == {"Forbidden"}
    assert left(api, lineage_of(project)) == []


def role() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(ROLE.read_text())
    return document


def verbs_of_the_role() -> list[tuple[str, str]]:
    return [(verb, rule["resources"][0]) for rule in role()["rules"] for verb in rule["verbs"]]


def without(verb: str, resource: str) -> dict[str, Any]:
    """Return the Role without one verb."""
    made = role()
    for rule in made["rules"]:
        if rule["resources"] == [resource]:
            rule["verbs"].remove(verb)
    made["rules"] = [rule for rule in made["rules"] if rule["verbs"]]
    return made


def granted(api: Api, name: str, given: dict[str, Any]) -> str:
    """Return the token of a new service account that has a Role."""
    roles = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{SPACE}"
    api.call("POST", core_path(SPACE, "serviceaccounts"), body={"metadata": {"name": name}})
    api.call("POST", f"{roles}/roles", body={**given, "metadata": {"name": name}})
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    subject = {"kind": "ServiceAccount", "name": name, "namespace": SPACE}
    api.call(
        "POST", f"{roles}/rolebindings", body={"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]}
    )
    return _token(api, name)


def _token(api: Api, name: str) -> str:
    """By the TokenRequest API, or (where the server has none) from the Secret that the controller makes."""
    with contextlib.suppress(ProviderError):
        path = core_path(SPACE, "serviceaccounts", name) + "/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        return str(api.call("POST", path, body=body)["status"]["token"])

    def found() -> str:
        secrets = api.get(core_path(SPACE, "serviceaccounts", name)).get("secrets") or []
        return secrets and secrets[0]["name"]

    data = api.get(core_path(SPACE, "secrets", until(found)))["data"]
    return base64.b64decode(data["token"]).decode()


def test_the_role_is_enough_for_everything(project: Project, api: Api) -> None:
    project.env |= {"STORY_PASSWORD": PASSWORD, "ROLE_TOKEN": granted(api, "flowplan", role())}
    runs = """\
  a: {provider: far, retries: 2, resources: {cpu: "1000"}, env: {P: {from_env: STORY_PASSWORD}}}
  b: {provider: far, command: [echo, heard]}"""
    text = spec(runs, idle=False, providers=inline(server(), "{from_env: ROLE_TOKEN}"))
    project.write(text)
    assert [m for m in denied(project.plan()) if m.startswith("not allowed to") and "read" not in m] == []
    project.ok("apply", "--yes", "--detach")
    project.write(text.replace("retries: 2", "retries: 1"))
    [change, _] = project.plan()["changes"]
    assert change["action"] == "update", (change["reasons"], change["fields"])
    project.ok("apply", "--yes", "--detach")
    watched = project.ok("watch", "b", timeout=120)
    assert "b | heard" in watched.out or "Nothing that is recorded runs." in watched.err  # it has ended by then
    assert project.ok("logs", "b").out == "heard\n"
    project.ok("destroy", "--yes", timeout=120)
    assert left(api, lineage_of(project)) == []


def test_the_plan_says_each_verb_that_a_role_lacks(api: Api, tmp_path: Path) -> None:
    def lacking(number: int, verb: str, resource: str) -> list[str]:
        directory = tmp_path / str(number)
        directory.mkdir()
        token = granted(api, f"lacks-{number}", without(verb, resource))
        project = Project(directory, {"STORY_PASSWORD": PASSWORD, "ROLE_TOKEN": token})
        run = "  a: {provider: far, env: {P: {from_env: STORY_PASSWORD}}}"
        project.write(spec(run, providers=inline(server(), "{from_env: ROLE_TOKEN}")))
        return [m for m in denied(project.plan()) if "read" not in m]

    wanted = verbs_of_the_role()
    with ThreadPoolExecutor(3) as pool:
        told = list(pool.map(lacking, range(len(wanted)), *zip(*wanted, strict=True)))
    for (verb, resource), lines in zip(wanted, told, strict=True):
        name = "jobs.batch" if resource == "jobs" else resource
        assert lines == [f'not allowed to {verb} {name} in namespace "{SPACE}"']


# a network that breaks, an engine that is down


def test_a_cluster_that_is_away_for_a_while_changes_no_status(project: Project, api: Api) -> None:
    there = urlsplit(server())
    proxy = CuttableProxy(str(there.hostname), there.port or 443)
    runs = "  a: {provider: far, command: [sh, -c, 'echo one; sleep 9; echo two'], matrix: {n: [1, 2, 3]}}"
    token = admin_token()
    project.write(spec(runs, idle=False, providers=inline(f"https://127.0.0.1:{proxy.port}", token)))
    project.ok("plan")  # so that there is a state to ask
    process = project.start("apply", "--yes", "flowplan.yaml")
    seen = ["running"] * 3
    until(lambda: sorted(s["status"] for s in project.status("--no-refresh").values()) == seen or process.poll(), 120)
    proxy.mode = "refuse"
    proxy.cut()
    time.sleep(8)
    proxy.mode = "open"
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    for n in (1, 2, 3):
        assert [line for line in out.splitlines() if line.startswith(f"a[n={n}]")] == [
            f"a[n={n}] | one",
            f"a[n={n}] | two",
        ]
        told = [e["status"] for e in project.events(f"a[n={n}]")]
        assert told == ["creating", "pending", "running", "succeeded"]
    assert_nowhere(token, project, out, err)
    project.ok("destroy", "--yes")
    proxy.close()


def running_pods(api: Api, project: Project, prefix: str) -> list[bool]:
    pods = api.items(core_path(SPACE, "pods"), labelSelector=f"flowplan.dev/project={project.name}")
    return [p["status"]["phase"] == "Running" for p in pods if p["metadata"]["name"].startswith(prefix)]


def assert_nowhere(secret: str, project: Project, *texts: str) -> None:
    """Check that a secret is in no output and in no file that flowplan wrote."""
    for text in texts:
        assert secret not in text
    for path in (project.directory / ".flowplan").rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


@pytest.mark.skipif(os.environ.get("FLOWPLAN_DISRUPT") != "1", reason="stops the whole cluster: FLOWPLAN_DISRUPT=1")
@pytest.mark.parametrize("component", ["apiserver", "etcd"])
def test_the_control_plane_is_stopped_while_jobs_run(project: Project, api: Api, component: str) -> None:
    pid = int((Path(os.environ["KUBECONFIG"]).parent / f"{component}.pid").read_text())
    runs = "  a: {command: [sh, -c, 'echo one; sleep 12; echo two'], matrix: {n: {from: 1, to: 10}}}"
    project.write(spec(runs, idle=False))
    process = project.start("apply", "--yes", "flowplan.yaml")
    until(lambda: sum(running_pods(api, project, f"{project.name}-a-n-")) >= 5 or process.poll() is not None, 120)
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(20)
        assert process.poll() is None, "flowplan goes on"
    finally:
        os.kill(pid, signal.SIGCONT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    for n in range(1, 11):
        assert [e["status"] for e in project.events(f"a[n={n}]")] == ["creating", "pending", "running", "succeeded"]
        assert [line for line in out.splitlines() if line.startswith(f"a[n={n}]")] == [
            f"a[n={n}] | one",
            f"a[n={n}] | two",
        ]


# the story


@pytest.mark.parametrize(
    ("address", "status", "reason", "code", "attempts"),
    [
        ("plain", "succeeded", "Completed", 0, 1),
        ("retries", "succeeded", "Completed", 0, 3),
        ("fails", "failed", "BackoffLimitExceeded", 2, 1),
        ("deadline", "timed_out", "DeadlineExceeded", None, None),
        ("oom", "failed", None, 137, 1),
        ("pull", "timed_out", "ImagePullBackOff", None, None),
        ("config", "timed_out", "CreateContainerConfigError", None, None),
        ("crowded", "timed_out", "Unschedulable", None, None),
        ("sidecar", "failed", "BackoffLimitExceeded", 7, 1),
        ("cells[n=1]", "succeeded", "Completed", 0, 1),
        ("cells[n=30]", "succeeded", "Completed", 0, 1),
        ("ttl0", "succeeded", None, None, None),
        ("ttl5", "succeeded", "Completed", 0, 1),
        ("templated", "succeeded", "Completed", 0, 1),
        ("removed", "lost", "Removed", None, None),
        ("secret", "succeeded", "Completed", 0, 1),
    ],
)
def test_every_end_is_told_as_it_was(
    story: Project, address: str, status: str, reason: str | None, code: int | None, attempts: int | None
) -> None:
    run = story.status("--no-refresh")[address]
    assert run["status"] == status, run
    assert reason is None or run["reason"] == reason or {reason, run["reason"]} == {"ErrImagePull", "ImagePullBackOff"}
    assert run["exit_code"] == code or address == "ttl0", run
    assert attempts is None or run["attempts"] == attempts
    assert run["infrastructure_id"].count(":") == 2 and f":{SPACE}:story-" in run["infrastructure_id"]


def test_the_apply_says_what_failed_and_why(told: Result) -> None:
    assert told.code == 3
    assert "after: skipped: fails failed (exit code 2)" in told.err
    assert "removed: lost: Removed: the Job was deleted" in told.err
    assert "out of memory" in told.err
    for address, words in {"config": "none", "crowded": "cpu"}.items():  # the reasons are in the cluster's own words
        assert any(line.startswith(f"{address}: ") and words in line for line in told.err.splitlines())


def test_output_is_streamed_and_kept(story: Project, told: Result) -> None:
    lines = told.out.splitlines()
    for line in (
        "plain | hello",
        "plain | world",
        "fails | about to fail",
        "sidecar | main",
        "cells[n=30] | 30",
        "templated | filled",
    ):
        assert lines.count(line) == 1
    assert lines.count("retries | try") == 3
    assert story.ok("logs", "plain").out == "hello\nworld\n"
    assert story.ok("logs", "retries").out == "try\n" * 3
    assert story.ok("logs", "ttl5").out == "five\n", "kept although the Job is gone"


def test_a_matrix_keeps_its_max_parallel(story: Project) -> None:
    live: set[str] = set()
    most = 0
    for event in story.events():
        if event["address"].startswith("cells["):
            (live.add if event["status"] in ("creating", "pending", "running") else live.discard)(event["address"])
            most = max(most, len(live))
    assert 1 < most <= 8


def test_statuses_only_go_forward(story: Project) -> None:
    order = ["creating", "pending", "running"]
    events: dict[str, dict[str, None]] = {}
    for event in story.events():
        events.setdefault(event["address"], {})[event["status"]] = None
    assert len(events) == 44, "all but the one that was skipped"
    for told in map(list, events.values()):
        assert told[0] == "creating" and len(told) > 1 and told[-1] not in order
        assert told[:-1] == sorted(told[:-1], key=order.index)


def test_a_plan_after_the_story_reruns_what_did_not_succeed_and_nothing_else(story: Project) -> None:
    plan = story.plan()
    changes = {c["address"]: c for c in plan["changes"]}
    rerun = {"fails", "deadline", "oom", "pull", "config", "crowded", "sidecar", "removed"}
    assert {a for a, c in changes.items() if c["action"] == "rerun"} == rerun
    assert {c["action"] for a, c in changes.items() if a not in rerun} == {"no-op", "create"}
    assert changes["after"]["action"] == "create"
    assert changes["removed"]["reasons"] == ["last attempt lost: Removed"]
    assert changes["removed"]["after"]["Job"]["metadata"]["name"] == f"{story.name}-removed-2"


def test_a_plan_twice_gives_the_same_bytes(story: Project) -> None:
    one, other = (story.ok("plan", "--format", "json").out for _ in range(2))
    assert one == other


def test_a_secret_value_is_on_the_cluster_in_its_secret_only(story: Project, told: Result, api: Api) -> None:
    job = api.get(jobs_path(SPACE, f"{story.name}-secret-1"))
    secret = api.get(core_path(SPACE, "secrets", f"{story.name}-secret-1"))
    assert PASSWORD not in str(job)
    assert base64.b64decode(secret["data"]["PASSWORD"]).decode() == PASSWORD
    assert secret["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    assert "secret | (sensitive)" in told.out and f"secret | {len(PASSWORD) + 1}" in told.out
    shown = [story.ok(*c).out for c in (("plan", "--full", "--explain"), ("logs", "secret"), ("events",))]
    assert_nowhere(PASSWORD, story, told.out, told.err, *shown)


def test_destroying_the_story_leaves_nothing(story: Project, api: Api) -> None:
    lineage = lineage_of(story)
    assert left(api, lineage)
    story.ok("destroy", "--yes", "--parallelism", "25", timeout=120)
    assert left(api, lineage) == []
    assert story.status() == {}
    assert {e["status"] for e in story.events("plain")} >= {"succeeded", "destroyed"}


def test_destroying_needs_a_server_that_answers(project: Project) -> None:
    there = urlsplit(server())
    proxy = CuttableProxy(str(there.hostname), there.port or 443)
    project.write(spec("  a: {provider: far}", providers=inline(f"https://127.0.0.1:{proxy.port}", admin_token())))
    project.ok("apply", "--yes", "--detach")
    proxy.mode = "refuse"
    proxy.cut()
    failed = project.ok("destroy", "--yes", code=1)
    assert "does not answer" in failed.err
    proxy.mode = "open"
    project.ok("destroy", "--yes")
    assert project.status() == {}
    proxy.close()
