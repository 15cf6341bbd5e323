"""Connecting to a cluster: which kubeconfig, which context, which credentials, and what is said when it does not work."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowplan.providers.kubernetes import connection, kubeconfig
from flowplan.providers.kubernetes.comparing import as_recorded, dropped, noted
from flowplan.providers.kubernetes.connection import endpoint
from flowplan.providers.kubernetes.references import Reference, references
from flowplan.providers.kubernetes.refusals import refusal
from flowplan.providers.kubernetes.requests import Api
from flowplan.schemas.errors import EngineUnreachable, ProviderError
from flowplan.schemas.runs import Observed, Recorded, Settings, Status


def config(**user: Any) -> dict[str, Any]:
    return {
        "clusters": [
            {"name": "one", "cluster": {"server": "https://one.example:6443/", "insecure-skip-tls-verify": True}},
            {"name": "two", "cluster": {"server": "http://two.example/prefix"}},
        ],
        "users": [{"name": "me", "user": user or {"token": "secret-token"}}],
        "contexts": [
            {"name": "blue", "context": {"cluster": "one", "user": "me"}},
            {"name": "green", "context": {"cluster": "two", "user": "me", "namespace": "ml"}},
        ],
        "current-context": "blue",
    }


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make an environment without any configuration."""
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(connection, "ACCOUNT", tmp_path / "account")


def written(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document))
    return path


def test_an_inline_kubeconfig_and_its_current_context(tmp_path: Path) -> None:
    made = endpoint({"kubeconfig": config()}, tmp_path)
    assert (made.server, made.label, made.namespace) == ("https://one.example:6443", "blue", "default")
    assert made.credentials.header() == "Bearer secret-token"


def test_a_service_account_without_the_certificate_of_its_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    (tmp_path / "account").mkdir()
    (tmp_path / "account" / "token").write_text("a-token")
    with pytest.raises(ProviderError, match=r"account/ca\.crt, cannot be read: No such file"):
        endpoint({"in_cluster": True}, tmp_path)


def test_context_and_namespace_of_the_settings_win(tmp_path: Path) -> None:
    assert endpoint({"kubeconfig": config(), "context": "green"}, tmp_path).namespace == "ml"
    made = endpoint({"kubeconfig": config(), "context": "green", "namespace": "mine"}, tmp_path)
    assert (made.server, made.namespace, made.tls) == ("http://two.example/prefix", "mine", None)


def test_the_environment_names_the_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(written(tmp_path / "c.yaml", config())))
    assert endpoint({}, tmp_path).label == "blue"


def test_several_files_are_merged_and_the_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {"contexts": [{"name": "blue", "context": {"cluster": "two"}}], "current-context": "blue"}
    paths = [written(tmp_path / "a", first), tmp_path / "missing", written(tmp_path / "b", config())]
    monkeypatch.setenv("KUBECONFIG", ":".join(map(str, paths)))
    made = endpoint({}, tmp_path)
    assert made.server == "http://two.example/prefix" and made.credentials.header() == ""


def test_the_home_directory_is_the_last_resort(tmp_path: Path) -> None:
    written(tmp_path / "home/.kube/config", config())
    assert endpoint({}, tmp_path).label == "blue"


def test_an_unknown_context_lists_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match=r'no context "bluee".*did you mean "blue".*blue, green'):
        endpoint({"kubeconfig": config(), "context": "bluee"}, tmp_path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("/does/not/exist", "/does/not/exist does not exist"),
        ({"contexts": "x"}, "contexts must be a list"),
        ({**config(), "current-context": ""}, "no current-context"),
        ({**config(), "clusters": []}, 'no cluster "one"'),
        ({**config(), "users": []}, 'no user "me"'),
        ({**config(), "clusters": [{"name": "one", "cluster": {}}]}, "no server URL"),
        (
            {**config(), "clusters": [{"name": config(), "cluster": {}}]},
            "clusters must be a list of entries with a name$",
        ),
    ],
)
def test_what_is_not_usable_is_said_in_one_line(tmp_path: Path, given: Any, words: str) -> None:
    with pytest.raises(ProviderError, match=words) as caught:
        endpoint({"kubeconfig": given}, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "- x", "'"])
def test_a_file_that_is_no_kubeconfig(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken"
    path.write_text(text)
    with pytest.raises(ProviderError, match=r"broken .*is not"):
        endpoint({"kubeconfig": str(path)}, tmp_path)


def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "account"
    folder.mkdir()
    (folder / "token").write_text("pod-token\n")
    (folder / "namespace").write_text("jobs")
    (folder / "ca.crt").write_text(certificate(tmp_path)[0])
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")


def test_a_kubeconfig_that_is_not_yaml_is_told_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("apiVersion: v1\nclusters: [\n")
    with pytest.raises(ProviderError, match=r"is not YAML: .* \(line 3, column 1\)"):
        endpoint({"kubeconfig": str(path)}, tmp_path)


def test_inside_a_pod_the_service_account_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account(tmp_path, monkeypatch)
    made = endpoint({}, tmp_path)
    assert (made.server, made.label, made.namespace) == ("https://10.0.0.1:443", "in-cluster", "jobs")
    assert made.credentials.header() == "Bearer pod-token"
    (tmp_path / "account/token").write_text("rotated")
    assert made.credentials.header(renew=True) == "Bearer rotated"


def test_inside_a_pod_a_given_kubeconfig_still_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account(tmp_path, monkeypatch)
    assert endpoint({"kubeconfig": config()}, tmp_path).label == "blue"
    monkeypatch.setenv("KUBECONFIG", str(written(tmp_path / "c", config())))
    assert endpoint({}, tmp_path).label == "blue"
    assert endpoint({"in_cluster": True}, tmp_path).label == "in-cluster"


def test_in_cluster_outside_of_a_pod(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="not a pod"):
        endpoint({"in_cluster": True}, tmp_path)


@pytest.mark.parametrize(
    ("user", "header"),
    [
        ({"token": "t"}, "Bearer t"),
        ({"username": "u", "password": "p"}, "Basic " + base64.b64encode(b"u:p").decode()),
        ({}, ""),
    ],
)
def test_static_credentials(tmp_path: Path, user: dict[str, Any], header: str) -> None:
    document = {**config(), "users": [{"name": "me", "user": user}]}
    assert endpoint({"kubeconfig": document}, tmp_path).credentials.header() == header


def test_a_token_file_is_relative_to_its_kubeconfig(tmp_path: Path) -> None:
    path = written(tmp_path / "sub/config", config(tokenFile="token"))
    (tmp_path / "sub/token").write_text("from-file\n")
    assert endpoint({"kubeconfig": str(path)}, tmp_path).credentials.header() == "Bearer from-file"


def plugin(tmp_path: Path, body: str) -> dict[str, Any]:
    path = tmp_path / "plugin.py"
    path.write_text(body)
    version = "client.authentication.k8s.io/v1beta1"
    return {"exec": {"apiVersion": version, "command": sys.executable, "args": [str(path)]}}


def test_an_exec_plugin_gives_a_token_until_it_expires(tmp_path: Path) -> None:
    answer = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "kind": "ExecCredential",
        "status": {"token": "TOKEN", "expirationTimestamp": "2020-01-01T00:00:00Z"},
    }
    count = tmp_path / "count"
    body = f"open({str(count)!r}, 'a').write('x')\nprint({json.dumps(answer)!r})"
    made = endpoint({"kubeconfig": config(**plugin(tmp_path, body))}, tmp_path)
    assert made.credentials.header() == made.credentials.header() == "Bearer TOKEN"
    assert count.read_text() == "xx"  # expired: asked again


def test_a_failing_exec_plugin_is_named_with_its_words(tmp_path: Path) -> None:
    made = endpoint({"kubeconfig": config(**plugin(tmp_path, "import sys; sys.exit('please log in')"))}, tmp_path)
    with pytest.raises(ProviderError, match=r"credential plugin .* failed: .*please log in"):
        made.credentials.header()


def certificate(folder: Path) -> tuple[str, str]:
    """Make a self-signed certificate and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    options = ["-keyout", str(key), "-out", str(cert), "-subj", "/CN=localhost", "-days", "2"]
    subprocess.run([*command, *options], check=True, capture_output=True)
    return cert.read_text(), key.read_text()


def test_certificates_inline_and_in_files_leave_no_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = certificate(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    inline = {
        f"{k}-data": base64.b64encode(v.encode()).decode()
        for k, v in (("client-certificate", cert), ("client-key", key))
    }
    for user in (inline, {"client-certificate": str(tmp_path / "cert.pem"), "client-key": str(tmp_path / "key.pem")}):
        document = config(**user)
        document["clusters"][0]["cluster"] = {
            "server": "https://x",
            "certificate-authority": str(tmp_path / "cert.pem"),
        }
        made = endpoint({"kubeconfig": document}, tmp_path)
        assert made.tls and made.tls.verify_mode is ssl.CERT_REQUIRED and made.credentials.header() == ""
    assert list(scratch.iterdir()) == []


def test_a_broken_certificate_is_said_to_be(tmp_path: Path) -> None:
    document = config(**{"client-certificate-data": base64.b64encode(b"nonsense").decode()})
    with pytest.raises(ProviderError, match="client certificate is not valid"):
        endpoint({"kubeconfig": document}, tmp_path)


def test_the_fallback_identity_follows_server_and_authority(tmp_path: Path) -> None:
    one, again = (endpoint({"kubeconfig": config()}, tmp_path) for _ in range(2))
    two = endpoint({"kubeconfig": config(), "context": "green"}, tmp_path)
    assert one.fallback_id == again.fallback_id != two.fallback_id


def test_no_secret_is_in_what_is_printed(tmp_path: Path) -> None:
    made = endpoint({"kubeconfig": config()}, tmp_path)
    made.credentials.header()
    assert "secret-token" not in f"{made!r}"


def test_a_dead_server_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    document = config()
    document["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    api = Api(endpoint({"kubeconfig": document}, tmp_path))
    with pytest.raises(EngineUnreachable, match=r"https://127.0.0.1:1 \(context blue\) does not answer: "):
        api.get("/version")


def test_kubeconfig_contexts_are_listed(tmp_path: Path) -> None:
    document, source = kubeconfig.load(config(), tmp_path)
    assert kubeconfig.names(document, "contexts") == ["blue", "green"] and "inline" in source


@pytest.mark.parametrize(
    ("code", "status", "message", "hint"),
    [
        (401, {"reason": "Unauthorized", "message": "Unauthorized"}, "Unauthorized", "wrong or expired"),
        (403, {"reason": "Forbidden", "message": "jobs is forbidden"}, "jobs is forbidden", "Role"),
        (403, {"reason": "Forbidden", "message": "exceeded quota: q"}, "exceeded quota: q", "ResourceQuota"),
        (
            404,
            {"reason": "NotFound", "message": "no", "details": {"kind": "namespaces", "name": "x"}},
            "no",
            "namespace x",
        ),
        (
            422,
            {
                "reason": "Invalid",
                "message": "long",
                "details": {"causes": [{"field": "spec.a", "message": "bad\nvalue"}]},
            },
            "spec.a: bad value",
            "",
        ),
        (500, {}, "InternalError", ""),
    ],
)
def test_refusals_in_one_line(tmp_path: Path, code: int, status: Any, message: str, hint: str) -> None:
    error = refusal(code, json.dumps(status).encode(), endpoint({"kubeconfig": config()}, tmp_path), "POST")
    assert error.message == message and hint in error.hint and "\n" not in str(error)


def test_an_answer_that_is_not_json(tmp_path: Path) -> None:
    error = refusal(502, b"<html>Bad\nGateway</html>", endpoint({"kubeconfig": config()}, tmp_path), "GET")
    assert str(error) == "<html>Bad Gateway</html>"


def test_everything_a_pod_refers_to_is_found() -> None:
    container = {
        "env": [
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}},
            {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c1", "key": "k", "optional": True}}},
        ],
        "envFrom": [{"secretRef": {"name": "s2"}}, {"configMapRef": {"name": "c2"}}],
    }
    spec = {
        "serviceAccountName": "sa",
        "imagePullSecrets": [{"name": "pull"}],
        "containers": [container],
        "volumes": [
            {"name": "v", "persistentVolumeClaim": {"claimName": "pvc"}},
            {"name": "w", "projected": {"sources": [{"secret": {"name": "s3"}}]}},
        ],
    }
    found = list(references({"spec": {"template": {"spec": spec}}}))
    assert {(ref.resource, ref.name, ref.needed) for ref in found} == {
        ("serviceaccounts", "sa", True),
        ("secrets", "pull", False),
        ("secrets", "s1", True),
        ("configmaps", "c1", False),
        ("secrets", "s2", True),
        ("configmaps", "c2", True),
        ("persistentvolumeclaims", "pvc", True),
        ("secrets", "s3", True),
    }
    assert Reference("secrets", "s1", "containers[0].env[A]") in found


def test_dropped_fields_are_those_that_did_not_come_back() -> None:
    posted = {"a": {"b/c": 1, "d": [{"x": 1, "y": 2}]}, "labels": {}, "env": [], "none": None}
    returned = {"a": {"d": [{"x": 1, "z": 3}]}, "extra": 1}
    assert list(dropped(posted, returned)) == ["/a/b~1c", "/a/d/0/y"]


def test_what_was_dropped_is_noted_once_and_is_no_drift_afterwards() -> None:
    job = {"spec": {"suspend": True, "template": {"spec": {"containers": [{"name": "a", "resizePolicy": ["x"]}]}}}}
    live = {"spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}}
    seen = noted(Observed("r", handle={"uid": "u"}, live={"Job": live}), job, live)
    assert seen.handle["dropped"] == ["/spec/suspend", "/spec/template/spec/containers/0/resizePolicy"]
    record = Recorded(
        "a", "k", "kubernetes", {}, 1, "r", "n", {"Job": job}, Settings(), Status.RUNNING, handle=seen.handle
    )
    again = as_recorded(Observed("r", handle={"uid": "u"}, live={"Job": live}), record)
    assert again.live == {"Job": job} and again.handle == seen.handle
    assert live["spec"].keys() == {"template"}, "what the server said is not changed"
