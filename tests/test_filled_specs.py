"""Specs whose runs come from base job templates, and specs that hold secrets in clear."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flowplan.engines import ManifestsByType
from flowplan.planner.desired.expand import Expansion, expand
from flowplan.planner.desired.sealing import Sealer
from flowplan.planner.desired.variables import resolve_variables
from flowplan.resolve import lookup, resolve
from flowplan.schemas.errors import InvalidInput, PlanStale
from flowplan.schemas.load import load_spec
from flowplan.schemas.secrets import tokens_in

TEMPLATES = Path(__file__).parent / "fixtures" / "templates"
LINEAGE = "7b1ac5a0-0000-4000-8000-000000000000"
KEY = b"k" * 32


class World:
    """A directory with a spec that is expanded as the command does it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sealer = Sealer(KEY, lambda source: lookup(source, directory, {"PW": "from-the-environment"}))

    def expand(self, text: str) -> Expansion:
        path = self.directory / "spec.yaml"
        path.write_text("flowplan: 1\nproject: nightly\n" + text)
        loaded = load_spec(path)
        variables = resolve_variables(loaded.spec, given={}, environ={}, sources=loaded.sources)
        return expand(loaded, variables, self.sealer, ManifestsByType(), lineage=LINEAGE)

    def faults(self, text: str) -> list[str]:
        with pytest.raises(InvalidInput) as error:
            self.expand(text)
        return [str(d).removeprefix(f"{self.directory}/") for d in error.value.diagnostics]

    def objects(self, text: str) -> dict[str, Any]:
        (desired,) = self.expand(text).desired
        return desired.render(1).objects


@pytest.fixture
def world(tmp_path: Path) -> World:
    for file in TEMPLATES.iterdir():
        shutil.copy(file, tmp_path)
    return World(tmp_path)


def test_exported_templates_work_unedited(world: World) -> None:
    expansion = world.expand("""
runs:
  k: {provider: kubernetes, template: kubernetes.yaml, image: "a:1", command: [x], matrix: {n: ["1", "2"]},
      variables: {cpu_limit: "${each.n}", finished_job_ttl: 5, stream_output: false}}
  d: {provider: docker, template: docker.json, image: "a:1", command: [x], variables: {mem_limit: 64m}}
  p: {provider: process, template: process.json, command: echo hi, env: {A: 1}}
""")
    runs = {d.address: d for d in expansion.desired}
    job = runs["k[n=2]"].render(1).objects["Job"]
    assert job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "2"}
    assert job["spec"]["ttlSecondsAfterFinished"] == 5
    assert runs["k[n=1]"].settings.start_timeout == 60.0
    assert runs["k[n=1]"].settings.stream_output is False
    assert runs["d"].render(1).objects["Container"]["Config"]["HostConfig"]["Memory"] == 64 << 20
    assert runs["p"].render(1).objects["Process"]["argv"] == ["echo", "hi"]


def test_settings_of_a_template_differ_by_cell(world: World) -> None:
    expansion = world.expand("""
runs:
  k: {provider: kubernetes, template: kubernetes.yaml, image: "a:1", matrix: {n: [10, 20]},
      variables: {pod_watch_timeout_seconds: "${each.n}"}}
""")
    assert [d.settings.start_timeout for d in expansion.desired] == [10.0, 20.0]


def test_faults_of_templates_have_their_places(world: World) -> None:
    template = {"job_configuration": {"command": "x", "stream_output": "{{ s }}"}, "variables": {"properties": {}}}
    template["variables"]["properties"] = {"s": {"default": "maybe"}}
    (world.directory / "odd.json").write_text(json.dumps(template, indent=1))
    (world.directory / "none.yaml").write_text("image: a\n")
    found = world.faults("""
runs:
  a: {provider: kubernetes, template: kubernetes.yaml, image: "a:1", variables: {memroy_limit: 1Gi}}
  b: {provider: process, template: none.yaml}
  c: {provider: process, template: odd.json}
  d: {provider: process, command: [x], variables: {a: 1}}
  e: {provider: docker, template: docker.json, image: "a:1", variables: {volumes: [nonsense]}}
""")
    text = "\n".join(found)
    assert "spec.yaml:5:" in text and "variables.memroy_limit: is not a variable of the template; did you mean" in text
    assert "none.yaml" in text and "job_configuration is missing" in text
    assert "runs.c.stream_output: must be true or false" in text
    assert "runs.d.variables: are given, but there is no template" in text
    assert "nonsense" in text


KUBECONFIG = """
providers:
  far:
    type: kubernetes
    kubeconfig:
      current-context: c
      clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
      contexts: [{name: c, context: {cluster: c, user: u}}]
      users: [{name: u, user: {token: SECRET}}]
runs:
  a: {provider: far, image: "a:1"}
"""


def test_a_token_in_an_inline_kubeconfig_is_sealed_and_found_again(world: World) -> None:
    entry = world.expand(KUBECONFIG.replace("SECRET", "t0ken-value")).providers["far"]
    assert "t0ken-value" not in json.dumps(entry)
    (token,) = tokens_in(entry)
    assert "spec:spec.yaml#/providers/far/kubeconfig/users/0/user/token" in token
    known = resolve(world.sealer.secrets, directory=world.directory, key=KEY, template=lambda s: None)
    assert known == {token: "t0ken-value"}
    path = world.directory / "spec.yaml"
    path.write_text(path.read_text().replace("t0ken-value", "another"))
    with pytest.raises(PlanStale):
        resolve(world.sealer.secrets, directory=world.directory, key=KEY, template=lambda s: None)
    path.unlink()
    with pytest.raises(InvalidInput, match=r"spec\.yaml at /providers/far"):
        resolve(world.sealer.secrets, directory=world.directory, key=KEY, template=lambda s: None)


def test_references_in_an_inline_kubeconfig(world: World) -> None:
    entry = world.expand(KUBECONFIG.replace("SECRET", "{from_env: PW}")).providers["far"]
    (token,) = tokens_in(entry)
    assert token.startswith("(sensitive env:PW ") and world.sealer.values[token] == "from-the-environment"


def test_a_secret_made_of_a_variable_that_everybody_sees_is_refused(world: World) -> None:
    variables = "variables: {t: {default: shown}, s: {default: hidden, sensitive: true}}\n"
    (fault,) = world.faults(variables + KUBECONFIG.replace("SECRET", '"x-${var.t}"'))
    assert "users[0].user.token: is a secret that would be shown" in fault and "sensitive variable" in fault
    assert tokens_in(world.expand(variables + KUBECONFIG.replace("SECRET", '"${var.s}"')).providers["far"])


def test_the_password_of_a_registry(world: World) -> None:
    run = "runs:\n  a: {provider: docker, image: a, docker: {registry_credentials: {username: u, password: CLEAR}}}\n"
    objects = world.objects(run)
    assert "CLEAR" not in json.dumps(objects)
    (token,) = tokens_in(objects)
    assert lookup(world.sealer.secrets[token], world.directory) == "CLEAR"
    defaults = "defaults: {docker: {registry_credentials: {username: u, password: CLEAR}}}\n"
    (token,) = tokens_in(world.objects(defaults + "runs: {a: {provider: docker, image: a}}\n"))
    assert "#/defaults/docker/" in token


def test_the_password_of_a_registry_through_a_template(world: World) -> None:
    run = "runs:\n  a: {provider: docker, image: a, template: docker.json, variables: {registry_credentials: GIVEN}}\n"
    objects = world.objects(run.replace("GIVEN", "{username: u, registry_url: r, password: {from_env: PW}}"))
    assert tokens_in(objects)
    (fault,) = world.faults(run.replace("GIVEN", "{username: u, registry_url: r, password: CLEAR}"))
    assert "a secret that would be shown; use from_env" in fault and "CLEAR" not in fault
