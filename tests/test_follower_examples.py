"""The examples that run the follower as a service: they are what their own tools take, and say what the command takes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

FLOWPLAN = str(Path(sys.executable).with_name("flowplan"))
EXAMPLES = Path(__file__).parents[1] / "examples"
FOLLOWER = EXAMPLES / "follower"


def objects(path: Path) -> dict[str, dict[str, Any]]:
    """Return kind -> object."""
    return {one["kind"]: one for one in yaml.safe_load_all(path.read_text())}


def options(arguments: list[str]) -> set[str]:
    return {argument for argument in arguments if argument.startswith("--")}


def test_every_option_is_one_of_the_command() -> None:
    helped = subprocess.run([FLOWPLAN, "serve", "--help"], check=True, capture_output=True, text=True).stdout
    [unit] = re.findall(r"(?m)^ExecStart=\S+ (.*)$", (FOLLOWER / "flowplan@.service").read_text())
    compose = yaml.safe_load((FOLLOWER / "compose.yaml").read_text())["services"]["follower"]["command"]
    [container] = objects(FOLLOWER / "kubernetes.yaml")["Deployment"]["spec"]["template"]["spec"]["containers"]
    for arguments in (unit.split(), compose, container["args"]):
        assert arguments[0] == "serve"
        assert options(arguments) <= set(re.findall(r"--[a-z-]+", helped))


def test_the_unit_is_one_of_systemd_and_leaves_runs_alone(tmp_path: Path) -> None:
    text = (FOLLOWER / "flowplan@.service").read_text()
    assert {"KillMode=process", "OOMPolicy=continue", "Restart=always"} <= set(text.splitlines())
    if not shutil.which("systemd-analyze"):
        pytest.skip("needs systemd-analyze")
    unit = tmp_path / "flowplan@nightly.service"
    unit.write_text(text.replace("/usr/local/bin/flowplan", FLOWPLAN))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], check=False, capture_output=True, text=True)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "flowplan@" in line]) == (0, [])


def test_the_compose_file_gives_each_service_what_it_refers_to() -> None:
    document = yaml.safe_load((FOLLOWER / "compose.yaml").read_text())
    follower, tables, db = (document["services"][name] for name in ("follower", "tables", "db"))
    for service in (follower, tables, db):
        assert set(service["secrets"]) <= set(document["secrets"])
    assert tables["depends_on"] == {"db": {"condition": "service_healthy"}}
    assert follower["depends_on"] == {"tables": {"condition": "service_completed_successfully"}}
    assert follower["read_only"] and follower["cap_drop"] == ["ALL"]
    assert any(place.startswith("/project/.flowplan:") for place in follower["tmpfs"])  # `apply` keeps its plan there
    [port] = follower["ports"]
    assert port.startswith("127.0.0.1:") and "--token-file" in follower["command"]
    named = {f"/run/secrets/{name}" for name in follower["secrets"]}
    assert {follower["environment"]["PGPASSFILE"], follower["command"][4]} <= named
    if shutil.which("docker-compose"):
        subprocess.run(["docker-compose", "-f", str(FOLLOWER / "compose.yaml"), "config", "-q"], check=True)


def test_one_follower_with_the_smallest_rights() -> None:
    found = objects(FOLLOWER / "kubernetes.yaml")
    role = objects(EXAMPLES / "kubernetes-role.yaml")["Role"]["metadata"]["name"]
    assert found["RoleBinding"]["roleRef"]["name"] == role
    [subject] = found["RoleBinding"]["subjects"]
    spec = found["Deployment"]["spec"]
    pod = spec["template"]["spec"]
    assert subject["name"] == found["ServiceAccount"]["metadata"]["name"] == pod["serviceAccountName"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")
    [container] = pod["containers"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    # A probe calls a pod by its address, and the follower answers to the names that it was given.
    assert {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}} in container["env"]
    assert "$(POD_IP)" in container["args"] and found["Service"]["metadata"]["name"] in container["args"]
    labels = spec["template"]["metadata"]["labels"]
    for selector in (spec["selector"]["matchLabels"], found["Service"]["spec"]["selector"]):
        assert selector == labels
    assert found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    mounts = {m["name"] for c in (container, *pod["initContainers"]) for m in c["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    for one in (container, *pod["initContainers"]):
        assert (
            one["securityContext"]["readOnlyRootFilesystem"] and not one["securityContext"]["allowPrivilegeEscalation"]
        )


@pytest.mark.kubernetes
def test_the_cluster_takes_the_manifests() -> None:
    """The API server itself looks at them, at what admission says too; nothing is kept of them."""
    namespace = f"follower-{uuid.uuid4().hex[:8]}"
    subprocess.run(["kubectl", "create", "namespace", namespace], check=True, capture_output=True)
    try:
        files = ["-f", str(FOLLOWER / "kubernetes.yaml"), "-f", str(EXAMPLES / "kubernetes-role.yaml")]
        command = ["kubectl", "-n", namespace, "create", "--dry-run=server", "-o", "json", *files]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        decoder, text, kinds = json.JSONDecoder(), done.stdout.strip(), []
        while text:
            one, end = decoder.raw_decode(text)
            kinds += [item["kind"] for item in one.get("items", [one])]
            text = text[end:].strip()
        assert sorted(kinds) == sorted([*objects(FOLLOWER / "kubernetes.yaml"), "Role"])
    finally:
        subprocess.run(["kubectl", "delete", "namespace", namespace, "--wait=false"], check=True, capture_output=True)
