"""Completion in the real shells: what a key makes of a line, and that it neither writes nor complains nor takes long."""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from projects import FLOWPLAN, Project

from flowplan.cli import COMMANDS
from flowplan.commands.completion import Line, offers

SPEC = """\
flowplan: 1
project: nightly
variables:
  tag: {type: string, default: "1.4", description: Image tag.}
runs:
  extract: {provider: process, command: [echo, rows]}
  backfill:
    provider: process
    command: [echo, "${each.day}"]
    matrix: {day: ["2026-10-07", "2026-10-08"], note: ["it's so"]}
  load: {provider: process, command: ["true"], matrix: {day: ["2026-10-07", "2026-10-08"]}}
  computed: {provider: process, command: ["true"], matrix: {tag: "${var.tags}"}}
"""
KEY = "\x07"
"""Ctrl-G, which writes the line to the file ``line`` in the home directory."""
SHELLS = {
    "bash": (["bash", "--norc", "-i"], """bind -x '"\\C-g": printf %s "$READLINE_LINE" > ~/line'"""),
    "zsh": (["zsh", "-f", "-i"], "line() { print -rn -- $BUFFER > ~/line }; zle -N line; bindkey '^G' line"),
    "fish": (["fish", "--private", "-i"], "bind \\cg 'commandline > ~/line'"),
}
SETUP = {
    "bash": "source <(flowplan completion bash)",
    "zsh": "mkdir ~/f; flowplan completion zsh > ~/f/_flowplan; fpath=(~/f $fpath); autoload -Uz compinit; compinit -D",
    "fish": "set place ~/.config/fish/completions; mkdir -p $place; flowplan completion fish > $place/flowplan.fish",
}
"""As docs/commands.md says."""

pytestmark = pytest.mark.xdist_group("completion")


class Shell:
    """An interactive shell on a terminal of its own, in the directory of a project."""

    def __init__(self, name: str, directory: Path) -> None:
        command, show = SHELLS[name]
        self.name = name
        home = directory.parent / f"home-{name}"
        (home / ".local/share/fish/generated_completions").mkdir(parents=True)  # else fish reads all manuals first
        self.line = home / "line"
        env = {"PATH": f"{Path(FLOWPLAN).parent}:{os.environ['PATH']}", "HOME": str(home), "TERM": "xterm"}
        self.near, far = pty.openpty()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command], cwd=directory, env=env, stdin=far, stdout=far, stderr=far
        )
        os.close(far)
        self.said = b""
        self.type(f"{SETUP[name]}\r{show}\recho read''y\r")
        self.wait(lambda: b"ready\r\n" in self.said)

    def type(self, text: str) -> None:
        os.write(self.near, text.encode())

    def wait(self, condition: Callable[[], object]) -> None:
        """Read what the terminal shows until something is so."""
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, self.said
            if select.select([self.near], [], [], 0.05)[0]:
                self.said += os.read(self.near, 65536)

    def completed(self, text: str) -> str:
        """Return what a line has become after the key for completion."""
        self.line.unlink(missing_ok=True)
        self.type(f"{text}\t{KEY}")
        self.wait(lambda: self.line.exists() and self.line.read_text())
        self.type("\x15")  # an empty line for the next one
        return self.line.read_text().removesuffix("\n")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.near)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the directory of a project of which one run was recorded that its spec no longer has."""
    project = Project(tmp_path_factory.mktemp("completion"))
    project.write(SPEC.replace("extract", "gone").replace("  computed", "  x-computed").partition("  x-computed")[0])
    project.ok("apply", "--yes")
    project.ok("plan", "--out", "tonight")
    project.write(SPEC)
    (project.directory / "other.yaml").write_text(SPEC)
    (project.directory / "saved.json").write_text("{}")
    (project.directory / "notes.txt").write_text("")
    (project.directory / "directory").mkdir()
    yield project.directory
    project.run("destroy", "--yes")


@pytest.fixture(scope="module", params=SHELLS)
def shell(request: pytest.FixtureRequest, directory: Path) -> Iterator[Shell]:
    if shutil.which(request.param) is None:
        pytest.skip(f"needs {request.param} (not installed)")
    opened = Shell(request.param, directory)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("his", "history"),
        ("state rebu", "state rebuild"),
        ("plan --detai", "plan --detailed-exitcode"),
        ("status --format j", "status --format json"),
        ("plan --format=mark", "plan --format=markdown"),
        ("init --provider kub", "init --provider kubernetes"),
        ("plan --var ta", "plan --var tag="),
        ("logs ext", "logs extract"),
        ("logs gon", "logs gone"),
        ("logs 'load[day=2026-10-08", "logs 'load[day=2026-10-08]'"),
        ("logs backfill\\[day=2026-10-08", "logs 'backfill[day=2026-10-08,note=\"it'\\''s so\"]'"),
        ("apply sav", "apply saved.json"),
        ("apply toni", "apply tonight"),
        ("plan oth", "plan other.yaml"),
        ("init dire", "init directory/"),
    ],
)
def test_the_key_completes(shell: Shell, typed: str, expected: str) -> None:
    line = shell.completed(f"flowplan {typed}")
    done = subprocess.run([shell.name, "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["flowplan", *shlex.split(expected)], line
    assert line.endswith(" ") != line.rstrip().endswith(("=", "/")), "the next word begins, or this one goes on"


def test_a_shell_without_a_script_is_told(tmp_path: Path) -> None:
    result = Project(tmp_path).ok("completion", "zhs", code=7)
    assert 'did you mean "zsh"' in result.err


def offered(before: str, word: str = "") -> list[str]:
    return [offer.text for offer in offers(COMMANDS, before.split(), word)]


def test_what_is_offered(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)
    cells = [f'backfill[day=2026-10-0{day},note="it\'s so"]' for day in (7, 8)]
    loads = ["load", "load[day=2026-10-07]", "load[day=2026-10-08]"]
    assert offered("logs") == ["extract", "backfill", *cells, *loads, "computed", "gone"]
    assert offered("plan --target") == offered("logs extract") == offered("state mv") == offered("logs")
    assert offered("state mv extract") == offered("validate flowplan.yaml") == []
    assert offered("apply --rerun") == offered("logs")
    assert offered("status --state") == offered("plan --out")
    assert offered("plan --var") == ["tag="]
    assert offered("show --format") == ["text", "json", "markdown", "html"]
    assert offered("state")[:2] == ["list", "show"]
    assert {"plan", "state", "completion"} <= set(offered(""))
    assert {"--stream", "--no-stream", "-y"} <= set(offered("apply", "-"))
    assert offered("apply --yes") == ["directory/", "flowplan.yaml", "other.yaml", "saved.json", "tonight"]
    assert offered("show") == ["directory/", "saved.json", "tonight"]
    assert offered("plan") == ["directory/", "flowplan.yaml", "other.yaml"]
    assert offered("plan --out") == ["directory/", "flowplan.yaml", "notes.txt", "other.yaml", "saved.json", "tonight"]
    assert offered("nonsense") == []


def test_what_a_spec_includes_and_extends_is_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flowplan.yaml").write_text(
        "flowplan: 1\nproject: p\ninclude: [common.yaml]\nruns:\n  large: {extends: base, env: {A: b}}\n"
    )
    (tmp_path / "common.yaml").write_text(
        "variables: {size: {type: number, default: 1}}\nruns:\n  base: {provider: process, matrix: {n: [1, 2]}}\n"
    )
    assert offered("plan --target") == ["base", "base[n=1]", "base[n=2]", "large", "large[n=1]", "large[n=2]"]
    assert offered("plan --var") == ["size="]


def test_another_state_and_another_spec_are_looked_at(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory.parent)
    assert offered("logs") == []
    assert "gone" in offered(f"logs --state {directory}/.flowplan/state.db")
    assert "extract" in offered(f"plan {directory}/other.yaml --target")
    monkeypatch.setenv("FLOWPLAN_STATE", f"{directory}/.flowplan/state.db")
    assert "gone" in offered("logs")
    assert offered(f"plan {directory}/other.yaml --var") == ["tag="]


@pytest.mark.parametrize("spec", [None, "runs: [", "flowplan: 1\nruns: 5\n", "- 1", "runs: {a: {matrix: {b: 1}}}"])
def test_nothing_is_written_or_said(tmp_path: Path, spec: str | None) -> None:
    if spec is not None:
        (tmp_path / "flowplan.yaml").write_text(spec)
    for before in (["logs", ""], ["plan", "--var", ""], ["--state", "x.db", "logs", ""], ["plan", "no/such/"]):
        done = answered(tmp_path, *before)
        assert (done.returncode, done.stderr) == (0, "")
    assert {entry.name for entry in tmp_path.iterdir()} <= {"flowplan.yaml"}


def test_only_what_is_needed_is_loaded(directory: Path) -> None:
    done = answered(directory, "logs", "", command=[sys.executable, "-X", "importtime", "-m", "flowplan"])
    assert "backfill" in done.stdout
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert loaded & {"flowplan", "yaml"} == {"flowplan", "yaml"}
    assert not loaded & {"typer", "click", "rich", "pydantic", "docker", "kubernetes", "urllib3", "requests", "asyncio"}


def answered(
    directory: Path, *words: str, command: tuple[str, ...] | list[str] = (FLOWPLAN,)
) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "_FLOWPLAN_COMPLETE": "zsh", "DOCKER_HOST": "tcp://192.0.2.1:1", "KUBECONFIG": "/nowhere"}
    return subprocess.run(
        [*command, *words], check=False, cwd=directory, env=env, capture_output=True, text=True, timeout=60
    )


BREAKS = " \t\n\"'><=;|&(:"


@pytest.mark.parametrize(
    ("line", "candidate", "reply"),
    [
        ("flowplan logs ba", "backfill[day=1]", "backfill\\[day=1\\]"),
        ("flowplan logs 'ba", "backfill[day=1]", "backfill[day=1]"),
        ('flowplan logs "ba', 'backfill[note="a b"]', 'backfill[note=\\"a b\\"]'),
        ("flowplan logs 'ba", "backfill[note=it's]", ""),
        ("flowplan logs backfill\\[day=2", "backfill[day=20,n=1]", "20\\,n=1\\]".replace("\\,", ",")),
        ("flowplan plan --format=j", "--format=json", "json"),
        ("flowplan logs x", "backfill", ""),
        ("flowplan logs a\\ b", "a b c", "a\\ b\\ c"),
    ],
)
def test_bash_gets_the_part_that_it_replaces(line: str, candidate: str, reply: str) -> None:
    assert Line.read(line, BREAKS).reply(candidate) == reply
