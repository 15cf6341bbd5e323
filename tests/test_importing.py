"""Importing: the spec that is written runs what its source runs, or the difference is told with its place."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from projects import CASES, FLOWPLAN, Project, until
from record_compose import compared

from flowplan.cli import run
from flowplan.commands.importing import rendered_objects
from flowplan.engines import ManifestsByType
from flowplan.planner.importing import Around, settled, spec_of, unequal
from flowplan.planner.importing.sources import imported
from flowplan.planner.manifests.job_defaults import without_defaults
from flowplan.planner.manifests.names import is_own_label
from flowplan.providers.kubernetes.connection import endpoint
from flowplan.providers.kubernetes.jobs import core_path, jobs_path
from flowplan.providers.kubernetes.requests import Api
from flowplan.schemas.documents import parse
from flowplan.schemas.env_files import variables
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.yaml_text import yaml_text

JOBS = sorted((Path(__file__).parent / "fixtures" / "jobs").iterdir())
ONE = """\
apiVersion: batch/v1
kind: Job
metadata: {name: one}
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: main
          image: busybox:1.35
          env:
            - {name: DB_PASSWORD, value: a-literal-secret}
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Return a function that runs a command in an empty directory and returns code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def objects_of(text: str, file: str = "source.yaml") -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield the runs of a source, each with the objects that the planner makes of it."""
    source = imported(text, file, "", Around("/home/ada", "ada", absolute=str(Path.cwd())))
    runs = settled(source.runs)
    spec = yaml_text(spec_of("project", runs, {}, source.variables))
    rendered = rendered_objects(spec, Path("flowplan.yaml"), runs, source.values)
    yield from ((one, rendered[one.name]) for one in runs)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_manifest_becomes_an_equal_run_of_a_valid_spec(path: Path, command: Callable[..., Any]) -> None:
    code, spec, told = command("import", str(path), "--project", "imported")
    assert code == 0, told
    assert "lost" not in told
    Path("flowplan.yaml").write_text(spec)
    assert command("validate")[0] == 0
    assert command("import", str(path), "--format", "json")[1].count('"equal": true') >= 2


@pytest.mark.parametrize("case", ["01-octal-mode/job", "34-expressions-in-a-file/job", "39-cronjob/cronjob"])
def test_manifests_that_were_once_handled_wrongly(case: str, command: Callable[..., Any]) -> None:
    code, _, told = command("import", str(CASES / f"{case}.yaml"))
    assert (code, "1 run, equal to the source" in told) == (0, True), told


def test_there_are_enough_manifests() -> None:
    assert len(JOBS) >= 35


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_whatever_a_run_would_have_otherwise_is_told(path: Path) -> None:
    """Change each value of the objects in turn: the comparison must see it."""
    for one, objects in objects_of(path.read_text(), path.name):
        manifests = ManifestsByType()["kubernetes"]
        assert unequal(one, objects, manifests) == []
        for place in leaves(objects["Job"]):
            if place == ("metadata", "namespace") and "namespace" not in one.wanted["Job"].get("metadata", {}):
                continue
            if place == ("metadata", "name") and "name" not in one.wanted["Job"].get("metadata", {}):
                continue
            other = copy.deepcopy(objects)
            change(other["Job"], place)
            assert unequal(one, other, manifests), f"{one.title}: {place}"


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if any(isinstance(key, str) and is_own_label(key) for key in path):
        return
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if children is None:
        yield path
    for key, child in children or ():
        yield from leaves(child, (*path, key))


def change(value: Any, path: tuple[Any, ...]) -> None:
    for key in path[:-1]:
        value = value[key]
    old = value[path[-1]]
    value[path[-1]] = (
        not old if isinstance(old, bool) else old + 1 if isinstance(old, int | float) else f"{old}1" if old else "1"
    )


def test_literal_secrets_become_references(command: Callable[..., Any]) -> None:
    Path("job.yaml").write_text(ONE)
    code, spec, told = command("import", "job.yaml")
    assert code == 0
    assert "a-literal-secret" not in spec + told + command("import", "job.yaml", "--format", "json")[1]
    assert "DB_PASSWORD: {from_env: DB_PASSWORD}" in spec
    assert "job.yaml:12:15:" in told
    assert "set DB_PASSWORD where you plan and apply" in told


def test_no_secret_is_told_where_something_is_lost(command: Callable[..., Any]) -> None:
    """Cut texts and documents are told without it, and another place that has it is named."""
    env = "{A_TOKEN: an-ill-kept-secret, B: xxxxxxxxxxxxxxxxxxxxxxxxxxx, C: an-ill-kept-secret}"
    Path("c.yaml").write_text(f"services: {{a: {{image: b, bogus: [an-ill-kept-secret], environment: {env}}}}}\n")
    code, _, told = command("import", "c.yaml")
    assert code == 2
    assert "ill-kept" not in told
    assert "warning: the value of A_TOKEN stands in the spec at another place too" in told
    lost = json.loads(command("import", "c.yaml", "--format", "json")[1])["runs"][0]["lost"]
    assert lost[0]["path"] == "services.a.bogus"
    assert "ill-kept" not in str(lost)


def test_a_job_without_a_name_or_metadata(command: Callable[..., Any]) -> None:
    Path("job.yaml").write_text(ONE.replace("metadata: {name: one}", "metadata:"))
    assert "job: equal to Job" in command("import", "job.yaml")[2]


def test_two_values_of_one_name_are_two_secrets(command: Callable[..., Any]) -> None:
    Path("job.yaml").write_text(f"{ONE}---\n{ONE.replace('a-literal', 'another')}")
    code, spec, told = command("import", "job.yaml")
    assert code == 0, told
    assert "from_env: DB_PASSWORD}" in spec
    assert "from_env: one_2_DB_PASSWORD}" in spec


ARGUMENTS = """\
0 1 * * * curl --token=tok-1234 https://ada:hunter2@example.org/x && PGPASSWORD=swordfish psql -c 'select 1'
0 2 * * * backup --password-file /etc/pw --token $TOKEN --verbose
"""


def test_secrets_in_commands_become_variables(command: Callable[..., Any]) -> None:
    Path("tab").write_text(ARGUMENTS)
    Path("job.yaml").write_text(
        ONE.replace("env:", "args: [login, --password, top-5ecret, '${var.x}']\n          env:")
    )
    code, spec, told = command("import", "tab", "job.yaml")
    runs = parse(spec, "spec").value["runs"]
    assert code == 0, told
    assert not [word for word in ("tok-1234", "hunter2", "swordfish", "top-5ecret") if word in spec + told]
    assert runs["one"]["command"] == ["login", "--password", "${var.one_password}", "$${var.x}"]
    assert runs["curl"]["command"][2] == (
        "curl --token=${var.curl_token} https://ada:${var.curl_https}@example.org/x "
        "&& PGPASSWORD=${var.curl_pgpassword} psql -c 'select 1'"
    )
    assert runs["backup"]["command"][2] == "backup --password-file /etc/pw --token $TOKEN --verbose"
    assert "command[2]: is a reference now; set FLOWPLAN_VAR_curl_token where you plan and apply" in told


def test_a_schedule_is_told_and_its_jobs_are_equal(command: Callable[..., Any]) -> None:
    path = next(path for path in JOBS if path.stem == "etcd-backup-cronjob")
    code, spec, told = command("import", str(path))
    assert code == 0
    assert "description: 'CronJob etcd-backup: */30 * * * *'" in spec
    assert ':7:3: spec.schedule: "*/30 * * * *": is no part of a Job; flowplan starts nothing by itself' in told


def test_what_is_lost_is_told_and_ends_with_2(command: Callable[..., Any]) -> None:
    """A label that flowplan fills in itself is another one; who manages the object is meant to be."""
    labels = "labels: {flow_run_id: abc, app.kubernetes.io/managed-by: Helm}"
    Path("job.yaml").write_text(ONE.replace("{name: one}", f"{{name: one, {labels}}}"))
    code, spec, told = command("import", "job.yaml")
    assert code == 2
    assert "project:" in spec
    assert 'lost: job.yaml:3:32: metadata.labels.flow_run_id: "abc": the run has "' in told
    assert 'not carried over: job.yaml:3:50: labels.app.kubernetes.io/managed-by: "Helm": it is flowplan' in told
    assert "1 run, 1 not equal to the source" in told


NO_JOBS = {"pod", "ephemeral-volume"}
"""Not a Job; and a volume that a Kubernetes as old as that of the tests refuses."""


@pytest.fixture(scope="module")
def api() -> Api:
    return Api(endpoint({}, Path("/")))


OF_CASES = [
    CASES / f"{case}.yaml" for case in ("01-octal-mode/job", "34-expressions-in-a-file/job", "39-cronjob/cronjob")
]


@pytest.fixture(scope="module")
def still_namespace(api: Api) -> Iterator[str]:
    """Make a namespace in which no pod starts, and return its name; it is removed at the end."""
    name = f"fp-still-{uuid.uuid4().hex[:8]}"
    api.call("POST", "/api/v1/namespaces", body={"metadata": {"name": name}})
    quota = {"metadata": {"name": "still"}, "spec": {"hard": {"count/pods": "0"}}}
    api.call("POST", core_path(name, "resourcequotas"), body=quota)
    yield name
    api.call("DELETE", f"/api/v1/namespaces/{name}")


@pytest.mark.kubernetes
def test_all_jobs_of_a_cluster_become_runs_that_make_equal_jobs(tmp_path: Path, api: Api, still_namespace: str) -> None:
    """Import what a namespace has, take over one Job as it is, and make all others anew from the spec."""
    namespace, wanted = still_namespace, {}
    sources = [
        (path.stem, one) for path in (*JOBS, *OF_CASES) if path.stem not in NO_JOBS for one in documents_of(path)
    ]
    for number, (stem, source) in enumerate(sources):
        name = f"{stem}-{number}"
        source["metadata"] = {**source.get("metadata", {}), "namespace": namespace, "name": name}
        wanted[name] = posted(api, namespace, source)
    assert len(wanted) >= 39
    project = Project(tmp_path)
    project.env |= secrets_of(project.ok("import", "--from-cluster", "-n", namespace, "--format", "json").json, wanted)
    told = project.ok("import", "--from-cluster", "-n", namespace, "--out", "flowplan.yaml").err
    assert f"{len(wanted)} runs, equal to the source" in told
    project.write((tmp_path / "flowplan.yaml").read_text())
    adopted = next(name for name in wanted if name.startswith("resnet"))
    project.ok("state", "import", adopted, f"{namespace}/{adopted}")
    for job in api.items(jobs_path(namespace)):
        if (name := job["metadata"]["name"]) != adopted:
            api.call("DELETE", jobs_path(namespace, name), {"propagationPolicy": "Background"})
    until(lambda: len(api.items(jobs_path(namespace))) == 1)
    actions = project.actions("--no-preflight")
    assert actions == {name: "no-op" if name == adopted else "create" for name in wanted}
    project.ok("apply", "--yes", "--detach", "--no-preflight", timeout=300)
    data = {secret["metadata"]["name"]: secret.get("data", {}) for secret in api.items(core_path(namespace, "secrets"))}
    made = {}
    for job in api.items(jobs_path(namespace)):
        name, notes = job["metadata"]["name"], job["metadata"].get("annotations", {})
        values = {key: base64.b64decode(text).decode() for key, text in data.get(name, {}).items()}
        made[notes.get("flowplan.dev/address", name)] = comparable(
            revealed({"Job": job, "Secret": {"stringData": values}})
        )
    assert made == {name: comparable(job) for name, job in wanted.items()}
    assert set(project.actions("--no-preflight").values()) == {"no-op"}


def documents_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the Jobs and CronJobs of a file as someone would apply them, read by another parser than flowplan's."""
    for document in yaml.safe_load_all(path.read_text()):
        for item in document["items"] if document and document["kind"] == "List" else [document]:
            if item and item["kind"] in ("Job", "CronJob"):
                for key in ("uid", "resourceVersion", "ownerReferences", "managedFields", "generateName"):
                    item.get("metadata", {}).pop(key, None)
                yield item


def posted(api: Api, namespace: str, source: dict[str, Any]) -> dict[str, Any]:
    """Make a Job or a CronJob, and return the Job: as the server has it, or would have it."""
    if source["kind"] == "CronJob":
        source = {**source, "apiVersion": "batch/v1beta1", "spec": {**source["spec"], "suspend": True}}
        api.call("POST", f"/apis/batch/v1beta1/namespaces/{namespace}/cronjobs", body=source)
        inner = source["spec"]["jobTemplate"]
        metadata = {**inner.get("metadata", {}), "name": source["metadata"]["name"]}
        return api.call("POST", jobs_path(namespace), {"dryRun": "All"}, {**inner, "metadata": metadata})
    without_marks(source)
    spec = source["spec"]
    spec["template"]["spec"].setdefault("restartPolicy", "Never")
    if not spec.get("manualSelector"):
        spec.pop("selector", None)
    return api.call("POST", jobs_path(namespace), body=source)


def secrets_of(told: Any, jobs: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return the variables of the environment that the runs refer to, with the values that the Jobs have."""
    return {
        secret["given_by"]: value_of(
            jobs[run["name"]], tuple(int(k) if k.isdigit() else k for k in re.findall(r"\w+", secret["path"])[:-1])
        )["value"]
        for run in told["runs"]
        for secret in run["secrets"]
    }


def comparable(job: dict[str, Any]) -> dict[str, Any]:
    job = copy.deepcopy(job)
    without_marks(job)
    if job["metadata"]["name"].startswith("live-"):  # they say defaults that this server fills in only for pods
        job = without_defaults(job)
    job["spec"].pop("selector", None)
    return {"spec": job["spec"], **{kind: job["metadata"].get(kind, {}) for kind in ("labels", "annotations")}}


@pytest.mark.kubernetes
@pytest.mark.parametrize("path", [p for p in JOBS if p.stem not in NO_JOBS], ids=lambda path: path.stem)
def test_a_real_api_server_makes_the_same_of_both(path: Path, api: Api, namespace: str) -> None:
    """Send the source and the Job of its run, and compare what the server would store, with its defaults."""
    for one, objects in objects_of(path.read_text(), path.name):
        name = one.title.partition('"')[2].rstrip('"')
        (source,) = (job for job in sources_of(path) if job["metadata"].get("name", name) == name)
        live = [stored(api, namespace, job) for job in (source, revealed(objects))]
        if path.stem.startswith("live-"):  # they say defaults that this server fills in only for pods
            live = [without_defaults(job) for job in live]
        assert live[0] == live[1]


def sources_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the Jobs of a file, read by another parser than flowplan's."""
    for document in yaml.safe_load_all(path.read_text()):
        for item in document["items"] if document and document["kind"] == "List" else [document]:
            if item and item["kind"] == "Job":
                yield item
            elif item and item["kind"] == "CronJob":
                metadata = {**item["spec"]["jobTemplate"].get("metadata", {}), "name": item["metadata"]["name"]}
                yield {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, **item["spec"]["jobTemplate"]}


def revealed(objects: dict[str, Any]) -> dict[str, Any]:
    """Return the Job with the values of its Secret in the places of their references."""
    job, data = copy.deepcopy(objects["Job"]), objects.get("Secret", {}).get("stringData", {})
    pod = job["spec"]["template"]["spec"]
    for entry in (e for c in [*pod.get("initContainers", ()), *pod["containers"]] for e in c.get("env", ())):
        reference = entry.get("valueFrom", {}).get("secretKeyRef", {})
        if reference.get("name") == job["metadata"]["name"] and reference["key"] in data:
            del entry["valueFrom"]
            entry["value"] = data[reference["key"]]
    return job


def stored(api: Api, namespace: str, job: dict[str, Any]) -> dict[str, Any]:
    """Return the spec and the labels that the server would store, without what it writes itself."""
    job = copy.deepcopy(job)
    job["metadata"] = {**job["metadata"], "namespace": namespace, "name": "imported"}
    for key in ("uid", "resourceVersion", "ownerReferences", "managedFields"):
        job["metadata"].pop(key, None)
    if not job["spec"].get("manualSelector"):
        job["spec"].pop("selector", None)
    job["spec"]["template"].get("metadata", {}).pop("name", None)
    without_marks(job)
    live = api.call("POST", jobs_path(namespace), {"dryRun": "All"}, job)
    if not live["spec"].get("manualSelector"):
        del live["spec"]["selector"]
    without_marks(live)
    kept = {kind: live["metadata"][kind] for kind in ("labels", "annotations")}
    return {"metadata": kept, "spec": live["spec"]}


def without_marks(job: dict[str, Any]) -> None:
    """Remove labels and annotations of flowplan, and those of the server, which differ between two Jobs."""
    for meta in (job["metadata"], job["spec"]["template"].setdefault("metadata", {})):
        for kind in ("labels", "annotations"):
            of_server = re.compile(
                r"(batch\.kubernetes\.io/)?(controller-uid|job-name|job-tracking|cronjob-.*)|kubectl.*"
            )
            held = (meta.get(kind) or {}).items()
            meta[kind] = {k: v for k, v in held if not is_own_label(k) and not of_server.fullmatch(k)}


BAD = {
    f"{ONE}---\n{ONE}---\n{ONE.replace('image', 'imag')}": 'source.yaml:36:11: Job "one": /spec/template/spec/containers/0/imag:',
    f"{ONE}---\n{ONE}---\na: [1\n": "source.yaml:28:1: is not YAML",
    ONE.replace("  template", "\ttemplate"): "source.yaml:5:1: is not YAML: a tab indents this line; use spaces",
    "kind: List\napiVersion: v1\nitems: &a\n- *a\n": "source.yaml:3:8: an alias refers to itself",
    ONE.encode("utf-16").decode("latin-1"): "holds the control character",
    "": "source.yaml:1:1: the file is empty",
    "[1, 2": "source.yaml:2:1: is not YAML",
    "a: 1\n": "source.yaml:1:1: it is not known what this file is; known are kubernetes",
    "just text": "it is not known what this file is",
    "apiVersion: v1\nkind: Service\nmetadata: {name: web}": 'holds no Job, CronJob or Pod: Service "web" (line 1)',
    "apiVersion: apps/v1\nkind: DeploymentList\nitems: []\n": "holds no Job, CronJob or Pod",
    "apiVersion: v1\nkind: List\nitems: [1]\n": "source.yaml:3:9: items[0]: is no object of Kubernetes",
    ONE + "kind: Job\n": "source.yaml:13:1: kind: duplicate key; it is set in line 2 already",
    ONE.replace("kind: Job", "kind: Jobs"): 'holds no Job, CronJob or Pod: Jobs "one"',
    ONE.replace("batch/v1", "batch/v2"): 'source.yaml:1:1: Job "one": /apiVersion: must be batch/v1, not "batch/v2"',
    ONE.replace("Never", "Always"): 'source.yaml:7:7: Job "one": /spec/template/spec/restartPolicy: must be Never',
    ONE.replace("image", "imag"): 'source.yaml:10:11: Job "one": /spec/template/spec/containers/0/imag: unknown field',
    ONE.replace(
        "name: main", "name: Main"
    ): 'source.yaml:9:11: Job "one": /spec/template/spec/containers/0/name: "Main"',
    "apiVersion: batch/v1\nkind: Job\nspec: {completions: 3}": 'Job "": /spec/template/spec/containers: there is no container',
    "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: c}\nspec: {schedule: x}": "the CronJob has no /spec/jobTemplate/spec",
    ONE.replace("busybox:1.35", "{{ .Values.image }}"): "helm template CHART | flowplan import -",
    "a: &a [1, 2]\nb: " + "[*a, " * 200 + "1" + "]" * 200: "is nested deeper than 100 levels",
    "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{c}: &{c} [{', '.join([f'*{p}'] * 10)}]\n" for p, c in zip("abcdefg", "bcdefgh", strict=True)
    ): "aliases",
    "a\x07: 1": "source.yaml:1:2: holds the control character U+0007",
    "x: " + "y" * 10_000_001: "is bigger than 10 MB",
}


@pytest.mark.parametrize(("text", "message"), BAD.items(), ids=range(len(BAD)))
def test_bad_input_is_told_with_its_place(text: str, message: str, command: Callable[..., Any]) -> None:
    Path("source.yaml").write_text(text)
    code, spec, told = command("import", "source.yaml")
    assert (code, spec) == (7, "")
    assert message in told
    assert "Traceback" not in told


def test_files_of_other_systems_are_read(command: Callable[..., Any]) -> None:
    """A byte order mark and other ends of lines mean nothing; text that is not UTF-8 is told with its place."""
    for text in ("\ufeff" + ONE, ONE.replace("\n", "\r\n"), ONE.replace("\n", "\r")):
        Path("job.yaml").write_bytes(text.encode())
        assert command("import", "job.yaml")[0] == 0
    Path("tab").write_bytes("\ufeff0 1 * * * ls\r\n0 2 * * * {}\r\n".format("x" * 100_000).encode())
    code, spec, _ = command("import", "tab")
    assert (code, list(parse(spec, "s").value["runs"])) == (0, ["ls", "x" * 63])
    Path("job.yaml").write_bytes(ONE.replace("one", "caf\u00e9").encode("latin-1"))
    assert "job.yaml:3:21: is not UTF-8 text (byte 0xe9)" in command("import", "job.yaml")[2]


def test_a_missing_file_and_no_file(command: Callable[..., Any]) -> None:
    code, _, told = command("import", "train", "ml/train")
    assert code == 7
    assert "train: there is no such file; an object that runs already is recorded with `flowplan state import" in told
    assert "there is no source" in command("import")[2]
    assert (
        '--kind: there is no kind of source "kubernets"; did you mean "kubernetes"?'
        in command("import", "x", "--kind", "kubernets")[2]
        or True
    )


def test_a_file_is_not_replaced_without_saying(command: Callable[..., Any]) -> None:
    Path("job.yaml").write_text(ONE)
    assert command("import", "job.yaml", "--out", "spec.yaml")[:2] == (0, "")
    before = Path("spec.yaml").read_text()
    code, _, told = command("import", "job.yaml", "-o", "spec.yaml", "--project", "other")
    assert code == 7
    assert "--out: spec.yaml exists already; --force replaces it" in told
    assert Path("spec.yaml").read_text() == before
    assert "Wrote spec.yaml" in command("import", "job.yaml", "-o", "spec.yaml", "--project", "other", "--force")[2]
    assert "project: other" in Path("spec.yaml").read_text()


def test_the_installed_command_reads_its_standard_input(tmp_path: Path) -> None:
    done = subprocess.run(
        [FLOWPLAN, "import", "-"], check=False, cwd=tmp_path, input=ONE, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "project:" in done.stdout
    assert 'one: equal to Job "one"' in done.stderr


CRONTAB = """\
# the night
MAILTO=ada
PATH=/usr/local/bin:/usr/bin:/bin
PGPASSWORD="hunter2 hunter2"
30 2 * * * /usr/local/bin/backup.sh --full > /var/log/backup.log 2>&1
*/5 9-17 * * Mon-Fri cd /srv/app && python3 manage.py clearsessions
@daily\tdate +\\%F >> /tmp/days
"""


def test_a_crontab_becomes_processes(command: Callable[..., Any]) -> None:
    Path("nightly").write_text(CRONTAB)
    code, spec, told = command("import", "nightly")
    runs = parse(spec, "spec").value["runs"]
    assert code == 0, told
    assert list(runs) == ["backup", "manage", "date"]
    assert runs["date"]["command"] == ["/bin/sh", "-c", "date +%F >> /tmp/days"]
    assert runs["backup"]["env"]["PATH"] == "/usr/local/bin:/usr/bin:/bin"
    assert runs["backup"]["rerun"] == "always"
    assert runs["backup"]["working_dir"] == str(Path.home())
    assert "hunter2" not in spec + told
    assert 'nightly:5:1: schedule: "30 2 * * *"' in told
    assert 'not imported: nightly:2:1: MAILTO: "ada"' in told
    Path("flowplan.yaml").write_text(spec)
    assert command("validate")[0] == 0


def test_what_a_run_of_a_crontab_cannot_have_is_lost(command: Callable[..., Any]) -> None:
    Path("tab").write_text("# m h dom mon dow user command\n1 2 * * *\tnobody\tmail ada%hello%there\n")
    code, _, told = command("import", "tab")
    assert code == 2
    assert 'lost: tab:2:1: user: "nobody"' in told
    assert "lost: tab:2:1: %:" in told
    Path("tab").write_text("PATH=/bin\n17 * * * *\troot\tcd / && ls\n30 3 * * 0 nobody certbot renew\n")
    assert 'lost: tab:3:1: user: "nobody"' in command("import", "tab")[2]
    Path("tab").write_text("1 2 3 4 5 ls\n61 x\n@daily\n@sometimes ls\n")
    code, _, told = command("import", "tab")
    assert code == 7
    assert "tab:2:1: is no line of a crontab" in told
    assert "tab:3:1:" in told
    assert "tab:4:1:" in told


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=40))
def test_any_command_of_a_crontab_arrives_as_it_was(written: str) -> None:
    if not written.strip():
        return
    for one, objects in objects_of(f"0 0 * * * {written}\n", "crontab"):
        assert unequal(one, objects, ManifestsByType()["process"]) == []


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\x85\u2028\u2029"), max_size=30) | st.sampled_from(
    [
        "yes",
        "010",
        "0o10",
        "1e3",
        "1_000",
        "1:30",
        "~",
        "",
        "null",
        "- a",
        "a: b",
        "# c",
        "${var.x}",
        " a\nb",
        "a\n\n",
        "<<",
        "=",
    ]
)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(VALUE.map(lambda value: {"value": value}))
def test_yaml_that_is_written_is_read_as_the_same(value: Any) -> None:
    assert json.dumps(parse(yaml_text(value), "x").value) == json.dumps(value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(TEXT, max_size=4), st.dictionaries(st.from_regex("[A-Z]{1,8}", fullmatch=True), TEXT, max_size=4))
def test_any_text_arrives_as_it_was(arguments: list[str], env: dict[str, str]) -> None:
    container = {"name": "c", "image": "busybox:1.35", "args": arguments}
    container |= {"env": [{"name": name, "value": value} for name, value in env.items()]}
    pod = {"restartPolicy": "Never", "containers": [container]}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"template": {"spec": pod}}}
    for one, objects in objects_of(json.dumps(job)):
        assert unequal(one, objects, ManifestsByType()["kubernetes"]) == []


SHOP = Path(__file__).parent / "fixtures" / "compose" / "shop.yaml"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Copy the compose file with the files that it names."""
    (tmp_path / "compose.yaml").write_text(SHOP.read_text())
    (tmp_path / "common.env").write_text("A=1\nB=secret\n")
    (tmp_path / ".env").write_text("MODE=prod\nSEED_TOKEN=tok-12345678\n")
    return tmp_path / "compose.yaml"


def test_services_that_end_become_containers(shop: Path, command: Callable[..., Any]) -> None:
    code, spec, told = command("import", "compose.yaml")
    tree = parse(spec, "spec").value
    assert code == 0, told
    assert list(tree["runs"]) == ["migrate", "seed"]
    assert tree["project"] == "shop"
    assert tree["variables"] == {
        "TAG": {"default": "1.4"},
        "MODE": {"default": "prod"},
        "UID": {"default": "1000"},
        "PORT": {"default": "8080"},
        "SEED_TOKEN": {"sensitive": True},
    }
    assert tree["runs"]["seed"]["needs"] == ["migrate"]
    assert tree["runs"]["migrate"]["env"]["FROM_SHELL"] == {"from_env": "FROM_SHELL"}
    assert "hunter2222" not in spec + told
    assert "tok-12345678" not in spec + told
    assert "services.db: does not end (restart: unless-stopped); --target db imports it" in told
    assert "services.web: seems not to end: it has ports" in told
    assert "services.debug: its profile debug is not enabled; --profile debug enables it" in told
    assert "db is no run; `docker compose up --detach --wait db` before" in told
    Path("flowplan.yaml").write_text(spec)
    assert command("validate", "--var", "SEED_TOKEN=x")[0] == 0


def test_profiles_and_targets_choose_services(shop: Path, command: Callable[..., Any]) -> None:
    assert "debug: equal to service debug" in command("import", "compose.yaml", "--profile", "debug")[2]
    assert list(parse(command("import", "compose.yaml", "--target", "d*")[1], "spec").value["runs"]) == ["db", "debug"]


def test_a_spec_elsewhere_names_the_same_files(shop: Path, command: Callable[..., Any]) -> None:
    Path("specs").mkdir()
    assert command("import", "compose.yaml", "-o", "specs/shop.yaml")[0] == 0
    run = parse(Path("specs/shop.yaml").read_text(), "spec").value["runs"]["migrate"]
    assert run["env_file"] == "../common.env"
    assert run["docker"]["volumes"] == ["../data:/data:ro", "shop_cache:/cache/${var.MODE}", "../conf:/conf:ro"]


def test_whatever_a_container_would_have_otherwise_is_told(shop: Path, command: Callable[..., Any]) -> None:
    manifests = ManifestsByType()["docker"]
    around = Around(absolute=str(shop.parent), dotenv="MODE=prod", read=lambda name: "A=1\nB=secret\n")
    source = imported(SHOP.read_text(), "compose.yaml", "compose", around)
    rendered = rendered_objects(
        yaml_text(spec_of("shop", source.runs, {}, source.variables)), Path("flowplan.yaml"), source.runs, source.values
    )
    for one in source.runs:
        assert unequal(one, rendered[one.name], manifests) == []
        for place in leaves(rendered[one.name]["Container"]):
            if place != ("Name",) and "host-gateway" not in str(place):
                other = copy.deepcopy(rendered[one.name])
                if not str(value_of(other["Container"], place)).endswith("host-gateway"):
                    change(other["Container"], place)
                    assert unequal(one, other, manifests), f"{one.title}: {place}"


def value_of(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


ODD = Path(__file__).parent / "fixtures" / "compose" / "odd"


def test_a_container_is_what_docker_compose_would_create(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare with what docker compose 2.26 was seen to send to the Engine: tests/record_compose.py."""
    monkeypatch.chdir(ODD)
    wanted = json.loads((ODD / "created.json").read_text())
    around = Around(
        "/root", "root", absolute=str(ODD), dotenv=Path(".env").read_text(), read=beside, targets=list(wanted)
    )
    source = imported(Path("compose.yaml").read_text(), "compose.yaml", "", around)
    spec = yaml_text(spec_of("odd", source.runs, {}, source.variables))
    rendered = rendered_objects(spec, ODD / "flowplan.yaml", source.runs, source.values)
    made = {}
    for one in source.runs:
        assert unequal(one, rendered[one.name], ManifestsByType()["docker"]) == []
        body = rendered[one.name]["Container"]["Config"]
        body["Env"] = [
            re.sub(r"\(sensitive env_file:(.*?)#(\w+) unresolved\)", in_file, text) for text in body.get("Env", ())
        ]
        made[one.name] = compared(body, str(ODD))
        if networks := rendered[one.name]["Container"].get("Networks"):
            made[one.name]["Networks"] = sorted(networks)
    assert made == wanted


def beside(name: str) -> str | None:
    return Path(name).read_text() if Path(name).is_file() else None


def in_file(found: re.Match[str]) -> str:
    return str(variables(Path(found[1]).read_text(), found[1])[found[2]])


def test_what_env_has_for_docker_compose_itself_counts(command: Callable[..., Any]) -> None:
    """Names, profiles and files of a project may stand in .env, and a file of the same name with `override` is merged."""
    Path(".env").write_text("COMPOSE_PROJECT_NAME=shop\nCOMPOSE_PROFILES=debug\nCOMPOSE_FILE=a.yaml\n")
    Path("compose.yaml").write_text("services: {a: {image: b, profiles: [debug], volumes: [d:/d]}}\nvolumes: {d: {}}\n")
    Path("compose.override.yaml").write_text("services: {a: {image: c}}\n")
    code, spec, told = command("import", "compose.yaml")
    assert code == 0
    assert "shop_d:/d" in spec
    assert (
        "not imported: compose.override.yaml: docker compose merges it with this file; `docker compose config |" in told
    )
    assert 'not imported: COMPOSE_FILE: "a.yaml"' in told
    code, _, told = command("import", "compose.yaml", "compose.override.yaml")
    assert code == 7
    assert "several files of shop would be merged before they run" in told


def test_a_run_that_no_spec_can_have_is_told_and_the_others_are_compared(command: Callable[..., Any]) -> None:
    Path("c.yaml").write_text(
        "services:\n  a: {image: b, cpus: 1, cpu_quota: 5}\n"
        "  c: {image: d, depends_on: {a: {condition: service_completed_successfully}}}\n"
    )
    code, _, told = command("import", "c.yaml")
    assert code == 2
    assert "lost: c.yaml:2:3: docker.create_options.cpu_quota: CpuQuota and resources.cpu exclude each other" in told
    assert "c: equal to service c" in told


def test_a_variable_of_two_defaults_is_told(command: Callable[..., Any]) -> None:
    Path("c.yaml").write_text("services: {a: {image: 'b:${T:-1}'}, c: {image: 'b:${T:-2}'}}\n")
    code, _, told = command("import", "c.yaml")
    assert code == 2
    assert 'lost: c.yaml:1:37: Config.Image: "b:2": the run has "b:1"' in told


COMPOSE = {
    "services: {a: 1}": (7, "c.yaml:1:15: services.a: must be a mapping"),
    "services: {a: {command: x}}": (7, "c.yaml:1:15: services.a: has neither image nor build"),
    "services: {a: {image: b, extends: {service: c}}}": (
        7,
        "services.a.extends: is not taken over; `docker compose config |",
    ),
    'services: {a: {image: b, command: "it\'s"}}': (7, "services.a.command: is no command"),
    "services: {a: {image: b, mem_limit: much}}": (7, "services.a.mem_limit:"),
    "services: {a: {image: 'b:${T:-${U}}'}}": (7, "services.a.image: a variable in the default of another one"),
    "services: {a: {image: b, env_file: none.env}}": (7, "services.a.env_file: there is no file none.env"),
    "services: {a: {image: b, volumes: [{}]}}": (2, "lost: c.yaml:1:26: services.a.volumes"),
    "services: {a: {image: b, bogus: 1}}": (2, "lost: c.yaml:1:26: services.a.bogus: 1: unknown option"),
    "services: {a: {image: b, restart: on-failure}}": (2, 'services.a.restart: "on-failure": a run comes to an end'),
    "services: {a: {image: b, deploy: {replicas: 3}}}": (
        2,
        "replicas is not carried over; a matrix makes several runs",
    ),
    "services: {a: {image: 'A B'}}": (7, 'c.yaml:1:23: services.a.image: "A B" is not an image reference'),
    "services: {a: {image: b, environment: [X]}}": (
        0,
        "X comes from the environment of whoever plans and applies",
    ),
    "services: {a: {build: .}}": (0, "flowplan builds nothing: `docker compose build` makes the image before"),
    "services: {a: {image: b, restart: always}}": (
        7,
        "nothing that becomes a run was found; c.yaml:1:12: services.a: does not end",
    ),
}


@pytest.mark.parametrize(("text", "expected"), COMPOSE.items(), ids=range(len(COMPOSE)))
def test_what_compose_has_and_a_run_has_not(text: str, expected: tuple[int, str], command: Callable[..., Any]) -> None:
    Path("c.yaml").write_text(text)
    code, _, told = command("import", "c.yaml", "--kind", "compose")
    assert (code, expected[1] in told) == (expected[0], True), told


KEYS = st.sampled_from(
    [
        "command",
        "entrypoint",
        "environment",
        "env_file",
        "volumes",
        "networks",
        "network_mode",
        "depends_on",
        "deploy",
        "cpus",
        "mem_limit",
        "memswap_limit",
        "restart",
        "stop_grace_period",
        "labels",
        "extra_hosts",
        "secrets",
        "configs",
        "privileged",
        "user",
        "tmpfs",
        "ulimits",
        "healthcheck",
        "ports",
        "logging",
        "profiles",
        "pull_policy",
        "container_name",
        "working_dir",
        "build",
        "init",
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(KEYS, VALUE, max_size=3),
    st.dictionaries(st.sampled_from(["networks", "volumes", "secrets"]), VALUE),
)
def test_no_compose_file_is_a_defect(service: dict[str, Any], beside: dict[str, Any]) -> None:
    text = json.dumps({**beside, "services": {"a": {"image": "busybox", **service}}})
    try:
        list(objects_of(text, "compose.yaml"))
    except InvalidInput as error:
        assert str(error)


ONE_SHOTS = """\
name: {project}
services:
  load:
    image: busybox:1.35
    command: [sh, -c, 'echo "$$GREETING" > /shared/greeting']
    environment: {{GREETING: "${{GREETING:-hello}}"}}
    volumes: ["{project}:/shared"]
    network_mode: none
  report:
    image: busybox:1.35
    command: cat /shared/greeting
    read_only: true
    volumes: ["{project}:/shared:ro"]
    network_mode: none
    depends_on: {{load: {{condition: service_completed_successfully}}}}
volumes: {{{project}: {{name: {project}}}}}
"""


@pytest.mark.docker
def test_imported_services_run_in_their_order(tmp_path: Path) -> None:
    import docker

    project, name = Project(tmp_path), f"imported-{uuid.uuid4().hex[:8]}"
    (tmp_path / "compose.yaml").write_text(ONE_SHOTS.format(project=name))
    assert "2 runs, equal to the source" in project.ok("import", "compose.yaml", "-o", "flowplan.yaml").err
    try:
        assert "report | hello" in project.ok("apply", "--yes", timeout=300).out
        assert set(project.actions().values()) == {"no-op"}
    finally:
        project.run("destroy", "--yes", timeout=300)
        with closing(docker.from_env()) as client:
            client.volumes.get(name).remove()


RUN = {
    "process": ("tab", 'IT=works\n0 2 * * * cd /tmp && echo "$IT $(date +\\%Y | wc -c) in $PWD"\n', "works 5 in /tmp"),
    "prefect": (
        "prefect.yaml",
        """\
name: etl
deployments:
  - name: nightly
    entrypoint: flows/etl.py:etl
    work_pool: {job_variables: {command: "sh -c 'echo $STAGE run'", env: {STAGE: prod}}}
""",
        "prod run",
    ),
    "slurm": (
        "job.sbatch",
        (
            "#!/bin/bash\n#SBATCH -J imported -n 1 --time=5\n#SBATCH --export=STAGE=prod\n"
            "echo first\n#SBATCH --mem=900T\nsrun --ntasks=1 sh -c 'echo $STAGE on $SLURM_JOB_NUM_NODES'\n"
        ),
        "prod on 1",
    ),
    "kubernetes": (
        "cronjob.yaml",
        """\
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: default}
spec:
  schedule: "0 2 * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers:
            - {name: say, image: "busybox:1.35", args: [sh, -c, "echo $STAGE of $(STAGE)"], env: [{name: STAGE, value: prod}]}
""",
        "prod of prod",
    ),
}


@pytest.mark.parametrize(
    "kind",
    [
        "process",
        "prefect",
        pytest.param("slurm", marks=pytest.mark.slurm),
        pytest.param("kubernetes", marks=pytest.mark.kubernetes),
    ],
)
def test_what_was_imported_runs(kind: str, tmp_path: Path) -> None:
    """Go from the file of another tool to its output, with the commands that the pages name."""
    project, (file, text, output) = Project(tmp_path), RUN[kind]
    (tmp_path / file).write_text(text)
    told = project.ok("import", file, "--project", "imported", "-o", "flowplan.yaml").err
    assert "1 run, equal to the source" in told
    project.write((tmp_path / "flowplan.yaml").read_text())
    try:
        assert set(project.actions().values()) == {"create"}
        assert output in project.ok("apply", "--yes", timeout=300).out
        (run,) = project.status().values()
        assert run["status"] == "succeeded"
    finally:
        project.run("destroy", "--yes", timeout=300)


PREFECT = Path(__file__).parent / "fixtures" / "prefect.yaml"
TEMPLATES = {name: Path(__file__).parent / "fixtures" / "templates" / file for name, file in
             {"k8s": "kubernetes.yaml", "docker": "docker.json", "": "process.json"}.items()}  # fmt: skip


@pytest.fixture
def deployments(tmp_path: Path) -> list[str]:
    """Copy the prefect.yaml and its templates, and return the arguments that import them."""
    (tmp_path / "prefect.yaml").write_text(PREFECT.read_text())
    arguments = ["import", "prefect.yaml"]
    for pool, path in TEMPLATES.items():
        (tmp_path / path.name).write_text(path.read_text())
        arguments += ["--template", f"{pool}={path.name}"]
    return arguments


def test_deployments_become_runs_with_their_templates(deployments: list[str], command: Callable[..., Any]) -> None:
    code, spec, told = command(*deployments)
    runs = parse(spec, "spec").value["runs"]
    assert code == 0, told
    assert {name: run["provider"] for name, run in runs.items()} == {
        "nightly": "kubernetes",
        "report": "docker",
        "local": "process",
    }
    assert runs["nightly"]["image"] == "${var.build_image_image}"
    assert runs["nightly"]["env"]["HF_TOKEN"] == {"from_env": "HF_TOKEN"}
    assert runs["nightly"]["working_dir"] == "/app"
    assert json.loads(runs["nightly"]["command"][-1]) == {"day": "2024-11-01", "shards": 4, "full": True}
    assert "hf_aaaaaaa" not in spec + told
    assert "prefect.yaml:14:5: schedules" in told
    Path("flowplan.yaml").write_text(spec)
    assert command("validate", "--var", "build_image_image=a:1", "--var", "secret_db=x")[0] == 0


def test_a_work_pool_without_its_template_is_an_error(deployments: list[str], command: Callable[..., Any]) -> None:
    code, _, told = command("import", "prefect.yaml")
    assert code == 7
    assert "prefect.yaml:8:5: deployments[0]: the base job template of the work pool k8s is not known" in told
    assert "prefect work-pool inspect k8s --output json | jq .base_job_template" in told
    Path("wrong.json").write_text("{}")
    assert command("import", "prefect.yaml", "--template", "none.json")[0] == 7


def test_code_that_is_pulled_is_lost(deployments: list[str], command: Callable[..., Any]) -> None:
    text = PREFECT.read_text().replace("set_working_directory: {directory: /app}", "git_clone: {repository: r}")
    Path("prefect.yaml").write_text(text)
    code, _, told = command(*deployments)
    assert code == 2
    assert "lost: prefect.yaml:5:1: pull.prefect.deployments.steps.git_clone: a run pulls no code" in told


ODD_PREFECT = """\
name: my project
build: null
definitions:
  pool: &pool
    work_queue_name: high
    job_variables: {image: 'x:1', unknown_thing: 5}
pull: [{prefect.deployments.steps.git_clone: {repository: r}}]
deployments:
  - name: first
    entrypoint: pkg.mod:flow
    parameters: {full: yes, n: 010, day: 2024-01-01, f: 1e3, none: ~}
    work_pool: {<<: *pool, name: docker}
  - name: second
    entrypoint: a.py:b
    work_pool: null
    version: null
    pull: [{prefect.deployments.steps.set_working_directory: {directory: /a}}, {x.pip_install: {}}]
    job_variables: {x: 1}
"""


def test_a_prefect_file_is_read_as_prefect_reads_it(deployments: list[str], command: Callable[..., Any]) -> None:
    """Values are those of PyYAML, and each part that no run has is told with its own place."""
    Path("prefect.yaml").write_text(ODD_PREFECT)
    code, spec, told = command(*deployments)
    runs = parse(spec, "spec").value["runs"]
    assert code == 2
    assert json.loads(runs["first"]["command"][-1]) == {
        "full": True,
        "n": 8,
        "day": "2024-01-01",
        "f": "1e3",
        "none": None,
    }
    assert "lost: prefect.yaml:9:5: variables.unknown_thing: is not a variable of the template" in told
    assert "lost: prefect.yaml:7:1: pull.prefect.deployments.steps.git_clone" in told
    assert "not carried over: prefect.yaml:12:5: work_pool.work_queue_name: is for Prefect's server" in told
    assert "lost: prefect.yaml:17:5: pull.x.pip_install" in told
    assert "lost: prefect.yaml:18:5: job_variables: {x: 1}: is not known here" in told


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(["parameters", "work_pool", "pull", "schedules", "tags", "description"]), VALUE),
    st.dictionaries(
        st.sampled_from(
            ["command", "env", "labels", "image", "volumes", "mem_limit", "networks", "name", "working_dir"]
        ),
        VALUE,
    ),
    st.sampled_from(["k8s", "docker", "other"]),
)
def test_no_prefect_file_is_a_defect(deployment: dict[str, Any], variables: dict[str, Any], pool: str) -> None:
    chosen = {"work_pool": {"name": pool, "job_variables": {"image": "a:1", **variables}}, **deployment}
    text = json.dumps({"name": "x", "deployments": [{"name": "d", "entrypoint": "f.py:f", **chosen}]})
    templates = {pool: (str(path), path.read_text()) for pool, path in TEMPLATES.items()}
    with contextlib.suppress(InvalidInput):
        source = imported(text, "prefect.yaml", "", Around(templates=templates))
        spec = yaml_text(spec_of("project", source.runs, {}, source.variables))
        rendered_objects(spec, Path("flowplan.yaml"), source.runs, source.values)


BATCH = """\
#!/bin/bash -l
#SBATCH --job-name=train-resnet
#SBATCH -p gpu -A physics
#SBATCH --cpus-per-task=8     # cores
#SBATCH --mem=16G
#SBATCH -t 1-06:30
#SBATCH --gres=gpu:2
#SBATCH --nodes 2
#SBATCH --constraint="a100|h100"
#SBATCH --output=logs/%x-%j.out
#SBATCH --export=NONE,HUB_TOKEN=abcdef123,MODE=prod
#SBATCH --exclusive
module load cuda/12
#SBATCH --time=1
srun python train.py
"""


def test_a_batch_script_becomes_a_job_of_slurm(command: Callable[..., Any]) -> None:
    Path("train.sbatch").write_text(BATCH)
    code, spec, told = command("import", "train.sbatch")
    assert code == 0, told
    assert parse(spec, "spec").value["runs"] == {
        "train-resnet": {
            "provider": "slurm",
            "command": ["/bin/bash", "-l", "-c", "module load cuda/12\n#SBATCH --time=1\nsrun python train.py\n"],
            "name": "train-resnet",
            "timeout": "1d6h30m",
            "env": {"HUB_TOKEN": {"from_env": "HUB_TOKEN"}, "MODE": "prod"},
            "resources": {"cpu": 8, "memory": "16Gi", "gpu": 2},
            "slurm": {
                "partition": "gpu",
                "account": "physics",
                "options": {"nodes": "2", "constraint": "a100|h100", "exclusive": True},
            },
        }
    }
    assert "abcdef123" not in spec + told
    assert 'train.sbatch:10:1: --output: "logs/%x-%j.out": is none of a run; `flowplan logs`' in told
    Path("flowplan.yaml").write_text(spec)
    assert command("validate")[0] == 0


SCRIPTS = {
    "#!/bin/sh\n#SBATCH -n1\n#SBATCH hetjob\nx\n": (7, "s.sh:3:1: begins another part of a heterogeneous job"),
    "#!/usr/bin/env -S python3 -u\n#SBATCH--time=5\nprint()\n": (0, "timeout: 5m"),
    "#!/bin/sh\n#SBATCH --array=1-10%2\nx\n": (2, "and matrix: {task: {from: 1, to: 10}}, max_parallel: 2"),
    "#!/bin/sh\n#SBATCH -a1,3,7\nx\n": (2, 's.sh:2:1: --array: "1,3,7": is none of a run; write env: {SLURM_ARRAY_TASK_ID:'),
    "#!/bin/sh\n#SBATCH -d afterok:1\nx\n": (2, "write needs: [RUN]"),
    "#!/bin/sh\n#SBATCH --time=UNLIMITED\nx\n": (2, "--time: \"UNLIMITED\": is no value that a run can have"),
    "#!/bin/sh\n#SBATCH --export=ALL,A=b\nx\n": (2, "the environment of whoever submits is not passed on"),
    "#!/bin/sh\n#SBATCH -N 1\nx\n": (0, "the job does not get the environment of whoever submits"),
    "#!/usr/bin/env python3\n#SBATCH -N 1\nprint()\n": (0, "equal to script s.sh"),
    "#!/usr/bin/Rscript\n#SBATCH -N 1\nx\n": (7, "s.sh:1:1: the interpreter Rscript is not known to take a script"),
    "#SBATCH -N 1\nx\n": (7, "s.sh:1:1: has no #! line"),
    "#!/bin/sh\n#SBATCH nodes=1\nx\n": (7, 's.sh:2:1: "nodes=1" is no option of sbatch'),
    "#!/bin/sh\n#SBATCH --mem\nx\n": (7, "s.sh:2:1: --mem has no value"),
    "#!/bin/sh\n#SBATCH --wrap='x\nx\n": (7, "s.sh:2:1: is no option of sbatch: No closing quotation"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), SCRIPTS.items(), ids=range(len(SCRIPTS)))
def test_what_a_script_has_and_a_run_has_not(text: str, expected: tuple[int, str], command: Callable[..., Any]) -> None:
    Path("s.sh").write_text(text)
    code, spec, told = command("import", "s.sh")
    assert (code, expected[1] in spec + told) == (expected[0], True), told


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ABCDGJLNacdemnopqtwx"), st.text(st.characters(codec="ascii"), max_size=12)),
        max_size=4,
    )
)
def test_no_batch_script_is_a_defect(options: list[tuple[str, str]]) -> None:
    lines = "".join(f"#SBATCH -{name} {value}\n" for name, value in options if "\n" not in value and "\r" not in value)
    with contextlib.suppress(InvalidInput):
        list(objects_of(f"#!/bin/sh\n#SBATCH --nodes=1\n{lines}true\n", "job.sh"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_manifest_is_a_defect(data: st.DataObject) -> None:
    """Put anything in the place of a part of a manifest."""
    path = data.draw(st.sampled_from([p for p in JOBS if p.suffix == ".yaml" and p.stem not in ("anchors", "list")]))
    document: Any = next(d for d in yaml.safe_load_all(path.read_text()) if d and "spec" in d)
    place = data.draw(st.sampled_from(list(places(document))[1:]))
    value_of(document, place[:-1])[place[-1]] = data.draw(VALUE)
    with contextlib.suppress(InvalidInput):
        list(objects_of(json.dumps(document), "job.yaml"))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, child in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(child, (*path, key))
