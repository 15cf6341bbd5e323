"""The Containerfile makes an image with which continuous integration plans and applies.

The image of Python comes from no registry here: it is made of the interpreter and the packages that run this test, so
that nothing is downloaded. What pip would install is there already, but for flowplan itself.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from engines import docker_api
from packaging.requirements import Requirement
from projects import Project, until
from stores import sql

ROOT = Path(__file__).parents[1]
LIBRARY = f"usr/local/lib/python{sys.version_info[0]}.{sys.version_info[1]}"
LEFT_OUT = re.compile(r"/(site-packages|test|tests|idlelib|tkinter|lib2to3|ensurepip|config-[^/]*|.*\.a)(/|$)")
SPEC = """\
flowplan: 1
project: imaged
runs:
  load: {provider: docker, image: "busybox:1.35", command: [echo, loaded]}
  report: {provider: docker, image: "busybox:1.35", needs: load, command: [echo, ready]}
"""

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("image")]


def packages() -> Iterator[Path]:
    """Yield the files of pip, of setuptools and of all that flowplan needs, without the client of Kubernetes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [Requirement(r).name for r in [*project["dependencies"], *extras["postgres"], *extras["serve"]]]
    left, seen = ["pip", "setuptools", "psycopg-binary", *wanted], set()
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        found = importlib.metadata.distribution(name)
        needed = map(Requirement, found.requires or ())
        left += [r.name for r in needed if not r.marker or r.marker.evaluate({"extra": ""})]
        for file in found.files or ():
            if file.parts[0] not in ("..", "kubernetes"):
                yield Path(str(file.locate()))


def python_image() -> bytes:
    """Return the file system of an image of Python, as a tar."""
    purelib = Path(sysconfig.get_path("purelib"))
    standard = Path(sysconfig.get_path("stdlib"))
    executable = Path(os.path.realpath(sys.executable))
    files = {"usr/local/bin/python3": executable, "bin/sh": Path(os.path.realpath("/bin/sh"))}
    files["bin/install"] = Path("/usr/bin/install")
    files |= {
        f"{LIBRARY}/{path.relative_to(standard)}": path
        for path in standard.rglob("*")
        if path.is_file() and not LEFT_OUT.search(f"/{path.relative_to(standard)}")
    }
    files |= {f"{LIBRARY}/site-packages/{p.relative_to(purelib)}": p for p in packages()}
    compiled = [str(path) for path in files.values() if path.suffix == ".so" or os.access(path, os.X_OK)]
    linked = subprocess.run(["ldd", *compiled], check=False, capture_output=True, text=True).stdout
    for library in set(re.findall(r"(?:=> |^\s+)(/\S+) \(0x", linked, re.MULTILINE)):
        files[os.path.normpath(library).lstrip("/")] = Path(library)
    image = io.BytesIO()
    with tarfile.open(fileobj=image, mode="w", dereference=True) as tar:
        for name, path in files.items():
            tar.add(path, name, recursive=False)
        for name in ("tmp", "project"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(directory)
    return image.getvalue()


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """Build the image of the Containerfile, and return its name."""
    api = docker_api()
    name = f"fp-image-{uuid.uuid4().hex[:8]}"
    settings = ["ENV PATH=/usr/local/bin:/bin", f"ENV LD_LIBRARY_PATH={sysconfig.get_config_var('LIBDIR')}"]
    settings += ["ENV PIP_NO_INDEX=1 PIP_NO_BUILD_ISOLATION=0"]
    try:
        api.import_image_from_data(python_image(), repository=f"{name}-python", changes=settings)
        for stage, tag in (("build", f"{name}-build"), (None, name)):  # a stage without a name of its own would stay
            said = api.build(
                path=str(ROOT),
                dockerfile="Containerfile",
                target=stage,
                tag=tag,
                buildargs={"PYTHON": f"{name}-python"},
                rm=True,
                decode=True,
            )
            log = "".join(str(line.get("stream") or line.get("error") or "") for line in said)
            assert api.images(tag), log
        yield name
    finally:
        for made in (name, f"{name}-build", f"{name}-python"):
            if api.images(made):
                api.remove_image(made, force=True)
        api.close()


def contained(image: str, directory: Path, *arguments: str, **host_options: Any) -> tuple[int, str, str]:
    """Run the image as docs/installing.md says; return the exit code, and what it printed."""
    api = docker_api()
    socket = Path(os.environ["DOCKER_HOST"].removeprefix("unix://"))
    binds = [f"{directory}:/project", f"{socket}:/var/run/docker.sock"]
    host = api.create_host_config(binds=binds, group_add=[str(socket.stat().st_gid)], **host_options)
    env = {"KUBECONFIG": "/project/kubeconfig"}
    made = api.create_container(image, list(arguments), host_config=host, user="4711:4711", environment=env)["Id"]
    try:
        api.start(made)
        code = api.wait(made, timeout=120)["StatusCode"]
        out, err = (api.logs(made, stdout=o, stderr=not o).decode() for o in (True, False))
        return code, out, err
    finally:
        api.remove_container(made, force=True)
        api.close()


def test_it_plans_and_applies_without_root(image: str, tmp_path: Path) -> None:
    if not os.environ["DOCKER_HOST"].startswith("unix://"):
        pytest.skip("the Engine has no socket that a container could be given")
    project = Project(tmp_path)
    project.write(SPEC)
    tmp_path.chmod(0o777)
    code, out, err = contained(image, tmp_path, "plan", "--detailed-exitcode")
    assert code == 2 and "2 to create" in out, err
    code, out, err = contained(image, tmp_path, "apply", "--yes")
    assert code == 0, err
    assert sorted(out.splitlines()) == ["load | loaded", "report | ready"]
    assert (tmp_path / ".flowplan" / "state.db").stat().st_uid == 4711
    code, out, err = contained(image, tmp_path, "status", "--format", "json")
    assert {run["status"] for run in json.loads(out)["runs"]} == {"succeeded"}
    code, out, err = contained(image, tmp_path, "destroy", "--yes")
    assert code == 0, err


@pytest.mark.kubernetes
def test_it_starts_jobs_on_a_cluster(image: str, namespace: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    shutil.copy(os.environ["KUBECONFIG"], tmp_path / "kubeconfig")
    (tmp_path / "kubeconfig").chmod(0o644)
    settings = f"{{provider: kubernetes, image: 'busybox:1.35', command: [echo, a Job], kubernetes: {{namespace: {namespace}}}}}"
    Project(tmp_path).write(f"flowplan: 1\nproject: imaged\nruns:\n  job: {settings}\n")
    code, out, err = contained(image, tmp_path, "apply", "--yes", network_mode="host")
    assert (code, out) == (0, "job | a Job\n"), err
    code, out, err = contained(image, tmp_path, "destroy", "--yes", network_mode="host")
    assert code == 0, err


FOLLOWED = """\
flowplan: 1
project: PROJECT
providers: {kubernetes: {type: kubernetes, cluster_id: here, namespace: PROJECT}}
defaults: {provider: kubernetes, image: "busybox:1.35"}
runs:
  first: {command: [sh, -c, "sleep 5; echo loaded"]}
  second: {command: [echo, ready], needs: [first]}
"""


def manifests(image: str, namespace: str, port: int) -> str:
    """Return the example for a follower in a cluster, as it is on this one.

    There is no registry, no network of pods, no DNS and no certificate of the API server here: the pod has the network of
    its node, and a kubeconfig beside its spec.
    """
    text = (ROOT / "examples" / "follower" / "kubernetes.yaml").read_text().replace("8470", str(port))
    objects = list(yaml.safe_load_all(text.replace("registry.example.com/flowplan:0.1.0", image)))
    objects += yaml.safe_load_all((ROOT / "examples" / "kubernetes-role.yaml").read_text())
    [pod] = [one["spec"]["template"]["spec"] for one in objects if one["kind"] == "Deployment"]
    pod["hostNetwork"] = True
    env = pod["containers"][0]["env"]
    [state] = [one for one in env if one["name"] == "FLOWPLAN_STATE"]
    state["value"] = without_password(os.environ["POSTGRES"])
    env.append({"name": "KUBECONFIG", "value": "/spec/kubeconfig"})
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


def without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.username}@{parts.hostname}:{parts.port}").geturl()


@pytest.mark.kubernetes
@pytest.mark.postgres
def test_it_is_a_follower_as_a_pod_with_the_smallest_role(image: str, namespace: str, tmp_path: Path) -> None:
    api = docker_api()
    api.tag(image, image, "here")  # of another tag than latest, which would be pulled
    parts, token = urlsplit(os.environ["POSTGRES"]), uuid.uuid4().hex
    project = Project(tmp_path, {"FLOWPLAN_STATE": os.environ["POSTGRES"]})
    project.write(FOLLOWED.replace("PROJECT", namespace))
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    config["users"][0]["user"] = {"tokenFile": "/var/run/secrets/kubernetes.io/serviceaccount/token"}
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    (tmp_path / "token").write_text(token)
    user = f"{parts.username}:{parts.password}"
    (tmp_path / "pgpass").write_text(f"{parts.hostname}:{parts.port}:{parts.path.strip('/')}:{user}\n")
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "follower.json").write_text(manifests(f"{image}:here", namespace, port))
    files = [f"--from-file={tmp_path}/{name}" for name in ("flowplan.yaml", "kubeconfig", "token", "pgpass")]
    follower = ("-l", "app.kubernetes.io/name=flowplan-follower")
    try:
        project.ok("apply", "--yes", "--detach")
        kubectl("-n", namespace, "create", "configmap", "flowplan-spec", *files[:2])
        kubectl("-n", namespace, "create", "secret", "generic", "flowplan-follower", *files[2:])
        kubectl("-n", namespace, "apply", "-f", str(tmp_path / "follower.json"))
        until(lambda: set(project.statuses().values()) == {"succeeded"} and len(project.status()) == 2, 180)
        assert project.ok("logs", "second").out == "ready\n"
        until(lambda: kubectl("-n", namespace, "get", "deployment", "-o", "jsonpath={..readyReplicas}") == "1", 120)
        [address] = kubectl("-n", namespace, "get", "pods", *follower, "-o", "jsonpath={..podIP}").split()
        asked = urllib.request.Request(
            f"http://{address}:{port}/api/v1/status", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:
            assert {run["status"] for run in json.load(answer)["runs"]} == {"succeeded"}
    except AssertionError as error:
        pods = ["-n", namespace, "describe", "pods", *follower]
        raise AssertionError(
            f"{error}\n{kubectl(*pods)}\n{kubectl('-n', namespace, 'logs', 'deployment/flowplan-follower')}"
        ) from None
    finally:
        kubectl("-n", namespace, "delete", "deployment", "--all", "--ignore-not-found")
        sql("DELETE FROM flowplan.states WHERE project = %s", namespace)
        api.remove_image(f"{image}:here", force=True)
        api.close()


def kubectl(*arguments: str) -> str:
    return subprocess.run(["kubectl", *arguments], check=True, capture_output=True, text=True, timeout=120).stdout


def test_it_is_another_user_than_root_that_runs(image: str) -> None:
    api = docker_api()
    settings = api.inspect_image(image)["Config"]
    api.close()
    assert settings["User"] == "1000:1000" and settings["Entrypoint"] == ["flowplan"]
