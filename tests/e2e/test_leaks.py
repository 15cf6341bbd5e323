"""No canary that goes in where a secret is taken comes out anywhere: not printed, not stored, not listed, in no form."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import quote, quote_plus

import pytest
from conftest import FLOWPLAN, Project, Result, until
from projects import make_namespace

KEY = (
    "-----BEGIN KEY-----\n"
    + "\n".join(f"C4n4ryLine{n}xQ9zW{n}abcdefgh+/KLMNOPQRSTUVWXYZ01" for n in range(3))
    + "\nend\n"
)
CANARIES = {
    "PLAIN": "c4n4ry-plain/+=&x",
    "QUOTED": 'c4n4ry "quo\'ted" \\ $HOME `x`',
    "UNICODE": "c4n4ry-pässwörd-日本",
    "KEY": KEY.removesuffix("\n"),
    "PART": "c4n4ry-part-9f3e",
    "FROM_TEMPLATE": "c4n4ry-given-71",
    "ITEM": "c4n4ry-item-11",
    "FIELD": "c4n4ry-field:22",
    "SHORT": "q7z",
}
GIVEN = {
    "IN_PLAIN": CANARIES["PLAIN"],
    "IN_UNICODE": CANARIES["UNICODE"],
    "IN_SHORT": CANARIES["SHORT"],
    "FLOWPLAN_VAR_given": CANARIES["FROM_TEMPLATE"],
    "FLOWPLAN_VAR_items": json.dumps([CANARIES["ITEM"]]),
}
INPUTS = {"flowplan.yaml", "key.pem", "quoted.txt", "vars.yaml", "job.json"}
SCRIPT = r"""
encoded() { base64 | tr -d '\n'; echo; }
for name in PLAIN QUOTED UNICODE KEY PART FROM_TEMPLATE ITEM FIELD SHORT; do
  if [ $name = PART ]; then v=${URL#*:*:}; v=${v%@*}; else eval "v=\${$name}"; fi
  printf '%s\n' "$v"; printf 'user:%s.\n' "$v" >&2; printf '%s' "$v" | base64
  for before in '' u us user: ; do printf '%s%s@host' "$before" "$v" | encoded; done
  json=$(printf '%s' "$v" | sed 's/\\/\\\\/g; s/"/\\"/g' | awk 'NR > 1 { printf "\\n" } { printf "%s", $0 }')
  printf '{"password": "%s"}\n' "$json"
  printf '%s\n' "$v" | sed 's/%/%25/g; s/ /%20/g; s/"/%22/g; s/+/%2B/g; s#/#%2F#g; s/=/%3D/g; s/&/%26/g; s/:/%3A/g; s/\$/%24/g; s/`/%60/g; s/\\/%5C/g; s/'"'"'/%27/g'
  half=${v%????????}; printf '%s' "$half"; sleep 0.05; printf '%s\n' "${v#"$half"}"
done
for size in LONG; do head -c $size /dev/zero | tr '\0' x; printf '%s end\n' "$PLAIN"; done
echo "all told"
sleep HOLD
exit 3
"""
"""Prints every secret plain, in base64 alone and inside longer texts, as JSON, in a URL, in two writes, across a cut."""
REDACTED = 70
"""How often at least a secret is to be redacted in what the script prints."""
SPEC = """\
flowplan: 1
project: PROJECT
variables:
  part: {type: string, sensitive: true}
  given: {type: string, sensitive: true}
  items: {type: list, sensitive: true}
  fields: {type: map, sensitive: true}
runs:
  tells:
    provider: ENGINE
    command: COMMAND
    template: job.json
    variables: {given: "${var.given}"}
    env:
      PLAIN: {from_env: IN_PLAIN}
      UNICODE: {from_env: IN_UNICODE}
      SHORT: {from_env: IN_SHORT}
      QUOTED: {from_file: quoted.txt}
      KEY: {from_file: key.pem}
      URL: "https://user:${var.part}@host/"
      ITEM: "${var.items[0]}"
      FIELD: "${var.fields.a}"
  unstartable:
    provider: ENGINE
    FIRST: ["/${var.part}"]
MORE"""
TEMPLATE = {
    "job_configuration": {"command": "{{ command }}", "env": {"FROM_TEMPLATE": "{{ given }}"}},
    "variables": {"type": "object", "properties": {"command": {}, "given": {"type": "string"}, "env": {}}},
}
MORE = {
    "process": "",
    "docker": "defaults: {image: 'busybox:1.35'}\n",
    "kubernetes": "defaults: {image: 'busybox:1.35', kubernetes: {namespace: PROJECT}}\n",
}


def shapes(secret: str) -> set[str]:
    """Every text that would give a secret away; made here, and not by what is tested."""
    found = {secret}
    for text in {secret, *(line for line in secret.splitlines() if len(line) > 5)}:
        data = text.encode()
        found |= {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]}
        found |= {quote(text), quote(text, safe=""), quote_plus(text), quote(text, safe="").lower()}
        for offset in range(3) if len(data) > 3 else ():
            whole = base64.b64encode(b"\0" * offset + data + b"\0" * 3).decode()
            start, end = (4 * offset + 2) // 3, (offset + len(data)) * 8 // 6
            found |= {whole[start:end], whole[start:end].translate(str.maketrans("+/", "-_"))}
    return {text for text in found if len(text) > 3}


def leaks(text: str, allowed: str = "") -> list[str]:
    """Return the canaries that can be read in a text, with what is around them."""
    places = [
        (name, text.find(shape)) for name, value in CANARIES.items() for shape in shapes(value) if shape not in allowed
    ]
    words = [("SHORT", m.start()) for m in re.finditer(rf"(?<![\w+/=-]){CANARIES['SHORT']}(?![\w+/=-])", text)]
    return [f"{name}: {text[max(0, at - 40) : at + 60]!r}" for name, at in [*places, *words] if at >= 0]


def test_the_shapes_are_right() -> None:
    assert leaks("user " + base64.b64encode(b"ab:c4n4ry-plain/+=&x@host").decode())
    assert leaks("word q7z here") and not leaks("wordq7zhere")


@dataclass
class Onlooker:
    """Looks all the time at what everybody may see: process lists, temporary files, and the project's files."""

    project: Project
    seen: dict[str, str] = field(default_factory=dict)
    _known: dict[Path, tuple[int, int]] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.look()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            self.look()

    def look(self) -> None:
        for path in [*Path("/proc").glob("[0-9]*/cmdline"), *self.project.directory.rglob("*")]:
            with contextlib.suppress(OSError):
                found = path.stat()
                mark = (found.st_mtime_ns, found.st_size)
                if path.name in INPUTS or path.is_dir() or self._known.get(path) == mark:
                    continue
                self._known[path] = mark
                for leak in leaks(path.read_bytes().decode("utf-8", "replace")):
                    self.seen.setdefault(str(path), leak)
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                command = path.with_name("cmdline").read_bytes()
                if b"supervisor.py" in command and str(self.project.directory).encode() in command:
                    for leak in leaks(path.read_bytes().decode("utf-8", "replace")):
                        self.seen.setdefault(f"environment of {command!r}", leak)


def written(project: Project, engine: str, *, hold: str) -> str:
    name = f"leaks-{uuid.uuid4().hex[:8]}"
    long = {"process": 1048570, "docker": 1048570, "kubernetes": 262134}[engine]
    script = SCRIPT.replace("LONG", str(long)).replace("HOLD", hold)
    spec = SPEC.replace("COMMAND", json.dumps(["sh", "-c", script])).replace("MORE", MORE[engine])
    spec = spec.replace("FIRST", "command" if engine == "process" else "entrypoint")
    project.write(spec.replace("ENGINE", engine).replace("PROJECT", name))
    project.write(json.dumps(TEMPLATE), "job.json")
    project.write(KEY, "key.pem")
    project.write(CANARIES["QUOTED"] + "\n", "quoted.txt")
    project.write(json.dumps({"part": CANARIES["PART"], "fields": {"a": CANARIES["FIELD"]}}), "vars.yaml")
    (project.directory / "tmp").mkdir()
    project.env |= {"TMPDIR": str(project.directory / "tmp"), "FLOWPLAN_DEBUG": "1"}
    return name


def tell_everything(project: Project) -> list[tuple[str, Result]]:
    """Every command that shows something of a run, without any secret at hand."""
    looks = [
        ["logs", "tells"], ["logs", "tells", "--format", "json"], ["logs", "tells", "--tail", "3"], ["events"], ["events", "--format", "json"],
        ["status"], ["status", "--format", "json"], ["state", "show", "tells"], ["state", "show", "unstartable"], ["state", "pull"], ["state", "list"],
        ["show"], ["show", "--format", "json"], ["show", "--format", "markdown"], ["show", "--explain", "--full"], ["plan", "--var-file", "vars.yaml"],
    ]  # fmt: skip
    return [(" ".join(look), project.run(*look)) for look in looks]


@pytest.mark.parametrize(
    "engine",
    [
        "process",
        pytest.param("docker", marks=pytest.mark.docker),
        pytest.param("kubernetes", marks=pytest.mark.kubernetes),
    ],
)
def test_no_secret_is_told_or_kept(project: Project, engine: str, namespace: Namespace) -> None:
    name = written(project, engine, hold="0")
    namespace.make(name, engine)
    plans = [
        ["plan"], ["plan", "--explain", "--full"], ["plan", "--format", "json"], ["plan", "--format", "markdown"],
        ["plan", "--out", "out.json", "--json-into", "into.json", "--summary-file", "summary.md"], ["plan", "--no-refresh"],
    ]  # fmt: skip
    files = ["--var-file", "vars.yaml"]
    with Onlooker(project) as onlooker:
        told = [
            (" ".join(p), project.run(*p, *files, env=GIVEN)) for p in (plans if engine == "process" else plans[:1])
        ]
        told.append(("apply", project.run("apply", "--yes", *files, "flowplan.yaml", env=GIVEN, timeout=120)))
        told += tell_everything(project)
        told.append(("destroy", project.run("destroy", "--yes")))
        told.append(("state pull", project.run("state", "pull", "--with-key")))
    codes = {what: result.code for what, result in told}
    assert codes["plan"] == 0 and codes["apply"] == 3, told
    everything = dict(told)
    assert "all told" in everything["logs tells"].out and "all told" in everything["apply"].out
    assert everything["logs tells"].out.count("(sensitive)") > REDACTED
    assert "unstartable" in everything["apply"].err and "(sensitive)" in everything["status --format json"].out
    found = {what: leaks(r.out + r.err) for what, r in told}
    assert {what: some for what, some in found.items() if some} == {}
    assert onlooker.seen == {}


@pytest.mark.parametrize(
    "engine",
    [
        "process",
        pytest.param("docker", marks=pytest.mark.docker),
        pytest.param("kubernetes", marks=pytest.mark.kubernetes),
    ],
)
def test_a_flowplan_that_was_given_no_secret_tells_none(project: Project, engine: str, namespace: Namespace) -> None:
    """The run is started by one command, and followed, ended and told about by others, which know nothing."""
    name = written(project, engine, hold="3")
    namespace.make(name, engine)
    with Onlooker(project) as onlooker:
        started = project.run(
            "apply", "--yes", "--detach", "--var-file", "vars.yaml", "--target", "tells", "flowplan.yaml", env=GIVEN
        )
        assert started.code == 0, started.err
        until(lambda: project.status()["tells"]["status"] in ("running", "failed"))
        told = [("logs --follow", project.run("logs", "tells", "--follow")), ("watch", project.run("watch"))]
        told += [(word, project.run(*word.split())) for word in ("status --format json", "logs tells", "state pull")]
    assert "all told" in told[0][1].out and told[0][1].out.count("(sensitive)") > REDACTED
    assert leaks(started.out + started.err) == []
    found = {what: leaks(r.out + r.err) for what, r in told}
    assert {what: some for what, some in found.items() if some} == {}
    assert onlooker.seen == {}


class Namespace:
    """A namespace for one test."""

    def __init__(self) -> None:
        self.name = ""

    def make(self, name: str, engine: str) -> None:
        if engine != "kubernetes":
            return
        from flowplan.providers.kubernetes.connection import endpoint
        from flowplan.providers.kubernetes.requests import Api

        self.name = name
        with contextlib.closing(Api(endpoint({}, Path("/")))) as api:
            make_namespace(api, name)

    def remove(self) -> None:
        if self.name:
            subprocess.run(
                ["kubectl", "delete", "namespace", self.name, "--wait=false"], check=True, capture_output=True
            )


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = Namespace()
    yield made
    made.remove()


# -- errors ------------------------------------------------------------------------------------------------------------

SECRET = "c4n4ry-in-an-error"
BARE = "flowplan: 1\nproject: leaks\nvariables: {s: {VARIABLE}}\nruns: {a: {provider: process, command: [x], env: {A: '${var.s}'}}}\n"


@pytest.mark.parametrize(
    ("variable", "file"),
    [
        ("sensitive: true, type: number", f"s: {SECRET}"),
        ("sensitive: true, type: bool", f"s: {SECRET}"),
        ("sensitive: true, type: list", f"s: {SECRET}"),
        ("sensitive: true, type: map", f"s: [{SECRET}]"),
        ("sensitive: true, pattern: '[a-z]+'", f"s: {SECRET}"),
        ("sensitive: true, enum: [a, b]", f"s: {SECRET}"),
        (f"sensitive: true, type: number, default: {SECRET}", "{}"),
        (f"sensitive: true, enum: [{SECRET}], default: x", "{}"),
        ("sensitive: true", SECRET),
        ("sensitive: true", f"[{SECRET}]"),
        ("sensitive: true", f"s: {SECRET}\ns: {SECRET}"),
        ("sensitive: true", f's: "{SECRET}'),
        ("sensitive: true, type: map", f"s: {{a: {SECRET}}}"),
    ],
)
def test_a_faulty_variable_is_not_quoted(project: Project, variable: str, file: str) -> None:
    project.write(BARE.replace("VARIABLE", variable))
    project.write(file, "vars.yaml")
    for command in (["validate"], ["plan"], ["apply", "--yes", "flowplan.yaml"]):
        told = project.ok(*command, "--var-file", "vars.yaml", code=7)
        assert SECRET not in told.out + told.err and told.err.startswith("error: ")


@pytest.mark.parametrize(
    "runs",
    [
        "{provider: docker, image: x, docker: {registry_credentials: {username: u, password: 918273645546372819}}}",
        "{provider: docker, image: x, docker: {registry_credentials: {username: u, password: [918273645546372819]}}}",
    ],
)
def test_a_faulty_password_is_not_quoted(project: Project, runs: str) -> None:
    project.write(f"flowplan: 1\nproject: leaks\nruns: {{a: {runs}}}\n")
    assert "918273645546372819" not in project.ok("validate", code=7).err


@pytest.mark.parametrize("token", [SECRET + "\\n", SECRET + "ü", SECRET + "\\u20ac"])
def test_a_token_that_cannot_be_sent_is_not_quoted(project: Project, token: str) -> None:
    contexts = "contexts: [{name: c, context: {cluster: c, user: u}}], current-context: c"
    users = f'users: [{{name: u, user: {{token: "{token}"}}}}]'
    config = (
        f'{{apiVersion: v1, clusters: [{{name: c, cluster: {{server: "http://127.0.0.1:1"}}}}], {contexts}, {users}}}'
    )
    project.write(
        f"flowplan: 1\nproject: leaks\nproviders: {{k: {{type: kubernetes, kubeconfig: {config}}}}}\nruns: {{a: {{provider: k, image: x}}}}\n"
    )
    told = project.ok("plan", code=1)
    assert "characters that no token has" in told.err and SECRET not in told.out + told.err


def test_a_defect_shows_no_values(project: Project) -> None:
    """Whatever is raised wherever, only its kind and its place are told, with FLOWPLAN_DEBUG too."""
    project.write(BARE.replace("VARIABLE", "sensitive: true"))
    program = (
        "import sys, flowplan.planning as planning\n"
        f"def broken(*given, **more): raise ZeroDivisionError('{SECRET}')\n"
        "planning.make_changes = broken\nsys.argv[1:] = ['plan']\nfrom flowplan.__main__ import main\nmain()\n"
    )
    environment = {**os.environ, "FLOWPLAN_DEBUG": "1", "FLOWPLAN_VAR_s": SECRET}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=project.directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr and SECRET not in done.stdout + done.stderr


def test_no_core_file_holds_a_secret(project: Project) -> None:
    """flowplan and its supervisor leave none; a run may, as before."""
    script = 'grep -h "core file" /proc/self/limits /proc/$(tail -n 1 .flowplan/state.runs/*/started.json | sed "s/.*supervisor\\": {\\"pid\\": //; s/,.*//")/limits; sleep 60'
    project.write(
        f"flowplan: 1\nproject: leaks\nruns: {{a: {{provider: process, command: [sh, -c, {json.dumps(script)}], env: {{A: {{from_env: IN}}}}}}}}\n"
    )
    with_cores = ["sh", "-c", 'ulimit -Sc "$(ulimit -Hc)"; exec "$@"', "sh", FLOWPLAN, "apply", "--yes"]
    applying = subprocess.Popen(
        with_cores, cwd=project.directory, env={**os.environ, "IN": SECRET}, stdout=subprocess.PIPE, text=True
    )
    assert applying.stdout
    of_the_run, of_the_supervisor = (applying.stdout.readline().split()[6] for _ in range(2))
    own = Path(f"/proc/{applying.pid}/limits").read_text()
    applying.send_signal(signal.SIGINT)
    applying.communicate()
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    assert of_the_run == ("unlimited" if most == resource.RLIM_INFINITY else str(most))
    assert int(of_the_supervisor) <= 1 and re.search(r"core file size +[01] ", own)
