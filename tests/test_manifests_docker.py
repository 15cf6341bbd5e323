"""The pure half of the docker provider: objects, faults, effects and equality."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from flowplan.planner.manifests import ResolvedRun, docker
from flowplan.planner.manifests.docker_values import parse_volume
from flowplan.schemas.errors import InvalidInput
from flowplan.schemas.plans import ABSENT
from flowplan.schemas.runs import Identity, Origin

IDENTITY = Identity("nightly", str(uuid.UUID(int=5)), "extract", 1)
HOST = "/Container/Config/HostConfig/"


def run(origins: Any = None, **fields: Any) -> ResolvedRun:
    given = {"image": "busybox:1.35", **fields}
    return ResolvedRun("extract", "extract", 0, "docker", "docker", given, {}, "/spec", {}, origins or {})


def container(**fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = docker.render(run(**fields), IDENTITY).objects["Container"]
    return found


def host(**fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = container(**fields)["Config"]["HostConfig"]
    return found


def faults(**fields: Any) -> list[str]:
    return [f"{fault.subject}: {fault.message}" for fault in docker.check(run(**fields))]


def test_the_smallest_run() -> None:
    labels = {
        "dev.flowplan.project": "nightly",
        "dev.flowplan.run-id": IDENTITY.run_id,
        "dev.flowplan.lineage": IDENTITY.lineage,
        "dev.flowplan.address": "extract",
        "dev.flowplan.attempt": "1",
        "io.kubernetes.app.managed-by": "flowplan",
    }
    found = container()
    assert found["Config"]["Labels"].pop("dev.flowplan.content")
    assert found == {
        "Name": "nightly-extract-1",
        "PullPolicy": "IfNotPresent",
        "Networks": [],
        "Config": {
            "Image": "busybox:1.35",
            "Labels": labels,
            "HostConfig": {"ExtraHosts": ["host.docker.internal:host-gateway"]},
        },
    }


def test_rendering_twice_gives_the_same_and_the_run_stays_as_it_was() -> None:
    wanted = run(env={"B": "2", "A": None}, docker={"networks": ["a", "b"]}, labels={"x.y/z": "1"})
    before = repr(wanted)
    assert docker.render(wanted, IDENTITY) == docker.render(wanted, IDENTITY)
    assert repr(wanted) == before


def test_command_environment_and_directory() -> None:
    config = container(
        entrypoint=["python"], command=["-m", "x y"], env={"B": "", "A": "a=b", "GONE": None}, working_dir="/w"
    )["Config"]
    assert (config["Entrypoint"], config["Cmd"], config["WorkingDir"]) == (["python"], ["-m", "x y"], "/w")
    assert config["Env"] == ["A=a=b", "B=", "GONE"]


def test_labels_are_reversed_and_annotations_are_labels_too() -> None:
    labels = container(labels={"a.b.c/d": "1", "team": "data"}, annotations={"team": "other", "note": "n"})["Config"][
        "Labels"
    ]
    assert (labels["c.b.a.d"], labels["team"], labels["note"]) == ("1", "data", "n")


def test_policy_credentials_and_platform() -> None:
    login = {"username": "u", "password": "(sensitive env:P 0123456789abcdef)", "registry_url": "r.io"}
    found = container(
        image="r.io/a", docker={"registry_credentials": login, "create_options": {"platform": "linux/amd64"}}
    )
    assert found["PullPolicy"] == "Always"
    assert found["Registry"] == {"Username": "u", "Password": login["password"], "URL": "r.io", "Reauth": True}
    assert found["Platform"] == "linux/amd64"


def test_resources_and_retries() -> None:
    wanted = host(resources={"cpu": "500m", "memory": "16Mi", "gpu": 2}, retries=2, docker={"memswap_limit": -1})
    assert (wanted["NanoCpus"], wanted["Memory"], wanted["MemorySwap"]) == (500_000_000, 16 << 20, -1)
    assert wanted["DeviceRequests"] == [{"Driver": "", "Count": 2, "Capabilities": [["gpu"]]}]
    assert wanted["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}


def test_networks_and_modes() -> None:
    found = container(docker={"networks": ["one", "two"]})
    assert found["Networks"] == ["one", "two"]
    assert found["Config"]["HostConfig"]["NetworkMode"] == "one"
    assert found["Config"]["NetworkingConfig"] == {"EndpointsConfig": {"one": {}}}
    assert container(docker={"network_mode": "host"})["Config"]["HostConfig"] == {"NetworkMode": "host"}
    assert "NetworkMode" not in host()


def test_hosts_of_the_user_win() -> None:
    assert host(docker={"extra_hosts": {"host.docker.internal": "1.2.3.4", "db": "5.6.7.8"}})["ExtraHosts"] == [
        "db:5.6.7.8",
        "host.docker.internal:1.2.3.4",
    ]
    assert host(docker={"network_mode": "none", "extra_hosts": ["db:::1"]})["ExtraHosts"] == ["db:::1"]


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("a:b", "a:b"),
        ("/h:/c", "/h:/c"),
        ("/h:/c:ro", "/h:/c:ro"),
        ("/h:/c:ro,z", "/h:/c:ro,z"),
        ("/h:/c:rw,rshared", "/h:/c:rw,rshared"),
        ("named_volume:/x", "named_volume:/x"),
        ("named_volume:/x:nocopy", "named_volume:/x:nocopy"),
        (r"C:\p:/c", r"C:\p:/c"),
        (r"\\host\share:/c", r"\\host\share:/c"),
        ("./rel:/x", "/spec/rel:/x"),
        (".:/x", "/spec:/x"),
        ("../x:/y", "/x:/y"),
    ],
)
def test_volumes_as_d18(text: str, bind: str) -> None:
    assert parse_volume(text, "/spec").bind == bind


def test_an_anonymous_volume() -> None:
    assert container(docker={"volumes": ["/data"]})["Config"]["Volumes"] == {"/data": {}}


@pytest.mark.parametrize(
    "text",
    [
        "data",
        "",
        ":/c",
        "a:",
        "/h:rel",
        "rel/dir:/x",
        "~/x:/y",
        "$HOME/x:/y",
        "/h:/c:rw:extra",
        "/h:/c:rx",
        "/h:/c:ro,rw",
        "/h:/c:",
        "/h:/c:z,Z",
    ],
)
def test_bad_volumes_are_faults_with_their_place(text: str) -> None:
    (fault,) = faults(docker={"volumes": ["ok:/ok", text]})
    assert fault.startswith("runs.extract.docker.volumes[1]: ")


def test_sizes_are_of_one_grammar_and_compare_by_value() -> None:
    """Read fields of Docker's as powers of 1024, and ``resources`` as Kubernetes does."""
    for text in ("1e9", ".5Gi", "16Mi", "1G", "2g", "512m", 5_000_000):
        host(resources={"memory": text})
        host(docker={"mem_limit": text})
        host(docker={"create_options": {"shm_size": text}})
    assert host(resources={"memory": "1e9"})["Memory"] == host(resources={"memory": "1G"})["Memory"] == 10**9
    assert host(resources={"memory": ".5Gi"})["Memory"] == host(docker={"mem_limit": "512m"})["Memory"] == 512 << 20
    assert host(docker={"mem_limit": "1G"})["Memory"] == host(docker={"mem_limit": "1GiB"})["Memory"] == 1 << 30


def test_cpus_and_gpus() -> None:
    assert host(resources={"cpu": "1000m"}) == host(resources={"cpu": 1}) == host(resources={"cpu": "1.0"})
    assert host(resources={"gpu": "all"})["DeviceRequests"] == [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}]
    assert "DeviceRequests" not in host(resources={"gpu": 0})


@pytest.mark.parametrize(
    ("fields", "subject", "words"),
    [
        ({"image": None}, "image", "missing"),
        ({"image": "a:b:c"}, "image", "two tags"),
        ({"name": "a"}, "name", "two letters or digits"),
        ({"name": "é!"}, "name", "two letters or digits"),
        ({"name": "--"}, "name", "two letters or digits"),
        ({"image_pull_policy": "Sometimes"}, "image_pull_policy", "not a pull policy"),
        ({"command": []}, "command", "empty"),
        ({"working_dir": "rel"}, "working_dir", "absolute"),
        ({"env": {"A=B": "1"}}, "env.A=B", "not a name"),
        ({"env": {"A": {"secret_key_ref": {}}}}, "env.A", "only Kubernetes"),
        ({"labels": {"flowplan.dev/run-id": "x"}}, "labels.flowplan.dev/run-id", "own keys"),
        ({"resources": {"cpu": "many"}}, "resources.cpu", "CPUs"),
        ({"resources": {"gpu": "some"}}, "resources.gpu", "GPUs"),
        ({"resources": {"memory": "4gx"}}, "resources.memory", "amount of memory"),
        ({"resources": {"memory": "4g"}, "docker": {"mem_limit": "4g"}}, "docker.mem_limit", "both set"),
        ({"resources": {"gpu": "1.5"}}, "resources.gpu", "GPUs"),
        ({"docker": {"mem_limit": "1t"}}, "docker.mem_limit", "size"),
        ({"docker": {"memswap_limit": "1g"}}, "docker.memswap_limit", "needs mem_limit"),
        ({"docker": {"memswap_limit": "1g", "mem_limit": "2g"}}, "docker.memswap_limit", "below"),
        ({"docker": {"networks": ["a"], "network_mode": "host"}}, "docker.network_mode", "exclude"),
        ({"docker": {"networks": ["a", "a"]}}, "docker.networks", "twice"),
        ({"docker": {"extra_hosts": ["db"]}}, "docker.extra_hosts", "not a host"),
        ({"docker": {"auto_remove": True}, "retries": 1}, "docker.auto_remove", "exclude"),
        ({"docker": {"volumes": ["/a:/x", "/b:/x"]}}, "docker.volumes[1]", "twice"),
        ({"docker": {"registry_credentials": {"username": "u"}}}, "docker.registry_credentials", "password is missing"),
        ({"docker": {"create_options": {"shm_siz": 1}}}, "docker.create_options.shm_siz", 'did you mean "shm_size"'),
        (
            {"docker": {"create_options": {"HostConfig": {"Bind": []}}}},
            "docker.create_options.HostConfig.Bind",
            "unknown",
        ),
        (
            {"docker": {"create_options": {"HostConfig": {"Memory": 1}}}},
            "docker.create_options.HostConfig.Memory",
            "use docker.mem_limit",
        ),
        ({"docker": {"create_options": {"Image": "x"}}}, "docker.create_options.Image", "use image"),
        ({"docker": {"create_options": {"mem_limit": 1}}}, "docker.create_options.mem_limit", "use docker.mem_limit"),
        ({"docker": {"create_options": {"tty": "yes"}}}, "docker.create_options.tty", "true or false"),
        ({"docker": {"create_options": {"PidsLimit": True}}}, "docker.create_options.PidsLimit", "whole number"),
        (
            {"docker": {"create_options": {"user": "0", "User": "1"}}},
            "docker.create_options.User",
            "set twice",
        ),
        (
            {"docker": {"create_options": {"cpu_quota": 5}}, "resources": {"cpu": 1}},
            "docker.create_options.cpu_quota",
            "exclude",
        ),
    ],
)
def test_faults(fields: dict[str, Any], subject: str, words: str) -> None:
    (fault,) = [fault for fault in docker.check(run(**fields)) if words in f"{fault.message}{fault.hint}"]
    assert fault.subject == f"runs.extract.{subject}"
    with pytest.raises(InvalidInput):
        docker.render(run(**fields), IDENTITY)


def test_all_faults_at_once_with_positions() -> None:
    origins = {("image",): Origin("spec.yaml:7", "spec.yaml", 7, 12)}
    found = docker.check(run(origins, image="a:", docker={"mem_limit": "x", "volumes": ["y"]}))
    assert len(found) == 3
    assert str(found[0]).startswith("spec.yaml:7:12: ")


def test_origins_reach_the_leaves() -> None:
    origins = {("env", "B"): Origin("spec.yaml:9"), ("docker", "mem_limit"): Origin("spec.yaml:12")}
    found = docker.render(run(origins, env={"B": "1", "A": "2"}, docker={"mem_limit": "1g"}), IDENTITY).origins
    assert found["/Container/Config/Env/1"].text == "spec.yaml:9"
    assert found[HOST + "Memory"].text == "spec.yaml:12"


@pytest.mark.parametrize(
    ("path", "after", "effect"),
    [
        (HOST + "Memory", 5, "in_place"),
        (HOST + "Memory", ABSENT, "replace"),
        (HOST + "NanoCpus", 5, "in_place"),
        (HOST + "PidsLimit", ABSENT, "in_place"),
        (HOST + "RestartPolicy/MaximumRetryCount", 5, "in_place"),
        (HOST + "RestartPolicy", ABSENT, "in_place"),
        ("/Container/Name", "x", "in_place"),
        ("/Container/PullPolicy", "Always", "in_place"),
        ("/Container/Registry/Password", "x", "in_place"),
        ("/Container/Networks/1", "x", "in_place"),
        (HOST + "NetworkMode", "x", "replace"),
        (HOST + "ShmSize", 5, "replace"),
        (HOST + "Binds/0", "x", "replace"),
        ("/Container/Config/Image", "x", "replace"),
        ("/Container/Config/Env/0", "x", "replace"),
        ("/Container/Platform", "x", "replace"),
        ("/Container", ABSENT, "replace"),
    ],
)
def test_effects(path: str, after: Any, effect: str) -> None:
    found = docker.effect(path, 1, after)
    assert found.effect == effect
    assert found.rule


def test_equality_and_what_can_drift() -> None:
    assert docker.equal(HOST + "ExtraHosts", ["a", "b"], ["b", "a"])
    assert not docker.equal("/Container/Config/Cmd", ["a", "b"], ["b", "a"])
    assert docker.equal(HOST + "RestartPolicy", {"Name": ""}, {"Name": "no", "MaximumRetryCount": 0})
    assert docker.equal(HOST + "CapAdd", ["SYS_PTRACE", "CHOWN"], ["cap_chown", "CAP_SYS_PTRACE"])
    for name, none in (("PidsLimit", -1), ("CpuQuota", -1), ("Memory", 0), ("CpusetCpus", "")):
        assert docker.equal(HOST + name, none, ABSENT) and docker.equal(HOST + name, none, None)
    assert not docker.equal(HOST + "Init", False, ABSENT), "the Engine's own default may be another"
    assert not docker.equal("/Container/Config/Labels/a", "", ABSENT)
    assert not docker.equal("/Container/Config/Volumes/~1x", {}, ABSENT)
    objects = docker.render(run(docker={"mem_limit": "1g", "networks": ["a"]}, command=["x"]), IDENTITY).objects
    assert docker.comparable(objects) == {
        "Container": {"Name": "nightly-extract-1", "Networks": ["a"], "Config": {"HostConfig": {"Memory": 1 << 30}}}
    }


def test_a_run_with_tokens_keeps_them() -> None:
    token = "(sensitive env:X 0123456789abcdef)"
    config = container(env={"X": token}, working_dir=token)["Config"]
    assert (config["Env"], config["WorkingDir"]) == ([f"X={token}"], token)
